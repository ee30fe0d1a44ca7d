/* SPDX-License-Identifier: GPL-2.0-or-later */
/* size.c - see size.h. Whole numbers are exact to 2^63-1; only fractions go through floating point. */
#include "tools/size.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int suffix_factor(const char *s, uint64_t unit, uint64_t *factor)
{
	static const char letters[] = "bkmgtpe";
	const char *at;

	if (!*s) {
		*factor = unit;
		return 0;
	}
	at = strchr(letters, tolower((unsigned char)*s));
	if (!at || s[1])
		return -EINVAL;
	*factor = 1ull << (10 * (at - letters));
	return 0;
}

int size_parse(const char *s, uint64_t unit, uint64_t *out)
{
	uint64_t whole, factor;
	double fraction = 0;
	char *end;
	int ret;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	whole = strtoull(s, &end, 0);
	if (errno)
		return -ERANGE;
	if (*end == '.') {
		if (!isdigit((unsigned char)end[1]))
			return -EINVAL;
		fraction = strtod(end, &end);
	}
	ret = suffix_factor(end, unit, &factor);
	if (ret < 0)
		return ret;
	if (fraction != 0 && factor == 1)
		return -EINVAL;
	if (whole > (uint64_t)INT64_MAX / factor)
		return -ERANGE;
	whole = whole * factor + (uint64_t)(fraction * (double)factor);
	if (whole > (uint64_t)INT64_MAX)
		return -ERANGE;
	*out = whole;
	return 0;
}

char *size_human(uint64_t bytes, char *buf, size_t len)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned i = 0;
	double v = (double)bytes;

	/* 999.5 would round to a fourth digit: step up first. */
	while (i + 1 < sizeof(units) / sizeof(units[0]) && v >= 999.5) {
		v /= 1024;
		i++;
	}
	snprintf(buf, len, "%0.3g %s", v, units[i]);
	return buf;
}
