#!/usr/bin/env python3
"""Runs the Autobahn|Testsuite against a role and judges the report: run.py {server|client|both} {short|full}

Both run at the same time, since the suite keeps one core busy.

Environment: WSTEST, the suite's command; SOCKEYE_BIN, the server under test; AUTOBAHN_CLIENT, the client under
test; REPORTS, the directory that the reports are written to.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import gate

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target"))
WSTEST = os.environ.get("WSTEST", str(TARGET / "autobahn" / "wstest"))
SERVER = os.environ.get("SOCKEYE_BIN", str(TARGET / "release" / "sockeye"))
CLIENT = os.environ.get("AUTOBAHN_CLIENT", str(TARGET / "release" / "autobahn-client"))
REPORTS = pathlib.Path(os.environ.get("REPORTS", TARGET / "autobahn" / "reports"))


def stop(process):
    """Ends a process: asks first."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wstest(mode, spec, directory, *options):
    path = directory / f"{mode}.json"
    path.write_text(json.dumps(spec))
    log = open(directory / f"{mode}.log", "w")
    return subprocess.Popen([WSTEST, "-m", mode, "-s", str(path), *options], cwd=directory, stdout=log, stderr=log)


def test_server(cases, reports, directory, deadline):
    """`wstest` is the client, `sockeye serve` is under test."""
    server = subprocess.Popen([SERVER, "serve", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
    try:
        address = None
        watchdog = threading.Timer(15, server.kill)
        watchdog.start()
        for line in server.stdout:
            if address := re.search(r"http://([^\s/]+)", line):
                break
        watchdog.cancel()
        if not address:
            sys.exit(f"{SERVER} printed no address")
        threading.Thread(target=server.stdout.read, daemon=True).start()
        spec = {
            "outdir": str(reports),
            "servers": [{"agent": "sockeye", "url": f"ws://{address[1]}/"}],
            "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
        }
        tester = wstest("fuzzingclient", spec, directory)
        try:
            tester.wait(deadline)
        finally:
            stop(tester)
        if server.poll() is not None:
            print(f"  {SERVER} ended with {server.returncode} during the run")
    finally:
        stop(server)


def start_server(cases, reports, directory):
    """`wstest` as a server, and its port; None where another program has taken that meanwhile."""
    port = free_port()
    spec = {
        "outdir": str(reports), "url": f"ws://127.0.0.1:{port}",
        "cases": cases, "exclude-cases": [], "exclude-agent-cases": {},
    }
    tester = wstest("fuzzingserver", spec, directory, "-u", "0")
    until = time.monotonic() + 30
    while tester.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return tester, port
        except OSError:
            if time.monotonic() > until:
                break
            time.sleep(0.1)
    stop(tester)
    log = (directory / "fuzzingserver.log").read_text()
    if "CannotListenError" in log:
        return None
    sys.exit("wstest did not start:\n" + log)


def test_client(cases, reports, directory, deadline):
    """`wstest` is the server, `autobahn-client` is under test."""
    for _ in range(10):
        if started := start_server(cases, reports, directory):
            break
    else:
        sys.exit("wstest found no port to listen on")
    tester, port = started
    try:
        subprocess.run([CLIENT, f"ws://127.0.0.1:{port}", "sockeye"], check=True, timeout=deadline)
    finally:
        stop(tester)


def main(role, length):
    spec = json.loads((HERE / f"{length}.json").read_text())
    reports = REPORTS / f"{role}-{length}"
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sockeye-autobahn-") as directory:
        run = {"server": test_server, "client": test_client}[role]
        try:
            run(spec["cases"], reports, pathlib.Path(directory), spec["deadline"])
        except subprocess.TimeoutExpired:
            print(f"  not done after {spec['deadline']} s")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"  {error}")
        index = reports / "index.json"
        if not index.exists():
            for log in pathlib.Path(directory).glob("*.log"):
                print(log.read_text()[-2000:])
            print(f"  no report\n0 passed, {sum(spec['expected'].values())} failed")
            return False
    print(f"Autobahn|Testsuite, {role}, {length}: {time.monotonic() - began:.0f} s, report in {reports}/index.html")
    return gate.main(index, HERE / f"{length}.json")


def both(length):
    """Each role in a process of its own; what they say comes one after the other."""
    command = [sys.executable, __file__]
    runs = [subprocess.Popen([*command, role, length], stdout=subprocess.PIPE, text=True) for role in ("server", "client")]
    try:
        for run in runs:
            print(run.communicate()[0], end="")
    finally:
        for run in runs:
            stop(run)
    return all(run.returncode == 0 for run in runs)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("server", "client", "both") or sys.argv[2] not in ("short", "full"):
        sys.exit(__doc__)
    role, length = sys.argv[1:]
    sys.exit(0 if (both(length) if role == "both" else main(role, length)) else 1)
