// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * qcow2_open.c - what an open qcow2 image needs: geometry, data file, L1 table, feature bits.
 *
 * Invariant: an image that is open for writing has no dirty bit left from a
 * crash, no autoclear bit of a feature that we do not keep up, and all of its
 * files locked.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/log.h"
#include "qcow/backing.h"
#include "qcow/qcow2.h"

/* Bits whose promise our writes keep. */
#define AUTOCLEAR_KEPT QCOW2_AUTOCLEAR_RAW_DATA

static void set_geometry(struct qcow2 *q)
{
	const struct qcow2_disk_header *h = &q->hdr.h;

	q->external_data = h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE;
	q->raw_external = h->autoclear_features & QCOW2_AUTOCLEAR_RAW_DATA;
	q->extended_l2 = h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2;
	q->cluster_bits = h->cluster_bits;
	q->cluster_size = 1u << h->cluster_bits;
	q->refcount_order = h->refcount_order;
	q->sub_bits = q->extended_l2 ? 5 : 0;
	q->unit = q->cluster_size >> q->sub_bits;
	q->l2_entry_bytes = q->extended_l2 ? 16 : 8;
	q->l2_bits = h->cluster_bits - (q->extended_l2 ? 4 : 3);
	q->l1_size = h->l1_size;
}

static int data_file_path(struct qcow2 *q, const struct layer_opts *o, struct image_ref *ref,
			  struct error *e)
{
	const char *image = file_path(q->file);
	const char *name = o->data_file ? o->data_file : q->hdr.data_file;
	int rc;

	if (!name || !*name)
		return error_set(e, EINVAL,
				 "image '%s' keeps its data in another file, but does not name it; "
				 "name it with: json:{\"driver\":\"qcow2\",\"data-file\":...}",
				 image);
	rc = image_ref_parse(name, o->data_file ? NULL : image, ref, e);
	if (rc < 0)
		error_prefix(e, "data file of image '%s'", image);
	else if (ref->format == FORMAT_QCOW2 || ref->raw_offset || ref->raw_size)
		rc = error_set(e, ENOTSUP,
			       "image '%s' names the data file '%s', which is not a plain file",
			       image, name);
	return rc;
}

/*
 * A relative name counts from the image's folder. QEMU counts from the current one, so
 * a file that is only there is taken too.
 */
static int open_at_either_place(struct qcow2 *q, const struct layer_opts *o,
				const struct image_ref *ref, struct error *e)
{
	struct file_opts fo = {.writable = o->writable, .cache = o->cache, .no_lock = o->no_lock};
	const char *name = o->data_file ? NULL : q->hdr.data_file;
	int rc;

	if (name && name[0] != '/' && access(ref->path, F_OK) < 0 && access(name, F_OK) == 0)
		rc = file_open(q->r, name, &fo, &q->data_file, e);
	else
		rc = file_open(q->r, ref->path, &fo, &q->data_file, e);
	return rc;
}

static int open_data_file(struct qcow2 *q, const struct layer_opts *o, struct error *e)
{
	struct image_ref ref = {0};
	int rc;

	if (!q->external_data) {
		q->data_file = q->file;
		return 0;
	}
	if (o->no_data_file)
		return 0;
	rc = data_file_path(q, o, &ref, e);
	if (!rc) {
		rc = open_at_either_place(q, o, &ref, e);
		if (rc == -ENOENT && e) {
			*e = (struct error)ERROR_INIT;
			error_set(e, ENOENT,
				  "the data file '%s' of image '%s' does not exist; put it back "
				  "in its place",
				  ref.path, file_path(q->file));
		} else if (rc < 0) {
			error_prefix(e, "data file of image '%s'", file_path(q->file));
		}
	}
	if (!rc && file_same(q->data_file, q->file)) {
		file_close(q->data_file);
		q->data_file = NULL;
		rc = error_set(e, EINVAL,
			       "image '%s' names itself as its data file; restore it from a copy",
			       file_path(q->file));
	}
	image_ref_free(&ref);
	return rc;
}

/* The header was checked: the table is inside the file, and so is what we allocate for it. */
static int co_read_l1(struct qcow2 *q, struct error *e)
{
	size_t bytes = (size_t)q->l1_size * sizeof(*q->l1);
	int rc;

	q->l1 = buf_alloc(bytes ? bytes : sizeof(*q->l1));
	if (!q->l1)
		return error_set(e, ENOMEM, "cannot open '%s': out of memory", file_path(q->file));
	rc = co_file_read(q->file, q->hdr.h.l1_table_offset, q->l1, bytes);
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot read the L1 table of '%s'",
				       file_path(q->file));
	for (uint32_t i = 0; i < q->l1_size; i++)
		q->l1[i] = be64toh(q->l1[i]);
	return 0;
}

static int co_clear_autoclear(struct qcow2 *q, struct error *e)
{
	uint64_t lost = q->hdr.h.autoclear_features & ~AUTOCLEAR_KEPT;
	int rc;

	if (!lost)
		return 0;
	rc = co_qcow2_set_features(q, 0, 0, lost);
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot write the header of '%s'",
				       file_path(q->file));
	if (lost & QCOW2_AUTOCLEAR_BITMAPS)
		log_warn(
			"image '%s' has dirty bitmaps, which are not kept up here: they are marked "
			"inconsistent now that it is written to",
			file_path(q->file));
	lost &= ~QCOW2_AUTOCLEAR_BITMAPS;
	if (lost)
		log_info("image '%s': unknown autoclear features 0x%" PRIx64 " were switched off",
			 file_path(q->file), lost);
	return 0;
}

static int co_clear_dirty(struct qcow2 *q, const struct layer_opts *o, struct error *e)
{
	int rc;

	if (!(q->hdr.h.incompatible_features & QCOW2_INCOMPAT_DIRTY) || o->allow_dirty)
		return 0;
	log_info("image '%s' was not closed cleanly: its refcounts are rebuilt",
		 file_path(q->file));
	rc = co_qcow2_rebuild_refcounts(q, e);
	if (rc < 0)
		return rc;
	rc = co_qcow2_set_features(q, 0, QCOW2_INCOMPAT_DIRTY, 0);
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot write the header of '%s'",
				       file_path(q->file));
	return 0;
}

static void qcow2_free(struct qcow2 *q)
{
	if (q->data_file != q->file)
		file_close(q->data_file);
	buf_free(q->l1);
	qcow2_header_free(&q->hdr);
	free(q->fault);
	free(q);
}

int co_qcow2_open(struct reactor *r, struct file *f, const struct layer_opts *o, struct qcow2 **out,
		  struct error *e)
{
	struct qcow2 *q = calloc(1, sizeof(*q));
	int rc;

	*out = NULL;
	if (!q)
		return error_set(e, ENOMEM, "cannot open '%s': out of memory", file_path(f));
	q->r = r;
	q->file = f;
	q->owner = o->owner;
	q->meta_cache = o->meta_cache;
	q->writable = o->writable;
	co_mutex_init(&q->header_lock);
	rc = co_qcow2_header_read(f, o, &q->hdr, e);
	if (!rc) {
		set_geometry(q);
		rc = open_data_file(q, o, e);
	}
	if (!rc)
		rc = co_read_l1(q, e);
	if (!rc && q->writable)
		rc = co_clear_dirty(q, o, e);
	if (!rc && q->writable)
		rc = co_clear_autoclear(q, e);
	if (!rc)
		rc = co_qcow2_tables_open(q, e);
	if (rc < 0)
		qcow2_free(q);
	else
		*out = q;
	return rc;
}

int co_qcow2_close(struct qcow2 *q, struct error *e)
{
	int rc = co_qcow2_tables_close(q, e);

	qcow2_free(q);
	return rc;
}

void qcow2_fail(struct qcow2 *q, const char *fmt, ...)
{
	va_list ap;

	q->writable = false;
	if (q->fault)
		return;
	va_start(ap, fmt);
	if (vasprintf(&q->fault, fmt, ap) < 0)
		q->fault = NULL;
	va_end(ap);
	if (!q->fault)
		q->fault = strdup("a metadata write failed");
	if (q->owner.failed)
		q->owner.failed(q->owner.arg, q->fault ? q->fault : fmt);
	else
		log_error("image '%s' is read-only from now on: %s", file_path(q->file),
			  q->fault ? q->fault : fmt);
}
