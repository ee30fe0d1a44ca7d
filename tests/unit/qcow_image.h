/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qcow_image.h - for the unit tests of qcow/: images in a private folder, opened and closed in runs of
 * one reactor, and their bytes changed by hand.
 */
#ifndef QCHAIN_TESTS_QCOW_IMAGE_H
#define QCHAIN_TESTS_QCOW_IMAGE_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/log.h"
#include "io/reactor_priv.h"
#include "qcow/create.h"
#include "qcow/qcow2.h"

static struct reactor *r;
static char dir[64];
static bool have_qemu;

static inline int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static inline int run(const char *fmt, ...)
{
	char cmd[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static inline int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 64 };
	const char *tmp = getenv("TMPDIR");

	/* each refusal is in an error, and what is logged beside it would fill the screen */
	log_setup("test", LOG_LVL_ERROR, false);
	snprintf(dir, sizeof(dir), "%.40s/qc-header-XXXXXX", tmp ? tmp : "/var/tmp");
	if (!mkdtemp(dir) || chdir(dir) < 0)
		return -1;
	have_qemu = run("command -v qemu-img >/dev/null 2>&1") == 0;
	return reactor_new(&cfg, &r, NULL);
}

static inline int teardown(void **state)
{
	reactor_free(r);
	return chdir("/") < 0 || run("rm -rf '%s'", dir) ? -1 : 0;
}

/* --- the calls under test, each as one run of the reactor --- */

struct call {
	const char *path;
	struct create_opts create;
	struct layer_opts lo;
	struct layer *l;
	const char *name, *format;
	struct error e;
};

static inline int co_create(void *arg)
{
	struct call *c = arg;

	return co_image_create(r, c->path, &c->create, &c->e);
}

static inline int co_open(void *arg)
{
	struct call *c = arg;

	return co_layer_open(r, c->path, &c->lo, &c->l, &c->e);
}

static inline int co_close(void *arg)
{
	struct call *c = arg;

	return co_layer_close(c->l, &c->e);
}

static inline int co_set_backing(void *arg)
{
	struct call *c = arg;

	return co_layer_set_backing(c->l, c->name, c->format, &c->e);
}

static inline void create(const char *path, struct create_opts o)
{
	struct call c = { .path = path, .create = o };

	c.create.format = FORMAT_QCOW2;
	/* anew, not in place: a test that failed may still hold the old one open */
	unlink(path);
	c.create.no_backing_check = true;
	if (!c.create.size)
		c.create.size = 10 << 20;
	if (reactor_run_co(r, co_create, &c))
		fail_msg("%s", c.e.msg);
}

static inline int try_open(const char *path, struct layer_opts lo, struct layer **l, struct error *e)
{
	struct call c = { .path = path, .lo = lo };
	int rc;

	c.lo.cache = FILE_CACHE_WRITEBACK;
	rc = reactor_run_co(r, co_open, &c);
	*l = c.l;
	if (e)
		*e = c.e;
	else if (rc)
		fail_msg("%s: %s", path, c.e.msg);
	return rc;
}

static inline struct layer *open_layer(const char *path, bool writable)
{
	struct layer *l;

	try_open(path, (struct layer_opts){ .format = FORMAT_QCOW2, .writable = writable }, &l, NULL);
	return l;
}

static inline void close_layer(struct layer *l)
{
	struct call c = { .l = l };

	if (reactor_run_co(r, co_close, &c))
		fail_msg("%s", c.e.msg);
}

static inline int set_backing(struct layer *l, const char *name, const char *format)
{
	struct call c = { .l = l, .name = name, .format = format };

	return reactor_run_co(r, co_set_backing, &c);
}

/* --- files by hand --- */

static inline void peek(const char *path, uint64_t off, void *buf, size_t len)
{
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, (off_t)off), len);
	close(fd);
}

static inline void poke(const char *path, uint64_t off, const void *buf, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, buf, len, (off_t)off), len);
	close(fd);
}

static inline void poke_be(const char *path, uint64_t off, unsigned bytes, uint64_t value)
{
	unsigned char buf[8];

	for (unsigned i = bytes; i-- > 0; value >>= 8)
		buf[i] = (unsigned char)value;
	poke(path, off, buf, bytes);
}

static inline uint64_t peek_be(const char *path, uint64_t off, unsigned bytes)
{
	unsigned char buf[8];
	uint64_t v = 0;

	peek(path, off, buf, bytes);
	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | buf[i];
	return v;
}

#endif
