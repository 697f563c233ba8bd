//! The rules for a request (RFC 6455 §4.1, §4.2.1), one by one.

use alloc::format;
use alloc::{string::ToString, vec::Vec};

use super::*;
use crate::handshake::{HeadLimits, HeadScanner, Refusal, Response};

const GOOD: [&str; 6] = [
    "GET /chat?room=1 HTTP/1.1",
    "Host: example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// The good request with the lines that begin as `replace` begins taken out and others added.
fn request(without: &str, with: &[&str]) -> Vec<u8> {
    let mut head = String::new();
    for line in GOOD
        .iter()
        .filter(|line| without.is_empty() || !line.starts_with(without))
    {
        head += line;
        head += "\r\n";
    }
    for line in with {
        head += line;
        head += "\r\n";
    }
    head += "\r\n";
    head.into_bytes()
}

fn judge(head: &[u8]) -> Result<Offer, HandshakeError> {
    let mut scanner = HeadScanner::request(HeadLimits::default());
    let end = scanner.scan(head)?.expect("a whole head");
    Request::parse(&head[..end])?.check()
}

/// The status, and whether the body says so.
fn refused(without: &str, with: &[&str], status: u16, words: &str) -> Refusal {
    let error = judge(&request(without, with)).expect_err("refused");
    let refusal = Refusal::from(&error);
    assert_eq!(refusal.status(), status, "{error}");
    assert!(refusal.body().contains(words), "{:?}", refusal.body());
    refusal
}

fn with_request_line(line: &str) -> Vec<u8> {
    let good = request("GET", &[]);
    [line.as_bytes(), b"\r\n", &good].concat()
}

fn header(refusal: &Refusal, name: &str) -> Option<String> {
    refusal
        .to_headers()
        .first_str(name)
        .map(ToString::to_string)
}

mod section_4_2_1 {
    use super::*;

    /// Item 1, and RFC 9112 §3.2: else what a path lets in or keeps out could be asked for by another spelling of it.
    #[test]
    fn what_is_asked_for_is_a_path_or_a_url() {
        let good = String::from_utf8(request("", &[])).unwrap();
        let (_, rest) = good.split_once(" HTTP/1.1").unwrap();
        let asking = |target: &str| judge(format!("GET {target} HTTP/1.1{rest}").as_bytes());
        for target in [
            "/",
            "/a?b",
            "//a",
            "http://a/b",
            "WSS://a",
            "https://a?b",
            "ws://a:1/",
        ] {
            assert!(asking(target).is_ok(), "{target}");
        }
        for target in [
            "*",
            "admin/x",
            "?a",
            "\\admin",
            "\u{e9}a",
            "a:80",
            "foo://a/b",
            "://a",
            "/a#b",
            "http://a/#",
            "ws:///a",
            "http://?a",
            "http://:80/",
            "https://",
            "ws://user@a/",
        ] {
            let error = asking(target).expect_err(target);
            assert_eq!(Refusal::from(&error).status(), 400, "{target}");
            assert!(
                error.to_string().contains("neither a path nor a URL"),
                "{error}"
            );
        }
    }

    /// A peer must not fill a log, or tell the terminal that shows it what to do.
    #[test]
    fn what_is_refused_is_said_back_in_part_and_harmlessly() {
        let version = format!("Sec-WebSocket-Version: \u{9b}31m{}", "8".repeat(15_000));
        let error = judge(&request("Sec-WebSocket-Version", &[&version])).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("\\u{9b}31m888") && said.ends_with("8..."),
            "{said}"
        );
        assert!(said.len() < 300, "{said}");
        let good = String::from_utf8(request("", &[])).unwrap();
        let error = judge(good.replace("GET", &"x".repeat(15_000)).as_bytes()).unwrap_err();
        assert!(error.to_string().len() < 300, "{error}");
    }

    #[test]
    fn the_good_request_passes() {
        let offer = judge(&request("", &[])).unwrap();
        let accept = offer.accept.unwrap();
        assert_eq!(accept.as_str(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(offer.subprotocols.is_empty());
        assert!(offer.extensions.is_empty());
    }

    #[test]
    fn names_and_tokens_have_no_case_and_stand_in_lists() {
        let offer = judge(&request(
            "Up",
            &["UPGRADE: h2c, WebSocket", "connection: keep-alive"],
        ));
        assert!(offer.is_ok(), "{offer:?}");
    }

    #[test]
    fn method_get() {
        for method in ["POST", "HEAD", "get", "CONNECT"] {
            let error = judge(&with_request_line(&format!("{method} / HTTP/1.1"))).unwrap_err();
            assert_eq!(error, HandshakeError::Method(method.into()));
            let refusal = Refusal::from(error);
            assert_eq!(refusal.status(), 405);
            assert_eq!(header(&refusal, "Allow").as_deref(), Some("GET"));
        }
    }

    #[test]
    fn http_1_1_or_higher() {
        for line in ["GET / HTTP/1.0", "GET / HTTP/2.0", "GET / HTTP/0.9"] {
            let error = judge(&with_request_line(line)).unwrap_err();
            assert_eq!(error, HandshakeError::HttpVersion, "{line}");
            assert_eq!(Refusal::from(error).status(), 400);
        }
    }

    #[test]
    fn host_exactly_once() {
        refused("Host", &[], 400, "Host is missing");
        refused("", &["host: other"], 400, "Host is given more than once");
    }

    /// RFC 9112 §3.2: what is none may be one thing to a proxy and another here.
    #[test]
    fn host_is_a_host_and_perhaps_a_port() {
        let wrong = [
            "a b", "a/b", "user@a", "a, b", "a:b", "a:80:81", "::1", "[::1", "[]", "[::1]a",
            "[a/b]", "a%", "a%2", "a%2g", "a%g2", "ä", "http://a", "a?b", "\"a\"",
        ];
        for wrong in wrong {
            let line = format!("Host: {wrong}");
            refused("Host", &[&line], 400, "Host is not a host");
        }
        let right = [
            "",
            "a",
            "a:",
            "a:8080",
            ":80",
            "my_service",
            "a.example.",
            "xn--4ca",
            "127.0.0.1",
            "a%20b",
            "[::1]",
            "[::1]:80",
            "[fe80::1%25eth0]:80",
            "[fe80::1%eth0]",
            "[v1.a:b]",
        ];
        for right in right {
            let offer = judge(&request("Host", &[&format!("Host: {right}")]));
            assert!(offer.is_ok(), "{right}: {offer:?}");
        }
    }

    #[test]
    fn upgrade_websocket() {
        for with in [&[][..], &["Upgrade: h2c"], &["Upgrade: websocket/13"]] {
            let refusal = refused("Upgrade", with, 426, "Upgrade must say websocket");
            assert_eq!(header(&refusal, "Upgrade").as_deref(), Some("websocket"));
        }
    }

    #[test]
    fn connection_upgrade() {
        for with in [&[][..], &["Connection: close"], &["Connection: upgraded"]] {
            refused("Connection", with, 400, "Connection must say Upgrade");
        }
    }

    #[test]
    fn key_of_sixteen_bytes_exactly_once() {
        refused("Sec-WebSocket-Key", &[], 400, "Key is missing");
        let again = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        refused("", &[again], 400, "Key is given more than once");
        for key in ["x3JJHMbDL1EzLkh9d8", "", "SGVsbG8sIHdvcmxkIQ==", "!"] {
            refused(
                "Sec-WebSocket-Key",
                &[&format!("Sec-WebSocket-Key: {key}")],
                400,
                "does not decode to 16 bytes",
            );
        }
    }

    #[test]
    fn version_13() {
        for (with, words) in [
            (&[][..], "Sec-WebSocket-Version is missing"),
            (
                &["Sec-WebSocket-Version: 8"],
                "version 13 is spoken here, not 8",
            ),
            (&["Sec-WebSocket-Version: 013"], "not 013"),
            (&["Sec-WebSocket-Version: 13, 8"], "not 13, 8"),
        ] {
            let refusal = refused("Sec-WebSocket-Version", with, 426, words);
            let spoken = header(&refusal, "Sec-WebSocket-Version");
            assert_eq!(spoken.as_deref(), Some("13"));
        }
        refused("", &["Sec-WebSocket-Version: 8"], 400, "more than once");
    }

    #[test]
    fn an_old_client_learns_the_version_first() {
        let head = request("Sec-WebSocket", &["Sec-WebSocket-Version: 0"]);
        let error = judge(&head).unwrap_err();
        assert_eq!(error, HandshakeError::WebSocketVersion("0".into()));
    }

    #[test]
    fn subprotocols_are_distinct_tokens() {
        let offer = judge(&request("", &["Sec-WebSocket-Protocol: a, b"])).unwrap();
        assert!(offer.subprotocols.iter().eq(["a", "b"]));
        for list in ["", "a b", "a, a", "a/b"] {
            let line = format!("Sec-WebSocket-Protocol: {list}");
            refused("", &[&line], 400, "Sec-WebSocket-Protocol");
        }
    }

    #[test]
    fn extension_lines_are_one_list() {
        let offer = judge(&request(
            "",
            &[
                "Sec-WebSocket-Extensions: a; b=1",
                "sec-websocket-extensions: c",
            ],
        ));
        assert_eq!(offer.unwrap().extensions, b"a; b=1, c");
    }

    #[test]
    fn extensions_follow_their_grammar() {
        for list in ["", "a;", "a b", "a; b=", "a; b=\"", "a, \"b\""] {
            let line = format!("Sec-WebSocket-Extensions: {list}");
            refused("", &[&line], 400, "Sec-WebSocket-Extensions");
        }
    }

    #[test]
    #[cfg(feature = "deflate")]
    fn deflate_is_chosen_among_the_offers() {
        use crate::deflate::DeflateConfig;
        let choose = |lines: &[&str]| {
            let offer = judge(&request("", lines)).unwrap();
            offer.deflate(&DeflateConfig::default())
        };
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&["Sec-WebSocket-Extensions: x-other"]), None);
        let declined = "Sec-WebSocket-Extensions: permessage-deflate; unknown";
        assert_eq!(choose(&[declined]), None);
        let (_, answer) =
            choose(&[declined, "Sec-WebSocket-Extensions: permessage-deflate"]).unwrap();
        assert!(answer.starts_with("permessage-deflate"), "{answer}");
    }
}

#[test]
fn what_is_found_in_one_pass_is_what_each_look_up_finds() {
    let found = |head: &[u8]| {
        let request = Request::parse(head).unwrap();
        let headers = request.headers();
        let known = Known::of(headers);
        for (single, name) in [
            (&known.host, "Host"),
            (&known.key, "Sec-WebSocket-Key"),
            (&known.version, "Sec-WebSocket-Version"),
        ] {
            assert_eq!(single.at_most_one(name), headers.at_most_one(name));
            assert_eq!(single.exactly_one(name), headers.exactly_one(name));
        }
        let token = |name, token| headers.contains_token(name, token);
        assert_eq!(known.upgrade, token("Upgrade", "websocket"));
        assert_eq!(known.connection, token("Connection", "upgrade"));
        let is_there = |name| headers.first(name).is_some();
        assert_eq!(known.subprotocols, is_there("Sec-WebSocket-Protocol"));
        assert_eq!(known.extensions, is_there("Sec-WebSocket-Extensions"));
        let lengths: Vec<_> = headers.values("Content-Length").collect();
        let none = |length: &&[u8]| !length.is_empty() && length.iter().all(|digit| *digit == b'0');
        let body = !lengths.iter().all(none) || is_there("Transfer-Encoding");
        assert_eq!(known.body, body);
    };
    let others = [
        "host: b",
        "uPGRADE: h2c, WebSocket",
        "Upgrade: h2c",
        "Connection: close",
        "CONNECTION: keep-alive, upgrade",
        "sec-websocket-key: x",
        "SEC-WEBSOCKET-VERSION: 8",
        "Sec-WebSocket-Protocol: chat",
        "Sec-WebSocket-Extensions: x",
        "Content-Length: 0",
        "content-length: 10",
        "Content-Length:",
        "Transfer-Encoding: chunked",
        "Hose: a",
        "Sec-WebSocket-Kex: a",
        "Transfer-Encodinh: a",
        "Sec-WebSocket-Protocom: a",
        "Sec-WebSocket-Extensiont: a",
    ];
    for left_out in ["", "Host", "Upgrade", "Connection", "Sec-WebSocket-Key"] {
        for first in others {
            found(&request(left_out, &[first]));
            for second in others {
                found(&request(left_out, &[first, second]));
            }
        }
    }
}

#[test]
fn a_field_is_not_taken_for_another_whose_name_is_as_long() {
    for known in [
        "Host",
        "Expect",
        "Upgrade",
        "Connection",
        "Content-Length",
        "Sec-WebSocket-Key",
        "Transfer-Encoding",
        "Sec-WebSocket-Version",
    ] {
        // Beside the handshake's own it changes nothing,
        let other = format!("X{}: 1, ,;", &known[1..]);
        let offer = judge(&request("", &[&other]));
        assert!(offer.is_ok(), "{other}: {offer:?}");
        // and in the place of one it is none.
        if let Some(own) = GOOD.iter().find(|line| line.starts_with(known)) {
            let other = format!("X{}", &own[1..]);
            let offer = judge(&request(known, &[&other]));
            assert!(offer.is_err(), "{other}");
        }
    }
}

#[test]
fn a_request_with_a_body_is_refused() {
    refused("", &["Content-Length: 5"], 400, "no body");
    refused("", &["Content-Length: x"], 400, "no body");
    refused("", &["Transfer-Encoding: chunked"], 400, "no body");
    assert!(judge(&request("", &["Content-Length: 0"])).is_ok());
}

#[test]
fn malformed_heads_are_refused_with_400() {
    for line in ["Name : value", "No colon", " folded: value", "Name: \x01"] {
        refused("", &[line], 400, "malformed");
    }
    for line in ["GET", "GET /", "GET  / HTTP/1.1", "GET / HTTX/1.1"] {
        let error = judge(&with_request_line(line)).unwrap_err();
        assert_eq!(Refusal::from(&error).status(), 400, "{line}: {error:?}");
    }
}

#[test]
fn an_oversize_head_is_refused_with_431() {
    let long = format!("X: {}", "x".repeat(16 * 1024));
    refused("", &[&long], 431, "16384 bytes");
    let many: Vec<&str> = core::iter::repeat_n("X: y", 96).collect();
    refused("", &many, 431, "100 header fields");
    assert!(judge(&request("", &many[..95])).is_ok());
}

#[test]
fn fields_are_read_however_many_there_are() {
    for count in [0, 1, FEW_FIELDS, FEW_FIELDS + 1, 99] {
        let lines: Vec<_> = (0..count).map(|n| format!("X-{n}: {n}\r\n")).collect();
        let fields = |first: &str| format!("{first}\r\n{}\r\n", lines.concat());
        let request = Request::parse(fields("GET /a HTTP/1.1").as_bytes()).unwrap();
        let response = Response::parse(fields("HTTP/1.1 101 x").as_bytes()).unwrap();
        assert_eq!((request.method(), request.target()), ("GET", "/a"));
        assert_eq!(request.headers(), response.headers());
        assert_eq!(request.headers().len(), count);
        for (n, (name, value)) in request.headers().iter().enumerate() {
            assert_eq!(name, format!("X-{n}"));
            assert_eq!(value, n.to_string().as_bytes());
        }
    }
}

/// What was read is not looked at again before it is kept.
#[test]
fn nothing_is_read_that_could_not_be_sent() {
    for byte in 0..=u8::MAX {
        // At the places that are looked at alone, and at those that are many at a time.
        for place in [0, 1, 7, 8, 15, 16, 31, 32, 40] {
            let (name, value) = ([b'n'; 41], [b'v'; 41]);
            for in_name in [true, false] {
                let (mut name, mut value) = (name, value);
                let text = if in_name { &mut name } else { &mut value };
                text[place] = byte;
                let line = [b"GET / HTTP/1.1\r\n", &name[..], b": ", &value, b"\r\n\r\n"].concat();
                let Ok(request) = Request::parse(&line) else {
                    continue;
                };
                let mut pushed = Headers::new();
                for (name, value) in request.headers().iter() {
                    assert_eq!(pushed.push(name, value), Ok(()), "{byte} at {place}");
                }
                assert_eq!(&pushed, request.headers());
            }
        }
    }
}

#[test]
fn a_head_followed_by_frames_ends_where_it_ends() {
    let mut bytes = request("", &[]);
    let head = bytes.len();
    bytes.extend_from_slice(b"\x81\x80\0\0\0\0\r\n\r\n");
    let mut scanner = HeadScanner::request(HeadLimits::default());
    assert_eq!(scanner.scan(&bytes), Ok(Some(head)));
}

#[test]
fn targets_have_a_path_and_a_query() {
    for (target, path, query) in [
        ("/chat?room=1", "/chat", Some("room=1")),
        ("/", "/", None),
        ("/a?b?c", "/a", Some("b?c")),
        ("http://example.com/a?b", "/a", Some("b")),
        ("http://example.com", "/", None),
        ("http://example.com?b", "/", Some("b")),
        ("/a?x=http://b/c", "/a", Some("x=http://b/c")),
        // None of these is a URL, and a proxy in front does not take it for one either.
        ("a?x=://b/c", "a", Some("x=://b/c")),
        ("a/http://b/c", "a/http://b/c", None),
        ("://b/c", "://b/c", None),
        ("*", "*", None),
    ] {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let request = Request::parse(head.as_bytes()).unwrap();
        assert_eq!(request.target(), target);
        assert_eq!((request.path(), request.query()), (path, query), "{target}");
        assert!(!request.is_upgrade());
    }
}

mod section_4_1_the_clients_request {
    use super::*;
    use crate::handshake::Subprotocols;

    fn client() -> UpgradeRequest {
        UpgradeRequest::new("example.com:81", "/chat", Key::new(*b"the sample nonce"))
    }

    #[test]
    fn is_what_the_standard_shows() {
        let mut client = client();
        let mut subprotocols = Subprotocols::new();
        subprotocols.push("chat").unwrap();
        subprotocols.push("superchat").unwrap();
        client
            .origin("http://example.com")
            .subprotocols(subprotocols)
            .extensions("permessage-deflate");
        client.header("Cookie", "a=b").unwrap();
        let expected = "GET /chat HTTP/1.1\r\n\
            Host: example.com:81\r\n\
            Upgrade: websocket\r\n\
            Connection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
            Sec-WebSocket-Version: 13\r\n\
            Origin: http://example.com\r\n\
            Sec-WebSocket-Protocol: chat, superchat\r\n\
            Sec-WebSocket-Extensions: permessage-deflate\r\n\
            Cookie: a=b\r\n\r\n";
        let bytes = client.to_bytes().unwrap();
        assert_eq!(str_of(&bytes), expected);
        assert!(judge(&bytes).is_ok());
    }

    fn str_of(bytes: &[u8]) -> &str {
        core::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn no_header_displaces_the_handshakes_own() {
        for name in [
            "Host",
            "upgrade",
            "CONNECTION",
            "Sec-WebSocket-Key",
            "sec-websocket-anything",
            "Content-Length",
            "Transfer-Encoding",
        ] {
            let refused = client().header(name, "x").map(|_| ()).unwrap_err();
            assert_eq!(refused, HandshakeError::ReservedHeader(name.into()));
        }
    }

    #[test]
    fn nothing_is_injected() {
        let refused = client()
            .header("X", "a\r\nHost: b")
            .map(|_| ())
            .unwrap_err();
        assert_eq!(refused, HandshakeError::InvalidHeader("X".into()));
        for (host, target) in [
            ("", "/"),
            ("a\r\nb", "/"),
            ("a b", "/"),
            ("a/b", "/"),
            ("user@a", "/"),
            ("::1", "/"),
            ("a", ""),
            ("a", "chat"),
            ("a", "/a b"),
            ("a", "/a\r\nX: y"),
            ("a", "/#b"),
        ] {
            let error = UpgradeRequest::new(host, target, Key::new([0; 16]))
                .to_bytes()
                .unwrap_err();
            assert!(
                matches!(error, HandshakeError::InvalidTarget(_)),
                "{error:?}"
            );
        }
        let mut client = client();
        client.origin("a\r\nb");
        assert!(client.to_bytes().is_err());
    }

    #[test]
    fn there_is_one_origin() {
        let mut client = client();
        client
            .origin("https://a")
            .header("origin", "https://b")
            .unwrap();
        let headers = client.to_headers().unwrap();
        assert_eq!(headers.exactly_one("Origin"), Ok(&b"https://b"[..]));
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
        let _ = Request::parse(&bytes);
        let _ = Request::parse(&[&bytes[..], b"\r\n\r\n"].concat());
    }

    #[test]
    fn any_header_is_judged_without_a_panic(
        name in proptest::sample::select(vec![
            "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Content-Length", "X", "Connection",
        ]),
        value in proptest::collection::vec(0_u8.., 0..40),
    ) {
        let line = [name.as_bytes(), b": ", &value, b"\r\n\r\n"].concat();
        let good = request("", &[]);
        let head = [&good[..good.len() - 2], &line].concat();
        if let Ok(request) = Request::parse(&head)
            && let Err(error) = request.check()
        {
            let answer = Refusal::from(&error).to_bytes();
            proptest::prop_assert!(answer.starts_with(b"HTTP/1.1 4"));
        }
    }
}
