#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# qcimg bench takes qemu-img bench's options and prints its lines; what it writes is really written.
. "$(dirname "$0")/../lib.sh"
. "$QCHAIN_SRC/tests/cli/img_lib.sh"
make_images
qemu-img create -q -f qcow2 w.q 8M

same_output bench -f qcow2 -c 100 a.q
same_output bench -f qcow2 -c 1 -d 64 a.q
same_output bench -f qcow2 -c 5000 -d 7 -s 512 -S 1536 d/c.q
same_output bench -f qcow2 -q -c 100 a.q
same_output bench -f raw -c 100 -s 1M -d 4 r.raw
same_output bench -f qcow2 -c 100 -o 64k -s 8k -S 64k d/c.q
same_output bench -f qcow2 -t none -c 100 a.q
same_output bench -f qcow2 -t none -n -c 100 a.q
same_output bench -f qcow2 -U -c 10 a.q
same_output bench -f qcow2 -w -c 64 -d 8 --flush-interval 16 w.q
same_output bench -f qcow2 -w -c 64 -d 8 --flush-interval 16 --no-drain w.q
same_output bench -f qcow2 -w -c 20 -d 4 -t writethrough w.q
same_output bench -c 10 --image-opts driver=qcow2,file.filename=a.q
for engine in uring aio; do
	status 0 qcimg bench --engine $engine -c 1000 -f qcow2 d/c.q
	grep -Eqx 'Run completed in [0-9]+\.[0-9]{3} seconds\.' out || fail "$engine: $(cat out)"
done

status 0 qcimg bench -w -c 1024 -d 16 -s 4k --pattern 90 --flush-interval 100 -f qcow2 w.q
qemu-io -f qcow2 -r -c 'read -P 90 0 4M' -c 'read -P 0 4M 4M' w.q | grep -q 'verification failed' &&
	fail "bench -w wrote something else"
status 0 qemu-img check -q w.q

refused 1 "Flush interval can't be smaller than depth" qcimg bench -w --flush-interval 10 w.q
refused 1 "--flush-interval is only available in write tests" qcimg bench --flush-interval 100 w.q
refused 1 "requires cache.direct=on" qcimg bench -n w.q
refused 1 "Invalid aio option: foo" qcimg bench -i foo w.q
refused 1 "Invalid request count specified: 'foo'" qcimg bench -c foo w.q
refused 1 "Invalid queue depth" qcimg bench -d 0 w.q
refused 1 "Failed request: Input/output error" qcimg bench -o 9M w.q
refused 1 "Could not open 'none.q'" qcimg bench none.q

# The command line as such.
status 0 qcimg --help
status 0 qcimg --version
for command in bench check compare convert create info map rebase; do
	status 0 qcimg $command --help
	grep -q "^Usage: qcimg $command" out || fail "qcimg $command --help: $(cat out)"
	[ $command = compare ] || refused 1 "unrecognized option '--foo'; see 'qcimg $command --help'" qcimg $command --foo a.q
done
refused 1 "Not enough arguments" qcimg
refused 1 "Command not found: frob" qcimg frob
refused 1 "'snapshot' of qemu-img is not supported" qcimg snapshot -l a.q
refused 1 "Unknown engine 'foo'" qcimg info --engine foo a.q
