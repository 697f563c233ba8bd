//! Who the client is behind a proxy: believed of those that are named, and of nobody else.

use std::net::{IpAddr, SocketAddr};

use sockeye::{
    Acceptor, Error, Server, WebSocket,
    server::{Limit, Networks, ProxyHeaderError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{http, wire::*};

const PROXY: &str = "127.0.0.7";

fn proxies() -> Networks {
    PROXY.parse().unwrap()
}

struct Running {
    address: SocketAddr,
    errors: mpsc::UnboundedReceiver<(Option<SocketAddr>, Error)>,
}

impl Running {
    /// A server that tells each client who it is.
    async fn start(set: impl FnOnce(Server) -> Server) -> Self {
        let (tell, errors) = mpsc::unbounded_channel();
        let server = set(Server::bind("127.0.0.1:0").await.unwrap());
        let server = server.on_error(move |peer, error| {
            let _ = tell.send((peer, error.clone()));
        });
        let address = server.local_addr().unwrap();
        tokio::spawn(server.serve(|mut socket: WebSocket| async move {
            let name = |addr: Option<SocketAddr>| addr.map_or("-".into(), |a| a.to_string());
            let (client, proxy) = (name(socket.peer_addr()), socket.proxy_addr());
            let proxy = proxy.map_or("-".into(), |proxy| proxy.ip().to_string());
            socket.send(format!("{client} by {proxy}")).await?;
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
        Self { address, errors }
    }

    async fn reach(&self, from: &str) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket
            .bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0))
            .unwrap();
        within(socket.connect(self.address)).await.unwrap()
    }

    /// What comes first on the connection, all in one write, and the peer if it is open then.
    async fn say(&self, from: &str, first: &[u8], headers: &str) -> Result<Said, String> {
        let mut stream = self.reach(from).await;
        // With an early frame in the same write.
        let request = format!(
            "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
        );
        let all = [first, request.as_bytes(), &frame(0x81, true, b"early")].concat();
        let _ = stream.write_all(&all).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match within(stream.read(&mut byte)).await {
                Ok(1) => head.push(byte[0]),
                _ => break,
            }
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with("HTTP/1.1 101") {
            return Err(head);
        }
        let mut header = [0; 2];
        within(stream.read_exact(&mut header)).await.unwrap();
        let mut who = vec![0; usize::from(header[1])];
        within(stream.read_exact(&mut who)).await.unwrap();
        let mut early = [0; 7];
        within(stream.read_exact(&mut early)).await.unwrap();
        assert_eq!(early[2..], *b"early");
        Ok(Said {
            who: String::from_utf8(who).unwrap(),
            _stream: stream,
        })
    }

    async fn error(&mut self) -> Error {
        self.blamed().await.1
    }

    /// Who is said to have failed, and how.
    async fn blamed(&mut self) -> (String, Error) {
        let (peer, error) = within(self.errors.recv()).await.unwrap();
        (peer.map_or("-".into(), |peer| peer.to_string()), error)
    }
}

struct Said {
    who: String,
    _stream: TcpStream,
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 4711 443\r\n").into_bytes()
}

fn v2(command: u8, client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, 0, 12 + 7]);
    header.extend(client);
    header.extend([198, 51, 100, 1, 0x12, 0x67, 0x01, 0xBB]);
    // An extension that does nothing (PP2_TYPE_NOOP).
    header.extend([4, 0, 4, 1, 2, 3, 4]);
    header
}

mod proxy_protocol {
    use super::*;

    #[tokio::test]
    async fn the_client_is_seen() {
        let server = Running::start(|server| server.proxy_protocol(proxies())).await;
        for header in [v1("192.0.2.1"), v2(0x21, [192, 0, 2, 1])] {
            let said = server.say(PROXY, &header, "").await.unwrap();
            assert_eq!(said.who, "192.0.2.1:4711 by 127.0.0.7");
        }
        // The proxy's own connections, and one that is nobody's proxy.
        for header in [v2(0x20, [192, 0, 2, 1]), b"PROXY UNKNOWN\r\n".to_vec()] {
            let said = server.say(PROXY, &header, "").await.unwrap();
            assert!(said.who.starts_with("127.0.0.7:") && said.who.ends_with(" by -"));
        }
        let said = server.say("127.0.0.1", b"", "").await.unwrap();
        assert!(said.who.starts_with("127.0.0.1:") && said.who.ends_with(" by -"));
    }

    #[tokio::test]
    async fn nobody_else_may_send_one_and_the_proxy_must() {
        let mut server = Running::start(|server| server.proxy_protocol(proxies())).await;
        let refused = server.say("127.0.0.1", &v1("192.0.2.1"), "").await;
        assert!(refused.is_err_and(|head| head.starts_with("HTTP/1.1 400 ")));
        assert!(server.error().await.is_handshake());
        assert_eq!(server.say(PROXY, b"", "").await.err().unwrap(), "");
        let error = server.error().await;
        assert!(
            matches!(error, Error::ProxyHeader(ProxyHeaderError::Absent)),
            "{error}"
        );
        let bad = server.say(PROXY, b"PROXY TCP9 a b c d\r\n", "").await;
        assert_eq!(bad.err().unwrap(), "");
        assert!(matches!(
            server.error().await,
            Error::ProxyHeader(ProxyHeaderError::Malformed(_))
        ));
    }

    #[tokio::test]
    async fn limits_are_those_of_the_client() {
        let mut server = Running::start(|server| {
            server
                .proxy_protocol(proxies())
                .max_connections_per_address(1)
        })
        .await;
        let _first = server.say(PROXY, &v1("192.0.2.1"), "").await.unwrap();
        let _other = server.say(PROXY, &v1("192.0.2.2"), "").await.unwrap();
        let refused = server.say(PROXY, &v1("192.0.2.1"), "").await.err().unwrap();
        assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
        let error = server.error().await;
        let expected: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(
            matches!(
                error,
                Error::Limit { limit: Limit::ConnectionsPerAddress, address: Some(address) }
                    if address == expected
            ),
            "{error}"
        );
        // The same address without a proxy is another matter.
        let _direct = server.say("127.0.0.1", b"", "").await.unwrap();
    }

    #[tokio::test]
    async fn errors_are_told_of_the_client() {
        let mut server = Running::start(|server| {
            server
                .proxy_protocol(proxies())
                .max_connections_per_address(1)
        })
        .await;
        let client = "192.0.2.1:4711";
        let bad = server.say(PROXY, &v1("192.0.2.1"), "Host: b\r\n").await;
        assert!(bad.is_err());
        let (who, error) = server.blamed().await;
        assert!(who == client && error.is_handshake(), "{who}: {error}");
        let open = server.say(PROXY, &v1("192.0.2.1"), "").await.unwrap();
        let _refused = server.say(PROXY, &v1("192.0.2.1"), "").await;
        let (who, error) = server.blamed().await;
        assert!(
            who == client && matches!(error, Error::Limit { .. }),
            "{who}: {error}"
        );
        // One that was open, and is lost.
        drop(open);
        let (who, error) = server.blamed().await;
        assert!(who == client && error.is_lost(), "{who}: {error}");
        // Before it has said whose it is, it is the proxy's.
        let _ = server.say(PROXY, b"", "").await;
        let (who, _) = server.blamed().await;
        assert!(who.starts_with("127.0.0.7:"), "{who}");
    }

    #[tokio::test]
    async fn who_is_given_up_for_being_slow_is_the_client() {
        let mut server =
            Running::start(|server| server.proxy_protocol(proxies()).max_handshakes(1)).await;
        let mut slow = server.reach(PROXY).await;
        slow.write_all(&v1("192.0.2.1")).await.unwrap();
        let mut next = server.reach(PROXY).await;
        next.write_all(&v1("192.0.2.2")).await.unwrap();
        let (who, error) = server.blamed().await;
        assert!(
            who == "192.0.2.1:4711"
                && matches!(
                    error,
                    Error::Limit {
                        limit: Limit::Handshakes,
                        ..
                    }
                ),
            "{who}: {error}"
        );
    }

    /// The header comes before TLS, and takes no byte of it.
    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn tls_comes_behind_it() {
        use sockeye::{Client, client::ClientTls, server::ServerTls};

        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let tls = ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).unwrap();
        let server = Running::start(|server| {
            server
                .acceptor(Acceptor::new().tls(tls))
                .proxy_protocol(proxies())
        })
        .await;
        for header in [v1("192.0.2.1"), v2(0x21, [192, 0, 2, 1])] {
            let mut stream = server.reach(PROXY).await;
            stream.write_all(&header).await.unwrap();
            let client = Client::new("wss://localhost/")
                .tls(ClientTls::new().ca_pem(cert.as_bytes()).unwrap());
            let mut socket = within(client.connect_over(stream)).await.unwrap();
            let who = within(socket.recv()).await.unwrap().unwrap();
            assert_eq!(who.as_text(), Some("192.0.2.1:4711 by 127.0.0.7"));
        }
    }
}

mod in_a_header {
    use super::*;

    /// Also while it is being decided about.
    #[tokio::test]
    async fn who_is_given_up_for_being_slow_is_the_client() {
        let acceptor = Acceptor::new().forwarded(proxies());
        let acceptor = acceptor.on_request(|_| std::future::pending());
        let mut server = Running::start(|server| server.acceptor(acceptor).max_handshakes(1)).await;
        let mut slow = server.reach(PROXY).await;
        let request = "GET / HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Sec-WebSocket-Version: 13\r\nForwarded: for=\"192.0.2.1:4711\"\r\n\r\n";
        slow.write_all(request.as_bytes()).await.unwrap();
        let _next = server.reach(PROXY).await;
        let (who, error) = server.blamed().await;
        assert_eq!(who, "192.0.2.1:4711", "{error}");
        assert!(error.is_limit(), "{error}");
        let told = "192.0.2.1 was not let in: the opening handshake was given up";
        assert!(error.to_string().starts_with(told), "{error}");
    }

    #[tokio::test]
    async fn forwarded() {
        let acceptor = Acceptor::new().forwarded(proxies());
        let mut server = Running::start(|server| server.acceptor(acceptor)).await;
        let line = "Forwarded: for=203.0.113.9, for=\"[2001:db8::1]:99\"\r\n";
        let said = server.say(PROXY, b"", line).await.unwrap();
        assert_eq!(said.who, "[2001:db8::1]:99 by 127.0.0.7");
        let said = server
            .say(PROXY, b"", "Forwarded: for=_hidden\r\n")
            .await
            .unwrap();
        assert_eq!(said.who, "- by 127.0.0.7");
        // The other header is the client's.
        let said = server
            .say(PROXY, b"", "X-Forwarded-For: 192.0.2.1\r\n")
            .await
            .unwrap();
        assert!(said.who.starts_with("127.0.0.7:"), "{}", said.who);
        let said = server.say("127.0.0.1", b"", line).await.unwrap();
        assert!(said.who.starts_with("127.0.0.1:"), "{}", said.who);
        let bad = server.say(PROXY, b"", "Forwarded: for=\"x\r\n").await;
        assert!(bad.is_err_and(|head| head.starts_with("HTTP/1.1 400 ")));
        assert!(server.error().await.is_handshake());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn by_a_unix_socket() {
        let path = std::env::temp_dir().join(format!("sockeye-proxy-{}", std::process::id()));
        let acceptor = Acceptor::new().forwarded("unix".parse().unwrap());
        let server = Server::bind_unix(&path).unwrap().acceptor(acceptor);
        tokio::spawn(server.serve(|mut socket: WebSocket| async move {
            socket.send(format!("{:?}", socket.peer_addr())).await
        }));
        let client = sockeye::Client::new("ws://a.example/").unix_socket(&path);
        let client = client.header("Forwarded", "for=\"192.0.2.1:4711\"");
        let mut socket = within(client.connect()).await.unwrap();
        let who = within(socket.recv()).await.unwrap().unwrap();
        assert_eq!(who, "Some(192.0.2.1:4711)");
    }

    #[tokio::test]
    async fn limits_are_those_of_the_client() {
        let acceptor = Acceptor::new().x_forwarded_for(proxies());
        let mut server =
            Running::start(|server| server.acceptor(acceptor).max_connections_per_address(2)).await;
        let line = "X-Forwarded-For: 203.0.113.9, 192.0.2.1\r\n";
        let _first = server.say(PROXY, b"", line).await.unwrap();
        let second = server.say(PROXY, b"", line).await.unwrap();
        assert_eq!(second.who, "192.0.2.1:0 by 127.0.0.7");
        let refused = server.say(PROXY, b"", line).await.err().unwrap();
        assert!(refused.starts_with("HTTP/1.1 429 "), "{refused}");
        assert!(refused.contains("Retry-After: "), "{refused}");
        let error = server.error().await;
        assert!(
            matches!(
                error,
                Error::Limit {
                    limit: Limit::ConnectionsPerAddress,
                    ..
                }
            ),
            "{error}"
        );
        let other = "X-Forwarded-For: 192.0.2.2\r\n";
        let _other = server.say(PROXY, b"", other).await.unwrap();
    }

    #[tokio::test]
    async fn errors_are_told_of_the_client() {
        let acceptor = Acceptor::new().forwarded(proxies());
        let mut server = Running::start(|server| server.acceptor(acceptor)).await;
        for (line, client) in [
            ("Forwarded: for=\"192.0.2.1:4711\"\r\n", "192.0.2.1:4711"),
            ("Forwarded: for=_hidden\r\n", "-"),
        ] {
            let headers = format!("{line}Host: b\r\n");
            assert!(server.say(PROXY, b"", &headers).await.is_err());
            let (who, error) = server.blamed().await;
            assert!(who == client && error.is_handshake(), "{who}: {error}");
            drop(server.say(PROXY, b"", line).await.unwrap());
            let (who, error) = server.blamed().await;
            assert!(who == client && error.is_lost(), "{who}: {error}");
        }
    }

    /// Also where the request comes behind others, for pages, on the same connection.
    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn errors_on_a_connection_with_pages_are_told_of_the_client() {
        let acceptor = Acceptor::new().forwarded(proxies());
        let pages = axum::Router::new().route("/page", axum::routing::get(async || "a page"));
        let mut server = Running::start(|server| server.acceptor(acceptor).router(pages)).await;
        let page = b"GET /page HTTP/1.1\r\nHost: a.example\r\n\r\n";
        let line = "Forwarded: for=\"192.0.2.1:4711\"\r\nHost: b\r\n";
        let answer = server.say(PROXY, page, line).await.err().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let (who, error) = server.blamed().await;
        assert!(
            who == "192.0.2.1:4711" && error.is_handshake(),
            "{who}: {error}"
        );
    }

    /// The proxy keeps the connection, also for other clients.
    #[cfg(feature = "axum")]
    #[tokio::test]
    async fn limits_on_a_connection_with_pages_are_those_of_each_request() {
        let acceptor = Acceptor::new().x_forwarded_for(proxies());
        let pages = axum::Router::new().route("/", axum::routing::get(async || "a page"));
        let mut server = Running::start(|server| {
            let server = server.acceptor(acceptor).router(pages);
            server.max_connections_per_address(1)
        })
        .await;
        let of = |client: &str| http::with("nothing", &format!("X-Forwarded-For: {client}\r\n"));
        let _first = server
            .say(PROXY, b"", "X-Forwarded-For: 192.0.2.1\r\n")
            .await
            .unwrap();
        let mut kept = server.reach(PROXY).await;
        assert_eq!(within(http::get(&mut kept, "/")).await.status, 200);

        let refused = within(http::ask(&mut kept, &of("192.0.2.1"))).await;
        assert_eq!(refused.status, 429);
        let (who, error) = server.blamed().await;
        assert!(who == "192.0.2.1:0" && error.is_limit(), "{who}: {error}");

        let old = of("192.0.2.2").replace("Version: 13", "Version: 8");
        assert_eq!(within(http::ask(&mut kept, &old)).await.status, 426);
        let (who, error) = server.blamed().await;
        assert!(
            who == "192.0.2.2:0" && error.is_handshake(),
            "{who}: {error}"
        );

        // Which has no connection, then.
        let second = "X-Forwarded-For: 192.0.2.2\r\n";
        let _second = server.say(PROXY, b"", second).await.unwrap();
        let third = within(http::ask(&mut kept, &of("192.0.2.3"))).await;
        assert_eq!(third.status, 101);
        let again = "X-Forwarded-For: 192.0.2.3\r\n";
        let again = server.say(PROXY, b"", again).await;
        assert!(again.is_err_and(|head| head.starts_with("HTTP/1.1 429 ")));
    }

    /// A page may connect that is of the host which the browser has asked for.
    #[tokio::test]
    async fn the_host_and_the_scheme_are_what_the_origin_is_compared_with() {
        let acceptor = Acceptor::new().forwarded(proxies());
        let server = Running::start(|server| server.acceptor(acceptor)).await;
        let page = "Origin: https://shop.example\r\n";
        let told = "Forwarded: for=192.0.2.1;host=shop.example;proto=https\r\n";
        server
            .say(PROXY, b"", &format!("{page}{told}"))
            .await
            .unwrap();
        let refused = server.say(PROXY, b"", page).await.err().unwrap();
        assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
        let spoofed = server.say("127.0.0.1", b"", &format!("{page}{told}")).await;
        assert!(spoofed.is_err_and(|head| head.starts_with("HTTP/1.1 403 ")));
    }

    /// A bug: it was told that pages of this host and port may connect, and it is one.
    #[tokio::test]
    async fn a_page_whose_scheme_alone_differs_is_told_so() {
        let acceptor = Acceptor::new().x_forwarded_for(proxies());
        let server = Running::start(|server| server.acceptor(acceptor)).await;
        for (origin, by_scheme) in [
            ("http://peer", true),
            ("http://peer:81", false),
            ("https://other", false),
            ("ws://peer", false),
        ] {
            let said = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n";
            let request = http::with("nothing", &format!("Origin: {origin}\r\n{said}"));
            let answer = within(http::ask(&mut server.reach(PROXY).await, &request)).await;
            assert_eq!(answer.status, 403, "{answer:?}");
            for (words, are_said) in [
                ("its scheme alone differs, which has to be https", by_scheme),
                ("pages of this host and port may.", !by_scheme),
            ] {
                assert_eq!(answer.body.contains(words), are_said, "{answer:?}");
            }
        }
    }
}
