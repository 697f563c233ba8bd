"""Python's `websockets` as the client of `sockeye serve` and as the server under `sockeye connect`."""

import asyncio
import logging
import os
import signal
import ssl
import unittest

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websockets_serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate

import sockeye

# A refused handshake is what some tests want; asyncio would log each with a traceback.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)

COMPRESSIBLE = "compressible " * 10_000


class Counting:
    """Counts the bytes that come over the wire, before anything is inflated."""

    received = 0

    def data_received(self, data):
        self.received += len(data)
        super().data_received(data)


class CountingClient(Counting, ClientConnection):
    pass


class CountingServer(Counting, ServerConnection):
    pass


def client(url, **settings):
    settings.setdefault("max_size", 64 << 20)
    return websockets_connect(
        url,
        create_connection=CountingClient,
        open_timeout=sockeye.DEADLINE,
        close_timeout=sockeye.DEADLINE,
        proxy=None,
        **settings,
    )


def deflates(connection):
    return any(isinstance(extension, PerMessageDeflate) for extension in connection.protocol.extensions)


class Case(unittest.IsolatedAsyncioTestCase):
    def setUp(self):
        self.enterContext(_deadline(self))


class _deadline:
    """Fails a test that takes longer than a minute, whatever it waits for."""

    def __init__(self, case):
        self.case = case

    def __enter__(self):
        def expired(*_):
            raise TimeoutError(f"{self.case.id()} took more than a minute")

        self.before = signal.signal(signal.SIGALRM, expired)
        signal.alarm(60)

    def __exit__(self, *_):
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self.before)


class Client(Case):
    async def echoes(self, connection, message):
        await connection.send(message)
        async with asyncio.timeout(sockeye.DEADLINE):
            self.assertEqual(await connection.recv(), message)

    async def test_text_and_binary(self):
        async with sockeye.serve() as (url, _):
            for compression in (None, "deflate"):
                with self.subTest(compression=compression):
                    async with client(url, compression=compression) as connection:
                        for text in ("", "Hello", "Привет, 鮭 🐟", "x" * 126, "y" * 65_536):
                            await self.echoes(connection, text)
                        for size in (0, 1, 125, 126, 65_535, 65_536, 1_000_000):
                            await self.echoes(connection, os.urandom(size))

    async def test_16_mib(self):
        async with sockeye.serve() as (url, _):
            for compression in (None, "deflate"):
                with self.subTest(compression=compression):
                    async with client(url, compression=compression) as connection:
                        await self.echoes(connection, os.urandom(1 << 16) * (1 << 8))

    async def test_fragments(self):
        async with sockeye.serve() as (url, _), client(url) as connection:
            await connection.send(["Прив", "ет, ", "мир"])
            self.assertEqual(await connection.recv(), "Привет, мир")

    async def test_compression_is_agreed_and_used(self):
        async with sockeye.serve() as (url, _), client(url) as connection:
            self.assertTrue(deflates(connection))
            before = connection.received
            await self.echoes(connection, COMPRESSIBLE)
            self.assertLess(connection.received - before, len(COMPRESSIBLE) / 10)

    async def test_compression_is_not_used_unless_offered(self):
        async with sockeye.serve() as (url, _), client(url, compression=None) as connection:
            self.assertFalse(deflates(connection))
            before = connection.received
            await self.echoes(connection, COMPRESSIBLE)
            self.assertGreater(connection.received - before, len(COMPRESSIBLE))

    async def test_compression_parameters(self):
        for bits in (9, 12, 15):
            for no_context in (False, True):
                offer = ClientPerMessageDeflateFactory(
                    server_no_context_takeover=no_context,
                    client_no_context_takeover=no_context,
                    server_max_window_bits=bits,
                    client_max_window_bits=bits,
                )
                with self.subTest(bits=bits, no_context=no_context):
                    async with sockeye.serve() as (url, _):
                        async with client(url, compression=None, extensions=[offer]) as connection:
                            self.assertTrue(deflates(connection))
                            (agreed,) = connection.protocol.extensions
                            self.assertLessEqual(agreed.remote_max_window_bits, bits)
                            for message in (COMPRESSIBLE, "short", "", COMPRESSIBLE, os.urandom(100_000)):
                                await self.echoes(connection, message)

    async def test_ping(self):
        async with sockeye.serve() as (url, _), client(url) as connection:
            for payload in (b"", b"are you there?", b"p" * 125):
                async with asyncio.timeout(sockeye.DEADLINE):
                    await (await connection.ping(payload))

    async def test_subprotocol(self):
        async with sockeye.serve("--subprotocol", "chat") as (url, _):
            async with client(url, subprotocols=["superchat", "chat"]) as connection:
                self.assertEqual(connection.subprotocol, "chat")
            async with client(url) as connection:
                self.assertIsNone(connection.subprotocol)

    async def test_close_is_answered_in_kind(self):
        async with sockeye.serve() as (url, _):
            closes = ((1000, "done"), (1001, ""), (1002, "protocol error"), (3000, "причина"), (4999, "r" * 123))
            for code, reason in closes:
                with self.subTest(code=code):
                    async with client(url) as connection:
                        await connection.close(code, reason)
                        answer = connection.protocol.close_rcvd
                        self.assertEqual(answer.code, code)
                        self.assertIn(answer.reason, ("", reason))  # §5.5.1 has only the code echoed.

    async def test_close_by_the_server(self):
        async with sockeye.serve() as (url, program):
            async with client(url) as connection:
                await connection.send("hello")
                self.assertEqual(await connection.recv(), "hello")
                program.send_signal(signal.SIGINT)
                with self.assertRaises(ConnectionClosed) as ended:
                    async with asyncio.timeout(sockeye.DEADLINE):
                        await connection.recv()
                self.assertEqual(ended.exception.rcvd.code, 1001)
            self.assertEqual(await program.wait(), 0)

    async def test_wss(self):
        directory, ca, cert, key = sockeye.certificates()
        with directory:
            async with sockeye.serve("--tls-cert", str(cert), "--tls-key", str(key)) as (url, _):
                async with client(url, ssl=ssl.create_default_context(cafile=str(ca))) as connection:
                    await self.echoes(connection, "за закрытой дверью")
                    await self.echoes(connection, os.urandom(1_000_000))
                with self.assertRaises(ssl.SSLCertVerificationError):
                    await client(url)


class Server(Case):
    """Each test serves one kind of handler; `seen` keeps its connections."""

    async def asyncSetUp(self):
        self.seen = []

    async def listen(self, handler, **settings):
        async def handle(connection):
            self.seen.append(connection)
            try:
                await handler(connection)
            except ConnectionClosedError:
                pass

        settings.setdefault("max_size", 64 << 20)
        server = await websockets_serve(handle, "127.0.0.1", 0, create_connection=CountingServer, **settings)
        self.addCleanup(server.close)
        scheme = "wss" if "ssl" in settings else "ws"
        return f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    @staticmethod
    async def echo(connection):
        async for message in connection:
            await connection.send(message)

    async def test_echo(self):
        lines = ["Hello", "Привет, 鮭 🐟", "x" * 126, "y" * 70_000, *(f"line {i}" for i in range(500))]
        for compression in (None, "deflate"):
            with self.subTest(compression=compression):
                url = await self.listen(self.echo, compression=compression)
                status, output, errors = await sockeye.connect(url, lines=lines)
                self.assertEqual(status, 0, errors)
                self.assertEqual(output.splitlines(), lines)
                connection = self.seen[-1]
                await connection.wait_closed()
                self.assertEqual(connection.protocol.close_rcvd.code, 1000)
                self.assertEqual(deflates(connection), compression is not None)

    async def test_compression_is_used(self):
        url = await self.listen(self.echo)
        status, output, errors = await sockeye.connect(url, lines=[COMPRESSIBLE])
        self.assertEqual((status, output), (0, COMPRESSIBLE + "\n"), errors)
        self.assertTrue(deflates(self.seen[0]))
        self.assertLess(self.seen[0].received, len(COMPRESSIBLE) / 10)

    async def test_no_compress(self):
        url = await self.listen(self.echo)
        status, output, errors = await sockeye.connect(url, "--no-compress", lines=[COMPRESSIBLE])
        self.assertEqual((status, output), (0, COMPRESSIBLE + "\n"), errors)
        self.assertFalse(deflates(self.seen[0]))
        self.assertGreater(self.seen[0].received, len(COMPRESSIBLE))

    async def test_ping(self):
        answered = []

        async def handler(connection):
            for payload in (b"", b"are you there?", b"p" * 125):
                async with asyncio.timeout(sockeye.DEADLINE):
                    await (await connection.ping(payload))
                answered.append(payload)

        status, _, errors = await sockeye.connect(await self.listen(handler), linger=10)
        self.assertEqual(status, 0, errors)
        self.assertEqual(len(answered), 3)

    async def test_close_codes(self):
        for code in (1000, 1001, 1002, 3000, 4999):
            with self.subTest(code=code):

                async def handler(connection):
                    await connection.close(code, "причина")

                status, _, errors = await sockeye.connect(await self.listen(handler), linger=10)
                self.assertEqual(status == 0, code == 1000, errors)
                self.assertEqual(self.seen[-1].protocol.close_rcvd.code, code)

    async def test_subprotocol(self):
        url = await self.listen(self.echo, subprotocols=["chat"])
        status, _, errors = await sockeye.connect(url, "--subprotocol", "chat", lines=["hello"])
        self.assertEqual(status, 0, errors)
        self.assertEqual(self.seen[0].subprotocol, "chat")

    async def test_wss(self):
        directory, ca, cert, key = sockeye.certificates()
        with directory:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            url = await self.listen(self.echo, ssl=context)
            for options, passes in ((("--ca", str(ca)), True), (("--insecure",), True), ((), False)):
                with self.subTest(options=options):
                    status, output, errors = await sockeye.connect(url, *options, lines=["за закрытой дверью"])
                    self.assertEqual(status == 0, passes, errors)
                    self.assertEqual(output, "за закрытой дверью\n" if passes else "")


if __name__ == "__main__":
    unittest.main()
