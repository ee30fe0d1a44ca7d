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

void compressed_tables_close(struct qcow2_tables *t)
{
	buf_free(t->z_buf);
	t->z_buf = NULL;
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
