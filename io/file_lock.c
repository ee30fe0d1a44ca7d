// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * file_lock.c - the byte locks by which QEMU tools keep out of each other's way,
 * so that they and we refuse an image in use.
 *
 * Rules (QEMU, block/file-posix.c): a process that holds permission n has a shared
 * OFD lock on byte 100 + n; one that denies permission n to others has a shared
 * lock on byte 200 + n. Whoever takes a permission or a denial then looks whether
 * anybody has the counterpart. The order (lock, then look) makes two that come
 * at once see each other.
 *
 * Invariant: after file_lock_apply() the descriptor has exactly the locks it
 * reports: all of the new ones, or on error all of the old ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "io/file_priv.h"
#include "io/log.h"

#define LOCK_HELD_BASE 100
#define LOCK_DENIED_BASE 200

enum {
	PERM_CONSISTENT_READ = 1 << 0,
	PERM_WRITE = 1 << 1,
	PERM_WRITE_UNCHANGED = 1 << 2,
	PERM_RESIZE = 1 << 3,
};
#define NR_PERMS 4

static const char *const perm_names[NR_PERMS] = {
	"consistent read", "write", "write unchanged", "resize",
};

struct file_perms file_perms_for(bool writable, bool share_write)
{
	struct file_perms p = { .held = PERM_CONSISTENT_READ };

	if (writable)
		p.held |= PERM_WRITE | PERM_RESIZE;
	if (!share_write)
		p.denied = PERM_WRITE | PERM_RESIZE;
	return p;
}

static int set_lock(int fd, short type, off_t byte, off_t len)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = len };

	return fcntl(fd, F_OFD_SETLK, &fl) < 0 ? -errno : 0;
}

static bool held_by_other(int fd, off_t byte)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

/* Takes the locks in `want` and drops those not in it; `drop` false leaves the latter. */
static int set_bytes(int fd, int base, unsigned want, bool drop)
{
	for (int n = 0; n < NR_PERMS; n++) {
		int rc = 0;

		if (want & (1u << n))
			rc = set_lock(fd, F_RDLCK, base + n, 1);
		else if (drop)
			rc = set_lock(fd, F_UNLCK, base + n, 1);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int set_perms(int fd, struct file_perms p, bool drop)
{
	int rc = set_bytes(fd, LOCK_HELD_BASE, p.held, drop);

	return rc < 0 ? rc : set_bytes(fd, LOCK_DENIED_BASE, p.denied, drop);
}

/* Is there somebody who denies what we hold, or holds what we deny? */
static int check_conflict(int fd, const char *path, struct file_perms p, struct error *e)
{
	for (int n = 0; n < NR_PERMS; n++) {
		if ((p.held & (1u << n)) && held_by_other(fd, LOCK_DENIED_BASE + n))
			return error_set(e, EAGAIN, "'%s' is in use by another process, which does not "
					 "share the %s permission (%s lock)", path, perm_names[n],
					 perm_names[n]);
		if ((p.denied & (1u << n)) && held_by_other(fd, LOCK_HELD_BASE + n))
			return error_set(e, EAGAIN, "'%s' is in use by another process (%s lock)",
					 path, perm_names[n]);
	}
	return 0;
}

static bool no_locks_here(int rc)
{
	return rc == -EINVAL || rc == -ENOLCK || rc == -EOPNOTSUPP || rc == -ENOSYS ||
	       rc == -ENOTTY;
}

int file_lock_apply(int fd, const char *path, struct file_perms cur, struct file_perms want,
		    struct error *e)
{
	int rc = set_perms(fd, want, false);

	if (no_locks_here(rc)) {
		log_debug("'%s' is on a file system without OFD locks: opened without", path);
		return 0;
	}
	if (rc == -EAGAIN || rc == -EACCES)
		rc = error_set(e, EAGAIN, "'%s' is in use by another process (exclusive lock)", path);
	else if (rc < 0)
		error_set_errno(e, -rc, "cannot lock '%s'", path);
	else
		rc = check_conflict(fd, path, want, e);
	/* dropping a lock cannot conflict, and taking back what we had all along cannot either */
	set_perms(fd, rc < 0 ? cur : want, true);
	return rc;
}

void file_lock_take(int fd, struct file_perms p)
{
	set_perms(fd, p, false);
}

void file_unlock(int fd)
{
	set_lock(fd, F_UNLCK, 0, 0);
}
