//! A head that begins with the first byte of a TLS record is refused in the same words, whether or
//! not the second byte has arrived with it.

use sockeye_proto::handshake::{HandshakeError, HeadLimits, HeadScanner};

#[test]
fn the_first_byte_of_a_tls_record_decides_however_the_bytes_are_cut() {
    for bytes in [&b"\x16"[..], b"\x16\x03", b"\x16\xFF", b"\x15\xFF"] {
        for scanner in [HeadScanner::request, HeadScanner::response] {
            let refused = scanner(HeadLimits::default()).scan(bytes);
            assert_eq!(refused, Err(HandshakeError::Tls), "{bytes:?}");
        }
    }
}
