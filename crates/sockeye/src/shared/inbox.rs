//! What is sent while a driver holds the link and is not looking: it takes that in its next poll.

use std::{mem, sync::atomic::Ordering, task::Waker};

use sockeye_proto::{OpCode, SendError};

use super::{Shared, State};
use crate::{
    Error, Result,
    latest::Latest,
    link::{Command, Link},
};

/// What was sent while a driver held the link.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// In order. Mostly there is one, in a broadcast: it is kept here, as to allocate memory for it costs a fifth of such a
    /// delivery.
    first: Option<Command<'static>>,
    more: Vec<Command<'static>>,
    /// The size of all of them.
    size: usize,
    /// What is replaced while it waits.
    pub(super) latest: Option<Box<Latest>>,
}

impl Shared {
    /// Whether there is something to [`collect`](Self::collect).
    #[inline]
    pub(crate) fn is_posted(&self) -> bool {
        self.posted.load(Ordering::Acquire)
    }

    /// Takes what was sent while the driver was not looking. Tells whether another driver wants the
    /// link.
    pub(crate) fn collect(&self, link: &mut Link) -> bool {
        let mut state = self.lock();
        let wanted = state.is_wanted();
        let reading = state.give_back(link);
        state.take_up(link);
        self.take_latest(&mut state, link);
        let inbox = self.take_inbox(&mut state);
        drop(state);
        reading.into_iter().for_each(Waker::wake);
        for command in inbox {
            // Refused only once the connection is closing: then nothing can be sent, and whoever
            // sent it learns how the connection ended.
            let _ = link.apply(command);
        }
        wanted
    }

    /// Takes what was sent while the driver was not looking, without a promise to look again.
    pub(crate) fn take_posted(&self, link: &mut Link) {
        let mut state = self.lock();
        // No promise to look is left after this.
        state.take_up(link);
        self.take_latest(&mut state, link);
        let inbox = self.take_inbox(&mut state);
        drop(state);
        for command in inbox {
            let _ = link.apply(command);
        }
    }

    pub(super) fn take_inbox(
        &self,
        state: &mut State,
    ) -> impl Iterator<Item = Command<'static>> + use<> {
        // Where another driver wants the link, or another task what is lent, the driver that has it learns of that when it
        // can give it up: this may be in the middle of its poll.
        let more = state.is_wanted() || state.is_asked();
        self.posted.store(more, Ordering::Relaxed);
        let (mut first, mut more) = (None, Vec::new());
        if let Some(inbox) = &mut state.inbox {
            (first, more) = (inbox.first.take(), mem::take(&mut inbox.more));
            if first.is_some() {
                // Counted until the driver has said how much of it was written.
                self.driver_buffered
                    .fetch_add(mem::take(&mut inbox.size), Ordering::Relaxed);
            }
        }
        first.into_iter().chain(more)
    }

    /// First, so that what is sent before a Close still comes before it.
    pub(super) fn take_latest(&self, state: &mut State, link: &mut Link) {
        if let Some(latest) = state.inbox.as_mut().and_then(|i| i.latest.take()) {
            self.driver_buffered
                .fetch_add(latest.size(), Ordering::Relaxed);
            link.absorb_latest(latest);
            self.count_latest(link);
        }
    }

    /// Says how much memory the messages take that are replaced while they wait with the driver, to whoever sends from
    /// elsewhere.
    pub(super) fn count_latest(&self, link: &Link) {
        let memory = link.latest_memory();
        let counted = match self.waiting.get() {
            None if memory >= self.info.settings.output.latest() => Some(self.waiting()),
            waiting => waiting,
        };
        if let Some(waiting) = counted {
            waiting.latest.store(memory, Ordering::Relaxed);
        }
    }

    /// Leaves a command to the driver.
    pub(crate) fn post(&self, state: &mut State, command: Command<'_>) -> Result<()> {
        // Before the driver is woken: it looks at this without the lock.
        self.posted.store(true, Ordering::Release);
        state.post(command)
    }

    /// How many bytes wait, as far as is known without the link.
    pub(crate) fn buffered_remote(&self, state: &State) -> usize {
        state.posted() + self.driver_buffered.load(Ordering::Relaxed)
    }

    /// How much memory that is, as far as it was said.
    pub(super) fn latest_remote(&self) -> usize {
        let waiting = self.waiting.get();
        waiting.map_or(0, |waiting| waiting.latest.load(Ordering::Relaxed))
    }

    /// How many bytes of messages a driver holds behind one that is sent in parts. Nobody can wait for them to
    /// be written, but they take room.
    pub(super) fn held_remote(&self) -> usize {
        let waiting = self.waiting.get();
        waiting.map_or(0, |waiting| waiting.held.load(Ordering::Relaxed))
    }
}

impl Inbox {
    fn push(&mut self, command: Command<'static>) {
        match self.first {
            None => self.first = Some(command),
            Some(_) => self.more.push(command),
        }
    }

    fn last_mut(&mut self) -> Option<&mut Command<'static>> {
        self.more.last_mut().or(self.first.as_mut())
    }
}

impl State {
    /// Whether another driver wants the link.
    fn is_wanted(&self) -> bool {
        matches!(&self.seldom, Some(seldom) if seldom.wanted.is_some())
    }

    pub(super) fn has_latest(&self) -> bool {
        matches!(&self.inbox, Some(inbox) if inbox.latest.is_some())
    }

    /// How many bytes wait in the inbox.
    pub(super) fn posted(&self) -> usize {
        self.inbox.as_ref().map_or(0, |inbox| inbox.size)
    }

    /// Whether a user can still send.
    pub(super) fn check_open(&self) -> Result<()> {
        match self.broken() {
            Some(lost) => Err(Error::Lost(lost.clone())),
            None if self.is_open() => Ok(()),
            None => Err(SendError::Closed.into()),
        }
    }

    /// Leaves a command to the driver.
    pub(super) fn post(&mut self, command: Command<'_>) -> Result<()> {
        let of_user = matches!(
            command,
            Command::Message(_)
                | Command::Begin(_)
                | Command::Part(_)
                | Command::FlushParts
                | Command::Finish
                | Command::Ping(_)
                | Command::Pong(_)
        );
        if of_user {
            self.check_open()?;
        }
        if let Command::Ping(payload) | Command::Pong(payload) = &command
            && payload.len() > OpCode::MAX_CONTROL
        {
            return Err(SendError::ControlTooLong { len: payload.len() }.into());
        }
        let inbox = self.inbox.get_or_insert_default();
        if let Command::AnswerPing(newer) = &command
            && let Some(Command::AnswerPing(latest)) = inbox.last_mut()
        {
            // The pong for the latest will do (RFC 6455 §5.5.3): a peer must not make this grow with pings while
            // the driver is not polled.
            latest.clone_from(newer);
            return Ok(());
        }
        inbox.size += command.size();
        inbox.push(command.into_owned());
        self.wake_driver();
        Ok(())
    }

    pub(crate) fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_do_not_pile_up_while_the_driver_is_not_polled() {
        let shared = Shared::driven_elsewhere();
        for number in 0..1000_u32 {
            let ping = number.to_be_bytes().to_vec().into();
            shared.apply(Command::AnswerPing(ping)).unwrap();
        }
        let posted: Vec<_> = shared.take_inbox(&mut shared.lock()).collect();
        let [Command::AnswerPing(latest)] = &posted[..] else {
            panic!("{posted:?}");
        };
        assert_eq!(**latest, 999_u32.to_be_bytes());
    }

    #[test]
    fn what_is_short_counts_for_the_memory_that_it_takes() {
        let shared = Shared::driven_elsewhere();
        let queued = (0..).take_while(|_| shared.try_send("".into()).is_ok());
        let memory = queued.count() * size_of::<Command<'static>>();
        let most = shared.info.settings.output.high_water;
        assert!((most / 2..=2 * most).contains(&memory), "{memory}");
    }

    #[test]
    fn what_is_empty_is_not_queued_for_ever_while_the_driver_is_not_polled() {
        let shared = Shared::driven_elsewhere();
        let queued = (0..).take_while(|_| shared.try_send("".into()).is_ok());
        assert!(queued.take(1 << 20).count() < 1 << 20);
    }
}
