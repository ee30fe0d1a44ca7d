/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cmd_show.c - qcdisplay (everything about a chain, a line each) and qctree (its layers, drawn). */
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/cmd.h"
#include "tools/conf.h"
#include "tools/facts.h"
#include "tools/json_util.h"
#include "tools/report.h"

enum { UNITS };

static const struct option_def show_opts[] = {
	[UNITS] = { "units", 0, OPT_CHOICE, false, "UNIT", "h|H|b|B|s|S|k|K|m|M|g|G|t|T|p|P|e|E",
		    "unit of sizes: human-readable, bytes, sectors, k...; capitals count in thousands" },
};

static const struct operand_def chains[] = {
	{ "NAME", OPT_CHAIN, true, true },
};

const struct command_def qcdisplay_def = {
	.name = "qcdisplay",
	.summary = "show all about chains",
	.about = "qcdisplay prints a block of lines for each chain that is named, or for all: its state, device, layers and counters.",
	.examples = "qcdisplay web",
	.opts = show_opts,
	.nr_opts = 1,
	.operands = chains,
	.nr_operands = 1,
};

const struct command_def qctree_def = {
	.name = "qctree",
	.summary = "draw chains as trees of layers",
	.about = "qctree draws each chain that is named, or all: the device, below it the active layer, and each layer's backing below that, "
		 "with the space that it occupies.",
	.examples = "qctree web",
	.opts = show_opts,
	.nr_opts = 1,
	.operands = chains,
	.nr_operands = 1,
};

typedef void show_fn(const json_t *facts, char unit);

static const char *size_text(const json_t *o, const char *key, char unit, char *buf, size_t len)
{
	return size_in_unit(get_int(o, key), unit, true, buf, len);
}

static void line(const char *key, const char *value)
{
	if (value[0])
		printf("  %-16s %s\n", key, value);
}

static void number_line(const char *key, uint64_t value)
{
	printf("  %-16s %llu\n", key, (unsigned long long)value);
}

static void display_state(const json_t *f, char unit)
{
	char size[32];
	bool active = get_bool(f, "active");

	line("Chain name:", get_text(f, "name"));
	line("Status:", get_text(f, "fault")[0] ? "faulty" : active ? "active" : "not active");
	line("Fault:", get_text(f, "fault"));
	line("Access:", get_bool(f, "read-only") ? "read only" : "read/write");
	line("Size:", size_text(f, "size", unit, size, sizeof(size)));
	line("Disk usage:", size_text(f, "disk", unit, size, sizeof(size)));
	line("Image:", get_text(f, "image"));
	line("Device:", get_text(f, "device"));
	line("Device link:", get_text(f, "device-link"));
	line("Kernel node:", get_text(f, "node"));
	line("Device kind:", get_text(f, "kind"));
	if (get_text(f, "device")[0]) {
		line("Device-mapper:", get_bool(f, "dm") ? "yes" : "no");
		line("Open:", get_bool(f, "in-use") ? get_text(f, "used-by")[0] ? get_text(f, "used-by") : "yes" : "no");
	}
	line("Engine:", get_text(f, "engine"));
	line("Cache:", get_text(f, "cache"));
	if (active)
		number_line("Daemon PID:", get_int(f, "pid"));
	line("Defined:", get_bool(f, "defined") ? "yes" : "no, started by hand");
	number_line("Layers:", get_int(f, "depth"));
}

static void display(const json_t *f, char unit)
{
	const json_t *layers = json_object_get(f, "layers"), *st = json_object_get(f, "stats");
	char size[32], cluster[32];

	printf("--- Chain ---\n");
	display_state(f, unit);
	for (size_t i = json_array_size(layers); i-- > 0;) {
		const json_t *l = json_array_get(layers, i);

		printf("  %-16s %s, %s, %s on disk, clusters of %s\n", get_text(l, "node-name"),
		       get_text(l, "file"), get_text(l, "format"), size_text(l, "disk", unit, size, sizeof(size)),
		       size_text(l, "cluster-size", unit, cluster, sizeof(cluster)));
	}
	if (st) {
		number_line("Reads:", get_int(st, "reads"));
		number_line("Writes:", get_int(st, "writes"));
		number_line("Write zeroes:", get_int(st, "zeroes"));
		number_line("Discards:", get_int(st, "discards"));
		number_line("Flushes:", get_int(st, "flushes"));
		line("Bytes read:", size_text(st, "read-bytes", unit, size, sizeof(size)));
		line("Bytes written:", size_text(st, "write-bytes", unit, size, sizeof(size)));
	}
	putchar('\n');
}

static void tree(const json_t *f, char unit)
{
	const json_t *layers = json_object_get(f, "layers");
	const char *device = get_text(f, "device");
	bool utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
	char size[32], disk[32];
	size_t depth = json_array_size(layers);

	printf("%s", get_text(f, "name"));
	if (device[0])
		printf("  %s (%s%s)", device, get_text(f, "kind"), get_bool(f, "dm") ? ", device-mapper" : "");
	else
		printf("  (%s)", get_bool(f, "active") ? "no device" : "not active");
	if (depth)
		printf("  %s", size_text(f, "size", unit, size, sizeof(size)));
	if (get_text(f, "fault")[0])
		printf("  FAULT: %s", get_text(f, "fault"));
	putchar('\n');
	for (size_t i = depth; i-- > 0;) {
		const json_t *l = json_array_get(layers, i);

		printf("%*s%s %s  %s  %s  %s of %s%s\n", (int)(2 * (depth - 1 - i)), "",
		       utf8 ? "\u2514\u2500" : "`-", get_text(l, "node-name"), get_text(l, "file"),
		       get_text(l, "format"), size_text(l, "disk", unit, disk, sizeof(disk)),
		       size_text(l, "size", unit, size, sizeof(size)),
		       get_bool(l, "read-only") || !get_bool(f, "active") ? "" : "  writable");
	}
}

static int show_main(const struct command_def *cmd, show_fn *show, int argc, char **argv)
{
	struct error e = ERROR_INIT;
	char **all = NULL, **names;
	struct options opt;
	int status = options_parse(cmd, argc, argv, &opt);
	char unit;

	if (status >= 0)
		return status;
	setlocale(LC_CTYPE, "");
	unit = opt_given(&opt, UNITS) ? opt_str(&opt, UNITS)[0] : 'h';
	status = EXIT_DONE;
	names = opt.operands;
	if (!opt.nr_operands) {
		if (chain_names(&all, &e) < 0)
			status = cmd_fail(cmd, &e);
		names = all;
	}
	for (; names && *names; names++) {
		struct error fault = ERROR_INIT;
		json_t *facts = chain_name_check(*names, &fault) < 0 ? NULL : chain_facts(*names, &fault);

		if (facts)
			show(facts, unit);
		fflush(stdout);
		if (fault.code)
			status = chain_fail(cmd, *names, &fault);
		json_decref(facts);
	}
	conf_list_free(all);
	options_free(&opt);
	return status;
}

int qcdisplay_main(int argc, char **argv)
{
	return show_main(&qcdisplay_def, display, argc, argv);
}

int qctree_main(int argc, char **argv)
{
	return show_main(&qctree_def, tree, argc, argv);
}
