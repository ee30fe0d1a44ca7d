/* SPDX-License-Identifier: GPL-2.0-or-later */
/* json_split.c - see json_split.h. */
#include "tools/json_split.h"

#include <string.h>

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static bool ends_scalar(char c)
{
	return is_space(c) || strchr("{}[],:\"", c);
}

/* Inside a string: true when the value ends here; *broken when it cannot go on. */
static bool string_byte(struct json_split *s, char c, bool *broken)
{
	if ((unsigned char)c < 0x20) {
		*broken = true;
		return false;
	}
	if (s->escape)
		s->escape = false;
	else if (c == '\\')
		s->escape = true;
	else if (c == '"')
		s->in_string = false;
	return !s->in_string && s->depth == 0;
}

/* Outside of strings; true when the value ends with this byte. */
static bool plain_byte(struct json_split *s, char c)
{
	switch (c) {
	case '"':
		s->in_string = true;
		return false;
	case '{':
	case '[':
		if (++s->depth > s->deepest)
			s->deepest = s->depth;
		return false;
	case '}':
	case ']':
		if (s->depth)
			s->depth--;
		return s->depth == 0;
	case ',':
	case ':':
		return s->depth == 0;
	default:
		s->scalar = s->depth == 0;
		return false;
	}
}

enum json_split_result json_split(struct json_split *s, const char *buf, size_t len, bool at_end)
{
	bool broken = false;

	while (s->pos < len) {
		char c = buf[s->pos];

		if (s->scalar && ends_scalar(c))
			return JSON_SPLIT_VALUE;
		s->pos++;
		if (s->in_string) {
			if (string_byte(s, c, &broken))
				return JSON_SPLIT_VALUE;
			if (broken)
				return JSON_SPLIT_BROKEN;
			continue;
		}
		if (is_space(c) || s->scalar)
			continue;
		if (plain_byte(s, c))
			return JSON_SPLIT_VALUE;
	}
	return s->scalar && at_end ? JSON_SPLIT_VALUE : JSON_SPLIT_MORE;
}
