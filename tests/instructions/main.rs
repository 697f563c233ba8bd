//! Work of the protocol core whose instructions are counted by `run.py`: one workload a run, named by the argument, and
//! counted only while `measured` runs. What the library does is in a program of its own: how each is compiled changes
//! with what else is.

use std::{hint::black_box, time::Duration};

use sockeye::proto::{
    Config, Event, MaskSource, Message, Outgoing, OutputBuffer, OwnedEvent, Receiver, Role, Sender,
    deflate::{DeflaterSettings, Deflaters, Inflater, Level, MemLevel, WindowBits},
    handshake::{Acceptance, HeadLimits, HeadScanner, Key, Request, Response, UpgradeRequest},
};

const MASKS: MaskSource = || [0x37, 0xFA, 0x21, 0x3D];

/// What a read takes at most.
const READ: usize = 64 * 1024;

/// How often a handshake is done. As with the numbers of messages, the first one costs more
/// (finding out about the processor, say), and that is to be lost in the rest.
const HANDSHAKES: usize = 16;

/// How many messages of JSON are compressed.
const COMPRESSED: usize = 64;

/// What valgrind is told to count.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    work()
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match *name.split(' ').collect::<Vec<_>>() {
        ["list"] => list(),
        ["receive", kind, size, masked] => receive(&message(kind, size), role(masked)),
        ["receive-owned", kind, size, masked] => receive_owned(&message(kind, size), role(masked)),
        ["send", kind, size, masked] => send(&message(kind, size), role(masked)),
        ["send-owned", kind, size, masked] => send_owned(&message(kind, size), role(masked)),
        ["compress"] => compress(),
        ["accept"] => accept(),
        ["connect"] => connect(),
        _ => panic!("{name:?} is no workload"),
    }
}

/// Every workload, and how many messages it counts.
fn list() {
    for (size, count) in [("16B", 64), ("1KiB", 64), ("1MiB", 16)] {
        for what in ["receive", "receive-owned", "send", "send-owned"] {
            for kind in ["text", "binary"] {
                for masked in ["masked", "unmasked"] {
                    println!("{count} {what} {kind} {size} {masked}");
                }
            }
        }
    }
    println!("{COMPRESSED} compress\n{HANDSHAKES} accept\n{HANDSHAKES} connect");
}

fn message(kind: &str, size: &str) -> Vec<Message> {
    let (size, count) = match size {
        "16B" => (16, 64),
        "1KiB" => (1024, 64),
        _ => (1 << 20, 16),
    };
    let text: String = ('a'..='z').cycle().take(size).collect();
    let message = match kind {
        "text" => Message::Text(text.into()),
        _ => Message::Binary(text.into_bytes().into()),
    };
    vec![message; count]
}

/// The role in which frames that are masked or not are sent.
fn role(masked: &str) -> Role {
    match masked {
        "masked" => Role::Client { masks: MASKS },
        _ => Role::Server,
    }
}

/// A sender with room for the messages, and for so much that its memory is mapped on its own: freed
/// among the other chunks, it would change what the next allocation costs.
fn sender(messages: &[Message], role: Role) -> Sender {
    let mut sender = Sender::new(role, None, Duration::from_secs(5));
    let bytes: usize = messages.iter().map(|message| message.len() + 14).sum();
    // As a pool lends it: used before.
    sender
        .output()
        .lend_buffer(OutputBuffer::with_room(bytes.max(2 << 20)));
    sender
}

/// The receiver of what `role` sends, and the messages as they travel.
fn arriving(messages: &[Message], role: Role) -> (Receiver, Vec<u8>) {
    let mut sender = sender(messages, role);
    for message in messages {
        sender
            .send(message.as_ref(), &mut Deflaters::new())
            .expect("it is open");
    }
    let peer = match role {
        Role::Client { .. } => Role::Server,
        Role::Server => Role::Client { masks: MASKS },
    };
    let (receiver, _) = Config::new(peer).halves();
    (
        receiver,
        sender.output().chunks().collect::<Vec<_>>().concat(),
    )
}

/// Gives a receiver what arrives as a driver does: in reads, and the payload of a large message
/// straight into its own buffer. `take` takes one event.
fn drive(
    receiver: &mut Receiver,
    bytes: &mut [u8],
    mut take: impl FnMut(&mut Receiver, &mut &mut [u8]) -> bool,
) -> usize {
    let mut events = 0;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = match receiver.payload_buffer(READ) {
            Some((payload, limit)) => {
                let count = limit.min(rest.len());
                payload.extend_from_slice(&rest[..count]);
                receiver.received(count).expect("the payload is valid");
                count
            }
            None => 0,
        };
        let read = if count > 0 { 0 } else { READ.min(rest.len()) };
        let (mut input, after) = rest.split_at_mut(count + read);
        input = &mut input[count..];
        while take(receiver, &mut input) {
            events += 1;
        }
        rest = after;
    }
    events
}

fn receive(messages: &[Message], role: Role) {
    let (mut receiver, mut bytes) = arriving(messages, role);
    let mut inflater = Inflater::new();
    let events = measured(|| {
        drive(&mut receiver, &mut bytes, |receiver, input| {
            // The common case first, as the event form asks for it.
            if let Some(message) = receiver.receive_whole(input) {
                black_box(message.expect("the message is valid"));
                return true;
            }
            let event = receiver.receive(input, &mut inflater);
            let event = event.expect("the message is valid");
            matches!(black_box(event), Some(Event::Message(_)))
        })
    });
    assert_eq!(events, messages.len());
}

fn receive_owned(messages: &[Message], role: Role) {
    let (mut receiver, mut bytes) = arriving(messages, role);
    let mut inflater = Inflater::new();
    let events = measured(|| {
        drive(&mut receiver, &mut bytes, |receiver, input| {
            let event = receiver.receive_owned(input, &mut inflater);
            let event = event.expect("the message is valid");
            matches!(black_box(event), Some(OwnedEvent::Message(_)))
        })
    });
    assert_eq!(events, messages.len());
}

fn send(messages: &[Message], role: Role) {
    let mut sender = sender(messages, role);
    measured(|| {
        for message in messages {
            sender.send_plain(message.as_ref()).expect("it is open");
        }
        black_box(sender.output().chunks().count());
    });
    assert!(sender.buffered() > messages.len() * messages[0].len());
}

fn send_owned(messages: &[Message], role: Role) {
    let mut sender = sender(messages, role);
    let owned = messages.to_vec();
    measured(|| {
        for message in owned {
            let sent = sender.send_plain(Outgoing::Owned(message));
            sent.expect("it is open");
        }
        black_box(sender.output().chunks().count());
    });
    assert!(sender.buffered() > messages.len() * messages[0].len());
}

/// Messages of 1 KiB, each by itself, at the level that is the default.
fn compress() {
    let settings = DeflaterSettings {
        level: Level::FASTEST,
        mem_level: MemLevel::DEFAULT,
        window: WindowBits::MAX,
    };
    let messages: Vec<_> = (0..COMPRESSED).map(json).collect();
    let mut deflaters = Deflaters::new();
    let mut out = Vec::with_capacity(2 << 20);
    measured(|| {
        for message in &messages {
            deflaters.compress(settings, message, &mut out);
        }
    });
    assert!(out.len() < COMPRESSED * 512, "{}", out.len());
}

/// 1 KiB of records as those publish who publish prices.
fn json(seed: usize) -> Vec<u8> {
    let mut text = String::new();
    for n in 0..20 {
        let id = (seed * 7919 + n * 104_729) % 1_000_003;
        let (pair, side) = (["EURUSD", "BTCUSD"][id % 2], ["buy", "sell"][id / 2 % 2]);
        text += &format!(
            r#"{{"id":{id},"symbol":"{pair}","price":{}.{:02},"side":"{side}"}},"#,
            id % 997,
            id % 100
        );
    }
    text.into_bytes()[..1024].to_vec()
}

fn request() -> UpgradeRequest {
    UpgradeRequest::new("example.com", "/chat?room=1", Key::new([7; 16]))
}

/// A server: finds the end of the head, reads it, and answers.
fn accept() {
    let head = request().to_bytes().expect("it can travel");
    for _ in 0..HANDSHAKES {
        let response = measured(|| {
            let mut scanner = HeadScanner::request(HeadLimits::default());
            let end = scanner.scan(&head).expect("it is within the limits");
            let request = Request::parse(&head[..end.expect("it is whole")]).expect("it is HTTP");
            let offer = request.check().expect("it asks for a WebSocket");
            Acceptance::new(&offer).to_bytes()
        });
        assert!(response.starts_with(b"HTTP/1.1 101 "));
    }
}

/// A client: asks, and judges the answer.
fn connect() {
    let head = request().to_bytes().expect("it can travel");
    let offer = Request::parse(&head).and_then(|request| request.check());
    let answer = Acceptance::new(&offer.expect("it asks for a WebSocket")).to_bytes();
    for _ in 0..HANDSHAKES {
        measured(|| {
            let request = request();
            black_box(request.to_bytes().expect("it can travel"));
            let response = Response::parse(&answer).expect("it is HTTP");
            black_box(request.check(&response).expect("it agrees"));
        });
    }
}
