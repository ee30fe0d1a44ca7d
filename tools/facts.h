/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * facts.h - what is known about a chain, alike whether it is served or not.
 *
 * One JSON object a chain, from its daemon (x-qchain-info) or, if none serves it,
 * from its definition and images, opened read-only and without locks:
 *
 *	name, active, defined, attr, image, size, depth, disk, format, read-only, kind,
 *	engine, cache, fault, layers (see image_info.h), and while active: pid, device,
 *	device-link, node, number, dm, in-use, used-by, stats
 */
#ifndef QCHAIN_TOOLS_FACTS_H
#define QCHAIN_TOOLS_FACTS_H

#include <jansson.h>

#include "io/error.h"
#include "io/reactor.h"
#include "tools/conf.h"

/*
 * New reference; NULL only if there is no such chain. A chain that is there and cannot
 * be looked at gives its facts with "fault", and e says the same.
 */
json_t *chain_facts(const char *name, struct error *e);
/* Every chain that is defined or served, sorted; conf_list_free() frees. */
int chain_names(char ***out, struct error *e);

/*
 * Facts of the chain below an image that nobody serves: opens it read-only and without
 * locks. c: image, format, backing_format. On success *out is an object with image, size,
 * depth, disk, format, layers.
 */
int image_facts(const struct chain_conf *c, json_t **out, struct error *e);

/* Runs fn in a coroutine of a short-lived reactor (io_uring, or libaio where there is none). */
int with_reactor(int (*fn)(struct reactor *r, void *arg), void *arg, struct error *e);

#endif
