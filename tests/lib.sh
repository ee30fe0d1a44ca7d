# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the test scripts share (bash): a private folder with a private run, etc and state folder in it, the
# programs under test in PATH, and everything taken away at the end.
#
#	#!/bin/bash
#	. "$(dirname "$0")/../lib.sh"
#
# Then: $work is an empty folder on a real disk (O_DIRECT works there) and the current one.
# at_exit COMMAND... adds a clean-up, run in reverse order whatever happens.
set -euo pipefail

: "${QCHAIN_SRC:=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
: "${QCHAIN_BIN:=$QCHAIN_SRC/build/release/bin}"
: "${QCHAIN_TESTBIN:=$(dirname "$QCHAIN_BIN")/tests}"
export QCHAIN_SRC QCHAIN_BIN QCHAIN_TESTBIN
export PATH=$QCHAIN_BIN:$PATH:/usr/sbin:/sbin
export LC_ALL=C

work=$(mktemp -d "${TMPDIR:-/var/tmp}/qchain-test.XXXXXX")
export QCHAIN_RUNDIR=$work/run QCHAIN_ETCDIR=$work/etc QCHAIN_STATEDIR=$work/state
declare -a exit_commands=()

at_exit()
{
	exit_commands+=("$(printf '%q ' "$@")")
}

run_exit_commands()
{
	local status=$? i pid
	set +e
	for ((i = ${#exit_commands[@]} - 1; i >= 0; i--)); do
		eval "${exit_commands[i]}"
	done
	# A daemon that a failed test left behind must not hold its files or its device.
	for pid in "$QCHAIN_RUNDIR"/*/pid; do
		[ -s "$pid" ] && kill -INT "$(cat "$pid")" 2>/dev/null &&
			timeout 10 tail --pid="$(cat "$pid")" -f /dev/null
	done
	cd /
	rm -rf "$work"
	exit $status
}
trap run_exit_commands EXIT
trap 'exit 130' INT TERM
cd "$work"

fail()
{
	echo "FAIL ($(basename "$0"):${BASH_LINENO[0]}): $*" >&2
	exit 1
}

# This machine can not run the test: one sentence, and ctest counts it as skipped.
skip()
{
	echo "skipped: $*"
	exit 77
}

need_root()
{
	[ "$(id -u)" = 0 ] || skip "needs root"
}

need_program()
{
	local p
	for p in "$@"; do
		command -v "$p" >/dev/null || skip "$p is not installed (tools/packages.sh test)"
	done
}

# equal WHAT GOT WANTED
equal()
{
	[ "$2" = "$3" ] || fail "$1: got '$2', wanted '$3'"
}

# status N COMMAND...: COMMAND ends with exit status N. Its output is in $work/out and $work/err.
status()
{
	local want=$1 got=0
	shift
	"$@" >"$work/out" 2>"$work/err" </dev/null || got=$?
	[ $got = "$want" ] || fail "'$*' ended with status $got, wanted $want; it said: $(cat "$work/out" "$work/err")"
}

# refused N WORDS COMMAND...: COMMAND fails with status N and exactly one line on stderr that holds WORDS.
refused()
{
	local want=$1 words=$2
	shift 2
	status "$want" "$@"
	[ "$(wc -l <"$work/err")" = 1 ] || fail "'$*' should say one line on stderr, said: $(cat "$work/err")"
	grep -qF -- "$words" "$work/err" || fail "'$*' said '$(cat "$work/err")', wanted '$words' in it"
}

# wait_for SECONDS COMMAND...: until COMMAND succeeds.
wait_for()
{
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "waited in vain for: $*"
		read -rt 0.05 <> <(:) || true
	done
}

sha()
{
	sha256sum "$1" | cut -d' ' -f1
}
