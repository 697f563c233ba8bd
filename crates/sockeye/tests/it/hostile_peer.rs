//! Peers that break the rules, on a connection in use, in both roles and all forms: each is told
//! why, its user too, and nobody else notices.

use sockeye::{
    CloseCode, Ended, Limits, ProtocolError, Server,
    proto::deflate::{DeflateConfig, WindowBits},
};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::{wire::*, wrongs::*};

fn setup(wrong: &Wrong) -> Setup {
    Setup {
        limits: Limits::default().message(LIMIT).fragments(FRAGMENTS),
        extensions: wrong.extensions,
        deflate: DeflateConfig::available().filter(|_| !wrong.extensions.is_empty()),
        ..Setup::default()
    }
}

#[tokio::test(start_paused = true)]
async fn each_broken_rule_is_told_to_the_peer_and_to_the_user() {
    for wrong in WRONGS {
        for role in BOTH {
            for form in FORMS {
                println!("{}: {role:?} {form:?}", wrong.name);
                let (socket, mut peer) = setup(wrong).open(role).await;
                let seen = echo(form, socket);
                peer.expect_echo("before").await;
                peer.send((wrong.bytes)(role == Role::Server)).await;
                // Discarded, like all that follows a broken rule.
                peer.send_frame(0x81, "after").await;
                let (code, reason) = peer.expect_close().await;
                assert_eq!(code, wrong.code, "{}", wrong.name);
                let error = match (role, wrong.error) {
                    (Role::Client, ProtocolError::Unmasked) => ProtocolError::Masked,
                    (_, error) => error,
                };
                assert_eq!(reason, error.to_string());
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| matches!(ended, Ended::Protocol(e) if *e == error));
                assert_eq!(seen.messages, ["before"], "{}", wrong.name);
            }
        }
    }
}

/// Over TCP: closing a socket with unread bytes would reset the connection, and the peer might never read why.
#[tokio::test]
async fn a_peer_that_is_still_sending_reads_which_rule_it_has_broken() {
    for role in BOTH {
        for form in FORMS {
            let (ours, theirs) = tcp_pair().await;
            let setup = Setup {
                limits: Limits::default().message(LIMIT),
                ..Setup::default()
            };
            let (socket, mut peer) = setup.open_over(role, ours, theirs).await;
            let seen = echo(form, socket);
            let mut large = long(role == Role::Server, 4 << 20);
            large.resize(large.len() + (4 << 20), 0);
            peer.send(large).await;
            assert_eq!(peer.expect_close().await.0, 1009, "{role:?} {form:?}");
            let end = within(peer.stream.read(&mut [0])).await;
            assert!(matches!(end, Ok(0)), "{role:?} {form:?}: {end:?}");
            drop(peer);
            let seen = within(seen).await.unwrap();
            seen.assert_ended(|ended| matches!(ended, Ended::Protocol(_)));
        }
    }
}

/// An echo server in each form; the address of both.
async fn servers(setup: &Setup) -> [std::net::SocketAddr; 2] {
    struct Echo;
    impl sockeye::Handler for Echo {
        fn on_message(&mut self, socket: &mut sockeye::Socket, message: sockeye::MessageRef<'_>) {
            socket.send(message);
        }
    }
    let bind = async || {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        server.acceptor(setup.acceptor())
    };
    let (plain, events) = (bind().await, bind().await);
    let addresses = [plain.local_addr().unwrap(), events.local_addr().unwrap()];
    tokio::spawn(plain.serve(|mut socket| async move {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));
    tokio::spawn(events.serve_handler(|| Echo));
    addresses
}

async fn connect(address: std::net::SocketAddr, extensions: &str) -> Peer<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    Peer::client(stream, extensions, &[]).await
}

#[tokio::test]
async fn a_server_serves_the_next_client_as_if_nothing_had_happened() {
    let base = Setup {
        limits: Limits::default().message(LIMIT).fragments(FRAGMENTS),
        deflate: DeflateConfig::available(),
        ..Setup::default()
    };
    for address in servers(&base).await {
        // Open all the while, on the same thread.
        let mut bystander = connect(address, NO_CONTEXT).await;
        for wrong in WRONGS {
            let mut peer = connect(address, wrong.extensions).await;
            peer.expect_echo("before").await;
            peer.send((wrong.bytes)(true)).await;
            assert_eq!(peer.expect_close().await.0, wrong.code, "{}", wrong.name);
            peer.expect_end().await;
            let mut healthy = connect(address, "").await;
            healthy.expect_echo("healthy").await;
            healthy.send_close(1000, "").await;
            assert_eq!(healthy.expect_close().await.0, 1000);
            healthy.expect_end().await;
            bystander.send_frame(0xC1, HELLO).await;
            bystander.expect_text("Hello").await;
        }
    }
}

mod inflated_sizes {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_below_the_limit_and_the_limit_itself_pass() {
        for role in BOTH {
            for form in FORMS {
                let setup = Setup {
                    limits: Limits::default().message(LIMIT),
                    ..Setup::deflate()
                };
                let (socket, mut peer) = setup.open(role).await;
                let seen = echo(form, socket);
                for len in [LIMIT - 1, LIMIT] {
                    peer.send_frame(0xC2, deflated(&vec![0; len])).await;
                    peer.expect(0xC2).await;
                }
                // Two empty ones, as compressors write them.
                for empty in [vec![0x00], vec![0x02, 0x00]] {
                    peer.send_frame(0xC2, empty).await;
                    assert_eq!(peer.expect(0x82).await, b"");
                }
                peer.send_frame(0xC2, deflated(&vec![0; LIMIT + 1])).await;
                assert_eq!(peer.expect_close().await.0, 1009);
                drop(peer);
                let seen = within(seen).await.unwrap();
                let lens: Vec<_> = seen.messages.iter().map(|message| message.len()).collect();
                assert_eq!(lens, [LIMIT - 1, LIMIT, 0, 0]);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_larger_than_agreed_is_refused() {
        let mut message: Vec<u8> = (0..3000u32).map(|i| ((i * i) >> 5) as u8).collect();
        message.extend_from_within(..);
        for role in BOTH {
            for form in FORMS {
                let bits = WindowBits::new(9).unwrap();
                let setup = Setup {
                    deflate: Some(DeflateConfig {
                        peer_max_window_bits: bits,
                        ..DeflateConfig::default()
                    }),
                    extensions: match role {
                        Role::Client => {
                            "permessage-deflate; server_no_context_takeover; \
                             client_no_context_takeover; server_max_window_bits=9"
                        }
                        Role::Server => {
                            "permessage-deflate; server_no_context_takeover; \
                             client_no_context_takeover; client_max_window_bits"
                        }
                    },
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                assert!(socket.extensions().contains("_max_window_bits=9"));
                let seen = echo(form, socket);
                peer.send_frame(0xC2, deflated(&message)).await;
                assert_eq!(peer.expect_close().await.0, 1007);
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| {
                    matches!(ended, Ended::Protocol(ProtocolError::CorruptDeflate))
                });
            }
        }
    }
}

mod around_the_handshake {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn frames_in_the_same_packet_as_the_head_are_received() {
        for role in BOTH {
            for form in FORMS {
                let mask = role == Role::Server;
                let early: Vec<u8> = (0..100)
                    .flat_map(|number| masked(0x81, mask, number.to_string()))
                    .chain(masked(0x01, mask, "and half of "))
                    .collect();
                let setup = Setup {
                    early,
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let seen = echo(form, socket);
                for number in 0..100 {
                    peer.expect_text(&number.to_string()).await;
                }
                peer.send_frame(0x80, "another").await;
                peer.expect_text("and half of another").await;
                peer.send_close(1000, "").await;
                assert_eq!(peer.expect_close().await.0, 1000);
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| matches!(ended, Ended::ByPeer(Some(_))));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_in_the_same_packet_as_the_head_is_answered() {
        for role in BOTH {
            for form in FORMS {
                let setup = Setup {
                    early: masked(0x88, role == Role::Server, [0x03, 0xE9]),
                    ..Setup::default()
                };
                let (socket, mut peer) = setup.open(role).await;
                let seen = echo(form, socket);
                assert_eq!(peer.expect_close().await.0, 1001);
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| ended.code() == 1001);
            }
        }
    }

    #[tokio::test]
    async fn a_head_and_frames_a_byte_at_a_time() {
        use tokio::io::AsyncWriteExt;
        for address in servers(&Setup::default()).await {
            let (mut near, far) = tokio::io::duplex(1);
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            // A pipe that holds one byte makes each its own packet.
            let relay =
                tokio::spawn(
                    async move { tokio::io::copy_bidirectional(&mut stream, &mut near).await },
                );
            let mut peer = Peer::client(far, "", &[]).await;
            peer.expect_echo("Привет").await;
            peer.send_close(1000, "bye").await;
            assert_eq!(peer.expect_close().await, (1000, "bye".into()));
            peer.expect_end().await;
            peer.stream.shutdown().await.unwrap();
            within(relay).await.unwrap().unwrap();
        }
    }
}

mod frames_in_odd_places {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn after_a_close_they_are_discarded() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                peer.expect_echo("before").await;
                let mut bytes = peer.frame(0x88, [0x0F, 0xA0, b'x']);
                bytes.extend(peer.frame(0x81, "after"));
                // Not even wrong any more.
                bytes.extend(peer.frame(0xFF, "after"));
                peer.send(bytes).await;
                assert_eq!(peer.expect_close().await, (4000, "x".into()));
                if role == Role::Server {
                    peer.expect_end().await;
                }
                drop(peer);
                let seen = within(seen).await.unwrap();
                assert_eq!(seen.messages, ["before"]);
                seen.assert_ended(|ended| {
                    matches!(ended, Ended::ByPeer(Some(frame))
                        if frame.code == CloseCode::new(4000).unwrap() && frame.reason == "x")
                });
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn control_frames_between_fragments_are_answered_at_once() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                peer.send_frame(0x01, "При").await;
                peer.send_frame(0x89, "1").await;
                assert_eq!(peer.expect(0x8A).await, b"1");
                peer.send_frame(0x8A, "nobody asked").await;
                peer.send_frame(0x00, b"\xD0").await;
                peer.send_frame(0x89, "2").await;
                assert_eq!(peer.expect(0x8A).await, b"2");
                peer.send_frame(0x80, b"\xB2").await;
                peer.expect_text("Прив").await;
                // A Close between fragments is a Close all the same.
                peer.send_frame(0x01, "never").await;
                peer.send_close(1000, "").await;
                assert_eq!(peer.expect_close().await.0, 1000);
                drop(peer);
                let seen = within(seen).await.unwrap();
                assert_eq!(seen.messages, ["Прив"]);
                seen.assert_ended(Ended::was_clean);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_without_a_code_is_answered_without_one() {
        for role in BOTH {
            for form in FORMS {
                let (socket, mut peer) = Setup::default().open(role).await;
                let seen = echo(form, socket);
                peer.send_frame(0x88, "").await;
                assert_eq!(peer.expect_close().await.0, 1005);
                drop(peer);
                let seen = within(seen).await.unwrap();
                seen.assert_ended(|ended| matches!(ended, Ended::ByPeer(None)));
            }
        }
    }
}
