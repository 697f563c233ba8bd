//! A recorded stream is the same however it is cut: at every two of its places, in every way of
//! receiving, with what RFC 6455 §5.4 and RFC 7692 §7.2.3 allow in it.

use sockeye_proto::{
    Message, MessageKind, OwnedEvent, Part, ProtocolError, Receiver, Role,
    deflate::{DeflateConfig, Deflater, Direction, Inflater, WindowBits},
};

use crate::wire::*;

/// What came of a stream.
type Seen = (Vec<OwnedEvent>, Option<ProtocolError>);

/// A way of receiving: a receiver, and a piece of the stream.
type Way = fn(&mut Ends, &mut [u8]);

/// A receiver, and what has come of it.
struct Ends {
    receiver: Receiver,
    inflater: Inflater,
    message: Option<(MessageKind, Vec<u8>)>,
    seen: Seen,
}

impl Ends {
    fn note(&mut self, event: Result<Option<OwnedEvent>, ProtocolError>) -> bool {
        match event {
            Ok(Some(event)) => self.seen.0.push(event),
            Ok(None) => return false,
            Err(error) => {
                self.seen.1.get_or_insert(error);
            }
        }
        true
    }

    fn part(&mut self, input: &mut &mut [u8], room: usize) -> bool {
        let mut room = vec![0; room];
        match self.receiver.receive_part(input, &mut room) {
            Ok(Some(Part::Begin(kind))) => self.message = Some((kind, Vec::new())),
            Ok(Some(Part::Data(count))) => {
                self.message.as_mut().unwrap().1.extend(&room[..count]);
            }
            Ok(Some(Part::End)) => {
                let message = match self.message.take().unwrap() {
                    (MessageKind::Text, bytes) => String::from_utf8(bytes).unwrap().into(),
                    (MessageKind::Binary, bytes) => Message::from(bytes),
                };
                self.seen.0.push(OwnedEvent::Message(message));
            }
            Ok(Some(Part::Event(event))) => self.seen.0.push(event),
            Ok(None) => return false,
            Err(error) => {
                self.seen.1.get_or_insert(error);
            }
        }
        true
    }
}

fn lent(ends: &mut Ends, mut input: &mut [u8]) {
    loop {
        let event = ends.receiver.receive(&mut input, &mut ends.inflater);
        let event = event.map(|event| event.map(|event| event.into_owned()));
        if !ends.note(event) {
            return;
        }
    }
}

fn owned(ends: &mut Ends, mut input: &mut [u8]) {
    loop {
        let event = ends.receiver.receive_owned(&mut input, &mut ends.inflater);
        if !ends.note(event) {
            return;
        }
    }
}

/// As a driver reads a large message: into its own buffer where that is offered.
fn direct(ends: &mut Ends, mut input: &mut [u8]) {
    while !input.is_empty() {
        if let Some(room) = ends.receiver.room_wanted() {
            ends.receiver.adopt(Vec::with_capacity(room));
        }
        if let Some((buffer, limit)) = ends.receiver.payload_buffer(1) {
            let take = limit.min(input.len());
            buffer.extend_from_slice(&input[..take]);
            input = &mut input[take..];
            if let Err(error) = ends.receiver.received(take) {
                ends.seen.1.get_or_insert(error);
            }
        }
        loop {
            let event = ends.receiver.receive_owned(&mut input, &mut ends.inflater);
            if !ends.note(event) {
                break;
            }
        }
    }
}

fn in_parts(ends: &mut Ends, mut input: &mut [u8]) {
    while ends.part(&mut input, 64) {}
}

fn a_byte_at_a_time(ends: &mut Ends, mut input: &mut [u8]) {
    while ends.part(&mut input, 1) {}
}

const WAYS: [(&str, Way); 5] = [
    ("lent", lent),
    ("owned", owned),
    ("direct", direct),
    ("in parts", in_parts),
    ("a byte at a time", a_byte_at_a_time),
];

fn seen(role: Role, deflate: Option<Direction>, way: Way, pieces: [&[u8]; 3]) -> Seen {
    let mut ends = Ends {
        receiver: Receiver::new(role, sockeye_proto::Limits::default(), deflate),
        inflater: Inflater::new(),
        message: None,
        seen: (Vec::new(), None),
    };
    for piece in pieces {
        way(&mut ends, &mut piece.to_vec());
    }
    ends.seen
}

/// Checks that every cut gives what was expected.
fn check(role: Role, deflate: Option<Direction>, stream: &[u8], expected: &Seen) {
    for (name, way) in WAYS {
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let pieces = [&stream[..first], &stream[first..second], &stream[second..]];
                let seen = seen(role, deflate, way, pieces);
                assert_eq!(&seen, expected, "{name}, cut at {first} and {second}");
            }
        }
    }
}

/// The first byte of each, and its payload.
type Frames<'a> = [(u8, &'a [u8])];

fn stream(role: Role, frames: &Frames<'_>) -> Vec<u8> {
    let frames = frames
        .iter()
        .map(|(first, payload)| frame(*first, payload).to(role));
    frames.collect::<Vec<_>>().concat()
}

fn closed(payload: &[u8]) -> OwnedEvent {
    OwnedEvent::Close(sockeye_proto::CloseFrame::parse(payload).unwrap())
}

#[test]
fn section_5_4_fragments_empty_ones_and_control_frames_between() {
    let text_bytes = "a é 𐍈".as_bytes();
    for role in BOTH {
        let stream = stream(
            role,
            &[
                (0x01, &text_bytes[..3]),
                (0x89, b"p"),
                (0x00, b""),
                (0x00, &text_bytes[3..6]),
                (0x8A, b""),
                (0x80, &text_bytes[6..]),
                (0x81, b""),
                (0x02, b""),
                (0x80, b""),
                (0x82, b"bin"),
                (0x88, b"\x03\xE8bye"),
                (0x81, b"late"),
            ],
        );
        let events = vec![
            OwnedEvent::Ping("p".into()),
            OwnedEvent::Pong("".into()),
            text("a é 𐍈"),
            text(""),
            binary(b""),
            binary(b"bin"),
            closed(b"\x03\xE8bye"),
        ];
        check(role, None, &stream, &(events, None));
    }
}

/// Of what is sent before a fault all is received, and the fault is the same.
#[test]
fn section_7_1_7_faults() {
    let faults: [(&Frames<'_>, ProtocolError); 9] = [
        (
            &[(0x01, b"\xF0\x9F"), (0x80, b"")],
            ProtocolError::InvalidUtf8,
        ),
        (
            &[(0x01, b"\xE2"), (0x89, b""), (0x80, b"\x28\xA1")],
            ProtocolError::InvalidUtf8,
        ),
        (
            &[(0x02, b"a"), (0x82, b"b")],
            ProtocolError::ContinuationExpected,
        ),
        (&[(0x00, b"a")], ProtocolError::ContinuationUnexpected),
        (&[(0x01, b"a"), (0xC0, b"b")], ProtocolError::ReservedBits),
        (&[(0x88, b"\x03")], ProtocolError::CloseOneByte),
        (&[(0x88, b"\x03\xEDx")], ProtocolError::CloseCode(1005)),
        (&[(0x88, b"\x03\xE8\xFF")], ProtocolError::CloseReasonUtf8),
        (&[(0x83, b"")], ProtocolError::OpCode(3)),
    ];
    for role in BOTH {
        for (frames, fault) in faults {
            let mut frames = frames.to_vec();
            frames.insert(0, (0x81, b"good"));
            frames.push((0x82, b"late"));
            let stream = stream(role, &frames);
            // A ping within the message that is at fault was received.
            let mut events = vec![text("good")];
            if frames.iter().any(|(first, _)| *first == 0x89) {
                events.push(OwnedEvent::Ping("".into()));
            }
            check(role, None, &stream, &(events, Some(fault)));
        }
    }
}

/// Blocks with BFINAL, empty blocks, stored ones and references to the message before
/// (RFC 7692 §7.2.3.2 to §7.2.3.6).
#[test]
fn rfc_7692_section_7_2_3_messages_of_every_kind() {
    const HELLO: &[u8] = &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
    const AGAIN: &[u8] = &[0xF2, 0x00, 0x11, 0x00, 0x00];
    const STORED: &[u8] = &[
        0x00, 0x05, 0x00, 0xFA, 0xFF, b'H', b'e', b'l', b'l', b'o', 0x00,
    ];
    const FINAL: &[u8] = &[0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00, 0x00];
    const TWO_BLOCKS: &[u8] = &[
        0xF2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xFF, 0xFF, 0xCA, 0xC9, 0xC9, 0x07, 0x00,
    ];
    // Every cut takes a codec: one window for each role.
    for (role, bits) in BOTH.into_iter().zip([8, 15]) {
        let mut long = Vec::new();
        let window = WindowBits::new(bits).unwrap();
        let message = "{\"long\": \"enough to be compressed\", \"long\": \"enough\"}";
        Deflater::new(DeflateConfig::default().deflater(window))
            .compress(message.as_bytes(), &mut long);
        let stream = stream(
            role,
            &[
                (0x41, &HELLO[..2]),
                (0x8A, b"p"),
                (0x00, b""),
                (0x80, &HELLO[2..]),
                (0xC1, AGAIN),
                (0xC2, STORED),
                (0x41, b""),
                (0x80, FINAL),
                (0xC1, b"\0"),
                (0xC1, b""),
                (0xC1, TWO_BLOCKS),
                (0x81, b"plain"),
                (0xC1, &long),
            ],
        );
        let events = vec![
            OwnedEvent::Pong("p".into()),
            text("Hello"),
            text("Hello"),
            binary(b"Hello"),
            text("Hello"),
            text(""),
            text(""),
            text("Hello"),
            text("plain"),
            text(message),
        ];
        let deflate = Direction {
            keeps_context: true,
            window,
        };
        check(role, Some(deflate), &stream, &(events, None));
    }
}

#[test]
fn rfc_7692_section_7_2_2_faults() {
    let faults: [(&[u8], ProtocolError); 4] = [
        (b"\xF2\x48\xCD", ProtocolError::CorruptDeflate),
        (b"\xFF\xFF", ProtocolError::CorruptDeflate),
        // BFINAL, and not the empty block that is to follow.
        (
            b"\xF3\x48\xCD\xC9\xC9\x07\x00",
            ProtocolError::CorruptDeflate,
        ),
        // Refers to a message before, where no context is kept.
        (b"\xF2\x00\x11\x00\x00", ProtocolError::CorruptDeflate),
    ];
    for role in BOTH {
        for (payload, fault) in faults {
            let stream = stream(
                role,
                &[
                    (0xC1, &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00]),
                    (0xC1, payload),
                    (0x81, b"late"),
                ],
            );
            let deflate = Direction {
                keeps_context: false,
                window: WindowBits::MAX,
            };
            check(
                role,
                Some(deflate),
                &stream,
                &(vec![text("Hello")], Some(fault)),
            );
        }
    }
}
