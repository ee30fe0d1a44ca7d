/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * size.h - sizes as people type and read them.
 *
 * Typed: a number with an optional suffix b k M G T P E (powers of 1024, either
 * case), a fraction allowed ("1.5G"). Shown: as qemu-img shows them ("64 KiB",
 * "1.5 GiB").
 */
#ifndef QCHAIN_TOOLS_SIZE_H
#define QCHAIN_TOOLS_SIZE_H

#include <stddef.h>
#include <stdint.h>

/* 0, or -EINVAL (not a size), -ERANGE (beyond 2^63-1). `unit` is what a bare number counts in (1 = bytes). */
int size_parse(const char *s, uint64_t unit, uint64_t *out);
/* "512 B", "64 KiB", "1.5 GiB": three significant digits, trailing zeros dropped, as qemu-img prints. Returns buf. */
char *size_human(uint64_t bytes, char *buf, size_t len);

#endif
