// SPDX-License-Identifier: GPL-2.0-or-later
/* Unit tests of io/log.h: levels, prefixes, length, what the journal and syslog see. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/log.h"

static char text[16384];
static int p[2], saved;

static int catch_stderr(void **state)
{
	if (pipe2(p, O_CLOEXEC | O_NONBLOCK) < 0)
		return -1;
	saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
	return dup2(p[1], STDERR_FILENO) < 0;
}

static int give_back(void **state)
{
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(p[0]);
	close(p[1]);
	unsetenv("JOURNAL_STREAM");
	return 0;
}

static const char *written(void)
{
	ssize_t n = read(p[0], text, sizeof(text) - 1);

	text[n < 0 ? 0 : n] = '\0';
	return text;
}

static void lines_have_a_name_and_an_end(void **state)
{
	log_setup("qctest", LOG_LVL_INFO, false);
	log_info("chain %d is up", 3);
	assert_string_equal(written(), "qctest: chain 3 is up\n");
	errno = ENOENT;
	log_error("open: %m");
	assert_int_equal(errno, ENOENT);
	assert_string_equal(written(), "qctest: open: No such file or directory\n");
}

static void levels_filter(void **state)
{
	log_setup("qctest", LOG_LVL_WARN, false);
	log_info("no");
	log_debug("no");
	assert_string_equal(written(), "");
	log_warn("yes");
	assert_string_equal(written(), "qctest: yes\n");
	log_setup("qctest", LOG_LVL_DEBUG, false);
	log_debug("yes");
	assert_string_equal(written(), "qctest: yes\n");
}

static void the_journal_gets_priorities(void **state)
{
	struct stat st;
	char where[64];

	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(where, sizeof(where), "%llu:%llu", (unsigned long long)st.st_dev,
		 (unsigned long long)st.st_ino);
	setenv("JOURNAL_STREAM", where, 1);
	log_setup("qctest", LOG_LVL_DEBUG, false);
	log_error("a");
	log_warn("b");
	log_info("c");
	log_debug("d");
	assert_string_equal(written(), "<3>a\n<4>b\n<6>c\n<7>d\n");
	setenv("JOURNAL_STREAM", "1:2", 1);   /* somebody else's stream */
	log_setup("qctest", LOG_LVL_DEBUG, false);
	log_error("a");
	assert_string_equal(written(), "qctest: a\n");
}

static void long_lines_are_cut(void **state)
{
	char *l = malloc(10000);

	memset(l, 'x', 9999);
	l[9999] = '\0';
	log_setup("qctest", LOG_LVL_INFO, false);
	log_info("%s", l);
	written();
	assert_true(strlen(text) > 4000 && strlen(text) <= 4096);
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_int_equal(text[strlen(text) - 2], 'x');
	free(l);
}

static void syslog_is_not_stderr(void **state)
{
	log_setup("qctest", LOG_LVL_INFO, true);
	log_debug("filtered");
	log_info("unit test of qchain's log: please ignore");
	assert_string_equal(written(), "");
	log_setup("qctest", LOG_LVL_INFO, false);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, catch_stderr, give_back)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(lines_have_a_name_and_an_end),
		T(levels_filter),
		T(the_journal_gets_priorities),
		T(long_lines_are_cut),
		T(syslog_is_not_stderr),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
