/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * buf.h - aligned buffers for direct I/O.
 *
 * buf_alloc() is for set-up and for slow paths whose number is bounded.
 * A bufpool hands out equal buffers made at start-up; the data path takes from
 * it and waits when it is empty, and never allocates: a daemon that serves a block
 * device must not need memory that only its own I/O can free.
 */
#ifndef QCHAIN_IO_BUF_H
#define QCHAIN_IO_BUF_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "io/co.h"

#define BUF_ALIGN 4096u

/* Page-aligned; NULL when there is no memory. Contents undefined. */
void *buf_alloc(size_t len);
void buf_free(void *p);

struct bufpool;
struct bufpool *bufpool_new(size_t size, unsigned count);   /* NULL: no memory */
void bufpool_free(struct bufpool *p);                       /* all buffers must be back (asserted) */
void *bufpool_tryget(struct bufpool *p);                    /* NULL when empty */
void *co_bufpool_get(struct bufpool *p);                    /* waits */
void bufpool_put(struct bufpool *p, void *buf);
size_t bufpool_size(const struct bufpool *p);

/* A read-only run of zeros, page-aligned, for writing padding: ZERO_BUF_LEN bytes. */
#define ZERO_BUF_LEN (64u << 10)
extern const unsigned char zero_buf[ZERO_BUF_LEN];

/* True if all len bytes are zero; any alignment, vectorised. */
int buf_is_zero(const void *p, size_t len);

/* --- iovec helpers: copy between a vector (from byte `skip` on) and a flat buffer --- */
size_t iov_total(const struct iovec *iov, unsigned nr);
void iov_from_buf(const struct iovec *iov, unsigned nr, size_t skip, const void *src, size_t len);
void iov_to_buf(const struct iovec *iov, unsigned nr, size_t skip, void *dst, size_t len);
void iov_zero(const struct iovec *iov, unsigned nr, size_t skip, size_t len);
/* The sub-vector [skip, skip+len) into out[] (room for max); returns the count used, asserts that it fits. */
unsigned iov_slice(const struct iovec *iov, unsigned nr, size_t skip, size_t len,
		   struct iovec *out, unsigned max);

#endif
