/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * engine.h - private to io/: what an engine (uring, aio, sim) does for the reactor.
 *
 * An engine starts requests, waits for all that can happen, and calls hooks.
 *
 * Rules: submit() never calls a hook; a request it accepts gets exactly one
 * hook call, from turn(). A request it does not accept (false: full) is kept by
 * the caller and offered again after the next turn().
 */
#ifndef QCHAIN_IO_ENGINE_H
#define QCHAIN_IO_ENGINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "io/reactor.h"

enum engine_opcode {
	ENGINE_READ,
	ENGINE_WRITE,
	ENGINE_FDATASYNC,
	ENGINE_FALLOCATE,      /* off, len, mode */
	ENGINE_TRUNCATE,       /* len */
};

struct engine_req {
	enum engine_opcode opcode;
	int fd;
	int slot;                  /* registered file, or -1 */
	bool direct;               /* opened with O_DIRECT */
	unsigned nr_iov;
	const struct iovec *iov;   /* stays valid until the hook is called */
	uint64_t off, len;
	int mode;                  /* fallocate */
	int rw_flags;              /* RWF_... */
	struct io_cqe_hook *hook;  /* res: bytes moved (read, write) or 0; -errno */
};

struct engine {
	enum engine_kind kind;
	const char *name;
	int (*init)(struct reactor *r, const struct reactor_config *cfg, struct error *e);
	void (*fini)(struct reactor *r);
	bool (*submit)(struct reactor *r, const struct engine_req *rq);
	/*
	 * Sends what was submitted, waits up to timeout_ns (0: not at all, -1: for
	 * ever) until something happened, calls the hooks of what is complete, and
	 * reactor_poll_dispatch() when the epoll set has events.
	 */
	void (*turn)(struct reactor *r, int64_t timeout_ns);
	int (*fixed_add)(struct reactor *r, int fd);            /* NULL: none */
	void (*fixed_del)(struct reactor *r, int slot);
	int (*fixed_update)(struct reactor *r, int slot, int fd);
	/*
	 * File system calls, for an engine that keeps the files itself; NULL means
	 * the system call; all give -errno. open() and reopen() give a descriptor
	 * that fstat() and fcntl() understand (a memfd will do); after a reopen,
	 * dup3() puts the new one in the place of the old.
	 */
	int (*open)(struct reactor *r, const char *path, int flags, mode_t mode);
	int (*reopen)(struct reactor *r, int fd, int flags);
	int (*close)(struct reactor *r, int fd);
	int (*truncate)(struct reactor *r, int fd, uint64_t len);   /* when opened; later it is a request */
	off_t (*seek)(struct reactor *r, int fd, off_t off, int whence);
	uint64_t (*now)(struct reactor *r);                     /* NULL: CLOCK_MONOTONIC */
	/* Helper-thread calls run in place, for an engine that must be deterministic. */
	bool no_threads;
};

extern const struct engine engine_uring;
extern const struct engine engine_aio;
extern const struct engine engine_sim;

#endif
