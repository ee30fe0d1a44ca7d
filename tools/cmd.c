/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cmd.c - how every command says that it failed. */
#include "tools/cmd.h"

#include <stdio.h>

int chain_fail(const struct command_def *def, const char *chain, const struct error *e)
{
	fflush(stdout);
	fprintf(stderr, "%s: chain '%s': %s\n", def->name, chain, e->msg);
	return EXIT_FAILED;
}

int cmd_fail(const struct command_def *def, const struct error *e)
{
	fflush(stdout);
	fprintf(stderr, "%s: %s\n", def->name, e->msg);
	return EXIT_FAILED;
}
