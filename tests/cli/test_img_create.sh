#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qcimg create makes what qemu-img create makes, and says so in the same words.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/cli/img_lib.sh"
make_images

# created OPTIONS... : the same announcement, and an image that info and check find the same.
created()
{
	rm -f new.q new.raw
	qemu-img create "$@" >qemu.out
	qemu-img info -f "$format" new.q | grep -v '^disk size\|^    disk size\|file length' >qemu.info
	rm -f new.q new.raw
	qcimg create "$@" >qc.out
	diff qemu.out qc.out >diff.out || fail "create $*: $(cat diff.out)"
	qemu-img info -f "$format" new.q | grep -v '^disk size\|^    disk size\|file length' >qc.info
	diff qemu.info qc.info >diff.out || fail "create $*: info differs: $(cat diff.out)"
	[ "$format" = raw ] || qemu-img check -q \
		'json:{"driver":"qcow2","file":{"driver":"file","filename":"new.q"},"backing":null}' || fail "create $*: qemu-img check"
}

format=qcow2
created -f qcow2 new.q 1M
created -f qcow2 -q new.q 1M
created -f qcow2 new.q 1.5G
created -f qcow2 new.q 1000
created -f qcow2 -o size=3M new.q
created -f qcow2 -b a.q -F qcow2 new.q
created -f qcow2 -b r.raw -F raw new.q 4M
created -f qcow2 -o backing_file=a.q,backing_fmt=qcow2 new.q
created -f qcow2 -u -b none.raw -F raw new.q 1M
created -f qcow2 -o cluster_size=128k,extended_l2=on,lazy_refcounts=on -o compression_type=zstd new.q 1M
created -f qcow2 -o cluster_size=512 new.q 1M
created -f qcow2 -o cluster_size=2M new.q 10G
created -f qcow2 -o compat=0.10 new.q 1M
created -f qcow2 -o compat=v3,refcount_bits=1 new.q 1M
created -f qcow2 -o refcount_bits=64 new.q 1M
created -f qcow2 -o preallocation=metadata new.q 1M
created -f qcow2 -o preallocation=falloc new.q 1M
created -f qcow2 -o preallocation=full new.q 1M
created -f qcow2 -o data_file=new.raw new.q 1M
created -f qcow2 -o data_file=new.raw,data_file_raw=on new.q 1M
format=raw
created new.q 1M
created -f raw new.q 1000
created -f raw -o preallocation=full new.q 1M

# Refusals leave nothing behind.
rm -f new.q
refused 1 "new.q: Image creation needs a size parameter" qcimg create -f qcow2 new.q
refused 1 "new.q: Backing file specified without backing format" qcimg create -f qcow2 -b a.q new.q
refused 1 "none.q" qcimg create -f qcow2 -b none.q -F qcow2 new.q 1M
refused 1 "new.q: Backing file not supported for file format 'raw'" qcimg create -b a.q -F qcow2 new.q
refused 1 "same filename as the backing file" qcimg create -f qcow2 -b a.q -F qcow2 a.q
refused 1 "new.q: The image size must be specified only once" qcimg create -f qcow2 -o size=1M new.q 1M
refused 1 "new.q: Invalid parameter 'foo'" qcimg create -f qcow2 -o foo=1 new.q 1M
refused 1 "cluster_size" qcimg create -f qcow2 -o cluster_size=3k new.q 1M
refused 1 "Unknown file format 'vdi'" qcimg create -f vdi new.q 1M
refused 1 "Invalid image size specified: '1Z'." qcimg create new.q 1Z
refused 1 "Must be between 0 and 9223372036854775807" qcimg create new.q 100E
refused 1 "Unexpected argument: 2M" qcimg create new.q 1M 2M
refused 1 "No such file or directory" qcimg create -f qcow2 none/new.q 1M
[ ! -e new.q ] || fail "a refused create left a file"
status 0 qemu-img check -q a.q

status 0 qcimg create -f qcow2 -o help
for option in $(grep -o '^  [a-z0-9_]*=' out); do
	qemu-img create -f qcow2 -o help | grep -q "^  $option" || fail "-o help names $option, which QEMU does not know"
done

# An existing file is replaced, like qemu-img does; one that is in use is not touched.
status 0 qcimg create -f qcow2 x.q 3M
equal "size of the new image" "$(qemu-img info --output json x.q | python3 -c \
	'import json,sys; print(json.load(sys.stdin)["virtual-size"])')" 3145728
before=$(sha a.q)
coproc guest { qemu-io -f qcow2 a.q; }
echo 'read 0 512' >&"${guest[1]}"
read -r _ <&"${guest[0]}"
refused 1 "in use by another process" qcimg create -f qcow2 a.q 1M
refused 1 "in use by another process" qcimg convert -O qcow2 b.q a.q
echo quit >&"${guest[1]}"
wait
equal "the image in use" "$(sha a.q)" "$before"

# rebase -u changes the name, and nothing else.
cp b.q b2.q
status 0 qcimg rebase -u -b ../x/new.raw -F raw b2.q
qemu-img rebase -u -b ../x/new.raw -F raw b.q
same_output info b2.q
equal "what the header says" "$(qemu-img info b2.q | grep '^backing')" "$(qemu-img info b.q | grep '^backing')"
status 0 qcimg rebase -u -b '' b2.q
qemu-img info b2.q | grep -q '^backing' && fail "rebase -u -b '' left a backing file"
qemu-img check -q b2.q
refused 1 "backing format must be specified" qcimg rebase -u -b a.q b2.q
refused 1 "rebase without -u" qcimg rebase -b a.q -F qcow2 b2.q
