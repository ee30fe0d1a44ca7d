// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * offload.c - requests that an engine has no asynchronous call for, carried out
 * with blocking system calls on the helper threads.
 *
 * Invariant: there are as many struct offload as the reactor's depth, made once;
 * when all are lent out, offload_submit() says "full" like any engine.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/uio.h>
#include <unistd.h>

#include "io/reactor_priv.h"

#define MAX_IOV 1024

struct offload {
	struct work work;
	struct reactor *r;
	struct engine_req rq;
	int res;
	struct list link;      /* offload_free */
};

static ssize_t blocking(const struct engine_req *rq)
{
	int nr = rq->nr_iov < MAX_IOV ? rq->nr_iov : MAX_IOV;

	switch (rq->opcode) {
	case ENGINE_READ:
		return preadv2(rq->fd, rq->iov, nr, rq->off, rq->rw_flags);
	case ENGINE_WRITE:
		return pwritev2(rq->fd, rq->iov, nr, rq->off, rq->rw_flags);
	case ENGINE_FDATASYNC:
		return fdatasync(rq->fd);
	case ENGINE_FALLOCATE:
		return fallocate(rq->fd, rq->mode, rq->off, rq->len);
	case ENGINE_TRUNCATE:
		return ftruncate(rq->fd, rq->len);
	}
	abort();
}

static void offload_run(struct work *w)
{
	struct offload *o = container_of(w, struct offload, work);
	ssize_t n;

	do {
		n = blocking(&o->rq);
	} while (n < 0 && errno == EINTR);
	o->res = n < 0 ? -errno : (int)n;
}

static void offload_done(struct work *w)
{
	struct offload *o = container_of(w, struct offload, work);
	struct io_cqe_hook *hook = o->rq.hook;
	int res = o->res;

	list_add(&o->r->offload_free, &o->link);
	hook->fn(hook, res, 0);
}

bool offload_init(struct reactor *r)
{
	r->offloads = calloc(r->depth, sizeof(r->offloads[0]));
	if (!r->offloads)
		return false;
	for (unsigned i = 0; i < r->depth; i++) {
		r->offloads[i].r = r;
		r->offloads[i].work = (struct work){ .fn = offload_run, .done = offload_done };
		list_add(&r->offload_free, &r->offloads[i].link);
	}
	return true;
}

bool offload_submit(struct reactor *r, const struct engine_req *rq)
{
	struct offload *o;

	if (list_empty(&r->offload_free))
		return false;
	o = list_first(&r->offload_free, struct offload, link);
	list_del(&o->link);
	o->rq = *rq;
	worker_submit(r, &o->work);
	return true;
}

void offload_free(struct reactor *r)
{
	free(r->offloads);
	r->offloads = NULL;
}
