// SPDX-License-Identifier: GPL-2.0-or-later
/* Unit tests of io/buf.h and io/error.h: zero tests, iovec copies, pools, error texts. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/buf.h"
#include "io/error.h"
#include "io/reactor.h"

static void zero_is_found_at_any_length_and_alignment(void **state)
{
	unsigned char *b = calloc(1, 1024);

	for (size_t skip = 0; skip < 9; skip++)
		for (size_t len = 0; len < 700; len++)
			assert_true(buf_is_zero(b + skip, len));
	free(b);
}

static void one_set_bit_anywhere_is_found(void **state)
{
	static const size_t lens[] = { 1, 7, 8, 127, 128, 129, 255, 256, 300, 513, 900 };
	unsigned char *b = calloc(1, 1024);

	for (size_t l = 0; l < sizeof(lens) / sizeof(lens[0]); l++) {
		for (size_t at = 0; at < lens[l]; at++) {
			b[3 + at] = 0x80;
			assert_false(buf_is_zero(b + 3, lens[l]));
			b[3 + at] = 0;
		}
		/* what lies outside does not count */
		b[2] = b[3 + lens[l]] = 1;
		assert_true(buf_is_zero(b + 3, lens[l]));
		b[2] = b[3 + lens[l]] = 0;
	}
	free(b);
}

static void zero_buf_is_zero_and_aligned(void **state)
{
	assert_true(buf_is_zero(zero_buf, ZERO_BUF_LEN));
	assert_int_equal((uintptr_t)zero_buf % BUF_ALIGN, 0);
}

static void alloc_is_aligned(void **state)
{
	for (size_t len = 0; len < 20000; len += 1111) {
		void *p = buf_alloc(len);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % BUF_ALIGN, 0);
		buf_free(p);
	}
	buf_free(NULL);
}

static void iovec_copies_meet_their_bytes(void **state)
{
	char a[5], b[1], c[10], flat[16], back[16];
	struct iovec iov[] = { { a, 5 }, { b, 0 }, { b, 1 }, { c, 10 } };

	assert_int_equal(iov_total(iov, 4), 16);
	for (int i = 0; i < 16; i++)
		flat[i] = 'a' + i;
	iov_from_buf(iov, 4, 0, flat, 16);
	assert_memory_equal(a, "abcde", 5);
	assert_memory_equal(b, "f", 1);
	assert_memory_equal(c, "ghijklmnop", 10);
	for (size_t skip = 0; skip <= 16; skip++) {
		for (size_t len = 0; skip + len <= 16; len++) {
			memset(back, 0, sizeof(back));
			iov_to_buf(iov, 4, skip, back, len);
			assert_memory_equal(back, flat + skip, len);
		}
	}
	iov_zero(iov, 4, 4, 3);
	iov_to_buf(iov, 4, 0, back, 16);
	assert_memory_equal(back, "abcd\0\0\0hijklmnop", 16);
}

static void iovec_slice_is_the_range(void **state)
{
	char a[5], c[10];
	struct iovec iov[] = { { a, 5 }, { c, 10 } }, out[2];

	assert_int_equal(iov_slice(iov, 2, 0, 15, out, 2), 2);
	assert_int_equal(iov_slice(iov, 2, 3, 4, out, 2), 2);
	assert_ptr_equal(out[0].iov_base, a + 3);
	assert_int_equal(out[0].iov_len, 2);
	assert_ptr_equal(out[1].iov_base, c);
	assert_int_equal(out[1].iov_len, 2);
	assert_int_equal(iov_slice(iov, 2, 5, 10, out, 2), 1);
	assert_int_equal(iov_slice(iov, 2, 7, 0, out, 2), 0);
}

static void pool_hands_out_each_buffer_once(void **state)
{
	struct bufpool *p = bufpool_new(5000, 3);
	void *b[3];

	assert_int_equal(bufpool_size(p), 5000);
	for (int i = 0; i < 3; i++) {
		b[i] = bufpool_tryget(p);
		assert_non_null(b[i]);
		assert_int_equal((uintptr_t)b[i] % BUF_ALIGN, 0);
		memset(b[i], i, 5000);
	}
	assert_null(bufpool_tryget(p));
	for (int i = 0; i < 3; i++)
		assert_int_equal(((unsigned char *)b[i])[4999], i);
	for (int i = 0; i < 3; i++)
		bufpool_put(p, b[i]);
	bufpool_free(p);
	bufpool_free(NULL);
}

struct pool_test {
	struct bufpool *pool;
	unsigned got;
};

static void pool_waiter(void *arg)
{
	struct pool_test *t = arg;
	void *b = co_bufpool_get(t->pool);

	t->got++;
	bufpool_put(t->pool, b);
}

static void pool_waiters_come_before_newcomers(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 8 };
	struct pool_test t = { .pool = bufpool_new(4096, 1) };
	struct reactor *r;
	void *b;

	assert_int_equal(reactor_new(&cfg, &r, NULL), 0);
	b = bufpool_tryget(t.pool);
	for (int i = 0; i < 3; i++)
		co_start(r, pool_waiter, &t);
	assert_int_equal(t.got, 0);
	bufpool_put(t.pool, b);
	/* it is on its way to the first waiter already */
	assert_null(bufpool_tryget(t.pool));
	while (t.got < 3)
		reactor_turn(r, false);
	reactor_free(r);
	bufpool_free(t.pool);
}

static void error_first_report_wins(void **state)
{
	struct error e = ERROR_INIT;

	assert_int_equal(error_set(&e, EIO, "disk %d is gone", 3), -EIO);
	assert_int_equal(error_set_errno(&e, ENOENT, "later"), -ENOENT);
	assert_int_equal(e.code, EIO);
	assert_string_equal(e.msg, "disk 3 is gone");
	error_prefix(&e, "chain '%s'", "web");
	assert_string_equal(e.msg, "chain 'web': disk 3 is gone");
	assert_int_equal(error_set(NULL, EIO, "nobody listens"), -EIO);
	error_prefix(NULL, "x");
}

static void error_text_of_errno_is_appended(void **state)
{
	struct error e = ERROR_INIT;

	error_prefix(&e, "nothing to prefix");
	assert_string_equal(e.msg, "");
	error_set_errno(&e, ENOENT, "cannot open '%s'", "a\nb");
	assert_string_equal(e.msg, "cannot open 'a b': No such file or directory");
}

static void error_text_is_cut_not_overrun(void **state)
{
	static struct { struct error e; char after[8]; } s;
	char *text = malloc(ERROR_MSG_MAX * 2);

	memset(text, 'x', ERROR_MSG_MAX * 2 - 1);
	text[ERROR_MSG_MAX * 2 - 1] = '\0';
	memset(s.after, 7, sizeof(s.after));
	error_set_errno(&s.e, EIO, "%s", text);
	assert_int_equal(strlen(s.e.msg), ERROR_MSG_MAX - 1);
	error_prefix(&s.e, "%s", text);
	assert_int_equal(strlen(s.e.msg), ERROR_MSG_MAX - 1);
	error_prefix(&s.e, "front");
	assert_memory_equal(s.e.msg, "front: x", 8);
	assert_int_equal(strlen(s.e.msg), ERROR_MSG_MAX - 1);
	assert_int_equal(s.after[0], 7);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(zero_is_found_at_any_length_and_alignment),
		cmocka_unit_test(one_set_bit_anywhere_is_found),
		cmocka_unit_test(zero_buf_is_zero_and_aligned),
		cmocka_unit_test(alloc_is_aligned),
		cmocka_unit_test(iovec_copies_meet_their_bytes),
		cmocka_unit_test(iovec_slice_is_the_range),
		cmocka_unit_test(pool_hands_out_each_buffer_once),
		cmocka_unit_test(pool_waiters_come_before_newcomers),
		cmocka_unit_test(error_first_report_wins),
		cmocka_unit_test(error_text_of_errno_is_appended),
		cmocka_unit_test(error_text_is_cut_not_overrun),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
