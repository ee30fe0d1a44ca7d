/* SPDX-License-Identifier: GPL-2.0-or-later */
/* device_check.c - see device_check.h. */
#include "tools/device_check.h"

#include <errno.h>
#include <unistd.h>

int device_check(enum device_kind kind, struct error *e)
{
	if (kind == DEVICE_NONE)
		return 0;
	if (geteuid() != 0)
		return error_set(e, EPERM, "a block device needs root; run as root, or use --device none");
	if (kind == DEVICE_AUTO && device_best(e) == DEVICE_NONE)
		return e->code ? -e->code : -ENODEV;
	return 0;
}
