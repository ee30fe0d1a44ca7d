// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuse_loop.c - the device for kernels without ublk: the FUSE file bound to a loop device.
 *
 * Every call that makes the kernel read from us (open, LOOP_CONFIGURE, the last
 * close) runs on a helper thread, because the reactor's thread is the one that
 * must answer it.
 *
 * The daemon keeps no descriptor of the loop device. Were it killed, the kernel would
 * otherwise write back through that descriptor into a /dev/fuse that the same dying
 * process still holds, and hang. As it is, the connection breaks at once: I/O
 * on the loop device fails, nothing hangs, and the next start clears away the
 * dead mount and loop (clear_stale()).
 *
 * Invariant: loop first, mount second, folder last; each is taken away only if it is ours.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dm/fuse.h"
#include "dm/sysfs.h"
#include "io/log.h"

#define LOOP_TRIES 64

struct fuse_loop {
	/* set at start */
	struct chain *chain;
	char *name;
	char *dir;                     /* run_dir/fuse: the mount point */
	char *file;                    /* dir/NAME */
	bool read_only;
	char node[32];                 /* /dev/loopN; "" before it is bound */
	struct fuse_file *srv;         /* NULL before it is mounted */
	bool mounted;
	bool abort;                    /* end the FUSE connection although someone holds the file */
};

/* --- what a dead daemon of this chain left --- */

static bool is_mounted(const char *dir)
{
	struct mount_entry m;
	struct mount_list l;
	bool found = false;

	if (mount_list_open(&l) < 0)
		return false;
	while (!found && mount_list_next(&l, &m))
		found = !strcmp(m.dir, dir) && !strncmp(m.type, "fuse", 4);
	mount_list_close(&l);
	return found;
}

static bool loop_is_ours(const char *loop, const char *file)
{
	char path[64], backing[SYSFS_MAX];

	snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", loop);
	return sysfs_read(path, backing, sizeof(backing)) >= 0 && !strcmp(backing, file);
}

static int loop_clear(const char *node, int flags)
{
	int fd = open(node, O_RDONLY | O_CLOEXEC | flags), rc = 0;

	if (fd < 0)
		return -errno;
	if (ioctl(fd, LOOP_CLR_FD) < 0)
		rc = -errno;
	close(fd);
	return rc == -ENXIO ? 0 : rc;
}

static void clear_stale_loops(const char *file)
{
	DIR *d = opendir("/sys/block");
	struct dirent *de;
	char node[300];

	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && (de = readdir(d))) {
		if (strncmp(de->d_name, "loop", 4) || !loop_is_ours(de->d_name, file))
			continue;
		snprintf(node, sizeof(node), "/dev/%s", de->d_name);
		log_warn("clearing %s, left behind by a daemon that died", node);
		if (loop_clear(node, 0) < 0)
			log_warn("cannot clear %s: %m", node);
	}
	if (d)
		closedir(d);
}

/* On a helper thread: a loop device that is still open flushes when it is cleared. */
static int clear_stale(void *arg)
{
	struct fuse_loop *fl = arg;

	while (is_mounted(fl->dir)) {
		clear_stale_loops(fl->file);
		if (umount2(fl->dir, MNT_DETACH) < 0)
			return -errno;
	}
	return 0;
}

/* --- mount --- */

static int mount_it(struct fuse_loop *fl, const struct server_opts *o, struct error *e)
{
	char data[128];
	int fd, rc;

	/* EEXIST: a dead daemon's; it becomes ours */
	if (mkdir(fl->dir, 0700) < 0 && errno != EEXIST)
		return error_set_errno(e, errno, "cannot make the folder %s", fl->dir);
	fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return error_set_errno(e, errno, "cannot open /dev/fuse");
	snprintf(data, sizeof(data), "fd=%d,rootmode=40700,user_id=0,group_id=0,max_read=%u",
		 fd, SERVER_MAX_TRANSFER);
	/* libfuse would go through its set-user-id helper and /etc/mtab; root needs neither */
	if (mount("qchain", fl->dir, "fuse.qchain", MS_NODEV | MS_NOSUID | MS_NOEXEC, data) < 0) {
		rc = error_set_errno(e, errno, "cannot mount a FUSE file system on %s", fl->dir);
		close(fd);
		return rc;
	}
	fl->mounted = true;
	return fuse_file_new(o, fd, &fl->srv, e);
}

static int unmount_call(void *arg)
{
	struct fuse_loop *fl = arg;

	/*
	 * MNT_DETACH: a shell that stands in the folder must not keep the daemon. MNT_FORCE aborts the
	 * connection, for a loop device that does not let go of the file.
	 */
	return umount2(fl->dir, MNT_DETACH | (fl->abort ? MNT_FORCE : 0)) < 0 ? -errno : 0;
}

static void co_unmount(struct fuse_loop *fl)
{
	int rc;

	if (fl->mounted) {
		rc = co_worker_run(chain_reactor(fl->chain), unmount_call, fl);
		if (rc < 0 && rc != -EINVAL)   /* EINVAL: someone unmounted it before us */
			log_error("cannot unmount %s: %s", fl->dir, strerror(-rc));
	}
	if (fl->srv)
		co_fuse_file_free(fl->srv);
	if (rmdir(fl->dir) < 0 && errno != ENOENT)
		log_warn("cannot remove %s: %m", fl->dir);
	free(fl->name);
	free(fl->dir);
	free(fl->file);
	free(fl);
}

/* --- loop --- */

struct attach {
	struct fuse_loop *fl;
	struct error *e;
};

/* One try on a free number: -EBUSY if someone else was faster. */
static int bind_loop(struct fuse_loop *fl, int control, int file, struct error *e)
{
	struct loop_config cfg = {
		.fd = (uint32_t)file,
		.block_size = 512,
		.info.lo_flags = LO_FLAGS_DIRECT_IO | (fl->read_only ? LO_FLAGS_READ_ONLY : 0),
	};
	int nr = ioctl(control, LOOP_CTL_GET_FREE), fd, rc = 0;

	if (nr < 0)
		return error_set_errno(e, errno, "the kernel gives no free loop device");
	snprintf(fl->node, sizeof(fl->node), "/dev/loop%d", nr);
	snprintf((char *)cfg.info.lo_file_name, sizeof(cfg.info.lo_file_name), "%s", fl->file);
	fd = open(fl->node, (fl->read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC);
	if (fd < 0) {
		rc = error_set_errno(e, errno, "cannot open %s", fl->node);
		goto out;
	}
	if (ioctl(fd, LOOP_CONFIGURE, &cfg) < 0) {
		rc = -errno;
		if (rc == -EINVAL || rc == -ENOTTY)
			error_set(e, -rc, "%s refuses LOOP_CONFIGURE (%s): Linux 5.8 or newer is needed",
				  fl->node, strerror(-rc));
		else if (rc != -EBUSY)
			error_set_errno(e, -rc, "cannot bind %s to %s", fl->node, fl->file);
	}
	close(fd);
out:
	if (rc < 0)
		fl->node[0] = '\0';
	return rc;
}

static int attach_call(void *arg)
{
	struct attach *a = arg;
	struct fuse_loop *fl = a->fl;
	int control, file, rc = -EBUSY;

	control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (control < 0)
		return error_set_errno(a->e, errno, "cannot open /dev/loop-control");
	file = open(fl->file, (fl->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
	if (file < 0) {
		rc = error_set_errno(a->e, errno, "cannot open our own file %s", fl->file);
		goto out;
	}
	for (unsigned i = 0; i < LOOP_TRIES && rc == -EBUSY; i++)
		rc = bind_loop(fl, control, file, a->e);
	if (rc == -EBUSY)
		error_set(a->e, EBUSY, "others took %u free loop devices before chain '%s' could",
			  LOOP_TRIES, fl->name);
	close(file);
out:
	close(control);
	return rc;
}

struct detach {
	struct fuse_loop *fl;
	bool force;
};

static int detach_call(void *arg)
{
	struct detach *d = arg;
	const char *node = d->fl->node;

	if (!loop_is_ours(node + strlen("/dev/"), d->fl->file))
		return 0;              /* an administrator detached it */
	/* O_EXCL: between this look and CLR_FD no one can mount it */
	return loop_clear(node, d->force ? 0 : O_EXCL);
}

/* --- the server interface --- */

static int co_server_start(const struct server_opts *o, void **priv, struct error *e)
{
	struct fuse_loop *fl = calloc(1, sizeof(*fl));
	struct attach a = { .fl = fl, .e = e };
	char real[4096];
	int rc;

	*priv = NULL;
	/* the kernel reports paths without links in them */
	if (!realpath(o->run_dir, real)) {
		rc = error_set_errno(e, errno, "cannot use the run folder %s", o->run_dir);
		free(fl);
		return rc;
	}
	if (!fl || !(fl->name = strdup(o->name)) || asprintf(&fl->dir, "%s/fuse", real) < 0 ||
	    asprintf(&fl->file, "%s/fuse/%s", real, o->name) < 0)
		abort();               /* at start: before anything depends on us */
	fl->chain = o->chain;
	fl->read_only = chain_read_only(o->chain);
	rc = co_worker_run(chain_reactor(o->chain), clear_stale, fl);
	if (rc < 0) {
		error_set_errno(e, -rc, "cannot unmount what a dead daemon left on %s", fl->dir);
		goto err;
	}
	rc = mount_it(fl, o, e);
	if (rc < 0)
		goto err;
	rc = co_worker_run(chain_reactor(o->chain), attach_call, &a);
	if (rc < 0)
		goto err;
	*priv = fl;
	return 0;
err:
	co_unmount(fl);
	return rc;
}

static int co_server_stop(void *priv, bool force, struct error *e)
{
	struct fuse_loop *fl = priv;
	struct detach d = { .fl = fl, .force = force };
	int rc = co_worker_run(chain_reactor(fl->chain), detach_call, &d);

	if (rc < 0 && !force)
		return rc == -EBUSY ? error_set(e, EBUSY, "%s is in use", fl->node)
				    : error_set(e, EBUSY, "%s cannot be detached: %s", fl->node,
						strerror(-rc));
	/* with force our part goes all the same: the caller is about to close the chain */
	if (rc < 0) {
		log_error("%s cannot be detached, its I/O fails from now on: %s", fl->node,
			  strerror(-rc));
		fl->abort = true;
	} else {
		co_fuse_file_wait_released(fl->srv);
	}
	co_unmount(fl);
	return 0;
}

static int resize_call(void *arg)
{
	struct fuse_loop *fl = arg;
	struct stat st;
	int fd, rc = 0;

	/* attributes are not cached: this makes the kernel ask for the size */
	if (stat(fl->file, &st) < 0)
		return -errno;
	fd = open(fl->node, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, LOOP_SET_CAPACITY) < 0)
		rc = -errno;
	close(fd);
	return rc;
}

static int co_server_resize(void *priv, struct error *e)
{
	struct fuse_loop *fl = priv;
	int rc = co_worker_run(chain_reactor(fl->chain), resize_call, fl);

	return rc < 0 ? error_set_errno(e, -rc, "cannot tell %s its new size", fl->node) : 0;
}

static const char *node(const void *priv)
{
	return ((const struct fuse_loop *)priv)->node;
}

static int usable(struct error *e)
{
	if (geteuid() != 0)
		return error_set(e, EPERM, "a block device needs root; run as root, or use "
				 "--device none to serve sockets only");
	if (access("/dev/fuse", F_OK) < 0)
		return error_set(e, ENODEV, "/dev/fuse is missing; load it with: modprobe fuse");
	if (access("/dev/loop-control", F_OK) < 0)
		return error_set(e, ENODEV, "/dev/loop-control is missing; load it with: "
				 "modprobe loop");
	return 0;
}

const struct server_ops fuse_server_ops = {
	.co_start = co_server_start,
	.co_stop = co_server_stop,
	.co_resize = co_server_resize,
	.node = node,
	.usable = usable,
};
