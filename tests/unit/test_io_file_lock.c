// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Unit tests of the image locks: among ourselves, and against qemu-io and
 * qemu-img in both directions (skipped where they are not installed).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/file.h"

static struct reactor *r;
static char dir[64], path[128];

static const struct file_opts reader = { .cache = FILE_CACHE_WRITEBACK };
static const struct file_opts writer = { .writable = true, .cache = FILE_CACHE_WRITEBACK };
static const struct file_opts sharing_reader = { .share_write = true,
						 .cache = FILE_CACHE_WRITEBACK };
static const struct file_opts sharing_writer = { .writable = true, .share_write = true,
						 .cache = FILE_CACHE_WRITEBACK };
static const struct file_opts forced = { .no_lock = true, .cache = FILE_CACHE_WRITEBACK };

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 8 };
	int fd;

	strcpy(dir, "/var/tmp/qchain-lock-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/image", dir);
	fd = open(path, O_RDWR | O_CREAT, 0644);
	if (fd < 0 || ftruncate(fd, 1 << 20) < 0)
		return -1;
	close(fd);
	return reactor_new(&cfg, &r, NULL);
}

static int teardown(void **state)
{
	reactor_free(r);
	unlink(path);
	rmdir(dir);
	return 0;
}

static struct file *must_open(const struct file_opts *o)
{
	struct error e = ERROR_INIT;
	struct file *f;

	if (file_open(r, path, o, &f, &e) < 0)
		fail_msg("%s", e.msg);
	return f;
}

static void must_conflict(const struct file_opts *o, const char *word)
{
	struct error e = ERROR_INIT;
	struct file *f;

	assert_int_equal(file_open(r, path, o, &f, &e), -EAGAIN);
	assert_null(f);
	assert_non_null(strstr(e.msg, path));
	assert_non_null(strstr(e.msg, "in use by another process"));
	if (!strstr(e.msg, word))
		fail_msg("'%s' does not say '%s'", e.msg, word);
}

/* --- among ourselves --- */

static void readers_get_along(void **state)
{
	struct file *a = must_open(&reader), *b = must_open(&reader);

	must_conflict(&writer, "write");
	file_close(a);
	must_conflict(&writer, "write");
	file_close(b);
	file_close(must_open(&writer));
}

static void a_writer_is_alone(void **state)
{
	struct file *a = must_open(&writer);

	must_conflict(&reader, "write lock");
	must_conflict(&writer, "write");
	must_conflict(&sharing_writer, "write");
	file_close(must_open(&forced));
	/* a reader that lets others write, beside one that lets nobody but itself write */
	file_close(must_open(&sharing_reader));
	file_close(a);
	file_close(must_open(&reader));
}

static void sharing_writers_get_along(void **state)
{
	struct file *a = must_open(&sharing_writer), *b = must_open(&sharing_writer);

	must_conflict(&reader, "write");
	file_close(a);
	file_close(b);
}

static void a_failed_open_leaves_no_lock(void **state)
{
	struct file *a = must_open(&reader);

	must_conflict(&writer, "write");
	file_close(must_open(&reader));
	file_close(a);
}

static void reopen_takes_and_gives_locks(void **state)
{
	struct file *a = must_open(&reader), *b;
	struct error e = ERROR_INIT;

	assert_int_equal(file_reopen(a, true, &e), 0);
	must_conflict(&reader, "write lock");
	assert_int_equal(file_reopen(a, false, &e), 0);
	b = must_open(&reader);
	assert_int_equal(file_reopen(a, true, &e), -EAGAIN);
	assert_non_null(strstr(e.msg, "in use by another process"));
	assert_false(file_writable(a));
	file_close(b);
	/* the failed attempt left a with exactly its old locks */
	must_conflict(&writer, "write");
	b = must_open(&reader);
	file_close(b);
	assert_int_equal(file_reopen(a, true, NULL), 0);
	file_close(a);
}

static void an_exclusive_lock_of_strangers_is_respected(void **state)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &fl), 0);
	must_conflict(&reader, "exclusive lock");
	close(fd);
	file_close(must_open(&reader));
}

/* --- against QEMU --- */

static int shell(const char *fmt)
{
	char cmd[512];
	int rc;

	snprintf(cmd, sizeof(cmd), fmt, path);
	rc = system(cmd);
	return WIFEXITED(rc) ? WEXITSTATUS(rc) : -1;
}

/*
 * With qcow2 on top QEMU denies writing to others, as our chains do; a raw
 * image that it reads it would let others write.
 */
static bool have_qemu(void)
{
	return system("command -v qemu-io qemu-img >/dev/null 2>&1") == 0 &&
	       shell("qemu-img create -q -f qcow2 %s 1M") == 0;
}

struct qemu {
	pid_t pid;
	int in, out;
};

/* qemu-io with the image open; its first prompt tells that the locks are taken. */
static struct qemu qemu_hold(const char *mode)
{
	struct qemu q;
	int in[2], out[2];
	char c;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	q.pid = fork();
	assert_true(q.pid >= 0);
	if (!q.pid) {
		dup2(in[0], 0);
		dup2(out[1], 1);
		execlp("qemu-io", "qemu-io", "-f", "qcow2", mode, path, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	q.in = in[1];
	q.out = out[0];
	assert_int_equal(read(q.out, &c, 1), 1);
	return q;
}

static void qemu_let_go(struct qemu q)
{
	int status;

	close(q.in);
	assert_int_equal(waitpid(q.pid, &status, 0), q.pid);
	close(q.out);
	assert_int_equal(status, 0);
}

static void we_respect_a_qemu_writer(void **state)
{
	struct qemu q;

	if (!have_qemu())
		skip();
	q = qemu_hold("-t" "writeback");
	must_conflict(&reader, "write");
	must_conflict(&writer, "write");
	file_close(must_open(&forced));
	qemu_let_go(q);
	file_close(must_open(&writer));
}

static void we_respect_a_qemu_reader(void **state)
{
	struct qemu q;

	if (!have_qemu())
		skip();
	q = qemu_hold("-r");
	file_close(must_open(&reader));
	must_conflict(&writer, "write");
	qemu_let_go(q);
}

static void qemu_respects_our_writer(void **state)
{
	struct file *f;

	if (!have_qemu())
		skip();
	f = must_open(&writer);
	assert_int_not_equal(shell("qemu-io -f qcow2 -c 'write 0 512' %s >/dev/null 2>&1"), 0);
	assert_int_not_equal(shell("qemu-img info %s >/dev/null 2>&1"), 0);
	assert_int_equal(shell("qemu-img info --force-share %s >/dev/null 2>&1"), 0);
	file_close(f);
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write 0 512' %s >/dev/null 2>&1"), 0);
}

static void qemu_respects_our_reader(void **state)
{
	struct file *f;

	if (!have_qemu())
		skip();
	f = must_open(&reader);
	assert_int_equal(shell("qemu-img info %s >/dev/null 2>&1"), 0);
	assert_int_equal(shell("qemu-io -f qcow2 -r -c 'read 0 512' %s >/dev/null 2>&1"), 0);
	assert_int_not_equal(shell("qemu-io -f qcow2 -c 'write 0 512' %s >/dev/null 2>&1"), 0);
	file_close(f);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(readers_get_along),
		T(a_writer_is_alone),
		T(sharing_writers_get_along),
		T(a_failed_open_leaves_no_lock),
		T(reopen_takes_and_gives_locks),
		T(an_exclusive_lock_of_strangers_is_respected),
		T(we_respect_a_qemu_writer),
		T(we_respect_a_qemu_reader),
		T(qemu_respects_our_writer),
		T(qemu_respects_our_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
