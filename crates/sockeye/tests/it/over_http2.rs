//! WebSockets on streams of HTTP/2, at a server (RFC 8441).

use std::{future::pending, net::SocketAddr, time::Duration};

use axum::{
    Router,
    routing::{any, get},
};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
    http::request,
    upgrade::Upgraded,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sockeye::{
    Acceptor, Ended, Error, Metrics, Result, Server,
    server::{Farewell, Limit, Refusal, Routes, Shutdown, ShutdownHandle},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinHandle,
};

use crate::wire::{self, Peer, frame, within};

const NO_CONTEXT: &str = wire::NO_CONTEXT;

type Stream = Peer<TokioIo<Upgraded>>;

fn pages() -> Router {
    Router::new()
        .route("/", get(async || "a page"))
        .fallback(any(async || {
            (StatusCode::NOT_IMPLEMENTED, "something else")
        }))
}

/// A server that echoes, with pages, on whose connections WebSockets come over HTTP/2.
async fn serve(
    set_up: impl FnOnce(Server) -> Server,
) -> (SocketAddr, ShutdownHandle, JoinHandle<Result<()>>) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let server = set_up(server.router(pages()).websockets_over_http2(true));
    let handle = server.shutdown_handle();
    let served = tokio::spawn(server.serve(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));
    (address, handle, served)
}

/// A connection of HTTP/2 whose client knows what the server permits.
struct Http2 {
    ask: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
    local: SocketAddr,
    /// The connection's own, to cut it off.
    tcp: std::net::TcpStream,
}

impl Http2 {
    async fn connect(address: SocketAddr) -> Self {
        let tcp = std::net::TcpStream::connect(address).unwrap();
        let (local, clone) = (tcp.local_addr().unwrap(), tcp.try_clone().unwrap());
        tcp.set_nonblocking(true).unwrap();
        let tcp = TcpStream::from_std(tcp).unwrap();
        let opened = http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
        let (ask, connection) = opened.await.unwrap();
        let connection = tokio::spawn(connection);
        let mut http2 = Self {
            ask,
            connection,
            local,
            tcp: clone,
        };
        http2.expect_page().await;
        http2
    }

    async fn expect_page(&mut self) {
        let page = Request::get("http://peer/").body(Empty::new()).unwrap();
        let answer = within(self.ask.send_request(page)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "a page");
    }

    async fn send(&mut self, request: request::Builder) -> hyper::Result<Response<Incoming>> {
        let request = request.body(Empty::new()).unwrap();
        within(self.ask.send_request(request)).await
    }

    /// A stream that has become a WebSocket, and the answer that made it one.
    async fn open(&mut self, request: request::Builder) -> (Stream, Response<()>) {
        let mut answer = self.send(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        let upgraded = within(hyper::upgrade::on(&mut answer)).await.unwrap();
        (Peer::opened(TokioIo::new(upgraded)), answer.map(drop))
    }

    /// What a request is refused with.
    async fn refused(&mut self, request: request::Builder) -> (Response<()>, String) {
        let answer = self.send(request).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = within(body.collect()).await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (Response::from_parts(head, ()), text)
    }
}

fn connect(url: &str) -> request::Builder {
    Request::builder()
        .method(Method::CONNECT)
        .uri(url)
        .extension(Protocol::from_static("websocket"))
}

fn websocket() -> request::Builder {
    connect("http://peer/socket?a=1").header("sec-websocket-version", "13")
}

#[tokio::test]
async fn a_stream_becomes_a_socket_and_the_connection_goes_on() {
    let (address, ..) = serve(|server| server).await;
    let mut http2 = Http2::connect(address).await;
    for _ in 0..2 {
        let (mut one, answer) = http2.open(websocket()).await;
        for name in [
            "upgrade",
            "connection",
            "sec-websocket-accept",
            "content-length",
        ] {
            assert!(!answer.headers().contains_key(name), "{answer:?}");
        }
        let (mut other, _) = http2.open(websocket()).await;
        one.expect_echo("one").await;
        other.expect_echo("other").await;
        http2.expect_page().await;
        // RFC 6455 §7.1.1, and RFC 8441 §5: what closes TCP ends the stream.
        one.send_close(1000, "").await;
        assert_eq!(one.expect_close().await, (1000, String::new()));
        one.expect_end().await;
        other.expect_echo("still").await;
    }
    assert!(!http2.connection.is_finished());
}

#[tokio::test]
async fn a_message_of_any_size_passes_both_ways() {
    let (address, ..) = serve(|server| server).await;
    let (mut stream, _) = Http2::connect(address).await.open(websocket()).await;
    for len in [0, 1, 70_000, 5 << 20] {
        let text = "x".repeat(len);
        let echo = async {
            stream.send_frame(0x81, &text).await;
            stream.expect_text(&text).await;
        };
        within(echo).await;
    }
}

#[tokio::test]
async fn compression_and_a_subprotocol_are_agreed() {
    let chat = |server: Server| server.acceptor(Acceptor::new().subprotocol("chat"));
    let (address, ..) = serve(chat).await;
    let request = websocket()
        .header("sec-websocket-protocol", "other, chat")
        .header("sec-websocket-extensions", NO_CONTEXT);
    let (mut stream, answer) = Http2::connect(address).await.open(request).await;
    let headers = answer.headers();
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    assert_eq!(headers["sec-websocket-extensions"], NO_CONTEXT);
    // RFC 7692 §7.2.3.1: "Hello" compressed.
    let hello = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    stream.send_frame(0xC1, hello).await;
    let frame = stream.next().await.unwrap();
    // It is too short to be compressed.
    assert_eq!((frame.first, &frame.payload[..]), (0x81, &b"Hello"[..]));
}

#[tokio::test]
async fn what_is_asked_and_by_whom_is_known() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().on_request(move |request| {
        let said = (
            request.path().to_owned(),
            request.query().map(str::to_owned),
            request.authority().map(str::to_owned),
            request.headers().first_str("X-Name").map(str::to_owned),
            request.peer_addr(),
        );
        tell.send(said).unwrap();
        async { Ok::<_, Refusal>(sockeye::server::Answer::new().header("X-Answer", "yes")) }
    });
    let (address, ..) = serve(|server| server.acceptor(acceptor)).await;
    let mut http2 = Http2::connect(address).await;
    let (_stream, answer) = http2.open(websocket().header("x-name", "value")).await;
    assert_eq!(answer.headers()["x-answer"], "yes");
    let some = |text: &str| Some(text.to_owned());
    let said = (
        "/socket".into(),
        some("a=1"),
        some("peer"),
        some("value"),
        Some(http2.local),
    );
    assert_eq!(told.recv().await.unwrap(), said);
}

/// RFC 8441 §3: whoever is not told that it may does not ask.
#[tokio::test]
async fn by_default_none_are_opened() {
    /// SETTINGS_ENABLE_CONNECT_PROTOCOL = 1.
    const ENABLED: [u8; 6] = [0, 8, 0, 0, 0, 1];
    for open in [false, true] {
        let (address, ..) = serve(|server| server.websockets_over_http2(open)).await;
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        tcp.write_all(begin).await.unwrap();
        let mut head = [0; 9];
        within(tcp.read_exact(&mut head)).await.unwrap();
        let [0, 0, len, 4, ..] = head else {
            panic!("no SETTINGS: {head:?}");
        };
        let mut settings = vec![0; usize::from(len)];
        within(tcp.read_exact(&mut settings)).await.unwrap();
        assert_eq!(
            settings.chunks(6).any(|one| one == ENABLED),
            open,
            "{settings:?}"
        );
    }
}

mod section_5_opening {
    use super::*;

    async fn refused(request: request::Builder) -> (Response<()>, String) {
        let (tell, mut told) = mpsc::unbounded_channel();
        let telling =
            |server: Server| server.on_error(move |_, error| tell.send(error.clone()).unwrap());
        let (address, ..) = serve(telling).await;
        let mut http2 = Http2::connect(address).await;
        let refused = http2.refused(request).await;
        let error = within(told.recv()).await.unwrap();
        assert!(error.is_handshake(), "{error}");
        // It ends nothing but its stream.
        let (mut stream, _) = http2.open(websocket()).await;
        stream.expect_echo("text").await;
        refused
    }

    #[tokio::test]
    async fn another_version_is_told_which_one_is_spoken() {
        for request in [
            connect("http://peer/"),
            connect("http://peer/").header("sec-websocket-version", "8"),
        ] {
            // RFC 9110 §15.5.22: no 426 without an Upgrade header, which no stream has (RFC 9113 §8.2.2).
            let (answer, text) = refused(request).await;
            assert_eq!(answer.status(), 400, "{text}");
            assert_eq!(answer.headers()["sec-websocket-version"], "13");
            assert!(text.contains("13 is spoken here"), "{text}");
        }
    }

    #[tokio::test]
    async fn it_is_clear_which_host_is_asked() {
        for host in ["other", "peer:81", ""] {
            let (answer, text) = refused(websocket().header("host", host)).await;
            assert_eq!(answer.status(), 400);
            assert!(text.contains("Host and :authority are one host"), "{text}");
        }
    }

    /// RFC 6455 §10.2: `:authority` is what a page's host is compared with.
    #[tokio::test]
    async fn pages_of_others_are_refused() {
        let (answer, text) = refused(websocket().header("origin", "http://other")).await;
        assert_eq!(answer.status(), 403, "{text}");
        let (address, ..) = serve(|server| server).await;
        let mut http2 = Http2::connect(address).await;
        let own = websocket().header("origin", "http://peer");
        http2.open(own).await.0.expect_echo("text").await;
    }

    #[tokio::test]
    async fn lists_are_lists() {
        for (name, value) in [
            ("sec-websocket-protocol", "a, a"),
            ("sec-websocket-protocol", "a b"),
            ("sec-websocket-extensions", "a;;b"),
        ] {
            let (answer, text) = refused(websocket().header(name, value)).await;
            assert_eq!(answer.status(), 400, "{name}: {value}");
            assert!(text.to_ascii_lowercase().contains(name), "{text}");
        }
    }

    /// It proves nothing here, so that nothing is asked of it.
    #[tokio::test]
    async fn a_key_is_not_looked_at() {
        let (address, ..) = serve(|server| server).await;
        let request = websocket().header("sec-websocket-key", "none");
        let (mut stream, answer) = Http2::connect(address).await.open(request).await;
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        stream.expect_echo("text").await;
    }
}

/// RFC 8441 §4: the value says what the stream is for.
#[tokio::test]
async fn another_protocol_is_the_services() {
    let (address, ..) = serve(|server| server).await;
    let mut http2 = Http2::connect(address).await;
    let request = Request::builder()
        .method(Method::CONNECT)
        .uri("http://peer/")
        .extension(Protocol::from_static("connect-udp"));
    let (answer, text) = http2.refused(request).await;
    assert_eq!((answer.status().as_u16(), &*text), (405, ""));
}

#[tokio::test]
async fn routes_are_found() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let routes = Routes::new().at("/room/{name}", async |mut socket: sockeye::WebSocket| {
        let name = socket.param("name").unwrap().to_owned();
        socket.send(name).await
    });
    let server = server.router(pages()).websockets_over_http2(true);
    tokio::spawn(server.serve_routes(routes));
    let mut http2 = Http2::connect(address).await;
    let at = |url| connect(url).header("sec-websocket-version", "13");
    let (mut stream, _) = http2.open(at("http://peer/room/blue")).await;
    stream.expect_text("blue").await;
    let (answer, _) = http2.refused(at("http://peer/nowhere")).await;
    assert_eq!(answer.status(), 404);
}

/// Each is a connection besides the one that it is on.
#[tokio::test]
async fn limits_hold_for_each_stream() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let metrics = Metrics::new();
    let (address, ..) = serve(|server| {
        let server = server.max_connections(3).metrics(&metrics);
        server.on_error(move |peer, error| tell.send((peer, error.clone())).unwrap())
    })
    .await;
    let mut http2 = Http2::connect(address).await;
    let (first, _) = http2.open(websocket()).await;
    let (mut second, _) = http2.open(websocket()).await;
    let (answer, text) = http2.refused(websocket()).await;
    assert_eq!(answer.status(), 503, "{text}");
    assert!(answer.headers().contains_key("retry-after"));
    let (peer, error) = told.recv().await.unwrap();
    assert_eq!(peer, Some(http2.local));
    let limit = Limit::Connections;
    assert!(
        matches!(error, Error::Limit { limit: it, .. } if it == limit),
        "{error}"
    );
    let encoded = metrics.encode();
    assert!(
        encoded.contains("sockeye_connections_open 2\n"),
        "{encoded}"
    );
    // What is given back can be had, also where a client resets its stream.
    drop(first);
    let (peer, error) = within(told.recv()).await.unwrap();
    assert!(error.is_lost(), "{error}");
    assert_eq!(peer, Some(http2.local));
    let (mut third, _) = http2.open(websocket()).await;
    third.expect_echo("third").await;
    second.expect_echo("second").await;
}

#[tokio::test]
async fn an_address_is_counted_for_each_stream() {
    let (address, ..) = serve(|server| server.max_connections_per_address(2)).await;
    let mut http2 = Http2::connect(address).await;
    let (_first, _) = http2.open(websocket()).await;
    let (answer, _) = http2.refused(websocket()).await;
    assert_eq!(answer.status(), 429);
}

#[tokio::test]
async fn a_client_that_leaves_while_it_is_decided_about_is_told_of() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().on_request(move |_| {
        begin.send(()).unwrap();
        pending::<Result<_, Refusal>>()
    });
    let (address, ..) = serve(|server| {
        let server = server.acceptor(acceptor);
        server.on_error(move |peer, error| tell.send((peer, error.clone())).unwrap())
    })
    .await;
    let mut http2 = Http2::connect(address).await;
    let request = websocket().body(Empty::new()).unwrap();
    let asking = http2.ask.send_request(request);
    {
        let mut asking = std::pin::pin!(asking);
        tokio::select! {
            _ = &mut asking => panic!("it was decided"),
            begun = begun.recv() => begun.unwrap(),
        }
    }
    let (peer, error) = within(told.recv()).await.unwrap();
    assert_eq!(peer, Some(http2.local));
    assert!(error.is_lost(), "{error}");
    http2.expect_page().await;
}

#[tokio::test]
async fn a_server_that_ends_says_so_to_each() {
    let (address, handle, served) = serve(|server| server).await;
    let mut http2 = Http2::connect(address).await;
    let (mut one, _) = http2.open(websocket()).await;
    let (mut other, _) = http2.open(websocket()).await;
    let ending = tokio::spawn(async move { handle.shutdown(Shutdown::new()).await });
    for stream in [&mut one, &mut other] {
        assert_eq!(stream.expect_close().await.0, 1001);
        let close = stream.frame(0x88, 1001_u16.to_be_bytes());
        stream.send(close).await;
        stream.expect_end().await;
    }
    let farewell: Farewell = within(ending).await.unwrap();
    assert_eq!(farewell.connections.len(), 2);
    for departed in &farewell.connections {
        assert_eq!(departed.peer, Some(http2.local));
        let ended = departed.ended.as_ref().unwrap();
        assert!(matches!(ended, Ended::ByUs(_)), "{ended:?}");
    }
    within(served).await.unwrap().unwrap();
    // RFC 9113 §6.8.
    within(http2.connection).await.unwrap().unwrap();
}

/// A connection without a request is ended; one with a WebSocket on it has a use.
#[tokio::test]
async fn a_socket_keeps_its_connection() {
    let (address, ..) = serve(|server| server.http_keep_alive(Duration::from_millis(20))).await;
    let mut http2 = Http2::connect(address).await;
    let (mut stream, _) = http2.open(websocket()).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    stream.expect_echo("text").await;
    stream.send_close(1000, "").await;
    stream.expect_close().await;
    stream.expect_end().await;
    let _ = within(&mut http2.connection).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_lost_takes_its_sockets_along() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let telling =
        |server: Server| server.on_error(move |_, error| tell.send(error.clone()).unwrap());
    let (address, ..) = serve(telling).await;
    let mut http2 = Http2::connect(address).await;
    let (mut one, _) = http2.open(websocket()).await;
    let (mut other, _) = http2.open(websocket()).await;
    one.expect_echo("text").await;
    other.expect_echo("text").await;
    http2.tcp.shutdown(std::net::Shutdown::Both).unwrap();
    for _ in 0..2 {
        let error = within(told.recv()).await.unwrap();
        assert!(error.is_lost(), "{error}");
    }
}

/// RFC 6455 §5.1 holds on streams too: what a client sends is masked.
#[tokio::test]
async fn a_broken_rule_ends_one_socket_alone() {
    let (address, ..) = serve(|server| server).await;
    let mut http2 = Http2::connect(address).await;
    let (mut one, _) = http2.open(websocket()).await;
    let (mut other, _) = http2.open(websocket()).await;
    one.send(frame(0x81, false, b"not masked")).await;
    assert_eq!(one.expect_close().await.0, 1002);
    one.expect_end().await;
    other.expect_echo("text").await;
}

/// The decision is made in a task of the connection, as with one that has a socket to itself.
mod a_decision {
    use super::*;

    fn undecided() -> (Acceptor, mpsc::UnboundedReceiver<()>) {
        let (begin, begun) = mpsc::unbounded_channel();
        let acceptor = Acceptor::new().handshake_timeout(Duration::from_secs(60));
        let acceptor = acceptor.on_request(move |request| {
            let is_known = request.path() == "/known";
            begin.send(()).unwrap();
            async move {
                if !is_known {
                    pending::<()>().await;
                }
                Ok::<_, Refusal>(sockeye::server::Answer::new())
            }
        });
        (acceptor, begun)
    }

    /// What is asked of it and not awaited.
    fn ask(http2: &mut Http2) -> JoinHandle<hyper::Result<Response<Incoming>>> {
        tokio::spawn(
            http2
                .ask
                .send_request(websocket().body(Empty::new()).unwrap()),
        )
    }

    #[tokio::test]
    async fn does_not_hold_up_the_end() {
        let (acceptor, mut begun) = undecided();
        let (address, handle, served) = serve(|server| server.acceptor(acceptor)).await;
        let mut http2 = Http2::connect(address).await;
        let asking = ask(&mut http2);
        begun.recv().await.unwrap();
        let begin = std::time::Instant::now();
        let farewell = within(handle.shutdown(Shutdown::new())).await;
        assert!(begin.elapsed() < Duration::from_secs(4), "{farewell}");
        assert_eq!(farewell.handshakes_cut, 1, "{farewell}");
        within(served).await.unwrap().unwrap();
        // It was answered where that could still go out.
        if let Ok(answer) = within(asking).await.unwrap() {
            assert_eq!(answer.status(), 503);
        }
    }

    /// A bug: only a new connection had it given up, and sockets over HTTP/2 were all refused meanwhile.
    #[tokio::test]
    async fn keeps_no_stream_out_once_it_has_had_its_time() {
        let (acceptor, mut begun) = undecided();
        let (tell, mut told) = mpsc::unbounded_channel();
        let (address, ..) = serve(|server| {
            let server = server.acceptor(acceptor).max_handshakes(1);
            server.on_error(move |peer, error| tell.send((peer, error.clone())).unwrap())
        })
        .await;
        let mut http2 = Http2::connect(address).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        let request = crate::http::with("nothing", "");
        slow.write_all(request.as_bytes()).await.unwrap();
        within(begun.recv()).await.unwrap();
        let known = || connect("http://peer/known").header("sec-websocket-version", "13");
        within(async {
            while http2.send(known()).await.unwrap().status() != 200 {
                let (peer, error) = told.recv().await.unwrap();
                assert_eq!(peer, Some(http2.local), "{error}");
            }
        })
        .await;
        let (peer, error) = told.recv().await.unwrap();
        assert_eq!(peer, Some(slow.local_addr().unwrap()));
        assert!(error.is_limit(), "{error}");
        let read = within(slow.read(&mut [0])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        let (mut stream, _) = http2.open(known()).await;
        stream.expect_echo("text").await;
    }

    /// It went on, and its client was not answered.
    #[tokio::test]
    async fn is_given_up_for_a_newer_one() {
        let (acceptor, mut begun) = undecided();
        let (tell, mut told) = mpsc::unbounded_channel();
        let (address, ..) = serve(|server| {
            let server = server.acceptor(acceptor).max_handshakes(1);
            server.on_error(move |_, error| tell.send(error.clone()).unwrap())
        })
        .await;
        let mut http2 = Http2::connect(address).await;
        let asking = ask(&mut http2);
        begun.recv().await.unwrap();
        // Who asks beside it is told at once.
        let (answer, _) = http2.refused(websocket()).await;
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        assert!(matches!(told.recv().await.unwrap(), Error::Limit { .. }));
        // Another connection has to wait for room, until this one has had its time.
        Http2::connect(address).await;
        let answer = within(asking).await.unwrap().unwrap();
        assert_eq!(answer.status(), 503);
        let error = told.recv().await.unwrap();
        let limit = Limit::Handshakes;
        assert!(
            matches!(error, Error::Limit { limit: it, .. } if it == limit),
            "{error}"
        );
        let (mut stream, _) = http2
            .open(connect("http://peer/known").header("sec-websocket-version", "13"))
            .await;
        stream.expect_echo("text").await;
        assert!(told.try_recv().is_err());
    }
}

/// What hyper holds of a socket that was given up was counted nowhere: a client could pile it up.
#[tokio::test]
async fn who_takes_nothing_of_many_sockets_is_cut_off() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let server = server.router(pages()).websockets_over_http2(true);
    tokio::spawn(server.serve(async |mut socket| {
        // It has gone to hyper, which cannot send it.
        socket.send(vec![7; 1000]).await?;
        let mute = Duration::from_millis(10);
        let _ = tokio::time::timeout(mute, pending::<()>()).await;
        panic!("as a handler may");
    }));
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let opened = builder.initial_window_size(0).handshake::<_, Bytes>(tcp);
    let (ask, mut connection) = opened.await.unwrap();
    let mut ping = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    // The server's settings come before it.
    ping.ping(h2::Ping::opaque()).await.unwrap();
    let mut streams = Vec::new();
    for number in 0..200 {
        let Ok(mut ask) = ask.clone().ready().await else {
            assert!(number > 10, "{number}");
            break;
        };
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri("http://peer/")
            .header("sec-websocket-version", "13")
            .extension(h2::ext::Protocol::from_static("websocket"));
        match ask.send_request(request.body(()).unwrap(), false) {
            Ok((answer, send)) => streams.push((within(answer).await, send)),
            Err(_) => break,
        }
    }
    let _ = within(connection).await.unwrap();
}

#[tokio::test]
async fn a_server_that_ends_opens_no_more() {
    let (address, handle, _) = serve(|server| server).await;
    let mut http2 = Http2::connect(address).await;
    let (mut stream, _) = http2.open(websocket()).await;
    let ending = tokio::spawn(async move { handle.shutdown(Shutdown::new()).await });
    assert_eq!(stream.expect_close().await.0, 1001);
    match http2.send(websocket()).await {
        Ok(answer) => assert_eq!(answer.status(), 503),
        // It has heard already that no more are taken (RFC 9113 §6.8).
        Err(error) => assert!(!error.is_user(), "{error}"),
    }
    drop(stream);
    within(ending).await.unwrap();
}

mod in_an_application {
    use super::*;
    use hyper::server::conn::http2 as server;
    use hyper_util::service::TowerToHyperService;
    use sockeye::axum::WebSocketUpgrade;
    use tokio::net::TcpListener;

    /// RFC 8441 §4: the method is CONNECT, so that the route is for any.
    #[tokio::test]
    async fn the_extractor_takes_streams() {
        let app = Router::new().route("/", get(async || "a page")).route(
            "/socket",
            any(async |upgrade: WebSocketUpgrade| {
                upgrade.protocols(["chat"]).on_upgrade(async |mut socket| {
                    while let Some(message) = socket.recv().await? {
                        socket.send(message).await?;
                    }
                    Ok(())
                })
            }),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let served = server::Builder::new(TokioExecutor::new())
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(tcp), TowerToHyperService::new(app));
            served.await.unwrap();
        });
        let mut http2 = Http2::connect(address).await;
        let request = websocket().header("sec-websocket-protocol", "chat");
        let (mut stream, answer) = http2.open(request).await;
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        stream.expect_echo("text").await;
        stream.send_close(1000, "").await;
        stream.expect_close().await;
        stream.expect_end().await;
        http2.expect_page().await;
    }
}

/// The client of this crate.
mod with_our_client {
    use std::sync::Arc;

    use super::*;
    use sockeye::{
        Client, CloseCode, Deadline,
        client::{ClientTls, Http2},
        proto::handshake::HandshakeError,
        server::ServerTls,
    };
    use tokio::sync::Notify;

    fn client(address: SocketAddr, path: &str) -> Client {
        Client::new(format!("ws://{address}{path}")).no_proxy()
    }

    async fn connect(address: SocketAddr) -> Http2 {
        within(Http2::connect(&client(address, "/"))).await.unwrap()
    }

    #[tokio::test]
    async fn many_sockets_on_one_connection() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let acceptor = Acceptor::new()
            .subprotocol("chat")
            .on_request(move |request| {
                tell.send((request.path().to_owned(), request.peer_addr()))
                    .unwrap();
                async { Ok::<_, Refusal>(sockeye::server::Answer::new().header("X-Answer", "yes")) }
            });
        let (address, handle, served) = serve(|server| server.acceptor(acceptor)).await;
        let http2 = connect(address).await;
        assert_eq!(http2.peer_addr(), Some(address));
        let mut sockets = Vec::new();
        for number in 0..20 {
            let client = client(address, &format!("/{number}")).subprotocol("chat");
            let mut socket = within(http2.open(&client)).await.unwrap();
            assert_eq!(socket.subprotocol(), Some("chat"));
            assert_eq!(socket.peer_addr(), Some(address));
            let response = socket.response().unwrap();
            assert_eq!(response.status(), 200);
            assert_eq!(response.headers().first_str("X-Answer"), Some("yes"));
            socket.send(format!("{number}")).await.unwrap();
            sockets.push(socket);
        }
        let peers: Vec<_> = (0..20).map(|_| told.try_recv().unwrap()).collect();
        for (number, (path, peer)) in peers.iter().enumerate() {
            assert_eq!((path, peer), (&format!("/{number}"), &peers[0].1));
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            let message = within(socket.recv()).await.unwrap().unwrap();
            assert_eq!(message, *format!("{number}"));
        }
        let mut last = sockets.pop().unwrap();
        within(last.close(CloseCode::NORMAL, "bye")).await.unwrap();
        assert!(
            matches!(last.ended(), Some(Ended::ByUs(_))),
            "{:?}",
            last.ended()
        );
        // Without a use the connection ends, and so can the server.
        drop((http2, sockets, last));
        within(handle.shutdown(Shutdown::new())).await;
        within(served).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_message_of_any_size_passes_both_ways_compressed_too() {
        let (address, ..) = serve(|server| server).await;
        let http2 = connect(address).await;
        for deflate in [None, sockeye::DeflateConfig::available()] {
            let mut socket = within(http2.open(&client(address, "/").deflate(deflate)))
                .await
                .unwrap();
            for len in [0, 1, 70_000, 5 << 20] {
                let text: String = (0..len)
                    .map(|at| char::from(b'a' + (at % 23) as u8))
                    .collect();
                let echoed = async {
                    socket.send(text.clone()).await.unwrap();
                    socket.recv().await.unwrap().unwrap()
                };
                assert!(within(echoed).await == *text, "{len} {deflate:?}");
            }
        }
    }

    #[tokio::test]
    async fn whom_a_server_does_not_read_holds_up_nobody_else() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.router(pages()).websockets_over_http2(true);
        tokio::spawn(server.serve(async |mut socket| {
            if socket.request().unwrap().path() == "/deaf" {
                pending::<()>().await;
            }
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
        let http2 = connect(address).await;
        let mut deaf = Vec::new();
        for _ in 0..8 {
            let client = client(address, "/deaf").deflate(None);
            let mut socket = within(http2.open(&client)).await.unwrap();
            let flood = async { while socket.send(vec![7; 100_000]).await.is_ok() {} };
            let flooded = tokio::time::timeout(Duration::from_millis(100), flood).await;
            assert!(flooded.is_err(), "all of it was read");
            deaf.push(socket);
        }
        let mut other = within(http2.open(&client(address, "/"))).await.unwrap();
        for _ in 0..100 {
            other.send("text").await.unwrap();
            assert_eq!(within(other.recv()).await.unwrap().unwrap(), "text");
        }
    }

    /// Each has a window of its own.
    #[tokio::test]
    async fn who_does_not_read_holds_up_nobody_else() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.router(pages()).websockets_over_http2(true);
        tokio::spawn(server.serve(async |mut socket| {
            if socket.request().unwrap().path() == "/flood" {
                loop {
                    socket.send(vec![7; 100_000]).await?;
                }
            }
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
        let http2 = connect(address).await;
        let flooded = within(http2.open(&client(address, "/flood")))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let mut other = within(http2.open(&client(address, "/"))).await.unwrap();
        for _ in 0..100 {
            other.send("text").await.unwrap();
            assert_eq!(within(other.recv()).await.unwrap().unwrap(), "text");
        }
        drop(flooded);
        other.send("still").await.unwrap();
        assert_eq!(within(other.recv()).await.unwrap().unwrap(), "still");
    }

    /// h2 has a budget for unread frames of few bytes, and ended the connection after some 2,000.
    #[tokio::test]
    async fn small_messages_that_nobody_reads_end_nothing() {
        const COUNT: usize = 20_000;
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.router(pages()).websockets_over_http2(true);
        tokio::spawn(server.serve(async |mut socket| {
            match socket.request().unwrap().path() {
                "/deaf" => pending::<()>().await,
                "/flood" => {
                    for _ in 0..COUNT {
                        socket.send("x").await?;
                        // Each is written by itself.
                        tokio::task::yield_now().await;
                    }
                }
                _ => {}
            }
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
        let http2 = connect(address).await;
        let mut other = within(http2.open(&client(address, "/"))).await.unwrap();
        let mut deaf = within(http2.open(&client(address, "/deaf"))).await.unwrap();
        let mut flooded = within(http2.open(&client(address, "/flood")))
            .await
            .unwrap();
        let flood = async {
            for _ in 0..COUNT {
                deaf.send("x").await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(2), flood).await;
        other.send("text").await.unwrap();
        assert_eq!(within(other.recv()).await.unwrap().unwrap(), "text");
        for _ in 0..COUNT {
            assert_eq!(within(flooded.recv()).await.unwrap().unwrap(), "x");
        }
    }

    /// What it waited with was kept from all others of the connection, for as long as it was not used.
    #[tokio::test]
    async fn a_message_that_was_given_up_holds_up_nobody_else() {
        let read = Arc::new(Notify::new());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let begin = read.clone();
        // A server with the standard's window for the connection, which is less than a message.
        tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut builder = h2::server::Builder::new();
            builder.enable_connect_protocol();
            let mut connection = builder.handshake::<_, Bytes>(tcp).await.unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let begin = begin.clone();
                tokio::spawn(async move {
                    let mut send = respond.send_response(Response::new(()), false).unwrap();
                    let is_late = request.uri().path() == "/late";
                    let mut receive = request.into_body();
                    if is_late {
                        begin.notified().await;
                    }
                    let mut received = 0;
                    while let Some(Ok(data)) = receive.data().await {
                        received += data.len();
                        let _ = receive.flow_control().release_capacity(data.len());
                        if received > 1_000_000 {
                            send.send_data(frame(0x81, false, b"much").into(), false)
                                .unwrap();
                            received = 0;
                        }
                    }
                });
            }
        });
        let http2 = connect(address).await;
        let open = async |path| {
            let client = client(address, path).deflate(None);
            within(http2.open(&client)).await.unwrap()
        };
        let (mut late, mut given_up, mut other) =
            (open("/late").await, open("/a").await, open("/b").await);
        // All of the window goes to one that is not read, and another waits for it.
        for socket in [&mut late, &mut given_up] {
            let sent = async {
                for _ in 0..40 {
                    socket.send(vec![7; 100_000]).await.unwrap();
                }
            };
            let sent = tokio::time::timeout(Duration::from_millis(100), sent).await;
            assert!(sent.is_err());
        }
        read.notify_one();
        let sent = async {
            for _ in 0..20 {
                other.send(vec![7; 100_000]).await.unwrap();
            }
            other.recv().await.unwrap().unwrap()
        };
        assert_eq!(within(sent).await, "much");
    }

    /// h2 resets a stream that is dropped, and what it holds of it was lost.
    #[tokio::test]
    async fn what_was_sent_arrives_though_the_socket_is_dropped() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.router(pages()).websockets_over_http2(true);
        tokio::spawn(server.serve(move |mut socket| {
            let tell = tell.clone();
            async move {
                while let Ok(Some(message)) = socket.recv().await {
                    tell.send(message.len()).unwrap();
                }
                tell.send(0).unwrap();
                Ok(())
            }
        }));
        for count in [1, 5] {
            let http2 = connect(address).await;
            let mut socket = within(http2.open(&client(address, "/"))).await.unwrap();
            for _ in 0..count {
                socket.send("x".repeat(20_000)).await.unwrap();
            }
            drop((http2, socket));
            for _ in 0..count {
                assert_eq!(within(told.recv()).await.unwrap(), 20_000);
            }
            assert_eq!(within(told.recv()).await.unwrap(), 0);
        }
    }

    /// What comes on a stream of h2's, and what is sent there.
    type Halves = (h2::RecvStream, h2::SendStream<Bytes>);

    /// A server that opens the first stream that it is asked for, and its connection.
    async fn opened_by_h2(listener: TcpListener) -> (Halves, JoinHandle<()>) {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::Builder::new()
            .enable_connect_protocol()
            .handshake::<_, Bytes>(tcp)
            .await
            .unwrap();
        let (request, mut answer) = connection.accept().await.unwrap().unwrap();
        let driven = tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let stream = answer.send_response(Response::new(()), false).unwrap();
        ((request.into_body(), stream), driven)
    }

    /// RFC 6455 §7.4.1: 1000.
    const CLOSE: Bytes = Bytes::from_static(b"\x88\x02\x03\xE8");

    /// A bug: the stream was reset where its server had ended it, and what was sent lost, the answer to the Close too.
    #[tokio::test]
    async fn what_was_sent_arrives_though_the_server_ends_its_side_with_its_close() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let ((mut body, mut stream), driven) = opened_by_h2(listener).await;
            stream.send_data(CLOSE, true).unwrap();
            let mut came = 0;
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                came += data.len();
            }
            driven.await.unwrap();
            came
        });
        let http2 = connect(address).await;
        let mut socket = within(http2.open(&client(address, "/"))).await.unwrap();
        socket.send("text").await.unwrap();
        assert!(within(socket.recv()).await.unwrap().is_none());
        drop((http2, socket));
        // A text of four bytes, and a Close with a code.
        assert_eq!(within(served).await.unwrap(), 6 + 4 + 6 + 2);
    }

    /// It would stay with the connection.
    #[tokio::test]
    async fn what_a_server_that_has_ended_gives_no_room_for_is_reset() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let ((mut body, mut stream), _) = opened_by_h2(listener).await;
            let mut came = 0;
            loop {
                match body.data().await.unwrap() {
                    Ok(data) => came += data.len(),
                    Err(error) => break error.reason(),
                }
                // All that there was room for, by default (RFC 9113 §6.9.2).
                if came == 65_535 {
                    stream.send_data(CLOSE, true).unwrap();
                }
            }
        });
        let http2 = connect(address).await;
        let client = client(address, "/").deflate(None);
        let client = client.close_timeout(Duration::from_millis(100));
        let mut socket = within(http2.open(&client)).await.unwrap();
        // With its header it is one byte more.
        socket.send(vec![0; 65_528]).await.unwrap();
        let _ = within(socket.recv()).await;
        drop(socket);
        // The connection goes on.
        let reset = within(served).await.unwrap();
        assert_eq!(reset, Some(h2::Reason::CANCEL));
        drop(http2);
    }

    /// A bug: without TLS it was looked for all the same.
    #[tokio::test]
    async fn what_is_wrong_about_tls_is_so_with_tls_alone() {
        let [one, other] = ["one", "other"]
            .map(|name| rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap());
        let key = other.signing_key.serialize_pem();
        let tls = ClientTls::new()
            .certificate_pem(one.cert.pem().as_bytes(), key.as_bytes())
            .unwrap();
        let (address, ..) = serve(|server| server).await;
        within(Http2::connect(&client(address, "/").tls(tls.clone())))
            .await
            .unwrap();
        let url = format!("wss://{address}/");
        let secure = Client::new(url).no_proxy().tls(tls);
        let error = within(Http2::connect(&secure)).await.unwrap_err();
        assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
    }

    /// More at once than may wait for a client that takes nothing.
    #[tokio::test]
    async fn many_that_are_dropped_together_end_nothing_else() {
        let (address, ..) = serve(|server| server).await;
        let http2 = connect(address).await;
        let mut other = within(http2.open(&client(address, "/"))).await.unwrap();
        let mut many = Vec::new();
        for _ in 0..60 {
            many.push(within(http2.open(&client(address, "/"))).await.unwrap());
        }
        drop(many);
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            other.send("text").await.unwrap();
            assert_eq!(within(other.recv()).await.unwrap().unwrap(), "text");
        }
    }

    #[tokio::test]
    async fn a_server_that_has_not_announced_it_is_told_apart() {
        let (address, ..) = serve(|server| server.websockets_over_http2(false)).await;
        let error = within(Http2::connect(&client(address, "/")))
            .await
            .unwrap_err();
        let Error::Handshake(HandshakeError::ExtendedConnect) = error.cause() else {
            panic!("{error:?}");
        };
        assert!(
            error
                .to_string()
                .contains("no WebSockets over this version of HTTP"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_is_no_http_2_is_told_apart() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.serve(async |_| Ok(())));
        let error = within(Http2::connect(&client(address, "/")))
            .await
            .unwrap_err();
        assert!(error.is_lost(), "{error:?}");
        let said = error.to_string();
        assert!(said.contains("may not speak HTTP/2"), "{said}");
    }

    /// What the client is told where the server decides so.
    async fn refused_with(refusal: Refusal) -> Error {
        let acceptor = Acceptor::new().on_request(move |_| {
            std::future::ready(Err::<sockeye::server::Answer, _>(refusal.clone()))
        });
        let (address, ..) = serve(|server| server.acceptor(acceptor)).await;
        let http2 = connect(address).await;
        within(http2.open(&client(address, "/"))).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_words() {
        let error = refused_with(Refusal::new(403, "not you\n")).await;
        let Error::Handshake(HandshakeError::Status(response)) = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(
            (response.status(), response.body()),
            (403, &b"not you\n"[..])
        );
        let told = error.to_string();
        assert!(told.contains("403 Forbidden instead of 200 OK"), "{told}");
    }

    /// A bug: any status of 2xx opens a stream (RFC 8441 §5), and a socket was told to be open and then lost.
    #[tokio::test]
    async fn a_refusal_of_2xx_opens_nothing() {
        let error = refused_with(Refusal::new(200, "nothing here\n")).await;
        let response = error.response().unwrap();
        assert_eq!(
            (response.status(), response.body()),
            (500, &b"nothing here\n"[..])
        );
    }

    #[tokio::test]
    async fn a_socket_of_another_server_is_not_opened_here() {
        let (address, ..) = serve(|server| server).await;
        let http2 = connect(address).await;
        for url in ["ws://127.0.0.1:1/", "wss://127.0.0.1/", "ws://localhost/"] {
            let error = within(http2.open(&Client::new(url))).await.unwrap_err();
            assert!(error.is_user(), "{error:?}");
            assert!(error.to_string().contains("another server"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_request_is_shown_before_it_is_sent() {
        let (address, ..) = serve(|server| server).await;
        let http2 = connect(address).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let client = client(address, "/a?b=c")
            .deflate(None)
            .header("X-Name", "value")
            .inspect_request(move |head| tell.send(head.to_vec()).unwrap());
        within(http2.open(&client)).await.unwrap();
        let shown = String::from_utf8(told.recv().await.unwrap()).unwrap();
        let expected = format!(
            "CONNECT http://{address}/a?b=c HTTP/2\r\n:protocol: websocket\r\n\
             sec-websocket-version: 13\r\nx-name: value\r\n\r\n"
        );
        assert_eq!(shown, expected);
    }

    /// Dropping what opens a socket gives up its stream alone.
    #[tokio::test]
    async fn a_server_that_does_not_decide_is_given_up() {
        let acceptor = Acceptor::new().on_request(async |request| {
            if request.path() == "/never" {
                pending::<()>().await;
            }
            Ok::<_, Refusal>(sockeye::server::Answer::new())
        });
        let (address, ..) = serve(|server| server.acceptor(acceptor)).await;
        let http2 = connect(address).await;
        let never = client(address, "/never").handshake_timeout(Duration::from_millis(50));
        let error = within(http2.open(&never)).await.unwrap_err();
        assert!(
            matches!(error.cause(), Error::Timeout(Deadline::Handshake)),
            "{error:?}"
        );
        let mut socket = within(http2.open(&client(address, "/"))).await.unwrap();
        socket.send("text").await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap().unwrap(), "text");
    }

    #[tokio::test]
    async fn a_server_that_goes_away_takes_all_along() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.router(pages()).websockets_over_http2(true);
        let begun = Arc::new(Notify::new());
        let begin = begun.clone();
        let served = tokio::spawn(server.serve(move |mut socket| {
            begin.notify_one();
            async move { socket.recv().await.map(drop) }
        }));
        let http2 = connect(address).await;
        let mut socket = within(http2.open(&client(address, "/"))).await.unwrap();
        begun.notified().await;
        // It says goodbye where it can.
        served.abort();
        let ended = within(socket.recv()).await;
        assert!(!matches!(ended, Ok(Some(_))), "{ended:?}");
        let error = within(async {
            loop {
                if let Err(error) = http2.open(&client(address, "/")).await {
                    break error;
                }
            }
        });
        let error = error.await;
        assert!(error.is_lost(), "{error:?}");
    }

    #[tokio::test]
    async fn with_tls_http_2_is_chosen_or_nothing() {
        let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let certificate = key.cert.pem();
        let secret = key.signing_key.serialize_pem();
        let tls = || ServerTls::from_pem(certificate.as_bytes(), secret.as_bytes()).unwrap();
        let trust = ClientTls::new().ca_pem(certificate.as_bytes()).unwrap();
        let client = |address: SocketAddr| {
            let url = format!("wss://localhost:{}/", address.port());
            Client::new(url).no_proxy().tls(trust.clone())
        };

        let (address, ..) = serve(|server| server.acceptor(Acceptor::new().tls(tls()))).await;
        let http2 = within(Http2::connect(&client(address))).await.unwrap();
        let mut socket = within(http2.open(&client(address))).await.unwrap();
        assert_eq!(socket.peer_addr(), Some(address));
        socket.send("text").await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap().unwrap(), "text");
        // The client is one of HTTP/1.1 still.
        let mut socket = within(client(address).connect()).await.unwrap();
        socket.send("text").await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap().unwrap(), "text");

        // Without a service there is no HTTP/2.
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.acceptor(Acceptor::new().tls(tls()));
        tokio::spawn(server.serve(async |_| Ok(())));
        let error = within(Http2::connect(&client(address))).await.unwrap_err();
        assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
    }
}
