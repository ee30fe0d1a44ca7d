// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_qmp.c - the input is what a client sends to a QMP socket.
 *
 * A byte 0xff is not sent: it marks where the stream is cut in two messages of the socket, with
 * a turn of the server between. Negotiation is done for the input unless it begins with 0xfe,
 * so that most of it reaches the commands: some of each argument type, and the daemon's own, with
 * a chain of one small image. Every line that comes back must be a JSON object, and a server whose client has
 * gone must be able to close.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/co.h"
#include "qcow/create.h"
#include "tests/fuzz/fuzz.h"
#include "tools/daemon.h"
#include "tools/json_util.h"
#include "tools/qmp.h"

static const char hello[] = "{\"execute\":\"qmp_capabilities\"}";
static char path[64];
static struct reactor *r;

/* --- commands --- */

static json_t *cmd_echo(struct qmp_call *call)
{
	return json_deep_copy(call->args);
}

static json_t *cmd_yield(struct qmp_call *call)
{
	co_reschedule();
	qmp_event(call->server, "YIELDED", json_deep_copy(call->args));
	return json_object();
}

static json_t *cmd_fail(struct qmp_call *call)
{
	return qmp_fail(call, QMP_DEVICE_NOT_FOUND, "Device '%s' of %lld not found",
			qmp_arg_str(call, "s") ? qmp_arg_str(call, "s") : "", (long long)qmp_arg_int(call, "i", 1));
}

/* More than is printed at once. */
static json_t *cmd_large(struct qmp_call *call)
{
	json_t *list = json_array();

	for (int i = 0; i < 600; i++)
		json_array_append_new(list, json_integer(i));
	return list;
}

static const char *const modes[] = { "full", "top", "none", NULL };
static const struct qmp_arg all_args[] = {
	{ "s", QMP_STR, true, NULL }, { "i", QMP_INT, true, NULL }, { "n", QMP_NUMBER, true, NULL },
	{ "b", QMP_BOOL, true, NULL }, { "m", QMP_ENUM, true, modes }, { "o", QMP_OBJECT, true, NULL },
	{ "a", QMP_ARRAY, true, NULL }, { "x", QMP_ANY, true, NULL }, { 0 }
};
static const struct qmp_arg needed_args[] = {
	{ "s", QMP_STR, false, NULL }, { "i", QMP_INT, true, NULL }, { 0 }
};
static const struct qmp_command commands[] = {
	{ "echo", cmd_echo, all_args }, { "yield", cmd_yield, all_args }, { "fail", cmd_fail, needed_args },
	{ "large", cmd_large, NULL }, { 0 }
};
static const struct qmp_command *const tables[] = { commands, qmp_misc_commands, qmp_block_commands, NULL };
static struct daemon_opts daemon_opts = { .conf.name = "fuzz" };
static struct daemon daemon_state = { .o = &daemon_opts, .ready_fd = -1 };

/* --- the client --- */

struct client {
	int fd;
	char *in;
	size_t len, cap;
	unsigned replies;
	bool closed;
};

/* Takes whole lines out of what came, and looks at each. */
static void lines(struct client *c)
{
	char *end;

	while ((end = memmem(c->in, c->len, "\r\n", 2))) {
		json_error_t je;
		json_t *v = json_loadb(c->in, (size_t)(end - c->in), 0, &je);

		FUZZ_REQUIRE(json_is_object(v), "a reply that is no JSON object: %s", je.text);
		FUZZ_REQUIRE(json_object_get(v, "QMP") || json_object_get(v, "event") ||
			     !json_object_get(v, "return") != !json_object_get(v, "error"),
			     "a reply that is neither return nor error");
		json_decref(v);
		c->replies++;
		c->len -= (size_t)(end + 2 - c->in);
		memmove(c->in, end + 2, c->len);
	}
}

static void hear(struct client *c)
{
	for (;;) {
		ssize_t n;

		if (c->cap - c->len < 4096) {
			c->cap += 65536;
			c->in = realloc(c->in, c->cap);
			FUZZ_REQUIRE(c->in, "no memory");
		}
		n = recv(c->fd, c->in + c->len, c->cap - c->len, MSG_DONTWAIT);
		if (n <= 0) {
			c->closed = n == 0 || errno == ECONNRESET;
			break;
		}
		c->len += (size_t)n;
		lines(c);
	}
}

static void say(struct client *c, const uint8_t *p, size_t len)
{
	while (len && !c->closed) {
		ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EAGAIN) {
			break;          /* dropped by the server, as it may */
		}
		reactor_turn(r, false);
		hear(c);
	}
}

static void connect_to(struct client *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	strcpy(addr.sun_path, path);
	FUZZ_REQUIRE(c->fd >= 0 && !connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)), "connect: %s",
		     strerror(errno));
}

static int co_close(struct reactor *unused, void *arg)
{
	co_qmp_server_close(arg);
	return 0;
}

static void converse(const uint8_t *data, size_t len)
{
	struct client c = { 0 };
	bool negotiate = !len || data[0] != 0xfe;

	connect_to(&c);
	if (negotiate)
		say(&c, (const uint8_t *)hello, sizeof(hello) - 1);
	while (len) {
		const uint8_t *cut = memchr(data, 0xff, len);
		size_t n = cut ? (size_t)(cut - data) : len;

		say(&c, data, n);
		n += cut != NULL;
		data += n;
		len -= n;
		reactor_turn(r, false);
	}
	shutdown(c.fd, SHUT_WR);
	for (unsigned i = 0; !c.closed; i++) {
		FUZZ_REQUIRE(i < 10000, "the server does not close after the last word");
		reactor_turn(r, false);
		hear(&c);
	}
	FUZZ_REQUIRE(!c.len, "the last line has no end");
	FUZZ_REQUIRE(c.replies >= (negotiate ? 2 : 1), "no greeting, or no answer to qmp_capabilities");
	close(c.fd);
	free(c.in);
}

/* What the commands speak of; it stays open for all runs. */
static int co_make_chain(struct reactor *unused, void *arg)
{
	struct create_opts co = { .format = FORMAT_QCOW2, .size = 1u << 20, .extended_l2 = -1, .overwrite = true };
	struct chain_opts o = { .image = fuzz_path(FUZZ_IMAGE), .format = FORMAT_QCOW2, .max_requests = 1 };
	struct error e = ERROR_INIT;

	FUZZ_REQUIRE(!co_image_create(r, fuzz_path(FUZZ_IMAGE), &co, &e), "%s", e.msg);
	FUZZ_REQUIRE(!co_chain_open(r, &o, &daemon_state.chain, &e), "%s", e.msg);
	return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_init();
	r = fuzz_reactor_new(1);
	daemon_state.r = r;
	co_queue_init(&daemon_state.stop_wait);
	fuzz_reactor_run(r, co_make_chain, NULL);
	snprintf(path, sizeof(path), "/dev/shm/qchain-fuzz-qmp.%d", getpid());
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct qmp_server *s;
	struct error e = ERROR_INIT;

	FUZZ_REQUIRE(!qmp_server_new(r, tables, &daemon_state, &s, &e), "%s", e.msg);
	FUZZ_REQUIRE(!qmp_server_listen(s, path, &e), "%s", e.msg);
	converse(data, len);
	fuzz_reactor_run(r, co_close, s);
	return 0;
}
