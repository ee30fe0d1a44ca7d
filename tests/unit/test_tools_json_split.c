// SPDX-License-Identifier: GPL-2.0-or-later
/* Where JSON values end in a stream, however the stream is cut. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tools/json_split.h"

/* Feeds text byte by byte from a heap copy of just that many bytes; writes the values found, each in <>; '!' = broken. */
static void split_all(const char *text, size_t step, char *out)
{
	struct json_split s = { 0 };
	size_t total = strlen(text), begin = 0;

	*out = '\0';
	for (size_t end = 0; end <= total; end += step) {
		bool last = end + step > total;
		enum json_split_result res;
		char *copy;

		if (last)
			end = total;
		do {
			copy = malloc(end - begin + 1);
			memcpy(copy, text + begin, end - begin);
			res = json_split(&s, copy, end - begin, last);
			free(copy);
			assert_true(s.pos <= end - begin);
			if (res == JSON_SPLIT_MORE)
				break;
			if (res == JSON_SPLIT_VALUE)
				sprintf(out + strlen(out), "<%.*s>", (int)s.pos, text + begin);
			else
				strcat(out, "!");
			begin += s.pos;
			memset(&s, 0, sizeof(s));
		} while (begin < end);
		if (last)
			break;
	}
}

static void values_end_where_they_should(void **state)
{
	static const char *const cases[][2] = {
		{ "{\"a\": 1}{\"b\":[{}]}", "<{\"a\": 1}><{\"b\":[{}]}>" },
		{ "{\"}\": \"\\\"}{\"} [1]", "<{\"}\": \"\\\"}{\"}>< [1]>" },
		{ "12 true{}", "<12>< true><{}>" },
		{ "\"a b\"\"c\"", "<\"a b\"><\"c\">" },
		{ "}{}", "<}><{}>" },
		{ ",:", "<,><:>" },
		{ "{\"a\n{}", "!<{}>" },
		{ "{ \"a\": [1, {\"b\": 2}", "" },
		{ "nul", "<nul>" },
		{ "  \r\n ", "" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		for (size_t step = 1; step < 30; step += 7) {
			char out[256];

			split_all(cases[i][0], step, out);
			assert_string_equal(out, cases[i][1]);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(values_end_where_they_should),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
