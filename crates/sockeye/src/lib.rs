//! WebSocket client and server on tokio.
#![forbid(unsafe_code)]
// What is established here becomes a WebSocket in `socket.rs`, which is still to come.
#![allow(dead_code)]

#[cfg(feature = "client")]
pub mod client;
#[cfg(feature = "client")]
mod entropy;
mod error;
mod established;
mod head;
#[cfg(feature = "server")]
pub mod server;
mod stream;

#[cfg(feature = "client")]
pub use client::Client;
pub use error::{Deadline, Error, Result};
#[cfg(feature = "server")]
pub use server::Acceptor;
pub use sockeye_proto::{
    Limits,
    deflate::DeflateConfig,
    handshake::{HandshakeError, HeadLimits},
};
