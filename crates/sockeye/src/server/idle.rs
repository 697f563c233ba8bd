//! When a connection of HTTP/2 was last used: hyper itself keeps one open for ever.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

use super::rewound::STALLED;

/// The answer to a ping, which a client may send for as long as it likes: 9 bytes of header, 8 of payload
/// (RFC 9113 §6.7). A write of no more is no use of the connection.
const PING: usize = 17;

/// How much goes on on a connection.
pub(super) struct Idle(Mutex<Use>);

struct Use {
    requests: usize,
    /// How many of them wait for the client to take something of their response, which each stream has a
    /// window for: the connection itself need not be full.
    offered: usize,
    /// When the last one ended, or anything of a response was written.
    since: Instant,
}

impl Default for Idle {
    fn default() -> Self {
        Self(Mutex::new(Use {
            requests: 0,
            offered: 0,
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
        Busy {
            idle: self.clone(),
            offered: false,
        }
    }

    /// A connection's stream, of which what is written counts as its use.
    pub(super) fn watch<S>(self: &Arc<Self>, stream: S) -> Watched<S> {
        Watched {
            stream,
            idle: self.clone(),
        }
    }

    /// Runs a connection until it has had no request, and nothing to write, for `limit`; or until its client
    /// has taken nothing of any response for a minute. Tells whether it could go on, as all that was wrong is
    /// that nobody used it.
    pub(super) async fn bound<C: Future>(
        &self,
        limit: Duration,
        mut connection: Pin<&mut C>,
    ) -> bool {
        let mut timer = pin!(sleep_until(Instant::now() + limit));
        poll_fn(|cx| {
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(false);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let now = Instant::now();
                let used = self.lock();
                let unused = used.requests == 0;
                let until = match *used {
                    Use {
                        requests: 0, since, ..
                    } => since + limit,
                    Use {
                        requests,
                        offered,
                        since,
                    } if offered == requests => since + STALLED,
                    _ => now + limit.min(STALLED),
                };
                drop(used);
                if until <= now {
                    return Poll::Ready(unused);
                }
                timer.as_mut().reset(until);
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
    /// Says whether it is the client that is waited for, to take something of the response, or the service.
    pub(super) fn offers(&mut self, offered: bool) {
        let mut used = self.idle.lock();
        used.offered -= usize::from(self.offered);
        used.offered += usize::from(offered);
        used.since = Instant::now();
        drop(used);
        self.offered = offered;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.offers(false);
        self.idle.lock().requests -= 1;
    }
}

/// A stream of which what is written is noted.
pub(super) struct Watched<S> {
    stream: S,
    idle: Arc<Idle>,
}

impl<S: Unpin> Watched<S> {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut S> {
        Pin::new(&mut self.get_mut().stream)
    }

    fn note(&self, written: &Poll<io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(count)) if *count > PING) {
            self.idle.lock().since = Instant::now();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().stream().poll_write(cx, bytes);
        self.note(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.as_mut().stream().poll_write_vectored(cx, slices);
        self.note(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
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
        assert!(idle.bound(LIMIT, pin!(pending::<()>())).await);
        assert_eq!(begin.elapsed(), LIMIT);
        assert!(!idle.bound(LIMIT, pin!(async {})).await);
        assert_eq!(begin.elapsed(), LIMIT);
    }
}
