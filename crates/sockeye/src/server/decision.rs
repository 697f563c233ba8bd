//! The decision about a request that has passed the standard's rules: what the user is told, and what
//! they answer (RFC 6455 §4.2.2).

use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    net::SocketAddr,
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Weak},
    task::Poll,
};

use sockeye_proto::handshake::{HandshakeError, Refusal, Request, Subprotocols};
use tokio::time::{Instant, timeout_at};

use super::Matched;
#[cfg(feature = "tls")]
use super::TlsIdentity;
#[cfg(feature = "hyper")]
use super::admission::Refused;
use super::{admission::Place, forwarded::Hop, networks::Source};
use crate::stream::Stream;

/// A request for a WebSocket, and who it comes from, while it is decided about: see
/// [`Acceptor::on_request`](super::Acceptor::on_request).
///
/// Path, query and headers are those of the [`Request`] in it. Cloning is cheap.
#[derive(Clone)]
pub struct IncomingRequest {
    head: Arc<Request>,
    peer: Peer,
    matched: Option<Arc<Matched>>,
}

impl IncomingRequest {
    pub(super) fn new(head: Arc<Request>, peer: Peer, matched: Option<Arc<Matched>>) -> Self {
        Self {
            head,
            peer,
            matched,
        }
    }

    /// What the path has at `{name}` in its [route](super::Routes), with its percent signs decoded.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.matched.as_ref()?.param(name)
    }

    /// The address of the client, where the connection is a socket of the system and, on a server of
    /// hyper's, the request has it among its extensions as a [`SocketAddr`].
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer.addr
    }

    /// The address of the proxy that has said who the client is: as
    /// [`WebSocket::proxy_addr`](crate::WebSocket::proxy_addr).
    pub fn proxy_addr(&self) -> Option<SocketAddr> {
        self.peer.proxy
    }

    /// What TLS says of the client, where the connection is encrypted by this server and, on a server
    /// of hyper's, the request has it among its extensions as a [`TlsIdentity`].
    #[cfg(feature = "tls")]
    pub fn tls(&self) -> Option<&TlsIdentity> {
        self.peer.tls.as_ref()
    }

    /// The subprotocols that the client offers, its favourite first.
    pub fn subprotocols(&self) -> Subprotocols {
        // The request has passed the rules, and this is one of them.
        Subprotocols::parse(self.head.headers()).unwrap_or_default()
    }
}

impl Deref for IncomingRequest {
    type Target = Request;

    fn deref(&self) -> &Request {
        &self.head
    }
}

impl fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingRequest")
            .field("head", &self.head)
            .field("peer", &self.peer)
            .finish()
    }
}

/// Who asks, as far as that is known apart from the request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// None for a stream that is no socket's.
    pub(crate) addr: Option<SocketAddr>,
    /// Whether it is known to have none because it is the client of a Unix socket.
    unix: bool,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsIdentity>,
    /// The proxy that has said where the client is, which is then what is in `addr`.
    pub(crate) proxy: Option<SocketAddr>,
    /// What it has said of the request.
    hop: Option<Arc<Hop>>,
    /// Where the connection is counted.
    pub(super) place: Weak<Place>,
}

impl Peer {
    /// Whoever is at an address, as far as they have one.
    pub(crate) fn at(addr: Option<SocketAddr>) -> Self {
        Self {
            addr,
            ..Self::default()
        }
    }

    /// A client of a Unix socket.
    pub(super) fn of_unix() -> Self {
        Self {
            unix: true,
            ..Self::default()
        }
    }

    /// Where the connection comes from.
    pub(super) fn source(&self) -> Source {
        match self.addr {
            Some(addr) => Source::Ip(addr.ip()),
            None if self.unix => Source::Unix,
            None => Source::Unknown,
        }
    }

    /// Says where the connection is counted.
    pub(super) fn counted(mut self, place: &Arc<Place>) -> Self {
        self.place = Arc::downgrade(place);
        self
    }

    /// Believes what a trusted proxy has said of the client, and counts the connection there.
    ///
    /// # Errors
    /// 429 where there are as many from there as there may be.
    pub(super) fn believe(&mut self, hop: Hop) -> Result<(), HandshakeError> {
        self.comes_from(hop.addr);
        self.hop = Some(Arc::new(hop));
        if let (Some(place), Some(addr)) = (self.place.upgrade(), self.addr) {
            let counted = place.count_address(addr.ip());
            counted.map_err(|refused| HandshakeError::Refused(Box::new(refused.refusal())))?;
        }
        Ok(())
    }

    /// The limit that its last request was refused for, which is told once.
    #[cfg(feature = "hyper")]
    pub(super) fn limited(&self) -> Option<Refused> {
        self.place.upgrade()?.refused()
    }

    /// Goes on with other requests, after one that was refused: they may be from other clients of the proxy that
    /// has said who that one was from.
    #[cfg(feature = "hyper")]
    pub(super) fn goes_on(&self) {
        if self.hop.is_some()
            && let Some(place) = self.place.upgrade()
        {
            place.forget_address();
        }
    }

    /// Takes another address in place of that of the proxy it is heard from.
    pub(super) fn comes_from(&mut self, client: Option<SocketAddr>) {
        self.proxy = self.proxy.or(self.addr);
        (self.addr, self.unix) = (client, false);
        if let Some(place) = self.place.upgrade() {
            place.comes_from(client);
        }
    }

    /// Learns what the stream itself says, where nobody has said it before.
    pub(crate) fn look_at(&mut self, stream: &Stream) {
        if self.hop.is_none() && self.proxy.is_none() {
            self.addr = self.addr.or_else(|| stream.peer_addr());
        }
        #[cfg(feature = "tls")]
        if self.tls.is_none() {
            self.tls = stream.tls_identity();
        }
    }

    /// The host that the client has asked for, with its port where it says one: there is exactly one in
    /// a request that has passed the rules. A trusted proxy may say that it was another.
    pub(super) fn host<'a>(&'a self, request: &'a Request) -> &'a [u8] {
        let hop = self.hop.as_ref().and_then(|hop| hop.host.as_deref());
        let named = || request.authority().map(str::as_bytes);
        hop.or_else(named)
            .unwrap_or_else(|| request.headers().first("Host").unwrap_or_default())
    }

    /// Whether the client is known to speak TLS: with this server, or as a
    /// trusted proxy says with that. With another proxy in front, it may too.
    pub(super) fn is_secure(&self) -> bool {
        #[cfg(feature = "tls")]
        let here = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let here = false;
        let hop = self.hop.as_ref().and_then(|hop| hop.secure);
        hop.unwrap_or(here)
    }
}

/// A user's answer to a request: what is added to the 101, and what the connection remembers.
#[derive(Clone, Debug, Default)]
#[must_use = "it is to be returned"]
pub struct Answer {
    pub(super) headers: Vec<(String, String)>,
    pub(super) subprotocol: Option<String>,
    pub(super) state: Option<State>,
}

/// A value of the user's own, of any type.
pub(crate) type State = Arc<dyn Any + Send + Sync>;

impl Answer {
    /// Nothing is added.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a header, such as a cookie. Those of the handshake itself cannot be set: the client is
    /// then refused with 500, and accepting fails with what is wrong.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Chooses the subprotocol, in place of the acceptor's order of preference. It must be one
    /// that the client offers; else the client is refused with 500.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocol = Some(name.into());
        self
    }

    /// Has the connection remember a value: who the client is, for example. It is one of any type, and
    /// replaces the one before. [`WebSocket::state`](crate::WebSocket::state),
    /// [`Socket::state`](crate::Socket::state) and [`Sender::state`](crate::Sender::state) have it for
    /// as long as the connection is there.
    ///
    /// ```
    /// use sockeye::{Acceptor, WebSocket, server::{Answer, Refusal}};
    ///
    /// struct User(String);
    ///
    /// let acceptor = Acceptor::new().on_request(|request| async move {
    ///     match request.query() {
    ///         Some(name) => Ok(Answer::new().state(User(name.to_owned()))),
    ///         None => Err(Refusal::new(401, "say who you are: ?NAME\n")),
    ///     }
    /// });
    /// fn name(socket: &WebSocket) -> Option<&str> {
    ///     socket.state().map(|User(name)| name.as_str())
    /// }
    /// ```
    pub fn state<T: Any + Send + Sync>(mut self, state: T) -> Self {
        self.state = Some(Arc::new(state));
        self
    }

    /// Adds what a later one says, which goes before where both choose or remember something.
    #[cfg(feature = "axum")]
    pub(crate) fn and(mut self, later: Self) -> Self {
        self.headers.extend(later.headers);
        Self {
            headers: self.headers,
            subprotocol: later.subprotocol.or(self.subprotocol),
            state: later.state.or(self.state),
        }
    }

    pub(super) fn choose<'a>(
        &'a self,
        offered: &Subprotocols,
        supported: &'a [String],
    ) -> Result<Option<&'a str>, HandshakeError> {
        match self.subprotocol.as_deref() {
            None => Ok(offered.choose(supported)),
            Some(chosen) if offered.contains(chosen) => Ok(Some(chosen)),
            Some(other) => Err(HandshakeError::SubprotocolNotOffered(other.into())),
        }
    }
}

type Deciding = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// Decides about requests, as the user says.
#[derive(Clone)]
pub(super) struct OnRequest(Arc<dyn Fn(IncomingRequest) -> Deciding + Send + Sync>);

impl OnRequest {
    pub(super) fn new<F, Fut>(decide: F) -> Self
    where
        F: Fn(IncomingRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Answer, Refusal>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(decide(request))))
    }

    /// The user's decision. One that does not come in time is a refusal with 503, and one that panics
    /// is one with 500: no other connection notices.
    ///
    /// # Errors
    /// [`HandshakeError::Refused`].
    pub(super) async fn decide(
        &self,
        request: IncomingRequest,
        deadline: Instant,
    ) -> Result<Answer, HandshakeError> {
        // The user's code is not looked at again after a panic but to be dropped.
        let deciding = catch_unwind(AssertUnwindSafe(|| (self.0)(request)));
        let decided = match deciding {
            Ok(mut deciding) => {
                timeout_at(
                    deadline,
                    poll_fn(|cx| {
                        match catch_unwind(AssertUnwindSafe(|| deciding.as_mut().poll(cx))) {
                            Ok(polled) => polled.map(Some),
                            Err(_) => Poll::Ready(None),
                        }
                    }),
                )
                .await
            }
            Err(_) => Ok(None),
        };
        let refusal = match decided {
            Ok(Some(Ok(answer))) => return Ok(answer),
            Ok(Some(Err(refusal))) => refusal,
            // What it panicked with was told by the panic hook.
            Ok(None) => Refusal::new(500, "the server failed to decide about this request\n"),
            Err(_) => Refusal::new(
                503,
                "the server did not decide about this request in time\n",
            ),
        };
        Err(HandshakeError::Refused(Box::new(refusal)))
    }
}
