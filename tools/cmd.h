/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * cmd.h - the applets: one file a command or family, each with its table (options.h) and its function.
 */
#ifndef QCHAIN_TOOLS_CMD_H
#define QCHAIN_TOOLS_CMD_H

#include "io/error.h"
#include "tools/applet.h"
#include "tools/options.h"

/* "qccreate: chain 'web': <message>" on stderr; returns EXIT_FAILED. */
int chain_fail(const struct command_def *def, const char *chain, const struct error *e);
/* "qccreate: <message>" on stderr; returns EXIT_FAILED. */
int cmd_fail(const struct command_def *def, const struct error *e);

extern const struct command_def qccreate_def, qcchange_def, qcremove_def, qcs_def, qclayers_def,
	qcdisplay_def, qctree_def, qcimg_doc, qchain_doc;
applet_fn qccreate_main, qcchange_main, qcremove_main, qcs_main, qclayers_main, qcdisplay_main,
	qctree_main;

struct applet {
	const char *name;
	applet_fn *fn;
	const struct command_def *def;
};
/* Every applet, ended by name == NULL; main.c. */
extern const struct applet applets[];

#endif
