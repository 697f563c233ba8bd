//! The request: built by a client (RFC 6455 §4.1), read and checked by a server (§4.2.1).

use alloc::{string::String, vec, vec::Vec};
use core::{fmt, mem::MaybeUninit, str};

use super::{
    Accept, HandshakeError, HeaderFields, Headers, Key, Subprotocols,
    headers::{Draft, check_authority, check_host, has_token, is_host, is_same},
};
use crate::deflate::{DeflateConfig, DeflateParams, parse_extensions};

/// A version of HTTP, as far as the handshake tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Version {
    /// HTTP/1.0 and before: it cannot be upgraded.
    Http10,
    /// HTTP/1.1: the version that WebSocket is opened on.
    Http11,
    /// HTTP/2: WebSocket is opened on it with extended CONNECT (RFC 8441), never with Upgrade.
    Http2,
    /// HTTP/3: as HTTP/2 (RFC 9220).
    Http3,
}

impl Version {
    /// What stands for it in memory: one byte.
    fn mark(self) -> &'static str {
        match self {
            Self::Http10 => "0",
            Self::Http11 => "1",
            Self::Http2 => "2",
            Self::Http3 => "3",
        }
    }

    /// What stands for it where the request says `websocket` as its `:protocol`, which HTTP/2 alone and later can.
    #[cfg(feature = "http")]
    pub(super) fn connect_mark(self) -> &'static str {
        match self {
            Self::Http3 => "c",
            _ => "b",
        }
    }

    fn from_mark(mark: u8) -> Self {
        match mark {
            b'1' => Self::Http11,
            b'2' | b'b' => Self::Http2,
            b'3' | b'c' => Self::Http3,
            _ => Self::Http10,
        }
    }

    fn is_connect_mark(mark: u8) -> bool {
        matches!(mark, b'b' | b'c')
    }
}

/// A request as a server received it.
#[derive(Clone)]
pub struct Request(
    /// Behind the mark of the version, the method, a space and the target: one piece of memory, and one pointer to
    /// it, for as long as the connection is open.
    Headers,
);

impl Request {
    /// Reads a whole head, from the first byte to the empty line, as
    /// [`HeadScanner`](super::HeadScanner) finds it.
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`] and [`HandshakeError::HttpVersion`]. Whether it opens a
    /// WebSocket is not looked at.
    pub fn parse(head: &[u8]) -> Result<Self, HandshakeError> {
        let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, &mut few) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut fields = vec![httparse::EMPTY_HEADER; count_fields(head)];
                let mut request = httparse::Request::new(&mut fields);
                let parsed = request.parse(head);
                Self::from_parsed(parsed, head, &request)
            }
            parsed => Self::from_parsed(parsed, head, &request),
        }
    }

    fn from_parsed(
        parsed: httparse::Result<usize>,
        head: &[u8],
        request: &httparse::Request<'_, '_>,
    ) -> Result<Self, HandshakeError> {
        check_whole(parsed, head)?;
        let (Some(method), Some(target), Some(minor)) =
            (request.method, request.path, request.version)
        else {
            return Err(HandshakeError::Malformed("the request line is incomplete"));
        };
        Self::from_parts(version_from_minor(minor), method, target, |line| {
            own_fields(line, request.headers)
        })
    }

    /// A request whose head was read; `own` gives its fields, behind what is to stand before them.
    pub(super) fn from_parts(
        version: Version,
        method: &str,
        target: &str,
        own: impl FnOnce(&[&str]) -> Result<Headers, HandshakeError>,
    ) -> Result<Self, HandshakeError> {
        own(&[version.mark(), method, " ", target]).map(Self)
    }

    /// A request by extended CONNECT for a WebSocket, whose head was read.
    #[cfg(feature = "http")]
    pub(super) fn from_connect_parts(
        version: Version,
        target: &str,
        own: impl FnOnce(&[&str]) -> Result<Headers, HandshakeError>,
    ) -> Result<Self, HandshakeError> {
        own(&[version.connect_mark(), "CONNECT", " ", target]).map(Self)
    }

    /// The method: `GET` for a WebSocket, or `CONNECT` over HTTP/2.
    pub fn method(&self) -> &str {
        let (method, _) = self.line();
        str::from_utf8(method).unwrap_or_default()
    }

    /// The request target as it was sent: path and query, seldom a whole URL.
    pub fn target(&self) -> &str {
        let (_, target) = self.line();
        str::from_utf8(target).unwrap_or_default()
    }

    /// The method and the target: there is no space in a method.
    fn line(&self) -> (&[u8], &[u8]) {
        let line = self.0.line();
        let line = line.get(1..).unwrap_or_default();
        let method = line.iter().position(|byte| *byte == b' ').unwrap_or(0);
        (&line[..method], line.get(method + 1..).unwrap_or_default())
    }

    /// The path, with its percent signs as they came; `/` where there is none.
    pub fn path(&self) -> &str {
        let path = self.path_and_query();
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        if path.is_empty() { "/" } else { path }
    }

    /// What stands behind the first question mark.
    pub fn query(&self) -> Option<&str> {
        self.path_and_query()
            .split_once('?')
            .map(|(_, query)| query)
    }

    /// The host and the port that the target names, where it is a whole URL: then that is what is asked for,
    /// whatever `Host` says (RFC 9112 §3.2.2).
    pub fn authority(&self) -> Option<&str> {
        self.whole_url().map(|(authority, _)| authority)
    }

    /// A target may be a whole URL; its scheme and host are left out.
    fn path_and_query(&self) -> &str {
        let target = self.target();
        if target.starts_with('/') {
            return target;
        }
        self.whole_url().map_or(target, |(_, path)| path)
    }

    /// The host and the port, and the path and the query, of a target that is a whole URL (RFC 9112 §3.2.2).
    fn whole_url(&self) -> Option<(&str, &str)> {
        let (scheme, rest) = self.target().split_once("://")?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        is_scheme(scheme).then(|| rest.split_at(end))
    }

    /// The version of HTTP.
    pub fn version(&self) -> Version {
        Version::from_mark(self.mark())
    }

    fn mark(&self) -> u8 {
        self.0.line().first().copied().unwrap_or_default()
    }

    /// The header fields.
    pub fn headers(&self) -> &Headers {
        &self.0
    }

    /// Whether the request asks for a WebSocket at all, however badly: `Upgrade` says so, or over HTTP/2 `:protocol`.
    ///
    /// Where it does not, it belongs to an HTTP service.
    pub fn is_upgrade(&self) -> bool {
        self.is_extended_connect() || self.0.contains_token("Upgrade", "websocket")
    }

    /// Whether it asks for a WebSocket by extended CONNECT (RFC 8441 §4).
    pub fn is_extended_connect(&self) -> bool {
        Version::is_connect_mark(self.mark())
    }

    /// Applies the rules of §4.2.1, or of RFC 8441 §5 to a request by extended CONNECT.
    ///
    /// # Errors
    /// The first rule that is broken; [`Refusal::from`](super::Refusal) it answers the client.
    pub fn check(&self) -> Result<Offer, HandshakeError> {
        const NOT_A_TARGET: HandshakeError =
            HandshakeError::Malformed("what is asked for is neither a path nor a URL");
        let target = self.target();
        let has_scheme = |known: &[&str]| {
            let scheme = target.split_once("://").map_or("", |(scheme, _)| scheme);
            known.iter().any(|known| scheme.eq_ignore_ascii_case(known))
        };
        let offer = if self.is_extended_connect() {
            let offer = Offer::check_connect(self.authority(), &self.0)?;
            if !has_scheme(&["http", "https"]) {
                return Err(HandshakeError::Malformed(
                    ":scheme is neither http nor https",
                ));
            }
            offer
        } else {
            let offer = Offer::check(self.method(), self.version(), &self.0)?;
            // 1: a resource name, or a URL, which has a host and no user (RFC 9110 §4.2). What is decided by a path is
            // decided by one that is.
            let is_url = || {
                has_scheme(&["http", "https", "ws", "wss"])
                    && self.authority().is_some_and(names_a_host)
            };
            if !target.starts_with('/') && !is_url() {
                return Err(NOT_A_TARGET);
            }
            offer
        };
        // A fragment is none of a request's (RFC 9110 §4.2.5).
        if target.contains('#') {
            return Err(NOT_A_TARGET);
        }
        Ok(offer)
    }
}

impl PartialEq for Request {
    fn eq(&self, other: &Self) -> bool {
        self.0.line() == other.0.line() && self.0 == other.0
    }
}

impl Eq for Request {}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method())
            .field("target", &self.target())
            .field("version", &self.version())
            .field("headers", self.headers())
            .finish()
    }
}

/// Whether the text is a URL's scheme (RFC 3986 §3.1).
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// What a client asks for in a request that has passed the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// What answers its key; there is none over HTTP/2 (RFC 8441 §5).
    pub accept: Option<Accept>,
    /// The subprotocols it offers.
    pub subprotocols: Subprotocols,
    /// The values of its `Sec-WebSocket-Extensions`, joined by commas as §9.1 permits: a list of
    /// extensions, known and unknown; empty where there are none.
    pub extensions: Vec<u8>,
}

impl Offer {
    /// Applies the rules of §4.2.1 to a request, wherever it was read.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(
        method: &str,
        version: Version,
        headers: &impl HeaderFields,
    ) -> Result<Self, HandshakeError> {
        // 1: an HTTP/1.1 or higher GET request. Higher versions know no Upgrade.
        if version != Version::Http11 {
            return Err(HandshakeError::HttpVersion);
        }
        if method != "GET" {
            return Err(HandshakeError::Method(method.into()));
        }
        let fields = Known::of(headers);
        // 2: who is asked. Two answers are one too many for whoever routes by it.
        check_host(fields.host.exactly_one("Host")?)?;
        // 3 and 4: the wish to upgrade.
        if !fields.upgrade {
            return Err(HandshakeError::Upgrade);
        }
        if !fields.connection {
            return Err(HandshakeError::Connection);
        }
        // 6 before 5, so that a client of another version learns that, whatever its key is.
        fields.check_version()?;
        let key = Key::parse(fields.key.exactly_one("Sec-WebSocket-Key")?)?;
        Self::of(headers, &fields, Some(key.accept()))
    }

    /// Applies the rules of RFC 8441 §5 to a request by extended CONNECT, which `:authority` says the host of. It has
    /// no key, which would prove nothing that `:protocol` does not.
    fn check_connect(authority: Option<&str>, headers: &Headers) -> Result<Self, HandshakeError> {
        let Some(authority) = authority.filter(|authority| !authority.is_empty()) else {
            return Err(HandshakeError::Missing(":authority"));
        };
        if !names_a_host(authority) {
            return Err(HandshakeError::Malformed(":authority is no host"));
        }
        check_authority(Some(authority.as_bytes()), headers)?;
        // "[They] MUST NOT be included": what they say is about a connection, and this is a stream.
        if ["Upgrade", "Connection"]
            .iter()
            .any(|name| headers.first(name).is_some())
        {
            return Err(HandshakeError::Malformed(
                "Upgrade and Connection are none of HTTP/2's headers",
            ));
        }
        let fields = Known::of(headers);
        fields.check_version()?;
        Self::of(headers, &fields, None)
    }

    /// What is offered, by a request that is one for a WebSocket in all else.
    fn of(
        headers: &impl HeaderFields,
        fields: &Known<'_>,
        accept: Option<Accept>,
    ) -> Result<Self, HandshakeError> {
        if fields.body {
            return Err(HandshakeError::Body);
        }
        if fields.expect {
            return Err(HandshakeError::Expect);
        }
        let mut offer = Self {
            accept,
            subprotocols: Subprotocols::new(),
            extensions: Vec::new(),
        };
        if fields.subprotocols {
            offer.subprotocols = Subprotocols::parse(headers)?;
        }
        if fields.extensions {
            offer.extensions = extension_list(headers)?;
        }
        Ok(offer)
    }

    /// Chooses among the offers of permessage-deflate (RFC 7692 §5): what is agreed, and what
    /// [`Acceptance::extensions`](super::Acceptance::extensions) then says. Nothing where none is
    /// acceptable; a client cannot insist.
    pub fn deflate(&self, config: &DeflateConfig) -> Option<(DeflateParams, String)> {
        config.choose(&parse_extensions([self.extensions.as_slice()]).ok()?)
    }
}

/// What the rules are about, found in one pass: most fields of a browser are not among it, and to go
/// through all of them for each rule took most of the time of a check.
#[derive(Default)]
struct Known<'a> {
    host: Single<'a>,
    version: Single<'a>,
    key: Single<'a>,
    /// Whether `Upgrade` and `Connection` ask for a WebSocket.
    upgrade: bool,
    connection: bool,
    /// A GET may carry a body as far as HTTP goes, but after the handshake the next byte is a
    /// frame's. A proxy that takes those bytes for the body, or the body for frames, can be made to
    /// see other messages than we do, so a request with a body is refused.
    body: bool,
    /// Whether something is expected of us before it is sent. Nothing is to be sent: a 100 would have to come
    /// before the 101 (RFC 9110 §7.8), and no client that keeps to §10.1.1 asks for it.
    expect: bool,
    /// Whether there are any.
    subprotocols: bool,
    extensions: bool,
}

impl<'a> Known<'a> {
    fn of(headers: &'a impl HeaderFields) -> Self {
        let mut known = Self::default();
        for (name, value) in headers.fields() {
            let is = |known| is_same(name, known);
            match name.len() {
                4 if is("Host") => known.host.add(value),
                6 if is("Expect") => known.expect = true,
                7 if is("Upgrade") => known.upgrade |= has_token(value, "websocket"),
                10 if is("Connection") => known.connection |= has_token(value, "upgrade"),
                14 if is("Content-Length") => {
                    known.body |= value.is_empty() || value.iter().any(|digit| *digit != b'0');
                }
                17 if is("Sec-WebSocket-Key") => known.key.add(value),
                17 if is("Transfer-Encoding") => known.body = true,
                21 if is("Sec-WebSocket-Version") => known.version.add(value),
                22 if is("Sec-WebSocket-Protocol") => known.subprotocols = true,
                24 if is("Sec-WebSocket-Extensions") => known.extensions = true,
                _ => {}
            }
        }
        known
    }

    /// §4.2.1, 6.
    fn check_version(&self) -> Result<(), HandshakeError> {
        match self.version.at_most_one("Sec-WebSocket-Version")? {
            Some(b"13") => Ok(()),
            other => {
                let other = String::from_utf8_lossy(other.unwrap_or_default());
                Err(HandshakeError::WebSocketVersion(other.into_owned()))
            }
        }
    }
}

/// A field that may be there at most once.
#[derive(Default)]
struct Single<'a> {
    value: Option<&'a [u8]>,
    repeated: bool,
}

impl<'a> Single<'a> {
    fn add(&mut self, value: &'a [u8]) {
        self.repeated = self.value.replace(value).is_some();
    }

    fn at_most_one(&self, name: &'static str) -> Result<Option<&'a [u8]>, HandshakeError> {
        if self.repeated {
            return Err(HandshakeError::Repeated(name));
        }
        Ok(self.value)
    }

    fn exactly_one(&self, name: &'static str) -> Result<&'a [u8], HandshakeError> {
        self.at_most_one(name)?.ok_or(HandshakeError::Missing(name))
    }
}

/// A client's request to open a WebSocket (§4.1).
#[derive(Clone, Debug)]
pub struct UpgradeRequest {
    host: String,
    target: String,
    key: Key,
    origin: Option<String>,
    pub(super) subprotocols: Subprotocols,
    pub(super) extensions: Option<String>,
    headers: Headers,
}

impl UpgradeRequest {
    /// A request for a target (path and query, as `/chat?room=1`) on a host (with its port where
    /// that is not the scheme's own).
    pub fn new(host: impl Into<String>, target: impl Into<String>, key: Key) -> Self {
        Self {
            host: host.into(),
            target: target.into(),
            key,
            origin: None,
            subprotocols: Subprotocols::new(),
            extensions: None,
            headers: Headers::new(),
        }
    }

    /// Says who asks, as browsers do (§10.2). Nothing is said unless this is called.
    pub fn origin(&mut self, origin: impl Into<String>) -> &mut Self {
        self.origin = Some(origin.into());
        self
    }

    /// Offers subprotocols, the most wanted first.
    pub fn subprotocols(&mut self, subprotocols: Subprotocols) -> &mut Self {
        self.subprotocols = subprotocols;
        self
    }

    /// Offers extensions: the value of `Sec-WebSocket-Extensions` (§9.1).
    pub fn extensions(&mut self, offer: impl Into<String>) -> &mut Self {
        self.extensions = Some(offer.into());
        self
    }

    /// Adds a header. `Origin` replaces what [`origin`](Self::origin) said.
    ///
    /// # Errors
    /// [`HandshakeError::ReservedHeader`] for the handshake's own and for those that announce a
    /// body; [`HandshakeError::InvalidHeader`] for what would break the request. `Host` is among
    /// the first: two different answers to "which host" are how requests are smuggled, and
    /// [`new`](Self::new) takes it.
    pub fn header(&mut self, name: &str, value: &str) -> Result<&mut Self, HandshakeError> {
        if is_reserved(name) {
            return Err(HandshakeError::ReservedHeader(name.into()));
        }
        if name.eq_ignore_ascii_case("Origin") {
            Headers::new().push(name, value)?;
            return Ok(self.origin(value));
        }
        self.headers.push(name, value)?;
        Ok(self)
    }

    /// The request target.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The key, which the server's answer must prove to know.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The request as it travels.
    ///
    /// # Errors
    /// [`HandshakeError::InvalidTarget`] and [`HandshakeError::InvalidHeader`] for what cannot
    /// travel.
    pub fn to_bytes(&self) -> Result<Vec<u8>, HandshakeError> {
        let headers = self.to_headers()?;
        let mut out = Vec::with_capacity(self.target.len() + headers.written_len() + 24);
        out.extend_from_slice(b"GET ");
        out.extend_from_slice(self.target.as_bytes());
        out.extend_from_slice(b" HTTP/1.1\r\n");
        headers.write(&mut out);
        out.extend_from_slice(b"\r\n");
        Ok(out)
    }

    /// All header fields, the handshake's own first.
    pub(super) fn to_headers(&self) -> Result<Headers, HandshakeError> {
        self.check_target()?;
        let mut all = Draft::default();
        all.push("Host", self.host.as_bytes())?;
        all.push("Upgrade", b"websocket")?;
        all.push("Connection", b"Upgrade")?;
        all.push("Sec-WebSocket-Key", self.key.as_str().as_bytes())?;
        self.push_offer(&mut all)?;
        Ok(all.finish())
    }

    /// All header fields by extended CONNECT, where the host is said elsewhere, a key proves nothing, and what is about
    /// a connection says nothing of a stream (RFC 8441 §5, RFC 9113 §8.2.2).
    #[cfg(feature = "http")]
    pub(super) fn to_connect_headers(&self) -> Result<Headers, HandshakeError> {
        self.check_target()?;
        for name in CONNECTION_FIELDS {
            if self.headers.first(name).is_some() {
                return Err(HandshakeError::ReservedHeader(name.into()));
            }
        }
        let mut all = Draft::default();
        self.push_offer(&mut all)?;
        Ok(all.finish())
    }

    /// The host, with its port where that is not the scheme's own.
    #[cfg(feature = "http")]
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    fn check_target(&self) -> Result<(), HandshakeError> {
        let visible = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if !names_a_host(&self.host) {
            return Err(HandshakeError::InvalidTarget(self.host.clone()));
        }
        if !self.target.starts_with('/') || !visible(&self.target) || self.target.contains('#') {
            return Err(HandshakeError::InvalidTarget(self.target.clone()));
        }
        Ok(())
    }

    /// Appends what is offered, and the user's own fields.
    fn push_offer(&self, all: &mut Draft) -> Result<(), HandshakeError> {
        all.push("Sec-WebSocket-Version", b"13")?;
        if let Some(origin) = &self.origin {
            all.push("Origin", origin.as_bytes())?;
        }
        if !self.subprotocols.is_empty() {
            all.push(
                "Sec-WebSocket-Protocol",
                self.subprotocols.to_value().as_bytes(),
            )?;
        }
        if let Some(extensions) = &self.extensions {
            all.push("Sec-WebSocket-Extensions", extensions.as_bytes())?;
        }
        for (name, value) in self.headers.iter() {
            all.push(name, value)?;
        }
        Ok(())
    }
}

/// Whether an authority has a host, with a port or without (RFC 9110 §4.2.1: an empty one is invalid).
fn names_a_host(authority: &str) -> bool {
    !authority.is_empty() && !authority.starts_with(':') && is_host(authority.as_bytes())
}

/// Fields about a connection that a user may set, and that no stream has (RFC 9113 §8.2.2).
#[cfg(feature = "http")]
pub(super) const CONNECTION_FIELDS: [&str; 3] = ["Keep-Alive", "Proxy-Connection", "TE"];

/// Whether a header is written by the handshake or frames the message: no user may set it.
pub(super) fn is_reserved(name: &str) -> bool {
    const OWN: [&str; 5] = [
        "Host",
        "Upgrade",
        "Connection",
        "Content-Length",
        "Transfer-Encoding",
    ];
    const PREFIX: &str = "Sec-WebSocket-";
    OWN.iter().any(|own| name.eq_ignore_ascii_case(own))
        || name
            .get(..PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// The values of `Sec-WebSocket-Extensions` as one list (RFC 9110 §5.3), which follows the grammar
/// or is empty (§9.1).
pub(super) fn extension_list(headers: &impl HeaderFields) -> Result<Vec<u8>, HandshakeError> {
    const NAME: &str = "Sec-WebSocket-Extensions";
    let mut list = Vec::new();
    let mut values = headers.values(NAME).peekable();
    if values.peek().is_some() {
        parse_extensions(headers.values(NAME))?;
    }
    for value in values {
        if !list.is_empty() {
            list.extend_from_slice(b", ");
        }
        list.extend_from_slice(value);
    }
    Ok(list)
}

/// How many fields of a head are read without memory for them: more than browsers send.
pub(super) const FEW_FIELDS: usize = 32;

/// How many header fields a head can have: its lines without the first and the empty one.
pub(super) fn count_fields(head: &[u8]) -> usize {
    let lines = head.iter().filter(|byte| **byte == b'\n').count();
    lines.saturating_sub(2)
}

/// Whether httparse has read the whole head.
pub(super) fn check_whole(
    parsed: httparse::Result<usize>,
    head: &[u8],
) -> Result<(), HandshakeError> {
    match parsed {
        Ok(httparse::Status::Complete(len)) if len == head.len() => Ok(()),
        Ok(_) => Err(HandshakeError::Malformed("it ends too early or too late")),
        Err(error) => Err(malformed(error)),
    }
}

/// Heads are seldom allowed gigabytes.
pub(super) const LINE_TOO_LONG: HandshakeError =
    HandshakeError::Malformed("the first line is too long");

/// Copies what httparse found out of the read buffer, behind what is to stand before it.
///
/// It lets no name and no value through that [`Headers::push`] would not, so that they are not looked
/// at again, which took a fifth of all that a server does for a request.
pub(super) fn own_fields(
    line: &[&str],
    fields: &[httparse::Header<'_>],
) -> Result<Headers, HandshakeError> {
    let fields = fields
        .iter()
        .map(|field| (field.name, field.value.trim_ascii()));
    let mut draft = Draft::behind(line, fields.clone()).ok_or(LINE_TOO_LONG)?;
    for (name, value) in fields {
        draft
            .append_read(name, value)
            .ok_or(HandshakeError::Malformed("a header is too long"))?;
    }
    Ok(draft.finish())
}

pub(super) fn version_from_minor(minor: u8) -> Version {
    if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    }
}

/// What httparse says, in words.
fn malformed(error: httparse::Error) -> HandshakeError {
    use httparse::Error;
    HandshakeError::Malformed(match error {
        Error::Version => return HandshakeError::HttpVersion,
        Error::HeaderName => "a header's name is no token",
        Error::HeaderValue => "a header's value has a control character",
        Error::NewLine => "a line break is not CR LF",
        // Either is wrong, the digits or what is behind them.
        Error::Status => "the status is not three digits and a reason in plain characters",
        Error::Token => "the first line is not HTTP's",
        Error::TooManyHeaders => "it has more headers than lines",
    })
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
