//! Requests for something else than a WebSocket, handed to hyper with the bytes already read; and
//! those for a WebSocket that come behind them on the same connection.

use std::{
    error::Error as StdError,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response, Version,
    body::{self, Buf, Bytes, Frame, SizeHint},
    server::conn::http1,
    service::Service,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use sockeye_proto::handshake::{HandshakeError, HeaderFields, Refusal, check_authority};
use tokio::sync::watch;

#[cfg(feature = "http2")]
use hyper::{Method, header::CONTENT_LENGTH};

use super::{
    Acceptor, Peer, PlainHttp, Rewound,
    accept::{OnError, Unopened},
    connections::Seat,
    refusal::ending,
};
#[cfg(feature = "http2")]
use super::{
    idle::{Busy, Idle, Piece},
    opening,
};
#[cfg(feature = "http2")]
use crate::hyper::is_extended_connect;
use crate::{
    Error, WebSocket,
    hyper::{Asked, Upgrade},
};

/// The most headers of a request that hyper reads: it takes room for as many as there may be each time that it looks whether
/// a head is whole.
const MOST_HEADERS: usize = 4096;

/// hyper does not permit less room for a head.
const LEAST_BUFFER: usize = 8 * 1024;

/// How long a client of HTTP/2 may take to hear that its connection ends, where nothing is being answered.
#[cfg(feature = "http2")]
const GOODBYE: Duration = Duration::from_secs(1);

/// How many bytes of a stream a client may send ahead of who reads it, where a WebSocket may be one.
#[cfg(feature = "http2")]
const STREAM_WINDOW: u32 = 128 * 1024;

/// How many streams there may be then at a time (RFC 9113 §6.5.2 recommends no fewer than 100).
#[cfg(feature = "http2")]
const STREAMS: u32 = 128;

/// How many bytes a frame may have that comes then. By the standard's 16 KiB a message of 1 MiB takes three times as long.
#[cfg(feature = "http2")]
const FRAME: u32 = 64 * 1024;

/// How many bytes of all streams together a client may send ahead: more than these can have, so that those which nobody
/// reads do not hold up the others. h2 ends a connection with too much unread in frames of less than 256 bytes, by what
/// they lack of that: half of this.
#[cfg(feature = "http2")]
const CONNECTION_WINDOW: u32 = 2 * STREAMS * STREAM_WINDOW;

type Failure = Box<dyn StdError + Send + Sync>;

/// What a connection that serves HTTP needs of its server.
pub(super) struct Serving {
    pub(super) acceptor: Arc<Acceptor>,
    /// How long the connection may wait for a request.
    pub(super) keep_alive: Duration,
    /// Becomes true when the server ends.
    pub(super) ending: watch::Receiver<bool>,
    /// The connection's own.
    pub(super) seat: Seat,
    pub(super) on_error: Option<Arc<OnError>>,
    /// The server, where streams of HTTP/2 may become connections of its own.
    #[cfg(feature = "http2")]
    pub(super) streams: Option<Arc<opening::Context>>,
}

impl Serving {
    /// Tells of a request for a WebSocket that came to nothing.
    fn refused(&self, peer: Option<SocketAddr>, error: &Error) {
        self.acceptor.refused(peer, error);
        if let Some(tell) = &self.on_error {
            tell(peer, error);
        }
    }
}

/// Serves a connection until it ends, or becomes a WebSocket. What goes wrong before that is between
/// the client and the service.
pub(super) async fn serve<S, B>(
    plain: PlainHttp,
    serving: Serving,
    service: S,
) -> Result<Option<WebSocket>, Unopened>
where
    S: Service<Request<body::Incoming>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Failure>,
    B: body::Body<Data: Send, Error: Into<Failure>> + Send + 'static,
{
    if plain.request.is_none() {
        return serve_http2(plain, serving, service).await;
    }
    let heads = serving.acceptor.heads();
    let (keep_alive, ending) = (serving.keep_alive, serving.ending.clone());
    let front = Front::new(service, serving, plain.peer.clone());
    let upgrade = front.upgrade.clone();
    let http = Arc::new(());
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        // It begins with the wait for a request, so that it is the deadline for being idle too.
        .header_read_timeout(keep_alive)
        .max_headers(heads.headers.min(MOST_HEADERS))
        .max_header_size(heads.bytes)
        .max_buf_size(heads.bytes.max(LEAST_BUFFER))
        .serve_connection(TokioIo::new(Rewound::new(plain, &http)), front)
        .with_upgrades();
    let mut connection = pin!(connection);
    let served = until_ending(connection.as_mut(), ending, |connection| {
        connection.graceful_shutdown();
    });
    let _ = served.await;
    drop(http);
    let upgrade = upgrade
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let Some((peer, becoming)) = upgrade else {
        return Ok(None);
    };
    let opened = match becoming {
        Becoming::Open(upgrade) => upgrade.await,
        Becoming::Undecided => Err(Error::lost(io::ErrorKind::ConnectionAborted.into())),
    };
    opened.map(Some).map_err(|error| Unopened { peer, error })
}

#[cfg(feature = "http2")]
async fn serve_http2<S, B>(
    plain: PlainHttp,
    serving: Serving,
    service: S,
) -> Result<Option<WebSocket>, Unopened>
where
    S: Service<Request<body::Incoming>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Failure>,
    B: body::Body<Data: Send, Error: Into<Failure>> + Send + 'static,
{
    use hyper::server::conn::http2;
    use hyper_util::rt::TokioExecutor;

    let heads = serving.acceptor.heads();
    let (keep_alive, ending) = (serving.keep_alive, serving.ending.clone());
    let takes_streams = serving.streams.is_some();
    let front = Front::new(service, serving, plain.peer.clone());
    let idle = front.idle.clone();
    let http = Arc::new(());
    let mut http2 = http2::Builder::new(TokioExecutor::new());
    http2
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(heads.bytes).unwrap_or(u32::MAX));
    if takes_streams {
        http2
            .enable_connect_protocol()
            .max_concurrent_streams(STREAMS)
            .max_frame_size(FRAME)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW);
    }
    let connection = http2.serve_connection(TokioIo::new(Rewound::new(plain, &http)), front);
    let mut connection = pin!(connection);
    let is_to_end = idle.bound_until(keep_alive, connection.as_mut(), began(ending));
    if is_to_end.await {
        // A request that crosses this is answered, and one that comes later can be asked again elsewhere
        // (RFC 9113 §6.8).
        connection.as_mut().graceful_shutdown();
        idle.expects_no_first();
        idle.bound(GOODBYE, connection).await;
    }
    Ok(None)
}

#[cfg(not(feature = "http2"))]
async fn serve_http2<S>(plain: PlainHttp, _: Serving, _: S) -> Result<Option<WebSocket>, Unopened> {
    let peer = plain.peer.addr;
    let error = plain.refuse().await;
    Err(Unopened { peer, error })
}

/// Runs a connection, and tells it where the server ends: requests that are being answered still are.
async fn until_ending<C: Future>(
    mut connection: Pin<&mut C>,
    ending: watch::Receiver<bool>,
    end: impl Fn(Pin<&mut C>),
) -> C::Output {
    let mut ending = pin!(began(ending));
    let mut told = false;
    poll_fn(|cx| {
        // Before it is told, so that the request that was read already is answered.
        let polled = connection.as_mut().poll(cx);
        if polled.is_ready() || told || ending.as_mut().poll(cx).is_pending() {
            return polled;
        }
        told = true;
        end(connection.as_mut());
        connection.as_mut().poll(cx)
    })
    .await
}

/// Waits until the server begins to end.
pub(super) async fn began(mut ending: watch::Receiver<bool>) {
    // Refused only where nobody is left who could say so.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// The service that hyper sees: it answers requests for a WebSocket itself.
struct Front<S> {
    service: S,
    serving: Arc<Serving>,
    peer: Peer,
    upgrade: Arc<Mutex<Option<Upgrading>>>,
    #[cfg(feature = "http2")]
    idle: Arc<Idle>,
}

/// The WebSocket that a connection is becoming, and whose.
type Upgrading = (Option<SocketAddr>, Becoming);

enum Becoming {
    /// It is being decided about; the client may be gone before that is done.
    Undecided,
    Open(Upgrade),
}

impl<S> Front<S> {
    fn new(service: S, serving: Serving, peer: Peer) -> Self {
        // For the first request of HTTP/2 there is as much time as for that of HTTP/1.1, or more.
        #[cfg(feature = "http2")]
        let idle = {
            let deadline = serving.acceptor.deadline();
            Arc::new(Idle::until_first(deadline, serving.keep_alive))
        };
        Self {
            service,
            serving: Arc::new(serving),
            peer,
            upgrade: Arc::default(),
            #[cfg(feature = "http2")]
            idle,
        }
    }

    /// Who asks for a WebSocket, as far as is known before that is looked at: what a proxy says that cannot be understood
    /// is refused then.
    fn client<B>(&self, request: &Request<B>) -> Option<SocketAddr> {
        let acceptor = &self.serving.acceptor;
        let client = acceptor.client_addr(request.headers(), &self.peer);
        client.unwrap_or(self.peer.addr)
    }

    /// Answers a request for a WebSocket, which the connection is then to become.
    fn upgrade<B, D>(
        &self,
        request: &mut Request<B>,
    ) -> impl Future<Output = Response<Body<D>>> + Send + use<S, B, D> {
        let client = self.client(request);
        let asked = Asked::take(request);
        let (serving, upgrade) = (self.serving.clone(), self.upgrade.clone());
        let mut peer = self.peer.clone();
        // There while the connection is.
        let place = peer.place.upgrade();
        let handshake = place.map(|place| {
            let given_up = |peer, error| serving.refused(peer, &error);
            place.later_handshake(client, serving.seat.task(), given_up)
        });
        async move {
            let handshake = match handshake.transpose() {
                Ok(handshake) => handshake,
                Err(limited) => {
                    serving.refused(client, &limited.into());
                    let response = limited.refusal().to_http();
                    return response.map(|text| Body::Text(text.into()));
                }
            };
            let becomes = |becoming| {
                *upgrade.lock().unwrap_or_else(PoisonError::into_inner) = becoming;
            };
            becomes(Some((client, Becoming::Undecided)));
            let begun = match asked {
                Ok(asked) => serving.acceptor.begin(asked, &mut peer).await,
                Err(error) => Err(error),
            };
            becomes(None);
            if handshake.is_some_and(|handshake| !handshake.finish()) {
                // Given up, and told of: the task is about to end.
                return ending().to_http().map(|text| Body::Text(text.into()));
            }
            match begun {
                Ok((response, begun)) => {
                    becomes(Some((peer.addr, Becoming::Open(begun))));
                    response.map(|()| Body::Text(Bytes::new()))
                }
                Err(error) => {
                    let response = Refusal::from(&error).to_http();
                    let error = peer.limited().map_or(error.into(), Error::from);
                    peer.goes_on();
                    serving.refused(peer.addr, &error);
                    response.map(|text| Body::Text(text.into()))
                }
            }
        }
    }

    /// Answers a request for a WebSocket over HTTP/2 (RFC 8441), whose stream becomes a connection of the server's:
    /// it is counted, told of and closed as those are that have a socket to themselves.
    #[cfg(feature = "http2")]
    fn connect<B, D>(
        &self,
        request: &mut Request<B>,
        server: &Arc<opening::Context>,
    ) -> impl Future<Output = Response<Body<D>>> + Send + use<S, B, D> {
        let client = self.client(request);
        let asked = Asked::take(request).map(|asked| asked.within(self.idle.clone()));
        let answer = match *self.serving.ending.borrow() {
            true => Err(ending()),
            false => Ok(server.connect(asked, client, &self.peer, self.idle.busy())),
        };
        async move {
            let answer = match answer {
                Ok(answer) => answer.await,
                Err(refusal) => Err(refusal),
            };
            match answer {
                Ok(response) => response.map(|()| Body::Text(Bytes::new())),
                Err(refusal) => refusal
                    .to_http_connect()
                    .map(|text| Body::Text(text.into())),
            }
        }
    }
}

impl<S, B> Service<Request<body::Incoming>> for Front<S>
where
    S: Service<Request<body::Incoming>, Response = Response<B>, Future: Send> + 'static,
    B: body::Body + Send + 'static,
{
    type Response = Response<Body<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, mut request: Request<body::Incoming>) -> Self::Future {
        // An HTTP/1.0 request knows no Upgrade (RFC 9110 §7.8).
        if request.version() == Version::HTTP_11
            && request.headers().contains_token("Upgrade", "websocket")
        {
            let response = self.upgrade(&mut request);
            return Box::pin(async { Ok(response.await) });
        }
        #[cfg(feature = "http2")]
        if let Some(server) = &self.serving.streams
            && is_extended_connect(request.method(), request.extensions())
        {
            let response = self.connect(&mut request, server);
            return Box::pin(async { Ok(response.await) });
        }
        let acceptor = &self.serving.acceptor;
        let client =
            check_host(&request).and_then(|()| acceptor.client_addr(request.headers(), &self.peer));
        let client = match client {
            Ok(client) => client,
            Err(error) => {
                let response = Refusal::from(&error).to_http();
                return Box::pin(async { Ok(response.map(|text| Body::Text(text.into()))) });
            }
        };
        if let Some(client) = client {
            request.extensions_mut().insert(client);
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.peer.tls {
            request.extensions_mut().insert(tls.clone());
        }
        #[cfg(feature = "http2")]
        let (mut busy, connect) = (self.idle.busy(), request.method() == Method::CONNECT);
        let answer = self.service.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            #[cfg(feature = "http2")]
            {
                busy.offers();
                // With a length hyper makes no tunnel of it.
                let length = answer.headers().get(CONTENT_LENGTH);
                let is_tunnel = length.is_none_or(|length| length == "0");
                if connect && answer.status().is_success() && is_tunnel {
                    busy.stays();
                }
            }
            Ok(answer.map(|body| Body::Service {
                body: Box::pin(body),
                #[cfg(feature = "http2")]
                busy,
            }))
        })
    }
}

/// Whether it is clear who is asked (RFC 9112 §3.2): where two readers see two hosts, one of them is deceived.
fn check_host<B>(request: &Request<B>) -> Result<(), HandshakeError> {
    if request.version() > Version::HTTP_11 {
        let authority = request.uri().authority();
        let authority = authority.map(|authority| authority.as_str().as_bytes());
        return check_authority(authority, request.headers());
    }
    match request.headers().host() {
        Err(HandshakeError::Missing(_)) if request.version() < Version::HTTP_11 => Ok(()),
        host => host.map(drop),
    }
}

/// The body of a response: of the service's, or of the handshake's.
enum Body<B> {
    Text(Bytes),
    Service {
        body: Pin<Box<B>>,
        #[cfg(feature = "http2")]
        busy: Busy,
    },
}

impl<B: body::Body> body::Body for Body<B> {
    type Data = Data<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        match self.get_mut() {
            Self::Text(text) if text.is_empty() => Poll::Ready(None),
            Self::Text(text) => {
                Poll::Ready(Some(Ok(Frame::data(Data::Text(std::mem::take(text))))))
            }
            Self::Service {
                body,
                #[cfg(feature = "http2")]
                busy,
            } => {
                #[cfg(feature = "http2")]
                busy.asks();
                let polled = body.as_mut().poll_frame(cx);
                #[cfg(feature = "http2")]
                if polled.is_ready() {
                    busy.offers();
                }
                polled.map_ok(|frame| {
                    frame.map_data(|data| {
                        #[cfg(feature = "http2")]
                        let data = busy.piece(data);
                        Data::Service(data)
                    })
                })
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_empty(),
            Self::Service { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.len() as u64),
            Self::Service { body, .. } => body.size_hint(),
        }
    }
}

/// A piece of a body.
enum Data<D> {
    Text(Bytes),
    Service(Piece<D>),
}

#[cfg(not(feature = "http2"))]
type Piece<D> = D;

/// Does the same with either piece.
macro_rules! either {
    ($self:expr, $data:ident => $do:expr) => {
        match $self {
            Data::Text($data) => $do,
            Data::Service($data) => $do,
        }
    };
}

impl<D: Buf> Buf for Data<D> {
    fn remaining(&self) -> usize {
        either!(self, data => data.remaining())
    }

    fn chunk(&self) -> &[u8] {
        either!(self, data => data.chunk())
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        either!(self, data => data.chunks_vectored(slices))
    }

    fn advance(&mut self, count: usize) {
        either!(self, data => data.advance(count));
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        either!(self, data => data.copy_to_bytes(len))
    }
}

#[cfg(test)]
#[cfg(feature = "http2")]
mod tests {
    use std::convert::Infallible;

    use hyper::{body::Body as _, client::conn::http2, service::service_fn};
    use hyper_util::rt::TokioExecutor;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        task::JoinHandle,
        time::{Instant, sleep, timeout},
    };

    use super::*;
    use crate::stream::Stream;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const LEN: usize = 300_000;

    /// What is not answered.
    const NEVER: &str = "/never";
    const NO_TUNNEL: &str = "no-tunnel";

    /// Bytes in as many pieces; between them it takes a while.
    struct Pieces {
        left: usize,
        size: usize,
        wait: Duration,
        sleep: Option<Pin<Box<tokio::time::Sleep>>>,
    }

    impl Pieces {
        fn of(count: usize, wait: Duration) -> Self {
            let (left, size, sleep) = (count, LEN / count, None);
            Self {
                left,
                size,
                wait,
                sleep,
            }
        }
    }

    impl body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            let wait = self.wait;
            let sleeping = self.sleep.get_or_insert_with(|| Box::pin(sleep(wait)));
            std::task::ready!(sleeping.as_mut().poll(cx));
            self.sleep = None;
            self.left -= 1;
            Poll::Ready(Some(Ok(Frame::data(vec![0; self.size].into()))))
        }
    }

    /// The client's stream, and the server's end.
    fn serve_pieces(
        keep_alive: Duration,
        pieces: usize,
        wait: Duration,
    ) -> (DuplexStream, JoinHandle<()>) {
        let (client, serving, end) = serve_until(keep_alive, pieces, wait);
        let serving = tokio::spawn(async move {
            serving.await.unwrap();
            drop(end);
        });
        (client, serving)
    }

    /// That, and what tells the server to end.
    fn serve_until(
        keep_alive: Duration,
        pieces: usize,
        wait: Duration,
    ) -> (DuplexStream, JoinHandle<()>, watch::Sender<bool>) {
        let (client, server) = duplex(1 << 20);
        let (end, ending) = watch::channel(false);
        let serving = Serving {
            seat: Seat::of_nobody(),
            acceptor: Arc::default(),
            keep_alive,
            ending,
            on_error: None,
            streams: None,
        };
        let plain = PlainHttp {
            stream: Stream::new(server),
            bytes: Vec::new(),
            request: None,
            peer: Peer::default(),
        };
        let large = move |request: Request<body::Incoming>| async move {
            if request.uri().path() == NEVER {
                std::future::pending::<()>().await;
            }
            let mut response = Response::new(Pieces::of(pieces, wait));
            if request.uri().host() == Some(NO_TUNNEL) {
                let length = response.headers_mut().insert(CONTENT_LENGTH, 4.into());
                assert_eq!(length, None);
            } else if request.method() == Method::CONNECT {
                tokio::spawn(async {
                    let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                    let (mut read, mut write) = tokio::io::split(&mut stream);
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
            Ok::<_, Infallible>(response)
        };
        let serving = tokio::spawn(async move {
            let served = serve(plain, serving, service_fn(large)).await;
            assert!(matches!(served, Ok(None)));
        });
        (client, serving, end)
    }

    /// A client, each of whose streams has a window of 16 KiB.
    async fn client_of(stream: DuplexStream) -> http2::SendRequest<String> {
        let (ask, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(16 * 1024)
            .handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        ask
    }

    /// A client that has asked for so many bytes, of which it has taken none, and the server's end.
    async fn ask(pieces: usize, wait: Duration) -> (Response<body::Incoming>, JoinHandle<()>) {
        ask_within(30 * SECOND, pieces, wait, &[]).await
    }

    /// That asks for others too.
    async fn ask_within(
        keep_alive: Duration,
        pieces: usize,
        wait: Duration,
        others: &[&'static str],
    ) -> (Response<body::Incoming>, JoinHandle<()>) {
        let (client, serving) = serve_pieces(keep_alive, pieces, wait);
        let mut ask = client_of(client).await;
        for path in others {
            let request = Request::get(*path).body(String::new()).unwrap();
            tokio::spawn(ask.send_request(request));
        }
        let response = ask.send_request(Request::new(String::new())).await.unwrap();
        // Its connection is there for as long as this is.
        tokio::spawn(async move {
            let _ask = ask;
            std::future::pending::<()>().await;
        });
        (response, serving)
    }

    async fn take(mut response: Response<body::Incoming>, wait: Duration) -> Duration {
        let begin = Instant::now();
        let mut taken = 0;
        while let Some(frame) = poll_fn(|cx| Pin::new(response.body_mut()).poll_frame(cx)).await {
            taken += frame.unwrap().into_data().unwrap().len();
            sleep(wait).await;
        }
        assert_eq!(taken, LEN);
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_may_take_long_for_a_response() {
        for pieces in [1, 10, 100] {
            let (response, serving) = ask(pieces, Duration::ZERO).await;
            assert!(take(response, 10 * SECOND).await > 150 * SECOND);
            within_an_hour(serving).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_may_take_long_too() {
        let (response, serving) = ask(5, 300 * SECOND).await;
        assert!(take(response, Duration::ZERO).await >= 1500 * SECOND);
        within_an_hour(serving).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_of_it_is_given_up() {
        for pieces in [1, 10, 100] {
            let (_response, serving) = ask(pieces, Duration::ZERO).await;
            let begin = Instant::now();
            within_an_hour(serving).await;
            assert!(begin.elapsed() < 100 * SECOND, "{:?}", begin.elapsed());
        }
    }

    /// hyper hands each piece over whole, and knows nothing of it from then on.
    #[tokio::test(start_paused = true)]
    async fn what_hyper_has_of_a_response_is_offered_still() {
        let (response, serving) = ask_within(SECOND, 1, Duration::ZERO, &[]).await;
        assert!(take(response, 10 * SECOND).await > 150 * SECOND);
        within_an_hour(serving).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_for_the_service_holds_no_response_that_is_not_taken() {
        for pieces in [1, 10] {
            let (_response, serving) =
                ask_within(30 * SECOND, pieces, Duration::ZERO, &[NEVER]).await;
            let begin = Instant::now();
            within_an_hour(serving).await;
            assert!(begin.elapsed() < 100 * SECOND, "{:?}", begin.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_wait_for_another_a_request_is_answered() {
        let (response, serving) = ask_within(Duration::ZERO, 5, 300 * SECOND, &[]).await;
        assert!(take(response, Duration::ZERO).await >= 1500 * SECOND);
        within_an_hour(serving).await;
    }

    /// It was given up, as a response is of which nothing is taken.
    #[tokio::test(start_paused = true)]
    async fn what_the_service_upgrades_may_wait_for_the_client() {
        const ASKS: &[u8] =
            b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
        let (mut client, server) = duplex(1000);
        let (_end, ending) = watch::channel(false);
        let serving = Serving {
            seat: Seat::of_nobody(),
            acceptor: Arc::default(),
            keep_alive: SECOND,
            ending,
            on_error: None,
            streams: None,
        };
        let plain = PlainHttp {
            stream: Stream::new(server),
            bytes: ASKS.to_vec(),
            request: Some(sockeye_proto::handshake::Request::parse(ASKS).unwrap()),
            peer: Peer::default(),
        };
        let other = async |request: Request<body::Incoming>| {
            tokio::spawn(async {
                let mut stream = TokioIo::new(hyper::upgrade::on(request).await.unwrap());
                stream.write_all(&[7; LEN]).await
            });
            let response = Response::builder().status(101);
            let response = response.header("Connection", "upgrade");
            let body = http_body_util::Empty::<Bytes>::new();
            Ok::<_, Infallible>(response.header("Upgrade", "other").body(body).unwrap())
        };
        let served = serve(plain, serving, service_fn(other)).await;
        assert!(matches!(served, Ok(None)));
        sleep(HOUR).await;
        let mut all = 0;
        while all < LEN {
            let mut some = [0; 1000];
            let count = client.read(&mut some).await.unwrap();
            assert!(count > 0, "it ended after {all}");
            all += some[..count].iter().filter(|byte| **byte == 7).count();
        }
    }

    /// RFC 9113 §6.7: pings are answered, several at a time too, and are no request.
    #[tokio::test(start_paused = true)]
    async fn pings_are_no_use_of_a_connection() {
        const PING: [u8; 17] = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let (mut client, mut serving) = serve_pieces(30 * SECOND, 1, Duration::ZERO);
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let begin = Instant::now();
        let _ = client.write_all(&[&preface[..], &settings].concat()).await;
        while timeout(10 * SECOND, &mut serving).await.is_err() {
            assert!(begin.elapsed() < 100 * SECOND, "{:?}", begin.elapsed());
            let _ = client.write_all(&[PING; 4].concat()).await;
        }
    }

    /// It was waited for until the server's deadline: h2 asks whether all requests have come, and no peer answers that
    /// has vanished.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_does_not_hold_up_the_end() {
        const WHOLE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for begun in [&WHOLE[..18], WHOLE] {
            // Also where its first request has more time than any later one.
            for keep_alive in [HOUR, 2 * SECOND] {
                let (mut client, serving, end) = serve_until(keep_alive, 1, Duration::ZERO);
                client.write_all(begun).await.unwrap();
                sleep(SECOND).await;
                let begin = Instant::now();
                end.send(true).unwrap();
                within_an_hour(serving).await;
                assert!(begin.elapsed() <= 2 * SECOND, "{:?}", begin.elapsed());
            }
        }
    }

    /// One that waits for an answer is waited for.
    #[tokio::test(start_paused = true)]
    async fn a_request_is_answered_though_the_server_ends() {
        let (client, serving, end) = serve_until(HOUR, 5, 300 * SECOND);
        let mut ask = client_of(client).await;
        let response = ask.send_request(Request::new(String::new())).await.unwrap();
        end.send(true).unwrap();
        assert!(take(response, Duration::ZERO).await >= 1500 * SECOND);
        within_an_hour(serving).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_tunnel_is_a_use_of_a_connection() {
        let (client, _serving) = serve_pieces(SECOND, 1, Duration::ZERO);
        let mut ask = client_of(client).await;
        let request = Request::connect("peer:1").body(String::new()).unwrap();
        let response = ask.send_request(request).await.unwrap();
        let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        for _ in 0..10 {
            sleep(100 * SECOND).await;
            tunnel.write_all(b"!").await.unwrap();
            assert_eq!(tunnel.read_u8().await.unwrap(), b'!');
        }
    }

    /// hyper resets it, as a tunnel has no length.
    #[tokio::test(start_paused = true)]
    async fn what_is_answered_with_a_length_is_no_tunnel() {
        let (client, serving) = serve_pieces(SECOND, 1, Duration::ZERO);
        let mut ask = client_of(client).await;
        let request = Request::connect(format!("{NO_TUNNEL}:1"));
        let answer = ask.send_request(request.body(String::new()).unwrap()).await;
        answer.unwrap_err();
        within_an_hour(serving).await;
        drop(ask);
    }

    async fn within_an_hour(serving: JoinHandle<()>) {
        let ended = timeout(HOUR, serving).await;
        ended.expect("it is held for ever").unwrap();
    }
}
