//! Reads an HTTP head off a stream, in either role (RFC 9112 §2).

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};
#[cfg(feature = "client")]
use tokio::time::{Instant, timeout_at};

use sockeye_proto::handshake::{HandshakeError, HeadScanner};
#[cfg(feature = "client")]
use sockeye_proto::handshake::{HeadLimits, Response};

use crate::{Error, Result};

/// The room offered to a read. Most heads fit; the limit on heads bounds what it grows to.
const READ: usize = 2048;

/// How many interim responses are passed over: more than any server has a use for.
#[cfg(feature = "client")]
const MAX_INTERIM: usize = 8;

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

/// Reads the head of a response, and leaves in `buffer` what follows it. Responses that only say that another is
/// to come (RFC 9110 §15.2) are passed over.
///
/// # Errors
/// As [`read_head`], and those of [`Response::parse`]; what is wrong begins `buffer` then.
#[cfg(feature = "client")]
pub(crate) async fn read_response<S: AsyncRead + Unpin>(
    stream: &mut S,
    limits: HeadLimits,
    buffer: &mut Vec<u8>,
) -> Result<Response> {
    let mut interim = 0;
    loop {
        let mut scanner = HeadScanner::response(limits);
        let end = read_head(stream, &mut scanner, buffer).await?;
        let response = Response::parse(&buffer[..end])?;
        *buffer = buffer.split_off(end);
        interim += 1;
        if !response.is_interim() || interim > MAX_INTERIM {
            return Ok(response);
        }
    }
}

/// Reads what whoever declines has to say about it, behind the head of a response. What has come by the deadline is kept,
/// however it ends.
#[cfg(feature = "client")]
pub(crate) async fn read_body<S: AsyncRead + Unpin>(
    stream: &mut S,
    response: &mut Response,
    mut buffer: Vec<u8>,
    deadline: Instant,
) {
    let reading = timeout_at(deadline, async {
        while response.set_body(&buffer) && read_more(stream, &mut buffer).await? {}
        Ok::<_, Error>(())
    });
    let _ = reading.await;
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
    match read.await {
        Ok(read) => Ok(read > 0),
        // So rustls tells where the peer ends TLS without a word.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(Error::lost(error)),
    }
}
