// SPDX-License-Identifier: GPL-2.0-or-later
/* Unit tests of qcow/backing.h: every form of a name, and the refusals. */
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

#include "qcow/backing.h"

static struct image_ref parsed(const char *name, const char *parent)
{
	struct error e = ERROR_INIT;
	struct image_ref ref;

	if (image_ref_parse(name, parent, &ref, &e))
		fail_msg("%s: %s", name, e.msg);
	return ref;
}

static void is(const char *name, const char *parent, const char *path, enum layer_format format)
{
	struct image_ref ref = parsed(name, parent);

	assert_string_equal(ref.path, path);
	assert_int_equal(ref.format, format);
	assert_false(ref.has_backing);
	assert_null(ref.data_file);
	image_ref_free(&ref);
}

static void refused(const char *name, int code, const char *says)
{
	struct error e = ERROR_INIT;
	struct image_ref ref;

	assert_int_equal(image_ref_parse(name, NULL, &ref, &e), -code);
	if (!strstr(e.msg, says))
		fail_msg("%s: '%s' does not say '%s'", name, e.msg, says);
	assert_null(ref.path);
}

static void plain_paths_count_from_the_folder_of_the_parent(void **state)
{
	is("base", NULL, "base", FORMAT_UNSET);
	is("base", "top", "base", FORMAT_UNSET);
	is("base", "some/dir/top", "some/dir/base", FORMAT_UNSET);
	is("../base", "/a/b/top", "/a/b/../base", FORMAT_UNSET);
	is("/abs/base", "/a/b/top", "/abs/base", FORMAT_UNSET);
	is("base", "/top", "/base", FORMAT_UNSET);
	is("file:base", "d/top", "d/base", FORMAT_UNSET);
	is("file:/x/base", "d/top", "/x/base", FORMAT_UNSET);
	is("./a:b", "d/top", "d/./a:b", FORMAT_UNSET);
	is("dir/a:b", NULL, "dir/a:b", FORMAT_UNSET);
}

static void protocols_are_refused_by_name(void **state)
{
	refused("nbd://host/x", ENOTSUP, "'nbd'");
	refused("https://host/x", ENOTSUP, "'https'");
	refused("fat:rw:dir", ENOTSUP, "'fat'");
	refused(":x", ENOTSUP, "protocol");
	refused("", EINVAL, "empty");
	refused("file:", EINVAL, "empty");
}

static void json_names_may_be_nested_or_dotted(void **state)
{
	is("json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"x\"}}", "d/top", "d/x", FORMAT_QCOW2);
	is("json:{\"driver\":\"qcow2\",\"file.driver\":\"file\",\"file.filename\":\"x\"}", NULL, "x", FORMAT_QCOW2);
	is("json:{\"driver\":\"raw\",\"file.filename\":\"/x\"}", "d/top", "/x", FORMAT_RAW);
	is("json:{\"driver\":\"raw\",\"file\":{\"driver\":\"host_device\",\"filename\":\"/dev/x\"}}", NULL, "/dev/x",
	   FORMAT_RAW);
	is("json:{\"file.filename\":\"x\"}", NULL, "x", FORMAT_UNSET);
	is("json:{\"file\":{\"driver\":\"file\",\"filename\":\"x\"}}", NULL, "x", FORMAT_UNSET);
	is("json:{\"driver\":\"file\",\"filename\":\"x\"}", NULL, "x", FORMAT_RAW);
	is("json:{\"driver\":\"qcow2\",\"filename\":\"x\"}", NULL, "x", FORMAT_QCOW2);
	is("json:{\"driver\":\"qcow2\",\"file.filename\":\"a:b\"}", NULL, "a:b", FORMAT_QCOW2);
}

static void harmless_settings_are_let_pass(void **state)
{
	is("json:{\"node-name\":\"n\",\"read-only\":true,\"cache\":{\"direct\":false,\"no-flush\":false},"
	   "\"discard\":\"unmap\",\"detect-zeroes\":\"off\",\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\","
	   "\"aio\":\"io_uring\",\"locking\":\"auto\",\"auto-read-only\":true,\"cache.direct\":true,"
	   "\"filename\":\"x\",\"node-name\":\"f\"}}", NULL, "x", FORMAT_QCOW2);
}

static void a_raw_window_has_offset_and_size(void **state)
{
	struct image_ref ref = parsed("json:{\"driver\":\"raw\",\"offset\":1048576,\"size\":\"4096\","
				      "\"file.filename\":\"x\"}", NULL);

	assert_int_equal(ref.raw_offset, 1 << 20);
	assert_int_equal(ref.raw_size, 4096);
	image_ref_free(&ref);
	refused("json:{\"driver\":\"raw\",\"offset\":-1,\"file.filename\":\"x\"}", EINVAL, "offset");
	refused("json:{\"driver\":\"raw\",\"size\":true,\"file.filename\":\"x\"}", EINVAL, "size");
	refused("json:{\"driver\":\"raw\",\"size\":\"1x\",\"file.filename\":\"x\"}", EINVAL, "size");
	refused("json:{\"driver\":\"qcow2\",\"offset\":512,\"file.filename\":\"x\"}", ENOTSUP, "\"offset\"");
}

static void a_backing_image_may_be_named_or_ruled_out(void **state)
{
	struct image_ref ref = parsed("json:{\"driver\":\"qcow2\",\"backing\":null,\"file.filename\":\"x\"}", NULL);

	assert_true(ref.has_backing);
	assert_null(ref.backing);
	image_ref_free(&ref);
	ref = parsed("json:{\"driver\":\"qcow2\",\"file.filename\":\"x\",\"backing\":{\"driver\":\"qcow2\","
		     "\"file.filename\":\"y\",\"backing.driver\":\"raw\",\"backing.file.filename\":\"z\"}}", "d/t");
	assert_true(ref.has_backing && ref.backing && ref.backing->has_backing && ref.backing->backing);
	assert_string_equal(ref.backing->path, "d/y");
	assert_int_equal(ref.backing->format, FORMAT_QCOW2);
	assert_string_equal(ref.backing->backing->path, "d/z");
	assert_int_equal(ref.backing->backing->format, FORMAT_RAW);
	assert_false(ref.backing->backing->has_backing);
	image_ref_free(&ref);
	refused("json:{\"driver\":\"qcow2\",\"backing\":\"node\",\"file.filename\":\"x\"}", ENOTSUP, "names a node");
	refused("json:{\"driver\":\"raw\",\"backing\":null,\"file.filename\":\"x\"}", ENOTSUP, "\"backing\"");
}

static void a_data_file_may_be_named(void **state)
{
	struct image_ref ref = parsed("json:{\"driver\":\"qcow2\",\"file.filename\":\"x\","
				      "\"data-file\":{\"driver\":\"file\",\"filename\":\"data\"}}", "d/top");

	assert_string_equal(ref.data_file, "d/data");
	image_ref_free(&ref);
	refused("json:{\"driver\":\"qcow2\",\"data-file\":\"node\",\"file.filename\":\"x\"}", ENOTSUP, "names a node");
}

static void what_is_unknown_is_refused_by_name(void **state)
{
	char deep[2000] = "json:";

	refused("json:{\"driver\":\"vmdk\",\"file.filename\":\"x\"}", ENOTSUP, "'vmdk'");
	refused("json:{\"driver\":\"nbd\",\"host\":\"h\"}", ENOTSUP, "'nbd'");
	refused("json:{\"driver\":\"qcow2\",\"file.driver\":\"nbd\",\"file.host\":\"h\"}", ENOTSUP, "'nbd'");
	refused("json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"raw\",\"offset\":512,\"file\":{\"filename\":\"x\"}}}",
		ENOTSUP, "'raw'");
	refused("json:{\"driver\":\"qcow2\",\"file.filename\":\"x\",\"encrypt.key-secret\":\"s\"}", ENOTSUP,
		"\"encrypt.key-secret\"");
	refused("json:{\"driver\":\"qcow2\",\"file.filename\":\"x\",\"file.offset\":512}", ENOTSUP, "\"file.offset\"");
	refused("json:{\"driver\":\"qcow2\",\"file\":\"node\"}", ENOTSUP, "names a node");
	refused("json:{\"driver\":\"qcow2\"}", EINVAL, "file.filename");
	refused("json:{\"driver\":7,\"file.filename\":\"x\"}", EINVAL, "must be a string");
	refused("json:{\"driver\":\"qcow2\",\"file.filename\":[\"x\"]}", EINVAL, "list");
	refused("json:{\"file.filename\":\"x\",\"file\":{\"filename\":\"y\"}}", EINVAL, "twice");
	refused("json:{\"filename\":\"x\",\"file\":{\"filename\":\"y\"}}", EINVAL, "exclude");
	refused("json:{\"a\":1,\"a\":2}", EINVAL, "JSON");
	refused("json:", EINVAL, "JSON");
	refused("json:[]", EINVAL, "object");
	refused("json:{\"driver\":", EINVAL, "JSON");
	memset(deep + 5, '[', 1500);
	refused(deep, EINVAL, "deep");
}

static void names_are_written_so_that_they_mean_the_same_from_the_parent(void **state)
{
	static const struct {
		const char *path, *parent;
		bool relative;
		const char *name;
	} all[] = {
		{ "/nowhere/a/base", "/nowhere/a/top", true, "base" },
		{ "/nowhere/a/base", "/nowhere/b/top", true, "../a/base" },
		{ "/nowhere/a/b/base", "/nowhere/top", true, "a/b/base" },
		{ "/nowhere/base", "/nowhere/a/b/top", true, "../../base" },
		{ "/nowhere/a/base", "/elsewhere/top", true, "/nowhere/a/base" },
		{ "/nowhere/a/base", "/nowhere/a/top", false, "/nowhere/a/base" },
		{ "/nowhere/a/x:y", "/nowhere/a/top", true, "./x:y" },
		{ "/nowhere/ab/base", "/nowhere/a/top", true, "../ab/base" },
		{ "json:{\"driver\":\"raw\"}", "/nowhere/top", true, "json:{\"driver\":\"raw\"}" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		char *name = backing_name_for(all[i].path, all[i].parent, all[i].relative);

		assert_string_equal(name, all[i].name);
		free(name);
	}
}

/* From a folder that is a link, ".." leads elsewhere than the text says. */
static void links_to_folders_are_followed(void **state)
{
	char dir[] = "/var/tmp/qc-backing-XXXXXX", cmd[256], parent[128], path[128], *name;
	struct image_ref ref;
	struct stat a, b;

	assert_non_null(mkdtemp(dir));
	snprintf(cmd, sizeof(cmd), "mkdir -p %s/x/y/z %s/base && touch %s/base/img && ln -s x/y/z %s/link", dir, dir, dir,
		 dir);
	assert_int_equal(system(cmd), 0);
	snprintf(parent, sizeof(parent), "%s/link/top", dir);
	snprintf(path, sizeof(path), "%s/base/img", dir);
	name = backing_name_for(path, parent, true);
	assert_string_equal(name, "../../../base/img");
	ref = parsed(name, parent);
	assert_int_equal(stat(ref.path, &a), 0);
	assert_int_equal(stat(path, &b), 0);
	assert_int_equal(a.st_ino, b.st_ino);
	image_ref_free(&ref);
	free(name);
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_paths_count_from_the_folder_of_the_parent),
		cmocka_unit_test(protocols_are_refused_by_name),
		cmocka_unit_test(json_names_may_be_nested_or_dotted),
		cmocka_unit_test(harmless_settings_are_let_pass),
		cmocka_unit_test(a_raw_window_has_offset_and_size),
		cmocka_unit_test(a_backing_image_may_be_named_or_ruled_out),
		cmocka_unit_test(a_data_file_may_be_named),
		cmocka_unit_test(what_is_unknown_is_refused_by_name),
		cmocka_unit_test(names_are_written_so_that_they_mean_the_same_from_the_parent),
		cmocka_unit_test(links_to_folders_are_followed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
