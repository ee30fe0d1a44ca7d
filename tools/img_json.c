// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_json.c - JSON laid out byte for byte as qemu-img lays it out, and the same
 * trees for people: keys with blanks for dashes, four blanks a level.
 */
#include <stdlib.h>
#include <string.h>

#include "tools/img_common.h"

static void indent_line(int depth, FILE *f)
{
	fprintf(f, "%*s", 4 * depth, "");
}

static void scalar_print(const json_t *v, FILE *f)
{
	char *s = json_dumps(v, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);

	if (!s)
		abort();
	fputs(s, f);
	free(s);
}

static void object_print(const json_t *v, int depth, FILE *f)
{
	const char *key, *comma = "";
	json_t *member;

	fputs("{\n", f);
	json_object_foreach((json_t *)v, key, member) {
		json_t *name = json_string(key);

		fputs(comma, f);
		comma = ",\n";
		indent_line(depth + 1, f);
		scalar_print(name, f);
		json_decref(name);
		fputs(": ", f);
		img_json_print(member, depth + 1, f);
	}
	if (*comma)
		fputc('\n', f);
	indent_line(depth, f);
	fputc('}', f);
}

static void array_print(const json_t *v, int depth, FILE *f)
{
	fputs("[\n", f);
	for (size_t i = 0; i < json_array_size(v); i++) {
		indent_line(depth + 1, f);
		img_json_print(json_array_get(v, i), depth + 1, f);
		fputs(i + 1 < json_array_size(v) ? ",\n" : "\n", f);
	}
	indent_line(depth, f);
	fputc(']', f);
}

void img_json_print(const json_t *v, int depth, FILE *f)
{
	if (json_is_object(v))
		object_print(v, depth, f);
	else if (json_is_array(v))
		array_print(v, depth, f);
	else
		scalar_print(v, f);
}

static void human_value(const json_t *v, int indent, FILE *f)
{
	if (json_is_object(v) || json_is_array(v)) {
		fputc('\n', f);
		img_human_print(v, indent + 1, f);
	} else if (json_is_string(v)) {
		fprintf(f, " %s\n", json_string_value(v));
	} else if (json_is_integer(v)) {
		fprintf(f, " %" JSON_INTEGER_FORMAT "\n", json_integer_value(v));
	} else {
		fprintf(f, " %s\n", json_is_true(v) ? "true" : "false");
	}
}

static void human_key(const char *key, FILE *f)
{
	for (; *key; key++)
		fputc(*key == '-' ? ' ' : *key, f);
	fputc(':', f);
}

void img_human_print(const json_t *v, int indent, FILE *f)
{
	const char *key;
	json_t *member;
	size_t i;

	if (json_is_object(v)) {
		json_object_foreach((json_t *)v, key, member) {
			indent_line(indent, f);
			human_key(key, f);
			human_value(member, indent, f);
		}
		return;
	}
	json_array_foreach(v, i, member) {
		indent_line(indent, f);
		fprintf(f, "[%zu]:", i);
		human_value(member, indent, f);
	}
}
