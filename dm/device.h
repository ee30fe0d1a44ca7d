/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * device.h - a chain as a block device of this kernel.
 *
 * ublk where the kernel has it, else a FUSE file bound to a loop device; over
 * either, where the kernel has device-mapper, a linear dm device that names
 * stay with. /dev/qchainN and /dev/qchain/NAME are links to the outermost one.
 *
 * Invariant: what start made, stop takes away: device, mount, loop, links. A
 * start that fails half-way takes away what it had made.
 */
#ifndef QCHAIN_DM_DEVICE_H
#define QCHAIN_DM_DEVICE_H

#include <stdbool.h>
#include <stdint.h>

#include "io/error.h"
#include "qcow/chain.h"

struct device;

enum device_kind { DEVICE_AUTO, DEVICE_UBLK, DEVICE_FUSE, DEVICE_NONE };
int device_kind_parse(const char *s, enum device_kind *out);
const char *device_kind_name(enum device_kind k);

struct device_opts {
	enum device_kind kind;
	const char *name;        /* chain name: link /dev/qchain/NAME, dm name, FUSE file name */
	int number;              /* wanted N of /dev/qchainN; -1 = the lowest free one */
	bool number_strict;      /* fail if `number` is taken, else take the next free one */
	const char *run_dir;     /* folder of this chain for the FUSE mount point */
	unsigned queue_depth;    /* 0 = 128 */
	bool no_dm;              /* do not lay device-mapper over it even where the kernel has it */
};

/* What this kernel and this user can do: DEVICE_UBLK, DEVICE_FUSE, or DEVICE_NONE with the sentence that says what to load. */
enum device_kind device_best(struct error *e);

/*
 * Makes the device. -EPERM without root, -ENODEV without the kernel's part, each
 * with a sentence and the remedy. The chain must outlive the device. May yield;
 * guest requests (a partition scan) may arrive before it returns.
 */
int co_device_start(struct chain *c, const struct device_opts *o, struct device **out, struct error *e);

const char *device_path(const struct device *d);        /* "/dev/qchain0" */
const char *device_name_path(const struct device *d);   /* "/dev/qchain/NAME" */
const char *device_node(const struct device *d);        /* the node behind it, "/dev/ublkb0" */
enum device_kind device_kind(const struct device *d);
bool device_has_dm(const struct device *d);
int device_number(const struct device *d);

/* Someone has it open (mounted, held by another mapping); *who, if wanted, gets one sentence part ("mounted on /mnt"). */
bool device_in_use(const struct device *d, char *who, size_t who_len);

/*
 * Takes the device away after the requests in flight. -EBUSY with a sentence if it is in use and
 * !force; with force it goes as soon as the kernel lets go. The device is gone unless -EBUSY.
 */
int co_device_stop(struct device *d, bool force, struct error *e);

/* The size of the chain changed: tell the kernel. */
int co_device_resized(struct device *d, struct error *e);

#endif
