/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sim.h - a disk that a test can trust to be as bad as a real one: the disk of ENGINE_SIM.
 *
 * Files are real files of a folder of the test's own (so that stat, locks and other
 * tools work on them), but every change of them is also recorded, as a disk with a volatile
 * cache would hold it: it is durable only when an fdatasync of that file has
 * completed that began after the change had. Until then a crash may keep it, lose it or
 * tear it at sectors of 512 bytes, whatever it keeps of other changes.
 *
 * Completions come in an order shuffled from the seed, and time stands still but for what
 * the requests are said to take. Nothing depends on threads, clocks or addresses: the same seed
 * and the same requests give the same disk.
 *
 * While a disk is in use the files show what the process would read; after a crash, what
 * survived. Then the process must end: its memory describes a disk that is gone.
 */
#ifndef QCHAIN_IO_SIM_H
#define QCHAIN_IO_SIM_H

#include <stdint.h>

struct sim_disk;

/* Chances in a million requests of the kind. */
struct sim_faults {
	unsigned read_eio;
	unsigned write_eio;      /* part of it may have been written all the same */
	unsigned flush_eio;      /* what it should have made durable no later flush will */
	unsigned enospc;         /* of writes and allocations that make a file longer */
	unsigned partial;        /* reads and writes that move less than asked */
	unsigned again;          /* refused with -EAGAIN or -EINTR, or the queue is full */
};

struct sim_opts {
	uint64_t seed;
	struct sim_faults faults;
	uint64_t crash_at;               /* the crash comes before this completion (from 1 on); 0: never */
	void (*crashed)(void *arg);      /* the files show what survived; must not return */
	void (*stuck)(void *arg);        /* the reactor waits for what will never come; must not return */
	void *arg;
};

/* NULL: no memory. Give it to reactor_new() in reactor_config.sim; it must outlive the reactor. */
struct sim_disk *sim_disk_new(const struct sim_opts *o);
void sim_disk_free(struct sim_disk *d);
/* Takes effect with the next completion. */
void sim_disk_set_faults(struct sim_disk *d, const struct sim_faults *faults);
/* Completions so far. */
uint64_t sim_disk_steps(const struct sim_disk *d);
/* The power fails now: leaves in the files what survives. The reactor must not be used any more. */
void sim_disk_crash(struct sim_disk *d);

/* The sequence that decides everything here, for the decisions of tests too. */
uint64_t sim_random(uint64_t *state);
/* A number below n; n > 0. */
static inline uint64_t sim_below(uint64_t *state, uint64_t n)
{
	return sim_random(state) % n;
}

#endif
