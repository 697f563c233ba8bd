// Chromium against the lines of expectations.tsv, to which sockeye::browser is held too.
'use strict';
const { test, before, after } = require('node:test');
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const net = require('node:net');
const path = require('node:path');
const { DEADLINE, within } = require('../sockeye.js');
const { launch } = require('./chromium.js');

const options = { timeout: 4 * DEADLINE };
const lines = fs.readFileSync(path.join(__dirname, 'expectations.tsv'), 'utf8')
  .split('\n')
  .filter((line) => line && !line.startsWith('#'))
  .map((line) => line.split('\t'));
const cases = (kind) => lines.filter(([is]) => is === kind).map(([, input, expected, chromium]) => [input, chromium ?? expected]);

let browser;
let page;
let site;
before(async () => {
  browser = await launch();
  site = http.createServer((_, response) => response.setHeader('Content-Type', 'text/html').end('<!doctype html>'));
  await new Promise((resolve) => site.listen(0, '127.0.0.1', resolve));
  page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${site.address().port}/`);
});
after(async () => {
  await browser?.close();
  site?.close();
});

const run = (body, argument) => within(page.evaluate(body, argument), 'answer from the page');

/** A server that gives the request's head and its socket to `answer`. */
async function scripted(answer) {
  const server = net.createServer((socket) => {
    let head = '';
    socket.on('error', () => {}).on('data', function read(data) {
      head += data.toString('latin1');
      if (!head.includes('\r\n\r\n')) return;
      socket.off('data', read);
      answer(socket, head);
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `ws://127.0.0.1:${server.address().port}/socket`, close: () => server.close() };
}

/** The events of a socket until its close. */
const events = (url) => run((url) => new Promise((resolve) => {
  const seen = [];
  const socket = new WebSocket(url);
  socket.onopen = () => seen.push('open');
  socket.onmessage = (event) => seen.push(`message:${event.data}`);
  socket.onerror = () => seen.push('error');
  socket.onclose = ({ code, reason, wasClean }) => {
    seen.push(`close:${code}:${reason}:${wasClean}`);
    resolve(seen.join(' '));
  };
}), url);

test('urls', options, async () => {
  for (const [url, expected] of cases('url')) {
    const seen = await run((url) => {
      try {
        return new WebSocket(url).url;
      } catch (error) {
        return error.name;
      }
    }, url);
    assert.equal(seen, expected, url);
  }
});

test('protocols', options, async () => {
  for (const [list, expected] of cases('protocols')) {
    const protocols = list.split(' ').map((name) => name.replaceAll('%20', ' '));
    const seen = await run((protocols) => {
      try {
        return new WebSocket('ws://127.0.0.1:1', protocols) && 'ok';
      } catch (error) {
        return error.name;
      }
    }, protocols);
    assert.equal(seen, expected, list);
  }
});

test('close', options, async () => {
  for (const [input, expected] of cases('close')) {
    const [code, character, count] = input.split(' ');
    const reason = character.repeat(Number(count));
    const args = code === 'none' ? [] : reason ? [Number(code), reason] : [Number(code)];
    const seen = await run((args) => {
      try {
        new WebSocket('ws://127.0.0.1:1').close(...args);
        return 'ok';
      } catch (error) {
        return error.name;
      }
    }, args);
    assert.equal(seen, expected, input);
  }
});

for (const [input, expected] of cases('peer')) {
  test(`peer ${input}`, options, async () => {
    const server = await scripted((socket, head) => {
      const key = /^Sec-WebSocket-Key: (.*)$/im.exec(head)[1].trim();
      const accept = crypto.createHash('sha1').update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`).digest('base64');
      socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ${accept}\r\n\r\n`);
      socket.write(Buffer.from(input.replace('end', ''), 'hex'));
      if (input.endsWith('end')) return void socket.end();
      socket.on('data', () => socket.end());
    });
    try {
      assert.equal(await events(server.url), expected);
    } finally {
      server.close();
    }
  });
}

for (const [input, expected] of cases('refuse')) {
  test(`refuse ${input}`, options, async () => {
    const server = await scripted((socket) => socket.end(`${input}\r\nContent-Length: 0\r\n\r\n`));
    try {
      assert.equal(await events(server.url), expected);
    } finally {
      server.close();
    }
  });
}
