#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qcimg info, check and map say what qemu-img says, of images of every kind.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/cli/img_lib.sh"
make_images

images="a.q b.q d/c.q x.q v2.q tiny.q df.q pre.q r.raw odd.raw s.q bm.q corrupt.q dirty.q"
for output in human json; do
	for image in $images; do
		same_output info --output=$output "$image"
		same_output check --output=$output "$image"
		same_output map --output=$output "$image"
	done
	same_output info --output=$output miss.q
	same_output info --output=$output loop1.q
	same_output info --output=$output --backing-chain d/c.q
	same_output info --output=$output -f raw a.q
	same_output info --output=$output --image-opts driver=qcow2,file.driver=file,file.filename=a.q
	same_output map --output=$output -s 64k -l 128k a.q
	same_output map --output=$output --start-offset 100 --max-length 1000 d/c.q
	same_output map --output=$output --start-offset 3M d/c.q
	same_output map --output=$output --image-opts driver=qcow2,file.filename=x.q
done

# What the normalised comparison leaves out.
qcimg info a.q | grep -A4 "^Child node '/file':" | grep -q '^    filename: a.q' || fail "no child node in info"
equal "child in JSON" "$(qcimg info --output json a.q | python3 -c \
	'import json,sys; i = json.load(sys.stdin)["children"][0]; print(i["name"], i["info"]["filename"], i["info"]["format"])')" \
	"file a.q file"
qcimg info s.q | grep -Eq '^1       first one +0 B [0-9-]{10} [0-9:]{8}  0000:00:00.000          0$' ||
	fail "snapshot list: $(qcimg info s.q)"
qcimg map --output json b.q | grep -q '"data": true, "compressed": true}' || fail "map shows no compressed cluster"

# An encrypted image is described, and not read.
qemu-img create -q -f qcow2 --object secret,id=s,data=abc \
	-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 luks.q 1M
same_output info luks.q
same_output info --output json luks.q
refused 1 "encrypted" qcimg map luks.q

# Loops, missing and foreign files: one line, exit 1.
refused 1 "creates an infinite loop" qcimg info --backing-chain loop1.q
refused 1 "gone.q" qcimg info --backing-chain miss.q
refused 1 "gone.q" qcimg map miss.q
refused 1 "Could not open 'none.q'" qcimg info none.q
refused 1 "Could not open 'r.raw'" qcimg info -f qcow2 r.raw
refused 1 "Unknown driver 'vdi'" qcimg info -f vdi r.raw
head -c 100 a.q >short.q
refused 1 "truncated" qcimg info short.q

# check: leaks, corruption, repair.
damage()
{
	python3 - "$1" "$2" "$3" <<'PY'
import struct, sys
name, cluster, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(name, 'r+b') as f:
    f.seek(48)
    f.seek(struct.unpack('>Q', f.read(8))[0])
    f.seek(struct.unpack('>Q', f.read(8))[0] + 2 * cluster)
    f.write(struct.pack('>H', count))
PY
}
cp a.q leak.q && truncate -s +128k leak.q && damage leak.q 9 1
cp a.q bad.q && damage bad.q 5 0
for output in human json; do
	same_output check --output=$output leak.q
	same_output check --output=$output bad.q
done
status 3 qcimg check -q leak.q
status 2 qcimg check -q bad.q
status 63 qcimg check r.raw
same_output check -q bad.q
cp leak.q leak2.q
status 0 qcimg check -r leaks leak.q
grep -qx '    1 leaked clusters' out || fail "no word of the repair: $(cat out)"
status 0 qemu-img check leak.q
status 0 qcimg check -r all --output json leak2.q
grep -q '"leaks-fixed": 1' out || fail "no word of the repair: $(cat out)"
status 0 qcimg check -r all bad.q
status 0 qemu-img check bad.q
status 0 qcimg compare bad.q a.q
