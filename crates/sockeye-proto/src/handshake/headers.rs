//! Header fields: one view for the rules, one compact list of our own (RFC 9110 §5).

use alloc::{string::String, vec::Vec};
use core::{fmt, str};

use super::HandshakeError;

/// The header fields of a request or response, as the handshake's rules look at them.
pub trait HeaderFields {
    /// The values of every field of that name, in order, without the white space around them.
    ///
    /// Names are compared without regard to case (RFC 9110 §5.1).
    fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]>;

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

    /// Whether the comma-separated lists under that name contain a token, whatever its case.
    fn contains_token(&self, name: &str, token: &str) -> bool {
        self.values(name)
            .flat_map(list_elements)
            .any(|element| element.eq_ignore_ascii_case(token.as_bytes()))
    }
}

/// The elements of a comma-separated list without quoted strings; empty ones are skipped, as
/// RFC 9110 §5.6.1 asks of a recipient.
pub(crate) fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Whether the bytes are a `token` (RFC 9110 §5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().copied().all(is_token_byte)
}

/// Whether a byte may be part of a `token` (RFC 9110 §5.6.2).
pub(crate) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// A list of header fields in their order, in two allocations however many there are.
///
/// Only what may travel gets in: a name is a token, a value has no control characters but tab,
/// so no field can smuggle another in.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers {
    text: Vec<u8>,
    /// Where each field's name and value end in `text`; they follow one another without a gap.
    ends: Vec<(u32, u32)>,
}

impl Headers {
    /// An empty list, which owns no memory.
    pub const fn new() -> Self {
        Self {
            text: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// An empty list with room for that many fields and bytes of names and values together.
    pub(crate) fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self {
            text: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(fields),
        }
    }

    /// Appends a field. White space around the value is dropped.
    ///
    /// # Errors
    /// [`HandshakeError::InvalidHeader`] for a name that is not a token, and for a value with a
    /// line break or another control character: it would end the field and begin another.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), HandshakeError> {
        let value = value.as_ref().trim_ascii();
        let invalid = || HandshakeError::InvalidHeader(name.into());
        if !is_token(name.as_bytes()) || !value.iter().copied().all(is_value_byte) {
            return Err(invalid());
        }
        let name_end = self.text.len() + name.len();
        let value_end = name_end + value.len();
        let ends = (u32::try_from(name_end), u32::try_from(value_end));
        let (Ok(name_end), Ok(value_end)) = ends else {
            return Err(invalid());
        };
        self.text.extend_from_slice(name.as_bytes());
        self.text.extend_from_slice(value);
        self.ends.push((name_end, value_end));
        Ok(())
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
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
        let mut start = 0;
        self.ends.iter().map(move |&(name_end, value_end)| {
            let (name_end, value_end) = (name_end as usize, value_end as usize);
            let name = &self.text[start..name_end];
            start = value_end;
            (
                str::from_utf8(name).unwrap_or_default(),
                &self.text[name_end..value_end],
            )
        })
    }

    /// Writes the fields as lines, each with its line break.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            write_field(out, name, value);
        }
    }

    /// The bytes [`write`](Self::write) will add.
    pub(crate) fn written_len(&self) -> usize {
        self.text.len() + 4 * self.ends.len()
    }
}

/// Writes one field as a line.
pub(crate) fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether a byte may be part of a field's value (RFC 9110 §5.5).
const fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7F)
}

impl HeaderFields for Headers {
    fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.iter()
            .filter(move |(candidate, _)| candidate.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

#[cfg(feature = "http")]
impl HeaderFields for http::HeaderMap {
    fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name)
            .iter()
            .map(|value| value.as_bytes().trim_ascii())
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(
                self.iter()
                    .map(|(name, value)| (name, String::from_utf8_lossy(value))),
            )
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            ("X: a\r\nY", "b"),
            ("X Y", "b"),
            ("", "b"),
            ("Имя", "b"),
        ] {
            let refused = headers.push(name, value);
            assert_eq!(refused, Err(HandshakeError::InvalidHeader(name.into())));
        }
        assert!(headers.is_empty());
        headers.push("X-Name", "Соединение").unwrap();
        assert_eq!(headers.first_str("x-name"), Some("Соединение"));
    }
}
