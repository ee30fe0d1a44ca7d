/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * compress.c - compressed clusters, both ways.
 *
 * A compressed cluster lies anywhere in the file and may share its host clusters
 * with others; each entry holds one reference on every host cluster that it touches.
 * Its bytes never change while an entry points at them. The cluster inflated
 * last is kept, so that small sequential reads inflate once.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "io/buf.h"
#include "io/log.h"
#include "qcow/tables.h"

#define SECTOR 512u
#define INLINE_MAX (256u << 10)    /* larger clusters go to a helper thread */
#define WINDOW_BITS 12             /* what QEMU writes */

void compressed_range(const struct qcow2 *q, uint64_t entry, uint64_t *host_off, uint64_t *len)
{
	unsigned shift = 62 - (q->cluster_bits - 8);
	uint64_t sectors = ((entry >> shift) & ((1ull << (q->cluster_bits - 8)) - 1)) + 1;

	*host_off = entry & ((1ull << shift) - 1) & 0x00ffffffffffffffull;
	*len = sectors * SECTOR - (*host_off & (SECTOR - 1));
}

void compressed_forget(struct qcow2_tables *t)
{
	t->z_entry = 0;
	t->z_epoch++;
}

struct inflate_job {
	const void *src;
	size_t src_len;
	void *dst;
	size_t dst_len;
	bool zstd;
};

static int inflate_raw(const struct inflate_job *j)
{
	z_stream z = { .next_in = (Bytef *)j->src, .avail_in = (uInt)j->src_len,
		       .next_out = j->dst, .avail_out = (uInt)j->dst_len };
	int r;

	r = inflateInit2(&z, -15);
	if (r != Z_OK)
		return r == Z_MEM_ERROR ? -ENOMEM : -EIO;
	/* The end marker may lie beyond the sectors counted when the cluster is full already. */
	r = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	return (r == Z_STREAM_END || r == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EIO;
}

static int inflate_zstd(const struct inflate_job *j)
{
	ZSTD_inBuffer in = { j->src, j->src_len, 0 };
	ZSTD_outBuffer out = { j->dst, j->dst_len, 0 };
	ZSTD_DCtx *d = ZSTD_createDCtx();
	size_t r = 1;

	if (!d)
		return -ENOMEM;
	/* Padding follows the frame, so the stream is read until the cluster is full. */
	while (out.pos < out.size) {
		size_t in_before = in.pos, out_before = out.pos;

		r = ZSTD_decompressStream(d, &out, &in);
		if (ZSTD_isError(r) || (in.pos == in_before && out.pos == out_before))
			break;
	}
	ZSTD_freeDCtx(d);
	return !ZSTD_isError(r) && out.pos == out.size ? 0 : -EIO;
}

static int inflate_run(void *arg)
{
	struct inflate_job *j = arg;

	return j->zstd ? inflate_zstd(j) : inflate_raw(j);
}

static int co_inflate(struct qcow2 *q, struct inflate_job *j)
{
	if (j->dst_len <= INLINE_MAX)
		return inflate_run(j);
	return co_worker_run(q->r, inflate_run, j);
}

/* Reads and inflates what entry points at into buf. */
static int co_load_compressed(struct qcow2 *q, uint64_t guest_off, uint64_t entry, void *buf)
{
	struct inflate_job j = { .dst = buf, .dst_len = q->cluster_size,
				 .zstd = q->hdr.h.compression_type == 1 };
	uint64_t host_off, len;
	void *src;
	int r;

	compressed_range(q, entry, &host_off, &len);
	src = buf_alloc(len);
	if (!src)
		return -ENOMEM;
	r = co_file_read(q->file, host_off, src, len);
	if (!r) {
		j.src = src;
		j.src_len = len;
		r = co_inflate(q, &j);
		if (r == -EIO)
			log_error("%s: the compressed cluster of guest offset %" PRIu64 " at file offset %"
				  PRIu64 " does not decompress", file_path(q->file),
				  guest_off & ~cluster_mask(q), host_off);
	}
	buf_free(src);
	return r;
}

int co_qcow2_read_compressed(struct qcow2 *q, uint64_t guest_off, void *buf)
{
	struct qcow2_tables *t = q->t;
	struct l2_slot s;
	uint64_t entry, epoch;
	int r;

	r = co_l2_lookup(q, guest_off, &s);
	if (r < 0)
		return r;
	entry = s.block ? l2_entry(q, s.block, s.slot) : 0;
	if (!(entry & QCOW2_L2_COMPRESSED))
		return -ESTALE;
	if (entry == t->z_entry) {
		memcpy(buf, t->z_buf, q->cluster_size);
		return 0;
	}
	epoch = t->z_epoch;
	r = co_load_compressed(q, guest_off, entry, buf);
	if (r < 0)
		return r;
	if (!t->z_buf)
		t->z_buf = buf_alloc(q->cluster_size);
	if (t->z_buf && epoch == t->z_epoch) {
		memcpy(t->z_buf, buf, q->cluster_size);
		t->z_entry = entry;
	}
	return 0;
}

/* --- writing --- */

struct deflate_job {
	const void *src;
	void *dst;
	size_t src_len, dst_len;       /* dst_len: room, then what was used */
	bool zstd;
};

/* 0; -ENOSPC: it does not shrink; other -errno. Runs on a helper thread. */
static int deflate_run(void *arg)
{
	struct deflate_job *j = arg;
	z_stream z = { .next_in = (Bytef *)j->src, .avail_in = (uInt)j->src_len,
		       .next_out = j->dst, .avail_out = (uInt)j->dst_len };
	size_t n;
	int r;

	if (j->zstd) {
		n = ZSTD_compress(j->dst, j->dst_len, j->src, j->src_len, ZSTD_CLEVEL_DEFAULT);
		if (ZSTD_isError(n))
			return -ENOSPC;
		j->dst_len = n;
		return 0;
	}
	r = deflateInit2(&z, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, 9, Z_DEFAULT_STRATEGY);
	if (r != Z_OK)
		return r == Z_MEM_ERROR ? -ENOMEM : -EINVAL;
	r = deflate(&z, Z_FINISH);
	j->dst_len -= z.avail_out;
	deflateEnd(&z);
	return r == Z_STREAM_END ? 0 : -ENOSPC;
}

/*
 * While clusters are packed into a host cluster, packing holds a reference of its own on it (the
 * one it was taken with), so that it cannot be freed and reused under the packer.
 * It is dropped when packing leaves the cluster. z_lock is held.
 */
static void pack_leave(struct qcow2_tables *t)
{
	unsigned bits = t->q->cluster_bits;

	if (t->z_end)
		clusters_drop(t, (t->z_end - 1) >> bits, 1);
	t->z_next = t->z_end = 0;
}

void compressed_close(struct qcow2_tables *t)
{
	pack_leave(t);
}

/* May the cluster being packed into take one more reference? */
static int co_pack_fits(struct qcow2_tables *t, uint64_t len, bool *fits)
{
	uint64_t refs = 0;
	int r = 0;

	*fits = false;
	if (t->z_next < t->z_end)
		r = co_refcount_get(t, t->z_next >> t->q->cluster_bits, &refs);
	if (!r && refs && refs < refcount_max(t->q))
		*fits = t->z_end - t->z_next >= len;
	if (!r && !*fits && refs >= refcount_max(t->q))
		pack_leave(t);
	return r;
}

/* Finds len bytes for a compressed cluster and takes a reference on each host cluster touched. z_lock is held. */
static int co_pack(struct qcow2_tables *t, uint64_t len, uint64_t *host_off)
{
	struct qcow2 *q = t->q;
	uint64_t off, got, first, last;
	bool fits, zeroed;
	int r = co_pack_fits(t, len, &fits);

	if (!r && !fits) {
		r = co_clusters_take(t, 1, &off, &got, &zeroed);
		if (r < 0)
			return r;
		if (refcount_max(q) == 1) {
			*host_off = off;
			return 0;
		}
		if (t->z_next < t->z_end && off == t->z_end) {
			/* Goes on from the last cluster into this one: the old packing reference ends below. */
			first = t->z_next >> q->cluster_bits;
			r = co_refcount_add(t, first + 1, 1, 1);
			if (r < 0)
				return r;
			/* The packing reference of the first cluster becomes the entry's. */
			*host_off = t->z_next;
			t->z_next += len;
			t->z_end = off + q->cluster_size;
			return 0;
		}
		pack_leave(t);
		t->z_next = off;
		t->z_end = off + q->cluster_size;
	}
	if (r < 0)
		return r;
	first = t->z_next >> q->cluster_bits;
	last = (t->z_next + len - 1) >> q->cluster_bits;
	r = co_refcount_add(t, first, last - first + 1, 1);
	if (r < 0)
		return r;
	*host_off = t->z_next;
	t->z_next += len;
	if (t->z_next == t->z_end)
		pack_leave(t);
	return 0;
}

static int co_write_plain(struct qcow2 *q, uint64_t guest_off, const void *buf)
{
	struct layer_alloc a;
	int r = co_qcow2_alloc(q, guest_off, q->cluster_size, &a);

	if (r < 0)
		return r;
	r = co_file_write(q->data_file, a.host_off, buf, q->cluster_size);
	if (r < 0) {
		qcow2_alloc_abort(q, &a);
		return r;
	}
	return co_qcow2_link(q, &a, guest_off, q->cluster_size);
}

/* Stores len compressed bytes and makes the entry point at them. */
static int co_write_packed(struct qcow2 *q, uint64_t guest_off, const void *buf, uint64_t len)
{
	struct qcow2_tables *t = q->t;
	unsigned shift = 62 - (q->cluster_bits - 8);
	uint64_t host, entry, first;
	enum l2_type type;
	struct l2_slot s;
	const char *why;
	int r;

	co_mutex_lock(&t->z_lock);
	r = co_pack(t, len, &host);
	co_mutex_unlock(&t->z_lock);
	if (r < 0)
		return r;
	r = host + len > (1ull << (shift < 56 ? shift : 56)) ? -EFBIG : 0;
	if (!r)
		r = co_file_write(q->file, host, buf, len);
	if (!r)
		r = co_l2_writable(q, guest_off, &s);
	if (!r && l2_classify(q, guest_off, l2_entry(q, s.block, s.slot), l2_bitmap(q, s.block, s.slot),
			      &type, &why) < 0)
		r = co_qcow2_damaged(q, "the L2 entry of guest offset %" PRIu64 " is %s", guest_off, why);
	if (!r && !q->writable)
		r = -EIO;
	if (r < 0) {
		first = host >> q->cluster_bits;
		clusters_drop(t, first, ((host + len - 1) >> q->cluster_bits) - first + 1);
		return r;
	}
	entry = host | QCOW2_L2_COMPRESSED | (((host + len - 1) >> 9) - (host >> 9)) << shift;
	l2_entry_free(q, l2_entry(q, s.block, s.slot), type);
	l2_entry_set(q, s.block, s.slot, entry, 0);
	return 0;
}

int co_qcow2_write_compressed(struct qcow2 *q, uint64_t guest_off, const void *buf)
{
	struct deflate_job j = { .src = buf, .src_len = q->cluster_size, .dst_len = q->cluster_size - 1,
				 .zstd = q->hdr.h.compression_type == 1 };
	int r;

	assert(!(guest_off & cluster_mask(q)));
	if (q->external_data)
		return co_write_plain(q, guest_off, buf);
	r = co_commit_throttle(q->t);
	if (r < 0)
		return r;
	j.dst = buf_alloc(q->cluster_size);
	if (!j.dst)
		return -ENOMEM;
	r = co_worker_run(q->r, deflate_run, &j);
	if (!r)
		r = co_write_packed(q, guest_off, j.dst, j.dst_len);
	else if (r == -ENOSPC)
		r = co_write_plain(q, guest_off, buf);
	buf_free(j.dst);
	return r;
}
