// SPDX-License-Identifier: GPL-2.0-or-later
/* file_co.c - the coroutine form of file operations: submit, wait, result. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>

#include "io/file_priv.h"

struct co_op {
	struct io_op op;
	struct co *co;
	int res;
};

static void co_op_done(struct io_op *op, int res)
{
	struct co_op *c = container_of(op, struct co_op, op);

	c->res = res;
	co_wake(c->co);
}

static int run(struct file *f, const struct io_op *op)
{
	struct co_op c = { .op = *op, .co = co_self() };

	assert(c.co);
	c.op.done = co_op_done;
	file_submit(f, &c.op);
	co_yield();
	return c.res;
}

int co_file_readv(struct file *f, uint64_t off, uint64_t len, const struct iovec *iov, unsigned nr)
{
	return run(f, &(struct io_op){
		.opcode = IO_READ, .off = off, .len = len, .iov = iov, .nr_iov = nr });
}

int co_file_read(struct file *f, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { buf, len };

	return co_file_readv(f, off, len, &iov, 1);
}

int co_file_writev(struct file *f, uint64_t off, uint64_t len, const struct iovec *iov,
		   unsigned nr)
{
	return run(f, &(struct io_op){
		.opcode = IO_WRITE, .off = off, .len = len, .iov = iov, .nr_iov = nr });
}

int co_file_write(struct file *f, uint64_t off, const void *buf, uint64_t len)
{
	struct iovec iov = { (void *)buf, len };

	return co_file_writev(f, off, len, &iov, 1);
}

int co_file_flush(struct file *f)
{
	return run(f, &(struct io_op){ .opcode = IO_FLUSH });
}

int co_file_zero(struct file *f, uint64_t off, uint64_t len, unsigned flags)
{
	return run(f, &(struct io_op){
		.opcode = IO_ZERO, .flags = flags, .off = off, .len = len });
}

int co_file_discard(struct file *f, uint64_t off, uint64_t len)
{
	return run(f, &(struct io_op){ .opcode = IO_DISCARD, .off = off, .len = len });
}

int co_file_truncate(struct file *f, uint64_t len)
{
	struct range rg;
	int rc;

	assert(co_self());
	if (f->is_block)
		return len <= f->size ? 0 : -ENOTSUP;
	if (len > INT64_MAX)
		return -EFBIG;
	co_lock_range(f, &rg, align_down(len < f->size ? len : f->size, f->align), UINT64_MAX);
	rc = co_raw_io(f, IO_TRUNCATE, len, 0, NULL, 0, 0);
	range_unlock(&f->excl, &rg);
	return rc;
}

int co_file_allocate(struct file *f, uint64_t off, uint64_t len, bool keep_size)
{
	struct range rg;
	int rc;

	assert(co_self());
	if (!len)
		return 0;
	if (off > INT64_MAX || len > INT64_MAX - off)
		return -EFBIG;
	if (f->is_block)
		return -EOPNOTSUPP;
	if (keep_size || off + len <= f->size)
		return co_raw_io(f, IO_ALLOCATE, off, len, NULL, 0,
				 keep_size ? FALLOC_FL_KEEP_SIZE : 0);
	/* moves the end of the file */
	co_lock_blocks(f, &rg, off, off + len);
	rc = co_raw_io(f, IO_ALLOCATE, off, len, NULL, 0, 0);
	range_unlock(&f->excl, &rg);
	return rc;
}
