// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lock_wait.c - see lock_wait.h. The kernel tells that a lock is free only to who waits for
 * it, and such a wait cannot be given up; so a child waits, which can be killed.
 */
#include "tools/lock_wait.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "qcow/backing.h"

#define FIRST_LOCK_BYTE 100
#define NR_LOCK_BYTES 104

/* In the child: only calls that are safe after fork. */
static _Noreturn void wait_and_exit(const char *path)
{
	struct flock lk = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FIRST_LOCK_BYTE,
			    .l_len = NR_LOCK_BYTES };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0 || fcntl(fd, F_OFD_SETLKW, &lk) < 0)
		_exit(errno < 255 ? errno : EIO);
	_exit(0);
}

static void on_timeout(struct io_timer *t)
{
	kill(*(pid_t *)t->arg, SIGKILL);
}

int co_lock_wait(struct reactor *r, const char *name, uint64_t timeout_ns)
{
	struct image_ref ref = { 0 };
	struct io_timer timer;
	pid_t child;
	int status = 0, ret = image_ref_parse(name, NULL, &ref, NULL);

	if (ret < 0)
		return ret;
	child = fork();
	if (child == 0)
		wait_and_exit(ref.path);
	image_ref_free(&ref);
	if (child < 0)
		return -errno;
	io_timer_init(&timer, on_timeout, &child);
	reactor_timer_arm(r, &timer, timeout_ns);
	ret = co_child_wait(r, child, &status);
	reactor_timer_cancel(r, &timer);
	if (ret < 0)
		return ret;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -ETIMEDOUT;
}
