// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * names.c - the links /dev/qchainN and /dev/qchain/NAME.
 *
 * Invariant: links change only while the folder's lock is held; a link is removed or
 * replaced only if it names our target or a target that is no live device.
 */
#include "dm/names.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "dm/sysfs.h"
#include "io/log.h"

#define NUMBER_MAX 65535

static const char *dev_dir(void)
{
	const char *dir = getenv("QCHAIN_DEVDIR");

	return dir && *dir ? dir : "/dev";
}

static int lock_dir(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	while (flock(fd, LOCK_EX) < 0) {
		if (errno != EINTR) {
			int rc = -errno;

			close(fd);
			return rc;
		}
	}
	return fd;
}

/* A loop device lives on in /dev when it serves something else, or a FUSE file with no daemon behind it. */
static bool loop_alive(const char *kname)
{
	char path[64], backing[SYSFS_MAX];
	struct statfs sf;

	snprintf(path, sizeof(path), "/sys/block/%.32s/loop/backing_file", kname);
	if (sysfs_read(path, backing, sizeof(backing)) < 0)
		return false;
	return statfs(backing, &sf) == 0 && sf.f_type == FUSE_SUPER_MAGIC;
}

bool names_target_alive(const char *node)
{
	char real[4096];
	const char *base;
	struct stat st;

	if (!realpath(node, real) || stat(real, &st) < 0 || !S_ISBLK(st.st_mode))
		return false;
	base = strrchr(real, '/') + 1;
	return strncmp(base, "loop", 4) || loop_alive(base);
}

static bool names_this(const char *link, const char *target)
{
	char old[4096];
	ssize_t n = readlink(link, old, sizeof(old) - 1);

	if (n < 0)
		return false;
	old[n] = '\0';
	return !strcmp(old, target);
}

static bool is_link(DIR *d, const char *name)
{
	struct stat st;

	return fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode);
}

/*
 * Removes what dead daemons left: links to nothing alive, and links to the node that is
 * now ours, which would lend our bytes another chain's name. A server that took its
 * device up again keeps its links: `own`, and the one whose number is returned (else -1).
 */
static int sweep(const char *dir, const char *prefix, const char *own, const char *target)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	char link[8192];
	int kept = -1;

	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && (de = readdir(d))) {
		const char *number = de->d_name + strlen(prefix);

		if (!is_link(d, de->d_name) || strncmp(de->d_name, prefix, strlen(prefix)) ||
		    (*prefix && (!*number || number[strspn(number, "0123456789")])))
			continue;
		snprintf(link, sizeof(link), "%s/%s", dir, de->d_name);
		if (names_this(link, target) && own && !strcmp(de->d_name, own))
			continue;
		if (names_this(link, target) && *prefix && kept < 0) {
			kept = atoi(number);
			continue;
		}
		if (!names_this(link, target) && names_target_alive(link))
			continue;
		log_warn("removing %s, left behind by a daemon that died", link);
		if (unlink(link) < 0)
			log_warn("cannot remove %s: %m", link);
	}
	if (d)
		closedir(d);
	return kept;
}

/* 0: made, or ours already; -EEXIST: a live device's, or no link at all. */
static int claim(const char *link, const char *target)
{
	if (symlink(target, link) == 0)
		return 0;
	if (errno != EEXIST)
		return -errno;
	return names_this(link, target) ? 0 : -EEXIST;
}

static char *number_path(int number)
{
	char *p = NULL;

	return asprintf(&p, "%s/qchain%d", dev_dir(), number) < 0 ? NULL : p;
}

static void forget_number(int number)
{
	char *link = number_path(number);

	if (link && unlink(link) < 0)
		log_warn("cannot remove %s: %m", link);
	free(link);
}

static int claim_number(struct names *n, int wanted, bool strict, struct error *e)
{
	int rc = -EEXIST;

	for (int i = wanted >= 0 ? wanted : 0; i <= NUMBER_MAX; i++) {
		n->by_number = number_path(i);
		if (!n->by_number)
			return error_set(e, ENOMEM, "out of memory");
		rc = claim(n->by_number, n->target);
		if (rc == 0) {
			n->number = i;
			return 0;
		}
		if (rc != -EEXIST)
			return error_set_errno(e, -rc, "cannot make the link %s", n->by_number);
		if (strict && wanted >= 0)
			return error_set(e, EEXIST, "%s is taken by another device; choose another "
					 "number or none", n->by_number);
		free(n->by_number);
		n->by_number = NULL;
	}
	return error_set(e, ENOSPC, "all numbers of %s/qchainN up to %d are taken", dev_dir(),
			 NUMBER_MAX);
}

static int claim_name(struct names *n, const char *name, struct error *e)
{
	char dir[4096];
	int rc;

	snprintf(dir, sizeof(dir), "%s/qchain", dev_dir());
	if (mkdir(dir, 0755) < 0 && errno != EEXIST)
		return error_set_errno(e, errno, "cannot make the folder %s", dir);
	if (asprintf(&n->by_name, "%s/%s", dir, name) < 0) {
		n->by_name = NULL;
		return error_set(e, ENOMEM, "out of memory");
	}
	rc = claim(n->by_name, n->target);
	if (rc == -EEXIST)
		return error_set(e, EEXIST, "%s exists and is another device's; choose another "
				 "name for the chain", n->by_name);
	return rc < 0 ? error_set_errno(e, -rc, "cannot make the link %s", n->by_name) : 0;
}

static void drop(char **link, const char *target)
{
	if (*link && names_this(*link, target) && unlink(*link) < 0)
		log_warn("cannot remove %s: %m", *link);
	free(*link);
	*link = NULL;
}

static void drop_all(struct names *n)
{
	char dir[4096];

	drop(&n->by_number, n->target);
	drop(&n->by_name, n->target);
	snprintf(dir, sizeof(dir), "%s/qchain", dev_dir());
	if (rmdir(dir) < 0 && errno != ENOTEMPTY && errno != EEXIST && errno != ENOENT)
		log_warn("cannot remove %s: %m", dir);
	free(n->target);
	n->target = NULL;
}

int names_claim(struct names *n, const char *name, int number, bool strict, const char *target,
		struct error *e)
{
	char dir[4096];
	int lock, rc, kept;

	*n = (struct names){ .number = -1, .target = strdup(target) };
	if (!n->target)
		return error_set(e, ENOMEM, "out of memory");
	lock = lock_dir(dev_dir());
	if (lock < 0) {
		rc = error_set_errno(e, -lock, "cannot lock the folder %s", dev_dir());
		goto err;
	}
	snprintf(dir, sizeof(dir), "%s/qchain", dev_dir());
	sweep(dir, "", name, target);
	rc = claim_name(n, name, e);
	if (rc < 0) {
		/* the name is someone else's: drop_all() must not even look at it */
		free(n->by_name);
		n->by_name = NULL;
		goto err;
	}
	kept = sweep(dev_dir(), "qchain", NULL, target);
	if (kept >= 0 && number >= 0 && kept != number) {
		forget_number(kept);
		kept = -1;
	}
	rc = claim_number(n, kept >= 0 ? kept : number, strict, e);
	if (rc < 0) {
		free(n->by_number);
		n->by_number = NULL;
		goto err;
	}
	close(lock);
	return 0;
err:
	drop_all(n);
	if (lock >= 0)
		close(lock);
	return rc;
}

void names_release(struct names *n)
{
	int lock;

	if (!n->target)
		return;
	lock = lock_dir(dev_dir());
	if (lock < 0)
		log_warn("cannot lock the folder %s: %s", dev_dir(), strerror(-lock));
	drop_all(n);
	if (lock >= 0)
		close(lock);
}
