//! WebSockets in an axum application: an extractor that answers the request and runs the socket.

use std::{
    borrow::Cow,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum_core::{
    body::Body,
    extract::FromRequestParts,
    response::{IntoResponse, Response},
};
use hyper::http::request::Parts;
use sockeye_proto::handshake::{HandshakeError, Offer};

use crate::{
    Acceptor, Error, Limits, WebSocket,
    established::Settings,
    hyper::{Asked, is_extended_connect, refused},
    server::{Answer, Connections, Entry, Farewell, Origins, Peer, Shutdown, refusal},
    unshared::Unshared,
};

/// Extracts a request for a WebSocket, to be answered with [`on_upgrade`](Self::on_upgrade).
///
/// It takes the place of axum's own extractor of that name. What changes is the import, and in the handler
/// that `recv` gives a `Result<Option<Message>>`, where axum's gives an `Option<Result<Message>>`, and that
/// a [`Message`](crate::Message) is text or binary and nothing else.
///
/// ```
/// use axum::{Router, response::Response, routing::get};
/// use sockeye::axum::WebSocketUpgrade;
///
/// async fn chat(upgrade: WebSocketUpgrade) -> Response {
///     upgrade.protocols(["chat.v2", "chat.v1"]).on_upgrade(|mut socket| async move {
///         while let Some(message) = socket.recv().await? { socket.send(message).await?; }
///         Ok(())
///     })
/// }
///
/// let app: Router = Router::new().route("/chat", get(chat));
/// ```
///
/// The route has to be one for GET, or `any`, where WebSockets may come over HTTP/2 too (RFC 8441, by
/// CONNECT). A request that breaks a rule of RFC 6455 is refused with the status and the words that fit
/// it, and the handler is not called. Pages of another origin than this server's are refused with 403 by
/// [`on_upgrade`](Self::on_upgrade), unless [`origins`](Self::origins) lets them in.
///
/// With `axum::serve` the TCP stream itself is taken
/// back, so that a socket is as fast as one of [`Server`](crate::Server). Over HTTP/2 it is a stream of hyper's, with this
/// crate's feature `http2` and where whoever serves the connection has announced that, as `axum::serve` does with axum's.
/// Nobody sets `TCP_NODELAY` on that connection but its listener, without which a message may wait for some 40 ms:
///
/// ```
/// use axum::serve::ListenerExt;
///
/// # async fn example(app: axum::Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let listener = listener.tap_io(|tcp| {
///     let _ = tcp.set_nodelay(true);
/// });
/// axum::serve(listener, app).await
/// # }
/// ```
///
/// The client's address, where a decision goes by it or a proxy is [believed](Acceptor::forwarded), has to be
/// among the request's extensions as a [`SocketAddr`](std::net::SocketAddr). [`Server::router`](crate::Server::router)
/// puts it there; axum itself has it as a `ConnectInfo`, which a layer copies:
///
/// ```
/// use std::net::SocketAddr;
/// use axum::{Router, extract::{ConnectInfo, Request}, middleware::map_request};
///
/// async fn tell_peer(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request) -> Request {
///     request.extensions_mut().insert(peer);
///     request
/// }
///
/// # async fn example(app: Router, listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// let app = app.layer(map_request(tell_peer));
/// axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await
/// # }
/// ```
///
/// With [`Sockets`] among the request's extensions, a socket is closed with the others when the application ends.
///
/// Where the request has a `Metrics` among its extensions (feature `metrics`), as by
/// `.layer(Extension(metrics))` around the routes, they count the connections, and the requests that are
/// refused; else [`Acceptor::metrics`] counts them from [`acceptor`](Self::acceptor) on.
#[must_use = "nothing is answered before `on_upgrade`"]
pub struct WebSocketUpgrade {
    acceptor: Acceptor,
    asked: Asked,
    peer: Peer,
    offer: Offer,
    answer: Answer,
    on_failed: Option<Unshared<Tell>>,
    sockets: Option<Sockets>,
}

type Tell = Box<dyn FnOnce(Error) + Send>;

impl WebSocketUpgrade {
    /// Names the subprotocols that are spoken here, the most wanted first: of those that the client
    /// offers, the first is chosen. Where it offers none of them, the connection has none.
    pub fn protocols<I>(mut self, protocols: I) -> Self
    where
        I: IntoIterator,
        I::Item: Into<Cow<'static, str>>,
    {
        for name in protocols {
            self.acceptor = self.acceptor.subprotocol(name.into());
        }
        self
    }

    /// The subprotocol that is chosen, of [`protocols`](Self::protocols).
    pub fn selected_protocol(&self) -> Option<&str> {
        self.acceptor.chosen(&self.offer)
    }

    /// The subprotocols that the client offers, its favourite first.
    pub fn requested_protocols(&self) -> impl Iterator<Item = &str> {
        self.offer.subprotocols.iter()
    }

    /// Who asks, as browsers say it (RFC 6455 §10.2), where it is text.
    pub fn origin(&self) -> Option<&str> {
        self.asked.head.headers().first_str("Origin")
    }

    /// Sets whose pages may connect (RFC 6455 §10.2). Default: those of this server, [`Origins::same`].
    pub fn origins(mut self, origins: Origins) -> Self {
        self.acceptor = self.acceptor.origins(origins);
        self
    }

    /// Sets how large a message may be, in bytes. Default 16 MiB. A frame, and what is held of a message
    /// before it is inflated, may be as large as such a message calls for, unless they were set otherwise.
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        let limits = self.acceptor.limits_mut();
        let [before, after] = [limits.message, bytes].map(|bytes| Limits::default().message(bytes));
        limits.message = bytes;
        if limits.frame == before.frame {
            limits.frame = after.frame;
        }
        if limits.retained == before.retained {
            limits.retained = after.retained;
        }
        self
    }

    /// Sets how large the payload of a frame may be, in bytes. Default: what a message may be, and a little
    /// more.
    pub fn max_frame_size(mut self, bytes: usize) -> Self {
        self.acceptor.limits_mut().frame = bytes;
        self
    }

    /// Sets everything that can be said about a connection: limits, deadlines, compression. It takes
    /// the place of what was set before, but for an [`answer`](Self::answer). Its TLS and its
    /// [`head_limits`](Acceptor::head_limits) do not apply: hyper has done that already.
    ///
    /// It waits for the decision of the acceptor's [`on_request`](Acceptor::on_request), which in a nested router sees
    /// the path without the prefix, as axum has it, and whose refusal is the error; the client's address and what TLS says of it are known where they are among the
    /// extensions of the request, as a [`SocketAddr`](std::net::SocketAddr) and a
    /// [`TlsIdentity`](crate::server::TlsIdentity).
    ///
    /// ```
    /// use axum::{extract::State, response::Response};
    /// use sockeye::{Acceptor, Result, axum::{WebSocketUpgrade, WebSocketUpgradeRejection}};
    ///
    /// async fn chat(
    ///     State(acceptor): State<Acceptor>,
    ///     upgrade: WebSocketUpgrade,
    /// ) -> Result<Response, WebSocketUpgradeRejection> {
    ///     let upgrade = upgrade.acceptor(acceptor).await?;
    ///     Ok(upgrade.on_upgrade(|mut socket| async move { socket.send("Привет").await }))
    /// }
    /// ```
    ///
    /// # Errors
    /// What the acceptor refuses.
    ///
    /// # Cancel safety
    /// Dropping the future drops the decision, and the request with it.
    pub async fn acceptor(mut self, acceptor: Acceptor) -> Result<Self, WebSocketUpgradeRejection> {
        #[cfg(feature = "metrics")]
        let acceptor = acceptor.counted_by(self.acceptor.metrics.take());
        let (head, peer) = (&self.asked.head, &mut self.peer);
        let is_stream = head.is_extended_connect();
        let answer = async {
            acceptor.see(head.headers(), peer)?;
            let checked = acceptor.check(head, peer)?;
            let deadline = acceptor.deadline();
            acceptor.decision(head, peer, &checked, deadline).await
        }
        .await;
        let answer = answer.map_err(|error| reject(&acceptor, &self.peer, is_stream, error))?;
        self.answer = self.answer.and(answer);
        self.acceptor = acceptor;
        Ok(self)
    }

    /// Adds to the 101, and has the connection remember a value: what
    /// [`on_request`](Acceptor::on_request) would answer, where the handler itself decides.
    ///
    /// What an [`acceptor`](Self::acceptor) or an earlier call has answered stays: all headers are sent, and what the
    /// connection remembers, and its subprotocol, are those of the last that has one.
    pub fn answer(mut self, answer: Answer) -> Self {
        self.answer = self.answer.and(answer);
        self
    }

    /// Has it told where the connection does not come about: [`on_upgrade`](Self::on_upgrade) refuses the
    /// request, as for its origin; the client has gone; or the response is not sent within the handshake
    /// timeout. By default nobody is.
    pub fn on_failed_upgrade(mut self, tell: impl FnOnce(Error) + Send + 'static) -> Self {
        self.on_failed = Some(Unshared::new(Box::new(tell)));
        self
    }

    /// Answers the request, and runs `work` with the socket in a task of its own.
    ///
    /// What it sends goes out in one write whenever it yields. When it is done the connection is
    /// closed: with 1000, or with 1011 where it returns an error, of which nobody else learns. `work`
    /// may return nothing, or a `sockeye::Result<()>` so that `?` works in it.
    ///
    /// The response has to be sent. Whoever may connect is to be decided before this is called, and by no middleware behind
    /// it: where something around the handler sends another response in place of this one, whatever its status, hyper hands
    /// the connection over all the same once it would close it, as where the client hangs up or has asked with `Connection:
    /// close`, and `work` runs.
    pub fn on_upgrade<F, Fut>(mut self, work: F) -> Response
    where
        F: FnOnce(WebSocket) -> Fut + Send + 'static,
        Fut: Future<Output: Outcome> + Send + 'static,
    {
        let acceptor = self.acceptor;
        let is_stream = self.asked.head.is_extended_connect();
        let begun = match &self.sockets {
            Some(sockets) if sockets.is_ending() => Err(ending()),
            _ => acceptor.begin_with(self.asked, &mut self.peer, self.answer),
        };
        let (response, upgrade) = match begun {
            Ok(agreed) => agreed,
            Err(error) => {
                let rejection = reject(&acceptor, &self.peer, is_stream, error);
                if let Some(tell) = self.on_failed {
                    tell.into_inner()(rejection.error.clone().into());
                }
                return rejection.into_response();
            }
        };
        let on_failed = self.on_failed;
        let close_timeout = acceptor.close_time();
        let run = async move |mut entry: Option<Entry>, is_late: bool| {
            let opened = match is_late {
                true => Err(ending().into()),
                false => upgrade.await,
            };
            match opened {
                Ok(socket) => {
                    if let Some(entry) = &mut entry {
                        entry.opened(&socket);
                    }
                    let driven = socket.drive(|socket| async { work(socket).await.result() });
                    // The peer has been told with 1011.
                    let _ = driven.await;
                }
                Err(error) => {
                    acceptor.refused(self.peer.addr, &error);
                    if let Some(tell) = on_failed {
                        tell.into_inner()(error);
                    }
                }
            }
        };
        match self.sockets {
            Some(sockets) => {
                sockets.connections.close_in(close_timeout);
                let mut is_late = false;
                drop(sockets.connections.spawn(|entry| {
                    // Asked once it has its seat: from then on it is waited for.
                    is_late = sockets.is_ending();
                    run(Some(entry), is_late)
                }));
                if is_late {
                    let error = ending();
                    return WebSocketUpgradeRejection { error, is_stream }.into_response();
                }
            }
            None => drop(tokio::spawn(run(None, false))),
        }
        response.map(|()| Body::empty())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for WebSocketUpgrade {
    type Rejection = WebSocketUpgradeRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let is_stream = is_extended_connect(&parts.method, &parts.extensions);
        let asked = Asked::of(
            &parts.method,
            &parts.uri,
            parts.version,
            &parts.headers,
            &mut parts.extensions,
        );
        let judged = asked.and_then(|asked| {
            let offer = asked.head.check()?;
            Ok((asked, offer))
        });
        let peer = Peer::among(&parts.extensions);
        let acceptor = Acceptor::new();
        #[cfg(feature = "metrics")]
        let acceptor = acceptor.counted_by(parts.extensions.get().cloned());
        let (asked, offer) = judged.map_err(|error| reject(&acceptor, &peer, is_stream, error))?;
        Ok(Self {
            acceptor,
            asked,
            peer,
            offer,
            answer: Answer::new(),
            on_failed: None,
            sockets: parts.extensions.get().cloned(),
        })
    }
}

fn ending() -> HandshakeError {
    HandshakeError::Refused(Box::new(refusal::ending()))
}

/// Counts a request as refused, where that is wanted, and gives what it is answered with.
fn reject(
    acceptor: &Acceptor,
    peer: &Peer,
    is_stream: bool,
    error: HandshakeError,
) -> WebSocketUpgradeRejection {
    acceptor.refused(peer.addr, &error.clone().into());
    WebSocketUpgradeRejection { error, is_stream }
}

impl fmt::Debug for WebSocketUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocketUpgrade")
            .field("acceptor", &self.acceptor)
            .field("request", &self.asked.head)
            .finish_non_exhaustive()
    }
}

/// The sockets of an axum application, so that they can be closed together when it ends. Clones are of
/// the same application.
///
/// axum's own graceful shutdown knows nothing of a connection that has become a WebSocket: it waits for none that is on
/// HTTP/1.1, and what is left is dropped with the runtime; over HTTP/2 it waits for all of them. With this around the routes,
/// as an `Extension`, each is closed in its turn, after its handler has answered what it had accepted. It begins at the same
/// signal, not behind axum's, which also waits for requests that are being sent, however slowly:
///
/// ```no_run
/// # async fn socket(upgrade: sockeye::axum::WebSocketUpgrade) -> axum::response::Response {
/// #     upgrade.on_upgrade(|_| async { Ok(()) })
/// # }
/// # async fn signal() {}
/// # async fn example(listener: tokio::net::TcpListener) -> std::io::Result<()> {
/// use axum::{Extension, Router, routing::get};
/// use sockeye::{axum::Sockets, server::Shutdown};
///
/// let sockets = Sockets::new();
/// let app = Router::new()
///     .route("/socket", get(socket))
///     .layer(Extension(sockets.clone()));
/// let (served, farewell) = tokio::join!(
///     axum::serve(listener, app).with_graceful_shutdown(signal()),
///     async {
///         signal().await;
///         // 1001 to all of them; `Shutdown::restart()` says 1012, and may spread it.
///         sockets.shutdown(Shutdown::new()).await
///     },
/// );
/// println!("{farewell}");
/// # served
/// # }
/// ```
#[derive(Clone, Default)]
pub struct Sockets {
    connections: Connections,
    is_ending: Arc<AtomicBool>,
    /// One end at a time.
    ending: Arc<tokio::sync::Mutex<()>>,
}

impl Sockets {
    /// Those of an application that has none yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Closes them as `how` says, and gives how each ended once all have. From when it begins no more are opened: who asks
    /// for one is answered 503.
    ///
    /// What happens when is told in [`server::leaving`](crate::server::leaving). The default deadline allows
    /// for the longest [close timeout](Acceptor::close_timeout) of any that was opened.
    ///
    /// # Cancel safety
    /// Dropped, it asks no more of them to leave. Those that were asked do.
    pub async fn shutdown(&self, how: Shutdown) -> Farewell {
        self.is_ending.store(true, Ordering::Relaxed);
        let _one = self.ending.lock().await;
        // Peers have longer to answer a Close where an `Acceptor::close_timeout` says so.
        let close_timeout = Settings::default().close_timeout;
        self.connections.shutdown(how, close_timeout).await
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Sockets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sockets").finish_non_exhaustive()
    }
}

/// Why a request does not open a WebSocket. As a response it says so to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSocketUpgradeRejection {
    error: HandshakeError,
    /// Whether it answers for a stream of HTTP/2.
    is_stream: bool,
}

impl WebSocketUpgradeRejection {
    /// The rule that was broken.
    pub fn error(&self) -> &HandshakeError {
        &self.error
    }
}

impl IntoResponse for WebSocketUpgradeRejection {
    fn into_response(self) -> Response {
        refused(&self.error.into(), self.is_stream).map(Body::from)
    }
}

impl fmt::Display for WebSocketUpgradeRejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for WebSocketUpgradeRejection {}

/// What a handler may return.
pub trait Outcome: sealed::Sealed {
    /// The same, as a result.
    #[doc(hidden)]
    fn result(self) -> crate::Result<()>;
}

impl Outcome for () {
    fn result(self) -> crate::Result<()> {
        Ok(())
    }
}

impl Outcome for crate::Result<()> {
    fn result(self) -> crate::Result<()> {
        self
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for crate::Result<()> {}
}
