//! What a handler is told when its connection ends: how, and once, whatever ends it.

use std::{future::Future, future::poll_fn, task::Poll, time::Duration};

use sockeye::{CloseCode, Ended, Error, Handler, MessageRef, Server, Socket, server::Shutdown};
use tokio::{io::DuplexStream, net::TcpStream, sync::mpsc, task::JoinHandle};

use crate::wire::*;

/// Tells of each of its callbacks, and does as its messages say.
struct Noting {
    told: mpsc::UnboundedSender<String>,
    panics_in: &'static str,
}

impl Noting {
    fn note(&self, callback: &'static str, what: &str) {
        self.told.send(format!("{callback}{what}")).unwrap();
        assert_ne!(callback, self.panics_in, "as the test wants it");
    }
}

impl Handler for Noting {
    fn on_open(&mut self, _: &mut Socket) {
        self.note("open", "");
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        match message.as_text() {
            Some("close") => socket.close(CloseCode::NORMAL, "bye").unwrap(),
            Some("flood") => (0..100).for_each(|_| socket.send(vec![0; 1000])),
            _ => self.note("message", ""),
        }
    }

    fn on_error(&mut self, _: &mut Socket, error: &Error) {
        self.note("error", &format!(": {error}"));
    }

    fn on_close(&mut self, socket: &mut Socket, ended: &Ended) {
        assert!(!socket.is_open());
        self.note("close", &format!(": {ended}"));
    }
}

/// What it was told, to the last.
async fn all(mut told: mpsc::UnboundedReceiver<String>) -> Vec<String> {
    let mut lines = Vec::new();
    while let Some(line) = within(told.recv()).await {
        lines.push(line);
    }
    lines
}

struct Running {
    peer: Peer<DuplexStream>,
    handling: JoinHandle<Ended>,
    told: mpsc::UnboundedReceiver<String>,
}

async fn run(role: Role, panics_in: &'static str) -> Running {
    let setup = Setup {
        pipe: 1000,
        output_limit: 50_000,
        keepalive: Some(Duration::from_secs(30)),
        ..Setup::default()
    };
    let (socket, peer) = setup.open(role).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let handler = Noting {
        told: tell,
        panics_in,
    };
    let handling = tokio::spawn(socket.handle(handler));
    assert_eq!(within(told.recv()).await.unwrap(), "open");
    Running {
        peer,
        handling,
        told,
    }
}

/// A way to end, and how that is told.
type Way = (&'static str, &'static str);

#[tokio::test(start_paused = true)]
async fn each_way_to_end_is_told_once() {
    let ways: [Way; 7] = [
        (
            "by the peer",
            "closed by the peer with 1000 (normal closure): enough",
        ),
        (
            "by this end",
            "closed by this end with 1000 (normal closure): bye",
        ),
        ("not in time", "the peer did not answer the Close in time"),
        ("lost", "connection lost: "),
        ("against the protocol", "the peer broke the protocol: "),
        (
            "silent",
            "nothing came from the peer, not even an answer to a ping",
        ),
        (
            "overflowing",
            "the peer does not read: more than 50000 bytes",
        ),
    ];
    for role in BOTH {
        for (way, how) in ways {
            let Running {
                mut peer,
                handling,
                told,
            } = run(role, "nothing").await;
            match way {
                "by the peer" => {
                    peer.send_close(1000, "enough").await;
                    peer.expect_close().await;
                }
                "by this end" => {
                    peer.send_frame(0x81, "close").await;
                    peer.expect_close().await;
                    peer.send_close(1000, "").await;
                }
                "not in time" => peer.send_frame(0x81, "close").await,
                "lost" => {}
                "against the protocol" => peer.send_frame(0x83, "").await,
                "overflowing" => peer.send_frame(0x81, "flood").await,
                _ => {}
            }
            // Of the others the peer is still there, and says no more.
            let kept = matches!(way, "not in time" | "silent" | "overflowing").then_some(peer);
            let ended = within_an_hour(handling).await.unwrap();
            drop(kept);
            let mut lines = all(told).await;
            let close = lines.pop().unwrap();
            assert_eq!(close, format!("close: {ended}"));
            assert!(
                close.starts_with(&format!("close: {how}")),
                "{way}: {close}"
            );
            let clean = ended.was_clean();
            assert_eq!(lines.len(), usize::from(!clean), "{way}: {lines:?}");
            assert!(lines.iter().all(|line| line.starts_with("error: ")));
        }
    }
}

/// In time that stands still, nobody waits.
async fn within_an_hour<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future)
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn so_it_is_when_its_future_is_dropped() {
    for role in BOTH {
        let Running { handling, told, .. } = run(role, "nothing").await;
        handling.abort();
        let lines = all(told).await;
        let why = "connection lost: its handler was dropped";
        let error = "the connection was lost: its handler was dropped";
        assert_eq!(lines, [format!("error: {error}"), format!("close: {why}")]);
    }
}

/// As in a list of all clients that a handler takes itself out of at its end, which does not come then.
mod though_somebody_keeps_a_sender {
    use super::*;
    use sockeye::{Sender, WebSocket};
    use std::{future::pending, sync::Arc};
    use tokio::io::{AsyncRead, AsyncWrite};

    const DROPPED: &str = "connection lost: its handler was dropped";
    const PANICKED: &str = "connection lost: its handler panicked";

    /// The peer is told, and the transport has ended.
    async fn expect_ended<S>(peer: &mut Peer<S>, sender: &Sender, code: u16, how: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        assert_eq!(peer.expect_close().await.0, code);
        peer.expect_end().await;
        assert_eq!(sender.ended().unwrap().to_string(), how);
        assert!(!sender.is_open());
        assert!(sender.send("too late").await.is_err());
    }

    async fn greet(mut socket: WebSocket, panics: bool) -> Result<(), Error> {
        socket.send("hello").await?;
        socket.recv().await?;
        assert!(!panics, "as the test wants it");
        pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_driven_socket() {
        for role in BOTH {
            for (panics, code, how) in [(false, 1001, DROPPED), (true, 1011, PANICKED)] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                let driving = tokio::spawn(socket.drive(move |socket| greet(socket, panics)));
                peer.expect_text("hello").await;
                match panics {
                    true => peer.send_frame(0x81, "hello").await,
                    false => driving.abort(),
                }
                expect_ended(&mut peer, &sender, code, how).await;
                assert_eq!(within(driving).await.unwrap_err().is_panic(), panics);
            }
        }
    }

    /// While its Close waits for an answer.
    #[tokio::test(start_paused = true)]
    async fn a_driven_socket_that_closes() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            let driving = tokio::spawn(socket.drive(|_| async { Ok(()) }));
            assert_eq!(peer.expect_close().await.0, 1000);
            driving.abort();
            peer.expect_end().await;
            let ended = sender.ended();
            assert!(matches!(ended, Some(Ended::TimedOut)), "{ended:?}");
        }
    }

    /// It goes on where it has been moved to.
    #[tokio::test(start_paused = true)]
    async fn but_not_one_that_is_received_elsewhere() {
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (give, mut given) = mpsc::unbounded_channel();
            let driving = tokio::spawn(socket.drive(move |socket| {
                give.send(socket).unwrap();
                pending()
            }));
            let socket = within(given.recv()).await.unwrap();
            driving.abort();
            assert!(within(driving).await.unwrap_err().is_cancelled());
            let echoing = echo(Form::Plain, socket);
            peer.expect_echo("still here").await;
            peer.send_close(1000, "").await;
            peer.expect_close().await;
            drop(peer);
            within(echoing)
                .await
                .unwrap()
                .assert_ended(Ended::was_clean);
        }
    }

    #[tokio::test]
    async fn and_a_server_that_is_dropped_drops_it() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let (keep, mut kept) = mpsc::unbounded_channel();
        let serving = tokio::spawn(server.serve(move |socket| {
            keep.send(socket.sender()).unwrap();
            greet(socket, false)
        }));
        let mut peer = Peer::client(TcpStream::connect(address).await.unwrap(), "", &[]).await;
        peer.expect_text("hello").await;
        let sender = within(kept.recv()).await.unwrap();
        serving.abort();
        expect_ended(&mut peer, &sender, 1001, DROPPED).await;
    }

    /// A handler that nobody has ever polled.
    #[tokio::test(start_paused = true)]
    async fn a_handler_that_never_began() {
        struct Idle;
        impl Handler for Idle {}
        for role in BOTH {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            drop(socket.handle(Idle));
            expect_ended(&mut peer, &sender, 1001, DROPPED).await;

            // Within another, that one closes.
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = Arc::new(socket.sender());
            let within_another = |polls: bool| {
                move |socket: WebSocket| async move {
                    let mut handling = Box::pin(socket.handle(Idle));
                    if polls {
                        poll_fn(|cx| {
                            assert!(handling.as_mut().poll(cx).is_pending());
                            Poll::Ready(())
                        })
                        .await;
                    }
                    drop(handling);
                    Ok(())
                }
            };
            for polls in [false, true] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let sender = socket.sender();
                let driving = tokio::spawn(socket.drive(within_another(polls)));
                assert_eq!(peer.expect_close().await.0, 1000);
                peer.send_close(1000, "").await;
                if role == Role::Client {
                    // Which waits for the server to end.
                    drop(peer);
                } else {
                    peer.expect_end().await;
                }
                within(driving).await.unwrap().unwrap();
                assert!(sender.ended().unwrap().was_clean());
            }
            let driving = tokio::spawn(socket.drive(within_another(true)));
            peer.expect_close().await;
            driving.abort();
            peer.expect_end().await;
            assert!(sender.ended().is_some());
        }
    }
}

/// Whoever panics with a socket tells the peer, also where nothing runs it.
#[tokio::test]
async fn a_panic_with_a_socket_closes_with_1011() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let panicking = tokio::spawn(async move {
            let _socket = socket;
            panic!("as the test wants it");
        });
        assert_eq!(peer.expect_close().await.0, 1011);
        assert!(within(panicking).await.unwrap_err().is_panic());
    }
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let panics = |_| -> std::future::Ready<Result<(), Error>> { panic!("as the test wants it") };
    tokio::spawn(server.serve(panics));
    let mut peer = Peer::client(TcpStream::connect(address).await.unwrap(), "", &[]).await;
    assert_eq!(peer.expect_close().await.0, 1011);
    peer.expect_end().await;
}

/// Never opened, nothing to end.
#[tokio::test(start_paused = true)]
async fn but_not_where_it_was_never_told_that_it_is_open() {
    for role in BOTH {
        let (socket, _peer) = Setup::default().open(role).await;
        let (tell, told) = mpsc::unbounded_channel();
        let panics_in = "nothing";
        let handler = Noting {
            told: tell,
            panics_in,
        };
        drop(socket.handle(handler));
        assert_eq!(all(told).await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn so_it_is_when_a_callback_panics() {
    let error = "error: the connection was lost: its handler panicked";
    let close = "close: connection lost: its handler panicked";
    for role in BOTH {
        for (place, told_then) in [
            ("open", &[error, close][..]),
            ("message", &["message", error, close]),
        ] {
            let Running {
                mut peer,
                handling,
                told,
            } = run(role, place).await;
            if place == "message" {
                peer.send_frame(0x81, "hello").await;
            }
            assert_eq!(peer.expect_close().await.0, 1011);
            assert!(within(handling).await.unwrap_err().is_panic());
            assert_eq!(all(told).await, told_then, "{place}");
        }
    }
}

/// One that panics while it is told of the end is not told again.
#[tokio::test(start_paused = true)]
async fn and_once_though_that_panics_too() {
    for role in BOTH {
        let Running {
            mut peer,
            handling,
            told,
        } = run(role, "close").await;
        peer.send_close(1000, "enough").await;
        peer.expect_close().await;
        drop(peer);
        assert!(within(handling).await.unwrap_err().is_panic());
        assert_eq!(all(told).await.len(), 1);
    }
}

/// A callback that panics over and over ends its connection, and nothing else.
#[tokio::test(start_paused = true)]
async fn a_panic_on_top_of_a_panic_ends_no_process() {
    struct Always(mpsc::UnboundedSender<String>);
    impl Handler for Always {
        fn on_open(&mut self, _: &mut Socket) {
            panic!("as the test wants it");
        }
        fn on_close(&mut self, _: &mut Socket, _: &Ended) {
            self.0.send("close".into()).unwrap();
            panic!("as the test wants it");
        }
    }
    for role in BOTH {
        let (socket, _peer) = Setup::default().open(role).await;
        let (tell, told) = mpsc::unbounded_channel();
        let handling = tokio::spawn(socket.handle(Always(tell)));
        assert!(within(handling).await.unwrap_err().is_panic());
        assert_eq!(all(told).await, ["close"]);
    }
}

#[tokio::test]
async fn so_it_is_when_a_server_waits_no_longer() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.shutdown_handle());
    let (tell, mut told) = mpsc::unbounded_channel();
    let serving = tokio::spawn(server.serve_handler(move || Noting {
        told: tell.clone(),
        panics_in: "nothing",
    }));
    // It never answers a Close.
    let _peer = Peer::client(TcpStream::connect(address).await.unwrap(), "", &[]).await;
    assert_eq!(within(told.recv()).await.unwrap(), "open");
    let how = Shutdown::new().deadline(Duration::from_millis(50));
    let farewell = within(handle.shutdown(how)).await;
    within(serving).await.unwrap().unwrap();
    assert_eq!(farewell.connections.len(), 1);
    let how = "the peer did not answer the Close in time";
    let lines = all(told).await;
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[1], format!("close: {how}"));
}

/// A future that is polled by hand, and dropped while nothing panics or waits.
#[tokio::test(start_paused = true)]
async fn what_is_sent_then_goes_nowhere() {
    struct Sending;
    impl Handler for Sending {
        fn on_close(&mut self, socket: &mut Socket, _: &Ended) {
            socket.send("too late");
            assert!(socket.close(CloseCode::NORMAL, "").unwrap_err().is_closed());
        }
    }
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let mut handling = Box::pin(socket.handle(Sending));
        poll_fn(|cx| {
            assert!(handling.as_mut().poll(cx).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(handling);
        assert_eq!(peer.expect_close().await.0, 1001);
        peer.expect_end().await;
    }
}
