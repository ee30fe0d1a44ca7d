// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check.c - is an image sound? The frame: what is read, in which order, and what the result means.
 *
 * Everything is read from the file anew; the caches that serve I/O are emptied
 * before and filled anew afterwards, so a fault of theirs cannot hide. References are counted from
 * the header down and held against the stored refcounts: fewer stored than counted is
 * a corruption (a cluster in use could be given away), more is a leak. Words and
 * classes are qemu-img check's, because scripts read them.
 */
#include "qcow/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "io/log.h"
#include "qcow/check_priv.h"

void check_say(struct check *c, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (!c->report || c->quiet)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	c->report(c->arg, line);
}

/* The last cluster of a file may be there in part; QEMU allows for one more. */
static bool inside(const struct check *c, uint64_t off, uint64_t len)
{
	return off <= c->file_len && len - 1 < UINT64_MAX - off &&
	       (off + len <= c->file_len || off + len - c->file_len <= c->q->cluster_size);
}

void check_ref(struct check *c, uint64_t off, uint64_t len)
{
	uint64_t i, last;

	if (!len)
		return;
	if (!inside(c, off, len)) {
		check_corrupt(c, "ERROR: counting reference for region exceeding the end of the file by one "
			      "cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64, off, len);
		return;
	}
	last = (off + len - 1) >> c->q->cluster_bits;
	for (i = off >> c->q->cluster_bits; i <= last; i++) {
		assert(i <= c->nr_clusters);
		if (c->refs[i] == UINT32_MAX)
			check_corrupt(c, "ERROR: overflow cluster offset=0x%" PRIx64,
				      i << c->q->cluster_bits);
		else
			c->refs[i]++;
	}
}

void check_ref_more(struct check *c, uint64_t off, uint64_t len, uint32_t nr)
{
	uint64_t i, last;

	if (!len || !inside(c, off, len))
		return;
	last = (off + len - 1) >> c->q->cluster_bits;
	for (i = off >> c->q->cluster_bits; i <= last; i++)
		c->refs[i] += nr < UINT32_MAX - c->refs[i] ? nr : UINT32_MAX - c->refs[i];
}

bool check_followable(struct check *c, uint64_t off, uint64_t len)
{
	if (len <= c->file_len + c->q->cluster_size - c->table_bytes) {
		c->table_bytes += len;
		return true;
	}
	check_corrupt(c, "ERROR table at offset=0x%" PRIx64 " overlaps others: not followed", off);
	return false;
}

static int co_load_reft(struct check *c)
{
	const struct qcow2_disk_header *h = &c->q->hdr.h;
	uint64_t bytes = (uint64_t)h->refcount_table_clusters << c->q->cluster_bits, i;
	int r;

	if (bytes > QCOW2_MAX_REFT_BYTES)
		bytes = QCOW2_MAX_REFT_BYTES;
	c->reft_entries = bytes / 8;
	free(c->reft);
	c->reft = calloc(c->reft_entries + 1, 8);
	if (!c->reft)
		return -ENOMEM;
	r = bytes ? co_file_read(c->q->file, h->refcount_table_offset, c->reft, bytes) : 0;
	for (i = 0; !r && i < c->reft_entries; i++)
		c->reft[i] = be64toh(c->reft[i]);
	return r;
}

/* Begins a run: empty counts, the size of the file as it is now. */
static int co_check_begin(struct check *c)
{
	c->file_len = file_size(c->q->file);
	c->nr_clusters = (c->file_len + c->q->cluster_size - 1) >> c->q->cluster_bits;
	free(c->refs);
	free(c->stored);
	/* One more: a region may begin in the cluster after the last. */
	c->refs = calloc(c->nr_clusters + 1, sizeof(*c->refs));
	c->stored = calloc(c->nr_clusters + 1, sizeof(*c->stored));
	c->table_bytes = 0;
	c->rebuild = false;
	if (!c->refs || !c->stored)
		return -ENOMEM;
	return co_load_reft(c);
}

static void check_end(struct check *c)
{
	free(c->refs);
	free(c->stored);
	free(c->reft);
}

/* Counts again, without the structures that are to be replaced, and writes new ones. */
static int co_rebuild(struct check *c, struct error *e)
{
	struct check_result scratch = { 0 }, *res = c->res;
	unsigned fix = c->fix;
	int r;

	c->res = &scratch;
	c->fix = 0;
	c->quiet = true;
	c->count_refcounts = false;
	r = co_check_begin(c);
	if (!r)
		r = co_check_count(c);
	if (!r)
		r = co_check_rebuild(c, e);
	c->count_refcounts = true;
	c->quiet = false;
	c->fix = fix;
	c->res = res;
	return r;
}

/* A run: counts, comparison, flags. */
static int co_check_run(struct check *c)
{
	int r = co_check_begin(c);

	if (!r)
		r = co_check_count(c);
	if (!r)
		r = co_check_compare(c);
	return r;
}

static int co_check_qcow2(struct check *c, struct error *e)
{
	struct check_result first;
	int r;

	c->res->total_clusters = (c->q->hdr.h.size + cluster_mask(c->q)) >> c->q->cluster_bits;
	c->count_refcounts = true;
	r = co_check_run(c);
	if (!r && c->rebuild && (c->fix & CHECK_FIX_ERRORS)) {
		check_say(c, "Rebuilding refcount structure");
		r = co_rebuild(c, e);
		if (!r) {
			first = *c->res;
			memset(c->res, 0, sizeof(*c->res));
			c->res->total_clusters = first.total_clusters;
			r = co_check_run(c);
			/* What is not there any more was repaired by the new structures. */
			c->res->corruptions_fixed += first.corruptions_fixed;
			c->res->leaks_fixed += first.leaks_fixed;
			if (first.corruptions > c->res->corruptions)
				c->res->corruptions_fixed += first.corruptions - c->res->corruptions;
			if (first.leaks > c->res->leaks)
				c->res->leaks_fixed += first.leaks - c->res->leaks;
		}
	} else if (!r && c->rebuild && c->fix) {
		check_say(c, "ERROR need to rebuild refcount structures");
	}
	if (!r)
		r = co_check_copied(c);
	if (r < 0) {
		c->res->check_errors++;
		if (e && !e->code)
			error_set_errno(e, -r, "cannot check '%s'", file_path(c->q->file));
	}
	return r;
}

/* The header's marks: an image without corruptions is neither corrupt nor dirty. */
static int co_clear_marks(struct check *c, struct error *e)
{
	struct qcow2 *q = c->q;
	uint64_t marks = q->hdr.h.incompatible_features & (QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
	int r;

	if (!(c->fix & CHECK_FIX_ERRORS) || !marks || c->res->corruptions || c->res->check_errors)
		return 0;
	r = co_qcow2_set_features(q, 0, marks, 0);
	if (r < 0)
		return error_set_errno(e, -r, "cannot write the header of '%s'", file_path(q->file));
	return 0;
}

static int co_reload_l1(struct qcow2 *q)
{
	int r = co_file_read(q->file, q->hdr.h.l1_table_offset, q->l1, (uint64_t)q->l1_size * 8);
	uint32_t i;

	for (i = 0; !r && i < q->l1_size; i++)
		q->l1[i] = be64toh(q->l1[i]);
	return r;
}

int co_layer_check(struct layer *l, unsigned fix, struct check_result *out,
		   void (*report)(void *arg, const char *line), void *arg, struct error *e)
{
	struct qcow2 *q = layer_qcow2(l);
	struct check c = { .q = q, .fix = fix, .res = out, .report = report, .arg = arg };
	bool had_tables;
	int r, r2;

	memset(out, 0, sizeof(*out));
	if (!q)
		return error_set(e, ENOTSUP, "'%s' is a raw image, which has nothing to check", layer_path(l));
	if (fix && !q->writable)
		return error_set(e, EROFS, "'%s' is open read-only: it cannot be repaired", layer_path(l));
	had_tables = q->t;
	r = co_qcow2_tables_close(q, e);
	if (r < 0)
		return r;
	r = co_check_qcow2(&c, e);
	if (!r)
		r = co_clear_marks(&c, e);
	check_end(&c);
	if (fix) {
		r2 = co_reload_l1(q);
		if (r2 < 0)
			qcow2_fail(q, "its L1 table cannot be read: %s", strerror(-r2));
	}
	r2 = had_tables ? co_qcow2_tables_open(q, r ? NULL : e) : 0;
	return r ? r : r2;
}

int co_qcow2_rebuild_refcounts(struct qcow2 *q, struct error *e)
{
	struct check_result res = { 0 };
	struct check c = { .q = q, .fix = CHECK_FIX_LEAKS | CHECK_FIX_ERRORS, .res = &res };
	int r;

	assert(!q->t);
	r = co_check_qcow2(&c, e);
	if (!r && res.corruptions)
		r = error_set(e, EIO, "'%s' was not closed cleanly and has %" PRIu64
			      " corruptions that cannot be repaired by counting; see 'qcimg check'",
			      file_path(q->file), res.corruptions);
	check_end(&c);
	if (!r && (res.corruptions_fixed || res.leaks_fixed)) {
		log_info("%s: %" PRIu64 " refcounts were too low and %" PRIu64 " too high", file_path(q->file),
			 res.corruptions_fixed, res.leaks_fixed);
		r = co_reload_l1(q);
		if (r < 0)
			error_set_errno(e, -r, "cannot read the L1 table of '%s'", file_path(q->file));
	}
	return r;
}
