//! A message prepared once: the same bytes on the wire as when it is sent by itself, whatever was
//! agreed, and compressed no more often than there are parameters.

use std::time::Duration;

use sockeye_proto::{
    CloseCode, Message, Output, Prepared, Role, SendError, Sender,
    deflate::{DeflateConfig, Deflaters, Direction, WindowBits},
};

const CLIENT: Role = Role::Client {
    masks: || [0x37, 0xFA, 0x21, 0x3D],
};

fn sender(role: Role, deflate: Option<(Direction, DeflateConfig)>) -> Sender {
    Sender::new(role, deflate, Duration::from_secs(5))
}

fn taken(output: &mut Output) -> Vec<u8> {
    let bytes = output.chunks().collect::<Vec<_>>().concat();
    output.advance(bytes.len());
    bytes
}

fn json(len: usize) -> String {
    let records = (0..).flat_map(|n| format!("{{\"id\":{n},\"side\":\"buy\"}},").into_bytes());
    String::from_utf8(records.take(len).collect()).unwrap()
}

/// What goes out for a message that is sent twice with another between, so that a context that was
/// kept shows.
fn wire(mut sender: Sender, mut send: impl FnMut(&mut Sender)) -> Vec<u8> {
    send(&mut sender);
    sender.send("between", &mut Deflaters::new()).unwrap();
    send(&mut sender);
    taken(sender.output())
}

/// That a prepared message makes the same bytes as the message, for several connections in turn.
fn assert_same(message: &Message, role: Role, deflate: Option<(Direction, DeflateConfig)>) {
    let prepared = Prepared::new(message);
    let plainly = wire(sender(role, deflate), |sender| {
        sender.send(message, &mut Deflaters::new()).unwrap();
    });
    for _ in 0..2 {
        let shared = wire(sender(role, deflate), |sender| {
            sender.send(&prepared, &mut Deflaters::new()).unwrap();
        });
        assert_eq!(shared, plainly, "{deflate:?}");
    }
}

#[test]
fn without_compression() {
    for role in [Role::Server, CLIENT] {
        for len in [0, 1, 125, 126, 16_383, 16_384, 65_535, 65_536, 200_000] {
            assert_same(&json(len).into(), role, None);
            assert_same(&json(len).into_bytes().into(), role, None);
        }
    }
}

#[test]
fn a_large_payload_is_shared_and_not_copied() {
    let prepared = Prepared::new(vec![7; 100_000]);
    let payload = prepared.message().as_bytes().as_ptr();
    for _ in 0..2 {
        let mut sender = sender(Role::Server, None);
        sender.send(&prepared, &mut Deflaters::new()).unwrap();
        assert!(
            sender
                .output()
                .chunks()
                .any(|chunk| chunk.as_ptr() == payload)
        );
    }
}

#[test]
fn after_a_close_it_is_refused() {
    for deflate in [
        None,
        DeflateConfig::available().map(|c| (direction(false, 15), c)),
    ] {
        let mut sender = sender(Role::Server, deflate);
        let prepared = Prepared::new(json(1000));
        sender.send(&prepared, &mut Deflaters::new()).unwrap();
        sender.close(CloseCode::NORMAL, "", Duration::ZERO).unwrap();
        let before = sender.buffered();
        let sent = sender.send(&prepared, &mut Deflaters::new());
        assert_eq!(sent, Err(SendError::Closed));
        assert_eq!(sender.buffered(), before);
    }
}

fn direction(keeps_context: bool, window: u8) -> Direction {
    Direction {
        keeps_context,
        window: WindowBits::new(window).unwrap(),
    }
}

#[cfg(feature = "deflate")]
mod section_7_2_1_compression {
    use std::{
        sync::{Arc, Barrier},
        thread,
    };

    use proptest::prelude::*;
    use sockeye_proto::deflate::{Level, MemLevel};

    use super::*;

    fn config(level: u8, mem_level: u8, threshold: usize) -> DeflateConfig {
        DeflateConfig {
            level: Level::new(level).unwrap(),
            mem_level: MemLevel::new(mem_level).unwrap(),
            threshold,
            ..DeflateConfig::default()
        }
    }

    #[test]
    fn each_set_of_parameters() {
        let message = Message::from(json(5000));
        for role in [Role::Server, CLIENT] {
            for keeps_context in [false, true] {
                for window in [8, 9, 15] {
                    for level in [0, 1, 6, 9] {
                        let agreed = direction(keeps_context, window);
                        assert_same(&message, role, Some((agreed, config(level, 8, 0))));
                    }
                }
            }
        }
    }

    /// One message for connections that differ in everything, more of them than it has places for.
    #[test]
    fn many_sets_of_parameters_at_once() {
        let message = Message::from(json(40_000));
        let prepared = Prepared::new(&message);
        let mut sets = vec![None];
        for window in [9, 11, 15] {
            for level in [1, 6] {
                for mem_level in [1, 8] {
                    for keeps_context in [false, true] {
                        for threshold in [0, 40_000, 40_001] {
                            sets.push(Some((
                                direction(keeps_context, window),
                                config(level, mem_level, threshold),
                            )));
                        }
                    }
                }
            }
        }
        for set in sets.iter().chain(sets.iter().rev()) {
            let bytes = |message: &dyn Fn(&mut Sender)| {
                let mut sender = sender(Role::Server, *set);
                message(&mut sender);
                taken(sender.output())
            };
            assert_eq!(
                bytes(&|sender| sender.send(&prepared, &mut Deflaters::new()).unwrap()),
                bytes(&|sender| sender.send(&message, &mut Deflaters::new()).unwrap()),
                "{set:?}"
            );
        }
    }

    #[test]
    fn below_the_threshold_it_goes_as_it_is() {
        let prepared = Prepared::new(json(300));
        for (threshold, first) in [(300, 0xC1), (301, 0x81)] {
            let deflate = Some((direction(false, 15), config(1, 8, threshold)));
            let mut sender = sender(Role::Server, deflate);
            sender.send(&prepared, &mut Deflaters::new()).unwrap();
            assert_eq!(taken(sender.output())[0], first);
        }
    }

    #[test]
    fn what_does_not_shrink_goes_as_it_is() {
        for len in [1, 100, 20_000] {
            // What a linear congruential generator gives does not compress.
            let noise = (0..len).scan(1u32, |state, _| {
                *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some((*state >> 24) as u8)
            });
            let message = Message::from(noise.collect::<Vec<u8>>());
            let deflate = Some((direction(false, 15), config(6, 8, 0)));
            assert_same(&message, Role::Server, deflate);
        }
    }

    /// Four peers with windows of their own had taken the places of all others.
    #[test]
    fn the_second_connection_compresses_nothing_whatever_windows_peers_ask_for() {
        let prepared = Prepared::new(json(400_000));
        let mut senders = Vec::new();
        for window in (8..=15).chain(8..=15) {
            let deflate = Some((direction(false, window), config(1, 8, 0)));
            let mut sender = sender(Role::Server, deflate);
            sender.send(&prepared, &mut Deflaters::new()).unwrap();
            senders.push(sender);
        }
        let frames = senders.iter_mut().map(|sender| {
            let chunks: Vec<_> = sender.output().chunks().collect();
            assert_eq!(chunks.len(), 1);
            assert!(chunks[0].len() >= 16 * 1024);
            (chunks[0].as_ptr(), chunks[0].len())
        });
        let frames: Vec<_> = frames.collect();
        // The frame is that of the first: the very same memory.
        assert_eq!(frames[..8], frames[8..]);
    }

    #[test]
    fn threads_that_come_at_once_share_one_frame() {
        let message = Message::from(json(500_000));
        let prepared = Prepared::new(&message);
        let barrier = Arc::new(Barrier::new(8));
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let (prepared, barrier) = (prepared.clone(), barrier.clone());
                thread::spawn(move || {
                    let deflate = Some((direction(false, 14 + n % 2), config(1, 8, 0)));
                    let mut sender = sender(Role::Server, deflate);
                    barrier.wait();
                    sender.send(&prepared, &mut Deflaters::new()).unwrap();
                    let at = sender.output().chunks().next().unwrap().as_ptr().addr();
                    (n % 2, at, taken(sender.output()))
                })
            })
            .collect();
        let frames: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        for (window, at, bytes) in &frames {
            let deflate = Some((direction(false, 14 + window), config(1, 8, 0)));
            let mut alone = sender(Role::Server, deflate);
            alone.send(&message, &mut Deflaters::new()).unwrap();
            assert_eq!(*bytes, taken(alone.output()));
            let same = frames.iter().filter(|frame| frame.1 == *at).count();
            assert_eq!(same, 4, "one frame for each window");
        }
    }

    proptest! {
        #[test]
        fn any_message(
            payload in prop::collection::vec(0u8..4, 0..3000),
            window in 8u8..=15,
            level in 0u8..=9,
            threshold in 0usize..4000,
        ) {
            let deflate = Some((direction(false, window), config(level, 8, threshold)));
            assert_same(&payload.into(), Role::Server, deflate);
        }
    }
}
