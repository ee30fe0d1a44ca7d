/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rundir.h - /run/qchain/NAME: one daemon per chain name, known by a lock on its pid file.
 *
 * Invariant: whoever holds the lock owns the folder; what a dead daemon left in
 * it is removed by the next owner, never by anyone else.
 */
#ifndef QCHAIN_TOOLS_RUNDIR_H
#define QCHAIN_TOOLS_RUNDIR_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "io/error.h"
#include "tools/paths.h"

struct rundir {
	char name[CHAIN_NAME_MAX + 1];
	char path[PATH_MAX];
	int pid_fd;                /* holds the lock; -1 = not taken */
	bool after_crash;          /* the predecessor died: the kernel may still be clearing up after it */
};

/*
 * Makes the folder, takes the lock, writes our pid and removes a dead predecessor's sockets. Waits for
 * a predecessor that has been killed and is still on its way out (up to 10 s).
 * -EBUSY: "chain 'web' is already served by process 123".
 *
 * Other files in the folder are notes that the device's maker left for its successor (dm/ublk.c,
 * dm/fuse_loop.c): it reads and removes them, nobody else.
 */
int rundir_take(struct rundir *d, const char *name, struct error *e);
/* Removes sockets, pid file and (if nothing else is in it) the folder, then lets go of the lock. */
void rundir_leave(struct rundir *d);

/* The pid that serves the chain, 0 if none does. */
pid_t rundir_owner(const char *name);
/* Names of all chains that are being served, sorted, NULL-terminated; conf_list_free() frees. */
int rundir_list(char ***out, struct error *e);

#endif
