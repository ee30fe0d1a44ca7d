/* SPDX-License-Identifier: GPL-2.0-or-later */
/* conf.c - see conf.h. */
#include "tools/conf.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/size.h"

const char *cache_name(enum file_cache c)
{
	return c == FILE_CACHE_NONE ? "none" : "writeback";
}

void conf_init(struct chain_conf *c, const char *name)
{
	memset(c, 0, sizeof(*c));
	snprintf(c->name, sizeof(c->name), "%s", name);
	c->device = DEVICE_AUTO;
	c->number = -1;
	c->engine = ENGINE_URING;
	c->cache = FILE_CACHE_NONE;
}

void conf_free(struct chain_conf *c)
{
	free(c->image);
	c->image = NULL;
}

bool conf_exists(const char *name)
{
	char path[PATH_MAX];

	return access(conf_path(path, sizeof(path), name), F_OK) == 0;
}

/* --- one setter per key; each returns NULL or what would be right --- */

static const char *set_image(struct chain_conf *c, const char *v)
{
	if (!v[0])
		return "a file name";
	free(c->image);
	c->image = strdup(v);
	if (!c->image)
		abort();
	return NULL;
}

static const char *set_layer_format(enum layer_format *f, const char *v)
{
	*f = layer_format_parse(v);
	return *f == FORMAT_UNSET ? "qcow2 or raw" : NULL;
}

static const char *set_format(struct chain_conf *c, const char *v)
{
	return set_layer_format(&c->format, v);
}

static const char *set_backing_format(struct chain_conf *c, const char *v)
{
	return set_layer_format(&c->backing_format, v);
}

static const char *set_device(struct chain_conf *c, const char *v)
{
	return device_kind_parse(v, &c->device) < 0 ? "auto, ublk, fuse or none" : NULL;
}

static const char *set_number(struct chain_conf *c, const char *v)
{
	char *end;
	long n;

	errno = 0;
	n = strtol(v, &end, 10);
	if (errno || end == v || *end || n < 0 || n > INT_MAX)
		return "a number";
	c->number = (int)n;
	return NULL;
}

static const char *set_engine(struct chain_conf *c, const char *v)
{
	return engine_parse(v, &c->engine) < 0 ? "uring or aio" : NULL;
}

static const char *set_cache(struct chain_conf *c, const char *v)
{
	if (strcmp(v, "none") && strcmp(v, "writeback"))
		return "none or writeback";
	c->cache = v[0] == 'n' ? FILE_CACHE_NONE : FILE_CACHE_WRITEBACK;
	return NULL;
}

static const char *set_bool(bool *b, const char *v)
{
	if (strcmp(v, "yes") && strcmp(v, "no"))
		return "yes or no";
	*b = v[0] == 'y';
	return NULL;
}

static const char *set_read_only(struct chain_conf *c, const char *v)
{
	return set_bool(&c->read_only, v);
}

static const char *set_no_dm(struct chain_conf *c, const char *v)
{
	bool dm = true;
	const char *wrong = set_bool(&dm, v);

	c->no_dm = !dm;
	return wrong;
}

static const char *set_map_cache(struct chain_conf *c, const char *v)
{
	return size_parse(v, 1, &c->map_cache) < 0 ? "a size" : NULL;
}

static const struct conf_key {
	const char *key;
	const char *(*set)(struct chain_conf *c, const char *v);
} conf_keys[] = {
	{ "image", set_image },
	{ "format", set_format },
	{ "backing-format", set_backing_format },
	{ "device", set_device },
	{ "number", set_number },
	{ "engine", set_engine },
	{ "cache", set_cache },
	{ "read-only", set_read_only },
	{ "device-mapper", set_no_dm },
	{ "map-cache", set_map_cache },
};

static char *trimmed(char *s)
{
	size_t len;

	while (isspace((unsigned char)*s))
		s++;
	len = strlen(s);
	while (len && isspace((unsigned char)s[len - 1]))
		s[--len] = '\0';
	return s;
}

static int conf_line(struct chain_conf *c, char *line, bool *in_section, const char *path,
		     unsigned nr, struct error *e)
{
	char *eq, *key, *value;

	line = trimmed(line);
	if (!line[0] || line[0] == '#' || line[0] == ';')
		return 0;
	if (line[0] == '[') {
		*in_section = !strcmp(line, "[chain]");
		if (!*in_section)
			return error_set(e, EINVAL, "%s, line %u: unknown section %s; only [chain] is known",
					 path, nr, line);
		return 0;
	}
	if (!*in_section)
		return error_set(e, EINVAL, "%s, line %u: '%s' stands before the section [chain]", path, nr, line);
	eq = strchr(line, '=');
	if (!eq)
		return error_set(e, EINVAL, "%s, line %u: '%s' is not of the form key = value", path, nr, line);
	*eq = '\0';
	key = trimmed(line);
	value = trimmed(eq + 1);
	for (size_t i = 0; i < sizeof(conf_keys) / sizeof(conf_keys[0]); i++) {
		const char *right;

		if (strcmp(conf_keys[i].key, key))
			continue;
		right = conf_keys[i].set(c, value);
		if (right)
			return error_set(e, EINVAL, "%s, line %u: %s = '%s' is wrong; it must be %s", path,
					 nr, key, value, right);
		return 0;
	}
	return error_set(e, EINVAL, "%s, line %u: unknown key '%s'", path, nr, key);
}

int conf_load(struct chain_conf *c, const char *name, struct error *e)
{
	char path[PATH_MAX];
	bool in_section = false;
	char *line = NULL;
	size_t cap = 0;
	unsigned nr = 0;
	FILE *f;
	int ret = 0;

	f = fopen(conf_path(path, sizeof(path), name), "re");
	if (!f) {
		int err = errno;

		if (err == ENOENT)
			return error_set(e, ENOENT, "there is no such chain (no file %s); define it with qccreate",
					 path);
		return error_set_errno(e, err, "cannot read %s", path);
	}
	while (!ret && getline(&line, &cap, f) >= 0)
		ret = conf_line(c, line, &in_section, path, ++nr, e);
	if (!ret && ferror(f))
		ret = error_set_errno(e, EIO, "cannot read %s", path);
	if (!ret && !c->image)
		ret = error_set(e, EINVAL, "%s names no image; add a line 'image = FILE' to its section [chain]",
				path);
	free(line);
	fclose(f);
	return ret;
}

static int conf_print(const struct chain_conf *c, FILE *f)
{
	fprintf(f, "# The chain '%s': its active image and how to serve it; written by the qc commands.\n",
		c->name);
	fprintf(f, "[chain]\nimage = %s\n", c->image);
	if (c->format != FORMAT_UNSET)
		fprintf(f, "format = %s\n", layer_format_name(c->format));
	if (c->backing_format != FORMAT_UNSET)
		fprintf(f, "backing-format = %s\n", layer_format_name(c->backing_format));
	if (c->device != DEVICE_AUTO)
		fprintf(f, "device = %s\n", device_kind_name(c->device));
	if (c->number >= 0)
		fprintf(f, "number = %d\n", c->number);
	if (c->engine != ENGINE_URING)
		fprintf(f, "engine = %s\n", engine_name(c->engine));
	if (c->cache != FILE_CACHE_NONE)
		fprintf(f, "cache = %s\n", cache_name(c->cache));
	if (c->read_only)
		fprintf(f, "read-only = yes\n");
	if (c->no_dm)
		fprintf(f, "device-mapper = no\n");
	if (c->map_cache)
		fprintf(f, "map-cache = %llu\n", (unsigned long long)c->map_cache);
	if (fflush(f) || ferror(f))
		return -EIO;
	return fsync(fileno(f)) < 0 ? -errno : 0;
}

static int dir_sync(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (fsync(fd) < 0 && errno != EINVAL)
		ret = -errno;
	close(fd);
	return ret;
}

int conf_save(const struct chain_conf *c, bool fresh, struct error *e)
{
	char dir[PATH_MAX], path[PATH_MAX], tmp[PATH_MAX + 32];
	FILE *f;
	int fd, ret;

	if (strchr(c->image, '\n') || strcmp(trimmed(strdupa(c->image)), c->image))
		return error_set(e, EINVAL, "image name '%s' has a line break or white space at an end, which a definition cannot hold",
				 c->image);
	conf_dir(dir, sizeof(dir));
	conf_path(path, sizeof(path), c->name);
	ret = dir_make(dir, 0755, "QCHAIN_ETCDIR", e);
	if (ret < 0)
		return ret;
	snprintf(tmp, sizeof(tmp), "%s.%d.tmp", path, (int)getpid());
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0) {
		int err = errno;

		return error_set(e, err, "cannot write %s: %s%s", tmp, strerror(err),
				 err == EACCES ? "; run as root, or set QCHAIN_ETCDIR to a folder of your own" : "");
	}
	f = fdopen(fd, "w");
	if (!f)
		abort();
	ret = conf_print(c, f);
	if (fclose(f) && !ret)
		ret = -EIO;
	/* link() refuses an existing name, rename() replaces it: both at once or not at all. */
	if (!ret && (fresh ? link(tmp, path) : rename(tmp, path)) < 0)
		ret = -errno;
	if (fresh || ret)
		unlink(tmp);
	if (!ret)
		ret = dir_sync(dir);
	if (ret == -EEXIST)
		return error_set(e, EEXIST, "it is already defined in %s; choose another name, or forget it with 'qcremove %s'",
				 path, c->name);
	if (ret < 0)
		return error_set_errno(e, -ret, "cannot write %s", path);
	return 0;
}

int conf_remove(const char *name, struct error *e)
{
	char path[PATH_MAX], dir[PATH_MAX];
	int ret;

	if (unlink(conf_path(path, sizeof(path), name)) < 0)
		return error_set_errno(e, errno, "cannot remove %s", path);
	ret = dir_sync(conf_dir(dir, sizeof(dir)));
	return ret < 0 ? error_set_errno(e, -ret, "cannot make the removal of %s durable", path) : 0;
}

static int conf_filter(const struct dirent *d)
{
	size_t len = strlen(d->d_name);
	char name[CHAIN_NAME_MAX + 1];

	if (len <= 5 || len - 5 > CHAIN_NAME_MAX || strcmp(d->d_name + len - 5, ".conf"))
		return 0;
	memcpy(name, d->d_name, len - 5);
	name[len - 5] = '\0';
	return chain_name_check(name, NULL) == 0;
}

int conf_list(char ***out, struct error *e)
{
	char dir[PATH_MAX];
	struct dirent **found = NULL;
	char **names;
	int n;

	n = scandir(conf_dir(dir, sizeof(dir)), &found, conf_filter, alphasort);
	if (n < 0 && errno != ENOENT)
		return error_set_errno(e, errno, "cannot read folder %s", dir);
	if (n < 0)
		n = 0;
	names = calloc((size_t)n + 1, sizeof(*names));
	if (!names)
		abort();
	for (int i = 0; i < n; i++) {
		names[i] = strndup(found[i]->d_name, strlen(found[i]->d_name) - 5);
		if (!names[i])
			abort();
		free(found[i]);
	}
	free(found);
	*out = names;
	return 0;
}

void conf_list_free(char **names)
{
	for (char **n = names; n && *n; n++)
		free(*n);
	free(names);
}
