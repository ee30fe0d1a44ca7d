/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * server.h - private to dm/: what makes the kernel's node and serves it (ublk.c, fuse_loop.c).
 *
 * A server owns one node under /dev from co_start() to co_stop(). It sees the
 * chain only through chain_submit(); memory for requests is made at start.
 */
#ifndef QCHAIN_DM_SERVER_H
#define QCHAIN_DM_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "io/error.h"
#include "qcow/chain.h"

/*
 * Bytes in one guest read or write: the larger, the fewer requests a sequential reader costs; but
 * each of queue-depth requests keeps a locked buffer of this size (128 x 256 KiB = 32 MiB).
 */
#define SERVER_MAX_TRANSFER (256u << 10)
#define SERVER_DEPTH_DEFAULT 128u
#define SERVER_DEPTH_MAX 1024u

struct server_opts {
	struct chain *chain;
	const char *name;          /* of the chain */
	const char *run_dir;
	unsigned queue_depth;      /* 1..SERVER_DEPTH_MAX */
};

struct server_ops {
	/* Makes and serves the node; undoes all it did when it fails. */
	int (*co_start)(const struct server_opts *o, void **priv, struct error *e);
	/*
	 * Takes the node away; priv is freed unless it returns -EBUSY (someone came in
	 * between, and !force).
	 */
	int (*co_stop)(void *priv, bool force, struct error *e);
	/* The chain's size changed. */
	int (*co_resize)(void *priv, struct error *e);
	const char *(*node)(const void *priv);      /* "/dev/ublkb0" */
	/* Its kernel part is here and may be used; else -errno with the remedy. */
	int (*usable)(struct error *e);
};

extern const struct server_ops ublk_server_ops;
extern const struct server_ops fuse_server_ops;

#endif
