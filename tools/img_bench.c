// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_bench.c - qcimg bench: qemu-img bench's measurement on our engine.
 *
 * What is timed is the loop of requests and nothing else, as there. The loop
 * allocates nothing: requests are made before, and a request that is done is sent again
 * with the next offset. All share one buffer, as in qemu-img bench, so
 * that both are measured with the same memory traffic.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "io/buf.h"
#include "tools/applet.h"
#include "tools/img_common.h"

#define DEFAULT_COUNT 75000
#define DEFAULT_DEPTH 64
#define DEFAULT_SIZE 4096

struct options {
	struct img_common common;
	struct img_source src;
	uint64_t count, depth, offset, size, step, flush_interval, pattern;
	bool write, no_drain, pattern_given, native, aio_given;
};

struct bench {
	/* set before the loop */
	struct chain *chain;
	struct co *waiter;
	struct iovec iov;
	uint64_t image_size, step, flush_interval;
	enum chain_opcode opcode;
	unsigned flags;
	bool drain;
	struct chain_req flush;

	/* the loop */
	uint64_t offset;               /* of the next request */
	uint64_t left;                 /* to be sent */
	uint64_t since_flush;          /* completed since the last flush */
	unsigned in_flight;
	bool flushing, flush_due, waiting;
	int err;                       /* the first failure; nothing is sent after it */
	struct chain_req **idle;       /* a stack */
	unsigned nr_idle;
	struct chain_req *reqs;
};

static struct bench *bench_of(struct chain_req *q);

static void maybe_finish(struct bench *b)
{
	if (b->waiting && !b->in_flight && !b->flushing && (!b->left || b->err)) {
		b->waiting = false;
		co_wake(b->waiter);
	}
}

static inline void send(struct bench *b, struct chain_req *q)
{
	q->guest_off = b->offset;
	b->offset += b->step;
	if (b->offset >= b->image_size)
		b->offset %= b->image_size;
	b->left--;
	b->in_flight++;
	chain_submit(b->chain, q);
}

static void send_idle(struct bench *b)
{
	while (b->nr_idle && b->left && !b->err)
		send(b, b->idle[--b->nr_idle]);
}

static void flush_done(struct chain_req *q, int res)
{
	struct bench *b = container_of(q, struct bench, flush);

	b->flushing = false;
	if (res < 0 && !b->err)
		b->err = res;
	send_idle(b);
	maybe_finish(b);
}

/* True if requests must wait: for the queue to run dry, or for the flush. */
static bool flush_step(struct bench *b)
{
	if (++b->since_flush >= b->flush_interval) {
		b->since_flush = 0;
		b->flush_due = true;
	}
	if (!b->flush_due)
		return b->flushing && b->drain;
	if ((!b->drain || !b->in_flight) && !b->flushing) {
		b->flush_due = false;
		b->flushing = true;
		chain_submit(b->chain, &b->flush);
	}
	return b->drain;
}

static void request_done(struct chain_req *q, int res)
{
	struct bench *b = bench_of(q);

	b->in_flight--;
	if (res < 0 && !b->err)
		b->err = res;
	if ((b->flush_interval && flush_step(b)) || !b->left || b->err) {
		b->idle[b->nr_idle++] = q;
		maybe_finish(b);
		return;
	}
	send(b, q);
}

/* The requests carry their bench in the iovec they share: it is a member of it. */
static struct bench *bench_of(struct chain_req *q)
{
	return container_of((struct iovec *)q->iov, struct bench, iov);
}

static int bench_init(struct bench *b, const struct options *o, struct chain *c)
{
	*b = (struct bench){
		.chain = c, .waiter = co_self(), .image_size = chain_size(c), .step = o->step,
		.flush_interval = o->flush_interval, .drain = !o->no_drain,
		.opcode = o->write ? CHAIN_WRITE : CHAIN_READ,
		.flags = o->write && o->src.cache.writethrough ? CHAIN_F_FUA : 0,
		.flush = { .done = flush_done, .opcode = CHAIN_FLUSH },
		.offset = o->offset, .left = o->count, .nr_idle = (unsigned)o->depth,
	};
	b->iov = (struct iovec){ buf_alloc(o->size), o->size };
	b->reqs = calloc(o->depth, sizeof(*b->reqs));
	b->idle = calloc(o->depth, sizeof(struct chain_req *));
	if (!b->iov.iov_base || !b->reqs || !b->idle)
		return -ENOMEM;
	memset(b->iov.iov_base, (int)o->pattern, o->size);
	for (unsigned i = 0; i < o->depth; i++) {
		b->reqs[i] = (struct chain_req){
			.done = request_done, .opcode = b->opcode, .flags = b->flags, .bytes = o->size,
			.iov = &b->iov, .nr_iov = 1,
		};
		b->idle[o->depth - 1 - i] = &b->reqs[i];
	}
	return 0;
}

static void bench_free(struct bench *b)
{
	buf_free(b->iov.iov_base);
	free(b->reqs);
	free(b->idle);
}

static double seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int co_loop(struct bench *b)
{
	double start = seconds();

	b->waiting = true;
	send_idle(b);
	if (b->in_flight)
		co_yield();
	if (b->err)
		return img_fail("Failed request: %s", strerror(-b->err));
	printf("Run completed in %3.3f seconds.\n", seconds() - start);
	return EXIT_DONE;
}

static void announce(const struct options *o)
{
	printf("Sending %" PRIu64 " %s requests, %" PRIu64 " bytes each, %" PRIu64 " in parallel "
	       "(starting at offset %" PRIu64 ", step size %" PRIu64 ")\n", o->count,
	       o->write ? "write" : "read", o->size, o->depth, o->offset, o->step);
	if (o->flush_interval)
		printf("Sending flush every %" PRIu64 " requests\n", o->flush_interval);
	fflush(stdout);
}

static int co_open(struct reactor *r, const struct options *o, struct chain **c, struct error *e)
{
	struct chain_opts co = {
		.read_only = !o->write, .no_lock = o->src.force_share, .cache = o->src.cache.mode,
		.max_requests = o->depth > 256 ? (unsigned)o->depth : 0,
	};

	return co_img_open_chain_opts(r, &o->src, &co, c, e);
}

static int co_bench(struct reactor *r, void *arg)
{
	const struct options *o = arg;
	struct error e = ERROR_INIT;
	struct bench b;
	struct chain *c;
	int status;

	if (co_open(r, o, &c, &e) < 0)
		return img_fail_open(o->src.name, &e);
	announce(o);
	if (!chain_size(c) || bench_init(&b, o, c) < 0) {
		status = img_fail(chain_size(c) ? "Out of memory" : "Failed request: the image is empty");
	} else {
		status = co_loop(&b);
		bench_free(&b);
	}
	return co_img_close(c) == EXIT_DONE ? status : EXIT_FAILED;
}

static bool parse_aio(struct options *o, const char *s)
{
	o->native = !strcmp(s, "native");
	o->aio_given = o->native || !strcmp(s, "io_uring");
	if (o->aio_given || !strcmp(s, "threads"))
		return true;
	img_fail("Invalid aio option: %s", s);
	return false;
}

enum { OPT_PATTERN = IMG_OPT_FIRST_OWN, OPT_FLUSH, OPT_NO_DRAIN };

static bool take_number(struct options *o, int c)
{
	switch (c) {
	case 'c':
		return img_parse_count("request count", optarg, 1, INT_MAX, &o->count);
	case 'd':
		return img_parse_count("queue depth", optarg, 1, 65536, &o->depth);
	case 'o':
		return img_parse_size("offset", optarg, &o->offset);
	case 's':
		return img_parse_size("buffer size", optarg, &o->size);
	case 'S':
		return img_parse_size("step size", optarg, &o->step);
	case OPT_FLUSH:
		return img_parse_count("flush interval", optarg, 0, INT_MAX, &o->flush_interval);
	default:
		o->pattern_given = true;
		return img_parse_count("pattern byte", optarg, 0, 255, &o->pattern);
	}
}

static bool take(struct options *o, int c)
{
	switch (c) {
	case 'f':
		o->src.fmt = optarg;
		return true;
	case 'i':
		return parse_aio(o, optarg);
	case 'n':
		o->native = o->aio_given = true;
		return true;
	case 't':
		return img_parse_cache("cache", optarg, &o->src.cache);
	case 'w':
		o->write = true;
		return true;
	case 'U':
		o->src.force_share = true;
		return true;
	case IMG_OPT_IMAGE_OPTS:
		o->src.image_opts = true;
		return true;
	case OPT_NO_DRAIN:
		o->no_drain = true;
		return true;
	default:
		return take_number(o, c);
	}
}

static int bench_run(struct options *o)
{
	struct reactor_config cfg = { .depth = o->depth > 512 ? 2 * (unsigned)o->depth : 0 };

	if (!o->step)
		o->step = o->size;
	if (!o->size || o->size > INT_MAX)
		return img_fail("Invalid buffer size specified. Must be between 1 and %d.", INT_MAX);
	if (o->flush_interval && !o->write)
		return img_fail("--flush-interval is only available in write tests");
	if (o->flush_interval && o->flush_interval < o->depth)
		return img_fail("Flush interval can't be smaller than depth");
	if (o->native && o->src.cache.mode != FILE_CACHE_NONE)
		return img_fail("Could not open '%s': aio=native was specified, but it requires cache.direct=on, "
				"which was not specified; add -t none", o->src.name);
	if (!img_engine(&o->common, &cfg.engine))
		return EXIT_FAILED;
	if (o->aio_given && !o->common.engine)
		cfg.engine = o->native ? ENGINE_AIO : ENGINE_URING;
	return img_run(&o->common, &cfg, co_bench, o);
}

int img_bench(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "count", required_argument, NULL, 'c' },
		{ "depth", required_argument, NULL, 'd' },
		{ "format", required_argument, NULL, 'f' },
		{ "flush-interval", required_argument, NULL, OPT_FLUSH },
		{ "aio", required_argument, NULL, 'i' },
		{ "native", no_argument, NULL, 'n' },
		{ "no-drain", no_argument, NULL, OPT_NO_DRAIN },
		{ "offset", required_argument, NULL, 'o' },
		{ "pattern", required_argument, NULL, OPT_PATTERN },
		{ "buffer-size", required_argument, NULL, 's' },
		{ "step-size", required_argument, NULL, 'S' },
		{ "cache", required_argument, NULL, 't' },
		{ "write", no_argument, NULL, 'w' },
		{ "force-share", no_argument, NULL, 'U' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct options o = {
		.common = { .cmd = cmd }, .src.cache.mode = FILE_CACHE_WRITEBACK, .count = DEFAULT_COUNT,
		.depth = DEFAULT_DEPTH, .size = DEFAULT_SIZE,
	};
	int c;

	while ((c = img_getopt(&o.common, argc, argv, ":hqc:d:f:i:no:s:S:t:wU", longs)) >= 0)
		if (!take(&o, c))
			return EXIT_FAILED;
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	if (optind != argc - 1)
		return img_usage(cmd, "Expecting one image file name");
	if (o.pattern_given && !o.write)
		o.pattern = 0;
	o.src.name = argv[optind];
	return bench_run(&o);
}
