#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The same QMP conversation with qchaind and with qemu-storage-daemon: answers of one shape, errors of one wording."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

BIN = os.environ.get('QCHAIN_BIN', 'build/release/bin')
work = tempfile.mkdtemp(prefix='qchain-test.', dir=os.environ.get('TMPDIR', '/var/tmp'))
os.environ['QCHAIN_RUNDIR'] = work + '/run'
os.environ['QCHAIN_ETCDIR'] = work + '/etc'
os.chdir(work)


class Peer:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(path)
        self.lines = self.sock.makefile('rb')
        self.greeting = self.next()

    def next(self):
        """The next message that is no event; None at the end."""
        while True:
            line = self.lines.readline()
            if not line:
                return None
            message = json.loads(line)
            if 'event' not in message:
                return message

    def ask(self, request):
        text = request if isinstance(request, str) else json.dumps(request)
        self.sock.sendall(text.encode() + b'\n')
        return self.next()


def run(*argv):
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)


def connect_when_up(path, process):
    deadline = time.monotonic() + 30
    while True:
        try:
            return Peer(path)
        except (FileNotFoundError, ConnectionRefusedError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise


def command(name, **arguments):
    request = {'execute': name}
    if arguments:
        request['arguments'] = {k.replace('_', '-'): v for k, v in arguments.items()}
    return request


failures = []


def check(what, good, detail=''):
    if not good:
        failures.append(f'{what}: {detail}')


def shape_in(path, theirs, ours):
    """Every member of theirs is in ours, of the same type; and the other way round, but for what newer releases add."""
    if type(theirs) is not type(ours):
        check(path, False, f'{type(theirs).__name__} there, {type(ours).__name__} here')
    elif isinstance(theirs, dict):
        for key, value in theirs.items():
            if key in ours:
                shape_in(f'{path}.{key}', value, ours[key])
            else:
                check(path, False, f"member '{key}' is missing")
        extra = set(ours) - set(theirs) - NEWER
        check(path, not extra, f'unknown members {extra}')
    elif isinstance(theirs, list):
        check(path, bool(theirs) == bool(ours), f'{len(theirs)} elements there, {len(ours)} here')
        if theirs and ours:
            shape_in(path + '[]', theirs[0], ours[0])


# Members that QEMU has since 8.x or 10.0, or that belong to a device model.
NEWER = {'active', 'zone_append_bytes', 'zone_append_operations', 'zone_append_total_time_ns', 'zone_append_merged',
         'failed_zone_append_operations', 'invalid_zone_append_operations', 'limits', 'device', 'qdev'}

# Requests that fail, before and after the negotiation; both daemons must say the same.
BEFORE = [command('query-version'), command('nothing'), '{"foo": 1}', '[]', command('qmp_capabilities', x=1),
          command('qmp_capabilities', enable='oob'), command('qmp_capabilities', enable=['warp'])]
AFTER = [command('qmp_capabilities'), command('nothing'), '{"execute": "nothing", "id": {"a": [1, null]}}', '"text"', '17', '[1]', '{}',
         '{"execute": 3}', '{"execute": "query-version", "arguments": []}', '{"execute": "query-version", "extra": 1}',
         '{"exec-oob": "query-version"}', command('query-version', x=1), command('query-named-block-nodes', flat='x'),
         command('query-named-block-nodes', flat=True, deep=True), command('query-blockstats', query_nodes=1)]


def nodes_by_format(answer):
    """Format nodes only, by file name: QEMU shows protocol nodes too, a chain has none."""
    return {os.path.basename(n['file']): n for n in answer['return'] if n['drv'] in ('qcow2', 'raw')}


def compare(theirs, ours):
    shape_in('greeting', {**theirs.greeting['QMP'], 'capabilities': []}, ours.greeting['QMP'])
    for request in BEFORE:
        check(f'before negotiation: {request}', theirs.ask(request) == ours.ask(request), ours.ask(request))
    for request in [{'execute': 'qmp_capabilities', 'id': 'x'}] + AFTER:
        there, here = theirs.ask(request), ours.ask(request)
        check(f'{request}', there == here, f'{there} there, {here} here')
    for name in ('query-version', 'query-commands'):
        shape_in(name, theirs.ask(command(name))['return'], ours.ask(command(name))['return'])
    shape_in('query-blockstats nodes', theirs.ask(command('query-blockstats', query_nodes=True))['return'][0]['stats'],
             ours.ask(command('query-blockstats', query_nodes=True))['return'][0]['stats'])
    for flat in (False, True):
        there = nodes_by_format(theirs.ask(command('query-named-block-nodes', flat=flat)))
        here = nodes_by_format(ours.ask(command('query-named-block-nodes', flat=flat)))
        check('nodes', set(there) == set(here), f'{set(there)} there, {set(here)} here')
        for name in there:
            shape_in(f'{name} (flat={flat})', there[name], here[name])
            for key in ('drv', 'ro', 'backing_file_depth', 'detect_zeroes', 'cache', 'encrypted'):
                check(f'{name}.{key}', there[name][key] == here[name][key], here[name][key])
            for key in ('virtual-size', 'format', 'format-specific', 'cluster-size', 'dirty-flag', 'backing-filename',
                        'backing-filename-format'):
                check(f'{name}.image.{key}', there[name]['image'].get(key) == here[name]['image'].get(key),
                      f"{there[name]['image'].get(key)} there, {here[name]['image'].get(key)} here")


def ours_alone(peer):
    status = peer.ask(command('query-status'))['return']
    check('query-status', status['running'] is True and status['status'] == 'running', status)
    check('query-name', peer.ask(command('query-name')) == {'return': {'name': 'web'}})
    block = peer.ask(command('query-block'))['return']
    check('query-block', len(block) == 1 and block[0]['device'] == 'web' and block[0]['io-status'] == 'ok', block)
    check('the active layer', block[0]['inserted']['node-name'] == 'layer-2', block[0]['inserted'])
    check('nested images', block[0]['inserted']['image']['backing-image']['backing-image']['format'] == 'raw')
    names = [n['node-name'] for n in peer.ask(command('query-named-block-nodes'))['return']]
    check('node names', names == ['layer-0', 'layer-1', 'layer-2'], names)
    commands = {c['name'] for c in peer.ask(command('query-commands'))['return']}
    for name in commands - {'quit', 'qmp_capabilities'}:
        answer = peer.ask(command(name))
        check(f'{name} is listed', answer.get('error', {}).get('class') != 'CommandNotFound', answer)
    info = peer.ask(command('x-qchain-info'))['return']
    check('x-qchain-info', info['depth'] == 3 and info['kind'] == 'none' and info['size'] == 32 << 20, info)


def main():
    if not shutil.which('qemu-storage-daemon'):
        print('skipped: qemu-storage-daemon is not installed')
        return 77
    for folder in ('theirs', 'ours'):
        os.mkdir(folder)
        os.chdir(folder)
        run('qemu-img', 'create', '-q', '-f', 'raw', 'base.raw', '16M')
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', '-o', 'compat=0.10', 'mid.qcow2')
        run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', 'mid.qcow2', '-F', 'qcow2', '-o', 'lazy_refcounts=on,extended_l2=on',
            'top.qcow2', '32M')
        os.chdir('..')
    theirs = subprocess.Popen(['qemu-storage-daemon', '--chardev', 'socket,path=qsd.sock,server=on,wait=off,id=c', '--monitor',
                               'chardev=c', '--blockdev', 'file,node-name=f,filename=theirs/top.qcow2', '--blockdev',
                               'qcow2,node-name=n,file=f'])
    ours = subprocess.Popen([BIN + '/qchaind', '--name', 'web', '--image', 'ours/top.qcow2', '--device', 'none', '--foreground',
                             '--cache', 'writeback'], stderr=subprocess.PIPE)
    try:
        peers = connect_when_up('qsd.sock', theirs), connect_when_up('run/web/qmp.sock', ours)
        compare(*peers)
        ours_alone(peers[1])
        for peer, process in zip(peers, (theirs, ours)):
            answer = peer.ask({'execute': 'quit', 'id': 7})
            check('quit', answer == {'return': {}, 'id': 7}, answer)
            check('exit status', process.wait(30) == 0, process.returncode)
        check('left behind', not os.listdir('run'), os.listdir('run'))
        log = ours.stderr.read()
        check('the log', b'rror' not in log, log)
    finally:
        for process in (theirs, ours):
            if process.poll() is None:
                process.kill()
                process.wait()
    for failure in failures:
        print('FAIL', failure)
    return 1 if failures else 0


try:
    code = main()
finally:
    os.chdir('/')
    shutil.rmtree(work)
sys.exit(code)
