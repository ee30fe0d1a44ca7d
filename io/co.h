/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * co.h - stackful coroutines, so that a cluster allocation reads as the steps that it is.
 *
 * A coroutine runs on the reactor's thread until it yields; nothing else runs
 * meanwhile. So code between two yields is atomic, and there are no locks but
 * the ones below, which order coroutines and never threads. Functions named
 * co_... may yield and must be called inside a coroutine (asserted).
 *
 * Stacks: 256 KiB, pooled, guard page below each, touched once when made, so
 * that they are resident under mlockall. Switching costs about 10 ns (_setjmp /
 * _longjmp after makecontext made the stack; fiber annotations under ASan/TSan).
 */
#ifndef QCHAIN_IO_CO_H
#define QCHAIN_IO_CO_H

#include <stdbool.h>

#include "io/list.h"

struct co;
struct reactor;

typedef void co_fn(void *arg);

/*
 * Starts fn(arg) in a new coroutine of this reactor. It runs at once, until its
 * first yield; then co_start() returns. May be called from a coroutine (it
 * nests) or from a plain callback. Aborts when no stack can be had: limits are
 * the caller's duty (queue depth), see style: a limit on every queue.
 */
void co_start(struct reactor *r, co_fn *fn, void *arg);

/* The running coroutine, NULL outside of any. */
struct co *co_self(void);

/* Suspends the running coroutine until co_wake(). */
void co_yield(void);

/*
 * Makes a suspended coroutine ready; it runs from the reactor later in this
 * turn, in wake order, never inside co_wake(). Waking a coroutine that is
 * already ready is a bug (asserted).
 */
void co_wake(struct co *co);

/* Lets every other ready coroutine and completion run before going on. */
void co_reschedule(void);

/* First come, first served; unlock hands over to the oldest waiter. */
struct co_mutex {
	struct co *owner;
	struct list waiters;
};

void co_mutex_init(struct co_mutex *m);
void co_mutex_lock(struct co_mutex *m);
void co_mutex_unlock(struct co_mutex *m);

/* A place to wait for a condition; wakers change the condition first. */
struct co_queue {
	struct list waiters;
};

void co_queue_init(struct co_queue *q);
void co_queue_wait(struct co_queue *q);
bool co_queue_wake_one(struct co_queue *q);   /* true if someone was waiting */
void co_queue_wake_all(struct co_queue *q);
bool co_queue_empty(const struct co_queue *q);

/*
 * Children side by side: start up to `limit` at a time (co_group_start() waits
 * when that many run; 0 = no limit), then wait for all. The first child to
 * return an error gives the group's error; later children still run unless the
 * caller looks at g->err and stops starting them.
 */
struct co_group {
	struct reactor *r;
	unsigned running, limit;
	int err;
	struct co_queue wait;
};

typedef int co_group_fn(void *arg);

void co_group_init(struct co_group *g, struct reactor *r, unsigned limit);
void co_group_start(struct co_group *g, co_group_fn *fn, void *arg);
int co_group_wait(struct co_group *g);        /* 0 or the first error */

#endif
