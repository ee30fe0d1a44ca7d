/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * json_split.h - where one JSON value of a byte stream ends, without parsing it.
 *
 * QMP puts no frame around its messages: values follow each other, cut into
 * pieces as the socket likes. This finds the end of each, looking at every byte
 * once, however it arrives. Whether the value is right is the parser's matter.
 */
#ifndef QCHAIN_TOOLS_JSON_SPLIT_H
#define QCHAIN_TOOLS_JSON_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

struct json_split {              /* all zero at the start of a value */
	size_t pos;              /* bytes looked at */
	unsigned depth;          /* open brackets and braces */
	unsigned deepest;        /* the most of them so far: parsers recurse, and stacks end */
	bool in_string, escape;
	bool scalar;             /* number or keyword: ends before what cannot belong to it */
};

enum json_split_result {
	JSON_SPLIT_MORE,         /* no end in buf[0..len) */
	JSON_SPLIT_VALUE,        /* buf[0..pos) is a value, with white space before it */
	JSON_SPLIT_BROKEN,       /* buf[0..pos) cannot be saved (a line break inside a string) */
};

/*
 * Goes on from where the last call stopped; buf begins at the same byte each
 * time. After VALUE or BROKEN the caller drops buf[0..pos) and zeroes *s. at_end: no more will come, so a
 * scalar ends here.
 */
enum json_split_result json_split(struct json_split *s, const char *buf, size_t len, bool at_end);

#endif
