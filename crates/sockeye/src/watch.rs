//! Who is told what becomes of a connection: metrics, and a span of `tracing`. Without these features,
//! nobody.

use std::sync::Arc;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(any(feature = "metrics", feature = "tracing"))]
use sockeye_proto::Meter;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use tokio::time::Instant;

#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::shared::Info;
use crate::{Ended, shared::Shared};
#[cfg(feature = "metrics")]
use crate::{Metrics, metrics::Watched};

/// What is told of one connection.
#[cfg(any(feature = "metrics", feature = "tracing"))]
#[derive(Debug)]
pub(crate) struct Watch {
    /// Whether its end has been told.
    closed: AtomicBool,
    #[cfg(feature = "metrics")]
    watched: std::sync::OnceLock<Watched>,
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

#[cfg(any(feature = "metrics", feature = "tracing"))]
impl Watch {
    #[cfg_attr(
        not(feature = "tracing"),
        allow(unused_variables, reason = "for the span alone")
    )]
    pub(crate) fn new(info: &Info) -> Self {
        Self {
            closed: AtomicBool::new(false),
            #[cfg(feature = "metrics")]
            watched: std::sync::OnceLock::new(),
            #[cfg(feature = "tracing")]
            span: spans::of(info),
        }
    }

    /// Of a connection whose end was told, or is for somebody else to tell.
    fn over() -> Self {
        Self {
            closed: AtomicBool::new(true),
            #[cfg(feature = "metrics")]
            watched: std::sync::OnceLock::new(),
            #[cfg(feature = "tracing")]
            span: tracing::Span::none(),
        }
    }

    #[cfg_attr(
        not(feature = "tracing"),
        allow(unused_variables, reason = "for the span alone")
    )]
    fn tell_end(&self, meter: &Meter, opened: Instant, ended: Option<&Ended>) {
        #[cfg(feature = "metrics")]
        if let Some(watched) = self.watched.get() {
            watched.closed(ended);
        }
        #[cfg(feature = "tracing")]
        spans::closed(&self.span, meter, opened.elapsed(), ended);
    }
}

/// Tells of the end of a connection that is still written when all that shared it has gone: once that is dropped.
pub(crate) struct Outliving {
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    watch: Watch,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    meter: Arc<Meter>,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    opened: Instant,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    ended: Option<Ended>,
}

impl Outliving {
    /// Notes how it has ended since, unless the peer had ended it before.
    #[cfg_attr(
        not(any(feature = "metrics", feature = "tracing")),
        expect(unused_variables, clippy::unused_self, reason = "nobody is told")
    )]
    pub(crate) fn ends(&mut self, how: Ended) {
        #[cfg(any(feature = "metrics", feature = "tracing"))]
        if matches!(self.ended, None | Some(Ended::ByUs(_))) {
            self.ended = Some(how);
        }
    }
}

#[cfg(any(feature = "metrics", feature = "tracing"))]
impl Drop for Outliving {
    fn drop(&mut self) {
        self.watch
            .tell_end(&self.meter, self.opened, self.ended.as_ref());
    }
}

impl Shared {
    /// Tells that the connection is open.
    pub(crate) fn opened(self: &Arc<Self>, #[cfg(feature = "metrics")] metrics: Option<&Metrics>) {
        #[cfg(feature = "metrics")]
        if let Some(metrics) = metrics {
            let watched = metrics.opened(&self.meter, Arc::downgrade(self));
            // There was none before.
            let _ = self.watch.watched.set(watched);
        }
        #[cfg(feature = "tracing")]
        spans::opened(&self.watch.span, &self.info);
    }

    /// Tells that the connection has ended, once.
    pub(crate) fn closed(&self) {
        #[cfg(any(feature = "metrics", feature = "tracing"))]
        if !self.watch.closed.swap(true, Ordering::Relaxed) {
            let ended = self.ended_as_told();
            self.watch
                .tell_end(&self.meter, self.pulse.opened(), ended.as_ref());
        }
    }

    /// Leaves it to what this gives to tell that.
    pub(crate) fn outlived(&mut self) -> Outliving {
        Outliving {
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            meter: self.meter.clone(),
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            opened: self.pulse.opened(),
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            ended: self.ended_as_told(),
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            watch: std::mem::replace(&mut self.watch, Watch::over()),
        }
    }

    /// Tells how long a ping took there and back.
    pub(crate) fn timed(&self) {
        #[cfg(feature = "metrics")]
        if let (Some(watched), Some(took)) = (self.watch.watched.get(), self.pulse.rtt()) {
            watched.round_trip(took);
        }
    }

    /// Polls what belongs to the connection within its span.
    #[inline]
    pub(crate) fn within<R>(&self, poll: impl FnOnce() -> R) -> R {
        #[cfg(feature = "tracing")]
        let _entered = self.watch.span.enter();
        poll()
    }
}

#[cfg(all(feature = "tracing", feature = "server"))]
pub(crate) use spans::refused;

#[cfg(feature = "tracing")]
mod spans {
    use std::{
        sync::atomic::{AtomicU64, Ordering},
        time::Duration,
    };

    use sockeye_proto::Meter;
    use tracing::{Span, debug, field, info_span};

    use crate::{Ended, established::PeerHead, shared::Info};

    /// Numbers the connections of the process from 1.
    static NEXT: AtomicU64 = AtomicU64::new(1);

    /// The span of a connection. What its user may keep secret is not in it: no query, no headers.
    pub(super) fn of(info: &Info) -> Span {
        let (role, path) = match &info.peer_head {
            PeerHead::Request(request) => ("server", Some(request.path())),
            PeerHead::Response(_) => ("client", None),
        };
        info_span!(
            target: "sockeye",
            "websocket",
            id = NEXT.fetch_add(1, Ordering::Relaxed),
            role,
            peer = info.peer_addr().map(field::display),
            path,
            url = info.url.as_deref(),
            subprotocol = info.subprotocol(),
        )
    }

    pub(super) fn opened(span: &Span, info: &Info) {
        debug!(target: "sockeye", parent: span, extensions = info.extensions(), "open");
    }

    pub(super) fn closed(span: &Span, meter: &Meter, age: Duration, ended: Option<&Ended>) {
        let counters = meter.counters();
        let (received, sent) = (counters.received.messages(), counters.sent.messages());
        debug!(
            target: "sockeye",
            parent: span,
            code = ended.map_or(1001, Ended::code),
            seconds = age.as_secs_f64(),
            received_messages = received.messages,
            received_bytes = received.bytes,
            sent_messages = sent.messages,
            sent_bytes = sent.bytes,
            "{}",
            ended.map_or("let go of".to_owned(), ToString::to_string),
        );
    }

    /// Tells of a client that was not let in.
    #[cfg(feature = "server")]
    pub(crate) fn refused(peer: Option<std::net::SocketAddr>, error: &crate::Error) {
        debug!(target: "sockeye", peer = peer.map(field::display), "not let in: {error}");
    }
}
