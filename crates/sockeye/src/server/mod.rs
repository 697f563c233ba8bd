//! The server: from an accepted stream to an open connection (RFC 6455 §4.2).

mod accept;
#[cfg(feature = "tls")]
mod tls;

pub use accept::{Acceptor, Answer};
#[allow(unused_imports, reason = "for the server's loop")]
pub(crate) use accept::{Incoming, PlainHttp};
pub use sockeye_proto::handshake::{Refusal, Request};
#[cfg(feature = "tls")]
pub use tls::ServerTls;
