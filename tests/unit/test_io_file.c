// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Unit tests of io/file.h: every test that moves bytes runs with both engines,
 * direct and buffered. Locks are checked against real QEMU in test_io_file_lock.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/file.h"

struct variant {
	enum engine_kind engine;
	enum file_cache cache;
};

static struct reactor *r;           /* of the variant; NULL: its engine is not to be had */
static struct reactor *reactors[2];
static struct variant variant;
static struct file *f;           /* open for the test, writable, new */
static char dir[64], path[128];
static unsigned seed;

#define LEN (1u << 20)
static unsigned char *data, *back;

static unsigned rnd(unsigned n)
{
	seed = seed * 1103515245u + 12345u;
	return ((seed >> 8) & 0xffffff) % n;
}

static void fill(void *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		((unsigned char *)p)[i] = (unsigned char)(1 + rnd(255));
}

static struct file *open_it(const char *p, struct file_opts o)
{
	struct error e = ERROR_INIT;
	struct file *out;

	o.cache = variant.cache;
	if (file_open(r, p, &o, &out, &e) < 0)
		fail_msg("%s", e.msg);
	return out;
}

static int setup(void **state)
{
	variant = *(struct variant *)*state;
	r = reactors[variant.engine];
	seed = 1;
	strcpy(dir, "/var/tmp/qchain-file-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	data = buf_alloc(LEN);
	back = buf_alloc(LEN);
	fill(data, LEN);
	memset(back, 0xee, LEN);
	f = NULL;
	if (r)
		f = open_it(path, (struct file_opts){ .writable = true, .create = true });
	return 0;
}

static int teardown(void **state)
{
	file_close(f);
	unlink(path);
	rmdir(dir);
	buf_free(data);
	buf_free(back);
	return 0;
}

/* One reactor an engine for all tests: the kernel takes its time to undo one. */
static int make_reactors(void **state)
{
	for (int k = 0; k < 2; k++) {
		struct reactor_config cfg = { .engine = (enum engine_kind)k, .depth = 16 };
		struct error e = ERROR_INIT;

		if (reactor_new(&cfg, &reactors[k], &e) < 0)
			print_message("%s\n", e.msg);
	}
	return 0;
}

static int free_reactors(void **state)
{
	for (int k = 0; k < 2; k++)
		reactor_free(reactors[k]);
	return 0;
}

/* Every test body is a coroutine. */
static int run_body(void *fn)
{
	((void (*)(void))(uintptr_t)fn)();
	return 0;
}

static void run(void (*body)(void))
{
	if (!r)
		skip();
	reactor_run_co(r, run_body, (void *)(uintptr_t)body);
}

#define TEST(name)                                        \
	static void name##_body(void);                    \
	static void name(void **state) { run(name##_body); } \
	static void name##_body(void)

#define ok(call) assert_int_equal(call, 0)

static uint64_t disk_size(void)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_size;
}

/* --- reading and writing --- */

TEST(aligned_data_comes_back)
{
	ok(co_file_write(f, 0, data, 65536));
	ok(co_file_write(f, 65536 * 3, data, 65536));
	assert_int_equal(file_size(f), 65536 * 4);
	assert_int_equal(disk_size(), 65536 * 4);
	ok(co_file_read(f, 0, back, 65536 * 4));
	assert_memory_equal(back, data, 65536);
	assert_true(buf_is_zero(back + 65536, 65536 * 2));
	assert_memory_equal(back + 65536 * 3, data, 65536);
	assert_int_equal(file_is_direct(f), variant.cache == FILE_CACHE_NONE);
	assert_int_equal(file_align(f) == 1, variant.cache != FILE_CACHE_NONE);
}

TEST(reads_past_the_end_give_zeros)
{
	ok(co_file_write(f, 0, data, 5000));
	assert_int_equal(file_size(f), 5000);
	assert_int_equal(disk_size(), 5000);
	ok(co_file_read(f, 0, back, 65536));
	assert_memory_equal(back, data, 5000);
	assert_true(buf_is_zero(back + 5000, 60536));
	memset(back, 0xee, 8192);
	ok(co_file_read(f, 8192, back, 4096));
	assert_true(buf_is_zero(back, 4096));
	memset(back, 0xee, 8192);
	ok(co_file_read(f, 4999, back, 3));
	assert_int_equal(back[0], data[4999]);
	assert_true(buf_is_zero(back + 1, 2));
	memset(back, 0xee, 8192);
	ok(co_file_read(f, UINT64_C(1) << 40, back, 77));
	assert_true(buf_is_zero(back, 77));
}

TEST(vectors_may_be_cut_anywhere)
{
	struct iovec iov[] = {
		{ data, 512 }, { data + 512, 4096 - 512 }, { data + 4096, 1 },
		{ data + 4097, 8191 }, { data + 12288, 4096 },
	};
	struct iovec in[] = { { back + 3, 16384 - 100 }, { back + 16387 - 100, 100 } };

	ok(co_file_writev(f, 4096, 16384, iov, 5));
	ok(co_file_readv(f, 4096, 16384, in, 2));
	assert_memory_equal(back + 3, data, 16384);
}

TEST(buffers_may_lie_anywhere)
{
	ok(co_file_write(f, 0, data + 1, 300000));
	assert_int_equal(file_size(f), 300000);
	ok(co_file_read(f, 0, back + 3, 300000));
	assert_memory_equal(back + 3, data + 1, 300000);
	ok(co_file_write(f, 8192, data + 7, 4096));
	ok(co_file_read(f, 8192, back, 4096));
	assert_memory_equal(back, data + 7, 4096);
}

TEST(empty_and_impossible_requests)
{
	ok(co_file_write(f, 10, data, 0));
	ok(co_file_read(f, 10, back, 0));
	ok(co_file_zero(f, 10, 0, 0));
	ok(co_file_discard(f, 10, 0));
	ok(co_file_allocate(f, 10, 0, false));
	assert_int_equal(file_size(f), 0);
	assert_int_equal(co_file_read(f, UINT64_MAX - 10, back, 4), -EFBIG);
	assert_int_equal(co_file_read(f, INT64_MAX, back, 4), -EFBIG);
	assert_int_equal(co_file_zero(f, INT64_MAX - 10, 4096, 0), -EFBIG);
	assert_int_equal(co_file_truncate(f, UINT64_MAX), -EFBIG);
	assert_int_equal(co_file_allocate(f, INT64_MAX, 1, true), -EFBIG);
}

TEST(flush_is_accepted_at_any_time)
{
	ok(co_file_flush(f));
	ok(co_file_write(f, 0, data, 4096));
	ok(co_file_flush(f));
}

/* --- callback form --- */

struct cb_op {
	struct io_op op;
	struct iovec iov;
	unsigned *left;
	bool submitted;
};

static void cb_done(struct io_op *op, int res)
{
	struct cb_op *c = container_of(op, struct cb_op, op);

	assert_true(c->submitted);   /* never inside file_submit() */
	assert_int_equal(res, 0);
	--*c->left;
}

static void cb_submit(struct cb_op *c, enum io_opcode opcode, uint64_t off, void *buf, uint64_t len,
		      unsigned flags)
{
	c->iov = (struct iovec){ buf, len };
	c->op = (struct io_op){ .done = cb_done, .opcode = opcode, .flags = flags, .off = off,
				.len = len, .iov = &c->iov, .nr_iov = 1 };
	c->submitted = false;
	++*c->left;
	file_submit(f, &c->op);
	c->submitted = true;
}

/* Far more than the engine's depth (16), of every kind. */
TEST(more_requests_than_the_engine_holds)
{
	enum { N = 300 };
	struct cb_op *ops = calloc(N + 2, sizeof(*ops));
	unsigned left = 0;

	for (int i = 0; i < N + 2; i++)
		ops[i].left = &left;
	for (int i = 0; i < N; i++)
		cb_submit(&ops[i], IO_WRITE, i * 2048, data + i * 2048, 2048,
			  i % 50 ? 0 : IO_F_FUA);
	while (left)
		co_reschedule();
	for (int i = 0; i < N; i++)
		cb_submit(&ops[i], IO_READ, i * 2048, back + i * 2048, 2048, 0);
	while (left)
		co_reschedule();
	assert_memory_equal(data, back, N * 2048);
	for (int i = 0; i < N; i++) {
		enum io_opcode op = i % 3 == 0 ? IO_FLUSH : i % 3 == 1 ? IO_ZERO : IO_DISCARD;

		cb_submit(&ops[i], op, i * 2048, NULL, i % 3 ? 2048 : 0, i & 8 ? IO_F_UNMAP : 0);
	}
	for (int i = 0; i < 2; i++)
		cb_submit(&ops[N + i], IO_READ, 0, back, 0, 0);
	while (left)
		co_reschedule();
	ok(co_file_read(f, 0, back, N * 2048));
	for (int i = 0; i < N; i++) {
		if (i % 3)
			assert_true(buf_is_zero(back + i * 2048, 2048));
		else
			assert_memory_equal(back + i * 2048, data + i * 2048, 2048);
	}
	free(ops);
}

/* --- a random run against a model --- */

TEST(random_operations_match_a_model)
{
	enum { SIZE = 200000 };
	unsigned char *model = calloc(1, SIZE);
	uint64_t size = 0;

	for (int i = 0; i < 250; i++) {
		uint64_t off = rnd(SIZE), len = rnd(rnd(2) ? 2000 : SIZE) + 1, end;
		unsigned what = rnd(8);

		if (rnd(3) == 0) {
			off &= ~511ul;
			len = (len + 511) & ~511ul;
		}
		if (off + len > SIZE)
			len = SIZE - off;
		end = off + len;
		if (what < 4) {
			unsigned skip = rnd(2) ? rnd(64) : 0;

			ok(co_file_write(f, off, data + skip, len));
			memcpy(model + off, data + skip, len);
			size = size > end ? size : end;
		} else if (what == 4) {
			ok(co_file_zero(f, off, len, rnd(2) ? IO_F_UNMAP : 0));
			memset(model + off, 0, len);
			size = size > end ? size : end;
		} else if (what == 5) {
			ok(co_file_discard(f, off, len));
			memset(model + off, 0, len);
		} else if (what == 6 && rnd(4) == 0) {
			ok(co_file_truncate(f, off));
			memset(model + off, 0, SIZE - off);
			size = off;
		} else if (what == 7 && rnd(4) == 0) {
			ok(co_file_allocate(f, off, len, rnd(2)));
			size = file_size(f);
		}
		assert_int_equal(file_size(f), size);
		assert_int_equal(disk_size(), size);
		off = rnd(SIZE - 5000);
		len = 1 + rnd(5000);
		ok(co_file_read(f, off, back, len));
		assert_memory_equal(back, model + off, len);
	}
	ok(co_file_read(f, 0, back, SIZE));
	assert_memory_equal(back, model, SIZE);
	free(model);
}

/* --- neighbours in one block --- */

#define NR_STRIPS 24
#define STRIP 700        /* bytes: several in each block */

static int strip_writer(void *arg)
{
	uint64_t at = (uint64_t)(uintptr_t)arg * STRIP;
	unsigned char mine[STRIP];

	for (int i = 0; i < 20; i++) {
		unsigned off = rnd(STRIP), len = 1 + rnd(STRIP - off);

		memcpy(mine, data + at, STRIP);
		fill(mine + off, len);
		ok(co_file_write(f, at + off, mine + off, len));
		memcpy(data + at + off, mine + off, len);
	}
	return 0;
}

TEST(neighbours_in_one_block_do_not_lose_bytes)
{
	struct co_group g;

	ok(co_file_write(f, 0, data, NR_STRIPS * STRIP));
	co_group_init(&g, r, 0);
	for (uintptr_t i = 0; i < NR_STRIPS; i++)
		co_group_start(&g, strip_writer, (void *)i);
	ok(co_group_wait(&g));
	assert_int_equal(disk_size(), NR_STRIPS * STRIP);
	ok(co_file_read(f, 0, back, NR_STRIPS * STRIP));
	assert_memory_equal(back, data, NR_STRIPS * STRIP);
}

/*
 * A whole block and a few bytes of it, written at the same time in either
 * order: the rest of the block must be that of the whole write.
 */
TEST(small_and_whole_writes_of_one_block)
{
	unsigned left = 0;
	struct cb_op whole = { .left = &left }, small = { .left = &left };

	for (int i = 0; i < 60; i++) {
		unsigned char *now = data + (i % 2 ? 4096 : 8192);

		if (i % 4 < 2)
			cb_submit(&whole, IO_WRITE, 0, now, 4096, 0);
		cb_submit(&small, IO_WRITE, 1000, data, 50, 0);
		if (i % 4 >= 2)
			cb_submit(&whole, IO_WRITE, 0, now, 4096, 0);
		while (left)
			co_reschedule();
		ok(co_file_read(f, 0, back, 4096));
		assert_memory_equal(back, now, 1000);
		assert_memory_equal(back + 1050, now + 1050, 4096 - 1050);
	}
}

/* A misaligned write at the end trims the file; what others append meanwhile stays. */
TEST(appends_around_a_misaligned_end)
{
	unsigned left = 0;
	struct cb_op a = { .left = &left }, b = { .left = &left }, c = { .left = &left };

	for (int i = 0; i < 20; i++) {
		ok(co_file_truncate(f, 100));
		cb_submit(&a, IO_WRITE, 100, data, 200, 0);
		cb_submit(&b, IO_WRITE, 8192, data + 8192, 4096, 0);
		cb_submit(&c, IO_ZERO, 20000, NULL, 1000, IO_F_UNMAP);
		while (left)
			co_reschedule();
		assert_int_equal(file_size(f), 21000);
		assert_int_equal(disk_size(), 21000);
		ok(co_file_read(f, 0, back, 21000));
		assert_memory_equal(back + 100, data, 200);
		assert_memory_equal(back + 8192, data + 8192, 4096);
		assert_true(buf_is_zero(back + 12288, 21000 - 12288));
	}
}

/* --- zeros, holes, extents --- */

TEST(zero_reads_back_as_zero)
{
	for (unsigned flags = 0; flags <= IO_F_UNMAP; flags += IO_F_UNMAP) {
		ok(co_file_write(f, 0, data, LEN));
		ok(co_file_zero(f, 1234, 500000, flags));
		ok(co_file_read(f, 0, back, LEN));
		assert_memory_equal(back, data, 1234);
		assert_true(buf_is_zero(back + 1234, 500000));
		assert_memory_equal(back + 501234, data + 501234, LEN - 501234);
	}
}

TEST(zero_past_the_end_grows)
{
	ok(co_file_write(f, 0, data, 1000));
	ok(co_file_zero(f, 500, 4596, IO_F_UNMAP));
	assert_int_equal(disk_size(), 5096);
	ok(co_file_zero(f, 8192, 8192, 0));
	assert_int_equal(disk_size(), 16384);
	assert_int_equal(file_size(f), 16384);
	ok(co_file_read(f, 0, back, 16384));
	assert_memory_equal(back, data, 500);
	assert_true(buf_is_zero(back + 500, 16384 - 500));
}

TEST(discard_punches_a_hole)
{
	struct stat before, after;

	ok(co_file_write(f, 0, data, LEN));
	ok(co_file_flush(f));
	assert_int_equal(stat(path, &before), 0);
	ok(co_file_discard(f, 65536, LEN / 2));
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_blocks < before.st_blocks);
	assert_int_equal(disk_size(), LEN);
	ok(co_file_discard(f, LEN + 4096, LEN));    /* past the end: nothing there to discard */
	assert_int_equal(disk_size(), LEN);
}

TEST(extents_tell_data_from_holes)
{
	bool is_data;
	uint64_t len;

	ok(co_file_truncate(f, 1 << 20));
	ok(co_file_write(f, 262144, data, 131072));
	ok(co_file_extent(f, 0, &is_data, &len));
	assert_false(is_data);
	assert_int_equal(len, 262144);
	ok(co_file_extent(f, 4096, &is_data, &len));
	assert_false(is_data);
	assert_int_equal(len, 262144 - 4096);
	ok(co_file_extent(f, 262144 + 512, &is_data, &len));
	assert_true(is_data);
	assert_int_equal(len, 131072 - 512);
	ok(co_file_extent(f, 262144 + 131072, &is_data, &len));
	assert_false(is_data);
	assert_int_equal(len, (1 << 20) - 262144 - 131072);
	ok(co_file_extent(f, 1 << 20, &is_data, &len));
	assert_false(is_data);
	assert_int_equal(len, UINT64_MAX - (1 << 20));
	ok(co_file_write(f, 1 << 20, data, 300));
	ok(co_file_extent(f, (1 << 20) + 100, &is_data, &len));
	assert_true(is_data);
	assert_int_equal(len, 200);
}

TEST(truncate_shrinks_and_grows)
{
	ok(co_file_write(f, 0, data, 10000));
	ok(co_file_truncate(f, 3333));
	assert_int_equal(file_size(f), 3333);
	ok(co_file_truncate(f, 9999));
	assert_int_equal(disk_size(), 9999);
	ok(co_file_read(f, 0, back, 9999));
	assert_memory_equal(back, data, 3333);
	assert_true(buf_is_zero(back + 3333, 9999 - 3333));
}

TEST(allocate_reserves)
{
	struct stat st;

	ok(co_file_allocate(f, 0, 1 << 20, true));
	assert_int_equal(file_size(f), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks >= 2048);
	ok(co_file_allocate(f, 0, 1 << 20, false));
	assert_int_equal(file_size(f), 1 << 20);
	ok(co_file_allocate(f, 0, 4096, false));
	assert_int_equal(disk_size(), 1 << 20);
}

/* --- opening --- */

static int try_open(const char *p, struct file_opts o, struct error *e)
{
	struct file *g = NULL;
	int rc = file_open(r, p, &o, &g, e);

	assert_int_equal(rc == 0, g != NULL);
	file_close(g);
	return rc;
}

TEST(open_errors_name_the_file)
{
	struct error e = ERROR_INIT;
	char other[160], want[256];

	assert_int_equal(try_open("/nonexistent/x", (struct file_opts){ 0 }, &e), -ENOENT);
	assert_string_equal(e.msg, "cannot open '/nonexistent/x': No such file or directory");
	e = (struct error)ERROR_INIT;
	assert_int_equal(try_open(path, (struct file_opts){ .writable = true, .create = true }, &e),
			 -EEXIST);
	snprintf(want, sizeof(want), "cannot create '%s': File exists", path);
	assert_string_equal(e.msg, want);
	e = (struct error)ERROR_INIT;
	assert_int_equal(try_open(dir, (struct file_opts){ 0 }, &e), -EINVAL);
	snprintf(other, sizeof(other), "%s/fifo", dir);
	assert_int_equal(mkfifo(other, 0600), 0);
	e = (struct error)ERROR_INIT;
	assert_int_equal(try_open(other, (struct file_opts){ 0 }, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "neither a regular file nor a block device"));
	unlink(other);
	assert_int_equal(try_open("/dev/null", (struct file_opts){ .writable = true }, NULL), -EINVAL);
}

TEST(truncate_on_open_comes_after_the_lock)
{
	struct error e = ERROR_INIT;

	ok(co_file_write(f, 0, data, 10000));
	assert_int_equal(try_open(path, (struct file_opts){ .writable = true, .truncate = true }, &e),
			 -EAGAIN);
	assert_int_equal(disk_size(), 10000);
	file_close(f);
	f = open_it(path, (struct file_opts){ .writable = true, .truncate = true });
	assert_int_equal(file_size(f), 0);
	assert_int_equal(disk_size(), 0);
}

TEST(reopen_changes_what_may_be_done)
{
	int fd = file_fd(f);

	ok(co_file_write(f, 0, data, 8192));
	ok(file_reopen(f, false, NULL));
	assert_false(file_writable(f));
	assert_int_equal(file_fd(f), fd);
	assert_int_equal(co_file_write(f, 0, data, 4096), -EBADF);
	assert_int_equal(co_file_write(f, 5, data, 5), -EBADF);
	ok(co_file_read(f, 0, back, 8192));
	assert_memory_equal(back, data, 8192);
	ok(file_reopen(f, false, NULL));
	ok(file_reopen(f, true, NULL));
	assert_true(file_writable(f));
	ok(co_file_write(f, 0, data + 1, 8192));
	ok(co_file_read(f, 0, back, 8192));
	assert_memory_equal(back, data + 1, 8192);
}

TEST(reopen_with_reads_under_way)
{
	unsigned left = 0;
	struct cb_op op[8];

	ok(co_file_write(f, 0, data, 65536));
	for (int i = 0; i < 8; i++) {
		op[i].left = &left;
		cb_submit(&op[i], IO_READ, i * 8192, back + i * 8192, 8192, 0);
		if (i == 4)
			ok(file_reopen(f, false, NULL));
	}
	while (left)
		co_reschedule();
	assert_memory_equal(back, data, 65536);
}

TEST(reopen_follows_the_file_not_its_name)
{
	char other[160];
	struct stat st;

	snprintf(other, sizeof(other), "%s/moved", dir);
	file_close(f);
	f = open_it(path, (struct file_opts){ .no_lock = true });
	assert_int_equal(rename(path, other), 0);
	ok(file_reopen(f, true, NULL));
	ok(co_file_write(f, 0, data, 4096));
	assert_int_equal(stat(other, &st), 0);
	assert_int_equal(st.st_size, 4096);
	unlink(other);
	ok(file_reopen(f, false, NULL));   /* even without any name */
	ok(co_file_read(f, 0, back, 4096));
	assert_memory_equal(back, data, 4096);
}

TEST(a_file_system_without_direct_io_is_buffered)
{
	struct file *g = open_it("/proc/version", (struct file_opts){ .no_lock = true });
	char text[64];

	assert_false(file_is_direct(g));
	assert_int_equal(file_align(g), 1);
	ok(co_file_read(g, 0, text, sizeof(text)));
	assert_memory_equal(text, "Linux", 5);
	file_close(g);
}

TEST(same_file_is_recognised)
{
	struct file_opts o = { .no_lock = true };
	char other[160], link_path[160];
	struct file *g, *h;

	snprintf(other, sizeof(other), "%s/other", dir);
	snprintf(link_path, sizeof(link_path), "%s/link", dir);
	assert_int_equal(symlink(path, link_path), 0);
	g = open_it(link_path, o);
	h = open_it(other, (struct file_opts){ .writable = true, .create = true });
	assert_true(file_same(f, g));
	assert_false(file_same(f, h));
	assert_string_equal(file_path(g), link_path);
	assert_ptr_equal(file_reactor(g), r);
	file_close(g);
	file_close(h);
	unlink(other);
	unlink(link_path);
}

/* --- full disks --- */

/* A write that the file-size limit cuts short: the first part is there, then the error. */
TEST(a_short_write_is_continued_and_its_error_told)
{
	struct rlimit old, small = { 65536, RLIM_INFINITY };

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small.rlim_max = old.rlim_max;
	ok(setrlimit(RLIMIT_FSIZE, &small));
	assert_int_equal(co_file_write(f, 32768, data, 65536), -EFBIG);
	assert_int_equal(co_file_write(f, 65536, data, 4096), -EFBIG);
	ok(setrlimit(RLIMIT_FSIZE, &old));
	assert_int_equal(file_size(f), disk_size());
	ok(co_file_write(f, 32768, data, 65536));
	ok(co_file_read(f, 32768, back, 65536));
	assert_memory_equal(back, data, 65536);
}

static bool mount_tmpfs(void)
{
	static int have = -1;

	if (have < 0)
		have = (unshare(CLONE_NEWNS) == 0 &&
			mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	return have && mount("none", dir, "tmpfs", 0, "size=1m") == 0;
}

static void tmpfs_body(void)
{
	struct file *g = open_it(path, (struct file_opts){ .writable = true, .create = true });

	ok(co_file_write(g, 0, data, LEN / 2));
	assert_int_equal(co_file_write(g, LEN / 2, data, LEN), -ENOSPC);
	assert_int_equal(file_size(g), disk_size());
	assert_int_equal(co_file_allocate(g, 0, LEN * 2, true), -ENOSPC);
	/* no ZERO_RANGE there: zeros are written, and need space only where none is */
	ok(co_file_zero(g, 100, 300000, 0));
	ok(co_file_zero(g, 5, 20, 0));
	ok(co_file_read(g, 0, back, LEN / 2));
	assert_memory_equal(back, data, 5);
	assert_true(buf_is_zero(back + 5, 20));
	assert_memory_equal(back + 25, data + 25, 75);
	assert_true(buf_is_zero(back + 100, 300000));
	assert_memory_equal(back + 300100, data + 300100, LEN / 2 - 300100);
	ok(co_file_zero(g, 4096, 8192, IO_F_UNMAP));
	assert_int_equal(co_file_zero(g, 0, LEN * 4, 0), -ENOSPC);
	file_close(g);
	unlink(path);
}

static void a_full_file_system_is_an_error(void **state)
{
	if (!r || !mount_tmpfs())
		skip();
	run(tmpfs_body);
	umount(dir);
}

/* --- block devices --- */

static char loop_path[64];

static int loop_make(void)
{
	struct loop_config cfg = { .block_size = 4096 };
	int ctl, fd, n;

	ctl = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	if (ctl < 0)
		return -1;
	n = ioctl(ctl, LOOP_CTL_GET_FREE);
	close(ctl);
	snprintf(loop_path, sizeof(loop_path), "/dev/loop%d", n);
	fd = open(loop_path, O_RDWR | O_CLOEXEC);
	cfg.fd = file_fd(f);
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &cfg) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void block_body(void)
{
	struct file *g = open_it(loop_path, (struct file_opts){ .writable = true });
	bool is_data;
	uint64_t len;

	assert_true(file_is_block(g));
	assert_int_equal(file_size(g), LEN);
	ok(co_file_write(g, 0, data, LEN));
	ok(co_file_write(g, 777, data, 5000));
	ok(co_file_read(g, 777, back, 5000));
	assert_memory_equal(back, data, 5000);
	ok(co_file_write(g, 0, data, LEN));
	ok(co_file_zero(g, 1000, 100000, 0));
	ok(co_file_zero(g, 200000, 100000, IO_F_UNMAP));
	ok(co_file_zero(g, 400000, 10, 0));
	ok(co_file_read(g, 0, back, LEN));
	assert_memory_equal(back, data, 1000);
	assert_true(buf_is_zero(back + 1000, 100000));
	assert_memory_equal(back + 101000, data + 101000, 99000);
	assert_true(buf_is_zero(back + 200000, 100000));
	assert_memory_equal(back + 300000, data + 300000, 100000);
	assert_true(buf_is_zero(back + 400000, 10));
	assert_memory_equal(back + 400010, data + 400010, LEN - 400010);
	ok(co_file_discard(g, 500000, 100000));
	ok(co_file_discard(g, 600001, 10));
	ok(co_file_read(g, 0, back, LEN));
	assert_memory_equal(back + 400010, data + 400010, 99990);
	assert_memory_equal(back + 600000, data + 600000, LEN - 600000);
	ok(co_file_extent(g, 4096, &is_data, &len));
	assert_true(is_data);
	assert_int_equal(len, LEN - 4096);
	ok(co_file_flush(g));
	ok(co_file_truncate(g, LEN / 2));
	assert_int_equal(co_file_truncate(g, LEN + 1), -ENOTSUP);
	assert_int_equal(co_file_allocate(g, 0, 4096, false), -EOPNOTSUPP);
	assert_int_equal(co_file_write(g, LEN, data, 4096), -ENOSPC);
	memset(back, 0xee, 8192);
	ok(co_file_read(g, LEN - 4096, back, 8192));
	assert_true(buf_is_zero(back + 4096, 4096));
	assert_int_equal(try_open(loop_path, (struct file_opts){ .writable = true }, NULL), -EAGAIN);
	file_close(g);
}

static void grow_body(void)
{
	ok(co_file_truncate(f, LEN));
}

static void block_devices_are_files_too(void **state)
{
	int fd;

	if (!r)
		skip();
	run(grow_body);
	fd = loop_make();
	if (fd < 0)
		skip();
	run(block_body);
	ioctl(fd, LOOP_CLR_FD);
	close(fd);
}

static struct variant variants[] = {
	{ ENGINE_URING, FILE_CACHE_NONE },
	{ ENGINE_URING, FILE_CACHE_WRITEBACK },
	{ ENGINE_AIO, FILE_CACHE_NONE },
	{ ENGINE_AIO, FILE_CACHE_WRITEBACK },
};

#define T1(fn, name, n) { #fn " (" name ")", fn, setup, teardown, &variants[n] }
#define T(fn) T1(fn, "uring, direct", 0), T1(fn, "uring, buffered", 1), \
	      T1(fn, "aio, direct", 2), T1(fn, "aio, buffered", 3)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(aligned_data_comes_back),
		T(reads_past_the_end_give_zeros),
		T(vectors_may_be_cut_anywhere),
		T(buffers_may_lie_anywhere),
		T(empty_and_impossible_requests),
		T(flush_is_accepted_at_any_time),
		T(more_requests_than_the_engine_holds),
		T(random_operations_match_a_model),
		T(neighbours_in_one_block_do_not_lose_bytes),
		T(small_and_whole_writes_of_one_block),
		T(appends_around_a_misaligned_end),
		T(zero_reads_back_as_zero),
		T(zero_past_the_end_grows),
		T(discard_punches_a_hole),
		T(extents_tell_data_from_holes),
		T(truncate_shrinks_and_grows),
		T(allocate_reserves),
		T(open_errors_name_the_file),
		T(truncate_on_open_comes_after_the_lock),
		T(reopen_changes_what_may_be_done),
		T(reopen_with_reads_under_way),
		T(reopen_follows_the_file_not_its_name),
		T(a_file_system_without_direct_io_is_buffered),
		T(same_file_is_recognised),
		T(a_short_write_is_continued_and_its_error_told),
		T(a_full_file_system_is_an_error),
		T(block_devices_are_files_too),
	};

	return cmocka_run_group_tests(tests, make_reactors, free_reactors);
}
