/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chain_priv.h - private to qcow/: the inside of a chain, shared by its parts.
 *
 *   chain.c          open, close, facts, status
 *   request.c        submission, fast path, queueing, completion, drain
 *   request_read.c   reads over several extents
 *   request_write.c  writes: in place, allocating; flush
 *   request_zero.c   write-zeroes and discard
 *
 * Who waits for whom (so that nobody waits in a circle):
 *   a request waits for c->locks, builds, allocations, its own I/O;
 *   an allocation or flush may wait for a commit, which may call co_drain;
 *   co_drain waits only for c->data, which counts nothing but operations already
 *   handed to a file (or to the decompressor) that hold a host offset. Those wait for nobody.
 */
#ifndef QCHAIN_QCOW_CHAIN_PRIV_H
#define QCHAIN_QCOW_CHAIN_PRIV_H

#include "io/buf.h"
#include "io/rangelock.h"
#include "qcow/chain.h"
#include "qcow/map.h"

#define MAX_TRANSFER     (1u << 20)
#define REQUESTS_DEFAULT 256u
#define SLOW_MAX         128u       /* coroutines at work; more slow requests wait in order */

/*
 * Counts what is in flight in two generations, so that one can wait for what was there
 * without being kept by what came after.
 */
struct generations {
	unsigned now;              /* 0 or 1 */
	uint64_t count[2];
	struct co_mutex drain_lock;
	struct co_queue wait;
};

static inline unsigned generation_enter(struct generations *g)
{
	g->count[g->now]++;
	return g->now;
}

static inline void generation_leave(struct generations *g, unsigned gen)
{
	assert(g->count[gen] > 0);
	if (--g->count[gen] == 0 && !co_queue_empty(&g->wait))
		co_queue_wake_all(&g->wait);
}

struct chain {
	/* set at open and never changed */
	struct reactor *r;
	bool read_only;
	unsigned max_requests;

	/* the layers, 0 = base; changed with the chain drained */
	struct layer **layers;
	unsigned depth;
	struct layer *active;
	uint64_t size;
	uint32_t cluster, unit;          /* of the active layer */
	struct chain_map *map;

	/* guest ranges being allocated, zeroed or discarded: exclusive, cluster-rounded */
	struct rangelock locks;

	/* requests */
	unsigned running;                /* started, done() not called */
	unsigned slow;                   /* of them, in a coroutine */
	struct list queued;              /* wait for running < max_requests */
	struct list queued_slow;         /* started, wait for slow < SLOW_MAX */
	struct list finished;            /* done() is called by finish_task */
	struct io_task finish_task;
	struct generations requests;     /* co_chain_drain() */
	struct generations data;         /* layer_owner.co_drain() */
	struct bufpool *fill_pool;       /* padding of allocating writes; 2 clusters each */
	struct bufpool *cluster_pool;    /* decompressed clusters */

	/*
	 * Tables changed by us, and the last change that a flush has made durable: a FUA
	 * write in place needs no flush of tables when they agree.
	 */
	uint64_t meta_changed, meta_durable;

	struct chain_stats stats;
};

/* Why the active layer takes no writes: 0 if it does. */
static inline int chain_writable(const struct chain *c)
{
	return c->read_only || !layer_writable(c->active) ? -EROFS : 0;
}

/* --- request.c --- */
int chain_requests_init(struct chain *c);      /* -ENOMEM */
void chain_requests_fini(struct chain *c);
void co_generation_drain(struct generations *g);

/* --- request_read.c --- */
#define PIECES     16
#define PIECE_IOVS 16

struct pieces;
struct piece {
	struct io_op op;
	struct iovec iov[PIECE_IOVS];
	struct pieces *set;
	unsigned generation;
	bool busy;
};

/* Operations side by side on behalf of one coroutine, whose stack they live on. */
struct pieces {
	struct chain *c;
	struct co *waiter;
	unsigned inflight;
	int err;                         /* the first */
	struct piece piece[PIECES];
};

/* A guest buffer: bytes from `skip` on. */
struct guest_buf {
	const struct iovec *iov;
	unsigned nr_iov;
	size_t skip;
};

/* As much of buf as max_iovs elements cover, at most bytes. */
uint64_t guest_buf_fit(const struct guest_buf *buf, uint64_t bytes, unsigned max_iovs);
void pieces_init(struct pieces *p, struct chain *c);
/* Waits until another piece can be submitted. */
void co_pieces_room(struct pieces *p);
/*
 * Starts to move [host_off, +bytes) of the layer's data file, now, so that a host offset just
 * looked up cannot go stale. There must be room, and bytes must fit (guest_buf_fit()).
 */
void piece_submit(struct pieces *p, enum io_opcode opcode, unsigned flags, struct layer *l,
		  uint64_t host_off, const struct guest_buf *buf, uint64_t bytes);
int co_pieces_wait(struct pieces *p);          /* 0 or the first error */

/* map_lookup() that builds what is missing. */
int co_resolve(struct chain *c, uint64_t guest_off, uint64_t bytes, struct map_run *run);
/* Reads [guest_off, +bytes), within the disk, through the map; side by side with what p holds already. */
int co_read_range(struct pieces *p, uint64_t guest_off, uint64_t bytes, struct guest_buf buf);
int co_request_read(struct chain *c, struct chain_req *q);

/* --- request_write.c --- */
int co_request_write(struct chain *c, struct chain_req *q);
int co_request_flush(struct chain *c);
int co_write_range(struct chain *c, uint64_t guest_off, uint64_t bytes, struct guest_buf buf);
/* Holds the clusters of [guest_off, +bytes) exclusively. */
void co_lock_clusters(struct chain *c, struct range *rg, uint64_t guest_off, uint64_t bytes);

/* --- request_zero.c --- */
int co_request_zero(struct chain *c, struct chain_req *q);
int co_request_discard(struct chain *c, struct chain_req *q);

#endif
