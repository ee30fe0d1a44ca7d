/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qmp.h - the QEMU Machine Protocol: sockets, clients, dispatch and events.
 *
 * Protocol rules: QEMU's docs/interop/qmp-spec. This file knows no chain: commands
 * are tables of data (name, arguments, handler), and replies to query-commands and the
 * checks of arguments come from the same tables.
 *
 * Each client has a coroutine of its own that runs its commands in order, so a
 * handler may yield: other clients and the device go on. There is no
 * out-of-band execution, and the greeting says so.
 *
 * Bounds: QMP_CLIENTS_MAX clients; a request of at most QMP_INPUT_MAX bytes and QMP_NESTING_MAX
 * levels (a coroutine's stack is small, and JSON is parsed by recursion); the
 * next request is read only once the last reply is mostly gone; a client that
 * lets more than QMP_BACKLOG_MAX bytes of events pile up is dropped.
 */
#ifndef QCHAIN_TOOLS_QMP_H
#define QCHAIN_TOOLS_QMP_H

#include <jansson.h>
#include <stdbool.h>

#include "io/error.h"
#include "io/reactor.h"

#define QMP_CLIENTS_MAX 32
#define QMP_INPUT_MAX (1u << 20)
#define QMP_NESTING_MAX 64
#define QMP_BACKLOG_MAX (4u << 20)

/* The QEMU release whose QMP dialect is spoken; clients choose features by it. */
#define QMP_DIALECT_MAJOR 10
#define QMP_DIALECT_MINOR 0
#define QMP_DIALECT_MICRO 0

struct qmp_server;

enum qmp_class { QMP_GENERIC, QMP_COMMAND_NOT_FOUND, QMP_DEVICE_NOT_FOUND, QMP_DEVICE_NOT_ACTIVE };

enum qmp_type { QMP_STR, QMP_INT, QMP_NUMBER, QMP_BOOL, QMP_ENUM, QMP_OBJECT, QMP_ARRAY, QMP_ANY };

struct qmp_arg {
	const char *name;
	enum qmp_type type;
	bool optional;
	const char *const *values;     /* QMP_ENUM: NULL-terminated */
};

/* One execution. args holds only what the table names, of the right types. */
struct qmp_call {
	struct qmp_server *server;
	void *owner;                   /* as given to qmp_server_new() */
	const json_t *args;
	enum qmp_class error_class;
	struct error error;
};

/* Returns the value of "return" (a new reference), or NULL with call->error set. May yield. */
typedef json_t *qmp_handler(struct qmp_call *call);

struct qmp_command {
	const char *name;
	qmp_handler *handler;
	const struct qmp_arg *args;    /* ends at name == NULL; NULL = takes none */
};

/* tables: NULL-terminated list of tables, each ended by name == NULL. */
int qmp_server_new(struct reactor *r, const struct qmp_command *const *tables, void *owner,
		   struct qmp_server **out, struct error *e);
/* Listens on a unix socket of mode 0600; a dead socket of that name is replaced, anything else refused. */
int qmp_server_listen(struct qmp_server *s, const char *path, struct error *e);
/* Stops listening and removes the sockets; clients that are connected stay. */
void qmp_server_unlisten(struct qmp_server *s);
/* Lets running handlers end, sends what is queued as far as it goes at once, closes every client, frees s. */
void co_qmp_server_close(struct qmp_server *s);

/* Sends an event to every client that has negotiated. Takes over the reference to data (NULL: none). */
void qmp_event(struct qmp_server *s, const char *name, json_t *data);

/* Records an error of the class and returns NULL, so that handlers can return it. */
json_t *qmp_fail(struct qmp_call *call, enum qmp_class cls, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Optional arguments: NULL or the default when absent. */
const char *qmp_arg_str(const struct qmp_call *call, const char *name);
bool qmp_arg_bool(const struct qmp_call *call, const char *name, bool absent);
json_int_t qmp_arg_int(const struct qmp_call *call, const char *name, json_int_t absent);

/* {"qemu": {...}, "package": "qchain-..."}; a new reference. */
json_t *qmp_version(void);
/* The commands of all tables: [{"name": ...}]; a new reference. */
json_t *qmp_command_names(const struct qmp_server *s);

/*
 * qmp_args.c: checks args against a table with QEMU's words ("Parameter 'x' is missing");
 * false with call->error set. `prefix` names the object around ("" at the top).
 */
bool qmp_args_check(struct qmp_call *call, const json_t *args, const struct qmp_arg *table,
		    const char *prefix);

#endif
