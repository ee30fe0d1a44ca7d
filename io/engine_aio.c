// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine_aio.c - libaio, for machines where io_uring is switched off.
 *
 * Direct reads and writes and fdatasync go to libaio in batches and come back
 * through an eventfd in the epoll set, in which this engine waits. What libaio
 * lacks or would do synchronously (buffered files, fallocate, truncate) goes to
 * the helper threads; a buffered read that the page cache can satisfy is served
 * at once and reported with the next turn.
 *
 * Invariant: every iocb is free, pending (not yet sent) or in the kernel.
 */
#include <assert.h>
#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "io/log.h"
#include "io/reactor_priv.h"

#define REAP_BATCH 128
#define MAX_IOV 1024
#define RETRY_NS 1000000

struct aio_done {
	struct io_cqe_hook *hook;
	int res;
};

struct aio {
	io_context_t ctx;
	struct reactor *r;
	struct io_watch watch;        /* the eventfd */
	struct iocb *iocbs;           /* depth of them */
	struct iocb **free;           /* a stack */
	unsigned nr_free;
	struct iocb **pending;        /* to be sent with the next turn, in order */
	unsigned nr_pending;
	/* complete already, to be reported next turn: at most depth reads and depth refusals */
	struct aio_done *done;
	unsigned nr_done;
};

static inline struct aio *aio_of(struct reactor *r)
{
	return r->engine_state;
}

/* --- set-up --- */

static void reap(struct aio *a);

static void eventfd_ready(struct io_watch *w, uint32_t revents)
{
	struct aio *a = w->arg;
	uint64_t n;

	if (read(w->fd, &n, sizeof(n)) < 0)
		assert(errno == EAGAIN || errno == EINTR);
	reap(a);
}

static void aio_release(struct aio *a)
{
	if (a->ctx)
		io_destroy(a->ctx);
	if (a->watch.armed)
		reactor_unwatch(a->r, &a->watch);
	if (a->watch.fd >= 0)
		close(a->watch.fd);
	free(a->iocbs);
	free(a->free);
	free(a->pending);
	free(a->done);
	free(a);
}

static bool aio_alloc(struct aio *a, unsigned depth)
{
	a->iocbs = calloc(depth, sizeof(a->iocbs[0]));
	a->free = calloc(depth, sizeof(a->free[0]));
	a->pending = calloc(depth, sizeof(a->pending[0]));
	a->done = calloc(2 * (size_t)depth, sizeof(a->done[0]));
	if (!a->iocbs || !a->free || !a->pending || !a->done)
		return false;
	while (a->nr_free < depth) {
		a->free[a->nr_free] = &a->iocbs[a->nr_free];
		a->nr_free++;
	}
	return true;
}

static int aio_init(struct reactor *r, const struct reactor_config *cfg, struct error *e)
{
	struct aio *a = calloc(1, sizeof(*a));
	int rc;

	if (!a)
		return error_set(e, ENOMEM, "cannot set up libaio: out of memory");
	a->r = r;
	a->watch = (struct io_watch){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
				      .events = EPOLLIN, .fn = eventfd_ready, .arg = a };
	if (a->watch.fd < 0 || reactor_watch(r, &a->watch) < 0 || !aio_alloc(a, r->depth)) {
		aio_release(a);
		return error_set(e, ENOMEM, "cannot set up libaio: out of memory or descriptors");
	}
	rc = io_setup(r->depth, &a->ctx);
	if (rc < 0) {
		aio_release(a);
		if (rc == -EAGAIN)
			return error_set(e, EAGAIN, "cannot set up libaio for %u requests: "
					 "raise sysctl fs.aio-max-nr", r->depth);
		return error_set_errno(e, -rc, "cannot set up libaio");
	}
	r->engine_state = a;
	return 0;
}

static void aio_fini(struct reactor *r)
{
	struct aio *a = aio_of(r);

	assert(a->nr_free == r->depth && !a->nr_pending && !a->nr_done);
	aio_release(a);
	r->engine_state = NULL;
}

/* --- requests --- */

/* A buffered read served from the page cache without waiting: true if it was. */
static bool read_cached(struct aio *a, const struct engine_req *rq)
{
	ssize_t n;

	if (a->nr_done >= a->r->depth)
		return false;
	n = preadv2(rq->fd, rq->iov, rq->nr_iov < MAX_IOV ? rq->nr_iov : MAX_IOV, rq->off,
		    RWF_NOWAIT);
	if (n <= 0)
		return false;
	a->done[a->nr_done++] = (struct aio_done){ rq->hook, n };
	return true;
}

static void prep(struct iocb *cb, const struct engine_req *rq)
{
	int nr = rq->nr_iov < MAX_IOV ? rq->nr_iov : MAX_IOV;

	switch (rq->opcode) {
	case ENGINE_READ:
		if (nr == 1)
			io_prep_pread(cb, rq->fd, rq->iov->iov_base, rq->iov->iov_len, rq->off);
		else
			io_prep_preadv(cb, rq->fd, rq->iov, nr, rq->off);
		break;
	case ENGINE_WRITE:
		if (nr == 1)
			io_prep_pwrite(cb, rq->fd, rq->iov->iov_base, rq->iov->iov_len, rq->off);
		else
			io_prep_pwritev(cb, rq->fd, rq->iov, nr, rq->off);
		break;
	default:
		io_prep_fdsync(cb, rq->fd);
		break;
	}
	cb->aio_rw_flags = rq->rw_flags;
}

static bool aio_submit(struct reactor *r, const struct engine_req *rq)
{
	struct aio *a = aio_of(r);
	bool rw = rq->opcode == ENGINE_READ || rq->opcode == ENGINE_WRITE;
	struct iocb *cb;

	if (rw && !rq->direct) {
		if (rq->opcode == ENGINE_READ && read_cached(a, rq))
			return true;
		return offload_submit(r, rq);
	}
	if (!rw && rq->opcode != ENGINE_FDATASYNC)
		return offload_submit(r, rq);
	if (!a->nr_free)
		return false;
	cb = a->free[--a->nr_free];
	prep(cb, rq);
	io_set_eventfd(cb, a->watch.fd);
	cb->data = rq->hook;
	a->pending[a->nr_pending++] = cb;
	return true;
}

/* --- the turn --- */

static void complete(struct aio *a, struct iocb *cb, long res)
{
	struct io_cqe_hook *hook = cb->data;

	a->free[a->nr_free++] = cb;
	hook->fn(hook, (int)res, 0);
}

static void reap(struct aio *a)
{
	struct io_event ev[REAP_BATCH];
	struct timespec none = { 0, 0 };
	int n;

	do {
		n = io_getevents(a->ctx, 0, REAP_BATCH, ev, &none);
		for (int i = 0; i < n; i++)
			complete(a, ev[i].obj, (long)ev[i].res);
	} while (n == REAP_BATCH);
}

static void report_done(struct aio *a)
{
	unsigned n = a->nr_done;

	/* hooks may add more: those wait for the next turn */
	for (unsigned i = 0; i < n; i++)
		a->done[i].hook->fn(a->done[i].hook, a->done[i].res, 0);
	a->nr_done -= n;
	memmove(a->done, a->done + n, a->nr_done * sizeof(a->done[0]));
}

/* Sends what is pending; what the kernel refuses outright is reported with its error. */
static void send_pending(struct aio *a)
{
	unsigned sent = 0;

	while (sent < a->nr_pending) {
		int n = io_submit(a->ctx, a->nr_pending - sent, a->pending + sent);

		if (n == -EAGAIN || n == -EINTR)
			break;   /* the kernel is short of something; next turn */
		if (n <= 0) {
			struct iocb *cb = a->pending[sent++];

			a->done[a->nr_done++] = (struct aio_done){ cb->data, n ? n : -EIO };
			a->free[a->nr_free++] = cb;
		} else {
			sent += n;
		}
	}
	a->nr_pending -= sent;
	memmove(a->pending, a->pending + sent, a->nr_pending * sizeof(a->pending[0]));
}

static void aio_turn(struct reactor *r, int64_t timeout_ns)
{
	struct aio *a = aio_of(r);
	struct epoll_event ev[EPOLL_BATCH];
	struct timespec ts;
	int n;

	send_pending(a);
	/* refused for want of memory: nothing may be in flight that would end our wait */
	if (a->nr_pending && (timeout_ns < 0 || timeout_ns > RETRY_NS))
		timeout_ns = RETRY_NS;
	if (a->nr_done)
		timeout_ns = 0;
	ts.tv_sec = timeout_ns / 1000000000;
	ts.tv_nsec = timeout_ns % 1000000000;
	report_done(a);
	n = epoll_pwait2(r->epfd, ev, EPOLL_BATCH, timeout_ns < 0 ? NULL : &ts, NULL);
	if (n < 0 && errno != EINTR) {
		log_error("epoll_pwait2: %m");
		abort();
	}
	if (n > 0)
		reactor_dispatch_events(r, ev, n);
}

const struct engine engine_aio = {
	.kind = ENGINE_AIO,
	.name = "aio",
	.init = aio_init,
	.fini = aio_fini,
	.submit = aio_submit,
	.turn = aio_turn,
};
