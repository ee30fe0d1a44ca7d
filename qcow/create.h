/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * create.h - new images, with the options of qemu-img create.
 */
#ifndef QCHAIN_QCOW_CREATE_H
#define QCHAIN_QCOW_CREATE_H

#include <stdbool.h>
#include <stdint.h>

#include "io/error.h"
#include "io/reactor.h"
#include "qcow/layer.h"

enum prealloc { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };

struct create_opts {
	enum layer_format format;
	uint64_t size;                 /* bytes; rounded up to 512. UINT64_MAX: take the backing's */
	const char *backing_name;      /* as it shall stand in the header; NULL = none */
	const char *backing_format;    /* required with backing_name */
	uint32_t cluster_size;         /* 0 = 64 KiB, or 128 KiB for an overlay with extended_l2 by default */
	int version;                   /* 2 (compat=0.10), 3 (compat=1.1); 0 = 3 */
	int extended_l2;               /* 0, 1; -1 = default: on for overlays (128 KiB), off else */
	bool lazy_refcounts;
	uint32_t refcount_bits;        /* 1..64, power of two; 0 = 16 */
	enum prealloc preallocation;
	int compression;               /* 0 zlib, 1 zstd */
	const char *data_file;         /* external data file, created too unless it exists (then kept); NULL = none */
	bool data_file_raw;
	bool no_backing_check;         /* do not look whether the backing file can be opened (qemu-img -u) */
	bool overwrite;                /* an existing file may be replaced (qemu-img create does; qc* commands do not) */
};

/*
 * Creates path and makes it durable. On failure the file is removed if we made
 * it; an existing one is never touched without `overwrite`. May yield.
 */
int co_image_create(struct reactor *r, const char *path, const struct create_opts *o, struct error *e);

/*
 * Parses one -o option ("cluster_size", "128k") as qemu-img spells them:
 * size backing_file backing_fmt cluster_size compat extended_l2 lazy_refcounts
 * refcount_bits preallocation compression_type data_file data_file_raw.
 * Strings are kept by pointer: value must outlive o.
 */
int create_opt_parse(struct create_opts *o, const char *key, const char *value, struct error *e);

#endif
