// SPDX-License-Identifier: GPL-2.0-or-later
/* oracle.c - see oracle.h for the rule; here it is worked out sector by sector. */
#include "oracle.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define SECTOR 512u
#define NEAR_MAX 512u      /* changes that overlap one sector */

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

/* The changes that touch a sector. */
struct near {
	const struct oracle_op *op[NEAR_MAX];
	unsigned nr;
	bool whole;        /* each covers all that is asked about */
};

static void find_near(const struct oracle *o, uint64_t off, uint64_t len, struct near *n)
{
	n->nr = 0;
	n->whole = true;
	for (uint32_t i = 0; i < o->nr_ops; i++) {
		const struct oracle_op *op = &o->ops[i];

		if (op->off >= off + len || op->off + op->len <= off)
			continue;
		assert(n->nr < NEAR_MAX);
		n->op[n->nr++] = op;
		if (op->off > off || op->off + op->len < off + len)
			n->whole = false;
	}
}

/* Did `later` replace, for sure, a value that had come at `end`? */
static bool replaces(const struct oracle *o, uint64_t since, const struct oracle_op *later, uint64_t end)
{
	if (!later->sure || later->start <= end)
		return false;
	return since ? later->end < since : later->durable || later->end < o->horizon;
}

static bool covers(const struct oracle_op *op, uint64_t off, uint64_t len)
{
	return op->off <= off && op->off + op->len >= off + len;
}

/* May [off, +len), within a sector, hold what came at `end`? */
static bool may_hold(const struct oracle *o, uint64_t since, const struct near *n, uint64_t off,
		     uint64_t len, uint64_t end)
{
	for (unsigned i = 0; i < n->nr; i++)
		if (covers(n->op[i], off, len) && replaces(o, since, n->op[i], end))
			return false;
	return true;
}

/* One of the allowed values, as a whole? */
static bool check_piece(const struct oracle *o, uint64_t since, const struct near *n, uint64_t off,
			const unsigned char *got, uint64_t len)
{
	unsigned char want[SECTOR];

	if (!memcmp(got, o->base + off, len) && may_hold(o, since, n, off, len, 0))
		return true;
	for (unsigned i = 0; i < n->nr; i++) {
		if (!covers(n->op[i], off, len))
			continue;
		oracle_fill(n->op[i]->id, off, want, len);
		if (!memcmp(got, want, len) && may_hold(o, since, n, off, len, n->op[i]->end))
			return true;
	}
	return false;
}

bool oracle_check(const struct oracle *o, uint64_t since, uint64_t off, const void *buf, uint64_t len,
		  uint64_t *bad)
{
	const unsigned char *p = buf;
	struct near n;

	assert(off + len <= o->size);
	while (len) {
		uint64_t part = SECTOR - off % SECTOR < len ? SECTOR - off % SECTOR : len;

		find_near(o, off, part, &n);
		*bad = off;
		if (n.whole) {
			if (!check_piece(o, since, &n, off, p, part))
				return false;
		} else {
			for (uint64_t i = 0; i < part; i++, (*bad)++)
				if (!check_piece(o, since, &n, off + i, p + i, 1))
					return false;
		}
		off += part;
		p += part;
		len -= part;
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
	struct near n;
	unsigned char want[SECTOR];

	find_near(o, off, SECTOR, &n);
	printf("  guest offset %" PRIu64 " reads %02x%02x%02x%02x; instant %" PRIu64 ", %s %" PRIu64 "\n", off,
	       got[0], got[1], got[2], got[3], o->now, since ? "read began at" : "flushed to",
	       since ? since : o->horizon);
	printf("  before all: %s", may_hold(o, since, &n, off, 1, 0) ? "allowed" : "gone");
	print_match(got, o->base + off);
	for (unsigned i = 0; i < n.nr; i++) {
		const struct oracle_op *op = n.op[i];

		oracle_fill(op->id, off, want, SECTOR);
		printf("  change %u: [%" PRIu64 ", +%" PRIu64 ") from %" PRIu64 " to %" PRId64
		       " %s%s: %s", op->id, op->off, op->len, op->start,
		       (int64_t)op->end, op->sure ? "done" : "unsure", op->durable ? " durable" : "",
		       may_hold(o, since, &n, off, 1, op->end) ? "allowed" : "gone");
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
