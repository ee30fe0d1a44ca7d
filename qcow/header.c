// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * header.c - the qcow2 header and its extensions: read, and believed only as far as checked.
 *
 * Invariant: whoever holds a struct qcow2_header that came from here may use
 * every offset and size in it without another look: each is inside its limit,
 * aligned, inside the file, and overlaps nothing else that the header names. No
 * memory is taken for a number in the header that the file's size does not warrant.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/qcow2.h"

#define V2_HEADER_LEN 72u
#define V3_HEADER_MIN 104u
#define MIN_EXT_L2_BITS 14u /* a subcluster is a sector at least */
#define MAX_NAME 1023u
#define MAX_FORMAT_NAME 255u
#define FEATURE_ENTRY 48u /* type, bit, name[46] */
#define SNAPSHOT_MIN 40u  /* bytes of the shortest snapshot table entry */
#define MAX_BITMAPS 65535u
#define MAX_BITMAP_DIR (64u << 20)

struct parse {
	const char *path;
	const struct layer_opts *o;
	struct qcow2_header *hdr;
	uint64_t file_size;
	uint32_t cluster_size;
	const uint8_t *buf; /* the first cluster */
	struct error *e;
};

#define DAMAGED(p, fmt, ...)                                                                       \
	error_set((p)->e, EINVAL,                                                                  \
		  "image '%s' has a damaged header: " fmt "; restore the image from a copy",       \
		  (p)->path, ##__VA_ARGS__)

static uint32_t load32(const uint8_t *b)
{
	uint32_t v;

	memcpy(&v, b, sizeof(v));
	return be32toh(v);
}

static uint64_t load64(const uint8_t *b)
{
	uint64_t v;

	memcpy(&v, b, sizeof(v));
	return be64toh(v);
}

static int no_memory(struct parse *p)
{
	return error_set(p->e, ENOMEM, "cannot open '%s': out of memory", p->path);
}

/* --- the fixed part --- */

static void header_to_host(struct qcow2_disk_header *h)
{
	h->magic = be32toh(h->magic);
	h->version = be32toh(h->version);
	h->backing_file_offset = be64toh(h->backing_file_offset);
	h->backing_file_size = be32toh(h->backing_file_size);
	h->cluster_bits = be32toh(h->cluster_bits);
	h->size = be64toh(h->size);
	h->crypt_method = be32toh(h->crypt_method);
	h->l1_size = be32toh(h->l1_size);
	h->l1_table_offset = be64toh(h->l1_table_offset);
	h->refcount_table_offset = be64toh(h->refcount_table_offset);
	h->refcount_table_clusters = be32toh(h->refcount_table_clusters);
	h->nb_snapshots = be32toh(h->nb_snapshots);
	h->snapshots_offset = be64toh(h->snapshots_offset);
	h->incompatible_features = be64toh(h->incompatible_features);
	h->compatible_features = be64toh(h->compatible_features);
	h->autoclear_features = be64toh(h->autoclear_features);
	h->refcount_order = be32toh(h->refcount_order);
	h->header_length = be32toh(h->header_length);
}

/* What a version 2 header, or a short version 3 one, says by saying nothing. */
static void fill_absent(struct qcow2_disk_header *h)
{
	if (h->version == 2) {
		memset(&h->incompatible_features, 0,
		       sizeof(*h) - offsetof(struct qcow2_disk_header, incompatible_features));
		h->refcount_order = 4;
		h->header_length = V2_HEADER_LEN;
	} else if (h->header_length < sizeof(*h)) {
		h->compression_type = 0;
		memset(h->padding, 0, sizeof(h->padding));
	}
}

static int truncated(struct parse *p)
{
	return error_set(p->e, EINVAL,
			 "image '%s' is truncated: its %" PRIu64
			 " bytes do not hold its first cluster; "
			 "restore it from a copy",
			 p->path, p->file_size);
}

/* Magic, version, cluster size and header length: enough to find everything else. */
static int parse_start(struct parse *p, const uint8_t *head)
{
	struct qcow2_disk_header *h = &p->hdr->h;

	memcpy(h, head, sizeof(*h));
	header_to_host(h);
	if (p->file_size < 4 || h->magic != QCOW2_MAGIC)
		return error_set(p->e, EINVAL,
				 "'%s' is not a qcow2 image; if it is a raw disk, name "
				 "the format: raw",
				 p->path);
	if (p->file_size < V2_HEADER_LEN)
		return truncated(p);
	if (h->version != 2 && h->version != 3)
		return error_set(p->e, ENOTSUP,
				 "image '%s' is of qcow2 version %u, which is not known "
				 "here (2 and 3 are); convert it with the software that made it",
				 p->path, h->version);
	if (h->cluster_bits < 9 || h->cluster_bits > 21)
		return DAMAGED(p, "its clusters are of 2^%u bytes, where 2^9 to 2^21 are allowed",
			       h->cluster_bits);
	p->cluster_size = 1u << h->cluster_bits;
	/* the refcount table at least comes after the first cluster */
	if (p->file_size < p->cluster_size)
		return truncated(p);
	fill_absent(h);
	if (h->version == 2)
		return 0;
	if (h->header_length < V3_HEADER_MIN || h->header_length % 8)
		return DAMAGED(p,
			       "a header length of %u bytes, where a multiple of 8 from %u on is "
			       "allowed",
			       h->header_length, V3_HEADER_MIN);
	if (h->header_length > p->cluster_size)
		return DAMAGED(p, "the header, %u bytes, does not fit into the first cluster",
			       h->header_length);
	return 0;
}

static int parse_tail(struct parse *p)
{
	struct qcow2_header *hdr = p->hdr;

	if (hdr->h.header_length <= sizeof(hdr->h))
		return 0;
	hdr->tail_len = hdr->h.header_length - sizeof(hdr->h);
	hdr->tail = malloc(hdr->tail_len);
	if (!hdr->tail)
		return no_memory(p);
	memcpy(hdr->tail, p->buf + sizeof(hdr->h), hdr->tail_len);
	return 0;
}

/* --- extensions --- */

static int add_ext(struct parse *p, uint32_t type, const uint8_t *data, uint32_t len)
{
	struct qcow2_header *hdr = p->hdr;
	uint8_t *copy;

	/* room for 2^n of them */
	if (!(hdr->nr_exts & (hdr->nr_exts - 1))) {
		size_t cap = hdr->nr_exts ? hdr->nr_exts * 2 : 1;
		struct qcow2_ext *more = realloc(hdr->exts, cap * sizeof(*more));

		if (!more)
			return no_memory(p);
		hdr->exts = more;
	}
	copy = malloc(len ? len : 1);
	if (!copy)
		return no_memory(p);
	memcpy(copy, data, len);
	hdr->exts[hdr->nr_exts++] = (struct qcow2_ext){type, len, copy};
	return 0;
}

static const char *ext_name(uint32_t type)
{
	switch (type) {
	case QCOW2_EXT_BACKING_FMT:
		return "backing format";
	case QCOW2_EXT_FEATURES:
		return "feature names";
	case QCOW2_EXT_BITMAPS:
		return "bitmaps";
	case QCOW2_EXT_LUKS:
		return "encryption header";
	case QCOW2_EXT_DATA_FILE:
		return "data file name";
	default:
		return NULL;
	}
}

static const struct qcow2_ext *find_ext(const struct qcow2_header *hdr, uint32_t type)
{
	for (unsigned i = 0; i < hdr->nr_exts; i++)
		if (hdr->exts[i].type == type)
			return &hdr->exts[i];
	return NULL;
}

/* A string extension. Like QEMU we end it at a NUL byte. */
static int take_string(struct parse *p, char **out, uint32_t type, const uint8_t *data,
		       uint32_t len, uint32_t max)
{
	if (*out)
		return DAMAGED(p, "the %s extension appears twice", ext_name(type));
	if (len > max)
		return DAMAGED(p, "the %s extension is of %u bytes, where %u are allowed",
			       ext_name(type), len, max);
	*out = strndup((const char *)data, len);
	return *out ? 0 : no_memory(p);
}

static int parse_ext(struct parse *p, uint32_t type, const uint8_t *data, uint32_t len)
{
	switch (type) {
	case QCOW2_EXT_BACKING_FMT:
		return take_string(p, &p->hdr->backing_format, type, data, len, MAX_FORMAT_NAME);
	case QCOW2_EXT_DATA_FILE:
		return take_string(p, &p->hdr->data_file, type, data, len, p->cluster_size);
	case QCOW2_EXT_FEATURES:
	case QCOW2_EXT_BITMAPS:
	case QCOW2_EXT_LUKS:
		if (find_ext(p->hdr, type))
			return DAMAGED(p, "the %s extension appears twice", ext_name(type));
		break;
	default:
		/* whether an unknown one may appear twice is for its own specification to say */
		break;
	}
	return add_ext(p, type, data, len);
}

/* From the end of the header to an end marker, the backing name, or the end of the cluster. */
static int parse_exts(struct parse *p)
{
	const struct qcow2_disk_header *h = &p->hdr->h;
	uint32_t off = h->header_length, end = p->cluster_size;
	int rc;

	if (h->backing_file_offset && h->backing_file_offset < end)
		end = h->backing_file_offset;
	while (off < end && end - off >= 8) {
		uint32_t type = load32(p->buf + off), len = load32(p->buf + off + 4);

		off += 8;
		if (type == QCOW2_EXT_END)
			break;
		if (len > end - off)
			return DAMAGED(
				p,
				"extension 0x%08x of %u bytes at byte %u goes beyond the end of "
				"the extension area, byte %u",
				type, len, off - 8, end);
		rc = parse_ext(p, type, p->buf + off, len);
		if (rc < 0)
			return rc;
		off += len + (-len & 7u);
	}
	return 0;
}

/* --- feature bits --- */

/* Writes the name of an incompatible feature bit, or "bit N" if the image names none. */
static void feature_name(const struct qcow2_header *hdr, unsigned bit, char *out, size_t room)
{
	const struct qcow2_ext *ext = find_ext(hdr, QCOW2_EXT_FEATURES);
	size_t n = 0;

	for (uint32_t at = 0; ext && at + FEATURE_ENTRY <= ext->len; at += FEATURE_ENTRY) {
		const uint8_t *entry = ext->data + at;

		if (entry[0] != 0 || entry[1] != bit)
			continue;
		for (const uint8_t *c = entry + 2; c < entry + FEATURE_ENTRY && *c && n + 1 < room;
		     c++)
			out[n++] = isprint(*c) ? (char)*c : '?';
		break;
	}
	out[n] = 0;
	if (!n)
		snprintf(out, room, "bit %u", bit);
}

static int refuse_unknown(struct parse *p, uint64_t unknown)
{
	char names[1024] = "", one[64];
	size_t n = 0;

	for (unsigned bit = 0; bit < 64; bit++) {
		if (!(unknown >> bit & 1))
			continue;
		feature_name(p->hdr, bit, one, sizeof(one));
		if (n + strlen(one) + 3 < sizeof(names))
			n += (size_t)sprintf(names + n, "%s%s", n ? ", " : "", one);
	}
	return error_set(p->e, ENOTSUP,
			 "image '%s' needs features that are not known here: %s; use the "
			 "software that made it",
			 p->path, names);
}

static int check_compression(struct parse *p)
{
	const struct qcow2_disk_header *h = &p->hdr->h;
	bool bit = h->incompatible_features & QCOW2_INCOMPAT_COMPRESSION;

	if (bit && !h->compression_type)
		return DAMAGED(p, "the compression type bit is set but no type is given");
	if (!bit && h->compression_type)
		return DAMAGED(p, "compression type %u without the compression type bit",
			       h->compression_type);
	if (h->compression_type > 1)
		return error_set(
			p->e, ENOTSUP,
			"image '%s' is compressed in a way that is not known here "
			"(type %u; zlib and zstd are known); convert it with the software that "
			"made it",
			p->path, h->compression_type);
	return 0;
}

static int check_features(struct parse *p)
{
	const struct qcow2_disk_header *h = &p->hdr->h;
	uint64_t bits = h->incompatible_features;

	if (bits & QCOW2_INCOMPAT_CORRUPT && p->o->writable && !p->o->allow_corrupt)
		return error_set(p->e, EACCES,
				 "image '%s' is marked corrupt; it can be opened read-only, or "
				 "repaired with: qcimg check -r all %s",
				 p->path, p->path);
	if (bits & QCOW2_INCOMPAT_EXTENDED_L2 && h->cluster_bits < MIN_EXT_L2_BITS)
		return DAMAGED(p,
			       "extended L2 entries need clusters of 16 KiB or more, not %u bytes",
			       p->cluster_size);
	if (h->autoclear_features & QCOW2_AUTOCLEAR_RAW_DATA && !(bits & QCOW2_INCOMPAT_DATA_FILE))
		return DAMAGED(p,
			       "the raw external data bit is set in an image without a data file");
	if (h->refcount_order > 6)
		return DAMAGED(p, "refcounts of 2^%u bits, where 64 bits are the most",
			       h->refcount_order);
	return check_compression(p);
}

static int check_encryption(struct parse *p)
{
	const struct qcow2_ext *ext = find_ext(p->hdr, QCOW2_EXT_LUKS);
	uint32_t method = p->hdr->h.crypt_method;

	if (method > 2)
		return error_set(p->e, ENOTSUP,
				 "image '%s' is encrypted in a way that is not known here "
				 "(method %u)",
				 p->path, method);
	if (ext && method != 2)
		return DAMAGED(p,
			       "an encryption header in an image that is not encrypted with LUKS");
	if (method == 2 && (!ext || ext->len != 16))
		return DAMAGED(p, "the place of the LUKS header is missing");
	if (method && !p->o->metadata_only)
		return error_set(p->e, ENOTSUP,
				 "image '%s' is encrypted (%s), and encrypted images cannot be "
				 "read or written here; decrypt it with: qemu-img convert",
				 p->path, method == 2 ? "LUKS" : "AES");
	return 0;
}

/* --- tables --- */

struct table {
	const char *name;
	uint64_t off, len;
	uint64_t max;
};

uint64_t qcow2_l1_needed(const struct qcow2_disk_header *h)
{
	bool extended = h->incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2;
	unsigned l2_bits = h->cluster_bits - (extended ? 4 : 3);
	unsigned shift = h->cluster_bits + l2_bits;

	return (h->size >> shift) + !!(h->size & ((1ull << shift) - 1));
}

static int check_table(struct parse *p, const struct table *t)
{
	if (t->off % p->cluster_size)
		return DAMAGED(
			p, "the %s begins at byte %" PRIu64 ", which is not the start of a cluster",
			t->name, t->off);
	if (t->len > t->max)
		return DAMAGED(p, "the %s is of %" PRIu64 " bytes, where %" PRIu64 " are allowed",
			       t->name, t->len, t->max);
	if (!t->len)
		return 0;
	if (t->off < p->cluster_size)
		return DAMAGED(p, "the %s overlaps the header", t->name);
	if (t->off > p->file_size || t->len > p->file_size - t->off)
		return error_set(p->e, EINVAL,
				 "image '%s' is truncated or damaged: its %s lies at byte %" PRIu64
				 " on (%" PRIu64 " bytes), and the file ends at byte %" PRIu64
				 "; restore it from a copy",
				 p->path, t->name, t->off, t->len, p->file_size);
	return 0;
}

static uint64_t cluster_end(const struct parse *p, const struct table *t)
{
	return (t->off + t->len + p->cluster_size - 1) & ~(uint64_t)(p->cluster_size - 1);
}

static int check_overlaps(struct parse *p, const struct table *t, unsigned nr)
{
	for (unsigned i = 0; i < nr; i++) {
		for (unsigned k = i + 1; k < nr; k++) {
			if (!t[i].len || !t[k].len || t[i].off >= cluster_end(p, &t[k]) ||
			    t[k].off >= cluster_end(p, &t[i]))
				continue;
			return DAMAGED(p, "the %s and the %s overlap", t[i].name, t[k].name);
		}
	}
	return 0;
}

/* Fills t from the bitmaps extension, if there is one that counts. */
static int bitmap_table(struct parse *p, struct table *t)
{
	const struct qcow2_ext *ext = find_ext(p->hdr, QCOW2_EXT_BITMAPS);
	uint32_t nr;

	*t = (struct table){.name = "bitmap directory", .max = MAX_BITMAP_DIR};
	if (!(p->hdr->h.autoclear_features & QCOW2_AUTOCLEAR_BITMAPS))
		return 0;
	if (!ext)
		return DAMAGED(p, "the bitmaps bit is set but there is no bitmaps extension");
	if (ext->len != 24)
		return DAMAGED(p, "the bitmaps extension is of %u bytes, not 24", ext->len);
	nr = load32(ext->data);
	if (!nr || nr > MAX_BITMAPS || load32(ext->data + 4))
		return DAMAGED(
			p, "the bitmaps extension announces %u bitmaps, where 1 to %u are allowed",
			nr, MAX_BITMAPS);
	t->len = load64(ext->data + 8);
	t->off = load64(ext->data + 16);
	return t->len ? 0 : DAMAGED(p, "the bitmap directory is empty");
}

static int luks_table(struct parse *p, struct table *t)
{
	const struct qcow2_ext *ext = find_ext(p->hdr, QCOW2_EXT_LUKS);

	*t = (struct table){.name = "LUKS header", .max = UINT64_MAX};
	if (!ext)
		return 0;
	t->off = load64(ext->data);
	t->len = load64(ext->data + 8);
	return t->len ? 0 : DAMAGED(p, "the LUKS header is empty");
}

static int check_tables(struct parse *p)
{
	const struct qcow2_disk_header *h = &p->hdr->h;
	struct table t[5] = {
		{"L1 table", h->l1_table_offset, (uint64_t)h->l1_size * 8, QCOW2_MAX_L1_BYTES},
		{"refcount table", h->refcount_table_offset,
		 (uint64_t)h->refcount_table_clusters << h->cluster_bits, QCOW2_MAX_REFT_BYTES},
		{"snapshot table", h->snapshots_offset, (uint64_t)h->nb_snapshots * SNAPSHOT_MIN,
		 (uint64_t)QCOW2_MAX_SNAPSHOTS * SNAPSHOT_MIN},
	};
	int rc = bitmap_table(p, &t[3]);

	if (!rc)
		rc = luks_table(p, &t[4]);
	for (unsigned i = 0; !rc && i < 5; i++)
		rc = check_table(p, &t[i]);
	if (rc < 0)
		return rc;
	if (!t[1].len)
		return DAMAGED(p, "there is no refcount table");
	if (h->size > INT64_MAX)
		return DAMAGED(p, "a disk of %" PRIu64 " bytes", h->size);
	if (h->l1_size < qcow2_l1_needed(h))
		return DAMAGED(p,
			       "the L1 table has %u entries, where a disk of %" PRIu64
			       " bytes needs %" PRIu64,
			       h->l1_size, h->size, qcow2_l1_needed(h));
	return check_overlaps(p, t, 5);
}

/* --- backing name --- */

static int parse_backing_name(struct parse *p)
{
	struct qcow2_disk_header *h = &p->hdr->h;

	if (!h->backing_file_offset) {
		h->backing_file_size = 0;
		return 0;
	}
	if (h->backing_file_size > MAX_NAME)
		return DAMAGED(p, "the backing file name is of %u bytes, where %u are allowed",
			       h->backing_file_size, MAX_NAME);
	if (h->backing_file_offset > p->cluster_size ||
	    h->backing_file_size > p->cluster_size - h->backing_file_offset)
		return DAMAGED(p, "the backing file name goes beyond the first cluster");
	if (h->backing_file_offset < h->header_length)
		return DAMAGED(p, "the backing file name overlaps the header");
	if (!h->backing_file_size)
		return 0;
	p->hdr->backing_name =
		strndup((const char *)p->buf + h->backing_file_offset, h->backing_file_size);
	return p->hdr->backing_name ? 0 : no_memory(p);
}

/* --- the whole --- */

static int parse_all(struct parse *p)
{
	uint64_t unknown = p->hdr->h.incompatible_features & ~QCOW2_INCOMPAT_KNOWN;
	int rc = parse_exts(p);

	/* named as far as the extensions can be read: an unknown feature may have changed them */
	if (unknown) {
		if (rc < 0 && p->e)
			*p->e = (struct error)ERROR_INIT;
		return refuse_unknown(p, unknown);
	}
	if (!rc)
		rc = parse_tail(p);
	if (!rc)
		rc = check_features(p);
	if (!rc)
		rc = check_tables(p);
	if (!rc)
		rc = check_encryption(p);
	return rc ? rc : parse_backing_name(p);
}

int co_qcow2_header_read(struct file *f, const struct layer_opts *o, struct qcow2_header *out,
			 struct error *e)
{
	uint8_t head[sizeof(struct qcow2_disk_header)], *buf;
	struct parse p = {
		.path = file_path(f),
		.o = o,
		.hdr = out,
		.file_size = file_size(f),
		.e = e,
	};
	int rc;

	memset(out, 0, sizeof(*out));
	rc = co_file_read(f, 0, head, sizeof(head));
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot read the header of '%s'", p.path);
	rc = parse_start(&p, head);
	if (rc < 0)
		return rc;
	buf = buf_alloc(p.cluster_size);
	if (!buf)
		return no_memory(&p);
	p.buf = buf;
	rc = co_file_read(f, 0, buf, p.cluster_size);
	if (rc < 0)
		error_set_errno(e, -rc, "cannot read the header of '%s'", p.path);
	else
		rc = parse_all(&p);
	buf_free(buf);
	if (rc < 0)
		qcow2_header_free(out);
	return rc;
}

void qcow2_header_free(struct qcow2_header *h)
{
	for (unsigned i = 0; i < h->nr_exts; i++)
		free(h->exts[i].data);
	free(h->exts);
	free(h->tail);
	free(h->backing_name);
	free(h->backing_format);
	free(h->data_file);
	memset(h, 0, sizeof(*h));
}
