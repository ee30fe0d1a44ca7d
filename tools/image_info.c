/* SPDX-License-Identifier: GPL-2.0-or-later */
/* image_info.c - see image_info.h. */
#include "tools/image_info.h"

#include <errno.h>
#include <sys/stat.h>

#include "qcow/qcow2.h"
#include "tools/json_util.h"

static uint64_t file_usage(const struct file *f)
{
	struct stat st;

	if (fstat(file_fd(f), &st) < 0)
		return 0;
	return (uint64_t)st.st_blocks * 512;
}

uint64_t layer_disk_usage(const struct layer *l)
{
	uint64_t bytes = file_usage(layer_file((struct layer *)l));
	struct file *data = layer_data_file(l);

	return data == layer_file(l) ? bytes : bytes + file_usage(data);
}

static json_t *qcow2_specific(const struct layer *l)
{
	const struct qcow2 *q = layer_qcow2(l);
	const struct qcow2_disk_header *h = &q->hdr.h;
	json_t *data = json_object(), *specific = json_object();

	put_text(data, "compat", h->version == 2 ? "0.10" : "1.1");
	put_text(data, "compression-type",
		 (h->incompatible_features & QCOW2_INCOMPAT_COMPRESSION) && h->compression_type ? "zstd"
											    : "zlib");
	if (h->version > 2) {
		put_bool(data, "lazy-refcounts", h->compatible_features & QCOW2_COMPAT_LAZY);
		put_bool(data, "corrupt", h->incompatible_features & QCOW2_INCOMPAT_CORRUPT);
		put_bool(data, "extended-l2", q->extended_l2);
	}
	put_int(data, "refcount-bits", 1u << h->refcount_order);
	if (q->external_data) {
		put_text(data, "data-file", layer_data_file_name(l));
		put_bool(data, "data-file-raw", q->raw_external);
	}
	put_text(specific, "type", "qcow2");
	put(specific, "data", data);
	return specific;
}

static json_t *image_info(const struct chain *c, unsigned i)
{
	struct layer *l = chain_layer(c, i);
	json_t *info = json_object();
	bool dirty = false;

	put_text(info, "filename", layer_path(l));
	put_text(info, "format", layer_format_name(layer_format(l)));
	put_int(info, "virtual-size", layer_size(l));
	put_int(info, "actual-size", layer_disk_usage(l));
	if (layer_format(l) == FORMAT_QCOW2) {
		put_int(info, "cluster-size", layer_cluster_size(l));
		put(info, "format-specific", qcow2_specific(l));
		dirty = layer_qcow2(l)->hdr.h.incompatible_features & QCOW2_INCOMPAT_DIRTY;
	}
	put_bool(info, "dirty-flag", dirty);
	if (layer_backing_name(l)) {
		put_text(info, "backing-filename", layer_backing_name(l));
		if (i > 0)
			put_text(info, "full-backing-filename", layer_path(chain_layer(c, i - 1)));
		put_text(info, "backing-filename-format", layer_backing_format(l));
	}
	return info;
}

/* Takes over the reference to image. */
static json_t *block_device_info(const struct chain *c, unsigned i, json_t *image, bool flat)
{
	static const char *const limits[] = { "bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr" };
	struct layer *l = chain_layer(c, i);
	json_t *info = json_object(), *cache = json_object();

	put_text(info, "node-name", layer_node_name(l));
	put_text(info, "drv", layer_format_name(layer_format(l)));
	put_text(info, "file", layer_path(l));
	put_bool(info, "ro", !layer_writable(l));
	put_bool(info, "active", true);
	put_bool(info, "encrypted", false);
	put_text(info, "backing_file", layer_backing_name(l));
	put_int(info, "backing_file_depth", flat ? 0 : i);
	put_text(info, "detect_zeroes", "off");
	/* No limits are set: QEMU says 0 for "none". */
	for (size_t k = 0; k < sizeof(limits) / sizeof(limits[0]); k++)
		put_int(info, limits[k], 0);
	put_int(info, "write_threshold", 0);
	put_bool(cache, "writeback", true);
	put_bool(cache, "direct", file_is_direct(layer_data_file(l)));
	put_bool(cache, "no-flush", false);
	put(info, "cache", cache);
	put(info, "image", image);
	return info;
}

json_t *block_device_infos(const struct chain *c, bool flat)
{
	json_t *infos = json_array(), *below = NULL;

	for (unsigned i = 0; i < chain_depth(c); i++) {
		json_t *image = image_info(c, i);

		if (below && !flat)
			put(image, "backing-image", json_incref(below));
		below = image;
		json_array_append_new(infos, block_device_info(c, i, image, flat));
	}
	return infos;
}

static json_t *layer_fact(const struct chain *c, unsigned i)
{
	struct layer *l = chain_layer(c, i);
	json_t *fact = json_object();
	bool active = i + 1 == chain_depth(c);

	put_int(fact, "index", i);
	put_text(fact, "node-name", layer_node_name(l));
	put_text(fact, "file", layer_path(l));
	put_text(fact, "format", layer_format_name(layer_format(l)));
	put_text(fact, "role", active ? "active" : i == 0 ? "base" : "overlay");
	put_int(fact, "size", layer_size(l));
	put_int(fact, "cluster-size", layer_cluster_size(l));
	put_int(fact, "unit", layer_unit(l));
	put_int(fact, "disk", layer_disk_usage(l));
	put_text(fact, "backing", layer_backing_name(l));
	put_text(fact, "backing-format", layer_backing_format(l));
	put_text(fact, "data-file", layer_data_file_name(l));
	put_bool(fact, "read-only", !layer_writable(l));
	put_text(fact, "fault", layer_fault(l));
	return fact;
}

json_t *layer_facts(const struct chain *c)
{
	json_t *facts = json_array();

	for (unsigned i = 0; i < chain_depth(c); i++)
		json_array_append_new(facts, layer_fact(c, i));
	return facts;
}
