// SPDX-License-Identifier: GPL-2.0-or-later
/* fuzz.c - see fuzz.h. */
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/log.h"
#include "io/sim.h"
#include "qcow/check.h"

#define READ_MAX   (96u << 10)     /* of guest bytes looked at in one go */
#define STATUS_MAX 2000            /* extents asked for */
#define OPS        24
#define WORKERS    3

static int fds[FUZZ_FILES];
static char paths[FUZZ_FILES][32];
static bool running, verbose;
static uint8_t *read_buf, *work_bufs[WORKERS];   /* kept: they are large, and runs are many */

void fuzz_die(const char *file, int line, const char *cond, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%d: '%s' does not hold: ", file, line, cond);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\n");
	abort();
}

/* --- files --- */

void fuzz_init(void)
{
	for (unsigned i = 0; i < FUZZ_FILES; i++) {
		int fd = memfd_create("qchain-fuzz", MFD_CLOEXEC);

		/* at a number that images of the corpus can name */
		fds[i] = fcntl(fd, F_DUPFD_CLOEXEC, 100 + i);
		FUZZ_REQUIRE(fds[i] == 100 + (int)i, "memfd: %s", strerror(errno));
		close(fd);
		snprintf(paths[i], sizeof(paths[i]), "/proc/self/fd/%d", fds[i]);
	}
	verbose = getenv("QCHAIN_FUZZ_LOG");
	read_buf = buf_alloc(READ_MAX);
	FUZZ_REQUIRE(read_buf, "no memory");
	for (unsigned i = 0; i < WORKERS; i++) {
		work_bufs[i] = buf_alloc(2 * READ_MAX);
		FUZZ_REQUIRE(work_bufs[i], "no memory");
		memset(work_bufs[i], 0xa5, READ_MAX);
	}
}

/* In the place of the log: worded, since that may fail too, but shown only on request. */
void __wrap_log_write(enum log_level lvl, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void __wrap_log_write(enum log_level lvl, const char *fmt, ...)
{
	char text[4096];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (verbose)
		fprintf(stderr, "log: %s\n", text);
}

const char *fuzz_path(enum fuzz_file f)
{
	return paths[f];
}

void fuzz_fill(enum fuzz_file f, const void *data, size_t len)
{
	int rc = ftruncate(fds[f], 0);

	if (!rc)
		rc = ftruncate(fds[f], (off_t)len);
	FUZZ_REQUIRE(!rc && pwrite(fds[f], data, len, 0) == (ssize_t)len, "fill: %s", strerror(errno));
}

void fuzz_peek(enum fuzz_file f, uint64_t off, void *buf, size_t len)
{
	memset(buf, 0, len);
	FUZZ_REQUIRE(pread(fds[f], buf, len, (off_t)off) >= 0, "peek: %s", strerror(errno));
}

uint8_t *fuzz_take(enum fuzz_file f, size_t *len)
{
	struct stat st;
	uint8_t *data;

	FUZZ_REQUIRE(!fstat(fds[f], &st), "fstat: %s", strerror(errno));
	*len = (size_t)st.st_size;
	data = malloc(*len + 1);
	FUZZ_REQUIRE(data && pread(fds[f], data, *len, 0) == st.st_size, "take: %s", strerror(errno));
	return data;
}

/*
 * The linker puts these in the place of open() (--wrap): an image may name any file
 * of the machine, and a target run by root must not touch one.
 */
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
	struct stat st, ours;
	mode_t mode = 0;
	va_list ap;
	int fd;

	va_start(ap, flags);
	if (flags & O_CREAT)
		mode = va_arg(ap, mode_t);
	va_end(ap);
	if (!running)
		return __real_open64(path, flags, mode);
	if (strncmp(path, "/proc/self/fd/", 14) || path[14] < '0' || path[14] > '9') {
		errno = ENOENT;
		return -1;
	}
	fd = __real_open64(path, flags & ~O_TRUNC, mode);
	if (fd < 0)
		return fd;
	fstat(fd, &st);
	for (unsigned i = 0; i < FUZZ_FILES; i++)
		if (!fstat(fds[i], &ours) && ours.st_ino == st.st_ino && ours.st_dev == st.st_dev)
			return fd;
	close(fd);
	errno = ENOENT;
	return -1;
}

/* --- running --- */

struct run {
	struct reactor *r;
	int (*fn)(struct reactor *r, void *arg);
	void *arg;
};

static int co_run(void *arg)
{
	struct run *run = arg;

	return run->fn(run->r, run->arg);
}

static void stuck(void *arg)
{
	FUZZ_REQUIRE(false, "everything waits, and nothing is under way");
}

static struct sim_disk *disk;

struct reactor *fuzz_reactor_new(uint64_t seed)
{
	struct sim_opts o = { .seed = seed, .stuck = stuck };
	struct reactor_config cfg = { .engine = ENGINE_SIM, .depth = 64 };
	struct error e = ERROR_INIT;
	struct reactor *r;

	disk = cfg.sim = sim_disk_new(&o);
	FUZZ_REQUIRE(disk, "no memory");
	FUZZ_REQUIRE(!reactor_new(&cfg, &r, &e), "%s", e.msg);
	return r;
}

int fuzz_reactor_run(struct reactor *r, int (*fn)(struct reactor *r, void *arg), void *arg)
{
	struct run run = { r, fn, arg };
	int rc;

	running = true;
	rc = reactor_run_co(r, co_run, &run);
	running = false;
	return rc;
}

void fuzz_reactor_free(struct reactor *r)
{
	reactor_free(r);
	sim_disk_free(disk);
}

int fuzz_run(int (*fn)(struct reactor *r, void *arg), void *arg, uint64_t seed)
{
	struct reactor *r = fuzz_reactor_new(seed);
	int rc = fuzz_reactor_run(r, fn, arg);

	fuzz_reactor_free(r);
	for (unsigned i = 0; i < FUZZ_FILES; i++)
		FUZZ_REQUIRE(!ftruncate(fds[i], 0), "ftruncate: %s", strerror(errno));
	return rc;
}

void fuzz_require_sentence(int rc, const struct error *e)
{
	if (rc >= 0)
		return;
	FUZZ_REQUIRE(e->code > 0, "error %d without a word", rc);
	FUZZ_REQUIRE(e->msg[0] && memchr(e->msg, 0, sizeof(e->msg)), "error %d without a word", rc);
	FUZZ_REQUIRE(!strchr(e->msg, '\n'), "more than one line: %s", e->msg);
}

/* --- a guest --- */

/* Sizes come from a header: whatever it says, this much is looked at. */
static void co_read_range(struct chain *c, uint64_t off, uint64_t len, void *buf)
{
	uint64_t size = chain_size(c);

	if (off >= size)
		return;
	if (len > size - off)
		len = size - off;
	while (len) {
		uint64_t n = len < READ_MAX ? len : READ_MAX;

		co_chain_read(c, off, buf, n);
		off += n;
		len -= n;
	}
}

void co_fuzz_read(struct chain *c)
{
	uint64_t size = chain_size(c), off = 0;
	void *buf = read_buf;
	struct chain_limits limits;

	chain_limits(c, &limits);
	co_read_range(c, 0, 2 * READ_MAX, buf);
	co_read_range(c, size > READ_MAX ? size - READ_MAX : 0, READ_MAX, buf);
	for (unsigned i = 0; i < STATUS_MAX && off < size; i++) {
		struct chain_extent x;

		if (co_chain_status(c, off, size - off, &x) < 0) {
			/* a table is damaged: look behind it */
			off += limits.optimal_io;
			continue;
		}
		FUZZ_REQUIRE(x.guest_off == off && x.bytes && x.bytes <= size - off, "extent at %llu",
			     (unsigned long long)off);
		if (x.kind == EXT_DATA || x.kind == EXT_COMPRESSED)
			co_read_range(c, off, x.bytes < 4096 ? x.bytes : 4096, buf);
		off += x.bytes;
	}
}

struct guest {
	struct chain *c;
	uint64_t rng;
	unsigned ops, workers;
	uint64_t size, hot;
	uint32_t cluster, unit;
};

static int co_op(struct guest *g, void *buf)
{
	uint64_t off = sim_below(&g->rng, 4) ? sim_below(&g->rng, g->hot) : sim_below(&g->rng, g->size), len;
	unsigned what = (unsigned)sim_below(&g->rng, 16);

	switch (sim_below(&g->rng, 4)) {
	case 0:
		off -= off % g->cluster;
		len = g->cluster * (1 + sim_below(&g->rng, 3));
		break;
	case 1:
		off -= off % g->unit;
		len = g->unit * (1 + sim_below(&g->rng, 4));
		break;
	case 2:
		len = 1 + sim_below(&g->rng, 5000);
		break;
	default:
		off &= ~511ull;
		len = 512 * (1 + sim_below(&g->rng, 16));
		break;
	}
	if (len > g->size - off)
		len = g->size - off;
	if (what < 9 && len > READ_MAX)
		len = READ_MAX;
	if (what < 7)
		return co_chain_write(g->c, off, buf, len);
	if (what < 9)
		return co_chain_read(g->c, off, (uint8_t *)buf + READ_MAX, len);
	if (what < 12)
		return co_chain_zero(g->c, off, len, what == 9 ? CHAIN_F_NO_UNMAP : 0);
	if (what < 14)
		return co_chain_discard(g->c, off, len);
	return co_chain_flush(g->c);
}

static int co_worker(void *arg)
{
	struct guest *g = arg;
	uint8_t *buf = work_bufs[g->workers++];

	while (g->ops) {
		g->ops--;
		/* an error is the right answer to damage */
		co_op(g, buf);
	}
	return 0;
}

void co_fuzz_guest(struct chain *c, uint64_t seed)
{
	struct guest g = { .c = c, .rng = seed, .ops = OPS, .size = chain_size(c) };
	struct chain_limits limits;
	struct co_group grp;

	if (!g.size)
		return;
	chain_limits(c, &limits);
	g.cluster = limits.optimal_io;
	g.unit = layer_unit(chain_active(c));
	g.hot = g.size < (256u << 10) ? g.size : 256u << 10;
	co_group_init(&grp, chain_reactor(c), WORKERS);
	for (unsigned i = 0; i < WORKERS; i++)
		co_group_start(&grp, co_worker, &g);
	co_group_wait(&grp);
	co_chain_flush(c);
}

static void line(void *arg, const char *text)
{
	if (verbose)
		fprintf(stderr, "check: %s\n", text);
}

int64_t co_fuzz_check(struct reactor *r, unsigned fix)
{
	struct layer_opts o = {
		.format = FORMAT_QCOW2, .writable = fix, .allow_corrupt = true, .allow_dirty = true,
		.metadata_only = true, .cache = FILE_CACHE_WRITEBACK,
		.meta_cache = 64u << 10,
	};
	struct check_result res;
	struct error e = ERROR_INIT;
	struct layer *l;
	int rc = co_layer_open(r, fuzz_path(FUZZ_IMAGE), &o, &l, &e);

	fuzz_require_sentence(rc, &e);
	if (rc < 0)
		return rc;
	rc = co_layer_check(l, fix, &res, line, NULL, &e);
	fuzz_require_sentence(rc, &e);
	co_layer_close(l, NULL);
	if (rc < 0 || res.check_errors)
		return rc < 0 ? rc : -EIO;
	return (int64_t)(res.corruptions + res.leaks);
}
