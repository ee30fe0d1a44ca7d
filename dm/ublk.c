// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ublk.c - the chain as /dev/ublkbN: requests of the kernel's ublk driver become chain requests.
 *
 * Data: one hardware queue; for each tag a page-aligned buffer and one command on the
 * reactor's ring that the kernel completes when it has a request, and that our answer
 * renews. Control: commands that may wait for I/O to us, so each runs on a helper
 * thread with a small ring of its own (they need 128-byte SQEs).
 *
 * Recovery: devices are made with USER_RECOVERY_REISSUE. When a server dies, the kernel keeps
 * the device and holds I/O back; the next start of the same chain finds it by the mark in its
 * server_flags and takes it up again, so what is mounted on it goes on. A device that does not
 * fit the chain any more is deleted.
 *
 * Facts: Documentation/block/ublk.rst and drivers/block/ublk_drv.c. Invariant: a tag is with the kernel
 * (its command outstanding), or with the chain, or dead; the buffers go when all are dead.
 */
#include "dm/ublk_abi.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dm/server.h"
#include "dm/sysfs.h"
#include "io/buf.h"
#include "io/co.h"
#include "io/log.h"

#define CONTROL "/dev/ublk-control"
#define SECTOR 512u
#define RECOVERY_TRIES 250     /* of 20 ms */
#define MAX_RANGE_SECTORS (UINT32_MAX >> 9)   /* of a discard or write-zeroes */

struct tag {
	struct ublk *u;
	uint16_t nr;
	bool dead;
	unsigned char *buf;
	struct iovec iov;
	struct chain_req q;
	struct io_cqe_hook hook;
};

struct ublk {
	/* set at start */
	struct chain *chain;
	struct reactor *r;
	char *name;
	struct ublk_dev_info info;
	uint64_t features;
	char node[32];
	int fd;                        /* /dev/ublkcN */
	int slot;                      /* fd registered in the ring, or -1 */
	const struct ublk_io_desc *desc;
	size_t desc_len;
	struct tag *tags;
	unsigned depth;
	bool added, started, fetched;

	/* changes with every tag that dies */
	unsigned alive;
	struct co_queue wait;
};

/* --- control commands --- */

struct control {
	uint32_t op;
	struct ublk_ctrl cmd;
};

static int control_call(void *arg)
{
	struct control *c = arg;
	struct io_uring_params p = { .flags = IORING_SETUP_SQE128 };
	struct io_uring ring;
	struct io_uring_sqe *sqe;
	struct io_uring_cqe *cqe;
	int fd = open(CONTROL, O_RDWR | O_CLOEXEC), rc;

	if (fd < 0)
		return -errno;
	rc = io_uring_queue_init_params(2, &ring, &p);
	if (rc < 0)
		goto out;
	sqe = io_uring_get_sqe(&ring);
	assert(sqe);
	memset(sqe, 0, 2 * sizeof(*sqe));
	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = fd;
	sqe->cmd_op = c->op;
	memcpy(sqe->cmd, &c->cmd, sizeof(c->cmd));
	do
		rc = io_uring_submit_and_wait(&ring, 1);
	while (rc == -EINTR);
	if (rc >= 0)
		rc = io_uring_wait_cqe(&ring, &cqe);
	if (rc == 0)
		rc = cqe->res;
	io_uring_queue_exit(&ring);
out:
	close(fd);
	return rc;
}

static int co_control(struct reactor *r, uint32_t op, uint32_t dev_id, void *buf, size_t len,
		      uint64_t data)
{
	struct control c = {
		.op = op,
		.cmd = {
			.dev_id = dev_id,
			.queue_id = UINT16_MAX,
			.len = (uint16_t)len,
			.addr = (uint64_t)(uintptr_t)buf,
			.data = data,
		},
	};

	return co_worker_run(r, control_call, &c);
}

/* Linux before 6.5 cannot be asked; it has the recovery flags (6.1) and encoded commands (6.4) or refuses them. */
static uint64_t co_features(struct reactor *r)
{
	uint64_t f = 0;

	if (co_control(r, UBLK_GET_FEATURES, UINT32_MAX, &f, sizeof(f), 0) < 0)
		f = UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE | UBLK_F_CMD_IOCTL_ENCODE;
	return f;
}

/* --- data --- */

static void send_command(struct tag *t, uint32_t op, int result)
{
	struct ublk *u = t->u;
	struct io_uring_sqe *sqe = reactor_sqe(u->r, &t->hook);
	struct ublk_io_cmd cmd = {
		.tag = t->nr,
		.result = result,
		.addr = (uint64_t)(uintptr_t)t->buf,
	};

	sqe->opcode = IORING_OP_URING_CMD;
	sqe->fd = u->slot >= 0 ? u->slot : u->fd;
	sqe->flags = u->slot >= 0 ? IOSQE_FIXED_FILE : 0;
	sqe->cmd_op = op;
	memcpy(sqe->cmd, &cmd, sizeof(cmd));
}

static void tag_dies(struct tag *t, int res)
{
	struct ublk *u = t->u;

	if (res != -ENODEV)
		log_error("%s: the kernel ended tag %u: %s", u->node, t->nr, strerror(-res));
	assert(!t->dead && u->alive);
	t->dead = true;
	if (!--u->alive)
		co_queue_wake_all(&u->wait);
}

static void request_done(struct chain_req *q, int res)
{
	struct tag *t = container_of(q, struct tag, q);

	if (res == 0 && (q->opcode == CHAIN_READ || q->opcode == CHAIN_WRITE))
		res = (int)q->bytes;
	send_command(t, UBLK_IO_COMMIT_AND_FETCH, res);
}

static int decode(const struct ublk_io_desc *d, struct tag *t)
{
	struct chain_req *q = &t->q;
	uint64_t bytes = (uint64_t)d->nr_sectors * SECTOR;

	*q = (struct chain_req){
		.done = request_done,
		.guest_off = d->start_sector * SECTOR,
		.bytes = bytes,
		.flags = d->op_flags & UBLK_OP_F_FUA ? CHAIN_F_FUA : 0,
	};
	switch (d->op_flags & UBLK_OP_MASK) {
	case UBLK_OP_READ:
	case UBLK_OP_WRITE:
		if (bytes > t->u->info.max_io_buf_bytes)
			return -EIO;
		q->opcode = (d->op_flags & UBLK_OP_MASK) == UBLK_OP_READ ? CHAIN_READ : CHAIN_WRITE;
		t->iov = (struct iovec){ .iov_base = t->buf, .iov_len = bytes };
		q->iov = &t->iov;
		q->nr_iov = 1;
		return 0;
	case UBLK_OP_FLUSH:
		q->opcode = CHAIN_FLUSH;
		q->guest_off = q->bytes = 0;
		q->flags = 0;
		return 0;
	case UBLK_OP_DISCARD:
		q->opcode = CHAIN_DISCARD;
		q->flags = 0;
		return 0;
	case UBLK_OP_WRITE_ZEROES:
		q->opcode = CHAIN_ZERO;
		if (d->op_flags & UBLK_OP_F_NOUNMAP)
			q->flags |= CHAIN_F_NO_UNMAP;
		return 0;
	}
	return -EOPNOTSUPP;
}

static void request_here(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	struct tag *t = container_of(h, struct tag, hook);
	int rc;

	if (res != UBLK_IO_RES_OK) {
		tag_dies(t, res);
		return;
	}
	rc = decode(&t->u->desc[t->nr], t);
	if (rc < 0)
		send_command(t, UBLK_IO_COMMIT_AND_FETCH, rc);
	else
		chain_submit(t->u->chain, &t->q);
}

/* --- the queue: descriptors, buffers, tags --- */

static int queue_open(struct ublk *u, struct error *e)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char path[32];
	void *p;

	snprintf(path, sizeof(path), "/dev/ublkc%" PRIu32, u->info.dev_id);
	u->fd = open(path, O_RDWR | O_CLOEXEC);
	if (u->fd < 0)
		return error_set_errno(e, errno, "cannot open %s", path);
	u->depth = u->info.queue_depth;
	u->desc_len = (u->depth * sizeof(*u->desc) + page - 1) / page * page;
	p = mmap(NULL, u->desc_len, PROT_READ, MAP_SHARED | MAP_POPULATE, u->fd, 0);
	if (p == MAP_FAILED)
		return error_set_errno(e, errno, "cannot map the requests of %s", path);
	u->desc = p;
	u->tags = calloc(u->depth, sizeof(*u->tags));
	for (unsigned i = 0; u->tags && i < u->depth; i++) {
		struct tag *t = &u->tags[i];

		t->u = u;
		t->nr = (uint16_t)i;
		t->dead = true;
		t->hook.fn = request_here;
		t->buf = buf_alloc(u->info.max_io_buf_bytes);
		if (!t->buf)
			return error_set(e, ENOMEM, "no memory for %u requests of %u bytes for "
					 "chain '%s'", u->depth, u->info.max_io_buf_bytes, u->name);
	}
	if (!u->tags)
		return error_set(e, ENOMEM, "out of memory");
	u->slot = reactor_fixed_file_add(u->r, u->fd);
	return 0;
}

/* The kernel waits for all tags before it starts a device, so a refused one must be seen here. */
static int co_queue_fetch(struct ublk *u, struct error *e)
{
	u->fetched = true;
	for (unsigned i = 0; i < u->depth; i++) {
		u->tags[i].dead = false;
		u->alive++;
		send_command(&u->tags[i], UBLK_IO_FETCH, 0);
	}
	co_reschedule();
	if (u->alive < u->depth)
		return error_set(e, EIO, "%s refuses %u of %u requests", u->node,
				 u->depth - u->alive, u->depth);
	return 0;
}

static void queue_close(struct ublk *u)
{
	assert(!u->alive);
	if (u->slot >= 0)
		reactor_fixed_file_del(u->r, u->slot);
	for (unsigned i = 0; u->tags && i < u->depth; i++)
		buf_free(u->tags[i].buf);
	free(u->tags);
	if (u->desc)
		munmap((void *)u->desc, u->desc_len);
	if (u->fd >= 0)
		close(u->fd);
	u->tags = NULL;
	u->desc = NULL;
	u->fd = u->slot = -1;
}

/* --- the device --- */

static uint8_t log2u(uint32_t v)
{
	return v ? (uint8_t)(31 - __builtin_clz(v)) : 0;
}

static void fill_params(const struct ublk *u, struct ublk_params *p)
{
	bool ro = chain_read_only(u->chain);
	struct chain_limits lim;

	chain_limits(u->chain, &lim);
	memset(p, 0, sizeof(*p));
	p->len = sizeof(*p);
	p->types = UBLK_PARAM_BASIC | (ro ? 0 : UBLK_PARAM_DISCARD);
	p->basic.attrs = UBLK_ATTR_VOLATILE_CACHE | UBLK_ATTR_FUA | (ro ? UBLK_ATTR_READ_ONLY : 0);
	p->basic.logical_bs_shift = log2u(lim.logical_block);
	p->basic.physical_bs_shift = log2u(lim.physical_block);
	p->basic.io_min_shift = log2u(lim.physical_block);
	p->basic.io_opt_shift = log2u(lim.optimal_io);
	p->basic.max_sectors = u->info.max_io_buf_bytes / SECTOR;
	p->basic.dev_sectors = chain_size(u->chain) / SECTOR;
	p->discard.granularity = lim.discard_granularity;
	p->discard.max_discard_sectors = MAX_RANGE_SECTORS;
	p->discard.max_write_zeroes_sectors = MAX_RANGE_SECTORS;
	p->discard.max_segments = 1;
}

/* What server_flags holds: tells our device from one that has its number by now. */
static uint64_t mark_of(const char *name, const char *run_dir)
{
	uint64_t h = 0xcbf29ce484222325ull;

	for (const char *parts[] = { "qchain", name, run_dir, NULL }, **p = parts; *p; p++)
		for (const char *s = *p; ; s++) {
			h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
			if (!*s)
				break;
		}
	return h;
}

static int co_add(struct ublk *u, unsigned depth, uint64_t mark, struct error *e)
{
	struct ublk_params p;
	int rc;

	u->info = (struct ublk_dev_info){
		.nr_hw_queues = 1,
		.queue_depth = (uint16_t)depth,
		.max_io_buf_bytes = SERVER_MAX_TRANSFER,
		.dev_id = UINT32_MAX,
		.server_pid = getpid(),
		.server_flags = mark,
		.flags = u->features & (UBLK_F_USER_RECOVERY | UBLK_F_USER_RECOVERY_REISSUE |
					UBLK_F_CMD_IOCTL_ENCODE | UBLK_F_UPDATE_SIZE),
	};
	rc = co_control(u->r, UBLK_ADD_DEV, UINT32_MAX, &u->info, sizeof(u->info), 0);
	if (rc < 0)
		return error_set_errno(e, -rc, "the ublk driver makes no device for chain '%s'",
				       u->name);
	u->added = true;
	snprintf(u->node, sizeof(u->node), "/dev/ublkb%" PRIu32, u->info.dev_id);
	fill_params(u, &p);
	rc = co_control(u->r, UBLK_SET_PARAMS, u->info.dev_id, &p, sizeof(p), 0);
	return rc < 0 ? error_set_errno(e, -rc, "the ublk driver refuses the limits of chain '%s'",
					u->name) : 0;
}

static int co_delete(struct ublk *u, bool wait)
{
	int rc = -EOPNOTSUPP;

	/* DEL_DEV waits until the last opener has gone */
	if (!wait)
		rc = co_control(u->r, UBLK_DEL_DEV_ASYNC, u->info.dev_id, NULL, 0, 0);
	if (rc == -EOPNOTSUPP || rc == -EINVAL)
		rc = co_control(u->r, UBLK_DEL_DEV, u->info.dev_id, NULL, 0, 0);
	return rc;
}

/* Takes away all of it, whatever start had come to. */
static void co_teardown(struct ublk *u, bool wait)
{
	int rc;

	if (u->added && (u->started || u->fetched)) {
		rc = co_control(u->r, UBLK_STOP_DEV, u->info.dev_id, NULL, 0, 0);
		if (rc < 0 && rc != -ENODEV)
			log_error("cannot stop %s: %s", u->node, strerror(-rc));
	}
	while (u->alive)
		co_queue_wait(&u->wait);
	queue_close(u);
	if (u->added) {
		rc = co_delete(u, wait);
		if (rc < 0)
			log_error("cannot delete %s: %s", u->node, strerror(-rc));
	}
	free(u->name);
	free(u);
}

/* --- recovery --- */

static bool fits(struct ublk *u)
{
	struct ublk_params want, have;

	fill_params(u, &want);
	memset(&have, 0, sizeof(have));
	have.len = sizeof(have);
	if (co_control(u->r, UBLK_GET_PARAMS, u->info.dev_id, &have, sizeof(have), 0) < 0)
		return false;
	return have.basic.dev_sectors == want.basic.dev_sectors &&
	       have.basic.attrs == want.basic.attrs && u->info.nr_hw_queues == 1;
}

/* Finds the device that a dead server of this chain left, by its mark: 1 found (u->info is it), 0 none. */
static int co_find_left(struct ublk *u, uint64_t mark)
{
	DIR *d = opendir("/sys/class/ublk-char");
	struct dirent *de;
	int found = 0;

	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && !found && (de = readdir(d))) {
		uint32_t id;

		if (sscanf(de->d_name, "ublkc%" SCNu32, &id) != 1)
			continue;
		u->info = (struct ublk_dev_info){ .dev_id = id };
		found = co_control(u->r, UBLK_GET_DEV_INFO, id, &u->info, sizeof(u->info), 0) >= 0 &&
			u->info.server_flags == mark;
	}
	if (d)
		closedir(d);
	if (found)
		snprintf(u->node, sizeof(u->node), "/dev/ublkb%" PRIu32, u->info.dev_id);
	return found;
}

/* A process that nobody has waited for yet has ended all the same; kill(pid, 0) would find it. */
static bool lives(int pid)
{
	char path[32], stat[256], *name_end;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	if (pid <= 0 || sysfs_read(path, stat, sizeof(stat)) < 0)
		return false;
	name_end = strrchr(stat, ')');
	return !name_end || (name_end[1] && name_end[2] != 'Z' && name_end[2] != 'X');
}

/*
 * The kernel lets go of a killed server only when its ring is taken apart, a moment
 * after its end, and has no event for that: so ask again for a while.
 */
static int co_start_recovery(struct ublk *u)
{
	int rc = -EBUSY;

	for (unsigned i = 0; i < RECOVERY_TRIES && rc == -EBUSY; i++) {
		if (i)
			co_sleep_ns(u->r, 20000000);
		rc = co_control(u->r, UBLK_START_USER_RECOVERY, u->info.dev_id, NULL, 0, 0);
		if (rc == -EBUSY && lives(u->info.server_pid))
			break;
	}
	return rc;
}

/* 1: taken up, commands fetched; 0: nothing to take up, or it was deleted. */
static int co_recover(struct ublk *u, uint64_t mark, struct error *e)
{
	int rc;

	if (!co_find_left(u, mark))
		return 0;
	if (!fits(u) || !(u->info.flags & UBLK_F_USER_RECOVERY)) {
		log_warn("deleting %s: a dead daemon left it, and chain '%s' has changed since",
			 u->node, u->name);
		co_control(u->r, UBLK_STOP_DEV, u->info.dev_id, NULL, 0, 0);
		co_delete(u, false);
		return 0;
	}
	rc = co_start_recovery(u);
	if (rc < 0) {
		if (rc == -EBUSY)
			return error_set(e, EBUSY, "%s of chain '%s' is still being served by "
					 "process %d", u->node, u->name, u->info.server_pid);
		co_control(u->r, UBLK_STOP_DEV, u->info.dev_id, NULL, 0, 0);
		co_delete(u, false);
		return 0;
	}
	u->added = u->started = true;
	rc = queue_open(u, e);
	if (rc == 0)
		rc = co_queue_fetch(u, e);
	if (rc < 0)
		return rc;
	rc = co_control(u->r, UBLK_END_USER_RECOVERY, u->info.dev_id, NULL, 0, (uint64_t)getpid());
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot take %s up again", u->node);
	log_warn("chain '%s': took %s up again, which a dead daemon left", u->name, u->node);
	return 1;
}

/* --- the server interface --- */

static int co_start_new(struct ublk *u, const struct server_opts *o, uint64_t mark, struct error *e)
{
	int rc = co_add(u, o->queue_depth, mark, e);

	if (rc == 0)
		rc = queue_open(u, e);
	if (rc == 0)
		rc = co_queue_fetch(u, e);
	if (rc < 0)
		return rc;
	rc = co_control(u->r, UBLK_START_DEV, u->info.dev_id, NULL, 0, (uint64_t)getpid());
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot start %s", u->node);
	u->started = true;
	return 0;
}

static int usable(struct error *e)
{
	if (geteuid() != 0)
		return error_set(e, EPERM, "a block device needs root; run as root, or use "
				 "--device none to serve sockets only");
	if (access(CONTROL, F_OK) < 0)
		return error_set(e, ENODEV, CONTROL " is missing; load the driver with: modprobe "
				 "ublk_drv (Linux 6.0 or newer), or use --device fuse");
	return 0;
}

static int co_server_start(const struct server_opts *o, void **priv, struct error *e)
{
	struct reactor *r = chain_reactor(o->chain);
	uint64_t mark = mark_of(o->name, o->run_dir);
	struct ublk *u;
	int rc;

	*priv = NULL;
	if (!reactor_ring(r))
		return error_set(e, ENOTSUP, "ublk needs io_uring, and this daemon runs on the %s "
				 "engine; use --engine uring or --device fuse",
				 engine_name(reactor_engine(r)));
	u = calloc(1, sizeof(*u));
	if (!u || !(u->name = strdup(o->name)))
		abort();               /* at start: before anything depends on us */
	u->chain = o->chain;
	u->r = r;
	u->fd = u->slot = -1;
	co_queue_init(&u->wait);
	u->features = co_features(r);
	rc = co_recover(u, mark, e);
	if (rc == 0)
		rc = co_start_new(u, o, mark, e);
	if (rc < 0) {
		co_teardown(u, false);
		return rc;
	}
	*priv = u;
	return 0;
}

static int co_server_stop(void *priv, bool force, struct error *e)
{
	/* with force, STOP_DEV fails what is in flight; who still has it open must not keep us */
	co_teardown(priv, !force);
	return 0;
}

static int co_server_resize(void *priv, struct error *e)
{
	struct ublk *u = priv;
	int rc;

	if (!(u->info.flags & UBLK_F_UPDATE_SIZE))
		return error_set(e, ENOTSUP, "the ublk driver of this kernel cannot change the size "
				 "of %s (Linux 6.16 can); deactivate and activate chain '%s'",
				 u->node, u->name);
	rc = co_control(u->r, UBLK_UPDATE_SIZE, u->info.dev_id, NULL, 0,
			chain_size(u->chain) / SECTOR);
	return rc < 0 ? error_set_errno(e, -rc, "cannot tell %s its new size", u->node) : 0;
}

static const char *node(const void *priv)
{
	return ((const struct ublk *)priv)->node;
}

const struct server_ops ublk_server_ops = {
	.co_start = co_server_start,
	.co_stop = co_server_stop,
	.co_resize = co_server_resize,
	.node = node,
	.usable = usable,
};
