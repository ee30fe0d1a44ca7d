/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qmp.c - see qmp.h.
 *
 * A client's coroutine takes one request after the other out of its input buffer;
 * the socket callback only moves bytes and wakes it. Replies and events go to the
 * output buffer, and from there to the socket at once as far as it takes them.
 */
#include "tools/qmp.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "io/co.h"
#include "io/log.h"
#include "tools/json_split.h"
#include "tools/json_util.h"

#define LISTENERS_MAX 4
#define BUFFER_KEEP (256u << 10)
#define LARGE_REPLY 500          /* values */

struct bytes {
	char *p;
	size_t len, cap;
};

struct qmp_client {
	struct qmp_server *s;
	struct list link;              /* s->clients */
	struct io_watch watch;
	struct co_queue wake;          /* its coroutine: input came, output left, or it is over */
	struct bytes in, out;
	size_t events;                 /* bytes of events sent to it since `out` was last empty */
	struct json_split split;
	bool negotiated;
	bool eof;                      /* the peer sends no more; replies may still go out */
	bool gone;                     /* nothing can be sent any more, or it is being dropped */
};

struct listener {
	struct qmp_server *s;
	struct io_watch watch;         /* fd -1: free slot */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct qmp_server {
	struct reactor *r;
	const struct qmp_command *const *tables;
	void *owner;
	struct listener listeners[LISTENERS_MAX];
	struct list clients;
	unsigned nr_clients;
	struct co_queue emptied;       /* co_qmp_server_close waits for the last client */
};

/* --- buffers and the socket --- */

static void bytes_reserve(struct bytes *b, size_t more)
{
	size_t want = b->cap ? b->cap : 4096;

	while (want < b->len + more)
		want *= 2;
	if (want == b->cap)
		return;
	b->p = realloc(b->p, want);
	if (!b->p)
		abort();
	b->cap = want;
}

static void bytes_drop(struct bytes *b, size_t n)
{
	assert(n <= b->len);
	b->len -= n;
	if (b->len)
		memmove(b->p, b->p + n, b->len);
}

static void client_events(struct qmp_client *c)
{
	uint32_t events = 0;

	if (c->gone) {
		reactor_unwatch(c->s->r, &c->watch);
		return;
	}
	if (!c->eof && c->in.len < QMP_INPUT_MAX)
		events |= EPOLLIN;
	if (c->out.len)
		events |= EPOLLOUT;
	if (events == c->watch.events && c->watch.armed)
		return;
	c->watch.events = events;
	if (!events)               /* else a hang-up would be reported again and again */
		reactor_unwatch(c->s->r, &c->watch);
	else if (reactor_watch(c->s->r, &c->watch) < 0)
		c->gone = true;
}

static void client_drop(struct qmp_client *c)
{
	c->gone = true;
	client_events(c);
	co_queue_wake_all(&c->wake);
}

static void client_flush(struct qmp_client *c)
{
	size_t sent = 0;

	while (sent < c->out.len && !c->gone) {
		ssize_t n = send(c->watch.fd, c->out.p + sent, c->out.len - sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
			sent += (size_t)n;
		else if (n < 0 && errno == EINTR)
			continue;
		else if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			break;
		else
			c->gone = true;
	}
	bytes_drop(&c->out, sent);
	if (!c->out.len) {
		c->events = 0;
		if (c->out.cap > BUFFER_KEEP) {    /* memory is locked: give a large reply's back */
			free(c->out.p);
			memset(&c->out, 0, sizeof(c->out));
		}
	}
	client_events(c);
}

/* Returns the bytes queued. Frees text. */
static size_t client_send_text(struct qmp_client *c, char *text)
{
	size_t len;

	if (!text)
		abort();
	len = strlen(text);
	bytes_reserve(&c->out, len + 2);
	memcpy(c->out.p + c->out.len, text, len);
	memcpy(c->out.p + c->out.len + len, "\r\n", 2);
	c->out.len += len + 2;
	free(text);
	client_flush(c);
	return len + 2;
}

static size_t client_send(struct qmp_client *c, json_t *message)
{
	char *text = json_dumps(message, JSON_ENSURE_ASCII);

	json_decref(message);
	return client_send_text(c, text);
}

/* How many values message holds, counted up to a limit. */
static size_t json_weight(const json_t *message, size_t limit)
{
	size_t n = 1, i;
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)message, key, v)
		if (n < limit)
			n += json_weight(v, limit - n);
	json_array_foreach(message, i, v)
		if (n < limit)
			n += json_weight(v, limit - n);
	return n;
}

struct dump {
	const json_t *message;
	char *text;
};

static int dump_run(void *arg)
{
	struct dump *d = arg;

	d->text = json_dumps(d->message, JSON_ENSURE_ASCII);
	return 0;
}

/*
 * A reply about a long chain may be megabytes, and printing it takes longer than a guest should
 * wait: a helper thread does it. Nobody else touches the message meanwhile.
 */
static void co_client_reply(struct qmp_client *c, json_t *message)
{
	struct dump d = { .message = message };

	if (json_weight(message, LARGE_REPLY) < LARGE_REPLY) {
		client_send(c, message);
		return;
	}
	co_worker_run(c->s->r, dump_run, &d);
	json_decref(message);
	client_send_text(c, d.text);
}

static void client_input(struct qmp_client *c)
{
	while (c->in.len < QMP_INPUT_MAX) {
		ssize_t n;

		bytes_reserve(&c->in, 4096);
		n = recv(c->watch.fd, c->in.p + c->in.len, c->in.cap - c->in.len, MSG_DONTWAIT);
		if (n > 0) {
			c->in.len += (size_t)n;
			continue;
		}
		if (n < 0 && errno == EINTR)
			continue;
		if (n == 0)
			c->eof = true;
		else if (errno != EAGAIN && errno != EWOULDBLOCK)
			c->gone = true;
		break;
	}
	client_events(c);
}

static void client_ready(struct io_watch *w, uint32_t revents)
{
	struct qmp_client *c = w->arg;

	if (revents & EPOLLIN)
		client_input(c);
	if (!c->gone && (revents & (EPOLLERR | EPOLLHUP)) && !(revents & EPOLLIN))
		c->gone = true;
	if (!c->gone)
		client_flush(c);
	else
		client_events(c);
	co_queue_wake_all(&c->wake);
}

/* --- dispatch --- */

static const char *const class_names[] = {
	[QMP_GENERIC] = "GenericError",
	[QMP_COMMAND_NOT_FOUND] = "CommandNotFound",
	[QMP_DEVICE_NOT_FOUND] = "DeviceNotFound",
	[QMP_DEVICE_NOT_ACTIVE] = "DeviceNotActive",
};

static const struct qmp_command *command_find(const struct qmp_server *s, const char *name)
{
	for (unsigned t = 0; s->tables[t]; t++)
		for (const struct qmp_command *cmd = s->tables[t]; cmd->name; cmd++)
			if (!strcmp(cmd->name, name))
				return cmd;
	return NULL;
}

/* Which members a request may have, and of which type. */
static bool request_check(struct qmp_call *call, const json_t *request)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)request, key, v) {
		if (!strcmp(key, "id"))
			continue;
		if (!strcmp(key, "execute") && json_is_string(v))
			continue;
		if (!strcmp(key, "arguments") && json_is_object(v))
			continue;
		if (!strcmp(key, "execute"))
			qmp_fail(call, QMP_GENERIC, "QMP input member 'execute' must be a string");
		else if (!strcmp(key, "arguments"))
			qmp_fail(call, QMP_GENERIC, "QMP input member 'arguments' must be an object");
		else
			qmp_fail(call, QMP_GENERIC, "QMP input member '%s' is unexpected", key);
		return false;
	}
	if (!json_object_get(request, "execute")) {
		qmp_fail(call, QMP_GENERIC, "QMP input lacks member 'execute'");
		return false;
	}
	return true;
}

static json_t *capabilities_accept(struct qmp_client *c, struct qmp_call *call)
{
	const json_t *enable = json_object_get(call->args, "enable");
	size_t i;
	json_t *v;

	json_array_foreach((json_t *)enable, i, v) {
		if (!json_is_string(v))
			return qmp_fail(call, QMP_GENERIC,
					"Invalid parameter type for 'enable[%zu]', expected: string", i);
		if (strcmp(json_string_value(v), "oob"))
			/* QEMU has no name for an element of a list here, and says so. */
			return qmp_fail(call, QMP_GENERIC, "Parameter 'null' does not accept value '%s'",
					json_string_value(v));
	}
	if (c->negotiated)
		return qmp_fail(call, QMP_COMMAND_NOT_FOUND,
				"Capabilities negotiation is already complete, command ignored");
	if (json_array_size(enable))
		return qmp_fail(call, QMP_GENERIC, "Capability oob not available");
	c->negotiated = true;
	return json_object();
}

static json_t *execute(struct qmp_client *c, struct qmp_call *call, const json_t *request)
{
	static const struct qmp_arg negotiation_args[] = {
		{ "enable", QMP_ARRAY, true, NULL }, { 0 }
	};
	static json_t *none;
	const struct qmp_command *cmd;
	const char *name;

	if (!json_is_object(request))
		return qmp_fail(call, QMP_GENERIC, "QMP input must be a JSON object");
	if (!request_check(call, request))
		return NULL;
	name = json_string_value(json_object_get(request, "execute"));
	call->args = json_object_get(request, "arguments");
	if (!none)
		none = json_object();
	if (!call->args)
		call->args = none;
	if (!strcmp(name, "qmp_capabilities")) {
		if (!qmp_args_check(call, call->args, negotiation_args, ""))
			return NULL;
		return capabilities_accept(c, call);
	}
	if (!c->negotiated)
		return qmp_fail(call, QMP_COMMAND_NOT_FOUND,
				"Expecting capabilities negotiation with 'qmp_capabilities'");
	cmd = command_find(c->s, name);
	if (!cmd)
		return qmp_fail(call, QMP_COMMAND_NOT_FOUND, "The command %s has not been found", name);
	if (!qmp_args_check(call, call->args, cmd->args, ""))
		return NULL;
	return cmd->handler(call);
}

/* One request in, one reply out. */
static void co_client_serve(struct qmp_client *c, const char *text, size_t len)
{
	struct qmp_call *call = calloc(1, sizeof(*call));
	json_t *request, *reply = json_object(), *value = NULL, *id;
	json_error_t parse;

	if (!call || !reply)
		abort();
	call->server = c->s;
	call->owner = c->s->owner;
	request = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &parse);
	if (!request)
		qmp_fail(call, QMP_GENERIC, "JSON parse error, %s", parse.text);
	else
		value = execute(c, call, request);
	if (value) {
		put(reply, "return", value);
	} else {
		json_t *error = json_object();

		assert(call->error.code);
		put_text(error, "class", class_names[call->error_class]);
		put_text(error, "desc", call->error.msg);
		put(reply, "error", error);
	}
	id = json_object_get(request, "id");
	if (id)
		put(reply, "id", json_incref(id));
	co_client_reply(c, reply);
	json_decref(request);
	free(call);
}

static void client_complain(struct qmp_client *c, const char *what)
{
	json_t *error = json_object(), *reply = json_object();

	put_text(error, "class", class_names[QMP_GENERIC]);
	put_text(error, "desc", what);
	put(reply, "error", error);
	client_send(c, reply);
}

/* Takes the next value out of the input, if there is one whole. */
static bool co_client_next(struct qmp_client *c)
{
	enum json_split_result found = json_split(&c->split, c->in.p, c->in.len, c->eof);
	size_t len;
	char *text;

	if (c->split.deepest > QMP_NESTING_MAX) {
		client_complain(c, "JSON nesting depth limit exceeded");
		client_drop(c);
		return false;
	}
	switch (found) {
	case JSON_SPLIT_MORE:
		if (c->in.len >= QMP_INPUT_MAX) {
			client_complain(c, "JSON token size limit exceeded");
			client_drop(c);
		}
		return false;
	case JSON_SPLIT_BROKEN:
		bytes_drop(&c->in, c->split.pos);
		memset(&c->split, 0, sizeof(c->split));
		client_complain(c, "JSON parse error, stray control character in a string");
		return true;
	case JSON_SPLIT_VALUE:
		break;
	}
	len = c->split.pos;
	text = malloc(len);
	if (!text)
		abort();
	memcpy(text, c->in.p, len);
	bytes_drop(&c->in, len);
	memset(&c->split, 0, sizeof(c->split));
	client_events(c);
	co_client_serve(c, text, len);
	free(text);
	return true;
}

static void accept_more(struct qmp_server *s);

static void client_free(struct qmp_client *c)
{
	struct qmp_server *s = c->s;

	reactor_unwatch(s->r, &c->watch);
	close(c->watch.fd);
	list_del(&c->link);
	s->nr_clients--;
	free(c->in.p);
	free(c->out.p);
	free(c);
	accept_more(s);
	if (!s->nr_clients)
		co_queue_wake_all(&s->emptied);
}

static void co_client(void *arg)
{
	struct qmp_client *c = arg;
	json_t *greeting = json_object(), *qmp = json_object();

	put(qmp, "version", qmp_version());
	put(qmp, "capabilities", json_array());
	put(greeting, "QMP", qmp);
	client_send(c, greeting);
	while (!c->gone) {
		if (c->out.len < QMP_BACKLOG_MAX && co_client_next(c))
			continue;
		if (c->gone || (c->eof && !c->out.len))
			break;
		co_queue_wait(&c->wake);
	}
	client_free(c);
}

/* --- listening --- */

static void listener_ready(struct io_watch *w, uint32_t revents)
{
	struct listener *l = w->arg;
	struct qmp_server *s = l->s;
	struct qmp_client *c;
	int fd;

	while (s->nr_clients < QMP_CLIENTS_MAX) {
		fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (fd < 0)
			return;
		c = calloc(1, sizeof(*c));
		if (!c)
			abort();
		c->s = s;
		c->watch.fd = fd;
		c->watch.fn = client_ready;
		c->watch.arg = c;
		list_init(&c->watch.link);
		co_queue_init(&c->wake);
		list_add_tail(&s->clients, &c->link);
		s->nr_clients++;
		client_events(c);
		co_start(s->r, co_client, c);
	}
	/* Full: others wait in the socket's queue until a client goes. */
	for (unsigned i = 0; i < LISTENERS_MAX; i++)
		if (s->listeners[i].watch.fd >= 0)
			reactor_unwatch(s->r, &s->listeners[i].watch);
}

static void accept_more(struct qmp_server *s)
{
	for (unsigned i = 0; i < LISTENERS_MAX; i++) {
		struct io_watch *w = &s->listeners[i].watch;

		if (w->fd >= 0 && !w->armed && reactor_watch(s->r, w) < 0)
			log_error("QMP socket '%s' takes no more clients", s->listeners[i].path);
	}
}

/* A socket nobody listens on is a left-over; everything else at that name stays. */
static int path_clear(const struct sockaddr_un *addr, struct error *e)
{
	struct stat st;
	int fd, ret;

	if (lstat(addr->sun_path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode))
		return error_set(e, EEXIST, "'%s' exists and is no socket; give another path for the QMP socket",
				 addr->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(e, errno, "cannot make a socket");
	ret = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
	close(fd);
	if (ret != ECONNREFUSED)
		return error_set(e, EADDRINUSE, "another process listens on '%s'; give another path for the QMP socket",
				 addr->sun_path);
	unlink(addr->sun_path);
	return 0;
}

static int listener_open(struct listener *l, const struct sockaddr_un *addr, struct error *e)
{
	mode_t old;
	int fd, ret;

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return error_set_errno(e, errno, "cannot make a socket");
	old = umask(0177);
	ret = bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? errno : 0;
	umask(old);
	if (!ret && listen(fd, 16) < 0)
		ret = errno;
	if (ret) {
		close(fd);
		return error_set_errno(e, ret, "cannot listen on '%s'", addr->sun_path);
	}
	l->watch.fd = fd;
	return 0;
}

int qmp_server_listen(struct qmp_server *s, const char *path, struct error *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct listener *l = NULL;
	int ret;

	for (unsigned i = 0; i < LISTENERS_MAX && !l; i++)
		if (s->listeners[i].watch.fd < 0)
			l = &s->listeners[i];
	assert(l);
	if (strlen(path) >= sizeof(addr.sun_path))
		return error_set(e, ENAMETOOLONG, "socket path '%s' is too long: at most %zu characters are allowed",
				 path, sizeof(addr.sun_path) - 1);
	strcpy(addr.sun_path, path);
	ret = path_clear(&addr, e);
	if (ret < 0)
		return ret;
	ret = listener_open(l, &addr, e);
	if (ret < 0)
		return ret;
	strcpy(l->path, path);
	l->watch.events = EPOLLIN;
	ret = reactor_watch(s->r, &l->watch);
	return ret < 0 ? error_set_errno(e, -ret, "cannot watch '%s'", path) : 0;
}

void qmp_server_unlisten(struct qmp_server *s)
{
	for (unsigned i = 0; i < LISTENERS_MAX; i++) {
		struct listener *l = &s->listeners[i];

		if (l->watch.fd < 0)
			continue;
		reactor_unwatch(s->r, &l->watch);
		close(l->watch.fd);
		l->watch.fd = -1;
		unlink(l->path);
	}
}

int qmp_server_new(struct reactor *r, const struct qmp_command *const *tables, void *owner,
		   struct qmp_server **out, struct error *e)
{
	struct qmp_server *s = calloc(1, sizeof(*s));

	if (!s)
		return error_set(e, ENOMEM, "no memory for the QMP server");
	s->r = r;
	s->tables = tables;
	s->owner = owner;
	list_init(&s->clients);
	co_queue_init(&s->emptied);
	for (unsigned i = 0; i < LISTENERS_MAX; i++) {
		struct listener *l = &s->listeners[i];

		l->s = s;
		l->watch.fd = -1;
		l->watch.fn = listener_ready;
		l->watch.arg = l;
		list_init(&l->watch.link);
	}
	*out = s;
	return 0;
}

void co_qmp_server_close(struct qmp_server *s)
{
	struct qmp_client *c;

	qmp_server_unlisten(s);
	list_for_each(c, &s->clients, link)
		client_drop(c);
	while (s->nr_clients)
		co_queue_wait(&s->emptied);
	free(s);
}

/* --- events and facts --- */

void qmp_event(struct qmp_server *s, const char *name, json_t *data)
{
	struct qmp_client *c, *next;
	json_t *event = json_object(), *stamp = json_object();
	struct timeval now;
	size_t size;

	gettimeofday(&now, NULL);
	put_int(stamp, "seconds", (uint64_t)now.tv_sec);
	put_int(stamp, "microseconds", (uint64_t)now.tv_usec);
	put(event, "timestamp", stamp);
	put_text(event, "event", name);
	if (data)
		put(event, "data", data);
	list_for_each_safe(c, next, &s->clients, link) {
		if (!c->negotiated || c->gone)
			continue;
		if (c->events > QMP_BACKLOG_MAX) {
			log_warn("a QMP client does not read its events; it is dropped");
			client_drop(c);
			continue;
		}
		size = client_send(c, json_incref(event));
		if (c->out.len)
			c->events += size;
	}
	json_decref(event);
}

json_t *qmp_version(void)
{
	json_t *version = json_object(), *qemu = json_object();

	put_int(qemu, "major", QMP_DIALECT_MAJOR);
	put_int(qemu, "minor", QMP_DIALECT_MINOR);
	put_int(qemu, "micro", QMP_DIALECT_MICRO);
	put(version, "qemu", qemu);
	put_text(version, "package", "qchain-" QCHAIN_VERSION);
	return version;
}

json_t *qmp_command_names(const struct qmp_server *s)
{
	json_t *names = json_array(), *entry = json_object();

	put_text(entry, "name", "qmp_capabilities");
	json_array_append_new(names, entry);
	for (unsigned t = 0; s->tables[t]; t++)
		for (const struct qmp_command *cmd = s->tables[t]; cmd->name; cmd++) {
			entry = json_object();
			put_text(entry, "name", cmd->name);
			json_array_append_new(names, entry);
		}
	return names;
}
