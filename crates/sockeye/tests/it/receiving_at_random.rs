//! A socket whose user does anything at any time, and a peer whose frames come in any pieces: every message is received once
//! and in order, every ping is answered, every message that was sent arrives, and how it ended is told, whoever had the
//! receiving side meanwhile. Time is paused.

use std::{pin::pin, time::Duration};

use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, join},
    stream::FuturesUnordered,
};
use sockeye::{Ended, Error, Event, MessageKind, MessageReader, WebSocket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split},
    sync::mpsc,
    task::yield_now,
    time::{sleep, timeout},
};

use crate::{random::Random, wire::*};

/// How the peer ends the connection, behind all that it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closes,
    GoesAway,
    BreaksARule,
    /// It says nothing any more, and answers a Close.
    Waits,
}

/// What the peer says.
struct Script {
    end: End,
    /// What is written at once, and how long it takes until the next.
    pieces: Vec<(Vec<u8>, Duration)>,
    messages: Vec<String>,
    pings: Vec<Vec<u8>>,
    pongs: Vec<Vec<u8>>,
}

fn millis(random: &mut Random, most: usize) -> Duration {
    Duration::from_millis(random.below(most) as u64)
}

impl Script {
    fn new(random: &mut Random, masked: bool) -> Self {
        let end = random.of(&[End::Closes, End::GoesAway, End::BreaksARule, End::Waits]);
        let (mut messages, mut pings, mut pongs) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = Vec::new();
        for number in 0..random.below(25) {
            let mut control = |random: &mut Random, bytes: &mut Vec<u8>| {
                let payload = format!("{number}, {}", random.below(1000)).into_bytes();
                if random.below(4) > 0 {
                    bytes.extend(frame(0x89, masked, &payload));
                    pings.push(payload);
                } else {
                    bytes.extend(frame(0x8A, masked, &payload));
                    pongs.push(payload);
                }
            };
            if random.below(2) == 0 {
                control(random, &mut bytes);
                continue;
            }
            let len = random.of(&[0, 10, 200, 5000]);
            let text = format!("{number}: {}", "x".repeat(random.below(len + 1)));
            let cut = random.below(2 * text.len());
            match text.as_bytes().split_at_checked(cut) {
                None => bytes.extend(frame(0x81, masked, text.as_bytes())),
                Some((begin, rest)) => {
                    bytes.extend(frame(0x01, masked, begin));
                    for _ in 0..random.below(3) {
                        control(random, &mut bytes);
                    }
                    bytes.extend(frame(0x80, masked, rest));
                }
            }
            messages.push(text);
        }
        match end {
            End::Closes => bytes.extend(frame(0x88, masked, &4321u16.to_be_bytes())),
            End::BreaksARule => bytes.extend(frame(0x8B, masked, b"")),
            End::GoesAway | End::Waits => {}
        }
        let mut pieces = Vec::new();
        let most = random.of(&[2, 30, 500, 100_000]);
        while !bytes.is_empty() {
            let rest = bytes.split_off((1 + random.below(most)).min(bytes.len()));
            let pause = match random.below(4) {
                0 => millis(random, 40),
                _ => Duration::ZERO,
            };
            pieces.push((std::mem::replace(&mut bytes, rest), pause));
        }
        Self {
            end,
            pieces,
            messages,
            pings,
            pongs,
        }
    }

    /// Plays it, and gives all frames that came.
    async fn play(&self, peer: Peer<DuplexStream>) -> Vec<Frame> {
        let masked = peer.role == Role::Client;
        let (stream, mut read) = peer.into_parts();
        let (mut input, mut output) = split(stream);
        let (closes, mut closed) = mpsc::channel(1);
        let speaks = async {
            for (piece, pause) in &self.pieces {
                if output.write_all(piece).await.is_err() {
                    break;
                }
                match pause.is_zero() {
                    true => yield_now().await,
                    false => sleep(*pause).await,
                }
            }
            if self.end != End::GoesAway && closed.recv().await.is_some() && self.end != End::Closes
            {
                let _ = output
                    .write_all(&frame(0x88, masked, &1000u16.to_be_bytes()))
                    .await;
            }
            let _ = output.shutdown().await;
        };
        let listens = async {
            let mut frames = Vec::new();
            loop {
                while let Some((frame, len, _)) = parse(&read) {
                    read.drain(..len);
                    if frame.first == 0x88 {
                        let _ = closes.send(()).await;
                    }
                    frames.push(frame);
                }
                if input.read_buf(&mut read).await.unwrap_or(0) == 0 {
                    drop(closes);
                    return frames;
                }
            }
        };
        join(speaks, listens).await.1
    }
}

/// What the socket's user has seen, and done.
#[derive(Debug, Default)]
struct Seen {
    /// How many messages come.
    expected: usize,
    /// Messages, or what was read of them.
    received: Vec<(String, bool)>,
    told: Vec<Event>,
    sent: Vec<String>,
    /// How the connection ended, as far as that was waited for.
    closed: Option<Ended>,
    /// Whether there is no more to receive.
    ended: bool,
}

impl Seen {
    fn message(&mut self, next: Result<Option<sockeye::Message>, Error>) {
        match next {
            Ok(Some(message)) => {
                self.received
                    .push((message.as_text().unwrap().to_owned(), true));
            }
            Ok(None) | Err(_) => self.ended = true,
        }
    }

    fn event(&mut self, next: Result<Option<Event>, Error>) {
        match next {
            Ok(Some(Event::Message(message))) => self.message(Ok(Some(message))),
            Ok(Some(event)) => self.told.push(event),
            Ok(None) | Err(_) => self.ended = true,
        }
    }

    async fn read(&mut self, reader: &mut MessageReader<'_>, random: &mut Random) {
        let (mut all, mut room) = (Vec::new(), [0; 700]);
        let leaves = random.below(3) == 0;
        loop {
            if leaves && random.below(3) == 0 {
                break;
            }
            let read = timeout(millis(random, 30), reader.read(&mut room)).await;
            match read {
                Err(_) => {}
                Ok(Ok(0)) => {
                    self.received.push((String::from_utf8(all).unwrap(), true));
                    return;
                }
                Ok(Ok(count)) => all.extend(&room[..count]),
                Ok(Err(_)) => {
                    self.ended = true;
                    break;
                }
            }
        }
        self.received.push((String::from_utf8(all).unwrap(), false));
    }
}

/// Does so many things at random, or fewer where the connection ends.
fn work(
    mut socket: WebSocket,
    mut random: Random,
    mut seen: Seen,
    things: usize,
) -> BoxFuture<'static, (WebSocket, Seen)> {
    let work = async move {
        for thing in 0..things {
            if seen.ended {
                break;
            }
            let time = millis(&mut random, 40);
            match random.below(14) {
                0 if seen.received.len() < seen.expected => seen.message(socket.recv().await),
                0 | 1 => {
                    if let Ok(next) = timeout(time, socket.recv()).await {
                        seen.message(next);
                    }
                }
                2 => {
                    if let Ok(next) = timeout(time, socket.recv_event()).await {
                        seen.event(next);
                    }
                }
                3 => {
                    if let Some(next) = socket.recv().now_or_never() {
                        seen.message(next);
                    }
                }
                4 => sleep(time).await,
                5 => {
                    for _ in 0..random.below(10) {
                        yield_now().await;
                    }
                }
                6 => {
                    if let Ok(ended) = timeout(time, socket.closed()).await {
                        seen.closed = Some(ended);
                    }
                }
                7 => {
                    let sender = socket.sender();
                    if let Ok(ended) = timeout(time, sender.closed()).await {
                        seen.closed = Some(ended);
                    }
                }
                8 | 9 => {
                    let text = format!(
                        "{thing} {} {}",
                        random.next(),
                        "y".repeat(random.below(300))
                    );
                    if socket.send(text.as_str()).await.is_ok() {
                        seen.sent.push(text);
                    }
                }
                // With a waker of its own.
                10 => {
                    let mut set = FuturesUnordered::new();
                    set.push(socket.recv());
                    if let Ok(Some(next)) = timeout(time, set.next()).await {
                        seen.message(next);
                    }
                }
                // In another task.
                11 if things > 4 => {
                    let random = Random::new(random.next());
                    let task = work(socket, random, seen, things / 3);
                    (socket, seen) = tokio::spawn(task).await.unwrap();
                }
                12 => {
                    let (sender, mut receiver) = socket.split();
                    let text = format!("{thing} {}", random.next());
                    let (sent, next) =
                        join(sender.send(text.as_str()), timeout(time, receiver.recv())).await;
                    if sent.is_ok() {
                        seen.sent.push(text);
                    }
                    if let Ok(next) = next {
                        seen.message(next);
                    }
                    socket = receiver.reunite(sender).unwrap();
                }
                _ => match timeout(time, socket.recv_stream()).await {
                    Ok(Ok(Some(mut reader))) => {
                        assert_eq!(reader.kind(), MessageKind::Text);
                        seen.read(&mut reader, &mut random).await;
                    }
                    Ok(Ok(None) | Err(_)) => seen.ended = true,
                    Err(_) => {}
                },
            }
        }
        (socket, seen)
    };
    work.boxed()
}

async fn once(seed: u64) {
    let mut random = Random::new(seed);
    let role = random.of(&BOTH);
    let pipe = random.of(&[100, 3000, 1 << 16]);
    let (ours, theirs) = duplex(pipe);
    let (socket, peer) = Setup::default().open_over(role, ours, theirs).await;
    let script = Script::new(&mut random, peer.role == Role::Client);
    let drives = random.below(4) > 0;
    let drains = random.below(4) > 0;
    let things = random.below(60);
    let waits_for_it = random.below(2) == 0;
    let seen = Seen {
        expected: script.messages.len(),
        ..Seen::default()
    };
    let work = async move |socket: WebSocket| {
        let (mut socket, mut seen) = work(socket, random, seen, things).await;
        let is_whole = seen.received.last().is_none_or(|(_, whole)| *whole);
        if drains && is_whole && seen.received.len() == seen.expected && waits_for_it {
            seen.closed = Some(socket.closed().await);
        }
        while drains && !seen.ended {
            let next = socket.recv().await;
            seen.message(next);
        }
        (socket, seen)
    };
    let (tell, mut told) = mpsc::channel(1);
    let working = async move {
        if drives {
            let ended = socket.drive(async |socket| {
                let (socket, seen) = work(socket).await;
                tell.try_send((seen, socket.sender())).unwrap();
                Ok(())
            });
            ended.await.unwrap();
        } else {
            let (mut socket, seen) = work(socket).await;
            let _ = socket.close(sockeye::CloseCode::NORMAL, "").await;
            tell.try_send((seen, socket.sender())).unwrap();
        }
        let (seen, sender) = told.recv().await.unwrap();
        (seen, sender.ended())
    };
    let both = join(tokio::spawn(working), script.play(peer));
    // No longer than what is waited for on purpose; a keepalive would wake whoever hangs, in half a minute.
    let pauses: Duration = script.pieces.iter().map(|(_, pause)| *pause).sum();
    let silence = match script.end == End::Waits && drains {
        true => Duration::from_secs(90),
        false => Duration::ZERO,
    };
    let most = pauses + Duration::from_secs(8) + silence;
    let (worked, frames) = timeout(most, pin!(both)).await.expect("it hangs");
    let (seen, ended) = worked.unwrap();

    // What was received.
    for ((received, whole), expected) in seen.received.iter().zip(&script.messages) {
        match whole {
            true => assert_eq!(received, expected),
            false => assert!(expected.starts_with(received), "{received}"),
        }
    }
    let all = seen.received.len() == script.messages.len();
    assert!(
        all || seen.received.len() < script.messages.len() && !drains,
        "{seen:?}"
    );
    // What was told of it.
    let mut controls = [script.pings.iter(), script.pongs.iter()];
    for event in &seen.told {
        let (of, payload) = match event {
            Event::Ping(payload) => (0, payload),
            Event::Pong(payload) => (1, payload),
            Event::Close(frame) => {
                assert_eq!(frame.as_ref().unwrap().code.as_u16(), 4321);
                continue;
            }
            other => panic!("{other:?}"),
        };
        assert!(
            controls[of].any(|it| it == payload),
            "{event:?} is told again, or late"
        );
    }
    // What the peer was given: all that was sent, and a pong for each ping, up to the Close.
    let of = |first: u8| frames.iter().filter(move |it| it.first == first);
    let texts: Vec<_> = of(0x81).map(Frame::text).collect();
    let pongs: Vec<_> = of(0x8A).map(|it| &it.payload).collect();
    assert_eq!(texts, seen.sent[..texts.len()]);
    // Of pings that came together, the newest may be answered for all (§5.5.3).
    let mut pings = script.pings.iter();
    assert!(
        pongs.iter().all(|pong| pings.any(|ping| ping == *pong)),
        "{pongs:?}"
    );
    if script.end != End::GoesAway {
        assert_eq!(texts.len(), seen.sent.len());
    }
    if seen.ended && script.end != End::GoesAway {
        assert_eq!(pongs.last(), script.pings.last().as_ref());
    }
    let closes = of(0x88).count();
    assert!(closes <= 1 && (closes == 0 || frames.last().unwrap().first == 0x88));
    // How it ended.
    let ended = ended.unwrap();
    if let Some(closed) = &seen.closed {
        assert_eq!(closed.to_string(), ended.to_string());
    }
    if seen.ended || seen.closed.is_some() {
        match script.end {
            End::Closes => assert_eq!(ended.code(), 4321, "{ended}"),
            End::GoesAway => assert!(matches!(ended, Ended::Lost(_)), "{ended}"),
            End::BreaksARule => assert!(matches!(ended, Ended::Protocol(_)), "{ended}"),
            End::Waits => assert!(matches!(ended, Ended::Silent), "{ended}"),
        }
    }
}

/// In the environment, `SEED` is one to try alone and `SEEDS` how many to try.
#[tokio::test(start_paused = true)]
async fn a_user_who_does_anything_at_any_time_misses_nothing() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|it| it.parse::<u64>().unwrap())
    };
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(200),
    };
    for seed in seeds {
        let done = tokio::spawn(once(seed)).await;
        assert!(done.is_ok(), "SEED={seed}");
    }
}
