/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tables.c - the cache of table blocks, and opening and closing of a qcow2 image's metadata.
 *
 * A block is 4 KiB of an L2 table or of a refcount block (a cluster, if that is
 * smaller), kept as it is on disk and found by its host offset. A hit never yields.
 * A dirty block, one being written and a pinned one stay; others go, oldest
 * first, when the budget is used up. What is cached is what the disk will be: a
 * block is never read again while its change is not written.
 */
#include "qcow/tables.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "io/log.h"

#define BLOCK_BYTES 4096u
#define MIN_BLOCKS 64u

static unsigned bucket(const struct qcow2_tables *t, uint64_t host_off)
{
	return (unsigned)((host_off / t->block_size * 0x9e3779b97f4a7c15ull) >> (64 - t->hash_bits));
}

static struct tblock *lookup(struct qcow2_tables *t, uint64_t host_off)
{
	struct tblock *b;

	for (b = t->hash[bucket(t, host_off)]; b; b = b->hash_next)
		if (b->host_off == host_off)
			return b;
	return NULL;
}

static void touch(struct qcow2_tables *t, struct tblock *b)
{
	if (t->lru.prev != &b->lru) {
		list_del(&b->lru);
		list_add_tail(&t->lru, &b->lru);
	}
}

struct tblock *tblock_find(struct qcow2_tables *t, uint64_t host_off)
{
	struct tblock *b = lookup(t, host_off & ~(uint64_t)(t->block_size - 1));

	if (!b || b->loading)
		return NULL;
	touch(t, b);
	return b;
}

static void unhash(struct qcow2_tables *t, struct tblock *b)
{
	struct tblock **p = &t->hash[bucket(t, b->host_off)];

	while (*p && *p != b)
		p = &(*p)->hash_next;
	if (*p)
		*p = b->hash_next;
	b->hash_next = NULL;
}

static void drop(struct qcow2_tables *t, struct tblock *b)
{
	assert(!b->dirty && !b->writing && !b->pins && co_queue_empty(&b->wait));
	unhash(t, b);
	list_del(&b->lru);
	t->nr_blocks--;
	buf_free(b->data);
	free(b);
}

static bool droppable(const struct tblock *b)
{
	return !b->loading && !b->dirty && !b->writing && !b->pins && co_queue_empty(&b->wait);
}

/* Makes room for one block; over budget only while nothing can go. */
static void shrink(struct qcow2_tables *t)
{
	struct tblock *b, *tmp;

	if (t->nr_blocks < t->max_blocks)
		return;
	list_for_each_safe(b, tmp, &t->lru, lru) {
		if (!droppable(b))
			continue;
		drop(t, b);
		if (t->nr_blocks < t->max_blocks)
			return;
	}
}

static struct tblock *new_block(struct qcow2_tables *t, enum tblock_kind kind, uint64_t host_off)
{
	struct tblock *b;
	unsigned h;

	shrink(t);
	b = calloc(1, sizeof(*b));
	if (!b)
		return NULL;
	b->data = buf_alloc(t->block_size);
	if (!b->data) {
		free(b);
		return NULL;
	}
	b->host_off = host_off;
	b->kind = kind;
	list_init(&b->lru);
	list_init(&b->dirty_link);
	co_queue_init(&b->wait);
	h = bucket(t, host_off);
	b->hash_next = t->hash[h];
	t->hash[h] = b;
	list_add_tail(&t->lru, &b->lru);
	t->nr_blocks++;
	return b;
}

/* Reads a new block. It may be forgotten meanwhile: then it is no longer in the hash. */
static int load(struct qcow2_tables *t, enum tblock_kind kind, uint64_t host_off)
{
	struct tblock *b = new_block(t, kind, host_off);
	int r;

	if (!b)
		return -ENOMEM;
	b->loading = true;
	r = co_file_read(t->q->file, host_off, b->data, t->block_size);
	b->loading = false;
	co_queue_wake_all(&b->wait);
	if (r < 0) {
		log_error("%s: cannot read the table block at offset %" PRIu64 ": %s",
			  file_path(t->q->file), host_off, strerror(-r));
		drop(t, b);
		return r == -ENOMEM ? r : -EIO;
	}
	/* Forgotten meanwhile: what was read means nothing. */
	if (lookup(t, host_off) != b)
		drop(t, b);
	return 0;
}

int co_tblock_get(struct qcow2_tables *t, enum tblock_kind kind, uint64_t host_off, struct tblock **out)
{
	uint64_t key = host_off & ~(uint64_t)(t->block_size - 1);
	struct tblock *b;
	int r;

	for (;;) {
		b = lookup(t, key);
		if (b && !b->loading)
			break;
		if (b) {
			co_queue_wait(&b->wait);
			continue;
		}
		r = load(t, kind, key);
		if (r < 0)
			return r;
	}
	touch(t, b);
	if (b->kind != kind) {
		if (b->dirty || b->writing || b->pins)
			return co_qcow2_damaged(t->q, "the cluster at offset %" PRIu64
						" is an L2 table and a refcount block at once",
						key & ~cluster_mask(t->q));
		b->kind = kind;
	}
	*out = b;
	return 0;
}

void tblock_dirty(struct qcow2_tables *t, struct tblock *b)
{
	if (b->dirty)
		return;
	b->dirty = true;
	list_add_tail(&t->dirty[b->kind], &b->dirty_link);
	t->nr_dirty[b->kind]++;
}

void tblock_clean(struct qcow2_tables *t, struct tblock *b)
{
	if (!b->dirty)
		return;
	b->dirty = false;
	list_del(&b->dirty_link);
	t->nr_dirty[b->kind]--;
}

static bool in_range(const struct tblock *b, uint64_t host_off, uint64_t len)
{
	return b->host_off - host_off < len;
}

/* The cached blocks of a range, whichever way is shorter: by offset or through the whole cache. */
#define FORGET_BY_OFFSET 64u

static bool forget_one(struct qcow2_tables *t, struct tblock *b)
{
	if (b->dirty || b->pins || b->writing)
		return false;
	if (b->loading)
		unhash(t, b);
	else
		drop(t, b);
	return true;
}

bool tblocks_forget(struct qcow2_tables *t, uint64_t host_off, uint64_t len)
{
	struct tblock *b, *tmp;
	uint64_t off;

	if (len / t->block_size <= FORGET_BY_OFFSET) {
		for (off = host_off; off < host_off + len; off += t->block_size) {
			b = lookup(t, off);
			if (b && !forget_one(t, b))
				return false;
		}
		return true;
	}
	list_for_each_safe(b, tmp, &t->lru, lru)
		if (in_range(b, host_off, len) && !forget_one(t, b))
			return false;
	return true;
}

int co_qcow2_damaged(struct qcow2 *q, const char *fmt, ...)
{
	struct qcow2_tables *t = q->t;
	char why[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	if (q->writable) {
		if (q->hdr.h.version >= 3 && !t->damage_logged) {
			t->damage_logged = true;
			co_qcow2_set_features(q, QCOW2_INCOMPAT_CORRUPT, 0, 0);
		}
		qcow2_fail(q, "%s", why);
	} else if (!t->damage_logged) {
		log_error("%s: damaged: %s; repair it with 'qcimg check -r all'", file_path(q->file), why);
	}
	t->damage_logged = true;
	return -EIO;
}

static void tables_free(struct qcow2_tables *t)
{
	struct tblock *b, *tmp;

	list_for_each_safe(b, tmp, &t->lru, lru) {
		assert(!b->loading && !b->writing);
		b->pins = 0;
		tblock_clean(t, b);
		drop(t, b);
	}
	refcounts_close(t);
	free_list_release(&t->frees_now);
	free_list_release(&t->frees_commit);
	free_list_release(&t->frees_ready);
	free_list_release(&t->frees_abort);
	buf_free(t->z_buf);
	free(t->l1_dirty);
	free(t->hash);
	free(t);
}

int co_qcow2_tables_open(struct qcow2 *q, struct error *e)
{
	struct qcow2_tables *t = calloc(1, sizeof(*t));
	unsigned i;
	int r;

	if (!t)
		return error_set(e, ENOMEM, "%s: no memory for its tables", file_path(q->file));
	t->q = q;
	t->block_size = q->cluster_size < BLOCK_BYTES ? q->cluster_size : BLOCK_BYTES;
	t->max_blocks = (unsigned)((q->meta_cache ? q->meta_cache : 8u << 20) / t->block_size);
	if (t->max_blocks < MIN_BLOCKS)
		t->max_blocks = MIN_BLOCKS;
	for (t->hash_bits = 4; (1u << t->hash_bits) < t->max_blocks; t->hash_bits++)
		;
	t->hash = calloc((size_t)1 << t->hash_bits, sizeof(*t->hash));
	list_init(&t->lru);
	for (i = 0; i < 2; i++)
		list_init(&t->dirty[i]);
	co_mutex_init(&t->l2_lock);
	co_mutex_init(&t->alloc_lock);
	co_mutex_init(&t->z_lock);
	co_queue_init(&t->commit_wait);
	co_queue_init(&t->reap_wait);
	io_task_init(&t->reap_task, reap_task_run);
	q->t = t;
	r = t->hash ? 0 : error_set(e, ENOMEM, "%s: no memory for its tables", file_path(q->file));
	if (!r && q->writable)
		r = co_refcounts_open(t, e);
	if (r) {
		q->t = NULL;
		tables_free(t);
	}
	return r;
}

int co_qcow2_tables_close(struct qcow2 *q, struct error *e)
{
	struct qcow2_tables *t = q->t;
	int r = 0, r2;

	if (!t)
		return 0;
	if (t->reft) {
		compressed_close(t);
		r = co_commit_settle(t);
		if (!q->fault) {
			r2 = co_reservation_return(t);
			r = r ? r : r2;
			r2 = co_commit_all(t);
			r = r ? r : r2;
		}
		if (q->fault)
			r = error_set(e, EIO, "%s: closed after a failure, changes since the last flush may be lost: %s",
				      file_path(q->file), q->fault);
		else if (r)
			r = error_set_errno(e, -r, "%s: cannot write its tables", file_path(q->file));
	}
	q->t = NULL;
	tables_free(t);
	return r;
}
