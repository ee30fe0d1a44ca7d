/* SPDX-License-Identifier: GPL-2.0-or-later */
/* docs.h - man pages and shell completion, printed from the tables that the parsers use. */
#ifndef QCHAIN_TOOLS_DOCS_H
#define QCHAIN_TOOLS_DOCS_H

#include <stdio.h>

#include "tools/options.h"

/* roff for section 8. `others`: NULL-terminated names for SEE ALSO. */
void docs_man(const struct command_def *def, const char *const *others, FILE *f);
/* One bash completion script for all the commands. */
void docs_completion(const struct command_def *const *defs, FILE *f);

#endif
