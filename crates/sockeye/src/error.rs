//! Everything that can go wrong, as one value to match on.

use std::{error::Error as StdError, fmt, io, net::SocketAddr, sync::Arc};

use sockeye_proto::{ProtocolError, SendError, handshake::HandshakeError};

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a connection did not come about, or what ended it. Cloning is cheap.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The URL cannot be a WebSocket's; the text says what is wrong with it (RFC 6455 §3).
    Url(Box<str>),
    /// The host's name leads to no address.
    Resolve {
        /// The name.
        host: Box<str>,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// No TCP connection: the last address that was tried.
    Connect {
        /// Whom it was tried with.
        address: SocketAddr,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// An address cannot be listened on.
    Listen {
        /// The address that was asked for.
        address: Box<str>,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// TLS could not be set up, or the peer's certificate is not to be trusted.
    Tls {
        /// Whom it was tried with, as far as that is known; a file where that is at fault.
        subject: Box<str>,
        /// What rustls or the system says.
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The opening handshake failed: the peer broke a rule or declined, or the request cannot be
    /// sent as asked.
    Handshake(HandshakeError),
    /// Something took longer than it may.
    Timeout(Deadline),
    /// The peer broke the protocol; the connection is failed.
    Protocol(ProtocolError),
    /// What was to be sent cannot be; the connection is unharmed.
    Send(SendError),
    /// The connection broke off without a closing handshake.
    Lost(Arc<io::Error>),
    /// More output waited than the limit permits: the peer does not read.
    Overflow {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The system gives no random numbers, without which no client may send (§10.3).
    Random(Arc<io::Error>),
    /// An error of the user's own, made with [`Error::other`].
    Other(Arc<dyn StdError + Send + Sync>),
}

/// Which deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadline {
    /// The connection was not open in time: TCP, TLS and the opening handshake together.
    Handshake,
    /// The peer did not answer a Close in time.
    Close,
    /// An attempt of a [`Reconnecting`](crate::client::Reconnecting) client was not done in time
    /// with all that comes first on a connection.
    Attempt,
}

impl Error {
    /// Wraps an error of the user's own, so that a handler can return it.
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into().into())
    }

    /// Whether a deadline passed, one of ours or the system's.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout(_) => true,
            Self::Connect { source, .. } | Self::Lost(source) => {
                source.kind() == io::ErrorKind::TimedOut
            }
            _ => false,
        }
    }

    /// Whether something was to be sent on a connection that is closing or closed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Send(SendError::Closed))
    }

    /// Whether the peer broke the protocol.
    pub fn is_protocol(&self) -> bool {
        matches!(self, Self::Protocol(_))
    }

    /// Whether the opening handshake failed.
    pub fn is_handshake(&self) -> bool {
        matches!(self, Self::Handshake(_))
    }

    /// Whether no connection could be made: the name, the address or TLS.
    pub fn is_connect(&self) -> bool {
        matches!(
            self,
            Self::Resolve { .. } | Self::Connect { .. } | Self::Tls { .. }
        )
    }

    /// Whether the connection broke off without a closing handshake.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }

    /// Whether the fault is in what the user asked for: trying again changes nothing.
    pub fn is_user(&self) -> bool {
        match self {
            Self::Url(_) | Self::Send(_) => true,
            Self::Handshake(error) => matches!(
                error,
                HandshakeError::InvalidHeader(_)
                    | HandshakeError::ReservedHeader(_)
                    | HandshakeError::InvalidSubprotocol(_)
                    | HandshakeError::InvalidTarget(_)
            ),
            _ => false,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn tls(
        subject: impl Into<Box<str>>,
        source: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Tls {
            subject: subject.into(),
            source: source.into().into(),
        }
    }
}

/// One line: what happened, with whom, and where it helps what to do.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(problem) => f.write_str(problem),
            Self::Resolve { host, source } => {
                write!(f, "the name {host} leads to no address: {source}")
            }
            Self::Connect { address, source } => {
                write!(f, "no connection to {address}: {source}")
            }
            Self::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}")
            }
            Self::Tls { subject, source } => write!(f, "TLS with {subject} failed: {source}"),
            Self::Handshake(error) => write!(f, "the opening handshake failed: {error}"),
            Self::Timeout(Deadline::Handshake) => {
                f.write_str("the connection was not open in time (the handshake timeout)")
            }
            Self::Timeout(Deadline::Close) => {
                f.write_str("the peer did not answer the Close in time (the close timeout)")
            }
            Self::Timeout(Deadline::Attempt) => {
                f.write_str("the connection was not ready for use in time (the attempt timeout)")
            }
            Self::Protocol(error) => write!(f, "the peer broke the protocol: {error}"),
            Self::Send(error) => error.fmt(f),
            Self::Lost(error) => write!(f, "the connection was lost: {error}"),
            Self::Overflow { limit } => {
                write!(
                    f,
                    "the peer does not read: more than {limit} bytes waited for it"
                )
            }
            Self::Random(error) => write!(f, "the system gives no random numbers: {error}"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Url(_) | Self::Timeout(_) | Self::Overflow { .. } => None,
            Self::Resolve { source, .. }
            | Self::Connect { source, .. }
            | Self::Listen { source, .. }
            | Self::Lost(source)
            | Self::Random(source) => Some(&**source),
            Self::Tls { source, .. } | Self::Other(source) => Some(&**source),
            Self::Handshake(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Send(error) => Some(error),
        }
    }
}

impl From<HandshakeError> for Error {
    fn from(error: HandshakeError) -> Self {
        Self::Handshake(error)
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

/// What reading and writing a connection says: it is lost.
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Lost(Arc::new(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_small_and_goes_anywhere() {
        fn goes_anywhere<T: Clone + Send + Sync + 'static>() {}
        goes_anywhere::<Error>();
        assert!(size_of::<Error>() <= 48, "{}", size_of::<Error>());
    }

    #[test]
    fn predicates_tell_kinds_apart() {
        assert!(Error::Timeout(Deadline::Close).is_timeout());
        assert!(Error::from(io::Error::from(io::ErrorKind::TimedOut)).is_timeout());
        assert!(Error::from(SendError::Closed).is_closed());
        assert!(Error::from(HandshakeError::Key).is_handshake());
        assert!(!Error::from(HandshakeError::Key).is_user());
        assert!(Error::from(ProtocolError::Masked).is_protocol());
    }

    #[test]
    fn the_users_own_error_keeps_its_words_and_type() {
        let error = Error::other(fmt::Error);
        assert_eq!(error.to_string(), fmt::Error.to_string());
        assert!(error.source().unwrap().is::<fmt::Error>());
        assert_eq!(Error::other("no such room").to_string(), "no such room");
    }
}
