#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qcs, qclayers, qcdisplay, qctree: columns, order, selection, units, JSON; alike for active and inactive chains.
. "$(dirname "$0")/../lib.sh"
need_program python3

status 0 qccreate -n -L 2G alpha alpha.qcow2
status 0 qccreate -n -b alpha.qcow2 -F qcow2 beta beta.qcow2
status 0 qccreate --device none -L 512M gamma gamma.qcow2
at_exit qcchange -an gamma

equal "names" "$(qcs --noheadings -o chain_name)" "alpha
beta
gamma"
equal "sorted" "$(qcs --noheadings -o name -O -size,-name)" "beta
alpha
gamma"
equal "selected" "$(qcs --noheadings -o name -S 'size > 1g && depth = 2')" beta
equal "selected by state" "$(qcs --noheadings -o name -S active=yes)" gamma
equal "nothing selected" "$(qcs -S name=none)" ""
equal "units" "$(qcs --noheadings -o size --units m alpha)" 2048.00m
equal "units without suffix" "$(qcs --noheadings -o size --units s --nosuffix alpha)" 4194304
equal "separator" "$(qcs --separator : -o name,size,depth beta)" "Chain:CSize:#Lay
beta:2.00g:2"
equal "aligned" "$(qcs -o name,depth,size,name)" "Chain #Lay   CSize Chain
alpha    1   2.00g alpha
beta     2   2.00g beta
gamma    1 512.00m gamma"
equal "headings and more columns" "$(qcs -o +pid alpha | head -n 1 | tr -s ' ')" "Chain Attr CSize #Lay CDisk Device Image PID"
equal "two -o" "$(qcs --noheadings -o name -o depth alpha)" "alpha 1"
equal "attributes" "$(qcs --noheadings -o attr)" "w-----
w-----
wa-n--"
equal "pid" "$(qcs --noheadings -o pid gamma)" "$(cat "$QCHAIN_RUNDIR/gamma/pid")"
status 0 qcs -o help
grep -q '^chain_size ' out && ! grep -q '^layer_size ' out || fail "qcs -o help: $(cat out)"
status 0 qclayers -O help
grep -q '^chain_size ' out && grep -q '^layer_size ' out || fail "qclayers -O help: $(cat out)"

equal "layers" "$(qclayers --noheadings --separator ' ' -o chain_name,layer_name,layer_role,layer_format,layer_backing)" \
	"alpha layer-0 active qcow2 
beta layer-0 base qcow2 
beta layer-1 active qcow2 alpha.qcow2
gamma layer-0 active qcow2 "
equal "a layer's file" "$(qclayers --noheadings -o layer_file -S 'layer_role=active' beta)" "$work/beta.qcow2"

qcs --reportformat json -o name,size --units b beta gamma >json
qclayers --reportformat json -o name,index beta >layers.json
python3 - <<'EOF'
import json
assert json.load(open('json')) == {'report': [{'chain': [
    {'chain_name': 'beta', 'chain_size': '2147483648B'}, {'chain_name': 'gamma', 'chain_size': '536870912B'}]}]}
assert json.load(open('layers.json')) == {'report': [{'layer': [
    {'layer_name': 'layer-0', 'layer_index': '0'}, {'layer_name': 'layer-1', 'layer_index': '1'}]}]}
EOF

equal "tree" "$(LC_ALL=C qctree --units b beta | sed 's/[0-9]*B of/N of/')" "beta  (not active)  2147483648B
\`- layer-1  $work/beta.qcow2  qcow2  N of 2147483648B
  \`- layer-0  $work/alpha.qcow2  qcow2  N of 2147483648B"
LC_ALL=C.UTF-8 qctree gamma | grep -q '└─ layer-0 .*writable$' || fail "tree: $(LC_ALL=C.UTF-8 qctree gamma)"

status 0 qcdisplay beta gamma
grep -q '^  Chain name: *beta$' out && grep -q '^  Status: *not active$' out && grep -q '^  Size: *2.00g$' out &&
	grep -q "^  layer-0 *$work/alpha.qcow2, qcow2" out || fail "qcdisplay: $(cat out)"
grep -q '^  Status: *active$' out && grep -q '^  Daemon PID: *[0-9]' out && grep -q '^  Reads: *[0-9]' out ||
	fail "qcdisplay of an active chain: $(cat out)"

# A chain that can not be looked at is shown with its fault; the others are unharmed.
mv alpha.qcow2 elsewhere.qcow2
status 1 qcs -o name,attr
equal "attributes with a fault" "$(cut -c1-13 out)" "Chain Attr
alpha w----x
beta  w----x
gamma wa-n--"
equal "lines of error" "$(wc -l <err)" 2
grep -q "^qcs: chain 'beta': .*alpha.qcow2" err || fail "the error does not name the missing file: $(cat err)"
