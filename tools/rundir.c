/* SPDX-License-Identifier: GPL-2.0-or-later */
/* rundir.c - see rundir.h. */
#include "tools/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DYING_WAIT_MS 10000

static pid_t pid_read(int fd)
{
	char text[32] = "";
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	return n > 0 ? (pid_t)strtol(text, NULL, 10) : 0;
}

static void sockets_remove(const struct rundir *d)
{
	DIR *dir = opendir(d->path);
	struct dirent *entry;

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		char path[PATH_MAX + 260];
		struct stat st;

		snprintf(path, sizeof(path), "%s/%s", d->path, entry->d_name);
		if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
			unlink(path);
	}
	closedir(dir);
}

static int pid_write(struct rundir *d, struct error *e)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());

	if (ftruncate(d->pid_fd, 0) < 0 || pwrite(d->pid_fd, text, (size_t)len, 0) != len)
		return error_set_errno(e, errno ? errno : EIO, "cannot write '%s/pid'", d->path);
	return 0;
}

/* Bit 2 of the flags in /proc/PID/stat: the process is exiting; a pending SIGKILL comes before that. */
static bool is_dying(pid_t pid)
{
	char path[64], line[1024], *field;
	unsigned long flags = 0;
	FILE *f;
	bool dying = false;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	f = fopen(path, "re");
	if (!f)
		return true;
	if (fgets(line, sizeof(line), f) && (field = strrchr(line, ')')))
		dying = sscanf(field + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1 && (flags & 4);
	fclose(f);
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "SigPnd: %lx", &flags) == 1 || sscanf(line, "ShdPnd: %lx", &flags) == 1)
			dying |= flags >> (SIGKILL - 1) & 1;
	if (f)
		fclose(f);
	return dying;
}

/* True if the process that holds the lock was on its way out and is gone now. */
static bool wait_for_dying(pid_t pid)
{
	struct pollfd p = { .fd = -1, .events = POLLIN };
	bool gone = false;

	if (pid <= 0)
		return false;
	p.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (p.fd < 0)
		return errno == ESRCH;
	if (is_dying(pid))
		gone = poll(&p, 1, DYING_WAIT_MS) == 1;
	close(p.fd);
	return gone;
}

int rundir_take(struct rundir *d, const char *name, struct error *e)
{
	char pid_path[PATH_MAX];
	struct stat ours, there;
	pid_t waited_for = 0;
	int ret, fd;

	d->pid_fd = -1;
	d->after_crash = false;
	snprintf(d->name, sizeof(d->name), "%s", name);
	run_path(d->path, sizeof(d->path), name, NULL);
	run_path(pid_path, sizeof(pid_path), name, "pid");
again:
	ret = dir_make(d->path, 0755, "QCHAIN_RUNDIR", e);
	if (ret < 0)
		return ret;
	fd = open(pid_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0 && errno == ENOENT)
		goto again;        /* the predecessor removed the folder just now */
	if (fd < 0) {
		int err = errno;

		return error_set(e, err, "cannot open '%s': %s%s", pid_path, strerror(err),
				 err == EACCES ? "; run as root, or set QCHAIN_RUNDIR to a folder of your own" : "");
	}
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		pid_t pid = pid_read(fd);

		close(fd);
		if (pid != waited_for && wait_for_dying(pid)) {
			waited_for = pid;
			goto again;
		}
		return error_set(e, EBUSY, "it is already served by process %d; stop that with 'qcchange -an %s'",
				 (int)pid, name);
	}
	/* The predecessor may have removed the file between open and lock: then it is not the one that counts. */
	if (fstat(fd, &ours) < 0 || stat(pid_path, &there) < 0 || ours.st_ino != there.st_ino ||
	    ours.st_dev != there.st_dev) {
		close(fd);
		goto again;
	}
	d->pid_fd = fd;
	d->after_crash = pid_read(fd) > 0;     /* whoever ends well takes the file away */
	sockets_remove(d);
	ret = pid_write(d, e);
	if (ret < 0)
		rundir_leave(d);
	return ret;
}

void rundir_leave(struct rundir *d)
{
	char pid_path[PATH_MAX];

	if (d->pid_fd < 0)
		return;
	sockets_remove(d);
	unlink(run_path(pid_path, sizeof(pid_path), d->name, "pid"));
	rmdir(d->path);
	close(d->pid_fd);
	d->pid_fd = -1;
}

pid_t rundir_owner(const char *name)
{
	char pid_path[PATH_MAX];
	pid_t pid = 0;
	int fd;

	fd = open(run_path(pid_path, sizeof(pid_path), name, "pid"), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0)
		return 0;
	if (flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK)
		pid = pid_read(fd);
	close(fd);
	return pid;
}

static int owned_filter(const struct dirent *entry)
{
	return chain_name_check(entry->d_name, NULL) == 0 && rundir_owner(entry->d_name) > 0;
}

int rundir_list(char ***out, struct error *e)
{
	struct dirent **found = NULL;
	char **names;
	int n;

	n = scandir(run_base(), &found, owned_filter, alphasort);
	if (n < 0 && errno != ENOENT)
		return error_set_errno(e, errno, "cannot read folder %s", run_base());
	if (n < 0)
		n = 0;
	names = calloc((size_t)n + 1, sizeof(*names));
	if (!names)
		abort();
	for (int i = 0; i < n; i++) {
		names[i] = strdup(found[i]->d_name);
		if (!names[i])
			abort();
		free(found[i]);
	}
	free(found);
	*out = names;
	return 0;
}
