/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * log.h - the daemon's log: lines on stderr (with systemd's <N> priorities when
 * stderr is the journal) or in syslog once the process is in the background.
 *
 * Invariant: logging never allocates and never blocks on qchain's own devices.
 */
#ifndef QCHAIN_IO_LOG_H
#define QCHAIN_IO_LOG_H

#include <stdbool.h>

enum log_level { LOG_LVL_ERROR, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

/* Sets the program name shown, the most verbose level let through, and where lines go. */
void log_setup(const char *ident, enum log_level max, bool to_syslog);
void log_write(enum log_level lvl, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LVL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_LVL_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_LVL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LVL_DEBUG, __VA_ARGS__)

#endif
