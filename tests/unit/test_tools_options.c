// SPDX-License-Identifier: GPL-2.0-or-later
/* Command lines against a table: what is understood, and that everything else is refused with status 2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tools/docs.h"
#include "tools/options.h"

enum { SIZE, KIND, COUNT, YES, LIST };

static const struct option_def opts[] = {
	[SIZE] = { "size", 'L', OPT_SIZE, false, "SIZE", NULL, "a size" },
	[KIND] = { "kind", 'k', OPT_CHOICE, false, "KIND", "one|two", "a kind" },
	[COUNT] = { "count", 0, OPT_NUMBER, false, "N", NULL, "a number" },
	[YES] = { "yes", 'y', OPT_FLAG, false, NULL, NULL, "a flag" },
	[LIST] = { "list", 'o', OPT_STRING, true, "A,B", NULL, "a list" },
};

static const struct operand_def operands[] = {
	{ "NAME", OPT_STRING, false, false },
	{ "IMAGE", OPT_FILE, true, false },
};

static const struct command_def def = {
	.name = "qctest", .summary = "test", .about = "One.\n\n.Two - three.", .opts = opts, .nr_opts = 5,
	.operands = operands, .nr_operands = 2,
};

/* Parses words (NULL-terminated) and gives what was written to stderr. */
static int parse(struct options *o, char *said, size_t len, const char *const *words)
{
	char *argv[16] = { "qctest" };
	int argc = 1, saved = dup(STDERR_FILENO), fds[2], ret;
	ssize_t n;

	while (words[argc - 1])
		argv[argc] = (char *)words[argc - 1], argc++;
	assert_return_code(pipe(fds), 0);
	fflush(stderr);
	dup2(fds[1], STDERR_FILENO);
	ret = options_parse(&def, argc, argv, o);
	fflush(stderr);
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(fds[1]);
	n = read(fds[0], said, len - 1);
	said[n > 0 ? n : 0] = '\0';
	close(fds[0]);
	return ret;
}

#define PARSE(o, said, ...) parse(o, said, sizeof(said), (const char *const[]){ __VA_ARGS__, NULL })

static void options_and_operands_mix(void **state)
{
	struct options o;
	char said[256];

	assert_int_equal(PARSE(&o, said, "web", "-L1.5G", "--kind", "two", "-y", "img", "--count=7"), -1);
	assert_int_equal(opt_num(&o, SIZE), 3ull << 29);
	assert_int_equal(opt_num(&o, KIND), 1);
	assert_string_equal(opt_str(&o, KIND), "two");
	assert_int_equal(opt_num(&o, COUNT), 7);
	assert_true(opt_given(&o, YES));
	assert_false(opt_given(&o, LIST));
	assert_int_equal(o.nr_operands, 2);
	assert_string_equal(o.operands[0], "web");
	assert_string_equal(o.operands[1], "img");
	options_free(&o);
}

static void lists_join_and_others_take_the_last(void **state)
{
	struct options o;
	char said[256];

	assert_int_equal(PARSE(&o, said, "-oa=1", "-o", "b=2", "-L", "1k", "-L2k", "--", "-n"), -1);
	assert_string_equal(opt_str(&o, LIST), "a=1,b=2");
	assert_int_equal(opt_num(&o, SIZE), 2048);
	assert_string_equal(o.operands[0], "-n");
	options_free(&o);
}

static void wrong_lines_name_the_fault(void **state)
{
	static const struct {
		const char *words[6];
		const char *said;
	} wrong[] = {
		{ { "web", "--foo" }, "unknown option '--foo'" },
		{ { "web", "-x" }, "unknown option '-x'" },
		{ { "web", "-yx" }, "unknown option '-x'" },
		{ { "web", "--size" }, "option '--size' needs an argument" },
		{ { "web", "-L" }, "option '-L' needs an argument" },
		{ { "web", "-L", "many" }, "option '-L': 'many' is not a size (such as 512M or 1.5G)" },
		{ { "web", "--size=9999999999G" }, "option '--size': '9999999999G' is too large" },
		{ { "web", "--kind", "three" }, "option '--kind': 'three' is none of one|two" },
		{ { "web", "--count=-1" }, "option '--count': '-1' is not a number" },
		{ { "web", "--count=3x" }, "option '--count': '3x' is not a number" },
		{ { "web", "--yes=1" }, "option '--yes' takes no argument" },
		{ { "-y" }, "NAME is missing" },
		{ { "a", "b", "c" }, "'c' is one argument too many" },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct options o;
		char said[256], want[256];

		assert_int_equal(parse(&o, said, sizeof(said), wrong[i].words), 2);
		snprintf(want, sizeof(want), "qctest: %s; see 'qctest --help'\n", wrong[i].said);
		assert_string_equal(said, want);
	}
}

/* A line of roff that begins with '.' would be taken for a command, and a bare '-' for a hyphen. */
static void man_page_escapes_text(void **state)
{
	const char *const others[] = { "qctest", "qcother", NULL };
	char *page = NULL;
	size_t len;
	FILE *f = open_memstream(&page, &len);

	docs_man(&def, others, f);
	fclose(f);
	assert_non_null(strstr(page, "\n\\&.Two \\- three.\n"));
	assert_non_null(strstr(page, "\\fB\\-L\\fR, \\fB\\-\\-size\\fR \\fISIZE\\fR\nA size.\n"));
	assert_non_null(strstr(page, "\\fBqcother\\fR(8)"));
	assert_null(strstr(page, "\\fBqctest\\fR(8)"));
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_and_operands_mix),
		cmocka_unit_test(lists_join_and_others_take_the_last),
		cmocka_unit_test(wrong_lines_name_the_fault),
		cmocka_unit_test(man_page_escapes_text),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
