//! Several tasks that use one connection at once in every way there is, at random: what was sent comes
//! once and in order, what was given up comes whole or not at all, and nobody waits for what will not come.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use sockeye::{
    Acceptor, Client, CloseCode, DeflateConfig, Ended, Event, Handler, MessageKind, Sender,
    WebSocket,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, duplex},
    task::yield_now,
    time::timeout,
};

use crate::random::Random;

/// Polls a few times and then gives up, or not: what came of it.
async fn a_few_times<F: Future>(random: &mut Random, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for _ in 0..random.below(4) {
        let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(done) = polled {
            return Some(done);
        }
        yield_now().await;
    }
    None
}

/// What is known of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Sent,
    Unknown,
    NotSent,
}

/// What a task has said.
struct Said {
    messages: Vec<(String, Fate)>,
    /// The last of those that replace one another.
    latest: Option<usize>,
}

async fn talk(sender: Sender, task: usize, mut random: Random) -> Said {
    let mut said = Said {
        messages: Vec::new(),
        latest: None,
    };
    for number in 0..40 {
        let filling = ["", "some more of it ", "не только ASCII "][random.below(3)];
        let text = format!("{task} {number} {}", filling.repeat(random.below(30)));
        let fate = match random.below(12) {
            0..4 => {
                sender.send(&text).await.unwrap();
                Fate::Sent
            }
            4 | 5 => match a_few_times(&mut random, sender.send(&text)).await {
                Some(sent) => sent.map(|()| Fate::Sent).unwrap(),
                None => Fate::Unknown,
            },
            6 => match sender.try_send(&text) {
                Ok(()) => Fate::Sent,
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    Fate::NotSent
                }
            },
            7 | 8 => in_parts(&sender, &text, &mut random).await,
            9 => {
                sender
                    .send_latest(task as u64, format!("latest {task} {number}"))
                    .unwrap();
                said.latest = Some(number);
                Fate::NotSent
            }
            10 => {
                sender
                    .ping(text.as_bytes().get(..50).unwrap_or_default())
                    .await
                    .unwrap();
                let _ = a_few_times(&mut random, sender.flush()).await;
                Fate::NotSent
            }
            _ => {
                sender.flush().await.unwrap();
                assert!(sender.is_open());
                Fate::NotSent
            }
        };
        said.messages.push((text, fate));
        if random.below(3) == 0 {
            yield_now().await;
        }
    }
    said
}

/// A message in parts of any size, of which the writing may be given up and begun again.
async fn in_parts(sender: &Sender, text: &str, random: &mut Random) -> Fate {
    let begun = sender.send_stream(MessageKind::Text);
    let Some(writer) = (match random.below(2) {
        0 => a_few_times(random, begun).await,
        _ => Some(begun.await),
    }) else {
        return Fate::NotSent;
    };
    let mut writer = writer.unwrap();
    if random.below(5) == 0 {
        // Nothing was written to it.
        return Fate::NotSent;
    }
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let part = &rest[..1 + random.below(rest.len())];
        let wrote = match random.below(2) {
            0 => a_few_times(random, writer.write(part)).await,
            _ => Some(writer.write(part).await),
        };
        rest = &rest[wrote.map_or(0, Result::unwrap)..];
        match random.below(6) {
            0 => writer.flush().await.unwrap(),
            1 => drop(a_few_times(random, writer.flush()).await),
            2 => yield_now().await,
            _ => {}
        }
    }
    match random.below(3) {
        0 => {
            // Queued at the first poll.
            let mut finish = pin!(writer.finish());
            let polled = poll_fn(|cx| Poll::Ready(finish.as_mut().poll(cx))).await;
            if let Poll::Ready(finished) = polled {
                finished.unwrap();
            }
        }
        _ => writer.finish().await.unwrap(),
    }
    Fate::Sent
}

/// All that comes, received in every way.
async fn listen(socket: &mut WebSocket, mut random: Random) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let message = match random.below(5) {
            0 => match a_few_times(&mut random, socket.recv()).await {
                Some(message) => message.unwrap(),
                None => continue,
            },
            1 => match a_few_times(&mut random, socket.recv_event()).await {
                Some(Ok(Some(Event::Message(message)))) => Some(message),
                Some(Ok(None)) => None,
                Some(Err(error)) => panic!("{error}"),
                Some(Ok(Some(_))) | None => continue,
            },
            2 => {
                let Some(mut reader) = socket.recv_stream().await.unwrap() else {
                    return heard;
                };
                let mut text = Vec::new();
                let mut room = vec![0; 1 + random.below(100)];
                loop {
                    let read = match random.below(2) {
                        0 => a_few_times(&mut random, reader.read(&mut room)).await,
                        _ => Some(reader.read(&mut room).await),
                    };
                    match read.map(Result::unwrap) {
                        Some(0) => break,
                        Some(count) => text.extend(&room[..count]),
                        None => {}
                    }
                }
                heard.push(String::from_utf8(text).unwrap());
                continue;
            }
            _ => socket.recv().await.unwrap(),
        };
        let Some(message) = message else {
            return heard;
        };
        heard.push(message.as_text().unwrap().to_owned());
        if random.below(10) == 0 {
            yield_now().await;
        }
    }
}

struct Nothing;

impl Handler for Nothing {}

/// How a connection is run.
#[derive(Clone, Copy, Debug)]
enum Run {
    Plain,
    Driven,
    Events,
}

/// Runs the end that sends until it has ended.
async fn run(socket: WebSocket, run: Run) -> Ended {
    match run {
        Run::Plain => {
            let mut socket = socket;
            assert_eq!(socket.recv().await.unwrap(), None);
            socket.ended().unwrap()
        }
        Run::Driven => {
            let driven = socket.drive(|mut socket| async move {
                assert_eq!(socket.recv().await?, None);
                Ok(())
            });
            driven.await.unwrap().unwrap()
        }
        Run::Events => socket.handle(Nothing).await,
    }
}

fn check(said: &[Said], heard: &[String]) {
    for (task, said) in said.iter().enumerate() {
        let prefix = format!("{task} ");
        let mut heard_of_it = heard
            .iter()
            .filter(|text| text.starts_with(&prefix))
            .peekable();
        for (text, fate) in &said.messages {
            let came = heard_of_it.next_if(|heard| *heard == text).is_some();
            match fate {
                Fate::Sent => assert!(came, "lost, or out of order: {text}"),
                Fate::NotSent => assert!(!came, "never sent: {text}"),
                Fate::Unknown => {}
            }
        }
        assert_eq!(heard_of_it.next(), None, "out of order, or twice");
        let latest = format!("latest {task} ");
        let latest = heard
            .iter()
            .filter_map(|text| text.strip_prefix(&latest)?.parse().ok());
        let latest: Vec<usize> = latest.collect();
        assert!(latest.is_sorted_by(|a, b| a < b), "{latest:?}");
        assert_eq!(latest.last().copied(), said.latest);
    }
}

async fn once(seed: u64) {
    let mut random = Random::new(seed);
    let context = random.below(2) == 0;
    let deflate = DeflateConfig::available().filter(|_| random.below(3) > 0);
    let deflate = deflate.map(|deflate| DeflateConfig {
        threshold: random.of(&[0, 100]),
        own_no_context_takeover: !context,
        peer_no_context_takeover: !context,
        ..deflate
    });
    let high_water = random.of(&[1, 100, 2000, 1 << 20]);
    let (one, other) = duplex(random.of(&[1, 20, 300, 1 << 16]));
    let acceptor = Acceptor::new().deflate(deflate).high_water(high_water);
    let client = Client::new("ws://peer/")
        .deflate(deflate)
        .high_water(high_water);
    let (server, client) = tokio::join!(acceptor.accept(one), client.connect_over(other));
    let (from, to) = match random.below(2) {
        0 => (server.unwrap(), client.unwrap()),
        _ => (client.unwrap(), server.unwrap()),
    };
    let sender = from.sender();
    let how = random.of(&[Run::Plain, Run::Driven, Run::Events]);
    let running = tokio::spawn(run(from, how));
    let ears = random.clone();
    let is_driven = random.below(2) == 0;
    let listening = tokio::spawn(async move {
        if !is_driven {
            let mut to = to;
            return (listen(&mut to, ears).await, to.ended().unwrap());
        }
        let mut heard = Vec::new();
        let driven = to.drive(async |mut socket| {
            heard = listen(&mut socket, ears).await;
            Ok(())
        });
        let ended = driven.await.unwrap().unwrap();
        (heard, ended)
    });
    let talking: Vec<_> = (0..1 + random.below(4))
        .map(|task| {
            random.next();
            tokio::spawn(talk(sender.clone(), task, random.clone()))
        })
        .collect();
    let mut said = Vec::new();
    for task in talking {
        said.push(task.await.unwrap());
    }
    sender.close(CloseCode::NORMAL, "all said").await.unwrap();
    let (heard, ended) = listening.await.unwrap();
    assert!(matches!(ended, Ended::ByPeer(_)), "{ended}");
    let ended = running.await.unwrap();
    assert!(matches!(ended, Ended::ByUs(_)), "{how:?}: {ended}");
    check(&said, &heard);
}

/// Less than any ping that might wake what has been forgotten.
const PATIENCE: Duration = Duration::from_secs(25);

async fn many(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        // In a task, so that a failure tells which it was.
        let once = timeout(PATIENCE, tokio::spawn(once(seed))).await;
        let once = once.unwrap_or_else(|_| panic!("seed {seed}: something waits for ever"));
        once.unwrap_or_else(|_| panic!("seed {seed}"));
    }
}

/// Where nothing is left to do, the time that is paused passes at once.
#[tokio::test(start_paused = true)]
async fn in_one_thread() {
    many(0..60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_several_threads() {
    many(1000..1040).await;
}
