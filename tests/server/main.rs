//! A server for what `sockeye serve` has no reason to do, on the public API alone. It listens twice,
//! with callbacks and with async sockets, and does by path:
//!
//! - `/` echoes;
//! - `/panic/request`, `/panic/open`, `/panic/message` panic there;
//! - `/counted/N` echoes, and prints what went through it when it has ended: a [`Record`];
//! - `/busy`, with an async socket, does something else than to receive for four seconds, and then says `done`;
//! - `/who` says first who the client is, and by which proxy it comes: `127.0.0.5:1234 by 127.0.0.1`.
//!
//! `--proxy-protocol`, `--forwarded`, `--x-forwarded-for` each name the networks of proxies to believe; `--tls`
//! takes a certificate and its key.

use std::{net::SocketAddr, time::Duration};

use sockeye::{
    Acceptor, Ended, Handler, MessageRef, Result, Server, Socket, WebSocket,
    server::{Answer, IncomingRequest, Networks, Refusal, Request, ServerTls},
};
use sockeye_tests::{Record, Tally};
use tokio::time::sleep;

#[tokio::main]
async fn main() -> Result<()> {
    let settings = Settings::of(std::env::args().skip(1))?;
    let events = settings.server().await?;
    let plain = settings.server().await?;
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

/// How connections are accepted.
struct Settings {
    acceptor: Acceptor,
    proxies: Option<Networks>,
}

impl Settings {
    fn of(mut args: impl Iterator<Item = String>) -> Result<Self> {
        let mut acceptor = Acceptor::new().on_request(look);
        let mut proxies = None;
        while let Some(name) = args.next() {
            let value = args.next().unwrap_or_default();
            match name.as_str() {
                "--proxy-protocol" => proxies = Some(value.parse()?),
                "--forwarded" => acceptor = acceptor.forwarded(value.parse()?),
                "--x-forwarded-for" => acceptor = acceptor.x_forwarded_for(value.parse()?),
                "--tls" => {
                    let key = args.next().unwrap_or_default();
                    acceptor = acceptor.tls(ServerTls::from_pem_files(value, key)?);
                }
                other => panic!("{other} is not understood"),
            }
        }
        Ok(Self { acceptor, proxies })
    }

    async fn server(&self) -> Result<Server> {
        let server = Server::bind("127.0.0.1:0").await?;
        let server = server.acceptor(self.acceptor.clone());
        let server = server.on_error(|peer, error| {
            let peer = peer.map_or_else(|| "unknown".into(), |peer| peer.to_string());
            eprintln!("{peer}: {error}");
        });
        Ok(match &self.proxies {
            Some(proxies) => server.proxy_protocol(proxies.clone()),
            None => server,
        })
    }
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

/// Who a client is, and by which proxy it comes.
fn who(client: Option<SocketAddr>, proxy: Option<SocketAddr>) -> String {
    let client = client.map_or_else(|| "unknown".into(), |client| client.to_string());
    match proxy {
        Some(proxy) => format!("{client} by {}", proxy.ip()),
        None => client,
    }
}

/// With callbacks.
#[derive(Default)]
struct Events(Visit);

impl Handler for Events {
    fn on_open(&mut self, socket: &mut Socket) {
        self.0 = Visit::open(socket.request().map(Request::path));
        if self.0.path == "/who" {
            socket.send(who(socket.peer_addr(), socket.proxy_addr()));
        }
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
    if visit.path == "/who" {
        let who = who(socket.peer_addr(), socket.proxy_addr());
        socket.send(who).await?;
    }
    if visit.path == "/busy" {
        sleep(Duration::from_secs(4)).await;
        socket.send("done").await?;
    }
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
