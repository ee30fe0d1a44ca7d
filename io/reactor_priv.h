/* SPDX-License-Identifier: GPL-2.0-or-later */
/* reactor_priv.h - private to io/: the reactor's inside, shared by its parts and the engines. */
#ifndef QCHAIN_IO_REACTOR_PRIV_H
#define QCHAIN_IO_REACTOR_PRIV_H

#include <sys/epoll.h>

#include "io/co.h"
#include "io/engine.h"
#include "io/list.h"
#include "io/reactor.h"

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define EPOLL_BATCH 64
#define DEPTH_DEFAULT 1024
#define SLOW_MAX 16       /* misaligned requests worked on at a time */

struct worker_pool;
struct offload;
struct io_op;

struct reactor {
	const struct engine *engine;
	void *engine_state;
	unsigned depth;
	bool in_turn;
	bool stop;

	/* coroutines and tasks */
	struct list ready;            /* struct co */
	struct list rescheduled;      /* struct co: become ready after the next engine turn */
	struct list co_pool;          /* struct co with a stack, idle */
	unsigned nr_co_pool;
	unsigned nr_co;               /* started and not finished */
	struct list tasks;            /* struct io_task */

	/* time */
	uint64_t now_ns;              /* 0: not read this turn */
	struct io_timer **heap;       /* 1-based; heap[1] is due first */
	unsigned nr_timers, heap_cap;

	/* epoll set */
	int epfd;
	struct list watches;          /* struct io_watch */
	struct epoll_event *batch;    /* being dispatched: unwatch clears entries here */
	int batch_len;

	/* signals */
	int sigfd;
	unsigned char sig_blocked[128];  /* by us: unblocked when the last handler goes */
	struct list signals;          /* struct io_signal */
	struct io_watch sig_watch;

	/* helper threads; NULL until first used */
	struct worker_pool *workers;

	/* requests lent to helper threads (offload.c) */
	struct offload *offloads;
	struct list offload_free;     /* struct offload */

	/* file_io.c and file_slow.c */
	struct list backlog;          /* struct io_op the engine had no room for, in order */
	struct list slow_queue;       /* struct io_op that need a coroutine */
	unsigned slow_running;
	struct list done_later;       /* struct io_op with their result in `moved` */
	struct io_task file_task;     /* works on the two lists above */
	void *bounce[SLOW_MAX];       /* idle bounce buffers */
	unsigned nr_bounce;
};

/* co.c: runs up to budget ready coroutines; returns what is left of it */
unsigned co_run_ready(struct reactor *r, unsigned budget);
void co_pool_free(struct reactor *r);

/* timer.c */
int64_t reactor_timeout_ns(struct reactor *r);   /* until the next timer; -1: none */
void reactor_timers_fire(struct reactor *r);

/* watch.c: calls the callbacks of what is ready now, or of a batch the engine fetched. */
void reactor_poll_dispatch(struct reactor *r);
void reactor_dispatch_events(struct reactor *r, struct epoll_event *ev, int n);

/* worker.c: runs w->fn on a helper thread, then w->done on the reactor's. */
struct work {
	void (*fn)(struct work *w);
	void (*done)(struct work *w);
	struct list link;             /* private */
};
void worker_submit(struct reactor *r, struct work *w);
void worker_free(struct reactor *r);

/*
 * offload.c: has a helper thread carry out rq, for what an engine cannot do
 * itself. Same contract as engine->submit().
 */
bool offload_init(struct reactor *r);   /* false: no memory */
bool offload_submit(struct reactor *r, const struct engine_req *rq);
void offload_free(struct reactor *r);

/* file_io.c: offers the backlog to the engine again. */
void file_backlog_run(struct reactor *r);
void file_reactor_init(struct reactor *r);
void file_reactor_free(struct reactor *r);

#endif
