#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Random chains made by qemu-img, used by qemu-io and by our chain in turn.

	test_chain.py [--seeds N] [--first S] [--keep]

For each seed: a chain of depth 1 to 8 with random formats, options, sizes, backing
names and contents; then in turn random requests through our chain (diff_ops, which
compares every read with a raw shadow of the disk) and through qemu-io. After each turn
`qemu-img check` must be clean, `qemu-img compare` must find the shadow's contents, and
no backing file may have changed. QCHAIN_DIFF_SEEDS sets the default of N.
"""
import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile

OPS = os.path.join(os.environ.get("QCHAIN_TESTBIN", "build/release/tests"), "diff_ops")
MIB = 1 << 20


class Failed(Exception):
    pass


def run(*argv, ok=(0,), cwd=None):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=cwd, text=True)
    if done.returncode not in ok:
        raise Failed(f"{' '.join(argv)}\nended with {done.returncode}: {done.stdout}")
    return done.stdout


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class Chain:
    def __init__(self, seed, folder):
        self.rnd = random.Random(seed)
        self.seed = seed
        self.folder = folder
        self.story = []
        self.layers = []            # (path, format), base first
        self.sums = {}

    def path(self, name):
        return os.path.join(self.folder, name)

    def sh(self, *argv, **kw):
        self.story.append(" ".join(argv))
        return run(*argv, cwd=self.folder, **kw)

    # --- building ---

    def size(self):
        sectors = self.rnd.randrange(2 * MIB, 24 * MIB) // 512
        return sectors * 512 if self.rnd.random() < 0.5 else sectors * 512 // 65536 * 65536

    def options(self, depth):
        rnd = self.rnd
        if rnd.random() < 0.2:
            return {"compat": "0.10", "cluster_size": 512 << rnd.randrange(13)}
        opts = {"compat": "1.1", "cluster_size": 512 << rnd.randrange(13),
                "refcount_bits": 1 << rnd.randrange(7),
                "lazy_refcounts": rnd.choice(["on", "off"]),
                "compression_type": rnd.choice(["zlib", "zstd"])}
        if rnd.random() < 0.4:
            opts["cluster_size"] = 16384 << rnd.randrange(8)
            opts["extended_l2"] = "on"
        if rnd.random() < 0.1:
            opts["data_file"] = f"layer{depth}.data"
            opts["refcount_bits"] = 16
        elif depth == 0 and rnd.random() < 0.2 and "extended_l2" not in opts:
            opts["preallocation"] = rnd.choice(["metadata", "falloc", "full"])
        return opts

    def backing_name(self, path, fmt):
        name = os.path.basename(path)
        form = self.rnd.randrange(5)
        if form == 0:
            return path
        if form == 1:
            return "file:" + path
        if form == 2:
            return "json:" + json.dumps({"driver": fmt, "file": {"driver": "file", "filename": path}})
        if form == 3:
            return "json:" + json.dumps({"driver": fmt, "file.filename": path})
        return name

    def fill(self, path, fmt, size, options):
        """Data, zeroes, and for qcow2 compressed clusters."""
        rnd, cmds = self.rnd, []
        cluster = options.get("cluster_size", 65536)
        compress = fmt == "qcow2" and "data_file" not in options and rnd.random() < 0.5
        for _ in range(rnd.randrange(1, 30)):
            length = min(rnd.choice([512, 4096, 65536, cluster, 3 * cluster, 400 * 1024]), size)
            off = rnd.randrange(size - length + 1) // 512 * 512
            kind = rnd.random()
            if compress and kind < 0.4:
                off = off // cluster * cluster
                if off + cluster <= size:
                    cmds.append(f"write -c -P {rnd.randrange(1, 256)} {off} {cluster}")
            elif kind < 0.8:
                cmds.append(f"write -P {rnd.randrange(1, 256)} {off} {length}")
            elif kind < 0.9:
                cmds.append(f"write -z {'-u ' if rnd.random() < .5 else ''}{off} {length}")
            else:
                cmds.append(f"discard {off} {length}")
        # qemu-io refuses to compress over what is allocated: then that command did nothing
        self.qemu_io(path, fmt, cmds, ok=(0, 1))
        if fmt == "qcow2":   # and may leave a wrong flag behind: then it is QEMU that sets it right
            self.sh("qemu-img", "check", "-q", "-r", "all", "-f", fmt, path, ok=(0, 2, 3))
            self.sh("qemu-img", "check", "-q", "-f", fmt, path)

    def qemu_io(self, path, fmt, cmds, **kw):
        argv = ["qemu-io", "-f", fmt, "-d", "unmap"]
        for c in cmds:
            argv += ["-c", c]
        self.sh(*argv, path, **kw)

    def build(self):
        rnd = self.rnd
        size = self.size()
        for depth in range(rnd.randrange(1, 9)):
            path = self.path(f"layer{depth}")
            if depth == 0 and rnd.random() < 0.4:
                self.sh("qemu-img", "create", "-q", "-f", "raw", path, str(size))
                self.fill(path, "raw", size, {})
                self.layers.append((path, "raw"))
                continue
            if rnd.random() < 0.3:
                size = self.size()
            options = self.options(depth)
            argv = ["qemu-img", "create", "-q", "-f", "qcow2",
                    "-o", ",".join(f"{k}={v}" for k, v in options.items())]
            if self.layers:
                below, fmt = self.layers[-1]
                argv += ["-b", self.backing_name(below, fmt), "-F", fmt]
            self.sh(*argv, path, str(size))
            self.fill(path, "qcow2", size, options)
            self.layers.append((path, "qcow2"))
        self.top, self.format = self.layers[-1]
        self.shadow = self.path("shadow.raw")
        self.sh("qemu-img", "convert", "-f", self.format, "-O", "raw", self.top, self.shadow)
        self.sums = {p: digest(p) for p, _ in self.layers[:-1]}

    # --- using ---

    def check(self):
        for path, fmt in self.layers:
            if fmt == "qcow2":
                self.sh("qemu-img", "check", "-q", "-f", fmt, path)
        self.sh("qemu-img", "compare", "-q", "-f", self.format, "-F", "raw", self.top, self.shadow)
        for path, _ in self.layers[:-1]:
            if digest(path) != self.sums[path]:
                raise Failed(f"{path} is a backing file and has changed")

    def ours(self, reads_only=False):
        rnd = self.rnd
        argv = [OPS, "-e", rnd.choice(["uring", "uring", "aio"]),
                "-c", rnd.choice(["none", "writeback"])]
        if reads_only:
            argv.append("-r")
        self.sh(*argv, self.top, self.shadow, str(rnd.randrange(1 << 30)), str(rnd.randrange(20, 400)))

    def theirs(self):
        """The same commands to the chain and to the shadow (no discard: what it leaves is free)."""
        rnd, cmds = self.rnd, []
        size = os.path.getsize(self.shadow)
        for _ in range(rnd.randrange(1, 40)):
            length = min(rnd.choice([512, 4096, 12800, 65536, MIB]), size)
            off = rnd.randrange(size - length + 1) // 512 * 512
            if rnd.random() < 0.8:
                cmds.append(f"write -P {rnd.randrange(256)} {off} {length}")
            else:
                cmds.append(f"write -z {'-u ' if rnd.random() < .5 else ''}{off} {length}")
        self.qemu_io(self.top, self.format, cmds)
        self.qemu_io(self.shadow, "raw", cmds)

    def play(self):
        self.ours(reads_only=True)
        for _ in range(2):
            self.ours()
            self.check()
            self.theirs()
            self.check()
        self.ours(reads_only=True)


def main():
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("--seeds", type=int, default=int(os.environ.get("QCHAIN_DIFF_SEEDS", "12")))
    args.add_argument("--first", type=int, default=1)
    args.add_argument("--keep", action="store_true", help="keep the images of a failing seed")
    args = args.parse_args()
    for tool in ("qemu-img", "qemu-io"):
        if not shutil.which(tool):
            print(f"skipped: {tool} is not installed (tools/packages.sh test)")
            return 77
    for seed in range(args.first, args.first + args.seeds):
        folder = tempfile.mkdtemp(prefix="qchain-diff.", dir=os.environ.get("TMPDIR", "/var/tmp"))
        chain = None
        try:
            chain = Chain(seed, folder)
            chain.build()
            chain.play()
        except Failed as e:
            if chain:
                print("\n".join(chain.story))
            print(f"FAIL: seed {seed}: {e}\nreplay: {sys.argv[0]} --seeds 1 --first {seed} --keep")
            if args.keep:
                print(f"images: {folder}")
                folder = None
            return 1
        finally:
            if folder:
                shutil.rmtree(folder)
        print(f"seed {seed}: depth {len(chain.layers)}, {chain.format}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
