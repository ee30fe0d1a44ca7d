# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the device tests share (bash, after lib.sh): a chain served by device_serve (serve.c), its links in
# $work/dev so that nothing of a live installation is touched.
#
#	serve NAME IMAGE [option]...    starts it; sets $dev, $by_name, $node, $pid
#	serve_fails WORDS NAME IMAGE [option]...
#	stop                            SIGTERM, and it must end well
#	nothing_left NAME

need_root
need_program fio qemu-img losetup
[ -e /dev/fuse ] && [ -e /dev/loop-control ] || skip "this kernel has no FUSE or no loop devices"

export QCHAIN_DEVDIR=$work/dev
mkdir -p "$QCHAIN_DEVDIR" "$work/mnt"

declare -a servers=()

# By now the daemon must be gone; if a failed test left it, its device must not stay.
clean_up()
{
	local p
	umount "$work/mnt" 2>/dev/null
	for p in "${servers[@]}"; do
		kill -INT "$p" 2>/dev/null && timeout 20 tail --pid="$p" -f /dev/null
		kill -KILL "$p" 2>/dev/null
	done
	for p in $(losetup -n -O NAME,BACK-FILE -l 2>/dev/null | awk -v w="$work/" 'index($2, w) == 1 { print $1 }'); do
		losetup -d "$p"
	done
	# by name: the shell does not see the folder of a dead mount
	for p in $(awk -v w="$work/" 'index($2, w) == 1 { print $2 }' /proc/mounts); do
		umount -l "$p"
	done
}
at_exit clean_up

launch()
{
	local name=$1 image=$2
	shift 2
	mkdir -p "$work/run-$name"
	exec {from}< <(exec "$QCHAIN_TESTBIN/device_serve" "$image" "$name" "$work/run-$name" kind=fuse "$@" \
		2>"$work/$name.err" </dev/null)
	pid=$!
	servers+=("$pid")
}

serve()
{
	local word
	launch "$@"
	read -r word dev by_name node kind dm <&"$from" || fail "no device for $1: $(cat "$work/$1.err")"
	equal "first word of device_serve" "$word" ready
	equal kind "$kind" fuse
	[ -b "$dev" ] && [ -b "$by_name" ] && [ -b "$node" ] || fail "no block device at $dev, $by_name or $node"
	eval "pid_$1=$pid from_$1=$from node_$1=$node dev_$1=$dev seq_$1=$(cat "/sys/block/${node#/dev/}/diskseq")"
	serving=$1
}

serve_fails()
{
	local words=$1 word
	shift
	launch "$@"
	! read -r word <&"$from" || fail "a device was made: $word"
	wait "$pid" && fail "it should have failed"
	[ "$(wc -l <"$work/$1.err")" = 1 ] || fail "more than one line: $(cat "$work/$1.err")"
	grep -qF -- "$words" "$work/$1.err" || fail "said '$(cat "$work/$1.err")', wanted '$words'"
}

# stop [NAME]: the last one served, or NAME.
stop()
{
	local name=${1:-$serving} p f word
	p=pid_$name f=from_$name
	kill -TERM "${!p}"
	read -r word <&"${!f}" || fail "did not stop well: $(cat "$work/$name.err")"
	equal "last word of device_serve" "$word" stopped
	wait "${!p}" || fail "device_serve ended with status $?"
	nothing_left "$name"
}

nothing_left()
{
	local n=node_$1 d=dev_$1 q=seq_$1
	! grep -qF " $work/run-$1/fuse " /proc/mounts || fail "the mount is left"
	[ ! -e "$work/run-$1/fuse" ] || fail "the mount point is left"
	! losetup -n -O BACK-FILE -l | grep -qF "$work/run-$1/" || fail "a loop device is left"
	# Somebody else may have bound the same loop device since: then its sequence number is another.
	[ ! -e "/sys/block/${!n#/dev/}/loop" ] || [ "$(cat "/sys/block/${!n#/dev/}/diskseq")" != "${!q}" ] ||
		fail "${!n} is still bound"
	[ ! -L "$QCHAIN_DEVDIR/qchain/$1" ] || fail "the link by name is left"
	[ ! -L "${!d}" ] || fail "the link by number is left"
}

queue_limit()
{
	cat "/sys/block/${node#/dev/}/queue/$1"
}
