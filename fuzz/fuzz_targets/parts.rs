//! Messages read and written in parts (RFC 6455 §5.4): any bytes, read in parts of any size, bring what they bring
//! when messages are read whole, and nothing of a message is held; and what is written in parts, with whatever
//! else is sent meanwhile, is understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{
    Choices, allocations,
    ends::{NOW, compress, config, first_mask, frames, other, pieces},
};
use sockeye_proto::{
    Codecs, Config, Connection, Limits, Message, MessageKind, OwnedEvent, Part, ProtocolError,
    SendError,
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let flags = choices.byte();
    let mut config = config(flags);
    // None applies to what is not held, but one, in another way.
    config.limits = Limits::default()
        .message(usize::MAX)
        .frame(usize::MAX)
        .retained(usize::MAX)
        .fragments(usize::MAX);
    compress(&mut config, flags, &mut choices);
    if flags & 32 != 0 {
        write(&config, choices);
        return;
    }
    let room = 1 + choices.number() % 10_000;
    let skips = choices.byte();
    let scale = [1, 1, 30, 2000][usize::from(flags >> 6)];
    let cuts = choices.cuts();
    let bytes = if flags & 16 == 0 {
        choices.rest().to_vec()
    } else {
        frames(choices, &config)
    };
    let pieces = pieces(&bytes, &cuts, scale);

    let whole = read_whole(&config, &bytes);
    let parts = read_parts(&config, &pieces, room, |_, _| false);
    let once = read_parts(&config, &[&bytes], usize::from(skips) + 1, |_, _| false);
    assert_eq!(parts, once);
    if parts != whole {
        found_earlier(&config, &parts, &whole);
    }
    if parts.error.is_none() {
        some_skipped(&config, &pieces, room, skips, &parts);
    }
    little_is_held(&config, &pieces, room);
});

/// What came of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    events: Vec<OwnedEvent>,
    error: Option<ProtocolError>,
    written: Vec<u8>,
}

impl Seen {
    fn write(&mut self, connection: &mut Connection) {
        let output = connection.output();
        output.chunks().for_each(|chunk| self.written.extend(chunk));
        output.advance(usize::MAX);
    }
}

fn read_whole(config: &Config, bytes: &[u8]) -> Seen {
    first_mask();
    let (mut connection, mut codecs) = (Connection::new(config), Codecs::new());
    let mut seen = Seen::default();
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    loop {
        match connection.receive(&mut input, NOW, &mut codecs) {
            Ok(Some(event)) => seen.events.push(event.into_owned()),
            Ok(None) => break,
            Err(error) => assert_eq!(seen.error.replace(error), None, "one error ends it"),
        }
        seen.write(&mut connection);
    }
    seen
}

/// A compressed message that is broken is found to be so while it comes: read whole, only when it has ended, if it
/// ever does.
fn found_earlier(config: &Config, parts: &Seen, whole: &Seen) {
    use ProtocolError::{CorruptDeflate, DeflateTrailingData, InvalidUtf8};
    assert!(config.deflate.is_some());
    assert!(
        matches!(
            parts.error,
            Some(CorruptDeflate | DeflateTrailingData | InvalidUtf8)
        ),
        "{parts:?} {whole:?}"
    );
    assert!(whole.events.starts_with(&parts.events));
    let rest = &whole.events[parts.events.len()..];
    let is_message = |event: &OwnedEvent| matches!(event, OwnedEvent::Message(_));
    assert!(!rest.iter().any(is_message), "{parts:?} {whole:?}");
}

/// A message as its parts make it.
#[derive(Default)]
struct Assembled(Option<(MessageKind, Vec<u8>)>);

impl Assembled {
    /// Takes a part, and gives what has come whole with it.
    fn take(&mut self, part: Part, room: &[u8]) -> Option<OwnedEvent> {
        match part {
            Part::Begin(kind) => {
                assert!(self.0.is_none(), "a message begins within another");
                self.0 = Some((kind, Vec::new()));
                None
            }
            // More of one that is skipped, or much of which nothing has come.
            Part::Data(0) => None,
            Part::Data(count) => {
                let (_, bytes) = self.0.as_mut().expect("a message has begun");
                bytes.extend(&room[..count]);
                None
            }
            Part::End => {
                let (kind, bytes) = self.0.take().expect("a message has begun");
                Some(OwnedEvent::Message(message(kind, bytes)))
            }
            Part::Event(event) => Some(event),
        }
    }
}

fn message(kind: MessageKind, bytes: Vec<u8>) -> Message {
    match kind {
        MessageKind::Text => String::from_utf8(bytes).expect("text").into(),
        MessageKind::Binary => bytes.into(),
    }
}

/// Reads in parts; `skips` says for each whether the rest of its message is not wanted, given the number of that
/// message. Skipped messages are no events.
fn read_parts(
    config: &Config,
    pieces: &[&[u8]],
    room: usize,
    skips: impl Fn(usize, &Part) -> bool,
) -> Seen {
    first_mask();
    let mut connection = Connection::new(config);
    let (mut seen, mut assembled) = (Seen::default(), Assembled::default());
    let mut room = vec![0; room];
    let mut number = 0;
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match connection.receive_part(&mut input, &mut room, NOW) {
                Ok(Some(part)) => {
                    number += usize::from(matches!(part, Part::Begin(_)));
                    let is_within = !matches!(part, Part::End | Part::Event(_));
                    let skip = is_within && skips(number, &part);
                    seen.events.extend(assembled.take(part, &room));
                    if skip {
                        connection.skip_message();
                        assembled.0 = None;
                    }
                }
                Ok(None) => break,
                Err(error) => assert_eq!(seen.error.replace(error), None, "one error ends it"),
            }
            seen.write(&mut connection);
        }
        assert!(input.is_empty(), "a receiver consumes all of its input");
    }
    seen
}

/// The others come as if nothing were skipped. What is wrong within a message that is skipped need not be found.
fn some_skipped(config: &Config, pieces: &[&[u8]], room: usize, skips: u8, whole: &Seen) {
    let is_skipped = |number: usize| skips & (1 << (number % 8)) != 0;
    let some = read_parts(config, pieces, room, |number, part| {
        // At its beginning, or once something of it has come.
        is_skipped(number) && (number % 3 == 0 || matches!(part, Part::Data(_)))
    });
    assert_eq!(some.error, None);
    assert_eq!(some.written, whole.written, "the same is answered");
    let mut number = 0;
    let expected = whole.events.iter().filter(|event| match event {
        OwnedEvent::Message(message) => {
            number += 1;
            // One without a byte is at its end before it can be skipped.
            !(is_skipped(number) && (number % 3 == 0 || !message.is_empty()))
        }
        _ => true,
    });
    assert!(expected.eq(&some.events));
}

/// Nothing of a message is held, however much arrives.
fn little_is_held(config: &Config, pieces: &[&[u8]], room: usize) {
    /// A control frame and what is owed for those: the backlog of pongs.
    const CONTROL: usize = 20 * 1024;
    /// The codec, and the few bytes that it is given at once.
    const CODEC: usize = 96 * 1024;
    let most = CONTROL + if config.deflate.is_some() { CODEC } else { 0 };
    let mut room = vec![0; room];
    let mut buffers: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let start = allocations::live();
    let mut connection = Connection::new(config);
    for buffer in &mut buffers {
        let before = allocations::live() - start;
        let ((), peak) = allocations::peak(|| {
            let mut input = &mut buffer[..];
            while !matches!(
                connection.receive_part(&mut input, &mut room, NOW),
                Ok(None)
            ) {
                connection.output().advance(usize::MAX);
            }
        });
        assert!(
            before + peak <= most,
            "{before} + {peak} bytes, {most} are allowed"
        );
    }
}

/// Writes as the choices say, and has the other end read it.
fn write(config: &Config, mut choices: Choices<'_>) {
    first_mask();
    let peer_config = Config {
        role: other(config),
        ..*config
    };
    let (mut ours, mut peer) = (Connection::new(config), Connection::new(&peer_config));
    let (mut codecs, mut assembled) = (Codecs::new(), Assembled::default());
    let (mut expected, mut seen) = (Vec::new(), Vec::new());
    let mut open: Option<(MessageKind, Vec<u8>)> = None;
    let mut waiting = Vec::new();
    let mut room = vec![0; 1 + choices.number() % 1000];
    let mut said = 0;
    while !choices.is_empty() && said < 150_000 {
        let what = choices.byte();
        let len = usize::from(choices.byte() % 32);
        let times = [1, 1, 100, 3000][usize::from(what >> 6)];
        let bytes = choices.take(len).repeat(times);
        said += bytes.len();
        match what % 8 {
            0 | 1 => {
                let kind = match what % 8 {
                    0 => MessageKind::Text,
                    _ => MessageKind::Binary,
                };
                let begun = ours.begin_message(kind);
                match &open {
                    Some(_) => assert_eq!(begun, Err(SendError::Unfinished)),
                    None => {
                        begun.expect("the connection is open");
                        open = Some((kind, Vec::new()));
                    }
                }
            }
            2 | 3 => match (ours.send_part(&bytes), &mut open) {
                (result, None) => assert_eq!(result, Err(SendError::NotBegun)),
                (result, Some((kind, so_far))) => {
                    let len = so_far.len();
                    so_far.extend(&bytes);
                    let is_text = match std::str::from_utf8(so_far) {
                        Ok(_) => true,
                        // Cut within a character.
                        Err(error) => error.error_len().is_none(),
                    };
                    if *kind == MessageKind::Text && !is_text {
                        assert_eq!(result, Err(SendError::InvalidUtf8));
                        so_far.truncate(len);
                    } else {
                        assert_eq!(result, Ok(()));
                    }
                }
            },
            4 => assert_eq!(ours.flush_parts().is_ok(), open.is_some()),
            5 => match (ours.finish_message(&mut codecs), &open) {
                (result, None) => assert_eq!(result, Err(SendError::NotBegun)),
                (result, Some((MessageKind::Text, so_far)))
                    if std::str::from_utf8(so_far).is_err() =>
                {
                    assert_eq!(result, Err(SendError::InvalidUtf8));
                }
                (result, Some((kind, so_far))) => {
                    assert_eq!(result, Ok(()));
                    expected.push(OwnedEvent::Message(message(*kind, so_far.clone())));
                    expected.append(&mut waiting);
                    open = None;
                }
            },
            6 => {
                ours.send(&bytes[..], &mut codecs)
                    .expect("the connection is open");
                let event = OwnedEvent::Message(bytes.into());
                match open {
                    Some(_) => waiting.push(event),
                    None => expected.push(event),
                }
            }
            _ => {
                let payload = &bytes[..bytes.len().min(125)];
                ours.ping(payload).expect("the connection is open");
                expected.push(OwnedEvent::Ping(payload.to_vec().into()));
            }
        }
        let mut output = Vec::new();
        ours.output()
            .chunks()
            .for_each(|chunk| output.extend(chunk));
        ours.output().advance(usize::MAX);
        let mut input = &mut output[..];
        while let Some(part) = peer
            .receive_part(&mut input, &mut room, NOW)
            .expect("what is written breaks no rule")
        {
            seen.extend(assembled.take(part, &room));
            peer.output().advance(usize::MAX);
        }
        assert_eq!(seen, expected);
        if what % 8 == 4
            && let Some((_, so_far)) = &open
        {
            let read = assembled.0.as_ref().map_or(&[][..], |(_, bytes)| bytes);
            assert_eq!(read, so_far, "what was flushed can be read");
        }
    }
}
