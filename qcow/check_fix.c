// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check_fix.c - stored refcounts against counted ones, COPIED flags against both, and their repair.
 *
 * Repairs write refcounts in place where their block is sound; where one is missing or
 * misplaced, the structures are rebuilt as a whole (check_rebuild.c). Counts are
 * raised and flushed before flags are set.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/check_priv.h"

static unsigned rb_bits(const struct qcow2 *q)
{
	return q->cluster_bits + 3 - q->refcount_order;
}

/* What a mismatch of one cluster means. True: the stored count shall become the counted one. */
static bool judge_cluster(struct check *c, uint64_t i, uint64_t stored, bool has_block)
{
	uint64_t counted = c->refs[i];
	bool low = stored < counted, repair;

	/* As QEMU: refcounts of 0 for clusters in use are not patched, but counted anew as a whole. */
	if (low && (!stored || !has_block || counted > refcount_max(c->q)))
		c->rebuild = true;
	repair = low ? (c->fix & CHECK_FIX_ERRORS) && stored && has_block : c->fix & CHECK_FIX_LEAKS;
	if (counted > refcount_max(c->q))
		repair = false;
	check_say(c, "%s cluster %" PRIu64 " refcount=%" PRIu64 " reference=%" PRIu64,
		  repair ? "Repairing" : low ? "ERROR" : "Leaked", i, stored, counted);
	if (repair && low)
		c->res->corruptions_fixed++;
	else if (repair)
		c->res->leaks_fixed++;
	else if (low)
		c->res->corruptions++;
	else
		c->res->leaks++;
	return repair;
}

/* The clusters of one refcount block; block NULL: there is none, all are 0. */
static int co_compare_block(struct check *c, uint64_t index, void *block, uint64_t host_off)
{
	unsigned order = c->q->refcount_order;
	uint64_t first = index << rb_bits(c->q), n = 1ull << rb_bits(c->q), i, stored;
	bool changed = false;

	for (i = 0; i < n && first + i <= c->nr_clusters; i++) {
		stored = block ? refcount_load(block, order, i) : 0;
		/* Beyond the file only what is counted matters: QEMU does not look there either. */
		if (first + i == c->nr_clusters && !c->refs[first + i])
			break;
		if (stored != c->refs[first + i] && judge_cluster(c, first + i, stored, block)) {
			stored = c->refs[first + i];
			refcount_store(block, order, i, stored);
			changed = true;
		}
		c->stored[first + i] = stored > UINT32_MAX ? UINT32_MAX : (uint32_t)stored;
		if (stored || c->refs[first + i])
			c->res->image_end_offset = (first + i + 1) << c->q->cluster_bits;
	}
	return changed ? co_file_write(c->q->file, host_off, block, c->q->cluster_size) : 0;
}

int co_check_compare(struct check *c)
{
	struct qcow2 *q = c->q;
	void *block = buf_alloc(q->cluster_size);
	uint64_t index, nr = (c->nr_clusters >> rb_bits(q)) + 1;
	int r = block ? 0 : -ENOMEM;

	for (index = 0; index < nr && !r; index++) {
		uint64_t off = index < c->reft_entries ? c->reft[index] & QCOW2_REFT_OFFSET_MASK : 0;

		if (off)
			r = co_file_read(q->file, off, block, q->cluster_size);
		if (r < 0) {
			check_say(c, "Can't get refcount for cluster %" PRIu64 ": %s",
				  index << rb_bits(q), strerror(-r));
			break;
		}
		r = co_compare_block(c, index, off ? block : NULL, off);
	}
	buf_free(block);
	if (!r && c->fix)
		r = co_file_flush(q->file);
	return r;
}

/* --- COPIED flags of the active tables --- */

static uint32_t stored_refcount(const struct check *c, uint64_t host_off)
{
	uint64_t cluster = host_off >> c->q->cluster_bits;

	return cluster <= c->nr_clusters ? c->stored[cluster] : 0;
}

/* True when the flag is wrong; says so, and counts it. */
static bool wrong_flag(struct check *c, uint64_t entry, uint64_t refcount)
{
	if ((refcount == 1) == !!(entry & QCOW2_COPIED))
		return false;
	if (c->fix & CHECK_FIX_ERRORS)
		c->res->corruptions_fixed++;
	else
		c->res->corruptions++;
	return true;
}

static const char *verb(const struct check *c)
{
	return c->fix & CHECK_FIX_ERRORS ? "Repairing" : "ERROR";
}

static int co_copied_l2(struct check *c, uint64_t l2_off, uint64_t *table)
{
	struct qcow2 *q = c->q;
	unsigned words = q->extended_l2 ? 2 : 1, i;
	bool changed = false;
	int r = co_file_read(q->file, l2_off, table, q->cluster_size);

	for (i = 0; i < 1u << q->l2_bits && !r; i++) {
		uint64_t entry = be64toh(table[words * i]), host = entry & QCOW2_L2_OFFSET_MASK, refcount;

		if (entry & QCOW2_L2_COMPRESSED || host & cluster_mask(q) ||
		    (!host && !(q->external_data && entry & QCOW2_COPIED)))
			continue;
		refcount = q->external_data ? 1 : stored_refcount(c, host);
		if (!wrong_flag(c, entry, refcount))
			continue;
		check_say(c, "%s OFLAG_COPIED data cluster: l2_entry=%" PRIx64 " refcount=%" PRIu64, verb(c),
			  entry, refcount);
		table[words * i] = htobe64(entry ^ QCOW2_COPIED);
		changed = true;
	}
	if (!r && changed && (c->fix & CHECK_FIX_ERRORS))
		r = co_file_write(q->file, l2_off, table, q->cluster_size);
	return r;
}

int co_check_copied(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t bytes = (uint64_t)q->hdr.h.l1_size * 8, l1_off = q->hdr.h.l1_table_offset, *l1, *table;
	uint8_t *seen;                  /* by cluster: a damaged L1 may name a table many times */
	uint32_t i;
	int r;

	if (!bytes || l1_off >= c->file_len)
		return 0;
	l1 = buf_alloc(bytes);
	table = buf_alloc(q->cluster_size);
	seen = calloc(c->nr_clusters / 8 + 1, 1);
	r = l1 && table && seen ? co_file_read(q->file, l1_off, l1, bytes) : -ENOMEM;
	for (i = 0; i < q->hdr.h.l1_size && !r; i++) {
		uint64_t entry = be64toh(l1[i]), off = entry & QCOW2_L1_OFFSET_MASK, be;
		uint64_t cluster = off >> q->cluster_bits;
		uint32_t refcount = stored_refcount(c, off);

		if (!off || off & cluster_mask(q) || off >= c->file_len)
			continue;
		if (wrong_flag(c, entry, refcount)) {
			check_say(c, "%s OFLAG_COPIED L2 cluster: l1_index=%u l1_entry=%" PRIx64 " refcount=%u",
				  verb(c), i, entry, refcount);
			be = htobe64(entry ^ QCOW2_COPIED);
			if (c->fix & CHECK_FIX_ERRORS)
				r = co_file_write(q->file, l1_off + (uint64_t)i * 8, &be, 8);
		}
		if (!r && !(seen[cluster / 8] & 1u << cluster % 8))
			r = co_copied_l2(c, off, table);
		seen[cluster / 8] |= 1u << cluster % 8;
	}
	free(seen);
	buf_free(l1);
	buf_free(table);
	if (!r && c->fix)
		r = co_file_flush(q->file);
	return r;
}
