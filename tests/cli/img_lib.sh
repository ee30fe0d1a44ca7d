# SPDX-License-Identifier: GPL-2.0-or-later
#
# Images of every kind, and comparison of qcimg with qemu-img. Sourced after lib.sh.
need_program qemu-img qemu-io python3

# What versions of QEMU show differently is taken out of both before they are compared.
norm()
{
	python3 "$QCHAIN_SRC/tests/cli/img_norm.py" "$1"
}

# same_output ARGS...: qcimg and qemu-img end alike and print the same on stdout.
same_output()
{
	local want=0 got=0
	qemu-img "$@" >qemu.out 2>qemu.err </dev/null || want=$?
	qcimg "$@" >qc.out 2>qc.err </dev/null || got=$?
	[ $got = $want ] || fail "qcimg $*: status $got, qemu-img's is $want: $(cat qc.err) / $(cat qemu.err)"
	cmp -s qemu.out qc.out || diff <(norm qemu.out) <(norm qc.out) >diff.out || fail "qcimg $* differs from qemu-img (<): $(cat diff.out)"
	[ "$(wc -l <qc.err)" -le 1 ] || [ "$1" = check ] || fail "qcimg $*: more than one line on stderr: $(cat qc.err)"
}

io()
{
	qemu-io -f "$1" "${@:3}" "$2" >/dev/null
}

make_images()
{
	qemu-img create -q -f qcow2 a.q 1M
	io qcow2 a.q -c 'write -P 1 0 128k' -c 'write -z 256k 64k' -c 'write -P 3 512k 100k'
	qemu-img create -q -f qcow2 -b a.q -F qcow2 b.q
	io qcow2 b.q -c 'write -P 5 64k 4k' -c 'write -c -P 6 896k 64k'
	mkdir -p d
	qemu-img create -q -f qcow2 -b ../b.q -F qcow2 d/c.q 2M
	io qcow2 d/c.q -c 'write -P 8 1536k 4k'
	qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=128k,compression_type=zstd,lazy_refcounts=on x.q 1M
	io qcow2 x.q -c 'write -P 1 4k 4k' -c 'write -z 32k 8k' -c 'write -P 2 512k 256k'
	qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k v2.q 1M
	io qcow2 v2.q -c 'write -P 1 12k 20k'
	qemu-img create -q -f qcow2 -o refcount_bits=1,cluster_size=512 tiny.q 1M
	io qcow2 tiny.q -c 'write -P 1 700 20k'
	qemu-img create -q -f qcow2 -o data_file=df.raw,data_file_raw=on df.q 1M
	io qcow2 df.q -c 'write -P 1 4k 4k'
	qemu-img create -q -f qcow2 -o preallocation=metadata pre.q 1M
	truncate -s 1M r.raw
	io raw r.raw -c 'write -P 7 64k 4k'
	truncate -s 100000 odd.raw
	cp a.q s.q
	qemu-img snapshot -c 'first one' s.q
	io qcow2 s.q -c 'write -P 9 0 4k'
	cp a.q bm.q
	qemu-img bitmap --add bm.q bm0
	qemu-img bitmap --add --disable -g 32k bm.q bm1
	cp a.q corrupt.q && printf '\2' | dd of=corrupt.q bs=1 seek=79 conv=notrunc status=none
	cp a.q dirty.q && printf '\1' | dd of=dirty.q bs=1 seek=79 conv=notrunc status=none
	qemu-img create -q -u -f qcow2 -b loop2.q -F qcow2 loop1.q 1M
	qemu-img create -q -u -f qcow2 -b loop1.q -F qcow2 loop2.q 1M
	qemu-img create -q -u -f qcow2 -b gone.q -F qcow2 miss.q 1M
}
