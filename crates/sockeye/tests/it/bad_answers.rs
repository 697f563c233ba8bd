//! Every way a server can answer a client wrongly: each is an error that names it, within its
//! deadline, with the response where there was one.

use std::{future::pending, time::Duration};

use sockeye::{
    Client, Deadline, DeflateConfig, Error, HandshakeError, HeadLimits,
    proto::{
        deflate::NegotiationError,
        handshake::{Request, Response},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Instant, sleep},
};

/// No time at all.
const AT_ONCE: Duration = Duration::ZERO;
/// How long the body of a refusal may take.
const BODY: Duration = Duration::from_secs(1);
/// How long everything may take, as it is set here.
const HANDSHAKE: Duration = Duration::from_secs(7);

fn client() -> Client {
    Client::new("ws://example.com/chat")
        .subprotocol("chat")
        .handshake_timeout(HANDSHAKE)
}

/// What a client makes of a server that is given its request, does something, and then stays
/// silently connected; and how long that took. Time is paused: it passes only where all wait.
async fn failure(
    client: Client,
    server: impl AsyncFnOnce(&mut DuplexStream, Request),
) -> (Error, Duration) {
    let (ours, mut theirs) = duplex(4096);
    let begin = Instant::now();
    let server = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(theirs.read_u8().await.unwrap());
        }
        server(&mut theirs, Request::parse(&head).unwrap()).await;
        pending::<()>().await;
    };
    tokio::select! {
        result = client.connect_over(ours) => (result.unwrap_err(), begin.elapsed()),
        () = server => unreachable!(),
    }
}

/// The same for a server that answers with these bytes.
async fn answered(bytes: impl AsRef<[u8]>) -> (Error, Duration) {
    failure(client(), async |stream, _| {
        stream.write_all(bytes.as_ref()).await.unwrap();
    })
    .await
}

/// The same for a server that answers as it should, but for a part of its answer.
async fn spoiled(part: &str, by: &str) -> Error {
    let (error, took) = failure(client(), async |stream, request| {
        let accept = request.check().unwrap().accept.unwrap();
        let right = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\nX-Server: spoiled\r\n\r\n",
            accept.as_str()
        );
        assert!(right.contains(part));
        let wrong = right.replacen(part, by, 1);
        stream.write_all(wrong.as_bytes()).await.unwrap();
    })
    .await;
    assert_eq!(took, AT_ONCE);
    // Whatever the rule, what was answered is there to look at.
    let response = error.response().expect("there was a response");
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers().first_str("X-Server"), Some("spoiled"));
    assert!(error.is_handshake() && !error.is_user(), "{error:?}");
    error
}

#[track_caller]
fn breaks(error: &Error, rule: HandshakeError, words: &str) {
    let problem = match error.cause() {
        Error::Answer { problem, .. } | Error::Handshake(problem) => problem.clone(),
        Error::Unreadable { problem, .. } => HandshakeError::Malformed(problem),
        _ => panic!("{error:?}"),
    };
    assert_eq!(problem, rule);
    assert!(error.is_handshake());
    says(error, words);
}

#[track_caller]
fn says(error: &Error, words: &str) {
    let message = error.to_string();
    assert!(message.contains(words), "{message}");
    assert!(!message.contains('\n'), "{message}");
}

#[track_caller]
fn response(error: &Error, status: u16) -> &Response {
    assert!(error.is_handshake(), "{error:?}");
    let response = error.response().expect("there was a response");
    assert_eq!(response.status(), status);
    response
}

mod another_status_than_101 {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_told_with_headers_and_body() {
        let (error, took) =
            answered("HTTP/1.1 503 Too Busy\r\nRetry-After: 9\r\nContent-Length: 7\r\n\r\nno room")
                .await;
        let response = response(&error, 503);
        assert_eq!(response.headers().first_str("Retry-After"), Some("9"));
        assert_eq!(response.body(), b"no room");
        says(&error, "the server answered 503 Too Busy instead of 101");
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_wrong_even_where_it_is_a_success() {
        let (error, took) = answered("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        response(&error, 200);
        says(&error, "200 OK instead of 101");
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn may_ask_for_credentials() {
        let answer =
            "HTTP/1.1 401 x\r\nWWW-Authenticate: Basic realm=\"a\"\r\nContent-Length: 0\r\n\r\n";
        let (error, _) = answered(answer).await;
        let challenge = response(&error, 401)
            .headers()
            .first_str("WWW-Authenticate");
        assert_eq!(challenge, Some("Basic realm=\"a\""));
    }

    #[tokio::test(start_paused = true)]
    async fn may_redirect_which_a_stream_of_ones_own_cannot_follow() {
        let (error, _) = failure(client().redirects(5), async |stream, _| {
            let answer = "HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        let location = response(&error, 302).headers().first_str("Location");
        assert_eq!(location, Some("/b"));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_body_is_not_waited_for() {
        for status in [204, 304] {
            let (error, took) = answered(format!("HTTP/1.1 {status} x\r\n\r\n")).await;
            assert_eq!(response(&error, status).body(), b"");
            assert_eq!(took, AT_ONCE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn that_only_announces_another_is_passed_over() {
        let (error, took) =
            answered("HTTP/1.1 103 x\r\nLink: a\r\n\r\nHTTP/1.1 204 x\r\n\r\n").await;
        response(&error, 204);
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn that_announces_another_for_ever_is_told() {
        let (error, took) = failure(client(), async |stream, _| {
            while stream.write_all(b"HTTP/1.1 103 x\r\n\r\n").await.is_ok() {}
        })
        .await;
        response(&error, 103);
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn that_announces_another_which_never_comes_is_left_at_the_deadline() {
        let (error, took) = answered("HTTP/1.1 100 Continue\r\n\r\n").await;
        assert!(
            matches!(error.cause(), Error::Timeout(Deadline::Handshake)),
            "{error:?}"
        );
        assert_eq!(took, HANDSHAKE);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_body_that_never_ends_is_told_after_a_second() {
        let (error, took) = answered("HTTP/1.1 404 x\r\nContent-Length: 99\r\n\r\nbegun").await;
        assert_eq!(response(&error, 404).body(), b"begun");
        assert_eq!(took, BODY);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_body_that_trickles_is_told_after_a_second() {
        let (error, took) = failure(client(), async |stream, _| {
            stream.write_all(b"HTTP/1.1 404 x\r\n\r\n").await.unwrap();
            loop {
                stream.write_all(b"y").await.unwrap();
                sleep(Duration::from_millis(300)).await;
            }
        })
        .await;
        assert_eq!(response(&error, 404).body(), b"yyyy");
        assert_eq!(took, BODY);
    }

    #[tokio::test(start_paused = true)]
    async fn with_an_endless_body_is_told_once_a_kibibyte_is_there() {
        let (error, took) = failure(client(), async |stream, _| {
            stream.write_all(b"HTTP/1.1 404 x\r\n\r\n").await.unwrap();
            // The client leaves, at which writing fails.
            while stream.write_all(&[b'y'; 1000]).await.is_ok() {}
        })
        .await;
        assert_eq!(response(&error, 404).body(), [b'y'; Response::MAX_BODY]);
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn with_endless_chunks_is_told_once_a_kibibyte_is_there() {
        let (error, took) = failure(client(), async |stream, _| {
            let head = b"HTTP/1.1 404 x\r\nTransfer-Encoding: chunked\r\n\r\n";
            stream.write_all(head).await.unwrap();
            while stream.write_all(b"5\r\nabcde\r\n").await.is_ok() {}
        })
        .await;
        assert_eq!(response(&error, 404).body().len(), Response::MAX_BODY);
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_told_at_a_shorter_deadline_too() {
        let half = BODY / 2;
        let (error, took) = failure(client().handshake_timeout(half), async |stream, _| {
            stream
                .write_all(b"HTTP/1.1 404 x\r\n\r\nsome")
                .await
                .unwrap();
        })
        .await;
        assert_eq!(response(&error, 404).body(), b"some");
        assert_eq!(took, half);
    }
}

mod upgrade {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_missing() {
        let error = spoiled("Upgrade: websocket\r\n", "").await;
        breaks(
            &error,
            HandshakeError::Missing("Upgrade"),
            "Upgrade is missing",
        );
    }

    #[tokio::test(start_paused = true)]
    async fn is_another() {
        let error = spoiled("Upgrade: websocket", "Upgrade: h2c").await;
        breaks(
            &error,
            HandshakeError::Upgrade,
            "Upgrade must say websocket",
        );
    }

    #[tokio::test(start_paused = true)]
    async fn is_there_twice() {
        let error = spoiled("\r\n\r\n", "\r\nUpgrade: websocket\r\n\r\n").await;
        breaks(
            &error,
            HandshakeError::Repeated("Upgrade"),
            "more than once",
        );
    }
}

mod connection {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_missing() {
        let error = spoiled("Connection: Upgrade\r\n", "").await;
        breaks(
            &error,
            HandshakeError::Connection,
            "Connection must say Upgrade",
        );
    }

    #[tokio::test(start_paused = true)]
    async fn is_another() {
        let error = spoiled("Connection: Upgrade", "Connection: keep-alive, close").await;
        breaks(
            &error,
            HandshakeError::Connection,
            "Connection must say Upgrade",
        );
    }
}

mod accept {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn is_missing() {
        let error = spoiled("Sec-WebSocket-Accept", "X-Accept").await;
        let rule = HandshakeError::Missing("Sec-WebSocket-Accept");
        breaks(&error, rule, "Sec-WebSocket-Accept is missing");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_another_key() {
        let error = spoiled("Accept: ", "Accept: A").await;
        breaks(&error, HandshakeError::Accept, "does not answer the key");
    }

    #[tokio::test(start_paused = true)]
    async fn is_there_twice() {
        let error = spoiled("\r\n\r\n", "\r\nSec-WebSocket-Accept: a\r\n\r\n").await;
        let rule = HandshakeError::Repeated("Sec-WebSocket-Accept");
        breaks(&error, rule, "more than once");
    }
}

mod subprotocol {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn was_not_offered() {
        let error = spoiled("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chess\r\n\r\n").await;
        let rule = HandshakeError::SubprotocolNotOffered("chess".into());
        breaks(&error, rule, "\"chess\", which was not offered");
    }

    #[tokio::test(start_paused = true)]
    async fn is_a_list() {
        let error = spoiled(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Protocol: chat, chess\r\n\r\n",
        )
        .await;
        let rule = HandshakeError::SubprotocolNotOffered("chat, chess".into());
        breaks(&error, rule, "not offered");
    }

    #[tokio::test(start_paused = true)]
    async fn is_there_twice() {
        let twice = "\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        let error = spoiled("\r\n\r\n", twice).await;
        let rule = HandshakeError::Repeated("Sec-WebSocket-Protocol");
        breaks(&error, rule, "more than once");
    }
}

mod extension {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn was_not_offered() {
        let error = spoiled("\r\n\r\n", "\r\nSec-WebSocket-Extensions: x-gzip\r\n\r\n").await;
        let rule = NegotiationError::ExtensionNotOffered("x-gzip".into());
        breaks(&error, rule.into(), "x-gzip");
    }

    #[tokio::test(start_paused = true)]
    async fn was_not_offered_of_those_that_there_are() {
        let (error, _) = failure(client().deflate(None), async |stream, request| {
            let accept = request.check().unwrap().accept.unwrap();
            let answer = format!(
                "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
                accept.as_str()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        })
        .await;
        response(&error, 101);
        says(&error, "permessage-deflate");
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_follow_the_grammar() {
        let error = spoiled("\r\n\r\n", "\r\nSec-WebSocket-Extensions: =;\r\n\r\n").await;
        assert!(
            matches!(
                error.cause(),
                Error::Answer {
                    problem: HandshakeError::ExtensionList(_),
                    ..
                }
            ),
            "{error:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn has_parameters_that_there_are_not() {
        if DeflateConfig::available().is_none() {
            return;
        }
        for parameter in [
            "server_max_window_bits=99",
            "strength=9",
            "server_max_window_bits",
        ] {
            let line =
                format!("\r\nSec-WebSocket-Extensions: permessage-deflate; {parameter}\r\n\r\n");
            let error = spoiled("\r\n\r\n", &line).await;
            assert!(
                matches!(
                    error.cause(),
                    Error::Answer {
                        problem: HandshakeError::Extension(_),
                        ..
                    }
                ),
                "{error:?}"
            );
            says(&error, parameter.split('=').next().unwrap());
        }
    }
}

mod head {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn never_begins() {
        let (error, took) = answered("").await;
        assert!(
            matches!(error.cause(), Error::Timeout(Deadline::Handshake)),
            "{error:?}"
        );
        says(&error, "the handshake timeout");
        assert_eq!(took, HANDSHAKE);
    }

    #[tokio::test(start_paused = true)]
    async fn never_ends() {
        let (error, took) = answered("HTTP/1.1 101 x\r\nUpgrade: webso").await;
        assert!(
            matches!(error.cause(), Error::Timeout(Deadline::Handshake)),
            "{error:?}"
        );
        assert_eq!(took, HANDSHAKE);
    }

    #[tokio::test(start_paused = true)]
    async fn trickles() {
        let (error, took) = failure(client(), async |stream, _| {
            stream.write_all(b"HTTP/1.1 101 x\r\n").await.unwrap();
            loop {
                stream.write_all(b"A").await.unwrap();
                sleep(Duration::from_millis(300)).await;
            }
        })
        .await;
        assert!(
            matches!(error.cause(), Error::Timeout(Deadline::Handshake)),
            "{error:?}"
        );
        assert_eq!(took, HANDSHAKE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_endless() {
        let (error, took) = failure(client(), async |stream, _| {
            stream.write_all(b"HTTP/1.1 101 x\r\nA: ").await.unwrap();
            while stream.write_all(&[b'A'; 1000]).await.is_ok() {}
        })
        .await;
        let limit = HeadLimits::default().bytes;
        breaks(
            &error,
            HandshakeError::HeadTooLarge { limit },
            "16384 bytes",
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn has_endless_headers() {
        let (error, took) = failure(client(), async |stream, _| {
            stream.write_all(b"HTTP/1.1 101 x\r\n").await.unwrap();
            while stream.write_all(b"A: b\r\n").await.is_ok() {}
        })
        .await;
        let limit = HeadLimits::default().headers;
        breaks(
            &error,
            HandshakeError::TooManyHeaders { limit },
            "100 header fields",
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_with_the_connection() {
        let (error, took) = failure(client(), async |stream, _| {
            stream.write_all(b"HTTP/1.1 101 x\r\nUp").await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await;
        breaks(
            &error,
            HandshakeError::UnexpectedEnd,
            "before the HTTP head did",
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_none_at_all() {
        let (error, took) =
            failure(client(), async |stream, _| stream.shutdown().await.unwrap()).await;
        breaks(
            &error,
            HandshakeError::UnexpectedEnd,
            "before the HTTP head did",
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_not_http() {
        let (error, took) = answered("SSH-2.0-OpenSSH\r\n").await;
        breaks(
            &error,
            HandshakeError::Malformed("it is not HTTP"),
            r#"it is not HTTP; the answer begins with "SSH-2.0-OpenSSH""#,
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_shown_in_part_and_cannot_play_tricks() {
        let (error, _) = answered([&b"\x1b[2J\""[..], &[b'a'; 5000]].concat()).await;
        let begins = format!(r#"begins with "\x1b[2J\"{}""#, "a".repeat(59));
        says(&error, &begins);
        let (error, _) = answered("HTTP/1.1 200 OK\r\nA b: c\r\n\r\n").await;
        says(
            &error,
            r#"no token; the answer begins with "HTTP/1.1 200 OK""#,
        );
    }

    #[tokio::test(start_paused = true)]
    async fn is_tls() {
        let (error, took) = answered([0x15, 3, 1, 0, 2, 2, 70]).await;
        breaks(&error, HandshakeError::Tls, "TLS");
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn has_lines_that_end_otherwise() {
        let (error, took) = answered("HTTP/1.1 101 x\nUpgrade: websocket\n\n").await;
        breaks(
            &error,
            HandshakeError::Malformed("a line ends without CR LF"),
            "CR LF",
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn has_no_status() {
        let (error, took) = answered("HTTP/1.1 abc x\r\n\r\n").await;
        breaks(
            &error,
            HandshakeError::Malformed(
                "the status is not three digits and a reason in plain characters",
            ),
            "three digits",
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn has_a_reason_with_a_control_character() {
        let (error, took) = answered("HTTP/1.1 418 I'm \x1b[31mred\r\n\r\n").await;
        says(
            &error,
            r#"a reason in plain characters; the answer begins with "HTTP/1.1 418 I'm \x1b[31mred""#,
        );
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn is_of_another_version() {
        let (error, took) = answered("HTTP/2.0 101 x\r\n\r\n").await;
        breaks(&error, HandshakeError::HttpVersion, "HTTP/1.1");
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn has_a_control_character() {
        let (error, took) = answered("HTTP/1.1 101 x\r\nA: b\0c\r\n\r\n").await;
        says(&error, "control character");
        assert!(error.is_handshake());
        assert_eq!(took, AT_ONCE);
    }

    #[tokio::test(start_paused = true)]
    async fn has_a_name_that_is_none() {
        let (error, took) = answered("HTTP/1.1 101 x\r\nA b: c\r\n\r\n").await;
        says(&error, "name is no token");
        assert!(error.is_handshake());
        assert_eq!(took, AT_ONCE);
    }
}

/// A server that does not even read: the request goes nowhere.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_read_is_given_up_at_the_deadline() {
    let (ours, _theirs) = duplex(16);
    let begin = Instant::now();
    let error = client().connect_over(ours).await.unwrap_err();
    assert!(
        matches!(error.cause(), Error::Timeout(Deadline::Handshake)),
        "{error:?}"
    );
    assert_eq!(begin.elapsed(), HANDSHAKE);
}
