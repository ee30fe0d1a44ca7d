#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Numbers and names: the lowest free one, a wanted one, a taken one; two chains beside each other; a name
# taken by another; links of dead devices.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/device/serve.sh"

for i in 1 2 3 4; do
	qemu-img create -q -f qcow2 $i.qcow2 ${i}0M
done

ln -s /dev/no-such-device "$QCHAIN_DEVDIR/qchain0"
serve a 1.qcow2
equal "a dangling link is replaced" "$dev" "$QCHAIN_DEVDIR/qchain0"
serve b 2.qcow2
equal "the next free number" "$dev" "$QCHAIN_DEVDIR/qchain1"
serve c 3.qcow2 number=7
equal "a wanted number" "$dev" "$QCHAIN_DEVDIR/qchain7"
serve_fails "$QCHAIN_DEVDIR/qchain1 is taken" d 4.qcow2 number=1 strict
[ ! -e "$work/run-d/fuse" ] || fail "a failed start left its mount point"
serve d 4.qcow2 number=7
equal "a wanted number that is taken" "$dev" "$QCHAIN_DEVDIR/qchain8"
equal "size by name" "$(blockdev --getsize64 "$by_name")" $((40 << 20))
stop b
serve b 2.qcow2
equal "a number given back" "$dev" "$QCHAIN_DEVDIR/qchain1"
stop a
stop c
stop d

# a name that is a live device of another stays so
ln -s "$node" "$QCHAIN_DEVDIR/qchain/a"
serve_fails "$QCHAIN_DEVDIR/qchain/a exists" a 1.qcow2
equal "the other's link" "$(readlink "$QCHAIN_DEVDIR/qchain/a")" "$node"
rm "$QCHAIN_DEVDIR/qchain/a"

# what is no link is never removed
touch "$QCHAIN_DEVDIR/qchain0" "$QCHAIN_DEVDIR/qchain/note"
serve a 1.qcow2
equal "a file in the way" "$dev" "$QCHAIN_DEVDIR/qchain2"
stop a
[ -f "$QCHAIN_DEVDIR/qchain0" ] && [ -f "$QCHAIN_DEVDIR/qchain/note" ] || fail "a file was removed"
rm "$QCHAIN_DEVDIR/qchain/note"
stop b
[ ! -e "$QCHAIN_DEVDIR/qchain" ] || fail "the folder of names is left: $(ls -l "$QCHAIN_DEVDIR/qchain")"

# ten at once get ten numbers
rm "$QCHAIN_DEVDIR/qchain0"
for i in 0 1 2 3 4 5 6 7 8 9; do
	cp 1.qcow2 many$i.qcow2
	launch many$i many$i.qcow2
	eval "pid_many$i=$pid from_many$i=$from"
done
for i in 0 1 2 3 4 5 6 7 8 9; do
	f=from_many$i
	read -r word dev by_name node kind dm <&"${!f}" || fail "no device for many$i: $(cat many$i.err)"
	eval "node_many$i=$node dev_many$i=$dev"
	echo "$dev" >>numbers
done
equal "different numbers" "$(sort -u numbers | wc -l)" 10
equal "lowest numbers" "$(sort numbers | tail -n 1)" "$QCHAIN_DEVDIR/qchain9"
for i in 0 1 2 3 4 5 6 7 8 9; do
	stop many$i
done
