// SPDX-License-Identifier: GPL-2.0-or-later
/* test_dm_names.c - the links of a device: claimed once, replaced only when dead, removed only when ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "dm/names.h"

static char dir[64];
/* Regular files: no live device stands behind links to them, so they count as dead. */
static char node_a[96], node_b[96];

static char *in_dir(const char *rel)
{
	static char path[4][PATH_MAX];
	static unsigned turn;
	char *p = path[turn++ % 4];

	snprintf(p, PATH_MAX, "%s/%s", dir, rel);
	return p;
}

static const char *target_of(const char *link)
{
	static char target[PATH_MAX];
	ssize_t n = readlink(link, target, sizeof(target) - 1);

	if (n < 0)
		return "";
	target[n] = '\0';
	return target;
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/var/tmp/qchain-names.XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(node_a, sizeof(node_a), "%s/node-a", dir);
	snprintf(node_b, sizeof(node_b), "%s/node-b", dir);
	return setenv("QCHAIN_DEVDIR", dir, 1);
}

static int teardown(void **state)
{
	char cmd[128];

	unsetenv("QCHAIN_DEVDIR");
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

static void claims_and_releases(void **state)
{
	struct error e = ERROR_INIT;
	struct names n;

	assert_int_equal(names_claim(&n, "web", -1, false, node_a, &e), 0);
	assert_int_equal(n.number, 0);
	assert_string_equal(n.by_number, in_dir("qchain0"));
	assert_string_equal(n.by_name, in_dir("qchain/web"));
	assert_string_equal(target_of(in_dir("qchain0")), node_a);
	assert_string_equal(target_of(in_dir("qchain/web")), node_a);
	names_release(&n);
	assert_int_equal(access(in_dir("qchain"), F_OK), -1);
	assert_string_equal(target_of(in_dir("qchain0")), "");
}

static void wanted_number(void **state)
{
	struct error e = ERROR_INIT;
	struct names n;

	assert_int_equal(names_claim(&n, "web", 42, true, node_a, &e), 0);
	assert_int_equal(n.number, 42);
	assert_string_equal(target_of(in_dir("qchain42")), node_a);
	names_release(&n);
}

static void taken_number(void **state)
{
	struct error e = ERROR_INIT;
	struct names n;
	int fd = open(in_dir("qchain3"), O_CREAT | O_WRONLY, 0600);

	close(fd);
	assert_int_equal(names_claim(&n, "web", 3, true, node_a, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "qchain3 is taken"));
	assert_string_equal(target_of(in_dir("qchain/web")), "");
	assert_int_equal(names_claim(&n, "web", 3, false, node_a, NULL), 0);
	assert_int_equal(n.number, 4);
	names_release(&n);
	assert_int_equal(access(in_dir("qchain3"), F_OK), 0);
}

static void dead_links_go(void **state)
{
	struct names n;

	assert_int_equal(mkdir(in_dir("qchain"), 0755), 0);
	assert_int_equal(symlink("/dev/no-such", in_dir("qchain0")), 0);
	assert_int_equal(symlink("/dev/no-such", in_dir("qchain7")), 0);
	assert_int_equal(symlink("/dev/no-such", in_dir("qchain/old")), 0);
	assert_int_equal(symlink("/dev/no-such", in_dir("qchain/web")), 0);
	assert_int_equal(symlink("/dev/no-such", in_dir("qchain-other")), 0);
	assert_int_equal(names_claim(&n, "web", -1, false, node_a, NULL), 0);
	assert_int_equal(n.number, 0);
	assert_string_equal(target_of(in_dir("qchain7")), "");
	assert_string_equal(target_of(in_dir("qchain/old")), "");
	assert_string_equal(target_of(in_dir("qchain/web")), node_a);
	/* no number: none of our links */
	assert_string_equal(target_of(in_dir("qchain-other")), "/dev/no-such");
	names_release(&n);
}

/* A dead chain's links to a node that is now ours would lend our bytes its name. */
static void strangers_to_our_node_go(void **state)
{
	struct names n;

	assert_int_equal(mkdir(in_dir("qchain"), 0755), 0);
	assert_int_equal(symlink(node_a, in_dir("qchain/other")), 0);
	assert_int_equal(names_claim(&n, "web", -1, false, node_a, NULL), 0);
	assert_string_equal(target_of(in_dir("qchain/other")), "");
	names_release(&n);
}

/* A server that took up its old device finds its old number again. */
static void number_is_kept(void **state)
{
	struct names n;

	assert_int_equal(symlink(node_a, in_dir("qchain5")), 0);
	assert_int_equal(names_claim(&n, "web", -1, false, node_a, NULL), 0);
	assert_int_equal(n.number, 5);
	names_release(&n);
	assert_int_equal(symlink(node_a, in_dir("qchain5")), 0);
	assert_int_equal(names_claim(&n, "web", 2, true, node_a, NULL), 0);
	assert_int_equal(n.number, 2);
	assert_string_equal(target_of(in_dir("qchain5")), "");
	names_release(&n);
}

static void others_links_stay(void **state)
{
	struct names n;

	assert_int_equal(names_claim(&n, "web", -1, false, node_a, NULL), 0);
	assert_int_equal(unlink(in_dir("qchain0")), 0);
	assert_int_equal(symlink(node_b, in_dir("qchain0")), 0);
	names_release(&n);
	assert_string_equal(target_of(in_dir("qchain0")), node_b);
}

/* Some block device of this machine that is no loop device. */
static bool live_device(char *path, size_t len)
{
	FILE *f = fopen("/proc/partitions", "re");
	char line[256], name[128];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*u %*u %*u %127s", name) != 1 || !strncmp(name, "loop", 4))
			continue;
		snprintf(path, len, "/dev/%s", name);
		found = names_target_alive(path);
	}
	if (f)
		fclose(f);
	return found;
}

static void live_names_are_refused(void **state)
{
	struct error e = ERROR_INIT;
	char live[160];
	struct names n;

	if (!live_device(live, sizeof(live)))
		skip();
	assert_int_equal(mkdir(in_dir("qchain"), 0755), 0);
	assert_int_equal(symlink(live, in_dir("qchain/web")), 0);
	assert_int_equal(symlink(live, in_dir("qchain0")), 0);
	assert_int_equal(names_claim(&n, "web", -1, false, node_a, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "qchain/web exists"));
	assert_string_equal(target_of(in_dir("qchain/web")), live);
	assert_int_equal(names_claim(&n, "db", -1, false, node_a, NULL), 0);
	assert_int_equal(n.number, 1);
	names_release(&n);
	assert_string_equal(target_of(in_dir("qchain0")), live);
}

static void missing_folder(void **state)
{
	struct error e = ERROR_INIT;
	struct names n;

	setenv("QCHAIN_DEVDIR", "/no/such/folder", 1);
	assert_int_equal(names_claim(&n, "web", -1, false, node_a, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "/no/such/folder"));
	setenv("QCHAIN_DEVDIR", dir, 1);
}

/* Processes that claim at once: each gets its own number. (Their links count as alive only as long as
   names are held here, so each child waits at a pipe until all have claimed.) */
static void numbers_are_claimed_once(void **state)
{
	int go[2], done[2], seen[8] = { 0 };
	char live[160];

	if (!live_device(live, sizeof(live)))
		skip();
	assert_int_equal(pipe(go), 0);
	assert_int_equal(pipe(done), 0);
	for (int i = 0; i < 8; i++) {
		if (fork() == 0) {
			char name[8], target[200], c = 0;
			struct names n;
			int rc;

			close(go[1]);
			snprintf(name, sizeof(name), "c%d", i);
			/* eight different paths to one live device */
			snprintf(target, sizeof(target), "/dev%.*s%s", i, "////////", live + 4);
			rc = names_claim(&n, name, -1, false, target, NULL);
			c = rc == 0 ? (char)n.number : 127;
			if (write(done[1], &c, 1) != 1 || read(go[0], &c, 1) < 0)
				_exit(1);
			if (rc == 0)
				names_release(&n);
			_exit(0);
		}
	}
	for (int i = 0; i < 8; i++) {
		char c;

		assert_int_equal(read(done[0], &c, 1), 1);
		assert_in_range(c, 0, 7);
		seen[(int)c]++;
	}
	close(go[1]);
	for (int i = 0; i < 8; i++) {
		int st;

		assert_int_not_equal(wait(&st), -1);
		assert_int_equal(st, 0);
		assert_int_equal(seen[i], 1);
	}
	close(go[0]);
	close(done[0]);
	close(done[1]);
	assert_int_equal(access(in_dir("qchain"), F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(claims_and_releases, setup, teardown),
		cmocka_unit_test_setup_teardown(wanted_number, setup, teardown),
		cmocka_unit_test_setup_teardown(taken_number, setup, teardown),
		cmocka_unit_test_setup_teardown(dead_links_go, setup, teardown),
		cmocka_unit_test_setup_teardown(strangers_to_our_node_go, setup, teardown),
		cmocka_unit_test_setup_teardown(number_is_kept, setup, teardown),
		cmocka_unit_test_setup_teardown(others_links_stay, setup, teardown),
		cmocka_unit_test_setup_teardown(live_names_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(missing_folder, setup, teardown),
		cmocka_unit_test_setup_teardown(numbers_are_claimed_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
