//! Waiting for the end of a connection, in place of its messages. Time is paused.
#![allow(clippy::unwrap_used, missing_docs)]

mod wire;

use std::{future::pending, time::Duration};

use futures_util::FutureExt;
use sockeye::{CloseCode, Ended, WebSocket};
use tokio::{
    io::DuplexStream,
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use wire::*;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

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
        let working = tokio::spawn(async move {
            match driven {
                true => socket.drive(work).await.map(drop),
                false => work(socket).await,
            }
        });
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
        let working = tokio::spawn(async move {
            match driven {
                true => socket.drive(work).await.map(drop),
                false => work(socket).await,
            }
        });
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
        let receiving = tokio::spawn(async move {
            match driven {
                true => socket.drive(receives).await.map(drop),
                false => receives(socket).await,
            }
        });
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
        match driven {
            true => socket.drive(work).await.map(drop).unwrap(),
            false => work(socket).await.unwrap(),
        }
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
