// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_check.c - qcimg check. The image alone is looked at: its backing files
 * need not be there, for their clusters are not counted.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "qcow/check.h"
#include "tools/applet.h"
#include "tools/img_common.h"
#include "tools/json_util.h"

#define EXIT_CORRUPT 2
#define EXIT_LEAKS 3
#define EXIT_UNSUPPORTED 63

struct check {
	struct img_common common;
	struct img_source src;
	bool json;
	unsigned fix;
};

static void report(void *arg, const char *line)
{
	(void)arg;
	fprintf(stderr, "%s\n", line);
}

static void put_count(json_t *o, const char *key, uint64_t n)
{
	if (n)
		put_int(o, key, n);
}

/* ImageCheck: keys in qemu-img's order, counts of nothing left out. */
static void print_json(const struct check *c, const struct check_result *res, const char *format)
{
	json_t *o = json_object();

	put_count(o, "image-end-offset", res->image_end_offset);
	put_count(o, "compressed-clusters", res->compressed_clusters);
	put_count(o, "leaks-fixed", res->leaks_fixed);
	put_count(o, "total-clusters", res->total_clusters);
	put_count(o, "corruptions", res->corruptions);
	put_count(o, "corruptions-fixed", res->corruptions_fixed);
	put_int(o, "check-errors", res->check_errors);
	put_count(o, "leaks", res->leaks);
	put_count(o, "allocated-clusters", res->allocated_clusters);
	put_text(o, "filename", c->src.name);
	put_text(o, "format", format);
	put_count(o, "fragmented-clusters", res->fragmented_clusters);
	img_json_print(o, 0, stdout);
	putchar('\n');
	json_decref(o);
}

static void print_human(const struct check_result *res)
{
	if (!res->corruptions && !res->leaks && !res->check_errors)
		printf("No errors were found on the image.\n");
	if (res->corruptions)
		printf("\n%" PRIu64 " errors were found on the image.\n"
		       "Data may be corrupted, or further writes to the image may corrupt it.\n",
		       res->corruptions);
	if (res->leaks)
		printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
		       "This means waste of disk space, but no harm to data.\n", res->leaks);
	if (res->check_errors)
		printf("\n%" PRIu64 " internal errors have occurred during the check.\n", res->check_errors);
	if (res->total_clusters && res->allocated_clusters)
		printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
		       res->allocated_clusters, res->total_clusters,
		       100.0 * (double)res->allocated_clusters / (double)res->total_clusters,
		       100.0 * (double)res->fragmented_clusters / (double)res->allocated_clusters,
		       100.0 * (double)res->compressed_clusters / (double)res->allocated_clusters);
	if (res->image_end_offset)
		printf("Image end offset: %" PRIu64 "\n", res->image_end_offset);
}

static void print_repaired(const struct check_result *res)
{
	printf("The following inconsistencies were found and repaired:\n\n    %" PRIu64 " leaked clusters\n"
	       "    %" PRIu64 " corruptions\n\nDouble checking the fixed image now...\n",
	       res->leaks_fixed, res->corruptions_fixed);
	fflush(stdout);
}

/* Checks; what was repaired is checked once more, and counted as found then. */
static int co_check_twice(const struct check *c, struct layer *l, struct check_result *res, struct error *e)
{
	struct check_result first;
	int ret = co_layer_check(l, c->fix, res, report, NULL, e);

	if (ret < 0 || (!res->leaks_fixed && !res->corruptions_fixed))
		return ret;
	first = *res;
	if (!c->json && !c->common.quiet)
		print_repaired(&first);
	ret = co_layer_check(l, 0, res, report, NULL, e);
	res->leaks_fixed = first.leaks_fixed;
	res->corruptions_fixed = first.corruptions_fixed;
	return ret;
}

static int verdict(const struct check_result *res)
{
	if (res->check_errors)
		return EXIT_FAILED;
	return res->corruptions ? EXIT_CORRUPT : res->leaks ? EXIT_LEAKS : EXIT_DONE;
}

static int co_check_open(const struct check *c, struct layer *l)
{
	struct check_result res = { 0 };
	struct error e = ERROR_INIT;

	if (layer_format(l) != FORMAT_QCOW2) {
		img_fail("This image format does not support checks");
		return EXIT_UNSUPPORTED;
	}
	if (co_check_twice(c, l, &res, &e) < 0)
		return img_fail("Check failed: %s", e.msg);
	if (c->json)
		print_json(c, &res, layer_format_name(layer_format(l)));
	else if (!c->common.quiet)
		print_human(&res);
	if (res.check_errors)
		return img_fail("Check failed");
	return verdict(&res);
}

static int co_check(struct reactor *r, void *arg)
{
	const struct check *c = arg;
	struct layer_opts lo = {
		.writable = c->fix, .no_lock = c->src.force_share, .allow_corrupt = true, .allow_dirty = true,
		.metadata_only = true, .cache = c->src.cache.mode,
	};
	struct error e = ERROR_INIT;
	struct image_ref ref = { 0 };
	struct layer *l = NULL;
	int status, ret = img_source_resolve(&c->src, &ref, &e);

	if (ret == 0) {
		lo.format = ref.format;
		lo.raw_offset = ref.raw_offset;
		lo.raw_size = ref.raw_size;
		lo.data_file = ref.data_file;
		ret = co_layer_open(r, ref.path, &lo, &l, &e);
	}
	image_ref_free(&ref);
	if (ret < 0)
		return img_fail_open(c->src.name, &e);
	status = co_check_open(c, l);
	if (co_layer_close(l, &e) < 0)
		return img_fail("%s", e.msg);
	return status;
}

static bool parse_repair(const struct img_cmd *cmd, const char *s, unsigned *fix)
{
	if (!strcmp(s, "leaks"))
		*fix = CHECK_FIX_LEAKS;
	else if (!strcmp(s, "all"))
		*fix = CHECK_FIX_LEAKS | CHECK_FIX_ERRORS;
	else
		img_usage(cmd, "--repair (-r) expects 'leaks' or 'all' not '%s'", s);
	return *fix != 0;
}

static bool take(struct check *ch, int c)
{
	switch (c) {
	case 'f':
		ch->src.fmt = optarg;
		return true;
	case 'r':
		ch->fix = 0;
		return parse_repair(ch->common.cmd, optarg, &ch->fix);
	case 'T':
		return img_parse_cache("cache", optarg, &ch->src.cache);
	case 'U':
		ch->src.force_share = true;
		return true;
	case IMG_OPT_IMAGE_OPTS:
		ch->src.image_opts = true;
		return true;
	default:
		return img_parse_output(ch->common.cmd, optarg, &ch->json);
	}
}

int img_check(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },
		{ "repair", required_argument, NULL, 'r' },
		{ "cache", required_argument, NULL, 'T' },
		{ "output", required_argument, NULL, IMG_OPT_OUTPUT },
		{ "force-share", no_argument, NULL, 'U' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct check ch = { .common = { .cmd = cmd }, .src.cache.mode = FILE_CACHE_WRITEBACK };
	int c;

	while ((c = img_getopt(&ch.common, argc, argv, ":hqf:r:T:U", longs)) >= 0)
		if (!take(&ch, c))
			return EXIT_FAILED;
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	if (optind != argc - 1)
		return img_usage(cmd, "Expecting one image file name");
	if (ch.fix && ch.src.force_share)
		return img_usage(cmd, "-r and --force-share (-U) exclude each other: a repair writes");
	ch.src.name = argv[optind];
	return img_run(&ch.common, NULL, co_check, &ch);
}
