// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * co.c - coroutine stacks, switching, and the waits built on them.
 *
 * A stack is entered once through makecontext; from then on every switch is
 * _setjmp here and _longjmp there. A coroutine that ends goes to the reactor's
 * pool with its stack and takes the next function from there.
 *
 * Invariant: a coroutine is in exactly one place: running (it, or one it
 * started, is on the CPU), on the ready list, on one waiters' list, or held by
 * whoever will call co_wake().
 */
/* glibc's checked longjmp takes a switch of stacks for an attack */
#undef _FORTIFY_SOURCE
#include "io/co.h"

#include <assert.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "io/log.h"
#include "io/reactor_priv.h"

#if defined(__SANITIZE_ADDRESS__)
#define CO_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CO_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CO_TSAN 1
#endif
#endif

#ifdef CO_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef CO_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define CO_STACK_SIZE (256u << 10)
#define CO_POOL_MAX 128

/* A place execution can stand in: a coroutine's stack, or the thread's own. */
struct context {
	jmp_buf env;
	const void *stack;        /* lowest address */
	size_t stack_size;
	void *fake_stack;         /* ASan */
	void *fiber;              /* TSan */
};

struct co {
	struct context ctx;
	struct context *back;     /* who entered us last */
	struct co *back_co;       /* the same as a coroutine; NULL: the thread */
	struct reactor *r;
	co_fn *fn;
	void *arg;
	bool ready;
	bool running;
	void *map;
	size_t map_len;
	struct list link;         /* ready, a waiters' list, or the pool */
};

static _Thread_local struct context thread_ctx;
static _Thread_local struct context *came_from;   /* by the switch that is under way */
static _Thread_local struct co *current;

/* --- switching --- */

static inline void before_switch(struct context *from, struct context *to)
{
	came_from = from;
#ifdef CO_ASAN
	__sanitizer_start_switch_fiber(&from->fake_stack, to->stack, to->stack_size);
#endif
#ifdef CO_TSAN
	if (!from->fiber)
		from->fiber = __tsan_get_current_fiber();
	__tsan_switch_to_fiber(to->fiber, 0);
#endif
}

/* First thing on the new stack. ASan tells the bounds of the stack we left: how we learn the thread's. */
static inline void after_switch(struct context *self)
{
#ifdef CO_ASAN
	__sanitizer_finish_switch_fiber(self->fake_stack, &came_from->stack,
					&came_from->stack_size);
#endif
}

static __attribute__((noinline)) void switch_to(struct context *from, struct context *to)
{
	if (_setjmp(from->env) == 0) {
		before_switch(from, to);
		_longjmp(to->env, 1);
	}
	after_switch(from);
}

static void co_main(struct co *co)
{
	after_switch(&co->ctx);
	for (;;) {
		switch_to(&co->ctx, co->back);   /* the first time: back to co_new() */
		co->fn(co->arg);
		co->fn = NULL;
		co->running = false;
		current = co->back_co;
	}
}

/* makecontext passes ints only */
static void co_entry(unsigned hi, unsigned lo)
{
	co_main((struct co *)(uintptr_t)((uint64_t)hi << 32 | lo));
}

/* Touches every page, so that none faults while memory is short. */
static void stack_touch(unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i += 4096)
		((volatile unsigned char *)p)[i] = 0;
}

static struct context *self_ctx(void)
{
	return current ? &current->ctx : &thread_ctx;
}

static __attribute__((noinline)) void first_switch(struct context *from, struct context *to,
						   const ucontext_t *uc)
{
	if (_setjmp(from->env) == 0) {
		before_switch(from, to);
		setcontext(uc);
		abort();
	}
	after_switch(from);
}

/* Enters the fresh stack for the first time; it comes back waiting in co_main(). */
static void co_prepare(struct co *co)
{
	ucontext_t uc;
	uint64_t p = (uintptr_t)co;

	if (getcontext(&uc) < 0)
		abort();
	uc.uc_stack.ss_sp = (void *)(uintptr_t)co->ctx.stack;
	uc.uc_stack.ss_size = co->ctx.stack_size;
	uc.uc_link = NULL;
	makecontext(&uc, (void (*)(void))co_entry, 2, (unsigned)(p >> 32), (unsigned)p);
#ifdef CO_TSAN
	co->ctx.fiber = __tsan_create_fiber(0);
#endif
	co->back = self_ctx();
	first_switch(co->back, &co->ctx, &uc);
}

/* --- stacks --- */

static struct co *co_new(struct reactor *r)
{
	size_t page = sysconf(_SC_PAGESIZE);
	struct co *co = calloc(1, sizeof(*co));
	unsigned char *map;

	if (!co)
		return NULL;
	co->map_len = CO_STACK_SIZE + page;
	map = mmap(NULL, co->map_len, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (map == MAP_FAILED) {
		free(co);
		return NULL;
	}
	if (mprotect(map, page, PROT_NONE) < 0) {
		munmap(map, co->map_len);
		free(co);
		return NULL;
	}
	co->map = map;
	co->r = r;
	co->ctx.stack = map + page;
	co->ctx.stack_size = CO_STACK_SIZE;
	list_init(&co->link);
	stack_touch(map + page, CO_STACK_SIZE);
	co_prepare(co);
	return co;
}

static void co_free(struct co *co)
{
#ifdef CO_TSAN
	__tsan_destroy_fiber(co->ctx.fiber);
#endif
	munmap(co->map, co->map_len);
	free(co);
}

void co_pool_free(struct reactor *r)
{
	assert(!r->nr_co);
	while (!list_empty(&r->co_pool)) {
		struct co *co = list_first(&r->co_pool, struct co, link);

		list_del(&co->link);
		co_free(co);
	}
	r->nr_co_pool = 0;
}

static struct co *co_get(struct reactor *r)
{
	struct co *co;

	if (list_empty(&r->co_pool))
		return co_new(r);
	co = list_first(&r->co_pool, struct co, link);
	list_del(&co->link);
	r->nr_co_pool--;
	return co;
}

static void co_put(struct co *co)
{
	struct reactor *r = co->r;

	r->nr_co--;
	if (r->nr_co_pool >= CO_POOL_MAX) {
		co_free(co);
		return;
	}
	list_add(&r->co_pool, &co->link);
	r->nr_co_pool++;
}

/* --- running --- */

/* Runs co until it yields or ends. */
static void co_enter(struct co *co)
{
	struct context *from = self_ctx();

	assert(!co->running && !co->ready);
	co->back = from;
	co->back_co = current;
	co->running = true;
	current = co;
	switch_to(from, &co->ctx);
	if (!co->fn)
		co_put(co);
}

void co_start(struct reactor *r, co_fn *fn, void *arg)
{
	struct co *co = co_get(r);

	if (!co) {
		log_error("out of memory for a coroutine stack (%u running)", r->nr_co);
		abort();
	}
	r->nr_co++;
	co->fn = fn;
	co->arg = arg;
	co_enter(co);
}

struct co *co_self(void)
{
	return current;
}

void co_yield(void)
{
	struct co *co = current;

	assert(co);
	co->running = false;
	current = co->back_co;
	switch_to(&co->ctx, co->back);
}

void co_wake(struct co *co)
{
	assert(!co->ready && co->fn);
	assert(!co->running);
	assert(list_empty(&co->link));
	co->ready = true;
	list_add_tail(&co->r->ready, &co->link);
}

void co_reschedule(void)
{
	struct co *co = current;

	assert(co && list_empty(&co->link));
	co->ready = true;
	list_add_tail(&co->r->rescheduled, &co->link);
	co_yield();
}

unsigned co_run_ready(struct reactor *r, unsigned budget)
{
	for (; !list_empty(&r->ready) && budget; budget--) {
		struct co *co = list_first(&r->ready, struct co, link);

		list_del(&co->link);
		co->ready = false;
		co_enter(co);
	}
	return budget;
}

/* --- queue --- */

void co_queue_init(struct co_queue *q)
{
	list_init(&q->waiters);
}

void co_queue_wait(struct co_queue *q)
{
	struct co *co = current;

	assert(co && list_empty(&co->link));
	list_add_tail(&q->waiters, &co->link);
	co_yield();
}

bool co_queue_wake_one(struct co_queue *q)
{
	struct co *co;

	if (list_empty(&q->waiters))
		return false;
	co = list_first(&q->waiters, struct co, link);
	list_del(&co->link);
	co_wake(co);
	return true;
}

void co_queue_wake_all(struct co_queue *q)
{
	while (co_queue_wake_one(q))
		;
}

bool co_queue_empty(const struct co_queue *q)
{
	return list_empty(&q->waiters);
}

/* --- mutex --- */

void co_mutex_init(struct co_mutex *m)
{
	m->owner = NULL;
	list_init(&m->waiters);
}

void co_mutex_lock(struct co_mutex *m)
{
	struct co *co = current;

	assert(co && m->owner != co);
	if (!m->owner) {
		m->owner = co;
		return;
	}
	list_add_tail(&m->waiters, &co->link);
	co_yield();
	assert(m->owner == co);
}

void co_mutex_unlock(struct co_mutex *m)
{
	struct co *next = NULL;

	assert(m->owner && m->owner == current);
	if (!list_empty(&m->waiters)) {
		next = list_first(&m->waiters, struct co, link);
		list_del(&next->link);
	}
	m->owner = next;
	if (next)
		co_wake(next);
}

/* --- group --- */

struct group_child {
	struct co_group *g;
	co_group_fn *fn;
	void *arg;
};

static void group_child_main(void *p)
{
	struct group_child c = *(struct group_child *)p;   /* the caller's copy goes at our first yield */
	int rc = c.fn(c.arg);

	if (rc < 0 && !c.g->err)
		c.g->err = rc;
	c.g->running--;
	co_queue_wake_all(&c.g->wait);
}

void co_group_init(struct co_group *g, struct reactor *r, unsigned limit)
{
	*g = (struct co_group){ .r = r, .limit = limit };
	co_queue_init(&g->wait);
}

void co_group_start(struct co_group *g, co_group_fn *fn, void *arg)
{
	struct group_child c = { g, fn, arg };

	while (g->limit && g->running >= g->limit)
		co_queue_wait(&g->wait);
	g->running++;
	co_start(g->r, group_child_main, &c);
}

int co_group_wait(struct co_group *g)
{
	while (g->running)
		co_queue_wait(&g->wait);
	return g->err;
}
