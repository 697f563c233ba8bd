//! The load: one thread keeps messages in flight on every connection and counts what comes back.

use std::{
    io::{self, Read, Write},
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    server::{Server, own_cpu},
    wire::{Counter, Traffic},
};

pub struct Load<'a> {
    pub traffic: &'a Traffic,
    pub connections: usize,
    /// Messages on their way on each connection; or on all together, where they take turns.
    pub in_flight: usize,
    pub turns: Option<Turns>,
    pub seconds: f64,
}

/// Connections that take turns, one message each: `in_flight` of them together, and the next so many
/// when their time has come. So the rate is the same, however many are open.
#[derive(Clone, Copy)]
pub struct Turns {
    /// The others are open, and silent.
    pub among: usize,
    pub every: Duration,
}

/// What was measured after the warm-up.
pub struct Measured {
    pub messages: u64,
    pub bytes: u64,
    pub time: Duration,
    pub server_cpu: Duration,
    pub own_cpu: Duration,
    /// Round trips in nanoseconds, where one message at a time was in flight.
    pub latencies: Vec<u32>,
}

impl Measured {
    /// CPU of the server in microseconds a message.
    pub fn cost(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / self.messages as f64
    }

    pub fn throughput(&self) -> f64 {
        self.messages as f64 / self.time.as_secs_f64()
    }

    /// The share of the time in which server or load ran: what one core had to give.
    pub fn busy(&self) -> f64 {
        (self.server_cpu + self.own_cpu).as_secs_f64() / self.time.as_secs_f64()
    }

    /// A quantile of the latencies, in microseconds.
    pub fn latency(&mut self, quantile: f64) -> Option<f64> {
        let at = (self.latencies.len().checked_sub(1)? as f64 * quantile) as usize;
        let (_, value, _) = self.latencies.select_nth_unstable(at);
        Some(f64::from(*value) / 1000.0)
    }
}

/// Before anything is measured: caches and buffers reach what they will be.
const WARM_UP: Duration = Duration::from_millis(120);

/// What is read at once: more than any server writes at once.
const READ: usize = 512 * 1024;

struct Connection {
    stream: TcpStream,
    /// Where the next byte to send is in the ring of frames, and how many are owed.
    at: usize,
    owed: usize,
    /// The frame after the last one owed.
    next: usize,
    /// Bytes of an echo that has not come whole.
    partial: usize,
    counter: Counter,
    sent: Instant,
}

struct Ring {
    /// The frames twice, so that any run of them is one slice.
    bytes: Vec<u8>,
    period: usize,
    lens: Vec<usize>,
}

impl Ring {
    fn new(frames: &[Vec<u8>], at_least: usize) -> Self {
        let times = at_least.div_ceil(frames.len()).max(1);
        let lens: Vec<_> = (0..times).flat_map(|_| frames).map(Vec::len).collect();
        let bytes = frames.concat().repeat(times * 2);
        Self {
            period: bytes.len() / 2,
            bytes,
            lens,
        }
    }
}

impl Connection {
    /// Owes `count` more frames, and sends what the socket takes.
    fn send(&mut self, ring: &Ring, count: usize) -> io::Result<()> {
        for _ in 0..count {
            self.owed += ring.lens[self.next];
            self.next = (self.next + 1) % ring.lens.len();
        }
        while self.owed > 0 {
            let len = self.owed.min(ring.period);
            match self.stream.write(&ring.bytes[self.at..self.at + len]) {
                Ok(written) => {
                    self.at = (self.at + written) % ring.period;
                    self.owed -= written;
                    if written < len {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there: how many echoes were completed.
    fn receive(
        &mut self,
        buffer: &mut [u8],
        echo: Option<usize>,
        total: &mut u64,
    ) -> io::Result<usize> {
        let mut messages = 0;
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(messages),
                Err(error) => return Err(error),
            };
            *total += count as u64;
            messages += match echo {
                Some(len) => {
                    self.partial += count;
                    let whole = self.partial / len;
                    self.partial %= len;
                    whole
                }
                None => self.counter.count(&buffer[..count]),
            };
            // A short read has emptied the socket: what comes later is a new event.
            if count < buffer.len() {
                return Ok(messages);
            }
        }
    }
}

impl Load<'_> {
    pub fn run(&self, server: &Server) -> io::Result<Measured> {
        self.run_when(server, || Ok(()))
    }

    /// Connects, and begins when `ready` returns.
    pub fn run_when(
        &self,
        server: &Server,
        ready: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Measured> {
        let mut poll = Poll::new()?;
        let mut events = Events::with_capacity(1024);
        let ring = Ring::new(
            &self.traffic.frames,
            if self.turns.is_some() {
                1
            } else {
                self.in_flight
            },
        );
        let mut connections = self.connect(server, &poll)?;
        let mut buffer = vec![0; READ];
        let echo = self.traffic.echo_len();

        ready()?;
        // Whose turn it is, how many have not come back, and when the next may go.
        let (mut turn, mut missing, mut next) = (0, 0, Instant::now());
        if self.turns.is_none() {
            for connection in &mut connections {
                connection.sent = Instant::now();
                connection.send(&ring, self.in_flight)?;
            }
        }

        let latency = self.in_flight == 1 && self.turns.is_none();
        let (mut messages, mut bytes, mut latencies) = (0, 0, Vec::new());
        let mut begun = Instant::now();
        let mut until = begun + WARM_UP;
        let mut start = None;
        loop {
            if let Some(turns) = self.turns
                && missing == 0
            {
                thread::sleep(next.saturating_duration_since(Instant::now()));
                next += turns.every;
                for _ in 0..self.in_flight {
                    connections[turn].send(&ring, 1)?;
                    turn = (turn + 1) % turns.among;
                }
                missing = self.in_flight;
            }
            poll.poll(&mut events, Some(Duration::from_secs(10)))?;
            if events.is_empty() {
                return Err(io::Error::other("nothing has come back for 10 s"));
            }
            for event in &events {
                let index = event.token().0;
                let connection = &mut connections[index];
                if !event.is_readable() {
                    connection.send(&ring, 0)?;
                    continue;
                }
                let done = connection.receive(&mut buffer, echo, &mut bytes)?;
                messages += done as u64;
                if self.turns.is_some() {
                    missing -= done;
                    if connection.owed > 0 {
                        connection.send(&ring, 0)?;
                    }
                    continue;
                }
                if latency && done > 0 {
                    let now = Instant::now();
                    if start.is_some() {
                        latencies.push((now - connection.sent).as_nanos() as u32);
                    }
                    connection.sent = now;
                }
                if done > 0 || connection.owed > 0 {
                    connection.send(&ring, done)?;
                }
            }
            let now = Instant::now();
            if now < until {
                continue;
            }
            let cpu = (server.cpu(), own_cpu());
            match start {
                None => {
                    (messages, bytes) = (0, 0);
                    start = Some(cpu);
                    begun = Instant::now();
                    until = begun + Duration::from_secs_f64(self.seconds);
                }
                Some(start) => {
                    return Ok(Measured {
                        messages,
                        bytes,
                        time: now - begun,
                        server_cpu: cpu.0 - start.0,
                        own_cpu: cpu.1 - start.1,
                        latencies,
                    });
                }
            }
        }
    }

    /// Opens the connections, one after the other, and checks the first echo of each.
    fn connect(&self, server: &Server, poll: &Poll) -> io::Result<Vec<Connection>> {
        (0..self.connections)
            .map(|index| {
                let mut stream = server.connect()?;
                self.traffic.open(&mut stream)?;
                self.traffic.check_echo(&mut stream)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry()
                    .register(&mut stream, Token(index), interest)?;
                Ok(Connection {
                    stream,
                    at: 0,
                    owed: 0,
                    next: 0,
                    partial: 0,
                    counter: Counter::default(),
                    sent: Instant::now(),
                })
            })
            .collect()
    }
}
