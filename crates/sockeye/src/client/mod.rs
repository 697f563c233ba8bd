//! The client: from a URL to an open connection (RFC 6455 §3, §4.1).

mod connect;
mod credentials;
mod dial;
mod proxy;
mod proxy_env;
mod redirect;
mod socks;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;
mod url;

pub use connect::{Client, connect};
pub use proxy::{Proxy, ProxyError};
pub use redirect::RedirectError;
pub use sockeye_proto::handshake::Response;
#[cfg(feature = "tls")]
pub use tls::ClientTls;

#[doc = include_str!("../../docs/client.md")]
pub mod guide {}
