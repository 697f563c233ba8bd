//! A client that opens its connection again, dropped in each of its states. Alone in its process, so
//! that descriptors can be counted.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "it/wire.rs"]
mod wire;

use std::{fs, io::ErrorKind, time::Duration};

use sockeye::{
    Client,
    client::{Cause, Reconnecting, Update},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use wire::*;

async fn update(socket: &mut Reconnecting) -> Update {
    within(socket.recv_update()).await.unwrap().unwrap()
}

/// Connects, and gives the server's side.
async fn open(socket: &mut Reconnecting, listener: &TcpListener) -> Peer<TcpStream> {
    assert!(matches!(update(socket).await, Update::Connecting { .. }));
    let (update, peer) = tokio::join!(update(socket), async {
        Peer::server(listener.accept().await.unwrap().0, "", &[]).await
    });
    assert!(matches!(update, Update::Open), "{update:?}");
    peer
}

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// The server sees the end of the connection, and neither tasks nor descriptors remain.
#[tokio::test]
async fn it_leaves_nothing_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let fresh = || {
        Reconnecting::new(Client::new(format!("ws://{address}/")).deflate(None))
            .base_delay(Duration::from_secs(600))
    };
    // What a runtime has once is there now: its own descriptors, and what keeps the timers of connections.
    let mut first = fresh();
    drop(open(&mut first, &listener).await);
    assert!(matches!(update(&mut first).await, Update::Waiting { .. }));
    drop(first);
    let before = (tasks(), descriptors());

    // Not begun.
    drop(fresh());
    assert_eq!((tasks(), descriptors()), before);

    // Connecting: the server has the request, and then the end.
    let mut socket = fresh();
    assert!(matches!(
        update(&mut socket).await,
        Update::Connecting { .. }
    ));
    let mut server = tokio::select! {
        _ = socket.recv_update() => unreachable!("the server says nothing"),
        accepted = listener.accept() => accepted.unwrap().0,
    };
    drop(socket);
    if let Err(error) = server.read_to_end(&mut Vec::new()).await {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    drop(server);
    assert_eq!((tasks(), descriptors()), before);

    // Open: the server is told.
    let mut socket = fresh();
    let mut peer = open(&mut socket, &listener).await;
    drop(socket);
    assert_eq!(peer.expect_close().await.0, 1001);
    peer.expect_end().await;
    drop(peer);
    assert_eq!((tasks(), descriptors()), before);

    // Waiting: the connection has ended before that.
    let mut socket = fresh();
    drop(open(&mut socket, &listener).await);
    match update(&mut socket).await {
        Update::Waiting { cause, .. } => {
            assert!(matches!(cause, Cause::Connection(_)), "{cause:?}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!((tasks(), descriptors()), before);
    drop(socket);
    assert_eq!((tasks(), descriptors()), before);
}
