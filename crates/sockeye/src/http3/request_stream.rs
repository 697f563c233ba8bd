//! A request's stream: a head in each direction (RFC 9114 §4.1); then, where it is a WebSocket's, what its DATA frames have, as
//! bytes (§4.4, RFC 9220 §3).

use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use quinn::{RecvStream, SendStream, StoppedError, VarInt, WriteError};
use sockeye_proto::handshake::{HandshakeError, HeadLimits};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    task::coop::consume_budget,
    time::timeout,
};

use super::{
    Code, Fault, Session,
    fields::{Encoded, Section, Wrong, decode},
    frames::{Frame, Frames, Trouble, put_frame, put_frame_head},
};
use crate::{Error, Result};

/// The most that is written at once, in bytes: it is copied.
const PIECE: usize = 64 * 1024;

/// What stands before such a piece, in bytes.
const FRAME_HEAD: usize = 5;

/// How many frames one call looks at.
const TURNS: usize = 1000;

/// How long what was sent may take to arrive once nothing uses a stream any more.
const GOODBYE: Duration = Duration::from_secs(5);

/// The stream. What would end TCP ends a WebSocket on it: a FIN orderly, and a reset at once (RFC 9220 §3).
pub(crate) struct RequestStream<G: Unpin> {
    session: Arc<Session>,
    /// Nothing once this is dropped.
    send: Option<SendStream>,
    frames: Frames,
    /// What is taken of the user and not by QUIC.
    owed: Bytes,
    /// Has whatever counts a WebSocket do so for as long as this is there, once it is one's.
    counted: Option<G>,
    /// Whether this end has said all.
    has_ended: bool,
    /// Tells that the peer takes no more, once it is a WebSocket's.
    stopping: Option<Stopping>,
    /// With what it has said so.
    stopped: Option<VarInt>,
}

type Stopping = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

impl<G: Unpin> RequestStream<G> {
    pub(crate) fn new(session: Arc<Session>, send: SendStream, receive: RecvStream) -> Self {
        Self {
            session,
            send: Some(send),
            frames: Frames::new(receive),
            owed: Bytes::new(),
            counted: None,
            has_ended: false,
            stopping: None,
            stopped: None,
        }
    }

    /// Reads what is asked or answered.
    ///
    /// # Errors
    /// [`Error::Lost`] where the stream or the connection has ended, [`Error::Handshake`] for what may not be so.
    ///
    /// # Cancel safety
    /// Dropping the future loses what has come.
    pub(crate) async fn read_head(&mut self, limits: HeadLimits) -> Result<Section> {
        match self.frames.frame().await {
            Ok(Some(Frame::Headers)) => {}
            Ok(Some(_)) => {
                let why = "a frame that is not HEADERS before a head";
                return Err(self.lost(Fault::new(Code::FrameUnexpected, why).into()));
            }
            Ok(None) => return Err(HandshakeError::UnexpectedEnd.into()),
            Err(trouble) => return Err(self.lost(trouble)),
        }
        let too_large = HandshakeError::HeadTooLarge {
            limit: limits.bytes,
        };
        if self.frames.left() > limits.bytes as u64 {
            return Err(too_large.into());
        }
        let payload = match self.frames.payload().await {
            Ok(payload) => payload,
            Err(trouble) => return Err(self.lost(trouble)),
        };
        decode(&payload, limits).map_err(|wrong| match wrong {
            Wrong::Unreadable(fault) => self.lost(fault.into()),
            Wrong::Malformed(why) => HandshakeError::Malformed(why).into(),
            Wrong::TooLarge => too_large.into(),
            Wrong::TooMany => HandshakeError::TooManyHeaders {
                limit: limits.headers,
            }
            .into(),
        })
    }

    /// Some of a body, or nothing at its end.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn read_body(&mut self) -> Result<Bytes> {
        loop {
            let read = match self.frames.is_at_end_of_frame() {
                false => {
                    let data = poll_fn(|cx| self.frames.poll_payload(cx, usize::MAX));
                    data.await.map(Some)
                }
                true => match self.frames.frame().await {
                    Ok(Some(Frame::Data)) => Ok(None),
                    // Trailers say no more of it.
                    Ok(_) => Ok(Some(Bytes::new())),
                    Err(trouble) => Err(trouble),
                },
            };
            match read {
                Ok(Some(data)) => return Ok(data),
                Ok(None) => {}
                Err(trouble) => return Err(self.lost(trouble)),
            }
        }
    }

    fn lost(&self, trouble: Trouble) -> Error {
        Error::lost(self.session.trouble(trouble))
    }

    /// Asks or answers.
    ///
    /// # Errors
    /// [`Error::Lost`].
    ///
    /// # Cancel safety
    /// Dropping the future may leave a part of it written: the stream is to be given up then.
    pub(crate) async fn write_head(&mut self, head: &Encoded) -> Result<()> {
        let mut frame = Vec::new();
        put_frame(&mut frame, Frame::Headers, &head.bytes);
        self.write(frame).await
    }

    /// Writes a body, and ends this end's side.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub(crate) async fn write_last(&mut self, body: &[u8]) -> Result<()> {
        if !body.is_empty() {
            let mut frame = Vec::new();
            put_frame(&mut frame, Frame::Data, body);
            self.write(frame).await?;
        }
        self.end();
        Ok(())
    }

    async fn write(&mut self, frame: Vec<u8>) -> Result<()> {
        self.owed = frame.into();
        let written = poll_fn(|cx| self.poll_owed(cx)).await;
        written.map_err(Error::lost)
    }

    /// Waits until the peer wants no more of this end, or its connection has ended.
    pub(crate) async fn is_given_up(&self) {
        if let Some(send) = &self.send {
            let _ = send.stopped().await;
        }
    }

    /// Has the peer send no more of it.
    pub(crate) fn hear_no_more(&mut self) {
        self.frames.stop(Code::NoError);
    }

    /// Gives it up, in both directions.
    pub(crate) fn reset(&mut self, code: Code) {
        if let Some(mut send) = self.send.take() {
            let _ = send.reset(code.into());
        }
        self.frames.stop(code);
    }

    /// Has it be a WebSocket's.
    pub(crate) fn open(&mut self, counted: G) {
        self.counted = Some(counted);
        if let Some(send) = &self.send {
            self.stopping = Some(Box::pin(send.stopped()));
        }
    }

    /// Resets what the peer takes no more of, as it is to (RFC 9000 §3.5): quinn tells that to who writes.
    fn look_whether_stopped(&mut self, cx: &mut Context<'_>) {
        if let Some(stopping) = &mut self.stopping
            && let Poll::Ready(how) = stopping.as_mut().poll(cx)
        {
            self.stopping = None;
            if let (Ok(Some(code)), Some(send)) = (how, &mut self.send) {
                let _ = send.reset(code);
                self.stopped = Some(code);
            }
        }
    }

    fn end(&mut self) {
        if let Some(send) = &mut self.send {
            // Refused only where the stream has ended.
            let _ = send.finish();
        }
        self.has_ended = true;
    }

    fn sending(&mut self) -> io::Result<&mut SendStream> {
        if let Some(code) = self.stopped {
            return Err(self.session.write_error(WriteError::Stopped(code)));
        }
        let has_ended = self.has_ended;
        let gone = || io::ErrorKind::BrokenPipe.into();
        self.send.as_mut().filter(|_| !has_ended).ok_or_else(gone)
    }

    /// Hands over what is owed.
    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.owed.is_empty() {
            let mut owed = [mem::take(&mut self.owed)];
            let written = {
                let write = pin!(self.sending()?.write_chunks(&mut owed));
                write.poll(cx)
            };
            // Without what was written.
            [self.owed] = owed;
            match written {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(self.session.write_error(error)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Owes a frame of so many bytes, as soon as nothing else is owed.
    fn poll_put<'a>(
        &mut self,
        cx: &mut Context<'_>,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_owed(cx))?;
        self.sending()?;
        let len = pieces.clone().map(<[u8]>::len).sum::<usize>().min(PIECE);
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        let mut frame = Vec::with_capacity(len + FRAME_HEAD);
        put_frame_head(&mut frame, Frame::Data, len);
        let end = frame.len() + len;
        for piece in pieces {
            let left = end - frame.len();
            frame.extend_from_slice(&piece[..piece.len().min(left)]);
        }
        self.owed = frame.into();
        // What it has no room for goes first when there is some; an error is told by the next call.
        let _ = self.poll_owed(cx);
        Poll::Ready(Ok(len))
    }
}

impl<G: Unpin> AsyncRead for RequestStream<G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.look_whether_stopped(cx);
        let mut turns = 0;
        let read = loop {
            // Frames may be empty, and others have their turn.
            turns += 1;
            if turns > TURNS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if this.frames.is_at_end_of_frame() {
                match ready!(this.frames.poll_frame(cx)) {
                    Ok(Some(Frame::Data)) => {}
                    Ok(Some(_)) => break Err(UNEXPECTED.into()),
                    Ok(None) => return Poll::Ready(Ok(())),
                    Err(trouble) => break Err(trouble),
                }
            }
            match ready!(this.frames.poll_payload(cx, buffer.remaining())) {
                Ok(data) if data.is_empty() && this.frames.is_at_end_of_frame() => {}
                read => break read,
            }
        };
        Poll::Ready(match read {
            Ok(data) => {
                buffer.put_slice(&data);
                Ok(())
            }
            Err(trouble) => Err(this.session.trouble(trouble)),
        })
    }
}

/// RFC 9114 §4.4.
const UNEXPECTED: Fault = Fault::new(
    Code::FrameUnexpected,
    "a frame that is not DATA on a stream that is a WebSocket's",
);

impl<G: Unpin> AsyncWrite for RequestStream<G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(cx, [bytes].into_iter())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_put(cx, slices.iter().map(|slice| &**slice))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_owed(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.has_ended {
            ready!(self.poll_owed(cx))?;
            self.end();
        }
        Poll::Ready(Ok(()))
    }
}

/// What was sent goes out still, as with TCP: it would be lost with the connection, which ends with the last of its streams. And
/// what the peer still says is heard out, or it would think that the stream is broken before it has read that. One that never
/// was a WebSocket's is given up (RFC 9114 §4.1.1).
impl<G: Unpin> Drop for RequestStream<G> {
    fn drop(&mut self) {
        let is_asking = self.counted.is_none() && !self.has_ended;
        let Some((mut send, mut receive)) = self.send.take().zip(self.frames.take_out()) else {
            return;
        };
        let runtime = Handle::try_current().ok().filter(|_| !is_asking);
        let Some(runtime) = runtime else {
            // The end of a stream within a frame would end the connection.
            if is_asking || !self.owed.is_empty() {
                let _ = send.reset(Code::RequestCancelled.into());
            }
            let _ = receive.stop(Code::RequestCancelled.into());
            return;
        };
        let (session, owed) = (self.session.clone(), mem::take(&mut self.owed));
        runtime.spawn(async move {
            let gone = timeout(GOODBYE, async {
                let mut written = pin!(async {
                    if owed.is_empty() || send.write_chunk(owed).await.is_ok() {
                        let _ = send.finish();
                        let _ = send.stopped().await;
                    }
                });
                let mut heard = pin!(async {
                    while let Ok(Some(_)) = receive.read_chunk(usize::MAX, true).await {
                        consume_budget().await;
                    }
                });
                let (mut is_written, mut is_heard) = (false, false);
                poll_fn(|cx| {
                    is_written = is_written || written.as_mut().poll(cx).is_ready();
                    is_heard = is_heard || heard.as_mut().poll(cx).is_ready();
                    match is_written && is_heard {
                        true => Poll::Ready(()),
                        false => Poll::Pending,
                    }
                })
                .await;
            });
            if gone.await.is_err() {
                let _ = send.reset(Code::RequestCancelled.into());
                let _ = receive.stop(Code::RequestCancelled.into());
            }
            session.has_room();
        });
    }
}
