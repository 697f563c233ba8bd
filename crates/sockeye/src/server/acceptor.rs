//! How connections are accepted: everything that can be said about it.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use sockeye_proto::{
    CloseCode, Limits,
    deflate::DeflateConfig,
    handshake::{HeadLimits, Refusal},
};

#[cfg(feature = "tls")]
use super::tls::ServerTls;
use super::{
    Answer, IncomingRequest, Networks, Origins,
    decision::OnRequest,
    forwarded::{Forwarding, Header},
    routes::Table,
};
use crate::{
    Error, Result,
    established::Settings,
    keepalive::some_time,
    rate::Rate,
    throttle::{Excess, Rates},
};

/// Accepts WebSocket connections on streams, with everything that can be said about how.
#[derive(Clone)]
#[must_use = "nothing is accepted before `accept`"]
pub struct Acceptor {
    pub(super) subprotocols: Vec<String>,
    pub(super) deflate: Option<DeflateConfig>,
    pub(super) limits: Arc<Limits>,
    pub(super) head_limits: HeadLimits,
    pub(super) handshake_timeout: Duration,
    pub(super) settings: Arc<Settings>,
    pub(super) rates: Rates,
    pub(super) origins: Origins,
    pub(super) forwarding: Option<Forwarding>,
    pub(super) routes: Option<Arc<Table>>,
    pub(super) on_request: Option<OnRequest>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<ServerTls>,
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<crate::Metrics>,
}

impl Default for Acceptor {
    fn default() -> Self {
        Self::new()
    }
}

impl Acceptor {
    /// Accepts every request that follows the standard, unless a browser sends it for a page of another
    /// origin; without a subprotocol.
    pub fn new() -> Self {
        Self {
            subprotocols: Vec::new(),
            deflate: DeflateConfig::available(),
            limits: Arc::default(),
            head_limits: HeadLimits::default(),
            handshake_timeout: Duration::from_secs(10),
            settings: Arc::default(),
            rates: Rates::default(),
            origins: Origins::default(),
            forwarding: None,
            routes: None,
            on_request: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// Supports a subprotocol; of those that a client offers, the one named here first is chosen
    /// (§4.2.2, 4).
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Sets what is agreed to of permessage-deflate, or with `None` that it never is. By default
    /// it is where the feature `deflate` is there.
    pub fn deflate(mut self, config: impl Into<Option<DeflateConfig>>) -> Self {
        self.deflate = config.into();
        self
    }

    /// Sets what a client may make this end hold.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = Arc::new(limits);
        self
    }

    /// Sets how large the head of a request may be. Default 16 KiB and 100 headers. Requests for a page, and those that come
    /// behind others on their connection, have at most 4,096 headers whatever is set.
    pub fn head_limits(mut self, limits: HeadLimits) -> Self {
        self.head_limits = limits;
        self
    }

    /// Sets how long TLS, the request and the decision about it may take together. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how long a client may take to answer a Close, from when it has last taken something of what stands before that.
    /// Sixty times as long in all. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.settings).close_timeout = timeout;
        self
    }

    /// Sets how often the client is sent a ping that keeps the connection, or with `None` that it never
    /// is, and so with zero. Default 30 s; held to between 1 ms and a year.
    ///
    /// Each keeps what is on the way from forgetting the connection, measures the
    /// [round trip](crate::WebSocket::rtt), and finds out whether the client is still there: see
    /// [`keepalive_timeout`](Self::keepalive_timeout). Its pong is no event. Pings are sent while the
    /// connection is driven (in a server's handler, with callbacks, within [`WebSocket::drive`](crate::WebSocket::drive)), its
    /// [`recv`](crate::WebSocket::recv) is polled, or a task waits for what it has sent to be written, and at no
    /// other time.
    pub fn keepalive(mut self, interval: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.settings).staying.interval = some_time(interval);
        self
    }

    /// Sets how long the client may be silent after such a ping. Default 20 s. Zero gives up every client at the first
    /// ping; for no pings, see [`keepalive`](Self::keepalive).
    ///
    /// Anything that comes will do, not only the pong, and where much waits to be sent, so will that the
    /// client takes of it. Else the connection is given up: [`Ended::Silent`](crate::Ended::Silent).
    /// That takes someone who receives, or drives, since only they can tell that nothing has come.
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.settings).staying.timeout = timeout;
        self
    }

    /// Sets after how long without a message in either direction the connection is closed, with 1001
    /// and the reason `idle`; pings and pongs are none. It may be up to a quarter longer. Default, and
    /// with zero, never.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.settings).staying.idle = some_time(timeout);
        self
    }

    /// Sets how old a connection may become: it is then closed with 1001 and the reason `lifetime`, so
    /// that clients come back and are spread anew over servers, and what was decided when it opened
    /// does not hold for ever. Up to a tenth earlier, at random, so that those who came together do not
    /// come back together. Default: any age.
    pub fn lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.settings).staying.lifetime = some_time(lifetime);
        self
    }

    /// Sets how many messages a client may send a second, pings and pongs counted: one that sends more
    /// is slowed down, or what [`on_excess`](Self::on_excess) says. Default: any number.
    ///
    /// What was read together counts for when it was read. So where a handler takes long over it, as much again as the burst
    /// may come right behind; it is never more than the burst and the rate since the beginning.
    ///
    /// ```
    /// use sockeye::server::{Acceptor, Excess, Rate};
    /// let acceptor = Acceptor::new()
    ///     .message_rate(Rate::per_second(50).burst(500))
    ///     .byte_rate(Rate::per_second(1 << 20).burst(16 << 20))
    ///     .on_excess(Excess::Close);
    /// ```
    pub fn message_rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.rates.messages = rate.into();
        self
    }

    /// Sets how many bytes of frames a client may send a second, as they travel in TLS or TCP. Else as
    /// [`message_rate`](Self::message_rate); with [`Excess::Close`], the burst should be more than the
    /// largest message. Default: any number.
    pub fn byte_rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.rates.bytes = rate.into();
        self
    }

    /// Sets what happens to a client that is faster than it may be. Default: it is slowed down.
    ///
    /// While it is, nothing is read of it: pings wait too, and so may 128 KiB that were read already. A
    /// client that gives up meanwhile is noticed once it is read again.
    pub fn on_excess(mut self, excess: Excess) -> Self {
        self.rates.excess = excess;
        self
    }

    /// Sets how many bytes may wait to be written before sending waits too. Default 1 MiB; 0 is as 1: each message
    /// waits for those before it.
    pub fn high_water(mut self, bytes: usize) -> Self {
        // Nothing is ever below nothing.
        Arc::make_mut(&mut self.settings).output.high_water = bytes.max(1);
        self
    }

    /// Sets how many bytes may wait to be written at all, where a callback sends and cannot wait:
    /// more ends the connection. And how many messages may take that only wait to be replaced
    /// ([`Sender::send_latest`](crate::Sender::send_latest)): more are refused. Default 32 MiB. It has to be more than
    /// [`high_water`](Self::high_water), so that who can wait does before.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.settings).output.limit = bytes;
        self
    }

    /// Has the connection closed with this code where that much output waits, in place of cutting it
    /// off: 1008 to one that reads too slowly ([`CloseCode::POLICY_VIOLATION`]), or 1013 to one that may
    /// come back ([`CloseCode::TRY_AGAIN_LATER`]). What waits is written before it, as far as the close
    /// timeout permits; a code that this end may not send cuts off too. Default: it is cut off, with
    /// [`Ended::Overflow`](crate::Ended::Overflow), which frees what waits at once.
    pub fn close_on_overflow(mut self, code: CloseCode) -> Self {
        Arc::make_mut(&mut self.settings).output.overflow = Some(code);
        self
    }

    /// Sets whose pages may connect (RFC 6455 §10.2). Default: those of this server,
    /// [`Origins::same`]. A page of another origin is refused with 403, and `Origin` given twice with 400.
    pub fn origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Has each request decided about that has passed the standard's rules: by its path, its headers, the
    /// address of the client, what TLS says of it. The answer may add headers and choose the subprotocol,
    /// and have the connection remember who it is with; a refusal has a status, headers and a text.
    ///
    /// ```
    /// use sockeye::server::{Acceptor, Answer, Refusal};
    /// # struct User;
    /// # async fn look_up(token: &[u8]) -> Option<User> { Some(User) }
    ///
    /// let acceptor = Acceptor::new().on_request(|request| async move {
    ///     let Some(token) = request.headers().first("Authorization") else {
    ///         let refusal = Refusal::new(401, "say who you are\n");
    ///         return Err(refusal.header("WWW-Authenticate", "Bearer")?);
    ///     };
    ///     match look_up(token).await {
    ///         Some(user) => Ok(Answer::new().state(user)),
    ///         None => Err(Refusal::new(403, format!("{} is not for you\n", request.path()))),
    ///     }
    /// });
    /// ```
    ///
    /// A decision that waits for nothing is given at once by [`std::future::ready`]. One that takes longer
    /// than the [handshake timeout](Self::handshake_timeout) leaves, counted from the beginning of the
    /// connection, is a refusal with 503; one that panics is one with 500.
    pub fn on_request<F, Fut>(mut self, decide: F) -> Self
    where
        F: Fn(IncomingRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        self.on_request = Some(OnRequest::new(decide));
        self
    }

    /// Believes proxies at these addresses what they say of their clients in the header `Forwarded`
    /// (RFC 7239), and nobody else: the address, the host that was asked for and the scheme, which
    /// [origins](Self::origins) go by.
    ///
    /// Read from the right, the first node that is not one of these addresses is the client:
    /// [`peer_addr`](crate::WebSocket::peer_addr), with port 0 where the proxy tells none. It has no address
    /// where the proxy hides it. The proxy's own is [`proxy_addr`](crate::WebSocket::proxy_addr). A header that
    /// cannot be understood is refused with 400. On a [`Server`](crate::Server) the limits for each
    /// address are those of the client's, looked at once it is known.
    ///
    /// On axum and on hyper the proxy's address has to be among the request's extensions, as a [`SocketAddr`]:
    /// without one, nobody is believed.
    ///
    /// Either this or [`x_forwarded_for`](Self::x_forwarded_for), whichever is said last: a proxy hands
    /// on as the client sent it what it does not set itself.
    ///
    /// ```
    /// # use sockeye::Acceptor;
    /// let acceptor = Acceptor::new().forwarded("10.0.0.0/8, 192.0.2.7".parse()?);
    /// # Ok::<(), sockeye::Error>(())
    /// ```
    pub fn forwarded(mut self, trusted: Networks) -> Self {
        let header = Header::Forwarded;
        self.forwarding = Some(Forwarding { trusted, header });
        self
    }

    /// As [`forwarded`](Self::forwarded), of what proxies say in `X-Forwarded-For`, `X-Forwarded-Host`
    /// and `X-Forwarded-Proto`. Have the proxy set or remove all three: of the last two, the last entry
    /// counts.
    pub fn x_forwarded_for(mut self, trusted: Networks) -> Self {
        let header = Header::XForwardedFor;
        self.forwarding = Some(Forwarding { trusted, header });
        self
    }

    /// Speaks TLS before anything else. Whoever speaks HTTP without it, over TCP, is answered with 400 and told so.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Has requests alone come in that there is a route for.
    pub(super) fn set_routes(&mut self, routes: Arc<Table>) {
        self.routes = Some(routes);
    }

    /// Counts the connections that are accepted, and the clients that are not. A [`Server`](crate::Server)
    /// is better given them itself: it knows of clients that do not get as far as this.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, metrics: &crate::Metrics) -> Self {
        self.metrics = Some(metrics.clone());
        self
    }

    /// Counts in these metrics, unless it does in others.
    #[cfg(all(feature = "axum", feature = "metrics"))]
    pub(crate) fn counted_by(mut self, metrics: Option<crate::Metrics>) -> Self {
        self.metrics = self.metrics.or(metrics);
        self
    }

    /// Tells of a client that was not let in. Call it once for each.
    #[cfg_attr(
        not(all(feature = "metrics", feature = "tracing")),
        allow(unused_variables, reason = "not everybody is told")
    )]
    pub(crate) fn refused(&self, peer: Option<SocketAddr>, error: &Error) {
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &self.metrics {
            metrics.refused(error);
        }
        #[cfg(feature = "tracing")]
        crate::watch::refused(peer, error);
    }

    /// Whether anything is only said within TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        #[cfg(feature = "tls")]
        return self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        false
    }

    /// How long a client may take to answer a Close.
    pub(crate) fn close_time(&self) -> Duration {
        self.settings.close_timeout
    }

    /// Offers HTTP/2 in TLS, where the configuration is this crate's own.
    #[cfg(feature = "http2")]
    pub(super) fn offer_http2(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            tls.offer_http2();
        }
    }

    /// How large a head may be.
    #[cfg(feature = "hyper")]
    pub(super) fn heads(&self) -> HeadLimits {
        self.head_limits
    }

    /// How long the opening handshake may take.
    pub(crate) fn handshake_time(&self) -> Duration {
        self.handshake_timeout
    }

    /// The subprotocol that a client would get.
    #[cfg(feature = "axum")]
    pub(crate) fn chosen(&self, offer: &sockeye_proto::handshake::Offer) -> Option<&str> {
        offer.subprotocols.choose(&self.subprotocols)
    }

    /// The same, which shares with no other what connections look at all the time: a core would wait for
    /// another that opens a connection.
    pub(super) fn apart(mut self) -> Self {
        self.limits = Arc::new(*self.limits);
        self.settings = Arc::new(*self.settings);
        self
    }

    #[cfg(feature = "axum")]
    pub(crate) fn limits_mut(&mut self) -> &mut Limits {
        Arc::make_mut(&mut self.limits)
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("subprotocols", &self.subprotocols)
            .field("deflate", &self.deflate)
            .field("limits", &self.limits)
            .field("head_limits", &self.head_limits)
            .field("handshake_timeout", &self.handshake_timeout)
            .field("settings", &self.settings)
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}
