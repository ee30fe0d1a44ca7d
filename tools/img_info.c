// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * img_info.c - qcimg info: reads headers and nothing else, so that it answers for
 * images that cannot be used too: corrupt, dirty, encrypted, without their
 * backing or data file.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "tools/applet.h"
#include "tools/img_common.h"
#include "tools/img_meta.h"
#include "tools/json_util.h"
#include "tools/size.h"

#define CHAIN_MAX 512

struct info {
	struct img_common common;
	struct img_source src;
	bool json, backing_chain;
};

/* One image, opened for its header. */
struct subject {
	struct file *file;
	enum layer_format format;
	struct qcow2_header hdr;       /* qcow2 */
};

static int co_subject_open(struct reactor *r, const struct image_ref *ref, bool no_lock,
			   struct subject *s, struct error *e)
{
	struct file_opts fo = { .cache = FILE_CACHE_WRITEBACK, .no_lock = no_lock };
	struct layer_opts lo = {
		.no_lock = no_lock, .allow_corrupt = true, .allow_dirty = true,
		.no_data_file = true, .metadata_only = true,
	};
	int ret;

	*s = (struct subject){ .format = ref->format };
	ret = file_open(r, ref->path, &fo, &s->file, e);
	if (ret < 0)
		return ret;
	if (s->format == FORMAT_UNSET)
		ret = co_layer_probe(s->file, &s->format, e);
	if (ret == 0 && s->format == FORMAT_QCOW2)
		ret = co_qcow2_header_read(s->file, &lo, &s->hdr, e);
	if (ret < 0)
		file_close(s->file);
	return ret;
}

static void subject_close(struct subject *s)
{
	if (s->format == FORMAT_QCOW2)
		qcow2_header_free(&s->hdr);
	file_close(s->file);
}

static uint64_t sectors_up(uint64_t bytes)
{
	return (bytes + 511) & ~511ull;
}

static uint64_t disk_usage(const struct file *f)
{
	struct stat st;

	return fstat(file_fd(f), &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static json_t *child_tree(const struct subject *s)
{
	const char *driver = file_is_block(s->file) ? "host_device" : "file";
	json_t *info = json_object(), *specific = json_object(), *child = json_object();
	json_t *list = json_array();

	put_text(specific, "type", "file");
	put(specific, "data", json_object());
	put(info, "children", json_array());
	put_int(info, "virtual-size", sectors_up(file_size(s->file)));
	put_text(info, "filename", file_path(s->file));
	put_text(info, "format", driver);
	put_int(info, "actual-size", disk_usage(s->file));
	if (!file_is_block(s->file))
		put(info, "format-specific", specific);
	else
		json_decref(specific);
	put_bool(info, "dirty-flag", false);
	put_text(child, "name", "file");
	put(child, "info", info);
	json_array_append_new(list, child);
	return list;
}

static const char *compression_name(const struct qcow2_header *h)
{
	return h->h.incompatible_features & QCOW2_INCOMPAT_COMPRESSION && h->h.compression_type == 1
		? "zstd" : "zlib";
}

static void put_features(json_t *data, const struct qcow2_header *h)
{
	if (h->h.version < 3)
		return;
	put_text(data, "data-file", h->data_file);
	if (h->h.incompatible_features & QCOW2_INCOMPAT_DATA_FILE)
		put_bool(data, "data-file-raw", h->h.autoclear_features & QCOW2_AUTOCLEAR_RAW_DATA);
	put_bool(data, "corrupt", h->h.incompatible_features & QCOW2_INCOMPAT_CORRUPT);
	put_bool(data, "extended-l2", h->h.incompatible_features & QCOW2_INCOMPAT_EXTENDED_L2);
}

/* ImageInfoSpecificQCow2, its keys in qemu-img's order. */
static json_t *co_specific(const struct subject *s, struct error *e)
{
	const struct qcow2_header *h = &s->hdr;
	json_t *data = json_object(), *tree = json_object(), *part;

	put_text(tree, "type", "qcow2");
	put(tree, "data", data);
	put_text(data, "compat", h->h.version == 2 ? "0.10" : "1.1");
	put_text(data, "compression-type", compression_name(h));
	if (h->h.version >= 3) {
		put_bool(data, "lazy-refcounts", h->h.compatible_features & QCOW2_COMPAT_LAZY);
		part = co_img_bitmaps(s->file, h, e);
		if (!part)
			goto fail;
		if (json_array_size(part))
			put(data, "bitmaps", part);
		else
			json_decref(part);
	}
	put_int(data, "refcount-bits", 1ull << h->h.refcount_order);
	part = co_img_encryption(s->file, h, e);
	if (part)
		put(data, "encrypt", part);
	else if (e->code)
		goto fail;
	put_features(data, h);
	return tree;
fail:
	json_decref(tree);
	return NULL;
}

static int co_put_qcow2(json_t *o, const struct subject *s, struct error *e)
{
	json_t *part = co_specific(s, e);
	struct image_ref backing;
	struct error unused = ERROR_INIT;

	if (!part)
		return -e->code;
	put(o, "format-specific", part);
	if (s->hdr.h.crypt_method)
		put_bool(o, "encrypted", true);
	if (!s->hdr.backing_name)
		return 0;
	/* A name we cannot resolve is still shown as it stands. */
	if (image_ref_parse(s->hdr.backing_name, file_path(s->file), &backing, &unused) == 0) {
		put_text(o, "full-backing-filename", backing.path);
		image_ref_free(&backing);
	}
	put_text(o, "backing-filename", s->hdr.backing_name);
	return 0;
}

/* ImageInfo, its keys in qemu-img's order. NULL with a sentence in *e. */
static json_t *co_describe(const struct subject *s, const char *name, uint64_t raw_size, struct error *e)
{
	bool qcow2 = s->format == FORMAT_QCOW2;
	json_t *o = json_object(), *snapshots = NULL;
	int ret = 0;

	put(o, "children", child_tree(s));
	if (qcow2 && s->hdr.backing_name)
		put_text(o, "backing-filename-format", s->hdr.backing_format);
	if (qcow2) {
		snapshots = co_img_snapshots(s->file, &s->hdr, e);
		if (!snapshots)
			goto fail;
		if (json_array_size(snapshots))
			put(o, "snapshots", snapshots);
		else
			json_decref(snapshots);
	}
	put_int(o, "virtual-size", qcow2 ? s->hdr.h.size : raw_size ? raw_size
		: sectors_up(file_size(s->file)));
	put_text(o, "filename", name);
	if (qcow2)
		put_int(o, "cluster-size", 1ull << s->hdr.h.cluster_bits);
	put_text(o, "format", layer_format_name(s->format));
	put_int(o, "actual-size", disk_usage(s->file));
	if (qcow2)
		ret = co_put_qcow2(o, s, e);
	if (ret < 0)
		goto fail;
	put_bool(o, "dirty-flag", qcow2 && s->hdr.h.incompatible_features & QCOW2_INCOMPAT_DIRTY);
	return o;
fail:
	json_decref(o);
	return NULL;
}

/* --- for people --- */
static void print_size(const char *label, uint64_t bytes, bool exact)
{
	char text[32];

	printf("%s: %s", label, size_human(bytes, text, sizeof(text)));
	if (exact)
		printf(" (%" PRIu64 " bytes)", bytes);
	putchar('\n');
}

static void print_backing(const json_t *o)
{
	const char *name = json_string_value(json_object_get(o, "backing-filename"));
	const char *full = json_string_value(json_object_get(o, "full-backing-filename"));
	const char *format = json_string_value(json_object_get(o, "backing-filename-format"));

	if (!name)
		return;
	printf("backing file: %s", name);
	if (!full)
		printf(" (cannot determine actual path)");
	else if (strcmp(name, full))
		printf(" (actual path: %s)", full);
	putchar('\n');
	if (format)
		printf("backing file format: %s\n", format);
}

static void print_snapshot(const json_t *s)
{
	uint64_t sec = get_int(s, "vm-clock-sec"), msec = get_int(s, "vm-clock-nsec") / 1000000;
	time_t when = (time_t)get_int(s, "date-sec");
	char size[32], date[32] = "", clock[48], icount[32] = "--";
	struct tm tm;

	if (localtime_r(&when, &tm))
		strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(clock, sizeof(clock), "%04" PRIu64 ":%02" PRIu64 ":%02" PRIu64 ".%03" PRIu64, sec / 3600,
		 sec / 60 % 60, sec % 60, msec);
	if (json_object_get(s, "icount"))
		snprintf(icount, sizeof(icount), "%" PRIu64, get_int(s, "icount"));
	printf("%-7s %-16s %8s %19s %15s %10s\n", get_text(s, "id"), get_text(s, "name"),
	       size_human(get_int(s, "vm-state-size"), size, sizeof(size)), date, clock, icount);
}

static void print_snapshots(const json_t *list)
{
	json_t *s;
	size_t i;

	if (!list)
		return;
	printf("Snapshot list:\n%-7s %-16s %8s %19s %15s %10s\n", "ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK",
	       "ICOUNT");
	json_array_foreach(list, i, s)
		print_snapshot(s);
}

static void print_child(const json_t *o)
{
	const json_t *info = json_object_get(json_array_get(json_object_get(o, "children"), 0), "info");

	printf("Child node '/file':\n");
	printf("    filename: %s\n", get_text(info, "filename"));
	printf("    protocol type: %s\n", get_text(info, "format"));
	print_size("    file length", get_int(info, "virtual-size"), true);
	print_size("    disk size", get_int(info, "actual-size"), false);
}

static void print_human(const json_t *o)
{
	const json_t *specific = json_object_get(json_object_get(o, "format-specific"), "data");

	printf("image: %s\nfile format: %s\n", get_text(o, "filename"), get_text(o, "format"));
	print_size("virtual size", get_int(o, "virtual-size"), true);
	print_size("disk size", get_int(o, "actual-size"), false);
	if (get_bool(o, "encrypted"))
		printf("encrypted: yes\n");
	if (json_object_get(o, "cluster-size"))
		printf("cluster_size: %" PRIu64 "\n", get_int(o, "cluster-size"));
	if (get_bool(o, "dirty-flag"))
		printf("cleanly shut down: no\n");
	print_backing(o);
	print_snapshots(json_object_get(o, "snapshots"));
	if (specific) {
		printf("Format specific information:\n");
		img_human_print(specific, 1, stdout);
	}
	print_child(o);
}

/* --- the chain --- */
struct seen {
	dev_t dev;
	ino_t ino;
};

static int check_loop(struct seen *seen, unsigned nr, const struct subject *s, const char *name,
		      struct error *e)
{
	struct stat st;

	if (nr == CHAIN_MAX)
		return error_set(e, ELOOP, "the chain of '%s' has more than %u images", name, CHAIN_MAX);
	if (fstat(file_fd(s->file), &st) < 0)
		return error_set_errno(e, errno, "cannot look at '%s'", name);
	for (unsigned i = 0; i < nr; i++)
		if (seen[i].dev == st.st_dev && seen[i].ino == st.st_ino)
			return error_set(e, ELOOP, "Backing file '%s' creates an infinite loop.", name);
	seen[nr] = (struct seen){ st.st_dev, st.st_ino };
	return 0;
}

/* The image below s, its format as the header says: never probed, a guest could have forged it. */
static int next_ref(const struct subject *s, struct image_ref *ref, struct error *e)
{
	struct image_ref next;
	int ret = image_ref_parse(s->hdr.backing_name, file_path(s->file), &next, e);

	if (ret < 0)
		return ret;
	if (next.format == FORMAT_UNSET && s->hdr.backing_format) {
		next.format = layer_format_parse(s->hdr.backing_format);
		if (next.format == FORMAT_UNSET)
			ret = error_set(e, ENOTSUP, "backing format '%s' is not supported; qcimg knows raw and qcow2",
					s->hdr.backing_format);
	} else if (next.format == FORMAT_UNSET) {
		ret = error_set(e, EINVAL, "image '%s' does not name the format of its backing file; add it with: "
				"qcimg rebase -u -F FORMAT -b %s %s", file_path(s->file), s->hdr.backing_name,
				file_path(s->file));
	}
	if (ret < 0) {
		image_ref_free(&next);
		return ret;
	}
	image_ref_free(ref);
	*ref = next;
	return 0;
}

/* Appends one image to list; *ref becomes the one below, *more says whether there is one. */
static int co_one(struct reactor *r, const struct info *in, struct image_ref *ref, struct seen *seen,
		  json_t *list, bool *more, struct error *e)
{
	unsigned nr = (unsigned)json_array_size(list);
	struct subject s;
	json_t *o;
	int ret = co_subject_open(r, ref, in->src.force_share, &s, e);

	*more = false;
	if (ret < 0)
		return ret;
	ret = check_loop(seen, nr, &s, ref->path, e);
	if (ret == 0) {
		o = co_describe(&s, nr || in->src.image_opts ? ref->path : in->src.name, ref->raw_size, e);
		if (o)
			json_array_append_new(list, o);
		else
			ret = -e->code;
	}
	if (ret == 0 && s.format == FORMAT_QCOW2 && s.hdr.backing_name && in->backing_chain) {
		*more = true;
		ret = next_ref(&s, ref, e);
	}
	subject_close(&s);
	return ret;
}

static void print_all(const struct info *in, const json_t *list)
{
	json_t *o;
	size_t i;

	if (in->json) {
		img_json_print(in->backing_chain ? list : json_array_get(list, 0), 0, stdout);
		putchar('\n');
		return;
	}
	json_array_foreach(list, i, o) {
		if (i)
			putchar('\n');
		print_human(o);
	}
}

static int co_info(struct reactor *r, void *arg)
{
	const struct info *in = arg;
	struct error e = ERROR_INIT;
	struct image_ref ref = { 0 };
	struct seen *seen = calloc(CHAIN_MAX, sizeof(*seen));
	json_t *list = json_array();
	bool more = true;
	int ret;

	if (!seen || !list)
		abort();
	ret = img_source_resolve(&in->src, &ref, &e);
	while (ret == 0 && more)
		ret = co_one(r, in, &ref, seen, list, &more, &e);
	if (ret == 0)
		print_all(in, list);
	else if (ret == -ELOOP)
		img_fail("%s", e.msg);
	else
		img_fail_open(ref.path ? ref.path : in->src.name, &e);
	image_ref_free(&ref);
	json_decref(list);
	free(seen);
	return ret < 0 ? EXIT_FAILED : EXIT_DONE;
}

int img_info(const struct img_cmd *cmd, int argc, char **argv)
{
	enum { OPT_CHAIN = IMG_OPT_FIRST_OWN };
	static const struct option longs[] = {
		{ "format", required_argument, NULL, 'f' },
		{ "output", required_argument, NULL, IMG_OPT_OUTPUT },
		{ "backing-chain", no_argument, NULL, OPT_CHAIN },
		{ "force-share", no_argument, NULL, 'U' },
		{ "image-opts", no_argument, NULL, IMG_OPT_IMAGE_OPTS },
		IMG_LONG_COMMON,
	};
	struct info in = { .common = { .cmd = cmd } };
	int c;

	while ((c = img_getopt(&in.common, argc, argv, ":hf:U", longs)) >= 0) {
		if (c == 'f')
			in.src.fmt = optarg;
		else if (c == 'U')
			in.src.force_share = true;
		else if (c == OPT_CHAIN)
			in.backing_chain = true;
		else if (c == IMG_OPT_IMAGE_OPTS)
			in.src.image_opts = true;
		else if (!img_parse_output(cmd, optarg, &in.json))
			return EXIT_FAILED;
	}
	if (c != IMG_GETOPT_END)
		return c == IMG_GETOPT_HELP ? EXIT_DONE : EXIT_FAILED;
	if (optind != argc - 1)
		return img_usage(cmd, "Expecting one image file name");
	in.src.name = argv[optind];
	return img_run(&in.common, NULL, co_info, &in);
}
