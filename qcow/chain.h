/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * chain.h - a chain of layers as one guest device, and the requests it serves.
 *
 * Everything above (ublk, FUSE, NBD, jobs, qcimg) sees a chain through this
 * file. Reads go by the merged map (map.h): one lookup at any depth. The fast
 * path (a request that resolves to one extent and changes no metadata) runs in
 * the caller's context and submits with a plain callback; everything else runs
 * in a coroutine from a pool of bounded size.
 *
 * A chain belongs to one reactor; all calls come from its thread.
 */
#ifndef QCHAIN_QCOW_CHAIN_H
#define QCHAIN_QCOW_CHAIN_H

#include <stdbool.h>
#include <stdint.h>

#include "io/file.h"
#include "io/reactor.h"
#include "qcow/layer.h"

struct chain;

struct chain_opts {
	const char *image;             /* as typed: path, file:, json: */
	enum layer_format format;      /* of the active image; FORMAT_UNSET = from magic */
	const char *backing_format;    /* for the overlays whose header names none; NULL = refuse them */
	bool read_only;
	bool no_lock;
	bool no_backing;               /* open the active layer alone (qcimg info, check) */
	bool reads_only_once;          /* offline sequential tools: smaller caches will do */
	enum file_cache cache;
	uint64_t map_cache;            /* byte budget of the map; 0 = 64 MiB */
	uint64_t meta_cache;           /* byte budget for tables, shared out over layers; 0 = 16 MiB */
	unsigned max_requests;         /* guest requests in flight; 0 = 256 */
};

/*
 * Opens image and everything below it: headers and L1 tables, no other table.
 * Layers get node names "layer-0" (base) upward. Refuses loops, missing files,
 * unnamed backing formats, more than 512 layers. May yield.
 */
int co_chain_open(struct reactor *r, const struct chain_opts *o, struct chain **out, struct error *e);
/* Waits for requests in flight, flushes, closes every layer. The chain is gone even on error. */
int co_chain_close(struct chain *c, struct error *e);

uint64_t chain_size(const struct chain *c);            /* of the active layer, bytes */
bool chain_read_only(const struct chain *c);           /* true too after the active layer failed */
const char *chain_fault(const struct chain *c);        /* why it turned read-only, or NULL */
unsigned chain_depth(const struct chain *c);
struct layer *chain_layer(const struct chain *c, unsigned i);   /* 0 = base, depth-1 = active */
struct layer *chain_active(const struct chain *c);
struct layer *chain_find(const struct chain *c, const char *node_or_path);
struct reactor *chain_reactor(const struct chain *c);

struct chain_limits {
	uint32_t logical_block;        /* 512 */
	uint32_t physical_block;       /* 4096 */
	uint32_t optimal_io;           /* cluster of the active layer */
	uint32_t discard_granularity;  /* allocation unit of the active layer */
	uint32_t max_transfer;         /* bytes in one read or write: 1 MiB */
};
void chain_limits(const struct chain *c, struct chain_limits *out);

/* --- requests --- */
enum chain_opcode { CHAIN_READ, CHAIN_WRITE, CHAIN_ZERO, CHAIN_DISCARD, CHAIN_FLUSH };
#define CHAIN_F_FUA      1u    /* WRITE, ZERO: durable when done */
#define CHAIN_F_NO_UNMAP 2u    /* ZERO: keep host space */

struct chain_req {
	/* set by the caller; unchanged until done */
	void (*done)(struct chain_req *q, int res);    /* res: 0 or -errno */
	enum chain_opcode opcode;
	unsigned flags;
	uint64_t guest_off, bytes;     /* any alignment; beyond the end is -EIO, as a disk has it */
	const struct iovec *iov;       /* READ, WRITE; sums to bytes; valid until done */
	unsigned nr_iov;
	/* private to the chain from submit to done */
	struct chain *chain;
	struct io_op op;
	struct list link;
	unsigned epoch;
};

/*
 * Starts q; done() comes from the reactor, never inside this call. Memory that q
 * may need was set aside by chain_open (max_requests); more requests than that wait in order.
 * READ buffers should be aligned to BUF_ALIGN: others cost a copy under direct I/O.
 */
void chain_submit(struct chain *c, struct chain_req *q);

int co_chain_read(struct chain *c, uint64_t guest_off, void *buf, uint64_t bytes);
int co_chain_write(struct chain *c, uint64_t guest_off, const void *buf, uint64_t bytes);
int co_chain_zero(struct chain *c, uint64_t guest_off, uint64_t bytes, unsigned flags);
int co_chain_discard(struct chain *c, uint64_t guest_off, uint64_t bytes);
int co_chain_flush(struct chain *c);

/* Waits until every request that is in flight now has completed. */
void co_chain_drain(struct chain *c);

/* --- where the bytes are --- */
struct chain_extent {
	uint64_t guest_off, bytes;
	enum extent_kind kind;         /* UNALLOCATED: in no layer, reads as zeros. ZERO also where a
	                                  layer ends before the disk does: that layer decides */
	int layer;                     /* index of the layer that decides; -1 for UNALLOCATED */
	uint64_t host_off;             /* DATA (and ZERO with a host cluster); else UINT64_MAX */
};
/* The longest run at guest_off with one answer, at most bytes. */
int co_chain_status(struct chain *c, uint64_t guest_off, uint64_t bytes, struct chain_extent *out);

/* --- counters for query-blockstats and tests --- */
struct chain_stats {
	uint64_t reads, writes, zeroes, discards, flushes;
	uint64_t read_bytes, write_bytes;
	uint64_t fast_path, slow_path;
	uint64_t map_hits, map_builds, map_evictions, map_bytes;
};
void chain_stats(const struct chain *c, struct chain_stats *out);

#endif
