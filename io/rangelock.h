/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * rangelock.h - requests that touch the same bytes wait for each other.
 *
 * Fair: a request waits for every earlier one that overlaps it and is not
 * compatible (two shared ones are), so no writer starves. Ranges are half open,
 * in bytes, and the caller rounds them to the unit that must not be shared.
 */
#ifndef QCHAIN_IO_RANGELOCK_H
#define QCHAIN_IO_RANGELOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "io/co.h"

struct rangelock {
	struct list held;      /* in order of arrival, granted and waiting */
};

struct range {                 /* lives in the caller until unlocked */
	uint64_t off, end;
	bool exclusive;
	bool granted;          /* private */
	struct co_queue wait;  /* private */
	struct list link;      /* private */
};

void rangelock_init(struct rangelock *l);
void co_range_lock(struct rangelock *l, struct range *rg, uint64_t off, uint64_t len, bool exclusive);
/* As above without waiting: false if it would have to wait. */
bool range_trylock(struct rangelock *l, struct range *rg, uint64_t off, uint64_t len, bool exclusive);
void range_unlock(struct rangelock *l, struct range *rg);
/* True if anything held or waiting overlaps [off, off+len) exclusively. Cheap when the lock is empty. */
bool rangelock_busy(const struct rangelock *l, uint64_t off, uint64_t len);
bool rangelock_empty(const struct rangelock *l);

#endif
