//! A message read as it arrives (RFC 6455 §5.4).

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use sockeye_proto::{MessageKind, OwnedEvent, Part};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{Error, Receiver, Result};

/// A message that is read as it arrives, of any size: nothing of it is kept.
///
/// ```no_run
/// # async fn example(mut socket: sockeye::WebSocket) -> sockeye::Result<()> {
/// while let Some(mut message) = socket.recv_stream().await? {
///     let mut file = tokio::fs::File::create("received").await?;
///     tokio::io::copy(&mut message, &mut file).await?;
/// }
/// # Ok(())
/// # }
/// ```
///
/// Bytes come as soon as they are there, frame by frame and within a frame. A compressed message is
/// inflated as far as there is room to read into, so what it inflates to costs nothing until it is
/// read. Meanwhile the connection holds one buffer of 128 KiB, an inflater where the message is
/// compressed, and not what a peer announces. Pings are answered while this is read.
///
/// # Limits
/// [`Limits::message`](crate::Limits::message), `frame` and `retained` say what may be held, and do
/// not apply. Bound the length with
/// [`take`](tokio::io::AsyncReadExt::take), the time with [`tokio::time::timeout`]. No more than
/// [`Limits::fragments`](crate::Limits::fragments) frames in a row may bring nothing.
///
/// # The end
/// A read of no bytes is the end of the message, and of a message that is whole. A connection that
/// ends within it is an error: [`Error::Incomplete`] where the peer closed it, else as from
/// [`recv`](crate::WebSocket::recv). Each error of the crate is an [`io::Error`] here, and `?` makes
/// it what it was.
///
/// Text is checked as it comes: a byte that no text can have ends the connection with 1007. A read
/// may end within a character.
///
/// Dropped before its end, the rest of the message is discarded by whatever is received next, as it
/// comes and without holding it.
///
/// # Cancel safety
/// Reading is as safe as the method it is read with; what was not read comes with the next read.
pub struct MessageReader<'a> {
    receiver: &'a mut Receiver,
    kind: MessageKind,
    ended: bool,
}

impl<'a> MessageReader<'a> {
    /// The next message of a connection.
    pub(crate) async fn next(receiver: &'a mut Receiver) -> Result<Option<Self>> {
        let kind = poll_fn(|cx| poll_begin(cx, receiver)).await?;
        Ok(kind.map(|kind| Self {
            receiver,
            kind,
            ended: false,
        }))
    }

    /// Whether it is text or binary.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// Whether it is text.
    pub fn is_text(&self) -> bool {
        self.kind == MessageKind::Text
    }
}

/// Discards what is left of the message before, and waits for the next to begin.
fn poll_begin(cx: &mut Context<'_>, receiver: &mut Receiver) -> Poll<Result<Option<MessageKind>>> {
    loop {
        let part = receiver.poll_but_pings(cx, |reader, cx| {
            reader.skip_message();
            reader.poll_part(cx, &mut [])
        });
        match ready!(part)? {
            Some(Part::Begin(kind)) => return Poll::Ready(Ok(Some(kind))),
            Some(_) => {}
            None => return Poll::Ready(Ok(None)),
        }
    }
}

impl AsyncRead for MessageReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.ended && buffer.remaining() > 0 {
            let room = buffer.initialize_unfilled();
            let part = self.receiver.poll_part(cx, room);
            match ready!(part)? {
                // Nothing has come of much: the others of the thread have had their turn.
                Some(Part::Data(0)) => {}
                Some(Part::Data(count)) => {
                    buffer.advance(count);
                    break;
                }
                Some(Part::End) => self.ended = true,
                Some(Part::Begin(_) | Part::Event(_)) => {}
                None => return Poll::Ready(Err(Error::Incomplete.into())),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for MessageReader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageReader")
            .field("kind", &self.kind)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// What comes off a connection, and may be an event that the peer is owed an answer to.
pub(crate) trait Incoming {
    /// What such an event is.
    fn of(event: OwnedEvent) -> Self;

    fn event(&self) -> Option<&OwnedEvent>;

    /// Whether it is a message, or a part of one.
    fn is_message(&self) -> bool;
}

impl Incoming for OwnedEvent {
    fn of(event: OwnedEvent) -> Self {
        event
    }

    #[inline]
    fn event(&self) -> Option<&OwnedEvent> {
        Some(self)
    }

    #[inline]
    fn is_message(&self) -> bool {
        matches!(self, Self::Message(_))
    }
}

impl Incoming for Part {
    fn of(event: OwnedEvent) -> Self {
        Self::Event(event)
    }

    fn event(&self) -> Option<&OwnedEvent> {
        match self {
            Self::Event(event) => Some(event),
            Self::Begin(_) | Self::Data(_) | Self::End => None,
        }
    }

    fn is_message(&self) -> bool {
        match self {
            Self::Event(event) => event.is_message(),
            Self::Begin(_) | Self::Data(_) | Self::End => true,
        }
    }
}
