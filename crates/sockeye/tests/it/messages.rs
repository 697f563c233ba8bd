//! Messages there and back: every size, both roles and forms, with and without TLS and compression,
//! on both runtimes.

use sockeye::{
    Acceptor, Client, CloseCode, DeflateConfig, Ended, Event, Handler, Message, MessageRef, Server,
    Socket, client::ClientTls,
};
use tokio::sync::{mpsc, oneshot};

use crate::{network::Pki, wire::within};

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

/// An echo server, in the event form or the async one; its port.
async fn serve(acceptor: Acceptor, events: bool) -> u16 {
    let server = Server::bind("127.0.0.1:0")
        .await
        .unwrap()
        .acceptor(acceptor);
    let port = server.local_addr().unwrap().port();
    if events {
        tokio::spawn(server.serve_handler(|| Echo));
    } else {
        tokio::spawn(server.serve(|mut socket| async move {
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
    }
    port
}

/// Around every border of a length, of a buffer, and the largest that the default limits let in.
const SIZES: [usize; 15] = [
    0,
    1,
    125,
    126,
    127,
    255,
    256,
    65_535,
    65_536,
    65_537,
    131_072,
    1_000_003,
    1 << 20,
    5_000_000,
    16 << 20,
];

/// Bytes that repeat with a period that no buffer's size is a multiple of.
fn payload(len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..10_007u32).map(|i| (i ^ (i >> 7)) as u8).collect();
    while bytes.len() < len {
        bytes.extend_from_within(..);
    }
    bytes.truncate(len);
    bytes
}

fn text(len: usize) -> String {
    const TEXT: &str = "Привет, мир! hello ";
    let mut text = TEXT.repeat(len / TEXT.len() + 1);
    text.truncate(
        (0..=len)
            .rev()
            .find(|at| text.is_char_boundary(*at))
            .unwrap(),
    );
    text
}

/// Each size once as binary, once as text, through a client in the async form.
async fn exchange(client: Client, sizes: &[usize]) {
    let mut socket = within(client.connect()).await.unwrap();
    for &size in sizes {
        for message in [Message::from(payload(size)), text(size).into()] {
            // Both directions at once, as a large message fills the buffers of the system.
            let (sender, receiver) = socket.split();
            let mut receiver = receiver;
            let (sent, received) =
                within(async { tokio::join!(sender.send(&message), receiver.recv()) }).await;
            sent.unwrap();
            // Not `assert_eq`: nobody reads 16 MiB.
            assert!(received.unwrap().unwrap() == message, "{size}");
            socket = receiver.reunite(sender).unwrap();
        }
    }
    within(socket.close(CloseCode::NORMAL, "")).await.unwrap();
    assert!(matches!(socket.ended(), Some(Ended::ByUs(_))));
}

async fn sizes(sizes: &[usize]) {
    for events in [false, true] {
        let port = serve(Acceptor::new().deflate(None), events).await;
        let client = Client::new(format!("ws://127.0.0.1:{port}/"));
        exchange(client.deflate(None), sizes).await;
    }
}

#[tokio::test]
async fn of_every_size_on_a_current_thread_runtime() {
    sizes(&SIZES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_most_sizes_on_a_multi_thread_runtime() {
    sizes(&SIZES[..12]).await;
}

#[tokio::test]
async fn compressed_with_and_without_context() {
    for no_context in [true, false] {
        for events in [false, true] {
            let config = DeflateConfig {
                own_no_context_takeover: no_context,
                peer_no_context_takeover: no_context,
                ..DeflateConfig::default()
            };
            let port = serve(Acceptor::new().deflate(config), events).await;
            let client = Client::new(format!("ws://127.0.0.1:{port}/")).deflate(config);
            let socket = within(client.connect()).await.unwrap();
            assert_eq!(
                socket.extensions().contains("no_context_takeover"),
                no_context
            );
            drop(socket);
            exchange(client, &SIZES[..12]).await;
        }
    }
}

#[tokio::test]
async fn uncompressed_where_either_side_does_not_want_it() {
    for (ours, theirs) in [(true, false), (false, true)] {
        let config = |wanted| DeflateConfig::available().filter(|_| wanted);
        let port = serve(Acceptor::new().deflate(config(theirs)), false).await;
        let client = Client::new(format!("ws://127.0.0.1:{port}/")).deflate(config(ours));
        let socket = within(client.connect()).await.unwrap();
        assert_eq!(socket.extensions(), "");
        drop(socket);
        exchange(client, &SIZES[..8]).await;
    }
}

#[tokio::test]
async fn over_tls() {
    let pki = Pki::new();
    for events in [false, true] {
        let port = serve(Acceptor::new().tls(pki.server()).deflate(None), events).await;
        let trust = ClientTls::new().ca_pem(pki.ca.as_bytes()).unwrap();
        let client = Client::new(format!("wss://localhost:{port}/")).tls(trust);
        exchange(client.deflate(None), &SIZES[..12]).await;
    }
}

#[tokio::test]
async fn under_the_subprotocol_that_was_agreed() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let server = server.acceptor(Acceptor::new().subprotocol("v2").subprotocol("v1"));
    let url = format!("ws://{}/room?id=7", server.local_addr().unwrap());
    tokio::spawn(server.serve(|mut socket| async move {
        let request = socket.request().unwrap();
        let said = format!("{:?} {}", socket.subprotocol(), request.path());
        assert!(socket.response().is_none());
        assert!(socket.peer_addr().unwrap().ip().is_loopback());
        socket.send(said).await
    }));
    let client = Client::new(url).subprotocol("v1").subprotocol("v2");
    let mut socket = within(client.connect()).await.unwrap();
    assert_eq!(socket.subprotocol(), Some("v2"));
    assert_eq!(socket.response().unwrap().status(), 101);
    let said = within(socket.recv()).await.unwrap();
    assert_eq!(said, Some(r#"Some("v2") /room"#.into()));
    assert!(within(socket.recv()).await.unwrap().is_none());
    assert_eq!(socket.ended().unwrap().code(), 1000);
}

/// All that a handler is told, in order.
struct Log {
    tell: mpsc::UnboundedSender<String>,
    opened: Option<oneshot::Sender<()>>,
}

impl Log {
    fn say(&self, what: impl Into<String>) {
        self.tell.send(what.into()).unwrap();
    }
}

impl Handler for Log {
    fn on_open(&mut self, socket: &mut Socket) {
        self.say(format!("open {}", socket.is_open()));
        socket.send("hello");
        socket.ping(b"there?").unwrap();
        if let Some(opened) = self.opened.take() {
            let _ = opened.send(());
        }
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        self.say(format!("message {message}"));
        if message.as_text() == Some("enough") {
            socket.close(CloseCode::NORMAL, "enough").unwrap();
            // Discarded, as in a browser.
            socket.send("too late");
            assert!(socket.close(CloseCode::NORMAL, "").unwrap_err().is_closed());
        }
    }

    fn on_ping(&mut self, _: &mut Socket, payload: &[u8]) {
        self.say(format!("ping {}", String::from_utf8_lossy(payload)));
    }

    fn on_pong(&mut self, _: &mut Socket, payload: &[u8]) {
        self.say(format!("pong {}", String::from_utf8_lossy(payload)));
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        self.say(ended.to_string());
    }
}

/// Callbacks of a client, events of an async server.
#[tokio::test]
async fn as_events_in_order() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    let (tell_server, mut server_log) = mpsc::unbounded_channel();
    tokio::spawn(server.serve(move |mut socket| {
        let tell = tell_server.clone();
        async move {
            socket.ping(b"and you?").await?;
            socket.pong(b"unasked").await?;
            while let Some(event) = socket.recv_event().await? {
                if let Event::Pong(_) = event {
                    socket.send("enough").await?;
                }
                tell.send(format!("{event:?}")).unwrap();
            }
            Ok(())
        }
    }));
    let (tell, mut log) = mpsc::unbounded_channel();
    let (opened, open) = oneshot::channel();
    let socket = within(sockeye::connect(url)).await.unwrap();
    let handler = Log {
        tell,
        opened: Some(opened),
    };
    let ended = within(socket.handle(handler)).await;
    open.await.unwrap();
    assert!(matches!(ended, Ended::ByUs(frame) if frame.reason == "enough"));
    let mut lines = Vec::new();
    while let Some(line) = log.recv().await {
        lines.push(line);
    }
    lines[1..4].sort();
    assert_eq!(
        lines,
        [
            "open true",
            "ping and you?",
            "pong there?",
            "pong unasked",
            "message enough",
            "closed by this end with 1000 (normal closure): enough",
        ]
    );
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(within(server_log.recv()).await.unwrap());
    }
    assert_eq!(
        seen,
        [
            r#"Message(Text("hello"))"#,
            r#"Ping(b"there?")"#,
            r#"Pong(b"and you?")"#,
            r#"Close(Some(CloseFrame { code: 1000 (normal closure), reason: "enough" }))"#,
        ]
    );
}
