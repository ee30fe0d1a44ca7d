/* SPDX-License-Identifier: GPL-2.0-or-later */
/* paths.c - see paths.h. */
#include "tools/paths.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int chain_name_check(const char *name, struct error *e)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
	size_t len = strlen(name);

	if (!len)
		return error_set(e, EINVAL, "a chain's name cannot be empty");
	if (len > CHAIN_NAME_MAX)
		return error_set(e, EINVAL, "chain name '%.20s...' has %zu characters; at most %d are allowed",
				 name, len, CHAIN_NAME_MAX);
	if (name[0] == '-' || name[0] == '.')
		return error_set(e, EINVAL, "chain name '%s' begins with '%c'; begin with a letter, a digit or '_'",
				 name, name[0]);
	if (strspn(name, allowed) != len)
		return error_set(e, EINVAL,
				 "chain name '%s' has a character that is not allowed; use letters, digits, '_', '.', '-'",
				 name);
	return 0;
}

static const char *base(const char *variable, const char *normal)
{
	const char *v = getenv(variable);

	return v && v[0] ? v : normal;
}

const char *run_base(void)
{
	return base("QCHAIN_RUNDIR", "/run/qchain");
}

const char *etc_base(void)
{
	return base("QCHAIN_ETCDIR", "/etc/qchain");
}

const char *state_base(void)
{
	return base("QCHAIN_STATEDIR", "/var/lib/qchain");
}

static char *fitted(char *buf, size_t len, int printed)
{
	if (printed < 0 || (size_t)printed >= len) {
		fprintf(stderr, "qchain: a folder named by QCHAIN_RUNDIR or QCHAIN_ETCDIR is too long\n");
		exit(1);
	}
	return buf;
}

char *run_path(char *buf, size_t len, const char *chain, const char *file)
{
	if (!file)
		return fitted(buf, len, snprintf(buf, len, "%s/%s", run_base(), chain));
	return fitted(buf, len, snprintf(buf, len, "%s/%s/%s", run_base(), chain, file));
}

char *conf_dir(char *buf, size_t len)
{
	return fitted(buf, len, snprintf(buf, len, "%s/chains", etc_base()));
}

char *conf_path(char *buf, size_t len, const char *chain)
{
	return fitted(buf, len, snprintf(buf, len, "%s/chains/%s.conf", etc_base(), chain));
}

int dir_make(const char *path, unsigned mode, const char *variable, struct error *e)
{
	char part[PATH_MAX];
	char *slash = part;
	struct stat st;

	if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part))
		return error_set(e, ENAMETOOLONG, "folder name '%.40s...' is too long", path);
	do {
		slash = strchr(slash + 1, '/');
		if (slash)
			*slash = '\0';
		if (mkdir(part, mode) < 0 && errno != EEXIST) {
			int err = errno;

			return error_set(e, err, "cannot create folder '%s': %s; run as root, or set %s to a folder of your own",
					 part, strerror(err), variable);
		}
		if (slash)
			*slash = '/';
	} while (slash);
	if (stat(path, &st) < 0)
		return error_set_errno(e, errno, "cannot look at folder '%s'", path);
	if (!S_ISDIR(st.st_mode))
		return error_set(e, ENOTDIR, "'%s' is in the way: it is not a folder", path);
	return 0;
}

char *image_name_absolute(const char *name)
{
	size_t until = strcspn(name, ":/");
	const char *prefix = "", *path = name;
	char *cwd, *out = NULL;

	if (!strncmp(name, "file:", 5) && strncmp(name, "file://", 7)) {
		prefix = "file:";
		path = name + 5;
	} else if (name[until] == ':') {
		return strdup(name);
	}
	if (path[0] == '/')
		return strdup(name);
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return NULL;
	if (asprintf(&out, "%s%s/%s", prefix, cwd, path) < 0)
		out = NULL;
	free(cwd);
	return out;
}
