//! Staying connected: pings and their deadline, how long they took, and when a connection has been
//! idle for too long (RFC 6455 §5.5.2, §5.5.3).
//!
//! [`Keepalive`] knows when what is due, and nothing of sockets and clocks. An [`Alarm`] is that with
//! a timer, and lives with the sending side. A [`Pulse`] is what the receiving side tells it, without a
//! lock: reading stores how many bytes have come, and nothing is timed or counted a message.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher, Hasher},
    mem,
    sync::{
        LazyLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::Context,
    time::Duration,
};

use sockeye_proto::Meter;
use tokio::time::Instant;

use crate::{clock::Timer, shared::Shared};

/// How long a connection is kept, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Staying {
    /// From one ping to the next.
    pub(crate) interval: Option<Duration>,
    /// How long the peer may be silent after a ping.
    pub(crate) timeout: Duration,
    /// How long there may be no message in either direction.
    pub(crate) idle: Option<Duration>,
    /// How long there may be a connection.
    pub(crate) lifetime: Option<Duration>,
}

impl Default for Staying {
    /// Half a minute keeps the mappings of common NATs and proxies, which begin to forget after one.
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(30)),
            timeout: Duration::from_secs(20),
            idle: None,
            lifetime: None,
        }
    }
}

/// Takes up to a tenth off a lifetime, at random: connections that were opened together are not closed
/// together.
fn spread(lifetime: Duration) -> Duration {
    // Random enough for this, and costs no call of the system.
    let random = RandomState::new().build_hasher().finish();
    let tenth = lifetime / 10;
    lifetime - tenth.mul_f64(random as f64 / u64::MAX as f64)
}

/// A time of this crate's settings: none where it is zero, as people write "never", and no longer than
/// any clock can tell.
pub(crate) fn some_time(time: impl Into<Option<Duration>>) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
    let time = time.into().filter(|time| !time.is_zero())?;
    Some(time.clamp(Duration::from_millis(1), YEAR))
}

/// That long from now. What is longer than any clock can tell is as good as never.
pub(crate) fn after(time: Duration) -> Instant {
    const YEARS: Duration = Duration::from_secs(30 * 365 * 24 * 3600);
    Instant::now() + time.min(YEARS)
}

/// A moment, in microseconds since the connection opened.
type Micros = u64;

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX)
}

/// The same of a setting; 0 for never.
fn span(time: Option<Duration>) -> Micros {
    some_time(time).map_or(0, micros)
}

/// A deadline that is looked at this much too late was not the peer's fault: this end slept, or had
/// other things to do.
const LATE: Micros = 1_000_000;

/// When what is due.
///
/// A ping goes out each interval, whatever else does: that measures the way there and back on a busy
/// connection too, and keeps open the mappings on the way in both directions. Anything that comes
/// after it, not only its pong, shows that the peer is there. Where that may take longer than an interval, the next
/// ping waits for it.
#[derive(Debug)]
pub(crate) struct Keepalive {
    /// There where it may not be idle, or live, for as long as it wants.
    bounds: Option<Box<Bounds>>,
    /// When the last ping was sent.
    pinged: Micros,
    /// When to look next: the next ping is due, or would be if anything has come, or the deadline has come.
    due: Micros,
    /// How much had been received, and written, when the peer was last asked for a sign.
    received: usize,
    written: usize,
    /// Whether a ping waits for a sign of the peer.
    waiting: bool,
    /// Whether its deadline was set anew.
    again: bool,
    /// Whether output waited for the peer already when it was sent.
    clogged: bool,
    /// Whether this ping's deadline was looked at too late.
    late: bool,
    /// Whether no sign came for the ping before either.
    silent: bool,
}

/// How long a connection may be idle, and live; each 0 for ever.
#[derive(Debug)]
struct Bounds {
    idle: Micros,
    /// When to look next whether there was a message.
    look: Micros,
    /// The last time that there was known to have been one.
    active: Micros,
    /// How many bytes messages had been in both directions.
    traffic: usize,
    /// How many bytes to the peer were pings and pongs. It wraps, and is compared only, as those.
    control: usize,
    /// When the connection has lived for long enough.
    end: Micros,
}

/// What a tick goes by.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// How many bytes have come.
    pub(crate) received: usize,
    /// How many bytes the transport has taken.
    pub(crate) written: usize,
    /// Whether output waits.
    pub(crate) waits: bool,
    /// How many bytes messages were, in both directions, and pings and pongs to the peer.
    pub(crate) traffic: usize,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send a ping.
    Ping,
    /// Ask whoever reads whether anything has come. Where nothing has beyond so many bytes, the peer
    /// is gone.
    Ask { received: usize },
    /// Give the peer up. It takes nothing, and nobody reads what might come.
    GiveUp,
    /// Close, and say why: nothing was said for too long, or the connection is old.
    Close { reason: &'static str },
}

impl Keepalive {
    /// None where nothing is ever due.
    pub(crate) fn new(staying: &Staying) -> Option<Self> {
        let interval = span(staying.interval);
        let bounds = Bounds::new(staying);
        (interval > 0 || bounds.is_some()).then_some(Self {
            bounds,
            pinged: 0,
            due: if interval > 0 { interval } else { Micros::MAX },
            received: 0,
            written: 0,
            waiting: false,
            again: false,
            clogged: false,
            late: false,
            silent: false,
        })
    }

    /// When to [`tick`](Self::tick) next.
    pub(crate) fn due(&self) -> Duration {
        let bounds = self.bounds.as_ref().map_or(Micros::MAX, |b| b.due());
        Duration::from_micros(self.due.min(bounds))
    }

    /// What is to be done now; `staying` is what it was made with. Call it again until there is nothing.
    pub(crate) fn tick(&mut self, staying: &Staying, now: Duration, seen: Seen) -> Option<Step> {
        let now = micros(now);
        if let Some(bounds) = &mut self.bounds
            && let Some(reason) = bounds.tick(now, seen)
        {
            return Some(Step::Close { reason });
        }
        if now < self.due {
            return None;
        }
        if !mem::take(&mut self.waiting) {
            self.pinged = now;
            (self.waiting, self.late, self.again) = (true, false, false);
            self.ask(staying, now, seen);
            return Some(Step::Ping);
        }
        if seen.received != self.received {
            self.silent = false;
            self.rest(staying, now);
            // Where the deadline is longer than the interval, the next ping is due.
            return self.tick(staying, Duration::from_micros(now), seen);
        }
        let deadline = self.deadline(staying);
        if now < deadline {
            self.waiting = true;
            self.due = deadline.min(self.next(staying, now));
            return None;
        }
        // The ping stands behind other things, and the peer is still taking those.
        let is_taking = self.clogged && seen.written != self.written;
        let is_late = now > self.due.saturating_add(LATE) && !self.late;
        if is_taking || is_late {
            (self.waiting, self.late, self.again) = (true, is_late, true);
            self.ask(staying, now, seen);
            return None;
        }
        let is_stuck = seen.waits && seen.written == self.written;
        if mem::replace(&mut self.silent, true) && is_stuck {
            return Some(Step::GiveUp);
        }
        self.rest(staying, now);
        Some(Step::Ask {
            received: self.received,
        })
    }

    /// Gives the peer its time to show itself.
    fn ask(&mut self, staying: &Staying, now: Micros, seen: Seen) {
        (self.received, self.written) = (seen.received, seen.written);
        self.clogged = seen.waits;
        let timeout = span(Some(staying.timeout)).max(1);
        self.due = now.saturating_add(timeout);
        if !self.again {
            self.due = self.due.min(self.next(staying, now));
        }
    }

    /// When the peer has to have shown itself.
    fn deadline(&self, staying: &Staying) -> Micros {
        match self.again {
            true => self.due,
            false => self
                .pinged
                .saturating_add(span(Some(staying.timeout)).max(1)),
        }
    }

    /// An interval from now.
    fn next(&self, staying: &Staying, now: Micros) -> Micros {
        now.saturating_add(span(staying.interval).max(1))
    }

    /// Until the next ping.
    fn rest(&mut self, staying: &Staying, now: Micros) {
        let interval = span(staying.interval);
        self.due = self.pinged.saturating_add(interval).max(now);
    }
}

impl Bounds {
    /// In a box, as most connections have none.
    fn new(staying: &Staying) -> Option<Box<Self>> {
        let (idle, end) = (span(staying.idle), span(staying.lifetime.map(spread)));
        let bounds = Self {
            idle,
            look: idle / 4,
            active: 0,
            traffic: 0,
            control: 0,
            end,
        };
        (idle > 0 || end > 0).then(|| Box::new(bounds))
    }

    fn due(&self) -> Micros {
        let some = |set: Micros, at: Micros| if set > 0 { at } else { Micros::MAX };
        some(self.idle, self.look).min(some(self.end, self.end))
    }

    /// Why the connection is to be closed now.
    fn tick(&mut self, now: Micros, seen: Seen) -> Option<&'static str> {
        if self.end > 0 && now >= self.end {
            return Some("lifetime");
        }
        let idle = self.idle > 0 && now >= self.look && self.is_idle(now, seen);
        idle.then_some("idle")
    }

    /// Looks four times as often as needed, so that nothing has to be timed a message: a connection is
    /// idle for up to a quarter longer than it may.
    fn is_idle(&mut self, now: Micros, seen: Seen) -> bool {
        let traffic = seen.traffic.wrapping_sub(self.control);
        if traffic != self.traffic {
            (self.traffic, self.active) = (traffic, now);
        }
        let end = self.active.saturating_add(self.idle);
        self.look = now
            .saturating_add((self.idle / 4).max(1))
            .min(end.max(now + 1));
        now >= end
    }
}

/// What the receiving side tells of the peer, beside how many bytes have come. That wraps, and is compared
/// only.
#[derive(Debug)]
pub(crate) struct Pulse {
    opened: Moment,
    /// How many of them were pings and pongs.
    control: AtomicUsize,
    /// Beyond how many anything has to have come, where whoever reads is asked for that.
    beyond: AtomicUsize,
    /// The last pings, each named by when it was sent in nanoseconds, from 1, which is its payload too; 0
    /// for none.
    sent: [AtomicU64; 2],
    /// How long the last one took there and back, in nanoseconds.
    took: AtomicU64,
}

/// An [`Instant`] in half of its room: nanoseconds since one that is the same in all of the process, or before it.
#[derive(Clone, Copy, Debug)]
struct Moment(i64);

impl Moment {
    fn of(instant: Instant) -> Self {
        // What is left of it are centuries.
        let nanos = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        match instant.checked_duration_since(*FIXED) {
            Some(after) => Self(nanos(after)),
            // A runtime whose time is paused may be behind.
            None => Self(-nanos(FIXED.duration_since(instant))),
        }
    }

    fn instant(self) -> Instant {
        let distance = Duration::from_nanos(self.0.unsigned_abs());
        if self.0 < 0 {
            *FIXED - distance
        } else {
            *FIXED + distance
        }
    }
}

static FIXED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nobody is asked.
const NOT_ASKED: usize = usize::MAX;

/// No ping of ours was answered.
const NOT_TIMED: u64 = u64::MAX;

impl Pulse {
    pub(crate) fn new(opened: Instant) -> Self {
        Self {
            opened: Moment::of(opened),
            control: AtomicUsize::new(0),
            beyond: AtomicUsize::new(NOT_ASKED),
            sent: Default::default(),
            took: AtomicU64::new(NOT_TIMED),
        }
    }

    /// How many of the bytes that have come were no pings and pongs.
    pub(crate) fn messages(&self, received: usize) -> usize {
        received.wrapping_sub(self.control.load(Ordering::Relaxed))
    }

    /// Counts a ping or a pong that came, with its header.
    pub(crate) fn control(&self, payload: usize, client: bool) {
        // To a client nothing comes masked (§5.1).
        let header = if client { 2 } else { 6 };
        self.control.fetch_add(header + payload, Ordering::Relaxed);
    }

    /// The payload of a ping that is sent now.
    pub(crate) fn ping(&self) -> [u8; 8] {
        let now = self.now();
        let [newest, older] = &self.sent;
        // In this order, so that no pong finds its ping in neither.
        older.store(newest.load(Ordering::Relaxed), Ordering::Relaxed);
        newest.store(now, Ordering::Relaxed);
        now.to_be_bytes()
    }

    /// Whether a pong answers one of the last pings of ours, once each; it is then timed.
    pub(crate) fn pong(&self, payload: &[u8]) -> bool {
        let Ok(payload) = payload.try_into() else {
            return false;
        };
        let named = u64::from_be_bytes(payload);
        let is_ours = named > 0
            && self.sent.iter().any(|sent| {
                sent.compare_exchange(named, 0, Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
            });
        if is_ours {
            let took = self.now().saturating_sub(named);
            self.took.store(took, Ordering::Relaxed);
        }
        is_ours
    }

    /// How long the last ping of ours took there and back.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        let took = self.took.load(Ordering::Relaxed);
        (took != NOT_TIMED).then(|| Duration::from_nanos(took))
    }

    pub(crate) fn opened(&self) -> Instant {
        self.opened.instant()
    }

    /// How long ago the connection opened.
    pub(crate) fn age(&self) -> Duration {
        self.opened().elapsed()
    }

    fn now(&self) -> u64 {
        let elapsed = u64::try_from(self.age().as_nanos());
        elapsed.map_or(u64::MAX, |now| now.saturating_add(1))
    }

    /// Asks whoever reads whether anything has come beyond so many bytes.
    pub(crate) fn ask(&self, beyond: usize) {
        self.beyond.store(beyond, Ordering::Release);
    }

    /// Says that it cannot be told now: nothing is read for a while. The next ping asks anew.
    pub(crate) fn excuse(&self) {
        self.beyond.store(NOT_ASKED, Ordering::Release);
    }

    /// Says the same of a peer that is held back. Where something of it has come and `waits`, it is not idle either.
    pub(crate) fn hold_back(&self, waits: bool) {
        self.excuse();
        if waits {
            self.control.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the peer is gone, told by whoever has just found nothing to read: only then is it sure
    /// that what shows the opposite is not there already, and was only not read yet.
    #[inline]
    pub(crate) fn is_silent(&self, meter: &Meter) -> bool {
        let beyond = self.beyond.load(Ordering::Acquire);
        beyond != NOT_ASKED && beyond == meter.read()
    }
}

/// [`Keepalive`] with a timer.
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: Timer,
    keepalive: Keepalive,
}

impl Alarm {
    /// For a `connection` that has opened then; `io` says that the runtime has descriptors.
    pub(crate) fn new(
        staying: &Staying,
        opened: Instant,
        io: bool,
        connection: &Weak<Shared>,
    ) -> Option<Self> {
        let keepalive = Keepalive::new(staying)?;
        Some(Self {
            timer: Timer::new(opened + keepalive.due(), io, connection),
            keepalive,
        })
    }

    /// Whether to [`tick`](Self::tick); else the task is woken when to, or whoever looks after the
    /// connection then.
    #[inline]
    pub(crate) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.is_elapsed(cx)
    }

    /// What is to be done on a connection that has opened then; with nothing left to do, the timer is set
    /// anew.
    pub(crate) fn tick(&mut self, staying: &Staying, opened: Instant, seen: Seen) -> Option<Step> {
        let step = self.keepalive.tick(staying, opened.elapsed(), seen);
        if step.is_none() {
            self.timer.reset(opened + self.keepalive.due());
        }
        step
    }

    /// Counts a ping or a pong to the peer, which is no message.
    pub(crate) fn count_control(&mut self, bytes: usize) {
        if let Some(bounds) = &mut self.keepalive.bounds {
            bounds.control = bounds.control.wrapping_add(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use sockeye_proto::{Config, Role};

    use super::*;

    #[test]
    fn a_moment_is_told_as_it_was() {
        let now = Instant::now();
        let day = Duration::from_secs(24 * 3600);
        // Where the system's clock began less than a day ago, there is nothing before.
        let before = now.checked_sub(day).unwrap_or(now);
        for at in [before, now, now + day + Duration::from_nanos(1)] {
            assert_eq!(Moment::of(at).instant(), at);
        }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const IDLE: Step = Step::Close { reason: "idle" };

    struct Kept {
        staying: Staying,
        keepalive: Keepalive,
    }

    impl Kept {
        fn tick(&mut self, now: Duration, seen: Seen) -> Option<Step> {
            self.keepalive.tick(&self.staying, now, seen)
        }

        fn due(&self) -> Duration {
            self.keepalive.due()
        }
    }

    fn keepalive(interval: u32, timeout: u32, idle: u32) -> Kept {
        let some = |seconds: u32| (seconds > 0).then_some(seconds * SECOND);
        let staying = Staying {
            interval: some(interval),
            timeout: timeout * SECOND,
            idle: some(idle),
            lifetime: None,
        };
        let keepalive = Keepalive::new(&staying).unwrap();
        Kept { staying, keepalive }
    }

    fn received(received: usize) -> Seen {
        Seen {
            received,
            ..Seen::default()
        }
    }

    /// All steps at the next time that something is due, and that time in seconds.
    fn next(keepalive: &mut Kept, seen: Seen) -> (u64, Vec<Step>) {
        let now = keepalive.due();
        let mut steps = Vec::new();
        while let Some(step) = keepalive.tick(now, seen) {
            steps.push(step);
            assert!(steps.len() < 5, "{steps:?}");
            if matches!(step, Step::Close { .. }) || step == Step::GiveUp {
                break;
            }
        }
        assert!(keepalive.due() > now || steps.contains(&IDLE) || steps.contains(&Step::GiveUp));
        (now.as_secs(), steps)
    }

    #[test]
    fn a_silent_peer_is_asked_for_after_interval_and_timeout() {
        let mut keepalive = keepalive(30, 20, 0);
        assert_eq!(next(&mut keepalive, received(7)), (30, vec![Step::Ping]));
        let ask = Step::Ask { received: 7 };
        assert_eq!(next(&mut keepalive, received(7)), (50, vec![ask]));
        // Nobody read: pings go on.
        assert_eq!(next(&mut keepalive, received(7)), (60, vec![Step::Ping]));
    }

    #[test]
    fn anything_heard_will_do() {
        let mut keepalive = keepalive(30, 20, 0);
        for round in 1..100_u32 {
            let at = u64::from(round) * 30;
            let before = received(round as usize);
            assert_eq!(next(&mut keepalive, before), (at, vec![Step::Ping]));
            assert_eq!(
                next(&mut keepalive, received(round as usize + 1)),
                (at + 20, vec![])
            );
        }
    }

    #[test]
    fn a_timeout_may_be_longer_than_the_interval() {
        let mut keepalive = keepalive(10, 25, 0);
        assert_eq!(next(&mut keepalive, received(0)), (10, vec![Step::Ping]));
        for round in 1..100 {
            let at = 10 + 10 * round as u64;
            let answered = received(round);
            assert_eq!(next(&mut keepalive, answered), (at, vec![Step::Ping]));
        }
    }

    #[test]
    fn a_ping_that_is_not_answered_within_the_interval_puts_the_next_off() {
        let mut keepalive = keepalive(10, 25, 0);
        assert_eq!(next(&mut keepalive, received(0)), (10, vec![Step::Ping]));
        assert_eq!(next(&mut keepalive, received(0)), (20, vec![]));
        assert_eq!(next(&mut keepalive, received(1)), (30, vec![Step::Ping]));
        assert_eq!(next(&mut keepalive, received(1)), (40, vec![]));
        assert_eq!(next(&mut keepalive, received(1)), (50, vec![]));
        let ask = Step::Ask { received: 1 };
        assert_eq!(
            next(&mut keepalive, received(1)),
            (55, vec![ask, Step::Ping])
        );
    }

    #[test]
    fn what_is_not_due_is_not_done() {
        let mut keepalive = keepalive(30, 20, 40);
        for now in 0..10 {
            assert_eq!(keepalive.tick(now * SECOND, received(0)), None);
        }
    }

    /// This process was stopped, or its machine slept: what the peer sent meanwhile was not read.
    #[test]
    fn a_deadline_seen_too_late_is_set_anew_once() {
        let mut keepalive = keepalive(30, 20, 0);
        next(&mut keepalive, received(0));
        let woken = Duration::from_secs(500);
        assert_eq!(keepalive.tick(woken, received(0)), None);
        assert_eq!(keepalive.due(), woken + 20 * SECOND);
        let again = keepalive.tick(woken + 100 * SECOND, received(0));
        assert_eq!(again, Some(Step::Ask { received: 0 }));
    }

    /// A large message on a slow line: the ping stands behind it, so no pong can come yet.
    #[test]
    fn a_peer_that_takes_what_stands_before_the_ping_is_there() {
        let mut keepalive = keepalive(30, 20, 0);
        let clogged = |written| Seen {
            written,
            waits: true,
            ..Seen::default()
        };
        assert_eq!(next(&mut keepalive, clogged(1)), (30, vec![Step::Ping]));
        for round in 1..10 {
            assert_eq!(
                next(&mut keepalive, clogged(round + 1)),
                (30 + 20 * round as u64, vec![])
            );
        }
        // All is taken, and the last deadline counts from there.
        let done = Seen {
            waits: false,
            ..clogged(11)
        };
        assert_eq!(next(&mut keepalive, done), (230, vec![]));
        assert_eq!(
            next(&mut keepalive, done),
            (250, vec![Step::Ask { received: 0 }, Step::Ping])
        );
    }

    /// Nobody reads, as callbacks are not called while too much output waits: then no one can tell
    /// whether the peer has said anything. One that takes nothing either is given up.
    #[test]
    fn a_peer_that_takes_nothing_is_given_up_after_the_second_ping() {
        let mut keepalive = keepalive(30, 20, 0);
        let stuck = Seen {
            written: 1,
            waits: true,
            ..Seen::default()
        };
        assert_eq!(next(&mut keepalive, stuck), (30, vec![Step::Ping]));
        assert_eq!(
            next(&mut keepalive, stuck),
            (50, vec![Step::Ask { received: 0 }])
        );
        assert_eq!(next(&mut keepalive, stuck), (60, vec![Step::Ping]));
        assert_eq!(next(&mut keepalive, stuck), (80, vec![Step::GiveUp]));
    }

    #[test]
    fn idle_is_no_message_for_so_long_and_at_most_a_quarter_more() {
        for last in 0..100 {
            let mut keepalive = keepalive(0, 1, 40);
            let closed = loop {
                let now = keepalive.due();
                let seen = Seen {
                    traffic: usize::from(now.as_secs() >= last),
                    ..Seen::default()
                };
                if keepalive.tick(now, seen).is_some() {
                    break now.as_secs();
                }
                assert!(keepalive.due() > now);
            };
            if last <= 40 {
                assert!(
                    (last.max(40)..=last + 50).contains(&closed),
                    "{last} {closed}"
                );
            } else {
                assert_eq!(closed, 40);
            }
        }
    }

    #[test]
    fn pings_are_no_messages() {
        let mut keepalive = keepalive(30, 20, 100);
        let mut received = 0;
        let mut steps = Vec::new();
        while steps.last() != Some(&IDLE) {
            received += 1;
            let seen = Seen {
                received,
                ..Seen::default()
            };
            let now = keepalive.due();
            while let Some(step) = keepalive.tick(now, seen) {
                steps.push(step);
                if step == IDLE {
                    assert_eq!(now.as_secs(), 100);
                    break;
                }
            }
        }
        assert_eq!(steps.len(), 4, "{steps:?}");
    }

    #[test]
    fn without_any_of_it_there_is_no_timer() {
        let never = Staying {
            interval: None,
            idle: None,
            ..Staying::default()
        };
        assert!(Keepalive::new(&never).is_none());
        assert_eq!(some_time(Duration::ZERO), None);
        assert!(some_time(Duration::MAX) < Some(Duration::MAX));
        assert_eq!(
            some_time(Duration::from_nanos(1)),
            Some(Duration::from_millis(1))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_is_timed_and_taken_once() {
        let pulse = Pulse::new(Instant::now());
        let first = pulse.ping();
        tokio::time::advance(40 * SECOND).await;
        let second = pulse.ping();
        assert_ne!(first, second);
        for other in [&b""[..], b"1234567", &[0; 8], &[1; 8], &[0; 9]] {
            assert!(!pulse.pong(other), "{other:?}");
        }
        assert_eq!(pulse.rtt(), None);
        tokio::time::advance(2 * SECOND).await;
        assert!(pulse.pong(&first));
        assert_eq!(pulse.rtt(), Some(42 * SECOND));
        assert!(pulse.pong(&second) && !pulse.pong(&second));
        assert_eq!(pulse.rtt(), Some(2 * SECOND));
    }

    #[test]
    fn whoever_reads_says_whether_the_peer_is_silent() {
        let (_, sender) = Config::new(Role::Server).halves();
        let (meter, pulse) = (sender.meter(), Pulse::new(Instant::now()));
        meter.count_read(5);
        assert!(!pulse.is_silent(meter));
        pulse.ask(5);
        assert!(pulse.is_silent(meter));
        meter.count_read(1);
        assert!(!pulse.is_silent(meter));
        pulse.ask(6);
        pulse.excuse();
        assert!(!pulse.is_silent(meter));
    }
}
