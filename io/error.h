/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * error.h - one sentence for the person who must act on a failure.
 *
 * Functions return 0 (or a count) or -errno. Where a person must read the
 * reason, the caller passes a struct error that the failing function fills
 * with ONE line: the object, the fault and the remedy, with names and numbers,
 * no trailing newline and no full stop. The first failure wins: the function
 * nearest to the fault words it; callers add context only with error_prefix().
 */
#ifndef QCHAIN_IO_ERROR_H
#define QCHAIN_IO_ERROR_H

#define ERROR_MSG_MAX 2048

struct error {
	int code;                 /* positive errno; 0 = nothing reported yet */
	char msg[ERROR_MSG_MAX];  /* always terminated; "" when code is 0 */
};

#define ERROR_INIT { 0, "" }

/*
 * Fills *e (which may be NULL: then nothing is recorded) and returns -err.
 * err is a positive errno. Over-long text is cut, never overrun.
 */
int error_set(struct error *e, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* As error_set(), and appends ": " and the text of err (strerror). */
int error_set_errno(struct error *e, int err, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before a message that is already there. */
void error_prefix(struct error *e, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif
