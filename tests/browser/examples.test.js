// The examples of `sockeye serve --example`, each with two people in browsers of their own.
'use strict';
const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const WebSocket = require('ws');
const { DEADLINE, serve, target, within } = require('../sockeye.js');
const { launch } = require('./chromium.js');

const options = { timeout: 4 * DEADLINE };
const screenshots = path.join(target, 'screenshots');

let browser;
before(async () => {
  fs.mkdirSync(screenshots, { recursive: true });
  browser = await launch();
});
after(() => browser?.close());

const DESK = { viewport: { width: 1100, height: 720 } };
const PHONE = { viewport: { width: 390, height: 780 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true, colorScheme: 'dark' };

/** Two people at an example: one at a desk, one with a phone, in the dark. */
function two(example, tests, ...args) {
  describe(`the example ${example}`, options, () => {
    const at = { troubles: [] };
    before(async () => {
      at.server = await serve('--example', example, ...args);
      for (const [name, settings] of [['desk', DESK], ['phone', PHONE]]) {
        const context = await browser.newContext({ ignoreHTTPSErrors: true, ...settings });
        context.setDefaultTimeout(DEADLINE);
        const page = at[name] = await context.newPage();
        page.on('pageerror', (error) => at.troubles.push(String(error)));
        page.on('console', (message) => message.type() === 'error' && at.troubles.push(message.text()));
        page.on('request', (request) => {
          if (!request.url().startsWith(at.server.http) && !/^(data|blob):/.test(request.url())) {
            at.troubles.push(`the page asked for ${request.url()}`);
          }
        });
        await page.goto(at.server.http);
      }
    });
    after(async () => {
      await at.desk?.context().close();
      await at.phone?.context().close();
      await at.server?.stop();
    });
    tests(at);
    test('had no trouble, and asked no one else for anything', () => assert.deepEqual(at.troubles, []));
  });
}

const screenshot = (page, name) => page.screenshot({ path: path.join(screenshots, `${name}.png`) });

/** Waits until the text of what `selector` finds contains `text`. */
async function shows(page, selector, text) {
  const holds = ([selector, text]) => document.querySelector(selector)?.textContent.includes(text);
  await page.waitForFunction(holds, [selector, text]).catch(async () => {
    throw new Error(`${selector} shows '${await page.textContent(selector)}' and never '${text}'`);
  });
}

/** A connection without a page: its messages one after another, and how it ended. */
async function raw(server, ...sent) {
  const socket = new WebSocket(server.ws, { rejectUnauthorized: false });
  const messages = [];
  const ended = new Promise((resolve) => socket.on('close', (code, reason) => resolve([code, String(reason)])));
  socket.on('message', (data, isBinary) => messages.push(isBinary ? data : String(data)));
  await within(new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject)), 'connection');
  sent.forEach((message) => socket.send(message));
  return { socket, messages, ended };
}

/** Waits until so many messages have come. */
function received({ socket, messages }, count) {
  const all = new Promise((resolve) => {
    const check = () => messages.length >= count && resolve();
    socket.on('message', check);
    check();
  });
  return within(all, `${count} messages`);
}

/** How a connection is closed that begins with this message. */
const closed = async (server, ...message) => within((await raw(server, ...message)).ended, 'end');

two('chat', (at) => {
  const enter = async (page, name, room) => {
    await page.fill('#name', name);
    await page.fill('#room', room);
    await page.click('#enter');
  };
  const say = async (page, text) => {
    await page.fill('#text', text);
    await page.press('#text', 'Enter');
  };

  test('lets nobody in without a name, nor under one that is taken', async () => {
    await screenshot(at.phone, 'chat-door');
    await enter(at.desk, '   ', 'lobby');
    await shows(at.desk, '#door-error', 'a name is needed');
    await enter(at.desk, 'Ада', 'lobby');
    await shows(at.desk, '#people', 'Ада');
    await enter(at.phone, 'Ада', 'lobby');
    await shows(at.phone, '#door-error', 'somebody is called Ада already');
    await enter(at.phone, 'Grace', 'lobby');
    await shows(at.phone, '#as', 'as Grace');
  });
  test('shows each who else is there', async () => {
    await shows(at.desk, '#log', 'Grace has come');
    for (const page of [at.desk, at.phone]) {
      await shows(page, '#people', 'Ада');
      await shows(page, '#people', 'Grace');
      await shows(page, '#rooms', 'lobby2');
    }
  });
  test('carries what both say, in the same order', async () => {
    await say(at.desk, 'Привет, нерка!');
    await shows(at.phone, '#log', 'Привет, нерка!');
    await say(at.phone, 'Hello. Are you on the same server as I am?');
    await say(at.phone, 'It seems so.');
    await say(at.desk, 'One message to a group: compressed once, and nobody waits for anybody.');
    const said = (page) => page.$$eval('.said p', (all) => all.map((element) => element.textContent));
    for (const page of [at.desk, at.phone]) await shows(page, '.said:nth-last-child(1)', 'nobody waits');
    assert.deepEqual(await said(at.desk), await said(at.phone));
    assert.equal((await said(at.desk)).length, 4);
  });
  test('shows text as text', async () => {
    const html = '<img src=x onerror=alert(1)><b>bold</b>';
    await say(at.phone, html);
    await shows(at.desk, '#log', html);
    assert.equal(await at.desk.$('#log img, #log p b'), null);
  });
  test('gives back what it does not take', async () => {
    await say(at.phone, 'one\ttwo');
    await shows(at.phone, '#say-error', 'no control characters');
    assert.equal(await at.phone.inputValue('#text'), 'one\ttwo');
    await say(at.phone, 'one two');
    await shows(at.desk, '#log', 'one two');
    assert.equal(await at.phone.inputValue('#text'), '');
  });
  test('looks as it should', async () => {
    await screenshot(at.desk, 'chat-desk');
    await screenshot(at.phone, 'chat-phone');
  });
  test('keeps rooms apart', async () => {
    const third = await raw(at.server, '{"type":"join","room":"fish","name":"Bo"}');
    await shows(at.desk, '#rooms', 'fish1');
    await at.desk.click('#rooms button[data-room=fish]');
    await shows(at.desk, '#room-name', 'fish');
    await shows(at.phone, '#log', 'Ада has left');
    await say(at.desk, 'only in here');
    await shows(at.desk, '#log', 'only in here');
    await say(at.phone, 'alone now');
    await shows(at.phone, '#log', 'alone now');
    assert.ok(!(await at.desk.textContent('#log')).includes('alone now'));
    assert.ok(third.messages.some((message) => message.includes('only in here')));
    assert.ok(!third.messages.some((message) => message.includes('alone now')));
    third.socket.terminate();
    await shows(at.desk, '#log', 'Bo has left');
    await at.desk.waitForFunction(() => document.querySelectorAll('#people li').length === 1);
  });
  test('tells what is wrong, and closes whoever makes no sense', async () => {
    const long = await raw(at.server, JSON.stringify({ type: 'join', room: 'x'.repeat(25), name: 'Lo' }), '{"type":"say","text":"hm"}');
    await received(long, 3);
    assert.match(long.messages[1], /may have 24 characters, and this has 25/);
    assert.match(long.messages[2], /join a room first/);
    long.socket.close();
    for (const [message, code, why] of [['{"type":"shout"}', 1008, /no request/], ['no JSON', 1008, /no request/], [Buffer.of(1), 1003, /text only/], ['x'.repeat(70_000), 1009, /./]]) {
      const [how, reason] = await closed(at.server, message);
      assert.equal(how, code, reason);
      assert.match(reason, why);
    }
    // Nobody else has noticed.
    await say(at.phone, 'still here');
    await shows(at.phone, '#log', 'still here');
  });
  test('says that the server has gone', async () => {
    at.server.child.kill('SIGINT');
    await shows(at.desk, '#status', 'connection lost');
    // What the browser says of attempts that fail.
    at.troubles.splice(0, at.troubles.length, ...at.troubles.filter((text) => !text.includes('WebSocket connection')));
  });
});

two('ticker', (at) => {
  const tick = (page) => page.$eval('#tick', (element) => Number(element.dataset.tick));
  const updates = (page) => page.$eval('#updates', (element) => Number(element.textContent.replace(/,/g, '')));
  const until = (page, wanted) => page.waitForFunction((wanted) => Number(document.querySelector('#tick').dataset.tick) >= wanted, wanted);

  test('shows prices, and their changes to both', async () => {
    for (const page of [at.desk, at.phone]) {
      await page.waitForFunction(() => document.querySelectorAll('#prices tr').length === 8);
      await until(page, (await tick(page)) + 10);
    }
    await at.phone.check('#slow');
  });
  test('gives a slow page fewer, and always the newest', async () => {
    const [first, had] = [await tick(at.phone), await updates(at.phone)];
    await until(at.phone, first + 45);
    const got = (await updates(at.phone)) - had;
    assert.ok(got <= 9, `${got} updates for 45 changes`);
    // The update after the next is asked for after this, and so no older.
    const now = await tick(at.desk);
    const next = (await updates(at.phone)) + 2;
    await at.phone.waitForFunction((next) => Number(document.querySelector('#updates').textContent) >= next, next);
    assert.ok((await tick(at.phone)) >= now);
  });
  test('looks as it should', async () => {
    await screenshot(at.desk, 'ticker-desk');
    await at.phone.screenshot({ path: path.join(screenshots, 'ticker-phone.png'), fullPage: true });
  });
  test('owes one update to whoever does not read, and then the newest', async () => {
    const socket = net.connect(new URL(at.server.http).port, '127.0.0.1');
    socket.on('error', () => {});
    const update = async () => {
      for (;;) {
        // Frames of a server: without a mask, and these are shorter than 64 KiB.
        const head = buffered[1] === 126 ? 4 : 2;
        const length = head === 4 && buffered.length >= 4 ? buffered.readUInt16BE(2) : buffered[1];
        if (buffered.length > head && buffered.length >= head + length) {
          const text = buffered.subarray(head, head + length);
          buffered = buffered.subarray(head + length);
          return JSON.parse(text);
        }
        const chunk = socket.read() ?? await within(new Promise((resolve) => socket.once('readable', resolve)), 'update');
        if (chunk) buffered = Buffer.concat([buffered, chunk]);
      }
    };
    const ready = Buffer.from([0x81, 0x85, 0, 0, 0, 0, ...Buffer.from('ready')]);
    socket.write('GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n');
    let buffered = Buffer.alloc(0);
    while (!buffered.includes('\r\n\r\n')) {
      buffered = Buffer.concat([buffered, await within(new Promise((resolve) => socket.once('data', resolve)), 'answer')]);
    }
    socket.pause();
    buffered = buffered.subarray(buffered.indexOf('\r\n\r\n') + 4);
    const first = await update();
    assert.equal(first.prices.length, 8);
    // It asks for one more, and reads nothing while the market goes on.
    socket.write(ready);
    await until(at.desk, first.tick + 50);
    const stale = await update();
    assert.ok(stale.tick <= first.tick + 20, `${stale.tick} after ${first.tick}`);
    const now = await tick(at.desk);
    socket.write(ready);
    const newest = await update();
    assert.ok(newest.tick >= now, `${newest.tick}, while it was ${now}`);
    assert.equal(buffered.length, 0);
    socket.destroy();
  });
  test('closes whoever says something else', async () => {
    const [code, reason] = await closed(at.server, 'steady');
    assert.equal(code, 1008);
    assert.match(reason, /nothing but: ready/);
  });
});

two('game', (at) => {
  const fish = (page) => page.$$eval('#scores li', (items) => items.map(({ dataset, className }) => ({ number: Number(dataset.fish), x: Number(dataset.x), y: Number(dataset.y), mine: className === 'mine' })));
  const mine = async (page) => (await fish(page)).find((one) => one.mine);

  test('has both in the same pond', async () => {
    for (const page of [at.desk, at.phone]) {
      await page.waitForFunction(() => document.querySelectorAll('#scores li').length === 2);
      await page.waitForSelector('#scores li.mine');
    }
    assert.notEqual((await mine(at.desk)).number, (await mine(at.phone)).number);
  });
  test('moves a fish that is steered, for both to see', async () => {
    // One by the arrow keys, to whichever side is farther; one by touch.
    const start = await mine(at.desk);
    const key = start.x < 800 ? 'ArrowRight' : 'ArrowLeft';
    await at.desk.focus('#canvas');
    await at.desk.keyboard.down(key);
    for (const page of [at.desk, at.phone]) {
      await page.waitForFunction(
        ({ number, x }) => Math.abs(Number(document.querySelector(`[data-fish="${number}"]`).dataset.x) - x) > 200,
        start,
      );
    }
    await at.desk.keyboard.up(key);
    const other = await mine(at.phone);
    const box = await at.phone.locator('#canvas').boundingBox();
    const to = other.x < 800 ? 0.9 : 0.1;
    await at.phone.touchscreen.tap(box.x + box.width * to, box.y + box.height / 2);
    for (const page of [at.phone, at.desk]) {
      await page.waitForFunction(
        ({ number, x }) => Math.abs(Number(document.querySelector(`[data-fish="${number}"]`).dataset.x) - x) > 200,
        other,
      );
    }
  });
  test('updates 30 times a second', async () => {
    for (const page of [at.desk, at.phone]) {
      await page.waitForFunction(() => {
        const rate = parseInt(document.querySelector('#status').textContent, 10);
        return rate >= 27 && rate <= 33;
      });
    }
  });
  test('looks as it should', async () => {
    for (let guest = 0; guest < 6; guest += 1) {
      const one = await raw(at.server);
      const steer = () => one.socket.send(Buffer.of(0, Math.random() * 256, Math.random() * 256));
      at.guests = [...(at.guests ?? []), one.socket];
      steer();
    }
    await at.desk.waitForFunction(() => document.querySelectorAll('#scores li').length === 8);
    await screenshot(at.desk, 'game-desk');
    await screenshot(at.phone, 'game-phone');
    at.guests.forEach((socket) => socket.terminate());
    await at.phone.waitForFunction(() => document.querySelectorAll('#scores li').length === 2);
  });
  test('sends what its documentation says, and closes whoever does not', async () => {
    const guest = await raw(at.server, Buffer.of(0, 127, 0x81));
    await received(guest, 3);
    const [welcome, state, next] = guest.messages;
    assert.deepEqual([...welcome.subarray(0, 1), welcome.readUInt16BE(3), welcome.readUInt16BE(5), welcome.length], [0, 1600, 900, 7]);
    assert.deepEqual([state[0], state[5], state.length], [1, 3, 6 + 3 * 10 + 24 * 4]);
    assert.equal(next.readUInt32BE(1), state.readUInt32BE(1) + 1);
    guest.socket.terminate();
    for (const [message, code] of [[Buffer.of(0, 1), 1008], [Buffer.of(1, 1, 1), 1008], [Buffer.alloc(0), 1008], ['left', 1003]]) {
      assert.equal((await closed(at.server, message))[0], code);
    }
  });
  test('has room for a hundred', async () => {
    const guests = [];
    for (let guest = 0; guest < 98; guest += 1) {
      guests.push(await raw(at.server));
      // In the pond, as its welcome says.
      await received(guests.at(-1), 1);
    }
    const [code, reason] = await closed(at.server);
    assert.deepEqual([code, reason], [1013, 'the pond is full']);
    await at.desk.waitForFunction(() => document.querySelectorAll('#scores li').length === 100);
    guests.forEach(({ socket }) => socket.terminate());
    await at.desk.waitForFunction(() => document.querySelectorAll('#scores li').length === 2);
  });
});

two('monitor', (at) => {
  const samples = (page, least) => page.waitForFunction((least) => Number(document.querySelector('#cpu').dataset.samples) >= least, least);

  test('draws CPU, memory and network of this machine', async () => {
    for (const page of [at.desk, at.phone]) {
      await samples(page, 3);
      await shows(page, '#cpu-now', '%');
      await shows(page, '#memory-now', 'of');
      await shows(page, '#received-now', '/s received');
      // Something was drawn: not all of a chart has one colour.
      for (const id of ['cpu', 'memory', 'network']) {
        const colours = await page.$eval(`#${id}`, (canvas) => {
          const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
          return new Set(new Uint32Array(data.buffer)).size;
        });
        assert.ok(colours > 5, `${id} has ${colours} colours`);
      }
    }
    const cores = await at.desk.$$eval('#cores meter', (all) => all.length);
    assert.equal(cores, require('node:os').cpus().length);
  });
  test('shows a new client what was before', async () => {
    await samples(at.desk, 8);
    const late = await at.desk.context().newPage();
    await late.goto(at.server.http);
    await samples(late, 8);
    await late.close();
  });
  test('looks as it should', async () => {
    const box = await at.desk.locator('#cpu').boundingBox();
    await at.desk.mouse.move(box.x + box.width - 6, box.y + 40);
    await at.desk.screenshot({ path: path.join(screenshots, 'monitor-desk.png'), fullPage: true });
    await at.desk.mouse.move(0, 0);
    await at.phone.screenshot({ path: path.join(screenshots, 'monitor-phone.png'), fullPage: true });
  });
  test('takes no messages', async () => {
    assert.equal((await closed(at.server, 'hello'))[0], 1008);
  });
  test('says that the server has gone, also to whoever looks back', async () => {
    at.server.child.kill('SIGINT');
    await shows(at.desk, '#status', 'connection lost');
    const box = await at.desk.locator('#cpu').boundingBox();
    await at.desk.mouse.move(box.x + box.width - 6, box.y + 40);
    await at.desk.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
    await shows(at.desk, '#status', 'connection lost');
    // What the browser says of attempts that fail.
    at.troubles.splice(0, at.troubles.length, ...at.troubles.filter((text) => !text.includes('WebSocket connection')));
  });
}, '--tls-self-signed');
