// The axum example: a page, and a socket of the page on the same port.
'use strict';
const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const path = require('node:path');
const { DEADLINE, Program, target, within } = require('../sockeye.js');
const { launch } = require('./chromium.js');

const example = path.join(target, 'debug', 'examples', 'axum');

describe('a page and a socket on one port of an axum application', { timeout: 4 * DEADLINE }, () => {
  let browser;
  let program;
  let other;
  let address;
  let page;
  before(async () => {
    browser = await launch();
    [program, other] = [1, 2].map(() => new Program(example, ['127.0.0.1:0']));
    [, address] = await program.output(/ws:\/\/([\d.:]+)\/socket/);
    page = await (await browser.newContext()).newPage();
    page.setDefaultTimeout(DEADLINE);
    const response = await page.goto(`http://${address}/`);
    assert.equal(response.status(), 200);
    assert.equal(await page.textContent('h1'), 'Добро пожаловать');
  });
  after(async () => {
    await browser?.close();
    await program?.stop();
    await other?.stop();
  });

  /** Evaluates in the page, with a deadline. */
  const run = (body, argument) => within(page.evaluate(body, argument), 'answer from the page');

  test('text and binary both ways, and ordinary requests meanwhile', async () => {
    const seen = await run(async () => {
      const socket = new WebSocket(`ws://${location.host}/socket`);
      socket.binaryType = 'arraybuffer';
      const next = (type) => new Promise((resolve) => socket.addEventListener(type, resolve, { once: true }));
      await next('open');
      const bytes = crypto.getRandomValues(new Uint8Array(65_536));
      for (const message of ['', 'Привет, 鮭 🐟', 'x'.repeat(100_000), bytes]) {
        const echo = next('message');
        socket.send(message);
        const { data } = await echo;
        const same = typeof message === 'string' ? data === message
          : data.byteLength === message.length && new Uint8Array(data).every((byte, at) => byte === message[at]);
        if (!same) throw new Error(`${message.length} came back changed`);
        const answer = await fetch('/');
        if (!(await answer.text()).includes('Добро пожаловать')) throw new Error('not the page');
      }
      const missing = (await fetch('/nothing')).status;
      const closed = next('close');
      socket.close(1000, 'bye');
      const { code, wasClean } = await closed;
      return { missing, extensions: socket.extensions, code, wasClean };
    });
    assert.match(seen.extensions, /^permessage-deflate/);
    assert.deepEqual(seen, { missing: 404, extensions: seen.extensions, code: 1000, wasClean: true });
  });

  test('a plain request for the socket says what is missing', async () => {
    const answer = await run(async () => {
      const response = await fetch('/socket');
      return { status: response.status, upgrade: response.headers.get('upgrade'), text: await response.text() };
    });
    assert.equal(answer.status, 426);
    assert.equal(answer.upgrade, 'websocket');
    assert.match(answer.text, /Upgrade/);
  });

  test('a page of another port is another origin, and is refused', async () => {
    const [url, there] = await other.output(/ws:\/\/([\d.:]+)\/socket/);
    const open = (url) => new Promise((resolve) => {
      const socket = new WebSocket(url);
      socket.onopen = () => resolve('open');
      socket.onclose = ({ code }) => resolve(code);
    });
    assert.equal(await run(open, url), 1006);
    // Its own page may.
    const its = await page.context().newPage();
    await its.goto(`http://${there}/`);
    assert.equal(await within(its.evaluate(open, url), 'answer from the page'), 'open');
  });

  test('the end of the application is seen', async () => {
    const seen = run(() => new Promise((resolve) => {
      const socket = new WebSocket(`ws://${location.host}/socket`);
      socket.onopen = () => document.body.append('open');
      socket.onclose = ({ code, wasClean }) => resolve({ code, wasClean });
    }));
    await page.waitForFunction(() => document.body.textContent.includes('open'));
    program.child.kill('SIGKILL');
    assert.deepEqual(await seen, { code: 1006, wasClean: false });
  });
});
