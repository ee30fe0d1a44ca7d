// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * worker.c - at most four helper threads for calls that block.
 *
 * Work is handed over under a mutex; the thread that finishes it puts it on the
 * done list and signals the eventfd that the reactor watches. Threads start
 * when there is more work than threads, and live until the reactor is freed.
 *
 * Invariant: a struct work is touched by one side at a time: by the reactor
 * before worker_submit() and from done() on, by a helper thread in between.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "io/log.h"
#include "io/reactor_priv.h"

#define MAX_THREADS 4
#define THREAD_STACK (512u << 10)

struct worker_pool {
	/* set when made */
	struct reactor *r;
	int eventfd;
	struct io_watch watch;
	pthread_t threads[MAX_THREADS];
	unsigned nr_threads;       /* the reactor's thread only */
	unsigned pending;          /* submitted, done() not yet called; the reactor's thread only */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	/* under lock */
	struct list todo, done;
	bool quit;
};

static void *worker_main(void *p)
{
	struct worker_pool *wp = p;
	uint64_t one = 1;

	pthread_mutex_lock(&wp->lock);
	for (;;) {
		struct work *w;
		bool first;

		while (list_empty(&wp->todo) && !wp->quit)
			pthread_cond_wait(&wp->cond, &wp->lock);
		if (list_empty(&wp->todo))
			break;
		w = list_first(&wp->todo, struct work, link);
		list_del(&w->link);
		pthread_mutex_unlock(&wp->lock);
		w->fn(w);
		pthread_mutex_lock(&wp->lock);
		first = list_empty(&wp->done);
		list_add_tail(&wp->done, &w->link);
		if (first && write(wp->eventfd, &one, sizeof(one)) < 0)
			abort();   /* an eventfd that is full means the counter overflowed 2^64 */
	}
	pthread_mutex_unlock(&wp->lock);
	return NULL;
}

static void pool_done(struct io_watch *w, uint32_t revents)
{
	struct worker_pool *wp = w->arg;
	struct list done;
	uint64_t n;

	if (read(wp->eventfd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		abort();
	list_init(&done);
	pthread_mutex_lock(&wp->lock);
	list_splice_tail(&done, &wp->done);
	pthread_mutex_unlock(&wp->lock);
	while (!list_empty(&done)) {
		struct work *work = list_first(&done, struct work, link);

		list_del(&work->link);
		wp->pending--;
		work->done(work);
	}
}

static struct worker_pool *pool_new(struct reactor *r)
{
	struct worker_pool *wp = calloc(1, sizeof(*wp));

	if (!wp)
		return NULL;
	wp->r = r;
	list_init(&wp->todo);
	list_init(&wp->done);
	pthread_mutex_init(&wp->lock, NULL);
	pthread_cond_init(&wp->cond, NULL);
	wp->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	wp->watch = (struct io_watch){
		.fd = wp->eventfd, .events = EPOLLIN, .fn = pool_done, .arg = wp };
	if (wp->eventfd < 0 || reactor_watch(r, &wp->watch) < 0) {
		if (wp->eventfd >= 0)
			close(wp->eventfd);
		free(wp);
		return NULL;
	}
	return wp;
}

static void thread_add(struct worker_pool *wp)
{
	sigset_t all, old;
	pthread_attr_t attr;

	sigfillset(&all);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (!pthread_create(&wp->threads[wp->nr_threads], &attr, worker_main, wp))
		wp->nr_threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
}

void worker_submit(struct reactor *r, struct work *w)
{
	if (!r->workers)
		r->workers = pool_new(r);
	if (!r->workers) {
		log_error("cannot set up helper threads: %m");
		abort();
	}
	pthread_mutex_lock(&r->workers->lock);
	list_add_tail(&r->workers->todo, &w->link);
	pthread_mutex_unlock(&r->workers->lock);
	pthread_cond_signal(&r->workers->cond);
	/*
	 * A thread for each piece of work, as far as they go: one may block until another
	 * is done (a device-mapper call waits for I/O to us that needs a helper thread), and a
	 * thread that is woken but has not run yet is no free one.
	 */
	if (r->workers->pending++ >= r->workers->nr_threads && r->workers->nr_threads < MAX_THREADS)
		thread_add(r->workers);
	if (!r->workers->nr_threads) {
		log_error("cannot start a helper thread: %m");
		abort();
	}
}

void worker_free(struct reactor *r)
{
	struct worker_pool *wp = r->workers;

	if (!wp)
		return;
	assert(!wp->pending);
	pthread_mutex_lock(&wp->lock);
	wp->quit = true;
	pthread_mutex_unlock(&wp->lock);
	pthread_cond_broadcast(&wp->cond);
	for (unsigned i = 0; i < wp->nr_threads; i++)
		pthread_join(wp->threads[i], NULL);
	reactor_unwatch(r, &wp->watch);
	close(wp->eventfd);
	pthread_mutex_destroy(&wp->lock);
	pthread_cond_destroy(&wp->cond);
	free(wp);
	r->workers = NULL;
}

/* --- the coroutine form --- */

struct co_work {
	struct work work;
	int (*fn)(void *arg);
	void *arg;
	int rc;
	struct co *co;
};

static void co_work_run(struct work *w)
{
	struct co_work *cw = container_of(w, struct co_work, work);

	cw->rc = cw->fn(cw->arg);
}

static void co_work_done(struct work *w)
{
	co_wake(container_of(w, struct co_work, work)->co);
}

int co_worker_run(struct reactor *r, int (*fn)(void *arg), void *arg)
{
	struct co_work cw = {
		.work = { .fn = co_work_run, .done = co_work_done },
		.fn = fn, .arg = arg, .co = co_self(),
	};

	assert(cw.co);
	if (r->engine->no_threads)
		return fn(arg);
	worker_submit(r, &cw.work);
	co_yield();
	return cw.rc;
}
