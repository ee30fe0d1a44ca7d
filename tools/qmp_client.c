/* SPDX-License-Identifier: GPL-2.0-or-later */
/* qmp_client.c - see qmp_client.h. */
#include "tools/qmp_client.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "tools/json_split.h"
#include "tools/json_util.h"
#include "tools/paths.h"
#include "tools/rundir.h"

struct qmp_peer {
	int fd;
	char *in;
	size_t len, cap;
	struct json_split split;
};

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* More bytes, until the deadline. 0: some came; -ECONNRESET: closed; -ETIMEDOUT. */
static int peer_fill(struct qmp_peer *p, int64_t deadline)
{
	struct pollfd pfd = { .fd = p->fd, .events = POLLIN };
	int64_t left = deadline - now_ms();
	ssize_t n;

	if (p->cap - p->len < 4096) {
		p->cap = p->cap ? 2 * p->cap : 16384;
		p->in = realloc(p->in, p->cap);
		if (!p->in)
			abort();
	}
	if (left <= 0 || poll(&pfd, 1, (int)left) == 0)
		return -ETIMEDOUT;
	n = recv(p->fd, p->in + p->len, p->cap - p->len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return -ECONNRESET;
	p->len += (size_t)n;
	return 0;
}

/* The next message; NULL with *err set (-errno). */
static json_t *peer_next(struct qmp_peer *p, int64_t deadline, int *err)
{
	json_t *message;

	while (json_split(&p->split, p->in, p->len, false) == JSON_SPLIT_MORE) {
		*err = peer_fill(p, deadline);
		if (*err)
			return NULL;
	}
	message = json_loadb(p->in, p->split.pos, 0, NULL);
	p->len -= p->split.pos;
	memmove(p->in, p->in + p->split.pos, p->len);
	memset(&p->split, 0, sizeof(p->split));
	*err = message ? 0 : -EPROTO;
	return message;
}

static int peer_send(struct qmp_peer *p, json_t *message)
{
	char *text = json_dumps(message, JSON_ENSURE_ASCII);
	size_t len, sent = 0;
	int ret = 0;

	json_decref(message);
	if (!text)
		abort();
	len = strlen(text);
	while (sent < len && !ret) {
		ssize_t n = send(p->fd, text + sent, len - sent, MSG_NOSIGNAL);

		if (n >= 0)
			sent += (size_t)n;
		else if (errno != EINTR)
			ret = -errno;
	}
	free(text);
	return ret;
}

static int say_lost(struct error *e, int err)
{
	if (err == -ETIMEDOUT)
		return error_set(e, ETIMEDOUT, "the daemon does not answer (%d s); see its log",
				 QMP_ANSWER_MS / 1000);
	return error_set_errno(e, -err, "the daemon ended the conversation");
}

json_t *qmp_execute(struct qmp_peer *p, const char *command, json_t *args, struct error *e)
{
	int64_t deadline = now_ms() + QMP_ANSWER_MS;
	json_t *request = json_object(), *message, *value = NULL;
	int err;

	put_text(request, "execute", command);
	if (args)
		put(request, "arguments", args);
	err = peer_send(p, request);
	while (!err) {
		const json_t *fault;

		message = peer_next(p, deadline, &err);
		if (!message)
			break;
		fault = json_object_get(message, "error");
		value = json_incref(json_object_get(message, "return"));
		if (fault)
			error_set(e, EIO, "%s", get_text(fault, "desc"));
		json_decref(message);
		if (value || fault)
			return value;
		/* an event: not what we wait for */
	}
	say_lost(e, err);
	return NULL;
}

int qmp_connect(const char *chain, struct qmp_peer **out, struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct qmp_peer *p = calloc(1, sizeof(*p));
	json_t *message;
	int err;

	if (!p)
		abort();
	run_path(addr.sun_path, sizeof(addr.sun_path), chain, "qmp.sock");
	p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		err = errno;
		qmp_disconnect(p);
		if ((err == ENOENT || err == ECONNREFUSED) && rundir_owner(chain))
			return error_set(e, EAGAIN, "its daemon (process %d) is starting or ending; try again",
					 (int)rundir_owner(chain));
		if (err == ENOENT || err == ECONNREFUSED)
			return error_set(e, ENOTCONN, "it is not active; activate it with 'qcchange -ay %s'", chain);
		return error_set_errno(e, err, "cannot connect to '%s'", addr.sun_path);
	}
	message = peer_next(p, now_ms() + QMP_ANSWER_MS, &err);
	json_decref(message);
	if (message)
		message = qmp_execute(p, "qmp_capabilities", NULL, e);
	else
		say_lost(e, err);
	if (!message) {
		qmp_disconnect(p);
		return -EIO;
	}
	json_decref(message);
	*out = p;
	return 0;
}

void qmp_disconnect(struct qmp_peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	free(p->in);
	free(p);
}

int qmp_wait_closed(struct qmp_peer *p, int timeout_ms)
{
	int64_t deadline = now_ms() + timeout_ms;
	int err;

	do {
		p->len = 0;        /* events are of no interest any more */
		err = peer_fill(p, deadline);
	} while (!err);
	return err == -ECONNRESET ? 0 : err;
}
