// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * create_layout.c - see create_layout.h.
 *
 * Invariant: a cluster has its bit in `used` if and only if something in this
 * layout is there, and a refcount block exists for every cluster that has.
 *
 * The allocator searches forward from free_index. When it needs a refcount block that is not there,
 * it makes one and begins the allocation anew (-EAGAIN inside this file), for the block may lie
 * where the caller's clusters were to be. When the refcount table is full, a new area of table and
 * blocks that describe themselves is laid out, and the old table is given back.
 */
#include "qcow/create_layout.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/tables.h"

#define MAX_SLICE_BYTES (64u << 10)
#define NOWHERE UINT64_MAX

static uint64_t div_up(uint64_t a, uint64_t b)
{
	return a / b + !!(a % b);
}

static uint64_t cluster_size(const struct layout *lo)
{
	return 1ull << lo->cluster_bits;
}

/* --- used clusters --- */

static bool is_used(const struct layout *lo, uint64_t cluster)
{
	return cluster / 64 < lo->nr_used_words && lo->used[cluster / 64] >> cluster % 64 & 1;
}

static int set_used(struct layout *lo, uint64_t cluster, uint64_t nr)
{
	uint64_t words = (cluster + nr) / 64 + 1;

	if (cluster + nr > (uint64_t)INT64_MAX >> lo->cluster_bits)
		return -EFBIG;
	if (words > lo->nr_used_words) {
		uint64_t *more;

		words = words < lo->nr_used_words * 2 ? lo->nr_used_words * 2 : words;
		more = realloc(lo->used, words * sizeof(*more));
		if (!more)
			return -ENOMEM;
		memset(more + lo->nr_used_words, 0, (words - lo->nr_used_words) * sizeof(*more));
		lo->used = more;
		lo->nr_used_words = words;
	}
	for (; nr; nr--, cluster++)
		lo->used[cluster / 64] |= 1ull << cluster % 64;
	return 0;
}

static void clear_used(struct layout *lo, uint64_t cluster, uint64_t nr)
{
	if (nr && cluster < lo->free_index)
		lo->free_index = cluster;
	for (; nr; nr--, cluster++)
		lo->used[cluster / 64] &= ~(1ull << cluster % 64);
}

static uint64_t used_end(const struct layout *lo)
{
	uint64_t w = lo->nr_used_words;

	while (w && !lo->used[w - 1])
		w--;
	return w ? w * 64 - (uint64_t)__builtin_clzll(lo->used[w - 1]) : 0;
}

/* --- refcount structures --- */

/* Blocks, and clusters of table, that describe `clusters` and themselves. */
static uint64_t refcount_blocks_for(const struct layout *lo, uint64_t clusters, bool generous)
{
	uint64_t per_table = cluster_size(lo) / 8, table = 0, blocks = 0, last, n = 0;

	do {
		last = n;
		blocks = div_up(clusters + table + blocks, lo->refs_per_block);
		table = div_up(blocks, per_table);
		n = clusters + blocks + table;
		if (n == last && generous) {
			clusters += div_up(table, 2);
			n = 0;
			generous = false;
		}
	} while (n != last);
	return blocks;
}

/*
 * New blocks where there are none, and a new table, from cluster `start` on: for all clusters up to
 * start and `more` after it. *end: the first cluster behind. exact: no room for growth.
 */
static int refcount_area(struct layout *lo, uint64_t start, uint64_t more, bool exact,
			 uint64_t index, uint64_t block, uint64_t *end)
{
	uint64_t blocks = refcount_blocks_for(lo, start + more, !exact);
	uint64_t size = exact ? blocks : blocks + div_up(blocks, 2);
	uint64_t per_table = cluster_size(lo) / 8, at = start, *table;
	uint64_t old_at = lo->reft_at, old_clusters = lo->reft_size / per_table;
	int rc;

	size = div_up(size, per_table) * per_table;
	if (size > QCOW2_MAX_REFT_BYTES / 8)
		return -EFBIG;
	table = calloc(size, sizeof(*table));
	if (!table)
		return -ENOMEM;
	/* an exact table may be shorter; what it leaves out is room that was never used */
	memcpy(table, lo->reft, (size < lo->reft_size ? size : lo->reft_size) * sizeof(*table));
	if (block)
		table[index] = block;
	for (uint64_t i = start / lo->refs_per_block; i < blocks; i++)
		if (!table[i])
			table[i] = at++;
	free(lo->reft);
	lo->reft = table;
	lo->reft_size = size;
	lo->reft_at = at;
	*end = at + size / per_table;
	rc = set_used(lo, start, *end - start);
	if (!rc)
		clear_used(lo, old_at, old_clusters);
	return rc;
}

static uint64_t find_free(struct layout *lo, uint64_t nr)
{
	for (uint64_t i = 0; i < nr; i++)
		if (is_used(lo, lo->free_index++))
			i = UINT64_MAX;
	return lo->free_index - nr;
}

static int take(struct layout *lo, uint64_t cluster, uint64_t nr);

/* Makes sure that a refcount block describes cluster. -EAGAIN: it was made just now. */
static int want_block(struct layout *lo, uint64_t cluster)
{
	uint64_t index = cluster / lo->refs_per_block, block, used_blocks, end;
	int rc;

	if (index < lo->reft_size && lo->reft[index])
		return 0;
	block = find_free(lo, 1);
	/* one that describes itself needs no other */
	rc = block / lo->refs_per_block == index ? set_used(lo, block, 1) : take(lo, block, 1);
	if (rc < 0)
		return rc;
	if (index < lo->reft_size) {
		lo->reft[index] = block;
		return -EAGAIN;
	}
	used_blocks = div_up(cluster + 1 > block ? cluster + 1 : block, lo->refs_per_block);
	rc = refcount_area(lo, used_blocks * lo->refs_per_block, 0, false, index, block, &end);
	return rc ? rc : -EAGAIN;
}

/* Gives clusters [cluster, +nr) their reference. -EAGAIN: nothing done, search again. */
static int take(struct layout *lo, uint64_t cluster, uint64_t nr)
{
	uint64_t done = 0;
	int rc = 0;

	while (done < nr) {
		uint64_t n = lo->refs_per_block - (cluster + done) % lo->refs_per_block;

		rc = want_block(lo, cluster + done);
		if (rc == -EAGAIN && lo->free_index > cluster)
			lo->free_index = cluster;
		if (rc < 0)
			break;
		n = n < nr - done ? n : nr - done;
		rc = set_used(lo, cluster + done, n);
		if (rc < 0)
			break;
		done += n;
	}
	if (rc < 0)
		clear_used(lo, cluster, done);
	return rc;
}

/* --- allocation --- */

static int alloc(struct layout *lo, uint64_t nr, uint64_t *out)
{
	int rc;

	do {
		*out = find_free(lo, nr);
		rc = take(lo, *out, nr);
	} while (rc == -EAGAIN);
	return rc;
}

/* As many of [cluster, +nr) as are free in a row; *got may be 0. */
static int alloc_at(struct layout *lo, uint64_t cluster, uint64_t nr, uint64_t *got)
{
	int rc;

	do {
		for (*got = 0; *got < nr && !is_used(lo, cluster + *got); ++*got)
			;
		rc = take(lo, cluster, *got);
	} while (rc == -EAGAIN);
	return rc;
}

static int want_l2(struct layout *lo, uint64_t guest)
{
	uint64_t *l2 = &lo->l1[guest >> lo->l2_bits];

	return *l2 ? 0 : alloc(lo, 1, l2);
}

static int add_run(struct layout *lo, uint64_t guest, uint64_t host, uint64_t nr)
{
	struct layout_run *last = lo->nr_runs ? &lo->runs[lo->nr_runs - 1] : NULL;

	if (last && last->guest + last->nr == guest && last->host + last->nr == host) {
		last->nr += nr;
		return 0;
	}
	/* room for 2^n */
	if (!(lo->nr_runs & (lo->nr_runs - 1))) {
		size_t cap = lo->nr_runs ? lo->nr_runs * 2 : 1;
		struct layout_run *more = realloc(lo->runs, cap * sizeof(*more));

		if (!more)
			return -ENOMEM;
		lo->runs = more;
	}
	lo->runs[lo->nr_runs++] = (struct layout_run){guest, host, nr};
	return 0;
}

static uint64_t slice_left(const struct layout *lo, uint64_t guest, uint64_t nr)
{
	uint64_t left = lo->slice - guest % lo->slice;

	return left < nr ? left : nr;
}

/* --- preallocation --- */

/* One contiguous run of at most `bytes` from guest cluster `guest` on; *bytes becomes its length.
 */
static int metadata_chunk(struct layout *lo, uint64_t guest, uint64_t *bytes)
{
	uint64_t want = div_up(*bytes, cluster_size(lo)), done = 0, first = NOWHERE;
	int rc;

	while (done < want) {
		uint64_t nr = slice_left(lo, guest + done, want - done), host;

		rc = want_l2(lo, guest + done);
		if (rc < 0)
			return rc;
		if (lo->external) {
			host = guest + done;
		} else if (first == NOWHERE) {
			rc = alloc(lo, nr, &host);
		} else {
			host = first + done;
			rc = alloc_at(lo, host, nr, &nr);
		}
		if (!rc && nr)
			rc = add_run(lo, guest + done, host, nr);
		if (rc < 0)
			return rc;
		if (!nr)
			break;
		first = first == NOWHERE ? host : first;
		done += nr;
	}
	if (done < want)
		*bytes = done << lo->cluster_bits;
	/* like QEMU's, the file ends with a whole subcluster */
	lo->data_end = (first << lo->cluster_bits) + div_up(*bytes, lo->unit) * lo->unit;
	return 0;
}

static int prealloc_metadata(struct layout *lo, uint64_t size)
{
	uint64_t max = INT_MAX & ~(cluster_size(lo) - 1), off = 0;

	while (off < size) {
		uint64_t bytes = size - off < max ? size - off : max;
		int rc = metadata_chunk(lo, off >> lo->cluster_bits, &bytes);

		if (rc < 0)
			return rc;
		off += bytes;
	}
	return 0;
}

/* All data in one piece behind refcounts for it; the L2 tables go where there is room. */
static int prealloc_data(struct layout *lo, uint64_t size)
{
	uint64_t nr = div_up(size, cluster_size(lo)), host, got;
	uint64_t nr_l2 = div_up(nr, 1ull << lo->l2_bits) + 1;
	int rc = refcount_area(lo, used_end(lo), nr + nr_l2, true, 0, 0, &host);

	if (!rc)
		rc = alloc_at(lo, host, nr, &got);
	if (rc < 0)
		return rc;
	assert(got == nr);
	lo->data_start = host << lo->cluster_bits;
	lo->data_end = lo->data_start + (nr << lo->cluster_bits);
	for (uint64_t guest = 0, n; guest < nr; guest += n) {
		n = slice_left(lo, guest, nr - guest);
		rc = want_l2(lo, guest);
		if (!rc)
			rc = add_run(lo, guest, host + guest, n);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int place_all(struct layout *lo, const struct qcow2_disk_header *h, enum prealloc prealloc)
{
	uint64_t first;
	int rc;

	/* header, refcount table, first refcount block */
	lo->reft_size = cluster_size(lo) / 8;
	lo->reft = calloc(lo->reft_size, sizeof(*lo->reft));
	if (!lo->reft)
		return -ENOMEM;
	lo->reft_at = 1;
	lo->reft[0] = 2;
	rc = alloc(lo, 3, &first);
	if (rc < 0)
		return rc;
	assert(first == 0);
	lo->l1_size = qcow2_l1_needed(h);
	if (lo->l1_size > QCOW2_MAX_L1_BYTES / 8)
		return -EFBIG;
	lo->l1 = calloc(lo->l1_size + 1, sizeof(*lo->l1));
	if (!lo->l1)
		return -ENOMEM;
	if (lo->l1_size)
		rc = alloc(lo, div_up(lo->l1_size * 8, cluster_size(lo)), &lo->l1_at);
	if (rc < 0 || prealloc == PREALLOC_OFF)
		return rc;
	if (lo->external || prealloc == PREALLOC_METADATA)
		return prealloc_metadata(lo, h->size);
	return prealloc_data(lo, h->size);
}

int layout_init(struct layout *lo, const struct qcow2_disk_header *h, enum prealloc prealloc)
{
	bool extended = h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2;
	uint32_t slice_bytes;
	int rc;

	memset(lo, 0, sizeof(*lo));
	lo->cluster_bits = h->cluster_bits;
	lo->refcount_order = h->refcount_order;
	lo->refs_per_block = (cluster_size(lo) * 8) >> h->refcount_order;
	lo->unit = cluster_size(lo) >> (extended ? 5 : 0);
	lo->l2_entry_bytes = extended ? 16 : 8;
	lo->l2_bits = h->cluster_bits - (extended ? 4 : 3);
	slice_bytes =
		cluster_size(lo) < MAX_SLICE_BYTES ? (uint32_t)cluster_size(lo) : MAX_SLICE_BYTES;
	lo->slice = slice_bytes / lo->l2_entry_bytes;
	lo->external = h->incompatible_features & QCOW2_INCOMPAT_DATA_FILE;
	rc = place_all(lo, h, prealloc);
	if (rc < 0)
		layout_free(lo);
	return rc;
}

void layout_free(struct layout *lo)
{
	free(lo->used);
	free(lo->reft);
	free(lo->l1);
	free(lo->runs);
	memset(lo, 0, sizeof(*lo));
}

void layout_fill_header(const struct layout *lo, struct qcow2_disk_header *h)
{
	h->l1_size = (uint32_t)lo->l1_size;
	h->l1_table_offset = lo->l1_at << lo->cluster_bits;
	h->refcount_table_offset = lo->reft_at << lo->cluster_bits;
	h->refcount_table_clusters = (uint32_t)(lo->reft_size * 8 >> lo->cluster_bits);
}

/* --- writing --- */

static uint64_t max_end(uint64_t end, uint64_t at, uint64_t bytes)
{
	return at + bytes > end ? at + bytes : end;
}

uint64_t layout_file_end(const struct layout *lo)
{
	uint64_t size = cluster_size(lo), end = size;

	end = max_end(end, lo->reft_at << lo->cluster_bits, lo->reft_size * 8);
	end = max_end(end, lo->l1_at << lo->cluster_bits, lo->l1_size * 8);
	for (uint64_t i = 0; i < lo->reft_size; i++)
		end = max_end(end, lo->reft[i] << lo->cluster_bits, size);
	for (uint64_t i = 0; i < lo->l1_size; i++)
		end = max_end(end, lo->l1[i] << lo->cluster_bits, size);
	return end;
}

static int co_write_refblocks_of(const struct layout *lo, struct file *f, uint8_t *buf)
{
	int rc = 0;

	for (uint64_t i = 0; !rc && i < lo->reft_size; i++) {
		if (!lo->reft[i])
			continue;
		memset(buf, 0, cluster_size(lo));
		for (uint64_t k = 0; k < lo->refs_per_block; k++)
			if (is_used(lo, i * lo->refs_per_block + k))
				refcount_store(buf, lo->refcount_order, k, 1);
		rc = co_file_write(f, lo->reft[i] << lo->cluster_bits, buf, cluster_size(lo));
	}
	return rc;
}

/* A table of 64-bit places, made on the spot. */
static int co_write_places(const struct layout *lo, struct file *f, uint64_t at,
			   const uint64_t *cluster, uint64_t nr, uint64_t flag)
{
	uint64_t *buf;
	int rc;

	if (!nr)
		return 0;
	buf = buf_alloc(nr * 8);
	if (!buf)
		return -ENOMEM;
	for (uint64_t i = 0; i < nr; i++)
		buf[i] = htobe64(cluster[i] ? cluster[i] << lo->cluster_bits | flag : 0);
	rc = co_file_write(f, at << lo->cluster_bits, buf, nr * 8);
	buf_free(buf);
	return rc;
}

static int co_write_l2_tables(const struct layout *lo, struct file *f, uint8_t *buf)
{
	uint64_t mask = (1ull << lo->l2_bits) - 1, words = lo->l2_entry_bytes / 8;
	uint64_t *table = (uint64_t *)buf, index = NOWHERE;
	int rc = 0;

	for (size_t i = 0; !rc && i < lo->nr_runs; i++) {
		const struct layout_run *run = &lo->runs[i];

		for (uint64_t k = 0; !rc && k < run->nr; k++) {
			uint64_t guest = run->guest + k;

			if (guest >> lo->l2_bits != index) {
				if (index != NOWHERE)
					rc = co_file_write(f, lo->l1[index] << lo->cluster_bits,
							   buf, cluster_size(lo));
				memset(buf, 0, cluster_size(lo));
				index = guest >> lo->l2_bits;
			}
			table[(guest & mask) * words] =
				htobe64((run->host + k) << lo->cluster_bits | QCOW2_COPIED);
		}
	}
	if (!rc && index != NOWHERE)
		rc = co_file_write(f, lo->l1[index] << lo->cluster_bits, buf, cluster_size(lo));
	return rc;
}

int co_layout_write(const struct layout *lo, struct file *f)
{
	uint8_t *buf = buf_alloc(cluster_size(lo));
	int rc;

	if (!buf)
		return -ENOMEM;
	rc = co_write_refblocks_of(lo, f, buf);
	if (!rc)
		rc = co_write_places(lo, f, lo->reft_at, lo->reft, lo->reft_size, 0);
	if (!rc)
		rc = co_write_l2_tables(lo, f, buf);
	if (!rc)
		rc = co_write_places(lo, f, lo->l1_at, lo->l1, lo->l1_size, QCOW2_COPIED);
	buf_free(buf);
	return rc;
}
