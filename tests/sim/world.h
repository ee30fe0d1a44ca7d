/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * world.h - one seed: a chain of images in a folder, and what outlives the processes that serve it.
 *
 * Each life of the chain is a child process: it opens the chain on a simulated disk,
 * works, and ends by a crash or a clean close. The files hold the disk between
 * lives; struct world, in shared memory, holds the rest.
 */
#ifndef QCHAIN_TESTS_SIM_WORLD_H
#define QCHAIN_TESTS_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "io/sim.h"
#include "oracle.h"
#include "qcow/chain.h"
#include "qcow/create.h"

#define WORLD_LAYERS 4

struct world_layer {
	char name[32];
	struct create_opts o;
	char data_file[32];
	bool compressed;           /* parts of it were, at some time */
};

struct world {
	/* set when the seed begins */
	uint64_t seed;
	char dir[128];
	bool verbose;

	uint64_t rng;                  /* of the parent's decisions */
	unsigned life;                 /* numbered from 1 */
	struct world_layer layers[WORLD_LAYERS];
	unsigned depth;

	/* how the last life ended */
	bool crashed, faulty, closed;
	bool dirty;                    /* the active image has wrong refcounts, and says so */
	/*
	 * Bytes of host clusters that the lives of the active image which crashed or failed may have
	 * leaked; beyond the end of the file a leak is not seen before something is written behind it.
	 */
	uint64_t may_leak, may_leak_before;

	/* counted over all seeds */
	uint64_t lives, ops, crashes, closes, checks, qemu_checks, snapshots, compressions, dirtied, steps;
	uint64_t bytes_read, bytes_written;

	char failure[1024];            /* what was wrong, if anything was */
	struct oracle oracle;
};

/* What a life is for. */
enum life_kind {
	LIFE_WORK,             /* check, open, compare all, work, crash or close */
	LIFE_LOOK,             /* check, open read-only, compare all, close */
	LIFE_CREATE,           /* create the image of the highest layer */
};

/* A step of the seed's own sequence. */
static inline uint64_t world_below(struct world *w, uint64_t n)
{
	return sim_below(&w->rng, n);
}

/* In a child: never returns; status 0, or 1 with w->failure. (life.c) */
void life_run(struct world *w, enum life_kind kind) __attribute__((noreturn));
/* Reports what must not be and ends the child. */
void life_fail(struct world *w, const char *fmt, ...) __attribute__((noreturn, format(printf, 2, 3)));

/* work.c: random requests; returns when they are done. */
struct work {
	struct world *w;
	struct chain *chain;
	struct reactor *r;
	uint64_t rng;
	bool strict;           /* no faults: every request must succeed */
	unsigned ops, limit;   /* begun; to be begun */
	uint64_t cluster;
};
void co_work(struct work *k);

#endif
