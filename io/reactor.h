/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * reactor.h - one thread, one ring: all I/O, timers, sockets, signals, child
 * exits and finished helper-thread calls arrive here.
 *
 * A turn: run ready coroutines and deferred tasks until none is left; submit
 * everything queued and wait in ONE system call; reap completions; fire due
 * timers. Callbacks run on the reactor's thread, one at a time, and must not
 * block. The reactor is an object: a process may have several, each used by one
 * thread only.
 *
 * Slow sources (sockets, signals, timers, child exits) sit in one epoll set; the
 * uring engine polls that set through the ring, the aio engine waits in it.
 */
#ifndef QCHAIN_IO_REACTOR_H
#define QCHAIN_IO_REACTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "io/error.h"
#include "io/list.h"

struct reactor;
struct io_uring;
struct io_uring_sqe;

struct sim_disk;

/* ENGINE_SIM is for tests (sim.h) and has no name that engine_parse() knows. */
enum engine_kind { ENGINE_URING, ENGINE_AIO, ENGINE_SIM };

struct reactor_config {
	enum engine_kind engine;
	unsigned depth;         /* I/O operations in flight the engine is sized for; 0 = 1024 */
	bool sqe128;            /* ublk control commands want 128-byte SQEs on their own ring;
	                           the data ring never needs this: leave false */
	struct sim_disk *sim;   /* ENGINE_SIM: its disk */
};

/*
 * Makes a reactor for the calling thread. Fails with a sentence when the engine
 * is not to be had (io_uring switched off: names the sysctl and --engine aio).
 */
int reactor_new(const struct reactor_config *cfg, struct reactor **out, struct error *e);
/* Nothing may be in flight, watched or armed any more (asserted). */
void reactor_free(struct reactor *r);
enum engine_kind reactor_engine(const struct reactor *r);
/* "uring", "aio" */
const char *engine_name(enum engine_kind k);
int engine_parse(const char *s, enum engine_kind *out);

/* Runs turns until reactor_stop(). This and reactor_turn(): neither in a coroutine nor in a callback. */
void reactor_run(struct reactor *r);
void reactor_stop(struct reactor *r);
/* One turn; waits for an event only if `wait` and nothing is ready. */
void reactor_turn(struct reactor *r, bool wait);
/*
 * For tools: runs fn(arg) as a coroutine and turns until it returns; gives its result.
 * Must be called outside of coroutines.
 */
int reactor_run_co(struct reactor *r, int (*fn)(void *arg), void *arg);

uint64_t reactor_now_ns(struct reactor *r);   /* CLOCK_MONOTONIC, read once a turn */

/* --- deferred work: runs later in this turn, in order; a task may be queued once --- */
struct io_task {
	void (*fn)(struct io_task *t);
	struct list link;       /* private; list_init() before first use */
};
void io_task_init(struct io_task *t, void (*fn)(struct io_task *t));
void reactor_defer(struct reactor *r, struct io_task *t);

/* --- file descriptors (sockets, pipes, eventfds) --- */
struct io_watch {
	int fd;
	uint32_t events;        /* EPOLLIN | EPOLLOUT, level triggered */
	void (*fn)(struct io_watch *w, uint32_t revents);
	void *arg;
	bool armed;             /* private */
	struct list link;       /* private */
};
int reactor_watch(struct reactor *r, struct io_watch *w);            /* adds, or changes events */
void reactor_unwatch(struct reactor *r, struct io_watch *w);         /* safe inside its own callback */

/* --- timers, one-shot --- */
struct io_timer {
	void (*fn)(struct io_timer *t);
	void *arg;
	uint64_t due_ns;        /* private: absolute */
	unsigned pos;           /* private: place in the heap, 0 = not armed */
};
void io_timer_init(struct io_timer *t, void (*fn)(struct io_timer *t), void *arg);
void reactor_timer_arm(struct reactor *r, struct io_timer *t, uint64_t after_ns);   /* re-arms */
void reactor_timer_cancel(struct reactor *r, struct io_timer *t);
void co_sleep_ns(struct reactor *r, uint64_t ns);

/* --- signals: blocked in the process and delivered here --- */
struct io_signal {
	int signo;
	void (*fn)(struct io_signal *s);
	void *arg;
	struct list link;       /* private */
};
int reactor_signal_add(struct reactor *r, struct io_signal *s);
void reactor_signal_del(struct reactor *r, struct io_signal *s);

/* --- children: fn gets waitpid's status once; the child is reaped --- */
struct io_child {
	pid_t pid;
	void (*fn)(struct io_child *c, int wstatus);
	void *arg;
	int pidfd;              /* private */
	struct io_watch watch;  /* private */
};
int reactor_child_add(struct reactor *r, struct io_child *c);
int co_child_wait(struct reactor *r, pid_t pid, int *wstatus);

/*
 * Runs fn(arg) on a helper thread while the coroutine waits: for calls that
 * block and that no engine offers (mount, LOOP_CONFIGURE on our own FUSE file,
 * device-mapper ioctls, heavy compression). At most 4 threads; more calls wait.
 * fn must touch nothing the reactor's thread touches.
 */
int co_worker_run(struct reactor *r, int (*fn)(void *arg), void *arg);

/*
 * Raw ring access for kernel interfaces that speak io_uring themselves (ublk's
 * uring_cmd, reads of /dev/fuse). NULL from reactor_ring() when the engine has no
 * ring. A completion whose user_data is a struct io_cqe_hook calls it. The SQE
 * goes out with this turn's submission. reactor_sqe() submits early when the
 * ring is full, so it never returns NULL; the returned SQE is zeroed and its
 * user_data set to hook.
 */
struct io_cqe_hook {
	void (*fn)(struct io_cqe_hook *h, int res, uint32_t cqe_flags);
};
struct io_uring *reactor_ring(struct reactor *r);
struct io_uring_sqe *reactor_sqe(struct reactor *r, struct io_cqe_hook *hook);

/*
 * Registered ("fixed") files of the ring: slot index, or -1 when the table is
 * full or the engine has none; callers then use the plain descriptor.
 */
int reactor_fixed_file_add(struct reactor *r, int fd);
void reactor_fixed_file_del(struct reactor *r, int slot);

#endif
