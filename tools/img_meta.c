// SPDX-License-Identifier: GPL-2.0-or-later
/* img_meta.c - see img_meta.h. Layouts: docs/interop/qcow2.rst, and the LUKS1 on-disk format. */
#include "tools/img_meta.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tools/json_util.h"

#define SNAPSHOT_EXTRA_MAX 1024u
#define BITMAP_DIR_MAX     (64u << 20)
#define BITMAP_IN_USE      1u
#define BITMAP_AUTO        2u
#define LUKS_SLOTS         8u
#define LUKS_SLOT_ACTIVE   0x00ac71f3u
#define LUKS_SECTOR        512u

struct disk_snapshot {
	uint64_t l1_offset;
	uint32_t l1_size;
	uint16_t id_len, name_len;
	uint32_t date_sec, date_nsec;
	uint64_t vm_clock_nsec;
	uint32_t vm_state_size, extra_len;
} __attribute__((packed));
static_assert(sizeof(struct disk_snapshot) == 40, "snapshot table entry");

struct disk_snapshot_extra {
	uint64_t vm_state_size, disk_size, icount;
} __attribute__((packed));

struct disk_bitmaps_ext {
	uint32_t nr, reserved;
	uint64_t dir_bytes, dir_offset;
} __attribute__((packed));
static_assert(sizeof(struct disk_bitmaps_ext) == 24, "bitmaps extension");

struct disk_bitmap {
	uint64_t table_offset;
	uint32_t table_size, flags;
	uint8_t type, granularity_bits;
	uint16_t name_len;
	uint32_t extra_len;
} __attribute__((packed));
static_assert(sizeof(struct disk_bitmap) == 24, "bitmap directory entry");

struct disk_luks_slot {
	uint32_t active, iterations;
	uint8_t salt[32];
	uint32_t key_sector, stripes;
} __attribute__((packed));

struct disk_luks {
	uint8_t magic[6];
	uint16_t version;
	char cipher[32], mode[32], hash[32];
	uint32_t payload_sector, key_bytes;
	uint8_t digest[20], salt[32];
	uint32_t iterations;
	char uuid[40];
	struct disk_luks_slot slots[LUKS_SLOTS];
} __attribute__((packed));
static_assert(sizeof(struct disk_luks) == 592, "LUKS1 header");

static json_t *damaged(struct file *f, const char *what, struct error *e)
{
	error_set(e, EINVAL, "image '%s' has a damaged %s; check it with: qcimg check", file_path(f), what);
	return NULL;
}

static bool inside(struct file *f, uint64_t off, uint64_t len)
{
	return off <= file_size(f) && len <= file_size(f) - off;
}

/* --- snapshots --- */
static int64_t load_icount(const uint8_t *extra, uint32_t len)
{
	const struct disk_snapshot_extra *x = (const void *)extra;

	return len >= sizeof(*x) ? (int64_t)be64toh(x->icount) : -1;
}

static uint64_t load_vm_state(const struct disk_snapshot *s, const uint8_t *extra, uint32_t len)
{
	const struct disk_snapshot_extra *x = (const void *)extra;

	return len >= sizeof(x->vm_state_size) ? be64toh(x->vm_state_size) : be32toh(s->vm_state_size);
}

static json_t *snapshot_tree(const struct disk_snapshot *s, const uint8_t *extra, const char *id,
			     const char *name)
{
	uint32_t extra_len = be32toh(s->extra_len);
	uint64_t clock = be64toh(s->vm_clock_nsec);
	int64_t icount = load_icount(extra, extra_len);
	json_t *o = json_object();

	if (icount != -1)
		put_int(o, "icount", (uint64_t)icount);
	put_int(o, "vm-clock-nsec", clock % 1000000000);
	put_text(o, "name", name);
	put_int(o, "date-sec", be32toh(s->date_sec));
	put_int(o, "date-nsec", be32toh(s->date_nsec));
	put_int(o, "vm-clock-sec", clock / 1000000000);
	put_text(o, "id", id);
	put_int(o, "vm-state-size", load_vm_state(s, extra, extra_len));
	return o;
}

/* Reads the entry at *off and moves *off behind it. */
static json_t *co_snapshot(struct file *f, uint64_t *off, struct error *e)
{
	struct disk_snapshot s;
	uint8_t extra[SNAPSHOT_EXTRA_MAX] = { 0 };
	char *id, *name;
	json_t *o = NULL;
	uint64_t at = *off + sizeof(s);
	uint32_t extra_len;

	if (!inside(f, *off, sizeof(s)) || co_file_read(f, *off, &s, sizeof(s)) < 0)
		return damaged(f, "snapshot table", e);
	extra_len = be32toh(s.extra_len);
	if (extra_len > sizeof(extra) ||
	    !inside(f, at, (uint64_t)extra_len + be16toh(s.id_len) + be16toh(s.name_len)))
		return damaged(f, "snapshot table", e);
	id = calloc(1, be16toh(s.id_len) + 1u);
	name = calloc(1, be16toh(s.name_len) + 1u);
	if (!id || !name)
		abort();
	if (co_file_read(f, at, extra, extra_len) < 0 ||
	    co_file_read(f, at + extra_len, id, be16toh(s.id_len)) < 0 ||
	    co_file_read(f, at + extra_len + be16toh(s.id_len), name, be16toh(s.name_len)) < 0)
		damaged(f, "snapshot table", e);
	else
		o = snapshot_tree(&s, extra, id, name);
	at += (uint64_t)extra_len + be16toh(s.id_len) + be16toh(s.name_len);
	*off = (at + 7) & ~7ull;
	free(id);
	free(name);
	return o;
}

json_t *co_img_snapshots(struct file *f, const struct qcow2_header *h, struct error *e)
{
	json_t *list = json_array();
	uint64_t off = h->h.snapshots_offset;

	if (h->h.nb_snapshots > QCOW2_MAX_SNAPSHOTS) {
		json_decref(list);
		return damaged(f, "snapshot table", e);
	}
	for (uint32_t i = 0; i < h->h.nb_snapshots; i++) {
		json_t *o = co_snapshot(f, &off, e);

		if (!o || json_array_append_new(list, o) < 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* --- bitmaps --- */
static json_t *bitmap_tree(const struct disk_bitmap *b, const char *name)
{
	uint32_t flags = be32toh(b->flags);
	json_t *o = json_object(), *words = json_array();

	if (flags & BITMAP_IN_USE)
		json_array_append_new(words, json_string("in-use"));
	if (flags & BITMAP_AUTO)
		json_array_append_new(words, json_string("auto"));
	put(o, "flags", words);
	put_text(o, "name", name);
	put_int(o, "granularity", 1ull << b->granularity_bits);
	return o;
}

static json_t *bitmaps_parse(struct file *f, const uint8_t *dir, uint64_t len, uint32_t nr,
			     struct error *e)
{
	json_t *list = json_array();
	uint64_t off = 0;

	for (uint32_t i = 0; i < nr; i++) {
		const struct disk_bitmap *b = (const void *)(dir + off);
		uint64_t bytes;
		char *name;

		if (len - off < sizeof(*b) || b->granularity_bits > 63)
			goto bad;
		bytes = sizeof(*b) + (uint64_t)be32toh(b->extra_len) + be16toh(b->name_len);
		bytes = (bytes + 7) & ~7ull;
		if (bytes > len - off)
			goto bad;
		name = strndup((const char *)(b + 1) + be32toh(b->extra_len), be16toh(b->name_len));
		if (!name)
			abort();
		json_array_append_new(list, bitmap_tree(b, name));
		free(name);
		off += bytes;
	}
	return list;
bad:
	json_decref(list);
	return damaged(f, "bitmap directory", e);
}

static const struct qcow2_ext *find_ext(const struct qcow2_header *h, uint32_t type, size_t min)
{
	for (unsigned i = 0; i < h->nr_exts; i++)
		if (h->exts[i].type == type && h->exts[i].len >= min)
			return &h->exts[i];
	return NULL;
}

json_t *co_img_bitmaps(struct file *f, const struct qcow2_header *h, struct error *e)
{
	const struct qcow2_ext *ext = find_ext(h, QCOW2_EXT_BITMAPS, sizeof(struct disk_bitmaps_ext));
	struct disk_bitmaps_ext b;
	uint64_t bytes;
	uint8_t *dir;
	json_t *list;

	/* Without the autoclear bit the directory is stale: someone wrote who does not know bitmaps. */
	if (!ext || !(h->h.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
		return json_array();
	memcpy(&b, ext->data, sizeof(b));
	bytes = be64toh(b.dir_bytes);
	if (bytes > BITMAP_DIR_MAX || !inside(f, be64toh(b.dir_offset), bytes))
		return damaged(f, "bitmap directory", e);
	dir = malloc(bytes + 1);
	if (!dir)
		abort();
	if (co_file_read(f, be64toh(b.dir_offset), dir, bytes) < 0)
		list = damaged(f, "bitmap directory", e);
	else
		list = bitmaps_parse(f, dir, bytes, be32toh(b.nr), e);
	free(dir);
	return list;
}

/* --- encryption --- */
static json_t *luks_slots(const struct disk_luks *l)
{
	json_t *slots = json_array();

	for (unsigned i = 0; i < LUKS_SLOTS; i++) {
		const struct disk_luks_slot *s = &l->slots[i];
		bool active = be32toh(s->active) == LUKS_SLOT_ACTIVE;
		json_t *o = json_object();

		put_bool(o, "active", active);
		if (active)
			put_int(o, "iters", be32toh(s->iterations));
		put_int(o, "key-offset", (uint64_t)be32toh(s->key_sector) * LUKS_SECTOR);
		if (active)
			put_int(o, "stripes", be32toh(s->stripes));
		json_array_append_new(slots, o);
	}
	return slots;
}

/* "xts-plain64" or "cbc-essiv:sha256": mode, generator of initial vectors, its hash. */
static void split_mode(char *mode, const char **ivgen, const char **ivhash)
{
	char *dash = strchr(mode, '-'), *colon;

	*ivgen = *ivhash = NULL;
	if (!dash)
		return;
	*dash = '\0';
	*ivgen = dash + 1;
	colon = strchr(dash + 1, ':');
	if (colon) {
		*colon = '\0';
		*ivhash = colon + 1;
	}
}

static json_t *luks_tree(const struct disk_luks *l)
{
	uint32_t key_bits = be32toh(l->key_bytes) * 8;
	const char *ivgen, *ivhash;
	char mode[33], text[64];
	json_t *o = json_object();

	snprintf(mode, sizeof(mode), "%.32s", l->mode);
	split_mode(mode, &ivgen, &ivhash);
	if (!strcmp(mode, "xts"))
		key_bits /= 2;               /* two keys */
	put_text(o, "ivgen-alg", ivgen);
	put_text(o, "ivgen-hash-alg", ivhash);
	put_bool(o, "detached-header", false);
	snprintf(text, sizeof(text), "%.32s", l->hash);
	put_text(o, "hash-alg", text);
	snprintf(text, sizeof(text), "%.32s-%" PRIu32, l->cipher, key_bits);
	put_text(o, "cipher-alg", text);
	snprintf(text, sizeof(text), "%.40s", l->uuid);
	put_text(o, "uuid", text);
	put_text(o, "format", "luks");
	put_text(o, "cipher-mode", mode);
	put(o, "slots", luks_slots(l));
	put_int(o, "payload-offset", (uint64_t)be32toh(l->payload_sector) * LUKS_SECTOR);
	put_int(o, "master-key-iters", be32toh(l->iterations));
	return o;
}

json_t *co_img_encryption(struct file *f, const struct qcow2_header *h, struct error *e)
{
	const struct qcow2_ext *ext = find_ext(h, QCOW2_EXT_LUKS, 16);
	struct disk_luks l;
	uint64_t off;
	json_t *o;

	if (h->h.crypt_method == 0)
		return NULL;
	if (h->h.crypt_method == 1) {
		o = json_object();
		put_text(o, "format", "aes");
		return o;
	}
	if (!ext)
		return damaged(f, "encryption header", e);
	memcpy(&off, ext->data, sizeof(off));
	off = be64toh(off);
	if (!inside(f, off, sizeof(l)) || co_file_read(f, off, &l, sizeof(l)) < 0 ||
	    memcmp(l.magic, "LUKS\xba\xbe", sizeof(l.magic)))
		return damaged(f, "encryption header", e);
	return luks_tree(&l);
}
