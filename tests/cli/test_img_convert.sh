#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qcimg convert: the target holds the source's bytes, is sound, and is as sparse as qemu-img's.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/cli/img_lib.sh"
make_images
python3 - <<'PY'
import random
random.seed(7)
with open('mixed.raw', 'wb') as f:
    f.truncate(12 << 20)
    for _ in range(300):
        f.seek(random.randrange(0, 12 << 20) & ~511)
        f.write(random.choice([random.randbytes(random.choice([512, 4096, 70000])), bytes(4096), b'text ' * 9000]))
    f.truncate(12 << 20)
PY

# converted FMT OPTIONS... : sound, the same bytes, and not much larger than qemu-img's.
converted()
{
	local fmt=$1 blocks limit
	shift
	rm -f out.i ref.i out.data
	qemu-img convert -O "$fmt" "${@//out.data/ref.data}" ref.i >/dev/null
	qcimg convert -O "$fmt" "$@" out.i >/dev/null || fail "convert -O $fmt $*"
	qemu-img compare -q -f "$fmt" -F "$fmt" out.i ref.i || fail "convert -O $fmt $*: other bytes than qemu-img's"
	[ "$fmt" = raw ] || qemu-img check -q out.i || fail "convert -O $fmt $*: qemu-img check"
	blocks=$(stat -c %b out.i)
	limit=$(($(stat -c %b ref.i) * 11 / 10 + 512))
	[ "$blocks" -le $limit ] || fail "convert -O $fmt $*: $blocks blocks, qemu-img needs $(stat -c %b ref.i)"
}

for image in a.q b.q d/c.q x.q v2.q tiny.q df.q pre.q r.raw odd.raw s.q mixed.raw; do
	converted raw $image
	converted qcow2 $image
	converted qcow2 -c $image
done
for options in cluster_size=512 cluster_size=2M extended_l2=on,cluster_size=128k compat=0.10 refcount_bits=1 \
	lazy_refcounts=on preallocation=metadata compression_type=zstd data_file=out.data; do
	converted qcow2 -o $options mixed.raw
	rm -f out.data ref.data
	converted qcow2 -o $options d/c.q
	rm -f out.data ref.data
done
converted qcow2 -c -o compression_type=zstd,cluster_size=2M mixed.raw
converted qcow2 -c -o cluster_size=512 mixed.raw
converted qcow2 -S 0 mixed.raw
converted raw -S 0 mixed.raw
converted raw -S 64k mixed.raw
converted qcow2 -m 1 mixed.raw
converted qcow2 -m 16 -W mixed.raw
converted raw -C mixed.raw
converted raw -C d/c.q
converted qcow2 -r 100M -p -t writeback -T none mixed.raw
converted qcow2 odd.raw mixed.raw a.q d/c.q
converted qcow2 -B b.q -F qcow2 d/c.q
converted qcow2 -o size=20M mixed.raw
converted raw --salvage mixed.raw
QCHAIN_ENGINE=aio converted qcow2 mixed.raw

# An overlay that is made holds only what the top layer held.
qcimg convert -O qcow2 -B b.q -F qcow2 d/c.q over.q
equal "bytes in the overlay" "$(qemu-img map --output json over.q | python3 -c \
	'import json,sys; print(sum(e["length"] for e in json.load(sys.stdin) if e["data"] and e["depth"] == 0))')" 65536

# An existing target keeps its size; old bytes go away.
head -c 13M /dev/urandom >old.raw
qcimg convert -n -O raw mixed.raw old.raw
head -c 12M old.raw | cmp - mixed.raw || fail "convert -n: old bytes shine through"
equal "size of the old target" "$(stat -c %s old.raw)" $((13 << 20))
qcimg create -q -f qcow2 old.q 12M
qcimg convert -n --target-is-zero --target-image-opts mixed.raw driver=qcow2,file.filename=old.q
status 0 qemu-img compare old.q mixed.raw

refused 1 "output file is smaller than input file" qcimg convert -n -O qcow2 mixed.raw a.q
refused 1 "Could not open 'none.q'" qcimg convert -O qcow2 none.q new.q
refused 1 "Compression not supported" qcimg convert -c -O raw a.q new.q
refused 1 "Use of backing file requires explicit backing format" qcimg convert -O qcow2 -B b.q d/c.q new.q
refused 1 "--target-is-zero requires use of -n flag" qcimg convert --target-is-zero -O qcow2 a.q new.q
refused 1 "internal snapshots (-l) is not supported" qcimg convert -l first -O qcow2 s.q new.q
refused 1 "in use by another process" qcimg convert -O qcow2 a.q a.q
refused 1 "Invalid number of coroutines" qcimg convert -m 17 a.q new.q
refused 1 "Must specify image file name" qcimg convert a.q
[ ! -e new.q ] || fail "a refused convert left a file"

# A source that turns bad half-way: the target that was made goes away again; with --salvage it stays.
python3 - <<'PY'
import struct
with open('a.q', 'rb') as f:
    data = bytearray(f.read())
l1 = struct.unpack('>Q', data[40:48])[0]
l2 = struct.unpack('>Q', data[l1:l1 + 8])[0] & ~(1 << 63)
data[l2 + 64:l2 + 72] = struct.pack('>Q', 1 << 62 | 1 << 54 | 300000)   # a compressed cluster of rubbish
open('rubbish.q', 'wb').write(data)
PY
status 1 qcimg convert -O raw rubbish.q new.q
[ "$(wc -l <err)" -ge 1 ] || fail "no reason given"
[ ! -e new.q ] || fail "a failed convert left its target"
