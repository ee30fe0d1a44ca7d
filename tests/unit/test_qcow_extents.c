// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_qcow_extents.c - what a layer says about guest ranges, against what was written with qemu-io,
 * and what it says when its tables are damaged.
 */
#include "tests/unit/qcow_guest.h"

#include <endian.h>
#include <fcntl.h>

#include "io/log.h"
#include "qcow/qcow2.h"

static struct reactor *reactor;
static char dir[64], img[96];

struct query {
	uint64_t off, bytes;
	struct extent x[64];
	unsigned max;
	int n, ret;
	bool writable, feature_corrupt;
	const char *fault;
	char fault_copy[256];
};

static int co_query(void *arg)
{
	struct query *q = arg;
	struct guest g = { .r = reactor };

	guest_open(&g, img, q->writable);
	q->n = co_layer_extents(g.l, q->off, q->bytes, q->x, q->max ? q->max : 64);
	q->fault = layer_fault(g.l);
	if (q->fault)
		snprintf(q->fault_copy, sizeof(q->fault_copy), "%s", q->fault);
	q->ret = q->writable && q->fault ? co_layer_flush(g.l) : 0;
	q->feature_corrupt = layer_qcow2(g.l)->hdr.h.incompatible_features & QCOW2_INCOMPAT_CORRUPT;
	if (q->fault)
		co_layer_close(g.l, NULL);
	else
		guest_close(&g);
	return 0;
}

static struct query ask(uint64_t off, uint64_t bytes, unsigned max, bool writable)
{
	struct query q = { .off = off, .bytes = bytes, .max = max, .writable = writable };

	reactor_run_co(reactor, co_query, &q);
	return q;
}

static void assert_extent(const struct extent *x, uint64_t off, uint64_t bytes, enum extent_kind kind)
{
	assert_int_equal(x->guest_off, off);
	assert_int_equal(x->bytes, bytes);
	assert_int_equal(x->kind, kind);
}

#define KIB 1024ull
#define MIB (1024 * KIB)

static void create(const char *opts, const char *size)
{
	assert_int_equal(shell("qemu-img create -q -f qcow2 -o %s %s %s", opts, img, size), 0);
}

static void test_empty_is_one_extent(void **state)
{
	struct query q;

	create("cluster_size=64k", "1T");
	q = ask(0, 1ull << 40, 0, false);
	assert_int_equal(q.n, 1);
	assert_extent(&q.x[0], 0, 1ull << 40, EXT_UNALLOCATED);
	q = ask(2ull << 40, 512, 0, false);
	assert_int_equal(q.n, 0);
}

static void test_kinds_are_merged_and_cut(void **state)
{
	struct query q;

	create("cluster_size=64k", "8M");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 0 1M' -c 'write -q -z 1M 256k' "
			       "-c 'write -q 2M 64k' %s", img), 0);
	q = ask(0, 8 * MIB, 0, false);
	assert_int_equal(q.n, 5);
	assert_extent(&q.x[0], 0, MIB, EXT_DATA);
	assert_true(q.x[0].in_place && q.x[0].host_off % (64 * KIB) == 0);
	assert_extent(&q.x[1], MIB, 256 * KIB, EXT_ZERO);
	assert_extent(&q.x[2], MIB + 256 * KIB, 768 * KIB, EXT_UNALLOCATED);
	assert_extent(&q.x[3], 2 * MIB, 64 * KIB, EXT_DATA);
	assert_extent(&q.x[4], 2 * MIB + 64 * KIB, 6 * MIB - 64 * KIB, EXT_UNALLOCATED);
	q = ask(512 * KIB + 4096, 600 * KIB, 0, false);
	assert_int_equal(q.n, 2);
	assert_extent(&q.x[0], 512 * KIB + 4096, 508 * KIB, EXT_DATA);
	assert_extent(&q.x[1], MIB, 92 * KIB, EXT_ZERO);
	q = ask(0, 8 * MIB, 2, false);
	assert_int_equal(q.n, 2);
}

static void test_snapshot_takes_in_place_away(void **state)
{
	struct query q;

	create("cluster_size=64k", "8M");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 0 256k' %s && qemu-img snapshot -c s %s && "
			       "qemu-io -f qcow2 -c 'write -q 64k 64k' %s", img, img, img), 0);
	q = ask(0, 256 * KIB, 0, false);
	assert_int_equal(q.n, 3);
	assert_false(q.x[0].in_place);
	assert_true(q.x[1].in_place);
	assert_extent(&q.x[1], 64 * KIB, 64 * KIB, EXT_DATA);
	assert_false(q.x[2].in_place);
}

static void test_subclusters(void **state)
{
	struct query q;

	create("cluster_size=128k,extended_l2=on", "8M");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 8k 4k' -c 'write -q -z 16k 8k' "
			       "-c 'write -q 128k 256k' %s", img), 0);
	q = ask(0, 512 * KIB, 0, false);
	assert_int_equal(q.n, 7);
	assert_extent(&q.x[0], 0, 8 * KIB, EXT_UNALLOCATED);
	assert_extent(&q.x[1], 8 * KIB, 4 * KIB, EXT_DATA);
	assert_extent(&q.x[2], 12 * KIB, 4 * KIB, EXT_UNALLOCATED);
	assert_extent(&q.x[3], 16 * KIB, 8 * KIB, EXT_ZERO);
	assert_extent(&q.x[4], 24 * KIB, 104 * KIB, EXT_UNALLOCATED);
	assert_extent(&q.x[5], 128 * KIB, 256 * KIB, EXT_DATA);
	assert_extent(&q.x[6], 384 * KIB, 128 * KIB, EXT_UNALLOCATED);
}

static void test_compressed_is_one_cluster_each(void **state)
{
	struct query q;

	create("cluster_size=64k", "8M");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q -c 0 64k' -c 'write -q -c 64k 64k' %s", img), 0);
	q = ask(0, MIB, 0, false);
	assert_int_equal(q.n, 3);
	assert_extent(&q.x[0], 0, 64 * KIB, EXT_COMPRESSED);
	assert_extent(&q.x[1], 64 * KIB, 64 * KIB, EXT_COMPRESSED);
}

/* Many small blocks: the walk loads each on its way. */
static void test_small_clusters(void **state)
{
	struct query q;

	create("cluster_size=512", "16M");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 0 4M' -c 'write -q 12M 64k' %s", img), 0);
	q = ask(4 * MIB, 12 * MIB, 0, false);
	assert_int_equal(q.n >= 3, 1);
	assert_extent(&q.x[0], 4 * MIB, 8 * MIB, EXT_UNALLOCATED);
	assert_int_equal(q.x[q.n - 1].guest_off + q.x[q.n - 1].bytes, 16 * MIB);
}

static uint64_t peek(uint64_t off)
{
	int fd = open(img, O_RDONLY);
	uint64_t v;

	assert_int_equal(pread(fd, &v, 8, (off_t)off), 8);
	close(fd);
	return be64toh(v);
}

static void poke(uint64_t off, uint64_t v)
{
	int fd = open(img, O_RDWR);

	v = htobe64(v);
	assert_int_equal(pwrite(fd, &v, 8, (off_t)off), 8);
	close(fd);
}

/* Read-only: -EIO, nothing written. Writable: read-only from then on, and marked corrupt. */
static void assert_damage(uint64_t off, const char *word)
{
	struct query q = ask(off, 64 * KIB, 0, false);

	assert_int_equal(q.n, -EIO);
	assert_null(q.fault);
	assert_false(q.feature_corrupt);
	q = ask(off, 64 * KIB, 0, true);
	assert_int_equal(q.n, -EIO);
	assert_non_null(strstr(q.fault_copy, word));
	assert_int_equal(q.ret, -EIO);
	assert_true(q.feature_corrupt);
	assert_int_equal(peek(72) & QCOW2_INCOMPAT_CORRUPT, QCOW2_INCOMPAT_CORRUPT);
	poke(72, peek(72) & ~QCOW2_INCOMPAT_CORRUPT);
}

static void test_damaged_tables(void **state)
{
	uint64_t l1, l2;

	create("cluster_size=64k", "2G");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 0 256k' -c 'write -q 600M 64k' %s", img), 0);
	l1 = peek(40);
	l2 = peek(l1) & QCOW2_L1_OFFSET_MASK;
	poke(l2 + 8, peek(l2 + 8) + 512);
	assert_damage(64 * KIB, "unaligned");
	poke(l1 + 8, (1ull << 50) | QCOW2_COPIED);
	assert_damage(600 * MIB, "outside the file");
	poke(l1 + 8, 0x10200 | QCOW2_COPIED);
	assert_damage(600 * MIB, "unaligned");
	/* The rest of the disk goes on being read. */
	assert_int_equal(ask(128 * KIB, 64 * KIB, 0, false).n, 1);
}

static void test_damaged_subclusters(void **state)
{
	uint64_t l2;

	create("cluster_size=64k,extended_l2=on", "16M");
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 0 256k' %s", img), 0);
	l2 = peek(peek(40)) & QCOW2_L1_OFFSET_MASK;
	poke(l2 + 8, peek(l2 + 8) | 1ull << 40);
	assert_damage(0, "both allocated and zero");
	poke(l2 + 16, 0);
	assert_damage(64 * KIB, "allocated in no cluster");
}

static int setup(void **state)
{
	struct reactor_config rc = { 0 };
	struct error e = ERROR_INIT;

	log_setup("test", LOG_LVL_ERROR, false);
	strcpy(dir, "/var/tmp/qchain-extents-XXXXXX");
	if (!mkdtemp(dir) || reactor_new(&rc, &reactor, &e) < 0)
		return -1;
	snprintf(img, sizeof(img), "%s/i.qcow2", dir);
	return 0;
}

static int teardown(void **state)
{
	reactor_free(reactor);
	return shell("rm -r %s", dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty_is_one_extent),
		cmocka_unit_test(test_kinds_are_merged_and_cut),
		cmocka_unit_test(test_snapshot_takes_in_place_away),
		cmocka_unit_test(test_subclusters),
		cmocka_unit_test(test_compressed_is_one_cluster_each),
		cmocka_unit_test(test_small_clusters),
		cmocka_unit_test(test_damaged_tables),
		cmocka_unit_test(test_damaged_subclusters),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
