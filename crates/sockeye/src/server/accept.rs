//! Accepts one connection: TLS where it is wanted, the request, the answer, under one deadline
//! (RFC 6455 §4.2).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use sockeye_proto::{
    CloseCode, Limits, Role,
    deflate::{DeflateConfig, DeflateParams},
    handshake::{
        Acceptance, HandshakeError, HeadLimits, HeadScanner, HeaderFields, Offer, Refusal, Request,
    },
};

#[cfg(feature = "tls")]
use super::tls::ServerTls;
use super::{
    Answer, IncomingRequest, Matched, Networks, Origins, Peer,
    decision::{OnRequest, State},
    forwarded::{Forwarding, Header},
    routes::Table,
};
use crate::{
    Deadline, Error, Result, WebSocket,
    established::{Admitted, Established, OutputLimits, PeerHead},
    head::read_head,
    keepalive::{Staying, some_time},
    rate::Rate,
    stream::{Io, Stream},
    throttle::{Excess, Rates},
};

/// How an HTTP/2 client begins (RFC 9113 §3.4), up to where its head would end in HTTP/1.1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How much of what a refused client still sends is read before the connection is closed.
///
/// Closing a socket with unread bytes in it resets the connection, and the client may never see
/// why it was refused. A whole head of the default limit fits many times.
const LINGER_BYTES: usize = 256 * 1024;

/// Where a timeout is longer than time goes.
const NEVER: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// How long a refused client may take to read the refusal and to close.
const LINGER: Duration = Duration::from_secs(2);

/// Accepts a WebSocket on a stream, with the defaults of [`Acceptor`].
///
/// # Errors
/// As [`Acceptor::accept`].
///
/// # Cancel safety
/// Dropping the future drops the stream.
pub async fn accept<S>(stream: S) -> Result<WebSocket>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Acceptor::new().accept(stream).await
}

/// Accepts WebSocket connections on streams, with everything that can be said about how.
#[derive(Clone)]
#[must_use = "nothing is accepted before `accept`"]
pub struct Acceptor {
    subprotocols: Vec<String>,
    deflate: Option<DeflateConfig>,
    limits: Limits,
    head_limits: HeadLimits,
    handshake_timeout: Duration,
    close_timeout: Duration,
    output: OutputLimits,
    staying: Staying,
    rates: Rates,
    origins: Origins,
    forwarding: Option<Forwarding>,
    routes: Option<Arc<Table>>,
    on_request: Option<OnRequest>,
    #[cfg(feature = "tls")]
    tls: Option<ServerTls>,
    #[cfg(feature = "metrics")]
    metrics: Option<crate::Metrics>,
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
            limits: Limits::default(),
            head_limits: HeadLimits::default(),
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            output: OutputLimits::default(),
            staying: Staying::default(),
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
        self.limits = limits;
        self
    }

    /// Sets how large the head of a request may be. Default 16 KiB and 100 headers.
    pub fn head_limits(mut self, limits: HeadLimits) -> Self {
        self.head_limits = limits;
        self
    }

    /// Sets how long TLS, the request and the decision about it may take together. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how long a client may take to answer a Close. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how often the client is sent a ping that keeps the connection, or with `None` that it never
    /// is. Default 30 s.
    ///
    /// Each keeps what is on the way from forgetting the connection, measures the
    /// [round trip](WebSocket::rtt), and finds out whether the client is still there: see
    /// [`keepalive_timeout`](Self::keepalive_timeout). Its pong is no event. Pings are sent while the
    /// connection is driven (in a server's handler, with callbacks, within [`WebSocket::drive`]) or its
    /// [`recv`](WebSocket::recv) is polled, and at no other time.
    pub fn keepalive(mut self, interval: impl Into<Option<Duration>>) -> Self {
        self.staying.interval = some_time(interval);
        self
    }

    /// Sets how long the client may be silent after such a ping. Default 20 s.
    ///
    /// Anything that comes will do, not only the pong, and where much waits to be sent, so will that the
    /// client takes of it. Else the connection is given up: [`Ended::Silent`](crate::Ended::Silent).
    /// That takes someone who receives, since only they can tell that nothing has come.
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        self.staying.timeout = timeout;
        self
    }

    /// Sets after how long without a message in either direction the connection is closed, with 1001
    /// and the reason `idle`; pings and pongs are none. It may be up to a quarter longer. Default
    /// never.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.staying.idle = some_time(timeout);
        self
    }

    /// Sets how old a connection may become: it is then closed with 1001 and the reason `lifetime`, so
    /// that clients come back and are spread anew over servers, and what was decided when it opened
    /// does not hold for ever. Up to a tenth earlier, at random, so that those who came together do not
    /// come back together. Default: any age.
    pub fn lifetime(mut self, lifetime: impl Into<Option<Duration>>) -> Self {
        self.staying.lifetime = some_time(lifetime);
        self
    }

    /// Sets how many messages a client may send a second, pings and pongs counted: one that sends more
    /// is slowed down, or what [`on_excess`](Self::on_excess) says. Default: any number.
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
    /// While it is, nothing is read of it: pings wait too, and so may 64 KiB that were read already. A
    /// client that gives up meanwhile is noticed once it is read again.
    pub fn on_excess(mut self, excess: Excess) -> Self {
        self.rates.excess = excess;
        self
    }

    /// Sets how many bytes may wait to be written before sending waits too. Default 1 MiB.
    pub fn high_water(mut self, bytes: usize) -> Self {
        self.output.high_water = bytes;
        self
    }

    /// Sets how many bytes may wait to be written at all, where a callback sends and cannot wait:
    /// more ends the connection. Default 32 MiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output.limit = bytes;
        self
    }

    /// Has the connection closed with this code where that much output waits, in place of cutting it
    /// off: 1008 to one that reads too slowly ([`CloseCode::POLICY_VIOLATION`]), or 1013 to one that may
    /// come back ([`CloseCode::TRY_AGAIN_LATER`]). What waits is written before it, as far as the close
    /// timeout permits; a code that this end may not send cuts off too. Default: it is cut off, with
    /// [`Ended::Overflow`](crate::Ended::Overflow), which frees what waits at once.
    pub fn close_on_overflow(mut self, code: CloseCode) -> Self {
        self.output.overflow = Some(code);
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
    /// [`peer_addr`](WebSocket::peer_addr), with port 0 where the proxy tells none. It has no address
    /// where the proxy hides it. The proxy's own is [`proxy_addr`](WebSocket::proxy_addr). A header that
    /// cannot be understood is refused with 400. On a [`Server`](crate::Server) the limits for each
    /// address are those of the client's, looked at once it is known.
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

    /// Speaks TLS before anything else.
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
    pub(super) fn close_time(&self) -> Duration {
        self.close_timeout
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
    pub(crate) fn chosen(&self, offer: &Offer) -> Option<&str> {
        offer.subprotocols.choose(&self.subprotocols)
    }

    #[cfg(feature = "axum")]
    pub(crate) fn limits_mut(&mut self) -> &mut Limits {
        &mut self.limits
    }

    /// Accepts a WebSocket on a stream: a TCP stream, or any other of the user's own.
    ///
    /// # Errors
    /// [`Error::is_handshake`] once the client has been answered with the same words; a request for
    /// anything else than a WebSocket is such an error too. [`Error::is_timeout`],
    /// [`Error::is_lost`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub async fn accept<S>(&self, stream: S) -> Result<WebSocket>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.establish(stream).await.map(WebSocket::new)
    }

    /// Accepts a WebSocket; any other request is refused with what it should have been.
    ///
    /// # Errors
    /// [`Error::Handshake`] once the client has been answered with the same words,
    /// [`Error::Tls`], [`Error::Timeout`] and [`Error::Lost`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub(crate) async fn establish<S: Io + 'static>(&self, stream: S) -> Result<Established> {
        let stream = Stream::new(stream);
        let peer_addr = stream.peer_addr();
        let error = match self.receive(stream, Peer::at(peer_addr)).await {
            Ok(Incoming::WebSocket(established)) => return Ok(established),
            Ok(Incoming::Http(plain)) => Box::pin(plain.refuse()).await,
            Err(error) => error,
        };
        self.refused(peer_addr, &error);
        Err(error)
    }

    /// Accepts a WebSocket, or hands back a request for something else with all that was read.
    ///
    /// The handshake comes in a box of its own, so that what it needs does not stay in the future of
    /// whoever holds the connection for hours.
    ///
    /// # Errors
    /// As [`establish`](Self::establish).
    pub(crate) fn receive(
        &self,
        stream: Stream,
        peer: Peer,
    ) -> Pin<Box<impl Future<Output = Result<Incoming>>>> {
        stream.set_nodelay();
        Box::pin(self.open(stream, peer))
    }

    async fn open(&self, stream: Stream, peer: Peer) -> Result<Incoming> {
        let deadline = self.deadline();
        match in_time(deadline, self.judge(stream, peer)).await? {
            Verdict::Asks(asking) => self.answer(asking, deadline).await,
            Verdict::Http(plain) => Ok(Incoming::Http(plain)),
            Verdict::Refused(stream, error) => Err(Box::pin(refuse(stream, error)).await),
        }
    }

    /// What a client asks for, by the first head that it sends.
    async fn judge(&self, stream: Stream, mut peer: Peer) -> Result<Verdict> {
        let mut stream = self.secure(stream, &mut peer).await?;
        peer.look_at(&stream);
        let mut scanner = HeadScanner::request(self.head_limits);
        let mut buffer = Vec::new();
        let end = match read_head(&mut stream, &mut scanner, &mut buffer).await {
            Ok(end) => end,
            Err(Error::Handshake(error)) => return Ok(Verdict::Refused(stream, error)),
            Err(error) => return Err(error),
        };
        let request = if buffer[..end] == *HTTP2_PREFACE {
            None
        } else {
            match Request::parse(&buffer[..end]) {
                Ok(request) => Some(request),
                Err(error) => return Ok(Verdict::Refused(stream, error)),
            }
        };
        if let Some(request) = &request
            && request.is_upgrade()
            && let Err(error) = self.see(request.headers(), &mut peer)
        {
            return Ok(Verdict::Refused(stream, error));
        }
        Ok(match request {
            Some(request) if request.is_upgrade() => Verdict::Asks(Asking {
                stream,
                early: buffer.split_off(end),
                request: Arc::new(request),
                peer,
            }),
            request => Verdict::Http(PlainHttp {
                stream,
                bytes: buffer,
                request,
                peer,
            }),
        })
    }

    /// Sees whom a trusted proxy has heard a request from.
    ///
    /// # Errors
    /// 400 where that cannot be understood, 429 where there are as many from there as there may be.
    pub(crate) fn see(
        &self,
        headers: &impl HeaderFields,
        peer: &mut Peer,
    ) -> Result<(), HandshakeError> {
        if let Some(forwarding) = &self.forwarding
            && let Some(hop) = forwarding.client(headers, peer.addr.map(|addr| addr.ip()))?
        {
            peer.believe(hop)?;
        }
        Ok(())
    }

    /// The address of whoever a request for something else is from, which is not counted.
    #[cfg(feature = "hyper")]
    pub(super) fn client_addr(
        &self,
        headers: &impl HeaderFields,
        peer: &Peer,
    ) -> Option<SocketAddr> {
        let from = peer.addr.map(|addr| addr.ip());
        match self.forwarding.as_ref().map(|f| f.client(headers, from)) {
            // What cannot be understood is the service's to refuse: it has the header too.
            None | Some(Ok(None) | Err(_)) => peer.addr,
            Some(Ok(Some(hop))) => hop.addr,
        }
    }

    /// Whether an address is that of a proxy which is believed who its clients are.
    pub(super) fn believes(&self, address: Option<IpAddr>) -> bool {
        self.forwarding
            .as_ref()
            .is_some_and(|forwarding| forwarding.trusted.contain(address))
    }

    /// By when a connection that begins now has to be open.
    pub(crate) fn deadline(&self) -> Instant {
        let now = Instant::now();
        now.checked_add(self.handshake_timeout)
            .unwrap_or(now + NEVER)
    }

    #[cfg(feature = "tls")]
    async fn secure(&self, stream: Stream, peer: &mut Peer) -> Result<Stream> {
        let Some(tls) = &self.tls else {
            return Ok(stream);
        };
        let name = peer
            .addr
            .map_or_else(|| "the client".to_owned(), |addr| addr.to_string());
        Ok(match stream {
            Stream::Tcp(tcp) => Stream::ServerTls(Box::new(tls.accept(&name, tcp).await?)),
            other => {
                let stream = tls.accept(&name, other).await?;
                peer.tls = Some(stream.get_ref().1.into());
                Stream::new(stream)
            }
        })
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, stream: Stream, _: &mut Peer) -> Result<Stream> {
        Ok(stream)
    }

    /// Judges the request and answers it (§4.2.2).
    async fn answer(&self, asking: Asking, deadline: Instant) -> Result<Incoming> {
        let Asking {
            mut stream,
            early,
            request,
            peer,
        } = asking;
        let (acceptance, terms) = match self.terms(&request, &peer, deadline).await {
            Ok(terms) => terms,
            Err(error) => return Err(Box::pin(refuse(stream, error)).await),
        };
        in_time(deadline, async {
            stream.write_all(&acceptance.to_bytes()).await?;
            Ok(stream.flush().await?)
        })
        .await?;
        let established = self.established(stream, early, request, terms, peer);
        Ok(Incoming::WebSocket(established))
    }

    /// The connection, once the client has been told of the terms.
    pub(crate) fn established(
        &self,
        stream: Stream,
        early: Vec<u8>,
        request: Arc<Request>,
        terms: Terms,
        peer: Peer,
    ) -> Established {
        let admitted = Admitted {
            state: terms.state,
            proxy: peer.proxy,
            matched: terms.matched,
            #[cfg(feature = "tls")]
            tls: peer.tls,
        };
        Established {
            stream,
            early,
            role: Role::Server,
            subprotocol: terms.subprotocol,
            deflate: terms.deflate,
            limits: self.limits,
            close_timeout: self.close_timeout,
            output: self.output,
            staying: self.staying,
            rates: self.rates,
            peer_addr: peer.addr,
            peer_head: PeerHead::Request(request),
            #[cfg(feature = "tracing")]
            url: None,
            #[cfg(feature = "metrics")]
            metrics: self.metrics.clone(),
            admitted: admitted.some(),
        }
    }

    /// What the connection will be like, and how the client is told; decided by the deadline.
    pub(crate) async fn terms(
        &self,
        request: &Arc<Request>,
        peer: &Peer,
        deadline: Instant,
    ) -> Result<(Acceptance, Terms), HandshakeError> {
        let checked = self.check(request, peer)?;
        let answer = self.decision(request, peer, &checked, deadline).await?;
        self.agree(checked, answer)
    }

    /// Applies the rules: the standard's, and those that are set here.
    pub(crate) fn check(&self, request: &Request, peer: &Peer) -> Result<Checked, HandshakeError> {
        let offer = request.check()?;
        self.origins.check(request, peer)?;
        let matched = self
            .routes
            .as_ref()
            .map(|routes| routes.find(request.path()));
        let matched = matched.transpose()?.map(Arc::new);
        Ok(Checked { offer, matched })
    }

    /// What the user says to a request that has passed the rules.
    pub(crate) async fn decision(
        &self,
        request: &Arc<Request>,
        peer: &Peer,
        checked: &Checked,
        deadline: Instant,
    ) -> Result<Answer, HandshakeError> {
        let Some(on_request) = &self.on_request else {
            return Ok(Answer::new());
        };
        let matched = checked.matched.clone();
        let request = IncomingRequest::new(request.clone(), peer.clone(), matched);
        on_request.decide(request, deadline).await
    }

    /// What is agreed to of what the client offers, with the user's answer.
    pub(crate) fn agree(
        &self,
        checked: Checked,
        answer: Answer,
    ) -> Result<(Acceptance, Terms), HandshakeError> {
        let Checked { offer, matched } = checked;
        let mut acceptance = Acceptance::new(&offer);
        let subprotocol = answer.choose(&offer.subprotocols, &self.subprotocols)?;
        if let Some(name) = subprotocol {
            acceptance.subprotocol(name);
        }
        let mut deflate = None;
        if let Some(config) = self.deflate
            && let Some((params, answer)) = offer.deflate(&config)
        {
            acceptance.extensions(answer);
            deflate = Some((config, params));
        }
        for (name, value) in &answer.headers {
            acceptance.header(name, value)?;
        }
        let subprotocol = subprotocol.map(Into::into);
        Ok((
            acceptance,
            Terms {
                subprotocol,
                deflate,
                state: answer.state,
                matched,
            },
        ))
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
            .field("close_timeout", &self.close_timeout)
            .field("staying", &self.staying)
            .field("origins", &self.origins)
            .finish_non_exhaustive()
    }
}

/// What a client asks for.
enum Verdict {
    /// A WebSocket.
    Asks(Asking),
    /// Something else.
    Http(PlainHttp),
    /// Nothing that can be answered otherwise. It is written after the deadline.
    Refused(Stream, HandshakeError),
}

/// A request for a WebSocket.
struct Asking {
    stream: Stream,
    /// What was read behind it.
    early: Vec<u8>,
    request: Arc<Request>,
    peer: Peer,
}

/// A request that has passed the rules.
pub(crate) struct Checked {
    offer: Offer,
    matched: Option<Arc<Matched>>,
}

/// What was agreed.
#[derive(Debug)]
pub(crate) struct Terms {
    subprotocol: Option<Box<str>>,
    deflate: Option<(DeflateConfig, DeflateParams)>,
    state: Option<State>,
    matched: Option<Arc<Matched>>,
}

/// What a client came for.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A WebSocket, open.
    WebSocket(Established),
    /// Something else on HTTP.
    Http(PlainHttp),
}

/// A connection that asks for something else than a WebSocket.
#[derive(Debug)]
pub(crate) struct PlainHttp {
    pub(crate) stream: Stream,
    /// All that was read, the head included: whoever serves HTTP begins with it.
    #[cfg_attr(
        not(feature = "hyper"),
        allow(dead_code, reason = "nobody else serves HTTP")
    )]
    pub(crate) bytes: Vec<u8>,
    /// None for HTTP/2, whose preface is in `bytes`.
    pub(crate) request: Option<Request>,
    #[cfg_attr(
        not(feature = "hyper"),
        allow(dead_code, reason = "nobody else serves HTTP")
    )]
    pub(crate) peer: Peer,
}

impl PlainHttp {
    /// Says that a WebSocket is all there is here, and returns that as the error it is.
    pub(crate) async fn refuse(self) -> Error {
        let error = match self.request.as_ref().map(Request::check) {
            Some(Err(error)) => error,
            // A check that passes belongs to an upgrade, which is not plain.
            Some(Ok(Offer { .. })) => HandshakeError::Upgrade,
            None => HandshakeError::HttpVersion,
        };
        Box::pin(refuse(self.stream, error)).await
    }
}

/// Waits no longer than the handshake may take.
async fn in_time<T>(deadline: Instant, step: impl Future<Output = Result<T>>) -> Result<T> {
    timeout_at(deadline, step)
        .await
        .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))
}

/// Answers a request that will not become a WebSocket, and hands the reason on.
///
/// It has a deadline of its own. What goes wrong while a refusal is written matters to nobody: the
/// connection ends either way.
async fn refuse(mut stream: Stream, error: HandshakeError) -> Error {
    if error != HandshakeError::UnexpectedEnd {
        let answer = Refusal::from(&error).to_bytes();
        let _ = timeout(LINGER, async {
            stream.write_all(&answer).await?;
            stream.shutdown().await?;
            let mut rest = (&mut stream).take(LINGER_BYTES as u64);
            tokio::io::copy(&mut rest, &mut tokio::io::sink()).await
        })
        .await;
    }
    error.into()
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
