// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Unit tests of io/file.h on an engine that misbehaves: it is full, interrupts,
 * moves less than asked, or fails. It wraps the aio engine: requests are carried
 * out at once, and what is reported is bent.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/file.h"
#include "io/reactor_priv.h"

/* --- the bad engine --- */

#define MAX_DONE 64

struct rule {
	int opcode;          /* enum engine_opcode, or -1: any */
	int mode;            /* of fallocate, or -1: any */
	unsigned skip;       /* let so many pass first */
	unsigned count;      /* then bend so many */
	int res;             /* to this error */
};

static struct reactor *r;
static struct engine bad_engine;
static struct { struct io_cqe_hook *hook; int res; } results[MAX_DONE];
static unsigned nr_results;
static bool chaos;           /* full, interrupted, short: at random */
static struct rule rule;
static unsigned seed, nr_requests;

static unsigned rnd(unsigned n)
{
	seed = seed * 1103515245u + 12345u;
	return ((seed >> 8) & 0xffffff) % n;
}

static int carry_out(const struct engine_req *rq)
{
	ssize_t n = -1;

	switch (rq->opcode) {
	case ENGINE_READ:
		n = preadv(rq->fd, rq->iov, rq->nr_iov, rq->off);
		break;
	case ENGINE_WRITE:
		n = pwritev(rq->fd, rq->iov, rq->nr_iov, rq->off);
		break;
	case ENGINE_FDATASYNC:
		n = fdatasync(rq->fd);
		break;
	case ENGINE_FALLOCATE:
		n = fallocate(rq->fd, rq->mode, rq->off, rq->len);
		break;
	case ENGINE_TRUNCATE:
		n = ftruncate(rq->fd, rq->len);
		break;
	}
	return n < 0 ? -errno : (int)n;
}

static bool rule_hits(const struct engine_req *rq)
{
	if (!rule.count || (rule.opcode >= 0 && rule.opcode != (int)rq->opcode) ||
	    (rule.mode >= 0 && rule.mode != rq->mode))
		return false;
	if (rule.skip) {
		rule.skip--;
		return false;
	}
	rule.count--;
	return true;
}

static int bent_result(const struct engine_req *rq)
{
	unsigned dice = chaos ? rnd(10) : 9;
	int n;

	if (rule_hits(rq))
		return rule.res;
	if (dice == 0)
		return -EINTR;
	if (dice == 1)
		return -EAGAIN;
	n = carry_out(rq);
	/* too short is as if the rest had not happened: it will be done again */
	if (dice < 6 && n > 512 && rq->opcode <= ENGINE_WRITE)
		n = dice == 2 ? 512 + (int)rnd(n - 512) : 512 + (int)(rnd(n - 512) & ~511u);
	return n;
}

static bool bad_submit(struct reactor *reactor, const struct engine_req *rq)
{
	if (nr_results == MAX_DONE || (chaos && rnd(8) == 0))
		return false;
	nr_requests++;
	results[nr_results].hook = rq->hook;
	results[nr_results++].res = bent_result(rq);
	return true;
}

static void bad_turn(struct reactor *reactor, int64_t timeout_ns)
{
	unsigned n = nr_results;

	engine_aio.turn(reactor, n || !list_empty(&reactor->backlog) ? 0 : timeout_ns);
	for (unsigned i = 0; i < n; i++)
		results[i].hook->fn(results[i].hook, results[i].res, 0);
	nr_results -= n;
	memmove(results, results + n, nr_results * sizeof(results[0]));
}

/* --- the tests --- */

#define LEN (1u << 20)

static struct file *f;
static char dir[64], path[128];
static unsigned char *data, *back;

static int make_reactor(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 16 };

	if (reactor_new(&cfg, &r, NULL) < 0)
		return -1;
	bad_engine = engine_aio;
	bad_engine.submit = bad_submit;
	bad_engine.turn = bad_turn;
	r->engine = &bad_engine;
	return 0;
}

static int free_reactor(void **state)
{
	reactor_free(r);
	return 0;
}

static int setup(void **state)
{
	struct file_opts o = { .writable = true, .create = true, .cache = FILE_CACHE_NONE };

	strcpy(dir, "/var/tmp/qchain-fault-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	seed = 99;
	chaos = false;
	rule = (struct rule){ 0 };
	data = buf_alloc(LEN);
	back = buf_alloc(LEN);
	for (size_t i = 0; i < LEN; i++)
		data[i] = (unsigned char)(1 + rnd(255));
	return file_open(r, path, &o, &f, NULL);
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

static int run_body(void *fn)
{
	((void (*)(void))(uintptr_t)fn)();
	return 0;
}

#define TEST(name)                                                                \
	static void name##_body(void);                                            \
	static void name(void **state)                                            \
	{                                                                         \
		reactor_run_co(r, run_body, (void *)(uintptr_t)name##_body);      \
	}                                                                         \
	static void name##_body(void)

#define ok(call) assert_int_equal(call, 0)

static void bend(int opcode, int mode, unsigned skip, int res)
{
	rule = (struct rule){ opcode, mode, skip, 1, res };
}

static void bend_always(int opcode, int mode, int res)
{
	rule = (struct rule){ opcode, mode, 0, 1000000, res };
}

TEST(passing_trouble_is_never_seen)
{
	enum { SIZE = 150000 };
	unsigned char *model = calloc(1, SIZE);
	uint64_t size = 0;

	chaos = true;
	for (int i = 0; i < 400; i++) {
		uint64_t off = rnd(SIZE), len = 1 + rnd(20000), end;
		unsigned what = rnd(6);

		if (rnd(2)) {
			off &= ~511ul;
			len = (len + 511) & ~511ul;
		}
		len = off + len > SIZE ? SIZE - off : len;
		end = off + len;
		if (what < 3) {
			unsigned skip = rnd(2) ? 0 : rnd(5000);

			ok(co_file_write(f, off, data + skip, len));
			memcpy(model + off, data + skip, len);
			size = size > end ? size : end;
		} else if (what == 3) {
			ok(co_file_zero(f, off, len, rnd(2) ? IO_F_UNMAP : 0));
			memset(model + off, 0, len);
			size = size > end ? size : end;
		} else if (what == 4) {
			ok(co_file_discard(f, off, len));
			memset(model + off, 0, len);
		} else {
			ok(co_file_flush(f));
		}
		assert_int_equal(file_size(f), size);
		memset(back, 0xee, SIZE);
		ok(co_file_read(f, off, back + rnd(2), 0));
		ok(co_file_read(f, 0, back, SIZE));
		assert_memory_equal(back, model, SIZE);
	}
	free(model);
}

TEST(errors_arrive)
{
	ok(co_file_write(f, 0, data, 65536));
	bend(ENGINE_READ, -1, 0, -EIO);
	assert_int_equal(co_file_read(f, 0, back, 4096), -EIO);
	bend(ENGINE_READ, -1, 0, -EIO);
	assert_int_equal(co_file_read(f, 3, back, 4096), -EIO);
	bend(ENGINE_WRITE, -1, 0, -ENOSPC);
	assert_int_equal(co_file_write(f, 0, data, 4096), -ENOSPC);
	bend(ENGINE_FDATASYNC, -1, 0, -EIO);
	assert_int_equal(co_file_flush(f), -EIO);
	bend(ENGINE_FALLOCATE, -1, 0, -EIO);
	assert_int_equal(co_file_discard(f, 0, 4096), -EIO);
	bend(ENGINE_FALLOCATE, -1, 0, -ENOSPC);
	assert_int_equal(co_file_zero(f, 0, 4096, 0), -ENOSPC);
	bend(ENGINE_FALLOCATE, -1, 0, -ENOSPC);
	assert_int_equal(co_file_zero(f, 60000, 10000, IO_F_UNMAP), -ENOSPC);
	bend(ENGINE_TRUNCATE, -1, 0, -EIO);
	assert_int_equal(co_file_truncate(f, 5), -EIO);
	bend(ENGINE_FALLOCATE, -1, 0, -ENOSPC);
	assert_int_equal(co_file_allocate(f, 0, 1 << 20, false), -ENOSPC);
	assert_int_equal(file_size(f), 65536);
	/* and nothing is left behind: everything works again */
	ok(co_file_read(f, 0, back, 65536));
	assert_memory_equal(back, data, 65536);
	ok(co_file_write(f, 100, data, 70000));
	ok(co_file_zero(f, 0, 80000, IO_F_UNMAP));
	assert_int_equal(file_size(f), 80000);
}

/* Each step of a read-modify-write at the end of the file: two reads, a write, a trim. */
TEST(every_step_of_a_misaligned_write_may_fail)
{
	ok(co_file_write(f, 0, data, 10000));
	for (int step = 0; step < 4; step++) {
		bend(-1, -1, step, -EIO);
		assert_int_equal(co_file_write(f, 9000, data, 10007), -EIO);
		assert_int_equal(rule.count, 0);
		assert_true(file_size(f) >= 10000);
		ok(co_file_truncate(f, 10000));
	}
	bend(-1, -1, 4, -EIO);
	ok(co_file_write(f, 9000, data, 10007));
	assert_int_equal(rule.count, 1);   /* there is no fifth step */
	rule.count = 0;
	ok(co_file_read(f, 0, back, 20000));
	assert_memory_equal(back, data, 9000);
	assert_memory_equal(back + 9000, data, 10007);
}

TEST(a_transfer_that_does_not_move_is_an_error)
{
	ok(co_file_write(f, 0, data, 8192));
	bend_always(ENGINE_WRITE, -1, 0);
	assert_int_equal(co_file_write(f, 0, data, 8192), -EIO);
	/* stuck inside a block, where direct I/O cannot go on */
	bend_always(ENGINE_WRITE, -1, 100);
	assert_int_equal(co_file_write(f, 0, data, 8192), -EIO);
	bend_always(ENGINE_READ, -1, 100);
	assert_int_equal(co_file_read(f, 0, back, 8192), -EIO);
}

#define PUNCH (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)

static void fill_and_zero(unsigned flags)
{
	ok(co_file_write(f, 0, data, LEN));
	ok(co_file_zero(f, 1000, 700001, flags));
	ok(co_file_read(f, 0, back, LEN));
	assert_memory_equal(back, data, 1000);
	assert_true(buf_is_zero(back + 1000, 700001));
	assert_memory_equal(back + 701001, data + 701001, LEN - 701001);
	ok(co_file_zero(f, LEN - 10, 1000, flags));
	assert_int_equal(file_size(f), LEN + 990);
	ok(co_file_truncate(f, LEN));
}

TEST(zeros_are_written_where_nothing_else_works)
{
	unsigned before;

	bend_always(ENGINE_FALLOCATE, -1, -EOPNOTSUPP);
	fill_and_zero(IO_F_UNMAP);
	fill_and_zero(0);
	/* found out once: not asked again */
	rule = (struct rule){ ENGINE_FALLOCATE, -1, 0, 1, -EIO };
	fill_and_zero(IO_F_UNMAP);
	ok(co_file_discard(f, 0, 4096));
	assert_int_equal(rule.count, 1);
	rule = (struct rule){ 0 };
	before = nr_requests;
	ok(co_file_zero(f, 700, 5, 0));
	assert_int_equal(nr_requests - before, 2);   /* within a block: read and write */
}

TEST(without_holes_zero_range_is_tried)
{
	bend_always(ENGINE_FALLOCATE, PUNCH, -EOPNOTSUPP);
	fill_and_zero(IO_F_UNMAP);
	ok(co_file_discard(f, 0, 8192));   /* a hint */
}

TEST(an_unsupported_discard_is_remembered)
{
	ok(co_file_write(f, 0, data, 8192));
	bend(ENGINE_FALLOCATE, PUNCH, 0, -EOPNOTSUPP);
	ok(co_file_discard(f, 0, 8192));
	assert_int_equal(rule.count, 0);
	ok(co_file_read(f, 0, back, 8192));
	assert_memory_equal(back, data, 8192);
	bend(ENGINE_FALLOCATE, -1, 0, -EIO);
	ok(co_file_discard(f, 0, 8192));
	assert_int_equal(rule.count, 1);
}

/* --- a change of a whole block meets a read-modify-write in it, at every step of it --- */

struct cb_op {
	struct io_op op;
	struct iovec iov;
	unsigned *left;
};

static void cb_done(struct io_op *op, int res)
{
	assert_int_equal(res, 0);
	--*container_of(op, struct cb_op, op)->left;
}

static void cb_submit(struct cb_op *c, unsigned *left, enum io_opcode opcode, uint64_t off,
		      void *buf, uint64_t len)
{
	c->left = left;
	c->iov = (struct iovec){ buf, len };
	c->op = (struct io_op){ .done = cb_done, .opcode = opcode, .off = off, .len = len,
				.iov = &c->iov, .nr_iov = 1 };
	++*left;
	file_submit(f, &c->op);
}

static void meet(enum io_opcode opcode, unsigned delay)
{
	struct cb_op small, whole;
	unsigned left = 0;

	ok(co_file_write(f, 0, data, 16384));
	cb_submit(&small, &left, IO_WRITE, 5000, data + 100, 50);
	while (delay--)
		co_reschedule();
	cb_submit(&whole, &left, opcode, 4096, data + 65536, 4096);
	while (left)
		co_reschedule();
	ok(co_file_read(f, 0, back, 16384));
	if (opcode != IO_WRITE)
		memset(data + 65536, 0, 4096);
	assert_memory_equal(back, data, 4096);
	assert_memory_equal(back + 4096, data + 65536, 904);
	assert_memory_equal(back + 5050, data + 65536 + 954, 8192 - 5050);
	assert_memory_equal(back + 8192, data + 8192, 8192);
}

TEST(a_small_write_never_undoes_its_neighbours)
{
	for (unsigned delay = 0; delay < 8; delay++)
		meet(IO_WRITE, delay);
	for (unsigned delay = 0; delay < 8; delay++)
		meet(IO_ZERO, delay);
	for (unsigned delay = 0; delay < 8; delay++)
		meet(IO_DISCARD, delay);
}

/* A misaligned write inside the file knows nothing of what is appended meanwhile. */
TEST(a_small_write_never_cuts_off_an_append)
{
	struct cb_op small, append;

	for (unsigned delay = 0; delay < 8; delay++) {
		for (int zero = 0; zero < 2; zero++) {
			unsigned left = 0, turns = delay;

			ok(co_file_truncate(f, 0));
			ok(co_file_write(f, 0, data, 8192));
			cb_submit(&small, &left, zero ? IO_ZERO : IO_WRITE, 1000, data, 50);
			while (turns--)
				co_reschedule();
			cb_submit(&append, &left, IO_WRITE, 8192, data + 8192, 4096);
			while (left)
				co_reschedule();
			assert_int_equal(file_size(f), 12288);
			ok(co_file_read(f, 8192, back, 4096));
			assert_memory_equal(back, data + 8192, 4096);
		}
	}
}

TEST(short_transfers_go_on_in_the_right_buffer)
{
	struct iovec out[16], in[16];

	chaos = true;
	for (int i = 0; i < 16; i++) {
		out[i] = (struct iovec){ data + i * 2048, 2048 };
		in[i] = (struct iovec){ back + (15 - i) * 2048, 2048 };
	}
	for (int round = 0; round < 50; round++) {
		memset(back, 0xee, 65536);
		ok(co_file_writev(f, 2048, 32768, out, 16));
		ok(co_file_readv(f, 2048, 32768, in, 16));
		for (int i = 0; i < 16; i++)
			assert_memory_equal(back + (15 - i) * 2048, data + i * 2048, 2048);
	}
}

static int writes_anywhere(void *arg)
{
	for (int i = 0; i < 30; i++)
		ok(co_file_write(f, rnd(30000), data + rnd(100), 1 + rnd(9000)));
	return 0;
}

static int cuts(void *arg)
{
	for (int i = 0; i < 30; i++)
		ok(co_file_truncate(f, rnd(30000)));
	return 0;
}

/* Nobody may keep locks or requests behind, whatever meets whatever. */
TEST(writes_and_truncation_side_by_side)
{
	struct co_group g;
	struct stat st;

	chaos = true;
	co_group_init(&g, r, 0);
	for (int i = 0; i < 20; i++)
		co_group_start(&g, i % 5 ? writes_anywhere : cuts, NULL);
	ok(co_group_wait(&g));
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_size, file_size(f));
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(passing_trouble_is_never_seen),
		T(errors_arrive),
		T(every_step_of_a_misaligned_write_may_fail),
		T(a_transfer_that_does_not_move_is_an_error),
		T(zeros_are_written_where_nothing_else_works),
		T(without_holes_zero_range_is_tried),
		T(an_unsupported_discard_is_remembered),
		T(a_small_write_never_undoes_its_neighbours),
		T(a_small_write_never_cuts_off_an_append),
		T(short_transfers_go_on_in_the_right_buffer),
		T(writes_and_truncation_side_by_side),
	};

	return cmocka_run_group_tests(tests, make_reactor, free_reactor);
}
