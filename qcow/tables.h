/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tables.h - private to qcow/: the metadata of an open qcow2 image in memory.
 *
 * One cache of table blocks (pieces of L2 tables and of refcount blocks, as
 * they are on disk, big endian), the refcount table, the reservation, and the
 * state of the commit. commit.c says in which order all of it reaches the disk and
 * why a crash at any instant leaves leaks at most.
 *
 * A block pointer is good until the next yield, unless the block is pinned.
 * Code between two yields is atomic, so an update of an entry needs no lock;
 * what spans a yield is ordered by l2_lock (making and copying L2 tables) and
 * alloc_lock (reservation and growth of the refcount structures). Neither is ever
 * waited for by the commit, so whoever holds one may wait for the commit.
 */
#ifndef QCHAIN_QCOW_TABLES_H
#define QCHAIN_QCOW_TABLES_H

#include "io/list.h"
#include "qcow/qcow2.h"

enum tblock_kind { TBLOCK_L2, TBLOCK_REF };

struct tblock {
	uint64_t host_off;              /* key: multiple of the block size */
	void *data;                     /* t->block_size bytes, as on disk */
	enum tblock_kind kind;
	bool loading;                   /* being read: wait on `wait` */
	bool dirty;                     /* changed since it was last cloned for a commit */
	bool writing;                   /* a commit is writing its clone */
	unsigned pins;                  /* in-flight allocations that will change it */
	struct tblock *hash_next;
	struct list lru;                /* every block; oldest first */
	struct list dirty_link;
	struct co_queue wait;
};

/* Clusters that lose a reference once nothing durable points at them any more. */
struct free_run {
	uint64_t cluster, nr;           /* in clusters, not bytes */
};

struct free_list {
	struct free_run *runs;
	size_t nr, cap;
};

/* What lies between "reserved" and "linked": see alloc.c. */
struct qcow2_tables {
	struct qcow2 *q;

	/* block cache (tables.c) */
	uint32_t block_size;
	unsigned nr_blocks, max_blocks;
	unsigned hash_bits;
	struct tblock **hash;
	struct list lru;
	struct list dirty[2];           /* by kind */
	unsigned nr_dirty[2];
	uint64_t gen;                   /* bumped whenever an L1 or L2 entry changes */
	bool damage_logged;

	/* L1 (alloc.c): sectors of 64 entries changed since they were last cloned */
	uint64_t *l1_dirty;
	unsigned nr_l1_dirty;
	struct co_mutex l2_lock;

	/* refcount table, host endian (refcount.c) */
	uint64_t *reft;
	uint64_t reft_entries;
	uint64_t reft_off;
	uint32_t reft_clusters;
	uint64_t *reft_dirty;           /* sectors, as l1_dirty */
	unsigned nr_reft_dirty;
	unsigned rb_bits;               /* log2 of entries in a refcount block */
	struct co_mutex alloc_lock;

	/* reservation, in clusters: refcount is 1 already, nothing points there */
	uint64_t res_next, res_end;
	uint64_t res_batch;             /* how many to reserve next time */
	uint64_t scan_pos;              /* where to look for free clusters below tail */
	uint64_t tail;                  /* first cluster after everything used */
	uint64_t virgin;                /* no cluster from here on was ever written: reads as zeros */
	bool virgin_zero;               /* ... which is true of regular files only */

	/* commit (commit.c) */
	bool committing;
	uint64_t commit_started, commit_done;
	struct co_queue commit_wait;
	bool commit_all;                /* the next one writes refcounts even if no entry changed */
	bool background;                /* a commit for lack of room was started */
	struct free_list frees_now;     /* unlinked in memory */
	struct free_list frees_commit;  /* the running commit makes the unlink durable */
	struct free_list frees_ready;   /* durably unlinked: may be dropped after a drain */
	struct free_list frees_abort;   /* never linked: may be dropped at once */
	bool reaping;
	struct io_task reap_task;       /* starts the coroutine that drops them */
	struct co_queue reap_wait;
	bool no_punch;                  /* the file system cannot */

	/* compressed clusters (compress.c) */
	void *z_buf;                    /* the cluster inflated last */
	uint64_t z_entry;               /* its L2 entry; 0 = none */
	uint64_t z_epoch;               /* bumped when host clusters are freed: what is being inflated is not kept */
	uint64_t z_next, z_end;         /* free rest of the host clusters being packed, bytes; none if equal */
	struct co_mutex z_lock;
};

static inline uint64_t cluster_mask(const struct qcow2 *q)
{
	return q->cluster_size - 1;
}

/* --- tables.c --- */
/* The cached block, or NULL; never yields. */
struct tblock *tblock_find(struct qcow2_tables *t, uint64_t host_off);
/* The block at host_off (any byte inside it), read if need be. */
int co_tblock_get(struct qcow2_tables *t, enum tblock_kind kind, uint64_t host_off, struct tblock **out);
void tblock_dirty(struct qcow2_tables *t, struct tblock *b);
void tblock_clean(struct qcow2_tables *t, struct tblock *b);
static inline void tblock_pin(struct tblock *b)
{
	b->pins++;
}
static inline void tblock_unpin(struct tblock *b)
{
	assert(b->pins > 0);
	b->pins--;
}
/*
 * Forgets cached blocks of [host_off, +len): the clusters are given another use.
 * False, and nothing forgotten, if one is in use (dirty, pinned): then something else owns it too.
 */
bool tblocks_forget(struct qcow2_tables *t, uint64_t host_off, uint64_t len);
/* A table is damaged: logs it once; a writable image turns read-only and gets the corrupt bit. Returns -EIO. */
int co_qcow2_damaged(struct qcow2 *q, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* --- extents.c --- */
/* Where the entry of a guest cluster is. */
struct l2_slot {
	uint64_t l1_index;
	uint64_t l2_off;                /* table in the file; 0 = none */
	bool l2_owned;                  /* L1 says the table is ours alone */
	unsigned index;                 /* of the entry in the table */
	struct tblock *block;           /* NULL when there is no table */
	unsigned slot;                  /* of the entry in the block */
	unsigned in_block;              /* entries from this one to the end of the block */
};
int co_l2_lookup(struct qcow2 *q, uint64_t guest_off, struct l2_slot *s);

static inline uint64_t l2_entry(const struct qcow2 *q, const struct tblock *b, unsigned slot)
{
	return be64toh(((const uint64_t *)b->data)[q->extended_l2 ? slot * 2 : slot]);
}

static inline uint64_t l2_bitmap(const struct qcow2 *q, const struct tblock *b, unsigned slot)
{
	return q->extended_l2 ? be64toh(((const uint64_t *)b->data)[slot * 2 + 1]) : 0;
}

enum l2_type {
	L2_UNALLOCATED,     /* no host cluster; extended: zero subclusters possible */
	L2_ZERO,            /* standard only: zero, no host cluster */
	L2_ZERO_ALLOC,      /* standard only: zero, host cluster kept */
	L2_NORMAL,          /* host cluster; extended: the bitmap says what of it counts */
	L2_COMPRESSED,
};
/* Classifies an entry, 0; or -EIO for one that is damaged (why says how; static text). */
int l2_classify(const struct qcow2 *q, uint64_t guest_off, uint64_t entry, uint64_t bitmap,
		enum l2_type *type, const char **why);

/* The entry lets its cluster be written in place, and that is the header's or a table's: damage. */
bool l2_on_metadata(const struct qcow2 *q, uint64_t entry, enum l2_type type);
#define L2_ON_METADATA "a cluster of the header, the L1 table or the refcount table"

#define L2_BITMAP_ALLOC(bm) ((uint32_t)(bm))
#define L2_BITMAP_ZERO(bm)  ((uint32_t)((bm) >> 32))

/* --- compress.c --- */
/* Host byte range of a compressed entry. */
void compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *host_off, uint64_t *len);
void compressed_forget(struct qcow2_tables *t);
/* Lets go of the host cluster that compressed clusters are being packed into. */
void compressed_close(struct qcow2_tables *t);

/* --- refcount.c --- */
int co_refcounts_open(struct qcow2_tables *t, struct error *e);
void refcounts_close(struct qcow2_tables *t);
/* Reads the refcount of a cluster. */
int co_refcount_get(struct qcow2_tables *t, uint64_t cluster, uint64_t *out);
/* Adds delta to the refcounts of [cluster, +nr). -EINVAL (damage) if one would fall below 0 or over the width. */
int co_refcount_add(struct qcow2_tables *t, uint64_t cluster, uint64_t nr, int delta);
/* Takes up to max clusters, contiguous, refcount 1. *got >= 1 on success. *zeroed: they read as zeros. */
int co_clusters_take(struct qcow2_tables *t, uint64_t max, uint64_t *host_off, uint64_t *got, bool *zeroed);
/* Gives back clusters that were taken and never linked. */
void clusters_untake(struct qcow2_tables *t, uint64_t host_off, uint64_t nr);
/* Writes clusters of new metadata that nothing points at yet. */
int co_write_fresh(struct qcow2_tables *t, uint64_t host_off, const void *buf, uint64_t len);
/* Returns the unused reservation (close). */
int co_reservation_return(struct qcow2_tables *t);
/* Loads or stores one refcount in a block's bytes. */
uint64_t refcount_max(const struct qcow2 *q);
uint64_t refcount_load(const void *block, unsigned order, uint64_t index);
void refcount_store(void *block, unsigned order, uint64_t index, uint64_t value);

/* --- commit.c --- */
/* A cluster range lost a reference: dropped after the next commit. */
void clusters_free_later(struct qcow2_tables *t, uint64_t cluster, uint64_t nr);
/* Nothing on disk or in memory ever named this reference: dropped soon. */
void clusters_drop(struct qcow2_tables *t, uint64_t cluster, uint64_t nr);
void free_list_add(struct free_list *l, uint64_t cluster, uint64_t nr);
void free_list_release(struct free_list *l);
/* Called before metadata is dirtied, with no lock held: keeps the amount of dirty blocks bounded. */
int co_commit_throttle(struct qcow2_tables *t);
/* Waits until no commit runs and no free cluster waits to be dropped. */
int co_commit_settle(struct qcow2_tables *t);
/* One commit that writes everything, refcounts too even when no L2 entry changed. */
int co_commit_all(struct qcow2_tables *t);
/* Starts dropping what waits in frees_ready and frees_abort. Does not yield. */
void reap_kick(struct qcow2_tables *t);
void reap_task_run(struct io_task *task);
/* True if one of the clusters is the header's, the active L1's or the refcount table's. */
bool overlaps_fixed(const struct qcow2_tables *t, uint64_t cluster, uint64_t nr);

/* --- alloc.c --- */
/* Marks the L1 entry changed. */
void l1_set(struct qcow2 *q, uint64_t index, uint64_t value);
/* The slot of guest_off in an L2 table that we own, made or copied if need be. */
int co_l2_writable(struct qcow2 *q, uint64_t guest_off, struct l2_slot *s);
void l2_entry_set(struct qcow2 *q, struct tblock *b, unsigned slot, uint64_t entry, uint64_t bitmap);
/* Drops what entry refers to, later. */
void l2_entry_free(struct qcow2 *q, uint64_t entry, enum l2_type type);

#endif
