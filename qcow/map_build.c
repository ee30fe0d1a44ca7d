// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * map_build.c - fills slices of the map by walking the layers, from the top, once for a window.
 *
 * A builder works on a window of cold slices around the one asked for. It keeps
 * one word a cell and a bit a cell that is still to do; each layer is asked only
 * about what is to do. When an extent does not fit the cells they are refined, and if
 * that exceeds the builder's room the window shrinks to the slice asked for.
 *
 * Invariants:
 * - A cell is filled at once with an answer that is true at that moment, and only while it
 *   is to do. map_builders_set() takes cells out of to do; so a change made after
 *   the answer, or before it, always wins.
 * - A change of the layers' order makes the walk start again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "qcow/map.h"
#include "qcow/tables.h"

#define WINDOW        (32ull << 20)
#define MAX_CELLS     (MAP_SPAN >> MAP_MIN_BITS)
#define START_BITS    16
#define MAX_BUILDERS  16
#define BATCH         256
#define AHEAD_MAX     16          /* tables being read side by side */
#define AHEAD_BLOCKS  8           /* of one layer */

static_assert(WINDOW >> START_BITS <= MAX_CELLS, "a window fits at its first unit");

struct map_builder {
	struct list link;
	struct co_queue wait;
	uint64_t target;          /* first byte of the slice asked for */
	uint64_t start, end;      /* window */
	unsigned unit_bits;
	bool restart;
	struct extent ext[BATCH];
	uint64_t todo[MAX_CELLS / 64];
	uint64_t words[MAX_CELLS];
};

static unsigned nr_cells(const struct map_builder *b)
{
	return (b->end - b->start) >> b->unit_bits;
}

static uint64_t min64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* --- cells --- */

static uint64_t mask_from(unsigned bit)
{
	return ~0ull << bit;
}

static uint64_t mask_below(unsigned bit)   /* 1..64 */
{
	return ~0ull >> (64 - bit);
}

static void clear_cells(struct map_builder *b)
{
	unsigned n = nr_cells(b);

	memset(b->words, 0, n * sizeof(b->words[0]));
	memset(b->todo, 0, sizeof(b->todo));
	memset(b->todo, 0xff, n / 64 * sizeof(b->todo[0]));
	if (n % 64)
		b->todo[n / 64] = mask_below(n % 64);
}

/* Keeps only the slice asked for. */
static void shrink(struct map_builder *b)
{
	unsigned skip = (b->target - b->start) >> b->unit_bits;
	unsigned n = MAP_SPAN >> b->unit_bits;
	uint64_t todo[MAX_CELLS / 64] = { 0 };

	for (unsigned i = 0; i < n; i++) {
		unsigned c = skip + i;

		b->words[i] = b->words[c];
		if (b->todo[c / 64] >> (c % 64) & 1)
			todo[i / 64] |= 1ull << (i % 64);
	}
	memcpy(b->todo, todo, sizeof(todo));
	b->start = b->target;
	b->end = b->target + MAP_SPAN;
}

/* Splits cells so that both a and b are cell borders. */
static void refine(struct map_builder *b, uint64_t off, uint64_t end)
{
	unsigned bits = __builtin_ctzll(off | end | 1ull << 63);
	unsigned shift, n;
	uint64_t todo[MAX_CELLS / 64] = { 0 };

	if (bits >= b->unit_bits)
		return;
	assert(bits >= MAP_MIN_BITS);
	if ((b->end - b->start) >> bits > MAX_CELLS)
		shrink(b);
	shift = b->unit_bits - bits;
	n = nr_cells(b) << shift;
	for (unsigned i = n; i-- > 0;) {
		unsigned c = i >> shift;

		if (b->todo[c / 64] >> (c % 64) & 1)
			todo[i / 64] |= 1ull << (i % 64);
		b->words[i] = map_word_advance(b->words[c],
					       (uint64_t)(i & ((1u << shift) - 1)) << bits);
	}
	memcpy(b->todo, todo, sizeof(todo));
	b->unit_bits = bits;
}

/* Fills [off, end), clipped to the window: all of it if force, else what is to do. */
static void fill(struct map_builder *b, uint64_t off, uint64_t end, uint64_t word, bool force)
{
	uint64_t from = max64(off, b->start), to = min64(end, b->end);
	unsigned c, c_end;

	if (from >= to)
		return;
	refine(b, from, to);
	from = max64(off, b->start);   /* the window may have shrunk */
	to = min64(end, b->end);
	if (from >= to)
		return;
	word = map_word_advance(word, from - off);
	c = (from - b->start) >> b->unit_bits;
	c_end = (to - b->start) >> b->unit_bits;
	for (unsigned first = c; c < c_end; c = (c / 64 + 1) * 64) {
		uint64_t mask = mask_from(c % 64);

		if (c_end - c / 64 * 64 < 64)
			mask &= mask_below(c_end % 64);
		if (!force)
			mask &= b->todo[c / 64];
		b->todo[c / 64] &= ~mask;
		for (; mask; mask &= mask - 1) {
			unsigned i = c / 64 * 64 + __builtin_ctzll(mask);

			b->words[i] = map_word_advance(word, (uint64_t)(i - first) << b->unit_bits);
		}
	}
}

/*
 * The next stretch at or after `from` with cells to do: gaps below 64 cells are
 * part of it, one question being cheaper than two. False: none.
 */
static bool next_todo(const struct map_builder *b, uint64_t from, uint64_t *lo, uint64_t *hi)
{
	unsigned n = nr_cells(b), c, w, last;
	uint64_t bits;

	if (from >= b->end)
		return false;
	c = from <= b->start ? 0 : (from - b->start) >> b->unit_bits;
	w = c / 64;
	bits = b->todo[w] & mask_from(c % 64);
	while (!bits) {
		if (++w >= (n + 63) / 64)
			return false;
		bits = b->todo[w];
	}
	*lo = b->start + ((uint64_t)(w * 64 + __builtin_ctzll(bits)) << b->unit_bits);
	do {
		last = w * 64 + 63 - __builtin_clzll(bits);
		bits = ++w < (n + 63) / 64 ? b->todo[w] : 0;
	} while (bits);
	*hi = b->start + ((uint64_t)(last + 1) << b->unit_bits);
	return true;
}

/* --- the walk --- */

/* True if no L1 entry of this layer says anything about the window: nothing to ask. */
static bool layer_is_empty(const struct layer *l, uint64_t start, uint64_t end)
{
	const struct qcow2 *q = layer_qcow2(l);
	unsigned shift;

	if (!q)
		return false;
	shift = q->cluster_bits + q->l2_bits;
	for (uint64_t i = start >> shift; i <= (end - 1) >> shift && i < q->l1_size; i++)
		if (q->l1[i] & QCOW2_L1_OFFSET_MASK)
			return false;
	return true;
}

/* --- reading ahead --- */

struct ahead {
	struct layer *l;
	uint64_t guest_off;
};

static int co_ahead(void *arg)
{
	struct ahead a = *(struct ahead *)arg;
	struct extent x;

	co_layer_extents(a.l, a.guest_off, 512, &x, 1);   /* a failure shows again in the walk */
	return 0;
}

/* Is the piece of the L2 table for guest_off one that would have to be read? *next: where the following one begins. */
static bool block_missing(const struct qcow2 *q, uint64_t guest_off, uint64_t *next)
{
	unsigned table_bits = q->cluster_bits + q->l2_bits;
	uint64_t index = (guest_off & ((1ull << table_bits) - 1)) >> q->cluster_bits;
	uint64_t span = (uint64_t)(q->t->block_size / q->l2_entry_bytes) << q->cluster_bits;
	uint64_t l2_off = guest_off >> table_bits < q->l1_size ?
			  q->l1[guest_off >> table_bits] & QCOW2_L1_OFFSET_MASK : 0;

	*next = (guest_off & ~(span - 1)) + span;
	return l2_off && !tblock_find(q->t, l2_off + index * q->l2_entry_bytes);
}

/*
 * Has the tables of the next `count` layers below (from layer i down) read for what is
 * still to do, side by side: one after the other a cold chain would wait once a layer.
 */
static void co_read_ahead(struct chain_map *m, struct map_builder *b, unsigned i, unsigned count)
{
	struct ahead ahead[AHEAD_MAX];
	unsigned n = 0;
	uint64_t lo, hi, next;
	struct co_group g;

	if (!next_todo(b, b->start, &lo, &hi))
		return;
	co_group_init(&g, m->r, AHEAD_MAX);
	for (; count--; i--) {
		struct layer *l = m->slots[m->order[i]];
		const struct qcow2 *q = layer_qcow2(l);
		uint64_t end = min64(hi, layer_size(l));
		unsigned blocks = 0;

		if (!q || !q->t)
			continue;
		for (uint64_t off = lo; off < end && n < AHEAD_MAX && blocks < AHEAD_BLOCKS; off = next)
			if (block_missing(q, off, &next)) {
				ahead[n++] = (struct ahead){ l, off };
				blocks++;
			}
	}
	for (unsigned k = 0; n > 1 && k < n; k++)
		co_group_start(&g, co_ahead, &ahead[k]);
	co_group_wait(&g);
}

static uint64_t extent_word(const struct extent *x, unsigned slot)
{
	/* a hole of a writable raw image reads as zeros, but a write has its place there */
	if (x->kind == EXT_ZERO && x->in_place && x->host_off != UINT64_MAX)
		return map_word_data(slot, x->host_off, true);
	switch (x->kind) {
	case EXT_DATA:
		return map_word_data(slot, x->host_off, x->in_place);
	case EXT_COMPRESSED:
		return map_word_compressed(slot);
	default:
		return MAP_WORD_ZERO;
	}
}

/* What layer i says about [lo, hi). Sets b->restart as it happens. */
static int co_ask(struct chain_map *m, struct map_builder *b, unsigned i, uint64_t lo, uint64_t hi)
{
	unsigned slot = m->order[i];
	struct layer *l = m->slots[slot];

	hi = min64(hi, layer_size(l));
	while (lo < hi) {
		int n = co_layer_extents(l, lo, hi - lo, b->ext, BATCH);

		if (n < 0)
			return n;
		if (b->restart)
			return 0;
		assert(n > 0);
		for (int k = 0; k < n; k++) {
			const struct extent *x = &b->ext[k];

			lo = x->guest_off + x->bytes;
			if (x->kind == EXT_UNALLOCATED)
				continue;
			/* the end of the disk is no reason for small cells */
			fill(b, x->guest_off, lo >= m->size ? UINT64_MAX : lo,
			     extent_word(x, slot), false);
		}
	}
	return 0;
}

static int co_walk(struct chain_map *m, struct map_builder *b)
{
	unsigned ahead = 0;

	clear_cells(b);
	b->restart = false;
	for (unsigned i = m->depth; i-- > 0;) {
		const struct layer *l = m->slots[m->order[i]];
		uint64_t lo, hi, from = b->start;

		/* a layer that ends before the disk does hides what is below it there: zeros */
		if (layer_size(l) < m->size)
			fill(b, layer_size(l), b->end, MAP_WORD_ZERO, false);
		if (layer_is_empty(l, b->start, b->end))
			continue;
		if (m->depth - i > ahead) {   /* twice as far each time: the top layers may decide it all */
			unsigned more = min64(min64(ahead + 1, AHEAD_MAX), i + 1);

			co_read_ahead(m, b, i, more);
			if (b->restart)
				return 0;
			ahead = m->depth - i - 1 + more;
		}
		while (next_todo(b, from, &lo, &hi)) {
			int rc = co_ask(m, b, i, lo, hi);

			if (rc < 0 || b->restart)
				return rc;
			from = hi;
		}
		if (!next_todo(b, b->start, &lo, &hi))
			return 0;
	}
	fill(b, b->start, b->end, MAP_WORD_ZERO, false);   /* in no layer */
	return 0;
}

/* --- from the window to slices --- */

/* Joins pairs of cells as long as all of them join; works on words in place. Returns the unit. */
static unsigned coarsen(uint64_t *words, unsigned unit_bits)
{
	for (unsigned n = MAP_SPAN >> unit_bits; n > 1; n /= 2, unit_bits++) {
		for (unsigned i = 0; i < n; i += 2)
			if (words[i + 1] != map_word_advance(words[i], 1ull << unit_bits))
				return unit_bits;
		for (unsigned i = 0; i < n / 2; i++)
			words[i] = words[2 * i];
	}
	return unit_bits;
}

static int install_at(struct chain_map *m, struct map_builder *b, uint64_t off)
{
	uint64_t *words = b->words + ((off - b->start) >> b->unit_bits);
	unsigned bits = coarsen(words, b->unit_bits);

	return map_install(m, off >> MAP_SPAN_BITS, words, bits);
}

static int install(struct chain_map *m, struct map_builder *b)
{
	struct map_freeze *f;

	list_for_each(f, &m->frozen, link)
		fill(b, f->off, f->end, MAP_WORD_NONE, true);
	for (uint64_t off = b->start; off < b->end; off += MAP_SPAN)
		if (off != b->target && install_at(m, b, off) < 0)
			break;   /* nobody waits for this one */
	m->builds++;
	return install_at(m, b, b->target);   /* last: the clock comes to it last */
}

/* --- builders --- */

static struct map_builder *builder_get(struct chain_map *m)
{
	struct map_builder *b;

	if (!list_empty(&m->idle_builders)) {
		b = list_first(&m->idle_builders, struct map_builder, link);
		list_del(&b->link);
		return b;
	}
	if (m->nr_builders == MAX_BUILDERS)
		return NULL;
	b = malloc(sizeof(*b));
	if (!b)
		return NULL;
	m->nr_builders++;
	co_queue_init(&b->wait);
	return b;
}

static bool is_cold(const struct chain_map *m, uint64_t off)
{
	struct map_builder *b;

	if (off >> MAP_SPAN_BITS >= m->nr_slices || map_slice_at(m, off))
		return false;
	list_for_each(b, &m->builders, link)
		if (off >= b->start && off < b->end)
			return false;
	return true;
}

/* The window: the slice asked for, and the cold ones beside it within an aligned block. */
static void window(const struct chain_map *m, struct map_builder *b, uint64_t guest_off)
{
	uint64_t block = guest_off & ~(WINDOW - 1);

	b->target = guest_off & ~(MAP_SPAN - 1);
	b->start = b->target;
	b->end = b->target + MAP_SPAN;
	if (map_slice_at(m, guest_off))
		goto out;   /* there, but with holes: this one alone */
	while (b->start > block && is_cold(m, b->start - MAP_SPAN))
		b->start -= MAP_SPAN;
	while (b->end < block + WINDOW && is_cold(m, b->end))
		b->end += MAP_SPAN;
out:
	b->unit_bits = START_BITS;
}

/* Waits for whatever stands in the way of a build at guest_off; false if nothing does. */
static bool co_wait_for_others(struct chain_map *m, uint64_t guest_off)
{
	struct map_freeze *f;
	struct map_builder *b;

	list_for_each(f, &m->frozen, link) {
		if (guest_off >= f->off && guest_off < f->end) {
			co_queue_wait(&f->wait);
			return true;
		}
	}
	list_for_each(b, &m->builders, link) {
		if (guest_off >= b->start && guest_off < b->end) {
			co_queue_wait(&b->wait);
			return true;
		}
	}
	return false;
}

int co_map_build(struct chain_map *m, uint64_t guest_off)
{
	struct map_builder *b;
	int rc;

	if (co_wait_for_others(m, guest_off))
		return 0;
	b = builder_get(m);
	if (!b) {
		if (list_empty(&m->builders))
			return -ENOMEM;
		co_queue_wait(&m->builder_wait);
		return 0;
	}
	window(m, b, guest_off);
	list_add_tail(&m->builders, &b->link);
	do
		rc = co_walk(m, b);
	while (!rc && b->restart);
	if (!rc)
		rc = install(m, b);
	list_del(&b->link);
	list_add(&m->idle_builders, &b->link);
	co_queue_wake_all(&b->wait);
	/* All: one that finds its range built by now needs no builder, and would not wake the next. */
	co_queue_wake_all(&m->builder_wait);
	return rc;
}

void map_builders_set(struct chain_map *m, uint64_t off, uint64_t end, uint64_t word)
{
	struct map_builder *b;

	list_for_each(b, &m->builders, link)
		fill(b, off, end, word, true);
}

void map_builders_restart(struct chain_map *m)
{
	struct map_builder *b;

	list_for_each(b, &m->builders, link)
		b->restart = true;
}

void map_builders_free(struct chain_map *m)
{
	while (!list_empty(&m->idle_builders)) {
		struct map_builder *b = list_first(&m->idle_builders, struct map_builder, link);

		list_del(&b->link);
		free(b);
	}
}
