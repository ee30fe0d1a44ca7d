#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# ext4 and XFS on a device: made, filled, unmounted, checked, mounted again after a restart, and the
# images are sound for qemu-img.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/device/serve.sh"
need_program mkfs.ext4 e2fsck mkfs.xfs xfs_repair

# fill: files of many sizes from what every machine has
fill()
{
	mkdir "$work/mnt/$1"
	find /usr/bin /usr/lib -xdev -type f -size -600k 2>/dev/null | head -n 700 |
		xargs cp --backup=numbered -t "$work/mnt/$1" 2>/dev/null || true
	(cd "$work/mnt/$1" && find . -type f -print0 | xargs -0 sha256sum) >"$work/$1.sums"
	[ "$(wc -l <"$work/$1.sums")" -gt 200 ] || fail "too few files to prove anything"
}

# same NAME: every file is what it was
same()
{
	(cd "$work/mnt/$1" && sha256sum --quiet -c "$work/$1.sums") || fail "files of '$1' changed"
}

check_fs()
{
	case $fs in
	ext4) e2fsck -fn "$dev" >fsck.log 2>&1 ;;
	xfs) xfs_repair -n "$dev" >fsck.log 2>&1 ;;
	esac || fail "$fs is damaged: $(tail -n 3 fsck.log)"
}

for fs in ext4 xfs; do
	rm -f base.qcow2 top.qcow2
	qemu-img create -q -f qcow2 base.qcow2 700M
	serve fs base.qcow2
	mkfs.$fs -q "$dev"
	mount -t $fs "$dev" mnt
	fill first
	same first
	umount mnt
	check_fs
	stop
	qemu-img check -q base.qcow2 || fail "qemu-img finds faults in the base ($fs)"

	qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o extended_l2=on,cluster_size=128k top.qcow2
	before=$(sha base.qcow2)
	serve fs top.qcow2
	mount -t $fs "$dev" mnt
	same first
	fill second
	rm -r mnt/first
	fstrim mnt
	sync -f mnt
	same second
	umount mnt
	check_fs
	sha256sum <"$dev" >want.sum
	stop
	equal "the backing file" "$(sha base.qcow2)" "$before"
	qemu-img check -q top.qcow2 || fail "qemu-img finds faults in the overlay ($fs)"
	qemu-img convert -f qcow2 -O raw top.qcow2 flat.raw
	equal "content for qemu-img ($fs)" "$(sha256sum <flat.raw)" "$(cat want.sum)"

	serve fs top.qcow2 engine=aio
	mount -t $fs "$dev" mnt
	same second
	umount mnt
	stop
done
