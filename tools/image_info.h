/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * image_info.h - what an open chain and its layers are, as JSON.
 *
 * The shapes are QEMU's ImageInfo and BlockDeviceInfo (qapi/block-core.json), and
 * our own "layer facts", one flat object a layer, from which the reports are made
 * alike for chains that are served and chains that are not.
 */
#ifndef QCHAIN_TOOLS_IMAGE_INFO_H
#define QCHAIN_TOOLS_IMAGE_INFO_H

#include <jansson.h>

#include "qcow/chain.h"

/* Bytes the layer's files occupy on the host. */
uint64_t layer_disk_usage(const struct layer *l);
/*
 * BlockDeviceInfo of every layer from base to active. Unless flat, each "image" holds the ones below it as
 * "backing-image", nested to the base (shared between the entries, so that this costs one
 * object a layer). New reference.
 */
json_t *block_device_infos(const struct chain *c, bool flat);
/*
 * Layer facts from base to active: index, node-name, file, format, size, cluster-size,
 * disk, backing, backing-format, data-file, read-only, role ("base", "overlay", "active"),
 * fault. New reference.
 */
json_t *layer_facts(const struct chain *c);

#endif
