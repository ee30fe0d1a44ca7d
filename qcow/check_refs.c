// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check_refs.c - counts every reference to a host cluster, from the header down.
 *
 * Entries that cannot be right are reported and, where the repair loses nothing
 * that was there, corrected; a misplaced table is counted but not followed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/check_priv.h"

#define L1_RESERVED 0x7f000000000001ffull
#define L2_RESERVED 0x3f000000000001feull
#define REFT_RESERVED 0x1ffull

/* One L2 table being counted. */
struct l2_count {
	struct check *c;
	bool active;
	uint64_t guest_off;             /* of the table's first entry */
	uint64_t next_host;             /* where a contiguous cluster would be; 0 = none before */
	uint64_t *table;
	bool changed;                   /* entries were repaired */
};

static void set_entry(struct l2_count *n, unsigned i, uint64_t entry, uint64_t bitmap)
{
	if (n->c->q->extended_l2) {
		n->table[2 * i] = htobe64(entry);
		n->table[2 * i + 1] = htobe64(bitmap);
	} else {
		n->table[i] = htobe64(entry);
	}
	n->changed = true;
	n->c->res->corruptions_fixed++;
}

static void count_compressed(struct l2_count *n, unsigned i, uint64_t entry, uint64_t bitmap)
{
	struct check *c = n->c;
	bool fix = c->fix & CHECK_FIX_ERRORS;
	uint64_t host, len;

	if (entry & QCOW2_COPIED) {
		check_say(c, "%s: coffset=0x%" PRIx64 ": copied flag must never be set for compressed "
			  "clusters", fix ? "Repairing" : "ERROR", (uint64_t)(entry & QCOW2_L2_OFFSET_MASK));
		entry &= ~QCOW2_COPIED;
		if (fix)
			set_entry(n, i, entry, bitmap);
		else
			c->res->corruptions++;
	}
	if (c->q->external_data) {
		check_corrupt(c, "ERROR compressed cluster %u with data file, entry=0x%" PRIx64, i, entry);
		return;
	}
	if (bitmap) {
		check_corrupt(c, "ERROR compressed cluster %u with non-zero subcluster allocation bitmap, "
			      "entry=0x%" PRIx64, i, entry);
		return;
	}
	compressed_range(c->q, entry, &host, &len);
	check_ref(c, host, len);
	if (n->active) {
		c->res->allocated_clusters++;
		c->res->compressed_clusters++;
		/* Compressed clusters are read one by one: they count as fragmented. */
		c->res->fragmented_clusters++;
	}
}

/* A preallocated cluster at a crooked place holds nothing: it can become a plain zero. */
static void count_unaligned(struct l2_count *n, unsigned i, uint64_t host, bool has_data, uint64_t bitmap)
{
	struct check *c = n->c;
	bool ext = c->q->extended_l2;

	if (has_data) {
		check_corrupt(c, "ERROR offset=%" PRIx64 ": Data cluster is not properly aligned; L2 entry "
			      "corrupted.", host);
		return;
	}
	check_say(c, "%s offset=%" PRIx64 ": Preallocated cluster is not properly aligned; L2 entry corrupted.",
		  c->fix & CHECK_FIX_ERRORS ? "Repairing" : "ERROR", host);
	if (c->fix & CHECK_FIX_ERRORS)
		set_entry(n, i, ext ? 0 : QCOW2_L2_ZERO, ext ? bitmap : 0);
	else
		c->res->corruptions++;
}

static void count_standard(struct l2_count *n, unsigned i, uint64_t entry, uint64_t bitmap)
{
	struct check *c = n->c;
	const struct qcow2 *q = c->q;
	uint64_t host = entry & QCOW2_L2_OFFSET_MASK;
	bool zero = !q->extended_l2 && (entry & QCOW2_L2_ZERO);
	bool allocated = host || (q->external_data && (entry & QCOW2_COPIED));

	if (entry & L2_RESERVED)
		check_corrupt(c, "ERROR found l2 entry with reserved bits set: %" PRIx64, entry);
	if (zero && q->hdr.h.version < 3)
		check_corrupt(c, "ERROR found zero cluster in a version 2 image: %" PRIx64, entry);
	if (!allocated) {
		if (L2_BITMAP_ALLOC(bitmap))
			check_corrupt(c, "ERROR: Unallocated cluster with non-zero subcluster allocation map");
		else if (L2_BITMAP_ALLOC(bitmap) & L2_BITMAP_ZERO(bitmap))
			check_corrupt(c, "ERROR: Unallocated cluster with corrupted subcluster allocation map");
		return;
	}
	if (L2_BITMAP_ALLOC(bitmap) & L2_BITMAP_ZERO(bitmap))
		check_corrupt(c, "ERROR offset=%" PRIx64 ": Allocated cluster with corrupted subcluster "
			      "allocation bitmap", host);
	if (n->active) {
		c->res->allocated_clusters++;
		if (n->next_host && host != n->next_host)
			c->res->fragmented_clusters++;
		n->next_host = host + q->cluster_size;
	}
	if (q->external_data && host != n->guest_off + ((uint64_t)i << q->cluster_bits))
		check_corrupt(c, "ERROR offset=%" PRIx64 ": External data file host cluster offset does not "
			      "match guest cluster offset %" PRIx64, host,
			      n->guest_off + ((uint64_t)i << q->cluster_bits));
	if (host & cluster_mask(q))
		count_unaligned(n, i, host, q->extended_l2 ? L2_BITMAP_ALLOC(bitmap) : !zero, bitmap);
	else if (!q->external_data)
		check_ref(c, host, q->cluster_size);
}

static int co_count_l2(struct check *c, uint64_t l2_off, uint64_t guest_off, uint64_t *table, bool active)
{
	struct qcow2 *q = c->q;
	struct l2_count n = { .c = c, .active = active, .table = table, .guest_off = guest_off };
	unsigned i;
	int r = co_file_read(q->file, l2_off, table, q->cluster_size);

	if (r < 0) {
		check_say(c, "ERROR: I/O error in check_refcounts_l2");
		c->res->check_errors++;
		return r;
	}
	for (i = 0; i < 1u << q->l2_bits; i++) {
		uint64_t entry = be64toh(table[q->extended_l2 ? 2 * i : i]);
		uint64_t bitmap = q->extended_l2 ? be64toh(table[2 * i + 1]) : 0;

		if (entry & QCOW2_L2_COMPRESSED)
			count_compressed(&n, i, entry, bitmap);
		else if (entry | bitmap)
			count_standard(&n, i, entry, bitmap);
	}
	return n.changed ? co_file_write(q->file, l2_off, table, q->cluster_size) : 0;
}

/* One entry of an L1 table. A table that several entries share is read once; co_count_shared() does the rest. */
static int co_count_l1_entry(struct check *c, uint64_t entry, uint64_t guest_off, uint64_t *table, bool active)
{
	struct qcow2 *q = c->q;
	uint64_t off = entry & QCOW2_L1_OFFSET_MASK, cluster = off >> q->cluster_bits;

	if (entry & L1_RESERVED)
		check_corrupt(c, "ERROR found L1 entry with reserved bits set: %" PRIx64, entry);
	if (!off)
		return 0;
	check_ref(c, off, q->cluster_size);
	if (off & cluster_mask(q)) {
		check_corrupt(c, "ERROR l2_offset=%" PRIx64 ": Table is not cluster aligned; L1 entry corrupted",
			      off);
		return 0;
	}
	if (off >= c->file_len || c->stored[cluster] == UINT32_MAX || c->stored[cluster]++)
		return 0;
	return co_count_l2(c, off, guest_off, table, active);
}

int co_check_l1(struct check *c, uint64_t l1_off, uint32_t l1_size, bool active)
{
	struct qcow2 *q = c->q;
	uint64_t bytes = (uint64_t)l1_size * 8, *l1, *table;
	uint32_t i;
	int r;

	check_ref(c, l1_off, bytes);
	if (!bytes || l1_off >= c->file_len || !check_followable(c, l1_off, bytes))
		return 0;
	l1 = buf_alloc(bytes);
	table = buf_alloc(q->cluster_size);
	r = l1 && table ? co_file_read(q->file, l1_off, l1, bytes) : -ENOMEM;
	for (i = 0; i < l1_size && !r; i++)
		if (l1[i])
			r = co_count_l1_entry(c, be64toh(l1[i]), (uint64_t)i << (q->cluster_bits + q->l2_bits),
					      table, active);
	buf_free(l1);
	buf_free(table);
	return r;
}

/* What an L2 table refers to, nr times more. Its faults have been told. */
static int co_count_again(struct check *c, uint64_t l2_off, uint64_t *table, uint32_t nr)
{
	struct qcow2 *q = c->q;
	int r = co_file_read(q->file, l2_off, table, q->cluster_size);

	for (unsigned i = 0; i < 1u << q->l2_bits && !r; i++) {
		uint64_t entry = be64toh(table[q->extended_l2 ? 2 * i : i]), host, len = q->cluster_size;

		host = entry & QCOW2_L2_OFFSET_MASK;
		if (!(entry & QCOW2_L2_COMPRESSED)) {
			if (!host || host & cluster_mask(q))
				continue;
		} else if (q->extended_l2 && table[2 * i + 1]) {
			continue;
		} else {
			compressed_range(q, entry, &host, &len);
		}
		if (!q->external_data)
			check_ref_more(c, host, len, nr);
	}
	return r;
}

/*
 * L2 tables that snapshots share with the active layer and with each other: each is read once more,
 * however many share it, so that the check's work goes by the size of the file.
 */
static int co_count_shared(struct check *c)
{
	struct qcow2 *q = c->q;
	uint64_t *table = buf_alloc(q->cluster_size);
	int r = table ? 0 : -ENOMEM;

	for (uint64_t i = 0; i <= c->nr_clusters && !r; i++)
		if (c->stored[i] > 1)
			r = co_count_again(c, i << q->cluster_bits, table, c->stored[i] - 1);
	memset(c->stored, 0, (c->nr_clusters + 1) * sizeof(*c->stored));
	buf_free(table);
	return r;
}

/* The refcount table and the blocks that it names. */
static void count_refblocks(struct check *c)
{
	struct qcow2 *q = c->q;
	const struct qcow2_disk_header *h = &q->hdr.h;
	uint64_t i, off, cluster;

	check_ref(c, h->refcount_table_offset, (uint64_t)h->refcount_table_clusters << q->cluster_bits);
	for (i = 0; i < c->reft_entries; i++) {
		off = c->reft[i] & QCOW2_REFT_OFFSET_MASK;
		cluster = off >> q->cluster_bits;
		if (c->reft[i] & REFT_RESERVED) {
			check_corrupt(c, "ERROR refcount table entry %" PRIu64 " has reserved bits set", i);
			c->rebuild = true;
			c->reft[i] = 0;
			continue;
		}
		if (!off)
			continue;
		if (off & cluster_mask(q) || cluster >= c->nr_clusters) {
			check_corrupt(c, "ERROR refcount block %" PRIu64 " is %s", i, off & cluster_mask(q) ?
				      "not cluster aligned; refcount table entry corrupted" : "outside image");
			c->rebuild = true;
			c->reft[i] = 0;
			continue;
		}
		check_ref(c, off, q->cluster_size);
		if (c->refs[cluster] != 1) {
			check_corrupt(c, "ERROR refcount block %" PRIu64 " refcount=%u", i, c->refs[cluster]);
			c->rebuild = true;
		}
	}
}

static void count_luks(struct check *c)
{
	const struct qcow2_header *h = &c->q->hdr;
	uint64_t v[2];
	unsigned i;

	for (i = 0; i < h->nr_exts; i++) {
		if (h->exts[i].type != QCOW2_EXT_LUKS || h->exts[i].len < sizeof(v))
			continue;
		memcpy(v, h->exts[i].data, sizeof(v));
		check_ref(c, be64toh(v[0]), be64toh(v[1]));
	}
}

int co_check_count(struct check *c)
{
	const struct qcow2_disk_header *h = &c->q->hdr.h;
	int r;

	check_ref(c, 0, c->q->cluster_size);
	r = co_check_l1(c, h->l1_table_offset, h->l1_size, true);
	if (!r)
		r = co_check_snapshots(c);
	if (!r)
		r = co_count_shared(c);
	if (!r)
		count_luks(c);
	if (!r)
		r = co_check_bitmaps(c);
	if (!r && c->count_refcounts)
		count_refblocks(c);
	return r;
}
