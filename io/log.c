// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * log.c - log lines to stderr or to the syslog socket.
 *
 * Invariant: no allocation and no wait. Lines are formatted on the stack; the
 * syslog datagram is sent with MSG_DONTWAIT and dropped when nobody reads.
 */
#include "io/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define LINE_MAX_LEN 4096
#define FACILITY_DAEMON (3 << 3)

static struct {
	char ident[64];
	enum log_level max;
	bool to_syslog;
	bool journal;        /* stderr is the journal: prefix lines with <N> */
	int sock;
} log_state = { "qchain", LOG_LVL_INFO, false, false, -1 };

static const int priority[] = {
	[LOG_LVL_ERROR] = 3, [LOG_LVL_WARN] = 4, [LOG_LVL_INFO] = 6, [LOG_LVL_DEBUG] = 7,
};

/* systemd names the stream it connected as "device:inode". */
static bool stderr_is_journal(void)
{
	const char *s = getenv("JOURNAL_STREAM");
	unsigned long long dev, ino;
	struct stat st;

	if (!s || sscanf(s, "%llu:%llu", &dev, &ino) != 2 || fstat(STDERR_FILENO, &st) < 0)
		return false;
	return st.st_dev == dev && st.st_ino == ino;
}

static int syslog_socket(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "/dev/log" };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

void log_setup(const char *ident, enum log_level max, bool to_syslog)
{
	snprintf(log_state.ident, sizeof(log_state.ident), "%s", ident);
	log_state.max = max;
	log_state.to_syslog = to_syslog;
	log_state.journal = !to_syslog && stderr_is_journal();
	if (log_state.sock >= 0)
		close(log_state.sock);
	log_state.sock = to_syslog ? syslog_socket() : -1;
}

/* True unless the connection is gone; a line that would have to wait is dropped. */
static bool try_send(const char *line, size_t len)
{
	return log_state.sock >= 0 &&
	       (send(log_state.sock, line, len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 ||
		errno == EAGAIN);
}

static void send_syslog(const char *line, size_t len)
{
	if (try_send(line, len))
		return;
	/* the syslog daemon may have been restarted: connect once more, then give up */
	if (log_state.sock >= 0)
		close(log_state.sock);
	log_state.sock = syslog_socket();
	try_send(line, len);
}

void log_write(enum log_level lvl, const char *fmt, ...)
{
	char line[LINE_MAX_LEN];
	int saved = errno;
	size_t used;
	va_list ap;
	int n;

	if (lvl > log_state.max)
		return;
	if (log_state.to_syslog)
		n = snprintf(line, sizeof(line), "<%d>%s[%d]: ", FACILITY_DAEMON | priority[lvl],
			     log_state.ident, (int)getpid());
	else if (log_state.journal)
		n = snprintf(line, sizeof(line), "<%d>", priority[lvl]);
	else
		n = snprintf(line, sizeof(line), "%s: ", log_state.ident);
	used = n;
	va_start(ap, fmt);
	errno = saved;   /* %m */
	n = vsnprintf(line + used, sizeof(line) - used - 1, fmt, ap);
	va_end(ap);
	if (n < 0)
		return;
	used += (size_t)n;
	if (used > sizeof(line) - 2)
		used = sizeof(line) - 2;
	if (log_state.to_syslog) {
		send_syslog(line, used);
	} else {
		line[used++] = '\n';
		if (write(STDERR_FILENO, line, used) < 0)
			errno = 0;   /* nowhere left to complain */
	}
	errno = saved;
}
