//! The response: 101 and every refusal, written by a server (RFC 6455 §4.2.2), read and checked
//! by a client (§4.1).

use alloc::{
    borrow::ToOwned,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::{fmt, mem::MaybeUninit};

use super::{
    Accept, HandshakeError, HeaderFields, Headers, Offer, UpgradeRequest,
    headers::{Draft, field_value, write_field},
    is_token,
    request::{FEW_FIELDS, check_whole, count_fields, extension_list, is_reserved, own_fields},
};
use crate::{
    Shown,
    deflate::{
        DeflateConfig, DeflateParams, Extension, NegotiationError, PERMESSAGE_DEFLATE,
        parse_extensions,
    },
};

/// A server's answer that opens the connection: 101 Switching Protocols (§4.2.2, 5), or 200 over HTTP/2 (RFC 8441 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    pub(super) accept: Option<Accept>,
    subprotocol: Option<String>,
    extensions: Option<String>,
    headers: Headers,
}

impl Acceptance {
    /// Accepts what a client asks for, without subprotocol and extensions.
    pub fn new(offer: &Offer) -> Self {
        Self {
            accept: offer.accept,
            subprotocol: None,
            extensions: None,
            headers: Headers::new(),
        }
    }

    /// Names the subprotocol: one that the client offered, which is not checked here. The client fails a connection with
    /// any other (§4.1), and what is no token is left out.
    pub fn subprotocol(&mut self, chosen: &str) -> &mut Self {
        self.subprotocol = Some(chosen.into());
        self
    }

    /// Agrees to extensions: the value of `Sec-WebSocket-Extensions` (§9.1).
    pub fn extensions(&mut self, agreed: impl Into<String>) -> &mut Self {
        self.extensions = Some(agreed.into());
        self
    }

    /// Adds a header, such as a cookie.
    ///
    /// # Errors
    /// [`HandshakeError::ReservedHeader`] for the handshake's own and for those that announce a
    /// body; [`HandshakeError::InvalidHeader`] for what would break the response.
    pub fn header(&mut self, name: &str, value: &str) -> Result<&mut Self, HandshakeError> {
        push_free(&mut self.headers, name, value)?;
        Ok(self)
    }

    /// The response as it travels over HTTP/1.1, where alone a response is bytes of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }

    /// Appends the response as it travels over HTTP/1.1, such as to the memory that the request was read into, which
    /// mostly has room for it.
    pub fn write(&self, out: &mut Vec<u8>) {
        const BEGINNING: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\n\
            Upgrade: websocket\r\n\
            Connection: Upgrade\r\n";
        let chosen = self.chosen();
        let len = chosen
            .iter()
            .flatten()
            .map(|(name, value)| name.len() + value.len() + 4);
        let len = len.sum::<usize>() + self.headers.written_len();
        out.reserve(BEGINNING.len() + len + 2);
        out.extend_from_slice(BEGINNING);
        for (name, value) in chosen.into_iter().flatten() {
            write_field(out, name.as_bytes(), value);
        }
        self.headers.write(out);
        out.extend_from_slice(b"\r\n");
    }

    /// All header fields, the handshake's own first.
    #[cfg(feature = "http")]
    pub(super) fn to_headers(&self) -> Headers {
        let mut all = Draft::default();
        let upgrade = [("Upgrade", &b"websocket"[..]), ("Connection", b"Upgrade")];
        let upgrade = upgrade.into_iter().filter(|_| self.accept.is_some());
        let own = upgrade.chain(self.chosen().into_iter().flatten());
        for (name, value) in own.chain(self.headers.iter()) {
            // They have been found to be fields before.
            let _ = all.push(name, value);
        }
        all.finish()
    }

    /// The fields of the handshake that say what is agreed.
    ///
    /// A value that cannot travel is not among those that a client offers, which are all there is to
    /// choose from; it is left out, and the answer stays well-formed.
    fn chosen(&self) -> [Option<(&str, &[u8])>; 3] {
        fn value(text: &str) -> Option<&[u8]> {
            field_value(text.as_bytes())
        }
        [
            (
                "Sec-WebSocket-Accept",
                self.accept.as_ref().map(Accept::as_bytes),
            ),
            (
                "Sec-WebSocket-Protocol",
                self.subprotocol
                    .as_deref()
                    .filter(|name| is_token(name.as_bytes()))
                    .and_then(value),
            ),
            (
                "Sec-WebSocket-Extensions",
                self.extensions.as_deref().and_then(value),
            ),
        ]
        .map(|(name, value)| Some((name, value?)))
    }
}

/// A server's answer that opens nothing: a status, and what was wrong in words.
///
/// The connection ends with it (`Connection: close`).
///
/// ```
/// use sockeye_proto::handshake::{HandshakeError, Refusal};
/// let refusal = Refusal::from(&HandshakeError::Key);
/// assert_eq!(refusal.status(), 400);
/// let refusal = Refusal::new(401, "Say who you are.").header("WWW-Authenticate", "Bearer")?;
/// # Ok::<(), HandshakeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub(super) status: u16,
    body: String,
    headers: Headers,
}

impl Refusal {
    /// Answers with a status and a text for whoever reads it.
    ///
    /// A status that would not end the exchange, outside 200-599, becomes 500. So does any of 2xx on a stream of HTTP/2,
    /// which it would open, and 426 is 400 there.
    pub fn new(status: u16, body: impl Into<String>) -> Self {
        let final_status = (200..=599).contains(&status);
        Self {
            status: if final_status { status } else { 500 },
            body: body.into(),
            headers: Headers::new(),
        }
    }

    /// Adds a header. `Content-Type` replaces the default, `text/plain; charset=utf-8`.
    ///
    /// # Errors
    /// As [`Acceptance::header`].
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, HandshakeError> {
        push_free(&mut self.headers, name, value)?;
        Ok(self)
    }

    /// The status code.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The text.
    pub fn body(&self) -> &str {
        &self.body
    }

    /// The response as it travels.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = self.to_head();
        if self.has_body() {
            out.extend_from_slice(self.body.as_bytes());
        }
        out
    }

    /// The response without its body: what answers `HEAD`, whose client would take a body for another
    /// response (RFC 9110 §9.3.2).
    pub fn to_head(&self) -> Vec<u8> {
        let headers = self.to_headers();
        let mut out = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status)).into_bytes();
        headers.write(&mut out);
        out.extend_from_slice(b"\r\n");
        out
    }

    /// All header fields.
    pub(super) fn to_headers(&self) -> Headers {
        let mut all = Draft::from(self.headers.clone());
        let mut own = |name, value: &str| {
            // Constants and numbers, which can travel.
            let _ = all.push(name, value.as_bytes());
        };
        if self.has_body() {
            if self.headers.first("Content-Type").is_none() {
                own("Content-Type", "text/plain; charset=utf-8");
            }
            own("Content-Length", &self.body.len().to_string());
        }
        if self.status == 426 {
            // RFC 9110 §15.5.22 and §7.8: it names the protocol that is needed, on this connection.
            own("Upgrade", "websocket");
            own("Connection", "close, Upgrade");
        } else {
            own("Connection", "close");
        }
        all.finish()
    }

    /// 204 and 304 end with their head (RFC 9110 §6.4.1), and 205 has no content (§15.3.6).
    pub(super) fn has_body(&self) -> bool {
        !matches!(self.status, 204 | 205 | 304)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, reason(self.status))?;
        match self.body.trim_end() {
            "" => Ok(()),
            body => write!(f, ": {body}"),
        }
    }
}

/// The answer that each failure calls for.
impl From<&HandshakeError> for Refusal {
    fn from(error: &HandshakeError) -> Self {
        if let HandshakeError::Origin(refusal) | HandshakeError::Refused(refusal) = error {
            return Refusal::clone(refusal);
        }
        let (status, header) = match error {
            HandshakeError::Method(_) => (405, Some(("Allow", "GET"))),
            HandshakeError::Expect => (417, None),
            HandshakeError::Upgrade => (426, None),
            HandshakeError::WebSocketVersion(_) => (426, Some(("Sec-WebSocket-Version", "13"))),
            HandshakeError::HeadTooLarge { .. } | HandshakeError::TooManyHeaders { .. } => {
                (431, None)
            }
            // Mistakes in an answer of our own are the server's fault.
            HandshakeError::InvalidHeader(_)
            | HandshakeError::ReservedHeader(_)
            | HandshakeError::SubprotocolNotOffered(_) => (500, None),
            _ => (400, None),
        };
        let mut refusal = Self::new(status, format!("{error}\n"));
        if let Some((name, value)) = header {
            let _ = refusal.headers.push(name, value);
        }
        refusal
    }
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Self {
        Self::from(&error)
    }
}

fn push_free(headers: &mut Headers, name: &str, value: &str) -> Result<(), HandshakeError> {
    if is_reserved(name) {
        return Err(HandshakeError::ReservedHeader(name.into()));
    }
    headers.push(name, value)
}

/// A head in which each field is on one line: a client takes the beginning of another for a space (RFC 9112 §5.2). `None` where
/// they are already. The first field has no line that it could go on from.
fn unfolded(head: &[u8]) -> Option<Vec<u8>> {
    let mut ends = (0..head.len()).filter(|&at| head[at] == b'\n');
    let _status_line = ends.next();
    let is_fold = |&at: &usize| matches!(head.get(at + 1), Some(b' ' | b'\t'));
    let mut unfolded = None;
    for at in ends.filter(is_fold) {
        let unfolded = unfolded.get_or_insert_with(|| head.to_vec());
        unfolded[at] = b' ';
        if unfolded[at - 1] == b'\r' {
            unfolded[at - 1] = b' ';
        }
    }
    unfolded
}

/// A response as a client received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: u16,
    reason: String,
    headers: Headers,
    body: Vec<u8>,
    /// Whether it answers extended CONNECT (RFC 8441).
    over_stream: bool,
    /// Whether it is in HTTP/1.0.
    is_http10: bool,
}

impl Response {
    /// How much of a body is kept, in bytes: enough to read what a server has to say.
    pub const MAX_BODY: usize = 1024;

    /// Reads a whole head, from the first byte to the empty line, as
    /// [`HeadScanner`](super::HeadScanner) finds it.
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`] and [`HandshakeError::HttpVersion`].
    pub fn parse(head: &[u8]) -> Result<Self, HandshakeError> {
        Self::parse_lines(head).or_else(|error| match unfolded(head) {
            Some(head) => Self::parse_lines(&head),
            None => Err(error),
        })
    }

    /// As [`parse`](Self::parse), of a head in which each field is on one line.
    fn parse_lines(head: &[u8]) -> Result<Self, HandshakeError> {
        let mut few = [const { MaybeUninit::uninit() }; FEW_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        match config.parse_response_with_uninit_headers(&mut response, head, &mut few) {
            Err(httparse::Error::TooManyHeaders) => {
                let mut fields = vec![httparse::EMPTY_HEADER; count_fields(head)];
                let mut response = httparse::Response::new(&mut fields);
                let parsed = response.parse(head);
                Self::from_parsed(parsed, head, &response)
            }
            parsed => Self::from_parsed(parsed, head, &response),
        }
    }

    fn from_parsed(
        parsed: httparse::Result<usize>,
        head: &[u8],
        response: &httparse::Response<'_, '_>,
    ) -> Result<Self, HandshakeError> {
        check_whole(parsed, head)?;
        let Some(status) = response.code else {
            return Err(HandshakeError::Malformed("the status line is incomplete"));
        };
        Ok(Self {
            status,
            reason: response.reason.unwrap_or_default().into(),
            headers: own_fields(&[], response.headers)?,
            body: Vec::new(),
            over_stream: false,
            is_http10: response.version == Some(0),
        })
    }

    /// A response whose head was read elsewhere.
    #[cfg(feature = "http")]
    pub(super) fn from_parts(status: u16, headers: Headers, over_stream: bool) -> Self {
        Self {
            status,
            reason: String::new(),
            headers,
            body: Vec::new(),
            over_stream,
            is_http10: false,
        }
    }

    /// The status code; where the server agrees 101, and 200 over HTTP/2.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The answer that would have opened a WebSocket.
    pub(super) fn wanted(&self) -> &'static str {
        match self.over_stream {
            true => "200 OK",
            false => "101 Switching Protocols",
        }
    }

    /// Whether it only says that another answer is to come (RFC 9110 §15.2): then read on, from the next byte
    /// behind it, and not without end. 101 is an answer of its own.
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// The header fields.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The beginning of the body, at most [`MAX_BODY`](Self::MAX_BODY) bytes.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Takes what was read after the head of a response other than 101, and tells whether more
    /// is worth reading: neither the body nor the part that is kept is complete.
    pub fn set_body(&mut self, bytes: &[u8]) -> bool {
        let chunked = self.headers.contains_token("Transfer-Encoding", "chunked");
        let length = self
            .headers
            .first_str("Content-Length")
            .and_then(|length| length.parse().ok())
            .unwrap_or(usize::MAX);
        let complete;
        if chunked {
            (self.body, complete) = unchunk(bytes);
        } else {
            self.body = bytes[..bytes.len().min(length)].to_owned();
            complete = bytes.len() >= length;
        }
        self.body.truncate(Self::MAX_BODY);
        // Chunks of a byte each cost more than they carry; they are not waited for.
        let enough = self.body.len() == Self::MAX_BODY || bytes.len() >= 8 * Self::MAX_BODY;
        let none = matches!(self.status, 100..=199 | 204 | 304);
        !(complete || enough || none)
    }
}

/// The status and its reason.
impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => write!(f, "{} {}", self.status, reason(self.status)),
            reason => write!(f, "{} {}", self.status, Shown(reason)),
        }
    }
}

/// Undoes chunked coding (RFC 9112 §7.1) as far as the bytes go; tells whether the end was met.
fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let line = &bytes[..end];
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = core::str::from_utf8(&line[..digits])
            .ok()
            .and_then(|digits| u64::from_str_radix(digits, 16).ok());
        bytes = &bytes[end + 1..];
        match size {
            // The last chunk, or what is no chunk at all.
            Some(0) | None => return (body, true),
            Some(size) => {
                // More than there can be in memory is more than has come.
                let size = usize::try_from(size).unwrap_or(usize::MAX);
                body.extend_from_slice(&bytes[..size.min(bytes.len())]);
                // The chunk's own line break follows its data.
                bytes = bytes.get(size.saturating_add(2)..).unwrap_or_default();
            }
        }
    }
    (body, false)
}

/// What both sides have agreed to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Agreed {
    /// The subprotocol, one of those that were offered.
    pub subprotocol: Option<String>,
    /// The values of the server's `Sec-WebSocket-Extensions`, joined by commas; empty where
    /// there are none. Its extensions are among those offered; their parameters are for the
    /// extension itself to judge.
    pub extensions: Vec<u8>,
}

impl Agreed {
    /// Judges what the server says about permessage-deflate by what was offered of it (RFC 7692
    /// §5): what is agreed, nothing where the server declined.
    ///
    /// # Errors
    /// [`HandshakeError::Extension`] for an answer outside the offer.
    pub fn deflate(
        &self,
        offered: &DeflateConfig,
    ) -> Result<Option<DeflateParams>, HandshakeError> {
        if self.extensions.is_empty() {
            return Ok(None);
        }
        let mut answers = parse_extensions([self.extensions.as_slice()])?;
        // Of the others it is known that they were offered.
        answers.retain(|answer| answer.name == PERMESSAGE_DEFLATE);
        Ok(offered.accept_answers(&answers)?)
    }
}

impl UpgradeRequest {
    /// Judges the server's answer by the rules of §4.1. An [interim](Response::is_interim) one is not it: read the
    /// next.
    ///
    /// # Errors
    /// The first rule that is broken. The connection is then to be closed without a word.
    pub fn check(&self, response: &Response) -> Result<Agreed, HandshakeError> {
        if response.status != 101 {
            return Err(HandshakeError::Status(response.clone().into()));
        }
        // HTTP/1.0 has no interim responses, and nothing is upgraded in it (RFC 9110 §15.2, §7.8).
        if response.is_http10 {
            return Err(HandshakeError::Http10);
        }
        self.check_headers(&response.headers)
    }

    /// Judges the headers of an answer whose status is 101.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_headers(&self, headers: &impl HeaderFields) -> Result<Agreed, HandshakeError> {
        // 2: the value itself, not a list that holds it.
        if !headers
            .exactly_one("Upgrade")?
            .eq_ignore_ascii_case(b"websocket")
        {
            return Err(HandshakeError::Upgrade);
        }
        // 3.
        if !headers.contains_token("Connection", "upgrade") {
            return Err(HandshakeError::Connection);
        }
        // 4: the proof that it is a WebSocket server that answers, and this request.
        let accept = headers.exactly_one("Sec-WebSocket-Accept")?;
        if accept != self.key().accept().as_bytes() {
            return Err(HandshakeError::Accept);
        }
        self.check_agreed(headers)
    }

    /// Judges the server's answer to extended CONNECT (RFC 8441 §5), where a status of 2xx says that it agrees.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check_connect(&self, response: &Response) -> Result<Agreed, HandshakeError> {
        if !(200..=299).contains(&response.status) {
            return Err(HandshakeError::Status(response.clone().into()));
        }
        self.check_agreed(&response.headers)
    }

    /// Judges what is agreed to (§4.1, 5 and 6).
    fn check_agreed(&self, headers: &impl HeaderFields) -> Result<Agreed, HandshakeError> {
        let extensions = extension_list(headers)?;
        self.check_extension_names(&extensions)?;
        Ok(Agreed {
            subprotocol: self.subprotocols.check_choice(headers)?,
            extensions,
        })
    }

    /// Whether every extension that the server names was offered (§4.1, 5).
    fn check_extension_names(&self, answer: &[u8]) -> Result<(), HandshakeError> {
        if answer.is_empty() {
            return Ok(());
        }
        let offered = self.extensions.as_deref().unwrap_or_default();
        // An offer that breaks the grammar offers nothing.
        let offered = parse_extensions([offered.as_bytes()]).unwrap_or_default();
        for Extension { name, .. } in parse_extensions([answer])? {
            if !offered.iter().any(|offer| offer.name == name) {
                return Err(NegotiationError::ExtensionNotOffered(name.into()).into());
            }
        }
        Ok(())
    }
}

/// The reason phrase of a status code (RFC 9110 §15); empty where it has no registered one.
fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        413 => "Content Too Large",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
