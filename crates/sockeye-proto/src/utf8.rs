//! UTF-8 across chunks: fails on the first byte that no valid text can have (RFC 6455 §8.1).

use crate::ProtocolError;

/// Checks a text that comes in chunks, cut anywhere.
///
/// What it keeps between two chunks is at most the first three bytes of a character.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8 {
    partial: [u8; 4],
    len: u8,
}

impl Utf8 {
    /// Checks the next chunk.
    ///
    /// # Errors
    /// [`InvalidUtf8`](ProtocolError::InvalidUtf8) for a byte that no text can have there.
    pub fn push(&mut self, mut chunk: &[u8]) -> Result<(), ProtocolError> {
        while self.len > 0 {
            let Some((&byte, rest)) = chunk.split_first() else {
                return Ok(());
            };
            chunk = rest;
            self.partial[usize::from(self.len)] = byte;
            self.len += 1;
            match core::str::from_utf8(&self.partial[..usize::from(self.len)]) {
                Ok(_) => self.len = 0,
                // A valid character has at most four bytes, so `len` never passes 3 here.
                Err(error) if error.error_len().is_none() => {}
                Err(_) => {
                    self.len = 0;
                    return Err(ProtocolError::InvalidUtf8);
                }
            }
        }
        if let Err(error) = simdutf8::compat::from_utf8(chunk) {
            if error.error_len().is_some() {
                return Err(ProtocolError::InvalidUtf8);
            }
            let partial = &chunk[error.valid_up_to()..];
            self.partial[..partial.len()].copy_from_slice(partial);
            self.len = partial.len() as u8;
        }
        Ok(())
    }

    /// Checks that the text does not end within a character.
    ///
    /// # Errors
    /// [`InvalidUtf8`](ProtocolError::InvalidUtf8) where it does.
    pub fn finish(self) -> Result<(), ProtocolError> {
        if self.len == 0 {
            Ok(())
        } else {
            Err(ProtocolError::InvalidUtf8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// How many bytes are taken one at a time before the check fails, if it does.
    fn fails_after(bytes: &[u8]) -> Option<usize> {
        let mut utf8 = Utf8::default();
        (0..bytes.len()).find(|&i| utf8.push(&bytes[i..=i]).is_err())
    }

    #[test]
    fn section_8_1_fails_on_the_byte_that_breaks_it() {
        assert_eq!(fails_after("κόσμε 𐍈".as_bytes()), None);
        assert_eq!(fails_after(b"a\xFF"), Some(1));
        assert_eq!(fails_after(b"\xC0\x80"), Some(0)); // overlong: no text has C0
        assert_eq!(fails_after(b"\xE0\x80"), Some(1)); // overlong
        assert_eq!(fails_after(b"\xED\xA0"), Some(1)); // a surrogate
        assert_eq!(fails_after(b"\xF4\x90"), Some(1)); // above U+10FFFF
        assert_eq!(fails_after(b"\xF0\x9F\x98a"), Some(3));
    }

    #[test]
    fn section_8_1_a_text_may_not_end_within_a_character() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"\xF0\x9F\x98"), Ok(()));
        assert_eq!(utf8.finish(), Err(ProtocolError::InvalidUtf8));
        assert_eq!(utf8.push(b"\x80"), Ok(()));
        assert_eq!(utf8.finish(), Ok(()));
    }

    #[test]
    fn after_an_error_it_begins_anew() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"\xF0\x9F\x98"), Ok(()));
        assert_eq!(utf8.push(b"a"), Err(ProtocolError::InvalidUtf8));
        assert_eq!(utf8.push(b"a"), Ok(()));
        assert_eq!(utf8.finish(), Ok(()));
    }

    proptest! {
        #[test]
        fn section_8_1_any_cut_gives_the_same_verdict(
            bytes in prop_oneof![
                any::<Vec<u8>>(),
                any::<alloc::string::String>().prop_map(Into::into),
            ],
            cuts in prop::collection::vec(0usize..9, 0..20),
        ) {
            let (mut utf8, mut rest, mut ok) = (Utf8::default(), &bytes[..], true);
            for cut in cuts {
                let (part, after) = rest.split_at(cut.min(rest.len()));
                ok = ok && utf8.push(part).is_ok();
                rest = after;
            }
            ok = ok && utf8.push(rest).is_ok() && utf8.finish().is_ok();
            prop_assert_eq!(ok, core::str::from_utf8(&bytes).is_ok());
        }
    }
}
