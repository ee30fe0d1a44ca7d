// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * timer.c - one-shot timers in a binary heap ordered by due time.
 *
 * Invariant: heap[t->pos] == t for every armed timer; pos 0 means not armed;
 * no timer is due before its parent heap[pos / 2].
 */
#include <assert.h>
#include <stdlib.h>

#include "io/log.h"
#include "io/reactor_priv.h"

static void place(struct reactor *r, struct io_timer *t, unsigned pos)
{
	r->heap[pos] = t;
	t->pos = pos;
}

static void sift_up(struct reactor *r, struct io_timer *t, unsigned pos)
{
	while (pos > 1 && t->due_ns < r->heap[pos / 2]->due_ns) {
		place(r, r->heap[pos / 2], pos);
		pos /= 2;
	}
	place(r, t, pos);
}

static void sift_down(struct reactor *r, struct io_timer *t, unsigned pos)
{
	for (;;) {
		unsigned child = pos * 2;

		if (child > r->nr_timers)
			break;
		if (child < r->nr_timers && r->heap[child + 1]->due_ns < r->heap[child]->due_ns)
			child++;
		if (t->due_ns <= r->heap[child]->due_ns)
			break;
		place(r, r->heap[child], pos);
		pos = child;
	}
	place(r, t, pos);
}

void io_timer_init(struct io_timer *t, void (*fn)(struct io_timer *t), void *arg)
{
	*t = (struct io_timer){ .fn = fn, .arg = arg };
}

static void heap_grow(struct reactor *r)
{
	unsigned cap = r->heap_cap ? r->heap_cap * 2 : 64;
	void *p;

	if (r->nr_timers + 1 < r->heap_cap)
		return;
	p = realloc(r->heap, cap * sizeof(r->heap[0]));
	if (!p) {
		log_error("out of memory for timers (%u armed)", r->nr_timers);
		abort();
	}
	r->heap = p;
	r->heap_cap = cap;
}

void reactor_timer_arm(struct reactor *r, struct io_timer *t, uint64_t after_ns)
{
	uint64_t now = reactor_now_ns(r);

	reactor_timer_cancel(r, t);
	t->due_ns = after_ns < UINT64_MAX - now ? now + after_ns : UINT64_MAX;
	heap_grow(r);
	r->nr_timers++;
	sift_up(r, t, r->nr_timers);
}

void reactor_timer_cancel(struct reactor *r, struct io_timer *t)
{
	unsigned pos = t->pos;
	struct io_timer *last;

	if (!pos)
		return;
	assert(pos <= r->nr_timers && r->heap[pos] == t);
	last = r->heap[r->nr_timers--];
	t->pos = 0;
	if (last == t)
		return;
	if (pos > 1 && last->due_ns < r->heap[pos / 2]->due_ns)
		sift_up(r, last, pos);
	else
		sift_down(r, last, pos);
}

int64_t reactor_timeout_ns(struct reactor *r)
{
	uint64_t now, left;

	if (!r->nr_timers)
		return -1;
	now = reactor_now_ns(r);
	if (r->heap[1]->due_ns <= now)
		return 0;
	left = r->heap[1]->due_ns - now;
	return left > INT64_MAX ? INT64_MAX : (int64_t)left;
}

void reactor_timers_fire(struct reactor *r)
{
	uint64_t now = reactor_now_ns(r);
	/* a callback that re-arms with 0 waits for the next turn */
	unsigned budget = r->nr_timers;

	while (r->nr_timers && budget-- && r->heap[1]->due_ns <= now) {
		struct io_timer *t = r->heap[1];

		reactor_timer_cancel(r, t);
		t->fn(t);
	}
}

static void sleep_done(struct io_timer *t)
{
	co_wake(t->arg);
}

void co_sleep_ns(struct reactor *r, uint64_t ns)
{
	struct io_timer t;

	assert(co_self());
	io_timer_init(&t, sleep_done, co_self());
	reactor_timer_arm(r, &t, ns);
	co_yield();
}
