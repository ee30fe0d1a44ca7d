/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cmd_change.c - qcchange (activate, deactivate) and qcremove (forget). */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/conf.h"
#include "tools/device_check.h"
#include "tools/rundir.h"
#include "tools/spawn.h"

static const struct option_def change_opts[] = {
	{ "activate", 'a', OPT_CHOICE, false, "y|n", "y|n", "activate the chain, or deactivate it" },
};

static const struct operand_def chains[] = {
	{ "NAME", OPT_CHAIN, false, true },
};

const struct command_def qcchange_def = {
	.name = "qcchange",
	.summary = "activate or deactivate chains",
	.about =
		"qcchange -ay starts the daemon of each named chain, which makes its block device; qcchange -an stops it: "
		"everything is flushed, and the device goes away. A chain whose device is in use stays active. What is so already "
		"counts as done.",
	.examples = "qcchange -ay web\nqcchange -an web db",
	.opts = change_opts,
	.nr_opts = 1,
	.operands = chains,
	.nr_operands = 1,
};

static int activate(const char *name, struct error *e)
{
	struct chain_conf conf;
	int ret;

	if (rundir_owner(name))
		return 0;
	conf_init(&conf, name);
	ret = conf_load(&conf, name, e);
	if (!ret)
		ret = device_check(conf.device, e);
	conf_free(&conf);
	return ret ? ret : daemon_spawn(name, NULL, e);
}

static int deactivate(const char *name, struct error *e)
{
	if (rundir_owner(name))
		return daemon_quit(name, e);
	if (!conf_exists(name))
		return error_set(e, ENOENT, "there is no such chain; 'qcs' lists them");
	return 0;
}

int qcchange_main(int argc, char **argv)
{
	struct options opt;
	int status = options_parse(&qcchange_def, argc, argv, &opt);

	if (status >= 0)
		return status;
	if (!opt_given(&opt, 0)) {
		status = usage_error(&qcchange_def, "nothing to change: give -ay or -an");
		options_free(&opt);
		return status;
	}
	status = EXIT_DONE;
	for (unsigned i = 0; i < opt.nr_operands; i++) {
		const char *name = opt.operands[i];
		struct error e = ERROR_INIT;
		int ret = chain_name_check(name, &e);

		if (!ret)
			ret = opt_str(&opt, 0)[0] == 'y' ? activate(name, &e) : deactivate(name, &e);
		if (ret < 0)
			status = chain_fail(&qcchange_def, name, &e);
	}
	options_free(&opt);
	return status;
}

/* --- qcremove --- */

enum { YES, FORCE };

static const struct option_def remove_opts[] = {
	[YES] = { "yes", 'y', OPT_FLAG, false, NULL, NULL, "do not ask" },
	[FORCE] = { "force", 'f', OPT_FLAG, false, NULL, NULL, "deactivate the chain first if it is active" },
};

const struct command_def qcremove_def = {
	.name = "qcremove",
	.summary = "forget chains; their images stay",
	.about =
		"qcremove removes the definition of each named chain. Images are not touched. An active chain is refused "
		"unless --force is given, which deactivates it first (not if its device is in use).",
	.examples = "qcremove --yes web",
	.opts = remove_opts,
	.nr_opts = 2,
	.operands = chains,
	.nr_operands = 1,
};

static int confirm(const char *name, struct error *e)
{
	char answer[16] = "";

	if (!isatty(STDIN_FILENO))
		return error_set(e, EPERM, "not removed: there is no terminal to ask on; give --yes");
	fprintf(stderr, "Really forget chain '%s'? Its images stay. [y/n]: ", name);
	if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
		return error_set(e, ECANCELED, "not removed");
	return 0;
}

static int forget(const char *name, const struct options *opt, struct error *e)
{
	pid_t pid = rundir_owner(name);
	int ret;

	if (!conf_exists(name)) {
		if (pid)
			return error_set(e, ENOENT, "it has no definition to remove: process %d was started by hand; stop it with 'qcchange -an %s'",
					 (int)pid, name);
		return error_set(e, ENOENT, "there is no such chain; 'qcs' lists them");
	}
	if (pid && !opt_given(opt, FORCE))
		return error_set(e, EBUSY, "it is active; deactivate it with 'qcchange -an %s', or give --force", name);
	ret = opt_given(opt, YES) ? 0 : confirm(name, e);
	if (!ret && pid)
		ret = daemon_quit(name, e);
	return ret ? ret : conf_remove(name, e);
}

int qcremove_main(int argc, char **argv)
{
	struct options opt;
	int status = options_parse(&qcremove_def, argc, argv, &opt);

	if (status >= 0)
		return status;
	status = EXIT_DONE;
	for (unsigned i = 0; i < opt.nr_operands; i++) {
		const char *name = opt.operands[i];
		struct error e = ERROR_INIT;
		int ret = chain_name_check(name, &e);

		if (!ret)
			ret = forget(name, &opt, &e);
		if (ret < 0)
			status = chain_fail(&qcremove_def, name, &e);
	}
	options_free(&opt);
	return status;
}
