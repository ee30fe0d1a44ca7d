/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * report.h - tables in LVM's manner: columns, order, selection, units, text or JSON.
 *
 * A report is a list of rows (JSON objects of facts) and a table of columns
 * (columns.h). Layer columns look into the row's "layer" object when the report is
 * about layers.
 */
#ifndef QCHAIN_TOOLS_REPORT_H
#define QCHAIN_TOOLS_REPORT_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/options.h"

enum col_type { COL_TEXT, COL_NUMBER, COL_SIZE, COL_BOOL };

struct report_column {
	const char *id, *heading;
	enum col_type type;
	bool of_layer;
	const char *key, *help;
};

/* The options every report begins with, in this order. */
enum report_opt {
	REPORT_COLUMNS, REPORT_SORT, REPORT_SELECT, REPORT_NOHEADINGS, REPORT_SEPARATOR,
	REPORT_UNITS, REPORT_NOSUFFIX, REPORT_FORMAT, REPORT_OPTS
};
extern const struct option_def report_opts[REPORT_OPTS];

struct report_def {
	const char *what;              /* "chain", "layer": member of the JSON report, prefix of its columns */
	const char *columns, *sort;    /* shown and sorted by unless told otherwise */
	bool layers;                   /* layer columns too */
};

/* True after "-o help" and the like: the columns have been listed and nothing is left to do. */
bool report_help(const struct report_def *def, const struct options *o);
/*
 * Prints rows (a JSON array) as the options say. -1, or an exit status after a usage
 * error (unknown column, bad selection) that was reported.
 */
int report_print(const struct report_def *def, const struct options *o, const json_t *rows);

/* The size in the unit ('h', 'b', 'k', ... upper case: powers of 1000); returns buf. */
char *size_in_unit(uint64_t bytes, char unit, bool suffix, char *buf, size_t len);

/* --- shared by report.c and select.c --- */
const struct report_column *report_column_find(const struct report_def *def, const char *id, size_t len);
/* The column's value in a row: NULL when absent. */
const json_t *report_value(const struct report_column *col, const json_t *row);

/*
 * select.c: does the row satisfy the expression ("size > 1g && name =~ ^web")? 1 or 0;
 * -EINVAL with why set to what is wrong with it.
 */
int report_select(const struct report_def *def, const char *expression, const json_t *row,
		  char *why, size_t why_len);

#endif
