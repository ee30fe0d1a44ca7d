# SPDX-License-Identifier: GPL-2.0-or-later
"""Prints an output of qemu-img or qcimg without what depends on QEMU's version:
the protocol layer that info shows since 8.1, map's "compressed" since 8.2, the
layout of the snapshot list, and the order of JSON keys."""
import json
import re
import sys

NEW_KEYS = {'children', 'detached-header', 'compressed'}


def strip(value):
    if isinstance(value, dict):
        return {k: strip(v) for k, v in value.items() if k not in NEW_KEYS}
    if isinstance(value, list):
        return [strip(v) for v in value]
    return value


def human(text):
    text = re.sub(r"(?m)^Child node '/.*\n(    .*\n)*", '', text)
    text = re.sub(r'(?m)^Snapshot list:\n(?:\S.*\n)*?(?=Format specific|\Z)', 'Snapshot list\n', text)
    text = re.sub(r'(?m)^Run completed in \d+\.\d{3} seconds\.$', 'Run completed', text)
    return re.sub(r'(?m)^ *detached header: .*\n', '', text)


with open(sys.argv[1], encoding='utf-8') as f:
    content = f.read()
try:
    print(json.dumps(strip(json.loads(content)), indent=1, sort_keys=True))
except ValueError:
    print(human(content), end='')
