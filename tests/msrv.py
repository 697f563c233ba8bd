#!/usr/bin/env python3
"""Checks that no dependency asks for a newer Rust than the workspace's `rust-version`: msrv.py < cargo metadata"""

import json
import sys


def version(text):
    parts = [int(part) for part in text.split("-")[0].split(".")]
    return tuple(parts + [0] * (3 - len(parts)))


metadata = json.load(sys.stdin)
members = set(metadata["workspace_members"])
floor = min(version(p["rust_version"]) for p in metadata["packages"] if p["id"] in members and p["rust_version"])
newer = [
    f"{p['name']} {p['version']} needs Rust {p['rust_version']}, the workspace says {'.'.join(map(str, floor))}"
    for p in metadata["packages"]
    if p["rust_version"] and p["id"] not in members and version(p["rust_version"]) > floor
]
print("\n".join(newer) or f"{len(metadata['packages'])} packages build with Rust {'.'.join(map(str, floor))}")
sys.exit(1 if newer else 0)
