#!/usr/bin/env python3
"""Judges a report of the Autobahn|Testsuite: gate.py INDEX.JSON SPEC.JSON

The suite itself exits with 0 whatever happened, so its report is read: every expected case is there, each
`behavior` is OK (INFORMATIONAL for the three cases that never are anything else), each `behaviorClose` is OK.
"""

import collections
import json
import sys

SECTIONS = {
    "1": "framing", "2": "pings, pongs", "3": "reserved bits", "4": "opcodes", "5": "fragmentation", "6": "UTF-8",
    "7": "closing", "9": "limits", "10": "automatic fragmentation", "12": "deflate payloads", "13": "deflate parameters",
}
# What these do is left to the endpoint, and the suite only notes it.
INFORMATIONAL = {"7.1.6", "7.13.1", "7.13.2"}
COLUMNS = ("OK", "INFORMATIONAL", "NON-STRICT", "FAILED", "UNIMPLEMENTED")


def judge(case, result):
    """Why this result is not good enough, or None."""
    expected = "INFORMATIONAL" if case in INFORMATIONAL else "OK"
    if result["behavior"] != expected:
        return f"behavior {result['behavior']}, expected {expected}"
    # A case that ends in a way that is left open notes its close as INFORMATIONAL, too.
    if result["behaviorClose"] != "OK" and result["behaviorClose"] != expected:
        return f"behaviorClose {result['behaviorClose']}, expected OK"
    return None


def gate(report, expected):
    """Prints a table and the faults of one agent's report: gives how many cases passed and failed."""
    sections = collections.defaultdict(dict)
    for case, result in report.items():
        sections[case.split(".")[0]][case] = result

    print(f"{'section':31}{'cases':>6}" + "".join(f"{c.lower():>15}" for c in COLUMNS) + f"{'close ok':>10}")
    faults = []
    total = collections.Counter()
    for section in sorted(set(sections) | set(expected), key=int):
        results = sections[section]
        kinds = collections.Counter(r["behavior"] for r in results.values())
        close = sum(r["behaviorClose"] == "OK" for r in results.values())
        total.update(kinds, cases=len(results), close=close)
        name = f"{section:>2} {SECTIONS.get(section, '?')}"
        print(f"{name:31}{len(results):6}" + "".join(f"{kinds[c]:15}" for c in COLUMNS) + f"{close:10}")
        if len(results) != expected.get(section, 0):
            faults.append(f"section {section}: {len(results)} cases in the report, {expected.get(section, 0)} expected")
    print(f"{'   all':31}{total['cases']:6}" + "".join(f"{total[c]:15}" for c in COLUMNS) + f"{total['close']:10}")

    bad = 0
    for case in sorted(report, key=lambda case: [int(part) for part in case.split(".")]):
        if fault := judge(case, report[case]):
            bad += 1
            faults.append(f"case {case}: {fault} (closed by the peer with {report[case]['remoteCloseCode']})")
    for fault in faults:
        print(f"  {fault}")
    missing = max(0, sum(expected.values()) - len(report))
    failed = max(bad + missing, 1 if faults else 0)
    return len(report) - bad, failed


def main(index, spec):
    with open(index) as file:
        reports = json.load(file)
    with open(spec) as file:
        expected = json.load(file)["expected"]
    if len(reports) != 1:
        print(f"  {len(reports)} agents in the report, 1 expected")
        passed, failed = 0, sum(expected.values())
    else:
        passed, failed = gate(*reports.values(), expected)
    print(f"{passed} passed, {failed} failed")
    return failed == 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(0 if main(*sys.argv[1:]) else 1)
