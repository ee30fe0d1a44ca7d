// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_qcow_check.c - our check against qemu-img's: the same verdict on healthy and on damaged images.
 *
 * Each case makes an image with qemu-img, damages it by writing into the file, and compares
 * counts; then repairs it and asks qemu-img whether it is clean.
 */
#include "tests/unit/qcow_guest.h"

#include <endian.h>
#include <fcntl.h>
#include <jansson.h>

#include "io/log.h"
#include "qcow/qcow2.h"

struct check_run {
	struct reactor *r;
	char dir[64], img[96];
	unsigned fix;
	bool writable, dirty_too;
	struct check_result res;
	char lines[8192];
	int ret, close_ret;
};

static void collect(void *arg, const char *line)
{
	struct check_run *t = arg;

	strncat(t->lines, line, sizeof(t->lines) - strlen(t->lines) - 2);
	strcat(t->lines, "\n");
}

static int co_check(void *arg)
{
	struct check_run *t = arg;
	struct layer_opts o = { .format = FORMAT_QCOW2, .writable = t->writable, .allow_corrupt = true,
				.allow_dirty = !t->dirty_too, .cache = FILE_CACHE_WRITEBACK };
	struct error e = ERROR_INIT;
	struct layer *l;

	t->lines[0] = 0;
	t->ret = co_layer_open(t->r, t->img, &o, &l, &e);
	if (!t->ret) {
		t->ret = co_layer_check(l, t->fix, &t->res, collect, t, &e);
		t->close_ret = co_layer_close(l, &e);
	}
	if (t->ret < 0)
		print_message("%s\n", e.msg);
	return 0;
}

static void run_check(struct check_run *t, unsigned fix)
{
	t->fix = fix;
	t->writable = fix;
	reactor_run_co(t->r, co_check, t);
}

static uint64_t number(const json_t *j, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(j, key));
}

/* The same numbers as qemu-img check --output json. */
static void assert_as_qemu(struct check_run *t)
{
	char cmd[256];
	json_error_t je;
	json_t *j;
	FILE *p;

	snprintf(cmd, sizeof(cmd), "qemu-img check --output json -f qcow2 %s 2>/dev/null", t->img);
	p = popen(cmd, "r");
	assert_non_null(p);
	j = json_loadf(p, 0, &je);
	pclose(p);
	assert_non_null(j);
	run_check(t, 0);
	assert_int_equal(t->ret, 0);
	if (t->res.corruptions != number(j, "corruptions") || t->res.leaks != number(j, "leaks"))
		print_message("ours:\n%s", t->lines);
	assert_int_equal(t->res.corruptions, number(j, "corruptions"));
	assert_int_equal(t->res.leaks, number(j, "leaks"));
	assert_int_equal(t->res.check_errors, number(j, "check-errors"));
	assert_int_equal(t->res.image_end_offset, number(j, "image-end-offset"));
	assert_int_equal(t->res.total_clusters, number(j, "total-clusters"));
	assert_int_equal(t->res.allocated_clusters, number(j, "allocated-clusters"));
	assert_int_equal(t->res.fragmented_clusters, number(j, "fragmented-clusters"));
	assert_int_equal(t->res.compressed_clusters, number(j, "compressed-clusters"));
	json_decref(j);
}

static void begin(struct check_run *t, const char *create_opts, bool busy)
{
	struct reactor_config rc = { 0 };
	struct error e = ERROR_INIT;

	memset(t, 0, sizeof(*t));
	strcpy(t->dir, "/var/tmp/qchain-check-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->img, sizeof(t->img), "%s/i.qcow2", t->dir);
	assert_int_equal(shell("qemu-img create -q -f qcow2 -o %s %s 8M", create_opts, t->img), 0);
	if (busy)
		assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q -P 1 0 3M' -c 'write -q -P 2 6M 64k' "
				       "-c 'write -q -z 1M 128k' -c 'discard -q 2M 64k' -c 'write -q 5M 70k' %s",
				       t->img), 0);
	if (reactor_new(&rc, &t->r, &e) < 0)
		fail_msg("%s", e.msg);
}

static void end(struct check_run *t)
{
	reactor_free(t->r);
	assert_int_equal(shell("rm -r %s", t->dir), 0);
}

static uint64_t peek(const struct check_run *t, uint64_t off)
{
	int fd = open(t->img, O_RDONLY);
	uint64_t v;

	assert_int_equal(pread(fd, &v, 8, (off_t)off), 8);
	close(fd);
	return be64toh(v);
}

static void poke(const struct check_run *t, uint64_t off, uint64_t v)
{
	int fd = open(t->img, O_RDWR);

	v = htobe64(v);
	assert_int_equal(pwrite(fd, &v, 8, (off_t)off), 8);
	close(fd);
}

/* Places in an image of 64 KiB clusters. */
static uint64_t l1_at(const struct check_run *t)
{
	return peek(t, 40);
}

static uint64_t l2_at(const struct check_run *t)
{
	return peek(t, l1_at(t)) & QCOW2_L1_OFFSET_MASK;
}

static uint64_t refblock_at(const struct check_run *t)
{
	return peek(t, peek(t, 48));
}

static void test_healthy(void **state)
{
	static const char *const opts[] = {
		"cluster_size=64k", "cluster_size=512", "cluster_size=2M", "compat=0.10",
		"refcount_bits=1", "refcount_bits=64,cluster_size=1k", "extended_l2=on,cluster_size=16k",
		"preallocation=metadata", "preallocation=full,cluster_size=4k",
	};
	struct check_run t;
	size_t i;

	for (i = 0; i < sizeof(opts) / sizeof(opts[0]); i++) {
		begin(&t, opts[i], true);
		assert_as_qemu(&t);
		assert_int_equal(t.res.corruptions + t.res.leaks, 0);
		assert_string_equal(t.lines, "");
		end(&t);
	}
}

static void test_snapshots_bitmaps_compressed(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	assert_int_equal(shell("qemu-img snapshot -c a %s && qemu-io -f qcow2 -c 'write -q -P 7 0 1M' %s && "
			       "qemu-img snapshot -c b %s && qemu-img bitmap --add %s dirty && "
			       "qemu-io -f qcow2 -c 'write -q 4M 1M' %s", t.img, t.img, t.img, t.img, t.img), 0);
	assert_as_qemu(&t);
	assert_int_equal(t.res.corruptions + t.res.leaks, 0);
	assert_int_equal(shell("qemu-img convert -c -O qcow2 %s %s/c && mv %s/c %s", t.img, t.dir, t.dir, t.img), 0);
	assert_as_qemu(&t);
	assert_int_equal(t.res.corruptions + t.res.leaks, 0);
	assert_true(t.res.compressed_clusters > 0);
	end(&t);
}

static void repair_and_verify(struct check_run *t, unsigned fix)
{
	run_check(t, fix);
	assert_int_equal(t->ret, 0);
	assert_int_equal(t->close_ret, 0);
	assert_int_equal(t->res.corruptions + t->res.leaks, 0);
	assert_true(t->res.corruptions_fixed + t->res.leaks_fixed > 0);
	assert_int_equal(shell("qemu-img check -q -f qcow2 %s", t->img), 0);
	assert_as_qemu(t);
}

static void test_leak(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	poke(&t, l2_at(&t) + 8, 0);             /* an entry forgotten: its cluster leaks */
	assert_as_qemu(&t);
	assert_int_equal(t.res.leaks, 1);
	assert_non_null(strstr(t.lines, "Leaked cluster "));
	repair_and_verify(&t, CHECK_FIX_LEAKS);
	end(&t);
}

static void test_refcount_too_low(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	assert_int_equal(shell("qemu-img snapshot -c a %s", t.img), 0);
	poke(&t, refblock_at(&t) + 2 * 8, 0x0001000100010001);
	assert_as_qemu(&t);
	assert_true(t.res.corruptions > 0);
	assert_non_null(strstr(t.lines, " reference=2"));
	repair_and_verify(&t, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
	end(&t);
}

static void test_refcounts_lost(void **state)
{
	struct check_run t;
	unsigned i;

	begin(&t, "cluster_size=64k", true);
	for (i = 0; i < 16; i++)
		poke(&t, refblock_at(&t) + i * 8, 0);
	assert_as_qemu(&t);
	repair_and_verify(&t, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
	assert_int_equal(shell("qemu-io -f qcow2 -r -c 'read -q -P 2 6M 64k' %s", t.img), 0);
	end(&t);
}

static void test_refcount_block_misplaced(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	poke(&t, peek(&t, 48), 0x10200);        /* not on a cluster */
	run_check(&t, 0);
	assert_int_equal(t.ret, 0);
	assert_true(t.res.corruptions > 0);
	repair_and_verify(&t, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
	poke(&t, peek(&t, 48), 1ull << 40);     /* outside the file */
	run_check(&t, 0);
	assert_true(t.res.corruptions > 0);
	repair_and_verify(&t, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
	end(&t);
}

static void test_copied_flags(void **state)
{
	struct check_run t;
	uint64_t l1;

	begin(&t, "cluster_size=64k", true);
	l1 = l1_at(&t);
	poke(&t, l2_at(&t) + 16, peek(&t, l2_at(&t) + 16) & ~QCOW2_COPIED);
	poke(&t, l1, peek(&t, l1) & ~QCOW2_COPIED);
	assert_as_qemu(&t);
	assert_int_equal(t.res.corruptions, 2);
	assert_non_null(strstr(t.lines, "ERROR OFLAG_COPIED data cluster"));
	repair_and_verify(&t, CHECK_FIX_ERRORS);
	end(&t);
}

static void test_two_entries_one_cluster(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	poke(&t, l2_at(&t) + 8, peek(&t, l2_at(&t)));
	assert_as_qemu(&t);
	assert_true(t.res.corruptions > 0);
	assert_int_equal(t.res.leaks, 1);
	end(&t);
}

static void test_entries_outside_and_unaligned(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	poke(&t, l2_at(&t) + 8, (1ull << 45) | QCOW2_COPIED);
	poke(&t, l2_at(&t) + 16, peek(&t, l2_at(&t) + 16) + 0x400);
	run_check(&t, 0);
	assert_int_equal(t.ret, 0);
	assert_true(t.res.corruptions >= 2);
	assert_non_null(strstr(t.lines, "exceeding the end of the file"));
	assert_non_null(strstr(t.lines, "Data cluster is not properly aligned"));
	end(&t);
}

static void test_subcluster_bitmap(void **state)
{
	struct check_run t;
	uint64_t at;

	begin(&t, "cluster_size=64k,extended_l2=on", true);
	at = l2_at(&t) + 8;
	poke(&t, at, peek(&t, at) | 1ull << 33);       /* allocated and zero */
	assert_as_qemu(&t);
	assert_true(t.res.corruptions > 0);
	end(&t);
}

/* The dirty bit with refcounts all gone: opening for writing counts them anew. */
static void test_dirty_image_is_rebuilt(void **state)
{
	struct check_run t;
	unsigned i;

	begin(&t, "cluster_size=64k,lazy_refcounts=on", true);
	for (i = 0; i < 16; i++)
		poke(&t, refblock_at(&t) + i * 8, 0);
	poke(&t, 72, peek(&t, 72) | QCOW2_INCOMPAT_DIRTY);
	t.dirty_too = true;
	run_check(&t, CHECK_FIX_LEAKS);
	assert_int_equal(t.ret, 0);
	assert_int_equal(peek(&t, 72) & QCOW2_INCOMPAT_DIRTY, 0);
	assert_int_equal(shell("qemu-img check -q -f qcow2 %s", t.img), 0);
	assert_int_equal(shell("qemu-io -f qcow2 -r -c 'read -q -P 2 6M 64k' %s", t.img), 0);
	end(&t);
}

static void test_marks_are_cleared(void **state)
{
	struct check_run t;

	begin(&t, "cluster_size=64k", true);
	poke(&t, l2_at(&t) + 16, peek(&t, l2_at(&t) + 16) & ~QCOW2_COPIED);
	poke(&t, 72, peek(&t, 72) | QCOW2_INCOMPAT_CORRUPT);
	repair_and_verify(&t, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
	assert_int_equal(peek(&t, 72) & QCOW2_INCOMPAT_CORRUPT, 0);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_healthy),
		cmocka_unit_test(test_snapshots_bitmaps_compressed),
		cmocka_unit_test(test_leak),
		cmocka_unit_test(test_refcount_too_low),
		cmocka_unit_test(test_refcounts_lost),
		cmocka_unit_test(test_refcount_block_misplaced),
		cmocka_unit_test(test_copied_flags),
		cmocka_unit_test(test_two_entries_one_cluster),
		cmocka_unit_test(test_entries_outside_and_unaligned),
		cmocka_unit_test(test_subcluster_bitmap),
		cmocka_unit_test(test_dirty_image_is_rebuilt),
		cmocka_unit_test(test_marks_are_cleared),
	};

	log_setup("test", LOG_LVL_ERROR, false);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
