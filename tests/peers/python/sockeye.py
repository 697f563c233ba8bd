"""Starts the `sockeye` binary, and `test-server`, for the tests that are written for Python, and always ends them."""

import asyncio
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import tempfile

TESTS = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", TESTS.parent / "target"))
BINARY = os.environ.get("SOCKEYE_BIN", str(TARGET / "release" / "sockeye"))
SERVER = os.environ.get("TEST_SERVER_BIN", str(TARGET / "release" / "test-server"))

DEADLINE = 15
"""Seconds that any single wait may take."""


async def start(*args):
    # No proxy but those that a test names.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return await asyncio.create_subprocess_exec(
        BINARY,
        *args,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        limit=64 << 20,
    )


@contextlib.asynccontextmanager
async def running(*args):
    """The program with these arguments; killed at the end if it has not ended by itself."""
    program = await start(*args)
    try:
        yield program
    finally:
        if program.returncode is None:
            program.kill()
        await program.wait()


@contextlib.asynccontextmanager
async def serve(*args):
    """`sockeye serve` on a free port: gives its WebSocket address and the program."""
    async with running("serve", "--listen", "127.0.0.1:0", *args) as program:
        async with asyncio.timeout(DEADLINE):
            while True:
                line = (await program.stdout.readline()).decode()
                if not line:
                    raise AssertionError((await program.stderr.read()).decode())
                if found := re.search(r"http(s?://[^\s\"'<>]+)", line):
                    break
        # What it prints later must not fill the pipe.
        drain = [asyncio.create_task(stream.read()) for stream in (program.stdout, program.stderr)]
        yield "ws" + found[1], program
        if program.returncode is None:
            program.send_signal(signal.SIGINT)
            async with asyncio.timeout(DEADLINE):
                await program.wait()
        await asyncio.gather(*drain)


@contextlib.asynccontextmanager
async def test_server(*args):
    """`test-server`: gives its two addresses (callbacks, async sockets) and what it says of failures."""
    process = await asyncio.create_subprocess_exec(
        SERVER, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    errors = []

    async def collect():
        async for line in process.stderr:
            errors.append(line.decode())

    collecting = asyncio.create_task(collect())
    try:
        async with asyncio.timeout(DEADLINE):
            found = []
            while len(found) < 2:
                line = (await process.stdout.readline()).decode()
                if not line:
                    raise AssertionError("".join(errors))
                found += re.findall(r"ws://([\d.:]+)/", line)
        yield found, errors
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        collecting.cancel()


async def connect(url, *args, lines=(), linger=2):
    """Runs `sockeye connect` in a pipe to its end: gives exit status, output and errors."""
    async with running("connect", "--linger", str(linger), *args, url) as program:
        async with asyncio.timeout(2 * DEADLINE):
            output, errors = await program.communicate("".join(f"{line}\n" for line in lines).encode())
        return program.returncode, output.decode(), errors.decode()


def certificates():
    """Paths of a test authority, of a certificate it signed for 127.0.0.1, and of its key."""
    directory = tempfile.TemporaryDirectory(prefix="sockeye-tls-")
    subprocess.run([TESTS / "make-certificates.sh", directory.name], check=True, timeout=DEADLINE)
    at = pathlib.Path(directory.name)
    return directory, at / "ca.pem", at / "server.pem", at / "server.key"
