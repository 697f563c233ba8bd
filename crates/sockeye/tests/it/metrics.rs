//! Metrics of a server: what was sent is what they say, once what is told of it has been.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use sockeye::{
    Acceptor, Client, CloseCode, DeflateConfig, Handler, MessageRef, Metrics, Server, Socket,
    WebSocket, accept,
    server::{Answer, Listener, Refusal},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::wire::{Peer, within};

const DEADLINE: Duration = Duration::from_secs(20);

/// Samples by name and labels.
struct Samples(BTreeMap<String, f64>);

impl Samples {
    fn of(metrics: &Metrics) -> Self {
        Self::parse(&metrics.encode())
    }

    fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self(samples.collect())
    }

    fn get(&self, name: &str) -> f64 {
        let value = self.0.get(name);
        *value.unwrap_or_else(|| panic!("{name} is not among {:#?}", self.0))
    }

    fn sum(&self, name: &str) -> f64 {
        let of_name = |sample: &&String| sample.starts_with(&format!("{name}{{"));
        let names: Vec<_> = self.0.keys().filter(of_name).collect();
        names.into_iter().map(|name| self.get(name)).sum()
    }
}

/// Waits until the metrics say so.
async fn until(metrics: &Metrics, name: &str, value: f64) -> Samples {
    let began = Instant::now();
    loop {
        let samples = Samples::of(metrics);
        if samples.0.get(name) == Some(&value) {
            return samples;
        }
        assert!(
            began.elapsed() < DEADLINE,
            "{name} did not become {value}: {:#?}",
            samples.0
        );
        tokio::task::yield_now().await;
        sleep(Duration::from_millis(1)).await;
    }
}

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

async fn echo(mut socket: WebSocket) -> sockeye::Result<()> {
    while let Some(message) = socket.recv().await? {
        socket.send(message).await?;
    }
    Ok(())
}

/// A server of either form, and its URL.
async fn serve(metrics: &Metrics, events: bool, acceptor: Acceptor) -> (String, JoinSet<()>) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    let server = server.metrics(metrics).acceptor(acceptor);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let served = match events {
            true => server.serve_handler(|| Echo).await,
            false => server.serve(echo).await,
        };
        served.unwrap();
    });
    (url, tasks)
}

async fn talk(url: &str) -> WebSocket {
    let mut socket = Client::new(url).connect().await.unwrap();
    for message in ["one", "three"] {
        socket.send(message).await.unwrap();
        socket.recv().await.unwrap().unwrap();
    }
    socket.send(vec![0u8; 100_000]).await.unwrap();
    socket.recv().await.unwrap().unwrap();
    socket.ping(b"there?").await.unwrap();
    while !matches!(
        within(socket.recv_event()).await.unwrap(),
        Some(sockeye::Event::Pong(_))
    ) {}
    socket
}

#[tokio::test]
async fn what_was_sent_is_counted_while_it_is_open_and_after() {
    for events in [false, true] {
        let metrics = Metrics::new();
        let acceptor = Acceptor::new().deflate(None::<DeflateConfig>);
        let (url, _server) = serve(&metrics, events, acceptor).await;
        let mut sockets = Vec::new();
        for _ in 0..10 {
            sockets.push(talk(&url).await);
        }
        let open = until(&metrics, "sockeye_connections_open", 10.0).await;
        for mut socket in sockets {
            within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
        }
        let ended = until(&metrics, "sockeye_connections_open", 0.0).await;
        for samples in [&open, &ended] {
            assert_eq!(samples.get("sockeye_connections_accepted_total"), 10.0);
            for direction in ["received", "sent"] {
                let of = |name: &str, kind: &str| {
                    samples.get(&format!(
                        "sockeye_{name}_total{{direction=\"{direction}\",kind=\"{kind}\"}}"
                    ))
                };
                assert_eq!(of("messages", "text"), 20.0);
                assert_eq!(of("messages", "binary"), 10.0);
                assert_eq!(of("message_bytes", "text"), 80.0);
                assert_eq!(of("message_bytes", "binary"), 1_000_000.0);
                let is_received = direction == "received";
                assert_eq!(of("messages", "ping"), if is_received { 10.0 } else { 0.0 });
                assert_eq!(of("messages", "pong"), if is_received { 0.0 } else { 10.0 });
            }
            assert_eq!(samples.get("sockeye_output_waiting_bytes"), 0.0);
            assert_eq!(samples.sum("sockeye_compressed_bytes_total"), 0.0);
        }
        // Headers too, and masks: 6 and 8 bytes for messages, 14 for a large one.
        let frames = 10.0 * (9.0 + 11.0 + 100_014.0 + 12.0);
        let received = "sockeye_transport_bytes_total{direction=\"received\"}";
        assert_eq!(open.get(received), frames);
        assert_eq!(ended.get(received), frames + 80.0);
        let closes = "sockeye_closes_total{code=\"1000\",by=\"peer\"}";
        assert_eq!(ended.get(closes), 10.0);
        assert_eq!(ended.sum("sockeye_closes_total"), 10.0);
    }
}

#[cfg(feature = "deflate")]
#[tokio::test]
async fn how_well_messages_compress() {
    let metrics = Metrics::new();
    let (url, _server) = serve(&metrics, true, Acceptor::new()).await;
    let mut socket = talk(&url).await;
    within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
    let samples = until(&metrics, "sockeye_connections_open", 0.0).await;
    for direction in ["received", "sent"] {
        let of = |name| {
            samples.get(&format!(
                "sockeye_{name}_bytes_total{{direction=\"{direction}\"}}"
            ))
        };
        assert_eq!(of("uncompressed"), 100_000.0);
        assert!(of("compressed") < 1000.0 && of("transport") < 1100.0);
    }
}

/// A client, and a server's end of it that is counted.
async fn pair(acceptor: &Acceptor) -> (WebSocket, WebSocket) {
    let (ours, theirs) = duplex(1000);
    let client = Client::new("ws://peer/");
    let (client, server) = tokio::join!(client.connect_over(ours), acceptor.accept(theirs));
    (client.unwrap(), server.unwrap())
}

#[tokio::test]
async fn ends_by_code_and_by_who() {
    let metrics = Metrics::new();
    let acceptor = Acceptor::new().metrics(&metrics);
    // The peer goes without a word.
    let (client, mut server) = pair(&acceptor).await;
    drop(client);
    while let Ok(Some(_)) = server.recv().await {}
    // A code of its own.
    let (mut client, mut server) = pair(&acceptor).await;
    let code = CloseCode::new(4321).unwrap();
    let (closed, received) = tokio::join!(client.close(code, ""), server.recv());
    closed.unwrap();
    assert_eq!(received.unwrap(), None);
    // One that is dropped, and is still open until then.
    let (client, third) = pair(&acceptor).await;
    assert_eq!(Samples::of(&metrics).get("sockeye_connections_open"), 1.0);
    drop(third);
    drop(client);
    // One that has closed, and whose receiver is dropped before the peer has answered.
    let (client, fourth) = pair(&acceptor).await;
    let (sender, receiver) = fourth.split();
    sender.close(CloseCode::NORMAL, "").await.unwrap();
    drop(sender);
    drop(receiver);
    drop(client);
    let samples = Samples::of(&metrics);
    assert_eq!(samples.get("sockeye_connections_open"), 0.0);
    for labels in [
        "code=\"1000\",by=\"us\"",
        "code=\"1001\",by=\"peer\"",
        "code=\"4xxx\",by=\"peer\"",
        "code=\"1001\",by=\"us\"",
    ] {
        let name = format!("sockeye_closes_total{{{labels}}}");
        assert_eq!(samples.get(&name), 1.0, "{labels}");
    }
}

/// A socket that nobody has any more is one until what waits is written.
#[tokio::test(start_paused = true)]
async fn a_dropped_socket_is_counted_until_it_has_ended() {
    for answers in [true, false] {
        let metrics = Metrics::new();
        let (ours, theirs) = duplex(1000);
        let acceptor = Acceptor::new().metrics(&metrics).deflate(None);
        let (socket, mut peer) = tokio::join!(acceptor.accept(ours), Peer::client(theirs, "", &[]));
        let mut socket = socket.unwrap();
        socket.try_send(vec![7; 100_000]).unwrap();
        drop(socket);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(Samples::of(&metrics).get("sockeye_connections_open"), 1.0);
        assert_eq!(peer.expect(0x82).await.len(), 100_000);
        assert_eq!(peer.expect_close().await.0, 1001);
        if answers {
            peer.send_close(1001, "").await;
            drop(peer);
        } else {
            sleep(Duration::from_secs(6)).await;
        }
        let samples = until(&metrics, "sockeye_connections_open", 0.0).await;
        let sent = samples.get("sockeye_transport_bytes_total{direction=\"sent\"}");
        assert_eq!(sent, 100_014.0);
        let how = match answers {
            true => "sockeye_closes_total{code=\"1001\",by=\"us\"}",
            false => "sockeye_closes_total{code=\"1006\",by=\"close_timeout\"}",
        };
        assert_eq!(samples.get(how), 1.0);
    }
}

/// Where it was found out only as it was dropped, too.
#[tokio::test(start_paused = true)]
async fn a_dropped_socket_that_was_lost_is_counted_as_that() {
    let metrics = Metrics::new();
    let (ours, theirs) = duplex(1000);
    let acceptor = Acceptor::new().metrics(&metrics).deflate(None);
    let (socket, peer) = tokio::join!(acceptor.accept(ours), Peer::client(theirs, "", &[]));
    drop(peer);
    drop(socket.unwrap());
    let samples = until(&metrics, "sockeye_connections_open", 0.0).await;
    let lost = samples.get("sockeye_closes_total{code=\"1006\",by=\"lost\"}");
    assert_eq!(lost, 1.0);
}

#[tokio::test(start_paused = true)]
async fn round_trips() {
    let metrics = Metrics::new();
    let acceptor = Acceptor::new().metrics(&metrics);
    let (mut client, mut server) = pair(&acceptor).await;
    let both = async { tokio::join!(client.recv(), server.recv()) };
    assert!(timeout(Duration::from_secs(100), both).await.is_err());
    let samples = Samples::of(&metrics);
    assert_eq!(samples.get("sockeye_round_trip_seconds_count"), 3.0);
    assert!(server.rtt().is_some());
}

#[tokio::test]
async fn refusals_by_reason() {
    let metrics = Metrics::new();
    let acceptor = Acceptor::new()
        .handshake_timeout(Duration::from_millis(50))
        .on_request(|request| {
            let decided = match request.path() {
                "/" => Ok(Answer::new()),
                _ => Err(Refusal::new(404, "not here\n")),
            };
            async move { decided }
        });
    let (url, _server) = serve(&metrics, false, acceptor).await;
    let address = url
        .trim_start_matches("ws://")
        .trim_end_matches('/')
        .to_owned();
    let ask = async |request: &str| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
    };
    ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    ask("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    ask("nonsense\r\n\r\n").await;
    ask("GET / HTTP/1.1\r\n").await;
    let refused = Client::new(format!("{url}nowhere")).connect().await;
    assert!(refused.unwrap_err().is_handshake());
    let elsewhere = Client::new(&url).origin("https://elsewhere.example");
    assert!(elsewhere.connect().await.unwrap_err().is_handshake());
    let name = |reason| format!("sockeye_handshakes_refused_total{{reason=\"{reason}\"}}");
    for (reason, count) in [
        ("timeout", 1.0),
        ("not_websocket", 2.0),
        ("handshake", 1.0),
        ("decision", 1.0),
        ("origin", 1.0),
        ("lost", 0.0),
    ] {
        until(&metrics, &name(reason), count).await;
    }
    let samples = Samples::of(&metrics);
    assert_eq!(samples.sum("sockeye_handshakes_refused_total"), 6.0);
    assert_eq!(samples.get("sockeye_connections_accepted_total"), 0.0);
}

#[tokio::test]
async fn limits_are_reasons() {
    let metrics = Metrics::new();
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    let server = server.max_connections(1).metrics(&metrics);
    let serving = tokio::spawn(server.serve(echo));
    let _first = talk(&url).await;
    assert!(Client::new(&url).connect().await.is_err());
    let name = "sockeye_handshakes_refused_total{reason=\"connections\"}";
    until(&metrics, name, 1.0).await;
    serving.abort();
}

#[tokio::test]
async fn the_endpoint_speaks_http() {
    let metrics = Metrics::new();
    let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = tokio::spawn(metrics.clone().serve(listener));
    let ask = async |request: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        answer
    };
    // More than are answered at once: each gives its place back.
    for _ in 0..20 {
        let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Type: {}\r\n", Metrics::CONTENT_TYPE)));
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert_eq!(Samples::parse(body).get("sockeye_connections_open"), 0.0);
    }
    let answer = ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"));
    let answer = ask("HEAD / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n"));
    let answer = ask("PUT /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.contains("\r\nAllow: GET, HEAD\r\n"), "{answer}");
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
        (
            "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            "405",
        ),
        ("nonsense\r\n\r\n", "400"),
    ] {
        let answer = ask(request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
    }
    endpoint.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_never_go_back_while_connections_come_and_go() {
    let metrics = Metrics::new();
    let (url, _server) = serve(&metrics, true, Acceptor::new()).await;
    let url: Arc<str> = url.into();
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let url = url.clone();
        clients.spawn(async move {
            for _ in 0..20 {
                let mut socket = talk(&url).await;
                let _ = socket.close(CloseCode::NORMAL, "").await;
            }
        });
    }
    let mut before = 0.0;
    while !clients.is_empty() {
        let messages = Samples::of(&metrics).sum("sockeye_messages_total");
        assert!(messages >= before, "{messages} after {before}");
        before = messages;
        if let Ok(Some(ended)) = timeout(Duration::from_millis(1), clients.join_next()).await {
            ended.unwrap();
        }
    }
    let samples = until(&metrics, "sockeye_connections_open", 0.0).await;
    // Three messages there and back, a ping and its pong.
    assert_eq!(samples.sum("sockeye_messages_total"), 160.0 * 8.0);
}

#[tokio::test]
async fn a_registry_of_the_users_own_takes_them() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::new();
    registry.register_collector(Box::new(metrics.clone()));
    let (_ours, theirs) = duplex(10);
    drop(accept(theirs));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert_eq!(text, metrics.encode());
}
