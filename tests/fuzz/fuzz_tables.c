// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * fuzz_tables.c - a valid image of some variant of the format, with entries of its tables changed.
 *
 * Input: a byte that chooses the variant, a byte of switches, then patches of 12 bytes (struct patch):
 * which kind of structure, which entry, how it changes. A pointer may be made to point at
 * another structure of the image, with flags: that is where allocators go wrong.
 *
 * Without patches the image must stay sound through everything, and qemu-img's own rules hold
 * for what the guest does; with patches it may be lost, but nothing of ours.
 *
 * QCHAIN_FUZZ_KEEP=FILE writes the damaged image to FILE before it is used.
 */
#include <assert.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/check.h"
#include "qcow/create.h"
#include "tests/fuzz/fuzz.h"

#define SIDE_BYTES (96u << 10)     /* of the data and the backing file */
#define PATCHES_MAX 32

enum { BACKING = 1, DATA_FILE = 2, RAW_DATA = 4, SNAPSHOT = 8, COMPRESSED = 16, ZSTD = 32, LAZY = 64 };

static const struct variant {
	uint32_t cluster;
	uint64_t size;
	uint32_t refcount_bits;
	int version, extended_l2;
	unsigned with;
} variants[] = {
	{ 512, 96u << 10, 16, 3, 0, 0 },
	{ 512, 96u << 10, 16, 2, 0, SNAPSHOT },
	{ 512, 90112 + 512, 1, 3, 0, COMPRESSED },
	{ 512, 200u << 10, 64, 3, 0, SNAPSHOT | COMPRESSED },
	{ 512, 160u << 10, 8, 3, 0, BACKING | SNAPSHOT },
	{ 512, 96u << 10, 16, 2, 0, BACKING | COMPRESSED },
	{ 1024, 512u << 10, 2, 3, 0, LAZY | SNAPSHOT | BACKING },
	{ 4096, 5u << 20, 16, 3, 0, SNAPSHOT | COMPRESSED },
	{ 4096, 5u << 20, 16, 3, 0, SNAPSHOT | COMPRESSED | ZSTD | BACKING },
	{ 4096, 3u << 20, 32, 3, 0, DATA_FILE },
	{ 4096, 96u << 10, 16, 3, 0, DATA_FILE | RAW_DATA },
	{ 16384, 40u << 20, 16, 3, 1, 0 },
	{ 16384, 20u << 20, 16, 3, 1, BACKING | SNAPSHOT },
	{ 16384, 20u << 20, 4, 3, 1, COMPRESSED | SNAPSHOT | LAZY },
	{ 16384, 2u << 20, 16, 3, 1, DATA_FILE },
	{ 32768, 3u << 20, 16, 3, 0, SNAPSHOT },
};
#define NR_VARIANTS (sizeof(variants) / sizeof(variants[0]))

/* Where entries of one kind are: nr of them, `bytes` each, one after the other. */
struct place {
	uint64_t off;
	uint32_t nr;
	unsigned bytes;
};

enum kind {
	KIND_HEADER, KIND_EXTENSIONS, KIND_L1, KIND_L2, KIND_REFT, KIND_REFBLOCK, KIND_SNAPSHOTS,
	KIND_SNAPSHOT_L1, KIND_DATA, KIND_FILE_END, KINDS
};

#define PLACES_MAX 16
struct base {
	uint8_t *image, *data;         /* as files; data NULL: none */
	size_t image_len, data_len;
	struct place at[KINDS][PLACES_MAX];
	unsigned nr_at[KINDS];
};
static struct base bases[NR_VARIANTS];
static uint8_t side[SIDE_BYTES];

static uint32_t load32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return be32toh(v);
}

static uint64_t load64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, 8);
	return be64toh(v);
}

static void store(uint8_t *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
}

/* --- the bases --- */

static struct chain *co_open(struct reactor *r, bool writable, struct error *e)
{
	struct chain_opts o = {
		.image = fuzz_path(FUZZ_IMAGE), .format = FORMAT_QCOW2, .read_only = !writable,
		.cache = FILE_CACHE_WRITEBACK, .map_cache = 1u << 20, .meta_cache = 256u << 10,
		.max_requests = 4,
	};
	struct chain *c;

	return co_chain_open(r, &o, &c, e) < 0 ? NULL : c;
}

static int co_create(struct reactor *r, void *arg)
{
	const struct variant *v = arg;
	struct create_opts o = {
		.format = FORMAT_QCOW2, .size = v->size, .cluster_size = v->cluster, .version = v->version,
		.extended_l2 = v->extended_l2, .refcount_bits = v->refcount_bits, .overwrite = true,
		.lazy_refcounts = v->with & LAZY, .compression = v->with & ZSTD ? 1 : 0,
		.no_backing_check = true,
		.data_file = v->with & DATA_FILE ? fuzz_path(FUZZ_DATA) : NULL,
		.data_file_raw = v->with & RAW_DATA,
		.backing_name = v->with & BACKING ? fuzz_path(FUZZ_BACKING) : NULL,
		.backing_format = v->with & BACKING ? "raw" : NULL,
	};
	struct error e = ERROR_INIT;

	FUZZ_REQUIRE(!co_image_create(r, fuzz_path(FUZZ_IMAGE), &o, &e), "%s", e.msg);
	return 0;
}

/* Some of everything: data, zeroes, holes, compressed clusters, in more than one table. */
static int co_populate(struct reactor *r, void *arg)
{
	const struct variant *v = arg;
	uint32_t cl = v->cluster, table = cl / (v->extended_l2 ? 16 : 8);
	struct error e = ERROR_INIT;
	struct chain *c = co_open(r, true, &e);
	uint64_t last = (v->size - 1) / cl * cl;
	uint8_t *buf = buf_alloc(4 * cl);

	FUZZ_REQUIRE(c && buf, "%s", e.msg);
	for (uint32_t i = 0; i < 4 * cl; i++)
		buf[i] = (uint8_t)(i / 64 + 1);
	FUZZ_REQUIRE(!co_chain_write(c, 0, buf, 2 * cl + 512), "write");
	FUZZ_REQUIRE(!co_chain_zero(c, 4 * cl, 2 * cl, 0), "zero");
	if ((uint64_t)table * cl + 3 * cl <= v->size)
		FUZZ_REQUIRE(!co_chain_write(c, (uint64_t)table * cl - cl, buf, 3 * cl), "write");
	FUZZ_REQUIRE(!co_chain_write(c, last, buf, 512), "write");
	FUZZ_REQUIRE(!co_chain_zero(c, cl, cl, CHAIN_F_NO_UNMAP), "zero");
	for (unsigned i = 0; v->with & COMPRESSED && i < 3; i++)
		FUZZ_REQUIRE(!co_layer_write_compressed(chain_active(c), (8 + i) * cl, buf), "compress");
	FUZZ_REQUIRE(!co_chain_close(c, &e), "%s", e.msg);
	buf_free(buf);
	return 0;
}

static int co_repair(struct reactor *r, void *arg)
{
	FUZZ_REQUIRE(co_fuzz_check(r, CHECK_FIX_LEAKS | CHECK_FIX_ERRORS) == 0, "a base that cannot be repaired");
	FUZZ_REQUIRE(co_fuzz_check(r, 0) == 0, "a base that is not sound");
	return 0;
}

/* Puts a copy of the L1 table and a snapshot table at the end; the repair then counts it all. */
static void add_snapshot(struct base *b, const struct variant *v)
{
	uint32_t cl = v->cluster, l1_size = load32(b->image + 36);
	uint64_t l1 = load64(b->image + 40), at = (b->image_len + cl - 1) / cl * cl;
	uint64_t l1_len = (l1_size * 8ull + cl - 1) / cl * cl;
	uint8_t *s;

	b->image = realloc(b->image, at + l1_len + cl);
	FUZZ_REQUIRE(b->image, "no memory");
	memset(b->image + b->image_len, 0, at + l1_len + cl - b->image_len);
	memcpy(b->image + at, b->image + l1, l1_size * 8);
	s = b->image + at + l1_len;
	store(s, at, 8);
	store(s + 8, l1_size, 4);
	store(s + 12, 1, 2);
	store(s + 14, 4, 2);
	store(s + 36, 16, 4);
	store(s + 48, v->size, 8);
	memcpy(s + 56, "1name", 5);
	store(b->image + 60, 1, 4);
	store(b->image + 64, at + l1_len, 8);
	b->image_len = at + l1_len + cl;
}

static void add_place(struct base *b, enum kind k, uint64_t off, uint64_t bytes, unsigned each)
{
	if (b->nr_at[k] == PLACES_MAX || off >= b->image_len)
		return;
	if (bytes > b->image_len - off)
		bytes = b->image_len - off;
	b->at[k][b->nr_at[k]++] = (struct place){ off, (uint32_t)(bytes / each), each };
}

/* The L1 table's L2 tables, and what they point at. */
static void find_below(struct base *b, const struct variant *v, uint64_t l1, uint32_t l1_size)
{
	unsigned each = v->extended_l2 ? 16 : 8;

	for (uint32_t i = 0; i < l1_size; i++) {
		uint64_t l2 = load64(b->image + l1 + i * 8ull) & 0x00fffffffffffe00ull;

		if (!l2)
			continue;
		/* the ends of the table, where entries are */
		add_place(b, KIND_L2, l2, 16 * each, 8);
		add_place(b, KIND_L2, l2 + v->cluster - 16 * each, 16 * each, 8);
		for (uint32_t k = 0; k < v->cluster; k += each) {
			uint64_t host = load64(b->image + l2 + k) & 0x00fffffffffffe00ull;

			if (host && !(v->with & DATA_FILE))
				add_place(b, KIND_DATA, host, v->cluster, 8);
		}
	}
}

static void find_places(struct base *b, const struct variant *v)
{
	uint64_t l1 = load64(b->image + 40), reft = load64(b->image + 48), snap = load64(b->image + 64);
	uint32_t l1_size = load32(b->image + 36);

	add_place(b, KIND_HEADER, 0, v->version == 2 ? 72 : 112, 4);
	add_place(b, KIND_EXTENSIONS, v->version == 2 ? 72 : 104, 400, 4);
	add_place(b, KIND_L1, l1, l1_size * 8ull, 8);
	find_below(b, v, l1, l1_size);
	add_place(b, KIND_REFT, reft, 64, 8);
	for (unsigned i = 0; i < 64 / 8; i++) {
		uint64_t block = load64(b->image + reft + i * 8) & ~511ull;

		if (block)
			add_place(b, KIND_REFBLOCK, block, 128, v->refcount_bits >= 16 ? v->refcount_bits / 8 : 1);
	}
	add_place(b, KIND_FILE_END, 0, 1, 1);
	if (!(v->with & SNAPSHOT))
		return;
	add_place(b, KIND_SNAPSHOTS, snap, 64, 4);
	add_place(b, KIND_SNAPSHOT_L1, load64(b->image + snap), l1_size * 8ull, 8);
}

static void fill_sides(const struct variant *v)
{
	if (v->with & BACKING)
		fuzz_fill(FUZZ_BACKING, side, sizeof(side));
	if (v->with & DATA_FILE)
		fuzz_fill(FUZZ_DATA, side, sizeof(side));
}

static int co_make(struct reactor *r, void *arg)
{
	return co_create(r, arg) ? -1 : co_populate(r, arg);
}

static void make_base(struct base *b, const struct variant *v)
{
	struct reactor *r;

	fill_sides(v);
	r = fuzz_reactor_new(1);
	fuzz_reactor_run(r, co_make, (void *)v);
	b->image = fuzz_take(FUZZ_IMAGE, &b->image_len);
	if (v->with & SNAPSHOT) {
		add_snapshot(b, v);
		fuzz_fill(FUZZ_IMAGE, b->image, b->image_len);
		free(b->image);
		fuzz_reactor_run(r, co_repair, NULL);
		b->image = fuzz_take(FUZZ_IMAGE, &b->image_len);
	}
	fuzz_reactor_free(r);
	if (v->with & DATA_FILE)
		b->data = fuzz_take(FUZZ_DATA, &b->data_len);
	find_places(b, v);
	FUZZ_REQUIRE(b->nr_at[KIND_L2] && b->nr_at[KIND_REFBLOCK], "a base without tables");
}

/* --- patches --- */

struct patch {
	uint8_t kind, place, index, op;
	uint8_t value[8];
};
static_assert(sizeof(struct patch) == 12, "patch");

enum op { OP_SET, OP_XOR, OP_POINT, OP_COPY, OP_ADD, OPS };

static const struct place *find_place(const struct base *b, unsigned kind, unsigned n)
{
	kind %= KINDS;
	return b->nr_at[kind] ? &b->at[kind][n % b->nr_at[kind]] : NULL;
}

/* Where another structure lies, with flags from the upper byte and a crooked offset now and then. */
static uint64_t pointer(const struct base *b, const uint8_t *v)
{
	const struct place *to = find_place(b, v[1], v[2]);
	uint64_t off = to ? to->off & ~511ull : 0;

	if (v[1] % KINDS == KIND_FILE_END)
		off = (b->image_len & ~511ull) + 512 * v[2];
	return (uint64_t)(v[0] & 0xc1) << 56 | (off + (v[3] & 3 ? 0 : 512ull * v[4])) | (v[5] & 1);
}

/* The file ends earlier, or later. */
static void move_end(struct base *b, const struct patch *p)
{
	size_t len = b->image_len;

	if (p->op & 1)
		len = len > 512u * p->index ? len - 512u * p->index : 0;
	else
		len += 512u * p->index;
	b->image = realloc(b->image, len + 1);
	FUZZ_REQUIRE(b->image, "no memory");
	if (len > b->image_len)
		memset(b->image + b->image_len, p->value[0], len - b->image_len);
	b->image_len = len;
}

static void apply(struct base *b, const struct patch *p)
{
	const struct place *at = find_place(b, p->kind, p->place), *from;
	uint64_t value = load64(p->value), old, off;

	if (p->kind % KINDS == KIND_FILE_END) {
		move_end(b, p);
		return;
	}
	if (!at || !at->nr)
		return;
	off = at->off + (uint64_t)(p->index % at->nr) * at->bytes;
	if (off + 8 > b->image_len)
		return;
	old = load64(b->image + off) >> (64 - 8 * at->bytes);
	switch (p->op % OPS) {
	case OP_SET:
		break;
	case OP_XOR:
		value ^= old;
		break;
	case OP_POINT:
		value = pointer(b, p->value);
		break;
	case OP_COPY:
		from = find_place(b, p->value[0], p->value[1]);
		if (!from || !from->nr || from->off + 8ull * (p->value[2] % from->nr) + 8 > b->image_len)
			return;
		value = load64(b->image + from->off + 8ull * (p->value[2] % from->nr));
		break;
	case OP_ADD:
		value += old;
		break;
	}
	store(b->image + off, value, at->bytes);
}

/* --- a run --- */

/* Switches of the second byte; a sound image does everything, whatever they say. */
enum {
	ONLY_LEAKS = 1, REPAIR_FIRST = 2, TO_BACKING = 4, NO_READ = 8, NO_GUEST = 16, NO_LAYER = 32,
	NO_CHECK = 64
};

struct input {
	uint8_t flags;
	bool damaged;
};

static bool left_out(const struct input *in, unsigned what)
{
	return in->damaged && in->flags & what;
}

/* Cluster by cluster, as a tool that converts would. */
static void co_layer_use(struct reactor *r, struct input *in)
{
	struct layer_opts o = {
		.format = FORMAT_QCOW2, .writable = true, .cache = FILE_CACHE_WRITEBACK,
		.meta_cache = 64u << 10,
	};
	struct error e = ERROR_INIT;
	struct layer *l;
	uint8_t *buf;
	uint32_t cl;

	if (co_layer_open(r, fuzz_path(FUZZ_IMAGE), &o, &l, &e) < 0)
		return;
	cl = layer_cluster_size(l);
	buf = buf_alloc(cl);
	FUZZ_REQUIRE(buf, "no memory");
	memset(buf, 7, cl);
	for (uint64_t off = 0; off < 24ull * cl && off < layer_size(l); off += 5 * cl)
		co_layer_write_compressed(l, off, buf);
	co_layer_discard(l, 0, cl < layer_size(l) ? cl : layer_size(l), layer_backing_name(l), in->flags & TO_BACKING);
	buf_free(buf);
	co_layer_close(l, &e);
}

/* Magic, version, cluster size, disk size: what no write of a guest may change, wherever entries point. */
struct identity {
	uint8_t start[8], geometry[12];
};

static void identify(struct identity *id)
{
	fuzz_peek(FUZZ_IMAGE, 0, id->start, sizeof(id->start));
	fuzz_peek(FUZZ_IMAGE, 20, id->geometry, sizeof(id->geometry));
}

static void co_use(struct reactor *r, const struct input *in)
{
	struct error e = ERROR_INIT;
	struct identity before, after;
	struct chain *c = co_open(r, true, &e);

	fuzz_require_sentence(c ? 0 : -1, &e);
	FUZZ_REQUIRE(c || in->damaged, "%s", e.msg);
	if (!c)
		return;
	if (!left_out(in, NO_READ))
		co_fuzz_read(c);
	identify(&before);
	if (!left_out(in, NO_GUEST))
		co_fuzz_guest(c, in->flags);
	identify(&after);
	FUZZ_REQUIRE(!memcmp(&before, &after, sizeof(before)), "a guest wrote into the header");
	co_fuzz_read(c);
	FUZZ_REQUIRE(!co_chain_close(c, &e) || in->damaged, "%s", e.msg);
}

/*
 * What a repair says must be true. It says nothing of structures that lie in one place: like
 * qemu-img's it is content when their refcounts are right, so use may bring out faults again.
 */
static void co_repair_damage(struct reactor *r, unsigned fix)
{
	if (co_fuzz_check(r, fix) == 0 && fix & CHECK_FIX_ERRORS)
		FUZZ_REQUIRE(co_fuzz_check(r, 0) == 0, "faults after a repair that left none");
}

static int co_main(struct reactor *r, void *arg)
{
	struct input *in = arg;
	unsigned fix = in->flags & ONLY_LEAKS ? CHECK_FIX_LEAKS : CHECK_FIX_LEAKS | CHECK_FIX_ERRORS;

	if (in->flags & REPAIR_FIRST)
		co_repair_damage(r, fix);
	else if (!left_out(in, NO_CHECK))
		FUZZ_REQUIRE(co_fuzz_check(r, 0) == 0 || in->damaged, "a base with faults");
	co_use(r, in);
	if (!in->damaged)
		FUZZ_REQUIRE(co_fuzz_check(r, 0) == 0, "a sound image is not sound after use");
	if (!left_out(in, NO_CHECK))
		co_repair_damage(r, fix);
	if (!left_out(in, NO_LAYER))
		co_layer_use(r, in);
	if (!in->damaged)
		FUZZ_REQUIRE(co_fuzz_check(r, 0) == 0, "a sound image is not sound after compression");
	return 0;
}

static void keep(const struct base *b)
{
	const char *name = getenv("QCHAIN_FUZZ_KEEP");
	FILE *f = name ? fopen(name, "w") : NULL;

	if (!f)
		return;
	fwrite(b->image, 1, b->image_len, f);
	fclose(f);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_init();
	for (size_t i = 0; i < sizeof(side); i++)
		side[i] = (uint8_t)(i / 512 + 3);
	for (size_t i = 0; i < NR_VARIANTS; i++)
		make_base(&bases[i], &variants[i]);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const struct variant *v;
	struct input in;
	struct base b;

	if (len < 2)
		return 0;
	v = &variants[data[0] % NR_VARIANTS];
	b = bases[data[0] % NR_VARIANTS];
	in = (struct input){ data[1], false };
	b.image = malloc(b.image_len);
	FUZZ_REQUIRE(b.image, "no memory");
	memcpy(b.image, bases[data[0] % NR_VARIANTS].image, b.image_len);
	for (size_t i = 2, n = 0; i + sizeof(struct patch) <= len && n < PATCHES_MAX; i += sizeof(struct patch), n++) {
		apply(&b, (const struct patch *)(data + i));
		in.damaged = true;
	}
	keep(&b);
	fuzz_fill(FUZZ_IMAGE, b.image, b.image_len);
	fill_sides(v);
	if (b.data)
		fuzz_fill(FUZZ_DATA, b.data, b.data_len);
	free(b.image);
	fuzz_run(co_main, &in, 1);
	return 0;
}
