//! Why a connection ended (RFC 6455 §7.1.4 to §7.1.6).

use std::{
    fmt, io,
    sync::{Arc, LazyLock},
};

use sockeye_proto::{CloseFrame, ProtocolError};

use crate::{Deadline, Error};

/// Why a connection ended.
///
/// ```
/// # fn example(ended: &sockeye::Ended) {
/// use sockeye::Ended;
/// match ended {
///     Ended::ByPeer(Some(frame)) => println!("closed with {}: {}", frame.code, frame.reason),
///     Ended::ByPeer(None) => println!("closed without a code"),
///     Ended::ByUs(frame) => println!("we closed with {}", frame.code),
///     other => println!("not closed cleanly: {other}"),
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Ended {
    /// The peer closed first, with this code and reason if it gave any.
    ByPeer(Option<CloseFrame>),
    /// This end closed first, with this code and reason, and the peer answered.
    ByUs(CloseFrame),
    /// The transport ended or failed without a Close; [`io::ErrorKind::UnexpectedEof`] where the
    /// peer just went away.
    Lost(Arc<io::Error>),
    /// The peer broke the protocol, or went over a limit ([`ProtocolError::is_limit`]); it was told so with
    /// [`ProtocolError::close_code`].
    Protocol(ProtocolError),
    /// This end closed, and the peer did not answer in time.
    TimedOut,
    /// Nothing came from the peer for so long after a ping: the keepalive timeout.
    Silent,
    /// More output waited than the limit permits: the peer does not read.
    Overflow {
        /// The limit, in bytes.
        limit: usize,
    },
}

impl Ended {
    /// The code as a browser reports it: 1005 where a Close carried none, 1006 where there was no
    /// Close (§7.1.5).
    pub fn code(&self) -> u16 {
        match self {
            Self::ByPeer(Some(frame)) | Self::ByUs(frame) => frame.code.as_u16(),
            Self::ByPeer(None) => 1005,
            Self::Protocol(error) => error.close_code().as_u16(),
            Self::Lost(_) | Self::TimedOut | Self::Silent | Self::Overflow { .. } => 1006,
        }
    }

    /// The reason in the Close frame, or nothing (§7.1.6).
    pub fn reason(&self) -> &str {
        match self {
            Self::ByPeer(Some(frame)) | Self::ByUs(frame) => &frame.reason,
            _ => "",
        }
    }

    /// The transport ended without a Close.
    pub(crate) fn gone() -> Self {
        Self::Lost(gone())
    }

    /// The error that this end is to whoever waits for a message; none where it was clean.
    pub(crate) fn error(&self) -> Option<Error> {
        match self {
            Self::ByPeer(_) | Self::ByUs(_) => None,
            Self::Lost(error) => Some(Error::Lost(error.clone())),
            Self::Protocol(error) => Some(Error::Protocol(*error)),
            Self::TimedOut => Some(Error::Timeout(Deadline::Close)),
            Self::Silent => Some(Error::Timeout(Deadline::Keepalive)),
            Self::Overflow { limit } => Some(Error::Overflow { limit: *limit }),
        }
    }

    /// The error that this end is to whoever waits for output that nobody will take; none where the last of it
    /// still goes out, by the deadline of a Close.
    pub(crate) fn lost(&self) -> Option<Arc<io::Error>> {
        match self {
            Self::Lost(error) => Some(error.clone()),
            Self::TimedOut | Self::Silent => {
                let error = io::Error::new(io::ErrorKind::TimedOut, self.to_string());
                Some(Arc::new(error))
            }
            Self::ByPeer(_) | Self::ByUs(_) | Self::Protocol(_) | Self::Overflow { .. } => None,
        }
    }

    /// Whether the closing handshake was completed (§7.1.4).
    pub fn was_clean(&self) -> bool {
        matches!(self, Self::ByPeer(_) | Self::ByUs(_))
    }
}

/// What a peer did that was failed for it.
pub(crate) fn broken(error: ProtocolError) -> &'static str {
    match error.is_limit() {
        true => "the peer went over a limit",
        false => "the peer broke the protocol",
    }
}

/// That the transport ended without a Close: one for all, as it is how many connections end, and making one takes four
/// allocations.
fn gone() -> Arc<io::Error> {
    static GONE: LazyLock<Arc<io::Error>> = LazyLock::new(|| {
        let message = "the peer ended the connection without a Close";
        Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, message))
    });
    GONE.clone()
}

/// Why the transport failed. Where a peer ends TLS without a word, rustls sends programmers to a page of its manual: it is
/// the end of the transport, as it is without TLS.
pub(crate) fn lost(error: io::Error) -> Arc<io::Error> {
    match error.kind() == io::ErrorKind::UnexpectedEof && error.to_string().contains("close_notify")
    {
        true => gone(),
        false => Arc::new(error),
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByPeer(Some(frame)) => write!(f, "closed by the peer with {frame}"),
            Self::ByPeer(None) => f.write_str("closed by the peer without a code"),
            Self::ByUs(frame) => write!(f, "closed by this end with {frame}"),
            Self::Lost(error) => write!(f, "connection lost: {error}"),
            Self::Protocol(error) => write!(f, "{}: {error}", broken(*error)),
            Self::TimedOut => f.write_str("the peer did not answer the Close in time"),
            Self::Silent => f.write_str("nothing came from the peer, not even an answer to a ping"),
            Self::Overflow { limit } => {
                write!(
                    f,
                    "the peer does not read: more than {limit} bytes waited for it"
                )
            }
        }
    }
}
