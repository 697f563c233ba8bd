//! However the bytes are cut, the same events come out; whatever one core sends, the other receives.

use proptest::prelude::*;
use sockeye_proto::{
    CloseCode, Codecs, Limits, Message, MessageKind, OwnedEvent, Part, ProtocolError, Receiver,
    Role, deflate::Inflater,
};

use crate::wire::*;

/// One thing a user does.
#[derive(Clone, Debug)]
enum Act {
    Send(Message),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..300),
        1 => (65_000usize..66_000).prop_map(|len| vec![7; len]),
        1 => (16_380usize..16_390).prop_map(|len| vec![8; len]),
    ];
    let control = prop::collection::vec(any::<u8>(), 0..=125);
    prop_oneof![
        4 => any::<String>().prop_map(|text| Act::Send(text.into())),
        4 => bytes.prop_map(|bytes| Act::Send(bytes.into())),
        1 => control.clone().prop_map(Act::Ping),
        1 => control.prop_map(Act::Pong),
    ]
}

/// Bytes that are mostly frames, in all their forms, and now and then anything.
fn wire_bytes(role: Role) -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        10 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A]),
        1 => Just(0x88),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        any::<String>().prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..200),
        Just(vec![0x03, 0xE8]),
    ];
    let one = prop_oneof![
        20 => (first, payload).prop_map(move |(first, payload)| frame(first, payload).to(role)),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(one, 0..12).prop_map(|frames| frames.concat())
}

fn cuts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![0usize..4, 0usize..200, 0usize..70_000], 0..60)
}

/// The pieces of `bytes`, as long as the cuts say, the last one whatever is left.
fn pieces<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = bytes.split_at((*cut).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}

/// As a driver reads: into the message's own buffer where it is offered, owned events.
fn read_owned(
    role: Role,
    pieces: &[&[u8]],
    worthwhile: usize,
) -> (Vec<OwnedEvent>, Option<ProtocolError>) {
    let mut receiver = Receiver::new(role, Limits::default(), None);
    let (mut inflater, mut events, mut error) = (Inflater::new(), Vec::new(), None);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            if let Some((buffer, limit)) = receiver.payload_buffer(worthwhile) {
                let take = limit.min(input.len());
                buffer.extend_from_slice(&input[..take]);
                input = &mut input[take..];
                if let Err(found) = receiver.received(take) {
                    error = error.or(Some(found));
                }
            }
            match receiver.receive_owned(&mut input, &mut inflater) {
                Ok(Some(event)) => events.push(event),
                Ok(None) if input.is_empty() => break,
                Ok(None) => {}
                Err(found) => error = error.or(Some(found)),
            }
        }
    }
    (events, error)
}

/// In parts, as many bytes at a time as there is room for.
fn read_parts(
    role: Role,
    pieces: &[&[u8]],
    room: usize,
) -> (Vec<OwnedEvent>, Option<ProtocolError>) {
    let mut receiver = Receiver::new(role, Limits::default(), None);
    let (mut message, mut events, mut error) = (Vec::new(), Vec::new(), None);
    let (mut kind, mut room) = (MessageKind::Binary, vec![0; room]);
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match receiver.receive_part(&mut input, &mut room) {
                Ok(Some(Part::Begin(begun))) => kind = begun,
                Ok(Some(Part::Data(count))) => message.extend_from_slice(&room[..count]),
                Ok(Some(Part::End)) => {
                    let bytes = std::mem::take(&mut message);
                    events.push(OwnedEvent::Message(match kind {
                        MessageKind::Text => String::from_utf8(bytes).unwrap().into(),
                        MessageKind::Binary => bytes.into(),
                    }));
                }
                Ok(Some(Part::Event(event))) => events.push(event),
                Ok(None) => break,
                Err(found) => error = error.or(Some(found)),
            }
        }
        assert!(input.is_empty());
    }
    (events, error)
}

fn check_cuts(role: Role, bytes: &[u8], cuts: &[usize]) {
    let mut whole = End::new(role);
    whole.read(bytes);
    let mut cut = End::new(role);
    let pieces = pieces(bytes, cuts);
    for piece in &pieces {
        cut.read(piece);
    }
    assert_eq!(whole.events, cut.events);
    assert_eq!(whole.error, cut.error);
    assert_eq!(whole.written, cut.written);
    for worthwhile in [1, 100, usize::MAX] {
        let (events, error) = read_owned(role, &pieces, worthwhile);
        assert_eq!(whole.events, events);
        assert_eq!(whole.error, error);
    }
    for room in [1, 100, 100_000] {
        let (events, error) = read_parts(role, &pieces, room);
        assert_eq!(whole.events, events);
        // In parts a message may be of any size, and what there is of it has rules of its own.
        use ProtocolError::{FrameTooLarge, MessageTooLarge};
        if !matches!(
            whole.error,
            Some(FrameTooLarge { .. } | MessageTooLarge { .. })
        ) {
            assert_eq!(whole.error, error);
        }
    }
}

/// What anything comes to once in a few dozen runs.
#[test]
fn a_message_that_is_too_large_is_so_only_where_it_is_whole() {
    for len in [(16 << 20) + 1, 1_u64 << 40] {
        let header = [&[0x82, 127], &len.to_be_bytes()[..], b"and more"].concat();
        check_cuts(CLIENT, &header, &[]);
        check_cuts(CLIENT, &header, &[1, 2, 3]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn however_the_bytes_are_cut_the_same_events_come_out_of_a_server(
        bytes in wire_bytes(Role::Server), cuts in cuts(),
    ) {
        check_cuts(Role::Server, &bytes, &cuts);
    }

    #[test]
    fn however_the_bytes_are_cut_the_same_events_come_out_of_a_client(
        bytes in wire_bytes(CLIENT), cuts in cuts(),
    ) {
        check_cuts(CLIENT, &bytes, &cuts);
    }

    #[test]
    fn whatever_is_sent_by_one_core_is_received_by_the_other(
        acts in prop::collection::vec(act(), 0..12),
        cuts in cuts(),
        client_sends: bool,
    ) {
        let (mut from, mut to) = if client_sends {
            (End::new(CLIENT), End::new(Role::Server))
        } else {
            (End::new(Role::Server), End::new(CLIENT))
        };
        let mut codecs = Codecs::new();
        let mut expected = Vec::new();
        for act in acts {
            match act {
                Act::Send(message) => {
                    from.connection.send(&message, &mut codecs).unwrap();
                    expected.push(OwnedEvent::Message(message));
                }
                Act::Ping(payload) => {
                    from.connection.ping(&payload).unwrap();
                    expected.push(OwnedEvent::Ping(payload.into()));
                }
                Act::Pong(payload) => {
                    from.connection.pong(&payload).unwrap();
                    expected.push(OwnedEvent::Pong(payload.into()));
                }
            }
        }
        from.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
        from.write();
        for piece in pieces(&from.written.clone(), &cuts) {
            to.read(piece);
        }
        prop_assert!(matches!(to.events.pop(), Some(OwnedEvent::Close(Some(_)))));
        prop_assert_eq!(&to.events, &expected);
        from.read(std::mem::take(&mut to.written));
        prop_assert!(from.connection.is_finished() && to.connection.is_finished());
    }
}
