//! Messages: owned, borrowed from where they were received, and as given to `send`.

use alloc::{borrow::Cow, string::String, vec::Vec};
use core::fmt;

use bytes::Bytes;

use crate::{Prepared, Text, TextRef};

/// Whether a message is text or binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// UTF-8 text (opcode 1).
    Text,
    /// Bytes (opcode 2).
    Binary,
}

/// A whole message, owned. Cloning is cheap: the payload is shared.
#[derive(Clone, PartialEq, Eq)]
// A tag as wide as what follows: one byte, read with the rest in one vector just after it was written, has
// the processor wait, a tenth of an echo of 16 bytes.
#[repr(usize)]
pub enum Message {
    /// UTF-8 text (opcode 1).
    Text(Text),
    /// Bytes (opcode 2).
    Binary(Bytes),
}

impl Message {
    /// The payload, of either kind.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.as_ref().as_bytes()
    }

    /// The text, where it is one.
    #[inline]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Binary(_) => None,
        }
    }

    /// The size of the payload in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// Whether this is a text message.
    #[inline]
    pub fn is_text(&self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Whether this is a binary message.
    #[inline]
    pub fn is_binary(&self) -> bool {
        matches!(self, Self::Binary(_))
    }

    /// Which of the two it is.
    #[inline]
    pub fn kind(&self) -> MessageKind {
        self.as_ref().kind()
    }

    /// Lends the message.
    #[inline]
    #[allow(
        clippy::should_implement_trait,
        reason = "a borrowed kind, not a reference"
    )]
    pub fn as_ref(&self) -> MessageRef<'_> {
        match self {
            Self::Text(text) => MessageRef::Text(text.lend()),
            Self::Binary(bytes) => MessageRef::Binary(bytes),
        }
    }

    /// The payload, of either kind: without a copy, but of a [`Text`] so short that it is not shared.
    #[inline]
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Text(text) => text.into_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// Text as it is; bytes in hexadecimal.
impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_ref().fmt(f)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_ref(), f)
    }
}

/// Text is equal to a string of the same characters; bytes are equal to none.
impl PartialEq<str> for Message {
    fn eq(&self, other: &str) -> bool {
        self.as_ref() == *other
    }
}

impl PartialEq<&str> for Message {
    fn eq(&self, other: &&str) -> bool {
        self.as_ref() == **other
    }
}

/// A whole message, borrowed from the buffer it was received into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageRef<'a> {
    /// UTF-8 text (opcode 1).
    Text(TextRef<'a>),
    /// Bytes (opcode 2).
    Binary(&'a [u8]),
}

impl<'a> MessageRef<'a> {
    /// The payload, of either kind.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// The text, where it is one. It costs what [`TextRef::as_str`] does.
    #[inline]
    pub fn as_text(self) -> Option<&'a str> {
        match self {
            Self::Text(text) => Some(text.as_str()),
            Self::Binary(_) => None,
        }
    }

    /// The size of the payload in bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the payload is empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.as_bytes().is_empty()
    }

    /// Whether this is a text message.
    #[inline]
    pub fn is_text(self) -> bool {
        matches!(self, Self::Text(_))
    }

    /// Whether this is a binary message.
    #[inline]
    pub fn is_binary(self) -> bool {
        matches!(self, Self::Binary(_))
    }

    /// Which of the two it is.
    #[inline]
    pub fn kind(self) -> MessageKind {
        match self {
            Self::Text(_) => MessageKind::Text,
            Self::Binary(_) => MessageKind::Binary,
        }
    }

    /// Copies the message out of the buffer it was lent from.
    pub fn to_owned(self) -> Message {
        match self {
            Self::Text(text) => Message::Text(text.into()),
            Self::Binary(bytes) => Message::Binary(Bytes::copy_from_slice(bytes)),
        }
    }
}

/// Text as it is; bytes in hexadecimal.
impl fmt::Display for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.pad(text),
            Self::Binary(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// Text is equal to a string of the same characters; bytes are equal to none.
impl PartialEq<str> for MessageRef<'_> {
    fn eq(&self, other: &str) -> bool {
        matches!(self, Self::Text(text) if *text == *other)
    }
}

impl PartialEq<&str> for MessageRef<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

/// What `send` takes: anything that is a message, borrowed or owned.
///
/// Strings are text, bytes are binary. Small payloads are copied into the output; a large owned one
/// travels without a copy.
#[derive(Clone, Debug)]
#[repr(usize)]
pub enum Outgoing<'a> {
    /// Copied when it is sent.
    Borrowed(MessageRef<'a>),
    /// Moved where that is cheaper than a copy.
    Owned(Message),
    /// Shared with other connections, compressed too.
    Prepared(Prepared),
}

impl Outgoing<'_> {
    /// Lends the message.
    #[inline]
    #[allow(
        clippy::should_implement_trait,
        reason = "a borrowed kind, not a reference"
    )]
    pub fn as_ref(&self) -> MessageRef<'_> {
        match self {
            Self::Borrowed(message) => *message,
            Self::Owned(message) => message.as_ref(),
            Self::Prepared(prepared) => prepared.message().as_ref(),
        }
    }

    /// The message, copied only where it was borrowed.
    pub fn into_owned(self) -> Message {
        match self {
            Self::Borrowed(message) => message.to_owned(),
            Self::Owned(message) => message,
            Self::Prepared(prepared) => prepared.message().clone(),
        }
    }

    /// The same to be kept, copied only where it was borrowed.
    pub fn into_static(self) -> Outgoing<'static> {
        match self {
            Self::Borrowed(message) => Outgoing::Owned(message.to_owned()),
            Self::Owned(message) => Outgoing::Owned(message),
            Self::Prepared(prepared) => Outgoing::Prepared(prepared),
        }
    }
}

macro_rules! outgoing {
    ($lifetime:lifetime; $($from:ty => |$value:ident| $make:expr;)*) => {$(
        impl<$lifetime> From<$from> for Outgoing<$lifetime> {
            fn from($value: $from) -> Self { $make }
        }
    )*};
}

outgoing! { 'a;
    &'a str => |text| Self::Borrowed(MessageRef::Text(text.into()));
    &'a String => |text| Self::Borrowed(MessageRef::Text(text.as_str().into()));
    Cow<'a, str> => |text| match text { Cow::Borrowed(text) => text.into(), Cow::Owned(text) => text.into() };
    &'a Text => |text| Self::Borrowed(MessageRef::Text(text.lend()));
    TextRef<'a> => |text| Self::Borrowed(MessageRef::Text(text));
    &'a [u8] => |bytes| Self::Borrowed(MessageRef::Binary(bytes));
    &'a Vec<u8> => |bytes| Self::Borrowed(MessageRef::Binary(bytes));
    MessageRef<'a> => |message| Self::Borrowed(message);
    &'a Message => |message| Self::Owned(message.clone());
    Message => |message| Self::Owned(message);
    Text => |text| Self::Owned(Message::Text(text));
    String => |text| Self::Owned(Message::Text(text.into()));
    Bytes => |bytes| Self::Owned(Message::Binary(bytes));
    Vec<u8> => |bytes| Self::Owned(Message::Binary(bytes.into()));
    &'a Prepared => |prepared| Self::Prepared(prepared.clone());
    Prepared => |prepared| Self::Prepared(prepared);
}

impl<'a, const N: usize> From<&'a [u8; N]> for Outgoing<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Borrowed(MessageRef::Binary(bytes))
    }
}

macro_rules! message {
    ($($from:ty)*) => {$(
        impl From<$from> for Message {
            fn from(value: $from) -> Self { Outgoing::from(value).into_owned() }
        }
    )*};
}

message! { &str &String String Cow<'_, str> &Text Text TextRef<'_> &[u8] &Vec<u8> Vec<u8> Bytes MessageRef<'_> &Message }

impl<const N: usize> From<&[u8; N]> for Message {
    fn from(bytes: &[u8; N]) -> Self {
        Outgoing::from(bytes).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec};

    #[test]
    fn strings_are_text_and_bytes_are_binary() {
        assert_eq!(Message::from("a").as_text(), Some("a"));
        assert_eq!(
            Message::from("a".to_string()),
            Message::from(&Text::from("a"))
        );
        assert_eq!(
            Message::from(vec![1, 2]),
            Message::Binary(Bytes::from_static(&[1, 2]))
        );
        assert_eq!(Message::from(b"ab"), Message::from(&b"ab"[..]));
        assert!(Message::from(Bytes::new()).is_binary());
        for bytes in [&b"ab"[..], b"a\xff"] {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(Message::from(text.clone()), &*text);
        }
    }

    #[test]
    fn a_message_is_of_one_kind() {
        for (message, kind) in [
            (Message::from("a"), MessageKind::Text),
            (Message::from(b"a"), MessageKind::Binary),
        ] {
            assert_eq!((message.kind(), message.as_ref().kind()), (kind, kind));
            let is_binary = kind == MessageKind::Binary;
            assert_eq!(message.as_ref().is_binary(), is_binary);
            assert_eq!(message.as_ref().is_text(), !is_binary);
        }
    }

    #[test]
    fn a_text_is_equal_to_a_string_and_bytes_are_to_none() {
        let text = Message::from("Привет");
        assert_eq!(text, "Привет");
        assert_eq!(text.as_ref(), "Привет");
        assert_ne!(text, "Прив");
        assert_ne!(Message::from("Привет".as_bytes()), "Привет");
    }

    #[test]
    fn display_shows_text_as_it_is_and_bytes_as_hex() {
        assert_eq!(Message::from("Привет").to_string(), "Привет");
        assert_eq!(format!("{:>3}", Message::from("a")), "  a");
        assert_eq!(Message::from(&[0u8, 255]).to_string(), "00ff");
    }
}
