//! From an accepted stream to an open connection of a server: let in, handed on by a proxy, its handshake.

use std::{future::Future, net::SocketAddr, sync::Arc};
#[cfg(feature = "http2")]
use std::{future::poll_fn, io, pin::pin, task::Poll};
#[cfg(feature = "hyper")]
use std::{pin::Pin, time::Duration};

#[cfg(feature = "http2")]
use hyper::Response;
#[cfg(feature = "http2")]
use sockeye_proto::handshake::{HandshakeError, Refusal};
use tokio::time::timeout;
#[cfg(feature = "http2")]
use tokio::{sync::oneshot, task::AbortHandle};

#[cfg(feature = "hyper")]
use super::http::Serving;
use super::{
    Acceptor, Client, Incoming, Networks, Peer, PlainHttp,
    accept::{OnError, Unopened},
    admission::{Gate, Handshake, Limits, Place},
    connections::{Connections, Seat},
    networks::Source,
    proxy_protocol::read_header,
};
#[cfg(feature = "http2")]
use super::{admission::Refused, idle::Busy, refusal::ending};
#[cfg(feature = "http2")]
use crate::hyper::Asked;
use crate::{Deadline, Error, Result, WebSocket, stream::Stream};

/// What the connections of a server have in common.
pub(super) struct Context {
    pub(super) limits: Arc<Limits>,
    pub(super) gate: Arc<Gate>,
    pub(super) connections: Connections,
    pub(super) proxies: Option<Networks>,
    pub(super) acceptor: Arc<Acceptor>,
    #[cfg(feature = "hyper")]
    pub(super) http: Option<Arc<ServeHttp>>,
    #[cfg(feature = "hyper")]
    pub(super) keep_alive: Duration,
    pub(super) on_error: Option<Arc<OnError>>,
    /// Runs what becomes a connection and was not accepted from a listener.
    #[cfg(feature = "http2")]
    pub(super) run: Box<Run>,
    /// Whether streams of HTTP/2 may become connections.
    #[cfg(feature = "http2")]
    pub(super) websockets_over_http2: bool,
}

impl Context {
    /// Lets a connection in, or tells it and the user why not.
    pub(super) fn admit(
        &self,
        stream: Stream,
        peer: Option<SocketAddr>,
    ) -> Option<(Stream, Arc<Place>)> {
        let from = accepted(peer).source();
        // Of those, the client's address counts once it is known.
        let is_proxy = self.hands_on(from) || self.acceptor.believes(from);
        let admitted = self.gate.enter(&self.limits).and_then(|place| {
            if let Some(peer) = peer.filter(|_| !is_proxy) {
                place.count_address(peer.ip())?;
            }
            Ok(place)
        });
        match admitted {
            Ok(place) => Some((stream, Arc::new(place))),
            Err(refused) => {
                refused.answer(&self.gate, stream, self.acceptor.speaks_tls());
                let error = refused.into();
                self.refused(peer, &error);
                self.tell(peer, &error);
                None
            }
        }
    }

    /// Says that an opening handshake came to nothing.
    pub(super) fn refused(&self, peer: Option<SocketAddr>, error: &Error) {
        self.acceptor.refused(peer, error);
    }

    /// Tells the user of a connection that failed.
    pub(super) fn tell(&self, peer: Option<SocketAddr>, error: &Error) {
        if let Some(tell) = &self.on_error {
            tell(peer, error);
        }
    }

    /// Whether connections from there begin with the header of the PROXY protocol.
    fn hands_on(&self, from: Source) -> bool {
        matches!(&self.proxies, Some(proxies) if proxies.contain(from))
    }

    /// Reads that header, and counts the connection for whom it is from.
    async fn handed_on(&self, client: &mut Client) -> Result<()> {
        let header = timeout(
            self.acceptor.handshake_time(),
            read_header(&mut client.stream),
        );
        let from = header
            .await
            .map_err(|_| Error::Timeout(Deadline::Handshake))??;
        let peer = &mut client.peer;
        if from.is_some() {
            peer.comes_from(from);
        }
        if let Some(from) = from
            && !self.acceptor.believes(peer.source())
            && let Some(place) = peer.place.upgrade()
            && let Err(refused) = place.count_address(from.ip())
        {
            let stream = client.stream.take_out();
            refused.answer(&self.gate, stream, self.acceptor.speaks_tls());
            return Err(refused.into());
        }
        Ok(())
    }

    /// The opening handshake; `None` where the client came for something else, and was served, or has been given
    /// up meanwhile.
    #[allow(
        clippy::manual_async_fn,
        reason = "it would have room for what it is given twice"
    )]
    pub(super) fn open(
        self: Arc<Self>,
        mut client: Client,
        handshake: Handshake,
        #[cfg_attr(
            not(feature = "hyper"),
            allow(unused_variables, reason = "for HTTP alone")
        )]
        seat: Seat,
    ) -> impl Future<Output = Result<Option<WebSocket>, Unopened>> + Send {
        async move {
            let mut received = Ok(());
            if self.hands_on(client.peer.source()) {
                received = Box::pin(self.handed_on(&mut client)).await;
            }
            let received = match received {
                Ok(()) => self.acceptor.receive(&mut client).await,
                Err(error) => Err(error),
            };
            if !handshake.finish() {
                return Ok(None);
            }
            let peer = client.peer.addr;
            let request = match received.map_err(|error| Unopened { peer, error })? {
                Incoming::WebSocket(opened) => {
                    let established = self.acceptor.open(client, opened);
                    return Ok(Some(WebSocket::new(established)));
                }
                Incoming::Http(request) => request,
            };
            let plain = PlainHttp::new(client, request);
            #[cfg(feature = "hyper")]
            if let Some(serve) = &self.http {
                let serving = Serving {
                    acceptor: self.acceptor.clone(),
                    keep_alive: self.keep_alive,
                    ending: seat.serving(),
                    seat,
                    on_error: self.on_error.clone(),
                    #[cfg(feature = "http2")]
                    streams: self.websockets_over_http2.then(|| self.clone()),
                };
                return serve(plain, serving).await;
            }
            let error = Box::pin(plain.refuse()).await;
            Err(Unopened { peer, error })
        }
    }

    /// Lets in what was not accepted from a listener: a stream of HTTP/2 or HTTP/3, whose client is that of its connection
    /// as far as is known; or a connection of HTTP/3.
    ///
    /// # Errors
    /// Why not.
    #[cfg(feature = "http2")]
    pub(super) fn place(&self, peer: &Peer) -> Result<(Arc<Place>, Peer), Refused> {
        let placed = self.place_uncounted(peer)?;
        self.count(&placed.0, peer)?;
        Ok(placed)
    }

    /// The same for whoever has not shown yet that the address is theirs, and is to be [counted](Self::count) then.
    ///
    /// # Errors
    /// Why not.
    #[cfg(feature = "http2")]
    pub(super) fn place_uncounted(&self, peer: &Peer) -> Result<(Arc<Place>, Peer), Refused> {
        self.gate.begin(&self.limits, peer.addr, |peer, error| {
            self.refused(peer, &error);
            self.tell(peer, &error);
        })?;
        let place = Arc::new(self.gate.enter(&self.limits)?);
        let peer = peer.clone().counted(&place);
        Ok((place, peer))
    }

    /// Whether there are as many connections as there may be.
    #[cfg(feature = "http3")]
    pub(super) fn is_full(&self, known: usize) -> bool {
        self.limits.connections.is_some_and(|most| known >= most)
    }

    /// Whether a client's address may open one more, unless it is a proxy's which says whose it is.
    #[cfg(feature = "http3")]
    pub(super) fn has_room_for(&self, peer: &Peer) -> bool {
        let is_proxy = self.acceptor.believes(peer.source());
        let addr = peer.addr.filter(|_| !is_proxy);
        addr.is_none_or(|addr| self.gate.has_room_for(&self.limits, addr.ip()))
    }

    /// Whether one opening handshake of so many that there may be is unfinished.
    #[cfg(feature = "http3")]
    pub(super) fn has_many_handshakes(&self, of: usize) -> bool {
        self.gate.has_many_handshakes(&self.limits, of)
    }

    /// Counts a connection for the address that it is from, unless that is a proxy's which says whose it is.
    ///
    /// # Errors
    /// Where there are as many from there as there may be.
    #[cfg(feature = "http2")]
    pub(super) fn count(&self, place: &Place, peer: &Peer) -> Result<(), Refused> {
        match peer.addr {
            Some(addr) if !self.acceptor.believes(peer.source()) => place.count_address(addr.ip()),
            _ => Ok(()),
        }
    }

    /// Decides about a request by extended CONNECT, whose stream becomes a connection of the server's: it is counted, told of
    /// and closed as those are that have a socket to themselves (RFC 8441, RFC 9220). Where the answer is not waited for any
    /// more, the client is gone.
    #[cfg(feature = "http2")]
    pub(super) fn connect(
        self: &Arc<Self>,
        asked: Result<Asked, HandshakeError>,
        client: Option<SocketAddr>,
        peer: &Peer,
        busy: Busy,
    ) -> impl Future<Output = Result<Response<()>, Refusal>> + Send + use<> {
        let refused = |error: Error, refusal: Refusal| {
            self.refused(client, &error);
            self.tell(client, &error);
            Err(refusal)
        };
        let answer = match asked {
            Err(error) => refused(error.clone().into(), Refusal::from(&error)),
            Ok(asked) => match self.place(peer) {
                Err(limited) => refused(limited.into(), limited.refusal()),
                Ok((place, peer)) => Ok(self.open_stream(asked, place, peer, busy)),
            },
        };
        async move {
            match answer {
                // Where there is none, it was given up for a newer one, or the server has ended.
                Ok(answer) => answer.await.unwrap_or_else(|_| Err(ending())),
                Err(refusal) => Err(refusal),
            }
        }
    }

    /// Decides about what a stream asks for, in the task of the connection that it then becomes, and gives the answer.
    #[cfg(feature = "http2")]
    fn open_stream(
        self: &Arc<Self>,
        asked: Asked,
        place: Arc<Place>,
        mut peer: Peer,
        busy: Busy,
    ) -> oneshot::Receiver<Result<Response<()>, Refusal>> {
        let (mut answer, answered) = oneshot::channel();
        let handshake = place.handshake(peer.addr);
        let (id, context) = (handshake.id(), self.clone());
        let opening = Box::pin(async move {
            let begun = {
                let mut gone = pin!(answer.closed());
                let mut begun = pin!(context.acceptor.begin(asked, &mut peer));
                poll_fn(|cx| match gone.as_mut().poll(cx) {
                    Poll::Ready(()) => Poll::Ready(None),
                    Poll::Pending => begun.as_mut().poll(cx).map(Some),
                })
                .await
            };
            if !handshake.finish() {
                return Ok(None);
            }
            let opened = match begun {
                Some(Ok((response, upgrade))) => {
                    let _ = answer.send(Ok(response));
                    upgrade.await
                }
                Some(Err(error)) => {
                    let _ = answer.send(Err(Refusal::from(&error)));
                    Err(error.into())
                }
                None => Err(Error::lost(io::ErrorKind::ConnectionAborted.into())),
            };
            // From here on it is a tunnel.
            drop(busy);
            let peer = peer.addr;
            opened.map(Some).map_err(|error| Unopened { peer, error })
        });
        let task = (self.run)(self.clone(), place, Box::new(|_| opening));
        self.gate.runs(id, task);
        answered
    }
}

/// What opens a connection, given its seat; or serves it, where it becomes none.
#[cfg(feature = "http2")]
pub(super) type Open = dyn FnOnce(Seat) -> Pin<Box<dyn Future<Output = Result<Option<WebSocket>, Unopened>> + Send>>
    + Send;

/// Runs that, as what is accepted is run.
#[cfg(feature = "http2")]
pub(super) type Run = dyn Fn(Arc<Context>, Arc<Place>, Box<Open>) -> AbortHandle + Send + Sync;

/// Serves a connection that asks for something else than a WebSocket, until it does.
#[cfg(feature = "hyper")]
pub(super) type ServeHttp = dyn Fn(
        PlainHttp,
        Serving,
    ) -> Pin<Box<dyn Future<Output = Result<Option<WebSocket>, Unopened>> + Send>>
    + Send
    + Sync;

/// A stream, and where it comes from, as far as it has an address.
pub(super) type Accepted = (Stream, Option<SocketAddr>);

/// Whoever has connected from there: where a listener tells no address, it is a Unix socket.
pub(super) fn accepted(peer: Option<SocketAddr>) -> Peer {
    peer.map_or_else(Peer::of_unix, |addr| Peer::at(Some(addr)))
}
