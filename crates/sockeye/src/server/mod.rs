//! The server: from an accepted stream to an open connection (RFC 6455 §4.2).

mod accept;
#[cfg(feature = "hyper")]
mod http;
#[cfg(feature = "http2")]
mod idle;
mod listen;
mod per_core;
#[cfg(feature = "hyper")]
mod rewound;
#[cfg(feature = "tls")]
mod tls;

pub use accept::{Acceptor, Answer, accept};
pub(crate) use accept::{Incoming, PlainHttp};
pub use listen::Server;
pub use per_core::PerCore;
#[cfg(feature = "hyper")]
pub(crate) use rewound::Rewound;
pub use sockeye_proto::handshake::{Refusal, Request};
#[cfg(feature = "tls")]
pub use tls::ServerTls;
