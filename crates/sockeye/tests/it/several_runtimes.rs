//! A connection whose parts are in several runtimes and move between them while it is in use: nothing
//! waits for ever, and everything comes, once and in order.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sockeye::{Acceptor, Client, CloseCode, Handler, MessageRef, Sender, Socket, WebSocket};
use tokio::{
    io::duplex,
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
    time::timeout,
};

use crate::random::Random;

/// Less than any ping that might wake what has been forgotten.
const PATIENCE: Duration = Duration::from_secs(25);

const ECHOES: usize = 200;
const NOISES: usize = 100;
const NOISY: usize = 2;

/// How the socket goes from runtime to runtime.
struct Way {
    runtimes: Arc<[Handle]>,
    random: Random,
    echoed: usize,
    /// Whether callbacks have it in the end.
    events: bool,
    /// Dropped when the connection has ended.
    done: Option<oneshot::Sender<()>>,
    echoes: Arc<AtomicUsize>,
}

impl Way {
    /// Echoes some messages, and hands the socket on to another runtime.
    fn go(mut self, mut socket: WebSocket) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(async move {
            let some = 1 + self.random.below(40);
            for _ in 0..some {
                // Where only noise is to come, the peer closes.
                let Some(message) = socket.recv().await.unwrap() else {
                    return;
                };
                self.echoed += 1;
                self.echoes.store(self.echoed, Ordering::Relaxed);
                socket.send(message).await.unwrap();
            }
            let next = self.random.below(self.runtimes.len());
            let runtimes = self.runtimes.clone();
            if self.events && self.echoed > ECHOES / 2 {
                let done = self.done.take();
                runtimes[next].spawn(async move {
                    socket.handle(Echo(self.echoed, self.echoes)).await;
                    drop(done);
                });
            } else {
                runtimes[next].spawn(self.go(socket));
            }
        })
    }
}

struct Echo(usize, Arc<AtomicUsize>);

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        self.0 += 1;
        self.1.store(self.0, Ordering::Relaxed);
        socket.send(message);
    }
}

/// Says so much, in its own runtime.
async fn talk(sender: Sender, who: usize) {
    for number in 0..NOISES {
        sender.send(format!("{who} {number}")).await.unwrap();
        if number % 10 == 0 {
            sender.flush().await.unwrap();
        }
    }
}

/// Asks and listens at once; gives the socket back once all has come.
async fn ask(socket: WebSocket) -> WebSocket {
    let (sender, mut receiver) = socket.split();
    let asking = sender.clone();
    let asking = tokio::spawn(async move {
        for number in 0..ECHOES {
            asking.send(format!("echo {number}")).await.unwrap();
        }
    });
    let mut heard = [0; NOISY + 1];
    while heard.iter().sum::<usize>() < ECHOES + NOISY * NOISES {
        let message = receiver.recv().await.unwrap().unwrap();
        let (who, number) = message.as_text().unwrap().split_once(' ').unwrap();
        let who = who.parse().unwrap_or(NOISY);
        assert_eq!(number.parse(), Ok(heard[who]), "of {who}");
        heard[who] += 1;
    }
    asking.await.unwrap();
    receiver.reunite(sender).unwrap()
}

fn once(runtimes: &Arc<[Handle]>, seed: u64) {
    let mut random = Random::new(seed);
    let (one, other) = duplex([30, 1000, 1 << 16][random.below(3)]);
    let high_water = [1, 200, 1 << 20][random.below(3)];
    let acceptor = Acceptor::new().high_water(high_water);
    let client = Client::new("ws://peer/").high_water(high_water);
    let (done, ended) = oneshot::channel::<()>();
    let echoes = Arc::new(AtomicUsize::new(0));
    let at = echoes.clone();
    let way = Way {
        runtimes: runtimes.clone(),
        events: random.below(2) == 0,
        echoed: 0,
        done: Some(done),
        echoes,
        random: Random::new(seed + 1),
    };
    // Driven by a task that stays, by one that ends early, or by nobody.
    let driven = random.below(3);
    let server = runtimes[0].spawn(async move {
        let socket = acceptor.accept(one).await.unwrap();
        for who in 0..NOISY {
            way.runtimes[1 + who].spawn(talk(socket.sender(), who));
        }
        if driven == 0 {
            way.go(socket).await;
            let _ = ended.await;
            return;
        }
        let driving = socket.drive(async |socket| {
            way.go(socket).await;
            if driven == 1 {
                let _ = ended.await;
            }
            Ok(())
        });
        driving.await.unwrap();
    });
    let asking =
        runtimes[2].spawn(async move { ask(client.connect_over(other).await.unwrap()).await });
    runtimes[1].block_on(async {
        let asked = timeout(PATIENCE, asking).await;
        let asked = asked.unwrap_or_else(|_| {
            panic!(
                "seed {seed}: something waits for ever, {} echoed",
                at.load(Ordering::Relaxed)
            )
        });
        let mut socket = asked.unwrap_or_else(|_| panic!("seed {seed}"));
        let closed = timeout(PATIENCE, socket.close(CloseCode::NORMAL, "")).await;
        closed.expect("it does not close").unwrap();
        let server = timeout(PATIENCE, server).await;
        server
            .unwrap_or_else(|_| panic!("seed {seed}: it does not end"))
            .unwrap();
    });
}

#[test]
fn everything_comes_wherever_its_parts_are() {
    let runtime = |_| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().build().unwrap()
    };
    let runtimes: Vec<Runtime> = (0..3).map(runtime).collect();
    let handles: Arc<[Handle]> = runtimes.iter().map(|it| it.handle().clone()).collect();
    for seed in 0..100 {
        once(&handles, seed);
    }
}
