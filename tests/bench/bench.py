#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Figures of qchain beside its peers, measured in turn on one machine.

Each figure is the median of several runs; ours and the peer's alternate, so that a change of the
machine's mood meets both. The peer gets the fastest of its own settings, and the table names it.
"""
import argparse
import json
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.join(TOP, "build/release/bin")
MIB = 1 << 20
STEP = 17 * 4096    # far from the last request, and through the whole image in the end


def die(words):
    print("bench: " + words, file=sys.stderr)
    sys.exit(1)


def call(*command, **more):
    """Runs a command that must succeed; returns what it printed."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        die("'%s' failed: %s" % (" ".join(command), done.stderr.strip() or done.stdout.strip()))
    return done.stdout


class Bench:
    def __init__(self, args, work):
        self.args = args
        self.work = work
        self.rows = []
        self.qemu_img = os.path.join(args.qemu, "qemu-img") if args.qemu else "qemu-img"
        self.qsd = os.path.join(args.qemu, "qemu-storage-daemon") if args.qemu else "qemu-storage-daemon"
        self.qcimg = os.path.join(BIN, "qcimg")
        self.scale = 4 if args.quick else 1

    def path(self, name):
        return os.path.join(self.work, name)

    # --- what is measured ---
    def make_images(self):
        """flat.qcow2; chain-1 .. chain-128: the same disk, scattered over the layers."""
        size = 512 * MIB
        with open(self.path("base.raw"), "wb") as f:
            for _ in range(size // MIB):
                f.write(os.urandom(MIB))
        call(self.qemu_img, "convert", "-f", "raw", "-O", "qcow2", self.path("base.raw"), self.path("flat.qcow2"))
        call(self.qemu_img, "convert", "-f", "raw", "-O", "qcow2", self.path("base.raw"), self.path("chain-1.qcow2"))
        rng = random.Random(1)
        clusters = size // 65536
        for depth in range(2, 129):
            image = self.path("chain-%d.qcow2" % depth)
            call(self.qemu_img, "create", "-q", "-f", "qcow2", "-b", "chain-%d.qcow2" % (depth - 1),
                 "-F", "qcow2", image)
            commands = []
            for cluster in rng.sample(range(clusters), 32):
                commands += ["-c", "write -q -P %d %d 65536" % (rng.randrange(1, 256), cluster * 65536)]
            call("qemu-io", "-f", "qcow2", *commands, image)

    def one_bench(self, program, image, count, options):
        out = call(program, "bench", "-f", "qcow2", "-U", "-c", str(count), "-d", "64", "-s", "4096",
                   "-S", str(STEP), *options, self.path(image))
        found = re.search(r"Run completed in ([0-9.]+) seconds", out)
        if not found:
            die("'%s bench' printed no time: %s" % (program, out))
        return count / float(found.group(1))

    def medians(self, sides):
        """sides: {name: function}; each in turn, `runs` times; returns {name: [median, all]}."""
        got = {name: [] for name in sides}
        for _ in range(self.args.runs):
            for name, measure in sides.items():
                got[name].append(measure())
        return {name: (statistics.median(v), v) for name, v in got.items()}

    def add(self, what, unit, ours, peer, peer_name, better="higher"):
        ratio = ours[0] / peer[0] if better == "higher" else peer[0] / ours[0]
        row = {"what": what, "unit": unit, "qchain": ours[0], "peer": peer[0], "peer_name": peer_name,
               "times_better": ratio, "qchain_runs": ours[1], "peer_runs": peer[1]}
        self.rows.append(row)
        print("  %-58s %13s %13s %7.2f x  %s" % (what, number(ours[0], unit), number(peer[0], unit), ratio, peer_name))
        sys.stdout.flush()

    def wanted(self, what):
        return self.args.only is None or self.args.only in what

    def reads(self, what, image, cache, ours_count, peer_count):
        if not self.wanted(what):
            return
        sides = {"qchain": lambda: self.one_bench(self.qcimg, image, ours_count // self.scale, ["-t", cache])}
        engines = ["threads", "io_uring"] + (["native"] if cache == "none" else [])
        for engine in engines:
            sides["qemu-img -i " + engine] = lambda e=engine: self.one_bench(
                self.qemu_img, image, peer_count // self.scale, ["-t", cache, "-i", e])
        for measure in sides.values():
            measure()                                   # fills the page cache
        got = self.medians(sides)
        best = max((n for n in got if n != "qchain"), key=lambda n: got[n][0])
        self.add(what, "IOPS", got["qchain"], got[best], best)

    def run_reads(self):
        self.reads("4 KiB reads, queue depth 64, cached, flat", "flat.qcow2", "writeback", 1200000, 400000)
        self.reads("4 KiB reads, queue depth 64, cached, depth 64", "chain-64.qcow2", "writeback", 1200000, 40000)
        self.reads("4 KiB reads, queue depth 64, O_DIRECT, flat", "flat.qcow2", "none", 160000, 160000)
        self.reads("4 KiB reads, queue depth 64, O_DIRECT, depth 64", "chain-64.qcow2", "none", 160000, 40000)

    # --- opening ---
    def one_open(self, program):
        """(milliseconds, MiB) of opening a chain of 128 layers and reading 4 KiB."""
        command = [program, "bench", "-f", "qcow2", "-U", "-c", "1", "-d", "1", "-s", "4096",
                   self.path("chain-128.qcow2")]
        begun = time.monotonic()
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        took = time.monotonic() - begun
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            die("'%s' failed" % " ".join(command))
        return took * 1000, usage.ru_maxrss / 1024

    def run_open(self):
        names = ("opening 128 layers and reading once", "resident memory with 128 layers open")
        if not any(map(self.wanted, names)):
            return
        values = {"qchain": [], "qemu-img": []}
        for _ in range(self.args.runs + 1):
            values["qchain"].append(self.one_open(self.qcimg))
            values["qemu-img"].append(self.one_open(self.qemu_img))
        for i, (what, unit) in enumerate(zip(names, ("ms", "MiB"))):
            side = {n: (statistics.median(x[i] for x in v[1:]), [x[i] for x in v[1:]]) for n, v in values.items()}
            self.add(what, unit, side["qchain"], side["qemu-img"], "qemu-img", better="lower")

    # --- FUSE and loop ---
    def fio(self, device):
        out = call("fio", "--name=r", "--filename=" + device, "--rw=randread", "--bs=4k", "--direct=1",
                   "--ioengine=libaio", "--iodepth=64", "--time_based",
                   "--runtime=%d" % (2 if self.args.quick else 4), "--norandommap", "--output-format=json",
                   "--readonly")
        return json.loads(out[out.index("{"):])["jobs"][0]["read"]["iops"]

    def run_fuse(self, image, what):
        if not self.wanted(what):
            return
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            print("  %-58s not measured: needs root and /dev/fuse" % what)
            return
        env = dict(os.environ, QCHAIN_RUNDIR=self.path("run"), QCHAIN_ETCDIR=self.path("etc"),
                   QCHAIN_STATEDIR=self.path("state"))
        call(os.path.join(BIN, "qccreate"), "--device", "fuse", "--no-dm", "bench", self.path(image), env=env)
        mount, loop, daemon = self.path("export"), None, None
        try:
            ours = call(os.path.join(BIN, "qcs"), "--noheadings", "-o", "chain_device", "bench", env=env).strip()
            got = self.peer_fuse(image, mount, lambda: self.fio(ours))
        finally:
            call(os.path.join(BIN, "qcchange"), "-an", "bench", env=env)
            call(os.path.join(BIN, "qcremove"), "--yes", "bench", env=env)
        if got:
            self.add(what, "IOPS", got["qchain"], got["peer"], "qemu-storage-daemon, fuse export on loop")

    def peer_fuse(self, image, mount, ours):
        """Measures both sides while QEMU's export stands. The images are open for reading only."""
        open(mount, "w").close()
        daemon = subprocess.Popen(
            [self.qsd,
             "--blockdev", "driver=file,node-name=f,filename=%s,cache.direct=on,aio=io_uring,read-only=on,locking=off"
             % self.path(image),
             "--blockdev", "driver=qcow2,node-name=q,file=f,read-only=on",
             "--export", "type=fuse,id=e,node-name=q,mountpoint=%s,writable=off" % mount],
            stderr=subprocess.PIPE, text=True)
        loop = None
        try:
            end = time.monotonic() + 20
            while os.path.getsize(mount) == 0:
                if daemon.poll() is not None:
                    print("  (qemu-storage-daemon has no FUSE export here: %s)" % daemon.stderr.read().strip())
                    return None
                if time.monotonic() > end:
                    die("qemu-storage-daemon exported nothing in 20 s")
                time.sleep(0.05)
            loop = call("losetup", "--find", "--show", "--read-only", "--direct-io=on", mount).strip()
            return self.medians({"qchain": ours, "peer": lambda: self.fio(loop)})
        finally:
            if loop:
                call("losetup", "-d", loop)
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
            if os.path.ismount(mount):
                call("umount", "-l", mount)


def number(value, unit):
    if unit == "IOPS":
        return "%.1f k IOPS" % (value / 1000)
    return "%.1f %s" % (value, unit)


def machine(bench):
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "unknown CPU")
    memory = int(re.search(r"MemTotal: *([0-9]+)", open("/proc/meminfo").read()).group(1)) >> 20
    version = call(bench.qemu_img, "--version").splitlines()[0]
    fs = call("findmnt", "-no", "FSTYPE", "-T", bench.work).strip()
    return {"cpu": cpu, "processors": os.cpu_count(), "memory_gib": memory, "kernel": os.uname().release,
            "file_system": fs, "qemu": version.replace("qemu-img version ", "")}


def markdown(where, rows):
    lines = ["Measured on %(processors)d × %(cpu)s, %(memory_gib)d GiB, Linux %(kernel)s, %(file_system)s, "
             "QEMU %(qemu)s." % where, "",
             "| what | qchain | QEMU | times better | QEMU's way |", "| --- | ---: | ---: | ---: | --- |"]
    for r in rows:
        lines.append("| %s | %s | %s | %.2f | %s |" % (
            r["what"], number(r["qchain"], r["unit"]), number(r["peer"], r["unit"]), r["times_better"], r["peer_name"]))
    return "\n".join(lines) + "\n"


def main():
    p = argparse.ArgumentParser(prog="tests/bench/run")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--runs", type=int)
    p.add_argument("--out", default=os.path.join(TOP, "build/bench"))
    p.add_argument("--qemu")
    p.add_argument("--only")
    args = p.parse_args()
    if args.runs is None:
        args.runs = 3 if args.quick else 5
    if args.runs < 1:
        p.error("--runs needs 1 or more")
    base = os.environ.get("TMPDIR", "/var/tmp")
    free = shutil.disk_usage(base).free
    if free < 3000 * MIB:
        die("%s has %d MiB free, and the images need 3000; set TMPDIR to a folder with more" % (base, free // MIB))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="qchain-bench.", dir=base) as work:
        bench = Bench(args, work)
        where = machine(bench)
        print("Making images in %s" % work)
        bench.make_images()
        print("Medians of %d runs; %s, kernel %s, QEMU %s" % (args.runs, where["cpu"], where["kernel"], where["qemu"]))
        print("  %-58s %13s %13s %9s  %s" % ("what", "qchain", "QEMU", "better", "QEMU's way"))
        bench.run_reads()
        bench.run_fuse("flat.qcow2", "FUSE + loop, 4 KiB random reads, queue depth 64, O_DIRECT")
        bench.run_open()
    os.makedirs(args.out, exist_ok=True)
    with open(os.path.join(args.out, "bench.json"), "w") as f:
        json.dump({"machine": where, "runs": args.runs, "figures": bench.rows}, f, indent=1)
        f.write("\n")
    with open(os.path.join(args.out, "bench.md"), "w") as f:
        f.write(markdown(where, bench.rows))
    print("Written: %s/bench.json and bench.md" % args.out)


if __name__ == "__main__":
    main()
