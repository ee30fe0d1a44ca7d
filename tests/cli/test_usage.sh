#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# Wrong command lines: one line, exit status 2. Help, version, man pages and completion come from the same tables.
. "$(dirname "$0")/../lib.sh"

refused 2 "qccreate: unknown option '--foo'; see 'qccreate --help'" qccreate --foo
refused 2 "qccreate: NAME is missing; see 'qccreate --help'" qccreate
refused 2 "qccreate: IMAGE is missing" qccreate web
refused 2 "qccreate: 'c' is one argument too many" qccreate a b c
refused 2 "qccreate: option '-L': '1Q' is not a size (such as 512M or 1.5G)" qccreate -L 1Q a b
refused 2 "qccreate: option '--device': 'usb' is none of auto|ublk|fuse|none" qccreate --device usb a b
refused 2 "qccreate: chain name '.a' begins with '.'" qccreate -L 1M .a b
refused 2 "qccreate: chain name 'a/b' has a character that is not allowed" qccreate -L 1M a/b b
refused 2 "at most 64 are allowed" qccreate -L 1M "$(printf 'a%.0s' {1..65})" b
refused 2 "qccreate: -F is for the backing file that -b names" qccreate -F raw a b
refused 2 "qccreate: -o is for a new image" qccreate -o compat=1.1 a b
refused 2 "qcchange: nothing to change: give -ay or -an" qcchange web
refused 2 "qcchange: option '-a': 'x' is none of y|n" qcchange -ax web
refused 2 "qcchange: NAME is missing" qcchange -ay
refused 2 "qcs: there is no column 'colour' ('-o help' lists them)" qcs -o colour
refused 2 "qcs: there is no column 'colour' to sort by" qcs -O colour
refused 2 "qcs: option '--select': there is no column 'colour'" qcs -S colour=red
refused 2 "qcs: option '--units': 'x' is none of" qcs --units x
refused 2 "qcs: option '--reportformat': 'xml' is none of basic|json" qcs --reportformat xml
refused 2 "qchaind: --name is missing; see 'qchaind --help'" qchaind --image x
refused 2 "qchaind: --force-share needs --read-only" qchaind --name a --image x --force-share
refused 2 "qchain: unknown command 'frob'; see 'qchain --help'" qchain frob
refused 2 "qchain: no command given; see 'qchain --help'" qchain

refused 1 "qcs: chain 'none': there is no such chain; define it with qccreate" qcs none
refused 1 "qcdisplay: chain 'none': there is no such chain" qcdisplay none
refused 1 "qctree: chain 'none': there is no such chain" qctree none
refused 1 "qcchange: chain 'none': there is no such chain (no file" qcchange -ay none
refused 1 "qcchange: chain 'none': there is no such chain; 'qcs' lists them" qcchange -an none
refused 1 "qchaind: chain 'none': there is no such chain (no file" qchaind --name none
refused 1 "qchaind: chain '.x': chain name '.x' begins with '.'" qchaind --name .x --image y

# A broken definition is named by file, line and fault; the other chains are still shown.
mkdir -p "$QCHAIN_ETCDIR/chains"
printf '[chain]\nimage = /x\ncolour = red\n' >"$QCHAIN_ETCDIR/chains/bad.conf"
refused 1 "qcs: chain 'bad': $QCHAIN_ETCDIR/chains/bad.conf, line 3: unknown key 'colour'" qcs
grep -q '^bad ' out || fail "the faulty chain is not listed: $(cat out)"
refused 1 "line 3: unknown key 'colour'" qchaind --name bad

commands="qccreate qcchange qcremove qcs qclayers qcdisplay qctree"
for command in $commands qchaind; do
	status 0 $command --help
	grep -q "^Usage: $command" out || fail "$command --help: $(cat out)"
	status 0 $command --version
	grep -q "^$command (qchain) [0-9]" out || fail "$command --version: $(cat out)"
done
status 0 qchain --help
for command in $commands qcimg; do
	grep -q "^  $command " out || fail "qchain --help does not list $command"
done
status 0 qchain --version
status 0 qchain qcs --help
grep -q '^Usage: qcs' out || fail "qchain does not take a command's name as its first argument"

mkdir man
status 0 qchain --dump-man man
for command in $commands qcimg qchaind; do
	[ -s "man/$command.8" ] || fail "no man page for $command"
done
if command -v man >/dev/null; then
	for page in man/*.8; do
		equal "warnings about $page" "$(LC_ALL=C.UTF-8 MANROFFSEQ= man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null)" ""
	done
fi
status 0 qchain --dump-completion completion
bash -n completion || fail "the completion script does not parse"

# Completion of options, values, chains and columns.
complete_words()
{
	bash -c '. ./completion; shift 0; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
		_qchain "$1" "${@: -1}" "${@: -2:1}"; echo "${COMPREPLY[@]}"' bash "$@"
}
equal "options" "$(complete_words qcchange --act)" "--activate"
equal "values" "$(complete_words qccreate --device f)" "fuse"
equal "chains" "$(complete_words qcremove b)" "bad"
equal "columns" "$(complete_words qcs -o chain_de)" "chain_defined chain_depth chain_device"
equal "commands" "$(complete_words qchain qct)" "qctree"
