// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * header_write.c - the header on its way to the disk: serialise, rewrite, feature bits, backing
 * name.
 *
 * Invariant: at every instant the header on disk is the old one or the new one,
 * since what a reader must believe changes with one 512-byte sector, the first, written
 * after everything it refers to is durable.
 *
 * All who write here hold q->header_lock.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/buf.h"
#include "qcow/qcow2.h"

#define SECTOR 512u
#define V2_HEADER_LEN 72u
#define MAX_NAME 1023u
#define MAX_FORMAT_NAME 15u /* QEMU reads no longer one */
#define END_MARKER 8u

/* --- serialise --- */

const uint8_t *qcow2_feature_table(uint32_t *len)
{
	static const struct {
		uint8_t type, bit;
		char name[46];
	} table[] = {
		{0, 0, "dirty bit"},
		{0, 1, "corrupt bit"},
		{0, 2, "external data file"},
		{0, 3, "compression type"},
		{0, 4, "extended L2 entries"},
		{1, 0, "lazy refcounts"},
		{2, 0, "bitmaps"},
		{2, 1, "raw external data"},
	};

	static_assert(sizeof(table) == 8 * 48, "feature names");
	*len = sizeof(table);
	return (const uint8_t *)table;
}

static void header_to_disk(struct qcow2_disk_header *h)
{
	h->magic = htobe32(h->magic);
	h->version = htobe32(h->version);
	h->backing_file_offset = htobe64(h->backing_file_offset);
	h->backing_file_size = htobe32(h->backing_file_size);
	h->cluster_bits = htobe32(h->cluster_bits);
	h->size = htobe64(h->size);
	h->crypt_method = htobe32(h->crypt_method);
	h->l1_size = htobe32(h->l1_size);
	h->l1_table_offset = htobe64(h->l1_table_offset);
	h->refcount_table_offset = htobe64(h->refcount_table_offset);
	h->refcount_table_clusters = htobe32(h->refcount_table_clusters);
	h->nb_snapshots = htobe32(h->nb_snapshots);
	h->snapshots_offset = htobe64(h->snapshots_offset);
	h->incompatible_features = htobe64(h->incompatible_features);
	h->compatible_features = htobe64(h->compatible_features);
	h->autoclear_features = htobe64(h->autoclear_features);
	h->refcount_order = htobe32(h->refcount_order);
	h->header_length = htobe32(h->header_length);
}

/* What is being put into the first cluster. */
struct image {
	uint8_t *buf;
	uint32_t size, used;
	bool full;
};

static void put_bytes(struct image *im, const void *src, uint32_t len, uint32_t padded)
{
	if (im->full || padded > im->size - im->used) {
		im->full = true;
		return;
	}
	if (len)
		memcpy(im->buf + im->used, src, len);
	im->used += padded;
}

static void put_ext(struct image *im, uint32_t type, const void *data, uint32_t len)
{
	uint32_t head[2] = {htobe32(type), htobe32(len)};

	put_bytes(im, head, sizeof(head), sizeof(head));
	put_bytes(im, data, len, len + (-len & 7u));
}

static void put_string_ext(struct image *im, uint32_t type, const char *s)
{
	if (s)
		put_ext(im, type, s, (uint32_t)strlen(s));
}

/* Header and extensions, in QEMU's order: its images come out as they were. Not the backing name.
 */
static void put_header(struct image *im, const struct qcow2_header *h, bool feature_names)
{
	struct qcow2_disk_header disk = h->h;
	uint32_t fixed = h->h.version == 2 ? V2_HEADER_LEN : h->h.header_length;

	if (fixed > sizeof(disk))
		fixed = sizeof(disk);
	header_to_disk(&disk);
	put_bytes(im, &disk, fixed, fixed);
	put_bytes(im, h->tail, h->tail_len, h->tail_len);
	put_string_ext(im, QCOW2_EXT_BACKING_FMT, h->backing_format);
	put_string_ext(im, QCOW2_EXT_DATA_FILE, h->data_file);
	for (unsigned i = 0; i < h->nr_exts; i++)
		if (feature_names || h->exts[i].type != QCOW2_EXT_FEATURES)
			put_ext(im, h->exts[i].type, h->exts[i].data, h->exts[i].len);
	put_ext(im, QCOW2_EXT_END, NULL, 0);
}

/*
 * The first cluster with the backing name at name_off, or, with 0, right after
 * the extensions. *ext_end, if given: where the extensions end.
 */
static int serialise(const struct qcow2_header *h, uint8_t *buf, uint32_t cluster_size,
		     bool feature_names, uint64_t name_off, uint32_t *ext_end)
{
	uint32_t len = h->backing_name ? (uint32_t)strlen(h->backing_name) : 0;
	struct image im = {.buf = buf, .size = cluster_size};
	struct qcow2_header named = *h;

	if (len > MAX_NAME)
		return -ENAMETOOLONG;
	/* twice: the first round finds out where the extensions end */
	put_header(&im, &named, feature_names);
	if (im.full)
		return -ENOSPC;
	if (ext_end)
		*ext_end = im.used;
	if (name_off < im.used)
		name_off = im.used;
	if (len && (name_off > cluster_size || len > cluster_size - name_off))
		return -ENOSPC;
	named.h.backing_file_offset = len ? name_off : 0;
	named.h.backing_file_size = len;
	im.used = 0;
	put_header(&im, &named, feature_names);
	if (!len)
		return (int)im.used;
	memcpy(buf + name_off, h->backing_name, len);
	return (int)(name_off + len);
}

static int no_room(int rc, const struct qcow2_header *h, uint32_t cluster_size, struct error *e)
{
	if (rc == -ENAMETOOLONG)
		return error_set(e, ENAMETOOLONG,
				 "the backing file name has %zu bytes, and a qcow2 header holds "
				 "%u at most: use a shorter path",
				 strlen(h->backing_name), MAX_NAME);
	if (rc == -ENOSPC)
		return error_set(
			e, ENOSPC,
			"header, extensions and backing file name do not fit into a cluster of "
			"%u bytes: use a shorter path, or a larger cluster size",
			cluster_size);
	return rc;
}

int qcow2_header_serialise(const struct qcow2_header *h, void *buf, uint32_t cluster_size,
			   struct error *e)
{
	/* the name stays where it is: see co_qcow2_set_backing() */
	int rc = serialise(h, buf, cluster_size, true, h->h.backing_file_offset, NULL);

	if (rc == -ENOSPC && h->h.backing_file_offset)
		rc = serialise(h, buf, cluster_size, true, 0, NULL);
	return no_room(rc, h, cluster_size, e);
}

/* --- write --- */

static int co_flush_write(struct qcow2 *q, uint64_t off, const void *buf, uint64_t len)
{
	int rc = co_file_write(q->file, off, buf, len);

	return rc ? rc : co_file_flush(q->file);
}

/* Brings sectors [first, end) of the first cluster from `old` to `new`; durable at return. */
static int co_write_sectors(struct qcow2 *q, uint8_t *old, const uint8_t *new, uint32_t first,
			    uint32_t end)
{
	bool wrote = false;

	for (uint32_t off = first * SECTOR; off < end * SECTOR;) {
		uint32_t len = 0;
		int rc;

		while (off + len < end * SECTOR && memcmp(old + off + len, new + off + len, SECTOR))
			len += SECTOR;
		if (!len) {
			off += SECTOR;
			continue;
		}
		rc = co_file_write(q->file, off, new + off, len);
		if (rc < 0)
			return rc;
		memcpy(old + off, new + off, len);
		wrote = true;
		off += len;
	}
	return wrote ? co_file_flush(q->file) : 0;
}

/* Two zeroed cluster buffers, the first filled with what the disk has. */
static int co_cluster_buffers(struct qcow2 *q, uint8_t **old, uint8_t **new)
{
	int rc;

	*old = buf_alloc(q->cluster_size);
	*new = buf_alloc(q->cluster_size);
	if (!*old || !*new)
		return -ENOMEM;
	memset(*new, 0, q->cluster_size);
	rc = co_file_flush(q->file);
	return rc ? rc : co_file_read(q->file, 0, *old, q->cluster_size);
}

int co_qcow2_header_write(struct qcow2 *q, struct error *e)
{
	uint8_t *old = NULL, *new = NULL;
	int rc;

	co_mutex_lock(&q->header_lock);
	rc = co_cluster_buffers(q, &old, &new);
	if (rc < 0) {
		error_set_errno(e, -rc, "cannot rewrite the header of '%s'", file_path(q->file));
		goto out;
	}
	rc = qcow2_header_serialise(&q->hdr, new, q->cluster_size, e);
	if (rc < 0) {
		error_prefix(e, "cannot rewrite the header of '%s'", file_path(q->file));
		goto out;
	}
	/*
	 * Most changes are in the fixed part: one sector. Others go from the end of the
	 * cluster to its start, so that nothing is referred to before it is there.
	 */
	rc = co_write_sectors(q, old, new, 1, q->cluster_size / SECTOR);
	if (!rc)
		rc = co_write_sectors(q, old, new, 0, 1);
	if (rc < 0)
		error_set_errno(e, -rc, "cannot write the header of '%s'", file_path(q->file));
out:
	co_mutex_unlock(&q->header_lock);
	buf_free(old);
	buf_free(new);
	return rc < 0 ? rc : 0;
}

/* --- feature bits --- */

static int co_patch_features(struct qcow2 *q, uint64_t incompat, uint64_t autoclear)
{
	uint8_t *sector = buf_alloc(SECTOR);
	struct qcow2_disk_header *h = (struct qcow2_disk_header *)sector;
	int rc;

	if (!sector)
		return -ENOMEM;
	rc = co_file_flush(q->file);
	if (!rc)
		rc = co_file_read(q->file, 0, sector, SECTOR);
	if (!rc) {
		h->incompatible_features = htobe64(incompat);
		h->autoclear_features = htobe64(autoclear);
		rc = co_flush_write(q, 0, sector, SECTOR);
	}
	buf_free(sector);
	return rc;
}

int co_qcow2_set_features(struct qcow2 *q, uint64_t set_incompat, uint64_t clear_incompat,
			  uint64_t clear_autoclear)
{
	struct qcow2_disk_header *h = &q->hdr.h;
	uint64_t incompat, autoclear;
	int rc = 0;

	if (h->version < 3)
		return set_incompat ? -ENOTSUP : 0;
	co_mutex_lock(&q->header_lock);
	incompat = (h->incompatible_features | set_incompat) & ~clear_incompat;
	autoclear = h->autoclear_features & ~clear_autoclear;
	if (incompat != h->incompatible_features || autoclear != h->autoclear_features)
		rc = co_patch_features(q, incompat, autoclear);
	if (!rc) {
		h->incompatible_features = incompat;
		h->autoclear_features = autoclear;
	}
	co_mutex_unlock(&q->header_lock);
	return rc;
}

/* --- backing name --- */

/*
 * How a backing file is switched with one sector.
 *
 * What names it is spread: offset and length of the name in the first sector, the format in an
 * extension, which we keep first and so in the first sector too, and the name itself. So the name
 * is written to sectors that nothing in the old header refers to, and flushed; then one write of
 * the first sector makes new name and new format count together.
 *
 * That is not enough when the format extension appears, disappears or changes its length, because
 * the extensions behind it move, and QEMU's table of feature names makes them reach into the second
 * sector. This table is optional. So the sector that switches leaves it out: the extension area
 * then ends within the first sector. Once that is durable, what belongs behind the first sector is
 * written where now nobody looks, and a last write of the first sector brings the table back. Each
 * of the states between is a sound header.
 *
 * Without room (first clusters of 512 to 2048 bytes, or unknown extensions of more than a sector),
 * in this order: a cluster of one sector needs no more than one write anyhow; a name that fits into
 * the first sector goes there; else the rest of the cluster is written first, and the first sector
 * last: a power cut between the two can leave the old header with a wrong name, which then does not
 * open. Longer clusters never get there.
 */
struct backing_switch {
	struct qcow2 *q;
	struct qcow2_header hdr; /* new; shares all but name and format with q->hdr */
	uint8_t *old, *new;      /* first clusters: on disk now; wanted next */
	uint32_t old_ext_end;
	uint64_t name_off;
};

static uint32_t sector_up(uint64_t off)
{
	return (uint32_t)((off + SECTOR - 1) / SECTOR * SECTOR);
}

static int prepare(struct backing_switch *s, bool feature_names, uint32_t *ext_end)
{
	memset(s->new, 0, s->q->cluster_size);
	return serialise(&s->hdr, s->new, s->q->cluster_size, feature_names, s->name_off, ext_end);
}

/* Where the old header's extensions end: what it has on disk, marker included. */
static uint32_t find_ext_end(const struct backing_switch *s)
{
	const struct qcow2_disk_header *h = &s->q->hdr.h;
	uint32_t off = h->header_length, end = s->q->cluster_size;

	if (h->backing_file_offset && h->backing_file_offset < end)
		end = (uint32_t)h->backing_file_offset;
	while (off < end && end - off >= 8) {
		uint32_t head[2];

		memcpy(head, s->old + off, sizeof(head));
		off += 8;
		if (be32toh(head[0]) == QCOW2_EXT_END || be32toh(head[1]) > end - off)
			break;
		off += (be32toh(head[1]) + 7) & ~7u;
	}
	return off;
}

/* A place for the new name that shares no sector with anything the old or the new header uses; 0:
 * none. */
static uint64_t find_name_place(const struct backing_switch *s, uint32_t new_ext_end)
{
	const struct qcow2_disk_header *h = &s->q->hdr.h;
	uint32_t len = (uint32_t)strlen(s->hdr.backing_name);
	uint32_t used = s->old_ext_end > new_ext_end ? s->old_ext_end : new_ext_end;
	uint64_t place = sector_up(used), old_end = 0;

	if (h->backing_file_offset)
		old_end = h->backing_file_offset + h->backing_file_size;
	if (old_end > place && h->backing_file_offset < sector_up(place + len))
		place = sector_up(old_end);
	return place + len <= s->q->cluster_size ? place : 0;
}

/* No room to do it well: see above. */
static int co_switch_in_place(struct backing_switch *s)
{
	int rc = co_write_sectors(s->q, s->old, s->new, 1, s->q->cluster_size / SECTOR);

	return rc ? rc : co_write_sectors(s->q, s->old, s->new, 0, 1);
}

/* The sector that leaves the feature names out; nothing behind it but the name counts then. */
static int co_switch_compact(struct backing_switch *s)
{
	uint32_t compact_end;
	int rc = prepare(s, false, &compact_end);

	if (rc < 0)
		return rc;
	if (compact_end <= SECTOR)
		rc = co_write_sectors(s->q, s->old, s->new, 0, 1);
	if (rc < 0)
		return rc;
	rc = prepare(s, true, NULL);
	return rc < 0 ? rc : 0;
}

static int co_switch_spread(struct backing_switch *s, uint32_t ext_end)
{
	uint32_t name_end = 0;
	int rc = prepare(s, true, NULL);

	if (rc < 0)
		return rc;
	if (s->hdr.backing_name) {
		name_end = sector_up(s->name_off + strlen(s->hdr.backing_name));
		rc = co_write_sectors(s->q, s->old, s->new, (uint32_t)s->name_off / SECTOR,
				      name_end / SECTOR);
		if (rc < 0)
			return rc;
	}
	if (ext_end <= SECTOR && s->old_ext_end <= SECTOR)
		return co_write_sectors(s->q, s->old, s->new, 0, 1);
	if (ext_end != s->old_ext_end ||
	    memcmp(s->old + SECTOR, s->new + SECTOR, ext_end - SECTOR)) {
		rc = co_switch_compact(s);
		if (!rc)
			rc = co_write_sectors(s->q, s->old, s->new, 1, sector_up(ext_end) / SECTOR);
		if (rc < 0)
			return rc;
	}
	return co_write_sectors(s->q, s->old, s->new, 0, 1);
}

static int co_switch(struct backing_switch *s)
{
	uint32_t ext_end;
	int rc;

	s->old_ext_end = find_ext_end(s);
	/* right behind the extensions, if that leaves all in one sector */
	s->name_off = 0;
	rc = prepare(s, true, &ext_end);
	if (rc < 0)
		return rc;
	if ((uint32_t)rc <= SECTOR && s->old_ext_end <= SECTOR)
		return co_write_sectors(s->q, s->old, s->new, 0, 1);
	if (!s->hdr.backing_name)
		return co_switch_spread(s, ext_end);
	s->name_off = find_name_place(s, ext_end);
	return s->name_off ? co_switch_spread(s, ext_end) : co_switch_in_place(s);
}

static int check_backing(struct qcow2 *q, const char *name, const char *format, struct error *e)
{
	if (!name)
		return 0;
	if (q->raw_external)
		return error_set(
			e, EINVAL,
			"image '%s' has a raw data file, which holds all of the disk: it cannot "
			"have a backing file",
			file_path(q->file));
	if (strlen(name) > MAX_NAME)
		return error_set(e, ENAMETOOLONG,
				 "the backing file name has %zu bytes, and a qcow2 header holds "
				 "%u at most: use a shorter path",
				 strlen(name), MAX_NAME);
	if (format && strlen(format) > MAX_FORMAT_NAME)
		return error_set(e, EINVAL, "unknown backing format '%s'", format);
	return 0;
}

static void take_over(struct backing_switch *s)
{
	struct qcow2_header *hdr = &s->q->hdr;
	const struct qcow2_disk_header *disk = (const struct qcow2_disk_header *)s->new;

	free(hdr->backing_name);
	free(hdr->backing_format);
	hdr->backing_name = s->hdr.backing_name;
	hdr->backing_format = s->hdr.backing_format;
	hdr->h.backing_file_offset = be64toh(disk->backing_file_offset);
	hdr->h.backing_file_size = be32toh(disk->backing_file_size);
	s->hdr.backing_name = s->hdr.backing_format = NULL;
}

/* Under header_lock. */
static int co_set_backing(struct backing_switch *s, const char *name, const char *format,
			  struct error *e)
{
	struct qcow2 *q = s->q;
	int rc;

	s->hdr = q->hdr;
	s->hdr.backing_name = name ? strdup(name) : NULL;
	s->hdr.backing_format = name && format ? strdup(format) : NULL;
	if ((name && !s->hdr.backing_name) || (name && format && !s->hdr.backing_format))
		rc = -ENOMEM;
	else
		rc = co_cluster_buffers(q, &s->old, &s->new);
	if (rc < 0)
		return error_set_errno(e, -rc, "cannot change the backing file of '%s'",
				       file_path(q->file));
	rc = co_switch(s);
	if (rc == -ENOSPC || rc == -ENAMETOOLONG)
		rc = no_room(rc, &s->hdr, q->cluster_size, e);
	if (rc < 0) {
		error_set_errno(e, -rc, "cannot write the header of '%s'", file_path(q->file));
		return rc;
	}
	take_over(s);
	return 0;
}

int co_qcow2_set_backing(struct qcow2 *q, const char *name, const char *format, struct error *e)
{
	struct backing_switch s = {.q = q};
	int rc;

	if (name && !*name)
		name = NULL;
	rc = check_backing(q, name, format, e);
	if (rc < 0)
		return rc;
	co_mutex_lock(&q->header_lock);
	rc = co_set_backing(&s, name, format, e);
	co_mutex_unlock(&q->header_lock);
	free(s.hdr.backing_name);
	free(s.hdr.backing_format);
	buf_free(s.old);
	buf_free(s.new);
	return rc;
}
