// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * device.c - a chain as a block device: a server's node, device-mapper over it, links to the outermost.
 *
 * Order of making: node, mapping, links; of taking away: the reverse. Invariant: a
 * step that fails takes away the steps before it, so there is a whole device or none.
 */
#include "dm/device.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dm/dmsetup.h"
#include "dm/names.h"
#include "dm/server.h"
#include "dm/sysfs.h"
#include "io/log.h"

struct device {
	/* set at start and never changed */
	struct chain *chain;
	char *name;
	enum device_kind kind;
	const struct server_ops *ops;
	bool read_only;

	/* NULL, or what exists now */
	void *server;
	char *mapper;                  /* /dev/mapper/qchain-NAME */
	struct names names;            /* target NULL: none */
};

static const char *const kind_names[] = {
	[DEVICE_AUTO] = "auto",
	[DEVICE_UBLK] = "ublk",
	[DEVICE_FUSE] = "fuse",
	[DEVICE_NONE] = "none",
};

int device_kind_parse(const char *s, enum device_kind *out)
{
	for (unsigned i = 0; i < sizeof(kind_names) / sizeof(kind_names[0]); i++) {
		if (!strcmp(s, kind_names[i])) {
			*out = (enum device_kind)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *device_kind_name(enum device_kind k)
{
	assert((unsigned)k < sizeof(kind_names) / sizeof(kind_names[0]));
	return kind_names[k];
}

static const struct server_ops *ops_of(enum device_kind k)
{
	return k == DEVICE_UBLK ? &ublk_server_ops : &fuse_server_ops;
}

enum device_kind device_best(struct error *e)
{
	struct error why = ERROR_INIT;

	if (ublk_server_ops.usable(&why) == 0)
		return DEVICE_UBLK;
	why = (struct error)ERROR_INIT;
	if (fuse_server_ops.usable(&why) == 0)
		return DEVICE_FUSE;
	if (why.code == EPERM)
		error_set(e, EPERM, "%s", why.msg);
	else
		error_set(e, ENODEV, "this kernel can make no block device for a chain: neither ublk "
			  "(modprobe ublk_drv) nor FUSE and loop (modprobe fuse loop)");
	return DEVICE_NONE;
}

/* --- helper-thread calls --- */

struct mapping_call {
	struct device *d;
	struct error *e;
};

static int map_call(void *arg)
{
	struct mapping_call *c = arg;

	return dmsetup_create(c->d->name, device_node(c->d), c->d->read_only, &c->d->mapper, c->e);
}

static int unmap_call(void *arg)
{
	struct mapping_call *c = arg;

	return dmsetup_remove(c->d->name, c->e);
}

static int remap_call(void *arg)
{
	struct mapping_call *c = arg;

	return dmsetup_resize(c->d->name, device_node(c->d), c->d->read_only, c->e);
}

struct claim_call {
	struct device *d;
	int number;
	bool strict;
	struct error *e;
};

/* It looks behind other daemons' links, which may ask their FUSE mounts. */
static int claim_call(void *arg)
{
	struct claim_call *c = arg;
	struct device *d = c->d;

	return names_claim(&d->names, d->name, c->number, c->strict,
			   d->mapper ? d->mapper : device_node(d), c->e);
}

static int co_claim(struct device *d, int number, bool strict, struct error *e)
{
	struct claim_call c = { .d = d, .number = number, .strict = strict, .e = e };

	return co_worker_run(chain_reactor(d->chain), claim_call, &c);
}

static int co_mapping(struct device *d, int (*fn)(void *), struct error *e)
{
	struct mapping_call c = { .d = d, .e = e };

	return co_worker_run(chain_reactor(d->chain), fn, &c);
}

/* --- start --- */

static void device_free(struct device *d)
{
	assert(!d->server && !d->names.target);
	free(d->mapper);
	free(d->name);
	free(d);
}

static int co_try(struct device *d, enum device_kind kind, const struct server_opts *so,
		  struct error *e)
{
	int rc = ops_of(kind)->usable(e);

	if (rc < 0)
		return rc;
	rc = ops_of(kind)->co_start(so, &d->server, e);
	if (rc < 0)
		return rc;
	d->kind = kind;
	d->ops = ops_of(kind);
	return 0;
}

static int co_start_server(struct device *d, const struct device_opts *o, struct error *e)
{
	struct error why = ERROR_INIT;
	struct server_opts so = {
		.chain = d->chain,
		.name = d->name,
		.run_dir = o->run_dir,
		.queue_depth = o->queue_depth ? o->queue_depth : SERVER_DEPTH_DEFAULT,
	};

	if (so.queue_depth > SERVER_DEPTH_MAX)
		return error_set(e, EINVAL, "a queue depth of %u is more than the most, %u",
				 so.queue_depth, SERVER_DEPTH_MAX);
	if (o->kind != DEVICE_AUTO)
		return co_try(d, o->kind, &so, e);
	if (device_best(e) == DEVICE_NONE)
		return -(e && e->code ? e->code : ENODEV);
	if (co_try(d, DEVICE_UBLK, &so, &why) == 0)
		return 0;
	if (why.code == EBUSY)
		return error_set(e, why.code, "%s", why.msg);
	if (why.code != ENODEV && why.code != ENOTSUP)
		log_warn("%s; falling back to FUSE and loop", why.msg);
	return co_try(d, DEVICE_FUSE, &so, e);
}

int co_device_start(struct chain *c, const struct device_opts *o, struct device **out, struct error *e)
{
	struct device *d;
	int rc;

	assert(o->kind != DEVICE_NONE && o->name && o->run_dir);
	*out = NULL;
	if (!chain_size(c))
		return error_set(e, EINVAL, "chain '%s' has size 0, which no block device can have",
				 o->name);
	d = calloc(1, sizeof(*d));
	if (!d || !(d->name = strdup(o->name))) {
		free(d);
		return error_set(e, ENOMEM, "out of memory");
	}
	d->chain = c;
	d->read_only = chain_read_only(c);
	rc = co_start_server(d, o, e);
	if (rc < 0)
		goto err_free;
	if (!o->no_dm && dmsetup_present()) {
		rc = co_mapping(d, map_call, e);
		if (rc < 0)
			goto err_server;
	}
	rc = co_claim(d, o->number, o->number_strict, e);
	if (rc < 0)
		goto err_map;
	*out = d;
	return 0;
err_map:
	if (d->mapper)
		co_mapping(d, unmap_call, NULL);
err_server:
	d->ops->co_stop(d->server, true, NULL);
	d->server = NULL;
err_free:
	device_free(d);
	return rc;
}

/* --- facts --- */

const char *device_path(const struct device *d)
{
	return d->names.by_number;
}

const char *device_name_path(const struct device *d)
{
	return d->names.by_name;
}

const char *device_node(const struct device *d)
{
	return d->ops->node(d->server);
}

enum device_kind device_kind(const struct device *d)
{
	return d->kind;
}

bool device_has_dm(const struct device *d)
{
	return d->mapper != NULL;
}

int device_number(const struct device *d)
{
	return d->names.number;
}

bool device_in_use(const struct device *d, char *who, size_t who_len)
{
	char real[4096], dm[64] = "";

	/* a process shows the path behind links, the mapping its kernel name (no udev: no link) */
	if (d->mapper && realpath(d->mapper, real) && block_in_use(real, NULL, who, who_len))
		return true;
	if (d->mapper && block_kernel_name(d->mapper, dm, sizeof(dm)) < 0)
		dm[0] = '\0';
	return block_in_use(device_node(d), dm, who, who_len);
}

/* --- stop, resize --- */

int co_device_stop(struct device *d, bool force, struct error *e)
{
	bool had_mapper = d->mapper != NULL;
	int number = d->names.number, rc;
	char who[256];

	if (!force && device_in_use(d, who, sizeof(who)))
		return error_set(e, EBUSY, "chain '%s': %s is in use: %s", d->name, device_path(d),
				 who);
	/* before the node: its number may be another's at once, and the links would name that */
	names_release(&d->names);
	if (d->mapper) {
		rc = co_mapping(d, unmap_call, e);
		if (rc < 0 && !force)
			goto busy;
		if (rc < 0)
			log_warn("%s stays without a server: someone has it open", d->mapper);
		free(d->mapper);
		d->mapper = NULL;
	}
	rc = d->ops->co_stop(d->server, force, e);
	if (rc == -EBUSY)
		goto busy;
	d->server = NULL;
	device_free(d);
	return 0;
busy:
	/* as it was before */
	if (had_mapper && !d->mapper && co_mapping(d, map_call, NULL) < 0)
		log_error("chain '%s': cannot restore its device-mapper device", d->name);
	if (co_claim(d, number, false, NULL) < 0)
		log_error("chain '%s': cannot restore its links to %s", d->name, device_node(d));
	return -EBUSY;
}

int co_device_resized(struct device *d, struct error *e)
{
	int rc = d->ops->co_resize(d->server, e);

	if (rc == 0 && d->mapper)
		rc = co_mapping(d, remap_call, e);
	return rc;
}
