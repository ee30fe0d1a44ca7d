/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * map.h - private to qcow/: the merged map of a chain, guest range -> where its bytes are.
 *
 * One lookup answers at any depth. The map is made of slices of MAP_SPAN guest
 * bytes, each an array of 64-bit words at the slice's own unit: the coarsest
 * power of two at which every word is uniform (all zero, or one contiguous run
 * of one layer), so a slice that is one run is one word. A two-level radix leads to the
 * slices; both levels grow with what is used, never with the disk's size.
 *
 * Slices are built on first use by walking the layers (map_build.c), kept up to
 * date by map_set() when the chain changes a table, and evicted by a clock under
 * one byte budget.
 *
 * Invariants:
 * - A word names its layer by slot, an identity that never means another layer
 *   while a word can name it; a word of a retired slot counts as unresolved.
 * - What map_set() wrote is never overwritten by a build that began before.
 * - No word comes into a frozen range; it is unresolved until the thaw.
 * - A slice pointer is never kept across a yield. Words and slice pointers are read and
 *   written atomically, so that another thread may look up later.
 */
#ifndef QCHAIN_QCOW_MAP_H
#define QCHAIN_QCOW_MAP_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include "io/co.h"
#include "io/list.h"
#include "qcow/layer.h"

#define MAP_SPAN_BITS 22
#define MAP_SPAN      (1ull << MAP_SPAN_BITS)
#define MAP_MIN_BITS  9
#define MAP_SLOTS     8192u
#define MAP_MAX_DEPTH 512u

/* --- the word: 47 bits host sector, in_place, 3 bits kind, 13 bits slot --- */
enum map_kind {
	MAP_NONE,          /* not resolved: build */
	MAP_ZERO,          /* reads as zeros, whether a layer says so or no layer says anything */
	MAP_DATA,
	MAP_COMPRESSED,    /* every cluster of that layer in this cell is compressed */
};

#define MAP_KIND_SHIFT   13
#define MAP_IN_PLACE     (1ull << 16)
#define MAP_HOST_SHIFT   17
#define MAP_WORD_NONE    0ull
#define MAP_WORD_ZERO    ((uint64_t)MAP_ZERO << MAP_KIND_SHIFT)

static inline uint64_t map_word_data(unsigned slot, uint64_t host_off, bool in_place)
{
	assert(!(host_off & 511) && slot < MAP_SLOTS);
	return (host_off >> 9) << MAP_HOST_SHIFT | (in_place ? MAP_IN_PLACE : 0) |
	       (uint64_t)MAP_DATA << MAP_KIND_SHIFT | slot;
}

static inline uint64_t map_word_compressed(unsigned slot)
{
	return (uint64_t)MAP_COMPRESSED << MAP_KIND_SHIFT | slot;
}

static inline enum map_kind map_word_kind(uint64_t w)
{
	return w >> MAP_KIND_SHIFT & 7;
}

static inline unsigned map_word_slot(uint64_t w)
{
	return w & (MAP_SLOTS - 1);
}

/* The word of what follows w's cell by `bytes`, if the run goes on. */
static inline uint64_t map_word_advance(uint64_t w, uint64_t bytes)
{
	return map_word_kind(w) == MAP_DATA ? w + ((bytes >> 9) << MAP_HOST_SHIFT) : w;
}

/* --- the map --- */
struct map_slice {
	uint8_t unit_bits;
	uint8_t referenced;       /* by a lookup since the clock's hand passed */
	uint64_t index;
	struct list clock;
	uint64_t words[];         /* MAP_SPAN >> unit_bits */
};

struct map_leaf {
	uint64_t used;
	struct map_slice *slices[];   /* 1 << leaf_bits */
};

/* A range whose host clusters are being taken away: nobody may resolve it until the thaw. */
struct map_freeze {
	uint64_t off, end;
	struct co_queue wait;
	struct list link;
};

struct map_builder;

struct chain_map {
	struct reactor *r;

	/* set at the start and when the disk grows */
	uint64_t size;
	unsigned leaf_bits;
	uint64_t nr_slices, nr_top;
	struct map_leaf **top;

	/* layers; changed by map_push_top() and map_retire() */
	struct layer *slots[MAP_SLOTS];   /* NULL: free or retired */
	uint16_t order[MAP_MAX_DEPTH];    /* slots, 0 = base */
	unsigned depth;
	unsigned active_slot;
	unsigned next_slot;

	/* the clock */
	struct list clock;
	uint64_t bytes, budget;

	struct list frozen;               /* struct map_freeze */
	struct list builders;             /* at work */
	struct list idle_builders;
	unsigned nr_builders;
	struct co_queue builder_wait;

	uint64_t hits, builds, evictions;
};

/* budget 0: 64 MiB. NULL when there is no memory. */
struct chain_map *map_new(struct reactor *r, uint64_t size, uint64_t budget);
void map_free(struct chain_map *m);       /* no build may be at work (asserted) */

/*
 * l goes on top; call from the base upward. Returns its slot, or -ENOSPC at MAP_MAX_DEPTH. On a map in
 * use l must say nothing yet (a snapshot); else map_reset().
 */
int map_push_top(struct chain_map *m, struct layer *l);
/*
 * The layer leaves the chain; what data it held resolves again. Nobody may be using it, and the
 * guest must read the same as before (a job moved what counted), else map_reset().
 */
void map_retire(struct chain_map *m, unsigned slot);
/* Forgets everything. */
void map_reset(struct chain_map *m);

struct map_run {
	uint64_t bytes;           /* of the run, from the offset asked for */
	uint64_t host_off;        /* DATA */
	struct layer *layer;      /* DATA, COMPRESSED */
	enum map_kind kind;
	bool in_place;            /* DATA of the active layer that may be overwritten */
};

/* Slow part of map_lookup(): the run goes on into neighbouring cells. */
void map_extend(const struct chain_map *m, uint64_t guest_off, uint64_t bytes, uint64_t word,
		struct map_run *run);

static inline struct map_slice *map_slice_at(const struct chain_map *m, uint64_t guest_off)
{
	uint64_t index = guest_off >> MAP_SPAN_BITS;
	struct map_leaf *leaf;

	assert(index < m->nr_slices);
	leaf = __atomic_load_n(&m->top[index >> m->leaf_bits], __ATOMIC_ACQUIRE);
	if (!leaf)
		return NULL;
	return __atomic_load_n(&leaf->slices[index & ((1ull << m->leaf_bits) - 1)],
			       __ATOMIC_ACQUIRE);
}

/*
 * The run at guest_off, at most bytes (> 0, within the disk), with neighbours
 * that continue it. False if its first byte is not resolved: co_map_build() it.
 */
static inline bool map_lookup(struct chain_map *m, uint64_t guest_off, uint64_t bytes,
			      struct map_run *run)
{
	struct map_slice *s = map_slice_at(m, guest_off);
	uint64_t in, word, unit, left;

	if (!s)
		return false;
	if (!s->referenced)
		s->referenced = 1;
	in = guest_off & (MAP_SPAN - 1);
	unit = 1ull << s->unit_bits;
	word = __atomic_load_n(&s->words[in >> s->unit_bits], __ATOMIC_RELAXED);
	run->kind = map_word_kind(word);
	if (run->kind == MAP_NONE)
		return false;
	run->in_place = false;
	run->host_off = 0;
	run->layer = NULL;
	if (run->kind != MAP_ZERO) {
		run->layer = m->slots[map_word_slot(word)];
		if (!run->layer)
			return false;
		if (run->kind == MAP_DATA) {
			run->host_off = (word >> MAP_HOST_SHIFT << 9) + (in & (unit - 1));
			run->in_place = (word & MAP_IN_PLACE) &&
					map_word_slot(word) == m->active_slot;
		}
	}
	left = unit - (in & (unit - 1));
	run->bytes = left < bytes ? left : bytes;
	if (left < bytes || run->kind == MAP_COMPRESSED)
		map_extend(m, guest_off, bytes, word, run);
	m->hits++;
	return true;
}

/*
 * Resolves what lies at guest_off, and cold neighbours with it. The caller looks
 * up again afterwards, and calls again if that still fails. May yield. -errno when
 * a layer's tables cannot be read.
 */
int co_map_build(struct chain_map *m, uint64_t guest_off);

/*
 * [guest_off, +bytes), multiples of 512, is now what word says (for data: from
 * its host offset on). Only what the map holds or is building changes; the rest
 * is found in the tables when it is needed, which must say the same already.
 */
void map_set(struct chain_map *m, uint64_t guest_off, uint64_t bytes, uint64_t word);

/*
 * From now on until the thaw lookups in the range fail and co_map_build() waits there: to be
 * held by whoever is about to make host clusters of the range unreachable. The thaw leaves
 * the range unresolved; a map_set() right after it says what is there now.
 */
void map_freeze(struct chain_map *m, struct map_freeze *f, uint64_t guest_off, uint64_t bytes);
void map_thaw(struct chain_map *m, struct map_freeze *f);

/* --- shared by map.c and map_build.c --- */
void map_builders_set(struct chain_map *m, uint64_t off, uint64_t end, uint64_t word);
void map_builders_restart(struct chain_map *m);
void map_builders_free(struct chain_map *m);
/* Puts a slice of these words in place of the one at index, and keeps to the budget. 0 or -ENOMEM. */
int map_install(struct chain_map *m, uint64_t index, const uint64_t *words, unsigned unit_bits);

#endif
