/* SPDX-License-Identifier: GPL-2.0-or-later */
/* docs.c - see docs.h. */
#include "tools/docs.h"

#include <ctype.h>
#include <string.h>

/* Text in roff: '-' and '\' escaped, a control character at the start of a line made harmless. */
static void roff(const char *text, FILE *f)
{
	bool start = true;

	for (; *text; text++) {
		if (start && (*text == '.' || *text == '\''))
			fputs("\\&", f);
		if (*text == '-')
			fputs("\\-", f);
		else if (*text == '\\')
			fputs("\\e", f);
		else
			fputc(*text, f);
		start = *text == '\n';
	}
}

static void roff_paragraphs(const char *text, FILE *f)
{
	while (*text) {
		const char *end = strstr(text, "\n\n");
		size_t len = end ? (size_t)(end - text) : strlen(text);
		char part[4096];

		snprintf(part, sizeof(part), "%.*s", (int)len, text);
		fputs(".PP\n", f);
		roff(part, f);
		fputc('\n', f);
		text += len + (end ? 2 : 0);
	}
}

static void roff_option(const struct option_def *d, FILE *f)
{
	fputs(".TP\n", f);
	if (d->letter)
		fprintf(f, "\\fB\\-%c\\fR, ", d->letter);
	fputs("\\fB\\-\\-", f);
	roff(d->name, f);
	fputs("\\fR", f);
	if (d->arg) {
		fputs(" \\fI", f);
		roff(d->arg, f);
		fputs("\\fR", f);
	}
	fprintf(f, "\n%c", toupper((unsigned char)d->help[0]));
	roff(d->help + 1, f);
	if (d->type == OPT_CHOICE) {
		fputs(" (", f);
		roff(d->values, f);
		fputs(")", f);
	}
	fputs(".\n", f);
}

static void man_synopsis(const struct command_def *def, FILE *f)
{
	char text[128];

	fprintf(f, ".SH SYNOPSIS\n.B %s\n", def->name);
	if (def->nr_opts)
		fputs("[\\fIOPTION\\fR]...\n", f);
	roff(operands_text(def, text, sizeof(text)), f);
	fputc('\n', f);
}

void docs_man(const struct command_def *def, const char *const *others, FILE *f)
{
	char upper[32];
	size_t i;

	for (i = 0; i < sizeof(upper) - 1 && def->name[i]; i++)
		upper[i] = (char)toupper((unsigned char)def->name[i]);
	upper[i] = '\0';
	fprintf(f, ".TH %s 8 \"\" \"qchain %s\" \"qchain\"\n.SH NAME\n%s \\- ", upper, QCHAIN_VERSION, def->name);
	roff(def->summary, f);
	fputc('\n', f);
	man_synopsis(def, f);
	fputs(".SH DESCRIPTION\n", f);
	roff_paragraphs(def->about, f);
	fputs(".SH OPTIONS\n", f);
	for (unsigned k = 0; k < def->nr_opts; k++)
		roff_option(&def->opts[k], f);
	fputs(".TP\n\\fB\\-h\\fR, \\fB\\-\\-help\\fR\nShow the options and exit.\n"
	      ".TP\n\\fB\\-\\-version\\fR\nShow the version and exit.\n", f);
	fputs(".SH EXIT STATUS\n0 done, 1 failed, 2 bad usage. Every error is one line on standard error.\n", f);
	fputs(".SH ENVIRONMENT\n.TP\n\\fBQCHAIN_RUNDIR\\fR\nWhere daemons keep sockets and pid files (/run/qchain).\n"
	      ".TP\n\\fBQCHAIN_ETCDIR\\fR\nWhere definitions are (/etc/qchain).\n"
	      ".TP\n\\fBQCHAIN_STATEDIR\\fR\nWhere daemons keep their state (/var/lib/qchain).\n", f);
	if (def->examples) {
		fputs(".SH EXAMPLES\n.nf\n", f);
		roff(def->examples, f);
		fputs("\n.fi\n", f);
	}
	fputs(".SH SEE ALSO\n", f);
	for (bool first = true; *others; others++) {
		if (!strcmp(*others, def->name))
			continue;
		fprintf(f, "%s\\fB%s\\fR(8)", first ? "" : ",\n", *others);
		first = false;
	}
	fputc('\n', f);
}

/* --- bash completion --- */

static void complete_value(const struct option_def *d, FILE *f)
{
	char values[256];
	size_t i;

	fprintf(f, "\t\t%s%.1s%s--%s) ", d->letter ? "-" : "", d->letter ? &d->letter : "",
		d->letter ? "|" : "", d->name);
	switch (d->type) {
	case OPT_CHOICE:
		for (i = 0; i < sizeof(values) - 1 && d->values[i]; i++)
			values[i] = d->values[i] == '|' ? ' ' : d->values[i];
		values[i] = '\0';
		fprintf(f, "_qchain_words '%s'", values);
		break;
	case OPT_FILE:
		fputs("_qchain_files", f);
		break;
	case OPT_CHAIN:
		fputs("_qchain_chains", f);
		break;
	case OPT_COLUMNS:
		fputs("_qchain_columns", f);
		break;
	default:
		fputs("COMPREPLY=()", f);
	}
	fputs("; return ;;\n", f);
}

static void complete_operands(const struct command_def *def, FILE *f)
{
	bool files = false, names = false;

	for (unsigned i = 0; i < def->nr_operands; i++) {
		files |= def->operands[i].type == OPT_FILE;
		names |= def->operands[i].type == OPT_CHAIN;
	}
	fputs(files ? "\t\t_qchain_files ;;\n" : names ? "\t\t_qchain_chains ;;\n" : "\t\tCOMPREPLY=() ;;\n", f);
}

static void complete_command(const struct command_def *def, FILE *f)
{
	fprintf(f, "\t%s)\n\t\tcase $prev in\n", def->name);
	for (unsigned i = 0; i < def->nr_opts; i++)
		if (def->opts[i].type != OPT_FLAG)
			complete_value(&def->opts[i], f);
	fputs("\t\tesac\n\t\tif [[ $cur == -* ]]; then _qchain_words '", f);
	for (unsigned i = 0; i < def->nr_opts; i++)
		fprintf(f, "--%s ", def->opts[i].name);
	fputs("--help --version'; return; fi\n", f);
	complete_operands(def, f);
}

void docs_completion(const struct command_def *const *defs, FILE *f)
{
	fputs("# bash completion of qchain's commands; made from the tables of their options.\n"
	      "_qchain_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$cur\")); }\n"
	      "_qchain_files() { compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- \"$cur\")); }\n"
	      "_qchain_chains() { _qchain_words \"$(qcs --noheadings -o chain_name 2>/dev/null)\"; }\n"
	      "_qchain_columns() { _qchain_words \"$($cmd -o help 2>/dev/null | cut -d' ' -f1)\"; }\n"
	      "_qchain() {\n\tlocal cmd=${1##*/} cur=$2 prev=$3\n", f);
	fputs("\tif [[ $cmd == qchain ]]; then\n"
	      "\t\tif ((COMP_CWORD == 1)); then _qchain_words '--help --version", f);
	for (const struct command_def *const *d = defs; *d; d++)
		if (strcmp((*d)->name, "qchaind"))
			fprintf(f, " %s", (*d)->name);
	fputs("'; return; fi\n\t\tcmd=${COMP_WORDS[1]}\n\tfi\n\tcase $cmd in\n", f);
	for (const struct command_def *const *d = defs; *d; d++)
		complete_command(*d, f);
	fputs("\tesac\n}\ncomplete -F _qchain qchain", f);
	for (const struct command_def *const *d = defs; *d; d++)
		fprintf(f, " %s", (*d)->name);
	fputc('\n', f);
}
