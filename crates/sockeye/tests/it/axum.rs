//! Sockets of an axum application and of a server on hyper.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::{ConnectInfo, Request},
    http::StatusCode,
    middleware::{Next, from_fn, map_request, map_response},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use http_body_util::BodyExt;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
    service::TowerToHyperService,
};
use sockeye::{
    Acceptor, Client, Error, Limits, Result, WebSocket,
    axum::{Sockets, WebSocketUpgrade, WebSocketUpgradeRejection},
    server::{Answer, Shutdown},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    time::sleep,
};

use crate::{
    http,
    wire::{Peer, frame, within},
};

/// Says whom the stream inside knows, which a boxed one does not, and then echoes.
async fn echo(mut socket: WebSocket) -> Result<()> {
    let peer = socket.peer_addr().map(|peer| peer.to_string());
    socket.send(peer.unwrap_or("a boxed stream".into())).await?;
    while let Some(message) = socket.recv().await? {
        socket.send(message).await?;
    }
    Ok(())
}

async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

fn app() -> Router {
    Router::new()
        .route(
            "/",
            any(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo)),
        )
        .route("/page", get(async || "a page"))
}

#[tokio::test]
async fn a_socket_beside_ordinary_routes_on_one_connection() {
    let address = serve(app()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let peer = stream.local_addr().unwrap().to_string();
    for _ in 0..2 {
        let answer = http::get(&mut stream, "/page").await;
        assert_eq!((answer.status, &answer.body[..]), (200, "a page"));
    }
    // Its first frames come in the same write as the request.
    let early = [frame(0x81, true, b"one"), frame(0x81, true, b"two")].concat();
    let mut client = within(Peer::client(stream, "", &early)).await;
    client.expect_text(&peer).await;
    client.expect_text("one").await;
    client.expect_text("two").await;
    client.expect_echo("three").await;
    client.send_close(1000, "").await;
    assert_eq!(client.expect_close().await.0, 1000);
    client.expect_end().await;
}

#[tokio::test]
async fn sockets_are_closed_together_and_what_was_accepted_is_answered() {
    let (accepted, mut accepts) = mpsc::unbounded_channel();
    let go_on = Arc::new(Notify::new());
    let gate = go_on.clone();
    let sockets = Sockets::new();
    let open = move |upgrade: WebSocketUpgrade| {
        let (accepted, gate) = (accepted.clone(), gate.clone());
        let response = upgrade.on_upgrade(|mut socket| async move {
            socket.send("open").await?;
            while let Some(message) = socket.recv().await? {
                accepted.send(()).unwrap();
                gate.notified().await;
                socket.send(message).await?;
            }
            Ok(())
        });
        std::future::ready(response)
    };
    let app = Router::new()
        .route("/", get(open))
        .layer(Extension(sockets.clone()));
    let url = format!("ws://{}/", serve(app).await);

    let mut busy = sockeye::connect(&url).await.unwrap();
    assert_eq!(within(busy.recv()).await.unwrap().unwrap(), "open");
    let mut idle = sockeye::connect(&url).await.unwrap();
    assert_eq!(within(idle.recv()).await.unwrap().unwrap(), "open");
    busy.send("a question").await.unwrap();
    within(accepts.recv()).await.unwrap();
    let how = Shutdown::restart().patience(Duration::from_secs(60));
    let all = sockets.clone();
    let ending = tokio::spawn(async move { all.shutdown(how).await });
    assert_eq!(within(idle.recv()).await.unwrap(), None);
    assert_eq!(idle.ended().unwrap().code(), 1012);
    let newcomer = within(sockeye::connect(&url)).await.unwrap_err();
    let answer = newcomer.response().unwrap();
    assert_eq!(answer.status(), 503, "{newcomer}");
    assert_eq!(answer.headers().first_str("Retry-After"), Some("1"));
    go_on.notify_one();
    assert_eq!(within(busy.recv()).await.unwrap().unwrap(), "a question");
    assert_eq!(within(busy.recv()).await.unwrap(), None);
    assert_eq!(busy.ended().unwrap().code(), 1012);
    let farewell = within(ending).await.unwrap();
    assert_eq!((farewell.closed(), farewell.connections.len()), (2, 2));

    // A request that was on its way meanwhile opens none that nobody would close.
    let late = within(sockeye::connect(&url)).await.unwrap_err();
    assert_eq!(late.response().unwrap().status(), 503, "{late}");
    let farewell = within(sockets.shutdown(Shutdown::new())).await;
    assert!(farewell.connections.is_empty());
}

/// As long as it does not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_application_lets_many_in_at_a_time() {
    let sockets = Sockets::new();
    let route = get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo));
    let app = Router::new()
        .route("/", route)
        .layer(Extension(sockets.clone()));
    let url = format!("ws://{}/", serve(app).await);
    let clients = (0..16).map(|_| {
        let url = url.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                within(sockeye::connect(&url)).await.unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn section_4_2_what_is_wrong_with_a_request_is_said() {
    let address = serve(app()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let wrongs = [
        (
            http::with("Upgrade", ""),
            426,
            "must say websocket",
            "upgrade: websocket",
        ),
        (http::with("Connection", ""), 400, "must say upgrade", ""),
        (
            http::with("Sec-WebSocket-Key", ""),
            400,
            "key is missing",
            "",
        ),
        (
            http::with("Sec-WebSocket-Key", "Sec-WebSocket-Key: short\r\n"),
            400,
            "16 bytes",
            "",
        ),
        (
            http::with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8\r\n"),
            426,
            "not 8",
            "sec-websocket-version: 13",
        ),
        (
            http::with("nothing", "Sec-WebSocket-Protocol: a, a\r\n"),
            400,
            "distinct tokens",
            "",
        ),
        (
            http::with("nothing", "Host: other\r\n"),
            400,
            "more than once",
            "",
        ),
        (
            http::with("nothing", "").replace("GET", "POST"),
            405,
            "with get, not post",
            "allow: get",
        ),
    ];
    for (request, status, words, header) in wrongs {
        let answer = within(http::ask(&mut stream, &request)).await;
        assert_eq!(answer.status, status, "{request}{answer:?}");
        assert!(answer.body.to_lowercase().contains(words), "{answer:?}");
        assert!(answer.head.contains(header), "{answer:?}");
        // RFC 9110 §7.8.
        let names = answer.head.contains("\r\nconnection: upgrade\r\n");
        assert_eq!(names, status == 426, "{answer:?}");
    }
    // The connection is still good.
    within(Peer::client(stream, "", b"")).await;
}

#[tokio::test]
async fn the_servers_favourite_subprotocol_is_chosen() {
    let route = get(async |upgrade: WebSocketUpgrade| {
        assert_eq!(
            upgrade.requested_protocols().collect::<Vec<_>>(),
            ["a", "b"]
        );
        assert_eq!(upgrade.origin(), None);
        let upgrade = upgrade.protocols(["x", "b"]).protocols([String::from("a")]);
        assert_eq!(upgrade.selected_protocol(), Some("b"));
        upgrade.on_upgrade(echo)
    });
    let address = serve(Router::new().route("/", route)).await;
    let client = Client::new(format!("ws://{address}/")).subprotocol("a");
    let socket = within(client.subprotocol("b").connect()).await.unwrap();
    assert_eq!(socket.subprotocol(), Some("b"));
}

/// Each adds to those before, and what a later one has goes before what an earlier one has.
#[tokio::test]
async fn what_the_acceptor_and_the_handler_answer_is_all_answered() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().on_request(async |_| {
        let answer = Answer::new().header("Set-Cookie", "acceptor=1");
        Ok(answer.state("the acceptor's").subprotocol("a"))
    });
    let route = get(async move |upgrade: WebSocketUpgrade| {
        let first = Answer::new().header("Set-Cookie", "first=1").state(7);
        let upgrade = upgrade.answer(first).acceptor(acceptor.clone()).await?;
        let upgrade = upgrade
            .answer(Answer::new().header("Set-Cookie", "second=1"))
            .answer(Answer::new().header("X-Third", "1"));
        Ok::<_, WebSocketUpgradeRejection>(upgrade.on_upgrade(async move |socket| {
            let socket: WebSocket = socket;
            let _ = tell.send(socket.state::<&str>().copied());
        }))
    });
    let address = serve(Router::new().route("/", route)).await;
    let client = Client::new(format!("ws://{address}/")).subprotocol("b");
    let socket = within(client.subprotocol("a").connect()).await.unwrap();
    let headers = socket.response().unwrap().headers();
    let added = headers.iter().filter(|(name, _)| *name == "set-cookie");
    let cookies: Vec<_> = added.map(|(_, value)| value).collect();
    assert_eq!(cookies, [&b"first=1"[..], b"acceptor=1", b"second=1"]);
    assert_eq!(headers.first_str("X-Third"), Some("1"));
    assert_eq!(socket.subprotocol(), Some("a"));
    let remembered = within(told.recv()).await.unwrap();
    assert_eq!(remembered, Some("the acceptor's"));
}

#[tokio::test]
async fn limits_hold_and_compression_is_agreed() {
    let route = get(async |upgrade: WebSocketUpgrade| {
        // A handler may return nothing.
        upgrade.max_message_size(10).on_upgrade(async |socket| {
            let mut socket: WebSocket = socket;
            assert!(socket.recv().await.unwrap_err().is_protocol());
        })
    });
    let address = serve(Router::new().route("/", route)).await;
    let mut socket = within(sockeye::connect(format!("ws://{address}/")))
        .await
        .unwrap();
    assert_eq!(socket.extensions().is_empty(), !cfg!(feature = "deflate"));
    socket.send("eleven bytes").await.unwrap();
    assert!(within(socket.recv()).await.unwrap().is_none());
    assert!(
        socket.ended().unwrap().to_string().contains("1009"),
        "{socket:?}"
    );
}

/// What a frame may be follows from what a message may be, unless it was set too, before or after.
#[tokio::test]
async fn a_message_may_be_larger_than_by_default() {
    const LARGE: usize = 20 << 20;
    let large =
        get(async |upgrade: WebSocketUpgrade| upgrade.max_message_size(LARGE).on_upgrade(echo));
    let framed = get(async |upgrade: WebSocketUpgrade| {
        let upgrade = upgrade.max_frame_size(1000).max_message_size(LARGE);
        upgrade.on_upgrade(echo)
    });
    let app = Router::new()
        .route("/large", large)
        .route("/framed", framed);
    let address = serve(app).await;
    let connect = async |path| {
        let client = Client::new(format!("ws://{address}{path}")).deflate(None);
        let client = client.limits(Limits::default().message(LARGE));
        let mut socket = within(client.connect()).await.unwrap();
        within(socket.recv()).await.unwrap().unwrap();
        socket
    };
    let mut socket = connect("/large").await;
    let (sender, message) = (socket.sender(), vec![7; LARGE]);
    let (sent, echoed) = tokio::join!(sender.send(message), within(socket.recv()));
    sent.unwrap();
    assert_eq!(echoed.unwrap().unwrap().len(), LARGE);
    let mut socket = connect("/framed").await;
    socket.send(vec![7; 1001]).await.unwrap();
    assert!(within(socket.recv()).await.unwrap().is_none());
    assert_eq!(socket.ended().unwrap().code(), 1009);
}

#[tokio::test]
async fn a_handlers_error_closes_with_1011() {
    let route = get(async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(|_| async { Err(Error::other("no such room")) })
    });
    let address = serve(Router::new().route("/", route)).await;
    let stream = TcpStream::connect(address).await.unwrap();
    let mut client = within(Peer::client(stream, "", b"")).await;
    assert_eq!(client.expect_close().await.0, 1011);
}

#[tokio::test]
async fn a_response_that_is_replaced_is_told_of_after_the_handshake_timeout() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let route = get(async move |upgrade: WebSocketUpgrade| {
        let soon = Acceptor::new().handshake_timeout(Duration::from_millis(50));
        let tell = move |error| drop(tell.send(error));
        let upgrade = upgrade
            .acceptor(soon)
            .await
            .unwrap()
            .on_failed_upgrade(tell);
        upgrade.on_upgrade(echo)
    });
    async fn replace(request: Request, next: Next) -> Response {
        drop(next.run(request).await);
        StatusCode::PAYMENT_REQUIRED.into_response()
    }
    let app = Router::new().route("/", route).layer(from_fn(replace));
    let address = serve(app).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = within(http::ask(&mut stream, &http::with("nothing", ""))).await;
    assert_eq!(answer.status, 402);
    let error = within(told.recv()).await.unwrap();
    assert!(error.is_timeout(), "{error:?}");
}

/// They put its body into bodies of their own, or drop it.
#[tokio::test]
async fn a_response_that_passes_through_layers_opens_the_socket() {
    async fn pass(request: Request, next: Next) -> Response {
        next.run(request).await
    }
    async fn read(response: Response) -> Response {
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, usize::MAX).await.unwrap();
        Response::from_parts(head, Body::from(bytes))
    }
    async fn wrap(response: Response) -> Response {
        response.map(|body| Body::new(body.map_err(io::Error::other).boxed_unsync()))
    }
    async fn drop_body(response: Response) -> Response {
        response.map(|_| Body::empty())
    }
    let layers = [
        app().layer(map_response(drop_body)),
        app().layer(from_fn(pass)),
        app().layer(map_response(wrap)),
        app().layer(map_response(read)),
        app().layer(map_response(wrap)).layer(from_fn(pass)),
    ];
    for app in layers {
        let stream = TcpStream::connect(serve(app).await).await.unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        let mut client = within(Peer::client(stream, "", b"")).await;
        client.expect_text(&peer).await;
        client.expect_echo("through").await;
    }
}

#[tokio::test]
async fn a_request_that_somebody_else_upgrades_is_refused() {
    let route = get(async |first: WebSocketUpgrade, second: WebSocketUpgrade| {
        drop(first);
        second.on_upgrade(echo)
    });
    let address = serve(Router::new().route("/", route)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = within(http::ask(&mut stream, &http::with("nothing", ""))).await;
    assert_eq!(answer.status, 500);
    assert!(answer.body.contains("cannot be upgraded"), "{answer:?}");
}

/// A stream that counts what is written to it, a write each.
struct Counted(DuplexStream, Arc<Mutex<Vec<usize>>>);

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.lock().unwrap().push(bytes.len());
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn any_stream_will_do_and_one_poll_is_one_write() {
    let writes = Arc::<Mutex<Vec<usize>>>::default();
    let (client, server) = duplex(1 << 16);
    let io = TokioIo::new(Counted(server, writes.clone()));
    let service = TowerToHyperService::new(app());
    tokio::spawn(
        http1::Builder::new()
            .serve_connection(io, service)
            .with_upgrades(),
    );
    let early: Vec<u8> = (0..10).flat_map(|_| frame(0x81, true, b"abc")).collect();
    let mut client = within(Peer::client(client, "", &early)).await;
    client.expect_text("a boxed stream").await;
    for _ in 0..10 {
        client.expect_text("abc").await;
    }
    let writes = writes.lock().unwrap();
    // The answer; then the greeting and the ten echoes, which all were there to be read.
    assert_eq!(writes[1..], [16 + 10 * 5], "{writes:?}");
}

/// axum waits for the request, and the sockets are not made to wait for axum.
#[tokio::test]
async fn an_application_ends_while_a_request_is_still_coming() {
    let sockets = Sockets::new();
    let route = get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(echo));
    let app = Router::new()
        .route("/", route)
        .layer(Extension(sockets.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (end, ends) = tokio::sync::watch::channel(false);
    let signal = move || {
        let mut ends = ends.clone();
        async move { drop(ends.wait_for(|end| *end).await) }
    };
    let application = tokio::spawn(async move {
        tokio::join!(
            axum::serve(listener, app).with_graceful_shutdown(signal()),
            async {
                signal().await;
                sockets.shutdown(Shutdown::new()).await
            },
        )
    });
    let mut half = TcpStream::connect(address).await.unwrap();
    half.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n")
        .await
        .unwrap();
    let mut socket = sockeye::connect(format!("ws://{address}/")).await.unwrap();
    within(socket.recv()).await.unwrap();
    end.send(true).unwrap();
    assert_eq!(within(socket.recv()).await.unwrap(), None);
    assert_eq!(socket.ended().unwrap().code(), 1001);
    drop(half);
    let (served, farewell) = within(application).await.unwrap();
    served.unwrap();
    assert_eq!(farewell.closed(), 1);
}

/// By default the end allows for as long as the longest close timeout.
#[tokio::test(start_paused = true)]
async fn a_peer_has_its_close_timeout_to_answer() {
    let second = Duration::from_secs(1);
    let sockets = Sockets::new();
    let acceptor = Acceptor::new().close_timeout(60 * second);
    let route = get(async move |upgrade: WebSocketUpgrade| {
        let upgrade = upgrade.acceptor(acceptor.clone()).await?;
        Ok::<_, WebSocketUpgradeRejection>(upgrade.on_upgrade(echo))
    });
    let app = Router::new()
        .route("/", route)
        .layer(Extension(sockets.clone()));
    let (client, server) = duplex(1 << 16);
    tokio::spawn(
        http1::Builder::new()
            .serve_connection(TokioIo::new(server), TowerToHyperService::new(app))
            .with_upgrades(),
    );
    let mut client = within(Peer::client(client, "", &[])).await;
    client.expect_text("a boxed stream").await;
    let ending = tokio::spawn(async move { sockets.shutdown(Shutdown::new()).await });
    assert_eq!(client.expect_close().await.0, 1001);
    sleep(40 * second).await;
    client.send_close(1001, "").await;
    let farewell = within(ending).await.unwrap();
    assert_eq!(
        farewell.to_string(),
        "1 connection in 40.0 s: 1 closed with 1001"
    );
}

/// What a service on plain hyper does.
async fn plain(mut request: hyper::Request<Incoming>) -> Result<hyper::Response<String>> {
    let (response, upgrade) = sockeye::hyper::upgrade(&mut request);
    tokio::spawn(async { upgrade.await?.drive(echo).await });
    Ok(response)
}

#[tokio::test]
async fn plain_hyper_hands_the_tcp_stream_over() {
    for auto_server in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let io = TokioIo::new(listener.accept().await.unwrap().0);
            let service = service_fn(plain);
            if auto_server {
                let builder = auto::Builder::new(TokioExecutor::new());
                let served = builder.serve_connection_with_upgrades(io, service);
                served.await.unwrap();
            } else {
                let served = http1::Builder::new().serve_connection(io, service);
                served.with_upgrades().await.unwrap();
            }
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        let peer = stream.local_addr().unwrap().to_string();
        let answer = within(http::ask(&mut stream, &http::with("Sec-WebSocket-Key", ""))).await;
        assert_eq!(answer.status, 400);
        let early = frame(0x81, true, b"early");
        let mut client = within(Peer::client(stream, "", &early)).await;
        client.expect_text(&peer).await;
        client.expect_text("early").await;
        client.expect_echo("later").await;
    }
}

#[tokio::test]
async fn a_server_without_upgrades_is_told_of() {
    let (mut client, server) = duplex(1 << 16);
    let (tell, mut told) = mpsc::unbounded_channel();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        let (response, upgrade) = sockeye::hyper::upgrade(&mut request);
        let tell = tell.clone();
        tokio::spawn(async move { tell.send(upgrade.await) });
        async { Ok::<_, Error>(response) }
    });
    tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
    client
        .write_all(http::with("nothing", "").as_bytes())
        .await
        .unwrap();
    let error = within(told.recv()).await.unwrap().unwrap_err();
    assert!(error.is_lost(), "{error:?}");
    let mut rest = String::new();
    within(client.read_to_string(&mut rest)).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 101"), "{rest}");
}

/// Behind a proxy, whoever decides is given the client, and pages may connect that are of the host which
/// the browser has asked for.
#[tokio::test]
async fn an_acceptor_believes_its_proxies_before_anything_is_decided() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new()
        .forwarded("127.0.0.1".parse().unwrap())
        .on_request(move |request| {
            let _ = tell.send(request.peer_addr().map(|peer| peer.to_string()));
            std::future::ready(Ok(Answer::new()))
        });
    let route = get(async move |upgrade: WebSocketUpgrade| {
        let upgrade = upgrade.acceptor(acceptor.clone()).await?;
        Ok::<_, WebSocketUpgradeRejection>(upgrade.on_upgrade(echo))
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // axum has it as a `ConnectInfo`, of which this crate knows nothing.
    let tell_peer = async |ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request| {
        request.extensions_mut().insert(peer);
        request
    };
    let app = Router::new()
        .route("/", route)
        .layer(map_request(tell_peer))
        .into_make_service_with_connect_info::<SocketAddr>();
    tokio::spawn(async { axum::serve(listener, app).await });
    let mut stream = TcpStream::connect(address).await.unwrap();
    let headers = "Origin: https://shop.example\r\n\
        Forwarded: for=\"192.0.2.1:4711\";host=shop.example;proto=https\r\n";
    let request = http::with("nothing", headers);
    assert_eq!(within(http::ask(&mut stream, &request)).await.status, 101);
    let decided = within(told.recv()).await.unwrap();
    assert_eq!(decided.as_deref(), Some("192.0.2.1:4711"));
}

/// Whose address is not among the extensions is no client of a Unix socket.
#[tokio::test]
async fn without_the_proxys_address_nobody_is_believed() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new()
        .x_forwarded_for("unix".parse().unwrap())
        .on_request(move |request| {
            let _ = tell.send(request.peer_addr());
            std::future::ready(Ok(Answer::new()))
        });
    let route = get(async move |upgrade: WebSocketUpgrade| {
        let upgrade = upgrade.acceptor(acceptor.clone()).await?;
        Ok::<_, WebSocketUpgradeRejection>(upgrade.on_upgrade(echo))
    });
    let address = serve(Router::new().route("/", route)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = http::with("nothing", "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(within(http::ask(&mut stream, &request)).await.status, 101);
    assert_eq!(within(told.recv()).await.unwrap(), None);
}

#[cfg(feature = "metrics")]
mod metrics {
    use axum::Extension;
    use sockeye::{
        Metrics,
        server::{Origins, Refusal},
    };

    use super::*;

    fn value(metrics: &Metrics, name: &str) -> u64 {
        let text = metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    fn refused(metrics: &Metrics, reason: &str) -> u64 {
        let name = format!("sockeye_handshakes_refused_total{{reason=\"{reason}\"}}");
        value(metrics, &name)
    }

    #[tokio::test]
    async fn requests_that_are_refused_are_counted_once() {
        let metrics = Metrics::new();
        let refuse = Acceptor::new()
            .origins(Origins::any())
            .on_request(async |_| Err(Refusal::new(401, "say who you are\n")));
        let decided = get(async move |upgrade: WebSocketUpgrade| {
            let upgrade = upgrade.acceptor(refuse.clone()).await?;
            Ok::<_, WebSocketUpgradeRejection>(upgrade.on_upgrade(echo))
        });
        let app = app()
            .route("/decided", decided)
            .layer(Extension(metrics.clone()));
        let mut stream = TcpStream::connect(serve(app).await).await.unwrap();
        let answer = within(http::get(&mut stream, "/")).await;
        assert_eq!(answer.status, 426);
        let old = http::with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8\r\n");
        assert_eq!(within(http::ask(&mut stream, &old)).await.status, 426);
        let other = http::with("nothing", "Origin: https://elsewhere.example\r\n");
        assert_eq!(within(http::ask(&mut stream, &other)).await.status, 403);
        let decided = http::with("nothing", "").replace("GET /", "GET /decided");
        assert_eq!(within(http::ask(&mut stream, &decided)).await.status, 401);
        for (reason, count) in [
            ("not_websocket", 1),
            ("handshake", 1),
            ("origin", 1),
            ("decision", 1),
            ("lost", 0),
        ] {
            assert_eq!(refused(&metrics, reason), count, "{reason}");
        }
        let peer = stream.local_addr().unwrap().to_string();
        let mut client = within(Peer::client(stream, "", b"")).await;
        client.expect_text(&peer).await;
        assert_eq!(value(&metrics, "sockeye_connections_accepted_total"), 1);
    }

    #[tokio::test]
    async fn a_connection_that_does_not_come_about_is_counted() {
        let metrics = Metrics::new();
        let (tell, mut told) = mpsc::unbounded_channel();
        let route = get(async move |upgrade: WebSocketUpgrade| {
            let upgrade = upgrade.on_failed_upgrade(move |error| drop(tell.send(error)));
            upgrade.on_upgrade(echo)
        });
        let app = Router::new()
            .route("/", route)
            .layer(Extension(metrics.clone()));
        let (mut client, server) = duplex(1 << 16);
        // Without upgrades, which is a mistake in the program.
        let service = TowerToHyperService::new(app);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        let request = http::with("nothing", "");
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(within(told.recv()).await.unwrap().is_lost());
        assert_eq!(refused(&metrics, "lost"), 1);
    }

    #[tokio::test]
    async fn so_it_is_on_plain_hyper() {
        let metrics = Metrics::new();
        let acceptor = Acceptor::new().metrics(&metrics);
        let (tell, mut told) = mpsc::unbounded_channel();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            let (upgraded, tell) = (acceptor.upgrade(&mut request), tell.clone());
            async move {
                let (response, upgrade) = upgraded.await;
                tokio::spawn(async move { tell.send(upgrade.await) });
                Ok::<_, Error>(response)
            }
        });
        let (mut client, server) = duplex(1 << 16);
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        let old = http::with("Sec-WebSocket-Version", "Sec-WebSocket-Version: 8\r\n");
        assert_eq!(within(http::ask(&mut client, &old)).await.status, 426);
        assert!(
            within(told.recv())
                .await
                .unwrap()
                .unwrap_err()
                .is_handshake()
        );
        let request = http::with("nothing", "");
        client.write_all(request.as_bytes()).await.unwrap();
        assert!(within(told.recv()).await.unwrap().unwrap_err().is_lost());
        assert_eq!(refused(&metrics, "handshake"), 1);
        assert_eq!(refused(&metrics, "lost"), 1);
    }
}
