/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * backing.h - from the name in a header, or a name a person typed, to a file and how to open it.
 *
 * Forms, as QEMU has them: a plain path, relative to the folder of the image
 * that names it; an absolute path; "file:PATH"; "json:{...}" with "driver",
 * "file"/"file.filename"/"filename", raw's "offset" and "size", nested or with dots. A ':'
 * before any '/' is a protocol: one we do not have is refused by name.
 *
 * Invariant: the format of a backing file is never guessed. A guest can write a
 * qcow2 header into a raw disk; probing would let it name any file of the host.
 */
#ifndef QCHAIN_QCOW_BACKING_H
#define QCHAIN_QCOW_BACKING_H

#include <stdint.h>

#include "io/error.h"
#include "qcow/layer.h"

struct image_ref {
	char *path;                    /* what to open; owned */
	enum layer_format format;      /* FORMAT_UNSET if the name does not say */
	uint64_t raw_offset, raw_size; /* raw window; 0,0 = all */
	char *data_file;               /* qcow2's "data-file" in a json: name, or NULL; owned */
	bool has_backing;              /* a json: name gave "backing": null or another image */
	struct image_ref *backing;     /* that image; NULL with has_backing = explicitly none */
};

/*
 * Parses name; relative paths count from the folder of parent_path (NULL: the
 * current folder). -EINVAL, -ENOTSUP (protocol or driver we lack) with a sentence.
 */
int image_ref_parse(const char *name, const char *parent_path, struct image_ref *out, struct error *e);
void image_ref_free(struct image_ref *ref);

/*
 * `path` written so that it means the same from the folder of parent_path
 * (relative where both share a folder tree and `relative` is asked for). Caller frees.
 */
char *backing_name_for(const char *path, const char *parent_path, bool relative);

#endif
