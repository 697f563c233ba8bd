//! The server: from an accepted stream to an open connection (RFC 6455 §4.2).
//!
//! [`who_may_come_in`] tells how a request is decided about. With the feature `hyper` pages and sockets share
//! a port, which the module `guide` tells of.

mod accept;
mod admission;
mod connections;
mod decision;
#[cfg(feature = "hyper")]
mod http;
#[cfg(feature = "http2")]
mod idle;
mod listen;
mod listener;
mod origins;
mod per_core;
#[cfg(feature = "hyper")]
mod rewound;
mod routes;
mod shutdown;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_identity;

pub use crate::{rate::Rate, throttle::Excess};
pub(crate) use accept::Incoming;
pub use accept::{Acceptor, accept};
#[cfg(feature = "hyper")]
pub(crate) use accept::{PlainHttp, Terms};
pub use admission::Limit;
pub use decision::{Answer, IncomingRequest};
pub(crate) use decision::{Peer, State};
pub use listen::Server;
pub use listener::Listener;
pub use origins::Origins;
pub use per_core::PerCore;
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

#[cfg(feature = "hyper")]
#[doc = include_str!("../../docs/server.md")]
pub mod guide {}

#[doc = include_str!("../../docs/who-may-come-in.md")]
pub mod who_may_come_in {}
