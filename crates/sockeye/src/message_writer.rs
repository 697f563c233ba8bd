//! A message written before its length is known (RFC 6455 §5.4).

use std::{
    borrow::Cow,
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use sockeye_proto::{CloseCode, CloseFrame, MessageKind, SendError, Utf8};
use tokio::io::AsyncWrite;

use crate::{
    Error, Result,
    link::Command,
    shared::{Access, Shared},
};

/// A message that is written before its length is known: it is never whole in memory.
///
/// ```no_run
/// # use sockeye::MessageKind;
/// # async fn example(mut socket: sockeye::WebSocket) -> sockeye::Result<()> {
/// let mut file = tokio::fs::File::open("large").await?;
/// let mut message = socket.send_stream(MessageKind::Binary).await?;
/// tokio::io::copy(&mut file, &mut message).await?;
/// message.finish().await?;
/// # Ok(())
/// # }
/// ```
///
/// Each write is a fragment, of at most 64 KiB; where compression was agreed, they are compressed
/// together and go out as blocks fill. [`flush`](tokio::io::AsyncWriteExt::flush) lets the peer have
/// all that was written. Writing waits while more output waits than the high-water mark.
///
/// # Other messages
/// The fragments of two messages may not be mixed (§5.4). While this is there, whoever sends a
/// message on the connection (a clone of the [`Sender`](crate::Sender)) waits for it to be finished
/// or dropped; so do not `send` on another handle before you have finished this one in the same
/// task. Messages sent where nothing can wait, in callbacks, are queued behind it and count against
/// the output limit. Pings, pongs and a Close go between the fragments.
///
/// # The end
/// [`finish`](Self::finish), or `shutdown`, ends the message. Dropped without it, the peer cannot be
/// told that the message was cut off except by the end of the connection: it is closed with 1011.
/// A message that nothing was written to just was not sent.
///
/// Text has to be UTF-8, and may be cut anywhere: a write that cannot belong to any text is refused
/// with [`SendError::InvalidUtf8`] and nothing of it is taken.
///
/// # Errors
/// Each error of the crate is an [`io::Error`] here, and `?` makes it what it was.
///
/// # Cancel safety
/// Each write that was taken is queued. What a dropped `write_all` has taken is not known; use
/// `write` where that matters.
pub struct MessageWriter<'a> {
    shared: &'a Arc<Shared>,
    kind: MessageKind,
    utf8: Utf8,
    /// Whether any of it has been queued.
    begun: bool,
    /// Whether a compressor may keep what was written last.
    unflushed: bool,
    finished: bool,
}

/// The most that one write takes, in bytes. Larger fragments would only make pings wait longer.
const MOST: usize = 64 * 1024;

impl<'a> MessageWriter<'a> {
    /// Waits for its turn. Nothing is sent yet.
    pub(crate) async fn begin(shared: &'a Arc<Shared>, kind: MessageKind) -> Result<Self> {
        let begun = poll_fn(|cx| shared.poll_turn(cx)).await;
        begun.map_err(|error| shared.noted(error))?;
        Ok(Self {
            shared,
            kind,
            utf8: Utf8::default(),
            begun: false,
            unflushed: false,
            finished: false,
        })
    }

    /// Whether it is text or binary.
    pub fn kind(&self) -> MessageKind {
        self.kind
    }

    /// Ends the message: it is queued whole. In a server's handler, or under
    /// [`drive`](crate::WebSocket::drive), it is written when the task next yields; else this writes
    /// it and returns when that is done.
    ///
    /// # Errors
    /// [`Error::is_closed`] once a Close was sent or received; [`Error::is_lost`] where the
    /// transport has failed; [`SendError::InvalidUtf8`] for text that ends within a character, and
    /// the connection is then closed, as where this is dropped.
    ///
    /// # Cancel safety
    /// The end is queued at the first poll; that of an empty message as soon as there is room, and dropped
    /// before, it was not sent. Never polled, the message is dropped unfinished.
    pub async fn finish(mut self) -> Result<()> {
        poll_fn(|cx| self.poll_finish(cx)).await
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.finished {
            self.utf8.finish().map_err(|_| SendError::InvalidUtf8)?;
            if !self.begun {
                // One that is empty waits for room too: nobody may queue them for ever.
                let mut begin = Some(Command::Begin(self.kind));
                ready!(self.shared.poll_apply(cx, &mut begin))?;
                self.begun = true;
            }
            self.shared.apply(Command::Finish)?;
            self.finished = true;
            self.shared.end_turn();
        }
        self.shared.poll_flush(cx, false).map_err(Error::Lost)
    }

    fn poll_part(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(SendError::NotBegun.into()));
        }
        let part = &bytes[..bytes.len().min(MOST)];
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let mut utf8 = self.utf8;
        if self.kind == MessageKind::Text {
            utf8.push(part).map_err(|_| SendError::InvalidUtf8)?;
        }
        let begins = (!self.begun).then_some(self.kind);
        let queued = ready!(self.shared.poll_part(cx, begins, part, &mut self.begun));
        queued?;
        (self.utf8, self.unflushed) = (utf8, true);
        Poll::Ready(Ok(part.len()))
    }
}

impl AsyncWrite for MessageWriter<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_part(cx, bytes).map_err(io::Error::from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed && !self.finished && self.shared.info.deflate.is_some() {
            self.shared.apply(Command::FlushParts)?;
        }
        self.unflushed = false;
        let flushed = self.shared.poll_flush(cx, false);
        flushed.map_err(|lost| Error::Lost(lost).into())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_finish(cx).map_err(io::Error::from)
    }
}

impl Drop for MessageWriter<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if self.begun {
            let close = CloseFrame::new(CloseCode::INTERNAL_ERROR, "a message was not finished");
            // Refused only where the connection is closing: then it cannot look complete either.
            let _ = self.shared.close_without_waiting(close);
        }
        self.shared.end_turn();
    }
}

impl fmt::Debug for MessageWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageWriter")
            .field("kind", &self.kind)
            .field("begun", &self.begun)
            .field("finished", &self.finished)
            .finish_non_exhaustive()
    }
}

/// Whose turn it is to send a message, where one is sent in parts.
impl Shared {
    /// Waits until no message is being sent in parts, and has the turn then.
    fn poll_turn(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if self.is_over() {
            return Poll::Ready(Err(SendError::Closed.into()));
        }
        // There from now on, so that what is held behind the message can be counted.
        let waiting = self.waiting();
        if !self.writing.swap(true, Ordering::AcqRel) {
            return Poll::Ready(Ok(()));
        }
        waiting.turn.add(cx.waker());
        // Again, so that no wake-up falls between. A swap, so that whoever ends the turn after it
        // sees who waits.
        if self.is_over() {
            return Poll::Ready(Err(SendError::Closed.into()));
        }
        if !self.writing.swap(true, Ordering::AcqRel) {
            return Poll::Ready(Ok(()));
        }
        Poll::Pending
    }

    /// Whether nothing is sent any more.
    fn is_over(&self) -> bool {
        !self.is_open() || self.ended().is_some()
    }

    fn end_turn(&self) {
        self.writing.swap(false, Ordering::AcqRel);
        self.waiting().turn.wake();
    }

    /// Waits until no message is being sent in parts, so that a whole one can be.
    ///
    /// That is a courtesy: should one begin just then, the whole one is held until it has ended.
    pub(crate) fn poll_others_turn(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // First, so that no wake-up falls between.
        self.waiting().turn.add(cx.waker());
        if self.is_over() {
            return Poll::Ready(Ok(()));
        }
        if self.writing.fetch_or(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    /// Waits until less output waits than the high-water mark, then queues a part of a message, with
    /// its beginning where it is the first. Where nobody drives the connection, as much is written
    /// as the transport takes at once.
    fn poll_part(
        &self,
        cx: &mut Context<'_>,
        begins: Option<MessageKind>,
        part: &[u8],
        begun: &mut bool,
    ) -> Poll<Result<()>> {
        let high_water = self.info.settings.output.high_water;
        let mut commands = |queue: &mut dyn FnMut(Command<'_>) -> Result<()>| {
            if let Some(kind) = begins {
                queue(Command::Begin(kind))?;
                *begun = true;
            }
            queue(Command::Part(Cow::Borrowed(part)))
        };
        self.access(|access| match access {
            Access::Driven(link) => {
                if !self.has_room(cx, link) {
                    return Poll::Pending;
                }
                Poll::Ready(commands(&mut |command| link.apply(command)))
            }
            Access::Free(link, state) => {
                if link.sender.buffered() >= high_water && link.sender.is_open() {
                    ready!(self.poll_flush_sent(cx, link, state)).map_err(Error::Lost)?;
                }
                commands(&mut |command| link.apply(command))?;
                // An error is found again by the next write or flush.
                let _ = self.poll_flush_sent(cx, link, state);
                Poll::Ready(Ok(()))
            }
            Access::Remote(state) => {
                if self.buffered_remote(state) >= high_water && state.is_open() {
                    self.wait_remote(state, &self.waiting().room, cx);
                    return Poll::Pending;
                }
                Poll::Ready(commands(&mut |command| self.post(state, command)))
            }
        })
    }
}
