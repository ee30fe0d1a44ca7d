// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_qcow_map.c - the merged map over layers that exist only here, against a byte-exact model.
 *
 * The map's code is compiled into this file with the layer functions it calls
 * replaced, so that a layer can answer slowly, change while it is asked, or fail.
 */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "io/reactor.h"
#include "qcow/layer.h"
#include "qcow/qcow2.h"

#define co_layer_extents   fake_extents
#define layer_size         fake_size
#define layer_cluster_size fake_cluster_size
#define layer_qcow2        fake_qcow2

static int fake_extents(struct layer *l, uint64_t off, uint64_t bytes, struct extent *out,
			unsigned max);
static uint64_t fake_size(const struct layer *l);
static uint32_t fake_cluster_size(const struct layer *l);
static struct qcow2 *fake_qcow2(const struct layer *l);

#include "qcow/map.c"
#include "qcow/map_build.c"

/* --- layers made up --- */

struct layer {
	uint64_t size;
	uint32_t unit;               /* extents are made of these */
	struct extent *units;        /* one per unit */
	unsigned asked;
	bool slow;                   /* yields before it looks */
	int fail;
	void (*while_asked)(struct layer *l);
};

static struct reactor *reactor;

static uint64_t fake_size(const struct layer *l)
{
	return l->size;
}

static uint32_t fake_cluster_size(const struct layer *l)
{
	return l->unit;
}

static struct qcow2 *fake_qcow2(const struct layer *l)
{
	return NULL;
}

static int fake_extents(struct layer *l, uint64_t off, uint64_t bytes, struct extent *out,
			unsigned max)
{
	uint64_t end = off + bytes < l->size ? off + bytes : l->size;
	unsigned n = 0;

	l->asked++;
	if (l->slow)
		co_reschedule();
	if (l->while_asked) {
		void (*fn)(struct layer *) = l->while_asked;

		l->while_asked = NULL;
		fn(l);
	}
	if (l->fail)
		return l->fail;
	while (off < end && n < max) {
		const struct extent *u = &l->units[off / l->unit];
		uint64_t next = (off / l->unit + 1) * l->unit;

		out[n] = *u;
		out[n].guest_off = off;
		out[n].bytes = (next < end ? next : end) - off;
		if (u->host_off != UINT64_MAX)
			out[n].host_off = u->host_off + off % l->unit;
		off += out[n++].bytes;
	}
	return n;
}

static struct layer *layer_make(uint64_t size, uint32_t unit)
{
	struct layer *l = calloc(1, sizeof(*l));
	uint64_t n = size / unit + 1;

	l->size = size;
	l->unit = unit;
	l->units = calloc(n, sizeof(*l->units));
	for (uint64_t i = 0; i < n; i++)
		l->units[i] = (struct extent){ .kind = EXT_UNALLOCATED, .host_off = UINT64_MAX };
	return l;
}

static void layer_drop(struct layer *l)
{
	free(l->units);
	free(l);
}

static void set_unit(struct layer *l, uint64_t i, enum extent_kind kind, uint64_t host, bool in_place)
{
	l->units[i].kind = kind;
	l->units[i].host_off = kind == EXT_DATA ? host : UINT64_MAX;
	l->units[i].in_place = in_place && kind == EXT_DATA;
}

/* --- the model: asks the layers for one sector --- */

static void expect_sector(struct chain_map *m, struct layer **layers, unsigned depth, uint64_t off,
			  const struct map_run *run)
{
	for (unsigned i = depth; i-- > 0;) {
		struct layer *l = layers[i];
		const struct extent *u = &l->units[off / l->unit];

		if (off >= l->size)
			break;   /* its end hides what is below */
		if (u->kind == EXT_UNALLOCATED)
			continue;
		if (u->kind == EXT_ZERO)
			break;
		assert_ptr_equal(run->layer, l);
		if (u->kind == EXT_COMPRESSED) {
			assert_int_equal(run->kind, MAP_COMPRESSED);
			return;
		}
		assert_int_equal(run->kind, MAP_DATA);
		assert_int_equal(run->host_off, u->host_off + off % l->unit);
		assert_int_equal(run->in_place, u->in_place && i == depth - 1);
		return;
	}
	assert_int_equal(run->kind, MAP_ZERO);
}

static void lookup(struct chain_map *m, uint64_t off, uint64_t bytes, struct map_run *run)
{
	while (!map_lookup(m, off, bytes, run))
		assert_int_equal(co_map_build(m, off), 0);
}

/* Every sector of every run is what the layers say. */
static void expect_all(struct chain_map *m, struct layer **layers, unsigned depth)
{
	for (uint64_t off = 0; off < m->size;) {
		struct map_run run, at;

		lookup(m, off, m->size - off, &run);
		assert_true(run.bytes > 0 && run.bytes <= m->size - off);
		for (uint64_t in = 0; in < run.bytes; in += 512) {
			at = run;
			at.host_off += in;
			expect_sector(m, layers, depth, off + in, &at);
		}
		off += run.bytes;
	}
}

static struct chain_map *map_of(uint64_t size, uint64_t budget, struct layer **layers, unsigned n)
{
	struct chain_map *m = map_new(reactor, size, budget);

	assert_non_null(m);
	for (unsigned i = 0; i < n; i++)
		assert_true(map_push_top(m, layers[i]) >= 0);
	return m;
}

/* --- tests; each runs as a coroutine --- */

static int one_run_is_one_word(void *arg)
{
	struct layer *l = layer_make(64 << 20, 65536);
	struct chain_map *m;
	struct map_run run;

	for (unsigned i = 0; i < 1024; i++)
		set_unit(l, i, EXT_DATA, (1u << 20) + i * 65536ull, true);
	m = map_of(l->size, 0, &l, 1);
	lookup(m, 12345 * 512, 40 << 20, &run);
	/* the window ends at 32 MiB: the rest is cold */
	assert_int_equal(run.bytes, (32 << 20) - 12345 * 512);
	lookup(m, 33 << 20, 512, &run);
	lookup(m, 12345 * 512, 40 << 20, &run);
	assert_int_equal(run.bytes, 40 << 20);
	assert_int_equal(run.host_off, (1 << 20) + 12345 * 512);
	assert_true(run.in_place);
	for (unsigned i = 0; i < 16; i++)
		assert_int_equal(map_slice_at(m, i * MAP_SPAN)->unit_bits, MAP_SPAN_BITS);
	assert_int_equal(m->builds, 2);
	map_free(m);
	layer_drop(l);
	return 0;
}

static unsigned rnd(unsigned *seed, unsigned n)
{
	*seed = *seed * 1103515245u + 12345u;
	return (*seed >> 8) % n;
}

static void scatter(struct layer *l, unsigned *seed, unsigned per_mille)
{
	uint64_t n = (l->size + l->unit - 1) / l->unit;

	for (uint64_t i = 0; i < n; i++) {
		if (rnd(seed, 1000) >= per_mille)
			continue;
		set_unit(l, i, (enum extent_kind[]){ EXT_ZERO, EXT_DATA, EXT_DATA,
						     EXT_COMPRESSED }[rnd(seed, 4)],
			 (uint64_t)rnd(seed, 1 << 20) * l->unit, rnd(seed, 2));
	}
}

static int layers_of_all_sizes(void *arg)
{
	static const uint32_t units[] = { 65536, 512, 4096, 2 << 20, 131072, 1024 };

	for (unsigned seed = 1; seed <= 6; seed++) {
		struct layer *layers[6];
		struct chain_map *m;
		unsigned s = seed;

		for (unsigned i = 0; i < 6; i++) {
			/* ends inside a unit, smaller and larger than what is above */
			uint64_t size = (9u << 20) + rnd(&s, 16384) * 512;

			layers[i] = layer_make(size, units[(i + seed) % 6]);
			scatter(layers[i], &s, 150);
		}
		m = map_of(layers[5]->size, 0, layers, 6);
		expect_all(m, layers, 6);
		expect_all(m, layers, 6);
		map_free(m);
		for (unsigned i = 0; i < 6; i++)
			layer_drop(layers[i]);
	}
	return 0;
}

static int changes_refine_and_stay(void *arg)
{
	struct layer *layers[2] = { layer_make(24 << 20, 65536), layer_make(24 << 20, 4096) };
	struct chain_map *m;
	unsigned s = 7, asked;

	for (unsigned i = 0; i < 384; i++)
		set_unit(layers[0], i, EXT_DATA, i * 65536ull, true);
	m = map_of(24 << 20, 0, layers, 2);
	expect_all(m, layers, 2);
	asked = layers[1]->asked;
	for (unsigned k = 0; k < 4000; k++) {
		uint64_t i = rnd(&s, 6144), host = (uint64_t)rnd(&s, 1 << 20) * 4096;

		if (k % 3) {
			set_unit(layers[1], i, EXT_DATA, host, true);
			map_set(m, i * 4096, 4096, map_word_data(m->active_slot, host, true));
		} else {
			set_unit(layers[1], i, EXT_ZERO, 0, false);
			map_set(m, i * 4096, 4096, MAP_WORD_ZERO);
		}
	}
	expect_all(m, layers, 2);
	/* nothing had to be asked again */
	assert_int_equal(layers[1]->asked, asked);
	/* a whole slice becomes one word again */
	for (unsigned i = 1024; i < 2048; i++)
		set_unit(layers[1], i, EXT_ZERO, 0, false);
	map_set(m, MAP_SPAN, MAP_SPAN, MAP_WORD_ZERO);
	assert_int_equal(map_slice_at(m, MAP_SPAN)->unit_bits, MAP_SPAN_BITS);
	expect_all(m, layers, 2);
	map_free(m);
	layer_drop(layers[0]);
	layer_drop(layers[1]);
	return 0;
}

static struct chain_map *the_map;

/* The top layer gets data while the layer below is asked. */
static struct layer *top_layer;
static void link_on_top(struct layer *l)
{
	set_unit(top_layer, 5, EXT_DATA, 65536 * 77, true);
	map_set(the_map, 5 * 65536, 65536, map_word_data(the_map->active_slot, 65536 * 77, true));
	set_unit(top_layer, 9, EXT_ZERO, 0, false);
	map_set(the_map, 9 * 65536, 65536, MAP_WORD_ZERO);
}

static int a_change_during_a_build_wins(void *arg)
{
	struct layer *layers[2] = { layer_make(8 << 20, 65536), layer_make(8 << 20, 65536) };

	for (unsigned i = 0; i < 128; i++)
		set_unit(layers[0], i, EXT_DATA, i * 65536ull, true);
	the_map = map_of(8 << 20, 0, layers, 2);
	top_layer = layers[1];
	layers[0]->while_asked = link_on_top;
	expect_all(the_map, layers, 2);
	assert_int_equal(the_map->builds, 1);
	map_free(the_map);
	layer_drop(layers[0]);
	layer_drop(layers[1]);
	return 0;
}

static struct layer *pushed;
static void push_on_top(struct layer *l)
{
	assert_true(map_push_top(the_map, pushed) >= 0);
}

static int a_new_layer_during_a_build_starts_it_again(void *arg)
{
	struct layer *layers[3];
	unsigned s = 3;

	for (unsigned i = 0; i < 3; i++) {
		layers[i] = layer_make(8 << 20, 65536);
		scatter(layers[i], &s, 300);
	}
	pushed = layers[2];
	the_map = map_of(8 << 20, 0, layers, 2);
	layers[0]->while_asked = push_on_top;
	expect_all(the_map, layers, 3);
	map_free(the_map);
	for (unsigned i = 0; i < 3; i++)
		layer_drop(layers[i]);
	return 0;
}

static int build_child(void *arg)
{
	struct map_run run;

	lookup(the_map, (uint64_t)(uintptr_t)arg, 512, &run);
	return 0;
}

static int builders_share(void *arg)
{
	struct layer *l = layer_make(256 << 20, 1 << 20);
	struct co_group g;

	l->slow = true;
	the_map = map_of(l->size, 0, &l, 1);
	co_group_init(&g, reactor, 0);
	for (unsigned i = 0; i < 64; i++)
		co_group_start(&g, build_child, (void *)(uintptr_t)(i << 22));
	assert_int_equal(co_group_wait(&g), 0);
	assert_int_equal(the_map->builds, 8);      /* windows of 32 MiB */
	assert_int_equal(l->asked, 8);
	map_free(the_map);
	layer_drop(l);
	return 0;
}

/* More windows than builders, and several readers of each: nobody waits for a builder for ever. */
static int builders_run_out(void *arg)
{
	struct layer *l = layer_make(1 << 30, 1 << 20);
	struct co_group g;

	l->slow = true;
	the_map = map_of(l->size, 0, &l, 1);
	co_group_init(&g, reactor, 0);
	for (unsigned i = 0; i < 256; i++)
		co_group_start(&g, build_child, (void *)((uintptr_t)i << 22));
	assert_int_equal(co_group_wait(&g), 0);
	assert_int_equal(the_map->builds, 32);
	map_free(the_map);
	layer_drop(l);
	return 0;
}

static struct map_freeze fz;

static int thaw_child(void *arg)
{
	struct layer *l = arg;

	co_reschedule();
	co_reschedule();
	set_unit(l, 3, EXT_ZERO, 0, false);
	map_thaw(the_map, &fz);
	map_set(the_map, 3 * 65536, 65536, MAP_WORD_ZERO);
	return 0;
}

static int a_frozen_range_waits(void *arg)
{
	struct layer *l = layer_make(8 << 20, 65536);
	struct co_group g;
	struct map_run run;

	for (unsigned i = 0; i < 128; i++)
		set_unit(l, i, EXT_DATA, i * 65536ull, true);
	the_map = map_of(l->size, 0, &l, 1);
	/* cold, so that the build itself has to leave the range out */
	map_freeze(the_map, &fz, 3 * 65536, 65536);
	lookup(the_map, 0, 65536, &run);
	assert_false(map_lookup(the_map, 3 * 65536, 512, &run));
	assert_true(map_lookup(the_map, 4 * 65536, 512, &run));
	co_group_init(&g, reactor, 0);
	co_group_start(&g, thaw_child, l);
	lookup(the_map, 3 * 65536 + 512, 512, &run);
	assert_int_equal(run.kind, MAP_ZERO);
	assert_int_equal(co_group_wait(&g), 0);
	expect_all(the_map, &l, 1);
	map_free(the_map);
	layer_drop(l);
	return 0;
}

static int a_retired_layer_resolves_again(void *arg)
{
	struct layer *layers[3];
	struct layer *left[2];
	struct chain_map *m;
	unsigned s = 11;

	for (unsigned i = 0; i < 3; i++) {
		layers[i] = layer_make(20 << 20, 65536);
		scatter(layers[i], &s, 300);
	}
	m = map_of(20 << 20, 0, layers, 3);
	expect_all(m, layers, 3);
	/* as a stream leaves it: what the middle one decided is in the top one now */
	for (unsigned i = 0; i < 320; i++) {
		if (layers[2]->units[i].kind != EXT_UNALLOCATED ||
		    layers[1]->units[i].kind == EXT_UNALLOCATED)
			continue;
		set_unit(layers[2], i, layers[1]->units[i].kind == EXT_ZERO ? EXT_ZERO : EXT_DATA,
			 (i + 5000) * 65536ull, true);
	}
	map_retire(m, m->order[1]);
	left[0] = layers[0];
	left[1] = layers[2];
	expect_all(m, left, 2);
	map_free(m);
	for (unsigned i = 0; i < 3; i++)
		layer_drop(layers[i]);
	return 0;
}

/* Snapshots that are written to and committed, again and again, until slots are used anew. */
static int slots_come_round(void *arg)
{
	struct layer *base = layer_make(8 << 20, 65536), *top = layer_make(8 << 20, 65536);
	struct chain_map *m = map_of(base->size, 0, &base, 1);
	struct layer *both[2] = { base, top };
	unsigned s = 5;

	scatter(base, &s, 500);
	for (unsigned i = 0; i < 2 * MAP_SLOTS + 10; i++) {
		unsigned u = rnd(&s, 128);
		uint64_t host = rnd(&s, 1 << 20) * 65536ull;
		int slot = map_push_top(m, top);

		assert_true(slot > 0);
		set_unit(top, u, EXT_DATA, host, true);
		map_set(m, u * 65536, 65536, map_word_data(slot, host, true));
		if (i % 512 == 0 || i % MAP_SLOTS < 3 || i % MAP_SLOTS > MAP_SLOTS - 3)
			expect_all(m, both, 2);
		set_unit(base, u, EXT_DATA, rnd(&s, 1 << 20) * 65536ull, true);
		set_unit(top, u, EXT_UNALLOCATED, 0, false);
		map_retire(m, slot);
		/* the base's cluster is a new one, as after an allocating write */
		map_set(m, u * 65536, 65536, MAP_WORD_NONE);
	}
	expect_all(m, &base, 1);
	map_free(m);
	layer_drop(base);
	layer_drop(top);
	return 0;
}

static int the_budget_holds(void *arg)
{
	uint64_t size = 1ull << 30;
	struct layer *l = layer_make(size, 4096);
	struct chain_map *m;
	unsigned s = 9;

	scatter(l, &s, 500);
	m = map_of(size, 1 << 20, &l, 1);
	for (unsigned k = 0; k < 3000; k++) {
		uint64_t off = (uint64_t)rnd(&s, 1 << 18) * 4096 + 512;
		struct map_run run;

		lookup(m, off, 512, &run);
		expect_sector(m, &l, 1, off, &run);
		assert_true(m->bytes <= 1 << 20);
	}
	assert_true(m->evictions > 0);
	map_free(m);
	layer_drop(l);
	return 0;
}

static int a_huge_disk_is_cheap(void *arg)
{
	struct layer l = { .size = 1 << 20, .unit = 65536 };
	struct layer *top;
	struct chain_map *m;
	struct map_run run;
	struct extent units[17];

	for (unsigned i = 0; i < 17; i++)
		units[i] = (struct extent){ .kind = EXT_UNALLOCATED, .host_off = UINT64_MAX };
	l.units = units;
	top = &l;
	m = map_of(64ull << 50, 0, &top, 1);
	assert_true(m->nr_top * sizeof(void *) <= 2 << 20);
	lookup(m, (64ull << 50) - 512, 512, &run);
	assert_int_equal(run.kind, MAP_ZERO);
	lookup(m, 32ull << 50, 4096, &run);
	assert_true(m->bytes < 4 << 20);
	map_set(m, 0, 64ull << 50, MAP_WORD_ZERO);
	map_free(m);
	return 0;
}

static int a_failure_is_told_and_not_kept(void *arg)
{
	struct layer *l = layer_make(8 << 20, 65536);
	struct chain_map *m = map_of(l->size, 0, &l, 1);
	struct map_run run;

	l->fail = -EIO;
	assert_false(map_lookup(m, 0, 512, &run));
	assert_int_equal(co_map_build(m, 0), -EIO);
	assert_false(map_lookup(m, 0, 512, &run));
	l->fail = 0;
	set_unit(l, 0, EXT_DATA, 65536, true);
	expect_all(m, &l, 1);
	map_free(m);
	layer_drop(l);
	return 0;
}

/* As a writable raw image reports it. */
static int a_hole_with_a_place_is_data(void *arg)
{
	struct layer *l = layer_make(8 << 20, 65536);
	struct chain_map *m = map_of(l->size, 0, &l, 1);
	struct map_run run;

	for (unsigned i = 0; i < 128; i++) {
		l->units[i].kind = i % 2 ? EXT_ZERO : EXT_DATA;
		l->units[i].host_off = i * 65536;
		l->units[i].in_place = true;
	}
	lookup(m, 512, 8 << 19, &run);
	assert_int_equal(run.kind, MAP_DATA);
	assert_true(run.in_place);
	assert_int_equal(run.bytes, 8 << 19);
	assert_int_equal(run.host_off, 512);
	map_free(m);
	layer_drop(l);
	return 0;
}

static int compressed_clusters_stay_apart(void *arg)
{
	struct layer *l = layer_make(8 << 20, 65536);
	struct chain_map *m = map_of(l->size, 0, &l, 1);
	struct map_run run;

	for (unsigned i = 0; i < 128; i++)
		set_unit(l, i, EXT_COMPRESSED, 0, false);
	lookup(m, 65536 + 4096, 1 << 20, &run);
	assert_int_equal(run.kind, MAP_COMPRESSED);
	assert_int_equal(run.bytes, 65536 - 4096);
	map_set(m, 65536 + 8192, 512, MAP_WORD_ZERO);
	lookup(m, 65536 + 4096, 1 << 20, &run);
	assert_int_equal(run.bytes, 4096);
	lookup(m, 2 * 65536 + 512, 1 << 20, &run);
	assert_int_equal(run.bytes, 65536 - 512);
	map_free(m);
	layer_drop(l);
	return 0;
}

/* --- cmocka around coroutines --- */

#define CO_TEST(name)                                                   \
	static void test_##name(void **state)                           \
	{                                                               \
		assert_int_equal(reactor_run_co(reactor, name, NULL), 0); \
	}

CO_TEST(one_run_is_one_word)
CO_TEST(layers_of_all_sizes)
CO_TEST(changes_refine_and_stay)
CO_TEST(a_change_during_a_build_wins)
CO_TEST(a_new_layer_during_a_build_starts_it_again)
CO_TEST(builders_share)
CO_TEST(builders_run_out)
CO_TEST(a_frozen_range_waits)
CO_TEST(a_retired_layer_resolves_again)
CO_TEST(slots_come_round)
CO_TEST(the_budget_holds)
CO_TEST(a_huge_disk_is_cheap)
CO_TEST(a_failure_is_told_and_not_kept)
CO_TEST(a_hole_with_a_place_is_data)
CO_TEST(compressed_clusters_stay_apart)

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO };

	return reactor_new(&cfg, &reactor, NULL);
}

static int teardown(void **state)
{
	reactor_free(reactor);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_one_run_is_one_word),
		cmocka_unit_test(test_layers_of_all_sizes),
		cmocka_unit_test(test_changes_refine_and_stay),
		cmocka_unit_test(test_a_change_during_a_build_wins),
		cmocka_unit_test(test_a_new_layer_during_a_build_starts_it_again),
		cmocka_unit_test(test_builders_share),
		cmocka_unit_test(test_builders_run_out),
		cmocka_unit_test(test_a_frozen_range_waits),
		cmocka_unit_test(test_a_retired_layer_resolves_again),
		cmocka_unit_test(test_slots_come_round),
		cmocka_unit_test(test_the_budget_holds),
		cmocka_unit_test(test_a_huge_disk_is_cheap),
		cmocka_unit_test(test_a_failure_is_told_and_not_kept),
		cmocka_unit_test(test_a_hole_with_a_place_is_data),
		cmocka_unit_test(test_compressed_clusters_stay_apart),
	};

	return cmocka_run_group_tests_name("qcow_map", tests, setup, teardown);
}
