// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * map.c - slices of the merged map: look up, change, evict.
 *
 * Invariant: m->bytes is what all slices and leaves take; after an install it
 * is within the budget unless a single slice is larger than that.
 */
#include "qcow/map.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUDGET_DEFAULT (64ull << 20)
#define BUDGET_MIN     (1ull << 20)
#define LEAF_BITS_MIN  9u
#define LEAF_BITS_MAX  17u

static uint64_t slice_bytes(unsigned unit_bits)
{
	return sizeof(struct map_slice) + (MAP_SPAN >> unit_bits) * sizeof(uint64_t);
}

static uint64_t leaf_bytes(const struct chain_map *m)
{
	return sizeof(struct map_leaf) + (sizeof(struct map_slice *) << m->leaf_bits);
}

struct chain_map *map_new(struct reactor *r, uint64_t size, uint64_t budget)
{
	struct chain_map *m = calloc(1, sizeof(*m));
	unsigned bits = 0;

	if (!m)
		return NULL;
	m->r = r;
	m->size = size;
	m->nr_slices = (size >> MAP_SPAN_BITS) + !!(size & (MAP_SPAN - 1));
	while (bits < 64 && 1ull << bits < m->nr_slices)
		bits++;
	m->leaf_bits = (bits + 1) / 2;
	if (m->leaf_bits < LEAF_BITS_MIN)
		m->leaf_bits = LEAF_BITS_MIN;
	if (m->leaf_bits > LEAF_BITS_MAX)
		m->leaf_bits = LEAF_BITS_MAX;
	m->nr_top = (m->nr_slices >> m->leaf_bits) + 1;
	m->top = calloc(m->nr_top, sizeof(*m->top));
	if (!m->top) {
		free(m);
		return NULL;
	}
	m->budget = budget ? budget : BUDGET_DEFAULT;
	if (m->budget < BUDGET_MIN)
		m->budget = BUDGET_MIN;
	list_init(&m->clock);
	list_init(&m->frozen);
	list_init(&m->builders);
	list_init(&m->idle_builders);
	co_queue_init(&m->builder_wait);
	return m;
}

void map_free(struct chain_map *m)
{
	if (!m)
		return;
	assert(list_empty(&m->builders) && list_empty(&m->frozen));
	map_builders_free(m);
	map_reset(m);
	assert(!m->bytes);
	free(m->top);
	free(m);
}

/* --- layers --- */

static int slot_take(struct chain_map *m)
{
	for (unsigned n = 0; n < MAP_SLOTS; n++) {
		unsigned slot = m->next_slot;

		m->next_slot = (slot + 1) % MAP_SLOTS;
		/* second time round: words of retired slots may still be about, so none may stay */
		if (!m->next_slot)
			map_reset(m);
		if (!m->slots[slot])
			return slot;
	}
	return -ENOSPC;
}

int map_push_top(struct chain_map *m, struct layer *l)
{
	int slot;

	if (m->depth == MAP_MAX_DEPTH)
		return -ENOSPC;
	slot = slot_take(m);
	if (slot < 0)
		return slot;
	m->slots[slot] = l;
	m->order[m->depth++] = slot;
	m->active_slot = slot;
	map_builders_restart(m);
	return slot;
}

void map_retire(struct chain_map *m, unsigned slot)
{
	unsigned i = 0;

	while (i < m->depth && m->order[i] != slot)
		i++;
	assert(i < m->depth);
	memmove(&m->order[i], &m->order[i + 1], (m->depth - i - 1) * sizeof(m->order[0]));
	m->depth--;
	m->slots[slot] = NULL;
	if (m->depth)
		m->active_slot = m->order[m->depth - 1];
	map_builders_restart(m);
}

/* --- slices --- */

static struct map_slice *slice_new(uint64_t index, unsigned unit_bits)
{
	struct map_slice *s = malloc(slice_bytes(unit_bits));

	if (!s)
		return NULL;
	s->unit_bits = unit_bits;
	s->referenced = 1;
	s->index = index;
	list_init(&s->clock);
	return s;
}

static void slice_unlink(struct chain_map *m, struct map_slice *s)
{
	struct map_leaf **leafp = &m->top[s->index >> m->leaf_bits];
	struct map_leaf *leaf = *leafp;
	struct map_slice **at = &leaf->slices[s->index & ((1ull << m->leaf_bits) - 1)];

	assert(*at == s);
	__atomic_store_n(at, NULL, __ATOMIC_RELEASE);
	list_del(&s->clock);
	m->bytes -= slice_bytes(s->unit_bits);
	free(s);
	if (!--leaf->used) {
		__atomic_store_n(leafp, NULL, __ATOMIC_RELEASE);
		m->bytes -= leaf_bytes(m);
		free(leaf);
	}
}

static int slice_link(struct chain_map *m, struct map_slice *s)
{
	struct map_leaf **leafp = &m->top[s->index >> m->leaf_bits];
	struct map_slice **at;

	if (!*leafp) {
		struct map_leaf *leaf = calloc(1, leaf_bytes(m));

		if (!leaf)
			return -ENOMEM;
		m->bytes += leaf_bytes(m);
		__atomic_store_n(leafp, leaf, __ATOMIC_RELEASE);
	}
	at = &(*leafp)->slices[s->index & ((1ull << m->leaf_bits) - 1)];
	if (*at) {
		list_del(&(*at)->clock);
		m->bytes -= slice_bytes((*at)->unit_bits);
		free(*at);
	} else {
		(*leafp)->used++;
	}
	__atomic_store_n(at, s, __ATOMIC_RELEASE);
	list_add_tail(&m->clock, &s->clock);
	m->bytes += slice_bytes(s->unit_bits);
	return 0;
}

/* keep is the slice that was put in last: its reader has not looked yet. */
static void evict(struct chain_map *m, const struct map_slice *keep)
{
	while (m->bytes > m->budget) {
		struct map_slice *s = list_first(&m->clock, struct map_slice, clock);

		if (s == keep && s->clock.next == &m->clock)
			return;
		if (s == keep || s->referenced) {
			s->referenced = 0;
			list_del(&s->clock);
			list_add_tail(&m->clock, &s->clock);
			continue;
		}
		slice_unlink(m, s);
		m->evictions++;
	}
}

void map_reset(struct chain_map *m)
{
	while (!list_empty(&m->clock))
		slice_unlink(m, list_first(&m->clock, struct map_slice, clock));
	map_builders_restart(m);
}

int map_install(struct chain_map *m, uint64_t index, const uint64_t *words, unsigned unit_bits)
{
	struct map_slice *s = slice_new(index, unit_bits);

	if (!s)
		return -ENOMEM;
	memcpy(s->words, words, (MAP_SPAN >> unit_bits) * sizeof(*words));
	if (slice_link(m, s) < 0) {
		free(s);
		return -ENOMEM;
	}
	evict(m, s);
	return 0;
}

/* --- look up --- */

static uint64_t cut(uint64_t bytes, uint64_t max)
{
	return bytes < max ? bytes : max;
}

void map_extend(const struct chain_map *m, uint64_t guest_off, uint64_t bytes, uint64_t word,
		struct map_run *run)
{
	struct map_slice *s = map_slice_at(m, guest_off);
	uint64_t end = guest_off + bytes, pos = guest_off + run->bytes;

	if (run->kind == MAP_COMPRESSED) {   /* one cluster is one answer */
		uint64_t cluster = layer_cluster_size(run->layer);
		uint64_t cluster_end = (guest_off & ~(cluster - 1)) + cluster;

		end = cut(end, cluster_end);
		if (pos >= end) {
			run->bytes = end - guest_off;
			return;
		}
	}
	word = map_word_advance(word, 1ull << s->unit_bits);
	while (pos < end) {
		uint64_t unit;

		if (!(pos & (MAP_SPAN - 1)))
			s = map_slice_at(m, pos);
		if (!s)
			break;
		if (__atomic_load_n(&s->words[(pos & (MAP_SPAN - 1)) >> s->unit_bits],
				    __ATOMIC_RELAXED) != word)
			break;
		s->referenced = 1;
		unit = 1ull << s->unit_bits;
		word = map_word_advance(word, unit);
		pos += unit;
	}
	run->bytes = cut(pos, end) - guest_off;
}

/* --- change --- */

static unsigned align_bits(uint64_t a, uint64_t b)
{
	return (a | b) ? __builtin_ctzll(a | b) : 63;
}

/* The same slice with smaller cells; NULL (and the slice gone) when there is no memory. */
static struct map_slice *slice_refine(struct chain_map *m, struct map_slice *s, unsigned unit_bits)
{
	struct map_slice *n = slice_new(s->index, unit_bits);
	unsigned shift = s->unit_bits - unit_bits;
	uint64_t cells = MAP_SPAN >> unit_bits;

	if (!n) {
		slice_unlink(m, s);
		return NULL;
	}
	for (uint64_t i = 0; i < cells; i++)
		n->words[i] = map_word_advance(s->words[i >> shift],
					       (i & ((1ull << shift) - 1)) << unit_bits);
	if (slice_link(m, n) < 0)
		assert(!"the leaf of a slice that is there");
	return n;
}

static void slice_set(struct chain_map *m, struct map_slice *s, uint64_t in, uint64_t len,
		      uint64_t word)
{
	unsigned bits = align_bits(in, len);

	if (len == MAP_SPAN && s->unit_bits < MAP_SPAN_BITS) {
		if (map_install(m, s->index, &word, MAP_SPAN_BITS) < 0)
			slice_unlink(m, s);
		return;
	}
	if (bits < s->unit_bits) {
		assert(bits >= MAP_MIN_BITS);
		s = slice_refine(m, s, bits);
		if (!s)
			return;
	}
	for (uint64_t c = in >> s->unit_bits; c < (in + len) >> s->unit_bits; c++) {
		__atomic_store_n(&s->words[c], word, __ATOMIC_RELEASE);
		word = map_word_advance(word, 1ull << s->unit_bits);
	}
	evict(m, s);
}

/* The first slice at or after index and before end that is there; NULL: none. */
static struct map_slice *next_slice(const struct chain_map *m, uint64_t index, uint64_t end)
{
	while (index < end) {
		const struct map_leaf *leaf = m->top[index >> m->leaf_bits];
		uint64_t leaf_end = ((index >> m->leaf_bits) + 1) << m->leaf_bits;

		if (leaf) {
			for (; index < cut(leaf_end, end); index++) {
				struct map_slice *s =
					leaf->slices[index & ((1ull << m->leaf_bits) - 1)];

				if (s)
					return s;
			}
		}
		index = leaf_end;
	}
	return NULL;
}

void map_set(struct chain_map *m, uint64_t guest_off, uint64_t bytes, uint64_t word)
{
	uint64_t end = cut(guest_off + bytes, m->nr_slices << MAP_SPAN_BITS);
	uint64_t index = guest_off >> MAP_SPAN_BITS;
	uint64_t index_end = (end + MAP_SPAN - 1) >> MAP_SPAN_BITS;
	struct map_slice *s;

	assert(!((guest_off | bytes) & 511));
	if (guest_off >= end)
		return;
	while ((s = next_slice(m, index, index_end))) {
		uint64_t start = s->index << MAP_SPAN_BITS;
		uint64_t from = start > guest_off ? start : guest_off;

		index = s->index + 1;
		slice_set(m, s, from - start, cut(start + MAP_SPAN, end) - from,
			  map_word_advance(word, from - guest_off));
	}
	map_builders_set(m, guest_off, end, word);
}

void map_freeze(struct chain_map *m, struct map_freeze *f, uint64_t guest_off, uint64_t bytes)
{
	f->off = guest_off;
	f->end = guest_off + bytes;
	co_queue_init(&f->wait);
	list_add_tail(&m->frozen, &f->link);
	map_set(m, guest_off, bytes, MAP_WORD_NONE);
}

void map_thaw(struct chain_map *m, struct map_freeze *f)
{
	list_del(&f->link);
	map_set(m, f->off, f->end - f->off, MAP_WORD_NONE);   /* a build may have looked meanwhile */
	co_queue_wake_all(&f->wait);
}
