// SPDX-License-Identifier: GPL-2.0-or-later
/* img_common.c - see img_common.h. */
#include "tools/img_common.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "tools/applet.h"
#include "tools/size.h"

/* --- messages --- */
int img_fail(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fputs("qcimg: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_FAILED;
}

int img_usage(const struct img_cmd *cmd, const char *fmt, ...)
{
	va_list ap;

	fputs("qcimg: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see 'qcimg %s --help'\n", cmd->name);
	return EXIT_FAILED;
}

int img_fail_open(const char *name, const struct error *e)
{
	static const char prefix[] = "Could not open '";

	if (!strncmp(e->msg, prefix, sizeof(prefix) - 1))
		return img_fail("%s", e->msg);
	return img_fail("%s%s': %s", prefix, name, e->msg);
}

/* --- options --- */
static void help_print(const struct img_cmd *cmd)
{
	printf("%s.\nUsage: qcimg %s %s\n", cmd->summary, cmd->name, cmd->help);
	printf("\nEvery subcommand also takes --engine uring|aio (or QCHAIN_ENGINE in the environment).\n");
}

static int option_fault(const struct img_cmd *cmd, int c, char **argv)
{
	const char *word = argv[optind - 1];

	if (optopt && optopt < 256 && isprint(optopt))
		img_usage(cmd, c == ':' ? "missing argument for option '-%c'" : "unrecognized option '-%c'",
			  optopt);
	else
		img_usage(cmd, c == ':' ? "missing argument for option '%s'" : "unrecognized option '%s'",
			  word);
	return IMG_GETOPT_FAILED;
}

int img_getopt(struct img_common *c, int argc, char **argv, const char *shorts,
	       const struct option *longs)
{
	opterr = 0;
	for (;;) {
		int opt = getopt_long(argc, argv, shorts, longs, NULL);

		switch (opt) {
		case -1:
			return IMG_GETOPT_END;
		case 'h':
			help_print(c->cmd);
			return IMG_GETOPT_HELP;
		case 'q':
			c->quiet = true;
			break;
		case IMG_OPT_ENGINE:
			c->engine = optarg;
			break;
		case IMG_OPT_OBJECT:
			img_usage(c->cmd, "--object is not supported: encrypted images cannot be read yet");
			return IMG_GETOPT_FAILED;
		case '?':
		case ':':
			return option_fault(c->cmd, opt, argv);
		default:
			return opt;
		}
	}
}

bool img_parse_size(const char *what, const char *s, uint64_t *out)
{
	int ret = size_parse(s, 1, out);

	if (ret == -ERANGE)
		img_fail("Invalid %s specified. Must be between 0 and %" PRId64 ".", what, INT64_MAX);
	else if (ret < 0)
		img_fail("Invalid %s specified: '%s'.", what, s);
	return ret == 0;
}

bool img_parse_count(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *out)
{
	char *end;
	long long v;

	errno = 0;
	v = strtoll(s, &end, 0);
	if (end == s || *end || isspace((unsigned char)*s)) {
		img_fail("Invalid %s specified: '%s'.", what, s);
		return false;
	}
	if (errno || v < 0 || (uint64_t)v < min || (uint64_t)v > max) {
		img_fail("Invalid %s specified. Must be between %" PRIu64 " and %" PRIu64 ".", what, min, max);
		return false;
	}
	*out = (uint64_t)v;
	return true;
}

bool img_parse_output(const struct img_cmd *cmd, const char *s, bool *json)
{
	*json = !strcmp(s, "json");
	if (*json || !strcmp(s, "human"))
		return true;
	img_usage(cmd, "--output expects 'human' or 'json' not '%s'", s);
	return false;
}

bool img_parse_format(const char *s, enum layer_format *out)
{
	*out = layer_format_parse(s);
	if (*out != FORMAT_UNSET)
		return true;
	img_fail("Unknown file format '%s'; qcimg knows raw and qcow2", s);
	return false;
}

bool img_parse_cache(const char *what, const char *s, struct img_cache *out)
{
	static const struct {
		const char *name;
		struct img_cache cache;
	} modes[] = {
		{ "none", { FILE_CACHE_NONE, false, false } },
		{ "off", { FILE_CACHE_NONE, false, false } },
		{ "directsync", { FILE_CACHE_NONE, true, false } },
		{ "writeback", { FILE_CACHE_WRITEBACK, false, false } },
		{ "writethrough", { FILE_CACHE_WRITEBACK, true, false } },
		{ "unsafe", { FILE_CACHE_UNSAFE, false, true } },
	};

	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (!strcmp(s, modes[i].name)) {
			*out = modes[i].cache;
			return true;
		}
	}
	img_fail("Invalid %s option: %s", what, s);
	return false;
}

/* --- images --- */

/* Copies one word up to ',' (a doubled comma stands for one) or, if `stop` is '=', up to that. */
static const char *copy_word(const char *s, char *to, char stop)
{
	while (*s && *s != stop) {
		if (*s == ',' && *++s != ',')
			return *to = '\0', s - 1;
		*to++ = *s++;
	}
	*to = '\0';
	return s;
}

const char *img_next_pair(const char *s, char *key, char *value, bool *has_value)
{
	s = copy_word(s, key, '=');
	*has_value = *s == '=';
	*value = '\0';
	if (*has_value)
		s = copy_word(s + 1, value, '\0');
	return *s ? s + 1 : NULL;
}

/* "driver=qcow2,file.filename=a" as "json:{...}", which backing.h understands. */
static int image_opts_to_json(const char *opts, char **out, struct error *e)
{
	json_t *o = json_object();
	char *key = malloc(strlen(opts) + 1), *value = malloc(strlen(opts) + 1), *text = NULL;
	bool has_value;
	int ret = 0;

	if (!o || !key || !value)
		abort();
	while (opts && ret == 0) {
		opts = img_next_pair(opts, key, value, &has_value);
		if (!*key)
			ret = error_set(e, EINVAL, "an image option has no name");
		else if (json_object_set_new(o, key, json_string(value)) < 0)
			ret = error_set(e, EINVAL, "image option '%s' is not UTF-8", key);
	}
	if (ret == 0) {
		text = json_dumps(o, JSON_COMPACT);
		if (!text || asprintf(out, "json:%s", text) < 0)
			abort();
	}
	free(text);
	free(key);
	free(value);
	json_decref(o);
	return ret;
}

/* What the chain is told to open; caller frees. */
static int source_text(const struct img_source *s, char **out, struct error *e)
{
	if (s->image_opts)
		return image_opts_to_json(s->name, out, e);
	*out = strdup(s->name);
	if (!*out)
		abort();
	return 0;
}

static int source_format(const struct img_source *s, enum layer_format *out, struct error *e)
{
	*out = FORMAT_UNSET;
	if (!s->fmt)
		return 0;
	*out = layer_format_parse(s->fmt);
	return *out == FORMAT_UNSET ? error_set(e, EINVAL, "Unknown driver '%s'; qcimg knows raw and qcow2",
						s->fmt) : 0;
}

int img_source_resolve(const struct img_source *s, struct image_ref *ref, struct error *e)
{
	enum layer_format format;
	char *text = NULL;
	int ret = source_format(s, &format, e);

	if (ret == 0)
		ret = source_text(s, &text, e);
	if (ret == 0)
		ret = image_ref_parse(text, NULL, ref, e);
	if (ret == 0 && format != FORMAT_UNSET)
		ref->format = format;
	free(text);
	return ret;
}

int co_img_open_chain_opts(struct reactor *r, const struct img_source *s, struct chain_opts *o,
			   struct chain **out, struct error *e)
{
	char *text = NULL;
	int ret = source_format(s, &o->format, e);

	if (ret == 0)
		ret = source_text(s, &text, e);
	if (ret == 0) {
		o->image = text;
		ret = co_chain_open(r, o, out, e);
	}
	o->image = NULL;
	free(text);
	return ret;
}

int co_img_open_chain(struct reactor *r, const struct img_source *s, bool writable,
		      struct chain **out, struct error *e)
{
	struct chain_opts o = {
		.read_only = !writable,
		.no_lock = s->force_share,
		.cache = s->cache.mode,
	};

	return co_img_open_chain_opts(r, s, &o, out, e);
}

int co_img_close(struct chain *c)
{
	struct error e = ERROR_INIT;

	if (!c || co_chain_close(c, &e) == 0)
		return EXIT_DONE;
	return img_fail("%s", e.msg);
}

bool img_engine(const struct img_common *c, enum engine_kind *out)
{
	const char *name = c->engine ? c->engine : getenv("QCHAIN_ENGINE");

	*out = ENGINE_URING;
	if (!name || !*name || engine_parse(name, out) == 0)
		return true;
	img_fail("Unknown engine '%s'; use uring or aio", name);
	return false;
}

struct run_call {
	struct reactor *r;
	int (*fn)(struct reactor *r, void *arg);
	void *arg;
};

static int run_call(void *arg)
{
	struct run_call *call = arg;

	return call->fn(call->r, call->arg);
}

int img_run(const struct img_common *c, const struct reactor_config *config,
	    int (*fn)(struct reactor *r, void *arg), void *arg)
{
	struct reactor_config cfg = { .engine = ENGINE_URING };
	struct error e = ERROR_INIT;
	struct run_call call = { .fn = fn, .arg = arg };
	int status;

	if (config)
		cfg = *config;
	else if (!img_engine(c, &cfg.engine))
		return EXIT_FAILED;
	if (reactor_new(&cfg, &call.r, &e) < 0)
		return img_fail("%s", e.msg);
	status = reactor_run_co(call.r, run_call, &call);
	reactor_free(call.r);
	if (fflush(stdout) == EOF || ferror(stdout))
		return img_fail("Could not write to standard output: %s", strerror(errno));
	return status;
}

/* --- progress --- */
static void progress_print(struct img_progress *p, double percent)
{
	p->shown = percent;
	printf("    (%3.2f/100%%)\r", percent);
	fflush(stdout);
}

void img_progress_start(struct img_progress *p, bool on)
{
	p->on = on;
	if (on)
		progress_print(p, 0);
}

void img_progress_set(struct img_progress *p, uint64_t done, uint64_t total)
{
	double percent = total ? 100.0 * (double)done / (double)total : 100.0;

	if (p->on && percent >= p->shown + 1)
		progress_print(p, percent);
}

void img_progress_end(struct img_progress *p, bool complete)
{
	if (!p->on)
		return;
	if (complete)
		progress_print(p, 100);
	putchar('\n');
}
