//! Sending that never waits: what it takes arrives, what it does not take it says, wherever the
//! sending side is.

use std::future::pending;

use sockeye::{CloseCode, Prepared, WebSocket};
use tokio::{
    io::{BufStream, duplex},
    sync::oneshot,
};

use crate::wire::*;

#[tokio::test(start_paused = true)]
async fn the_same_bytes_as_send() {
    for setup in [Setup::default(), Setup::deflate()] {
        for role in BOTH {
            for form in FORMS {
                let (sender, mut peer, _seen) = run(form, role, &setup).await;
                for len in [0, 10, 300, 20_000] {
                    let prepared = Prepared::new("text ".repeat(len));
                    sender.send(prepared.message()).await.unwrap();
                    sender.send(&prepared).await.unwrap();
                    sender.try_send(prepared.message()).unwrap();
                    sender.try_send(&prepared).unwrap();
                    let first = peer.next().await.unwrap();
                    let compressed = setup.deflate.is_some() && len >= 300;
                    assert_eq!(first.first, if compressed { 0xC1 } else { 0x81 });
                    for _ in 0..3 {
                        assert_eq!(peer.next().await.unwrap(), first, "{form:?} {role:?}");
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_socket_sends_so_too() {
    for role in BOTH {
        let (mut socket, mut peer) = Setup::default().open(role).await;
        socket.try_send("one").unwrap();
        socket.send_latest(1, "another").unwrap();
        peer.expect_text("one").await;
        peer.expect_text("another").await;
        let full = loop {
            match socket.try_send("more ".repeat(10_000)) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(full.is_full(), "{full}");
        socket.send_latest(1, "old").unwrap();
        socket.send_latest(1, "new").unwrap();
        let reads = async {
            loop {
                match peer.next().await.unwrap().text() {
                    "new" => break,
                    text => assert!(text.starts_with("more "), "{text}"),
                }
            }
        };
        let (_, flushed) = within(async { tokio::join!(reads, socket.flush()) }).await;
        flushed.unwrap();
    }
}

/// A mark of nothing would never be gone below.
#[tokio::test(start_paused = true)]
async fn with_a_high_water_mark_of_nothing_each_message_waits_for_the_one_before() {
    let setup = Setup {
        high_water: 0,
        ..Setup::default()
    };
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, _seen) = run(form, role, &setup).await;
            for text in ["one", "another"] {
                within(sender.send(text)).await.unwrap();
                sender.flush().await.unwrap();
                sender.try_send(text).unwrap();
                peer.expect_text(text).await;
                peer.expect_text(text).await;
                sender.flush().await.unwrap();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn within_the_handler_it_goes_out_when_the_task_yields() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        tokio::spawn(socket.drive(|socket| async move {
            let sender = socket.sender();
            for number in 0..100 {
                sender.try_send(number.to_string())?;
            }
            assert!(sender.buffered_amount() > 0);
            pending().await
        }));
        for number in 0..100 {
            peer.expect_text(&number.to_string()).await;
        }
    }
}

/// What is taken arrives whole and in order, what is not taken does not arrive, and there is room
/// again when the peer has read.
#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_fills_it() {
    let setup = Setup {
        pipe: 1000,
        high_water: 5000,
        ..Setup::default()
    };
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, _seen) = run(form, role, &setup).await;
            for _ in 0..3 {
                let mut taken = Vec::new();
                let error = loop {
                    let text = format!("{:0100}", taken.len());
                    match sender.try_send(&text) {
                        Ok(()) => taken.push(text),
                        Err(error) => break error,
                    }
                    // As in a loop that also does other work: the socket's task may write.
                    tokio::task::yield_now().await;
                };
                assert!(error.is_full(), "{error:?}");
                assert!(error.to_string().contains("5000 bytes"), "{error}");
                let least = 5000 / 108;
                assert!(
                    (least..=least + 15).contains(&taken.len()),
                    "{}",
                    taken.len()
                );
                assert!(sender.is_open());
                for text in taken {
                    peer.expect_text(&text).await;
                }
                peer.expect_echo("and nothing more").await;
            }
        }
    }
}

/// On a socket that nobody drives, the rest goes out with whatever comes next.
#[tokio::test(start_paused = true)]
async fn the_rest_goes_out_with_what_is_sent_next() {
    for role in BOTH {
        let setup = Setup {
            pipe: 1000,
            ..Setup::default()
        };
        let (mut socket, mut peer) = setup.open(role).await;
        let large = "a".repeat(10_000);
        socket.sender().try_send(&large).unwrap();
        assert!(socket.buffered_amount() > 8000);
        let (sent, ()) = tokio::join!(socket.send("next"), async {
            peer.expect_text(&large).await;
            peer.expect_text("next").await;
        });
        sent.unwrap();
    }
}

/// A transport may hold back what it has taken, as TLS does. Where it is full meanwhile, whoever receives
/// pushes that out too.
#[tokio::test(start_paused = true)]
async fn what_the_transport_holds_back_goes_out_while_someone_receives() {
    for role in BOTH {
        let (ours, theirs) = duplex(1000);
        let ours = BufStream::with_capacity(8192, 8192, ours);
        let (mut socket, mut peer) = Setup::default().open_over(role, ours, theirs).await;
        let sender = socket.sender();
        let receiving = tokio::spawn(async move { socket.recv().await });
        let large = "a".repeat(3000);
        sender.try_send(&large).unwrap();
        assert_eq!(sender.buffered_amount(), 0);
        peer.expect_text(&large).await;
        receiving.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_close_it_is_refused() {
    for role in BOTH {
        for form in FORMS {
            let (sender, mut peer, seen) = run(form, role, &Setup::default()).await;
            sender.close(CloseCode::NORMAL, "").await.unwrap();
            let error = sender.try_send("too late").unwrap_err();
            assert!(error.is_closed(), "{form:?} {role:?}: {error:?}");
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.send_close(1000, "").await;
            if role == Role::Client {
                drop(peer);
            }
            let _ = within(seen).await;
            assert!(sender.try_send("too late").is_err());
        }
    }
}

/// A closed connection says so, however much waits on it.
#[tokio::test(start_paused = true)]
async fn closed_comes_before_full() {
    let setup = Setup {
        pipe: 100,
        high_water: 1000,
        ..Setup::default()
    };
    for form in FORMS {
        let (sender, _peer, _seen) = run(form, Role::Server, &setup).await;
        while sender.try_send("0123456789".repeat(10)).is_ok() {
            tokio::task::yield_now().await;
        }
        let closing = tokio::spawn({
            let sender = sender.clone();
            async move { sender.close(CloseCode::NORMAL, "").await }
        });
        tokio::task::yield_now().await;
        assert!(sender.try_send("late").unwrap_err().is_closed(), "{form:?}");
        closing.abort();
    }
}

/// One that does not read takes nothing from the others, though they are served by one thread.
#[tokio::test(start_paused = true)]
async fn a_slow_member_delays_no_other() {
    let setup = Setup {
        pipe: 500,
        high_water: 1000,
        ..Setup::default()
    };
    let mut members = Vec::new();
    for form in FORMS {
        members.push(run(form, Role::Server, &setup).await);
    }
    let (slow, _unread, _seen) = run(Form::Events, Role::Server, &setup).await;
    let mut missed = 0;
    for number in 0..200 {
        let message = Prepared::new(format!("{number:050}"));
        missed += usize::from(slow.try_send(&message).is_err_and(|error| error.is_full()));
        for (member, peer, _) in &mut members {
            member.try_send(&message).unwrap();
            peer.expect_text(message.message().as_text().unwrap()).await;
        }
    }
    assert!((150..200).contains(&missed), "{missed}");
}

#[tokio::test]
async fn from_many_threads_at_once() {
    let (socket, mut peer) = Setup {
        pipe: 16 << 20,
        ..Setup::deflate()
    }
    .open(Role::Server)
    .await;
    let sender = socket.sender();
    let (stop, stopped) = oneshot::channel::<()>();
    let driven = tokio::spawn(socket.drive(|socket: WebSocket| async move {
        let _held = socket;
        let _ = stopped.await;
        Ok(())
    }));
    let prepared = Prepared::new("compressible ".repeat(100));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    sender.try_send(&prepared).unwrap();
                }
            });
        }
    });
    let first = peer.expect(0xC1).await;
    for _ in 1..400 {
        assert_eq!(peer.expect(0xC1).await, first);
    }
    stop.send(()).unwrap();
    peer.expect_close().await;
    driven.abort();
}
