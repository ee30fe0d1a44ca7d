/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * create_layout.h - private to qcow/: where the tables of a new qcow2 image go, and writing them.
 *
 * QEMU makes an image by opening an empty one and growing it with its ordinary
 * allocator. We compute the same places first, in memory, and then write each
 * table once. So images come out as QEMU's do, and nothing is half grown when a write fails.
 */
#ifndef QCHAIN_QCOW_CREATE_LAYOUT_H
#define QCHAIN_QCOW_CREATE_LAYOUT_H

#include "qcow/create.h"
#include "qcow/qcow2.h"

/* Guest clusters [guest, +nr) lie at host clusters [host, +nr). */
struct layout_run {
	uint64_t guest, host, nr;
};

struct layout {
	/* set by layout_init() */
	unsigned cluster_bits, refcount_order, l2_bits, l2_entry_bytes;
	uint64_t unit;                 /* bytes of a subcluster, or cluster */
	uint64_t refs_per_block;       /* clusters that one refcount block describes */
	uint64_t slice;                /* L2 entries that QEMU's allocator handles in one go */
	bool external;                 /* guest data are in another file, at their guest offset */

	/* the state of the allocator; in clusters */
	uint64_t *used;                /* a bit each */
	uint64_t nr_used_words;
	uint64_t free_index;           /* where to search from */
	uint64_t *reft;                /* cluster of each refcount block; 0 = none */
	uint64_t reft_size, reft_at;

	/* the result */
	uint64_t l1_at, l1_size;
	uint64_t *l1;                  /* cluster of each L2 table; 0 = none */
	struct layout_run *runs;       /* in guest order */
	size_t nr_runs;
	uint64_t data_start, data_end; /* bytes: preallocated space of the data file; equal if none */
};

/* 0, -ENOMEM, or -EFBIG: more than the format's tables can hold. h: cluster_bits, size, features, refcount_order. */
int layout_init(struct layout *lo, const struct qcow2_disk_header *h, enum prealloc prealloc);
void layout_free(struct layout *lo);
/* Puts the places of L1 and refcount table into h. */
void layout_fill_header(const struct layout *lo, struct qcow2_disk_header *h);
/* First byte after everything that co_layout_write() writes. */
uint64_t layout_file_end(const struct layout *lo);
/* Writes refcount table and blocks, L1 and L2 tables. Not the header. */
int co_layout_write(const struct layout *lo, struct file *f);

#endif
