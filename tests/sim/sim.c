// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * sim.c - the simulator: chains on a disk that crashes, from one seed each.
 *
 *	sim [--seeds N] [--minutes M] [--seed S] [--lives L] [--plant BUG] [--verbose] [--keep]
 *
 *	--seeds N     how many seeds (default 1 with --seed, else as many as fit the time)
 *	--minutes M   stop after so many minutes (default 1; a fraction will do)
 *	--seed S      the first seed (default: drawn anew, and printed)
 *	--lives L     lives of each chain (default 12)
 *	--plant BUG   makes the code under test wrong on purpose: skip_barrier, free_before_unlink,
 *	              link_before_copy
 *	--verbose     tells what happens
 *	--keep        leaves the images of a seed that failed
 *
 * A seed decides the images, the requests, the order of completions, the faults
 * and what crashes leave. One that fails is printed with the command that runs it
 * again. Exit status: 0 nothing found, 1 a seed failed, 2 bad usage.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "qcow/plant.h"
#include "world.h"

#define LIFE_SECONDS 120u      /* of real time, after which a life counts as hung */
#define QEMU_EVERY 20          /* lives */

static struct {
	uint64_t seeds, first;
	bool have_first;
	double minutes;
	unsigned lives;
	const char *plant;
	bool verbose, keep;
} opt = { .minutes = 1, .lives = 12 };

static struct world *w;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* --- children --- */

/* 0: as it should be; 1: w->failure says what is wrong. */
static int finish(pid_t pid, const char *what)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	if (WIFEXITED(status) && WEXITSTATUS(status) <= 1)
		return WEXITSTATUS(status);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
		snprintf(w->failure, sizeof(w->failure), "%s did not end in %u seconds", what, LIFE_SECONDS);
	else if (WIFSIGNALED(status))
		snprintf(w->failure, sizeof(w->failure), "%s died: %s", what, strsignal(WTERMSIG(status)));
	else
		snprintf(w->failure, sizeof(w->failure), "%s ended with status %d", what, WEXITSTATUS(status));
	return 1;
}

static int run_life(enum life_kind kind)
{
	pid_t pid;

	w->life++;
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid) {
		alarm(LIFE_SECONDS);
		life_run(w, kind);
	}
	return finish(pid, "a life");
}

/* Runs a program in the seed's folder; its exit status. Its output goes to `log`. */
static int run_tool(const char *const argv[])
{
	int status, fd;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		fd = open("/dev/null", O_RDWR);
		if (chdir(w->dir) < 0 || fd < 0)
			_exit(126);
		dup2(fd, 0);
		fd = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
		dup2(fd, 1);
		dup2(fd, 2);
		execvp(argv[0], (char *const *)argv);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

static void show_log(void)
{
	char path[192], line[512];
	FILE *f;

	snprintf(path, sizeof(path), "%s/log", w->dir);
	f = fopen(path, "r");
	for (int i = 0; f && i < 20 && fgets(line, sizeof(line), f); i++)
		printf("  %s", line);
	if (f)
		fclose(f);
}

/* --- images --- */

static void choose_qcow2(struct world_layer *l, struct create_opts *o)
{
	static const unsigned bits[] = { 9, 10, 11, 12, 12, 13, 14, 14, 15, 16, 16, 16, 17 };

	o->cluster_size = 1u << bits[world_below(w, sizeof(bits) / sizeof(bits[0]))];
	o->version = world_below(w, 7) ? 3 : 2;
	if (o->version == 2)
		return;
	if (o->cluster_size >= 16384)
		o->extended_l2 = world_below(w, 5) < 3;
	if (!world_below(w, 3))
		o->refcount_bits = 1u << world_below(w, 7);
	else if (o->cluster_size <= 1024)
		o->refcount_bits = 64;   /* so few in a block that the table of them must grow */
	o->lazy_refcounts = !world_below(w, 5);
	if (!world_below(w, 8)) {
		snprintf(l->data_file, sizeof(l->data_file), "data%u.raw", w->depth);
		o->data_file_raw = !w->depth && world_below(w, 2);
	}
}

/* A new layer on top; its size may differ from that of what is below. */
static int add_layer(void)
{
	struct world_layer *l = &w->layers[w->depth];
	struct oracle *o = &w->oracle;
	uint64_t size = o->size;

	memset(l, 0, sizeof(*l));
	l->o.format = !w->depth && !world_below(w, 4) ? FORMAT_RAW : FORMAT_QCOW2;
	snprintf(l->name, sizeof(l->name), "layer%u.%s", w->depth, layer_format_name(l->o.format));
	if (l->o.format == FORMAT_QCOW2)
		choose_qcow2(l, &l->o);
	if (!w->depth || !world_below(w, 4)) {
		size = 1ull << (15 + world_below(w, 8));
		if (world_below(w, 2))
			size += 512 * world_below(w, 300);
		/* many tables of small clusters, mostly; few writes of whole disks of large ones */
		while (l->o.cluster_size && size > (uint64_t)l->o.cluster_size * (world_below(w, 3) ? 256 : 4096))
			size /= 2;
		size &= ~511ull;
	}
	l->o.size = size;
	oracle_resize(o, size);
	w->depth++;
	w->may_leak = w->may_leak_before = 0;
	w->crashed = false;
	if (w->verbose)
		printf("  layer %s: %" PRIu64 " bytes, clusters of %u, version %d%s%s, refcount_bits %u%s%s\n",
		       l->name, size, l->o.cluster_size, l->o.version, l->o.extended_l2 ? ", extended L2" : "",
		       l->data_file[0] ? ", data file" : "", l->o.refcount_bits,
		       l->o.lazy_refcounts ? ", lazy refcounts" : "", l->o.data_file_raw ? ", raw" : "");
	return run_life(LIFE_CREATE);
}

/* --- QEMU as judge --- */

static int write_expected(void)
{
	char path[192];
	FILE *f;
	int rc;

	snprintf(path, sizeof(path), "%s/expected.raw", w->dir);
	f = fopen(path, "w");
	if (!f)
		return -errno;
	rc = fwrite(w->oracle.base, 1, w->oracle.size, f) == w->oracle.size ? 0 : -EIO;
	if (fclose(f) != 0)
		rc = -EIO;
	return rc;
}

/* After a life that compared everything: the images as they are must please QEMU too. */
static int ask_qemu(void)
{
	struct world_layer *top = &w->layers[w->depth - 1];
	const char *format = layer_format_name(top->o.format);
	const char *check[] = { "qemu-img", "check", "-f", "qcow2", top->name, NULL };
	const char *compare[] = { "qemu-img", "compare", "-f", format, "-F", "raw", top->name,
				  "expected.raw", NULL };
	int rc;

	w->qemu_checks++;
	if (top->o.format == FORMAT_QCOW2 && !w->dirty) {
		rc = run_tool(check);
		if (rc != 0 && rc != 3) {
			show_log();
			snprintf(w->failure, sizeof(w->failure), "qemu-img check of '%s': status %d", top->name, rc);
			return 1;
		}
	}
	rc = write_expected();
	if (!rc)
		rc = run_tool(compare);
	if (!rc)
		return 0;
	show_log();
	snprintf(w->failure, sizeof(w->failure), "qemu-img compare of '%s' with what was read: status %d",
		 top->name, rc);
	return 1;
}

/* --- what only QEMU makes: internal snapshots and compressed clusters --- */

#define SNAPSHOTS 2

static struct snapshot {
	unsigned layer;            /* that has it, counted from 1; 0: none */
	char name[8];
	uint64_t size;
	unsigned char *disk;
} snapshots[SNAPSHOTS];

static int tool_failed(const char *what)
{
	show_log();
	snprintf(w->failure, sizeof(w->failure), "%s of '%s' failed", what, w->layers[w->depth - 1].name);
	return 1;
}

/* A snapshot must hold for ever what the disk held when it was taken. */
static int check_snapshot(const struct snapshot *s)
{
	const char *top = w->layers[s->layer - 1].name;
	const char *convert[] = { "qemu-img", "convert", "-f", "qcow2", "-l", s->name, "-O", "raw",
				  top, "snapshot.raw", NULL };
	unsigned char *got;
	char path[192];
	size_t n;
	FILE *f;
	int rc;

	if (run_tool(convert))
		return tool_failed("qemu-img convert of a snapshot");
	snprintf(path, sizeof(path), "%s/snapshot.raw", w->dir);
	f = fopen(path, "r");
	got = malloc(s->size);
	if (!f || !got)
		return tool_failed("reading a snapshot");
	n = fread(got, 1, s->size, f);
	fclose(f);
	rc = n != s->size || memcmp(got, s->disk, n) != 0;
	free(got);
	if (rc)
		snprintf(w->failure, sizeof(w->failure), "snapshot '%s' of '%s' has changed", s->name, top);
	return rc;
}

static int check_snapshots(void)
{
	int rc = 0;

	for (unsigned i = 0; !rc && i < SNAPSHOTS; i++)
		if (snapshots[i].layer)
			rc = check_snapshot(&snapshots[i]);
	return rc;
}

static void forget_snapshots(void)
{
	for (unsigned i = 0; i < SNAPSHOTS; i++) {
		free(snapshots[i].disk);
		snapshots[i] = (struct snapshot){ 0 };
	}
}

static int take_snapshot(struct snapshot *s)
{
	struct oracle *o = &w->oracle;
	const char *create[] = { "qemu-img", "snapshot", "-c", s->name, w->layers[w->depth - 1].name, NULL };

	snprintf(s->name, sizeof(s->name), "s%u", w->life);
	if (run_tool(create))
		return tool_failed("qemu-img snapshot -c");
	w->snapshots++;
	s->layer = w->depth;
	s->size = o->size;
	s->disk = malloc(o->size);
	if (!s->disk)
		return -ENOMEM;
	memcpy(s->disk, o->base, o->size);
	return 0;
}

static int apply_or_delete(struct snapshot *s)
{
	bool apply = s->size == w->oracle.size && world_below(w, 2);
	const char *argv[] = { "qemu-img", "snapshot", apply ? "-a" : "-d", s->name,
			       w->layers[w->depth - 1].name, NULL };

	if (run_tool(argv))
		return tool_failed(apply ? "qemu-img snapshot -a" : "qemu-img snapshot -d");
	if (apply) {
		oracle_rebase(&w->oracle, s->disk);
		return 0;
	}
	free(s->disk);
	*s = (struct snapshot){ 0 };
	return 0;
}

static bool snapshots_possible(const struct world_layer *l)
{
	return l->o.format == FORMAT_QCOW2 && !l->data_file[0] &&
	       (!l->o.refcount_bits || l->o.refcount_bits >= 8);
}

static int change_snapshots(void)
{
	struct snapshot *s = &snapshots[world_below(w, SNAPSHOTS)];

	if (!snapshots_possible(&w->layers[w->depth - 1]) || (s->layer && s->layer != w->depth))
		return 0;
	if (w->verbose)
		printf("  snapshot: %s\n", s->layer ? "apply or delete" : "create");
	return s->layer ? apply_or_delete(s) : take_snapshot(s);
}

/* The active image as QEMU compresses it. */
static int compress_layer(void)
{
	struct world_layer *l = &w->layers[w->depth - 1];
	struct world_layer *below = w->depth > 1 ? l - 1 : NULL;
	char options[256], from[192], to[192];
	const char *argv[] = { "qemu-img", "convert", "-c", "-f", "qcow2", "-O", "qcow2", "-o", options,
			       l->name, "compressed", NULL };
	int n;

	if (l->o.format != FORMAT_QCOW2 || l->data_file[0])
		return 0;
	for (unsigned i = 0; i < SNAPSHOTS; i++)
		if (snapshots[i].layer == w->depth)
			return 0;
	n = snprintf(options, sizeof(options), "cluster_size=%u,compat=%s", l->o.cluster_size,
		     l->o.version == 2 ? "0.10" : "1.1");
	if (l->o.version != 2)
		n += snprintf(options + n, sizeof(options) - n, ",refcount_bits=%u,extended_l2=%s,"
			      "lazy_refcounts=%s,compression_type=%s",
			      l->o.refcount_bits ? l->o.refcount_bits : 16, l->o.extended_l2 ? "on" : "off",
			      l->o.lazy_refcounts ? "on" : "off", world_below(w, 2) ? "zlib" : "zstd");
	if (below)
		snprintf(options + n, sizeof(options) - n, ",backing_file=%s,backing_fmt=%s", below->name,
			 layer_format_name(below->o.format));
	if (w->verbose)
		printf("  compressed: %s\n", options);
	if (run_tool(argv))
		return tool_failed("qemu-img convert -c");
	snprintf(from, sizeof(from), "%s/compressed", w->dir);
	snprintf(to, sizeof(to), "%s/%s", w->dir, l->name);
	l->compressed = true;
	w->compressions++;
	w->may_leak = w->may_leak_before = 0;
	w->crashed = false;
	return rename(from, to) < 0 ? -errno : 0;
}

/* --- what a crash of QEMU leaves with lazy refcounts --- */

static uint64_t big_endian(const unsigned char *p, unsigned bytes)
{
	uint64_t v = 0;

	while (bytes--)
		v = v << 8 | *p++;
	return v;
}

/* Forgets a run of the refcounts in one block. */
static int spoil_block(int fd, uint64_t off, uint64_t cluster)
{
	static const unsigned char zeros[4096];
	uint64_t at = world_below(w, cluster), n = 1 + world_below(w, sizeof(zeros));

	if (n > cluster - at)
		n = cluster - at;
	return pwrite(fd, zeros, n, (off_t)(off + at)) == (ssize_t)n ? 0 : -EIO;
}

/* Makes the refcounts of the active image wrong and sets its dirty bit (header and tables: qcow2's spec). */
static int make_dirty(void)
{
	const struct world_layer *l = &w->layers[w->depth - 1];
	unsigned char h[104], entry[8];
	char path[192];
	uint64_t cluster, table, entries;
	int fd, rc = 0;

	if (l->o.format != FORMAT_QCOW2 || !l->o.lazy_refcounts)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", w->dir, l->name);
	fd = open(path, O_RDWR);
	if (fd < 0 || pread(fd, h, sizeof(h), 0) != sizeof(h))
		return -EIO;
	cluster = 1ull << big_endian(h + 20, 4);
	table = big_endian(h + 48, 8);
	entries = big_endian(h + 56, 4) * cluster / 8;
	for (uint64_t i = 0; !rc && i < entries; i++) {
		if (pread(fd, entry, 8, (off_t)(table + i * 8)) != 8)
			rc = -EIO;
		else if (big_endian(entry, 8))
			rc = spoil_block(fd, big_endian(entry, 8), cluster);
	}
	h[79] |= 1;
	if (!rc && pwrite(fd, h + 79, 1, 79) != 1)
		rc = -EIO;
	close(fd);
	w->dirty = true;
	w->dirtied++;
	if (w->verbose)
		printf("  made dirty\n");
	return rc;
}

/* --- a seed --- */

static int run_lives(void)
{
	int rc = add_layer();

	for (unsigned i = 0; !rc && i < opt.lives; i++) {
		bool look;

		w->lives++;
		if (i && !world_below(w, 3))
			rc = make_dirty();
		if (!rc)
			rc = run_life(LIFE_WORK);
		if (rc)
			break;
		if (w->verbose)
			printf("  life %u: %s%s, %u changes\n", w->life, w->crashed ? "crashed" : "closed",
			       w->faulty ? ", with faults" : "", w->oracle.nr_ops);
		look = !world_below(w, 4);
		if (look)
			rc = run_life(LIFE_LOOK);
		if (!rc && look && !world_below(w, QEMU_EVERY / 4))
			rc = ask_qemu();
		look &= !w->dirty;
		if (!rc && look && !world_below(w, 3))
			rc = change_snapshots();
		if (!rc && look && !world_below(w, 6))
			rc = compress_layer();
		if (!rc && look && w->depth < WORLD_LAYERS && world_below(w, 2))
			rc = add_layer();
	}
	if (!rc)
		rc = check_snapshots();
	return rc;
}

static int make_folder(void)
{
	const char *top = getenv("TMPDIR");
	struct stat st;

	if (!top)
		top = stat("/dev/shm", &st) == 0 && S_ISDIR(st.st_mode) ? "/dev/shm" : "/var/tmp";
	snprintf(w->dir, sizeof(w->dir), "%s/qchain-sim-XXXXXX", top);
	return mkdtemp(w->dir) ? 0 : -errno;
}

static void remove_folder(void)
{
	char path[192];

	for (unsigned i = 0; i < WORLD_LAYERS; i++) {
		const char *names[] = { w->layers[i].name, w->layers[i].data_file, "log", "expected.raw",
					"snapshot.raw", "compressed" };

		for (unsigned k = 0; k < 6; k++) {
			snprintf(path, sizeof(path), "%s/%s", w->dir, names[k]);
			if (names[k][0])
				unlink(path);
		}
	}
	rmdir(w->dir);
}

static int run_seed(uint64_t seed)
{
	int rc;

	w->seed = seed;
	w->rng = seed ^ 0x5851f42d4c957f2du;
	w->life = 0;
	w->depth = 0;
	w->dirty = false;
	w->verbose = opt.verbose;
	w->oracle.size = 0;
	w->oracle.nr_ops = 0;
	w->oracle.last_id = 0;
	w->failure[0] = 0;
	memset(w->layers, 0, sizeof(w->layers));
	memset(w->oracle.base, 0, sizeof(w->oracle.base));
	rc = make_folder();
	if (rc < 0) {
		fprintf(stderr, "sim: cannot make a folder '%s': %s\n", w->dir, strerror(-rc));
		return rc;
	}
	if (opt.verbose)
		printf("seed %" PRIu64 "\n", seed);
	rc = run_lives();
	forget_snapshots();
	if (rc) {
		printf("FAILED: seed %" PRIu64 ", life %u of '%s' (%u layers): %s\n", seed, w->life,
		       w->layers[w->depth - 1].name, w->depth, w->failure);
		printf("  again with: tests/sim/run --seed %" PRIu64 " --lives %u%s%s --verbose\n", seed,
		       opt.lives, opt.plant ? " --plant " : "", opt.plant ? opt.plant : "");
	}
	if (!rc || !opt.keep)
		remove_folder();
	else
		printf("  images: %s\n", w->dir);
	return rc;
}

/* --- main --- */

static int usage(void)
{
	fprintf(stderr, "usage: sim [--seeds N] [--minutes M] [--seed S] [--lives L] [--plant BUG] "
			"[--verbose] [--keep]\n");
	return 2;
}

static int parse(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seeds", required_argument, NULL, 'n' }, { "minutes", required_argument, NULL, 'm' },
		{ "seed", required_argument, NULL, 's' }, { "lives", required_argument, NULL, 'l' },
		{ "plant", required_argument, NULL, 'p' }, { "verbose", no_argument, NULL, 'v' },
		{ "keep", no_argument, NULL, 'k' }, { 0 },
	};
	char *end = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		const char *arg = optarg ? optarg : "0";

		errno = 0;
		end = NULL;
		if (c == 'n')
			opt.seeds = strtoull(arg, &end, 10);
		else if (c == 'm')
			opt.minutes = strtod(arg, &end);
		else if (c == 's')
			opt.first = strtoull(arg, &end, 10);
		else if (c == 'l')
			opt.lives = (unsigned)strtoul(arg, &end, 10);
		else if (c == 'p')
			opt.plant = arg;
		else if (c == 'v')
			opt.verbose = true;
		else if (c == 'k')
			opt.keep = true;
		else
			return -1;
		opt.have_first |= c == 's';
		if (end && (*end || end == arg || errno))
			return -1;
	}
	if (optind != argc)
		return -1;
	return opt.plant ? qcow_plant_parse(opt.plant) : 0;
}

static void summary(uint64_t seeds, double seconds)
{
	printf("%" PRIu64 " seeds, %" PRIu64 " lives, %" PRIu64 " operations (%" PRIu64
	       " MiB written, %" PRIu64 " MiB read), %" PRIu64 " completions, ",
	       seeds, w->lives, w->ops, w->bytes_written >> 20, w->bytes_read >> 20, w->steps);
	printf("%" PRIu64 " crashes, %" PRIu64 " clean closes, %" PRIu64 " checks, %" PRIu64
	       " by QEMU, %" PRIu64 " snapshots, %" PRIu64 " compressions, %" PRIu64
	       " made dirty; %.0f s\n",
	       w->crashes, w->closes, w->checks, w->qemu_checks, w->snapshots, w->compressions,
	       w->dirtied, seconds);
}

int main(int argc, char **argv)
{
	double start = now();
	uint64_t n = 0;
	int rc = 0;

	if (parse(argc, argv) < 0)
		return usage();
	if (!opt.have_first) {
		uint32_t fresh;

		if (getrandom(&fresh, sizeof(fresh), 0) != sizeof(fresh))
			return 1;
		opt.first = fresh;
	}
	if (!opt.seeds)
		opt.seeds = opt.have_first ? 1 : UINT64_MAX;
	w = mmap(NULL, sizeof(*w), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (w == MAP_FAILED) {
		fprintf(stderr, "sim: no memory\n");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	printf("seeds from %" PRIu64 " on\n", opt.first);
	while (!rc && n < opt.seeds && (!n || now() - start < opt.minutes * 60))
		rc = run_seed(opt.first + n++);
	summary(n, now() - start);
	return rc ? 1 : 0;
}
