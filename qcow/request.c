// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * request.c - takes guest requests, serves the simple ones at once, gives the rest to coroutines.
 *
 * The fast path: a read whose bytes are one run of one file, a read of zeros, a
 * write into one run that may be overwritten. It runs in the caller's context
 * and takes no lock:
 * - A read or write that has been handed to a file counts in c->data until it is done.
 *   A cluster it points at may be unlinked meanwhile, but the layer reuses a
 *   freed cluster only after co_drain, which waits for it.
 * - While clusters are being unlinked, their range is frozen in the map, so nobody
 *   can resolve the old place after that co_drain began.
 * - A write in place beside an allocation in the same cluster touches other bytes:
 *   allocation writes only whole units that had no bytes in place.
 * - A write in place that is in flight while its range is zeroed or discarded may land
 *   before or after: the guest overlapped the two and was promised no order. It
 *   lands in the old cluster, which is still reserved, or in one kept as preallocated zero,
 *   where every sector is still either the zero or the write.
 *
 * Invariant: done() is called exactly once for each request, from the reactor.
 */
#include <errno.h>
#include <stdlib.h>

#include "qcow/chain_priv.h"

#define FILL_POOL_BYTES    (32ull << 20)
#define CLUSTER_POOL_BYTES (16ull << 20)

/* --- generations --- */

static void generations_init(struct generations *g)
{
	*g = (struct generations){ 0 };
	co_mutex_init(&g->drain_lock);
	co_queue_init(&g->wait);
}

void co_generation_drain(struct generations *g)
{
	unsigned old;

	co_mutex_lock(&g->drain_lock);   /* the other generation is empty when we get here */
	old = g->now;
	g->now = !old;
	while (g->count[old])
		co_queue_wait(&g->wait);
	co_mutex_unlock(&g->drain_lock);
}

void co_chain_drain(struct chain *c)
{
	co_generation_drain(&c->requests);
}

/* --- completion --- */

/* A request's two generations share q->epoch: bit 0 in c->requests, bit 1 in c->data. */
#define EPOCH_REQUEST 1u
#define EPOCH_DATA    2u

static void start(struct chain *c, struct chain_req *q);

static void complete(struct chain *c, struct chain_req *q, int res)
{
	struct chain_req *next = NULL;

	generation_leave(&c->requests, q->epoch & EPOCH_REQUEST);
	c->running--;
	if (__builtin_expect(!list_empty(&c->queued), 0) && c->running < c->max_requests) {
		next = list_first(&c->queued, struct chain_req, link);
		list_del(&next->link);
		c->running++;
	}
	q->done(q, res);
	if (next)
		start(c, next);
}

static void finish_run(struct io_task *t)
{
	struct chain *c = container_of(t, struct chain, finish_task);
	struct list batch;

	list_init(&batch);
	list_splice_tail(&batch, &c->finished);
	while (!list_empty(&batch)) {
		struct chain_req *q = list_first(&batch, struct chain_req, link);

		list_del(&q->link);
		complete(c, q, (int)(int64_t)q->op.moved);
	}
}

/* Completes q from a deferred task: never inside chain_submit(). */
static void complete_later(struct chain *c, struct chain_req *q, int res)
{
	q->op.moved = (uint64_t)(int64_t)res;
	if (list_empty(&c->finished))
		reactor_defer(c->r, &c->finish_task);
	list_add_tail(&c->finished, &q->link);
}

static void fast_done(struct io_op *op, int res)
{
	struct chain_req *q = container_of(op, struct chain_req, op);
	struct chain *c = q->chain;

	generation_leave(&c->data, q->epoch >> 1);
	complete(c, q, res);
}

/* --- fast path --- */

static void fast_submit(struct chain *c, struct chain_req *q, enum io_opcode opcode,
			const struct map_run *run)
{
	struct io_op *op = &q->op;

	op->done = fast_done;
	op->opcode = opcode;
	op->flags = q->flags & CHAIN_F_FUA ? IO_F_FUA : 0;
	op->off = run->host_off;
	op->len = q->bytes;
	op->iov = q->iov;
	op->nr_iov = q->nr_iov;
	if (generation_enter(&c->data))
		q->epoch |= EPOCH_DATA;
	file_submit(layer_data_file(run->layer), op);
}

/* True if q is on its way. */
static bool fast_read(struct chain *c, struct chain_req *q)
{
	struct map_run run;

	if (!map_lookup(c->map, q->guest_off, q->bytes, &run) || run.bytes < q->bytes)
		return false;
	if (run.kind == MAP_DATA) {
		fast_submit(c, q, IO_READ, &run);
		return true;
	}
	if (run.kind != MAP_ZERO)
		return false;
	iov_zero(q->iov, q->nr_iov, 0, q->bytes);
	complete_later(c, q, 0);
	return true;
}

static bool fast_write(struct chain *c, struct chain_req *q)
{
	struct map_run run;

	if ((q->flags & CHAIN_F_FUA) && c->meta_changed != c->meta_durable)
		return false;
	if (!map_lookup(c->map, q->guest_off, q->bytes, &run) || run.bytes < q->bytes)
		return false;
	if (!run.in_place)
		return false;
	fast_submit(c, q, IO_WRITE, &run);
	return true;
}

/* --- slow path --- */

static int co_serve(struct chain *c, struct chain_req *q)
{
	switch (q->opcode) {
	case CHAIN_READ:
		return co_request_read(c, q);
	case CHAIN_WRITE:
		return co_request_write(c, q);
	case CHAIN_ZERO:
		return co_request_zero(c, q);
	case CHAIN_DISCARD:
		return co_request_discard(c, q);
	case CHAIN_FLUSH:
		return co_request_flush(c);
	}
	return -EINVAL;
}

/* Serves q and then, in the same coroutine, those that waited for one. */
static void slow_main(void *arg)
{
	struct chain_req *q = arg;
	struct chain *c = q->chain;

	for (;;) {
		complete_later(c, q, co_serve(c, q));
		if (list_empty(&c->queued_slow))
			break;
		q = list_first(&c->queued_slow, struct chain_req, link);
		list_del(&q->link);
	}
	c->slow--;
}

static void start_slow(struct chain *c, struct chain_req *q)
{
	c->stats.slow_path++;
	if (c->slow == SLOW_MAX) {
		list_add_tail(&c->queued_slow, &q->link);
		return;
	}
	c->slow++;
	co_start(c->r, slow_main, q);
}

/* --- submission --- */

/* 0, or why q cannot be served. */
static int check(const struct chain *c, const struct chain_req *q)
{
	if (q->opcode != CHAIN_READ) {
		int rc = q->opcode == CHAIN_FLUSH ? 0 : chain_writable(c);

		if (rc < 0 || q->opcode == CHAIN_FLUSH)
			return rc;
	}
	if (q->guest_off > c->size || q->bytes > c->size - q->guest_off)
		return -EIO;
	return 0;
}

static void start(struct chain *c, struct chain_req *q)
{
	int rc = check(c, q);
	bool going = false;

	if (__builtin_expect(rc < 0 || (!q->bytes && q->opcode != CHAIN_FLUSH), 0)) {
		complete_later(c, q, rc);
		return;
	}
	if (q->opcode == CHAIN_READ)
		going = fast_read(c, q);
	else if (q->opcode == CHAIN_WRITE)
		going = fast_write(c, q);
	if (going)
		c->stats.fast_path++;
	else
		start_slow(c, q);
}

static void count(struct chain_stats *s, const struct chain_req *q)
{
	switch (q->opcode) {
	case CHAIN_READ:
		s->reads++;
		s->read_bytes += q->bytes;
		break;
	case CHAIN_WRITE:
		s->writes++;
		s->write_bytes += q->bytes;
		break;
	case CHAIN_ZERO:
		s->zeroes++;
		break;
	case CHAIN_DISCARD:
		s->discards++;
		break;
	case CHAIN_FLUSH:
		s->flushes++;
		break;
	}
}

void chain_submit(struct chain *c, struct chain_req *q)
{
	q->chain = c;
	list_init(&q->link);
	q->epoch = generation_enter(&c->requests);
	count(&c->stats, q);
	if (__builtin_expect(c->running >= c->max_requests, 0)) {
		list_add_tail(&c->queued, &q->link);
		return;
	}
	c->running++;
	start(c, q);
}

/* --- coroutine form --- */

struct waiting_req {
	struct chain_req q;
	struct co *co;
	int res;
};

static void waiting_done(struct chain_req *q, int res)
{
	struct waiting_req *w = container_of(q, struct waiting_req, q);

	w->res = res;
	co_wake(w->co);
}

static int co_submit(struct chain *c, struct waiting_req *w)
{
	w->co = co_self();
	w->q.done = waiting_done;
	chain_submit(c, &w->q);
	co_yield();
	return w->res;
}

int co_chain_read(struct chain *c, uint64_t guest_off, void *buf, uint64_t bytes)
{
	struct iovec iov = { buf, bytes };
	struct waiting_req w = { .q = { .opcode = CHAIN_READ, .guest_off = guest_off,
					.bytes = bytes, .iov = &iov, .nr_iov = 1 } };

	return co_submit(c, &w);
}

int co_chain_write(struct chain *c, uint64_t guest_off, const void *buf, uint64_t bytes)
{
	struct iovec iov = { (void *)buf, bytes };
	struct waiting_req w = { .q = { .opcode = CHAIN_WRITE, .guest_off = guest_off,
					.bytes = bytes, .iov = &iov, .nr_iov = 1 } };

	return co_submit(c, &w);
}

int co_chain_zero(struct chain *c, uint64_t guest_off, uint64_t bytes, unsigned flags)
{
	struct waiting_req w = { .q = { .opcode = CHAIN_ZERO, .flags = flags,
					.guest_off = guest_off, .bytes = bytes } };

	return co_submit(c, &w);
}

int co_chain_discard(struct chain *c, uint64_t guest_off, uint64_t bytes)
{
	struct waiting_req w = { .q = { .opcode = CHAIN_DISCARD,
					.guest_off = guest_off, .bytes = bytes } };

	return co_submit(c, &w);
}

int co_chain_flush(struct chain *c)
{
	struct waiting_req w = { .q = { .opcode = CHAIN_FLUSH } };

	return co_submit(c, &w);
}

/* --- set-up --- */

/* Buffers of `size`, as many as `all` bytes hold, within sane numbers. */
static struct bufpool *pool_new(size_t size, uint64_t all)
{
	uint64_t n = all / size;

	return bufpool_new(size, n < 4 ? 4 : n > SLOW_MAX ? SLOW_MAX : n);
}

int chain_requests_init(struct chain *c)
{
	uint32_t cluster = 4096;

	rangelock_init(&c->locks);
	list_init(&c->queued);
	list_init(&c->queued_slow);
	list_init(&c->finished);
	io_task_init(&c->finish_task, finish_run);
	generations_init(&c->requests);
	generations_init(&c->data);
	for (unsigned i = 0; i < c->depth; i++)
		if (layer_cluster_size(c->layers[i]) > cluster)
			cluster = layer_cluster_size(c->layers[i]);
	c->cluster_pool = pool_new(cluster, CLUSTER_POOL_BYTES);
	if (!c->read_only)
		c->fill_pool = pool_new(2 * (c->cluster < 4096 ? 4096 : c->cluster), FILL_POOL_BYTES);
	return c->cluster_pool && (c->read_only || c->fill_pool) ? 0 : -ENOMEM;
}

void chain_requests_fini(struct chain *c)
{
	bufpool_free(c->cluster_pool);
	bufpool_free(c->fill_pool);
}
