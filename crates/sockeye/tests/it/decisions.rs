//! Decisions about requests, over every way that a request comes in: what is known of the client, what
//! the connection remembers, and what harms nobody else.

use std::{
    future::{pending, ready},
    net::SocketAddr,
    time::Duration,
};

use axum::{Extension, Router, extract::State, response::Response, routing::get};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sockeye::{
    Acceptor, Handler, MessageRef, Result, Server, Socket, WebSocket,
    axum::{WebSocketUpgrade, WebSocketUpgradeRejection},
    server::{Answer, IncomingRequest, Origins, Refusal, TlsIdentity},
};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    http,
    network::{Pki, client},
    wire::{Peer, within},
};

struct User(String);

/// Who says their name in the query comes in.
async fn by_name(request: IncomingRequest) -> std::result::Result<Answer, Refusal> {
    // As a look into a database would.
    tokio::task::yield_now().await;
    match request.query() {
        Some("panic") => panic!("it was asked to"),
        Some("wait") => pending().await,
        Some(name) => Ok(Answer::new()
            .header("Set-Cookie", format!("name={name}"))
            .state(User(name.into()))),
        None => Err(Refusal::new(401, "say who you are\n").header("WWW-Authenticate", "Name")?),
    }
}

fn acceptor() -> Acceptor {
    let acceptor = Acceptor::new().on_request(by_name);
    acceptor.handshake_timeout(Duration::from_secs(1))
}

/// Says each time whom the connection remembers.
async fn greet(mut socket: WebSocket) -> Result<()> {
    let sender = socket.sender();
    while socket.recv().await?.is_some() {
        let User(name) = socket.state().unwrap();
        let User(same) = sender.state().unwrap();
        assert_eq!(name, same);
        let name = name.clone();
        socket.send(name).await?;
    }
    Ok(())
}

struct Greeter;

impl Handler for Greeter {
    fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
        let User(name) = socket.state().unwrap();
        let name = name.clone();
        socket.send(name);
    }
}

fn pages() -> Router {
    Router::new().route("/page", get(async || "a page"))
}

async fn bind() -> (Server, SocketAddr) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    (server.acceptor(acceptor()).router(pages()), address)
}

async fn axum_serves(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async { axum::serve(listener, app).await });
    address
}

/// Serves HTTP/1.1 on each connection, with sockets of `acceptor` on all paths but one.
async fn hyper_serves(acceptor: Acceptor) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let io = TokioIo::new(listener.accept().await.unwrap().0);
            let acceptor = acceptor.clone();
            let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                let acceptor = acceptor.clone();
                async move {
                    if request.uri().path() == "/page" {
                        return Ok(hyper::Response::new("a page".to_owned()));
                    }
                    let (response, upgrade) = acceptor.upgrade(&mut request).await;
                    tokio::spawn(async { upgrade.await?.drive(greet).await });
                    Ok::<_, sockeye::Error>(response)
                }
            });
            let served = http1::Builder::new().serve_connection(io, service);
            tokio::spawn(served.with_upgrades());
        }
    });
    address
}

/// Servers of every kind: a name for each, where it listens, and whether it serves pages too.
async fn servers() -> Vec<(&'static str, SocketAddr)> {
    let (asynchronous, first) = bind().await;
    tokio::spawn(asynchronous.serve(greet));
    let (events, second) = bind().await;
    tokio::spawn(events.serve_handler(|| Greeter));
    let route = get(
        async |State(acceptor): State<Acceptor>, upgrade: WebSocketUpgrade| {
            let upgrade = upgrade.acceptor(acceptor).await?;
            Ok::<Response, WebSocketUpgradeRejection>(upgrade.on_upgrade(greet))
        },
    );
    let app = Router::new().route("/", route).with_state(acceptor());
    vec![
        ("the async form", first),
        ("the event form", second),
        ("axum", axum_serves(app.merge(pages())).await),
        ("hyper", hyper_serves(acceptor()).await),
    ]
}

fn asking(query: &str) -> String {
    http::with("nothing", "").replace("GET / ", &format!("GET /{query} "))
}

#[tokio::test]
async fn the_state_reaches_the_handler_first_on_a_connection_and_behind_other_requests() {
    for (kind, address) in servers().await {
        for behind in [false, true] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if behind {
                assert_eq!(within(http::get(&mut stream, "/page")).await.status, 200);
            }
            let answer = within(http::ask(&mut stream, &asking("?anna"))).await;
            assert_eq!(answer.status, 101, "{kind}: {answer:?}");
            assert!(answer.head.contains("set-cookie: name=anna"), "{answer:?}");
            let mut peer = Peer::opened(stream);
            peer.send_frame(0x81, "who am I?").await;
            peer.expect_text("anna").await;
        }
    }
}

#[tokio::test]
async fn a_refusal_reaches_the_client_with_its_headers() {
    for (kind, address) in servers().await {
        for behind in [false, true] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            if behind {
                within(http::get(&mut stream, "/page")).await;
            }
            let answer = within(http::ask(&mut stream, &asking(""))).await;
            assert_eq!(answer.status, 401, "{kind}: {answer:?}");
            assert!(answer.head.contains("www-authenticate: name"), "{answer:?}");
            assert_eq!(answer.body, "say who you are\n");
        }
    }
}

#[tokio::test]
async fn a_decision_that_panics_or_takes_too_long_harms_no_one() {
    // All at once, since each that is too long takes its time.
    let servers = servers()
        .await
        .into_iter()
        .map(|(kind, address)| async move {
            let mut bystander = TcpStream::connect(address).await.unwrap();
            let answer = within(http::ask(&mut bystander, &asking("?b"))).await;
            assert_eq!(answer.status, 101, "{kind}");
            let mut bystander = Peer::opened(bystander);
            for behind in [false, true] {
                for (query, status, words) in [
                    ("?panic", 500, "failed to decide"),
                    ("?wait", 503, "did not decide"),
                ] {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    if behind {
                        within(http::get(&mut stream, "/page")).await;
                    }
                    let answer = within(http::ask(&mut stream, &asking(query))).await;
                    assert_eq!(answer.status, status, "{kind}: {answer:?}");
                    assert!(answer.body.contains(words), "{kind}: {answer:?}");
                }
            }
            bystander.send_frame(0x81, "still there?").await;
            bystander.expect_text("b").await;
        });
    futures_util::future::join_all(servers).await;
}

/// Remembers what TLS says of the client.
async fn by_certificate(request: IncomingRequest) -> std::result::Result<Answer, Refusal> {
    let Some(tls) = request.tls() else {
        return Err(Refusal::new(500, "there is no TLS\n"));
    };
    assert_eq!(tls.server_name(), Some("localhost"));
    let alpn = tls.alpn_protocol().map(String::from_utf8_lossy);
    assert!(
        matches!(alpn.as_deref(), None | Some("http/1.1")),
        "{tls:?}"
    );
    let version = format!("{:?}", tls.protocol_version().unwrap());
    assert_eq!(version, "TLSv1_3");
    assert!(tls.cipher_suite().is_some());
    match tls.peer_certificates() {
        [one] => Ok(Answer::new().state(one.len())),
        _ => Err(Refusal::new(403, "show a certificate\n")),
    }
}

/// Says how long the client's certificate is, by the state and by TLS.
async fn certificate(mut socket: WebSocket) -> Result<()> {
    let by_state = *socket.state::<usize>().unwrap();
    let by_tls = socket.tls().unwrap().peer_certificates()[0].len();
    assert_eq!(by_state, by_tls);
    socket.send(by_state.to_string()).await
}

#[tokio::test]
async fn the_clients_certificate_is_at_hand() {
    let pki = Pki::new();
    let acceptor = Acceptor::new().on_request(by_certificate);
    let own = async |tls| {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.acceptor(acceptor.clone().tls(tls));
        tokio::spawn(server.serve(certificate));
        address
    };
    let url = format!("wss://localhost:{}/", own(pki.strict_server()).await.port());
    let mut socket = within(client(&url).tls(pki.known()).connect())
        .await
        .unwrap();
    let length = within(socket.recv()).await.unwrap().unwrap().to_string();
    assert_eq!(length, pki.certificate_len().to_string());

    // Where nobody asks for a certificate there is none.
    let url = format!("wss://localhost:{}/", own(pki.server()).await.port());
    let error = within(client(&url).tls(pki.known()).connect()).await;
    let error = error.unwrap_err();
    assert_eq!(error.response().unwrap().status(), 403);

    // TLS over a stream of the user's own.
    let (theirs, ours) = tokio::io::duplex(1 << 16);
    let strict = acceptor.tls(pki.strict_server());
    let mut known = client("wss://localhost/").tls(pki.known());
    known = known.handshake_timeout(Duration::from_secs(20));
    let (opened, accepted) = tokio::join!(known.connect_over(ours), strict.accept(theirs));
    accepted.unwrap().drive(certificate).await.unwrap();
    let said = within(opened.unwrap().recv()).await.unwrap().unwrap();
    assert_eq!(said.to_string(), length);
}

#[tokio::test]
async fn the_clients_certificate_is_at_hand_behind_other_requests() {
    let pki = Pki::new();
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let me = get(async |Extension(tls): Extension<TlsIdentity>| {
        tls.peer_certificates()[0].len().to_string()
    });
    let acceptor = Acceptor::new().tls(pki.strict_server());
    let server = server.acceptor(acceptor.on_request(by_certificate));
    let server = server.router(Router::new().route("/me", me));
    tokio::spawn(server.serve(certificate));
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = pki.speak_tls(stream).await;
    let length = pki.certificate_len().to_string();
    assert_eq!(within(http::get(&mut stream, "/me")).await.body, length);
    let mut peer = within(Peer::client(stream, "", b"")).await;
    peer.expect_text(&length).await;
}

#[tokio::test]
async fn what_tls_says_is_at_hand_on_a_server_of_hypers() {
    let pki = Pki::new();
    let tls = tokio_rustls::TlsAcceptor::from(pki.strict_config());
    for told in [true, false] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = tls.clone();
        tokio::spawn(async move {
            let (stream, peer) = listener.accept().await.unwrap();
            let stream = tls.accept(stream).await.unwrap();
            let identity = TlsIdentity::from(stream.get_ref().1);
            let service = service_fn(move |mut request: hyper::Request<Incoming>| {
                // What nobody says while it is decided is known once the stream is taken back.
                let acceptor = if told {
                    request.extensions_mut().insert(identity.clone());
                    request.extensions_mut().insert(peer);
                    Acceptor::new().on_request(move |request| {
                        assert_eq!(request.peer_addr(), Some(peer));
                        by_certificate(request)
                    })
                } else {
                    Acceptor::new().on_request(|request| {
                        assert!(request.tls().is_none() && request.peer_addr().is_none());
                        ready(Ok(Answer::new()))
                    })
                };
                let upgrading = acceptor.upgrade(&mut request);
                async move {
                    let (response, upgrade) = upgrading.await;
                    tokio::spawn(async move {
                        let mut socket = upgrade.await.unwrap();
                        assert_eq!(socket.peer_addr(), Some(peer));
                        let tls = socket.tls().unwrap();
                        let length = tls.peer_certificates()[0].len().to_string();
                        socket.send(length).await.unwrap();
                    });
                    Ok::<_, sockeye::Error>(response)
                }
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            served.with_upgrades().await.unwrap();
        });
        let stream = TcpStream::connect(address).await.unwrap();
        let stream = pki.speak_tls(stream).await;
        let mut peer = within(Peer::client(stream, "", b"")).await;
        peer.expect_text(&pki.certificate_len().to_string()).await;
    }
}

#[tokio::test]
async fn a_handler_of_axums_may_decide_by_itself() {
    let route = get(async |upgrade: WebSocketUpgrade| {
        let answer = Answer::new().header("X-Name", "olga");
        upgrade
            .answer(answer.state(User("olga".into())))
            .on_upgrade(greet)
    });
    let address = axum_serves(Router::new().route("/", route)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let answer = within(http::ask(&mut stream, &asking(""))).await;
    assert!(answer.head.contains("x-name: olga"), "{answer:?}");
    let mut peer = Peer::opened(stream);
    peer.send_frame(0x81, "who am I?").await;
    peer.expect_text("olga").await;
}

mod section_10_2_origin_considerations {
    use super::*;

    /// A request of a page.
    fn of_page(origin: &str) -> String {
        http::with("nothing", &format!("Origin: {origin}\r\n")).replace("GET / ", "GET /?anna ")
    }

    #[tokio::test]
    async fn by_default_a_page_of_another_origin_is_refused_everywhere() {
        for (kind, address) in servers().await {
            for behind in [false, true] {
                for (origin, status) in [
                    ("http://peer", 101),
                    ("https://peer", 101),
                    ("http://evil.example", 403),
                    ("http://peer.evil.example", 403),
                    ("http://peer@evil.example", 403),
                    ("null", 403),
                    ("", 403),
                    ("http://peer\r\nOrigin: http://peer", 400),
                    ("http://peer\r\nOrigin: http://evil.example", 400),
                ] {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    if behind {
                        within(http::get(&mut stream, "/page")).await;
                    }
                    let answer = within(http::ask(&mut stream, &of_page(origin))).await;
                    assert_eq!(answer.status, status, "{kind}, {origin:?}: {answer:?}");
                    if status == 403 {
                        let named = format!("a page of {origin:?} may not connect to \"peer\"");
                        assert!(answer.body.contains(&named), "{answer:?}");
                        assert!(answer.body.contains("Acceptor::origins"), "{answer:?}");
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn the_user_is_not_asked_about_a_page_of_another_origin() {
        let acceptor = acceptor().origins(Origins::list(["https://app.example"]).unwrap());
        let address = hyper_serves(acceptor).await;
        for (origin, query, status) in [
            ("https://app.example", "/?anna", 101),
            ("https://app.example", "/?panic", 500),
            ("http://peer", "/?panic", 403),
        ] {
            let request = of_page(origin).replace("/?anna", query);
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = within(http::ask(&mut stream, &request)).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
    }

    #[tokio::test]
    async fn the_shortest_forms_on_axum_and_hyper_are_safe_too() {
        let safe = get(async |upgrade: WebSocketUpgrade| upgrade.on_upgrade(greet));
        let open = get(async |upgrade: WebSocketUpgrade| {
            upgrade.origins(Origins::any()).on_upgrade(greet)
        });
        let app = Router::new().route("/safe", safe).route("/open", open);
        let address = axum_serves(app).await;
        for (path, status) in [("/safe", 403), ("/open", 101)] {
            let request = of_page("http://evil.example").replace("/?anna", path);
            let mut stream = TcpStream::connect(address).await.unwrap();
            let answer = within(http::ask(&mut stream, &request)).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
        let request = hyper::Request::get("/").header("Origin", "http://evil.example");
        let request = request
            .header("Host", "peer")
            .header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("Sec-WebSocket-Version", "13");
        let (response, _) = sockeye::hyper::upgrade(&mut request.body(()).unwrap());
        assert_eq!(response.status(), 403);
    }

    #[tokio::test]
    async fn where_this_server_speaks_tls_the_page_has_to_come_over_it_too() {
        let pki = Pki::new();
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server.acceptor(Acceptor::new().tls(pki.server()));
        tokio::spawn(server.router(pages()).serve(async |_| Ok(())));
        for behind in [false, true] {
            for (origin, status) in [("https://peer", 101), ("http://peer", 403)] {
                let stream = TcpStream::connect(address).await.unwrap();
                let mut stream = pki.speak_tls(stream).await;
                if behind {
                    within(http::get(&mut stream, "/page")).await;
                }
                let answer = within(http::ask(&mut stream, &of_page(origin))).await;
                assert_eq!(answer.status, status, "{answer:?}");
            }
        }
    }
}
