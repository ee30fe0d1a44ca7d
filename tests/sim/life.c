// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * life.c - one life of the chain, in a process of its own.
 *
 * Invariant: a life ends by _exit() with the files as the simulated disk left them and the oracle
 * up to date: in crashed(), after a clean close, or in life_fail().
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/log.h"
#include "qcow/check.h"
#include "world.h"

struct life {
	struct world *w;
	enum life_kind kind;
	uint64_t rng;
	struct sim_disk *disk;
	struct reactor *r;
	struct sim_faults faults;
	struct chain *chain;
	bool power_cut;          /* after the close */
};

static struct life life;

static uint64_t rnd(uint64_t n)
{
	return sim_below(&life.rng, n);
}

void life_fail(struct world *w, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(w->failure, sizeof(w->failure), fmt, ap);
	va_end(ap);
	fflush(stdout);
	_exit(1);
}

/* --- ends --- */

static void crashed(void *arg)
{
	struct world *w = arg;

	w->crashed = true;
	w->crashes++;
	w->steps += sim_disk_steps(life.disk);
	fflush(stdout);
	_exit(0);
}

static void stuck(void *arg)
{
	life_fail(arg, "hung: requests are waiting and nothing is in flight");
}

/* --- before the work --- */

static void path_of(const struct world *w, const char *name, char *out, size_t len)
{
	snprintf(out, len, "%s/%s", w->dir, name);
}

static void print_finding(void *arg, const char *line)
{
	printf("  check: %s\n", line);
}

/* The active image, by itself, as a crash left it: no corruption, and leaks within the bound. */
static void co_check_active(struct life *f)
{
	struct world *w = f->w;
	struct world_layer *top = &w->layers[w->depth - 1];
	struct layer_opts lo = { .format = FORMAT_QCOW2, .allow_dirty = true };
	struct check_result res;
	struct error e = ERROR_INIT;
	struct layer *l;
	char path[256];
	int rc;

	if (top->o.format != FORMAT_QCOW2)
		return;
	path_of(w, top->name, path, sizeof(path));
	if (co_layer_open(f->r, path, &lo, &l, &e) < 0)
		life_fail(w, "the image does not open after %s: %s", w->crashed ? "a crash" : "a close", e.msg);
	rc = co_layer_check(l, 0, &res, NULL, NULL, &e);
	w->checks++;
	if (rc < 0 || (res.corruptions && !w->dirty) || res.check_errors) {
		co_layer_check(l, 0, &res, print_finding, NULL, NULL);
		life_fail(w, "check of '%s' after %s: %" PRIu64 " corruptions, %" PRIu64 " leaks, %" PRIu64
			  " errors: %s", top->name, w->crashed ? "a crash" : "a close", res.corruptions,
			  res.leaks, res.check_errors, e.msg);
	}
	if (w->verbose)
		printf("  %" PRIu64 " leaked clusters of %u bytes\n", res.leaks, layer_cluster_size(l));
	if (res.leaks * layer_cluster_size(l) > w->may_leak && !w->dirty)
		life_fail(w, "'%s' has %" PRIu64 " leaked clusters of %u bytes after %s, more than %" PRIu64
			  " bytes", top->name, res.leaks, layer_cluster_size(l),
			  w->crashed ? "a crash" : "a close", w->may_leak);
	co_layer_close(l, NULL);
}

static void co_open(struct life *f)
{
	struct world *w = f->w;
	char path[256];
	struct chain_opts o = {
		.image = path,
		.read_only = f->kind == LIFE_LOOK,
		.cache = rnd(2) ? FILE_CACHE_NONE : FILE_CACHE_WRITEBACK,
		.map_cache = rnd(2) ? 0 : 16384u << rnd(6),
		.meta_cache = rnd(2) ? 0 : 65536u << rnd(5),
		.max_requests = rnd(2) ? 0 : 1 + (unsigned)rnd(32),
		.format = w->layers[w->depth - 1].o.format,
	};
	struct error e = ERROR_INIT;

	path_of(w, w->layers[w->depth - 1].name, path, sizeof(path));
	if (co_chain_open(f->r, &o, &f->chain, &e) < 0)
		life_fail(w, "the chain does not open after %s: %s", w->crashed ? "a crash" : "a close", e.msg);
	if (!o.read_only)
		w->dirty = false;
	if (chain_size(f->chain) != w->oracle.size || chain_depth(f->chain) != w->depth)
		life_fail(w, "the chain has %u layers and %" PRIu64 " bytes, not %u and %" PRIu64,
			  chain_depth(f->chain), chain_size(f->chain), w->depth, w->oracle.size);
}

/* Every sector must hold something that it may hold; that is the base of all that comes. */
static void co_compare_all(struct life *f)
{
	struct world *w = f->w;
	struct oracle *o = &w->oracle;
	unsigned char *disk = buf_alloc(o->size + BUF_ALIGN);
	uint64_t off = 0, bad, step = 65536u << rnd(5);

	for (off = 0; off < o->size; off += step) {
		uint64_t n = o->size - off < step ? o->size - off : step;
		int rc = co_chain_read(f->chain, off, disk + off, n);

		if (rc < 0)
			life_fail(w, "cannot read guest offset %" PRIu64 " after %s: %s", off,
				  w->crashed ? "a crash" : "a close", strerror(-rc));
	}
	if (!oracle_check(o, 0, 0, disk, o->size, &bad)) {
		oracle_explain(o, 0, bad, disk + bad);
		life_fail(w, "guest offset %" PRIu64 " holds after %s what it cannot", bad,
			  w->crashed ? "a crash" : "a close");
	}
	oracle_rebase(o, disk);
	buf_free(disk);
}

/* --- the work --- */

static int co_life_create(void *arg)
{
	struct life *f = arg;
	struct world *w = f->w;
	struct world_layer *l = &w->layers[w->depth - 1];
	struct create_opts o = l->o;
	struct error e = ERROR_INIT;
	char path[256];

	path_of(w, l->name, path, sizeof(path));
	o.backing_name = w->depth > 1 ? w->layers[w->depth - 2].name : NULL;
	o.backing_format = w->depth > 1 ? layer_format_name(w->layers[w->depth - 2].o.format) : NULL;
	o.data_file = l->data_file[0] ? l->data_file : NULL;
	if (co_image_create(f->r, path, &o, &e) < 0)
		life_fail(w, "cannot create '%s': %s", l->name, e.msg);
	return 0;
}

static void co_close(struct life *f)
{
	struct world *w = f->w;
	uint64_t start = oracle_instant(&w->oracle);
	struct error e = ERROR_INIT;
	int rc = co_chain_close(f->chain, &e);

	if (rc < 0 && !w->faulty)
		life_fail(w, "the close failed without a reason: %s", e.msg);
	if (rc == 0)
		oracle_flushed(&w->oracle, start);
	w->closed = rc == 0;
	if (w->closed && !w->faulty)
		w->may_leak = w->may_leak_before;
}

static int co_life_work(void *arg)
{
	struct life *f = arg;
	struct world *w = f->w;
	struct work work = { .w = w, .r = f->r, .rng = sim_random(&f->rng) };

	co_check_active(f);
	co_open(f);
	co_compare_all(f);
	if (f->kind == LIFE_LOOK) {
		co_chain_close(f->chain, NULL);
		return 0;
	}
	sim_disk_set_faults(f->disk, &f->faults);
	work.chain = f->chain;
	work.strict = !w->faulty;
	work.limit = 1u + (unsigned)rnd(rnd(4) ? 150 : 800);
	work.cluster = layer_cluster_size(chain_active(f->chain));
	/* the reservation doubles from a first batch on while it is used up */
	w->may_leak_before = w->may_leak;
	w->may_leak += (2ull << 20) + 128 * work.cluster;
	co_work(&work);
	if (w->faulty && rnd(2)) {
		sim_disk_set_faults(f->disk, &(struct sim_faults){ 0 });
		work.strict = !chain_fault(f->chain);   /* what was an error is none any more */
		work.limit += 1u + (unsigned)rnd(100);
		co_work(&work);
	}
	if (!rnd(4)) {
		sim_disk_crash(f->disk);
		crashed(w);
	}
	co_close(f);
	return 0;
}

/* Most lives have a disk without errors; short transfers and refusals are no errors. */
static void choose_faults(struct life *f)
{
	f->faults = (struct sim_faults){ .partial = rnd(2) ? 0 : 20000, .again = rnd(2) ? 0 : 20000 };
	f->w->faulty = f->kind == LIFE_WORK && !rnd(4);
	if (!f->w->faulty)
		return;
	f->faults.read_eio = rnd(2) ? 0 : 1000u << rnd(5);
	f->faults.write_eio = rnd(2) ? 0 : 1000u << rnd(5);
	f->faults.flush_eio = rnd(2) ? 0 : 1000u << rnd(6);
	f->faults.enospc = rnd(2) ? 0 : 1000u << rnd(8);
}

void life_run(struct world *w, enum life_kind kind)
{
	struct sim_opts so = { .crashed = crashed, .stuck = stuck, .arg = w };
	struct reactor_config cfg = { .engine = ENGINE_SIM };
	struct error e = ERROR_INIT;

	life = (struct life){ .w = w, .kind = kind, .rng = w->seed * 0x9e3779b97f4a7c15u + w->life };
	sim_random(&life.rng);
	so.seed = sim_random(&life.rng);
	if (kind == LIFE_WORK && rnd(8))
		so.crash_at = 1 + rnd(rnd(4) ? 400 : rnd(2) ? 60 : 4000);
	choose_faults(&life);
	log_setup("sim", w->verbose ? LOG_LVL_WARN : LOG_LVL_ERROR, false);
	/* the errors that we make are no news */
	if (w->faulty && !w->verbose && !freopen("/dev/null", "w", stderr))
		life_fail(w, "cannot open /dev/null");
	life.disk = sim_disk_new(&so);
	cfg.depth = rnd(2) ? 0 : 4u << rnd(6);
	cfg.sim = life.disk;
	if (!life.disk || reactor_new(&cfg, &life.r, &e) < 0)
		life_fail(w, "no reactor: %s", e.msg);
	life.power_cut = rnd(2);
	w->closed = false;
	if (kind == LIFE_CREATE)
		reactor_run_co(life.r, co_life_create, &life);
	else
		reactor_run_co(life.r, co_life_work, &life);
	w->steps += sim_disk_steps(life.disk);
	if (kind != LIFE_CREATE && life.power_cut)
		sim_disk_crash(life.disk);
	w->crashed = kind == LIFE_WORK && !w->closed;
	w->closes += w->closed;
	reactor_free(life.r);
	sim_disk_free(life.disk);
	fflush(stdout);
	_exit(0);
}
