#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# vm-programs: fio mkfs.ext4 fsck.ext4
# vm-modules: ublk_drv dm-mod
# vm-disk: 3G
# vm-timeout: 900
#
# A four-layer chain that qemu-img made is served through a real /dev/ublkbN: its content is what
# qemu-img reads, ext4 and fio's verify run on an overlay over it, discard gives space back, and a stop
# leaves nothing. The host looks at the images afterwards (test_chain_ublk.sh.host).
. /lib/guest.sh

[ -e /dev/ublk-control ] || fail "this kernel offers no ublk: the test would prove nothing"

# really_ublk NAME NODE: the device is served by ublk, not by anything else.
really_ublk()
{
	equal "kind of $1" "$(qcs --noheadings -o chain_kind "$1" | tr -d ' ')" ublk
	behind=$(qcs --noheadings -o chain_node "$1" | tr -d ' ')
	case $behind in
	/dev/ublkb*) ;;
	*) fail "the device behind $2 is '$behind', no /dev/ublkbN" ;;
	esac
	[ -b "$behind" ] || fail "$behind is no block device"
	[ -d "/sys/block/${behind#/dev/}" ] || fail "the kernel does not know ${behind#/dev/}"
	ls /sys/block | grep -q '^loop' && fail "there is a loop device: FUSE was used" || true
}

nothing_left()
{
	! ls /dev/ublkb* /dev/ublkc* 2>/dev/null || fail "ublk devices are left"
	! ls -d /sys/block/ublkb* /sys/block/dm-* 2>/dev/null || fail "block devices are left"
	! ls /dev/qchain[0-9]* /dev/qchain/* 2>/dev/null || fail "links are left"
	wait_for "end of the daemon" 10 eval "! pidof qchaind"
	! grep -E 'qchain' /proc/mounts || fail "a mount is left"
	[ ! -e /run/qchain/web/qmp.sock ] || fail "a socket is left"
}

echo "1. the chain of four is /dev/qchain0 over ublk"
qccreate web D.qcow2
[ -b /dev/qchain0 ] || fail "no /dev/qchain0"
[ -b /dev/qchain/web ] || fail "no /dev/qchain/web"
really_ublk web /dev/qchain0
qcs
qctree web
equal layers "$(qclayers --noheadings -o layer_name web | wc -l)" 4
equal size "$(blockdev --getsize64 /dev/qchain0)" "$(cat want.size)"
equal "logical block" "$(blockdev --getss /dev/qchain0)" 512
queue=/sys/block/$(basename "$(readlink -f /sys/dev/block/"$(stat -c '0x%t 0x%T' -L /dev/qchain0 |
	while read -r a b; do echo $((a)):$((b)); done)")")/queue
equal "physical block" "$(cat "$queue/physical_block_size")" 4096
equal "write cache" "$(cat "$queue/write_cache")" "write back"
[ "$(cat "$queue/discard_max_bytes")" -gt 0 ] || fail "the device takes no discard"
[ "$(cat "$queue/write_zeroes_max_bytes")" -gt 0 ] || fail "the device takes no write-zeroes"

echo "2. it reads as qemu-img reads it"
equal content "$(sha /dev/qchain0)" "$(cat want.sha)"

echo "3. a clean stop leaves nothing"
qcchange -an web
nothing_left
qcchange -ay web
equal "content after a restart" "$(sha /dev/qchain0)" "$(cat want.sha)"
qcremove --yes web 2>/dev/null && fail "an active chain was removed" || true
qcchange -an web
qcremove --yes web

echo "4. an overlay takes a file system, files and fio's verify"
qccreate -b D.qcow2 top E.qcow2
really_ublk top /dev/qchain0
mkfs.ext4 -q -F /dev/qchain0
mkdir /mnt/e
mount /dev/qchain0 /mnt/e
cp -r /usr/bin /mnt/e/bin
(cd /mnt/e && find bin -type f | sort | xargs sha256sum) >/tmp/want
fio --eta=never --name=direct --filename=/mnt/e/fio1 --size=24m --rw=randrw --bsrange=512-64k --bs_unaligned=0 \
	--direct=1 --ioengine=libaio --iodepth=16 --verify=crc32c --verify_fatal=1 --do_verify=1 \
	--randseed=7 --output=/tmp/fio.out || fail "fio verify (direct): $(cat /tmp/fio.out)"
fio --eta=never --name=sync --filename=/mnt/e/fio2 --size=16m --rw=randwrite --bsrange=1k-128k --fsync=16 \
	--ioengine=psync --verify=crc32c --verify_fatal=1 --do_verify=1 \
	--randseed=8 --output=/tmp/fio.out || fail "fio verify (sync): $(cat /tmp/fio.out)"
sync
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt/e && sha256sum -c /tmp/want >/tmp/sums) || fail "files differ: $(grep -v OK /tmp/sums | head -n 3)"

echo "5. discard gives space back"
rm /mnt/e/fio1 /mnt/e/fio2
sync
before=$(du -k E.qcow2 | cut -f1)
fstrim -v /mnt/e
umount /mnt/e
sync
after=$(du -k E.qcow2 | cut -f1)
[ "$after" -lt $((before - 20000)) ] || fail "fstrim freed too little: $before KiB before, $after KiB after"
fsck.ext4 -fn /dev/qchain0 >/tmp/fsck 2>&1 || fail "fsck: $(cat /tmp/fsck)"

echo "6. stop and start: the same bytes"
sha /dev/qchain0 >final.sha
qcchange -an top
nothing_left
qcchange -ay top
equal "content after a restart" "$(sha /dev/qchain0)" "$(cat final.sha)"
mount -o ro /dev/qchain0 /mnt/e
(cd /mnt/e && sha256sum -c /tmp/want >/tmp/sums) || fail "files differ after a restart: $(grep -v OK /tmp/sums | head -n 3)"

echo "7. a device in use is not taken away"
qcchange -an top 2>/tmp/err && fail "a mounted device was taken away"
cat /tmp/err
[ -b /dev/qchain0 ] || fail "the refused stop took the device"
umount /mnt/e
qcchange -an top
qcremove --yes top
nothing_left
no_io_errors
