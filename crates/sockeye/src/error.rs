//! Everything that can go wrong, as one value to match on.

use std::{error::Error as StdError, fmt, io, net::IpAddr, sync::Arc};

use sockeye_proto::{
    InvalidCloseCode, ProtocolError, SendError,
    handshake::{HandshakeError, Response},
};

#[cfg(feature = "client")]
use sockeye_proto::Shown;

#[cfg(feature = "client")]
use crate::client::{ProxyError, RedirectError, redacted};
use crate::groups::JoinError;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a connection did not come about, or what ended it. Cloning is cheap.
///
/// `{:?}` says the same as `{}`: it is what a `main` that returns the error prints, and `unwrap`.
#[derive(Clone)]
#[non_exhaustive]
#[repr(usize)]
pub enum Error {
    /// The URL cannot be a WebSocket's; the text says what is wrong with it (RFC 6455 §3).
    Url(Box<str>),
    /// The host's name leads to no address, or to none within the connect timeout.
    Resolve {
        /// The name.
        host: Box<str>,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The host has addresses, and none of the family (IPv4 or IPv6) of the local address that was asked for.
    Family {
        /// The name, or the address.
        host: Box<str>,
        /// The local address; one that is unspecified, as `0.0.0.0`, asks for its family alone.
        local: IpAddr,
    },
    /// The connection cannot come from the local address, or through the network interface, that was asked for.
    Local {
        /// The address, or the interface's name.
        from: Box<str>,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// No connection, to none of the addresses of a host.
    Connect {
        /// Each that was tried, in the order in which they failed.
        attempts: Arc<[Attempt]>,
    },
    /// The proxy did not connect us to the server.
    #[cfg(feature = "client")]
    Proxy {
        /// The proxy's URL, without a user name and a password.
        proxy: Box<str>,
        /// What went wrong, there or on the way there.
        source: Arc<ProxyError>,
    },
    /// The server sends us elsewhere, where we do not go.
    #[cfg(feature = "client")]
    Redirect {
        /// Why not.
        problem: RedirectError,
        /// All that it answered, which says in `Location` where to.
        response: Arc<Response>,
    },
    /// A client's connection did not open. What went wrong is [`cause`](Self::cause); the predicates, and
    /// [`response`](Self::response), are about that.
    #[cfg(feature = "client")]
    Open {
        /// The URL of the server, without a user, a password and a query: the client's own, or where a redirect had led.
        url: Box<str>,
        /// Whether a redirect had led there.
        is_redirected: bool,
        /// Whether the way has left the origin (scheme, host and port) of the client's URL: then nothing was sent that
        /// shows who the user is.
        is_abroad: bool,
        /// What went wrong there.
        source: Arc<Error>,
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
    /// What answers is not HTTP, or not by its rules.
    Unreadable {
        /// The rule, as in [`HandshakeError::Malformed`].
        problem: &'static str,
        /// How the answer begins: its first line, of at most 64 bytes; what is no printable ASCII is written as
        /// in a Rust string.
        begins: Box<str>,
    },
    /// The server agreed to open a WebSocket, and broke a rule in doing so.
    Answer {
        /// The rule.
        problem: HandshakeError,
        /// All that it answered.
        response: Arc<Response>,
    },
    /// Something took longer than it may.
    Timeout(Deadline),
    /// The peer broke the protocol, or went over a limit; the connection is failed.
    Protocol(ProtocolError),
    /// What was to be sent cannot be; the connection is unharmed.
    Send(SendError),
    /// The connection broke off without a closing handshake.
    Lost(Arc<io::Error>),
    /// The peer closed the connection within a message that is read in parts.
    Incomplete,
    /// More output waited than the limit permits: the peer does not read.
    Overflow {
        /// The limit, in bytes.
        limit: usize,
    },
    /// As much output waits as may, so that the message was not sent; the connection is unharmed.
    /// Only `try_send` and `send_latest` say so, of a [`WebSocket`](crate::WebSocket::try_send), a
    /// [`Sender`](crate::Sender::try_send) or a [`Socket`](crate::Socket::try_send).
    Full {
        /// As much as may wait, in bytes: for `try_send` the high-water mark, for `send_latest` the output limit.
        high_water: usize,
    },
    /// A member may not join a group; nothing has changed.
    Join(JoinError),
    /// The system gives a listening server none of the connections that wait, as where descriptors have run
    /// out: they go on waiting until some are free. [`Server::on_error`](crate::Server::on_error) is told so
    /// once a second.
    #[cfg(feature = "server")]
    Accept(Arc<io::Error>),
    /// A limit of this server kept a client out, which was told so in HTTP where it spoke that.
    #[cfg(feature = "server")]
    Limit {
        /// The limit.
        limit: crate::server::Limit,
        /// Where the client came from: itself, not a proxy on the way that is trusted to say.
        address: Option<std::net::IpAddr>,
    },
    /// What a server or a client is to be set up with cannot be: an origin, a route, a cookie, a subprotocol that is
    /// offered; the text says what is wrong with it.
    Setup(Box<str>),
    /// A proxy that has to say whose connection it hands on does not, or not by the rules.
    #[cfg(feature = "server")]
    ProxyHeader(crate::server::ProxyHeaderError),
    /// The system gives no random numbers, without which no client may send (§10.3).
    Random(Arc<io::Error>),
    /// An error of the user's own: made with [`Error::other`], or an [`io::Error`] that is no connection's of this crate.
    Other(Arc<dyn StdError + Send + Sync>),
}

/// Which deadline has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Deadline {
    /// TLS was not set up in time.
    Tls,
    /// The opening handshake was not done in time. For a server, TLS is a part of it.
    Handshake,
    /// The peer did not answer a Close in time.
    Close,
    /// An attempt of a [`Reconnecting`](crate::client::Reconnecting) client was not done in time
    /// with all that comes first on a connection.
    Attempt,
    /// The peer gave no sign after a ping in time.
    Keepalive,
}

impl Error {
    /// Wraps an error of the user's own, so that a handler can return it.
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into().into())
    }

    /// What reading and writing a connection says: it is lost.
    pub(crate) fn lost(error: io::Error) -> Self {
        match error.downcast() {
            Ok(error) => error,
            Err(error) => Self::Lost(crate::ended::lost(error)),
        }
    }

    /// What went wrong, wherever that was: what is within [`Error::Open`], or else the error itself. This is what to match
    /// on where a predicate does not do.
    pub fn cause(&self) -> &Self {
        match self {
            #[cfg(feature = "client")]
            Self::Open { source, .. } => source,
            error => error,
        }
    }

    /// Whether a deadline passed, one of ours or the system's; where several addresses were tried, for all
    /// of them.
    pub fn is_timeout(&self) -> bool {
        match self.cause() {
            Self::Timeout(_) => true,
            Self::Connect { attempts } => attempts
                .iter()
                .all(|attempt| attempt.source.kind() == io::ErrorKind::TimedOut),
            #[cfg(feature = "client")]
            Self::Proxy { source, .. } => match &**source {
                ProxyError::Unreachable(error) => error.is_timeout(),
                ProxyError::TimedOut => true,
                _ => false,
            },
            Self::Lost(source) | Self::Resolve { source, .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            _ => false,
        }
    }

    /// Whether something was to be sent on a connection that is closing or closed.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Send(SendError::Closed))
    }

    /// Whether the peer broke the protocol, or went over a limit: [`ProtocolError::is_limit`].
    pub fn is_protocol(&self) -> bool {
        matches!(self.cause(), Self::Protocol(_))
    }

    /// Whether the opening handshake failed.
    pub fn is_handshake(&self) -> bool {
        matches!(
            self.cause(),
            Self::Handshake(_) | Self::Unreadable { .. } | Self::Answer { .. }
        )
    }

    /// What the server answered in HTTP, where that is what the error is about: status, headers
    /// and the beginning of the body.
    pub fn response(&self) -> Option<&Response> {
        match self.cause() {
            Self::Handshake(HandshakeError::Status(response)) => Some(response),
            Self::Answer { response, .. } => Some(response),
            #[cfg(feature = "client")]
            Self::Redirect { response, .. } => Some(response),
            _ => None,
        }
    }

    /// Whether no connection could be made: the name, the address, this end's own, the proxy or TLS.
    pub fn is_connect(&self) -> bool {
        match self.cause() {
            Self::Resolve { .. } | Self::Family { .. } | Self::Local { .. } => true,
            Self::Connect { .. } | Self::Tls { .. } => true,
            #[cfg(feature = "client")]
            Self::Proxy { .. } => true,
            _ => false,
        }
    }

    /// Whether the connection broke off without a closing handshake.
    pub fn is_lost(&self) -> bool {
        matches!(self.cause(), Self::Lost(_))
    }

    /// Whether a message was not sent because too much waits for the peer already. It can be sent
    /// later.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether a limit of this server kept a client out.
    #[cfg(feature = "server")]
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Limit { .. })
    }

    /// Whether the fault is in what the user asked for: trying again changes nothing.
    pub fn is_user(&self) -> bool {
        match self.cause() {
            Self::Url(_) | Self::Send(_) | Self::Setup(_) => true,
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
            Self::Url(problem) | Self::Setup(problem) => f.write_str(problem),
            Self::Resolve { host, source } => {
                write!(f, "the name {host} leads to no address: {source}")
            }
            Self::Family { host, local } => {
                let family = if local.is_ipv6() { "IPv6" } else { "IPv4" };
                write!(f, "{host} has no {family} address, ")?;
                match local.is_unspecified() {
                    true => f.write_str("and no other may be used"),
                    false => write!(f, "and the local address {local} is one"),
                }
            }
            Self::Local { from, source } => write!(f, "cannot connect from {from}: {source}"),
            Self::Connect { attempts } => {
                f.write_str("no connection ")?;
                for (count, Attempt { address, source }) in attempts.iter().enumerate() {
                    let and = if count == 0 { "" } else { "; nor " };
                    write!(f, "{and}to {address}: {source}")?;
                }
                Ok(())
            }
            #[cfg(feature = "client")]
            Self::Proxy { proxy, source } => write!(f, "the proxy {proxy} failed: {source}"),
            #[cfg(feature = "client")]
            Self::Redirect { problem, response } => {
                let location = response.headers().first_str("Location");
                let location = redacted(location.unwrap_or_default());
                write!(
                    f,
                    "the redirect to {:?} is not followed: {problem}",
                    Shown(&location)
                )
            }
            #[cfg(feature = "client")]
            Self::Open {
                url,
                is_redirected,
                source,
                ..
            } => {
                f.write_str(if *is_redirected { "redirected to " } else { "" })?;
                write!(f, "{url}: {source}")
            }
            Self::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}")
            }
            Self::Tls { subject, source } => write!(f, "TLS with {subject} failed: {source}"),
            // Nothing was sent: it is what was asked for.
            Self::Handshake(error) if self.is_user() => error.fmt(f),
            Self::Handshake(error) => write!(f, "the opening handshake failed: {error}"),
            Self::Unreadable { problem, begins } => {
                let problem = HandshakeError::Malformed(problem);
                write!(
                    f,
                    "the opening handshake failed: {problem}; the answer begins with \"{begins}\""
                )
            }
            Self::Answer { problem, .. } => {
                f.write_str("the answer breaks a rule of the opening handshake: ")?;
                match problem {
                    // Its own words are for a client.
                    HandshakeError::Upgrade => f.write_str("the header Upgrade must say websocket"),
                    problem => problem.fmt(f),
                }
            }
            Self::Timeout(Deadline::Tls) => {
                f.write_str("TLS was not set up in time (the TLS timeout)")
            }
            Self::Timeout(Deadline::Handshake) => {
                f.write_str("the connection was not open in time (the handshake timeout)")
            }
            Self::Timeout(Deadline::Close) => {
                f.write_str("the peer did not answer the Close in time (the close timeout)")
            }
            Self::Timeout(Deadline::Attempt) => {
                f.write_str("the connection was not ready for use in time (the attempt timeout)")
            }
            Self::Timeout(Deadline::Keepalive) => f.write_str(
                "nothing came from the peer, not even an answer to a ping (the keepalive timeout)",
            ),
            Self::Protocol(error) => write!(f, "{}: {error}", crate::ended::broken(*error)),
            Self::Send(error) => error.fmt(f),
            Self::Lost(error) => write!(f, "the connection was lost: {error}"),
            Self::Incomplete => f.write_str("the peer closed the connection within a message"),
            Self::Overflow { limit } => {
                write!(
                    f,
                    "the peer does not read: more than {limit} bytes waited for it"
                )
            }
            Self::Full { high_water } => write!(
                f,
                "not sent: {high_water} bytes or more wait for the peer already, which reads too slowly"
            ),
            Self::Join(error) => error.fmt(f),
            #[cfg(feature = "server")]
            Self::Accept(error) => {
                write!(f, "no connection can be accepted: {error}")?;
                // EMFILE and ENFILE; the standard library has no kind of error for them.
                #[cfg(unix)]
                if matches!(error.raw_os_error(), Some(23 | 24)) {
                    f.write_str("; others wait meanwhile: permit more open files (ulimit -n)")?;
                }
                Ok(())
            }
            #[cfg(feature = "server")]
            Self::Limit { limit, address } => match address {
                Some(address) => write!(f, "{address} was not let in: {limit}"),
                None => write!(f, "a client was not let in: {limit}"),
            },
            #[cfg(feature = "server")]
            Self::ProxyHeader(error) => error.fmt(f),
            Self::Random(error) => write!(f, "the system gives no random numbers: {error}"),
            Self::Other(error) => error.fmt(f),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Url(_)
            | Self::Setup(_)
            | Self::Timeout(_)
            | Self::Overflow { .. }
            | Self::Full { .. }
            | Self::Family { .. }
            | Self::Unreadable { .. }
            | Self::Incomplete => None,
            Self::Connect { attempts } => {
                let last = attempts.last()?;
                Some(&*last.source)
            }
            #[cfg(feature = "server")]
            Self::Limit { .. } => None,
            #[cfg(feature = "server")]
            Self::ProxyHeader(error) => Some(error),
            #[cfg(feature = "server")]
            Self::Accept(source) => Some(&**source),
            #[cfg(feature = "client")]
            Self::Proxy { source, .. } => Some(&**source),
            #[cfg(feature = "client")]
            Self::Redirect { problem, .. } => Some(problem),
            #[cfg(feature = "client")]
            Self::Open { source, .. } => Some(&**source),
            Self::Answer { problem, .. } => Some(problem),
            Self::Resolve { source, .. }
            | Self::Local { source, .. }
            | Self::Listen { source, .. }
            | Self::Lost(source)
            | Self::Random(source) => Some(&**source),
            Self::Tls { source, .. } | Self::Other(source) => Some(&**source),
            Self::Handshake(error) => Some(error),
            Self::Protocol(error) => Some(error),
            Self::Send(error) => Some(error),
            Self::Join(error) => Some(error),
        }
    }
}

/// A try to reach an address, which failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// An address with its port, or the path of a Unix socket.
    pub address: Box<str>,
    /// What the system says.
    pub source: Arc<io::Error>,
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

/// So that `CloseCode::new(4001)?` can stand in a handler.
impl From<InvalidCloseCode> for Error {
    fn from(invalid: InvalidCloseCode) -> Self {
        Self::Send(invalid.into())
    }
}

impl From<JoinError> for Error {
    fn from(error: JoinError) -> Self {
        Self::Join(error)
    }
}

/// An error of this crate that has been made one of the system's is itself again, such as what reading a message in parts
/// says. Any other is of something else than a connection, such as a file: [`Error::Other`].
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        error.downcast().unwrap_or_else(Self::other)
    }
}

/// As [`MessageReader`](crate::MessageReader) and its like have to say it: `into_inner` or
/// `Error::from` has the error as it was.
impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.cause() {
            Error::Lost(source) => source.kind(),
            error if error.is_timeout() => io::ErrorKind::TimedOut,
            Error::Incomplete => io::ErrorKind::UnexpectedEof,
            Error::Send(SendError::Closed) => io::ErrorKind::BrokenPipe,
            Error::Send(_) => io::ErrorKind::InvalidInput,
            Error::Protocol(_) => io::ErrorKind::InvalidData,
            Error::Other(source) => source
                .downcast_ref::<io::Error>()
                .map_or(io::ErrorKind::Other, io::Error::kind),
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CloseCode;

    #[test]
    fn is_small_and_goes_anywhere() {
        fn goes_anywhere<T: Clone + Send + Sync + 'static>() {}
        goes_anywhere::<Error>();
        goes_anywhere::<crate::Sender>();
        goes_anywhere::<crate::Groups>();
        // Lent to an async function, a socket is used by another thread after a wait.
        fn is_lent_anywhere<T: Send + Sync>() {}
        is_lent_anywhere::<crate::WebSocket>();
        is_lent_anywhere::<crate::Receiver>();
        is_lent_anywhere::<crate::ByteStream>();
        is_lent_anywhere::<crate::MessageReader<'_>>();
        is_lent_anywhere::<crate::MessageWriter<'_>>();
        #[cfg(feature = "client")]
        is_lent_anywhere::<crate::client::Reconnecting>();
        #[cfg(feature = "axum")]
        is_lent_anywhere::<crate::axum::WebSocketUpgrade>();
        assert!(size_of::<Error>() <= 48, "{}", size_of::<Error>());
    }

    #[test]
    fn a_main_that_returns_it_says_it_in_one_line() {
        let answer = b"HTTP/1.1 404 Not Found\r\nServer: fish\r\n\r\n";
        let response = Response::parse(answer).unwrap();
        let error = Error::from(HandshakeError::Status(response.into()));
        assert_eq!(
            format!("{:?}", Err::<(), _>(error)),
            "Err(the opening handshake failed: the server answered 404 Not Found instead of 101 Switching Protocols)"
        );
    }

    #[test]
    fn predicates_tell_kinds_apart() {
        assert!(Error::Timeout(Deadline::Close).is_timeout());
        assert!(Error::lost(io::ErrorKind::TimedOut.into()).is_timeout());
        assert!(Error::from(SendError::Closed).is_closed());
        assert!(Error::from(HandshakeError::Key).is_handshake());
        assert!(!Error::from(HandshakeError::Key).is_user());
        assert!(Error::from(ProtocolError::Masked).is_protocol());
        let invalid = Error::from(CloseCode::new(1006).unwrap_err());
        assert!(invalid.is_user());
        assert!(invalid.to_string().contains("1006"), "{invalid}");
    }

    #[test]
    fn an_error_goes_through_the_systems_and_back() {
        let error = io::Error::from(Error::from(ProtocolError::InvalidUtf8));
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(Error::from(error).is_protocol());
        let error = io::Error::from(Error::from(SendError::Closed));
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert!(Error::from(error).is_closed());
        let file = io::Error::from(io::ErrorKind::NotFound);
        let words = file.to_string();
        let another = Error::from(file);
        assert!(matches!(another, Error::Other(_)) && !another.is_lost());
        assert_eq!(another.to_string(), words);
        assert_eq!(io::Error::from(another).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_users_own_error_keeps_its_words_and_type() {
        let error = Error::other(fmt::Error);
        assert_eq!(error.to_string(), fmt::Error.to_string());
        assert!(error.source().unwrap().is::<fmt::Error>());
        assert_eq!(Error::other("no such room").to_string(), "no such room");
    }
}
