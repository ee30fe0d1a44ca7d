#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# fio writes blocks of all sizes with many in flight, trims some, and finds every byte again; discarded and
# zeroed ranges read as zeros, and give their space back.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/device/serve.sh"

job()
{
	fio --name=verify --filename="$dev" --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
		--group_reporting --output=fio.log "$@" || fail "fio: $(grep -m 3 -E 'verify|error' fio.log)"
}

qemu-img create -q -f qcow2 base.qcow2 256M
for options in "" "engine=aio"; do
	rm -f top.qcow2
	qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 -o extended_l2=on,cluster_size=128k top.qcow2
	# shellcheck disable=SC2086
	serve one top.qcow2 $options
	job --ioengine=libaio --rw=randwrite --bsrange=512-300k --blockalign=512 --iodepth=32 --size=128M
	job --ioengine=libaio --rw=write --bs=1M --iodepth=8 --offset=128M --size=64M
	job --ioengine=libaio --rw=randwrite --bs=4k --iodepth=64 --size=16M --fsync=64
	job --ioengine=psync --rw=randwrite --bssplit=512/30:4k/40:64k/30 --offset=192M --size=32M --numjobs=1

	blkdiscard -o 1M -l 32M "$dev"
	cmp -n $((32 << 20)) -i $((1 << 20)):0 "$dev" /dev/zero || fail "discarded bytes are not zero ($options)"
	blkdiscard -z -o $((40 << 20)) -l $((8 << 20)) "$dev"
	cmp -n $((8 << 20)) -i $((40 << 20)):0 "$dev" /dev/zero || fail "zeroed bytes are not zero ($options)"
	fallocate -z -o $((60 << 20)) -l $((1 << 20)) "$dev"
	cmp -n $((1 << 20)) -i $((60 << 20)):0 "$dev" /dev/zero || fail "fallocate -z left bytes ($options)"
	sha256sum <"$dev" >want.sum
	stop
	qemu-img check -q top.qcow2 || fail "qemu-img finds faults ($options)"
	qemu-img convert -f qcow2 -O raw top.qcow2 flat.raw
	equal "content for qemu-img ($options)" "$(sha256sum <flat.raw)" "$(cat want.sum)"
	equal "discarded range for qemu-img" "$(qemu-img map --output=json --start-offset=4M --max-length=16M top.qcow2 |
		grep -c '"zero": true')" 1
done

# a whole device given back
serve one top.qcow2
blkdiscard -f "$dev"
cmp -n $((256 << 20)) "$dev" /dev/zero || fail "a discarded device is not zero"
stop
qemu-img check -q top.qcow2
