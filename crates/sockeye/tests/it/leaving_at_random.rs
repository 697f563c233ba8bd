//! Two ends that leave in every way there is, at any time, also both at once: each learns how it ended,
//! and nobody has to wait for a deadline.

use std::time::Duration;

use futures_util::FutureExt;
use sockeye::{
    Acceptor, Client, CloseCode, Ended, Error, Handler, MessageKind, MessageRef, Socket, WebSocket,
};
use tokio::{
    io::{AsyncWriteExt, duplex},
    task::yield_now,
    time::{Instant, timeout},
};

use crate::random::Random;

/// How an end leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Listens,
    Closes,
    ClosesElsewhere,
    ReturnsFromDrive,
    FailsInDrive,
    ClosesInHandler,
    ClosesWithoutReceiver,
    DropsAStream,
    Drops,
}

use Way::*;

const WAYS: [Way; 9] = [
    Listens,
    Closes,
    ClosesElsewhere,
    ReturnsFromDrive,
    FailsInDrive,
    ClosesInHandler,
    ClosesWithoutReceiver,
    DropsAStream,
    Drops,
];

impl Way {
    /// What its Close says, where it is the first to say anything.
    fn code(self) -> u16 {
        match self {
            Closes => 1000,
            ClosesElsewhere => 3000,
            ReturnsFromDrive => 1000,
            FailsInDrive | DropsAStream => 1011,
            ClosesInHandler => 4000,
            ClosesWithoutReceiver => 4001,
            Listens | Drops => 1001,
        }
    }

    fn close_code(self) -> CloseCode {
        CloseCode::new(self.code()).unwrap()
    }
}

/// Says something, for as long as anyone listens. It does not wait: neither may the other.
async fn chat(socket: &mut WebSocket, random: &mut Random) {
    for _ in 0..random.below(5) {
        let len = random.below(600);
        let _ = socket.sender().try_send(vec![7; len]);
        for _ in 0..random.below(10) {
            yield_now().await;
        }
    }
}

async fn listen(socket: &mut WebSocket) -> Ended {
    // The end is asked for, whatever it is.
    while let Ok(Some(_)) = socket.recv().await {}
    socket.ended().unwrap()
}

struct Closing(usize, Way);

impl Closing {
    fn count(&mut self, socket: &mut Socket) {
        match self.0 {
            0 => drop(socket.close(self.1.close_code(), "handled")),
            _ => self.0 -= 1,
        }
    }
}

impl Handler for Closing {
    fn on_open(&mut self, socket: &mut Socket) {
        // Less than any mark for what may wait: of two that have sent more neither reads.
        socket.send("");
        // So that something comes to count.
        for _ in 0..self.0 {
            socket.ping(b"").unwrap();
        }
        self.count(socket);
    }
    fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
        self.count(socket);
    }
    fn on_pong(&mut self, socket: &mut Socket, _: &[u8]) {
        self.count(socket);
    }
}

async fn leave(mut socket: WebSocket, way: Way, mut random: Random) -> Option<Ended> {
    for _ in 0..random.below(20) {
        yield_now().await;
    }
    match way {
        Listens => {
            chat(&mut socket, &mut random).await;
            Some(listen(&mut socket).await)
        }
        Closes => {
            chat(&mut socket, &mut random).await;
            // Where it is closing already, its end is yet to come.
            let _ = socket.close(way.close_code(), "closed").await;
            Some(listen(&mut socket).await)
        }
        ClosesElsewhere => {
            let sender = socket.sender();
            let pause = random.below(20);
            let closing = tokio::spawn(async move {
                for _ in 0..pause {
                    yield_now().await;
                }
                sender.close(way.close_code(), "closed elsewhere").await
            });
            chat(&mut socket, &mut random).await;
            let ended = listen(&mut socket).await;
            let _ = closing.await.unwrap();
            Some(ended)
        }
        ReturnsFromDrive | FailsInDrive => {
            let sender = socket.sender();
            let driven = socket.drive(async |mut socket| {
                chat(&mut socket, &mut random).await;
                if random.below(2) == 0 {
                    drop(socket);
                    yield_now().await;
                }
                match way {
                    ReturnsFromDrive => Ok(()),
                    _ => Err(Error::other("failed")),
                }
            });
            let driven = driven.await;
            assert_eq!(driven.is_ok(), way == ReturnsFromDrive);
            sender.ended()
        }
        ClosesInHandler => Some(socket.handle(Closing(random.below(4), way)).await),
        ClosesWithoutReceiver => {
            chat(&mut socket, &mut random).await;
            let (sender, receiver) = socket.split();
            drop(receiver);
            match sender.close(way.close_code(), "without a receiver").await {
                // Nobody has received how it ended.
                Err(Error::Lost(lost)) => Some(Ended::Lost(lost)),
                _ => sender.ended(),
            }
        }
        DropsAStream => {
            chat(&mut socket, &mut random).await;
            let mut wrote = None;
            if let Ok(mut writer) = socket.sender().send_stream(MessageKind::Binary).await {
                wrote = writer.write(&[7; 50]).now_or_never();
                yield_now().await;
            }
            if wrote.is_none() {
                // Where nothing was written, nothing is cut off.
                let _ = socket.close(way.close_code(), "").await;
            }
            Some(listen(&mut socket).await)
        }
        Drops => {
            chat(&mut socket, &mut random).await;
            None
        }
    }
}

/// What an end has to have seen.
fn check(own: Way, other: Way, ended: &Ended) {
    match ended {
        Ended::ByUs(frame) => assert_eq!(frame.code.as_u16(), own.code()),
        Ended::ByPeer(Some(frame)) => assert_eq!(frame.code.as_u16(), other.code()),
        Ended::Lost(_) => assert_eq!(other, Drops),
        _ => panic!("{ended:?}"),
    }
}

async fn once(seed: u64) {
    let mut random = Random::new(seed);
    let mut way = || random.of(&WAYS);
    let ways = match [way(), way()] {
        // Nobody would ever leave.
        [Listens, Listens] => [Listens, Closes],
        ways => ways,
    };
    let high_water = random.of(&[50, 100, 2000, 1 << 20]);
    let pipe = random.of(&[1, 20, 300, 1 << 16]);
    let (one, other) = duplex(pipe);
    let acceptor = Acceptor::new().deflate(None).high_water(high_water);
    let client = Client::new("ws://peer/")
        .deflate(None)
        .high_water(high_water);
    let (server, client) = tokio::join!(acceptor.accept(one), client.connect_over(other));
    let begin = Instant::now();
    println!("seed {seed}: {ways:?}, pipe {pipe}, high water {high_water}");
    let mut randoms = [(); 2].map(|()| Random::new(random.next())).into_iter();
    let mut run = |socket, way| tokio::spawn(leave(socket, way, randoms.next().unwrap()));
    let (server, client) = (run(server.unwrap(), ways[0]), run(client.unwrap(), ways[1]));
    let (server, client) = (server.await.unwrap(), client.await.unwrap());
    println!("{server:?}, {client:?}");
    for (own, other, ended) in [(ways[0], ways[1], &server), (ways[1], ways[0], &client)] {
        assert_eq!(ended.is_none(), own == Drops);
        ended.iter().for_each(|ended| check(own, other, ended));
    }
    if let (Some(Ended::ByPeer(_)), Some(Ended::ByPeer(_))) = (&server, &client) {
        panic!("nobody was the first");
    }
    // A close timeout is 5 s.
    assert!(begin.elapsed() < Duration::from_secs(4));
}

/// Much waits on both sides, so that neither would take a message now; but what comes of the other's Close
/// is awaited all the same.
#[tokio::test(start_paused = true)]
async fn both_at_once_with_much_to_say() {
    struct Talker;
    impl Handler for Talker {
        fn on_open(&mut self, socket: &mut Socket) {
            socket.send(vec![7; 5000]);
            socket.close(CloseCode::NORMAL, "all said").unwrap();
        }
    }
    let (one, other) = duplex(100);
    let acceptor = Acceptor::new().deflate(None).high_water(1000);
    let client = Client::new("ws://peer/").deflate(None).high_water(1000);
    let (server, client) = tokio::join!(acceptor.accept(one), client.connect_over(other));
    let (server, client) = (
        server.unwrap().handle(Talker),
        client.unwrap().handle(Talker),
    );
    let begin = Instant::now();
    let (server, client) = tokio::join!(server, client);
    assert!(
        server.was_clean() && client.was_clean(),
        "{server}, {client}"
    );
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

async fn many(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let once = timeout(Duration::from_secs(60), tokio::spawn(once(seed))).await;
        let once = once.unwrap_or_else(|_| panic!("seed {seed}: something waits for ever"));
        once.unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_deadline() {
    many(0..300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nor_in_several_threads() {
    many(10_000..10_300).await;
}
