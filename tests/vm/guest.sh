# SPDX-License-Identifier: GPL-2.0-or-later
# Small helpers for scripts that run in the test VM (tests/vm/run); busybox sh.

# fail WORDS: ends the script with one line that says what was wrong.
fail()
{
	echo "FAIL: $*"
	exit 1
}

# wait_for WHAT SECONDS COMMAND...: runs COMMAND until it succeeds; fails after SECONDS.
wait_for()
{
	what=$1 left=$(($2 * 10))
	shift 2
	until "$@" >/dev/null 2>&1; do
		left=$((left - 1))
		[ $left -gt 0 ] || fail "no $what in time"
		usleep 100000
	done
}

# equal WHAT GOT WANTED
equal()
{
	[ "$2" = "$3" ] || fail "$1: got '$2', wanted '$3'"
}

# sha FILE-OR-DEVICE: its checksum, read past the page cache where the file can be a device.
sha()
{
	sha256sum "$1" | cut -d' ' -f1
}

# refused WORDS COMMAND...: COMMAND must fail with one line on stderr that contains WORDS.
refused()
{
	words=$1
	shift
	if "$@" >/tmp/refused.out 2>/tmp/refused.err; then
		fail "'$*' was not refused"
	fi
	grep -q -- "$words" /tmp/refused.err || fail "'$*' said: $(cat /tmp/refused.err) (wanted: $words)"
}

# no_io_errors: the kernel saw no failed request.
no_io_errors()
{
	! dmesg | grep -E 'I/O error|EXT4-fs error|XFS.*(Corruption|error)' || fail "the kernel reports I/O errors"
}
