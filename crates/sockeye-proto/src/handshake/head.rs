//! Where a head ends, found as it arrives (RFC 9112 §2).

use super::HandshakeError;

/// How large a request's or response's head may be.
///
/// ```
/// use sockeye_proto::handshake::HeadLimits;
/// let limits = HeadLimits::default().bytes(64 * 1024);
/// assert_eq!((limits.bytes, limits.headers), (65_536, 100));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HeadLimits {
    /// Bytes, from the first to the empty line that ends the head. 16 KiB unless changed.
    pub bytes: usize,
    /// Header fields. 100 unless changed.
    pub headers: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            bytes: 16 * 1024,
            headers: 100,
        }
    }
}

impl HeadLimits {
    /// Sets the most bytes, the empty line at the end among them.
    #[must_use]
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Sets the most header fields.
    #[must_use]
    pub fn headers(mut self, fields: usize) -> Self {
        self.headers = fields;
        self
    }
}

/// Looks for the end of a head in bytes that arrive in pieces, each byte once.
///
/// It refuses early what cannot become a head: too many bytes or lines, a line feed alone (two
/// readers could see two different heads in it), a peer that speaks something else altogether.
#[derive(Clone, Debug)]
pub struct HeadScanner {
    limits: HeadLimits,
    /// The bytes every acceptable head begins with.
    prefix: &'static [u8],
    searched: usize,
    /// Where the current line begins.
    line: usize,
    lines: usize,
}

impl HeadScanner {
    /// Begins at the first byte of a request.
    pub const fn request(limits: HeadLimits) -> Self {
        Self::new(limits, b"")
    }

    /// Begins at the first byte of a response.
    pub const fn response(limits: HeadLimits) -> Self {
        Self::new(limits, b"HTTP/")
    }

    const fn new(limits: HeadLimits, prefix: &'static [u8]) -> Self {
        Self {
            limits,
            prefix,
            searched: 0,
            line: 0,
            lines: 0,
        }
    }

    /// Takes all bytes read so far, old ones included, and tells how long the head is once its
    /// end is among them. What follows it belongs to the protocol that the head asks for.
    ///
    /// Bytes that an earlier call has seen are not looked at again.
    ///
    /// # Errors
    /// [`HandshakeError::HeadTooLarge`], [`HandshakeError::TooManyHeaders`],
    /// [`HandshakeError::Malformed`], [`HandshakeError::Tls`].
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Option<usize>, HandshakeError> {
        self.check_beginning(bytes)?;
        // A head that is one byte too long is too long even where its end is in sight.
        let within = &bytes[..bytes.len().min(self.limits.bytes)];
        let mut from = self.searched;
        while let Some(offset) = within.get(from..).and_then(line_feed) {
            let at = from + offset;
            from = at + 1;
            if at == self.line || within[at - 1] != b'\r' {
                return Err(HandshakeError::Malformed("a line ends without CR LF"));
            }
            let empty = at == self.line + 1;
            self.line = at + 1;
            // A recipient forgives an empty line before the first (RFC 9112 §2.2).
            if empty && self.lines > 0 {
                self.searched = at + 1;
                return Ok(Some(at + 1));
            }
            if !empty {
                self.lines += 1;
            }
            if self.lines > self.limits.headers.saturating_add(1) {
                let limit = self.limits.headers;
                return Err(HandshakeError::TooManyHeaders { limit });
            }
        }
        self.searched = within.len();
        if bytes.len() >= self.limits.bytes {
            let limit = self.limits.bytes;
            return Err(HandshakeError::HeadTooLarge { limit });
        }
        Ok(None)
    }

    /// Refuses at once what is not HTTP, rather than waiting for an end that will not come.
    fn check_beginning(&self, bytes: &[u8]) -> Result<(), HandshakeError> {
        if self.searched >= self.prefix.len().max(1) {
            return Ok(());
        }
        // A TLS record, alert or handshake (RFC 8446 §5.1). The first byte decides alone: it comes
        // alone at times, and the answer must not depend on that.
        if matches!(bytes, [0x15 | 0x16, ..]) {
            return Err(HandshakeError::Tls);
        }
        let len = bytes.len().min(self.prefix.len());
        let http = match bytes.first() {
            Some(first) if self.prefix.is_empty() => {
                super::headers::is_token_byte(*first) || *first == b'\r'
            }
            _ => bytes[..len] == self.prefix[..len],
        };
        if http {
            Ok(())
        } else {
            Err(HandshakeError::Malformed("it is not HTTP"))
        }
    }
}

/// Where the first line feed is. Eight bytes are looked at together, which takes a quarter of the
/// instructions.
fn line_feed(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    let (words, rest) = bytes.as_chunks();
    for (at, word) in words.iter().enumerate() {
        let others = u64::from_le_bytes(*word) ^ (ONES * b'\n' as u64);
        // The lowest byte that is zero is the lowest whose high bit this leaves.
        let found = others.wrapping_sub(ONES) & !others & HIGH;
        if found != 0 {
            return Some(8 * at + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(8 * words.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{vec, vec::Vec};

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n\r\n";

    fn scan_all(bytes: &[u8]) -> Result<Option<usize>, HandshakeError> {
        HeadScanner::request(HeadLimits::default()).scan(bytes)
    }

    #[test]
    fn a_head_is_found_however_it_is_cut() {
        let mut bytes = HEAD.to_vec();
        bytes.extend_from_slice(b"\x81\x00");
        for first in 0..bytes.len() {
            let mut scanner = HeadScanner::request(HeadLimits::default());
            let early = scanner.scan(&bytes[..first]).unwrap();
            assert_eq!(early, (first >= HEAD.len()).then_some(HEAD.len()));
            if early.is_none() {
                assert_eq!(scanner.scan(&bytes), Ok(Some(HEAD.len())));
            }
        }
    }

    #[test]
    fn a_line_feed_is_found_wherever_it_is() {
        for len in 0..40 {
            let mut bytes = vec![0x8A; len];
            assert_eq!(line_feed(&bytes), None);
            for at in (0..len).rev() {
                bytes[at] = b'\n';
                assert_eq!(line_feed(&bytes), Some(at));
            }
        }
        for byte in 0..=u8::MAX {
            let found = (byte == b'\n').then_some(0);
            assert_eq!(line_feed(&[byte; 8]), found, "{byte}");
        }
        assert_eq!(line_feed(b"\x0b\x09\x0b\x0a\x0b\x0a\x00\x0b"), Some(3));
    }

    #[test]
    fn each_byte_is_looked_at_once() {
        let mut scanner = HeadScanner::request(HeadLimits::default());
        for end in 0..HEAD.len() {
            assert_eq!(scanner.scan(&HEAD[..end]), Ok(None));
            assert_eq!(scanner.searched, end);
        }
    }

    #[test]
    fn the_limit_on_bytes_is_exact() {
        for (bytes, found) in [(HEAD.len() - 1, false), (HEAD.len(), true)] {
            let limits = HeadLimits {
                bytes,
                ..HeadLimits::default()
            };
            let result = HeadScanner::request(limits).scan(HEAD);
            if found {
                assert_eq!(result, Ok(Some(HEAD.len())));
            } else {
                assert_eq!(result, Err(HandshakeError::HeadTooLarge { limit: bytes }));
            }
        }
    }

    #[test]
    fn the_limit_on_headers_is_exact() {
        for (headers, found) in [(1, false), (2, true)] {
            let limits = HeadLimits {
                headers,
                ..HeadLimits::default()
            };
            let result = HeadScanner::request(limits).scan(HEAD);
            if found {
                assert_eq!(result, Ok(Some(HEAD.len())));
            } else {
                assert_eq!(
                    result,
                    Err(HandshakeError::TooManyHeaders { limit: headers })
                );
            }
        }
    }

    #[test]
    fn an_endless_head_is_refused_at_the_limit() {
        let mut scanner = HeadScanner::request(HeadLimits::default());
        let mut bytes: Vec<u8> = vec![b'A'; 16 * 1024 - 1];
        assert_eq!(scanner.scan(&bytes), Ok(None));
        bytes.push(b'A');
        assert_eq!(
            scanner.scan(&bytes),
            Err(HandshakeError::HeadTooLarge { limit: 16 * 1024 })
        );
    }

    #[test]
    fn lines_end_in_cr_lf() {
        for bytes in [
            &b"GET / HTTP/1.1\nHost: a\n\n"[..],
            b"GET / HTTP/1.1\r\nHost: a\n\r\n",
            b"GET / HTTP/1.1\r\n\n",
        ] {
            assert_eq!(
                scan_all(bytes),
                Err(HandshakeError::Malformed("a line ends without CR LF"))
            );
        }
        assert_eq!(scan_all(b"\r\nGET / HTTP/1.1\r\n\r\n"), Ok(Some(20)));
    }

    #[test]
    fn what_is_not_http_is_refused_at_its_first_bytes() {
        assert_eq!(scan_all(b"\x16\x03\x01"), Err(HandshakeError::Tls));
        let not_http = HandshakeError::Malformed("it is not HTTP");
        assert_eq!(scan_all(b"\x00"), Err(not_http.clone()));
        let mut scanner = HeadScanner::response(HeadLimits::default());
        assert_eq!(scanner.scan(b""), Ok(None));
        assert_eq!(scanner.scan(b"\x15\x03"), Err(HandshakeError::Tls));
        assert_eq!(scanner.scan(b"SSH-2.0"), Err(not_http.clone()));
        let mut scanner = HeadScanner::response(HeadLimits::default());
        assert_eq!(scanner.scan(b"HT"), Ok(None));
        assert_eq!(scanner.scan(b"HTML"), Err(not_http));
    }

    proptest::proptest! {
        #[test]
        fn the_same_end_is_found_however_the_bytes_are_cut(
            pieces in proptest::collection::vec(
                proptest::sample::select(vec![
                    "GET / HTTP/1.1", "\r\n", "\r\n", "\r\n\r\n", "\n", "\r", "a: b", "\x16", "\0",
                ]),
                0..12,
            ),
            cuts in proptest::collection::vec(0_usize..80, 0..6),
        ) {
            let bytes = pieces.concat().into_bytes();
            let limits = HeadLimits { bytes: 60, headers: 3 };
            let whole = HeadScanner::request(limits).scan(&bytes).ok();

            let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            ends.push(bytes.len());
            ends.sort_unstable();
            let mut scanner = HeadScanner::request(limits);
            let mut cut = Some(None);
            for end in ends {
                cut = scanner.scan(&bytes[..end]).ok();
                if cut != Some(None) {
                    break;
                }
            }
            proptest::prop_assert_eq!(cut, whole);
        }
    }
}
