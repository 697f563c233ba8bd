//! A bug: a connection that was sent without end had the runtime look at what came for the others of its thread only
//! after 61 times four reads in the form of events, and after 128 in the async one. And one that was sent to many for
//! each of its messages kept the thread until all that had come was gone through.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use sockeye::{Groups, Handler, MessageRef, Socket, WebSocket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::wire::*;

const MESSAGES: usize = 20_000;
const PAYLOAD: [u8; 120] = [7; 120];
/// Four reads of 128 KiB hold as many, and one before them that did not fill the buffer.
const MOST: usize = 5 * 128 * 1024 / PAYLOAD.len() + 1;

/// Does this for each message.
struct Each<F>(F);

impl<F: Fn() + Send + 'static> Handler for Each<F> {
    fn on_message(&mut self, _: &mut Socket, _: MessageRef<'_>) {
        self.0();
    }
}

async fn receive(form: Form, socket: WebSocket, each: impl Fn() + Send + 'static) {
    let receive = async |mut socket: WebSocket| -> sockeye::Result<()> {
        while socket.recv().await?.is_some() {
            each();
        }
        Ok(())
    };
    match form {
        Form::Plain => drop(receive(socket).await),
        Form::Driven => drop(socket.drive(receive).await),
        Form::Events => drop(socket.handle(Each(each)).await),
    }
}

/// The test itself is what the runtime looks at as seldom as at what comes.
#[tokio::test]
async fn the_runtime_has_its_turn_after_four_reads() {
    for (role, form) in BOTH
        .into_iter()
        .flat_map(|role| FORMS.map(|form| (role, form)))
    {
        let setup = Setup {
            pipe: 4 << 20,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        // All of it is there before anybody reads.
        peer.send(peer.frame(0x82, PAYLOAD).repeat(MESSAGES)).await;
        let handled = Arc::new(AtomicUsize::new(0));
        let seen = handled.clone();
        let count = move || {
            handled.fetch_add(1, Ordering::Relaxed);
        };
        tokio::spawn(receive(form, socket, count));
        let most = most_in_a_turn(&seen, MESSAGES).await;
        assert!(most <= MOST, "{role:?} {form:?}: {most} messages in a turn");
    }
}

/// One tiny message becomes one for each of many.
#[tokio::test]
async fn a_broadcaster_has_its_turn_by_what_it_sends() {
    const MEMBERS: usize = 100;
    const PUBLISHED: usize = 5_000;
    for (role, form) in BOTH
        .into_iter()
        .flat_map(|role| FORMS.map(|form| (role, form)))
    {
        let groups = Groups::new();
        let mut members = Vec::new();
        for _ in 0..MEMBERS {
            let (socket, peer) = Setup::default().open(Role::Server).await;
            let member = groups.member(socket.sender());
            let driven = tokio::spawn(socket.drive(|_socket| pending::<sockeye::Result<()>>()));
            members.push((member, peer, driven));
        }
        let setup = Setup {
            pipe: 4 << 20,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        peer.send(peer.frame(0x82, "").repeat(PUBLISHED)).await;
        let handled = Arc::new(AtomicUsize::new(0));
        let seen = handled.clone();
        let publish = move || {
            groups.send_to_all("");
            handled.fetch_add(1, Ordering::Relaxed);
        };
        tokio::spawn(receive(form, socket, publish));
        let most = most_in_a_turn(&seen, PUBLISHED).await;
        // Two turns in the async form.
        let few = 2 * 8 * 1024 / MEMBERS;
        assert!(
            most <= few + 1,
            "{role:?} {form:?}: {most} messages in a turn"
        );
    }
}

/// A bug: on a connection that nobody drives, who receives looked at the time, and wrote what was left, only where there
/// was nothing to read.
#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_whose_peer_never_pauses() {
    for role in BOTH {
        let setup = Setup {
            pipe: 8 << 20,
            ..Setup::default()
        };
        let (mut socket, mut peer) = setup.open(role).await;
        tokio::spawn(async move { while let Ok(Some(_)) = socket.recv().await {} });
        let frames = peer.frame(0x82, vec![7; 16 << 10]).repeat(64);
        // 33 seconds, and a ping is due after 30.
        for _ in 0..330 {
            peer.stream.write_all(&frames).await.unwrap();
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        let mut ping = [0; 1];
        let read = peer.stream.read(&mut ping).now_or_never();
        assert_eq!(read.map(Result::ok), Some(Some(1)), "{role:?}");
        assert_eq!(ping, [0x89]);
    }
}
