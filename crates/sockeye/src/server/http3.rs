//! WebSockets over HTTP/3 (RFC 9220), on a UDP socket beside those that listen.
//!
//! A connection of QUIC has a seat and is counted as one of TCP that serves HTTP; each WebSocket on it is a connection of its
//! own besides.

use std::{
    future::{Future, pending, poll_fn},
    net::{SocketAddr, UdpSocket},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use hyper::{HeaderMap, Response};
use quinn::{Endpoint, EndpointConfig, Incoming, TokioRuntime};
use sockeye_proto::handshake::{HandshakeError, Refusal};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinSet, coop::consume_budget},
    time::{Instant, timeout, timeout_at},
};

use super::{
    Peer,
    accept::Unopened,
    admission::{Handshake, Place, Refused},
    connections::Seat,
    http::began,
    idle::{Busy, Idle, Tunnel},
    listener::cannot_listen,
    opening::Context,
    tls::ServerTls,
    tls_identity::TlsIdentity,
};
use crate::{
    Deadline, Error, Result, WebSocket,
    http3::{Code, RequestStream, Session, Settings, Side, encode, tls_failure, transport, window},
    hyper::Asked,
    stream::Stream,
};

/// How many who have just come may wait to be looked at, and how much they may have said meanwhile.
const WAITING: usize = 1024;
const WAITING_BYTES: u64 = 16 * 1024 * 1024;

/// How long a client may take to hear that its connection ends, besides the way there and back; and with that.
const HEARD: Duration = Duration::from_millis(50);
const GOODBYE: Duration = Duration::from_secs(1);

/// Of so many opening handshakes that there may be, one may be of somebody who has not shown that the address is theirs.
const UNPROVEN: usize = 8;

/// A client's stream.
type ClientStream = RequestStream<Open>;

/// The UDP sockets of a server.
pub(super) struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// Listens on them.
    ///
    /// # Errors
    /// [`Error::Setup`] without TLS; [`Error::Tls`] for a configuration of rustls' that cannot be used; [`Error::Listen`].
    pub(super) fn listen(sockets: Vec<UdpSocket>, tls: Option<&ServerTls>) -> Result<Self> {
        if sockets.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let Some(tls) = tls else {
            let why =
                "HTTP/3 is always within TLS: the server needs a certificate (`Acceptor::tls`)";
            return Err(Error::Setup(why.into()));
        };
        let mut config = quinn::ServerConfig::with_crypto(tls.quic()?);
        config
            .transport_config(Arc::new(transport(Side::Server)))
            .max_incoming(WAITING)
            .incoming_buffer_size_total(WAITING_BYTES);
        let listen = |socket| {
            let (here, config) = (EndpointConfig::default(), Some(config.clone()));
            Endpoint::new(here, config, socket, Arc::new(TokioRuntime))
                .map_err(|error| cannot_listen("the UDP socket of HTTP/3", error))
        };
        sockets
            .into_iter()
            .map(listen)
            .collect::<Result<_>>()
            .map(Self)
    }

    /// Takes all who come, for ever, and lets them in; or refuses them, where that is over.
    pub(super) async fn accept(&self, context: Option<&Arc<Context>>) {
        let each = self.0.iter().map(|endpoint| {
            Box::pin(async move {
                while let Some(incoming) = endpoint.accept().await {
                    match context {
                        Some(context) => admit(context, incoming, endpoint.open_connections()),
                        None => incoming.refuse(),
                    }
                    // There is an end to a turn.
                    consume_budget().await;
                }
                pending::<()>().await;
            })
        });
        let mut each: Vec<_> = each.collect();
        poll_fn(|cx| {
            for accepting in &mut each {
                let _ = accepting.as_mut().poll(cx);
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until nothing is left of the connections, as far as their clients let that be soon.
    pub(super) async fn drain(&self) {
        let all = async {
            for endpoint in &self.0 {
                endpoint.wait_idle().await;
            }
        };
        let _ = timeout(GOODBYE, all).await;
    }
}

/// Lets a connection in, or not. There are so many of which quinn knows: also those that have ended, for as long as the client has
/// it wait for what may still come (RFC 9000 §10.2).
fn admit(context: &Arc<Context>, incoming: Incoming, known: usize) {
    let addr = incoming.remote_address();
    let peer = Peer::at(Some(addr));
    let is_proven = incoming.remote_address_validated();
    // Anyone can write any address on a packet: where many have come, or from there as many as may, they are to show that they
    // hear what is sent there (RFC 9000 §8.1.2), which takes a round trip and nothing of this end.
    let is_to_prove = || context.has_many_handshakes(UNPROVEN) || !context.has_room_for(&peer);
    if !is_proven && incoming.may_retry() && is_to_prove() {
        let _ = incoming.retry();
        return;
    }
    let placed = match is_proven {
        _ if context.is_full(known) => Err(Refused::full()),
        true => context.place(&peer),
        false => context.place_uncounted(&peer),
    };
    let (place, peer) = match placed {
        Ok(placed) => placed,
        Err(refused) => {
            incoming.refuse();
            let error = refused.into();
            context.refused(Some(addr), &error);
            context.tell(Some(addr), &error);
            return;
        }
    };
    let handshake = place.handshake(Some(addr));
    let id = handshake.id();
    let (here, its_place) = (context.clone(), place.clone());
    let open = Box::new(move |seat| -> Pin<Box<dyn Future<Output = _> + Send>> {
        Box::pin(async move {
            let served = serve(&here, incoming, peer, its_place, handshake, seat).await;
            let told = |error| Unopened {
                peer: Some(addr),
                error,
            };
            served.map(|()| None::<WebSocket>).map_err(told)
        })
    });
    let task = (context.run)(context.clone(), place, open);
    context.gate.runs(id, task);
}

/// Serves a connection until it ends.
async fn serve(
    context: &Arc<Context>,
    incoming: Incoming,
    mut peer: Peer,
    place: Arc<Place>,
    handshake: Handshake,
    seat: Seat,
) -> Result<()> {
    let (addr, heads) = (incoming.remote_address(), context.acceptor.heads());
    let deadline = context.acceptor.deadline();
    let begun = timeout_at(deadline, async {
        let not_begun = |error: quinn::ConnectionError| match tls_failure(&error) {
            Some(why) => Error::tls(addr.to_string(), why),
            None => Error::lost(error.into()),
        };
        let connection = incoming
            .accept()
            .map_err(not_begun)?
            .await
            .map_err(not_begun)?;
        // Whoever has finished it hears what is sent there.
        context.count(&place, &peer).inspect_err(|refused| {
            let why = Error::from(*refused).to_string();
            connection.close(Code::ExcessiveLoad.into(), why.as_bytes());
        })?;
        peer.tls = Some(TlsIdentity::of_quic(&connection));
        let settings = Settings {
            field_section: Some(heads.bytes as u64),
            extended_connect: true,
        };
        let begun = Session::begin(connection, Side::Server, settings);
        begun.await.map_err(Error::lost)
    });
    let session = begun
        .await
        .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))?;
    if !handshake.finish() {
        return Ok(());
    }
    drop(place);
    let ending = seat.serving();
    // For the first request there is as much time as on TCP, or more.
    let idle = Arc::new(Idle::until_first(deadline, context.keep_alive));
    let requests = Arc::new(Requests {
        context: context.clone(),
        session: session.clone(),
        idle: idle.clone(),
        peer,
        windows: Arc::new(Windows {
            session: session.clone(),
            open: Mutex::default(),
        }),
        leaving: watch::Sender::default(),
    });
    let mut answering = pin!(requests.answer_all());
    let is_to_end = idle.bound_until(context.keep_alive, answering.as_mut(), began(ending));
    if is_to_end.await {
        // A request that crosses this can be asked again elsewhere (RFC 9114 §5.2).
        requests.leaving.send_replace(true);
        idle.expects_no_first();
        // It may have been asked for before that has come, and be refused so.
        let heard = 2 * session.connection().rtt() + HEARD;
        idle.bound(heard.min(GOODBYE), answering).await;
    }
    // It ends once all that was sent on its streams has arrived.
    session
        .broken()
        .map_or(Ok(()), |broken| Err(Error::lost(broken)))
}

/// How much a client may send ahead, by how many of its requests have been WebSockets at a time: it may have nobody read these,
/// and of all else hardly anything comes. Not less again: quinn would take that back from what is read alone.
struct Windows {
    session: Arc<Session>,
    open: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    now: u32,
    most: u32,
}

impl Windows {
    fn lock(&self) -> MutexGuard<'_, Sockets> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more.
    fn open(self: &Arc<Self>, tunnel: Tunnel) -> Open {
        let mut open = self.lock();
        open.now += 1;
        if open.now > open.most {
            open.most = open.now;
            let connection = self.session.connection();
            connection.set_receive_window(window(open.most));
        }
        Open {
            windows: self.clone(),
            _tunnel: tunnel,
        }
    }
}

/// A request that is a WebSocket.
struct Open {
    windows: Arc<Windows>,
    _tunnel: Tunnel,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.windows.lock().now -= 1;
    }
}

/// What the requests of a connection are answered with.
struct Requests {
    context: Arc<Context>,
    session: Arc<Session>,
    idle: Arc<Idle>,
    peer: Peer,
    windows: Arc<Windows>,
    /// Becomes true when no more are answered.
    leaving: watch::Sender<bool>,
}

impl Requests {
    /// Answers requests until the connection has ended.
    async fn answer_all(self: &Arc<Self>) {
        let mut answers = JoinSet::new();
        let mut leaving = pin!(began(self.leaving.subscribe()));
        let (mut next, mut is_leaving) = (0, false);
        loop {
            let mut accepted = pin!(self.session.connection().accept_bi());
            let accepted = poll_fn(|cx| {
                while let Poll::Ready(Some(_)) = answers.poll_join_next(cx) {}
                if !is_leaving && leaving.as_mut().poll(cx).is_ready() {
                    is_leaving = true;
                    self.session.go_away(next);
                }
                accepted.as_mut().poll(cx)
            });
            let Ok((send, receive)) = accepted.await else {
                return;
            };
            next = 4 * (receive.id().index() + 1);
            let mut stream = RequestStream::new(self.session.clone(), send, receive);
            if is_leaving {
                stream.reset(Code::RequestRejected);
                continue;
            }
            let (this, busy) = (self.clone(), self.idle.busy());
            answers.spawn(async move { this.answer(stream, busy).await });
        }
    }

    /// Answers a request, within the time that an opening handshake has.
    async fn answer(&self, mut stream: ClientStream, busy: Busy) {
        let deadline = self.context.acceptor.deadline();
        let heads = self.context.acceptor.heads();
        let asked = timeout_at(deadline, stream.read_head(heads)).await;
        let asked = asked.unwrap_or(Err(Error::Timeout(Deadline::Handshake)));
        let judged = asked.and_then(|section| {
            let is_websocket = |protocol: &str| protocol.eq_ignore_ascii_case("websocket");
            match section.method()? {
                "CONNECT" if section.protocol().is_some_and(is_websocket) => {
                    Ok((section.uri()?, section.headers))
                }
                // RFC 9220 §3.
                "CONNECT" => Err(refused(
                    501,
                    "this server opens WebSockets, and no other tunnel\n",
                )),
                _ => Err(refused(
                    421,
                    "over HTTP/3 this server opens WebSockets, and has nothing else\n",
                )),
            }
        });
        let answered = match judged {
            Ok((uri, headers)) => {
                let (give, given) = oneshot::channel();
                let asked = Asked::over_http3(&uri, &headers, given);
                let client = self.client(&headers);
                let connect = self.context.connect(asked, client, &self.peer, busy);
                self.open(stream, connect, give, deadline).await
            }
            Err(error) => {
                // What ends the connection is told with that.
                if self.session.broken().is_none() {
                    self.tell(&error);
                }
                match error {
                    // RFC 9114 §4.1.
                    Error::Handshake(HandshakeError::UnexpectedEnd) => {
                        stream.reset(Code::RequestIncomplete);
                        Ok(())
                    }
                    Error::Handshake(problem) => {
                        refuse(&mut stream, &Refusal::from(&problem), deadline).await
                    }
                    _ => {
                        stream.reset(Code::RequestRejected);
                        Ok(())
                    }
                }
            }
        };
        // Where the client does not take the answer, whoever waits for the stream is told that there is none.
        drop(answered);
    }

    /// Hands a stream over once the request has been decided about and answered.
    async fn open(
        &self,
        mut stream: ClientStream,
        connect: impl Future<Output = Result<Response<()>, Refusal>>,
        give: oneshot::Sender<Stream>,
        deadline: Instant,
    ) -> Result<()> {
        let decided = {
            let mut connect = pin!(connect);
            let mut gone = pin!(stream.is_given_up());
            poll_fn(|cx| match connect.as_mut().poll(cx) {
                Poll::Pending => gone.as_mut().poll(cx).map(|()| None),
                decided => decided.map(Some),
            })
            .await
        };
        match decided {
            Some(Ok(response)) => {
                let status = response.status();
                let head = encode(&[(":status", status.as_str())], response.headers());
                in_time(deadline, stream.write_head(&head)).await?;
                stream.open(self.windows.open(self.idle.tunnel()));
                // Refused where it was given up meanwhile.
                let _ = give.send(Stream::new(stream));
                Ok(())
            }
            Some(Err(refusal)) => refuse(&mut stream, &refusal, deadline).await,
            // Whoever decides is told by the end of this.
            None => Ok(()),
        }
    }

    /// Who asks, as far as is known before that is looked at.
    fn client(&self, headers: &HeaderMap) -> Option<SocketAddr> {
        let client = self.context.acceptor.client_addr(headers, &self.peer);
        client.unwrap_or(self.peer.addr)
    }

    fn tell(&self, error: &Error) {
        self.context.refused(self.peer.addr, error);
        self.context.tell(self.peer.addr, error);
    }
}

fn refused(status: u16, why: &str) -> Error {
    HandshakeError::Refused(Box::new(Refusal::new(status, why))).into()
}

/// Refuses a request.
async fn refuse(stream: &mut ClientStream, refusal: &Refusal, deadline: Instant) -> Result<()> {
    // What else it has to say would be held until the client takes this.
    stream.hear_no_more();
    let response = refusal.to_http_connect();
    let status = response.status();
    let head = encode(&[(":status", status.as_str())], response.headers());
    in_time(deadline, async {
        stream.write_head(&head).await?;
        stream.write_last(response.body().as_bytes()).await
    })
    .await
}

async fn in_time(deadline: Instant, written: impl Future<Output = Result<()>>) -> Result<()> {
    let written = timeout_at(deadline, written).await;
    written.unwrap_or(Err(Error::Timeout(Deadline::Handshake)))
}
