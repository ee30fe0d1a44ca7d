// SPDX-License-Identifier: GPL-2.0-or-later
/* Definitions on disk, chain names, and the run directory that allows one daemon a name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/conf.h"
#include "tools/rundir.h"

static char folder[64];

static int folder_make(void **state)
{
	char path[96];

	snprintf(folder, sizeof(folder), "/var/tmp/qchain-unit.XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/etc", folder);
	setenv("QCHAIN_ETCDIR", path, 1);
	snprintf(path, sizeof(path), "%s/run", folder);
	setenv("QCHAIN_RUNDIR", path, 1);
	return 0;
}

static int folder_remove(void **state)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf '%s'", folder);
	return system(command);
}

static void write_conf(const char *name, const char *text)
{
	struct error e = ERROR_INIT;
	char path[PATH_MAX];
	FILE *f;

	assert_int_equal(dir_make(conf_dir(path, sizeof(path)), 0755, "X", &e), 0);
	f = fopen(conf_path(path, sizeof(path), name), "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void what_is_saved_is_loaded(void **state)
{
	struct chain_conf a, b;
	struct error e = ERROR_INIT;
	char longname[600];

	conf_init(&a, "web");
	memset(longname, 'x', sizeof(longname) - 1);
	longname[sizeof(longname) - 1] = '\0';
	longname[0] = '/';
	memcpy(longname + 10, " ; # = [", 8);
	a.image = strdup(longname);
	a.format = FORMAT_RAW;
	a.backing_format = FORMAT_QCOW2;
	a.device = DEVICE_FUSE;
	a.number = 7;
	a.engine = ENGINE_AIO;
	a.cache = FILE_CACHE_WRITEBACK;
	a.read_only = a.no_dm = true;
	a.map_cache = 5 << 20;
	assert_int_equal(conf_save(&a, true, &e), 0);
	assert_int_equal(conf_save(&a, true, &e), -EEXIST);
	assert_int_equal(conf_save(&a, false, &e), 0);
	conf_init(&b, "web");
	e.code = 0;
	assert_int_equal(conf_load(&b, "web", &e), 0);
	assert_string_equal(a.image, b.image);
	free(a.image);
	free(b.image);
	a.image = b.image = NULL;
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(conf_remove("web", &e), 0);
	assert_false(conf_exists("web"));
}

static void wrong_files_name_line_and_fault(void **state)
{
	static const char *const cases[][2] = {
		{ "[chain]\nimage = a\ncolour = red\n", "line 3: unknown key 'colour'" },
		{ "[chain]\n\n# x\nengine = steam\n", "line 4: engine = 'steam' is wrong; it must be uring or aio" },
		{ "image = a\n", "line 1: 'image = a' stands before the section [chain]" },
		{ "[disk]\n", "line 1: unknown section [disk]" },
		{ "[chain]\nimage\n", "line 2: 'image' is not of the form key = value" },
		{ "[chain]\nnumber = 3\n", "names no image" },
		{ "[chain]\nnumber = -1\n", "number = '-1' is wrong" },
		{ "", "names no image" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct error e = ERROR_INIT;
		struct chain_conf c;

		write_conf("bad", cases[i][0]);
		conf_init(&c, "bad");
		assert_int_equal(conf_load(&c, "bad", &e), -EINVAL);
		if (!strstr(e.msg, cases[i][1]))
			fail_msg("'%s' said '%s'", cases[i][0], e.msg);
		conf_free(&c);
	}
}

static void lists_hold_only_definitions(void **state)
{
	struct error e = ERROR_INIT;
	char **names;

	write_conf("b", "");
	write_conf("a", "");
	write_conf(".hidden", "");
	assert_int_equal(conf_list(&names, &e), 0);
	assert_string_equal(names[0], "a");
	assert_string_equal(names[1], "b");
	assert_string_equal(names[2], "bad");
	assert_null(names[3]);
	conf_list_free(names);
}

static void chain_names_are_checked(void **state)
{
	static const char *const good[] = { "web", "a", "0", "_x", "A.b-c_9" };
	static const char *const bad[] = { "", "-a", ".a", "a/b", "a b", "\303\244", "..", "a\n",
		"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" };

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		assert_int_equal(chain_name_check(good[i], NULL), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error e = ERROR_INIT;

		assert_int_equal(chain_name_check(bad[i], &e), -EINVAL);
		assert_string_not_equal(e.msg, "");
	}
}

static void image_names_become_absolute(void **state)
{
	static const char *const kept[] = { "/a/b", "json:{\"driver\": \"raw\"}", "file:/x", "file:///x", "nbd://h" };
	char here[PATH_MAX], want[PATH_MAX + 16], *got;

	assert_non_null(getcwd(here, sizeof(here)));
	for (size_t i = 0; i < sizeof(kept) / sizeof(kept[0]); i++) {
		got = image_name_absolute(kept[i]);
		assert_string_equal(got, kept[i]);
		free(got);
	}
	got = image_name_absolute("file:x");
	snprintf(want, sizeof(want), "file:%s/x", here);
	assert_string_equal(got, want);
	free(got);
	got = image_name_absolute("./a:b");
	snprintf(want, sizeof(want), "%s/./a:b", here);
	assert_string_equal(got, want);
	free(got);
}

static void one_owner_a_name(void **state)
{
	struct rundir a = { .pid_fd = -1 }, b = { .pid_fd = -1 };
	struct error e = ERROR_INIT;
	char path[PATH_MAX], want[64];
	char **names;

	assert_int_equal(rundir_owner("web"), 0);
	assert_int_equal(rundir_take(&a, "web", &e), 0);
	assert_int_equal(rundir_owner("web"), getpid());
	assert_int_equal(rundir_take(&b, "web", &e), -EBUSY);
	snprintf(want, sizeof(want), "already served by process %d", (int)getpid());
	assert_non_null(strstr(e.msg, want));
	assert_int_equal(rundir_list(&names, &e), 0);
	assert_string_equal(names[0], "web");
	assert_null(names[1]);
	conf_list_free(names);
	rundir_leave(&a);
	assert_int_not_equal(access(run_path(path, sizeof(path), "web", NULL), F_OK), 0);
	assert_int_equal(rundir_owner("web"), 0);
}

static void leftovers_of_the_dead_go(void **state)
{
	struct rundir d = { .pid_fd = -1 };
	struct error e = ERROR_INIT;
	char path[PATH_MAX];

	assert_int_equal(rundir_take(&d, "old", &e), 0);
	close(d.pid_fd);                /* as if killed: the lock goes, the files stay */
	assert_int_equal(mknod(run_path(path, sizeof(path), "old", "qmp.sock"), S_IFSOCK | 0600, 0), 0);
	mkdir(run_path(path, sizeof(path), "old", "mnt"), 0700);
	assert_int_equal(rundir_owner("old"), 0);
	assert_int_equal(rundir_take(&d, "old", &e), 0);
	assert_int_not_equal(access(run_path(path, sizeof(path), "old", "qmp.sock"), F_OK), 0);
	/* a dead mount is the device's: it finds the loop by it */
	assert_int_equal(access(run_path(path, sizeof(path), "old", "mnt"), F_OK), 0);
	assert_int_equal(rmdir(run_path(path, sizeof(path), "old", "mnt")), 0);
	rundir_leave(&d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_saved_is_loaded),
		cmocka_unit_test(wrong_files_name_line_and_fault),
		cmocka_unit_test(lists_hold_only_definitions),
		cmocka_unit_test(chain_names_are_checked),
		cmocka_unit_test(image_names_become_absolute),
		cmocka_unit_test(one_owner_a_name),
		cmocka_unit_test(leftovers_of_the_dead_go),
	};

	return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
