// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_rebase.c - qcimg rebase -u: writes another backing name and format into a
 * header, and touches nothing else. One sector write: the old name or the new one stands.
 */
#include <errno.h>
#include <string.h>

#include "tools/applet.h"
#include "tools/img_common.h"

struct rebase {
	struct img_common common;
	struct img_source src;
	const char *backing, *backing_format;
	bool unsafe;
};

/* What the header shall say; the present format is kept where the present name is. */
static int co_set(struct layer *l, const struct rebase *rb, struct error *e)
{
	const char *name = *rb->backing ? rb->backing : NULL;
	const char *format = rb->backing_format;

	if (name && !format)
		return error_set(e, EINVAL, "Could not change the backing file to '%s': backing format must be "
				 "specified with -F", name);
	return co_layer_set_backing(l, name, name ? format : NULL, e);
}

static int co_rebase(struct reactor *r, void *arg)
{
	const struct rebase *rb = arg;
	struct layer_opts lo = { .writable = true, .cache = FILE_CACHE_WRITEBACK };
	struct error e = ERROR_INIT;
	struct image_ref ref = { 0 };
	struct layer *l = NULL;
	int ret = img_source_resolve(&rb->src, &ref, &e);

	if (ret == 0) {
		lo.format = ref.format;
		lo.data_file = ref.data_file;
		ret = co_layer_open(r, ref.path, &lo, &l, &e);
	}
	image_ref_free(&ref);
	if (ret < 0)
		return img_fail_open(rb->src.name, &e);
	if (layer_format(l) != FORMAT_QCOW2)
		ret = error_set(&e, ENOTSUP, "Could not change the backing file to '%s': '%s' is raw, which has none",
				rb->backing, rb->src.name);
	else
		ret = co_set(l, rb, &e);
	if (co_layer_close(l, &e) < 0)
		ret = -1;
	return ret < 0 ? img_fail("%s", e.msg) : EXIT_DONE;
}

int img_rebase(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },
		{ "backing", required_argument, NULL, 'b' },
		{ "backing-format", required_argument, NULL, 'F' },
		{ "backing-unsafe", no_argument, NULL, 'u' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct rebase rb = { .common = { .cmd = cmd } };
	int c;

	while ((c = img_getopt(&rb.common, argc, argv, ":hqf:b:F:u", longs)) >= 0) {
		if (c == 'f')
			rb.src.fmt = optarg;
		else if (c == 'b')
			rb.backing = optarg;
		else if (c == 'F')
			rb.backing_format = optarg;
		else if (c == 'u')
			rb.unsafe = true;
		else
			rb.src.image_opts = true;
	}
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	if (optind != argc - 1)
		return img_usage(cmd, "Expecting one image file name");
	if (!rb.backing)
		return img_usage(cmd, "Use backing_file (-b) option");
	if (!rb.unsafe)
		return img_usage(cmd, "rebase without -u would copy data, which is not supported; with -u only the name changes");
	rb.src.name = argv[optind];
	return img_run(&rb.common, NULL, co_rebase, &rb);
}
