// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * ops.c - random requests to a chain, held against a raw file with the bytes it should have.
 *
 *	diff_ops [-e uring|aio] [-c none|writeback] [-b BACKING-FORMAT] [-r] [-v] IMAGE SHADOW SEED OPS
 *
 * Requests of all kinds, sizes and alignments run side by side; only those whose
 * outcome would depend on their order wait for each other. SHADOW (a raw file of
 * the disk's size) is changed along. Every read is compared, and at the end the whole
 * disk is, before and after a close and reopen. -r: reads only; -v: print each request. Exit status 1 and one line if
 * anything differs.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/reactor.h"
#include "qcow/chain.h"

#define DEPTH    24
#define LEN_MAX  (1u << 20)
#define IOVS_MAX 24

struct op {
	struct chain_req q;
	struct co *co;
	int res;
	uint64_t off, len;
	enum chain_opcode opcode;
	unsigned flags;
	struct list link;
	unsigned char *mem;            /* LEN_MAX + room to misalign */
	unsigned misalign;
	struct iovec iov[IOVS_MAX];
};

static struct reactor *reactor;
static struct chain_opts opts = { .cache = FILE_CACHE_NONE };
static struct chain *chain;
static unsigned char *shadow;
static uint64_t size, unit;
static uint64_t seed;
static unsigned nr_ops;
static bool reads_only, verbose;
static int failures;
static struct list inflight;
static struct co_queue changed;
static struct op *idle[DEPTH];
static unsigned nr_idle;

static uint64_t rnd(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (seed >> 11) % n;
}

static void differ(const char *what, const struct op *op, uint64_t at)
{
	fprintf(stderr, "diff_ops: %s of %" PRIu64 "+%" PRIu64 ": byte %" PRIu64 " differs\n", what,
		op->off, op->len, at);
	failures++;
}

/* --- one request --- */

static void op_done(struct chain_req *q, int res)
{
	struct op *op = container_of(q, struct op, q);

	op->res = res;
	co_wake(op->co);
}

/* Cuts the op's memory into a few pieces. */
static unsigned cut(struct op *op)
{
	unsigned char *p = op->mem + op->misalign;
	uint64_t left = op->len;
	unsigned n = 0, want = 1 + rnd(rnd(4) ? 3 : IOVS_MAX);

	while (left && n < want - 1) {
		uint64_t len = rnd(left) + 1;

		if (rnd(2))
			len = (len + 511) & ~511ull;
		len = len < left ? len : left;
		op->iov[n++] = (struct iovec){ p, len };
		p += len;
		left -= len;
	}
	if (left)
		op->iov[n++] = (struct iovec){ p, left };
	return n;
}

static int co_send(struct op *op)
{
	op->q = (struct chain_req){ .done = op_done, .opcode = op->opcode, .flags = op->flags,
				    .guest_off = op->off, .bytes = op->len };
	if (op->opcode == CHAIN_READ || op->opcode == CHAIN_WRITE) {
		op->q.nr_iov = cut(op);
		op->q.iov = op->iov;
	}
	op->co = co_self();
	chain_submit(chain, &op->q);
	co_yield();
	return op->res;
}

static uint64_t first_difference(const unsigned char *a, const unsigned char *b, uint64_t len)
{
	uint64_t i = 0;

	while (i < len && a[i] == b[i])
		i++;
	return i;
}

/* After a discard each unit reads as before or as zeros; the shadow takes over which. */
static void adopt_discard(struct op *op)
{
	int rc = co_chain_read(chain, op->off, op->mem, op->len);

	if (rc < 0) {
		fprintf(stderr, "diff_ops: read after discard: %s\n", strerror(-rc));
		failures++;
		return;
	}
	for (uint64_t at = 0; at < op->len;) {
		uint64_t n = unit - (op->off + at) % unit;

		n = n < op->len - at ? n : op->len - at;
		if (memcmp(op->mem + at, shadow + op->off + at, n) && !buf_is_zero(op->mem + at, n))
			differ("discard", op, op->off + at);
		memcpy(shadow + op->off + at, op->mem + at, n);
		at += n;
	}
}

static void op_main(void *arg)
{
	struct op *op = arg;
	unsigned char *data = op->mem + op->misalign;
	int rc;

	if (op->opcode == CHAIN_WRITE) {
		if (rnd(8))
			for (uint64_t i = 0; i < op->len; i++)
				data[i] = rnd(255) + 1;
		else
			memset(data, 0, op->len);
		memcpy(shadow + op->off, data, op->len);
	}
	rc = co_send(op);
	if (rc < 0) {
		fprintf(stderr, "diff_ops: request %d of %" PRIu64 "+%" PRIu64 ": %s\n", op->opcode,
			op->off, op->len, strerror(-rc));
		failures++;
	} else if (op->opcode == CHAIN_READ) {
		uint64_t at = first_difference(data, shadow + op->off, op->len);

		if (at < op->len)
			differ("read", op, op->off + at);
	} else if (op->opcode == CHAIN_ZERO) {
		memset(shadow + op->off, 0, op->len);
	} else if (op->opcode == CHAIN_DISCARD) {
		adopt_discard(op);
	}
	list_del(&op->link);
	idle[nr_idle++] = op;
	co_queue_wake_all(&changed);
}

/* --- the mix --- */

static uint64_t some_len(void)
{
	switch (rnd(6)) {
	case 0:
		return 512 * (1 + rnd(8));
	case 1:
		return 4096 * (1 + rnd(4));
	case 2:
		return 1 + rnd(70000);
	case 3:
		return unit * (1 + rnd(4));
	case 4:
		return 65536 * (1 + rnd(8));
	default:
		return 1 + rnd(LEN_MAX);
	}
}

static void choose(struct op *op)
{
	unsigned k = reads_only ? 0 : rnd(100);

	op->opcode = k < 35 ? CHAIN_READ : k < 80 ? CHAIN_WRITE : k < 90 ? CHAIN_ZERO :
		     k < 97 ? CHAIN_DISCARD : CHAIN_FLUSH;
	op->flags = 0;
	if (op->opcode == CHAIN_WRITE || op->opcode == CHAIN_ZERO)
		op->flags = rnd(10) ? 0 : CHAIN_F_FUA;
	if (op->opcode == CHAIN_ZERO && rnd(2))
		op->flags |= CHAIN_F_NO_UNMAP;
	op->misalign = rnd(4) ? 0 : rnd(4096);
	op->off = op->len = 0;
	if (op->opcode == CHAIN_FLUSH)
		return;
	op->len = some_len();
	op->len = op->len < LEN_MAX ? op->len : LEN_MAX;
	op->len = op->len < size ? op->len : size;
	op->off = rnd(size - op->len + 1);
	if (rnd(10))
		op->off &= ~(uint64_t)(rnd(2) ? 511 : 4095);
	if (!rnd(20))
		op->off = size - op->len;
}

static bool must_wait(const struct op *op)
{
	const struct op *it;

	list_for_each(it, &inflight, link)
		if (it->off < op->off + op->len && op->off < it->off + it->len &&
		    (it->opcode != CHAIN_READ || op->opcode != CHAIN_READ))
			return true;
	return false;
}

static void co_run_ops(void)
{
	static const char *const names[] = { "read", "write", "zero", "discard", "flush" };

	for (unsigned i = 0; i < nr_ops && !failures; i++) {
		struct op *op;

		while (!nr_idle)
			co_queue_wait(&changed);
		op = idle[--nr_idle];
		choose(op);
		while (must_wait(op))
			co_queue_wait(&changed);
		list_add_tail(&inflight, &op->link);
		if (verbose)
			printf("%-7s %" PRIu64 " +%" PRIu64 " flags %u\n", names[op->opcode], op->off,
			       op->len, op->flags);
		co_start(reactor, op_main, op);
	}
	while (nr_idle < DEPTH)
		co_queue_wait(&changed);
}

static void co_compare_all(const char *when)
{
	struct op *op = idle[0];

	op->misalign = 0;
	op->opcode = CHAIN_READ;
	op->flags = 0;
	for (op->off = 0; op->off < size && !failures; op->off += op->len) {
		uint64_t at;
		int rc;

		op->len = size - op->off < LEN_MAX ? size - op->off : LEN_MAX;
		rc = co_send(op);
		at = rc < 0 ? 0 : first_difference(op->mem, shadow + op->off, op->len);
		if (at < op->len)
			differ(when, op, op->off + at);
	}
}

static int co_open(void)
{
	struct error e = ERROR_INIT;
	int rc = co_chain_open(reactor, &opts, &chain, &e);

	if (rc < 0)
		fprintf(stderr, "diff_ops: %s\n", e.msg);
	return rc;
}

static int co_close(void)
{
	struct error e = ERROR_INIT;
	int rc = co_chain_close(chain, &e);

	if (rc < 0)
		fprintf(stderr, "diff_ops: close: %s\n", e.msg);
	return rc;
}

static int co_main(void *arg)
{
	if (co_open() < 0)
		return 1;
	unit = layer_unit(chain_active(chain));
	if (chain_size(chain) != size) {
		fprintf(stderr, "diff_ops: the disk has %" PRIu64 " bytes, the shadow %" PRIu64 "\n",
			chain_size(chain), size);
		failures++;
	} else {
		co_run_ops();
		co_compare_all("final read");
	}
	if (co_close() < 0)
		return 1;
	if (!failures && !reads_only) {
		if (co_open() < 0)
			return 1;
		co_compare_all("read after reopen");
		if (co_close() < 0)
			return 1;
	}
	return failures ? 1 : 0;
}

/* --- command line --- */

static int usage(void)
{
	fprintf(stderr, "usage: diff_ops [-e uring|aio] [-c none|writeback] [-b FORMAT] [-r] [-v] IMAGE "
			"SHADOW SEED OPS\n");
	return 2;
}

static int shadow_map(const char *path)
{
	int fd = open(path, reads_only ? O_RDONLY : O_RDWR);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	size = st.st_size;
	shadow = mmap(NULL, size, reads_only ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return shadow == MAP_FAILED ? -errno : 0;
}

int main(int argc, char **argv)
{
	struct reactor_config cfg = { .engine = ENGINE_URING };
	struct error e = ERROR_INIT;
	int opt, rc;

	while ((opt = getopt(argc, argv, "e:c:b:rv")) != -1) {
		if (opt == 'e' && !engine_parse(optarg, &cfg.engine))
			continue;
		if (opt == 'c')
			opts.cache = strcmp(optarg, "none") ? FILE_CACHE_WRITEBACK : FILE_CACHE_NONE;
		else if (opt == 'b')
			opts.backing_format = optarg;
		else if (opt == 'r')
			reads_only = opts.read_only = true;
		else if (opt == 'v')
			verbose = true;
		else
			return usage();
	}
	if (argc - optind != 4)
		return usage();
	opts.image = argv[optind];
	seed = strtoull(argv[optind + 2], NULL, 0) * 0x9e3779b97f4a7c15ull + 1;
	nr_ops = strtoul(argv[optind + 3], NULL, 0);
	rc = shadow_map(argv[optind + 1]);
	if (rc < 0) {
		fprintf(stderr, "diff_ops: %s: %s\n", argv[optind + 1], strerror(-rc));
		return 1;
	}
	if (reactor_new(&cfg, &reactor, &e) < 0) {
		fprintf(stderr, "diff_ops: %s\n", e.msg);
		return 1;
	}
	list_init(&inflight);
	co_queue_init(&changed);
	for (; nr_idle < DEPTH; nr_idle++) {
		idle[nr_idle] = calloc(1, sizeof(struct op));
		idle[nr_idle]->mem = buf_alloc(LEN_MAX + 4096);
		list_init(&idle[nr_idle]->link);
	}
	rc = reactor_run_co(reactor, co_main, NULL);
	reactor_free(reactor);
	while (nr_idle) {
		buf_free(idle[--nr_idle]->mem);
		free(idle[nr_idle]);
	}
	munmap(shadow, size);
	return rc;
}
