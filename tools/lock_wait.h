/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * lock_wait.h - the image of a daemon that was killed stays locked until the kernel has taken its
 * ring apart, which goes on for a moment after the process is gone.
 */
#ifndef QCHAIN_TOOLS_LOCK_WAIT_H
#define QCHAIN_TOOLS_LOCK_WAIT_H

#include <stdint.h>

#include "io/reactor.h"

/*
 * Waits until nobody holds a QEMU lock (bytes 100 to 203) on the image `name` (a path, file: or
 * json:), at most timeout_ns. Yields. 0; -ETIMEDOUT; -errno if the image cannot be opened for it.
 */
int co_lock_wait(struct reactor *r, const char *name, uint64_t timeout_ns);

#endif
