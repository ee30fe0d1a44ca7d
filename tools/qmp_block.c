/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp_block.c - QMP queries about the chain and its layers, in the shapes of qapi/block-core.json. */
#include "tools/daemon.h"
#include "tools/image_info.h"
#include "tools/json_util.h"

static json_t *query_named_block_nodes(struct qmp_call *call)
{
	struct daemon *d = call->owner;

	return block_device_infos(d->chain, qmp_arg_bool(call, "flat", false));
}

/* The chain is one BlockInfo, named after it; "qdev" is the device that stands for the guest's. */
static json_t *query_block(struct qmp_call *call)
{
	struct daemon *d = call->owner;
	json_t *block = json_object(), *list = json_array(), *infos = block_device_infos(d->chain, false);

	put_text(block, "device", d->o->conf.name);
	if (d->device)
		put_text(block, "qdev", device_path(d->device));
	put_text(block, "type", "unknown");
	put_bool(block, "removable", false);
	put_bool(block, "locked", false);
	put_text(block, "io-status", chain_fault(d->chain) ? "failed" : "ok");
	put(block, "inserted", json_incref(json_array_get(infos, json_array_size(infos) - 1)));
	json_decref(infos);
	json_array_append_new(list, block);
	return list;
}

/* Counters that are kept; the schema's others (times, merges, failures) are not measured and read 0, as in
 * qemu-storage-daemon. */
static json_t *block_stats(const struct chain_stats *st, uint64_t highest)
{
	static const char *const unmeasured[] = {
		"unmap_bytes", "rd_total_time_ns", "wr_total_time_ns", "flush_total_time_ns",
		"unmap_total_time_ns", "rd_merged", "wr_merged", "unmap_merged",
		"failed_rd_operations", "failed_wr_operations", "failed_flush_operations",
		"failed_unmap_operations", "invalid_rd_operations", "invalid_wr_operations",
		"invalid_flush_operations", "invalid_unmap_operations", "zone_append_bytes",
		"zone_append_operations", "zone_append_total_time_ns", "zone_append_merged",
		"failed_zone_append_operations", "invalid_zone_append_operations",
	};
	json_t *stats = json_object();

	put_int(stats, "rd_operations", st->reads);
	put_int(stats, "wr_operations", st->writes + st->zeroes);
	put_int(stats, "rd_bytes", st->read_bytes);
	put_int(stats, "wr_bytes", st->write_bytes);
	put_int(stats, "flush_operations", st->flushes);
	put_int(stats, "unmap_operations", st->discards);
	put_int(stats, "wr_highest_offset", highest);
	for (size_t i = 0; i < sizeof(unmeasured) / sizeof(unmeasured[0]); i++)
		put_int(stats, unmeasured[i], 0);
	put_bool(stats, "account_invalid", false);
	put_bool(stats, "account_failed", false);
	put(stats, "timed_stats", json_array());
	return stats;
}

static json_t *node_stats(const struct chain *c, unsigned i, bool guest)
{
	struct chain_stats st = { 0 };
	struct layer *l = chain_layer(c, i);
	json_t *entry = json_object();

	if (guest)
		chain_stats(c, &st);
	put_text(entry, "node-name", layer_node_name(l));
	put(entry, "stats", block_stats(&st, file_size(layer_data_file(l))));
	return entry;
}

/* By device: one entry with the chain of "backing" below it. By node: a flat list. */
static json_t *query_blockstats(struct qmp_call *call)
{
	struct daemon *d = call->owner;
	unsigned depth = chain_depth(d->chain);
	json_t *list = json_array(), *entry = NULL;

	for (unsigned i = 0; i < depth; i++) {
		json_t *node = node_stats(d->chain, i, i + 1 == depth);

		if (qmp_arg_bool(call, "query-nodes", false)) {
			json_array_append_new(list, node);
			continue;
		}
		if (entry)
			put(node, "backing", entry);
		entry = node;
	}
	if (entry) {
		put_text(entry, "device", d->o->conf.name);
		if (d->device)
			put_text(entry, "qdev", device_path(d->device));
		json_array_append_new(list, entry);
	}
	return list;
}

static const struct qmp_arg flat_args[] = {
	{ "flat", QMP_BOOL, true, NULL }, { 0 }
};

static const struct qmp_arg blockstats_args[] = {
	{ "query-nodes", QMP_BOOL, true, NULL }, { 0 }
};

const struct qmp_command qmp_block_commands[] = {
	{ "query-block", query_block, NULL },
	{ "query-blockstats", query_blockstats, blockstats_args },
	{ "query-named-block-nodes", query_named_block_nodes, flat_args },
	{ 0 }
};
