#!/usr/bin/env python3
"""Counts the instructions of the hot paths with callgrind, and holds them to `bounds.txt`.

    tests/instructions/run.py PROGRAM...            compare
    tests/instructions/run.py PROGRAM... --update   write what was counted as the new bounds

Counts are exact on one machine and change a little with the compiler, the processor (libc chooses its memcpy by that)
and what the allocator has at hand (which the arguments and the paths of the process decide), so that a bound is broken
only beyond the tolerance. One that the code has outrun by as much is a failure too: write the new one down, or the next
loss hides in the room it left.
"""

import os
import pathlib
import re
import subprocess
import sys

# A part of the bound, or so many instructions in the whole run where that is more.
TOLERANCE = 0.05
ALLOCATOR = 400
BOUNDS = pathlib.Path(__file__).with_name("bounds.txt")


def count(program, name):
    """The instructions of the measured part of a workload."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured*", program, name]
    # A string instruction would count once for every byte it copies, and only where the processor favours it.
    environment = {**os.environ, "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-ERMS"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    found = re.search(r"Collected : (\d+)", result.stderr)
    if result.returncode != 0 or not found:
        sys.exit(f"{name}: {result.stderr}")
    return int(found[1])


def main():
    programs, update = [word for word in sys.argv[1:] if word != "--update"], "--update" in sys.argv
    bounds = {}
    if BOUNDS.exists():
        for line in BOUNDS.read_text().splitlines():
            if line and not line.startswith("#"):
                value, name = line.split(maxsplit=1)
                bounds[name] = float(value)
    counted = {}
    within, broken = [], []
    workloads = []
    for program in programs:
        listed = subprocess.run([program, "list"], capture_output=True, text=True, check=True)
        workloads += [(program, *line.split(maxsplit=1)) for line in listed.stdout.splitlines()]
    for program, messages, name in workloads:
        counted[name] = value = count(program, name) / int(messages)
        bound = bounds.pop(name, None)
        tolerated = bound and max(bound * TOLERANCE, ALLOCATOR / int(messages))
        if bound is None:
            verdict = "has no bound"
        elif value > bound + tolerated:
            verdict = f"more than the {bound:g} it is bound to"
        elif value < bound - tolerated:
            verdict = f"fewer than the {bound:g} it is bound to: run with --update"
        else:
            verdict = None
        (broken if verdict else within).append(f"{value:12.1f}  {name}" + (f"  {verdict}" if verdict else ""))
    broken += [f"{name}: bound, but no such workload" for name in bounds]
    print(*broken, *within, sep="\n")
    if update:
        head = "# Instructions a message, as `run.py` counts them; written by `run.py --update`.\n"
        BOUNDS.write_text(head + "".join(f"{value:.1f} {name}\n" for name, value in counted.items()))
        return
    print(f"{len(within)} passed, {len(broken)} failed")
    sys.exit(len(broken) > 0)


main()
