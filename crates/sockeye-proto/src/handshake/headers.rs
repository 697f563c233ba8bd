//! Header fields: one view for the rules, one compact list of our own (RFC 9110 §5).

use alloc::{boxed::Box, string::String, vec::Vec};
use core::{fmt, mem, str};

use super::HandshakeError;

/// The header fields of a request or response, as the handshake's rules look at them.
pub trait HeaderFields {
    /// All fields: names, in whatever case, and values without the white space around them. Those of one
    /// name are in the order in which they came.
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])>;

    /// The values of every field of that name, in order, without the white space around them.
    ///
    /// Names are compared without regard to case (RFC 9110 §5.1).
    fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.fields()
            .filter(move |(candidate, _)| is_same(candidate, name))
            .map(|(_, value)| value)
    }

    /// The value of a field that may be there at most once.
    ///
    /// # Errors
    /// [`HandshakeError::Repeated`] where there are more.
    fn at_most_one(&self, name: &'static str) -> Result<Option<&[u8]>, HandshakeError> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(HandshakeError::Repeated(name)),
        }
    }

    /// The value of a field that must be there exactly once.
    ///
    /// # Errors
    /// [`HandshakeError::Missing`] and [`HandshakeError::Repeated`].
    fn exactly_one(&self, name: &'static str) -> Result<&[u8], HandshakeError> {
        self.at_most_one(name)?.ok_or(HandshakeError::Missing(name))
    }

    /// The value of `Host`: exactly one, which is a host and perhaps a port, or empty (RFC 9112 §3.2).
    ///
    /// # Errors
    /// [`HandshakeError::Missing`], [`HandshakeError::Repeated`] and [`HandshakeError::Malformed`].
    fn host(&self) -> Result<&[u8], HandshakeError> {
        check_host(self.exactly_one("Host")?)
    }

    /// Whether the comma-separated lists under that name contain a token, whatever its case.
    fn contains_token(&self, name: &str, token: &str) -> bool {
        self.values(name).any(|list| has_token(list, token))
    }
}

/// Whether a comma-separated list contains a token, whatever its case.
pub(super) fn has_token(list: &[u8], token: &str) -> bool {
    let is_it = |element: &[u8]| is_same(element, token);
    // Most lists are that token and no more.
    is_it(list) || list_elements(list).any(is_it)
}

/// The elements of a comma-separated list without quoted strings; empty ones are skipped, as
/// RFC 9110 §5.6.1 asks of a recipient.
pub(crate) fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether they are the same but for their case. Most are in the case that the standard writes them in,
/// which is found out by many bytes at a time.
pub(super) fn is_same(bytes: &[u8], name: &str) -> bool {
    bytes == name.as_bytes() || bytes.eq_ignore_ascii_case(name.as_bytes())
}

/// A value of `Host`, where it is one: what a proxy can read otherwise than this end leads somewhere else.
pub(super) fn check_host(value: &[u8]) -> Result<&[u8], HandshakeError> {
    if is_host(value) {
        Ok(value)
    } else {
        Err(HandshakeError::Malformed(
            "Host is not a host, with or without a port",
        ))
    }
}

/// Whether it is clear who is asked over HTTP/2, where `:authority` says it and `Host` may say it once more, but has
/// no user (RFC 9113 §8.3.1): where two readers see two hosts, one of them is deceived.
///
/// # Errors
/// [`HandshakeError::Repeated`] and [`HandshakeError::Malformed`].
pub fn check_authority(
    authority: Option<&[u8]>,
    headers: &impl HeaderFields,
) -> Result<(), HandshakeError> {
    let is_clear = match (headers.at_most_one("Host")?, authority) {
        (Some(host), Some(authority)) => is_host(authority) && host.eq_ignore_ascii_case(authority),
        (said, None) | (None, said) => said.is_none_or(is_host),
    };
    is_clear.then_some(()).ok_or(HandshakeError::Malformed(
        "Host and :authority are one host, with or without a port",
    ))
}

/// Whether the bytes are a host and perhaps a port (RFC 9110 §7.2), or empty. A user before the host is none of it.
///
/// ```
/// use sockeye_proto::handshake::is_host;
/// assert!(is_host(b"example.com:8080") && is_host(b"[::1]"));
/// assert!(!is_host(b"user@example.com") && !is_host(b"a, b"));
/// ```
pub fn is_host(value: &[u8]) -> bool {
    let port = match value {
        // What is in brackets is not taken apart: a zone is written as %25eth0, and as %eth0.
        [b'[', rest @ ..] => {
            let len = rest.iter().take_while(|byte| is_literal_byte(**byte));
            match rest.split_at(len.count()) {
                ([_, ..], [b']', port @ ..]) => port,
                _ => return false,
            }
        }
        _ => after_name(value),
    };
    match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// What follows a registered name (RFC 3986 §3.2.2).
fn after_name(mut value: &[u8]) -> &[u8] {
    loop {
        value = match value {
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [byte, rest @ ..] if is_name_byte(*byte) => rest,
            _ => return value,
        }
    }
}

/// Without the comma, which stands between two hosts.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(&byte)
}

fn is_literal_byte(byte: u8) -> bool {
    is_name_byte(byte) || matches!(byte, b':' | b'%')
}

/// Whether the bytes are a `token` (RFC 9110 §5.6.2), as the names of headers, subprotocols and cookies are.
///
/// ```
/// use sockeye_proto::handshake::is_token;
/// assert!(is_token(b"chat.v2"));
/// assert!(!is_token(b"chat v2") && !is_token(b""));
/// ```
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Whether a byte may be part of a `token` (RFC 9110 §5.6.2).
#[inline]
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    /// Looked up: the ranges and marks one after another are eight instructions a byte more.
    const TOKEN: [bool; 256] = {
        let mut token = [false; 256];
        let mut byte = b'!';
        while byte < 0x7F {
            token[byte as usize] = !matches!(byte, b'"' | b'(' | b')' | b',' | b'/' | b':'..=b'@' | b'['..=b']' | b'{' | b'}');
            byte += 1;
        }
        token
    };
    TOKEN[byte as usize]
}

/// A list of header fields in their order, in one allocation however many there are.
///
/// Only what may travel gets in: a name is a token, a value has no control characters but tab,
/// so no field can smuggle another in.
#[derive(Clone, Default)]
pub struct Headers {
    /// Where the first field begins, as [`Start`]; what stands before it, as a request's line; then for
    /// each field how long its name and its value are, and both. Comparing names is all that most
    /// look-ups do, so that they are bytes. Nothing where there is neither a line nor a field.
    bytes: Box<[u8]>,
}

/// A list that is being made, and has room for more than is in it.
#[derive(Default)]
pub(super) struct Draft {
    bytes: Vec<u8>,
}

type Start = u32;

/// How many bytes say how long a field's name and value are, where neither is very long.
const LENGTHS: usize = 2 * size_of::<u16>();

/// Stands where a name's length would, where a name or a value is: then both lengths follow, in twice the
/// bytes.
const LONG: u16 = u16::MAX;

/// From here on, what stands where a name's length would is the number of a [common name](COMMON), which
/// then takes no bytes.
const NUMBERED: u16 = 0xFF00;

/// From here on it is the number of a common name with its usual value, which then takes none either.
const USUAL: u16 = 0xFF80;

/// The names in most requests, in the case that browsers send them in, and the value that most send, where
/// there is one. A server keeps a request for as long as its connection is open, and these are nearly half of what a
/// browser sends.
const COMMON: [(&str, &str); 15] = [
    ("Host", ""),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", ""),
    ("Sec-WebSocket-Version", "13"),
    (
        "Sec-WebSocket-Extensions",
        "permessage-deflate; client_max_window_bits",
    ),
    ("Sec-WebSocket-Protocol", ""),
    ("Origin", ""),
    ("User-Agent", ""),
    ("Cookie", ""),
    ("Accept", "*/*"),
    ("Accept-Encoding", "gzip, deflate, br, zstd"),
    ("Accept-Language", "en-US,en;q=0.9"),
    ("Cache-Control", "no-cache"),
    ("Pragma", "no-cache"),
];

/// The fewest of which such a rule gives each common name one of its own.
const SLOTS: usize = 64;

/// Where a name stands in [`NUMBERS`]: its length and last letter tell the common ones apart.
const fn slot(name: &[u8]) -> usize {
    let last = match name.last() {
        Some(last) => *last as usize,
        None => 0,
    };
    (name.len() * 12 + last) % SLOTS
}

/// The numbers of the common names, so that a name is compared with one of them at most.
const NUMBERS: [Option<u8>; SLOTS] = {
    let mut numbers = [None; SLOTS];
    let mut number = 0;
    while number < COMMON.len() {
        let slot = slot(COMMON[number].0.as_bytes());
        assert!(numbers[slot].is_none(), "two common names have one slot");
        numbers[slot] = Some(number as u8);
        number += 1;
    }
    numbers
};

/// What stands where a common name's length would, and what of its value takes bytes.
fn common<'v>(name: &str, value: &'v [u8]) -> Option<(u16, &'v [u8])> {
    let number = NUMBERS[slot(name.as_bytes())]?;
    let (common, usual) = COMMON[usize::from(number)];
    if common != name {
        None
    } else if value == usual.as_bytes() && !usual.is_empty() {
        Some((USUAL + u16::from(number), &[]))
    } else {
        Some((NUMBERED + u16::from(number), value))
    }
}

impl Headers {
    /// An empty list, which owns no memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// What stands before the fields.
    pub(super) fn line(&self) -> &[u8] {
        let line = self.bytes.get(size_of::<Start>()..self.start());
        line.unwrap_or_default()
    }

    /// Where the first field begins.
    fn start(&self) -> usize {
        let start = self.bytes.first_chunk();
        start.map_or(0, |start| Start::from_ne_bytes(*start) as usize)
    }

    /// Appends a field. White space around the value is dropped.
    ///
    /// # Errors
    /// [`HandshakeError::InvalidHeader`] for a name that is not a token, and for a value with a
    /// line break or another control character: it would end the field and begin another.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HandshakeError> {
        let mut draft = Draft::from(mem::take(self));
        let pushed = draft.push(name, value.as_ref());
        *self = draft.finish();
        pushed
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields().next().is_none()
    }

    /// The first value of that name, whatever its case.
    pub fn first(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The first value of that name, where it is text.
    pub fn first_str(&self, name: &str) -> Option<&str> {
        str::from_utf8(self.first(name)?).ok()
    }

    /// Names, in the case they came in, and values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields()
            .map(|(name, value)| (str::from_utf8(name).unwrap_or_default(), value))
    }

    /// Writes the fields as lines, each with its line break.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in self.fields() {
            write_field(out, name, value);
        }
    }

    /// How many bytes [`write`](Self::write) will add.
    pub(crate) fn written_len(&self) -> usize {
        let lines = self.fields();
        lines
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum()
    }
}

impl Draft {
    /// An empty list behind a line in some pieces, with just the room for some fields. `None` where the line
    /// is too long.
    pub(super) fn behind<'f>(
        line: &[&str],
        fields: impl Iterator<Item = (&'f str, &'f [u8])>,
    ) -> Option<Self> {
        let line_len: usize = line.iter().map(|piece| piece.len()).sum();
        let start = size_of::<Start>() + line_len;
        let fields = fields.map(|(name, value)| {
            let uncommon = name.len() + value.len();
            LENGTHS + common(name, value).map_or(uncommon, |(_, value)| value.len())
        });
        let mut bytes = Vec::with_capacity(start + fields.sum::<usize>());
        bytes.extend_from_slice(&Start::try_from(start).ok()?.to_ne_bytes());
        for piece in line {
            bytes.extend_from_slice(piece.as_bytes());
        }
        Some(Self { bytes })
    }

    /// As [`Headers::push`].
    pub(super) fn push(&mut self, name: &str, value: &[u8]) -> Result<(), HandshakeError> {
        field_value(value)
            .filter(|_| is_token(name.as_bytes()))
            .and_then(|value| self.append(None, name, value))
            .ok_or_else(|| HandshakeError::InvalidHeader(name.into()))
    }

    /// Appends a field that a parser has found to be one, with numbers in place of what is [common](COMMON): what is
    /// read may stay for long, and what is pushed is soon written. `None` where it is too long.
    pub(super) fn append_read(&mut self, name: &str, value: &[u8]) -> Option<()> {
        self.append(common(name, value), name, value)
    }

    fn append(&mut self, common: Option<(u16, &[u8])>, name: &str, value: &[u8]) -> Option<()> {
        let name_len = u16::try_from(name.len()).ok();
        let name_len = name_len.filter(|len| *len < NUMBERED);
        let short = |value: &[u8]| u16::try_from(value.len()).ok();
        // Before anything is appended.
        let long = [
            u32::try_from(name.len()).ok()?,
            u32::try_from(value.len()).ok()?,
        ];
        let (stands, value_len, name, value) = match (common, name_len, short(value)) {
            (Some((number, value)), _, Some(_)) => (number, short(value)?, "", value),
            (None, Some(name_len), Some(value_len)) => (name_len, value_len, name, value),
            _ => (LONG, 0, name, value),
        };
        let len = LENGTHS + name.len() + value.len();
        if self.bytes.is_empty() {
            let start = size_of::<Start>();
            self.bytes.reserve(start + len);
            self.bytes
                .extend_from_slice(&(start as Start).to_ne_bytes());
        }
        self.bytes.reserve(len);
        let lengths = [stands, value_len].map(u16::to_ne_bytes);
        self.bytes.extend_from_slice(lengths.as_flattened());
        if stands == LONG {
            self.bytes.extend_from_slice(&long[0].to_ne_bytes());
            self.bytes.extend_from_slice(&long[1].to_ne_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(value);
        Some(())
    }

    /// The list, in memory of just its size.
    pub(super) fn finish(self) -> Headers {
        Headers {
            bytes: self.bytes.into_boxed_slice(),
        }
    }
}

/// A list to which more is added.
impl From<Headers> for Draft {
    fn from(headers: Headers) -> Self {
        Self {
            bytes: headers.bytes.into_vec(),
        }
    }
}

/// The fields of a list, as bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (stands, rest) = self.0.split_first_chunk()?;
        let (value_len, rest) = rest.split_first_chunk()?;
        let (stands, value_len) = (u16::from_ne_bytes(*stands), u16::from_ne_bytes(*value_len));
        let (name, value, rest) = if stands < NUMBERED {
            let (name, rest) = rest.split_at_checked(stands.into())?;
            let (value, rest) = rest.split_at_checked(value_len.into())?;
            (name, value, rest)
        } else {
            numbered_or_long(stands, value_len, rest)?
        };
        self.0 = rest;
        Some((name, value))
    }
}

/// A field whose name has a number, or that is long, and what comes behind it. A function of its own, so
/// that going through the others is a short loop.
#[inline(never)]
fn numbered_or_long(stands: u16, value_len: u16, rest: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, value_len, rest) = if stands == LONG {
        let (name_len, rest) = rest.split_first_chunk()?;
        let (value_len, rest) = rest.split_first_chunk()?;
        let (name, rest) = rest.split_at_checked(u32::from_ne_bytes(*name_len) as usize)?;
        (name, u32::from_ne_bytes(*value_len) as usize, rest)
    } else if stands < USUAL {
        let (name, _) = COMMON.get(usize::from(stands - NUMBERED))?;
        (name.as_bytes(), value_len.into(), rest)
    } else {
        let (name, usual) = COMMON.get(usize::from(stands - USUAL))?;
        return Some((name.as_bytes(), usual.as_bytes(), rest));
    };
    let (value, rest) = rest.split_at_checked(value_len)?;
    Some((name, value, rest))
}

/// Writes one field as a line.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// A field's value (RFC 9110 §5.5) without the white space around it; `None` where it cannot travel.
pub(crate) fn field_value(value: &[u8]) -> Option<&[u8]> {
    let is_value_byte = |byte: u8| byte == b'\t' || (byte >= b' ' && byte != 0x7F);
    // Of white space, these alone are none of the value's (§5.6.3).
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    // All of it, whatever is found: so they are looked at many at a time.
    let valid = value
        .iter()
        .fold(true, |valid, byte| valid & is_value_byte(*byte));
    valid.then_some(value)
}

impl HeaderFields for Headers {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        Fields(&self.bytes[self.start()..])
    }
}

/// The same fields in the same order, whatever stands before them.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.fields().eq(other.fields())
    }
}

impl Eq for Headers {}

#[cfg(feature = "http")]
impl HeaderFields for http::HeaderMap {
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.iter()
            .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes().trim_ascii()))
    }
}

/// Whether a field shows who somebody is, which is nothing for a log (RFC 9110 §11, RFC 6265).
fn is_secret(name: &str) -> bool {
    let secret = [
        "Authorization",
        "Cookie",
        "Proxy-Authorization",
        "Set-Cookie",
    ];
    secret.iter().any(|one| name.eq_ignore_ascii_case(one))
}

/// Without what shows who somebody is.
impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| match is_secret(name) {
                true => (name, "<hidden>".into()),
                false => (name, String::from_utf8_lossy(value)),
            }))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_who_somebody_is_is_not_shown() {
        let mut headers = Headers::new();
        for name in [
            "authorization",
            "Cookie",
            "Set-Cookie",
            "Proxy-Authorization",
        ] {
            headers.push(name, "secret").unwrap();
        }
        headers.push("X-Name", "value").unwrap();
        let shown = alloc::format!("{headers:?}");
        assert!(!shown.contains("secret"), "{shown}");
        assert_eq!(shown.matches("<hidden>").count(), 4, "{shown}");
        assert!(shown.contains("\"X-Name\": \"value\""), "{shown}");
    }

    #[test]
    fn names_are_compared_without_regard_to_case() {
        let mut headers = Headers::new();
        headers.push("X-One", " 1 ").unwrap();
        headers.push("x-two", "2").unwrap();
        headers.push("x-ONE", "").unwrap();
        let ones: Vec<_> = headers.values("x-one").collect();
        assert_eq!(ones, [&b"1"[..], b""]);
        assert_eq!(
            headers.exactly_one("X-One"),
            Err(HandshakeError::Repeated("X-One"))
        );
        assert_eq!(headers.exactly_one("X-Two"), Ok(&b"2"[..]));
        assert_eq!(
            headers.exactly_one("X-Three"),
            Err(HandshakeError::Missing("X-Three"))
        );
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn fields_may_be_of_any_length() {
        let (most, numbered) = (usize::from(u16::MAX), usize::from(NUMBERED));
        let lengths = [1, numbered - 1, numbered, most - 1, most, most + 1];
        let mut draft = Draft::default();
        for len in lengths {
            let (name, value) = ("N".repeat(len), "v".repeat(len));
            draft.push("Short", value.as_bytes()).unwrap();
            draft.append_read("Host", value.as_bytes()).unwrap();
            draft.append_read(&name, b"short").unwrap();
        }
        let headers = draft.finish();
        let expected = lengths.map(|len| [(5, len), (4, len), (len, 5)]);
        let found: Vec<_> = headers.iter().map(|(n, v)| (n.len(), v.len())).collect();
        assert_eq!(found, expected.concat());
        assert_eq!(headers.len(), 18);
        let mut written = Vec::new();
        headers.write(&mut written);
        assert_eq!(written.len(), headers.written_len());
    }

    #[test]
    fn a_common_field_takes_no_bytes_and_is_told_as_it_came() {
        for (name, usual) in COMMON {
            let lower = name.to_lowercase();
            let fields = [
                (name, "1"),
                (lower.as_str(), "2"),
                (name, usual),
                (name, ""),
            ];
            let fields = fields.map(|(name, value)| (name, value.as_bytes()));
            let mut draft = Draft::behind(&[], fields.into_iter()).unwrap();
            let room = draft.bytes.capacity();
            for (name, value) in fields {
                draft.append_read(name, value).unwrap();
            }
            let headers = draft.finish();
            let found: Vec<_> = headers.iter().collect();
            assert_eq!(found, fields);
            assert_eq!(headers.values(name).count(), fields.len(), "{name}");
            let bytes = size_of::<Start>() + fields.len() * LENGTHS + 2 + name.len();
            assert_eq!((headers.bytes.len(), room), (bytes, bytes), "{name}");
        }
    }

    #[test]
    fn section_5_6_2_tokens_are_letters_digits_and_fifteen_marks() {
        for byte in 0..=u8::MAX {
            let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token_byte(byte), token, "{byte}");
        }
    }

    #[test]
    fn tokens_are_found_in_lists_over_several_fields() {
        let mut headers = Headers::new();
        headers.push("Connection", "keep-alive,").unwrap();
        headers.push("connection", " , x,\tUPGRADE ").unwrap();
        assert!(headers.contains_token("Connection", "upgrade"));
        assert!(!headers.contains_token("Connection", "up"));
    }

    #[test]
    fn nothing_is_smuggled_into_a_field() {
        let mut headers = Headers::new();
        for (name, value) in [
            ("X", "a\r\nInjected: b"),
            ("X", "a\nb"),
            ("X", "a\0b"),
            // What is taken away around a value is no line break.
            ("X", "a\r\n"),
            ("X", "\na"),
            ("X", "\x0Ca"),
            ("X: a\r\nY", "b"),
            ("X Y", "b"),
            ("", "b"),
            ("Имя", "b"),
        ] {
            let refused = headers.push(name, value);
            assert_eq!(refused, Err(HandshakeError::InvalidHeader(name.into())));
        }
        assert!(headers.is_empty());
        headers.push("X-Name", " \tСоединение\t ").unwrap();
        assert_eq!(headers.first_str("x-name"), Some("Соединение"));
    }
}
