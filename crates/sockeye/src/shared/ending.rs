//! How a connection ends: by a Close of either side, by this end's leaving, or broken off.

use std::{
    future::Future,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use sockeye_proto::{CloseCode, CloseFrame};

use super::{Access, Shared, State};
use crate::{
    Ended,
    link::{Command, Lost},
};

impl Shared {
    /// Says why the connection ended, unless that is known already, and wakes whoever waits.
    pub(crate) fn end(&self, ended: Ended) {
        let mut state = self.lock();
        state.end(ended);
        let wakers = [state.take_reading(), state.driver.clone()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.wake_waiting();
        self.wake_ended();
    }

    pub(crate) fn wake_ended(&self) {
        if let Some(waiting) = self.waiting.get() {
            waiting.ended.wake();
        }
    }

    /// The end that a Close from the peer means: an answer to ours, or its own.
    pub(crate) fn end_by_close(&self, frame: Option<CloseFrame>) {
        let ours = self.lock().our_close().cloned();
        self.end(ours.map_or(Ended::ByPeer(frame), Ended::ByUs));
    }

    /// Why the connection ended, once it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended().cloned()
    }

    /// The same, once it has.
    pub(crate) fn until_ended(&self) -> UntilEnded<'_> {
        UntilEnded {
            shared: self,
            kept: None,
        }
    }

    /// The same, as far as it is known where nobody has waited for it: by the Close that the peer was sent.
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) fn ended_as_told(&self) -> Option<Ended> {
        let state = self.lock();
        let lost = state.link.as_ref().and_then(|link| link.broken());
        let lost = lost.or(state.broken()).cloned().map(Ended::Lost);
        let ended = state.ended().cloned().or(lost);
        ended.or_else(|| state.our_close().cloned().map(Ended::ByUs))
    }

    /// Asks for a Close: it is sent as soon as whoever receives has handled all that has come, and waits
    /// for more. At once where nobody has received anything yet.
    #[cfg(feature = "server")]
    pub(crate) fn leave(&self, close: &CloseFrame) {
        {
            let mut state = self.lock();
            if state.has_close() {
                return;
            }
            state.seldom.get_or_insert_default().leaving = Some(close.clone());
            self.leaving.store(true, Ordering::Release);
        }
        if self.attended.load(Ordering::Relaxed) || self.has_received() {
            let _ = self.apply(Command::Look);
        } else {
            self.close_now();
        }
        self.wake_reading();
    }

    /// Whether any message has been received.
    #[cfg(feature = "server")]
    fn has_received(&self) -> bool {
        let received = self.meter.counters().received;
        received.text.messages > 0 || received.binary.messages > 0
    }

    /// Whether this end is to close as soon as whoever receives has nothing to do.
    #[inline]
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The Close that was asked for and has not been sent.
    pub(crate) fn take_leave(&self) -> Option<CloseFrame> {
        self.leaving.store(false, Ordering::Relaxed);
        self.lock().seldom.as_mut()?.leaving.take()
    }

    /// Sends the Close that was asked for.
    #[cold]
    pub(crate) fn close_now(&self) {
        if let Some(close) = self.take_leave() {
            self.go_away(close);
        }
    }

    /// Closes because this end leaves, whatever its handler does.
    pub(crate) fn go_away(&self, close: CloseFrame) {
        // Refused where it is closing already, as its user has said.
        if self.apply(Command::Close(Some(close))).is_ok() {
            self.left.store(true, Ordering::Release);
        }
    }

    /// Whether this end has closed because it leaves.
    #[inline]
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Whether this end has closed first.
    pub(crate) fn has_closed(&self) -> bool {
        self.lock().our_close().is_some()
    }

    /// Whether it is closing, or has ended, and nobody drives it.
    pub(crate) fn is_left_closing(&self) -> bool {
        let state = self.lock();
        state.has_close() && state.link.is_some()
    }

    /// Ends the transport of a connection that has ended, unless a driver will. Tells whether it
    /// did.
    pub(crate) fn let_go(&self) -> bool {
        let done = self.access(|access| match access {
            Access::Free(link, _) => {
                link.let_go();
                true
            }
            Access::Driven(_) | Access::Remote(_) => false,
        });
        if let Some(seldom) = &mut self.lock().seldom {
            seldom.closing = None;
        }
        if done {
            self.closed();
            // Whoever began to wait since the end was noted, for what nobody will write.
            self.wake_waiting();
        }
        done
    }
}

/// The end of a connection, to be waited for.
#[derive(Debug)]
#[must_use = "nothing is waited for before it is polled"]
pub(crate) struct UntilEnded<'s> {
    shared: &'s Shared,
    /// The task that is woken for it.
    kept: Option<Waker>,
}

impl UntilEnded<'_> {
    fn keep(&mut self, task: Option<&Waker>) {
        let wakers = &self.shared.waiting().ended;
        task.into_iter().for_each(|task| wakers.keep(task));
        if let Some(before) = std::mem::replace(&mut self.kept, task.cloned()) {
            wakers.remove(&before);
        }
    }
}

impl Future for UntilEnded<'_> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        if !matches!(&self.kept, Some(task) if task.will_wake(cx.waker())) {
            // Before the end is looked for, so that none falls between.
            self.keep(Some(cx.waker()));
        }
        match self.shared.ended() {
            Some(ended) => Poll::Ready(ended),
            None => Poll::Pending,
        }
    }
}

impl Drop for UntilEnded<'_> {
    fn drop(&mut self) {
        if self.kept.is_some() {
            self.keep(None);
        }
    }
}

impl State {
    /// Says why the connection ended, unless that is known already.
    pub(crate) fn end(&mut self, ended: Ended) {
        let seldom = self.seldom.get_or_insert_default();
        seldom.ended.get_or_insert(ended);
    }

    /// Notes the Close that this end sends first.
    pub(crate) fn close(&mut self, frame: CloseFrame) {
        self.seldom.get_or_insert_default().our_close = Some(frame);
    }

    pub(super) fn our_close(&self) -> Option<&CloseFrame> {
        self.seldom.as_ref()?.our_close.as_ref()
    }

    pub(super) fn ended(&self) -> Option<&Ended> {
        self.seldom.as_ref()?.ended.as_ref()
    }

    pub(super) fn broken(&self) -> Option<&Lost> {
        self.seldom.as_ref()?.broken.as_ref()
    }

    /// Whether this end has sent a Close, or the connection has ended.
    pub(crate) fn has_close(&self) -> bool {
        self.our_close().is_some() || self.ended().is_some()
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.has_close() && self.broken().is_none()
    }
}

/// The Close of a connection that this end leaves by itself.
pub(crate) fn leaving(reason: &str) -> CloseFrame {
    CloseFrame::new(CloseCode::GOING_AWAY, reason)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize},
        },
        task::{Context, Poll, Wake},
    };

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// How many of 10,000 learn nothing of what is done to their connection by another thread while they `wait`,
    /// which says when it begins and gives whether they were told at once; else they have to be told by the time
    /// that is done, by their waker or as `later` finds.
    fn missed(
        connection: fn() -> Arc<Shared>,
        act: impl Fn(&Shared) + Sync,
        wait: impl Fn(&Arc<Shared>, &mut Context<'_>, &dyn Fn()) -> bool,
        later: impl Fn(&Shared) -> bool,
    ) -> usize {
        use std::thread;

        let all: Vec<_> = (0..10_000).map(|_| connection()).collect();
        let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let until = |count: &AtomicUsize, round| {
            while count.load(Ordering::Acquire) <= round {
                thread::yield_now();
            }
        };
        let mut missed = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                for (round, shared) in all.iter().enumerate() {
                    until(&begun, round);
                    act(shared);
                    done.store(round + 1, Ordering::Release);
                }
            });
            for (round, shared) in all.iter().enumerate() {
                let woken = Arc::new(Woken::default());
                let waker = woken.clone().into();
                let begins = || begun.store(round + 1, Ordering::Release);
                let told = wait(shared, &mut Context::from_waker(&waker), &begins);
                until(&done, round);
                let told = told || later(shared) || woken.0.load(Ordering::Acquire);
                missed += usize::from(!told);
            }
        });
        missed
    }

    /// Where the receiving half is in another task than its driver.
    #[cfg(feature = "server")]
    #[test]
    fn whoever_is_asked_to_leave_while_they_begin_to_wait_learns_of_it() {
        let missed = missed(
            Shared::driven_elsewhere,
            |shared| shared.leave(&leaving("restart")),
            |shared, cx, begins| {
                shared.attend();
                begins();
                let _ = shared.park(cx, false, true);
                false
            },
            |shared| {
                let mut posted = shared.take_inbox(&mut shared.lock());
                posted.any(|it| matches!(it, Command::Close(_)))
            },
        );
        assert_eq!(missed, 0);
    }

    /// In a set of futures within a handler: each is polled only where its own waker was woken.
    #[test]
    fn whoever_waits_for_output_while_the_connection_begins_to_end_learns_of_it() {
        let missed = missed(
            Shared::of_nobody,
            |shared| shared.end(Ended::gone()),
            |shared, cx, begins| {
                shared.apply(Command::Message("unsent".into())).unwrap();
                let mut link = shared.take_link();
                let flushed = shared.drive(&mut link, || {
                    begins();
                    shared.poll_flush(cx, true)
                });
                flushed.is_ready()
            },
            |_| false,
        );
        assert_eq!(missed, 0);
    }

    /// A megabyte, and who has it.
    fn payload() -> (Arc<[u8]>, bytes::Bytes) {
        struct Payload(Arc<[u8]>);
        impl AsRef<[u8]> for Payload {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let memory: Arc<[u8]> = vec![0; 1 << 20].into();
        let payload = bytes::Bytes::from_owner(Payload(memory.clone()));
        (memory, payload)
    }

    /// A payload that is not copied is the user's memory: neither the thread's buffers must keep it, nor what waits
    /// behind a message in parts.
    #[test]
    fn what_was_not_written_is_let_go_of_with_the_connection() {
        for behind_parts in [false, true] {
            let shared = Shared::of_nobody();
            if behind_parts {
                let kind = sockeye_proto::MessageKind::Binary;
                shared.apply(Command::Begin(kind)).unwrap();
            }
            let (memory, payload) = payload();
            shared.apply(Command::Message(payload.into())).unwrap();
            assert_eq!(Arc::strong_count(&memory), 2);
            shared.end(Ended::gone());
            shared.let_go();
            assert_eq!(Arc::strong_count(&memory), 1);
        }
    }

    #[test]
    fn whoever_waits_for_output_learns_that_it_is_let_go_of() {
        let shared = Shared::of_nobody();
        shared.apply(Command::Message("unsent".into())).unwrap();
        shared.end(Ended::gone());
        let woken = Arc::<Woken>::default();
        shared.waiting().drained.add(&woken.clone().into());
        assert!(shared.let_go());
        assert!(woken.0.load(Ordering::Acquire));
        let flushed = shared.poll_flush(&mut Context::from_waker(Waker::noop()), true);
        assert!(matches!(flushed, Poll::Ready(Err(_))), "{flushed:?}");
    }

    /// One that begins just as another was about to be sent: `send` waits for its turn, and does not leave it held.
    #[test]
    fn a_message_is_not_sent_while_another_is_in_parts() {
        for driven in [false, true] {
            let shared = Shared::of_nobody();
            let kind = sockeye_proto::MessageKind::Binary;
            shared.apply(Command::Begin(kind)).unwrap();
            let woken = Arc::<Woken>::default();
            let waker = woken.clone().into();
            let cx = &mut Context::from_waker(&waker);
            let mut message = Some(Command::Message("later".into()));
            let mut send = || {
                let mut link = driven.then(|| shared.take_link()).flatten();
                let sent = shared.drive(&mut link, || shared.poll_apply(cx, &mut message));
                link.into_iter().for_each(|link| shared.free_link(link));
                sent
            };
            assert!(send().is_pending(), "{driven}");
            shared.apply(Command::Finish).unwrap();
            shared.waiting().turn.wake();
            assert!(woken.0.load(Ordering::Acquire));
            assert!(matches!(send(), Poll::Ready(Ok(()))));
            assert!(message.is_none());
        }
    }

    /// A bug: where another driver had the connection, it was left behind the one in parts, and said to be sent.
    #[test]
    fn a_message_is_not_left_to_a_driver_behind_another_in_parts() {
        let shared = Shared::driven_elsewhere();
        // Since `poll_apply` has looked.
        shared.writing.store(true, Ordering::Release);
        let woken = Arc::<Woken>::default();
        let waker = woken.clone().into();
        let mut message = Some(Command::Message("later".into()));
        let mut send = || shared.poll_apply_in_turn(&mut Context::from_waker(&waker), &mut message);
        assert!(send().is_pending());
        assert_eq!(shared.take_inbox(&mut shared.lock()).count(), 0);
        shared.writing.store(false, Ordering::Release);
        shared.waiting().turn.wake();
        assert!(woken.0.load(Ordering::Acquire));
        assert!(matches!(send(), Poll::Ready(Ok(()))));
        assert!(message.is_none());
    }

    #[test]
    fn what_is_refused_leaves_no_buffer_with_a_connection_that_has_ended() {
        let shared = Shared::of_nobody();
        shared.end(Ended::gone());
        shared.let_go();
        assert!(shared.try_send("late".into()).is_err());
        let owns = shared.access(|access| match access {
            Access::Free(link, _) => link.sender.output().has_buffer(),
            Access::Driven(_) | Access::Remote(_) => unreachable!("nobody drives it"),
        });
        assert!(!owns);
    }
}
