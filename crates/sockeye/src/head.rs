//! Reads an HTTP head off a stream, in either role (RFC 9112 §2).

use tokio::io::{AsyncRead, AsyncReadExt};

use sockeye_proto::handshake::{HandshakeError, HeadScanner};

use crate::Result;

/// The room offered to a read. Most heads fit; the limit on heads bounds what it grows to.
const READ: usize = 2048;

/// Reads until the head is whole and tells how many of the bytes in `buffer` it takes. What
/// follows it in there has been read along with it.
///
/// # Cancel safety
/// What was read is in `buffer`; the next call goes on from there.
///
/// # Errors
/// What the scanner says; [`HandshakeError::UnexpectedEnd`]; a lost connection.
pub(crate) async fn read_head<S: AsyncRead + Unpin>(
    stream: &mut S,
    scanner: &mut HeadScanner,
    buffer: &mut Vec<u8>,
) -> Result<usize> {
    loop {
        if let Some(end) = scanner.scan(buffer)? {
            return Ok(end);
        }
        if !read_more(stream, buffer).await? {
            return Err(HandshakeError::UnexpectedEnd.into());
        }
    }
}

/// Reads once and tells whether anything came, or the stream has ended.
pub(crate) async fn read_more<S: AsyncRead + Unpin>(
    stream: &mut S,
    buffer: &mut Vec<u8>,
) -> Result<bool> {
    if buffer.capacity() - buffer.len() < READ / 4 {
        buffer.reserve(READ);
    }
    Ok(stream.read_buf(buffer).await? > 0)
}
