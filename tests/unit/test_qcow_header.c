// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Unit tests of header.c, header_write.c, qcow2_open.c, raw.c and layer.c's open: headers of QEMU come back byte
 * for byte, damaged ones are refused by name, a backing file is switched with no moment
 * in which a power cut leaves anything but the old or the new one, and random damage does no harm.
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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/log.h"
#include "io/reactor_priv.h"
#include "qcow/create.h"
#include "qcow/qcow2.h"

static struct reactor *r;
static char dir[64];
static bool have_qemu;

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

static int run(const char *fmt, ...)
{
	char cmd[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 64 };
	const char *tmp = getenv("TMPDIR");

	/* each refusal is in an error, and what is logged beside it would fill the screen */
	log_setup("test", LOG_LVL_ERROR, false);
	snprintf(dir, sizeof(dir), "%.40s/qc-header-XXXXXX", tmp ? tmp : "/var/tmp");
	if (!mkdtemp(dir) || chdir(dir) < 0)
		return -1;
	have_qemu = run("command -v qemu-img >/dev/null 2>&1") == 0;
	return reactor_new(&cfg, &r, NULL);
}

static int teardown(void **state)
{
	reactor_free(r);
	return chdir("/") < 0 || run("rm -rf '%s'", dir) ? -1 : 0;
}

/* --- the calls under test, each as one run of the reactor --- */

struct call {
	const char *path;
	struct create_opts create;
	struct layer_opts lo;
	struct layer *l;
	const char *name, *format;
	struct error e;
};

static int co_create(void *arg)
{
	struct call *c = arg;

	return co_image_create(r, c->path, &c->create, &c->e);
}

static int co_open(void *arg)
{
	struct call *c = arg;

	return co_layer_open(r, c->path, &c->lo, &c->l, &c->e);
}

static int co_close(void *arg)
{
	struct call *c = arg;

	return co_layer_close(c->l, &c->e);
}

static int co_set_backing(void *arg)
{
	struct call *c = arg;

	return co_layer_set_backing(c->l, c->name, c->format, &c->e);
}

static void create(const char *path, struct create_opts o)
{
	struct call c = { .path = path, .create = o };

	c.create.format = FORMAT_QCOW2;
	/* anew, not in place: a test that failed may still hold the old one open */
	unlink(path);
	c.create.no_backing_check = true;
	if (!c.create.size)
		c.create.size = 10 << 20;
	if (reactor_run_co(r, co_create, &c))
		fail_msg("%s", c.e.msg);
}

static int try_open(const char *path, struct layer_opts lo, struct layer **l, struct error *e)
{
	struct call c = { .path = path, .lo = lo };
	int rc;

	c.lo.cache = FILE_CACHE_WRITEBACK;
	rc = reactor_run_co(r, co_open, &c);
	*l = c.l;
	if (e)
		*e = c.e;
	else if (rc)
		fail_msg("%s: %s", path, c.e.msg);
	return rc;
}

static struct layer *open_layer(const char *path, bool writable)
{
	struct layer *l;

	try_open(path, (struct layer_opts){ .format = FORMAT_QCOW2, .writable = writable }, &l, NULL);
	return l;
}

static void close_layer(struct layer *l)
{
	struct call c = { .l = l };

	if (reactor_run_co(r, co_close, &c))
		fail_msg("%s", c.e.msg);
}

static int set_backing(struct layer *l, const char *name, const char *format)
{
	struct call c = { .l = l, .name = name, .format = format };

	return reactor_run_co(r, co_set_backing, &c);
}

/* --- files by hand --- */

static void peek(const char *path, uint64_t off, void *buf, size_t len)
{
	int fd = open(path, O_RDONLY);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, len, (off_t)off), len);
	close(fd);
}

static void poke(const char *path, uint64_t off, const void *buf, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0600);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, buf, len, (off_t)off), len);
	close(fd);
}

static void poke_be(const char *path, uint64_t off, unsigned bytes, uint64_t value)
{
	unsigned char buf[8];

	for (unsigned i = bytes; i-- > 0; value >>= 8)
		buf[i] = (unsigned char)value;
	poke(path, off, buf, bytes);
}

static uint64_t peek_be(const char *path, uint64_t off, unsigned bytes)
{
	unsigned char buf[8];
	uint64_t v = 0;

	peek(path, off, buf, bytes);
	for (unsigned i = 0; i < bytes; i++)
		v = v << 8 | buf[i];
	return v;
}

/* --- there and back --- */

static void comes_back_unchanged(const char *what)
{
	struct layer *l = open_layer("image", false);
	uint32_t size = layer_cluster_size(l);
	unsigned char *disk = malloc(size), *ours = calloc(1, size);

	peek("image", 0, disk, size);
	assert_true(qcow2_header_serialise(&layer_qcow2(l)->hdr, ours, size, NULL) > 0);
	if (memcmp(disk, ours, size))
		fail_msg("%s: the header does not come back as it was", what);
	free(disk);
	free(ours);
	close_layer(l);
}

static void headers_of_qemu_come_back_byte_for_byte(void **state)
{
	static const char *const options[] = {
		"compat=0.10", "compat=1.1", "cluster_size=512", "cluster_size=4k", "cluster_size=8k",
		"cluster_size=2M", "extended_l2=on", "lazy_refcounts=on", "compression_type=zstd",
		"refcount_bits=1", "refcount_bits=64", "data_file=d.raw", "data_file=d.raw,data_file_raw=on",
		"backing_file=base,backing_fmt=raw", "backing_file=base,backing_fmt=raw,compat=0.10",
		"backing_file=base,backing_fmt=raw,cluster_size=512",
		"backing_file=base,backing_fmt=raw,extended_l2=on,compression_type=zstd",
		"data_file=d.raw,backing_file=base,backing_fmt=raw",
	};

	if (!have_qemu)
		skip();
	assert_int_equal(run("truncate -s 10M base"), 0);
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		assert_int_equal(run("qemu-img create -q -f qcow2 -o %s image 10M", options[i]), 0);
		comes_back_unchanged(options[i]);
	}
	assert_int_equal(run("qemu-img create -q -f qcow2 image 10M && qemu-img snapshot -c one image"), 0);
	comes_back_unchanged("with a snapshot");
	assert_int_equal(run("qemu-img bitmap --add image two"), 0);
	comes_back_unchanged("with a bitmap");
}

static void what_is_unknown_is_kept(void **state)
{
	static const char ext[] = "\x12\x34\x56\x78\0\0\0\x05" "hello\0\0\0" "\x9a\xbc\xde\xf0\0\0\0\0";
	struct layer *l;
	unsigned char got[256];

	/* a header of 120 bytes, whose last 8 nobody knows, and two extensions nobody knows */
	create("image", (struct create_opts){ .cluster_size = 4096 });
	poke_be("image", 100, 4, 120);
	poke("image", 112, "unknown!", 8);
	poke("image", 120, ext, sizeof(ext) - 1);
	poke("image", 120 + sizeof(ext) - 1, "\0\0\0\0\0\0\0\0", 8);
	comes_back_unchanged("with unknown fields");
	l = open_layer("image", true);
	assert_int_equal(set_backing(l, "below", "raw"), 0);
	close_layer(l);
	peek("image", 0, got, sizeof(got));
	assert_memory_equal(got + 112, "unknown!", 8);
	/* the backing format comes first */
	assert_memory_equal(got + 120, "\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0", 16);
	assert_memory_equal(got + 136, ext, sizeof(ext) - 1);
	l = open_layer("image", false);
	assert_string_equal(layer_backing_name(l), "below");
	assert_string_equal(layer_backing_format(l), "raw");
	close_layer(l);
}

/* --- refusals --- */

struct damage {
	unsigned off, bytes;
	uint64_t value;
	const char *says;
};

static void refused(const struct damage *d, bool writable)
{
	struct error e = ERROR_INIT;
	struct layer *l;
	int rc;

	rc = try_open("image", (struct layer_opts){ .format = FORMAT_QCOW2, .writable = writable }, &l, &e);
	if (!rc)
		fail_msg("byte %u = 0x%llx: opened", d->off, (unsigned long long)d->value);
	if (!strstr(e.msg, d->says) || !strstr(e.msg, "image"))
		fail_msg("byte %u = 0x%llx: '%s' does not say '%s'", d->off, (unsigned long long)d->value,
			 e.msg, d->says);
	assert_null(strchr(e.msg, '\n'));
}

static void a_damaged_field_is_refused_by_name(void **state)
{
	/* the image: header, refcount table, block, L1 of 1 entry at 0x30000, 196616 bytes long */
	static const struct damage all[] = {
		{ 0, 4, 0x514649fc, "not a qcow2 image" },
		{ 4, 4, 1, "version 1" }, { 4, 4, 4, "version 4" }, { 4, 4, 0xffffffff, "version" },
		{ 20, 4, 8, "clusters" }, { 20, 4, 22, "clusters" }, { 20, 4, 0xffffffff, "clusters" },
		{ 8, 8, (1 << 16) + 1, "backing file name" }, { 8, 8, UINT64_MAX, "backing file name" },
		{ 24, 8, UINT64_MAX, "a disk of" }, { 24, 8, 1ull << 40, "L1 table has 1 entries" },
		{ 24, 8, (512ull << 20) + 1, "needs 2" },
		{ 32, 4, 1, "AES" }, { 32, 4, 2, "LUKS" }, { 32, 4, 3, "method 3" },
		{ 36, 4, 0, "L1 table has 0 entries" }, { 36, 4, 0x00400001, "33554440 bytes" },
		{ 36, 4, 0xffffffff, "L1 table" }, { 36, 4, 0x10000, "truncated" },
		{ 40, 8, 0x30200, "start of a cluster" }, { 40, 8, 0, "overlaps the header" },
		{ 40, 8, 0x10000, "overlap" }, { 40, 8, 0x1000000, "the file ends" },
		{ 40, 8, 0xffffffffffff0000, "the file ends" },
		{ 48, 8, 0, "overlaps the header" }, { 48, 8, 0x10001, "start of a cluster" },
		{ 48, 8, 0x30000, "the file ends" }, { 48, 8, 0xffffffffffff0000, "the file ends" },
		{ 56, 4, 0, "no refcount table" }, { 56, 4, 129, "8388608 are allowed" },
		{ 56, 4, 0xffffffff, "refcount table" }, { 56, 4, 3, "the file ends" },
		{ 60, 4, 65537, "snapshot table" }, { 60, 4, 1, "snapshot table overlaps the header" },
		{ 64, 8, 512, "snapshot table" },
		{ 72, 8, 8, "compression type" }, { 72, 8, 4, "does not name it" },
		{ 88, 8, 1, "no bitmaps extension" }, { 88, 8, 2, "without a data file" },
		{ 96, 4, 7, "2^7 bits" }, { 96, 4, 0xffffffff, "bits" },
		{ 100, 4, 96, "header length" }, { 100, 4, 105, "header length" },
		{ 100, 4, 1 << 20, "first cluster" }, { 100, 4, 0xfffffff8, "first cluster" },
		{ 104, 1, 1, "compression type" },
		{ 116, 4, 0xffffffff, "goes beyond" }, { 116, 4, 0x10000, "goes beyond" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		create("image", (struct create_opts){ 0 });
		poke_be("image", all[i].off, all[i].bytes, all[i].value);
		refused(&all[i], false);
		refused(&all[i], true);
	}
}

static void a_bad_backing_name_is_refused(void **state)
{
	static const struct damage all[] = {
		{ 16, 4, 1024, "1023 are allowed" }, { 8, 8, 65535, "beyond the first cluster" },
		{ 8, 8, 104, "overlaps the header" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		create("image", (struct create_opts){ .backing_name = "some/base", .backing_format = "raw" });
		poke_be("image", all[i].off, all[i].bytes, all[i].value);
		refused(&all[i], false);
	}
}

static void unknown_features_are_refused_by_their_names(void **state)
{
	struct damage d = { 72, 8, 1ull << 62 | 1ull << 9, "bit 9, time travel" };

	create("image", (struct create_opts){ 0 });
	poke_be("image", d.off, d.bytes, d.value);
	/* entry 7 of the table of names becomes incompatible bit 62 */
	poke("image", 120 + 7 * 48, "\0\x3etime travel\0", 14);
	refused(&d, false);
	/* even if the extensions cannot be read */
	poke_be("image", 116, 4, 0x7fffffff);
	d.says = "bit 9, bit 62";
	refused(&d, false);
}

static void a_double_extension_is_refused(void **state)
{
	struct damage d = { 0, 0, 0, "appears twice" };

	create("image", (struct create_opts){ .cluster_size = 4096 });
	poke("image", 112, "\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0\xe2\x79\x2a\xca\0\0\0\x03raw\0\0\0\0\0", 32);
	refused(&d, false);
	poke("image", 112, "\x68\x03\xf8\x57\0\0\0\0\x68\x03\xf8\x57\0\0\0\0\0\0\0\0\0\0\0\0", 24);
	refused(&d, false);
}

static void truncated_and_foreign_files_are_refused(void **state)
{
	struct damage d = { 0, 0, 0, "truncated" };

	for (unsigned len = 4; len < 196616; len = len < 200 ? len + 1 : len * 3) {
		create("image", (struct create_opts){ 0 });
		assert_int_equal(truncate("image", len), 0);
		refused(&d, len & 1);
	}
	assert_int_equal(truncate("image", 0), 0);
	d.says = "not a qcow2 image";
	refused(&d, false);
	assert_int_equal(run("rm image && mkdir image"), 0);
	d.says = "neither a regular file nor a block device";
	refused(&d, false);
	assert_int_equal(run("rmdir image && ln -s /dev/null image"), 0);
	refused(&d, false);
	assert_int_equal(run("rm image"), 0);
	d.says = "No such file";
	refused(&d, false);
}

static void corrupt_images_open_read_only(void **state)
{
	struct damage d = { 72, 8, 2, "is marked corrupt; it can be opened read-only, or repaired with: qcimg check -r all" };
	struct layer *l;

	create("image", (struct create_opts){ 0 });
	poke_be("image", d.off, d.bytes, d.value);
	refused(&d, true);
	close_layer(open_layer("image", false));
	try_open("image", (struct layer_opts){ .writable = true, .allow_corrupt = true }, &l, NULL);
	close_layer(l);
}

/* --- opening for writing --- */

static void reading_changes_nothing_and_writing_clears_autoclear_bits(void **state)
{
	create("image", (struct create_opts){ 0 });
	poke_be("image", 88, 8, 1ull << 40 | 1ull << 7);
	close_layer(open_layer("image", false));
	assert_true(peek_be("image", 88, 8) == (1ull << 40 | 1ull << 7));
	close_layer(open_layer("image", true));
	assert_int_equal(peek_be("image", 88, 8), 0);
}

static void bitmaps_are_marked_inconsistent_by_a_writer(void **state)
{
	if (!have_qemu)
		skip();
	assert_int_equal(run("qemu-img create -q -f qcow2 image 10M && qemu-img bitmap --add image b"), 0);
	close_layer(open_layer("image", false));
	assert_int_equal(peek_be("image", 88, 8), 1);
	log_setup("test", LOG_LVL_ERROR, false);
	close_layer(open_layer("image", true));
	assert_int_equal(peek_be("image", 88, 8), 0);
	assert_int_equal(run("qemu-img info image >/dev/null"), 0);
}

static void the_dirty_bit_goes_after_a_rebuild(void **state)
{
	struct layer *l;

	create("image", (struct create_opts){ .lazy_refcounts = true });
	poke_be("image", 72, 8, 1);
	/* the L1 table's cluster lost its reference */
	poke_be("image", 0x20006, 2, 0);
	try_open("image", (struct layer_opts){ .allow_dirty = true }, &l, NULL);
	close_layer(l);
	assert_int_equal(peek_be("image", 72, 8), 1);
	close_layer(open_layer("image", true));
	assert_int_equal(peek_be("image", 72, 8), 0);
	/* the new refcounts may be elsewhere */
	assert_int_equal(peek_be("image", (uint64_t)peek_be("image", peek_be("image", 48, 8), 8) + 6, 2), 1);
}

static void encrypted_images_open_for_a_look_only(void **state)
{
	struct damage d = { 0, 0, 0, "encrypted (LUKS)" };
	struct layer *l;

	if (!have_qemu || run("qemu-img create -q --object secret,id=s,data=x -f qcow2 "
			      "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 image 1M"))
		skip();
	refused(&d, false);
	try_open("image", (struct layer_opts){ .metadata_only = true }, &l, NULL);
	assert_int_equal(layer_size(l), 1 << 20);
	close_layer(l);
}

static void a_missing_data_file_is_named(void **state)
{
	struct damage d = { 0, 0, 0, "data file 'gone.raw' of image 'image' does not exist" };
	struct layer *l;

	create("image", (struct create_opts){ .data_file = "gone.raw" });
	l = open_layer("image", true);
	assert_string_equal(layer_data_file_name(l), "gone.raw");
	assert_ptr_not_equal(layer_data_file(l), layer_file(l));
	close_layer(l);
	assert_int_equal(unlink("gone.raw"), 0);
	refused(&d, false);
	try_open("image", (struct layer_opts){ .no_data_file = true }, &l, NULL);
	assert_null(layer_data_file(l));
	close_layer(l);
	d.says = "names itself";
	assert_int_equal(run("ln image gone.raw"), 0);
	refused(&d, false);
	/* beside the image, wherever we are */
	assert_int_equal(run("rm gone.raw; mkdir -p sub; mv image sub; touch sub/gone.raw"), 0);
	l = open_layer("sub/image", false);
	assert_string_equal(file_path(layer_data_file(l)), "sub/gone.raw");
	close_layer(l);
	assert_int_equal(run("rm -r sub"), 0);
}

static void formats_are_probed_only_when_unset(void **state)
{
	struct layer *l;

	create("image", (struct create_opts){ .size = 1 << 20 });
	try_open("image", (struct layer_opts){ 0 }, &l, NULL);
	assert_int_equal(layer_format(l), FORMAT_QCOW2);
	close_layer(l);
	try_open("image", (struct layer_opts){ .format = FORMAT_RAW }, &l, NULL);
	assert_int_equal(layer_format(l), FORMAT_RAW);
	assert_int_equal(layer_size(l), 197120);
	close_layer(l);
}

/* --- raw layers --- */

struct extents {
	struct layer *l;
	struct extent x[16];
	uint64_t off, bytes;
	int n;
};

static int co_extents(void *arg)
{
	struct extents *x = arg;

	x->n = co_layer_extents(x->l, x->off, x->bytes, x->x, 16);
	return x->n < 0 ? x->n : 0;
}

static void raw_extents_are_in_place_holes_too(void **state)
{
	struct extents x = { .bytes = UINT64_MAX / 2 };
	struct layer *l;

	unlink("r.raw");
	poke("r.raw", 1 << 20, "x", 1);
	assert_int_equal(truncate("r.raw", (3 << 20) + 100), 0);
	try_open("r.raw", (struct layer_opts){ .format = FORMAT_RAW, .writable = true }, &l, NULL);
	x.l = l;
	assert_int_equal(layer_size(l), (3 << 20) + 512);
	assert_int_equal(reactor_run_co(r, co_extents, &x), 0);
	assert_int_equal(x.n, 3);
	assert_int_equal(x.x[0].kind, EXT_ZERO);
	assert_int_equal(x.x[1].kind, EXT_DATA);
	assert_int_equal(x.x[2].kind, EXT_ZERO);
	for (int i = 0; i < 3; i++) {
		assert_true(x.x[i].in_place);
		assert_int_equal(x.x[i].host_off, x.x[i].guest_off);
		assert_int_equal(x.x[i].bytes % 512, 0);
	}
	assert_int_equal(x.x[2].guest_off + x.x[2].bytes, layer_size(l));
	close_layer(l);

	/* a window: guest 0 is byte 1 MiB, which is data */
	try_open("r.raw", (struct layer_opts){ .format = FORMAT_RAW, .raw_offset = 1 << 20,
					       .raw_size = 1 << 20 }, &l, NULL);
	x.l = l;
	assert_int_equal(layer_size(l), 1 << 20);
	assert_int_equal(reactor_run_co(r, co_extents, &x), 0);
	assert_int_equal(x.x[0].kind, EXT_DATA);
	assert_int_equal(x.x[0].host_off, 1 << 20);
	assert_false(x.x[0].in_place);
	close_layer(l);
}

static void a_raw_window_outside_the_file_is_refused(void **state)
{
	static const struct layer_opts bad[] = {
		{ .format = FORMAT_RAW, .raw_offset = 4 << 20 },
		{ .format = FORMAT_RAW, .raw_offset = 512, .raw_size = 1 << 20 },
		{ .format = FORMAT_RAW, .raw_offset = 100 },
		{ .format = FORMAT_RAW, .raw_offset = UINT64_MAX & ~511ull, .raw_size = 1024 },
		{ .format = FORMAT_RAW, .raw_size = UINT64_MAX & ~511ull },
	};

	unlink("r.raw");
	poke("r.raw", (1 << 20) - 1, "x", 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct error e = ERROR_INIT;
		struct layer *l;

		assert_int_equal(try_open("r.raw", bad[i], &l, &e), -EINVAL);
		assert_non_null(strstr(e.msg, "r.raw"));
	}
}

/* --- power cuts while a backing file is switched --- */

#define MAX_WRITES 64

static struct {
	bool flush;
	uint64_t off;
	unsigned char *data;
	size_t len;
} writes[MAX_WRITES];
static unsigned nr_writes;
static const struct engine *real_engine;
static struct engine spy_engine;

static bool spy_submit(struct reactor *re, const struct engine_req *rq)
{
	bool taken = real_engine->submit(re, rq);

	if (!taken || (rq->opcode != ENGINE_WRITE && rq->opcode != ENGINE_FDATASYNC))
		return taken;
	assert_true(nr_writes < MAX_WRITES);
	writes[nr_writes].flush = rq->opcode == ENGINE_FDATASYNC;
	if (rq->opcode == ENGINE_WRITE) {
		size_t at = 0;

		writes[nr_writes].off = rq->off;
		for (unsigned i = 0; i < rq->nr_iov; i++)
			writes[nr_writes].len += rq->iov[i].iov_len;
		writes[nr_writes].data = malloc(writes[nr_writes].len);
		for (unsigned i = 0; i < rq->nr_iov; i++) {
			memcpy(writes[nr_writes].data + at, rq->iov[i].iov_base, rq->iov[i].iov_len);
			at += rq->iov[i].iov_len;
		}
	}
	nr_writes++;
	return taken;
}

static void spy_on(void)
{
	real_engine = r->engine;
	spy_engine = *real_engine;
	spy_engine.submit = spy_submit;
	r->engine = &spy_engine;
	nr_writes = 0;
}

static void spy_off(void)
{
	r->engine = real_engine;
}

static void spy_forget(void)
{
	for (unsigned i = 0; i < nr_writes; i++)
		free(writes[i].data);
	memset(writes, 0, sizeof(writes));
	nr_writes = 0;
}

struct names {
	const char *name, *format;
};

static bool names_are(const struct layer *l, struct names n)
{
	const char *name = layer_backing_name(l), *format = layer_backing_format(l);

	return !strcmp(name ?: "", n.name ?: "") && !strcmp(format ?: "", n.name && n.format ? n.format : "");
}

static void must_be(struct names old, struct names new, const char *what)
{
	struct error e = ERROR_INIT;
	struct layer *l;

	if (try_open("cut", (struct layer_opts){ .format = FORMAT_QCOW2 }, &l, &e))
		fail_msg("%s: after a power cut: %s", what, e.msg);
	if (!names_are(l, old) && !names_are(l, new))
		fail_msg("%s: a power cut leaves backing '%s' of format '%s'", what,
			 layer_backing_name(l) ?: "none", layer_backing_format(l) ?: "none");
	close_layer(l);
}

/* Plays writes [0, upto) onto the old image; of the unflushed sectors those in `mask` only. */
static void cut_power(const unsigned char *before, size_t len, unsigned upto, unsigned first_volatile,
		      uint32_t mask)
{
	unsigned sector = 0;

	poke("cut", 0, before, len);
	for (unsigned i = 0; i < upto; i++) {
		for (size_t at = 0; at < writes[i].len; at += 512) {
			if (i >= first_volatile && !(mask >> (sector++ % 32) & 1))
				continue;
			poke("cut", writes[i].off + at, writes[i].data + at, 512);
		}
	}
}

static void every_power_cut(const unsigned char *before, size_t len, struct names old, struct names new,
			    const char *what)
{
	unsigned first_volatile = 0;

	for (unsigned upto = 0; upto <= nr_writes; upto++) {
		if (upto && writes[upto - 1].flush)
			first_volatile = upto;
		for (uint32_t mask = 0; mask < 64; mask++) {
			/* all subsets of 6 sectors, repeated beyond */
			cut_power(before, len, upto, first_volatile, mask | mask << 6 | mask << 12 | mask << 18 |
				  mask << 24 | mask << 30);
			must_be(old, new, what);
			if (first_volatile == upto)
				break;
		}
	}
}

static void switch_and_cut(struct names old, struct names new, const char *what)
{
	struct layer *l = open_layer("image", true);
	size_t len = layer_cluster_size(l);
	unsigned char *before = malloc(len);

	assert_int_equal(run("cp image cut"), 0);
	peek("image", 0, before, len);
	spy_on();
	assert_int_equal(set_backing(l, new.name, new.format), 0);
	spy_off();
	assert_true(nr_writes > 0 && writes[nr_writes - 1].flush);
	assert_true(names_are(l, new));
	close_layer(l);
	every_power_cut(before, len, old, new, what);
	spy_forget();
	l = open_layer("image", false);
	assert_true(names_are(l, new));
	close_layer(l);
	if (have_qemu)
		assert_int_equal(run("qemu-img info -f qcow2 image >/dev/null"), 0);
	free(before);
}

static void a_backing_file_is_switched_by_one_sector(void **state)
{
	static char long_a[1024], long_b[1024];
	static const struct names names[] = {
		{ NULL, NULL }, { "a", "raw" }, { "b/c.qcow2", "qcow2" }, { long_a, "qcow2" }, { long_b, "raw" },
		{ long_a, NULL }, { "plain", NULL }, { NULL, NULL }, { long_b, "qcow2" }, { long_a, "qcow2" },
		{ "x", "raw" }, { NULL, NULL },
	};
	static const uint32_t sizes[] = { 4096, 65536 };

	memset(long_a, 'a', 1023);
	memset(long_b, 'b', 700);
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		create("image", (struct create_opts){ .cluster_size = sizes[s] });
		for (size_t i = 1; i < sizeof(names) / sizeof(names[0]); i++) {
			char what[64];

			snprintf(what, sizeof(what), "clusters of %u bytes, switch %zu", sizes[s], i);
			switch_and_cut(names[i - 1], names[i], what);
		}
	}
}

static void a_cluster_of_one_sector_is_switched_as_well(void **state)
{
	static const struct names names[] = {
		{ NULL, NULL }, { "a", "raw" }, { "some/longer/name", "qcow2" }, { "plain", NULL }, { NULL, NULL },
	};
	char too_long[500];
	struct layer *l;

	for (int version = 2; version <= 3; version++) {
		create("image", (struct create_opts){ .cluster_size = 512, .version = version });
		for (size_t i = 1; i < sizeof(names) / sizeof(names[0]); i++)
			switch_and_cut(names[i - 1], names[i], "clusters of 512 bytes");
	}
	memset(too_long, 'n', sizeof(too_long));
	too_long[sizeof(too_long) - 1] = 0;
	l = open_layer("image", true);
	assert_int_equal(set_backing(l, too_long, "raw"), -ENOSPC);
	assert_null(layer_backing_name(l));
	close_layer(l);
}

static void names_too_long_for_the_format_are_refused(void **state)
{
	char name[1100];
	struct layer *l;

	memset(name, 'n', sizeof(name));
	name[1024] = 0;
	create("image", (struct create_opts){ 0 });
	l = open_layer("image", true);
	assert_int_equal(set_backing(l, name, "raw"), -ENAMETOOLONG);
	assert_int_equal(set_backing(l, "a", "a format of many words"), -EINVAL);
	close_layer(l);
	l = open_layer("image", false);
	assert_int_equal(set_backing(l, "a", "raw"), -EROFS);
	close_layer(l);
}

/* --- random damage --- */

static uint64_t seed;

static uint32_t rnd(uint32_t n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(seed >> 33) % n;
}

static uint64_t rnd_value(void)
{
	static const uint64_t interesting[] = {
		0, 1, 2, 8, 9, 0x1ff, 0x200, 0xffff, 0x10000, 0x20000, 0x30000, 0x7fffffff, 0x80000000,
		0xffffffff, 0x7fffffffffffffff, 0x8000000000000000, 0xffffffffffffffff, 0xffffffffffff0000,
	};

	return rnd(3) ? interesting[rnd(18)] : (uint64_t)rnd(1u << 31) << 33 | rnd(1u << 31);
}

static void damage_header(unsigned char *head)
{
	static const struct { uint8_t off, bytes; } fields[] = {
		{ 8, 8 }, { 16, 4 }, { 20, 4 }, { 24, 8 }, { 32, 4 }, { 36, 4 }, { 40, 8 }, { 48, 8 },
		{ 56, 4 }, { 60, 4 }, { 64, 8 }, { 72, 8 }, { 80, 8 }, { 88, 8 }, { 96, 4 }, { 100, 4 },
		{ 104, 1 }, { 112, 4 }, { 116, 4 }, { 128, 4 }, { 132, 4 },
	};

	for (unsigned n = 1 + rnd(3); n; n--) {
		unsigned i = rnd(sizeof(fields) / sizeof(fields[0]));
		uint64_t v = rnd_value();

		if (!rnd(4)) {
			head[rnd(1024)] = (unsigned char)rnd(256);
			continue;
		}
		for (unsigned b = fields[i].bytes; b-- > 0; v >>= 8)
			head[fields[i].off + b] = (unsigned char)v;
	}
}

static void random_damage_does_no_harm(void **state)
{
	static const struct create_opts kinds[] = {
		{ .size = 10 << 20 }, { .size = 10 << 20, .version = 2 }, { .size = 10 << 20, .cluster_size = 512 },
		{ .size = 10 << 20, .extended_l2 = 1 },
		{ .size = 10 << 20, .backing_name = "b", .backing_format = "raw" },
		{ .size = 10 << 20, .data_file = "d.raw" },
		{ .size = 10 << 20, .preallocation = PREALLOC_METADATA },
	};
	unsigned char head[1024], bad[1024];
	unsigned opened = 0;

	/* what is found out about the tables is logged: thousands of lines */
	int err = dup(2), null = open("/dev/null", O_WRONLY);

	assert_true(err >= 0 && null >= 0 && dup2(null, 2) == 2);
	seed = 20240229;
	for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		create("whole", kinds[k]);
		peek("whole", 0, head, sizeof(head));
		for (unsigned n = 0; n < 250; n++) {
			struct layer_opts lo = { .format = FORMAT_QCOW2, .writable = !rnd(2) };
			struct extents x = { .bytes = UINT64_MAX / 2 };
			struct error e = ERROR_INIT;
			struct call c = { 0 };

			/* writers may repair: begin from the whole image each time */
			if (!n || lo.writable)
				assert_int_equal(run("cp --sparse=always whole image"), 0);
			memcpy(bad, head, sizeof(bad));
			damage_header(bad);
			poke("image", 0, bad, sizeof(bad));
			if (try_open("image", lo, &x.l, &e)) {
				assert_true(*e.msg && !strchr(e.msg, '\n'));
				continue;
			}
			opened++;
			reactor_run_co(r, co_extents, &x);
			c.l = x.l;
			reactor_run_co(r, co_close, &c);
		}
	}
	assert_int_equal(dup2(err, 2), 2);
	close(err);
	close(null);
	assert_true(opened > 100);
}

static void a_small_file_takes_little_memory(void **state)
{
	struct rusage before, after;

	getrusage(RUSAGE_SELF, &before);
	for (unsigned bits = 9; bits <= 21; bits++) {
		struct damage d = { 20, 4, bits, "" };

		create("image", (struct create_opts){ .cluster_size = 512 });
		assert_int_equal(truncate("image", 512), 0);
		poke_be("image", 20, 4, bits);
		poke_be("image", 36, 4, 4 << 20);
		poke_be("image", 60, 4, 65536);
		refused(&d, false);
	}
	getrusage(RUSAGE_SELF, &after);
	assert_true(after.ru_maxrss - before.ru_maxrss < 16 << 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(headers_of_qemu_come_back_byte_for_byte),
		cmocka_unit_test(what_is_unknown_is_kept),
		cmocka_unit_test(a_damaged_field_is_refused_by_name),
		cmocka_unit_test(a_bad_backing_name_is_refused),
		cmocka_unit_test(unknown_features_are_refused_by_their_names),
		cmocka_unit_test(a_double_extension_is_refused),
		cmocka_unit_test(truncated_and_foreign_files_are_refused),
		cmocka_unit_test(corrupt_images_open_read_only),
		cmocka_unit_test(reading_changes_nothing_and_writing_clears_autoclear_bits),
		cmocka_unit_test(bitmaps_are_marked_inconsistent_by_a_writer),
		cmocka_unit_test(the_dirty_bit_goes_after_a_rebuild),
		cmocka_unit_test(encrypted_images_open_for_a_look_only),
		cmocka_unit_test(a_missing_data_file_is_named),
		cmocka_unit_test(formats_are_probed_only_when_unset),
		cmocka_unit_test(raw_extents_are_in_place_holes_too),
		cmocka_unit_test(a_raw_window_outside_the_file_is_refused),
		cmocka_unit_test(a_backing_file_is_switched_by_one_sector),
		cmocka_unit_test(a_cluster_of_one_sector_is_switched_as_well),
		cmocka_unit_test(names_too_long_for_the_format_are_refused),
		cmocka_unit_test(random_damage_does_no_harm),
		cmocka_unit_test(a_small_file_takes_little_memory),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
