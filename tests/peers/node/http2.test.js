// Node's own HTTP/2 with `ws` on its streams (RFC 8441), as the client of `sockeye serve` and as the server under
// `sockeye connect`.
'use strict';
const { test, describe, before } = require('node:test');
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const http2 = require('node:http2');
const { once } = require('node:events');
const WebSocket = require('ws');
const { DEADLINE, certificates, connect, serve, within } = require('../../sockeye.js');

const options = { timeout: 4 * DEADLINE };

/** What `ws` makes of a stream that has become a WebSocket's, at either end. */
function websocket(stream, isServer) {
  const socket = new WebSocket(null, undefined, { autoPong: true, closeTimeout: DEADLINE });
  socket._isServer = isServer;
  socket.setSocket(stream, Buffer.alloc(0), { maxPayload: 64 << 20, allowSynchronousEvents: true });
  socket.closed = new Promise((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  socket.on('error', () => {});
  return socket;
}

describe('a client', options, () => {
  for (const [scheme, ...args] of [['http'], ['https', '--tls-self-signed']]) {
    test(`over ${scheme}: sockets beside each other and beside the page`, async () => {
      const server = await serve('--http2', ...args);
      const session = http2.connect(server.http, { rejectUnauthorized: false });
      try {
        const [settings] = await within(once(session, 'remoteSettings'), 'settings');
        assert.equal(settings.enableConnectProtocol, true);
        const open = async (path, headers = {}) => {
          const stream = session.request({
            ':method': 'CONNECT',
            ':protocol': 'websocket',
            ':path': path,
            'sec-websocket-version': '13',
            origin: server.http.slice(0, -1),
            ...headers,
          });
          const [answer] = await within(once(stream, 'response'), 'response');
          return { stream, answer };
        };
        const sockets = [];
        for (let i = 0; i < 5; i += 1) {
          const { stream, answer } = await open(`/${i}`);
          assert.equal(answer[':status'], 200);
          sockets.push(websocket(stream, false));
        }
        const echoes = async (socket, message) => {
          const echo = once(socket, 'message');
          socket.send(message);
          const [data, binary] = await within(echo, 'message');
          assert.equal(binary, typeof message !== 'string');
          assert.ok(Buffer.from(message).equals(data), `${data.length} bytes came back changed`);
        };
        await Promise.all(sockets.map((socket, i) => echoes(socket, `Привет ${i}`)));
        for (const size of [0, 125, 126, 65_536, 5 << 20]) await echoes(sockets[0], crypto.randomBytes(size));
        const page = session.request({ ':path': '/' });
        const [head] = await within(once(page, 'response'), 'response');
        assert.equal(head[':status'], 200);
        page.resume();
        sockets[0].close(1000, 'done');
        assert.equal((await within(sockets[0].closed, 'close')).code, 1000);
        await echoes(sockets[1], 'still');
        const { stream, answer } = await open('/', { 'sec-websocket-version': '8' });
        assert.equal(answer[':status'], 400);
        assert.equal(answer['sec-websocket-version'], '13');
        stream.close();
        await echoes(sockets[1], 'still');
        const ends = sockets.slice(1).map((socket) => within(socket.closed, 'close'));
        server.child.kill('SIGINT');
        for (const { code } of await Promise.all(ends)) assert.equal(code, 1001);
        assert.equal(await server.end(), 0);
      } finally {
        session.destroy();
        await server.stop();
      }
    });
  }
});

describe('a server', options, () => {
  let tls;
  before(() => (tls = certificates()));

  /** A server in this process that echoes over HTTP/2. */
  async function listen(isSecure, settings = { enableConnectProtocol: true }) {
    const secure = { cert: fs.readFileSync(tls.cert), key: fs.readFileSync(tls.key) };
    const server = isSecure ? http2.createSecureServer({ ...secure, settings }) : http2.createServer({ settings });
    const sessions = new Set();
    server.on('session', (session) => {
      sessions.add(session);
      session.on('error', () => {});
    });
    server.on('stream', (stream, headers) => {
      stream.on('error', () => {});
      server.asked = headers;
      if (headers[':protocol'] !== 'websocket') return stream.respond({ ':status': 404 }, { endStream: true });
      if (headers[':path'] === '/refused') {
        stream.respond({ ':status': 403 });
        return stream.end('not you');
      }
      stream.respond({ ':status': 200 });
      const socket = websocket(stream, true);
      socket.on('message', (data, binary) => socket.send(data, { binary }));
      server.closed = socket.closed;
    });
    server.listen(0, '127.0.0.1');
    await within(once(server, 'listening'), 'listening server');
    server.url = `${isSecure ? 'wss' : 'ws'}://127.0.0.1:${server.address().port}/`;
    server.shut = () => {
      sessions.forEach((session) => session.destroy());
      server.close();
    };
    return server;
  }

  for (const isSecure of [false, true]) {
    test(`with TLS: ${isSecure}`, async () => {
      const server = await listen(isSecure);
      try {
        const client = connect(`${server.url}chat?a=1`, '--http2', '--cacert', tls.ca, '--linger', '0.3');
        client.child.stdin.end('Привет\n');
        await client.output(/^Привет$/m);
        assert.equal(await client.end(), 0, client.told());
        assert.equal(server.asked[':method'], 'CONNECT');
        assert.equal(server.asked[':scheme'], isSecure ? 'https' : 'http');
        assert.equal(server.asked[':path'], '/chat?a=1');
        assert.equal(server.asked['sec-websocket-version'], '13');
        assert.equal(server.asked['sec-websocket-key'], undefined);
        assert.equal((await within(server.closed, 'close')).code, 1000);
      } finally {
        server.shut();
      }
    });
  }

  test('that refuses is told of with its words', async () => {
    const server = await listen(false);
    try {
      const client = connect(`${server.url}refused`, '--http2', '--verbose');
      assert.equal(await client.end(), 1);
      assert.match(client.stderr, /403 Forbidden instead of 200 OK/);
      assert.match(client.stderr, /^ {2}not you$/m);
    } finally {
      server.shut();
    }
  });

  test('that does not permit it is told of', async () => {
    const server = await listen(false, {});
    try {
      const client = connect(server.url, '--http2');
      assert.equal(await client.end(), 1);
      assert.match(client.stderr, /opens no WebSockets over this version of HTTP.*try without --http2/);
    } finally {
      server.shut();
    }
  });
});
