/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cmd_create.c - qccreate: define a chain, making its image first if asked, and activate it.
 *
 * Invariant: all that can be refused is refused before anything is made; what a
 * failing run has made (image, definition) it takes away again.
 */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "qcow/backing.h"
#include "qcow/create.h"
#include "tools/cmd.h"
#include "tools/conf.h"
#include "tools/device_check.h"
#include "tools/facts.h"
#include "tools/json_util.h"
#include "tools/report.h"
#include "tools/rundir.h"
#include "tools/spawn.h"

enum {
	SIZE, BACKING, BACKING_FMT, FORMAT, IMAGE_OPTIONS, INACTIVE, DEVICE, NUMBER, READ_ONLY, CACHE,
	ENGINE, BACKING_FORMAT, MAP_CACHE, NO_DM,
};

static const struct option_def opts[] = {
	[SIZE] = { "size", 'L', OPT_SIZE, false, "SIZE", NULL, "create the image with this size (or the overlay, if not its backing's)" },
	[BACKING] = { "backing", 'b', OPT_FILE, false, "FILE", NULL, "create the image as an overlay of FILE" },
	[BACKING_FMT] = { "backing-fmt", 'F', OPT_CHOICE, false, "FMT", "qcow2|raw",
			  "format of the backing file; by default what its first bytes say, as for an image you name" },
	[FORMAT] = { "format", 'f', OPT_CHOICE, false, "FMT", "qcow2|raw", "format of the image" },
	[IMAGE_OPTIONS] = { "options", 'o', OPT_STRING, true, "KEY=VALUE,...", NULL,
			    "options of the new image, as qemu-img create has them" },
	[INACTIVE] = { "inactive", 'n', OPT_FLAG, false, NULL, NULL, "define it only" },
	[DEVICE] = { "device", 'd', OPT_CHOICE, false, "KIND", "auto|ublk|fuse|none", "how to make the block device" },
	[NUMBER] = { "number", 'N', OPT_NUMBER, false, "N", NULL, "be /dev/qchainN" },
	[READ_ONLY] = { "read-only", 'r', OPT_FLAG, false, NULL, NULL, "allow no writes" },
	[CACHE] = { "cache", 0, OPT_CHOICE, false, "MODE", "none|writeback",
		    "none: direct I/O; writeback: through the host's page cache" },
	[ENGINE] = { "engine", 0, OPT_CHOICE, false, "ENGINE", "uring|aio", "how to do I/O" },
	[BACKING_FORMAT] = { "backing-format", 0, OPT_CHOICE, false, "FMT", "qcow2|raw",
			     "format of backing files whose overlay does not name it" },
	[MAP_CACHE] = { "map-cache", 0, OPT_SIZE, false, "SIZE", NULL, "memory for the chain's map (default 64M)" },
	[NO_DM] = { "no-dm", 0, OPT_FLAG, false, NULL, NULL, "lay no device-mapper device over it" },
};

static const struct operand_def operands[] = {
	{ "NAME", OPT_STRING, false, false },
	{ "IMAGE", OPT_FILE, false, false },
};

const struct command_def qccreate_def = {
	.name = "qccreate",
	.summary = "define a chain and activate it",
	.about =
		"qccreate defines the chain NAME with the active image IMAGE and makes it the block device "
		"/dev/qchain/NAME. An image that exists is adopted, with everything below it. With -L or -b the image must "
		"not exist and is created: empty, or as an overlay; overlays have 128 KiB clusters with extended L2 entries unless -o says "
		"otherwise.\n\n"
		"The definition is kept in /etc/qchain/chains/NAME.conf. If activation fails, what was made is removed.",
	.examples =
		"qccreate -L 20G web /srv/web.qcow2\n"
		"qccreate -b /srv/golden.qcow2 -F qcow2 test1 /srv/test1.qcow2\n"
		"qccreate web /srv/web.qcow2",
	.opts = opts,
	.nr_opts = sizeof(opts) / sizeof(opts[0]),
	.operands = operands,
	.nr_operands = 2,
};

struct creation {
	const struct options *opt;
	struct chain_conf conf;        /* of the chain to be */
	char *path;                    /* the image as a plain path */
	bool image_made, conf_made;
	struct create_opts create;
	char *option_text;             /* what create's strings point into */
	char *data_path;               /* the external data file that we are about to make, or NULL */
	char *backing_name;
	struct error e;
};

static void conf_from_options(struct chain_conf *c, const struct options *opt)
{
	if (opt_given(opt, FORMAT))
		c->format = layer_format_parse(opt_str(opt, FORMAT));
	if (opt_given(opt, BACKING_FORMAT))
		c->backing_format = layer_format_parse(opt_str(opt, BACKING_FORMAT));
	if (opt_given(opt, DEVICE))
		device_kind_parse(opt_str(opt, DEVICE), &c->device);
	if (opt_given(opt, NUMBER))
		c->number = (int)opt_num(opt, NUMBER);
	if (opt_given(opt, ENGINE))
		engine_parse(opt_str(opt, ENGINE), &c->engine);
	if (opt_given(opt, CACHE))
		c->cache = opt_num(opt, CACHE) == 0 ? FILE_CACHE_NONE : FILE_CACHE_WRITEBACK;
	c->map_cache = opt_num(opt, MAP_CACHE);
	c->read_only = opt_given(opt, READ_ONLY);
	c->no_dm = opt_given(opt, NO_DM);
}

/* Everything that can be wrong without looking into an image. */
static int check_wishes(struct creation *cr, bool create)
{
	struct image_ref ref = { 0 };
	pid_t pid = rundir_owner(cr->conf.name);
	struct stat st;
	bool there;
	int ret;

	if (conf_exists(cr->conf.name))
		return error_set(&cr->e, EEXIST, "it is already defined; choose another name, or forget it with 'qcremove %s'",
				 cr->conf.name);
	if (pid)
		return error_set(&cr->e, EBUSY, "it is already served by process %d; choose another name", (int)pid);
	ret = image_ref_parse(cr->conf.image, NULL, &ref, &cr->e);
	if (ret < 0)
		return ret;
	cr->path = strdup(ref.path);
	image_ref_free(&ref);
	if (!cr->path)
		abort();
	if (cr->path[0] != '/')
		return error_set(&cr->e, EINVAL, "the image's name holds the relative path '%s', which means another file from another folder; write it from / on",
				 cr->path);
	there = stat(cr->path, &st) == 0;
	if (!there && errno != ENOENT)
		return error_set_errno(&cr->e, errno, "cannot look at image '%s'", cr->path);
	if (there && create)
		return error_set(&cr->e, EEXIST, "image '%s' exists already; leave out -L and -b to adopt it, or choose another file",
				 cr->path);
	if (!there && !create)
		return error_set(&cr->e, ENOENT, "image '%s' does not exist; give -L SIZE to create it, or -b BACKING for an overlay",
				 cr->path);
	return opt_given(cr->opt, INACTIVE) ? 0 : device_check(cr->conf.device, &cr->e);
}

/* "a=b,c=d" into create_opts, in place. A comma within a value is doubled, as for qemu-img. */
static int parse_image_options(struct creation *cr)
{
	char *at, *from, *to;

	if (!opt_given(cr->opt, IMAGE_OPTIONS))
		return 0;
	at = cr->option_text = strdup(opt_str(cr->opt, IMAGE_OPTIONS));
	if (!at)
		abort();
	while (*at) {
		char *key = at, *value;
		int ret;

		for (from = to = at; *from && !(from[0] == ',' && from[1] != ','); from++) {
			from += *from == ',';
			*to++ = *from;
		}
		at = from + (*from == ',');
		*to = '\0';
		value = strchr(key, '=');
		if (!value)
			return error_set(&cr->e, EINVAL, "image option '%s' has no value; write %s=VALUE", key, key);
		*value++ = '\0';
		ret = create_opt_parse(&cr->create, key, value, &cr->e);
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* The backing file must be a chain that opens; its format goes into the new header. */
static int look_at_backing(struct creation *cr)
{
	const char *typed = opt_str(cr->opt, BACKING);
	struct chain_conf below;
	json_t *facts;
	int ret;

	conf_init(&below, "backing");
	below.image = image_name_absolute(typed);
	if (!below.image)
		return error_set_errno(&cr->e, errno, "cannot find out the current folder");
	below.backing_format = cr->conf.backing_format;
	if (opt_given(cr->opt, BACKING_FMT))
		below.format = layer_format_parse(opt_str(cr->opt, BACKING_FMT));
	ret = image_facts(&below, &facts, &cr->e);
	if (!ret) {
		const json_t *layers = json_object_get(facts, "layers");
		const json_t *top = json_array_get(layers, json_array_size(layers) - 1);

		cr->create.backing_format =
			layer_format_name(layer_format_parse(get_text(top, "format")));
		cr->create.backing_name = cr->backing_name =
			backing_name_for(below.image, cr->path, typed[0] != '/');
		json_decref(facts);
		if (!cr->backing_name)
			ret = error_set(&cr->e, ENOMEM, "no memory");
	}
	conf_free(&below);
	return ret;
}

/* A data file that is there already is used, and stays whatever happens. */
static int look_at_data_file(struct creation *cr)
{
	struct image_ref ref = { 0 };
	int ret;

	if (!cr->create.data_file)
		return 0;
	ret = image_ref_parse(cr->create.data_file, cr->path, &ref, &cr->e);
	if (ret < 0)
		return ret;
	if (access(ref.path, F_OK) < 0)
		cr->data_path = strdup(ref.path);
	image_ref_free(&ref);
	return 0;
}

static int co_create(struct reactor *r, void *arg)
{
	struct creation *cr = arg;

	return co_image_create(r, cr->path, &cr->create, &cr->e);
}

static int make_image(struct creation *cr)
{
	int ret;

	cr->create.format = cr->conf.format == FORMAT_UNSET ? FORMAT_QCOW2 : cr->conf.format;
	cr->create.extended_l2 = -1;
	cr->create.size = opt_given(cr->opt, SIZE) ? opt_num(cr->opt, SIZE) : UINT64_MAX;
	ret = parse_image_options(cr);
	if (!ret && opt_given(cr->opt, BACKING))
		ret = look_at_backing(cr);
	if (!ret)
		ret = look_at_data_file(cr);
	if (!ret)
		ret = with_reactor(co_create, cr, &cr->e);
	cr->image_made = !ret;
	return ret;
}

/*
 * Opens the whole chain once, and writes down the format that the active image has now: a guest
 * that writes a qcow2 header into its raw disk must not choose how it is opened next time.
 */
static int look_at_chain(struct creation *cr, json_t **facts)
{
	int ret = image_facts(&cr->conf, facts, &cr->e);

	if (!ret)
		cr->conf.format = layer_format_parse(get_text(
			json_array_get(json_object_get(*facts, "layers"),
				       json_array_size(json_object_get(*facts, "layers")) - 1), "format"));
	return ret;
}

/* Starts the daemon and keeps the number that it got, so that the device has it next time too. */
static int activate(struct creation *cr, json_t **facts)
{
	const char *extra[] = { "--number", opt_str(cr->opt, NUMBER), NULL };
	int ret;

	ret = daemon_spawn(cr->conf.name, opt_given(cr->opt, NUMBER) ? extra : NULL, &cr->e);
	if (ret < 0)
		return ret;
	json_decref(*facts);
	*facts = chain_facts(cr->conf.name, &cr->e);
	if (!*facts || cr->e.code)
		return -EIO;
	if (json_object_get(*facts, "number") && cr->conf.number < 0) {
		cr->conf.number = (int)get_int(*facts, "number");
		return conf_save(&cr->conf, false, &cr->e);
	}
	return 0;
}

static void undo(struct creation *cr)
{
	struct error ignored = ERROR_INIT;

	if (cr->conf_made && rundir_owner(cr->conf.name) && daemon_quit(cr->conf.name, &ignored) < 0)
		return;            /* it is served: definition and image are needed */
	if (cr->conf_made)
		conf_remove(cr->conf.name, &ignored);
	if (cr->image_made) {
		unlink(cr->path);
		if (cr->data_path)
			unlink(cr->data_path);
	}
}

static int create_chain(struct creation *cr)
{
	bool create = opt_given(cr->opt, SIZE) || opt_given(cr->opt, BACKING);
	json_t *facts = NULL;
	char size[32];
	int ret;

	ret = check_wishes(cr, create);
	if (!ret && create)
		ret = make_image(cr);
	if (!ret)
		ret = look_at_chain(cr, &facts);
	if (!ret) {
		ret = conf_save(&cr->conf, true, &cr->e);
		cr->conf_made = !ret;
	}
	if (!ret && !opt_given(cr->opt, INACTIVE))
		ret = activate(cr, &facts);
	if (ret < 0) {
		undo(cr);
	} else {
		const char *device = get_text(facts, "device");

		size_in_unit(get_int(facts, "size"), 'h', true, size, sizeof(size));
		printf("Chain '%s' (%llu %s, %s) is %s%s%s%s.\n", cr->conf.name,
		       (unsigned long long)get_int(facts, "depth"),
		       get_int(facts, "depth") == 1 ? "layer" : "layers", size,
		       device[0] ? device : get_bool(facts, "active") ? "served without a device" : "defined",
		       device[0] ? " (" : "", device[0] ? get_text(facts, "kind") : "", device[0] ? ")" : "");
	}
	json_decref(facts);
	return ret;
}

int qccreate_main(int argc, char **argv)
{
	struct creation cr = { 0 };
	struct options opt;
	int status = options_parse(&qccreate_def, argc, argv, &opt);
	const char *name;

	if (status >= 0)
		return status;
	name = opt.operands[0];
	cr.opt = &opt;
	if (opt_given(&opt, BACKING_FMT) && !opt_given(&opt, BACKING))
		status = usage_error(&qccreate_def, "-F is for the backing file that -b names");
	else if (opt_given(&opt, IMAGE_OPTIONS) && !opt_given(&opt, SIZE) && !opt_given(&opt, BACKING))
		status = usage_error(&qccreate_def, "-o is for a new image: give -L or -b too");
	else if (chain_name_check(name, &cr.e) < 0)
		status = usage_error(&qccreate_def, "%s", cr.e.msg);
	if (status >= 0) {
		options_free(&opt);
		return status;
	}
	conf_init(&cr.conf, name);
	conf_from_options(&cr.conf, &opt);
	cr.conf.image = image_name_absolute(opt.operands[1]);
	if (!cr.conf.image)
		error_set_errno(&cr.e, errno, "cannot find out the current folder");
	status = EXIT_DONE;
	if (!cr.conf.image || create_chain(&cr) < 0)
		status = chain_fail(&qccreate_def, name, &cr.e);
	conf_free(&cr.conf);
	free(cr.path);
	free(cr.option_text);
	free(cr.backing_name);
	free(cr.data_path);
	options_free(&opt);
	return status;
}
