#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Makes the corpora of the fuzz targets anew: tests/fuzz/corpus.py (needs qemu-img and qemu-io).

Images are as small as the format lets them be. Left alone here are inputs that once crashed a target
("found-...") and those by which long runs got further ("grown-..."), chosen with
fuzz_NAME -merge=1 -use_counters=0 NEW-FOLDER tests/fuzz/corpus/NAME FOLDER-OF-THE-RUN.
"""
import os
import pathlib
import struct
import subprocess
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
VARIANTS = 16           # of fuzz_tables.c
KINDS = 10


def run(*args):
    subprocess.run(args, check=True, stdout=subprocess.DEVNULL)


def image(folder, name, options, size="64k", work=(), more=()):
    """An image by qemu-img, written to by qemu-io, then changed by further qemu-img commands."""
    path = folder / name
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, str(path), size)
    if work:
        args = [a for w in work for a in ("-c", w)]
        run("qemu-io", "-f", "qcow2", *args, str(path))
    for command in more:
        run("qemu-img", *command, str(path))
    return path


def patched(path, name, *changes):
    data = bytearray(path.read_bytes())
    for offset, value in changes:
        data[offset:offset + len(value)] = value
    (path.parent / name).write_bytes(data)


def headers(folder):
    small = "cluster_size=512"
    work = ("write -P 1 0 1k", "write -P 2 40k 512", "write -z 8k 2k")
    plain = image(folder, "v3", small, work=work)
    image(folder, "v2", small + ",compat=0.10", work=work[:2])
    image(folder, "empty", small, size="512")
    image(folder, "refcount-1", small + ",refcount_bits=1", work=work)
    image(folder, "refcount-64", small + ",refcount_bits=64", work=work)
    image(folder, "lazy", small + ",lazy_refcounts=on", work=work)
    image(folder, "compressed", small, work=("write -c -P 3 0 4k",))
    image(folder, "snapshot", small, work=work, more=(("snapshot", "-c", "one"),))
    image(folder, "bitmap", small, work=work)
    run("qemu-img", "bitmap", "--add", "-g", "4096", str(folder / "bitmap"), "b")
    os.chdir(folder)
    # names of fuzz.h's files; the data file's is put in the place of another of the same length
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-o", small, "-b", "/proc/self/fd/102", "-F", "raw",
        "backing", "64k")
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", small + ",data_file=data-file-0123456,data_file_raw=on",
        "data-file", "64k")
    external = pathlib.Path("data-file").read_bytes()
    pathlib.Path("data-file").write_bytes(external.replace(b"data-file-0123456", b"/proc/self/fd/101"))
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-o", small, "-F", "qcow2", "-b",
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"x"}}', "json", "64k")
    os.unlink("data-file-0123456")
    patched(plain, "dirty", (72, struct.pack(">Q", 1)))
    patched(plain, "corrupt", (72, struct.pack(">Q", 2)))
    patched(plain, "foreign", (72, struct.pack(">Q", 1 << 9)))
    patched(plain, "autoclear", (88, struct.pack(">Q", 1 << 5)))
    patched(plain, "huge-disk", (24, struct.pack(">Q", 1 << 62)))
    patched(plain, "huge-l1", (36, struct.pack(">I", 0x400000)))
    patched(plain, "huge-reft", (56, struct.pack(">I", 0x4000)))
    patched(plain, "many-snapshots", (60, struct.pack(">I", 65536)), (64, struct.pack(">Q", 1024)))
    patched(plain, "extended-l2", (72, struct.pack(">Q", 16)))
    (folder / "short").write_bytes(plain.read_bytes()[:512])


def tables(folder):
    for v in range(VARIANTS):
        (folder / f"sound-{v}").write_bytes(bytes([v, 0]))
        patches = b""
        for kind in range(KINDS):
            patches += bytes([kind, v, v * 7 % 16, v % 5]) + struct.pack(">Q", 0x8000000000000000 | v << 9)
            if kind % 3 == 2:
                (folder / f"patched-{v}-{kind}").write_bytes(bytes([v, kind]) + patches)
                patches = b""


def names(folder):
    texts = (
        "image.qcow2", "/abs/image", "../up/image", "file:image", "file:/abs/a:b", "./with:colon", "nbd:host:10809",
        ":x", "file:", "",
        'json:{"driver":"qcow2","file":{"driver":"file","filename":"x"}}',
        'json:{"driver":"raw","offset":512,"size":"1024","file.filename":"x"}',
        'json:{"file.filename":"a","backing":null}',
        'json:{"driver":"qcow2","file.filename":"a","backing":{"driver":"raw","file":{"driver":"file",'
        '"filename":"b"}}}',
        'json:{"driver":"qcow2","file.filename":"a","backing.driver":"qcow2","backing.file.filename":"b",'
        '"backing.backing.driver":"raw","backing.backing.file.filename":"c"}',
        'json:{"driver":"qcow2","data-file":{"driver":"file","filename":"d"},"file":"node"}',
        'json:{"driver":"file","filename":"a\\u000ab","node-name":"n","discard":"unmap"}',
        'json:{"driver":"nbd","server":{"type":"inet"}}', 'json:[1]', 'json:{"a":[{}]}', "json:" + '{"a":' * 40,
    )
    for i, text in enumerate(texts):
        (folder / f"name-{i:02}").write_text(text)


def qmp(folder):
    texts = (
        b'{"execute":"query-version","id":1}\n{"execute":"query-commands"}',
        b'{"execute":"echo","arguments":{"s":"a","i":-1,"n":1.5,"b":true,"m":"top","o":{"k":[]},"a":[1],"x":null}}',
        b'{"execute":"yield","arguments":{"s":"\\u00e9"}}{"execute":"fail","arguments":{"s":"dev","i":3}}',
        b'{"execute":"query-block"}{"execute":"query-named-block-nodes","arguments":{"flat":true}}',
        b'{"execute":"x-qchain-info"}{"execute":"query-blockstats","arguments":{"query-nodes":true}}',
        b'{"execute":"fa\xffil","argum\xffents":{}}\xff{"execute":"large"}',
        b'\xfe{"execute":"query-version"}{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}',
        b'\xfe{"execute":"qmp_capabilities","arguments":{"enable":[1]}}', b'[1,2]"x" 17 true nul',
        b'{"execute":1}{"arguments":[]}{"exec":"x"}{"execute":"nothing"}', b'{"execute":"echo","arguments":{"s":1}}',
        b'{"execute":"echo","execute":"echo"}', b'{"execute":"echo","arguments":{"zz":1}}', b'[' * 100, b'"a\nb"',
    )
    for i, text in enumerate(texts):
        (folder / f"stream-{i:02}").write_bytes(text)


def main():
    for name, make in (("header", headers), ("tables", tables), ("names", names), ("qmp", qmp)):
        target = HERE / "corpus" / name
        target.mkdir(parents=True, exist_ok=True)
        for old in target.iterdir():
            if not old.name.startswith(("found-", "grown-")):
                old.unlink()
        with tempfile.TemporaryDirectory() as work:
            make(pathlib.Path(work))
            for made in pathlib.Path(work).iterdir():
                (target / made.name).write_bytes(made.read_bytes())
            os.chdir(HERE)


if __name__ == "__main__":
    main()
