// SPDX-License-Identifier: GPL-2.0-or-later
/* oracle.c - see oracle.h for the rule; here it is worked out sector by sector. */
#include "oracle.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512u

uint64_t oracle_instant(struct oracle *o)
{
	return ++o->now;
}

unsigned oracle_begin(struct oracle *o, uint64_t off, uint64_t len, bool zeros)
{
	assert(o->nr_ops < ORACLE_OPS_MAX && off + len <= o->size);
	o->ops[o->nr_ops] = (struct oracle_op){
		.off = off, .len = len, .start = oracle_instant(o), .end = ORACLE_NEVER,
		.id = zeros ? 0 : ++o->last_id,
	};
	return o->nr_ops++;
}

void oracle_end(struct oracle *o, unsigned op, bool sure, bool durable)
{
	o->ops[op].sure = sure;
	o->ops[op].durable = sure && durable;
	o->ops[op].end = oracle_instant(o);
}

void oracle_flushed(struct oracle *o, uint64_t start)
{
	if (o->horizon < start)
		o->horizon = start;
}

static uint64_t word(uint32_t id, uint64_t off)
{
	uint64_t z = (off / 8 + 1) * 0x9e3779b97f4a7c15u ^ (uint64_t)id * 0xd1342543de82ef95u;

	z = (z ^ (z >> 32)) * 0xbf58476d1ce4e5b9u;
	return z ^ (z >> 29);
}

void oracle_fill(uint32_t id, uint64_t off, void *buf, uint64_t len)
{
	unsigned char *p = buf;

	for (uint64_t i = 0; i < len;) {
		uint64_t w = id ? word(id, off + i) : 0, skip = (off + i) % 8;
		uint64_t n = 8 - skip < len - i ? 8 - skip : len - i;

		memcpy(p + i, (unsigned char *)&w + skip, n);
		i += n;
	}
}

/* --- checking --- */

/* The changes that touch a range, none of which begins or ends within it. */
struct near {
	const struct oracle_op *op[ORACLE_OPS_MAX];
	unsigned nr;
};

/* Cuts [off, *end) at the first place in it where a change begins or ends. */
static void cut(const struct oracle *o, uint64_t off, uint64_t *end)
{
	for (uint32_t i = 0; i < o->nr_ops; i++) {
		uint64_t from = o->ops[i].off, to = from + o->ops[i].len;

		if (from > off && from < *end)
			*end = from;
		if (to > off && to < *end)
			*end = to;
	}
}

static void find_near(const struct oracle *o, uint64_t off, struct near *n)
{
	n->nr = 0;
	for (uint32_t i = 0; i < o->nr_ops; i++)
		if (o->ops[i].off <= off && o->ops[i].off + o->ops[i].len > off)
			n->op[n->nr++] = &o->ops[i];
}

/* Did `later` replace, for sure, a value that had come at `end`? */
static bool replaces(const struct oracle *o, uint64_t since, const struct oracle_op *later, uint64_t end)
{
	if (!later->sure || later->start <= end)
		return false;
	return since ? later->end < since : later->durable || later->end < o->horizon;
}

/* May what came at `end` still be there? */
static bool may_hold(const struct oracle *o, uint64_t since, const struct near *n, uint64_t end)
{
	for (unsigned i = 0; i < n->nr; i++)
		if (replaces(o, since, n->op[i], end))
			return false;
	return true;
}

/* Leaves in n only what the range may hold; false: not what was there before all. */
static bool keep_allowed(const struct oracle *o, uint64_t since, struct near *n)
{
	static struct near all;    /* too big for the stack of a coroutine; nothing yields here */
	bool base;

	all.nr = n->nr;
	memcpy(all.op, n->op, n->nr * sizeof(n->op[0]));
	base = may_hold(o, since, &all, 0);
	n->nr = 0;
	for (unsigned i = all.nr; i-- > 0;)    /* the youngest first: mostly it is that */
		if (may_hold(o, since, &all, all.op[i]->end))
			n->op[n->nr++] = all.op[i];
	return base;
}

/* Is all of [off, +len), within a sector, one of the allowed values? */
static bool check_whole(const struct oracle *o, const struct near *n, bool base, uint64_t off,
			const unsigned char *got, uint64_t len)
{
	unsigned char want[SECTOR];

	for (unsigned i = 0; i < n->nr; i++) {
		oracle_fill(n->op[i]->id, off, want, len < 8 ? len : 8);
		if (memcmp(got, want, len < 8 ? len : 8) != 0)
			continue;
		oracle_fill(n->op[i]->id, off, want, len);
		if (!memcmp(got, want, len))
			return true;
	}
	return base && !memcmp(got, o->base + off, len);
}

/* The index of the first byte that is none of the allowed ones; len: each is one of them. */
static uint64_t check_bytes(const struct oracle *o, const struct near *n, bool base, uint64_t off,
			    const unsigned char *got, uint64_t len)
{
	bool good[SECTOR];
	unsigned char want[SECTOR];
	uint64_t k;

	for (k = 0; k < len; k++)
		good[k] = base && got[k] == o->base[off + k];
	for (unsigned i = 0; i < n->nr; i++) {
		oracle_fill(n->op[i]->id, off, want, len);
		for (k = 0; k < len; k++)
			good[k] |= got[k] == want[k];
	}
	for (k = 0; k < len && good[k]; k++)
		;
	return k;
}

/* A range in which no change begins or ends: sectors are whole, parts of one are mixed. */
static bool check_range(const struct oracle *o, uint64_t since, uint64_t off, uint64_t end,
			const unsigned char *got, bool whole, uint64_t *bad)
{
	static struct near n;
	bool base;

	find_near(o, off, &n);
	base = keep_allowed(o, since, &n);
	for (*bad = off; off < end; *bad = off) {
		uint64_t part = SECTOR - off % SECTOR < end - off ? SECTOR - off % SECTOR : end - off;

		if (whole && !check_whole(o, &n, base, off, got, part))
			return false;
		if (!whole) {
			*bad = off + check_bytes(o, &n, base, off, got, part);
			if (*bad < off + part)
				return false;
		}
		off += part;
		got += part;
	}
	return true;
}

bool oracle_check(const struct oracle *o, uint64_t since, uint64_t off, const void *buf, uint64_t len,
		  uint64_t *bad)
{
	const unsigned char *p = buf;
	uint64_t pos = off, end = off + len;

	assert(end <= o->size);
	while (pos < end) {
		uint64_t stop = end, sector_end = (pos | (SECTOR - 1)) + 1;
		bool whole;

		cut(o, pos, &stop);
		if (sector_end > end)
			sector_end = end;
		/* up to the last whole sector before the cut; else the part up to it */
		whole = stop >= sector_end && (pos == off || !(pos % SECTOR));
		if (whole && stop < end)
			stop = stop / SECTOR * SECTOR;
		else if (!whole && stop > sector_end)
			stop = sector_end;
		if (!check_range(o, since, pos, stop, p + (pos - off), whole, bad))
			return false;
		pos = stop;
	}
	return true;
}

/* How many bytes of the sector at off are as in `want`, and from where on. */
static void print_match(const unsigned char *got, const unsigned char *want)
{
	unsigned n = 0, first = 0;

	for (unsigned i = SECTOR; i-- > 0;) {
		n += got[i] == want[i];
		first = got[i] == want[i] ? i : first;
	}
	printf("; %u bytes match, from %u on\n", n, first);
}

void oracle_explain(const struct oracle *o, uint64_t since, uint64_t off, const unsigned char *got)
{
	static struct near n;
	unsigned char want[SECTOR];

	find_near(o, off, &n);
	printf("  guest offset %" PRIu64 " reads %02x%02x%02x%02x; instant %" PRIu64 ", %s %" PRIu64 "\n", off,
	       got[0], got[1], got[2], got[3], o->now, since ? "read began at" : "flushed to",
	       since ? since : o->horizon);
	printf("  before all: %s", may_hold(o, since, &n, 0) ? "allowed" : "gone");
	print_match(got, o->base + off);
	for (unsigned i = 0; i < n.nr; i++) {
		const struct oracle_op *op = n.op[i];

		oracle_fill(op->id, off, want, SECTOR);
		printf("  change %u: [%" PRIu64 ", +%" PRIu64 ") from %" PRIu64 " to %" PRId64
		       " %s%s: %s", op->id, op->off, op->len, op->start,
		       (int64_t)op->end, op->sure ? "done" : "unsure", op->durable ? " durable" : "",
		       may_hold(o, since, &n, op->end) ? "allowed" : "gone");
		print_match(got, want);
	}
}

void oracle_rebase(struct oracle *o, const void *disk)
{
	memcpy(o->base, disk, o->size);
	o->nr_ops = 0;
	o->now = 0;
	o->horizon = 0;
}

void oracle_resize(struct oracle *o, uint64_t size)
{
	assert(!o->nr_ops && size <= ORACLE_DISK_MAX);
	if (size < o->size)
		memset(o->base + size, 0, o->size - size);
	o->size = size;
}
