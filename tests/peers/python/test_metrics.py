"""The metrics of `sockeye serve`, read by Prometheus's own parser: they are what this test has sent."""

import asyncio
import re
import signal
import subprocess
import unittest
import urllib.error
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sockeye import DEADLINE, running

direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url):
    with direct.open(url, timeout=DEADLINE) as response:
        return response.headers["Content-Type"], response.read().decode()


class Metrics(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        manager = running("serve", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--max-message", "1M")
        self.program = await self.enterAsyncContext(manager)
        found = []
        async with asyncio.timeout(DEADLINE):
            while len(found) < 2:
                line = (await self.program.stdout.readline()).decode()
                self.assertTrue(line, "it ended")
                found += re.findall(r"http://([^\s\"'<>]+)", line)
        self.socket, self.metrics = f"ws://{found[0]}", f"http://{found[1]}"
        self.assertTrue(self.metrics.endswith("/metrics"))
        self.drain = [asyncio.create_task(s.read()) for s in (self.program.stdout, self.program.stderr)]

    async def asyncTearDown(self):
        self.program.send_signal(signal.SIGINT)
        async with asyncio.timeout(DEADLINE):
            await self.program.wait()
        await asyncio.gather(*self.drain)

    async def read(self):
        """All samples, by name and labels."""
        kind, text = await asyncio.to_thread(fetch, self.metrics)
        self.assertTrue(kind.startswith("application/openmetrics-text; version=1.0.0"), kind)
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    async def until(self, value, name, **labels):
        """Waits until a sample is this, and gives all of them."""
        async with asyncio.timeout(DEADLINE):
            while True:
                samples = await self.read()
                if samples.get((name, *sorted(labels.items()))) == value:
                    return samples
                await asyncio.sleep(0.01)

    def total(self, samples, name, **labels):
        return samples.get((f"sockeye_{name}_total", *sorted(labels.items())))

    async def test_every_family_has_a_type_and_help(self):
        await self.read()
        kinds = {name: family.type for name, family in self.families.items()}
        self.assertEqual(
            kinds,
            {
                "sockeye_connections_open": "gauge",
                "sockeye_connections_accepted": "counter",
                "sockeye_handshakes_refused": "counter",
                "sockeye_accept_errors": "counter",
                "sockeye_closes": "counter",
                "sockeye_messages": "counter",
                "sockeye_message_bytes": "counter",
                "sockeye_transport_bytes": "counter",
                "sockeye_compressed_bytes": "counter",
                "sockeye_uncompressed_bytes": "counter",
                "sockeye_output_waiting_bytes": "gauge",
                "sockeye_round_trip_seconds": "histogram",
            },
        )
        for family in self.families.values():
            self.assertTrue(family.documentation.endswith("."), family)

    async def test_messages_bytes_and_closes_are_what_was_sent(self):
        texts = [f"message {number}, жук" for number in range(50)]
        binaries = [bytes([number]) * 1000 for number in range(20)]
        async with connect(self.socket, compression=None, proxy=None) as one:
            async with connect(self.socket, compression=None, proxy=None) as two:
                for message in texts + binaries:
                    await one.send(message)
                    self.assertEqual(await one.recv(), message)
                await two.send("only one")
                await two.recv()
                await (await two.ping())
                samples = await self.read()
                self.assertEqual(samples[("sockeye_connections_open",)], 2)
                self.assertEqual(self.total(samples, "connections_accepted"), 2)
                await two.close(4001, "of its own")
            samples = await self.until(1, "sockeye_connections_open")
        samples = await self.until(0, "sockeye_connections_open")
        text_bytes = sum(len(text.encode()) for text in texts) + len("only one")
        for direction in ("received", "sent"):
            about = {"direction": direction}
            self.assertEqual(self.total(samples, "messages", kind="text", **about), 51)
            self.assertEqual(self.total(samples, "messages", kind="binary", **about), 20)
            self.assertEqual(self.total(samples, "message_bytes", kind="text", **about), text_bytes)
            self.assertEqual(self.total(samples, "message_bytes", kind="binary", **about), 20_000)
            self.assertEqual(self.total(samples, "compressed_bytes", **about), 0)
        self.assertEqual(self.total(samples, "messages", kind="ping", direction="received"), 1)
        self.assertEqual(self.total(samples, "messages", kind="pong", direction="sent"), 1)
        self.assertEqual(self.total(samples, "closes", code="1000", by="peer"), 1)
        self.assertEqual(self.total(samples, "closes", code="4xxx", by="peer"), 1)
        self.assertEqual(samples[("sockeye_output_waiting_bytes",)], 0)

    async def test_compression_is_told(self):
        async with connect(self.socket, proxy=None) as socket:
            await socket.send("ha" * 5000)
            await socket.recv()
        samples = await self.until(0, "sockeye_connections_open")
        for direction in ("received", "sent"):
            self.assertEqual(self.total(samples, "uncompressed_bytes", direction=direction), 10_000)
            compressed = self.total(samples, "compressed_bytes", direction=direction)
            self.assertTrue(0 < compressed < 200, compressed)

    async def test_who_breaks_a_rule_is_told_by_code(self):
        async with connect(self.socket, compression=None, proxy=None) as socket:
            await socket.send(b"x" * (1 << 20) + b"x")
            await socket.wait_closed()
        samples = await self.until(0, "sockeye_connections_open")
        self.assertEqual(self.total(samples, "closes", code="1009", by="protocol_error"), 1)

    async def test_refusals_are_told_by_reason(self):
        with self.assertRaises(InvalidStatus):
            async with connect(self.socket + "?close=1006", proxy=None):
                pass
        name = "sockeye_handshakes_refused_total"
        samples = await self.until(1, name, reason="decision")
        self.assertEqual(samples[(name, ("reason", "handshake"))], 0)

    async def test_curl_can_read_it(self):
        command = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", self.metrics]
        program = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        async with asyncio.timeout(DEADLINE):
            text, _ = await program.communicate()
        self.assertEqual(program.returncode, 0)
        self.assertEqual(len(list(text_string_to_metric_families(text.decode()))), 12)

    async def test_nothing_else_is_there(self):
        with self.assertRaises(urllib.error.HTTPError) as caught:
            await asyncio.to_thread(fetch, self.metrics.replace("/metrics", "/"))
        self.assertEqual(caught.exception.code, 404)
        caught.exception.close()
