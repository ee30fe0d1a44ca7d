// SPDX-License-Identifier: GPL-2.0-or-later
/* img_create_opts.c - see img_create.h. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/applet.h"
#include "tools/img_common.h"
#include "tools/img_create.h"

static const struct {
	const char *name, *type, *text;
	bool raw;
} options[] = {
	{ "backing_file", "str", "File name of a base image", false },
	{ "backing_fmt", "str", "Image format of the base image", false },
	{ "cluster_size", "size", "qcow2 cluster size", false },
	{ "compat", "str", "Compatibility level (v2 [0.10] or v3 [1.1])", false },
	{ "compression_type", "str", "Compression method used for image cluster compression", false },
	{ "data_file", "str", "File name of an external data file", false },
	{ "data_file_raw", "bool (on/off)", "The external data file must stay valid as a raw image", false },
	{ "extended_l2", "bool (on/off)", "Extended L2 tables", false },
	{ "lazy_refcounts", "bool (on/off)", "Postpone refcount updates", false },
	{ "preallocation", "str", "Preallocation mode (allowed values: off, metadata, falloc, full)", true },
	{ "refcount_bits", "num", "Width of a reference count entry in bits", false },
	{ "size", "size", "Virtual disk size", true },
};

#define NR_OPTIONS (sizeof(options) / sizeof(options[0]))

void img_create_init(struct img_create *c, enum layer_format format)
{
	*c = (struct img_create){
		.o = {
			.format = format, .size = UINT64_MAX, .extended_l2 = -1, .overwrite = true,
		},
	};
	if (format == FORMAT_QCOW2) {
		c->o.extended_l2 = 0;
		c->o.cluster_size = 65536;
		c->o.refcount_bits = 16;
	}
}

void img_create_free(struct img_create *c)
{
	for (unsigned i = 0; i < c->nr_text; i++)
		free(c->text[i]);
	c->nr_text = 0;
}

static bool known(const struct img_create *c, const char *key)
{
	for (unsigned i = 0; i < NR_OPTIONS; i++)
		if (!strcmp(options[i].name, key))
			return c->o.format == FORMAT_QCOW2 || options[i].raw;
	return false;
}

static int take_option(struct img_create *c, const char *key, const char *value, struct error *e)
{
	if (!known(c, key))
		return error_set(e, EINVAL, "Invalid parameter '%s'", key);
	if (!strcmp(key, "size"))
		c->size_given = true;
	else if (!strcmp(key, "compat"))
		c->compat = value;
	else if (!strcmp(key, "preallocation"))
		c->preallocation = value;
	else if (!strcmp(key, "data_file_raw"))
		c->raw_given = true;
	return create_opt_parse(&c->o, key, value, e);
}

int img_create_options(struct img_create *c, const char *list, struct error *e)
{
	size_t room = strlen(list) + 3;
	bool has_value;

	while (list) {
		char *key, *value;
		int ret;

		if (c->nr_text + 2 > sizeof(c->text) / sizeof(c->text[0]))
			return error_set(e, E2BIG, "more than %u options", IMG_OPTIONS_MAX);
		key = c->text[c->nr_text++] = malloc(room);
		value = c->text[c->nr_text++] = malloc(room);
		if (!key || !value)
			abort();
		list = img_next_pair(list, key, value, &has_value);
		if (!has_value)
			strcpy(value, "on");
		ret = take_option(c, key, value, e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

bool img_create_wants_help(const char *list)
{
	size_t room = strlen(list) + 1;
	char *key = malloc(room), *value = malloc(room);
	bool wants = false, has_value;

	if (!key || !value)
		abort();
	while (list && !wants) {
		list = img_next_pair(list, key, value, &has_value);
		wants = !has_value && (!strcmp(key, "help") || !strcmp(key, "?"));
	}
	free(key);
	free(value);
	return wants;
}

void img_create_help(enum layer_format format)
{
	printf("Supported %s options:\n", layer_format_name(format));
	for (unsigned i = 0; i < NR_OPTIONS; i++) {
		int width;

		if (format != FORMAT_QCOW2 && !options[i].raw)
			continue;
		width = printf("  %s=<%s>", options[i].name, options[i].type);
		printf("%*s - %s\n", width < 24 ? 24 - width : 0, "", options[i].text);
	}
}

static const char *on_off(bool on)
{
	return on ? "on" : "off";
}

/* A value as it would have to be typed: commas doubled. */
static void print_text(const char *key, const char *value)
{
	if (!value)
		return;
	printf(" %s=", key);
	for (; *value; value++)
		fputs(*value == ',' ? ",," : (char[]){ *value, '\0' }, stdout);
}

static void print_qcow2(const struct img_create *c)
{
	const struct create_opts *o = &c->o;

	printf(" cluster_size=%" PRIu32 " extended_l2=%s", o->cluster_size, on_off(o->extended_l2 == 1));
	print_text("preallocation", c->preallocation);
	printf(" compression_type=%s size=%" PRIu64, o->compression ? "zstd" : "zlib", o->size);
	print_text("compat", c->compat);
	print_text("backing_file", o->backing_name);
	print_text("backing_fmt", o->backing_format);
	print_text("data_file", o->data_file);
	if (c->raw_given)
		printf(" data_file_raw=%s", on_off(o->data_file_raw));
	printf(" lazy_refcounts=%s refcount_bits=%" PRIu32, on_off(o->lazy_refcounts), o->refcount_bits);
}

void img_create_print(const struct img_create *c, const char *path)
{
	printf("Formatting '%s', fmt=%s", path, layer_format_name(c->o.format));
	if (c->o.format == FORMAT_QCOW2) {
		print_qcow2(c);
	} else {
		printf(" size=%" PRIu64, c->o.size);
		print_text("preallocation", c->preallocation);
	}
	putchar('\n');
	fflush(stdout);
}

int img_create_fail(const char *path, const struct error *e)
{
	if (strstr(e->msg, path))
		return img_fail("%s", e->msg);
	return img_fail("%s: %s", path, e->msg);
}

/* Takes the locks of a writer for a moment: a running chain or QEMU would refuse them. */
static int check_unused(struct reactor *r, const char *path, struct error *e)
{
	struct file_opts fo = { .writable = true, .cache = FILE_CACHE_WRITEBACK };
	struct file *f;
	int ret = file_open(r, path, &fo, &f, e);

	if (ret == 0)
		file_close(f);
	return ret;
}

int co_img_create_file(struct reactor *r, const char *path, struct img_create *c, bool *existed,
		       struct error *e)
{
	bool there = access(path, F_OK) == 0;
	int ret = there ? check_unused(r, path, e) : 0;

	if (existed)
		*existed = there;
	return ret < 0 ? ret : co_image_create(r, path, &c->o, e);
}
