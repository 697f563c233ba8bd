// Starts the `sockeye` binary for the tests that are written for Node, and always ends it.
'use strict';
const { spawn, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');

const root = path.resolve(__dirname, '..');
const target = process.env.CARGO_TARGET_DIR || path.join(root, 'target');
const binary = process.env.SOCKEYE_BIN || path.join(target, 'release', 'sockeye');
fs.accessSync(binary, fs.constants.X_OK); // Without it, each test would wait for it in vain.

/** How long any single wait may take, in milliseconds. */
const DEADLINE = 15_000;

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** `promise`, or an error that says what was waited for. */
function within(promise, what, limit = DEADLINE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${limit} ms`)), limit);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A running program whose output can be waited for. */
class Program {
  constructor(command, args, options = {}) {
    this.name = [path.basename(command), ...args].join(' ').slice(0, 100);
    this.stdout = '';
    this.stderr = '';
    this.watchers = new Set();
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'], ...options });
    running.add(this.child);
    for (const stream of ['stdout', 'stderr']) {
      this.child[stream].setEncoding('utf8').on('data', (text) => {
        this[stream] += text;
        this.watchers.forEach((watcher) => watcher());
      });
    }
    this.child.stdin.on('error', () => {}); // The program may end before its input does.
    this.ended = new Promise((resolve) => {
      this.child.on('error', (error) => {
        this.stderr += error.message;
        resolve({ code: -1, signal: null });
      });
      this.child.on('close', (code, signal) => {
        running.delete(this.child);
        resolve({ code, signal });
      });
    });
  }

  /** The first match of `pattern` in standard output. */
  async output(pattern, limit) {
    let watcher;
    const seen = new Promise((resolve, reject) => {
      watcher = () => {
        const match = this.stdout.match(pattern);
        if (match) resolve(match);
      };
      this.watchers.add(watcher);
      watcher();
      this.ended.then(({ code }) => {
        watcher();
        reject(new Error(`${this.name} ended with ${code} before printing ${pattern}\n${this.told()}`));
      });
    });
    try {
      return await within(seen, `${pattern} from ${this.name}`, limit);
    } catch (error) {
      error.message += `\n${this.told()}`;
      throw error;
    } finally {
      this.watchers.delete(watcher);
    }
  }

  told() {
    return `stdout: ${this.stdout.slice(-1000)}\nstderr: ${this.stderr.slice(-1000)}`;
  }

  /** Resolves to the exit status once the program has ended by itself. */
  async end(limit) {
    const { code, signal } = await within(this.ended, `end of ${this.name}`, limit).catch((error) => {
      error.message += `\n${this.told()}`;
      throw error;
    });
    return code ?? signal;
  }

  /** Ends the program, by force when asking does not help. */
  async stop(signal = 'SIGINT') {
    this.child.kill(signal);
    const force = setTimeout(() => this.child.kill('SIGKILL'), 5_000);
    const { code } = await this.ended;
    clearTimeout(force);
    return code;
  }
}

/** `sockeye serve` on a free port; `http` and `ws` are its addresses. */
async function serve(...args) {
  const program = new Program(binary, ['serve', '--listen', '127.0.0.1:0', ...args]);
  try {
    const [address] = await program.output(/https?:\/\/[^\s"'<>]+/);
    program.http = address.endsWith('/') ? address : `${address}/`;
    program.ws = program.http.replace(/^http/, 'ws');
  } catch (error) {
    await program.stop('SIGKILL');
    throw error;
  }
  return program;
}

/** `sockeye connect` with its standard input and output as pipes. */
function connect(url, ...args) {
  return new Program(binary, ['connect', ...args, url]);
}

/** Paths of a test authority and of a certificate it signed for 127.0.0.1. */
function certificates() {
  const directory = path.join(target, 'tests', `tls-${process.pid}`);
  execFileSync(path.join(__dirname, 'make-certificates.sh'), [directory], { timeout: DEADLINE });
  const file = (name) => path.join(directory, name);
  return { ca: file('ca.pem'), cert: file('server.pem'), key: file('server.key') };
}

/** A port that was free a moment ago, for programs that cannot be told to choose one. */
function freePort() {
  return new Promise((resolve, reject) => {
    const probe = net.createServer().on('error', reject);
    probe.listen(0, '127.0.0.1', () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

module.exports = { DEADLINE, Program, certificates, connect, freePort, root, serve, target, within };
