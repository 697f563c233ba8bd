//! What a peer must not send on an open connection: the Close that it gets says which rule was broken.

use std::io;

use sockeye_tests::Server;

use crate::{
    suite::{Bound, Suite},
    wire::NO_CONTEXT,
    wrongs::{FRAGMENTS, LIMIT, WRONGS, deflated},
};

const BOUND: Bound = Bound {
    mib: 8,
    why: "a message has 10,000 bytes at most",
};

pub(crate) async fn run(suite: &mut Suite) -> io::Result<()> {
    let (limit, fragments) = (LIMIT.to_string(), FRAGMENTS.to_string());
    let args = ["--max-message", &limit, "--max-fragments", &fragments];
    let strict = Server::sockeye(&args).await?;
    let mut strict = suite.attack("serve, 10 KB", strict, BOUND).await?;
    let on = &mut strict;
    for wrong in WRONGS {
        let name = format!("{}: {}", wrong.name, wrong.code);
        suite
            .case(on, name, |at| async move {
                let mut peer = at.peer(wrong.extensions).await;
                peer.expect_echo("before").await;
                peer.send((wrong.bytes)(true)).await;
                // Discarded, like all that follows a broken rule.
                peer.send_frame(0x81, "after").await;
                let (code, reason) = peer.expect_close().await;
                assert_eq!((code, reason), (wrong.code, wrong.error.to_string()));
                peer.expect_end().await;
            })
            .await;
    }
    for (len, fits) in [(LIMIT - 1, true), (LIMIT, true), (LIMIT + 1, false)] {
        suite
            .case(
                on,
                format_args!("{len} bytes, inflated: {fits}"),
                |at| async move {
                    let mut peer = at.peer(NO_CONTEXT).await;
                    peer.send_frame(0xC2, deflated(&vec![0; len])).await;
                    if fits {
                        peer.expect(0xC2).await;
                        peer.expect_echo("after").await;
                    } else {
                        assert_eq!(peer.expect_close().await.0, 1009);
                    }
                },
            )
            .await;
    }
    suite
        .case(on, "a window larger than agreed: 1007", |at| async move {
            let mut message: Vec<u8> = (0..3000_u32).map(|i| ((i * i) >> 5) as u8).collect();
            message.extend_from_within(..);
            let mut peer = at
                .peer("permessage-deflate; client_max_window_bits=9")
                .await;
            peer.send_frame(0xC2, deflated(&message)).await;
            assert_eq!(peer.expect_close().await.0, 1007);
            peer.expect_end().await;
        })
        .await;
    suite.end(strict).await
}
