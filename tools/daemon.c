/* SPDX-License-Identifier: GPL-2.0-or-later */
/* daemon.c - see daemon.h. */
#include "tools/daemon.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/log.h"
#include "tools/applet.h"
#include "tools/lock_wait.h"

#define FORCE_WITHIN_NS 10000000000ull
#define LOCK_WAIT_NS 10000000000ull   /* of a daemon that was killed */

void daemon_stop(struct daemon *d, bool force)
{
	d->stop_wanted = true;
	d->stop_force |= force;
	co_queue_wake_all(&d->stop_wait);
}

/* The second SIGTERM or SIGINT within ten seconds of the first forces the end although the device is in use. */
static void on_signal(struct io_signal *s)
{
	struct daemon *d = s->arg;
	uint64_t now = reactor_now_ns(d->r);
	bool second = d->last_signal_ns && now - d->last_signal_ns < FORCE_WITHIN_NS;

	d->last_signal_ns = now;
	daemon_stop(d, second);
}

struct layer *daemon_lookup(struct qmp_call *call, const char *device, const char *node_name)
{
	struct daemon *d = call->owner;

	if (device && !strcmp(device, d->o->conf.name))
		return chain_active(d->chain);
	for (unsigned i = 0; node_name && i < chain_depth(d->chain); i++) {
		struct layer *l = chain_layer(d->chain, i);

		if (!strcmp(layer_node_name(l), node_name))
			return l;
	}
	qmp_fail(call, QMP_GENERIC, "Cannot find device='%s' nor node-name='%s'",
		 device ? device : "", node_name ? node_name : "");
	return NULL;
}

/* The device's own sentences begin with "chain 'web': "; ours put that in front of every one. */
static const char *bare(const struct daemon *d, const char *sentence)
{
	char prefix[CHAIN_NAME_MAX + 16];
	int len = snprintf(prefix, sizeof(prefix), "chain '%s': ", d->o->conf.name);

	return strncmp(sentence, prefix, (size_t)len) ? sentence : sentence + len;
}

/* --- the start, step by step --- */

static int co_open_chain(struct daemon *d)
{
	const struct chain_conf *conf = &d->o->conf;
	struct chain_opts o = {
		.image = conf->image,
		.format = conf->format,
		.backing_format = conf->backing_format == FORMAT_UNSET
			? NULL : layer_format_name(conf->backing_format),
		.read_only = conf->read_only,
		.no_lock = d->o->force_share,
		.cache = conf->cache,
		.map_cache = conf->map_cache,
	};
	int ret;

	ret = co_chain_open(d->r, &o, &d->chain, &d->error);
	if (ret == -EAGAIN && d->rundir.after_crash &&
	    co_lock_wait(d->r, conf->image, LOCK_WAIT_NS) == 0) {
		d->error = (struct error)ERROR_INIT;
		ret = co_chain_open(d->r, &o, &d->chain, &d->error);
	}
	return ret;
}

static int co_start_device(struct daemon *d)
{
	const struct chain_conf *conf = &d->o->conf;
	struct device_opts o = {
		.kind = conf->device,
		.name = conf->name,
		.number = conf->number,
		.number_strict = d->o->number_strict,
		.run_dir = d->rundir.path,
		.no_dm = conf->no_dm,
	};

	if (conf->device == DEVICE_NONE)
		return 0;
	return co_device_start(d->chain, &o, &d->device, &d->error);
}

static int start_qmp(struct daemon *d)
{
	static const struct qmp_command *const tables[] = {
		qmp_misc_commands, qmp_block_commands, NULL
	};
	char path[PATH_MAX];
	int ret;

	ret = qmp_server_new(d->r, tables, d, &d->qmp, &d->error);
	if (ret < 0)
		return ret;
	run_path(path, sizeof(path), d->o->conf.name, "qmp.sock");
	ret = qmp_server_listen(d->qmp, path, &d->error);
	if (!ret && d->o->qmp_path)
		ret = qmp_server_listen(d->qmp, d->o->qmp_path, &d->error);
	return ret;
}

/* From here on nobody looks at our stderr, and we hold no folder of the caller's. */
static void detach(struct daemon *d)
{
	char ident[CHAIN_NAME_MAX + 16];
	int null;

	if (d->ready_fd < 0)
		return;
	snprintf(ident, sizeof(ident), "qchaind[%s]", d->o->conf.name);
	log_setup(ident, d->o->debug ? LOG_LVL_DEBUG : LOG_LVL_INFO, true);
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		close(null);
	}
	if (chdir("/") < 0)
		log_warn("cannot leave the current folder: %s", strerror(errno));
	process_report(d->ready_fd, NULL);
	d->ready_fd = -1;
}

static void say_ready(struct daemon *d)
{
	unsigned depth = chain_depth(d->chain);
	char what[96];

	snprintf(what, sizeof(what), "%u %s, %llu bytes", depth, depth == 1 ? "layer" : "layers",
		 (unsigned long long)chain_size(d->chain));
	detach(d);
	process_notify("READY=1");
	if (d->device)
		log_info("chain '%s' (%s) is %s (%s, %s)", d->o->conf.name, what, device_path(d->device),
			 device_kind_name(device_kind(d->device)), device_node(d->device));
	else
		log_info("chain '%s' (%s) is served without a device", d->o->conf.name, what);
}

/* --- the end --- */

/* True when the device is gone. A device in use stays, unless forced. */
static bool co_device_gone(struct daemon *d)
{
	struct error e = ERROR_INIT;
	bool force = d->stop_force;
	int ret;

	d->stop_wanted = d->stop_force = false;
	if (!d->device)
		return true;
	ret = co_device_stop(d->device, force, &e);
	if (ret == -EBUSY) {
		log_error("chain '%s' goes on being served: %s; unmount it first, or send the signal again within 10 seconds to force",
			  d->o->conf.name, bare(d, e.msg));
		return false;
	}
	if (ret < 0)
		log_error("chain '%s': %s", d->o->conf.name, bare(d, e.msg));
	d->device = NULL;
	return true;
}

static int co_teardown(struct daemon *d)
{
	struct error e = ERROR_INIT;
	int ret = 0;

	if (d->qmp)
		qmp_server_unlisten(d->qmp);
	if (d->device)
		co_device_stop(d->device, true, &e);
	d->device = NULL;
	if (d->chain)
		ret = co_chain_close(d->chain, &e);
	d->chain = NULL;
	if (ret < 0 && !d->error.code)
		d->error = e;
	rundir_leave(&d->rundir);
	if (d->qmp)
		co_qmp_server_close(d->qmp);
	d->qmp = NULL;
	return ret;
}

static int co_serve(void *arg)
{
	struct daemon *d = arg;
	int ret, closed;

	ret = co_open_chain(d);
	if (!ret)
		ret = co_start_device(d);
	if (!ret)
		ret = start_qmp(d);
	if (!ret) {
		say_ready(d);
		do {
			while (!d->stop_wanted)
				co_queue_wait(&d->stop_wait);
			process_notify("STOPPING=1");
		} while (!co_device_gone(d));
	}
	closed = co_teardown(d);
	return ret ? ret : closed;
}

/* --- the process --- */

static int failure_report(struct daemon *d)
{
	char line[ERROR_MSG_MAX + 128];

	snprintf(line, sizeof(line), "qchaind: chain '%s': %s\n", d->o->conf.name,
		 d->error.code ? bare(d, d->error.msg) : "failed for an unknown reason");
	if (d->ready_fd >= 0)
		process_report(d->ready_fd, line);
	else if (d->o->foreground)
		fputs(line, stderr);
	else
		log_error("chain '%s': %s", d->o->conf.name, bare(d, d->error.msg));
	return EXIT_FAILED;
}

static int serve(struct daemon *d)
{
	struct reactor_config cfg = { .engine = d->o->conf.engine };
	struct io_signal term = { .signo = SIGTERM, .fn = on_signal, .arg = d };
	struct io_signal intr = { .signo = SIGINT, .fn = on_signal, .arg = d };
	int ret;

	ret = rundir_take(&d->rundir, d->o->conf.name, &d->error);
	if (ret < 0)
		return ret;
	process_harden();
	ret = reactor_new(&cfg, &d->r, &d->error);
	if (ret < 0) {
		rundir_leave(&d->rundir);
		return ret;
	}
	ret = reactor_signal_add(d->r, &term);
	if (!ret)
		ret = reactor_signal_add(d->r, &intr);
	if (ret < 0) {
		error_set_errno(&d->error, -ret, "cannot take signals");
		rundir_leave(&d->rundir);
		return ret;
	}
	ret = reactor_run_co(d->r, co_serve, d);
	reactor_signal_del(d->r, &term);
	reactor_signal_del(d->r, &intr);
	reactor_free(d->r);
	return ret;
}

int daemon_run(const struct daemon_opts *o)
{
	struct daemon *d = calloc(1, sizeof(*d));
	char who[CHAIN_NAME_MAX + 32];
	int status = EXIT_DONE;

	if (!d)
		abort();
	d->o = o;
	d->ready_fd = -1;
	d->rundir.pid_fd = -1;
	co_queue_init(&d->stop_wait);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	snprintf(who, sizeof(who), "qchaind: chain '%s'", o->conf.name);
	if (!o->foreground)
		d->ready_fd = process_background(who);
	log_setup("qchaind", o->debug ? LOG_LVL_DEBUG : o->foreground ? LOG_LVL_INFO : LOG_LVL_WARN, false);
	if (serve(d) < 0)
		status = failure_report(d);
	free(d);
	return status;
}
