#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# vm-programs: qemu-img mkfs.ext4 fsck.ext4 mkfs.xfs dmsetup
# vm-modules: ublk_drv dm-mod loop fuse xfs
# vm-disk: 2G
# vm-timeout: 900
#
# A daemon is killed while a file system is mounted on its ublk device and written to: the kernel holds the I/O
# back, the next daemon takes the same device up again, and the writer ends well, with and
# without device-mapper above. A device that no longer fits its chain is replaced. FUSE and loop under a
# mapping: the mapping is pointed at the new loop device.
. /lib/guest.sh

[ -e /dev/ublk-control ] || fail "this kernel offers no ublk: the test would prove nothing"

field()
{
	qcs --noheadings -o "$1" "$2" | tr -d ' '
}

murder()
{
	pid=$(cat /run/qchain/web/pid)
	kill -KILL "$pid"
	wait_for "end of the daemon" 20 sh -c "! kill -0 $pid"
}

# Locks of a killed process go with its ring, a moment after it.
again()
{
	wait_for "free image" 20 qemu-img info web.qcow2
	qcchange -ay web
}

nothing_left()
{
	! ls /dev/ublkb* /dev/ublkc* 2>/dev/null || fail "ublk devices are left"
	! ls /dev/qchain[0-9]* /dev/qchain/* 2>/dev/null || fail "links are left"
	[ -z "$(dmsetup ls --target linear | grep qchain)" ] || fail "a mapping is left"
	! losetup -a | grep -q qchain || fail "a loop device is left"
	! grep -q qchain /proc/mounts || fail "a mount is left"
}

mkdir -p /mnt
for fs in ext4 xfs; do
	echo "1. $fs on ublk, killed under a writer"
	rm -f web.qcow2
	qemu-img create -q -f qcow2 web.qcow2 1G
	qccreate web web.qcow2
	equal kind "$(field chain_kind web)" ublk
	node=$(field chain_node web)
	mkfs.$fs -q /dev/qchain/web
	mount -t $fs /dev/qchain/web /mnt
	dd if=/dev/urandom of=/mnt/before bs=1M count=16 2>/dev/null
	sync
	before=$(sha /mnt/before)
	dmsetup table | grep -q '^qchain-web: .* linear' || fail "no device-mapper device over it"

	dd if=/mnt/before of=/mnt/during bs=64k conv=fsync 2>/dev/null &
	writer=$!
	murder
	kill -0 $writer || fail "the writer did not wait for the device"
	[ -b "$node" ] || fail "$node went with the daemon"
	again
	equal "the device after the crash" "$(field chain_node web)" "$node"
	wait $writer || fail "the writer lost I/O"
	equal "what was written meanwhile" "$(sha /mnt/during)" "$before"
	echo 3 >/proc/sys/vm/drop_caches
	equal "what was written before" "$(sha /mnt/before)" "$before"

	echo "2. idle, twice in a row"
	murder
	again
	murder
	again
	sync
	umount /mnt
	case $fs in ext4) fsck.ext4 -fn /dev/qchain/web >/tmp/fsck 2>&1 || fail "$(cat /tmp/fsck)" ;; esac
	mount -t $fs -o ro /dev/qchain/web /mnt
	equal "after it all" "$(sha /mnt/during)" "$before"
	umount /mnt
	no_io_errors
	qcchange -an web
	qcremove --yes web
	nothing_left
	qemu-img check -q web.qcow2 >/tmp/check 2>&1 || [ $? = 3 ] || fail "the image is damaged: $(head -n 3 /tmp/check)"
done

echo "3. a dead device whose chain has changed is replaced"
qccreate web web.qcow2
murder
wait_for "free image" 20 qemu-img info web.qcow2
qemu-img resize -q web.qcow2 1200M
qcchange -ay web
equal "new size" "$(blockdev --getsize64 /dev/qchain/web)" $((1200 * 1048576))
qcchange -an web
qcremove --yes web
nothing_left

echo "4. FUSE and loop under a mapping"
rm web.qcow2
qemu-img create -q -f qcow2 web.qcow2 40M
qccreate --device fuse web web.qcow2
dd if=/dev/urandom of=/dev/qchain/web bs=1M count=40 conv=fsync 2>/dev/null
equal kind "$(field chain_kind web)" fuse
dmsetup table | grep -q '^qchain-web: .* linear 7:' || fail "no mapping over a loop device"
want=$(sha /dev/qchain/web)
murder
again
equal "content after the crash" "$(sha /dev/qchain/web)" "$want"
qcchange -an web
qcremove --yes web
nothing_left
