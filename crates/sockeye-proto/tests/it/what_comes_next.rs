//! Whether a message is next, told wherever a stream is cut.

use sockeye_proto::{Limits, MessageKind, Part, Receiver, Role, deflate::Inflater};

fn receiver() -> Receiver {
    Receiver::new(Role::Client { masks: || [0; 4] }, Limits::default(), None)
}

/// Frames, and for each whether it belongs to a message; a control frame within one does.
const FRAMES: [(&[u8], bool); 7] = [
    (b"\x89\x03one", false),
    (b"\x81\x05hello", true),
    (b"\x8a\x00", false),
    (b"\x01\x03fra", true),
    (b"\x89\x03two", true),
    (b"\x80\x04gmnt", true),
    (b"\x89\x05three", false),
];

/// Where a message begins or ends.
const BETWEEN: [usize; 4] = [5, 12, 14, 30];

#[test]
fn a_message_is_next_from_its_first_byte_to_its_last() {
    let within = FRAMES.map(|(frame, is_message)| vec![is_message; frame.len()]);
    let within = within.concat();
    // In pieces of any length: asked of what is there, and where that is nothing of what has been kept.
    for piece in 1..=within.len() {
        let (mut receiver, mut inflater) = (receiver(), Inflater::new());
        let mut bytes = FRAMES.map(|(frame, _)| frame).concat();
        for (number, bytes) in bytes.chunks_mut(piece).enumerate() {
            let end = number * piece + bytes.len();
            let mut input = bytes;
            loop {
                let at = end - input.len();
                let is_there = !input.is_empty() || !BETWEEN.contains(&at);
                let expected = is_there && within.get(at) == Some(&true);
                assert_eq!(receiver.is_message_next(input), expected, "{at} of {piece}");
                if receiver
                    .receive(&mut input, &mut inflater)
                    .unwrap()
                    .is_none()
                {
                    break;
                }
            }
        }
    }
}

#[test]
fn one_received_in_parts_is_next_until_it_has_ended() {
    for rest in [&b"\x81\x02hi"[..], b"\x01\x01h", b"\x80\x01i"] {
        let mut receiver = receiver();
        let mut bytes = rest.to_vec();
        let mut first = b"\x01\x00".to_vec();
        let continued = rest[0] == 0x80;
        if continued {
            let begun = receiver.receive_part(&mut &mut first[..], &mut []);
            assert_eq!(begun, Ok(Some(Part::Begin(MessageKind::Text))));
        }
        let mut input = &mut bytes[..];
        while let Some(part) = receiver.receive_part(&mut input, &mut [0]).unwrap() {
            let ended = part == Part::End;
            assert_eq!(receiver.is_message_next(input), !ended, "{part:?}");
        }
        assert_eq!(receiver.is_message_next(&[]), rest[0] == 0x01);
        // Whoever has had enough of it is still within.
        receiver.skip_message();
        assert_eq!(receiver.is_message_next(b"\x89"), rest[0] == 0x01);
    }
}
