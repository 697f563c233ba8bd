//! Who is told what becomes of a connection: metrics, and a span of `tracing`. Without these features,
//! nobody.

use std::sync::Arc;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::shared::Info;
use crate::shared::Shared;
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
            #[cfg(feature = "metrics")]
            if let Some(watched) = self.watch.watched.get() {
                watched.closed(ended.as_ref());
            }
            #[cfg(feature = "tracing")]
            spans::closed(&self.watch.span, self, ended.as_ref());
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
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing::{Span, debug, field, info_span};

    use crate::{
        Ended,
        established::PeerHead,
        shared::{Info, Shared},
    };

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

    pub(super) fn closed(span: &Span, shared: &Shared, ended: Option<&Ended>) {
        let counters = shared.meter.counters();
        let (received, sent) = (counters.received.messages(), counters.sent.messages());
        debug!(
            target: "sockeye",
            parent: span,
            code = ended.map_or(1001, Ended::code),
            seconds = shared.pulse.age().as_secs_f64(),
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
