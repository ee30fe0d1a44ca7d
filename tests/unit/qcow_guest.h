/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow_guest.h - for the unit tests of qcow/: a guest on one layer, with an oracle in memory.
 *
 * Reads and writes go through the layer interface as the chain uses it (extents,
 * alloc, write, link), under a lock of whole clusters; what the guest must
 * see is kept in an array. Below the layer lies a second array, or nothing.
 */
#ifndef QCHAIN_TESTS_QCOW_GUEST_H
#define QCHAIN_TESTS_QCOW_GUEST_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/buf.h"
#include "io/rangelock.h"
#include "io/reactor.h"
#include "qcow/check.h"
#include "qcow/layer.h"

/* Runs a shell command; gives its exit status. Its output is shown if it is not as wanted. */
__attribute__((format(printf, 1, 2))) static inline int shell(const char *fmt, ...)
{
	char cmd[2048], out[4096];
	size_t n;
	va_list ap;
	FILE *p;
	int r;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	strncat(cmd, " 2>&1", sizeof(cmd) - strlen(cmd) - 1);
	fflush(NULL);
	p = popen(cmd, "r");
	assert_non_null(p);
	n = fread(out, 1, sizeof(out) - 1, p);
	out[n] = 0;
	while (fread(cmd, 1, 1, p))
		;
	r = pclose(p);
	r = WIFEXITED(r) ? WEXITSTATUS(r) : 256;
	if (r)
		print_message("[exit %d] %s%s", r, out, n && out[n - 1] == '\n' ? "" : "\n");
	return r;
}

static inline uint64_t rnd(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state * 0x2545f4914f6cdd1dull >> 11;
}

struct guest {
	struct reactor *r;
	struct layer *l;
	struct rangelock lock;
	uint64_t size;
	uint32_t cluster, unit;
	unsigned char *want;            /* what the guest must see */
	unsigned char *below;           /* what lies under the layer; NULL: nothing */
	bool v2, raw_data;
	unsigned char *touched;         /* per sector, set before it changes; or NULL */
	bool compress;                  /* write compressed clusters too */
	uint64_t seed;
	unsigned ops_left, running;
	int err;
};

static inline void guest_open(struct guest *g, const char *path, bool writable)
{
	struct layer_opts o = { .format = FORMAT_QCOW2, .writable = writable,
				.cache = FILE_CACHE_WRITEBACK };
	struct error e = ERROR_INIT;

	if (co_layer_open(g->r, path, &o, &g->l, &e) < 0)
		fail_msg("open: %s", e.msg);
	rangelock_init(&g->lock);
	g->size = layer_size(g->l);
	g->cluster = layer_cluster_size(g->l);
	g->unit = layer_unit(g->l);
}

static inline void guest_close(struct guest *g)
{
	struct error e = ERROR_INIT;

	if (co_layer_close(g->l, &e) < 0)
		fail_msg("close: %s", e.msg);
	g->l = NULL;
}

static inline int guest_read(struct guest *g, uint64_t off, unsigned char *buf, uint64_t len)
{
	uint64_t end = off + len;

	while (off < end) {
		struct extent x[7];
		int n = co_layer_extents(g->l, off, end - off, x, 7), i;

		if (n <= 0)
			return n < 0 ? n : -EINVAL;
		for (i = 0; i < n; i++) {
			unsigned char *to = buf + (len - (end - off));
			int r = 0;

			assert_int_equal(x[i].guest_off, off);
			assert_true(x[i].bytes > 0 && x[i].bytes <= end - off);
			if (x[i].kind == EXT_DATA) {
				r = co_file_read(layer_data_file(g->l), x[i].host_off, to, x[i].bytes);
			} else if (x[i].kind == EXT_COMPRESSED) {
				unsigned char *c = buf_alloc(g->cluster);

				r = co_layer_read_compressed(g->l, off, c);
				memcpy(to, c + off % g->cluster, x[i].bytes);
				buf_free(c);
			} else if (x[i].kind == EXT_UNALLOCATED && g->below) {
				memcpy(to, g->below + off, x[i].bytes);
			} else {
				memset(to, 0, x[i].bytes);
			}
			if (r < 0)
				return r;
			off += x[i].bytes;
		}
	}
	return 0;
}

/* Bytes of [lo, hi) as the guest shall see them after a write of [off, +len) of g->want; zeros past the end. */
static inline int guest_fill(struct guest *g, uint64_t lo, uint64_t hi, uint64_t off, uint64_t len,
			     unsigned char *buf)
{
	uint64_t in = hi < g->size ? hi : g->size;
	int r;

	memset(buf, 0, hi - lo);
	r = guest_read(g, lo, buf, in - lo);
	memcpy(buf + (off - lo), g->want + off, len);
	return r;
}

/* Writes g->want's bytes of the range. */
static inline int guest_put(struct guest *g, uint64_t off, uint64_t len)
{
	while (len) {
		struct layer_alloc a;
		struct extent x;
		uint64_t n, lo, hi;
		unsigned char *buf;
		int r = co_layer_extents(g->l, off, len, &x, 1);

		if (r < 0)
			return r;
		assert_int_equal(r, 1);
		n = x.bytes;
		if (x.kind == EXT_DATA && x.in_place) {
			r = co_file_write(layer_data_file(g->l), x.host_off, g->want + off, n);
			if (r < 0)
				return r;
			off += n;
			len -= n;
			continue;
		}
		r = co_layer_alloc(g->l, off, len, &a);
		if (r < 0)
			return r;
		n = a.guest_off + a.bytes - off;
		n = n < len ? n : len;
		lo = off / a.unit * a.unit;
		hi = (off + n + a.unit - 1) / a.unit * a.unit;
		buf = buf_alloc(hi - lo);
		r = guest_fill(g, lo, hi, off, n, buf);
		if (!r)
			r = co_file_write(layer_data_file(g->l), a.host_off + (lo - a.guest_off), buf, hi - lo);
		buf_free(buf);
		if (r < 0 || rnd(&g->seed) % 40 == 0) {
			layer_alloc_abort(g->l, &a);
			if (r < 0)
				return r;
			continue;
		}
		r = co_layer_link(g->l, &a, lo, hi - lo);
		if (r < 0)
			return r;
		off += n;
		len -= n;
	}
	return 0;
}

static inline int guest_write(struct guest *g, uint64_t off, uint64_t len)
{
	uint64_t i, c = rnd(&g->seed);

	for (i = 0; i < len; i++)
		g->want[off + i] = (unsigned char)(c + i / 512 * 7 + (c >> 8 & 1 ? i * c >> 16 : 0));
	return guest_put(g, off, len);
}

static inline int guest_zero(struct guest *g, uint64_t off, uint64_t len, bool discard, bool to_backing)
{
	bool unmap = rnd(&g->seed) & 1;
	int r;

	if (discard)
		r = co_layer_discard(g->l, off, len, g->below, to_backing);
	else
		r = co_layer_zero(g->l, off, len, unmap, g->below);
	if (to_backing && !r && g->below)
		memcpy(g->want + off, g->below + off, len);
	else
		memset(g->want + off, 0, len);
	return r == -ENOTSUP ? guest_put(g, off, len) : r;
}

static inline int guest_compressed(struct guest *g, uint64_t off)
{
	unsigned char *buf = buf_alloc(g->cluster);
	uint64_t i, c = rnd(&g->seed), n = g->cluster < g->size - off ? g->cluster : g->size - off;
	int r;

	memset(buf, 0, g->cluster);
	for (i = 0; i < n; i++)
		buf[i] = (unsigned char)(c & 7 ? i / (1 + (c >> 8) % 100) + c : rnd(&g->seed));
	memcpy(g->want + off, buf, n);
	r = co_layer_write_compressed(g->l, off, buf);
	buf_free(buf);
	return r;
}

/* One random operation on a locked range. */
static inline int guest_op(struct guest *g)
{
	uint64_t what = rnd(&g->seed) % 100, span, off, len, lo, hi;
	unsigned char *buf;
	struct range rg;
	int r;

	span = rnd(&g->seed) % 4 ? 3 * (uint64_t)g->cluster : 20 * (uint64_t)g->cluster;
	span = span < g->size ? span : g->size;
	off = rnd(&g->seed) % (g->size / 512) * 512;
	len = (1 + rnd(&g->seed) % (span / 512)) * 512;
	len = len < g->size - off ? len : g->size - off;
	if (what < 45 && what >= 30) {          /* zero, discard: units */
		off = off / g->unit * g->unit;
		len = (len + g->unit - 1) / g->unit * g->unit;
		len = len < g->size - off ? len : g->size - off;
	} else if (what >= 90) {
		off = off / g->cluster * g->cluster;
		len = g->cluster < g->size - off ? g->cluster : g->size - off;
	}
	lo = off / g->cluster * g->cluster;
	hi = (off + len + g->cluster - 1) / g->cluster * g->cluster;
	co_range_lock(&g->lock, &rg, lo, hi - lo, true);
	if (g->touched && what >= 30)
		memset(g->touched + off / 512, 1, len / 512);
	if (what < 30) {
		buf = buf_alloc(len);
		r = guest_read(g, off, buf, len);
		if (!r && memcmp(buf, g->want + off, len)) {
			uint64_t i = 0;

			while (buf[i] == g->want[off + i])
				i++;
			fail_msg("guest offset %llu reads %02x, not %02x", (unsigned long long)(off + i), buf[i],
				 g->want[off + i]);
		}
		buf_free(buf);
	} else if (what < 35) {
		r = guest_zero(g, off, len, false, false);
	} else if (what < 45) {
		r = guest_zero(g, off, len, true, what >= 42);
	} else if (what < 48) {
		r = co_layer_flush(g->l);
	} else if (what >= 90 && g->compress) {
		r = guest_compressed(g, off);
	} else {
		r = guest_write(g, off, len);
	}
	range_unlock(&g->lock, &rg);
	return r;
}

static inline int guest_worker(void *arg)
{
	struct guest *g = arg;
	int r = 0;

	while (!r && g->ops_left) {
		g->ops_left--;
		r = guest_op(g);
	}
	return r;
}

/* Random operations, `workers` side by side. */
static inline int guest_run(struct guest *g, unsigned ops, unsigned workers)
{
	struct co_group grp;

	g->ops_left = ops;
	co_group_init(&grp, g->r, 0);
	while (workers--)
		co_group_start(&grp, guest_worker, g);
	return co_group_wait(&grp);
}

#endif
