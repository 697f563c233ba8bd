//! The server: from an accepted stream to an open connection (RFC 6455 §4.2).
//!
//! [`who_may_come_in`] tells how a request is decided about. With the feature `hyper` pages and sockets share
//! a port, which the module `guide` tells of.

mod accept;
mod acceptor;
mod admission;
mod connections;
mod decision;
mod forwarded;
#[cfg(feature = "hyper")]
mod http;
#[cfg(feature = "http3")]
mod http3;
#[cfg(feature = "http2")]
mod idle;
mod listen;
mod listener;
mod networks;
mod opening;
mod origins;
mod per_core;
mod proxy_protocol;
pub(crate) mod refusal;
#[cfg(feature = "hyper")]
mod rewound;
mod routes;
mod shutdown;
mod task;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_identity;
#[cfg(feature = "http2")]
mod tunnelled;

pub use crate::{rate::Rate, throttle::Excess};
#[cfg(feature = "hyper")]
pub(crate) use accept::Terms;
pub use accept::accept;
pub(crate) use accept::{Client, Incoming, PlainHttp};
pub use acceptor::Acceptor;
pub use admission::Limit;
#[cfg(feature = "axum")]
pub(crate) use connections::{Connections, Entry};
pub use decision::{Answer, IncomingRequest};
pub(crate) use decision::{Peer, State};
#[cfg(feature = "http2")]
pub(crate) use idle::Idle;
pub use listen::Server;
pub use listener::Listener;
pub use networks::Networks;
pub use origins::Origins;
pub use per_core::PerCore;
pub use proxy_protocol::ProxyHeaderError;
#[cfg(feature = "hyper")]
pub(crate) use rewound::Rewound;
pub(crate) use routes::Matched;
pub use routes::Routes;
pub use shutdown::{Departed, Farewell, Shutdown, ShutdownHandle};
pub use sockeye_proto::handshake::{Refusal, Request};
#[cfg(feature = "tls")]
pub use tls::ServerTls;
#[cfg(feature = "tls")]
pub use tls_identity::TlsIdentity;
#[cfg(feature = "http2")]
pub(crate) use tunnelled::Tunnelled;

/// All limits, and what a peer sees of them.
#[doc = include_str!("../../docs/limits.md")]
pub mod limits {}

#[cfg(feature = "hyper")]
#[doc = include_str!("../../docs/server.md")]
pub mod guide {}

#[doc = include_str!("../../docs/leaving.md")]
pub mod leaving {}

#[doc = include_str!("../../docs/who-may-come-in.md")]
pub mod who_may_come_in {}
