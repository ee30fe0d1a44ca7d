/* SPDX-License-Identifier: GPL-2.0-or-later */
/* spawn.c - see spawn.h. */
#include "tools/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/qmp_client.h"

#define STOP_TIMEOUT_MS 300000
#define EXTRA_MAX 16

/* The path of qchaind, or its bare name for execvp() to look up. */
static const char *daemon_path(char *buf, size_t len)
{
	static const char *const folders[] = { "/usr/local/sbin", "/usr/sbin", "/sbin" };
	ssize_t n = readlink("/proc/self/exe", buf, len - 1);
	char *slash;

	if (n > 0) {
		buf[n] = '\0';
		slash = strrchr(buf, '/');
		if (slash && (size_t)(slash - buf) + sizeof("/qchaind") <= len) {
			strcpy(slash, "/qchaind");
			if (access(buf, X_OK) == 0)
				return buf;
		}
	}
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(buf, len, "%s/qchaind", folders[i]);
		if (access(buf, X_OK) == 0)
			return buf;
	}
	return "qchaind";
}

static void child_exec(const char *name, const char *const *extra, int err_fd)
{
	const char *argv[EXTRA_MAX + 4] = { "qchaind", "--name", name };
	char path[PATH_MAX];
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), n = 3;

	while (extra && *extra && n < EXTRA_MAX + 3)
		argv[n++] = *extra++;
	if (null >= 0)
		dup2(null, STDIN_FILENO);
	dup2(err_fd, STDERR_FILENO);
	execvp(daemon_path(path, sizeof(path)), (char *const *)argv);
	dprintf(STDERR_FILENO, "cannot run qchaind: %s; install it beside this program or in PATH\n", strerror(errno));
	_exit(127);
}

/* All that the daemon says until it is up (then it lets go of the pipe) or dead. */
static size_t read_all(int fd, char *text, size_t len)
{
	size_t at = 0;

	for (;;) {
		char drop[256];
		bool full = at + 1 >= len;
		ssize_t n = read(fd, full ? drop : text + at, full ? sizeof(drop) : len - 1 - at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		if (!full)
			at += (size_t)n;
	}
	text[at] = '\0';
	while (at && text[at - 1] == '\n')
		text[--at] = '\0';
	return at;
}

/* The last line without "qchaind: chain 'NAME': "; lines before it go to stderr as they are. */
static const char *failure_line(char *text, const char *name)
{
	char prefix[128];
	char *last = strrchr(text, '\n');

	if (last) {
		*last++ = '\0';
		fprintf(stderr, "%s\n", text);
	} else {
		last = text;
	}
	snprintf(prefix, sizeof(prefix), "qchaind: chain '%s': ", name);
	if (!strncmp(last, prefix, strlen(prefix)))
		last += strlen(prefix);
	return last;
}

int daemon_spawn(const char *name, const char *const *extra, struct error *e)
{
	char text[ERROR_MSG_MAX];
	int fds[2], status;
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return error_set_errno(e, errno, "cannot make a pipe");
	pid = fork();
	if (pid < 0) {
		int err = errno;

		close(fds[0]);
		close(fds[1]);
		return error_set_errno(e, err, "cannot start a process");
	}
	if (pid == 0)
		child_exec(name, extra, fds[1]);
	close(fds[1]);
	read_all(fds[0], text, sizeof(text));
	close(fds[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		if (text[0])
			fprintf(stderr, "%s\n", text);
		return 0;
	}
	if (text[0])
		return error_set(e, EIO, "%s", failure_line(text, name));
	return error_set(e, EIO, "qchaind ended with status %d and said nothing",
			 WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

int daemon_quit(const char *name, struct error *e)
{
	struct qmp_peer *p;
	json_t *value;
	int ret;

	ret = qmp_connect(name, &p, e);
	if (ret < 0)
		return ret;
	value = qmp_execute(p, "quit", NULL, e);
	if (!value) {
		qmp_disconnect(p);
		return -EIO;
	}
	json_decref(value);
	ret = qmp_wait_closed(p, STOP_TIMEOUT_MS);
	qmp_disconnect(p);
	if (ret < 0)
		return error_set(e, ETIMEDOUT, "the daemon has not ended after %d s; see its log",
				 STOP_TIMEOUT_MS / 1000);
	return 0;
}
