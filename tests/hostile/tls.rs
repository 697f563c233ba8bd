//! Peers that never finish TLS, or do not speak it.

use std::{
    io,
    time::{Duration, Instant},
};

use sockeye_tests::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::{
    suite::{Bound, Suite, healthy},
    wire::within,
    wrongs::masked,
};

const BOUND: Bound = Bound {
    mib: 48,
    why: "2,000 handshakes that have begun",
};

/// A record of the opening handshake that says it has 508 bytes, and the first five of them.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x01\xFC\x01\x00\x01\xF8\x03";

const IN_THE_CLEAR: &[u8] = b"GET / HTTP/1.1\r\nHost: peer\r\n\r\n";

/// What begins no TLS, nor HTTP.
const NO_TLS: [(&str, &[u8]); 4] = [
    ("zeros", &[0; 600]),
    (
        "a record that is too long",
        b"\x16\x03\x01\xFF\xFF\x01\x00\xFF\xFB\x03\x03",
    ),
    ("an alert", b"\x15\x03\x01\x00\x02\x02\x28"),
    ("data of an application", b"\x17\x03\x03\x00\x05hello"),
];

pub(crate) async fn run(suite: &mut Suite) -> io::Result<()> {
    let args = ["--tls-self-signed", "--handshake-timeout", "3"];
    let server = Server::sockeye(&args).await?;
    let mut serve = suite.attack_secure("TLS", server, BOUND).await?;
    let on = &mut serve;
    for (name, bytes) in NO_TLS {
        suite
            .case(
                on,
                format_args!("first bytes: {name}"),
                move |at| async move {
                    let mut stream = at.stream().await;
                    stream.write_all(bytes).await.unwrap();
                    ended(stream).await;
                },
            )
            .await;
    }
    suite
        .case(on, "HTTP in the clear: 400", |at| async move {
            let mut stream = at.stream().await;
            stream.write_all(IN_THE_CLEAR).await.unwrap();
            let mut answer = String::new();
            within(stream.read_to_string(&mut answer)).await.unwrap();
            assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        })
        .await;
    suite
        .case(on, "HTTP in the clear, without an end", |at| async move {
            let mut stream = at.stream().await;
            let began = Instant::now();
            while stream.write_all(IN_THE_CLEAR).await.is_ok() {
                assert!(began.elapsed() < Duration::from_secs(10));
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    suite
        .case(on, "a frame within a hello", |at| async move {
            let mut stream = at.stream().await;
            stream.write_all(HALF_A_HELLO).await.unwrap();
            stream
                .write_all(&masked(0x81, true, [7; 600]))
                .await
                .unwrap();
            ended(stream).await;
        })
        .await;
    suite
        .case(on, "2,000 hellos that do not end", |at| async move {
            let mut attackers = JoinSet::new();
            for number in 0..2000 {
                let at = at.clone();
                attackers.spawn(async move {
                    let mut stream = at.stream_from(number).await.unwrap();
                    let began = Instant::now();
                    let half = &HALF_A_HELLO[..number % (HALF_A_HELLO.len() + 1)];
                    stream.write_all(half).await.unwrap();
                    ended(stream).await;
                    began.elapsed()
                });
            }
            let mut longest = Duration::ZERO;
            for _ in 0..5 {
                longest = longest.max(healthy(at.clone()).await);
            }
            let last = attackers.join_all().await.into_iter().max();
            at.note(format!(
                "the last ended after {:.1} s; served meanwhile within {} ms",
                last.unwrap_or_default().as_secs_f32(),
                longest.as_millis()
            ));
        })
        .await;
    suite.end(serve).await
}

/// Waits for the end of a connection; behind an alert, perhaps, and perhaps reset.
async fn ended(mut stream: tokio::net::TcpStream) {
    let mut rest = Vec::new();
    let _ = within(stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < 100, "{rest:?}");
    // An alert, where there is anything.
    assert!(rest.is_empty() || rest[0] == 0x15, "{rest:?}");
}
