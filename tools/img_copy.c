// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_copy.c - moves the guest's bytes of some chains into a target.
 *
 * A few workers take pieces in order. Each reads its piece, and when its turn
 * comes submits the writes; the next worker's writes are submitted right
 * behind, so the target is laid out in order while reads and writes overlap.
 * A worker that fails stops the others at their next piece, and passes its turn on.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/buf.h"
#include "tools/img_convert.h"

#define PIECE (512u << 10)
#define SPAN_MAX 512u                  /* writes of one piece; longer pieces end early */
#define OFFLOAD_PIECE (16u << 20)
#define SECTOR 512u

enum piece_kind { PIECE_SKIP, PIECE_ZERO, PIECE_DATA, PIECE_OFFLOAD };

struct piece {
	enum piece_kind kind;
	uint64_t off, len, ticket;
	struct layer *layer;           /* OFFLOAD: where the bytes are */
	uint64_t host_off;
};

struct worker;

struct span {                          /* one write or zeroing of the target */
	struct chain_req q;
	struct iovec iov;
	struct worker *w;
};

struct worker {
	struct copy *c;
	uint8_t *buf;
	struct span spans[SPAN_MAX];
	unsigned pending;              /* spans submitted and not done */
	int err;                       /* the first of them that failed */
	struct co *waiter;             /* set while it waits for pending to fall to 0 */
};

static int fail(struct copy *c, int ret, const char *what, uint64_t off)
{
	if (!c->err) {
		c->err = ret;
		error_set_errno(&c->what, -ret, "error while %s at offset %" PRIu64, what, off);
	}
	return ret;
}

/* --- the source --- */

/* Finds the source that holds pos and what lies there, unless it is known already. */
static int co_look(struct copy *c)
{
	const struct chain_extent *x = &c->extent;
	struct chain *src;

	if (c->pos - c->extent_base < x->guest_off + x->bytes)
		return 0;
	while (c->pos - c->extent_base >= chain_size(c->src[c->extent_src]))
		c->extent_base += chain_size(c->src[c->extent_src++]);
	src = c->src[c->extent_src];
	return co_chain_status(src, c->pos - c->extent_base, chain_size(src) - (c->pos - c->extent_base),
			       &c->extent);
}

static enum piece_kind extent_piece_kind(const struct copy *c)
{
	const struct chain_extent *x = &c->extent;

	if (c->over_backing && x->layer != (int)chain_depth(c->src[0]) - 1)
		return PIECE_SKIP;
	if (x->kind != EXT_ZERO && x->kind != EXT_UNALLOCATED)
		return c->offload && x->kind == EXT_DATA ? PIECE_OFFLOAD : PIECE_DATA;
	return c->sparse ? PIECE_ZERO : PIECE_DATA;
}

/* Cuts the piece at pos: whole units, except at the end. A unit of several kinds is data. */
static void cut_piece(struct copy *c, struct piece *p)
{
	const struct chain_extent *x = &c->extent;
	uint64_t end = c->extent_base + x->guest_off + x->bytes, max;

	*p = (struct piece){ .kind = extent_piece_kind(c), .off = c->pos, .ticket = c->ticket++ };
	if (end < c->total && p->kind != PIECE_DATA)
		end -= end % c->unit;
	if (end <= c->pos) {
		p->kind = PIECE_DATA;
		end = c->pos + c->unit;
	}
	if (p->kind == PIECE_DATA && end % c->unit)
		end += c->unit - end % c->unit;
	max = p->kind == PIECE_DATA ? (c->unit > PIECE ? c->unit : PIECE) : p->kind == PIECE_OFFLOAD
	    ? OFFLOAD_PIECE : UINT64_MAX;
	if (end > c->total)
		end = c->total;
	p->len = end - c->pos < max ? end - c->pos : max;
	if (p->kind == PIECE_OFFLOAD) {
		p->layer = chain_layer(c->src[c->extent_src], (unsigned)x->layer);
		p->host_off = x->host_off + (c->pos - c->extent_base - x->guest_off);
	}
	c->pos += p->len;
}

static bool co_next_piece(struct copy *c, struct piece *p)
{
	bool got = false;
	int ret;

	co_mutex_lock(&c->next);
	if (!c->err && c->pos < c->total) {
		ret = co_look(c);
		if (ret < 0) {
			fail(c, ret, "reading block status", c->pos);
		} else {
			cut_piece(c, p);
			got = true;
		}
	}
	co_mutex_unlock(&c->next);
	return got;
}

/* Reads across the seams between sources. */
static int co_read_sources(struct copy *c, uint64_t off, uint8_t *buf, uint64_t len)
{
	uint64_t base = 0;

	for (unsigned i = 0; i < c->nr_src && len; i++) {
		uint64_t size = chain_size(c->src[i]), n;
		int ret;

		if (off < base + size) {
			n = base + size - off < len ? base + size - off : len;
			for (uint64_t at = 0; at < n; at += PIECE) {
				ret = co_chain_read(c->src[i], off - base + at, buf + at,
						    n - at < PIECE ? n - at : PIECE);
				if (ret < 0)
					return ret;
			}
			off += n;
			buf += n;
			len -= n;
		}
		base += size;
	}
	return 0;
}

/* --salvage: sector by sector; what cannot be read becomes zeros, and is named. */
static void co_salvage(struct copy *c, const struct piece *p, uint8_t *buf)
{
	for (uint64_t at = 0; at < p->len; at += SECTOR) {
		uint64_t n = p->len - at < SECTOR ? p->len - at : SECTOR;
		int ret = co_read_sources(c, p->off + at, buf + at, n);

		if (ret == 0)
			continue;
		fprintf(stderr, "qcimg: warning: error while reading offset %" PRIu64 ": %s\n", p->off + at,
			strerror(-ret));
		memset(buf + at, 0, n);
	}
}

static int co_read_piece(struct copy *c, const struct piece *p, uint8_t *buf)
{
	int ret = co_read_sources(c, p->off, buf, p->len);

	if (ret == 0)
		return 0;
	if (!c->salvage)
		return fail(c, ret, "reading", p->off);
	co_salvage(c, p, buf);
	return 0;
}

/* --- the target --- */
static void span_done(struct chain_req *q, int res)
{
	struct worker *w = container_of(q, struct span, q)->w;

	if (res < 0 && !w->err)
		w->err = res;
	if (--w->pending == 0 && w->waiter)
		co_wake(w->waiter);
}

static void span_submit(struct worker *w, unsigned i, enum chain_opcode opcode, uint64_t off, uint64_t len,
			void *buf)
{
	struct span *s = &w->spans[i];

	s->w = w;
	s->iov = (struct iovec){ buf, len };
	s->q = (struct chain_req){
		.done = span_done, .opcode = opcode, .flags = w->c->fua ? CHAIN_F_FUA : 0,
		.guest_off = off, .bytes = len,
	};
	if (opcode == CHAIN_WRITE) {
		s->q.iov = &s->iov;
		s->q.nr_iov = 1;
	}
	w->pending++;
	chain_submit(w->c->target, &s->q);
}

static int co_spans_wait(struct worker *w)
{
	int ret;

	while (w->pending) {
		w->waiter = co_self();
		co_yield();
	}
	w->waiter = NULL;
	ret = w->err;
	w->err = 0;
	return ret;
}

/* How far the bytes at p are all data or all zeros, in steps of the sparse size. */
static uint64_t run_length(const struct copy *c, const uint8_t *p, uint64_t len, bool *zero)
{
	uint64_t step = c->sparse, at;

	if (!step) {
		*zero = false;
		return len;
	}
	for (at = 0; at < len; at += step) {
		bool z = buf_is_zero(p + at, len - at < step ? len - at : step);

		if (at == 0)
			*zero = z;
		else if (z != *zero)
			break;
	}
	return at < len ? at : len;
}

/* Submits a piece's bytes as runs, holes left out where the target reads as zeros. */
static int co_write_runs(struct worker *w, const struct piece *p)
{
	struct copy *c = w->c;
	unsigned n = 0;
	int ret = 0;

	for (uint64_t at = 0, run; at < p->len && ret == 0; at += run) {
		bool zero;

		run = run_length(c, w->buf + at, p->len - at, &zero);
		if (zero && c->zero_init && !c->over_backing)
			continue;
		if (n == SPAN_MAX) {
			ret = co_spans_wait(w);
			n = 0;
		}
		span_submit(w, n++, zero ? CHAIN_ZERO : CHAIN_WRITE, p->off + at, run, w->buf + at);
	}
	return ret;
}

static int co_write_compressed(struct worker *w, const struct piece *p)
{
	struct copy *c = w->c;
	struct layer *l = chain_active(c->target);
	uint64_t cluster = layer_cluster_size(l);

	for (uint64_t at = 0; at < p->len; at += cluster) {
		uint64_t n = p->len - at < cluster ? p->len - at : cluster;
		int ret = 0;

		memset(w->buf + at + n, 0, cluster - n);
		if (!buf_is_zero(w->buf + at, n) || !c->sparse)
			ret = co_layer_write_compressed(l, p->off + at, w->buf + at);
		else if (!c->zero_init || c->over_backing)
			ret = co_chain_zero(c->target, p->off + at, n, 0);
		if (ret < 0)
			return fail(c, ret, "writing", p->off + at);
	}
	return 0;
}

/* --- order, and speed limit --- */
static void co_turn_take(struct copy *c, const struct piece *p)
{
	while (c->in_order && c->turn != p->ticket)
		co_queue_wait(&c->turns);
}

static void turn_pass(struct copy *c)
{
	c->turn++;
	co_queue_wake_all(&c->turns);
}

static void co_pay(struct copy *c, uint64_t bytes)
{
	uint64_t now = reactor_now_ns(c->r), wait = 0;

	if (!c->rate)
		return;
	if (c->paid_until_ns > now)
		wait = c->paid_until_ns - now;
	else
		c->paid_until_ns = now;
	c->paid_until_ns += (uint64_t)((double)bytes * 1e9 / (double)c->rate);
	if (wait)
		co_sleep_ns(c->r, wait);
}

/* --- copying inside the file system --- */
struct offload {
	int src_fd, dst_fd;
	uint64_t src_off, dst_off, len;
};

static int offload_run(void *arg)
{
	struct offload *o = arg;

	while (o->len) {
		off64_t from = (off64_t)o->src_off, to = (off64_t)o->dst_off;
		ssize_t n = copy_file_range(o->src_fd, &from, o->dst_fd, &to, o->len, 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		o->src_off += (uint64_t)n;
		o->dst_off += (uint64_t)n;
		o->len -= (uint64_t)n;
	}
	return 0;
}

static int co_offload(struct copy *c, const struct piece *p)
{
	struct offload o = {
		.src_fd = file_fd(layer_data_file(p->layer)),
		.dst_fd = file_fd(layer_data_file(chain_active(c->target))),
		.src_off = p->host_off, .dst_off = p->off, .len = p->len,
	};

	return co_worker_run(c->r, offload_run, &o);
}

/* --- a worker --- */
static int co_copy_data(struct worker *w, const struct piece *p)
{
	struct copy *c = w->c;
	int ret = co_read_piece(c, p, w->buf);

	co_pay(c, p->len);
	co_turn_take(c, p);
	if (ret == 0 && !c->err && !c->compress)
		ret = co_write_runs(w, p);
	turn_pass(c);
	if (ret == 0 && !c->err && c->compress)
		return co_write_compressed(w, p);
	if (ret == 0)
		ret = co_spans_wait(w);
	else
		co_spans_wait(w);
	return ret < 0 ? fail(c, ret, "writing", p->off) : 0;
}

static int co_copy_zero(struct worker *w, const struct piece *p)
{
	struct copy *c = w->c;
	int ret = 0;

	co_turn_take(c, p);
	if (!c->err && p->kind == PIECE_ZERO && (!c->zero_init || c->over_backing))
		span_submit(w, 0, CHAIN_ZERO, p->off, p->len, NULL);
	turn_pass(c);
	ret = co_spans_wait(w);
	return ret < 0 ? fail(c, ret, "writing", p->off) : 0;
}

/* Where the file system will not copy, the bytes go through memory, piece by piece. */
static int co_copy_offload(struct worker *w, struct piece *p)
{
	struct copy *c = w->c;
	uint64_t end = p->off + p->len;
	int ret;

	co_pay(c, p->len);
	co_turn_take(c, p);
	turn_pass(c);
	ret = co_offload(c, p);
	if (ret != -EXDEV && ret != -EOPNOTSUPP && ret != -EINVAL && ret != -ENOSYS)
		return ret < 0 ? fail(c, ret, "copying", p->off) : 0;
	for (ret = 0; p->off < end && ret == 0; p->off += p->len) {
		p->len = end - p->off < PIECE ? end - p->off : PIECE;
		ret = co_read_piece(c, p, w->buf);
		if (ret == 0)
			ret = co_write_runs(w, p);
		if (ret == 0)
			ret = co_spans_wait(w);
	}
	return ret < 0 ? fail(c, ret, "writing", p->off) : 0;
}

static int co_worker(void *arg)
{
	struct worker *w = arg;
	struct copy *c = w->c;
	struct piece p;
	int ret = 0;

	while (co_next_piece(c, &p)) {
		uint64_t len = p.len;

		if (p.kind == PIECE_DATA)
			ret = co_copy_data(w, &p);
		else if (p.kind == PIECE_OFFLOAD)
			ret = co_copy_offload(w, &p);
		else
			ret = co_copy_zero(w, &p);
		if (ret < 0)
			break;
		c->done += len;
		img_progress_set(c->progress, c->done, c->total);
	}
	return ret;
}

static struct worker *worker_new(struct copy *c)
{
	struct worker *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->c = c;
	w->buf = buf_alloc(c->unit > PIECE ? c->unit : PIECE);
	if (!w->buf) {
		free(w);
		return NULL;
	}
	return w;
}

int co_copy(struct copy *c)
{
	struct worker *workers[COPY_PARALLEL_MAX] = { NULL };
	struct co_group g;

	assert(c->parallel >= 1 && c->parallel <= COPY_PARALLEL_MAX);
	c->unit = layer_format(chain_active(c->target)) == FORMAT_QCOW2
		? layer_cluster_size(chain_active(c->target)) : 4096;
	if (c->unit < 4096 && !c->compress)
		c->unit = 4096;
	co_mutex_init(&c->next);
	co_queue_init(&c->turns);
	co_group_init(&g, c->r, 0);
	for (unsigned i = 0; i < c->parallel; i++) {
		workers[i] = worker_new(c);
		if (workers[i])
			co_group_start(&g, co_worker, workers[i]);
		else
			fail(c, -ENOMEM, "taking memory", c->pos);
	}
	co_group_wait(&g);
	for (unsigned i = 0; i < c->parallel; i++) {
		if (workers[i])
			buf_free(workers[i]->buf);
		free(workers[i]);
	}
	return c->err;
}
