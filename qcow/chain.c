// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chain.c - opens a chain from its active image down, closes it, and says what it is.
 *
 * Invariant: only the active layer is ever writable; every layer below it is
 * found by a name in a header (or a json: name), and its format is never guessed.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/log.h"
#include "qcow/backing.h"
#include "qcow/chain_priv.h"

#define META_CACHE_DEFAULT (16ull << 20)

/* --- open --- */

struct file_id {
	dev_t dev;
	ino_t ino;
};

struct opening {
	struct chain *c;
	const struct chain_opts *o;
	struct error *e;
	/* from the active layer down */
	struct layer *layers[MAP_MAX_DEPTH];
	struct file_id ids[MAP_MAX_DEPTH];
	unsigned depth;
};

static void owner_drain(void *arg)
{
	struct chain *c = arg;

	co_generation_drain(&c->data);
}

static void owner_failed(void *arg, const char *why)
{
	struct chain *c = arg;

	log_error("image '%s' takes no more writes: %s", layer_path(c->active), why);
}

/* The tables of the active layer get half; the others are read once to build the map. */
static uint64_t meta_share(const struct chain_opts *o, bool active)
{
	uint64_t all = o->meta_cache ? o->meta_cache : META_CACHE_DEFAULT;
	uint64_t share = active ? all / 2 : all / 128;

	return share < (64u << 10) ? 64u << 10 : share;
}

static int check_loop(const struct opening *op, const char *path, const struct file_id *id)
{
	for (unsigned i = 0; i < op->depth; i++) {
		if (op->ids[i].dev != id->dev || op->ids[i].ino != id->ino)
			continue;
		return error_set(op->e, ELOOP, "image '%s' names '%s' as its backing file, which "
				 "is image '%s' above it: a loop; point it at the right file with: "
				 "qcimg rebase -u -F FORMAT -b FILE %s",
				 layer_path(op->layers[op->depth - 1]), path,
				 layer_path(op->layers[i]), layer_path(op->layers[op->depth - 1]));
	}
	return 0;
}

/* Looks before opening: a loop would otherwise show as a lock conflict with ourselves. */
static int check_backing(const struct opening *op, const char *path)
{
	const char *parent = layer_path(op->layers[op->depth - 1]);
	struct file_id id;
	struct stat st;

	if (op->depth == MAP_MAX_DEPTH)
		return error_set(op->e, ELOOP, "image '%s' has more than %u layers below it; merge "
				 "some with: qcimg commit", op->o->image, MAP_MAX_DEPTH - 1);
	if (stat(path, &st) < 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return error_set(op->e, ENOENT, "image '%s' names the backing file '%s', which "
					 "does not exist; restore it, or name its new place with: "
					 "qcimg rebase -u -F FORMAT -b FILE %s", parent, path, parent);
		return error_set_errno(op->e, errno, "cannot look at '%s', the backing file of "
				       "image '%s'", path, parent);
	}
	id = (struct file_id){ st.st_dev, st.st_ino };
	return check_loop(op, path, &id);
}

static int co_open_one(struct opening *op, const struct image_ref *ref, enum layer_format format)
{
	bool active = !op->depth;
	struct layer_opts lo = {
		.format = format,
		.writable = active && !op->o->read_only,
		.no_lock = op->o->no_lock,
		.cache = op->o->cache,
		.meta_cache = meta_share(op->o, active),
		.raw_offset = ref->raw_offset,
		.raw_size = ref->raw_size,
		.data_file = ref->data_file,
		.owner = { owner_drain, owner_failed, op->c },
	};
	struct layer *l;
	struct stat st;
	int rc;

	if (ref->raw_offset % 512)
		return error_set(op->e, EINVAL, "image '%s': \"offset\": %llu is not a multiple of 512",
				 ref->path, (unsigned long long)ref->raw_offset);
	rc = co_layer_open(op->c->r, ref->path, &lo, &l, op->e);
	if (rc < 0)
		return rc;
	if (fstat(file_fd(layer_file(l)), &st) < 0) {
		rc = error_set_errno(op->e, errno, "cannot look at image '%s'", ref->path);
		co_layer_close(l, NULL);
		return rc;
	}
	op->layers[op->depth] = l;
	op->ids[op->depth++] = (struct file_id){ st.st_dev, st.st_ino };
	return 0;
}

/* The format of the backing file of `parent`: its name (json:), the header, the option; never the file. */
static int backing_format(const struct opening *op, const struct layer *parent,
			  const struct image_ref *ref, enum layer_format *out)
{
	const char *name = layer_backing_format(parent);

	*out = ref->format;
	if (*out != FORMAT_UNSET)
		return 0;
	if (!name)
		name = op->o->backing_format;
	if (!name)
		return error_set(op->e, EINVAL, "image '%s' names the backing file '%s' but not its "
				 "format; add it with: qcimg rebase -u -F FORMAT -b %s %s, or pass "
				 "--backing-format", layer_path(parent), layer_backing_name(parent),
				 layer_backing_name(parent), layer_path(parent));
	*out = layer_format_parse(name);
	if (*out == FORMAT_UNSET)
		return error_set(op->e, ENOTSUP, "image '%s' names the backing format '%s', which is "
				 "not known here (raw and qcow2 are); convert the backing file and "
				 "name it with: qcimg rebase -u -F FORMAT -b FILE %s",
				 layer_path(parent), name, layer_path(parent));
	return 0;
}

/* Finds what lies below the layer opened last: *found false at the base. Takes `ref` over and fills it anew. */
static int next_ref(struct opening *op, struct image_ref *ref, bool *found)
{
	struct layer *l = op->layers[op->depth - 1];
	struct image_ref *named = ref->backing;
	bool explicit = ref->has_backing;
	const char *name = layer_backing_name(l);

	ref->backing = NULL;
	image_ref_free(ref);
	memset(ref, 0, sizeof(*ref));
	*found = false;
	if (explicit) {
		if (named) {
			*ref = *named;
			free(named);
			*found = true;
		}
		return 0;
	}
	if (op->o->no_backing || !name)
		return 0;
	*found = true;
	return image_ref_parse(name, layer_path(l), ref, op->e);
}

static int co_open_layers(struct opening *op)
{
	struct image_ref ref = { 0 };
	enum layer_format format;
	bool found = true;
	int rc;

	rc = image_ref_parse(op->o->image, NULL, &ref, op->e);
	if (rc < 0)
		return rc;
	rc = co_open_one(op, &ref, ref.format != FORMAT_UNSET ? ref.format : op->o->format);
	while (!rc) {
		rc = next_ref(op, &ref, &found);
		if (rc < 0 || !found)
			break;
		rc = backing_format(op, op->layers[op->depth - 1], &ref, &format);
		if (!rc)
			rc = check_backing(op, ref.path);
		if (!rc) {
			const char *parent = layer_path(op->layers[op->depth - 1]);

			rc = co_open_one(op, &ref, format);
			if (rc < 0)
				error_prefix(op->e, "backing file of '%s'", parent);
		}
	}
	image_ref_free(&ref);
	return rc;
}

static int name_layers(struct chain *c)
{
	for (unsigned i = 0; i < c->depth; i++) {
		char name[32];
		int rc;

		snprintf(name, sizeof(name), "layer-%u", i);
		rc = layer_set_node_name(c->layers[i], name);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int assemble(struct chain *c, const struct opening *op)
{
	int rc;

	c->layers = calloc(op->depth, sizeof(*c->layers));
	if (!c->layers)
		return -ENOMEM;
	c->depth = op->depth;
	for (unsigned i = 0; i < c->depth; i++)
		c->layers[i] = op->layers[c->depth - 1 - i];
	c->active = c->layers[c->depth - 1];
	c->size = layer_size(c->active);
	c->cluster = layer_cluster_size(c->active);
	c->unit = layer_unit(c->active);
	c->read_only = op->o->read_only;
	c->map = map_new(c->r, c->size, op->o->map_cache);
	if (!c->map)
		return -ENOMEM;
	for (unsigned i = 0; i < c->depth; i++) {
		rc = map_push_top(c->map, c->layers[i]);
		if (rc < 0)
			return rc;
	}
	rc = name_layers(c);
	return rc < 0 ? rc : chain_requests_init(c);
}

static void chain_free(struct chain *c)
{
	chain_requests_fini(c);
	map_free(c->map);
	free(c->layers);
	free(c);
}

int co_chain_open(struct reactor *r, const struct chain_opts *o, struct chain **out, struct error *e)
{
	struct opening *op = calloc(1, sizeof(*op));
	struct chain *c = calloc(1, sizeof(*c));
	int rc;

	*out = NULL;
	if (!op || !c) {
		rc = error_set(e, ENOMEM, "cannot open '%s': out of memory", o->image);
		free(op);
		free(c);
		return rc;
	}
	c->r = r;
	c->max_requests = o->max_requests ? o->max_requests : REQUESTS_DEFAULT;
	*op = (struct opening){ .c = c, .o = o, .e = e };
	rc = co_open_layers(op);
	if (!rc) {
		rc = assemble(c, op);
		if (rc < 0)
			error_set_errno(e, -rc, "cannot open '%s'", o->image);
	}
	if (rc < 0) {
		for (unsigned i = 0; i < op->depth; i++)
			co_layer_close(op->layers[i], NULL);
		chain_free(c);
	} else {
		*out = c;
	}
	free(op);
	return rc;
}

int co_chain_close(struct chain *c, struct error *e)
{
	int rc = 0;

	co_chain_drain(c);
	assert(!c->running && list_empty(&c->queued));
	for (unsigned i = c->depth; i-- > 0;) {
		struct error le = ERROR_INIT;
		int err = co_layer_close(c->layers[i], &le);

		if (err < 0 && !rc) {
			rc = err;
			error_set(e, -err, "%s", le.msg);
		}
	}
	chain_free(c);
	return rc;
}

/* --- facts --- */

uint64_t chain_size(const struct chain *c)
{
	return c->size;
}

bool chain_read_only(const struct chain *c)
{
	return chain_writable(c) < 0;
}

const char *chain_fault(const struct chain *c)
{
	return layer_fault(c->active);
}

unsigned chain_depth(const struct chain *c)
{
	return c->depth;
}

struct layer *chain_layer(const struct chain *c, unsigned i)
{
	assert(i < c->depth);
	return c->layers[i];
}

struct layer *chain_active(const struct chain *c)
{
	return c->active;
}

struct layer *chain_find(const struct chain *c, const char *node_or_path)
{
	for (unsigned i = c->depth; i-- > 0;) {
		const char *node = layer_node_name(c->layers[i]);

		if (node && !strcmp(node, node_or_path))
			return c->layers[i];
	}
	for (unsigned i = c->depth; i-- > 0;)
		if (!strcmp(layer_path(c->layers[i]), node_or_path))
			return c->layers[i];
	return NULL;
}

struct reactor *chain_reactor(const struct chain *c)
{
	return c->r;
}

void chain_limits(const struct chain *c, struct chain_limits *out)
{
	*out = (struct chain_limits){
		.logical_block = 512,
		.physical_block = 4096,
		.optimal_io = c->cluster,
		.discard_granularity = c->unit < 4096 ? 4096 : c->unit,
		.max_transfer = MAX_TRANSFER,
	};
}

void chain_stats(const struct chain *c, struct chain_stats *out)
{
	*out = c->stats;
	out->map_hits = c->map->hits;
	out->map_builds = c->map->builds;
	out->map_evictions = c->map->evictions;
	out->map_bytes = c->map->bytes;
}

/* --- status --- */

/* What the layers say at guest_off, walked from the top so that a whole disk costs no map. */
static int co_status_once(struct chain *c, uint64_t guest_off, uint64_t bytes,
			  struct chain_extent *out)
{
	*out = (struct chain_extent){ guest_off, bytes, EXT_UNALLOCATED, -1, UINT64_MAX };
	for (unsigned i = c->depth; i-- > 0;) {
		struct layer *l = c->layers[i];
		struct extent x;
		int n;

		if (guest_off >= layer_size(l)) {   /* zeros, as if the short layer said so */
			out->kind = EXT_ZERO;
			out->layer = i;
			return 0;
		}
		n = co_layer_extents(l, guest_off, out->bytes, &x, 1);
		if (n < 0)
			return n;
		assert(n == 1 && x.guest_off <= guest_off);
		x.bytes -= guest_off - x.guest_off;
		if (x.bytes < out->bytes)
			out->bytes = x.bytes;
		if (x.kind == EXT_UNALLOCATED)
			continue;
		out->kind = x.kind;
		out->layer = i;
		if (x.host_off != UINT64_MAX && (x.kind == EXT_DATA || x.kind == EXT_ZERO))
			out->host_off = x.host_off + (guest_off - x.guest_off);
		return 0;
	}
	return 0;
}

static bool status_continues(const struct chain_extent *a, const struct chain_extent *b)
{
	if (a->kind != b->kind || a->layer != b->layer)
		return false;
	if (a->host_off == UINT64_MAX || b->host_off == UINT64_MAX)
		return a->host_off == b->host_off;
	return a->host_off + a->bytes == b->host_off;
}

int co_chain_status(struct chain *c, uint64_t guest_off, uint64_t bytes, struct chain_extent *out)
{
	uint64_t end;
	int rc;

	if (guest_off >= c->size || !bytes)
		return -EINVAL;
	end = bytes < c->size - guest_off ? guest_off + bytes : c->size;
	rc = co_status_once(c, guest_off, end - guest_off, out);
	while (!rc && guest_off + out->bytes < end) {
		struct chain_extent next;
		uint64_t pos = guest_off + out->bytes;

		rc = co_status_once(c, pos, end - pos, &next);
		if (rc < 0 || !status_continues(out, &next))
			break;
		out->bytes += next.bytes;
	}
	return rc;
}
