// Node's `ws` as the server under `sockeye connect`.
'use strict';
const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const { once } = require('node:events');
const WebSocket = require('ws');
const { DEADLINE, Program, certificates, connect, freePort, within } = require('../../sockeye.js');

const options = { timeout: 4 * DEADLINE };

/** A server in this process: `url`, and the connections and messages it has seen. */
async function listen(settings = {}, tls) {
  const http = tls && https.createServer({ cert: fs.readFileSync(tls.cert), key: fs.readFileSync(tls.key) });
  const where = http ? { server: http } : { host: '127.0.0.1', port: 0 };
  const server = new WebSocket.Server({ maxPayload: 64 << 20, ...where, ...settings });
  http?.listen(0, '127.0.0.1');
  await within(once(http ?? server, 'listening'), 'listening server');
  server.url = `${tls ? 'wss' : 'ws'}://127.0.0.1:${(http ?? server).address().port}/`;
  server.accepted = once(server, 'connection').then(([socket, request]) => {
    socket.request = request;
    return socket;
  });
  server.ended = server.accepted.then(
    (socket) => new Promise((resolve) => {
      socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
    }),
  );
  server.on('connection', (socket) => socket.on('error', () => {}));
  server.shut = () => {
    server.clients.forEach((socket) => socket.terminate());
    server.close();
    http?.close();
  };
  return server;
}

const echo = (server) => server.on('connection', (socket) => {
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});

test('the greeting server, as users write it', options, async () => {
  const source = fs.readFileSync(path.join(__dirname, 'greeting-server.js'), 'utf8');
  const port = await freePort();
  const server = new Program(process.execPath, ['-e', source.replace('8080', String(port))], { cwd: __dirname });
  let client;
  try {
    for (let tries = 0; ; tries += 1) {
      client = connect(`ws://127.0.0.1:${port}/`);
      const greeted = client.output(/^Добро пожаловать на сервер!$/m).then(() => true, (error) => error);
      const refused = client.ended.then(() => false);
      const result = await Promise.race([greeted, refused]);
      if (result === true) break;
      if (tries === 50) throw result || new Error(`never connected\n${client.told()}\n${server.told()}`);
      await client.stop('SIGKILL');
      await new Promise((resolve) => setTimeout(resolve, 100)); // Node is still starting.
    }
    client.child.stdin.write('Привет из трубы\n');
    await server.output(/^Получено сообщение: Привет из трубы$/m);
    client.child.stdin.end('и последняя строка');
    await server.output(/^Получено сообщение: и последняя строка$/m);
    assert.equal(await client.end(), 0);
    assert.match(server.stdout, /^Новое соединение$/m);
  } finally {
    await client?.stop('SIGKILL');
    await server.stop('SIGKILL');
  }
});

for (const deflate of [false, true]) {
  describe(`echo server, perMessageDeflate: ${deflate}`, options, () => {
    let server;
    before(async () => {
      server = await listen({ perMessageDeflate: deflate && { threshold: 0 } });
      echo(server);
    });
    after(() => server?.shut());

    test('each line comes back as a line, in order, and the end is a normal closure', async () => {
      const lines = ['Hello', 'Привет, 鮭 🐟', 'x'.repeat(126), 'y'.repeat(70_000), ' spaces kept  '];
      for (let i = 0; i < 500; i += 1) lines.push(`line ${i}`);
      const client = connect(server.url, '--linger', '2');
      try {
        client.child.stdin.write(`${lines.join('\n')}\n`);
        await client.output(/^line 499$/m);
        client.child.stdin.end();
        assert.equal(await client.end(), 0, client.told());
        assert.equal(client.stdout, `${lines.join('\n')}\n`);
        assert.equal((await within(server.ended, 'close')).code, 1000);
      } finally {
        await client.stop('SIGKILL');
      }
    });
    test('deflate is agreed when the server wants it, and used', async () => {
      const socket = await within(server.accepted, 'connection');
      assert.equal(socket.extensions.includes('permessage-deflate'), deflate);
      const long = 'compressible '.repeat(10_000);
      const second = once(server, 'connection').then(async ([next]) => {
        const tcp = next._socket;
        await once(next, 'message');
        return tcp.bytesRead;
      });
      const client = connect(server.url, '--linger', '2');
      try {
        client.child.stdin.end(`${long}\n`);
        const bytes = await within(second, 'message');
        assert.equal(bytes < 13_000, deflate, `${bytes} bytes on the wire`);
        assert.equal(await client.end(), 0, client.told());
        assert.equal(client.stdout, `${long}\n`);
      } finally {
        await client.stop('SIGKILL');
      }
    });
    test('--no-compress offers no extension', async () => {
      const seen = once(server, 'connection');
      const client = connect(server.url, '--no-compress', '--linger', '2');
      try {
        client.child.stdin.end('plain\n');
        const [socket, request] = await within(seen, 'connection');
        assert.equal(request.headers['sec-websocket-extensions'], undefined);
        assert.equal(socket.extensions, '');
        assert.equal(await client.end(), 0, client.told());
        assert.equal(client.stdout, 'plain\n');
      } finally {
        await client.stop('SIGKILL');
      }
    });
  });
}

/** Runs `sockeye connect` against a fresh server and hands both to `body`. */
async function session({ settings, tls, args = [], serve = () => {} }, body) {
  const server = await listen(settings, tls);
  serve(server);
  const client = connect(server.url, ...args);
  const gone = client.ended.then(() => {
    throw new Error(`ended before it connected\n${client.told()}`);
  });
  server.accepted = Promise.race([server.accepted, gone]);
  server.accepted.catch(() => {});
  try {
    await body({ client, server });
  } finally {
    await client.stop('SIGKILL');
    server.shut();
  }
}

test('a ping from the server is answered with its own payload', options, () =>
  session({}, async ({ client, server }) => {
    const socket = await server.accepted;
    for (const payload of ['', 'are you there?', 'p'.repeat(125)]) {
      const pong = once(socket, 'pong');
      socket.ping(payload);
      assert.equal((await within(pong, 'pong'))[0].toString(), payload);
    }
    client.child.stdin.end();
    assert.equal(await client.end(), 0, client.told());
  }));

test('a message in fragments from the server is one line', options, () =>
  session({}, async ({ client, server }) => {
    const socket = await server.accepted;
    socket.send('Прив', { fin: false });
    socket.ping('between');
    socket.send('ет', { fin: true });
    await client.output(/^Привет$/m);
    client.child.stdin.end();
    assert.equal(await client.end(), 0, client.told());
  }));

test('16 MiB from the server', options, () =>
  session({}, async ({ client, server }) => {
    const socket = await server.accepted;
    socket.send('s'.repeat(16 << 20));
    socket.close(1000);
    assert.equal(await client.end(2 * DEADLINE), 0, client.stderr);
    assert.equal(client.stdout.length, (16 << 20) + 1);
  }));

test('waits for the peer for as long as --linger says', options, () =>
  session({
    args: ['--linger', '10'],
    serve: (server) => server.on('connection', (socket) => {
      socket.on('message', () => setTimeout(() => socket.close(1000, 'answered'), 500));
      socket.on('message', (data) => setTimeout(() => socket.send(`late: ${data}`), 300));
    }),
  }, async ({ client }) => {
    client.child.stdin.end('question\n');
    assert.equal(await client.end(9_000), 0, client.told());
    assert.equal(client.stdout, 'late: question\n');
  }));

for (const [code, reason] of [[1000, 'done'], [1001, 'going away'], [1002, 'protocol error'], [1011, ''], [3000, 'причина'], [4999, 'r'.repeat(123)]]) {
  test(`close ${code} by the server is answered in kind and told by the exit status`, options, () =>
    session({}, async ({ client, server }) => {
      const socket = await server.accepted;
      socket.close(code, reason);
      assert.equal((await within(server.ended, 'close')).code, code);
      const status = await client.end();
      if (code === 1000) assert.equal(status, 0, client.told());
      else assert.notEqual(status, 0, client.told());
    }));
}

test('a subprotocol and a header reach the server', options, () =>
  session({
    settings: { handleProtocols: (offered) => (offered.has('chat') ? 'chat' : false) },
    args: ['--subprotocol', 'chat', '--header', 'X-Fish: нерка'],
  }, async ({ client, server }) => {
    const socket = await server.accepted;
    assert.equal(socket.protocol, 'chat');
    assert.equal(Buffer.from(socket.request.headers['x-fish'], 'latin1').toString(), 'нерка');
    client.child.stdin.end();
    assert.equal(await client.end(), 0, client.told());
  }));

describe('wss', options, () => {
  const tls = certificates();
  test('with --ca', () => session({ tls, serve: echo, args: ['--ca', tls.ca, '--linger', '2'] }, async ({ client }) => {
    client.child.stdin.end('за закрытой дверью\n');
    assert.equal(await client.end(), 0, client.told());
    assert.equal(client.stdout, 'за закрытой дверью\n');
  }));
  test('with --insecure', () => session({ tls, serve: echo, args: ['--insecure', '--linger', '2'] }, async ({ client }) => {
    client.child.stdin.end('unchecked\n');
    assert.equal(await client.end(), 0, client.told());
    assert.equal(client.stdout, 'unchecked\n');
  }));
  test('an unknown authority is refused with one line that says so', () => session({ tls, serve: echo }, async ({ client }) => {
    assert.notEqual(await client.end(), 0);
    assert.match(client.stderr, /certificate|issuer/i);
    assert.equal(client.stderr.trim().split('\n').length, 1, client.stderr);
  }));
});
