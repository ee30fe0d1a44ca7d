/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * refcount.c - which host clusters are free, and taking them.
 *
 * Clusters are reserved ahead, a contiguous run at a time: their refcount is set to 1 in the
 * cache when they are reserved, so that most allocations touch no refcount at all
 * and a commit often has no refcount block to write. What is left of the
 * reservation is given back at close; a crash leaks it (refcount 1, no reference).
 *
 * Growth: a new refcount block is zeroed on disk before its table entry changes in
 * memory, and the commit writes block, barrier, table entry, in that order. A
 * bigger table is written beside the old one and flushed before the header
 * sector names it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/tables.h"

#define HOLE_SCAN_BLOCKS 64u    /* table blocks looked at for a hole before going to the end of the file */
#define HOLE_MIN_CLUSTERS 16u   /* a hole this long will do, however much was asked for */
#define RESERVE_MIN_CLUSTERS 64u
#define RESERVE_FIRST_BYTES (1u << 20)
#define RESERVE_MAX_BYTES (64u << 20)

uint64_t refcount_load(const void *block, unsigned order, uint64_t index)
{
	const uint8_t *p = block;

	switch (order) {
	case 3:
		return p[index];
	case 4:
		return be16toh(((const uint16_t *)block)[index]);
	case 5:
		return be32toh(((const uint32_t *)block)[index]);
	case 6:
		return be64toh(((const uint64_t *)block)[index]);
	default:
		return (p[index >> (3 - order)] >> ((index & ((8u >> order) - 1)) << order)) &
		       ((1u << (1u << order)) - 1);
	}
}

void refcount_store(void *block, unsigned order, uint64_t index, uint64_t value)
{
	uint8_t *p = block;
	unsigned shift, mask;

	switch (order) {
	case 3:
		p[index] = (uint8_t)value;
		break;
	case 4:
		((uint16_t *)block)[index] = htobe16((uint16_t)value);
		break;
	case 5:
		((uint32_t *)block)[index] = htobe32((uint32_t)value);
		break;
	case 6:
		((uint64_t *)block)[index] = htobe64(value);
		break;
	default:
		shift = (unsigned)(index & ((8u >> order) - 1)) << order;
		mask = ((1u << (1u << order)) - 1) << shift;
		p += index >> (3 - order);
		*p = (uint8_t)((*p & ~mask) | ((unsigned)value << shift));
	}
}

uint64_t refcount_max(const struct qcow2 *q)
{
	return q->refcount_order == 6 ? UINT64_MAX : (1ull << (1u << q->refcount_order)) - 1;
}

/* Refcounts in one cached block. */
static uint64_t per_tblock(const struct qcow2_tables *t)
{
	return ((uint64_t)t->block_size << 3) >> t->q->refcount_order;
}

/* The cached block that holds the refcount of cluster, and its index there; NULL if there is no refcount block. */
static int co_refblock(struct qcow2_tables *t, uint64_t cluster, struct tblock **b, uint64_t *index)
{
	struct qcow2 *q = t->q;
	uint64_t table_index = cluster >> t->rb_bits, off, in;

	*b = NULL;
	*index = cluster & (per_tblock(t) - 1);
	if (table_index >= t->reft_entries || !t->reft[table_index])
		return 0;
	off = t->reft[table_index] & QCOW2_REFT_OFFSET_MASK;
	if (off & cluster_mask(q) || off < q->cluster_size || off >= file_size(q->file))
		return co_qcow2_damaged(q, "refcount block %" PRIu64 " is at the impossible offset %" PRIu64,
					table_index, off);
	in = ((cluster & ((1ull << t->rb_bits) - 1)) << q->refcount_order) >> 3;
	return co_tblock_get(t, TBLOCK_REF, off + in, b);
}

int co_refcount_get(struct qcow2_tables *t, uint64_t cluster, uint64_t *out)
{
	struct tblock *b;
	uint64_t index;
	int r = co_refblock(t, cluster, &b, &index);

	if (!r)
		*out = b ? refcount_load(b->data, t->q->refcount_order, index) : 0;
	return r;
}

int co_refcount_add(struct qcow2_tables *t, uint64_t cluster, uint64_t nr, int delta)
{
	struct qcow2 *q = t->q;
	uint64_t magnitude = delta < 0 ? (uint64_t)-(int64_t)delta : (uint64_t)delta;

	while (nr) {
		struct tblock *b;
		uint64_t index, n;
		int r = co_refblock(t, cluster, &b, &index);

		if (r < 0)
			return r;
		if (!b)
			return co_qcow2_damaged(q, "cluster %" PRIu64 " is in use but has no refcount block",
						cluster);
		for (n = 0; n < nr && index + n < per_tblock(t); n++) {
			uint64_t have = refcount_load(b->data, q->refcount_order, index + n);

			if (delta < 0 ? have < magnitude : have > refcount_max(q) - magnitude)
				return co_qcow2_damaged(q, "the refcount of cluster %" PRIu64 " is %" PRIu64
							", which cannot change by %d", cluster + n, have, delta);
			refcount_store(b->data, q->refcount_order, index + n,
				       delta < 0 ? have - magnitude : have + magnitude);
			tblock_dirty(t, b);
		}
		cluster += n;
		nr -= n;
	}
	return 0;
}

/* --- growth; alloc_lock is held --- */

static void reft_set(struct qcow2_tables *t, uint64_t index, uint64_t off)
{
	uint64_t sector = index / 64;

	t->reft[index] = off;
	if (!(t->reft_dirty[sector / 64] & (1ull << (sector % 64)))) {
		t->reft_dirty[sector / 64] |= 1ull << (sector % 64);
		t->nr_reft_dirty++;
	}
}

static void used_up_to(struct qcow2_tables *t, uint64_t cluster)
{
	if (t->tail < cluster)
		t->tail = cluster;
	if (t->virgin < cluster)
		t->virgin = cluster;
}

int co_write_fresh(struct qcow2_tables *t, uint64_t host_off, const void *buf, uint64_t len)
{
	uint64_t cluster = host_off >> t->q->cluster_bits, nr = len >> t->q->cluster_bits;

	if (overlaps_fixed(t, cluster, nr) || !tblocks_forget(t, host_off, len))
		return co_qcow2_damaged(t->q, "cluster %" PRIu64 " is in use but its refcount is 0", cluster);
	if (t->virgin < cluster + nr)
		t->virgin = cluster + nr;
	return co_file_write(t->q->file, host_off, buf, len);
}

/* Makes cluster `at`, which is free because no refcount block covers it, the block that covers it. */
static int co_refblock_create(struct qcow2_tables *t, uint64_t at)
{
	struct qcow2 *q = t->q;
	uint64_t off = at << q->cluster_bits, index = at & ((1ull << t->rb_bits) - 1);
	void *buf = buf_alloc(q->cluster_size);
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, q->cluster_size);
	refcount_store(buf, q->refcount_order, index, 1);
	r = co_write_fresh(t, off, buf, q->cluster_size);
	buf_free(buf);
	if (r < 0)
		return r;
	reft_set(t, at >> t->rb_bits, off);
	used_up_to(t, at + 1);
	return 0;
}

/* Where a bigger table and the refcount blocks that cover it go. */
struct growth {
	uint64_t at;                    /* first cluster of the table; the blocks follow it */
	uint64_t table_clusters, nr_blocks;
	uint64_t first_index;           /* table index of the first new block */
};

static void growth_plan(const struct qcow2_tables *t, uint64_t at, struct growth *g)
{
	uint64_t per_cluster = t->q->cluster_size / 8, end, entries;

	g->at = at;
	g->first_index = at >> t->rb_bits;
	g->table_clusters = 1;
	g->nr_blocks = 1;
	for (;;) {
		uint64_t blocks, clusters;

		end = at + g->table_clusters + g->nr_blocks;
		blocks = ((end - 1) >> t->rb_bits) - g->first_index + 1;
		entries = ((end - 1) >> t->rb_bits) + 1;
		entries += entries / 2;
		clusters = (entries + per_cluster - 1) / per_cluster;
		if (blocks <= g->nr_blocks && clusters <= g->table_clusters)
			return;
		if (blocks > g->nr_blocks)
			g->nr_blocks = blocks;
		if (clusters > g->table_clusters)
			g->table_clusters = clusters;
	}
}

static int co_growth_write_blocks(struct qcow2_tables *t, const struct growth *g)
{
	struct qcow2 *q = t->q;
	uint64_t end = g->at + g->table_clusters + g->nr_blocks, i, c;
	void *buf = buf_alloc(q->cluster_size);
	int r = buf ? 0 : -ENOMEM;

	for (i = 0; i < g->nr_blocks && !r; i++) {
		uint64_t first = (g->first_index + i) << t->rb_bits;

		memset(buf, 0, q->cluster_size);
		for (c = first > g->at ? first : g->at; c < end && c < first + (1ull << t->rb_bits); c++)
			refcount_store(buf, q->refcount_order, c - first, 1);
		r = co_write_fresh(t, (g->at + g->table_clusters + i) << q->cluster_bits, buf,
				   q->cluster_size);
	}
	buf_free(buf);
	return r;
}

static int co_growth_write_table(struct qcow2_tables *t, const struct growth *g, const uint64_t *table)
{
	struct qcow2 *q = t->q;
	uint64_t bytes = g->table_clusters << q->cluster_bits, i;
	uint64_t *buf = buf_alloc(bytes);
	int r;

	if (!buf)
		return -ENOMEM;
	for (i = 0; i < bytes / 8; i++)
		buf[i] = htobe64(table[i]);
	r = co_write_fresh(t, g->at << q->cluster_bits, buf, bytes);
	buf_free(buf);
	return r;
}

/* The header names the new table: everything it leads to is durable before. */
static int co_growth_switch(struct qcow2_tables *t, const struct growth *g)
{
	struct qcow2 *q = t->q;
	uint64_t old_off = q->hdr.h.refcount_table_offset;
	uint32_t old_clusters = q->hdr.h.refcount_table_clusters;
	struct error e = ERROR_INIT;
	int r = co_commit_all(t);

	if (r < 0)
		return r;
	r = co_file_flush(q->file);
	if (!r) {
		q->hdr.h.refcount_table_offset = g->at << q->cluster_bits;
		q->hdr.h.refcount_table_clusters = (uint32_t)g->table_clusters;
		r = co_qcow2_header_write(q, &e);
		if (r < 0) {
			q->hdr.h.refcount_table_offset = old_off;
			q->hdr.h.refcount_table_clusters = old_clusters;
		}
	}
	if (r < 0)
		qcow2_fail(q, "cannot switch to a bigger refcount table: %s", e.code ? e.msg : strerror(-r));
	return r;
}

/* Cluster `at` is beyond what the refcount table can cover: makes a table that covers it. */
static int co_reft_grow(struct qcow2_tables *t, uint64_t at)
{
	struct qcow2 *q = t->q;
	uint64_t entries, i, *table = NULL, *dirty = NULL;
	struct growth g;
	int r;

	growth_plan(t, at, &g);
	if (g.table_clusters << q->cluster_bits > QCOW2_MAX_REFT_BYTES)
		return -ENOSPC;
	entries = (g.table_clusters << q->cluster_bits) / 8;
	table = calloc(entries, 8);
	dirty = calloc(entries / 4096 + 1, 8);
	r = table && dirty ? 0 : -ENOMEM;
	if (!r) {
		memcpy(table, t->reft, t->reft_entries * 8);
		for (i = 0; i < g.nr_blocks; i++)
			table[g.first_index + i] = (g.at + g.table_clusters + i) << q->cluster_bits;
		r = co_growth_write_blocks(t, &g);
	}
	if (!r)
		r = co_growth_write_table(t, &g, table);
	if (!r)
		r = co_growth_switch(t, &g);
	if (r < 0) {
		free(table);
		free(dirty);
		return r;
	}
	assert(!t->nr_reft_dirty);
	free(t->reft);
	free(t->reft_dirty);
	t->reft = table;
	t->reft_dirty = dirty;
	t->reft_entries = entries;
	clusters_drop(t, t->reft_off >> q->cluster_bits, t->reft_clusters);
	t->reft_off = g.at << q->cluster_bits;
	t->reft_clusters = (uint32_t)g.table_clusters;
	used_up_to(t, g.at + g.table_clusters + g.nr_blocks);
	return 0;
}

/* --- reservation; alloc_lock is held --- */

/*
 * Reserves free clusters from `at` on, at most max, within one cached block.
 * *got = 0: at is in use. Makes the refcount block if there is none; then *at moves past it.
 */
static int co_claim(struct qcow2_tables *t, uint64_t *at, uint64_t max, uint64_t *got)
{
	unsigned order = t->q->refcount_order;
	struct tblock *b;
	uint64_t index, n;
	int r;

	*got = 0;
	for (;;) {
		r = co_refblock(t, *at, &b, &index);
		if (r < 0)
			return r;
		if (b)
			break;
		if (*at >> t->rb_bits >= t->reft_entries) {
			r = co_reft_grow(t, *at);
			*at = r < 0 ? *at : t->tail;
		} else {
			r = co_refblock_create(t, *at);
			*at += 1;
		}
		if (r < 0)
			return r;
	}
	for (n = 0; n < max && index + n < per_tblock(t); n++) {
		if (refcount_load(b->data, order, index + n))
			break;
		refcount_store(b->data, order, index + n, 1);
	}
	if (n)
		tblock_dirty(t, b);
	if (n && overlaps_fixed(t, *at, n))
		return co_qcow2_damaged(t->q, "the refcount of the header or of a table is 0");
	*got = n;
	if (t->tail < *at + n)
		t->tail = *at + n;
	return 0;
}

/* Moves t->scan_pos to a hole of at least `want` clusters below the tail: 1 = there, 0 = none seen. */
static int co_find_hole(struct qcow2_tables *t, uint64_t want)
{
	unsigned order = t->q->refcount_order, budget;
	struct tblock *b;
	uint64_t index, run;
	int r;

	if (want > HOLE_MIN_CLUSTERS)
		want = HOLE_MIN_CLUSTERS;
	for (budget = HOLE_SCAN_BLOCKS; budget && t->scan_pos < t->tail; budget--) {
		uint64_t pos = t->scan_pos;

		r = co_refblock(t, pos, &b, &index);
		if (r < 0)
			return r;
		if (t->scan_pos != pos)
			continue;      /* clusters before it became free while the block was read */
		if (!b)
			return 1;
		for (run = 0; index < per_tblock(t) && t->scan_pos < t->tail; index++, t->scan_pos++) {
			run = refcount_load(b->data, order, index) ? 0 : run + 1;
			if (run == want) {
				t->scan_pos -= want - 1;
				return 1;
			}
		}
	}
	return 0;
}

/* Finds a new reservation. The old one is used up. */
static int co_reserve(struct qcow2_tables *t, uint64_t want)
{
	uint64_t first = (RESERVE_FIRST_BYTES >> t->q->cluster_bits), got = 0, at, max;
	int r = co_find_hole(t, want);

	if (r < 0)
		return r;
	if (t->res_batch < first)
		t->res_batch = first;
	if (t->res_batch < RESERVE_MIN_CLUSTERS)
		t->res_batch = RESERVE_MIN_CLUSTERS;
	max = t->res_batch > want ? t->res_batch : want;
	/* Holes are used up soon: many small ones are no sign that much will be written. */
	if (!r && t->res_batch << t->q->cluster_bits < RESERVE_MAX_BYTES)
		t->res_batch *= 2;
	if (r) {
		uint64_t pos = t->scan_pos;

		at = pos;
		r = co_claim(t, &at, max, &got);
		if (t->scan_pos == pos)
			t->scan_pos = at + got;
	}
	while (!r && !got) {
		at = t->tail;
		r = co_claim(t, &at, max, &got);
		/* Refcounts beyond the end of the file: left by a crash, not ours to use. */
		if (!r && !got)
			t->tail = at + 1;
	}
	if (!r) {
		/* Part of the old one may have been given back meanwhile (clusters_untake()). */
		if (t->res_end != at) {
			if (t->res_next < t->res_end)
				clusters_drop(t, t->res_next, t->res_end - t->res_next);
			t->res_next = at;
		}
		t->res_end = at + got;
	}
	return r;
}

/*
 * Lengthens the reservation if what follows it is free: for runs longer than what is left.
 * Where the next refcount block is still to be made the run ends: the block takes the
 * first cluster of its own range, so no run ever crosses that border (a run longer than
 * a block covers would be sought for ever).
 */
static int co_extend(struct qcow2_tables *t, uint64_t want)
{
	while (t->res_end - t->res_next < want) {
		uint64_t at = t->res_end, index, got;
		struct tblock *b;
		int r = co_refblock(t, at, &b, &index);

		if (r < 0)
			return r;
		if (!b)
			return 0;
		r = co_claim(t, &at, t->res_batch > want ? t->res_batch : want, &got);
		if (r < 0 || !got)
			return r;
		assert(at == t->res_end);
		t->res_end += got;
	}
	return 0;
}

int co_clusters_take(struct qcow2_tables *t, uint64_t max, uint64_t *host_off, uint64_t *got, bool *zeroed)
{
	struct qcow2 *q = t->q;
	uint64_t left;
	int r = 0;

	assert(max > 0);
	if (t->res_end - t->res_next < max) {
		co_mutex_lock(&t->alloc_lock);
		if (t->res_end == t->res_next)
			r = co_reserve(t, max);
		if (!r && t->res_end - t->res_next < max)
			r = co_extend(t, max);
		co_mutex_unlock(&t->alloc_lock);
		/* A shorter run will do. */
		if (r == -ENOSPC && t->res_next < t->res_end)
			r = 0;
		if (r < 0)
			return r;
	}
	left = t->res_end - t->res_next;
	if (!left)
		return co_clusters_take(t, max, host_off, got, zeroed);
	*got = left < max ? left : max;
	*host_off = t->res_next << q->cluster_bits;
	*zeroed = t->virgin_zero && t->res_next >= t->virgin;
	t->res_next += *got;
	if (t->virgin < t->res_next)
		t->virgin = t->res_next;
	return 0;
}

void clusters_untake(struct qcow2_tables *t, uint64_t host_off, uint64_t nr)
{
	uint64_t cluster = host_off >> t->q->cluster_bits;

	if (t->res_next == cluster + nr && t->res_next <= t->res_end) {
		t->res_next = cluster;
		return;
	}
	clusters_drop(t, cluster, nr);
}

int co_reservation_return(struct qcow2_tables *t)
{
	uint64_t at = t->res_next, nr = t->res_end - t->res_next;

	t->res_next = t->res_end = 0;
	return nr ? co_refcount_add(t, at, nr, -1) : 0;
}

uint64_t qcow2_reserved_bytes(const struct qcow2 *q)
{
	return q->t ? (q->t->res_end - q->t->res_next) << q->cluster_bits : 0;
}

/* --- open, close --- */

int co_refcounts_open(struct qcow2_tables *t, struct error *e)
{
	struct qcow2 *q = t->q;
	uint64_t bytes, i;
	int r;

	t->rb_bits = q->cluster_bits + 3 - q->refcount_order;
	t->reft_off = q->hdr.h.refcount_table_offset;
	t->reft_clusters = q->hdr.h.refcount_table_clusters;
	bytes = (uint64_t)t->reft_clusters << q->cluster_bits;
	t->reft_entries = bytes / 8;
	t->l1_dirty = calloc(q->l1_size / 4096 + 1, 8);
	t->reft = calloc(t->reft_entries + 1, 8);
	t->reft_dirty = calloc(t->reft_entries / 4096 + 1, 8);
	if (!t->reft || !t->reft_dirty || !t->l1_dirty)
		return error_set(e, ENOMEM, "%s: no memory for the refcount table", file_path(q->file));
	r = bytes ? co_file_read(q->file, t->reft_off, t->reft, bytes) : 0;
	if (r < 0)
		return error_set_errno(e, -r, "%s: cannot read the refcount table at offset %" PRIu64,
				       file_path(q->file), t->reft_off);
	for (i = 0; i < t->reft_entries; i++)
		t->reft[i] = be64toh(t->reft[i]);
	t->tail = (file_size(q->file) + q->cluster_size - 1) >> q->cluster_bits;
	t->virgin = t->tail;
	t->virgin_zero = !file_is_block(q->file);
	return 0;
}

void refcounts_close(struct qcow2_tables *t)
{
	free(t->reft);
	free(t->reft_dirty);
}
