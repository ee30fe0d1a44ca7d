// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Unit tests of qcow/create.h: images equal those of qemu-img create byte for byte (where it is installed),
 * pass its check, and what is wrong is refused without leaving a file.
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
#include <unistd.h>

#include <cmocka.h>

#include "io/reactor.h"
#include "qcow/create.h"
#include "qcow/layer.h"

static struct reactor *r;
static char dir[64];
static bool have_qemu;

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 64 };
	const char *tmp = getenv("TMPDIR");

	snprintf(dir, sizeof(dir), "%.40s/qc-create-XXXXXX", tmp ? tmp : "/var/tmp");
	if (!mkdtemp(dir) || chdir(dir) < 0)
		return -1;
	have_qemu = system("command -v qemu-img >/dev/null 2>&1") == 0;
	return reactor_new(&cfg, &r, NULL);
}

static int teardown(void **state)
{
	char cmd[128];

	reactor_free(r);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return chdir("/") < 0 || system(cmd) ? -1 : 0;
}

struct creation {
	const char *path;
	struct create_opts o;
	struct error e;
};

static int co_create(void *arg)
{
	struct creation *c = arg;

	return co_image_create(r, c->path, &c->o, &c->e);
}

/* "a=b,c=d"; keeps its strings in `text`. */
static int parse(struct create_opts *o, char *text, struct error *e)
{
	char *save, *key;
	int rc = 0;

	for (key = strtok_r(text, ",", &save); key && !rc; key = strtok_r(NULL, ",", &save)) {
		char *value = strchr(key, '=');

		assert_non_null(value);
		*value = 0;
		rc = create_opt_parse(o, key, value + 1, e);
	}
	return rc;
}

/* As qcimg create does it: no extended L2 unless asked for. */
static int create(const char *path, const char *options, uint64_t size, struct error *e)
{
	struct creation c = { .path = path, .o = { .format = FORMAT_QCOW2, .size = size, .overwrite = true } };
	char text[512];
	int rc;

	snprintf(text, sizeof(text), "%s", options);
	rc = parse(&c.o, text, &c.e);
	if (!rc)
		rc = reactor_run_co(r, co_create, &c);
	if (e)
		*e = c.e;
	else if (rc)
		print_error("%s: %s\n", options, c.e.msg);
	return rc;
}

static int run(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static uint64_t size_of(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 ? (uint64_t)st.st_size : UINT64_MAX;
}

/*
 * Where the refcount table had to grow, QEMU leaves the bytes of the old one in what are free or data clusters
 * then; we never write them. So a sector may differ if it is zero in ours; qemu-img check finds
 * out whether it should have been a table.
 */
static off_t next_data(int fd, off_t at, off_t end)
{
	off_t n = lseek(fd, at, SEEK_DATA);

	return n < 0 ? end : n;
}

static bool same_image(const char *theirs, const char *ours)
{
	static const unsigned char zero[512];
	static unsigned char a[1 << 16], b[1 << 16];
	int fa = open(theirs, O_RDONLY), fb = open(ours, O_RDONLY);
	bool same = size_of(theirs) == size_of(ours);
	off_t at = 0, end = (off_t)size_of(theirs);

	assert_true(fa >= 0 && fb >= 0);
	while (same && at < end) {
		off_t na = next_data(fa, at, end), nb = next_data(fb, at, end);
		ssize_t n;

		at = (na < nb ? na : nb) & ~(off_t)511;
		n = pread(fa, a, sizeof(a), at);
		assert_int_equal(pread(fb, b, sizeof(b), at), n);
		for (ssize_t i = 0; i < n; i += 512) {
			size_t len = n - i < 512 ? (size_t)(n - i) : 512;

			if (memcmp(a + i, b + i, len) && memcmp(b + i, zero, len))
				same = false;
		}
		at += n;
	}
	close(fa);
	close(fb);
	return same;
}

static void equals_qemu(const char *options, const char *size)
{
	const char *comma = *options ? "," : "";

	unlink("data.raw");
	assert_int_equal(run("qemu-img create -q -f qcow2 -o '%s%ssize=%s' theirs", options, comma, size), 0);
	if (strstr(options, "data_file"))
		assert_int_equal(rename("data.raw", "theirs.raw"), 0);
	{
		struct create_opts o = { 0 };

		assert_int_equal(create_opt_parse(&o, "size", size, NULL), 0);
		assert_int_equal(create("ours", options, o.size, NULL), 0);
	}
	if (!same_image("theirs", "ours"))
		fail_msg("-o %s, size %s: not the image that qemu-img makes", options, size);
	if (strstr(options, "data_file"))
		if (run("cmp theirs.raw data.raw"))
			fail_msg("-o %s, size %s: not the data file that qemu-img makes", options, size);
	assert_int_equal(run("qemu-img check -q ours"), 0);
}

static void plain_images_equal_those_of_qemu_img(void **state)
{
	static const char *const options[] = {
		"", "compat=0.10", "cluster_size=512", "cluster_size=1k", "cluster_size=4k",
		"cluster_size=8k", "cluster_size=2M", "refcount_bits=1", "refcount_bits=2",
		"refcount_bits=4", "refcount_bits=8", "refcount_bits=32", "refcount_bits=64",
		"refcount_bits=64,cluster_size=512", "refcount_bits=1,cluster_size=512",
		"extended_l2=on", "extended_l2=on,cluster_size=16k", "extended_l2=on,cluster_size=2M",
		"lazy_refcounts=on", "compression_type=zstd", "data_file=data.raw",
		"compat=0.10,cluster_size=512", "compat=1.1,lazy_refcounts=on,compression_type=zstd",
	};
	static const char *const sizes[] = { "0", "100M" };

	if (!have_qemu)
		skip();
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++)
			equals_qemu(options[i], sizes[k]);
	equals_qemu("", "512");
	equals_qemu("", "1T");
	equals_qemu("cluster_size=2M", "20P");
	equals_qemu("cluster_size=512", "8G");
	equals_qemu("cluster_size=512,refcount_bits=64", "9G");
}

static void preallocated_images_equal_those_of_qemu_img(void **state)
{
	static const char *const options[] = {
		"preallocation=metadata", "preallocation=falloc", "preallocation=full",
		"preallocation=metadata,compat=0.10",
		"preallocation=metadata,cluster_size=512", "preallocation=falloc,cluster_size=512",
		"preallocation=metadata,cluster_size=512,refcount_bits=64",
		"preallocation=falloc,cluster_size=512,refcount_bits=64",
		"preallocation=full,cluster_size=1k,refcount_bits=32",
		"preallocation=metadata,refcount_bits=1", "preallocation=falloc,refcount_bits=1",
		"preallocation=metadata,extended_l2=on", "preallocation=falloc,extended_l2=on",
		"preallocation=metadata,extended_l2=on,cluster_size=16k",
		"preallocation=metadata,cluster_size=2M",
		"preallocation=metadata,data_file=data.raw", "preallocation=falloc,data_file=data.raw",
		"preallocation=full,data_file=data.raw", "data_file=data.raw,data_file_raw=on",
		"data_file=data.raw,data_file_raw=on,cluster_size=512",
	};

	if (!have_qemu)
		skip();
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		equals_qemu(options[i], "5000k");
	equals_qemu("preallocation=metadata", "0");
	equals_qemu("preallocation=falloc", "0");
	equals_qemu("preallocation=full", "512");
	equals_qemu("preallocation=metadata,data_file=data.raw", "70000");
	equals_qemu("preallocation=metadata", "5G");
	equals_qemu("preallocation=metadata,cluster_size=4k,refcount_bits=64", "200M");
	equals_qemu("preallocation=metadata,cluster_size=2M", "9G");
	equals_qemu("preallocation=metadata,extended_l2=on", "3000001k");
}

static void an_overlay_equals_that_of_qemu_img_and_has_its_backings_size(void **state)
{
	static const char *const options[] = {
		"", "compat=0.10", "cluster_size=512", "cluster_size=2M", "extended_l2=on",
		"extended_l2=on,preallocation=metadata",
	};

	if (!have_qemu)
		skip();
	assert_int_equal(run("qemu-img create -q -f raw base.raw 7000000"), 0);
	assert_int_equal(run("qemu-img create -q -f qcow2 base.qcow2 33M"), 0);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		const char *comma = *options[i] ? "," : "";
		char text[256];

		for (int raw = 0; raw < 2; raw++) {
			const char *fmt = raw ? "raw" : "qcow2";

			snprintf(text, sizeof(text), "%s%sbacking_file=base.%s,backing_fmt=%s", options[i],
				 comma, fmt, fmt);
			assert_int_equal(run("qemu-img create -q -f qcow2 -o '%s' theirs", text), 0);
			assert_int_equal(create("ours", text, UINT64_MAX, NULL), 0);
			if (!same_image("theirs", "ours"))
				fail_msg("-o %s: not the image that qemu-img makes", text);
			assert_int_equal(run("qemu-img check -q ours"), 0);
		}
	}
}

static void overlays_have_subclusters_by_default(void **state)
{
	struct creation c = {
		.path = "overlay",
		.o = { .format = FORMAT_QCOW2, .size = UINT64_MAX, .extended_l2 = -1,
		       .backing_name = "base2.raw", .backing_format = "raw" },
	};
	unsigned char head[112];
	int fd;

	assert_int_equal(run("truncate -s 1M base2.raw"), 0);
	assert_int_equal(reactor_run_co(r, co_create, &c), 0);
	fd = open("overlay", O_RDONLY);
	assert_int_equal(read(fd, head, sizeof(head)), sizeof(head));
	close(fd);
	assert_int_equal(head[23], 17);
	assert_int_equal(head[79], 16);
	assert_int_equal(head[29], 0x10);
	/* and a second time it is there already */
	assert_int_equal(reactor_run_co(r, co_create, &c), -EEXIST);
}

static void wrong_options_are_refused_and_leave_no_file(void **state)
{
	static const struct {
		const char *options;
		const char *says;
	} bad[] = {
		{ "cluster_size=100", "power of two" },
		{ "cluster_size=256", "power of two" },
		{ "cluster_size=4M", "power of two" },
		{ "cluster_size=0", "power of two" },
		{ "refcount_bits=0", "power of two" },
		{ "refcount_bits=3", "power of two" },
		{ "refcount_bits=128", "power of two" },
		{ "compat=0.10,refcount_bits=8", "compat=1.1" },
		{ "compat=0.10,lazy_refcounts=on", "compat=1.1" },
		{ "compat=0.10,extended_l2=on", "compat=1.1" },
		{ "compat=0.10,compression_type=zstd", "compat=1.1" },
		{ "compat=0.10,data_file=x", "compat=1.1" },
		{ "extended_l2=on,cluster_size=8k", "16k" },
		{ "compat=2", "0.10 or 1.1" },
		{ "compression_type=lz4", "zlib or zstd" },
		{ "preallocation=some", "metadata" },
		{ "lazy_refcounts=maybe", "on or off" },
		{ "data_file_raw=on", "needs data_file" },
		{ "data_file=", "empty" },
		{ "data_file=new", "own data file" },
		{ "colour=blue", "unknown option 'colour'" },
		{ "backing_file=base3.raw", "format" },
		{ "backing_file=base3.raw,backing_fmt=vmdk", "vmdk" },
		{ "backing_fmt=raw", "needs a backing file" },
		{ "backing_file=base3.raw,backing_fmt=qcow2", "not a qcow2 image" },
		{ "backing_file=missing,backing_fmt=raw", "missing" },
		{ "backing_file=base3.raw,backing_fmt=raw,preallocation=full", "extended_l2=on" },
		{ "backing_file=base3.raw,backing_fmt=raw,data_file=x,data_file_raw=on", "exclude" },
		{ "cluster_size=512,size=200G", "larger cluster size" },
		{ "size=8E", "below 8 EiB" },
	};

	assert_int_equal(run("truncate -s 1M base3.raw"), 0);
	assert_int_equal(run("echo old > new"), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *path = strstr(bad[i].options, "=new") ? "new" : "refused";
		struct error e = ERROR_INIT;

		assert_true(create(path, bad[i].options, 1 << 20, &e) < 0);
		if (!strstr(e.msg, bad[i].says))
			fail_msg("%s: '%s' does not say '%s'", bad[i].options, e.msg, bad[i].says);
		assert_int_equal(size_of("refused"), UINT64_MAX);
		assert_int_equal(size_of("x"), UINT64_MAX);
		assert_int_equal(size_of("new"), 4);
	}
}

static void a_failure_removes_what_was_made(void **state)
{
	struct error e = ERROR_INIT;

	/* the data file cannot be made, when the image is there already */
	assert_true(create("half", "data_file=no/such/folder/data", 1 << 20, &e) < 0);
	assert_non_null(strstr(e.msg, "no/such/folder/data"));
	assert_int_equal(size_of("half"), UINT64_MAX);
	e = (struct error)ERROR_INIT;
	assert_true(create("no/such/folder/image", "data_file=../data9", 1 << 20, &e) < 0);
	assert_int_equal(size_of("data9"), UINT64_MAX);
}

static void an_existing_data_file_is_kept(void **state)
{
	assert_int_equal(run("printf precious > kept.raw"), 0);
	assert_int_equal(create("keeper", "data_file=kept.raw,data_file_raw=on", 1 << 20, NULL), 0);
	assert_int_equal(size_of("kept.raw"), 1 << 20);
	assert_int_equal(run("test \"$(head -c 8 kept.raw)\" = precious"), 0);
}

static void raw_images_have_the_size_rounded_to_sectors(void **state)
{
	struct creation c = { .path = "r.raw", .o = { .format = FORMAT_RAW, .size = 1000 } };

	assert_int_equal(reactor_run_co(r, co_create, &c), 0);
	assert_int_equal(size_of("r.raw"), 1024);
	c = (struct creation){ .path = "full.raw", .o = { .format = FORMAT_RAW, .size = 1 << 20,
							  .preallocation = PREALLOC_FULL } };
	assert_int_equal(reactor_run_co(r, co_create, &c), 0);
	assert_int_equal(run("test $(stat -c %%b full.raw) -ge 2048"), 0);
	c.path = "meta.raw";
	c.o.preallocation = PREALLOC_METADATA;
	assert_int_equal(reactor_run_co(r, co_create, &c), -EINVAL);
}

static void sizes_are_read_with_units_and_fractions(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{ "0", 0 }, { "65536", 65536 }, { "64k", 65536 }, { "64K", 65536 }, { "1.5G", 3ull << 29 },
		{ "2b", 2 }, { "3T", 3ull << 40 }, { "7E", 7ull << 60 },
	};
	static const char *const bad[] = { "", "-1", "k", "1x", "1kk", "8E", "99999999999999999999", " 1" };
	struct create_opts o;

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		assert_int_equal(create_opt_parse(&o, "size", good[i].text, NULL), 0);
		assert_int_equal(o.size, good[i].bytes);
	}
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(create_opt_parse(&o, "size", bad[i], NULL), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(plain_images_equal_those_of_qemu_img),
		cmocka_unit_test(preallocated_images_equal_those_of_qemu_img),
		cmocka_unit_test(an_overlay_equals_that_of_qemu_img_and_has_its_backings_size),
		cmocka_unit_test(overlays_have_subclusters_by_default),
		cmocka_unit_test(wrong_options_are_refused_and_leave_no_file),
		cmocka_unit_test(a_failure_removes_what_was_made),
		cmocka_unit_test(an_existing_data_file_is_kept),
		cmocka_unit_test(raw_images_have_the_size_rounded_to_sectors),
		cmocka_unit_test(sizes_are_read_with_units_and_fractions),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
