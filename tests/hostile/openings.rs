//! Opening handshakes that break a rule, and what is agreed in those that do not
//! (RFC 6455 §4.1, §4.2; RFC 7692 §5, §7.1).

use std::io;

use sockeye_tests::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    http::{answer, ask, get, with},
    suite::{At, Bound, Suite},
    wire::{Peer, frame, within},
    wrongs::HELLO,
};

const BOUND: Bound = Bound {
    mib: 8,
    why: "a head has 16 KiB at most",
};

/// A request that is refused.
struct Refused {
    name: &'static str,
    request: String,
    status: u16,
    /// What the answer says, in lower case.
    words: &'static str,
    /// A line of its head, in lower case.
    header: &'static str,
}

macro_rules! refused {
    ($($name:literal, $request:expr, $status:literal, $words:literal, $header:literal;)*) => {
        vec![$(Refused {
            name: $name,
            request: $request,
            status: $status,
            words: $words,
            header: $header,
        }),*]
    };
}

/// A good request, with another first line.
fn first(line: &str) -> String {
    with("GET", "").replacen("Host", &format!("{line}\r\nHost"), 1)
}

/// A good request, and these lines too.
fn and(lines: &str) -> String {
    with("nothing", &format!("{lines}\r\n"))
}

/// A good request with another value in a line.
fn value(name: &str, value: &str) -> String {
    with(name, &format!("{name}: {value}\r\n"))
}

const KEY: &str = "Sec-WebSocket-Key";
const VERSION: &str = "Sec-WebSocket-Version";

fn refused() -> Vec<Refused> {
    refused! {
        "POST", first("POST / HTTP/1.1"), 405, "with get, not post", "allow: get";
        "HEAD", first("HEAD / HTTP/1.1"), 405, "", "allow: get";
        "get", first("get / HTTP/1.1"), 405, "with get, not get", "allow: get";
        "HTTP/2.0, in words", first("GET / HTTP/2.0"), 400, "opened on http/1.1", "";
        "a method alone", first("GET"), 400, "", "";
        "no version of HTTP", first("GET /"), 400, "", "";
        "two spaces", first("GET  / HTTP/1.1"), 400, "", "";
        "another protocol", first("GET / HTTX/1.1"), 400, "", "";
        "no Host", with("Host", ""), 400, "host is missing", "";
        "two Hosts", and("Host: other"), 400, "host is given more than once", "";
        "a Host of two words", value("Host", "a b"), 400, "host is not a host", "";
        "a Host with a path", value("Host", "a/b"), 400, "host is not a host", "";
        "a Host with a user", value("Host", "user@a"), 400, "host is not a host", "";
        "no Connection", with("Connection", ""), 400, "must say upgrade", "";
        "Connection: close", value("Connection", "close"), 400, "must say upgrade", "";
        "Connection: upgraded", value("Connection", "upgraded"), 400, "must say upgrade", "";
        "no key", with(KEY, ""), 400, "key is missing", "";
        "two keys", and("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400, "more than once", "";
        "a key of 13 bytes", value(KEY, "x3JJHMbDL1EzLkh9d8"), 400, "does not decode to 16 bytes", "";
        "a key of 14 bytes", value(KEY, "SGVsbG8sIHdvcmxkIQ=="), 400, "does not decode to 16 bytes", "";
        "a key of 17 bytes", value(KEY, "AAAAAAAAAAAAAAAAAAAAAAA="), 400, "does not decode to 16 bytes", "";
        "an empty key", value(KEY, ""), 400, "does not decode to 16 bytes", "";
        "a key that is no base64", value(KEY, "dGhlIHNhbXBsZSBub25j!!=="), 400, "does not decode to 16", "";
        "no version", with(VERSION, ""), 426, "version is missing", "sec-websocket-version: 13";
        "version 8", value(VERSION, "8"), 426, "not 8", "sec-websocket-version: 13";
        "version 013", value(VERSION, "013"), 426, "not 013", "sec-websocket-version: 13";
        "versions 13 and 8", value(VERSION, "13, 8"), 426, "not 13, 8", "sec-websocket-version: 13";
        "two versions", and("Sec-WebSocket-Version: 13"), 400, "more than once", "";
        "no subprotocol at all", and("Sec-WebSocket-Protocol:"), 400, "sec-websocket-protocol", "";
        "a subprotocol of two words", and("Sec-WebSocket-Protocol: a b"), 400, "distinct tokens", "";
        "a subprotocol twice", and("Sec-WebSocket-Protocol: a, a"), 400, "distinct tokens", "";
        "a subprotocol twice in two lines",
            and("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: a"), 400, "distinct tokens", "";
        "a subprotocol that is no token", and("Sec-WebSocket-Protocol: a/b"), 400, "distinct tokens", "";
        "a subprotocol in quotes", and("Sec-WebSocket-Protocol: \"chat\""), 400, "distinct tokens", "";
        "no extension at all", and("Sec-WebSocket-Extensions:"), 400, "sec-websocket-extensions", "";
        "an extension and nothing more", and("Sec-WebSocket-Extensions: a;"), 400, "sec-websocket-extensions", "";
        "a parameter without a value", and("Sec-WebSocket-Extensions: a; b="), 400, "sec-websocket-extensions", "";
        "a quote without an end", and("Sec-WebSocket-Extensions: a; b=\""), 400, "sec-websocket-extensions", "";
        "a quoted value of two words",
            and("Sec-WebSocket-Extensions: a; b=\"c d\""), 400, "sec-websocket-extensions", "";
        "a body", and("Content-Length: 5"), 400, "no body", "";
        "a body in chunks", and("Transfer-Encoding: chunked"), 400, "no body", "";
        "a length that is no number", and("Content-Length: x"), 400, "no body", "";
        "a space before the colon", and("Name : value"), 400, "malformed", "";
        "a line without a colon", and("No colon"), 400, "malformed", "";
        "a folded line", and(" folded: value"), 400, "malformed", "";
        "a control character", and("Name: \u{1}"), 400, "malformed", "";
        "a line that ends in LF", with("nothing", "Name: value\n"), 400, "without cr lf", "";
        "101 header fields", and(&["X: y"; 96].join("\r\n")), 431, "100 header fields", "";
        "more than 16 KiB", and(&format!("X: {}", "x".repeat(16 << 10))), 431, "16384 bytes", "";
    }
}

/// Requests that look odd, and follow every rule.
fn odd() -> [(&'static str, String); 8] {
    let upper = "UPGRADE: WebSocket\r\nconnection: uPGRADE\r\n";
    [
        (
            "names and tokens in other cases",
            with("Up", "").replace("Connection: Upgrade\r\n", upper),
        ),
        (
            "tokens in lists",
            value("Connection", "keep-alive, Upgrade"),
        ),
        (
            "another protocol besides",
            value("Upgrade", "h2c, websocket"),
        ),
        ("a Host with a zone", value("Host", "[fe80::1%25eth0]:80")),
        ("a length of 0", and("Content-Length: 0")),
        (
            "a whole URL as its target",
            first("GET http://peer/?a=b HTTP/1.1"),
        ),
        ("100 header fields", and(&["X: y"; 95].join("\r\n"))),
        (
            "empty members in a list",
            and("Sec-WebSocket-Protocol: ,other, ,"),
        ),
    ]
}

/// What is agreed where neither end keeps a context.
const FORGETS: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What is agreed of extensions for what was offered.
fn offers() -> Vec<(String, String)> {
    let declined = [
        "x-unknown",
        "permessage-deflate; x-unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=-9",
        "permessage-deflate; server_max_window_bits=9; server_max_window_bits=9",
        "permessage-deflate; client_max_window_bits=99999999999999999999",
    ];
    let mut offers: Vec<_> = declined.map(|offer| (offer.into(), String::new())).into();
    offers.push(("permessage-deflate".into(), FORGETS.into()));
    // The first that can be accepted is.
    offers.extend(declined.map(|offer| (format!("{offer}, permessage-deflate"), FORGETS.into())));
    for side in ["server", "client"] {
        for bits in 8..=15 {
            // A client that may use 15 bits is told nothing; a server has to answer what it was asked.
            let limit = match (side, bits) {
                ("client", 15) => String::new(),
                _ => format!("; {side}_max_window_bits={bits}"),
            };
            for quote in ["", "\""] {
                let offer =
                    format!("permessage-deflate; {side}_max_window_bits={quote}{bits}{quote}");
                offers.push((offer, format!("{FORGETS}{limit}")));
            }
        }
    }
    offers
}

/// Which subprotocol is chosen by a server that prefers `chat` to `superchat`.
const SUBPROTOCOLS: [(&str, &str); 5] = [
    ("superchat, chat", "chat"),
    ("superchat\r\nsec-websocket-protocol: chat", "chat"),
    ("superchat, other", "superchat"),
    ("CHAT", ""),
    ("other", ""),
];

pub(crate) async fn run(suite: &mut Suite) -> io::Result<()> {
    let args = ["--subprotocol", "chat", "--subprotocol", "superchat"];
    let mut serve = suite
        .attack("serve", Server::sockeye(&args).await?, BOUND)
        .await?;
    let on = &mut serve;
    for refused in refused() {
        let name = format!("a request with {}: {}", refused.name, refused.status);
        suite.case(on, name, |at| is_refused(at, refused)).await;
    }
    suite
        .case(
            on,
            "HTTP/1.0, which knows no Upgrade: the page",
            |at| async move {
                let mut stream = at.stream().await;
                let request = first("GET / HTTP/1.0");
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = within(answer(&mut stream)).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                assert!(answer.head.contains("text/html"), "{answer:?}");
                ended(stream).await;
            },
        )
        .await;
    for (name, request) in odd() {
        let name = format!("a request with {name}: 101");
        suite
            .case(
                on,
                name,
                |at| async move { drop(accepted(&at, &request).await) },
            )
            .await;
    }
    for (offer, agreed) in offers() {
        let name = format!("offered {offer:?}");
        suite
            .case(on, name, |at| async move {
                let extensions = agreed_on(&at, "Sec-WebSocket-Extensions", &offer).await;
                assert_eq!(extensions, agreed);
            })
            .await;
    }
    for (offer, chosen) in SUBPROTOCOLS {
        let name = format!("offered the subprotocols {offer:?}: {chosen:?}");
        suite
            .case(on, name, |at| async move {
                assert_eq!(
                    agreed_on(&at, "Sec-WebSocket-Protocol", offer).await,
                    chosen
                );
            })
            .await;
    }
    for (name, bytes, status) in NO_HTTP {
        let name = format!("first bytes: {name}");
        suite
            .case(on, name, |at| async move {
                let mut stream = at.stream().await;
                stream.write_all(bytes).await.unwrap();
                assert_eq!(within(answer(&mut stream)).await.status, *status);
                ended(stream).await;
            })
            .await;
    }
    suite
        .case(
            on,
            "first bytes: HTTP/2, and then no frames of it",
            |at| async move {
                let mut stream = at.stream().await;
                let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nGET / HTTP/1.1\r\n\r\n";
                stream.write_all(begin).await.unwrap();
                assert_eq!(last_frame(stream).await, GOAWAY);
            },
        )
        .await;
    suite
        .case(on, "a line without an end: 431", |at| async move {
            let mut stream = at.stream().await;
            stream.write_all(b"GET /").await.unwrap();
            stream.write_all(&[b'a'; 200_000]).await.unwrap();
            assert_eq!(within(answer(&mut stream)).await.status, 431);
            ended(stream).await;
        })
        .await;
    suite
        .case(on, "a head a byte at a time", |at| async move {
            let mut stream = at.stream().await;
            stream.set_nodelay(true).unwrap();
            for byte in with("nothing", "").bytes() {
                stream.write_all(&[byte]).await.unwrap();
                // So that the system cannot gather them: the server is given the time to read it.
                tokio::task::yield_now().await;
            }
            assert_eq!(within(answer(&mut stream)).await.status, 101);
            let mut peer = Peer::opened(stream);
            peer.expect_echo("opened").await;
        })
        .await;
    suite
        .case(
            on,
            "a page first, a socket on the same connection",
            |at| async move {
                let mut stream = at.stream().await;
                for _ in 0..3 {
                    assert_eq!(within(get(&mut stream, "/")).await.status, 200);
                }
                let mut peer = Peer::client(stream, "", &frame(0x81, true, b"early")).await;
                peer.expect_text("early").await;
            },
        )
        .await;
    suite
        .case(
            on,
            "the end of the connection within a head",
            |at| async move {
                for whole in [0, 1, 10, 100] {
                    let mut stream = at.stream().await;
                    stream
                        .write_all(&with("nothing", "").as_bytes()[..whole])
                        .await
                        .unwrap();
                    stream.shutdown().await.unwrap();
                    ended(stream).await;
                }
            },
        )
        .await;
    suite.end(serve).await
}

/// Other protocols than HTTP/1.1, and the status that they get.
const NO_HTTP: &[(&str, &[u8], u16)] = &[
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03", 400),
    ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n\r\n", 400),
    ("zeros", &[0; 100], 400),
    (
        "a frame",
        b"\x81\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58",
        400,
    ),
];

/// RFC 9113 §6.8.
const GOAWAY: u8 = 7;

/// The type of the last frame of HTTP/2 that comes, before the stream ends.
async fn last_frame(mut stream: TcpStream) -> u8 {
    let mut all = Vec::new();
    // It may be reset, as not all was read.
    let _ = within(stream.read_to_end(&mut all)).await;
    let (mut rest, mut last) = (&all[..], 0);
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        (rest, last) = (payload.get(len..).unwrap_or_default(), *kind);
    }
    last
}

/// What the answer says in a line, where a request said `offer` in it; empty where it has no such line.
async fn agreed_on(at: &At, line: &str, offer: &str) -> String {
    let head = accepted(at, &and(&format!("{line}: {offer}"))).await;
    let line = format!("{}: ", line.to_lowercase());
    let said = head.lines().find_map(|said| said.strip_prefix(&line));
    said.unwrap_or_default().to_owned()
}

async fn is_refused(at: At, refused: Refused) {
    let mut stream = at.stream().await;
    let answer = within(ask(&mut stream, &refused.request)).await;
    assert_eq!(answer.status, refused.status, "{answer:?}");
    let body = answer.body.to_lowercase();
    assert!(body.contains(refused.words), "{answer:?}");
    assert!(answer.head.contains(refused.header), "{answer:?}");
    ended(stream).await;
}

/// Waits for the end of a stream, with nothing before it.
async fn ended(mut stream: TcpStream) {
    assert_eq!(within(stream.read(&mut [0; 64])).await.unwrap(), 0);
}

/// Opens a WebSocket with a request, and uses it; gives the head of the answer.
async fn accepted(at: &At, request: &str) -> String {
    let mut stream = at.stream().await;
    let answer = within(ask(&mut stream, request)).await;
    assert_eq!(answer.status, 101, "{answer:?}");
    let mut peer = Peer::opened(stream);
    peer.expect_echo("opened").await;
    if answer.head.contains("permessage-deflate") {
        peer.send_frame(0xC1, HELLO).await;
        peer.expect_text("Hello").await;
    }
    peer.send_close(1000, "").await;
    assert_eq!(peer.expect_close().await.0, 1000);
    peer.expect_end().await;
    answer.head
}
