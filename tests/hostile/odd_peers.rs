//! Peers that keep the rules, and behave oddly.

use std::{io, time::Duration};

use sockeye_tests::Server;
use tokio::{io::AsyncWriteExt, time::timeout};

use crate::{
    suite::{Bound, Suite},
    wire::{NO_CONTEXT, Peer, frame, within},
};

const BOUND: Bound = Bound {
    mib: 48,
    why: "a message has 16 MiB at most, and what answers it as much",
};

pub(crate) async fn run(suite: &mut Suite) -> io::Result<()> {
    let serve = Server::sockeye(&[]).await?;
    let mut serve = suite.attack("serve", serve, BOUND).await?;
    let on = &mut serve;
    suite
        .case(on, "a second empty compressed message", |at| async move {
            let mut peer = at.peer(NO_CONTEXT).await;
            for empty in [&[0x00][..], &[0x00], &[0x02, 0x00], &[0x02, 0x00]] {
                peer.send_frame(0xC2, empty).await;
                assert_eq!(peer.expect(0x82).await, b"");
            }
        })
        .await;
    suite
        .case(on, "frames after a Close", |at| async move {
            let mut peer = at.peer("").await;
            let mut bytes = peer.frame(0x88, [0x0F, 0xA0, b'x']);
            bytes.extend(peer.frame(0x81, "after"));
            // Not even wrong any more.
            bytes.extend(peer.frame(0xFF, "after"));
            peer.send(bytes).await;
            assert_eq!(peer.expect_close().await, (4000, "x".into()));
            peer.expect_end().await;
        })
        .await;
    suite
        .case(on, "a Close without a code", |at| async move {
            let mut peer = at.peer("").await;
            peer.send_frame(0x88, "").await;
            assert_eq!(peer.expect_close().await.0, 1005);
            peer.expect_end().await;
        })
        .await;
    suite
        .case(on, "control frames between fragments", |at| async move {
            let mut peer = at.peer("").await;
            peer.send_frame(0x01, "При").await;
            peer.send_frame(0x89, "1").await;
            assert_eq!(peer.expect(0x8A).await, b"1");
            peer.send_frame(0x8A, "nobody asked").await;
            peer.send_frame(0x00, b"\xD0").await;
            peer.send_frame(0x89, "2").await;
            assert_eq!(peer.expect(0x8A).await, b"2");
            peer.send_frame(0x80, b"\xB2").await;
            peer.expect_text("Прив").await;
        })
        .await;
    suite
        .case(on, "a Close between fragments", |at| async move {
            let mut peer = at.peer("").await;
            peer.send_frame(0x01, "never").await;
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            peer.expect_end().await;
        })
        .await;
    suite
        .case(
            on,
            "a hundred frames and a half in the packet of the head",
            |at| async move {
                let early =
                    (0..100).flat_map(|number| frame(0x81, true, number.to_string().as_bytes()));
                let early: Vec<u8> = early.chain(frame(0x01, true, b"and half of ")).collect();
                let mut peer = Peer::client(at.stream().await, "", &early).await;
                for number in 0..100 {
                    peer.expect_text(&number.to_string()).await;
                }
                peer.send_frame(0x80, "another").await;
                peer.expect_text("and half of another").await;
            },
        )
        .await;
    suite
        .case(on, "a Close in the packet of the head", |at| async move {
            let early = frame(0x88, true, &[0x03, 0xE9]);
            let mut peer = Peer::client(at.stream().await, "", &early).await;
            assert_eq!(peer.expect_close().await.0, 1001);
            peer.expect_end().await;
        })
        .await;
    suite
        .case(on, "frames a byte at a time", |at| async move {
            let mut peer = at.peer(NO_CONTEXT).await;
            peer.stream.set_nodelay(true).unwrap();
            let mut bytes = peer.frame(0x81, "Привет");
            bytes.extend(peer.frame(0xC1, crate::wrongs::HELLO));
            for byte in bytes {
                peer.send([byte]).await;
            }
            peer.expect_text("Привет").await;
            peer.expect_text("Hello").await;
        })
        .await;
    suite
        .case(
            on,
            "half-closed TCP: answered, then ended",
            |at| async move {
                let mut peer = at.peer("").await;
                peer.send_frame(0x81, "one more thing").await;
                peer.stream.shutdown().await.unwrap();
                peer.expect_text("one more thing").await;
                peer.expect_end().await;
            },
        )
        .await;
    suite
        .case(on, "a reset within a message", |at| async move {
            for sent in [1, 5, 1000] {
                let mut peer = at.peer("").await;
                let bytes = peer.frame(0x82, vec![7; 2000]);
                peer.send(&bytes[..sent]).await;
                peer.stream.set_zero_linger().unwrap();
            }
        })
        .await;
    suite
        .case(
            on,
            "a Close of the server that nobody answers",
            |at| async move {
                let stream = at.stream().await;
                let mut peer = Peer::client_at(stream, "/?close=4321&reason=bye", "", &[]).await;
                assert_eq!(peer.expect_close().await, (4321, "bye".into()));
                // It goes on talking; the server's close timeout ends that.
                let talk = async {
                    loop {
                        let bytes = peer.frame(0x82, [7; 1000]);
                        if peer.stream.write_all(&bytes).await.is_err() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                timeout(Duration::from_secs(15), talk)
                    .await
                    .expect("it may go on talking");
            },
        )
        .await;
    suite
        .case(
            on,
            "1,000 connections that announce 16 MiB each",
            |at| async move {
                let mut peers = Vec::new();
                for _ in 0..1000 {
                    let mut peer = at.peer("").await;
                    let mut header = vec![0x82, 0xFF];
                    header.extend((16_u64 << 20).to_be_bytes());
                    header.extend([0; 4]);
                    peer.send(header).await;
                    peer.send([0; 100]).await;
                    peers.push(peer);
                }
            },
        )
        .await;
    suite
        .case(
            on,
            "a message of the limit, and one byte more: 1009",
            |at| async move {
                let mut peer = at.peer("").await;
                let message = vec![7; 16 << 20];
                let bytes = peer.frame(0x82, &message);
                let (mut read, mut write) = peer.stream.split();
                let mut echo = vec![0; bytes.len() - 4];
                let both = async {
                    use tokio::io::AsyncReadExt;
                    tokio::try_join!(read.read_exact(&mut echo), write.write_all(&bytes))
                };
                within(both).await.unwrap();
                assert!(echo.ends_with(&message), "another message came back");
                let mut header = vec![0x82, 0xFF];
                header.extend(((18_u64 << 20) + 1025).to_be_bytes());
                header.extend([0; 4]);
                peer.send(header).await;
                assert_eq!(peer.expect_close().await.0, 1009);
                peer.expect_end().await;
            },
        )
        .await;
    suite.end(serve).await
}
