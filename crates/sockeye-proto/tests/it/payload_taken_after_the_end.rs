//! Once an error or a Close has ended the events, no buffer is offered to read the rest of a message
//! into, the part that had arrived is let go, and what follows is discarded.

use sockeye_proto::{
    Limits, MessageKind, OwnedEvent, Part, ProtocolError, Receiver, Role, deflate::Inflater,
};

use crate::wire::*;

/// A server's receiver that has been given the first bytes of a masked text message of 70,000.
fn within_a_text(first: &[u8]) -> (Receiver, Result<Option<OwnedEvent>, ProtocolError>) {
    let mut bytes = vec![0x81, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70, 0, 0, 0, 0];
    bytes.extend(first);
    let mut receiver = Receiver::new(Role::Server, Limits::default(), None);
    let event = receiver.receive_owned(&mut &mut bytes[..], &mut Inflater::new());
    (receiver, event)
}

#[test]
fn text_that_is_not_utf8_ends_what_is_read_through_the_input() {
    let (mut receiver, event) = within_a_text(b"abc\xFF");
    assert_eq!(event, Err(ProtocolError::InvalidUtf8));
    assert!(receiver.is_ended() && receiver.is_idle());
    assert!(receiver.payload_buffer(1).is_none());
}

#[test]
fn text_that_is_not_utf8_ends_what_is_read_into_the_messages_own_buffer() {
    let (mut receiver, event) = within_a_text(b"abc");
    assert_eq!(event, Ok(None));
    let (buffer, _) = receiver.payload_buffer(1).unwrap();
    buffer.push(0xFF);
    assert_eq!(receiver.received(1), Err(ProtocolError::InvalidUtf8));
    assert!(receiver.is_ended() && receiver.is_idle());
    assert!(receiver.payload_buffer(1).is_none());
}

#[test]
fn a_close_between_two_fragments_lets_the_first_go() {
    let mut receiver = Receiver::new(Role::Server, Limits::default(), None);
    let mut bytes = frame(0x01, "abc").to(Role::Server);
    bytes.extend(frame(0x88, "").to(Role::Server));
    let (mut input, mut inflater) = (&mut bytes[..], Inflater::new());
    let event = receiver.receive_owned(&mut input, &mut inflater);
    assert_eq!(event, Ok(Some(OwnedEvent::Close(None))));
    assert_eq!(receiver.receive_owned(&mut input, &mut inflater), Ok(None));
    assert!(receiver.is_ended() && receiver.is_idle());
}

#[test]
fn a_close_in_parts_lets_the_message_go() {
    let mut receiver = Receiver::new(CLIENT, Limits::default(), None);
    let mut bytes = frame(0x01, "abc").bytes();
    bytes.extend(frame(0x88, "").bytes());
    let mut input = &mut bytes[..];
    let mut part = || receiver.receive_part(&mut input, &mut [0; 10]).unwrap();
    while part().is_some() {}
    assert!(receiver.is_ended() && receiver.is_idle());
}

#[test]
fn behind_an_error_the_input_is_empty() {
    let ways: [fn(&mut Receiver, &mut &mut [u8]) -> bool; 3] = [
        |receiver, input| receiver.receive(input, &mut Inflater::new()).is_err(),
        |receiver, input| receiver.receive_owned(input, &mut Inflater::new()).is_err(),
        |receiver, input| receiver.receive_part(input, &mut [0; 10]).is_err(),
    ];
    for (at, fails) in ways.into_iter().enumerate() {
        let mut receiver = Receiver::new(CLIENT, Limits::default(), None);
        let mut bytes = [0x83, 0, 0x81, 1, b'a'];
        let mut input = &mut bytes[..];
        assert!(fails(&mut receiver, &mut input), "{at}");
        assert!(input.is_empty(), "{at}");
    }
}

/// What followed was read as frames of the message that the Close had left unfinished.
#[test]
fn nothing_is_discarded_as_parts_behind_a_close() {
    let mut receiver = Receiver::new(CLIENT, Limits::default(), None);
    let mut bytes = frame(0x02, "a").bytes();
    bytes.extend(frame(0x88, "").bytes());
    let mut input = &mut bytes[..];
    let mut part = || receiver.receive_part(&mut input, &mut [0; 10]).unwrap();
    assert_eq!(part(), Some(Part::Begin(MessageKind::Binary)));
    assert_eq!(part(), Some(Part::Data(1)));
    assert_eq!(part(), Some(Part::Event(OwnedEvent::Close(None))));
    let mut bytes = [0x83, 0x00];
    let mut input = &mut bytes[..];
    assert_eq!(receiver.discard_part(&mut input), Ok(true));
    assert!(input.is_empty() && receiver.is_ended() && receiver.is_idle());
}
