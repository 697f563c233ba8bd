//! One message for everyone: the first connection sends it, and all of them are given it.

use std::{
    io::{self, Read, Write},
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpStream};

use crate::{
    server::Server,
    wire::{Counter, Traffic},
};

struct Member {
    stream: TcpStream,
    counter: Counter,
}

/// CPU of the server in microseconds a delivery: a message to each of `count` connections, again
/// and again for `seconds`.
pub fn run(server: &Server, traffic: &Traffic, count: usize, seconds: f64) -> io::Result<f64> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = server.connect()?;
        traffic.open(&mut stream)?;
        streams.push(stream);
    }
    // The last ones are still being taken in.
    std::thread::sleep(Duration::from_millis(100));
    streams[0].write_all(&traffic.frames[0])?;
    for stream in &mut streams {
        traffic.check_delivery(stream)?;
    }

    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(count);
    let mut members = Vec::with_capacity(count);
    for (index, stream) in streams.into_iter().enumerate() {
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        poll.registry()
            .register(&mut stream, Token(index), Interest::READABLE)?;
        members.push(Member {
            stream,
            counter: Counter::default(),
        });
    }
    let mut buffer = vec![0; 64 * 1024];
    let mut everyone = || {
        members[0].stream.write_all(&traffic.frames[0])?;
        let mut delivered = 0;
        while delivered < count {
            poll.poll(&mut events, Some(Duration::from_secs(10)))?;
            if events.is_empty() {
                return Err(io::Error::other(format!(
                    "{delivered} of {count} were reached, and no more for 10 s"
                )));
            }
            for event in &events {
                let member = &mut members[event.token().0];
                match member.stream.read(&mut buffer) {
                    Ok(0) => return Err(io::Error::other("the server closed a connection")),
                    Ok(read) => delivered += member.counter.count(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    };
    for _ in 0..3 {
        everyone()?;
    }
    let (before, begun, mut messages) = (server.cpu(), Instant::now(), 0);
    while messages < 5 || begun.elapsed().as_secs_f64() < seconds {
        everyone()?;
        messages += 1;
    }
    let cpu = server.cpu() - before;
    Ok(cpu.as_secs_f64() * 1e6 / (messages * count) as f64)
}
