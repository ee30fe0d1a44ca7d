// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_header.c - the input is an image file, whole: header, extensions, and what they lead to.
 *
 * It is looked at as qcimg info and check do, opened as a chain and read, then written to,
 * its header rewritten, and repaired. So a crash's input is an image that the
 * tools can be pointed at.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow/backing.h"
#include "qcow/check.h"
#include "tests/fuzz/fuzz.h"

/* As qcimg info. */
static void co_info(struct reactor *r)
{
	struct layer_opts o = {
		.format = FORMAT_QCOW2, .allow_corrupt = true, .allow_dirty = true, .no_data_file = true,
		.metadata_only = true, .cache = FILE_CACHE_WRITEBACK, .meta_cache = 64u << 10,
	};
	struct error e = ERROR_INIT;
	struct image_ref ref;
	struct layer *l;
	int rc = co_layer_open(r, fuzz_path(FUZZ_IMAGE), &o, &l, &e);

	fuzz_require_sentence(rc, &e);
	if (rc < 0)
		return;
	if (layer_backing_name(l)) {
		rc = image_ref_parse(layer_backing_name(l), layer_path(l), &ref, &e);
		fuzz_require_sentence(rc, &e);
		if (!rc)
			image_ref_free(&ref);
	}
	co_layer_close(l, NULL);
}

static void co_open_and_use(struct reactor *r, bool writable, uint64_t seed)
{
	struct chain_opts o = {
		.image = fuzz_path(FUZZ_IMAGE), .format = FORMAT_QCOW2, .backing_format = "raw",
		.read_only = !writable, .cache = FILE_CACHE_WRITEBACK, .map_cache = 1u << 20,
		.meta_cache = 256u << 10, .max_requests = 4,
	};
	struct error e = ERROR_INIT;
	struct chain *c;
	int rc = co_chain_open(r, &o, &c, &e);

	fuzz_require_sentence(rc, &e);
	if (rc < 0)
		return;
	co_fuzz_read(c);
	if (writable) {
		co_fuzz_guest(c, seed);
		co_layer_set_backing(chain_active(c), seed & 1 ? "other" : NULL, seed & 1 ? "raw" : NULL, &e);
		co_fuzz_read(c);
	}
	e = (struct error)ERROR_INIT;
	fuzz_require_sentence(co_chain_close(c, &e), &e);
}

struct input {
	const uint8_t *data;
	size_t len;
};

static int co_main(struct reactor *r, void *arg)
{
	const struct input *in = arg;
	/* the same for inputs that differ in bytes only, or coverage would be noise */
	uint64_t seed = in->len;

	co_info(r);
	co_fuzz_check(r, 0);
	co_open_and_use(r, false, seed);
	co_open_and_use(r, true, seed);
	co_fuzz_check(r, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS);
	co_fuzz_check(r, 0);
	return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_init();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct input in = { data, len };
	static const uint8_t side[64u << 10] = { 1, 2, 3 };

	fuzz_fill(FUZZ_IMAGE, data, len);
	fuzz_fill(FUZZ_DATA, side, sizeof(side));
	fuzz_fill(FUZZ_BACKING, side, sizeof(side));
	fuzz_run(co_main, &in, 1);
	return 0;
}
