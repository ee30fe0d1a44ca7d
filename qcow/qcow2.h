/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow2.h - private to qcow/: an open qcow2 image and its on-disk structures.
 *
 * Source of every number: QEMU's docs/interop/qcow2.rst. On-disk values are big
 * endian and are converted where they are loaded or stored (header.c, table.c),
 * nowhere else.
 *
 * Files of a qcow2 layer:
 *   layer.c    open and close, format dispatch, facts
 *   qcow2_open.c  what an open qcow2 image needs: geometry, data file, L1, dirty and autoclear bits
 *   header.c   header and extensions: parse, validate
 *   header_write.c  the way back: serialise, rewrite, feature bits, backing name
 *   backing.c  names of other images
 *   raw.c      the raw format
 *   probe.c    the format by the first bytes
 *   table.c    cache of 4 KiB blocks of L2 tables, refcount blocks (tables.h)
 *   extents.c  L1/L2 walk, entry decoding: co_layer_extents
 *   refcount.c refcount table and blocks, reservation, free clusters
 *   alloc.c    co_layer_alloc / link / abort, zero, discard
 *   commit.c   the two-barrier commit shared by all flushes
 *   compress.c compressed clusters, both ways
 *   create.c, check.c, map.c, chain.c, request.c
 */
#ifndef QCHAIN_QCOW_QCOW2_H
#define QCHAIN_QCOW_QCOW2_H

#include <assert.h>
#include <endian.h>
#include <stdbool.h>
#include <stdint.h>

#include "io/co.h"
#include "io/file.h"
#include "qcow/layer.h"

#define QCOW2_MAGIC 0x514649fbu

#define QCOW2_INCOMPAT_DIRTY       (1ull << 0)
#define QCOW2_INCOMPAT_CORRUPT     (1ull << 1)
#define QCOW2_INCOMPAT_DATA_FILE   (1ull << 2)
#define QCOW2_INCOMPAT_COMPRESSION (1ull << 3)
#define QCOW2_INCOMPAT_EXTENDED_L2 (1ull << 4)
#define QCOW2_INCOMPAT_KNOWN       0x1full
#define QCOW2_COMPAT_LAZY          (1ull << 0)
#define QCOW2_AUTOCLEAR_BITMAPS    (1ull << 0)
#define QCOW2_AUTOCLEAR_RAW_DATA   (1ull << 1)

#define QCOW2_EXT_END          0x00000000u
#define QCOW2_EXT_BACKING_FMT  0xe2792acau
#define QCOW2_EXT_FEATURES     0x6803f857u
#define QCOW2_EXT_BITMAPS      0x23852875u
#define QCOW2_EXT_LUKS         0x0537be77u
#define QCOW2_EXT_DATA_FILE    0x44415441u

#define QCOW2_L1_OFFSET_MASK   0x00fffffffffffe00ull
#define QCOW2_L2_OFFSET_MASK   0x00fffffffffffe00ull
#define QCOW2_REFT_OFFSET_MASK 0xfffffffffffffe00ull
#define QCOW2_COPIED           (1ull << 63)
#define QCOW2_L2_COMPRESSED    (1ull << 62)
#define QCOW2_L2_ZERO          1ull

#define QCOW2_MAX_L1_BYTES     (32u << 20)    /* QEMU's limit */
#define QCOW2_MAX_REFT_BYTES   (8u << 20)     /* QEMU's limit */
#define QCOW2_MAX_SNAPSHOTS    65536u

struct qcow2_disk_header {
	uint32_t magic, version;
	uint64_t backing_file_offset;
	uint32_t backing_file_size, cluster_bits;
	uint64_t size;
	uint32_t crypt_method, l1_size;
	uint64_t l1_table_offset, refcount_table_offset;
	uint32_t refcount_table_clusters, nb_snapshots;
	uint64_t snapshots_offset;
	/* version 3 */
	uint64_t incompatible_features, compatible_features, autoclear_features;
	uint32_t refcount_order, header_length;
	/* header_length > 104 */
	uint8_t compression_type, padding[7];
} __attribute__((packed));
static_assert(sizeof(struct qcow2_disk_header) == 112, "qcow2 header");

/* An extension kept as it came; unknown ones are written back unchanged. */
struct qcow2_ext {
	uint32_t type, len;
	uint8_t *data;
};

/* The header in host byte order, with everything that follows it in the first cluster. */
struct qcow2_header {
	struct qcow2_disk_header h;    /* host endian; version 2 fills the v3 fields with what they mean there */
	uint8_t *tail;                 /* header bytes beyond 112, kept when rewriting */
	uint32_t tail_len;
	char *backing_name, *backing_format, *data_file;
	struct qcow2_ext *exts;        /* all but backing format and data file, in order */
	unsigned nr_exts;
};

struct qcow2_tables;   /* tables.h: caches, refcounts, reservation, commit state */

struct qcow2 {
	/* set at open and never changed */
	struct reactor *r;
	struct file *file, *data_file;         /* data_file == file unless external */
	bool external_data, raw_external, extended_l2;
	unsigned cluster_bits, refcount_order;
	uint32_t cluster_size, unit;           /* unit: subcluster or cluster size */
	unsigned sub_bits;                     /* log2 of subclusters a cluster: 5 or 0 */
	unsigned l2_entry_bytes;               /* 8 or 16 */
	unsigned l2_bits;                      /* log2 of entries in an L2 table */
	struct layer_owner owner;
	uint64_t meta_cache;

	/* changed only by header.c, under header_lock, one sector write each */
	struct co_mutex header_lock;
	struct qcow2_header hdr;

	/* L1, host endian with flag bits; changed by alloc.c, written by commit.c */
	uint64_t *l1;
	uint32_t l1_size;

	/* why it is read-only although opened writable; set once by qcow2_fail(), never unset */
	bool writable;
	char *fault;

	struct qcow2_tables *t;                /* NULL until the first table is needed; owned by table.c */
};

/* --- header.c --- */
/* Reads and validates header and extensions. Does not look at tables. */
int co_qcow2_header_read(struct file *f, const struct layer_opts *o, struct qcow2_header *out, struct error *e);
/* Serialises into buf (one cluster, zeroed by the caller); -ENOSPC if it does not fit. Returns bytes used. */
int qcow2_header_serialise(const struct qcow2_header *h, void *buf, uint32_t cluster_size, struct error *e);
void qcow2_header_free(struct qcow2_header *h);
/* Entries the active L1 table needs for the disk size in the header. */
uint64_t qcow2_l1_needed(const struct qcow2_disk_header *h);
/* QEMU's feature name table: data and length of the extension. */
const uint8_t *qcow2_feature_table(uint32_t *len);
/* Backing name and format, switched by one sector write; NULL: none. (header_write.c) */
int co_qcow2_set_backing(struct qcow2 *q, const char *name, const char *format, struct error *e);
/* Writes the first cluster anew from q->hdr: flush, write, flush. */
int co_qcow2_header_write(struct qcow2 *q, struct error *e);
/* Changes incompatible/autoclear bits on disk (and in q->hdr) with one sector write, flushed before and after. */
int co_qcow2_set_features(struct qcow2 *q, uint64_t set_incompat, uint64_t clear_incompat,
			  uint64_t clear_autoclear);
/* A metadata write failed or a table is damaged: read-only from now on, the reason logged and reported once. */
void qcow2_fail(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* --- qcow2_open.c --- */
/* f stays the caller's. On a writable open the image is made fit for writing: dirty bit, autoclear bits. */
int co_qcow2_open(struct reactor *r, struct file *f, const struct layer_opts *o, struct qcow2 **out,
		  struct error *e);
int co_qcow2_close(struct qcow2 *q, struct error *e);   /* q is gone even on error */

/* --- tables.c and friends; called by layer.c's dispatch --- */
int co_qcow2_tables_open(struct qcow2 *q, struct error *e);   /* reads the refcount table if writable */
int co_qcow2_tables_close(struct qcow2 *q, struct error *e);  /* commits all, gives the reservation back */
int co_qcow2_extents(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, struct extent *out, unsigned max);
int co_qcow2_read_compressed(struct qcow2 *q, uint64_t guest_off, void *buf);
int co_qcow2_alloc(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, struct layer_alloc *a);
int co_qcow2_link(struct qcow2 *q, struct layer_alloc *a, uint64_t data_off, uint64_t data_bytes);
void qcow2_alloc_abort(struct qcow2 *q, struct layer_alloc *a);
int co_qcow2_zero(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, bool unmap, bool has_backing);
int co_qcow2_discard(struct qcow2 *q, uint64_t guest_off, uint64_t bytes, bool has_backing, bool to_backing);
int co_qcow2_flush(struct qcow2 *q);
int co_qcow2_write_compressed(struct qcow2 *q, uint64_t guest_off, const void *buf);
uint64_t qcow2_reserved_bytes(const struct qcow2 *q);
/* The dirty bit was set at open: count all references anew and write refcounts before the first write (check.c). */
int co_qcow2_rebuild_refcounts(struct qcow2 *q, struct error *e);

/* layer.c: the qcow2 inside a layer (check.c, create.c, info) */
struct qcow2 *layer_qcow2(const struct layer *l);      /* NULL for raw */

#endif
