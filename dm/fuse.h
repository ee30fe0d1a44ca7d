/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuse.h - private to dm/: a FUSE file system of one file that holds a chain's bytes.
 *
 * libfuse speaks the protocol; reading and writing /dev/fuse is ours (fuse.c), so
 * that they ride on the reactor and several replies leave in one system call.
 */
#ifndef QCHAIN_DM_FUSE_H
#define QCHAIN_DM_FUSE_H

#include "dm/server.h"

struct fuse_file;

/*
 * Serves the chain as file `o->name` over fd, an open non-blocking /dev/fuse that is
 * mounted or about to be. Takes fd over, also on error.
 */
int fuse_file_new(const struct server_opts *o, int fd, struct fuse_file **out, struct error *e);
/* Waits until no one has the file open any more (every RELEASE arrived), or the mount is gone. */
void co_fuse_file_wait_released(struct fuse_file *f);
/* After the unmount: waits until the kernel has hung up and every request is done, then frees. */
void co_fuse_file_free(struct fuse_file *f);

#endif
