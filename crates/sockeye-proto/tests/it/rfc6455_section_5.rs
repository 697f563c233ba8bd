//! Data framing (RFC 6455 §5), section by section, in both roles.

use sockeye_proto::{
    CloseCode, Limits, OwnedEvent, Part, ProtocolError, Receiver, Role, SendError,
    deflate::Inflater,
};

use crate::wire::*;

/// What a sequence of frames comes to: fails with this error, and this code is sent.
fn fails(role: Role, bytes: &[u8], error: ProtocolError, code: CloseCode) {
    for bytewise in [false, true] {
        let mut end = End::new(role);
        if bytewise {
            end.read_bytewise(bytes)
        } else {
            end.read(bytes)
        };
        assert_eq!(end.error, Some(error), "{bytes:02x?}");
        assert_eq!(end.close_code(), Some(code), "{bytes:02x?}");
        assert!(end.connection.is_finished());
        assert!(!end.connection.is_open());
    }
}

mod section_5_1_overview {
    use super::*;

    #[test]
    fn a_server_refuses_frames_without_a_mask() {
        let bytes = frame(0x81, "a").bytes();
        fails(
            Role::Server,
            &bytes,
            ProtocolError::Unmasked,
            CloseCode::PROTOCOL_ERROR,
        );
    }

    #[test]
    fn a_client_refuses_frames_with_a_mask() {
        let bytes = frame(0x81, "a").to(Role::Server);
        fails(
            CLIENT,
            &bytes,
            ProtocolError::Masked,
            CloseCode::PROTOCOL_ERROR,
        );
    }

    #[test]
    fn a_client_masks_every_frame_and_a_server_none() {
        for (role, bit) in [(CLIENT, 0x80), (Role::Server, 0)] {
            let mut end = End::new(role);
            end.connection.send("a", &mut end.codecs).unwrap();
            end.connection.ping(b"").unwrap();
            end.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
            end.write();
            let mut rest = &end.written[..];
            while let Some((header, len)) = sockeye_proto::FrameHeader::parse(rest).unwrap() {
                assert_eq!(rest[1] & 0x80, bit);
                rest = &rest[len + header.payload_len as usize..];
            }
            assert!(rest.is_empty());
        }
    }
}

mod section_5_2_base_framing {
    use super::*;

    #[test]
    fn reserved_bits_fail_where_nothing_was_agreed() {
        for role in BOTH {
            for bit in [0x40, 0x20, 0x10, 0x70] {
                for opcode in [1, 2, 8, 9, 10] {
                    let bytes = frame(0x80 | bit | opcode, "").to(role);
                    let error = ProtocolError::ReservedBits;
                    fails(role, &bytes, error, CloseCode::PROTOCOL_ERROR);
                }
            }
        }
    }

    #[test]
    fn reserved_opcodes_fail() {
        for role in BOTH {
            for opcode in (3..8).chain(11..16) {
                let bytes = frame(0x80 | opcode, "").to(role);
                let error = ProtocolError::OpCode(opcode);
                fails(role, &bytes, error, CloseCode::PROTOCOL_ERROR);
            }
        }
    }

    #[test]
    fn lengths_that_are_not_minimal_fail() {
        for (role, bit) in [(CLIENT, 0), (Role::Server, 0x80)] {
            for length in [&[126, 0, 125][..], &[127, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF]] {
                let mut bytes = vec![0x82];
                bytes.extend(length);
                bytes[1] |= bit;
                let error = ProtocolError::LengthNotMinimal;
                fails(role, &bytes, error, CloseCode::PROTOCOL_ERROR);
            }
        }
    }

    #[test]
    fn a_length_with_the_top_bit_set_fails() {
        let bytes = [0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0];
        fails(
            Role::Server,
            &bytes,
            ProtocolError::LengthTopBit,
            CloseCode::PROTOCOL_ERROR,
        );
    }

    #[test]
    fn every_length_arrives_whole_and_bytewise() {
        for role in BOTH {
            for len in [0, 1, 125, 126, 127, 128, 0xFFFF, 0x1_0000] {
                let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
                let bytes = frame(0x82, &payload).to(role);
                let mut whole = End::new(role);
                assert_eq!(whole.read(&bytes).events, [binary(&payload)]);
                let mut bytewise = End::new(role);
                assert_eq!(bytewise.read_bytewise(&bytes).events, [binary(&payload)]);
            }
        }
    }
}

mod section_5_4_fragmentation {
    use super::*;

    #[test]
    fn fragments_are_one_message() {
        for role in BOTH {
            let mut end = End::new(role);
            end.read(frame(0x01, "Hel").to(role));
            assert_eq!(end.events, []);
            end.read(frame(0x00, "").to(role))
                .read(frame(0x80, "lo").to(role));
            assert_eq!(end.events, [text("Hello")]);
        }
    }

    #[test]
    fn control_frames_may_come_between_and_are_answered_at_once() {
        for role in BOTH {
            let mut end = End::new(role);
            end.read(frame(0x01, "Hel").to(role))
                .read(frame(0x89, "?").to(role));
            assert_eq!(end.events, [OwnedEvent::Ping("?".into())]);
            assert_eq!(end.written[0], 0x8A);
            end.read_bytewise(frame(0x8A, "!").to(role))
                .read(frame(0x80, "lo").to(role));
            assert_eq!(
                end.events[1..],
                [OwnedEvent::Pong("!".into()), text("Hello")]
            );
        }
    }

    /// The buffer of a ping that came in two pieces was let go of together with the message's.
    #[test]
    fn a_control_frame_in_pieces_takes_nothing_from_the_message_around_it() {
        for role in BOTH {
            let mut end = End::new(role);
            end.read(frame(0x02, [3, 232]).to(role));
            let ping = frame(0x89, [0; 15]).to(role);
            end.read(&ping[..8])
                .read(&ping[8..])
                .read(frame(0x80, "").to(role));
            assert_eq!(end.events[1], binary(&[3, 232]));
        }
    }

    #[test]
    fn a_continuation_without_a_message_fails() {
        for role in BOTH {
            for first in [0x00, 0x80] {
                let error = ProtocolError::ContinuationUnexpected;
                fails(
                    role,
                    &frame(first, "a").to(role),
                    error,
                    CloseCode::PROTOCOL_ERROR,
                );
            }
        }
    }

    #[test]
    fn a_message_within_a_message_fails() {
        for role in BOTH {
            for first in [0x81, 0x02] {
                let mut bytes = frame(0x01, "a").to(role);
                bytes.extend(frame(first, "b").to(role));
                let error = ProtocolError::ContinuationExpected;
                fails(role, &bytes, error, CloseCode::PROTOCOL_ERROR);
            }
        }
    }

    #[test]
    fn a_message_after_a_fragmented_one_is_its_own() {
        let mut end = End::new(CLIENT);
        end.read(frame(0x01, "a").bytes())
            .read(frame(0x80, "b").bytes());
        end.read(frame(0x82, "c").bytes());
        assert_eq!(end.events, [text("ab"), binary(b"c")]);
    }

    #[test]
    fn a_gathered_message_that_was_taken_leaves_it_fresh() {
        let mut receiver = Receiver::new(CLIENT, Limits::default(), None);
        let mut bytes = frame(0x01, "a").bytes();
        bytes.extend(frame(0x80, "b").bytes());
        let event = receiver.receive_owned(&mut &mut bytes[..], &mut Inflater::new());
        assert_eq!(event, Ok(Some(text("ab"))));
        assert!(receiver.is_fresh() && receiver.is_idle());
    }

    #[test]
    fn too_many_fragments_fail_empty_ones_counted() {
        for role in BOTH {
            let limits = Limits::default().fragments(3);
            let mut end = End::limited(role, limits);
            end.read(frame(0x01, "").to(role));
            end.read(frame(0x00, "").to(role))
                .read(frame(0x80, "a").to(role));
            assert_eq!(end.events, [text("a")]);
            end.read(frame(0x01, "").to(role));
            end.read(frame(0x00, "").to(role))
                .read(frame(0x00, "").to(role));
            assert_eq!(end.error, None);
            end.read(frame(0x80, "a").to(role));
            assert_eq!(
                end.error,
                Some(ProtocolError::TooManyFragments { limit: 3 })
            );
            assert_eq!(end.close_code(), Some(CloseCode::MESSAGE_TOO_BIG));
        }
    }
}

mod section_5_5_control_frames {
    use super::*;

    #[test]
    fn fragmented_or_long_ones_fail() {
        for role in BOTH {
            for opcode in [8, 9, 10] {
                let error = ProtocolError::ControlFragmented;
                fails(
                    role,
                    &frame(opcode, "").to(role),
                    error,
                    CloseCode::PROTOCOL_ERROR,
                );
                let error = ProtocolError::ControlTooLong;
                let long = frame(0x80 | opcode, [0; 126]).to(role);
                fails(role, &long, error, CloseCode::PROTOCOL_ERROR);
            }
        }
    }

    #[test]
    fn a_payload_of_125_bytes_is_echoed() {
        for role in BOTH {
            let mut end = End::new(role);
            end.read(frame(0x89, [7; 125]).to(role));
            let mut peer = End::new(if matches!(role, Role::Server) {
                CLIENT
            } else {
                Role::Server
            });
            peer.read(&end.written);
            assert_eq!(peer.events, [OwnedEvent::Pong(vec![7; 125].into())]);
        }
    }

    #[test]
    fn a_user_sends_at_most_125_bytes() {
        for role in BOTH {
            let mut end = End::new(role);
            let error = Err(SendError::ControlTooLong { len: 126 });
            assert_eq!(end.connection.ping(&[7; 126]), error);
            assert_eq!(end.connection.pong(&[7; 126]), error);
            assert_eq!(end.connection.ping(&[7; 125]), Ok(()));
            assert_eq!(end.connection.pong(&[7; 125]), Ok(()));
            end.write();
            // Masked is what a client sends.
            let header = if matches!(role, Role::Server) { 2 } else { 6 };
            assert_eq!(end.written.len(), 2 * (header + 125));
        }
    }
}

mod section_5_5_1_close {
    use super::*;

    #[test]
    fn a_payload_of_one_byte_fails() {
        for role in BOTH {
            let error = ProtocolError::CloseOneByte;
            fails(
                role,
                &frame(0x88, [3]).to(role),
                error,
                CloseCode::PROTOCOL_ERROR,
            );
        }
    }

    #[test]
    fn codes_that_may_not_be_sent_fail() {
        for role in BOTH {
            for code in [
                0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535u16,
            ] {
                let error = ProtocolError::CloseCode(code);
                let bytes = frame(0x88, code.to_be_bytes()).to(role);
                fails(role, &bytes, error, CloseCode::PROTOCOL_ERROR);
            }
        }
    }

    #[test]
    fn a_reason_that_is_not_utf8_fails() {
        for role in BOTH {
            let error = ProtocolError::CloseReasonUtf8;
            let bytes = frame(0x88, b"\x03\xE8\xCE\xBA\xE1\xBD\xB9\xCF\x83\xED\xA0\x80").to(role);
            fails(role, &bytes, error, CloseCode::INVALID_PAYLOAD);
        }
    }

    #[test]
    fn the_code_is_echoed_and_an_empty_close_with_an_empty_one() {
        for role in BOTH {
            for code in [
                1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999u16,
            ] {
                let mut end = End::new(role);
                end.read(frame(0x88, code.to_be_bytes()).to(role));
                assert_eq!(end.close_code().map(u16::from), Some(code));
            }
            let mut end = End::new(role);
            end.read(frame(0x88, "").to(role));
            assert_eq!(end.events, [OwnedEvent::Close(None)]);
            assert_eq!(end.written[1] & 0x7F, 0);
        }
    }

    #[test]
    fn frames_after_a_close_are_discarded() {
        for role in BOTH {
            let mut end = End::new(role);
            let mut bytes = frame(0x88, [3, 0xE8]).to(role);
            bytes.extend(frame(0x81, "late").to(role));
            bytes.extend(frame(0x89, "late").to(role));
            bytes.extend([0xFF; 50]);
            end.read(&bytes);
            assert_eq!(end.events.len(), 1);
            assert_eq!(end.error, None);
            assert!(end.connection.is_finished());
        }
    }
}

mod section_5_5_2_ping {
    use super::*;

    #[test]
    fn every_ping_is_answered_while_the_peer_reads() {
        let mut end = End::new(CLIENT);
        let pings: Vec<u8> = (0..10).flat_map(|i| frame(0x89, [i]).bytes()).collect();
        end.read(&pings);
        let mut peer = End::new(Role::Server);
        peer.read(&end.written);
        let pongs: Vec<_> = (0..10).map(|i| OwnedEvent::Pong(vec![i].into())).collect();
        assert_eq!(peer.events, pongs);
    }

    /// As `End::read`, for a peer that does not read the answers.
    fn read_without_writing(end: &mut End, mut bytes: Vec<u8>) {
        let mut input = &mut bytes[..];
        while end
            .connection
            .receive(&mut input, NOW, &mut end.codecs)
            .unwrap()
            .is_some()
        {}
    }

    #[test]
    fn only_the_newest_ping_is_answered_where_the_peer_does_not_read() {
        let mut end = End::new(Role::Server);
        end.connection
            .send(vec![0; 100_000], &mut end.codecs)
            .unwrap();
        for i in 0..10_000u16 {
            read_without_writing(&mut end, frame(0x89, i.to_be_bytes()).to(Role::Server));
        }
        assert!(end.connection.output().len() < 101_000);
        end.write();
        end.write();
        let mut peer = End::new(CLIENT);
        peer.read(&end.written);
        let newest = OwnedEvent::Pong(9_999u16.to_be_bytes().to_vec().into());
        assert_eq!(peer.events[1..], [newest]);
    }

    /// It was framed when the output was asked for once more, which a driver that reads next did not.
    #[test]
    fn an_answer_that_waits_is_written_with_what_it_waits_for() {
        for role in BOTH {
            let mut end = End::new(role);
            end.connection
                .send(vec![0; 20_000], &mut end.codecs)
                .unwrap();
            for payload in ["old", "x"] {
                read_without_writing(&mut end, frame(0x89, payload).to(role));
            }
            while !end.connection.output().is_empty() {
                end.write_some(3000);
            }
            let pong = match role {
                Role::Server => frame(0x8A, "x").bytes(),
                // Frames from a client are masked.
                _ => frame(0x8A, "x").to(Role::Server),
            };
            assert!(end.written.ends_with(&pong));
            assert_eq!(end.connection.counters().sent.pongs, 1);
        }
    }

    /// It waited until little did, and whoever sends as fast as the peer reads never let it come to that.
    #[test]
    fn an_answer_is_written_though_as_much_is_queued_as_is_written() {
        for role in BOTH {
            let mut end = End::new(role);
            let send = |end: &mut End| {
                let message = vec![0; 20_000];
                end.connection.send(message, &mut end.codecs).unwrap();
            };
            (0..10).for_each(|_| send(&mut end));
            for ping in 0..10u8 {
                read_without_writing(&mut end, frame(0x89, [ping]).to(role));
                for _ in 0..10 {
                    send(&mut end);
                    end.write_some(20_100);
                }
            }
            let mut peer = End::new(match role {
                Role::Server => CLIENT,
                _ => Role::Server,
            });
            peer.read(&end.written);
            let pongs = peer.events.iter().filter_map(|event| match event {
                OwnedEvent::Pong(payload) => Some(payload[0]),
                _ => None,
            });
            let pongs: Vec<_> = pongs.collect();
            assert_eq!(pongs, (0..10).collect::<Vec<_>>());
            assert_eq!(end.connection.counters().sent.pongs, 10);
            assert!(end.connection.output().len() > 180_000);
        }
    }

    /// One that was not kept, since little waited, stood behind one that was, in whose place a newer one came.
    #[test]
    fn answers_keep_their_order() {
        let mut end = End::new(Role::Server);
        let send = |end: &mut End| {
            let message = vec![0; 20_000];
            end.connection.send(message, &mut end.codecs).unwrap();
        };
        send(&mut end);
        read_without_writing(&mut end, frame(0x89, "1").to(Role::Server));
        end.write_some(15_000);
        read_without_writing(&mut end, frame(0x89, "2").to(Role::Server));
        send(&mut end);
        read_without_writing(&mut end, frame(0x89, "3").to(Role::Server));
        end.write();
        read_without_writing(&mut end, frame(0x89, "4").to(Role::Server));
        end.write();
        let mut peer = End::new(CLIENT);
        peer.read(&end.written);
        peer.events
            .retain(|event| matches!(event, OwnedEvent::Pong(_)));
        let expected = ["3", "4"].map(|payload| OwnedEvent::Pong(payload.into()));
        assert_eq!(peer.events, expected);
    }

    #[test]
    fn a_users_pong_displaces_no_answer() {
        let mut end = End::new(Role::Server);
        end.connection
            .send(vec![0; 100_000], &mut end.codecs)
            .unwrap();
        read_without_writing(&mut end, frame(0x89, "asked").to(Role::Server));
        end.connection.pong(b"unasked").unwrap();
        end.write();
        end.write();
        let mut peer = End::new(CLIENT);
        peer.read(&end.written);
        let pongs = [
            OwnedEvent::Pong("asked".into()),
            OwnedEvent::Pong("unasked".into()),
        ];
        assert_eq!(peer.events[1..], pongs);
    }

    #[test]
    fn an_answer_that_waits_goes_out_before_the_close() {
        let mut end = End::new(Role::Server);
        end.connection
            .send(vec![0; 100_000], &mut end.codecs)
            .unwrap();
        read_without_writing(&mut end, frame(0x89, "asked").to(Role::Server));
        end.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
        end.write();
        let mut peer = End::new(CLIENT);
        peer.read(&end.written);
        assert_eq!(peer.events[1], OwnedEvent::Pong("asked".into()));
        assert!(matches!(peer.events[2], OwnedEvent::Close(_)));
    }
}

mod section_5_6_data_frames {
    use super::*;

    #[test]
    fn text_that_is_not_utf8_fails_on_the_byte_that_breaks_it() {
        for role in BOTH {
            let mut end = End::new(role);
            // The frame announces more than arrives: the bad byte is not waited for.
            let bytes = frame(0x81, b"abc\xFF and more").to(role);
            let header = bytes.len() - 13;
            end.read(&bytes[..header + 3]);
            assert_eq!(end.error, None);
            end.read(&bytes[header + 3..header + 4]);
            assert_eq!(end.error, Some(ProtocolError::InvalidUtf8));
            assert_eq!(end.close_code(), Some(CloseCode::INVALID_PAYLOAD));
        }
    }

    #[test]
    fn text_may_be_cut_within_a_character_and_not_end_there() {
        for role in BOTH {
            let mut end = End::new(role);
            end.read(frame(0x01, b"\xCE").to(role))
                .read(frame(0x80, b"\xBA").to(role));
            assert_eq!(end.events, [text("κ")]);
            end.read(frame(0x81, b"\xCE").to(role));
            assert_eq!(end.error, Some(ProtocolError::InvalidUtf8));

            let mut end = End::new(role);
            end.read(frame(0x01, b"\xCE").to(role))
                .read(frame(0x80, b"").to(role));
            assert_eq!(end.error, Some(ProtocolError::InvalidUtf8));
        }
    }

    #[test]
    fn binary_may_be_anything() {
        for role in BOTH {
            let mut end = End::new(role);
            end.read(frame(0x82, [0xFF, 0xFE, 0]).to(role));
            assert_eq!(end.events, [binary(&[0xFF, 0xFE, 0])]);
        }
    }
}

mod section_5_7_examples {
    use super::*;

    #[test]
    fn each_as_printed() {
        let hello = [0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F];
        assert_eq!(End::new(CLIENT).read(hello).events, [text("Hello")]);
        let masked = [
            0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
        ];
        assert_eq!(End::new(Role::Server).read(masked).events, [text("Hello")]);
        let fragmented = [0x01, 0x03, 0x48, 0x65, 0x6C, 0x80, 0x02, 0x6C, 0x6F];
        assert_eq!(End::new(CLIENT).read(fragmented).events, [text("Hello")]);
        let ping = [0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F];
        let mut end = End::new(CLIENT);
        assert_eq!(end.read(ping).events, [OwnedEvent::Ping("Hello".into())]);
        let pong = [
            0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58,
        ];
        assert_eq!(end.written, pong);
    }
}

mod section_10_4_limits {
    use super::*;

    #[test]
    fn a_message_of_just_the_limit_passes_and_one_byte_more_fails_on_its_header() {
        for role in BOTH {
            let mut end = End::limited(role, Limits::default().message(1000));
            end.read(frame(0x82, [0; 999]).to(role))
                .read(frame(0x82, [0; 1000]).to(role));
            assert_eq!(end.events.len(), 2);
            end.read(&frame(0x82, [0; 1001]).to(role)[..8]);
            assert_eq!(
                end.error,
                Some(ProtocolError::MessageTooLarge { limit: 1000 })
            );
            assert_eq!(end.close_code(), Some(CloseCode::MESSAGE_TOO_BIG));
        }
    }

    #[test]
    fn a_frame_may_have_a_limit_of_its_own() {
        for role in BOTH {
            let mut end = End::limited(role, Limits::default().frame(1000));
            end.read(frame(0x02, [0; 1000]).to(role))
                .read(frame(0x80, [0; 1000]).to(role));
            assert_eq!(end.events.len(), 1);
            end.read(frame(0x82, [0; 1001]).to(role));
            assert_eq!(
                end.error,
                Some(ProtocolError::FrameTooLarge { limit: 1000 })
            );
            assert_eq!(end.close_code(), Some(CloseCode::MESSAGE_TOO_BIG));
        }
    }

    #[test]
    fn the_limit_holds_over_fragments() {
        for role in BOTH {
            let mut end = End::limited(role, Limits::default().message(1000));
            end.read(frame(0x02, [0; 600]).to(role))
                .read(frame(0x80, [0; 400]).to(role));
            assert_eq!(end.events.len(), 1);
            end.read(frame(0x02, [0; 600]).to(role))
                .read(frame(0x80, [0; 401]).to(role));
            assert_eq!(
                end.error,
                Some(ProtocolError::MessageTooLarge { limit: 1000 })
            );
        }
    }

    #[test]
    fn nothing_is_allocated_on_a_claim() {
        // A masked frame of which ten bytes arrive, whatever it claims.
        let claim = |first: u8, len: usize| {
            let len = (len as u64).to_be_bytes();
            [&[first, 0xFF][..], &len, &[1, 2, 3, 4], &[0; 10]].concat()
        };
        let mut end = End::limited(Role::Server, Limits::default().message(usize::MAX));
        end.read(claim(0x82, usize::MAX / 4));
        assert_eq!(end.error, None);
        // And a second fragment, as long as there may be.
        let mut end = End::limited(Role::Server, Limits::default().message(usize::MAX));
        end.read(frame(0x02, "a").to(Role::Server));
        end.read(claim(0x80, usize::MAX / 2));
        assert_eq!(end.error, None);
    }

    /// A client's receiver that has been given some bytes, in parts or not.
    fn given(mut bytes: Vec<u8>, in_parts: bool) -> Receiver {
        let limits = Limits::default().message(usize::MAX);
        let mut receiver = Receiver::new(CLIENT, limits, None);
        let mut input = &mut bytes[..];
        if in_parts {
            let mut part = || receiver.receive_part(&mut input, &mut [0; 100]).unwrap();
            assert!(matches!(part(), Some(Part::Begin(_))));
            while part().is_some() {}
        } else {
            let event = receiver.receive_owned(&mut input, &mut Inflater::new());
            assert_eq!(event, Ok(None));
        }
        receiver
    }

    #[test]
    fn a_claim_costs_one_step_and_then_no_more_than_has_arrived() {
        let claimed = 1u64 << 30;
        for first in [0x82, 0x02] {
            let mut receiver = given([&[first, 127][..], &claimed.to_be_bytes()].concat(), false);
            let mut arrived = 0;
            while arrived < 8 << 20 {
                let (buffer, limit) = receiver.payload_buffer(1).unwrap();
                // Large steps, but of a claim alone no more than one.
                let room = buffer.capacity();
                let most = arrived + arrived.max(128 * 1024) + 4096;
                assert!(room <= most, "{room} for {arrived}");
                assert!(limit >= 64 * 1024 && buffer.len() + limit <= room);
                let count = limit.min(100_000);
                buffer.resize(buffer.len() + count, 7);
                receiver.received(count).unwrap();
                arrived += count;
            }
        }
    }

    #[test]
    fn a_small_frame_costs_no_step_whether_or_not_it_is_the_last() {
        for first in [0x82, 0x02] {
            let mut receiver = given(vec![first, 126, 3, 232], false);
            let (buffer, limit) = receiver.payload_buffer(1).unwrap();
            assert!(buffer.capacity() < 10_000, "{}", buffer.capacity());
            assert_eq!(limit, 1000);
        }
    }

    #[test]
    fn a_buffer_is_offered_for_as_much_as_is_worthwhile_and_asked_for_where_there_is_none() {
        let bytes = frame(0x82, [7; 1000]).bytes();
        let mut receiver = given(bytes[..4 + 100].to_vec(), false);
        assert!(receiver.payload_buffer(901).is_none());
        let wanted = receiver.room_wanted().unwrap();
        assert!((1000..10_000).contains(&wanted), "{wanted}");
        receiver.adopt(Vec::with_capacity(wanted));
        assert_eq!(receiver.room_wanted(), None);
        let (buffer, limit) = receiver.payload_buffer(900).unwrap();
        assert_eq!((limit, buffer.capacity()), (900, wanted));
    }

    #[test]
    fn no_buffer_is_offered_or_asked_for_in_parts_or_for_a_control_frame() {
        let message = frame(0x82, [7; 1000]).bytes();
        let ping = frame(0x89, [7; 100]).bytes();
        for mut receiver in [
            given(message[..4 + 100].to_vec(), true),
            given(ping[..50].to_vec(), false),
        ] {
            assert_eq!(receiver.room_wanted(), None);
            assert!(receiver.payload_buffer(1).is_none());
        }
    }
}
