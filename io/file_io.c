// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file_io.c - the life of an io_op: submit, issue to the engine, short transfers,
 * the end of the file, done.
 *
 * Invariant: an op is in exactly one of: the engine, reactor->backlog,
 * reactor->slow_queue or a slow coroutine, reactor->done_later. done() is called
 * from the reactor, once.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/file_priv.h"

/* --- ends --- */

static void op_finish(struct io_op *op, int res)
{
	op->file->inflight--;
	op->done(op, res);
}

static void file_task_run(struct io_task *t)
{
	struct reactor *r = container_of(t, struct reactor, file_task);
	struct list todo;

	list_init(&todo);
	list_splice_tail(&todo, &r->done_later);
	while (!list_empty(&todo)) {
		struct io_op *op = list_first(&todo, struct io_op, link);

		list_del(&op->link);
		op_finish(op, (int)(int64_t)op->moved);
	}
	slow_start(r);
}

void op_done_later(struct io_op *op, int res)
{
	struct reactor *r = op->file->r;

	op->moved = (uint64_t)(int64_t)res;
	list_add_tail(&r->done_later, &op->link);
	if (list_empty(&r->file_task.link))
		reactor_defer(r, &r->file_task);
}

void file_reactor_init(struct reactor *r)
{
	list_init(&r->backlog);
	list_init(&r->slow_queue);
	list_init(&r->done_later);
	io_task_init(&r->file_task, file_task_run);
}

void file_reactor_free(struct reactor *r)
{
	assert(list_empty(&r->backlog) && list_empty(&r->slow_queue));
	assert(list_empty(&r->done_later) && !r->slow_running);
	while (r->nr_bounce)
		buf_free(r->bounce[--r->nr_bounce]);
}

/* --- issue --- */

/* After a short transfer: the rest of the buffer that `moved` falls into. */
static void rest_of_iov(struct io_op *op)
{
	uint64_t skip = op->moved;
	unsigned i = 0;

	while (skip >= op->iov[i].iov_len)
		skip -= op->iov[i++].iov_len;
	assert(i < op->nr_iov);
	op->iov_left.iov_base = (char *)op->iov[i].iov_base + skip;
	op->iov_left.iov_len = op->iov[i].iov_len - skip;
}

static void request_rw(struct io_op *op, struct engine_req *rq)
{
	rq->opcode = op->opcode == IO_READ ? ENGINE_READ : ENGINE_WRITE;
	rq->off = op->off + op->moved;
	if (op->opcode == IO_WRITE && (op->flags & IO_F_FUA))
		rq->rw_flags = RWF_DSYNC;
	if (likely(!op->moved)) {
		rq->iov = op->iov;
		rq->nr_iov = op->nr_iov;
		return;
	}
	rest_of_iov(op);
	rq->iov = &op->iov_left;
	rq->nr_iov = 1;
}

static void request_other(struct io_op *op, struct engine_req *rq)
{
	struct file *f = op->file;

	rq->opcode = ENGINE_FALLOCATE;
	rq->off = op->off;
	rq->len = op->len;
	if (op->opcode == IO_FLUSH) {
		rq->opcode = ENGINE_FDATASYNC;
	} else if (op->opcode == IO_ZERO) {
		rq->mode = zero_mode(f, op->flags);
		assert(rq->mode >= 0);
	} else if (op->opcode == IO_DISCARD) {
		rq->mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	} else if (op->opcode == IO_ALLOCATE) {
		rq->mode = op->flags;
	} else {
		assert(op->opcode == IO_TRUNCATE);
		rq->opcode = ENGINE_TRUNCATE;
		rq->len = op->off;
	}
}

static bool op_offer(struct io_op *op)
{
	struct file *f = op->file;
	struct engine_req rq = {
		.fd = f->fd, .slot = f->slot, .direct = f->direct, .hook = &op->hook,
	};

	if (likely(op->opcode <= IO_WRITE))
		request_rw(op, &rq);
	else
		request_other(op, &rq);
	return f->r->engine->submit(f->r, &rq);
}

static void op_wait(struct io_op *op)
{
	list_add_tail(&op->file->r->backlog, &op->link);
}

void op_issue(struct io_op *op)
{
	/* those that wait come first */
	if (unlikely(!list_empty(&op->file->r->backlog)) || unlikely(!op_offer(op)))
		op_wait(op);
}

void file_backlog_run(struct reactor *r)
{
	while (!list_empty(&r->backlog)) {
		struct io_op *op = list_first(&r->backlog, struct io_op, link);

		if (!op_offer(op))
			return;
		list_del(&op->link);
	}
}

/* Interrupted, or refused for now: again in the next turn. */
static bool op_retry(struct io_op *op, int res)
{
	if (res != -EINTR && res != -EAGAIN)
		return false;
	op_wait(op);
	return true;
}

/*
 * A transfer stopped short at a place where direct I/O cannot go on: back to the
 * alignment. False if that is where it began.
 */
static bool step_back(struct io_op *op, uint64_t before)
{
	op->moved = align_down(op->off + op->moved, op->file->align) - op->off;
	return op->moved > before;
}

/* --- reads --- */

/* Where the file really ends: another process may have changed it. */
static uint64_t end_of_file(struct file *f)
{
	struct stat st;

	if (!f->is_block && fstat(f->fd, &st) == 0)
		return st.st_size;
	return f->size;
}

static void read_short(struct io_op *op, int res)
{
	struct file *f = op->file;
	uint64_t before = op->moved, pos;

	if (res < 0) {
		if (!op_retry(op, res))
			op_finish(op, res);
		return;
	}
	op->moved += res;
	assert(op->moved <= op->len);
	pos = op->off + op->moved;
	if (op->moved == op->len) {
		op_finish(op, 0);
	} else if (!res || pos >= end_of_file(f)) {
		iov_zero(op->iov, op->nr_iov, op->moved, op->len - op->moved);
		op_finish(op, 0);
	} else if (!is_aligned(pos, f->align) && !step_back(op, before)) {
		op_finish(op, -EIO);
	} else {
		op_issue(op);
	}
}

static void read_done(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct io_op *op = container_of(h, struct io_op, hook);

	if (likely(res > 0 && (uint64_t)res == op->len))
		op_finish(op, 0);
	else
		read_short(op, res);
}

/* --- changes of bytes --- */

void op_issue_change(struct io_op *op)
{
	list_add_tail(&op->file->changes, &op->track);
	op_issue(op);
}

static void change_ended(struct io_op *op)
{
	list_del(&op->track);
	if (unlikely(!co_queue_empty(&op->file->drained)))
		co_queue_wake_all(&op->file->drained);
}

static void size_at_least(struct file *f, uint64_t end)
{
	if (unlikely(end > f->size) && !f->is_block)
		f->size = end;
}

static void change_finish(struct io_op *op, int res)
{
	change_ended(op);
	op_finish(op, res);
}

static void write_short(struct io_op *op, int res)
{
	uint64_t before = op->moved;

	if (res < 0) {
		if (!op_retry(op, res))
			change_finish(op, res);
		return;
	}
	op->moved += res;
	assert(op->moved <= op->len);
	size_at_least(op->file, op->off + op->moved);
	if (op->moved == op->len)
		change_finish(op, 0);
	else if (!res || (!is_aligned(op->off + op->moved, op->file->align) &&
			  !step_back(op, before)))
		change_finish(op, -EIO);
	else
		op_issue(op);
}

static void write_done(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct io_op *op = container_of(h, struct io_op, hook);

	if (likely(res > 0 && (uint64_t)res == op->len)) {
		size_at_least(op->file, op->off + op->len);
		change_finish(op, 0);
	} else {
		write_short(op, res);
	}
}

bool zero_unsupported(int res)
{
	return res == -EOPNOTSUPP || res == -ENOSYS || res == -ENODEV || res == -EINVAL ||
	       res == -ENOTTY;
}

int zero_mode(const struct file *f, unsigned flags)
{
	if ((flags & IO_F_UNMAP) && !f->no_punch)
		return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	if (!f->no_zero_range)
		return FALLOC_FL_ZERO_RANGE | (f->is_block ? FALLOC_FL_KEEP_SIZE : 0);
	return -1;
}

void zero_mode_failed(struct file *f, int mode)
{
	if (mode & FALLOC_FL_PUNCH_HOLE)
		f->no_punch = true;
	else
		f->no_zero_range = true;
}

static void zero_done(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct io_op *op = container_of(h, struct io_op, hook);
	struct file *f = op->file;

	if (op_retry(op, res))
		return;
	if (zero_unsupported(res)) {
		/* the slow path finds out what is unsupported, and does it the hard way */
		change_ended(op);
		slow_submit(op);
		return;
	}
	if (!res)
		size_at_least(f, op->off + op->len);
	change_finish(op, res);
}

static void discard_done(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct io_op *op = container_of(h, struct io_op, hook);

	if (op_retry(op, res))
		return;
	if (zero_unsupported(res)) {
		op->file->no_punch = true;   /* a discard is a hint */
		res = 0;
	}
	change_finish(op, res);
}

static void plain_done(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct io_op *op = container_of(h, struct io_op, hook);

	if (op_retry(op, res))
		return;
	if (!res && op->opcode == IO_ALLOCATE && !(op->flags & FALLOC_FL_KEEP_SIZE))
		size_at_least(op->file, op->off + op->len);
	if (!res && op->opcode == IO_TRUNCATE)
		op->file->size = op->off;
	change_finish(op, res);
}

/* --- submit --- */

void op_init(struct file *f, struct io_op *op)
{
	op->file = f;
	op->moved = 0;
	f->inflight++;
	if (likely(op->opcode == IO_READ)) {
		op->hook.fn = read_done;
		return;
	}
	list_init(&op->track);
	switch (op->opcode) {
	case IO_WRITE:
		op->hook.fn = write_done;
		break;
	case IO_ZERO:
		op->hook.fn = zero_done;
		break;
	case IO_DISCARD:
		op->hook.fn = discard_done;
		break;
	default:
		op->hook.fn = plain_done;
		break;
	}
}

bool op_fits(const struct file *f, const struct io_op *op)
{
	if (f->align == 1 && f->mem_align == 1)
		return true;
	if ((op->off | op->len) & (f->align - 1))
		return false;
	for (unsigned i = 0; i < op->nr_iov; i++)
		if (((uintptr_t)op->iov[i].iov_base & (f->mem_align - 1)) ||
		    (op->iov[i].iov_len & (f->align - 1)))
			return false;
	return true;
}

static inline bool gate_open(const struct file *f, const struct io_op *op)
{
	return likely(rangelock_empty(&f->excl)) || !rangelock_busy(&f->excl, op->off, op->len);
}

static void submit_zero(struct file *f, struct io_op *op)
{
	bool grows = op->off + op->len > f->size;
	int mode = zero_mode(f, op->flags);

	if (mode >= 0 && !(grows && (mode & FALLOC_FL_KEEP_SIZE)) &&
	    is_aligned(op->off | op->len, f->block_size) && gate_open(f, op))
		op_issue_change(op);
	else
		slow_submit(op);
}

static void submit_discard(struct file *f, struct io_op *op)
{
	if (f->no_punch)
		op_done_later(op, 0);
	else if (is_aligned(op->off | op->len, f->block_size) && gate_open(f, op))
		op_issue_change(op);
	else
		slow_submit(op);
}

static void submit_other(struct file *f, struct io_op *op)
{
	if (op->opcode == IO_FLUSH) {
		if (f->no_flush)
			op_done_later(op, 0);
		else
			op_issue(op);
	} else if (op->off > INT64_MAX || op->len > INT64_MAX - op->off) {
		op_done_later(op, -EFBIG);
	} else if (!op->len) {
		op_done_later(op, 0);
	} else if (op->opcode == IO_ZERO) {
		submit_zero(f, op);
	} else if (op->opcode == IO_DISCARD) {
		submit_discard(f, op);
	} else {
		assert(!"an opcode nobody knows");
	}
}

void file_submit(struct file *f, struct io_op *op)
{
	op_init(f, op);
	if (unlikely(op->opcode > IO_WRITE || !op->len || op->len > INT64_MAX ||
		     op->off > INT64_MAX - op->len)) {
		submit_other(f, op);
		return;
	}
	assert(op->nr_iov != 1 || op->iov->iov_len == op->len);
	if (unlikely(!op_fits(f, op)))
		slow_submit(op);
	else if (op->opcode == IO_READ)
		op_issue(op);
	else if (gate_open(f, op))
		op_issue_change(op);
	else
		slow_submit(op);
}
