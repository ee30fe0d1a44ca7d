/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fuzz.h - what the fuzz targets share: files in memory, a reactor that replays, and a guest.
 *
 * A run is a pure function of its input: the simulated engine shuffles completions from a fixed
 * seed and has no threads and no clock. Images live in memfds, and while a run is
 * on no other file of the machine can be opened: a damaged image may name any.
 *
 * Invariant: nothing is left of a run but the memfds, empty.
 */
#ifndef QCHAIN_TESTS_FUZZ_H
#define QCHAIN_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

#include "io/reactor.h"
#include "qcow/chain.h"

/* The files of a run, by what they are to the image under test; each is /proc/self/fd/<100 + its number>. */
enum fuzz_file { FUZZ_IMAGE, FUZZ_DATA, FUZZ_BACKING, FUZZ_FILES };

/* Once per process; silences the log unless QCHAIN_FUZZ_LOG is set. */
void fuzz_init(void);
const char *fuzz_path(enum fuzz_file f);
/* Replaces all that the file holds. */
void fuzz_fill(enum fuzz_file f, const void *data, size_t len);
/* len bytes of it from off; zeros beyond its end. */
void fuzz_peek(enum fuzz_file f, uint64_t off, void *buf, size_t len);
/* All that it holds; the caller frees it. */
uint8_t *fuzz_take(enum fuzz_file f, size_t *len);

/* A reactor of the run. One that waits for nothing is a crash. */
struct reactor *fuzz_reactor_new(uint64_t seed);
int fuzz_reactor_run(struct reactor *r, int (*fn)(struct reactor *r, void *arg), void *arg);
void fuzz_reactor_free(struct reactor *r);
/* All three: fn in a coroutine of a new reactor. */
int fuzz_run(int (*fn)(struct reactor *r, void *arg), void *arg, uint64_t seed);

/*
 * Uses the image as a guest would: reads and writes at a number of places, zeroes, discards,
 * flushes; some requests side by side. What comes out is not looked at: errors are
 * the right answer to damage. Returns after co_chain_close().
 */
void co_fuzz_guest(struct chain *c, uint64_t seed);
/* Reads everywhere there is something, within bounds, and asks for the status of it all. */
void co_fuzz_read(struct chain *c);
/* Checks the image as a tool would, with `fix` of check.h. Returns corruptions and leaks found, or -errno. */
int64_t co_fuzz_check(struct reactor *r, unsigned fix);

/* As FUZZ_REQUIRE(cond), for what a run must never see. */
#define FUZZ_REQUIRE(cond, ...) \
	do { \
		if (!(cond)) \
			fuzz_die(__FILE__, __LINE__, #cond, __VA_ARGS__); \
	} while (0)
void fuzz_die(const char *file, int line, const char *cond, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 4, 5)));
/* An error that was returned must be one sentence in one line. */
void fuzz_require_sentence(int rc, const struct error *e);

/* The interface of libFuzzer. */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#endif
