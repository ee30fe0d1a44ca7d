// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * serve.c - a chain as a block device and nothing else, for the device tests.
 *
 *   device_serve IMAGE NAME RUN_DIR [kind=fuse|ublk|auto] [number=N] [strict] [ro] [no-dm]
 *                [cache=none|writeback] [engine=uring|aio] [depth=N]
 *
 * Prints one line "ready PATH NAME_PATH NODE KIND DM" when the device is there, and runs until
 * SIGTERM; a device in use is then refused with a line on stderr and goes on, SIGINT stops by
 * force. Prints "stopped". Commands on stdin: "use" answers "used: WHO" or "unused".
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "dm/device.h"
#include "io/co.h"
#include "io/log.h"
#include "io/reactor.h"
#include "qcow/chain.h"

struct serve {
	struct reactor *r;
	struct chain_opts copts;
	struct device_opts dopts;
	struct chain *chain;
	struct device *dev;
	struct co *main;
	bool stop, force;
};

static struct serve S;

static void on_signal(struct io_signal *s)
{
	S.stop = true;
	S.force = s->signo == SIGINT;
	if (S.main) {
		struct co *co = S.main;

		S.main = NULL;
		co_wake(co);
	}
}

static void on_stdin(struct io_watch *w, uint32_t revents)
{
	char line[64], who[256];
	ssize_t n = read(0, line, sizeof(line));

	if (n <= 0) {
		reactor_unwatch(S.r, w);
		return;
	}
	if (!S.dev)
		printf("no device\n");
	else if (device_in_use(S.dev, who, sizeof(who)))
		printf("used: %s\n", who);
	else
		printf("unused\n");
	fflush(stdout);
}

static int serve(void *arg)
{
	struct error e = ERROR_INIT;
	int rc;

	rc = co_chain_open(S.r, &S.copts, &S.chain, &e);
	if (rc < 0)
		goto fail;
	rc = co_device_start(S.chain, &S.dopts, &S.dev, &e);
	if (rc < 0)
		goto fail;
	printf("ready %s %s %s %s %s\n", device_path(S.dev), device_name_path(S.dev),
	       device_node(S.dev), device_kind_name(device_kind(S.dev)),
	       device_has_dm(S.dev) ? "dm" : "plain");
	fflush(stdout);
	for (;;) {
		while (!S.stop) {
			S.main = co_self();
			co_yield();
		}
		S.stop = false;
		e = (struct error)ERROR_INIT;
		rc = co_device_stop(S.dev, S.force, &e);
		if (rc != -EBUSY)
			break;
		fprintf(stderr, "device_serve: %s\n", e.msg);
	}
	S.dev = NULL;
	rc = co_chain_close(S.chain, &e);
	S.chain = NULL;
	if (rc < 0)
		goto fail;
	printf("stopped\n");
	return 0;
fail:
	fprintf(stderr, "device_serve: %s\n", e.msg);
	if (S.chain)
		co_chain_close(S.chain, NULL);
	return 1;
}

static enum engine_kind engine = ENGINE_URING;

static void parse(const char *arg)
{
	if (!strncmp(arg, "kind=", 5) && device_kind_parse(arg + 5, &S.dopts.kind) == 0)
		return;
	if (!strncmp(arg, "engine=", 7) && engine_parse(arg + 7, &engine) == 0)
		return;
	if (!strncmp(arg, "number=", 7))
		S.dopts.number = atoi(arg + 7);
	else if (!strncmp(arg, "depth=", 6))
		S.dopts.queue_depth = (unsigned)atoi(arg + 6);
	else if (!strcmp(arg, "strict"))
		S.dopts.number_strict = true;
	else if (!strcmp(arg, "no-dm"))
		S.dopts.no_dm = true;
	else if (!strcmp(arg, "ro"))
		S.copts.read_only = true;
	else if (!strcmp(arg, "cache=writeback"))
		S.copts.cache = FILE_CACHE_WRITEBACK;
	else if (!strcmp(arg, "cache=none"))
		S.copts.cache = FILE_CACHE_NONE;
	else {
		fprintf(stderr, "device_serve: what is '%s'?\n", arg);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	struct io_signal term = { .signo = SIGTERM, .fn = on_signal };
	struct io_signal intr = { .signo = SIGINT, .fn = on_signal };
	struct io_watch in = { .fd = 0, .events = EPOLLIN, .fn = on_stdin };
	struct reactor_config cfg = { 0 };
	struct error e = ERROR_INIT;
	bool watched;
	int rc;

	if (argc < 4) {
		fprintf(stderr, "usage: device_serve IMAGE NAME RUN_DIR [option]...\n");
		return 2;
	}
	S.copts.image = argv[1];
	S.dopts.name = argv[2];
	S.dopts.run_dir = argv[3];
	S.dopts.number = -1;
	for (int i = 4; i < argc; i++)
		parse(argv[i]);
	log_setup("device_serve", LOG_LVL_INFO, false);
	cfg.engine = engine;
	if (reactor_new(&cfg, &S.r, &e) < 0) {
		fprintf(stderr, "device_serve: %s\n", e.msg);
		return 1;
	}
	if (reactor_signal_add(S.r, &term) < 0 || reactor_signal_add(S.r, &intr) < 0)
		return 1;
	watched = reactor_watch(S.r, &in) == 0;    /* fails when stdin is a file: no commands then */
	rc = reactor_run_co(S.r, serve, NULL);
	if (watched && in.armed)
		reactor_unwatch(S.r, &in);
	reactor_signal_del(S.r, &intr);
	reactor_signal_del(S.r, &term);
	reactor_free(S.r);
	return rc;
}
