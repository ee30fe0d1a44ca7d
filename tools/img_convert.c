// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_convert.c - qcimg convert: its command line, sources and target. img_copy.c
 * moves the bytes. A target that it made is removed when it fails.
 */
#include "tools/img_convert.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/applet.h"
#include "tools/img_create.h"

#define SPARSE_DEFAULT 4096u
#define SPARSE_MAX (16u << 20)
#define OPTION_LISTS_MAX 32u

struct convert {
	struct img_common common;
	struct img_source src;         /* name is set in turn */
	struct img_source target;
	const char *out_fmt, *backing, *backing_format, *snapshot;
	const char *lists[OPTION_LISTS_MAX];
	unsigned nr_lists;
	uint64_t sparse, parallel, rate;
	bool compress, progress, no_create, target_is_zero, salvage, out_of_order, offload;
	bool sparse_given, bitmaps, target_image_opts;
	char **names;
	unsigned nr_names;

	struct img_create img;
	struct img_progress bar;
	bool existed, created;
};

/* --- the target --- */
static int prepare_create(struct convert *c, uint64_t total, struct error *e)
{
	struct create_opts *o = &c->img.o;

	if (c->backing)
		o->backing_name = c->backing;
	if (c->backing_format)
		o->backing_format = c->backing_format;
	if (o->backing_name && o->format != FORMAT_QCOW2)
		return error_set(e, EINVAL, "Backing file not supported for file format '%s'",
				 layer_format_name(o->format));
	if (o->backing_name && !o->backing_format)
		return error_set(e, EINVAL, "Use of backing file requires explicit backing format; name it with -F");
	if (o->backing_name && c->nr_names > 1)
		return error_set(e, EINVAL, "Having a backing file for the target makes no sense when concatenating "
				 "multiple input images");
	if (!c->img.size_given)
		o->size = total;
	if (o->size < total)
		return error_set(e, EINVAL, "output file is smaller than input file");
	if (c->compress && o->data_file)
		return error_set(e, EINVAL, "Compression is not possible with an external data file");
	return 0;
}

static int co_open_target(struct reactor *r, struct convert *c, struct copy *cp)
{
	struct error e = ERROR_INIT;
	int ret = 0;

	if (!c->no_create) {
		ret = prepare_create(c, cp->total, &e);
		if (ret < 0)
			return img_fail("%s", e.msg);
		ret = co_img_create_file(r, c->target.name, &c->img, &c->existed, &e);
		if (ret < 0)
			return img_fail("%s: error while converting %s: %s", c->target.name,
					layer_format_name(c->img.o.format), e.msg);
		c->created = !c->existed;
	}
	if (co_img_open_chain(r, &c->target, true, &cp->target, &e) < 0) {
		cp->target = NULL;
		return img_fail_open(c->target.name, &e);
	}
	if (chain_size(cp->target) < cp->total)
		return img_fail("output file is smaller than input file");
	if (c->compress && (layer_format(chain_active(cp->target)) != FORMAT_QCOW2 ||
			    layer_data_file(chain_active(cp->target)) != layer_file(chain_active(cp->target))))
		return img_fail("Compression not supported for this file format");
	return EXIT_DONE;
}

static void remove_target(const struct convert *c)
{
	if (c->created)
		unlink(c->target.name);
}

/* --- the copy --- */
static void copy_setup(struct convert *c, struct copy *cp)
{
	struct layer *l = chain_active(cp->target);

	cp->sparse = c->sparse;
	cp->rate = c->rate;
	cp->parallel = (unsigned)c->parallel;
	cp->over_backing = !c->no_create && c->img.o.backing_name;
	cp->zero_init = c->target_is_zero || (!c->no_create && !file_is_block(layer_data_file(l)));
	cp->compress = c->compress;
	cp->in_order = !c->out_of_order;
	cp->offload = c->offload && layer_format(l) == FORMAT_RAW;
	cp->salvage = c->salvage;
	cp->fua = c->target.cache.writethrough;
	cp->progress = &c->bar;
	if (cp->offload)
		cp->sparse = SPARSE_DEFAULT;
}

static int co_run_copy(struct convert *c, struct copy *cp)
{
	int ret;

	copy_setup(c, cp);
	img_progress_start(&c->bar, c->progress && !c->common.quiet);
	ret = co_copy(cp);
	if (ret == 0 && !c->target.cache.unsafe) {
		ret = co_chain_flush(cp->target);
		if (ret < 0)
			error_set_errno(&cp->what, -ret, "error while flushing '%s'", c->target.name);
	}
	img_progress_end(&c->bar, ret == 0);
	return ret < 0 ? img_fail("%s", cp->what.msg) : EXIT_DONE;
}

static int co_open_sources(struct reactor *r, struct convert *c, struct copy *cp)
{
	struct error e = ERROR_INIT;

	for (unsigned i = 0; i < c->nr_names; i++) {
		c->src.name = c->names[i];
		if (co_img_open_chain(r, &c->src, false, &cp->src[i], &e) < 0)
			return img_fail_open(c->src.name, &e);
		cp->nr_src++;
		cp->total += chain_size(cp->src[i]);
	}
	return EXIT_DONE;
}

static int co_convert(struct reactor *r, void *arg)
{
	struct convert *c = arg;
	struct copy cp = { .r = r, .src = calloc(c->nr_names, sizeof(struct chain *)) };
	int status;

	if (!cp.src)
		abort();
	status = co_open_sources(r, c, &cp);
	if (status == EXIT_DONE)
		status = co_open_target(r, c, &cp);
	if (status == EXIT_DONE)
		status = co_run_copy(c, &cp);
	if (co_img_close(cp.target) != EXIT_DONE)
		status = EXIT_FAILED;
	for (unsigned i = 0; i < cp.nr_src; i++)
		if (co_img_close(cp.src[i]) != EXIT_DONE)
			status = EXIT_FAILED;
	free(cp.src);
	if (status != EXIT_DONE)
		remove_target(c);
	return status;
}

/* --- the command line --- */
enum { OPT_IS_ZERO = IMG_OPT_FIRST_OWN, OPT_SALVAGE, OPT_TARGET_OPTS, OPT_BITMAPS, OPT_SKIP_BROKEN };

static bool parse_sparse(struct convert *c, const char *s)
{
	c->sparse_given = true;
	if (!img_parse_size("sparse size", s, &c->sparse))
		return false;
	if (c->sparse % 512 == 0 && c->sparse <= SPARSE_MAX)
		return true;
	img_fail("Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to %u. "
		 "Select 0 to disable sparse detection (fully allocates output).", SPARSE_MAX);
	return false;
}

static bool take_flag(struct convert *c, int opt)
{
	switch (opt) {
	case 'c':
		c->compress = true;
		return true;
	case 'p':
		c->progress = true;
		return true;
	case 'n':
		c->no_create = true;
		return true;
	case 'W':
		c->out_of_order = true;
		return true;
	case 'C':
		c->offload = true;
		return true;
	case 'U':
		c->src.force_share = true;
		return true;
	case OPT_IS_ZERO:
		c->target_is_zero = true;
		return true;
	case OPT_SALVAGE:
		c->salvage = true;
		return true;
	case OPT_BITMAPS:
	case OPT_SKIP_BROKEN:
		c->bitmaps = true;
		return true;
	case OPT_TARGET_OPTS:
		c->target_image_opts = true;
		return true;
	default:
		c->src.image_opts = true;
		return true;
	}
}

static bool take_list(struct convert *c, const char *list)
{
	if (c->nr_lists == OPTION_LISTS_MAX) {
		img_usage(c->common.cmd, "more than %u options -o", OPTION_LISTS_MAX);
		return false;
	}
	c->lists[c->nr_lists++] = list;
	return true;
}

static bool take(struct convert *c, int opt)
{
	switch (opt) {
	case 'f':
		c->src.fmt = optarg;
		return true;
	case 'O':
		c->out_fmt = optarg;
		return true;
	case 'B':
		c->backing = optarg;
		return true;
	case 'F':
		c->backing_format = optarg;
		return true;
	case 'o':
		return take_list(c, optarg);
	case 'l':
		c->snapshot = optarg;
		return true;
	case 'S':
		return parse_sparse(c, optarg);
	case 'm':
		return img_parse_count("number of coroutines", optarg, 1, COPY_PARALLEL_MAX, &c->parallel);
	case 'r':
		return img_parse_size("rate limit", optarg, &c->rate);
	case 't':
		return img_parse_cache("cache", optarg, &c->target.cache);
	case 'T':
		return img_parse_cache("source cache", optarg, &c->src.cache);
	default:
		return take_flag(c, opt);
	}
}

/* What excludes what. */
static int check_options(const struct convert *c, enum layer_format format)
{
	if (c->snapshot)
		return img_fail("Failed to load snapshot: reading internal snapshots (-l) is not supported by qcimg %s",
				QCHAIN_VERSION);
	if (c->bitmaps)
		return img_fail("Copying bitmaps (--bitmaps) is not supported by qcimg %s", QCHAIN_VERSION);
	if (c->offload && c->compress)
		return img_fail("Cannot enable copy offloading when -c is used");
	if (c->offload && c->sparse_given)
		return img_fail("Cannot enable copy offloading when -S is used");
	if (c->target_is_zero && !c->no_create)
		return img_fail("--target-is-zero requires use of -n flag");
	if (c->target_image_opts && !c->no_create)
		return img_fail("--target-image-opts requires use of -n flag");
	if (c->target_image_opts && c->out_fmt)
		return img_fail("-O and --target-image-opts cannot be used together");
	if (c->no_create && (c->nr_lists || c->backing))
		return img_fail("-o and -B have no meaning with -n: the target exists");
	if (c->compress && format != FORMAT_QCOW2 && !c->target_image_opts)
		return img_fail("Compression not supported for this file format");
	return EXIT_DONE;
}

static int convert_run(struct convert *c, enum layer_format format)
{
	struct error e = ERROR_INIT;
	int status = EXIT_DONE;

	img_create_init(&c->img, format);
	for (unsigned i = 0; i < c->nr_lists && status == EXIT_DONE; i++)
		if (img_create_options(&c->img, c->lists[i], &e) < 0)
			status = img_fail("%s: error while converting %s: %s", c->target.name,
					  layer_format_name(format), e.msg);
	if (status == EXIT_DONE)
		status = img_run(&c->common, NULL, co_convert, c);
	img_create_free(&c->img);
	return status;
}

static int convert_words(struct convert *c, int argc, char **argv)
{
	enum layer_format format = FORMAT_RAW;
	int status;

	if (c->out_fmt && !img_parse_format(c->out_fmt, &format))
		return EXIT_FAILED;
	for (unsigned i = 0; i < c->nr_lists; i++) {
		if (img_create_wants_help(c->lists[i])) {
			img_create_help(format);
			return EXIT_DONE;
		}
	}
	status = check_options(c, format);
	if (status != EXIT_DONE)
		return status;
	if (optind + 1 >= argc)
		return img_usage(c->common.cmd, "Must specify image file name");
	c->names = argv + optind;
	c->nr_names = (unsigned)(argc - optind - 1);
	c->target.name = argv[argc - 1];
	if (c->target_image_opts)
		c->target.image_opts = true;
	else
		c->target.fmt = layer_format_name(format);
	return convert_run(c, format);
}

int img_convert(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "source-format", required_argument, NULL, 'f' },
		{ "format", required_argument, NULL, 'f' },
		{ "target-format", required_argument, NULL, 'O' },
		{ "options", required_argument, NULL, 'o' },
		{ "target-format-options", required_argument, NULL, 'o' },
		{ "backing", required_argument, NULL, 'B' },
		{ "backing-format", required_argument, NULL, 'F' },
		{ "compress", no_argument, NULL, 'c' },
		{ "progress", no_argument, NULL, 'p' },
		{ "no-create", no_argument, NULL, 'n' },
		{ "sparse-size", required_argument, NULL, 'S' },
		{ "parallel", required_argument, NULL, 'm' },
		{ "oob", no_argument, NULL, 'W' },
		{ "copy-range-offloading", no_argument, NULL, 'C' },
		{ "rate-limit", required_argument, NULL, 'r' },
		{ "snapshot", required_argument, NULL, 'l' },
		{ "target-cache", required_argument, NULL, 't' },
		{ "cache", required_argument, NULL, 't' },
		{ "source-cache", required_argument, NULL, 'T' },
		{ "target-is-zero", no_argument, NULL, OPT_IS_ZERO },
		{ "salvage", no_argument, NULL, OPT_SALVAGE },
		{ "bitmaps", no_argument, NULL, OPT_BITMAPS },
		{ "skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BROKEN },
		{ "target-image-opts", no_argument, NULL, OPT_TARGET_OPTS },
		{ "force-share", no_argument, NULL, 'U' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct convert cv = {
		.common = { .cmd = cmd }, .src.cache.mode = FILE_CACHE_WRITEBACK,
		.target.cache = { .mode = FILE_CACHE_UNSAFE, .unsafe = true },
		.sparse = SPARSE_DEFAULT, .parallel = 8,
	};
	int c;

	while ((c = img_getopt(&cv.common, argc, argv, ":hqf:O:o:B:F:l:S:m:r:t:T:cpnWCU", longs)) >= 0)
		if (!take(&cv, c))
			return EXIT_FAILED;
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	return convert_words(&cv, argc, argv);
}
