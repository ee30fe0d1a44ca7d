#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A device in use is not taken away, and the refusal says who uses it: a mount, a process, another device.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/device/serve.sh"
need_program mkfs.ext4

# refuses WORDS: SIGTERM, and it says no and goes on
refuses()
{
	local said
	said=$(wc -l <one.err)
	kill -TERM "$pid"
	wait_for 20 eval "[ \$(wc -l <one.err) -gt $said ]"
	tail -n 1 one.err | grep -qF -- "$1" || fail "said '$(tail -n 1 one.err)', wanted '$1'"
	kill -0 "$pid" || fail "it stopped nevertheless"
	equal "the link" "$(readlink "$dev")" "$node"
}


qemu-img create -q -f qcow2 disk.qcow2 64M
serve one disk.qcow2
mkfs.ext4 -q "$dev"
mkdir "mnt/a b"
mount "$dev" "mnt/a b"
refuses "in use: mounted on $work/mnt/a b"
echo still >"mnt/a b/works"
sync -f "mnt/a b"
umount "mnt/a b"

exec {held}<"$dev"
refuses "in use: open in process $$ "
exec {held}<&-

over=$(losetup -f --show "$dev")
at_exit losetup -d "$over"
refuses "in use: held by ${over#/dev/}"
losetup -d "$over"
exit_commands=("${exit_commands[@]:0:1}")

stop
qemu-img check -q disk.qcow2
