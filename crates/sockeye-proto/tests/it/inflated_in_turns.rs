//! A bug: a message of 18 MiB that consists of empty blocks was inflated in one go, which takes more than half a
//! second, as long as nothing else happened on its thread. Long messages are inflated in turns, and what comes of
//! them is what comes in one go.

use sockeye_proto::{
    Limits, OwnedEvent, Part, ProtocolError, Receiver, Role,
    deflate::{DeflateConfig, Deflater, Direction, Inflater, Level, WindowBits},
};

use crate::wire::*;

const KIB: usize = 1024;

/// What is taken in a turn.
const TURN: usize = 16 * KIB;

/// Four blocks of the fixed codes with nothing in them: ten bits each.
const EMPTY: [u8; 5] = [0x02, 0x08, 0x20, 0x80, 0x00];

/// A stored block of no bytes.
const EMPTY_STORED: [u8; 5] = [0x00, 0x00, 0x00, 0xFF, 0xFF];

/// "Hello", as RFC 7692 §7.2.3.1 compresses it, and the same by a reference to it (§7.2.3.2).
const HELLO: &[u8] = &[0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
const AGAIN: &[u8] = &[0xF2, 0x00, 0x11, 0x00, 0x00];

fn direction(bits: u8, keeps_context: bool) -> Direction {
    Direction {
        keeps_context,
        window: WindowBits::new(bits).unwrap(),
    }
}

fn deflated(message: &[u8], level: Level, bits: u8) -> Vec<u8> {
    let mut out = Vec::new();
    let config = DeflateConfig {
        level,
        ..DeflateConfig::default()
    };
    let window = WindowBits::new(bits).unwrap();
    Deflater::new(config.deflater(window)).compress(message, &mut out);
    out
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(len).collect()
}

/// What came, and how many turns it took beside the last.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    events: Vec<OwnedEvent>,
    error: Option<ProtocolError>,
    turns: usize,
}

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Lent,
    Owned,
    /// In parts once so many turns are over.
    Parts(usize),
}

fn receive(receiver: &mut Receiver, inflater: &mut Inflater, bytes: &[u8], way: Way) -> Seen {
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    let mut seen = Seen {
        events: Vec::new(),
        error: None,
        turns: 0,
    };
    loop {
        if way == Way::Parts(seen.turns) {
            receive_in_parts(receiver, &mut input, &mut seen);
            assert!(!receiver.is_inflating());
        }
        let event = match way {
            Way::Lent => receiver
                .receive(&mut input, inflater)
                .map(|event| event.map(|event| event.into_owned())),
            _ => receiver.receive_owned(&mut input, inflater),
        };
        match event {
            Ok(Some(event)) => seen.events.push(event),
            Ok(None) if receiver.is_inflating() => seen.turns += 1,
            Ok(None) => return seen,
            Err(error) => assert_eq!(seen.error.replace(error), None),
        }
    }
}

fn receive_in_parts(receiver: &mut Receiver, input: &mut &mut [u8], seen: &mut Seen) {
    let (mut room, mut message) = (vec![0; 5000], Vec::new());
    loop {
        match receiver.receive_part(input, &mut room) {
            Ok(Some(Part::Data(count))) => message.extend_from_slice(&room[..count]),
            Ok(Some(Part::Begin(_))) => assert!(message.is_empty()),
            Ok(Some(Part::End)) => seen.events.push(binary(&std::mem::take(&mut message))),
            Ok(Some(Part::Event(event))) => seen.events.push(event),
            Ok(None) => return,
            Err(error) => assert_eq!(seen.error.replace(error), None),
        }
    }
}

/// The message in two frames with a ping between them, and one behind it that refers to it where it may.
fn stream(role: Role, payload: &[u8], keeps_context: bool) -> Vec<u8> {
    let (first, second) = payload.split_at(payload.len() / 3);
    let next = if keeps_context { AGAIN } else { HELLO };
    [
        frame(0x42, first).to(role),
        frame(0x89, "ping").to(role),
        frame(0x80, second).to(role),
        frame(0xC2, next).to(role),
        frame(0x8A, "pong").to(role),
    ]
    .concat()
}

#[test]
fn what_comes_is_what_comes_in_one_go() {
    let empty = |block: [u8; 5]| [&block.repeat(220 * KIB)[..], HELLO].concat();
    let messages = [
        ("fixed blocks", empty(EMPTY)),
        ("stored blocks", empty(EMPTY_STORED)),
        ("noise", [&noise(1100 * KIB)[..], b"Hello"].concat()),
        (
            "zeros behind noise",
            [&noise(1100 * KIB)[..], &vec![0; 4000 * KIB], b"Hello"].concat(),
        ),
    ];
    for (at, (name, message)) in messages.iter().enumerate() {
        for (role, bits) in BOTH.into_iter().zip([15, 9]) {
            let payload = match at {
                0 | 1 => message.clone(),
                _ => deflated(message, Level::FASTEST, bits),
            };
            // Not each with each: inflating takes its time in a test.
            let keeps_context = (bits == 9) == (at % 2 == 0);
            let deflate = Some(direction(bits, keeps_context));
            let stream = stream(role, &payload, keeps_context);
            let mut inflater = Inflater::new();
            let mut receiver = Receiver::new(role, Limits::default(), deflate);
            let at_once = receive(&mut receiver, &mut inflater, &stream, Way::Owned);
            assert_eq!((at_once.error, at_once.turns), (None, 0), "{name}");
            assert_eq!(at_once.events.len(), 4, "{name}");
            assert_eq!(at_once.events[2], binary(b"Hello"));
            for way in [Way::Lent, Way::Owned, Way::Parts(4)] {
                let mut receiver = Receiver::new(role, Limits::default(), deflate).in_turns();
                let seen = receive(&mut receiver, &mut inflater, &stream, way);
                assert!(seen.events == at_once.events, "{name} {way:?}");
                let least = match way {
                    Way::Parts(turns) => turns,
                    _ => payload.len() / TURN,
                };
                assert!(seen.turns >= least, "{name} {way:?}: {}", seen.turns);
                assert!(receiver.is_fresh() && !receiver.is_inflating());
            }
        }
    }
}

/// What comes to much is cut by that, and not by what is taken.
#[test]
fn of_a_long_message_a_mebibyte_is_made_in_a_turn() {
    const MIB: usize = 1 << 20;
    let message = [&noise(300 * KIB)[..], &vec![0; 8 * MIB]].concat();
    let payload = deflated(&message, Level::FASTEST, 15);
    let bytes = frame(0xC2, &payload).bytes();
    for keeps_context in [false, true] {
        let deflate = Some(direction(15, keeps_context));
        let mut receiver = Receiver::new(CLIENT, Limits::default(), deflate).in_turns();
        let seen = receive(&mut receiver, &mut Inflater::new(), &bytes, Way::Owned);
        assert!(seen.events == [binary(&message)], "{:?}", seen.error);
        let least = 300 * KIB / TURN + 8;
        assert!((least..=least + 1).contains(&seen.turns), "{}", seen.turns);
    }
}

#[test]
fn a_message_of_just_the_limit_passes_and_of_one_byte_more_does_not() {
    let message = [&noise(1100 * KIB)[..], &vec![0; 2000 * KIB]].concat();
    let payload = deflated(&message, Level::FASTEST, 15);
    for (limit, passes) in [
        (message.len() + 1, true),
        (message.len(), true),
        (message.len() - 1, false),
        (600 * KIB, false),
    ] {
        for keeps_context in [false, true] {
            let deflate = Some(direction(15, keeps_context));
            let limits = Limits::default()
                .message(limit)
                .frame(2 << 20)
                .retained(2 << 20);
            let mut receiver = Receiver::new(CLIENT, limits, deflate).in_turns();
            let bytes = frame(0xC2, &payload).bytes();
            let mut inflater = Inflater::new();
            let seen = receive(&mut receiver, &mut inflater, &bytes, Way::Owned);
            if passes {
                assert!(seen.events == [binary(&message)], "{limit}");
            } else {
                assert_eq!(seen.error, Some(ProtocolError::MessageTooLarge { limit }));
                assert!(seen.events.is_empty() && receiver.is_ended());
            }
        }
    }
}

/// Each kind of fault, found in a later turn; and the codec that was lent serves the next connection.
#[test]
fn a_fault_in_a_later_turn_is_found_and_harms_nobody_else() {
    let long = EMPTY.repeat(220 * KIB);
    let far = [&noise(1100 * KIB)[..], &noise(1000), &noise(1000)].concat();
    let faults: [(&str, Vec<u8>, u8, ProtocolError); 5] = [
        (
            "corrupt",
            [&long[..], &[0xFF; 9]].concat(),
            15,
            ProtocolError::CorruptDeflate,
        ),
        (
            "cut",
            [&long[..], &HELLO[..3]].concat(),
            15,
            ProtocolError::CorruptDeflate,
        ),
        (
            "final",
            [&long[..], b"\xF3\x48\xCD\xC9\xC9\x07\x00"].concat(),
            15,
            ProtocolError::CorruptDeflate,
        ),
        (
            "trailing",
            [&long[..], b"\xF3\x48\xCD\xC9\xC9\x07\x00", &[0xFF; 9]].concat(),
            15,
            ProtocolError::DeflateTrailingData,
        ),
        (
            "window",
            deflated(&far, Level::BALANCED, 15),
            9,
            ProtocolError::CorruptDeflate,
        ),
    ];
    let mut inflater = Inflater::new();
    for (name, payload, bits, fault) in faults {
        assert!(payload.len() > 1 << 20);
        for way in [Way::Lent, Way::Owned, Way::Parts(2)] {
            let deflate = Some(direction(bits, false));
            let mut receiver = Receiver::new(CLIENT, Limits::default(), deflate).in_turns();
            let bytes = frame(0xC2, &payload).bytes();
            let seen = receive(&mut receiver, &mut inflater, &bytes, way);
            assert_eq!(
                (seen.events, seen.error),
                (vec![], Some(fault)),
                "{name} {way:?}"
            );
            let mut healthy = Receiver::new(CLIENT, Limits::default(), deflate).in_turns();
            let bytes = [frame(0xC2, HELLO).bytes(), frame(0xC2, AGAIN).bytes()].concat();
            let seen = receive(&mut healthy, &mut inflater, &bytes, Way::Owned);
            assert_eq!(seen.events, [binary(b"Hello")], "{name}");
            assert_eq!(seen.error, Some(ProtocolError::CorruptDeflate), "{name}");
        }
    }
}

/// Where the context is not kept, not even what was made in turns can be referred to.
#[test]
fn nothing_of_a_message_is_left_for_whoever_is_lent_the_codec_next() {
    let noise = deflated(&noise(300 * KIB), Level::STORED, 15);
    let payload = [&noise[..], &EMPTY_STORED[1..], HELLO].concat();
    let deflate = Some(direction(15, false));
    for way in [Way::Lent, Way::Owned, Way::Parts(2)] {
        let mut inflater = Inflater::new();
        let mut receiver = Receiver::new(CLIENT, Limits::default(), deflate).in_turns();
        let bytes = frame(0xC2, &payload).bytes();
        let seen = receive(&mut receiver, &mut inflater, &bytes, way);
        assert_eq!((seen.events.len(), seen.error), (1, None), "{way:?}");
        assert!(seen.turns >= 2, "{way:?}");
        let mut other = Receiver::new(CLIENT, Limits::default(), deflate);
        let bytes = frame(0xC2, AGAIN).bytes();
        let seen = receive(&mut other, &mut inflater, &bytes, Way::Owned);
        let error = Some(ProtocolError::CorruptDeflate);
        assert_eq!((seen.events, seen.error), (vec![], error), "{way:?}");
    }
}

#[test]
fn text_of_which_part_was_made_in_turns_is_checked_from_its_beginning() {
    // Of what is text, a turn ends within a character in one of the two.
    let beginnings = [
        ("é".as_bytes(), true),
        ("éa".as_bytes(), true),
        (b"\xFF", false),
    ];
    for (begin, valid) in beginnings {
        for keeps_context in [false, true] {
            let message = [begin, "é".repeat(300 * KIB).as_bytes()].concat();
            let payload = deflated(&message, Level::STORED, 15);
            let bytes = frame(0xC1, &payload).bytes();
            let deflate = Some(direction(15, keeps_context));
            let mut receiver = Receiver::new(CLIENT, Limits::default(), deflate).in_turns();
            let seen = receive(&mut receiver, &mut Inflater::new(), &bytes, Way::Parts(1));
            let counted = receiver.meter().counters().received;
            if valid {
                assert!(seen.events == [binary(&message)], "{:?}", seen.error);
                let len = message.len() as u64;
                assert_eq!((counted.text.messages, counted.text.bytes), (1, len));
                assert_eq!(counted.uncompressed, len);
            } else {
                assert_eq!(seen.error, Some(ProtocolError::InvalidUtf8));
                assert_eq!((seen.events, counted.text.bytes), (vec![], 0));
            }
        }
    }
}

#[test]
fn text_is_checked_at_its_end_and_in_parts_as_it_comes() {
    let message = [&"é".repeat(600 * KIB).into_bytes()[..], b"\xC3"].concat();
    let payload = deflated(&message, Level::STORED, 15);
    for way in [Way::Lent, Way::Owned, Way::Parts(1)] {
        let deflate = Some(direction(15, true));
        let mut receiver = Receiver::new(CLIENT, Limits::default(), deflate).in_turns();
        let bytes = frame(0xC1, &payload).bytes();
        let seen = receive(&mut receiver, &mut Inflater::new(), &bytes, way);
        assert_eq!(seen.error, Some(ProtocolError::InvalidUtf8), "{way:?}");
    }
}

/// Of what comes to nothing no more is taken in one go, whole as it was gathered or as it comes, wanted or not.
#[test]
fn in_parts_little_is_taken_in_one_go_of_which_nothing_comes() {
    let payload = [&EMPTY.repeat(200 * KIB)[..], HELLO].concat();
    let least = payload.len() / TURN;
    for gathered in [0, payload.len() / 2, payload.len()] {
        for skipped in [false, true] {
            let deflate = Some(direction(15, true));
            let mut receiver = Receiver::new(CLIENT, Limits::default(), deflate);
            let mut bytes = [frame(0xC2, &payload).bytes(), frame(0xC2, AGAIN).bytes()].concat();
            let (first, mut rest) = bytes.split_at_mut(gathered);
            let none = receiver.receive_owned(&mut &mut *first, &mut Inflater::new());
            assert_eq!(none, Ok(None));
            let (mut room, mut turns, mut messages) = ([0; 10], 0, Vec::new());
            loop {
                match receiver.receive_part(&mut rest, &mut room) {
                    Ok(Some(Part::Begin(_))) => {
                        if skipped && messages.is_empty() {
                            receiver.skip_message();
                            messages.push(Vec::new());
                        } else {
                            messages.push(Vec::new());
                        }
                    }
                    Ok(Some(Part::Data(0))) => turns += 1,
                    Ok(Some(Part::Data(count))) => {
                        messages
                            .last_mut()
                            .unwrap()
                            .extend_from_slice(&room[..count]);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let first = if skipped { "" } else { "Hello" };
            assert_eq!(messages, [first.as_bytes(), b"Hello"], "{gathered}");
            assert!(turns >= least - 1, "{gathered}: {turns}");
        }
    }
}
