"""aioquic's HTTP/3 with the frames of `websockets` on its streams (RFC 9220), as the client of `sockeye serve` and as
the server under `sockeye connect`."""

import asyncio
import collections
import contextlib
import functools
import logging
import os
import signal
import ssl
import unittest
import urllib.parse

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.asyncio import serve as quic_serve
from aioquic.h3.connection import (
    H3_ALPN,
    ErrorCode,
    FrameType,
    H3Connection,
    Setting,
    StreamType,
    encode_frame,
    encode_uint_var,
)
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, StopSendingReceived, StreamReset
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    PerMessageDeflate,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import Opcode
from websockets.headers import build_extension, parse_extension
from websockets.protocol import Protocol, Side

import sockeye
from test_websockets import COMPRESSIBLE, Case
from test_websockets import client as websockets_client

# A connection that ends with an error is what some tests want.
logging.getLogger("quic").setLevel(logging.CRITICAL)

DEFLATE = ClientPerMessageDeflateFactory()
OFFER = {"sec-websocket-extensions": build_extension([(DEFLATE.name, DEFLATE.get_request_params())])}

SIZES = (0, 1, 125, 126, 65_535, 65_536, 1_000_000)


class Waits:
    """Something that is waited for until it has changed in a certain way, within the deadline."""

    def __init__(self):
        self.changed = asyncio.Event()
        self.lost = None
        """Why nothing changes any more."""

    async def until(self, seen, what):
        """Waits until something is seen, and gives it."""
        try:
            async with asyncio.timeout(sockeye.DEADLINE):
                while not (found := seen()):
                    if self.lost is not None:
                        raise AssertionError(f"no {what}: {self.lost}")
                    self.changed.clear()
                    await self.changed.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"no {what} in {sockeye.DEADLINE} s") from None


class Stream(Waits):
    """A request and its answer; a WebSocket once it is opened."""

    def __init__(self, connection, stream_id):
        super().__init__()
        self.connection, self.id = connection, stream_id
        self.head = None
        self.body = b""
        self.has_ended = False
        self.is_stopped = False
        self.websocket = None
        self.received_bytes = 0
        self.frames = []
        self.messages = collections.deque()
        self.parts = []

    # What the peer says.

    def received(self, event):
        match event:
            case HeadersReceived():
                fields = {name.decode(): value.decode() for name, value in event.headers}
                if not fields.get(":status", "").startswith("1"):
                    self.head = fields
            case DataReceived() if self.websocket is None:
                self.body += event.data
            case DataReceived() if event.data:
                self.received_bytes += len(event.data)
                self.websocket.receive_data(event.data)
                self.take()
        if event.stream_ended:
            self.has_ended = True
            if self.websocket is not None:
                self.websocket.receive_eof()
                self.flush()
        self.changed.set()

    def take(self):
        for frame in self.websocket.events_received():
            self.frames.append(frame)
            if frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                self.parts.append(frame)
                if frame.fin:
                    whole = b"".join(part.data for part in self.parts)
                    is_text = self.parts[0].opcode is Opcode.TEXT
                    self.messages.append(whole.decode() if is_text else whole)
                    self.parts = []
        self.flush()

    def is_lost(self, why):
        if not self.has_ended:
            self.lost = why
        self.changed.set()

    # What is sent.

    def open(self, side, extensions=()):
        """Has it be a WebSocket's from now on, at either end."""
        self.websocket = Protocol(side, max_size=64 << 20)
        self.websocket.extensions = list(extensions)

    def flush(self):
        """Sends what the WebSocket has to say, each frame in one of HTTP/3."""
        for data in self.websocket.data_to_send():
            if not self.is_stopped:
                # Without data it has said all.
                self.connection.http.send_data(self.id, data, end_stream=not data)
        self.connection.transmit()

    def frame(self, message):
        """A message as the frame that would be sent."""
        assert self.websocket.data_to_send() == []
        match message:
            case str():
                self.websocket.send_text(message.encode())
            case bytes():
                self.websocket.send_binary(message)
        return b"".join(self.websocket.data_to_send())

    def write(self, data):
        """Sends bytes that are no matter of aioquic's."""
        self.connection.write(self.id, data)

    def send(self, message):
        self.connection.http.send_data(self.id, self.frame(message), end_stream=False)
        self.connection.transmit()

    # What is waited for.

    async def answer(self):
        return await self.until(lambda: self.head, "answer")

    async def recv(self):
        await self.until(lambda: self.messages, "message")
        return self.messages.popleft()

    async def end(self):
        """Waits for the FIN."""
        await self.until(lambda: self.has_ended, "end of the stream")

    async def ping(self, payload):
        self.websocket.send_ping(payload)
        self.flush()
        await self.until(
            lambda: any(frame.opcode is Opcode.PONG and frame.data == payload for frame in self.frames), "pong"
        )

    async def closed(self):
        """Waits for the Close of the peer, and gives its code."""
        return (await self.until(lambda: self.websocket.close_rcvd, "Close")).code

    async def close(self, code=1000, reason=""):
        """Closes it, and gives the code of the answer."""
        self.websocket.send_close(code, reason)
        self.flush()
        return await self.closed()


class Http3(QuicConnectionProtocol, Waits):
    """A connection at either end."""

    def __init__(self, quic, stream_handler=None, http=H3Connection, asked=lambda stream: None):
        QuicConnectionProtocol.__init__(self, quic, stream_handler)
        Waits.__init__(self)
        self.make_http, self.asked = http, asked
        self.http = None
        self.streams = {}
        self.ended_with = None

    def quic_event_received(self, event):
        match event:
            case ProtocolNegotiated():
                self.http = self.make_http(self._quic)
            case StopSendingReceived() if event.stream_id in self.streams:
                self.streams[event.stream_id].is_stopped = True
            case StreamReset() if event.stream_id in self.streams:
                self.streams[event.stream_id].is_lost(f"reset with {event.error_code:#x}")
            case ConnectionTerminated():
                self.ended_with = event.error_code
                self.lost = f"the connection ended with {event.error_code:#x} {event.reason_phrase}"
                for stream in self.streams.values():
                    stream.is_lost(self.lost)
        for event in self.http.handle_event(event) if self.http else ():
            is_new = event.stream_id not in self.streams
            stream = self.streams.setdefault(event.stream_id, Stream(self, event.stream_id))
            stream.received(event)
            if is_new:
                self.asked(stream)
        self.changed.set()

    def write(self, stream_id, data, end_stream=False):
        self._quic.send_stream_data(stream_id, data, end_stream)
        self.transmit()

    async def end(self):
        """Waits until the peer has ended the connection, and gives its code."""
        await self.until(lambda: self.ended_with is not None, "end of the connection")
        return self.ended_with

    # As a client.

    @property
    def authority(self):
        host, port = self._quic.get_peer_address()
        return f"{host}:{port}"

    async def settings(self):
        return await self.until(lambda: self.http and self.http.received_settings, "settings")

    def stream(self):
        """A new one, which nothing is said on."""
        stream_id = self._quic.get_next_available_stream_id()
        self.streams[stream_id] = Stream(self, stream_id)
        return self.streams[stream_id]

    def request(self, fields):
        stream = self.stream()
        self.http.send_headers(stream.id, [(name.encode(), value.encode()) for name, value in fields.items()])
        self.transmit()
        return stream

    def ask(self, fields):
        """Asks for a WebSocket, with these fields besides or instead."""
        return self.request(
            {
                ":method": "CONNECT",
                ":protocol": "websocket",
                ":scheme": "https",
                ":authority": self.authority,
                ":path": "/",
                "sec-websocket-version": "13",
                **fields,
            }
        )

    async def open(self, fields={}):
        """A WebSocket, once the server has agreed to it."""
        stream = self.ask(fields)
        head = await stream.answer()
        if head[":status"] != "200":
            raise AssertionError(f"refused: {head}")
        agreed = parse_extension(head["sec-websocket-extensions"]) if "sec-websocket-extensions" in head else []
        stream.open(Side.CLIENT, [DEFLATE.process_response_params(parameters, []) for _, parameters in agreed])
        return stream


@contextlib.asynccontextmanager
async def connected(url, ca):
    """A client's connection to the server of a URL."""
    server = urllib.parse.urlsplit(url)
    configuration = QuicConfiguration(alpn_protocols=H3_ALPN, server_name=server.hostname)
    configuration.load_verify_locations(cafile=str(ca))
    quic = QuicConnection(configuration=configuration)
    # aioquic's own `connect` is on all addresses, and needs IPv6.
    endpoint = asyncio.get_running_loop().create_datagram_endpoint(lambda: Http3(quic), local_addr=("127.0.0.1", 0))
    transport, connection = await endpoint
    try:
        connection.connect((server.hostname, server.port))
        async with asyncio.timeout(sockeye.DEADLINE):
            await connection.wait_connected()
        yield connection
    finally:
        connection.close(ErrorCode.H3_NO_ERROR)
        transport.close()


@contextlib.asynccontextmanager
async def serving(certificate, key, handler, http=H3Connection, alpn=H3_ALPN, retry=False):
    """A server: gives its URL and the requests that came. Each has the handler run for it, to its end."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=alpn)
    configuration.load_cert_chain(certificate, key)
    requests, handling = [], []

    def asked(stream):
        requests.append(stream)
        handling.append(asyncio.create_task(handler(stream)))

    make = functools.partial(Http3, http=http, asked=asked)
    server = await quic_serve("127.0.0.1", 0, configuration=configuration, create_protocol=make, retry=retry)
    try:
        yield f"wss://127.0.0.1:{server._transport.get_extra_info('sockname')[1]}/", requests
        async with asyncio.timeout(sockeye.DEADLINE):
            await asyncio.gather(*handling)
    finally:
        server.close()


def respond(stream, status, fields=(), body=None):
    """Answers a request; whole where it has a body, which may be empty."""
    http = stream.connection.http
    http.send_headers(stream.id, [(b":status", str(status).encode()), *fields])
    if body is not None:
        http.send_data(stream.id, body, end_stream=True)
    stream.connection.transmit()


def accept(stream, fields=(), deflate=None):
    """Opens the WebSocket that is asked for, compressed where a factory of that is given."""
    extensions = []
    if deflate is not None:
        offers = parse_extension(stream.head["sec-websocket-extensions"])
        agreed, extension = deflate.process_request_params(offers[0][1], [])
        extensions.append(extension)
        fields = [*fields, (b"sec-websocket-extensions", build_extension([(deflate.name, agreed)]).encode())]
    respond(stream, 200, fields)
    stream.open(Side.SERVER, extensions)


async def echo(stream, count=1, **how):
    """Echoes so many messages, and closes; unless the client closes before."""
    accept(stream, **how)
    for _ in range(count):
        await stream.until(lambda: stream.messages or stream.websocket.close_rcvd, "message or Close")
        if not stream.messages:
            return
        stream.send(stream.messages.popleft())
    await stream.close()


class Certified(Case):
    @classmethod
    def setUpClass(cls):
        directory, cls.ca, cls.certificate, cls.key = sockeye.certificates()
        cls.addClassCleanup(directory.cleanup)


class Client(Certified):
    def serve(self, *args):
        return sockeye.serve("--http3", "--tls-cert", str(self.certificate), "--tls-key", str(self.key), *args)

    @contextlib.asynccontextmanager
    async def connection(self, *args):
        async with self.serve(*args) as (url, _), connected(url, self.ca) as connection:
            yield connection

    async def echoes(self, socket, message):
        socket.send(message)
        self.assertEqual(await socket.recv(), message)

    async def test_settings(self):
        """RFC 9220 §3; and RFC 9204 §5: no dynamic table, so that aioquic's encoder uses the static one alone."""
        async with self.connection() as connection:
            settings = await connection.settings()
            self.assertEqual(settings[Setting.ENABLE_CONNECT_PROTOCOL], 1)
            self.assertEqual(settings.get(Setting.QPACK_MAX_TABLE_CAPACITY, 0), 0)
            self.assertEqual(settings.get(Setting.QPACK_BLOCKED_STREAMS, 0), 0)

    async def test_text_and_binary(self):
        async with self.connection() as connection:
            for offered in ({}, OFFER):
                with self.subTest(offered=offered):
                    socket = await connection.open(offered)
                    for text in ("Hello", "Привет, 鮭 🐟", *("я" * (n // 2) + "x" * (n % 2) for n in SIZES)):
                        await self.echoes(socket, text)
                    for size in SIZES:
                        await self.echoes(socket, os.urandom(size))
                    self.assertEqual(await socket.close(), 1000)

    async def test_compression_is_agreed_and_used(self):
        async with self.connection() as connection:
            socket = await connection.open(OFFER)
            (agreed,) = socket.websocket.extensions
            self.assertIsInstance(agreed, PerMessageDeflate)
            await self.echoes(socket, COMPRESSIBLE)
            self.assertLess(socket.received_bytes, len(COMPRESSIBLE) / 10)
            # Not unless it is offered.
            socket = await connection.open()
            self.assertNotIn("sec-websocket-extensions", socket.head)
            await self.echoes(socket, COMPRESSIBLE)
            self.assertGreater(socket.received_bytes, len(COMPRESSIBLE))

    async def test_ping(self):
        async with self.connection() as connection:
            socket = await connection.open()
            for payload in (b"", b"are you there?", b"p" * 125):
                await socket.ping(payload)

    async def test_subprotocol(self):
        """Chosen of those that are offered; with names that take literals, in Huffman's code or not, each way."""
        names = ("chat", "!#$%&'*+-.^_`|~0AZaz", "long-" * 100)
        async with self.connection(*(f"--subprotocol={name}" for name in names)) as connection:
            for name in names:
                socket = await connection.open({"sec-websocket-protocol": f"superchat, {name}"})
                self.assertEqual(socket.head["sec-websocket-protocol"], name)
                await self.echoes(socket, "Hello")
            socket = await connection.open()
            self.assertNotIn("sec-websocket-protocol", socket.head)

    async def test_fields_of_every_kind(self):
        """RFC 9204 §4.5, as aioquic's encoder writes them."""
        every = "".join(map(chr, range(0x21, 0x7F)))
        async with self.connection() as connection:
            for fields in (
                # Of the static table, a name of it, and neither.
                {"accept-encoding": "gzip, deflate, br", "user-agent": "aioquic", "x-name": "value"},
                {"x-every": f"{every} \t{every}", "x-none": "", "x-latin": "é"},
                {":path": "/-._~!$&'()*+,;=:@/?a=%D1%8F&b=/?"},
                {"cookie": "; ".join(f"name{i}=value{i}" for i in range(200))},
                {f"x-{i}": str(i) for i in range(60)},
            ):
                with self.subTest(fields=fields):
                    await self.echoes(await connection.open(fields), "Hello")

    async def test_close(self):
        """RFC 9220 §3: what would end TCP is a FIN, and is one of this stream alone."""
        async with self.connection() as connection:
            for code, reason in ((1000, "done"), (1001, ""), (3000, "причина"), (4999, "r" * 123)):
                with self.subTest(code=code):
                    socket = await connection.open()
                    self.assertEqual(await socket.close(code, reason), code)
                    await socket.end()

    async def test_close_by_the_server(self):
        async with self.serve() as (url, program), connected(url, self.ca) as connection:
            sockets = [await connection.open() for _ in range(3)]
            await self.echoes(sockets[0], "Hello")
            program.send_signal(signal.SIGINT)
            for socket in sockets:
                self.assertEqual(await socket.closed(), 1001)
                await socket.end()
            self.assertEqual(await connection.end(), ErrorCode.H3_NO_ERROR)
            async with asyncio.timeout(sockeye.DEADLINE):
                self.assertEqual(await program.wait(), 0)

    async def test_sockets_beside_each_other(self):
        async with self.connection() as connection:
            sockets = [await connection.open({":path": f"/{i}"}) for i in range(5)]
            big = [os.urandom(200_000) for _ in sockets]
            await asyncio.gather(*map(self.echoes, sockets, big))
            await sockets[0].close()
            # RFC 9220 §3: as TCP's RST.
            connection._quic.reset_stream(sockets[1].id, ErrorCode.H3_REQUEST_CANCELLED)
            connection._quic.stop_stream(sockets[1].id, ErrorCode.H3_REQUEST_CANCELLED)
            connection.transmit()
            await asyncio.gather(*(self.echoes(socket, "still") for socket in sockets[2:]))

    async def test_beside_tcp_on_one_port(self):
        trust = ssl.create_default_context(cafile=self.ca)
        async with self.serve() as (url, _), connected(url, self.ca) as connection:
            socket = await connection.open()
            async with websockets_client(url, ssl=trust) as over_tcp:
                await over_tcp.send("Hello")
                async with asyncio.timeout(sockeye.DEADLINE):
                    self.assertEqual(await over_tcp.recv(), "Hello")
            await self.echoes(socket, "Hello")

    async def test_frames_are_bytes_to_http(self):
        """RFC 9114 §4.4: how they are cut into DATA frames says nothing."""
        async with self.connection() as connection:
            socket = await connection.open()
            text = "Привет, 鮭 🐟" * 20
            with self.subTest("a frame in many"):
                for byte in socket.frame(text):
                    socket.write(encode_frame(FrameType.DATA, bytes([byte])))
                self.assertEqual(await socket.recv(), text)
            with self.subTest("many in one"):
                texts = [f"{i}: {text}" for i in range(50)]
                socket.write(encode_frame(FrameType.DATA, b"".join(map(socket.frame, texts))))
                self.assertEqual([await socket.recv() for _ in texts], texts)
            with self.subTest("across two"):
                both = socket.frame("one") + socket.frame("two")
                socket.write(encode_frame(FrameType.DATA, both[:10]) + encode_frame(FrameType.DATA, both[10:]))
                self.assertEqual([await socket.recv() for _ in range(2)], ["one", "two"])
            with self.subTest("frames of HTTP/3 in many packets"):
                for byte in encode_frame(FrameType.DATA, socket.frame(text)):
                    socket.write(bytes([byte]))
                self.assertEqual(await socket.recv(), text)
            with self.subTest("between others: empty ones, and such as nobody knows (§7.2.8)"):
                whole = socket.frame(text)
                unknown = [encode_frame(0x1F * n + 0x21, os.urandom(n)) for n in (0, 1, 5000)]
                for i in range(0, len(whole), 7):
                    data = encode_frame(FrameType.DATA, whole[i : i + 7])
                    socket.write(unknown[i % 3] + data + encode_frame(FrameType.DATA, b""))
                self.assertEqual(await socket.recv(), text)
            with self.subTest("in parts"):
                for i, part in enumerate(("Прив", "ет, ", "мир")):
                    send = socket.websocket.send_continuation if i else socket.websocket.send_text
                    send(part.encode(), fin=i == 2)
                    socket.flush()
                self.assertEqual(await socket.recv(), "Привет, мир")

    async def test_what_is_refused(self):
        async with self.connection() as connection:
            healthy = await connection.open({"origin": f"https://{connection.authority}"})
            for fields, status in (
                ({":protocol": "connect-udp"}, "501"),
                ({"sec-websocket-version": "8"}, "400"),
                ({"origin": "https://evil.example"}, "403"),
                ({"origin": "null"}, "403"),
            ):
                with self.subTest(fields=fields):
                    stream = connection.ask(fields)
                    head = await stream.answer()
                    self.assertEqual(head[":status"], status)
                    if status == "400":
                        self.assertEqual(head["sec-websocket-version"], "13")
                    await stream.end()
                    self.assertNotEqual(stream.body, b"")
            with self.subTest("a page"):
                for method in ("GET", "POST"):
                    asked = {":method": method, ":scheme": "https", ":path": "/"}
                    stream = connection.request({**asked, ":authority": connection.authority})
                    self.assertEqual((await stream.answer())[":status"], "421")
                    await stream.end()
            await self.echoes(healthy, "still")

    async def test_rules_that_are_broken(self):
        """RFC 9114 §8, RFC 9204 §6: each ends the connection with the code that the standard has for it."""
        data, priority = encode_frame(FrameType.DATA, b"a"), encode_frame(0x02, b"\0" * 5)
        settings, trailers = encode_frame(FrameType.SETTINGS, b""), encode_frame(FrameType.HEADERS, b"\0\0")
        dynamic = encode_frame(FrameType.HEADERS, b"\x02\0\x80")

        def on_a_stream(frame):
            return lambda connection: connection.stream().write(frame)

        def on_a_socket(frame):
            return lambda connection: connection.streams[0].write(frame)

        def on(name, data, end_stream=False):
            name = f"_local_{name}_stream_id"
            return lambda connection: connection.write(getattr(connection.http, name), data, end_stream)

        def second_control_stream(connection):
            connection.http._create_uni_stream(StreamType.CONTROL)

        async with self.serve() as (url, _), connected(url, self.ca) as other:
            healthy = await other.open()
            for name, rule, code in (
                ("DATA before HEADERS", on_a_stream(data), "H3_FRAME_UNEXPECTED"),
                ("a frame of HTTP/2's", on_a_stream(priority), "H3_FRAME_UNEXPECTED"),
                ("SETTINGS among DATA", on_a_socket(settings), "H3_FRAME_UNEXPECTED"),
                ("trailers", on_a_socket(trailers), "H3_FRAME_UNEXPECTED"),
                ("a dynamic table", on_a_stream(dynamic), "QPACK_DECOMPRESSION_FAILED"),
                ("an entry for it", on("encoder", b"\x41a\x01b"), "QPACK_ENCODER_STREAM_ERROR"),
                ("an answer to it", on("decoder", b"\x01"), "QPACK_DECODER_STREAM_ERROR"),
                ("SETTINGS twice", on("control", settings), "H3_FRAME_UNEXPECTED"),
                ("no control stream", on("control", b"", True), "H3_CLOSED_CRITICAL_STREAM"),
                ("two control streams", second_control_stream, "H3_STREAM_CREATION_ERROR"),
            ):
                with self.subTest(name):
                    async with connected(url, self.ca) as connection:
                        await connection.open()
                        rule(connection)
                        connection.transmit()
                        self.assertEqual(await connection.end(), ErrorCode[code])
            await self.echoes(healthy, "still")


class WithoutExtendedConnect(H3Connection):
    def _get_local_settings(self):
        settings = super()._get_local_settings()
        del settings[Setting.ENABLE_CONNECT_PROTOCOL]
        return settings


class Server(Certified):
    def serving(self, handler=echo, **settings):
        return serving(self.certificate, self.key, handler, **settings)

    def connect(self, url, *args, lines=(), linger=10):
        return sockeye.connect(url, "--http3", "--cacert", str(self.ca), *args, lines=lines, linger=linger)

    async def fails(self, url, *args):
        status, output, errors = await self.connect(url, *args)
        self.assertEqual((status, output), (1, ""), errors)
        return errors

    async def test_echo(self):
        lines = ["Hello", "Привет, 鮭 🐟", *("x" * size for size in SIZES[1:]), *(f"line {i}" for i in range(500))]
        for deflate in (None, ServerPerMessageDeflateFactory()):
            with self.subTest(deflate=deflate):
                async with self.serving(functools.partial(echo, count=len(lines), deflate=deflate)) as (url, requests):
                    status, output, errors = await self.connect(url + "chat?a=1", lines=lines)
                    self.assertEqual(status, 0, errors)
                    self.assertEqual(output.splitlines(), lines)
                    (stream,) = requests
                    self.assertEqual(await stream.closed(), 1000)
                for name, value in {
                    ":method": "CONNECT",
                    ":protocol": "websocket",
                    ":scheme": "https",
                    ":authority": url.split("/")[2],
                    ":path": "/chat?a=1",
                    "sec-websocket-version": "13",
                    "sec-websocket-key": None,
                }.items():
                    self.assertEqual(stream.head.get(name), value)

    async def test_retry(self):
        """A server that has the client show first that its address is its own (RFC 9000 §8.1.2)."""
        async with self.serving(retry=True) as (url, _):
            status, output, errors = await self.connect(url, lines=["Hello"])
            self.assertEqual((status, output), (0, "Hello\n"), errors)

    async def test_by_a_name(self):
        async with self.serving() as (url, requests):
            url = url.replace("127.0.0.1", "localhost")
            status, output, errors = await self.connect(url, "-4", lines=["Hello"])
            self.assertEqual((status, output), (0, "Hello\n"), errors)
            self.assertEqual(requests[0].head[":authority"], url.split("/")[2])

    async def test_interim_answers(self):
        """RFC 9114 §4.1: the one that counts comes after any of these."""

        async def handler(stream):
            respond(stream, 103, [(b"link", b"</style.css>; rel=preload")])
            await echo(stream)

        async with self.serving(handler) as (url, _):
            status, output, errors = await self.connect(url, lines=["Hello"])
            self.assertEqual((status, output), (0, "Hello\n"), errors)

    async def test_subprotocol(self):
        handler = functools.partial(echo, fields=[(b"sec-websocket-protocol", b"chat")])
        async with self.serving(handler) as (url, requests):
            status, output, errors = await self.connect(url, "--subprotocol", "chat", lines=["Hello"])
            self.assertEqual((status, output), (0, "Hello\n"), errors)
            self.assertEqual(requests[0].head["sec-websocket-protocol"], "chat")

    async def test_ping(self):
        async def handler(stream):
            accept(stream)
            for payload in (b"", b"are you there?", b"p" * 125):
                await stream.ping(payload)
            await stream.close()

        async with self.serving(handler) as (url, _):
            status, _, errors = await self.connect(url)
            self.assertEqual(status, 0, errors)

    async def test_end(self):
        """RFC 9220 §3, RFC 9114 §5.2: the stream has a FIN and the connection its end, whoever closes first."""

        async def close(stream):
            accept(stream)
            await stream.close()

        for handler in (echo, close):
            with self.subTest(handler.__name__):
                async with self.serving(handler) as (url, requests):
                    status, _, errors = await self.connect(url, linger=0 if handler is echo else 10)
                    self.assertEqual(status, 0, errors)
                    self.assertEqual(await requests[0].closed(), 1000)
                    await requests[0].end()
                    self.assertEqual(await requests[0].connection.end(), ErrorCode.H3_NO_ERROR)

    async def test_close(self):
        for code in (1000, 1001, 3000, 4999):
            with self.subTest(code=code):

                async def handler(stream):
                    accept(stream)
                    self.assertEqual(await stream.close(code, "причина"), code)

                async with self.serving(handler) as (url, _):
                    status, _, errors = await self.connect(url)
                    self.assertEqual(status, 0 if code == 1000 else 3, errors)
                    self.assertIn(f"closed by the peer with {code}", errors)

    async def test_connection_that_ends(self):
        """With a stream, or with all."""

        async def reset(stream):
            accept(stream)
            # Before that the answer may be lost with it.
            await stream.recv()
            stream.connection._quic.reset_stream(stream.id, ErrorCode.H3_INTERNAL_ERROR)
            stream.connection.transmit()

        async def end(stream):
            accept(stream)
            # Before that the answer may be lost with it.
            await stream.recv()
            stream.connection.close(ErrorCode.H3_INTERNAL_ERROR)

        for handler in (reset, end):
            with self.subTest(handler.__name__):
                async with self.serving(handler) as (url, _):
                    status, output, errors = await self.connect(url, lines=["Hello"])
                    self.assertEqual((status, output), (4, ""), errors)
                    self.assertIn("H3_INTERNAL_ERROR", errors)

    async def test_refusal(self):
        async def refuse(stream):
            respond(stream, 403, [(b"content-type", b"text/plain")], b"not you")

        async with self.serving(refuse) as (url, _):
            errors = await self.fails(url, "--verbose")
            self.assertIn("403 Forbidden instead of 200 OK", errors)
            self.assertRegex(errors, r"(?m)^  not you$")

    async def test_without_extended_connect(self):
        async with self.serving(http=WithoutExtendedConnect) as (url, requests):
            errors = await self.fails(url)
            self.assertRegex(errors, "opens no WebSockets over .*try without --http3")
            self.assertEqual(requests, [])

    async def test_certificate_that_is_not_trusted(self):
        async with self.serving() as (url, requests):
            status, output, errors = await sockeye.connect(url, "--http3", lines=["Hello"], linger=10)
            self.assertEqual((status, output), (1, ""), errors)
            self.assertIn("certificate", errors)
            self.assertEqual(requests, [])
            status, output, errors = await sockeye.connect(url, "--http3", "--insecure", lines=["Hello"], linger=10)
            self.assertEqual((status, output), (0, "Hello\n"), errors)

    async def test_another_protocol(self):
        async with self.serving(alpn=["hq-interop"]) as (url, _):
            self.assertIn("--http3", await self.fails(url))

    async def test_nobody_there(self):
        async with self.serving() as (url, _):
            pass
        errors = await self.fails(url, "--connect-timeout", "1")
        self.assertIn(url.split("/")[2], errors)


if __name__ == "__main__":
    unittest.main()
