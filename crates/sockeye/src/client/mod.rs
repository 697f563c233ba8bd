//! The client: from a URL to an open connection (RFC 6455 §3, §4.1).

mod connect;
mod reconnect;
mod retry;
#[cfg(feature = "tls")]
mod tls;
mod url;

pub use connect::{Client, connect};
pub use reconnect::{Reconnecting, Update};
pub use retry::Cause;
pub use sockeye_proto::handshake::Response;
#[cfg(feature = "tls")]
pub use tls::ClientTls;
