// SPDX-License-Identifier: GPL-2.0-or-later
/* test_dm_device.c - what needs no device: kinds, what this kernel offers, users of block devices. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dm/device.h"
#include "dm/sysfs.h"

static void kinds(void **state)
{
	static const char *const names[] = { "auto", "ublk", "fuse", "none" };
	enum device_kind k;

	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(device_kind_parse(names[i], &k), 0);
		assert_string_equal(device_kind_name(k), names[i]);
	}
	assert_int_equal(device_kind_parse("nbd", &k), -EINVAL);
	assert_int_equal(device_kind_parse("", &k), -EINVAL);
}

static void best_agrees_with_the_kernel(void **state)
{
	struct error e = ERROR_INIT;
	enum device_kind k = device_best(&e);

	if (geteuid() != 0) {
		assert_int_equal(k, DEVICE_NONE);
		assert_int_equal(e.code, EPERM);
		assert_non_null(strstr(e.msg, "root"));
	} else if (access("/dev/ublk-control", F_OK) == 0) {
		assert_int_equal(k, DEVICE_UBLK);
	} else if (access("/dev/fuse", F_OK) == 0 && access("/dev/loop-control", F_OK) == 0) {
		assert_int_equal(k, DEVICE_FUSE);
		assert_int_equal(e.code, 0);
	} else {
		assert_int_equal(k, DEVICE_NONE);
		assert_non_null(strstr(e.msg, "modprobe"));
	}
}

static void sysfs_lines(void **state)
{
	char path[] = "/var/tmp/qchain-sysfs.XXXXXX", buf[8];
	int fd = mkstemp(path);

	assert_int_equal(write(fd, "one\ntwo\n", 8), 8);
	assert_int_equal(sysfs_read(path, buf, sizeof(buf)), 3);
	assert_string_equal(buf, "one");
	assert_int_equal(sysfs_read(path, buf, 3), 2);
	assert_string_equal(buf, "on");
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(sysfs_read(path, buf, sizeof(buf)), 0);
	close(fd);
	unlink(path);
	assert_int_equal(sysfs_read(path, buf, sizeof(buf)), -ENOENT);
}

static void root_is_mounted(void **state)
{
	struct mount_entry m;
	struct mount_list l;
	struct stat st;
	bool found = false;

	assert_int_equal(stat("/", &st), 0);
	assert_int_equal(mount_list_open(&l), 0);
	while (mount_list_next(&l, &m)) {
		assert_int_equal(m.dir[0], '/');
		assert_non_null(m.type);
		found |= !strcmp(m.dir, "/");
	}
	mount_list_close(&l);
	assert_true(found);
}

static void what_is_no_device_is_not_in_use(void **state)
{
	char who[64] = "x";

	assert_false(block_in_use("/dev/null", NULL, who, sizeof(who)));
	assert_string_equal(who, "");
	assert_false(block_in_use("/no/such", NULL, NULL, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(kinds),
		cmocka_unit_test(best_agrees_with_the_kernel),
		cmocka_unit_test(sysfs_lines),
		cmocka_unit_test(root_is_mounted),
		cmocka_unit_test(what_is_no_device_is_not_in_use),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
