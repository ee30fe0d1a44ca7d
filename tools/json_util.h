/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * json_util.h - building JSON without leaks: file names are bytes, JSON is UTF-8.
 */
#ifndef QCHAIN_TOOLS_JSON_UTIL_H
#define QCHAIN_TOOLS_JSON_UTIL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* A string value from bytes that may not be UTF-8 (each wrong byte becomes U+FFFD); NULL gives null. */
json_t *json_text(const char *bytes);
/* Setters that abort without memory; put_text leaves the key out when the text is NULL. */
void put(json_t *object, const char *key, json_t *value);
void put_text(json_t *object, const char *key, const char *text);
void put_int(json_t *object, const char *key, uint64_t value);
void put_bool(json_t *object, const char *key, bool value);

/* Getters for what another process sent: a default when absent or of another type. */
const char *get_text(const json_t *object, const char *key);   /* "" when absent */
uint64_t get_int(const json_t *object, const char *key);       /* 0 */
bool get_bool(const json_t *object, const char *key);          /* false */

#endif
