//! One connection at a time: what is accepted, and every way to be refused (RFC 6455 §4.2).

use std::future::{pending, ready};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    time::Instant,
};

use sockeye_proto::{Limits, handshake::HeadLimits};

use super::{super::Origins, *};

const GOOD: &str = "GET /chat?room=1 HTTP/1.1\r\n\
    Host: example.com\r\n\
    Upgrade: websocket\r\n\
    Connection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\
    \r\n";

/// The good request with one line replaced by others, or by none.
fn with(line: &str, instead: &str) -> String {
    let mut head: String = GOOD
        .lines()
        .filter(|candidate| !candidate.is_empty() && !candidate.starts_with(line))
        .map(|line| format!("{line}\r\n"))
        .collect();
    head += instead;
    head + "\r\n"
}

fn and(lines: &str) -> String {
    with("nothing begins like this", lines)
}

/// Both ends of a real connection.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

/// A request over a real socket: what the acceptor makes of it, and all that the client gets.
async fn exchange(acceptor: &Acceptor, request: &[u8]) -> (Result<Established>, String) {
    let (mut client, server) = sockets().await;
    let request = request.to_vec();
    let client = async move {
        client.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        let mut buffer = [0; 1024];
        // Reading to the end only works for refusals; a 101 is whole once its head is.
        while !(answer.starts_with(b"HTTP/1.1 101") && answer.ends_with(b"\r\n\r\n")) {
            match client.read(&mut buffer).await.unwrap() {
                0 => break,
                n => answer.extend_from_slice(&buffer[..n]),
            }
        }
        String::from_utf8(answer).unwrap()
    };
    tokio::join!(acceptor.establish(server), client)
}

#[tokio::test]
async fn the_standards_example_is_accepted() {
    let (established, answer) = exchange(&Acceptor::new(), GOOD.as_bytes()).await;
    assert!(
        answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{answer}"
    );
    let established = established.unwrap();
    assert!(matches!(established.role, Role::Server));
    assert_eq!(established.peer_head.request().unwrap().path(), "/chat");
    assert!(established.peer_head.response().is_none());
    assert!(established.peer_addr.unwrap().ip().is_loopback());
    assert_eq!(established.early.capacity(), 0);
    assert_eq!(established.subprotocol, None);
    assert_eq!(established.deflate, None);
    let Stream::Tcp(tcp) = &established.stream else {
        panic!("{:?}", established.stream);
    };
    assert!(tcp.nodelay().unwrap());
}

#[tokio::test]
async fn section_4_2_every_refusal_is_a_whole_response() {
    let many = "X: y\r\n".repeat(96);
    let long = format!("X: {}\r\n", "y".repeat(17 * 1024));
    let key = "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9d8\r\n";
    let refusals: &[(String, u16, &str, &str)] = &[
        (
            with("GET", "").replacen("Host", "POST / HTTP/1.1\r\nHost", 1),
            405,
            "GET, not POST",
            "Allow: GET",
        ),
        (GOOD.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1", ""),
        (GOOD.replace("HTTP/1.1", "HTTP/3.7"), 400, "HTTP/1.1", ""),
        (with("Host", ""), 400, "Host is missing", ""),
        (and("Expect: 100-continue\r\n"), 417, "no Expect", ""),
        (and("Host: b\r\n"), 400, "Host is given more than once", ""),
        (
            with("Upgrade", ""),
            426,
            "must say websocket",
            "Upgrade: websocket",
        ),
        (
            with("Connection", ""),
            400,
            "Connection must say Upgrade",
            "",
        ),
        (with("Sec-WebSocket-Key", ""), 400, "Key is missing", ""),
        (and(key), 400, "Key is given more than once", ""),
        (
            with("Sec-WebSocket-Key", key),
            400,
            "does not decode to 16 bytes",
            "",
        ),
        (
            with("Sec-WebSocket-Version", ""),
            426,
            "version 13",
            "Sec-WebSocket-Version: 13",
        ),
        (
            with("Sec-WebSocket-V", "Sec-WebSocket-Version: 8\r\n"),
            426,
            "not 8",
            "Sec-WebSocket-Version: 13",
        ),
        (
            and("Sec-WebSocket-Protocol: a, a\r\n"),
            400,
            "Sec-WebSocket-Protocol",
            "",
        ),
        (
            and("Sec-WebSocket-Extensions: a;\r\n"),
            400,
            "Sec-WebSocket-Extensions",
            "",
        ),
        (and("Content-Length: 1\r\n"), 400, "no body", ""),
        (and(&many), 431, "100 header fields", ""),
        (and(&long), 431, "16384 bytes", ""),
        (and("Folded: a\r\n b\r\n"), 400, "malformed", ""),
        (GOOD.replace("\r\n", "\n"), 400, "CR LF", ""),
        ("\x16\x03\x01".into(), 400, "speaks TLS", ""),
        ("\0".into(), 400, "not HTTP", ""),
    ];
    for (request, status, words, header) in refusals {
        let (error, answer) = exchange(&Acceptor::new(), request.as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
        let head = format!("{head}\r\n");
        assert!(
            head.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request} {answer}"
        );
        assert!(body.contains(words), "{answer}");
        assert!(head.contains(&format!("\r\n{header}")), "{answer}");
        assert!(head.contains("\r\nConnection: close"), "{answer}");
        assert!(
            head.contains("\r\nContent-Type: text/plain; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(
            head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())),
            "{answer}"
        );
        let error = error.unwrap_err();
        assert!(
            error.is_handshake() && error.to_string().contains(words),
            "{error}"
        );
    }
}

/// RFC 9110 §9.3.2: what is said of a body that a GET would have been answered with, but not the body.
#[tokio::test]
async fn a_head_is_refused_without_a_body() {
    let request = GOOD.replace("GET", "HEAD");
    let (error, answer) = exchange(&Acceptor::new(), request.as_bytes()).await;
    assert!(error.unwrap_err().to_string().contains("GET, not HEAD"));
    assert!(
        answer.starts_with("HTTP/1.1 405 ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nContent-Length: 41\r\n"), "{answer}");
    for request in [
        request.replace("HTTP/1.1", "HTTP/1.0"),
        "HEAD / HTTP/1.0\r\n\r\n".into(),
        "HEAD / HTTP/1.1\r\nHost : a\r\n\r\n".into(),
    ] {
        let (_, answer) = exchange(&Acceptor::new(), request.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("\r\n\r\n"),
            "{answer}"
        );
    }
}

/// RFC 9112 §3.2.2: whoever names the host in the target is asked, whatever `Host` says.
#[tokio::test]
async fn a_whole_url_names_the_host_that_pages_are_of() {
    let target = |host: &str| GOOD.replace("/chat", &format!("http://{host}/chat"));
    for (host, origin, status) in [
        ("example.com", "example.com", "101"),
        ("other.example", "other.example", "101"),
        ("other.example", "example.com", "403"),
        // Nobody is named in it (RFC 9110 §4.2.4).
        ("user@example.com", "example.com", "400"),
    ] {
        let request = target(host).replace(
            "Upgrade: w",
            &format!("Origin: http://{origin}\r\nUpgrade: w"),
        );
        let (_, answer) = exchange(&Acceptor::new(), request.as_bytes()).await;
        assert_eq!(&answer[9..12], status, "{host} {origin}: {answer}");
    }
}

#[tokio::test]
async fn a_refusal_arrives_although_the_client_is_still_sending() {
    let request = format!("{GOOD}{}", "x".repeat(100 * 1024)).replace("GET", "GET,");
    let (_, answer) = exchange(&Acceptor::new(), request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_head_may_come_a_byte_at_a_time() {
    // A pipe that holds one byte cuts whatever is written.
    let (mut client, server) = duplex(1);
    let client = async {
        client.write_all(GOOD.as_bytes()).await.unwrap();
        read_head_of(&mut client).await
    };
    let acceptor = Acceptor::new();
    let (established, answer) = tokio::join!(acceptor.establish(server), client);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert!(established.unwrap().early.is_empty());
}

async fn read_head_of(stream: &mut DuplexStream) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn bytes_behind_the_head_are_kept() {
    let request = [GOOD.as_bytes(), b"\x81\x80\0\0\0\0\r\n\r\n"].concat();
    let (established, _) = exchange(&Acceptor::new(), &request).await;
    assert_eq!(established.unwrap().early, b"\x81\x80\0\0\0\0\r\n\r\n");
}

#[tokio::test]
async fn another_request_is_handed_on_with_all_that_was_read() {
    for (bytes, path) in [
        (
            &b"GET /page?a=b HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            Some("/page"),
        ),
        (b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nab", Some("/")),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
    ] {
        let (mut client, server) = duplex(1024);
        client.write_all(bytes).await.unwrap();
        let mut client = Client::new(Stream::new(server), Peer::default());
        let incoming = Acceptor::new().receive(&mut client).await.unwrap();
        let Incoming::Http(request) = incoming else {
            panic!("{incoming:?}");
        };
        assert_eq!(client.bytes, bytes);
        assert_eq!(request.as_ref().map(Request::path), path);
    }
}

#[tokio::test]
async fn http_2_is_refused_where_only_websockets_are_served() {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (error, answer) = exchange(&Acceptor::new(), preface).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(error.unwrap_err().is_handshake());
}

#[tokio::test]
async fn a_client_that_leaves_is_not_answered() {
    for request in ["", "GET / HT"] {
        let (mut client, server) = duplex(1024);
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let error = Acceptor::new().establish(server).await.unwrap_err();
        assert!(
            matches!(error, Error::Handshake(HandshakeError::UnexpectedEnd)),
            "{error:?}"
        );
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_dropped_at_the_deadline() {
    let (_client, server) = duplex(1024);
    let begin = Instant::now();
    let error = Acceptor::new().establish(server).await.unwrap_err();
    assert!(
        matches!(error, Error::Timeout(Deadline::Handshake)),
        "{error:?}"
    );
    assert_eq!(begin.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn bytes_now_and_then_do_not_move_the_deadline() {
    let (mut client, server) = duplex(1024);
    let acceptor = Acceptor::new().handshake_timeout(Duration::from_secs(3));
    let drip = async {
        let mut now_and_then = tokio::time::interval(Duration::from_millis(500));
        while client.write_all(b"X").await.is_ok() {
            now_and_then.tick().await;
        }
    };
    let begin = Instant::now();
    tokio::select! {
        result = acceptor.establish(server) => {
            let error = result.unwrap_err();
            assert!(error.is_timeout(), "{error:?}");
        }
        () = drip => panic!("the pipe broke first"),
    }
    assert_eq!(begin.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_refused_client_that_stays_is_not_waited_for_long() {
    let (mut client, server) = duplex(1024);
    client.write_all(b"\0").await.unwrap();
    let begin = Instant::now();
    let error = Acceptor::new().establish(server).await.unwrap_err();
    assert!(error.is_handshake(), "{error:?}");
    assert_eq!(begin.elapsed(), LINGER);
}

#[tokio::test]
async fn the_user_decides_by_path_and_header() {
    let acceptor = Acceptor::new().origins(Origins::any());
    let acceptor = acceptor.on_request(async |request| {
        if request.headers().first("Origin").is_some() {
            return Err(Refusal::new(403, "not for browsers\n"));
        }
        Ok(Answer::new().header("Set-Cookie", format!("seen={}", request.path())))
    });
    let (established, answer) = exchange(&acceptor, GOOD.as_bytes()).await;
    assert!(established.is_ok());
    assert!(
        answer.contains("\r\nSet-Cookie: seen=/chat\r\n"),
        "{answer}"
    );

    let (error, answer) = exchange(&acceptor, and("Origin: http://a\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nnot for browsers\n"), "{answer}");
    let Error::Handshake(HandshakeError::Refused(refusal)) = error.unwrap_err() else {
        panic!("another error");
    };
    assert_eq!(refusal.status(), 403);
}

#[tokio::test]
async fn the_user_is_not_asked_about_what_the_standard_refuses() {
    let acceptor = Acceptor::new().on_request(async |_| panic!("asked"));
    let (error, answer) = exchange(&acceptor, with("Sec-WebSocket-Key", "").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(error.unwrap_err().is_handshake());
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_takes_too_long_is_a_refusal_with_503_at_the_deadline() {
    let acceptor = Acceptor::new()
        .handshake_timeout(Duration::from_secs(3))
        .on_request(|_| pending());
    let (mut client, server) = duplex(1024);
    let begin = Instant::now();
    let client = async {
        // Half of the time goes for the head.
        let (half, rest) = GOOD.split_at(20);
        client.write_all(half.as_bytes()).await.unwrap();
        tokio::time::advance(Duration::from_secs(2)).await;
        client.write_all(rest.as_bytes()).await.unwrap();
        let answer = read_head_of(&mut client).await;
        drop(client);
        (answer, begin.elapsed().as_secs())
    };
    let (error, (answer, elapsed)) = tokio::join!(acceptor.establish(server), client);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(elapsed, 3);
    let error = error.unwrap_err();
    assert!(error.to_string().contains("did not decide"), "{error}");
}

#[tokio::test]
async fn a_decision_that_panics_is_a_refusal_with_500() {
    let at_once = Acceptor::new().on_request(|request| {
        assert_eq!(request.path(), "/nowhere", "it panics here");
        ready(Ok(Answer::new()))
    });
    let later = Acceptor::new().on_request(async |request| {
        tokio::task::yield_now().await;
        assert_eq!(request.path(), "/nowhere", "it panics here");
        Ok(Answer::new())
    });
    for acceptor in [at_once, later] {
        let (error, answer) = exchange(&acceptor, GOOD.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        let error = error.unwrap_err();
        assert!(error.to_string().contains("failed to decide"), "{error}");
        // The acceptor is as good as before.
        let elsewhere = GOOD.replace("/chat?room=1", "/nowhere");
        let (established, _) = exchange(&acceptor, elsewhere.as_bytes()).await;
        assert!(established.is_ok());
    }
}

#[tokio::test]
async fn the_request_is_at_hand_while_it_is_decided_about_and_the_same_after() {
    let acceptor = Acceptor::new().on_request(move |request| async move {
        tokio::task::yield_now().await;
        assert_eq!(request.path(), "/chat");
        assert_eq!(request.query(), Some("room=1"));
        assert!(request.subprotocols().iter().eq(["a", "b"]));
        assert!(request.peer_addr().unwrap().ip().is_loopback());
        Ok(Answer::new())
    });
    let request = and("Sec-WebSocket-Protocol: a, b\r\n");
    let (established, _) = exchange(&acceptor, request.as_bytes()).await;
    let established = established.unwrap();
    let read = Request::parse(request.as_bytes()).unwrap();
    assert_eq!(established.peer_head.request(), Some(&read));
}

#[tokio::test]
async fn whoever_decides_may_keep_the_request() {
    let kept = Arc::new(std::sync::Mutex::new(None));
    let keep = kept.clone();
    let acceptor = Acceptor::new().on_request(move |request| {
        *keep.lock().unwrap() = Some(request);
        std::future::ready(Ok(Answer::new()))
    });
    let (established, _) = exchange(&acceptor, GOOD.as_bytes()).await;
    let established = established.unwrap();
    let kept = kept.lock().unwrap().take().unwrap();
    let theirs: &Request = &kept;
    assert_eq!(established.peer_head.request(), Some(theirs));
}

#[tokio::test]
async fn a_refusal_has_headers() {
    let acceptor = Acceptor::new().on_request(async |_| {
        let refusal = Refusal::new(401, "say who you are\n");
        Err(refusal.header("WWW-Authenticate", "Bearer")?)
    });
    let (_, answer) = exchange(&acceptor, GOOD.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    assert!(
        answer.contains("\r\nWWW-Authenticate: Bearer\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_connection_remembers_one_value_of_any_type() {
    #[derive(Debug, PartialEq)]
    struct Room(u8);
    let acceptor =
        Acceptor::new().on_request(async |_| Ok(Answer::new().state("replaced").state(Room(7))));
    let (established, _) = exchange(&acceptor, GOOD.as_bytes()).await;
    let socket = WebSocket::new(established.unwrap());
    assert_eq!(socket.state(), Some(&Room(7)));
    assert_eq!(socket.sender().state(), Some(&Room(7)));
    assert_eq!(socket.state::<&str>(), None);
    let (established, _) = exchange(&Acceptor::new(), GOOD.as_bytes()).await;
    // Nothing is kept where there is nothing.
    assert!(established.unwrap().admitted.is_none());
}

#[tokio::test]
async fn an_answer_that_cannot_be_given_is_the_servers_fault() {
    for answer in [
        Answer::new().header("Sec-WebSocket-Accept", "mine"),
        Answer::new().header("X", "a\r\nb"),
        Answer::new().subprotocol("not offered"),
    ] {
        let acceptor = Acceptor::new().on_request(move |_| ready(Ok(answer.clone())));
        let (error, answer) = exchange(&acceptor, GOOD.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert!(error.unwrap_err().is_handshake());
    }
}

#[tokio::test]
async fn section_4_2_2_the_servers_favourite_subprotocol_is_chosen() {
    let request = and("Sec-WebSocket-Protocol: a, b, c\r\n");
    let acceptor = Acceptor::new()
        .subprotocol("x")
        .subprotocol("c")
        .subprotocol("a");
    let (established, answer) = exchange(&acceptor, request.as_bytes()).await;
    assert!(
        answer.contains("\r\nSec-WebSocket-Protocol: c\r\n"),
        "{answer}"
    );
    assert_eq!(established.unwrap().subprotocol.as_deref(), Some("c"));

    let acceptor = acceptor.on_request(async |_| Ok(Answer::new().subprotocol("b")));
    let (established, _) = exchange(&acceptor, request.as_bytes()).await;
    assert_eq!(established.unwrap().subprotocol.as_deref(), Some("b"));
}

#[tokio::test]
#[cfg(feature = "deflate")]
async fn deflate_is_agreed_unless_it_is_declined() {
    let request = and("Sec-WebSocket-Extensions: x-other, permessage-deflate\r\n");
    let (established, answer) = exchange(&Acceptor::new(), request.as_bytes()).await;
    assert!(
        answer.contains("\r\nSec-WebSocket-Extensions: permessage-deflate"),
        "{answer}"
    );
    assert!(established.unwrap().deflate.is_some());
    let (established, answer) = exchange(&Acceptor::new().deflate(None), request.as_bytes()).await;
    assert!(!answer.contains("Extensions"), "{answer}");
    assert_eq!(established.unwrap().deflate, None);
}

#[tokio::test]
async fn limits_are_handed_on() {
    let acceptor = Acceptor::new()
        .limits(Limits::default().message(7))
        .close_timeout(Duration::from_secs(9))
        .head_limits(HeadLimits::default().bytes(GOOD.len()).headers(5));
    let (established, _) = exchange(&acceptor, GOOD.as_bytes()).await;
    let established = established.unwrap();
    assert_eq!(established.limits.message, 7);
    assert_eq!(established.settings.close_timeout, Duration::from_secs(9));
    let (error, answer) = exchange(&acceptor, and("X: y\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert!(error.unwrap_err().is_handshake());
}

#[tokio::test]
async fn the_handshake_leaves_nothing_in_the_callers_future() {
    let (_client, server) = duplex(64);
    let acceptor = Acceptor::new();
    let size = size_of_val(&acceptor.establish(server));
    assert!(size < 1024, "{size} bytes");
}

/// That a stream has no address does not make it a Unix socket.
#[tokio::test]
async fn whoever_comes_from_nowhere_is_not_believed() {
    let acceptor = Acceptor::new().x_forwarded_for("unix".parse().unwrap());
    let request = and("X-Forwarded-For: 192.0.2.1\r\n");
    let (mut client, server) = duplex(4096);
    client.write_all(request.as_bytes()).await.unwrap();
    let established = acceptor.establish(server).await.unwrap();
    assert_eq!(established.peer_addr, None);
    #[cfg(unix)]
    {
        let (mut client, server) = tokio::net::UnixStream::pair().unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        let established = acceptor.establish(server).await.unwrap();
        assert_eq!(established.peer_addr, Some("192.0.2.1:0".parse().unwrap()));
    }
}
