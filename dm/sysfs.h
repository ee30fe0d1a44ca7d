/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sysfs.h - private to dm/: what the kernel says about block devices in /sys and /proc.
 *
 * Nothing here opens a block device or waits for one, so all of it may be
 * called from the reactor's thread.
 */
#ifndef QCHAIN_DM_SYSFS_H
#define QCHAIN_DM_SYSFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/types.h>

#define SYSFS_MAX 4200

/* First line of a small file, without its newline; length or -errno. */
ssize_t sysfs_read(const char *path, char *buf, size_t len);

struct mount_entry {
	dev_t dev;
	const char *dir;       /* unescaped; valid until the next call */
	const char *type;
};
struct mount_list {
	FILE *f;
	char *line;
	size_t cap;
};
int mount_list_open(struct mount_list *l);
bool mount_list_next(struct mount_list *l, struct mount_entry *m);
void mount_list_close(struct mount_list *l);

/* The kernel's name ("dm-0") of a block device node, whatever the node is called. 0 or -errno. */
int block_kernel_name(const char *node, char *name, size_t len);

/*
 * Who uses the block device at node ("/dev/loop3"): a mount, a device above it other than
 * `not_holder` (a kernel name, may be NULL), swap, or a process that has it open. One
 * sentence part goes to who ("mounted on /mnt").
 */
bool block_in_use(const char *node, const char *not_holder, char *who, size_t len);

#endif
