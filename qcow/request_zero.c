// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * request_zero.c - write-zeroes and discard: whole units by metadata, edges as writes.
 *
 * Invariant: while the layer changes its tables the range is frozen in the map:
 * a cluster that is being unlinked cannot be resolved by anyone who did not hold it before.
 */
#include <errno.h>

#include "qcow/chain_priv.h"

#define STEP_MAX  (1ull << 30)     /* one change of tables; others of the range wait that long */
#define WRITE_MAX (1u << 20)       /* one write of zeros */

/* The whole units inside [off, end); the end of the disk ends a unit. False if there is none. */
static bool whole_units(const struct chain *c, uint64_t off, uint64_t end, uint64_t *from,
			uint64_t *to)
{
	uint64_t unit = c->unit;

	*from = (off + unit - 1) & ~(unit - 1);
	*to = end == c->size ? end : end & ~(unit - 1);
	return *from < *to;
}

/* Writes zeros where the chain does not read as zeros yet. */
static int co_write_zeros(struct chain *c, uint64_t off, uint64_t end)
{
	struct iovec iov[WRITE_MAX / ZERO_BUF_LEN];
	struct map_run run;

	for (unsigned i = 0; i < WRITE_MAX / ZERO_BUF_LEN; i++)
		iov[i] = (struct iovec){ (void *)zero_buf, ZERO_BUF_LEN };
	for (; off < end; off += run.bytes) {
		uint64_t n = end - off < WRITE_MAX ? end - off : WRITE_MAX;
		int rc = co_resolve(c, off, n, &run);

		if (!rc && run.kind != MAP_ZERO)
			rc = co_write_range(c, off, run.bytes,
					    (struct guest_buf){ iov, WRITE_MAX / ZERO_BUF_LEN, 0 });
		if (rc < 0)
			return rc;
	}
	return 0;
}

enum change { CHANGE_ZERO, CHANGE_ZERO_KEEP, CHANGE_DISCARD };

/* One change of the tables of [off, end), whole units. */
static int co_change(struct chain *c, uint64_t off, uint64_t end, enum change change)
{
	uint64_t aligned_end = (end + c->unit - 1) & ~(uint64_t)(c->unit - 1);
	bool has_backing = c->depth > 1;
	bool tables = layer_format(c->active) == FORMAT_QCOW2;   /* raw: bytes stay where they are */
	struct map_freeze fz;
	struct range rg;
	int rc;

	co_lock_clusters(c, &rg, off, end - off);
	rc = chain_writable(c);
	if (rc < 0)
		goto out;
	if (tables)
		map_freeze(c->map, &fz, off, aligned_end - off);
	if (change == CHANGE_DISCARD)
		rc = co_layer_discard(c->active, off, end - off, has_backing, false);
	else
		rc = co_layer_zero(c->active, off, end - off, change == CHANGE_ZERO, has_backing);
	c->meta_changed++;
	if (tables)
		map_thaw(c->map, &fz);
	if (tables && !rc)
		map_set(c->map, off, aligned_end - off, MAP_WORD_ZERO);
out:
	range_unlock(&c->locks, &rg);
	return rc;
}

static int co_zero_units(struct chain *c, uint64_t from, uint64_t to, bool keep)
{
	while (from < to) {
		uint64_t n = to - from < STEP_MAX ? to - from : STEP_MAX;
		int rc = co_change(c, from, from + n, keep ? CHANGE_ZERO_KEEP : CHANGE_ZERO);

		if (rc == -ENOTSUP)
			rc = co_write_zeros(c, from, from + n);
		if (rc < 0)
			return rc;
		from += n;
	}
	return 0;
}

int co_request_zero(struct chain *c, struct chain_req *q)
{
	uint64_t off = q->guest_off, end = off + q->bytes, from, to;
	int rc;

	if (whole_units(c, off, end, &from, &to)) {
		rc = co_zero_units(c, from, to, q->flags & CHAIN_F_NO_UNMAP);
		if (!rc)
			rc = co_write_zeros(c, off, from);
		if (!rc)
			rc = co_write_zeros(c, to, end);
	} else {
		rc = co_write_zeros(c, off, end);
	}
	if (!rc && (q->flags & CHAIN_F_FUA))
		rc = co_request_flush(c);
	return rc;
}

int co_request_discard(struct chain *c, struct chain_req *q)
{
	uint64_t from, to;
	int rc = 0;

	if (!whole_units(c, q->guest_off, q->guest_off + q->bytes, &from, &to))
		return 0;
	while (from < to && !rc) {
		uint64_t n = to - from < STEP_MAX ? to - from : STEP_MAX;

		rc = co_change(c, from, from + n, CHANGE_DISCARD);
		from += n;
	}
	return rc == -ENOTSUP ? 0 : rc;   /* a discard is a hint */
}
