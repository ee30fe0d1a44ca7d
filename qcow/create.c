// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * create.c - new images: options, their rules, the order in which files come to be.
 *
 * Invariant: everything that can be refused is refused before a file is touched, and
 * what fails later leaves no file behind that was not there before. The
 * header is written last: until it is there, the file is no image.
 */
#include "qcow/create.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/buf.h"
#include "qcow/backing.h"
#include "qcow/create_layout.h"

#define CLUSTER_DEFAULT (64u << 10)
#define CLUSTER_OVERLAY (128u << 10)
#define CLUSTER_MIN 512u
#define CLUSTER_MAX (2u << 20)
#define CLUSTER_MIN_EXT (16u << 10)
#define HEADER_LEN 112u

/* --- one option --- */

static int bad_value(struct error *e, const char *key, const char *value, const char *known)
{
	return error_set(e, EINVAL, "option %s=%s: %s expected", key, value, known);
}

static int parse_flag(bool *out, const char *key, const char *value, struct error *e)
{
	if (strcmp(value, "on") && strcmp(value, "off"))
		return bad_value(e, key, value, "on or off");
	*out = !strcmp(value, "on");
	return 0;
}

/* A number with an optional fraction and one of b k M G T P E behind it. */
static int parse_bytes(uint64_t *out, const char *key, const char *value, struct error *e)
{
	static const char units[] = "bkmgtpe";
	const char *unit;
	char *end;
	double fraction = 0;
	uint64_t n;
	unsigned shift = 0;

	if (*value < '0' || *value > '9')
		return bad_value(e, key, value, "a size such as 65536, 64k or 1.5G");
	errno = 0;
	n = strtoull(value, &end, 10);
	if (*end == '.') {
		fraction = strtod(end, &end);
		errno = errno == ERANGE ? 0 : errno;
	}
	if (*end && !end[1] && (unit = strchr(units, *end | 0x20)))
		shift = 10 * (unsigned)(unit - units);
	else if (*end)
		return bad_value(e, key, value, "a size such as 65536, 64k or 1.5G");
	if (errno || n > (uint64_t)INT64_MAX >> shift)
		return bad_value(e, key, value, "a size below 8 EiB");
	*out = (n << shift) + (uint64_t)(fraction * (double)(1ull << shift));
	return 0;
}

static int parse_cluster_size(struct create_opts *o, const char *value, struct error *e)
{
	uint64_t n;
	int rc = parse_bytes(&n, "cluster_size", value, e);

	if (rc < 0)
		return rc;
	if (n < CLUSTER_MIN || n > CLUSTER_MAX || n & (n - 1))
		return bad_value(e, "cluster_size", value, "a power of two between 512 and 2M");
	o->cluster_size = (uint32_t)n;
	return 0;
}

static int parse_refcount_bits(struct create_opts *o, const char *value, struct error *e)
{
	char *end;
	unsigned long n = strtoul(value, &end, 10);

	if (*value < '0' || *value > '9' || *end || !n || n > 64 || n & (n - 1))
		return bad_value(e, "refcount_bits", value, "a power of two from 1 to 64");
	o->refcount_bits = (uint32_t)n;
	return 0;
}

/* The place of value in a list that ends with NULL, or -1. */
static int one_of(const char *value, const char *const *list)
{
	for (int i = 0; list[i]; i++)
		if (!strcmp(value, list[i]))
			return i;
	return -1;
}

static int parse_word(struct create_opts *o, const char *key, const char *value, struct error *e)
{
	static const char *const compat[] = {"0.10", "v2", "1.1", "v3", NULL};
	static const char *const prealloc[] = {"off", "metadata", "falloc", "full", NULL};
	static const char *const compression[] = {"zlib", "zstd", NULL};
	int n;

	if (!strcmp(key, "compat")) {
		n = one_of(value, compat);
		o->version = 2 + n / 2;
		return n < 0 ? bad_value(e, key, value, "0.10 or 1.1") : 0;
	}
	if (!strcmp(key, "preallocation")) {
		n = one_of(value, prealloc);
		o->preallocation = n < 0 ? PREALLOC_OFF : (enum prealloc)n;
		return n < 0 ? bad_value(e, key, value, "off, metadata, falloc or full") : 0;
	}
	n = one_of(value, compression);
	o->compression = n;
	return n < 0 ? bad_value(e, key, value, "zlib or zstd") : 0;
}

int create_opt_parse(struct create_opts *o, const char *key, const char *value, struct error *e)
{
	bool on = false;
	int rc;

	if (!strcmp(key, "size"))
		return parse_bytes(&o->size, key, value, e);
	if (!strcmp(key, "cluster_size"))
		return parse_cluster_size(o, value, e);
	if (!strcmp(key, "refcount_bits"))
		return parse_refcount_bits(o, value, e);
	if (!strcmp(key, "compat") || !strcmp(key, "preallocation") ||
	    !strcmp(key, "compression_type"))
		return parse_word(o, key, value, e);
	if (!strcmp(key, "lazy_refcounts"))
		return parse_flag(&o->lazy_refcounts, key, value, e);
	if (!strcmp(key, "data_file_raw"))
		return parse_flag(&o->data_file_raw, key, value, e);
	if (!strcmp(key, "extended_l2")) {
		rc = parse_flag(&on, key, value, e);
		o->extended_l2 = on;
		return rc;
	}
	if (!strcmp(key, "backing_file"))
		o->backing_name = *value ? value : NULL;
	else if (!strcmp(key, "backing_fmt"))
		o->backing_format = value;
	else if (!strcmp(key, "data_file"))
		o->data_file = value;
	else
		return error_set(
			e, EINVAL,
			"unknown option '%s'; known are size, backing_file, backing_fmt, "
			"cluster_size, compat, extended_l2, lazy_refcounts, refcount_bits, "
			"preallocation, compression_type, data_file and data_file_raw",
			key);
	return 0;
}

/* --- the rules between options --- */

static void fill_defaults(struct create_opts *o)
{
	bool overlay = o->backing_name;

	if (!o->version)
		o->version = 3;
	if (!o->refcount_bits)
		o->refcount_bits = 16;
	if (o->extended_l2 < 0)
		o->extended_l2 = overlay && o->version >= 3 &&
				 (!o->cluster_size || o->cluster_size >= CLUSTER_MIN_EXT);
	else
		overlay = false; /* asked for: QEMU's cluster size goes with it */
	if (!o->cluster_size)
		o->cluster_size = overlay && o->extended_l2 ? CLUSTER_OVERLAY : CLUSTER_DEFAULT;
	/* tables must say what the raw file says */
	if (o->data_file_raw && o->preallocation == PREALLOC_OFF)
		o->preallocation = PREALLOC_METADATA;
}

static int check_version_2(const struct create_opts *o, const char *path, struct error *e)
{
	const char *what = o->extended_l2           ? "extended_l2"
			   : o->lazy_refcounts      ? "lazy_refcounts"
			   : o->refcount_bits != 16 ? "refcount_bits other than 16"
			   : o->data_file           ? "data_file"
			   : o->compression         ? "compression_type other than zlib"
						    : NULL;

	if (!what || o->version >= 3)
		return 0;
	return error_set(e, EINVAL, "cannot create '%s': %s needs compat=1.1", path, what);
}

static int check_backing_rules(const struct create_opts *o, const char *path, struct error *e)
{
	if (o->backing_format && !o->backing_name)
		return error_set(e, EINVAL,
				 "cannot create '%s': a backing format needs a backing file", path);
	if (!o->backing_name)
		return 0;
	if (!o->backing_format)
		return error_set(e, EINVAL,
				 "cannot create '%s': the format of the backing file '%s' must be "
				 "named (backing_fmt, -F)",
				 path, o->backing_name);
	if (layer_format_parse(o->backing_format) == FORMAT_UNSET)
		return error_set(
			e, EINVAL,
			"cannot create '%s': unknown backing format '%s'; raw and qcow2 are "
			"known",
			path, o->backing_format);
	if (o->data_file_raw)
		return error_set(
			e, EINVAL,
			"cannot create '%s': a backing file and data_file_raw exclude each "
			"other",
			path);
	if (o->preallocation != PREALLOC_OFF && !o->extended_l2)
		return error_set(e, EINVAL,
				 "cannot create '%s': preallocation with a backing file needs "
				 "extended_l2=on",
				 path);
	return 0;
}

static int check_qcow2(const struct create_opts *o, const char *path, struct error *e)
{
	int rc = check_version_2(o, path, e);

	if (rc < 0)
		return rc;
	if (o->cluster_size < CLUSTER_MIN || o->cluster_size > CLUSTER_MAX ||
	    o->cluster_size & (o->cluster_size - 1))
		return error_set(
			e, EINVAL,
			"cannot create '%s': the cluster size must be a power of two between "
			"512 and 2M",
			path);
	if (o->extended_l2 && o->cluster_size < CLUSTER_MIN_EXT)
		return error_set(e, EINVAL,
				 "cannot create '%s': extended_l2 needs clusters of 16k or more",
				 path);
	if (o->refcount_bits > 64 || o->refcount_bits & (o->refcount_bits - 1))
		return error_set(
			e, EINVAL,
			"cannot create '%s': refcount_bits must be a power of two from 1 to 64",
			path);
	if (o->data_file && !*o->data_file)
		return error_set(e, EINVAL, "cannot create '%s': the data file has an empty name",
				 path);
	if (o->data_file_raw && !o->data_file)
		return error_set(e, EINVAL, "cannot create '%s': data_file_raw needs data_file",
				 path);
	return check_backing_rules(o, path, e);
}

static int check_raw(const struct create_opts *o, const char *path, struct error *e)
{
	if (o->backing_name || o->backing_format)
		return error_set(e, EINVAL,
				 "cannot create '%s': a raw image cannot have a backing file",
				 path);
	if (o->preallocation == PREALLOC_METADATA)
		return error_set(e, EINVAL,
				 "cannot create '%s': a raw image has no metadata to preallocate",
				 path);
	if (o->cluster_size || o->version || o->extended_l2 > 0 || o->lazy_refcounts ||
	    o->refcount_bits || o->compression || o->data_file || o->data_file_raw)
		return error_set(e, EINVAL,
				 "cannot create '%s': a raw image takes no options but size and "
				 "preallocation",
				 path);
	return 0;
}

/* --- the backing file --- */

static bool same_file(const char *a, const char *b)
{
	struct stat sa, sb;

	return stat(a, &sa) == 0 && stat(b, &sb) == 0 && sa.st_dev == sb.st_dev &&
	       sa.st_ino == sb.st_ino;
}

/*
 * Opens the backing file for a look at its size. Without locks: it may be in use
 * below another overlay, or by the chain that this image is to be the new top of.
 */
static int co_look_at_backing(struct reactor *r, const char *path, struct create_opts *o,
			      struct error *e)
{
	struct layer_opts lo = {.no_lock = true, .no_data_file = true, .metadata_only = true};
	struct image_ref ref;
	struct layer *l;
	int rc;

	if (!o->backing_name || (o->no_backing_check && o->size != UINT64_MAX))
		return 0;
	rc = image_ref_parse(o->backing_name, path, &ref, e);
	if (rc < 0)
		return rc;
	lo.format = ref.format != FORMAT_UNSET ? ref.format : layer_format_parse(o->backing_format);
	lo.raw_offset = ref.raw_offset;
	lo.raw_size = ref.raw_size;
	if (same_file(ref.path, path))
		rc = error_set(e, EINVAL, "cannot create '%s': it would be its own backing file",
			       path);
	if (!rc)
		rc = co_layer_open(r, ref.path, &lo, &l, e);
	if (!rc) {
		if (o->size == UINT64_MAX)
			o->size = layer_size(l);
		rc = co_layer_close(l, e);
	}
	if (rc < 0)
		error_prefix(e, "backing file of '%s'", path);
	image_ref_free(&ref);
	return rc;
}

/* --- files --- */

/* A file that is being made; what was not there before goes away on failure. */
struct target {
	struct file *f;
	char *path;
	bool made;
};

static int co_open_target(struct reactor *r, const char *path, bool replace, bool keep,
			  struct target *t, struct error *e)
{
	struct file_opts fo = {.writable = true, .create = true, .cache = FILE_CACHE_WRITEBACK};
	struct stat st;
	int rc;

	t->path = strdup(path);
	if (!t->path)
		return error_set(e, ENOMEM, "cannot create '%s': out of memory", path);
	if (stat(path, &st) == 0 && (replace || keep)) {
		fo.create = false;
		fo.truncate = !keep;
	}
	t->made = fo.create;
	rc = file_open(r, path, &fo, &t->f, e);
	if (rc == -EEXIST && e) {
		*e = (struct error)ERROR_INIT;
		error_set(
			e, EEXIST,
			"cannot create '%s': it exists already; choose another name, or remove it",
			path);
	}
	return rc;
}

/* The name in the folder must be durable too. */
static int sync_folder(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder =
		slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	int fd, rc = 0;

	if (!folder)
		return -ENOMEM;
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(folder);
	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0 && errno != EINVAL)
		rc = -errno;
	close(fd);
	return rc;
}

static int co_close_target(struct target *t, int rc, struct error *e)
{
	if (t->f && !rc) {
		rc = co_file_flush(t->f);
		if (!rc && t->made)
			rc = sync_folder(t->path);
		if (rc < 0)
			error_set_errno(e, -rc, "cannot make '%s' durable", t->path);
	}
	if (t->f && rc < 0 && t->made)
		unlink(t->path);
	file_close(t->f);
	free(t->path);
	return rc;
}

static int co_write_zeros(struct file *f, uint64_t off, uint64_t end)
{
	struct iovec iov[16];
	int rc = 0;

	while (!rc && off < end) {
		uint64_t len = 0;
		unsigned nr;

		for (nr = 0; nr < 16 && off + len < end; nr++) {
			uint64_t n =
				end - off - len < ZERO_BUF_LEN ? end - off - len : ZERO_BUF_LEN;

			iov[nr] = (struct iovec){(void *)zero_buf, n};
			len += n;
		}
		rc = co_file_writev(f, off, len, iov, nr);
		off += len;
	}
	return rc;
}

/* Makes the file at least `end` bytes long, with space for [start, end) as asked. */
static int co_extend(struct file *f, uint64_t start, uint64_t end, enum prealloc prealloc,
		     struct error *e)
{
	int rc = 0;

	if (file_is_block(f)) {
		if (end > file_size(f))
			return error_set(e, ENOSPC,
					 "block device '%s' has %" PRIu64
					 " bytes, and the image needs %" PRIu64,
					 file_path(f), file_size(f), end);
	} else if (end > start && prealloc == PREALLOC_FALLOC) {
		rc = co_file_allocate(f, start, end - start, false);
		if (rc == -EOPNOTSUPP)
			prealloc = PREALLOC_FULL;
		else if (rc < 0)
			return error_set_errno(e, -rc, "cannot reserve %" PRIu64 " bytes for '%s'",
					       end - start, file_path(f));
	}
	rc = 0;
	if (prealloc == PREALLOC_FULL)
		rc = co_write_zeros(f, start, end);
	else if (end > file_size(f))
		rc = co_file_truncate(f, end);
	return rc ? error_set_errno(e, -rc, "cannot extend '%s' to %" PRIu64 " bytes", file_path(f),
				    end)
		  : 0;
}

/* --- qcow2 --- */

static void fill_header(const struct create_opts *o, struct qcow2_header *hdr,
			struct qcow2_ext *features)
{
	struct qcow2_disk_header *h = &hdr->h;

	*hdr = (struct qcow2_header){
		.backing_name = (char *)o->backing_name,
		.backing_format = (char *)o->backing_format,
		.data_file = (char *)o->data_file,
	};
	h->magic = QCOW2_MAGIC;
	h->version = (uint32_t)o->version;
	h->cluster_bits = (uint32_t)__builtin_ctz(o->cluster_size);
	h->size = o->size;
	h->refcount_order = (uint32_t)__builtin_ctz(o->refcount_bits);
	h->header_length = HEADER_LEN;
	h->compression_type = (uint8_t)o->compression;
	if (o->data_file)
		h->incompatible_features |= QCOW2_INCOMPAT_DATA_FILE;
	if (o->compression)
		h->incompatible_features |= QCOW2_INCOMPAT_COMPRESSION;
	if (o->extended_l2)
		h->incompatible_features |= QCOW2_INCOMPAT_EXTENDED_L2;
	if (o->lazy_refcounts)
		h->compatible_features |= QCOW2_COMPAT_LAZY;
	if (o->data_file_raw)
		h->autoclear_features |= QCOW2_AUTOCLEAR_RAW_DATA;
	/* QEMU leaves the names out where they would crowd a small first cluster */
	if (o->version >= 3 && o->cluster_size > 4096) {
		uint32_t len;

		features->type = QCOW2_EXT_FEATURES;
		features->data = (uint8_t *)qcow2_feature_table(&len);
		features->len = len;
		hdr->exts = features;
		hdr->nr_exts = 1;
	}
}

static int co_write_image(struct file *f, const struct layout *lo, const uint8_t *first,
			  const struct create_opts *o, struct error *e)
{
	uint64_t end = layout_file_end(lo);
	int rc;

	if (!lo->external && lo->data_end) {
		rc = co_extend(f, lo->data_start, lo->data_end,
			       lo->data_start ? o->preallocation : PREALLOC_OFF, e);
		if (rc < 0)
			return rc;
	}
	/* tables that are zero are not written by a file system that has holes: the length is set
	 * here */
	rc = co_extend(f, end, end, PREALLOC_OFF, e);
	if (rc < 0)
		return rc;
	rc = co_layout_write(lo, f);
	if (!rc)
		rc = co_file_flush(f);
	if (!rc)
		rc = co_file_write(f, 0, first, o->cluster_size);
	return rc ? error_set_errno(e, -rc, "cannot write '%s'", file_path(f)) : 0;
}

static int check_data_file(const char *image, const struct create_opts *o, struct error *e)
{
	struct image_ref ref;
	int rc = image_ref_parse(o->data_file, image, &ref, e);

	if (rc < 0)
		return rc;
	if (!strcmp(ref.path, image) || same_file(ref.path, image))
		rc = error_set(e, EINVAL, "cannot create '%s': it would be its own data file",
			       image);
	image_ref_free(&ref);
	return rc;
}

/* A data file that is there already is kept, and only made longer. */
static int co_make_data_file(struct reactor *r, const char *image, const struct create_opts *o,
			     struct target *t, struct error *e)
{
	uint64_t mask = (o->cluster_size >> (o->extended_l2 ? 5 : 0)) - 1, end = o->size;
	struct image_ref ref;
	int rc = image_ref_parse(o->data_file, image, &ref, e);

	if (rc < 0)
		return rc;
	rc = co_open_target(r, ref.path, false, true, t, e);
	/* with tables for them, whole subclusters */
	if (o->preallocation != PREALLOC_OFF)
		end = (end + mask) & ~mask;
	if (!rc)
		rc = co_extend(t->f, 0, end, t->made ? o->preallocation : PREALLOC_OFF, e);
	image_ref_free(&ref);
	return rc;
}

static int layout_error(int rc, const char *path, const struct create_opts *o, struct error *e)
{
	if (rc == -EFBIG)
		return error_set(e, EFBIG,
				 "cannot create '%s': %" PRIu64
				 " bytes are too much for clusters of %u "
				 "bytes; use a larger cluster size",
				 path, o->size, o->cluster_size);
	return error_set_errno(e, -rc, "cannot create '%s'", path);
}

static int co_create_qcow2(struct reactor *r, const char *path, const struct create_opts *o,
			   struct error *e)
{
	struct target image = {0}, data = {0};
	struct qcow2_header hdr;
	struct qcow2_ext features;
	struct layout lo;
	uint8_t *first = buf_alloc(o->cluster_size);
	int rc;

	if (!first)
		return error_set(e, ENOMEM, "cannot create '%s': out of memory", path);
	memset(first, 0, o->cluster_size);
	fill_header(o, &hdr, &features);
	rc = layout_init(&lo, &hdr.h, o->preallocation);
	if (rc < 0) {
		buf_free(first);
		return layout_error(rc, path, o, e);
	}
	layout_fill_header(&lo, &hdr.h);
	rc = qcow2_header_serialise(&hdr, first, o->cluster_size, e);
	if (rc < 0)
		error_prefix(e, "cannot create '%s'", path);
	else
		rc = o->data_file ? check_data_file(path, o, e) : 0;
	if (!rc)
		rc = co_open_target(r, path, o->overwrite, false, &image, e);
	if (!rc && o->data_file)
		rc = co_make_data_file(r, path, o, &data, e);
	if (!rc)
		rc = co_write_image(image.f, &lo, first, o, e);
	rc = co_close_target(&data, rc, e);
	rc = co_close_target(&image, rc, e);
	layout_free(&lo);
	buf_free(first);
	return rc;
}

/* --- raw, and the choice --- */

static int co_create_raw(struct reactor *r, const char *path, const struct create_opts *o,
			 struct error *e)
{
	struct target image = {0};
	int rc = co_open_target(r, path, o->overwrite, false, &image, e);

	if (!rc)
		rc = co_extend(image.f, 0, o->size, o->preallocation, e);
	return co_close_target(&image, rc, e);
}

int co_image_create(struct reactor *r, const char *path, const struct create_opts *asked,
		    struct error *e)
{
	struct create_opts o = *asked;
	int rc;

	if (o.format == FORMAT_UNSET)
		o.format = FORMAT_QCOW2;
	if (o.format == FORMAT_RAW) {
		rc = check_raw(&o, path, e);
	} else {
		fill_defaults(&o);
		rc = check_qcow2(&o, path, e);
	}
	if (!rc)
		rc = co_look_at_backing(r, path, &o, e);
	if (rc < 0)
		return rc;
	if (o.size == UINT64_MAX)
		return error_set(e, EINVAL, "cannot create '%s': a size is needed", path);
	if (o.size > INT64_MAX - 511)
		return error_set(e, EFBIG, "cannot create '%s': %" PRIu64 " bytes are too much",
				 path, o.size);
	o.size = (o.size + 511) & ~511ull;
	return o.format == FORMAT_RAW ? co_create_raw(r, path, &o, e)
				      : co_create_qcow2(r, path, &o, e);
}
