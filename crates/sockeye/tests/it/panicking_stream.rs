//! A panic within a user's own stream ends the connection for everybody who uses it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use sockeye::{Ended, Error, Sender};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    task::{JoinHandle, yield_now},
};

use crate::wire::{BOTH, FORMS, Role, Setup, echo, within};

#[derive(Clone, Copy, Debug, PartialEq)]
enum When {
    Reading,
    Writing,
    Flushing,
    ShuttingDown,
}

/// A stream that panics whenever it is asked for one thing, once that is armed.
struct Panicking {
    stream: DuplexStream,
    when: When,
    trigger: Trigger,
}

#[derive(Clone, Default)]
struct Trigger(Arc<(AtomicBool, Mutex<Vec<Waker>>)>);

impl Trigger {
    /// Whoever waits for the stream asks it again.
    fn arm(&self) {
        self.0.0.store(true, Ordering::Release);
        let wakers: Vec<_> = self.0.1.lock().unwrap().drain(..).collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Panicking {
    fn look(&self, what: When, cx: &Context<'_>) {
        self.trigger.0.1.lock().unwrap().push(cx.waker().clone());
        let armed = self.trigger.0.0.load(Ordering::Acquire);
        assert!(!armed || self.when != what, "{what:?} went wrong");
    }
}

impl AsyncRead for Panicking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look(When::Reading, cx);
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Panicking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.look(When::Writing, cx);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(When::Flushing, cx);
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(When::ShuttingDown, cx);
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn stream(when: When, pipe: usize) -> (Panicking, DuplexStream, Trigger) {
    let (stream, theirs) = duplex(pipe);
    let trigger = Trigger::default();
    let ours = Panicking {
        stream,
        when,
        trigger: trigger.clone(),
    };
    (ours, theirs, trigger)
}

fn is_told(error: &Error, when: When) -> bool {
    error.is_lost() && format!("{error}").contains(&format!("its stream panicked: {when:?} went"))
}

/// Sends until it cannot, and gives the reason.
fn send_all(sender: Sender) -> JoinHandle<Error> {
    tokio::spawn(async move {
        loop {
            if let Err(error) = sender.send(vec![0; 512]).await {
                return error;
            }
        }
    })
}

/// Nobody drives the connection, and those who send wait for the peer.
#[tokio::test(start_paused = true)]
async fn all_who_wait_are_told() {
    for role in BOTH {
        for when in [When::Writing, When::Reading] {
            let (ours, theirs, trigger) = stream(when, 1024);
            let setup = Setup {
                high_water: 1024,
                ..Setup::default()
            };
            let (socket, _peer) = setup.open_over(role, ours, theirs).await;
            let (sender, mut receiver) = socket.split();
            let senders: Vec<_> = (0..3).map(|_| send_all(sender.clone())).collect();
            let receiving = tokio::spawn(async move { receiver.recv().await });
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(senders.iter().all(|sender| !sender.is_finished()));

            trigger.arm();
            let received = within(receiving).await.unwrap().unwrap_err();
            assert!(is_told(&received, when), "{role:?} {when:?}: {received:?}");
            for sender in senders {
                let error = within(sender).await.expect("it panicked too");
                let told = error.is_lost() || error.is_closed();
                assert!(told, "{role:?} {when:?}: {error:?}");
            }
            let late = within(sender.send("late")).await.unwrap_err();
            assert!(late.is_lost() || late.is_closed(), "{late:?}");
            assert!(matches!(sender.ended(), Some(Ended::Lost(_))));
        }
    }
}

/// Where nobody receives either.
#[tokio::test(start_paused = true)]
async fn those_who_send_beside_it_are_told() {
    for role in BOTH {
        for when in [When::Writing, When::Flushing] {
            let (ours, theirs, trigger) = stream(when, 1 << 20);
            let (socket, _peer) = Setup::default().open_over(role, ours, theirs).await;
            let sender = socket.sender();
            trigger.arm();
            let first = within(sender.send("one")).await.unwrap_err();
            assert!(is_told(&first, when), "{role:?} {when:?}: {first:?}");
            let next = within(sender.send("two")).await.unwrap_err();
            assert!(next.is_lost(), "{next:?}");
            drop(socket);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_form_ends_as_lost() {
    for role in BOTH {
        for form in FORMS {
            for when in [When::Writing, When::Reading, When::Flushing] {
                let (ours, theirs, trigger) = stream(when, 1 << 20);
                let (socket, mut peer) = Setup::default().open_over(role, ours, theirs).await;
                let sender = socket.sender();
                let seen = echo(form, socket);
                peer.expect_echo("well").await;
                trigger.arm();
                peer.send_frame(0x81, "echo").await;
                let seen = within(seen).await.expect("it panicked");
                let error = seen.error.as_ref().unwrap();
                assert!(is_told(error, when), "{role:?} {form:?}: {error:?}");
                let late = within(sender.send("late")).await.unwrap_err();
                assert!(late.is_lost() || late.is_closed(), "{late:?}");
                assert!(matches!(sender.ended(), Some(Ended::Lost(_))));
                // Nothing keeps the stream.
                within(async { while peer.next().await.is_some() {} }).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_closing_handshake_ends_all_the_same() {
    for form in FORMS {
        for when in [When::Writing, When::Reading, When::ShuttingDown] {
            let (ours, theirs, trigger) = stream(when, 1 << 20);
            let (socket, mut peer) = Setup::default().open_over(Role::Server, ours, theirs).await;
            let seen = echo(form, socket);
            peer.expect_echo("well").await;
            trigger.arm();
            peer.send_close(1000, "").await;
            let seen = within(seen).await.expect("it panicked");
            assert!(seen.ended.is_some());
            within(async { while peer.next().await.is_some() {} }).await;
        }
    }
}

/// What is dropped says goodbye, which must not panic while another panic unwinds.
#[tokio::test(start_paused = true)]
async fn a_panic_beside_it_ends_no_process() {
    for role in BOTH {
        for drives in [false, true] {
            let (ours, theirs, trigger) = stream(When::Writing, 1 << 20);
            let (socket, mut peer) = Setup::default().open_over(role, ours, theirs).await;
            let work = async move |mut socket: sockeye::WebSocket| -> sockeye::Result<()> {
                let _ = socket.recv().await;
                trigger.arm();
                panic!("the user's own");
            };
            let running = tokio::spawn(async move {
                match drives {
                    true => socket.drive(work).await.map(drop),
                    false => work(socket).await,
                }
            });
            peer.send_frame(0x81, "go").await;
            assert!(within(running).await.unwrap_err().is_panic());
            tokio::time::timeout(Duration::from_secs(10), peer.expect_end())
                .await
                .unwrap();
        }
    }
}
