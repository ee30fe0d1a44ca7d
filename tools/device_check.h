/* SPDX-License-Identifier: GPL-2.0-or-later */
/* device_check.h - can this user on this kernel have such a device? Asked before anything is changed. */
#ifndef QCHAIN_TOOLS_DEVICE_CHECK_H
#define QCHAIN_TOOLS_DEVICE_CHECK_H

#include "dm/device.h"

/* 0, or -EPERM / -ENODEV with a sentence that ends in the remedy. */
int device_check(enum device_kind kind, struct error *e);

#endif
