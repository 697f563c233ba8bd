//! The keepalive: silent peers are given up, and the way to others is measured (RFC 6455 §5.5.2).

mod wire;

use std::{future::pending, io::ErrorKind, time::Duration};

use sockeye::{CloseCode, Ended, Handler, Sender, Socket, WebSocket};
use tokio::{sync::oneshot, time::Instant};
use wire::*;

#[derive(Clone, Copy, Debug)]
enum Form {
    Plain,
    Driven,
    Events,
}

const FORMS: [Form; 3] = [Form::Plain, Form::Driven, Form::Events];

struct Nothing;

impl Handler for Nothing {}

/// Receives until the connection has ended.
async fn run(form: Form, mut socket: WebSocket) -> Ended {
    match form {
        Form::Plain => {
            while let Ok(Some(_)) = socket.recv().await {}
            socket.ended().unwrap()
        }
        Form::Driven => {
            let sender = socket.sender();
            let _ = socket
                .drive(|mut socket| async move {
                    while let Ok(Some(_)) = socket.recv().await {}
                    Ok(())
                })
                .await;
            sender.ended().unwrap()
        }
        Form::Events => socket.handle(Nothing).await,
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_lost_after_interval_and_timeout() {
    for role in BOTH {
        for form in FORMS {
            let (socket, peer) = Setup::default().open(role).await;
            let began = Instant::now();
            let ended = run(form, socket).await;
            let Ended::Lost(error) = &ended else {
                panic!("{role:?} {form:?}: {ended:?}");
            };
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{ended}");
            assert_eq!(began.elapsed().as_secs(), 50, "{role:?} {form:?}");
            drop(peer);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_answers_stays_and_its_way_is_measured() {
    for role in BOTH {
        for form in FORMS {
            let (socket, mut peer) = Setup::default().open(role).await;
            let sender: Sender = socket.sender();
            let running = tokio::spawn(run(form, socket));
            for _ in 0..100 {
                tokio::time::sleep(Duration::from_secs(29)).await;
                let ping = peer.expect(0x89).await;
                tokio::time::sleep(Duration::from_millis(80)).await;
                peer.send_frame(0x8A, ping).await;
            }
            peer.send_close(1000, "").await;
            let ended = running.await.unwrap();
            assert!(
                matches!(ended, Ended::ByPeer(_)),
                "{role:?} {form:?}: {ended:?}"
            );
            assert_eq!(
                sender.rtt(),
                Some(Duration::from_millis(80)),
                "{role:?} {form:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_sends_data_and_no_pong_stays() {
    for form in FORMS {
        let (socket, mut peer) = Setup::default().open(BOTH[0]).await;
        let running = tokio::spawn(run(form, socket));
        for _ in 0..40 {
            peer.send_frame(0x81, "still here").await;
            tokio::time::sleep(Duration::from_secs(15)).await;
        }
        peer.send_close(1000, "").await;
        let ended = running.await.unwrap();
        assert!(matches!(ended, Ended::ByPeer(_)), "{form:?}: {ended:?}");
    }
}

struct Pongs(Option<oneshot::Sender<Vec<u8>>>);

impl Handler for Pongs {
    fn on_open(&mut self, socket: &mut Socket) {
        socket.ping(b"mine").unwrap();
    }
    fn on_pong(&mut self, socket: &mut Socket, payload: &[u8]) {
        if let Some(give) = self.0.take() {
            give.send(payload.to_vec()).unwrap();
        }
        let _ = socket.close(CloseCode::NORMAL, "");
    }
}

#[tokio::test(start_paused = true)]
async fn pongs_to_a_users_own_pings_are_the_users() {
    let (socket, mut peer) = Setup::default().open(BOTH[0]).await;
    let (give, pong) = oneshot::channel();
    let running = tokio::spawn(socket.handle(Pongs(Some(give))));
    assert_eq!(peer.expect(0x89).await, b"mine");
    tokio::time::sleep(Duration::from_secs(29)).await;
    let ours = peer.expect(0x89).await;
    peer.send_frame(0x8A, ours).await;
    peer.send_frame(0x8A, "mine").await;
    assert_eq!(pong.await.unwrap(), b"mine");
    assert_eq!(peer.expect_close().await.0, 1000);
    peer.send_close(1000, "").await;
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_keepalive_nothing_is_sent() {
    let (near, server) = tokio::io::duplex(4096);
    let accepting = tokio::spawn(async move {
        let acceptor = sockeye::Acceptor::new().keepalive(None);
        acceptor.accept(server).await.unwrap()
    });
    let client = sockeye::Client::new("ws://peer/").keepalive(None);
    let mut client = client.connect_over(near).await.unwrap();
    let mut server = accepting.await.unwrap();
    let week = Duration::from_secs(7 * 24 * 3600);
    let both = async { tokio::join!(client.recv_event(), server.recv_event()) };
    assert!(tokio::time::timeout(week, both).await.is_err());
    assert_eq!(client.rtt(), None);
}

#[tokio::test(start_paused = true)]
async fn an_idle_peer_is_sent_a_close() {
    let (near, server) = tokio::io::duplex(4096);
    let accepting = tokio::spawn(async move {
        let acceptor = sockeye::Acceptor::new().idle_timeout(Duration::from_secs(300));
        acceptor.accept(server).await.unwrap()
    });
    let client = sockeye::Client::new("ws://peer/");
    let mut client = client.connect_over(near).await.unwrap();
    let server = tokio::spawn(run(Form::Events, accepting.await.unwrap()));
    let began = Instant::now();
    let sender = client.sender();
    let talking = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(200)).await;
        sender.send("not yet").await.unwrap();
        pending::<()>().await;
    });
    assert!(client.recv().await.unwrap().is_none());
    assert_eq!(began.elapsed().as_secs(), 500);
    let ended = client.ended().unwrap();
    assert_eq!(
        (ended.code(), ended.reason()),
        (1001, "no message for 300s")
    );
    assert!(matches!(server.await.unwrap(), Ended::ByUs(_)));
    talking.abort();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_never_reads_is_given_up_though_output_waits() {
    struct Floods;
    impl Handler for Floods {
        fn on_open(&mut self, socket: &mut Socket) {
            for _ in 0..40 {
                socket.send(vec![0; 64 * 1024]);
            }
        }
    }
    let (socket, peer) = Setup::default().open(BOTH[0]).await;
    let ended = socket.handle(Floods).await;
    assert!(
        matches!(&ended, Ended::Lost(error) if error.kind() == ErrorKind::TimedOut),
        "{ended:?}"
    );
    drop(peer);
}
