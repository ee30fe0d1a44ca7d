/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * dmsetup.h - private to dm/: the device-mapper device that lies over a server's node.
 *
 * One linear target over the whole node, name "qchain-NAME", UUID "QCHAIN-NAME". It
 * outlives its server: a table that a dead daemon left is taken over with its holders.
 * Every call may wait for I/O to the node below: co_worker_run() only.
 */
#ifndef QCHAIN_DM_DMSETUP_H
#define QCHAIN_DM_DMSETUP_H

#include <stdbool.h>
#include <stdint.h>

#include "io/error.h"

/* The kernel has device-mapper (no call into it is made). */
bool dmsetup_present(void);

/*
 * Makes the device over `below`, or points the one of this name and UUID at it. *node
 * gets "/dev/mapper/qchain-NAME" as libdevmapper mangles it (caller frees).
 */
int dmsetup_create(const char *name, const char *below, bool read_only, char **node, struct error *e);
/* Loads a table for the present size of `below`. */
int dmsetup_resize(const char *name, const char *below, bool read_only, struct error *e);
/* -EBUSY if it is open. A device that is not there counts as removed. */
int dmsetup_remove(const char *name, struct error *e);

#endif
