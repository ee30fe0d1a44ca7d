/* SPDX-License-Identifier: GPL-2.0-or-later */
/* check_priv.h - private to the check: the counts of one run, shared by check*.c. */
#ifndef QCHAIN_QCOW_CHECK_PRIV_H
#define QCHAIN_QCOW_CHECK_PRIV_H

#include "qcow/check.h"
#include "qcow/tables.h"

struct check {
	struct qcow2 *q;
	unsigned fix;
	struct check_result *res;
	void (*report)(void *arg, const char *line);
	void *arg;

	uint64_t file_len;
	uint64_t nr_clusters;           /* host clusters in the file, rounded up */
	uint32_t *refs;                 /* references counted */
	uint32_t *stored;               /* refcounts as stored, cut at UINT32_MAX; while counting: uses of
	                                   the cluster as an L2 table */
	uint64_t table_bytes;           /* of L1 and bitmap tables followed: see check_followable() */
	uint64_t *reft;                 /* refcount table, host endian */
	uint64_t reft_entries;
	bool rebuild;                   /* the refcount structures themselves are of no use */
	bool count_refcounts;           /* count the refcount structures' own clusters */
	bool quiet;
};

void check_say(struct check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A corruption that stays. */
#define check_corrupt(c, ...)                   \
	do {                                    \
		check_say(c, __VA_ARGS__);      \
		(c)->res->corruptions++;        \
	} while (0)

/* Adds a reference to every cluster of [off, +len); what lies beyond the file is a corruption. */
void check_ref(struct check *c, uint64_t off, uint64_t len);
/* As check_ref(), nr references, without a word. */
void check_ref_more(struct check *c, uint64_t off, uint64_t len, uint32_t nr);
/*
 * Tables that do not overlap are together no longer than the file. A damaged image may name one place
 * ten thousand times, and the check must end: beyond that they are a corruption, and false is returned.
 */
bool check_followable(struct check *c, uint64_t off, uint64_t len);

/* check_refs.c: counts all references from the header down. */
int co_check_count(struct check *c);
/* check_tables.c: what snapshots and bitmaps refer to. */
int co_check_snapshots(struct check *c);
int co_check_bitmaps(struct check *c);
/* check_refs.c: one L1 table and all below it; `active`: the counts of the report are taken too. */
int co_check_l1(struct check *c, uint64_t l1_off, uint32_t l1_size, bool active);

/* check_fix.c: compares stored and counted refcounts, repairs what c->fix allows. */
int co_check_compare(struct check *c);
/* OFLAG_COPIED of the active tables against the stored refcounts. */
int co_check_copied(struct check *c);
/* check_rebuild.c: writes new refcount structures from the counts (made without count_refcounts). */
int co_check_rebuild(struct check *c, struct error *e);

#endif
