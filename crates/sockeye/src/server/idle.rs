//! Whether a connection of HTTP/2 is in use: hyper itself keeps one open for ever.
//!
//! It is in one of four states:
//!
//! - A request has become a tunnel, of which hyper tells nothing any more: it stays until its client ends it, or a
//!   WebSocket in it has ended.
//! - Something of a response waits for the client, with hyper or with h2 below it. It is given up where none of
//!   that has moved for a minute, whatever other requests do.
//! - A request waits for the service, and nothing for the client: for as long as that takes.
//! - Neither: it ends when that has been so for long enough. What is no request, as a ping, changes nothing.

use std::{
    future::poll_fn,
    io::IoSlice,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use hyper::body::Buf;
use tokio::time::{Instant, sleep_until};

use super::rewound::STALLED;

/// How much goes on on a connection.
pub(crate) struct Idle(Mutex<Use>);

struct Use {
    requests: usize,
    tunnels: usize,
    /// How much waits for the client: pieces of data, and requests for whose next piece hyper does not ask, as
    /// each stream has a window.
    offered: usize,
    /// How many tunnels have ended whose last bytes wait for the client.
    leaving: usize,
    /// Whether there were more of those than there may be.
    overrun: bool,
    /// The connection's, to be told of that.
    waker: Option<Waker>,
    /// When any of that has moved; where nothing is offered, when it last was, or a request ended.
    since: Instant,
}

impl Use {
    fn offer(&mut self) {
        self.ends();
        self.offered += 1;
    }

    /// It was taken, or is not wanted any more.
    fn done(&mut self) {
        self.offered -= 1;
        self.ends();
    }

    /// Something ends, which is no reason to wait longer for what the client does not take.
    fn ends(&mut self) {
        if self.offered == 0 {
            self.since = Instant::now();
        }
    }
}

impl Idle {
    /// A connection that counts as not used since then, which may be later than now.
    pub(super) fn new(since: Instant) -> Self {
        Self(Mutex::new(Use {
            requests: 0,
            tunnels: 0,
            offered: 0,
            leaving: 0,
            overrun: false,
            waker: None,
            since,
        }))
    }

    /// A connection that has until a deadline for its first request, or as long as for any other where that is longer.
    pub(super) fn until_first(deadline: Instant, limit: Duration) -> Self {
        let now = Instant::now();
        let since = deadline.checked_sub(limit);
        Self::new(since.map_or(now, |since| since.max(now)))
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request that is being answered, until this is dropped with the end of its response.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.lock().requests += 1;
        Busy {
            idle: self.clone(),
            offered: false,
        }
    }

    /// A tunnel that is in use until this is dropped.
    pub(crate) fn tunnel(self: &Arc<Self>) -> Tunnel {
        self.lock().tunnels += 1;
        Tunnel(self.clone())
    }

    /// Gives a first request no more time than any other.
    pub(super) fn expects_no_first(&self) {
        let mut used = self.lock();
        used.since = used.since.min(Instant::now());
    }

    /// As [`bound`](Self::bound), where the connection is also to end once the server does.
    pub(super) async fn bound_until<C: Future>(
        &self,
        limit: Duration,
        connection: Pin<&mut C>,
        ending: impl Future<Output = ()>,
    ) -> bool {
        let (mut served, mut ending) = (pin!(self.bound(limit, connection)), pin!(ending));
        poll_fn(|cx| match served.as_mut().poll(cx) {
            Poll::Pending => ending.as_mut().poll(cx).map(|()| true),
            served => served,
        })
        .await
    }

    /// Runs a connection until it has not been used for `limit`; or until its client has taken nothing of any
    /// response for a minute. Tells whether it could go on, as all that was wrong is that nobody used it.
    pub(super) async fn bound<C: Future>(
        &self,
        limit: Duration,
        mut connection: Pin<&mut C>,
    ) -> bool {
        /// Whoever ends a request need not wake the connection: it is looked at now and then.
        const OFTEN: Duration = Duration::from_secs(1);
        let begin = Instant::now();
        let mut timer = pin!(sleep_until(begin + limit));
        poll_fn(|cx| {
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                let now = Instant::now();
                let mut used = self.lock();
                if used.overrun {
                    return Poll::Ready(false);
                }
                match &mut used.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                let since = used.since.max(begin);
                let (until, unused) = match *used {
                    Use {
                        tunnels: 0,
                        offered: 1..,
                        ..
                    } => (since + STALLED, false),
                    Use {
                        tunnels: 0,
                        requests: 0,
                        ..
                    } => (since + limit, true),
                    _ => (now + limit.clamp(OFTEN, STALLED), false),
                };
                drop(used);
                if until <= now {
                    return Poll::Ready(unused);
                }
                // One that is too early is set again once it is over: that is once for many requests.
                if until < timer.deadline() || timer.is_elapsed() {
                    timer.as_mut().reset(until);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}

/// A request that is being answered.
pub(super) struct Busy {
    idle: Arc<Idle>,
    offered: bool,
}

impl Busy {
    /// Says that it is the client that is waited for, to take what there is of the response.
    pub(super) fn offers(&mut self) {
        if !self.offered {
            self.offered = true;
            self.idle.lock().offer();
        }
    }

    /// Says that it is the service that is waited for, as there is room for more.
    pub(super) fn asks(&mut self) {
        if self.offered {
            self.offered = false;
            let mut used = self.idle.lock();
            used.offered -= 1;
            used.since = Instant::now();
        }
    }

    /// A piece of the response.
    pub(super) fn piece<D>(&self, data: D) -> Piece<D> {
        self.idle.lock().offer();
        Piece {
            data,
            idle: self.idle.clone(),
        }
    }

    /// Says that it has become a tunnel, of which hyper tells nothing any more: the connection stays in use.
    pub(super) fn stays(&self) {
        self.idle.lock().tunnels += 1;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut used = self.idle.lock();
        used.requests -= 1;
        match self.offered {
            true => used.done(),
            false => used.ends(),
        }
    }
}

/// A tunnel that ends when this is dropped.
pub(crate) struct Tunnel(Arc<Idle>);

impl Drop for Tunnel {
    fn drop(&mut self) {
        let mut used = self.0.lock();
        used.tunnels -= 1;
        used.ends();
    }
}

impl Tunnel {
    /// Ends it, but for what its client has not taken yet. hyper holds that, and says no more of it than that it has gone
    /// out; a client that has too many such streams is given up.
    pub(super) fn leave(self) -> Leaving {
        const MOST: usize = 16;
        let mut used = self.0.lock();
        used.offer();
        used.leaving += 1;
        if used.leaving > MOST {
            used.overrun = true;
            used.waker.iter().for_each(Waker::wake_by_ref);
        }
        drop(used);
        Leaving(self.0.clone())
    }
}

/// The last bytes of a tunnel, until this is dropped.
pub(super) struct Leaving(Arc<Idle>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut used = self.0.lock();
        used.leaving -= 1;
        used.done();
    }
}

/// A piece of a response. h2 takes it whole, and drops it once it is written: until then it waits for the client.
pub(super) struct Piece<D> {
    data: D,
    idle: Arc<Idle>,
}

impl<D> Piece<D> {
    fn moves(&self) {
        self.idle.lock().since = Instant::now();
    }
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.moves();
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> hyper::body::Bytes {
        self.moves();
        self.data.copy_to_bytes(len)
    }
}

impl<D> Drop for Piece<D> {
    fn drop(&mut self) {
        self.idle.lock().done();
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
        let idle = Arc::new(Idle::new(Instant::now()));
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
        let idle = Idle::new(begin);
        assert!(idle.bound(LIMIT, pin!(pending::<()>())).await);
        assert_eq!(begin.elapsed(), LIMIT);
        assert!(!idle.bound(LIMIT, pin!(async {})).await);
        assert_eq!(begin.elapsed(), LIMIT);
    }
}
