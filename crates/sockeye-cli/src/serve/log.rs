//! What `sockeye serve` has to say, printed by a thread of its own: whoever does not read it keeps no connection
//! waiting.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use crate::quantity::Whole;

/// How many texts wait at most, of some hundred bytes each: as many as a crowd that leaves at once.
const WAITING: usize = 16 * 1024;

#[derive(Clone)]
pub(super) struct Log(Arc<Shared>);

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<String>,
    /// One that has been taken and not been printed.
    printing: bool,
    /// How many there was no room for since one was told of.
    lost: u64,
}

impl Log {
    /// Has texts printed, one after the other, each by a call that may take its time.
    pub(super) fn new(mut print: impl FnMut(&str) + Send + 'static) -> Self {
        let this = Self(Arc::default());
        let shared = this.0.clone();
        thread::spawn(move || {
            loop {
                print(&shared.next());
            }
        });
        this
    }

    /// Prints a text, where there is room for it. Never waits.
    pub(super) fn say(&self, text: String) {
        let mut queue = self.0.lock();
        if queue.waiting.len() >= WAITING {
            queue.lost += 1;
            return;
        }
        queue.tell_lost();
        queue.waiting.push_back(text);
        drop(queue);
        self.0.changed.notify_all();
    }

    /// Waits until all is printed, or that time has come.
    pub(super) fn finish(&self, until: Instant) {
        let patience = until.saturating_duration_since(Instant::now());
        let is_busy = |queue: &mut Queue| queue.is_busy();
        // Given up, what is left is lost.
        let _ = self
            .0
            .changed
            .wait_timeout_while(self.0.lock(), patience, is_busy);
    }
}

impl Shared {
    /// The next text to print, when the one before has been printed.
    fn next(&self) -> String {
        let mut queue = self.lock();
        queue.printing = false;
        loop {
            if queue.waiting.is_empty() {
                queue.tell_lost();
            }
            if let Some(text) = queue.waiting.pop_front() {
                queue.printing = true;
                self.changed.notify_all();
                return text;
            }
            self.changed.notify_all();
            let waited = self.changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing in here panics halfway.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_busy(&self) -> bool {
        self.printing || !self.waiting.is_empty()
    }

    fn tell_lost(&mut self) {
        let lost = mem::take(&mut self.lost);
        if lost > 0 {
            let lost = Whole(lost);
            self.waiting
                .push_back(format!("({lost} more, which nobody was there to read)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc::channel, time::Duration};

    use super::*;

    #[test]
    fn who_does_not_read_loses_lines_and_is_told_how_many() {
        let (takes, taken) = channel();
        let (reads, read) = channel::<()>();
        let log = Log::new(move |text| {
            takes.send(text.to_owned()).unwrap();
            // Until it is dropped.
            let _ = read.recv();
        });
        log.say("first".into());
        assert_eq!(taken.recv().unwrap(), "first");
        for number in 0..WAITING + 1234 {
            log.say(number.to_string());
        }
        drop(reads);
        let later = Instant::now() + Duration::from_secs(20);
        log.finish(later);
        log.say("last".into());
        log.finish(later);
        let printed: Vec<_> = taken.try_iter().collect();
        assert_eq!(printed.len(), WAITING + 2);
        assert_eq!(printed[WAITING - 1], (WAITING - 1).to_string());
        assert_eq!(
            printed[WAITING],
            "(1,234 more, which nobody was there to read)"
        );
        assert_eq!(printed[WAITING + 1], "last");
    }

    #[test]
    fn who_reads_slowly_is_not_waited_for_without_end() {
        let (goes_on, pause) = channel::<()>();
        let log = Log::new(move |_| {
            let _ = pause.recv_timeout(Duration::from_millis(20));
        });
        for number in 0..WAITING {
            log.say(number.to_string());
        }
        let began = Instant::now();
        log.finish(began + Duration::from_millis(200));
        assert!(began.elapsed() < Duration::from_secs(20));
        drop(goes_on);
    }
}
