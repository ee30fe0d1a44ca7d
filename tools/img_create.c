// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_create.c - qcimg create. Like qemu-img it replaces an existing file, but
 * never one that a chain or a guest has open for writing.
 */
#include <errno.h>
#include <string.h>

#include "tools/applet.h"
#include "tools/img_common.h"
#include "tools/img_create.h"

struct create {
	struct img_common common;
	struct img_create img;
	const char *path;
	bool unsafe;                   /* do not open the backing file */
};

static bool same_file(const char *a, const char *b)
{
	struct image_ref ref;
	struct error unused = ERROR_INIT;
	bool same;

	if (image_ref_parse(b, a, &ref, &unused) < 0)
		return false;
	same = !strcmp(a, ref.path);
	image_ref_free(&ref);
	return same;
}

/* Opens the backing file: it must be what it is said to be; its size is the default. */
static int co_backing_size(struct reactor *r, const struct create *c, uint64_t *size, struct error *e)
{
	const struct create_opts *o = &c->img.o;
	struct layer_opts lo = {
		.no_lock = true, .metadata_only = true, .allow_dirty = true, .cache = FILE_CACHE_WRITEBACK,
	};
	struct image_ref ref = { 0 };
	struct layer *l;
	int ret = image_ref_parse(o->backing_name, c->path, &ref, e);

	if (ret == 0) {
		lo.format = ref.format != FORMAT_UNSET ? ref.format : layer_format_parse(o->backing_format);
		lo.raw_offset = ref.raw_offset;
		lo.raw_size = ref.raw_size;
		lo.data_file = ref.data_file;
		ret = co_layer_open(r, ref.path, &lo, &l, e);
	}
	image_ref_free(&ref);
	if (ret < 0)
		return ret;
	*size = layer_size(l);
	return co_layer_close(l, e);
}

static int check_backing(const struct create *c, struct error *e)
{
	const struct create_opts *o = &c->img.o;

	if (!o->backing_name)
		return 0;
	if (o->format != FORMAT_QCOW2)
		return error_set(e, EINVAL, "Backing file not supported for file format '%s'",
				 layer_format_name(o->format));
	if (same_file(c->path, o->backing_name))
		return error_set(e, EINVAL, "Error: Trying to create an image with the same filename as the backing file");
	if (!o->backing_format)
		return error_set(e, EINVAL, "Backing file specified without backing format; name it with -F");
	if (layer_format_parse(o->backing_format) == FORMAT_UNSET)
		return error_set(e, EINVAL, "Unknown backing file format '%s'", o->backing_format);
	return 0;
}

static int co_create(struct reactor *r, void *arg)
{
	struct create *c = arg;
	struct create_opts *o = &c->img.o;
	struct error e = ERROR_INIT;
	uint64_t backing_size = UINT64_MAX;
	int ret = check_backing(c, &e);

	o->no_backing_check = c->unsafe;

	if (ret == 0 && o->backing_name && !c->unsafe) {
		ret = co_backing_size(r, c, &backing_size, &e);
		if (ret < 0)
			error_prefix(&e, "Could not open backing image");
	}
	if (ret == 0 && o->size == UINT64_MAX)
		o->size = backing_size;
	if (ret == 0 && o->size == UINT64_MAX)
		ret = error_set(&e, EINVAL, "Image creation needs a size parameter");
	if (ret == 0) {
		if (!c->common.quiet)
			img_create_print(&c->img, c->path);
		ret = co_img_create_file(r, c->path, &c->img, NULL, &e);
	}
	return ret < 0 ? img_create_fail(c->path, &e) : EXIT_DONE;
}

#define OPTION_LISTS_MAX 32

struct words {
	const char *fmt, *backing, *backing_format;
	const char *lists[OPTION_LISTS_MAX];
	unsigned nr_lists;
};

/* Options first, then -b and -F over them, then the size: as qemu-img orders them. */
static int collect(struct create *c, const struct words *w, const char *size)
{
	struct error e = ERROR_INIT;

	for (unsigned i = 0; i < w->nr_lists; i++)
		if (img_create_options(&c->img, w->lists[i], &e) < 0)
			return img_create_fail(c->path, &e);
	if (w->backing)
		c->img.o.backing_name = w->backing;
	if (w->backing_format)
		c->img.o.backing_format = w->backing_format;
	if (!size)
		return EXIT_DONE;
	if (c->img.size_given)
		return img_fail("%s: The image size must be specified only once", c->path);
	return img_parse_size("image size", size, &c->img.o.size) ? EXIT_DONE : EXIT_FAILED;
}

static int create_words(struct create *c, const struct words *w, int argc, char **argv)
{
	enum layer_format format = FORMAT_RAW;
	int status;

	if (w->fmt && !img_parse_format(w->fmt, &format))
		return EXIT_FAILED;
	for (unsigned i = 0; i < w->nr_lists; i++) {
		if (img_create_wants_help(w->lists[i])) {
			img_create_help(format);
			return EXIT_DONE;
		}
	}
	if (optind >= argc)
		return img_usage(c->common.cmd, "Expecting image file name");
	if (optind + 2 < argc)
		return img_usage(c->common.cmd, "Unexpected argument: %s", argv[optind + 2]);
	c->path = argv[optind];
	img_create_init(&c->img, format);
	status = collect(c, w, optind + 1 < argc ? argv[optind + 1] : NULL);
	if (status == EXIT_DONE)
		status = img_run(&c->common, NULL, co_create, c);
	img_create_free(&c->img);
	return status;
}

int img_create(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },
		{ "options", required_argument, NULL, 'o' },
		{ "backing", required_argument, NULL, 'b' },
		{ "backing-format", required_argument, NULL, 'F' },
		{ "backing-unsafe", no_argument, NULL, 'u' },
		IMG_LONG_COMMON,
	};
	struct create cr = { .common = { .cmd = cmd } };
	struct words w = { 0 };
	int c;

	while ((c = img_getopt(&cr.common, argc, argv, ":hqf:o:b:F:u", longs)) >= 0) {
		if (c == 'f')
			w.fmt = optarg;
		else if (c == 'b')
			w.backing = optarg;
		else if (c == 'F')
			w.backing_format = optarg;
		else if (c == 'u')
			cr.unsafe = true;
		else if (w.nr_lists < OPTION_LISTS_MAX)
			w.lists[w.nr_lists++] = optarg;
		else
			return img_usage(cmd, "more than %d options -o", OPTION_LISTS_MAX);
	}
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	return create_words(&cr, &w, argc, argv);
}
