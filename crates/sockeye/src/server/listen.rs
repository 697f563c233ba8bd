//! The server: listens, and runs a handler for every connection.

use std::{
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::watch,
    time::sleep,
};

use super::{
    Acceptor, Incoming,
    connections::{Connections, Place},
};
#[cfg(feature = "hyper")]
use super::{PlainHttp, http::Serving};
use crate::{Error, Handler, Result, WebSocket, stream::Stream};

/// How long to wait before accepting again, where the system has run out of descriptors or memory:
/// connections that end meanwhile make room.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

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
    listener: TcpListener,
    acceptor: Acceptor,
    shutdown: Vec<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Servers that end together: told when this one begins to.
    together: Option<watch::Sender<bool>>,
    #[cfg(feature = "hyper")]
    http: Option<Arc<ServeHttp>>,
    #[cfg(feature = "hyper")]
    keep_alive: Duration,
    on_error: Option<Arc<OnError>>,
}

/// Serves a connection that asks for something else than a WebSocket, until it does.
#[cfg(feature = "hyper")]
type ServeHttp = dyn Fn(PlainHttp, Serving) -> Pin<Box<dyn Future<Output = Result<Option<WebSocket>>> + Send>>
    + Send
    + Sync;

pub(super) type OnError = dyn Fn(SocketAddr, &Error) + Send + Sync;

impl Server {
    /// Listens on an address; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`Error::Listen`] where the address cannot be had.
    pub async fn bind(address: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        let name = format!("{address:?}").replace('"', "");
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| Error::Listen {
                address: name.into(),
                source: Arc::new(source),
            })?;
        Ok(Self::from_listener(listener))
    }

    /// Serves a socket that listens already.
    pub fn from_listener(listener: TcpListener) -> Self {
        Self {
            listener,
            acceptor: Acceptor::new(),
            shutdown: Vec::new(),
            together: None,
            #[cfg(feature = "hyper")]
            http: None,
            #[cfg(feature = "hyper")]
            keep_alive: KEEP_ALIVE,
            on_error: None,
        }
    }

    /// The address that is listened on.
    ///
    /// # Errors
    /// [`Error::Listen`] where the system does not say.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.listener.local_addr().map_err(|source| Error::Listen {
            address: "the listening socket".into(),
            source: Arc::new(source),
        })
    }

    /// Sets how connections are accepted: TLS, subprotocols, compression, limits, deadlines, and
    /// which requests.
    pub fn acceptor(mut self, acceptor: Acceptor) -> Self {
        self.acceptor = acceptor;
        self
    }

    /// Has `signal` end the server: no more connections are accepted, every open one is closed with
    /// 1001, HTTP requests that have arrived are answered, and `serve` returns when all have ended.
    /// A handler that goes on although its connection has closed is dropped a second after the close
    /// timeout, and so is an answer that takes longer. Of several signals the first one does.
    pub fn shutdown_on(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.shutdown.push(Box::pin(signal));
        self
    }

    /// Ends this server when another of the same set ends, and the others when this one does.
    pub(super) fn ending_with(mut self, others: watch::Sender<bool>) -> Self {
        let mut ending = others.subscribe();
        self.together = Some(others);
        self.shutdown_on(async move {
            // Refused only where nobody is left who could say so.
            let _ = ending.wait_for(|ending| *ending).await;
        })
    }

    /// Has every connection told that failed: in the opening handshake, or by an error that its
    /// handler returned. By default nobody is.
    pub fn on_error(mut self, tell: impl Fn(SocketAddr, &Error) + Send + Sync + 'static) -> Self {
        self.on_error = Some(Arc::new(tell));
        self
    }

    /// Answers requests for anything else than a WebSocket on the same port, with a service of
    /// hyper: over HTTP/1.1, and with the feature `http2` over HTTP/2, which TLS then offers too.
    /// Without this they are refused with 426.
    ///
    /// A connection serves requests until one asks for a WebSocket, which goes to the handler
    /// whatever its path is ([`Acceptor::on_request`] looks at it), or none has come for
    /// [`keep_alive`](Self::keep_alive). [`Acceptor::head_limits`] bounds the heads, and a client that
    /// takes nothing of its response for a minute is given up. How long a request's body may take is
    /// up to the service.
    ///
    /// A request has the client's address, a [`SocketAddr`], among its extensions.
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

    /// Sets how long a connection that serves HTTP may wait until the head of a request is whole.
    /// Default 30 s. For the first request the handshake timeout holds.
    #[cfg(feature = "hyper")]
    pub fn keep_alive(mut self, wait: Duration) -> Self {
        self.keep_alive = wait;
        self
    }

    /// Runs `work` for every connection, each in a task of its own, with the socket as an async
    /// object. What it sends goes out in one write whenever it yields. When it is done the
    /// connection is closed: with 1000, after an error with 1011.
    ///
    /// Returns after [`shutdown_on`](Self::shutdown_on); without that, never. Where the system runs
    /// out of descriptors, accepting goes on when some are free again.
    ///
    /// # Errors
    /// None today.
    ///
    /// # Cancel safety
    /// Dropping the future stops accepting and drops every connection.
    pub async fn serve<F, Fut>(self, work: F) -> Result<()>
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let work = Arc::new(work);
        self.run(move |socket| {
            let work = work.clone();
            async move { socket.drive(|socket| work(socket)).await.map(drop) }
        })
        .await
    }

    /// Runs a handler for every connection: the event form. `make` makes one for each.
    ///
    /// Else as [`serve`](Self::serve).
    ///
    /// # Errors
    /// None today.
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_handler<F, H>(self, make: F) -> Result<()>
    where
        F: Fn() -> H + Send + Sync + 'static,
        H: Handler + Send + 'static,
    {
        self.run(move |socket| {
            let handled = socket.handle(make());
            async move { handled.await.error().map_or(Ok(()), Err) }
        })
        .await
    }

    async fn run<F, Fut>(mut self, work: F) -> Result<()>
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let connections = Connections::default();
        let work = Arc::new(work);
        #[cfg(feature = "http2")]
        if self.http.is_some() {
            self.acceptor.offer_http2();
        }
        let context = Arc::new(Context {
            acceptor: Arc::new(self.acceptor.clone()),
            #[cfg(feature = "hyper")]
            http: self.http.clone(),
            #[cfg(feature = "hyper")]
            keep_alive: self.keep_alive,
            on_error: self.on_error.clone(),
        });
        while let Some((stream, peer)) = self.next().await {
            let (context, work) = (context.clone(), work.clone());
            connections.spawn(move |entry| {
                // Boxed, so that what opening a connection needs is not kept while it is open; and
                // here, since a future keeps room for all that it begins with.
                let opening = Box::pin(context.clone().open(stream, peer, entry.place.clone()));
                async move {
                    let result = match opening.await {
                        Ok(Some(socket)) => {
                            entry.opened(&socket);
                            work(socket).await
                        }
                        Ok(None) => Ok(()),
                        Err(error) => Err(error),
                    };
                    if let Err(error) = result
                        && let Some(tell) = &context.on_error
                    {
                        tell(peer, &error);
                    }
                }
            });
        }
        drop(self.listener);
        if let Some(others) = &self.together {
            others.send_replace(true);
        }
        connections.close(self.acceptor.close_time()).await;
        Ok(())
    }

    /// The next connection; `None` once the server is to end.
    async fn next(&mut self) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = poll_fn(|cx| {
                let mut signals = self.shutdown.iter_mut();
                if signals.any(|signal| signal.as_mut().poll(cx).is_ready()) {
                    return Poll::Ready(None);
                }
                self.listener.poll_accept(cx).map(Some)
            })
            .await?;
            match accepted {
                Ok(accepted) => return Some(accepted),
                // A client that gave up before it was accepted is no fault of this end's.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(_) => sleep(EXHAUSTED_PAUSE).await,
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener)
            .field("acceptor", &self.acceptor)
            .finish_non_exhaustive()
    }
}

/// What the connections of a server have in common.
struct Context {
    acceptor: Arc<Acceptor>,
    #[cfg(feature = "hyper")]
    http: Option<Arc<ServeHttp>>,
    #[cfg(feature = "hyper")]
    keep_alive: Duration,
    on_error: Option<Arc<OnError>>,
}

impl Context {
    /// The opening handshake; `None` where the client came for something else, and was served.
    async fn open(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        #[cfg_attr(
            not(feature = "hyper"),
            allow(unused_variables, reason = "for HTTP alone")
        )]
        place: Place,
    ) -> Result<Option<WebSocket>> {
        let stream = Stream::Tcp(stream);
        let plain = match self.acceptor.receive(stream, Some(peer)).await? {
            Incoming::WebSocket(established) => return Ok(Some(WebSocket::new(established))),
            Incoming::Http(plain) => plain,
        };
        #[cfg(feature = "hyper")]
        if let Some(serve) = &self.http {
            let serving = Serving {
                acceptor: self.acceptor.clone(),
                peer,
                keep_alive: self.keep_alive,
                ending: place.serving(),
                on_error: self.on_error.clone(),
            };
            return serve(plain, serving).await;
        }
        Err(plain.refuse().await)
    }
}
