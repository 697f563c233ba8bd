//! The receiving side of a connection: reads, and takes events off what was read.

use std::{
    io,
    ops::ControlFlow,
    task::{Context, Poll, ready},
};

use sockeye_proto::{Event, Message, OwnedEvent, ProtocolError, Receiver, deflate::Inflater};

use crate::{buffers, transport::ReadHalf};

/// From this much still to come, a payload is read straight into the message's own buffer.
const DIRECT: usize = buffers::READ;

/// The receiving side. All its state is here and none in a future, so that every read can be
/// dropped at any time.
#[derive(Debug)]
pub(crate) struct Reader {
    io: ReadHalf,
    receiver: Receiver,
    /// Whether messages may come compressed.
    deflate: bool,
    /// Bytes read and not taken are `buffer[start..end]`. Without any, `buffer` is empty: it is the
    /// thread's.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

/// What came of a read.
#[derive(Debug)]
pub(crate) enum Read {
    /// Something: take the events off it. `full` where the buffer was filled, so that there may be
    /// more.
    Some { full: bool },
    /// The peer has ended its side.
    End,
}

/// Why no more events come.
#[derive(Debug)]
pub(crate) enum Broken {
    Protocol(ProtocolError),
    Io(io::Error),
    End,
}

impl Reader {
    /// A reader that begins with `early`, the bytes that came with the handshake.
    pub(crate) fn new(io: ReadHalf, receiver: Receiver, deflate: bool, early: Vec<u8>) -> Self {
        let end = early.len();
        Self {
            io,
            receiver,
            deflate,
            buffer: early,
            start: 0,
            end,
        }
    }

    /// The next event, reading as needed.
    #[inline]
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<OwnedEvent, Broken>> {
        loop {
            if self.start < self.end
                && let Some(event) = self.take().map_err(Broken::Protocol)?
            {
                return Poll::Ready(Ok(event));
            }
            match ready!(self.poll_read(cx)) {
                Ok(Read::Some { .. }) => {}
                Ok(Read::End) => return Poll::Ready(Err(Broken::End)),
                Err(broken) => return Poll::Ready(Err(broken)),
            }
            // A payload read into the message's own buffer may have completed the message.
            if let Some(event) = self.take().map_err(Broken::Protocol)? {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// Takes the next event off what was read.
    #[inline]
    fn take(&mut self) -> Result<Option<OwnedEvent>, ProtocolError> {
        let mut input = &mut self.buffer[self.start..self.end];
        let event = if self.deflate {
            buffers::with_inflater(|inflater| self.receiver.receive_owned(&mut input, inflater))
        } else {
            self.receiver
                .receive_owned(&mut input, &mut Inflater::new())
        };
        self.start = self.end - input.len();
        if self.start == self.end {
            self.release();
        }
        event
    }

    /// Takes all events off what was read, lending each to `work` until it breaks. A message that
    /// has a buffer of its own comes owned as well, so that it can be sent on without a copy.
    #[inline]
    pub(crate) fn take_all(
        &mut self,
        mut work: impl FnMut(Event<'_>, Option<&Message>) -> ControlFlow<()>,
    ) -> Result<(), ProtocolError> {
        if self.deflate {
            buffers::with_inflater(|inflater| self.take_all_with(inflater, &mut work))
        } else {
            self.take_all_with(&mut Inflater::new(), &mut work)
        }
    }

    fn take_all_with(
        &mut self,
        inflater: &mut Inflater,
        work: &mut impl FnMut(Event<'_>, Option<&Message>) -> ControlFlow<()>,
    ) -> Result<(), ProtocolError> {
        let mut input = &mut self.buffer[self.start..self.end];
        let result = loop {
            let flow = if self.receiver.is_gathering() {
                let event = self.receiver.receive_owned(&mut input, inflater);
                event.map(|event| {
                    let event = event?;
                    let message = match &event {
                        OwnedEvent::Message(message) => Some(message),
                        _ => None,
                    };
                    Some(work(event.as_event(), message))
                })
            } else {
                let event = self.receiver.receive(&mut input, inflater);
                event.map(|event| Some(work(event?, None)))
            };
            match flow {
                Ok(Some(ControlFlow::Continue(()))) => {}
                Ok(Some(ControlFlow::Break(())) | None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.start = self.end - input.len();
        if self.start == self.end {
            self.release();
        }
        result
    }

    /// Whether bytes were read that no event has been taken off yet.
    #[inline]
    pub(crate) fn has_input(&self) -> bool {
        self.start < self.end
    }

    /// Reads once. Call it only where everything read before has been taken.
    #[inline]
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, Broken>> {
        if let Some((payload, limit)) = self.receiver.payload_buffer(DIRECT) {
            let count = ready!(self.io.poll_append(cx, payload, limit)).map_err(Broken::Io)?;
            self.receiver.received(count).map_err(Broken::Protocol)?;
            return Poll::Ready(Ok(if count == 0 {
                Read::End
            } else {
                Read::Some {
                    full: count == limit,
                }
            }));
        }
        let mut buffer = buffers::take_read();
        match self.io.poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(count)) if count > 0 => {
                (self.start, self.end) = (0, count);
                let full = count == buffer.len();
                self.buffer = buffer;
                Poll::Ready(Ok(Read::Some { full }))
            }
            other => {
                buffers::put_read(buffer);
                Poll::Ready(match ready!(other) {
                    Ok(_) => Ok(Read::End),
                    Err(error) => Err(Broken::Io(error)),
                })
            }
        }
    }

    /// Reads and discards until the peer has ended its side, or the transport failed.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.start = self.end;
        self.release();
        let mut buffer = buffers::take_read();
        let result = loop {
            match self.io.poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(count)) if count > 0 => {}
                Poll::Ready(_) => break Poll::Ready(()),
                Poll::Pending => break Poll::Pending,
            }
        };
        buffers::put_read(buffer);
        result
    }

    /// Gives the read buffer back to the thread.
    #[inline]
    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        buffers::put_read(std::mem::take(&mut self.buffer));
    }
}
