#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# cppcheck finds nothing in any room. Findings that are wrong stand in cppcheck.txt, with a reason.
. "$(dirname "$0")/../lib.sh"
need_program cppcheck
cd "$QCHAIN_SRC"
cppcheck --quiet --error-exitcode=1 --std=c11 --language=c --inline-suppr -j "$(nproc)" \
	--enable=warning,performance,portability --suppress=missingIncludeSystem \
	--suppressions-list=tests/lint/cppcheck.txt --suppress=unmatchedSuppression \
	--library=tests/lint/jansson.cfg -D_GNU_SOURCE -DQCHAIN_VERSION='""' -I. \
	io qcow jobs dm tools
