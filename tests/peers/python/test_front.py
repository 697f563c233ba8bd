"""nginx and haproxy in front of a server: `ws` and `wss`, in HTTP and in bytes, and the client's real address seen."""

import asyncio
import contextlib
import os
import ssl

from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

import sockeye
from test_way import Way, free_port, program, told

CLIENT = "127.0.0.5"
"""Where the client connects from. The proxies reach the server from 127.0.0.1, and are believed there alone."""

TRUSTED = "127.0.0.1"


class Front(Way):
    """The tests that every front has; what differs is in its subclasses."""

    def setUp(self):
        super().setUp()
        directory, self.ca, self.certificate, self.key = sockeye.certificates()
        self.addCleanup(directory.cleanup)
        self.trust = ssl.create_default_context(cafile=self.ca)
        self.both = self.file("both.pem", self.certificate.read_text() + self.key.read_text())

    def haproxy(self, port, server, mode, lines="", options="", tls=False):
        secure = f"ssl crt {self.both}" if tls else ""
        config = f"""
global
    log stdout format raw local0
defaults
    mode {mode}
    log global
    timeout connect 10s
    timeout check 10s
    timeout client 60s
    timeout server 60s
    timeout tunnel 60s
listen front
    bind 127.0.0.1:{port} {secure}
    {lines}
    server one {server} {options}
"""
        return program(port, "haproxy", "-db", "-f", self.file(f"haproxy-{port}.cfg", config))

    def client(self, url, **options):
        if url.startswith("wss"):
            options.setdefault("ssl", self.trust)
        return connect(url, local_addr=(CLIENT, 0), proxy=None, max_size=None, **options)

    async def is_seen(self, url, port_too):
        """That the server sees the client where it is, and all that it sends."""
        async with self.client(f"{url}who") as connection:
            local, port = connection.local_address[:2]
            seen = f"{local}:{port}" if port_too else f"{local}:0"
            async with asyncio.timeout(sockeye.DEADLINE):
                self.assertEqual(await connection.recv(), f"{seen} by {TRUSTED}")
                for message in ("Hello", "Привет, 鮭 🐟", "", os.urandom(1_000_000), "x" * 100_000):
                    await connection.send(message)
                    self.assertEqual(await connection.recv(), message)
                await (await connection.ping("are you there?"))
                await connection.close(4000, "bye")
            self.assertEqual((connection.close_code, connection.close_reason), (4000, "bye"))

    async def bytes_are_handed_on(self, front, version):
        """`ws`, `wss` through the front, and `wss` that ends there; with the PROXY protocol."""
        tls = ("--tls", str(self.certificate), str(self.key))
        for name, args, outside in (("ws", (), False), ("wss", tls, False), ("wss", (), True)):
            async with sockeye.test_server("--proxy-protocol", TRUSTED, *args) as (servers, _):
                for server in servers:
                    with self.subTest(name=name, tls_ends_at_the_front=outside, server=server):
                        port = free_port()
                        async with front(port, server, version, outside):
                            await self.is_seen(f"{name}://127.0.0.1:{port}/", True)

    async def requests_are_handed_on(self, front, header):
        """`ws`, and `wss` that ends at the front; with a header that says whose the request is."""
        async with sockeye.test_server(f"--{header}", TRUSTED) as (servers, errors):
            for server in servers:
                for name in ("ws", "wss"):
                    with self.subTest(name=name, server=server):
                        port = free_port()
                        async with front(port, server, header, name == "wss"):
                            url = f"{name}://127.0.0.1:{port}/"
                            await self.is_seen(url, False)
                            await self.lies_do_not_help(url, header)
                            await self.origins_are_told_apart(url, port)

    async def lies_do_not_help(self, url, header):
        """What the client says of itself stands left of what the front says."""
        lie = {"forwarded": ("Forwarded", "for=8.8.8.8"), "x-forwarded-for": ("X-Forwarded-For", "8.8.8.8")}
        async with self.client(f"{url}who", additional_headers=[lie[header]]) as connection:
            async with asyncio.timeout(sockeye.DEADLINE):
                self.assertEqual(await connection.recv(), f"{CLIENT}:0 by {TRUSTED}")

    async def origins_are_told_apart(self, url, port):
        """A page of the front's own may connect; its scheme and port are those that the browser sees."""
        scheme = "https" if url.startswith("wss") else "http"
        async with self.client(url, origin=f"{scheme}://127.0.0.1:{port}"):
            pass
        for other in (f"{scheme}://127.0.0.1:{port + 1}", "https://evil.example", "null"):
            with self.assertRaises(InvalidStatus) as refused:
                async with self.client(url, origin=other):
                    pass
            self.assertEqual(refused.exception.response.status_code, 403, other)


class Haproxy(Front):
    async def test_proxy_protocol_1(self):
        await self.bytes_are_handed_on(self.in_bytes, "send-proxy")

    async def test_proxy_protocol_2(self):
        await self.bytes_are_handed_on(self.in_bytes, "send-proxy-v2")

    async def test_proxy_protocol_2_with_extensions(self):
        await self.bytes_are_handed_on(self.in_bytes, "send-proxy-v2-ssl-cn proxy-v2-options crc32c,unique-id")

    def in_bytes(self, port, server, version, tls):
        return self.haproxy(port, server, "tcp", options=version, tls=tls)

    async def test_health_checks_are_no_clients(self):
        """`LOCAL` in version 2: the front speaks for itself, and closes at once."""
        async with sockeye.test_server("--proxy-protocol", TRUSTED) as (servers, errors):
            port = free_port()
            options = "send-proxy-v2 check check-send-proxy inter 50ms fall 1 rise 1"
            async with self.haproxy(port, servers[0], "tcp", options=options) as lines:
                for _ in range(10):
                    await self.is_seen(f"ws://127.0.0.1:{port}/", True)
                self.assertFalse([line for line in lines if "is DOWN" in line], lines)
            self.assertFalse([line for line in errors if "PROXY" in line], errors)

    async def test_x_forwarded_for(self):
        await self.requests_are_handed_on(self.in_http, "x-forwarded-for")

    async def test_forwarded(self):
        await self.requests_are_handed_on(self.in_http, "forwarded")

    def in_http(self, port, server, header, tls):
        scheme = "https" if tls else "http"
        lines = {
            "x-forwarded-for": f"""option forwardfor
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    http-request set-header X-Forwarded-Proto {scheme}""",
            "forwarded": f"""http-request add-header Forwarded \
for=%[src];host=\\"%[req.hdr(Host)]\\";proto={scheme}""",
        }
        return self.haproxy(port, server, "http", lines=lines[header], tls=tls)


class NginxInFront(Front):
    async def test_proxy_protocol(self):
        await self.bytes_are_handed_on(self.in_bytes, None)

    def in_bytes(self, port, server, _, tls):
        secure = f"ssl_certificate {self.certificate}; ssl_certificate_key {self.key};" if tls else ""
        return self.nginx(
            port,
            f"""stream {{ server {{
                listen 127.0.0.1:{port} {"ssl" if tls else ""}; {secure}
                proxy_pass {server};
                proxy_protocol on;
            }} }}""",
        )

    async def test_x_forwarded_for(self):
        await self.requests_are_handed_on(self.in_http, "x-forwarded-for")

    async def test_forwarded(self):
        await self.requests_are_handed_on(self.in_http, "forwarded")

    def in_http(self, port, server, header, tls):
        secure = f"ssl_certificate {self.certificate}; ssl_certificate_key {self.key};" if tls else ""
        said = {
            "x-forwarded-for": """
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                proxy_set_header X-Forwarded-Host $http_host;
                proxy_set_header X-Forwarded-Proto $scheme;""",
            "forwarded": """
                set $forwarded 'for=$remote_addr;host="$http_host";proto=$scheme';
                if ($http_forwarded) { set $forwarded '$http_forwarded, $forwarded'; }
                proxy_set_header Forwarded $forwarded;""",
        }
        return self.nginx(
            port,
            f"""http {{ server {{
                listen 127.0.0.1:{port} {"ssl" if tls else ""}; {secure}
                location / {{
                    proxy_pass http://{server};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection upgrade;
                    {said[header]}
                }}
            }} }}""",
        )


class OneBehindTheOther(Front):
    """haproxy in bytes with the PROXY protocol, nginx in HTTP behind it."""

    async def test_both(self):
        async with sockeye.test_server("--x-forwarded-for", TRUSTED) as (servers, _):
            outer, inner = free_port(), free_port()
            config = f"""http {{ server {{
                listen 127.0.0.1:{inner} ssl proxy_protocol;
                ssl_certificate {self.certificate}; ssl_certificate_key {self.key};
                location / {{
                    proxy_pass http://{servers[0]};
                    proxy_http_version 1.1;
                    proxy_set_header Upgrade $http_upgrade;
                    proxy_set_header Connection upgrade;
                    proxy_set_header X-Forwarded-For $proxy_protocol_addr;
                }}
            }} }}"""
            front = self.haproxy(outer, f"127.0.0.1:{inner}", "tcp", options="send-proxy-v2")
            async with self.nginx(inner, config), front:
                await self.is_seen(f"wss://127.0.0.1:{outer}/", False)


class WithoutAFront(Front):
    """Who is not believed is seen where it is, whatever it says; who has to say it and does not is closed."""

    async def test_others_are_not_believed(self):
        async with sockeye.test_server("--x-forwarded-for", TRUSTED) as (servers, _):
            for server in servers:
                headers = {"X-Forwarded-For": "8.8.8.8"}
                async with self.client(f"ws://{server}/who", additional_headers=headers) as connection:
                    async with asyncio.timeout(sockeye.DEADLINE):
                        port = connection.local_address[1]
                        self.assertEqual(await connection.recv(), f"{CLIENT}:{port}")

    async def test_a_front_that_says_nothing_is_closed(self):
        async with sockeye.test_server("--proxy-protocol", TRUSTED) as (servers, errors):
            reader, writer = await asyncio.open_connection(*servers[0].split(":"))
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            async with asyncio.timeout(sockeye.DEADLINE):
                # The system resets it, where what was sent has not been read.
                with contextlib.suppress(ConnectionResetError):
                    self.assertEqual(await reader.read(), b"")
            writer.close()
            await told(errors, "PROXY")
