//! A connection that nobody drives, where a task waits for it to be written: no wait is without an end.
//!
//! Whoever receives on such a connection keeps it: sends the pings, and minds the deadline of a Close. But
//! nobody need be receiving, and a peer that takes nothing would then be waited for as long as TCP likes. So
//! a task that waits to be written minds both as well, as a driver does.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Waker},
};

use tokio::task::unconstrained;

use super::{Shared, State, leaving};
use crate::{
    Ended,
    keepalive::Step,
    link::{Command, Link},
};

impl Shared {
    /// Does what is due on a free link that has not taken everything. Where it gives the peer up, the link is
    /// broken then.
    ///
    /// There is one timer for all, and it wakes all who wait to be written: which of them goes on waiting is
    /// not known.
    #[cold]
    pub(crate) fn mind(&self, link: &mut Link, state: &mut State) {
        let all = Waker::from(self.waiting().clone());
        let all = &mut Context::from_waker(&all);
        while link.is_due(all) {
            match self.tick(link) {
                // Whoever receives is woken in any case.
                None | Some(Step::Ping | Step::Ask { .. }) => {}
                Some(Step::GiveUp) => {
                    state.end(Ended::Silent);
                    let _ = link.apply(Command::GiveUp);
                    self.wake_ended();
                }
                Some(Step::Close { reason }) => {
                    if !state.has_close() {
                        state.close(leaving(reason));
                        let _ = link.apply(Command::Close(Some(leaving(reason))));
                    }
                }
            }
        }
        // A timer that says Pending because the task has done much would not have the waker.
        let late = poll_fn(|cx| link.poll_late(cx));
        if pin!(unconstrained(late)).poll(all).is_ready() {
            state.end(Ended::TimedOut);
            link.break_off_late();
            self.wake_ended();
        }
    }

    /// Does what is due on a free link, for a task that receives, and writes what is left. Gives what else is to be done.
    pub(crate) fn keep_free(&self, cx: &mut Context<'_>, link: &mut Link) -> Option<Step> {
        let mut left = None;
        let mut tick = |cx: &mut Context<'_>| {
            while link.is_due(cx) {
                match self.tick(link) {
                    step @ Some(Step::GiveUp | Step::Close { .. }) => left = step,
                    None | Some(Step::Ping | Step::Ask { .. }) => {}
                }
            }
        };
        if self.is_awaited() {
            // The timer is theirs too.
            self.waiting().drained.add(cx.waker());
            let all = Waker::from(self.waiting().clone());
            tick(&mut Context::from_waker(&all));
        } else {
            tick(cx);
        }
        if !link.is_written() {
            let _ = self.poll_flush_free(cx, link);
        }
        left
    }
}
