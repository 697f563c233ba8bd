//! Connections used from where they are seldom used: threads without a runtime, a thread that is blocked, tasks that have
//! used up their turn, other tasks than the one that drives.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use sockeye::{
    CloseCode, Ended, Error, Groups, Handler, MessageKind, MessageRef, Socket, WebSocket,
    groups::Slow,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::Handle,
    sync::{mpsc, oneshot},
    task::{block_in_place, coop},
    time::{Instant, sleep},
};

use crate::wire::*;

/// A bug: the thread panicked, as there was no runtime for a timer, and the connection was broken for everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_closes_who_is_slow() {
    let setup = Setup {
        pipe: 1024,
        close_timeout: Duration::from_millis(200),
        ..Setup::default()
    };
    let (mut socket, _peer) = setup.open(Role::Server).await;
    let groups = Groups::new().slow(Slow::Close {
        above: 4096,
        code: CloseCode::POLICY_VIOLATION,
    });
    let _member = groups.member(socket.sender());
    let reading = tokio::spawn(async move { (socket.recv().await, socket.ended()) });
    let sending = thread::spawn(move || (0..20).map(|_| groups.send_to_all(vec![0; 1000])).sum());
    let sent: usize = sending.join().unwrap();
    assert!((3..20).contains(&sent), "{sent}");
    let (received, ended) = within(reading).await.unwrap();
    assert!(received.unwrap_err().is_timeout());
    assert!(matches!(ended, Some(Ended::TimedOut)), "{ended:?}");
}

/// A payload whose owner panics when it is let go of.
struct Fatal;

impl AsRef<[u8]> for Fatal {
    fn as_ref(&self) -> &[u8] {
        &[7; 100_000]
    }
}

impl Drop for Fatal {
    fn drop(&mut self) {
        panic!("as the test wants it");
    }
}

/// A bug: what it was sent on was lost with the panic, and whoever received waited for ever.
#[tokio::test]
async fn a_payload_that_panics_leaves_the_connection_to_the_others() {
    let (mut socket, mut peer) = Setup::default().open(Role::Server).await;
    let sender = socket.sender();
    let payload = bytes::Bytes::from_owner(Fatal);
    let sent = catch_unwind(AssertUnwindSafe(|| sender.try_send(payload)));
    assert!(sent.is_err());
    peer.send_frame(0x81, "hello").await;
    assert_eq!(within(socket.recv()).await.unwrap(), Some("hello".into()));
}

/// A bug: a driver that another one held the connection before never got it, so that what had been sent was cut off, and
/// the code was not that of how the work ended.
#[tokio::test(start_paused = true)]
async fn whoever_drives_in_a_task_of_its_own_drives_on() {
    for role in BOTH {
        for fails in [false, true] {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (tell, told) = oneshot::channel();
            let work = move |mut socket: WebSocket| async move {
                sleep(Duration::from_secs(1)).await;
                socket.send(vec![7; 4 << 20]).await?;
                match fails {
                    true => Err(Error::other("no more")),
                    false => Ok(()),
                }
            };
            let outer = tokio::spawn(socket.drive(move |socket| async move {
                let inner = tokio::spawn(socket.drive(work));
                tell.send(inner).unwrap();
                sleep(Duration::from_millis(20)).await;
                Ok(())
            }));
            assert_eq!(peer.expect(0x82).await.len(), 4 << 20);
            let code = if fails { 1011 } else { 1000 };
            assert_eq!(peer.expect_close().await.0, code, "{role:?}");
            peer.send_close(code, "").await;
            drop(peer);
            assert!(within(outer).await.unwrap().unwrap().is_none());
            let ended = within(told.await.unwrap()).await.unwrap();
            assert_eq!(ended.is_err(), fails);
            assert!(fails || ended.unwrap().unwrap().was_clean());
        }
    }
}

/// The same in one task, where the driver around it goes on after that.
#[tokio::test(start_paused = true)]
async fn whoever_drives_within_a_handler_closes_with_its_own_code() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driving = tokio::spawn(socket.drive(move |socket| async move {
            let failed = socket.drive(async |mut socket| {
                socket.send("hello").await?;
                Err(Error::other("no more"))
            });
            assert!(failed.await.is_err());
            sleep(Duration::from_secs(1)).await;
            Ok(())
        }));
        peer.expect_text("hello").await;
        assert_eq!(peer.expect_close().await.0, 1011, "{role:?}");
        peer.send_close(1011, "").await;
        drop(peer);
        within(driving).await.unwrap().unwrap();
    }
}

/// A bug: the thread of the driver waited for the driver.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_may_block_while_it_sends() {
    let setup = Setup {
        pipe: 1 << 16,
        high_water: 1 << 16,
        ..Setup::default()
    };
    for role in BOTH {
        let (socket, mut peer) = setup.open(role).await;
        let driving = tokio::spawn(socket.drive(|mut socket| async move {
            block_in_place(|| {
                Handle::current().block_on(async {
                    for _ in 0..20 {
                        socket.send(vec![1; 50_000]).await?;
                    }
                    socket.flush().await?;
                    let kind = MessageKind::Binary;
                    let mut parts = socket.send_stream(kind).await?;
                    for _ in 0..20 {
                        parts.write_all(&[2; 50_000]).await?;
                    }
                    parts.finish().await
                })
            })
        }));
        for _ in 0..20 {
            assert_eq!(peer.expect(0x82).await.len(), 50_000);
        }
        let mut parts = 0;
        loop {
            let frame = within(peer.next()).await.unwrap();
            parts += frame.payload.len();
            if frame.first & 0x80 != 0 {
                break;
            }
        }
        assert_eq!(parts, 1_000_000);
        peer.expect_close().await;
        peer.send_close(1000, "").await;
        drop(peer);
        within(driving).await.unwrap().unwrap();
    }
}

/// A bug: a task that had done so much that tokio had it yield said no goodbye, and what was sent before went with it.
#[tokio::test]
async fn what_goes_out_with_a_goodbye_needs_no_turn() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        tokio::spawn(async move {
            use_up_the_turn().await;
            socket.sender().try_send(vec![1; 20_000]).unwrap();
            drop(socket);
        });
        assert_eq!(peer.expect(0x82).await.len(), 20_000);
        assert_eq!(peer.expect_close().await.0, 1001, "{role:?}");
    }
}

/// As a Close that is asked for.
#[tokio::test]
async fn the_newest_comes_before_a_goodbye() {
    let setup = Setup {
        pipe: 64,
        ..Setup::default()
    };
    for role in BOTH {
        let (socket, mut peer) = setup.open(role).await;
        let sender = socket.sender();
        sender.try_send(vec![1; 100]).unwrap();
        sender.send_latest(1, "newest").unwrap();
        // Room for all of it.
        peer.stream.read_exact(&mut [0; 60]).await.unwrap();
        drop((sender, socket));
        let mut rest = Vec::new();
        within(peer.stream.read_to_end(&mut rest)).await.unwrap();
        let close = if role == Role::Server { 4 } else { 8 };
        let newest = &rest[rest.len() - close - 6..rest.len() - close];
        assert!(role == Role::Client || newest == b"newest", "{rest:?}");
        assert!(rest.len() > 40 + close + 8, "{rest:?}");
    }
}

/// A bug: it was queued on a connection that nobody used, and stayed there.
#[tokio::test]
async fn what_comes_last_to_a_driver_is_written() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let (tell, told) = oneshot::channel();
        let driven = socket.drive(|socket| async move {
            let sender = socket.sender();
            thread::spawn(move || sender.try_send("late"))
                .join()
                .unwrap()?;
            tell.send(socket).ok().unwrap();
            Ok(())
        });
        assert!(within(driven).await.unwrap().is_none());
        let socket = told.await.unwrap();
        peer.expect_text("late").await;
        drop(socket);
    }
}

/// A bug: it was told that the connection was closing, as after a Close.
#[tokio::test]
async fn whoever_only_sends_is_told_that_the_peer_is_gone() {
    for role in BOTH {
        for driven in [false, true] {
            let (socket, peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            let work = async |mut socket: WebSocket| {
                let received = socket.recv().await;
                assert!(received.unwrap_err().is_lost());
                let sender = socket.sender();
                for refused in [
                    socket.send("more").await,
                    sender.try_send("more"),
                    sender.send_latest(1, "more"),
                    sender.send_stream(MessageKind::Text).await.map(drop),
                ] {
                    assert!(refused.unwrap_err().is_lost(), "{role:?} {driven}");
                }
                Ok(())
            };
            drop(peer);
            match driven {
                true => drop(within(socket.drive(work)).await.unwrap()),
                false => within(work(socket)).await.unwrap(),
            }
            assert!(sender.send("more").await.unwrap_err().is_lost());
        }
    }
}

/// Answers, and tells how much waits then.
struct Answering(mpsc::UnboundedSender<usize>);

impl Handler for Answering {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
        self.0.send(socket.buffered_amount()).unwrap();
    }
}

/// A bug: a callback was told nothing of what it had sent, and was given up for it at the output limit.
#[tokio::test]
async fn a_callback_knows_what_waits_behind_a_message_in_parts() {
    let (socket, mut peer) = Setup::default().open(Role::Server).await;
    let sender = socket.sender();
    let (tell, mut told) = mpsc::unbounded_channel();
    let handling = tokio::spawn(socket.handle(Answering(tell)));
    let mut message = sender.send_stream(MessageKind::Binary).await.unwrap();
    message.write_all(b"begun").await.unwrap();
    assert_eq!(peer.expect(0x02).await, b"begun");
    for count in 1..=3 {
        peer.send_frame(0x82, vec![1; 1000]).await;
        let waits = within(told.recv()).await.unwrap();
        assert!((count * 1000..count * 1010).contains(&waits), "{waits}");
    }
    message.finish().await.unwrap();
    assert_eq!(peer.expect(0x80).await, b"");
    for _ in 0..3 {
        assert_eq!(peer.expect(0x82).await.len(), 1000);
    }
    peer.send_close(1000, "").await;
    assert_eq!(peer.expect_close().await.0, 1000);
    within(handling).await.unwrap();
}

/// A bug: nobody was ever sent anything.
#[tokio::test]
async fn nothing_that_waits_is_less_than_any_bound_of_a_group() {
    let code = CloseCode::POLICY_VIOLATION;
    for slow in [Slow::Skip { above: 0 }, Slow::Close { above: 0, code }] {
        let groups = Groups::new().slow(slow);
        let (socket, mut peer) = Setup::default().open(Role::Server).await;
        let _member = groups.member(socket.sender());
        assert_eq!(groups.send_to_all("hello"), 1);
        peer.expect_text("hello").await;
    }
}

/// Runs a future in a thread that has no runtime.
fn without_a_runtime<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> thread::JoinHandle<T> {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    thread::spawn(move || {
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut future = pin!(future);
        loop {
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if let Poll::Ready(done) = polled {
                return done;
            }
            thread::park();
        }
    })
}

/// A bug: the thread panicked as soon as the connection began to close, as there was no runtime for a timer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_receives_to_the_end() {
    for role in BOTH {
        let (mut socket, mut peer) = Setup::default().open(role).await;
        let receiving =
            without_a_runtime(async move { (socket.recv().await, socket.recv().await) });
        peer.send_frame(0x81, "hello").await;
        peer.send_close(1000, "").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        drop(peer);
        let (first, last) = receiving.join().unwrap();
        assert_eq!(first.unwrap(), Some("hello".into()));
        assert!(last.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_waits_for_the_end() {
    for role in BOTH {
        let (mut socket, mut peer) = Setup::default().open(role).await;
        let waiting = without_a_runtime(async move { socket.closed().await });
        peer.send_frame(0x89, "there?").await;
        assert_eq!(peer.expect(0x8A).await, b"there?");
        peer.send_close(1001, "").await;
        assert_eq!(peer.expect_close().await.0, 1001);
        assert_eq!(waiting.join().unwrap().code(), 1001, "{role:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_waits_no_longer_for_a_close_than_a_task() {
    for role in BOTH {
        let setup = Setup {
            close_timeout: Duration::from_millis(100),
            ..Setup::default()
        };
        let (mut socket, _peer) = setup.open(role).await;
        let closing = without_a_runtime(async move { socket.close(CloseCode::NORMAL, "").await });
        assert!(closing.join().unwrap().unwrap_err().is_timeout());
    }
}

/// Where there is a runtime, a task completes the closing handshake.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_a_thread_drops_after_the_close_ends_the_connection() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let (sender, receiver) = socket.split();
        sender.close(CloseCode::NORMAL, "bye").await.unwrap();
        thread::spawn(move || drop(receiver)).join().unwrap();
        assert_eq!(peer.expect_close().await, (1000, "bye".into()));
        peer.expect_end().await;
        assert!(matches!(sender.ended(), Some(Ended::TimedOut)));
    }
}

/// What a thread has begun to wait for is not left to wake that thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_goes_on_where_a_thread_has_waited_for_the_close() {
    let setup = Setup {
        close_timeout: Duration::from_millis(100),
        ..Setup::default()
    };
    let (mut socket, _peer) = setup.open(Role::Server).await;
    let begun = thread::spawn(move || {
        {
            let closing = pin!(socket.close(CloseCode::NORMAL, ""));
            let polled = closing.poll(&mut Context::from_waker(Waker::noop()));
            assert!(polled.is_pending());
        }
        socket
    });
    let mut socket = begun.join().unwrap();
    assert!(within(socket.recv()).await.unwrap_err().is_timeout());
}

/// Has tokio let the task do nothing more before it yields.
async fn use_up_the_turn() {
    poll_fn(|cx| {
        while coop::has_budget_remaining() {
            if let Poll::Ready(turn) = coop::poll_proceed(cx) {
                turn.made_progress();
            }
        }
        Poll::Ready(())
    })
    .await;
}

/// A bug: a Close that had come was not looked for, and the connection said to be lost.
#[tokio::test]
async fn the_peers_close_is_seen_by_a_task_that_is_to_yield() {
    let (ours, theirs) = tcp_pair().await;
    let (socket, mut peer) = Setup::default().open_over(Role::Server, ours, theirs).await;
    peer.send_close(4000, "").await;
    drop(peer);
    let driven = socket.drive(async |socket| {
        let sender = socket.sender();
        while sender.send("?").await.is_ok() && sender.flush().await.is_ok() {}
        use_up_the_turn().await;
        Ok(())
    });
    let ended = within(driven).await.unwrap().unwrap();
    assert_eq!(ended.code(), 4000, "{ended}");
}

/// A bug: nor by one whose turn is over.
#[tokio::test]
async fn the_peers_close_is_seen_behind_more_than_a_turn() {
    let setup = Setup {
        pipe: 8 << 20,
        ..Setup::default()
    };
    let (socket, mut peer) = setup.open(Role::Server).await;
    let messages = peer.frame(0x82, vec![1; 100_000]).repeat(30);
    peer.send(messages).await;
    peer.send_close(4000, "").await;
    drop(peer);
    let driven = socket.drive(async |socket| {
        let sender = socket.sender();
        while sender.send("?").await.is_ok() && sender.flush().await.is_ok() {}
        Ok(())
    });
    let ended = within(driven).await.unwrap().unwrap();
    assert_eq!(ended.code(), 4000, "{ended}");
}

/// A bug: it was told when the close timeout was over.
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_learns_at_once_that_this_end_closes() {
    for role in BOTH {
        let setup = Setup {
            pipe: 64,
            high_water: 100,
            ..Setup::default()
        };
        let (mut socket, _peer) = setup.open(role).await;
        let sender = socket.sender();
        sender.try_send(vec![1; 1000]).unwrap();
        let waiting = tokio::spawn(async move { sender.send("waits for room").await });
        sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        let begin = Instant::now();
        let (closed, refused) = tokio::join!(socket.close(CloseCode::NORMAL, ""), async {
            let refused = within(waiting).await.unwrap();
            (refused, begin.elapsed())
        });
        assert!(closed.unwrap_err().is_timeout());
        let (refused, after) = refused;
        assert!(refused.unwrap_err().is_closed());
        assert!(after < Duration::from_secs(1), "{role:?} {after:?}");
    }
}

/// A bug: the answer to the peer's Close stayed where it was, and the peer waited for it until its close timeout.
#[tokio::test(start_paused = true)]
async fn what_a_driver_has_left_is_written_by_whoever_has_the_socket() {
    for role in BOTH {
        for asks in [false, true] {
            let setup = Setup {
                pipe: 64,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(role).await;
            let kept = socket.sender();
            let (tell, told) = oneshot::channel();
            peer.send_close(4000, "").await;
            let driven = socket.drive(async |mut socket| {
                socket.sender().try_send(vec![7; 1000])?;
                while socket.recv().await?.is_some() {}
                tell.send(socket).ok().unwrap();
                Ok(())
            });
            assert!(within(driven).await.unwrap().is_none());
            let mut socket = told.await.unwrap();
            if asks {
                let peers = async {
                    assert_eq!(peer.expect(0x82).await.len(), 1000);
                    peer.expect_close().await.0
                };
                let (received, code) = tokio::join!(within(socket.recv()), peers);
                assert!(received.unwrap().is_none());
                assert_eq!(code, 4000, "{role:?}");
            } else {
                // With a handle that is kept: it does not keep the transport.
                drop(socket);
                within(peer.stream.read_to_end(&mut Vec::new()))
                    .await
                    .unwrap();
            }
            drop(kept);
        }
    }
}
