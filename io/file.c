// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file.c - opening, reopening and closing; what a file is; its extents.
 *
 * Invariant: a file that is handed out is locked (unless asked not to), has its
 * alignment found out, and keeps its descriptor number for life.
 */
#include "io/file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file_priv.h"
#include "io/log.h"

static int engine_open(struct reactor *r, const char *path, int flags)
{
	int fd;

	if (r->engine->open)
		return r->engine->open(r, path, flags, 0644);
	fd = open(path, flags, 0644);
	return fd < 0 ? -errno : fd;
}

static int engine_reopen(struct reactor *r, int fd, int flags)
{
	char self[64];
	int new_fd;

	if (r->engine->reopen)
		return r->engine->reopen(r, fd, flags);
	/* the same inode, whatever the path names by now */
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	new_fd = open(self, flags);
	return new_fd < 0 ? -errno : new_fd;
}

static int engine_truncate(struct reactor *r, int fd, uint64_t len)
{
	if (r->engine->truncate)
		return r->engine->truncate(r, fd, len);
	return ftruncate(fd, len) < 0 ? -errno : 0;
}

static void engine_close(struct reactor *r, int fd)
{
	if (r->engine->close)
		r->engine->close(r, fd);
	else
		close(fd);
}

/* --- what it is --- */

static int identify(struct file *f, struct error *e)
{
	struct stat st;
	int ssz = 0;

	if (fstat(f->fd, &st) < 0)
		return error_set_errno(e, errno, "cannot stat '%s'", f->path);
	f->block_size = 1;
	f->dev = st.st_dev;
	f->ino = st.st_ino;
	f->size = st.st_size;
	if (S_ISREG(st.st_mode))
		return 0;
	if (!S_ISBLK(st.st_mode))
		return error_set(e, EINVAL, "'%s' is neither a regular file nor a block device",
				 f->path);
	f->is_block = true;
	f->dev = 0;
	f->ino = st.st_rdev;
	if (ioctl(f->fd, BLKGETSIZE64, &f->size) < 0 || ioctl(f->fd, BLKSSZGET, &ssz) < 0)
		return error_set_errno(e, errno, "cannot ask block device '%s' for its size", f->path);
	f->block_size = ssz;
	return 0;
}

/* Switches O_DIRECT on where wanted and possible; also drops O_NONBLOCK from the open. */
static void set_direct(struct file *f, enum file_cache cache)
{
	f->align = f->mem_align = 1;
	if (cache == FILE_CACHE_NONE && fcntl(f->fd, F_SETFL, O_DIRECT) == 0) {
		if (file_align_probe(f) == 0) {
			f->direct = true;
			return;
		}
		f->align = f->mem_align = 1;
	}
	if (cache == FILE_CACHE_NONE)
		log_debug("'%s' has no direct I/O: opened buffered", f->path);
	fcntl(f->fd, F_SETFL, 0);
}

static int open_flags(bool writable)
{
	/* O_NONBLOCK: a FIFO must not hang us; dropped again by set_direct() */
	return (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
}

static int file_setup(struct file *f, const struct file_opts *o, struct error *e)
{
	int rc = identify(f, e);

	if (rc < 0)
		return rc;
	if (!o->no_lock) {
		struct file_perms none = { 0, 0 };
		struct file_perms want = file_perms_for(o->writable, o->share_write);

		rc = file_lock_apply(f->fd, f->path, none, want, e);
		if (rc < 0)
			return rc;
		f->perms = want;
	}
	/* only now that nobody else uses it */
	if (o->truncate && !f->is_block && f->size) {
		rc = engine_truncate(f->r, f->fd, 0);
		if (rc < 0)
			return error_set_errno(e, -rc, "cannot empty '%s'", f->path);
		f->size = 0;
	}
	set_direct(f, o->cache);
	return 0;
}

static int open_error(struct error *e, int rc, const char *path, const struct file_opts *o)
{
	return error_set_errno(e, -rc, "cannot %s '%s'%s", o->create ? "create" : "open", path,
			       !o->create && o->writable ? " for writing" : "");
}

int file_open(struct reactor *r, const char *path, const struct file_opts *o, struct file **out,
	      struct error *e)
{
	struct file *f = calloc(1, sizeof(*f));
	int flags = open_flags(o->writable);
	int rc;

	assert(!o->truncate || o->writable);
	assert(!o->create || o->writable);
	*out = NULL;
	if (!f || !(f->path = strdup(path))) {
		free(f);
		return error_set(e, ENOMEM, "cannot open '%s': out of memory", path);
	}
	f->r = r;
	f->writable = o->writable;
	f->no_lock = o->no_lock;
	f->no_flush = o->cache == FILE_CACHE_UNSAFE;
	f->share_write = o->share_write;
	list_init(&f->changes);
	rangelock_init(&f->excl);
	co_queue_init(&f->drained);
	if (o->create)
		flags |= O_CREAT | O_EXCL;
	f->fd = engine_open(r, path, flags);
	if (f->fd < 0) {
		rc = open_error(e, f->fd, path, o);
		goto err_free;
	}
	rc = file_setup(f, o, e);
	if (rc < 0)
		goto err_close;
	f->slot = reactor_fixed_file_add(r, f->fd);
	*out = f;
	return 0;
err_close:
	engine_close(r, f->fd);
err_free:
	free(f->path);
	free(f);
	return rc;
}

void file_close(struct file *f)
{
	if (!f)
		return;
	assert(!f->inflight && list_empty(&f->changes) && rangelock_empty(&f->excl));
	reactor_fixed_file_del(f->r, f->slot);
	/* a forked child may still have the descriptor: the locks must go now */
	if (!f->no_lock)
		file_unlock(f->fd);
	engine_close(f->r, f->fd);
	free(f->path);
	free(f);
}

/* --- reopen --- */

static int open_again(struct file *f, bool writable, struct error *e)
{
	int fd = engine_reopen(f->r, f->fd, open_flags(writable));

	if (fd < 0)
		return error_set_errno(e, -fd, "cannot reopen '%s'%s", f->path,
				       writable ? " for writing" : " read-only");
	if (fcntl(fd, F_SETFL, f->direct ? O_DIRECT : 0) < 0) {
		int rc = -errno;

		engine_close(f->r, fd);
		return error_set_errno(e, -rc, "cannot reopen '%s'", f->path);
	}
	return fd;
}

/*
 * Moves the locks to fd without a moment in which nobody has them: fd takes the
 * old ones too before f->fd lets go (shared locks get along), and only then can
 * fd see whether others conflict.
 */
static int move_locks(struct file *f, int fd, struct file_perms want, struct error *e)
{
	int rc;

	if (f->no_lock)
		return 0;
	file_lock_take(fd, f->perms);
	file_lock_take(fd, want);
	file_unlock(f->fd);
	rc = file_lock_apply(fd, f->path, f->perms, want, e);
	if (rc < 0)
		file_lock_take(f->fd, f->perms);
	return rc;
}

int file_reopen(struct file *f, bool writable, struct error *e)
{
	struct file_perms want = file_perms_for(writable, f->share_write);
	int fd, rc;

	if (writable == f->writable)
		return 0;
	fd = open_again(f, writable, e);
	if (fd < 0)
		return fd;
	rc = move_locks(f, fd, want, e);
	/* the number stays, so that requests under way and the slot's user notice nothing */
	if (rc == 0 && dup3(fd, f->fd, O_CLOEXEC) < 0)
		rc = error_set_errno(e, errno, "cannot reopen '%s'", f->path);
	engine_close(f->r, fd);
	if (rc < 0)
		return rc;
	if (f->slot >= 0 && f->r->engine->fixed_update(f->r, f->slot, f->fd) < 0) {
		reactor_fixed_file_del(f->r, f->slot);
		f->slot = -1;
	}
	f->writable = writable;
	f->perms = want;
	return 0;
}

/* --- questions --- */

const char *file_path(const struct file *f)
{
	return f->path;
}

struct reactor *file_reactor(const struct file *f)
{
	return f->r;
}

bool file_writable(const struct file *f)
{
	return f->writable;
}

bool file_is_block(const struct file *f)
{
	return f->is_block;
}

bool file_is_direct(const struct file *f)
{
	return f->direct;
}

int file_fd(const struct file *f)
{
	return f->fd;
}

uint64_t file_size(const struct file *f)
{
	return f->size;
}

uint32_t file_align(const struct file *f)
{
	return f->align > f->mem_align ? f->align : f->mem_align;
}

bool file_same(const struct file *a, const struct file *b)
{
	return a->is_block == b->is_block && a->dev == b->dev && a->ino == b->ino;
}

/* --- extents --- */

static off_t seek(struct file *f, uint64_t off, int whence)
{
	off_t n;

	if (f->r->engine->seek)
		return f->r->engine->seek(f->r, f->fd, off, whence);
	n = lseek(f->fd, off, whence);
	return n < 0 ? -errno : n;
}

int co_file_extent(struct file *f, uint64_t off, bool *data, uint64_t *len)
{
	off_t start, end;

	assert(co_self());
	*data = false;
	*len = UINT64_MAX - off;
	if (off >= f->size)
		return 0;
	*len = f->size - off;
	start = f->is_block ? -EINVAL : seek(f, off, SEEK_DATA);
	if (start == -ENXIO)
		return 0;
	*data = true;
	if (start == -EINVAL || start == -EOPNOTSUPP)
		return 0;
	if (start < 0)
		return start;
	if ((uint64_t)start > off) {
		*data = false;
		if ((uint64_t)start - off < *len)
			*len = (uint64_t)start - off;
		return 0;
	}
	end = seek(f, off, SEEK_HOLE);
	/* -ENXIO: somebody made it shorter meanwhile; what we know of it is data */
	if (end < 0)
		return end == -ENXIO ? 0 : end;
	if ((uint64_t)end > off && (uint64_t)end - off < *len)
		*len = (uint64_t)end - off;
	return 0;
}
