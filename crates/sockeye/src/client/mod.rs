//! The client: from a URL to an open connection (RFC 6455 §3, §4.1).
//!
//! [`Client`] is where everything is set: headers, subprotocols and limits; proxies ([`Proxy`]), redirects, TLS
//! ([`ClientTls`]), Unix sockets, addresses and deadlines, which [`guide`] tells of at length.
//!
//! ```no_run
//! # async fn example() -> sockeye::Result<()> {
//! use std::time::Duration;
//! let socket = sockeye::Client::new("wss://user:password@example.com/socket")
//!     .proxy("socks5h://127.0.0.1:9050".parse()?)
//!     .redirects(3)
//!     .connect_timeout(Duration::from_secs(5))
//!     .connect()
//!     .await?;
//! # Ok(()) }
//! ```

mod connect;
mod credentials;
mod dial;
#[cfg(feature = "http2")]
mod extended_connect;
#[cfg(feature = "http2")]
mod http2;
#[cfg(feature = "http3")]
mod http3;
mod proxy;
mod proxy_env;
mod reconnect;
mod redirect;
mod retry;
mod socks;
#[cfg(feature = "tls")]
mod tls;
mod upgrade;
mod url;

pub use connect::{Client, connect};
pub(crate) use credentials::redacted;
#[cfg(feature = "http2")]
pub use http2::Http2;
#[cfg(feature = "http3")]
pub use http3::Http3;
pub use proxy::{Proxy, ProxyError};
pub use reconnect::{Reconnecting, Update};
pub use redirect::RedirectError;
pub use retry::Cause;
pub use sockeye_proto::handshake::Response;
#[cfg(feature = "tls")]
pub use tls::ClientTls;

#[doc = include_str!("../../docs/client.md")]
pub mod guide {}
