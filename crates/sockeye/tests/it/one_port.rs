//! Pages, HTTP/2 and WebSockets on the same port of a server.

use std::{net::SocketAddr, process::Command, sync::Arc, time::Duration};

use axum::{Extension, Router, routing::get};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Version, body::Bytes, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sockeye::{Acceptor, Client, Error, HeadLimits, Result, Server, server::Shutdown};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    http,
    wire::{Peer, frame, within},
};

fn pages() -> Router {
    Router::new().route("/", get(async || "a page")).route(
        "/me",
        get(async |Extension(peer): Extension<SocketAddr>| peer.to_string()),
    )
}

/// A server that says whom the stream inside knows, and then echoes; and what ends it.
async fn serve(
    set_up: impl FnOnce(Server) -> Server,
) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<Result<()>>) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = set_up(server).shutdown_on(async {
        let _ = stopped.await;
    });
    let served = tokio::spawn(server.serve(async |mut socket| {
        let peer = socket.peer_addr().map(|peer| peer.to_string());
        socket.send(peer.unwrap_or("a boxed stream".into())).await?;
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));
    (address, stop, served)
}

async fn connect(address: SocketAddr) -> (TcpStream, String) {
    let stream = TcpStream::connect(address).await.unwrap();
    let ours = stream.local_addr().unwrap().to_string();
    (stream, ours)
}

#[tokio::test]
async fn a_websocket_after_pages_on_the_same_connection() {
    let (address, _stop, _) = serve(|server| server.router(pages())).await;
    let (mut stream, ours) = connect(address).await;
    let answer = within(http::get(&mut stream, "/")).await;
    assert_eq!((answer.status, &answer.body[..]), (200, "a page"));
    let answer = within(http::get(&mut stream, "/me")).await;
    assert_eq!((answer.status, &answer.body), (200, &ours));
    let early = [frame(0x81, true, b"one"), frame(0x81, true, b"two")].concat();
    let mut client = within(Peer::client(stream, "", &early)).await;
    client.expect_text(&ours).await;
    client.expect_text("one").await;
    client.expect_text("two").await;
    client.expect_echo("three").await;
}

/// Where a proxy's header could not be understood, which a client could bring about, a request was the proxy's own.
#[tokio::test]
async fn a_request_by_a_proxy_is_never_taken_for_the_proxys_own() {
    let trusting = || Acceptor::new().x_forwarded_for("127.0.0.1".parse().unwrap());
    let (address, _stop, _) = serve(|server| server.acceptor(trusting()).router(pages())).await;
    let (mut stream, _) = connect(address).await;
    for (line, status, body) in [
        ("192.0.2.1", 200, "192.0.2.1:0"),
        ("x, 192.0.2.1", 200, "192.0.2.1:0"),
        ("192.0.2.1, x", 400, "X-Forwarded-For cannot be understood"),
        ("192.0.2.1, 127.0.0.1", 200, "192.0.2.1:0"),
    ] {
        let request = format!("GET /me HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {line}\r\n\r\n");
        let answer = within(http::ask(&mut stream, &request)).await;
        assert_eq!(answer.status, status, "{line}: {answer:?}");
        assert!(answer.body.contains(body), "{line}: {answer:?}");
    }
}

#[tokio::test]
async fn requests_that_come_together_and_then_a_websocket_with_its_frames() {
    let (address, _stop, _) = serve(|server| server.router(pages())).await;
    let (mut stream, ours) = connect(address).await;
    let page = "GET / HTTP/1.1\r\nHost: peer\r\n\r\n";
    let upgrade = http::with("nothing", "");
    let mut all = [page, page, &upgrade].concat().into_bytes();
    all.extend(frame(0x81, true, b"early"));
    stream.write_all(&all).await.unwrap();
    for _ in 0..2 {
        assert_eq!(within(http::answer(&mut stream)).await.body, "a page");
    }
    assert_eq!(within(http::answer(&mut stream)).await.status, 101);
    let texts = [
        frame(0x81, false, ours.as_bytes()),
        frame(0x81, false, b"early"),
    ]
    .concat();
    let mut bytes = vec![0; texts.len()];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes, texts);
}

#[tokio::test]
async fn a_wrong_request_for_a_websocket_is_told_of_and_ends_nothing() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (address, _stop, _) = serve(|server| {
        let server = server.router(pages());
        server.on_error(move |_, error| tell.send(error.clone()).unwrap())
    })
    .await;
    let (mut stream, _) = connect(address).await;
    within(http::get(&mut stream, "/")).await;
    let answer = within(http::ask(&mut stream, &http::with("Sec-WebSocket-Key", ""))).await;
    assert_eq!(answer.status, 400);
    assert!(
        answer.body.contains("Sec-WebSocket-Key is missing"),
        "{answer:?}"
    );
    assert!(within(told.recv()).await.unwrap().is_handshake());
    assert_eq!(within(http::get(&mut stream, "/")).await.status, 200);
    within(Peer::client(stream, "", b"")).await;
}

/// Who gives up because a decision takes long is told of and counted, as where it is the first request.
#[tokio::test]
async fn a_client_that_leaves_while_it_is_decided_about_is_told_of() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (begin, mut begun) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().on_request(move |_| {
        begin.send(()).unwrap();
        std::future::pending::<Result<_, sockeye::server::Refusal>>()
    });
    let metrics = sockeye::Metrics::new();
    let (address, _stop, _) = serve(|server| {
        let server = server.acceptor(acceptor).router(pages()).metrics(&metrics);
        server.on_error(move |peer, error| tell.send((peer, error.clone())).unwrap())
    })
    .await;
    let (mut stream, ours) = connect(address).await;
    within(http::get(&mut stream, "/")).await;
    let request = http::with("nothing", "");
    stream.write_all(request.as_bytes()).await.unwrap();
    within(begun.recv()).await.unwrap();
    drop(stream);
    let (peer, error) = within(told.recv()).await.unwrap();
    assert_eq!(peer.unwrap().to_string(), ours);
    assert!(error.is_lost(), "{error}");
    let counted = r#"sockeye_handshakes_refused_total{reason="lost"} 1"#;
    assert!(metrics.encode().contains(counted), "{}", metrics.encode());
}

/// A bug: only requests that came first on their connection were bounded.
#[tokio::test]
async fn decisions_behind_pages_count_as_unfinished_handshakes() {
    let (begin, mut begun) = mpsc::unbounded_channel();
    let decide = Arc::new(Notify::new());
    let decided = decide.clone();
    let proxies = "127.0.0.1".parse().unwrap();
    let acceptor = Acceptor::new().forwarded(proxies).on_request(move |_| {
        begin.send(()).unwrap();
        let decided = decided.clone();
        async move {
            decided.notified().await;
            Ok::<_, sockeye::server::Refusal>(sockeye::server::Answer::new())
        }
    });
    let (tell, mut told) = mpsc::unbounded_channel();
    let (address, _stop, _) = serve(|server| {
        let server = server.acceptor(acceptor).router(pages()).max_handshakes(2);
        server.on_error(move |client, error| tell.send((client, error.clone())).unwrap())
    })
    .await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        let (mut stream, _) = connect(address).await;
        within(http::get(&mut stream, "/")).await;
        streams.push(stream);
    }
    let mut last = streams.pop().unwrap();
    let request = http::with("nothing", "Forwarded: for=192.0.2.1\r\n");
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).await.unwrap();
        within(begun.recv()).await.unwrap();
    }
    let answer = within(http::ask(&mut last, &request)).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.head.contains("\r\nretry-after: "), "{answer:?}");
    let (client, error) = within(told.recv()).await.unwrap();
    assert_eq!(client.unwrap().ip().to_string(), "192.0.2.1");
    assert!(
        error.is_limit() && error.to_string().contains("or refused"),
        "{error}"
    );
    // It has done no harm, and there is room again once the others are done.
    assert_eq!(within(http::get(&mut last, "/")).await.status, 200);
    decide.notify_waiters();
    for stream in &mut streams {
        assert_eq!(within(http::answer(stream)).await.status, 101);
    }
    let asked = tokio::spawn(async move { http::ask(&mut last, &request).await.status });
    within(begun.recv()).await.unwrap();
    decide.notify_waiters();
    assert_eq!(within(asked).await.unwrap(), 101);
}

/// A bug: it was refused for as long as there were as many, whom only a new connection had given up.
#[tokio::test]
async fn a_handshake_that_has_had_its_time_keeps_nobody_out_behind_a_page() {
    let (begin, mut begun) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().handshake_timeout(Duration::from_secs(600));
    let acceptor = acceptor.on_request(move |request| {
        let is_known = request.path() == "/known";
        begin.send(()).unwrap();
        async move {
            if !is_known {
                std::future::pending::<()>().await;
            }
            Ok::<_, sockeye::server::Refusal>(sockeye::server::Answer::new())
        }
    });
    let metrics = sockeye::Metrics::new();
    let (tell, mut told) = mpsc::unbounded_channel();
    let (address, _stop, _) = serve(|server| {
        let server = server.acceptor(acceptor).router(pages()).max_handshakes(1);
        let server = server.metrics(&metrics);
        server.on_error(move |peer, error| tell.send((peer, error.clone())).unwrap())
    })
    .await;
    let (mut stream, ours) = connect(address).await;
    within(http::get(&mut stream, "/")).await;
    let (mut slow, theirs) = connect(address).await;
    slow.write_all(http::with("nothing", "").as_bytes())
        .await
        .unwrap();
    within(begun.recv()).await.unwrap();
    let request = http::with("nothing", "").replace("GET /", "GET /known");
    let refused = within(async {
        let mut refused = 0;
        loop {
            match http::ask(&mut stream, &request).await.status {
                503 => refused += 1,
                status => break (status == 101).then_some(refused),
            }
        }
    });
    let refused = refused.await.expect("it was let in");
    for _ in 0..refused {
        assert_eq!(told.recv().await.unwrap().0.unwrap().to_string(), ours);
    }
    let (peer, error) = told.recv().await.unwrap();
    assert_eq!(peer.unwrap().to_string(), theirs);
    assert!(error.is_limit(), "{error}");
    assert!(told.try_recv().is_err());
    let counted = format!(
        "sockeye_handshakes_refused_total{{reason=\"handshakes\"}} {}",
        refused + 1
    );
    assert!(metrics.encode().contains(&counted), "{}", metrics.encode());
    let read = within(slow.read(&mut [0])).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn a_kept_connection_is_bounded() {
    let acceptor = Acceptor::new().head_limits(HeadLimits::default().bytes(1000).headers(10));
    let (address, _stop, _) = serve(|server| server.acceptor(acceptor).router(pages())).await;
    for header in [
        format!("X: {}\r\n", "y".repeat(2000)),
        "X: y\r\n".repeat(20),
    ] {
        let (mut stream, _) = connect(address).await;
        within(http::get(&mut stream, "/")).await;
        let request = format!("GET / HTTP/1.1\r\nHost: peer\r\n{header}\r\n");
        assert_eq!(within(http::ask(&mut stream, &request)).await.status, 431);
    }
    // A limit that is far away costs nothing: room for so many was taken at each head.
    let acceptor = Acceptor::new().head_limits(HeadLimits::default().headers(usize::MAX));
    let (address, _stop, _) = serve(|server| server.acceptor(acceptor).router(pages())).await;
    let (mut stream, _) = connect(address).await;
    assert_eq!(within(http::get(&mut stream, "/")).await.status, 200);
    // Half a head does not keep it open, and neither does silence.
    let (address, _stop, _) = serve(|server| {
        let server = server.router(pages());
        server.http_keep_alive(Duration::from_millis(500))
    })
    .await;
    for begun in ["", "GET / HT"] {
        let (mut stream, _) = connect(address).await;
        within(http::get(&mut stream, "/")).await;
        stream.write_all(begun.as_bytes()).await.unwrap();
        let mut rest = String::new();
        within(stream.read_to_string(&mut rest)).await.unwrap();
        assert_eq!(rest, "");
    }
}

#[tokio::test]
async fn a_connection_may_be_kept_for_ever() {
    let (address, _stop, _) =
        serve(|server| server.router(pages()).http_keep_alive(Duration::MAX)).await;
    let (mut stream, _) = connect(address).await;
    for _ in 0..2 {
        let answer = within(http::get(&mut stream, "/")).await;
        assert_eq!(answer.status, 200);
    }
    let (stream, _) = connect(address).await;
    assert!(!ask_http2(stream).await.is_finished());
}

/// RFC 9112 §3.2: whoever routes by the host must not be told two, or none.
#[tokio::test]
async fn it_is_clear_which_host_is_asked() {
    let (address, _stop, _) = serve(|server| server.router(pages())).await;
    let (mut stream, _) = connect(address).await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: user@a\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
        ("GET / HTTP/1.0\r\n\r\n", 200),
    ] {
        let answer = within(http::ask(&mut stream, head)).await;
        assert_eq!(answer.status, status, "{head}");
    }
}

/// RFC 9113 §8.3.1: the page was answered whatever `Host` said beside `:authority`.
#[tokio::test]
async fn section_8_3_1_it_is_clear_which_host_is_asked_over_http_2() {
    let (address, _stop, _) = serve(|server| server.router(pages())).await;
    let (stream, _) = connect(address).await;
    let io = TokioIo::new(stream);
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let cases: [(&str, &[&str], u16); 11] = [
        ("http://good.example/", &["evil.example"], 400),
        ("http://good.example/", &["good.example:81"], 400),
        ("http://good.example/", &[""], 400),
        (
            "http://good.example/",
            &["good.example", "good.example"],
            400,
        ),
        (
            "http://good.example/",
            &["good.example", "evil.example"],
            400,
        ),
        ("http://good.example/", &["a b/c@d"], 400),
        ("http://user@good.example/", &[], 400),
        ("http://user@good.example/", &["user@good.example"], 400),
        ("http://good.example/", &[], 200),
        ("http://good.example:80/", &["Good.Example:80"], 200),
        ("http://[::1]:80/", &["[::1]:80"], 200),
    ];
    for (url, hosts, status) in cases {
        let mut request = Request::get(url);
        for host in hosts {
            request = request.header("host", *host);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let answer = within(client.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), status, "{url} {hosts:?}");
    }
}

/// RFC 9110 §7.8: of HTTP/1.0 `Upgrade` is ignored, be the request the first of its connection or not.
#[tokio::test]
async fn section_7_8_http_1_0_knows_no_upgrade() {
    let (address, _stop, _) = serve(|server| server.router(pages())).await;
    let request = http::UPGRADE.replace("HTTP/1.1", "HTTP/1.0") + "\r\n";
    for before in [0, 1] {
        let (mut stream, _) = connect(address).await;
        for _ in 0..before {
            within(http::get(&mut stream, "/")).await;
        }
        let answer = within(http::ask(&mut stream, &request)).await;
        assert_eq!((answer.status, &*answer.body), (200, "a page"));
    }
}

/// What a service of the user's own upgrades is a connection still.
#[tokio::test]
async fn what_the_service_upgrades_is_counted() {
    let other = get(async |mut request: axum::extract::Request| {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let (mut read, mut write) = tokio::io::split(&mut stream);
            tokio::io::copy(&mut read, &mut write).await
        });
        let headers = [("Connection", "upgrade"), ("Upgrade", "other")];
        (axum::http::StatusCode::SWITCHING_PROTOCOLS, headers)
    });
    let pages = pages().route("/other", other);
    let (address, _stop, _) = serve(|server| server.router(pages).max_connections(1)).await;
    let (mut stream, _) = connect(address).await;
    let request =
        "GET /other HTTP/1.1\r\nHost: peer\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n";
    assert_eq!(within(http::ask(&mut stream, request)).await.status, 101);
    stream.write_all(b"!").await.unwrap();
    assert_eq!(within(stream.read_u8()).await.unwrap(), b'!');
    let (mut second, _) = connect(address).await;
    assert_eq!(within(http::get(&mut second, "/")).await.status, 503);
    drop(stream);
    within(async { while http::get(&mut connect(address).await.0, "/").await.status != 200 {} })
        .await;
}

/// Without a wait for another, a request is still answered, however long that takes.
#[tokio::test]
async fn a_connection_may_be_kept_for_no_time() {
    let slow = get(async || {
        tokio::time::sleep(Duration::from_millis(50)).await;
        "a page"
    });
    let pages = Router::new().route("/", slow);
    let (address, _stop, _) =
        serve(|server| server.router(pages).http_keep_alive(Duration::ZERO)).await;
    let (mut stream, _) = connect(address).await;
    let answer = within(http::get(&mut stream, "/")).await;
    assert_eq!((answer.status, &*answer.body), (200, "a page"));
    let mut rest = String::new();
    within(stream.read_to_string(&mut rest)).await.unwrap();
    assert_eq!(rest, "");
    let (stream, _) = connect(address).await;
    let _ = within(ask_http2(stream).await).await.unwrap();
}

/// Asks for the page twice at once, over HTTP/2; gives the connection.
async fn ask_http2<S>(stream: S) -> JoinHandle<hyper::Result<()>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = || {
        Request::get("http://peer/")
            .body(Empty::<Bytes>::new())
            .unwrap()
    };
    let (one, two) = (
        client.send_request(request()),
        client.send_request(request()),
    );
    let (one, two) = within(async { tokio::join!(one, two) }).await;
    for answer in [one.unwrap(), two.unwrap()] {
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.version(), Version::HTTP_2);
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "a page");
    }
    // Held, or the connection would end for want of a use.
    tokio::spawn(async move {
        client.ready().await.unwrap();
        std::future::pending::<()>().await;
        drop(client);
    });
    connection
}

#[tokio::test]
async fn http_2_with_prior_knowledge() {
    let (address, stop, served) = serve(|server| server.router(pages())).await;
    let (stream, _) = connect(address).await;
    let connection = ask_http2(stream).await;
    // The server's end is its end.
    stop.send(()).unwrap();
    within(connection).await.unwrap().unwrap();
    within(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn http_2_without_requests_is_ended() {
    let (address, _stop, _) = serve(|server| {
        server
            .router(pages())
            .http_keep_alive(Duration::from_millis(50))
    })
    .await;
    let (stream, _) = connect(address).await;
    let connection = ask_http2(stream).await;
    // However it is told: the stream is closed.
    let _ = within(connection).await.unwrap();
}

#[cfg(feature = "tls")]
/// RFC 9113 §6.8: a request that crosses the end can then be asked again.
#[tokio::test]
async fn http_2_that_is_ended_is_told_before() {
    const HEAD: usize = 9;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const ACK: u8 = 1;
    let acceptor = Acceptor::new().handshake_timeout(Duration::from_millis(50));
    let (address, _stop, _) = serve(|server| {
        let server = server.acceptor(acceptor).router(pages());
        server.http_keep_alive(Duration::from_millis(20))
    })
    .await;
    let (mut stream, _) = connect(address).await;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    stream
        .write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0])
        .await
        .unwrap();
    let mut last = 0;
    let mut head = [0; HEAD];
    while within(stream.read_exact(&mut head)).await.is_ok() {
        let [_, _, len, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(len)];
        stream.read_exact(&mut payload).await.unwrap();
        if kind == PING && flags & ACK == 0 {
            let answer = [&[0, 0, 8, PING, ACK, 0, 0, 0, 0], &payload[..]].concat();
            stream.write_all(&answer).await.unwrap();
        }
        last = kind;
    }
    assert_eq!(last, GOAWAY);
}

#[tokio::test]
async fn tls_offers_http_2_and_websockets_still_come() {
    use sockeye::{client::ClientTls, server::ServerTls};
    use tokio_rustls::{
        TlsConnector,
        rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
    };

    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = key.cert.pem();
    let tls = ServerTls::from_pem(
        certificate.as_bytes(),
        key.signing_key.serialize_pem().as_bytes(),
    );
    let acceptor = Acceptor::new().tls(tls.unwrap());
    let (address, _stop, _) = serve(|server| server.acceptor(acceptor).router(pages())).await;

    let mut roots = RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let provider = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let offers: [(&[&str], Option<&[u8]>); 3] = [
        (&["h2", "http/1.1"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ];
    for (offer, chosen) in offers {
        config.alpn_protocols = offer.iter().map(|name| name.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config.clone()));
        let (stream, ours) = connect(address).await;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = within(connector.connect(name, stream)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen);
        if chosen == Some(b"h2") {
            ask_http2(stream).await;
            continue;
        }
        assert_eq!(within(http::get(&mut stream, "/")).await.body, "a page");
        let mut client = within(Peer::client(stream, "", &frame(0x81, true, b"early"))).await;
        client.expect_text(&ours).await;
        client.expect_text("early").await;
    }

    let tls = ClientTls::new().ca_pem(certificate.as_bytes()).unwrap();
    let url = format!("wss://localhost:{}/", address.port());
    let client = Client::new(url).no_proxy().tls(tls);
    let mut socket = within(client.connect()).await.unwrap();
    socket.recv().await.unwrap().unwrap();
    socket.send("Привет").await.unwrap();
    let message = within(socket.recv()).await.unwrap().unwrap();
    assert_eq!(message.to_string(), "Привет");
}

#[tokio::test]
async fn what_is_being_answered_is_when_the_server_ends() {
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (asked.clone(), answer.clone());
    let slow = get(async move || {
        tell.notify_one();
        wait.notified().await;
        "at last"
    });
    let pages = pages().route("/slow", slow);
    let (address, stop, served) = serve(|server| server.router(pages)).await;
    let (mut idle, _) = connect(address).await;
    within(http::get(&mut idle, "/")).await;
    let (stream, _) = connect(address).await;
    let mut client = within(Peer::client(stream, "", b"")).await;
    client.expect(0x81).await;
    let (mut busy, _) = connect(address).await;
    let slow = async {
        let answer = http::get(&mut busy, "/slow").await;
        assert_eq!(answer.body, "at last");
        assert!(answer.head.contains("connection: close"), "{answer:?}");
    };
    let end = async {
        asked.notified().await;
        stop.send(()).unwrap();
        // The others are closed at once.
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"");
        assert_eq!(client.expect_close().await.0, 1001);
        assert!(!served.is_finished());
        answer.notify_one();
    };
    within(async { tokio::join!(slow, end) }).await;
    client.send_close(1001, "").await;
    within(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn curl_reads_pages_in_every_version() {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "curl is missing");
        return;
    }
    let (address, _stop, _) = serve(|server| server.router(pages())).await;
    let url = &format!("http://{address}/")[..];
    let versions: [(&str, &[&str]); 4] = [
        ("--http1.0", &[url, url]),
        ("--http1.1", &[url, url]),
        // Without TLS it asks for an upgrade, which no server has to grant.
        ("--http2", &[url, url]),
        // Once: before 8.0 it cannot use such a connection again.
        ("--http2-prior-knowledge", &[url]),
    ];
    for (version, urls) in versions {
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["-sS", "--noproxy", "*", "-m", "10", version])
            .args(["-w", "\n%{http_version} %{num_connects}\n"])
            .args(urls);
        let output = within(curl.output()).await.unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = String::from_utf8_lossy(&output.stdout);
        let (one, kept) = match version {
            "--http1.0" => ("1 1", "1 1"),
            "--http2-prior-knowledge" => ("2 1", ""),
            _ => ("1.1 1", "1.1 0"),
        };
        let expected: Vec<&str> = ["a page", one, "a page", kept][..urls.len() * 2].into();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            expected,
            "{version}: {errors}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_the_deadline_is_cut_off() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let pages = Router::new().route(
        "/",
        get(async move || {
            tell.send(()).unwrap();
            std::future::pending::<&str>().await
        }),
    );
    let server = Server::bind("127.0.0.1:0").await.unwrap().router(pages);
    let (address, handle) = (server.local_addr().unwrap(), server.shutdown_handle());
    let serving = tokio::spawn(server.serve(async |_| Ok(())));
    let (mut stream, _) = connect(address).await;
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    within(told.recv()).await.unwrap();
    let how = Shutdown::new().deadline(Duration::from_millis(100));
    let farewell = within(handle.shutdown(how)).await;
    assert_eq!((farewell.http_cut, farewell.connections.len()), (1, 0));
    assert!(
        farewell.to_string().contains("1 cut off in HTTP"),
        "{farewell}"
    );
    assert_eq!(within(stream.read(&mut [0; 16])).await.unwrap(), 0);
    within(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_service_every_other_request_is_refused() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let tell = move |_, error: &Error| tell.send(error.clone()).unwrap();
    let (address, _stop, _) = serve(|server| server.on_error(tell)).await;
    let (mut stream, _) = connect(address).await;
    let answer = within(http::get(&mut stream, "/")).await;
    assert_eq!(answer.status, 426);
    assert!(answer.head.contains("upgrade: websocket"), "{answer:?}");
    drop(stream);
    assert!(within(told.recv()).await.unwrap().is_handshake());
}
