#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# cppcheck finds nothing in any room. A finding that is wrong is suppressed where it stands, with a reason.
. "$(dirname "$0")/../lib.sh"
need_program cppcheck
cd "$QCHAIN_SRC"
cppcheck --quiet --error-exitcode=1 --std=c11 --language=c --inline-suppr -j "$(nproc)" \
	--enable=warning,performance,portability --suppress=missingIncludeSystem \
	--suppress=normalCheckLevelMaxBranches -D_GNU_SOURCE -DQCHAIN_VERSION='""' -I. \
	io qcow jobs dm tools
