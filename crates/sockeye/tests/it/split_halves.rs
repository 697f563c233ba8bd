//! Senders in many tasks and threads, halves apart and together again, and the combinators of
//! `Stream` and `Sink`.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt, TryStreamExt, stream};
use sockeye::{
    Client, CloseCode, Ended, Error, Groups, Handler, Message, MessageKind, Sender, Server, Socket,
    WebSocket,
};
use tokio::{
    io::{AsyncWriteExt, duplex},
    sync::oneshot,
    task::yield_now,
    time::{sleep, timeout},
};

use crate::wire::*;

const TASKS: usize = 12;
const EACH: usize = 300;

/// Both ends, each a real one.
async fn pair(setup: &Setup) -> (WebSocket, WebSocket) {
    let (near, far) = duplex(setup.pipe);
    let (client, acceptor) = (setup.client("ws://peer/"), setup.acceptor());
    let (client, server) = tokio::join!(client.connect_over(near), acceptor.accept(far));
    (client.unwrap(), server.unwrap())
}

async fn end_of(sender: &Sender) -> Ended {
    loop {
        if let Some(ended) = sender.ended() {
            return ended;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

/// One message of a task: its number, the message's, and a payload of some length.
fn message(task: usize, number: usize) -> Vec<u8> {
    let mut message = vec![task as u8; 8 + (task * 31 + number * 97) % 700];
    message[0] = task as u8;
    message[1..5].copy_from_slice(&(number as u32).to_be_bytes());
    message
}

async fn send_all(sender: &Sender, task: usize) {
    for number in 0..EACH {
        sender.send(message(task, number)).await.unwrap();
    }
}

/// Sends from tasks and from threads.
async fn send_from_everywhere(sender: Sender) {
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let sender = sender.clone();
        if task % 3 == 0 {
            let runtime = tokio::runtime::Handle::current();
            tasks.push(tokio::task::spawn_blocking(move || {
                runtime.block_on(send_all(&sender, task));
            }));
        } else {
            tasks.push(tokio::spawn(async move { send_all(&sender, task).await }));
        }
    }
    for task in tasks {
        task.await.unwrap();
    }
    sender.close(CloseCode::NORMAL, "all sent").await.unwrap();
}

/// Receives them all: each whole, and in the order in which its task sent it.
async fn receive_all(mut socket: WebSocket) -> WebSocket {
    let mut next = [0; TASKS];
    while let Some(received) = socket.recv().await.unwrap() {
        let bytes = received.as_bytes();
        let task = usize::from(bytes[0]);
        assert_eq!(bytes, message(task, next[task]), "task {task}");
        next[task] += 1;
        if next[task] % 50 == 0 {
            // Now and then the other end has to wait.
            sleep(Duration::from_millis(1)).await;
        }
    }
    assert_eq!(next, [EACH; TASKS]);
    socket
}

struct GivesSender(Option<oneshot::Sender<Sender>>);

impl Handler for GivesSender {
    fn on_open(&mut self, socket: &mut Socket) {
        let _ = self.0.take().unwrap().send(socket.sender());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_senders_lose_and_mix_up_nothing() {
    for form in FORMS {
        for from_client in [false, true] {
            let setup = Setup {
                pipe: 4096,
                high_water: 8192,
                ..Setup::default()
            };
            let (client, server) = pair(&setup).await;
            let (from, to) = if from_client {
                (client, server)
            } else {
                (server, client)
            };
            let receiving = tokio::spawn(receive_all(to));
            let sending = match form {
                Form::Plain => tokio::spawn(async move {
                    let (sender, mut receiver) = from.split();
                    let sending = tokio::spawn(send_from_everywhere(sender));
                    assert!(receiver.recv().await.unwrap().is_none());
                    sending.await.unwrap();
                    receiver.ended().unwrap()
                }),
                Form::Driven => tokio::spawn(async move {
                    let ended = from.drive(|socket| async move {
                        let (sender, mut receiver) = socket.split();
                        let sending = tokio::spawn(send_from_everywhere(sender));
                        assert!(receiver.recv().await?.is_none());
                        sending.await.map_err(Error::other)
                    });
                    ended.await.unwrap().unwrap()
                }),
                Form::Events => tokio::spawn(async move {
                    let (give, sender) = oneshot::channel();
                    let handling = tokio::spawn(from.handle(GivesSender(Some(give))));
                    send_from_everywhere(sender.await.unwrap()).await;
                    handling.await.unwrap()
                }),
            };
            let received = timeout(Duration::from_secs(20), receiving).await;
            let socket = received.expect("stuck").unwrap();
            assert_eq!(socket.ended().unwrap().reason(), "all sent");
            drop(socket);
            let ended = within(sending).await.unwrap();
            assert!(matches!(ended, Ended::ByUs(_)), "{form:?}: {ended:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn halves_of_one_socket_reunite_and_others_do_not() {
    let (client, server) = pair(&Setup::default()).await;
    let (client_sender, client_receiver) = client.split();
    let (server_sender, server_receiver) = server.split();
    let (client_receiver, server_sender) = client_receiver.reunite(server_sender).unwrap_err();
    let mut client = client_receiver.reunite(client_sender).unwrap();
    let mut server = server_receiver.reunite(server_sender).unwrap();
    client.send("together").await.unwrap();
    let received = server.recv().await.unwrap();
    assert_eq!(received, Some("together".into()));
}

#[tokio::test]
async fn both_halves_know_the_peer_and_whether_it_can_be_sent_to() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.serve(async |mut socket| {
        socket.recv().await?;
        Ok(())
    }));
    let client = Client::new(format!("ws://{address}")).no_proxy();
    let (sender, mut receiver) = client.connect().await.unwrap().split();
    assert_eq!(sender.peer_addr(), Some(address));
    assert_eq!(receiver.peer_addr(), Some(address));
    assert!(sender.is_open() && receiver.is_open());
    sender.send("leave").await.unwrap();
    assert_eq!(within(receiver.recv()).await.unwrap(), None);
    assert!(!sender.is_open() && !receiver.is_open());
}

#[tokio::test(start_paused = true)]
async fn a_half_sees_how_the_other_ended_it() {
    let (client, mut server) = pair(&Setup::default()).await;
    let (sender, mut receiver) = client.split();
    let receiving = tokio::spawn(async move {
        let last = receiver.recv().await;
        (last, receiver)
    });
    sender.send("one").await.unwrap();
    assert!(server.recv().await.unwrap().is_some());
    server.close(CloseCode::GOING_AWAY, "done").await.unwrap();
    let (last, receiver) = within(receiving).await.unwrap();
    assert!(last.unwrap().is_none());
    for ended in [sender.ended(), receiver.ended()] {
        assert!(matches!(ended, Some(Ended::ByPeer(Some(frame))) if frame.reason == "done"));
    }
    assert!(!sender.is_open());
    let socket = receiver.reunite(sender).unwrap();
    assert_eq!(socket.ended().unwrap().code(), 1001);
}

#[tokio::test(start_paused = true)]
async fn what_a_cancelled_send_leaves_is_written_while_the_receiver_waits() {
    for role in BOTH {
        let setup = Setup {
            pipe: 1000,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        let (sender, mut receiver) = socket.split();
        let receiving = tokio::spawn(async move { receiver.recv().await });
        sleep(Duration::from_millis(1)).await;
        let patience = timeout(Duration::from_millis(1), sender.send(vec![7; 50_000]));
        assert!(patience.await.is_err());
        // Nobody touches the sender any more.
        assert_eq!(peer.expect(0x82).await, vec![7; 50_000]);
        peer.send_frame(0x81, "got it").await;
        let received = within(receiving).await.unwrap().unwrap();
        assert_eq!(received, Some("got it".into()));
    }
}

/// Within the handler of one connection, another is driven in the same task.
#[tokio::test(start_paused = true)]
async fn messages_keep_their_order_from_inside_another_driver() {
    let (client, mut server) = pair(&Setup::default()).await;
    let (other, _other_end) = pair(&Setup::default()).await;
    let driving = client.drive(|mut socket| async move {
        socket.send("1").await?;
        let sender = socket.sender();
        let within = other.drive(|other| async move {
            sender.send("2").await?;
            // Moved elsewhere, so that this driver has nothing to wait for.
            std::mem::forget(tokio::spawn(echo_forever(other)));
            Ok(())
        });
        within.await?;
        socket.send("3").await?;
        socket.recv().await.map(drop)
    });
    let driving = async {
        let _ = driving.await;
    };
    let receiving = async {
        for expected in ["1", "2", "3"] {
            assert_eq!(server.recv().await.unwrap(), Some(expected.into()));
        }
        server.close(CloseCode::NORMAL, "").await.unwrap();
    };
    within(async { tokio::join!(driving, receiving) }).await;
}

async fn echo_forever(mut socket: WebSocket) {
    while let Ok(Some(_)) = socket.recv().await {}
}

#[tokio::test(start_paused = true)]
async fn how_much_waits_is_known_elsewhere() {
    let (client, mut server) = pair(&Setup::default()).await;
    let sender = client.sender();
    let _seen = echo(Form::Driven, client);
    tokio::task::yield_now().await;
    sender.send(vec![7; 1000]).await.unwrap();
    assert!(sender.buffered_amount() >= 1000);
    assert!(server.recv().await.unwrap().is_some());
    assert_eq!(sender.buffered_amount(), 0);
}

mod combinators {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stream_forwarded_into_its_sink_is_an_echo() {
        for driven in [false, true] {
            let setup = Setup {
                pipe: 1000,
                high_water: 4000,
                ..Setup::default()
            };
            let (client, server) = pair(&setup).await;
            let echo = async |socket: WebSocket| {
                let (sender, receiver) = socket.split();
                // Forwarding closes the sink at the end; by then it is closed.
                receiver.forward(sender).await
            };
            let serving = tokio::spawn(async move {
                if driven {
                    server.drive(echo).await.map(drop)
                } else {
                    echo(server).await
                }
            });
            let (mut sender, receiver) = client.split();
            let sending = tokio::spawn(async move {
                let messages = (0..1000).map(|number: u32| Ok(Message::from(number.to_string())));
                sender.send_all(&mut stream::iter(messages)).await.unwrap();
                sender
            });
            let received: Vec<Message> = within(receiver.take(1000).try_collect()).await.unwrap();
            for (number, message) in received.iter().enumerate() {
                assert_eq!(message.as_text().unwrap(), number.to_string());
            }
            let mut sender = within(sending).await.unwrap();
            SinkExt::<Message>::close(&mut sender).await.unwrap();
            drop(sender);
            within(serving).await.unwrap().unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closing_the_sink_sends_a_close_with_1000() {
        for role in BOTH {
            let (mut socket, mut peer) = Setup::default().open(role).await;
            SinkExt::<&'static str>::feed(&mut socket, "fed")
                .await
                .unwrap();
            SinkExt::<&'static str>::close(&mut socket).await.unwrap();
            peer.expect_text("fed").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.send_close(1000, "").await;
            drop(peer);
            assert!(socket.next().await.is_none());
            assert!(socket.ended().unwrap().was_clean());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closing_the_sink_ends_a_connection_that_nobody_receives_on() {
        for role in BOTH {
            for answers in [true, false] {
                let (socket, mut peer) = Setup::default().open(role).await;
                let (mut sender, receiver) = socket.split();
                drop(receiver);
                SinkExt::<&'static str>::close(&mut sender).await.unwrap();
                assert_eq!(peer.expect_close().await.0, 1000);
                if answers {
                    peer.send_close(1000, "").await;
                    peer.stream.shutdown().await.unwrap();
                }
                peer.expect_end().await;
                let ended = within(end_of(&sender)).await;
                assert_eq!(ended.was_clean(), answers, "{role:?}: {ended:?}");
            }
        }
    }

    /// A bug: a task that ends the connection had it, and whoever polled once more was told that all was written.
    #[tokio::test(start_paused = true)]
    async fn closing_the_sink_waits_until_all_is_written_though_nobody_receives() {
        for role in BOTH {
            let setup = Setup {
                pipe: 1000,
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open(role).await;
            let (mut sender, receiver) = socket.split();
            drop(receiver);
            sender.try_send(vec![7; 100_000]).unwrap();
            let reading = tokio::spawn(async move {
                sleep(Duration::from_millis(500)).await;
                let payload = peer.expect(0x82).await;
                (payload.len(), peer.expect_close().await.0)
            });
            let began = tokio::time::Instant::now();
            let close = SinkExt::<Message>::close(&mut sender);
            let (closed, ()) = tokio::join!(close, sleep(Duration::from_millis(20)));
            closed.unwrap();
            assert!(began.elapsed() >= Duration::from_millis(500));
            assert_eq!(within(reading).await.unwrap(), (100_000, 1000));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn closing_the_sink_tells_that_what_was_fed_is_lost() {
        for role in BOTH {
            for peer_is_there in [true, false] {
                let setup = Setup {
                    pipe: 1000,
                    ..Setup::default()
                };
                let (mut socket, peer) = setup.open(role).await;
                let peer = peer_is_there.then_some(peer);
                let messages = (0..10).map(|_| Ok(Message::from(vec![7; 1000])));
                let forwarded = stream::iter(messages).forward(&mut socket);
                let error = within(forwarded).await.unwrap_err();
                assert!(error.is_lost(), "{role:?}: {error}");
                drop(peer);
            }
        }
    }
}

/// Where nobody receives, whoever sends finds out that the transport has failed.
#[tokio::test(start_paused = true)]
async fn a_sender_alone_notes_that_the_connection_is_lost() {
    for role in BOTH {
        for way in ["send", "try_send", "send_latest", "flush", "ping", "close"] {
            let (socket, peer) = Setup::default().open(role).await;
            let (sender, receiver) = socket.split();
            drop((receiver, peer));
            let result = match way {
                "send" => sender.send("hello").await,
                "try_send" => sender.try_send("hello"),
                "send_latest" => sender.send_latest(1, "hello"),
                "flush" => {
                    let mut message = sender.send_stream(MessageKind::Text).await.unwrap();
                    message.write_all(b"hello").await.unwrap();
                    sender.flush().await
                }
                "ping" => sender.ping(b"hello").await,
                _ => {
                    // It waits for the end, whatever that is.
                    sender.close(CloseCode::NORMAL, "").await.unwrap();
                    Err(sender.send("hello").await.unwrap_err())
                }
            };
            let error = result.unwrap_err();
            assert!(error.is_lost() || way == "close", "{way}: {error}");
            let ended = sender.ended();
            assert!(matches!(ended, Some(Ended::Lost(_))), "{way}: {ended:?}");
            assert!(sender.close(CloseCode::NORMAL, "").await.is_err());
        }
    }
}

/// A bug: nobody waited for the peer any more, and the connection stayed for as long as the sender, in its groups too.
#[tokio::test(start_paused = true)]
async fn a_receiver_dropped_after_the_close_ends_the_connection() {
    for role in BOTH {
        for answers in [false, true] {
            let (socket, mut peer) = Setup::default().open(role).await;
            let (sender, receiver) = socket.split();
            let groups = Groups::new();
            let _member = groups.member(sender.clone());
            sender.close(CloseCode::NORMAL, "bye").await.unwrap();
            drop(receiver);
            assert_eq!(peer.expect_close().await, (1000, "bye".into()));
            if answers {
                peer.send_close(1000, "bye").await;
            }
            peer.expect_end().await;
            match sender.ended().unwrap() {
                Ended::ByUs(frame) if answers => assert_eq!(frame.reason, "bye"),
                Ended::TimedOut if !answers => {}
                other => panic!("{role:?} {answers}: {other}"),
            }
            assert_eq!(groups.members(), 0);
        }
    }
}

/// What waits before the Close is not cut off with the receiver.
#[tokio::test(start_paused = true)]
async fn a_receiver_dropped_within_the_close_leaves_the_writing_to_it() {
    for role in BOTH {
        let setup = Setup {
            pipe: 64,
            ..Setup::default()
        };
        let (socket, mut peer) = setup.open(role).await;
        let (sender, receiver) = socket.split();
        sender.try_send(vec![7; 1000]).unwrap();
        let closing = sender.clone();
        let closing = tokio::spawn(async move { closing.close(CloseCode::NORMAL, "bye").await });
        yield_now().await;
        drop(receiver);
        assert_eq!(peer.expect(0x82).await.len(), 1000);
        assert_eq!(peer.expect_close().await, (1000, "bye".into()));
        within(closing).await.unwrap().unwrap();
        peer.send_close(1000, "").await;
        peer.expect_end().await;
        assert!(matches!(sender.ended(), Some(Ended::ByUs(_))));
    }
}
