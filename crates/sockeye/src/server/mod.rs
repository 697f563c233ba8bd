//! The server: from an accepted stream to an open connection (RFC 6455 §4.2).

mod accept;
#[cfg(feature = "hyper")]
mod http;
mod listen;
#[cfg(feature = "tls")]
mod tls;

pub use accept::{Acceptor, Answer, accept};
pub(crate) use accept::{Incoming, PlainHttp};
pub use listen::Server;
pub use sockeye_proto::handshake::{Refusal, Request};
#[cfg(feature = "tls")]
pub use tls::ServerTls;
