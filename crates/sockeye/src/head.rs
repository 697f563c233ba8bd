//! Reads an HTTP head off a stream, in either role (RFC 9112 §2).

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

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
    let read = poll_fn(|cx| {
        // Not within the future: whoever has yet to send their head holds no memory for it.
        let mut room = [const { MaybeUninit::uninit() }; READ];
        let mut room = ReadBuf::uninit(&mut room);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut room))?;
        buffer.extend_from_slice(room.filled());
        Poll::Ready(io::Result::Ok(room.filled().len()))
    });
    Ok(read.await? > 0)
}
