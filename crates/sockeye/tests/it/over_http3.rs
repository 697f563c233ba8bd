//! WebSockets on streams of HTTP/3 (RFC 9220), in both roles.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::{pending, poll_fn, ready},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use quinn::{
    Connection, ConnectionError, Endpoint, RecvStream, SendStream,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sockeye::{
    Acceptor, Client, CloseCode, Ended, Error, Message, Result, Server, WebSocket,
    client::{Http3, Proxy},
    server::{Answer, Limit, Refusal, Shutdown, ShutdownHandle},
};
use tokio::{
    io::ReadBuf,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    network::Pki,
    wire::{self, within},
};

const SECOND: Duration = Duration::from_secs(1);

/// A server, whom its clients trust.
struct Served {
    pki: Pki,
    address: SocketAddr,
    handle: ShutdownHandle,
    served: JoinHandle<Result<()>>,
}

/// A server that echoes.
async fn serve(acceptor: Acceptor, set_up: impl FnOnce(Server) -> Server) -> Served {
    serve_by(acceptor, set_up, echo).await
}

async fn echo(mut socket: WebSocket) -> Result<()> {
    while let Some(message) = socket.recv().await? {
        socket.send(message).await?;
    }
    Ok(())
}

async fn serve_by<Fut>(
    acceptor: Acceptor,
    set_up: impl FnOnce(Server) -> Server,
    work: impl Fn(WebSocket) -> Fut + Send + Sync + 'static,
) -> Served
where
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    let pki = Pki::new();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = udp.local_addr().unwrap();
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let server = set_up(server.acceptor(acceptor.tls(pki.server())).http3(udp));
    Served {
        pki,
        address,
        handle: server.shutdown_handle(),
        served: tokio::spawn(server.serve(work)),
    }
}

impl Served {
    fn client(&self, path: &str) -> Client {
        let url = format!("wss://localhost:{}{path}", self.address.port());
        Client::new(url)
            .resolve("localhost", [self.address])
            .tls(self.pki.trusted())
            .no_proxy()
    }

    async fn connect(&self) -> Http3 {
        within(Http3::connect(&self.client("/"))).await.unwrap()
    }

    async fn open(&self, http3: &Http3, path: &str) -> WebSocket {
        within(http3.open(&self.client(path))).await.unwrap()
    }

    /// It serves whoever else comes.
    async fn is_well(&self) {
        let mut socket = self.open(&self.connect().await, "/").await;
        echoes(&mut socket, "well").await;
        within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
    }
}

async fn echoes(socket: &mut WebSocket, text: &str) {
    within(socket.send(text)).await.unwrap();
    let message = within(socket.recv()).await.unwrap();
    assert_eq!(message, Some(Message::from(text)));
}

/// What comes next for any of the clients.
async fn answered(
    clients: &HashMap<SocketAddr, tokio::net::UdpSocket>,
    datagram: &mut [u8],
) -> (SocketAddr, usize) {
    poll_fn(|cx| {
        for (from, socket) in clients {
            let mut read = ReadBuf::new(datagram);
            if socket.poll_recv(cx, &mut read).is_ready() {
                return Poll::Ready((*from, read.filled().len()));
            }
        }
        Poll::Pending
    })
    .await
}

/// Hands datagrams on between a server and whoever comes, each of these after a while, and tells of each Retry (RFC 9000 §17.2.5).
async fn relay(server: SocketAddr, wait: Duration) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let front = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = front.local_addr().unwrap();
    let (told, retried) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut clients: HashMap<_, tokio::net::UdpSocket> = HashMap::new();
        let mut datagram = [0; 65_536];
        let mut back = [0; 65_536];
        loop {
            tokio::select! {
                received = front.recv_from(&mut datagram) => {
                    let (len, from) = received.unwrap();
                    let client = match clients.entry(from) {
                        Entry::Occupied(known) => known.into_mut(),
                        Entry::Vacant(new) => {
                            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
                            socket.connect(server).await.unwrap();
                            new.insert(socket)
                        }
                    };
                    sleep(wait).await;
                    let _ = client.send(&datagram[..len]).await;
                }
                (from, len) = answered(&clients, &mut back) => {
                    if back[0] & 0xF0 == 0xF0 {
                        let _ = told.send(());
                    }
                    let _ = front.send_to(&back[..len], from).await;
                }
            }
        }
    });
    (address, retried)
}

#[tokio::test]
async fn sockets_are_streams_of_one_connection() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new()
        .subprotocol("chat")
        .on_request(move |request| {
            let tls = request.tls().cloned().unwrap();
            let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
            let path = request.path().to_owned();
            let name = tls.server_name().map(str::to_owned);
            told.send((path, request.peer_addr(), alpn, name)).unwrap();
            ready(Ok(Answer::new().header("X-Answer", "a")))
        });
    let server = serve(acceptor, |server| server).await;
    let http3 = server.connect().await;
    assert_eq!(http3.peer_addr(), Some(server.address));
    let mut one = within(http3.open(&server.client("/one?a=1").subprotocol("chat")))
        .await
        .unwrap();
    let mut other = server.open(&http3, "/other").await;
    assert_eq!(one.subprotocol(), Some("chat"));
    assert_eq!(other.subprotocol(), None);
    assert_eq!(one.peer_addr(), Some(server.address));
    let answer = one.response().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers().first_str("X-Answer"), Some("a"));
    for path in ["/one", "/other"] {
        let (asked, peer, alpn, name) = within(seen.recv()).await.unwrap();
        assert_eq!((asked.as_str(), name.as_deref()), (path, Some("localhost")));
        assert_eq!(alpn.as_deref(), Some(&b"h3"[..]));
        assert!(peer.unwrap().ip().is_loopback());
    }
    for len in [0, 1, 125, 126, 65_535, 65_536, 3_000_000] {
        let data = vec![7_u8; len];
        within(one.send(data.clone())).await.unwrap();
        echoes(&mut other, "meanwhile").await;
        let message = within(one.recv()).await.unwrap();
        assert_eq!(message, Some(Message::from(data)), "{len}");
    }
    within(one.close(CloseCode::NORMAL, "bye")).await.unwrap();
    assert!(one.ended().unwrap().was_clean());
    // The other one goes on.
    echoes(&mut other, "still").await;
}

#[tokio::test]
async fn messages_are_compressed_where_that_is_agreed() {
    let server = serve(Acceptor::new(), |server| server).await;
    let http3 = server.connect().await;
    let mut socket = server.open(&http3, "/").await;
    assert!(socket.extensions().contains("permessage-deflate"));
    echoes(&mut socket, &"compressed ".repeat(10_000)).await;
    let counters = socket.counters();
    assert!(counters.received.bytes < 10_000, "{counters:?}");
}

#[tokio::test]
async fn whoever_is_refused_is_told_why() {
    let acceptor = Acceptor::new().on_request(|request| {
        ready(match request.path() {
            "/in" => Ok(Answer::new()),
            _ => Err(Refusal::new(403, "not for you\n")),
        })
    });
    let server = serve(acceptor, |server| server).await;
    let http3 = server.connect().await;
    let error = within(http3.open(&server.client("/out")))
        .await
        .unwrap_err();
    assert!(error.is_handshake(), "{error}");
    let response = error.response().unwrap();
    assert_eq!(
        (response.status(), response.body()),
        (403, &b"not for you\n"[..])
    );
    // And the connection is there for others.
    echoes(&mut server.open(&http3, "/in").await, "in").await;
    // RFC 6455 §10.2.
    let stranger = server.client("/in").origin("https://elsewhere.example");
    let error = within(http3.open(&stranger)).await.unwrap_err();
    assert_eq!(error.response().unwrap().status(), 403, "{error}");
}

/// RFC 6265 §5.4 joins what RFC 9114 §4.2.1 lets come apart.
#[tokio::test]
async fn what_a_client_says_of_itself_comes_with_the_request() {
    let (told, mut seen) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().on_request(move |request| {
        let header = |name| request.headers().first_str(name).map(str::to_owned);
        told.send((header("Cookie"), header("Authorization")))
            .unwrap();
        ready(Ok(Answer::new()))
    });
    let server = serve(acceptor, |server| server).await;
    let client = server
        .client("/")
        .cookie("a", "1")
        .cookie("b", "2")
        .credentials("u", "p");
    let http3 = server.connect().await;
    let _socket = within(http3.open(&client)).await.unwrap();
    let (cookie, authorization) = within(seen.recv()).await.unwrap();
    assert_eq!(cookie.as_deref(), Some("a=1; b=2"));
    assert_eq!(authorization.as_deref(), Some("Basic dTpw"));
}

mod counted {
    use super::*;

    fn limited(error: &Error) -> Option<Limit> {
        match error.cause() {
            Error::Limit { limit, .. } => Some(*limit),
            _ => None,
        }
    }

    /// A connection has a place, and each socket on it another.
    #[tokio::test]
    async fn as_if_each_had_come_by_itself() {
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(Acceptor::new(), |server| {
            server
                .max_connections(3)
                .on_error(move |_, error| told.send(limited(error)).unwrap())
        })
        .await;
        let http3 = server.connect().await;
        let one = server.open(&http3, "/").await;
        let _other = server.open(&http3, "/").await;
        let error = within(http3.open(&server.client("/"))).await.unwrap_err();
        assert_eq!(error.response().unwrap().status(), 503, "{error}");
        assert_eq!(within(errors.recv()).await, Some(Some(Limit::Connections)));
        let error = within(Http3::connect(&server.client("/")))
            .await
            .unwrap_err();
        assert!(error.is_connect(), "{error}");
        assert_eq!(within(errors.recv()).await, Some(Some(Limit::Connections)));
        within(one.into_close()).await;
        let mut third = server.open(&http3, "/").await;
        echoes(&mut third, "there is room").await;
    }

    trait IntoClose {
        async fn into_close(self);
    }

    impl IntoClose for WebSocket {
        async fn into_close(mut self) {
            self.close(CloseCode::NORMAL, "").await.unwrap();
            // Its task gives the place back once it has heard of the end.
            sleep(Duration::from_millis(100)).await;
        }
    }

    #[tokio::test]
    async fn for_their_address_once_it_is_shown_to_be_theirs() {
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(Acceptor::new(), |server| {
            server
                .max_connections_per_address(2)
                .on_error(move |_, error| told.send(limited(error)).unwrap())
        })
        .await;
        let http3 = server.connect().await;
        let _one = server.open(&http3, "/").await;
        let error = within(http3.open(&server.client("/"))).await.unwrap_err();
        assert_eq!(error.response().unwrap().status(), 429, "{error}");
        let limit = Some(Limit::ConnectionsPerAddress);
        assert_eq!(within(errors.recv()).await, Some(limit));
        let error = within(Http3::connect(&server.client("/")))
            .await
            .unwrap_err();
        assert!(error.is_connect(), "{error}");
        assert_eq!(within(errors.recv()).await, Some(limit));
    }
}

mod leaving {
    use super::*;

    #[tokio::test]
    async fn a_server_that_ends_closes_each_socket_and_is_waited_for() {
        let server = serve(Acceptor::new(), |server| server).await;
        let http3 = server.connect().await;
        let mut one = server.open(&http3, "/").await;
        let mut other = server.open(&http3, "/").await;
        let leaving = server.handle.shutdown(Shutdown::restart());
        for socket in [&mut one, &mut other] {
            assert_eq!(within(socket.recv()).await.unwrap(), None);
            let ended = socket.ended().unwrap();
            assert!(
                matches!(ended, Ended::ByPeer(_)) && ended.code() == 1012,
                "{ended:?}"
            );
        }
        let farewell = within(leaving).await;
        assert_eq!(farewell.connections.len(), 2);
        assert_eq!((farewell.http_cut, farewell.handshakes_cut), (0, 0));
        within(server.served).await.unwrap().unwrap();
        // RFC 9114 §5.2, or the end itself.
        let url = Client::new(format!("wss://localhost:{}/", server.address.port()));
        let error = within(http3.open(&url)).await.unwrap_err();
        assert!(error.is_lost(), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_nothing_is_open_on_ends() {
        let server = serve(Acceptor::new(), |server| {
            server.http_keep_alive(Duration::from_millis(300))
        })
        .await;
        let connections = [server.connect().await, server.connect().await];
        sleep(SECOND).await;
        // For the first request there is as much time as for a handshake.
        let [unused, used] = &connections;
        let mut once = server.open(unused, "/").await;
        let mut socket = server.open(used, "/").await;
        within(once.close(CloseCode::NORMAL, "")).await.unwrap();
        let begin = Instant::now();
        let error = loop {
            sleep(Duration::from_millis(500)).await;
            match within(unused.open(&server.client("/"))).await {
                // It was not idle for as long.
                Ok(mut again) => within(again.close(CloseCode::NORMAL, "")).await.unwrap(),
                Err(error) => break error,
            }
            assert!(begin.elapsed() < 10 * SECOND, "it goes on");
        };
        assert!(error.is_lost(), "{error}");
        echoes(&mut socket, "in use").await;
        let _second = server.open(used, "/").await;
    }

    /// It is what has come that is answered.
    #[tokio::test]
    async fn without_a_wait_for_another_a_request_is_answered() {
        let server = serve(Acceptor::new(), |server| {
            server.http_keep_alive(Duration::ZERO)
        })
        .await;
        let http3 = server.connect().await;
        let mut socket = server.open(&http3, "/").await;
        echoes(&mut socket, "answered").await;
        within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
    }

    /// The socket is gone, and its handle of the connection with it.
    #[tokio::test]
    async fn what_was_sent_arrives_though_all_is_dropped() {
        const LEN: usize = 5_000_000;
        let (told, mut seen) = mpsc::unbounded_channel();
        let told = Arc::new(told);
        let server = serve_by(
            Acceptor::new(),
            |server| server,
            move |mut socket| {
                let told = told.clone();
                async move {
                    while let Some(message) = socket.recv().await? {
                        told.send(message.len()).unwrap();
                    }
                    Ok(())
                }
            },
        )
        .await;
        let http3 = server.connect().await;
        let mut socket = server.open(&http3, "/").await;
        drop(http3);
        within(socket.send(vec![1; LEN])).await.unwrap();
        drop(socket);
        assert_eq!(within(seen.recv()).await, Some(LEN));
    }

    /// A bug: the peer was told at once that nothing more is read of it, and held the stream for broken before it had read that.
    #[tokio::test]
    async fn what_was_sent_arrives_though_the_other_end_goes_on_writing() {
        // As much as goes out at once.
        const COUNT: usize = 100;
        let (told, mut seen) = mpsc::unbounded_channel();
        let told = Arc::new(told);
        let server = serve_by(
            Acceptor::new().deflate(None),
            |server| server,
            move |socket| {
                let told = told.clone();
                async move {
                    let (sender, mut receiver) = socket.split();
                    let ticking = tokio::spawn(async move {
                        while sender.send("tick").await.is_ok() {
                            sleep(Duration::from_millis(1)).await;
                        }
                    });
                    let mut count = 0;
                    while let Some(message) = receiver.recv().await? {
                        assert_eq!(message.len(), 1000);
                        count += 1;
                    }
                    ticking.abort();
                    told.send((count, receiver.ended().map(|ended| ended.code())))
                        .unwrap();
                    Ok(())
                }
            },
        )
        .await;
        // So that most of it is under way when nobody has a use for its socket any more.
        let (front, _) = relay(server.address, Duration::from_millis(3)).await;
        let client = server.client("/").resolve("localhost", [front]);
        let http3 = within(Http3::connect(&client)).await.unwrap();
        let mut socket = within(http3.open(&client)).await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap(), Some("tick".into()));
        for _ in 0..COUNT {
            within(socket.send(vec![1; 1000])).await.unwrap();
        }
        drop(socket);
        assert_eq!(within(seen.recv()).await, Some((COUNT, Some(1001))));
    }

    /// A bug: they waited for what no task would ever do.
    #[test]
    fn sockets_are_lost_with_the_runtime_of_their_connection() {
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        };
        let (servers, connections, sockets) = (runtime(), runtime(), runtime());
        let server = servers.block_on(serve(Acceptor::new(), |server| server));
        let http3 = connections.block_on(server.connect());
        let mut socket = sockets.block_on(async {
            let mut socket = server.open(&http3, "/").await;
            echoes(&mut socket, "here").await;
            socket
        });
        let waiting = sockets.spawn(async move {
            let ended = within(socket.recv()).await;
            (ended, within(socket.send("?")).await)
        });
        drop(connections);
        sockets.block_on(async {
            let (ended, sent) = within(waiting).await.unwrap();
            let error = ended.unwrap_err();
            assert!(
                error.is_lost() && error.to_string().contains("runtime"),
                "{error}"
            );
            sent.unwrap_err();
            let error = within(http3.open(&server.client("/"))).await.unwrap_err();
            assert!(error.is_lost(), "{error}");
        });
    }

    /// And the server holds nothing for it.
    #[tokio::test]
    async fn a_client_that_ends_tells_the_server() {
        let server = serve(Acceptor::new(), |server| server.max_connections(2)).await;
        for _ in 0..5 {
            let begin = Instant::now();
            let http3 = loop {
                match within(Http3::connect(&server.client("/"))).await {
                    Ok(http3) => break http3,
                    // The one before counts until QUIC needs to know nothing of it.
                    Err(error) => assert!(begin.elapsed() < 10 * SECOND, "{error}"),
                }
                sleep(Duration::from_millis(50)).await;
            };
            let mut socket = server.open(&http3, "/").await;
            within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
            drop(socket);
            within(http3.close()).await;
        }
    }

    /// Not ignored, so that they go elsewhere.
    #[tokio::test]
    async fn whoever_comes_while_a_server_leaves_is_refused() {
        let server = serve_by(
            Acceptor::new(),
            |server| server,
            async |mut socket| {
                // It has something left to do.
                socket.recv().await?;
                sleep(2 * SECOND).await;
                Ok(())
            },
        )
        .await;
        let http3 = server.connect().await;
        let mut socket = server.open(&http3, "/").await;
        within(socket.send("work")).await.unwrap();
        let how = Shutdown::new().patience(5 * SECOND).deadline(10 * SECOND);
        let leaving = server.handle.shutdown(how);
        let error = loop {
            match within(Http3::connect(&server.client("/"))).await {
                // It has not heard of it.
                Ok(_) => sleep(Duration::from_millis(10)).await,
                Err(error) => break error,
            }
        };
        assert!(error.is_connect() && !error.is_timeout(), "{error}");
        within(leaving).await;
    }

    #[tokio::test]
    async fn a_server_that_is_dropped_is_lost() {
        let server = serve(Acceptor::new(), |server| server).await;
        let http3 = server.connect().await;
        let mut socket = server.open(&http3, "/").await;
        echoes(&mut socket, "here").await;
        server.served.abort();
        let ended = within(socket.recv()).await;
        let told = ended.as_ref().err().map(ToString::to_string);
        assert!(!matches!(ended, Ok(Some(_))), "{told:?}");
        let error = within(http3.open(&server.client("/"))).await.unwrap_err();
        assert!(error.is_lost(), "{error}");
    }
}

/// Whoever does not read holds nobody else up, and what waits for them is bounded.
#[tokio::test]
async fn a_socket_that_is_not_read_does_not_hold_up_another() {
    let server = serve(Acceptor::new(), |server| server).await;
    let http3 = server.connect().await;
    let mut unread = server.open(&http3, "/").await;
    let mut other = server.open(&http3, "/").await;
    let flood = async {
        loop {
            unread.send(vec![0; 100_000]).await.unwrap();
        }
    };
    let flooded = tokio::time::timeout(SECOND, flood).await;
    assert!(flooded.is_err());
    for _ in 0..100 {
        echoes(&mut other, "read").await;
    }
}

/// A bug: with all of their windows full, the rest was never enough for QUIC to say that there was room.
#[tokio::test]
async fn many_sockets_that_are_not_read_do_not_hold_up_another() {
    let server = serve_by(
        Acceptor::new().deflate(None),
        |server| server,
        async |mut socket| {
            while let Some(message) = socket.recv().await? {
                if message == "read no more" {
                    pending::<()>().await;
                }
                socket.send(message).await?;
            }
            Ok(())
        },
    )
    .await;
    let http3 = server.connect().await;
    let mut unread = Vec::new();
    for _ in 0..15 {
        let mut socket = server.open(&http3, "/").await;
        within(socket.send("read no more")).await.unwrap();
        let flood = async {
            loop {
                socket.send(vec![0; 50_000]).await.unwrap();
            }
        };
        let flooded = tokio::time::timeout(Duration::from_millis(200), flood).await;
        assert!(flooded.is_err());
        unread.push(socket);
    }
    let mut other = server.open(&http3, "/").await;
    let text = "x".repeat(100_000);
    for _ in 0..20 {
        echoes(&mut other, &text).await;
    }
}

mod a_client {
    use super::*;

    #[tokio::test]
    async fn is_told_what_http_3_cannot_be_on() {
        let error = async |client: Client| Http3::connect(&client).await.unwrap_err();
        let secure = || Client::new("wss://localhost/").no_proxy();
        let proxy: Proxy = "socks5://127.0.0.1:1".parse().unwrap();
        for (client, why) in [
            (Client::new("ws://localhost/"), "within TLS"),
            (secure().proxy(proxy), "no proxy"),
            #[cfg(unix)]
            (secure().unix_socket("/tmp/socket"), "not on a Unix socket"),
        ] {
            let error = error(client).await;
            assert!(error.is_user(), "{error}");
            assert!(error.to_string().contains(why), "{error}");
        }
        let server = serve(Acceptor::new(), |server| server).await;
        let elsewhere = Client::new("wss://elsewhere.example/");
        let error = server.connect().await.open(&elsewhere).await.unwrap_err();
        assert!(
            error.is_user() && error.to_string().contains("another server"),
            "{error}"
        );
    }

    /// RFC 9000 §4.6: as many as are permitted, and another as soon as one has ended.
    #[tokio::test]
    async fn may_have_as_many_sockets_as_are_permitted() {
        let server = serve(Acceptor::new(), |server| server).await;
        let http3 = server.connect().await;
        let mut sockets = Vec::new();
        for _ in 0..128 {
            sockets.push(server.open(&http3, "/").await);
        }
        let hasty = server
            .client("/")
            .handshake_timeout(Duration::from_millis(200));
        let error = within(http3.open(&hasty)).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        for _ in 0..3 {
            let mut socket = sockets.pop().unwrap();
            within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
            drop(socket);
            sockets.push(server.open(&http3, "/").await);
        }
        echoes(&mut sockets[127], "the last").await;
    }

    /// What the system knows needs no timeout.
    #[tokio::test]
    async fn is_told_at_once_what_cannot_be_reached_from_here() {
        let client = Client::new("wss://192.0.2.1/")
            .no_proxy()
            .local_address("127.0.0.1".parse().unwrap());
        let error = within(Http3::connect(&client)).await.unwrap_err();
        assert!(error.is_connect() && !error.is_timeout(), "{error}");
    }

    #[tokio::test]
    async fn finds_nobody_by_its_timeout() {
        // It is there, and says nothing.
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        let client = Client::new(format!("wss://127.0.0.1:{}/", address.port()))
            .no_proxy()
            .connect_timeout(Duration::from_millis(300));
        let begin = Instant::now();
        let error = within(Http3::connect(&client)).await.unwrap_err();
        assert!(error.is_connect() && error.is_timeout(), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert!(begin.elapsed() < 10 * SECOND);
    }

    #[tokio::test]
    async fn is_let_in_by_the_address_that_answers_first() {
        let server = serve(Acceptor::new(), |server| server).await;
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let addresses = [silent.local_addr().unwrap(), server.address];
        let client = server.client("/").resolve("localhost", addresses);
        let http3 = within(Http3::connect(&client)).await.unwrap();
        assert_eq!(http3.peer_addr(), Some(server.address));
        echoes(&mut server.open(&http3, "/").await, "first").await;
    }

    #[tokio::test]
    async fn does_not_believe_just_anybody() {
        let server = serve(Acceptor::new(), |server| server).await;
        let stranger = server.client("/").tls(Pki::new().trusted());
        let error = within(Http3::connect(&stranger)).await.unwrap_err();
        assert!(matches!(error.cause(), Error::Tls { .. }), "{error}");
        assert!(
            error.to_string().contains("invalid peer certificate"),
            "{error}"
        );
        server.is_well().await;
    }

    #[tokio::test]
    async fn shows_who_it_is_where_the_server_asks() {
        let pki = Pki::new();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        let acceptor = Acceptor::new()
            .tls(pki.strict_server())
            .on_request(|request| {
                assert_eq!(request.tls().unwrap().peer_certificates().len(), 1);
                ready(Ok(Answer::new()))
            });
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        tokio::spawn(server.acceptor(acceptor).http3(udp).serve(echo));
        let client = Client::new(format!("wss://127.0.0.1:{}/", address.port())).no_proxy();
        let known = client.clone().tls(pki.known());
        let http3 = within(Http3::connect(&known)).await.unwrap();
        let mut socket = within(http3.open(&known)).await.unwrap();
        echoes(&mut socket, "known").await;
        // With TLS 1.3 it is heard of once this end thinks that it is done (RFC 8446 §4.4.2.4).
        let error = within(Http3::connect(&client.tls(pki.trusted())))
            .await
            .unwrap_err();
        assert!(
            error.is_lost() || matches!(error.cause(), Error::Tls { .. }),
            "{error}"
        );
        assert!(
            error.to_string().to_lowercase().contains("certificate"),
            "{error}"
        );
    }

    /// RFC 9114 §4.1.1: the server hears of it, and the connection goes on.
    #[tokio::test]
    async fn may_give_up_what_it_has_asked_for() {
        let (told, mut seen) = mpsc::unbounded_channel();
        let acceptor = Acceptor::new().on_request(move |request| {
            let told = told.clone();
            async move {
                if request.path() == "/slow" {
                    struct Dropped(mpsc::UnboundedSender<&'static str>);
                    impl Drop for Dropped {
                        fn drop(&mut self) {
                            let _ = self.0.send("dropped");
                        }
                    }
                    told.send("asked").unwrap();
                    let _dropped = Dropped(told);
                    pending::<()>().await;
                }
                Ok(Answer::new())
            }
        });
        let server = serve(acceptor, |server| server).await;
        let http3 = server.connect().await;
        let slow = server.client("/slow");
        let opening = tokio::spawn({
            let http3 = http3.clone();
            async move { http3.open(&slow).await }
        });
        assert_eq!(within(seen.recv()).await, Some("asked"));
        opening.abort();
        assert_eq!(within(seen.recv()).await, Some("dropped"));
        echoes(&mut server.open(&http3, "/").await, "goes on").await;
    }
}

/// A peer that says whatever a test has it say.
mod raw {
    use super::*;

    pub const CONTROL: u8 = 0;
    pub const DATA: u64 = 0;
    pub const HEADERS: u64 = 1;
    pub const SETTINGS: u64 = 4;
    pub const GOAWAY: u64 = 7;

    /// Settings that permit extended CONNECT.
    pub const CONNECT: &[u8] = &[8, 1];

    pub const ASKS: [(&str, &str); 6] = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/"),
        ("sec-websocket-version", "13"),
    ];

    /// RFC 9000 §16, in 4 bytes where 1 does not do.
    pub fn integer(value: u64) -> Vec<u8> {
        match u8::try_from(value) {
            Ok(value) if value < 64 => vec![value],
            _ => (u32::try_from(value).unwrap() | 0x8000_0000)
                .to_be_bytes()
                .into(),
        }
    }

    pub fn frame(kind: u64, payload: impl AsRef<[u8]>) -> Vec<u8> {
        let payload = payload.as_ref();
        [&integer(kind), &integer(payload.len() as u64), payload].concat()
    }

    /// A section with each name and value written out (RFC 9204 §4.5.6).
    pub fn section(fields: &[(&str, &str)]) -> Vec<u8> {
        let string = |bits: u32, first: u8, text: &str| {
            let most = (1_usize << bits) - 1;
            let mut bytes = Vec::new();
            match text.len().checked_sub(most) {
                None => bytes.push(first | text.len() as u8),
                Some(mut rest) => {
                    bytes.push(first | most as u8);
                    while rest >= 128 {
                        bytes.push(rest as u8 | 128);
                        rest >>= 7;
                    }
                    bytes.push(rest as u8);
                }
            }
            bytes.extend(text.as_bytes());
            bytes
        };
        let mut bytes = vec![0, 0];
        for (name, value) in fields {
            bytes.extend(string(3, 0x20, name));
            bytes.extend(string(7, 0, value));
        }
        bytes
    }

    pub fn head(fields: &[(&str, &str)]) -> Vec<u8> {
        frame(HEADERS, section(fields))
    }

    async fn integer_of(receive: &mut RecvStream) -> Option<u64> {
        let mut first = [0; 1];
        within(receive.read_exact(&mut first)).await.ok()?;
        let mut value = u64::from(first[0] & 0x3F);
        for _ in 1..1 << (first[0] >> 6) {
            let mut byte = [0; 1];
            within(receive.read_exact(&mut byte)).await.ok()?;
            value = value << 8 | u64::from(byte[0]);
        }
        Some(value)
    }

    /// The next frame, if there is one.
    pub async fn next(receive: &mut RecvStream) -> Option<(u64, Vec<u8>)> {
        let kind = integer_of(receive).await?;
        let mut payload = vec![0; usize::try_from(integer_of(receive).await?).unwrap()];
        within(receive.read_exact(&mut payload)).await.ok()?;
        Some((kind, payload))
    }

    /// The status of a head of the server's, which writes it first: by number, or out.
    pub fn status(section: &[u8]) -> u16 {
        match section[2] {
            0xD9 => 200,
            0xFF if section[3] == 67 - 63 => 400,
            0xFF if section[3] == 68 - 63 => 403,
            0xFF if section[3] == 69 - 63 => 421,
            0xDC => 503,
            0x5F => std::str::from_utf8(&section[5..8])
                .unwrap()
                .parse()
                .unwrap(),
            other => panic!("{other:#x}"),
        }
    }

    /// What ended a connection: its code.
    pub fn code(error: &ConnectionError) -> u64 {
        match error {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("{other}"),
        }
    }

    fn provider() -> Arc<rustls::crypto::CryptoProvider> {
        rustls::crypto::aws_lc_rs::default_provider().into()
    }

    pub struct Peer {
        pub connection: Connection,
        pub control: SendStream,
        _endpoint: Endpoint,
    }

    /// A client that has said what it begins with on its control stream.
    pub async fn client(server: &Served, begins: &[u8]) -> Peer {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(server.pki.ca.as_bytes());
        roots.add(ca.unwrap()).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h3".to_vec()];
        let config = QuicClientConfig::try_from(config).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, server.address, "localhost");
        let connection = within(connecting.unwrap()).await.unwrap();
        let mut control = within(connection.open_uni()).await.unwrap();
        within(control.write_all(begins)).await.unwrap();
        Peer {
            connection,
            control,
            _endpoint: endpoint,
        }
    }

    /// What every client begins with.
    pub fn begin() -> Vec<u8> {
        [&[CONTROL][..], &frame(SETTINGS, [])].concat()
    }

    /// A server, and how to reach it.
    pub fn server(alpn: &[u8]) -> (Endpoint, Client) {
        let pki = Pki::new();
        let chain = CertificateDer::from_pem_slice(pki.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(pki.key.as_bytes());
        let mut config = rustls::ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![chain.unwrap()], key.unwrap())
            .unwrap();
        config.alpn_protocols = vec![alpn.to_vec()];
        let config = QuicServerConfig::try_from(config).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(config));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let port = endpoint.local_addr().unwrap().port();
        let client = Client::new(format!("wss://127.0.0.1:{port}/"))
            .tls(pki.trusted())
            .no_proxy();
        (endpoint, client)
    }

    /// Takes a client, and tells it what a control stream begins with.
    pub async fn accept(endpoint: &Endpoint, begins: &[u8]) -> Peer {
        let connection = within(endpoint.accept()).await.unwrap().await.unwrap();
        let mut control = within(connection.open_uni()).await.unwrap();
        within(control.write_all(begins)).await.unwrap();
        Peer {
            connection,
            control,
            _endpoint: endpoint.clone(),
        }
    }

    /// What a server begins with that opens WebSockets.
    pub fn welcome() -> Vec<u8> {
        [&[CONTROL][..], &frame(SETTINGS, CONNECT)].concat()
    }
}

mod a_strange_client {
    use super::{raw::*, *};

    /// Ends a connection with a code, and harms nobody else.
    async fn ends(server: &Served, peer: &Peer, expected: u64, what: &str) {
        let error = within(peer.connection.closed()).await;
        assert_eq!(code(&error), expected, "{what}: {error}");
        let mut well = server.open(&server.connect().await, "/").await;
        echoes(&mut well, what).await;
    }

    /// RFC 9114 §6.2.1, §7.2 and §8.1.
    #[tokio::test]
    async fn that_breaks_a_rule_of_the_control_stream_is_ended() {
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(Acceptor::new(), |server| {
            server.on_error(move |_, error| told.send(error.to_string()).unwrap())
        })
        .await;
        let settings = |payload: &[u8]| frame(SETTINGS, payload);
        for (what, bytes, expected) in [
            ("what nobody knows", frame(0x21, [0]), 0x10A),
            ("no settings", frame(GOAWAY, [0]), 0x10A),
            (
                "settings twice",
                [settings(&[]), settings(&[])].concat(),
                0x105,
            ),
            ("a setting of HTTP/2", settings(&[2, 0]), 0x109),
            ("a setting twice", settings(&[6, 1, 6, 1]), 0x109),
            ("half a setting", settings(&[6]), 0x106),
            ("DATA", [settings(&[]), frame(DATA, [1])].concat(), 0x105),
            ("HEADERS", [settings(&[]), head(&ASKS)].concat(), 0x105),
            (
                "PUSH_PROMISE",
                [settings(&[]), frame(5, [0])].concat(),
                0x105,
            ),
            (
                "PING of HTTP/2",
                [settings(&[]), frame(6, [0])].concat(),
                0x105,
            ),
            (
                "CANCEL_PUSH",
                [settings(&[]), frame(3, [0])].concat(),
                0x108,
            ),
            (
                "MAX_PUSH_ID less",
                [settings(&[]), frame(13, [2]), frame(13, [1])].concat(),
                0x108,
            ),
            (
                "MAX_PUSH_ID with more",
                [settings(&[]), frame(13, [1, 1])].concat(),
                0x106,
            ),
            (
                "GOAWAY more",
                [settings(&[]), frame(GOAWAY, [0]), frame(GOAWAY, [4])].concat(),
                0x108,
            ),
            (
                "settings of a megabyte",
                [integer(SETTINGS), integer(1 << 20)].concat(),
                0x107,
            ),
        ] {
            let peer = client(&server, &[&[CONTROL][..], &bytes].concat()).await;
            ends(&server, &peer, expected, what).await;
            let told = within(errors.recv()).await.unwrap();
            assert!(told.contains("broken a rule of HTTP/3"), "{what}: {told}");
        }
        let mut peer = client(&server, &begin()).await;
        peer.control.finish().unwrap();
        ends(&server, &peer, 0x104, "its end").await;
        let mut peer = client(&server, &begin()).await;
        // It has been heard by then.
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&head(&ASKS))).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
        peer.control.reset(0_u32.into()).unwrap();
        ends(&server, &peer, 0x104, "its reset").await;
        let mut peer = client(&server, &[&begin()[..], &[0x21, 9, 1]].concat()).await;
        peer.control.finish().unwrap();
        ends(&server, &peer, 0x106, "its end within a frame").await;
    }

    /// RFC 9114 §6.2, RFC 9204 §4.2.
    #[tokio::test]
    async fn that_breaks_a_rule_of_the_other_streams_is_ended() {
        let server = serve(Acceptor::new(), |server| server).await;
        for (what, bytes, expected) in [
            ("a second control stream", &[CONTROL, 4, 0][..], 0x103),
            ("a push of a client's", &[1, 0], 0x103),
            ("a table", &[2, 0x3F, 0xE1, 0x1F], 0x201),
            ("an entry of a table", &[2, 0xC0, 1, b'a'], 0x201),
            ("what was never sent", &[3, 0x80], 0x202),
            ("an entry that was never inserted", &[3, 0x01], 0x202),
        ] {
            let peer = client(&server, &begin()).await;
            let mut stream = within(peer.connection.open_uni()).await.unwrap();
            within(stream.write_all(bytes)).await.unwrap();
            ends(&server, &peer, expected, what).await;
        }
        for kind in [2, 3] {
            let peer = client(&server, &begin()).await;
            let mut stream = within(peer.connection.open_uni()).await.unwrap();
            within(stream.write_all(&[kind])).await.unwrap();
            stream.finish().unwrap();
            ends(&server, &peer, 0x104, "the end of QPACK").await;
        }
    }

    /// RFC 9114 §4.1, §4.4 and §7.1, RFC 9204 §2.2.
    #[tokio::test]
    async fn that_breaks_a_rule_of_requests_is_ended() {
        let server = serve(Acceptor::new(), |server| server).await;
        for (what, bytes, expected) in [
            ("DATA first", frame(DATA, [1]), 0x105),
            ("settings", frame(SETTINGS, []), 0x105),
            (
                "half a frame",
                [&integer(HEADERS)[..], &[9, 0]].concat(),
                0x106,
            ),
            ("half of what a frame begins with", vec![1], 0x106),
            ("a dynamic table", frame(HEADERS, [2, 0, 0x80]), 0x200),
            (
                "what is no field",
                frame(HEADERS, [0, 0, 0xFF, 0xFF]),
                0x200,
            ),
            ("HEADERS again", [head(&ASKS), head(&ASKS)].concat(), 0x105),
            (
                "settings on a socket",
                [head(&ASKS), frame(SETTINGS, [])].concat(),
                0x105,
            ),
        ] {
            let peer = client(&server, &begin()).await;
            let (mut send, _receive) = within(peer.connection.open_bi()).await.unwrap();
            within(send.write_all(&bytes)).await.unwrap();
            send.finish().unwrap();
            ends(&server, &peer, expected, what).await;
        }
    }

    #[tokio::test]
    async fn that_breaks_a_rule_is_told_of_once() {
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(Acceptor::new(), |server| {
            server.on_error(move |_, error| told.send(error.to_string()).unwrap())
        })
        .await;
        let peer = client(&server, &begin()).await;
        let (mut send, _receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&frame(DATA, [1]))).await.unwrap();
        ends(&server, &peer, 0x105, "DATA first").await;
        let told = within(errors.recv()).await.unwrap();
        assert!(told.contains("broken a rule of HTTP/3"), "{told}");
        assert!(errors.try_recv().is_err());
    }

    /// One request's fault is not its connection's (RFC 9114 §4.1.2).
    #[tokio::test]
    async fn that_asks_for_something_else_is_answered() {
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(Acceptor::new(), |server| {
            server.on_error(move |_, error| told.send(error.to_string()).unwrap())
        })
        .await;
        let peer = client(&server, &begin()).await;
        let with = |at: usize, field: (&'static str, &'static str)| {
            let mut asks = ASKS.to_vec();
            asks[at] = field;
            head(&asks)
        };
        let get = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "localhost"),
            (":path", "/"),
        ];
        let long = "x".repeat(20_000);
        for (what, bytes, expected) in [
            ("a page", head(&get), 421),
            (
                "a tunnel",
                head(&[(":method", "CONNECT"), (":authority", "a:1")]),
                501,
            ),
            (
                "another protocol",
                with(1, (":protocol", "connect-udp")),
                501,
            ),
            (
                "another version",
                with(5, ("sec-websocket-version", "8")),
                400,
            ),
            ("no version", head(&ASKS[..5]), 400),
            ("no path", with(4, ("x", "y")), 400),
            ("a field of HTTP/1", with(5, ("connection", "upgrade")), 400),
            (
                "a large name",
                with(5, ("Sec-WebSocket-Version", "13")),
                400,
            ),
            (
                "a long head",
                head(&[&ASKS[..], &[("x", &long)]].concat()),
                431,
            ),
        ] {
            let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
            // It may be refused before all is sent.
            let _ = within(send.write_all(&bytes)).await;
            let _ = send.finish();
            let (kind, section) = next(&mut receive).await.expect(what);
            assert_eq!((kind, status(&section)), (HEADERS, expected), "{what}");
            let (kind, body) = next(&mut receive).await.expect(what);
            assert!(kind == DATA && !body.is_empty(), "{what}");
            assert_eq!(next(&mut receive).await, None, "{what}");
            within(errors.recv()).await.expect(what);
        }
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&head(&ASKS))).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
    }

    /// RFC 9114 §4.1.
    #[tokio::test]
    async fn that_asks_for_nothing_is_told_so() {
        let server = serve(Acceptor::new(), |server| server).await;
        let peer = client(&server, &begin()).await;
        for asks in [Vec::new(), frame(0x21, [1])] {
            let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
            within(send.write_all(&asks)).await.unwrap();
            send.finish().unwrap();
            let ended = within(receive.read(&mut [0; 1])).await.unwrap_err();
            assert_eq!(ended, quinn::ReadError::Reset(0x10D_u32.into()));
        }
        server.is_well().await;
    }

    /// RFC 9114 §5.2: what was asked before is answered, and nothing later.
    #[tokio::test]
    async fn that_asks_no_more_is_told_that_the_connection_ends() {
        let server = serve(Acceptor::new(), |server| {
            server.http_keep_alive(Duration::from_millis(100))
        })
        .await;
        let peer = client(&server, &begin()).await;
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        let asks = head(&[(":method", "CONNECT"), (":authority", "a:1")]);
        within(send.write_all(&asks)).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 501);
        let mut control = within(peer.connection.accept_uni()).await.unwrap();
        let mut kind = [0; 1];
        within(control.read_exact(&mut kind)).await.unwrap();
        assert_eq!(kind, [CONTROL]);
        assert_eq!(next(&mut control).await.unwrap().0, SETTINGS);
        assert_eq!(next(&mut control).await.unwrap(), (GOAWAY, vec![4]));
        assert_eq!(code(&within(peer.connection.closed()).await), 0x100);
    }

    /// How much of what is written so often goes out though nobody reads it.
    async fn sent_ahead(streams: &mut [SendStream], payload: &[u8], times: usize) -> usize {
        let mut sent = 0;
        for send in streams {
            for _ in 0..times {
                let write = tokio::time::timeout(Duration::from_millis(100), send.write(payload));
                match write.await {
                    Ok(written) => sent += written.unwrap(),
                    Err(_) => break,
                }
            }
        }
        sent
    }

    /// What nobody reads is bounded, and the more so before anybody has been let in.
    #[tokio::test]
    async fn that_sends_ahead_has_a_window() {
        let work = async |socket: WebSocket| {
            pending::<()>().await;
            drop(socket);
            Ok(())
        };
        let acceptor = Acceptor::new().on_request(|request| {
            let undecided = request.path() == "/undecided";
            async move {
                if undecided {
                    pending::<()>().await;
                }
                Ok(Answer::new())
            }
        });
        let server = serve_by(acceptor, |server| server, work).await;
        let peer = client(&server, &begin()).await;
        let mut asks = ASKS;
        asks[4].1 = "/undecided";
        let mut streams = Vec::new();
        for _ in 0..20 {
            let (mut send, receive) = within(peer.connection.open_bi()).await.unwrap();
            within(send.write_all(&head(&asks))).await.unwrap();
            std::mem::forget(receive);
            streams.push(send);
        }
        let sent = sent_ahead(&mut streams, &[0; 14_000], 1).await;
        assert!((1..100_000).contains(&sent), "{sent}");

        let peer = client(&server, &begin()).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
            within(send.write_all(&head(&ASKS))).await.unwrap();
            assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
            std::mem::forget(receive);
            streams.push(send);
        }
        let message = frame(DATA, wire::frame(0x82, true, &[0; 10_000]));
        let sent = sent_ahead(&mut streams, &message, 100).await;
        assert!((300_000..1_800_000).contains(&sent), "{sent}");
    }

    /// RFC 9114 §6.2: a stream may end before it has said what it is.
    #[tokio::test]
    async fn that_ends_a_stream_at_once_harms_nothing() {
        let server = serve(Acceptor::new(), |server| server).await;
        let peer = client(&server, &begin()).await;
        for begun in [&[][..], &[0x40]] {
            let mut stream = within(peer.connection.open_uni()).await.unwrap();
            within(stream.write_all(begun)).await.unwrap();
            stream.finish().unwrap();
            within(stream.stopped()).await.unwrap();
        }
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&head(&ASKS))).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
    }

    /// RFC 9114 §9: what nobody knows is passed over.
    #[tokio::test]
    async fn that_says_more_than_is_known_is_understood() {
        let server = serve(Acceptor::new(), |server| server).await;
        let unknown = |len: usize| frame(0x21, vec![0xAA; len]);
        let settings = frame(SETTINGS, [&integer(0x40)[..], &[7, 1, 0, 7, 0]].concat());
        let begins = [&[CONTROL][..], &settings, &unknown(100_000), &unknown(0)].concat();
        let peer = client(&server, &begins).await;
        // A kind of stream that there is not, and those of QPACK, which say nothing, and give a stream up.
        for bytes in [
            &[0x21, 1, 2, 3][..],
            &[2, 0x20, 0x20],
            &[3, 0x44, 0x7F, 0x80, 1],
        ] {
            let mut stream = within(peer.connection.open_uni()).await.unwrap();
            within(stream.write_all(bytes)).await.unwrap();
            std::mem::forget(stream);
        }
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        let asks = [&unknown(70_000)[..], &head(&ASKS)].concat();
        within(send.write_all(&asks)).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
        let message = wire::frame(0x81, true, b"cut into pieces");
        let pieces = message
            .chunks(1)
            .map(|byte| [frame(DATA, byte), frame(DATA, []), unknown(3)].concat());
        for piece in pieces {
            for byte in piece {
                within(send.write_all(&[byte])).await.unwrap();
            }
        }
        let (kind, echoed) = next(&mut receive).await.unwrap();
        assert_eq!(
            (kind, &echoed[..]),
            (DATA, &wire::frame(0x81, false, b"cut into pieces")[..])
        );
        // RFC 9220 §3: a FIN is what TCP's is.
        let close = wire::frame(0x88, true, &1000_u16.to_be_bytes());
        within(send.write_all(&frame(DATA, close))).await.unwrap();
        let (_, answer) = next(&mut receive).await.unwrap();
        assert_eq!(answer, wire::frame(0x88, false, &1000_u16.to_be_bytes()));
        assert_eq!(next(&mut receive).await, None);
        assert!(peer.connection.close_reason().is_none());
    }

    /// RFC 9220 §3: it is as a reset of TCP.
    #[tokio::test]
    async fn that_resets_a_socket_is_lost() {
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(Acceptor::new(), |server| {
            server.on_error(move |_, error| told.send(error.to_string()).unwrap())
        })
        .await;
        let peer = client(&server, &begin()).await;
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&head(&ASKS))).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
        send.reset(0x10C_u32.into()).unwrap();
        let told = within(errors.recv()).await.unwrap();
        assert!(told.contains("H3_REQUEST_CANCELLED"), "{told}");
        let mut well = server.open(&server.connect().await, "/").await;
        echoes(&mut well, "well").await;
    }

    /// RFC 9000 §3.5: what is wanted no more is reset, and the rest is heard out.
    #[tokio::test]
    async fn that_takes_no_more_is_sent_no_more() {
        let server = serve(Acceptor::new(), |server| server).await;
        let peer = client(&server, &begin()).await;
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&head(&ASKS))).await.unwrap();
        assert_eq!(status(&next(&mut receive).await.unwrap().1), 200);
        let id = receive.id();
        receive.stop(0x10C_u32.into()).unwrap();
        let frames = || peer.connection.stats().frame_rx.reset_stream;
        let begin = Instant::now();
        while frames() == 0 {
            assert!(begin.elapsed() < 10 * SECOND, "{id} is not reset");
            sleep(Duration::from_millis(10)).await;
        }
        server.is_well().await;
    }

    /// A request that does not come to its end holds nothing for longer than a handshake may take.
    #[tokio::test]
    async fn that_does_not_finish_its_request_is_given_up() {
        let acceptor = Acceptor::new().handshake_timeout(Duration::from_millis(300));
        let (told, mut errors) = mpsc::unbounded_channel();
        let server = serve(acceptor, |server| {
            server.on_error(move |_, error| told.send(error.is_timeout()).unwrap())
        })
        .await;
        let peer = client(&server, &begin()).await;
        let (mut send, mut receive) = within(peer.connection.open_bi()).await.unwrap();
        within(send.write_all(&[1, 40, 0])).await.unwrap();
        let ended = within(receive.read(&mut [0; 1])).await.unwrap_err();
        let expected = quinn::ReadError::Reset(0x10B_u32.into());
        assert_eq!(ended, expected);
        assert_eq!(within(errors.recv()).await, Some(true));
    }

    /// RFC 9000 §8.1.2: where many have come, an address has to be shown to be the client's.
    #[tokio::test]
    async fn that_comes_where_many_are_coming_shows_its_address() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let tcp = server.local_addr().unwrap();
        let (pki, udp) = (Pki::new(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let address = udp.local_addr().unwrap();
        let acceptor = Acceptor::new().tls(pki.server());
        tokio::spawn(
            server
                .acceptor(acceptor)
                .max_handshakes(8)
                .http3(udp)
                .serve(echo),
        );
        let (front, mut retried) = relay(address, Duration::ZERO).await;
        let url = format!("wss://127.0.0.1:{}/", front.port());
        let client = Client::new(url).tls(pki.trusted()).no_proxy();
        within(Http3::connect(&client)).await.unwrap();
        assert!(retried.try_recv().is_err());
        // One of eight that there may be: it says nothing.
        let _silent = tokio::net::TcpStream::connect(tcp).await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let http3 = within(Http3::connect(&client)).await.unwrap();
        retried.try_recv().unwrap();
        let mut socket = within(http3.open(&client)).await.unwrap();
        echoes(&mut socket, "let in").await;
    }
}

mod a_strange_server {
    use super::{raw::*, *};

    /// What a client is told of a server that begins so.
    async fn connecting(begins: &[u8]) -> (Result<Http3>, Peer) {
        let (endpoint, client) = server(b"h3");
        let connecting = tokio::spawn(async move { Http3::connect(&client).await });
        let peer = accept(&endpoint, begins).await;
        (within(connecting).await.unwrap(), peer)
    }

    #[tokio::test]
    async fn that_opens_no_websockets_is_told_of() {
        let (connected, _peer) = connecting(&begin()).await;
        let error = connected.unwrap_err();
        assert!(error.is_handshake(), "{error}");
        assert!(
            error.to_string().contains("do not permit extended CONNECT"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn that_speaks_another_protocol_is_told_of() {
        let (endpoint, client) = server(b"doq");
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let _ = incoming.await;
            }
        });
        let error = within(Http3::connect(&client)).await.unwrap_err();
        assert!(error.to_string().contains("not chosen HTTP/3"), "{error}");
    }

    #[tokio::test]
    async fn that_says_nothing_is_given_up() {
        let (endpoint, client) = server(b"h3");
        let client = client.handshake_timeout(Duration::from_millis(300));
        let accepting = tokio::spawn(async move { within(endpoint.accept()).await.unwrap().await });
        let error = within(Http3::connect(&client)).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        drop(accepting);
    }

    /// RFC 9114 §6.2 and §7.2.
    #[tokio::test]
    async fn that_breaks_a_rule_is_left() {
        for (what, bytes, expected) in [
            (
                "no settings",
                [&[CONTROL][..], &frame(GOAWAY, [0])].concat(),
                0x10A,
            ),
            ("MAX_PUSH_ID", [welcome(), frame(13, [0])].concat(), 0x105),
            (
                "GOAWAY of a push",
                [welcome(), frame(GOAWAY, [1])].concat(),
                0x108,
            ),
            (
                "a setting that is neither",
                [&[CONTROL][..], &frame(SETTINGS, [8, 2])].concat(),
                0x109,
            ),
        ] {
            let (connected, peer) = connecting(&bytes).await;
            let error = within(peer.connection.closed()).await;
            assert_eq!(code(&error), expected, "{what}");
            if let Err(error) = connected {
                assert!(error.is_lost(), "{what}: {error}");
                assert!(
                    error.to_string().contains("broken a rule of HTTP/3"),
                    "{what}: {error}"
                );
            }
        }
        let (connected, peer) = connecting(&welcome()).await;
        let http3 = connected.unwrap();
        let mut push = within(peer.connection.open_uni()).await.unwrap();
        within(push.write_all(&[1, 0])).await.unwrap();
        assert_eq!(code(&within(peer.connection.closed()).await), 0x108);
        drop(http3);
    }

    /// A client that has a connection, and what answers it.
    async fn opening(answer: Vec<u8>, ends: bool) -> (Result<WebSocket>, Peer, RecvStream) {
        let (endpoint, client) = server(b"h3");
        let opening = tokio::spawn(async move {
            let http3 = Http3::connect(&client).await?;
            http3.open(&client).await
        });
        let peer = accept(&endpoint, &welcome()).await;
        let (mut send, mut receive) = within(peer.connection.accept_bi()).await.unwrap();
        let (kind, _) = next(&mut receive).await.unwrap();
        assert_eq!(kind, HEADERS);
        within(send.write_all(&answer)).await.unwrap();
        if ends {
            send.finish().unwrap();
        } else {
            std::mem::forget(send);
        }
        (within(opening).await.unwrap(), peer, receive)
    }

    /// RFC 9114 §4.1: there may be others before the answer.
    #[tokio::test]
    async fn that_has_something_to_say_before_its_answer_is_heard_out() {
        let hints = head(&[(":status", "103"), ("link", "</style.css>")]);
        let answer = [hints.clone(), hints, head(&[(":status", "200")])].concat();
        let (opened, _peer, _receive) = opening(answer, false).await;
        opened.unwrap();
    }

    #[tokio::test]
    async fn that_answers_wrongly_is_told_of() {
        for (what, answer, says) in [
            ("101", head(&[(":status", "101")]), "101"),
            ("no status", head(&[("a", "b")]), "without a status"),
            (
                "no status but a path",
                head(&[(":path", "/")]),
                "without a status",
            ),
            (
                "a large name",
                head(&[(":status", "200"), ("A", "b")]),
                "lower case",
            ),
            ("nothing", Vec::new(), "ended before"),
            (
                "a subprotocol",
                head(&[(":status", "200"), ("sec-websocket-protocol", "a")]),
                "was not offered",
            ),
            ("no", head(&[(":status", "404")]), "404"),
            (
                "a head of a megabyte",
                [integer(HEADERS), integer(1 << 20)].concat(),
                "larger than",
            ),
        ] {
            let (opened, peer, _receive) = opening(answer, true).await;
            let error = opened.unwrap_err();
            assert!(error.is_handshake(), "{what}: {error}");
            assert!(error.to_string().contains(says), "{what}: {error}");
            assert!(
                peer.connection
                    .close_reason()
                    .is_none_or(|it| code(&it) == 0x100),
                "{what}"
            );
        }
        let (opened, peer, _receive) = opening(frame(DATA, [1]), true).await;
        assert!(opened.unwrap_err().is_lost());
        assert_eq!(code(&within(peer.connection.closed()).await), 0x105);
    }

    /// RFC 9114 §5.2.
    #[tokio::test]
    async fn that_goes_away_is_asked_for_no_more() {
        let (endpoint, client) = server(b"h3");
        let connecting = {
            let client = client.clone();
            tokio::spawn(async move { Http3::connect(&client).await })
        };
        let mut peer = accept(&endpoint, &welcome()).await;
        let http3 = within(connecting).await.unwrap().unwrap();
        within(peer.control.write_all(&frame(GOAWAY, [0])))
            .await
            .unwrap();
        let begin = Instant::now();
        let client = client.handshake_timeout(Duration::from_millis(50));
        let error = loop {
            let error = within(http3.open(&client)).await.unwrap_err();
            if !error.is_timeout() {
                break error;
            }
            assert!(begin.elapsed() < 10 * SECOND, "it is asked still");
        };
        assert!(
            error.is_lost() && error.to_string().contains("GOAWAY"),
            "{error}"
        );
    }

    /// A reset, and the end of the connection, as this end hears of them.
    #[tokio::test]
    async fn that_breaks_off_is_lost() {
        let (endpoint, client) = server(b"h3");
        let opening = tokio::spawn(async move {
            let http3 = Http3::connect(&client).await?;
            Ok::<_, Error>((http3.open(&client).await?, http3.open(&client).await?))
        });
        let peer = accept(&endpoint, &welcome()).await;
        let mut streams = Vec::new();
        for _ in 0..2 {
            let (mut send, receive) = within(peer.connection.accept_bi()).await.unwrap();
            within(send.write_all(&head(&[(":status", "200")])))
                .await
                .unwrap();
            streams.push((send, receive));
        }
        let (mut one, mut other) = within(opening).await.unwrap().unwrap();
        streams[0].0.reset(0x10C_u32.into()).unwrap();
        let error = within(one.recv()).await.unwrap_err();
        assert!(
            error.is_lost() && error.to_string().contains("H3_REQUEST_CANCELLED"),
            "{error}"
        );
        peer.connection.close(0x102_u32.into(), b"it broke");
        let error = within(other.recv()).await.unwrap_err();
        assert!(
            error.is_lost() && error.to_string().contains("(H3_INTERNAL_ERROR): it broke"),
            "{error}"
        );
    }
}
