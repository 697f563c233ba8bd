//! How fast a peer may go: messages and bytes a second, and what becomes of one that is faster.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use sockeye_proto::ProtocolError;
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
    messages: Bucket,
    bytes: Bucket,
    /// Runs while the peer is held back.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Throttle {
    pub(crate) fn new(rates: Rates) -> Option<Box<Self>> {
        (rates.messages.is_some() || rates.bytes.is_some()).then(|| {
            Box::new(Self {
                rates,
                begin: Instant::now(),
                messages: Bucket::default(),
                bytes: Bucket::default(),
                sleep: None,
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
            let wait = wait.max(Duration::from_millis(1));
            self.sleep = Some(Box::pin(sleep_until(Instant::now() + wait)));
        }
    }

    /// Whether the peer has to wait before more is taken of it.
    pub(crate) fn is_spent(&self) -> bool {
        self.sleep.is_some() || self.wait().is_some()
    }

    /// Counts bytes that were read.
    ///
    /// # Errors
    /// Where they are too many, and the peer is to be closed for it.
    pub(crate) fn read(&mut self, count: usize) -> Result<(), ProtocolError> {
        let now = self.now();
        if let Some(rate) = self.rates.bytes {
            self.bytes.take(rate, now, count as u64);
            if self.rates.excess == Excess::Close && self.bytes.is_owing(rate, now) {
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
        let now = self.now();
        if let Some(rate) = self.rates.messages {
            self.messages.take(rate, now, 1);
            if self.rates.excess == Excess::Close && self.messages.is_owing(rate, now) {
                return Err(ProtocolError::TooManyMessages {
                    limit: rate.count(),
                });
            }
        }
        Ok(())
    }

    fn wait(&self) -> Option<Duration> {
        if self.rates.excess == Excess::Close {
            return None;
        }
        let now = self.now();
        let messages = self
            .rates
            .messages
            .and_then(|rate| self.messages.wait(rate, now));
        let bytes = self.rates.bytes.and_then(|rate| self.bytes.wait(rate, now));
        messages.max(bytes)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
