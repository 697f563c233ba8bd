//! Messages received and sent in parts: nothing of them is kept, and nothing else comes between.

use sockeye_proto::{
    CloseCode, Codecs, Config, Connection, Limits, Message, MessageKind, OutputBuffer, OwnedEvent,
    Part, ProtocolError, Receiver, Role, SendError,
    deflate::{Deflaters, Inflater},
};

use crate::wire::*;

fn other(role: Role) -> Role {
    match role {
        Role::Server => CLIENT,
        Role::Client { .. } => Role::Server,
    }
}

/// An end that receives in parts, and what it has seen: messages as their parts make them.
struct Reader {
    end: End,
    room: usize,
    parts: Vec<Part>,
    message: Option<(MessageKind, Vec<u8>)>,
}

impl Reader {
    fn new(role: Role, room: usize) -> Self {
        Self::of(End::new(role), room)
    }

    fn of(end: End, room: usize) -> Self {
        Self {
            end,
            room,
            parts: Vec::new(),
            message: None,
        }
    }

    /// Gives the end some bytes, and takes all parts off them.
    fn read(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let mut bytes = bytes.as_ref().to_vec();
        let mut input = &mut bytes[..];
        while self.step(&mut input) {}
        assert!(input.is_empty());
        self.end.write();
        self
    }

    fn step(&mut self, input: &mut &mut [u8]) -> bool {
        let mut room = vec![0; self.room];
        let part = match self.end.connection.receive_part(input, &mut room, NOW) {
            Ok(Some(part)) => part,
            Ok(None) => return false,
            Err(error) => {
                self.end.error = Some(error);
                return true;
            }
        };
        match &part {
            Part::Begin(kind) => self.message = Some((*kind, Vec::new())),
            Part::Data(count) => {
                assert!(*count > 0);
                self.message.as_mut().unwrap().1.extend(&room[..*count]);
            }
            Part::End => {
                let message = match self.message.take().unwrap() {
                    (MessageKind::Text, bytes) => String::from_utf8(bytes).unwrap().into(),
                    (MessageKind::Binary, bytes) => Message::from(bytes),
                };
                self.end.events.push(OwnedEvent::Message(message));
            }
            Part::Event(event) => self.end.events.push(event.clone()),
        }
        self.parts.push(part);
        true
    }

    /// What has come of the message in progress.
    fn so_far(&self) -> &[u8] {
        &self.message.as_ref().unwrap().1
    }
}

mod section_5_4_fragmentation {
    use super::*;

    #[test]
    fn bytes_are_given_as_they_arrive() {
        for role in BOTH {
            let mut reader = Reader::new(role, 100);
            let bytes = frame(0x02, [7; 1000]).to(role);
            let head = bytes.len() - 1000;
            reader.read(&bytes[..head]);
            assert_eq!(reader.parts, [Part::Begin(MessageKind::Binary)]);
            for (sent, byte) in bytes[head..].iter().enumerate() {
                reader.read([*byte]);
                assert_eq!(reader.so_far(), vec![7; sent + 1]);
                assert_eq!(reader.parts.last(), Some(&Part::Data(1)));
            }
        }
    }

    #[test]
    fn fragments_and_what_comes_between_them() {
        for role in BOTH {
            let mut reader = Reader::new(role, 3);
            reader
                .read(frame(0x01, "Hel").to(role))
                .read(frame(0x89, "still there?").to(role))
                .read(frame(0x00, "").to(role))
                .read(frame(0x00, "lo, wor").to(role))
                .read(frame(0x8A, "").to(role))
                .read(frame(0x80, "ld").to(role));
            let ping = OwnedEvent::Ping("still there?".into());
            assert_eq!(
                reader.end.events,
                [ping, OwnedEvent::Pong("".into()), text("Hello, world")]
            );
            let mut peer = End::new(other(role));
            peer.read(&reader.end.written);
            assert_eq!(peer.events, [OwnedEvent::Pong("still there?".into())]);
        }
    }

    #[test]
    fn a_message_may_not_begin_within_another() {
        let mut reader = Reader::new(CLIENT, 10);
        reader.read(frame(0x02, "a").to(CLIENT));
        reader.read(frame(0x82, "b").to(CLIENT));
        assert_eq!(reader.end.error, Some(ProtocolError::ContinuationExpected));
        let mut reader = Reader::new(CLIENT, 10);
        reader.read(frame(0x80, "b").to(CLIENT));
        assert_eq!(
            reader.end.error,
            Some(ProtocolError::ContinuationUnexpected)
        );
        assert_eq!(reader.end.close_code(), Some(CloseCode::PROTOCOL_ERROR));
    }

    #[test]
    fn a_close_within_a_message_ends_it_unfinished() {
        let mut reader = Reader::new(CLIENT, 10);
        reader
            .read(frame(0x02, "a").to(CLIENT))
            .read(frame(0x88, [0x03, 0xE9]).to(CLIENT))
            .read(frame(0x80, "b").to(CLIENT));
        assert_eq!(reader.parts.len(), 3);
        assert!(matches!(
            reader.parts[2],
            Part::Event(OwnedEvent::Close(Some(_)))
        ));
        assert_eq!(reader.so_far(), b"a");
    }

    #[test]
    fn what_was_gathered_before_comes_first() {
        for first in [1, 5, 300] {
            let mut end = End::new(CLIENT);
            end.read(&frame(0x01, [b'a'; 300]).bytes()[..first + 3]);
            let mut reader = Reader::of(end, 7);
            reader.read(&frame(0x01, [b'a'; 300]).bytes()[first + 3..]);
            reader.read(frame(0x80, "z").bytes());
            let whole = "a".repeat(300) + "z";
            assert_eq!(reader.end.events, [text(&whole)]);
        }
    }

    #[test]
    fn the_rest_of_a_message_that_nobody_wants_is_not_mixed_up() {
        for role in BOTH {
            let mut reader = Reader::new(role, 4);
            reader.read(frame(0x02, [1; 10]).to(role));
            reader.end.read(frame(0x00, [2; 500]).to(role));
            reader.end.read(frame(0x89, "ping").to(role));
            reader.end.read_bytewise(frame(0x80, [3; 300]).to(role));
            reader.end.read(frame(0x82, "next").to(role));
            let ping = OwnedEvent::Ping("ping".into());
            assert_eq!(reader.end.events, [ping, binary(b"next")]);

            reader.read(frame(0x02, [1; 10]).to(role));
            reader.end.connection.skip_message();
            reader
                .read(frame(0x00, [2; 500]).to(role))
                .read(frame(0x89, "ping").to(role))
                .read(frame(0x80, [3; 300]).to(role))
                .read(frame(0x82, "next").to(role));
            assert_eq!(reader.end.events[2..], reader.end.events[..2].to_vec());
        }
    }

    /// Wherever in it that is.
    #[test]
    fn a_message_that_is_skipped_has_no_end() {
        for role in BOTH {
            for taken in [1, 2] {
                let mut bytes = frame(0x82, "skipped").to(role);
                bytes.extend(frame(0x82, "next").to(role));
                let (mut reader, mut input) = (Reader::new(role, 10), &mut bytes[..]);
                for _ in 0..taken {
                    reader.step(&mut input);
                }
                reader.end.connection.skip_message();
                while reader.step(&mut input) {}
                let next = [Part::Begin(MessageKind::Binary), Part::Data(4), Part::End];
                assert_eq!(reader.parts[taken..], next);
            }
        }
    }

    /// More of it than is discarded in a turn: that is for whoever asks for parts.
    #[test]
    fn what_was_begun_in_parts_is_discarded_whole_where_a_whole_message_is_asked_for() {
        for role in BOTH {
            for owned in [false, true] {
                let mut bytes = frame(0x02, vec![7; 3 << 20]).to(role);
                bytes.extend(frame(0x80, vec![7; 3 << 20]).to(role));
                bytes.extend(frame(0x82, "next").to(role));
                let mut receiver = Receiver::new(role, Limits::default(), None);
                let (mut input, mut inflater) = (&mut bytes[..], Inflater::new());
                let begun = receiver.receive_part(&mut input, &mut []);
                assert_eq!(begun, Ok(Some(Part::Begin(MessageKind::Binary))));
                let next = if owned {
                    receiver.receive_owned(&mut input, &mut inflater)
                } else {
                    let next = receiver.receive(&mut input, &mut inflater);
                    next.map(|next| next.map(|event| event.into_owned()))
                };
                assert_eq!(next, Ok(Some(binary(b"next"))));
            }
        }
    }

    #[test]
    fn a_control_frame_is_all_there_is_to_discard() {
        let mut ping = frame(0x89, "ping").bytes();
        let (first, mut rest) = ping.split_at_mut(3);
        let mut bytes = [&frame(0x02, "begun").bytes(), &*first].concat();
        let mut receiver = Receiver::new(CLIENT, Limits::default(), None);
        let mut input = &mut bytes[..];
        let mut part = || receiver.receive_part(&mut input, &mut [0; 10]).unwrap();
        while part().is_some() {}
        assert_eq!(receiver.discard_part(&mut rest), Ok(true));
        let event = receiver.receive_owned(&mut rest, &mut Inflater::new());
        assert_eq!(event, Ok(Some(OwnedEvent::Ping("ping".into()))));
    }
}

/// A message that is there whole when it begins comes by a way of its own; nothing else is to tell it from one of which only
/// the header was there.
mod there_whole {
    use super::*;

    /// What is done once, after so many parts.
    #[derive(Clone, Copy, Debug)]
    enum Way {
        Parts,
        Skip,
        Discard,
        Lent,
        Owned,
    }

    /// All that can be told of a message, and of one behind it.
    #[derive(Debug, PartialEq)]
    struct Told {
        log: Vec<String>,
        counters: sockeye_proto::Counters,
    }

    struct Case<'a> {
        role: Role,
        first: u8,
        payload: &'a [u8],
        room: usize,
        way: Way,
        after: usize,
        /// How many bytes behind the header come before the others.
        cut: usize,
    }

    fn told(case: &Case<'_>, whole: bool) -> Told {
        let mut message = frame(case.first, case.payload).to(case.role);
        let header = message.len() - case.payload.len();
        message.extend(frame(0x81, "next").to(case.role));
        let mut receiver = Receiver::new(case.role, Limits::default(), None);
        let (mut inflater, mut room) = (Inflater::new(), vec![0; case.room]);
        let mut rest = &mut message[..];
        if !whole {
            let (head, behind) = rest.split_at_mut(header);
            let (mut some, mut other) = head.split_at_mut(1);
            rest = behind;
            assert_eq!(receiver.receive_part(&mut some, &mut []), Ok(None));
            receiver.receive_part(&mut other, &mut []).unwrap().unwrap();
        } else {
            receiver.receive_part(&mut rest, &mut []).unwrap().unwrap();
        }
        let (mut log, mut steps) = (Vec::new(), 0);
        let (some, other) = rest.split_at_mut(case.cut);
        for mut input in [some, other] {
            loop {
                let states = (
                    receiver.is_idle(),
                    receiver.is_fresh(),
                    receiver.is_ended(),
                    receiver.is_gathering(),
                    receiver.room_wanted(),
                    receiver.payload_buffer(1).is_some(),
                );
                log.push(format!("{states:?}, {} left", input.len()));
                let way = match steps == case.after {
                    true => case.way,
                    false => Way::Parts,
                };
                steps += 1;
                let more = match way {
                    Way::Skip => {
                        receiver.skip_message();
                        true
                    }
                    Way::Discard => {
                        log.push(format!("{:?}", receiver.discard_part(&mut input)));
                        true
                    }
                    Way::Lent => {
                        let event = receiver.receive(&mut input, &mut inflater);
                        log.push(format!("{event:?}"));
                        matches!(event, Ok(Some(_)))
                    }
                    Way::Owned => {
                        let event = receiver.receive_owned(&mut input, &mut inflater);
                        log.push(format!("{event:?}"));
                        matches!(event, Ok(Some(_)))
                    }
                    Way::Parts => {
                        let part = receiver.receive_part(&mut input, &mut room);
                        log.push(format!("{part:?}"));
                        if let Ok(Some(Part::Data(count))) = part {
                            log.push(format!("{:?}", &room[..count]));
                        }
                        matches!(part, Ok(Some(_)))
                    }
                };
                if !more {
                    break;
                }
            }
            assert!(input.is_empty());
        }
        Told {
            log,
            counters: receiver.meter().counters(),
        }
    }

    #[test]
    fn is_received_as_one_that_arrives() {
        let smiles = "😀".repeat(80);
        let payloads: [&[u8]; 8] = [
            b"",
            b"a",
            b"Hello, world",
            smiles.as_bytes(),
            &smiles.as_bytes()[..319],
            &[b'a'; 300],
            b"fine \xFF, never seen",
            &[0xFF; 130],
        ];
        for role in BOTH {
            for (first, payload) in [0x81, 0x82]
                .into_iter()
                .flat_map(|first| payloads.map(|payload| (first, payload)))
            {
                let len = payload.len();
                for room in [1, 11, len.max(1), 1000] {
                    for way in [Way::Parts, Way::Skip, Way::Discard, Way::Lent, Way::Owned] {
                        for after in 0..3 {
                            for cut in [0, len / 2, len, len + 1] {
                                let case = Case {
                                    role,
                                    first,
                                    payload,
                                    room,
                                    way,
                                    after,
                                    cut,
                                };
                                assert_eq!(
                                    told(&case, true),
                                    told(&case, false),
                                    "{first:x} of {len}, room {room}, {way:?} after {after}, cut at {cut}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}

mod section_8_1_text {
    use super::*;

    #[test]
    fn a_character_may_be_cut_by_a_fragment_and_by_the_room() {
        let smile = "😀".as_bytes();
        let mut reader = Reader::new(CLIENT, 1);
        reader
            .read(frame(0x01, &smile[..3]).bytes())
            .read(frame(0x80, &smile[3..]).bytes());
        assert_eq!(reader.end.events, [text("😀")]);
    }

    #[test]
    fn fails_at_the_byte_that_breaks_it() {
        let mut reader = Reader::new(CLIENT, 100);
        let bytes = frame(0x01, b"fine \xF0\x9F\x98a, never seen").bytes();
        reader.read(&bytes[..10]);
        assert_eq!(reader.end.error, None);
        assert_eq!(reader.so_far(), b"fine \xF0\x9F\x98");
        reader.read(&bytes[10..11]);
        assert_eq!(reader.end.error, Some(ProtocolError::InvalidUtf8));
        assert_eq!(reader.end.close_code(), Some(CloseCode::INVALID_PAYLOAD));
    }

    #[test]
    fn may_not_end_within_a_character() {
        let mut reader = Reader::new(CLIENT, 100);
        reader.read(frame(0x81, b"\xF0\x9F\x98").bytes());
        assert_eq!(reader.end.error, Some(ProtocolError::InvalidUtf8));
        assert!(!reader.parts.contains(&Part::End));
    }
}

mod limits {
    use super::*;

    fn small() -> Limits {
        Limits::default().message(10).frame(10).retained(10)
    }

    #[test]
    fn what_is_not_kept_may_be_of_any_size() {
        let mut reader = Reader::of(End::limited(CLIENT, small()), 1000);
        reader.read(frame(0x82, [1; 100_000]).bytes());
        assert_eq!(reader.end.events, [binary(&[1; 100_000])]);
        // The limits hold again for what is.
        reader.end.read(frame(0x82, [1; 11]).bytes());
        let limit = 10;
        assert_eq!(
            reader.end.error,
            Some(ProtocolError::FrameTooLarge { limit })
        );
    }

    #[test]
    fn a_frame_of_the_largest_length_there_is_needs_no_memory() {
        let mut reader = Reader::new(CLIENT, 100);
        let mut head = vec![0x82, 127];
        head.extend((u64::MAX >> 1).to_be_bytes());
        reader.read(head).read([9; 1000]);
        assert_eq!(reader.so_far(), [9; 1000]);
    }

    #[test]
    fn frames_that_bring_nothing_are_counted_and_others_are_not() {
        let limits = Limits::default().fragments(3);
        let mut reader = Reader::of(End::limited(CLIENT, limits), 100);
        reader.read(frame(0x02, "").bytes());
        for _ in 0..100 {
            reader
                .read(frame(0x00, "").bytes())
                .read(frame(0x00, "a").bytes())
                .read(frame(0x00, "").bytes());
        }
        assert_eq!(reader.end.error, None);
        for _ in 0..3 {
            reader.read(frame(0x00, "").bytes());
        }
        let limit = 3;
        assert_eq!(
            reader.end.error,
            Some(ProtocolError::TooManyFragments { limit })
        );
    }

    /// It was refused for the three before it, which are allowed.
    #[test]
    fn a_frame_that_brings_something_ends_a_row_of_those_that_do_not() {
        let limits = Limits::default().fragments(3);
        let mut reader = Reader::of(End::limited(CLIENT, limits), 100);
        reader.read(frame(0x01, "a").bytes());
        for _ in 0..3 {
            reader.read(frame(0x00, "").bytes());
        }
        reader.read(frame(0x80, "b").bytes());
        assert_eq!(reader.end.error, None);
        assert_eq!(reader.end.events, [text("ab")]);
    }

    #[test]
    fn frames_that_bring_nothing_are_counted_while_they_are_discarded_too() {
        let limits = Limits::default().fragments(3);
        let mut reader = Reader::of(End::limited(CLIENT, limits), 100);
        reader.read(frame(0x02, "a").bytes());
        for _ in 0..4 {
            reader.end.read(frame(0x00, "").bytes());
        }
        assert!(reader.end.error.is_some());
    }
}

mod sending {
    use super::*;

    fn plain(role: Role) -> (Connection, Codecs) {
        (Connection::new(&Config::new(role)), Codecs::new())
    }

    fn written(connection: &mut Connection) -> Vec<u8> {
        let output = connection.output();
        let bytes = output.chunks().collect::<Vec<_>>().concat();
        output.advance(bytes.len());
        bytes
    }

    #[test]
    fn section_5_4_a_frame_a_part_and_fin_at_the_end() {
        let (mut server, mut codecs) = plain(Role::Server);
        server.begin_message(MessageKind::Text).unwrap();
        server.send_part("Пр".as_bytes()).unwrap();
        server.send_part(b"").unwrap();
        server.send_part(b"!").unwrap();
        server.finish_message(&mut codecs).unwrap();
        let expected = [
            frame(0x01, "Пр").bytes(),
            frame(0x00, "!").bytes(),
            frame(0x80, "").bytes(),
        ];
        assert_eq!(written(&mut server), expected.concat());
    }

    #[test]
    fn section_5_4_control_frames_go_between_and_messages_wait() {
        for role in BOTH {
            let (mut sender, mut codecs) = plain(role);
            sender.begin_message(MessageKind::Binary).unwrap();
            sender.send_part(b"a").unwrap();
            sender.send("waits", &mut codecs).unwrap();
            sender.ping(b"does not").unwrap();
            assert_eq!(
                sender.begin_message(MessageKind::Text),
                Err(SendError::Unfinished)
            );
            sender.send_part(b"b").unwrap();
            sender.finish_message(&mut codecs).unwrap();
            let mut peer = End::new(other(role));
            peer.read(written(&mut sender));
            let ping = OwnedEvent::Ping("does not".into());
            assert_eq!(peer.events, [ping, binary(b"ab"), text("waits")]);
        }
    }

    #[test]
    fn what_waits_for_a_message_in_parts_is_counted_and_a_close_lets_it_go() {
        let (_, mut sender) = Config::new(Role::Server).halves();
        let mut deflaters = Deflaters::new();
        assert!(!sender.is_sending_parts());
        for close in [false, true] {
            sender.begin_message(MessageKind::Text).unwrap();
            sender.send("a".repeat(100), &mut deflaters).unwrap();
            sender.send(&[1u8; 200][..], &mut deflaters).unwrap();
            assert!(sender.is_sending_parts());
            assert_eq!((sender.held(), sender.buffered()), (300, 0));
            // Nothing is so short that it takes nothing.
            sender.send("", &mut deflaters).unwrap();
            let empty = sender.held() - 300;
            assert!((size_of::<Message>()..100).contains(&empty), "{empty}");
            if close {
                sender.close(CloseCode::NORMAL, "", NOW).unwrap();
            } else {
                sender.finish_message(&mut deflaters).unwrap();
            }
            assert_eq!((sender.held(), sender.is_sending_parts()), (0, false));
            sender.output().clear();
        }
    }

    /// It could not be seen, nor bounded.
    #[test]
    fn a_connection_tells_what_waits_for_a_message_in_parts() {
        let (mut server, mut codecs) = plain(Role::Server);
        assert_eq!((server.held(), server.is_sending_parts()), (0, false));
        server.begin_message(MessageKind::Text).unwrap();
        server.send("a".repeat(100), &mut codecs).unwrap();
        assert_eq!((server.held(), server.is_sending_parts()), (100, true));
        assert!(server.output().is_empty());
        server.finish_message(&mut codecs).unwrap();
        assert_eq!((server.held(), server.is_sending_parts()), (0, false));
        assert!(server.output().len() > 100);
    }

    #[test]
    fn a_short_message_has_no_way_past_one_in_parts() {
        let (_, mut sender) = Config::new(Role::Server).halves();
        sender.output().lend_buffer(OutputBuffer::with_room(1000));
        let short = Message::from("short");
        assert!(sender.send_quick(short.as_ref()));
        sender.begin_message(MessageKind::Text).unwrap();
        assert!(!sender.send_quick(short.as_ref()));
        sender.send_part(b"part").unwrap();
        assert!(!sender.send_quick(short.as_ref()));
        sender.finish_message(&mut Deflaters::new()).unwrap();
        assert!(sender.send_quick(short.as_ref()));
    }

    #[test]
    fn a_message_given_up_does_not_look_complete() {
        let (mut sender, mut codecs) = plain(Role::Server);
        sender.begin_message(MessageKind::Binary).unwrap();
        sender.send_part(b"a").unwrap();
        sender.send("waits", &mut codecs).unwrap();
        sender.close(CloseCode::INTERNAL_ERROR, "", NOW).unwrap();
        let mut reader = Reader::new(CLIENT, 10);
        reader.read(written(&mut sender));
        assert!(!reader.parts.contains(&Part::End));
        let [OwnedEvent::Close(Some(frame))] = &reader.end.events[..] else {
            panic!("{:?}", reader.end.events);
        };
        assert_eq!(frame.code, CloseCode::INTERNAL_ERROR);
        assert_eq!(sender.finish_message(&mut codecs), Err(SendError::Closed));
    }

    #[test]
    fn section_8_1_only_text_is_sent_as_text() {
        let (mut sender, mut codecs) = plain(Role::Server);
        assert_eq!(sender.send_part(b"a"), Err(SendError::NotBegun));
        sender.begin_message(MessageKind::Text).unwrap();
        sender.send_part(b"\xD0").unwrap();
        assert_eq!(sender.send_part(b"a"), Err(SendError::InvalidUtf8));
        assert_eq!(
            sender.finish_message(&mut codecs),
            Err(SendError::InvalidUtf8)
        );
        // Nothing of what was refused has been taken.
        sender.send_part(b"\x9F").unwrap();
        sender.finish_message(&mut codecs).unwrap();
        let mut peer = End::new(CLIENT);
        peer.read(written(&mut sender));
        assert_eq!(peer.events, [text("П")]);
    }

    #[test]
    fn section_5_5_1_nothing_follows_a_close() {
        let (mut sender, mut codecs) = plain(Role::Server);
        sender.begin_message(MessageKind::Binary).unwrap();
        sender.close(CloseCode::NORMAL, "", NOW).unwrap();
        assert_eq!(sender.send_part(b"a"), Err(SendError::Closed));
        assert_eq!(sender.finish_message(&mut codecs), Err(SendError::Closed));
        assert_eq!(
            sender.begin_message(MessageKind::Text),
            Err(SendError::Closed)
        );
    }
}

#[cfg(feature = "deflate")]
mod rfc7692 {
    use proptest::prelude::*;
    use sockeye_proto::deflate::{DeflateConfig, DeflateParams, Deflater, WindowBits};

    use super::*;

    fn config(role: Role, keep_context: bool) -> Config {
        with_window(role, keep_context, WindowBits::MAX)
    }

    fn with_window(role: Role, keep_context: bool, bits: WindowBits) -> Config {
        let agreed = DeflateParams {
            server_no_context_takeover: !keep_context,
            client_no_context_takeover: !keep_context,
            server_max_window_bits: bits,
            client_max_window_bits: bits,
        };
        let config = DeflateConfig {
            threshold: 0,
            ..DeflateConfig::default()
        };
        Config {
            deflate: Some((agreed, config)),
            ..Config::new(role)
        }
    }

    fn reader(role: Role, keep_context: bool, room: usize) -> Reader {
        Reader::of(End::with(&config(role, keep_context)), room)
    }

    /// "Hello", as §7.2.3.1 compresses it.
    const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

    #[test]
    fn section_7_2_3_examples_with_room_for_one_byte() {
        for role in BOTH {
            let mut reader = reader(role, true, 1);
            reader
                .read(frame(0x41, &HELLO[..3]).to(role))
                .read(frame(0x89, "").to(role))
                .read(frame(0x80, &HELLO[3..]).to(role));
            // §7.2.3.2: the same with the context of the first.
            reader.read(frame(0xC1, [0xF2, 0x00, 0x11, 0x00, 0x00]).to(role));
            // §7.2.3.3 stored, §7.2.3.4 with BFINAL, §7.2.3.5 two blocks, and an empty message.
            for bytes in [
                &b"\x00\x05\x00\xfa\xffHello\x00"[..],
                b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
                b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
                b"\x00",
            ] {
                reader.read(frame(0xC1, bytes).to(role));
            }
            let texts = reader.end.events.iter().filter_map(|event| match event {
                OwnedEvent::Message(message) => message.as_text(),
                _ => None,
            });
            let messages: Vec<_> = texts.collect();
            assert_eq!(messages, ["Hello", "Hello", "Hello", "Hello", "Hello", ""]);
        }
    }

    /// A bug: it was compressed behind a message in parts, where a secret is in the context of others then.
    #[test]
    fn what_is_sent_as_it_is_stays_so_behind_a_message_in_parts() {
        let (_, mut sender) = config(Role::Server, false).halves();
        let mut deflaters = Deflaters::new();
        let secret = "a".repeat(1000);
        sender.begin_message(MessageKind::Binary).unwrap();
        sender.send_plain(&*secret).unwrap();
        sender.send(&*secret, &mut deflaters).unwrap();
        sender.finish_message(&mut deflaters).unwrap();
        let written = sender.output().chunks().collect::<Vec<_>>().concat();
        // §5.2: behind the end of the message in parts a frame without RSV1 of 1000 bytes, and one with it.
        let plain = [&[0x81, 126, 0x03, 0xE8][..], secret.as_bytes()].concat();
        let at = written.windows(plain.len()).position(|it| it == plain);
        let behind = &written[at.expect("it as it is") + plain.len()..];
        assert_eq!(behind[0], 0xC1, "{behind:x?}");
        assert!(behind.len() < 100);
    }

    #[test]
    fn section_7_2_3_4_the_block_after_bfinal_may_not_be_missing() {
        let mut reader = reader(CLIENT, false, 100);
        reader.read(frame(0xC1, b"\xf3\x48\xcd\xc9\xc9\x07\x00").bytes());
        assert_eq!(reader.end.error, Some(ProtocolError::CorruptDeflate));
    }

    /// 64 MiB of zeros are 300 KB; none of it is there before it is asked for.
    #[test]
    fn a_bomb_costs_a_part_of_it() {
        let mut deflater = Deflater::new(DeflateConfig::default().deflater(WindowBits::MAX));
        let mut bomb = Vec::new();
        deflater.compress(&vec![0; 64 << 20], &mut bomb);
        assert!(bomb.len() < 1_000_000);
        let mut bytes = frame(0xC2, &bomb).bytes();
        let mut input = &mut bytes[..];
        let mut reader = reader(CLIENT, false, 1000);
        for _ in 0..100 {
            assert!(reader.step(&mut input));
        }
        assert_eq!(reader.so_far(), vec![0; 99 * 1000]);
        assert!(input.len() > bomb.len() - 9 * 1024, "{}", input.len());
        // The rest goes by unseen, and without a context unmade.
        reader.end.read(input);
        reader.end.read(frame(0x82, "next").bytes());
        assert_eq!(reader.end.events, [binary(b"next")]);
    }

    /// An empty block with each: they have bytes, and nothing comes of those.
    #[test]
    fn compressed_frames_that_bring_nothing_are_counted() {
        let config = Config {
            limits: Limits::default().fragments(3),
            ..config(CLIENT, false)
        };
        let mut reader = Reader::of(End::with(&config), 100);
        let empty = [0x00, 0x00, 0x00, 0xFF, 0xFF];
        reader.read(frame(0x42, empty).bytes());
        for _ in 0..3 {
            assert_eq!(reader.end.error, None);
            reader.read(frame(0x00, empty).bytes());
        }
        reader.read(frame(0x00, empty).bytes());
        let limit = 3;
        assert_eq!(
            reader.end.error,
            Some(ProtocolError::TooManyFragments { limit })
        );
    }

    #[test]
    fn what_nobody_wants_is_discarded_a_mebibyte_at_a_time() {
        const MIB: usize = 1 << 20;
        for keep_context in [false, true] {
            let mut deflater = Deflater::new(DeflateConfig::default().deflater(WindowBits::MAX));
            let mut compressed = Vec::new();
            deflater.compress(&vec![0; 8 * MIB], &mut compressed);
            let mut bytes = frame(0xC2, compressed).bytes();
            bytes.extend(frame(0x82, "next").bytes());
            let mut input = &mut bytes[..];
            let (mut receiver, _) = config(CLIENT, keep_context).halves();
            assert_eq!(receiver.discard_part(&mut input), Ok(true));
            let begun = receiver.receive_part(&mut input, &mut []);
            assert_eq!(begun, Ok(Some(Part::Begin(MessageKind::Binary))));
            let mut turns = 1;
            while !receiver.discard_part(&mut input).unwrap() {
                turns += 1;
            }
            // Without a context to keep, it need not be inflated.
            let expected = if keep_context { 8..=9 } else { 1..=1 };
            assert!(expected.contains(&turns), "{turns}");
            let next = receiver.receive_owned(&mut input, &mut Inflater::new());
            assert_eq!(next, Ok(Some(binary(b"next"))));
        }
    }

    #[test]
    fn section_7_2_1_a_flush_lets_the_peer_have_what_was_sent() {
        for keep_context in [false, true] {
            let mut sender = Connection::new(&config(Role::Server, keep_context));
            let mut codecs = Codecs::new();
            let mut reader = reader(CLIENT, keep_context, 100);
            let send = |sender: &mut Connection, reader: &mut Reader| {
                let output = sender.output();
                let bytes = output.chunks().collect::<Vec<_>>().concat();
                output.advance(bytes.len());
                reader.read(&bytes);
                bytes.len()
            };
            for _ in 0..2 {
                sender.begin_message(MessageKind::Text).unwrap();
                sender.send_part(b"so far").unwrap();
                assert_eq!(send(&mut sender, &mut reader), 0);
                sender.flush_parts().unwrap();
                sender.flush_parts().unwrap();
                send(&mut sender, &mut reader);
                assert_eq!(reader.so_far(), b"so far");
                sender.send_part(b", and further").unwrap();
                sender.flush_parts().unwrap();
                sender.finish_message(&mut codecs).unwrap();
                send(&mut sender, &mut reader);
            }
            let whole = text("so far, and further");
            assert_eq!(reader.end.events, [whole.clone(), whole]);
        }
    }

    #[test]
    fn section_8_1_text_that_is_none_once_inflated() {
        let mut deflater = Deflater::new(DeflateConfig::default().deflater(WindowBits::MAX));
        let mut bytes = Vec::new();
        deflater.compress(b"abc\xFF", &mut bytes);
        let mut reader = reader(CLIENT, false, 1);
        reader.read(frame(0xC1, bytes).bytes());
        assert_eq!(reader.so_far(), b"abc");
        assert_eq!(reader.end.error, Some(ProtocolError::InvalidUtf8));
    }

    #[test]
    fn section_7_1_2_a_reference_outside_the_agreed_window_is_found_however_it_is_cut() {
        // 600 bytes that do not repeat, then the first of them again.
        let once: Vec<u8> = (0..600u32).map(|i| ((i * i * 7) >> 3) as u8).collect();
        let message = [&once[..], &once[..100]].concat();
        let mut deflater = Deflater::new(DeflateConfig::default().deflater(WindowBits::MAX));
        let mut bytes = Vec::new();
        deflater.compress(&message, &mut bytes);
        assert!(bytes.len() < 690, "nothing refers back: {}", bytes.len());
        for (bits, found) in [(9, true), (10, false)] {
            for piece in [1, 2, 7, 1000] {
                let bits = WindowBits::new(bits).unwrap();
                let end = End::with(&with_window(CLIENT, false, bits));
                let mut reader = Reader::of(end, 50);
                for piece in frame(0xC2, &bytes).bytes().chunks(piece) {
                    reader.read(piece);
                }
                let error = found.then_some(ProtocolError::CorruptDeflate);
                assert_eq!(reader.end.error, error);
                assert_eq!(reader.parts.contains(&Part::End), !found);
            }
        }
    }

    #[test]
    fn section_7_1_2_what_came_in_parts_counts_as_history_of_what_comes_whole() {
        // 600 bytes that do not repeat, then a message that is the first of them again.
        let once: Vec<u8> = (0..600u32).map(|i| ((i * i * 7) >> 3) as u8).collect();
        let mut deflater = Deflater::new(DeflateConfig::default().deflater(WindowBits::MAX));
        let (mut first, mut second) = (Vec::new(), Vec::new());
        deflater.compress(&once, &mut first);
        deflater.compress(&once[..100], &mut second);
        assert!(second.len() < 90, "nothing refers back: {}", second.len());
        for (bits, found) in [(9, true), (10, false)] {
            let bits = WindowBits::new(bits).unwrap();
            let end = End::with(&with_window(CLIENT, true, bits));
            let mut reader = Reader::of(end, 100);
            reader.read(frame(0xC2, &first).bytes());
            assert_eq!(reader.end.events, [binary(&once)]);
            reader.end.read(frame(0xC2, &second).bytes());
            let error = found.then_some(ProtocolError::CorruptDeflate);
            assert_eq!(reader.end.error, error);
            let expected = [binary(&once[..100])];
            let expected = if found { &[] } else { &expected[..] };
            assert_eq!(&reader.end.events[1..], expected);
        }
    }

    #[derive(Clone, Debug)]
    struct Sent {
        message: Message,
        /// How it is cut when it is sent in parts, and after which of them it is flushed.
        parts: Option<Vec<(usize, bool)>>,
        /// How it is received: whole, in parts with so much room, or so much of it.
        received: Received,
    }

    #[derive(Clone, Copy, Debug)]
    enum Received {
        Whole,
        InParts(usize),
        Begun(usize),
    }

    fn sent() -> impl Strategy<Value = Sent> {
        let message = prop_oneof![
            any::<String>().prop_map(Message::from),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(Message::from),
            // Compressible, larger than the stage and than zlib's window.
            (any::<u8>(), 0u64..70_000).prop_map(|(byte, len)| {
                let bytes = (0..len).map(|i| byte.wrapping_add((i * i / 1000) as u8));
                Message::from(bytes.collect::<Vec<_>>())
            }),
        ];
        let parts = prop::collection::vec((0usize..20_000, any::<bool>()), 0..6);
        let received = prop_oneof![
            Just(Received::Whole),
            (1usize..50_000).prop_map(Received::InParts),
            (1usize..1000).prop_map(Received::Begun),
        ];
        (message, prop::option::of(parts), received).prop_map(|(message, parts, received)| Sent {
            message,
            parts,
            received,
        })
    }

    fn send(from: &mut End, sent: &Sent) {
        let Some(parts) = &sent.parts else {
            from.connection
                .send(&sent.message, &mut from.codecs)
                .unwrap();
            return;
        };
        let kind = match sent.message {
            Message::Text(_) => MessageKind::Text,
            Message::Binary(_) => MessageKind::Binary,
        };
        from.connection.begin_message(kind).unwrap();
        let mut rest = sent.message.as_bytes();
        for &(len, flush) in parts {
            let (part, after) = rest.split_at(len.min(rest.len()));
            from.connection.send_part(part).unwrap();
            if flush {
                from.connection.flush_parts().unwrap();
            }
            rest = after;
        }
        from.connection.send_part(rest).unwrap();
        from.connection.finish_message(&mut from.codecs).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]

        /// Whole, in parts and in part, in any order on one connection, however the bytes are cut.
        #[test]
        fn every_way_to_send_goes_with_every_way_to_receive(
            all in prop::collection::vec(sent(), 1..8),
            cuts in prop::collection::vec(prop_oneof![1usize..10, 1usize..5000, Just(100_000)], 1..20),
            keep_context: bool,
            client_sends: bool,
            bits in 8..=15u8,
        ) {
            let bits = WindowBits::new(bits).unwrap();
            let role = if client_sends { Role::Server } else { CLIENT };
            let mut from = End::with(&with_window(other(role), keep_context, bits));
            let mut to = Reader::of(End::with(&with_window(role, keep_context, bits)), 1);
            let mut cuts = cuts.into_iter().cycle();
            for sent in &all {
                send(&mut from, sent);
                from.write();
                let mut bytes = std::mem::take(&mut from.written);
                let mut rest = &mut bytes[..];
                let mut begun = false;
                while !rest.is_empty() {
                    let cut = cuts.next().unwrap().min(rest.len());
                    let (mut piece, after) = rest.split_at_mut(cut);
                    rest = after;
                    match sent.received {
                        Received::Whole => {
                            to.end.read(piece);
                        }
                        Received::InParts(room) => {
                            to.room = room;
                            to.read(piece);
                        }
                        Received::Begun(room) => {
                            to.room = room;
                            // Some of it, and then no more.
                            while !begun && to.step(&mut piece) {
                                begun = matches!(to.parts.last(), Some(Part::Data(_)));
                            }
                            if begun {
                                to.end.connection.skip_message();
                                while to.step(&mut piece) {}
                            }
                            prop_assert!(piece.is_empty());
                        }
                    }
                }
                prop_assert_eq!(to.end.error, None);
                let skipped = matches!(sent.received, Received::Begun(_)) && !sent.message.is_empty();
                if !skipped {
                    let expected = OwnedEvent::Message(sent.message.clone());
                    prop_assert_eq!(to.end.events.pop(), Some(expected));
                }
                prop_assert!(to.end.events.is_empty());
            }
        }
    }
}
