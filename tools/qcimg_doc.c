/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qcimg_doc.c - what man pages and completion say of qcimg and qchain, whose first argument is a command. */
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

const struct command_def qchain_doc = {
	.name = "qchain",
	.summary = "serve chains of disk images as block devices, and change them while in use",
	.about =
		"qchain is the one program behind all the qc commands: each is a link to it, and 'qchain COMMAND' is the same as "
		"COMMAND. A chain is a disk image with the images that it is an overlay of; each chain that is active has a daemon of its own, "
		"qchaind, which makes the block device /dev/qchainN.\n\n"
		"A definition, /etc/qchain/chains/NAME.conf, names the active image of a chain and how to serve it; all else is in the headers of the "
		"images.",
	.examples =
		"qccreate -L 20G web /srv/web.qcow2\n"
		"mkfs.ext4 /dev/qchain/web\n"
		"qctree web\n"
		"qcchange -an web",
	.operands = operands,
	.nr_operands = 2,
};
