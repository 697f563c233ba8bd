//! `Sec-WebSocket-Key` and the `Sec-WebSocket-Accept` that answers it (RFC 6455 §4.1, §4.2.2).

use alloc::string::String;
use core::{fmt, str};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use sha1::{Digest, Sha1};

use super::HandshakeError;

/// What the key is hashed with: proof that the server speaks WebSocket (§1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of `Sec-WebSocket-Key`: sixteen bytes in base64 (§4.1).
///
/// It guards against caches and accidents, it is no secret; but it must be fresh and random
/// for each connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u8; 24]);

impl Key {
    /// Makes a key of sixteen random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        let mut text = [b'='; 24];
        // Sixteen bytes are 24 characters, always; were it otherwise, the peer would refuse.
        let _ = BASE64.encode_slice(random, &mut text);
        Self(text)
    }

    /// Reads the value of the header field (§4.2.1, 5).
    ///
    /// Clients in use fill all 22 characters at random, so the four bits that carry nothing are
    /// not looked at. Padding is.
    ///
    /// # Errors
    /// [`HandshakeError::Key`] where it does not decode to sixteen bytes.
    pub fn parse(value: &[u8]) -> Result<Self, HandshakeError> {
        let text: [u8; 24] = value.try_into().map_err(|_| HandshakeError::Key)?;
        let (digits, padding) = text.split_at(22);
        // All of them, whatever is found: so they are looked at many at a time.
        let is_base64 = digits.iter().fold(padding == b"==", |valid, byte| {
            valid & (byte.is_ascii_alphanumeric() | matches!(byte, b'+' | b'/'))
        });
        is_base64.then_some(Self(text)).ok_or(HandshakeError::Key)
    }

    /// The text that travels.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The answer that proves the server understood the key (§4.2.2, 5.4).
    pub fn accept(&self) -> Accept {
        let digest = Sha1::new()
            .chain_update(self.0)
            .chain_update(GUID)
            .finalize();
        let mut text = [b'='; 28];
        let _ = BASE64.encode_slice(digest, &mut text);
        Accept(text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.as_str())
    }
}

/// The value of `Sec-WebSocket-Accept` (§4.2.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Accept([u8; 28]);

impl Accept {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text that travels.
    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accept({})", self.as_str())
    }
}

impl From<Accept> for String {
    fn from(accept: Accept) -> Self {
        accept.as_str().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_1_3_the_standards_example() {
        let key = Key::parse(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap();
        assert_eq!(key, Key::new(*b"the sample nonce"));
        assert_eq!(key.as_str(), "dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(key.accept().as_str(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn section_4_2_1_only_sixteen_bytes_are_a_key() {
        for wrong in [
            &b""[..],
            b"x3JJHMbDL1EzLkh9d8",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ=",
            b"dGhlIHNhbXBsZSBub25jZQ=A",
            b"dGhlIHNhbXBsZSBub25jZSE=",
            b"dGhlIHNhbXBsZSBub25jZSEh",
            b"dGhlIHNhbXBsZSBub25-ZQ==",
            b"dGhlIHNhbXBsZSBub25jZQ== ",
            b"SGVsbG8sIHdvcmxkIQ==",
        ] {
            assert_eq!(Key::parse(wrong), Err(HandshakeError::Key), "{wrong:?}");
        }
        // The last character's low bits belong to no byte.
        assert!(Key::parse(b"dGhlIHNhbXBsZSBub25jZR==").is_ok());
    }

    #[test]
    fn section_4_2_1_each_character_is_one_of_base64() {
        for at in 0..24 {
            for byte in 0..=u8::MAX {
                let mut key = *b"dGhlIHNhbXBsZSBub25jZA==";
                key[at] = byte;
                // Before the last one of them, all that a character says belongs to a byte.
                let decodes = match at {
                    21 => BASE64.decode([byte, b'A', b'A', b'A']).is_ok(),
                    _ => BASE64.decode(key).is_ok_and(|bytes| bytes.len() == 16),
                };
                assert_eq!(Key::parse(&key).is_ok(), decodes, "{byte} at {at}");
            }
        }
    }
}
