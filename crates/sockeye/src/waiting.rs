//! Tasks that wait for output to be written.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
};

/// Tasks that wait for output to be written. As a waker it wakes all that wait
/// for something to be written.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    /// For room below the high-water mark.
    pub(crate) room: Wakers,
    /// For everything to be written.
    pub(crate) drained: Wakers,
    /// For the end of a message that is sent in parts.
    pub(crate) turn: Wakers,
    /// For the end of the connection, and for nothing else.
    pub(crate) ended: Wakers,
    /// How many bytes of messages a driver holds behind one that is sent in parts: here, as few connections
    /// ever send one.
    pub(crate) held: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct Wakers {
    any: AtomicBool,
    tasks: Mutex<Vec<Waker>>,
    /// How many may have given up waiting since those were last woken.
    given_up: AtomicUsize,
}

impl Wakers {
    fn tasks(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    pub(crate) fn add(&self, waker: &Waker) {
        let mut tasks = self.tasks();
        if !tasks.iter().any(|task| task.will_wake(waker)) {
            tasks.push(waker.clone());
        }
        self.any.store(true, Ordering::Release);
    }

    pub(crate) fn remove(&self, waker: &Waker) {
        self.tasks().retain(|task| !task.will_wake(waker));
    }

    /// Says that someone may have given up waiting. Whose waker is left is not known: when that may be so of
    /// half of them, all are woken, and who still waits comes again.
    fn give_up(&self) {
        const FEW: usize = 32;
        let given_up = self.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        if given_up >= FEW && given_up >= self.tasks().len() / 2 {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        self.given_up.store(0, Ordering::Relaxed);
        if !self.any() {
            return;
        }
        let tasks = {
            let mut tasks = self.tasks();
            self.any.store(false, Ordering::Release);
            mem::take(&mut *tasks)
        };
        tasks.into_iter().for_each(Waker::wake);
    }
}

impl Waiting {
    pub(crate) fn any(&self) -> bool {
        self.room.any() || self.drained.any()
    }

    /// Says that a task that may have waited for room, or for its turn, does so no more.
    pub(crate) fn give_up(&self) {
        self.room.give_up();
        self.drained.give_up();
        self.turn.give_up();
    }

    pub(crate) fn wake_all(&self) {
        self.room.wake();
        self.drained.wake();
        self.turn.wake();
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}
