//! The way to a server: its addresses, Unix sockets, redirects, who we are, and the options of TCP.

use std::{error::Error as _, net::SocketAddr, time::Duration};

use sockeye::{
    Acceptor, Client, Deadline, Error,
    client::{Cause, ClientTls, RedirectError},
    server::{Answer, Refusal, Request},
};

use crate::{network::*, wire::within};

#[cfg(target_os = "linux")]
mod an_address_that_answers_nothing {
    use std::time::Instant;

    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    /// An address of IPv6 that answers nothing at all: its queue of connections is full, and the
    /// system drops what else comes. The sockets are to be kept.
    async fn black_hole() -> Option<(SocketAddr, impl Drop)> {
        let socket = TcpSocket::new_v6().ok()?;
        socket.bind("[::1]:0".parse().unwrap()).ok()?;
        let listener = socket.listen(1).ok()?;
        let address = listener.local_addr().ok()?;
        let mut queued = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(connected) = tokio::time::timeout(patience, TcpStream::connect(address)).await
        {
            queued.push(connected.ok()?);
            assert!(queued.len() < 100, "the queue has no end");
        }
        Some((address, Kept(listener, queued)))
    }

    #[allow(dead_code, reason = "kept open")]
    struct Kept(tokio::net::TcpListener, Vec<TcpStream>);

    impl Drop for Kept {
        fn drop(&mut self) {}
    }

    #[tokio::test]
    async fn a_live_one_beside_a_black_hole_is_reached_within_400_ms() {
        let (server, _) = echo().await;
        let Some((black_hole, _kept)) = black_hole().await else {
            // A machine without IPv6; `client::dial` has the same with paused time.
            return;
        };
        let client = client("ws://two.example/").resolve("two.example", [black_hole, server]);
        let mut took = Duration::MAX;
        // The best of some: the machine may have other things to do.
        for _ in 0..20 {
            let begin = Instant::now();
            let socket = within(client.connect()).await.unwrap();
            assert_eq!(socket.peer_addr(), Some(server));
            took = took.min(begin.elapsed());
            if took < Duration::from_millis(400) {
                break;
            }
        }
        assert!(
            took >= Duration::from_millis(249),
            "the first goes first: {took:?}"
        );
        assert!(took < Duration::from_millis(400), "{took:?}");

        // Alone, it is waited for until the deadline.
        let client = client.resolve("two.example", [black_hole]);
        let impatient = client.clone().connect_timeout(Duration::from_millis(50));
        let error = failure(&impatient).await;
        assert!(
            matches!(error.cause(), Error::Connect { attempts } if attempts.len() == 1),
            "{error:?}"
        );
        assert!(error.is_timeout() && error.is_connect());
        let told = format!(
            "ws://two.example/: no connection to {black_hole}: no answer in time (the connect timeout)"
        );
        assert_eq!(error.to_string(), told);

        // What became of the others is told with it.
        let refusing = nobody().await;
        let client = client.resolve("two.example", [black_hole, refusing]);
        let error = failure(&client.connect_timeout(Duration::from_secs(1))).await;
        let told = error.to_string();
        assert!(
            told.starts_with(&format!("ws://two.example/: no connection to {refusing}: ")),
            "{told}"
        );
        assert!(
            told.contains(&format!("; nor to {black_hole}: no answer")),
            "{told}"
        );
        assert!(!error.is_timeout());
    }
}

mod addresses {
    use super::*;

    #[tokio::test]
    async fn where_one_refuses_the_next_is_tried_at_once() {
        let (server, _) = echo().await;
        let client = client("ws://two.example/").resolve("two.example", [nobody().await, server]);
        echoes(&client).await.unwrap();
    }

    /// It was told that nobody was reached, as of an address.
    #[tokio::test]
    async fn a_name_that_is_not_found_in_time_is_told_as_that() {
        let client = client("ws://slow.example/").connect_timeout(Duration::ZERO);
        let error = failure(&client).await;
        let told = "ws://slow.example/: the name slow.example leads to no address: no answer in time (the connect timeout)";
        assert_eq!(error.to_string(), told);
        assert!(error.is_timeout() && error.is_connect());
    }

    #[tokio::test]
    async fn where_all_fail_each_is_told_with_its_error() {
        let [one, two] = [nobody().await, nobody().await];
        let client = client("ws://two.example/").resolve("two.example", [one, two]);
        let error = failure(&client).await;
        let Error::Connect { attempts } = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(attempts.len(), 2);
        assert!(error.is_connect() && !error.is_timeout());
        let message = error.to_string();
        for address in [one, two] {
            assert!(message.contains(&format!("to {address}: ")), "{message}");
        }
        assert_eq!(message.matches("refused").count(), 2, "{message}");
    }

    #[tokio::test]
    async fn what_is_given_is_for_its_host_and_port_alone() {
        let (server, _) = echo().await;
        let client = client("ws://a.invalid:81/").resolve("a.invalid:80", [server]);
        assert!(matches!(
            failure(&client).await.cause(),
            Error::Resolve { .. }
        ));
        echoes(&client.resolve("a.invalid:81", [server]))
            .await
            .unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_comes_from_the_address_and_interface_asked_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let connecting = client(&url).local_address("127.0.0.2".parse().unwrap());
        let connecting = connecting
            .interface("lo")
            .tcp_keepalive(Duration::from_secs(60));
        let (opened, peer) = tokio::join!(within(connecting.connect()), async {
            let (stream, peer) = listener.accept().await.unwrap();
            let _socket = sockeye::accept(stream).await.unwrap();
            peer
        });
        opened.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.2");

        let nowhere = client(&url).interface("none0");
        let error = failure(&nowhere).await;
        assert!(
            matches!(error.cause(), Error::Local { from, .. } if &**from == "none0"),
            "{error:?}"
        );
        let nowhere = client(&url).local_address("192.0.2.7".parse().unwrap());
        let error = failure(&nowhere).await;
        let Error::Local { from, source } = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(&**from, "192.0.2.7");
        assert_eq!(source.kind(), std::io::ErrorKind::AddrNotAvailable);
        assert!(error.is_connect() && !error.is_user());
    }
}

#[cfg(unix)]
mod unix_sockets {
    use super::*;

    /// A socket in a directory of its own, and what was asked there.
    fn listen(name: &str) -> (std::path::PathBuf, Seen<Request>) {
        let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = directory.join(format!("{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let seen = Seen::new();
        let requests = seen.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let requests = requests.clone();
                tokio::spawn(async move {
                    let mut socket = sockeye::accept(stream).await?;
                    requests.push(socket.request().unwrap().clone());
                    while let Some(message) = socket.recv().await? {
                        socket.send(message).await?;
                    }
                    Ok::<_, Error>(())
                });
            }
        });
        (path, seen)
    }

    #[tokio::test]
    async fn are_reached_by_url_and_by_path() {
        let (path, seen) = listen("reached");
        let path = path.to_str().unwrap();
        // A proxy is not on the way.
        let nobody: sockeye::client::Proxy = "http://127.0.0.1:1".parse().unwrap();
        let by_url = sockeye::Client::new(format!("ws+unix:{path}:/chat?a=b")).proxy(nobody);
        echoes(&by_url).await.unwrap();
        echoes(&client("ws://example.com:81/x").unix_socket(path))
            .await
            .unwrap();
        let asked: Vec<_> = seen
            .all()
            .iter()
            .map(|request| {
                let host = request.headers().first_str("Host").unwrap();
                format!("{host} {}", request.target())
            })
            .collect();
        assert_eq!(asked, ["localhost /chat?a=b", "example.com:81 /x"]);
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn that_are_not_there_are_named() {
        let error = failure(&client("ws+unix:/none/such.sock:/")).await;
        assert!(matches!(error.cause(), Error::Connect { .. }), "{error:?}");
        assert!(error.to_string().contains("/none/such.sock"), "{error}");
    }
}

mod redirects {
    use super::*;

    fn to(status: u16, location: impl AsRef<str>) -> Result<Answer, Refusal> {
        Err(Refusal::new(status, "elsewhere\n").header("Location", location.as_ref())?)
    }

    /// `/302/302/x` leads to `/302/x`, and that to `/x`, which is an echo; `/loop` leads to itself.
    async fn chain() -> (SocketAddr, Seen<Request>) {
        server(Acceptor::new(), |request| {
            let mut parts = request.target().splitn(3, '/').skip(1);
            match (parts.next().unwrap(), parts.next()) {
                ("loop", _) => to(302, "/loop"),
                (status, Some(rest)) => to(status.parse().unwrap(), format!("/{rest}")),
                _ => Ok(Answer::new()),
            }
        })
        .await
    }

    #[tokio::test]
    async fn are_not_followed_by_default() {
        let (server, seen) = chain().await;
        let error = failure(&client(format!("ws://{server}/302/x"))).await;
        let response = error.response().unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers().first_str("Location"), Some("/x"));
        assert_eq!(response.body(), b"elsewhere\n");
        assert_eq!(seen.all().len(), 1);
    }

    #[tokio::test]
    async fn are_followed_up_to_the_limit() {
        let (server, seen) = chain().await;
        let client = client(format!("ws://{server}/301/302/303/307/308/x"));
        echoes(&client.clone().redirects(5)).await.unwrap();
        assert_eq!(seen.all().len(), 6);
        let error = failure(&client.redirects(4)).await;
        let Error::Redirect { problem, .. } = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(*problem, RedirectError::TooMany { limit: 4 });
        let response = error.response().unwrap();
        assert_eq!(response.status(), 308);
        assert_eq!(response.headers().first_str("Location"), Some("/x"));
        assert_eq!(response.body(), b"elsewhere\n");
        assert!(!error.is_handshake() && !Cause::Attempt(error.clone()).is_transient());
        let told = error.to_string();
        let who = format!("redirected to ws://{server}/308/x: the redirect to ");
        assert!(
            told.starts_with(&who) && told.contains("4 redirects"),
            "{told}"
        );
    }

    #[tokio::test]
    async fn are_shown_to_whoever_inspects_requests() {
        let (server, _) = chain().await;
        let shown = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let looking = shown.clone();
        let client = client(format!("ws://{server}/302/x"))
            .redirects(1)
            .inspect_request(move |head| looking.lock().unwrap().push(head.to_vec()));
        echoes(&client).await.unwrap();
        let shown = shown.lock().unwrap();
        assert_eq!(shown.len(), 2);
        for (head, path) in shown.iter().zip(["/302/x", "/x"]) {
            let begins = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n");
            assert!(head.starts_with(begins.as_bytes()), "{head:?}");
            assert!(head.ends_with(b"\r\n\r\n"), "{head:?}");
        }
    }

    #[tokio::test]
    async fn that_lead_to_a_failure_are_in_its_error() {
        let (other, _) = server(Acceptor::new(), |_| Err(Refusal::new(404, "not here\n"))).await;
        let (home, _) = server(Acceptor::new(), move |request| match request.target() {
            "/out" => to(302, format!("ws://{other}/second?token=secret")),
            "/in" => to(302, "/none"),
            "/silent" => to(302, "ws://127.0.0.1:1/"),
            _ => Err(Refusal::new(503, "")),
        })
        .await;
        for (path, server, left_origin) in [
            ("out", format!("ws://{other}/second"), true),
            ("in", format!("ws://{home}/none"), false),
            ("silent", "ws://127.0.0.1:1/".into(), true),
        ] {
            let client = client(format!("ws://{home}/{path}")).redirects(1);
            let error = failure(&client).await;
            let told = error.to_string();
            assert!(
                told.starts_with(&format!("redirected to {server}: ")),
                "{told}"
            );
            let Error::Open {
                url,
                is_redirected: true,
                is_abroad,
                source,
            } = &error
            else {
                panic!("{error:?}");
            };
            assert_eq!((&**url, *is_abroad), (&*server, left_origin));
            assert_eq!(error.is_handshake(), source.is_handshake());
            assert_eq!(error.is_connect(), path == "silent");
            let status = error.response().map(|response| response.status());
            let is_transient = Cause::Attempt(error).is_transient();
            match path {
                "out" => assert_eq!((status, is_transient), (Some(404), false)),
                "in" => assert_eq!((status, is_transient), (Some(503), true)),
                _ => assert_eq!((status, is_transient), (None, true)),
            }
        }
        // Where none was followed, there is nothing to tell.
        let error = failure(&client(format!("ws://{home}/none")).redirects(1)).await;
        assert!(matches!(error.cause(), Error::Handshake(_)), "{error:?}");
    }

    #[tokio::test]
    async fn that_lead_in_a_circle_end() {
        let (server, seen) = chain().await;
        let error = failure(&client(format!("ws://{server}/302/loop")).redirects(50)).await;
        assert!(
            matches!(
                error.cause(),
                Error::Redirect {
                    problem: RedirectError::Loop,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(seen.all().len(), 2);
    }

    #[tokio::test]
    async fn never_lead_from_tls_to_none() {
        let pki = Pki::new();
        let (plain, seen) = echo().await;
        let acceptor = Acceptor::new().tls(pki.server());
        let (secure, _) = server(acceptor, move |_| to(302, format!("ws://{plain}/"))).await;
        let client = client(format!("wss://{secure}/")).tls(pki.trusted());
        let error = failure(&client.redirects(5)).await;
        assert!(
            matches!(
                error.cause(),
                Error::Redirect {
                    problem: RedirectError::Insecure,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(seen.all().len(), 0);
    }

    #[tokio::test]
    async fn carry_no_secret_to_another_origin_and_every_one_to_the_same() {
        let (other, foreign) = echo().await;
        let (home, seen) = server(Acceptor::new(), move |request| match request.target() {
            "/" => to(302, "/inside"),
            _ => to(307, format!("ws://{other}/")),
        })
        .await;
        let by_header = client(format!("ws://{home}/"))
            .header("Authorization", "Bearer abc")
            .header("Proxy-Authorization", "Basic abc")
            .header("Cookie", "a=b");
        let by_setting = client(format!("ws://{home}/"))
            .credentials("user", "secret")
            .cookie("a", "b");
        let by_url = client(format!("ws://user:secret@{home}/")).header("X-Fish", "salmon");
        for client in [by_header, by_setting, by_url] {
            echoes(&client.redirects(2)).await.unwrap();
        }
        assert_eq!((seen.all().len(), foreign.all().len()), (6, 3));
        let secrets = ["Authorization", "Cookie", "Proxy-Authorization"];
        for request in foreign.all() {
            for secret in secrets {
                assert_eq!(request.headers().first(secret), None, "{request:?}");
            }
        }
        for request in seen.all() {
            assert!(request.headers().first("Authorization").is_some());
        }
        // What is no secret by its name is carried on.
        let last = foreign.all().pop().unwrap();
        assert_eq!(last.headers().first_str("X-Fish"), Some("salmon"));
    }
}

/// A bug: over TLS of the user's own, where the URL says `ws`, that was an [`Error::Lost`], which is tried again
/// without end.
#[tokio::test]
async fn a_certificate_that_is_missing_is_told_over_tls_of_the_users_own() {
    let pki = Pki::new();
    let (strict, _) = server(Acceptor::new().tls(pki.strict_server()), |_| {
        Ok(Answer::new())
    })
    .await;
    let tcp = tokio::net::TcpStream::connect(strict).await.unwrap();
    let tls = pki.speak_tls_unknown(tcp).await;
    let client = client("ws://localhost/");
    let error = within(client.connect_over(tls)).await.unwrap_err();
    assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
    assert!(!Cause::Attempt(error).is_transient());
}

/// The certificate of a client shows who it is, too.
#[tokio::test]
async fn a_certificate_is_not_shown_to_another_origin() {
    let pki = Pki::new();
    let strict = Acceptor::new().tls(pki.strict_server());
    let (strict, _) = server(strict, |_| Ok(Answer::new())).await;
    let strict = format!("wss://{strict}/");
    let elsewhere = strict.clone();
    let (home, _) = server(Acceptor::new().tls(pki.server()), move |_| {
        Err(Refusal::new(302, "").header("Location", &elsewhere)?)
    })
    .await;
    echoes(&client(&strict).tls(pki.known())).await.unwrap();
    let redirected = client(format!("wss://{home}/")).tls(pki.known());
    let error = failure(&redirected.redirects(1)).await;
    // In TLS 1.3 the server says so only once the client has begun to talk. It is of no use to try again.
    assert!(
        matches!(error.cause(), Error::Tls { subject, .. } if &**subject == "127.0.0.1"),
        "{error:?}"
    );
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    assert!(error.is_connect() && !Cause::Attempt(error).is_transient());
}

/// It was what went wrong, and not where.
#[tokio::test]
async fn what_keeps_a_connection_from_opening_is_told_with_its_server() {
    let (server, _) = server(Acceptor::new(), |_| Err(Refusal::new(404, ""))).await;
    let client = client(format!("ws://user:secret@{server}/a?secret"));
    let tcp = tokio::net::TcpStream::connect(server).await.unwrap();
    let over = within(client.connect_over(tcp)).await.unwrap_err();
    for error in [failure(&client).await, over] {
        let told = error.to_string();
        let begin = format!("ws://{server}/a: the opening handshake failed: ");
        assert!(
            told.starts_with(&begin) && !told.contains("secret"),
            "{told}"
        );
        assert!(matches!(error.cause(), Error::Handshake(_)), "{error:?}");
        assert_eq!(error.response().unwrap().status(), 404);
        let within = error.source().unwrap();
        assert_eq!(within.to_string(), error.cause().to_string());
    }
    // What cannot be asked was asked of nobody.
    for (client, why) in [
        (client.clone().subprotocol("a b"), "subprotocol"),
        (Client::new("ws://a/#b"), "fragment"),
    ] {
        let error = failure(&client).await;
        assert!(
            error.is_user() && !matches!(error, Error::Open { .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains(why), "{error}");
    }
}

mod who_we_are {
    use super::*;

    #[tokio::test]
    async fn comes_from_the_url_a_setting_or_a_header_the_last_of_them_first() {
        let (server, seen) = echo().await;
        let url = format!("ws://Aladdin:open%20sesame@{server}/");
        let client = client(url);
        assert!(!format!("{client:?}").contains("sesame"));
        echoes(&client).await.unwrap();
        let client = client.credentials("a", "b");
        echoes(&client).await.unwrap();
        echoes(&client.header("authorization", "Bearer c"))
            .await
            .unwrap();
        let sent: Vec<_> = seen
            .all()
            .iter()
            .map(|request| {
                assert_eq!(
                    request.headers().first_str("Host"),
                    Some(server.to_string().as_str())
                );
                request
                    .headers()
                    .first_str("Authorization")
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(
            sent,
            [
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
                "Basic YTpi",
                "Bearer c"
            ]
        );
    }

    #[tokio::test]
    async fn cookies_are_one_header() {
        let (server, seen) = echo().await;
        let client = client(format!("ws://{server}/"))
            .cookie("a", "b")
            .header("Cookie", "c=d; e=f")
            .cookie("g", "\"h\"");
        echoes(&client).await.unwrap();
        let request = seen.all().pop().unwrap();
        let cookies: Vec<_> = request
            .headers()
            .iter()
            .filter(|(name, _)| *name == "Cookie")
            .collect();
        assert_eq!(cookies, [("Cookie", &b"a=b; g=\"h\"; c=d; e=f"[..])]);
        for (name, value) in [
            ("a", "b; c=d"),
            ("a b", "c"),
            ("a", "b c"),
            ("a", "\r\nX: y"),
            ("", "a"),
        ] {
            let error = failure(&client.clone().cookie(name, value)).await;
            assert!(error.is_user(), "{error:?}");
        }
    }
}

mod tls {
    use std::sync::Arc;

    use rustls::{HandshakeKind, ServerConfig};
    use tokio::{net::TcpListener, sync::mpsc};

    use super::*;

    /// How TLS was set up with a client, and whether that has shown a certificate, now or in the session before.
    type Told = (HandshakeKind, bool);

    /// A server that tells so of each client, and greets those it lets in.
    async fn telling(
        config: Arc<ServerConfig>,
        acceptor: Acceptor,
    ) -> (SocketAddr, mpsc::UnboundedReceiver<Told>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let tls = tokio_rustls::TlsAcceptor::from(config.clone());
                let tls = tls.accept(tcp).await.unwrap();
                let said = tls.get_ref().1;
                let kind = said.handshake_kind().unwrap();
                let _ = tell.send((kind, said.peer_certificates().is_some()));
                if let Ok(mut socket) = acceptor.accept(tls).await {
                    socket.send("hello").await.unwrap();
                    socket.flush().await.unwrap();
                    kept.push(socket);
                }
            }
        });
        (address, told)
    }

    /// Connects, and reads what comes first: the tickets of TLS 1.3 come with that.
    async fn greeted(client: &Client) {
        let mut socket = within(client.connect()).await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap().unwrap(), "hello");
    }

    /// A bug: whoever had an authority or a certificate of their own made all anew for each connection.
    #[tokio::test]
    async fn sessions_are_resumed() {
        let pki = Pki::new();
        let (server, mut told) = telling(pki.asking_config(), Acceptor::new()).await;
        let client = client(format!("wss://{server}/"));
        let besides = ClientTls::new().extra_ca_pem(pki.ca.as_bytes()).unwrap();
        for (tls, known) in [
            (pki.trusted(), false),
            (besides, false),
            (pki.known(), true),
            (ClientTls::new().dangerous_accept_any_certificate(), false),
        ] {
            let first = client.clone().tls(tls.clone());
            greeted(&first).await;
            assert_eq!(told.recv().await, Some((HandshakeKind::Full, known)));
            for next in [first.clone(), first, client.clone().tls(tls)] {
                greeted(&next).await;
                assert_eq!(told.recv().await, Some((HandshakeKind::Resumed, known)));
            }
        }
    }

    #[tokio::test]
    async fn what_is_set_later_holds_for_what_was_used_before() {
        let (pki, other) = (Pki::new(), Pki::new());
        let (server, mut told) = telling(pki.asking_config(), Acceptor::new()).await;
        let trusting = |tls: ClientTls| client(format!("wss://{server}/")).tls(tls);
        let tls = pki.trusted();
        greeted(&trusting(tls.clone())).await;
        assert_eq!(told.recv().await, Some((HandshakeKind::Full, false)));
        let (certificate, key) = (pki.certificate.as_bytes(), pki.key.as_bytes());
        let ca = other.ca.as_bytes();
        for (changed, known) in [
            (tls.clone().certificate_pem(certificate, key).unwrap(), true),
            (tls.clone().ca_pem(ca).unwrap(), false),
            (tls.clone().extra_ca_pem(ca).unwrap(), false),
            (tls.clone().dangerous_accept_any_certificate(), false),
        ] {
            greeted(&trusting(changed)).await;
            assert_eq!(told.recv().await, Some((HandshakeKind::Full, known)));
        }
        greeted(&trusting(tls)).await;
        assert_eq!(told.recv().await, Some((HandshakeKind::Resumed, false)));
    }

    /// The same name at both origins, which sessions are kept by, and a server that would resume them.
    #[tokio::test]
    async fn no_session_that_shows_who_we_are_is_resumed_at_another_origin() {
        let pki = Pki::new();
        let config = pki.asking_config();
        let (other, mut abroad) = telling(config.clone(), Acceptor::new()).await;
        let elsewhere = format!("wss://{other}/");
        let acceptor = Acceptor::new().on_request(move |_| {
            let refusal = Refusal::new(302, "").header("Location", &elsewhere);
            std::future::ready(Err(refusal.unwrap()))
        });
        let (home, mut at_home) = telling(config, acceptor).await;
        let client = client(format!("wss://{home}/")).redirects(1);
        let client = client.tls(pki.known());
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            greeted(&client).await;
            assert_eq!(at_home.recv().await, Some((kind, true)));
            assert_eq!(abroad.recv().await, Some((kind, false)));
        }
    }

    /// No provider of cryptography is installed here, and none has to be.
    #[tokio::test]
    async fn needs_no_default_provider() {
        let pki = Pki::new();
        let (server, _) = server(Acceptor::new().tls(pki.server()), |_| Ok(Answer::new())).await;
        let client = client(format!("wss://{server}/")).tls(pki.trusted());
        echoes(&client).await.unwrap();
        // The platform's roots do not know it, which is no panic either.
        let error = failure(&client.tls(ClientTls::new())).await;
        assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
        assert!(rustls::crypto::CryptoProvider::get_default().is_none());
    }

    #[tokio::test]
    async fn trusts_authorities_besides_the_platforms() {
        let pki = Pki::new();
        let (server, _) = server(Acceptor::new().tls(pki.server()), |_| Ok(Answer::new())).await;
        let added = ClientTls::new().extra_ca_pem(pki.ca.as_bytes()).unwrap();
        echoes(&client(format!("wss://{server}/")).tls(added))
            .await
            .unwrap();
        let others = ClientTls::new()
            .extra_ca_pem(Pki::new().ca.as_bytes())
            .unwrap();
        let error = failure(&client(format!("wss://{server}/")).tls(others)).await;
        assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
        assert!(ClientTls::new().extra_ca_pem(b"none").is_err());
        // It is PEM, and no certificate.
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for refused in [
            ClientTls::new().extra_ca_pem(broken),
            ClientTls::new().ca_pem(broken),
        ] {
            let error = refused.unwrap_err().to_string();
            assert!(error.contains("the authority given"), "{error}");
        }
    }

    /// A bug: beside authorities in place of the platform's the others counted for nothing.
    #[tokio::test]
    async fn trusts_authorities_besides_those_given() {
        let (one, other) = (Pki::new(), Pki::new());
        let both = one.trusted().extra_ca_pem(other.ca.as_bytes()).unwrap();
        for pki in [one, other] {
            let (server, _) =
                server(Acceptor::new().tls(pki.server()), |_| Ok(Answer::new())).await;
            echoes(&client(format!("wss://{server}/")).tls(both.clone()))
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn that_never_begins_is_left_at_its_own_deadline() {
        let address = scripted(b"").await;
        let client = client(format!("wss://{address}/")).tls_timeout(Duration::from_millis(50));
        let error = failure(&client).await;
        assert!(
            matches!(error.cause(), Error::Timeout(Deadline::Tls)),
            "{error:?}"
        );
        assert!(error.to_string().contains("the TLS timeout"), "{error}");
    }
}
