// SPDX-License-Identifier: GPL-2.0-or-later
/* Unit tests of io/co.h: order of running, nesting, mutexes, queues, groups, stack use. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "io/co.h"
#include "io/reactor.h"

static struct reactor *r;
static char trace[256];

static void note(const char *s)
{
	assert_true(strlen(trace) + strlen(s) < sizeof(trace));
	strcat(trace, s);
}

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_URING, .depth = 32 };

	trace[0] = '\0';
	if (reactor_new(&cfg, &r, NULL) == 0)
		return 0;
	cfg.engine = ENGINE_AIO;
	return reactor_new(&cfg, &r, NULL);
}

static int teardown(void **state)
{
	reactor_free(r);
	return 0;
}

static void settle(void)
{
	for (int i = 0; i < 3; i++)
		reactor_turn(r, false);
}

/* --- start, yield, wake --- */

static struct co *sleeper;

static void sleeps_once(void *arg)
{
	note("a");
	sleeper = co_self();
	co_yield();
	note("b");
}

static void start_runs_until_first_yield(void **state)
{
	assert_null(co_self());
	co_start(r, sleeps_once, NULL);
	assert_null(co_self());
	assert_string_equal(trace, "a");
	co_wake(sleeper);
	assert_string_equal(trace, "a");   /* never inside co_wake() */
	settle();
	assert_string_equal(trace, "ab");
}

static struct co *outer_co;

static void inner(void *arg)
{
	note("i");
	sleeper = co_self();
	assert_ptr_not_equal(sleeper, outer_co);
	co_yield();
	note("I");
}

static void outer(void *arg)
{
	outer_co = co_self();
	note("o");
	co_start(r, inner, NULL);
	assert_ptr_equal(co_self(), outer_co);
	note("O");
	co_yield();
	note("!");
}

static void nested_start_returns_to_its_starter(void **state)
{
	co_start(r, outer, NULL);
	assert_string_equal(trace, "oiO");
	co_wake(sleeper);
	co_wake(outer_co);
	settle();
	assert_string_equal(trace, "oiOI!");
}

static struct co *waiting[3];

static void numbered(void *arg)
{
	int n = (int)(intptr_t)arg;
	char s[2] = { (char)('0' + n), '\0' };

	waiting[n] = co_self();
	co_yield();
	note(s);
}

static void woken_run_in_wake_order(void **state)
{
	for (intptr_t i = 0; i < 3; i++)
		co_start(r, numbered, (void *)i);
	co_wake(waiting[2]);
	co_wake(waiting[0]);
	co_wake(waiting[1]);
	settle();
	assert_string_equal(trace, "201");
}

static void rescheduler(void *arg)
{
	note("x");
	co_reschedule();
	note("y");
}

static void reschedule_lets_the_others_run(void **state)
{
	co_start(r, rescheduler, NULL);
	co_start(r, numbered, (void *)1);
	co_wake(waiting[1]);
	settle();
	assert_string_equal(trace, "x1y");
}

static int forever_left;

static void reschedules_often(void *arg)
{
	while (forever_left--)
		co_reschedule();
}

static void reschedule_never_makes_the_turn_wait(void **state)
{
	forever_left = 1000;
	co_start(r, reschedules_often, NULL);
	for (int i = 0; i < 1002; i++)
		reactor_turn(r, forever_left > 0);
	assert_int_equal(forever_left, -1);
}

/* --- stacks --- */

static uint64_t deep(int depth)
{
	volatile unsigned char pad[1000];

	memset((void *)pad, depth, sizeof(pad));
	return depth ? deep(depth - 1) + pad[depth % 1000] : pad[0];
}

static void uses_much_stack(void *arg)
{
	*(uint64_t *)arg = deep(100);   /* 100 KiB and more, less than 256 */
}

static void stacks_are_deep_enough_and_reused(void **state)
{
	for (int i = 0; i < 300; i++) {
		uint64_t sum = 0;

		co_start(r, uses_much_stack, &sum);
		assert_int_equal(sum, 5050);
	}
}

static unsigned many_left;

static void many(void *arg)
{
	double x = (double)(intptr_t)arg;

	for (int i = 0; i < 5; i++)
		co_reschedule();
	/* callee-saved and floating-point state came along */
	assert_true(x == (double)(intptr_t)arg);
	many_left--;
}

static void many_at_once(void **state)
{
	many_left = 200;
	for (intptr_t i = 0; i < 200; i++)
		co_start(r, many, (void *)i);
	while (many_left)
		reactor_turn(r, false);
}

/* --- mutex --- */

static struct co_mutex mutex;
static int inside;

static void locks(void *arg)
{
	co_mutex_lock(&mutex);
	assert_int_equal(inside++, 0);
	note(arg);
	co_reschedule();
	inside--;
	co_mutex_unlock(&mutex);
}

static void mutex_is_fair(void **state)
{
	co_mutex_init(&mutex);
	co_start(r, locks, "1");
	co_start(r, locks, "2");
	co_start(r, locks, "3");
	assert_string_equal(trace, "1");
	for (int i = 0; i < 10; i++)
		reactor_turn(r, false);
	assert_string_equal(trace, "123");
	assert_null(mutex.owner);
}

/* --- queue --- */

static struct co_queue queue;

static void waits(void *arg)
{
	co_queue_wait(&queue);
	note(arg);
}

static void queue_wakes_in_order(void **state)
{
	co_queue_init(&queue);
	assert_false(co_queue_wake_one(&queue));
	co_start(r, waits, "1");
	co_start(r, waits, "2");
	co_start(r, waits, "3");
	assert_false(co_queue_empty(&queue));
	assert_true(co_queue_wake_one(&queue));
	settle();
	assert_string_equal(trace, "1");
	co_queue_wake_all(&queue);
	assert_true(co_queue_empty(&queue));
	settle();
	assert_string_equal(trace, "123");
}

/* --- group --- */

struct child {
	int rc;
	unsigned *running, *max;
};

static int child_main(void *arg)
{
	struct child *c = arg;

	if (++*c->running > *c->max)
		*c->max = *c->running;
	co_reschedule();
	--*c->running;
	return c->rc;
}

static int immediate(void *arg)
{
	return *(int *)arg;
}

static int group_body(void *arg)
{
	unsigned running = 0, max = 0;
	struct child ok = { 0, &running, &max }, bad = { -EIO, &running, &max },
		     worse = { -ENOSPC, &running, &max };
	struct co_group g;

	co_group_init(&g, r, 3);
	for (int i = 0; i < 20; i++)
		co_group_start(&g, child_main, i == 7 ? &bad : i == 9 ? &worse : &ok);
	assert_int_equal(co_group_wait(&g), -EIO);
	assert_int_equal(max, 3);
	assert_int_equal(running, 0);

	max = 0;
	co_group_init(&g, r, 0);
	for (int i = 0; i < 20; i++)
		co_group_start(&g, child_main, &ok);
	assert_int_equal(co_group_wait(&g), 0);
	assert_int_equal(max, 20);

	co_group_init(&g, r, 1);
	for (int i = 0; i < 5; i++)
		co_group_start(&g, immediate, &i);   /* a positive result is no error */
	return co_group_wait(&g);
}

static void group_limits_and_gathers(void **state)
{
	assert_int_equal(reactor_run_co(r, group_body, NULL), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(start_runs_until_first_yield),
		T(nested_start_returns_to_its_starter),
		T(woken_run_in_wake_order),
		T(reschedule_lets_the_others_run),
		T(reschedule_never_makes_the_turn_wait),
		T(stacks_are_deep_enough_and_reused),
		T(many_at_once),
		T(mutex_is_fair),
		T(queue_wakes_in_order),
		T(group_limits_and_gathers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
