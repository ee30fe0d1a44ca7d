/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcimg_doc.c - what man page and completion say of qcimg, which has subcommands and parses for itself. */
#include "tools/cmd.h"

static const struct operand_def operands[] = {
	{ "COMMAND", OPT_STRING, false, false },
	{ "ARGUMENTS", OPT_FILE, true, true },
};

const struct command_def qcimg_doc = {
	.name = "qcimg",
	.summary = "create, inspect, check, compare, convert and measure disk images offline",
	.about =
		"qcimg works on images that no chain serves. Its commands, options, output and exit statuses are those of qemu-img: "
		"create, info, check, map, compare, convert and bench; --output json where qemu-img has it.\n\n"
		"'qcimg COMMAND --help' shows the options of a command.",
	.examples =
		"qcimg create -f qcow2 /srv/web.qcow2 20G\n"
		"qcimg info --backing-chain /srv/web.qcow2\n"
		"qcimg check /srv/web.qcow2\n"
		"qcimg compare a.qcow2 b.raw",
	.operands = operands,
	.nr_operands = 2,
};
