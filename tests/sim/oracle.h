/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * oracle.h - what a guest may read, now and after a crash.
 *
 * The oracle logs every change with the instants at which it began and ended. A value is
 * forbidden when a later change certainly replaced it: one that began after it had ended and
 * that ended, for a read, before the read began; after a crash, before a completed flush
 * began (or that was FUA). Everything else is allowed: changes side by side come in any order,
 * one that failed may have happened or not, by sector.
 *
 * It lives in memory that is shared with the processes that crash.
 */
#ifndef QCHAIN_TESTS_SIM_ORACLE_H
#define QCHAIN_TESTS_SIM_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ORACLE_DISK_MAX (16u << 20)
#define ORACLE_OPS_MAX 4096u

struct oracle_op {
	uint64_t off, len;
	uint64_t start, end;       /* instants; end is ORACLE_NEVER while it runs */
	uint32_t id;               /* says which bytes it wrote; 0: zeros */
	bool sure;                 /* ended well: what it replaced is gone */
	bool durable;              /* by itself (FUA) */
};
#define ORACLE_NEVER UINT64_MAX

struct oracle {
	uint64_t size;
	uint64_t now;              /* the last instant */
	uint64_t horizon;          /* the latest start of a completed flush */
	uint32_t last_id;
	uint32_t nr_ops;
	uint64_t nr_bytes_checked;
	struct oracle_op ops[ORACLE_OPS_MAX];
	unsigned char base[ORACLE_DISK_MAX];   /* the disk before all of ops */
};

/* A change begins: its number in ops[]. Its bytes: oracle_fill() (id) or zeros. */
unsigned oracle_begin(struct oracle *o, uint64_t off, uint64_t len, bool zeros);
void oracle_fill(uint32_t id, uint64_t off, void *buf, uint64_t len);
void oracle_end(struct oracle *o, unsigned op, bool sure, bool durable);
uint64_t oracle_instant(struct oracle *o);
/* A flush that began then has completed. */
void oracle_flushed(struct oracle *o, uint64_t start);

/*
 * Holds what a read gave against what is allowed. `since`: when it began; 0: the first
 * read after a crash. False, and *bad the guest offset, for bytes that cannot be.
 */
bool oracle_check(const struct oracle *o, uint64_t since, uint64_t off, const void *buf, uint64_t len,
		  uint64_t *bad);
/* Says on stdout what would have been allowed at a sector; got: all of it. */
void oracle_explain(const struct oracle *o, uint64_t since, uint64_t off, const unsigned char *got);
/* All that was read after a crash becomes the new base; the log begins anew. */
void oracle_rebase(struct oracle *o, const void *disk);
/* The disk gets another size: zeros are new. */
void oracle_resize(struct oracle *o, uint64_t size);

#endif
