//! A handler that panics: its connection closes with 1011, and nothing else notices.

use std::io;

use sockeye_tests::Server;

use crate::{
    http::{UPGRADE, ask},
    suite::{Bound, Suite},
    wire::{Peer, within},
};

const BOUND: Bound = Bound {
    mib: 8,
    why: "a panic leaves nothing behind",
};

/// How often each.
const TIMES: usize = 50;

pub(crate) async fn run(suite: &mut Suite) -> io::Result<()> {
    let server = Server::test_server(&[], 2, |_| {}).await?;
    let mut server = suite.attack("test-server", server, BOUND).await?;
    let on = &mut server;
    for (address, form) in ["callbacks", "an async socket"].into_iter().enumerate() {
        let name = format!("{TIMES} panics in the decision about a request: 500");
        suite
            .case_at(on, address, name, |at| async move {
                let mut other = Peer::client(at.stream().await, "", &[]).await;
                let request = UPGRADE.replace("GET /", "GET /panic/request");
                for _ in 0..TIMES {
                    let mut stream = at.stream().await;
                    let answer = within(ask(&mut stream, &format!("{request}\r\n"))).await;
                    assert_eq!(answer.status, 500, "{answer:?}");
                    other.expect_echo("still here").await;
                }
            })
            .await;
        for (place, message) in [("open", None), ("message", Some("now"))] {
            let name = format!("{TIMES} panics in {place}, with {form}: 1011");
            suite
                .case_at(on, address, name, |at| async move {
                    let mut other = Peer::client(at.stream().await, "", &[]).await;
                    for _ in 0..TIMES {
                        let stream = at.stream().await;
                        let mut peer =
                            Peer::client_at(stream, &format!("/panic/{place}"), "", &[]).await;
                        if let Some(message) = message {
                            peer.send_frame(0x81, message).await;
                        }
                        assert_eq!(peer.expect_close().await.0, 1011);
                        peer.expect_end().await;
                        other.expect_echo("still here").await;
                    }
                })
                .await;
        }
    }
    suite.end(server).await
}
