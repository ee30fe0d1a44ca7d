#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The one place that knows which Debian packages qchain needs, and installs the missing ones.
#
#	tools/packages.sh [--print] [build] [demo] [test] [bench]
#
# Sets: build (to compile), demo (to run tools/demo), test (to run every suite of tests/run),
# bench (peers to measure against). A set includes `build`. Nothing is done, no root asked
# for and no network used, when all of a set is installed.
set -euo pipefail

build=(gcc libc6-dev cmake ninja-build pkg-config
	liburing-dev libaio-dev libfuse3-dev libdevmapper-dev libjansson-dev
	libzstd-dev zlib1g-dev libcmocka-dev)
demo=(fuse3 kmod e2fsprogs mount util-linux)
bench=(fuse3 mount util-linux fio qemu-utils qemu-system-common python3)
test=("${demo[@]}" clang libclang-rt-dev cppcheck python3 cpio xz-utils busybox-static xfsprogs fio procps
	qemu-utils qemu-system-x86)

die()
{
	echo "packages: $*" >&2
	exit 1
}

# Prints those of the arguments that are not installed.
missing()
{
	local have
	have=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null |
		awk '$1 == "installed" { printf "%s ", $2 }')"
	for p in "$@"; do
		[[ $have == *" $p "* ]] || echo "$p"
	done
}

install_missing()
{
	local want log
	mapfile -t want < <(missing "$@")
	[ ${#want[@]} -gt 0 ] || return 0
	[ "$(id -u)" = 0 ] || die "not installed: ${want[*]}; run this as root, or: sudo apt-get install ${want[*]}"
	echo "packages: installing ${want[*]}"
	log=$(mktemp)
	trap 'rm -f "$log"' EXIT
	export DEBIAN_FRONTEND=noninteractive
	# An old list names versions that the archive no longer has, so the list comes first.
	apt-get -q update >"$log" 2>&1 ||
		echo "packages: 'apt-get update' reported: $(grep -m1 -E '^(E|W):' "$log" || echo failure); going on with the lists that are there" >&2
	if ! apt-get -q install -y --no-install-recommends "${want[@]}" >"$log" 2>&1; then
		tail -n 15 "$log" >&2
		die "apt-get could not install ${want[*]} (its last lines are above)"
	fi
	mapfile -t want < <(missing "$@")
	[ ${#want[@]} -eq 0 ] || die "apt-get reported success but these are still missing: ${want[*]}"
}

print=false
names=("${build[@]}")
for arg in "$@"; do
	case $arg in
	--print) print=true ;;
	build) ;;
	demo) names+=("${demo[@]}") ;;
	test) names+=("${test[@]}") ;;
	bench) names+=("${bench[@]}") ;;
	*) echo "packages: unknown set '$arg'; the sets are build, demo, test, bench" >&2; exit 2 ;;
	esac
done
if $print; then
	printf '%s\n' "${names[@]}" | sort -u
	exit 0
fi
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
	die "this is not a Debian system (no apt-get); install the equivalents of: ${names[*]}"
install_missing "${names[@]}"
