//! Timers that cost nothing while they wait.
//!
//! A runtime in which any timer of its own is set has the system set one whenever it waits: 0.4 µs, a
//! twentieth of all that a message costs that comes alone. And a connection that is kept has a timer for as
//! long as it is open, most of them half a minute away. So on Linux these wait [here](Keeper), in order, and
//! the system is told once of the first: by a descriptor (timerfd) among those that the runtime waits for
//! anyway.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Weak,
    task::{Context, Poll, Waker},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

use crate::shared::Shared;
#[cfg(target_os = "linux")]
use keeper::Kept;

/// A timer of a connection.
#[derive(Debug)]
pub(crate) enum Timer {
    /// One of the runtime's own: where its time is not the system's, as in a test that has paused it; where
    /// it need not have descriptors; and on other systems.
    Tokio(Box<Slept>),
    #[cfg(target_os = "linux")]
    Kept(Kept),
}

/// A timer of the runtime's own, to be polled by one task at a time.
#[derive(Debug)]
pub(crate) struct Slept {
    sleep: Pin<Box<Sleep>>,
    /// The task that it wakes.
    wakes: Option<Waker>,
}

impl Timer {
    /// A timer of `connection`, in the runtime that this is called in where need be; `io` says that this has
    /// descriptors.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(unused_variables, reason = "for timers that are kept")
    )]
    pub(crate) fn new(deadline: Instant, io: bool, connection: &Weak<Shared>) -> Self {
        #[cfg(target_os = "linux")]
        if io && let Some(kept) = Kept::new(deadline, connection) {
            return Self::Kept(kept);
        }
        Self::Tokio(Box::new(Slept {
            sleep: Box::pin(sleep_until(deadline)),
            wakes: None,
        }))
    }

    /// Whether it has run out; else the task is woken when it has, or whoever [looks after the
    /// connection](Shared::ring) then. Asked in every poll.
    #[inline]
    pub(crate) fn is_elapsed(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Tokio(slept) => slept.is_elapsed(cx),
            #[cfg(target_os = "linux")]
            Self::Kept(kept) => kept.is_elapsed(),
        }
    }

    /// Sets it anew.
    pub(crate) fn reset(&mut self, deadline: Instant) {
        match self {
            Self::Tokio(slept) => {
                slept.sleep.as_mut().reset(deadline);
                slept.wakes = None;
            }
            #[cfg(target_os = "linux")]
            Self::Kept(kept) => kept.reset(deadline),
        }
    }
}

impl Slept {
    /// Only the first poll of a task troubles the timer.
    fn is_elapsed(&mut self, cx: &mut Context<'_>) -> bool {
        let known = matches!(&self.wakes, Some(waker) if waker.will_wake(cx.waker()));
        self.sleep.is_elapsed() || !known && self.poll(cx).is_ready()
    }

    #[cold]
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wakes = Some(cx.waker().clone());
        // A timer that says Pending because the task has done much would not have the waker.
        pin!(unconstrained(self.sleep.as_mut())).poll(cx)
    }
}

#[cfg(target_os = "linux")]
mod keeper {
    use std::{
        cell::RefCell,
        collections::{BTreeMap, btree_map::Entry},
        io,
        ops::Bound::{Excluded, Included, Unbounded},
        sync::{
            Arc, Mutex, MutexGuard, PoisonError, Weak,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::{
        net::unix::pipe,
        runtime::{self, Handle},
        time::Instant,
    };

    use crate::shared::Shared;

    /// Timers that run out within this time do so together, the first so much later.
    const TOGETHER: Duration = Duration::from_millis(1);

    /// A timer that is kept.
    ///
    /// There is one with every connection: what tells whether it has run out is the keeper's, and what tells
    /// whom to wake is the connection's.
    #[derive(Debug)]
    pub(crate) struct Kept {
        keeper: Arc<Keeper>,
        key: Key,
    }

    /// When a timer runs out, in nanoseconds since its keeper began, from 1. A few more tell it from others that
    /// do then.
    type Key = u64;

    /// The timers of one runtime.
    #[derive(Debug)]
    pub(super) struct Keeper {
        /// No pipe, but read like one: tokio has no safe name for a descriptor of another kind.
        timer: pipe::Receiver,
        began: Instant,
        /// All timers until then have run out.
        elapsed: AtomicU64,
        queue: Mutex<Queue>,
    }

    #[derive(Debug, Default)]
    struct Queue {
        /// All of them, also those that have run out and were not set anew.
        timers: BTreeMap<Key, Weak<Shared>>,
        /// When the descriptor becomes readable.
        set: Option<Key>,
    }

    impl Kept {
        /// `None` where this runtime's time is not the system's, or the system has no more descriptors.
        pub(super) fn new(deadline: Instant, connection: &Weak<Shared>) -> Option<Self> {
            let keeper = is_systems().then(Keeper::of_runtime)??;
            Some(Self {
                key: keeper.put(deadline, connection.clone()),
                keeper,
            })
        }

        #[inline]
        pub(super) fn is_elapsed(&self) -> bool {
            self.keeper.elapsed.load(Ordering::Acquire) >= self.key
        }

        pub(super) fn reset(&mut self, deadline: Instant) {
            // There for as long as this is.
            if let Some(connection) = self.take_out() {
                self.key = self.keeper.put(deadline, connection);
            }
        }

        fn take_out(&self) -> Option<Weak<Shared>> {
            // What the descriptor is set to is left: to be woken for nothing costs less than to set it
            // whenever a connection ends.
            self.keeper.queue().timers.remove(&self.key)
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.take_out();
        }
    }

    thread_local! {
        /// The last runtime that was asked for in this thread: mostly the only one.
        static LAST: RefCell<Option<(runtime::Id, Weak<Keeper>)>> = const { RefCell::new(None) };
    }

    impl Keeper {
        /// The keeper of the runtime that this is called in, which has descriptors.
        fn of_runtime() -> Option<Arc<Self>> {
            static ALL: Mutex<Vec<(runtime::Id, Weak<Keeper>)>> = Mutex::new(Vec::new());
            let runtime = Handle::try_current().ok()?;
            let id = runtime.id();
            let last = LAST.with_borrow(|last| {
                let (_, keeper) = last.as_ref().filter(|(of, _)| *of == id)?;
                keeper.upgrade()
            });
            if last.is_some() {
                return last;
            }
            let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|(_, keeper)| keeper.strong_count() > 0);
            let known = all.iter().find(|(of, _)| *of == id);
            let keeper = match known.and_then(|(_, keeper)| keeper.upgrade()) {
                Some(keeper) => keeper,
                None => {
                    let keeper = Arc::new(Self::new().ok()?);
                    runtime.spawn(keeper.clone().keep());
                    all.push((id, Arc::downgrade(&keeper)));
                    keeper
                }
            };
            LAST.set(Some((id, Arc::downgrade(&keeper))));
            Some(keeper)
        }

        /// Panics in a runtime without descriptors, of which tokio says so in no other way: whoever has a socket of
        /// another runtime there is told by `Acceptor::accept` and `Client::connect_over`.
        fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self {
                timer: pipe::Receiver::from_owned_fd_unchecked(timer)?,
                began: Instant::now(),
                elapsed: AtomicU64::new(0),
                queue: Mutex::default(),
            })
        }

        fn queue(&self) -> MutexGuard<'_, Queue> {
            self.queue.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// Wakes whoever waits, for as long as the runtime runs.
        async fn keep(self: Arc<Self>) {
            while self.timer.readable().await.is_ok() {
                // How often it has run out, which does not matter; or nothing.
                if self.timer.try_read(&mut [0; 8]).is_ok() {
                    self.ring();
                }
            }
        }

        /// Has the connection rung for at that time.
        fn put(&self, deadline: Instant, connection: Weak<Shared>) -> Key {
            let mut key = self.key(deadline).max(1);
            let mut queue = self.queue();
            let free = loop {
                match queue.timers.entry(key) {
                    Entry::Vacant(free) => break free,
                    Entry::Occupied(_) => key += 1,
                }
            };
            free.insert(connection);
            if queue.set.is_none_or(|set| key < set) {
                self.set(&mut queue);
            }
            key
        }

        fn key(&self, at: Instant) -> Key {
            let since = at.saturating_duration_since(self.began);
            // What is left of it are centuries.
            Key::try_from(since.as_nanos()).unwrap_or(Key::MAX / 2)
        }

        /// Rings for those whose timers have run out.
        fn ring(&self) {
            let mut queue = self.queue();
            let before = self.elapsed.load(Ordering::Relaxed);
            let now = self.key(Instant::now()).max(before);
            let elapsed = queue.timers.range((Excluded(before), Included(now)));
            // Let go of without the lock, which whoever is the last to do so takes.
            let elapsed: Vec<_> = elapsed.filter_map(|(_, who)| who.upgrade()).collect();
            self.elapsed.store(now, Ordering::Release);
            self.set(&mut queue);
            drop(queue);
            for connection in elapsed {
                connection.ring();
            }
        }

        /// Has the system tell when the first runs out.
        fn set(&self, queue: &mut Queue) {
            let elapsed = self.elapsed.load(Ordering::Relaxed);
            let mut waiting = queue.timers.range((Excluded(elapsed), Unbounded));
            queue.set = waiting.next().map(|(key, _)| *key);
            let Some(key) = queue.set else { return };
            let wait =
                Duration::from_nanos(key.saturating_sub(self.key(Instant::now()))) + TOGETHER;
            let setting = Itimerspec {
                it_interval: Timespec::default(),
                it_value: Timespec::try_from(wait).unwrap_or(Timespec {
                    tv_sec: i64::MAX,
                    tv_nsec: 0,
                }),
            };
            // It fails for descriptors that are no timer, and times that are none.
            let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &setting);
        }
    }

    /// Whether the time that tokio tells is the system's.
    fn is_systems() -> bool {
        let before = std::time::Instant::now();
        let told = Instant::now().into_std();
        before <= told && told <= std::time::Instant::now()
    }

    #[cfg(test)]
    mod tests {
        use std::{future::poll_fn, task::Poll};

        use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
        use tokio::runtime::Builder;

        use super::super::Timer;
        use super::*;

        const SOON: Duration = Duration::from_millis(20);

        /// Waits as a driver does.
        async fn elapsed(timer: &mut Timer, connection: &Shared) {
            poll_fn(|cx| {
                connection.register_driver(cx.waker());
                match timer.is_elapsed(cx) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }

        fn kept(after: Duration) -> (Timer, Arc<Shared>) {
            kept_until(Instant::now() + after)
        }

        fn kept_until(deadline: Instant) -> (Timer, Arc<Shared>) {
            let connection = Shared::of_nobody();
            let timer = Timer::new(deadline, true, &Arc::downgrade(&connection));
            assert!(matches!(timer, Timer::Kept(_)), "{timer:?}");
            (timer, connection)
        }

        fn timers() -> usize {
            Keeper::of_runtime().unwrap().queue().timers.len()
        }

        #[tokio::test]
        async fn a_timer_wakes_its_task_when_it_runs_out() {
            let begin = Instant::now();
            let (mut timer, connection) = kept(SOON);
            elapsed(&mut timer, &connection).await;
            assert!(begin.elapsed() >= SOON);
            elapsed(&mut timer, &connection).await;
        }

        #[tokio::test]
        async fn timers_run_out_in_order_however_they_were_set() {
            let order = Mutex::new(Vec::new());
            let now = Instant::now();
            let timers = [3, 1, 4, 2].into_iter().map(|n| {
                let (order, (mut timer, connection)) = (&order, kept_until(now + n * SOON));
                async move {
                    elapsed(&mut timer, &connection).await;
                    order.lock().unwrap().push(n);
                }
            });
            // Polled in the order of waking, where several have run out at once.
            timers.collect::<FuturesUnordered<_>>().count().await;
            assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4]);
        }

        #[tokio::test]
        async fn timers_of_the_same_moment_all_run_out() {
            let deadline = Instant::now() + SOON;
            let all: Vec<_> = (0..100)
                .map(|_| {
                    let connection = Shared::of_nobody();
                    let timer = Timer::new(deadline, true, &Arc::downgrade(&connection));
                    (timer, connection)
                })
                .collect();
            assert_eq!(timers(), 100);
            join_all(all.into_iter().map(|(mut timer, connection)| async move {
                elapsed(&mut timer, &connection).await;
                assert!(Instant::now() >= deadline);
            }))
            .await;
            assert_eq!(timers(), 0);
        }

        #[tokio::test]
        async fn a_timer_that_is_set_anew_or_dropped_wakes_nobody_before() {
            let (mut timer, connection) = kept(SOON);
            drop(kept(SOON / 2));
            assert_eq!(timers(), 1);
            let later = Instant::now() + 3 * SOON;
            timer.reset(later);
            elapsed(&mut timer, &connection).await;
            assert!(Instant::now() >= later);
            assert_eq!(timers(), 1);
            let later = Instant::now() + SOON;
            timer.reset(later);
            elapsed(&mut timer, &connection).await;
            assert!(Instant::now() >= later);
        }

        #[tokio::test]
        async fn a_connection_that_is_gone_is_not_rung_for() {
            let (gone, connection) = kept(SOON / 2);
            drop(connection);
            let (mut timer, connection) = kept(SOON);
            elapsed(&mut timer, &connection).await;
            drop((gone, timer));
            assert_eq!(timers(), 0);
        }

        #[test]
        fn each_runtime_has_one_keeper_on_all_of_its_threads() {
            let keepers = || {
                let runtime = Builder::new_multi_thread()
                    .worker_threads(2)
                    .enable_all()
                    .build()
                    .unwrap();
                let one = || {
                    let keeper = async { Keeper::of_runtime().unwrap() };
                    runtime.block_on(runtime.spawn(keeper)).unwrap()
                };
                let here = runtime.block_on(async { Keeper::of_runtime().unwrap() });
                assert!((0..8).all(|_| Arc::ptr_eq(&here, &one())));
                here
            };
            assert!(!Arc::ptr_eq(&keepers(), &keepers()));
        }

        /// A runtime with a timer of its own goes on to that at once.
        #[tokio::test(start_paused = true)]
        async fn paused_time_is_kept_to() {
            let (begin, real) = (Instant::now(), std::time::Instant::now());
            let connection = Shared::of_nobody();
            let deadline = begin + Duration::from_secs(3600);
            let mut timer = Timer::new(deadline, true, &Arc::downgrade(&connection));
            elapsed(&mut timer, &connection).await;
            assert!(begin.elapsed() >= Duration::from_secs(3600));
            assert!(real.elapsed() < Duration::from_secs(600));
        }

        #[test]
        fn without_descriptors_the_timer_is_the_runtime_s() {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let connection = Shared::of_nobody();
                let deadline = Instant::now() + SOON;
                let mut timer = Timer::new(deadline, false, &Arc::downgrade(&connection));
                elapsed(&mut timer, &connection).await;
            });
        }
    }
}
