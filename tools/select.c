/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * select.c - the expressions of --select.
 *
 *	or    = and { "||" and }
 *	and   = unary { "&&" unary }
 *	unary = "!" unary | "(" or ")" | column op value
 *	op    = "=" "!=" "<" "<=" ">" ">=" "=~" "!~"
 *
 * A value is a word, or anything between quotes. Sizes may carry a unit.
 */
#include <errno.h>
#include <regex.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tools/report.h"
#include "tools/size.h"

#define DEPTH_MAX 64

struct parse {
	const struct report_def *def;
	const json_t *row;             /* NULL: only the grammar is looked at */
	const char *at;
	char *why;
	size_t why_len;
	unsigned depth;
};

enum op { OP_EQ, OP_NE, OP_LT, OP_LE, OP_GT, OP_GE, OP_MATCH, OP_NOMATCH };

static int wrong(struct parse *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static int wrong(struct parse *p, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->why, p->why_len, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static void skip_space(struct parse *p)
{
	p->at += strspn(p->at, " \t\n");
}

static bool take(struct parse *p, const char *token)
{
	skip_space(p);
	if (strncmp(p->at, token, strlen(token)))
		return false;
	p->at += strlen(token);
	return true;
}

static int take_op(struct parse *p, enum op *op)
{
	static const struct { const char *text; enum op op; } ops[] = {
		{ "=~", OP_MATCH }, { "!~", OP_NOMATCH }, { "!=", OP_NE }, { "<=", OP_LE },
		{ ">=", OP_GE }, { "==", OP_EQ }, { "=", OP_EQ }, { "<", OP_LT }, { ">", OP_GT },
	};

	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		if (take(p, ops[i].text)) {
			*op = ops[i].op;
			return 0;
		}
	}
	return wrong(p, "an operator (= != < <= > >= =~ !~) is missing before '%.20s'", p->at);
}

static int take_value(struct parse *p, char *value, size_t len)
{
	size_t n;
	char quote;

	skip_space(p);
	quote = *p->at == '\'' || *p->at == '"' ? *p->at : '\0';
	if (quote) {
		const char *end = strchr(++p->at, quote);

		if (!end)
			return wrong(p, "a closing %c is missing", quote);
		n = (size_t)(end - p->at);
	} else {
		n = 0;
		while (p->at[n] && !strchr(" \t\n", p->at[n]) && strncmp(p->at + n, "&&", 2) &&
		       strncmp(p->at + n, "||", 2) && !(p->at[n] == ')' && p->depth))
			n++;
		if (!n)
			return wrong(p, "a value is missing");
	}
	if (n >= len)
		return wrong(p, "a value is longer than %zu characters", len - 1);
	memcpy(value, p->at, n);
	value[n] = '\0';
	p->at += n + (quote != 0);
	return 0;
}

static int apply_order(enum op op, int order)
{
	switch (op) {
	case OP_EQ: return order == 0;
	case OP_NE: return order != 0;
	case OP_LT: return order < 0;
	case OP_LE: return order <= 0;
	case OP_GT: return order > 0;
	default:    return order >= 0;
	}
}

static int compare_regex(struct parse *p, enum op op, const char *text, const char *pattern)
{
	regex_t re;
	int hit;

	if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB))
		return wrong(p, "'%s' is not a regular expression", pattern);
	hit = regexec(&re, text, 0, NULL, 0) == 0;
	regfree(&re);
	return op == OP_MATCH ? hit : !hit;
}

static int compare(struct parse *p, const struct report_column *c, enum op op, const char *value)
{
	const json_t *v = p->row ? report_value(c, p->row) : NULL;
	const char *text = json_string_value(v);
	uint64_t want = 0, have = (uint64_t)json_integer_value(v);

	if (c->type == COL_BOOL)
		text = json_is_true(v) ? "yes" : "no";
	if (!text)
		text = "";
	if (op == OP_MATCH || op == OP_NOMATCH) {
		if (c->type == COL_NUMBER || c->type == COL_SIZE)
			return wrong(p, "column '%s' is a number: =~ and !~ compare text", c->id);
		return compare_regex(p, op, text, value);
	}
	if (c->type == COL_TEXT || c->type == COL_BOOL)
		return apply_order(op, strcmp(text, value));
	if (size_parse(value, 1, &want) < 0)
		return wrong(p, "column '%s' is a number and '%s' is not", c->id, value);
	if (p->row && !v)              /* unknown is neither larger nor smaller nor equal */
		return op == OP_NE;
	return apply_order(op, (have > want) - (have < want));
}

static int parse_comparison(struct parse *p)
{
	const struct report_column *c;
	char value[512];
	size_t len;
	enum op op = OP_EQ;
	int ret;

	skip_space(p);
	len = strspn(p->at, "abcdefghijklmnopqrstuvwxyz_");
	if (!len)
		return wrong(p, *p->at ? "a column is missing before '%.20s'" : "it ends where a column should be%.0s",
			     p->at);
	c = report_column_find(p->def, p->at, len);
	if (!c)
		return wrong(p, "there is no column '%.*s' ('-o help' lists them)", (int)len, p->at);
	p->at += len;
	ret = take_op(p, &op);
	if (!ret)
		ret = take_value(p, value, sizeof(value));
	return ret ? ret : compare(p, c, op, value);
}

static int parse_or(struct parse *p);

static int parse_unary(struct parse *p)
{
	int ret;

	if (p->depth >= DEPTH_MAX)
		return wrong(p, "it is nested too deeply");
	if (take(p, "!")) {
		p->depth++;
		ret = parse_unary(p);
		p->depth--;
		return ret < 0 ? ret : !ret;
	}
	if (!take(p, "("))
		return parse_comparison(p);
	p->depth++;
	ret = parse_or(p);
	p->depth--;
	if (ret >= 0 && !take(p, ")"))
		return wrong(p, "a closing ) is missing");
	return ret;
}

static int parse_and(struct parse *p)
{
	int all = parse_unary(p);

	while (all >= 0 && take(p, "&&")) {
		int next = parse_unary(p);

		all = next < 0 ? next : all && next;
	}
	return all;
}

static int parse_or(struct parse *p)
{
	int any = parse_and(p);

	while (any >= 0 && take(p, "||")) {
		int next = parse_and(p);

		any = next < 0 ? next : any || next;
	}
	return any;
}

int report_select(const struct report_def *def, const char *expression, const json_t *row,
		  char *why, size_t why_len)
{
	struct parse p = { .def = def, .row = row, .at = expression, .why = why, .why_len = why_len };
	int ret = parse_or(&p);

	skip_space(&p);
	if (ret >= 0 && *p.at)
		return wrong(&p, "'%.20s' is not understood; join conditions with && or ||", p.at);
	return ret;
}
