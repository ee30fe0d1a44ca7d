#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# The life of a chain without a device: create, adopt, deactivate, activate, remove; and what is refused on the way.
. "$(dirname "$0")/../lib.sh"
need_program qemu-img qemu-io python3

conf=$QCHAIN_ETCDIR/chains

# A new image.
status 0 qccreate --device none -L 64M web web.qcow2
equal "what qccreate says" "$(cat out)" "Chain 'web' (1 layer, 64.00m) is served without a device."
[ -S "$QCHAIN_RUNDIR/web/qmp.sock" ] || fail "no QMP socket"
grep -qx "image = $work/web.qcow2" "$conf/web.conf" || fail "the definition does not name the image: $(cat "$conf/web.conf")"
grep -qx "format = qcow2" "$conf/web.conf" || fail "the definition does not hold the format"
equal "size" "$(qcs --noheadings --units b --nosuffix -o size web)" $((64 << 20))
equal "active" "$(qcs --noheadings -o active web)" yes

# What is in use is not touched by others.
if qemu-io -f qcow2 -c 'write 0 64k' web.qcow2 >out 2>&1; then fail "qemu-io opened an image that is served"; fi
grep -q 'lock' out || fail "qemu-io was refused for another reason: $(cat out)"

refused 1 "qccreate: chain 'web': it is already defined; choose another name, or forget it with 'qcremove web'" \
	qccreate --device none -L 1M web other.qcow2
[ ! -e other.qcow2 ] || fail "a refused qccreate left an image"
refused 1 "in use" qccreate --device none web2 web.qcow2
[ ! -e "$conf/web2.conf" ] || fail "a failed qccreate left a definition"
[ -e web.qcow2 ] || fail "a failed qccreate removed an image that it had not made"

# Off and on again.
status 0 qcchange -an web
[ ! -e "$QCHAIN_RUNDIR/web" ] || fail "left in the run directory: $(ls "$QCHAIN_RUNDIR/web")"
status 0 qcchange -an web
equal "active" "$(qcs --noheadings -o active web)" no
equal "size of an inactive chain" "$(qcs --noheadings --units b --nosuffix -o size web)" $((64 << 20))
qemu-io -f qcow2 -c 'write -P 7 0 64k' web.qcow2 >/dev/null
status 0 qcchange -ay web
status 0 qcchange -ay web
equal "active" "$(qcs --noheadings -o active web)" yes

# An overlay of it is refused while it can still be written; after that it is one more layer.
status 0 qcchange -an web
status 0 qccreate --device none -b web.qcow2 -F qcow2 top top.qcow2
equal "what qccreate says" "$(cat out)" "Chain 'top' (2 layers, 64.00m) is served without a device."
equal "layers" "$(qclayers --noheadings -o layer_name,layer_role,layer_cluster top | tr -s ' ')" \
	"layer-0 base 64.00k
layer-1 active 128.00k"
status 0 qcchange -an top
qemu-img info -U --output json top.qcow2 >info
grep -q '"extended-l2": true' info || fail "an overlay has extended L2 entries by default"
grep -q '"backing-filename": "web.qcow2"' info || fail "the backing name is not relative as it was typed"
grep -q '"backing-filename-format": "qcow2"' info || fail "the header names no backing format"
qemu-img check -q top.qcow2 || fail "qemu-img check finds faults in a new overlay"
qemu-io -f qcow2 -r -c 'read -P 7 0 64k' top.qcow2 | grep -q 'verification failed' && fail "the overlay shows other bytes"

# The header's name is relative to the image, not to where the command ran.
mkdir sub
status 0 qccreate --device none -n -b web.qcow2 sub sub/s.qcow2
equal "backing" "$(qemu-img info --output json sub/s.qcow2 | sed -n 's/.*"backing-filename": "\(.*\)".*/\1/p')" ../web.qcow2
equal "inactive" "$(qcs --noheadings -o active,defined,depth sub)" "no yes 2"

# Image options.
status 0 qccreate -n -L 1M -o cluster_size=4k,extended_l2=off -o refcount_bits=1 opt opt.qcow2
qemu-img info --output json opt.qcow2 >info
grep -q '"cluster-size": 4096' info && grep -q '"refcount-bits": 1\b' info || fail "-o was not obeyed: $(cat info)"
refused 1 "qccreate: chain 'bad': " qccreate -n -L 1M -o colour=red bad bad.qcow2
[ ! -e bad.qcow2 ] || fail "left an image"
refused 1 "image option 'compat' has no value; write compat=VALUE" qccreate -n -L 1M -o compat bad bad.qcow2

# A raw image keeps its format, whatever a guest writes into it.
truncate -s 1M raw.img
status 0 qccreate --device none raw raw.img
status 0 qcchange -an raw
cp web.qcow2 forged
dd if=forged of=raw.img conv=notrunc status=none bs=64k count=2
equal "format after the guest forged a header" "$(qcs --noheadings -o format raw)" raw

# Removing.
status 0 qcchange -ay top
refused 1 "qcremove: chain 'top': it is active; deactivate it with 'qcchange -an top', or give --force" qcremove -y top
refused 1 "qcremove: chain 'web': not removed: there is no terminal to ask on; give --yes" qcremove web
[ -e "$conf/web.conf" ] || fail "removed without a yes"
status 0 qcremove -y -f top
status 0 qcremove -y web sub opt raw
[ -e web.qcow2 ] && [ -e top.qcow2 ] || fail "qcremove took images away"
equal "chains left" "$(qcs --noheadings)" ""
equal "definitions left" "$(ls "$conf")" ""
refused 1 "qcremove: chain 'web': there is no such chain; 'qcs' lists them" qcremove -y web

# What is missing or wrong, and nothing made of it.
refused 1 "qccreate: chain 'no': image '$work/nothere.qcow2' does not exist; give -L SIZE to create it, or -b BACKING for an overlay" \
	qccreate --device none no nothere.qcow2
refused 1 "exists already; leave out -L and -b to adopt it, or choose another file" qccreate -n -L 1M no web.qcow2
refused 1 "qccreate: chain 'no': " qccreate -n -b nothere.qcow2 no no.qcow2
[ ! -e no.qcow2 ] || fail "left an image"
echo "no image at all" >text
refused 1 "qccreate: chain 'no': " qccreate -n -f qcow2 no text
mkdir dir
refused 1 "qccreate: chain 'no': " qccreate -n no dir
equal "definitions left" "$(ls "$conf")" ""

refused 1 "holds the relative path 'web.qcow2'" qccreate -n no 'json:{"driver": "qcow2", "file": {"driver": "file", "filename": "web.qcow2"}}'
status 0 qccreate -n json "json:{\"driver\": \"qcow2\", \"file\": {\"driver\": \"file\", \"filename\": \"$work/web.qcow2\"}}"
equal "depth" "$(qcs --noheadings -o depth json)" 1
status 0 qcremove -y json

# An overlay whose header names no format needs to be told, once.
cp top.qcow2 unnamed.qcow2
python3 - <<'EOF'
image = bytearray(open('unnamed.qcow2', 'rb').read())
at = image.index(bytes.fromhex('e2792aca'))
image[at:at + 4] = b'\x11\x22\x33\x44'
open('unnamed.qcow2', 'wb').write(image)
EOF
refused 1 "--backing-format" qccreate --device none un unnamed.qcow2
status 0 qccreate --device none --backing-format qcow2 un unnamed.qcow2
status 0 qcchange -an un
status 0 qcchange -ay un
status 0 qcremove -fy un

# An activation that fails takes back what was made.
refused 1 "qccreate: chain 'late': " env QCHAIN_RUNDIR=/proc/nowhere qccreate --device none -L 1M -o data_file=late.raw late late.qcow2
[ ! -e late.qcow2 ] && [ ! -e late.raw ] || fail "left an image"
equal "definitions left" "$(ls "$conf")" ""
