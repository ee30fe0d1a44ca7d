// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Images made to cost: small files whose tables name one place thousands of times. What the check
 * does is counted in completions of the simulated disk, so that no clock is needed.
 */
#include <endian.h>
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

#include "io/sim.h"
#include "qcow/check.h"

#define CLUSTER 4096u
#define CLUSTERS 128u

static char path[64];
static uint8_t image[CLUSTERS * CLUSTER];

static void put(uint64_t off, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		image[off + i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
}

/* Header in cluster 0, refcount table in 1 (its block in 2), L1 in 3: a sound version 3 image of no data. */
static void plain(uint32_t l1_entries)
{
	memset(image, 0, sizeof(image));
	put(0, 0x514649fb, 4);
	put(4, 3, 4);
	put(20, 12, 4);
	put(24, (uint64_t)l1_entries * (CLUSTER / 8) * CLUSTER, 8);
	put(36, l1_entries, 4);
	put(40, 3 * CLUSTER, 8);
	put(48, CLUSTER, 8);
	put(56, 1, 4);
	put(96, 4, 4);
	put(100, 104, 4);
	put(CLUSTER, 2 * CLUSTER, 8);
}

struct checking {
	struct reactor *r;
	struct check_result res;
};

static int co_check(void *arg)
{
	struct checking *ch = arg;
	struct layer_opts o = { .format = FORMAT_QCOW2, .cache = FILE_CACHE_WRITEBACK };
	struct error e = ERROR_INIT;
	struct layer *l;

	if (co_layer_open(ch->r, path, &o, &l, &e) < 0)
		fail_msg("%s", e.msg);
	if (co_layer_check(l, 0, &ch->res, NULL, NULL, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(co_layer_close(l, &e), 0);
	return 0;
}

static void stuck(void *arg)
{
	fail_msg("stuck");
}

/* Checks the image; gives how many requests that took. */
static uint64_t check_steps(struct checking *ch)
{
	struct sim_opts o = { .seed = 1, .stuck = stuck };
	struct reactor_config cfg = { .engine = ENGINE_SIM, .depth = 16 };
	struct error e = ERROR_INIT;
	uint64_t steps;
	int fd = open(path, O_WRONLY | O_TRUNC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, image, sizeof(image)), sizeof(image));
	close(fd);
	cfg.sim = sim_disk_new(&o);
	assert_int_equal(reactor_new(&cfg, &ch->r, &e), 0);
	reactor_run_co(ch->r, co_check, ch);
	steps = sim_disk_steps(cfg.sim);
	reactor_free(ch->r);
	sim_disk_free(cfg.sim);
	return steps;
}

/* All entries of the L1 table name one L2 table, and all of its entries one cluster. */
static void an_l1_table_of_equal_entries(void **state)
{
	struct checking ch;

	plain(8192);
	for (unsigned i = 0; i < 8192; i++)
		put(3 * CLUSTER + i * 8, 40 * CLUSTER, 8);
	for (unsigned i = 0; i < CLUSTER / 8; i++)
		put(40 * CLUSTER + i * 8, 41 * CLUSTER, 8);
	assert_in_range(check_steps(&ch), 1, 200);
	/* every use of every cluster is counted all the same */
	assert_in_range(ch.res.corruptions, 1, 200);
	assert_int_equal(ch.res.check_errors, 0);
}

/* Snapshots that share one L1 table, which no snapshots do. */
static void snapshots_of_one_l1_table(void **state)
{
	struct checking ch;

	plain(1);
	put(60, 1000, 4);
	put(64, 50 * CLUSTER, 8);
	for (unsigned i = 0; i < 1000; i++) {
		put(50 * CLUSTER + i * 40, 20 * CLUSTER, 8);
		put(50 * CLUSTER + i * 40 + 8, 8192, 4);
	}
	for (unsigned i = 0; i < 8192; i++)
		put(20 * CLUSTER + i * 8, 40 * CLUSTER, 8);
	for (unsigned i = 0; i < CLUSTER / 8; i++)
		put(40 * CLUSTER + i * 8, 41 * CLUSTER, 8);
	assert_in_range(check_steps(&ch), 1, 2000);
	assert_true(ch.res.corruptions >= 900);
}

/* A directory of bitmaps with one table. */
static void bitmaps_of_one_table(void **state)
{
	struct checking ch;

	plain(1);
	put(88, 1, 8);
	put(104, 0x23852875, 4);
	put(108, 24, 4);
	put(112, 1000, 4);
	put(120, 24000, 8);
	put(128, 50 * CLUSTER, 8);
	for (unsigned i = 0; i < 1000; i++) {
		put(50 * CLUSTER + i * 24, 20 * CLUSTER, 8);
		put(50 * CLUSTER + i * 24 + 8, 8192, 4);
		put(50 * CLUSTER + i * 24 + 16, 0x0110, 2);
	}
	assert_in_range(check_steps(&ch), 1, 1200);
	assert_true(ch.res.corruptions >= 900);
}

static int setup(void **state)
{
	int fd;

	snprintf(path, sizeof(path), "%s/qchain-unit.XXXXXX", "/var/tmp");
	fd = mkstemp(path);
	return fd < 0 ? -1 : close(fd);
}

static int teardown(void **state)
{
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(an_l1_table_of_equal_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(snapshots_of_one_l1_table, setup, teardown),
		cmocka_unit_test_setup_teardown(bitmaps_of_one_table, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
