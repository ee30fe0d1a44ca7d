// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check_rebuild.c - new refcount structures from counted references.
 *
 * The new table and blocks are written after the end of the file, flushed, and
 * then named by the header in one sector write: until that instant the old
 * structures are untouched. The clusters of the old ones are counted by nobody
 * and so become free.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/check_priv.h"

struct plan {
	unsigned rb_bits;
	uint64_t at;                    /* first new cluster: the table, then the blocks */
	uint64_t table_clusters, nr_blocks, entries;
};

static bool range_used(const struct check *c, const struct plan *p, uint64_t index)
{
	uint64_t first = index << p->rb_bits, i;

	for (i = first; i < first + (1ull << p->rb_bits) && i <= c->nr_clusters; i++)
		if (c->refs[i])
			return true;
	return false;
}

static bool range_new(const struct plan *p, uint64_t index)
{
	uint64_t first = index << p->rb_bits, end = first + (1ull << p->rb_bits);

	return first < p->at + p->table_clusters + p->nr_blocks && end > p->at;
}

/* How many clusters it takes depends on how many it takes: grows until it fits. */
static int make_plan(const struct check *c, struct plan *p)
{
	uint64_t per_cluster = c->q->cluster_size / 8, i, blocks, clusters;

	p->rb_bits = c->q->cluster_bits + 3 - c->q->refcount_order;
	p->at = c->nr_clusters + 1;
	p->table_clusters = p->nr_blocks = 1;
	for (;;) {
		p->entries = ((p->at + p->table_clusters + p->nr_blocks - 1) >> p->rb_bits) + 1;
		clusters = (p->entries + per_cluster - 1) / per_cluster;
		for (i = 0, blocks = 0; i < p->entries; i++)
			blocks += range_used(c, p, i) || range_new(p, i);
		if (clusters <= p->table_clusters && blocks <= p->nr_blocks)
			break;
		p->table_clusters = clusters > p->table_clusters ? clusters : p->table_clusters;
		p->nr_blocks = blocks > p->nr_blocks ? blocks : p->nr_blocks;
	}
	return p->table_clusters << c->q->cluster_bits > QCOW2_MAX_REFT_BYTES ? -EFBIG : 0;
}

static int fill_block(const struct check *c, const struct plan *p, uint64_t index, void *block)
{
	uint64_t first = index << p->rb_bits, n = 1ull << p->rb_bits, i;
	uint64_t end = p->at + p->table_clusters + p->nr_blocks;

	memset(block, 0, c->q->cluster_size);
	for (i = first; i < first + n && i < end; i++) {
		uint64_t refs = i >= p->at ? 1 : i <= c->nr_clusters ? c->refs[i] : 0;

		if (refs > refcount_max(c->q))
			return -ERANGE;
		refcount_store(block, c->q->refcount_order, i - first, refs);
	}
	return 0;
}

static int co_write_structures(const struct check *c, const struct plan *p, uint64_t *table, void *block)
{
	struct qcow2 *q = c->q;
	uint64_t i, used = 0, off;
	int r = 0;

	for (i = 0; i < p->entries && !r; i++) {
		if (!range_used(c, p, i) && !range_new(p, i))
			continue;
		off = (p->at + p->table_clusters + used++) << q->cluster_bits;
		table[i] = htobe64(off);
		r = fill_block(c, p, i, block);
		if (!r)
			r = co_file_write(q->file, off, block, q->cluster_size);
	}
	/* The plan may have room for one block too many: it is counted, and holds nothing. */
	memset(block, 0, q->cluster_size);
	for (; used < p->nr_blocks && !r; used++)
		r = co_file_write(q->file, (p->at + p->table_clusters + used) << q->cluster_bits, block,
				  q->cluster_size);
	if (!r)
		r = co_file_write(q->file, p->at << q->cluster_bits, table,
				  p->table_clusters << q->cluster_bits);
	return r ? r : co_file_flush(q->file);
}

int co_check_rebuild(struct check *c, struct error *e)
{
	struct qcow2 *q = c->q;
	struct plan p;
	void *block = buf_alloc(q->cluster_size);
	uint64_t *table = NULL;
	int r = make_plan(c, &p);

	if (!r) {
		table = buf_alloc(p.table_clusters << q->cluster_bits);
		r = table && block ? 0 : -ENOMEM;
	}
	if (!r) {
		memset(table, 0, p.table_clusters << q->cluster_bits);
		r = co_write_structures(c, &p, table, block);
	}
	if (r < 0) {
		error_set_errno(e, -r, "cannot write new refcounts to '%s'", file_path(q->file));
	} else {
		q->hdr.h.refcount_table_offset = p.at << q->cluster_bits;
		q->hdr.h.refcount_table_clusters = (uint32_t)p.table_clusters;
		r = co_qcow2_header_write(q, e);
	}
	buf_free(table);
	buf_free(block);
	return r;
}
