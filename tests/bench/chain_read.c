// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * chain_read.c - random reads through a chain, beside a bare io_uring loop on one file.
 *
 *	bench_chain_read [-d QUEUE-DEPTH] [-n REQUESTS] [-s BYTES] [-c none|writeback] [-r ROUNDS] IMAGE... RAW
 *
 * Each image is opened as a chain and read at random places, RAW by a plain
 * liburing loop with the same options: the ceiling. All in one run, in turn, best of the
 * rounds, one line each.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "io/buf.h"
#include "io/co.h"
#include "io/reactor.h"
#include "qcow/chain.h"

static unsigned depth = 64, bytes = 4096, rounds = 3;
static uint64_t requests = 500000;
static enum file_cache cache = FILE_CACHE_WRITEBACK;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static uint64_t seed = 88172645463325252ull;

static uint64_t next_off(uint64_t size)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % (size / bytes) * bytes;
}

/* --- through the chain --- */

struct bench {
	struct chain *chain;
	struct reactor *r;
	uint64_t size, left;
	unsigned inflight;
	int err;
	struct co *co;
};

struct slot {
	struct chain_req q;
	struct iovec iov;
	struct bench *b;
};

static void slot_done(struct chain_req *q, int res);

static void slot_next(struct slot *s)
{
	s->q.guest_off = next_off(s->b->size);
	s->b->left--;
	s->b->inflight++;
	chain_submit(s->b->chain, &s->q);
}

static void slot_done(struct chain_req *q, int res)
{
	struct slot *s = container_of(q, struct slot, q);
	struct bench *b = s->b;

	if (res < 0)
		b->err = res;
	b->inflight--;
	if (b->left)
		slot_next(s);
	else if (!b->inflight)
		co_wake(b->co);
}

static int co_bench(struct bench *b, uint64_t n)
{
	struct slot *slots = calloc(depth, sizeof(*slots));

	b->left = n;
	b->co = co_self();
	for (unsigned i = 0; i < depth; i++) {
		slots[i].iov = (struct iovec){ buf_alloc(bytes), bytes };
		slots[i].b = b;
		slots[i].q = (struct chain_req){ .done = slot_done, .opcode = CHAIN_READ,
						 .bytes = bytes, .iov = &slots[i].iov, .nr_iov = 1 };
		slot_next(&slots[i]);
	}
	co_yield();
	for (unsigned i = 0; i < depth; i++)
		buf_free(slots[i].iov.iov_base);
	free(slots);
	return b->err;
}

struct job {
	struct reactor *r;
	const char *image;
	double open_s, warm_s, iops;
	unsigned chain_depth;
	struct chain_stats stats;
};

static int co_job(void *arg)
{
	struct job *j = arg;
	struct chain_opts o = { .image = j->image, .read_only = true, .cache = cache };
	struct bench b = { .r = j->r };
	struct error e = ERROR_INIT;
	double t = now();
	int rc = co_chain_open(j->r, &o, &b.chain, &e);

	if (rc < 0) {
		fprintf(stderr, "bench_chain_read: %s\n", e.msg);
		return rc;
	}
	j->open_s = now() - t;
	j->chain_depth = chain_depth(b.chain);
	b.size = chain_size(b.chain);
	t = now();
	for (uint64_t off = 0; off < b.size && !rc; off += 32 << 20) {   /* builds the map */
		char c[512];

		rc = co_chain_read(b.chain, off, c, sizeof(c));
	}
	j->warm_s = now() - t;
	if (!rc)
		rc = co_bench(&b, requests / 10);
	t = now();
	if (!rc)
		rc = co_bench(&b, requests);
	j->iops = requests / (now() - t);
	chain_stats(b.chain, &j->stats);
	co_chain_close(b.chain, NULL);
	return rc;
}

/* --- the ceiling --- */

static int bare(const char *path, double *iops)
{
	struct io_uring ring;
	struct io_uring_cqe *cqe;
	struct stat st;
	int fd = open(path, O_RDONLY | (cache == FILE_CACHE_NONE ? O_DIRECT : 0));
	uint64_t left = requests, inflight = 0;
	void **bufs = calloc(depth, sizeof(*bufs));
	double t;
	int rc;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	rc = io_uring_queue_init(depth, &ring, IORING_SETUP_SINGLE_ISSUER |
				 IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN);
	if (rc < 0)
		return rc;
	rc = io_uring_register_files(&ring, &fd, 1);
	t = now();
	for (uint64_t i = 0; i < depth; i++)
		bufs[i] = buf_alloc(bytes);
	for (uint64_t i = 0; i < depth || inflight; i++) {
		uint64_t slot = i;

		if (i >= depth) {
			unsigned head, seen = 0;

			io_uring_submit_and_wait(&ring, 1);
			io_uring_for_each_cqe(&ring, head, cqe) {
				struct io_uring_sqe *sqe;

				seen++;
				inflight--;
				slot = cqe->user_data;
				if (cqe->res != (int)bytes)
					rc = -EIO;
				if (!left)
					continue;
				sqe = io_uring_get_sqe(&ring);
				io_uring_prep_read(sqe, 0, bufs[slot], bytes, next_off(st.st_size));
				sqe->flags |= IOSQE_FIXED_FILE;
				sqe->user_data = slot;
				left--;
				inflight++;
			}
			io_uring_cq_advance(&ring, seen);
			continue;
		}
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		io_uring_prep_read(sqe, 0, bufs[slot], bytes, next_off(st.st_size));
		sqe->flags |= IOSQE_FIXED_FILE;
		sqe->user_data = slot;
		left--;
		inflight++;
	}
	*iops = requests / (now() - t);
	io_uring_queue_exit(&ring);
	for (unsigned i = 0; i < depth; i++)
		buf_free(bufs[i]);
	free(bufs);
	close(fd);
	return rc;
}

int main(int argc, char **argv)
{
	struct reactor_config cfg = { .engine = ENGINE_URING };
	struct reactor *r;
	struct error e = ERROR_INIT;
	struct job *best;
	double best_bare = 0;
	int opt, n;

	while ((opt = getopt(argc, argv, "d:n:s:c:r:")) != -1) {
		switch (opt) {
		case 'd': depth = atoi(optarg); break;
		case 'n': requests = strtoull(optarg, NULL, 0); break;
		case 's': bytes = atoi(optarg); break;
		case 'c': cache = strcmp(optarg, "none") ? FILE_CACHE_WRITEBACK : FILE_CACHE_NONE; break;
		case 'r': rounds = atoi(optarg); break;
		default: return 2;
		}
	}
	n = argc - optind - 1;
	if (n < 1 || !depth || !bytes || !rounds || requests < depth * 10) {
		fprintf(stderr, "usage: bench_chain_read [-d DEPTH] [-n REQUESTS] [-s BYTES] "
				"[-c none|writeback] [-r ROUNDS] IMAGE... RAW\n");
		return 2;
	}
	if (reactor_new(&cfg, &r, &e) < 0) {
		fprintf(stderr, "bench_chain_read: %s\n", e.msg);
		return 1;
	}
	best = calloc(n, sizeof(*best));
	for (unsigned k = 0; k < rounds; k++) {
		double iops = 0;
		int rc = bare(argv[argc - 1], &iops);

		best_bare = iops > best_bare ? iops : best_bare;
		for (int i = 0; i < n && !rc; i++) {
			struct job j = { .r = r, .image = argv[optind + i] };

			rc = reactor_run_co(r, co_job, &j);
			if (j.iops > best[i].iops)
				best[i] = j;
		}
		if (rc < 0) {
			fprintf(stderr, "bench_chain_read: %s\n", strerror(-rc));
			return 1;
		}
	}
	printf("%-32s %8.0f IOPS\n", "bare io_uring", best_bare);
	for (int i = 0; i < n; i++)
		printf("%-32s %8.0f IOPS (%5.1f %% of bare), depth %u, open %.1f ms, map %.1f ms %" PRIu64
		       " KiB, slow %" PRIu64 "\n", best[i].image, best[i].iops,
		       100 * best[i].iops / best_bare, best[i].chain_depth, best[i].open_s * 1e3,
		       best[i].warm_s * 1e3, best[i].stats.map_bytes >> 10, best[i].stats.slow_path);
	free(best);
	reactor_free(r);
	return 0;
}
