//! WebSocket client and server on tokio.
#![forbid(unsafe_code)]

mod buffers;
#[cfg(feature = "client")]
pub mod client;
mod driver;
mod ended;
#[cfg(feature = "client")]
mod entropy;
mod error;
mod established;
mod handler;
mod head;
mod link;
mod reader;
#[cfg(feature = "server")]
pub mod server;
mod socket;
mod split;
mod stream;
mod transport;

#[cfg(feature = "client")]
pub use client::{Client, connect};
pub use ended::Ended;
pub use error::{Deadline, Error, Result};
pub use handler::{Handler, Socket};
#[cfg(feature = "server")]
pub use server::{Acceptor, Server, accept};
pub use socket::WebSocket;
pub use sockeye_proto as proto;
pub use sockeye_proto::{
    CloseCode, CloseFrame, InvalidCloseCode, Limits, Message, MessageRef, Outgoing,
    OwnedEvent as Event, ProtocolError, SendError, Text,
    deflate::DeflateConfig,
    handshake::{HandshakeError, HeadLimits},
};
pub use split::{Receiver, Sender};
