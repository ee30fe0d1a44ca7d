/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cmd_report.c - qcs and qclayers: the same facts, one row a chain or one row a layer. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "tools/cmd.h"
#include "tools/conf.h"
#include "tools/facts.h"
#include "tools/json_util.h"
#include "tools/report.h"

static const struct operand_def chains[] = {
	{ "NAME", OPT_CHAIN, true, true },
};

const struct command_def qcs_def = {
	.name = "qcs",
	.summary = "list chains",
	.about =
		"qcs prints one line for each chain that is defined or served, or for those that are named. Sizes of chains that are "
		"not active are read from their images.",
	.examples = "qcs\nqcs -o +pid,node --units m\nqcs --noheadings -o device web\nqcs -S 'active=yes && size>=10g' --reportformat json",
	.opts = report_opts,
	.nr_opts = REPORT_OPTS,
	.operands = chains,
	.nr_operands = 1,
};

const struct command_def qclayers_def = {
	.name = "qclayers",
	.summary = "list the layers of chains",
	.about =
		"qclayers prints one line for each layer, from the base (index 0) to the active layer, of all chains or of those "
		"that are named.",
	.examples = "qclayers web\nqclayers -o layer_file,layer_disk --noheadings web",
	.opts = report_opts,
	.nr_opts = REPORT_OPTS,
	.operands = chains,
	.nr_operands = 1,
};

static const struct report_def chain_report = {
	.what = "chain",
	.columns = "chain_name,chain_attr,chain_size,chain_depth,chain_disk,chain_device,chain_image",
	.sort = "chain_name",
	.layers = false,
};

static const struct report_def layer_report = {
	.what = "layer",
	.columns = "chain_name,layer_name,layer_role,layer_format,layer_size,layer_disk,layer_cluster,layer_file",
	.sort = "chain_name,layer_index",
	.layers = true,
};

static void add_rows(const struct report_def *def, json_t *rows, json_t *facts)
{
	const json_t *layers = json_object_get(facts, "layers");

	if (!def->layers)
		json_array_append(rows, facts);
	for (size_t i = 0; def->layers && i < json_array_size(layers); i++) {
		json_t *row = json_copy(facts);

		if (!row)
			abort();
		put(row, "layer", json_incref(json_array_get(layers, i)));
		json_array_append_new(rows, row);
	}
	json_decref(facts);
}

static int report_main(const struct command_def *cmd, const struct report_def *def, int argc, char **argv)
{
	struct error e = ERROR_INIT;
	char **all = NULL, **names;
	struct options opt;
	json_t *rows;
	int status = options_parse(cmd, argc, argv, &opt), usage;

	if (status >= 0)
		return status;
	if (report_help(def, &opt)) {
		options_free(&opt);
		return EXIT_DONE;
	}
	status = EXIT_DONE;
	rows = json_array();
	names = opt.operands;
	if (!opt.nr_operands) {
		if (chain_names(&all, &e) < 0)
			status = cmd_fail(cmd, &e);
		names = all;
	}
	for (; names && *names; names++) {
		struct error fault = ERROR_INIT;
		json_t *facts = chain_name_check(*names, &fault) < 0 ? NULL : chain_facts(*names, &fault);

		if (fault.code)
			status = chain_fail(cmd, *names, &fault);
		if (facts)
			add_rows(def, rows, facts);
	}
	usage = report_print(def, &opt, rows);
	json_decref(rows);
	conf_list_free(all);
	options_free(&opt);
	return usage >= 0 ? usage : status;
}

int qcs_main(int argc, char **argv)
{
	return report_main(&qcs_def, &chain_report, argc, argv);
}

int qclayers_main(int argc, char **argv)
{
	return report_main(&qclayers_def, &layer_report, argc, argv);
}
