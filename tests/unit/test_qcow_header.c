// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Unit tests of header.c, qcow2_open.c, raw.c and layer.c's open: headers of QEMU come back byte
 * for byte, damaged ones are refused by name, and random damage does no harm.
 */
#include "tests/unit/qcow_image.h"

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

static void an_image_of_another_format_is_not_taken_for_raw(void **state)
{
	static const struct {
		const char *name;
		unsigned off;
		const char *bytes;
	} formats[] = { { "vmdk", 0, "KDMV" }, { "vhdx", 0, "vhdxfile" }, { "vdi", 64, "\x7f\x10\xda\xbe" } };

	for (unsigned i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		struct error e = ERROR_INIT;
		struct layer *l;

		assert_int_equal(run("rm -f foreign && truncate -s 1M foreign"), 0);
		poke("foreign", formats[i].off, formats[i].bytes, strlen(formats[i].bytes));
		assert_int_equal(try_open("foreign", (struct layer_opts){ 0 }, &l, &e), -ENOTSUP);
		assert_non_null(strstr(e.msg, formats[i].name));
		assert_int_equal(try_open("foreign", (struct layer_opts){ .format = FORMAT_RAW }, &l, NULL), 0);
		close_layer(l);
	}
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
		cmocka_unit_test(an_image_of_another_format_is_not_taken_for_raw),
		cmocka_unit_test(raw_extents_are_in_place_holes_too),
		cmocka_unit_test(a_raw_window_outside_the_file_is_refused),
		cmocka_unit_test(random_damage_does_no_harm),
		cmocka_unit_test(a_small_file_takes_little_memory),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
