//! Compressed messages through a whole connection (RFC 7692 §6 and §7.2), in both roles.

use proptest::prelude::*;
use sockeye_proto::{
    CloseCode, Config, Limits, Message, OwnedEvent, ProtocolError, Role, Sender,
    deflate::{DeflateConfig, DeflateParams, Deflater, Deflaters, WindowBits},
};

use crate::wire::*;

/// An agreement that is the same for both directions.
fn agreed(no_context_takeover: bool, bits: u8) -> DeflateParams {
    let bits = WindowBits::new(bits).unwrap();
    DeflateParams {
        server_no_context_takeover: no_context_takeover,
        client_no_context_takeover: no_context_takeover,
        server_max_window_bits: bits,
        client_max_window_bits: bits,
    }
}

fn config(role: Role, params: DeflateParams) -> Config {
    let config = DeflateConfig {
        threshold: 0,
        ..DeflateConfig::default()
    };
    Config {
        deflate: Some((params, config)),
        ..Config::new(role)
    }
}

fn end(role: Role) -> End {
    End::with(&config(role, agreed(true, 15)))
}

fn other(role: Role) -> Role {
    if matches!(role, Role::Server) {
        CLIENT
    } else {
        Role::Server
    }
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let settings = DeflateConfig::default().deflater(WindowBits::MAX);
    Deflater::new(settings).compress(message, &mut out);
    out
}

/// "Hello", as RFC 7692 §7.2.3.1 compresses it.
const HELLO: [u8; 7] = [0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];

mod section_6_rsv1 {
    use super::*;

    #[test]
    fn a_compressed_message_in_one_frame_and_in_many() {
        for role in BOTH {
            let mut end = end(role);
            end.read(frame(0xC1, HELLO).to(role));
            end.read(frame(0x41, &HELLO[..3]).to(role))
                .read(frame(0x89, "").to(role));
            end.read_bytewise(frame(0x80, &HELLO[3..]).to(role));
            assert_eq!(end.events[0], text("Hello"));
            assert_eq!(end.events[2], text("Hello"));
        }
    }

    #[test]
    fn a_message_may_still_come_as_it_is() {
        for role in BOTH {
            let mut end = end(role);
            end.read(frame(0x81, "Hello").to(role))
                .read(frame(0xC1, HELLO).to(role));
            assert_eq!(end.events, [text("Hello"), text("Hello")]);
        }
    }

    #[test]
    fn on_a_control_or_continuation_frame_it_fails() {
        for role in BOTH {
            for first in [0xC8, 0xC9, 0xCA] {
                let mut end = end(role);
                end.read(frame(first, "").to(role));
                assert_eq!(end.error, Some(ProtocolError::ReservedBits));
                assert_eq!(end.close_code(), Some(CloseCode::PROTOCOL_ERROR));
            }
            let mut end = end(role);
            end.read(frame(0x41, &HELLO[..3]).to(role))
                .read(frame(0xC0, &HELLO[3..]).to(role));
            assert_eq!(end.error, Some(ProtocolError::ReservedBits));
        }
    }

    #[test]
    fn rsv2_and_rsv3_stay_reserved() {
        for role in BOTH {
            let mut end = end(role);
            end.read(frame(0xE1, HELLO).to(role));
            assert_eq!(end.error, Some(ProtocolError::ReservedBits));
        }
    }
}

mod section_7_2_2_decompression {
    use super::*;

    #[test]
    fn corrupt_data_fails_with_1007() {
        for role in BOTH {
            let mut end = end(role);
            end.read(frame(0xC1, [0xFF; 20]).to(role));
            assert_eq!(end.error, Some(ProtocolError::CorruptDeflate));
            assert_eq!(end.close_code(), Some(CloseCode::INVALID_PAYLOAD));
        }
    }

    #[test]
    fn data_past_the_end_fails() {
        // A final block (RFC 7692 §7.2.3.4), then bytes that are not DEFLATE.
        let mut payload = vec![0xF3, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00];
        payload.extend([0xFF; 4]);
        for role in BOTH {
            let mut end = end(role);
            end.read(frame(0xC1, &payload).to(role));
            assert_eq!(end.error, Some(ProtocolError::DeflateTrailingData));
            assert_eq!(end.close_code(), Some(CloseCode::INVALID_PAYLOAD));
        }
    }

    #[test]
    fn a_window_larger_than_agreed_fails() {
        let mut message: Vec<u8> = (0..3000u32).map(|i| ((i * i) >> 5) as u8).collect();
        message.extend_from_within(..);
        let payload = deflated(&message);
        for role in BOTH {
            let mut wide = End::with(&config(role, agreed(true, 15)));
            wide.read(frame(0xC2, &payload).to(role));
            assert_eq!(wide.error, None);
            let mut narrow = End::with(&config(role, agreed(true, 9)));
            narrow.read(frame(0xC2, &payload).to(role));
            assert_eq!(narrow.error, Some(ProtocolError::CorruptDeflate));
        }
    }

    /// A bug: it was refused. §7.2.3.6 writes an empty message as one byte, but there are peers that send none,
    /// and nothing else that it could mean.
    #[test]
    fn a_compressed_message_of_no_bytes_at_all_is_empty() {
        for role in BOTH {
            for no_context_takeover in [true, false] {
                let mut end = End::with(&config(role, agreed(no_context_takeover, 15)));
                end.read(frame(0xC1, HELLO).to(role))
                    .read(frame(0xC1, "").to(role))
                    .read(frame(0x42, "").to(role))
                    .read(frame(0x89, "").to(role))
                    .read(frame(0x00, "").to(role))
                    .read_bytewise(frame(0x80, "").to(role))
                    .read(frame(0xC1, HELLO).to(role));
                let ping = OwnedEvent::Ping("".into());
                let events = [text("Hello"), text(""), ping, binary(b""), text("Hello")];
                assert_eq!((&end.events[..], end.error), (&events[..], None));
            }
            // The context is as it was: §7.2.3.2 refers back to the message before.
            let mut end = End::with(&config(role, agreed(false, 15)));
            for payload in [&HELLO[..], b"", b"\xF2\x00\x11\x00\x00"] {
                end.read(frame(0xC1, payload).to(role));
            }
            assert_eq!(end.events, [text("Hello"), text(""), text("Hello")]);
        }
    }

    #[test]
    fn inflated_text_must_be_utf8() {
        for role in BOTH {
            let mut end = end(role);
            end.read(frame(0xC1, deflated(b"\xFF\xFE")).to(role));
            assert_eq!(end.error, Some(ProtocolError::InvalidUtf8));
        }
    }

    #[test]
    fn the_limit_on_inflated_bytes_holds_at_n_minus_1_n_and_n_plus_1() {
        for role in BOTH {
            for (len, passes) in [(99_999, true), (100_000, true), (100_001, false)] {
                let limits = Limits::default().message(100_000);
                let config = Config {
                    limits,
                    ..config(role, agreed(true, 15))
                };
                let mut end = End::with(&config);
                end.read(frame(0xC2, deflated(&vec![7; len])).to(role));
                assert_eq!(end.events.len(), usize::from(passes), "{len}");
                let error = ProtocolError::MessageTooLarge { limit: 100_000 };
                assert_eq!(end.error, (!passes).then_some(error));
            }
        }
    }

    /// A peer compressed 16 MiB that did not shrink, and its frame was over the limit of the message.
    #[test]
    fn a_message_of_just_the_limit_passes_though_compressing_it_made_it_larger() {
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(100_000)
        .collect();
        let payload = deflated(&noise);
        assert!(payload.len() > noise.len());
        for role in BOTH {
            let limits = Limits::default().message(noise.len());
            let mut end = End::with(&Config {
                limits,
                ..config(role, agreed(true, 15))
            });
            end.read(frame(0xC2, &payload).to(role));
            assert_eq!(end.events, [binary(&noise)]);
        }
    }

    #[test]
    fn what_is_retained_before_inflating_has_a_limit_of_its_own() {
        for role in BOTH {
            let limits = Limits::default().retained(1000);
            let config = Config {
                limits,
                ..config(role, agreed(true, 15))
            };
            let mut end = End::with(&config);
            end.read(frame(0x42, [0; 600]).to(role));
            assert_eq!(end.error, None);
            end.read(frame(0x80, [0; 600]).to(role));
            assert_eq!(
                end.error,
                Some(ProtocolError::MessageTooLarge { limit: 1000 })
            );
        }
    }

    #[test]
    fn a_bomb_on_one_connection_harms_no_other_that_shares_the_codec() {
        let bomb = deflated(&vec![0; 1 << 20]);
        let limits = Limits::default().message(100_000);
        let mut bombed = End::with(&Config {
            limits,
            ..config(CLIENT, agreed(true, 15))
        });
        bombed.read(frame(0xC2, bomb).bytes());
        assert_eq!(
            bombed.error,
            Some(ProtocolError::MessageTooLarge { limit: 100_000 })
        );
        let mut healthy = end(CLIENT);
        std::mem::swap(&mut healthy.codecs, &mut bombed.codecs);
        assert_eq!(
            healthy.read(frame(0xC1, HELLO).bytes()).events,
            [text("Hello")]
        );
    }
}

mod section_7_2_1_compression {
    use super::*;

    fn sent(no_context_takeover: bool, messages: &[&[u8]]) -> Vec<usize> {
        let mut server = End::with(&config(Role::Server, agreed(no_context_takeover, 15)));
        let mut client = End::with(&config(CLIENT, agreed(no_context_takeover, 15)));
        let mut sizes = Vec::new();
        for message in messages {
            let before = server.written.len();
            server
                .connection
                .send(*message, &mut server.codecs)
                .unwrap();
            server.write();
            sizes.push(server.written.len() - before);
        }
        client.read(&server.written);
        let received: Vec<_> = messages.iter().map(|message| binary(message)).collect();
        assert_eq!(client.events, received);
        sizes
    }

    const JSON: &[u8] = br#"{"symbol":"SKY","price":101.25,"volume":4000,"side":"buy"}"#;

    #[test]
    fn a_context_that_is_kept_makes_the_second_message_smaller() {
        let kept = sent(false, &[JSON, JSON]);
        assert!(kept[1] < kept[0] / 4, "{kept:?}");
    }

    #[test]
    fn a_context_that_is_not_kept_does_not() {
        let forgotten = sent(true, &[JSON, JSON]);
        assert_eq!(forgotten[0], forgotten[1]);
    }

    #[test]
    fn empty_messages_one_after_another() {
        for no_context_takeover in [true, false] {
            sent(no_context_takeover, &[b"", b"", JSON, b"", b""]);
        }
    }

    #[test]
    fn what_does_not_shrink_is_sent_as_it_is() {
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(400)
        .collect();
        let sizes = sent(true, &[&noise]);
        assert_eq!(sizes, [4 + 400]);
    }

    /// A server that compresses messages of so many bytes.
    fn compressing_from(threshold: usize) -> Config {
        let config = DeflateConfig {
            threshold,
            ..DeflateConfig::default()
        };
        Config {
            deflate: Some((agreed(true, 15), config)),
            ..Config::new(Role::Server)
        }
    }

    #[test]
    fn below_the_threshold_a_message_is_sent_as_it_is() {
        let mut server = End::with(&compressing_from(59));
        server.connection.send(JSON, &mut server.codecs).unwrap();
        server.write();
        assert_eq!(server.written[0], 0x82);
        assert_eq!(server.written.len(), 2 + JSON.len());
    }

    #[test]
    fn a_message_of_just_the_threshold_is_compressed() {
        let (_, mut sender) = compressing_from(100).halves();
        assert_eq!([99, 100].map(|len| sender.compresses(len)), [false, true]);
        for (len, first) in [(99, 0x82), (100, 0xC2)] {
            sender.send(vec![7; len], &mut Deflaters::new()).unwrap();
            let chunk = sender.output().next_chunk().unwrap();
            assert_eq!(chunk[0], first);
            sender.output().clear();
        }
        sender.peer_is_gone();
        assert!(!sender.compresses(100), "nothing is sent any more");
        let sender = Sender::new(Role::Server, None, NOW);
        assert!(!sender.compresses(usize::MAX), "nothing was agreed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_is_sent_compressed_is_received(
        messages in prop::collection::vec(
            prop_oneof![
                prop::collection::vec(any::<u8>(), 0..300).prop_map(Message::from),
                "[a-f]{0,2000}".prop_map(Message::from),
                (0usize..70_000).prop_map(|len| Message::from(vec![1; len])),
            ],
            0..8,
        ),
        no_context_takeover: bool,
        bits in 8u8..=15,
        client_sends: bool,
        cut in 1usize..5000,
    ) {
        let role = if client_sends { CLIENT } else { Role::Server };
        let params = agreed(no_context_takeover, bits);
        let mut from = End::with(&config(role, params));
        let mut to = End::with(&config(other(role), params));
        for message in &messages {
            from.connection.send(message, &mut from.codecs).unwrap();
        }
        from.write();
        for piece in from.written.chunks(cut) {
            to.read(piece);
        }
        prop_assert_eq!(to.error, None);
        let expected: Vec<_> =
            messages.into_iter().map(OwnedEvent::Message).collect();
        prop_assert_eq!(&to.events, &expected);
    }
}
