//! Text: owned, and borrowed from where it was received. Both have been checked, and are bytes until a `str` is
//! asked for.

use alloc::string::String;
use core::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
};

use bytes::Bytes;

use crate::mask::{ASCII, doubled};

/// UTF-8 text, borrowed from the buffer it was received into. It derefs to `str`.
///
/// The text was checked as it was unmasked, where ASCII costs next to nothing; without unsafe code
/// that leaves bytes, of which a `str` is made by a check of its own when someone asks for it: at
/// 16 bytes 7 ns that an echo, a relay or a parser of bytes need not spend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TextRef<'a>(&'a [u8]);

impl<'a> TextRef<'a> {
    /// Text that the receiver has checked.
    #[inline]
    pub(crate) fn checked(bytes: &'a [u8]) -> Self {
        debug_assert!(core::str::from_utf8(bytes).is_ok());
        Self(bytes)
    }

    /// The text as a string slice: a check of all of it, about 5 ns for 16 bytes and 20-50 ns for a
    /// KiB. Keep the slice rather than ask twice.
    #[inline]
    pub fn as_str(self) -> &'a str {
        // Never the default: every text has been checked before.
        if self.0.len() < 64 {
            core::str::from_utf8(self.0).unwrap_or_default()
        } else {
            simdutf8::basic::from_utf8(self.0).unwrap_or_default()
        }
    }

    /// The bytes of the text.
    #[inline]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// The size of the text in bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.0.len()
    }

    /// Whether the text is empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> From<&'a str> for TextRef<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        Self(text.as_bytes())
    }
}

impl Deref for TextRef<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for TextRef<'_> {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq<str> for TextRef<'_> {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for TextRef<'_> {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl fmt::Display for TextRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for TextRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// UTF-8 text that is cheap to clone. It derefs to `str`.
///
/// As with [`TextRef`], what was received has been checked as it came, and the check that makes a
/// `str` of it is left to whoever asks for one. Whoever sends it on need not, nor a parser that takes
/// [`as_bytes`](Self::as_bytes).
///
/// Up to 23 bytes (7 where an address has 32 bits) are in the text itself; what is longer is in memory that
/// clones share.
#[derive(Clone)]
pub struct Text(Place);

/// Where a text is.
#[derive(Clone)]
enum Place {
    Here(Short),
    Shared(Bytes),
}

impl Text {
    /// Text that the receiver has checked.
    #[inline]
    pub(crate) fn checked(bytes: Bytes) -> Self {
        debug_assert!(core::str::from_utf8(&bytes).is_ok());
        Self(Place::Shared(bytes))
    }

    /// A payload that has room in the text itself, once it is unmasked. It is text if it is ASCII, as is told too:
    /// else it is to be checked.
    #[inline(always)]
    pub(crate) fn unmask_short(key: [u8; 4], payload: &[u8]) -> Option<(Self, bool)> {
        let (short, ascii) = Short::unmask(key, payload)?;
        Some((Self(Place::Here(short)), ascii))
    }

    #[inline]
    pub(crate) fn lend(&self) -> TextRef<'_> {
        TextRef(self.as_bytes())
    }

    /// The text as a string slice. It costs what [`TextRef::as_str`] does.
    #[inline]
    pub fn as_str(&self) -> &str {
        self.lend().as_str()
    }

    /// The bytes of the text.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Here(short) => short.as_bytes(),
            Place::Shared(bytes) => bytes,
        }
    }

    /// The size of the text in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.as_bytes().len()
    }

    /// Whether the text is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.as_bytes().is_empty()
    }

    /// The bytes of the text: copied where it is short, and without a copy where it is not.
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Place::Here(short) => Bytes::copy_from_slice(short.as_bytes()),
            Place::Shared(bytes) => bytes,
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::from("")
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Text {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl From<TextRef<'_>> for Text {
    #[inline]
    fn from(text: TextRef<'_>) -> Self {
        match Short::unmask([0; 4], text.0) {
            Some((short, _)) => Self(Place::Here(short)),
            None => Self(Place::Shared(Bytes::copy_from_slice(text.0))),
        }
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        TextRef::from(text).into()
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self(Place::Shared(text.into()))
    }
}

/// A copy: a [`Text`] may share its bytes with others.
impl From<Text> for String {
    fn from(text: Text) -> Self {
        text.as_str().into()
    }
}

/// A copy.
impl From<TextRef<'_>> for String {
    fn from(text: TextRef<'_>) -> Self {
        text.as_str().into()
    }
}

impl PartialEq<str> for Text {
    fn eq(&self, other: &str) -> bool {
        self.lend() == *other
    }
}

impl PartialEq<&str> for Text {
    fn eq(&self, other: &&str) -> bool {
        self.lend() == **other
    }
}

/// What a short text is made of: as much as takes no more than what is shared does, which has a pointer that is
/// never null, and by that the two are told apart.
const WORDS: usize = (size_of::<Bytes>() - size_of::<usize>()) / size_of::<u64>();

/// A text so short that it is copied rather than shared: to ask for memory and give it back is a quarter of
/// the instructions of receiving and sending 16 bytes.
///
/// In words, so that it is made in registers, and read as it was written: bytes of a word that were written by
/// themselves are waited for.
#[derive(Clone, Copy)]
struct Short {
    /// The last byte is how many of those before it there are.
    words: [[u8; size_of::<u64>()]; WORDS],
}

impl Short {
    const MOST: usize = WORDS * size_of::<u64>() - 1;

    /// A payload with a key applied, where it has room. Tells whether it is ASCII, too.
    #[inline(always)]
    fn unmask(key: [u8; 4], payload: &[u8]) -> Option<(Self, bool)> {
        if payload.len() > Self::MOST {
            return None;
        }
        let key = doubled(u32::from_le_bytes(key));
        let (whole, rest) = payload.as_chunks();
        let last = last_bytes(payload, rest) ^ key & !(u64::MAX << (8 * rest.len()));
        let unmask = |word| u64::from_le_bytes(word) ^ key;
        let all = match *whole {
            [] => [last, 0, 0],
            [first] => [unmask(first), last, 0],
            [first, second, ..] => [unmask(first), unmask(second), last],
        };
        let mut words: [u64; WORDS] = *all.first_chunk()?;
        let seen = words.iter().fold(0, |all, word| all | word);
        words[WORDS - 1] |= (payload.len() as u64) << 56;
        let words = words.map(u64::to_le_bytes);
        Some((Self { words }, seen & ASCII == 0))
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        let bytes = self.words.as_flattened();
        let len = bytes.last().map_or(0, |len| usize::from(*len));
        bytes.get(..len).unwrap_or_default()
    }
}

/// What a payload has beyond its last whole word, as a word.
#[inline(always)]
fn last_bytes(payload: &[u8], rest: &[u8]) -> u64 {
    match payload.last_chunk() {
        // By half as much twice: by all of its bits, a word cannot be shifted.
        Some(end) => {
            let half = 4 * (size_of::<u64>() - rest.len());
            u64::from_le_bytes(*end) >> half >> half
        }
        None => first_bytes(rest),
    }
}

/// The bytes of a word of which there are fewer than eight.
#[inline(always)]
fn first_bytes(bytes: &[u8]) -> u64 {
    let (four, rest) = bytes.as_chunks::<4>();
    let mut word = (four.first()).map_or(0, |four| u64::from(u32::from_le_bytes(*four)));
    let mut at = 32 * four.len();
    for byte in rest {
        word |= u64::from(*byte) << at;
        at += 8;
    }
    word
}

#[cfg(test)]
mod tests {
    use alloc::{format, string::ToString, vec::Vec};

    use super::*;

    /// What is hashed.
    #[derive(Default)]
    struct Hashed(Vec<u8>);

    impl Hasher for Hashed {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }

        fn finish(&self) -> u64 {
            0
        }
    }

    fn hashed(text: &Text) -> Vec<u8> {
        let mut hasher = Hashed::default();
        text.hash(&mut hasher);
        hasher.0
    }

    #[test]
    fn short_or_long_it_is_the_same_text() {
        let key = [1, 0x7F, 0x30, 0x55];
        let all = "0123456789abcdefghijklmnopqrstuvwxyz";
        for len in 0..=all.len() {
            let plain = &all[..len];
            let masked: Vec<u8> = (plain.bytes().zip(key.into_iter().cycle()))
                .map(|(byte, key)| byte ^ key)
                .collect();
            let text = match Text::unmask_short(key, &masked) {
                Some((text, ascii)) => {
                    assert!(ascii && len <= Short::MOST);
                    text
                }
                None => {
                    assert!(len > Short::MOST);
                    Text::from(plain)
                }
            };
            let shared = Text::from(plain.to_string());
            assert_eq!(text, *plain);
            assert_eq!((text.as_str(), text.len()), (plain, len));
            assert_eq!((&text, text.cmp(&shared)), (&shared, Ordering::Equal));
            assert_eq!(hashed(&text), hashed(&shared));
            assert_eq!(format!("{text:?}"), format!("{plain:?}"));
            assert_eq!(text.clone().into_bytes(), plain);
            assert_eq!(String::from(text.lend()), plain);
            assert_eq!(String::from(text.clone()), plain);
            assert_eq!(text.is_empty(), plain.is_empty());
        }
    }

    #[test]
    fn texts_that_differ_are_hashed_differently() {
        assert_ne!(hashed(&"a".into()), hashed(&"b".into()));
    }

    #[test]
    fn a_byte_beyond_ascii_is_seen_wherever_it_is() {
        for len in 1..=Short::MOST {
            for at in 0..len {
                let mut payload = [b'a'; Short::MOST];
                payload[at] = 0x80;
                let found = Text::unmask_short([0; 4], &payload[..len]);
                assert!(found.is_some_and(|(_, ascii)| !ascii), "{at} of {len}");
            }
        }
    }

    #[test]
    fn a_text_takes_no_more_than_what_it_shares() {
        assert_eq!(size_of::<Text>(), size_of::<Bytes>());
    }
}
