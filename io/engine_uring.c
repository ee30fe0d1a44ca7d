// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * engine_uring.c - io_uring: one io_uring_enter a turn submits, waits and lets
 * deferred task work run.
 *
 * The epoll set of the slow sources is polled through the ring, one-shot and armed
 * again after each dispatch: a level-triggered source that still has something
 * completes the new poll at once, so one epoll_wait per event is enough.
 *
 * Invariant: requests in flight never exceed what the completion queue holds,
 * so the kernel never has to allocate for an overflow on our account.
 */
#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "io/log.h"
#include "io/reactor_priv.h"

/* newer than liburing 2.3 */
#define OP_FTRUNCATE 55

#define FIXED_FILES 512
#define MAX_SQ 4096u
#define MAX_RW (1u << 30)      /* the kernel moves at most 2 GiB - 4 KiB at once */
#define MAX_IOV 1024

struct uring {
	struct io_uring ring;
	unsigned inflight, max_inflight;   /* of engine requests */
	bool sqe128;
	bool has_ftruncate;
	struct reactor *r;
	struct io_cqe_hook poll_hook;      /* the epoll set */
	bool polled;                       /* it has something: dispatch after this reap */
	unsigned nr_slots, nr_free_slots;
	int free_slots[FIXED_FILES];
};

static const unsigned setup_flags[] = {
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN |
		IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
		IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
	IORING_SETUP_SUBMIT_ALL,
	0,
};

static inline struct uring *uring_of(struct reactor *r)
{
	return r->engine_state;
}

static struct io_uring_sqe *sqe_get(struct uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	if (likely(sqe))
		return sqe;
	io_uring_submit(&u->ring);
	return io_uring_get_sqe(&u->ring);
}

/* --- set-up --- */

static int ring_setup(struct uring *u, unsigned entries, bool sqe128)
{
	int rc = -EINVAL;

	for (unsigned i = 0; i < sizeof(setup_flags) / sizeof(setup_flags[0]); i++) {
		struct io_uring_params p = {
			.flags = setup_flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
				 (sqe128 ? IORING_SETUP_SQE128 : 0),
			.cq_entries = entries * 4,
		};

		rc = io_uring_queue_init_params(entries, &u->ring, &p);
		if (rc != -EINVAL)
			break;
	}
	/* waiting with a time limit in the same call: Linux 5.11 */
	if (!rc && !(u->ring.features & IORING_FEAT_EXT_ARG)) {
		io_uring_queue_exit(&u->ring);
		rc = -ENOSYS;
	}
	return rc;
}

static void files_register(struct uring *u)
{
	struct rlimit rl;
	unsigned n = FIXED_FILES;

	if (!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur < n)
		n = rl.rlim_cur;
	if (io_uring_register_files_sparse(&u->ring, n) < 0)
		return;   /* plain descriptors do as well */
	u->nr_slots = n;
	while (u->nr_free_slots < n) {
		u->free_slots[u->nr_free_slots] = n - 1 - u->nr_free_slots;
		u->nr_free_slots++;
	}
}

static void probe_ops(struct uring *u)
{
	struct io_uring_probe *p = io_uring_get_probe_ring(&u->ring);

	u->has_ftruncate = p && p->last_op >= OP_FTRUNCATE &&
			   (p->ops[OP_FTRUNCATE].flags & IO_URING_OP_SUPPORTED);
	io_uring_free_probe(p);
}

static void poll_ready(struct io_cqe_hook *h, int res, uint32_t flags)
{
	container_of(h, struct uring, poll_hook)->polled = true;
}

static void poll_arm(struct uring *u)
{
	struct io_uring_sqe *sqe = reactor_sqe(u->r, &u->poll_hook);

	io_uring_prep_poll_add(sqe, u->r->epfd, POLLIN);
	io_uring_sqe_set_data(sqe, &u->poll_hook);
}

static int setup_error(struct error *e, int rc)
{
	if (rc == -ENOSYS || rc == -EPERM)
		return error_set(e, -rc, "io_uring is not to be had on this machine (see sysctl "
				 "kernel.io_uring_disabled); enable it or use --engine aio");
	if (rc == -ENOMEM)
		return error_set(e, ENOMEM, "cannot set up io_uring: not enough memory or "
				 "locked-memory limit too low (ulimit -l); raise it or use "
				 "--engine aio");
	return error_set_errno(e, -rc, "cannot set up io_uring (--engine aio does without)");
}

static int uring_init(struct reactor *r, const struct reactor_config *cfg, struct error *e)
{
	struct uring *u = calloc(1, sizeof(*u));
	unsigned entries = 8;
	int rc;

	if (!u)
		return error_set(e, ENOMEM, "cannot set up io_uring: out of memory");
	while (entries < r->depth && entries < MAX_SQ)
		entries *= 2;
	rc = ring_setup(u, entries, cfg->sqe128);
	if (rc < 0) {
		free(u);
		return setup_error(e, rc);
	}
	u->r = r;
	u->sqe128 = cfg->sqe128;
	u->max_inflight = *u->ring.cq.kring_entries / 4 * 3;
	u->poll_hook.fn = poll_ready;
	r->engine_state = u;
	io_uring_ring_dontfork(&u->ring);
	io_uring_register_ring_fd(&u->ring);   /* saves a descriptor look-up a turn; optional */
	files_register(u);
	probe_ops(u);
	poll_arm(u);
	return 0;
}

static void uring_fini(struct reactor *r)
{
	struct uring *u = uring_of(r);

	assert(!u->inflight);
	assert(u->nr_free_slots == u->nr_slots);
	io_uring_queue_exit(&u->ring);
	free(u);
	r->engine_state = NULL;
}

/* --- requests --- */

static void prep_rw(struct io_uring_sqe *sqe, const struct engine_req *rq)
{
	bool read = rq->opcode == ENGINE_READ;

	if (likely(rq->nr_iov == 1)) {
		size_t len = rq->iov->iov_len < MAX_RW ? rq->iov->iov_len : MAX_RW;

		io_uring_prep_rw(read ? IORING_OP_READ : IORING_OP_WRITE, sqe, rq->fd,
				 rq->iov->iov_base, len, rq->off);
	} else {
		io_uring_prep_rw(read ? IORING_OP_READV : IORING_OP_WRITEV, sqe, rq->fd, rq->iov,
				 rq->nr_iov < MAX_IOV ? rq->nr_iov : MAX_IOV, rq->off);
	}
	sqe->rw_flags = rq->rw_flags;
}

static bool uring_submit(struct reactor *r, const struct engine_req *rq)
{
	struct uring *u = uring_of(r);
	struct io_uring_sqe *sqe;

	if (unlikely(rq->opcode == ENGINE_TRUNCATE && !u->has_ftruncate))
		return offload_submit(r, rq);
	if (unlikely(u->inflight >= u->max_inflight))
		return false;
	sqe = sqe_get(u);
	if (unlikely(!sqe))
		return false;
	switch (rq->opcode) {
	case ENGINE_READ:
	case ENGINE_WRITE:
		prep_rw(sqe, rq);
		break;
	case ENGINE_FDATASYNC:
		io_uring_prep_fsync(sqe, rq->fd, IORING_FSYNC_DATASYNC);
		break;
	case ENGINE_FALLOCATE:
		io_uring_prep_fallocate(sqe, rq->fd, rq->mode, rq->off, rq->len);
		break;
	case ENGINE_TRUNCATE:
		io_uring_prep_rw(OP_FTRUNCATE, sqe, rq->fd, NULL, 0, rq->len);
		break;
	}
	if (likely(rq->slot >= 0)) {
		sqe->fd = rq->slot;
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	/* bit 0 tells engine requests, which are counted, from raw ones */
	sqe->user_data = (uintptr_t)rq->hook | 1;
	u->inflight++;
	return true;
}

/* --- the turn --- */

static void enter(struct uring *u, int64_t timeout_ns)
{
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int rc = 0;

	if (!timeout_ns) {
		if (io_uring_sq_ready(&u->ring) ||
		    *u->ring.sq.kflags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW))
			rc = io_uring_submit_and_get_events(&u->ring);
	} else if (timeout_ns < 0) {
		rc = io_uring_submit_and_wait(&u->ring, 1);
	} else {
		ts.tv_sec = timeout_ns / 1000000000;
		ts.tv_nsec = timeout_ns % 1000000000;
		rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, &ts, NULL);
	}
	if (rc < 0 && rc != -EINTR && rc != -ETIME && rc != -EAGAIN && rc != -EBUSY) {
		log_error("io_uring_enter: %s", strerror(-rc));
		abort();
	}
}

/* Hooks may submit more, and thereby complete more: stop after one queue full. */
static void reap(struct uring *u)
{
	struct io_uring *ring = &u->ring;
	unsigned budget = *ring->cq.kring_entries;
	unsigned head = *ring->cq.khead;

	while (budget-- && head != io_uring_smp_load_acquire(ring->cq.ktail)) {
		const struct io_uring_cqe *cqe = &ring->cq.cqes[head & *ring->cq.kring_mask];
		uint64_t data = cqe->user_data;
		int res = cqe->res;
		uint32_t flags = cqe->flags;
		struct io_cqe_hook *hook = (void *)(uintptr_t)(data & ~(uint64_t)1);

		u->inflight -= data & 1;
		io_uring_smp_store_release(ring->cq.khead, ++head);
		if (likely(hook))
			hook->fn(hook, res, flags);
	}
}

static void uring_turn(struct reactor *r, int64_t timeout_ns)
{
	struct uring *u = uring_of(r);

	if (io_uring_cq_ready(&u->ring))
		timeout_ns = 0;
	enter(u, timeout_ns);
	reap(u);
	if (unlikely(u->polled)) {
		u->polled = false;
		reactor_poll_dispatch(r);
		poll_arm(u);
	}
}

/* --- registered files --- */

static int uring_fixed_update(struct reactor *r, int slot, int fd)
{
	int rc = io_uring_register_files_update(&uring_of(r)->ring, slot, &fd, 1);

	return rc < 0 ? rc : 0;
}

static int uring_fixed_add(struct reactor *r, int fd)
{
	struct uring *u = uring_of(r);
	int slot;

	if (!u->nr_free_slots)
		return -1;
	slot = u->free_slots[u->nr_free_slots - 1];
	if (uring_fixed_update(r, slot, fd) < 0)
		return -1;
	u->nr_free_slots--;
	return slot;
}

static void uring_fixed_del(struct reactor *r, int slot)
{
	struct uring *u = uring_of(r);

	assert(slot >= 0 && (unsigned)slot < u->nr_slots && u->nr_free_slots < u->nr_slots);
	uring_fixed_update(r, slot, -1);
	u->free_slots[u->nr_free_slots++] = slot;
}

const struct engine engine_uring = {
	.kind = ENGINE_URING,
	.name = "uring",
	.init = uring_init,
	.fini = uring_fini,
	.submit = uring_submit,
	.turn = uring_turn,
	.fixed_add = uring_fixed_add,
	.fixed_del = uring_fixed_del,
	.fixed_update = uring_fixed_update,
};

/* --- raw access --- */

struct io_uring *reactor_ring(struct reactor *r)
{
	return r->engine == &engine_uring ? &uring_of(r)->ring : NULL;
}

struct io_uring_sqe *reactor_sqe(struct reactor *r, struct io_cqe_hook *hook)
{
	struct uring *u = uring_of(r);
	struct io_uring_sqe *sqe;

	assert(r->engine == &engine_uring);
	while (!(sqe = sqe_get(u)))
		io_uring_submit_and_get_events(&u->ring);   /* the kernel is short of memory: insist */
	memset(sqe, 0, u->sqe128 ? 2 * sizeof(*sqe) : sizeof(*sqe));
	sqe->user_data = (uintptr_t)hook;
	return sqe;
}
