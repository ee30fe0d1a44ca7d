/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * alloc.c - host clusters for guest clusters, and linking them.
 *
 * co_qcow2_alloc() takes host clusters and pins the piece of the L2 table that will name them;
 * the caller writes; co_qcow2_link() changes the entries, in memory, without a yield. Nothing
 * that an internal snapshot shares (COPIED clear) is ever changed in place: L2 tables
 * are copied before their first change, data clusters are allocated anew.
 * What an entry pointed at before is freed by the commit that makes the change durable.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/plant.h"
#include "qcow/tables.h"

/* --- L1 and L2 entries --- */

void l1_set(struct qcow2 *q, uint64_t index, uint64_t value)
{
	struct qcow2_tables *t = q->t;
	uint64_t sector = index / 64;

	assert(index < q->l1_size);
	q->l1[index] = value;
	t->gen++;
	if (!(t->l1_dirty[sector / 64] & (1ull << (sector % 64)))) {
		t->l1_dirty[sector / 64] |= 1ull << (sector % 64);
		t->nr_l1_dirty++;
	}
}

void l2_entry_set(struct qcow2 *q, struct tblock *b, unsigned slot, uint64_t entry, uint64_t bitmap)
{
	uint64_t *e = b->data;

	if (q->extended_l2) {
		e[slot * 2] = htobe64(entry);
		e[slot * 2 + 1] = htobe64(bitmap);
	} else {
		assert(!bitmap);
		e[slot] = htobe64(entry);
	}
	tblock_dirty(q->t, b);
	q->t->gen++;
}

void l2_entry_free(struct qcow2 *q, uint64_t entry, enum l2_type type)
{
	uint64_t host, len, first;

	if (q->external_data)
		return;
	if (type == L2_COMPRESSED) {
		compressed_range(q, entry, &host, &len);
		first = host >> q->cluster_bits;
		clusters_free_later(q->t, first, ((host + len - 1) >> q->cluster_bits) - first + 1);
	} else if (type == L2_NORMAL || type == L2_ZERO_ALLOC) {
		clusters_free_later(q->t, (entry & QCOW2_L2_OFFSET_MASK) >> q->cluster_bits, 1);
	}
}

/* A new table for an L1 entry: zeros, or a copy of the one that is shared. l2_lock is held. */
static int co_l2_make(struct qcow2 *q, uint64_t l1_index, uint64_t old_off)
{
	struct qcow2_tables *t = q->t;
	void *buf = buf_alloc(q->cluster_size);
	uint64_t off, got;
	bool zeroed;
	int r;

	if (!buf)
		return -ENOMEM;
	memset(buf, 0, q->cluster_size);
	r = old_off ? co_file_read(q->file, old_off, buf, q->cluster_size) : 0;
	if (!r)
		r = co_clusters_take(t, 1, &off, &got, &zeroed);
	if (!r) {
		r = co_write_fresh(t, off, buf, q->cluster_size);
		if (r < 0) {
			clusters_untake(t, off, 1);
		} else {
			l1_set(q, l1_index, off | QCOW2_COPIED);
			if (old_off)
				clusters_free_later(t, old_off >> q->cluster_bits, 1);
		}
	}
	buf_free(buf);
	return r;
}

int co_l2_writable(struct qcow2 *q, uint64_t guest_off, struct l2_slot *s)
{
	struct qcow2_tables *t = q->t;
	uint64_t l1;
	int r;

	for (;;) {
		r = co_l2_lookup(q, guest_off, s);
		if (r < 0)
			return r;
		if (s->block && s->l2_owned)
			return 0;
		if (s->l1_index >= q->l1_size)
			return co_qcow2_damaged(q, "the L1 table has %u entries, too few for the disk",
						q->l1_size);
		co_mutex_lock(&t->l2_lock);
		l1 = q->l1[s->l1_index];
		if (!(l1 & QCOW2_L1_OFFSET_MASK) || !(l1 & QCOW2_COPIED))
			r = co_l2_make(q, s->l1_index, l1 & QCOW2_L1_OFFSET_MASK);
		co_mutex_unlock(&t->l2_lock);
		if (r < 0)
			return r;
	}
}

/* --- allocation --- */

/* How a guest cluster gets its bytes. */
enum alloc_kind {
	ALLOC_NEW,       /* a new host cluster, written whole */
	ALLOC_NEW_SUB,   /* a new host cluster, only the subclusters written count */
	ALLOC_REUSE,     /* the host cluster that is there, written whole */
	ALLOC_REUSE_SUB, /* the host cluster that is there, by subclusters */
	ALLOC_IN_PLACE,  /* it is data already, and ours alone */
};

static bool kind_is_new(enum alloc_kind k)
{
	return k == ALLOC_NEW || k == ALLOC_NEW_SUB;
}

/* Decides for one entry; *host is the cluster that is there, for the kinds that use it. */
static int co_alloc_kind(struct qcow2 *q, uint64_t guest_off, const struct l2_slot *s, unsigned i,
			 enum alloc_kind *kind, uint64_t *host)
{
	uint64_t entry = l2_entry(q, s->block, s->slot + i), bitmap = l2_bitmap(q, s->block, s->slot + i);
	bool owned = q->external_data || (entry & QCOW2_COPIED);
	enum l2_type type;
	const char *why;
	int r;

	r = l2_classify(q, guest_off, entry, bitmap, &type, &why);
	if (!r && l2_on_metadata(q, entry, type)) {
		why = L2_ON_METADATA;
		r = -EIO;
	}
	if (r < 0)
		return co_qcow2_damaged(q, "the L2 entry of guest offset %" PRIu64 " is %s (0x%016" PRIx64
					")", guest_off, why, entry);
	*host = q->external_data ? guest_off : entry & QCOW2_L2_OFFSET_MASK;
	switch (type) {
	case L2_NORMAL:
		*kind = !owned ? ALLOC_NEW : q->extended_l2 ? ALLOC_REUSE_SUB : ALLOC_IN_PLACE;
		break;
	case L2_ZERO_ALLOC:
		*kind = owned ? ALLOC_REUSE : ALLOC_NEW;
		break;
	case L2_COMPRESSED:
		*kind = ALLOC_NEW;
		break;
	default:
		if (q->external_data)
			*kind = q->extended_l2 ? ALLOC_REUSE_SUB : ALLOC_REUSE;
		else
			*kind = q->extended_l2 ? ALLOC_NEW_SUB : ALLOC_NEW;
	}
	return 0;
}

/* The longest run of one kind, at most max clusters. */
static int co_alloc_run(struct qcow2 *q, uint64_t guest_off, const struct l2_slot *s, uint64_t max,
			enum alloc_kind *kind, uint64_t *host, uint64_t *nr)
{
	int r = co_alloc_kind(q, guest_off, s, 0, kind, host);
	uint64_t n;

	for (n = 1; !r && n < max && n < s->in_block; n++) {
		enum alloc_kind k;
		uint64_t h;

		r = co_alloc_kind(q, guest_off + (n << q->cluster_bits), s, (unsigned)n, &k, &h);
		if (r || k != *kind || (!kind_is_new(k) && h != *host + (n << q->cluster_bits)))
			break;
	}
	*nr = n;
	return r;
}

/* What the private words of an allocation hold. */
enum { PRIV_BLOCK, PRIV_SLOT, PRIV_KIND, PRIV_CLUSTERS };

static void link_clusters(struct qcow2 *q, struct layer_alloc *a, uint64_t off, uint64_t end);

int co_qcow2_alloc(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, struct layer_alloc *a)
{
	struct qcow2_tables *t = q->t;
	uint64_t base = guest_off & ~cluster_mask(q), host, nr = 0, got;
	uint64_t want = (guest_off + bytes - base + cluster_mask(q)) >> q->cluster_bits;
	enum alloc_kind kind;
	struct l2_slot s;
	bool zeroed = false;
	int r;

	assert(bytes > 0);
	r = co_commit_throttle(t);
	if (!r)
		r = co_l2_writable(q, base, &s);
	if (!r)
		r = co_alloc_run(q, base, &s, want, &kind, &host, &nr);
	if (r < 0)
		return r;
	tblock_pin(s.block);
	if (kind_is_new(kind)) {
		r = co_clusters_take(t, nr, &host, &got, &zeroed);
		if (r < 0) {
			tblock_unpin(s.block);
			return r;
		}
		nr = got;
	}
	memset(a, 0, sizeof(*a));
	list_init(&a->link);
	a->guest_off = base;
	a->bytes = nr << q->cluster_bits;
	a->host_off = host;
	a->unit = kind == ALLOC_NEW_SUB || kind == ALLOC_REUSE_SUB ? q->unit : q->cluster_size;
	a->zeroed = zeroed;
	a->reused = !kind_is_new(kind);
	a->priv[PRIV_BLOCK] = (uintptr_t)s.block;
	a->priv[PRIV_SLOT] = s.slot;
	a->priv[PRIV_KIND] = kind;
	a->priv[PRIV_CLUSTERS] = nr;
	if (PLANTED(LINK_BEFORE_COPY) && kind == ALLOC_NEW)
		link_clusters(q, a, base, base + a->bytes);
	return 0;
}

void qcow2_alloc_abort(struct qcow2 *q, struct layer_alloc *a)
{
	tblock_unpin((struct tblock *)(uintptr_t)a->priv[PRIV_BLOCK]);
	if (kind_is_new(a->priv[PRIV_KIND]))
		clusters_untake(q->t, a->host_off, a->priv[PRIV_CLUSTERS]);
}

/* The subclusters of the cluster at `base` that [off, end) covers. */
static uint32_t sub_mask(const struct qcow2 *q, uint64_t base, uint64_t off, uint64_t end)
{
	unsigned first, last;

	off = off < base ? base : off;
	end = end > base + q->cluster_size ? base + q->cluster_size : end;
	first = (unsigned)((off - base) / q->unit);
	last = (unsigned)((end - base + q->unit - 1) / q->unit);
	return (last == 32 ? UINT32_MAX : (1u << last) - 1) & ~((1u << first) - 1);
}

/* Links cluster i of the run. */
static void link_cluster(struct qcow2 *q, struct layer_alloc *a, uint64_t i, uint64_t off, uint64_t end)
{
	struct tblock *b = (struct tblock *)(uintptr_t)a->priv[PRIV_BLOCK];
	unsigned slot = (unsigned)(a->priv[PRIV_SLOT] + i);
	uint64_t base = a->guest_off + (i << q->cluster_bits), host = a->host_off + (i << q->cluster_bits);
	uint64_t entry = l2_entry(q, b, slot), bitmap = l2_bitmap(q, b, slot);
	enum alloc_kind kind = a->priv[PRIV_KIND];
	uint32_t alloc = UINT32_MAX, zero = 0, mask;
	enum l2_type type;
	const char *why;
	int r;

	if (kind == ALLOC_IN_PLACE)
		return;
	if (kind == ALLOC_NEW_SUB || kind == ALLOC_REUSE_SUB) {
		mask = sub_mask(q, base, off, end);
		alloc = L2_BITMAP_ALLOC(bitmap) | mask;
		zero = L2_BITMAP_ZERO(bitmap) & ~mask;
	}
	if (kind_is_new(kind)) {
		r = l2_classify(q, base, entry, bitmap, &type, &why);
		assert(!r);
		l2_entry_free(q, entry, type);
	} else {
		/* Nobody takes a cluster away while it is being written to: the range is held. */
		assert(q->external_data || (entry & QCOW2_L2_OFFSET_MASK) == host);
	}
	l2_entry_set(q, b, slot, host | QCOW2_COPIED,
		     q->extended_l2 ? (uint64_t)zero << 32 | alloc : 0);
}

static void link_clusters(struct qcow2 *q, struct layer_alloc *a, uint64_t off, uint64_t end)
{
	uint64_t i;

	for (i = (off - a->guest_off) >> q->cluster_bits;
	     i < (end - a->guest_off + cluster_mask(q)) >> q->cluster_bits; i++)
		link_cluster(q, a, i, off, end);
}

int co_qcow2_link(struct qcow2 *q, struct layer_alloc *a, uint64_t data_off, uint64_t data_bytes)
{
	uint64_t end = data_off + data_bytes, first, last;

	assert(data_bytes > 0 && data_off >= a->guest_off && end <= a->guest_off + a->bytes);
	assert(data_off % a->unit == 0);
	if (!q->writable) {
		qcow2_alloc_abort(q, a);
		return -EIO;
	}
	first = (data_off - a->guest_off) >> q->cluster_bits;
	last = (end - a->guest_off + cluster_mask(q)) >> q->cluster_bits;
	if (!(PLANTED(LINK_BEFORE_COPY) && a->priv[PRIV_KIND] == ALLOC_NEW))
		link_clusters(q, a, data_off, end);
	tblock_unpin((struct tblock *)(uintptr_t)a->priv[PRIV_BLOCK]);
	if (kind_is_new(a->priv[PRIV_KIND])) {
		if (last < a->priv[PRIV_CLUSTERS])
			clusters_untake(q->t, a->host_off + (last << q->cluster_bits),
					a->priv[PRIV_CLUSTERS] - last);
		if (first)
			clusters_untake(q->t, a->host_off, first);
	}
	return 0;
}

/* --- zeroes and discard --- */

struct change {
	bool to_backing;        /* becomes unallocated, else reads as zeros */
	bool unmap;             /* host clusters may go */
	bool has_backing;
};

/* What an entry becomes. */
struct verdict {
	bool change, drop;      /* drop: the old entry's clusters lose a reference */
	uint64_t entry, bitmap;
};

static void become(struct verdict *v, uint64_t entry, uint64_t bitmap, bool drop)
{
	v->change = true;
	v->drop = drop;
	v->entry = entry;
	v->bitmap = bitmap;
}

/* Part of an extended cluster. */
static int judge_part(const struct change *c, enum l2_type type, uint64_t entry, uint64_t bitmap,
		      uint32_t mask, struct verdict *v)
{
	uint32_t alloc = L2_BITMAP_ALLOC(bitmap) & ~mask, zero = L2_BITMAP_ZERO(bitmap);
	bool drop;

	if (type == L2_COMPRESSED)
		return -ENOTSUP;
	if (c->to_backing)
		zero &= ~mask;
	else if (c->has_backing || type != L2_UNALLOCATED)
		zero |= mask;
	drop = type == L2_NORMAL && !alloc && (c->unmap || c->to_backing);
	if (drop || ((uint64_t)zero << 32 | alloc) != bitmap)
		become(v, drop ? 0 : entry, (uint64_t)zero << 32 | alloc, drop);
	return 0;
}

static int judge_whole(const struct qcow2 *q, const struct change *c, enum l2_type type, uint64_t entry,
		       uint64_t bitmap, struct verdict *v)
{
	bool host = type == L2_NORMAL || type == L2_ZERO_ALLOC || type == L2_COMPRESSED;
	uint64_t zero_entry = q->extended_l2 ? 0 : QCOW2_L2_ZERO;
	uint64_t zero_bitmap = q->extended_l2 ? (uint64_t)UINT32_MAX << 32 : 0;

	if (c->to_backing) {
		if (entry || bitmap)
			become(v, 0, 0, host);
		return 0;
	}
	if (!host && !c->has_backing)
		return 0;
	if (q->hdr.h.version < 3) {
		if (c->has_backing || !c->unmap)
			return -ENOTSUP;
		become(v, 0, 0, true);
		return 0;
	}
	if (host && (c->unmap || type == L2_COMPRESSED))
		become(v, zero_entry, zero_bitmap, true);
	else
		become(v, entry | zero_entry, zero_bitmap, false);
	v->change = v->entry != entry || v->bitmap != bitmap;
	return 0;
}

/* Decides about the part [pos, end) of one cluster. */
static int co_judge(struct qcow2 *q, const struct change *c, const struct l2_slot *s, uint64_t pos,
		    uint64_t end, struct verdict *v, enum l2_type *type)
{
	uint64_t base = pos & ~cluster_mask(q), entry = 0, bitmap = 0;
	uint32_t mask = q->extended_l2 ? sub_mask(q, base, pos, end) : UINT32_MAX;
	const char *why;

	memset(v, 0, sizeof(*v));
	if (s->block) {
		entry = l2_entry(q, s->block, s->slot);
		bitmap = l2_bitmap(q, s->block, s->slot);
	}
	if (l2_classify(q, base, entry, bitmap, type, &why) < 0)
		return co_qcow2_damaged(q, "the L2 entry of guest offset %" PRIu64 " is %s (0x%016" PRIx64
					")", base, why, entry);
	if (mask != UINT32_MAX)
		return judge_part(c, *type, entry, bitmap, mask, v);
	return judge_whole(q, c, *type, entry, bitmap, v);
}

/* Gives space of the data file back. The guest reads zeros there whether or not the entry is durable. */
static void co_punch_data_file(struct qcow2 *q, uint64_t off, uint64_t len)
{
	if (len && !q->t->no_punch && co_file_discard(q->data_file, off, len) == -EOPNOTSUPP)
		q->t->no_punch = true;
}

/* One cluster. *punch: its bytes in the data file are of no use any more. */
static int co_change_cluster(struct qcow2 *q, const struct change *c, uint64_t pos, uint64_t end, bool *punch)
{
	struct verdict v;
	struct l2_slot s;
	enum l2_type type;
	int r;

	*punch = false;
	r = co_l2_lookup(q, pos, &s);
	if (!r)
		r = co_judge(q, c, &s, pos, end, &v, &type);
	if (r || !v.change)
		return r;
	if (!s.block || !s.l2_owned) {
		r = co_l2_writable(q, pos, &s);
		if (!r)
			r = co_judge(q, c, &s, pos, end, &v, &type);
		if (r || !v.change)
			return r;
	}
	if (v.drop) {
		l2_entry_free(q, l2_entry(q, s.block, s.slot), type);
		*punch = q->external_data && !c->to_backing;
	}
	l2_entry_set(q, s.block, s.slot, v.entry, v.bitmap);
	return 0;
}

static int co_change(struct qcow2 *q, const struct change *c, uint64_t guest_off, uint64_t bytes)
{
	uint64_t size = q->hdr.h.size, pos = guest_off;
	uint64_t end = bytes < size - guest_off ? guest_off + bytes : size;
	unsigned shift = q->cluster_bits + q->l2_bits;
	uint64_t punch_off = 0, punch_len = 0;
	bool skip_empty = c->to_backing || !c->has_backing, punch;
	int r = 0;

	/* The end of the disk counts as the end of a cluster. */
	if (end == size)
		end = (size + cluster_mask(q)) & ~cluster_mask(q);
	while (pos < end && !r) {
		uint64_t next = (pos & ~cluster_mask(q)) + q->cluster_size;
		uint64_t l1_index = pos >> shift;

		r = co_commit_throttle(q->t);
		if (r)
			break;
		if (skip_empty && l1_index < q->l1_size && !(q->l1[l1_index] & QCOW2_L1_OFFSET_MASK)) {
			pos = (l1_index + 1) << shift;
			continue;
		}
		r = co_change_cluster(q, c, pos, next < end ? next : end, &punch);
		if (punch && punch_off + punch_len != (pos & ~cluster_mask(q))) {
			co_punch_data_file(q, punch_off, punch_len);
			punch_off = pos & ~cluster_mask(q);
			punch_len = 0;
		}
		if (punch)
			punch_len += q->cluster_size;
		pos = next;
	}
	co_punch_data_file(q, punch_off, punch_len);
	return r;
}

int co_qcow2_zero(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, bool unmap, bool has_backing)
{
	struct change c = { .unmap = unmap, .has_backing = has_backing };

	if (guest_off >= q->hdr.h.size || !bytes)
		return 0;
	if (!q->writable)
		return q->fault ? -EIO : -EROFS;
	/* A raw data file must read right without the tables. */
	if (q->raw_external)
		return co_file_zero(q->data_file, guest_off, bytes, unmap ? IO_F_UNMAP : 0);
	return co_change(q, &c, guest_off, bytes);
}

int co_qcow2_discard(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, bool has_backing, bool to_backing)
{
	struct change c = { .unmap = true, .has_backing = has_backing, .to_backing = to_backing };

	if (guest_off >= q->hdr.h.size || !bytes)
		return 0;
	if (!q->writable)
		return q->fault ? -EIO : -EROFS;
	if (q->raw_external)
		return co_file_zero(q->data_file, guest_off, bytes, IO_F_UNMAP);
	return co_change(q, &c, guest_off, bytes);
}
