// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_compare.c - qcimg compare: the same bytes, or where they first differ.
 *
 * Ranges that both images know to be zeros are not read. Several pieces are
 * read at once; they are started in order, so the smallest offset that any of
 * them reports is the first difference.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "tools/applet.h"
#include "tools/img_common.h"

#define EXIT_DIFFERENT 1
#define EXIT_OPEN 2
#define EXIT_STATUS 3
#define EXIT_READ 4

#define PIECE (256u << 10)            /* two fit in a core's cache while they are compared */
#define PIECES 8u
#define SECTOR 512u

struct compare {
	struct img_common common;
	struct img_source src[2];
	struct img_progress progress;
	bool strict, show_progress;
	/* while it runs */
	struct reactor *r;
	struct chain *chain[2];
	struct co_group group;
	struct bufpool *bufs;          /* of PIECE bytes: two for each piece in flight */
	uint64_t found_at;             /* of the first thing to report; UINT64_MAX: nothing yet */
	int found;                     /* exit status it means */
	char what[256];                /* and what to say */
};

struct piece {
	struct compare *c;
	uint64_t off;
	uint32_t len;
	bool zero[2];                  /* known to be zeros: not read */
};

static bool nothing_found(const struct compare *c)
{
	return c->found_at == UINT64_MAX;
}

static void found(struct compare *c, uint64_t at, int status, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void found(struct compare *c, uint64_t at, int status, const char *fmt, ...)
{
	va_list ap;

	if (at >= c->found_at)
		return;
	c->found_at = at;
	c->found = status;
	va_start(ap, fmt);
	vsnprintf(c->what, sizeof(c->what), fmt, ap);
	va_end(ap);
}

static bool sectors_differ(const uint8_t *a, const uint8_t *b, size_t len)
{
	if (a && b)
		return memcmp(a, b, len) != 0;
	return !buf_is_zero(a ? a : b, len);
}

static void compare_buffers(struct piece *p, const uint8_t *a, const uint8_t *b)
{
	if (!sectors_differ(a, b, p->len))
		return;
	for (uint32_t i = 0; i < p->len; i += SECTOR) {
		uint32_t len = p->len - i < SECTOR ? p->len - i : SECTOR;

		if (!sectors_differ(a ? a + i : NULL, b ? b + i : NULL, len))
			continue;
		found(p->c, p->off + i, EXIT_DIFFERENT, "Content mismatch at offset %" PRIu64 "!", p->off + i);
		return;
	}
}

static int co_piece(void *arg)
{
	struct piece *p = arg;
	uint8_t *buf[2] = { NULL, NULL };
	int ret = 0;

	for (unsigned i = 0; i < 2 && ret == 0; i++) {
		if (p->zero[i])
			continue;
		buf[i] = bufpool_tryget(p->c->bufs);
		assert(buf[i]);
		ret = co_chain_read(p->c->chain[i], p->off, buf[i], p->len);
		if (ret < 0)
			found(p->c, p->off, EXIT_READ, "Error while reading offset %" PRIu64 " of %s: %s", p->off,
			      p->c->src[i].name, strerror(-ret));
	}
	if (ret == 0)
		compare_buffers(p, buf[0], buf[1]);
	for (unsigned i = 0; i < 2; i++)
		if (buf[i])
			bufpool_put(p->c->bufs, buf[i]);
	free(p);
	return 0;
}

static void co_start_piece(struct compare *c, uint64_t off, uint32_t len, bool zero0, bool zero1)
{
	struct piece *p = malloc(sizeof(*p));

	if (!p)
		abort();
	*p = (struct piece){ .c = c, .off = off, .len = len, .zero = { zero0, zero1 } };
	co_group_start(&c->group, co_piece, p);
}

/* What image i says at off. false: it could not be found out, and that is reported. */
static bool co_status(struct compare *c, unsigned i, uint64_t off, struct chain_extent *x)
{
	int ret = co_chain_status(c->chain[i], off, chain_size(c->chain[i]) - off, x);

	if (ret < 0)
		found(c, off, EXIT_STATUS, "Sector allocation test failed for %s: %s", c->src[i].name,
		      strerror(-ret));
	return ret == 0;
}

static bool reads_zero(const struct chain_extent *x)
{
	return x->kind == EXT_ZERO || x->kind == EXT_UNALLOCATED;
}

/* Whether a strict comparison takes both for the same. */
static bool same_status(const struct chain_extent *a, const struct chain_extent *b)
{
	return a->kind == b->kind;
}

/* The part that both images have. */
static void co_common_part(struct compare *c, uint64_t end, uint64_t total)
{
	struct chain_extent x[2] = { 0 };
	uint64_t off = 0;

	while (off < end && nothing_found(c)) {
		uint64_t stop = end;

		for (unsigned i = 0; i < 2; i++) {
			if (x[i].guest_off + x[i].bytes <= off && !co_status(c, i, off, &x[i]))
				return;
			if (x[i].guest_off + x[i].bytes < stop)
				stop = x[i].guest_off + x[i].bytes;
		}
		if (c->strict && !same_status(&x[0], &x[1])) {
			found(c, off, EXIT_DIFFERENT, "Strict mode: Offset %" PRIu64 " block status mismatch!", off);
			return;
		}
		if (!reads_zero(&x[0]) || !reads_zero(&x[1])) {
			if (stop - off > PIECE - off % PIECE)
				stop = off + PIECE - off % PIECE;
			co_start_piece(c, off, (uint32_t)(stop - off), reads_zero(&x[0]), reads_zero(&x[1]));
		}
		off = stop;
		img_progress_set(&c->progress, off, total);
	}
}

/* What only the longer image has must be zeros. */
static void co_longer_part(struct compare *c, uint64_t off, unsigned longer)
{
	uint64_t end = chain_size(c->chain[longer]);
	struct chain_extent x;

	while (off < end && nothing_found(c)) {
		uint64_t stop;

		if (!co_status(c, longer, off, &x))
			return;
		stop = x.guest_off + x.bytes;
		if (!reads_zero(&x)) {
			if (stop - off > PIECE - off % PIECE)
				stop = off + PIECE - off % PIECE;
			co_start_piece(c, off, (uint32_t)(stop - off), longer != 0, longer != 1);
		}
		off = stop;
		img_progress_set(&c->progress, off, end);
	}
}

static void say(const struct compare *c, const char *text)
{
	if (!c->common.quiet)
		printf("%s\n", text);
}

static int co_compare_open(struct compare *c)
{
	uint64_t size[2] = { chain_size(c->chain[0]), chain_size(c->chain[1]) };
	unsigned longer = size[1] > size[0];
	uint64_t common = size[!longer];

	if (c->strict && size[0] != size[1]) {
		say(c, "Strict mode: Image size mismatch!");
		return EXIT_DIFFERENT;
	}
	img_progress_start(&c->progress, c->show_progress && !c->common.quiet);
	c->found_at = UINT64_MAX;
	c->bufs = bufpool_new(PIECE, 2 * PIECES);
	if (!c->bufs) {
		img_fail("Out of memory");
		return EXIT_READ;
	}
	co_group_init(&c->group, c->r, PIECES);
	co_common_part(c, common, size[longer]);
	co_group_wait(&c->group);
	if (nothing_found(c) && size[0] != size[1]) {
		say(c, "Warning: Image size mismatch!");
		co_longer_part(c, common, longer);
		co_group_wait(&c->group);
	}
	bufpool_free(c->bufs);
	if (nothing_found(c))
		say(c, "Images are identical.");
	else if (c->found == EXIT_DIFFERENT)
		say(c, c->what);
	else
		img_fail("%s", c->what);
	img_progress_end(&c->progress, false);
	return nothing_found(c) ? EXIT_DONE : c->found;
}

static int co_compare(struct reactor *r, void *arg)
{
	struct compare *c = arg;
	struct error e = ERROR_INIT;
	int status = EXIT_DONE;

	c->r = r;
	for (unsigned i = 0; i < 2 && status == EXIT_DONE; i++) {
		if (co_img_open_chain(r, &c->src[i], false, &c->chain[i], &e) < 0) {
			c->chain[i] = NULL;
			img_fail_open(c->src[i].name, &e);
			status = EXIT_OPEN;
		}
	}
	if (status == EXIT_DONE)
		status = co_compare_open(c);
	for (unsigned i = 0; i < 2; i++)
		if (co_img_close(c->chain[i]) != EXIT_DONE && status <= EXIT_DIFFERENT)
			status = EXIT_OPEN;
	return status;
}

static bool take(struct compare *cmp, int c)
{
	switch (c) {
	case 'f':
		cmp->src[0].fmt = optarg;
		return true;
	case 'F':
		cmp->src[1].fmt = optarg;
		return true;
	case 'T':
		if (!img_parse_cache("source cache", optarg, &cmp->src[0].cache))
			return false;
		cmp->src[1].cache = cmp->src[0].cache;
		return true;
	case 'p':
		cmp->show_progress = true;
		return true;
	case 's':
		cmp->strict = true;
		return true;
	case 'U':
		cmp->src[0].force_share = cmp->src[1].force_share = true;
		return true;
	default:
		cmp->src[0].image_opts = cmp->src[1].image_opts = true;
		return true;
	}
}

int img_compare(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "a-format", required_argument, NULL, 'f' },
		{ "b-format", required_argument, NULL, 'F' },
		{ "cache", required_argument, NULL, 'T' },
		{ "progress", no_argument, NULL, 'p' },
		{ "strict", no_argument, NULL, 's' },
		{ "force-share", no_argument, NULL, 'U' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct compare cmp = {
		.common = { .cmd = cmd },
		.src = { { .cache.mode = FILE_CACHE_WRITEBACK }, { .cache.mode = FILE_CACHE_WRITEBACK } },
	};
	int c;

	/* 1 means "different": bad usage is an error, as the manual of qemu-img compare promises. */
	while ((c = img_getopt(&cmp.common, argc, argv, ":hqf:F:T:psU", longs)) >= 0)
		if (!take(&cmp, c))
			return EXIT_OPEN;
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_OPEN;
	if (optind != argc - 2) {
		img_usage(cmd, "Expecting two image file names");
		return EXIT_OPEN;
	}
	cmp.src[0].name = argv[optind];
	cmp.src[1].name = argv[optind + 1];
	return img_run(&cmp.common, NULL, co_compare, &cmp);
}
