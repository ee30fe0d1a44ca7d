#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# vm-programs: fio mkfs.xfs xfs_repair
# vm-modules: ublk_drv dm-mod loop xfs
# vm-disk: 3G
# vm-timeout: 900
#
# XFS on an overlay, written through ublk and read through FUSE + loop, then the other way round: both
# ways serve the same bytes on one kernel, each under device-mapper.
. /lib/guest.sh

kind_is()
{
	equal "kind" "$(qcs --noheadings -o chain_kind x | tr -d ' ')" "$1"
	case $1 in
	ublk) ls /sys/block | grep -q '^ublkb' || fail "no ublk device" ;;
	fuse) ! ls /sys/block | grep '^ublkb' || fail "there is a ublk device"
	      grep -q ' fuse' /proc/mounts || fail "no FUSE mount" ;;
	esac
	ls /sys/block | grep -q '^dm-' || fail "no device-mapper device"
}

stop()
{
	qcchange -an x
	qcremove --yes x
	! ls -d /sys/block/ublkb* /sys/block/dm-* /dev/qchain0 2>/dev/null || fail "something is left"
	! grep -E ' fuse' /proc/mounts || fail "a FUSE mount is left"
}

verify()
{
	fio --eta=never --name=v --filename=/mnt/$1 --size=24m --rw=randwrite --bsrange=4k-64k --direct=1 \
		--ioengine=libaio --iodepth=8 --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=$2 \
		--output=/tmp/fio.out || fail "fio verify: $(cat /tmp/fio.out)"
}

echo "1. base: XFS through ublk"
qccreate -L 400M --device ublk x base.qcow2
kind_is ublk
mkfs.xfs -q /dev/qchain0
mount -t xfs /dev/qchain0 /mnt
verify one 1
sha /mnt/one >/tmp/one
umount /mnt
xfs_repair -n /dev/qchain0 >/tmp/xfs 2>&1 || fail "xfs_repair: $(tail -n 5 /tmp/xfs)"
sha /dev/qchain0 >/tmp/all
stop

echo "2. overlay: the same bytes through FUSE + loop, and more"
qccreate -b base.qcow2 --device fuse x top.qcow2
kind_is fuse
equal content "$(sha /dev/qchain0)" "$(cat /tmp/all)"
mount -t xfs /dev/qchain0 /mnt
equal "file 'one'" "$(sha /mnt/one)" "$(cat /tmp/one)"
verify two 2
rm /mnt/one
fstrim /mnt
sha /mnt/two >/tmp/two
umount /mnt
sha /dev/qchain0 >/tmp/all
stop

echo "3. the overlay through ublk again"
qccreate --device ublk x top.qcow2
kind_is ublk
equal content "$(sha /dev/qchain0)" "$(cat /tmp/all)"
mount -t xfs /dev/qchain0 /mnt
equal "file 'two'" "$(sha /mnt/two)" "$(cat /tmp/two)"
[ ! -e /mnt/one ] || fail "a deleted file is back"
umount /mnt
xfs_repair -n /dev/qchain0 >/tmp/xfs 2>&1 || fail "xfs_repair: $(tail -n 5 /tmp/xfs)"
stop
for image in base top; do
	qcimg check $image.qcow2 || fail "qcimg check $image.qcow2"
done
no_io_errors
