/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * img_convert.h - private to qcimg convert: what the command line asked for
 * (img_convert.c) and the machine that copies (img_copy.c).
 */
#ifndef QCHAIN_TOOLS_IMG_CONVERT_H
#define QCHAIN_TOOLS_IMG_CONVERT_H

#include "io/co.h"
#include "tools/img_common.h"

#define COPY_PARALLEL_MAX 16u

struct copy {
	/* set before it starts */
	struct reactor *r;
	struct chain **src;            /* one behind the other */
	unsigned nr_src;
	struct chain *target;
	uint64_t total;                /* bytes of all sources */
	uint64_t sparse;               /* shortest run of zeros to leave out; 0: write everything */
	uint64_t rate;                 /* bytes a second; 0: no limit */
	unsigned parallel;
	bool zero_init;                /* the target reads as zeros where nothing was written */
	bool over_backing;             /* the target has the lower layers of the source below it */
	bool compress, in_order, offload, salvage, fua;
	struct img_progress *progress;

	/* while it runs */
	uint64_t pos;                  /* next byte to hand out */
	uint64_t done;                 /* bytes finished */
	uint64_t unit;                 /* pieces begin at multiples of it */
	uint64_t paid_until_ns;        /* rate limit */
	uint64_t ticket, turn;         /* order of writes */
	struct co_mutex next;          /* one worker looks for its piece at a time */
	struct co_queue turns;
	struct chain_extent extent;    /* what lies at pos, in the source `extent_src` */
	unsigned extent_src;
	uint64_t extent_base;          /* where that source begins */
	int err;
	struct error what;             /* the sentence of err */
};

/* Copies all; 0 or -errno with c->what. */
int co_copy(struct copy *c);

#endif
