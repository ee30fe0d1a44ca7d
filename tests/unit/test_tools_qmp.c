// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The QMP server in one process with its clients: negotiation, errors in QEMU's words, pipelining, cut
 * messages, events, bounds. Nothing sleeps: each wait turns the reactor.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/co.h"
#include "tools/json_util.h"
#include "tools/qmp.h"

static struct reactor *r;
static struct qmp_server *server;
static struct co_queue gate;
static char folder[64], path[96];

static json_t *cmd_echo(struct qmp_call *call)
{
	return json_deep_copy(call->args);
}

/* Yields until another client runs `open-gate`. */
static json_t *cmd_wait_gate(struct qmp_call *call)
{
	co_queue_wait(&gate);
	return json_object();
}

static json_t *cmd_open_gate(struct qmp_call *call)
{
	co_queue_wake_all(&gate);
	return json_object();
}

static json_t *cmd_lost(struct qmp_call *call)
{
	return qmp_fail(call, QMP_DEVICE_NOT_FOUND, "Device '%s' not found", "x");
}

static const char *const modes[] = { "full", "top", NULL };
static const struct qmp_arg echo_args[] = {
	{ "s", QMP_STR, false, NULL }, { "i", QMP_INT, true, NULL }, { "b", QMP_BOOL, true, NULL },
	{ "m", QMP_ENUM, true, modes }, { "o", QMP_OBJECT, true, NULL }, { 0 }
};
static const struct qmp_command commands[] = {
	{ "echo", cmd_echo, echo_args }, { "wait-gate", cmd_wait_gate, NULL },
	{ "open-gate", cmd_open_gate, NULL }, { "lost", cmd_lost, NULL }, { 0 }
};
static const struct qmp_command *const tables[] = { commands, NULL };

static int setup(void **state)
{
	struct reactor_config cfg = { .engine = ENGINE_AIO, .depth = 16 };
	struct error e = ERROR_INIT;

	snprintf(folder, sizeof(folder), "/var/tmp/qchain-unit.XXXXXX");
	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/qmp.sock", folder);
	assert_int_equal(reactor_new(&cfg, &r, &e), 0);
	co_queue_init(&gate);
	assert_int_equal(qmp_server_new(r, tables, NULL, &server, &e), 0);
	assert_int_equal(qmp_server_listen(server, path, &e), 0);
	return 0;
}

static int close_server(void *arg)
{
	co_qmp_server_close(server);
	return 0;
}

static int teardown(void **state)
{
	reactor_run_co(r, close_server, NULL);
	reactor_free(r);
	assert_int_not_equal(access(path, F_OK), 0);
	rmdir(folder);
	return 0;
}

struct client {
	int fd;
	char in[1 << 16];
	size_t len;
};

static void hello(struct client *c)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	memset(c, 0, sizeof(*c));
	strcpy(addr.sun_path, path);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	assert_return_code(connect(c->fd, (struct sockaddr *)&addr, sizeof(addr)), errno);
}

static void say(struct client *c, const char *text, size_t len)
{
	while (len) {
		ssize_t n = send(c->fd, text, len, MSG_NOSIGNAL);

		if (n < 0) {
			assert_int_equal(errno, EAGAIN);
			reactor_turn(r, false);
			continue;
		}
		text += n;
		len -= (size_t)n;
	}
}

/* The next line, or NULL when the server closed. */
static json_t *hear(struct client *c)
{
	for (;;) {
		char *end = memmem(c->in, c->len, "\r\n", 2);
		json_t *message;
		ssize_t n;

		if (end) {
			message = json_loadb(c->in, (size_t)(end - c->in), 0, NULL);
			assert_non_null(message);
			c->len -= (size_t)(end + 2 - c->in);
			memmove(c->in, end + 2, c->len);
			return message;
		}
		reactor_turn(r, false);
		n = recv(c->fd, c->in + c->len, sizeof(c->in) - c->len, 0);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return NULL;
		if (n > 0)
			c->len += (size_t)n;
	}
}

/* Sends text and compares the answer with `want`, written with ' for ". */
static void ask(struct client *c, const char *text, const char *want)
{
	char sent[1024], wanted[1024];
	json_t *got, *expected;

	snprintf(sent, sizeof(sent), "%s", text);
	snprintf(wanted, sizeof(wanted), "%s", want);
	for (char *p = sent; *p; p++)
		*p = *p == '\'' ? '"' : *p;
	for (char *p = wanted; *p; p++)
		*p = *p == '`' ? '"' : *p;
	say(c, sent, strlen(sent));
	got = hear(c);
	expected = json_loads(wanted, 0, NULL);
	assert_non_null(expected);
	if (!json_equal(got, expected)) {
		char *dump = json_dumps(got, 0);

		fail_msg("'%s' gave %s", text, dump);
	}
	json_decref(got);
	json_decref(expected);
}

static void error_is(struct client *c, const char *text, const char *cls, const char *desc)
{
	char want[512];

	snprintf(want, sizeof(want), "{`error`: {`class`: `%s`, `desc`: `%s`}}", cls, desc);
	ask(c, text, want);
}

static void negotiate(struct client *c)
{
	json_t *greeting;

	hello(c);
	greeting = hear(c);
	assert_non_null(json_object_get(json_object_get(greeting, "QMP"), "version"));
	assert_int_equal(json_array_size(json_object_get(json_object_get(greeting, "QMP"), "capabilities")), 0);
	json_decref(greeting);
	ask(c, "{'execute': 'qmp_capabilities'}", "{`return`: {}}");
}

static void negotiation_comes_first(void **state)
{
	struct client c;

	hello(&c);
	json_decref(hear(&c));
	error_is(&c, "{'execute': 'echo', 'arguments': {'s': 'x'}}", "CommandNotFound",
		 "Expecting capabilities negotiation with 'qmp_capabilities'");
	error_is(&c, "{'execute': 'qmp_capabilities', 'arguments': {'enable': ['oob']}}", "GenericError",
		 "Capability oob not available");
	error_is(&c, "{'execute': 'qmp_capabilities', 'arguments': {'enable': ['warp']}}", "GenericError",
		 "Parameter 'null' does not accept value 'warp'");
	ask(&c, "{'execute': 'qmp_capabilities', 'id': 5}", "{`return`: {}, `id`: 5}");
	error_is(&c, "{'execute': 'qmp_capabilities'}", "CommandNotFound",
		 "Capabilities negotiation is already complete, command ignored");
	close(c.fd);
}

static void errors_in_qemus_words(void **state)
{
	static const char *const cases[][2] = {
		{ "[1]", "QMP input must be a JSON object" },
		{ "'text'", "QMP input must be a JSON object" },
		{ "{'execute': 3}", "QMP input member 'execute' must be a string" },
		{ "{'arguments': {}}", "QMP input lacks member 'execute'" },
		{ "{'execute': 'echo', 'arguments': [1]}", "QMP input member 'arguments' must be an object" },
		{ "{'execute': 'echo', 'extra': 1}", "QMP input member 'extra' is unexpected" },
		{ "{'exec-oob': 'echo'}", "QMP input member 'exec-oob' is unexpected" },
		{ "{'execute': 'echo'}", "Parameter 's' is missing" },
		{ "{'execute': 'echo', 'arguments': {'s': 1}}", "Invalid parameter type for 's', expected: string" },
		{ "{'execute': 'echo', 'arguments': {'s': 'x', 'i': 1.5}}",
		  "Invalid parameter type for 'i', expected: integer" },
		{ "{'execute': 'echo', 'arguments': {'s': 'x', 'b': 1}}",
		  "Invalid parameter type for 'b', expected: boolean" },
		{ "{'execute': 'echo', 'arguments': {'s': 'x', 'm': 'half'}}",
		  "Parameter 'm' does not accept value 'half'" },
		{ "{'execute': 'echo', 'arguments': {'s': 'x', 'y': 1}}", "Parameter 'y' is unexpected" },
		{ "{'execute': 'wait-gate', 'arguments': {'y': 1}}", "Parameter 'y' is unexpected" },
	};
	struct client c;

	negotiate(&c);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		error_is(&c, cases[i][0], "GenericError", cases[i][1]);
	ask(&c, "{'execute': 'none', 'id': {'a': [1]}}",
	    "{`error`: {`class`: `CommandNotFound`, `desc`: `The command none has not been found`}, `id`: {`a`: [1]}}");
	error_is(&c, "{'execute': 'lost'}", "DeviceNotFound", "Device 'x' not found");
	close(c.fd);
}

/* After any garbage the next request is understood. */
static void garbage_is_survived(void **state)
{
	static const char *const garbage[] = { "{bad json}", "}", "]]", "tru ", "\"a\nb", "{\"a\":\"\x01\"}\n", "\xff\xfe " };
	const char *request = "\n{\"execute\": \"echo\", \"arguments\": {\"s\": \"x\"}}";
	struct client c;

	negotiate(&c);
	for (size_t i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		json_t *answer;
		bool served = false;

		say(&c, garbage[i], strlen(garbage[i]));
		say(&c, request, strlen(request));
		while (!served) {
			answer = hear(&c);
			assert_non_null(answer);
			served = json_object_get(answer, "return") != NULL;
			if (!served)
				assert_string_equal(get_text(json_object_get(answer, "error"), "class"), "GenericError");
			json_decref(answer);
		}
	}
	close(c.fd);
}

static void pieces_and_pipelines(void **state)
{
	const char *text = "{\"execute\": \"echo\", \"arguments\": {\"s\": \"1\"}, \"id\": 1}"
			   "{\"execute\": \"echo\", \"arguments\": {\"s\": \"2\"}, \"id\": 2}\n"
			   "{\"execute\": \"none\", \"id\": 3} {\"execute\": \"echo\", \"arguments\": {\"s\": \"4\"}, \"id\": 4}";
	struct client c;

	negotiate(&c);
	for (const char *p = text; *p; p++) {
		say(&c, p, 1);
		reactor_turn(r, false);
	}
	for (int id = 1; id <= 4; id++) {
		json_t *answer = hear(&c);

		assert_int_equal(json_integer_value(json_object_get(answer, "id")), id);
		json_decref(answer);
	}
	/* The peer has said all; the answers still come, then the end. */
	say(&c, text, strlen(text));
	shutdown(c.fd, SHUT_WR);
	for (int id = 1; id <= 4; id++)
		json_decref(hear(&c));
	assert_null(hear(&c));
	close(c.fd);
}

static void a_waiting_handler_stops_nobody(void **state)
{
	const char *two = "{\"execute\": \"wait-gate\"}"
			  "{\"execute\": \"echo\", \"arguments\": {\"s\": \"after\"}}";
	struct client a, b;

	negotiate(&a);
	negotiate(&b);
	say(&a, two, strlen(two));
	for (int i = 0; i < 5; i++)
		reactor_turn(r, false);
	ask(&b, "{'execute': 'echo', 'arguments': {'s': 'b'}}", "{`return`: {`s`: `b`}}");
	assert_int_equal(recv(a.fd, a.in, sizeof(a.in), 0), -1);
	ask(&b, "{'execute': 'open-gate'}", "{`return`: {}}");
	ask(&a, "", "{`return`: {}}");
	ask(&a, "", "{`return`: {`s`: `after`}}");
	close(a.fd);
	close(b.fd);
}

static void events_reach_those_who_negotiated(void **state)
{
	struct client a, b, c;
	json_t *event;

	negotiate(&a);
	negotiate(&b);
	hello(&c);
	json_decref(hear(&c));
	qmp_event(server, "JOB_STATUS_CHANGE", json_pack("{s:s}", "id", "j0"));
	for (int i = 0; i < 2; i++) {
		event = hear(i ? &a : &b);
		assert_string_equal(get_text(event, "event"), "JOB_STATUS_CHANGE");
		assert_string_equal(get_text(json_object_get(event, "data"), "id"), "j0");
		assert_true(get_int(json_object_get(event, "timestamp"), "seconds") > 1600000000);
		json_decref(event);
	}
	ask(&c, "{'execute': 'qmp_capabilities'}", "{`return`: {}}");
	close(a.fd);
	close(b.fd);
	close(c.fd);
}

static void a_client_that_does_not_read_is_dropped(void **state)
{
	struct client a, b;
	char filler[4001];

	negotiate(&a);
	negotiate(&b);
	memset(filler, 'x', sizeof(filler) - 1);
	filler[sizeof(filler) - 1] = '\0';
	for (unsigned i = 0; i < 2 * QMP_BACKLOG_MAX / 4000; i++) {
		qmp_event(server, "NOISE", json_pack("{s:s}", "f", filler));
		json_decref(hear(&b));
	}
	for (json_t *message = hear(&a); message; message = hear(&a))
		json_decref(message);
	ask(&b, "{'execute': 'open-gate'}", "{`return`: {}}");
	close(a.fd);
	close(b.fd);
}

static void a_request_beyond_the_bound_ends_the_talk(void **state)
{
	struct client c;
	json_t *answer;
	static char big[QMP_INPUT_MAX + 1];

	negotiate(&c);
	say(&c, "{\"a\":\"", 6);
	memset(big, 'x', sizeof(big));
	say(&c, big, QMP_INPUT_MAX - 6);
	answer = hear(&c);
	assert_string_equal(get_text(json_object_get(answer, "error"), "desc"), "JSON token size limit exceeded");
	json_decref(answer);
	assert_null(hear(&c));
	close(c.fd);
}

/* JSON is parsed by recursion on a coroutine's stack: depth must end before the stack does. */
static void nesting_beyond_the_bound_ends_the_talk(void **state)
{
	static char deep[100000];
	struct client c;
	json_t *answer;

	for (int whole = 0; whole < 2; whole++) {
		negotiate(&c);
		memset(deep, '[', sizeof(deep));
		if (whole)
			memset(deep + sizeof(deep) / 2, ']', sizeof(deep) / 2);
		say(&c, deep, sizeof(deep));
		answer = hear(&c);
		assert_string_equal(get_text(json_object_get(answer, "error"), "desc"),
				    "JSON nesting depth limit exceeded");
		json_decref(answer);
		assert_null(hear(&c));
		close(c.fd);
	}
}

static void more_clients_than_the_bound_wait(void **state)
{
	static struct client c[QMP_CLIENTS_MAX + 1];

	for (unsigned i = 0; i < QMP_CLIENTS_MAX; i++)
		negotiate(&c[i]);
	hello(&c[QMP_CLIENTS_MAX]);
	for (int i = 0; i < 5; i++)
		reactor_turn(r, false);
	assert_int_equal(recv(c[QMP_CLIENTS_MAX].fd, c[0].in, 1, 0), -1);
	close(c[0].fd);
	json_decref(hear(&c[QMP_CLIENTS_MAX]));
	for (unsigned i = 1; i <= QMP_CLIENTS_MAX; i++)
		close(c[i].fd);
}

static void other_files_are_not_replaced(void **state)
{
	char other[128];
	struct error e = ERROR_INIT;
	FILE *f;

	snprintf(other, sizeof(other), "%s/file", folder);
	f = fopen(other, "w");
	fclose(f);
	assert_int_equal(qmp_server_listen(server, other, &e), -EEXIST);
	assert_int_equal(access(other, F_OK), 0);
	unlink(other);
	assert_int_equal(qmp_server_listen(server, path, &e), -EADDRINUSE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(negotiation_comes_first),
		cmocka_unit_test(errors_in_qemus_words),
		cmocka_unit_test(garbage_is_survived),
		cmocka_unit_test(pieces_and_pipelines),
		cmocka_unit_test(a_waiting_handler_stops_nobody),
		cmocka_unit_test(events_reach_those_who_negotiated),
		cmocka_unit_test(a_client_that_does_not_read_is_dropped),
		cmocka_unit_test(a_request_beyond_the_bound_ends_the_talk),
		cmocka_unit_test(nesting_beyond_the_bound_ends_the_talk),
		cmocka_unit_test(more_clients_than_the_bound_wait),
		cmocka_unit_test(other_files_are_not_replaced),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
