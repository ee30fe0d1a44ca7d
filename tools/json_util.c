/* SPDX-License-Identifier: GPL-2.0-or-later */
/* json_util.c - see json_util.h. */
#include "tools/json_util.h"

#include <stdlib.h>
#include <string.h>

/* Length of the well-formed UTF-8 sequence at s, 0 if there is none (overlong, surrogate, cut). */
static size_t utf8_len(const unsigned char *s)
{
	unsigned lead = s[0];
	size_t n = lead < 0x80 ? 1 : lead >= 0xc2 && lead < 0xe0 ? 2 : (lead & 0xf0) == 0xe0 ? 3
		 : lead >= 0xf0 && lead < 0xf5 ? 4 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((lead == 0xe0 && s[1] < 0xa0) || (lead == 0xed && s[1] >= 0xa0) ||
	    (lead == 0xf0 && s[1] < 0x90) || (lead == 0xf4 && s[1] >= 0x90))
		return 0;
	return n;
}

json_t *json_text(const char *bytes)
{
	json_t *v;
	char *clean, *to;

	if (!bytes)
		return json_null();
	v = json_string(bytes);
	if (v)
		return v;
	clean = to = malloc(3 * strlen(bytes) + 1);
	if (!clean)
		abort();
	while (*bytes) {
		size_t n = utf8_len((const unsigned char *)bytes);

		memcpy(to, n ? bytes : "\xef\xbf\xbd", n ? n : 3);
		to += n ? n : 3;
		bytes += n ? n : 1;
	}
	*to = '\0';
	v = json_string(clean);
	free(clean);
	return v;
}

void put(json_t *object, const char *key, json_t *value)
{
	if (!value || json_object_set_new(object, key, value) < 0)
		abort();
}

void put_text(json_t *object, const char *key, const char *text)
{
	if (text)
		put(object, key, json_text(text));
}

void put_int(json_t *object, const char *key, uint64_t value)
{
	put(object, key, json_integer((json_int_t)value));
}

void put_bool(json_t *object, const char *key, bool value)
{
	put(object, key, json_boolean(value));
}

const char *get_text(const json_t *object, const char *key)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s ? s : "";
}

uint64_t get_int(const json_t *object, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(object, key));
}

bool get_bool(const json_t *object, const char *key)
{
	return json_is_true(json_object_get(object, key));
}
