//! The closing handshake (RFC 6455 §7), from either side and between a simulated pair.

use std::time::Duration;

use sockeye_proto::{
    CloseCode, CloseFrame, Config, Event, FrameHeader, MessageRef, OpCode, OutputBuffer,
    OwnedEvent, ProtocolError, Role, SendError, Sender,
};

use crate::wire::*;

fn closed(code: CloseCode, reason: &str) -> OwnedEvent {
    OwnedEvent::Close(Some(CloseFrame::new(code, reason)))
}

/// Carries what each end has written to the other until neither has anything to say.
fn exchange(a: &mut End, b: &mut End) {
    loop {
        a.write();
        b.write();
        let (from_a, from_b) = (
            std::mem::take(&mut a.written),
            std::mem::take(&mut b.written),
        );
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        b.read(from_a);
        a.read(from_b);
    }
}

mod section_7_1_2_start_the_closing_handshake {
    use super::*;

    #[test]
    fn either_side_may_and_both_end_finished() {
        for client_closes in [true, false] {
            let (mut client, mut server) = (End::new(CLIENT), End::new(Role::Server));
            let (one, other) = if client_closes {
                (&mut client, &mut server)
            } else {
                (&mut server, &mut client)
            };
            one.connection
                .close(CloseCode::GOING_AWAY, "пока", NOW)
                .unwrap();
            assert!(!one.connection.is_open() && !one.connection.is_finished());
            exchange(one, other);
            assert_eq!(other.events, [closed(CloseCode::GOING_AWAY, "пока")]);
            assert_eq!(one.events, [closed(CloseCode::GOING_AWAY, "пока")]);
            assert!(one.connection.is_finished() && other.connection.is_finished());
        }
    }

    #[test]
    fn both_at_once_end_finished() {
        let (mut client, mut server) = (End::new(CLIENT), End::new(Role::Server));
        client
            .connection
            .close(CloseCode::NORMAL, "c", NOW)
            .unwrap();
        server
            .connection
            .close(CloseCode::GOING_AWAY, "s", NOW)
            .unwrap();
        exchange(&mut client, &mut server);
        assert_eq!(client.events, [closed(CloseCode::GOING_AWAY, "s")]);
        assert_eq!(server.events, [closed(CloseCode::NORMAL, "c")]);
        assert!(client.connection.is_finished() && server.connection.is_finished());
    }

    #[test]
    fn messages_still_arrive_until_the_peer_closes_too() {
        let mut client = End::new(CLIENT);
        client.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
        client
            .read(frame(0x81, "late").bytes())
            .read(frame(0x88, [3, 0xE8]).bytes());
        assert_eq!(client.events, [text("late"), closed(CloseCode::NORMAL, "")]);
    }
}

mod section_7_1_5_a_close_without_a_code {
    use super::*;

    #[test]
    fn says_nothing_and_is_answered_in_kind() {
        for role in BOTH {
            let mut end = End::new(role);
            end.connection.close_without_code(NOW).unwrap();
            assert_eq!(
                end.connection.close_without_code(NOW),
                Err(SendError::Closed)
            );
            assert_eq!(
                end.connection.close(CloseCode::NORMAL, "", NOW),
                Err(SendError::Closed)
            );
        }
        let (mut client, mut server) = (End::new(CLIENT), End::new(Role::Server));
        client.connection.close_without_code(NOW).unwrap();
        exchange(&mut client, &mut server);
        for end in [&client, &server] {
            assert_eq!(end.events, [OwnedEvent::Close(None)]);
            assert!(end.connection.is_finished());
        }
    }
}

mod section_7_1_3_nothing_follows_a_close {
    use super::*;

    #[test]
    fn a_user_is_told() {
        for role in BOTH {
            let mut end = End::new(role);
            end.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
            let connection = &mut end.connection;
            assert_eq!(
                connection.send("a", &mut end.codecs),
                Err(SendError::Closed)
            );
            assert_eq!(connection.ping(b""), Err(SendError::Closed));
            assert_eq!(
                connection.close(CloseCode::NORMAL, "", NOW),
                Err(SendError::Closed)
            );
            end.write();
            let written = end.written.len();
            end.read(frame(0x89, "?").to(role));
            assert_eq!(
                end.written.len(),
                written,
                "a ping after our Close is not answered"
            );
        }
    }

    /// Frame by frame: a receiver would discard a second one.
    fn closes(mut written: &[u8]) -> usize {
        let mut closes = 0;
        while let Some((header, len)) = FrameHeader::parse(written).unwrap() {
            closes += usize::from(header.opcode == OpCode::Close);
            written = &written[len + header.payload_len as usize..];
        }
        assert!(written.is_empty());
        closes
    }

    #[test]
    fn a_close_is_sent_once() {
        for role in BOTH {
            // A Close, and a frame that is none.
            for (first, valid) in [(0x88, true), (0x83, false)] {
                let mut end = End::new(role);
                end.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
                end.read(frame(first, "").to(role));
                assert_eq!(end.error.is_none(), valid);
                assert_eq!(closes(&end.written), 1);
                assert!(end.connection.is_finished());
            }
        }
    }

    #[test]
    fn whatever_ends_sending_nothing_goes_the_quick_way_then() {
        let ends: [fn(&mut Sender); 4] = [
            |sender| sender.close(CloseCode::NORMAL, "", NOW).unwrap(),
            |sender| sender.respond(&Event::Close(None), NOW),
            |sender| sender.fail(ProtocolError::InvalidUtf8, NOW),
            Sender::peer_is_gone,
        ];
        for (at, end) in ends.into_iter().enumerate() {
            let mut sender = Config::new(Role::Server).halves().1;
            sender.output().lend_buffer(OutputBuffer::with_room(1000));
            let late = MessageRef::Binary(b"late");
            assert!(sender.send_quick(late));
            end(&mut sender);
            let before = sender.buffered();
            assert!(!sender.send_quick(late), "{at}");
            assert_eq!(sender.buffered(), before, "{at}");
        }
    }
}

mod section_7_1_7_fail_the_connection {
    use super::*;

    #[test]
    fn the_close_says_what_was_broken_and_nothing_more_is_read() {
        let mut server = End::new(Role::Server);
        let mut bytes = frame(0x81, "a").to(Role::Server);
        bytes.extend(frame(0x83, "").to(Role::Server));
        bytes.extend(frame(0x81, "b").to(Role::Server));
        server.read(&bytes);
        assert_eq!(
            server.events,
            [text("a")],
            "what came before the error is not lost"
        );
        assert_eq!(server.error, Some(ProtocolError::OpCode(3)));
        let mut client = End::new(CLIENT);
        client.read(&server.written);
        let reason = "the opcode 0x3 is reserved";
        assert_eq!(client.events, [closed(CloseCode::PROTOCOL_ERROR, reason)]);
    }

    #[test]
    fn every_reason_fits_into_a_close_frame() {
        for error in [
            ProtocolError::MessageTooLarge { limit: usize::MAX },
            ProtocolError::TooManyFragments { limit: usize::MAX },
            ProtocolError::TooManyMessages { limit: u64::MAX },
            ProtocolError::TooManyBytes { limit: u64::MAX },
            ProtocolError::CloseCode(u16::MAX),
            ProtocolError::CorruptDeflate,
        ] {
            assert!(error.to_string().len() <= CloseFrame::MAX_REASON, "{error}");
        }
    }
}

mod section_7_4_codes {
    use super::*;

    #[test]
    fn a_reason_has_at_most_123_bytes() {
        let mut end = End::new(CLIENT);
        let long = "я".repeat(62);
        let error = SendError::ReasonTooLong { len: 124 };
        assert_eq!(
            end.connection.close(CloseCode::NORMAL, &long, NOW),
            Err(error)
        );
        assert!(end.connection.is_open(), "a refused close closes nothing");
        end.connection
            .close(CloseCode::NORMAL, &long[..122], NOW)
            .unwrap();
    }

    #[test]
    fn a_reason_of_just_123_bytes_is_sent_and_comes_back() {
        for (role, other) in [(CLIENT, Role::Server), (Role::Server, CLIENT)] {
            let (mut end, mut peer) = (End::new(role), End::new(other));
            let reason = "x".repeat(CloseFrame::MAX_REASON);
            let code = CloseCode::NORMAL;
            end.connection.close(code, &reason, NOW).unwrap();
            exchange(&mut end, &mut peer);
            for end in [end, peer] {
                assert_eq!(end.events, [closed(code, &reason)]);
            }
        }
    }

    #[test]
    fn only_a_client_misses_an_extension() {
        let code = CloseCode::MANDATORY_EXTENSION;
        let mut server = End::new(Role::Server);
        let error = SendError::CodeNotForRole(code);
        assert_eq!(server.connection.close(code, "", NOW), Err(error));
        assert_eq!(End::new(CLIENT).connection.close(code, "", NOW), Ok(()));
    }
}

mod deadlines {
    use super::*;

    #[test]
    fn a_peer_that_does_not_answer_a_close_is_given_up() {
        for role in BOTH {
            let mut end = End::with(&Config {
                close_timeout: Duration::from_secs(7),
                ..Config::new(role)
            });
            assert_eq!(end.connection.timeout(), None);
            end.connection.close(CloseCode::NORMAL, "", NOW).unwrap();
            end.write();
            let deadline = NOW + Duration::from_secs(7);
            assert_eq!(end.connection.timeout(), Some(deadline));
            end.connection
                .handle_timeout(deadline - Duration::from_nanos(1));
            assert!(!end.connection.is_finished());
            end.connection.handle_timeout(deadline);
            assert!(end.connection.is_finished());
            assert_eq!(end.connection.timeout(), None);
        }
    }

    #[test]
    fn an_end_without_a_close_leaves_nothing_to_send() {
        let mut end = End::new(CLIENT);
        end.connection.receive_end();
        assert!(!end.connection.is_open());
        assert_eq!(
            end.connection.send("a", &mut end.codecs),
            Err(SendError::Closed)
        );
    }

    /// §7.1.5 and §7.1.7: a driver that goes by `is_finished` waited for ever.
    #[test]
    fn an_end_without_a_close_ends_the_connection_whatever_waits() {
        let mut end = End::new(CLIENT);
        end.connection.send("a", &mut end.codecs).unwrap();
        assert!(!end.connection.is_finished());
        end.connection.receive_end();
        assert!(end.connection.is_finished());
    }

    #[test]
    fn behind_a_close_the_answer_is_written_first() {
        let mut end = End::new(CLIENT);
        let mut bytes = frame(0x88, [3, 232]).to(CLIENT);
        let close = end
            .connection
            .receive(&mut &mut bytes[..], NOW, &mut end.codecs);
        assert!(matches!(close, Ok(Some(_))));
        end.connection.receive_end();
        assert!(!end.connection.is_finished());
        end.write();
        assert!(end.connection.is_finished());
    }
}

/// A driver may make an event by itself.
#[test]
fn what_cannot_have_been_received_is_answered_as_far_as_it_can_be() {
    let mut end = Config::new(Role::Server).halves().1;
    end.respond(&Event::Ping(&[0; 126]), NOW);
    assert!(end.output().is_empty());
    let frame = CloseFrame::new(CloseCode::NORMAL, "x".repeat(124));
    end.respond(&Event::Close(Some(frame)), NOW);
    assert_eq!(end.output().only_chunk(), Some(&[0x88, 2, 3, 232][..]));
}
