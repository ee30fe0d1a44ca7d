// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_map.c - qcimg map: which image of the chain holds which bytes, where.
 *
 * It asks the layers one by one from the top down, as qemu-img does, rather than
 * the merged map: "depth" is part of what a caller wants to see.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "tools/applet.h"
#include "tools/img_common.h"

#define NOWHERE UINT64_MAX

struct map {
	struct img_common common;
	struct img_source src;
	bool json;
	uint64_t start, max_len;
};

struct entry {
	uint64_t start, length;
	unsigned depth;
	bool present, zero, data, compressed;
	uint64_t host_off;             /* NOWHERE: none */
	const char *file;
};

/*
 * Few blocks on disk for the clusters in the file: metadata was preallocated, and
 * data clusters may be holes. The measure is qemu-img's.
 */
static bool data_may_be_holes(const struct layer *l)
{
	struct stat st;
	uint64_t clusters, real, threshold, size = layer_cluster_size(l);

	if (layer_format(l) != FORMAT_QCOW2 || fstat(file_fd(layer_file((struct layer *)l)), &st) < 0)
		return false;
	clusters = ((uint64_t)st.st_size + size - 1) / size;
	real = (uint64_t)st.st_blocks * 512 / size;
	threshold = real * 10 / 9 > real + 2 ? real * 10 / 9 : real + 2;
	return clusters >= threshold;
}

/* The host cluster of the guest cluster at `base`, if any subcluster of it has one; else NOWHERE. */
static int co_cluster_host(struct layer *l, uint64_t base, uint64_t *host_off)
{
	struct extent ext[32];
	int n = co_layer_extents(l, base, layer_cluster_size(l), ext, 32);

	*host_off = NOWHERE;
	for (int i = 0; i < n; i++) {
		if (ext[i].kind != EXT_DATA && (ext[i].kind != EXT_ZERO || ext[i].host_off == NOWHERE))
			continue;
		*host_off = ext[i].host_off - (ext[i].guest_off - base);
		break;
	}
	return n < 0 ? n : 0;
}

/*
 * Where an image has subclusters, an unallocated one has a place in the host file if
 * another of its cluster has. Cuts x to what has one answer.
 */
static int co_place_unallocated(struct layer *l, struct extent *x)
{
	uint64_t size = layer_cluster_size(l), base = x->guest_off & ~(size - 1), host;
	int ret;

	x->host_off = NOWHERE;
	if (layer_unit(l) == size || layer_format(l) != FORMAT_QCOW2)
		return 0;
	if (x->guest_off == base && x->bytes >= size) {
		x->bytes &= ~(size - 1);
		return 0;
	}
	ret = co_cluster_host(l, base, &host);
	if (base + size - x->guest_off < x->bytes)
		x->bytes = base + size - x->guest_off;
	if (host != NOWHERE)
		x->host_off = host + (x->guest_off - base);
	return ret;
}

/* What layer l alone says at off: one extent that begins there. */
static int co_extent_at(struct layer *l, uint64_t off, uint64_t bytes, struct extent *x)
{
	uint64_t unit = layer_unit(l), start = off - off % unit, skip = off - start;
	uint64_t len = bytes + skip;
	int n;

	if (len % unit)
		len += unit - len % unit;
	n = co_layer_extents(l, start, len, x, 1);
	if (n < 0)
		return n;
	if (n == 0)
		return -EIO;
	x->guest_off += skip;
	x->bytes = x->bytes - skip < bytes ? x->bytes - skip : bytes;
	if (x->host_off != NOWHERE)
		x->host_off += skip;
	return x->kind == EXT_UNALLOCATED ? co_place_unallocated(l, x) : 0;
}

/* A data cluster that is a hole of the host file reads as zeros. */
static int co_look_for_hole(struct layer *l, struct entry *e)
{
	uint64_t len;
	bool data;
	int ret;

	if (!e->data || e->host_off == NOWHERE || !data_may_be_holes(l))
		return 0;
	ret = co_file_extent(layer_data_file(l), e->host_off, &data, &len);
	if (ret == 0 && len) {
		e->zero = !data;
		e->length = len < e->length ? len : e->length;
	}
	return ret;
}

static int co_fill(struct layer *l, const struct extent *x, struct entry *e)
{
	e->length = x->bytes;
	e->data = x->kind == EXT_DATA || x->kind == EXT_COMPRESSED;
	e->zero = x->kind == EXT_ZERO;
	e->compressed = x->kind == EXT_COMPRESSED;
	e->present = x->kind != EXT_UNALLOCATED;
	e->host_off = x->kind == EXT_COMPRESSED ? NOWHERE : x->host_off;
	e->file = e->host_off == NOWHERE ? NULL : file_path(layer_data_file(l));
	return co_look_for_hole(l, e);
}

/* The entry at off: the uppermost layer that says anything. */
static int co_lookup(struct chain *c, uint64_t off, uint64_t bytes, struct entry *e)
{
	unsigned i = chain_depth(c);
	struct extent x;
	struct layer *l;
	int ret;

	*e = (struct entry){ .start = off };
	for (;; e->depth++) {
		l = chain_layer(c, --i);
		if (bytes > layer_size(l) - off)
			bytes = layer_size(l) - off;
		ret = co_extent_at(l, off, bytes, &x);
		if (ret < 0)
			return ret;
		bytes = x.bytes;
		if (x.kind != EXT_UNALLOCATED || i == 0 || off >= layer_size(chain_layer(c, i - 1)))
			break;
	}
	ret = co_fill(l, &x, e);
	if (x.kind == EXT_UNALLOCATED)
		e->zero = true;
	return ret;
}

static bool continues(const struct entry *a, const struct entry *b)
{
	return a->depth == b->depth && a->present == b->present && a->zero == b->zero &&
	       a->data == b->data && a->compressed == b->compressed &&
	       (a->host_off == NOWHERE) == (b->host_off == NOWHERE) &&
	       (a->host_off == NOWHERE || (a->file == b->file && a->host_off + a->length == b->host_off));
}

static int print_human(const struct entry *e)
{
	if (!e->data || e->zero)
		return 0;
	if (e->host_off == NOWHERE)
		return img_fail("File contains external, encrypted or compressed clusters.");
	printf("%#-16" PRIx64 "%#-16" PRIx64 "%#-16" PRIx64 "%s\n", e->start, e->length, e->host_off, e->file);
	return 0;
}

static const char *word(bool b)
{
	return b ? "true" : "false";
}

static void print_json(const struct entry *e, bool last)
{
	printf("{ \"start\": %" PRIu64 ", \"length\": %" PRIu64 ", \"depth\": %u, \"present\": %s, \"zero\": %s, "
	       "\"data\": %s, \"compressed\": %s", e->start, e->length, e->depth, word(e->present),
	       word(e->zero), word(e->data), word(e->compressed));
	if (e->host_off != NOWHERE)
		printf(", \"offset\": %" PRIu64, e->host_off);
	printf(last ? "}" : "},\n");
}

static int print_entry(const struct map *m, const struct entry *e, bool last)
{
	if (!m->json)
		return print_human(e);
	print_json(e, last);
	return 0;
}

static int co_walk(const struct map *m, struct chain *c)
{
	uint64_t off = m->start, end = chain_size(c);
	struct entry cur = { 0 }, next;

	if (m->max_len < UINT64_MAX - off && off + m->max_len < end)
		end = off + m->max_len;
	for (; off < end; off += next.length) {
		int ret = co_lookup(c, off, end - off, &next);

		if (ret < 0)
			return img_fail("Could not read the tables of '%s': %s", m->src.name, strerror(-ret));
		if (cur.length && continues(&cur, &next)) {
			cur.length += next.length;
			continue;
		}
		if (cur.length && print_entry(m, &cur, false))
			return EXIT_FAILED;
		cur = next;
	}
	/* Nothing to show is shown as an entry of no length in JSON, as qemu-img does. */
	if (!cur.length)
		cur = (struct entry){ .start = m->start, .host_off = NOWHERE };
	return print_entry(m, &cur, true);
}

static int co_map(struct reactor *r, void *arg)
{
	const struct map *m = arg;
	struct error e = ERROR_INIT;
	struct chain *c;
	int status;

	if (co_img_open_chain(r, &m->src, false, &c, &e) < 0)
		return img_fail_open(m->src.name, &e);
	if (m->json)
		putchar('[');
	else
		printf("%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File");
	status = co_walk(m, c);
	if (m->json)
		puts("]");
	return co_img_close(c) == EXIT_DONE ? status : EXIT_FAILED;
}

static bool take(struct map *m, int c)
{
	switch (c) {
	case 'f':
		m->src.fmt = optarg;
		return true;
	case 's':
		return img_parse_size("start offset", optarg, &m->start);
	case 'l':
		return img_parse_size("max length", optarg, &m->max_len);
	case 'U':
		m->src.force_share = true;
		return true;
	case IMG_OPT_IMAGE_OPTS:
		m->src.image_opts = true;
		return true;
	default:
		return img_parse_output(m->common.cmd, optarg, &m->json);
	}
}

int img_map(const struct img_cmd *cmd, int argc, char **argv)
{
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },
		{ "output", required_argument, NULL, IMG_OPT_OUTPUT },
		{ "start-offset", required_argument, NULL, 's' },
		{ "max-length", required_argument, NULL, 'l' },
		{ "force-share", no_argument, NULL, 'U' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct map m = {
		.common = { .cmd = cmd }, .src.cache.mode = FILE_CACHE_WRITEBACK, .max_len = UINT64_MAX,
	};
	int c;

	while ((c = img_getopt(&m.common, argc, argv, ":hf:s:l:U", longs)) >= 0)
		if (!take(&m, c))
			return EXIT_FAILED;
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	if (optind != argc - 1)
		return img_usage(cmd, "Expecting one image file name");
	m.src.name = argv[optind];
	return img_run(&m.common, NULL, co_map, &m);
}
