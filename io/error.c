// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * error.c - fills struct error. The first report wins; text is cut, never overrun.
 */
#include "io/error.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* One line only: whatever a file name may contain, a log line stays a line. */
static void one_line(char *s)
{
	for (; *s; s++)
		if (*s == '\n' || *s == '\r')
			*s = ' ';
}

static void fill(struct error *e, int err, const char *fmt, va_list ap)
{
	e->code = err;
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	one_line(e->msg);
}

int error_set(struct error *e, int err, const char *fmt, ...)
{
	va_list ap;

	assert(err > 0);
	if (!e || e->code)
		return -err;
	va_start(ap, fmt);
	fill(e, err, fmt, ap);
	va_end(ap);
	return -err;
}

int error_set_errno(struct error *e, int err, const char *fmt, ...)
{
	char text[128];
	size_t used;
	va_list ap;

	assert(err > 0);
	if (!e || e->code)
		return -err;
	va_start(ap, fmt);
	fill(e, err, fmt, ap);
	va_end(ap);
	used = strlen(e->msg);
	snprintf(e->msg + used, sizeof(e->msg) - used, ": %s",
		 strerror_r(err, text, sizeof(text)));
	return -err;
}

void error_prefix(struct error *e, const char *fmt, ...)
{
	char prefix[ERROR_MSG_MAX / 2];
	size_t plen, mlen;
	va_list ap;

	if (!e || !e->code)
		return;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof(prefix) - 2, fmt, ap);
	va_end(ap);
	one_line(prefix);
	strcat(prefix, ": ");
	plen = strlen(prefix);
	mlen = strlen(e->msg);
	if (plen + mlen >= sizeof(e->msg))
		mlen = sizeof(e->msg) - 1 - plen;
	memmove(e->msg + plen, e->msg, mlen);
	memcpy(e->msg, prefix, plen);
	e->msg[plen + mlen] = '\0';
}
