//! How much memory a closed connection keeps for as long as somebody keeps its `Sender`: none of what
//! messages are compressed with.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    env, fs,
    process::{Command, Stdio},
};

use sockeye::{Acceptor, Client, CloseCode, DeflateConfig};
use tokio::io::duplex;

const CONNECTIONS: usize = 200;

/// The most bytes for both ends of one. Two compressors alone would take 280,000 and more, and two decompressors
/// 96,000.
const BOUND: usize = 8 * 1024;

/// Has the allocator give memory of more bytes than this back to the system when it is freed. Else what small things
/// have left of the place of a compressor is too small for the next one, and is counted although nobody holds it.
const GIVEN_BACK: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "32768");

/// The resident memory of this process, in bytes.
fn memory() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[test]
fn a_closed_connection_keeps_no_compressor() {
    let (name, value) = GIVEN_BACK;
    if env::var(name).is_ok_and(|set| set == value) {
        return tokio::runtime::Runtime::new().unwrap().block_on(measure());
    }
    // The allocator is told by the environment it starts in.
    let ended = Command::new(env::current_exe().unwrap())
        .arg("--nocapture")
        .env(name, value)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}");
    assert!(said.contains("bytes each"), "{said}");
}

async fn measure() {
    let config = DeflateConfig {
        own_no_context_takeover: false,
        peer_no_context_takeover: false,
        ..DeflateConfig::available().unwrap()
    };
    let (acceptor, client) = (Acceptor::new().deflate(config), Client::new("ws://server/"));
    let client = client.deflate(config);
    let mut kept = Vec::new();
    let mut before = 0;
    for number in 0..CONNECTIONS + 10 {
        if number == 10 {
            before = memory();
        }
        let (ours, theirs) = duplex(64 * 1024);
        let both = tokio::join!(acceptor.accept(ours), client.connect_over(theirs));
        let (mut server, mut client) = (both.0.unwrap(), both.1.unwrap());
        kept.extend([server.sender(), client.sender()]);
        let message = "a message that is compressed, ".repeat(1000);
        client.send(&message).await.unwrap();
        let received = server.recv().await.unwrap().unwrap();
        server.send(received).await.unwrap();
        assert_eq!(
            client.recv().await.unwrap().unwrap().as_text(),
            Some(&message[..])
        );
        let counters = client.counters();
        assert!(counters.sent.compressed > 0 && counters.received.compressed > 0);
        let (closed, ended) = tokio::join!(client.close(CloseCode::NORMAL, ""), server.recv());
        closed.unwrap();
        assert_eq!(ended.unwrap(), None);
    }
    let each = memory().saturating_sub(before) / CONNECTIONS;
    println!("{each} bytes each");
    assert!(each < BOUND, "{each}");
    assert!(kept.iter().all(|sender| !sender.is_open()));
}
