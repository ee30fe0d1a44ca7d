// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * test_qcow_alloc.c - writing a qcow2 layer: what the guest reads back, what QEMU makes of the file.
 *
 * Each case makes an image with qemu-img, runs random reads, writes, zeroes, discards,
 * flushes and compressed writes against an oracle, closes, and asks qemu-img: the check must be clean
 * (no leak either), and the contents those of the oracle, internal snapshots unchanged.
 */
#include "tests/unit/qcow_guest.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>

#include "io/log.h"

#define MIB (1u << 20)

struct format {
	const char *name;
	const char *opts;               /* of qemu-img create -o */
	unsigned mib;
	bool backing, snapshot, compressed, data_file;
};

/* What the guest does in a case, and on which image. */
struct run {
	const struct format *f;
	char dir[64], img[96], raw[96];
	unsigned char *below, *want;
	uint64_t size, seed;
	unsigned ops;
	struct reactor *r;
};

static void write_file(const char *path, const void *buf, size_t len)
{
	int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, buf, len), len);
	close(fd);
}

static void assert_file_is(const char *path, const unsigned char *want, size_t len)
{
	int fd = open(path, O_RDONLY);
	unsigned char *got = malloc(len);
	size_t i;

	assert_true(fd >= 0);
	assert_int_equal(read(fd, got, len), len);
	for (i = 0; i < len && got[i] == want[i]; i++)
		;
	if (i < len)
		fail_msg("%s: byte %zu is %02x, not %02x", path, i, got[i], want[i]);
	free(got);
	close(fd);
}

static void make_image(struct run *t)
{
	const struct format *f = t->f;
	uint64_t i;

	snprintf(t->dir, sizeof(t->dir), "%s/qchain-alloc-XXXXXX", "/var/tmp");
	assert_non_null(mkdtemp(t->dir));
	snprintf(t->img, sizeof(t->img), "%s/i.qcow2", t->dir);
	snprintf(t->raw, sizeof(t->raw), "%s/base.raw", t->dir);
	t->size = (uint64_t)f->mib * MIB;
	t->below = calloc(1, t->size);
	t->want = calloc(1, t->size);
	for (i = 0; i < t->size; i++)
		t->below[i] = (unsigned char)(i >> 12 & 3 ? (i >> 9) * 31 + 1 : 0);
	write_file(t->raw, t->below, t->size);
	if (f->compressed) {
		assert_int_equal(shell("qemu-img convert -f raw -O qcow2 -c -o %s %s %s", f->opts, t->raw, t->img), 0);
		memcpy(t->want, t->below, t->size);
	} else if (f->backing) {
		assert_int_equal(shell("qemu-img create -q -f qcow2 -o %s -b %s -F raw %s", f->opts, t->raw, t->img), 0);
		memcpy(t->want, t->below, t->size);
	} else if (f->data_file) {
		assert_int_equal(shell("qemu-img create -q -f qcow2 -o %s,data_file=%s/d.raw %s %uM", f->opts, t->dir,
				       t->img, f->mib), 0);
	} else {
		assert_int_equal(shell("qemu-img create -q -f qcow2 -o %s %s %uM", f->opts, t->img, f->mib), 0);
	}
	if (f->snapshot) {
		assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q -P 0x5a 0 %uM' %s", f->mib / 2, t->img), 0);
		memset(t->want, 0x5a, t->size / 2);
		assert_int_equal(shell("qemu-img snapshot -c s1 %s", t->img), 0);
	}
}

static void drop_image(struct run *t)
{
	assert_int_equal(shell("rm -r %s", t->dir), 0);
	free(t->below);
	free(t->want);
}

static struct guest guest_of(struct run *t)
{
	return (struct guest){ .r = t->r, .want = t->want, .seed = t->seed,
			       .below = t->f->backing ? t->below : NULL,
			       .compress = t->f->compressed || (!t->f->data_file && t->seed & 1) };
}

static int co_run(void *arg)
{
	struct run *t = arg;
	struct guest g = guest_of(t);
	unsigned round;
	int r = 0;

	/* Opened again in between: what was reserved must have been given back. */
	for (round = 0; round < 2 && !r; round++) {
		guest_open(&g, t->img, true);
		r = guest_run(&g, t->ops / 2, round ? 4 : 1);
		guest_close(&g);
	}
	return r;
}

static void run_case(const struct format *f, uint64_t seed, unsigned ops)
{
	struct run t = { .f = f, .seed = seed, .ops = ops };
	struct reactor_config rc = { .engine = seed & 2 ? ENGINE_AIO : ENGINE_URING };
	struct error e = ERROR_INIT;
	unsigned char *snap;

	print_message("  %s, seed %llu\n", f->name, (unsigned long long)seed);
	make_image(&t);
	if (reactor_new(&rc, &t.r, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(reactor_run_co(t.r, co_run, &t), 0);
	reactor_free(t.r);
	assert_int_equal(shell("qemu-img check -q -f qcow2 %s", t.img), 0);
	assert_int_equal(shell("qemu-img convert -f qcow2 -O raw %s %s/out.raw", t.img, t.dir), 0);
	snprintf(t.raw, sizeof(t.raw), "%s/out.raw", t.dir);
	assert_file_is(t.raw, t.want, t.size);
	if (f->snapshot) {
		snap = calloc(1, t.size);
		memset(snap, 0x5a, t.size / 2);
		assert_int_equal(shell("qemu-img convert -f qcow2 -l s1 -O raw %s %s/out.raw", t.img, t.dir), 0);
		assert_file_is(t.raw, snap, t.size);
		free(snap);
		assert_int_equal(shell("qemu-img snapshot -d s1 %s && qemu-img check -q %s", t.img, t.img), 0);
	}
	drop_image(&t);
}

static void run_formats(const struct format *f, size_t nr, unsigned ops)
{
	uint64_t seed;
	size_t i;

	for (i = 0; i < nr; i++)
		for (seed = 1; seed <= 2; seed++)
			run_case(&f[i], seed * 1000003 + i * 2, ops);
}

#define NR(a) (sizeof(a) / sizeof((a)[0]))

static void test_cluster_sizes(void **state)
{
	static const struct format f[] = {
		{ "512-byte clusters", "cluster_size=512", 2, .backing = false },
		{ "4 KiB clusters", "cluster_size=4k", 4, .backing = false },
		{ "64 KiB clusters", "cluster_size=64k", 32, .backing = false },
		{ "2 MiB clusters", "cluster_size=2M", 64, .backing = false },
	};

	run_formats(f, NR(f), 300);
}

static void test_refcount_widths(void **state)
{
	static const struct format f[] = {
		{ "1 bit", "refcount_bits=1,cluster_size=4k", 4, .backing = false },
		{ "2 bits", "refcount_bits=2,cluster_size=4k", 4, .backing = false },
		{ "4 bits", "refcount_bits=4,cluster_size=512", 2, .backing = false },
		{ "8 bits", "refcount_bits=8", 16, .backing = false },
		{ "32 bits", "refcount_bits=32,cluster_size=1k", 2, .backing = false },
		{ "64 bits: the refcount table grows", "refcount_bits=64,cluster_size=512", 8, .backing = false },
	};

	run_formats(f, NR(f), 300);
}

static void test_subclusters(void **state)
{
	static const struct format f[] = {
		{ "extended L2, 16 KiB", "extended_l2=on,cluster_size=16k", 4, .backing = false },
		{ "extended L2, 128 KiB, backing", "extended_l2=on,cluster_size=128k", 16, .backing = true },
		{ "extended L2, snapshot", "extended_l2=on,cluster_size=32k", 8, .snapshot = true },
		{ "extended L2, compressed", "extended_l2=on,cluster_size=16k", 4, .compressed = true },
		{ "extended L2, preallocated", "extended_l2=on,preallocation=metadata", 8, .backing = false },
	};

	run_formats(f, NR(f), 300);
}

static void test_backing(void **state)
{
	static const struct format f[] = {
		{ "overlay", "cluster_size=64k", 16, .backing = true },
		{ "overlay, version 2", "compat=0.10,cluster_size=4k", 4, .backing = true },
		{ "overlay, 512-byte clusters", "cluster_size=512", 2, .backing = true },
	};

	run_formats(f, NR(f), 300);
}

static void test_compressed(void **state)
{
	static const struct format f[] = {
		{ "zlib", "cluster_size=64k", 8, .compressed = true },
		{ "zlib, 512-byte clusters", "cluster_size=512", 2, .compressed = true },
		{ "zstd", "compression_type=zstd,cluster_size=64k", 8, .compressed = true },
		{ "zlib, version 2", "compat=0.10", 8, .compressed = true },
		{ "zlib, 1-bit refcounts", "refcount_bits=8,cluster_size=4k", 4, .compressed = true },
	};

	run_formats(f, NR(f), 300);
}

static void test_snapshots(void **state)
{
	static const struct format f[] = {
		{ "snapshot", "cluster_size=64k", 16, .snapshot = true },
		{ "snapshot, version 2", "compat=0.10,cluster_size=4k", 4, .snapshot = true },
		{ "snapshot, 2-bit refcounts", "refcount_bits=2,cluster_size=1k", 2, .snapshot = true },
	};

	run_formats(f, NR(f), 300);
}

static void test_data_files(void **state)
{
	static const struct format f[] = {
		{ "data file", "cluster_size=64k", 8, .data_file = true },
		{ "raw data file", "cluster_size=64k,data_file_raw=on", 8, .data_file = true },
		{ "data file, extended L2", "cluster_size=16k,extended_l2=on", 4, .data_file = true },
	};

	run_formats(f, NR(f), 300);
}

static void test_preallocated_and_lazy(void **state)
{
	static const struct format f[] = {
		{ "preallocated metadata", "preallocation=metadata", 8, .backing = false },
		{ "lazy refcounts", "lazy_refcounts=on", 8, .backing = false },
		{ "version 2", "compat=0.10", 8, .backing = false },
	};

	run_formats(f, NR(f), 300);
}

/* --- killed at any moment --- */

/* Shared with the child that is killed: what must be there afterwards. */
struct promise {
	bool copying;                   /* killed just here: nothing is known */
	unsigned char *durable;         /* contents at the last flush */
	unsigned char *touched;         /* per sector: changed since, maybe */
	int pipe[2];                    /* a byte for every flush */
};

static struct promise *promise;

static void *shared(size_t len)
{
	void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static int co_until_killed(void *arg)
{
	struct run *t = arg;
	struct guest g = guest_of(t);
	int r;

	guest_open(&g, t->img, true);
	g.touched = promise->touched;
	r = guest_read(&g, 0, g.want, g.size);
	while (!r) {
		r = guest_run(&g, 30, 4);
		if (!r)
			r = co_layer_flush(g.l);
		promise->copying = true;
		memcpy(promise->durable, g.want, g.size);
		memset(promise->touched, 0, g.size / 512);
		promise->copying = false;
		if (write(promise->pipe[1], "", 1) != 1)
			r = -EIO;
	}
	return r;
}

static void child(struct run *t)
{
	struct reactor_config rc = { 0 };
	struct error e = ERROR_INIT;

	if (reactor_new(&rc, &t->r, &e) < 0)
		_exit(3);
	_exit(reactor_run_co(t->r, co_until_killed, t) ? 1 : 2);
}

static void assert_promise_kept(const struct run *t)
{
	unsigned char *got = malloc(t->size);
	char path[96];
	uint64_t i;
	int fd;

	assert_int_equal(shell("qemu-img convert -f qcow2 -O raw %s %s/out.raw", t->img, t->dir), 0);
	snprintf(path, sizeof(path), "%s/out.raw", t->dir);
	fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, got, t->size), t->size);
	close(fd);
	for (i = 0; i < t->size / 512; i++)
		if (!promise->touched[i] && memcmp(got + i * 512, promise->durable + i * 512, 512))
			fail_msg("sector %llu was flushed and is lost", (unsigned long long)i);
	free(got);
}

/* A killed process lets go of its files a little later than it ends: io_uring winds up in the kernel. */
static void wait_released(const char *path)
{
	struct flock lk = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200 };
	int fd = open(path, O_RDWR);

	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLKW, &lk), 0);
	close(fd);
}

static void kill_case(const struct format *f, uint64_t seed, unsigned rounds)
{
	struct run t = { .f = f, .seed = seed };
	int status;
	char flushed;

	print_message("  %s\n", f->name);
	make_image(&t);
	promise = shared(sizeof(*promise));
	promise->durable = shared(t.size);
	promise->touched = shared(t.size / 512);
	while (rounds--) {
		struct timespec ts = { 0, (long)(rnd(&seed) % 40000000) };
		pid_t pid;

		t.seed = seed;
		memset(promise->touched, 1, t.size / 512);
		promise->copying = false;
		fflush(NULL);
		assert_int_equal(pipe2(promise->pipe, 0), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (!pid)
			child(&t);
		/* Killed a random while after its first flush. */
		close(promise->pipe[1]);
		assert_int_equal(read(promise->pipe[0], &flushed, 1), 1);
		nanosleep(&ts, NULL);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		close(promise->pipe[0]);
		wait_released(t.img);
		/* 0: sound, 3: leaks, no corruption */
		assert_int_equal(shell("qemu-img check -f qcow2 %s >%s/log 2>&1; r=$?; test $r = 0 -o $r = 3 || "
				       "{ grep -v Leaked %s/log; exit 1; }", t.img, t.dir, t.dir), 0);
		if (!promise->copying)
			assert_promise_kept(&t);
	}
	assert_int_equal(shell("qemu-img check -q -r leaks %s", t.img), 0);
	munmap(promise->durable, t.size);
	munmap(promise->touched, t.size / 512);
	munmap(promise, sizeof(*promise));
	drop_image(&t);
}

/* A guest write longer than one refcount block covers: given in shorter runs, with bounded reservation. */
static int co_long_write(void *arg)
{
	struct run *t = arg;
	struct guest g = guest_of(t);
	uint64_t at = 0;
	unsigned runs = 0;

	guest_open(&g, t->img, true);
	memset(t->want, 0x6b, t->size);
	while (at < t->size) {
		struct layer_alloc a;
		int r = co_layer_alloc(g.l, at, t->size - at, &a);

		assert_int_equal(r, 0);
		assert_true(a.bytes && a.guest_off == at && a.guest_off + a.bytes <= t->size);
		r = co_file_write(layer_data_file(g.l), a.host_off, t->want + at, a.bytes);
		assert_int_equal(r, 0);
		assert_int_equal(co_layer_link(g.l, &a, at, a.bytes), 0);
		at += a.bytes;
		assert_true(++runs < 4096);
	}
	assert_true(layer_reserved_bytes(g.l) <= MIB);
	guest_close(&g);
	return 0;
}

static void test_longer_than_a_refcount_block(void **state)
{
	static const struct format f = { "128 clusters a block", "cluster_size=1k,refcount_bits=64", 2,
					 .backing = false };
	struct run t = { .f = &f, .seed = 1 };
	struct reactor_config rc = { .engine = ENGINE_URING };
	struct error e = ERROR_INIT;

	make_image(&t);
	if (reactor_new(&rc, &t.r, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(reactor_run_co(t.r, co_long_write, &t), 0);
	reactor_free(t.r);
	assert_int_equal(shell("qemu-img check -q -f qcow2 %s", t.img), 0);
	assert_int_equal(shell("qemu-img convert -f qcow2 -O raw %s %s/out.raw", t.img, t.dir), 0);
	snprintf(t.raw, sizeof(t.raw), "%s/out.raw", t.dir);
	assert_file_is(t.raw, t.want, t.size);
	drop_image(&t);
}

/*
 * A write is given up while another one finds new clusters: what it gives back is neither
 * forgotten nor given out twice. With 64 clusters a refcount block finding them takes I/O each time.
 */
static int co_take_and_give(void *arg)
{
	struct layer_alloc a;
	int r = co_layer_alloc(arg, 64 << 10, 512, &a);

	if (!r)
		layer_alloc_abort(arg, &a);
	return r;
}

static int co_given_back(void *arg)
{
	struct run *t = arg;
	struct guest g = guest_of(t);
	struct layer_alloc a[256];
	struct co_group grp;
	unsigned i;

	guest_open(&g, t->img, true);
	for (i = 0; !i || layer_reserved_bytes(g.l); i++) {
		assert_true(i < NR(a));
		assert_int_equal(co_layer_alloc(g.l, 512 * i, 512, &a[i]), 0);
	}
	co_group_init(&grp, t->r, 0);
	co_group_start(&grp, co_take_and_give, g.l);
	assert_int_equal(grp.running, 1);
	while (i--)
		layer_alloc_abort(g.l, &a[i]);
	assert_int_equal(co_group_wait(&grp), 0);
	guest_close(&g);
	return 0;
}

static void test_given_back_meanwhile(void **state)
{
	static const struct format f = { "64 clusters a block", "cluster_size=512,refcount_bits=64", 1,
					 .backing = false };
	struct run t = { .f = &f, .seed = 1 };
	struct reactor_config rc = { .engine = ENGINE_URING };
	struct error e = ERROR_INIT;

	make_image(&t);
	if (reactor_new(&rc, &t.r, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(reactor_run_co(t.r, co_given_back, &t), 0);
	reactor_free(t.r);
	assert_int_equal(shell("qemu-img check -q -f qcow2 %s", t.img), 0);
	drop_image(&t);
}

/* Tables that lie on each other: the first write fails, nothing is overwritten, and the image says so. */
struct overlap {
	struct run t;
	uint64_t put_at, value;         /* big endian there */
	uint64_t guest_off;             /* of the write */
};

static int co_overlap(void *arg)
{
	struct overlap *o = arg;
	struct guest g = guest_of(&o->t);
	struct layer_alloc a;
	struct extent x;
	int r;

	guest_open(&g, o->t.img, true);
	r = co_layer_extents(g.l, o->guest_off, 512, &x, 1);
	if (r == 1) {
		assert_false(x.in_place);
		r = co_layer_alloc(g.l, o->guest_off, 512, &a);
	}
	assert_int_equal(r, -EIO);
	assert_false(layer_writable(g.l));
	assert_non_null(layer_fault(g.l));
	assert_true(co_layer_close(g.l, NULL) < 0);
	return 0;
}

static void overlap_case(uint64_t put_at, uint64_t value, uint64_t guest_off)
{
	static const struct format f = { "overlap", "cluster_size=64k", 16, .backing = false };
	struct overlap o = { .t = { .f = &f, .seed = 1 }, .guest_off = guest_off };
	struct reactor_config rc = { .engine = ENGINE_URING };
	struct error e = ERROR_INIT;
	uint64_t be = htobe64(value);
	int fd;

	make_image(&o.t);
	assert_int_equal(shell("qemu-io -f qcow2 -c 'write -q 0 64k' %s", o.t.img), 0);
	fd = open(o.t.img, O_WRONLY);
	assert_true(fd >= 0 && pwrite(fd, &be, 8, (off_t)put_at) == 8);
	close(fd);
	if (reactor_new(&rc, &o.t.r, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(reactor_run_co(o.t.r, co_overlap, &o), 0);
	reactor_free(o.t.r);
	assert_int_equal(shell("qemu-img info %s | grep -q 'corrupt: true'", o.t.img), 0);
	drop_image(&o.t);
}

/* As qemu-img lays it out: header 0, refcount table 1, its block 2, L1 table 3, L2 table 4, data 5. */
static void test_tables_on_each_other(void **state)
{
	const uint64_t cluster = 64 << 10, copied = 1ull << 63;

	/* the L1 table names the refcount block as an L2 table: entry 100 is free */
	overlap_case(3 * cluster, copied | 2 * cluster, 100 * cluster);
	/* guest data in the L1 table; in the refcount table */
	overlap_case(4 * cluster, copied | 3 * cluster, 0);
	overlap_case(4 * cluster, copied | 1 * cluster, 0);
	/* a zero cluster that keeps the L1 table as its host cluster */
	overlap_case(4 * cluster, copied | 3 * cluster | 1, 0);
}

static void test_kill(void **state)
{
	static const struct format f[] = {
		{ "64 KiB clusters", "cluster_size=64k", 32, .backing = false },
		{ "512-byte clusters, 64-bit refcounts", "cluster_size=512,refcount_bits=64", 8, .backing = false },
		{ "extended L2 over a backing file", "cluster_size=128k,extended_l2=on", 32, .backing = true },
		{ "snapshot", "cluster_size=4k", 8, .snapshot = true },
		{ "compressed", "cluster_size=16k", 8, .compressed = true },
	};
	size_t i;

	for (i = 0; i < NR(f); i++)
		kill_case(&f[i], 77 + i, 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cluster_sizes),
		cmocka_unit_test(test_refcount_widths),
		cmocka_unit_test(test_subclusters),
		cmocka_unit_test(test_backing),
		cmocka_unit_test(test_compressed),
		cmocka_unit_test(test_snapshots),
		cmocka_unit_test(test_data_files),
		cmocka_unit_test(test_preallocated_and_lazy),
		cmocka_unit_test(test_longer_than_a_refcount_block),
		cmocka_unit_test(test_given_back_meanwhile),
		cmocka_unit_test(test_tables_on_each_other),
		cmocka_unit_test(test_kill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
