// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * check_tables.c - what internal snapshots and stored bitmaps refer to.
 *
 * Both are lists of entries of variable length; every length in them is held
 * against the file before it is believed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/check_priv.h"

struct disk_snapshot {
	uint64_t l1_table_offset;
	uint32_t l1_size;
	uint16_t id_size, name_size;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint32_t vm_state_size, extra_size;
} __attribute__((packed));
static_assert(sizeof(struct disk_snapshot) == 40, "snapshot table entry");

struct disk_bitmaps_ext {
	uint32_t nb_bitmaps, reserved;
	uint64_t directory_size, directory_offset;
} __attribute__((packed));
static_assert(sizeof(struct disk_bitmaps_ext) == 24, "bitmaps extension");

struct disk_bitmap {
	uint64_t table_offset;
	uint32_t table_size, flags;
	uint8_t type, granularity_bits;
	uint16_t name_size;
	uint32_t extra_size;
} __attribute__((packed));
static_assert(sizeof(struct disk_bitmap) == 24, "bitmap directory entry");

#define BITMAP_TABLE_MAX (8u << 20 >> 3)       /* entries; QEMU's limit is of the same order */
#define BITMAP_OFFSET_MASK 0x00fffffffffffe00ull
#define BITMAP_RESERVED 0xff000000000001feull

static uint64_t round8(uint64_t v)
{
	return (v + 7) & ~7ull;
}

int co_check_snapshots(struct check *c)
{
	struct qcow2 *q = c->q;
	const struct qcow2_disk_header *h = &q->hdr.h;
	uint64_t at = h->snapshots_offset;
	struct disk_snapshot s;
	uint32_t i;
	int r = 0;

	for (i = 0; i < h->nb_snapshots && !r; i++) {
		uint64_t l1_off, l1_size;

		if (at + sizeof(s) > c->file_len) {
			check_corrupt(c, "ERROR snapshot table entry %u is outside the file", i);
			break;
		}
		r = co_file_read(q->file, at, &s, sizeof(s));
		if (r < 0)
			break;
		l1_off = be64toh(s.l1_table_offset);
		l1_size = be32toh(s.l1_size);
		at += round8(sizeof(s) + (uint64_t)be32toh(s.extra_size) + be16toh(s.id_size) +
			     be16toh(s.name_size));
		if (l1_off & cluster_mask(q))
			check_corrupt(c, "ERROR snapshot %u l1_offset=0x%" PRIx64 ": L1 table is not cluster "
				      "aligned; snapshot table entry corrupted", i, l1_off);
		else if (l1_size > QCOW2_MAX_L1_BYTES / 8)
			check_corrupt(c, "ERROR snapshot %u l1_size=0x%" PRIx64 ": L1 table is too large; "
				      "snapshot table entry corrupted", i, l1_size);
		else
			r = co_check_l1(c, l1_off, (uint32_t)l1_size, false);
	}
	if (!r && h->nb_snapshots)
		check_ref(c, h->snapshots_offset, at - h->snapshots_offset);
	return r;
}

static int co_check_bitmap_table(struct check *c, uint64_t off, uint32_t entries)
{
	uint64_t bytes = (uint64_t)entries * 8, *table;
	uint32_t i;
	int r;

	check_ref(c, off, bytes);
	if (!entries || off >= c->file_len || !check_followable(c, off, bytes))
		return 0;
	table = buf_alloc(bytes);
	if (!table)
		return -ENOMEM;
	r = co_file_read(c->q->file, off, table, bytes);
	for (i = 0; i < entries && !r; i++) {
		uint64_t entry = be64toh(table[i]), host = entry & BITMAP_OFFSET_MASK;

		if (entry & BITMAP_RESERVED || (host && entry & 1) || host & cluster_mask(c->q))
			check_corrupt(c, "ERROR bitmap table entry %u is corrupted: 0x%" PRIx64, i, entry);
		else if (host)
			check_ref(c, host, c->q->cluster_size);
	}
	buf_free(table);
	return r;
}

static int co_check_bitmap_directory(struct check *c, const struct disk_bitmaps_ext *x)
{
	uint64_t at = be64toh(x->directory_offset), end = at + be64toh(x->directory_size);
	uint32_t i, nr = be32toh(x->nb_bitmaps);
	struct disk_bitmap b;
	int r = 0;

	check_ref(c, at, end - at);
	for (i = 0; i < nr && !r; i++) {
		if (at + sizeof(b) > end || at + sizeof(b) > c->file_len) {
			check_corrupt(c, "ERROR bitmap directory entry %u is outside the directory", i);
			break;
		}
		r = co_file_read(c->q->file, at, &b, sizeof(b));
		if (r < 0)
			break;
		at += round8(sizeof(b) + be16toh(b.name_size) + (uint64_t)be32toh(b.extra_size));
		if (be32toh(b.table_size) > BITMAP_TABLE_MAX || be64toh(b.table_offset) & cluster_mask(c->q))
			check_corrupt(c, "ERROR bitmap directory entry %u is corrupted", i);
		else
			r = co_check_bitmap_table(c, be64toh(b.table_offset), be32toh(b.table_size));
	}
	return r;
}

int co_check_bitmaps(struct check *c)
{
	const struct qcow2_header *h = &c->q->hdr;
	struct disk_bitmaps_ext x;
	unsigned i;
	int r = 0;

	/* Without the bit, bitmaps are stale and their clusters count as leaked, as for QEMU. */
	if (!(h->h.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	for (i = 0; i < h->nr_exts && !r; i++) {
		if (h->exts[i].type != QCOW2_EXT_BITMAPS || h->exts[i].len < sizeof(x))
			continue;
		memcpy(&x, h->exts[i].data, sizeof(x));
		r = co_check_bitmap_directory(c, &x);
	}
	return r;
}
