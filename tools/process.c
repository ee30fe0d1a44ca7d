/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * process.c - what makes a process fit to stand in the kernel's I/O path, and
 * how it tells others that it is up: the waiting parent and systemd.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/log.h"
#include "tools/applet.h"
#include "tools/daemon.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

/* The parent: passes on what the child says, or what became of it. */
static int parent_wait(const char *who, int fd, pid_t child)
{
	char text[ERROR_MSG_MAX + 256];
	size_t len = 0;
	ssize_t n;
	int status;

	while (len < sizeof(text) - 1) {
		n = read(fd, text + len, sizeof(text) - 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	text[len] = '\0';
	if (len && text[0] == '+')
		return EXIT_DONE;
	if (len) {
		fputs(text + 1, stderr);
		return EXIT_FAILED;
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		fprintf(stderr, "%s: the daemon was killed by signal %d (%s) while it started\n", who,
			WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		fprintf(stderr, "%s: the daemon ended with status %d before it was up\n", who,
			WEXITSTATUS(status));
	return EXIT_FAILED;
}

int process_background(const char *who)
{
	int fds[2];
	pid_t pid;

	/* What the caller holds open (a lock, say) must not live as long as the daemon. */
	close_range(STDERR_FILENO + 1, ~0u, 0);
	if (pipe2(fds, O_CLOEXEC) < 0 || (pid = fork()) < 0) {
		fprintf(stderr, "%s: cannot go to the background: %s\n", who, strerror(errno));
		exit(EXIT_FAILED);
	}
	if (pid > 0) {
		close(fds[1]);
		fflush(stdout);
		_exit(parent_wait(who, fds[0], pid));
	}
	close(fds[0]);
	setsid();
	return fds[1];
}

/* One byte of verdict, then the line if it is bad news. */
void process_report(int fd, const char *failure)
{
	char text[ERROR_MSG_MAX + 256];
	int len = snprintf(text, sizeof(text), "%c%s", failure ? '-' : '+', failure ? failure : "");
	ssize_t n;

	do {
		n = write(fd, text, (size_t)len);
	} while (n < 0 && errno == EINTR);
	close(fd);
}

void process_harden(void)
{
	int fd;

	if (geteuid() != 0)
		return;
	/* Our memory reclaim must not start I/O that would have to come back through us. */
	if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
		log_debug("PR_SET_IO_FLUSHER: %s", strerror(errno));
	if (mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
		log_warn("cannot lock memory: %s; under memory pressure the device may stall", strerror(errno));
	fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, "-1000", 5) != 5)
		log_debug("cannot protect the daemon from the OOM killer: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

void process_notify(const char *state)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	socklen_t len;
	int fd;

	if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(addr.sun_path))
		return;
	strcpy(addr.sun_path, path);
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (path[0] == '@')
		addr.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&addr, len) < 0)
		log_warn("cannot tell the service manager '%s': %s", state, strerror(errno));
	close(fd);
}
