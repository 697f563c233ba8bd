//! Waiting for an event: whoever receives is woken for more than the transport says, and on a connection that
//! nobody drives minds its deadlines.

use std::{
    future::Future as _,
    mem,
    sync::{atomic::Ordering, mpsc},
    task::{Context, Poll, Waker, ready},
    thread,
};

use tokio::{
    runtime::Handle,
    task::coop::has_budget_remaining,
    time::{Instant, sleep_until},
};

use super::{Access, Closing, Shared, State, leaving};
use crate::{
    Ended, Result,
    keepalive::Step,
    link::{Command, Link},
    reader::Reader,
};

impl Shared {
    /// For a task whose connection nobody drives: writes what is left once the connection has
    /// ended, then ends this side of the transport, but for a client's after a `clean` end. Gives the time by
    /// which that must be done. `None` where a driver does it, or nothing can be written.
    pub(crate) fn poll_last_words(
        &self,
        cx: &mut Context<'_>,
        clean: bool,
    ) -> Option<(Poll<()>, Instant)> {
        self.access(|access| match access {
            Access::Free(link, _) => {
                link.deadline()?;
                let mut written = self.poll_flush_free(cx, link).map(drop);
                if link.broken().is_some() {
                    // The peer is told nothing, and so is not waited for.
                    return None;
                }
                if written.is_ready() && !(self.info.client && clean) {
                    written = link.poll_shutdown(cx);
                }
                // As what has been written since leaves it.
                Some((written, link.deadline()?))
            }
            Access::Driven(_) | Access::Remote(_) => None,
        })
    }

    /// For a task that receives where nobody drives: waits until a Close must have been answered.
    pub(crate) fn poll_until(&self, cx: &mut Context<'_>, mut deadline: Instant) -> Poll<()> {
        loop {
            ready!(self.poll_time(cx, deadline));
            let moved = self.access(|access| match access {
                Access::Free(link, _) => link.moved_after_all(),
                Access::Driven(_) | Access::Remote(_) => None,
            });
            match moved {
                Some(later) => deadline = later,
                None => return Poll::Ready(()),
            }
        }
    }

    fn poll_time(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // As for the driver: not by the timer alone.
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        let mut state = self.lock();
        let closing = &mut state.seldom.get_or_insert_default().closing;
        let has_runtime = Handle::try_current().is_ok();
        if let Some(Closing::Thread { wakes, by, .. }) = closing
            && (has_runtime || *by != deadline || !wakes.will_wake(cx.waker()))
        {
            *closing = None;
        }
        let closing = closing.get_or_insert_with(|| match has_runtime {
            true => Closing::Timer(Box::pin(sleep_until(deadline))),
            false => wake_at(deadline, cx.waker().clone()),
        });
        match closing {
            Closing::Timer(timer) => {
                if timer.deadline() != deadline {
                    timer.as_mut().reset(deadline);
                }
                timer.as_mut().poll(cx)
            }
            Closing::Thread { .. } => Poll::Pending,
        }
    }

    /// [`park`](Self::park) where there is nothing to do or to tell: in the poll of its driver, on an open
    /// connection that has been waited for by this task before. Says whether that was so.
    ///
    /// The way of most waits: a quarter of the instructions.
    #[inline]
    pub(crate) fn park_quick(&self, cx: &Context<'_>, reader: &mut Option<Box<Reader>>) -> bool {
        if self.posted.load(Ordering::Acquire) || self.is_leaving() || self.is_silent() {
            return false;
        }
        let parked = self.with_driven(|link| {
            let parks =
                link.broken().is_none() && link.sender.is_open() && link.is_read_by(cx.waker());
            if parks {
                link.lend_awaited(reader, cx.waker());
            }
            parks
        });
        parked.unwrap_or(false)
    }

    /// For a task that waits for an event: keeps what was queued going out, and says by when the
    /// peer must have closed; `Err` where the connection has ended already. While the peer is `held_back`
    /// nothing is read, and nobody can say that nothing has come. A server that ends closes now, if the task `leaves` it that.
    pub(crate) fn park(
        &self,
        cx: &mut Context<'_>,
        held_back: bool,
        leaves: bool,
    ) -> Result<Option<Instant>, ()> {
        self.attend();
        let may_look = has_budget_remaining();
        if leaves && self.is_leaving() && may_look {
            self.close_now();
        }
        // A task that has done so much that it is to yield was not let look for what has come, and of a peer that is
        // held back something is left.
        let has_looked = may_look && !held_back;
        let mut due = None;
        let parked = self.access(|access| match access {
            // Without a lock: no other thread has the link.
            Access::Driven(link) => {
                match link.broken() {
                    Some(lost) if has_looked => self.end(Ended::Lost(lost.clone())),
                    // Nothing else need wake it, unless it waits for its time.
                    Some(_) if !held_back => cx.waker().wake_by_ref(),
                    _ => {}
                }
                if !link.sender.is_open() && self.lock().ended().is_some() {
                    return Err(());
                }
                link.set_reader(cx.waker());
                Ok(None)
            }
            Access::Free(link, state) => {
                due = self.keep_free(cx, link);
                if let Some(lost) = link.broken() {
                    state.seldom.get_or_insert_default().broken = Some(lost.clone());
                }
                state.check_for_event(cx, may_look, held_back)?;
                link.set_free_reader(cx.waker());
                Ok(link.deadline())
            }
            Access::Remote(state) => {
                state.check_for_event(cx, may_look, held_back)?;
                state.seldom.get_or_insert_default().reading = Some(cx.waker().clone());
                Ok(None)
            }
        });
        if parked.is_err() {
            // It may have been found out right there that the transport has failed.
            self.wake_ended();
        }
        let parked = parked?;
        if let Some(Step::Close { reason }) = due {
            let _ = self.apply(Command::Close(Some(leaving(reason))));
            return self.park(cx, held_back, leaves);
        }
        if held_back {
            self.pulse.excuse();
            if self.lock().has_close() {
                // Closed meanwhile, right here or elsewhere: the peer is to be held back no more.
                cx.waker().wake_by_ref();
            }
        }
        if due == Some(Step::GiveUp) || !held_back && self.is_silent() {
            // First, so that the transport is not said to be at fault.
            self.end(Ended::Silent);
            let _ = self.apply(Command::GiveUp);
            return Err(());
        }
        // Asked to before there was anyone to wake.
        if leaves && self.is_leaving() && has_budget_remaining() {
            return self.park(cx, held_back, leaves);
        }
        Ok(parked)
    }

    /// For a task that receives, whose turn is over before it has found that there is nothing: keeps the
    /// connection where nobody drives it, as [`park`](Self::park) does. Tells whether the peer is given up.
    pub(crate) fn is_over_between_turns(&self, cx: &mut Context<'_>) -> bool {
        let (mut due, mut late) = (None, false);
        self.access(|access| {
            if let Access::Free(link, _) = access {
                due = self.keep_free(cx, link);
                late = matches!(link.deadline(), Some(by) if by <= Instant::now())
                    && link.moved_after_all().is_none();
            }
        });
        match due {
            Some(Step::Close { reason }) => {
                let _ = self.apply(Command::Close(Some(leaving(reason))));
            }
            Some(Step::GiveUp) => self.end(Ended::Silent),
            None | Some(Step::Ping | Step::Ask { .. }) if late => self.end(Ended::TimedOut),
            None | Some(Step::Ping | Step::Ask { .. }) => {}
        }
        // What else has ended it is told once all that has come is taken.
        matches!(self.ended(), Some(Ended::TimedOut | Ended::Silent))
    }

    /// Says that someone reads, or has something to read.
    #[inline]
    pub(crate) fn attend(&self) {
        self.attended.store(true, Ordering::Relaxed);
    }

    /// Whether the peer is gone, told by whoever has just found nothing to read. A task that has done so much
    /// that it is to yield was not let look: it comes again at once.
    #[inline]
    pub(crate) fn is_silent(&self) -> bool {
        self.pulse.is_silent(&self.meter) && has_budget_remaining()
    }

    /// Lends the receiving side to the driver whose poll this is, where it is one's.
    #[inline]
    pub(crate) fn lend(&self, reader: &mut Option<Box<Reader>>) {
        self.with_driven(|link| {
            if reader.is_some() {
                link.lent = reader.take();
            }
        });
    }

    /// The same, where its owner waits for an event.
    pub(crate) fn lend_awaited(&self, cx: &Context<'_>, reader: &mut Option<Box<Reader>>) {
        self.with_driven(|link| link.lend_awaited(reader, cx.waker()));
        // Where nobody drives it, for whoever does later.
        if let Some(reader) = reader {
            reader.wants_more = true;
        }
    }

    /// Takes the receiving side that was given back to its owner, who does not need it any more, or has it lent.
    pub(crate) fn take_returned(&self) -> Option<Box<Reader>> {
        let mut state = self.lock();
        let seldom = state.seldom.as_mut()?;
        seldom.asked = false;
        seldom.returned.take()
    }

    /// Takes the receiving side back in the poll of the driver that it is lent to. Else it is for
    /// [`poll_lent`](Self::poll_lent).
    #[inline]
    pub(crate) fn take_lent(&self) -> Option<Box<Reader>> {
        let lent = self.with_driven(|link| link.lent.take()).flatten();
        if lent.is_some() {
            self.attend();
        }
        lent
    }

    /// The receiving side, wherever that is which its owner has lent; `None` where nothing is received any more.
    #[cold]
    pub(crate) fn poll_lent(&self, cx: &mut Context<'_>) -> Poll<Option<Box<Reader>>> {
        if self.has_given_up() {
            return Poll::Ready(None);
        }
        self.attend();
        let lent = self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => Poll::Ready(link.lent.take()),
            Access::Remote(state) => {
                let seldom = state.seldom.get_or_insert_default();
                let returned = seldom.returned.take();
                if returned.is_none() {
                    seldom.asked = true;
                    seldom.reading = Some(cx.waker().clone());
                    // Before the driver is woken, which looks at this without the lock.
                    self.posted.store(true, Ordering::Release);
                    state.wake_driver();
                    return Poll::Pending;
                }
                Poll::Ready(returned)
            }
        });
        // It may have been given back, where its owner had asked for that before.
        lent.map(|lent| lent.or_else(|| self.take_returned()))
    }

    /// Works on what is lent, where that is at hand.
    pub(crate) fn with_lent(&self, work: impl FnOnce(&mut Reader)) {
        self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.lent.as_deref_mut().map(work),
            Access::Remote(_) => None,
        });
    }

    /// Whether nothing is received any more, or by somebody else.
    pub(crate) fn has_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Nothing is received any more by whoever owned the receiving side.
    pub(crate) fn receives_no_more(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    /// Takes the receiving side, where its owner has let go of it; it may be with the `link` of the driver that asks.
    pub(crate) fn take_reader(&self, link: Option<&mut Link>) -> Option<Box<Reader>> {
        let mut state = self.lock();
        if let Some(link) = link {
            state.keep_lent(link);
        }
        state.seldom.as_mut()?.reader.take()
    }

    /// The owner of the receiving side, which is lent, lets go of it.
    pub(crate) fn leave_lent(&self) {
        let (lent, is_remote) = self.access(|access| match access {
            Access::Free(link, _) => (link.lent.take(), false),
            // The driver goes on with it. No message is in hand: nobody will wait for the next.
            Access::Driven(link) => {
                if let Some(reader) = &mut link.lent {
                    reader.wants_more = true;
                }
                (None, false)
            }
            Access::Remote(_) => (None, true),
        });
        let mut state = self.lock();
        let seldom = state.seldom.get_or_insert_default();
        seldom.asked = false;
        seldom.reader = lent.or_else(|| seldom.returned.take());
        seldom.left_lent = seldom.reader.is_none();
        if is_remote {
            self.leave_to_driver(&state);
        }
    }

    /// Leaves the receiving side to whoever drives the connection, or completes the closing handshake.
    pub(crate) fn put_reader(&self, reader: Box<Reader>) {
        let mut state = self.lock();
        state.seldom.get_or_insert_default().reader = Some(reader);
        if state.link.is_none() {
            self.leave_to_driver(&state);
        }
    }

    /// Has the driver look, which may not be polled else.
    fn leave_to_driver(&self, state: &State) {
        self.posted.store(true, Ordering::Release);
        state.wake_driver();
    }

    /// Whether its owner has let go of the receiving side.
    pub(crate) fn has_reader(&self) -> bool {
        let state = self.lock();
        let seldom = state.seldom.as_ref();
        seldom.is_some_and(|seldom| seldom.reader.is_some() || seldom.left_lent)
    }

    /// Whether a pong answers a ping that keeps the connection: then it is no event. Counts pings and
    /// pongs.
    pub(crate) fn is_own(&self, payload: &[u8], pong: bool) -> bool {
        self.pulse.control(payload.len(), self.info.client);
        let own = pong && self.pulse.pong(payload);
        if own {
            self.timed();
        }
        own
    }

    /// Wakes whoever looks after the connection, since its timer has run out: the driver; where there is none,
    /// who receives, and who waits until something is written.
    #[cfg(target_os = "linux")]
    pub(crate) fn ring(&self) {
        let mut state = self.lock();
        let driver = state.driver.clone();
        let is_free = driver.is_none();
        let waker = driver.or_else(|| state.take_reading());
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        if is_free {
            self.wake_waiting();
        }
    }

    /// Wakes the task that waits for an event, so that it sees that a Close was sent.
    pub(crate) fn wake_reading(&self) {
        let waker = self.lock().take_reading();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Wakes a task that no runtime would wake. A system that has no thread for that leaves the peer as long as it likes.
#[cold]
fn wake_at(deadline: Instant, waker: Waker) -> Closing {
    let (keep, kept) = mpsc::channel();
    let closing = Closing::Thread {
        wakes: waker.clone(),
        by: deadline,
        _keeps: keep,
    };
    let left = deadline.saturating_duration_since(Instant::now());
    let _ = thread::Builder::new().spawn(move || {
        if kept.recv_timeout(left) == Err(mpsc::RecvTimeoutError::Timeout) {
            waker.wake();
        }
    });
    closing
}

impl State {
    /// `Err` where no event will come. A task that was not let look comes again at once where nothing more can be
    /// written.
    fn check_for_event(
        &mut self,
        cx: &Context<'_>,
        may_look: bool,
        held_back: bool,
    ) -> Result<(), ()> {
        match self.broken().cloned() {
            // What has come is told first, at the rate of its peer.
            Some(_) if held_back => {}
            Some(lost) if may_look => self.end(Ended::Lost(lost)),
            Some(_) => cx.waker().wake_by_ref(),
            None => {}
        }
        if self.ended().is_some() {
            return Err(());
        }
        Ok(())
    }

    /// Gives what is lent back to its owner in another task, who has asked for it. Gives whom to wake for that.
    pub(super) fn give_back(&mut self, link: &mut Link) -> Option<Waker> {
        let seldom = self.seldom.as_mut().filter(|seldom| seldom.asked)?;
        seldom.asked = false;
        seldom.returned = link.lent.take().or(seldom.returned.take());
        self.take_reading()
    }

    /// Whether the owner of what is lent has asked for it.
    pub(super) fn is_asked(&self) -> bool {
        matches!(&self.seldom, Some(seldom) if seldom.asked)
    }

    /// Has the driver go on with what its owner has let go of.
    pub(super) fn take_up(&mut self, link: &mut Link) {
        let Some(seldom) = &mut self.seldom else {
            return;
        };
        if let Some(reader) = seldom.reader.take() {
            link.lent = Some(reader);
            seldom.left_lent = true;
        }
        if seldom.left_lent
            && let Some(reader) = &mut link.lent
        {
            reader.wants_more = true;
        }
    }

    /// Where the owner of what is lent has let go of it, takes it from the link.
    pub(super) fn keep_lent(&mut self, link: &mut Link) {
        if let Some(seldom) = &mut self.seldom
            && mem::take(&mut seldom.left_lent)
        {
            seldom.reader = link.lent.take();
        }
    }

    /// The task that waits for an event, where it must know of more than the transport says.
    pub(super) fn take_reading(&mut self) -> Option<Waker> {
        match &mut self.link {
            Some(link) => link.take_reading(),
            None => self.seldom.as_mut()?.reading.take(),
        }
    }

    /// Takes the link for a driver. Whoever waits for an event in another task is still to be found.
    pub(super) fn take_link(&mut self) -> Option<Box<Link>> {
        let mut link = self.link.take()?;
        if let Some(reading) = link.take_reading() {
            self.seldom.get_or_insert_default().reading = Some(reading);
        }
        // One that has read before may be who drives now, and is yet to be registered.
        link.forget_tasks();
        Some(link)
    }
}
