// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * buf.c - aligned buffers, pools of them, zero tests and iovec copies.
 *
 * Invariant: a pool allocates when it is made and never again; a buffer that
 * is put back goes to the oldest waiter before anyone else can take it.
 */
#include "io/buf.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

const unsigned char zero_buf[ZERO_BUF_LEN] __attribute__((aligned(BUF_ALIGN)));

void *buf_alloc(size_t len)
{
	void *p;

	if (!len)
		len = 1;
	return posix_memalign(&p, BUF_ALIGN, len) ? NULL : p;
}

void buf_free(void *p)
{
	free(p);
}

struct bufpool {
	size_t size;           /* of one buffer, as asked for */
	size_t map_len;
	unsigned char *map;
	unsigned count;
	unsigned nr_free;
	struct list waiters;
	void *free[];          /* a stack: the warmest buffer goes out first */
};

struct pool_waiter {
	struct co *co;
	void *buf;
	struct list link;
};

struct bufpool *bufpool_new(size_t size, unsigned count)
{
	size_t stride = (size + BUF_ALIGN - 1) & ~(size_t)(BUF_ALIGN - 1);
	struct bufpool *p;

	assert(size > 0 && count > 0);
	p = calloc(1, sizeof(*p) + count * sizeof(p->free[0]));
	if (!p)
		return NULL;
	p->size = size;
	p->count = count;
	p->map_len = stride * count;
	p->map = mmap(NULL, p->map_len, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p->map == MAP_FAILED) {
		free(p);
		return NULL;
	}
	list_init(&p->waiters);
	while (p->nr_free < count) {
		p->free[p->nr_free] = p->map + stride * (count - 1 - p->nr_free);
		p->nr_free++;
	}
	return p;
}

void bufpool_free(struct bufpool *p)
{
	if (!p)
		return;
	assert(p->nr_free == p->count && list_empty(&p->waiters));
	munmap(p->map, p->map_len);
	free(p);
}

void *bufpool_tryget(struct bufpool *p)
{
	return p->nr_free ? p->free[--p->nr_free] : NULL;
}

void *co_bufpool_get(struct bufpool *p)
{
	struct pool_waiter w = { .co = co_self() };

	assert(w.co);
	if (p->nr_free)
		return p->free[--p->nr_free];
	list_add_tail(&p->waiters, &w.link);
	co_yield();
	assert(w.buf);
	return w.buf;
}

void bufpool_put(struct bufpool *p, void *buf)
{
	struct pool_waiter *w;

	assert((unsigned char *)buf >= p->map && (unsigned char *)buf < p->map + p->map_len);
	if (list_empty(&p->waiters)) {
		assert(p->nr_free < p->count);
		p->free[p->nr_free++] = buf;
		return;
	}
	w = list_first(&p->waiters, struct pool_waiter, link);
	list_del(&w->link);
	w->buf = buf;
	co_wake(w->co);
}

size_t bufpool_size(const struct bufpool *p)
{
	return p->size;
}

/* 32 bytes at a time; the compiler makes SSE2 or AVX2 of it, by the caller's target. */
typedef uint64_t vec __attribute__((vector_size(32), aligned(1), may_alias));

static inline __attribute__((always_inline)) int is_zero_body(const unsigned char *p, size_t len)
{
	const unsigned char *end = p + len;
	uint64_t w;

	for (; end - p >= 128; p += 128) {
		const vec *v = (const vec *)p;
		vec acc = v[0] | v[1] | v[2] | v[3];

		if (acc[0] | acc[1] | acc[2] | acc[3])
			return 0;
	}
	for (; end - p >= 8; p += 8) {
		memcpy(&w, p, 8);
		if (w)
			return 0;
	}
	for (; p < end; p++)
		if (*p)
			return 0;
	return 1;
}

#ifdef __x86_64__
__attribute__((target("avx2"))) static int is_zero_avx2(const unsigned char *p, size_t len)
{
	return is_zero_body(p, len);
}
#endif

int buf_is_zero(const void *ptr, size_t len)
{
	const unsigned char *p = ptr;

	/* most data that is not zero shows it in its first or last byte */
	if (!len)
		return 1;
	if (p[0] | p[len - 1] | p[len / 2])
		return 0;
#ifdef __x86_64__
	if (len >= 256 && __builtin_cpu_supports("avx2"))
		return is_zero_avx2(p, len);
#endif
	return is_zero_body(p, len);
}

size_t iov_total(const struct iovec *iov, unsigned nr)
{
	size_t total = 0;

	for (unsigned i = 0; i < nr; i++)
		total += iov[i].iov_len;
	return total;
}

/* Calls for each piece of [skip, skip+len) in turn; the range must lie inside the vector. */
#define IOV_PIECES(iov, nr, skip, len, piece, n, body)                        \
	do {                                                                  \
		for (unsigned i_ = 0; len; i_++) {                            \
			size_t n;                                             \
			unsigned char *piece;                                 \
			assert(i_ < nr);                                      \
			if (skip >= iov[i_].iov_len) {                        \
				skip -= iov[i_].iov_len;                      \
				continue;                                     \
			}                                                     \
			n = iov[i_].iov_len - skip;                           \
			if (n > len)                                          \
				n = len;                                      \
			piece = (unsigned char *)iov[i_].iov_base + skip;     \
			body;                                                 \
			len -= n;                                             \
			skip = 0;                                             \
		}                                                             \
	} while (0)

void iov_from_buf(const struct iovec *iov, unsigned nr, size_t skip, const void *src, size_t len)
{
	const unsigned char *s = src;

	IOV_PIECES(iov, nr, skip, len, p, n, memcpy(p, s, n); s += n);
}

void iov_to_buf(const struct iovec *iov, unsigned nr, size_t skip, void *dst, size_t len)
{
	unsigned char *d = dst;

	IOV_PIECES(iov, nr, skip, len, p, n, memcpy(d, p, n); d += n);
}

void iov_zero(const struct iovec *iov, unsigned nr, size_t skip, size_t len)
{
	IOV_PIECES(iov, nr, skip, len, p, n, memset(p, 0, n));
}

unsigned iov_slice(const struct iovec *iov, unsigned nr, size_t skip, size_t len,
		   struct iovec *out, unsigned max)
{
	unsigned used = 0;

	IOV_PIECES(iov, nr, skip, len, p, n,
		   assert(used < max); out[used++] = ((struct iovec){ p, n }));
	return used;
}
