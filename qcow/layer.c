// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * layer.c - one open image, whatever its format: open, close, facts, dispatch.
 *
 * Invariant: exactly one of the two formats is behind a layer; what a format cannot
 * do is an error here, never a silent nothing.
 */
#include "qcow/layer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow/qcow2.h"
#include "qcow/raw.h"

struct layer {
	/* set at open and never changed */
	enum layer_format format;
	struct file *file;
	struct qcow2 *q; /* NULL: raw */
	struct raw raw;

	char *node_name;
};

const char *layer_format_name(enum layer_format f)
{
	switch (f) {
	case FORMAT_RAW:
		return "raw";
	case FORMAT_QCOW2:
		return "qcow2";
	default:
		return "unset";
	}
}

enum layer_format layer_format_parse(const char *s)
{
	if (s && !strcmp(s, "raw"))
		return FORMAT_RAW;
	if (s && !strcmp(s, "qcow2"))
		return FORMAT_QCOW2;
	return FORMAT_UNSET;
}

/* --- open and close --- */

static int co_open_format(struct reactor *r, struct layer *l, const struct layer_opts *o,
			  struct error *e)
{
	int rc = 0;

	l->format = o->format;
	if (l->format == FORMAT_UNSET)
		rc = co_layer_probe(l->file, &l->format, e);
	if (rc < 0)
		return rc;
	if (l->format == FORMAT_RAW)
		return raw_open(&l->raw, l->file, o, e);
	if (o->raw_offset || o->raw_size)
		return error_set(
			e, EINVAL,
			"'%s': \"offset\" and \"size\" are for raw images, and this one is qcow2",
			file_path(l->file));
	return co_qcow2_open(r, l->file, o, &l->q, e);
}

int co_layer_open(struct reactor *r, const char *path, const struct layer_opts *o,
		  struct layer **out, struct error *e)
{
	struct file_opts fo = {.writable = o->writable, .cache = o->cache, .no_lock = o->no_lock};
	struct layer *l = calloc(1, sizeof(*l));
	int rc;

	*out = NULL;
	if (!l)
		return error_set(e, ENOMEM, "cannot open '%s': out of memory", path);
	rc = file_open(r, path, &fo, &l->file, e);
	if (!rc && o->node_name && layer_set_node_name(l, o->node_name) < 0)
		rc = error_set(e, ENOMEM, "cannot open '%s': out of memory", path);
	if (!rc)
		rc = co_open_format(r, l, o, e);
	if (rc < 0) {
		file_close(l->file);
		free(l->node_name);
		free(l);
		return rc;
	}
	*out = l;
	return 0;
}

int co_layer_close(struct layer *l, struct error *e)
{
	int rc = 0;

	if (!l)
		return 0;
	if (l->q) {
		rc = co_qcow2_close(l->q, e);
	} else if (l->raw.writable || l->raw.fault) {
		rc = co_raw_flush(&l->raw);
		if (rc < 0)
			error_set_errno(
				e, -rc,
				"cannot flush '%s': changes since the last flush may be lost",
				file_path(l->file));
	}
	file_close(l->file);
	free(l->node_name);
	free(l);
	return rc;
}

/* --- facts --- */

struct qcow2 *layer_qcow2(const struct layer *l)
{
	return l->q;
}

enum layer_format layer_format(const struct layer *l)
{
	return l->format;
}

const char *layer_path(const struct layer *l)
{
	return file_path(l->file);
}

struct file *layer_file(const struct layer *l)
{
	return l->file;
}

struct file *layer_data_file(const struct layer *l)
{
	return l->q ? l->q->data_file : l->file;
}

uint32_t layer_cluster_size(const struct layer *l)
{
	return l->q ? l->q->cluster_size : RAW_CLUSTER;
}

uint32_t layer_unit(const struct layer *l)
{
	return l->q ? l->q->unit : RAW_UNIT;
}

/* Like QEMU we do not show the part of a sector at the end of a qcow2 disk. */
uint64_t layer_size(const struct layer *l)
{
	return l->q ? l->q->hdr.h.size & ~511ull : l->raw.size;
}

const char *layer_node_name(const struct layer *l)
{
	return l->node_name;
}

int layer_set_node_name(struct layer *l, const char *name)
{
	char *copy = strdup(name);

	if (!copy)
		return -ENOMEM;
	free(l->node_name);
	l->node_name = copy;
	return 0;
}

bool layer_writable(const struct layer *l)
{
	return l->q ? l->q->writable : l->raw.writable;
}

const char *layer_fault(const struct layer *l)
{
	return l->q ? l->q->fault : l->raw.fault;
}

const char *layer_backing_name(const struct layer *l)
{
	return l->q ? l->q->hdr.backing_name : NULL;
}

const char *layer_backing_format(const struct layer *l)
{
	return l->q ? l->q->hdr.backing_format : NULL;
}

const char *layer_data_file_name(const struct layer *l)
{
	return l->q && l->q->external_data ? l->q->hdr.data_file : NULL;
}

/* --- tables and changes --- */

int co_layer_extents(struct layer *l, uint64_t guest_off, uint64_t bytes, struct extent *out,
		     unsigned max)
{
	return l->q ? co_qcow2_extents(l->q, guest_off, bytes, out, max)
		    : co_raw_extents(&l->raw, guest_off, bytes, out, max);
}

int co_layer_read_compressed(struct layer *l, uint64_t guest_off, void *buf)
{
	assert(l->q);
	return co_qcow2_read_compressed(l->q, guest_off, buf);
}

/* Raw layers report every byte as in place: nobody has a reason to allocate there. */
int co_layer_alloc(struct layer *l, uint64_t guest_off, uint64_t bytes, struct layer_alloc *a)
{
	assert(l->q);
	return l->q->writable ? co_qcow2_alloc(l->q, guest_off, bytes, a) : -EROFS;
}

int co_layer_link(struct layer *l, struct layer_alloc *a, uint64_t data_off, uint64_t data_bytes)
{
	assert(l->q);
	return co_qcow2_link(l->q, a, data_off, data_bytes);
}

void layer_alloc_abort(struct layer *l, struct layer_alloc *a)
{
	assert(l->q);
	qcow2_alloc_abort(l->q, a);
}

int co_layer_zero(struct layer *l, uint64_t guest_off, uint64_t bytes, bool unmap, bool has_backing)
{
	if (!layer_writable(l))
		return -EROFS;
	return l->q ? co_qcow2_zero(l->q, guest_off, bytes, unmap, has_backing)
		    : co_raw_zero(&l->raw, guest_off, bytes, unmap);
}

int co_layer_discard(struct layer *l, uint64_t guest_off, uint64_t bytes, bool has_backing,
		     bool to_backing)
{
	if (!layer_writable(l))
		return -EROFS;
	return l->q ? co_qcow2_discard(l->q, guest_off, bytes, has_backing, to_backing)
		    : co_raw_discard(&l->raw, guest_off, bytes);
}

int co_layer_flush(struct layer *l)
{
	return l->q ? co_qcow2_flush(l->q) : co_raw_flush(&l->raw);
}

int co_layer_write_compressed(struct layer *l, uint64_t guest_off, const void *buf)
{
	if (!l->q)
		return -ENOTSUP;
	return l->q->writable ? co_qcow2_write_compressed(l->q, guest_off, buf) : -EROFS;
}

int co_layer_set_backing(struct layer *l, const char *name, const char *format, struct error *e)
{
	if (!l->q)
		return error_set(e, ENOTSUP,
				 "'%s' is a raw image, which cannot name a backing file",
				 layer_path(l));
	if (!l->q->writable)
		return error_set(e, EROFS,
				 "image '%s' is open read-only: its backing file cannot be changed",
				 layer_path(l));
	return co_qcow2_set_backing(l->q, name, format, e);
}

uint64_t layer_reserved_bytes(const struct layer *l)
{
	return l->q ? qcow2_reserved_bytes(l->q) : 0;
}
