/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * extents.c - what an image's L1 and L2 tables say about guest ranges.
 *
 * The chain asks this of every layer for every window of its map, so runs of
 * entries are decoded straight from one cached block. All of an answer is true
 * at one instant: when a block had to be read on the way and an entry changed
 * meanwhile (t->gen), the walk begins again.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "qcow/tables.h"

#define NO_HOST UINT64_MAX

int l2_classify(const struct qcow2 *q, uint64_t guest_off, uint64_t entry, uint64_t bitmap,
		enum l2_type *type, const char **why)
{
	uint64_t host = entry & QCOW2_L2_OFFSET_MASK;

	if (entry & QCOW2_L2_COMPRESSED) {
		*type = L2_COMPRESSED;
		*why = q->external_data ? "a compressed cluster in an image with a data file" :
					  "a compressed cluster with a subcluster bitmap";
		return q->external_data || bitmap ? -EIO : 0;
	}
	if (host & cluster_mask(q)) {
		*why = "a cluster at an unaligned offset";
		return -EIO;
	}
	if (!q->extended_l2 && (entry & QCOW2_L2_ZERO)) {
		*type = host || (q->external_data && (entry & QCOW2_COPIED)) ? L2_ZERO_ALLOC : L2_ZERO;
		*why = "a zero cluster in a version 2 image";
		if (q->hdr.h.version < 3)
			return -EIO;
	} else if (host || (q->external_data && (entry & QCOW2_COPIED))) {
		*type = L2_NORMAL;
	} else {
		*type = L2_UNALLOCATED;
		*why = "a subcluster that is allocated in no cluster";
		if (L2_BITMAP_ALLOC(bitmap))
			return -EIO;
	}
	if (L2_BITMAP_ALLOC(bitmap) & L2_BITMAP_ZERO(bitmap)) {
		*why = "a subcluster that is both allocated and zero";
		return -EIO;
	}
	if (q->external_data && (*type == L2_NORMAL || *type == L2_ZERO_ALLOC) &&
	    host != (guest_off & ~cluster_mask(q))) {
		*why = "a cluster whose offset in the data file is not its guest offset";
		return -EIO;
	}
	return 0;
}

bool l2_on_metadata(const struct qcow2 *q, uint64_t entry, enum l2_type type)
{
	return q->writable && !q->external_data && (entry & QCOW2_COPIED) &&
	       (type == L2_NORMAL || type == L2_ZERO_ALLOC) &&
	       overlaps_fixed(q->t, (entry & QCOW2_L2_OFFSET_MASK) >> q->cluster_bits, 1);
}

/* Finds the table and validates where it is. */
static int co_table_of(struct qcow2 *q, uint64_t l1_index, uint64_t *l2_off)
{
	uint64_t l1 = l1_index < q->l1_size ? q->l1[l1_index] : 0;

	*l2_off = l1 & QCOW2_L1_OFFSET_MASK;
	if (!*l2_off)
		return 0;
	if (*l2_off & cluster_mask(q))
		return co_qcow2_damaged(q, "L2 table %" PRIu64 " is at the unaligned offset %" PRIu64,
					l1_index, *l2_off);
	if (*l2_off >= file_size(q->file))
		return co_qcow2_damaged(q, "L2 table %" PRIu64 " is at offset %" PRIu64
					", outside the file", l1_index, *l2_off);
	return 0;
}

static unsigned entries_per_block(const struct qcow2 *q)
{
	return q->t->block_size / q->l2_entry_bytes;
}

int co_l2_lookup(struct qcow2 *q, uint64_t guest_off, struct l2_slot *s)
{
	unsigned per_block = entries_per_block(q);
	int r;

	s->l1_index = guest_off >> (q->cluster_bits + q->l2_bits);
	s->index = (guest_off >> q->cluster_bits) & ((1u << q->l2_bits) - 1);
	s->slot = s->index % per_block;
	s->in_block = per_block - s->slot;
	s->block = NULL;
	for (;;) {
		r = co_table_of(q, s->l1_index, &s->l2_off);
		if (r < 0 || !s->l2_off)
			break;
		r = co_tblock_get(q->t, TBLOCK_L2, s->l2_off + (uint64_t)s->index * q->l2_entry_bytes,
				  &s->block);
		/* The table may have been replaced while its block was read. */
		if (r < 0 || (q->l1[s->l1_index] & QCOW2_L1_OFFSET_MASK) == s->l2_off)
			break;
	}
	s->l2_owned = s->l2_off && (q->l1[s->l1_index] & QCOW2_COPIED);
	return r;
}

/* The answer being built. */
struct walk {
	struct qcow2 *q;
	struct extent *out;
	unsigned n, max;
	uint64_t pos, end;
};

/* Appends [w->pos, next): false when there is no room (w->pos stays). */
static bool emit(struct walk *w, enum extent_kind kind, bool in_place, uint64_t host, uint64_t next)
{
	struct extent *x = w->n ? &w->out[w->n - 1] : NULL;

	if (next > w->end)
		next = w->end;
	if (x && x->kind == kind && x->in_place == in_place && kind != EXT_COMPRESSED &&
	    (host == NO_HOST ? x->host_off == NO_HOST :
	     x->host_off != NO_HOST && x->host_off + x->bytes == host)) {
		x->bytes += next - w->pos;
	} else {
		if (w->n == w->max)
			return false;
		x = &w->out[w->n++];
		x->guest_off = w->pos;
		x->bytes = next - w->pos;
		x->kind = kind;
		x->in_place = in_place;
		x->host_off = host;
	}
	w->pos = next;
	return true;
}

/* One cluster of an extended L2 entry: runs of subclusters of one kind. */
static bool emit_subclusters(struct walk *w, uint64_t entry, uint64_t bitmap, bool owned)
{
	const struct qcow2 *q = w->q;
	uint64_t base = w->pos & ~cluster_mask(q);
	uint64_t host = entry & QCOW2_L2_OFFSET_MASK;
	bool has_host = host || (q->external_data && (entry & QCOW2_COPIED));
	uint32_t alloc = L2_BITMAP_ALLOC(bitmap), zero = L2_BITMAP_ZERO(bitmap);
	unsigned first = (unsigned)((w->pos - base) / q->unit);

	while (first < 32 && w->pos < w->end) {
		uint32_t bit = 1u << first;
		uint32_t set = alloc & bit ? alloc : zero & bit ? zero : ~(alloc | zero);
		uint32_t rest = ~set & ~(bit - 1);
		unsigned stop = rest ? (unsigned)__builtin_ctz(rest) : 32;
		uint64_t next = base + (uint64_t)stop * q->unit;
		uint64_t here = has_host ? host + (w->pos - base) : NO_HOST;
		bool ok;

		if (alloc & bit)
			ok = emit(w, EXT_DATA, owned, here, next);
		else if (zero & bit)
			ok = emit(w, EXT_ZERO, false, here, next);
		else
			ok = emit(w, EXT_UNALLOCATED, false, NO_HOST, next);
		if (!ok)
			return false;
		first = stop;
	}
	return true;
}

/* Emits one cluster: 1, 0 (no room), -EIO. */
static int co_emit_entry(struct walk *w, uint64_t entry, uint64_t bitmap, bool l2_owned)
{
	struct qcow2 *q = w->q;
	uint64_t base = w->pos & ~cluster_mask(q);
	uint64_t in = w->pos - base, next = base + q->cluster_size;
	uint64_t host = (entry & QCOW2_L2_OFFSET_MASK) + in;
	bool owned = q->external_data || (l2_owned && (entry & QCOW2_COPIED));
	enum l2_type type;
	const char *why;
	int r;

	r = l2_classify(q, w->pos, entry, bitmap, &type, &why);
	if (!r && l2_on_metadata(q, entry, type)) {
		why = L2_ON_METADATA;
		r = -EIO;
	}
	if (r < 0)
		return co_qcow2_damaged(q, "the L2 entry of guest offset %" PRIu64 " is %s (0x%016" PRIx64
					")", base, why, entry);
	if (type == L2_COMPRESSED)
		return emit(w, EXT_COMPRESSED, false, NO_HOST, next);
	if (q->extended_l2)
		return emit_subclusters(w, entry, bitmap, owned);
	if (type == L2_UNALLOCATED)
		return emit(w, EXT_UNALLOCATED, false, NO_HOST, next);
	if (type == L2_NORMAL)
		return emit(w, EXT_DATA, owned, host, next);
	return emit(w, EXT_ZERO, false, type == L2_ZERO_ALLOC ? host : NO_HOST, next);
}

/* Emits what a block says from w->pos on: 1 = all of it, 0 = no room, -EIO. */
static int co_walk_block(struct walk *w, const struct tblock *b, unsigned slot, unsigned count, bool owned)
{
	struct qcow2 *q = w->q;
	const uint64_t *e = b->data;
	unsigned words = q->extended_l2 ? 2 : 1;
	unsigned last = slot + count, i = slot;
	int r = 1;

	while (i < last && w->pos < w->end && r > 0) {
		unsigned run = i;

		if (words == 1)
			while (run < last && !e[run])
				run++;
		else
			while (run < last && !(e[2 * run] | e[2 * run + 1]))
				run++;
		if (run > i) {
			uint64_t next = (w->pos & ~cluster_mask(q)) +
					((uint64_t)(run - i) << q->cluster_bits);

			r = emit(w, EXT_UNALLOCATED, false, NO_HOST, next);
			i = run;
			continue;
		}
		r = co_emit_entry(w, be64toh(e[words * i]), words == 2 ? be64toh(e[2 * i + 1]) : 0, owned);
		i++;
	}
	return r;
}

/* One round of the walk: 1 = done, 0 = out of room, -EAGAIN = an entry changed while a block was read. */
static int co_walk(struct walk *w)
{
	struct qcow2 *q = w->q;
	struct qcow2_tables *t = q->t;
	unsigned per_block = entries_per_block(q), table_shift = q->cluster_bits + q->l2_bits;
	uint64_t gen = t->gen, l2_off;
	int r = 1;

	while (w->pos < w->end && r > 0) {
		uint64_t l1_index = w->pos >> table_shift;
		unsigned index = (unsigned)(w->pos >> q->cluster_bits) & ((1u << q->l2_bits) - 1);
		struct tblock *b;
		uint64_t at;

		r = co_table_of(q, l1_index, &l2_off);
		if (r < 0)
			break;
		if (!l2_off) {
			r = emit(w, EXT_UNALLOCATED, false, NO_HOST, (l1_index + 1) << table_shift);
			continue;
		}
		at = l2_off + (uint64_t)index * q->l2_entry_bytes;
		b = tblock_find(t, at);
		if (!b) {
			r = co_tblock_get(t, TBLOCK_L2, at, &b);
			if (r < 0)
				break;
			if (t->gen != gen)
				return -EAGAIN;
		}
		r = co_walk_block(w, b, index % per_block, per_block - index % per_block,
				  q->l1[l1_index] & QCOW2_COPIED);
	}
	return r;
}

int co_qcow2_extents(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, struct extent *out, unsigned max)
{
	struct walk w;
	uint64_t size = q->hdr.h.size;
	int r;

	do {
		w = (struct walk){ .q = q, .out = out, .max = max, .pos = guest_off };
		w.end = guest_off >= size ? guest_off :
			bytes < size - guest_off ? guest_off + bytes : size;
		r = co_walk(&w);
	} while (r == -EAGAIN);
	return r < 0 ? r : (int)w.n;
}
