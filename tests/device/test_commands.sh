#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The commands with a real device: numbers, a device in use, signals, and a daemon that is killed under a mount.
. "$(dirname "$0")/../lib.sh"
need_root
need_program mkfs.ext4 losetup

export QCHAIN_DEVDIR=$work/dev
mkdir mnt dev
loops_before=$(losetup -nO NAME | sort)
at_exit umount -q mnt

if ! qccreate -L 64M cmd-a a.qcow2 >out 2>err; then
	grep -q 'ublk\|FUSE\|fuse' err || fail "qccreate: $(cat err)"
	skip "$(cat err)"
fi
node=$(qcs --noheadings -o device cmd-a)
number=$(qcs --noheadings -o number cmd-a)
equal "the device" "$node" "$work/dev/qchain$number"
equal "what qccreate says" "$(cat out)" "Chain 'cmd-a' (1 layer, 64.00m) is $node ($(qcs --noheadings -o kind cmd-a))."
equal "size of the device" "$(blockdev --getsize64 "$node")" $((64 << 20))
grep -qx "number = $number" "$QCHAIN_ETCDIR/chains/cmd-a.conf" || fail "the definition does not keep the number"

# A number that is taken is refused; one that is asked for is given.
refused 1 "$node is taken" qccreate -N "$number" -L 1M cmd-b b.qcow2
[ ! -e b.qcow2 ] && [ ! -e "$QCHAIN_ETCDIR/chains/cmd-b.conf" ] || fail "left something"
status 0 qccreate -N 4711 -L 1M cmd-b b.qcow2
[ -b dev/qchain4711 ] && [ -b dev/qchain/cmd-b ] || fail "no dev/qchain4711"
status 0 qcremove -fy cmd-b
[ ! -e dev/qchain4711 ] && [ ! -e dev/qchain/cmd-b ] || fail "links are left"

# In use: refused, and it goes on working.
mkfs.ext4 -q "$node"
mount "$node" mnt
equal "open" "$(qcs --noheadings -o open cmd-a)" yes
equal "used by" "$(qcs --noheadings -o used_by cmd-a)" "mounted on $work/mnt"
refused 1 "qcchange: chain 'cmd-a': device $node is in use: mounted on $work/mnt; unmount or close it first" qcchange -an cmd-a
refused 1 "in use: mounted on $work/mnt" qcremove -fy cmd-a
pid=$(qcs --noheadings -o pid cmd-a)
kill -TERM "$pid"
echo content >mnt/file
sync -f mnt/file
equal "after SIGTERM" "$(qcs --noheadings -o active cmd-a)" yes
umount mnt
status 0 qcchange -an cmd-a
[ ! -e "$node" ] || fail "$node is left"
equal "run directory" "$(ls "$QCHAIN_RUNDIR")" ""

# The same number again, the same content.
status 0 qcchange -ay cmd-a
equal "the device, again" "$(qcs --noheadings -o device cmd-a)" "$node"
mount "$node" mnt
equal "content" "$(cat mnt/file)" content

# Two signals: it ends as soon as the mount is gone.
pid=$(qcs --noheadings -o pid cmd-a)
kill -TERM "$pid"
status 0 qcs cmd-a
kill -TERM "$pid"
umount mnt
wait_for 20 test ! -e "$QCHAIN_RUNDIR/cmd-a"

# Killed: the next daemon takes away what is left.
status 0 qcchange -ay cmd-a
kill -KILL "$(qcs --noheadings -o pid cmd-a)"
wait_for 20 flock -n "$QCHAIN_RUNDIR/cmd-a/pid" true
equal "active after kill" "$(qcs --noheadings -o active cmd-a)" no
status 0 qcchange -ay cmd-a
mount "$(qcs --noheadings -o device cmd-a)" mnt
equal "content" "$(cat mnt/file)" content
umount mnt
status 0 qcremove -fy cmd-a
equal "loop devices" "$(losetup -nO NAME | sort)" "$loops_before"
qcimg check a.qcow2 >/dev/null || fail "the image is not sound: $(qcimg check a.qcow2)"
