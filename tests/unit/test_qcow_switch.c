// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_qcow_switch.c - a backing file is switched by one sector: after a power cut at any instant the
 * header names the old one or the new one, name and format together.
 */
#include "tests/unit/qcow_image.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_backing_file_is_switched_by_one_sector),
		cmocka_unit_test(a_cluster_of_one_sector_is_switched_as_well),
		cmocka_unit_test(names_too_long_for_the_format_are_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
