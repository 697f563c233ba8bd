//! Tasks that wait for output to be written.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Wake, Waker},
    time::{Duration, Instant},
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
    /// How much memory messages take with a driver that are replaced while they wait.
    pub(crate) latest: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct Wakers {
    any: AtomicBool,
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    all: Vec<Task>,
    /// With so many of them, who has given up is looked for.
    many: usize,
    /// Since when so many were asked.
    asked: Option<(Instant, usize)>,
}

/// How many are asked within a second whether they still wait: a runtime polls whom it has woken behind all others, and a
/// hundred that are taken for gone, and come again, would be asked for ever. Where nobody is, they are all there soon.
const ASKED: usize = 8192;

#[derive(Debug)]
struct Task {
    waker: Waker,
    /// Whether it was woken to see whether it still waits: then it comes again.
    asked: bool,
}

impl Wakers {
    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Has a task woken, until it gives up, which nobody says: where the peer takes nothing and others try again
    /// and again, what would wake them must not pile up. Tells whether it was not waiting already.
    pub(crate) fn add(&self, waker: &Waker) -> bool {
        self.add_at(waker, Instant::now)
    }

    fn add_at(&self, waker: &Waker, now: impl Fn() -> Instant) -> bool {
        /// So many that gave up may be left.
        const FEW: usize = 16;
        let mut tasks = self.tasks();
        self.any.store(true, Ordering::Release);
        let known = tasks.all.iter_mut().find(|it| it.waker.will_wake(waker));
        if let Some(known) = known {
            known.asked = false;
            return false;
        }
        let mut asked = Vec::new();
        if tasks.all.len() >= tasks.many.max(FEW) && tasks.may_ask(&now) {
            asked = tasks.ask();
            // By half: while many come who go on waiting, each is asked three times, on average.
            let left = tasks.all.len();
            tasks.many = left + left / 2 + FEW;
        }
        tasks.add(waker);
        drop(tasks);
        asked.into_iter().for_each(|task| task.waker.wake());
        true
    }

    /// Has something woken until it is [removed](Self::remove), and not to be asked whether it still waits.
    pub(crate) fn keep(&self, waker: &Waker) {
        let mut tasks = self.tasks();
        self.any.store(true, Ordering::Release);
        tasks.add(waker);
    }

    /// Once: a task may have been kept by several that wait in it.
    pub(crate) fn remove(&self, waker: &Waker) {
        let mut tasks = self.tasks();
        let kept = tasks.all.iter().position(|it| it.waker.will_wake(waker));
        let removed = kept.map(|at| tasks.all.swap_remove(at));
        drop(tasks);
        // A waker runs code of its own when it is dropped.
        drop(removed);
    }

    pub(crate) fn wake(&self) {
        if !self.any() {
            return;
        }
        let all = {
            let mut tasks = self.tasks();
            self.any.store(false, Ordering::Release);
            // As many may come again.
            tasks.many = tasks.all.len();
            mem::take(&mut tasks.all)
        };
        all.into_iter().for_each(|task| task.waker.wake());
    }
}

impl Tasks {
    fn add(&mut self, waker: &Waker) {
        self.all.push(Task {
            waker: waker.clone(),
            asked: false,
        });
    }

    fn may_ask(&mut self, now: &impl Fn() -> Instant) -> bool {
        const SECOND: Duration = Duration::from_secs(1);
        let now = now();
        let (since, asked) = match self.asked {
            Some((since, asked)) if now < since + SECOND => (since, asked),
            _ => (now, 0),
        };
        if asked >= ASKED {
            return false;
        }
        self.asked = Some((since, asked + self.all.len()));
        true
    }

    /// Lets go of those that were asked before and have not come again. Gives all, to be woken.
    fn ask(&mut self) -> Vec<Task> {
        let all = mem::take(&mut self.all);
        let left = all.iter().filter(|task| !task.asked);
        self.all = left
            .map(|task| Task {
                waker: task.waker.clone(),
                asked: true,
            })
            .collect();
        all
    }
}

impl Waiting {
    pub(crate) fn any(&self) -> bool {
        self.room.any() || self.drained.any()
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tasks(count: usize) -> Vec<Arc<Woken>> {
        (0..count).map(|_| Arc::default()).collect()
    }

    fn woken(task: &Arc<Woken>) -> usize {
        task.0.swap(0, Ordering::Relaxed)
    }

    /// Has those wait again that were woken: how many.
    fn come_again(wakers: &Wakers, tasks: &[Arc<Woken>], now: Instant) -> usize {
        let asked = tasks.iter().filter(|task| woken(task) > 0);
        let come = |task: &&Arc<Woken>| {
            wakers.add_at(&(*task).clone().into(), || now);
        };
        asked.inspect(come).count()
    }

    #[test]
    fn those_who_give_up_do_not_pile_up_around_those_who_wait() {
        let (wakers, patient) = (Wakers::default(), tasks(50));
        let mut now = Instant::now();
        for task in &patient {
            wakers.add_at(&task.clone().into(), || now);
        }
        let (mut most, mut asked) = (0, 0);
        for impatient in tasks(10_000) {
            now += Duration::from_millis(1);
            wakers.add_at(&impatient.into(), || now);
            asked += come_again(&wakers, &patient, now);
            most = most.max(wakers.tasks().all.len());
        }
        assert!(most < 250, "{most}");
        assert!(asked < 20_000, "{asked}");
        wakers.wake();
        assert!(patient.iter().all(|task| woken(task) == 1));
        assert_eq!(wakers.tasks().all.len(), 0);
    }

    #[test]
    fn as_many_as_before_are_not_asked_again() {
        let (wakers, all) = (Wakers::default(), tasks(100));
        for round in 0..3 {
            let mut asked = 0;
            for task in &all {
                wakers.add(&task.clone().into());
                asked += come_again(&wakers, &all, Instant::now());
            }
            assert_eq!(asked > 0, round == 0, "{round}: {asked}");
            wakers.wake();
            assert!(all.iter().all(|task| woken(task) == 1), "{round}");
        }
    }

    /// As in a runtime, which polls whom it has woken behind all others: a hundred of them kept a core busy for as long as
    /// they waited.
    #[test]
    fn those_who_wait_are_seldom_asked_however_many_they_are() {
        for count in [50, 100, 400] {
            let (wakers, all) = (Wakers::default(), tasks(count));
            let begun = Instant::now();
            // A minute, in which each poll takes ten microseconds, and else nothing happens for a while.
            let (mut now, mut polls) = (begun, 0);
            let mut queue: std::collections::VecDeque<usize> = (0..count).collect();
            let mut is_queued = vec![true; count];
            while now < begun + Duration::from_secs(60) {
                match queue.pop_front() {
                    Some(number) => {
                        is_queued[number] = false;
                        woken(&all[number]);
                        wakers.add_at(&all[number].clone().into(), || now);
                        polls += 1;
                        now += Duration::from_micros(10);
                    }
                    None => now += Duration::from_millis(20),
                }
                for number in 0..count {
                    if !is_queued[number] && all[number].0.load(Ordering::Relaxed) > 0 {
                        is_queued[number] = true;
                        queue.push_back(number);
                    }
                }
            }
            assert!(polls < 20 * count + 20_000, "{count}: {polls}");
            wakers.wake();
            assert!(all.iter().all(|task| woken(task) == 1), "{count}");
        }
    }

    #[test]
    fn what_is_kept_is_not_asked() {
        let wakers = Wakers::default();
        let kept = tasks(100);
        kept.iter().for_each(|it| wakers.keep(&it.clone().into()));
        assert!(kept.iter().all(|it| woken(it) == 0));
        wakers.remove(&kept[0].clone().into());
        wakers.wake();
        let woken: usize = kept.iter().map(woken).sum();
        assert_eq!(woken, 99);
    }

    #[test]
    fn what_was_kept_twice_is_kept_until_both_have_gone() {
        let (wakers, kept) = (Wakers::default(), tasks(1));
        let waker = kept[0].clone().into();
        for left in [1, 0] {
            wakers.keep(&waker);
            wakers.keep(&waker);
            for _ in left..2 {
                wakers.remove(&waker);
            }
            wakers.wake();
            assert_eq!(woken(&kept[0]), left);
        }
    }
}
