//! A client that opens its connection again: when, how often, and what goes out first.

use std::time::Duration;

use sockeye::{
    Client, CloseCode, Ended, Error, Message,
    client::{Cause, Reconnecting, Update},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpListener,
    sync::mpsc,
    time::Instant,
};

use crate::wire::*;

const SECOND: Duration = Duration::from_secs(1);

/// The far ends of all connections that a client tries to open.
struct Attempts(mpsc::UnboundedReceiver<DuplexStream>);

impl Attempts {
    /// The far end of the next attempt, as it is.
    async fn raw(&mut self) -> DuplexStream {
        within(self.0.recv()).await.unwrap()
    }

    /// The next attempt, accepted.
    async fn accept(&mut self) -> Peer<DuplexStream> {
        within(Peer::server(self.raw().await, "", &[])).await
    }

    /// The next attempt, answered with these words.
    async fn refuse(&mut self, answer: &str) {
        let mut far = self.raw().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(far.read_u8().await.unwrap());
        }
        far.write_all(answer.as_bytes()).await.unwrap();
    }
}

/// A client over pipes, and where they end.
fn pipes() -> (Reconnecting, Attempts) {
    pipes_of(1 << 16)
}

/// The same over pipes that hold so many bytes.
fn pipes_of(size: usize) -> (Reconnecting, Attempts) {
    let (tell, attempts) = mpsc::unbounded_channel();
    let client = Setup::default().client("ws://peer/");
    let socket = Reconnecting::with(move || {
        let client = client.clone();
        let (near, far) = duplex(size);
        let _ = tell.send(far);
        async move { client.connect_over(near).await }
    });
    (socket, Attempts(attempts))
}

async fn update(socket: &mut Reconnecting) -> Update {
    within(socket.recv_update()).await.unwrap().unwrap()
}

async fn expect_connecting(socket: &mut Reconnecting, expected: u32) {
    match update(socket).await {
        Update::Connecting { attempt } => assert_eq!(attempt, expected),
        other => panic!("{other:?}"),
    }
}

async fn expect_open(socket: &mut Reconnecting) {
    let update = update(socket).await;
    assert!(matches!(update, Update::Open), "{update:?}");
}

async fn expect_waiting(socket: &mut Reconnecting) -> (Cause, Duration, u32) {
    match update(socket).await {
        Update::Waiting {
            cause,
            delay,
            attempt,
        } => (cause, delay, attempt),
        other => panic!("{other:?}"),
    }
}

async fn expect_message(socket: &mut Reconnecting, text: &str) {
    match update(socket).await {
        Update::Message(message) => assert_eq!(message.as_text(), Some(text)),
        other => panic!("{other:?}"),
    }
}

/// Opens a connection, with the updates that belong to it.
async fn open(
    socket: &mut Reconnecting,
    attempts: &mut Attempts,
    attempt: u32,
) -> Peer<DuplexStream> {
    expect_connecting(socket, attempt).await;
    let ((), peer) = tokio::join!(expect_open(socket), attempts.accept());
    peer
}

/// That the client made its last attempt.
async fn expect_no_more(socket: &mut Reconnecting, attempts: &mut Attempts) {
    assert!(matches!(socket.recv_update().await, Ok(None)));
    assert!(attempts.0.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn delays_grow_from_the_base_to_the_cap() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.base_delay(SECOND).max_delay(10 * SECOND);
    expect_connecting(&mut socket, 1).await;
    for (number, ceiling) in (1..).zip([1, 2, 4, 8, 10, 10]) {
        drop(attempts.raw().await);
        let (cause, delay, next) = expect_waiting(&mut socket).await;
        // The peer ended the connection, before or after the request.
        let Cause::Attempt(error) = &cause else {
            panic!("{cause:?}")
        };
        assert!(error.is_lost() || error.is_handshake(), "{error}");
        assert!(delay < ceiling * SECOND, "{delay:?} of {ceiling}");
        assert_eq!(next, number + 1);
        // The attempt comes when the delay is over, and not before.
        let began = Instant::now();
        expect_connecting(&mut socket, next).await;
        let waited = began.elapsed();
        assert!(
            delay <= waited && waited <= delay + Duration::from_millis(2),
            "{waited:?} instead of {delay:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_of_so_many_attempts_is_final() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.max_attempts(3);
    for number in 1..=3 {
        expect_connecting(&mut socket, number).await;
        drop(attempts.raw().await);
        if number < 3 {
            let _ = expect_waiting(&mut socket).await;
        }
    }
    let error = socket.recv_update().await.unwrap_err();
    assert!(error.is_lost() || error.is_handshake(), "{error}");
    // Told once.
    expect_no_more(&mut socket, &mut attempts).await;
    let refused = socket.send("late").await.unwrap_err();
    assert!(refused.is_closed(), "{refused}");
}

/// A connection that lasted takes the attempts back to none, and the next is the first.
#[tokio::test(start_paused = true)]
async fn no_attempt_at_most_is_as_one() {
    for most in [0, 1] {
        let (socket, mut attempts) = pipes();
        let mut socket = socket.settled_after(Duration::ZERO).max_attempts(most);
        drop(open(&mut socket, &mut attempts, 1).await);
        let (_, _, next) = expect_waiting(&mut socket).await;
        assert_eq!(next, 1, "{most}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_only_sends_learns_of_the_last_attempt_too() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.max_attempts(1);
    let refusing = async { drop(attempts.raw().await) };
    let (result, ()) = tokio::join!(within(socket.send("hello")), refusing);
    let error = result.unwrap_err();
    assert!(error.is_lost() || error.is_handshake(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_stays_one_is_final() {
    for status in [400, 401, 403, 404, 426] {
        let (mut socket, mut attempts) = pipes();
        expect_connecting(&mut socket, 1).await;
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n");
        let (result, ()) = tokio::join!(within(socket.recv_update()), attempts.refuse(&answer));
        let error = result.unwrap_err();
        assert!(error.to_string().contains(&status.to_string()), "{error}");
        expect_no_more(&mut socket, &mut attempts).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_now_is_not() {
    for (status, header, asked) in [
        (408, "", 0),
        (429, "Retry-After: 7\r\n", 7),
        (503, "Retry-After: 7\r\n", 7),
        (503, "Retry-After: 1000000\r\n", 12),
        (502, "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 0),
        (503, "Retry-After: Fri, 06 Nov 2285 08:49:37 GMT\r\n", 12),
    ] {
        let (socket, mut attempts) = pipes();
        let mut socket = socket.base_delay(SECOND).max_retry_after(12 * SECOND);
        expect_connecting(&mut socket, 1).await;
        let answer = format!("HTTP/1.1 {status} No\r\n{header}Content-Length: 0\r\n\r\n");
        let ((_, delay, _), ()) =
            tokio::join!(expect_waiting(&mut socket), attempts.refuse(&answer));
        assert!(
            (asked * SECOND..(asked + 1) * SECOND).contains(&delay),
            "{status} {header}: {delay:?}"
        );
        let began = Instant::now();
        expect_connecting(&mut socket, 2).await;
        assert!(began.elapsed() >= delay);
        let ((), mut peer) = tokio::join!(expect_open(&mut socket), attempts.accept());
        peer.send_frame(0x81, "at last").await;
        expect_message(&mut socket, "at last").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_nothing_is_left_after_the_handshake_timeout() {
    let (mut socket, mut attempts) = pipes();
    expect_connecting(&mut socket, 1).await;
    let began = Instant::now();
    let mut silent = None;
    let keep = async { silent = Some(attempts.raw().await) };
    let ((cause, ..), ()) = tokio::join!(expect_waiting(&mut socket), keep);
    assert!(
        matches!(&cause, Cause::Attempt(error) if error.is_timeout()),
        "{cause:?}"
    );
    assert_eq!(began.elapsed().as_secs(), 10);
    expect_connecting(&mut socket, 2).await;
    let ((), _peer) = tokio::join!(expect_open(&mut socket), attempts.accept());
}

/// The same with the system's own sockets: the listener's backlog accepts, and nobody answers.
#[tokio::test]
async fn a_tcp_server_that_says_nothing_is_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", listener.local_addr().unwrap());
    let client = Client::new(url).handshake_timeout(Duration::from_millis(50));
    let mut socket = Reconnecting::new(client).base_delay(Duration::from_millis(1));
    expect_connecting(&mut socket, 1).await;
    let (cause, ..) = expect_waiting(&mut socket).await;
    assert!(
        matches!(&cause, Cause::Attempt(error) if error.is_timeout()),
        "{cause:?}"
    );
    expect_connecting(&mut socket, 2).await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_first_on_a_connection_has_a_deadline() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket
        .attempt_timeout(12 * SECOND)
        .on_open(|mut socket| async move {
            socket.recv().await?;
            Ok(socket)
        });
    expect_connecting(&mut socket, 1).await;
    let began = Instant::now();
    let ((cause, ..), mut peer) = tokio::join!(expect_waiting(&mut socket), attempts.accept());
    assert_eq!(began.elapsed().as_secs(), 12);
    assert_eq!(
        cause.to_string(),
        "the connection was not ready for use in time (the attempt timeout)"
    );
    assert_eq!(peer.expect_close().await.0, 1001);
}

#[tokio::test(start_paused = true)]
async fn what_comes_first_comes_before_anything_else() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.on_open(|mut socket| async move {
        socket.send("subscribe").await?;
        match socket.recv().await? {
            Some(answer) if answer.as_text() == Some("subscribed") => Ok(socket),
            other => Err(Error::other(format!("not subscribed: {other:?}"))),
        }
    });
    for round in 0..3 {
        let text = format!("message {round}");
        let peer = async {
            let mut peer = attempts.accept().await;
            peer.expect_text("subscribe").await;
            // Nothing else before the answer.
            let early = tokio::time::timeout(SECOND, peer.next()).await;
            assert!(early.is_err(), "{early:?}");
            peer.send_frame(0x81, "subscribed").await;
            peer.expect_text(&text).await;
        };
        let (sent, ()) = tokio::join!(within(socket.send(&text)), peer);
        sent.unwrap();
        // The peer is gone, and with it the connection.
        loop {
            if let Update::Waiting { .. } = update(&mut socket).await {
                break;
            }
        }
    }
    // The user's own error is final.
    let refusing = async {
        let mut peer = attempts.accept().await;
        peer.expect_text("subscribe").await;
        peer.send_frame(0x81, "who are you?").await;
        peer.expect_close().await
    };
    let (result, _) = tokio::join!(within(socket.recv()), refusing);
    assert_eq!(
        result.unwrap_err().to_string(),
        "not subscribed: Some(Text(\"who are you?\"))"
    );
}

#[tokio::test(start_paused = true)]
async fn the_servers_close_code_decides() {
    for (code, again) in [
        (1000, false),
        (1001, true),
        (1002, false),
        (1003, false),
        (1007, false),
        (1008, false),
        (1009, false),
        (1011, true),
        (1012, true),
        (1013, true),
        (1014, true),
        (3000, false),
        (3008, true),
        (4000, false),
    ] {
        let (mut socket, mut attempts) = pipes();
        let mut peer = open(&mut socket, &mut attempts, 1).await;
        peer.send_frame(0x81, "last words").await;
        peer.send_close(code, "reason").await;
        drop(peer);
        expect_message(&mut socket, "last words").await;
        if again {
            let (cause, ..) = expect_waiting(&mut socket).await;
            assert!(
                matches!(&cause, Cause::Connection(ended) if ended.code() == code),
                "{cause:?}"
            );
            let _peer = open(&mut socket, &mut attempts, 2).await;
        } else {
            expect_no_more(&mut socket, &mut attempts).await;
        }
        let ended = socket.ended().unwrap();
        assert_eq!((ended.code(), ended.reason()), (code, "reason"));
    }
}

/// A bug: whoever sent when the connection broke took no notice of a Close that had arrived, and came back.
#[tokio::test(start_paused = true)]
async fn it_decides_for_whoever_finds_out_by_sending_too() {
    for (code, again) in [(4001, false), (1008, false), (1000, false), (1012, true)] {
        let (mut socket, mut attempts) = pipes();
        let mut peer = open(&mut socket, &mut attempts, 1).await;
        for number in 0..100 {
            peer.send_frame(0x81, number.to_string()).await;
        }
        peer.send_frame(0x89, "are you there?").await;
        peer.send_close(code, "reason").await;
        drop(peer);
        expect_message(&mut socket, "0").await;
        if again {
            let (sent, mut peer) = tokio::join!(within(socket.send("hi")), attempts.accept());
            sent.unwrap();
            peer.expect_text("hi").await;
        } else {
            let sent = within(socket.send("hi")).await;
            assert!(sent.unwrap_err().is_closed(), "{code}");
        }
        let ended = socket.ended().unwrap();
        assert_eq!((ended.code(), ended.reason()), (code, "reason"));
        for number in 1..100 {
            expect_message(&mut socket, &number.to_string()).await;
        }
        assert!(matches!(update(&mut socket).await, Update::Ping(_)));
        if again {
            let (cause, ..) = expect_waiting(&mut socket).await;
            assert!(matches!(&cause, Cause::Connection(ended) if ended.code() == code));
        } else {
            expect_no_more(&mut socket, &mut attempts).await;
        }
    }
}

/// As of one that refuses a token: what it says is told, and it is not asked again.
#[tokio::test(start_paused = true)]
async fn it_decides_where_it_comes_while_the_first_is_said() {
    for (code, again) in [(1008, false), (4001, false), (1013, true)] {
        let (socket, mut attempts) = pipes();
        let mut socket = socket.on_open(|mut socket| async move {
            socket.send("token").await?;
            while socket.recv().await?.is_some() {}
            socket.send("subscribe").await?;
            Ok(socket)
        });
        let refusing = async {
            let mut peer = attempts.accept().await;
            peer.expect_text("token").await;
            peer.send_close(code, "wrong token").await;
            peer.expect_close().await;
        };
        expect_connecting(&mut socket, 1).await;
        let (next, ()) = tokio::join!(within(socket.recv_update()), refusing);
        match next.unwrap() {
            Some(Update::Waiting { cause, .. }) if again => {
                assert!(matches!(&cause, Cause::Connection(ended) if ended.code() == code));
            }
            None if !again => expect_no_more(&mut socket, &mut attempts).await,
            other => panic!("{code}: {other:?}"),
        }
        let ended = socket.ended().unwrap();
        assert_eq!((ended.code(), ended.reason()), (code, "wrong token"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_rule_is_final_and_a_lost_connection_is_not() {
    let (mut socket, mut attempts) = pipes();
    drop(open(&mut socket, &mut attempts, 1).await);
    let (cause, ..) = expect_waiting(&mut socket).await;
    assert!(
        matches!(cause, Cause::Connection(Ended::Lost(_))),
        "{cause:?}"
    );
    let mut peer = open(&mut socket, &mut attempts, 2).await;
    // A reserved opcode.
    peer.send_frame(0x83, "").await;
    let (result, code) = tokio::join!(within(socket.recv()), async {
        let code = peer.expect_close().await.0;
        drop(peer);
        code
    });
    assert!(result.unwrap_err().is_protocol());
    assert_eq!(code, 1002);
    expect_no_more(&mut socket, &mut attempts).await;
}

#[tokio::test(start_paused = true)]
async fn the_user_decides_otherwise() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.retry_if(|cause| match cause {
        Cause::Connection(ended) => ended.code() == 4000,
        _ => false,
    });
    let mut peer = open(&mut socket, &mut attempts, 1).await;
    peer.send_close(4000, "").await;
    drop(peer);
    let _ = expect_waiting(&mut socket).await;
    expect_connecting(&mut socket, 2).await;
    drop(attempts.raw().await);
    assert!(within(socket.recv()).await.is_err());
    expect_no_more(&mut socket, &mut attempts).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_does_not_last_is_no_success() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.settled_after(5 * SECOND).max_attempts(3);
    // Accepted and dropped: attempts go on being counted.
    for number in 1..=2 {
        drop(open(&mut socket, &mut attempts, number).await);
        let _ = expect_waiting(&mut socket).await;
    }
    // It lasts: they are counted from the beginning.
    let peer = open(&mut socket, &mut attempts, 3).await;
    assert!(
        tokio::time::timeout(5 * SECOND, socket.recv_update())
            .await
            .is_err()
    );
    drop(peer);
    let (_, delay, next) = expect_waiting(&mut socket).await;
    assert_eq!(next, 1);
    assert!(delay <= Duration::from_millis(500), "{delay:?}");
    for number in 1..=3 {
        drop(open(&mut socket, &mut attempts, number).await);
        if number < 3 {
            let _ = expect_waiting(&mut socket).await;
        }
    }
    assert!(socket.recv_update().await.unwrap_err().is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_for_a_connection() {
    let (mut socket, mut attempts) = pipes();
    let peer = async {
        drop(attempts.raw().await);
        drop(attempts.raw().await);
        let mut peer = attempts.accept().await;
        peer.expect_text("hello").await;
        peer
    };
    let (sent, mut peer) = tokio::join!(within(socket.send("hello")), peer);
    sent.unwrap();
    assert!(socket.socket().unwrap().is_open());
    peer.send_frame(0x81, "hi").await;
    // What happened meanwhile is told in its order.
    for number in 1..=2 {
        expect_connecting(&mut socket, number).await;
        let _ = expect_waiting(&mut socket).await;
    }
    expect_connecting(&mut socket, 3).await;
    expect_open(&mut socket).await;
    expect_message(&mut socket, "hi").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_connection_breaks_goes_out_on_the_next() {
    let (mut socket, mut attempts) = pipes();
    let mut peer = open(&mut socket, &mut attempts, 1).await;
    // Received and not asked for, when the connection breaks.
    peer.send_frame(0x81, "one").await;
    peer.send_frame(0x82, "two").await;
    // More than the pipe holds, so that it is being written when it breaks.
    let large = "x".repeat(1 << 18);
    let peer = async {
        let mut some = vec![0; 1 << 17];
        peer.stream.read_exact(&mut some).await.unwrap();
        drop(peer);
        let mut peer = attempts.accept().await;
        peer.expect_text(&large).await;
        peer.expect_text("after").await;
        peer
    };
    let sending = async {
        within(socket.send(&large)).await.unwrap();
        within(socket.send("after")).await.unwrap();
    };
    let ((), _peer) = tokio::join!(sending, peer);
    expect_message(&mut socket, "one").await;
    assert!(matches!(update(&mut socket).await, Update::Message(Message::Binary(b)) if b == "two"));
    let (cause, ..) = expect_waiting(&mut socket).await;
    assert!(
        matches!(cause, Cause::Connection(Ended::Lost(_))),
        "{cause:?}"
    );
    expect_connecting(&mut socket, 2).await;
    expect_open(&mut socket).await;
}

/// A bug: a turn of reading that was over was taken for the end of what a broken connection had received.
#[tokio::test(start_paused = true)]
async fn what_a_broken_connection_has_received_comes_in_turns() {
    let (mut socket, mut attempts) = pipes_of(4 << 20);
    let mut peer = open(&mut socket, &mut attempts, 1).await;
    for number in 0..40 {
        peer.send_frame(0x82, vec![number; 64 << 10]).await;
    }
    // More than the pipe holds, so that it is being written when it breaks.
    let large = vec![7; 5 << 20];
    let peers = async {
        let mut some = vec![0; 1 << 20];
        peer.stream.read_exact(&mut some).await.unwrap();
        drop(peer);
        let mut peer = attempts.accept().await;
        assert!(peer.expect(0x82).await == large);
        peer
    };
    let (sent, _peer) = tokio::join!(within(socket.send(&large)), peers);
    sent.unwrap();
    for number in 0..40 {
        match update(&mut socket).await {
            Update::Message(Message::Binary(bytes)) => assert_eq!(bytes[0], number),
            other => panic!("{number}: {other:?}"),
        }
    }
    let _ = expect_waiting(&mut socket).await;
    expect_connecting(&mut socket, 2).await;
    expect_open(&mut socket).await;
}

/// From the seventh failure on, there was no room for it any more.
#[tokio::test(start_paused = true)]
async fn what_a_broken_connection_has_received_outlives_any_number_of_attempts() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.max_delay(SECOND);
    let mut peer = open(&mut socket, &mut attempts, 1).await;
    peer.send_frame(0x81, "one").await;
    let large = vec![7; 2 << 20];
    let peers = async {
        let mut some = [0; 1000];
        peer.stream.read_exact(&mut some).await.unwrap();
        drop(peer);
        for _ in 0..40 {
            drop(attempts.raw().await);
        }
        let mut peer = attempts.accept().await;
        assert!(peer.expect(0x82).await == large);
        peer
    };
    let (sent, _peer) = tokio::join!(socket.send(&large), peers);
    sent.unwrap();
    expect_message(&mut socket, "one").await;
}

#[tokio::test(start_paused = true)]
async fn news_that_nobody_takes_are_bounded() {
    let (socket, mut attempts) = pipes();
    let mut socket = socket.max_delay(SECOND);
    let peers = async {
        for _ in 0..50 {
            drop(attempts.raw().await);
        }
        attempts.accept().await
    };
    let (sent, _peer) = tokio::join!(socket.send("hello"), peers);
    sent.unwrap();
    let mut told = 1;
    while !matches!(update(&mut socket).await, Update::Open) {
        told += 1;
    }
    assert_eq!(told, 16);
}

#[tokio::test(start_paused = true)]
async fn closing_is_for_good() {
    // While open.
    let (mut socket, mut attempts) = pipes();
    let mut peer = open(&mut socket, &mut attempts, 1).await;
    // What cannot be sent closes nothing.
    let long = "x".repeat(124);
    assert!(socket.close(CloseCode::NORMAL, &long).await.is_err());
    assert!(socket.socket().unwrap().is_open());
    let (closed, ()) = tokio::join!(within(socket.close(CloseCode::NORMAL, "done")), async {
        assert_eq!(peer.expect_close().await, (1000, "done".into()));
        peer.send_close(1000, "done").await;
        drop(peer);
    });
    closed.unwrap();
    assert!(matches!(socket.ended(), Some(Ended::ByUs(_))));
    expect_no_more(&mut socket, &mut attempts).await;
    assert!(
        socket
            .close(CloseCode::NORMAL, "")
            .await
            .unwrap_err()
            .is_closed()
    );

    // Before the first attempt, in one, and between two.
    for steps in 0..3 {
        let (mut socket, mut attempts) = pipes();
        let mut far = None;
        if steps > 0 {
            expect_connecting(&mut socket, 1).await;
            let polled = tokio::time::timeout(SECOND, socket.recv_update()).await;
            assert!(polled.is_err());
            far = Some(attempts.raw().await);
        }
        if steps > 1 {
            far = None;
            let _ = expect_waiting(&mut socket).await;
        }
        socket.close(CloseCode::NORMAL, "").await.unwrap();
        if let Some(mut far) = far {
            // The request, and then the end.
            far.read_to_end(&mut Vec::new()).await.unwrap();
        }
        expect_no_more(&mut socket, &mut attempts).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reason_that_is_too_long_closes_nothing() {
    let (mut socket, mut attempts) = pipes();
    let too_long = "x".repeat(124);
    for connected in [false, true] {
        let _peer = match connected {
            true => Some(open(&mut socket, &mut attempts, 1).await),
            false => None,
        };
        let closed = within(socket.close(CloseCode::NORMAL, &too_long)).await;
        assert!(matches!(closed, Err(Error::Send(_))), "{closed:?}");
        assert!(!closed.unwrap_err().is_closed());
    }
    assert!(socket.ended().is_none());
}

#[tokio::test(start_paused = true)]
async fn no_attempt_follows_a_close_that_is_not_answered() {
    let (mut socket, mut attempts) = pipes();
    let _peer = open(&mut socket, &mut attempts, 1).await;
    let error = within(socket.close(CloseCode::NORMAL, ""))
        .await
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
    expect_no_more(&mut socket, &mut attempts).await;
}

/// A close that was dropped is still meant.
#[tokio::test(start_paused = true)]
async fn no_attempt_follows_a_close_whose_connection_is_lost() {
    let (mut socket, mut attempts) = pipes();
    let mut peer = open(&mut socket, &mut attempts, 1).await;
    let closing = tokio::time::timeout(SECOND, socket.close(CloseCode::NORMAL, ""));
    assert!(closing.await.is_err());
    assert_eq!(peer.expect_close().await.0, 1000);
    drop(peer);
    assert!(within(socket.recv()).await.unwrap_err().is_lost());
    expect_no_more(&mut socket, &mut attempts).await;
}

/// The server moves: what opens the connection knows where to.
#[tokio::test]
async fn an_address_that_changes() {
    let (tell, addresses) = tokio::sync::watch::channel(String::new());
    let listen = async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        tell.send(url).unwrap();
        listener
    };
    let mut socket = Reconnecting::with(move || {
        let url = addresses.borrow().clone();
        async move { Client::new(url).deflate(None).connect().await }
    })
    .base_delay(Duration::from_millis(1));
    for round in 0..3 {
        let listener = listen().await;
        let text = format!("from {round}");
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut peer = Peer::server(tcp, "", &[]).await;
            peer.send_frame(0x81, &text).await;
        };
        let (message, ()) = tokio::join!(within(socket.recv()), server);
        assert_eq!(message.unwrap().unwrap().as_text(), Some(&text[..]));
        // The listener and the connection end here.
    }
}
