#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Every source file begins with its licence, and no file has outgrown its room.
. "$(dirname "$0")/../lib.sh"
cd "$QCHAIN_SRC"

bad=0
while IFS= read -r file; do
	case $file in
	*.c | *.h | *.py | *.sh | *.cmake | CMakeLists.txt | */CMakeLists.txt | tests/run | tests/*/run | \
		tools/demo | .ci/run | udev/*.rules | udev/*.service) ;;
	*) continue ;;
	esac
	if ! head -n 2 "$file" | grep -q 'SPDX-License-Identifier: GPL-2.0-or-later'; then
		echo "$file: no SPDX line in the first two lines"
		bad=1
	fi
	if [ "$(wc -l <"$file")" -gt 900 ]; then
		echo "$file: longer than 900 lines"
		bad=1
	fi
	if [[ $file == *.[ch] ]] && grep -nE '[ 	]+$' "$file" /dev/null; then
		echo "$file: white space at the end of a line"
		bad=1
	fi
done < <(find . -type d \( -name .git -o -path './build*' \) -prune -o -type f -printf '%P\n')
[ $bad = 0 ] || fail "see above"
