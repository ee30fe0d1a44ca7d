/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * img_create.h - the -o options of qcimg create and convert.
 */
#ifndef QCHAIN_TOOLS_IMG_CREATE_H
#define QCHAIN_TOOLS_IMG_CREATE_H

#include "qcow/create.h"

#define IMG_OPTIONS_MAX 64u

struct img_create {
	struct create_opts o;
	bool size_given, raw_given;            /* -o size, -o data_file_raw */
	const char *compat, *preallocation;    /* as typed; NULL = not given */
	char *text[2 * IMG_OPTIONS_MAX];       /* what o points into; owned */
	unsigned nr_text;
};

/* Defaults of qemu-img: 64 KiB clusters, no subclusters, also for overlays. */
void img_create_init(struct img_create *c, enum layer_format format);
void img_create_free(struct img_create *c);
/* Takes one -o list. -errno with a sentence in *e. */
int img_create_options(struct img_create *c, const char *list, struct error *e);
/* True if the list asks for help ("help" or "?" alone). */
bool img_create_wants_help(const char *list);
void img_create_help(enum layer_format format);
/* "Formatting 'x', fmt=..." */
void img_create_print(const struct img_create *c, const char *path);
/* Says "path: sentence" on stderr; returns 1. */
int img_create_fail(const char *path, const struct error *e);
/*
 * Creates path, replacing what is there unless someone uses it. *existed, if wanted:
 * there was a file before, which failure must not remove.
 */
int co_img_create_file(struct reactor *r, const char *path, struct img_create *c, bool *existed,
		       struct error *e);

#endif
