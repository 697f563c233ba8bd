//! The server: from an accepted stream to an open connection (RFC 6455 §4.2).
//!
//! With the feature `hyper` pages and sockets share a port, which the module `guide` tells of.

mod accept;
mod connections;
#[cfg(feature = "hyper")]
mod http;
#[cfg(feature = "http2")]
mod idle;
mod listen;
mod listener;
mod per_core;
#[cfg(feature = "hyper")]
mod rewound;
mod shutdown;
#[cfg(feature = "tls")]
mod tls;

pub use crate::{rate::Rate, throttle::Excess};
pub(crate) use accept::Incoming;
#[cfg(feature = "hyper")]
pub(crate) use accept::PlainHttp;
pub use accept::{Acceptor, Answer, accept};
pub use listen::Server;
pub use listener::Listener;
pub use per_core::PerCore;
#[cfg(feature = "hyper")]
pub(crate) use rewound::Rewound;
pub use shutdown::{Departed, Farewell, Shutdown, ShutdownHandle};
pub use sockeye_proto::handshake::{Refusal, Request};
#[cfg(feature = "tls")]
pub use tls::ServerTls;

#[cfg(feature = "hyper")]
#[doc = include_str!("../../docs/server.md")]
pub mod guide {}
