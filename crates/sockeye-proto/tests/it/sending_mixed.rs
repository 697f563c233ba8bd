//! The ways of sending may be mixed, however the output is written meanwhile: the peer gets each message once, whole
//! and in its order.

use sockeye_proto::{
    CloseCode, Config, Event, Message, MessageKind, OutputBuffer, OwnedEvent, Prepared, Role,
    Sender,
    deflate::{DeflateConfig, DeflateParams, Deflaters, Level, WindowBits},
};

use crate::{random::Random, wire::*};

impl Random {
    fn len_to_send(&mut self) -> usize {
        const LENGTHS: [usize; 20] = [
            0, 1, 3, 4, 7, 8, 16, 17, 23, 24, 32, 33, 125, 126, 255, 256, 257, 1000, 4096, 5000,
        ];
        match self.below(40) {
            0 => [16_383, 16_384, 16_385, 65_535, 65_536, 70_000][self.below(6)],
            at => LENGTHS[at % LENGTHS.len()],
        }
    }

    fn ascii(&mut self, len: usize) -> Vec<u8> {
        match self.below(3) {
            0 => vec![b'a' + self.below(26) as u8; len],
            1 => (0..len).map(|_| b'a' + self.below(3) as u8).collect(),
            _ => (0..len).map(|_| self.below(128) as u8).collect(),
        }
    }

    fn message(&mut self) -> Message {
        let len = self.len_to_send();
        let bytes = self.ascii(len);
        match self.below(2) {
            0 => Message::from(String::from_utf8(bytes).unwrap()),
            _ => Message::from(bytes),
        }
    }
}

/// A sender, what has been written, and what the peer is to make of it.
struct Ends {
    sender: Sender,
    deflaters: Deflaters,
    written: Vec<u8>,
    /// A buffer of the thread's, while the sender has none.
    buffer: Option<Box<OutputBuffer>>,
    expected: Vec<OwnedEvent>,
    /// The message in parts, and those that wait for it.
    parts: Option<(MessageKind, Vec<u8>, Vec<Message>)>,
    /// Answers to pings that newer ones may have displaced.
    pongs: Vec<Vec<u8>>,
    /// Whether one of them may wait.
    holds: bool,
}

impl Ends {
    fn sent(&mut self, message: Message) {
        match &mut self.parts {
            Some((_, _, held)) => held.push(message),
            None => self.expected.push(OwnedEvent::Message(message)),
        }
    }

    fn send(&mut self, random: &mut Random) {
        let message = random.message();
        let sender = &mut self.sender;
        match random.below(6) {
            0 => sender.send(message.as_ref(), &mut self.deflaters).unwrap(),
            1 => sender.send(message.clone(), &mut self.deflaters).unwrap(),
            2 => {
                let prepared = Prepared::new(message.clone());
                sender.send(&prepared, &mut self.deflaters).unwrap();
            }
            3 => sender.send_plain(message.clone()).unwrap(),
            4 => {
                if !sender.send_quick(message.as_ref()) {
                    return;
                }
            }
            _ => {
                // Shared with someone else, so that it cannot be masked where it is.
                let kept = message.clone();
                sender.send(message.clone(), &mut self.deflaters).unwrap();
                assert_eq!(kept, message);
            }
        }
        self.sent(message);
    }

    fn part(&mut self, random: &mut Random) {
        match &mut self.parts {
            None => {
                let kind = [MessageKind::Text, MessageKind::Binary][random.below(2)];
                self.sender.begin_message(kind).unwrap();
                self.parts = Some((kind, Vec::new(), Vec::new()));
            }
            Some((_, bytes, _)) if random.below(3) > 0 => {
                let len = random.len_to_send();
                let part = random.ascii(len);
                self.sender.send_part(&part).unwrap();
                bytes.extend(part);
            }
            Some(_) if random.below(2) == 0 => self.sender.flush_parts().unwrap(),
            Some(_) => self.finish(),
        }
    }

    fn finish(&mut self) {
        if let Some((kind, bytes, held)) = self.parts.take() {
            self.sender.finish_message(&mut self.deflaters).unwrap();
            self.expected.push(OwnedEvent::Message(match kind {
                MessageKind::Text => String::from_utf8(bytes).unwrap().into(),
                MessageKind::Binary => bytes.into(),
            }));
            let held = held.into_iter().map(OwnedEvent::Message);
            self.expected.extend(held);
        }
    }

    fn control(&mut self, random: &mut Random) {
        let len = random.len_to_send().min(125);
        let payload = random.ascii(len);
        self.holds &= self.sender.buffered() > 0;
        match random.below(3) {
            0 => {
                self.sender.ping(&payload).unwrap();
                self.expected.push(OwnedEvent::Ping(payload.into()));
            }
            // An answer. Whether it is displaced by a newer one is not for here.
            1 if self.sender.buffered() < 16 * 1024 && !self.holds => {
                self.sender.respond(&Event::Ping(&payload), NOW);
                self.expected.push(OwnedEvent::Pong(payload.into()));
            }
            1 => {
                self.sender.respond(&Event::Ping(&payload), NOW);
                self.pongs.push(payload);
                self.holds = true;
            }
            _ => {
                self.sender.pong(&payload).unwrap();
                self.expected.push(OwnedEvent::Pong(payload.into()));
            }
        }
    }

    /// Does what a driver does with the output.
    fn write(&mut self, random: &mut Random) {
        let way = random.below(6);
        let output = self.sender.output();
        match way {
            0 => {
                if !output.has_buffer()
                    && let Some(buffer) = self.buffer.take()
                {
                    output.lend_buffer(buffer);
                }
            }
            1 => {
                if let Some(buffer) = output.take_buffer() {
                    assert!(output.is_empty());
                    self.buffer = Some(buffer);
                }
            }
            2 => {
                if let Some(buffer) = output.trade_buffer() {
                    self.buffer = Some(buffer);
                }
            }
            3 => {
                let count = random.below(output.len() + 1);
                let all: Vec<u8> = output.chunks().flatten().copied().collect();
                assert_eq!(all.len(), output.len());
                assert_eq!(output.next_chunk().is_none(), all.is_empty());
                self.written.extend_from_slice(&all[..count]);
                output.advance(count);
            }
            _ => self.drain(),
        }
    }

    fn drain(&mut self) {
        while let Some(chunk) = self.sender.output().next_chunk() {
            self.written.extend_from_slice(chunk);
            let count = chunk.len();
            self.sender.output().advance(count);
        }
        assert_eq!(self.sender.buffered(), 0);
    }
}

#[test]
fn the_peer_gets_each_message_once_and_in_order() {
    for seed in 1..=600 {
        let random = &mut Random::new(seed);
        let role = BOTH[random.below(2)];
        let other = match role {
            Role::Server => CLIENT,
            Role::Client { .. } => Role::Server,
        };
        let mut config = Config::new(role);
        if random.below(3) > 0 {
            let mut bits = || WindowBits::new(8 + random.below(8) as u8).unwrap();
            let (server_max_window_bits, client_max_window_bits) = (bits(), bits());
            let params = DeflateParams {
                server_no_context_takeover: random.below(2) == 0,
                client_no_context_takeover: random.below(2) == 0,
                server_max_window_bits,
                client_max_window_bits,
            };
            let deflate = DeflateConfig {
                level: Level::new([1, 1, 6][random.below(3)]).unwrap(),
                threshold: [0, 1, 24, 256, 20_000][random.below(5)],
                ..DeflateConfig::default()
            };
            config.deflate = Some((params, deflate));
        }
        let mut ends = Ends {
            sender: config.halves().1,
            deflaters: Deflaters::new(),
            written: Vec::new(),
            buffer: Some(OutputBuffer::with_room(
                [100, 5000, 128 * 1024][random.below(3)],
            )),
            expected: Vec::new(),
            parts: None,
            pongs: Vec::new(),
            holds: false,
        };
        for _ in 0..random.below(60) {
            match random.below(10) {
                0..4 => ends.send(random),
                4..6 => ends.part(random),
                6 => ends.control(random),
                _ => ends.write(random),
            }
        }
        ends.finish();
        ends.sender.close(CloseCode::NORMAL, "", NOW).unwrap();
        assert!(!ends.sender.send_quick(Message::from("late").as_ref()));
        assert!(ends.sender.send("late", &mut ends.deflaters).is_err());
        ends.drain();
        let mut peer = End::with(&Config {
            role: other,
            ..config
        });
        peer.read(&ends.written);
        assert_eq!(peer.error, None, "{seed}");
        let close = peer.events.pop();
        assert!(
            matches!(close, Some(OwnedEvent::Close(Some(_)))),
            "{seed}: {close:?}"
        );
        // Of the answers that had to wait, the newest before more could go out.
        let (mut seen, mut pongs) = (peer.events.into_iter(), ends.pongs.iter());
        for (at, expected) in ends.expected.iter().enumerate() {
            let found = seen.find(|event| {
                event == expected
                    || !matches!(event, OwnedEvent::Pong(payload)
                        if pongs.any(|pong| **pong == **payload))
            });
            assert!(
                found.as_ref() == Some(expected),
                "{seed}, {at}: {found:?}\n{expected:?}"
            );
        }
        assert!(
            seen.all(|event| matches!(event, OwnedEvent::Pong(_))),
            "{seed}"
        );
    }
}
