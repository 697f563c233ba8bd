//! WebSockets in a server on hyper: the request is judged by the rules, and when hyper has answered
//! it the stream is taken back whole (RFC 6455 §4.2).

use std::{
    error::Error as StdError,
    fmt, io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper::{
    HeaderMap, Method, Request, Response, Uri, Version,
    body::Bytes,
    http::Extensions,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::{rt::TokioIo, server::conn::auto};
#[cfg(feature = "http3")]
use tokio::sync::oneshot;
use tokio::{net::TcpStream, time::timeout};

#[cfg(feature = "http2")]
use sockeye_proto::handshake::Version as HttpVersion;
use sockeye_proto::handshake::{Acceptance, HandshakeError, Refusal, Request as Head};

#[cfg(feature = "http2")]
use crate::server::{Idle, Tunnelled};
use crate::{
    Acceptor, Deadline, Error, Result, WebSocket,
    server::{Answer, Peer, Rewound, Terms},
    stream::{Io, Stream},
};

/// Answers a request for a WebSocket, with the defaults of [`Acceptor`].
///
/// The response is to be returned from the service, whatever it says: 101, or what was wrong with
/// the request. The future gives the socket once hyper has sent it, so it has to run in another task.
/// The connection must be served with upgrades (`with_upgrades()`, or
/// `serve_connection_with_upgrades` in hyper-util).
///
/// ```
/// use std::convert::Infallible;
/// use hyper::{Request, Response, body::Incoming};
///
/// async fn service(mut request: Request<Incoming>) -> Result<Response<String>, Infallible> {
///     let (response, upgrade) = sockeye::hyper::upgrade(&mut request);
///     tokio::spawn(async move {
///         let socket = upgrade.await?;
///         socket.drive(|mut socket| async move {
///             while let Some(message) = socket.recv().await? { socket.send(message).await?; }
///             Ok(())
///         }).await
///     });
///     Ok(response)
/// }
/// ```
///
/// Whoever may connect is to be decided before. Where something around the service sends another response in place of
/// this one, whatever its status, and the connection is to close behind it, as a client may ask with `Connection: close`,
/// hyper hands it over all the same, and the socket opens.
///
/// TCP, and TLS of tokio-rustls on it, are recognized within [`TokioIo`], also where hyper-util's
/// `auto` server has wrapped them once more: such a socket is as fast as one of this crate's own
/// [`Server`](crate::Server). Any other stream works through a box, and so does one of HTTP/2, whose connection stays
/// hyper's: `TCP_NODELAY` is then for whoever accepts it to set, without which a message may wait for some 40 ms.
pub fn upgrade<B>(request: &mut Request<B>) -> (Response<String>, Upgrade) {
    let mut peer = Peer::among(request.extensions());
    let is_stream = is_extended_connect(request.method(), request.extensions());
    let begun = Asked::take(request)
        .and_then(|asked| Acceptor::new().begin_with(asked, &mut peer, Answer::new()));
    respond(begun, is_stream)
}

impl Acceptor {
    /// Answers a request that hyper has read. Else as [`hyper::upgrade`](upgrade), with the decision of
    /// [`on_request`](Self::on_request) to wait for. The request itself is not held meanwhile.
    ///
    /// Of the acceptor's settings those do not apply that are about what hyper did already: TLS, and
    /// the size of the head. [`handshake_timeout`](Self::handshake_timeout) is how long the decision may
    /// take, and then how long the answer may take to be sent. The client's address and what TLS says of it are
    /// known to the decision, and a proxy is [believed](Self::forwarded), where they are among the request's
    /// extensions, as a [`SocketAddr`](std::net::SocketAddr) and a [`TlsIdentity`](crate::server::TlsIdentity).
    ///
    /// # Errors
    /// None of its own: whoever is not let in is told so by the response, and the [`Upgrade`] is the error.
    ///
    /// # Cancel safety
    /// Dropping the future drops the decision. The connection stays hyper's, which sends what it is given
    /// in place of this response.
    pub fn upgrade<B>(
        &self,
        request: &mut Request<B>,
    ) -> impl Future<Output = (Response<String>, Upgrade)> + Send + use<B> {
        let mut peer = Peer::among(request.extensions());
        let is_stream = is_extended_connect(request.method(), request.extensions());
        let asked = Asked::take(request);
        let acceptor = self.clone();
        async move {
            let begun = match asked {
                Ok(asked) => acceptor.begin(asked, &mut peer).await,
                Err(error) => Err(error),
            };
            if let Err(error) = &begun {
                acceptor.refused(peer.addr, &error.clone().into());
            }
            let begun = begun.map(|(response, upgrade)| {
                let opened = async move {
                    let opened = upgrade.await;
                    opened.inspect_err(|error| acceptor.refused(peer.addr, error))
                };
                (response, Upgrade(Box::pin(opened)))
            });
            respond(begun, is_stream)
        }
    }

    /// Judges a request, and answers it where it is for a WebSocket that may be opened. Whoever a trusted
    /// proxy says that it is from is `peer` then, also where it is refused.
    pub(crate) async fn begin(
        &self,
        asked: Asked,
        peer: &mut Peer,
    ) -> Result<(Response<()>, Upgrade), HandshakeError> {
        let deadline = self.deadline();
        self.see(asked.head.headers(), peer)?;
        let agreed = self.terms(&asked.head, peer, deadline).await?;
        self.take_over(asked, peer.clone(), agreed)
    }

    /// As [`begin`](Self::begin), where the user has decided already.
    pub(crate) fn begin_with(
        &self,
        asked: Asked,
        peer: &mut Peer,
        answer: Answer,
    ) -> Result<(Response<()>, Upgrade), HandshakeError> {
        self.see(asked.head.headers(), peer)?;
        let checked = self.check(&asked.head, peer)?;
        let agreed = self.agree(checked, answer)?;
        self.take_over(asked, peer.clone(), agreed)
    }

    /// Answers, and takes the stream over from hyper once that is sent.
    fn take_over(
        &self,
        asked: Asked,
        mut peer: Peer,
        (acceptance, terms): (Acceptance, Terms),
    ) -> Result<(Response<()>, Upgrade), HandshakeError> {
        let way = asked.way.ok_or_else(not_upgradable)?;
        let head = asked.head;
        let acceptor = self.clone();
        let open = async move {
            let (stream, early) = timeout(acceptor.handshake_time(), way.stream())
                .await
                .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))?;
            #[cfg(feature = "http2")]
            let stream = match head.version() {
                HttpVersion::Http2 => {
                    let tunnel = asked.connection.map(|connection| connection.tunnel());
                    Stream::new(Tunnelled::new(stream, tunnel))
                }
                _ => stream,
            };
            stream.set_nodelay();
            peer.look_at(&stream);
            let established = acceptor.established(stream, early, head, terms, peer);
            Ok(WebSocket::new(established))
        };
        Ok((acceptance.to_http(), Upgrade(Box::pin(open))))
    }
}

/// The response, whatever it says, and the socket or why there is none.
fn respond(
    begun: Result<(Response<()>, Upgrade), HandshakeError>,
    is_stream: bool,
) -> (Response<String>, Upgrade) {
    match begun {
        Ok((response, upgrade)) => (response.map(|()| String::new()), upgrade),
        Err(error) => {
            let response = refused(&Refusal::from(&error), is_stream);
            (response, Upgrade(Box::pin(async { Err(error.into()) })))
        }
    }
}

/// What refuses a request: one for a stream of HTTP/2 in its own way.
pub(crate) fn refused(refusal: &Refusal, is_stream: bool) -> Response<String> {
    match is_stream {
        true => refusal.to_http_connect(),
        false => refusal.to_http(),
    }
}

/// A request that has been read, and the way to its connection.
pub(crate) struct Asked {
    pub(crate) head: Arc<Head>,
    way: Option<Way>,
    /// The connection of HTTP/2, to be in use for as long as the WebSocket in it is open.
    #[cfg(feature = "http2")]
    connection: Option<Arc<Idle>>,
}

impl Asked {
    pub(crate) fn take<B>(request: &mut Request<B>) -> Result<Self, HandshakeError> {
        let mut extensions = mem::take(request.extensions_mut());
        let (method, uri, version) = (request.method(), request.uri(), request.version());
        let asked = Self::of(method, uri, version, request.headers(), &mut extensions);
        *request.extensions_mut() = extensions;
        asked
    }

    /// A request in its parts.
    pub(crate) fn of(
        method: &Method,
        uri: &Uri,
        version: Version,
        headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> Result<Self, HandshakeError> {
        // Whatever `:protocol` says: hyper may know it without this crate.
        #[cfg(not(feature = "http2"))]
        if method == Method::CONNECT && version == Version::HTTP_2 && uri.scheme().is_some() {
            return Err(no_http2());
        }
        let head = match is_extended_connect(method, extensions) {
            true => Head::from_extended_connect(uri, version, headers),
            false => Head::from_http(method, uri, version, headers),
        };
        Ok(Self {
            head: Arc::new(head?),
            way: extensions.remove().map(Way::Hyper),
            #[cfg(feature = "http2")]
            connection: None,
        })
    }

    /// A request over HTTP/3, whose stream is given once it is answered.
    #[cfg(feature = "http3")]
    pub(crate) fn over_http3(
        uri: &Uri,
        headers: &HeaderMap,
        given: oneshot::Receiver<Stream>,
    ) -> Result<Self, HandshakeError> {
        Ok(Self {
            head: Arc::new(Head::from_extended_connect(uri, Version::HTTP_3, headers)?),
            way: Some(Way::Http3(given)),
            #[cfg(feature = "http2")]
            connection: None,
        })
    }

    /// A request on a connection of HTTP/2 of this crate's.
    #[cfg(feature = "http2")]
    pub(crate) fn within(self, connection: Arc<Idle>) -> Self {
        let connection = Some(connection);
        Self { connection, ..self }
    }
}

/// The way to the connection that a request has come by, once that has been answered.
enum Way {
    Hyper(OnUpgrade),
    #[cfg(feature = "http3")]
    Http3(oneshot::Receiver<Stream>),
}

impl Way {
    /// The stream, and what was read of it.
    async fn stream(self) -> Result<(Stream, Vec<u8>)> {
        match self {
            Self::Hyper(on_upgrade) => Ok(take_back(on_upgrade.await.map_err(not_upgraded)?)),
            #[cfg(feature = "http3")]
            Self::Http3(given) => {
                let gone = |_| Error::lost(io::ErrorKind::ConnectionAborted.into());
                Ok((given.await.map_err(gone)?, Vec::new()))
            }
        }
    }
}

/// Whether a request asks for a WebSocket over HTTP/2 (RFC 8441 §4).
pub(crate) fn is_extended_connect(method: &Method, extensions: &Extensions) -> bool {
    #[cfg(feature = "http2")]
    {
        let protocol = extensions.get::<hyper::ext::Protocol>();
        let is_websocket =
            |protocol: &hyper::ext::Protocol| protocol.as_str().eq_ignore_ascii_case("websocket");
        method == Method::CONNECT && protocol.is_some_and(is_websocket)
    }
    #[cfg(not(feature = "http2"))]
    {
        let _ = (method, extensions);
        false
    }
}

impl Peer {
    /// Whoever a request is from, as far as that is among its extensions.
    pub(crate) fn among(extensions: &Extensions) -> Self {
        #[cfg_attr(not(feature = "tls"), allow(unused_mut, reason = "for TLS alone"))]
        let mut peer = Self::at(extensions.get().copied());
        #[cfg(feature = "tls")]
        {
            peer.tls = extensions.get().cloned();
        }
        peer
    }
}

/// A WebSocket that is being opened: a future of the socket, to be awaited in a task of its own.
///
/// # Errors
/// [`Error::is_handshake`](crate::Error::is_handshake) where the request was refused,
/// [`Error::is_lost`](crate::Error::is_lost) where the connection broke off before or is served without
/// upgrades, [`Error::is_timeout`](crate::Error::is_timeout) where the response was not sent within
/// [`Acceptor::handshake_timeout`].
///
/// # Cancel safety
/// Dropping it drops the connection, once the response is sent.
#[must_use = "there is no socket before it is awaited"]
pub struct Upgrade(Pin<Box<dyn Future<Output = Result<WebSocket>> + Send>>);

impl Future for Upgrade {
    type Output = Result<WebSocket>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upgrade(..)")
    }
}

/// The extended CONNECT of a client that was told that there is such a thing, by axum or hyper.
#[cfg(not(feature = "http2"))]
fn no_http2() -> HandshakeError {
    let why = "this server opens no WebSockets over HTTP/2: it was built without the feature `http2` of \
               sockeye\n";
    HandshakeError::Refused(Box::new(Refusal::new(501, why)))
}

/// No fault of the client's.
fn not_upgradable() -> HandshakeError {
    let why = "this connection cannot be upgraded: the server that read the request does not \
               permit it, or somebody else has begun to\n";
    HandshakeError::Refused(Box::new(Refusal::new(500, why)))
}

/// What hyper says where it did not hand over the connection: it, or the response, is gone. A server
/// that does not serve connections with upgrades says so too.
fn not_upgraded(error: hyper::Error) -> Error {
    let why = error
        .source()
        .map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
    Error::lost(io::Error::new(io::ErrorKind::ConnectionAborted, why))
}

/// The stream that hyper was given, and what it has read from it behind the request.
fn take_back(upgraded: Upgraded) -> (Stream, Vec<u8>) {
    let upgraded = match upgraded.downcast::<TokioIo<Rewound>>() {
        Ok(parts) => {
            let (stream, rest) = parts.io.into_inner().into_parts();
            return (stream, [&parts.read_buf[..], &rest].concat());
        }
        Err(upgraded) => upgraded,
    };
    let taken = known::<TcpStream>(upgraded);
    #[cfg(feature = "tls")]
    let taken = taken.or_else(known::<tokio_rustls::server::TlsStream<TcpStream>>);
    match taken {
        Ok((stream, early)) => (stream, early.into()),
        // It gives what was read already by itself.
        Err(other) => (Stream::new(TokioIo::new(other)), Vec::new()),
    }
}

/// The stream and what was read, where it is of that type; hyper-util's `auto` puts a wrapper of its
/// own around.
fn known<S: Io + 'static>(upgraded: Upgraded) -> Result<(Stream, Bytes), Upgraded> {
    let (stream, early) = match upgraded.downcast::<TokioIo<S>>() {
        Ok(parts) => (parts.io, parts.read_buf),
        Err(upgraded) => {
            let parts = auto::upgrade::downcast::<TokioIo<S>>(upgraded)?;
            (parts.io, parts.read_buf)
        }
    };
    Ok((Stream::new(stream.into_inner()), early))
}
