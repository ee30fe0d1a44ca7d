/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qchaind.c - the daemon's main(): from command line and definition to what daemon.h runs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/applet.h"
#include "tools/daemon.h"
#include "tools/device_check.h"
#include "tools/qchaind_def.h"

static int fail(const char *name, const struct error *e)
{
	fprintf(stderr, "qchaind: chain '%s': %s\n", name, e->msg);
	return EXIT_FAILED;
}

static void conf_override(struct chain_conf *c, const struct options *opt)
{
	if (opt_given(opt, QCHAIND_FORMAT))
		c->format = layer_format_parse(opt_str(opt, QCHAIND_FORMAT));
	if (opt_given(opt, QCHAIND_BACKING_FORMAT))
		c->backing_format = layer_format_parse(opt_str(opt, QCHAIND_BACKING_FORMAT));
	if (opt_given(opt, QCHAIND_DEVICE))
		device_kind_parse(opt_str(opt, QCHAIND_DEVICE), &c->device);
	if (opt_given(opt, QCHAIND_NUMBER))
		c->number = (int)opt_num(opt, QCHAIND_NUMBER);
	if (opt_given(opt, QCHAIND_ENGINE))
		engine_parse(opt_str(opt, QCHAIND_ENGINE), &c->engine);
	if (opt_given(opt, QCHAIND_CACHE))
		c->cache = opt_num(opt, QCHAIND_CACHE) == 0 ? FILE_CACHE_NONE : FILE_CACHE_WRITEBACK;
	if (opt_given(opt, QCHAIND_MAP_CACHE))
		c->map_cache = opt_num(opt, QCHAIND_MAP_CACHE);
	c->read_only |= opt_given(opt, QCHAIND_READ_ONLY);
	c->no_dm |= opt_given(opt, QCHAIND_NO_DM);
}

static int conf_make(struct chain_conf *c, const struct options *opt, struct error *e)
{
	const char *name = opt_str(opt, QCHAIND_NAME);
	int ret = chain_name_check(name, e);

	conf_init(c, name);
	if (ret < 0)
		return ret;
	if (opt_given(opt, QCHAIND_IMAGE)) {
		c->image = image_name_absolute(opt_str(opt, QCHAIND_IMAGE));
		if (!c->image)
			return error_set_errno(e, errno, "cannot find out the current folder");
	} else {
		ret = conf_load(c, name, e);
		if (ret < 0)
			return ret;
	}
	conf_override(c, opt);
	return device_check(c->device, e);
}

int main(int argc, char **argv)
{
	struct daemon_opts o = { 0 };
	struct error e = ERROR_INIT;
	struct options opt;
	int status;

	status = options_parse(&qchaind_def, argc, argv, &opt);
	if (status >= 0)
		return status;
	if (!opt_given(&opt, QCHAIND_NAME))
		status = usage_error(&qchaind_def, "--name is missing");
	else if (opt_given(&opt, QCHAIND_FORCE_SHARE) && !opt_given(&opt, QCHAIND_READ_ONLY))
		status = usage_error(&qchaind_def, "--force-share needs --read-only");
	if (status >= 0) {
		options_free(&opt);
		return status;
	}
	o.qmp_path = opt_str(&opt, QCHAIND_QMP);
	o.number_strict = opt_given(&opt, QCHAIND_NUMBER);
	o.force_share = opt_given(&opt, QCHAIND_FORCE_SHARE);
	o.foreground = opt_given(&opt, QCHAIND_FOREGROUND);
	o.debug = opt_given(&opt, QCHAIND_DEBUG);
	if (conf_make(&o.conf, &opt, &e) < 0)
		status = fail(opt_str(&opt, QCHAIND_NAME), &e);
	else
		status = daemon_run(&o);
	conf_free(&o.conf);
	options_free(&opt);
	return status;
}
