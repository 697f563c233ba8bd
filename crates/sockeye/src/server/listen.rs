//! The server: listens, and runs a handler for every connection.

use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{self, Poll, ready},
    time::Duration,
};

use tokio::{
    net::ToSocketAddrs,
    time::{Instant, sleep},
};

#[cfg(feature = "http2")]
use super::opening::Run;
#[cfg(feature = "hyper")]
use super::opening::ServeHttp;
use super::{
    Acceptor, Listener, Networks, Rate, Routes, Shutdown, ShutdownHandle,
    accept::OnError,
    admission::{Each, Gate, Limits, Room},
    connections,
    listener::{cannot_listen, is_of_one_connection},
    opening::{Accepted, Context},
    shutdown::{Begun, Running},
    task::{Opening, Stage, Task},
};
use crate::{Error, Handler, Result, WebSocket, driven::Driven, handler::Handled};

/// How long to wait before accepting again, where the system has run out of descriptors or memory:
/// connections that end meanwhile make room.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// After how many attempts in a row that failed for one connection each the server pauses too: a socket that fails
/// whoever comes would keep a core busy.
const FAILED_IN_A_ROW: u32 = 64;

/// How often it is told at most that the system gives no connections.
const NOT_ACCEPTED_TOLD: Duration = Duration::from_secs(1);

/// How long a connection may wait for a further HTTP request, unless told otherwise.
#[cfg(feature = "hyper")]
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A WebSocket server on a listening socket.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// use sockeye::Server;
///
/// Server::bind("127.0.0.1:8080").await?
///     .serve(|mut socket| async move {
///         socket.send("Добро пожаловать на сервер!").await?;
///         while let Some(message) = socket.recv().await? {
///             socket.send(message).await?;
///         }
///         Ok(())
///     })
///     .await
/// # }
/// ```
#[must_use = "a server does nothing before `serve`"]
pub struct Server {
    listeners: Vec<Listener>,
    /// One that was accepted, and waits for room.
    waiting: Option<Accepted>,
    acceptor: Acceptor,
    signals: Vec<Pin<Box<dyn Future<Output = Shutdown> + Send>>>,
    running: Running,
    limits: Limits,
    gate: Arc<Gate>,
    proxies: Option<Networks>,
    #[cfg(feature = "hyper")]
    http: Option<Arc<ServeHttp>>,
    #[cfg(feature = "hyper")]
    keep_alive: Duration,
    #[cfg(feature = "http2")]
    websockets_over_http2: bool,
    #[cfg(feature = "http3")]
    http3: Vec<std::net::UdpSocket>,
    on_error: Option<Arc<OnError>>,
    /// When it was last told that no connection can be accepted.
    told_not_accepted: Option<Instant>,
    /// How many attempts to accept have failed since one did not.
    failed: u32,
    #[cfg(feature = "metrics")]
    metrics: Option<crate::Metrics>,
}

impl Server {
    /// Listens on a TCP address; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`Error::Listen`] where the address cannot be had.
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing listens.
    pub async fn bind(address: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        Ok(Self::from_listener(Listener::tcp(address).await?))
    }

    /// Listens on a Unix socket: see [`Listener::unix`]. Its clients have no address.
    ///
    /// # Errors
    /// [`Error::Listen`].
    #[cfg(unix)]
    pub fn bind_unix(path: impl AsRef<std::path::Path>) -> Result<Self> {
        Ok(Self::from_listener(Listener::unix(path)?))
    }

    /// Serves all the sockets that systemd has handed over: see [`Listener::systemd`].
    ///
    /// # Errors
    /// [`Error::Listen`], also where there are none.
    #[cfg(target_os = "linux")]
    pub fn from_systemd() -> Result<Self> {
        let mut listeners = Listener::systemd()?.into_iter();
        let Some(first) = listeners.next() else {
            let none = "none were handed over by LISTEN_FDS and LISTEN_PID, or they have been taken before";
            let error = io::Error::new(io::ErrorKind::NotFound, none);
            return Err(cannot_listen("the sockets of systemd", error));
        };
        Ok(listeners.fold(Self::from_listener(first), Self::also))
    }

    /// Serves a socket that listens already: a [`Listener`], or one of tokio's.
    pub fn from_listener(listener: impl Into<Listener>) -> Self {
        Self {
            listeners: vec![listener.into()],
            waiting: None,
            acceptor: Acceptor::new(),
            signals: Vec::new(),
            running: Running::new(ShutdownHandle::new()),
            limits: Limits::default(),
            gate: Gate::new(),
            proxies: None,
            #[cfg(feature = "hyper")]
            http: None,
            #[cfg(feature = "hyper")]
            keep_alive: KEEP_ALIVE,
            #[cfg(feature = "http2")]
            websockets_over_http2: false,
            #[cfg(feature = "http3")]
            http3: Vec::new(),
            on_error: None,
            told_not_accepted: None,
            failed: 0,
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// Serves another socket besides.
    pub fn also(mut self, listener: impl Into<Listener>) -> Self {
        self.listeners.push(listener.into());
        self
    }

    /// The address that is listened on: the first one that is TCP's.
    ///
    /// # Errors
    /// [`Error::Listen`] where there is none, or the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        let mut addresses = self.listeners.iter().filter_map(Listener::local_addr);
        addresses.next().ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::AddrNotAvailable, "it has no TCP address");
            cannot_listen("the listening socket", error)
        })
    }

    /// What is listened on.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// Sets how connections are accepted: TLS, subprotocols, compression, limits, deadlines, and
    /// which requests.
    pub fn acceptor(mut self, acceptor: Acceptor) -> Self {
        self.acceptor = acceptor;
        self
    }

    /// Has `signal` end the server: no more connections are accepted, every open one is closed with
    /// 1001, HTTP requests that are being answered still are, and `serve` returns when all have ended.
    /// A handler that goes on although its connection has closed is dropped a second after the close
    /// timeout, and so is an answer that takes longer. Of several signals the first one does.
    ///
    /// A signal that gives a [`Shutdown`] says how:
    ///
    /// ```no_run
    /// # use std::time::Duration;
    /// # use sockeye::{Server, server::Shutdown};
    /// # async fn signal() {}
    /// # fn example(server: Server) -> Server {
    /// server.shutdown_on(async {
    ///     signal().await;
    ///     Shutdown::restart().spread(Duration::from_secs(30))
    /// })
    /// # }
    /// ```
    pub fn shutdown_on<S>(mut self, signal: S) -> Self
    where
        S: Future<Output: Into<Shutdown>> + Send + 'static,
    {
        self.signals
            .push(Box::pin(async move { signal.await.into() }));
        self
    }

    /// A handle that ends the server, waits for its end, and tells how each connection ended.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.running.0.clone()
    }

    /// Ends with the others of a set: what ends one ends all.
    pub(super) fn ending_with(mut self, others: &ShutdownHandle) -> Self {
        self.running = Running::new(others.clone());
        self
    }

    /// Counts connections together with the others of a set: limits hold for all of them.
    pub(super) fn counting_with(mut self, gate: &Arc<Gate>) -> Self {
        self.gate = gate.clone();
        self
    }

    /// Sets how many connections there may be, or with `None` that there may be any number. Default
    /// 65,536, which are about 100 MB when they are idle.
    ///
    /// A connection counts once, from when it is accepted until its handler is done, whatever it is used
    /// for. One that is too many is answered with 503 and `Retry-After`, and closed; where TLS is spoken it
    /// is just closed, so that no handshake is spent on it. [`on_error`](Self::on_error) is told with
    /// [`Error::Limit`]. On a [`PerCore`](super::PerCore) the limits hold for all threads together.
    pub fn max_connections(mut self, most: impl Into<Option<usize>>) -> Self {
        self.limits.connections = most.into();
        self
    }

    /// Sets how many connections there may be from one address, or with `None` that there may be any
    /// number. IPv6 is counted by /64, which is the least that a customer has. One that is too many is
    /// answered with 429, else as [`max_connections`](Self::max_connections).
    ///
    /// Default 256 for addresses of the internet, which is room for an office behind one address, and
    /// keeps one machine from filling a server. By default it does not hold for addresses that nobody has
    /// there: loopback, private networks (RFC 1918, RFC 4193, RFC 6598) and single links, as these are
    /// proxies and containers that connect for many. What is set here holds for all.
    pub fn max_connections_per_address(mut self, most: impl Into<Option<usize>>) -> Self {
        self.limits.per_address = Each::of(most.into());
        self
    }

    /// Sets how many connections may be in the opening handshake, or with `None` that any number may.
    /// At least one; default 4096. Each holds what has come of it: at worst 19 KB, the head of a request that is as
    /// long as it [may be](Acceptor::head_limits), and 70 KB with TLS, whose first message may have 64 KiB: 290 MB in all;
    /// over HTTP/3 some 105 KB, of which QUIC takes 40.
    ///
    /// Where there are as many and another comes, the oldest is given up if it is a second old, so that those
    /// who connect and say nothing keep nobody out; `on_error` is told of it. Younger ones are not: until one is
    /// done, that one waits, and no more are accepted, which wait with the system. So many who come at once, as
    /// after a restart, are served one after another. How long each may take is
    /// [`Acceptor::handshake_timeout`]. Over HTTP/2, and behind a page on its connection, a newcomer does not wait:
    /// where none is a second old it is refused with 503.
    pub fn max_handshakes(mut self, most: impl Into<Option<usize>>) -> Self {
        self.limits.handshakes = most.into();
        self
    }

    /// Sets how many connections an address may open a second, and at once, or with `None` that it may
    /// open any number. Else as [`max_connections_per_address`](Self::max_connections_per_address), with
    /// a `Retry-After` that says when the next one is let in. Default 32 a second and 256 at once: all
    /// that there may be from one address can come back together.
    ///
    /// Of up to 65,536 addresses without a connection it is remembered when they came.
    pub fn handshake_rate(mut self, rate: impl Into<Option<Rate>>) -> Self {
        self.limits.rate = Each::of(rate.into());
        self
    }

    /// Has connections from these addresses begin with the header of the PROXY protocol, version 1 or 2, in
    /// which a proxy that hands on bytes says whose connection it is; TLS and HTTP come behind it. Nobody
    /// else may send one.
    ///
    /// The client's address is then [`peer_addr`](WebSocket::peer_addr), and what the limits for each
    /// address count; the proxy's is [`proxy_addr`](WebSocket::proxy_addr). Where the proxy speaks for
    /// itself (`LOCAL`, such as a check of health) or does not know (`UNKNOWN`), the connection is the
    /// proxy's. Without the header, or with one that is malformed or has more than 536 bytes of addresses
    /// and extensions, a connection is closed with [`Error::ProxyHeader`]; it may take as long as the
    /// opening handshake behind it. Version 2 is read in two steps, version 1 in many small ones.
    ///
    /// ```no_run
    /// # async fn example() -> sockeye::Result<()> {
    /// # use sockeye::Server;
    /// let server = Server::bind("0.0.0.0:8080").await?
    ///     .proxy_protocol("10.0.0.0/24".parse()?);
    /// # Ok(())
    /// # }
    /// ```
    pub fn proxy_protocol(mut self, trusted: Networks) -> Self {
        self.proxies = Some(trusted);
        self
    }

    /// Calls `tell` for every connection that failed: in the opening handshake, or by an error that its
    /// handler returned, in the event form by any end but a clean one. A handler that panics, or is dropped at the deadline of
    /// a shutdown, is not told of here: [`Handler::on_error`] is told of a panic. Who connects and leaves without a word, as a
    /// load balancer that checks whether the port is open, is among them. By default nobody is told. It is also told, once a second, that connections wait
    /// because the system gives none, as where descriptors have run out ([`Error::Accept`]).
    ///
    /// The address is that of [`peer_addr`](WebSocket::peer_addr): the client's, also behind a trusted
    /// proxy once that has said whose the connection is, and the proxy's before. A client of a Unix socket
    /// has none, and neither has one whom a proxy hides.
    ///
    /// A panic in `tell`, such as of `eprintln!` where nobody reads that any more, harms no connection.
    pub fn on_error(
        mut self,
        tell: impl Fn(Option<SocketAddr>, &Error) + Send + Sync + 'static,
    ) -> Self {
        self.on_error = Some(Arc::new(move |peer, error: &Error| {
            // Some are told while the server accepts. What it panicked with was told by the panic hook.
            let _ = catch_unwind(AssertUnwindSafe(|| tell(peer, error)));
        }));
        self
    }

    /// Answers requests for anything else than a WebSocket on the same port, with a service of
    /// hyper: over HTTP/1.1, and with the feature `http2` over HTTP/2, which TLS then offers too.
    /// Without this they are refused: GET with 426, another method with 405, and another version of
    /// HTTP with 400.
    ///
    /// A connection serves requests until one asks for a WebSocket, which goes to the handler
    /// whatever its path is ([`Acceptor::on_request`] looks at it), or none has come for
    /// [`http_keep_alive`](Self::http_keep_alive). [`Acceptor::head_limits`] bounds the heads, and a client that
    /// takes nothing of its response for a minute is given up (over HTTP/2, unless a WebSocket is open on the
    /// connection). How long a request's body may take is up to the service.
    ///
    /// What the service upgrades itself over HTTP/1.1, to a tunnel or another protocol, is its own: it counts for
    /// [`max_connections`](Self::max_connections) while its stream is there, but the server's end does not
    /// wait for it and does not end it.
    ///
    /// A request has the client's address, a [`SocketAddr`], among its extensions where it has one, and
    /// over TLS what that says of the client, a [`TlsIdentity`](super::TlsIdentity). Where a
    /// [proxy](Acceptor::forwarded) is believed, it is refused with 400 if what that says cannot be understood.
    #[cfg(feature = "hyper")]
    pub fn http<S, B>(mut self, service: S) -> Self
    where
        S: hyper::service::Service<
                hyper::Request<hyper::body::Incoming>,
                Response = hyper::Response<B>,
                Future: Send,
                Error: Into<Box<dyn std::error::Error + Send + Sync>>,
            > + Clone
            + Send
            + Sync
            + 'static,
        B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
    {
        self.http = Some(Arc::new(move |plain, serving| {
            Box::pin(super::http::serve(plain, serving, service.clone()))
        }));
        self
    }

    /// As [`http`](Self::http), with a service of tower: an axum `Router` as it is.
    ///
    /// ```no_run
    /// # async fn example() -> sockeye::Result<()> {
    /// use axum::{Router, routing::get};
    /// use sockeye::Server;
    ///
    /// let pages = Router::new().route("/health", get(|| async { "well" }));
    /// Server::bind("0.0.0.0:8080").await?
    ///     .router(pages)
    ///     .serve(|mut socket| async move { socket.send("Привет").await })
    ///     .await
    /// # }
    /// ```
    #[cfg(feature = "axum")]
    pub fn router<S, B>(self, service: S) -> Self
    where
        S: tower_service::Service<
                hyper::Request<hyper::body::Incoming>,
                Response = hyper::Response<B>,
                Future: Send,
                Error: Into<Box<dyn std::error::Error + Send + Sync>>,
            > + Clone
            + Send
            + Sync
            + 'static,
        B: hyper::body::Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>>
            + Send
            + 'static,
    {
        self.http(hyper_util::service::TowerToHyperService::new(service))
    }

    /// Sets how long a connection that serves HTTP may wait until the head of a request is whole; over HTTP/2,
    /// while none is being answered. Default 30 s. For the first request the handshake timeout holds, over HTTP/2
    /// where that is longer. With [`Duration::ZERO`] what has come is answered, and the connection ends. What keeps
    /// a WebSocket is [`Acceptor::keepalive`].
    #[cfg(feature = "hyper")]
    pub fn http_keep_alive(mut self, wait: Duration) -> Self {
        self.keep_alive = crate::keepalive::some_time(wait).unwrap_or_default();
        self
    }

    /// Sets whether WebSockets are opened over HTTP/2 too (RFC 8441), where there is an HTTP service: each is a stream
    /// of a connection that pages come on as well, and a browser that has one opens its sockets there. Default: no,
    /// as a socket of its own costs less for each message.
    ///
    /// Such a socket is counted by all limits as if it had come by itself, besides the connection that it is on; its
    /// keepalive, deadlines and close are its own. Where its client ends the connection, all on it end.
    #[cfg(feature = "http2")]
    pub fn websockets_over_http2(mut self, open: bool) -> Self {
        self.websockets_over_http2 = open;
        self
    }

    /// Opens WebSockets over HTTP/3 too (RFC 9220), on a UDP socket, whose port is usually the same, or on several by further
    /// calls; the certificate is that of [`Acceptor::tls`], which it needs.
    ///
    /// ```no_run
    /// # async fn example(tls: sockeye::server::ServerTls) -> sockeye::Result<()> {
    /// use sockeye::{Acceptor, Server};
    ///
    /// Server::bind("0.0.0.0:8443").await?
    ///     .acceptor(Acceptor::new().tls(tls))
    ///     .http3(std::net::UdpSocket::bind("0.0.0.0:8443")?)
    ///     .serve(|mut socket| async move { socket.send("Привет").await })
    ///     .await
    /// # }
    /// ```
    ///
    /// A connection counts for all limits as one of TCP does, and each WebSocket on it besides, as if it had come by itself;
    /// its keepalive, deadlines and close are its own. Where its client ends the connection, all on it end. A connection on
    /// which nothing is open ends after [`http_keep_alive`](Self::http_keep_alive). A request for a page is answered with 421, so that a browser asks again on TCP (RFC 9110 §15.5.20), and nothing tells browsers
    /// of this port: that is for an `Alt-Svc` of the pages, or a record of the DNS. The header of the PROXY protocol is not
    /// read here.
    ///
    /// QUIC asks every 15 s whether a client is still there, and gives it up after 60 s without an answer, or
    /// earlier where the client says so, whatever [`Acceptor::keepalive`] says.
    ///
    /// Where an eighth of [`max_handshakes`](Self::max_handshakes) are unfinished, or an address has opened as many connections as
    /// it may, or as fast, whoever comes from there has to show first that the address is theirs (Retry, RFC 9000 §8.1.2), before TLS is spent on them.
    ///
    /// The port is free again once QUIC has let go of the last connection: some round trips after [`serve`](Self::serve) has
    /// returned, and up to a minute where a client has it wait.
    #[cfg(feature = "http3")]
    pub fn http3(mut self, socket: std::net::UdpSocket) -> Self {
        self.http3.push(socket);
        self
    }

    /// Counts connections, messages, refusals and more in `metrics`, which a
    /// [`PerCore`](super::PerCore) shares by a clone for each server.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, metrics: &crate::Metrics) -> Self {
        self.metrics = Some(metrics.clone());
        self
    }

    /// Runs `work` for every connection, each in a task of its own, with the socket as an async
    /// object. What it sends goes out in one write whenever it yields. When it is done the
    /// connection is closed: with 1000, after an error with 1011. Where it panics, or is dropped with this
    /// future, that is told with 1011 or 1001 and the connection ends at once, unless the socket was moved to
    /// another task.
    ///
    /// Returns after [`shutdown_on`](Self::shutdown_on), or when a
    /// [`shutdown_handle`](Self::shutdown_handle) has ended it; else never. Where the system runs out of
    /// descriptors, accepting goes on when some are free again; [`on_error`](Self::on_error) is told.
    ///
    /// # Errors
    /// With [`http3`](Self::http3), before anything is accepted: [`Error::Setup`] without TLS, [`Error::Tls`] for a
    /// configuration without TLS 1.3, [`Error::Listen`]. Else none today.
    ///
    /// # Cancel safety
    /// Dropping the future stops accepting and drops every connection.
    pub async fn serve<F, Fut>(self, work: F) -> Result<()>
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        self.run(move |socket| {
            let mut driven = Driven::new(socket, &work);
            poll_fn(move |cx| Pin::new(&mut driven).poll(cx).map_ok(drop))
        })
        .await
    }

    /// Runs a handler for every connection: the event form. `make` makes one for each.
    ///
    /// Else as [`serve`](Self::serve).
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_handler<F, H>(self, make: F) -> Result<()>
    where
        F: Fn() -> H + Send + Sync + 'static,
        H: Handler + Send + 'static,
    {
        self.run(move |socket| {
            let mut handled = Handled::new(socket, make());
            poll_fn(move |cx| {
                let ended = Pin::new(&mut handled).poll(cx);
                ended.map(|ended| ended.error().map_or(Ok(()), Err))
            })
        })
        .await
    }

    /// Runs for every connection what its path leads to: see [`Routes`]. A request for another path is
    /// refused with 404, and one for no WebSocket goes to the HTTP service as ever.
    ///
    /// Else as [`serve`](Self::serve).
    ///
    /// # Errors
    /// [`Error::Setup`] where a path cannot be a route, before anything is accepted; and as [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_routes(mut self, routes: Routes) -> Result<()> {
        let (table, run) = routes.into_parts()?;
        self.acceptor.set_routes(table);
        self.run(run).await
    }

    async fn run<F, Fut>(mut self, work: F) -> Result<()>
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Unpin + Send + 'static,
    {
        #[cfg(feature = "http3")]
        let http3 = {
            let sockets = std::mem::take(&mut self.http3);
            super::http3::Endpoints::listen(sockets, self.acceptor.tls.as_ref())?
        };
        let connections = connections::Running::default();
        let work = Arc::new(work);
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &self.metrics {
            self.acceptor = self.acceptor.metrics(metrics);
        }
        #[cfg(feature = "http2")]
        if self.http.is_some() {
            self.acceptor.offer_http2();
        }
        let context = Arc::new(Context {
            limits: Arc::new(self.limits),
            gate: self.gate.clone(),
            connections: connections.clone(),
            proxies: self.proxies.clone(),
            acceptor: Arc::new(self.acceptor.clone().apart()),
            #[cfg(feature = "hyper")]
            http: self.http.clone(),
            #[cfg(feature = "hyper")]
            keep_alive: self.keep_alive,
            on_error: self.on_error.clone(),
            #[cfg(feature = "http2")]
            run: {
                let (connections, work) = (connections.clone(), work.clone());
                let run: Box<Run> = Box::new(move |context, place, open| {
                    connections.spawn(|entry| {
                        Task::Opening(Box::new(Opening {
                            stage: Stage::Opening(open(entry.seat.clone())),
                            entry,
                            place,
                            context,
                            work: work.clone(),
                            peer: None,
                        }))
                    })
                });
                run
            },
            #[cfg(feature = "http2")]
            websockets_over_http2: self.websockets_over_http2,
        });
        let open = |(stream, peer): Accepted| {
            let Some((stream, place)) = context.admit(stream, peer) else {
                return;
            };
            let handshake = place.handshake(peer);
            let id = handshake.id();
            let task = connections.spawn(|entry| {
                Task::Opening(Box::new(Opening {
                    stage: Stage::Accepted(stream, handshake),
                    entry,
                    place,
                    context: context.clone(),
                    work: work.clone(),
                    peer,
                }))
            });
            context.gate.runs(id, task);
        };
        let mut room = Room::new(self.gate.clone(), &self.limits);
        let mut beginning = Box::pin(self.running.0.beginning());
        #[cfg(feature = "http3")]
        let mut over_http3 = std::pin::pin!(http3.accept(Some(&context)));
        let begun = loop {
            let mut next = std::pin::pin!(self.next(beginning.as_mut(), &mut room));
            let next = poll_fn(|cx| {
                // First, so that a flood on UDP keeps nobody from it.
                let next = next.as_mut().poll(cx);
                #[cfg(feature = "http3")]
                let _ = over_http3.as_mut().poll(cx);
                next
            });
            match next.await {
                Next::Connection(accepted) => open(accepted),
                Next::End(begun) => break begun,
            }
        };
        let schedule = begun.how.schedule(self.acceptor.close_time());
        // Without a window they would be cut off before they can open.
        let can_open = !schedule.window.is_zero();
        self.waiting
            .into_iter()
            .filter(|_| can_open)
            .for_each(&open);
        for listener in self.listeners {
            let last = listener.last();
            if can_open {
                last.into_iter().for_each(&open);
            }
        }
        #[cfg(not(feature = "http3"))]
        let farewell = connections.leave(&begun, schedule).await;
        #[cfg(feature = "http3")]
        let farewell = {
            let mut leaving = std::pin::pin!(async {
                let farewell = connections.leave(&begun, schedule).await;
                http3.drain().await;
                farewell
            });
            let mut refusing = std::pin::pin!(http3.accept(None));
            poll_fn(|cx| {
                let left = leaving.as_mut().poll(cx);
                let _ = refusing.as_mut().poll(cx);
                left
            })
            .await
        };
        self.running.add(farewell);
        Ok(())
    }

    /// What comes next: a connection, or the end.
    async fn next(
        &mut self,
        mut beginning: Pin<&mut (impl Future<Output = Option<Begun>> + Send)>,
        room: &mut Room,
    ) -> Next {
        loop {
            let accepted = poll_fn(|cx| {
                let mut signals = self.signals.iter_mut();
                let given = signals.find_map(|signal| match signal.as_mut().poll(cx) {
                    Poll::Ready(how) => Some(how),
                    Poll::Pending => None,
                });
                if let Some(how) = given {
                    self.signals.clear();
                    self.running.0.begin(how);
                }
                if let Poll::Ready(Some(begun)) = beginning.as_mut().poll(cx) {
                    return Poll::Ready(Err(begun));
                }
                // First, as nobody is given up for one that is not there.
                let accepted = match self.waiting.take() {
                    Some(accepted) => accepted,
                    None => match ready!(self.poll_accept(cx)) {
                        Ok(accepted) => accepted,
                        Err(error) => return Poll::Ready(Ok(Err(error))),
                    },
                };
                let given_up = |peer, error| {
                    self.acceptor.refused(peer, &error);
                    if let Some(tell) = &self.on_error {
                        tell(peer, &error);
                    }
                };
                if room.poll(cx, given_up).is_pending() {
                    self.waiting = Some(accepted);
                    return Poll::Pending;
                }
                Poll::Ready(Ok(Ok(accepted)))
            })
            .await;
            match accepted {
                Err(begun) => return Next::End(begun),
                Ok(Ok(accepted)) => {
                    self.failed = 0;
                    return Next::Connection(accepted);
                }
                Ok(Err(error)) => {
                    if self.is_to_pause(error) {
                        sleep(EXHAUSTED_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Tells of an attempt to accept that failed, and whether the next one is to wait.
    #[cold]
    fn is_to_pause(&mut self, error: io::Error) -> bool {
        self.failed = self.failed.saturating_add(1);
        let too_many = self.failed.is_multiple_of(FAILED_IN_A_ROW);
        let pause = too_many || !is_of_one_connection(&error);
        // A client that gave up before it was accepted is no fault of this end's.
        if error.kind() != io::ErrorKind::ConnectionAborted {
            self.not_accepted(error);
        }
        pause
    }

    /// Tells that the system gives no connection, unless it has just been told.
    fn not_accepted(&mut self, error: io::Error) {
        #[cfg(feature = "metrics")]
        if let Some(metrics) = &self.acceptor.metrics {
            metrics.not_accepted();
        }
        let now = Instant::now();
        let just = |told: Instant| now.duration_since(told) < NOT_ACCEPTED_TOLD;
        if self.told_not_accepted.is_some_and(just) {
            return;
        }
        self.told_not_accepted = Some(now);
        let error = Error::Accept(Arc::new(error));
        #[cfg(feature = "tracing")]
        crate::watch::refused(None, &error);
        if let Some(tell) = &self.on_error {
            tell(None, &error);
        }
    }

    /// A connection from whichever listener has one. Each comes first in its turn.
    fn poll_accept(&mut self, cx: &mut task::Context<'_>) -> Poll<io::Result<Accepted>> {
        for _ in 0..self.listeners.len() {
            let accepted = self.listeners[0].poll_accept(cx);
            self.listeners.rotate_left(1);
            if accepted.is_ready() {
                return accepted;
            }
        }
        Poll::Pending
    }
}

/// What comes to a listening server.
enum Next {
    Connection(Accepted),
    End(Begun),
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listeners", &self.listeners)
            .field("acceptor", &self.acceptor)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(feature = "metrics")]
mod tests {
    #[cfg(target_os = "linux")]
    use tokio::time::timeout;

    use super::*;
    use crate::Metrics;

    /// Told once a second, and counted each time.
    #[tokio::test(start_paused = true)]
    async fn that_the_system_gives_no_connections_is_counted() {
        let (metrics, told) = (Metrics::new(), Arc::new(std::sync::Mutex::new(Vec::new())));
        let telling = told.clone();
        let mut server = Server::bind("127.0.0.1:0")
            .await
            .unwrap()
            .acceptor(Acceptor::new().metrics(&metrics))
            .on_error(move |_, error| telling.lock().unwrap().push(error.to_string()));
        for _ in 0..3 {
            // EMFILE.
            server.not_accepted(io::Error::from_raw_os_error(24));
        }
        let encoded = metrics.encode();
        assert!(
            encoded.contains("\nsockeye_accept_errors_total 3\n"),
            "{encoded}"
        );
        assert_eq!(told.lock().unwrap().len(), 1);
    }

    #[cfg(target_os = "linux")]
    fn not_accepted(metrics: &Metrics) -> u64 {
        let encoded = metrics.encode();
        let (_, count) = encoded
            .split_once("\nsockeye_accept_errors_total ")
            .unwrap();
        count.lines().next().unwrap().parse().unwrap()
    }

    /// A socket that listens for nothing: once something has come, each attempt to accept fails at it.
    #[cfg(target_os = "linux")]
    fn failing() -> Listener {
        use std::{net::UdpSocket, os::fd::OwnedFd};

        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.send_to(b"!", socket.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = std::net::TcpListener::from(OwnedFd::from(socket));
        tokio::net::TcpListener::from_std(listener).unwrap().into()
    }

    /// accept(2): EOPNOTSUPP, as other errors of the network, is about one connection.
    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn after_an_error_of_one_connection_the_next_is_accepted_at_once() {
        const CLIENTS: usize = 100;
        let metrics = Metrics::new();
        let mut server = Server::bind("127.0.0.1:0")
            .await
            .unwrap()
            .also(failing())
            .acceptor(Acceptor::new().metrics(&metrics));
        let address = server.local_addr().unwrap();
        let clients = (0..CLIENTS).map(|_| std::net::TcpStream::connect(address).unwrap());
        let _clients: Vec<_> = clients.collect();

        let mut room = Room::new(server.gate.clone(), &server.limits);
        let mut beginning = Box::pin(server.running.0.beginning());
        let begin = Instant::now();
        for _ in 0..CLIENTS {
            let next = server.next(beginning.as_mut(), &mut room).await;
            assert!(matches!(next, Next::Connection(_)));
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let failed = not_accepted(&metrics);
        assert!(failed >= CLIENTS as u64 / 2, "{failed}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test(start_paused = true)]
    async fn a_socket_that_always_fails_keeps_no_core_busy() {
        let metrics = Metrics::new();
        let mut server =
            Server::from_listener(failing()).acceptor(Acceptor::new().metrics(&metrics));
        let mut room = Room::new(server.gate.clone(), &server.limits);
        let mut beginning = Box::pin(server.running.0.beginning());
        let second = Duration::from_secs(1);
        let next = timeout(second, server.next(beginning.as_mut(), &mut room)).await;
        assert!(next.is_err());
        let most = 21 * u64::from(FAILED_IN_A_ROW);
        let failed = not_accepted(&metrics);
        assert!((1..=most).contains(&failed), "{failed}");
    }
}
