//! WebSocket client and server on tokio.
//!
//! # A client
//!
//! ```no_run
//! # async fn example() -> sockeye::Result<()> {
//! let mut socket = sockeye::connect("wss://example.com/socket").await?;
//! socket.send("Привет").await?;
//! while let Some(message) = socket.recv().await? { println!("Получено сообщение: {message}"); }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] says how, where the defaults do not fit: headers, subprotocols, TLS, limits,
//! deadlines, or a stream of your own.
//!
//! # A server
//!
//! ```no_run
//! use sockeye::Server;
//!
//! # async fn example() -> sockeye::Result<()> {
//! Server::bind("127.0.0.1:8080").await?
//!     .serve(|mut socket| async move {
//!         socket.send("Добро пожаловать на сервер!").await?;
//!         while let Some(message) = socket.recv().await? { socket.send(message).await?; }
//!         Ok(())
//!     }).await
//! # }
//! ```
//!
//! [`Acceptor`] says how connections are accepted; [`accept`] takes one on any stream.
//!
//! # Callbacks
//!
//! The same, in the shape of a browser's `WebSocket`: messages are lent from where they were
//! received. It is the fastest way, and works for a client too ([`WebSocket::handle`]).
//!
//! ```no_run
//! use sockeye::{Handler, MessageRef, Server, Socket};
//!
//! struct Greeter;
//!
//! impl Handler for Greeter {
//!     fn on_open(&mut self, socket: &mut Socket) { socket.send("Добро пожаловать на сервер!"); }
//!     fn on_message(&mut self, _socket: &mut Socket, message: MessageRef<'_>) { println!("Получено сообщение: {message}"); }
//! }
//!
//! # async fn example() -> sockeye::Result<()> {
//! Server::bind("127.0.0.1:8080").await?.serve_handler(|| Greeter).await
//! # }
//! ```
//!
//! # What to rely on
//!
//! - **One poll, one write.** What a handler sends while its task is polled goes out in one write
//!   when it yields. A plain loop needs no batching to be fast, and no message waits for the next.
//!   A socket that nobody drives writes in `send` itself; [`WebSocket::drive`] drives it.
//! - **Cancel safety.** State is in the connection, never in a future. Each method says what
//!   dropping it does.
//! - **Limits.** Messages, frames, fragments, heads and waiting output are bounded ([`Limits`],
//!   [`HeadLimits`], `high_water`); nothing is allocated on a peer's claim; an idle connection
//!   holds no buffer.
//! - **Size.** What does not fit into memory is read and written as it comes:
//!   [`recv_stream`](WebSocket::recv_stream), [`send_stream`](WebSocket::send_stream), and
//!   [`into_byte_stream`](WebSocket::into_byte_stream) for tunnels.
//! - **Many at once.** [`Groups`] sends one message to many connections, compressed once, and
//!   whoever does not read delays nobody.
//! - **The end is a value.** [`Ended`] says who closed and with what, or how the connection was
//!   lost.
//!
//! # Guides
//!
//! | | |
//! |---|---|
//! | [`client::guide`] | the way to a server: proxies, TLS, redirects, deadlines, staying connected |
//! | [`Reconnecting`](client::Reconnecting) | a client that connects again |
//! | [`browser`] | the browser's `WebSocket` |
#![cfg_attr(
    feature = "hyper",
    doc = "| [`server::guide`] | pages and sockets on one port, axum, hyper, tests in memory |"
)]
//! | [`server::who_may_come_in`] | decisions about requests, origins, paths |
//! | [`server::limits`] | all limits, slow readers, proxies in front, very many connections |
//! | [`groups`] | one message to many |
//! | [`server::leaving`] | shutdown, restarts, certificates |
#![cfg_attr(
    feature = "metrics",
    doc = "| [`metrics::guide`] | counters, metrics, spans |"
)]
//!
//! Other transports than tokio's: [`proto::guide`].
//!
//! # Features
//!
//! By default `client`, `server`, `deflate` (permessage-deflate) and `tls` (`wss`, with rustls). Besides: `axum`, `hyper`, `http2`,
//! `http3`, `metrics` and `tracing`. `Cargo.toml` says what each brings; none takes away what another does.
#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../docs/large-messages.md")]
struct LargeMessages;

#[cfg(all(doctest, feature = "client", feature = "server"))]
#[doc = include_str!("../docs/examples.md")]
struct Examples;

#[cfg(all(doctest, feature = "client", feature = "server"))]
#[doc = include_str!("../README.md")]
struct Readme;

/// The programs in the project's README.
#[cfg(all(doctest, feature = "client", feature = "server", feature = "axum"))]
#[doc = include_str!("../../../README.md")]
struct ProjectReadme;

mod address;
#[cfg(feature = "axum")]
pub mod axum;
#[cfg(feature = "client")]
pub mod browser;
mod buffers;
mod byte_stream;
#[cfg(feature = "client")]
pub mod client;
mod clock;
#[cfg(feature = "server")]
mod driven;
mod driver;
mod ended;
#[cfg(feature = "client")]
mod entropy;
mod error;
mod established;
mod given;
pub mod groups;
mod handler;
mod head;
#[cfg(feature = "http3")]
#[cfg_attr(
    not(feature = "client"),
    allow(dead_code, reason = "a part is for clients alone")
)]
mod http3;
#[cfg(feature = "hyper")]
pub mod hyper;
mod keepalive;
mod latest;
mod link;
mod message_reader;
mod message_writer;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(all(feature = "tls", any(feature = "client", feature = "server")))]
mod pem;
#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, unreachable_pub, reason = "set at servers")
)]
mod rate;
mod reader;
#[cfg(feature = "server")]
pub mod server;
mod shared;
mod socket;
mod split;
mod stream;
#[cfg_attr(
    not(feature = "server"),
    allow(dead_code, unreachable_pub, reason = "set at servers")
)]
mod throttle;
mod transport;
mod unshared;
mod waiting;
mod watch;

pub use byte_stream::ByteStream;
#[cfg(feature = "client")]
pub use client::{Client, connect};
pub use ended::Ended;
pub use error::{Attempt, Deadline, Error, Result};
pub use groups::{Groups, Member};
pub use handler::{Handler, Socket};
pub use message_reader::MessageReader;
pub use message_writer::MessageWriter;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
#[cfg(feature = "server")]
pub use server::{Acceptor, PerCore, Server, accept};
pub use socket::WebSocket;
pub use sockeye_proto as proto;
pub use sockeye_proto::{
    CloseCode, CloseFrame, Count, Counters, InvalidCloseCode, Limits, Message, MessageKind,
    MessageRef, Outgoing, OwnedEvent as Event, Prepared, ProtocolError, SendError, Shown, Text,
    TextRef, Traffic,
    deflate::DeflateConfig,
    handshake::{HandshakeError, HeadLimits},
};
pub use split::{Receiver, Sender};
