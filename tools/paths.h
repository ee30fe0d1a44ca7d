/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * paths.h - where definitions, sockets and state live, and which chain names are allowed.
 *
 * QCHAIN_RUNDIR, QCHAIN_ETCDIR and QCHAIN_STATEDIR move the three folders, so that
 * tests and ordinary users run beside a live installation.
 */
#ifndef QCHAIN_TOOLS_PATHS_H
#define QCHAIN_TOOLS_PATHS_H

#include <stddef.h>

#include "io/error.h"

#define CHAIN_NAME_MAX 64

/* [a-zA-Z0-9_.-]+, not beginning with '-' or '.', at most 64; -EINVAL with a sentence. */
int chain_name_check(const char *name, struct error *e);

const char *run_base(void);     /* "/run/qchain" */
const char *etc_base(void);     /* "/etc/qchain" */
const char *state_base(void);   /* "/var/lib/qchain" */

/* Each prints into buf and returns it; aborts on a path beyond PATH_MAX (base folders are bounded). */
char *run_path(char *buf, size_t len, const char *chain, const char *file);   /* file NULL: the folder */
char *conf_dir(char *buf, size_t len);
char *conf_path(char *buf, size_t len, const char *chain);

/* mkdir -p; 0 or -errno with a sentence that names the remedy (root, or the variable to set). */
int dir_make(const char *path, unsigned mode, const char *variable, struct error *e);

/*
 * An image name as it stays true from any folder: a plain relative path made absolute;
 * a name with a protocol (file:, json:) as it is, "file:" followed by a relative path made absolute.
 * Caller frees; NULL: no memory or no current folder.
 */
char *image_name_absolute(const char *name);

#endif
