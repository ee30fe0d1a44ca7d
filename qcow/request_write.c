// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * request_write.c - writes that the fast path does not take: several extents, and allocation.
 *
 * An allocating write holds its clusters exclusively from the decision to the
 * map_set(): decide again under the lock, reserve, fill what the guest did not
 * write from the chain as it stands, one write, link, tell the map. Other writers
 * of the cluster wait and then find it in place.
 *
 * Invariant: nothing is linked before its bytes are written; where a link makes a
 * host cluster of the active layer unreachable, the range is frozen around it.
 */
#include <errno.h>
#include <string.h>

#include "qcow/chain_priv.h"

#define WRITE_IOVS 256

static uint64_t round_down(uint64_t v, uint64_t unit)
{
	return v & ~(unit - 1);
}

static uint64_t round_up(uint64_t v, uint64_t unit)
{
	return round_down(v + unit - 1, unit);
}

void co_lock_clusters(struct chain *c, struct range *rg, uint64_t guest_off, uint64_t bytes)
{
	uint64_t start = round_down(guest_off, c->cluster);
	uint64_t end = round_up(guest_off + bytes, c->cluster);

	co_range_lock(&c->locks, rg, start, end - start, true);
}

/*
 * Does the cluster that [guest_off, +bytes) lies in have a host cluster of its own, of which these
 * bytes are merely unset subclusters? Then writers of other subclusters need not wait: a link
 * adds to what the entry says when it links. By the map, without a yield.
 */
static bool adds_subclusters(struct chain *c, uint64_t guest_off, uint64_t bytes)
{
	uint64_t pos = round_down(guest_off, c->cluster), end = pos + c->cluster;
	struct map_run run;

	if (c->unit == c->cluster || guest_off + bytes > end)
		return false;
	end = end < c->size ? end : c->size;
	for (; pos < end && map_lookup(c->map, pos, end - pos, &run); pos += run.bytes)
		if (run.in_place)
			return true;
	return false;
}

/*
 * Holds what an allocating write must hold: its clusters, because two must not make a
 * host cluster each for one guest cluster; or its subclusters where there is one already.
 */
static void co_lock_for_write(struct chain *c, struct range *rg, uint64_t guest_off, uint64_t bytes)
{
	while (adds_subclusters(c, guest_off, bytes)) {
		uint64_t start = round_down(guest_off, c->unit);

		co_range_lock(&c->locks, rg, start, round_up(guest_off + bytes, c->unit) - start, true);
		if (adds_subclusters(c, guest_off, bytes))
			return;
		range_unlock(&c->locks, rg);   /* discarded while we waited */
	}
	co_lock_clusters(c, rg, guest_off, bytes);
}

/* --- what a write finds --- */
struct write_run {
	uint64_t bytes;
	bool in_place;
	bool replaces;            /* bytes of the active layer itself become unreachable */
	uint64_t host_off;        /* in place */
};

static int co_resolve_write(struct chain *c, uint64_t guest_off, uint64_t bytes,
			    struct write_run *out)
{
	struct map_run run;
	int rc = co_resolve(c, guest_off, bytes, &run);

	if (rc < 0)
		return rc;
	*out = (struct write_run){ .bytes = run.bytes, .in_place = run.in_place,
				   .replaces = run.layer == c->active, .host_off = run.host_off };
	if (out->in_place)
		return 0;
	/* allocation does not care where the old bytes are: as far as the map knows */
	while (out->bytes < bytes &&
	       map_lookup(c->map, guest_off + out->bytes, bytes - out->bytes, &run) &&
	       !run.in_place) {
		out->bytes += run.bytes;
		out->replaces |= run.layer == c->active;
	}
	return 0;
}

/* --- filling --- */
/* What is written for one allocation: [start, end) in the guest, of which [off, off+bytes) is given. */
struct filled {
	uint64_t start, end;
	unsigned char *fill;              /* from the pool, or NULL */
	unsigned nr_iov;
	struct iovec iov[WRITE_IOVS + 2];
};

/* Do these bytes read as zeros, by the map alone? */
static int co_is_zero(struct chain *c, uint64_t off, uint64_t end)
{
	struct map_run run;

	end = end < c->size ? end : c->size;
	for (; off < end; off += run.bytes) {
		int rc = co_resolve(c, off, end - off, &run);

		if (rc < 0)
			return rc;
		if (run.kind != MAP_ZERO)
			return 0;
	}
	return 1;
}

/* Begins to read [off, end) of the chain into buf; zeros beyond the end of the disk. */
static int co_fill_read(struct pieces *p, uint64_t off, uint64_t end, unsigned char *buf)
{
	struct iovec iov = { buf, end - off };
	uint64_t in_disk = off >= p->c->size ? 0 :
			   end < p->c->size ? end - off : p->c->size - off;
	int rc, err;

	memset(buf + in_disk, 0, end - off - in_disk);
	rc = co_read_range(p, off, in_disk, (struct guest_buf){ &iov, 1, 0 });
	if (rc < 0) {
		err = co_pieces_wait(p);
		return err < 0 ? err : rc;
	}
	return 0;
}

/*
 * Reads the head [start, off) and the tail [off+bytes, end). When they are most
 * of the whole, they come as one read. *tail tells where the tail's bytes are.
 */
static int co_fill_padding(struct chain *c, struct filled *f, uint64_t off, uint64_t bytes,
			   unsigned char **tail)
{
	uint64_t head_len = off - f->start, tail_len = f->end - (off + bytes);
	struct pieces p;
	int rc, err = 0;

	pieces_init(&p, c);
	if (head_len && tail_len && bytes <= head_len + tail_len &&
	    f->end - f->start <= bufpool_size(c->fill_pool)) {
		*tail = f->fill + (off + bytes - f->start);
		rc = co_fill_read(&p, f->start, f->end, f->fill);
	} else {
		*tail = f->fill + bufpool_size(c->fill_pool) / 2;
		rc = head_len ? co_fill_read(&p, f->start, off, f->fill) : 0;
		if (!rc && tail_len)
			rc = co_fill_read(&p, off + bytes, f->end, *tail);
	}
	err = co_pieces_wait(&p);
	return rc < 0 ? rc : err;
}

/* Decides what to write around [off, +bytes) and gathers it in f. */
static int co_fill(struct chain *c, const struct layer_alloc *a, uint64_t off, uint64_t bytes,
		   const struct guest_buf *buf, struct filled *f)
{
	unsigned char *tail = NULL;
	uint64_t tail_len;
	int rc = 0;

	f->start = round_down(off, a->unit);
	f->end = round_up(off + bytes, a->unit);
	f->fill = NULL;
	f->nr_iov = 0;
	if (a->zeroed && f->start < off) {
		rc = co_is_zero(c, f->start, off);
		f->start = rc > 0 ? off : f->start;
	}
	if (rc >= 0 && a->zeroed && f->end > off + bytes) {
		rc = co_is_zero(c, off + bytes, f->end);
		f->end = rc > 0 ? off + bytes : f->end;
	}
	if (rc < 0)
		return rc;
	tail_len = f->end - (off + bytes);
	if (f->start < off || tail_len) {
		f->fill = co_bufpool_get(c->fill_pool);
		rc = co_fill_padding(c, f, off, bytes, &tail);
		if (rc < 0)
			return rc;
	}
	if (f->start < off)
		f->iov[f->nr_iov++] = (struct iovec){ f->fill, off - f->start };
	f->nr_iov += iov_slice(buf->iov, buf->nr_iov, buf->skip, bytes, f->iov + f->nr_iov,
			       WRITE_IOVS);
	if (tail_len)
		f->iov[f->nr_iov++] = (struct iovec){ tail, tail_len };
	return 0;
}

/* --- allocation --- */

/* Links and tells the map. Consumes a. */
static int co_link(struct chain *c, struct layer_alloc *a, uint64_t start, uint64_t end,
		   bool replaces)
{
	struct map_freeze fz;
	uint64_t host_off = a->host_off + (start - a->guest_off);
	int rc;

	if (replaces)
		map_freeze(c->map, &fz, start, end - start);
	rc = co_layer_link(c->active, a, start, end - start);
	c->meta_changed++;
	if (replaces)
		map_thaw(c->map, &fz);
	if (rc < 0)
		map_set(c->map, start, end - start, MAP_WORD_NONE);
	else
		map_set(c->map, start, end - start,
			map_word_data(c->map->active_slot, host_off, true));
	return rc;
}

/* Under the lock: allocates for the first of w->bytes at off, at most; *done tells how many were written. */
static int co_allocate(struct chain *c, uint64_t off, const struct write_run *w,
		       const struct guest_buf *buf, uint64_t *done)
{
	struct layer_alloc a;
	struct filled f;
	uint64_t n;
	int rc;

	rc = co_layer_alloc(c->active, off, w->bytes, &a);
	if (rc < 0)
		return rc;
	assert(a.guest_off <= off && a.guest_off + a.bytes > off);
	n = a.guest_off + a.bytes - off;
	n = n < w->bytes ? n : w->bytes;
	rc = co_fill(c, &a, off, n, buf, &f);
	if (!rc)
		rc = co_file_writev(layer_data_file(c->active),
				    a.host_off + (f.start - a.guest_off), f.end - f.start,
				    f.iov, f.nr_iov);
	if (f.fill)
		bufpool_put(c->fill_pool, f.fill);
	if (rc < 0) {
		layer_alloc_abort(c->active, &a);
		return rc;
	}
	*done = n;
	return co_link(c, &a, round_down(off, a.unit), round_up(off + n, a.unit), w->replaces);
}

/* Writes what begins at off and is not in place; *done 0 when it has become so meanwhile. */
static int co_write_new(struct chain *c, uint64_t off, uint64_t bytes,
			const struct guest_buf *buf, uint64_t *done)
{
	struct write_run w;
	struct range rg;
	int rc;

	*done = 0;
	co_lock_for_write(c, &rg, off, bytes);
	rc = chain_writable(c);
	if (!rc)
		rc = co_resolve_write(c, off, bytes, &w);
	if (!rc && !w.in_place)
		rc = co_allocate(c, off, &w, buf, done);
	range_unlock(&c->locks, &rg);
	return rc;
}

int co_write_range(struct chain *c, uint64_t guest_off, uint64_t bytes, struct guest_buf buf)
{
	struct pieces p;
	int rc = 0, err;

	pieces_init(&p, c);
	while (bytes && !p.err) {
		uint64_t done = 0, fit;
		struct write_run w;

		co_pieces_room(&p);
		rc = co_resolve_write(c, guest_off, guest_buf_fit(&buf, bytes, WRITE_IOVS), &w);
		if (rc < 0)
			break;
		if (w.in_place) {
			fit = guest_buf_fit(&buf, bytes, PIECE_IOVS);
			done = w.bytes < fit ? w.bytes : fit;
			piece_submit(&p, IO_WRITE, 0, c->active, w.host_off, &buf, done);
		} else {
			rc = co_write_new(c, guest_off, w.bytes, &buf, &done);
			if (rc < 0)
				break;
		}
		guest_off += done;
		buf.skip += done;
		bytes -= done;
	}
	err = co_pieces_wait(&p);
	return rc < 0 ? rc : err;
}

int co_request_flush(struct chain *c)
{
	uint64_t changed = c->meta_changed;
	int rc = co_layer_flush(c->active);

	if (!rc && c->meta_durable < changed)
		c->meta_durable = changed;
	return rc;
}

int co_request_write(struct chain *c, struct chain_req *q)
{
	int rc = co_write_range(c, q->guest_off, q->bytes,
				(struct guest_buf){ q->iov, q->nr_iov, 0 });

	if (!rc && (q->flags & CHAIN_F_FUA))
		rc = co_request_flush(c);
	return rc;
}
