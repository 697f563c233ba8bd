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
    task::{Context, Poll},
};

use tokio::{
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

#[cfg(target_os = "linux")]
use keeper::Kept;

/// A timer, to be polled by one task at a time.
#[derive(Debug)]
pub(crate) enum Timer {
    /// One of the runtime's own: where its time is not the system's, as in a test that has paused it; where
    /// it need not have descriptors; and on other systems.
    Tokio(Pin<Box<Sleep>>),
    #[cfg(target_os = "linux")]
    Kept(Kept),
}

impl Timer {
    /// A timer in the runtime that this is called in, where need be; `io` says that this has descriptors.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(unused_variables, reason = "for timers that are kept")
    )]
    pub(crate) fn new(deadline: Instant, io: bool) -> Self {
        #[cfg(target_os = "linux")]
        if io && let Some(kept) = Kept::new(deadline) {
            return Self::Kept(kept);
        }
        Self::Tokio(Box::pin(sleep_until(deadline)))
    }

    /// Whether it has run out.
    #[inline]
    pub(crate) fn is_elapsed(&self) -> bool {
        match self {
            Self::Tokio(sleep) => sleep.is_elapsed(),
            #[cfg(target_os = "linux")]
            Self::Kept(kept) => kept.is_elapsed(),
        }
    }

    /// Waits until it has.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            // A timer that says Pending because the task has done much would not have the waker.
            Self::Tokio(sleep) => pin!(unconstrained(sleep.as_mut())).poll(cx),
            #[cfg(target_os = "linux")]
            Self::Kept(kept) => kept.poll(cx),
        }
    }

    /// Sets it anew. Whoever waits has to poll it again.
    pub(crate) fn reset(&mut self, deadline: Instant) {
        match self {
            Self::Tokio(sleep) => sleep.as_mut().reset(deadline),
            #[cfg(target_os = "linux")]
            Self::Kept(kept) => kept.reset(deadline),
        }
    }
}

#[cfg(target_os = "linux")]
mod keeper {
    use std::{
        cell::RefCell,
        collections::BTreeMap,
        io, mem,
        sync::{
            Arc, Mutex, MutexGuard, PoisonError, Weak,
            atomic::{AtomicBool, AtomicU64, Ordering},
        },
        task::{Context, Poll, Waker},
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

    /// Timers that run out within this time do so together, the first so much later.
    const TOGETHER: Duration = Duration::from_millis(1);

    /// A timer that is kept.
    #[derive(Debug)]
    pub(crate) struct Kept {
        keeper: Arc<Keeper>,
        key: Key,
        elapsed: Arc<AtomicBool>,
    }

    /// When a timer runs out, and what tells it from others that do then.
    type Key = (Instant, u64);

    /// The timers of one runtime.
    #[derive(Debug)]
    pub(super) struct Keeper {
        /// No pipe, but read like one: tokio has no safe name for a descriptor of another kind.
        timer: pipe::Receiver,
        queue: Mutex<Queue>,
    }

    #[derive(Debug, Default)]
    struct Queue {
        timers: BTreeMap<Key, Waiting>,
        /// When the descriptor becomes readable.
        set: Option<Instant>,
    }

    #[derive(Debug)]
    struct Waiting {
        waker: Waker,
        elapsed: Arc<AtomicBool>,
    }

    impl Kept {
        /// `None` where this runtime's time is not the system's, or the system has no more descriptors.
        pub(super) fn new(deadline: Instant) -> Option<Self> {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            Some(Self {
                keeper: is_systems().then(Keeper::of_runtime)??,
                key: (deadline, NEXT.fetch_add(1, Ordering::Relaxed)),
                elapsed: Arc::default(),
            })
        }

        #[inline]
        pub(super) fn is_elapsed(&self) -> bool {
            self.elapsed.load(Ordering::Acquire)
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            let waiting = Waiting {
                waker: cx.waker().clone(),
                elapsed: self.elapsed.clone(),
            };
            let mut queue = self.keeper.queue();
            // Under the lock, so that it cannot run out between.
            if self.is_elapsed() {
                return Poll::Ready(());
            }
            queue.timers.insert(self.key, waiting);
            if queue.set.is_none_or(|set| self.key.0 < set) {
                self.keeper.set(&mut queue);
            }
            Poll::Pending
        }

        pub(super) fn reset(&mut self, deadline: Instant) {
            self.forget();
            self.key.0 = deadline;
            self.elapsed.store(false, Ordering::Relaxed);
        }

        fn forget(&self) {
            // What the descriptor is set to is left: to be woken for nothing costs less than to set it
            // whenever a connection ends.
            self.keeper.queue().timers.remove(&self.key);
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            self.forget();
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

        fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            Ok(Self {
                timer: pipe::Receiver::from_owned_fd_unchecked(timer)?,
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

        /// Wakes those whose timers have run out.
        fn ring(&self) {
            let mut queue = self.queue();
            let later = queue.timers.split_off(&(Instant::now(), u64::MAX));
            let elapsed = mem::replace(&mut queue.timers, later);
            self.set(&mut queue);
            // Within the lock: a timer that is polled now must not miss it.
            for waiting in elapsed.values() {
                waiting.elapsed.store(true, Ordering::Release);
            }
            drop(queue);
            for waiting in elapsed.into_values() {
                waiting.waker.wake();
            }
        }

        /// Has the system tell when the first runs out.
        fn set(&self, queue: &mut Queue) {
            queue.set = queue.timers.keys().next().map(|(deadline, _)| *deadline);
            let Some(deadline) = queue.set else { return };
            let wait = deadline.saturating_duration_since(Instant::now()) + TOGETHER;
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
        use std::future::poll_fn;

        use futures_util::future::join_all;
        use tokio::runtime::Builder;

        use super::super::Timer;
        use super::*;

        const SOON: Duration = Duration::from_millis(20);

        async fn elapsed(timer: &mut Timer) {
            poll_fn(|cx| timer.poll(cx)).await;
        }

        fn kept(after: Duration) -> Timer {
            let timer = Timer::new(Instant::now() + after, true);
            assert!(matches!(timer, Timer::Kept(_)), "{timer:?}");
            timer
        }

        #[tokio::test]
        async fn a_timer_wakes_its_task_when_it_runs_out() {
            let begin = Instant::now();
            let mut timer = kept(SOON);
            assert!(!timer.is_elapsed());
            elapsed(&mut timer).await;
            assert!(timer.is_elapsed() && begin.elapsed() >= SOON);
            elapsed(&mut timer).await;
        }

        #[tokio::test]
        async fn timers_run_out_in_order_however_they_were_set() {
            let order = Mutex::new(Vec::new());
            let timers = [3, 1, 4, 2].map(|n| {
                let (order, mut timer) = (&order, kept(n * SOON));
                async move {
                    elapsed(&mut timer).await;
                    order.lock().unwrap().push(n);
                }
            });
            join_all(timers).await;
            assert_eq!(*order.lock().unwrap(), [1, 2, 3, 4]);
        }

        #[tokio::test]
        async fn a_timer_that_is_set_anew_or_dropped_wakes_nobody_before() {
            let mut timer = kept(SOON);
            let cx = &mut Context::from_waker(Waker::noop());
            assert!(timer.poll(cx).is_pending());
            let mut dropped = kept(SOON / 2);
            assert!(dropped.poll(cx).is_pending());
            drop(dropped);
            let later = Instant::now() + 3 * SOON;
            timer.reset(later);
            elapsed(&mut timer).await;
            assert!(Instant::now() >= later);
            let keeper = Keeper::of_runtime().unwrap();
            assert!(keeper.queue().timers.is_empty());
            timer.reset(Instant::now() + SOON);
            assert!(!timer.is_elapsed());
            elapsed(&mut timer).await;
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
            let mut timer = Timer::new(begin + Duration::from_secs(3600), true);
            elapsed(&mut timer).await;
            assert!(begin.elapsed() >= Duration::from_secs(3600));
            assert!(real.elapsed() < Duration::from_secs(600));
        }

        #[test]
        fn without_descriptors_the_timer_is_the_runtime_s() {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                elapsed(&mut Timer::new(Instant::now() + SOON, false)).await;
            });
        }
    }
}
