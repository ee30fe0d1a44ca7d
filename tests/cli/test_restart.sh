#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A daemon that is killed can be started again at once, however busy the kernel still is with the dead one; a living one
# is never waited for.
. "$(dirname "$0")/../lib.sh"

qcimg create -q -f qcow2 a.qcow2 64M
for round in 1 2 3 4 5 6 7 8; do
	status 0 qchaind --name again --image a.qcow2 --device none
	kill -KILL "$(cat "$QCHAIN_RUNDIR/again/pid")"
done
status 0 qchaind --name again --image a.qcow2 --device none
refused 1 "already served by process $(cat "$QCHAIN_RUNDIR/again/pid")" qchaind --name again --image a.qcow2 --device none
refused 1 "is in use" qchaind --name other --image a.qcow2 --device none
kill -TERM "$(cat "$QCHAIN_RUNDIR/again/pid")"
wait_for 20 test ! -e "$QCHAIN_RUNDIR/again"
qcimg check -q a.qcow2
