//! The opening handshake (RFC 6455 §4): both roles' rules, on bytes and on header fields.
//!
//! A server finds the end of the head with a [`HeadScanner`], reads it with
//! [`Request::parse`], asks [`Request::check`] what the client wants, and writes an
//! [`Acceptance`] or a [`Refusal`]. A client writes an [`UpgradeRequest`] and lets its
//! [`check`](UpgradeRequest::check) judge the [`Response`]. The rules see header fields only
//! through [`HeaderFields`], so they are the same for the `http` crate's types (feature `http`).
//!
//! ```
//! use sockeye_proto::handshake::*;
//! let client = UpgradeRequest::new("example.com", "/chat", Key::new([7; 16]));
//! let bytes = client.to_bytes()?;
//!
//! let mut scanner = HeadScanner::request(HeadLimits::default());
//! let end = scanner.scan(&bytes)?.expect("the head is whole");
//! let offer = Request::parse(&bytes[..end])?.check()?;
//! let answer = Acceptance::new(&offer).to_bytes();
//!
//! let agreed = client.check(&Response::parse(&answer)?)?;
//! assert_eq!(agreed.subprotocol, None);
//! # Ok::<(), HandshakeError>(())
//! ```

mod error;
mod head;
mod headers;
#[cfg(feature = "http")]
mod http_types;
mod key;
mod request;
mod response;
mod subprotocol;

pub use error::HandshakeError;
pub use head::{HeadLimits, HeadScanner};
pub(crate) use headers::is_token_byte;
pub use headers::{HeaderFields, Headers, check_authority, is_host, is_token};
pub use key::{Accept, Key};
pub use request::{Offer, Request, UpgradeRequest, Version};
pub use response::{Acceptance, Agreed, Refusal, Response};
pub use subprotocol::Subprotocols;
