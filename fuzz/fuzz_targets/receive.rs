//! A receiver in either role (RFC 6455 §5, RFC 7692 §6) is given any bytes: the same comes of them
//! however they are cut and read, the peer understands the answers, and little is held.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{
    Choices, allocations,
    ends::{NOW, compress, config, first_mask, frames, other, pieces},
};
use sockeye_proto::{
    CloseFrame, Codecs, Config, Connection, Event, Limits, OwnedEvent, ProtocolError, Receiver,
    Sender, deflate::Inflater,
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let flags = choices.byte();
    let mut config = config(flags);
    config.limits = limits(&mut choices);
    compress(&mut config, flags, &mut choices);
    let worthwhile = [1, 3, 200, 5000, usize::MAX][usize::from(choices.byte() % 5)];
    let scale = [1, 1, 30, 2000][usize::from(flags >> 6)];
    let cuts = choices.cuts();
    let bytes = if flags & 16 == 0 {
        choices.rest().to_vec()
    } else {
        frames(choices, &config)
    };
    let pieces = pieces(&bytes, &cuts, scale);

    let whole = read(&config, &[&bytes]);
    assert_eq!(whole, read(&config, &pieces));
    assert_eq!(whole, read_owned(&config, &pieces, usize::MAX));
    assert_eq!(whole, read_owned(&config, &pieces, worthwhile));
    assert_eq!(whole, read_lent(&config, &pieces, worthwhile));
    understood(&config, &whole);
    unread(&config, &bytes, &whole);
    little_is_held(&config, &pieces, worthwhile);
});

fn limits(choices: &mut Choices<'_>) -> Limits {
    match choices.byte() {
        0 => Limits::default(),
        scale => {
            let mut bytes = || usize::from(choices.byte()) * usize::from(scale);
            Limits::default()
                .message(bytes())
                .frame(bytes())
                .retained(bytes())
                .fragments(usize::from(scale % 16))
        }
    }
}

/// What came of some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    events: Vec<OwnedEvent>,
    error: Option<ProtocolError>,
    written: Vec<u8>,
}

/// Reads as the core alone does, and writes after each event.
fn read(config: &Config, pieces: &[&[u8]]) -> Seen {
    first_mask();
    let (mut connection, mut codecs) = (Connection::new(config), Codecs::new());
    let mut seen = Seen::default();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match connection.receive(&mut input, NOW, &mut codecs) {
                Ok(Some(event)) => seen.events.push(event.into_owned()),
                Ok(None) => break,
                Err(error) => assert_eq!(seen.error.replace(error), None, "one error ends it"),
            }
            let output = connection.output();
            output.chunks().for_each(|chunk| seen.written.extend(chunk));
            output.advance(usize::MAX);
        }
        assert!(input.is_empty(), "a receiver consumes all of its input");
    }
    assert_eq!(connection.is_finished(), !connection.is_open());
    seen
}

/// Reads as a driver does that hands out owned events: into the message's own buffer where it is
/// offered.
fn read_owned(config: &Config, pieces: &[&[u8]], worthwhile: usize) -> Seen {
    drive(config, pieces, worthwhile, false, Receiver::receive_owned)
}

/// Reads as a driver does that lends events: it has a quick way for messages that are there whole,
/// a large buffer for those that are not, and takes these without a copy.
fn read_lent(config: &Config, pieces: &[&[u8]], worthwhile: usize) -> Seen {
    drive(
        config,
        pieces,
        worthwhile,
        true,
        |receiver, input, inflater| {
            if let Some(message) = receiver.receive_whole(input) {
                return message.map(|message| Some(OwnedEvent::Message(message.to_owned())));
            }
            if receiver.is_gathering() {
                return receiver.receive_owned(input, inflater);
            }
            let event = receiver.receive(input, inflater)?;
            Ok(event.map(Event::into_owned))
        },
    )
}

type Receive =
    fn(&mut Receiver, &mut &mut [u8], &mut Inflater) -> Result<Option<OwnedEvent>, ProtocolError>;

fn drive(
    config: &Config,
    pieces: &[&[u8]],
    worthwhile: usize,
    adopts: bool,
    receive: Receive,
) -> Seen {
    first_mask();
    let ((mut receiver, mut sender), mut inflater) = (config.halves(), Inflater::new());
    let mut seen = Seen::default();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            if adopts
                && let Some(room) = receiver.room_wanted()
                && room < 20_000
            {
                receiver.adopt(vec![0xEE; room]);
                assert_eq!(receiver.room_wanted(), None);
            }
            if let Some((buffer, limit)) = receiver.payload_buffer(worthwhile) {
                assert!(limit > 0 && buffer.capacity() - buffer.len() >= limit);
                let take = limit.min(input.len());
                buffer.extend_from_slice(&input[..take]);
                input = &mut input[take..];
                if let Err(error) = receiver.received(take) {
                    fail(&mut seen, &mut sender, error);
                }
            }
            match receive(&mut receiver, &mut input, &mut inflater) {
                Ok(Some(event)) => {
                    sender.respond(&event.as_event(), NOW);
                    seen.events.push(event);
                }
                Ok(None) if input.is_empty() => break,
                Ok(None) => {}
                Err(error) => fail(&mut seen, &mut sender, error),
            }
            write(&mut seen, &mut sender);
            if receiver.is_ended() {
                assert!(
                    receiver.payload_buffer(1).is_none(),
                    "the rest is discarded"
                );
            }
        }
    }
    seen
}

fn fail(seen: &mut Seen, sender: &mut Sender, error: ProtocolError) {
    assert_eq!(seen.error.replace(error), None, "one error ends it");
    sender.fail(error, NOW);
    write(seen, sender);
}

fn write(seen: &mut Seen, sender: &mut Sender) {
    let output = sender.output();
    output.chunks().for_each(|chunk| seen.written.extend(chunk));
    output.advance(usize::MAX);
}

/// The peer understands what was written, and it is just what the standard asks for.
fn understood(config: &Config, seen: &Seen) {
    let mut expected = Vec::new();
    for event in &seen.events {
        match event {
            OwnedEvent::Message(_) | OwnedEvent::Pong(_) => {}
            OwnedEvent::Ping(payload) => expected.push(OwnedEvent::Pong(payload.clone())),
            OwnedEvent::Close(_) => expected.push(event.clone()),
        }
    }
    if let Some(error) = seen.error {
        expected.push(OwnedEvent::Close(Some(CloseFrame {
            code: error.close_code(),
            reason: error.to_string(),
        })));
    }
    let peer = peer(config, &seen.written);
    assert_eq!((peer.events, peer.error), (expected, None));
}

/// What the other end makes of some bytes.
fn peer(config: &Config, bytes: &[u8]) -> Seen {
    let other = Config {
        role: other(config),
        limits: Limits::default(),
        ..*config
    };
    read(&other, &[bytes])
}

/// The most that waits for a peer that sends pings and reads nothing: the backlog, one more pong,
/// the newest, and a Close.
const WAITING: usize = 16 * 1024 + 3 * (125 + 6);

/// Reads everything before it writes: only pongs may be left out, and not the newest.
fn unread(config: &Config, bytes: &[u8], whole: &Seen) {
    first_mask();
    let (mut connection, mut codecs) = (Connection::new(config), Codecs::new());
    let mut bytes = bytes.to_vec();
    let mut input = &mut bytes[..];
    while let Ok(Some(_)) = connection.receive(&mut input, NOW, &mut codecs) {}
    let mut written = Vec::new();
    while !connection.output().is_empty() {
        assert!(connection.output().len() <= WAITING);
        let output = connection.output();
        output.chunks().for_each(|chunk| written.extend(chunk));
        output.advance(usize::MAX);
    }
    let (all, some) = (peer(config, &whole.written), peer(config, &written));
    assert_eq!(some.error, None);
    assert_eq!(some.events.last(), all.events.last());
    let newest = |events: &[OwnedEvent]| {
        let mut pongs = events.iter().rev();
        pongs
            .find(|event| matches!(event, OwnedEvent::Pong(_)))
            .cloned()
    };
    assert_eq!(newest(&some.events), newest(&all.events));
    let mut rest = all.events.iter();
    assert!(
        some.events
            .iter()
            .all(|event| rest.any(|other| other == event))
    );
    if whole.written.len() < 16 * 1024 {
        assert_eq!(written, whole.written);
    }
}

/// What is held grows with what has arrived, and stays within the limits.
fn little_is_held(config: &Config, pieces: &[&[u8]], worthwhile: usize) {
    /// Twice the largest control frame, and as much to spare.
    const CONTROL: usize = 500;
    /// How far into its memory a large payload begins, in the old memory and the new one that it grows into.
    const APART: usize = 2 * 2048;
    /// What a codec takes beside the room for its output.
    const CODEC: usize = 64 * 1024;
    /// What messages of a second kind are counted in.
    const SECOND_KIND: usize = size_of::<[usize; 8]>();
    /// What a peer's claim costs where payloads are read into the message's own buffer.
    const STEP: usize = 128 * 1024;
    let limits = config.limits;
    let mut buffers: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
    let ((mut receiver, _), mut inflater) = (config.halves(), Inflater::new());
    // What it counts in is there for as long as it is: a second kind of message once there is one.
    let start = allocations::live();
    let mut arrived = 0;
    for buffer in &mut buffers {
        arrived += buffer.len();
        let before = allocations::live() - start;
        let ((), peak) = allocations::peak(|| {
            let mut input = &mut buffer[..];
            loop {
                if let Some((payload, limit)) = receiver.payload_buffer(worthwhile) {
                    let take = limit.min(input.len());
                    payload.extend_from_slice(&input[..take]);
                    input = &mut std::mem::take(&mut input)[take..];
                    let _ = receiver.received(take);
                }
                let event = receiver.receive(&mut input, &mut inflater);
                if let Ok(Some(Event::Message(message))) = event {
                    assert!(message.len() <= limits.message);
                }
                if matches!(event, Ok(None)) && input.is_empty() {
                    // As a driver does before it waits for more.
                    let _ = receiver.payload_buffer(worthwhile);
                    break;
                }
            }
        });
        let payload = arrived.min(limits.retained);
        let mut most = 2 * payload;
        if worthwhile < usize::MAX {
            // While it moves there, its old memory is there too, which may have room for twice as much.
            most = most.max(3 * payload + STEP.min(limits.frame));
        }
        most += CONTROL + APART;
        if config.deflate.is_some() {
            // DEFLATE makes at most 1032 bytes of one.
            let inflated = 4096 + 2 * 1032 * arrived;
            most += 2 * CODEC + 2 * limits.message.min(inflated);
        }
        assert!(
            before + peak <= most,
            "{before} + {peak} bytes, {most} are allowed"
        );
        if receiver.is_ended() && config.deflate.is_none() {
            let held = allocations::live() - start;
            assert!(held <= SECOND_KIND, "{held} bytes once it has ended");
        }
    }
}
