// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_names.c - the input is the name of an image, as a header or a person may give it.
 *
 * It is parsed on a coroutine's stack, as it is when a chain is opened, seen from several
 * parents; and what was understood must hold together.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow/backing.h"
#include "tests/fuzz/fuzz.h"

static const char *const parents[] = { NULL, "image", "/some/folder/image", "a/b/", "json:{}" };
#define NR_PARENTS (sizeof(parents) / sizeof(parents[0]))

static void look(const struct image_ref *ref)
{
	for (; ref; ref = ref->backing) {
		FUZZ_REQUIRE(ref->path && *ref->path, "an image without a path");
		FUZZ_REQUIRE(ref->format == FORMAT_RAW || (!ref->raw_offset && !ref->raw_size),
			     "a window in what is not raw");
		FUZZ_REQUIRE(ref->raw_offset <= INT64_MAX && ref->raw_size <= INT64_MAX, "a window too large");
		FUZZ_REQUIRE(!ref->backing || ref->has_backing, "a backing file that was not given");
	}
}

/* The way back: a name for the same file, seen from the parent, must lead to a path again. */
static void there_and_back(const char *path, const char *parent)
{
	struct image_ref ref;
	struct error e = ERROR_INIT;
	char *name;

	for (int relative = 0; relative < 2; relative++) {
		name = backing_name_for(path, parent ? parent : "image", relative);
		FUZZ_REQUIRE(name, "no name for '%s'", path);
		if (!image_ref_parse(name, parent, &ref, &e)) {
			look(&ref);
			image_ref_free(&ref);
		}
		free(name);
	}
}

static int co_main(struct reactor *r, void *arg)
{
	const char *name = arg;

	for (size_t i = 0; i < NR_PARENTS; i++) {
		struct error e = ERROR_INIT;
		struct image_ref ref;
		int rc = image_ref_parse(name, parents[i], &ref, &e);

		fuzz_require_sentence(rc, &e);
		if (rc < 0)
			continue;
		look(&ref);
		there_and_back(ref.path, parents[i]);
		image_ref_free(&ref);
	}
	return 0;
}

static struct reactor *reactor;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_init();
	reactor = fuzz_reactor_new(1);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *name = malloc(len + 1);

	FUZZ_REQUIRE(name, "no memory");
	memcpy(name, data, len);
	name[len] = 0;
	fuzz_reactor_run(reactor, co_main, name);
	free(name);
	return 0;
}
