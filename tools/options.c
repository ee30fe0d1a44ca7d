/* SPDX-License-Identifier: GPL-2.0-or-later */
/* options.c - see options.h. Options and operands may be mixed; "--" ends the options. */
#include "tools/options.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/applet.h"
#include "tools/size.h"

int usage_error(const struct command_def *def, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s: ", def->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see '%s --help'\n", def->name);
	return EXIT_USAGE;
}

char *operands_text(const struct command_def *def, char *buf, size_t len)
{
	size_t at = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < def->nr_operands && at < len; i++) {
		const struct operand_def *p = &def->operands[i];

		at += (size_t)snprintf(buf + at, len - at, "%s%s%s%s%s", i ? " " : "",
				       p->optional ? "[" : "", p->name, p->optional ? "]" : "",
				       p->repeat ? "..." : "");
	}
	return buf;
}

static void option_text(const struct option_def *d, char *buf, size_t len)
{
	char letter[8] = "    ";

	if (d->letter)
		snprintf(letter, sizeof(letter), "-%c, ", d->letter);
	snprintf(buf, len, "%s--%s%s%s", letter, d->name, d->arg ? " " : "", d->arg ? d->arg : "");
}

void options_help(const struct command_def *def, FILE *f)
{
	char text[128];
	int width = 13;

	fprintf(f, "Usage: %s%s %s\n", def->name, def->nr_opts ? " [OPTION]..." : "",
		operands_text(def, text, sizeof(text)));
	fprintf(f, "%s: %s.\n\n", def->name, def->summary);
	for (unsigned i = 0; i < def->nr_opts; i++) {
		option_text(&def->opts[i], text, sizeof(text));
		if ((int)strlen(text) > width)
			width = (int)strlen(text);
	}
	for (unsigned i = 0; i < def->nr_opts; i++) {
		const struct option_def *d = &def->opts[i];

		option_text(d, text, sizeof(text));
		fprintf(f, "  %-*s  %s", width, text, d->help);
		if (d->type == OPT_CHOICE)
			fprintf(f, " (%s)", d->values);
		fputc('\n', f);
	}
	fprintf(f, "  %-*s  %s\n", width, "-h, --help", "show this help and exit");
	fprintf(f, "  %-*s  %s\n", width, "    --version", "show the version and exit");
}

/* The place of `word` (len bytes) in "a|b|c", or -1. */
static int choice_index(const char *values, const char *word)
{
	size_t len = strlen(word);
	const char *at = values;

	for (int i = 0; *at; i++) {
		size_t n = strcspn(at, "|");

		if (n == len && !memcmp(at, word, n))
			return i;
		at += n + (at[n] == '|');
	}
	return -1;
}

static int value_check(const struct command_def *def, const struct option_def *d,
		       const char *shown, struct opt_value *v)
{
	char *end;
	int ret;

	switch (d->type) {
	case OPT_SIZE:
		ret = size_parse(v->str, 1, &v->num);
		if (ret == -ERANGE)
			return usage_error(def, "option '%s': '%s' is too large", shown, v->str);
		if (ret < 0)
			return usage_error(def, "option '%s': '%s' is not a size (such as 512M or 1.5G)",
					   shown, v->str);
		return -1;
	case OPT_NUMBER:
		errno = 0;
		v->num = strtoull(v->str, &end, 10);
		if (errno || *end || end == v->str || v->str[0] == '-' || v->num > INT32_MAX)
			return usage_error(def, "option '%s': '%s' is not a number", shown, v->str);
		return -1;
	case OPT_CHOICE:
		ret = choice_index(d->values, v->str);
		if (ret < 0)
			return usage_error(def, "option '%s': '%s' is none of %s", shown, v->str,
					   d->values);
		v->num = (uint64_t)ret;
		return -1;
	default:
		if (!v->str[0] && d->type != OPT_STRING && d->type != OPT_COLUMNS)
			return usage_error(def, "option '%s': the argument is empty", shown);
		return -1;
	}
}

static int value_take(struct options *o, unsigned i, const char *shown, const char *arg)
{
	const struct option_def *d = &o->def->opts[i];
	struct opt_value *v = &o->v[i];
	char *joined = NULL;

	v->count++;
	if (d->type == OPT_FLAG)
		return -1;
	if (d->repeat && v->str) {
		if (asprintf(&joined, "%s,%s", v->str, arg) < 0)
			abort();
		free(v->str);
		v->str = joined;
	} else {
		free(v->str);
		v->str = strdup(arg);
		if (!v->str)
			abort();
	}
	return value_check(o->def, d, shown, v);
}

static int help_or_version(const struct command_def *def, const char *word)
{
	if (!strcmp(word, "--help") || !strcmp(word, "-h")) {
		options_help(def, stdout);
		return EXIT_DONE;
	}
	if (!strcmp(word, "--version")) {
		printf("%s (qchain) %s\n", def->name, QCHAIN_VERSION);
		return EXIT_DONE;
	}
	return -1;
}

/* "--name", "--name=value", "--name value"; *at moves past what was used. */
static int parse_long(struct options *o, int argc, char **argv, int *at)
{
	const struct command_def *def = o->def;
	const char *word = argv[*at] + 2;
	size_t len = strcspn(word, "=");
	char shown[64];

	snprintf(shown, sizeof(shown), "--%.*s", (int)len, word);
	for (unsigned i = 0; i < def->nr_opts; i++) {
		const struct option_def *d = &def->opts[i];

		if (strlen(d->name) != len || memcmp(d->name, word, len))
			continue;
		++*at;
		if (d->type == OPT_FLAG) {
			if (word[len] == '=')
				return usage_error(def, "option '%s' takes no argument", shown);
			return value_take(o, i, shown, NULL);
		}
		if (word[len] == '=')
			return value_take(o, i, shown, word + len + 1);
		if (*at >= argc)
			return usage_error(def, "option '%s' needs an argument", shown);
		return value_take(o, i, shown, argv[(*at)++]);
	}
	return usage_error(def, "unknown option '%s'", shown);
}

/* "-yf", "-L1G", "-L 1G". */
static int parse_short(struct options *o, int argc, char **argv, int *at)
{
	const struct command_def *def = o->def;
	const char *c = argv[(*at)++] + 1;

	for (; *c; c++) {
		char shown[3] = { '-', *c, '\0' };
		unsigned i = 0;
		int ret;

		while (i < def->nr_opts && def->opts[i].letter != *c)
			i++;
		if (i == def->nr_opts)
			return usage_error(def, "unknown option '%s'", shown);
		if (def->opts[i].type == OPT_FLAG) {
			ret = value_take(o, i, shown, NULL);
			if (ret >= 0)
				return ret;
			continue;
		}
		if (c[1])
			return value_take(o, i, shown, c + 1);
		if (*at >= argc)
			return usage_error(def, "option '%s' needs an argument", shown);
		return value_take(o, i, shown, argv[(*at)++]);
	}
	return -1;
}

static int operands_check(const struct options *o)
{
	const struct command_def *def = o->def;
	unsigned most = def->nr_operands;

	for (unsigned i = 0; i < def->nr_operands; i++) {
		if (!def->operands[i].optional && i >= o->nr_operands)
			return usage_error(def, "%s is missing", def->operands[i].name);
		if (def->operands[i].repeat)
			most = UINT32_MAX;
	}
	if (o->nr_operands > most)
		return usage_error(def, "'%s' is one argument too many", o->operands[most]);
	return -1;
}

int options_parse(const struct command_def *def, int argc, char **argv, struct options *out)
{
	int at = 1, ret = -1;

	assert(def->nr_opts <= OPTIONS_MAX);
	memset(out, 0, sizeof(*out));
	out->def = def;
	out->operands = calloc((size_t)argc + 1, sizeof(*out->operands));
	if (!out->operands)
		abort();
	while (at < argc && ret < 0) {
		char *word = argv[at];

		if (!strcmp(word, "--")) {
			at++;
			break;
		}
		ret = help_or_version(def, word);
		if (ret >= 0)
			break;
		if (word[0] == '-' && word[1] == '-')
			ret = parse_long(out, argc, argv, &at);
		else if (word[0] == '-' && word[1])
			ret = parse_short(out, argc, argv, &at);
		else
			out->operands[out->nr_operands++] = argv[at++];
	}
	while (at < argc && ret < 0)
		out->operands[out->nr_operands++] = argv[at++];
	if (ret < 0)
		ret = operands_check(out);
	if (ret >= 0)
		options_free(out);
	return ret;
}

void options_free(struct options *o)
{
	for (unsigned i = 0; i < OPTIONS_MAX; i++)
		free(o->v[i].str);
	free(o->operands);
	memset(o, 0, sizeof(*o));
}
