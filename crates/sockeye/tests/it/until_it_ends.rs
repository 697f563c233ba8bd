//! Waiting for the end of a connection, in place of its messages. Time is paused.

use std::{future::pending, panic::AssertUnwindSafe, pin::pin, time::Duration};

use futures_util::FutureExt;
use sockeye::{CloseCode, Ended, Result, Server, WebSocket, server::Shutdown};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::wire::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

/// Does something with a socket, within `drive` or not.
async fn run<F, Fut>(socket: WebSocket, driven: bool, work: F) -> Result<()>
where
    F: FnOnce(WebSocket) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    match driven {
        true => socket.drive(work).await.map(drop),
        false => work(socket).await,
    }
}

/// Waits in a task, within `drive` or not.
fn wait(mut socket: WebSocket, driven: bool) -> JoinHandle<Ended> {
    tokio::spawn(async move {
        if !driven {
            return socket.closed().await;
        }
        let (tell, told) = oneshot::channel();
        let work = async move |mut socket: WebSocket| {
            tell.send(socket.closed().await).unwrap();
            Ok(())
        };
        let ended = socket.drive(work).await.unwrap().unwrap();
        let told = told.await.unwrap();
        assert_eq!(ended.to_string(), told.to_string());
        told
    })
}

/// Every way in which a peer ends a connection: what it does, and what is told.
async fn end(peer: Peer<DuplexStream>, way: &str) -> Option<Peer<DuplexStream>> {
    let mut peer = peer;
    match way {
        "1001" => peer.send_frame(0x88, 1001u16.to_be_bytes()).await,
        "peer ended the connection" => return None,
        "broke the protocol" => peer.send_frame(0x8B, "").await,
        "not even an answer to a ping" => {}
        other => unreachable!("{other}"),
    }
    Some(peer)
}

const WAYS: [&str; 4] = [
    "1001",
    "peer ended the connection",
    "broke the protocol",
    "not even an answer to a ping",
];

#[tokio::test(start_paused = true)]
async fn it_is_told_how_the_connection_ended() {
    for (role, driven, way) in all(WAYS) {
        let (socket, mut peer) = Setup::default().open(role).await;
        let waits = wait(socket, driven);
        peer.send_frame(0x89, "there?").await;
        assert_eq!(peer.expect(0x8A).await, b"there?");
        let _peer = end(peer, way).await;
        let ended = timeout(60 * SECOND, waits).await;
        let ended = ended
            .unwrap_or_else(|_| panic!("{role:?}, {driven}, {way}"))
            .unwrap();
        assert!(
            ended.to_string().contains(way),
            "{role:?}, {driven}: {ended}"
        );
    }
}

/// Every way for either role, driven and not.
fn all<T: Copy>(ways: impl IntoIterator<Item = T>) -> impl Iterator<Item = (Role, bool, T)> {
    let ways = ways.into_iter();
    ways.flat_map(|way| {
        BOTH.into_iter()
            .flat_map(move |role| [true, false].map(|driven| (role, driven, way)))
    })
}

/// Otherwise the answer would come first, for as long as a silent peer is waited for.
#[tokio::test(start_paused = true)]
async fn work_for_a_peer_that_has_left_is_given_up() {
    for (role, driven, way) in all(&WAYS[..3]) {
        let (socket, mut peer) = Setup::default().open(role).await;
        let work = async move |mut socket: WebSocket| {
            assert!(socket.recv().await?.is_some());
            tokio::select! {
                () = sleep(HOUR) => panic!("nobody waits for it: {driven}, {way}"),
                ended = socket.closed() => assert!(ended.to_string().contains(way), "{ended}"),
            }
            Ok(())
        };
        let working = tokio::spawn(run(socket, driven, work));
        peer.send_frame(0x81, "question").await;
        sleep(SECOND).await;
        let left = Instant::now();
        let _peer = end(peer, way).await;
        working.await.unwrap().unwrap();
        // A broken rule is told at once too: only its last words may take longer.
        assert!(left.elapsed() < 6 * SECOND, "{:?}", left.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_gives_up_waiting_has_lost_nothing() {
    for (role, driven, ()) in all([()]) {
        let (socket, mut peer) = Setup::default().open(role).await;
        let work = async move |mut socket: WebSocket| {
            for number in 0..3 {
                for _ in 0..3 {
                    assert!(timeout(SECOND, socket.closed()).await.is_err());
                }
                let message = socket.recv().await?.unwrap();
                assert_eq!(message.as_bytes(), format!("{number}").as_bytes());
                socket.send(message).await?;
            }
            let ended = socket.closed().await;
            assert_eq!(ended.code(), 1000, "{ended}");
            assert_eq!(socket.closed().await.code(), 1000);
            assert_eq!(socket.recv().await?, None);
            Ok(())
        };
        let working = tokio::spawn(run(socket, driven, work));
        for number in 0..3 {
            peer.send_frame(0x89, "there?").await;
            assert_eq!(peer.expect(0x8A).await, b"there?");
            peer.send_frame(0x81, number.to_string()).await;
            assert_eq!(peer.expect(0x81).await, number.to_string().as_bytes());
        }
        peer.send_frame(0x88, 1000u16.to_be_bytes()).await;
        peer.expect(0x88).await;
        drop(peer);
        within(working).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn senders_wait_in_any_task_while_somebody_receives() {
    for (role, driven, ()) in all([()]) {
        let (socket, mut peer) = Setup::default().open(role).await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            let sender = socket.sender();
            waiting.push(tokio::spawn(async move { sender.closed().await }));
        }
        let sender = socket.sender();
        waiting.push(tokio::spawn(async move {
            // Two in one task, of which the first gives up.
            let short = timeout(SECOND, sender.closed());
            let (short, ended) = tokio::join!(short, sender.closed());
            assert!(short.is_err());
            ended
        }));
        let receives = async |mut socket: WebSocket| {
            while socket.recv().await?.is_some() {}
            Ok(())
        };
        let receiving = tokio::spawn(run(socket, driven, receives));
        sleep(2 * SECOND).await;
        peer.send_frame(0x81, "message").await;
        sleep(SECOND).await;
        assert!(waiting.iter().all(|task| !task.is_finished()));
        peer.send_frame(0x88, 1000u16.to_be_bytes()).await;
        peer.expect(0x88).await;
        for task in waiting {
            let ended = within(task).await.unwrap();
            assert!(matches!(ended, Ended::ByPeer(Some(_))), "{ended}");
        }
        drop(peer);
        within(receiving).await.unwrap().unwrap();
    }
}

/// Of whoever sends a request and closes, the answer would be lost because another waits for the end.
#[tokio::test(start_paused = true)]
async fn a_sender_that_waits_leaves_a_message_in_hand_to_be_answered() {
    for role in BOTH {
        let (socket, mut peer) = Setup::default().open(role).await;
        let driven = tokio::spawn(socket.drive(async |mut socket| {
            let sender = socket.sender();
            let answers = async {
                while let Some(question) = socket.recv().await? {
                    sleep(SECOND).await;
                    socket.send(question).await?;
                }
                Ok(())
            };
            let (answered, ended) = tokio::join!(answers, sender.closed());
            assert_eq!(ended.code(), 1000);
            answered
        }));
        peer.send_frame(0x81, "question").await;
        peer.send_frame(0x88, 1000u16.to_be_bytes()).await;
        assert_eq!(peer.expect(0x81).await, b"question");
        peer.expect(0x88).await;
        drop(peer);
        within(driven).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn senders_are_told_of_what_this_end_does() {
    for role in BOTH {
        // The handler is done, or is dropped.
        for aborted in [false, true] {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender = socket.sender();
            let driven = tokio::spawn(socket.drive(async move |socket| {
                match aborted {
                    true => pending::<()>().await,
                    false => sleep(SECOND).await,
                }
                drop(socket);
                Ok(())
            }));
            let waits = tokio::spawn(async move { sender.closed().await });
            sleep(2 * SECOND).await;
            assert!(!waits.is_finished());
            if aborted {
                driven.abort();
            } else {
                peer.send_frame(0x88, 1000u16.to_be_bytes()).await;
            }
            let ended = within(waits).await.unwrap();
            match aborted {
                true => assert!(matches!(ended, Ended::Lost(_)), "{ended}"),
                false => assert!(matches!(ended, Ended::ByUs(_)), "{ended}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_looked_at_behind_a_message_that_nobody_receives() {
    for (role, driven, ()) in all([()]) {
        let (socket, mut peer) = Setup::default().open(role).await;
        let work = async move |mut socket: WebSocket| {
            assert!(timeout(10 * SECOND, socket.closed()).await.is_err());
            assert!(socket.recv().await?.is_some());
            assert_eq!(socket.closed().await.code(), 1000);
            Ok(())
        };
        peer.send_frame(0x81, "unexpected").await;
        peer.send_frame(0x88, 1000u16.to_be_bytes()).await;
        run(socket, driven, work).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_closed_already_says_so_at_once() {
    for role in BOTH {
        let (mut socket, mut peer) = Setup::default().open(role).await;
        let sender = socket.sender();
        assert!(sender.closed().now_or_never().is_none());
        assert!(socket.closed().now_or_never().is_none());
        let (closed, _) = tokio::join!(socket.close(CloseCode::NORMAL, "bye"), async {
            peer.expect(0x88).await;
            peer.send_frame(0x88, 1000u16.to_be_bytes()).await;
            drop(peer);
        });
        closed.unwrap();
        for ended in [
            sender.closed().now_or_never(),
            socket.closed().now_or_never(),
        ] {
            let ended = ended.unwrap();
            assert!(matches!(&ended, Ended::ByUs(_)), "{ended}");
            assert_eq!(ended.reason(), "bye");
        }
    }
}

/// Without a keepalive, which would wake whoever hangs.
fn quiet() -> Setup {
    Setup {
        keepalive: None,
        ..Setup::default()
    }
}

/// Where a message is received first, and where the end is waited for then.
#[derive(Clone, Copy, Debug)]
enum Place {
    Handler,
    /// Another task, while the handler waits for that.
    Moved,
    /// The handler again, behind another task that has received.
    Back,
    /// The handler again, behind another task that has only tried to.
    Tried,
    /// Another task, which goes on when the handler is done.
    Left,
    /// Within the driver of another connection.
    Nested,
}

async fn receive_and_wait(mut socket: WebSocket) -> Ended {
    assert!(socket.recv().await.unwrap().is_some());
    socket.closed().await
}

async fn wait_at(place: Place, mut socket: WebSocket, tell: mpsc::Sender<Ended>) {
    let ended = match place {
        Place::Handler => receive_and_wait(socket).await,
        Place::Moved => tokio::spawn(receive_and_wait(socket)).await.unwrap(),
        Place::Back | Place::Tried => {
            let task = tokio::spawn(async move {
                match place {
                    Place::Back => drop(socket.recv().await.unwrap().unwrap()),
                    _ => assert!(socket.recv().now_or_never().is_none()),
                }
                socket
            });
            let socket = task.await.unwrap();
            match place {
                Place::Back => { socket }.closed().await,
                _ => receive_and_wait(socket).await,
            }
        }
        Place::Left => {
            tokio::spawn(async move { tell.send(receive_and_wait(socket).await).await });
            sleep(SECOND / 2).await;
            return;
        }
        Place::Nested => {
            let (other, _peer) = quiet().open(Role::Client).await;
            let (tell, told) = oneshot::channel();
            let nested = other.drive(async |other| {
                tell.send(receive_and_wait(socket).await).unwrap();
                drop(other);
                Ok(())
            });
            let (_, ended) = tokio::join!(timeout(SECOND * 10, nested), told);
            ended.unwrap()
        }
    };
    tell.send(ended).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn pings_and_a_close_are_answered_wherever_it_is_waited_for() {
    use Place::*;
    for place in [Handler, Moved, Back, Tried, Left, Nested] {
        for role in BOTH {
            let (socket, mut peer) = quiet().open(role).await;
            let (tell, mut told) = mpsc::channel(1);
            let driven = tokio::spawn(socket.drive(async move |socket| {
                wait_at(place, socket, tell).await;
                Ok(())
            }));
            sleep(SECOND / 4).await;
            peer.send_frame(0x81, "question").await;
            sleep(SECOND).await;
            peer.send_frame(0x89, "there?").await;
            assert_eq!(peer.expect(0x8A).await, b"there?", "{place:?}");
            // At once, though a message was in hand.
            peer.send_close(4000, "").await;
            assert_eq!(peer.expect_close().await.0, 4000, "{place:?}");
            drop(peer);
            assert_eq!(within(told.recv()).await.unwrap().code(), 4000);
            within(driven).await.unwrap().unwrap();
        }
    }
}

/// As in a loop that waits for the end and for what is to be sent: while it sends, nobody polls what waits.
#[tokio::test(start_paused = true)]
async fn who_does_not_drive_sends_while_it_waits() {
    for role in BOTH {
        let setup = Setup {
            high_water: 1000,
            ..quiet()
        };
        let (socket, mut peer) = setup.open(role).await;
        let (sender, mut receiver) = socket.split();
        let sends = tokio::spawn(async move {
            let mut closed = pin!(receiver.closed());
            assert!(timeout(SECOND, &mut closed).await.is_err());
            for _ in 0..100 {
                sender.send("x".repeat(100)).await.unwrap();
                sender.flush().await.unwrap();
            }
            closed.await
        });
        for _ in 0..100 {
            assert_eq!(peer.expect(0x81).await.len(), 100);
        }
        peer.send_close(1000, "").await;
        assert_eq!(within(sends).await.unwrap().code(), 1000);
    }
}

#[tokio::test(start_paused = true)]
async fn what_others_send_meanwhile_goes_out_though_it_is_given_up() {
    for role in BOTH {
        let setup = Setup {
            pipe: 100,
            ..quiet()
        };
        let (socket, mut peer) = setup.open(role).await;
        let (sender, mut receiver) = socket.split();
        let sends = tokio::spawn(async move {
            sleep(SECOND / 2).await;
            sender.send("x".repeat(5000)).await
        });
        assert!(timeout(SECOND, receiver.closed()).await.is_err());
        assert_eq!(peer.expect(0x81).await.len(), 5000);
        within(sends).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_beside_it_that_is_caught_leaves_the_connection_open() {
    for role in BOTH {
        let fails = async || {
            sleep(SECOND).await;
            panic!("as the test wants")
        };
        let (mut socket, mut peer) = quiet().open(role).await;
        let waits = async {
            tokio::select! {
                () = fails() => {}
                _ = socket.closed() => {}
            }
        };
        let caught = AssertUnwindSafe(waits).catch_unwind().await;
        assert!(caught.is_err());
        socket.send("still here").await.unwrap();
        peer.expect_text("still here").await;
    }
}

/// Of whoever has closed and waits for the end, nobody receives what crosses the Close.
#[tokio::test(start_paused = true)]
async fn behind_a_close_of_this_end_messages_are_discarded() {
    for (role, driven, ()) in all([()]) {
        let (socket, mut peer) = quiet().open(role).await;
        let work = async |mut socket: WebSocket| {
            socket.sender().close(CloseCode::NORMAL, "bye").await?;
            let ended = socket.closed().await;
            assert!(
                matches!(&ended, Ended::ByUs(frame) if frame.reason == "bye"),
                "{ended}"
            );
            assert_eq!(socket.recv().await?, None);
            Ok(())
        };
        let closes = tokio::spawn(run(socket, driven, work));
        peer.send_frame(0x81, "crosses it").await;
        peer.send_frame(0x01, "and so ").await;
        peer.send_frame(0x80, "does this").await;
        assert_eq!(peer.expect_close().await.0, 1000);
        peer.send_close(1000, "").await;
        drop(peer);
        within(closes).await.unwrap().unwrap();
    }
}

/// A server that ends closes at once where nothing is in hand, and leaves an answer its time.
#[tokio::test]
async fn a_server_that_ends_leaves_a_message_in_hand_to_be_answered() {
    for asks in [false, true] {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let (address, handle) = (server.local_addr().unwrap(), server.shutdown_handle());
        let (tell, mut told) = mpsc::channel(1);
        let (answer, may_answer) = watch::channel(false);
        tokio::spawn(server.serve(move |mut socket| {
            let (tell, mut may_answer) = (tell.clone(), may_answer.clone());
            async move {
                if asks {
                    assert!(socket.recv().await?.is_some());
                }
                tell.send(()).await.unwrap();
                tokio::select! {
                    () = async { drop(may_answer.wait_for(|may| *may).await) } => {
                        socket.send("answer").await?;
                    }
                    _ = socket.closed() => {}
                }
                Ok(())
            }
        }));
        let mut client = sockeye::connect(&format!("ws://{address}/")).await.unwrap();
        if asks {
            client.send("question").await.unwrap();
        }
        within(told.recv()).await.unwrap();
        let hour = Duration::from_secs(3600);
        let ends = tokio::spawn(handle.shutdown(Shutdown::new().patience(hour).deadline(hour)));
        if asks {
            let early = timeout(Duration::from_millis(300), client.recv()).await;
            assert!(early.is_err(), "{early:?}");
            answer.send_replace(true);
            assert_eq!(within(client.recv()).await.unwrap(), Some("answer".into()));
        }
        assert_eq!(within(client.recv()).await.unwrap(), None);
        assert_eq!(client.ended().unwrap().code(), 1001);
        assert_eq!(within(ends).await.unwrap().closed(), 1);
    }
}

/// One that gives up waiting has it in hand still.
#[tokio::test(start_paused = true)]
async fn a_message_in_hand_is_answered_where_the_end_was_waited_for_in_vain() {
    for role in BOTH {
        let (socket, mut peer) = quiet().open(role).await;
        let driven = tokio::spawn(socket.drive(async |mut socket: WebSocket| {
            let question = socket.recv().await?.unwrap();
            assert!(timeout(SECOND, socket.closed()).await.is_err());
            sleep(2 * SECOND).await;
            socket.send(question).await?;
            Ok(())
        }));
        peer.send_frame(0x81, "question").await;
        sleep(2 * SECOND).await;
        peer.send_close(1000, "").await;
        peer.expect_text("question").await;
        peer.expect_close().await;
        drop(peer);
        within(driven).await.unwrap().unwrap();
    }
}

/// In whichever task: a message stands before what the peer says to that.
#[tokio::test(start_paused = true)]
async fn whoever_waits_behind_a_message_is_woken_where_this_end_closes() {
    for role in BOTH {
        for place in ["free", "driven", "moved"] {
            let (socket, mut peer) = quiet().open(role).await;
            let sender = socket.sender();
            let waits = async |mut socket: WebSocket| socket.closed().await;
            let ended = tokio::spawn(async move {
                let (tell, told) = oneshot::channel();
                let work = async |socket| {
                    tell.send(match place {
                        "moved" => tokio::spawn(waits(socket)).await.unwrap(),
                        _ => waits(socket).await,
                    })
                    .unwrap();
                    Ok(())
                };
                match place {
                    "free" => work(socket).await.map(drop).unwrap(),
                    _ => drop(socket.drive(work).await.unwrap()),
                }
                told.await.unwrap()
            });
            peer.send_frame(0x81, "nobody receives it").await;
            sleep(SECOND).await;
            sender.close(CloseCode::NORMAL, "").await.unwrap();
            peer.expect_close().await;
            peer.send_close(1000, "").await;
            drop(peer);
            let ended = timeout(SECOND, ended).await.unwrap().unwrap();
            assert!(matches!(ended, Ended::ByUs(_)), "{role:?} {place}: {ended}");
        }
    }
}
