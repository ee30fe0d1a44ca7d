/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp_misc.c - QMP commands about the daemon itself. */
#include <unistd.h>

#include "tools/daemon.h"
#include "tools/image_info.h"
#include "tools/json_util.h"

static json_t *query_version(struct qmp_call *call)
{
	return qmp_version();
}

static json_t *query_commands(struct qmp_call *call)
{
	return qmp_command_names(call->server);
}

static json_t *query_name(struct qmp_call *call)
{
	struct daemon *d = call->owner;
	json_t *info = json_object();

	put_text(info, "name", d->o->conf.name);
	return info;
}

/* A chain whose active layer failed still serves reads, as a guest stopped by an I/O error does not. */
static json_t *query_status(struct qmp_call *call)
{
	json_t *info = json_object();

	put_text(info, "status", "running");
	put_bool(info, "running", true);
	return info;
}

/* Refuses at once when the device is in use, so that the caller learns why. */
static json_t *quit(struct qmp_call *call)
{
	struct daemon *d = call->owner;
	char who[256] = "";

	if (d->device && device_in_use(d->device, who, sizeof(who)))
		return qmp_fail(call, QMP_GENERIC, "device %s is in use%s%s; unmount or close it first",
				device_path(d->device), who[0] ? ": " : "", who);
	daemon_stop(d, false);
	return json_object();
}

static json_t *stats_info(const struct chain *c)
{
	struct chain_stats st;
	json_t *info = json_object();

	chain_stats(c, &st);
	put_int(info, "reads", st.reads);
	put_int(info, "writes", st.writes);
	put_int(info, "zeroes", st.zeroes);
	put_int(info, "discards", st.discards);
	put_int(info, "flushes", st.flushes);
	put_int(info, "read-bytes", st.read_bytes);
	put_int(info, "write-bytes", st.write_bytes);
	put_int(info, "fast-path", st.fast_path);
	put_int(info, "slow-path", st.slow_path);
	put_int(info, "map-hits", st.map_hits);
	put_int(info, "map-builds", st.map_builds);
	put_int(info, "map-evictions", st.map_evictions);
	put_int(info, "map-bytes", st.map_bytes);
	return info;
}

static void put_device(json_t *info, const struct device *dev)
{
	char who[256] = "";
	bool in_use = device_in_use(dev, who, sizeof(who));

	put_text(info, "device", device_path(dev));
	put_text(info, "device-link", device_name_path(dev));
	put_text(info, "node", device_node(dev));
	put_int(info, "number", (uint64_t)device_number(dev));
	put_bool(info, "dm", device_has_dm(dev));
	put_bool(info, "in-use", in_use);
	if (in_use)
		put_text(info, "used-by", who);
}

/*
 * What the qc commands show and QMP has no place for. Without a device "device", "node",
 * "number" and the like are absent.
 */
static json_t *x_qchain_info(struct qmp_call *call)
{
	struct daemon *d = call->owner;
	const struct chain_conf *conf = &d->o->conf;
	json_t *info = json_object();

	put_text(info, "name", conf->name);
	put_int(info, "pid", (uint64_t)getpid());
	put_text(info, "image", layer_path(chain_active(d->chain)));
	put_text(info, "kind", device_kind_name(d->device ? device_kind(d->device) : DEVICE_NONE));
	if (d->device)
		put_device(info, d->device);
	put_text(info, "engine", engine_name(reactor_engine(d->r)));
	put_text(info, "cache", cache_name(conf->cache));
	put_bool(info, "read-only", chain_read_only(d->chain));
	put_text(info, "fault", chain_fault(d->chain));
	put_int(info, "size", chain_size(d->chain));
	put_int(info, "depth", chain_depth(d->chain));
	put(info, "stats", stats_info(d->chain));
	put(info, "layers", layer_facts(d->chain));
	return info;
}

const struct qmp_command qmp_misc_commands[] = {
	{ "query-version", query_version, NULL },
	{ "query-commands", query_commands, NULL },
	{ "query-name", query_name, NULL },
	{ "query-status", query_status, NULL },
	{ "x-qchain-info", x_qchain_info, NULL },
	{ "quit", quit, NULL },
	{ 0 }
};
