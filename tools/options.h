/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * options.h - one table per command, from which come its parser, its usage
 * errors, --help, its man page and its completion (docs.h).
 *
 * Invariant: a command line is understood whole before anything is done; what
 * the table does not know is refused with exit status 2.
 */
#ifndef QCHAIN_TOOLS_OPTIONS_H
#define QCHAIN_TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum opt_type {
	OPT_FLAG,
	OPT_STRING,
	OPT_FILE,              /* a path: completed as one */
	OPT_CHAIN,             /* a chain's name */
	OPT_COLUMNS,           /* report columns */
	OPT_SIZE,              /* size.h; bytes */
	OPT_NUMBER,            /* 0 .. 2^31-1 */
	OPT_CHOICE,            /* one of `values` */
};

struct option_def {
	const char *name;      /* long name without dashes */
	char letter;           /* short name; 0 = none */
	enum opt_type type;
	bool repeat;           /* values given more than once are joined with ',' (else the last wins) */
	const char *arg;       /* what help calls the argument; NULL for a flag */
	const char *values;    /* OPT_CHOICE: "auto|ublk|fuse|none" */
	const char *help;      /* one line, no full stop */
};

struct operand_def {
	const char *name;      /* as help shows it: "NAME" */
	enum opt_type type;
	bool optional, repeat; /* only the last operand may repeat */
};

#define OPTIONS_MAX 32

struct command_def {
	const char *name;
	const char *summary;   /* half a sentence, lower case, no full stop */
	const char *about;     /* paragraphs for the man page, split by empty lines */
	const char *examples;  /* lines of shell for the man page; NULL = none */
	const struct option_def *opts;
	unsigned nr_opts;
	const struct operand_def *operands;
	unsigned nr_operands;
};

struct opt_value {
	unsigned count;        /* how often it was given */
	char *str;             /* the argument; owned */
	uint64_t num;          /* SIZE, NUMBER: its value; CHOICE: index in `values` */
};

struct options {
	const struct command_def *def;
	struct opt_value v[OPTIONS_MAX];     /* index = place in def->opts */
	char **operands;                     /* point into argv */
	unsigned nr_operands;
};

/*
 * Parses argv[1..] (argv[0] is not looked at: messages carry def->name).
 * Returns -1 when the command shall go on, or the exit status when all is said:
 * 0 after --help or --version, 2 after a usage error. On -1 the caller owes
 * options_free().
 */
int options_parse(const struct command_def *def, int argc, char **argv, struct options *out);
void options_free(struct options *o);

static inline bool opt_given(const struct options *o, unsigned i)
{
	return o->v[i].count > 0;
}

static inline const char *opt_str(const struct options *o, unsigned i)
{
	return o->v[i].str;
}

static inline uint64_t opt_num(const struct options *o, unsigned i)
{
	return o->v[i].num;
}

/* "qccreate: <text>; see 'qccreate --help'" on stderr; returns EXIT_USAGE. */
int usage_error(const struct command_def *def, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* "Usage: ..." and the options. */
void options_help(const struct command_def *def, FILE *f);
/* "NAME IMAGE", "[NAME]...": the operands as help shows them; returns buf. */
char *operands_text(const struct command_def *def, char *buf, size_t len);

#endif
