/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * file.h - bytes in a regular file or block device, through the engine.
 *
 * This is the one place that knows about O_DIRECT alignment, short transfers,
 * reading past the end of file, sparse files and locks. Offsets and lengths here
 * are in bytes and need no alignment: aligned requests go straight to the
 * engine, others through a bounce buffer (reads) or a read-modify-write under a
 * range lock (writes). Reads past the end of file give zeros.
 *
 * A file belongs to one reactor.
 */
#ifndef QCHAIN_IO_FILE_H
#define QCHAIN_IO_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/error.h"
#include "io/reactor.h"

struct file;

enum file_cache {
	FILE_CACHE_NONE,       /* O_DIRECT; falls back to buffered where the file system has none */
	FILE_CACHE_WRITEBACK,  /* host page cache; flush still makes durable */
	FILE_CACHE_UNSAFE,     /* host page cache; flush does nothing: for files that a crash may cost (qcimg convert) */
};

struct file_opts {
	bool writable;
	bool create;           /* with O_EXCL: an existing file is -EEXIST */
	bool truncate;         /* with writable: empty an existing file (tools that were told to) */
	enum file_cache cache;
	bool no_lock;          /* --force-share: take and check no QEMU locks */
	bool share_write;      /* let others write and resize it too (both are not "unshared") */
};

/*
 * Opens path and, unless no_lock, takes QEMU-compatible OFD locks for the
 * permissions the options imply: reader = consistent-read, not sharing
 * write/resize; writer = consistent-read + write + resize, not sharing
 * write/resize. A conflict is -EAGAIN with a sentence ("... is in use by another
 * process (write lock)"). Blocks (opening is not a data-path act); may be called
 * outside coroutines. Rules: QEMU's block/file-posix.c, bytes 100+ and 200+.
 */
int file_open(struct reactor *r, const char *path, const struct file_opts *o,
	      struct file **out, struct error *e);
/* Changes between read-only and writable, with the locks; keeps the old state on error. */
int file_reopen(struct file *f, bool writable, struct error *e);
/* Nothing may be in flight (asserted). Releases the locks. */
void file_close(struct file *f);

const char *file_path(const struct file *f);
struct reactor *file_reactor(const struct file *f);
bool file_writable(const struct file *f);
bool file_is_block(const struct file *f);
bool file_is_direct(const struct file *f);
int file_fd(const struct file *f);
uint64_t file_size(const struct file *f);    /* bytes; kept current by our own writes */
uint32_t file_align(const struct file *f);   /* offset/length/memory alignment of direct requests; 1 if buffered */
/* True when both are the same inode (loops of backing files, target == source). */
bool file_same(const struct file *a, const struct file *b);

/* --- callback form: the fast path --- */
enum io_opcode {
	IO_READ,
	IO_WRITE,
	IO_FLUSH,              /* fdatasync */
	IO_ZERO,               /* bytes read as zero afterwards; may unmap if IO_F_UNMAP */
	IO_DISCARD,            /* punch a hole; contents become zero (regular) or undefined (device) */
};
#define IO_F_UNMAP  1u         /* IO_ZERO: the blocks may be deallocated */
#define IO_F_FUA    2u         /* IO_WRITE: durable when done (RWF_DSYNC) */

struct io_op {
	/* set by the caller, unchanged until done */
	void (*done)(struct io_op *op, int res);   /* res: 0 or -errno; never a short count */
	enum io_opcode opcode;
	unsigned flags;
	uint64_t off;
	uint64_t len;
	const struct iovec *iov;   /* READ/WRITE: nr_iov buffers that sum to len; stays valid until done */
	unsigned nr_iov;
	/* private to io/ from submit to done; what every read touches comes first */
	struct file *file;
	struct io_cqe_hook hook;
	uint64_t moved;
	struct list link;          /* waiting: for the engine, a helper, or done() */
	struct list track;         /* file->changes, while a change of bytes is in flight */
	struct iovec iov_left;     /* after a short transfer */
};

/*
 * Starts op. done() is called later from the reactor, never inside this call.
 * The op belongs to io/ until done() is entered; done() may reuse or free it.
 */
void file_submit(struct file *f, struct io_op *op);

/* --- coroutine form; all return 0 or -errno and may yield --- */
int co_file_read(struct file *f, uint64_t off, void *buf, uint64_t len);
int co_file_readv(struct file *f, uint64_t off, uint64_t len, const struct iovec *iov, unsigned nr);
int co_file_write(struct file *f, uint64_t off, const void *buf, uint64_t len);
int co_file_writev(struct file *f, uint64_t off, uint64_t len, const struct iovec *iov, unsigned nr);
int co_file_flush(struct file *f);
int co_file_zero(struct file *f, uint64_t off, uint64_t len, unsigned flags);
int co_file_discard(struct file *f, uint64_t off, uint64_t len);
/* Regular files only; a block device is -ENOTSUP unless len is its size or less. */
int co_file_truncate(struct file *f, uint64_t len);
/* fallocate: reserve space; keep_size as FALLOC_FL_KEEP_SIZE. -EOPNOTSUPP where there is none. */
int co_file_allocate(struct file *f, uint64_t off, uint64_t len, bool keep_size);

/*
 * What lies at off: *data and *len of the run that begins there (SEEK_DATA /
 * SEEK_HOLE; a file system without them reports all data). len is cut at the end
 * of file; at or past it: data=false, len=UINT64_MAX - off.
 */
int co_file_extent(struct file *f, uint64_t off, bool *data, uint64_t *len);

#endif
