//! When a connection of HTTP/2 was last used: hyper itself keeps one open for ever.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// How much goes on on a connection.
pub(super) struct Idle(Mutex<Use>);

struct Use {
    requests: usize,
    /// When the last one ended.
    since: Instant,
}

impl Default for Idle {
    fn default() -> Self {
        Self(Mutex::new(Use {
            requests: 0,
            since: Instant::now(),
        }))
    }
}

impl Idle {
    fn lock(&self) -> MutexGuard<'_, Use> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that is being answered, until this is dropped with the end of its response.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.lock().requests += 1;
        Busy(self.clone())
    }

    /// Runs a connection until it has had no request for `limit`.
    pub(super) async fn bound<C: Future>(&self, limit: Duration, mut connection: Pin<&mut C>) {
        let mut timer = pin!(sleep_until(Instant::now() + limit));
        poll_fn(|cx| {
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                let until = match *self.lock() {
                    Use { requests: 0, since } => since + limit,
                    _ => now + limit,
                };
                if until <= now {
                    return Poll::Ready(());
                }
                timer.as_mut().reset(until);
            }
        })
        .await;
    }
}

/// A request that is being answered.
pub(super) struct Busy(Arc<Idle>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut used = self.0.lock();
        used.requests -= 1;
        used.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::sleep;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_once_it_has_had_no_request_for_so_long() {
        let idle = Arc::new(Idle::default());
        let begin = Instant::now();
        let request = async {
            sleep(Duration::from_secs(4)).await;
            let busy = idle.busy();
            sleep(Duration::from_secs(30)).await;
            drop(busy);
        };
        let connection = pin!(pending::<()>());
        tokio::join!(request, idle.bound(LIMIT, connection));
        // One that lasts longer than the limit is no reason to end.
        assert!(
            begin.elapsed() >= Duration::from_secs(44),
            "{:?}",
            begin.elapsed()
        );
        assert!(
            begin.elapsed() < Duration::from_secs(45),
            "{:?}",
            begin.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_without_requests_ends() {
        let begin = Instant::now();
        let idle = Idle::default();
        idle.bound(LIMIT, pin!(pending::<()>())).await;
        assert_eq!(begin.elapsed(), LIMIT);
        idle.bound(LIMIT, pin!(async {})).await;
        assert_eq!(begin.elapsed(), LIMIT);
    }
}
