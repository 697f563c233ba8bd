//! So many a second, and so many at once: the rule of a limit on rates, and where someone stands with
//! it.

use std::time::Duration;

/// How often something may happen: so many times a second on the whole, and so many at once.
///
/// ```
/// use sockeye::server::Rate;
/// let calm = Rate::per_second(10);
/// let lively = Rate::per_second(10).burst(200);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    per_second: u64,
    burst: u64,
    /// The nanoseconds that one takes, and that a burst takes: asked for each time, and each is a division.
    one: u64,
    all: u64,
}

impl Rate {
    /// So many a second, at least one, and as many at once.
    pub const fn per_second(count: u64) -> Self {
        let count = if count == 0 { 1 } else { count };
        Self {
            per_second: count,
            burst: count,
            one: time(1, count),
            all: time(count, count),
        }
    }

    /// Sets how many may come at once, at least one, after none have for a while.
    #[must_use]
    pub const fn burst(mut self, count: u64) -> Self {
        self.burst = if count == 0 { 1 } else { count };
        self.all = time(self.burst, self.per_second);
        self
    }

    /// How many a second.
    pub(crate) fn count(self) -> u64 {
        self.per_second
    }

    /// The nanoseconds that so many take.
    fn time(self, count: u64) -> u64 {
        match count {
            1 => self.one,
            count => time(count, self.per_second),
        }
    }
}

/// The nanoseconds that so many take at so many a second.
const fn time(count: u64, per_second: u64) -> u64 {
    let time = count as u128 * 1_000_000_000 / per_second as u128;
    if time > u64::MAX as u128 {
        return u64::MAX;
    }
    time as u64
}

/// What is left of a burst: a token bucket, told by when it is full again, in nanoseconds since
/// any fixed moment (the generic cell rate algorithm). It fills by itself; nothing has to tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bucket(u64);

impl Bucket {
    /// Takes so many out, whether they are there or not: what is owed has to fill up first.
    pub(crate) fn take(&mut self, rate: Rate, now: u64, count: u64) {
        self.0 = self.0.max(now).saturating_add(rate.time(count));
    }

    /// Whether more was taken than there was.
    pub(crate) fn is_owing(self, rate: Rate, now: u64) -> bool {
        self.0 > now.saturating_add(rate.all)
    }

    /// How long until another one is there; `None` where it is.
    pub(crate) fn wait(self, rate: Rate, now: u64) -> Option<Duration> {
        let after = self.0.saturating_add(rate.one.max(1));
        let wait = after.saturating_sub(now.saturating_add(rate.all));
        (wait > 0).then(|| Duration::from_nanos(wait))
    }

    /// Whether it is full, so that nothing needs to be known of it.
    #[cfg(feature = "server")]
    pub(crate) fn is_full(self, now: u64) -> bool {
        self.0 <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::per_second(10).burst(3);
        let mut bucket = Bucket::default();
        for _ in 0..3 {
            assert_eq!(bucket.wait(rate, 5), None);
            bucket.take(rate, 5, 1);
            assert!(!bucket.is_owing(rate, 5));
        }
        assert_eq!(bucket.wait(rate, 5), Some(Duration::from_millis(100)));
        assert_eq!(bucket.wait(rate, 5 + SECOND / 10), None);
        bucket.take(rate, 5, 1);
        assert!(bucket.is_owing(rate, 5));
        assert!(!bucket.is_owing(rate, 5 + SECOND / 10));
    }

    #[test]
    fn any_rate_holds_on_the_whole() {
        for (per_second, burst) in [(1, 1), (3, 7), (1000, 1), (999, 1000), (1 << 30, 1 << 20)] {
            let rate = Rate::per_second(per_second).burst(burst);
            let (mut bucket, mut now, mut taken) = (Bucket::default(), 0_u64, 0_u64);
            let step = (burst / 10).max(1);
            while now < 5 * SECOND && taken < 100_000 * step {
                match bucket.wait(rate, now) {
                    Some(wait) => now += u64::try_from(wait.as_nanos()).unwrap(),
                    None => {
                        bucket.take(rate, now, step);
                        taken += step;
                    }
                }
            }
            let most = u128::from(burst)
                + u128::from(step)
                + u128::from(now) * u128::from(per_second) / u128::from(SECOND);
            assert!(
                u128::from(taken) <= most + most / 500,
                "{rate:?}: {taken} of {most}"
            );
        }
    }

    #[test]
    fn nothing_overflows() {
        let rate = Rate::per_second(0).burst(u64::MAX);
        let mut bucket = Bucket::default();
        bucket.take(rate, u64::MAX - 1, u64::MAX);
        assert!(!bucket.is_owing(rate, 1));
        assert_eq!(rate.count(), 1);
        let one = Rate::per_second(1).burst(0);
        bucket.take(one, 0, u64::MAX);
        assert!(bucket.is_owing(one, 0));
        assert!(bucket.wait(one, 0).is_some());
    }
}
