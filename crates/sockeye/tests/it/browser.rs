//! The browser's WebSocket, step by step of the WHATWG standard: what is thrown, which events come,
//! in which order and with what in them. Modules are named after its sections.

use std::{
    sync::{Arc, mpsc::channel},
    thread,
    time::Duration,
};

use sockeye::{
    Client, Limits, Server,
    browser::{BinaryType, Blob, Data, Exception, ReadyState, WebSocket},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::yield_now,
};

use crate::wire::*;

/// The scripted peer's side of a listening socket.
struct Door {
    listener: TcpListener,
    url: String,
}

impl Door {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/socket", listener.local_addr().unwrap());
        Self { listener, url }
    }

    async fn raw(&self) -> TcpStream {
        within(self.listener.accept()).await.unwrap().0
    }

    async fn accept(&self) -> Peer<TcpStream> {
        within(Peer::server(self.raw().await, "", &[])).await
    }

    fn client(&self) -> Client {
        Setup::default().client(&self.url)
    }
}

/// What the callbacks saw, in order.
struct Log(mpsc::UnboundedReceiver<String>);

impl Log {
    /// Sets all four callbacks.
    fn of(socket: &WebSocket) -> Self {
        let (log, seen) = mpsc::unbounded_channel();
        let to = log.clone();
        socket.on_open(move |event| to.send(format!("open {:?}", state(event.target))).unwrap());
        let to = log.clone();
        socket.on_message(move |event| to.send(format!("message {}", event.data)).unwrap());
        let to = log.clone();
        socket.on_error(move |event| to.send(format!("error {:?}", state(event.target))).unwrap());
        socket.on_close(move |event| {
            let line = format!(
                "close {:?} {} {:?} {}",
                state(event.target),
                event.code,
                event.reason,
                event.was_clean
            );
            log.send(line).unwrap();
        });
        Self(seen)
    }

    async fn next(&mut self) -> String {
        within(self.0.recv()).await.unwrap()
    }

    async fn expect(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.next().await, *line);
        }
    }

    /// That these come, and then the end, and nothing else.
    async fn expect_last(mut self, socket: &WebSocket, lines: &[&str]) {
        within(socket.closed()).await;
        assert_eq!(socket.ready_state(), ReadyState::Closed);
        let mut seen = Vec::new();
        while let Ok(line) = self.0.try_recv() {
            seen.push(line);
        }
        assert_eq!(seen, lines);
    }
}

fn state(socket: &WebSocket) -> ReadyState {
    socket.ready_state()
}

const FAILED: [&str; 2] = ["error Closed", "close Closed 1006 \"\" false"];

/// A socket that is open, its peer and its log.
async fn open() -> (WebSocket, Peer<TcpStream>, Log) {
    let door = Door::new().await;
    let socket = WebSocket::with_client(door.client()).unwrap();
    let mut log = Log::of(&socket);
    let peer = door.accept().await;
    log.expect(&["open Open"]).await;
    (socket, peer, log)
}

fn name(result: Result<impl std::fmt::Debug, Exception>) -> &'static str {
    result.unwrap_err().name()
}

mod the_constructor {
    use super::*;

    #[tokio::test]
    async fn steps_1_and_2_the_url() {
        for (url, understood) in [
            ("ws://127.0.0.1:1", "ws://127.0.0.1:1/"),
            ("http://127.0.0.1:1/a b", "ws://127.0.0.1:1/a%20b"),
            ("HTTPS://127.0.0.1:1/", "wss://127.0.0.1:1/"),
            ("wss://127.0.0.1:443/?q", "wss://127.0.0.1/?q"),
            ("ws://пример.рф:1", "ws://xn--e1afmkfd.xn--p1ai:1/"),
        ] {
            assert_eq!(WebSocket::new(url).unwrap().url(), understood);
        }
        for url in [
            "",
            "example.com",
            "/path",
            "ws://",
            "ftp://a",
            "mailto:a@b",
            "about:blank",
            "ws://a/#",
            "ws://a/#fragment",
            "wss://a:99999",
        ] {
            assert_eq!(name(WebSocket::new(url)), "SyntaxError", "{url}");
        }
    }

    #[tokio::test]
    async fn steps_3_and_4_the_protocols() {
        let url = "ws://127.0.0.1:1";
        for protocols in [
            &["a", "a"][..],
            &[""],
            &["a b"],
            &["a,b"],
            &["a/b"],
            &["é"],
            &["a", "b", "a"],
        ] {
            let result = WebSocket::with_protocols(url, protocols.iter().copied());
            assert_eq!(name(result), "SyntaxError", "{protocols:?}");
        }
        // One may be a token that nobody is to see.
        for protocols in [["bearer", "a secret"], ["secret", "secret"]] {
            let error = WebSocket::with_protocols(url, protocols).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(
                told.contains("number 2") && !told.contains("secret"),
                "{told}"
            );
        }
        // They are compared as they are.
        WebSocket::with_protocols(url, ["chat", "Chat"]).unwrap();
        WebSocket::with_protocols(url, Vec::<String>::new()).unwrap();
    }

    #[tokio::test]
    async fn step_7_the_connection_offers_the_protocols() {
        let door = Door::new().await;
        let _socket = WebSocket::with_protocols(&door.url, ["chat", "superchat"]).unwrap();
        let mut stream = door.raw().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("GET /socket HTTP/1.1\r\n"), "{head}");
        assert!(
            head.contains("Sec-WebSocket-Protocol: chat, superchat\r\n"),
            "{head}"
        );
    }

    #[test]
    fn outside_of_a_runtime_it_says_so() {
        assert_eq!(
            name(WebSocket::new("ws://127.0.0.1:1")),
            "InvalidStateError"
        );
    }
}

mod the_attributes {
    use super::*;

    #[tokio::test]
    async fn ready_state_protocol_extensions() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let server = server.acceptor(sockeye::Acceptor::new().subprotocol("chat"));
        let url = format!("ws://{}/", server.local_addr().unwrap());
        tokio::spawn(server.serve(|mut socket| async move {
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
        let socket = WebSocket::with_protocols(&url, ["superchat", "chat"]).unwrap();
        assert_eq!(socket.ready_state(), ReadyState::Connecting);
        assert_eq!((socket.protocol(), socket.extensions()), Default::default());
        assert_eq!(socket.buffered_amount(), 0);
        assert_eq!(socket.binary_type(), BinaryType::Blob);
        let mut log = Log::of(&socket);
        log.expect(&["open Open"]).await;
        assert_eq!(socket.protocol(), "chat");
        assert!(
            socket.extensions().starts_with("permessage-deflate"),
            "{}",
            socket.extensions()
        );
        socket.send("Привет").unwrap();
        log.expect(&["message Привет"]).await;
        socket.close(3000, "enough").unwrap();
        assert_eq!(socket.ready_state(), ReadyState::Closing);
        log.expect_last(&socket, &["close Closed 3000 \"enough\" true"])
            .await;
        // They stay.
        assert_eq!(socket.protocol(), "chat");
        assert_eq!(socket.url(), url);
    }

    #[test]
    fn the_states_have_the_standards_numbers() {
        let numbers = [
            ReadyState::Connecting,
            ReadyState::Open,
            ReadyState::Closing,
            ReadyState::Closed,
        ];
        assert_eq!(numbers.map(|state| state as u16), [0, 1, 2, 3]);
    }

    #[tokio::test]
    async fn binary_type() {
        let (socket, mut peer, _log) = open().await;
        let (tell, mut data) = mpsc::unbounded_channel();
        socket.on_message(move |event| tell.send(event.data).unwrap());
        peer.send_frame(0x82, [0, 255]).await;
        assert_eq!(
            blob(&mut data).await.array_buffer().await.unwrap(),
            [0, 255][..]
        );
        peer.send_frame(0x82, [0, 255]).await;
        assert_eq!(blob(&mut data).await.text().await.unwrap(), "\0\u{FFFD}");
        peer.send_frame(0x82, "\u{FEFF}a\u{FEFF}").await;
        assert_eq!(blob(&mut data).await.text().await.unwrap(), "a\u{FEFF}");
        peer.send_frame(0x82, [0, 255]).await;
        let data_of_blob = Data::Blob(blob(&mut data).await);
        assert_eq!(data_of_blob.to_string(), "[object Blob]");
        drop(data_of_blob);

        socket.set_binary_type(BinaryType::ArrayBuffer);
        peer.send_frame(0x82, [1, 2]).await;
        let buffer = within(data.recv()).await.unwrap();
        assert!(matches!(&buffer, Data::ArrayBuffer(bytes) if bytes[..] == [1, 2]));
        assert_eq!(buffer.to_string(), "[object ArrayBuffer]");
    }
}

mod the_close_method {
    use super::*;

    #[tokio::test]
    async fn step_1_codes() {
        let (socket, mut peer, log) = open().await;
        for code in [0, 999, 1001, 1005, 1006, 1011, 2999, 5000, 65535] {
            assert_eq!(name(socket.close(code, "")), "InvalidAccessError", "{code}");
        }
        // Nothing has happened.
        assert_eq!(socket.ready_state(), ReadyState::Open);
        socket.close(4999, "").unwrap();
        assert_eq!(peer.expect_close().await, (4999, String::new()));
        peer.send_close(4999, "").await;
        drop(peer);
        log.expect_last(&socket, &["close Closed 4999 \"\" true"])
            .await;
    }

    #[tokio::test]
    async fn step_2_reasons() {
        let (socket, mut peer, log) = open().await;
        assert_eq!(name(socket.close(1000, &"x".repeat(124))), "SyntaxError");
        // Bytes, not characters.
        assert_eq!(name(socket.close(1000, &"ы".repeat(62))), "SyntaxError");
        assert_eq!(name(socket.close(None, &"x".repeat(124))), "SyntaxError");
        // The code is looked at first.
        assert_eq!(
            name(socket.close(1001, &"x".repeat(124))),
            "InvalidAccessError"
        );
        let longest = format!("{}x", "ы".repeat(61));
        socket.close(1000, &longest).unwrap();
        assert_eq!(peer.expect_close().await, (1000, longest));
        // The close event tells what the peer says.
        peer.send_close(1000, "пока").await;
        drop(peer);
        log.expect_last(&socket, &["close Closed 1000 \"пока\" true"])
            .await;
    }

    #[tokio::test]
    async fn step_3_while_connecting_it_fails_the_connection() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let log = Log::of(&socket);
        let mut stream = door.raw().await;
        assert_eq!(stream.read_u8().await.unwrap(), b'G');
        socket.close(1000, "Завершаю соединение").unwrap();
        assert_eq!(socket.ready_state(), ReadyState::Closing);
        log.expect_last(&socket, &FAILED).await;
        // The connection is dropped: after the request comes nothing, not even a Close.
        let mut rest = Vec::new();
        within(stream.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.ends_with(b"\r\n\r\n"), "{rest:?}");
    }

    #[tokio::test]
    async fn step_3_at_once_after_the_constructor() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let log = Log::of(&socket);
        socket.close(None, "").unwrap();
        log.expect_last(&socket, &FAILED).await;
    }

    #[tokio::test]
    async fn step_3_without_a_code_the_close_says_nothing() {
        let (socket, mut peer, log) = open().await;
        socket.close(None, "").unwrap();
        assert_eq!(peer.expect(0x88).await, b"");
        peer.send_frame(0x88, "").await;
        drop(peer);
        log.expect_last(&socket, &["close Closed 1005 \"\" true"])
            .await;
    }

    #[tokio::test]
    async fn step_3_closing_again_does_nothing() {
        let (socket, mut peer, log) = open().await;
        socket.close(3001, "first").unwrap();
        socket.close(3002, "second").unwrap();
        assert_eq!(name(socket.close(1, "")), "InvalidAccessError");
        assert_eq!(peer.expect_close().await, (3001, "first".into()));
        peer.send_close(3001, "first").await;
        peer.stream.shutdown().await.unwrap();
        peer.expect_end().await;
        log.expect_last(&socket, &["close Closed 3001 \"first\" true"])
            .await;
        socket.close(1000, "").unwrap();
        assert_eq!(socket.ready_state(), ReadyState::Closed);
    }

    #[tokio::test]
    async fn what_was_sent_before_goes_out_before() {
        let (socket, mut peer, _log) = open().await;
        for number in 0..200 {
            socket.send(format!("{number}")).unwrap();
        }
        socket.close(1000, "").unwrap();
        for number in 0..200 {
            peer.expect_text(&number.to_string()).await;
        }
        assert_eq!(peer.expect_close().await.0, 1000);
    }
}

mod the_send_method {
    use super::*;

    #[tokio::test]
    async fn step_1_while_connecting_it_throws() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        assert_eq!(name(socket.send("early")), "InvalidStateError");
        assert_eq!(socket.buffered_amount(), 0);
        let mut log = Log::of(&socket);
        let mut peer = door.accept().await;
        log.expect(&["open Open"]).await;
        socket.send("now").unwrap();
        peer.expect_text("now").await;
    }

    #[tokio::test]
    async fn text_and_binary() {
        let (socket, mut peer, _log) = open().await;
        socket.send("Привет").unwrap();
        socket.send(String::new()).unwrap();
        socket.send(&[1u8, 2, 3][..]).unwrap();
        socket.send(vec![0u8; 70_000]).unwrap();
        peer.expect_text("Привет").await;
        peer.expect_text("").await;
        assert_eq!(peer.expect(0x82).await, [1, 2, 3]);
        assert_eq!(peer.expect(0x82).await.len(), 70_000);
    }

    #[tokio::test]
    async fn buffered_amount_counts_payloads_until_they_are_written() {
        let (socket, mut peer, mut log) = open().await;
        // The task cannot run before this one yields.
        socket.send("Привет").unwrap();
        assert_eq!(socket.buffered_amount(), 12);
        socket.send(vec![0u8; 5]).unwrap();
        assert_eq!(socket.buffered_amount(), 17);
        peer.expect_text("Привет").await;
        assert_eq!(peer.expect(0x82).await.len(), 5);
        // Written, and then heard of it, in whichever order.
        peer.send_frame(0x81, "seen").await;
        log.expect(&["message seen"]).await;
        assert_eq!(socket.buffered_amount(), 0);
    }

    /// It counted until all was written that had been sent together, and the buffer was full for a peer that read.
    #[tokio::test]
    async fn what_is_written_is_buffered_no_more() {
        const MIB: usize = 1 << 20;
        let (socket, mut peer, _log) = open().await;
        for _ in 0..30 {
            socket.send(vec![0u8; MIB]).unwrap();
        }
        for read in 1..=50 {
            assert_eq!(peer.expect(0x82).await.len(), MIB);
            let sent = 30 + (read - 1).min(20);
            let most = (sent - read) * MIB as u64;
            within(async {
                while socket.buffered_amount() > most {
                    yield_now().await;
                }
            })
            .await;
            if sent < 50 {
                socket.send(vec![0u8; MIB]).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_close_is_not_waited_for_longer_than_that_where_the_peer_takes_nothing() {
        let door = Door::new().await;
        let client = door.client().keepalive(None);
        let client = client.close_timeout(Duration::from_millis(50));
        let socket = WebSocket::with_client(client).unwrap();
        let mut log = Log::of(&socket);
        let _peer = door.accept().await;
        log.expect(&["open Open"]).await;
        for _ in 0..30 {
            socket.send(vec![0u8; 1 << 20]).unwrap();
        }
        // Until it waits for the peer.
        tokio::time::sleep(Duration::from_millis(50)).await;
        socket.close(1000, "").unwrap();
        log.expect_last(&socket, &["close Closed 1006 \"\" false"])
            .await;
    }

    /// "The close() method does not discard previously sent messages before starting the WebSocket closing handshake". It did
    /// where they took longer than the close timeout.
    #[tokio::test]
    async fn a_close_comes_behind_what_a_slow_peer_takes() {
        const SENT: usize = 16 << 20;
        let closes = async |closes: bool| {
            let door = Door::new().await;
            let client = door.client().close_timeout(Duration::from_secs(4));
            let socket = WebSocket::with_client(client).unwrap();
            let (tell, mut open) = mpsc::unbounded_channel();
            socket.on_open(move |_| tell.send(()).unwrap());
            let mut peer = door.accept().await;
            within(open.recv()).await.unwrap();
            for _ in 0..16 {
                socket.send(vec![0u8; SENT / 16]).unwrap();
            }
            if closes {
                socket.close(1000, "").unwrap();
            }
            drop(socket);
            // At least twice as long, and never as long without a byte.
            let mut taken = 0;
            let mut buffer = vec![0; 1 << 20];
            while taken < SENT {
                tokio::time::sleep(Duration::from_millis(600)).await;
                let mut room = 1 << 20;
                while room > 0 {
                    let count = within(peer.stream.read(&mut buffer[..room])).await.unwrap();
                    assert!(count > 0, "{taken} of {SENT}");
                    (taken, room) = (taken + count, room - count);
                }
            }
            let mut rest = Vec::new();
            let ended = within(peer.stream.read_to_end(&mut rest)).await;
            ended.unwrap();
            let close = if closes { 8 } else { 6 };
            assert_eq!(taken + rest.len(), SENT + 16 * 14 + close);
        };
        tokio::join!(closes(true), closes(false));
    }

    #[tokio::test]
    async fn while_closing_and_after_it_discards_and_counts() {
        let (socket, mut peer, log) = open().await;
        socket.close(1000, "").unwrap();
        socket.send("dropped").unwrap();
        assert_eq!(socket.buffered_amount(), 7);
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.send_close(1000, "").await;
        peer.stream.shutdown().await.unwrap();
        peer.expect_end().await;
        log.expect_last(&socket, &["close Closed 1000 \"\" true"])
            .await;
        socket.send("also").unwrap();
        // "This attribute's value does not reset to zero once the connection closes"
        assert_eq!(socket.buffered_amount(), 11);
    }

    #[tokio::test]
    async fn a_full_buffer_closes_the_connection() {
        let door = Door::new().await;
        let client = door.client().output_limit(100_000);
        let socket = WebSocket::with_client(client).unwrap();
        let mut log = Log::of(&socket);
        let mut peer = door.accept().await;
        log.expect(&["open Open"]).await;
        socket.send(vec![0u8; 90_000]).unwrap();
        socket.send(vec![0u8; 20_000]).unwrap();
        assert_eq!(socket.buffered_amount(), 110_000);
        log.expect_last(&socket, &FAILED).await;
        // It was not sent.
        while let Some(frame) = peer.next().await {
            assert_ne!(frame.payload.len(), 20_000);
        }
    }

    /// A bug: what was sent after that went out, and the server saw a message less.
    #[tokio::test]
    async fn nothing_goes_out_behind_a_full_buffer() {
        let door = Door::new().await;
        let client = door.client().output_limit(100_000);
        let socket = WebSocket::with_client(client).unwrap();
        let mut log = Log::of(&socket);
        let mut peer = door.accept().await;
        log.expect(&["open Open"]).await;
        socket.send(vec![0u8; 200_000]).unwrap();
        socket.send("after").unwrap();
        socket.close(1000, "done").unwrap();
        assert_eq!(socket.buffered_amount(), 200_005);
        log.expect_last(&socket, &FAILED).await;
        while let Some(frame) = peer.next().await {
            assert_eq!(frame.first, 0x88, "{frame:?}");
            assert!(!frame.payload.ends_with(b"done"), "{frame:?}");
        }
    }

    #[tokio::test]
    async fn empty_messages_fill_the_buffer_too() {
        let door = Door::new().await;
        let client = door.client().output_limit(10_000);
        let socket = WebSocket::with_client(client).unwrap();
        let mut log = Log::of(&socket);
        let _peer = door.accept().await;
        log.expect(&["open Open"]).await;
        for _ in 0..10_000 {
            socket.send("").unwrap();
        }
        log.expect_last(&socket, &FAILED).await;
    }
}

/// The blob of the next message.
async fn blob(data: &mut mpsc::UnboundedReceiver<Data>) -> Blob {
    match within(data.recv()).await {
        Some(Data::Blob(blob)) => blob,
        other => panic!("{other:?}"),
    }
}

mod a_blob {
    use super::*;

    /// A socket whose messages are given to the test, its peer and those.
    async fn given() -> (WebSocket, Peer<TcpStream>, mpsc::UnboundedReceiver<Data>) {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let data = data(&socket);
        (socket, door.accept().await, data)
    }

    fn data(socket: &WebSocket) -> mpsc::UnboundedReceiver<Data> {
        let (tell, data) = mpsc::unbounded_channel();
        // Nobody listens any more at the end of a test.
        socket.on_message(move |event| drop(tell.send(event.data)));
        data
    }

    #[tokio::test]
    async fn is_read_while_it_arrives_and_pings_are_answered_between() {
        let (_socket, mut peer, mut data) = given().await;
        peer.send_frame(0x02, "one").await;
        let mut blob = blob(&mut data).await.stream();
        let mut bytes = [0; 10];
        for (word, ping) in [("one", "a"), ("two", "b"), ("three", "c")] {
            let count = within(blob.read(&mut bytes)).await.unwrap();
            assert_eq!(&bytes[..count], word.as_bytes());
            peer.send_frame(0x89, ping).await;
            assert_eq!(peer.expect(0x8A).await, ping.as_bytes());
            match word {
                "one" => peer.send_frame(0x00, "two").await,
                "two" => peer.send_frame(0x80, "three").await,
                _ => peer.send_frame(0x81, "next").await,
            }
        }
        assert_eq!(within(blob.read(&mut bytes)).await.unwrap(), 0);
        assert_eq!(within(data.recv()).await.unwrap().to_string(), "next");
    }

    #[tokio::test]
    async fn that_is_dropped_is_discarded_and_the_next_message_comes() {
        let (_socket, mut peer, mut data) = given().await;
        peer.send_frame(0x02, "one").await;
        drop(blob(&mut data).await);
        // More than is ever taken ahead.
        for _ in 0..20 {
            peer.send_frame(0x00, vec![7; 64 * 1024]).await;
        }
        peer.send_frame(0x80, "end").await;
        peer.send_frame(0x81, "next").await;
        assert_eq!(within(data.recv()).await.unwrap().to_string(), "next");
    }

    #[tokio::test]
    async fn that_is_not_read_holds_the_peer_back() {
        let (_socket, mut peer, mut data) = given().await;
        peer.send_frame(0x02, "one").await;
        let blob = blob(&mut data).await;
        let sending = async {
            for _ in 0..1000 {
                peer.send_frame(0x00, vec![7; 64 * 1024]).await;
            }
            peer.send_frame(0x80, "").await;
        };
        let mut sending = std::pin::pin!(sending);
        // The system's buffers take some of the 64 MiB, and then nothing more: time that stands still goes
        // on when nobody has anything left to do.
        tokio::time::pause();
        for _ in 0..10 {
            let stuck = tokio::time::timeout(std::time::Duration::from_millis(1), &mut sending);
            assert!(stuck.await.is_err(), "all of it was taken");
        }
        tokio::time::resume();
        let reading = tokio::spawn(async move {
            let mut blob = blob.stream();
            let (mut bytes, mut all) = (vec![0; 64 * 1024], 0);
            loop {
                match blob.read(&mut bytes).await.unwrap() {
                    0 => return all,
                    count => all += count,
                }
            }
        });
        within(sending).await;
        assert_eq!(within(reading).await.unwrap(), 3 + 1000 * 64 * 1024);
    }

    /// Of one that has come whole, in one read with what is behind it, as of one that arrives: else as many could wait here
    /// as a peer sends. Of an empty one there is nothing to read.
    #[tokio::test]
    async fn that_is_whole_and_not_read_holds_back_what_is_behind_it() {
        let (_socket, mut peer, mut data) = given().await;
        for text in ["one", ""] {
            let mut frames = peer.frame(0x82, text);
            frames.extend(peer.frame(0x89, "ping"));
            frames.extend(peer.frame(0x81, "next"));
            peer.send(frames).await;
            let mut blob = blob(&mut data).await.stream();
            let mut read = String::new();
            // What is directly behind it is no message.
            assert_eq!(peer.expect(0x8A).await, b"ping");
            if !text.is_empty() {
                // The message waits until someone reads.
                tokio::time::pause();
                tokio::time::sleep(Duration::from_millis(10)).await;
                assert!(data.try_recv().is_err());
                tokio::time::resume();
                within(blob.read_to_string(&mut read)).await.unwrap();
            }
            assert_eq!(within(data.recv()).await.unwrap().to_string(), "next");
            within(blob.read_to_string(&mut read)).await.unwrap();
            assert_eq!(read, text);
        }
    }

    #[tokio::test]
    async fn that_is_whole_and_dropped_holds_back_nothing() {
        let (_socket, mut peer, mut data) = given().await;
        for text in ["one", ""] {
            let mut frames = peer.frame(0x82, text);
            frames.extend(peer.frame(0x81, "next"));
            peer.send(frames).await;
            drop(blob(&mut data).await);
            assert_eq!(within(data.recv()).await.unwrap().to_string(), "next");
        }
    }

    /// It has arrived.
    #[tokio::test]
    async fn that_is_whole_stays_so_where_the_socket_is_closed() {
        let (socket, mut peer, mut data) = given().await;
        peer.send_frame(0x82, "one").await;
        let blob = blob(&mut data).await;
        socket.close(1000, "").unwrap();
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.send_close(1000, "").await;
        drop(peer);
        within(socket.closed()).await;
        assert_eq!(within(blob.text()).await.unwrap(), "one");
    }

    /// A message before it whose callback is set a little later is told, as is that the socket is open.
    #[tokio::test]
    async fn that_stands_before_a_close_is_told_before_it() {
        for first in [0x81, 0x82] {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let mut peer = door.accept().await;
            let mut frames = peer.frame(first, "hello");
            frames.extend(peer.frame(0x88, 1000_u16.to_be_bytes()));
            peer.send(frames).await;
            // Well within the time that there is to set a callback.
            tokio::time::sleep(Duration::from_millis(20)).await;
            let mut log = Log::of(&socket);
            let mut data = data(&socket);
            log.expect(&["open Open"]).await;
            match within(data.recv()).await.unwrap() {
                Data::Blob(blob) => assert_eq!(within(blob.text()).await.unwrap(), "hello"),
                text => assert_eq!(text.to_string(), "hello"),
            }
            assert_eq!(peer.expect_close().await.0, 1000);
            drop(peer);
            log.expect_last(&socket, &["close Closed 1000 \"\" true"])
                .await;
        }
    }

    #[tokio::test]
    async fn with_more_than_may_be_held_is_read_as_a_stream_alone() {
        let door = Door::new().await;
        let client = door.client().limits(Limits::default().message(10));
        let socket = WebSocket::with_client(client).unwrap();
        let mut data = data(&socket);
        let mut peer = door.accept().await;
        for (text, whole) in [("ten bytes.", true), ("eleven byte", false)] {
            peer.send_frame(0x82, text).await;
            let result = within(blob(&mut data).await.array_buffer()).await;
            match whole {
                true => assert_eq!(result.unwrap(), text),
                false => assert!(
                    result
                        .unwrap_err()
                        .to_string()
                        .contains("more than 10 bytes")
                ),
            }
            peer.send_frame(0x82, text).await;
            let mut read = String::new();
            let mut blob = blob(&mut data).await.stream();
            within(blob.read_to_string(&mut read)).await.unwrap();
            assert_eq!(read, text);
        }
        // What is told when it is whole may not be larger.
        socket.set_binary_type(BinaryType::ArrayBuffer);
        peer.send_frame(0x82, "eleven byte").await;
        assert_eq!(peer.expect_close().await.0, 1009);
    }

    /// A bug: a turn's worth of a compressed message that came to nothing was taken for the end of the blob.
    #[tokio::test]
    async fn is_whole_where_much_of_it_is_compressed_to_nothing() {
        let door = Door::new().await;
        let client = Setup::deflate().client(&door.url);
        let socket = WebSocket::with_client(client).unwrap();
        let mut data = data(&socket);
        let mut peer = within(Peer::server(door.raw().await, NO_CONTEXT, &[])).await;
        // More blocks with nothing in them than are taken in a turn, and "Hello" (RFC 7692 §7.2.3.1).
        let mut payload = [0x02, 0x08, 0x20, 0x80, 0x00].repeat(256 << 10);
        payload.extend([0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]);
        let read = async { blob(&mut data).await.text().await.unwrap() };
        let (text, ()) = within(async { tokio::join!(read, peer.send_frame(0xC2, payload)) }).await;
        assert_eq!(text, "Hello");
    }

    #[tokio::test]
    async fn whose_connection_ends_is_an_error_and_never_short() {
        for end in ["lost", "broken", "closed"] {
            let (socket, mut peer, mut data) = given().await;
            peer.send_frame(0x02, "one").await;
            let blob = blob(&mut data).await;
            match end {
                "lost" => {}
                "broken" => peer.send_frame(0x81, "").await,
                _ => peer.send_close(1000, "").await,
            }
            drop(peer);
            let error = within(blob.array_buffer()).await.unwrap_err();
            let words = match end {
                "lost" => "without a Close",
                "broken" => "before the last one ended",
                _ => "within a message",
            };
            assert!(error.to_string().contains(words), "{end}: {error}");
            within(socket.closed()).await;
        }
    }

    #[tokio::test]
    async fn is_given_up_when_the_socket_is_closed_even_if_nobody_reads_it() {
        for reads in [true, false] {
            let (socket, mut peer, mut data) = given().await;
            peer.send_frame(0x02, "one").await;
            let mut blob = blob(&mut data).await;
            peer.send_frame(0x00, "two").await;
            if reads {
                within(blob.read_exact(&mut [0; 6])).await.unwrap();
            }
            socket.close(1000, "").unwrap();
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.send_frame(0x80, "three").await;
            peer.send_close(1000, "").await;
            drop(peer);
            within(socket.closed()).await;
            let error = within(blob.read_to_end(&mut Vec::new())).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        }
    }

    /// A bug: nobody was told of the Close that this end sends by itself, and the peer's was behind the rest.
    #[tokio::test]
    async fn is_given_up_when_this_end_closes_even_if_nobody_reads_it() {
        let door = Door::new().await;
        let idle = std::time::Duration::from_millis(300);
        let socket = WebSocket::with_client(door.client().idle_timeout(idle)).unwrap();
        let (log, mut data) = (Log::of(&socket), data(&socket));
        let mut peer = door.accept().await;
        peer.send_frame(0x02, "one").await;
        for _ in 0..8 {
            peer.send_frame(0x00, "more").await;
        }
        let _blob = blob(&mut data).await;
        assert_eq!(peer.expect_close().await.0, 1001);
        peer.send_frame(0x80, "the rest").await;
        peer.send_close(1001, "").await;
        drop(peer);
        log.expect_last(&socket, &["open Open", "close Closed 1001 \"\" true"])
            .await;
    }

    /// Nobody receives then; the pings of ours find that the peer takes nothing.
    #[tokio::test]
    async fn that_nobody_reads_does_not_hide_the_end_of_the_connection() {
        let door = Door::new().await;
        let often = std::time::Duration::from_millis(50);
        let client = door.client().keepalive(often).keepalive_timeout(often);
        let socket = WebSocket::with_client(client).unwrap();
        let mut data = data(&socket);
        let mut peer = door.accept().await;
        peer.send_frame(0x02, "one").await;
        for _ in 0..8 {
            peer.send_frame(0x00, "more").await;
        }
        let blob = blob(&mut data).await;
        for _ in 0..16 {
            socket.send(vec![0; 1 << 20]).unwrap();
        }
        within(socket.closed()).await;
        let error = within(blob.array_buffer()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        drop(peer);
    }
}

mod feedback_from_the_protocol {
    use super::*;

    mod when_the_connection_is_established {
        use super::*;

        #[tokio::test]
        async fn open_comes_first_and_messages_after_it() {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let mut log = Log::of(&socket);
            // In the same segment as the head.
            let early = frame(0x81, false, b"early");
            let _peer = Peer::server(door.raw().await, "", &early).await;
            log.expect(&["open Open", "message early"]).await;
        }

        #[tokio::test]
        async fn a_callback_sends() {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            socket.on_open(|event| event.target.send("hello").unwrap());
            socket.on_message(|event| event.target.send(format!("{}!", event.data)).unwrap());
            let mut peer = door.accept().await;
            peer.expect_text("hello").await;
            peer.send_frame(0x81, "Привет").await;
            peer.expect_text("Привет!").await;
        }
    }

    mod when_a_message_has_been_received {
        use super::*;

        #[tokio::test]
        async fn the_origin_is_the_servers() {
            let (socket, mut peer, _log) = open().await;
            let (tell, mut origins) = mpsc::unbounded_channel();
            socket.on_message(move |event| tell.send(event.origin.to_owned()).unwrap());
            peer.send_frame(0x81, "").await;
            let origin = within(origins.recv()).await.unwrap();
            assert_eq!(format!("{origin}/socket"), socket.url());
        }

        #[tokio::test]
        async fn step_1_none_comes_while_closing() {
            let (socket, mut peer, log) = open().await;
            socket.close(1000, "").unwrap();
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.send_frame(0x81, "too late").await;
            peer.send_close(1000, "").await;
            drop(peer);
            log.expect_last(&socket, &["close Closed 1000 \"\" true"])
                .await;
        }

        #[tokio::test]
        async fn a_callback_that_replaces_itself() {
            let (socket, mut peer, mut log) = open().await;
            let (tell, mut seen) = mpsc::unbounded_channel();
            socket.on_message(move |event| {
                let tell = tell.clone();
                tell.send(format!("first {}", event.data)).unwrap();
                event.target.on_message(move |event| {
                    tell.send(format!("second {}", event.data)).unwrap();
                });
            });
            for text in ["a", "b", "c"] {
                peer.send_frame(0x81, text).await;
            }
            for line in ["first a", "second b", "second c"] {
                assert_eq!(within(seen.recv()).await.unwrap(), line);
            }
            assert!(log.0.try_recv().is_err());
        }

        /// A bug: each message had room for 4 KiB for as long as it was kept.
        #[tokio::test]
        async fn one_that_is_kept_takes_no_more_than_its_bytes() {
            let (socket, mut peer, _log) = open().await;
            let (tell, mut told) = mpsc::unbounded_channel();
            socket.set_binary_type(BinaryType::ArrayBuffer);
            socket.on_message(move |event| tell.send(event.data).unwrap());
            // Whole in a frame, and gathered of two.
            for two in [false, true] {
                for len in [0, 10, 1000, 5000, 100_000] {
                    if two {
                        peer.send_frame(0x02, "").await;
                    }
                    let first = if two { 0x80 } else { 0x82 };
                    peer.send_frame(first, vec![0; len]).await;
                    let Some(Data::ArrayBuffer(bytes)) = within(told.recv()).await else {
                        panic!("it is binary")
                    };
                    assert_eq!(bytes.len(), len);
                    let memory = bytes.try_into_mut().map_or(0, |bytes| bytes.capacity());
                    assert!(memory <= 2 * len, "{memory} for {len}");
                }
                for len in [0, 10, 1000] {
                    if two {
                        peer.send_frame(0x01, "").await;
                    }
                    let first = if two { 0x80 } else { 0x81 };
                    peer.send_frame(first, vec![b'a'; len]).await;
                    let Some(Data::Text(text)) = within(told.recv()).await else {
                        panic!("it is text")
                    };
                    assert_eq!(text.len(), len);
                    let bytes = text.into_bytes();
                    let memory = bytes.try_into_mut().map_or(0, |bytes| bytes.capacity());
                    assert!(memory <= 2 * len, "{memory} for {len}");
                }
            }
        }

        /// What a message costs is about its bytes, also in fragments of one each.
        #[tokio::test]
        async fn it_may_come_in_any_number_of_fragments() {
            const COUNT: usize = 200_000;
            let (_socket, mut peer, mut log) = open().await;
            let mut message = peer.frame(0x01, "a".repeat(COUNT));
            message.extend(peer.frame(0x00, "a").repeat(COUNT));
            message.extend(peer.frame(0x80, ""));
            let sending = tokio::spawn(async move {
                peer.send(message).await;
                peer
            });
            assert_eq!(log.next().await.len(), "message ".len() + 2 * COUNT);
            within(sending).await.unwrap();
        }
    }

    mod when_the_closing_handshake_is_started {
        use super::*;

        #[tokio::test]
        async fn the_state_is_closing_until_the_transport_ends() {
            let (socket, mut peer, log) = open().await;
            peer.send_close(4001, "уходи").await;
            assert_eq!(peer.expect_close().await, (4001, "уходи".into()));
            // The peer has not ended the transport: the client waits for that.
            assert_eq!(socket.ready_state(), ReadyState::Closing);
            socket.send("discarded").unwrap();
            assert_eq!(socket.buffered_amount(), 9);
            drop(peer);
            log.expect_last(&socket, &["close Closed 4001 \"уходи\" true"])
                .await;
        }
    }

    mod when_the_connection_is_closed {
        use super::*;

        #[tokio::test]
        async fn cleanly_there_is_no_error() {
            for (payload, expected) in [
                (&b""[..], "close Closed 1005 \"\" true"),
                (b"\x03\xE8", "close Closed 1000 \"\" true"),
                (b"\x03\xF3oops", "close Closed 1011 \"oops\" true"),
            ] {
                let (socket, mut peer, log) = open().await;
                peer.send_frame(0x88, payload).await;
                assert_eq!(peer.expect(0x88).await, payload);
                drop(peer);
                log.expect_last(&socket, &[expected]).await;
            }
        }

        #[tokio::test]
        async fn a_lost_connection_is_an_error_and_then_a_close() {
            let (socket, peer, log) = open().await;
            drop(peer);
            log.expect_last(&socket, &FAILED).await;
        }

        #[tokio::test]
        async fn a_broken_rule_is_an_error_and_then_a_close() {
            let (socket, mut peer, log) = open().await;
            peer.send_frame(0x83, "").await;
            assert_eq!(peer.expect_close().await.0, 1002);
            drop(peer);
            log.expect_last(&socket, &FAILED).await;
        }

        /// RFC 6455 §7.1.3: the closing handshake has started with either side's Close.
        #[tokio::test]
        async fn the_state_is_closing_once_this_end_has_sent_its_close() {
            let (socket, mut peer, log) = open().await;
            peer.send_frame(0x83, "").await;
            assert_eq!(peer.expect_close().await.0, 1002);
            assert_eq!(socket.ready_state(), ReadyState::Closing);
            drop(peer);
            log.expect_last(&socket, &FAILED).await;
        }

        #[tokio::test]
        async fn a_message_too_large_is_too() {
            let door = Door::new().await;
            let client = door.client().limits(Limits::default().message(10));
            let socket = WebSocket::with_client(client).unwrap();
            let mut log = Log::of(&socket);
            let mut peer = door.accept().await;
            log.expect(&["open Open"]).await;
            peer.send_frame(0x81, "eleven char").await;
            assert_eq!(peer.expect_close().await.0, 1009);
            drop(peer);
            log.expect_last(&socket, &FAILED).await;
        }

        #[tokio::test]
        async fn nobody_there_is_an_error_with_words() {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let log = Log::of(&socket);
            let (tell, mut words) = mpsc::unbounded_channel();
            socket.on_error(move |event| tell.send(event.message.to_owned()).unwrap());
            drop(door);
            log.expect_last(&socket, &["close Closed 1006 \"\" false"])
                .await;
            let words = within(words.recv()).await.unwrap();
            assert!(words.contains("127.0.0.1"), "{words}");
        }

        #[tokio::test]
        async fn a_refused_handshake_is_one_too() {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let log = Log::of(&socket);
            let mut stream = door.raw().await;
            let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            log.expect_last(&socket, &FAILED).await;
        }

        /// Of the subprotocols that were offered one has to be chosen (Fetch, "establish a WebSocket connection").
        #[tokio::test]
        async fn an_answer_without_a_subprotocol_is_one_too() {
            let door = Door::new().await;
            let socket = WebSocket::with_protocols(&door.url, ["chat"]).unwrap();
            let log = Log::of(&socket);
            let (tell, mut words) = mpsc::unbounded_channel();
            let kept = socket.clone();
            socket.on_error(move |event| {
                let state = kept.ready_state();
                tell.send(format!("{state:?} {}", event.message)).unwrap();
            });
            let _peer = door.accept().await;
            log.expect_last(&socket, &["close Closed 1006 \"\" false"])
                .await;
            let words = within(words.recv()).await.unwrap();
            assert!(
                words.starts_with("Closed ") && words.contains("subprotocol"),
                "{words}"
            );
        }

        #[tokio::test]
        async fn a_close_that_is_not_answered_ends_unclean() {
            let door = Door::new().await;
            let client = door.client();
            let client = client.close_timeout(std::time::Duration::from_millis(50));
            let socket = WebSocket::with_client(client).unwrap();
            let mut log = Log::of(&socket);
            let mut peer = door.accept().await;
            log.expect(&["open Open"]).await;
            socket.close(1000, "").unwrap();
            log.expect_last(&socket, &["close Closed 1006 \"\" false"])
                .await;
            assert_eq!(peer.expect_close().await.0, 1000);
        }
    }
}

mod garbage_collection {
    use super::*;

    #[tokio::test]
    async fn with_a_callback_the_connection_goes_on() {
        let (socket, mut peer, mut log) = open().await;
        drop(socket);
        peer.send_frame(0x81, "still there?").await;
        log.expect(&["message still there?"]).await;
        peer.send_close(1000, "").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        drop(peer);
        log.expect(&["close Closed 1000 \"\" true"]).await;
        // The task is gone, and its callbacks with it.
        assert_eq!(within(log.0.recv()).await, None);
    }

    #[tokio::test]
    async fn open_without_callbacks_it_is_closed_without_a_code() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let (tell, mut open) = mpsc::unbounded_channel();
        // It can no longer happen once it has.
        socket.on_open(move |_| tell.send(()).unwrap());
        let mut peer = door.accept().await;
        within(open.recv()).await.unwrap();
        socket.send("last").unwrap();
        let other = socket.clone();
        drop(socket);
        other.send("of all").unwrap();
        drop(other);
        peer.expect_text("last").await;
        peer.expect_text("of all").await;
        assert_eq!(peer.expect(0x88).await, b"");
        peer.send_frame(0x88, "").await;
        drop(peer);
        assert_eq!(within(open.recv()).await, None);
    }

    #[tokio::test]
    async fn connecting_without_callbacks_it_is_given_up() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let mut stream = door.raw().await;
        assert_eq!(stream.read_u8().await.unwrap(), b'G');
        drop(socket);
        within(stream.read_to_end(&mut Vec::new())).await.unwrap();
    }
}

/// What a browser need not promise, as its scripts have their turn before anything happens.
mod callbacks_that_come_late {
    use super::*;

    /// Keeps the runtime busy, so that its paused clock stands still.
    async fn busy<T>(future: impl Future<Output = T>) -> T {
        tokio::select! {
            result = future => result,
            () = async { loop { yield_now().await } } => unreachable!("it never ends"),
        }
    }

    /// The peer of a socket that has its answer, and has told nobody yet.
    async fn opened(door: &Door, socket: &WebSocket, early: &[u8]) -> Peer<TcpStream> {
        let stream = door.listener.accept().await.unwrap().0;
        let peer = Peer::server(stream, "", early).await;
        for _ in 0..1000 {
            yield_now().await;
        }
        assert_eq!(socket.ready_state(), ReadyState::Connecting);
        peer
    }

    #[tokio::test(start_paused = true)]
    async fn within_the_patience_nothing_is_lost_and_the_order_is_kept() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let early = frame(0x81, false, b"early");
        let mut peer = busy(opened(&door, &socket, &early)).await;
        // A message waits behind the open event.
        let (tell, mut messages) = mpsc::unbounded_channel();
        socket.on_message(move |event| tell.send(event.data.to_string()).unwrap());
        for _ in 0..1000 {
            yield_now().await;
        }
        assert!(messages.try_recv().is_err());
        let mut log = Log::of(&socket);
        log.expect(&["open Open", "message early"]).await;
        peer.send_close(1000, "").await;
        drop(peer);
        log.expect_last(&socket, &["close Closed 1000 \"\" true"])
            .await;
    }

    /// Whoever sets no `on_open` waits for it no longer than that.
    #[tokio::test(start_paused = true)]
    async fn after_it_messages_come_without_an_open() {
        let door = Door::new().await;
        let began = tokio::time::Instant::now();
        let socket = WebSocket::with_client(door.client()).unwrap();
        let (tell, mut messages) = mpsc::unbounded_channel();
        socket.on_message(move |event| tell.send(event.data.to_string()).unwrap());
        let early = frame(0x81, false, b"early");
        let _peer = busy(opened(&door, &socket, &early)).await;
        assert_eq!(messages.recv().await.unwrap(), "early");
        let waited = began.elapsed().as_millis();
        assert!((200..=202).contains(&waited), "{waited}");
    }

    /// It was open before that was told, so that `on_open` could find it closing, and lose what it sent.
    #[tokio::test(start_paused = true)]
    async fn before_it_is_told_that_it_is_open_it_is_not() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let mut peer = busy(opened(&door, &socket, &[])).await;
        assert!(matches!(socket.send("a"), Err(Exception::InvalidState(_))));
        socket.close(1000, "").unwrap();
        let log = Log::of(&socket);
        log.expect_last(&socket, &FAILED).await;
        // Failed (RFC 6455 §7.1.7), and not closed as it was asked to.
        assert_eq!(peer.expect_close().await.0, 1001);
    }

    /// Whoever has closed it meanwhile is not told that it is open.
    #[tokio::test]
    async fn none_comes_late_for_what_was_closed() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let mut peer = door.accept().await;
        while socket.ready_state() == ReadyState::Connecting {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        socket.close(1000, "").unwrap();
        assert_eq!(peer.expect_close().await.0, 1000);
        let log = Log::of(&socket);
        peer.send_close(1000, "").await;
        drop(peer);
        log.expect_last(&socket, &["close Closed 1000 \"\" true"])
            .await;
    }

    #[tokio::test]
    async fn after_the_end_they_are_still_told_how_it_went() {
        let door = Door::new().await;
        let socket = WebSocket::with_client(door.client()).unwrap();
        let mut peer = door.accept().await;
        peer.send_frame(0x81, "for nobody").await;
        peer.send_frame(0x83, "").await;
        assert_eq!(peer.expect_close().await.0, 1002);
        drop(peer);
        within(socket.closed()).await;
        let mut log = Log::of(&socket);
        let first = log.next().await;
        assert_eq!(first, "open Closed");
        log.expect(&FAILED).await;
    }
}

mod handles {
    use super::*;

    #[test]
    fn go_anywhere() {
        fn goes_anywhere<T: Clone + Send + Sync + 'static>() {}
        goes_anywhere::<WebSocket>();
        fn moves_anywhere<T: Send + Sync + 'static>() {}
        moves_anywhere::<Data>();
        goes_anywhere::<Exception>();
    }

    /// A bug: a task that was never polled told nobody of its end.
    #[test]
    fn end_with_a_runtime_that_never_ran_their_task() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let first = runtime();
        let socket = first.block_on(async { WebSocket::new("ws://127.0.0.1:1").unwrap() });
        assert_eq!(socket.ready_state(), ReadyState::Connecting);
        drop(first);
        runtime().block_on(within(socket.closed()));
        assert_eq!(socket.ready_state(), ReadyState::Closed);
    }

    /// Uses its socket as it goes.
    struct Uses(WebSocket);

    impl Drop for Uses {
        fn drop(&mut self) {
            self.0.ready_state();
        }
    }

    /// A bug: what a callback holds was dropped with the socket locked, where another took its place.
    #[test]
    fn are_used_by_what_a_callback_holds_that_is_replaced() {
        let (done, is_done) = channel();
        thread::spawn(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            let runtime = builder.enable_all().build().unwrap();
            runtime.block_on(async {
                let (socket, mut peer, _log) = open().await;
                let set_all = |socket: &WebSocket| {
                    let [a, b, c, d] = [(); 4].map(|()| Uses(socket.clone()));
                    socket.on_open(move |_| {
                        let _ = &a;
                    });
                    socket.on_message(move |event| {
                        let _ = &b;
                        event.target.on_message(|_| {});
                    });
                    socket.on_error(move |event| {
                        let _ = &c;
                        event.target.on_error(|_| {});
                    });
                    socket.on_close(move |event| {
                        let _ = &d;
                        event.target.on_close(|_| {});
                    });
                };
                set_all(&socket);
                set_all(&socket);
                peer.send_frame(0x81, "replaces itself").await;
                drop(peer);
                within(socket.closed()).await;
            });
            done.send(()).unwrap();
        });
        let done = is_done.recv_timeout(Duration::from_secs(20));
        assert!(done.is_ok(), "it has locked itself out");
    }

    /// A bug: a callback that holds a handle was kept by it, and so kept all that it held; and without one for the
    /// close, the task waited for that handle to be dropped.
    #[tokio::test]
    async fn held_by_callbacks_are_let_go_of_at_the_end() {
        let alive = || {
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks()
        };
        // With it the runtime has all the tasks that it has by itself.
        let (first, peer, _log) = open().await;
        drop((first, peer));
        for closes in [false, true] {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let held = Arc::new(());
            let holds = || (socket.clone(), held.clone());
            let set_all = || {
                let [open, message, error, close] = [(); 4].map(|()| holds());
                socket.on_open(move |_| drop(open.clone()));
                socket.on_message(move |_| drop(message.clone()));
                socket.on_error(move |_| drop(error.clone()));
                if closes {
                    socket.on_close(move |_| drop(close.clone()));
                }
            };
            set_all();
            let mut peer = door.accept().await;
            peer.send_close(1000, "").await;
            peer.expect_close().await;
            drop(peer);
            within(socket.closed()).await;
            assert_eq!(Arc::strong_count(&held), 1, "{closes}");
            // They have nothing to wait for.
            set_all();
            assert_eq!(Arc::strong_count(&held), 1, "{closes}");
            drop(socket);
            within(async {
                while alive() > 1 {
                    yield_now().await;
                }
            })
            .await;
        }
    }

    #[tokio::test]
    async fn held_by_callbacks_are_let_go_of_after_a_panic() {
        let (socket, mut peer, _log) = open().await;
        let held = Arc::new(());
        let holds = (socket.clone(), held.clone());
        socket.on_error(move |_| drop(holds.clone()));
        let holds = (socket.clone(), held.clone());
        socket.on_message(move |_| panic!("as the test wants it: {}", Arc::strong_count(&holds.1)));
        peer.send_frame(0x81, "").await;
        within(socket.closed()).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_callback_that_panics_ends_the_connection() {
        let (socket, mut peer, _log) = open().await;
        socket.on_message(|_| panic!("as the test wants it"));
        peer.send_frame(0x81, "").await;
        within(socket.closed()).await;
        assert_eq!(socket.ready_state(), ReadyState::Closed);
        while peer.next().await.is_some() {}
    }
}

/// The same lines as Chromium's: `tests/browser/expectations.tsv`.
mod beside_chromium {
    use std::{fs, path::Path};

    use super::*;

    fn cases(kind: &str) -> Vec<(String, String)> {
        let file =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/browser/expectations.tsv");
        let text = fs::read_to_string(file).unwrap();
        let fields = text
            .lines()
            .map(|line| line.split('\t').collect::<Vec<_>>());
        let cases: Vec<_> = fields
            .filter(|fields| fields[0] == kind)
            .map(|fields| (fields[1].to_owned(), fields[2].to_owned()))
            .collect();
        assert!(!cases.is_empty(), "{kind}");
        cases
    }

    fn outcome(result: Result<String, Exception>) -> String {
        result.unwrap_or_else(|exception| exception.name().into())
    }

    #[tokio::test]
    async fn urls() {
        for (url, expected) in cases("url") {
            let socket = WebSocket::new(&url);
            let seen = outcome(socket.map(|socket| socket.url().into()));
            assert_eq!(seen, expected, "{url}");
        }
    }

    #[tokio::test]
    async fn protocols() {
        for (list, expected) in cases("protocols") {
            let names = list.split(' ').map(|name| name.replace("%20", " "));
            let socket = WebSocket::with_protocols("ws://127.0.0.1:1", names);
            assert_eq!(outcome(socket.map(|_| "ok".into())), expected, "{list}");
        }
    }

    #[tokio::test]
    async fn close() {
        for (input, expected) in cases("close") {
            let [code, character, count] = input.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{input}");
            };
            let socket = WebSocket::new("ws://127.0.0.1:1").unwrap();
            let reason = character.repeat(count.parse().unwrap());
            let result = socket.close(code.parse::<u16>().ok(), &reason);
            assert_eq!(outcome(result.map(|()| "ok".into())), expected, "{input}");
        }
    }

    /// The events until the close, as the file writes them.
    async fn events(socket: WebSocket) -> String {
        let (log, mut seen) = mpsc::unbounded_channel();
        let to = log.clone();
        socket.on_open(move |_| to.send("open".to_owned()).unwrap());
        let to = log.clone();
        socket.on_message(move |event| to.send(format!("message:{}", event.data)).unwrap());
        let to = log.clone();
        socket.on_error(move |_| to.send("error".into()).unwrap());
        socket.on_close(move |event| {
            let line = format!("close:{}:{}:{}", event.code, event.reason, event.was_clean);
            log.send(line).unwrap();
        });
        within(socket.closed()).await;
        drop(socket);
        let mut events = Vec::new();
        while let Some(event) = within(seen.recv()).await {
            events.push(event);
        }
        events.join(" ")
    }

    #[tokio::test]
    async fn peers() {
        for (input, expected) in cases("peer") {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let (hex, waits) = match input.strip_suffix("end") {
                Some(hex) => (hex, false),
                None => (&input[..], true),
            };
            let bytes: Vec<u8> = (0..hex.len())
                .step_by(2)
                .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
                .collect();
            let peer = async {
                let mut peer = door.accept().await;
                peer.send(&bytes).await;
                if waits {
                    assert_eq!(peer.next().await.unwrap().first, 0x88);
                }
            };
            let (seen, ()) = tokio::join!(events(socket), peer);
            assert_eq!(seen, expected, "{input}");
        }
    }

    #[tokio::test]
    async fn refusals() {
        for (input, expected) in cases("refuse") {
            let door = Door::new().await;
            let socket = WebSocket::with_client(door.client()).unwrap();
            let peer = async {
                let mut stream = door.raw().await;
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let answer = format!("{input}\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            };
            let (seen, ()) = tokio::join!(events(socket), peer);
            assert_eq!(seen, expected, "{input}");
        }
    }
}

mod the_snippet {
    use super::*;

    /// As it is in the documentation, with a time to talk before the last line.
    #[tokio::test]
    async fn runs_line_by_line() -> Result<(), Exception> {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/socket", server.local_addr().unwrap());
        tokio::spawn(server.serve(|mut socket| async move {
            socket.send("Добро пожаловать на сервер!").await?;
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        }));
        let (tell, printed) = mpsc::unbounded_channel();
        let print = move |line: String| tell.send(line).unwrap();

        let socket = WebSocket::new(&url)?;
        let console = print.clone();
        socket.on_open(move |_| console("Соединение открыто".into()));
        let console = print.clone();
        socket.on_message(move |event| console(format!("Получено сообщение: {}", event.data)));
        let console = print.clone();
        socket.on_close(move |_| console("Соединение закрыто".into()));
        let console = print;
        socket.on_error(move |error| console(format!("Ошибка: {}", error.message)));
        let mut log = Log(printed);
        log.expect(&[
            "Соединение открыто",
            "Получено сообщение: Добро пожаловать на сервер!",
        ])
        .await;
        socket.close(1000, "Завершаю соединение")?;
        within(socket.closed()).await;
        log.expect(&["Соединение закрыто"]).await;
        let mut printed = log.0;
        assert!(printed.try_recv().is_err());
        Ok(())
    }
}
