/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * conf.h - the definition of a chain: /etc/qchain/chains/NAME.conf.
 *
 *	[chain]
 *	image = /srv/web.qcow2
 *	format = qcow2
 *	number = 0
 *
 * It holds the active image and preferences, never the chain itself: what lies
 * below the active image is said by the image headers alone. A value goes to the
 * end of its line; lines that begin with '#' or ';' are comments.
 *
 * Invariant: a file is replaced whole or not at all (written aside, synced, renamed).
 */
#ifndef QCHAIN_TOOLS_CONF_H
#define QCHAIN_TOOLS_CONF_H

#include <stdbool.h>
#include <stdint.h>

#include "dm/device.h"
#include "io/error.h"
#include "io/file.h"
#include "io/reactor.h"
#include "qcow/layer.h"
#include "tools/paths.h"

struct chain_conf {
	char name[CHAIN_NAME_MAX + 1];
	char *image;                   /* owned; NULL until set */
	enum layer_format format;      /* of the active image; FORMAT_UNSET = by its first bytes */
	enum layer_format backing_format;
	enum device_kind device;
	int number;                    /* -1 = any */
	enum engine_kind engine;
	enum file_cache cache;
	bool read_only;
	bool no_dm;
	uint64_t map_cache;            /* bytes; 0 = default */
};

void conf_init(struct chain_conf *c, const char *name);
void conf_free(struct chain_conf *c);
bool conf_exists(const char *name);
/* -ENOENT if there is no such definition; -EINVAL names file, line and fault. c must be conf_init()ed. */
int conf_load(struct chain_conf *c, const char *name, struct error *e);
/* fresh: -EEXIST if a definition of that name is there already. */
int conf_save(const struct chain_conf *c, bool fresh, struct error *e);
int conf_remove(const char *name, struct error *e);
/* Names of all definitions, sorted; NULL-terminated, caller frees with conf_list_free(). -errno if unreadable. */
int conf_list(char ***out, struct error *e);
void conf_list_free(char **names);

const char *cache_name(enum file_cache c);      /* "none", "writeback" */

#endif
