// SPDX-License-Identifier: GPL-2.0-or-later
/* Selection expressions, units and column names of reports. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/report.h"

static const struct report_def chains = { "chain", "chain_name", "chain_name", false };
static const struct report_def layers = { "layer", "layer_name", "layer_name", true };

static int select_web(const char *expression)
{
	json_t *row = json_pack("{s:s, s:I, s:b, s:I}", "name", "web", "size", (json_int_t)2 << 30,
				"active", 1, "depth", (json_int_t)4);
	char why[256] = "";
	int ret = report_select(&chains, expression, row, why, sizeof(why));

	assert_true((ret < 0) == (why[0] != '\0'));
	json_decref(row);
	return ret;
}

static void expressions(void **state)
{
	static const struct {
		const char *text;
		int want;
	} cases[] = {
		{ "name=web", 1 }, { "chain_name = 'web'", 1 }, { "name!=web", 0 }, { "name =~ ^we", 1 },
		{ "name !~ ^we", 0 }, { "size > 1g", 1 }, { "size>=2G", 1 }, { "size<2g", 0 },
		{ "size = 2147483648", 1 }, { "depth <= 4", 1 }, { "active=yes", 1 }, { "active = no", 0 },
		{ "name=db || depth=4", 1 }, { "name=web && depth=3", 0 },
		{ "name=db && depth=3 || active=yes", 1 }, { "name=db && (depth=3 || active=yes)", 0 },
		{ "!name=db", 1 }, { "!(name=web && active=yes)", 0 }, { "name=~'^(web|db)$'", 1 },
		{ "pid = 0", 0 }, { "pid != 7", 1 }, { "pid < 9", 0 }, { "device = ''", 1 },
		{ "", -EINVAL }, { "nme=web", -EINVAL }, { "name", -EINVAL }, { "name=", -EINVAL },
		{ "name=web depth=4", -EINVAL }, { "(name=web", -EINVAL }, { "name='web", -EINVAL },
		{ "size=big", -EINVAL }, { "size=~2", -EINVAL }, { "name=~'['", -EINVAL },
		{ "name=web &&", -EINVAL }, { "layer_name=x", -EINVAL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (select_web(cases[i].text) != cases[i].want)
			fail_msg("'%s' gave %d", cases[i].text, select_web(cases[i].text));
}

static void nesting_is_bounded(void **state)
{
	char deep[4096];

	memset(deep, '(', sizeof(deep) - 1);
	deep[sizeof(deep) - 1] = '\0';
	assert_int_equal(select_web(deep), -EINVAL);
	memset(deep, '!', sizeof(deep) - 1);
	assert_int_equal(select_web(deep), -EINVAL);
}

static void units(void **state)
{
	static const struct {
		uint64_t bytes;
		char unit;
		bool suffix;
		const char *want;
	} cases[] = {
		{ 2147483648, 'h', true, "2.00g" }, { 2147483648, 'H', true, "2.15G" },
		{ 1536, 'h', true, "1.50k" }, { 512, 'h', true, "512b" }, { 1048576, 'b', true, "1048576B" },
		{ 1048576, 's', true, "2048S" }, { 1048576, 's', false, "2048" },
		{ 1048576, 'k', true, "1024.00k" }, { 1048576, 'K', false, "1048.58" },
		{ 5ull << 40, 't', true, "5.00t" }, { 0, 'h', true, "0b" },
	};
	char buf[32];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(size_in_unit(cases[i].bytes, cases[i].unit, cases[i].suffix, buf,
						 sizeof(buf)), cases[i].want);
}

static void columns_by_full_and_short_name(void **state)
{
	assert_string_equal(report_column_find(&chains, "chain_size", 10)->key, "size");
	assert_string_equal(report_column_find(&chains, "size", 4)->id, "chain_size");
	assert_string_equal(report_column_find(&layers, "size", 4)->id, "layer_size");
	assert_string_equal(report_column_find(&layers, "device", 6)->id, "chain_device");
	assert_null(report_column_find(&chains, "layer_size", 10));
	assert_null(report_column_find(&chains, "siz", 3));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(expressions),
		cmocka_unit_test(nesting_is_bounded),
		cmocka_unit_test(units),
		cmocka_unit_test(columns_by_full_and_short_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
