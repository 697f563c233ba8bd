//! The WebSocket protocol without I/O: bytes become events, messages become bytes.
//!
//! No clock, no runtime and no randomness of its own: time and masks are passed in.
//!
//! [`handshake`] opens a connection, [`Connection`] is an open one; [`guide`] puts them together for a
//! transport of your own, with a whole program. On tokio, all of that is done in the crate `sockeye`.
#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

#[doc = include_str!("../docs/transport.md")]
pub mod guide {}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod close;
mod connection;
pub mod deflate;
mod error;
mod frame;
pub mod handshake;
mod limits;
mod mask;
mod message;
mod meter;
mod output;
mod prepared;
mod receive;
mod send;
mod shown;
mod text;
mod utf8;
mod wide;

pub use close::{CloseCode, CloseFrame, InvalidCloseCode};
pub use connection::{Config, Connection};
pub use deflate::Codecs;
pub use error::{ProtocolError, SendError};
pub use frame::{FrameHeader, OpCode};
pub use limits::Limits;
pub use message::{Message, MessageKind, MessageRef, Outgoing};
pub use meter::{Count, Counters, Meter, Traffic};
pub use output::{Output, OutputBuffer};
pub use prepared::Prepared;
pub use receive::{Event, OwnedEvent, Part, Receiver};
pub use send::Sender;
pub use shown::Shown;
pub use text::{Text, TextRef};
pub use utf8::Utf8;

/// Which end of the connection this is; decides who masks (RFC 6455 §5.1).
///
/// A client cannot exist without a source of masks.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// The side that opened the connection: every frame it sends is masked.
    Client {
        /// Called once for every frame sent.
        masks: MaskSource,
    },
    /// The side that accepted the connection: it sends no masks and demands them.
    Server,
}

/// Gives the masking key of the next frame.
///
/// The keys must be unpredictable to whoever chooses the payload (RFC 6455 §10.3):
/// take them from the system's generator or a cryptographic one.
pub type MaskSource = fn() -> [u8; 4];
