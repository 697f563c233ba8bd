// The page that `sockeye serve` serves at `/`, used as a person would.
'use strict';
const { test, describe, before, after } = require('node:test');
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { DEADLINE, serve, target } = require('../sockeye.js');
const { launch } = require('./chromium.js');

const options = { timeout: 4 * DEADLINE };
const screenshots = path.join(target, 'screenshots');

let browser;
before(async () => {
  fs.mkdirSync(screenshots, { recursive: true });
  browser = await launch();
});
after(() => browser?.close());

for (const [scheme, ...args] of [['ws'], ['wss', '--tls-self-signed']]) {
  describe(`the page, ${scheme}`, options, () => {
    let server;
    let page;
    const troubles = [];
    before(async () => {
      server = await serve('--subprotocol', 'chat', ...args);
      const context = await browser.newContext({ ignoreHTTPSErrors: true, viewport: { width: 1100, height: 900 } });
      context.setDefaultTimeout(DEADLINE);
      page = await context.newPage();
      page.on('pageerror', (error) => troubles.push(String(error)));
      page.on('console', (message) => message.type() === 'error' && troubles.push(message.text()));
      page.on('request', (request) => {
        if (!request.url().startsWith(server.http) && !/^(data|blob):/.test(request.url())) {
          troubles.push(`the page asked for ${request.url()}`);
        }
      });
      await page.goto(server.http);
    });
    after(async () => {
      await page?.context().close();
      await server?.stop();
    });

    /** Waits until the element's text contains `text`. */
    const shows = async (id, text) => {
      try {
        await page.waitForFunction(
          ([id, text]) => document.getElementById(id).textContent.includes(text),
          [id, String(text)],
        );
      } catch {
        throw new Error(`#${id} shows '${await page.textContent(`#${id}`)}' and never '${text}'`);
      }
    };
    /** Waits until the log has what `pattern` matches. */
    const logs = async (pattern) => {
      try {
        await page.waitForFunction(
          (source) => new RegExp(source).test(document.getElementById('log').innerText.replace(/\s+/g, ' ')),
          pattern.source,
        );
      } catch {
        throw new Error(`the log has no ${pattern}:\n${await page.innerText('#log')}`);
      }
    };

    test('offers its own address', async () => {
      assert.ok((await page.inputValue('#url')).startsWith(server.ws), await page.inputValue('#url'));
    });
    test('connects, and shows what was agreed', async () => {
      await page.fill('#subprotocols', 'superchat, chat');
      await page.click('#connect');
      await shows('ready-state', 'OPEN');
      await shows('protocol', 'chat');
      await shows('extensions', 'permessage-deflate');
      await shows('buffered-amount', '0');
    });
    test('sends text and shows the answer', async () => {
      await page.fill('#text', 'Привет, нерка');
      await page.click('#send-text');
      await logs(/received text, 24 B Привет, нерка/);
    });
    for (const [type, name] of [['blob', 'Blob'], ['arraybuffer', 'ArrayBuffer']]) {
      test(`sends a file and receives it as ${name}`, async () => {
        const file = { name: `salmon-${type}.bin`, mimeType: 'application/octet-stream', buffer: crypto.randomBytes(54_321) };
        await page.selectOption('#binary-type', type);
        await page.setInputFiles('#file', file);
        await page.click('#send-file');
        await logs(new RegExp(`received ${name}, 54,321 B`));
      });
    }
    test('looks as it should', async () => {
      await page.screenshot({ path: path.join(screenshots, `page-${scheme}.png`), fullPage: true });
    });
    test('closes with a code and a reason', async () => {
      await page.fill('#close-code', '1000');
      await page.fill('#close-reason', 'Завершаю соединение');
      await page.click('#close');
      await shows('ready-state', 'CLOSED');
      await shows('log', '1000');
      await shows('log', 'Завершаю соединение');
    });
    test('connects again, and shows that the server went away', async () => {
      await page.click('#connect');
      await shows('ready-state', 'OPEN');
      server.child.kill('SIGINT');
      await shows('ready-state', 'CLOSED');
      await shows('log', '1001');
      await page.screenshot({ path: path.join(screenshots, `page-${scheme}-closed.png`), fullPage: true });
    });
    test('had no trouble, and asked no one else for anything', () => {
      assert.deepEqual(troubles, []);
    });
  });
}
