#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A daemon that is killed: I/O fails at once and nothing hangs; the next start clears away the dead
# mount, loop device and links, with and without a file system still mounted on the device.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/device/serve.sh"
need_program mkfs.ext4

murder()
{
	kill -KILL "$pid"
	wait "$pid" || true
	# the kernel takes a dead process's ring apart, and with it gives back the locks, a moment later
	wait_for 10 qemu-img info disk.qcow2
}

qemu-img create -q -f qcow2 disk.qcow2 100M

# idle
serve one disk.qcow2
dd if=/dev/urandom of=data bs=1M count=20 status=none
dd if=data of="$dev" bs=1M conv=fsync status=none
dead=$node
murder
! timeout 20 dd if="$dead" of=/dev/null bs=4k count=1 iflag=direct status=none 2>err || fail "a dead device was read"
grep -q "Input/output error" err || fail "a dead device said: $(cat err)"
[ -L "$QCHAIN_DEVDIR/qchain0" ] || fail "the link should still dangle"
serve one disk.qcow2
equal "number after a crash" "$dev" "$QCHAIN_DEVDIR/qchain0"
cmp -n "$(stat -c %s data)" "$dev" data || fail "flushed bytes are lost"
[ "$dead" = "$node" ] || [ ! -e "/sys/block/${dead#/dev/}/loop" ] || fail "$dead is still bound"
equal "dead mounts" "$(grep -c " $work/run-one/fuse " /proc/mounts)" 1
stop

# under load: the writer gets an error and ends
serve one disk.qcow2
fio --name=load --filename="$node" --direct=1 --rw=randwrite --bs=16k --iodepth=32 --ioengine=libaio \
	--size=90M --time_based --runtime=60 --output=fio.log 2>/dev/null &
load=$!
wait_for 20 eval "[ \$(awk '{ print \$7 }' /sys/block/${node#/dev/}/stat) -gt 2000 ]"
murder
timeout 20 tail --pid=$load -f /dev/null || fail "the writer hangs on a dead device"
wait $load && fail "the writer saw no error"
serve one disk.qcow2
stop
qemu-img check -q disk.qcow2 || [ $? = 3 ] || fail "the image is damaged after the crash"

# with a file system mounted: the old device stays dead until it is unmounted, the new one is another
serve one disk.qcow2
mkfs.ext4 -q -F "$dev"
mount "$dev" mnt
echo kept >mnt/file
sync -f mnt
murder
dead=$node
serve one disk.qcow2
[ "$node" != "$dead" ] || fail "a device in use was bound anew"
equal "name" "$(readlink "$by_name")" "$node"
umount mnt
[ ! -e "/sys/block/${dead#/dev/}/loop" ] || wait_for 10 test ! -e "/sys/block/${dead#/dev/}/loop"
mount "$dev" mnt
equal "a synced file" "$(cat mnt/file)" kept
umount mnt
stop
