#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Every shell script parses, and those that are run have their run bit.
. "$(dirname "$0")/../lib.sh"
cd "$QCHAIN_SRC"

bad=0
while IFS= read -r file; do
	case $(head -c 40 "$file" | head -n 1 | tr -d '\0') in
	'#!/bin/bash'*) shell=bash ;;
	'#!/bin/sh'* | '#!/bin/busybox sh'*) shell=sh ;;
	*) continue ;;
	esac
	$shell -n "$file" || bad=1
	[ -x "$file" ] || { echo "$file: a script without the run bit"; bad=1; }
done < <(find . -type d \( -name .git -o -path './build*' \) -prune -o -type f -print)
[ $bad = 0 ] || fail "see above"
