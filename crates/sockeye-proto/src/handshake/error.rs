//! What can be wrong with a handshake, whoever looks at it (RFC 6455 §4).

use alloc::{boxed::Box, string::String};
use core::fmt;

use super::{Refusal, Response, headers::is_token};
use crate::{
    Shown,
    deflate::{MalformedExtensions, NegotiationError},
};

/// Why a handshake failed, in words that fit the log of a client and the body of a refusal.
///
/// A server's answer to each is [`Refusal::from`] it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The head is not HTTP/1.1; the text says what is wrong with it.
    Malformed(&'static str),
    /// The peer speaks TLS, where HTTP without it is spoken.
    Tls,
    /// The head has more bytes than the limit.
    HeadTooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
    /// The head has more header fields than the limit.
    TooManyHeaders {
        /// The limit.
        limit: usize,
    },
    /// The connection ended before the head did.
    UnexpectedEnd,
    /// A method other than GET (§4.1, 2).
    Method(String),
    /// A version of HTTP that cannot be upgraded: before 1.1, or with frames of its own (§4.1, 2).
    HttpVersion,
    /// A request with a body: what follows the head is WebSocket to one reader and a body to
    /// another.
    Body,
    /// A request that expects an answer before it is whole (`Expect`, RFC 9110 §10.1.1): it has no body.
    Expect,
    /// A header that must be there is not.
    Missing(&'static str),
    /// A header that may be there once is there more often.
    Repeated(&'static str),
    /// `Upgrade` does not say `websocket` (§4.1, 5; §4.2.1, 3).
    Upgrade,
    /// `Connection` does not say `upgrade` (§4.1, 6; §4.2.1, 4).
    Connection,
    /// `Sec-WebSocket-Key` is not sixteen bytes in base64 (§4.2.1, 5).
    Key,
    /// `Sec-WebSocket-Version` is not 13, the only one there is (§4.2.1, 6; §4.4).
    WebSocketVersion(String),
    /// `Sec-WebSocket-Protocol` is not a list of distinct tokens (§4.1, 10).
    SubprotocolList,
    /// `Sec-WebSocket-Extensions` does not follow its grammar (§9.1).
    ExtensionList(MalformedExtensions),
    /// A page of an origin asked that the server does not let in (§10.2); the refusal says so.
    Origin(Box<Refusal>),
    /// Refused with an answer of its own: by the server's user, for a path that leads nowhere, or for what a
    /// proxy says of the client.
    Refused(Box<Refusal>),
    /// The server did not switch protocols: its answer has another status than 101 (§4.1, 1), or over HTTP/2 than 2xx.
    Status(Box<Response>),
    /// The server switched protocols in HTTP/1.0, in which nothing is upgraded (RFC 9110 §7.8).
    Http10,
    /// The server opens no WebSockets over HTTP/2, or HTTP/3: it has not announced extended CONNECT there (RFC 8441 §3,
    /// RFC 9220 §3).
    ExtendedConnect,
    /// `Sec-WebSocket-Accept` does not belong to the key that was sent (§4.1, 4).
    Accept,
    /// The server chose a subprotocol that was not offered (§4.1, 6).
    SubprotocolNotOffered(String),
    /// The server chose an extension that was not offered, or parameters that were not (§4.1, 5).
    Extension(NegotiationError),
    /// A header that cannot travel: its name is no token, or its value has a control character.
    InvalidHeader(String),
    /// A header that the handshake, or HTTP, writes itself.
    ReservedHeader(String),
    /// A subprotocol that is no token, or is given twice (§4.1, 10).
    InvalidSubprotocol(String),
    /// A host or request target that cannot stand in a request.
    InvalidTarget(String),
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed(why) => return write!(f, "the HTTP head is malformed: {why}"),
            Self::Tls => "the HTTP head is malformed: the peer speaks TLS here",
            Self::HeadTooLarge { limit } => {
                return write!(f, "the HTTP head is larger than the limit of {limit} bytes");
            }
            Self::TooManyHeaders { limit } => {
                return write!(f, "the HTTP head has more than {limit} header fields");
            }
            Self::UnexpectedEnd => "the connection ended before the HTTP head did",
            Self::Method(method) => {
                return write!(f, "a WebSocket is opened with GET, not {}", Shown(method));
            }
            Self::HttpVersion => {
                "a WebSocket is opened on HTTP/1.1, or on HTTP/2 by extended CONNECT"
            }
            Self::Body => "a request that opens a WebSocket has no body",
            Self::Expect => "a request that opens a WebSocket has nothing to wait for: no Expect",
            Self::Missing(name) => return write!(f, "the header {name} is missing"),
            Self::Repeated(name) => return write!(f, "the header {name} is given more than once"),
            Self::Upgrade => "a WebSocket is needed here: the header Upgrade must say websocket",
            Self::Connection => "the header Connection must say Upgrade",
            Self::Key => "the header Sec-WebSocket-Key does not decode to 16 bytes of base64",
            Self::WebSocketVersion(version) if version.is_empty() => {
                "the header Sec-WebSocket-Version is missing: version 13 is spoken here"
            }
            Self::WebSocketVersion(version) => {
                return write!(
                    f,
                    "WebSocket version 13 is spoken here, not {}",
                    Shown(version)
                );
            }
            Self::SubprotocolList => {
                "the header Sec-WebSocket-Protocol is not a list of distinct tokens"
            }
            Self::ExtensionList(error) => return error.fmt(f),
            Self::Origin(refusal) | Self::Refused(refusal) => {
                return write!(f, "the request was refused with {refusal}");
            }
            Self::Status(response) => {
                let wanted = response.wanted();
                return write!(f, "the server answered {response} instead of {wanted}");
            }
            Self::Http10 => "the server answered 101 in HTTP/1.0, in which nothing is upgraded",
            Self::ExtendedConnect => {
                "the server opens no WebSockets over this version of HTTP: its settings do not permit extended CONNECT"
            }
            Self::Accept => "the server's Sec-WebSocket-Accept does not answer the key it was sent",
            Self::SubprotocolNotOffered(name) => {
                return write!(
                    f,
                    "the server chose the subprotocol \"{}\", which was not offered",
                    Shown(name)
                );
            }
            Self::Extension(error) => return error.fmt(f),
            Self::InvalidHeader(name) => {
                return write!(
                    f,
                    "the header {name:?} cannot be sent: a name is a token, \
                     {TOKEN}; a value has no line breaks or control characters"
                );
            }
            Self::ReservedHeader(name) => {
                return write!(
                    f,
                    "the header {name} belongs to the handshake and cannot be set"
                );
            }
            Self::InvalidSubprotocol(name) => {
                return match is_token(name.as_bytes()) {
                    true => write!(f, "the subprotocol {name:?} is given twice"),
                    false => write!(f, "the subprotocol {name:?} is not a token: {TOKEN}"),
                };
            }
            Self::InvalidTarget(target) => {
                return write!(f, "{target:?} cannot stand in a request");
            }
        })
    }
}

/// What a token is (RFC 9110 §5.6.2).
const TOKEN: &str = "letters, digits and !#$%&'*+-.^_`|~, at least one";

impl core::error::Error for HandshakeError {}

impl From<MalformedExtensions> for HandshakeError {
    fn from(error: MalformedExtensions) -> Self {
        Self::ExtensionList(error)
    }
}

impl From<NegotiationError> for HandshakeError {
    fn from(error: NegotiationError) -> Self {
        Self::Extension(error)
    }
}
