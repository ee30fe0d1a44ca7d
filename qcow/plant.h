/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * plant.h - private to qcow/: bugs made on purpose, by which the simulator shows that it would find them.
 *
 * Compiled in only with QCHAIN_PLANT, which tests/sim alone sets; elsewhere PLANTED() is a plain 0.
 */
#ifndef QCHAIN_QCOW_PLANT_H
#define QCHAIN_QCOW_PLANT_H

enum qcow_plant {
	PLANT_NOTHING,
	PLANT_SKIP_BARRIER,        /* a commit writes links without waiting for data and refcounts */
	PLANT_FREE_BEFORE_UNLINK,  /* a cluster is free while the disk still points at it */
	PLANT_LINK_BEFORE_COPY,    /* an entry names a cluster whose bytes are still to come */
};

#ifdef QCHAIN_PLANT
extern enum qcow_plant qcow_plant;
/* By name; -EINVAL if there is no such bug. */
int qcow_plant_parse(const char *name);
#define PLANTED(what) (qcow_plant == PLANT_##what)
#else
#define PLANTED(what) 0
#endif

#endif
