//! Sending: a command is queued where the link is, and written unless a driver will.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, Waker, ready},
};

use sockeye_proto::{CloseCode, CloseFrame, MessageRef, Outgoing, SendError};

use super::{Access, Shared, State};
use crate::{
    Ended, Error, Result,
    driver::Driver,
    latest::Latest,
    link::{Command, Link, Lost},
    waiting::Wakers,
};

/// A message on its way.
///
/// Written out: an async function keeps room for what it is given beside what it waits with, and there
/// is one of these in the future of nearly everyone who has a connection. That took four times as much.
#[derive(Debug)]
#[must_use = "nothing is sent before it is polled"]
pub(crate) struct Sending<'s, 'a> {
    shared: &'s Shared,
    /// There until it is queued. Not in a command, which would be asked what it is when it is dropped.
    message: Option<Outgoing<'a>>,
}

impl Future for Sending<'_, '_> {
    type Output = Result<()>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { shared, message } = &mut *self;
        if let Some(quick) = message
            && shared.send_quick(quick.as_ref())
        {
            *message = None;
            return Poll::Ready(Ok(()));
        }
        shared.poll_send_message(cx, message)
    }
}

impl Shared {
    /// Queues a short message at once where that needs no waiting and no writing: in the poll of its
    /// driver, with room. Says whether it did; where not, nothing has happened.
    ///
    /// The way of most messages, and so without a future or a command: 12 ns less than
    /// [`send`](Self::send) for 16 bytes.
    #[inline]
    pub(crate) fn send_quick(&self, message: MessageRef<'_>) -> bool {
        if self.posted.load(Ordering::Acquire) || self.writing.load(Ordering::Relaxed) {
            return false;
        }
        let sent = self.with_driven(|link| {
            if link.broken().is_some()
                || link.sender.buffered() >= self.info.settings.output.high_water
            {
                return false;
            }
            link.lend_buffer();
            link.sender.send_quick(message)
        });
        sent.unwrap_or(false)
    }

    /// Queues a command at once, whatever waits.
    pub(crate) fn apply(&self, command: Command<'_>) -> Result<()> {
        let closes = matches!(command, Command::Close(_));
        match &command {
            Command::Close(Some(frame)) => self.note_close(frame)?,
            Command::Close(None) => self.note_close(&CloseFrame::new(CloseCode::NORMAL, ""))?,
            _ => {}
        }
        let applied = self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.apply(command),
            Access::Remote(state) => self.post(state, command),
        });
        if closes && let Some(waiting) = self.waiting.get() {
            // Nobody's turn comes any more, and nobody's room.
            waiting.wake_all();
        }
        applied.map_err(|error| self.noted(error))
    }

    /// Notes the end that an error is, where nobody receives who would, and lets go of the connection.
    ///
    /// A connection that has broken off is closed too, and that it has is what whoever sends is told.
    #[cold]
    pub(crate) fn noted(&self, error: Error) -> Error {
        if matches!(error, Error::Send(SendError::Closed)) {
            let state = self.lock();
            if state.our_close().is_none()
                && let Some(ended @ (Ended::Lost(_) | Ended::Silent)) = state.ended()
                && let Some(lost) = ended.lost()
            {
                return Error::Lost(lost);
            }
        }
        if let Error::Lost(lost) = &error
            && self.has_reader()
        {
            self.end(Ended::Lost(lost.clone()));
            if self.let_go() {
                drop(self.take_reader(None));
            }
        }
        error
    }

    /// Notes the Close that this end is about to send first.
    pub(crate) fn note_close(&self, frame: &CloseFrame) -> Result<(), SendError> {
        frame.check(self.info.client)?;
        let mut state = self.lock();
        if state.has_close() {
            return Err(SendError::Closed);
        }
        state.close(frame.clone());
        Ok(())
    }

    /// Waits until less output waits than the high-water mark, then queues the command.
    #[inline]
    pub(crate) fn poll_apply(
        &self,
        cx: &mut Context<'_>,
        command: &mut Option<Command<'_>>,
    ) -> Poll<Result<()>> {
        if self.writing.load(Ordering::Acquire)
            && matches!(command, None | Some(Command::Message(_)))
        {
            ready!(self.poll_others_turn(cx))?;
        }
        self.poll_apply_in_turn(cx, command)
    }

    /// The same, where no message was being sent in parts.
    #[inline]
    pub(super) fn poll_apply_in_turn(
        &self,
        cx: &mut Context<'_>,
        command: &mut Option<Command<'_>>,
    ) -> Poll<Result<()>> {
        let high_water = self.info.settings.output.high_water;
        let is_message = matches!(command, Some(Command::Message(_)));
        self.access(|access| {
            match &access {
                // Begun since that was looked at: what comes behind it is held, and nobody could wait for it.
                Access::Driven(link) | Access::Free(link, _)
                    if is_message && link.sender.is_sending_parts() && link.sender.is_open() =>
                {
                    self.waiting().turn.add(cx.waker());
                    if self.is_posted() {
                        // Its end may be among that.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                // The same. It is set before what begins it is left here.
                Access::Remote(state)
                    if is_message && self.writing.load(Ordering::Acquire) && state.is_open() =>
                {
                    self.waiting().turn.add(cx.waker());
                    if !self.writing.fetch_or(false, Ordering::AcqRel) {
                        // It has ended since.
                        cx.waker().wake_by_ref();
                    }
                    return Poll::Pending;
                }
                Access::Remote(state)
                    if self.buffered_remote(state) >= high_water && state.is_open() =>
                {
                    self.wait_remote(state, &self.waiting().room, cx);
                    return Poll::Pending;
                }
                _ => {}
            }
            match access {
                Access::Driven(link) => {
                    if !self.has_room(cx, link) {
                        return Poll::Pending;
                    }
                    Poll::Ready(command.take().map_or(Ok(()), |c| link.apply(c)))
                }
                Access::Free(link, state) => {
                    if link.sender.buffered() >= high_water && link.sender.is_open() {
                        ready!(self.poll_flush_sent(cx, link, state)).map_err(Error::Lost)?;
                    }
                    Poll::Ready(command.take().map_or(Ok(()), |c| link.apply(c)))
                }
                Access::Remote(state) => {
                    Poll::Ready(command.take().map_or(Ok(()), |c| self.post(state, c)))
                }
            }
        })
    }

    /// Queues a message as soon as there is room, and writes it unless a driver will.
    ///
    /// Dropped while it waits for room, it has queued nothing; dropped later, the message is queued
    /// whole and is written by whatever uses the connection next.
    #[inline]
    pub(crate) fn send<'a>(&self, message: Outgoing<'a>) -> Sending<'_, 'a> {
        Sending {
            shared: self,
            message: Some(message),
        }
    }

    #[inline(never)]
    fn poll_send_message(
        &self,
        cx: &mut Context<'_>,
        message: &mut Option<Outgoing<'_>>,
    ) -> Poll<Result<()>> {
        let mut command = message.take().map(Command::Message);
        let sent = self.poll_send(cx, &mut command);
        if let Some(Command::Message(waiting)) = command {
            *message = Some(waiting);
        }
        sent
    }

    /// As [`send`](Self::send), of whatever it is.
    pub(crate) async fn send_command(&self, command: Command<'_>) -> Result<()> {
        let mut command = Some(command);
        poll_fn(|cx| self.poll_send(cx, &mut command)).await
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        command: &mut Option<Command<'_>>,
    ) -> Poll<Result<()>> {
        if command.is_some() {
            ready!(self.poll_apply(cx, command)).map_err(|error| self.noted(error))?;
        }
        let flushed = ready!(self.poll_flush(cx, false));
        Poll::Ready(flushed.map_err(|lost| self.noted(Error::Lost(lost))))
    }

    /// Queues a message where less output waits than the high-water mark, and writes what goes out
    /// without waiting unless a driver will. What is left goes out with whatever is sent or received
    /// next.
    pub(crate) fn try_send(&self, message: Outgoing<'_>) -> Result<()> {
        if self.send_quick(message.as_ref()) {
            return Ok(());
        }
        self.send_below(message, self.info.settings.output.high_water)
    }

    /// As [`try_send`](Self::try_send), with another mark than the connection's.
    pub(crate) fn send_below(&self, message: Outgoing<'_>, high_water: usize) -> Result<()> {
        let message = Command::Message(message);
        let full = |buffered: usize| match buffered >= high_water {
            true => Err(Error::Full { high_water }),
            false => Ok(()),
        };
        let sent = self.access(|access| match access {
            Access::Driven(link) => {
                if link.sender.is_open() {
                    full(link.waiting())?;
                }
                link.apply(message)
            }
            Access::Free(link, state) => {
                let cx = &mut Context::from_waker(Waker::noop());
                if link.sender.buffered() >= high_water {
                    let _ = self.poll_flush_sent(cx, link, state);
                }
                if link.sender.is_open() {
                    full(link.waiting())?;
                }
                link.apply(message)?;
                match self.poll_flush_sent(cx, link, state) {
                    Poll::Ready(written) => written.map_err(Error::Lost),
                    Poll::Pending => Ok(()),
                }
            }
            Access::Remote(state) => {
                if state.is_open() {
                    full(self.buffered_remote(state) + self.held_remote())?;
                }
                self.post(state, message)
            }
        });
        sent.map_err(|error| self.noted(error))
    }

    /// Queues a Close, `None` one without a code, and has whoever receives look for the peer's.
    pub(crate) fn queue_close(&self, close: Option<CloseFrame>) -> Result<()> {
        self.apply(Command::Close(close))?;
        self.wake_reading();
        Ok(())
    }

    /// Sends a Close with 1000 behind all that waits, for those who only write: that is on its way then, or was lost.
    pub(crate) fn poll_close(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        // Refused where it is closing, as when this is polled again.
        let _ = self.queue_close(Some(CloseFrame::new(CloseCode::NORMAL, "")));
        let flushed = ready!(self.poll_flush(cx, false));
        // Not before: what waits is written here, where that can be told.
        Driver::finish_unattended(self);
        Poll::Ready(match flushed {
            Err(lost) if !self.ended().is_some_and(|ended| ended.was_clean()) => {
                Err(Error::Lost(lost))
            }
            _ => Ok(()),
        })
    }

    /// Sends a Close, which goes out with what waits before it, and ends the connection where nobody receives on it.
    pub(crate) fn close_without_waiting(self: &Arc<Self>, close: CloseFrame) -> Result<()> {
        self.queue_close(Some(close))?;
        // Nobody is there to be told of a transport that fails.
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()), false);
        Driver::finish_unattended(self);
        Ok(())
    }

    /// Queues a message where nothing waits, and writes it as [`try_send`](Self::try_send) does; else
    /// puts it in place of the one that waits for the same key.
    pub(crate) fn send_latest(&self, key: u64, message: Outgoing<'_>) -> Result<()> {
        let most = self.info.settings.output.latest();
        let sent = self.access(|access| match access {
            Access::Driven(link) => link.send_latest(key, message, most),
            Access::Free(link, state) => {
                let cx = &mut Context::from_waker(Waker::noop());
                if link.latest_memory() >= most {
                    // As where there is no room: the peer may have read since.
                    let _ = self.poll_flush_sent(cx, link, state);
                }
                link.send_latest(key, message, most)?;
                match self.poll_flush_sent(cx, link, state) {
                    Poll::Ready(written) => written.map_err(Error::Lost),
                    Poll::Pending => Ok(()),
                }
            }
            Access::Remote(state) => {
                state.check_open()?;
                // More of the same keys might be there. Where that is too much, the peer is to take of it first.
                if self.latest_remote() >= most {
                    return Err(Error::Full { high_water: most });
                }
                let is_first = !state.has_latest();
                let inbox = state.inbox.get_or_insert_default();
                Latest::put_into(&mut inbox.latest, most, key, message)?;
                if is_first {
                    self.posted.store(true, Ordering::Release);
                    state.wake_driver();
                }
                Ok(())
            }
        });
        sent.map_err(|error| self.noted(error))
    }

    /// Waits until all that was queued is written.
    pub(crate) async fn flush(&self) -> Result<()> {
        let flushed = poll_fn(|cx| self.poll_flush(cx, true)).await;
        flushed.map_err(|lost| self.noted(Error::Lost(lost)))
    }

    /// Waits until what was queued is written. Where a driver writes when the task yields, there is
    /// nothing to wait for unless `fully` asks for it.
    #[inline]
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, fully: bool) -> Poll<Result<(), Lost>> {
        self.access(|access| match access {
            Access::Free(link, state) => self.poll_flush_sent(cx, link, state),
            Access::Driven(_) | Access::Remote(_) if !fully => Poll::Ready(Ok(())),
            Access::Driven(link) => match link.broken() {
                Some(lost) => Poll::Ready(Err(lost.clone())),
                None if link.is_drained() => Poll::Ready(Ok(())),
                None => {
                    // As where there is no room: this may block the thread of the driver.
                    if let Poll::Ready(Err(lost)) = self.poll_drive(cx, link) {
                        return Poll::Ready(Err(lost));
                    }
                    if link.is_drained() {
                        return Poll::Ready(Ok(()));
                    }
                    // First: whoever ends the connection, in another thread, wakes those who wait by then.
                    self.waiting().drained.add(cx.waker());
                    match self.lock().ended().and_then(Ended::lost) {
                        Some(lost) => Poll::Ready(Err(lost)),
                        None => Poll::Pending,
                    }
                }
            },
            Access::Remote(state) => {
                if let Some(lost) = state.broken() {
                    return Poll::Ready(Err(lost.clone()));
                }
                if self.buffered_remote(state) == 0 && !state.has_latest() {
                    return Poll::Ready(Ok(()));
                }
                if let Some(lost) = state.ended().and_then(Ended::lost) {
                    return Poll::Ready(Err(lost));
                }
                self.wait_remote(state, &self.waiting().drained, cx);
                Poll::Pending
            }
        })
    }

    /// Has a task woken by a driver elsewhere, which is to look at that once: the driver may be of this very task, as
    /// where another connection is driven within its handler, and then wakes itself.
    pub(crate) fn wait_remote(&self, state: &State, wakers: &Wakers, cx: &Context<'_>) {
        if wakers.add(cx.waker()) {
            state.wake_driver();
        }
    }

    /// Writes a free link. Several tasks may wait for the same transport, which remembers one
    /// waker: it is given one that wakes them all.
    pub(super) fn poll_flush_free(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
    ) -> Poll<Result<(), Lost>> {
        let waker = Waker::from(self.waiting().clone());
        let all = &mut Context::from_waker(&waker);
        let mut result = link.poll_flush(all, self.info.client);
        if result.is_pending() {
            // Added before the transport is asked again, so that no wake-up falls between.
            self.waiting().drained.add(cx.waker());
            result = link.poll_flush(all, self.info.client);
        }
        if result.is_ready() {
            self.wake_waiting();
        }
        result
    }

    /// Writes a free link for a task that has sent something and may be dropped at any time: the
    /// task that waits for an event goes on with it then. Where it is the same, it waits for that already, and
    /// to wake it would have it come again at once, for as long as the peer takes nothing.
    pub(crate) fn poll_flush_sent(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
        state: &mut State,
    ) -> Poll<Result<(), Lost>> {
        let written = self.poll_flush_free(cx, link);
        if written.is_pending() {
            return self.poll_flush_waiting(cx, link, state);
        }
        if matches!(written, Poll::Ready(Err(_))) {
            link.wake_reading();
        }
        written
    }

    #[cold]
    fn poll_flush_waiting(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
        state: &mut State,
    ) -> Poll<Result<(), Lost>> {
        self.mind(link, state);
        // Its Close, or what it was given up with, if there is one.
        let written = self.poll_flush_free(cx, link);
        // Also where all is written now: that has left the timer to those who wait, and nobody does any more.
        if matches!(written, Poll::Ready(Err(_))) || !link.is_read_by(cx.waker()) {
            link.wake_reading();
        }
        written
    }
}
