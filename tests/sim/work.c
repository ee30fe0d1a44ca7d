// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * work.c - random requests from several coroutines, each told to the oracle before and after.
 *
 * Every choice is drawn from one sequence, so that a seed gives the same requests.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "io/co.h"
#include "world.h"

#define WORKERS_MAX 16
#define BYTES_MAX (1u << 20)
#define IOVS 8

struct worker {
	struct work *k;
	struct habits *h;
	unsigned char *buf;
	struct chain_req q;
	struct iovec iov[IOVS];
	struct co *co;
	int res;
};

/* What this life likes to do. */
struct habits {
	unsigned write, zero, discard, flush;   /* percent; the rest reads */
	unsigned fua;                           /* percent of writes and zeroes */
	bool bytes;                             /* any alignment, not sectors only */
	uint64_t hot_off, hot_len;              /* where most of it happens */
	uint64_t unit, cluster;
};

static uint64_t rnd(struct work *k, uint64_t n)
{
	return sim_below(&k->rng, n);
}

static void habits_init(struct work *k, struct habits *h)
{
	static const unsigned mixes[][4] = {
		{ 45, 8, 8, 8 }, { 70, 2, 2, 3 }, { 30, 15, 25, 10 }, { 50, 5, 5, 30 }, { 40, 20, 20, 0 },
	};
	const unsigned *mix = mixes[rnd(k, sizeof(mixes) / sizeof(mixes[0]))];
	uint64_t size = k->w->oracle.size;
	struct chain_limits limits;

	chain_limits(k->chain, &limits);
	h->write = mix[0];
	h->zero = mix[1];
	h->discard = mix[2];
	h->flush = mix[3];
	h->fua = rnd(k, 3) ? 0 : 20;
	h->bytes = !rnd(k, 6);
	h->cluster = limits.optimal_io;
	h->unit = layer_unit(chain_active(k->chain));
	h->hot_len = rnd(k, 3) ? size : h->cluster * (1 + rnd(k, 8));
	if (h->hot_len > size)
		h->hot_len = size;
	h->hot_off = rnd(k, size - h->hot_len + 1) & ~511ull;
}

/* --- one request --- */

static uint64_t round_to(struct work *k, const struct habits *h)
{
	switch (rnd(k, 6)) {
	case 0:
		return h->cluster;
	case 1:
		return h->unit;
	case 2:
		return 4096;
	default:
		return h->bytes && !rnd(k, 2) ? 1 : 512;
	}
}

static uint64_t some_length(struct work *k, const struct habits *h)
{
	switch (rnd(k, 8)) {
	case 0:
		return h->cluster * (1 + rnd(k, 8));
	case 1:
		return h->unit * (1 + rnd(k, 8));
	case 2:
		return 1 + rnd(k, 4 * h->cluster);
	case 3:
		return 1 + rnd(k, BYTES_MAX);
	case 4:
		return 4096;
	default:
		return 512 * (1 + rnd(k, 16));
	}
}

static void some_range(struct work *k, const struct habits *h, uint64_t *off, uint64_t *len)
{
	uint64_t size = k->w->oracle.size, align = round_to(k, h);
	bool hot = rnd(k, 5);

	*off = (hot ? h->hot_off + rnd(k, h->hot_len) : rnd(k, size)) / align * align;
	*len = some_length(k, h);
	if (!h->bytes)
		*len = (*len + 511) & ~511ull;
	if (align > 512 && rnd(k, 2))
		*len = (*len + align - 1) / align * align;
	if (*len > BYTES_MAX)
		*len = BYTES_MAX;
	if (*len > size - *off)
		*len = size - *off;
}

/* The buffer in one piece, or in several that end with sectors: within one nothing is atomic else. */
static void set_iov(struct worker *wk, uint64_t len)
{
	struct work *k = wk->k;
	unsigned n = 0;
	uint64_t pos = 0;

	if (!rnd(k, 4)) {
		for (; n < IOVS - 1 && len - pos > 512; n++) {
			uint64_t part = 512 * (1 + rnd(k, (len - pos) / 512)) -
					(wk->q.guest_off + pos) % 512;

			if (part >= len - pos)
				break;
			wk->iov[n] = (struct iovec){ wk->buf + pos, part };
			pos += part;
		}
	}
	wk->iov[n++] = (struct iovec){ wk->buf + pos, len - pos };
	wk->q.iov = wk->iov;
	wk->q.nr_iov = n;
}

static void request_done(struct chain_req *q, int res)
{
	struct worker *wk = container_of(q, struct worker, q);

	wk->res = res;
	co_wake(wk->co);
}

static int co_request(struct worker *wk)
{
	struct work *k = wk->k;

	wk->q.done = request_done;
	wk->co = co_self();
	chain_submit(k->chain, &wk->q);
	co_yield();
	if (wk->res < 0 && k->strict)
		life_fail(k->w, "request %u at guest offset %" PRIu64 ", %" PRIu64
			  " bytes, failed without a reason: %s (%s)",
			  wk->q.opcode, wk->q.guest_off, wk->q.bytes, strerror(-wk->res),
			  chain_fault(k->chain) ? chain_fault(k->chain) : "no fault");
	return wk->res;
}

static void co_read_one(struct worker *wk)
{
	struct work *k = wk->k;
	struct oracle *o = &k->w->oracle;
	uint64_t since = oracle_instant(o), bad;

	wk->q.opcode = CHAIN_READ;
	memset(wk->buf, 0xa5, wk->q.bytes);
	set_iov(wk, wk->q.bytes);
	if (co_request(wk) < 0)
		return;
	k->w->bytes_read += wk->q.bytes;
	if (oracle_check(o, since, wk->q.guest_off, wk->buf, wk->q.bytes, &bad))
		return;
	oracle_explain(o, since, bad, wk->buf + (bad - wk->q.guest_off));
	life_fail(k->w, "a read at guest offset %" PRIu64 ", %" PRIu64 " bytes, gave a wrong value at %" PRIu64,
		  wk->q.guest_off, wk->q.bytes, bad);
}

static void co_change_one(struct worker *wk, enum chain_opcode opcode)
{
	struct work *k = wk->k;
	struct oracle *o = &k->w->oracle;
	unsigned op = oracle_begin(o, wk->q.guest_off, wk->q.bytes, opcode == CHAIN_ZERO);
	bool fua = rnd(k, 100) < wk->h->fua;
	int rc;

	wk->q.opcode = opcode;
	wk->q.flags = fua ? CHAIN_F_FUA : 0;
	if (opcode == CHAIN_ZERO) {
		wk->q.flags |= rnd(k, 2) ? CHAIN_F_NO_UNMAP : 0;
		wk->q.iov = NULL;
		wk->q.nr_iov = 0;
	} else {
		oracle_fill(o->ops[op].id, wk->q.guest_off, wk->buf, wk->q.bytes);
		set_iov(wk, wk->q.bytes);
		k->w->bytes_written += wk->q.bytes;
	}
	rc = co_request(wk);
	oracle_end(o, op, rc == 0, fua);
}

/*
 * Is a discard sure to give zeros? Version 2 cannot say so over a backing file, and of a
 * compressed cluster no part can go.
 */
static bool discard_is_sure(const struct work *k)
{
	const struct world_layer *l = &k->w->layers[k->w->depth - 1];

	return l->o.format == FORMAT_QCOW2 && l->o.version != 2 && !(l->compressed && l->o.extended_l2);
}

/* Only whole units can go. */
static void co_discard_one(struct worker *wk)
{
	struct work *k = wk->k;
	struct oracle *o = &k->w->oracle;
	uint64_t unit = wk->h->unit, off = wk->q.guest_off, end = off + wk->q.bytes;
	bool sure = discard_is_sure(k);
	unsigned op = 0;
	int rc;

	off = (off + unit - 1) / unit * unit;
	if (end != o->size)
		end = end / unit * unit;
	if (off < end)
		op = oracle_begin(o, off, end - off, true);
	wk->q.opcode = CHAIN_DISCARD;
	wk->q.flags = 0;
	wk->q.iov = NULL;
	wk->q.nr_iov = 0;
	rc = co_request(wk);
	if (off < end)
		oracle_end(o, op, sure && rc == 0, false);
}

static void co_flush_one(struct worker *wk)
{
	uint64_t start = oracle_instant(&wk->k->w->oracle);

	wk->q.opcode = CHAIN_FLUSH;
	wk->q.flags = 0;
	wk->q.bytes = 0;
	wk->q.iov = NULL;
	wk->q.nr_iov = 0;
	if (co_request(wk) == 0)
		oracle_flushed(&wk->k->w->oracle, start);
}

static int co_worker(void *arg)
{
	struct worker *wk = arg;
	struct work *k = wk->k;

	while (k->ops < k->limit) {
		unsigned what = (unsigned)rnd(k, 100);

		k->ops++;
		k->w->ops++;
		wk->q = (struct chain_req){ 0 };
		some_range(k, wk->h, &wk->q.guest_off, &wk->q.bytes);
		if (!wk->q.bytes)
			continue;
		k->w->may_leak += 3 * (wk->q.bytes + 4 * k->cluster);
		if (what < wk->h->write)
			co_change_one(wk, CHAIN_WRITE);
		else if ((what -= wk->h->write) < wk->h->zero)
			co_change_one(wk, CHAIN_ZERO);
		else if ((what -= wk->h->zero) < wk->h->discard)
			co_discard_one(wk);
		else if ((what -= wk->h->discard) < wk->h->flush)
			co_flush_one(wk);
		else
			co_read_one(wk);
	}
	return 0;
}

void co_work(struct work *k)
{
	struct worker *workers = calloc(WORKERS_MAX, sizeof(*workers));
	unsigned nr = 1 + (unsigned)rnd(k, WORKERS_MAX);
	struct habits h;
	struct co_group g;

	habits_init(k, &h);
	co_group_init(&g, k->r, 0);
	for (unsigned i = 0; i < nr; i++) {
		workers[i].k = k;
		workers[i].h = &h;
		workers[i].buf = buf_alloc(BYTES_MAX);
		co_group_start(&g, co_worker, &workers[i]);
	}
	co_group_wait(&g);
	for (unsigned i = 0; i < nr; i++)
		buf_free(workers[i].buf);
	free(workers);
}
