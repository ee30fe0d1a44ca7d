// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_io_sim.c - the simulated disk keeps its promises: what a flush made durable survives every
 * crash, the rest may go by sectors, and the same seed gives the same disk.
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
#include <unistd.h>

#include <cmocka.h>

#include "io/co.h"
#include "io/file.h"
#include "io/reactor.h"
#include "io/sim.h"
#include "qcow/layer.h"

#define LEN (64u << 10)

static char dir[64], path[128];
static struct sim_disk *disk;
static struct reactor *r;
static struct file *f;
static unsigned char old[LEN], new[LEN], got[LEN + 4096];

static void stuck(void *arg)
{
	fail_msg("the reactor is stuck");
	abort();
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "%s/qchain-sim-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	memset(old, 'o', LEN);
	memset(new, 'n', LEN);
	return 0;
}

static int teardown(void **state)
{
	unlink(path);
	rmdir(dir);
	return 0;
}

static void power_on(uint64_t seed)
{
	struct sim_opts so = { .seed = seed, .stuck = stuck };
	struct reactor_config cfg = { .engine = ENGINE_SIM };
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	close(fd);
	disk = sim_disk_new(&so);
	assert_non_null(disk);
	cfg.sim = disk;
	assert_int_equal(reactor_new(&cfg, &r, NULL), 0);
}

static void power_off(void)
{
	reactor_free(r);
	sim_disk_free(disk);
}

static void open_file(void)
{
	struct file_opts o = { .writable = true, .cache = FILE_CACHE_WRITEBACK };

	assert_int_equal(file_open(r, path, &o, &f, NULL), 0);
}

/* What the file holds now; its length. */
static size_t look(void)
{
	int fd = open(path, O_RDONLY);
	ssize_t n;

	assert_true(fd >= 0);
	n = read(fd, got, sizeof(got));
	assert_true(n >= 0);
	close(fd);
	return (size_t)n;
}

static int co_write_flush(void *arg)
{
	assert_int_equal(co_file_write(f, 0, old, LEN), 0);
	return co_file_flush(f);
}

static int co_write_over(void *arg)
{
	assert_int_equal(co_write_flush(NULL), 0);
	return co_file_write(f, 0, new, LEN);
}

static void test_flushed_survives(void **state)
{
	for (uint64_t seed = 0; seed < 50; seed++) {
		power_on(seed);
		open_file();
		assert_int_equal(reactor_run_co(r, co_write_flush, NULL), 0);
		sim_disk_crash(disk);
		assert_int_equal(look(), LEN);
		assert_memory_equal(got, old, LEN);
		file_close(f);
		power_off();
	}
}

/* Over many seeds: all kept, all lost, and torn; and never anything but old or new by sectors. */
static void test_unflushed_is_torn_at_sectors(void **state)
{
	unsigned kept = 0, lost = 0, torn = 0;

	for (uint64_t seed = 0; seed < 200; seed++) {
		unsigned news = 0;

		power_on(seed);
		open_file();
		assert_int_equal(reactor_run_co(r, co_write_over, NULL), 0);
		sim_disk_crash(disk);
		assert_int_equal(look(), LEN);
		for (size_t i = 0; i < LEN; i += 512) {
			bool is_new = got[i] == 'n';

			assert_memory_equal(got + i, is_new ? new : old, 512);
			news += is_new;
		}
		kept += news == LEN / 512;
		lost += news == 0;
		torn += news && news < LEN / 512;
		file_close(f);
		power_off();
	}
	assert_true(kept && lost && torn);
}

static bool fua_is_done;

static void fua_done(struct io_op *op, int res)
{
	assert_int_equal(res, 0);
	fua_is_done = true;
}

static int co_fua(void *arg)
{
	static struct iovec iov = { new, 512 };
	static struct io_op op;

	op = (struct io_op){ .opcode = IO_WRITE, .flags = IO_F_FUA, .off = 512, .len = 512, .iov = &iov,
			     .nr_iov = 1, .done = fua_done };
	fua_is_done = false;
	assert_int_equal(co_write_flush(NULL), 0);
	assert_int_equal(co_file_write(f, 0, new, 512), 0);
	file_submit(f, &op);
	while (!fua_is_done)
		co_reschedule();
	return 0;
}

static void test_fua_is_durable_alone(void **state)
{
	unsigned lost = 0;

	for (uint64_t seed = 0; seed < 50; seed++) {
		power_on(seed);
		open_file();
		assert_int_equal(reactor_run_co(r, co_fua, NULL), 0);
		sim_disk_crash(disk);
		look();
		assert_memory_equal(got + 512, new, 512);
		lost += got[0] == 'o';
		file_close(f);
		power_off();
	}
	assert_true(lost);   /* the write before it is not durable with it */
}

static int co_grow_and_cut(void *arg)
{
	assert_int_equal(co_write_flush(NULL), 0);
	assert_int_equal(co_file_truncate(f, 4096), 0);
	return co_file_write(f, 8192, new, 100);
}

/* A size is as volatile as bytes are; what was cut off and never came back reads as zeros or as before. */
static void test_size(void **state)
{
	unsigned shorter = 0, as_before = 0;

	for (uint64_t seed = 0; seed < 100; seed++) {
		size_t n;

		power_on(seed);
		open_file();
		assert_int_equal(reactor_run_co(r, co_grow_and_cut, NULL), 0);
		assert_int_equal(look(), 8292);
		sim_disk_crash(disk);
		n = look();
		assert_true(n == 4096 || n == 8292 || n == LEN);
		assert_memory_equal(got, old, 4096);
		shorter += n == 4096;
		as_before += n == LEN;
		file_close(f);
		power_off();
	}
	assert_true(shorter && as_before);
}

static int co_many(void *arg)
{
	for (unsigned i = 0; i < 20; i++)
		assert_int_equal(co_file_write(f, i * 3000, i % 2 ? old : new, 4000), 0);
	return 0;
}

static void test_same_seed_same_disk(void **state)
{
	static unsigned char first[sizeof(got)];
	size_t n = 0;
	uint64_t steps = 0;

	for (unsigned i = 0; i < 2; i++) {
		memset(got, 0, sizeof(got));
		power_on(77);
		open_file();
		assert_int_equal(reactor_run_co(r, co_many, NULL), 0);
		sim_disk_crash(disk);
		if (!i) {
			n = look();
			steps = sim_disk_steps(disk);
			memcpy(first, got, sizeof(got));
		} else {
			assert_int_equal(look(), n);
			assert_int_equal(sim_disk_steps(disk), steps);
			assert_memory_equal(got, first, sizeof(got));
		}
		file_close(f);
		power_off();
	}
}

static int co_faults(void *arg)
{
	struct sim_faults none = { 0 }, reads = { .read_eio = 1000000 }, writes = { .write_eio = 1000000 },
			  full = { .enospc = 1000000 };

	sim_disk_set_faults(disk, &full);
	assert_int_equal(co_file_write(f, 0, old, LEN), -ENOSPC);
	sim_disk_set_faults(disk, &writes);
	assert_int_equal(co_file_write(f, 0, old, LEN), -EIO);
	sim_disk_set_faults(disk, &none);
	assert_int_equal(co_file_write(f, 0, old, LEN), 0);
	sim_disk_set_faults(disk, &reads);
	assert_int_equal(co_file_read(f, 0, got, LEN), -EIO);
	sim_disk_set_faults(disk, &(struct sim_faults){ .partial = 700000, .again = 300000 });
	assert_int_equal(co_file_read(f, 0, got, LEN), 0);
	assert_memory_equal(got, old, LEN);
	assert_int_equal(co_file_write(f, 0, new, LEN), 0);
	assert_int_equal(co_file_read(f, 0, got, LEN), 0);
	assert_memory_equal(got, new, LEN);
	return 0;
}

static void test_faults(void **state)
{
	power_on(5);
	open_file();
	assert_int_equal(reactor_run_co(r, co_faults, NULL), 0);
	file_close(f);
	power_off();
}

/* The layer above: once a flush has failed, none of a raw image succeeds. */
static int co_raw_layer(void *arg)
{
	struct layer_opts lo = { .format = FORMAT_RAW, .writable = true };
	struct layer *l;

	assert_int_equal(co_layer_open(r, path, &lo, &l, NULL), 0);
	assert_int_equal(co_layer_flush(l), 0);
	sim_disk_set_faults(disk, &(struct sim_faults){ .flush_eio = 1000000 });
	assert_int_equal(co_file_write(layer_file(l), 0, new, 512), 0);
	assert_int_equal(co_layer_flush(l), -EIO);
	sim_disk_set_faults(disk, &(struct sim_faults){ 0 });
	assert_int_equal(co_layer_flush(l), -EIO);
	assert_false(layer_writable(l));
	assert_non_null(layer_fault(l));
	assert_int_equal(co_layer_close(l, NULL), -EIO);
	return 0;
}

static void test_raw_flush_fails_for_good(void **state)
{
	power_on(6);
	assert_int_equal(reactor_run_co(r, co_raw_layer, NULL), 0);
	power_off();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_flushed_survives),
		cmocka_unit_test(test_unflushed_is_torn_at_sectors),
		cmocka_unit_test(test_fua_is_durable_alone),
		cmocka_unit_test(test_size),
		cmocka_unit_test(test_same_seed_same_disk),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_raw_flush_fails_for_good),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
