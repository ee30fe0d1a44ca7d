// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * dmsetup.c - the device-mapper device that lies over a server's node.
 *
 * libdevmapper keeps state for the whole process (its log, its list of node
 * operations), so calls are made one at a time under one lock.
 *
 * Invariant: a device is touched only if its UUID is the one we would give it.
 */
#include "dm/dmsetup.h"

#include <errno.h>
#include <fcntl.h>
#include <libdevmapper.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <syslog.h>
#include <unistd.h>

#include "io/log.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* libdevmapper's last complaint, for the sentence; under lock */
static char complaint[512];

__attribute__((format(printf, 5, 6)))
static void dm_said(int level, const char *file, int line, int err, const char *fmt, ...)
{
	char msg[sizeof(complaint)];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(msg, sizeof(msg), fmt, ap);
	va_end(ap);
	/* syslog's levels, with flags above */
	if ((level & 7) <= LOG_ERR)
		memcpy(complaint, msg, sizeof(complaint));
	if ((level & 7) <= LOG_WARNING)
		log_debug("device-mapper: %s", msg);
}

static void begin(void)
{
	pthread_mutex_lock(&lock);
	complaint[0] = '\0';
	dm_log_with_errno_init(dm_said);
	dm_set_name_mangling_mode(DM_STRING_MANGLING_HEX);
}

static void end(void)
{
	dm_lib_release();
	pthread_mutex_unlock(&lock);
}

bool dmsetup_present(void)
{
	return access("/sys/class/misc/device-mapper", F_OK) == 0 ||
	       access("/dev/mapper/control", F_OK) == 0;
}

/* --- tasks --- */

static struct dm_task *task(int type, const char *name)
{
	struct dm_task *t = dm_task_create(type);
	char full[512];

	snprintf(full, sizeof(full), "qchain-%s", name);
	if (t && !dm_task_set_name(t, full)) {
		dm_task_destroy(t);
		return NULL;
	}
	return t;
}

/* Runs t with a udev cookie (udev, if it runs, has then made its links) and frees it. 0 or -errno. */
static int run_and_free(struct dm_task *t, bool wait_udev, struct dm_info *info)
{
	uint32_t cookie = 0;
	int rc = 0;

	if (wait_udev && !dm_task_set_cookie(t, &cookie, 0)) {
		dm_task_destroy(t);
		return -EIO;
	}
	if (!dm_task_run(t))
		rc = -(dm_task_get_errno(t) ? dm_task_get_errno(t) : EIO);
	if (wait_udev)
		dm_udev_wait(cookie);
	if (rc == 0 && info && !dm_task_get_info(t, info))
		rc = -EIO;
	dm_task_destroy(t);
	return rc;
}

static int fail(struct error *e, int rc, const char *what, const char *name)
{
	return error_set(e, -rc, "device-mapper cannot %s qchain-%s: %s", what, name,
			 complaint[0] ? complaint : strerror(-rc));
}

/* 1: it exists and is ours; 0: there is none; -EEXIST: another's. */
static int look(const char *name, struct dm_info *info)
{
	struct dm_task *t = task(DM_DEVICE_INFO, name);
	char want[512];
	int rc = 0;

	if (!t)
		return -ENOMEM;
	snprintf(want, sizeof(want), "QCHAIN-%s", name);
	if (!dm_task_run(t) || !dm_task_get_info(t, info)) {
		rc = dm_task_get_errno(t) == ENXIO ? 0 : -EIO;
		memset(info, 0, sizeof(*info));
	} else if (info->exists) {
		const char *uuid = dm_task_get_uuid(t);

		rc = uuid && !strcmp(uuid, want) ? 1 : -EEXIST;
	}
	dm_task_destroy(t);
	return rc;
}

/* --- tables --- */

static int node_size(const char *below, uint64_t *sectors, dev_t *dev)
{
	int fd = open(below, O_RDONLY | O_CLOEXEC), rc = 0;
	uint64_t bytes;
	struct stat st;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0 || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		rc = -errno;
	close(fd);
	if (rc < 0)
		return rc;
	*sectors = bytes / 512;
	*dev = st.st_rdev;
	return 0;
}

static int add_table(struct dm_task *t, const char *below, bool read_only)
{
	uint64_t sectors = 0;
	char params[64];
	dev_t dev = 0;
	int rc = node_size(below, &sectors, &dev);

	if (rc < 0)
		return rc;
	snprintf(params, sizeof(params), "%u:%u 0", major(dev), minor(dev));
	if (!dm_task_add_target(t, 0, sectors, "linear", params) ||
	    (read_only && !dm_task_set_ro(t)))
		return -ENOMEM;
	return 0;
}

static int create_new(const char *name, const char *below, bool read_only, struct error *e)
{
	struct dm_task *t = task(DM_DEVICE_CREATE, name);
	char uuid[512];
	int rc = -ENOMEM;

	if (!t)
		return fail(e, rc, "make", name);
	snprintf(uuid, sizeof(uuid), "QCHAIN-%s", name);
	if (dm_task_set_uuid(t, uuid))
		rc = add_table(t, below, read_only);
	if (rc < 0) {
		dm_task_destroy(t);
		return fail(e, rc, "make", name);
	}
	rc = run_and_free(t, true, NULL);
	return rc < 0 ? fail(e, rc, "make", name) : 0;
}

/* A table swap: the holders of the device notice nothing but the new size or node. */
static int reload(const char *name, const char *below, bool read_only, struct error *e)
{
	struct dm_task *t = task(DM_DEVICE_RELOAD, name);
	int rc = t ? add_table(t, below, read_only) : -ENOMEM;

	if (rc < 0) {
		if (t)
			dm_task_destroy(t);
		return fail(e, rc, "load a table for", name);
	}
	rc = run_and_free(t, false, NULL);
	if (rc < 0)
		return fail(e, rc, "load a table for", name);
	t = task(DM_DEVICE_RESUME, name);
	rc = t ? run_and_free(t, true, NULL) : -ENOMEM;
	return rc < 0 ? fail(e, rc, "resume", name) : 0;
}

static int node_path(const char *name, char **node)
{
	struct dm_task *t = task(DM_DEVICE_INFO, name);
	char *mangled = NULL;
	int rc = -ENOMEM;

	if (t && dm_task_run(t))
		mangled = dm_task_get_name_mangled(t);
	if (mangled && asprintf(node, "%s/%s", dm_dir(), mangled) >= 0)
		rc = 0;
	dm_free(mangled);
	if (t)
		dm_task_destroy(t);
	return rc;
}

/* --- what the header offers --- */

int dmsetup_create(const char *name, const char *below, bool read_only, char **node, struct error *e)
{
	struct dm_info info;
	int rc;

	*node = NULL;
	begin();
	rc = look(name, &info);
	if (rc == -EEXIST)
		error_set(e, EEXIST, "device-mapper already has a device 'qchain-%s' that is not "
			  "this chain's; remove it with: dmsetup remove qchain-%s", name, name);
	else if (rc < 0)
		fail(e, rc, "look for", name);
	else if (rc == 1)
		rc = reload(name, below, read_only, e);
	else
		rc = create_new(name, below, read_only, e);
	if (rc == 0) {
		rc = node_path(name, node);
		if (rc < 0)
			fail(e, rc, "name", name);
	}
	end();
	return rc;
}

int dmsetup_resize(const char *name, const char *below, bool read_only, struct error *e)
{
	int rc;

	begin();
	rc = reload(name, below, read_only, e);
	end();
	return rc;
}

int dmsetup_remove(const char *name, struct error *e)
{
	struct dm_info info;
	struct dm_task *t;
	int rc;

	begin();
	rc = look(name, &info);
	if (rc <= 0)
		goto out;
	t = task(DM_DEVICE_REMOVE, name);
	rc = t ? run_and_free(t, true, NULL) : -ENOMEM;
	if (rc == -ENXIO)
		rc = 0;
	if (rc < 0)
		fail(e, rc, "remove", name);
out:
	end();
	return rc == -EEXIST ? 0 : rc;
}
