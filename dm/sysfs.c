// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sysfs.c - what the kernel says about block devices in /sys and /proc.
 *
 * Invariant: no block device is opened and no link is followed into a file system, so
 * nothing here can wait for our own device.
 */
#include "dm/sysfs.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

ssize_t sysfs_read(const char *path, char *buf, size_t len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;
	char *nl;

	if (fd < 0)
		return -errno;
	n = read(fd, buf, len - 1);
	if (n < 0)
		n = -errno;
	close(fd);
	if (n < 0)
		return n;
	buf[n] = '\0';
	nl = strchr(buf, '\n');
	if (nl)
		*nl = '\0';
	return (ssize_t)strlen(buf);
}

/* --- mounts --- */

int mount_list_open(struct mount_list *l)
{
	*l = (struct mount_list){ .f = fopen("/proc/self/mountinfo", "re") };
	return l->f ? 0 : -errno;
}

void mount_list_close(struct mount_list *l)
{
	if (l->f)
		fclose(l->f);
	free(l->line);
}

/* The kernel writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s)
{
	char *out = s;

	for (; *s; s++) {
		if (s[0] == '\\' && isdigit((unsigned char)s[1]) &&
		    isdigit((unsigned char)s[2]) && isdigit((unsigned char)s[3])) {
			*out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
}

bool mount_list_next(struct mount_list *l, struct mount_entry *m)
{
	while (getline(&l->line, &l->cap, l->f) > 0) {
		char *save, *field[6], *p = strstr(l->line, " - ");
		unsigned maj, min;
		int i;

		if (!p)
			continue;
		*p = '\0';
		for (i = 0; i < 5; i++) {
			field[i] = strtok_r(i ? NULL : l->line, " ", &save);
			if (!field[i])
				break;
		}
		if (i < 5 || sscanf(field[2], "%u:%u", &maj, &min) != 2)
			continue;
		unescape(field[4]);
		m->dev = makedev(maj, min);
		m->dir = field[4];
		m->type = strtok_r(p + 3, " ", &save);
		if (m->type)
			return true;
	}
	return false;
}

/* --- users of a block device --- */

static bool used_by_mount(dev_t dev, char *who, size_t len)
{
	struct mount_entry m;
	struct mount_list l;
	bool found = false;

	if (mount_list_open(&l) < 0)
		return false;
	while (!found && mount_list_next(&l, &m)) {
		found = m.dev == dev;
		if (found && who)
			snprintf(who, len, "mounted on %s", m.dir);
	}
	mount_list_close(&l);
	return found;
}

static bool used_by_holder(dev_t dev, const char *not_holder, char *who, size_t len)
{
	char path[80];
	struct dirent *de;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/holders", major(dev), minor(dev));
	d = opendir(path);
	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && !found && (de = readdir(d))) {
		if (de->d_name[0] == '.' || (not_holder && !strcmp(de->d_name, not_holder)))
			continue;
		found = true;
		if (who)
			snprintf(who, len, "held by %s", de->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

/* A loop device over a block device is nobody's holder, and no process has the descriptor. */
static bool used_by_loop(const char *node, char *who, size_t len)
{
	char path[320], backing[SYSFS_MAX];
	DIR *d = opendir("/sys/block");
	struct dirent *de;
	bool found = false;

	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && !found && (de = readdir(d))) {
		if (strncmp(de->d_name, "loop", 4))
			continue;
		snprintf(path, sizeof(path), "/sys/block/%s/loop/backing_file", de->d_name);
		found = sysfs_read(path, backing, sizeof(backing)) > 0 && !strcmp(backing, node);
		if (found && who)
			snprintf(who, len, "held by %s", de->d_name);
	}
	if (d)
		closedir(d);
	return found;
}

static bool used_as_swap(const char *node, char *who, size_t len)
{
	FILE *f = fopen("/proc/swaps", "re");
	char *line = NULL;
	size_t cap = 0, n = strlen(node);
	bool found = false;

	while (f && !found && getline(&line, &cap, f) > 0)
		found = !strncmp(line, node, n) && isspace((unsigned char)line[n]);
	free(line);
	if (f)
		fclose(f);
	if (found && who)
		snprintf(who, len, "used as swap");
	return found;
}

/* readlink only: following the link could ask our own file system. */
static bool process_has_open(const char *pid, const char *node)
{
	char path[300], target[SYSFS_MAX];
	struct dirent *de;
	bool found = false;
	DIR *d;

	snprintf(path, sizeof(path), "/proc/%s/fd", pid);
	d = opendir(path);
	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && !found && (de = readdir(d))) {
		ssize_t n = readlinkat(dirfd(d), de->d_name, target, sizeof(target) - 1);

		if (n <= 0)
			continue;
		target[n] = '\0';
		found = !strcmp(target, node);
	}
	if (d)
		closedir(d);
	return found;
}

static bool used_by_process(const char *node, char *who, size_t len)
{
	DIR *d = opendir("/proc");
	char path[300], comm[32];
	struct dirent *de;
	bool found = false;

	/* cppcheck-suppress readdirCalled ; safe on a stream of our own in glibc */
	while (d && !found && (de = readdir(d))) {
		if (!isdigit((unsigned char)de->d_name[0]) || atoi(de->d_name) == getpid())
			continue;
		if (!process_has_open(de->d_name, node))
			continue;
		found = true;
		snprintf(path, sizeof(path), "/proc/%s/comm", de->d_name);
		if (sysfs_read(path, comm, sizeof(comm)) < 0)
			snprintf(comm, sizeof(comm), "?");
		if (who)
			snprintf(who, len, "open in process %s (%s)", de->d_name, comm);
	}
	if (d)
		closedir(d);
	return found;
}

int block_kernel_name(const char *node, char *name, size_t len)
{
	char path[64], target[SYSFS_MAX];
	struct stat st;
	ssize_t n;

	if (stat(node, &st) < 0)
		return -errno;
	if (!S_ISBLK(st.st_mode))
		return -ENOTBLK;
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(st.st_rdev), minor(st.st_rdev));
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	snprintf(name, len, "%s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
	return 0;
}

bool block_in_use(const char *node, const char *not_holder, char *who, size_t len)
{
	struct stat st;

	if (who && len)
		who[0] = '\0';
	if (stat(node, &st) < 0 || !S_ISBLK(st.st_mode))
		return false;
	return used_by_mount(st.st_rdev, who, len) ||
	       used_by_holder(st.st_rdev, not_holder, who, len) ||
	       used_by_loop(node, who, len) || used_as_swap(node, who, len) ||
	       used_by_process(node, who, len);
}
