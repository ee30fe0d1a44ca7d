#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qcimg compare: the verdicts, offsets and exit codes of qemu-img compare.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/cli/img_lib.sh"
make_images
cp a.q near.q && io qcow2 near.q -c 'write -P 9 70000 1'
qemu-img convert -O raw a.q a.raw

for one in a.q near.q a.raw b.q d/c.q r.raw odd.raw; do
	for two in a.q d/c.q x.q odd.raw a.raw tiny.q v2.q; do
		same_output compare $one $two
		same_output compare -s $one $two
	done
done
same_output compare a.q df.q
same_output compare -q a.q near.q
same_output compare -f raw a.q near.q
same_output compare a.q none.q
same_output compare --image-opts driver=qcow2,file.filename=a.q driver=raw,file.filename=a.raw

status 1 qcimg compare a.q near.q
equal "the verdict" "$(cat out)" "Content mismatch at offset 69632!"
refused 2 "Could not open 'none.q'" qcimg compare a.q none.q
refused 2 "Unknown driver" qcimg compare -f vdi a.q near.q
refused 2 "Expecting two image file names" qcimg compare a.q
refused 2 "unrecognized option '-z'" qcimg compare -z a.q near.q

# Differences far apart: the first one is named, whatever is read first.
truncate -s 64M one.raw two.raw
io raw two.raw -c 'write -P 1 63M 512' -c 'write -P 1 5242880 512' -c 'write -P 1 40M 1M'
for _ in 1 2 3 4 5; do
	status 1 qcimg compare -f raw -F raw one.raw two.raw
	equal "the first difference" "$(cat out)" "Content mismatch at offset 5242880!"
done
