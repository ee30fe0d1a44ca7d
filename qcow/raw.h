/* SPDX-License-Identifier: GPL-2.0-or-later */
/* raw.h - private to qcow/: the raw format, or a window in a file, as a layer. */
#ifndef QCHAIN_QCOW_RAW_H
#define QCHAIN_QCOW_RAW_H

#include "qcow/layer.h"

#define RAW_UNIT    512u
#define RAW_CLUSTER (64u << 10)

struct raw {
	struct file *file;
	uint64_t off;                  /* where guest byte 0 is; multiple of 512 */
	uint64_t size;                 /* virtual, multiple of 512; up to 511 bytes more than the file has */
	bool writable;                 /* false too after a flush failed */
	const char *fault;             /* why it turned read-only, or NULL */
};

int raw_open(struct raw *raw, struct file *f, const struct layer_opts *o, struct error *e);
int co_raw_extents(struct raw *raw, uint64_t guest_off, uint64_t bytes, struct extent *out, unsigned max);
int co_raw_flush(struct raw *raw);
int co_raw_zero(struct raw *raw, uint64_t guest_off, uint64_t bytes, bool unmap);
int co_raw_discard(struct raw *raw, uint64_t guest_off, uint64_t bytes);

#endif
