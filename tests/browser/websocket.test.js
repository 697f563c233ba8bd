// The browser's own WebSocket, as the WHATWG standard describes it, against `sockeye serve`.
'use strict';
const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { DEADLINE, serve, within } = require('../sockeye.js');
const { launch } = require('./chromium.js');

const options = { timeout: 4 * DEADLINE };
const snippet = fs.readFileSync(path.join(__dirname, 'snippet.js'), 'utf8');
const lastLine = /^socket\.close\(.*\n/m;

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

/** Runs in the page: `open(url, protocols)` gives a socket whose events are kept in order. */
function prepare() {
  window.open = (url, protocols = []) => {
    const socket = new WebSocket(url, protocols);
    const events = [];
    let wake = () => {};
    for (const type of ['open', 'message', 'error', 'close']) {
      socket.addEventListener(type, (event) => {
        events.push(event);
        wake();
      });
    }
    socket.next = async (type) => {
      while (!events.length) await new Promise((resolve) => (wake = resolve));
      const event = events.shift();
      if (event.type !== type) {
        throw new Error(`${event.type} ${event.code ?? ''} where ${type} was expected`);
      }
      return event;
    };
    return socket;
  };
  window.told = ({ code, reason, wasClean }) => ({ code, reason, wasClean });
}

/** An empty page of the server's own origin, and what it writes to the console. */
async function visit(server) {
  const context = await browser.newContext({ ignoreHTTPSErrors: true, bypassCSP: true });
  context.setDefaultTimeout(DEADLINE);
  // An empty window takes the origin of the page that opens it, and none of its scripts.
  const opener = await context.newPage();
  await opener.goto(server.http);
  const [page] = await Promise.all([opener.waitForEvent('popup'), opener.evaluate(() => void window.open('about:blank'))]);
  await page.evaluate(prepare);
  const printed = [];
  page.on('console', (message) => printed.push(message.text()));
  /** Evaluates in the page, with a deadline. */
  page.run = (body, argument) => within(page.evaluate(body, argument), 'answer from the page');
  page.prints = async (line) => {
    const until = Date.now() + DEADLINE;
    while (!printed.includes(line)) {
      if (Date.now() > until) throw new Error(`the page never printed '${line}', but ${JSON.stringify(printed)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  };
  page.printed = printed;
  return page;
}

/** onclose tells what the server answered: the same code, and the reason or none (RFC 6455 §5.5.1). */
function isAnswered(seen, code, reason) {
  assert.equal(seen.code, code);
  assert.equal(seen.wasClean, true);
  assert.ok(['', reason].includes(seen.reason), seen.reason);
}

for (const [scheme, ...args] of [['ws'], ['wss', '--tls-self-signed']]) {
  describe(scheme, options, () => {
    let server;
    let page;
    let url;
    before(async () => {
      server = await serve(...args);
      url = `${server.ws}socket`;
      assert.ok(url.startsWith(`${scheme}://`), url);
      page = await visit(server);
    });
    after(async () => {
      await page?.context().close();
      await server?.stop();
    });

    test('the snippet: open, receive, close', async () => {
      const fresh = await visit(server);
      try {
        const code = snippet.replace('ws://example.com/socket', url);
        // Its last line is meant for later: run at once, it would close a socket that is not yet open.
        await fresh.addScriptTag({ content: code.replace(lastLine, '') });
        await fresh.prints('Соединение открыто');
        await fresh.addScriptTag({ content: "socket.send('Привет');" });
        await fresh.prints('Получено сообщение: Привет');
        await fresh.addScriptTag({
          content: `var seen = new Promise((done) => socket.addEventListener('close', done));\n${code.match(lastLine)[0]}`,
        });
        await fresh.prints('Соединение закрыто');
        isAnswered(await fresh.run(async () => told(await seen)), 1000, 'Завершаю соединение');
        assert.deepEqual(fresh.printed, ['Соединение открыто', 'Получено сообщение: Привет', 'Соединение закрыто']);
      } finally {
        await fresh.context().close();
      }
    });

    test('the snippet in one go: closed before it opened, as the standard says', async () => {
      const fresh = await visit(server);
      try {
        await fresh.addScriptTag({ content: snippet.replace('ws://example.com/socket', url) });
        await fresh.prints('Соединение закрыто');
        assert.ok(fresh.printed.includes('Ошибка: undefined'), JSON.stringify(fresh.printed));
        assert.ok(!fresh.printed.includes('Соединение открыто'), JSON.stringify(fresh.printed));
      } finally {
        await fresh.context().close();
      }
    });

    test('text both ways', () => page.run(async (url) => {
      const socket = open(url);
      await socket.next('open');
      for (const text of ['', 'Hello', 'Привет, 鮭 🐟', 'x'.repeat(126), 'y'.repeat(65_536), 'z'.repeat(1 << 20)]) {
        socket.send(text);
        const { data } = await socket.next('message');
        if (data !== text) throw new Error(`${data.length} characters came back changed`);
      }
      socket.close();
      await socket.next('close');
    }, url));

    for (const type of ['blob', 'arraybuffer']) {
      test(`binary both ways, received as ${type}`, () => page.run(async ([url, type]) => {
        const socket = open(url);
        socket.binaryType = type;
        await socket.next('open');
        for (const size of [0, 1, 125, 126, 65_535, 65_536, 1 << 20]) {
          const bytes = new Uint8Array(size);
          for (let at = 0; at < size; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
          for (const payload of [bytes, bytes.buffer, new Blob([bytes])]) {
            socket.send(payload);
            const { data } = await socket.next('message');
            const kind = type === 'blob' ? Blob : ArrayBuffer;
            if (!(data instanceof kind)) throw new Error(`${data} is not a ${type}`);
            const back = new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data);
            if (back.length !== size || back.some((byte, at) => byte !== bytes[at])) {
              throw new Error(`${size} bytes came back changed`);
            }
          }
        }
        socket.close();
        await socket.next('close');
      }, [url, type]));
    }

    test('16 MiB', () => page.run(async (url) => {
      const socket = open(url);
      socket.binaryType = 'arraybuffer';
      await socket.next('open');
      const bytes = new Uint8Array(16 << 20).map((_, at) => (at * at) >> 7);
      socket.send(bytes);
      const back = new Uint8Array((await socket.next('message')).data);
      if (back.length !== bytes.length || back.some((byte, at) => byte !== bytes[at])) throw new Error('changed');
      socket.close();
      await socket.next('close');
    }, url));

    test('readyState, bufferedAmount, protocol, extensions', async () => {
      const seen = await page.run(async (url) => {
        const socket = open(url);
        const states = [socket.readyState];
        const before = [socket.protocol, socket.extensions, socket.bufferedAmount];
        await socket.next('open');
        states.push(socket.readyState);
        socket.send('12345');
        const buffered = socket.bufferedAmount;
        await socket.next('message');
        const drained = socket.bufferedAmount;
        socket.close(3000, 'enough');
        states.push(socket.readyState);
        socket.send('dropped'); // Counted and never sent, says the standard.
        const after = socket.bufferedAmount;
        await socket.next('close');
        states.push(socket.readyState);
        return { states, before, buffered, drained, after, protocol: socket.protocol, extensions: socket.extensions };
      }, url);
      assert.deepEqual(seen.states, [0, 1, 2, 3]);
      assert.deepEqual(seen.before, ['', '', 0]);
      assert.equal(seen.buffered, 5);
      assert.equal(seen.drained, 0);
      assert.equal(seen.after, 7);
      assert.equal(seen.protocol, '');
      assert.match(seen.extensions, /^permessage-deflate/);
    });

    test('close(1000, reason) is answered in kind', async () => {
      const seen = await page.run(async (url) => {
        const socket = open(url);
        await socket.next('open');
        socket.close(1000, 'Завершаю соединение');
        return told(await socket.next('close'));
      }, url);
      isAnswered(seen, 1000, 'Завершаю соединение');
    });

    test('close() without a code', async () => {
      const seen = await page.run(async (url) => {
        const socket = open(url);
        await socket.next('open');
        socket.close();
        return told(await socket.next('close'));
      }, url);
      assert.deepEqual(seen, { code: 1005, reason: '', wasClean: true });
    });

    for (const [code, reason] of [[1000, 'done'], [1001, 'ухожу'], [1002, 'нарушение протокола'], [3000, ''], [4999, 'r'.repeat(123)]]) {
      test(`the server's close ${code} reaches onclose`, async () => {
        const seen = await page.run(async (url) => {
          const socket = open(url);
          await socket.next('open');
          return told(await socket.next('close'));
        }, `${url}?${new URLSearchParams({ close: String(code), reason })}`);
        assert.deepEqual(seen, { code, reason, wasClean: true });
      });
    }

    test('Ctrl-C of the server reaches onclose as 1001', async () => {
      const other = await serve(...args);
      const fresh = await visit(other);
      try {
        await fresh.run(async (url) => {
          window.socket = open(url);
          await socket.next('open');
        }, other.ws);
        other.child.kill('SIGINT');
        const seen = await fresh.run(async () => told(await socket.next('close')));
        assert.equal(seen.code, 1001);
        assert.equal(seen.wasClean, true);
        assert.equal(await other.end(), 0);
      } finally {
        await fresh.context().close();
        await other.stop('SIGKILL');
      }
    });

    test('a page of another origin may not connect', async () => {
      // Nobody has opened it: its origin is null.
      const stranger = await page.context().newPage();
      try {
        const connect = (url) => new Promise((done) => {
          const socket = new WebSocket(url);
          socket.onopen = () => done('opened');
          socket.onclose = ({ code }) => done(code);
        });
        assert.equal(await within(stranger.evaluate(connect, url), 'end'), 1006);
        assert.equal(await page.run(connect, url), 'opened');
        await server.output(/a page of "null" may not connect/);
      } finally {
        await stranger.close();
      }
    });

    test('a subprotocol is agreed', async () => {
      const other = await serve('--subprotocol', 'chat', ...args);
      const fresh = await visit(other);
      try {
        assert.equal(await fresh.run(async (url) => {
          const socket = open(url, ['superchat', 'chat']);
          await socket.next('open');
          return socket.protocol;
        }, other.ws), 'chat');
      } finally {
        await fresh.context().close();
        await other.stop();
      }
    });
  });
}

test('the browser and the server really compress', options, async () => {
  // The DevTools protocol shows frames after inflation, so a relay counts what crosses the wire.
  const net = require('node:net');
  const server = await serve();
  const { port } = new URL(server.http);
  const count = { toServer: 0, toBrowser: 0 };
  const relay = net.createServer((near) => {
    const far = net.connect(port, '127.0.0.1');
    near.on('data', (data) => (count.toServer += data.length)).on('error', () => far.destroy()).pipe(far);
    far.on('data', (data) => (count.toBrowser += data.length)).on('error', () => near.destroy()).pipe(near);
  });
  await new Promise((resolve) => relay.listen(0, '127.0.0.1', resolve));
  const through = { http: `http://127.0.0.1:${relay.address().port}/`, ws: `ws://127.0.0.1:${relay.address().port}/` };
  const page = await visit(through);
  try {
    Object.assign(count, { toServer: 0, toBrowser: 0 });
    const same = await page.run(async (url) => {
      const socket = open(url);
      await socket.next('open');
      const text = 'compressible '.repeat(10_000);
      socket.send(text);
      return (await socket.next('message')).data === text;
    }, through.ws);
    assert.ok(same);
    assert.ok(count.toServer < 13_000 && count.toBrowser < 13_000, JSON.stringify(count));
  } finally {
    await page.context().close();
    relay.close();
    await server.stop();
  }
});

describe('over HTTP/2 (RFC 8441)', options, () => {
  let server;
  let page;
  before(async () => {
    server = await serve('--tls-self-signed', '--http2');
    page = await visit(server);
  });
  after(async () => {
    await page?.context().close();
    await server?.stop();
  });

  test('sockets are streams of the connection that the page came on', async () => {
    const seen = await page.run(async (url) => {
      const sockets = ['a', 'b', 'c'].map((path) => window.open(url + path));
      const seen = [];
      for (const socket of sockets) await socket.next('open');
      for (const socket of sockets) {
        const large = 'Привет '.repeat(100_000);
        socket.send(large);
        const echo = (await socket.next('message')).data;
        socket.close(1000, 'done');
        seen.push({ same: echo === large, extensions: socket.extensions, end: window.told(await socket.next('close')) });
      }
      return seen;
    }, server.ws);
    for (const { same, extensions, end } of seen) {
      assert.ok(same, 'what came back has changed');
      assert.match(extensions, /^permessage-deflate/);
      isAnswered(end, 1000, 'done');
    }
    await server.output(/(^.* close {3}#[^]*){3}/m);
    const peers = [...server.stdout.matchAll(/ open {4}#\d (\S+) /g)].map(([, peer]) => peer);
    assert.equal(peers.length, 3);
    assert.equal(new Set(peers).size, 1, `they came on connections of their own: ${peers}`);
  });

  test('a server that ends says so to each', async () => {
    await page.run(async (url) => {
      window.left = ['a', 'b'].map((path) => window.open(url + path));
      for (const socket of window.left) await socket.next('open');
    }, server.ws);
    server.child.kill('SIGINT');
    const ends = await page.run(() => Promise.all(window.left.map(async (socket) => window.told(await socket.next('close')))));
    for (const end of ends) isAnswered(end, 1001, '');
    assert.equal(await server.end(), 0);
  });
});
