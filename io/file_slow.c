// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file_slow.c - requests that are more than one engine call: misaligned ones,
 * zeroing where the kernel has no call for it, changes that move the end of the
 * file.
 *
 * A few coroutines per reactor (SLOW_MAX) work on a queue, each with one bounce
 * buffer, so the memory is bounded whatever the number of requests.
 *
 * Invariant: whoever rewrites bytes that the caller did not name (the rest of a
 * block, the end of the file) holds them exclusively in f->excl, and no change
 * overlaps them in flight.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "io/buf.h"
#include "io/file_priv.h"

/* In slow_main(): op went on to the engine, which will end it. */
#define HANDED_ON 1

/* --- one step of our own, without gate --- */

struct raw_op {
	struct io_op op;
	struct co *co;
	int res;
};

static void raw_done(struct io_op *op, int res)
{
	struct raw_op *raw = container_of(op, struct raw_op, op);

	raw->res = res;
	co_wake(raw->co);
}

int co_raw_io(struct file *f, enum io_opcode opcode, uint64_t off, uint64_t len,
	      const struct iovec *iov, unsigned nr, unsigned flags)
{
	struct raw_op raw = {
		.op = { .done = raw_done, .opcode = opcode, .flags = flags, .off = off,
			.len = len, .iov = iov, .nr_iov = nr },
		.co = co_self(),
	};

	op_init(f, &raw.op);
	op_issue(&raw.op);
	co_yield();
	return raw.res;
}

static int raw_buf(struct file *f, enum io_opcode opcode, uint64_t off, void *buf, uint64_t len,
		   unsigned flags)
{
	struct iovec iov = { buf, len };

	return co_raw_io(f, opcode, off, len, &iov, 1, flags);
}

/* --- exclusion --- */

static bool change_overlaps(const struct file *f, uint64_t off, uint64_t end)
{
	const struct io_op *op;

	list_for_each(op, &f->changes, track)
		if (op->off < end && off < op->off + op->len)
			return true;
	return false;
}

void co_lock_range(struct file *f, struct range *rg, uint64_t off, uint64_t end)
{
	co_range_lock(&f->excl, rg, off, end - off, true);
	while (change_overlaps(f, off, end))
		co_queue_wait(&f->drained);
}

void co_lock_blocks(struct file *f, struct range *rg, uint64_t off, uint64_t end)
{
	off = align_down(off, f->align);
	end = align_up(end, f->align);
	while (end <= f->size) {
		co_lock_range(f, rg, off, end);
		if (likely(end <= f->size))
			return;
		range_unlock(&f->excl, rg);   /* cut off while we waited */
	}
	co_lock_range(f, rg, off, UINT64_MAX);
}

/* --- reads --- */

static int slow_read(struct io_op *op, unsigned char *buf)
{
	struct file *f = op->file;
	uint64_t done = 0;

	while (done < op->len) {
		uint64_t off = op->off + done;
		uint64_t start = align_down(off, f->align);
		uint64_t len = op->len - done;
		int rc;

		if (len > BOUNCE_LEN - (off - start))
			len = BOUNCE_LEN - (off - start);
		rc = raw_buf(f, IO_READ, start, buf, align_up(off + len, f->align) - start, 0);
		if (rc < 0)
			return rc;
		iov_from_buf(op->iov, op->nr_iov, done, buf + (off - start), len);
		done += len;
	}
	return 0;
}

/* --- read-modify-write --- */

/*
 * Writes len bytes at off from the vector (from byte skip on; NULL: zeros); with
 * the rest of their blocks they fit the buffer. The caller holds the blocks.
 */
static int write_piece(struct file *f, uint64_t off, uint64_t len, const struct io_op *src,
		       uint64_t skip, unsigned flags, unsigned char *buf)
{
	uint64_t start = align_down(off, f->align);
	uint64_t end = align_up(off + len, f->align);
	uint64_t last = end - f->align;
	int rc;

	assert(end - start <= BOUNCE_LEN);
	if (start != off) {
		rc = raw_buf(f, IO_READ, start, buf, f->align, 0);
		if (rc < 0)
			return rc;
	}
	if (end != off + len && (start == off || last != start)) {
		rc = raw_buf(f, IO_READ, last, buf + (last - start), f->align, 0);
		if (rc < 0)
			return rc;
	}
	if (src)
		iov_to_buf(src->iov, src->nr_iov, skip, buf + (off - start), len);
	else
		memset(buf + (off - start), 0, len);
	return raw_buf(f, IO_WRITE, start, buf, end - start, flags);
}

/*
 * Whole blocks were written; the file ends where it should. Only for whoever holds the end of
 * the file: to others it may have grown meanwhile.
 */
static int trim_size(struct file *f, const struct range *rg, uint64_t size)
{
	if (f->is_block || f->size <= size || rg->end != UINT64_MAX)
		return 0;
	return co_raw_io(f, IO_TRUNCATE, size, 0, NULL, 0, 0);
}

static int write_pieces(struct file *f, struct io_op *op, unsigned char *buf)
{
	uint64_t done = 0;

	while (done < op->len) {
		uint64_t off = op->off + done;
		uint64_t room = BOUNCE_LEN - (off - align_down(off, f->align));
		uint64_t len = op->len - done < room ? op->len - done : room;
		int rc = write_piece(f, off, len, op, done, op->flags & IO_F_FUA, buf);

		if (rc < 0)
			return rc;
		done += len;
	}
	return 0;
}

static int slow_write(struct io_op *op, unsigned char *buf)
{
	struct file *f = op->file;
	uint64_t end = op->off + op->len;
	struct range rg;
	uint64_t size;
	int rc, rc2;

	co_lock_blocks(f, &rg, op->off, end);
	size = f->size > end ? f->size : end;
	rc = write_pieces(f, op, buf);
	rc2 = trim_size(f, &rg, size);
	range_unlock(&f->excl, &rg);
	return rc < 0 ? rc : rc2;
}

/* --- zeros --- */

#define ZERO_IOVS 16

/* Aligned. The caller holds the range. */
static int write_zero_blocks(struct file *f, uint64_t off, uint64_t len)
{
	struct iovec iov[ZERO_IOVS];

	while (len) {
		uint64_t n = 0;
		unsigned nr = 0;
		int rc;

		for (; nr < ZERO_IOVS && n < len; nr++) {
			uint64_t part = len - n < ZERO_BUF_LEN ? len - n : ZERO_BUF_LEN;

			iov[nr] = (struct iovec){ (void *)zero_buf, part };
			n += part;
		}
		rc = co_raw_io(f, IO_WRITE, off, n, iov, nr, 0);
		if (rc < 0)
			return rc;
		off += n;
		len -= n;
	}
	return 0;
}

static int write_zeros(struct file *f, uint64_t off, uint64_t end, unsigned char *buf)
{
	uint64_t start = align_up(off, f->align);
	uint64_t stop = align_down(end, f->align);
	int rc = 0;

	if (start >= stop)   /* no whole block: parts of one or of two */
		return write_piece(f, off, end - off, NULL, 0, 0, buf);
	if (off < start)
		rc = write_piece(f, off, start - off, NULL, 0, 0, buf);
	if (rc == 0)
		rc = write_zero_blocks(f, start, stop - start);
	if (rc == 0 && stop < end)
		rc = write_piece(f, stop, end - stop, NULL, 0, 0, buf);
	return rc;
}

/* In whole blocks of the device. -EOPNOTSUPP: the kernel has no call for it. */
static int zero_fallocate(struct file *f, uint64_t off, uint64_t len, unsigned flags)
{
	int mode;

	while ((mode = zero_mode(f, flags)) >= 0) {
		int rc = co_raw_io(f, IO_ALLOCATE, off, len, NULL, 0, mode);

		if (!zero_unsupported(rc))
			return rc;
		zero_mode_failed(f, mode);
	}
	return -EOPNOTSUPP;
}

static int zero_range(struct file *f, uint64_t off, uint64_t end, unsigned flags,
		      unsigned char *buf)
{
	uint64_t start = align_up(off, f->block_size);
	uint64_t stop = align_down(end, f->block_size);
	int rc;

	if (start >= stop)
		return write_zeros(f, off, end, buf);
	rc = zero_fallocate(f, start, stop - start, flags);
	if (rc == -EOPNOTSUPP)
		return write_zeros(f, off, end, buf);
	if (rc == 0 && off < start)
		rc = write_zeros(f, off, start, buf);
	if (rc == 0 && stop < end)
		rc = write_zeros(f, stop, end, buf);
	return rc;
}

static int slow_zero(struct io_op *op, unsigned char *buf)
{
	struct file *f = op->file;
	uint64_t end = op->off + op->len;
	struct range rg;
	uint64_t size;
	int rc;

	co_lock_blocks(f, &rg, op->off, end);
	size = f->size > end ? f->size : end;
	rc = zero_range(f, op->off, end, op->flags, buf);
	if (rc == 0)
		rc = trim_size(f, &rg, size);
	/* a hole was punched beyond the end */
	if (rc == 0 && !f->is_block && rg.end == UINT64_MAX && f->size < size)
		rc = co_raw_io(f, IO_TRUNCATE, size, 0, NULL, 0, 0);
	range_unlock(&f->excl, &rg);
	return rc;
}

/* --- the queue --- */

/* A write that only had to wait for a read-modify-write in its way. */
static int wait_and_issue(struct io_op *op)
{
	struct file *f = op->file;
	struct range rg;

	co_range_lock(&f->excl, &rg, op->off, op->len, false);
	op_issue_change(op);
	range_unlock(&f->excl, &rg);
	return HANDED_ON;
}

/* A device discards whole blocks only: what is left of the hint. */
static int slow_discard(struct io_op *op)
{
	struct file *f = op->file;
	uint64_t start = align_up(op->off, f->block_size);
	uint64_t end = align_down(op->off + op->len, f->block_size);
	struct range rg;
	int rc;

	if (start >= end)
		return 0;
	co_range_lock(&f->excl, &rg, start, end - start, false);
	rc = co_raw_io(f, IO_DISCARD, start, end - start, NULL, 0, 0);
	range_unlock(&f->excl, &rg);
	return rc;
}

static int slow_op(struct io_op *op, unsigned char *buf)
{
	switch (op->opcode) {
	case IO_READ:
		return slow_read(op, buf);
	case IO_WRITE:
		return op_fits(op->file, op) ? wait_and_issue(op) : slow_write(op, buf);
	case IO_ZERO:
		return slow_zero(op, buf);
	default:
		assert(op->opcode == IO_DISCARD);
		return slow_discard(op);
	}
}

static void slow_main(void *arg)
{
	struct reactor *r = arg;
	void *buf = r->nr_bounce ? r->bounce[--r->nr_bounce] : buf_alloc(BOUNCE_LEN);

	while (!list_empty(&r->slow_queue)) {
		struct io_op *op = list_first(&r->slow_queue, struct io_op, link);
		int rc;

		list_del(&op->link);
		rc = buf ? slow_op(op, buf) : -ENOMEM;
		if (rc != HANDED_ON)
			op_done_later(op, rc);
	}
	if (buf)
		r->bounce[r->nr_bounce++] = buf;
	r->slow_running--;
}

void slow_start(struct reactor *r)
{
	while (!list_empty(&r->slow_queue) && r->slow_running < SLOW_MAX) {
		r->slow_running++;
		co_start(r, slow_main, r);
	}
}

void slow_submit(struct io_op *op)
{
	struct reactor *r = op->file->r;

	list_add_tail(&r->slow_queue, &op->link);
	if (list_empty(&r->file_task.link))
		reactor_defer(r, &r->file_task);
}
