//! A server that ends: who is told when and with what, what still arrives, and what its end tells.
//! Over Unix sockets, which deliver at once, so that the time can stand still.

use std::{
    fs,
    future::pending,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use sockeye::{
    Acceptor, Ended, Handler, MessageRef, Result, Server, Socket, WebSocket,
    server::{Farewell, Shutdown, ShutdownHandle},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    task::{JoinHandle, JoinSet, coop::has_budget_remaining},
    time::{Instant, sleep},
};

use crate::wire::{self, Peer, within};

const SECOND: Duration = Duration::from_secs(1);

/// A path for a socket of a test's own.
fn path() -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("sockeye-leaving-{}-{number}", std::process::id());
    std::env::temp_dir().join(name)
}

struct Running {
    path: PathBuf,
    handle: ShutdownHandle,
    serving: JoinHandle<Result<()>>,
}

/// A server with a handler in the async form.
fn run<F, Fut>(work: F) -> Running
where
    F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<()>> + Send + 'static,
{
    start(|server| tokio::spawn(server.serve(work)))
}

fn start(serve: impl FnOnce(Server) -> JoinHandle<Result<()>>) -> Running {
    let path = path();
    let server = Server::bind_unix(&path).unwrap();
    Running {
        path,
        handle: server.shutdown_handle(),
        serving: serve(server),
    }
}

impl Running {
    async fn connect(&self) -> Peer<UnixStream> {
        Peer::client(UnixStream::connect(&self.path).await.unwrap(), "", &[]).await
    }

    /// Waits for the end that was asked for.
    async fn ended(self, farewell: impl Future<Output = Farewell>) -> Farewell {
        let farewell = within(farewell).await;
        within(self.serving).await.unwrap().unwrap();
        assert!(!self.path.exists(), "the socket is still there");
        farewell
    }
}

/// A request for a WebSocket at a path.
fn request(path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into()
}

async fn echo(mut socket: WebSocket) -> Result<()> {
    while let Some(message) = socket.recv().await? {
        socket.send(message).await?;
    }
    Ok(())
}

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

/// Runs a test with both forms of a handler that echoes.
async fn with_both(test: impl AsyncFn(Running)) {
    test(run(echo)).await;
    test(start(|server| tokio::spawn(server.serve_handler(|| Echo)))).await;
}

/// Answers the Close that has to come next, and gives its code, its reason, and when it came.
async fn answer_close(peer: &mut Peer<UnixStream>, since: Instant) -> (u16, String, Duration) {
    let (code, reason) = peer.expect_close().await;
    let after = since.elapsed();
    peer.send_close(code, &reason).await;
    peer.expect_end().await;
    (code, reason, after)
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_have_all_the_patience_there_is() {
    with_both(async |running| {
        let mut peer = running.connect().await;
        peer.expect_echo("hello").await;
        let how = Shutdown::new().patience(Duration::MAX);
        let farewell = running.handle.shutdown(how);
        let (code, ..) = answer_close(&mut peer, Instant::now()).await;
        assert_eq!(code, 1001);
        assert_eq!(running.ended(farewell).await.closed(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn closes_are_spread_evenly_over_the_window() {
    with_both(async |running| {
        let mut peers = JoinSet::new();
        let mut connected = Vec::new();
        for _ in 0..100 {
            let mut peer = running.connect().await;
            peer.expect_echo("hello").await;
            connected.push(peer);
        }
        let began = Instant::now();
        let how = Shutdown::restart().spread(10 * SECOND).reason("version 2");
        let farewell = running.handle.shutdown(how);
        for mut peer in connected {
            peers.spawn(async move { answer_close(&mut peer, began).await });
        }
        let mut times = Vec::new();
        while let Some(closed) = peers.join_next().await {
            let (code, reason, after) = closed.unwrap();
            assert_eq!((code, reason.as_str()), (1012, "version 2"));
            times.push(after);
        }
        times.sort();
        for (place, time) in (0..).zip(&times) {
            let due = place * SECOND / 10;
            assert!(
                *time >= due && *time <= due + SECOND / 100,
                "{place}: {time:?}"
            );
        }
        let farewell = running.ended(farewell).await;
        assert_eq!((farewell.closed(), farewell.cut()), (100, 0));
        assert_eq!(farewell.connections.len(), 100);
        assert_eq!(
            farewell.to_string(),
            "100 connections in 9.9 s: 100 closed with 1012"
        );
        for connection in farewell.connections {
            assert!(
                matches!(&connection.ended, Some(Ended::ByUs(frame)) if frame.reason == "version 2")
            );
            assert!(connection.after <= farewell.took);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_go_on_until_their_turn() {
    with_both(async |running| {
        let mut one = running.connect().await;
        let mut other = running.connect().await;
        one.expect_echo("in use").await;
        other.expect_echo("in use").await;
        let began = Instant::now();
        let farewell = running.handle.shutdown(Shutdown::new().spread(10 * SECOND));
        // One of the two has its turn at once, the other after half of the window.
        let (mut first, mut second) = tokio::select! {
            biased;
            _ = one.next_in_time(SECOND) => (one, other),
            _ = other.next_in_time(SECOND) => (other, one),
        };
        first.send_close(1001, "").await;
        first.expect_end().await;
        sleep(3 * SECOND).await;
        second.expect_echo("still here").await;
        assert!(UnixStream::connect(&running.path).await.is_err());
        let (code, _, after) = answer_close(&mut second, began).await;
        assert_eq!((code, after.as_secs()), (1001, 5));
        running.ended(farewell).await;
    })
    .await;
}

/// More than is read at once, by a handler that takes its time for each.
#[tokio::test(start_paused = true)]
async fn what_has_come_is_handled_first() {
    const COUNT: usize = 100;
    let running = run(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            sleep(SECOND / 1000).await;
            socket.send(message.len().to_string()).await?;
        }
        Ok(())
    });
    let mut peer = running.connect().await;
    for size in 0..COUNT {
        peer.send_frame(0x82, vec![0; 1000 + size]).await;
    }
    sleep(SECOND / 100).await;
    let began = Instant::now();
    let farewell = running.handle.shutdown(Shutdown::new());
    for size in 0..COUNT {
        peer.expect_text(&(1000 + size).to_string()).await;
    }
    let (_, _, after) = answer_close(&mut peer, began).await;
    assert!(after > SECOND / 20 && after < SECOND / 2, "{after:?}");
    running.ended(farewell).await;
}

#[tokio::test(start_paused = true)]
async fn a_message_in_hand_is_answered_first() {
    let running = run(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            sleep(SECOND / 2).await;
            socket.send(message).await?;
        }
        Ok(())
    });
    let mut peer = running.connect().await;
    peer.send_frame(0x81, "a question").await;
    sleep(SECOND / 10).await;
    let began = Instant::now();
    let farewell = running.handle.shutdown(Shutdown::new());
    peer.expect_text("a question").await;
    let (code, _, after) = answer_close(&mut peer, began).await;
    assert_eq!((code, after.as_millis()), (1001, 400));
    let farewell = running.ended(farewell).await;
    assert_eq!(farewell.closed(), 1);
}

/// Its client could not know: nobody could answer it, and so nobody gets to see it.
#[tokio::test(start_paused = true)]
async fn a_message_that_meets_the_close_is_not_accepted() {
    static ACCEPTED: AtomicUsize = AtomicUsize::new(0);
    let accept = async |mut socket: WebSocket| {
        if socket.request().unwrap().path() == "/later" {
            // It comes to receive when its connection has been closed.
            sleep(SECOND).await;
        }
        while let Some(message) = socket.recv().await? {
            ACCEPTED.fetch_add(1, Ordering::Relaxed);
            socket.send(message).await?;
        }
        Ok(())
    };
    let running = run(accept);
    let mut peer = running.connect().await;
    peer.expect_echo("in use").await;
    let mut later = UnixStream::connect(&running.path).await.unwrap();
    later.write_all(&request("/later")).await.unwrap();
    let mut head = [0; 1024];
    assert!(later.read(&mut head).await.unwrap() > 100);
    let farewell = running
        .handle
        .shutdown(Shutdown::new().deadline(10 * SECOND));
    assert_eq!(peer.expect_close().await.0, 1001);
    for _ in 0..3 {
        peer.send_frame(0x81, "too late").await;
        later
            .write_all(&wire::frame(0x81, true, b"too late"))
            .await
            .unwrap();
        sleep(SECOND / 10).await;
    }
    peer.send_close(1001, "").await;
    peer.expect_end().await;
    later
        .write_all(&wire::frame(0x88, true, &1001u16.to_be_bytes()))
        .await
        .unwrap();
    let mut rest = Vec::new();
    within(later.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(rest, [0x88, 2, 3, 0xE9]);
    let farewell = running.ended(farewell).await;
    assert_eq!(farewell.closed(), 2);
    assert_eq!(ACCEPTED.load(Ordering::Relaxed), 1);
}

/// Nor where messages are read in parts: it is passed over, and not asked for without end.
#[tokio::test(start_paused = true)]
async fn a_message_that_meets_the_close_is_not_accepted_in_parts() {
    let running = run(async |mut socket: WebSocket| {
        while let Some(mut message) = socket.recv_stream().await? {
            let mut text = String::new();
            message.read_to_string(&mut text).await?;
            socket.send(text).await?;
        }
        Ok(())
    });
    let mut peer = running.connect().await;
    peer.expect_echo("in use").await;
    let farewell = running
        .handle
        .shutdown(Shutdown::new().deadline(10 * SECOND));
    assert_eq!(peer.expect_close().await.0, 1001);
    for _ in 0..3 {
        peer.send_frame(0x81, "too late").await;
        sleep(SECOND / 10).await;
    }
    peer.send_close(1001, "").await;
    peer.expect_end().await;
    assert_eq!(running.ended(farewell).await.closed(), 1);
}

/// Nor one that has come with the message that its handler was too slow with.
#[tokio::test(start_paused = true)]
async fn a_message_that_had_come_before_the_close_is_not_accepted_after_it() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let running = run(move |mut socket: WebSocket| {
        let tell = tell.clone();
        async move {
            let first = socket.recv().await?.unwrap();
            sleep(5 * SECOND).await;
            tell.send((first, socket.recv().await?)).unwrap();
            Ok(())
        }
    });
    let mut peer = running.connect().await;
    let both = [peer.frame(0x81, "first"), peer.frame(0x81, "second")];
    peer.send(both.concat()).await;
    sleep(SECOND / 10).await;
    let farewell = running
        .handle
        .shutdown(Shutdown::new().deadline(20 * SECOND));
    answer_close(&mut peer, Instant::now()).await;
    let (first, second) = told.recv().await.unwrap();
    assert_eq!(first.as_text(), Some("first"));
    assert_eq!(second, None);
    running.ended(farewell).await;
}

/// A task that has done much is not let read before it has yielded once: what it does not find may be there.
#[tokio::test(start_paused = true)]
async fn a_message_that_is_there_is_answered_by_a_task_that_has_to_yield() {
    let running = run(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            sleep(SECOND / 2).await;
            socket.send(message).await?;
            let (tell, mut told) = mpsc::unbounded_channel();
            while has_budget_remaining() {
                tell.send(()).unwrap();
                told.recv().await.unwrap();
            }
        }
        Ok(())
    });
    let mut peer = running.connect().await;
    peer.send_frame(0x81, "first").await;
    sleep(SECOND / 10).await;
    peer.send_frame(0x81, "second").await;
    let farewell = running
        .handle
        .shutdown(Shutdown::new().patience(5 * SECOND));
    peer.expect_text("first").await;
    peer.expect_text("second").await;
    answer_close(&mut peer, Instant::now()).await;
    running.ended(farewell).await;
}

/// It came with the request, so that it was never waited for.
#[tokio::test(start_paused = true)]
async fn an_early_message_in_hand_is_answered_first() {
    let running = run(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            sleep(SECOND / 2).await;
            socket.send(message).await?;
        }
        Ok(())
    });
    let early = wire::frame(0x81, true, b"a question");
    let stream = UnixStream::connect(&running.path).await.unwrap();
    let mut peer = Peer::client(stream, "", &early).await;
    sleep(SECOND / 10).await;
    let farewell = running.handle.shutdown(Shutdown::new());
    peer.expect_text("a question").await;
    answer_close(&mut peer, Instant::now()).await;
    running.ended(farewell).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_is_done_closes_with_the_code_of_the_shutdown() {
    let running = run(async |mut socket| {
        let message = socket.recv().await?.unwrap();
        sleep(SECOND / 2).await;
        socket.send(message).await
    });
    let mut peer = running.connect().await;
    peer.send_frame(0x81, "a question").await;
    sleep(SECOND / 10).await;
    let farewell = running.handle.shutdown(Shutdown::restart());
    peer.expect_text("a question").await;
    assert_eq!(answer_close(&mut peer, Instant::now()).await.0, 1012);
    running.ended(farewell).await;
}

#[tokio::test(start_paused = true)]
async fn patience_with_a_message_in_hand_has_an_end() {
    let running = run(async |mut socket| {
        let message = socket.recv().await?.unwrap();
        sleep(5 * SECOND).await;
        let refused = socket.send(message).await.unwrap_err();
        assert!(refused.is_closed(), "{refused}");
        Ok(())
    });
    let mut peer = running.connect().await;
    peer.send_frame(0x81, "a question").await;
    sleep(SECOND / 10).await;
    let began = Instant::now();
    let how = Shutdown::new().patience(3 * SECOND).deadline(10 * SECOND);
    let farewell = running.handle.shutdown(how);
    assert_eq!(peer.expect_close().await.0, 1001);
    assert_eq!(began.elapsed().as_secs(), 3);
    peer.send_close(1001, "").await;
    peer.expect_end().await;
    let farewell = running.ended(farewell).await;
    assert_eq!(farewell.closed(), 1);
    assert_eq!(farewell.took.as_millis(), 4_900);
}

/// It has nothing in hand, and nobody receives who could be waited for.
#[tokio::test(start_paused = true)]
async fn a_handler_that_only_sends_is_closed_in_its_turn() {
    let running = run(async |mut socket| {
        for tick in 0.. {
            if socket.send(tick.to_string()).await.is_err() {
                break;
            }
            sleep(SECOND / 4).await;
        }
        Ok(())
    });
    let mut peer = running.connect().await;
    sleep(SECOND * 9 / 10).await;
    for tick in 0..4 {
        peer.expect_text(&tick.to_string()).await;
    }
    // What is answered without it is nothing that it has received.
    peer.send_frame(0x89, "there?").await;
    assert_eq!(peer.expect(0x8A).await, b"there?");
    let began = Instant::now();
    let farewell = running.handle.shutdown(Shutdown::new());
    let (_, _, after) = answer_close(&mut peer, began).await;
    assert!(after < SECOND / 100, "{after:?}");
    running.ended(farewell).await;
}

#[tokio::test(start_paused = true)]
async fn the_receiving_half_may_be_elsewhere() {
    let running = run(async |socket| {
        let (sender, mut receiver) = socket.split();
        let receiving = tokio::spawn(async move {
            while let Some(message) = receiver.recv().await? {
                sender.send(message).await?;
            }
            Ok(())
        });
        receiving.await.unwrap()
    });
    let mut peer = running.connect().await;
    peer.expect_echo("in use").await;
    let began = Instant::now();
    let farewell = running.handle.shutdown(Shutdown::new());
    let (code, _, after) = answer_close(&mut peer, began).await;
    assert_eq!((code, after), (1001, Duration::ZERO));
    running.ended(farewell).await;
}

/// More than the socket holds, to a peer that takes its time.
#[tokio::test(start_paused = true)]
async fn what_was_sent_is_written_before_the_close() {
    const SIZE: usize = 8 << 20;
    let running = run(async |mut socket| {
        socket.recv().await?;
        let sender = socket.sender();
        for _ in 0..8 {
            sender
                .try_send(vec![7; SIZE / 8])
                .or_else(|error| match error.is_full() {
                    true => Ok(()),
                    false => Err(error),
                })?;
        }
        echo(socket).await
    });
    let mut peer = running.connect().await;
    peer.send_frame(0x81, "all of it").await;
    sleep(SECOND / 10).await;
    let farewell = running.handle.shutdown(Shutdown::new());
    sleep(SECOND).await;
    let mut received = 0;
    loop {
        let frame = peer.next().await.unwrap();
        if frame.first == 0x88 {
            break;
        }
        received += frame.payload.len();
    }
    // As much as was taken on: the high-water mark, and what goes over it.
    assert!(received >= 1 << 20, "{received}");
    peer.send_close(1001, "").await;
    peer.expect_end().await;
    let farewell = running.ended(farewell).await;
    assert_eq!(farewell.closed(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_end_is_told() {
    let running = run(async |socket| match socket.request().unwrap().path() {
        "/hangs" => pending().await,
        "/panics" => {
            sleep(SECOND * 2).await;
            panic!("as asked");
        }
        _ => echo(socket).await,
    });
    let connect = async |path: &str| {
        let mut stream = UnixStream::connect(&running.path).await.unwrap();
        stream.write_all(&request(path)).await.unwrap();
        let mut head = [0; 1024];
        let count = stream.read(&mut head).await.unwrap();
        assert!(head[..count].starts_with(b"HTTP/1.1 101"));
        stream
    };
    let hangs = connect("/hangs").await;
    let silent = connect("/").await;
    let panics = connect("/panics").await;
    let vanishes = connect("/").await;
    let mut leaves = running.connect().await;
    let mut stays = running.connect().await;
    let began = Instant::now();
    let farewell = running
        .handle
        .shutdown(Shutdown::new().spread(SECOND).deadline(10 * SECOND));
    drop(vanishes);
    leaves.send_close(1000, "enough").await;
    while leaves.next().await.is_some() {}
    while let Some(frame) = stays.next().await {
        assert_eq!(frame.first, 0x88);
        stays.send_close(1001, "").await;
    }
    let farewell = running.ended(farewell).await;
    drop((hangs, silent, panics));
    assert_eq!((farewell.took, began.elapsed()), (10 * SECOND, 10 * SECOND));
    let said = farewell.to_string();
    assert!(said.starts_with("6 connections in 10.0 s: "), "{said}");
    // Where its turn came first, it was closed as the other.
    let left = match said.contains("2 closed with 1001") {
        true => "2 closed with 1001",
        false => {
            "1 closed with 1001, 1 cut off at the deadline, 1 did not answer the Close, 1 left by"
        }
    };
    for part in [
        left,
        "1 cut off at the deadline",
        "1 did not answer",
        "2 lost",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

mod handshakes {
    use super::*;

    async fn read(stream: &mut UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        // Cut off without a word, or after the server's.
        let _ = within(stream.read_to_end(&mut all)).await;
        all
    }

    #[tokio::test(start_paused = true)]
    async fn have_the_window_to_be_done() {
        let running = run(echo);
        let mut slow = UnixStream::connect(&running.path).await.unwrap();
        let mut slower = UnixStream::connect(&running.path).await.unwrap();
        sleep(SECOND).await;
        let request = request("/");
        let (begin, rest) = request.split_at(20);
        slow.write_all(begin).await.unwrap();
        slower.write_all(begin).await.unwrap();
        let began = Instant::now();
        let farewell = running
            .handle
            .shutdown(Shutdown::restart().spread(4 * SECOND));
        sleep(SECOND).await;
        slow.write_all(rest).await.unwrap();
        let mut head = vec![0; 12];
        slow.read_exact(&mut head).await.unwrap();
        assert_eq!(head, b"HTTP/1.1 101");
        let cut = read(&mut slower).await;
        assert_eq!((cut.len(), began.elapsed()), (0, 4 * SECOND));
        // It had its turn meanwhile.
        slow.write_all(&wire::frame(0x88, true, &1012u16.to_be_bytes()))
            .await
            .unwrap();
        assert!(read(&mut slow).await.ends_with(&[0x88, 2, 3, 0xF4]));
        let farewell = running.ended(farewell).await;
        assert_eq!((farewell.handshakes_cut, farewell.closed()), (1, 1));
        assert!(farewell.to_string().contains("1 cut off in the handshake"));
    }

    #[tokio::test(start_paused = true)]
    async fn are_cut_off_at_once_without_a_window() {
        let running = run(echo);
        let mut silent = UnixStream::connect(&running.path).await.unwrap();
        sleep(SECOND).await;
        let farewell = running.handle.shutdown(Shutdown::new());
        let farewell = running.ended(farewell).await;
        assert_eq!(farewell.took, Duration::ZERO);
        assert_eq!(farewell.handshakes_cut, 1);
        assert!(read(&mut silent).await.is_empty());
    }

    /// In the system's queue, where the end of the socket would reset them.
    #[tokio::test(start_paused = true)]
    async fn that_have_not_been_accepted_are() {
        let running = run(echo);
        let mut waiting = Vec::new();
        for _ in 0..10 {
            waiting.push(UnixStream::connect(&running.path).await.unwrap());
        }
        let farewell = running.handle.shutdown(Shutdown::restart().spread(SECOND));
        let mut codes = 0;
        for stream in waiting {
            let mut peer = Peer::client(stream, "", &[]).await;
            codes += u32::from(answer_close(&mut peer, Instant::now()).await.0 == 1012);
        }
        let farewell = running.ended(farewell).await;
        assert_eq!((codes, farewell.closed()), (10, 10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_may_say_how() {
    let path = path();
    let (tell, mut told) = mpsc::channel::<()>(1);
    let server = Server::bind_unix(&path).unwrap().shutdown_on(async move {
        told.recv().await;
        Shutdown::restart().reason("as signalled")
    });
    let handle = server.shutdown_handle();
    let running = Running {
        path,
        handle: handle.clone(),
        serving: tokio::spawn(server.serve(echo)),
    };
    let mut peer = running.connect().await;
    peer.expect_echo("hello").await;
    tell.send(()).await.unwrap();
    let (code, reason, _) = answer_close(&mut peer, Instant::now()).await;
    assert_eq!((code, reason.as_str()), (1012, "as signalled"));
    // The handle knows of it; what it is asked for now comes too late.
    let farewell = running.ended(handle.shutdown(Shutdown::new())).await;
    assert_eq!(farewell.closed(), 1);
    let again = within(handle.ended()).await;
    assert_eq!(again.closed(), 1);
}

#[tokio::test(start_paused = true)]
async fn handlers_can_see_it_coming() {
    let path = path();
    let server = Server::bind_unix(&path).unwrap();
    let handle = server.shutdown_handle();
    let seen = handle.clone();
    let serving = tokio::spawn(server.serve(move |mut socket| {
        let ending = seen.clone();
        async move {
            tokio::select! {
                biased;
                () = ending.begun() => socket.send("we are about to restart").await?,
                message = socket.recv() => assert_eq!(message?, None),
            }
            while socket.recv().await?.is_some() {}
            Ok(())
        }
    }));
    let running = Running {
        path,
        handle: handle.clone(),
        serving,
    };
    let mut peers = [running.connect().await, running.connect().await];
    assert!(!handle.has_begun());
    let farewell = handle.shutdown(
        Shutdown::restart()
            .spread(10 * SECOND)
            .deadline(20 * SECOND),
    );
    assert!(handle.has_begun());
    let began = Instant::now();
    for peer in &mut peers {
        peer.expect_text("we are about to restart").await;
        assert!(began.elapsed() < SECOND);
    }
    let [mut one, mut other] = peers;
    let both = async {
        tokio::join!(
            answer_close(&mut one, began),
            answer_close(&mut other, began)
        )
    };
    let (one, other) = within(both).await;
    let mut after = [one.2.as_secs(), other.2.as_secs()];
    after.sort_unstable();
    assert_eq!(after, [0, 5]);
    running.ended(farewell).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_connections_ends_at_once() {
    let running = run(echo);
    let farewell = running
        .handle
        .shutdown(Shutdown::restart().spread(30 * SECOND));
    let farewell = running.ended(farewell).await;
    assert_eq!(
        (farewell.took, farewell.connections.len()),
        (Duration::ZERO, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_told_before_it_serves() {
    let path = path();
    let server = Server::bind_unix(&path).unwrap();
    let farewell = server.shutdown_handle().shutdown(Shutdown::new());
    within(server.serve(echo)).await.unwrap();
    assert_eq!(within(farewell).await.connections.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_close_timeout_bounds_a_peer_that_does_not_answer() {
    let running = start(|server| {
        let acceptor = Acceptor::new().close_timeout(2 * SECOND);
        tokio::spawn(server.acceptor(acceptor).serve(echo))
    });
    let mut peer = running.connect().await;
    peer.expect_echo("hello").await;
    let farewell = running
        .handle
        .shutdown(Shutdown::new().deadline(20 * SECOND));
    peer.expect_close().await;
    let farewell = running.ended(farewell).await;
    assert_eq!(farewell.took.as_secs(), 2);
    assert!(matches!(
        farewell.connections[0].ended,
        Some(Ended::TimedOut)
    ));
}

/// The sockets themselves.
mod listening {
    use super::*;
    use sockeye::{Error, server::Listener};
    use std::os::unix::fs::PermissionsExt;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn several_at_once() {
        let (path, other) = (path(), super::path());
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let server = server
            .also(Listener::unix(&path).unwrap())
            .also(tokio::net::UnixListener::bind(&other).unwrap());
        let names: Vec<_> = server.listeners().iter().map(Listener::to_string).collect();
        let unix = format!("unix:{}", path.display());
        assert_eq!(names[..2], [address.to_string(), unix]);
        let handle = server.shutdown_handle();
        let serving = tokio::spawn(server.serve(async |mut socket| {
            let peer = socket.peer_addr().map(|peer| peer.ip().to_string());
            socket.send(peer.unwrap_or("no address".into())).await?;
            echo(socket).await
        }));
        for _ in 0..3 {
            let mut tcp = Peer::client(TcpStream::connect(address).await.unwrap(), "", &[]).await;
            tcp.expect_text("127.0.0.1").await;
            tcp.send_close(1000, "").await;
            for path in [&path, &other] {
                let stream = UnixStream::connect(path).await.unwrap();
                let mut unix = Peer::client(stream, "", &[]).await;
                unix.expect_text("no address").await;
                unix.send_close(1000, "").await;
            }
        }
        within(handle.shutdown(Shutdown::new())).await;
        within(serving).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
        // One that was made elsewhere is not ours to remove.
        assert!(!path.exists() && other.exists());
        fs::remove_file(other).unwrap();
    }

    #[tokio::test]
    async fn a_unix_socket_is_there_with_its_mode_and_goes_with_the_server() {
        let path = path();
        for mode in [0o600, 0o666] {
            let listener = Listener::unix_with_mode(&path, mode).unwrap();
            assert_eq!(
                fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                mode
            );
            drop(Server::from_listener(listener));
            assert!(!path.exists());
        }
    }

    #[tokio::test]
    async fn a_socket_that_nobody_listens_on_is_replaced() {
        let path = path();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let server = Server::bind_unix(&path).unwrap();
        // The same path again, while that one listens.
        let taken = Server::bind_unix(&path).unwrap_err();
        let Error::Listen { address, source } = &taken else {
            panic!("{taken:?}");
        };
        assert_eq!(**address, format!("unix:{}", path.display()));
        assert_eq!(source.kind(), std::io::ErrorKind::AddrInUse);
        // Somebody has put another in its place: that stays.
        fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(server);
        assert!(path.exists());
        drop(other);
        fs::remove_file(&path).unwrap();
    }

    #[tokio::test]
    async fn what_is_no_socket_stays() {
        let path = path();
        fs::write(&path, "mine").unwrap();
        let error = Server::bind_unix(&path).unwrap_err().to_string();
        assert!(error.contains("something else than a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        fs::remove_file(&path).unwrap();
        let long = path.with_file_name("x".repeat(200));
        let error = Server::bind_unix(&long).unwrap_err().to_string();
        assert!(error.contains("xxx"), "{error}");
    }

    #[tokio::test]
    async fn two_servers_on_one_port() {
        let first = Server::from_listener(Listener::reuse_port("127.0.0.1:0").await.unwrap());
        let address = first.local_addr().unwrap();
        let old = first.shutdown_handle();
        let first = tokio::spawn(first.serve(async |mut socket| socket.send("the old").await));
        let second = Server::from_listener(Listener::reuse_port(address).await.unwrap());
        let new = second.shutdown_handle();
        let second = tokio::spawn(second.serve(async |mut socket| socket.send("the new").await));
        // Without saying so, nobody can join.
        let refused = Server::bind(address).await.unwrap_err();
        assert!(matches!(refused, Error::Listen { .. }), "{refused:?}");
        let said = async || {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut peer = Peer::client(stream, "", &[]).await;
            let said = peer.expect(0x81).await;
            peer.send_close(1000, "").await;
            String::from_utf8(said).unwrap()
        };
        within(old.shutdown(Shutdown::restart().spread(SECOND / 10))).await;
        within(first).await.unwrap().unwrap();
        for _ in 0..20 {
            assert_eq!(said().await, "the new");
        }
        within(new.shutdown(Shutdown::new())).await;
        within(second).await.unwrap().unwrap();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn without_systemd_there_are_no_sockets_of_its() {
        let error = Server::from_systemd().unwrap_err().to_string();
        assert!(error.contains("LISTEN_FDS"), "{error}");
    }
}

/// A bug: it was waited for though nothing could end it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_holds_nobody_up_past_the_deadline() {
    let (release, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Arc::new(std::sync::Mutex::new(wait));
    let (tell, mut blocks) = mpsc::unbounded_channel();
    let running = run(move |_socket| {
        let (wait, tell) = (wait.clone(), tell.clone());
        async move {
            tell.send(()).unwrap();
            // Else all of tokio may wait for it.
            let _ = tokio::task::block_in_place(|| wait.lock().unwrap().recv());
            Ok(())
        }
    });
    let _peer = running.connect().await;
    within(blocks.recv()).await.unwrap();
    let how = Shutdown::new().deadline(Duration::from_millis(100));
    let farewell = within(running.handle.shutdown(how)).await;
    assert_eq!((farewell.cut(), farewell.connections.len()), (1, 1));
    within(running.serving).await.unwrap().unwrap();
    drop(release);
}
