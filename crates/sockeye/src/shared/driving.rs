//! Driving: the link in the hands of a driver, which writes when its task yields, and in a slot of the thread
//! while that driver polls its user's future.

use std::{
    cell::RefCell,
    sync::atomic::Ordering,
    task::{Context, Poll, Waker},
};

use super::{Shared, State};
use crate::link::{Link, Lost};

/// The link that the driver on this thread is polling its user's future with.
struct Driving {
    id: usize,
    link: Box<Link>,
}

/// The same out of its slot, to which it goes back when this is dropped.
pub(super) struct Taken(Option<Driving>);

impl Taken {
    #[inline]
    pub(super) fn link(&mut self) -> Option<&mut Link> {
        Some(&mut self.0.as_mut()?.link)
    }
}

impl Drop for Taken {
    #[inline]
    fn drop(&mut self) {
        // The slot is there while a driver polls on this thread.
        let _ = DRIVING.try_with(|slot| slot.replace(self.0.take()));
    }
}

thread_local! {
    static DRIVING: RefCell<Option<Driving>> = const { RefCell::new(None) };
}

impl Shared {
    /// Works on the link where its driver is polling its user's future on this thread.
    #[inline]
    pub(super) fn with_driven<R>(&self, work: impl FnOnce(&mut Link) -> R) -> Option<R> {
        let worked = DRIVING.try_with(|slot| {
            let mut slot = slot.try_borrow_mut().ok()?;
            let driving = slot.as_mut().filter(|driving| driving.id == self.id())?;
            Some(work(&mut driving.link))
        });
        worked.ok().flatten()
    }

    /// Takes it out of the slot, so that nothing can find it there twice.
    #[inline]
    pub(super) fn take_driving(&self) -> Option<Taken> {
        let taken = DRIVING.try_with(|slot| {
            let mut slot = slot.try_borrow_mut().ok()?;
            slot.take_if(|driving| driving.id == self.id())
        });
        taken.ok().flatten().map(|driving| Taken(Some(driving)))
    }

    /// Takes the link for a driver.
    pub(crate) fn take_link(&self) -> Option<Box<Link>> {
        self.take_link_of(&mut self.lock())
    }

    /// The same, and says what waits in it to whoever asks from elsewhere.
    fn take_link_of(&self, state: &mut State) -> Option<Box<Link>> {
        let link = state.take_link()?;
        self.driver_buffered
            .store(link.sender.buffered(), Ordering::Relaxed);
        Some(link)
    }

    /// Takes the link for a driver as soon as the one that holds it has given it up.
    pub(crate) fn poll_take_link(&self, cx: &mut Context<'_>) -> Poll<Box<Link>> {
        let mut state = self.lock();
        if let Some(link) = self.take_link_of(&mut state) {
            return Poll::Ready(link);
        }
        state.seldom.get_or_insert_default().wanted = Some(cx.waker().clone());
        self.posted.store(true, Ordering::Release);
        state.wake_driver();
        Poll::Pending
    }

    /// No other driver wants the link any more: the one that has it keeps it.
    pub(crate) fn keep_link(&self) {
        if let Some(seldom) = &mut self.lock().seldom {
            seldom.wanted = None;
        }
    }

    /// Gives the link back: nobody drives the connection any more.
    pub(crate) fn free_link(&self, mut link: Box<Link>) {
        link.forget_tasks();
        let mut state = self.lock();
        state.keep_lent(&mut link);
        // Whoever has asked for what is lent finds it with the link, and is woken as one who waits for an event.
        if let Some(seldom) = &mut state.seldom {
            seldom.asked = false;
        }
        let wanted = state.seldom.as_mut().and_then(|s| s.wanted.take());
        self.take_latest(&mut state, &mut link);
        for command in self.take_inbox(&mut state) {
            let _ = link.apply(command);
        }
        self.driver_buffered.store(0, Ordering::Relaxed);
        if let Some(waiting) = self.waiting.get() {
            waiting.latest.store(0, Ordering::Relaxed);
        }
        state.driver = None;
        if link.has_latest() || !link.is_written() {
            // What has come from elsewhere since the driver wrote: whoever sent it is not there to do so.
            let all = Waker::from(self.waiting().clone());
            let _ = link.poll_flush(&mut Context::from_waker(&all), self.info.client);
        }
        // Whoever waits for an event now writes what is left, and minds the deadline.
        let wakers = [wanted, state.take_reading()];
        state.link = Some(link);
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.wake_waiting();
    }

    /// Says which task is to be woken for what is sent while the driver is not looking.
    pub(crate) fn register_driver(&self, waker: &Waker) {
        self.lock().driver = Some(waker.clone());
    }

    /// Writes for a driver, where that takes one call and nobody waits for it. Says whether nothing is left to
    /// do; else it is for [`poll_drive`](Self::poll_drive).
    #[inline]
    pub(crate) fn drive_quick(&self, link: &mut Link) -> bool {
        if self.waiting.get().is_some() {
            return false;
        }
        match link.write_quick() {
            Ok(all) => {
                if all {
                    self.driver_buffered.store(0, Ordering::Relaxed);
                }
                all
            }
            Err(error) => {
                self.note_lost(link.break_off(error));
                false
            }
        }
    }

    /// Notes that the driver can write no more, and tells whoever waits.
    #[cold]
    pub(crate) fn note_lost(&self, lost: Lost) {
        let mut state = self.lock();
        state.seldom.get_or_insert_default().broken = Some(lost);
        let reading = state.take_reading();
        drop(state);
        reading.into_iter().for_each(Waker::wake);
        // Those who wait for their turn too, which may not come.
        self.wake_waiting();
    }

    /// Writes for a driver, and tells those who wait for it.
    #[inline]
    pub(crate) fn poll_drive(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
    ) -> Poll<Result<(), Lost>> {
        let result = link.poll_flush(cx, self.info.client);
        let buffered = link.sender.buffered();
        self.driver_buffered.store(buffered, Ordering::Relaxed);
        // It may have been broken off before, as by the keepalive.
        if let Poll::Ready(Err(lost)) = &result
            && self.lock().broken().is_none()
        {
            self.note_lost(lost.clone());
        }
        let Some(waiting) = self.waiting.get() else {
            return result;
        };
        waiting.held.store(link.sender.held(), Ordering::Relaxed);
        self.count_latest(link);
        let has_room = || buffered < self.info.settings.output.high_water;
        // Who waits for room where nothing can be sent any more is told so.
        let room = waiting.room.any() && (has_room() || !link.sender.is_open());
        let drained = waiting.drained.any() && (buffered == 0 || result.is_ready());
        if room {
            waiting.room.wake();
        }
        if !link.sender.is_open() {
            // Nobody's turn comes any more.
            waiting.turn.wake();
        }
        if drained {
            waiting.drained.wake();
        }
        result
    }

    /// Whether less output waits than the high-water mark, or nothing can be sent any more, for a task in the poll of its
    /// driver. Else it is woken when that is so.
    ///
    /// What waits is written first: the driver does so when this poll ends, and one that blocks its thread until then, as
    /// by `block_on`, would wait for itself.
    pub(crate) fn has_room(&self, cx: &mut Context<'_>, link: &mut Link) -> bool {
        let high_water = self.info.settings.output.high_water;
        let is_full = |link: &Link| link.sender.buffered() >= high_water && link.sender.is_open();
        if is_full(link) {
            let _ = self.poll_drive(cx, link);
        }
        let has_room = !is_full(link);
        if !has_room {
            self.waiting().room.add(cx.waker());
        }
        has_room
    }

    /// Polls a user's future with the link at hand on this thread.
    pub(crate) fn drive<R>(&self, link: &mut Option<Box<Link>>, poll: impl FnOnce() -> R) -> R {
        /// Puts everything back, also where the user's future panics.
        struct Guard<'a> {
            link: &'a mut Option<Box<Link>>,
            outer: Option<Driving>,
        }
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                let driving = DRIVING.with(|driving| driving.replace(self.outer.take()));
                *self.link = driving.map(|driving| driving.link);
            }
        }
        let driving = link.take().map(|link| Driving {
            id: self.id(),
            link,
        });
        let _guard = Guard {
            link,
            outer: DRIVING.with(|slot| slot.replace(driving)),
        };
        poll()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;
    use crate::{driver::Driver, shared::Access};

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Woken {
        fn take(&self) -> usize {
            self.0.swap(0, Ordering::Relaxed)
        }
    }

    /// Tasks that drive, read, or do one and then the other.
    fn task() -> (Arc<Woken>, Waker) {
        let woken = Arc::<Woken>::default();
        (woken.clone(), woken.into())
    }

    #[test]
    fn a_task_that_has_read_and_then_drives_is_woken_for_what_others_send() {
        let (woken, waker) = task();
        let cx = &mut Context::from_waker(&waker);
        for wakes in [false, true] {
            let shared = Shared::of_nobody();
            shared.park(cx, false, true).unwrap();
            if wakes {
                shared.access(|access| match access {
                    Access::Free(link, _) => link.wake_reading(),
                    Access::Driven(_) | Access::Remote(_) => unreachable!("nobody drives it"),
                });
            }
            let mut driver = Driver::new(shared.clone()).unwrap();
            driver.collect(cx);
            woken.take();
            shared.try_send("from elsewhere".into()).unwrap();
            assert_eq!(woken.take(), 1, "{wakes}");
        }
    }

    #[test]
    fn whoever_reads_is_found_wherever_the_link_is() {
        let shared = Shared::of_nobody();
        let (reading, reader) = task();
        let (driving, driver_waker) = task();
        let free = |shared: &Arc<Shared>| {
            let parked = shared.park(&mut Context::from_waker(&reader), false, true);
            assert_eq!(parked, Ok(None));
        };
        free(&shared);
        // A driver takes over while another task waits.
        let mut driver = Driver::new(shared.clone()).unwrap();
        driver.collect(&mut Context::from_waker(&driver_waker));
        shared.wake_reading();
        assert_eq!((reading.take(), driving.take()), (1, 0));
        // It waits anew, with the link elsewhere; the driver lets go.
        free(&shared);
        drop(driver);
        assert_eq!(reading.take(), 1);
        free(&shared);
        shared.wake_reading();
        shared.wake_reading();
        assert_eq!(reading.take(), 1);
    }

    /// In the poll of the driver: in its own task, and in one of a set of futures.
    #[test]
    fn whoever_reads_in_the_poll_of_the_driver_is_found() {
        let shared = Shared::of_nobody();
        let (own, owns) = task();
        let (other, others) = task();
        let mut driver = Driver::new(shared.clone()).unwrap();
        for (woken, waker) in [(&own, &owns), (&other, &others), (&own, &owns)] {
            let reads = pin!(poll_fn(|_| {
                let cx = &mut Context::from_waker(waker);
                assert!(!shared.park_quick(cx, &mut None));
                shared.park(cx, false, true).unwrap();
                assert!(shared.park_quick(cx, &mut None));
                Poll::<()>::Pending
            }));
            let polled = driver.poll_run(&mut Context::from_waker(&owns), reads);
            assert!(polled.is_pending());
            driver.link().unwrap().wake_reading();
            assert_eq!(woken.take(), 1);
            assert_eq!(own.take() + other.take(), 0);
        }
    }
}
