//! Whether the peer is still there: pings, their round-trip time, and the deadlines for silence
//! (RFC 6455 §5.5.2).
//!
//! No message touches a timer: a read leaves a mark, and the one timer of a connection looks at it
//! when it next runs out.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// How long a peer may be silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Between two pings; none are sent without.
    pub(crate) interval: Option<Duration>,
    /// How long after a ping something must come.
    pub(crate) timeout: Duration,
    /// How long no message may come.
    pub(crate) idle: Option<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            interval: Some(Duration::from_secs(30)),
            timeout: Duration::from_secs(20),
            idle: None,
        }
    }
}

/// What a read leaves behind for the timer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    /// Whether anything has come.
    pub(crate) anything: bool,
    /// Whether part of a message has.
    pub(crate) message: bool,
}

/// What is to be done now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a ping with this payload.
    Ping(Vec<u8>),
    /// Nothing has come for so long after a ping: give the peer up.
    Silent(Duration),
    /// No message has come for so long: close.
    Idle(Duration),
}

/// The timer of one connection.
#[derive(Debug)]
pub(crate) struct Keepalive {
    patience: Patience,
    timer: Pin<Box<Sleep>>,
    /// The task that the timer wakes, once it runs.
    task: Option<Waker>,
    /// When the next ping is due, or the deadline of the one on its way.
    next: Instant,
    /// The ping on its way: its number, and when it was sent.
    ping: Option<(u32, Instant)>,
    /// The number of the last ping.
    count: u32,
    last_message: Instant,
}

impl Keepalive {
    /// A timer for that much patience; none where there is nothing to time.
    pub(crate) fn new(patience: Patience) -> Option<Box<Self>> {
        patience.interval.or(patience.idle)?;
        let now = Instant::now();
        let mut keepalive = Box::new(Self {
            patience,
            timer: Box::pin(sleep_until(now)),
            task: None,
            next: now + patience.interval.unwrap_or_default(),
            ping: None,
            count: 0,
            last_message: now,
        });
        keepalive.arm();
        Some(keepalive)
    }

    fn arm(&mut self) {
        let idle = self.patience.idle.map(|idle| self.last_message + idle);
        let next = self.patience.interval.map(|_| self.next);
        if let Some(deadline) = idle.into_iter().chain(next).min() {
            self.timer.as_mut().reset(deadline);
        }
    }

    /// What is due, once something is. To be asked whenever there is nothing to read.
    #[inline]
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, heard: &mut Heard) -> Poll<Due> {
        // Only where someone has set this deadline is it worth a look at the clock.
        if self.patience.idle.is_some() && std::mem::take(&mut heard.message) {
            self.last_message = Instant::now();
        }
        let runs = matches!(&self.task, Some(task) if task.will_wake(cx.waker()));
        if runs && !self.timer.is_elapsed() {
            return Poll::Pending;
        }
        self.poll_timer(cx, heard)
    }

    #[cold]
    fn poll_timer(&mut self, cx: &mut Context<'_>, heard: &mut Heard) -> Poll<Due> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            if let Some(idle) = self.patience.idle
                && now >= self.last_message + idle
            {
                // Once: the closing handshake has a deadline of its own.
                self.patience.idle = None;
                self.task = None;
                self.arm_or_rest(now);
                return Poll::Ready(Due::Idle(idle));
            }
            if let Some(interval) = self.patience.interval
                && now >= self.next
            {
                let anything = std::mem::take(&mut heard.anything);
                match self.ping {
                    // Whatever comes shows that the peer is there, though its pong may be queued
                    // behind a large message.
                    Some(_) if anything => {
                        self.ping = None;
                        self.next = now + interval;
                    }
                    Some(_) => {
                        self.patience.interval = None;
                        self.task = None;
                        self.arm_or_rest(now);
                        return Poll::Ready(Due::Silent(self.patience.timeout));
                    }
                    None => {
                        self.count = self.count.wrapping_add(1);
                        self.ping = Some((self.count, now));
                        self.next = now + self.patience.timeout;
                        self.task = None;
                        self.arm();
                        return Poll::Ready(Due::Ping(payload(self.count)));
                    }
                }
            }
            self.arm();
        }
        self.task = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Arms the timer for what is left to time; far away where nothing is.
    fn arm_or_rest(&mut self, now: Instant) {
        const FAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
        self.timer.as_mut().reset(now + FAR);
        self.arm();
    }

    /// The round-trip time, where a pong answers our ping; other pongs are not ours.
    pub(crate) fn pong(&mut self, received: &[u8]) -> Option<Duration> {
        let (number, sent) = self.ping?;
        if received != payload(number) {
            return None;
        }
        self.ping = None;
        if let Some(interval) = self.patience.interval {
            self.next = sent + interval.max(sent.elapsed());
        }
        self.task = None;
        self.arm();
        Some(sent.elapsed())
    }
}

/// How a connection to a silent peer was lost.
pub(crate) fn silent(patience: Duration) -> io::Error {
    let problem = format!("the peer was silent for {patience:?} after a ping");
    io::Error::new(io::ErrorKind::TimedOut, problem)
}

/// Tells our pings from a user's, and one from the other.
fn payload(number: u32) -> Vec<u8> {
    [*b"keep", number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn patience(idle: Option<u64>) -> Patience {
        Patience {
            idle: idle.map(Duration::from_secs),
            ..Patience::default()
        }
    }

    async fn due(keepalive: &mut Keepalive, heard: &mut Heard) -> Due {
        poll_fn(|cx| keepalive.poll(cx, heard)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up_a_timeout_after_the_ping() {
        let mut keepalive = Keepalive::new(patience(None)).unwrap();
        let (mut heard, began) = (Heard::default(), Instant::now());
        assert_eq!(due(&mut keepalive, &mut heard).await, Due::Ping(payload(1)));
        assert_eq!(began.elapsed().as_secs(), 30);
        let silent = Due::Silent(Duration::from_secs(20));
        assert_eq!(due(&mut keepalive, &mut heard).await, silent);
        assert_eq!(began.elapsed().as_secs(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pong_measures_the_way_and_another_pong_does_not() {
        let mut keepalive = Keepalive::new(patience(None)).unwrap();
        let (mut heard, began) = (Heard::default(), Instant::now());
        for round in 1..=3 {
            let ping = due(&mut keepalive, &mut heard).await;
            assert_eq!(ping, Due::Ping(payload(round)));
            assert_eq!(began.elapsed().as_secs(), 30 * u64::from(round));
            tokio::time::advance(Duration::from_millis(70)).await;
            assert_eq!(keepalive.pong(b"mine"), None);
            assert_eq!(
                keepalive.pong(&payload(round)),
                Some(Duration::from_millis(70))
            );
            assert_eq!(keepalive.pong(&payload(round)), None, "it was answered");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn anything_that_comes_shows_that_the_peer_is_there() {
        let mut keepalive = Keepalive::new(patience(None)).unwrap();
        let (mut heard, began) = (Heard::default(), Instant::now());
        due(&mut keepalive, &mut heard).await;
        heard.anything = true;
        assert_eq!(due(&mut keepalive, &mut heard).await, Due::Ping(payload(2)));
        assert_eq!(began.elapsed().as_secs(), 80);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_counted_from_the_last_message() {
        let settings = Patience {
            interval: None,
            ..patience(Some(60))
        };
        let mut keepalive = Keepalive::new(settings).unwrap();
        let (mut heard, began) = (Heard::default(), Instant::now());
        tokio::time::advance(Duration::from_secs(40)).await;
        heard.message = true;
        assert_eq!(
            due(&mut keepalive, &mut heard).await,
            Due::Idle(Duration::from_secs(60))
        );
        assert_eq!(began.elapsed().as_secs(), 100);
    }

    #[tokio::test]
    async fn nothing_to_time_needs_no_timer() {
        let settings = Patience {
            interval: None,
            ..patience(None)
        };
        assert!(Keepalive::new(settings).is_none());
    }
}
