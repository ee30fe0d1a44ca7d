// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * backing.c - names of images: plain paths, file:, json:.
 *
 * A json: name is flattened to dotted keys first, so that nested objects and dots
 * are one thing. Then each image takes the keys that it knows; harmless ones that QEMU
 * writes are let pass, and any other is refused by its name, since it would change what the image
 * means.
 *
 * Invariant: nothing here looks at a file; a name means what it says.
 */
#include "qcow/backing.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_KEYS 128u
#define MAX_DEPTH 32u /* of nested objects: the parser recurses, on a coroutine's stack */

struct key {
	char *name;    /* dotted */
	json_t *value; /* borrowed from the root */
	bool used;
};

struct keys {
	const char *text; /* the whole name, for messages */
	const char *parent;
	struct key k[MAX_KEYS];
	unsigned nr;
	struct error *e;
};

/* --- plain names --- */

static int no_memory(struct error *e)
{
	return error_set(e, ENOMEM, "out of memory");
}

/* path as seen from the folder of parent_path. */
static char *from_folder_of(const char *parent_path, const char *path)
{
	const char *slash = parent_path ? strrchr(parent_path, '/') : NULL;
	char *out;

	if (path[0] == '/' || !slash)
		return strdup(path);
	if (asprintf(&out, "%.*s%s", (int)(slash + 1 - parent_path), parent_path, path) < 0)
		return NULL;
	return out;
}

/* Length of a "protocol:" in front, without the colon; 0 if there is none. */
static size_t protocol_len(const char *name)
{
	size_t n = strcspn(name, ":/");

	return name[n] == ':' ? n : 0;
}

static int parse_plain(const char *name, const char *parent_path, struct image_ref *out,
		       struct error *e)
{
	size_t proto = protocol_len(name);

	if (proto == 4 && !strncmp(name, "file", 4))
		name += 5;
	else if (proto || name[0] == ':')
		return error_set(
			e, ENOTSUP,
			"'%s': the protocol '%.*s' is not known here (only file is); a path "
			"with a colon is written ./%s",
			name, (int)proto, name, name);
	if (!*name)
		return error_set(e, EINVAL, "an empty file name");
	out->path = from_folder_of(parent_path, name);
	return out->path ? 0 : no_memory(e);
}

/* --- json: flattening --- */

/* The nesting of brackets outside of strings, whether the text is JSON or not. */
static unsigned nesting(const char *text)
{
	unsigned depth = 0, max = 0;
	bool quoted = false;

	for (; *text; text++) {
		if (quoted) {
			if (*text == '\\' && text[1])
				text++;
			else if (*text == '"')
				quoted = false;
		} else if (*text == '"') {
			quoted = true;
		} else if (*text == '{' || *text == '[') {
			max = ++depth > max ? depth : max;
		} else if ((*text == '}' || *text == ']') && depth) {
			depth--;
		}
	}
	return max;
}

static struct key *find_key(struct keys *ks, const char *prefix, const char *name)
{
	size_t n = strlen(prefix);

	for (unsigned i = 0; i < ks->nr; i++)
		if (!strncmp(ks->k[i].name, prefix, n) && !strcmp(ks->k[i].name + n, name))
			return &ks->k[i];
	return NULL;
}

/* True if a key begins with prefix and name. */
static bool has_keys(struct keys *ks, const char *prefix, const char *name)
{
	size_t n = strlen(prefix), m = strlen(name);

	for (unsigned i = 0; i < ks->nr; i++)
		if (!strncmp(ks->k[i].name, prefix, n) && !strncmp(ks->k[i].name + n, name, m))
			return true;
	return false;
}

static int add_key(struct keys *ks, char *name, json_t *value)
{
	if (find_key(ks, "", name))
		return error_set(ks->e, EINVAL, "'%s': \"%s\" is given twice", ks->text, name);
	if (ks->nr == MAX_KEYS)
		return error_set(ks->e, EINVAL, "'%s': more than %u settings", ks->text, MAX_KEYS);
	ks->k[ks->nr].name = strdup(name);
	if (!ks->k[ks->nr].name)
		return no_memory(ks->e);
	ks->k[ks->nr++].value = value;
	return 0;
}

static int flatten(struct keys *ks, const char *prefix, json_t *object)
{
	const char *name;
	json_t *value;

	json_object_foreach(object, name, value)
	{
		char *full;
		int rc;

		if (asprintf(&full, "%s%s%s", prefix, *prefix ? "." : "", name) < 0)
			return no_memory(ks->e);
		if (json_is_array(value))
			rc = error_set(ks->e, EINVAL,
				       "'%s': \"%s\" is a list, where none is expected", ks->text,
				       full);
		else
			rc = json_is_object(value) ? flatten(ks, full, value)
						   : add_key(ks, full, value);
		free(full);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* --- json: meaning --- */

static int get_string(struct keys *ks, const char *prefix, const char *name, const char **out)
{
	struct key *k = find_key(ks, prefix, name);

	*out = NULL;
	if (!k)
		return 0;
	if (!json_is_string(k->value))
		return error_set(ks->e, EINVAL, "'%s': \"%s\" must be a string", ks->text, k->name);
	k->used = true;
	*out = json_string_value(k->value);
	return 0;
}

static int get_number(struct keys *ks, const char *prefix, const char *name, uint64_t *out)
{
	struct key *k = find_key(ks, prefix, name);
	const char *text;
	char *end;

	*out = 0;
	if (!k)
		return 0;
	k->used = true;
	if (json_is_integer(k->value) && json_integer_value(k->value) >= 0) {
		*out = (uint64_t)json_integer_value(k->value);
		return 0;
	}
	text = json_string_value(k->value);
	if (text && *text >= '0' && *text <= '9') {
		errno = 0;
		*out = strtoull(text, &end, 10);
		if (!*end && !errno && *out <= INT64_MAX)
			return 0;
	}
	return error_set(ks->e, EINVAL, "'%s': \"%s\" must be a number of bytes", ks->text,
			 k->name);
}

/* What may stand in an image's options without changing what its bytes are. */
static bool is_harmless(const char *name)
{
	static const char *const known[] = {
		"node-name",
		"read-only",
		"auto-read-only",
		"force-share",
		"discard",
		"detect-zeroes",
		"aio",
		"aio-max-batch",
		"locking",
		"drop-cache",
		"pr-manager",
		"lazy-refcounts",
		"pass-discard-request",
		"pass-discard-snapshot",
		"pass-discard-other",
		"discard-no-unref",
		"overlap-check",
		"cache-size",
		"l2-cache-size",
		"l2-cache-entry-size",
		"refcount-cache-size",
		"cache-clean-interval",
		"x-check-cache-dropped",
		"cache.direct",
		"cache.no-flush",
		"cache.writeback",
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (!strcmp(name, known[i]))
			return true;
	return !strncmp(name, "overlap-check.", 14);
}

/* Everything under prefix must have been used, or be harmless, there or in its file or data file.
 */
static int check_unused(struct keys *ks, const char *prefix)
{
	size_t n = strlen(prefix);

	for (unsigned i = 0; i < ks->nr; i++) {
		const char *name = ks->k[i].name + n;

		if (strncmp(ks->k[i].name, prefix, n) || ks->k[i].used)
			continue;
		if (!strncmp(name, "file.", 5))
			name += 5;
		else if (!strncmp(name, "data-file.", 10))
			name += 10;
		if (!is_harmless(name))
			return error_set(ks->e, ENOTSUP,
					 "'%s': \"%s\" is not known here; leave it out", ks->text,
					 ks->k[i].name);
	}
	return 0;
}

static bool is_file_driver(const char *driver)
{
	return !strcmp(driver, "file") || !strcmp(driver, "host_device");
}

static int refuse_driver(struct keys *ks, const char *driver, const char *known)
{
	return error_set(ks->e, ENOTSUP, "'%s': the driver '%s' is not known here (%s)", ks->text,
			 driver, known);
}

/* prefix + "filename", with a driver beside it that must be a file's. */
static int parse_file(struct keys *ks, const char *prefix, const char *what, char **path)
{
	char *inner;
	const char *driver, *name;
	int rc;

	if (find_key(ks, prefix, what))
		return error_set(ks->e, ENOTSUP,
				 "'%s': \"%s%s\" names a node, and there are none here; give its "
				 "\"filename\"",
				 ks->text, prefix, what);
	if (asprintf(&inner, "%s%s.", prefix, what) < 0)
		return no_memory(ks->e);
	rc = get_string(ks, inner, "driver", &driver);
	if (!rc && driver && !is_file_driver(driver))
		rc = refuse_driver(ks, driver, "a file's is file or host_device");
	if (!rc)
		rc = get_string(ks, inner, "filename", &name);
	if (!rc && name && *name) {
		free(*path);
		*path = from_folder_of(ks->parent, name);
		if (!*path)
			rc = no_memory(ks->e);
	}
	free(inner);
	return rc;
}

static int parse_driver(struct keys *ks, const char *prefix, struct image_ref *out, bool *is_file)
{
	const char *driver;
	int rc = get_string(ks, prefix, "driver", &driver);

	*is_file = false;
	out->format = FORMAT_UNSET;
	if (rc < 0 || !driver)
		return rc;
	/* a bare file, without a format over it, shows its bytes as they are */
	*is_file = is_file_driver(driver);
	out->format = *is_file ? FORMAT_RAW : layer_format_parse(driver);
	if (out->format == FORMAT_UNSET)
		return refuse_driver(ks, driver, "qcow2, raw and file are");
	return 0;
}

static int parse_path(struct keys *ks, const char *prefix, bool is_file, struct image_ref *out)
{
	const char *name;
	int rc = get_string(ks, prefix, "filename", &name);

	if (!rc && name && *name) {
		out->path = from_folder_of(ks->parent, name);
		if (!out->path)
			rc = no_memory(ks->e);
	}
	if (!rc && !is_file) {
		if (out->path && has_keys(ks, prefix, "file."))
			return error_set(ks->e, EINVAL,
					 "'%s': \"%sfilename\" and \"%sfile\" exclude each other",
					 ks->text, prefix, prefix);
		rc = parse_file(ks, prefix, "file", &out->path);
	}
	if (!rc && !out->path)
		rc = error_set(ks->e, EINVAL, "'%s': there is no \"%sfile.filename\"", ks->text,
			       prefix);
	return rc;
}

static int parse_image(struct keys *ks, const char *prefix, struct image_ref *out);

static int parse_backing(struct keys *ks, const char *prefix, struct image_ref *out)
{
	struct key *k = find_key(ks, prefix, "backing");
	char *inner;
	int rc;

	if (k && !json_is_null(k->value) && strcmp(json_string_value(k->value) ?: "?", ""))
		return error_set(ks->e, ENOTSUP,
				 "'%s': \"%s\" names a node, and there are none here; give "
				 "null or an image",
				 ks->text, k->name);
	out->has_backing = k || has_keys(ks, prefix, "backing.");
	if (k) {
		k->used = true;
		return 0;
	}
	if (!out->has_backing)
		return 0;
	out->backing = calloc(1, sizeof(*out->backing));
	if (!out->backing || asprintf(&inner, "%sbacking.", prefix) < 0)
		return no_memory(ks->e);
	rc = parse_image(ks, inner, out->backing);
	free(inner);
	return rc;
}

static int parse_image(struct keys *ks, const char *prefix, struct image_ref *out)
{
	bool is_file;
	int rc = parse_driver(ks, prefix, out, &is_file);

	if (!rc)
		rc = parse_path(ks, prefix, is_file, out);
	if (!rc && out->format == FORMAT_RAW && !is_file) {
		rc = get_number(ks, prefix, "offset", &out->raw_offset);
		if (!rc)
			rc = get_number(ks, prefix, "size", &out->raw_size);
	}
	if (!rc && out->format != FORMAT_RAW)
		rc = parse_backing(ks, prefix, out);
	if (!rc && out->format != FORMAT_RAW)
		rc = parse_file(ks, prefix, "data-file", &out->data_file);
	return rc ? rc : check_unused(ks, prefix);
}

static int parse_json(const char *name, const char *parent_path, struct image_ref *out,
		      struct error *e)
{
	const char *text = name + strlen("json:");
	struct keys *ks = calloc(1, sizeof(*ks));
	json_error_t je;
	json_t *root;
	int rc;

	if (!ks)
		return no_memory(e);
	ks->text = name;
	ks->parent = parent_path;
	ks->e = e;
	if (nesting(text) > MAX_DEPTH) {
		free(ks);
		return error_set(e, EINVAL, "'%.64s...': nested more than %u deep", name,
				 MAX_DEPTH);
	}
	root = json_loads(text, JSON_REJECT_DUPLICATES, &je);
	if (!root)
		rc = error_set(e, EINVAL, "'%s' is not valid JSON: %s", name, je.text);
	else if (!json_is_object(root))
		rc = error_set(e, EINVAL, "'%s': an object is expected after json:", name);
	else
		rc = flatten(ks, "", root);
	if (!rc)
		rc = parse_image(ks, "", out);
	for (unsigned i = 0; i < ks->nr; i++)
		free(ks->k[i].name);
	json_decref(root);
	free(ks);
	return rc;
}

int image_ref_parse(const char *name, const char *parent_path, struct image_ref *out,
		    struct error *e)
{
	int rc;

	memset(out, 0, sizeof(*out));
	if (!strncmp(name, "json:", 5))
		rc = parse_json(name, parent_path, out, e);
	else
		rc = parse_plain(name, parent_path, out, e);
	if (rc < 0)
		image_ref_free(out);
	return rc;
}

void image_ref_free(struct image_ref *ref)
{
	if (ref->backing) {
		image_ref_free(ref->backing);
		free(ref->backing);
	}
	free(ref->path);
	free(ref->data_file);
	memset(ref, 0, sizeof(*ref));
}

/* --- the way back --- */

/*
 * Absolute, with the folder's symbolic links resolved where the folder exists:
 * only then does taking ".." away mean what it says. The last part stays as it is.
 */
static char *absolute(const char *path)
{
	const char *slash = strrchr(path, '/');
	char *folder, *real, *out = NULL;

	folder = slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
	if (!folder)
		return NULL;
	real = realpath(folder, NULL);
	if (real) {
		if (asprintf(&out, "%s%s%s", real, strcmp(real, "/") ? "/" : "",
			     slash ? slash + 1 : path) < 0)
			out = NULL;
	} else if (path[0] == '/') {
		out = strdup(path);
	} else {
		char *cwd = getcwd(NULL, 0);

		if (cwd && asprintf(&out, "%s/%s", cwd, path) < 0)
			out = NULL;
		free(cwd);
	}
	free(real);
	free(folder);
	return out;
}

/* Both absolute. NULL if they share no folder but the root, or there is no memory. */
static char *relative_to(const char *path, const char *parent)
{
	size_t common = 0, ups = 0, len;
	char *out, *at;

	for (size_t i = 0; path[i] && path[i] == parent[i]; i++)
		if (path[i] == '/')
			common = i + 1;
	for (const char *p = parent + common; (p = strchr(p, '/')); p++)
		ups++;
	if (common <= 1 && ups)
		return NULL;
	path += common;
	len = strlen(path) + ups * 3 + 3;
	out = at = malloc(len);
	if (!out)
		return NULL;
	/* a colon would look like a protocol */
	if (!ups && protocol_len(path))
		at = stpcpy(at, "./");
	while (ups--)
		at = stpcpy(at, "../");
	strcpy(at, path);
	return out;
}

char *backing_name_for(const char *path, const char *parent_path, bool relative)
{
	char *to, *from, *out = NULL;

	if (protocol_len(path))
		return strdup(path);
	if (path[0] == '/' && !relative)
		return strdup(path);
	to = absolute(path);
	if (!to || !relative)
		return to;
	from = absolute(parent_path);
	if (from)
		out = relative_to(to, from);
	free(from);
	if (!out)
		return to;
	free(to);
	return out;
}
