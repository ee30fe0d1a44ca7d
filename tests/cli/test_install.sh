#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# What `cmake --install` lays out, and that it runs from there.
. "$(dirname "$0")/../lib.sh"
need_program cmake

build=$(dirname "$QCHAIN_BIN")
[ -e "$build/CMakeCache.txt" ] || skip "$build is no build folder"
status 0 env DESTDIR="$work/root" cmake --install "$build" --prefix /usr
cd root/usr

for command in qchain qchaind qccreate qcchange qcremove qcs qclayers qcdisplay qctree qcimg; do
	[ -x sbin/$command ] || fail "sbin/$command is missing or leads nowhere"
	[ -s share/man/man8/$command.8 ] || fail "no man page for $command"
	[ -s share/bash-completion/completions/$command ] || fail "no completion for $command"
done
[ -s lib/udev/rules.d/60-qchain.rules ] || fail "no udev rules"
grep -q '^ExecStart=/usr/sbin/qchaind --name %i --foreground$' lib/systemd/system/qchain@.service || fail "the unit does not start qchaind"

PATH=$PWD/sbin:/usr/bin:/bin
status 0 qcs --version
status 0 qccreate --device none -L 1M web web.qcow2
equal "the daemon that runs" "$(readlink "/proc/$(qcs --noheadings -o pid web)/exe")" "$PWD/sbin/qchaind"
status 0 qcremove -fy web
