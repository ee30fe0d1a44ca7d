/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * layer.h - one image of a chain: what it alone says about guest ranges, and how it is changed.
 *
 * A layer is a qcow2 or a raw image, opened. It knows nothing of the layers
 * below it: "unallocated" means "ask further down". The chain (chain.h) owns
 * the order, reads through it, copies on write, and keeps the merged map; it
 * alone calls the writing functions here, and only on the active layer (a job on
 * the layer it changes).
 *
 * Words: guest_off counts in the virtual disk, host_off in the layer's data
 * file. All in bytes. Functions return 0 or -errno unless they say otherwise.
 *
 * Ordering on disk (design section 5) is kept inside: an L2 entry is written only
 * after the refcount and the data it needs are durable; freed clusters are
 * reused only after what pointed at them is durably gone AND no request that
 * began before can still touch them (layer_owner.co_drain).
 */
#ifndef QCHAIN_QCOW_LAYER_H
#define QCHAIN_QCOW_LAYER_H

#include <stdbool.h>
#include <stdint.h>

#include "io/file.h"

struct layer;

enum layer_format { FORMAT_UNSET, FORMAT_RAW, FORMAT_QCOW2 };
const char *layer_format_name(enum layer_format f);           /* "raw", "qcow2" */
enum layer_format layer_format_parse(const char *s);          /* FORMAT_UNSET if unknown */

/* What the layer's owner offers it. The chain fills this in. */
struct layer_owner {
	/* Waits until every guest request that was in flight at the call has completed. May be NULL (tools). */
	void (*co_drain)(void *arg);
	/* The layer has turned read-only after a failed metadata write; why is one sentence. May be NULL. */
	void (*failed)(void *arg, const char *why);
	void *arg;
};

struct layer_opts {
	enum layer_format format;      /* FORMAT_UNSET: qcow2 if the magic is there, else raw (only for the
	                                  image a person named, never for a backing file) */
	const char *node_name;         /* copied; NULL = the owner names it later */
	bool writable;
	bool no_lock;                  /* --force-share */
	bool allow_corrupt;            /* open even with the corrupt bit (check, info) */
	bool allow_dirty;              /* open the dirty bit without rebuilding (check, info) */
	bool no_data_file;             /* info of an image whose data file is missing: layer_data_file() is NULL then */
	bool metadata_only;            /* info, check: guest bytes are not touched, so encrypted images may be opened */
	enum file_cache cache;
	uint64_t meta_cache;           /* bytes for L2 and refcount tables; 0 = 8 MiB */
	uint64_t raw_offset, raw_size; /* raw only: a window in the file (json: "offset"/"size"); 0,0 = all */
	const char *data_file;         /* override of the external data file's name; NULL = from the header */
	struct layer_owner owner;
};

/*
 * The format of f by its first bytes: qcow2, or raw. -ENOTSUP with a sentence for formats known but not
 * had (vmdk, vhdx, ...). Only for an image that a person named, never for a backing file. May yield.
 */
int co_layer_probe(struct file *f, enum layer_format *out, struct error *e);

/*
 * Opens one image, checks every header field and table bound (qcow2
 * specification, "Header" to "Refcounts"), reads L1, and no other table.
 * path is a plain path already resolved (backing.h). May yield.
 */
int co_layer_open(struct reactor *r, const char *path, const struct layer_opts *o,
		  struct layer **out, struct error *e);
/*
 * Flushes what is dirty, gives reserved clusters back, closes. The layer is gone
 * afterwards even on error, which then says what was lost.
 */
int co_layer_close(struct layer *l, struct error *e);

/* --- facts that never change while it is open --- */
enum layer_format layer_format(const struct layer *l);
const char *layer_path(const struct layer *l);         /* as opened */
struct file *layer_file(const struct layer *l);        /* where metadata lives */
struct file *layer_data_file(const struct layer *l);   /* where host_off points; same unless external */
uint32_t layer_cluster_size(const struct layer *l);    /* raw: 64 KiB by convention of QEMU's reports */
uint32_t layer_unit(const struct layer *l);            /* smallest allocation unit: subcluster, cluster; raw: 512 */

/* --- facts that change only by the functions below --- */
uint64_t layer_size(const struct layer *l);            /* virtual size, a multiple of 512 */
const char *layer_node_name(const struct layer *l);
int layer_set_node_name(struct layer *l, const char *name);
bool layer_writable(const struct layer *l);            /* false too after a failed metadata write */
const char *layer_fault(const struct layer *l);        /* why it turned read-only, or NULL */
const char *layer_backing_name(const struct layer *l); /* as in the header, NULL if none */
const char *layer_backing_format(const struct layer *l); /* as in the header, NULL if the header names none */
const char *layer_data_file_name(const struct layer *l); /* as in the header, NULL if none */

/* --- reading its tables --- */
enum extent_kind {
	EXT_UNALLOCATED,   /* this layer says nothing */
	EXT_ZERO,          /* reads as zeros, stated here */
	EXT_DATA,          /* bytes at host_off in layer_data_file() */
	EXT_COMPRESSED,    /* read with co_layer_read_compressed(); one cluster an extent */
};

struct extent {
	uint64_t guest_off, bytes;   /* multiples of layer_unit(), except at the end of the disk */
	enum extent_kind kind;
	bool in_place;               /* DATA: the layer owns these bytes alone; a write may overwrite them */
	uint64_t host_off;           /* DATA; ZERO with a host cluster kept (preallocated zero), else UINT64_MAX */
};

/*
 * Describes [guest_off, guest_off+bytes), cut at layer_size(), in order and without gaps,
 * neighbours merged where kind and host offsets continue. Returns how many of
 * out[0..max) were filled (fewer than the whole range if max is reached; the
 * caller goes on from the end of the last), or -errno (-EIO a read failed or a
 * table is damaged: the sentence goes to the log once). May yield BEFORE it looks, never
 * between looking and returning: the answer is true at return.
 */
int co_layer_extents(struct layer *l, uint64_t guest_off, uint64_t bytes,
		     struct extent *out, unsigned max);

/* Reads the whole compressed guest cluster that holds guest_off into buf (layer_cluster_size bytes). */
int co_layer_read_compressed(struct layer *l, uint64_t guest_off, void *buf);

/* --- changing it (writable layers only) --- */
/*
 * An allocation: where the caller may put the bytes of
 * [guest_off, guest_off+bytes), which begin at host_off in the data file.
 * The caller writes [round down data start to `unit`, round up data end to `unit`)
 * (within the cluster-aligned range), filling what it has no data for from the
 * chain below, and then links. Nothing is reachable before the link.
 */
struct layer_alloc {
	uint64_t guest_off, bytes;   /* cluster-aligned, covers at least the first byte asked for */
	uint64_t host_off;
	uint32_t unit;               /* padding unit: cluster, or subcluster where the rest of the cluster stays as it is */
	bool zeroed;                 /* the host clusters read as zeros: padding that is zero need not be written */
	bool reused;                 /* the cluster was there already (preallocated zero, unset subclusters) */
	/* private to the layer */
	struct list link;
	uint64_t priv[4];
};

/*
 * Finds or reserves host clusters for the longest homogeneous run at guest_off, at
 * most bytes, contiguous in the host file. The caller holds the guest range
 * exclusively until link or abort. -ENOSPC leaves all as it was. May yield.
 */
int co_layer_alloc(struct layer *l, uint64_t guest_off, uint64_t bytes, struct layer_alloc *a);
/* The bytes of [data_off, data_off+data_bytes) (multiples of a->unit) are written: make them reachable. */
int co_layer_link(struct layer *l, struct layer_alloc *a, uint64_t data_off, uint64_t data_bytes);
void layer_alloc_abort(struct layer *l, struct layer_alloc *a);

/*
 * Makes [guest_off, +bytes) read as zeros by metadata alone. Multiples of
 * layer_unit() (the end of the disk counts as one). -ENOTSUP when the format cannot (version 2 over
 * a backing file; raw without fallocate): the caller then writes zeros. unmap: host
 * clusters may be freed, else they are kept where they exist.
 */
int co_layer_zero(struct layer *l, uint64_t guest_off, uint64_t bytes, bool unmap, bool has_backing);
/*
 * Gives host space back; the range reads as zeros afterwards (has_backing: by zero flags, so
 * that nothing below shows through; -ENOTSUP for version 2), or, with to_backing,
 * becomes unallocated. Multiples of layer_unit(); parts of a cluster are zeroed, not freed.
 */
int co_layer_discard(struct layer *l, uint64_t guest_off, uint64_t bytes,
		     bool has_backing, bool to_backing);
/*
 * All that was linked, zeroed or discarded before the call is durable at return
 * (two barriers, shared by every caller that waits).
 */
int co_layer_flush(struct layer *l);
/*
 * Compresses and stores one guest cluster (offline tools; the last one of the disk may be
 * short in the guest, buf is zero-padded). Falls back to plain when it does not shrink.
 */
int co_layer_write_compressed(struct layer *l, uint64_t guest_off, const void *buf);
/* Rewrites backing name and format in the header: one sector, prepared and flushed before (rule 5). NULL name: none. */
int co_layer_set_backing(struct layer *l, const char *name, const char *format, struct error *e);

/* Clusters the file holds beyond what is linked: reserved ahead, given back at close. */
uint64_t layer_reserved_bytes(const struct layer *l);

#endif
