// SPDX-License-Identifier: GPL-2.0-or-later
/* Unit tests of io/rangelock.h: overlap, sharing, fairness, and a random run against a model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/rangelock.h"
#include "io/reactor.h"

static struct reactor *r;
static struct rangelock lock;
static char trace[64];

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 8 };

	trace[0] = '\0';
	rangelock_init(&lock);
	return reactor_new(&cfg, &r, NULL);
}

static int teardown(void **state)
{
	assert_true(rangelock_empty(&lock));
	reactor_free(r);
	return 0;
}

static void settle(void)
{
	for (int i = 0; i < 3; i++)
		reactor_turn(r, false);
}

static void disjoint_and_adjacent_do_not_meet(void **state)
{
	struct range a, b, c;

	assert_true(range_trylock(&lock, &a, 0, 10, true));
	assert_true(range_trylock(&lock, &b, 10, 10, true));
	assert_false(range_trylock(&lock, &c, 9, 2, true));
	assert_false(range_trylock(&lock, &c, 9, 1, false));
	range_unlock(&lock, &a);
	assert_true(range_trylock(&lock, &c, 9, 1, true));
	range_unlock(&lock, &b);
	range_unlock(&lock, &c);
}

static void shared_ones_get_along(void **state)
{
	struct range a, b, c;

	assert_true(range_trylock(&lock, &a, 0, 100, false));
	assert_true(range_trylock(&lock, &b, 50, 100, false));
	assert_false(range_trylock(&lock, &c, 99, 1, true));
	assert_false(rangelock_busy(&lock, 0, 200));
	range_unlock(&lock, &a);
	assert_false(range_trylock(&lock, &c, 99, 1, true));
	range_unlock(&lock, &b);
	assert_true(range_trylock(&lock, &c, 99, 1, true));
	assert_true(rangelock_busy(&lock, 0, 100));
	assert_false(rangelock_busy(&lock, 0, 99));
	assert_false(rangelock_busy(&lock, 100, 1));
	range_unlock(&lock, &c);
}

struct req {
	const char *name;
	uint64_t off, len;
	bool exclusive;
	struct range rg;
};

static void takes(void *arg)
{
	struct req *q = arg;

	co_range_lock(&lock, &q->rg, q->off, q->len, q->exclusive);
	strcat(trace, q->name);
}

static void a_waiting_writer_is_not_overtaken(void **state)
{
	struct req a = { .name = "a", .len = 10 }, b = { .name = "b", .len = 10 };
	struct req w = { .name = "w", .off = 5, .len = 10, .exclusive = true };
	struct req c = { .name = "c", .off = 20, .len = 5, .exclusive = true };

	co_start(r, takes, &a);
	co_start(r, takes, &w);
	co_start(r, takes, &b);    /* compatible with a, but comes after w */
	co_start(r, takes, &c);    /* meets nobody */
	assert_string_equal(trace, "ac");
	assert_true(rangelock_busy(&lock, 5, 1));   /* waiting counts */
	range_unlock(&lock, &a.rg);
	settle();
	assert_string_equal(trace, "acw");
	range_unlock(&lock, &w.rg);
	settle();
	assert_string_equal(trace, "acwb");
	range_unlock(&lock, &b.rg);
	range_unlock(&lock, &c.rg);
}

static void the_whole_range_can_be_taken(void **state)
{
	struct range a, b;

	assert_true(range_trylock(&lock, &a, 4096, UINT64_MAX - 4096, true));
	assert_false(range_trylock(&lock, &b, UINT64_MAX - 2, 1, false));
	assert_true(range_trylock(&lock, &b, 0, 4096, true));
	range_unlock(&lock, &a);
	range_unlock(&lock, &b);
}

/* --- random: the bytes themselves are the model --- */

#define SPACE 64
#define WORKERS 40

static int readers[SPACE], writers[SPACE];
static unsigned seed = 12345, working;

static unsigned rnd(unsigned n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 16) % n;
}

static void worker(void *arg)
{
	for (int round = 0; round < 50; round++) {
		uint64_t off = rnd(SPACE), len = 1 + rnd(SPACE - off);
		bool excl = rnd(2);
		struct range rg;

		co_range_lock(&lock, &rg, off, len, excl);
		for (uint64_t i = off; i < off + len; i++) {
			assert_int_equal(writers[i], 0);
			assert_true(!excl || !readers[i]);
			(excl ? writers : readers)[i]++;
		}
		for (unsigned n = rnd(3); n; n--)
			co_reschedule();
		for (uint64_t i = off; i < off + len; i++)
			(excl ? writers : readers)[i]--;
		range_unlock(&lock, &rg);
	}
	working--;
}

static void random_requests_exclude_each_other(void **state)
{
	working = WORKERS;
	for (int i = 0; i < WORKERS; i++)
		co_start(r, worker, NULL);
	for (int i = 0; working; i++) {
		assert_true(i < 100000);
		reactor_turn(r, false);
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(disjoint_and_adjacent_do_not_meet),
		T(shared_ones_get_along),
		T(a_waiting_writer_is_not_overtaken),
		T(the_whole_range_can_be_taken),
		T(random_requests_exclude_each_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
