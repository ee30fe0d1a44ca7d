/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * daemon.h - one process that serves one chain: its start, its life, its end.
 *
 * Order of the start: run directory (and with it the right to the name), chain,
 * device, QMP, "ready". The end goes backwards. So a client that sees the QMP
 * connection close knows that device, images and run directory are free again.
 */
#ifndef QCHAIN_TOOLS_DAEMON_H
#define QCHAIN_TOOLS_DAEMON_H

#include <stdbool.h>

#include "dm/device.h"
#include "io/co.h"
#include "qcow/chain.h"
#include "tools/conf.h"
#include "tools/qmp.h"
#include "tools/rundir.h"

struct daemon_opts {
	struct chain_conf conf;
	const char *qmp_path;          /* one more QMP socket; NULL = none */
	bool number_strict;            /* fail if conf.number is taken */
	bool force_share;              /* open without locks (read-only) */
	bool foreground;
	bool debug;
};

struct daemon {
	/* set at start and never changed */
	const struct daemon_opts *o;
	struct reactor *r;
	struct rundir rundir;
	int ready_fd;                  /* pipe to the waiting parent; -1 = foreground, or told already */

	/* there while serving; NULL before and after */
	struct chain *chain;
	struct device *device;         /* NULL too with --device none */
	struct qmp_server *qmp;

	/* stopping: changed by signals and by `quit`, looked at by co_serve() */
	struct co_queue stop_wait;
	bool stop_wanted, stop_force;
	uint64_t last_signal_ns;       /* 0 = none yet */
	struct error stop_error;       /* why the last stop was refused */
	struct error error;            /* why the start or the end failed */
};

/*
 * Serves until told to stop; the whole life of the process after its command
 * line. Without o->foreground it returns in the parent once the chain is up or has failed.
 * Returns the exit status; errors have been written to stderr.
 */
int daemon_run(const struct daemon_opts *o);

/* Asks co_serve() to stop. */
void daemon_stop(struct daemon *d, bool force);

/*
 * The layer a QMP client means: by device (the chain's name: its active layer) or by node
 * name; both or neither as QEMU's bdrv_lookup_bs. NULL with call->error set in QEMU's words.
 */
struct layer *daemon_lookup(struct qmp_call *call, const char *device, const char *node_name);

/* Commands, by family; each table ends at name == NULL. */
extern const struct qmp_command qmp_misc_commands[];
extern const struct qmp_command qmp_block_commands[];

/* process.c: what makes a process fit to stand in the kernel's I/O path. */
/* Forks to the background; in the child returns the pipe to report on. The parent waits and exits. */
int process_background(const char *who);
/* In the child: all is well (the parent exits 0) / it failed with this line (exit 1). */
void process_report(int fd, const char *failure);
/* PR_SET_IO_FLUSHER, locked memory, protected from the OOM killer; as far as the user may. */
void process_harden(void);
/* systemd's notification protocol: "READY=1" to $NOTIFY_SOCKET if there is one. */
void process_notify(const char *state);

#endif
