//! The ways of receiving may be mixed at any byte: whole and in parts, lent and owned, into the message's own buffer
//! and in turns. Nothing comes twice, and nothing is missed but what was given up.

use std::ops::ControlFlow;

use sockeye_proto::{
    Limits, Message, MessageKind, OwnedEvent, Part, ProtocolError, Receiver, Role,
    deflate::{DeflateConfig, Deflater, DeflaterSettings, Direction, Inflater, Level, WindowBits},
};

use crate::{random::Random, wire::*};

impl Random {
    /// The lengths at which something changes, and others.
    fn len(&mut self) -> usize {
        const LENGTHS: [usize; 22] = [
            0, 0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 22, 23, 24, 25, 63, 64, 125, 126, 127, 300, 9000,
        ];
        match self.below(60) {
            0 => [65_535, 65_536, 70_000][self.below(3)],
            1..4 => self.below(3000),
            at => LENGTHS[at % LENGTHS.len()],
        }
    }

    fn text(&mut self, len: usize) -> String {
        let mut text = String::new();
        let mixed = self.below(2) == 0;
        while text.len() < len {
            let at = if mixed { self.below(8) } else { 0 };
            text.push(['a', 'b', 'c', 'd', 'é', '߿', '€', '𐍈'][at]);
        }
        text
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        match self.below(2) {
            0 => vec![self.next() as u8; len],
            _ => (0..len).map(|_| self.next() as u8).collect(),
        }
    }
}

/// What a peer sends, and what is to come of it.
struct Sent {
    bytes: Vec<u8>,
    events: Vec<OwnedEvent>,
}

fn sent(random: &mut Random, role: Role, deflate: Option<Direction>) -> Sent {
    let mut sent = Sent {
        bytes: Vec::new(),
        events: Vec::new(),
    };
    let mut deflater = deflate.map(|direction| {
        Deflater::new(DeflaterSettings {
            level: Level::FASTEST,
            ..DeflateConfig::default().deflater(direction.window)
        })
    });
    for _ in 0..random.below(12) {
        let len = random.len();
        let (opcode, message) = match random.below(2) {
            0 => (1, Message::from(random.text(len))),
            _ => (2, Message::from(random.bytes(len))),
        };
        let mut payload = message.as_bytes().to_vec();
        let mut first = opcode;
        if let (Some(deflater), Some(direction)) = (&mut deflater, deflate)
            && random.below(3) > 0
        {
            if !direction.keeps_context {
                deflater.reset();
            }
            payload.clear();
            if !(message.is_empty() && random.below(2) == 0) {
                // Blocks in which there is nothing, too.
                for _ in 0..random.below(3) {
                    payload.extend([0x00, 0x00, 0x00, 0xFF, 0xFF]);
                }
                deflater.compress(message.as_bytes(), &mut payload);
            }
            first |= 0x40;
        }
        let mut rest = &payload[..];
        while random.below(3) == 0 {
            let (part, after) = rest.split_at(random.below(rest.len() + 1));
            rest = after;
            sent.bytes.extend(frame(first, part).to(role));
            first = 0;
            if random.below(3) == 0 {
                control(random, role, &mut sent);
            }
        }
        sent.bytes.extend(frame(0x80 | first, rest).to(role));
        sent.events.push(OwnedEvent::Message(message));
        if random.below(4) == 0 {
            control(random, role, &mut sent);
        }
    }
    if random.below(2) == 0 {
        let close = frame(0x88, b"\x03\xE8bye").to(role);
        sent.bytes.extend(close);
        sent.bytes.extend(frame(0x81, "late").to(role));
        let close = sockeye_proto::CloseFrame::parse(b"\x03\xE8bye").unwrap();
        sent.events.push(OwnedEvent::Close(close));
    }
    sent
}

fn control(random: &mut Random, role: Role, sent: &mut Sent) {
    let len = random.len().min(125);
    let payload = random.bytes(len);
    if random.below(2) == 0 {
        sent.bytes.extend(frame(0x89, &payload).to(role));
        sent.events.push(OwnedEvent::Ping(payload.into()));
    } else {
        sent.bytes.extend(frame(0x8A, &payload).to(role));
        sent.events.push(OwnedEvent::Pong(payload.into()));
    }
}

/// A receiver, and what has come of it.
struct Ends {
    receiver: Receiver,
    inflater: Inflater,
    /// The message that comes in parts.
    parts: Option<(MessageKind, Vec<u8>)>,
    /// What came; and of a message that was given up in the middle, what had come of it.
    seen: Vec<Result<OwnedEvent, (MessageKind, Vec<u8>)>>,
    error: Option<ProtocolError>,
}

impl Ends {
    fn note(&mut self, event: Result<Option<OwnedEvent>, ProtocolError>) -> bool {
        match event {
            Ok(Some(event)) => self.seen.push(Ok(event)),
            Ok(None) => return false,
            Err(error) => assert_eq!(self.error.replace(error), None),
        }
        true
    }

    /// Whole messages are asked for: the rest of one in parts is given up. They would do so themselves, but not where
    /// a control frame comes first.
    fn give_up_parts(&mut self) {
        if let Some(parts) = self.parts.take() {
            self.receiver.skip_message();
            self.seen.push(Err(parts));
        }
    }

    /// One step in one of the ways. Tells whether something may have come without more input.
    fn step(&mut self, way: usize, room: usize, input: &mut &mut [u8]) -> bool {
        match way {
            0 => {
                self.give_up_parts();
                let event = self.receiver.receive(input, &mut self.inflater);
                let event = event.map(|event| event.map(|event| event.into_owned()));
                self.note(event)
            }
            1 => {
                self.give_up_parts();
                let event = self.receiver.receive_owned(input, &mut self.inflater);
                self.note(event)
            }
            2 if self.parts.is_none() => {
                let message = self.receiver.receive_whole(input);
                let message = message.map(|it| it.map(|it| OwnedEvent::Message(it.to_owned())));
                message.is_some_and(|message| self.note(message.map(Some)))
            }
            3 if self.parts.is_none() => {
                let message = self.receiver.receive_whole_owned(input);
                let message = message.map(|it| it.map(OwnedEvent::Message));
                message.is_some_and(|message| self.note(message.map(Some)))
            }
            4 if self.parts.is_none() => {
                let (mut messages, mut left) = (Vec::new(), room);
                let flow = self.receiver.receive_each_whole(input, |message| {
                    messages.push(Ok(OwnedEvent::Message(message.to_owned())));
                    left = left.saturating_sub(1);
                    if left == 0 {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                });
                self.seen.append(&mut messages);
                flow.is_ok_and(|flow| flow.is_break())
            }
            5 => {
                if let Some(room) = self.receiver.room_wanted()
                    && room < 100_000
                {
                    self.receiver.adopt(Vec::with_capacity(room));
                }
                let Some((buffer, limit)) = self.receiver.payload_buffer(room) else {
                    return false;
                };
                let take = limit.min(input.len());
                let (bytes, rest) = std::mem::take(input).split_at_mut(take);
                buffer.extend_from_slice(bytes);
                *input = rest;
                if let Err(error) = self.receiver.received(take) {
                    assert_eq!(self.error.replace(error), None);
                }
                true
            }
            6 => {
                self.give_up_parts();
                match self.receiver.discard_part(input) {
                    Ok(all) => !all,
                    Err(error) => {
                        assert_eq!(self.error.replace(error), None);
                        true
                    }
                }
            }
            _ => self.part(room, input),
        }
    }

    fn part(&mut self, room: usize, input: &mut &mut [u8]) -> bool {
        let mut room = vec![0; room];
        match self.receiver.receive_part(input, &mut room) {
            Ok(Some(Part::Begin(kind))) => {
                assert_eq!(self.parts, None);
                self.parts = Some((kind, Vec::new()));
            }
            Ok(Some(Part::Data(count))) => {
                if let Some((_, parts)) = &mut self.parts {
                    parts.extend_from_slice(&room[..count]);
                } else {
                    assert_eq!(count, 0);
                }
            }
            Ok(Some(Part::End)) => {
                if let Some((kind, parts)) = self.parts.take() {
                    let message = match kind {
                        MessageKind::Text => Message::from(String::from_utf8(parts).unwrap()),
                        MessageKind::Binary => Message::from(parts),
                    };
                    self.seen.push(Ok(OwnedEvent::Message(message)));
                }
            }
            Ok(Some(Part::Event(event))) => self.seen.push(Ok(event)),
            Ok(None) => return false,
            Err(error) => assert_eq!(self.error.replace(error), None),
        }
        true
    }
}

/// Whether it is what was to come: of a message that was given up, what came of it is how it begins.
fn matches(seen: &Result<OwnedEvent, (MessageKind, Vec<u8>)>, sent: &OwnedEvent) -> bool {
    match (seen, sent) {
        (Ok(seen), sent) => seen == sent,
        (Err((kind, begin)), OwnedEvent::Message(message)) => {
            message.is_text() == (*kind == MessageKind::Text)
                && message.as_bytes().starts_with(begin)
        }
        _ => false,
    }
}

#[test]
fn nothing_comes_twice_and_nothing_is_missed() {
    for seed in 1..=1000 {
        let random = &mut Random::new(seed);
        let role = BOTH[random.below(2)];
        let deflate = (random.below(3) > 0).then(|| Direction {
            keeps_context: random.below(2) == 0,
            window: WindowBits::new(8 + random.below(8) as u8).unwrap(),
        });
        let mut sent = sent(random, role, deflate);
        let receiver = Receiver::new(role, Limits::default(), deflate);
        let mut ends = Ends {
            receiver: if random.below(2) == 0 {
                receiver.in_turns()
            } else {
                receiver
            },
            inflater: Inflater::new(),
            parts: None,
            seen: Vec::new(),
            error: None,
        };
        let ways = [8, 8, 2, 5][random.below(4)];
        let most = [3, 40, 5000, usize::MAX][random.below(4)];
        let mut rest = &mut sent.bytes[..];
        while !rest.is_empty() {
            let cut = rest.len().min(1 + random.below(most.min(rest.len())));
            let (piece, after) = rest.split_at_mut(cut);
            rest = after;
            let mut input = piece;
            loop {
                let way = random.below(ways);
                let bound = [2, 30, 3000][random.below(3)];
                let room = 1 + random.below(bound);
                let more = ends.step(way, room, &mut input);
                if !more && input.is_empty() && matches!(way, 0 | 1 | 7) {
                    break;
                }
            }
        }
        ends.give_up_parts();
        // Controls within a message that was given up, or is in parts, come before what had come of it is noted; the
        // messages are in their order, and so are the others.
        let is_message = |event: &OwnedEvent| matches!(event, OwnedEvent::Message(_));
        for messages in [true, false] {
            let seen = ends
                .seen
                .iter()
                .filter(|it| it.as_ref().map_or(true, is_message) == messages);
            let expected = sent.events.iter().filter(|it| is_message(it) == messages);
            let (seen, expected): (Vec<_>, Vec<_>) = (seen.collect(), expected.collect());
            assert_eq!(ends.error, None, "{seed}");
            assert_eq!(seen.len(), expected.len(), "{seed}");
            for (at, (seen, expected)) in seen.into_iter().zip(expected).enumerate() {
                assert!(
                    matches(seen, expected),
                    "{seed}, {at}:\n{seen:?}\n{expected:?}"
                );
            }
        }
    }
}
