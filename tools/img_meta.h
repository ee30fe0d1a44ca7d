/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * img_meta.h - what a qcow2 header points at beside data, as the trees that
 * qemu-img info shows: internal snapshots, persistent bitmaps, the LUKS header.
 *
 * Everything here comes from the disk of someone else: each count and length is
 * held against the file's size before memory is taken for it.
 */
#ifndef QCHAIN_TOOLS_IMG_META_H
#define QCHAIN_TOOLS_IMG_META_H

#include <jansson.h>

#include "qcow/qcow2.h"

/* New references; NULL with a sentence in *e. An image without any gives an empty array. */
json_t *co_img_snapshots(struct file *f, const struct qcow2_header *h, struct error *e);
json_t *co_img_bitmaps(struct file *f, const struct qcow2_header *h, struct error *e);
/* NULL without a sentence when the image is not encrypted. */
json_t *co_img_encryption(struct file *f, const struct qcow2_header *h, struct error *e);

#endif
