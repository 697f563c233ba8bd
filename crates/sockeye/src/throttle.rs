//! How fast a peer may go: messages and bytes a second, and what becomes of one that is faster.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use sockeye_proto::{Part, ProtocolError};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::rate::{Bucket, Rate};

/// What happens to a peer that sends faster than it may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// It is slowed down: nothing more is read until it may go on, and TCP holds it back meanwhile.
    /// The connection is unharmed.
    #[default]
    SlowDown,
    /// It is closed with 1008, and a reason that says how much it may send.
    Close,
}

/// How fast the peer of a connection may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) messages: Option<Rate>,
    pub(crate) bytes: Option<Rate>,
    pub(crate) excess: Excess,
}

/// Watches how fast a peer goes, with the reader of its connection. There only where it matters.
#[derive(Debug)]
pub(crate) struct Throttle {
    rates: Rates,
    begin: Instant,
    /// How many bytes came with the handshake, until they are counted.
    early: usize,
    /// When the clock was last read, in nanoseconds since then. That is done for each read, and what has come with it counts
    /// for that moment; for each message it would cost as much as the message. Only where it says that there was too
    /// much is the clock read again: of what comes with one read, part may be taken long after. What was left of it then is
    /// another burst, which comes at once with the next.
    now: u64,
    messages: Bucket,
    bytes: Bucket,
    /// Whether what comes next was found to be in time, before it was read.
    passes: bool,
    /// Whether a message has begun that is received in parts.
    begun: bool,
    /// Whether the peer need not wait any more, of which nothing is wanted than its Close.
    runs: bool,
    /// Runs while the peer is held back.
    sleep: Option<Pin<Box<Sleep>>>,
    /// For at most how long.
    look: Duration,
}

impl Throttle {
    /// A watch over a peer of which so many bytes are there already: they count with the next read. Whoever waits is woken
    /// four times within what the connection may be `idle` for.
    pub(crate) fn new(rates: Rates, early: usize, idle: Option<Duration>) -> Option<Box<Self>> {
        (rates.messages.is_some() || rates.bytes.is_some()).then(|| {
            Box::new(Self {
                early,
                rates,
                begin: Instant::now(),
                now: 0,
                passes: false,
                begun: false,
                runs: false,
                messages: Bucket::default(),
                bytes: Bucket::default(),
                sleep: None,
                look: idle.map_or(Duration::MAX, |idle| idle / 4),
            })
        })
    }

    /// Waits until more may be taken of the peer.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let Some(wait) = self.wait() else {
                return Poll::Ready(());
            };
            // The timer counts milliseconds: what comes in a shorter time than one comes at once.
            let wait = wait.min(self.look).max(Duration::from_millis(1));
            self.sleep = Some(Box::pin(sleep_until(Instant::now() + wait)));
        }
    }

    /// Notes that the peer need not wait, of which what is now read is counted already: that would make it wait for itself.
    pub(crate) fn let_pass(&mut self) {
        self.passes = true;
    }

    /// Whether that was noted. It is so once.
    pub(crate) fn passes(&mut self) -> bool {
        mem::take(&mut self.passes)
    }

    /// Has the peer wait no more.
    pub(crate) fn let_run(&mut self) {
        self.runs = true;
        self.sleep = None;
    }

    /// Whether it was let run.
    pub(crate) fn runs(&self) -> bool {
        self.runs
    }

    /// Whether the peer has to wait before more is taken of it.
    pub(crate) fn is_spent(&mut self) -> bool {
        self.sleep.is_some() || self.wait().is_some()
    }

    /// Counts bytes that were read.
    ///
    /// # Errors
    /// Where they are too many, and the peer is to be closed for it.
    pub(crate) fn read(&mut self, count: usize) -> Result<(), ProtocolError> {
        if self.runs {
            return Ok(());
        }
        self.look();
        if let Some(rate) = self.rates.bytes {
            let count = count + mem::take(&mut self.early);
            self.bytes.take(rate, self.now, count as u64);
            if self.rates.excess == Excess::Close && self.bytes.is_owing(rate, self.now) {
                return Err(ProtocolError::TooManyBytes {
                    limit: rate.count(),
                });
            }
        }
        Ok(())
    }

    /// Counts a message, a ping or a pong.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn message(&mut self) -> Result<(), ProtocolError> {
        if let Some(rate) = self.rates.messages.filter(|_| !self.runs) {
            self.messages.take(rate, self.now, 1);
            if self.rates.excess == Excess::Close && self.messages.is_owing(rate, self.now) {
                self.look();
                if self.messages.is_owing(rate, self.now) {
                    return Err(ProtocolError::TooManyMessages {
                        limit: rate.count(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Notes where a message begins or ends that is received in parts. It is counted at its end.
    pub(crate) fn has_begun(&mut self, part: &Part) {
        match part {
            Part::Begin(_) => self.begun = true,
            Part::End => self.begun = false,
            Part::Data(_) | Part::Event(_) => {}
        }
    }

    /// Counts one that is skipped, which has no end. Where it was too much, that is told of the next.
    pub(crate) fn skip(&mut self) {
        if mem::take(&mut self.begun) {
            let _ = self.message();
        }
    }

    /// How long the peer has to wait, where it does.
    fn wait(&mut self) -> Option<Duration> {
        if self.runs || self.rates.excess == Excess::Close {
            return None;
        }
        self.wait_from_now()?;
        self.look();
        self.wait_from_now()
    }

    fn wait_from_now(&self) -> Option<Duration> {
        let wait = |rate: Option<Rate>, bucket: Bucket| bucket.wait(rate?, self.now);
        let messages = wait(self.rates.messages, self.messages);
        messages.max(wait(self.rates.bytes, self.bytes))
    }

    /// Reads the clock.
    fn look(&mut self) {
        self.now = u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Ten messages a second, and five at once.
    fn throttle(excess: Excess) -> Box<Throttle> {
        let rates = Rates {
            messages: Some(Rate::per_second(10).burst(5)),
            bytes: None,
            excess,
        };
        Throttle::new(rates, 0, None).unwrap()
    }

    /// What was read at once may be taken by and by, as by a handler that asks a database for each.
    #[tokio::test(start_paused = true)]
    async fn what_is_taken_by_and_by_is_not_too_fast() {
        let mut throttle = throttle(Excess::Close);
        throttle.read(1000).unwrap();
        for _ in 0..100 {
            throttle.message().unwrap();
            advance(MILLISECOND * 100).await;
        }
        for _ in 0..5 {
            throttle.message().unwrap();
        }
        throttle.message().unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn nor_has_it_to_wait() {
        let mut throttle = throttle(Excess::SlowDown);
        throttle.read(1000).unwrap();
        for _ in 0..5 {
            assert!(!throttle.is_spent());
            throttle.message().unwrap();
        }
        for _ in 0..100 {
            assert!(throttle.is_spent());
            advance(MILLISECOND * 100).await;
            assert!(!throttle.is_spent());
            throttle.message().unwrap();
        }
    }

    /// However reads, messages and the time that each takes come one after another.
    #[tokio::test(start_paused = true)]
    async fn on_the_whole_there_are_no_more_than_the_rate() {
        let mut throttle = throttle(Excess::SlowDown);
        let begin = Instant::now();
        let mut taken = 0;
        for step in 0..10_000_u32 {
            if step % 7 == 0 {
                throttle.read(1).unwrap();
            }
            if throttle.is_spent() {
                sleep(MILLISECOND * (step % 13 * 20)).await;
            } else {
                throttle.message().unwrap();
                taken += 1;
                sleep(MILLISECOND * (step % 3 * step % 5 * 40)).await;
            }
            let most = 5 + begin.elapsed().as_millis() / 100;
            assert!(taken <= most, "{taken} of {most}");
        }
        assert!(taken > 1000, "{taken}");
    }
}
