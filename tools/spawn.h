/* SPDX-License-Identifier: GPL-2.0-or-later */
/* spawn.h - starting and stopping the daemon of a defined chain. */
#ifndef QCHAIN_TOOLS_SPAWN_H
#define QCHAIN_TOOLS_SPAWN_H

#include "io/error.h"

/*
 * Runs "qchaind --name NAME [extra...]" (the qchaind beside this program, else in /usr/sbin
 * and the like, else in PATH) and waits until the chain is up. On failure e carries the
 * daemon's own line. extra: NULL-terminated, NULL = none.
 */
int daemon_spawn(const char *name, const char *const *extra, struct error *e);

/* Stops the chain's daemon and waits until all is gone. -EBUSY-like refusals carry the daemon's words. */
int daemon_quit(const char *name, struct error *e);

#endif
