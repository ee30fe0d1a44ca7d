/* SPDX-License-Identifier: GPL-2.0-or-later */
/* report.c - see report.h. */
#include "tools/report.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/applet.h"
#include "tools/json_util.h"

#define COLUMNS_MAX 48

static const struct report_column all_columns[] = {
#define CHAIN(id, heading, type, key, help) { id, heading, type, false, key, help },
#define LAYER(id, heading, type, key, help) { id, heading, type, true, key, help },
#include "tools/columns.h"
#undef CHAIN
#undef LAYER
};
#define NR_COLUMNS (sizeof(all_columns) / sizeof(all_columns[0]))

const struct option_def report_opts[REPORT_OPTS] = {
	[REPORT_COLUMNS] = { "options", 'o', OPT_COLUMNS, true, "COLUMN,...", NULL,
			     "columns to show; +COLUMN adds to the usual ones; 'all'; 'help' lists them" },
	[REPORT_SORT] = { "sort", 'O', OPT_COLUMNS, true, "COLUMN,...", NULL,
			  "columns to sort by; -COLUMN in reverse" },
	[REPORT_SELECT] = { "select", 'S', OPT_STRING, false, "EXPR", NULL,
			    "only rows for which EXPR holds, such as 'size > 1g && name =~ ^web'" },
	[REPORT_NOHEADINGS] = { "noheadings", 0, OPT_FLAG, false, NULL, NULL, "no line of headings" },
	[REPORT_SEPARATOR] = { "separator", 0, OPT_STRING, false, "TEXT", NULL,
			       "between columns, which are then not padded" },
	[REPORT_UNITS] = { "units", 0, OPT_CHOICE, false, "UNIT", "h|H|b|B|s|S|k|K|m|M|g|G|t|T|p|P|e|E",
			   "unit of sizes: human-readable, bytes, sectors, k...; capitals count in thousands" },
	[REPORT_NOSUFFIX] = { "nosuffix", 0, OPT_FLAG, false, NULL, NULL, "sizes without their unit" },
	[REPORT_FORMAT] = { "reportformat", 0, OPT_CHOICE, false, "FORMAT", "basic|json", "how to print" },
};

struct plan {
	const struct report_def *def;
	const struct options *o;
	const struct report_column *cols[COLUMNS_MAX];
	unsigned nr_cols;
	const struct report_column *keys[COLUMNS_MAX];
	bool reverse[COLUMNS_MAX];
	unsigned nr_keys;
	char unit;
};

char *size_in_unit(uint64_t bytes, char unit, bool suffix, char *buf, size_t len)
{
	static const char letters[] = "bkmgtpe";
	bool thousand = unit >= 'A' && unit <= 'Z';
	char lower = thousand ? (char)(unit - 'A' + 'a') : unit;
	double base = thousand ? 1000 : 1024, v = (double)bytes;
	unsigned power = 0;
	char mark[2] = "";

	if (lower == 'b' || lower == 's') {
		snprintf(buf, len, "%llu%s", (unsigned long long)(lower == 's' ? bytes / 512 : bytes),
			 !suffix ? "" : lower == 's' ? "S" : "B");
		return buf;
	}
	if (lower == 'h') {
		while (power < 6 && v >= base) {
			v /= base;
			power++;
		}
	} else {
		power = (unsigned)(strchr(letters, lower) - letters);
		for (unsigned i = 0; i < power; i++)
			v /= base;
	}
	if (suffix)
		mark[0] = thousand ? "BKMGTPE"[power] : letters[power];
	if (power == 0)
		snprintf(buf, len, "%llu%s", (unsigned long long)bytes, mark);
	else
		snprintf(buf, len, "%.2f%s", v, mark);
	return buf;
}

/* A column by its id, or by its id without the prefix of what the report is about. */
const struct report_column *report_column_find(const struct report_def *def, const char *id, size_t len)
{
	size_t prefix = strlen(def->what);

	for (unsigned pass = 0; pass < 3; pass++) {
		for (size_t i = 0; i < NR_COLUMNS; i++) {
			const struct report_column *c = &all_columns[i];
			const char *name = c->id;

			if (c->of_layer && !def->layers)
				continue;
			if (pass == 1) {
				if (strncmp(name, def->what, prefix) || name[prefix] != '_')
					continue;
				name += prefix + 1;
			} else if (pass == 2) {
				name = strchr(name, '_') + 1;
			}
			if (strlen(name) == len && !strncmp(name, id, len))
				return c;
		}
	}
	return NULL;
}

const json_t *report_value(const struct report_column *col, const json_t *row)
{
	if (col->of_layer)
		row = json_object_get(row, "layer");
	return json_object_get(row, col->key);
}

bool report_help(const struct report_def *def, const struct options *o)
{
	bool asked = false;

	for (unsigned i = REPORT_COLUMNS; i <= REPORT_SELECT; i++)
		asked |= opt_given(o, i) && !strcmp(opt_str(o, i), "help");
	for (size_t i = 0; asked && i < NR_COLUMNS; i++) {
		const struct report_column *c = &all_columns[i];

		if (!c->of_layer || def->layers)
			printf("%-21s %s\n", c->id, c->help);
	}
	return asked;
}

static int plan_columns(struct plan *p, const char *list)
{
	bool fresh = true;

	while (*list) {
		size_t len = strcspn(list, ",");
		bool plus = *list == '+';
		const struct report_column *c;

		if (plus && fresh) {
			int ret = plan_columns(p, p->def->columns);

			assert(ret < 0);
		}
		fresh = false;
		if (len - plus == 3 && !strncmp(list + plus, "all", 3)) {
			for (size_t i = 0; i < NR_COLUMNS; i++)
				if ((!all_columns[i].of_layer || p->def->layers) && p->nr_cols < COLUMNS_MAX)
					p->cols[p->nr_cols++] = &all_columns[i];
		} else if (len > plus) {
			c = report_column_find(p->def, list + plus, len - plus);
			if (!c)
				return usage_error(p->o->def, "there is no column '%.*s' ('-o help' lists them)",
						   (int)(len - plus), list + plus);
			if (p->nr_cols == COLUMNS_MAX)
				return usage_error(p->o->def, "more than %d columns", COLUMNS_MAX);
			p->cols[p->nr_cols++] = c;
		}
		list += len + (list[len] == ',');
	}
	return -1;
}

static int plan_sort(struct plan *p, const char *list)
{
	while (*list) {
		size_t len = strcspn(list, ",");
		bool sign = *list == '-' || *list == '+';
		const struct report_column *c = report_column_find(p->def, list + sign, len - sign);

		if (!c)
			return usage_error(p->o->def, "there is no column '%.*s' to sort by ('-O help' lists them)",
					   (int)(len - sign), list + sign);
		if (p->nr_keys == COLUMNS_MAX)
			return usage_error(p->o->def, "more than %d sort keys", COLUMNS_MAX);
		p->keys[p->nr_keys] = c;
		p->reverse[p->nr_keys++] = *list == '-';
		list += len + (list[len] == ',');
	}
	return -1;
}

static char *cell_text(const struct plan *p, const struct report_column *c, const json_t *row)
{
	const json_t *v = report_value(c, row);
	char text[64] = "";
	const char *from = text;
	char *copy;

	if (!v)
		from = "";
	else if (c->type == COL_TEXT)
		from = json_string_value(v) ? json_string_value(v) : "";
	else if (c->type == COL_BOOL)
		from = json_is_true(v) ? "yes" : "no";
	else if (c->type == COL_NUMBER)
		snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(v));
	else
		size_in_unit((uint64_t)json_integer_value(v), p->unit,
			     !opt_given(p->o, REPORT_NOSUFFIX), text, sizeof(text));
	copy = strdup(from);
	if (!copy)
		abort();
	return copy;
}

static int row_compare(const void *a, const void *b, void *arg)
{
	const json_t *ra = *(json_t *const *)a, *rb = *(json_t *const *)b;
	const struct plan *p = arg;

	for (unsigned i = 0; i < p->nr_keys; i++) {
		const struct report_column *c = p->keys[i];
		const json_t *va = report_value(c, ra), *vb = report_value(c, rb);
		int order;

		if (c->type == COL_TEXT) {
			const char *ta = json_string_value(va), *tb = json_string_value(vb);

			order = strcmp(ta ? ta : "", tb ? tb : "");
		} else if (c->type == COL_BOOL) {
			order = json_is_true(va) - json_is_true(vb);
		} else {
			json_int_t na = json_integer_value(va), nb = json_integer_value(vb);

			order = (na > nb) - (na < nb);
		}
		if (order)
			return p->reverse[i] ? -order : order;
	}
	return 0;
}

static void print_text(const struct plan *p, json_t *const *rows, size_t nr)
{
	bool headings = !opt_given(p->o, REPORT_NOHEADINGS);
	const char *separator = opt_str(p->o, REPORT_SEPARATOR);
	size_t width[COLUMNS_MAX] = { 0 };
	char **cells = calloc((nr + 1) * COLUMNS_MAX, sizeof(*cells));

	if (!cells)
		abort();
	for (unsigned k = 0; k < p->nr_cols; k++) {
		for (size_t i = 0; i <= nr; i++) {
			char **cell = &cells[i * COLUMNS_MAX + k];

			*cell = i ? cell_text(p, p->cols[k], rows[i - 1]) : strdup(p->cols[k]->heading);
			if (!*cell)
				abort();
			if ((i || headings) && strlen(*cell) > width[k])
				width[k] = strlen(*cell);
		}
	}
	for (size_t i = headings ? 0 : 1; i <= nr && (nr || !headings); i++) {
		for (unsigned k = 0; k < p->nr_cols; k++) {
			bool right = p->cols[k]->type == COL_NUMBER || p->cols[k]->type == COL_SIZE;
			bool last = k + 1 == p->nr_cols;
			int pad = separator || (last && !right) ? 0 : (int)width[k];

			printf("%*s%s", right ? pad : -pad, cells[i * COLUMNS_MAX + k],
			       last ? "\n" : separator ? separator : " ");
		}
	}
	for (size_t i = 0; i < (nr + 1) * COLUMNS_MAX; i++)
		free(cells[i]);
	free(cells);
}

/* LVM's shape: every value a string. */
static void print_json(const struct plan *p, json_t *const *rows, size_t nr)
{
	json_t *list = json_array(), *one = json_object(), *reports = json_array(), *top = json_object();

	for (size_t i = 0; i < nr; i++) {
		json_t *out = json_object();

		for (unsigned k = 0; k < p->nr_cols; k++) {
			char *text = cell_text(p, p->cols[k], rows[i]);

			put_text(out, p->cols[k]->id, text);
			free(text);
		}
		json_array_append_new(list, out);
	}
	put(one, p->def->what, list);
	json_array_append_new(reports, one);
	put(top, "report", reports);
	json_dumpf(top, stdout, JSON_INDENT(4));
	putchar('\n');
	json_decref(top);
}

static int plan_make(struct plan *p)
{
	const struct options *o = p->o;
	int ret;

	p->unit = opt_given(o, REPORT_UNITS) ? opt_str(o, REPORT_UNITS)[0] : 'h';
	ret = plan_columns(p, opt_given(o, REPORT_COLUMNS) ? opt_str(o, REPORT_COLUMNS) : p->def->columns);
	if (ret < 0)
		ret = plan_sort(p, opt_given(o, REPORT_SORT) ? opt_str(o, REPORT_SORT) : p->def->sort);
	return ret;
}

int report_print(const struct report_def *def, const struct options *o, const json_t *rows)
{
	struct plan p = { .def = def, .o = o };
	size_t total = json_array_size(rows), nr = 0;
	json_t **kept = calloc(total + 1, sizeof(*kept));
	char why[256];
	int ret = plan_make(&p);

	if (!kept)
		abort();
	/* Also with no rows at all: a wrong expression is wrong then too. */
	if (ret < 0 && opt_given(o, REPORT_SELECT) &&
	    report_select(def, opt_str(o, REPORT_SELECT), NULL, why, sizeof(why)) < 0)
		ret = usage_error(o->def, "option '--select': %s", why);
	for (size_t i = 0; i < total && ret < 0; i++) {
		json_t *row = json_array_get(rows, i);

		if (!opt_given(o, REPORT_SELECT) ||
		    report_select(def, opt_str(o, REPORT_SELECT), row, why, sizeof(why)) > 0)
			kept[nr++] = row;
	}
	if (ret < 0) {
		qsort_r(kept, nr, sizeof(*kept), row_compare, &p);
		if (opt_given(o, REPORT_FORMAT) && opt_num(o, REPORT_FORMAT) == 1)
			print_json(&p, kept, nr);
		else
			print_text(&p, kept, nr);
	}
	free(kept);
	return ret;
}
