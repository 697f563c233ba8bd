//! What a browser's WebSocket tells its callbacks, and what it throws.

use std::fmt;

use bytes::Bytes;
use sockeye_proto::Text;

use super::{Blob, WebSocket};

/// The connection is open (`Event`).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// Whose event it is.
    pub target: &'a WebSocket,
}

/// A message has arrived, or begins to where it is a [`Blob`] (`MessageEvent`).
#[derive(Debug)]
#[non_exhaustive]
pub struct MessageEvent<'a> {
    /// Whose event it is.
    pub target: &'a WebSocket,
    /// The message.
    pub data: Data,
    /// Where it comes from: scheme, host and port of the URL.
    pub origin: &'a str,
}

/// The connection failed (`Event` of the type `error`).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ErrorEvent<'a> {
    /// Whose event it is.
    pub target: &'a WebSocket,
    /// What happened. A browser does not tell it, so that no page explores a network; Node's `ws`
    /// does.
    pub message: &'a str,
}

/// The connection has ended (`CloseEvent`).
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CloseEvent<'a> {
    /// Whose event it is.
    pub target: &'a WebSocket,
    /// Whether the closing handshake was completed.
    pub was_clean: bool,
    /// The code in the peer's Close; 1005 where that had none, 1006 where there was no Close.
    pub code: u16,
    /// The reason in the peer's Close, or nothing.
    pub reason: &'a str,
}

/// What a message brought.
#[derive(Debug)]
pub enum Data {
    /// A text message.
    Text(Text),
    /// A binary message, where the binary type is a blob.
    Blob(Blob),
    /// A binary message, where the binary type is an array buffer.
    ArrayBuffer(Bytes),
}

/// As JavaScript joins it to a string: text as it is, the name of the type for all else.
impl fmt::Display for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Text(text) => text,
            Self::Blob(_) => "[object Blob]",
            Self::ArrayBuffer(_) => "[object ArrayBuffer]",
        })
    }
}

/// What a browser throws (`DOMException`), with the words for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exception {
    /// A URL, a subprotocol or a reason that cannot be (`SyntaxError`).
    Syntax(String),
    /// A close code that is not for users (`InvalidAccessError`).
    InvalidAccess(String),
    /// Not at this time (`InvalidStateError`).
    InvalidState(String),
}

impl Exception {
    /// Its name in the standard.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Syntax(_) => "SyntaxError",
            Self::InvalidAccess(_) => "InvalidAccessError",
            Self::InvalidState(_) => "InvalidStateError",
        }
    }

    /// What is wrong.
    pub fn message(&self) -> &str {
        match self {
            Self::Syntax(words) | Self::InvalidAccess(words) | Self::InvalidState(words) => words,
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.message())
    }
}

impl std::error::Error for Exception {}
