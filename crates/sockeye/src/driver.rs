//! Drives a connection for as long as its user's handler runs: what was sent is written when the
//! task yields, deadlines are kept, and the connection is closed when the handler is done.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    thread,
};

use sockeye_proto::{CloseCode, CloseFrame, OwnedEvent};
use tokio::{
    runtime::Handle,
    task::{coop::has_budget_remaining, unconstrained},
};

use crate::{
    Ended, Error, Receiver,
    ended::lost,
    keepalive::Step,
    link::{Command, Link},
    reader::{Broken, Phase, Reader},
    shared::{Shared, leaving},
};

/// The holder of a connection's sending side.
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    /// There, except while the user's future is polled.
    link: Option<Box<Link>>,
}

impl Driver {
    /// Takes over a connection; `None` where another driver has it.
    pub(crate) fn new(shared: Arc<Shared>) -> Option<Self> {
        let link = shared.take_link()?;
        let mut driver = Self::waiting(shared);
        driver.link = Some(link);
        Some(driver)
    }

    /// A driver that is yet to [take over](Self::poll_take_over) a connection.
    pub(crate) fn waiting(shared: Arc<Shared>) -> Self {
        Self { shared, link: None }
    }

    /// Takes over the connection from whoever drives it.
    pub(crate) fn poll_take_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link = Some(ready!(self.shared.poll_take_link(cx)));
        Poll::Ready(())
    }

    /// The sending side.
    #[inline]
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.link.as_deref_mut()
    }

    /// Runs a user's future to its end, writing what it sends whenever it yields.
    pub(crate) async fn run<F: Future>(&mut self, future: Pin<&mut F>) -> F::Output {
        let mut future = future;
        poll_fn(|cx| self.poll_run(cx, future.as_mut())).await
    }

    /// One poll of what [`run`](Self::run) runs.
    pub(crate) fn poll_run<F: Future>(
        &mut self,
        cx: &mut Context<'_>,
        future: Pin<&mut F>,
    ) -> Poll<F::Output> {
        if self.collect(cx)
            && let Some(link) = self.link.take()
        {
            self.shared.free_link(link);
        }
        let shared = &self.shared;
        if let Some(link) = &mut self.link {
            link.awaited = false;
        }
        let result = shared.drive(&mut self.link, || shared.within(|| future.poll(cx)));
        self.keep(cx);
        // An error is found again by whoever reads or sends next.
        let _ = self.poll_write(cx);
        if result.is_pending() && matches!(&self.link, Some(link) if link.is_left_alone()) {
            self.receive_ahead(cx);
        }
        result
    }

    /// Answers what comes while the user's future does something else than to receive, as far as the next message, and
    /// notices where the peer is gone (RFC 6455 §5.5.2: a ping is answered as soon as is practical).
    #[inline(never)]
    fn receive_ahead(&mut self, cx: &mut Context<'_>) {
        let Some(link) = &mut self.link else { return };
        let Some(mut reader) = link.lent.take() else {
            return;
        };
        if reader.is_held_back() && link.sender.is_close_sent() {
            // Our Close was sent: the peer's is waited for, behind whatever comes.
            reader.let_run();
        }
        let was_broken = link.broken().is_some();
        let is_news = reader.phase == Phase::Open && self.receive_all_ahead(cx, &mut reader);
        let _ = self.poll_write(cx);
        if let Some(link) = &mut self.link {
            if !was_broken && link.broken().is_some() {
                // It is acted on in the next poll, for which nothing else need wake the task.
                cx.waker().wake_by_ref();
            }
            link.lent = Some(reader);
            if is_news {
                link.wake_others_reading();
            }
        }
    }

    /// Takes all there is, and tells whether there is anything new among it for whoever receives.
    fn receive_all_ahead(&mut self, cx: &mut Context<'_>, reader: &mut Reader) -> bool {
        /// How many control frames are taken of a poll in which the user's future has used up the task's budget, with
        /// which nothing would ever be read beside one that always has something to send.
        const LEAST: usize = 16;
        // A message in hand comes first: where it can be answered, and for as long as a peer that says nothing is waited for.
        reader.wants_more |= self.link().is_none_or(|link| !link.sender.is_open())
            || reader.ends_later() && self.is_silent(cx);
        if reader.ends_later() {
            return false;
        }
        if !reader.has_ended() && reader.is_message_next() && !self.shared.has_reader() {
            // Nobody can say that nothing has come behind it.
            self.shared.pulse.excuse();
            return false;
        }
        let (mut is_news, mut discards) = (false, false);
        let mut left = (!has_budget_remaining()).then_some(LEAST);
        while reader.phase == Phase::Open && !reader.ends_later() {
            let poll = |reader: &mut Reader, cx: &mut Context<'_>| match discards {
                false => reader.poll_ahead(cx),
                true => reader.poll_discarding(cx).map_ok(Some),
            };
            let next = match &mut left {
                None => poll(reader, cx),
                Some(0) => {
                    cx.waker().wake_by_ref();
                    return is_news;
                }
                Some(left) => {
                    *left -= 1;
                    pin!(unconstrained(poll_fn(|cx| poll(reader, cx)))).poll(cx)
                }
            };
            match next {
                // Whoever could receive it has let go of that: what stands behind it need not wait.
                Poll::Ready(Ok(None)) if self.shared.has_reader() => discards = true,
                Poll::Ready(Ok(Some(OwnedEvent::Close(frame)))) if !reader.wants_more => {
                    // As where this end leaves, a message in hand is answered first.
                    reader.keep_last(Ok(frame));
                }
                Poll::Ready(Err(broken)) if !reader.wants_more => reader.keep_last(Err(broken)),
                Poll::Ready(Ok(Some(event))) => {
                    let is_pong = matches!(event, OwnedEvent::Pong(_));
                    if let OwnedEvent::Ping(payload) | OwnedEvent::Pong(payload) = &event
                        && self.shared.is_own(payload, is_pong)
                    {
                        continue;
                    }
                    if matches!(event, OwnedEvent::Close(_)) {
                        reader.phase = Phase::Ending;
                    }
                    is_news = true;
                    reader.tell_later(event.clone());
                    self.answer(Ok(event));
                }
                Poll::Ready(Err(broken)) => {
                    (reader.phase, is_news) = (Phase::Ending, true);
                    self.answer(Err(broken));
                }
                Poll::Ready(Ok(None)) => {
                    self.shared.pulse.excuse();
                    return true;
                }
                Poll::Pending if reader.is_held_back() => {
                    self.shared.pulse.hold_back(reader.holds_something());
                    break;
                }
                Poll::Pending if reader.is_between_turns() => break,
                // Not where the budget has run out since, so that it was not let look.
                Poll::Pending if left.is_none() && !has_budget_remaining() => break,
                Poll::Pending => {
                    if let Some(lost) = self.link().and_then(|link| link.broken()).cloned() {
                        self.shared.end(Ended::Lost(lost));
                    } else if self.is_silent(cx) {
                        self.give_up();
                    } else {
                        break;
                    }
                    (reader.phase, is_news) = (Phase::Ending, true);
                }
            }
        }
        is_news
    }

    /// Whether the peer is gone, also where the task has used up its budget and has looked all the same.
    fn is_silent(&self, cx: &mut Context<'_>) -> bool {
        let silent = poll_fn(|_| match self.shared.is_silent() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        });
        pin!(unconstrained(silent)).poll(cx).is_ready()
    }

    /// Gives up a silent peer.
    fn give_up(&mut self) {
        self.shared.end(Ended::Silent);
        if let Some(link) = &mut self.link {
            let _ = link.apply(Command::GiveUp);
        }
    }

    /// Takes what was sent from elsewhere, and sees to it that this task is woken for more. Tells
    /// whether another driver wants the link.
    #[inline]
    pub(crate) fn collect(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        if !link.is_driven_by(cx.waker()) {
            self.shared.register_driver(cx.waker());
            link.set_driver(cx.waker());
        }
        self.shared.is_posted() && self.shared.collect(link)
    }

    /// Does what keeps the connection, where that is due, or has the task woken when it is. Tells whether it
    /// was: then there may be something to write, or an end.
    #[inline]
    pub(crate) fn keep(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.link.as_mut().is_some_and(|link| link.is_due(cx));
        if due {
            self.tick(cx);
        }
        due
    }

    /// Writes what waits, and gives up on a peer that has not closed in time.
    #[inline(always)]
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(());
        };
        if link.is_quiet() && !self.shared.is_awaited() {
            return Poll::Ready(());
        }
        self.poll_write_any(cx)
    }

    // A function of its own, so that looking whether there is anything to write takes no call.
    #[inline(never)]
    fn poll_write_any(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(link) = &mut self.link
            && self.shared.drive_quick(link)
        {
            return Poll::Ready(());
        }
        self.poll_write_on(cx)
    }

    #[cold]
    #[inline(never)]
    fn poll_write_on(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(link) = &mut self.link else {
            return Poll::Ready(());
        };
        let written = self.shared.poll_drive(cx, link);
        if link.sender.is_close_sent() {
            self.poll_deadline(cx);
        }
        written.map(drop)
    }

    #[cold]
    fn tick(&mut self, cx: &mut Context<'_>) {
        while let Some(link) = &mut self.link
            && link.is_due(cx)
        {
            match self.shared.tick(link) {
                None | Some(Step::Ping) => {}
                Some(Step::Ask { .. }) => {
                    link.wake_reading();
                    self.shared.wake_reading();
                }
                Some(Step::GiveUp) => self.give_up(),
                Some(Step::Close { reason }) => {
                    self.close(leaving(reason));
                    self.shared.wake_reading();
                }
            }
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) {
        if let Some(link) = &mut self.link
            && link.poll_overdue(cx).is_ready()
        {
            // Wakes this task too: the user's future is polled again and sees it.
            self.shared.end(Ended::TimedOut);
            link.wake_reading();
            if !link.is_written() {
                // Whoever waits for that, as in a flush, would do so for ever.
                self.shared.note_lost(link.break_off_late());
            }
        }
    }

    /// Takes what was sent from elsewhere: it comes before a Close, behind which it would be refused. Once that Close, or
    /// the end, is noted: then nothing more is accepted there.
    pub(crate) fn take_posted(&mut self) {
        if let Some(link) = &mut self.link
            && self.shared.is_posted()
        {
            self.shared.take_posted(link);
        }
    }

    /// Sends a Close, unless one was sent or received.
    pub(crate) fn close(&mut self, close: CloseFrame) {
        let is_open = self.link().is_some_and(|link| link.sender.is_open());
        if !is_open || self.shared.note_close(&close).is_err() {
            return;
        }
        self.take_posted();
        if let Some(link) = self.link() {
            let _ = link.apply(Command::Close(Some(close)));
        }
    }

    /// Closes with `code` unless that has happened, and waits for the peer to do so too.
    ///
    /// What still comes from the peer is discarded. Where the user has moved the socket to another
    /// task, the connection is left to it: `None`.
    pub(crate) async fn finish(mut self, code: CloseCode) -> Option<Ended> {
        self.take_back();
        let reader = self.take_reader()?;
        // Let go of before this where it stops early: then that ends the connection.
        let mut left = Receiver::new(self.shared.clone(), reader);
        self.close_and_wait(&mut left, code).await;
        drop(left.give_up());
        self.let_go();
        self.shared.ended()
    }

    /// As [`finish`](Self::finish), where the receiving side was let go of before. Stopping early leaves that to a
    /// task of its own.
    pub(crate) async fn finish_left(shared: &Arc<Shared>, code: CloseCode) {
        let Some(mut taken) = Self::new(shared.clone()) else {
            return;
        };
        let Some(reader) = taken.take_reader() else {
            return;
        };
        let mut left = Receiver::new(shared.clone(), reader);
        // Behind it, so that this is let go of first.
        let mut driver = taken;
        driver.close_and_wait(&mut left, code).await;
        drop(left.give_up());
        driver.let_go();
    }

    /// Has a task complete what has begun to close, where the receiving side was let go of and nobody drives the
    /// connection: nobody else would, for as long as anyone keeps a [`Sender`](crate::Sender). Where there is no runtime,
    /// that ends the connection.
    pub(crate) fn finish_unattended(shared: &Arc<Shared>) {
        if shared.has_reader() && shared.is_left_closing() {
            let driver = Self::waiting(shared.clone());
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(driver.finish_closing());
            }
        }
    }

    /// Completes what has begun to close, for a driver that is yet to take over. Stopping early, or before it has begun,
    /// ends the connection.
    pub(crate) async fn finish_closing(mut self) {
        self.take_back();
        if self.link.is_none() {
            return;
        }
        let Some(reader) = self.take_reader() else {
            return;
        };
        // Let go of before this where it stops early, as in `finish`.
        let mut left = Receiver::new(self.shared.clone(), reader);
        self.wait(&mut left).await;
        drop(left.give_up());
        self.let_go();
    }

    async fn close_and_wait(&mut self, left: &mut Receiver, code: CloseCode) {
        let leaving = self.shared.take_leave();
        let close = leaving.filter(|_| code == CloseCode::NORMAL);
        self.close(close.unwrap_or_else(|| CloseFrame::new(code, "")));
        self.wait(left).await;
    }

    /// Waits until the closing handshake is complete.
    async fn wait(&mut self, left: &mut Receiver) {
        if let Some(reader) = left.reader() {
            reader.let_run();
        }
        poll_fn(|cx| match left.reader() {
            Some(reader) => self.poll_finish(cx, reader),
            None => Poll::Ready(()),
        })
        .await;
    }

    /// Ends the transport of a connection that has ended. Whoever has the receiving side drops it at
    /// once.
    pub(crate) fn let_go(&mut self) {
        if let Some(link) = &mut self.link {
            link.let_go_with_reader();
            self.shared.closed();
        }
    }

    /// Completes the closing handshake, then ends the transport (RFC 6455 §7.1.1).
    pub(crate) fn poll_finish(&mut self, cx: &mut Context<'_>, reader: &mut Reader) -> Poll<()> {
        loop {
            self.collect(cx);
            self.keep(cx);
            let written = self.poll_write(cx);
            if self.link().is_some_and(|link| link.is_overdue()) {
                return Poll::Ready(());
            }
            match self.shared.ended() {
                Some(Ended::Lost(_) | Ended::TimedOut | Ended::Silent | Ended::Overflow { .. }) => {
                    return Poll::Ready(());
                }
                Some(ended) => {
                    ready!(written);
                    return self.poll_end_transport(cx, reader, &ended);
                }
                None if reader.poll_turn(cx).is_pending() => return Poll::Pending,
                None => match (reader.poll_event(cx), self.link().and_then(|l| l.broken())) {
                    (Poll::Ready(event), _) => self.answer(event),
                    // It was not let look for what has come, and nothing else need wake it.
                    (Poll::Pending, Some(_)) if !has_budget_remaining() => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    // Nor in this turn, and it is woken for the next.
                    (Poll::Pending, Some(_)) if reader.is_between_turns() => return Poll::Pending,
                    (Poll::Pending, Some(lost)) => {
                        let lost = lost.clone();
                        self.shared.end(Ended::Lost(lost));
                    }
                    (Poll::Pending, None) => return Poll::Pending,
                },
            }
        }
    }

    /// Gives the peer what it is owed for what came, and notes how that ends the connection.
    pub(crate) fn answer(&mut self, event: Result<OwnedEvent, Broken>) {
        let command = match event {
            Ok(OwnedEvent::Message(_) | OwnedEvent::Pong(_)) => return,
            Ok(OwnedEvent::Ping(payload)) => Command::AnswerPing(payload),
            Ok(OwnedEvent::Close(frame)) => {
                self.shared.end_by_close(frame.clone());
                // Or is the answer, where it is a Close.
                self.take_posted();
                Command::AnswerClose(frame)
            }
            Err(broken) => {
                let (command, ended) = broken.consequence();
                self.shared.end(ended);
                self.take_posted();
                command
            }
        };
        if let Some(link) = &mut self.link {
            let _ = link.apply(command);
        }
    }

    /// Ends this side of the transport, and gives the peer until the deadline to end its own: bytes
    /// that nobody reads would otherwise reset the connection before the peer has read our Close.
    /// The server ends first; a client waits for that.
    fn poll_end_transport(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut Reader,
        ended: &Ended,
    ) -> Poll<()> {
        if self.link().is_some_and(|link| link.broken().is_some()) {
            // The peer was told nothing, so that there is no deadline either.
            return Poll::Ready(());
        }
        let client = self.shared.info.client;
        let clean = ended.was_clean();
        if !(client && clean)
            && let Some(link) = &mut self.link
        {
            ready!(link.poll_shutdown(cx));
        }
        if client || !clean {
            reader.poll_discard(cx)
        } else {
            Poll::Ready(())
        }
    }
}

impl Driver {
    /// Takes the receiving side, where its owner has let go of it.
    fn take_reader(&mut self) -> Option<Box<Reader>> {
        self.shared.take_reader(self.link.as_deref_mut())
    }

    /// Takes the sending side again, where it was given up to another driver that is gone.
    fn take_back(&mut self) {
        self.link = self.link.take().or_else(|| self.shared.take_link());
    }

    /// Says goodbye without waiting, unless the connection has ended, and lets go. Whoever has the
    /// receiving side drops it at once.
    pub(crate) fn abandon(&mut self) {
        if self.shared.ended().is_none() {
            self.end_early();
        }
        self.let_go();
    }

    fn end_early(&mut self) {
        let (code, why) = match thread::panicking() {
            true => (CloseCode::INTERNAL_ERROR, "its handler panicked"),
            false => (CloseCode::GOING_AWAY, "its handler was dropped"),
        };
        let closing = self.link().is_some_and(|link| link.sender.is_close_sent());
        self.say_goodbye(code);
        self.shared.end(match closing && !thread::panicking() {
            true => Ended::TimedOut,
            false => Ended::Lost(Arc::new(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                why,
            ))),
        });
    }

    /// Sends a Close as far as that needs no waiting, and no runtime.
    fn say_goodbye(&mut self, code: CloseCode) {
        self.close(CloseFrame::new(code, ""));
        // Also where the Close is there already.
        self.take_posted();
        if let Some(link) = &mut self.link {
            link.write_once();
        }
    }
}

/// A driver that stops early, such as in a task that was aborted or has panicked, ends the connection: once
/// the receiving side was let go of too, nobody else would, for as long as anyone keeps a
/// [`Sender`](crate::Sender). Where the user has moved the socket to another task, it is left as it is, but
/// for a peer that is told with 1011 of a panic.
impl Drop for Driver {
    fn drop(&mut self) {
        if self.shared.has_reader() {
            self.take_back();
            if self.link.is_some() {
                self.abandon();
                drop(self.take_reader());
            } else {
                // Another driver has it, and ends the connection.
                self.shared.keep_link();
            }
        } else if thread::panicking() {
            self.say_goodbye(CloseCode::INTERNAL_ERROR);
        }
        if let Some(link) = self.link.take() {
            self.shared.free_link(link);
            // The receiving side may have been let go of meanwhile, where a driver was still seen.
            Self::finish_unattended(&self.shared);
        }
    }
}

impl Broken {
    /// What the peer is owed, and how the connection ended.
    pub(crate) fn consequence(self) -> (Command<'static>, Ended) {
        match self {
            Self::Protocol(error) => (Command::Fail(error), Ended::Protocol(error)),
            Self::Io(error) => (Command::PeerGone, Ended::Lost(lost(error))),
            Self::End => (Command::PeerGone, Ended::gone()),
        }
    }
}

/// The code that a handler's result closes the connection with.
pub(crate) fn code_of(result: &Result<(), Error>) -> CloseCode {
    match result {
        Ok(()) => CloseCode::NORMAL,
        Err(_) => CloseCode::INTERNAL_ERROR,
    }
}
