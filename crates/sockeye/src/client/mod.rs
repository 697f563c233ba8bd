//! The client: from a URL to an open connection (RFC 6455 §3, §4.1).

mod connect;
#[cfg(feature = "tls")]
mod tls;
mod url;

pub use connect::{Client, connect};
pub use sockeye_proto::handshake::Response;
#[cfg(feature = "tls")]
pub use tls::ClientTls;
