//! Too much of everything: heads that do not end, connections, pings, fragments, what inflates, and peers that do
//! not read. Where many attack, each does from an address of its own, unless the case is about one.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use sockeye_tests::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    http::with,
    suite::{At, Bound, Suite, eventually, healthy, patiently},
    wire::{NO_CONTEXT, Peer, frame, within},
    wrongs::deflated,
};

/// How many heads are begun and not ended.
pub(crate) const HALF_OPEN: usize = 10_000;

/// How many connections are being opened at a time: fewer than wait to be accepted, so that the
/// system drops none of them.
const AT_A_TIME: usize = 256;

/// The largest message that a server accepts by default.
const MESSAGE: usize = 16 << 20;

pub(crate) async fn run(suite: &mut Suite) -> io::Result<()> {
    openings(suite).await?;
    frames(suite).await?;
    bombs(suite).await?;
    not_reading(suite).await?;
    descriptors(suite).await
}

async fn openings(suite: &mut Suite) -> io::Result<()> {
    let bound = Bound {
        mib: 128,
        why: "10,000 tasks of some KB, each with the little that it has read",
    };
    let server = Server::sockeye(&[]).await?;
    let mut serve = suite.attack("heads", server, bound).await?;
    let name = format!("{HALF_OPEN} half-open heads, a byte at a time");
    suite.case(&mut serve, name, half_open_heads).await;
    suite.end(serve).await?;

    let bound = Bound {
        mib: 64,
        why: "5,000 open connections, none of which holds a buffer",
    };
    let server = Server::sockeye(&[]).await?;
    let mut serve = suite.attack("flood", server, bound).await?;
    let on = &mut serve;
    suite
        .case(
            on,
            "5,000 connections from one address, reset at once",
            |at| async move {
                flood(&at, 5000, |_| 1, Stay::Reset).await;
            },
        )
        .await;
    suite
        .case(
            on,
            "5,000 connections from one address, opened and kept",
            |at| async move {
                let open = flood(&at, 5000, |_| 1, Stay::Open).await;
                // That any number may come from this machine's own addresses is the default.
                assert_eq!(open, 5000);
            },
        )
        .await;
    suite.end(serve).await?;

    let bound = Bound {
        mib: 16,
        why: "100 open connections, and who is refused leaves nothing",
    };
    let args = ["--max-connections-per-address", "100"];
    let mut serve = suite
        .attack("100 an address", Server::sockeye(&args).await?, bound)
        .await?;
    let on = &mut serve;
    suite
        .case(
            on,
            "5,000 connections from one address that may have 100",
            |at| async move {
                assert_eq!(flood(&at, 5000, |_| 1, Stay::Open).await, 100);
            },
        )
        .await;
    suite
        .case(
            on,
            "the same address again, and ten others",
            |at| async move {
                assert_eq!(
                    flood(&at, 2000, |number| number % 11, Stay::Open).await,
                    1100
                );
            },
        )
        .await;
    suite.end(serve).await?;

    let args = ["--handshake-rate", "50:100"];
    let mut serve = suite
        .attack("50 a second", Server::sockeye(&args).await?, bound)
        .await?;
    suite
        .case(
            &mut serve,
            "2,000 connections from an address that may 50 a second",
            |at| async move {
                let began = Instant::now();
                let open = flood(&at, 2000, |_| 1, Stay::Open).await;
                let most = 100.0 + 50.0 * began.elapsed().as_secs_f32() + 1.0;
                assert!((100..=most as usize).contains(&open), "{open} of {most}");
            },
        )
        .await;
    suite.end(serve).await?;

    let bound = Bound {
        mib: 16,
        why: "300 open connections, and who is refused leaves nothing",
    };
    let args = ["--max-connections", "300"];
    let mut serve = suite
        .attack("300 in all", Server::sockeye(&args).await?, bound)
        .await?;
    suite
        .case(
            &mut serve,
            "2,000 connections where there may be 300",
            |at| async move {
                let before = at.server.descriptors().unwrap();
                let open = crowd(&at, 2000).await;
                assert_eq!(open, 299);
                eventually(|| Ok(at.server.descriptors()? <= before + 1))
                    .await
                    .unwrap();
            },
        )
        .await;
    suite.end(serve).await
}

/// Slow loris: the server gives each no more than its handshake timeout, and others are served
/// meanwhile.
async fn half_open_heads(at: At) {
    let (begun, begins) = watch::channel(0);
    let (begun, turn) = (Arc::new(begun), Arc::new(Semaphore::new(AT_A_TIME)));
    let mut attackers = JoinSet::new();
    for number in 0..HALF_OPEN {
        let (at, begun, turn) = (at.clone(), begun.clone(), turn.clone());
        attackers.spawn(async move {
            let permit = turn.acquire().await.unwrap();
            let mut stream = at.stream_from(number).await.unwrap();
            let began = Instant::now();
            drop(permit);
            // Refused already, where there are too many; reading tells.
            let _ = stream
                .write_all(b"GET / HTTP/1.1\r\nHost: peer\r\nX: ")
                .await;
            begun.send_modify(|begun| *begun += 1);
            let mut byte = [0];
            while timeout(Duration::from_secs(2), stream.read(&mut byte))
                .await
                .is_err()
            {
                let _ = stream.write_all(b"x").await;
                assert!(
                    began.elapsed() < Duration::from_secs(40),
                    "a head may take any time"
                );
            }
            began.elapsed()
        });
    }
    let mut begins = begins;
    within(begins.wait_for(|begun| *begun == HALF_OPEN))
        .await
        .unwrap();
    let longest = again_and_again(at.clone()).await;
    let held = at.server.descriptors().unwrap();
    let took = attackers.join_all().await;
    let last = took.iter().max().unwrap();
    at.note(format!(
        "{held} open at once, the last ended after {:.1} s; served meanwhile within {} ms",
        last.as_secs_f32(),
        longest.as_millis(),
    ));
}

/// What those who flood a server do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stay {
    /// They say nothing, and are gone.
    Reset,
    /// They open a WebSocket, and keep it.
    Open,
}

/// Has so many connect, each from the address that `from` says, while a healthy client comes again and
/// again. Tells how many had a WebSocket open at the same time.
async fn flood(at: &At, count: usize, from: fn(usize) -> usize, stay: Stay) -> usize {
    let meanwhile = tokio::spawn(again_and_again(at.clone()));
    let answers = connect_all(at, count, from, stay).await;
    let longest = meanwhile.await.unwrap();
    let open = answers.iter().filter(|(status, _)| *status == 101).count();
    let told = answers.iter().filter(|(status, _)| *status == 429).count();
    let cut = count - open - told;
    assert!(
        told > 0 || cut == 0 || stay == Stay::Reset,
        "nobody was told why"
    );
    at.note(format!(
        "{open} open, {told} told 429, {cut} cut; served meanwhile within {} ms",
        longest.as_millis()
    ));
    open
}

/// The same from an address each, with nobody beside them.
async fn crowd(at: &At, count: usize) -> usize {
    let answers = connect_all(at, count, |number| number, Stay::Open).await;
    let open = answers.iter().filter(|(status, _)| *status == 101).count();
    let told = answers.iter().filter(|(status, _)| *status == 503).count();
    let cut = count - open - told;
    assert!(told > 0, "nobody was told why");
    at.note(format!("{open} open, {told} told 503, {cut} cut"));
    open
}

/// The status that each was given, with its connection where it keeps that.
async fn connect_all(
    at: &At,
    count: usize,
    from: fn(usize) -> usize,
    stay: Stay,
) -> Vec<(u16, Option<TcpStream>)> {
    let turn = Arc::new(Semaphore::new(AT_A_TIME));
    let mut attackers = JoinSet::new();
    for number in 0..count {
        let (at, turn) = (at.clone(), turn.clone());
        attackers.spawn(async move {
            let permit = turn.acquire().await.unwrap();
            let mut stream = at.stream_from(from(number)).await.unwrap();
            if stay == Stay::Reset {
                stream.set_zero_linger().unwrap();
                return (0, None);
            }
            // Refused already, perhaps.
            let _ = stream.write_all(with("nothing", "").as_bytes()).await;
            let mut first = [0; 12];
            let read = within(stream.read_exact(&mut first)).await;
            drop(permit);
            let status = match read {
                Ok(_) => std::str::from_utf8(&first[9..]).unwrap().parse().unwrap(),
                // Where very many are refused, the server does not spend an answer on each.
                Err(_) => 0,
            };
            (status, Some(stream))
        });
    }
    attackers.join_all().await
}

async fn again_and_again(at: At) -> Duration {
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        longest = longest.max(healthy(at.clone()).await);
    }
    longest
}

async fn frames(suite: &mut Suite) -> io::Result<()> {
    let bound = Bound {
        mib: 48,
        why: "the newest ping is answered, and fragments hold what they bring",
    };
    let server = Server::sockeye(&[]).await?;
    let mut serve = suite.attack("frames", server, bound).await?;
    let on = &mut serve;
    suite
        .case(
            on,
            "500,000 pings from one who reads none of the pongs",
            |at| async move {
                let mut peer = at.peer("").await;
                pings(&mut peer, 500_000).await;
                // At last it reads: the newest is among what was answered.
                let mut count = 0;
                loop {
                    count += 1;
                    if peer.expect(0x8A).await.starts_with(b"499999 ") {
                        break;
                    }
                }
                at.note(format!("{count} pongs"));
                peer.expect_echo("after").await;
            },
        )
        .await;
    suite
        .case(
            on,
            "10,000 pings from each of 100 at once",
            |at| async move {
                let mut attackers = JoinSet::new();
                for number in 0..100 {
                    let at = at.clone();
                    attackers.spawn(async move {
                        let mut peer = at.peer_from(number, "").await;
                        pings(&mut peer, 10_000).await;
                        while !peer.expect(0x8A).await.starts_with(b"9999 ") {}
                    });
                }
                attackers.join_all().await;
            },
        )
        .await;
    suite
        .case(
            on,
            "131,072 fragments of a byte, and one more: 1009",
            |at| async move {
                let mut peer = at.peer("").await;
                for more in [0, 1] {
                    let mut bytes = frame(0x02, true, b"x");
                    for _ in 0..131_070 + more {
                        bytes.extend(frame(0x00, true, b"x"));
                    }
                    bytes.extend(frame(0x80, true, b"x"));
                    peer.send(bytes).await;
                    match more {
                        0 => assert_eq!(peer.expect(0x82).await, [b'x'; 131_072]),
                        _ => assert_eq!(peer.expect_close().await.0, 1009),
                    }
                }
                peer.expect_end().await;
            },
        )
        .await;
    suite
        .case(
            on,
            "131,073 empty fragments from each of 50 at once: 1009",
            |at| async move {
                let mut bytes = frame(0x01, true, b"");
                bytes.extend(frame(0x00, true, b"").repeat(131_072));
                let bytes: Arc<[u8]> = bytes.into();
                let mut attackers = JoinSet::new();
                for number in 0..50 {
                    let (at, bytes) = (at.clone(), bytes.clone());
                    attackers.spawn(async move {
                        let mut peer = at.peer_from(number, "").await;
                        peer.send(bytes).await;
                        assert_eq!(peer.expect_close().await.0, 1009);
                        peer.expect_end().await;
                    });
                }
                attackers.join_all().await;
            },
        )
        .await;
    suite.end(serve).await?;

    let bound = Bound {
        mib: 16,
        why: "who sends too fast is not read, or closed",
    };
    let args = ["--message-rate", "1000:1000", "--on-excess", "close"];
    let mut serve = suite
        .attack("1,000 a second", Server::sockeye(&args).await?, bound)
        .await?;
    suite
        .case(
            &mut serve,
            "pings faster than they may come: 1008",
            |at| async move {
                let mut peer = at.peer("").await;
                let ping = frame(0x89, true, b"");
                let began = Instant::now();
                let code = loop {
                    // It may be closed before all of them are sent.
                    let _ = peer.stream.write_all(&ping.repeat(1000)).await;
                    match peer.next().await {
                        Some(frame) if frame.first == 0x88 => {
                            break u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
                        }
                        pong => assert_eq!(pong.unwrap().first, 0x8A),
                    }
                    assert!(began.elapsed() < Duration::from_secs(20), "it may go on");
                };
                assert_eq!(code, 1008);
            },
        )
        .await;
    suite.end(serve).await?;

    let args = ["--byte-rate", "1M:1M"];
    let mut serve = suite
        .attack("1 MiB a second", Server::sockeye(&args).await?, bound)
        .await?;
    suite
        .case(
            &mut serve,
            "4 MiB from each of 50 who may send one a second",
            |at| async move {
                let began = Instant::now();
                let mut attackers = JoinSet::new();
                for number in 0..50 {
                    let at = at.clone();
                    attackers.spawn(async move {
                        let mut peer = at.peer_from(number, "").await;
                        let message = peer.frame(0x82, vec![7; 64 << 10]);
                        for _ in 0..64 {
                            patiently(peer.stream.write_all(&message)).await.unwrap();
                            patiently(peer.stream.readable()).await.unwrap();
                            assert_eq!(peer.expect(0x82).await.len(), 64 << 10);
                        }
                    });
                }
                attackers.join_all().await;
                assert!(
                    began.elapsed() > Duration::from_millis(2500),
                    "{:?}",
                    began.elapsed()
                );
            },
        )
        .await;
    suite.end(serve).await
}

/// Sends so many pings, numbered, and reads nothing.
async fn pings(peer: &mut Peer<TcpStream>, count: usize) {
    for first in (0..count).step_by(1000) {
        let mut bytes = Vec::new();
        for number in first..count.min(first + 1000) {
            bytes.extend(frame(0x89, true, format!("{number:<125}").as_bytes()));
        }
        peer.send(bytes).await;
    }
}

async fn bombs(suite: &mut Suite) -> io::Result<()> {
    let bound = Bound {
        mib: 128,
        why: "each thread inflates one message at a time, up to 16 MiB in a buffer that grows by doubling",
    };
    let server = Server::sockeye(&[]).await?;
    let mut serve = suite.attack("bombs", server, bound).await?;
    let on = &mut serve;
    for (connections, inflated, code) in [
        (1, MESSAGE - 1, None),
        (1, MESSAGE, None),
        (1, MESSAGE + 1, Some(1009)),
        (100, MESSAGE + 1, Some(1009)),
        (100, 16 * MESSAGE, Some(1009)),
    ] {
        let what = code.map_or("echoed".into(), |code: u16| code.to_string());
        let payload = deflated(&vec![0; inflated]);
        let len = payload.len();
        let name = format!("{connections} at once: {len} bytes that inflate to {inflated}: {what}");
        let bytes: Arc<[u8]> = frame(0xC2, true, &payload).into();
        suite
            .case(on, name, |at| async move {
                let mut attackers = JoinSet::new();
                for number in 0..connections {
                    let (at, bytes) = (at.clone(), bytes.clone());
                    attackers.spawn(async move {
                        let mut peer = at.peer_from(number, NO_CONTEXT).await;
                        peer.send(bytes).await;
                        // A hundred of them are some seconds of work.
                        patiently(peer.stream.readable()).await.unwrap();
                        match code {
                            None => assert!(peer.expect(0xC2).await.len() < 1 << 20),
                            Some(code) => assert_eq!(peer.expect_close().await.0, code),
                        }
                    });
                }
                attackers.join_all().await;
            })
            .await;
    }
    suite.end(serve).await
}

/// How many read while one does not.
const READERS: usize = 1000;

async fn not_reading(suite: &mut Suite) -> io::Result<()> {
    let bound = Bound {
        mib: 48,
        why: "1 MiB waits for a peer before its own messages are no longer read, and there are 1,000 others",
    };
    let server = Server::sockeye(&[]).await?;
    let mut serve = suite.attack("echo", server, bound).await?;
    suite
        .case(
            &mut serve,
            "one never reads its echoes while 1,000 read theirs",
            |at| async move {
                let mut slow = at.peer_from(READERS, "").await;
                let bytes = slow.frame(0x82, vec![7; 256 << 10]);
                // It sends until the server does not read any more either.
                let mut sent = 0;
                while let Ok(done) = timeout(
                    Duration::from_secs(1),
                    slow.stream.write(&bytes[sent % bytes.len()..]),
                )
                .await
                {
                    sent += done.unwrap();
                    assert!(
                        sent < 256 << 20,
                        "the server reads on although nothing is read of its answers"
                    );
                }
                let mut readers = JoinSet::new();
                for number in 0..READERS {
                    let at = at.clone();
                    readers.spawn(async move {
                        let mut peer = at.peer_from(number, "").await;
                        for round in 0..10 {
                            peer.expect_echo(&format!("{number} {round}")).await;
                        }
                    });
                }
                readers.join_all().await;
                at.note(format!("it could send {} MiB", sent >> 20));
            },
        )
        .await;
    suite.end(serve).await?;

    let bound = Bound {
        mib: 96,
        why: "8 MiB wait for a member before it is given up, and there are 1,000 others",
    };
    let server = Server::sockeye(&["--broadcast"]).await?;
    let mut serve = suite.attack_alone("broadcast", server, bound).await?;
    suite
        .case(
            &mut serve,
            "a member never reads 64 MiB while 1,000 do",
            |at| async move {
                // What it is sent is not compressed; what the others are is next to nothing.
                let mut slow = at.peer_from(READERS, "").await;
                let (join, joins) = watch::channel(0);
                let (join, mut joins) = (Arc::new(join), joins);
                let mut readers = JoinSet::new();
                for number in 0..READERS {
                    let (at, join) = (at.clone(), join.clone());
                    readers.spawn(async move {
                        let mut peer = at.peer_from(number, NO_CONTEXT).await;
                        join.send_modify(|joined| *joined += 1);
                        for _ in 0..64 {
                            assert!(peer.expect(0xC2).await.len() < 100_000);
                        }
                        peer.expect_text("the last").await;
                    });
                }
                within(joins.wait_for(|joined| *joined == READERS))
                    .await
                    .unwrap();
                let mut publisher = at.peer_from(READERS + 1, NO_CONTEXT).await;
                let bytes = publisher.frame(0xC2, deflated(&[b'x'; 1 << 20]));
                for _ in 0..64 {
                    publisher.send(&bytes).await;
                    publisher.expect(0xC2).await;
                }
                publisher.send_frame(0x81, "the last").await;
                readers.join_all().await;
                // It is given up: after what was on its way there is an end, perhaps within a message.
                let (mut read, mut room) = (0, vec![0; 1 << 20]);
                while let Ok(count @ 1..) = patiently(slow.stream.read(&mut room)).await {
                    read += count;
                }
                assert!(read < 64 << 20, "everything waited for it");
                at.note(format!("{} MiB were on their way to it", read >> 20));
            },
        )
        .await;
    suite
        .case(
            &mut serve,
            "two send a thousand others 5,000 empty messages each at once",
            broadcast_storm,
        )
        .await;
    suite.end(serve).await
}

/// What comes of 60 KB, ten million messages, is not to wait in memory, and nobody is kept out meanwhile.
async fn broadcast_storm(at: At) {
    const EACH: usize = 5_000;
    let mut readers = JoinSet::new();
    for number in 0..READERS {
        let mut peer = at.peer_from(number, "").await;
        readers.spawn(async move {
            let mut frames = vec![0; 2 * EACH * 2];
            patiently(peer.stream.read_exact(&mut frames))
                .await
                .unwrap();
            assert!(frames.chunks(2).all(|frame| frame == [0x82, 0]));
        });
    }
    let mut publishers = Vec::new();
    for number in 0..2 {
        let mut publisher = at.peer_from(READERS + number, "").await;
        let bytes = publisher.frame(0x82, "").repeat(EACH);
        publisher.send(&bytes).await;
        publishers.push(publisher);
    }
    let latest = patiently(at.peer("")).await;
    readers.join_all().await;
    drop((publishers, latest));
}

/// How many descriptors a server has that runs out of them.
const FEW: usize = 200;

async fn descriptors(suite: &mut Suite) -> io::Result<()> {
    let bound = Bound {
        mib: 8,
        why: "200 descriptors",
    };
    let server = Server::sockeye_with_descriptors(FEW as u32).await?;
    let mut serve = suite.attack("200 descriptors", server, bound).await?;
    suite
        .case(
            &mut serve,
            "descriptors exhausted by 500 connections",
            |at| async move {
                let mut waiting = JoinSet::new();
                let (leave, leaves) = watch::channel(false);
                let (opened, opens) = watch::channel(0);
                let opened = Arc::new(opened);
                for number in 0..500 {
                    let (at, opened, mut leaves) = (at.clone(), opened.clone(), leaves.clone());
                    waiting.spawn(async move {
                        // The system has it wait where the server cannot accept it.
                        let mut peer = at.peer_from(number, "").await;
                        opened.send_modify(|opened| *opened += 1);
                        peer.expect_echo("served at last").await;
                        leaves.wait_for(|leave| *leave).await.unwrap();
                    });
                }
                // The last is the timer of its connections.
                eventually(|| Ok(at.server.descriptors()? >= FEW - 1))
                    .await
                    .unwrap();
                // It waits, and does not try without a pause.
                let before = at.server.processor_time().unwrap();
                sleep(Duration::from_secs(1)).await;
                let busy = at.server.processor_time().unwrap() - before;
                assert!(
                    busy < Duration::from_millis(300),
                    "{busy:?} of a second to do nothing"
                );
                let at_first = *opens.borrow();
                assert!(at_first < FEW, "{at_first} open with {FEW} descriptors");
                // As those leave, all of the others are let in.
                leave.send_replace(true);
                within(waiting.join_all()).await;
                assert_eq!(*opens.borrow(), 500);
                at.note(format!(
                    "{at_first} open at first; {} ms busy in a second",
                    busy.as_millis()
                ));
            },
        )
        .await;
    suite.end(serve).await
}
