//! Accepts one connection: TLS where it is wanted, the request, the answer, under one deadline
//! (RFC 6455 §4.2).

#[cfg(unix)]
use std::any::TypeId;
use std::{
    future::poll_fn,
    mem,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout, timeout_at},
};

use sockeye_proto::{
    Role,
    deflate::{DeflateConfig, DeflateParams},
    handshake::{
        Acceptance, HandshakeError, HeadScanner, HeaderFields, Offer, Refusal, Request, Version,
    },
};

#[cfg(feature = "tls")]
use tokio::net::TcpStream;

#[cfg(feature = "tls")]
use super::tls::ServerTls;
use super::{
    Acceptor, Answer, IncomingRequest, Matched, Peer, decision::State, networks::Source, refusal,
};
use crate::{
    Deadline, Error, Result, WebSocket,
    established::{Admitted, Established, PeerHead},
    head::read_head,
    keepalive::after,
    stream::{Io, Stream},
};

/// How an HTTP/2 client begins (RFC 9113 §3.4), up to where its head would end in HTTP/1.1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How much of what a refused client still sends is read before the connection is closed.
///
/// Closing a socket with unread bytes in it resets the connection, and the client may never see
/// why it was refused. A whole head of the default limit fits many times.
const LINGER_BYTES: usize = 256 * 1024;

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

impl Acceptor {
    /// Accepts a WebSocket on a stream: a TCP stream, or any other of the user's own. One that panics is one that
    /// fails: the connection is lost, with what it panicked with in the error.
    ///
    /// # Errors
    /// [`Error::is_handshake`] once the client has been answered with the same words, unless it has gone; a request for
    /// anything else than a WebSocket is such an error too. [`Error::is_timeout`],
    /// [`Error::is_lost`]; [`Error::Tls`] where [`tls`](Self::tls) was set.
    ///
    /// # Panics
    /// As tokio does, in a runtime without time, and for a `TcpStream` in one without I/O, also where the stream
    /// is of another runtime: build it with `enable_all`.
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
        #[cfg(unix)]
        let unix = TypeId::of::<S>() == TypeId::of::<tokio::net::UnixStream>();
        #[cfg(not(unix))]
        let unix = false;
        let stream = Stream::new(stream);
        stream.set_nodelay();
        let peer = match unix {
            true => Peer::of_unix(),
            false => Peer::at(stream.peer_addr()),
        };
        let mut client = Client::new(stream, peer);
        let received = Box::pin(self.receive(&mut client)).await;
        let peer_addr = client.peer.addr;
        let error = match received {
            Ok(Incoming::WebSocket(opened)) => return Ok(self.open(client, opened)),
            Ok(Incoming::Http(request)) => Box::pin(PlainHttp::new(client, request).refuse()).await,
            Err(error) => error,
        };
        self.refused(peer_addr, &error);
        Err(error)
    }

    /// Accepts a WebSocket, or tells of a request for something else, with all that was read.
    ///
    /// Await it in a box, so that what the handshake needs does not stay in the future of whoever holds
    /// the connection for hours. What few connections need has boxes within.
    ///
    /// # Errors
    /// As [`establish`](Self::establish).
    pub(crate) async fn receive(&self, client: &mut Client) -> Result<Incoming> {
        let deadline = self.deadline();
        let verdict = {
            let judged = pin!(self.judge(client));
            in_time(deadline, judged).await?
        };
        let (request, mut answer) = match verdict {
            Verdict::Asks(request, room) => (request, room),
            Verdict::Http(request) => return Ok(Incoming::Http(request)),
            #[cfg(feature = "tls")]
            Verdict::InTheClear { is_head } => return Err(client.demand_tls(is_head).await),
            Verdict::Refused(error) => {
                let is_head = client.bytes.starts_with(b"HEAD ");
                return Err(client.refuse(error, is_head).await);
            }
        };
        // Judges the request and answers it (§4.2.2).
        let terms = match self.terms(&request, &client.peer, deadline).await {
            Ok((acceptance, terms)) => {
                acceptance.write(&mut answer);
                terms
            }
            Err(error) => return Err(client.refuse(error, request.method() == "HEAD").await),
        };
        {
            let written = pin!(client.write(&answer));
            in_time(deadline, written).await?;
        }
        Ok(Incoming::WebSocket(Opened { request, terms }))
    }

    /// What a client asks for, by the first head that it sends.
    async fn judge(&self, client: &mut Client) -> Result<Verdict> {
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            if let Stream::Tcp(tcp) = &client.stream
                && let Some(is_head) = in_the_clear(tcp).await
            {
                return Ok(Verdict::InTheClear { is_head });
            }
            Box::pin(client.secure(tls)).await?;
        }
        let Client {
            stream,
            peer,
            bytes,
        } = client;
        peer.look_at(stream);
        let mut scanner = HeadScanner::request(self.head_limits);
        let end = match read_head(stream, &mut scanner, bytes).await {
            Ok(end) => end,
            Err(Error::Handshake(error)) => return Ok(Verdict::Refused(error)),
            Err(error) => return Err(error),
        };
        if bytes[..end] == *HTTP2_PREFACE {
            return Ok(Verdict::Http(None));
        }
        let request = match Request::parse(&bytes[..end]) {
            // An HTTP/1.0 request knows no Upgrade (RFC 9110 §7.8).
            Ok(request) if request.is_upgrade() && request.version() != Version::Http10 => request,
            Ok(request) => return Ok(Verdict::Http(Some(request))),
            Err(error) => return Ok(Verdict::Refused(error)),
        };
        if let Err(error) = self.see(request.headers(), peer) {
            return Ok(Verdict::Refused(error));
        }
        let early = bytes.split_off(end);
        let mut room = mem::replace(bytes, early);
        room.clear();
        Ok(Verdict::Asks(Arc::new(request), room))
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
            && let Some(hop) = forwarding.client(headers, peer.source())?
        {
            peer.believe(hop)?;
        }
        Ok(())
    }

    /// The address of whoever a request for something else is from, which is not counted.
    ///
    /// # Errors
    /// 400 where what a trusted proxy says cannot be understood: it is not the proxy that asks.
    #[cfg(feature = "hyper")]
    pub(super) fn client_addr(
        &self,
        headers: &impl HeaderFields,
        peer: &Peer,
    ) -> Result<Option<std::net::SocketAddr>, HandshakeError> {
        let hop = match &self.forwarding {
            Some(forwarding) => forwarding.client(headers, peer.source())?,
            None => None,
        };
        Ok(hop.map_or(peer.addr, |hop| hop.addr))
    }

    /// Whether what comes from there is of a proxy which is believed who its clients are.
    pub(super) fn believes(&self, source: Source) -> bool {
        self.forwarding
            .as_ref()
            .is_some_and(|forwarding| forwarding.trusted.contain(source))
    }

    /// By when a connection that begins now has to be open.
    pub(crate) fn deadline(&self) -> Instant {
        after(self.handshake_timeout)
    }

    /// The connection of a client that has been told of the terms.
    pub(crate) fn open(&self, client: Client, opened: Opened) -> Established {
        let Client {
            stream,
            peer,
            bytes,
        } = client;
        self.established(stream, bytes, opened.request, opened.terms, peer)
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
            subprotocol: None,
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
            limits: self.limits.clone(),
            settings: self.settings.clone(),
            rates: self.rates,
            peer_addr: peer.addr,
            peer_head: PeerHead::Request(Arc::unwrap_or_clone(request)),
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
        Box::pin(on_request.decide(request, deadline)).await
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

/// A client that comes in.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    /// What was read of it: the head of its request too, unless that asks for a WebSocket.
    pub(crate) bytes: Vec<u8>,
}

impl Client {
    pub(crate) fn new(stream: Stream, peer: Peer) -> Self {
        Self {
            stream,
            peer,
            bytes: Vec::new(),
        }
    }

    /// Speaks TLS, and learns what it says of the client.
    #[cfg(feature = "tls")]
    async fn secure(&mut self, tls: &ServerTls) -> Result<()> {
        let name = self.name();
        self.stream = match self.stream.take_out() {
            Stream::Tcp(tcp) => Stream::ServerTls(Box::new(tls.accept(&name, tcp).await?)),
            other => {
                let stream = tls.accept(&name, other).await?;
                self.peer.tls = Some(stream.get_ref().1.into());
                Stream::new(stream)
            }
        };
        Ok(())
    }

    /// Tells a client that speaks none.
    #[cfg(feature = "tls")]
    async fn demand_tls(&mut self, is_head: bool) -> Error {
        let refusal = Refusal::new(400, "this port speaks TLS: use https:// or wss://\n");
        Box::pin(refuse_with(&mut self.stream, &refusal, is_head)).await;
        Error::tls(self.name(), "the client speaks no TLS")
    }

    #[cfg(feature = "tls")]
    fn name(&self) -> String {
        let addr = self.peer.addr.map(|addr| addr.to_string());
        addr.unwrap_or_else(|| "the client".to_owned())
    }

    async fn write(&mut self, answer: &[u8]) -> Result<()> {
        self.stream.write_all(answer).await.map_err(Error::lost)?;
        self.stream.flush().await.map_err(Error::lost)
    }

    /// Answers a request that will not become a WebSocket, and hands the reason on.
    async fn refuse(&mut self, error: HandshakeError, is_head: bool) -> Error {
        Box::pin(refuse(&mut self.stream, error, is_head)).await
    }
}

/// What a client asks for.
enum Verdict {
    /// A WebSocket; with the memory that its head was in, for the answer.
    Asks(Arc<Request>, Vec<u8>),
    /// Something else; no request where that is HTTP/2.
    Http(Option<Request>),
    /// Nothing that can be answered otherwise. It is written after the deadline.
    Refused(HandshakeError),
    /// Something where TLS is spoken, which is told likewise.
    #[cfg(feature = "tls")]
    InTheClear { is_head: bool },
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
    /// A WebSocket, which it has been told is open.
    WebSocket(Opened),
    /// Something else on HTTP: its request, none for HTTP/2.
    Http(Option<Request>),
}

/// What a WebSocket has been opened with.
#[derive(Debug)]
pub(crate) struct Opened {
    request: Arc<Request>,
    terms: Terms,
}

/// Why a connection did not open, and whose it is as far as that was known by then.
pub(super) struct Unopened {
    pub(super) peer: Option<SocketAddr>,
    pub(super) error: Error,
}

pub(super) type OnError = dyn Fn(Option<SocketAddr>, &Error) + Send + Sync;

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
    pub(crate) fn new(client: Client, request: Option<Request>) -> Self {
        let Client {
            stream,
            peer,
            bytes,
        } = client;
        Self {
            stream,
            bytes,
            request,
            peer,
        }
    }

    /// Says that a WebSocket is all there is here, and returns that as the error it is.
    pub(crate) async fn refuse(mut self) -> Error {
        let error = match self.request.as_ref().map(Request::check) {
            Some(Err(error)) => error,
            // A check that passes belongs to an upgrade of HTTP/1.1, which is not plain.
            Some(Ok(Offer { .. })) => HandshakeError::Upgrade,
            None => HandshakeError::HttpVersion,
        };
        let is_head = matches!(&self.request, Some(request) if request.method() == "HEAD");
        Box::pin(refuse(&mut self.stream, error, is_head)).await
    }
}

/// Waits no longer than the handshake may take. The step is elsewhere, as a future keeps room for all
/// that it is given beside what it waits for.
async fn in_time<T>(
    deadline: Instant,
    mut step: Pin<&mut impl Future<Output = Result<T>>>,
) -> Result<T> {
    // Most steps have nothing to wait for: their bytes are there, or there is room for them.
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(step.as_mut().poll(cx))).await {
        return done;
    }
    timeout_at(deadline, step)
        .await
        .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))
}

/// Answers a request that will not become a WebSocket, whether it `is_head`, and hands the reason on.
///
/// It has a deadline of its own. What goes wrong while a refusal is written matters to nobody: the
/// connection ends either way.
async fn refuse(stream: &mut Stream, error: HandshakeError, is_head: bool) -> Error {
    if error != HandshakeError::UnexpectedEnd {
        refuse_with(stream, &Refusal::from(&error), is_head).await;
    }
    error.into()
}

async fn refuse_with(stream: &mut Stream, refusal: &Refusal, is_head: bool) {
    let answer = refusal::to_bytes(refusal, is_head);
    let last = refusal::write_last(stream, &answer, LINGER_BYTES as u64);
    let _ = timeout(LINGER, last).await;
}

/// Whether what comes asks for a head, where it begins as a method does (RFC 9110 §9.1): no record of TLS does (RFC 8446 §5.1).
/// Whoever has opened the page without TLS would be told nothing else.
#[cfg(feature = "tls")]
async fn in_the_clear(tcp: &TcpStream) -> Option<bool> {
    let mut begins = [0; 5];
    let count = tcp.peek(&mut begins).await.ok()?;
    let begins = &begins[..count];
    begins
        .first()?
        .is_ascii_uppercase()
        .then_some(begins == b"HEAD ")
}

#[cfg(test)]
#[path = "accept_tests.rs"]
mod tests;
