// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * rangelock.c - byte ranges in order of arrival.
 *
 * Invariant: a range is granted exactly when no earlier range in `held`
 * overlaps it incompatibly. Unlocking one range re-examines the later ones in
 * order, so grants never overtake.
 */
#include "io/rangelock.h"

#include <assert.h>

void rangelock_init(struct rangelock *l)
{
	list_init(&l->held);
}

static bool conflict(const struct range *a, const struct range *b)
{
	return a->off < b->end && b->off < a->end && (a->exclusive || b->exclusive);
}

/* True if nothing that came before rg stands in its way. */
static bool grantable(const struct rangelock *l, const struct range *rg)
{
	const struct range *it;

	list_for_each(it, &l->held, link) {
		if (it == rg)
			return true;
		if (conflict(it, rg))
			return false;
	}
	return true;
}

static void range_set(struct range *rg, uint64_t off, uint64_t len, bool exclusive)
{
	assert(len > 0 && off + len > off);
	rg->off = off;
	rg->end = off + len;
	rg->exclusive = exclusive;
	rg->granted = true;
	co_queue_init(&rg->wait);
}

bool range_trylock(struct rangelock *l, struct range *rg, uint64_t off, uint64_t len,
		   bool exclusive)
{
	range_set(rg, off, len, exclusive);
	if (!grantable(l, rg))
		return false;
	list_add_tail(&l->held, &rg->link);
	return true;
}

void co_range_lock(struct rangelock *l, struct range *rg, uint64_t off, uint64_t len,
		   bool exclusive)
{
	if (range_trylock(l, rg, off, len, exclusive))
		return;
	rg->granted = false;
	list_add_tail(&l->held, &rg->link);
	while (!rg->granted)
		co_queue_wait(&rg->wait);
}

void range_unlock(struct rangelock *l, struct range *rg)
{
	struct list *pos = rg->link.next;

	assert(rg->granted);
	list_del(&rg->link);
	for (; pos != &l->held; pos = pos->next) {
		struct range *it = list_entry(pos, struct range, link);

		if (it->granted || !conflict(it, rg) || !grantable(l, it))
			continue;
		it->granted = true;
		co_queue_wake_one(&it->wait);
	}
}

bool rangelock_busy(const struct rangelock *l, uint64_t off, uint64_t len)
{
	const struct range *it;

	list_for_each(it, &l->held, link)
		if (it->exclusive && it->off < off + len && off < it->end)
			return true;
	return false;
}

bool rangelock_empty(const struct rangelock *l)
{
	return list_empty(&l->held);
}
