/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * commit.c - how changed metadata reaches the disk, and what a crash may leave.
 *
 * A commit takes copies of all dirty blocks at one instant, and then
 *   1. writes the refcount blocks; if new ones were made: barrier, then the
 *      sectors of the refcount table that name them;
 *   2. barrier (fdatasync of the image and of the data file);
 *   3. writes the L2 blocks and the L1 sectors;
 *   4. barrier; then what these changes unlinked may be freed.
 * All flushes that wait share it; one that comes later waits for the next.
 *
 * Why a crash at any instant leaves leaked clusters at most (design, section 5):
 *  - An entry is changed in memory (linked) only after its data is written, and after
 *    its cluster's refcount was raised in memory. So a copy taken at an instant that has
 *    the entry has the refcount too, and the data was written before barrier 2.
 *    Step 3 begins after that barrier: rules 1 and 2. New L2 tables are zeroed or copied
 *    on disk before their L1 entry changes in memory, so the same holds for them;
 *    L2 blocks and L1 sectors may then reach the disk in any order, torn at
 *    sector grain: each entry is the old one or the new one, and both are good.
 *  - What an entry pointed at before loses its reference only after barrier 4
 *    of a commit that holds the change, and after every request that began
 *    before has ended (co_drain): until then both the old and the new cluster keep
 *    their refcounts, on disk and in memory, so neither is given out: rule 3.
 *  - Refcounts only fall for clusters that nothing durable points at, so a
 *    refcount block may be written at any time and be torn: it is at worst too high.
 *  - A flush returns after barrier 4 of a commit that began after the call: rule 4.
 *  - A write or barrier that fails makes the image read-only (qcow2_fail). Its blocks stay
 *    dirty in memory, so that reads go on being right, and nothing is tried again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "io/log.h"
#include "qcow/plant.h"
#include "qcow/tables.h"

#define WRITES_AT_ONCE 16u
#define IOV_PER_WRITE 64u
#define FREES_PENDING_MAX 4096u     /* runs that wait for a commit before one is started for them */

/* --- free lists --- */

void free_list_add(struct free_list *l, uint64_t cluster, uint64_t nr)
{
	struct free_run *last = l->nr ? &l->runs[l->nr - 1] : NULL;

	if (last && last->cluster + last->nr == cluster) {
		last->nr += nr;
		return;
	}
	if (l->nr == l->cap) {
		size_t cap = l->cap ? l->cap * 2 : 64;
		struct free_run *runs = realloc(l->runs, cap * sizeof(*runs));

		if (!runs) {
			log_warn("no memory to remember %" PRIu64 " free clusters: they are leaked", nr);
			return;
		}
		l->runs = runs;
		l->cap = cap;
	}
	l->runs[l->nr++] = (struct free_run){ cluster, nr };
}

void free_list_release(struct free_list *l)
{
	free(l->runs);
	memset(l, 0, sizeof(*l));
}

static void free_list_move(struct free_list *to, struct free_list *from)
{
	size_t i;

	if (!to->nr) {
		struct free_list tmp = *to;

		*to = *from;
		*from = tmp;
		return;
	}
	for (i = 0; i < from->nr; i++)
		free_list_add(to, from->runs[i].cluster, from->runs[i].nr);
	from->nr = 0;
}

void clusters_drop(struct qcow2_tables *t, uint64_t cluster, uint64_t nr)
{
	free_list_add(&t->frees_abort, cluster, nr);
	reap_kick(t);
}

void clusters_free_later(struct qcow2_tables *t, uint64_t cluster, uint64_t nr)
{
	if (PLANTED(FREE_BEFORE_UNLINK))
		clusters_drop(t, cluster, nr);
	else
		free_list_add(&t->frees_now, cluster, nr);
}

/* --- copies of what is dirty --- */

struct clone {
	struct tblock *block;           /* NULL for sectors of L1 and the refcount table */
	uint64_t host_off;
	uint32_t len;
	void *data;
};

struct clone_set {
	struct clone *v;
	size_t nr, cap;
};

static int clone_add(struct clone_set *s, struct tblock *b, uint64_t host_off, const void *src, uint32_t len)
{
	void *copy;

	if (s->nr == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 32;
		struct clone *v = realloc(s->v, cap * sizeof(*v));

		if (!v)
			return -ENOMEM;
		s->v = v;
		s->cap = cap;
	}
	copy = buf_alloc(len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, src, len);
	s->v[s->nr++] = (struct clone){ b, host_off, len, copy };
	return 0;
}

static int clone_blocks(struct qcow2_tables *t, enum tblock_kind kind, struct clone_set *s)
{
	struct tblock *b, *tmp;
	int r;

	list_for_each_safe(b, tmp, &t->dirty[kind], dirty_link) {
		assert(!b->writing);
		r = clone_add(s, b, b->host_off, b->data, t->block_size);
		if (r < 0)
			return r;
		tblock_clean(t, b);
		b->writing = true;
	}
	return 0;
}

/* Copies the dirty 512-byte sectors of a table of 64-bit entries kept in host order. */
static int clone_sectors(const uint64_t *table, uint64_t entries, uint64_t host_off, uint64_t *dirty,
			 unsigned *nr_dirty, struct clone_set *s)
{
	uint64_t words = entries / 4096 + 1, w, be[64];
	unsigned i;
	int r;

	for (w = 0; *nr_dirty && w < words; w++) {
		while (dirty[w]) {
			uint64_t sector = w * 64 + (uint64_t)__builtin_ctzll(dirty[w]);

			for (i = 0; i < 64; i++)
				be[i] = sector * 64 + i < entries ? htobe64(table[sector * 64 + i]) : 0;
			r = clone_add(s, NULL, host_off + sector * 512, be, 512);
			if (r < 0)
				return r;
			dirty[w] &= dirty[w] - 1;
			--*nr_dirty;
		}
	}
	return 0;
}

/* Ends the life of the copies; after a failure their blocks are dirty again. */
static void clones_end(struct qcow2_tables *t, struct clone_set *s, bool failed)
{
	size_t i;

	for (i = 0; i < s->nr; i++) {
		struct tblock *b = s->v[i].block;

		if (b) {
			b->writing = false;
			if (failed)
				tblock_dirty(t, b);
		}
		buf_free(s->v[i].data);
	}
	free(s->v);
	memset(s, 0, sizeof(*s));
}

struct write_run {
	struct file *file;
	const struct clone *v;
	unsigned nr;
};

static int co_write_run(void *arg)
{
	struct write_run *w = arg;
	struct iovec iov[IOV_PER_WRITE];
	uint64_t len = 0;
	unsigned i;

	for (i = 0; i < w->nr; i++) {
		iov[i] = (struct iovec){ w->v[i].data, w->v[i].len };
		len += w->v[i].len;
	}
	return co_file_writev(w->file, w->v[0].host_off, len, iov, w->nr);
}

static int by_offset(const void *a, const void *b)
{
	const struct clone *x = a, *y = b;

	return x->host_off < y->host_off ? -1 : x->host_off > y->host_off;
}

/* Writes all copies, neighbours together, several writes side by side. */
static int co_clones_write(struct qcow2_tables *t, struct clone_set *s)
{
	struct write_run *runs;
	struct co_group g;
	size_t i = 0, nr = 0, k;

	if (!s->nr)
		return 0;
	runs = malloc(s->nr * sizeof(*runs));
	if (!runs)
		return -ENOMEM;
	qsort(s->v, s->nr, sizeof(*s->v), by_offset);
	for (i = 0; i < s->nr; i += runs[nr++].nr) {
		runs[nr] = (struct write_run){ t->q->file, &s->v[i], 1 };
		while (i + runs[nr].nr < s->nr && runs[nr].nr < IOV_PER_WRITE) {
			const struct clone *prev = &s->v[i + runs[nr].nr - 1];

			if (prev->host_off + prev->len != prev[1].host_off)
				break;
			runs[nr].nr++;
		}
	}
	co_group_init(&g, t->q->r, WRITES_AT_ONCE);
	for (k = 0; k < nr && !g.err; k++)
		co_group_start(&g, co_write_run, &runs[k]);
	k = (size_t)co_group_wait(&g);
	free(runs);
	return (int)k;
}

/* --- the commit --- */

static int co_flush_file(void *arg)
{
	return co_file_flush(arg);
}

static int co_barrier(struct qcow2 *q, bool data_too)
{
	struct co_group g;

	if (!data_too || q->data_file == q->file || !q->data_file)
		return co_file_flush(q->file);
	co_group_init(&g, q->r, 0);
	co_group_start(&g, co_flush_file, q->data_file);
	co_group_start(&g, co_flush_file, q->file);
	return co_group_wait(&g);
}

struct commit {
	struct clone_set refs, reft, links;
};

/* No yield: all copies are of one instant. */
static int commit_collect(struct qcow2_tables *t, struct commit *c, bool all)
{
	struct qcow2 *q = t->q;
	bool links = t->nr_dirty[TBLOCK_L2] || t->nr_l1_dirty;
	int r = 0;

	free_list_move(&t->frees_commit, &t->frees_now);
	if (links || all || t->nr_reft_dirty)
		r = clone_blocks(t, TBLOCK_REF, &c->refs);
	if (!r)
		r = clone_sectors(t->reft, t->reft_entries, t->reft_off, t->reft_dirty, &t->nr_reft_dirty,
				  &c->reft);
	if (!r && links)
		r = clone_blocks(t, TBLOCK_L2, &c->links);
	if (!r)
		r = clone_sectors(q->l1, q->l1_size, q->hdr.h.l1_table_offset, t->l1_dirty,
				  &t->nr_l1_dirty, &c->links);
	return r;
}

static int co_commit_write(struct qcow2_tables *t, struct commit *c)
{
	struct qcow2 *q = t->q;
	int r = co_clones_write(t, &c->refs);

	if (!r && c->reft.nr) {
		r = co_barrier(q, false);
		if (!r)
			r = co_clones_write(t, &c->reft);
	}
	if (!r && !(PLANTED(SKIP_BARRIER) && c->links.nr))
		r = co_barrier(q, true);
	if (!r && c->links.nr) {
		r = co_clones_write(t, &c->links);
		if (!r)
			r = co_barrier(q, false);
	}
	return r;
}

static void co_commit_run(struct qcow2_tables *t)
{
	struct commit c = { 0 };
	bool all = t->commit_all;
	int r;

	t->committing = true;
	t->commit_all = false;
	t->commit_started++;
	r = commit_collect(t, &c, all);
	if (!r)
		r = co_commit_write(t, &c);
	if (r < 0) {
		qcow2_fail(t->q, "writing its tables failed: %s", strerror(-r));
		free_list_release(&t->frees_commit);
	}
	clones_end(t, &c.refs, r < 0);
	clones_end(t, &c.reft, r < 0);
	clones_end(t, &c.links, r < 0);
	free_list_move(&t->frees_ready, &t->frees_commit);
	t->commit_done = t->commit_started;
	t->committing = false;
	co_queue_wake_all(&t->commit_wait);
	reap_kick(t);
}

/* Waits for a commit that begins after this call, running it if no one does. */
static int co_commit(struct qcow2_tables *t, bool all)
{
	uint64_t mine = t->commit_started + 1;

	if (all)
		t->commit_all = true;
	while (t->commit_done < mine && !t->q->fault) {
		if (t->committing)
			co_queue_wait(&t->commit_wait);
		else
			co_commit_run(t);
	}
	return t->q->fault ? -EIO : 0;
}

int co_commit_all(struct qcow2_tables *t)
{
	return co_commit(t, true);
}

int co_qcow2_flush(struct qcow2 *q)
{
	if (q->fault)
		return -EIO;
	if (!q->t || !q->t->reft)
		return 0;
	return co_commit(q->t, false);
}

static void co_background(void *arg)
{
	struct qcow2_tables *t = arg;

	co_commit(t, true);
	t->background = false;
	co_queue_wake_all(&t->reap_wait);
}

int co_commit_throttle(struct qcow2_tables *t)
{
	struct qcow2 *q = t->q;
	unsigned dirty = t->nr_dirty[TBLOCK_L2] + t->nr_dirty[TBLOCK_REF];

	if (!q->writable)
		return q->fault ? -EIO : -EROFS;
	if (dirty < t->max_blocks / 2 && t->frees_now.nr < FREES_PENDING_MAX)
		return 0;
	if (!t->background) {
		t->background = true;
		co_start(q->r, co_background, t);
	}
	if (dirty < t->max_blocks / 4 * 3 && t->frees_now.nr < 4 * FREES_PENDING_MAX)
		return 0;
	return co_commit(t, true);
}

/* --- dropping what was unlinked --- */

static int by_cluster(const void *a, const void *b)
{
	const struct free_run *x = a, *y = b;

	return x->cluster < y->cluster ? -1 : x->cluster > y->cluster;
}

/* Header, active L1 and refcount table are never free. */
bool overlaps_fixed(const struct qcow2_tables *t, uint64_t cluster, uint64_t nr)
{
	const struct qcow2 *q = t->q;
	uint64_t off = cluster << q->cluster_bits, end = (cluster + nr) << q->cluster_bits;
	uint64_t l1 = q->hdr.h.l1_table_offset, l1_end = l1 + (uint64_t)q->l1_size * 8;
	uint64_t reft_end = t->reft_off + ((uint64_t)t->reft_clusters << q->cluster_bits);

	return !cluster || (off < l1_end && end > l1) || (off < reft_end && end > t->reft_off);
}

/* These clusters lose their last reference: punched first, for once free they may be taken at once. */
static int co_drop_last(struct qcow2_tables *t, uint64_t cluster, uint64_t nr)
{
	struct qcow2 *q = t->q;
	uint64_t off = cluster << q->cluster_bits, len = nr << q->cluster_bits;
	int r;

	if (overlaps_fixed(t, cluster, nr) || !tblocks_forget(t, off, len))
		return co_qcow2_damaged(q, "clusters %" PRIu64 " to %" PRIu64 " are metadata and guest data at once",
					cluster, cluster + nr - 1);
	compressed_forget(t);
	if (!t->no_punch && off < file_size(q->file)) {
		if (len > file_size(q->file) - off)
			len = file_size(q->file) - off;
		/* Space that cannot be given back is no failure: the cluster is free all the same. */
		r = co_file_discard(q->file, off, len);
		if (r == -EOPNOTSUPP || r == -ENOTSUP || r == -ENOSYS || r == -ENODEV)
			t->no_punch = true;
	}
	r = co_refcount_add(t, cluster, nr, -1);
	if (t->scan_pos > cluster)
		t->scan_pos = cluster;
	return r;
}

static int co_drop_run(struct qcow2_tables *t, struct free_run run)
{
	struct qcow2 *q = t->q;
	uint64_t last = run.cluster, end = run.cluster + run.nr, c, refs;
	int r = 0;

	/* [last, c) are clusters with this one reference */
	for (c = run.cluster; c < end && !r; c++) {
		r = co_refcount_get(t, c, &refs);
		if (r || refs == 1)
			continue;
		if (!refs) {
			r = co_qcow2_damaged(q, "cluster %" PRIu64 " was in use with refcount 0", c);
			break;
		}
		if (last < c)
			r = co_drop_last(t, last, c - last);
		if (!r)
			r = co_refcount_add(t, c, 1, -1);
		last = c + 1;
	}
	if (!r && last < end)
		r = co_drop_last(t, last, end - last);
	return r;
}

static void co_drop_list(struct qcow2_tables *t, struct free_list *list)
{
	size_t i, n = 0;

	if (list->nr)
		qsort(list->runs, list->nr, sizeof(*list->runs), by_cluster);
	for (i = 1; i < list->nr; i++) {
		struct free_run *prev = &list->runs[n];

		if (prev->cluster + prev->nr == list->runs[i].cluster)
			prev->nr += list->runs[i].nr;
		else
			list->runs[++n] = list->runs[i];
	}
	for (i = 0; list->nr && i <= n && !t->q->fault; i++)
		if (co_drop_run(t, list->runs[i]) < 0)
			qcow2_fail(t->q, "freeing clusters failed");
	free_list_release(list);
}

static void co_reap(void *arg)
{
	struct qcow2_tables *t = arg;
	struct layer_owner *owner = &t->q->owner;

	while (t->frees_ready.nr || t->frees_abort.nr) {
		struct free_list ready = t->frees_ready, aborted = t->frees_abort;

		memset(&t->frees_ready, 0, sizeof(t->frees_ready));
		memset(&t->frees_abort, 0, sizeof(t->frees_abort));
		co_drop_list(t, &aborted);
		if (ready.nr && owner->co_drain)
			owner->co_drain(owner->arg);
		co_drop_list(t, &ready);
	}
	t->reaping = false;
	co_queue_wake_all(&t->reap_wait);
}

void reap_kick(struct qcow2_tables *t)
{
	if (t->reaping || (!t->frees_ready.nr && !t->frees_abort.nr))
		return;
	t->reaping = true;
	reactor_defer(t->q->r, &t->reap_task);
}

void reap_task_run(struct io_task *task)
{
	struct qcow2_tables *t = container_of(task, struct qcow2_tables, reap_task);

	co_start(t->q->r, co_reap, t);
}

int co_commit_settle(struct qcow2_tables *t)
{
	int r = co_commit_all(t);

	while (t->committing)
		co_queue_wait(&t->commit_wait);
	while (t->reaping || t->background)
		co_queue_wait(&t->reap_wait);
	return r;
}
