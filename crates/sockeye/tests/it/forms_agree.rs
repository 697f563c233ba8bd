//! Whatever a peer sends, and however it is cut, each way of using a socket sees the same and answers alike.

use sockeye::{Message, Result, WebSocket};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::yield_now,
};

use crate::{random::Random, wire::*};

/// "Hello", as RFC 7692 §7.2.3 compresses it in one way and another.
const HELLO: [&[u8]; 3] = [
    &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00],
    &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00],
    &[
        0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
    ],
];

/// Frames that are mostly in order: messages whole and in fragments, compressed and not, with control frames
/// between; now and then one that breaks a rule, and at last a Close, or none.
fn script(peer: &Peer<DuplexStream>, random: &mut Random) -> Vec<u8> {
    const TEXTS: [&str; 4] = ["", "plain", "не только ASCII 𐍈", "much of the same, "];
    let mut bytes = Vec::new();
    let control = |random: &mut Random, bytes: &mut Vec<u8>| {
        if random.below(4) == 0 {
            let payload = vec![7; random.of(&[0, 1, 8, 125])];
            bytes.extend(peer.frame(random.of(&[0x89, 0x8A]), payload));
        }
    };
    for _ in 0..random.below(12) {
        let compressed = random.below(3) == 0;
        let payload = match compressed {
            true => random.of(&HELLO).to_vec(),
            false => random
                .of(&TEXTS)
                .repeat(random.of(&[1, 1, 20, 2000]))
                .into(),
        };
        let opcode = random.of(&[1, 1, 2]) | if compressed { 0x40 } else { 0 };
        let mut rest = &payload[..];
        let mut first = opcode;
        while random.below(3) > 0 {
            let (part, more) = rest.split_at(random.below(rest.len() + 1));
            bytes.extend(peer.frame(first, part));
            (rest, first) = (more, 0);
            control(random, &mut bytes);
        }
        bytes.extend(peer.frame(first | 0x80, rest));
        control(random, &mut bytes);
        if random.below(15) == 0 {
            let wrong: (u8, &[u8]) = random.of(&[
                (0x80, b"continues nothing"),
                (0x81, b"\xFF"),
                (0x83, b""),
                (0xA1, b""),
                (0xC1, b"\xFF\xFF"),
                (0x09, b""),
                (0x88, b"\x03"),
                (0x88, b"\x03\xED"),
                (0x88, b"\x03\xE8\xFF"),
            ]);
            bytes.extend(peer.frame(wrong.0, wrong.1));
        }
    }
    let close: Option<&[u8]> =
        random.of(&[None, Some(b""), Some(b"\x03\xE8bye"), Some(b"\x0F\xA0")]);
    if let Some(payload) = close {
        bytes.extend(peer.frame(0x88, payload));
        bytes.extend(peer.frame(0x81, "late"));
    }
    bytes
}

/// As [`echo`], with each message read in parts.
async fn echo_streams(mut socket: WebSocket, random: &mut Random) -> Seen {
    let mut messages = Vec::new();
    let result: Result<()> = async {
        while let Some(mut reader) = socket.recv_stream().await? {
            let (is_text, mut payload) = (reader.is_text(), Vec::new());
            let mut room = vec![0; random.of(&[1, 100, 10_000])];
            loop {
                match reader.read(&mut room).await? {
                    0 => break,
                    count => payload.extend(&room[..count]),
                }
            }
            let message = match is_text {
                true => Message::from(String::from_utf8(payload).unwrap()),
                false => Message::from(payload),
            };
            messages.push(message.clone());
            match socket.send(message).await {
                Err(error) if error.is_closed() => {}
                result => result?,
            }
        }
        Ok(())
    }
    .await;
    Seen {
        messages,
        error: result.err(),
        ended: socket.ended(),
    }
}

/// What came of it: what was seen, and what was answered.
async fn played(role: Role, seed: u64, form: Option<Form>) -> (Seen, Vec<Frame>) {
    let mut random = Random::new(seed);
    let setup = Setup::deflate();
    let (socket, mut peer) = setup.open(role).await;
    let script = script(&peer, &mut random);
    let mut ways = Random::new(seed + 1);
    let seen = match form {
        Some(form) => echo(form, socket),
        None => tokio::spawn(async move { echo_streams(socket, &mut ways).await }),
    };
    let mut rest = &script[..];
    while !rest.is_empty() {
        let most = random.of(&[1, 10, 1000, 100_000]).min(rest.len());
        let (piece, more) = rest.split_at(1 + random.below(most));
        // Refused where that end has ended already.
        if within(peer.stream.write_all(piece)).await.is_err() {
            break;
        }
        rest = more;
        if random.below(2) == 0 {
            yield_now().await;
        }
    }
    let _ = peer.stream.shutdown().await;
    let mut answers = Vec::new();
    while let Some(frame) = peer.next().await {
        answers.push(frame);
    }
    (within(seen).await.unwrap(), answers)
}

#[tokio::test(start_paused = true)]
async fn each_sees_the_same_and_answers_alike() {
    for seed in 0..100 {
        for role in BOTH {
            let first = played(role, seed, Some(Form::Plain)).await;
            for form in [Some(Form::Driven), Some(Form::Events), None] {
                let other = played(role, seed, form).await;
                let shown = |(seen, answers): &(Seen, Vec<Frame>)| {
                    (
                        format!("{:?}", seen.messages),
                        format!("{:?}", seen.ended),
                        answers.clone(),
                    )
                };
                let (first, other) = (shown(&first), shown(&other));
                assert_eq!(first.1, other.1, "seed {seed}: {role:?} {form:?}");
                assert!(
                    first == other,
                    "seed {seed}: {role:?} {form:?}\n{first:?}\n{other:?}"
                );
            }
        }
    }
}
