//! A server for what `sockeye serve` has no reason to do, on the public API alone. It listens twice,
//! with callbacks and with async sockets, and does by path:
//!
//! - `/` echoes;
//! - `/panic/request`, `/panic/open`, `/panic/message` panic there;
//! - `/counted/N` echoes, and prints what went through it when it has ended: a [`Record`].

use sockeye::{
    Acceptor, Ended, Handler, MessageRef, Result, Server, Socket, WebSocket,
    server::{Answer, IncomingRequest, Refusal, Request},
};
use sockeye_tests::{Record, Tally};

#[tokio::main]
async fn main() -> Result<()> {
    let events = Server::bind("127.0.0.1:0").await?.acceptor(acceptor());
    let plain = Server::bind("127.0.0.1:0").await?.acceptor(acceptor());
    println!("callbacks on ws://{}/", events.local_addr()?);
    println!("async sockets on ws://{}/", plain.local_addr()?);
    let interrupt = async || drop(tokio::signal::ctrl_c().await);
    let events = events.shutdown_on(interrupt());
    let plain = plain.shutdown_on(interrupt());
    tokio::try_join!(
        events.serve_handler(Events::default),
        plain.serve(async_socket)
    )?;
    Ok(())
}

fn acceptor() -> Acceptor {
    Acceptor::new().on_request(look)
}

async fn look(request: IncomingRequest) -> Result<Answer, Refusal> {
    panic_at("/panic/request", request.path());
    Ok(Answer::new())
}

fn panic_at(place: &str, path: &str) {
    assert!(path != place, "as the client at {path} wants it");
}

/// A connection, whichever form it has.
#[derive(Default)]
struct Visit {
    path: String,
    /// What went through it, where that is wanted.
    record: Option<Record>,
}

impl Visit {
    fn open(path: Option<&str>) -> Self {
        let path = path.unwrap_or("/").to_owned();
        panic_at("/panic/open", &path);
        let number = path.strip_prefix("/counted/").and_then(|n| n.parse().ok());
        let record = number.map(|number| Record {
            number,
            received: Tally::default(),
            sent: Tally::default(),
            clean: false,
        });
        Self { path, record }
    }

    fn received(&mut self, message: MessageRef<'_>) {
        panic_at("/panic/message", &self.path);
        if let Some(record) = &mut self.record {
            record.received.add(message);
        }
    }

    fn sent(&mut self) {
        if let Some(record) = &mut self.record {
            // It is an echo: each message once it was received.
            record.sent = record.received;
        }
    }

    fn ended(&mut self, ended: Option<&Ended>) {
        if let Some(record) = &mut self.record {
            record.clean = ended.is_some_and(Ended::was_clean);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(record) = self.record {
            println!("{record}");
        }
    }
}

/// With callbacks.
#[derive(Default)]
struct Events(Visit);

impl Handler for Events {
    fn on_open(&mut self, socket: &mut Socket) {
        self.0 = Visit::open(socket.request().map(Request::path));
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        self.0.received(message);
        socket.send(message);
        self.0.sent();
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        self.0.ended(Some(ended));
    }
}

/// The same with `recv` and `send`.
async fn async_socket(mut socket: WebSocket) -> Result<()> {
    let mut visit = Visit::open(socket.request().map(Request::path));
    let result = echo(&mut socket, &mut visit).await;
    visit.ended(socket.ended().as_ref());
    result
}

async fn echo(socket: &mut WebSocket, visit: &mut Visit) -> Result<()> {
    while let Some(message) = socket.recv().await? {
        visit.received(message.as_ref());
        match socket.send(message).await {
            Ok(()) => visit.sent(),
            // It has closed meanwhile: `recv` tells how.
            Err(error) if error.is_closed() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
