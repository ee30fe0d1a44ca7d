// SPDX-License-Identifier: GPL-2.0-or-later
/* Unit tests of io/reactor.h with each engine: tasks, timers, watches, signals, children, helpers. */
#include <errno.h>
#include <liburing.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/co.h"
#include "io/log.h"
#include "io/reactor.h"

static struct reactor *r;
static unsigned count;
static char trace[64];

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = *(enum engine_kind *)*state, .depth = 16 };
	struct error e = ERROR_INIT;

	count = 0;
	trace[0] = '\0';
	if (reactor_new(&cfg, &r, &e) < 0) {
		print_message("%s\n", e.msg);
		r = NULL;
	}
	return 0;
}

static int teardown(void **state)
{
	reactor_free(r);
	return 0;
}

#define NEED_ENGINE() do { if (!r) skip(); } while (0)

/* --- tasks --- */

static struct io_task task_a, task_b;

static void task_a_fn(struct io_task *t)
{
	strcat(trace, "a");
	if (count++ < 3)
		reactor_defer(r, t);
}

static void task_b_fn(struct io_task *t)
{
	strcat(trace, "b");
}

static void tasks_run_in_order_and_may_queue_again(void **state)
{
	NEED_ENGINE();
	io_task_init(&task_a, task_a_fn);
	io_task_init(&task_b, task_b_fn);
	reactor_defer(r, &task_a);
	reactor_defer(r, &task_b);
	reactor_turn(r, true);
	assert_string_equal(trace, "abaaa");
}

static void stops(struct io_task *t)
{
	reactor_stop(r);
}

static void stop_ends_run(void **state)
{
	NEED_ENGINE();
	io_task_init(&task_a, stops);
	reactor_defer(r, &task_a);
	reactor_run(r);
	reactor_stop(r);     /* before run: run returns at once */
	reactor_run(r);
}

static int returns_number(void *arg)
{
	co_reschedule();
	return *(int *)arg;
}

static void run_co_gives_the_result(void **state)
{
	int n = 77;

	NEED_ENGINE();
	assert_int_equal(reactor_run_co(r, returns_number, &n), 77);
}

/* --- timers --- */

static void timer_notes(struct io_timer *t)
{
	strcat(trace, t->arg);
}

static void timers_fire_in_due_order(void **state)
{
	struct io_timer t[4];

	NEED_ENGINE();
	io_timer_init(&t[0], timer_notes, "3");
	io_timer_init(&t[1], timer_notes, "1");
	io_timer_init(&t[2], timer_notes, "2");
	io_timer_init(&t[3], timer_notes, "x");
	reactor_timer_arm(r, &t[0], 3000000);
	reactor_timer_arm(r, &t[1], 1000000);
	reactor_timer_arm(r, &t[3], 100000);
	reactor_timer_arm(r, &t[2], 5000000);
	reactor_timer_arm(r, &t[2], 2000000);   /* re-armed */
	reactor_timer_cancel(r, &t[3]);
	reactor_timer_cancel(r, &t[3]);
	while (strlen(trace) < 3)
		reactor_turn(r, true);
	assert_string_equal(trace, "123");
}

static uint64_t last_due;
static unsigned seed = 7;

static unsigned rnd(unsigned n)
{
	seed = seed * 1103515245u + 12345u;
	return (seed >> 16) % n;
}

static void timer_checks_order(struct io_timer *t)
{
	assert_true(t->due_ns >= last_due);
	last_due = t->due_ns;
	count++;
}

static void many_timers_keep_heap_order(void **state)
{
	struct io_timer *t = calloc(500, sizeof(*t));
	unsigned cancelled = 0;

	NEED_ENGINE();
	last_due = 0;
	for (int i = 0; i < 500; i++) {
		io_timer_init(&t[i], timer_checks_order, NULL);
		reactor_timer_arm(r, &t[i], rnd(3000000));
	}
	for (int i = 0; i < 500; i += 3, cancelled++)
		reactor_timer_cancel(r, &t[i]);
	while (count < 500 - cancelled)
		reactor_turn(r, true);
	reactor_turn(r, false);
	assert_int_equal(count, 500 - cancelled);
	free(t);
}

static int sleeps(void *arg)
{
	uint64_t before = reactor_now_ns(r);

	co_sleep_ns(r, 2000000);
	assert_true(reactor_now_ns(r) - before >= 2000000);
	return 0;
}

static void sleep_lasts_at_least_as_long(void **state)
{
	NEED_ENGINE();
	reactor_run_co(r, sleeps, NULL);
}

/* --- watches --- */

static void reads_one(struct io_watch *w, uint32_t revents)
{
	char c;

	assert_true(revents & EPOLLIN);
	assert_int_equal(read(w->fd, &c, 1), 1);
	count++;
}

static void watch_is_level_triggered(void **state)
{
	struct io_watch w = { .events = EPOLLIN, .fn = reads_one };
	int p[2];

	NEED_ENGINE();
	assert_int_equal(pipe(p), 0);
	w.fd = p[0];
	assert_int_equal(reactor_watch(r, &w), 0);
	for (unsigned round = 1; round <= 3; round++) {
		assert_int_equal(write(p[1], "12345", 5), 5);
		/* each call takes one byte; the rest must be told again */
		while (count < round * 5)
			reactor_turn(r, true);
	}
	reactor_unwatch(r, &w);
	reactor_unwatch(r, &w);
	assert_int_equal(write(p[1], "1", 1), 1);
	reactor_turn(r, false);
	reactor_turn(r, false);
	assert_int_equal(count, 15);
	close(p[0]);
	close(p[1]);
}

static struct io_watch pair[2];

static void unwatches_both(struct io_watch *w, uint32_t revents)
{
	count++;
	reactor_unwatch(r, &pair[0]);
	reactor_unwatch(r, &pair[1]);
}

static void unwatched_is_never_called(void **state)
{
	int p[2][2];

	NEED_ENGINE();
	for (int i = 0; i < 2; i++) {
		assert_int_equal(pipe(p[i]), 0);
		assert_int_equal(write(p[i][1], "x", 1), 1);
		pair[i] = (struct io_watch){ .fd = p[i][0], .events = EPOLLIN,
					     .fn = unwatches_both };
		assert_int_equal(reactor_watch(r, &pair[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		reactor_turn(r, false);
	assert_int_equal(count, 1);   /* the first one silenced the second in the same batch */
	for (int i = 0; i < 2; i++) {
		close(p[i][0]);
		close(p[i][1]);
	}
}

static void wants_output(struct io_watch *w, uint32_t revents)
{
	assert_int_equal(revents, EPOLLOUT);
	count++;
	w->events = EPOLLIN;
	assert_int_equal(reactor_watch(r, w), 0);
}

static void events_can_be_changed(void **state)
{
	struct io_watch w = { .events = EPOLLOUT, .fn = wants_output };
	int p[2];

	NEED_ENGINE();
	assert_int_equal(pipe(p), 0);
	w.fd = p[1];
	assert_int_equal(reactor_watch(r, &w), 0);
	for (int i = 0; i < 4; i++)
		reactor_turn(r, false);
	assert_int_equal(count, 1);
	reactor_unwatch(r, &w);
	close(p[0]);
	close(p[1]);
}

static void watch_reports_errors(void **state)
{
	struct io_watch w = { .fd = -1, .events = EPOLLIN, .fn = reads_one };

	NEED_ENGINE();
	assert_int_equal(reactor_watch(r, &w), -EBADF);
	assert_false(w.armed);
}

/* --- signals --- */

static void signal_notes(struct io_signal *s)
{
	strcat(trace, s->arg);
}

static void signals_arrive_as_callbacks(void **state)
{
	struct io_signal a = { .signo = SIGUSR1, .fn = signal_notes, .arg = "1" };
	struct io_signal b = { .signo = SIGUSR2, .fn = signal_notes, .arg = "2" };
	struct io_signal twice = { .signo = SIGUSR1, .fn = signal_notes };
	sigset_t now;

	NEED_ENGINE();
	assert_int_equal(reactor_signal_add(r, &a), 0);
	assert_int_equal(reactor_signal_add(r, &b), 0);
	assert_int_equal(reactor_signal_add(r, &twice), -EBUSY);
	kill(getpid(), SIGUSR2);
	while (strlen(trace) < 1)
		reactor_turn(r, true);
	kill(getpid(), SIGUSR1);
	while (strlen(trace) < 2)
		reactor_turn(r, true);
	assert_string_equal(trace, "21");
	reactor_signal_del(r, &a);
	reactor_signal_del(r, &b);
	sigprocmask(SIG_BLOCK, NULL, &now);
	assert_false(sigismember(&now, SIGUSR1));
}

/* --- children --- */

static pid_t child_that_exits(int status)
{
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		_exit(status);
	return pid;
}

static void child_gone(struct io_child *c, int wstatus)
{
	assert_true(WIFEXITED(wstatus));
	count = WEXITSTATUS(wstatus);
}

static void child_exit_is_told_and_reaped(void **state)
{
	struct io_child c = { .fn = child_gone };

	NEED_ENGINE();
	c.pid = child_that_exits(17);
	assert_int_equal(reactor_child_add(r, &c), 0);
	while (count != 17)
		reactor_turn(r, true);
	assert_int_equal(waitpid(c.pid, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	assert_int_equal(reactor_child_add(r, &c), -ESRCH);
}

static void child_of_others(struct io_child *c, int wstatus)
{
	assert_int_equal(wstatus, 0);
	count++;
}

static void child_reaped_elsewhere_is_told_too(void **state)
{
	struct io_child c = { .fn = child_of_others };
	int p[2];
	char x;

	NEED_ENGINE();
	assert_int_equal(pipe(p), 0);
	c.pid = fork();
	assert_true(c.pid >= 0);
	if (!c.pid) {
		close(p[1]);
		_exit(read(p[0], &x, 1) ? 2 : 1);   /* lives until the parent closes */
	}
	assert_int_equal(reactor_child_add(r, &c), 0);
	close(p[0]);
	close(p[1]);
	assert_int_equal(waitpid(c.pid, NULL, 0), c.pid);
	log_setup("test", LOG_LVL_ERROR, false);
	while (!count)
		reactor_turn(r, true);
}

static int waits_for_child(void *arg)
{
	int status = 0;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid) {
		raise(SIGKILL);
		_exit(0);
	}
	assert_int_equal(co_child_wait(r, pid, &status), 0);
	assert_true(WIFSIGNALED(status));
	return WTERMSIG(status);
}

static void child_can_be_awaited(void **state)
{
	NEED_ENGINE();
	assert_int_equal(reactor_run_co(r, waits_for_child, NULL), SIGKILL);
}

/* --- helper threads --- */

static int gate[2];

static int blocks_on_pipe(void *arg)
{
	char c;

	return read(gate[0], &c, 1) == 1 ? *(int *)arg : -EIO;
}

static int calls_helper(void *arg)
{
	count += co_worker_run(r, blocks_on_pipe, arg);
	return 0;
}

static int ten_helpers(void *arg)
{
	static int one = 1;
	struct co_group g;

	co_group_init(&g, r, 0);
	for (int i = 0; i < 10; i++)
		co_group_start(&g, calls_helper, &one);   /* more than there are threads */
	assert_int_equal(count, 0);
	assert_int_equal(write(gate[1], "0123456789", 10), 10);
	return co_group_wait(&g);
}

static void helpers_run_and_the_rest_waits(void **state)
{
	NEED_ENGINE();
	assert_int_equal(pipe(gate), 0);
	assert_int_equal(reactor_run_co(r, ten_helpers, NULL), 0);
	assert_int_equal(count, 10);
	close(gate[0]);
	close(gate[1]);
}

/* --- the ring itself --- */

static struct io_cqe_hook hooks[1000];

static void counts_nop(struct io_cqe_hook *h, int res, uint32_t cqe_flags)
{
	assert_int_equal(res, 0);
	count++;
}

static void raw_requests_outnumber_the_ring(void **state)
{
	NEED_ENGINE();
	if (!reactor_ring(r)) {
		assert_int_equal(reactor_engine(r), ENGINE_AIO);
		assert_int_equal(reactor_fixed_file_add(r, 0), -1);
		skip();
	}
	for (int i = 0; i < 1000; i++) {
		struct io_uring_sqe *sqe;

		hooks[i].fn = counts_nop;
		sqe = reactor_sqe(r, &hooks[i]);
		assert_int_equal(sqe->user_data, (uintptr_t)&hooks[i]);
		assert_int_equal(sqe->fd, 0);
		sqe->opcode = IORING_OP_NOP;
	}
	while (count < 1000)
		reactor_turn(r, true);
}

static void fixed_files_run_out_gracefully(void **state)
{
	static int slots[2000];
	int n = 0;

	NEED_ENGINE();
	if (!reactor_ring(r))
		skip();
	while (n < 2000 && (slots[n] = reactor_fixed_file_add(r, STDIN_FILENO)) >= 0)
		n++;
	assert_true(n > 0 && n < 2000);
	while (n)
		reactor_fixed_file_del(r, slots[--n]);
	slots[0] = reactor_fixed_file_add(r, STDIN_FILENO);
	assert_true(slots[0] >= 0);
	reactor_fixed_file_del(r, slots[0]);
}

static void wide_requests_have_room(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_URING, .depth = 8, .sqe128 = true };
	struct io_uring_sqe *sqe;

	if (reactor_new(&cfg, &r, NULL) < 0)
		skip();
	count = 0;
	for (int i = 0; i < 30; i++) {
		hooks[i].fn = counts_nop;
		sqe = reactor_sqe(r, &hooks[i]);
		for (unsigned b = 64; b < 128; b++)
			assert_int_equal(((unsigned char *)sqe)[b], 0);
		memset((unsigned char *)sqe + 64, 0xff, 64);
		sqe->opcode = IORING_OP_NOP;
	}
	while (count < 30)
		reactor_turn(r, true);
	reactor_free(r);
}

/* --- engines that are not to be had --- */

/* In a child, where the system call is switched off: exits with 0 if all is as it should be. */
static void child_without_uring(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { sizeof(code) / sizeof(code[0]), code };
	struct reactor_config cfg = { .engine = ENGINE_URING, .depth = 8 };
	struct error e = ERROR_INIT;
	struct reactor *none;

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) < 0)
		_exit(77);
	if (reactor_new(&cfg, &none, &e) != -EPERM || none)
		_exit(1);
	_exit(strstr(e.msg, "kernel.io_uring_disabled") && strstr(e.msg, "--engine aio") ? 0 : 2);
}

static void io_uring_switched_off_is_explained(void **state)
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (!pid)
		child_without_uring();
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip();
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void too_few_aio_requests_are_explained(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 70000 };
	struct error e = ERROR_INIT;
	struct reactor *none;
	FILE *f = fopen("/proc/sys/fs/aio-max-nr", "r");
	unsigned max = 0;

	if (!f || fscanf(f, "%u", &max) != 1 || max >= cfg.depth) {
		if (f)
			fclose(f);
		skip();
	}
	fclose(f);
	assert_int_equal(reactor_new(&cfg, &none, &e), -EAGAIN);
	assert_null(none);
	assert_non_null(strstr(e.msg, "fs.aio-max-nr"));
}

static void too_few_descriptors_are_an_error(void **state)
{
	struct rlimit old, none_left;
	struct reactor *none;

	getrlimit(RLIMIT_NOFILE, &old);
	for (int k = 0; k < 2; k++) {
		for (int spare = 0; spare < 2; spare++) {
			struct reactor_config cfg = { .engine = (enum engine_kind)k, .depth = 8 };
			struct error e = ERROR_INIT;
			int fd = dup(0);
			int rc;

			assert_true(fd >= 0);
			close(fd);
			none_left = old;
			none_left.rlim_cur = fd + spare;
			assert_int_equal(setrlimit(RLIMIT_NOFILE, &none_left), 0);
			rc = reactor_new(&cfg, &none, &e);
			assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
			assert_true(rc < 0);
			assert_true(strlen(e.msg) > 0);
		}
	}
}

static void engines_have_names(void **state)
{
	enum engine_kind k;

	assert_int_equal(engine_parse("aio", &k), 0);
	assert_int_equal(k, ENGINE_AIO);
	assert_int_equal(engine_parse("uring", &k), 0);
	assert_int_equal(k, ENGINE_URING);
	assert_int_equal(engine_parse("threads", &k), -EINVAL);
	assert_string_equal(engine_name(ENGINE_URING), "uring");
}

static enum engine_kind uring = ENGINE_URING, aio = ENGINE_AIO;

#define T1(f, e) { #f " (" #e ")", f, setup, teardown, &e }
#define T(f) T1(f, uring), T1(f, aio)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(tasks_run_in_order_and_may_queue_again),
		T(stop_ends_run),
		T(run_co_gives_the_result),
		T(timers_fire_in_due_order),
		T(many_timers_keep_heap_order),
		T(sleep_lasts_at_least_as_long),
		T(watch_is_level_triggered),
		T(unwatched_is_never_called),
		T(events_can_be_changed),
		T(watch_reports_errors),
		T(signals_arrive_as_callbacks),
		T(child_exit_is_told_and_reaped),
		T(child_reaped_elsewhere_is_told_too),
		T(child_can_be_awaited),
		T(helpers_run_and_the_rest_waits),
		T(raw_requests_outnumber_the_ring),
		T(fixed_files_run_out_gracefully),
		cmocka_unit_test(wide_requests_have_room),
		cmocka_unit_test(io_uring_switched_off_is_explained),
		cmocka_unit_test(too_few_aio_requests_are_explained),
		cmocka_unit_test(too_few_descriptors_are_an_error),
		cmocka_unit_test(engines_have_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
