#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# A chain read through its device is what qemu-img makes of it, with both engines and both caches;
# the limits say what the chain can do; a stop leaves nothing; a read-only device takes no write.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/device/serve.sh"
need_program qemu-io

qemu-img create -q -f qcow2 base.qcow2 200M
qemu-io -f qcow2 -c "write -P 1 0 50M" -c "write -P 2 100M 30M" base.qcow2 >io.log
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o cluster_size=4k mid.qcow2
qemu-io -f qcow2 -c "write -P 3 10M 123k" -c "write -z 20M 5M" -c "write -P 4 111M 4608" mid.qcow2 >io.log
qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 -o extended_l2=on,cluster_size=128k top.qcow2 200M
qemu-io -f qcow2 -c "write -P 5 512 512" -c "write -P 6 199M 1M" -c "discard 30M 1M" top.qcow2 >io.log
qemu-img convert -f qcow2 -O raw top.qcow2 want.raw

for options in "" "cache=writeback" "engine=aio" "ro"; do
	# shellcheck disable=SC2086
	serve one top.qcow2 $options
	equal "size ($options)" "$(blockdev --getsize64 "$dev")" "$(stat -c %s want.raw)"
	cmp "$dev" want.raw || fail "content differs ($options)"
	# odd places and lengths, past the page cache
	for at in 1 20479 20480 227327 409599; do
		dd if="$node" of=got bs=512 skip=$at count=7 iflag=direct status=none
		dd if=want.raw of=want bs=512 skip=$at count=7 status=none
		cmp got want || fail "sector $at differs ($options)"
	done
	stop
done

serve one top.qcow2
equal "logical block" "$(queue_limit logical_block_size)" 512
equal "write cache" "$(queue_limit write_cache)" "write back"
equal "discard granularity" "$(queue_limit discard_granularity)" 4096
[ "$(queue_limit discard_max_bytes)" -gt 0 ] || fail "no discard"
[ "$(queue_limit write_zeroes_max_bytes)" -gt 0 ] || fail "no write-zeroes"
[ "$(queue_limit nr_requests)" -ge 64 ] || fail "a queue of $(queue_limit nr_requests) only"
equal "loop reads past the page cache" "$(losetup -n -O DIO "$node" | tr -d ' ')" 1
stop

serve one top.qcow2 ro
equal "read-only flag" "$(blockdev --getro "$dev")" 1
! dd if=/dev/zero of="$dev" bs=512 count=1 status=none 2>/dev/null || fail "a read-only device took a write"
! blkdiscard -f "$dev" 2>/dev/null || fail "a read-only device took a discard"
stop
qemu-img compare -q -f raw -F qcow2 want.raw top.qcow2 || fail "reading changed the chain"
qemu-img check -q top.qcow2
