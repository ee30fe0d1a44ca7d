// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * reactor.c - the turn: what is ready, one system call, what is due.
 *
 * Invariant: callbacks and coroutines run only between the lines of
 * reactor_turn() (or inside co_start(), for a coroutine's first steps); an engine
 * waits only when nothing is ready to run.
 */
#include "io/reactor.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/reactor_priv.h"

/* What may run before completions are looked at again: a coroutine that never waits cannot hang us. */
#define READY_BUDGET 4096

static const struct engine *const engines[] = {
	[ENGINE_URING] = &engine_uring,
	[ENGINE_AIO] = &engine_aio,
	[ENGINE_SIM] = &engine_sim,
};
#define NR_ENGINES (sizeof(engines) / sizeof(engines[0]))

const char *engine_name(enum engine_kind k)
{
	assert((unsigned)k < NR_ENGINES);
	return engines[k]->name;
}

int engine_parse(const char *s, enum engine_kind *out)
{
	for (unsigned i = 0; i < NR_ENGINES; i++) {
		if (engines[i]->kind != ENGINE_SIM && !strcmp(s, engines[i]->name)) {
			*out = engines[i]->kind;
			return 0;
		}
	}
	return -EINVAL;
}

enum engine_kind reactor_engine(const struct reactor *r)
{
	return r->engine->kind;
}

int reactor_new(const struct reactor_config *cfg, struct reactor **out, struct error *e)
{
	struct reactor *r = calloc(1, sizeof(*r));
	int rc;

	*out = NULL;
	if (!r)
		return error_set(e, ENOMEM, "cannot make a reactor: out of memory");
	assert((unsigned)cfg->engine < NR_ENGINES);
	r->engine = engines[cfg->engine];
	r->depth = cfg->depth ? cfg->depth : DEPTH_DEFAULT;
	r->sigfd = -1;
	list_init(&r->ready);
	list_init(&r->rescheduled);
	list_init(&r->co_pool);
	list_init(&r->tasks);
	list_init(&r->watches);
	list_init(&r->signals);
	file_reactor_init(r);
	list_init(&r->offload_free);
	if (!offload_init(r)) {
		rc = error_set(e, ENOMEM, "cannot make a reactor: out of memory");
		goto err_free;
	}
	r->epfd = epoll_create1(EPOLL_CLOEXEC);
	if (r->epfd < 0) {
		rc = error_set_errno(e, errno, "cannot make an epoll set");
		goto err_offload;
	}
	rc = r->engine->init(r, cfg, e);
	if (rc < 0)
		goto err_epoll;
	*out = r;
	return 0;
err_epoll:
	close(r->epfd);
err_offload:
	offload_free(r);
err_free:
	free(r);
	return rc;
}

void reactor_free(struct reactor *r)
{
	if (!r)
		return;
	assert(!r->in_turn && !co_self());
	worker_free(r);
	assert(list_empty(&r->ready) && list_empty(&r->rescheduled) && list_empty(&r->tasks));
	assert(list_empty(&r->signals) && !r->nr_timers);
	file_reactor_free(r);
	offload_free(r);
	r->engine->fini(r);
	assert(list_empty(&r->watches));
	co_pool_free(r);
	close(r->epfd);
	free(r->heap);
	free(r);
}

uint64_t reactor_now_ns(struct reactor *r)
{
	struct timespec ts;

	if (unlikely(r->engine->now != NULL))
		return r->engine->now(r);
	/* between turns nobody knows how long ago the last one was */
	if (!r->now_ns || !r->in_turn) {
		clock_gettime(CLOCK_MONOTONIC, &ts);
		r->now_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	}
	return r->now_ns;
}

/* --- tasks --- */

void io_task_init(struct io_task *t, void (*fn)(struct io_task *t))
{
	t->fn = fn;
	list_init(&t->link);
}

void reactor_defer(struct reactor *r, struct io_task *t)
{
	assert(list_empty(&t->link));
	list_add_tail(&r->tasks, &t->link);
}

static bool anything_ready(const struct reactor *r)
{
	return !list_empty(&r->ready) || !list_empty(&r->tasks);
}

static void run_ready(struct reactor *r)
{
	unsigned budget = READY_BUDGET;

	while (anything_ready(r) && budget) {
		while (!list_empty(&r->tasks) && budget) {
			struct io_task *t = list_first(&r->tasks, struct io_task, link);

			list_del(&t->link);
			t->fn(t);
			budget--;
		}
		budget = co_run_ready(r, budget);
	}
}

/* --- the turn --- */

void reactor_turn(struct reactor *r, bool wait)
{
	int64_t timeout = 0;

	assert(!r->in_turn && !co_self());
	r->in_turn = true;
	r->now_ns = 0;
	if (anything_ready(r)) {
		run_ready(r);
		wait = false;
	}
	if (wait && !r->stop && list_empty(&r->rescheduled) && !anything_ready(r))
		timeout = reactor_timeout_ns(r);
	r->engine->turn(r, timeout);
	r->now_ns = 0;
	if (unlikely(!list_empty(&r->backlog)))
		file_backlog_run(r);
	if (r->nr_timers)
		reactor_timers_fire(r);
	if (!list_empty(&r->rescheduled))
		list_splice_tail(&r->ready, &r->rescheduled);
	/* now, so that what they submit goes out with the next turn's wait */
	run_ready(r);
	r->in_turn = false;
}

void reactor_run(struct reactor *r)
{
	while (!r->stop)
		reactor_turn(r, true);
	r->stop = false;
}

void reactor_stop(struct reactor *r)
{
	r->stop = true;
}

struct run_co {
	int (*fn)(void *arg);
	void *arg;
	int rc;
	bool done;
};

static void run_co_main(void *p)
{
	struct run_co *rc = p;

	rc->rc = rc->fn(rc->arg);
	rc->done = true;
}

int reactor_run_co(struct reactor *r, int (*fn)(void *arg), void *arg)
{
	struct run_co rc = { .fn = fn, .arg = arg };

	assert(!co_self());
	co_start(r, run_co_main, &rc);
	while (!rc.done)
		reactor_turn(r, true);
	return rc.rc;
}

/* --- registered files --- */

int reactor_fixed_file_add(struct reactor *r, int fd)
{
	return r->engine->fixed_add ? r->engine->fixed_add(r, fd) : -1;
}

void reactor_fixed_file_del(struct reactor *r, int slot)
{
	if (slot >= 0)
		r->engine->fixed_del(r, slot);
}
