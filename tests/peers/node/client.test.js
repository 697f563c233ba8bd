// Node's `ws` as the client of `sockeye serve`.
'use strict';
const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const { once } = require('node:events');
const WebSocket = require('ws');
const { DEADLINE, certificates, serve, within } = require('../../sockeye.js');

const options = { timeout: 4 * DEADLINE };

/** A connected client that keeps what it receives until it is asked for. */
async function client(url, protocols, settings) {
  const socket = new WebSocket(url, protocols, { maxPayload: 64 << 20, ...settings });
  const messages = [];
  let wake = () => {};
  socket.on('message', (data, binary) => {
    messages.push({ data, binary });
    wake();
  });
  socket.next = async () => {
    if (!messages.length) await within(new Promise((resolve) => (wake = resolve)), 'message');
    return messages.shift();
  };
  socket.closed = new Promise((resolve) => {
    socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
  });
  await within(once(socket, 'open'), 'open');
  socket.on('error', () => {});
  return socket;
}

async function echoes(socket, message) {
  socket.send(message);
  const { data, binary } = await socket.next();
  assert.equal(binary, typeof message !== 'string');
  assert.ok(Buffer.from(message).equals(data), `${data.length} bytes came back changed`);
}

async function closes(socket) {
  socket.close(1000, 'done');
  assert.equal((await within(socket.closed, 'close')).code, 1000);
}

for (const deflate of [false, true]) {
  describe(`perMessageDeflate: ${deflate}`, options, () => {
    let server;
    let socket;
    before(async () => {
      server = await serve();
      socket = await client(server.ws, [], { perMessageDeflate: deflate && { threshold: 0 } });
    });
    after(async () => {
      socket?.terminate();
      await server?.stop();
    });

    test('is agreed when offered, and only then', () => {
      assert.equal(socket.extensions.includes('permessage-deflate'), deflate);
    });
    test('text', async () => {
      for (const text of ['', 'Hello', 'Привет, 鮭 🐟', 'x'.repeat(125), 'y'.repeat(126), 'z'.repeat(65_536)]) {
        await echoes(socket, text);
      }
    });
    test('binary', async () => {
      for (const size of [0, 1, 125, 126, 65_535, 65_536, 1_000_000]) {
        await echoes(socket, crypto.randomBytes(size));
      }
    });
    test('a message in fragments', async () => {
      socket.send('Прив', { fin: false });
      socket.send('ет, ', { fin: false });
      socket.send('мир', { fin: true });
      assert.equal((await socket.next()).data.toString(), 'Привет, мир');
    });
    test('many messages at once keep their order', async () => {
      for (let i = 0; i < 2_000; i += 1) socket.send(`message ${i}`);
      for (let i = 0; i < 2_000; i += 1) assert.equal((await socket.next()).data.toString(), `message ${i}`);
    });
    test('16 MiB', async () => {
      await echoes(socket, Buffer.alloc(16 << 20, crypto.randomBytes(4_096)));
      await echoes(socket, 'a'.repeat(16 << 20));
    });
    test('is used on the wire', async () => {
      const [read, written] = [socket._socket.bytesRead, socket._socket.bytesWritten];
      await echoes(socket, 'compressible '.repeat(10_000));
      const came = socket._socket.bytesRead - read;
      const went = socket._socket.bytesWritten - written;
      if (deflate) assert.ok(came < 13_000 && went < 13_000, `${came} bytes came, ${went} went`);
      else assert.ok(came > 130_000 && went > 130_000, `${came} bytes came, ${went} went`);
    });
    test('closes', () => closes(socket));
  });
}

describe('control frames', options, () => {
  let server;
  before(async () => (server = await serve()));
  after(() => server?.stop());

  test('a ping is answered with its own payload', async () => {
    const socket = await client(server.ws);
    for (const payload of ['', 'are you there?', 'p'.repeat(125)]) {
      const pong = once(socket, 'pong');
      socket.ping(payload);
      assert.equal((await within(pong, 'pong'))[0].toString(), payload);
    }
    await closes(socket);
  });
  test('a ping between fragments is answered at once', async () => {
    const socket = await client(server.ws, [], { perMessageDeflate: false });
    socket.send('first ', { fin: false });
    const pong = once(socket, 'pong');
    socket.ping('between');
    assert.equal((await within(pong, 'pong'))[0].toString(), 'between');
    socket.send('last', { fin: true });
    assert.equal((await socket.next()).data.toString(), 'first last');
    await closes(socket);
  });
  test('an unasked pong is ignored', async () => {
    const socket = await client(server.ws);
    socket.pong('nobody asked');
    await echoes(socket, 'still here');
    await closes(socket);
  });

  for (const [code, reason] of [
    [1000, 'done'], [1000, ''], [1001, 'leaving the page'], [1002, 'protocol error'],
    [3000, 'причина'], [4999, 'r'.repeat(123)],
  ]) {
    test(`close ${code} '${reason.slice(0, 20)}' is answered in kind`, async () => {
      const socket = await client(server.ws);
      socket.close(code, reason);
      const answer = await within(socket.closed, 'close');
      assert.equal(answer.code, code);
      assert.ok(['', reason].includes(answer.reason), answer.reason); // §5.5.1 has only the code echoed.
    });
    test(`close ${code} '${reason.slice(0, 20)}' by the server`, async () => {
      const query = new URLSearchParams({ close: String(code), reason });
      const socket = await client(`${server.ws}?${query}`);
      assert.deepEqual(await within(socket.closed, 'close'), { code, reason });
    });
  }
  test('a close without a code is answered without one', async () => {
    const socket = await client(server.ws);
    socket.close();
    assert.deepEqual(await within(socket.closed, 'close'), { code: 1005, reason: '' });
  });
});

describe('subprotocols', options, () => {
  let server;
  before(async () => (server = await serve('--subprotocol', 'chat')));
  after(() => server?.stop());

  test('the one both know is agreed', async () => {
    const socket = await client(server.ws, ['superchat', 'chat']);
    assert.equal(socket.protocol, 'chat');
    await echoes(socket, 'hello');
    await closes(socket);
  });
  test('none is agreed when none was offered', async () => {
    const socket = await client(server.ws);
    assert.equal(socket.protocol, '');
    await closes(socket);
  });
});

describe('wss', options, () => {
  const tls = certificates();
  let server;
  before(async () => (server = await serve('--tls-cert', tls.cert, '--tls-key', tls.key)));
  after(() => server?.stop());

  test('with the authority known', async () => {
    const socket = await client(server.ws, [], { ca: fs.readFileSync(tls.ca) });
    assert.equal(socket._socket.authorized, true);
    await echoes(socket, 'за закрытой дверью');
    await echoes(socket, crypto.randomBytes(1_000_000));
    await closes(socket);
  });
  test('is refused by a client that does not know the authority', async () => {
    await assert.rejects(client(server.ws), { code: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE' });
  });
});

test('Ctrl-C closes every connection with 1001 and exits with success', options, async () => {
  const server = await serve();
  try {
    const sockets = await Promise.all([client(server.ws), client(server.ws), client(server.ws)]);
    for (const socket of sockets) {
      socket.send('hello');
      await socket.next();
    }
    server.child.kill('SIGINT');
    for (const socket of sockets) assert.equal((await within(socket.closed, 'close')).code, 1001);
    assert.equal(await server.end(), 0);
  } finally {
    await server.stop('SIGKILL');
  }
});

test('--broadcast sends each message to everyone', options, async () => {
  const server = await serve('--broadcast');
  try {
    const sockets = await Promise.all([client(server.ws), client(server.ws), client(server.ws)]);
    sockets[0].send('to all');
    for (const socket of sockets) assert.equal((await socket.next()).data.toString(), 'to all');
    for (const socket of sockets) await closes(socket);
  } finally {
    await server.stop();
  }
});
