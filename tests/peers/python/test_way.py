"""The way of `sockeye connect` to its server through foreign programs: tinyproxy, Dante, microsocks, nginx, and a
Unix socket of Python's `websockets`."""

import asyncio
import contextlib
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile

from websockets.asyncio.server import unix_serve

import sockeye
from test_websockets import Case

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def free_port():
    """A port that was free a moment ago, for programs that cannot choose one."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def program(port, name, *args):
    """A foreign program that listens on a port; gives the list of lines that it has written."""
    path = shutil.which(name, path=PATH)
    if path is None:
        raise AssertionError(f"{name} is not installed")
    process = await asyncio.create_subprocess_exec(
        path, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    lines = []

    async def collect():
        async for line in process.stdout:
            lines.append(line.decode())

    collecting = asyncio.create_task(collect())
    try:
        async with asyncio.timeout(sockeye.DEADLINE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    if process.returncode is not None:
                        raise AssertionError(f"{name} ended: {''.join(lines)}")
                    await asyncio.sleep(0.02)
        yield lines
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        collecting.cancel()


async def told(lines, text):
    """Waits until a program has written a text."""
    try:
        async with asyncio.timeout(sockeye.DEADLINE):
            while not any(text in line for line in lines):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"no {text!r} in {''.join(lines)}") from None


class Way(Case):
    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory(prefix="sockeye-way-")))

    def file(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return str(path)

    async def echoes(self, url, *args, linger=0):
        status, output, errors = await sockeye.connect(url, *args, lines=["Hello", "Привет"], linger=linger)
        self.assertEqual((status, output), (0, "Hello\nПривет\n"), errors)
        return errors

    async def fails(self, url, *args):
        status, output, errors = await sockeye.connect(url, *args)
        self.assertEqual((status, output), (1, ""), errors)
        self.assertEqual(len(errors.splitlines()), 1, errors)
        self.assertNotIn("secret", errors)
        return errors

    def tinyproxy(self, port, extra=""):
        config = f"Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 60\nLogLevel Connect\n{extra}\n"
        return program(port, "tinyproxy", "-d", "-c", self.file(f"tinyproxy-{port}.conf", config))

    def nginx(self, port, config):
        """nginx with everything it writes in the test's own directory."""
        at = self.directory / f"nginx-{port}"
        at.mkdir()
        modules = "/usr/lib/nginx/modules/ngx_stream_module.so"
        stream = f"load_module {modules};" if "stream {" in config else ""
        paths = " ".join(f"{kind}_temp_path {at}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        whole = f"""
            {stream}
            daemon off; master_process off; pid {at}/pid; error_log stderr notice;
            events {{}}
            {config.replace("http {", f"http {{ access_log /dev/stdout; {paths}")}
        """
        return program(port, "nginx", "-p", str(at), "-e", "stderr", "-c", self.file(f"nginx-{port}.conf", whole))


class Tinyproxy(Way):
    async def test_tunnels_ws_and_wss(self):
        directory, ca, certificate, key = sockeye.certificates()
        port = free_port()
        async with self.tinyproxy(port) as lines:
            async with sockeye.serve() as (url, _):
                await self.echoes(url, "-x", f"http://127.0.0.1:{port}")
                await told(lines, "CONNECT " + url.split("/")[2])
            async with sockeye.serve("--tls-cert", str(certificate), "--tls-key", str(key)) as (url, _):
                await self.echoes(url, "-x", f"127.0.0.1:{port}", "--cacert", str(ca))
                await told(lines, "CONNECT " + url.split("/")[2])
        directory.cleanup()

    async def test_wants_credentials(self):
        port = free_port()
        async with self.tinyproxy(port, "BasicAuth user secret") as lines, sockeye.serve() as (url, _):
            await self.echoes(url, "-x", f"http://user:secret@127.0.0.1:{port}")
            await self.echoes(url, "-x", f"127.0.0.1:{port}", "--proxy-user", "user:secret")
            await told(lines, "CONNECT " + url.split("/")[2])
            for proxy in (f"http://127.0.0.1:{port}", f"http://user:secret2@127.0.0.1:{port}"):
                errors = await self.fails(url, "-x", proxy)
                # Where it is given wrong ones, this proxy says 401 in some versions.
                self.assertRegex(errors, rf"127\.0\.0\.1:{port} .*40[17]")

    async def test_says_what_it_cannot_reach(self):
        port, nobody = free_port(), free_port()
        async with self.tinyproxy(port):
            errors = await self.fails(f"ws://127.0.0.1:{nobody}/", "-x", f"127.0.0.1:{port}")
            self.assertRegex(errors, rf"http://127\.0\.0\.1:{port} .*50\d")

    async def test_behind_tls_has_tls_inside(self):
        directory, ca, certificate, key = sockeye.certificates()
        plain, secure = free_port(), free_port()
        config = f"""stream {{ server {{
            listen 127.0.0.1:{secure} ssl;
            ssl_certificate {certificate}; ssl_certificate_key {key};
            proxy_pass 127.0.0.1:{plain};
        }} }}"""
        async with (
            self.tinyproxy(plain, "BasicAuth user secret") as lines,
            self.nginx(secure, config),
            sockeye.serve("--tls-cert", str(certificate), "--tls-key", str(key)) as (wss, _),
            sockeye.serve() as (ws, _),
        ):
            proxy = ("-x", f"https://user:secret@127.0.0.1:{secure}", "--proxy-cacert", str(ca))
            for url in (wss, ws):
                await self.echoes(url, *proxy, "--cacert", str(ca))
                await told(lines, "CONNECT " + url.split("/")[2])
            errors = await self.fails(wss, *proxy[:2], "--cacert", str(ca))
            self.assertIn("certificate", errors)
        directory.cleanup()


class Dante(Way):
    """SOCKS 5 without credentials."""

    def dante(self, port):
        config = f"""
            logoutput: stderr
            internal: 127.0.0.1 port = {port}
            external: 127.0.0.1
            clientmethod: none
            socksmethod: none
            user.unprivileged: nobody
            client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
            socks block {{ from: 0.0.0.0/0 to: 127.0.0.66/32 }}
            socks pass {{
              from: 127.0.0.0/8 to: 0.0.0.0/0
              command: connect
              log: connect
            }}
        """
        return program(port, "danted", "-f", self.file("danted.conf", config), "-p", str(self.directory / "pid"))

    async def test_tunnels_by_address_and_by_name(self):
        port = free_port()
        async with self.dante(port) as lines, sockeye.serve() as (url, _):
            server = url.split("/")[2].split(":")[1]
            await self.echoes(url, "-x", f"socks5://127.0.0.1:{port}")
            await told(lines, f".{server}")
            url = f"ws://localhost:{server}/"
            await self.echoes(url, "-4", "-x", f"socks5://127.0.0.1:{port}")
            # Who resolves the name: here it leads to where nobody listens.
            elsewhere = ("--resolve", f"localhost:{server}:127.0.0.9")
            errors = await self.fails(url, *elsewhere, "-x", f"socks5://127.0.0.1:{port}")
            self.assertIn("127.0.0.9", errors)
            await self.echoes(url, *elsewhere, "-x", f"socks5h://user:secret@127.0.0.1:{port}")

    async def test_says_why_not(self):
        port, nobody = free_port(), free_port()
        async with self.dante(port):
            proxy = ("-x", f"socks5h://127.0.0.1:{port}")
            errors = await self.fails(f"ws://127.0.0.1:{nobody}/", *proxy)
            self.assertIn(f"socks5h://127.0.0.1:{port}", errors)
            self.assertIn("connection refused", errors)
            errors = await self.fails("ws://127.0.0.66/", *proxy)
            self.assertIn("rules do not allow", errors)


class Microsocks(Way):
    """SOCKS 5 with a user name and a password."""

    async def test_wants_credentials(self):
        port = free_port()
        args = ("-i", "127.0.0.1", "-p", str(port), "-u", "user", "-P", "secret")
        async with program(port, "microsocks", *args) as lines, sockeye.serve() as (url, _):
            server = url.split("/")[2].split(":")[1]
            for scheme in ("socks5", "socks5h"):
                await self.echoes(url, "-x", f"{scheme}://user:secret@127.0.0.1:{port}")
            await told(lines, f"127.0.0.1:{server}")
            await self.echoes(f"ws://localhost:{server}/", "-x", f"socks5h://user:secret@127.0.0.1:{port}")
            errors = await self.fails(url, "-x", f"socks5h://127.0.0.1:{port}")
            self.assertIn("wants a user name and a password", errors)
            errors = await self.fails(url, "-x", f"socks5h://user:secret2@127.0.0.1:{port}")
            self.assertIn("does not take the user name and password", errors)


class Nginx(Way):
    """nginx in front of `sockeye serve`, with TLS."""

    @contextlib.asynccontextmanager
    async def front(self, ca, certificate, key):
        port, strict = free_port(), free_port()
        async with sockeye.serve() as (url, _):
            tls = f"ssl_certificate {certificate}; ssl_certificate_key {key};"
            proxy = f"""location / {{
                proxy_pass {url.replace("ws:", "http:")};
                proxy_http_version 1.1;
                proxy_set_header Upgrade $http_upgrade;
                proxy_set_header Connection upgrade;
                proxy_set_header Host $http_host;
            }}"""
            config = f"""http {{
                server {{
                    listen 127.0.0.1:{port} ssl; {tls} {proxy}
                    location /moved {{ return 308 /; }}
                    location /twice {{ return 302 /moved; }}
                    location /circle {{ return 307 /circle; }}
                    location /down {{ return 302 http://127.0.0.1:1/; }}
                    location /private {{ return 403; }}
                }}
                server {{
                    listen 127.0.0.1:{strict} ssl; {tls} {proxy}
                    ssl_client_certificate {ca}; ssl_verify_client on;
                }}
            }}"""
            async with self.nginx(port, config):
                yield f"wss://127.0.0.1:{port}/", f"wss://localhost:{strict}/"

    async def test_wss_redirects_and_refusals(self):
        directory, ca, certificate, key = sockeye.certificates()
        trust = ("--cacert", str(ca))
        async with self.front(ca, certificate, key) as (url, strict):
            await self.echoes(url, *trust)
            await self.echoes(url + "moved", *trust, "-L")
            await self.echoes(url + "twice", *trust, "-L", "--max-redirs", "2")
            for path, args, words in (
                ("moved", (), "308"),
                ("twice", ("-L", "--max-redirs", "1"), "--max-redirs"),
                ("circle", ("-L",), "leads back"),
                ("down", ("-L",), "without"),
                ("private", (), "403 Forbidden"),
            ):
                self.assertIn(words, await self.fails(url + path, *trust, *args))
            self.assertIn("certificate", await self.fails(url))
            # With a certificate of ours, and without.
            ours = ("--cert", str(certificate), "--key", str(key))
            self.assertIn("400", await self.fails(strict, *trust))
            errors = await sockeye.connect(strict, *trust, *ours, lines=["Hello"])
            self.assertNotEqual(errors[0], 0, "a server's certificate is not one of a client")
            client = self.client_certificate(directory.name)
            await self.echoes(strict, *trust, "--cert", client)
        directory.cleanup()

    def client_certificate(self, at):
        """A client's certificate by the test authority, with its key in the same file."""
        script = """
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=client -keyout c.key -out c.csr
            echo extendedKeyUsage=clientAuth > c.ext
            openssl x509 -req -in c.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 -extfile c.ext -out c.crt
            cat c.crt c.key > client.pem
        """
        subprocess.run(["sh", "-euc", script], cwd=at, check=True, timeout=sockeye.DEADLINE, capture_output=True)
        return str(pathlib.Path(at) / "client.pem")


class UnixSocket(Way):
    async def test_of_websockets(self):
        asked = []

        async def echo(connection):
            asked.append((connection.request.path, connection.request.headers["Host"]))
            async for message in connection:
                await connection.send(message)

        path = str(self.directory / "a.sock")
        async with unix_serve(echo, path):
            # This server sends nothing back once it has read the Close, which must not come too early.
            await self.echoes(f"ws+unix:{path}:/chat?a=b", linger=2)
            await self.echoes("ws://example.com/x", "--unix-socket", path, linger=2)
        self.assertEqual(asked, [("/chat?a=b", "localhost"), ("/x", "example.com")])
