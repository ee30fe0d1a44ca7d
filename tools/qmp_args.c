/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp_args.c - arguments of a QMP command against its table, with the messages QEMU's clients know. */
#include "tools/qmp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

json_t *qmp_fail(struct qmp_call *call, enum qmp_class cls, const char *fmt, ...)
{
	char text[ERROR_MSG_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	call->error_class = cls;
	error_set(&call->error, EINVAL, "%s", text);
	return NULL;
}

static bool has_type(const json_t *v, enum qmp_type type)
{
	switch (type) {
	case QMP_STR:
	case QMP_ENUM:
		return json_is_string(v);
	case QMP_INT:
		return json_is_integer(v);
	case QMP_NUMBER:
		return json_is_number(v);
	case QMP_BOOL:
		return json_is_boolean(v);
	case QMP_OBJECT:
		return json_is_object(v);
	case QMP_ARRAY:
		return json_is_array(v);
	case QMP_ANY:
		return true;
	}
	return false;
}

static const char *type_name(enum qmp_type type)
{
	static const char *const names[] = {
		[QMP_STR] = "string", [QMP_INT] = "integer", [QMP_NUMBER] = "number",
		[QMP_BOOL] = "boolean", [QMP_ENUM] = "string", [QMP_OBJECT] = "object",
		[QMP_ARRAY] = "array", [QMP_ANY] = "any",
	};

	return names[type];
}

static bool arg_check(struct qmp_call *call, const json_t *args, const struct qmp_arg *a,
		      const char *prefix)
{
	const json_t *v = json_object_get(args, a->name);

	if (!v) {
		if (!a->optional)
			qmp_fail(call, QMP_GENERIC, "Parameter '%s%s' is missing", prefix, a->name);
		return a->optional;
	}
	if (!has_type(v, a->type)) {
		qmp_fail(call, QMP_GENERIC, "Invalid parameter type for '%s%s', expected: %s", prefix,
			 a->name, type_name(a->type));
		return false;
	}
	if (a->type == QMP_ENUM) {
		for (const char *const *w = a->values; *w; w++)
			if (!strcmp(*w, json_string_value(v)))
				return true;
		qmp_fail(call, QMP_GENERIC, "Parameter '%s%s' does not accept value '%s'", prefix,
			 a->name, json_string_value(v));
		return false;
	}
	return true;
}

bool qmp_args_check(struct qmp_call *call, const json_t *args, const struct qmp_arg *table,
		    const char *prefix)
{
	const char *key;
	json_t *v;

	for (const struct qmp_arg *a = table; a && a->name; a++)
		if (!arg_check(call, args, a, prefix))
			return false;
	json_object_foreach((json_t *)args, key, v) {
		const struct qmp_arg *a = table;

		while (a && a->name && strcmp(a->name, key))
			a++;
		if (!a || !a->name) {
			qmp_fail(call, QMP_GENERIC, "Parameter '%s%s' is unexpected", prefix, key);
			return false;
		}
	}
	return true;
}

const char *qmp_arg_str(const struct qmp_call *call, const char *name)
{
	return json_string_value(json_object_get(call->args, name));
}

bool qmp_arg_bool(const struct qmp_call *call, const char *name, bool absent)
{
	const json_t *v = json_object_get(call->args, name);

	return v ? json_is_true(v) : absent;
}

json_int_t qmp_arg_int(const struct qmp_call *call, const char *name, json_int_t absent)
{
	const json_t *v = json_object_get(call->args, name);

	return v ? json_integer_value(v) : absent;
}
