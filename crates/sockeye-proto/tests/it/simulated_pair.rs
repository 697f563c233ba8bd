//! Two endpoints and the network between them, with a clock of its own: latency, and pieces of any
//! size.

use std::{collections::VecDeque, time::Duration};

use proptest::prelude::*;
use sockeye_proto::{CloseCode, CloseFrame, Codecs, Config, Connection, Message, OwnedEvent, Role};

use crate::wire::{CLIENT, text};

const MS: Duration = Duration::from_millis(1);

/// One endpoint, with what it has seen.
struct Side {
    connection: Connection,
    codecs: Codecs,
    events: Vec<OwnedEvent>,
    /// When its transport was shut down: by itself, or because the other side did.
    ended: Option<Duration>,
}

/// Bytes on their way, and when they arrive; none are the end of the stream.
type Wire = VecDeque<(Duration, Vec<u8>)>;

struct Pair {
    now: Duration,
    latency: Duration,
    /// The largest piece that arrives at once.
    piece: usize,
    sides: [Side; 2],
    /// To the client, and to the server.
    wires: [Wire; 2],
    /// Whether the network has been cut: nothing arrives any more.
    cut: bool,
}

const CLIENT_SIDE: usize = 0;
const SERVER_SIDE: usize = 1;

impl Pair {
    fn new(latency: Duration, piece: usize) -> Self {
        let side = |role| Side {
            connection: Connection::new(&Config::new(role)),
            codecs: Codecs::new(),
            events: Vec::new(),
            ended: None,
        };
        Self {
            now: Duration::from_secs(1000),
            latency,
            piece,
            sides: [side(CLIENT), side(Role::Server)],
            wires: Default::default(),
            cut: false,
        }
    }

    fn send(&mut self, side: usize, message: &Message) {
        let side = &mut self.sides[side];
        side.connection.send(message, &mut side.codecs).unwrap();
    }

    fn close(&mut self, side: usize, code: CloseCode) {
        self.sides[side]
            .connection
            .close(code, "", self.now)
            .unwrap();
    }

    /// Puts on the wires what the sides have to say, and ends the transports that are done.
    fn transmit(&mut self) {
        for from in [CLIENT_SIDE, SERVER_SIDE] {
            let side = &mut self.sides[from];
            if side.ended.is_some() {
                continue;
            }
            let output = side.connection.output();
            let bytes = output.chunks().collect::<Vec<_>>().concat();
            output.advance(bytes.len());
            for piece in bytes.chunks(self.piece) {
                self.wires[1 - from].push_back((self.now + self.latency, piece.to_vec()));
            }
            // RFC 6455 §7.1.1: the server ends the transport; the client waits for that, until its
            // deadline.
            let waits = from == CLIENT_SIDE && side.connection.timeout().is_some();
            if side.connection.is_finished() && !waits {
                side.ended = Some(self.now);
                self.wires[1 - from].push_back((self.now + self.latency, Vec::new()));
            }
        }
    }

    /// Goes on to the next thing that happens; `false` where nothing will.
    fn step(&mut self) -> bool {
        self.transmit();
        if self.cut {
            self.wires = Default::default();
        }
        let arrivals = self
            .wires
            .iter()
            .filter_map(|wire| wire.front())
            .map(|(at, _)| *at);
        let open = self.sides.iter().filter(|side| side.ended.is_none());
        let timeouts = open.filter_map(|side| side.connection.timeout());
        let Some(next) = arrivals.chain(timeouts).min() else {
            return false;
        };
        self.now = next;
        for to in [CLIENT_SIDE, SERVER_SIDE] {
            let side = &mut self.sides[to];
            side.connection.handle_timeout(next);
            while self.wires[to].front().is_some_and(|(at, _)| *at <= next) {
                let Some((_, mut bytes)) = self.wires[to].pop_front() else {
                    break;
                };
                if bytes.is_empty() {
                    side.connection.receive_end();
                    side.ended.get_or_insert(next);
                }
                let mut input = &mut bytes[..];
                while let Some(event) = side
                    .connection
                    .receive(&mut input, next, &mut side.codecs)
                    .unwrap()
                {
                    side.events.push(event.into_owned());
                }
            }
        }
        true
    }

    fn run(&mut self) {
        let mut steps = 0;
        while self.step() {
            steps += 1;
            assert!(steps < 1_000_000, "it goes on for ever");
        }
    }
}

fn closed(code: CloseCode) -> OwnedEvent {
    OwnedEvent::Close(Some(CloseFrame::new(code, "")))
}

#[test]
fn a_close_takes_one_round_trip_and_the_server_ends_first() {
    for closer in [CLIENT_SIDE, SERVER_SIDE] {
        let mut pair = Pair::new(40 * MS, 1000);
        let began = pair.now;
        pair.send(closer, &"last".into());
        pair.close(closer, CloseCode::NORMAL);
        pair.run();
        assert_eq!(
            pair.sides[1 - closer].events,
            [text("last"), closed(CloseCode::NORMAL)]
        );
        assert_eq!(pair.sides[closer].events, [closed(CloseCode::NORMAL)]);
        let [client, server] = pair.sides.map(|side| side.ended.unwrap() - began);
        assert!(server < client, "{server:?} {client:?}");
        let expected = if closer == CLIENT_SIDE {
            [80 * MS, 40 * MS]
        } else {
            [120 * MS, 80 * MS]
        };
        assert_eq!([client, server], expected);
    }
}

#[test]
fn both_close_at_once() {
    let mut pair = Pair::new(40 * MS, 1);
    pair.close(CLIENT_SIDE, CloseCode::NORMAL);
    pair.close(SERVER_SIDE, CloseCode::GOING_AWAY);
    pair.run();
    assert_eq!(
        pair.sides[CLIENT_SIDE].events,
        [closed(CloseCode::GOING_AWAY)]
    );
    assert_eq!(pair.sides[SERVER_SIDE].events, [closed(CloseCode::NORMAL)]);
    assert!(pair.sides.iter().all(|side| side.ended.is_some()));
}

#[test]
fn a_peer_that_has_vanished_is_given_up_after_the_close_timeout() {
    for closer in [CLIENT_SIDE, SERVER_SIDE] {
        let mut pair = Pair::new(40 * MS, 1000);
        let began = pair.now;
        pair.close(closer, CloseCode::NORMAL);
        pair.cut = true;
        pair.run();
        assert_eq!(
            pair.sides[closer].ended,
            Some(began + Duration::from_secs(5))
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever either side sends before it closes is received, in order, before its Close; and
    /// both ends come to rest.
    #[test]
    fn everything_sent_before_a_close_arrives(
        latency in 0u32..50,
        piece in prop_oneof![1usize..10, 1usize..2000],
        acts in prop::collection::vec((0usize..2, prop::option::of("\\PC{0,300}"), any::<bool>()), 1..30),
    ) {
        let mut pair = Pair::new(latency * MS, piece);
        let mut sent = [Vec::new(), Vec::new()];
        for (side, message, step) in acts {
            let open = pair.sides[side].connection.is_open();
            match message {
                Some(message) if open => {
                    pair.send(side, &message.as_str().into());
                    sent[side].push(text(&message));
                }
                None if open => pair.close(side, CloseCode::NORMAL),
                _ => {}
            }
            if step {
                pair.step();
            }
        }
        if pair.sides[CLIENT_SIDE].connection.is_open() {
            pair.close(CLIENT_SIDE, CloseCode::NORMAL);
        }
        pair.run();
        for side in [CLIENT_SIDE, SERVER_SIDE] {
            prop_assert!(pair.sides[side].ended.is_some());
            let mut received = pair.sides[side].events.clone();
            let last = received.pop();
            prop_assert!(matches!(last, Some(OwnedEvent::Close(_))), "{last:?}");
            prop_assert_eq!(&received, &sent[1 - side]);
        }
    }
}
