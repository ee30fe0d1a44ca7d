// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_qcow_chain.c - opening chains, and what requests do, each rule by itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/reactor.h"
#include "qcow/chain.h"
#include "qcow/create.h"

#define MIB (1u << 20)

static struct reactor *reactor;
static char folder[64];
static struct error err;

/* --- helpers; all in coroutines --- */

static const char *at(const char *name)
{
	static char path[8][128];
	static unsigned turn;
	char *p = path[turn++ % 8];

	snprintf(p, sizeof(path[0]), "%s/%s", folder, name);
	return p;
}

static void make(const char *name, uint64_t size, const char *backing, const char *format,
		 uint32_t cluster, int extended)
{
	struct create_opts o = { .format = FORMAT_QCOW2, .size = size, .backing_name = backing,
				 .backing_format = format, .cluster_size = cluster,
				 .extended_l2 = extended, .overwrite = true };
	struct error e = ERROR_INIT;

	if (co_image_create(reactor, at(name), &o, &e) < 0)
		fail_msg("%s", e.msg);
}

static void make_raw(const char *name, uint64_t size, int byte)
{
	int fd = open(at(name), O_CREAT | O_TRUNC | O_RDWR, 0600);
	unsigned char *buf = malloc(size);

	assert_true(fd >= 0);
	memset(buf, byte, size);
	assert_int_equal(write(fd, buf, size), size);
	free(buf);
	close(fd);
}

static int try_open(const char *name, bool read_only, struct chain **c)
{
	struct chain_opts o = { .image = at(name), .read_only = read_only,
				.cache = FILE_CACHE_WRITEBACK };

	memset(&err, 0, sizeof(err));
	return co_chain_open(reactor, &o, c, &err);
}

static struct chain *must_open(const char *name)
{
	struct chain *c;

	if (try_open(name, false, &c) < 0)
		fail_msg("%s", err.msg);
	return c;
}

static void must_close(struct chain *c)
{
	struct error e = ERROR_INIT;

	if (co_chain_close(c, &e) < 0)
		fail_msg("%s", e.msg);
}

static void expect(struct chain *c, uint64_t off, uint64_t bytes, int byte)
{
	unsigned char *buf = malloc(bytes);

	memset(buf, 0xee, bytes);
	assert_int_equal(co_chain_read(c, off, buf, bytes), 0);
	for (uint64_t i = 0; i < bytes; i++)
		if (buf[i] != byte)
			fail_msg("byte %llu is %d, not %d", (unsigned long long)(off + i), buf[i], byte);
	free(buf);
}

static int put(struct chain *c, uint64_t off, uint64_t bytes, int byte)
{
	unsigned char *buf = malloc(bytes);
	int rc;

	memset(buf, byte, bytes);
	rc = co_chain_write(c, off, buf, bytes);
	free(buf);
	return rc;
}

/* Opening fails with this code and these words. */
static void refused(const char *name, int code, const char *words)
{
	struct chain *c;

	assert_int_equal(try_open(name, false, &c), -code);
	assert_null(c);
	if (!strstr(err.msg, words))
		fail_msg("'%s' is not in: %s", words, err.msg);
	if (strchr(err.msg, '\n'))
		fail_msg("more than a line: %s", err.msg);
}

/* --- opening --- */

static int names_and_order(void *arg)
{
	struct chain *c;

	make_raw("base.raw", MIB, 1);
	make("mid", MIB, "base.raw", "raw", 65536, 0);
	make("top", MIB, at("mid"), "qcow2", 65536, 1);
	c = must_open("top");
	assert_int_equal(chain_depth(c), 3);
	assert_string_equal(layer_node_name(chain_layer(c, 0)), "layer-0");
	assert_string_equal(layer_path(chain_layer(c, 0)), at("base.raw"));
	assert_string_equal(layer_node_name(chain_active(c)), "layer-2");
	assert_ptr_equal(chain_find(c, "layer-1"), chain_layer(c, 1));
	assert_ptr_equal(chain_find(c, at("base.raw")), chain_layer(c, 0));
	assert_null(chain_find(c, "layer-3"));
	assert_true(layer_writable(chain_active(c)));
	assert_false(layer_writable(chain_layer(c, 1)));
	expect(c, 0, MIB, 1);
	must_close(c);
	return 0;
}

static int a_loop_is_named(void *arg)
{
	make("a", MIB, NULL, NULL, 65536, 0);
	make("b", MIB, "a", "qcow2", 65536, 0);
	make("c", MIB, "b", "qcow2", 65536, 0);
	assert_int_equal(unlink(at("a")), 0);
	make("a", MIB, "b", "qcow2", 65536, 0);
	refused("c", ELOOP, "a loop");
	assert_non_null(strstr(err.msg, at("b")));
	/* and of one alone */
	make("x", MIB, NULL, NULL, 65536, 0);
	make("self", MIB, "x", "qcow2", 65536, 0);
	assert_int_equal(unlink(at("x")), 0);
	assert_int_equal(symlink(at("self"), at("x")), 0);
	refused("self", ELOOP, "a loop");
	return 0;
}

static int a_missing_backing_file_names_both(void *arg)
{
	make("lost", MIB, NULL, NULL, 65536, 0);
	make("over", MIB, "lost", "qcow2", 65536, 0);
	assert_int_equal(unlink(at("lost")), 0);
	refused("over", ENOENT, "does not exist");
	assert_non_null(strstr(err.msg, at("over")));
	assert_non_null(strstr(err.msg, at("lost")));
	refused("nowhere", ENOENT, "nowhere");
	return 0;
}

/* Takes the backing format extension out of a header that our creation wrote. */
static void drop_format(const char *name)
{
	unsigned char buf[4096];
	int fd = open(at(name), O_RDWR);
	unsigned pos = 104;

	assert_int_equal(pread(fd, buf, sizeof(buf), 0), sizeof(buf));
	pos = buf[100] << 24 | buf[101] << 16 | buf[102] << 8 | buf[103];
	for (;;) {
		unsigned len = buf[pos + 4] << 24 | buf[pos + 5] << 16 | buf[pos + 6] << 8 | buf[pos + 7];

		assert_true(pos + 8 < sizeof(buf));
		if (buf[pos] == 0xe2 && buf[pos + 1] == 0x79)
			break;
		pos += 8 + ((len + 7) & ~7u);
	}
	buf[pos] = 0x11;   /* an extension nobody knows */
	assert_int_equal(pwrite(fd, buf, sizeof(buf), 0), sizeof(buf));
	close(fd);
}

static int a_format_is_never_guessed(void *arg)
{
	struct chain_opts o = { .read_only = true, .backing_format = "raw" };
	struct chain *c;

	make("fbase", MIB, NULL, NULL, 65536, 0);
	make("fover", MIB, "fbase", "qcow2", 65536, 0);
	drop_format("fover");
	refused("fover", EINVAL, "but not its format");
	assert_non_null(strstr(err.msg, "qcimg rebase -u -F FORMAT -b fbase"));
	assert_non_null(strstr(err.msg, "--backing-format"));
	o.image = at("fover");
	assert_int_equal(co_chain_open(reactor, &o, &c, &err), 0);
	/* as told, although it looks like qcow2 */
	assert_int_equal(layer_format(chain_layer(c, 0)), FORMAT_RAW);
	must_close(c);
	return 0;
}

/* deepN over deepN-1, by changing the names in a copy of deep001: quicker than 512 creations. */
static void copy_deep(unsigned n)
{
	char name[16], below[16];
	static unsigned char buf[512 * 1024];
	unsigned char *p;
	int fd = open(at("deep001"), O_RDONLY);
	ssize_t len = read(fd, buf, sizeof(buf));

	assert_true(len > 0 && len < (ssize_t)sizeof(buf));
	close(fd);
	snprintf(name, sizeof(name), "deep%03u", n);
	snprintf(below, sizeof(below), "deep%03u", n - 1);
	p = memmem(buf, len, "deep000", 7);
	assert_non_null(p);
	memcpy(p, below, 7);
	fd = open(at(name), O_CREAT | O_EXCL | O_WRONLY, 0600);
	assert_int_equal(write(fd, buf, len), len);
	close(fd);
}

static int too_deep_is_refused(void *arg)
{
	struct chain *c;

	make("deep000", MIB, NULL, NULL, 65536, 0);
	make("deep001", MIB, "deep000", "qcow2", 65536, 0);
	for (unsigned i = 2; i <= 512; i++)
		copy_deep(i);
	c = must_open("deep511");
	assert_int_equal(chain_depth(c), 512);
	expect(c, 0, 4096, 0);
	must_close(c);
	refused("deep512", ELOOP, "more than 511 layers");
	return 0;
}

static int a_second_writer_is_refused(void *arg)
{
	struct chain *c, *d;

	make("busy", MIB, NULL, NULL, 65536, 0);
	c = must_open("busy");
	refused("busy", EAGAIN, "busy");
	must_close(c);
	/* backing files are shared */
	make("one", MIB, "busy", "qcow2", 65536, 0);
	make("two", MIB, "busy", "qcow2", 65536, 0);
	c = must_open("one");
	d = must_open("two");
	must_close(c);
	must_close(d);
	return 0;
}

/* --- requests --- */

static int out_of_bounds_and_read_only(void *arg)
{
	unsigned char b[1024];
	struct chain *c;

	make("ro", MIB, NULL, NULL, 65536, 0);
	c = must_open("ro");
	assert_int_equal(co_chain_read(c, MIB - 512, b, 1024), -EIO);
	assert_int_equal(co_chain_read(c, UINT64_MAX - 511, b, 512), -EIO);
	assert_int_equal(co_chain_write(c, MIB, b, 512), -EIO);
	assert_int_equal(co_chain_zero(c, MIB - 512, 1024, 0), -EIO);
	assert_int_equal(co_chain_discard(c, MIB, 512), -EIO);
	assert_int_equal(co_chain_read(c, MIB, b, 0), 0);
	must_close(c);
	assert_int_equal(try_open("ro", true, &c), 0);
	assert_true(chain_read_only(c));
	assert_int_equal(co_chain_write(c, 0, b, 512), -EROFS);
	assert_int_equal(co_chain_zero(c, 0, 512, 0), -EROFS);
	assert_int_equal(co_chain_discard(c, 0, 512), -EROFS);
	assert_int_equal(co_chain_flush(c), 0);
	expect(c, 0, 4096, 0);
	must_close(c);
	return 0;
}

static int sizes_that_differ(void *arg)
{
	struct chain_extent x;
	struct chain *c;

	make_raw("s.raw", 3 * MIB + 512, 7);
	make("short", MIB + 1536, "s.raw", "raw", 65536, 0);
	make("long", 5 * MIB + 1024, "short", "qcow2", 4096, 0);
	c = must_open("long");
	expect(c, 0, MIB + 1536, 7);
	/* the short layer hides what the raw one has there */
	expect(c, MIB + 1536, 4 * MIB - 512, 0);
	assert_int_equal(co_chain_status(c, 0, 5 * MIB, &x), 0);
	assert_int_equal(x.bytes, MIB + 1536);
	assert_int_equal(x.kind, EXT_DATA);
	assert_int_equal(x.layer, 0);
	assert_int_equal(x.host_off, 0);
	assert_int_equal(co_chain_status(c, MIB + 1536, 5 * MIB, &x), 0);
	assert_int_equal(x.kind, EXT_ZERO);
	assert_int_equal(x.layer, 1);
	assert_int_equal(x.bytes, 4 * MIB - 512);
	/* a write across the end copies what is before it, and zeros after */
	assert_int_equal(put(c, MIB + 2048, 512, 9), 0);
	expect(c, MIB + 1024, 512, 7);
	expect(c, MIB + 1536, 512, 0);
	expect(c, MIB + 2048, 512, 9);
	expect(c, MIB + 2560, 4096, 0);
	/* the last cluster is a part of one */
	assert_int_equal(put(c, 5 * MIB + 512, 512, 4), 0);
	expect(c, 5 * MIB + 512, 512, 4);
	assert_int_equal(co_chain_zero(c, 5 * MIB, 1024, 0), 0);
	expect(c, 5 * MIB, 1024, 0);
	must_close(c);
	return 0;
}

static int fast_and_slow_path(void *arg)
{
	struct chain_stats s, t;
	struct chain *c;

	make("fast", 8 * MIB, NULL, NULL, 65536, 0);
	c = must_open("fast");
	assert_int_equal(put(c, 0, MIB, 3), 0);
	chain_stats(c, &s);
	expect(c, 512, MIB - 512, 3);                     /* many clusters, one run */
	expect(c, 2 * MIB, MIB, 0);                       /* zeros need no I/O */
	assert_int_equal(put(c, 65536 - 512, 4096, 5), 0);   /* in place, across clusters */
	chain_stats(c, &t);
	assert_int_equal(t.slow_path, s.slow_path);
	assert_int_equal(t.fast_path, s.fast_path + 3);
	assert_int_equal(t.map_builds, s.map_builds);
	expect(c, 65536 - 512, 4096, 5);
	/* random allocating writes build no slice again */
	for (unsigned i = 0; i < 64; i++)
		assert_int_equal(put(c, 4 * MIB + (i * 37 % 64) * 65536ull + 512, 512, i), 0);
	chain_stats(c, &t);
	assert_int_equal(t.map_builds, s.map_builds);
	must_close(c);
	return 0;
}

static int zero_and_discard_over_a_backing_file(void *arg)
{
	static const int extended[] = { 0, 1 };

	for (unsigned i = 0; i < 2; i++) {
		struct chain_extent x;
		struct chain *c;

		make_raw("z.raw", 4 * MIB, 6);
		make("z", 4 * MIB, "z.raw", "raw", 65536, extended[i]);
		c = must_open("z");
		assert_int_equal(co_chain_zero(c, 1000, 200000, 0), 0);
		expect(c, 0, 1000, 6);
		expect(c, 1000, 200000, 0);
		expect(c, 201000, 5000, 6);
		assert_int_equal(put(c, MIB, 65536, 8), 0);
		assert_int_equal(co_chain_discard(c, MIB, 65536), 0);
		expect(c, MIB, 65536, 0);   /* nothing below shows through */
		assert_int_equal(co_chain_status(c, MIB, 65536, &x), 0);
		assert_int_equal(x.kind, EXT_ZERO);
		assert_int_equal(x.layer, 1);
		assert_int_equal(x.bytes, 65536);
		assert_int_equal(co_chain_zero(c, 2 * MIB, MIB, CHAIN_F_NO_UNMAP | CHAIN_F_FUA), 0);
		expect(c, 2 * MIB, MIB, 0);
		assert_int_equal(put(c, 2 * MIB + 4096, 512, 2), 0);
		expect(c, 2 * MIB, 4096, 0);
		expect(c, 2 * MIB + 4096, 512, 2);
		expect(c, 2 * MIB + 4608, 65536, 0);
		must_close(c);
		c = must_open("z");
		expect(c, 1000, 200000, 0);
		expect(c, MIB, 65536, 0);
		expect(c, 2 * MIB + 4096, 512, 2);
		must_close(c);
	}
	return 0;
}

static int a_raw_image_alone(void *arg)
{
	struct chain_stats s;
	struct chain *c;

	make_raw("alone.raw", 4 * MIB, 1);
	c = must_open("alone.raw");
	assert_int_equal(co_chain_zero(c, MIB, MIB, 0), 0);
	assert_int_equal(co_chain_discard(c, 2 * MIB, MIB), 0);
	expect(c, MIB, 2 * MIB, 0);
	assert_int_equal(put(c, MIB + 777, 70000, 5), 0);
	expect(c, MIB + 777, 70000, 5);
	expect(c, MIB, 777, 0);
	chain_stats(c, &s);
	assert_int_equal(s.map_builds, 1);
	must_close(c);
	return 0;
}

/* --- many at once --- */

struct many {
	struct chain_req q;
	struct iovec iov;
	unsigned char buf[4096];
	unsigned *left;
	unsigned *inside;
	struct co *co;
	int res;
};

static void many_done(struct chain_req *q, int res)
{
	struct many *m = container_of(q, struct many, q);

	assert_int_equal(*m->inside, 0);
	m->res = res;
	if (!--*m->left)
		co_wake(m->co);
}

/* Submits n requests of one kind, 4 KiB each, one after the other from off on; waits for all. */
static void many(struct chain *c, enum chain_opcode opcode, uint64_t off, unsigned n, int byte)
{
	struct many *m = calloc(n, sizeof(*m));
	unsigned left = n, inside = 0;

	for (unsigned i = 0; i < n; i++) {
		m[i].iov = (struct iovec){ m[i].buf, 4096 };
		m[i].q = (struct chain_req){ .done = many_done, .opcode = opcode, .guest_off = off + i * 4096,
					     .bytes = 4096, .iov = &m[i].iov, .nr_iov = 1 };
		m[i].left = &left;
		m[i].inside = &inside;
		m[i].co = co_self();
		memset(m[i].buf, byte, 4096);
	}
	inside = 1;   /* done() inside a submit would see this */
	for (unsigned i = 0; i < n; i++)
		chain_submit(c, &m[i].q);
	inside = 0;
	co_yield();
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(m[i].res, 0);
		for (unsigned k = 0; opcode == CHAIN_READ && k < 4096; k++)
			assert_int_equal(m[i].buf[k], byte);
	}
	free(m);
}

static int more_requests_than_room(void *arg)
{
	struct chain *c;
	struct chain_extent x;

	make("many", 16 * MIB, NULL, NULL, 65536, 0);
	c = must_open("many");
	many(c, CHAIN_READ, 0, 2000, 0);
	many(c, CHAIN_WRITE, 0, 2000, 7);
	many(c, CHAIN_READ, 0, 2000, 7);
	many(c, CHAIN_ZERO, 0, 100, 0);
	many(c, CHAIN_FLUSH, 0, 300, 0);
	expect(c, 0, 100 * 4096, 0);
	/* neighbours that allocate together lie together */
	assert_int_equal(co_chain_status(c, MIB, 4 * MIB, &x), 0);
	assert_int_equal(x.bytes, 4 * MIB);
	must_close(c);
	return 0;
}

static int drain_waits_for_what_is_there(void *arg)
{
	struct chain *c;
	struct many m = { .res = 1 };
	unsigned left = 2, inside = 0;

	make("drain", 4 * MIB, NULL, NULL, 65536, 0);
	c = must_open("drain");
	co_chain_drain(c);
	m.iov = (struct iovec){ m.buf, 4096 };
	m.left = &left;
	m.inside = &inside;
	m.q = (struct chain_req){ .done = many_done, .opcode = CHAIN_WRITE, .guest_off = 512,
				  .bytes = 4096, .iov = &m.iov, .nr_iov = 1 };
	chain_submit(c, &m.q);
	assert_int_equal(m.res, 1);
	co_chain_drain(c);
	assert_int_equal(m.res, 0);
	must_close(c);
	return 0;
}

/* Overlapping requests of all kinds at once: no order is promised, but all must end. */
static int overlapping_requests_all_end(void *arg)
{
	static const enum chain_opcode ops[] = { CHAIN_WRITE, CHAIN_DISCARD, CHAIN_READ, CHAIN_ZERO,
						 CHAIN_WRITE, CHAIN_READ, CHAIN_FLUSH };
	unsigned n = 1400, left = n, inside = 0;
	struct many *m = calloc(n, sizeof(*m));
	struct chain *c;

	make_raw("o.raw", 4 * MIB, 3);
	make("o", 4 * MIB, "o.raw", "raw", 65536, 1);
	c = must_open("o");
	for (unsigned i = 0; i < n; i++) {
		m[i].iov = (struct iovec){ m[i].buf, 4096 };
		m[i].q = (struct chain_req){ .done = many_done, .opcode = ops[i % 7],
					     .flags = i % 5 ? 0 : CHAIN_F_FUA,
					     .guest_off = i * 2654435761u % (256 * 1024) / 512 * 512,
					     .bytes = 4096, .iov = &m[i].iov, .nr_iov = 1 };
		m[i].left = &left;
		m[i].inside = &inside;
		m[i].co = co_self();
		memset(m[i].buf, 3, 4096);
		chain_submit(c, &m[i].q);
	}
	co_yield();
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(m[i].res, 0);
		for (unsigned k = 0; k < 4096; k++)
			assert_true(m[i].buf[k] == 3 || m[i].buf[k] == 0);
	}
	must_close(c);
	free(m);
	return 0;
}

/* --- cmocka around coroutines --- */

#define CO_TEST(name)                                                     \
	static void test_##name(void **state)                             \
	{                                                                 \
		assert_int_equal(reactor_run_co(reactor, name, NULL), 0); \
	}

CO_TEST(names_and_order)
CO_TEST(a_loop_is_named)
CO_TEST(a_missing_backing_file_names_both)
CO_TEST(a_format_is_never_guessed)
CO_TEST(too_deep_is_refused)
CO_TEST(a_second_writer_is_refused)
CO_TEST(out_of_bounds_and_read_only)
CO_TEST(sizes_that_differ)
CO_TEST(fast_and_slow_path)
CO_TEST(zero_and_discard_over_a_backing_file)
CO_TEST(a_raw_image_alone)
CO_TEST(more_requests_than_room)
CO_TEST(drain_waits_for_what_is_there)
CO_TEST(overlapping_requests_all_end)

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_URING };
	const char *tmp = getenv("TMPDIR");

	snprintf(folder, sizeof(folder), "%s/qchain-unit.XXXXXX", tmp ? tmp : "/var/tmp");
	if (!mkdtemp(folder))
		return -1;
	if (!reactor_new(&cfg, &reactor, NULL))
		return 0;
	cfg.engine = ENGINE_AIO;   /* a machine without io_uring */
	return reactor_new(&cfg, &reactor, NULL);
}

static int teardown(void **state)
{
	char cmd[96];

	reactor_free(reactor);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", folder);
	return system(cmd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_and_order),
		cmocka_unit_test(test_a_loop_is_named),
		cmocka_unit_test(test_a_missing_backing_file_names_both),
		cmocka_unit_test(test_a_format_is_never_guessed),
		cmocka_unit_test(test_too_deep_is_refused),
		cmocka_unit_test(test_a_second_writer_is_refused),
		cmocka_unit_test(test_out_of_bounds_and_read_only),
		cmocka_unit_test(test_sizes_that_differ),
		cmocka_unit_test(test_fast_and_slow_path),
		cmocka_unit_test(test_zero_and_discard_over_a_backing_file),
		cmocka_unit_test(test_a_raw_image_alone),
		cmocka_unit_test(test_more_requests_than_room),
		cmocka_unit_test(test_drain_waits_for_what_is_there),
		cmocka_unit_test(test_overlapping_requests_all_end),
	};

	return cmocka_run_group_tests_name("qcow_chain", tests, setup, teardown);
}
