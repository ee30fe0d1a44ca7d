#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qchaind by hand: one a name, one an image, clean ends, left-overs of the dead, readiness.
. "$(dirname "$0")/../lib.sh"
need_program qemu-img qemu-io python3

qemu-img create -q -f qcow2 a.qcow2 16M
qemu-img create -q -f qcow2 b.qcow2 16M

status 0 qchaind --name one --image a.qcow2 --device none
[ ! -s out ] && [ ! -s err ] || fail "a start without trouble says nothing, said: $(cat out err)"
pid=$(cat "$QCHAIN_RUNDIR/one/pid")
[ -d "/proc/$pid" ] || fail "process $pid is not there"
equal "mode of the socket" "$(stat -c %a "$QCHAIN_RUNDIR/one/qmp.sock")" 600
equal "folder of the daemon" "$(readlink "/proc/$pid/cwd")" /

refused 1 "qchaind: chain 'one': it is already served by process $pid; stop that with 'qcchange -an one'" \
	qchaind --name one --image b.qcow2 --device none
refused 1 "in use" qchaind --name two --image a.qcow2 --device none
[ ! -e "$QCHAIN_RUNDIR/two" ] || fail "a failed start left its run directory"
status 0 qchaind --name two --image a.qcow2 --device none --read-only --force-share
equal "a reader beside" "$(qcs --noheadings -o attr two)" "ra-n--"
status 0 qcchange -an two

# Nothing of the caller's is held open: neither its pipes nor its locks.
exec 9>lock
flock 9
status 0 qchaind --name two --image b.qcow2 --device none
exec 9>&-
flock -n lock true || fail "the daemon holds a lock of its starter"
status 0 qcchange -an two

# SIGHUP is nothing, SIGTERM ends cleanly, both sockets go.
status 0 qchaind --name two --image b.qcow2 --device none --qmp "$work/extra.sock"
pid2=$(cat "$QCHAIN_RUNDIR/two/pid")
[ -S extra.sock ] || fail "no socket where --qmp says"
kill -HUP "$pid2"
equal "alive after SIGHUP" "$(qcs --noheadings -o active two)" yes
kill -TERM "$pid2"
wait_for 20 test ! -e "$QCHAIN_RUNDIR/two"
[ ! -e extra.sock ] || fail "the other socket is left behind"
qemu-io -f qcow2 -c 'write 0 64k' b.qcow2 >/dev/null || fail "the image is still locked"

# A file that is no socket is not replaced.
echo keep >file.sock
refused 1 "'$work/file.sock' exists and is no socket" qchaind --name two --image b.qcow2 --device none --qmp "$work/file.sock"
equal "the file" "$(cat file.sock)" keep

# What a killed daemon leaves is cleaned by the next.
kill -KILL "$pid"
wait_for 20 flock -n "$QCHAIN_RUNDIR/one/pid" true
[ -S "$QCHAIN_RUNDIR/one/qmp.sock" ] || fail "the killed daemon was not killed hard enough for this test"
equal "a dead daemon's chain" "$(qcs --noheadings)" ""
status 0 qchaind --name one --image a.qcow2 --device none
status 0 qcchange -an one
equal "run directory at the end" "$(ls "$QCHAIN_RUNDIR")" ""

# In the foreground, with systemd's protocol.
python3 - <<'EOF'
import os, signal, socket, subprocess
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind('notify')
s.settimeout(30)
env = dict(os.environ, NOTIFY_SOCKET=os.path.abspath('notify'))
p = subprocess.Popen(['qchaind', '--name', 'fg', '--image', 'a.qcow2', '--device', 'none', '--foreground'], env=env,
                     stderr=subprocess.PIPE)
assert s.recv(100) == b'READY=1'
assert os.path.exists(os.environ['QCHAIN_RUNDIR'] + '/fg/qmp.sock'), 'ready before it can be talked to'
p.send_signal(signal.SIGINT)
assert s.recv(100) == b'STOPPING=1'
assert p.wait(30) == 0, p.stderr.read()
EOF

# Wrong images: one line, nothing left.
head -c 100 a.qcow2 >short.qcow2
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 orphan.qcow2
cp orphan.qcow2 moved.qcow2
mkdir away && mv moved.qcow2 away/
for image in nothere.qcow2 short.qcow2 away/moved.qcow2; do
	refused 1 "qchaind: chain 'w': " qchaind --name w --image $image --format qcow2 --device none
	refused 1 "qchaind: chain 'w': " qchaind --name w --image $image --format qcow2 --device none --foreground
done
refused 1 "QCHAIN_RUNDIR" env QCHAIN_RUNDIR=/proc/nowhere qchaind --name w --image a.qcow2 --device none
refused 1 "too long" env QCHAIN_RUNDIR="$work/$(printf 'x%.0s' {1..100})" qchaind --name w --image a.qcow2 --device none
equal "run directory at the end" "$(ls "$QCHAIN_RUNDIR")" ""

# Without root no device, said before anything is touched; without a device no root.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	chmod 711 "$work" && mkdir mine && cp a.qcow2 mine/ && chown -R 65534:65534 mine
	as_user=(setpriv --reuid 65534 --regid 65534 --clear-groups env QCHAIN_RUNDIR="$work/mine/run" QCHAIN_ETCDIR="$work/mine/etc")
	if "${as_user[@]}" test -x "$QCHAIN_BIN/qchain" -a -w mine; then
		refused 1 "qchaind: chain 'u': a block device needs root; run as root, or use --device none" \
			"${as_user[@]}" qchaind --name u --image mine/a.qcow2
		refused 1 "qccreate: chain 'u': a block device needs root" "${as_user[@]}" qccreate -L 1M u mine/new.qcow2
		[ ! -e mine/new.qcow2 ] && [ ! -e mine/run ] || fail "something was made"
		status 0 "${as_user[@]}" qccreate --device none u mine/a.qcow2
		status 0 "${as_user[@]}" qcremove -yf u
		refused 1 "cannot create folder '/run/qchain" setpriv --reuid 65534 --regid 65534 --clear-groups \
			env -u QCHAIN_RUNDIR qchaind --name u --image mine/a.qcow2 --device none
	fi
fi
