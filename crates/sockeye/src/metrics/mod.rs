//! Metrics of a server's connections, as Prometheus reads them.

mod endpoint;
mod live;

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::{Registry, Unit},
};
use sockeye_proto::{Meter, handshake::HandshakeError};

use crate::{Ended, Error, shared::Shared};
use live::{Live, Totals};

/// Counts what the connections of a server do, for Prometheus and whatever else reads OpenMetrics.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// use sockeye::{Metrics, Server, server::Listener};
///
/// let metrics = Metrics::new();
/// // On a port that is not public: http://127.0.0.1:9090/metrics
/// let endpoint = metrics.clone().serve(Listener::tcp("127.0.0.1:9090").await?);
/// tokio::spawn(endpoint);
/// Server::bind("0.0.0.0:8080").await?
///     .metrics(&metrics)
///     .serve(|mut socket| async move {
///         while let Some(message) = socket.recv().await? { socket.send(message).await?; }
///         Ok(())
///     })
///     .await
/// # }
/// ```
///
/// Clones count together, and so do all servers and acceptors that are given one. What each metric is
/// stands in the [`guide`]. A connection counts for itself while it is open, whether anyone asks or not;
/// asking adds that up, for a sixty-fourth of them at a time, so that the others are not held up.
///
/// It is a [`Collector`]: `registry.register_collector(Box::new(metrics.clone()))` adds it to a
/// registry of your own.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Inner>);

#[doc = include_str!("../../docs/seeing.md")]
pub mod guide {}

type Labels<const N: usize> = [(&'static str, &'static str); N];

struct Inner {
    open: Gauge,
    accepted: Counter,
    refused: Family<Labels<1>, Counter>,
    not_accepted: Counter,
    closes: Family<Labels<2>, Counter>,
    round_trip: Histogram,
    live: Live,
}

/// From a neighbour in the rack to the deadline of a ping.
const ROUND_TRIPS: [f64; 14] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Why a client was not let in, each there from the first, so that its rate can be told.
const REASONS: [&str; 12] = [
    "handshake",
    "not_websocket",
    "origin",
    "decision",
    "connections",
    "connections_per_address",
    "handshakes",
    "handshake_rate",
    "timeout",
    "tls",
    "lost",
    "other",
];

impl Default for Inner {
    fn default() -> Self {
        let refused = Family::<_, Counter>::default();
        for reason in REASONS {
            drop(refused.get_or_create(&[("reason", reason)]));
        }
        Self {
            open: Gauge::default(),
            accepted: Counter::default(),
            refused,
            not_accepted: Counter::default(),
            closes: Family::default(),
            round_trip: Histogram::new(ROUND_TRIPS),
            live: Live::default(),
        }
    }
}

impl Metrics {
    /// The type of what [`encode`](Self::encode) gives, for the header `Content-Type`.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Everything is zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// All metrics, in the text form of OpenMetrics 1.0.
    ///
    /// With ten thousand connections it takes a few milliseconds, so in a server that runs on one
    /// thread let `tokio::task::spawn_blocking` do it, as [`serve`](Self::serve) does.
    pub fn encode(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut encoded = String::new();
        // A string takes all that is written to it.
        let _ = text::encode(&mut encoded, &registry);
        encoded
    }

    /// Counts a client that was not let in.
    pub(crate) fn refused(&self, error: &Error) {
        let reason = [("reason", reason(error))];
        self.0.refused.get_or_create(&reason).inc();
    }

    /// Counts that the system gave no connection.
    #[cfg(feature = "server")]
    pub(crate) fn not_accepted(&self) {
        self.0.not_accepted.inc();
    }

    /// Counts a connection that has opened.
    pub(crate) fn opened(&self, meter: &Arc<Meter>, shared: Weak<Shared>) -> Watched {
        self.0.accepted.inc();
        self.0.open.inc();
        Watched {
            id: self.0.live.enter(meter.clone(), shared),
            metrics: self.clone(),
        }
    }
}

/// A connection that is counted for as long as it is open.
pub(crate) struct Watched {
    id: u64,
    metrics: Metrics,
}

impl Watched {
    /// Counts a round trip.
    pub(crate) fn round_trip(&self, took: Duration) {
        self.metrics.0.round_trip.observe(took.as_secs_f64());
    }

    /// Counts the end of the connection. Call it once.
    pub(crate) fn closed(&self, ended: Option<&Ended>) {
        let Inner {
            open, closes, live, ..
        } = &*self.metrics.0;
        live.leave(self.id);
        open.dec();
        closes.get_or_create(&how(ended)).inc();
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watched({})", self.id)
    }
}

/// The reason of a refusal, of which there are few.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::Limit { limit, .. } => limit.name(),
        Error::Handshake(HandshakeError::Origin(_)) => "origin",
        Error::Handshake(HandshakeError::Refused(_)) => "decision",
        Error::Handshake(HandshakeError::Upgrade) => "not_websocket",
        Error::Handshake(HandshakeError::UnexpectedEnd) | Error::Lost(_) => "lost",
        Error::Handshake(_) => "handshake",
        Error::Timeout(_) => "timeout",
        Error::Tls { .. } => "tls",
        _ => "other",
    }
}

/// How a connection ended, in labels of which there are few: a peer can say any code.
fn how(ended: Option<&Ended>) -> Labels<2> {
    let by = match ended {
        Some(Ended::ByPeer(_)) => "peer",
        // Without any, its owner has dropped it: it says goodbye with 1001.
        Some(Ended::ByUs(_)) | None => "us",
        Some(Ended::Protocol(_)) => "protocol_error",
        Some(Ended::Lost(_)) => "lost",
        Some(Ended::TimedOut) => "close_timeout",
        Some(Ended::Silent) => "keepalive_timeout",
        Some(Ended::Overflow { .. }) => "output_limit",
    };
    let code = match ended.map_or(1001, Ended::code) {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1006 => "1006",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1010 => "1010",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        1014 => "1014",
        3000 => "3000",
        3003 => "3003",
        3008 => "3008",
        3001..=3999 => "3xxx",
        4000..=4999 => "4xxx",
        _ => "other",
    };
    [("code", code), ("by", by)]
}

impl Collector for Metrics {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> fmt::Result {
        let inner = &*self.0;
        let Totals { counters, waiting } = inner.live.totals();
        let mut metric =
            |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
                metric.encode(to.encode_descriptor(name, help, unit, metric.metric_type())?)
            };
        metric(
            "sockeye_connections_open",
            "WebSocket connections that are open.",
            None,
            &inner.open,
        )?;
        metric(
            "sockeye_connections_accepted",
            "WebSocket connections that were opened.",
            None,
            &inner.accepted,
        )?;
        metric(
            "sockeye_handshakes_refused",
            "Clients that were not let in, by reason.",
            None,
            &inner.refused,
        )?;
        metric(
            "sockeye_accept_errors",
            "Attempts to accept at which the system gave no connection, as without descriptors.",
            None,
            &inner.not_accepted,
        )?;
        metric(
            "sockeye_closes",
            "WebSocket connections that have ended, by close code and by who or what ended them.",
            None,
            &inner.closes,
        )?;
        let both = [("received", counters.received), ("sent", counters.sent)];
        let kinds = |pick: fn(&crate::Traffic) -> [u64; 4]| {
            let kinds = ["text", "binary", "ping", "pong"];
            let rows = both.iter().flat_map(move |(direction, traffic)| {
                let values = kinds.into_iter().zip(pick(traffic));
                values.map(|(kind, value)| ([("direction", *direction), ("kind", kind)], value))
            });
            Rows(rows.collect())
        };
        metric(
            "sockeye_messages",
            "Messages, pings and pongs of all connections.",
            None,
            &kinds(|t| [t.text.messages, t.binary.messages, t.pings, t.pongs]),
        )?;
        let payloads = both.iter().flat_map(|(direction, traffic)| {
            let kinds = [
                ("text", traffic.text.bytes),
                ("binary", traffic.binary.bytes),
            ];
            kinds.map(|(kind, bytes)| ([("direction", *direction), ("kind", kind)], bytes))
        });
        let bytes = Some(&Unit::Bytes);
        metric(
            "sockeye_message",
            "Payloads of messages, uncompressed.",
            bytes,
            &Rows(payloads.collect()),
        )?;
        let by_direction = |pick: fn(&crate::Traffic) -> u64| {
            let rows = both.iter();
            let rows =
                rows.map(|(direction, traffic)| ([("direction", *direction)], pick(traffic)));
            Rows(rows.collect())
        };
        metric(
            "sockeye_transport",
            "What was read and written, handshakes not counted, within TLS where there is TLS.",
            bytes,
            &by_direction(|traffic| traffic.bytes),
        )?;
        metric(
            "sockeye_compressed",
            "Payloads of compressed messages as they travelled.",
            bytes,
            &by_direction(|traffic| traffic.compressed),
        )?;
        metric(
            "sockeye_uncompressed",
            "Payloads of the same messages uncompressed.",
            bytes,
            &by_direction(|traffic| traffic.uncompressed),
        )?;
        metric(
            "sockeye_output_waiting",
            "What waits to be written on all open connections.",
            bytes,
            &ConstGauge::new(waiting),
        )?;
        metric(
            "sockeye_round_trip",
            "How long the pings that keep connections took there and back.",
            Some(&Unit::Seconds),
            &inner.round_trip,
        )
    }
}

/// Counters of one name, by their labels.
#[derive(Debug)]
struct Rows<const N: usize>(Vec<(Labels<N>, u64)>);

impl<const N: usize> EncodeMetric for Rows<N> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        for (labels, value) in &self.0 {
            ConstCounter::new(*value).encode(encoder.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("open", &self.0.open.get())
            .field("accepted", &self.0.accepted.get())
            .finish_non_exhaustive()
    }
}
