/* SPDX-License-Identifier: GPL-2.0-or-later */
/* facts.c - see facts.h. */
#include "tools/facts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow/chain.h"
#include "tools/image_info.h"
#include "tools/json_util.h"
#include "tools/qmp_client.h"
#include "tools/rundir.h"

struct reactor_call {
	struct reactor *r;
	int (*fn)(struct reactor *r, void *arg);
	void *arg;
};

static int reactor_call_run(void *arg)
{
	struct reactor_call *call = arg;

	return call->fn(call->r, call->arg);
}

int with_reactor(int (*fn)(struct reactor *r, void *arg), void *arg, struct error *e)
{
	struct reactor_config cfg = { .engine = ENGINE_URING, .depth = 64 };
	struct reactor_call call = { .fn = fn, .arg = arg };
	int ret;

	if (reactor_new(&cfg, &call.r, NULL) < 0) {
		cfg.engine = ENGINE_AIO;
		ret = reactor_new(&cfg, &call.r, e);
		if (ret < 0)
			return ret;
	}
	ret = reactor_run_co(call.r, reactor_call_run, &call);
	reactor_free(call.r);
	return ret;
}

struct image_call {
	const struct chain_conf *conf;
	json_t **out;
	struct error *e;
};

static int co_image_facts(struct reactor *r, void *arg)
{
	struct image_call *call = arg;
	struct chain_opts o = {
		.image = call->conf->image,
		.format = call->conf->format,
		.backing_format = call->conf->backing_format == FORMAT_UNSET
			? NULL : layer_format_name(call->conf->backing_format),
		.read_only = true,
		.no_lock = true,
		.cache = FILE_CACHE_WRITEBACK,
		.map_cache = 1u << 20,
		.meta_cache = 1u << 20,
		.max_requests = 1,
	};
	struct chain *c;
	json_t *facts;
	int ret;

	ret = co_chain_open(r, &o, &c, call->e);
	if (ret < 0)
		return ret;
	facts = json_object();
	put_text(facts, "image", layer_path(chain_active(c)));
	put_int(facts, "size", chain_size(c));
	put_int(facts, "depth", chain_depth(c));
	put(facts, "layers", layer_facts(c));
	*call->out = facts;
	return co_chain_close(c, call->e);
}

int image_facts(const struct chain_conf *c, json_t **out, struct error *e)
{
	struct image_call call = { .conf = c, .out = out, .e = e };
	int ret;

	*out = NULL;
	ret = with_reactor(co_image_facts, &call, e);
	if (ret < 0) {
		json_decref(*out);
		*out = NULL;
	}
	return ret;
}

/* What follows from the layers, and the flags that reports show as one word. */
static void derive(json_t *f)
{
	const json_t *layers = json_object_get(f, "layers");
	size_t n = json_array_size(layers);
	bool active = get_bool(f, "active");
	char attr[] = "------";
	uint64_t disk = 0;

	for (size_t i = 0; i < n; i++)
		disk += get_int(json_array_get(layers, i), "disk");
	put_int(f, "disk", disk);
	if (n)
		put_text(f, "format", get_text(json_array_get(layers, n - 1), "format"));
	attr[0] = get_bool(f, "read-only") ? 'r' : 'w';
	attr[1] = active ? 'a' : '-';
	attr[2] = get_bool(f, "in-use") ? 'o' : '-';
	attr[3] = active ? get_text(f, "kind")[0] : '-';
	attr[4] = get_bool(f, "dm") ? 'm' : '-';
	attr[5] = get_text(f, "fault")[0] ? 'x' : '-';
	put_text(f, "attr", attr);
}

static json_t *active_facts(const char *name, struct error *e)
{
	struct qmp_peer *p;
	json_t *facts;

	if (qmp_connect(name, &p, e) < 0)
		return NULL;
	facts = qmp_execute(p, "x-qchain-info", NULL, e);
	qmp_disconnect(p);
	return facts;
}

static json_t *inactive_facts(const char *name, struct error *e)
{
	struct chain_conf conf;
	json_t *facts = NULL;

	conf_init(&conf, name);
	if (conf_load(&conf, name, e) == 0)
		image_facts(&conf, &facts, e);
	if (!facts)
		facts = json_object();
	if (!json_object_get(facts, "image"))
		put_text(facts, "image", conf.image);
	put_text(facts, "kind", device_kind_name(conf.device));
	put_text(facts, "engine", engine_name(conf.engine));
	put_text(facts, "cache", cache_name(conf.cache));
	put_bool(facts, "read-only", conf.read_only);
	conf_free(&conf);
	return facts;
}

json_t *chain_facts(const char *name, struct error *e)
{
	bool defined = conf_exists(name);
	pid_t pid = rundir_owner(name);
	json_t *facts = NULL;

	if (!defined && !pid) {
		error_set(e, ENOENT, "there is no such chain; define it with qccreate");
		return NULL;
	}
	if (pid) {
		facts = active_facts(name, e);
		if (!facts)
			facts = json_object();
		put_int(facts, "pid", (uint64_t)pid);
	} else {
		facts = inactive_facts(name, e);
	}
	put_text(facts, "name", name);
	put_bool(facts, "active", pid != 0);
	put_bool(facts, "defined", defined);
	if (e->code && !get_text(facts, "fault")[0])
		put_text(facts, "fault", e->msg);
	derive(facts);
	return facts;
}

int chain_names(char ***out, struct error *e)
{
	char **defined = NULL, **served = NULL, **all;
	size_t nd = 0, ns = 0, n = 0, i = 0, k = 0;
	int ret;

	ret = conf_list(&defined, e);
	if (!ret)
		ret = rundir_list(&served, e);
	if (ret < 0) {
		conf_list_free(defined);
		return ret;
	}
	while (defined[nd])
		nd++;
	while (served[ns])
		ns++;
	all = calloc(nd + ns + 1, sizeof(*all));
	if (!all)
		abort();
	while (i < nd || k < ns) {         /* both are sorted: merge */
		int order = i == nd ? 1 : k == ns ? -1 : strcmp(defined[i], served[k]);

		if (order <= 0)
			all[n++] = defined[i++];
		else
			all[n++] = served[k++];
		if (order == 0)
			free(served[k++]);
	}
	free(defined);
	free(served);
	*out = all;
	return 0;
}
