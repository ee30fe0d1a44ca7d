/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * check.h - is an image sound? Counts every reference from the header down and holds it
 * against the stored refcounts, independently of the caches that serve I/O.
 */
#ifndef QCHAIN_QCOW_CHECK_H
#define QCHAIN_QCOW_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "io/error.h"
#include "qcow/layer.h"

#define CHECK_FIX_LEAKS  1u
#define CHECK_FIX_ERRORS 2u

struct check_result {
	uint64_t corruptions, leaks, check_errors;
	uint64_t corruptions_fixed, leaks_fixed;
	uint64_t image_end_offset;
	uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
};

/*
 * Checks (and with `fix` repairs: the layer must be writable and have no requests).
 * report, if given, gets one line a finding, in qemu-img check's words. Memory: 8 bytes a
 * host cluster at most, bounded by the file's size, never by a number in the header. May yield.
 * Returns -errno only if it could not go on; findings are counts.
 */
int co_layer_check(struct layer *l, unsigned fix, struct check_result *out,
		   void (*report)(void *arg, const char *line), void *arg, struct error *e);

#endif
