/* SPDX-License-Identifier: GPL-2.0-or-later */
/* file_priv.h - private to io/: struct file, shared by file*.c. */
#ifndef QCHAIN_IO_FILE_PRIV_H
#define QCHAIN_IO_FILE_PRIV_H

#include "io/file.h"
#include "io/rangelock.h"
#include "io/reactor_priv.h"

/* More of enum io_opcode, for our own use. */
#define IO_ALLOCATE ((enum io_opcode)16)   /* flags: the mode of fallocate */
#define IO_TRUNCATE ((enum io_opcode)17)   /* to off; len 0 */

/* One bounce buffer; every file's alignment divides half of it. */
#define BOUNCE_LEN (256u << 10)

/* A set of QEMU's permission bits: which are held, and which are denied to others. */
struct file_perms {
	unsigned held, denied;
};

struct file {
	/* set when opened and never changed */
	struct reactor *r;
	char *path;
	int fd;                    /* the number stays when file_reopen() changes what is behind it */
	int slot;                  /* registered file, or -1 */
	bool direct;
	bool is_block;
	bool no_lock, share_write;
	bool no_flush;             /* FILE_CACHE_UNSAFE */
	uint32_t align;            /* of offsets and lengths; 1 if buffered */
	uint32_t mem_align;        /* of buffers; 1 if buffered */
	uint32_t block_size;       /* block device: its logical block; else 1 */
	dev_t dev;
	ino_t ino;                 /* of the inode; of the device it stands for if is_block */

	/* changes */
	bool writable;
	bool no_punch, no_zero_range;   /* found out: not supported */
	uint64_t size;
	struct file_perms perms;   /* locked now */
	unsigned inflight;         /* ops between file_submit() and done() */

	/*
	 * Changes of bytes and the read-modify-writes they must not meet.
	 * changes: every aligned write, zeroing, discard or allocation in flight.
	 * excl: ranges held by read-modify-writes, truncation and the like. A change
	 * starts only outside of excl; a holder of excl first waits for the
	 * changes that overlap its range.
	 */
	struct list changes;       /* struct io_op, by track */
	struct rangelock excl;
	struct co_queue drained;   /* waits for changes to end */
};

/* file_align.c: finds align, mem_align for direct I/O on f->fd; -EINVAL: there is none. */
int file_align_probe(struct file *f);

/* file_lock.c */
struct file_perms file_perms_for(bool writable, bool share_write);
/*
 * Makes fd hold and deny exactly what want says (cur is what it does now) and
 * checks that nobody denies or holds the opposite; on error back to cur.
 */
int file_lock_apply(int fd, const char *path, struct file_perms cur, struct file_perms want,
		    struct error *e);
/* Takes the locks of p in addition to those that are there, without a look at conflicts. */
void file_lock_take(int fd, struct file_perms p);
void file_unlock(int fd);

/* file_io.c */
void op_init(struct file *f, struct io_op *op);
/* True if the engine can take the transfer as it is: aligned. */
bool op_fits(const struct file *f, const struct io_op *op);
/* Hands op to the engine, or to the backlog. */
void op_issue(struct io_op *op);
/* Ends op from the reactor later in this turn. */
void op_done_later(struct io_op *op, int res);
/* Marks op as a change in flight and issues it. */
void op_issue_change(struct io_op *op);
/* True if fallocate said that it cannot. */
bool zero_unsupported(int res);
/* How IO_ZERO is best done now: a fallocate mode, or -1 to write zeros. */
int zero_mode(const struct file *f, unsigned flags);
void zero_mode_failed(struct file *f, int mode);

/* file_slow.c */
void slow_submit(struct io_op *op);
void slow_start(struct reactor *r);
/* Waits for one engine call, outside of the gate; 0 or -errno. */
int co_raw_io(struct file *f, enum io_opcode opcode, uint64_t off, uint64_t len,
	      const struct iovec *iov, unsigned nr, unsigned flags);
/* Takes [off, end) exclusively, and waits until no change overlaps it. */
void co_lock_range(struct file *f, struct range *rg, uint64_t off, uint64_t end);
/*
 * As above, rounded to blocks; and what reaches beyond the end of the file locks
 * all the rest: then nobody else can move the end meanwhile.
 */
void co_lock_blocks(struct file *f, struct range *rg, uint64_t off, uint64_t end);

static inline bool is_aligned(uint64_t v, uint32_t align)
{
	return !(v & (align - 1));
}

static inline uint64_t align_down(uint64_t v, uint32_t align)
{
	return v & ~(uint64_t)(align - 1);
}

static inline uint64_t align_up(uint64_t v, uint32_t align)
{
	return align_down(v + align - 1, align);
}

#endif
