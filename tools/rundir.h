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
};

/*
 * Makes the folder, takes the lock, writes our pid and cleans up after a dead predecessor.
 * -EBUSY: "chain 'web' is already served by process 123".
 */
int rundir_take(struct rundir *d, const char *name, struct error *e);
/* Removes socket, pid file and folder, then lets go of the lock. */
void rundir_leave(struct rundir *d);

/* The pid that serves the chain, 0 if none does. */
pid_t rundir_owner(const char *name);
/* Names of all chains that are being served, sorted, NULL-terminated; conf_list_free() frees. */
int rundir_list(char ***out, struct error *e);

#endif
