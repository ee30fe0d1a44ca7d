// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuse.c - a FUSE file system of one file: requests from /dev/fuse become chain requests.
 *
 * The file exists for the loop device above it, so it knows no cache and no
 * names but its own. libfuse decodes and encodes (low-level interface); this file
 * owns the descriptor. A turn of the reactor reads whatever requests wait, and the replies
 * of a turn leave together with its other submissions. Facts: linux/fuse.h, libfuse's
 * fuse_lowlevel.h.
 *
 * Invariants: memory for `depth` requests is made at start; a request that finds
 * no free slot stays in the kernel until one returns. A slot belongs to exactly one of: the
 * free list, the reader (cur), the chain, the ring (its reply).
 */
#define FUSE_USE_VERSION 314

#include "dm/fuse.h"

#include <assert.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fuse.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/log.h"

#define INO_FILE 2
/* What stands before the bytes of a WRITE: read so that those bytes fall on a page. */
#define WRITE_SKEW (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define LEAD BUF_ALIGN
#define SLOT_BYTES (LEAD + SERVER_MAX_TRANSFER + BUF_ALIGN)
#define READ_BYTES (WRITE_SKEW + SERVER_MAX_TRANSFER + BUF_ALIGN)
/* Beside the data requests: lookups and attributes of a moment. */
#define SPARE_SLOTS 8
#define REPLY_MAX 192

static_assert(WRITE_SKEW == 80, "FUSE wire format, protocol 7.9 and later");

struct slot {
	struct chain_req q;
	struct fuse_file *f;
	fuse_req_t req;
	unsigned char *mem;            /* SLOT_BYTES; payload at mem + LEAD */
	struct iovec data;             /* of q */
	/* the reply on the ring */
	bool queued;
	struct io_cqe_hook sent;
	struct iovec reply[2];
	unsigned char head[REPLY_MAX];
	struct list link;              /* f->free */
};

struct fuse_file {
	/* set at start and never changed */
	struct chain *chain;
	struct reactor *r;
	bool ring;
	char *name;
	struct fuse_session *se;
	int fd;
	struct slot *slots;
	unsigned nr_slots;
	time_t born;

	/* changes with every request */
	struct list free;
	unsigned nr_busy;
	struct slot *cur;              /* being decoded; NULL once an operation took it */
	struct slot *sending;          /* whose reply libfuse is encoding */
	bool reading;                  /* poll armed on the ring */
	bool stalled;                  /* out of slots: goes on when one returns */
	bool gone;                     /* the kernel hung up */
	unsigned opens;
	struct co_queue wait;          /* opens, gone or nr_busy changed */

	struct io_cqe_hook poll_hook;  /* with a ring */
	struct io_watch watch;         /* without */
};

static void read_requests(struct fuse_file *f);
static void read_later(struct fuse_file *f);

/* --- slots --- */

static struct slot *slot_get(struct fuse_file *f)
{
	struct slot *s;

	if (list_empty(&f->free))
		return NULL;
	s = list_first(&f->free, struct slot, link);
	list_del(&s->link);
	f->nr_busy++;
	return s;
}

static void slot_put(struct slot *s)
{
	struct fuse_file *f = s->f;

	assert(f->nr_busy && list_empty(&s->link));
	list_add(&f->free, &s->link);
	f->nr_busy--;
	if (f->stalled) {
		f->stalled = false;
		read_later(f);
	}
	if (f->gone && !f->nr_busy)
		co_queue_wake_all(&f->wait);
}

static void hang_up(struct fuse_file *f)
{
	f->gone = true;
	f->opens = 0;
	co_queue_wake_all(&f->wait);
}

/* --- writing /dev/fuse --- */

static void reply_sent(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct slot *s = container_of(h, struct slot, sent);

	/* ENOENT: the request was interrupted. ENODEV: the mount is gone; the reader sees it too. */
	if (res < 0 && res != -ENOENT && res != -ENODEV)
		log_error("cannot answer a FUSE request of chain '%s': %s", s->f->name,
			  strerror(-res));
	slot_put(s);
}

/* libfuse's way out. Data replies of a slot go by the ring; libfuse's header is on its stack, so copied. */
static ssize_t send_reply(int fd, struct iovec *iov, int count, void *userdata)
{
	struct fuse_file *f = userdata;
	struct slot *s = f->sending;
	size_t total = 0, flat;
	unsigned n = 1;

	if (!s || !f->ring)
		return writev(fd, iov, count);
	assert(count >= 1 && count <= 2);
	flat = iov[0].iov_len;
	assert(flat <= REPLY_MAX);
	memcpy(s->head, iov[0].iov_base, flat);
	total = flat;
	if (count == 2) {
		total += iov[1].iov_len;
		if (iov[1].iov_base == s->data.iov_base) {
			s->reply[1] = iov[1];
			n = 2;
		} else {
			assert(total <= REPLY_MAX);
			memcpy(s->head + flat, iov[1].iov_base, iov[1].iov_len);
			flat = total;
		}
	}
	s->reply[0] = (struct iovec){ .iov_base = s->head, .iov_len = flat };
	io_uring_prep_writev(reactor_sqe(f->r, &s->sent), fd, s->reply, n, 0);
	s->queued = true;
	return (ssize_t)total;
}

static ssize_t receive(int fd, void *buf, size_t len, void *userdata)
{
	return read(fd, buf, len);
}

/* --- data requests --- */

static void request_done(struct chain_req *q, int res)
{
	struct slot *s = container_of(q, struct slot, q);
	struct fuse_file *f = s->f;

	f->sending = s;
	s->queued = false;
	if (res < 0)
		fuse_reply_err(s->req, -res);
	else if (q->opcode == CHAIN_READ)
		fuse_reply_buf(s->req, s->data.iov_base, s->data.iov_len);
	else if (q->opcode == CHAIN_WRITE)
		fuse_reply_write(s->req, s->data.iov_len);
	else
		fuse_reply_err(s->req, 0);
	f->sending = NULL;
	if (!s->queued)
		slot_put(s);           /* it went out at once */
}

static void submit(fuse_req_t req, enum chain_opcode op, unsigned flags, uint64_t guest_off,
		   uint64_t bytes, void *data)
{
	struct fuse_file *f = fuse_req_userdata(req);
	struct slot *s = f->cur;

	assert(s);
	f->cur = NULL;
	s->req = req;
	s->data = (struct iovec){ .iov_base = data, .iov_len = data ? bytes : 0 };
	s->q = (struct chain_req){
		.done = request_done,
		.opcode = op,
		.flags = flags,
		.guest_off = guest_off,
		.bytes = bytes,
		.iov = data ? &s->data : NULL,
		.nr_iov = data ? 1 : 0,
	};
	chain_submit(f->chain, &s->q);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);
	uint64_t end = chain_size(f->chain), at = (uint64_t)off;

	if (ino != INO_FILE || off < 0 || size > SERVER_MAX_TRANSFER) {
		fuse_reply_err(req, EINVAL);
		return;
	}
	if (at >= end || !size) {
		fuse_reply_buf(req, NULL, 0);
		return;
	}
	if (size > end - at)
		size = end - at;
	submit(req, CHAIN_READ, 0, at, size, f->cur->mem + LEAD);
}

static void op_write_buf(fuse_req_t req, fuse_ino_t ino, struct fuse_bufvec *bufv, off_t off,
			 struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);
	uint64_t end = chain_size(f->chain), at = (uint64_t)off;
	size_t size = bufv->buf[0].size;

	/* one piece of memory, inside the slot that is being decoded: we read it there */
	assert(bufv->count == 1 && !bufv->idx && !bufv->off && !bufv->buf[0].flags);
	assert((unsigned char *)bufv->buf[0].mem == f->cur->mem + LEAD);
	if (ino != INO_FILE || off < 0 || size > SERVER_MAX_TRANSFER)
		fuse_reply_err(req, EINVAL);
	else if (chain_read_only(f->chain))
		fuse_reply_err(req, EROFS);
	else if (at > end || size > end - at)
		fuse_reply_err(req, EFBIG);
	else if (!size)
		fuse_reply_write(req, 0);
	else
		submit(req, CHAIN_WRITE, 0, at, size, bufv->buf[0].mem);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	submit(req, CHAIN_FLUSH, 0, 0, 0, NULL);
}

/*
 * loop turns a discard into PUNCH_HOLE, and zeroing into PUNCH_HOLE or (blocks to be
 * kept) ZERO_RANGE. A hole must read as zeros, which a chain promises of a zeroed range, not of
 * a discarded one; zeroing with unmap gives the space back just the same.
 */
static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len,
			 struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);
	uint64_t end = chain_size(f->chain), at = (uint64_t)off, bytes = (uint64_t)len;
	bool punch = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
	bool zero = (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE;

	if (ino != INO_FILE || (!punch && !zero))
		fuse_reply_err(req, EOPNOTSUPP);
	else if (off < 0 || len <= 0)
		fuse_reply_err(req, EINVAL);
	else if (chain_read_only(f->chain))
		fuse_reply_err(req, EROFS);
	else if (at > end || bytes > end - at)
		fuse_reply_err(req, EFBIG);
	else
		submit(req, CHAIN_ZERO, punch ? 0 : CHAIN_F_NO_UNMAP, at, bytes, NULL);
}

/* --- names and attributes --- */

static void fill_stat(struct fuse_file *f, fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	st->st_ino = ino;
	st->st_mtime = st->st_ctime = st->st_atime = f->born;
	if (ino == FUSE_ROOT_ID) {
		st->st_mode = S_IFDIR | 0700;
		st->st_nlink = 2;
		return;
	}
	st->st_mode = S_IFREG | (chain_read_only(f->chain) ? 0400 : 0600);
	st->st_nlink = 1;
	st->st_size = (off_t)chain_size(f->chain);
	st->st_blocks = st->st_size / 512;
	st->st_blksize = 4096;
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_file *f = fuse_req_userdata(req);
	struct fuse_entry_param e = { .ino = INO_FILE };

	if (parent != FUSE_ROOT_ID || strcmp(name, f->name)) {
		fuse_reply_err(req, ENOENT);
		return;
	}
	fill_stat(f, INO_FILE, &e.attr);
	fuse_reply_entry(req, &e);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);
	struct stat st;

	fill_stat(f, ino, &st);
	fuse_reply_attr(req, &st, 0);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);
	const char *const names[] = { ".", "..", f->name };
	char out[1024];
	size_t used = 0;

	if (size > sizeof(out))
		size = sizeof(out);
	for (off_t i = off; i >= 0 && i < 3; i++) {
		struct stat st;
		size_t n;

		fill_stat(f, i == 2 ? INO_FILE : FUSE_ROOT_ID, &st);
		n = fuse_add_direntry(req, out + used, size - used, names[i], &st, i + 1);
		if (n > size - used)
			break;
		used += n;
	}
	fuse_reply_buf(req, out, used);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct fuse_file *f = fuse_req_userdata(req);
	struct chain_limits lim;
	struct statvfs sv;

	/* loop takes its discard granularity from f_bsize */
	chain_limits(f->chain, &lim);
	memset(&sv, 0, sizeof(sv));
	sv.f_bsize = sv.f_frsize = lim.discard_granularity;
	sv.f_blocks = chain_size(f->chain) / lim.discard_granularity;
	sv.f_files = 1;
	sv.f_namemax = 255;
	fuse_reply_statfs(req, &sv);
}

/*
 * The reply is encoded here because libfuse 3.14 cannot say
 * PARALLEL_DIRECT_WRITES, without which the kernel lets one write at a time through.
 */
static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);
	struct fuse_open_out out = {
		.open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES,
	};

	if (ino != INO_FILE) {
		fuse_reply_err(req, EISDIR);
		return;
	}
	if ((fi->flags & O_ACCMODE) != O_RDONLY && chain_read_only(f->chain)) {
		fuse_reply_err(req, EROFS);
		return;
	}
	f->opens++;
	if (fuse_reply_buf(req, (const char *)&out, sizeof(out)) < 0) {
		/* the opener was interrupted: no RELEASE will come */
		f->opens--;
		co_queue_wake_all(&f->wait);
	}
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fuse_file *f = fuse_req_userdata(req);

	if (f->opens)
		f->opens--;
	fuse_reply_err(req, 0);
	if (!f->opens)
		co_queue_wake_all(&f->wait);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fuse_file *f = userdata;
	unsigned depth = f->nr_slots - SPARE_SLOTS;

	conn->max_write = SERVER_MAX_TRANSFER;
	conn->max_read = SERVER_MAX_TRANSFER;
	conn->max_readahead = 0;
	conn->max_background = depth;
	conn->congestion_threshold = depth;
	conn->want |= conn->capable & (FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO);
	conn->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				  FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE |
				  FUSE_CAP_READDIRPLUS | FUSE_CAP_AUTO_INVAL_DATA);
}

static const struct fuse_lowlevel_ops ops = {
	.init = op_init,
	.lookup = op_lookup,
	.getattr = op_getattr,
	.readdir = op_readdir,
	.statfs = op_statfs,
	.open = op_open,
	.release = op_release,
	.read = op_read,
	.write_buf = op_write_buf,
	.fsync = op_fsync,
	.fallocate = op_fallocate,
};

/* --- reading /dev/fuse --- */

/* Decodes what stands in slot s; the slot stays taken if an operation went on with it. */
static void process(struct fuse_file *f, struct slot *s, size_t len)
{
	struct fuse_buf buf = { .mem = s->mem + LEAD - WRITE_SKEW, .size = len };

	assert(!f->cur);
	f->cur = s;
	fuse_session_process_buf(f->se, &buf);
	if (f->cur) {
		assert(f->cur == s);
		f->cur = NULL;
		slot_put(s);
	}
}

static void read_requests(struct fuse_file *f)
{
	while (!f->gone) {
		struct slot *s = slot_get(f);
		ssize_t n;

		if (!s) {
			f->stalled = true;
			return;
		}
		n = read(f->fd, s->mem + LEAD - WRITE_SKEW, READ_BYTES);
		if (n > 0) {
			process(f, s, (size_t)n);
			continue;
		}
		slot_put(s);
		if (n < 0 && (errno == EINTR || errno == ENOENT))
			continue;      /* ENOENT: taken back before it was read */
		if (n < 0 && errno == EAGAIN) {
			read_later(f);
			return;
		}
		if (n < 0 && errno != ENODEV)
			log_error("cannot read FUSE requests of chain '%s': %m", f->name);
		if (!f->ring && f->watch.armed)
			reactor_unwatch(f->r, &f->watch);
		hang_up(f);
	}
}

static void poll_ready(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct fuse_file *f = container_of(h, struct fuse_file, poll_hook);

	f->reading = false;
	read_requests(f);
}

static void watch_ready(struct io_watch *w, uint32_t revents)
{
	struct fuse_file *f = w->arg;

	read_requests(f);
	if (f->stalled)
		reactor_unwatch(f->r, w);
}

/* Calls read_requests() when there are some. */
static void read_later(struct fuse_file *f)
{
	if (f->gone)
		return;
	if (!f->ring) {
		if (!f->watch.armed && reactor_watch(f->r, &f->watch) < 0)
			abort();       /* it could be watched before */
		return;
	}
	if (f->reading)
		return;
	f->reading = true;
	io_uring_prep_poll_add(reactor_sqe(f->r, &f->poll_hook), f->fd, POLLIN);
}

/* --- start and end --- */

static int make_slots(struct fuse_file *f, unsigned nr)
{
	f->slots = calloc(nr, sizeof(*f->slots));
	if (!f->slots)
		return -ENOMEM;
	for (f->nr_slots = 0; f->nr_slots < nr; f->nr_slots++) {
		struct slot *s = &f->slots[f->nr_slots];

		s->mem = buf_alloc(SLOT_BYTES);
		if (!s->mem)
			return -ENOMEM;
		s->f = f;
		s->sent.fn = reply_sent;
		list_add_tail(&f->free, &s->link);
	}
	return 0;
}

static void file_free(struct fuse_file *f)
{
	for (unsigned i = 0; i < f->nr_slots; i++)
		buf_free(f->slots[i].mem);
	free(f->slots);
	if (f->se)
		fuse_session_destroy(f->se);   /* closes fd */
	else
		close(f->fd);
	free(f->name);
	free(f);
}

static int make_session(struct fuse_file *f, struct error *e)
{
	static const struct fuse_custom_io custom = { .writev = send_reply, .read = receive };
	char max_read[32];
	char *argv[] = { (char *)"qchaind", (char *)"-o", max_read, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, argv);
	int rc;

	/* as the mount option and as op_init() has it */
	snprintf(max_read, sizeof(max_read), "max_read=%u", SERVER_MAX_TRANSFER);
	f->se = fuse_session_new(&args, &ops, sizeof(ops), f);
	fuse_opt_free_args(&args);
	if (!f->se)
		return error_set(e, ENOMEM, "libfuse cannot make a session for chain '%s'",
				 f->name);
	rc = fuse_session_custom_io(f->se, &custom, f->fd);
	if (rc < 0) {
		fuse_session_destroy(f->se);
		f->se = NULL;
		return error_set_errno(e, -rc, "libfuse refuses our /dev/fuse");
	}
	return 0;
}

int fuse_file_new(const struct server_opts *o, int fd, struct fuse_file **out, struct error *e)
{
	struct fuse_file *f = calloc(1, sizeof(*f));
	int rc;

	*out = NULL;
	if (!f) {
		close(fd);
		return error_set(e, ENOMEM, "cannot serve chain '%s': out of memory", o->name);
	}
	f->chain = o->chain;
	f->r = chain_reactor(o->chain);
	f->ring = reactor_ring(f->r) != NULL;
	f->fd = fd;
	f->born = time(NULL);
	f->name = strdup(o->name);
	f->poll_hook.fn = poll_ready;
	f->watch = (struct io_watch){ .fd = fd, .events = EPOLLIN, .fn = watch_ready, .arg = f };
	list_init(&f->free);
	co_queue_init(&f->wait);
	rc = f->name ? make_slots(f, o->queue_depth + SPARE_SLOTS) : -ENOMEM;
	if (rc < 0) {
		error_set(e, ENOMEM, "no memory for %u requests of %u bytes for chain '%s'",
			  o->queue_depth, SERVER_MAX_TRANSFER, o->name);
		goto err;
	}
	rc = make_session(f, e);
	if (rc < 0)
		goto err;
	if (!f->ring) {
		rc = reactor_watch(f->r, &f->watch);
		if (rc < 0) {
			error_set_errno(e, -rc, "cannot watch /dev/fuse");
			goto err;
		}
	}
	read_later(f);
	*out = f;
	return 0;
err:
	file_free(f);
	return rc;
}

void co_fuse_file_wait_released(struct fuse_file *f)
{
	while (f->opens)
		co_queue_wait(&f->wait);
}

void co_fuse_file_free(struct fuse_file *f)
{
	while (!f->gone || f->nr_busy)
		co_queue_wait(&f->wait);
	assert(!f->reading && !f->watch.armed);
	file_free(f);
}
