/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qmp_client.h - how the commands talk to a daemon: blocking, with a time-out for every answer.
 */
#ifndef QCHAIN_TOOLS_QMP_CLIENT_H
#define QCHAIN_TOOLS_QMP_CLIENT_H

#include <jansson.h>

#include "io/error.h"

#define QMP_ANSWER_MS 10000

struct qmp_peer;

/* Connects to the chain's daemon and negotiates. -ENOTCONN if none serves it, -EAGAIN if it is not up yet. */
int qmp_connect(const char *chain, struct qmp_peer **out, struct error *e);
void qmp_disconnect(struct qmp_peer *p);
/*
 * Runs a command and gives the value of "return" (new reference), or NULL with e set: the
 * daemon's own words, or that it did not answer in time. Takes over args (NULL = none).
 */
json_t *qmp_execute(struct qmp_peer *p, const char *command, json_t *args, struct error *e);
/* Waits until the daemon closes the connection, which it does last. -ETIMEDOUT. */
int qmp_wait_closed(struct qmp_peer *p, int timeout_ms);

#endif
