// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * request_read.c - reads over several extents: all pieces side by side.
 *
 * Invariant: between a lookup and the count in c->data there is no yield, so a host
 * offset is never held without being counted.
 */
#include <errno.h>

#include "qcow/chain_priv.h"

/* --- pieces --- */

void pieces_init(struct pieces *p, struct chain *c)
{
	p->c = c;
	p->waiter = NULL;
	p->inflight = 0;
	p->err = 0;
	for (unsigned i = 0; i < PIECES; i++)
		p->piece[i].busy = false;
}

static void piece_done(struct io_op *op, int res)
{
	struct piece *pc = container_of(op, struct piece, op);
	struct pieces *p = pc->set;

	generation_leave(&p->c->data, pc->generation);
	if (res < 0 && !p->err)
		p->err = res;
	pc->busy = false;
	p->inflight--;
	if (p->waiter) {
		struct co *co = p->waiter;

		p->waiter = NULL;
		co_wake(co);
	}
}

static void co_one_less(struct pieces *p)
{
	p->waiter = co_self();
	co_yield();
}

void co_pieces_room(struct pieces *p)
{
	while (p->inflight == PIECES)
		co_one_less(p);
}

uint64_t guest_buf_fit(const struct guest_buf *buf, uint64_t bytes, unsigned max_iovs)
{
	size_t skip = buf->skip;
	uint64_t sum = 0;
	unsigned i = 0, used = 0;

	if (buf->nr_iov <= max_iovs)
		return bytes;
	for (; i < buf->nr_iov && skip >= buf->iov[i].iov_len; i++)
		skip -= buf->iov[i].iov_len;
	for (; i < buf->nr_iov && used < max_iovs && sum < bytes; i++, used++) {
		sum += buf->iov[i].iov_len - skip;
		skip = 0;
	}
	return sum < bytes ? sum : bytes;
}

void piece_submit(struct pieces *p, enum io_opcode opcode, unsigned flags, struct layer *l,
		  uint64_t host_off, const struct guest_buf *buf, uint64_t bytes)
{
	struct piece *pc = p->piece;

	while (pc->busy)
		pc++;
	assert(pc < p->piece + PIECES);
	pc->busy = true;
	pc->set = p;
	pc->op.done = piece_done;
	pc->op.opcode = opcode;
	pc->op.flags = flags;
	pc->op.off = host_off;
	pc->op.len = bytes;
	pc->op.nr_iov = iov_slice(buf->iov, buf->nr_iov, buf->skip, bytes, pc->iov, PIECE_IOVS);
	pc->op.iov = pc->iov;
	pc->generation = generation_enter(&p->c->data);
	p->inflight++;
	file_submit(layer_data_file(l), &pc->op);
}

int co_pieces_wait(struct pieces *p)
{
	while (p->inflight)
		co_one_less(p);
	return p->err;
}

/* --- reading --- */

int co_resolve(struct chain *c, uint64_t guest_off, uint64_t bytes, struct map_run *run)
{
	while (!map_lookup(c->map, guest_off, bytes, run)) {
		int rc = co_map_build(c->map, guest_off);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* The cluster's tables may have changed while a buffer was waited for: -EAGAIN, look again. */
static int co_read_compressed(struct chain *c, uint64_t guest_off, const struct map_run *run,
			      const struct guest_buf *buf)
{
	unsigned char *plain = co_bufpool_get(c->cluster_pool);
	uint32_t cluster = layer_cluster_size(run->layer);
	struct map_run again;
	unsigned gen;
	int rc = -EAGAIN;

	if (!map_lookup(c->map, guest_off, run->bytes, &again) || again.kind != MAP_COMPRESSED ||
	    again.layer != run->layer || again.bytes != run->bytes)
		goto out;
	gen = generation_enter(&c->data);
	rc = co_layer_read_compressed(run->layer, guest_off, plain);
	generation_leave(&c->data, gen);
	if (rc == -ESTALE) {   /* overwritten before its entry was looked at */
		map_set(c->map, guest_off & ~(uint64_t)(cluster - 1), cluster, MAP_WORD_NONE);
		rc = -EAGAIN;
	}
	if (!rc)
		iov_from_buf(buf->iov, buf->nr_iov, buf->skip,
			     plain + (guest_off & (cluster - 1)), run->bytes);
out:
	bufpool_put(c->cluster_pool, plain);
	return rc;
}

int co_read_range(struct pieces *p, uint64_t guest_off, uint64_t bytes, struct guest_buf buf)
{
	struct chain *c = p->c;

	while (bytes) {
		struct map_run run;
		int rc;

		co_pieces_room(p);
		rc = co_resolve(c, guest_off, guest_buf_fit(&buf, bytes, PIECE_IOVS), &run);
		if (rc < 0)
			return rc;
		switch (run.kind) {
		case MAP_DATA:
			piece_submit(p, IO_READ, 0, run.layer, run.host_off, &buf, run.bytes);
			break;
		case MAP_COMPRESSED:
			rc = co_read_compressed(c, guest_off, &run, &buf);
			if (rc == -EAGAIN)
				continue;
			if (rc < 0)
				return rc;
			break;
		default:
			iov_zero(buf.iov, buf.nr_iov, buf.skip, run.bytes);
		}
		guest_off += run.bytes;
		buf.skip += run.bytes;
		bytes -= run.bytes;
	}
	return 0;
}

int co_request_read(struct chain *c, struct chain_req *q)
{
	struct guest_buf buf = { q->iov, q->nr_iov, 0 };
	struct pieces p;
	int rc, err;

	pieces_init(&p, c);
	rc = co_read_range(&p, q->guest_off, q->bytes, buf);
	err = co_pieces_wait(&p);
	return rc < 0 ? rc : err;
}
