/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * names.h - private to dm/: the links /dev/qchainN and /dev/qchain/NAME.
 *
 * They live in QCHAIN_DEVDIR (default /dev). A link is made by symlink(2) while the
 * folder is locked with flock(2), so two daemons never get one number, and none takes a
 * live device's name. Links whose device is gone are a dead daemon's, and are removed.
 */
#ifndef QCHAIN_DM_NAMES_H
#define QCHAIN_DM_NAMES_H

#include <stdbool.h>

#include "io/error.h"

struct names {
	char *by_number;       /* "/dev/qchain0" */
	char *by_name;         /* "/dev/qchain/NAME" */
	char *target;          /* what both name */
	int number;
};

/*
 * Claims both links for target. number: the wanted one, or -1 for the lowest free;
 * strict: fail with -EEXIST when it is taken, else take the next free one. Links that
 * already name target are taken over. -EEXIST with a sentence if NAME is a live device of another.
 */
int names_claim(struct names *n, const char *name, int number, bool strict, const char *target,
		struct error *e);
/* Removes the links that still name our target, and frees. */
void names_release(struct names *n);

/* True if node is a block device that still has someone behind it (a bound loop, a dm or ublk device). */
bool names_target_alive(const char *node);

#endif
