//! A connection's own counters, as its handles tell them.

use std::time::Duration;

use sockeye::{CloseCode, Counters, Handler, Message, MessageRef, Socket, WebSocket};
use tokio::{io::duplex, sync::oneshot};

use crate::wire::*;

/// A client and a server, connected to each other.
async fn pair(setup: &Setup) -> (WebSocket, WebSocket) {
    let (ours, theirs) = duplex(1 << 20);
    let (client, acceptor) = (setup.client("ws://peer/"), setup.acceptor());
    let (client, server) = tokio::join!(client.connect_over(ours), acceptor.accept(theirs));
    (client.unwrap(), server.unwrap())
}

fn messages(counters: Counters) -> [(u64, u64); 2] {
    let [received, sent] = [counters.received, counters.sent].map(|traffic| traffic.messages());
    [
        (received.messages, received.bytes),
        (sent.messages, sent.bytes),
    ]
}

#[tokio::test]
async fn every_handle_tells_the_same() {
    let (mut client, mut server) = pair(&Setup::default()).await;
    for size in [0, 100, 1000, 100_000] {
        client.send(vec![1u8; size]).await.unwrap();
        client.send("x".repeat(size)).await.unwrap();
        for _ in 0..2 {
            let message: Message = server.recv().await.unwrap().unwrap();
            assert_eq!(message.len(), size);
        }
    }
    server.ping(b"there?").await.unwrap();
    server.send("done").await.unwrap();
    assert_eq!(client.recv().await.unwrap(), Some("done".into()));
    let (theirs, ours) = (client.counters(), server.counters());
    assert_eq!(messages(ours), [(8, 202_200), (1, 4)]);
    assert_eq!(messages(theirs), [(1, 4), (8, 202_200)]);
    assert_eq!((ours.sent.pings, theirs.received.pings), (1, 1));
    assert_eq!(ours.sent.bytes, 8 + 6);
    assert_eq!(ours.sent.bytes, theirs.received.bytes);

    let (sender, receiver) = server.split();
    let elsewhere = sender.clone();
    let told = tokio::spawn(async move { elsewhere.counters() });
    assert_eq!(within(told).await.unwrap(), ours);
    assert_eq!(receiver.counters(), ours);
    assert_eq!(sender.counters(), ours);
}

#[tokio::test]
async fn bytes_that_came_with_the_handshake_count() {
    let setup = Setup {
        early: frame(0x82, true, b"early"),
        ..Setup::default()
    };
    let (mut socket, _peer) = setup.open(Role::Server).await;
    socket.recv().await.unwrap();
    let received = socket.counters().received;
    assert_eq!((received.bytes, received.binary.messages), (2 + 4 + 5, 1));
}

#[tokio::test(start_paused = true)]
async fn the_age_is_since_it_opened() {
    let (client, server) = pair(&Setup::default()).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(client.age(), server.sender().age());
    assert_eq!(client.age().as_secs(), 5);
}

#[tokio::test]
async fn callbacks_see_the_message_that_they_are_given() {
    struct Checking(Option<oneshot::Sender<Counters>>, u64);
    impl Handler for Checking {
        fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
            self.1 += 1;
            assert_eq!(socket.counters().received.text.messages, self.1);
            socket.send(message);
            assert_eq!(socket.counters().sent.text.messages, self.1);
        }
        fn on_close(&mut self, socket: &mut Socket, _: &sockeye::Ended) {
            let _ = self.0.take().unwrap().send(socket.counters());
        }
    }
    let (mut client, server) = pair(&Setup::default()).await;
    let (tell, told) = oneshot::channel();
    let handled = tokio::spawn(server.handle(Checking(Some(tell), 0)));
    for _ in 0..100 {
        client.send("Привет").await.unwrap();
    }
    for _ in 0..100 {
        client.recv().await.unwrap().unwrap();
    }
    client.close(CloseCode::NORMAL, "").await.unwrap();
    within(handled).await.unwrap();
    let counters = within(told).await.unwrap();
    assert_eq!(messages(counters), [(100, 1200), (100, 1200)]);
    // With the Close, which is no message.
    assert_eq!(counters.received.bytes, 100 * (6 + 12) + 6 + 2);
    assert_eq!(counters.sent.bytes, 100 * (2 + 12) + 2 + 2);
}

#[cfg(feature = "deflate")]
#[tokio::test]
async fn how_well_messages_compress_is_told() {
    let (mut client, mut server) = pair(&Setup::deflate()).await;
    client.send("ha".repeat(10_000)).await.unwrap();
    server.recv().await.unwrap();
    let received = server.counters().received;
    assert_eq!(received.uncompressed, 20_000);
    assert!(received.compressed < received.bytes && received.bytes < 200);
    assert!(received.compression_ratio().unwrap() > 100.0);
    assert_eq!(client.counters().sent, received);
}
