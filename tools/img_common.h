/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * img_common.h - what every subcommand of qcimg needs: its place in the table,
 * options, images named as qemu-img names them, progress, messages.
 *
 * Scripts written for qemu-img run with qcimg in its place: options, what goes to
 * stdout, and exit codes are qemu-img's. Errors are ours: one line on stderr.
 */
#ifndef QCHAIN_TOOLS_IMG_COMMON_H
#define QCHAIN_TOOLS_IMG_COMMON_H

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "io/reactor.h"
#include "qcow/backing.h"
#include "qcow/chain.h"
#include "qcow/layer.h"

struct img_cmd {
	const char *name;
	int (*run)(const struct img_cmd *cmd, int argc, char **argv);   /* argv[0]: the subcommand */
	const char *summary;
	const char *help;            /* after "Usage: qcimg NAME " */
};

int img_bench(const struct img_cmd *cmd, int argc, char **argv);
int img_check(const struct img_cmd *cmd, int argc, char **argv);
int img_compare(const struct img_cmd *cmd, int argc, char **argv);
int img_convert(const struct img_cmd *cmd, int argc, char **argv);
int img_create(const struct img_cmd *cmd, int argc, char **argv);
int img_info(const struct img_cmd *cmd, int argc, char **argv);
int img_map(const struct img_cmd *cmd, int argc, char **argv);
int img_rebase(const struct img_cmd *cmd, int argc, char **argv);

/* --- messages: "qcimg: ..." on stderr, always one line; both return 1 --- */
int img_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
int img_usage(const struct img_cmd *cmd, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* "Could not open 'name': ..." unless the sentence begins so already. */
int img_fail_open(const char *name, const struct error *e);

/* --- options --- */
enum {
	IMG_OPT_ENGINE = 256, IMG_OPT_OBJECT, IMG_OPT_IMAGE_OPTS, IMG_OPT_OUTPUT,
	IMG_OPT_FIRST_OWN,           /* a subcommand counts its own from here */
};
#define IMG_LONG_COMMON \
	{ "help", no_argument, NULL, 'h' }, \
	{ "quiet", no_argument, NULL, 'q' }, \
	{ "engine", required_argument, NULL, IMG_OPT_ENGINE }, \
	{ "object", required_argument, NULL, IMG_OPT_OBJECT }, \
	{ NULL, 0, NULL, 0 }

struct img_common {                  /* set by img_getopt() */
	const struct img_cmd *cmd;
	const char *engine;
	bool quiet;
};

enum { IMG_GETOPT_END = -1, IMG_GETOPT_FAILED = -2, IMG_GETOPT_HELP = -3 };
/*
 * getopt_long() that deals with the common options itself and says what is
 * wrong. Returns a subcommand's own option or one of the three above.
 */
int img_getopt(struct img_common *c, int argc, char **argv, const char *shorts,
	       const struct option *longs);

/* Parsers of option values; they say what is wrong and return false. `what` as in "Invalid %s specified". */
bool img_parse_size(const char *what, const char *s, uint64_t *out);
bool img_parse_count(const char *what, const char *s, uint64_t min, uint64_t max, uint64_t *out);
bool img_parse_output(const struct img_cmd *cmd, const char *s, bool *json);
bool img_parse_format(const char *s, enum layer_format *out);

struct img_cache {
	enum file_cache mode;
	bool writethrough;           /* every write durable before it counts as done */
	bool unsafe;                 /* never flush */
};
bool img_parse_cache(const char *what, const char *s, struct img_cache *out);

/*
 * The first "key=value" of a comma list; a doubled comma stands for one. key and value have
 * room for all of s. Returns the rest, NULL at the end.
 */
const char *img_next_pair(const char *s, char *key, char *value, bool *has_value);

/* --- images --- */
struct img_source {
	const char *name;            /* as typed */
	const char *fmt;             /* -f; NULL = from the image */
	bool image_opts;             /* name is "driver=...,file.filename=..." */
	bool force_share;
	struct img_cache cache;
};

/* Fills *ref with what to open; the sentence is in *e. */
int img_source_resolve(const struct img_source *s, struct image_ref *ref, struct error *e);
/* Opens the whole chain below s, read-only unless `writable`. */
int co_img_open_chain(struct reactor *r, const struct img_source *s, bool writable,
		      struct chain **out, struct error *e);
/* The same with more options; image and format are filled in here. */
int co_img_open_chain_opts(struct reactor *r, const struct img_source *s, struct chain_opts *o,
			   struct chain **out, struct error *e);
/*
 * Makes the reactor (config: NULL for the engine that img_engine() finds), runs fn(r, arg) as
 * a coroutine, gives its result: the exit status.
 */
int img_run(const struct img_common *c, const struct reactor_config *config,
	    int (*fn)(struct reactor *r, void *arg), void *arg);
/* --engine, else $QCHAIN_ENGINE, else uring; false after saying what is wrong. */
bool img_engine(const struct img_common *c, enum engine_kind *out);
/* co_img_close() says what went wrong, if anything did. */
int co_img_close(struct chain *c);

/* --- progress: qemu-img's "    (12.50/100%)\r" --- */
struct img_progress {
	bool on;
	double shown;
};
void img_progress_start(struct img_progress *p, bool on);
void img_progress_set(struct img_progress *p, uint64_t done, uint64_t total);
void img_progress_end(struct img_progress *p, bool complete);

/* --- printing trees as qemu-img does --- */
void img_json_print(const json_t *v, int depth, FILE *f);
/* "compat: 1.1" lines of an object or array, `indent` steps of four blanks in. */
void img_human_print(const json_t *v, int indent, FILE *f);

#endif
