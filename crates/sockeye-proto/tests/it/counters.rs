//! What a connection counts: each message once, in the direction and of the kind that it is.

use std::ops::ControlFlow;

use sockeye_proto::{
    CloseCode, Codecs, Config, Connection, Counters, Limits, Message, MessageKind, Part, Receiver,
    Role, Traffic,
    deflate::{Direction, Inflater},
};
#[cfg(feature = "deflate")]
use sockeye_proto::{
    Prepared,
    deflate::{DeflateConfig, DeflateParams, WindowBits},
};

use crate::wire::*;

/// A client, a server, and what has been carried between them.
struct Pair {
    ends: [Connection; 2],
    codecs: Codecs,
    carried: [usize; 2],
}

impl Pair {
    fn new() -> Self {
        Self::with(Config::new)
    }

    fn with(config: impl Fn(Role) -> Config) -> Self {
        Self {
            ends: [CLIENT, Role::Server].map(|role| Connection::new(&config(role))),
            codecs: Codecs::new(),
            carried: [0, 0],
        }
    }

    #[cfg(feature = "deflate")]
    fn deflating() -> Self {
        let agreed = DeflateParams {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            server_max_window_bits: WindowBits::MAX,
            client_max_window_bits: WindowBits::MAX,
        };
        let config = DeflateConfig {
            threshold: 0,
            ..DeflateConfig::default()
        };
        Self::with(|role| Config {
            deflate: Some((agreed, config)),
            ..Config::new(role)
        })
    }

    fn send(&mut self, from: usize, message: impl Into<Message>) {
        let sent = self.ends[from].send(message.into(), &mut self.codecs);
        sent.unwrap();
    }

    /// Takes what one end has to say.
    fn take(&mut self, from: usize) -> Vec<u8> {
        let output = self.ends[from].output();
        let bytes = output.chunks().collect::<Vec<_>>().concat();
        output.advance(bytes.len());
        self.carried[from] += bytes.len();
        bytes
    }

    /// Gives the other end all that one has to say, in pieces of so many bytes.
    fn carry(&mut self, from: usize, piece: usize) {
        for chunk in self.take(from).chunks_mut(piece) {
            let mut input = &mut chunk[..];
            let to = &mut self.ends[1 - from];
            while to
                .receive(&mut input, NOW, &mut self.codecs)
                .unwrap()
                .is_some()
            {}
        }
    }

    /// What both ends say of what one has sent, which is the same.
    fn sent(&self, from: usize) -> Traffic {
        let Counters { sent, .. } = self.ends[from].counters();
        assert_eq!(sent, self.ends[1 - from].counters().received);
        sent
    }
}

const CLIENT_END: usize = 0;
const SERVER_END: usize = 1;

fn counts(traffic: Traffic) -> [(u64, u64); 2] {
    [traffic.text, traffic.binary].map(|count| (count.messages, count.bytes))
}

#[test]
fn messages_of_each_kind_and_size_in_both_directions() {
    for from in [CLIENT_END, SERVER_END] {
        for piece in [1, 7, 100_000] {
            let mut pair = Pair::new();
            for size in [0, 1, 125, 126, 20_000] {
                pair.send(from, "ж".repeat(size));
                pair.send(from, vec![7u8; size]);
                pair.send(from, vec![8u8; size]);
            }
            pair.carry(from, piece);
            let bytes = 1 + 125 + 126 + 20_000;
            assert_eq!(counts(pair.sent(from)), [(5, 2 * bytes), (10, 2 * bytes)]);
            assert_eq!(pair.sent(from).messages().messages, 15);
            assert_eq!(pair.sent(1 - from), Traffic::default());
        }
    }
}

#[test]
fn the_first_message_may_be_of_either_kind_and_empty() {
    let text = || Message::from("text");
    let binary = || Message::from(vec![7u8; 3]);
    for (messages, expected) in [
        (vec![binary(), text(), binary()], [(1, 4), (2, 6)]),
        (vec![text(), binary(), text()], [(2, 8), (1, 3)]),
        (vec![vec![].into(), text()], [(1, 4), (1, 0)]),
        (vec!["".into(), binary()], [(1, 0), (1, 3)]),
        (vec![binary(), binary()], [(0, 0), (2, 6)]),
    ] {
        let mut pair = Pair::new();
        for message in messages {
            pair.send(CLIENT_END, message);
        }
        pair.carry(CLIENT_END, 100);
        assert_eq!(counts(pair.sent(CLIENT_END)), expected);
    }
}

#[test]
fn pings_and_their_answers() {
    let mut pair = Pair::new();
    pair.ends[CLIENT_END].ping(b"one").unwrap();
    pair.ends[CLIENT_END].ping(b"two").unwrap();
    pair.ends[CLIENT_END].pong(b"unasked").unwrap();
    pair.carry(CLIENT_END, 100);
    pair.carry(SERVER_END, 100);
    let (client, server) = (pair.sent(CLIENT_END), pair.sent(SERVER_END));
    assert_eq!((client.pings, client.pongs), (2, 1));
    assert_eq!((server.pings, server.pongs), (0, 2));
    assert_eq!(counts(client), [(0, 0), (0, 0)]);
}

#[test]
fn a_close_is_no_message() {
    let mut pair = Pair::new();
    pair.ends[CLIENT_END]
        .close(CloseCode::NORMAL, "bye", NOW)
        .unwrap();
    pair.carry(CLIENT_END, 100);
    pair.carry(SERVER_END, 100);
    assert_eq!(pair.sent(CLIENT_END), Traffic::default());
    assert_eq!(pair.sent(SERVER_END), Traffic::default());
}

#[test]
fn a_message_that_is_no_text_is_not_counted() {
    for piece in [1, 100] {
        let mut end = End::new(Role::Server);
        for bytes in frame(0x81, b"\xFF").to(Role::Server).chunks(piece) {
            end.read(bytes);
        }
        assert!(end.error.is_some());
        let received = end.connection.counters().received;
        assert_eq!(counts(received), [(0, 0), (0, 0)]);
    }
}

/// How a receiver is asked for what comes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Lent,
    Owned,
    EachWhole,
    WholeOwned,
    Parts,
}

/// What is counted of what comes in pieces of so many bytes.
fn received(way: Way, mut receiver: Receiver, mut bytes: Vec<u8>, piece: usize) -> Traffic {
    let mut inflater = Inflater::new();
    for mut input in bytes.chunks_mut(piece) {
        loop {
            if let Way::EachWhole = way {
                let flow = receiver.receive_each_whole(&mut input, |_| ControlFlow::Continue(()));
                assert_eq!(flow, Ok(ControlFlow::Continue(())));
            }
            let more = match way {
                Way::Lent | Way::EachWhole => {
                    let event = receiver.receive(&mut input, &mut inflater);
                    event.unwrap().is_some()
                }
                Way::Owned => {
                    let event = receiver.receive_owned(&mut input, &mut inflater);
                    event.unwrap().is_some()
                }
                Way::WholeOwned => match receiver.receive_whole_owned(&mut input) {
                    Some(message) => message.is_ok(),
                    None => {
                        let event = receiver.receive_owned(&mut input, &mut inflater);
                        event.unwrap().is_some()
                    }
                },
                Way::Parts => {
                    let part = receiver.receive_part(&mut input, &mut [0; 100]);
                    part.unwrap().is_some()
                }
            };
            if !more {
                break;
            }
        }
    }
    receiver.meter().counters().received
}

fn assert_counted(role: Role, deflate: Option<Direction>, bytes: &[u8], expected: Traffic) {
    for way in [
        Way::Lent,
        Way::Owned,
        Way::EachWhole,
        Way::WholeOwned,
        Way::Parts,
    ] {
        for piece in [1, 7, usize::MAX] {
            let receiver = Receiver::new(role, Limits::default(), deflate);
            let counted = received(way, receiver, bytes.to_vec(), piece);
            assert_eq!(counted, expected, "{way:?} in pieces of {piece}");
        }
    }
}

/// Messages of each kind, one of them with control frames within it.
fn one_of_each(role: Role) -> (Vec<u8>, Traffic) {
    let frames = [
        frame(0x81, "text"),
        frame(0x82, [7; 20_000]),
        frame(0x89, "ping"),
        frame(0x01, "te"),
        frame(0x8A, "pong"),
        frame(0x80, "xt"),
    ];
    let mut traffic = Traffic::default();
    (traffic.text.messages, traffic.text.bytes) = (2, 8);
    (traffic.binary.messages, traffic.binary.bytes) = (1, 20_000);
    (traffic.pings, traffic.pongs) = (1, 1);
    (frames.map(|frame| frame.to(role)).concat(), traffic)
}

#[test]
fn whatever_way_it_is_received_it_counts_the_same() {
    for role in BOTH {
        let (bytes, traffic) = one_of_each(role);
        assert_counted(role, None, &bytes, traffic);
    }
}

/// Sends a message in parts, and one that waits for it.
fn send_in_parts(pair: &mut Pair, kind: MessageKind) {
    let end = &mut pair.ends[SERVER_END];
    end.begin_message(kind).unwrap();
    end.send_part(&[b'a'; 1000]).unwrap();
    end.send("held", &mut pair.codecs).unwrap();
    end.send_part(&[b'b'; 234]).unwrap();
    end.flush_parts().unwrap();
    end.finish_message(&mut pair.codecs).unwrap();
}

#[test]
fn messages_in_parts() {
    let mut pair = Pair::new();
    send_in_parts(&mut pair, MessageKind::Text);
    send_in_parts(&mut pair, MessageKind::Binary);
    let mut bytes = pair.take(SERVER_END);
    let (mut input, mut room) = (&mut bytes[..], [0; 100]);
    let mut ends = 0;
    while let Some(part) = pair.ends[CLIENT_END]
        .receive_part(&mut input, &mut room, NOW)
        .unwrap()
    {
        ends += u64::from(part == Part::End);
        let received = pair.ends[CLIENT_END].counters().received;
        assert_eq!(received.messages().messages, ends);
    }
    let sent = pair.sent(SERVER_END);
    assert_eq!(counts(sent), [(3, 1234 + 4 + 4), (1, 1234)]);
    assert_eq!((sent.compressed, sent.compression_ratio()), (0, None));
}

#[test]
fn what_is_skipped_of_a_message_has_come_and_was_not_given() {
    let mut pair = Pair::new();
    send_in_parts(&mut pair, MessageKind::Text);
    let mut bytes = pair.take(SERVER_END);
    let mut input = &mut bytes[..];
    let client = &mut pair.ends[CLIENT_END];
    let begin = client.receive_part(&mut input, &mut [0; 100], NOW);
    assert_eq!(begin, Ok(Some(Part::Begin(MessageKind::Text))));
    let data = client.receive_part(&mut input, &mut [0; 100], NOW);
    assert_eq!(data, Ok(Some(Part::Data(100))));
    client.skip_message();
    let next = client.receive(&mut input, NOW, &mut pair.codecs);
    assert!(matches!(next, Ok(Some(_))));
    let received = client.counters().received;
    assert_eq!(counts(received), [(2, 100 + 4), (0, 0)]);
}

#[cfg(feature = "deflate")]
mod compressed {
    use super::*;

    const AGREED: Direction = Direction {
        keeps_context: false,
        window: WindowBits::MAX,
    };

    /// "Hello", as RFC 7692 §7.2.3.1 compresses it.
    const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

    /// How many bytes of all that has travelled were no headers, where each frame had a short one.
    fn payload(pair: &Pair, from: usize, frames: usize) -> u64 {
        let header = if from == CLIENT_END { 6 } else { 2 };
        (pair.carried[from] - header * frames) as u64
    }

    #[test]
    fn messages_by_what_they_were_and_became() {
        for from in [CLIENT_END, SERVER_END] {
            let mut pair = Pair::deflating();
            pair.send(from, "ha".repeat(500));
            pair.send(from, vec![7u8; 3000]);
            pair.carry(from, 10);
            let sent = pair.sent(from);
            assert_eq!(counts(sent), [(1, 1000), (1, 3000)]);
            assert_eq!(sent.compressed, payload(&pair, from, 2));
            assert_eq!(sent.uncompressed, 4000);
            let ratio = sent.compression_ratio().unwrap();
            assert!(ratio > 50.0, "{ratio}");
        }
    }

    #[test]
    fn whatever_way_it_is_received_it_counts_the_same() {
        for role in BOTH {
            let (mut bytes, mut traffic) = one_of_each(role);
            bytes.extend(frame(0xC1, HELLO).to(role));
            bytes.extend(frame(0x41, &HELLO[..3]).to(role));
            bytes.extend(frame(0x80, &HELLO[3..]).to(role));
            traffic.text.messages += 2;
            traffic.text.bytes += 2 * 5;
            (traffic.compressed, traffic.uncompressed) = (2 * 7, 2 * 5);
            assert_counted(role, Some(AGREED), &bytes, traffic);
        }
    }

    #[test]
    fn what_was_gathered_before_a_message_is_asked_for_in_parts_counts_too() {
        let mut bytes = frame(0xC1, HELLO).bytes();
        let (mut first, rest) = bytes.split_at_mut(5);
        let mut receiver = Receiver::new(CLIENT, Limits::default(), Some(AGREED));
        let none = receiver.receive_owned(&mut first, &mut Inflater::new());
        assert_eq!(none, Ok(None));
        let counted = received(Way::Parts, receiver, rest.to_vec(), 100);
        assert_eq!((counted.compressed, counted.uncompressed), (7, 5));
    }

    #[test]
    fn what_does_not_shrink_is_not_compressed() {
        let mut pair = Pair::deflating();
        pair.send(SERVER_END, vec![1, 2, 3]);
        pair.carry(SERVER_END, 10);
        let sent = pair.sent(SERVER_END);
        assert_eq!(counts(sent)[1], (1, 3));
        assert_eq!((sent.compressed, sent.uncompressed), (0, 0));
    }

    #[test]
    fn prepared_messages_of_any_length() {
        for (len, header) in [(150usize, 2), (2_000, 4), (60_000, 4), (2_000_000, 10)] {
            // Noise of four digits, which shrinks to about less than half.
            let mut seed = 1u32;
            let mut digit = || {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                char::from_digit(seed >> 30, 16).unwrap()
            };
            let text: String = (0..len).map(|_| digit()).collect();
            let prepared = Prepared::new(text);
            let mut pair = Pair::deflating();
            for _ in 0..3 {
                let sent = pair.ends[SERVER_END].send(&prepared, &mut pair.codecs);
                sent.unwrap();
            }
            pair.carry(SERVER_END, usize::MAX);
            let sent = pair.sent(SERVER_END);
            assert_eq!(counts(sent)[0], (3, 3 * len as u64));
            assert_eq!(sent.uncompressed, 3 * len as u64);
            assert_eq!(
                sent.compressed,
                (pair.carried[SERVER_END] - 3 * header) as u64
            );
        }
    }

    #[test]
    fn messages_in_parts() {
        let mut pair = Pair::deflating();
        send_in_parts(&mut pair, MessageKind::Text);
        let mut bytes = pair.take(SERVER_END);
        let (mut input, mut room) = (&mut bytes[..], [0; 100]);
        let client = &mut pair.ends[CLIENT_END];
        while let Ok(Some(_)) = client.receive_part(&mut input, &mut room, NOW) {}
        let sent = pair.sent(SERVER_END);
        assert_eq!(counts(sent)[0], (2, 1234 + 4));
        assert_eq!(sent.uncompressed, 1234);
        assert!(sent.compressed > 0 && sent.compressed < 100, "{sent:?}");
    }
}
