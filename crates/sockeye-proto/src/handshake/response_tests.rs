//! The rules for a response (RFC 6455 §4.1, §4.2.2), one by one.

use super::*;
use crate::handshake::{HeadLimits, HeadScanner, Key, Subprotocols};

const GOOD: [&str; 4] = [
    "HTTP/1.1 101 Switching Protocols",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
];

fn client() -> UpgradeRequest {
    let mut client = UpgradeRequest::new("example.com", "/", Key::new(*b"the sample nonce"));
    let mut subprotocols = Subprotocols::new();
    subprotocols.push("chat").unwrap();
    client
        .subprotocols(subprotocols)
        .extensions("permessage-deflate; client_max_window_bits");
    client
}

fn judge(without: &str, with: &[&str]) -> Result<Agreed, HandshakeError> {
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
    let mut scanner = HeadScanner::response(HeadLimits::default());
    assert_eq!(scanner.scan(head.as_bytes()), Ok(Some(head.len())));
    client().check(&Response::parse(head.as_bytes())?)
}

mod section_4_1_the_clients_rules {
    use super::*;

    #[test]
    fn the_good_response_passes() {
        let agreed = judge("", &[]).unwrap();
        assert_eq!(agreed.subprotocol, None);
        assert!(agreed.extensions.is_empty());
    }

    /// RFC 9110 §15.2: another answer follows, but for 101, which is one itself.
    #[test]
    fn an_interim_answer_is_none_yet() {
        for (status, interim) in [
            (100, true),
            (101, false),
            (102, true),
            (199, true),
            (200, false),
        ] {
            let head = format!("HTTP/1.1 {status} x\r\n\r\n");
            let response = Response::parse(head.as_bytes()).unwrap();
            assert_eq!(response.is_interim(), interim, "{status}");
        }
    }

    /// RFC 9112 §5.2: a client takes the end of a line within a field for a space, and what comes before the first field
    /// is none.
    #[test]
    fn a_field_may_go_on_in_the_next_line() {
        let head = b"HTTP/1.1 503 x\r\nA: b\r\n c\r\n\td \r\nRetry-After:\r\n 7\r\nB: e\r\n\r\n";
        let response = Response::parse(head).unwrap();
        assert_eq!(response.headers().first_str("A"), Some("b   c  \td"));
        assert_eq!(response.headers().first_str("Retry-After"), Some("7"));
        assert_eq!(response.headers().first_str("B"), Some("e"));
        assert_eq!(response.headers().len(), 3);
        let agreed = judge("Upgrade", &["Upgrade:\r\n websocket"]);
        assert!(agreed.is_ok(), "{agreed:?}");
        let before = Response::parse(b"HTTP/1.1 503 x\r\n c\r\nA: b\r\n\r\n");
        assert!(matches!(before, Err(HandshakeError::Malformed(_))));
    }

    #[test]
    fn status_101() {
        let head = b"HTTP/1.1 403 Keep Out\r\nContent-Length: 3\r\nX: y\r\n\r\n";
        let mut response = Response::parse(head).unwrap();
        assert!(response.set_body(b"no"));
        assert!(!response.set_body(b"no!and more"));
        let error = client().check(&response).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the server answered 403 Keep Out instead of 101 Switching Protocols"
        );
        let HandshakeError::Status(response) = error else {
            panic!("{error:?}");
        };
        assert_eq!(response.status(), 403);
        assert_eq!(response.headers().first_str("x"), Some("y"));
        assert_eq!(response.body(), b"no!");
    }

    #[test]
    fn upgrade_is_websocket() {
        let missing = judge("Upgrade", &[]);
        assert_eq!(missing, Err(HandshakeError::Missing("Upgrade")));
        for wrong in ["Upgrade: h2c", "Upgrade: websocket, h2c", "Upgrade:"] {
            assert_eq!(judge("Upgrade", &[wrong]), Err(HandshakeError::Upgrade));
        }
        assert!(judge("Upgrade", &["upgrade: WebSocket"]).is_ok());
    }

    #[test]
    fn connection_has_upgrade() {
        for with in [&[][..], &["Connection: close"]] {
            let wrong = judge("Connection", with);
            assert_eq!(wrong, Err(HandshakeError::Connection));
        }
        assert!(judge("Connection", &["connection: x, UPGRADE"]).is_ok());
    }

    #[test]
    fn accept_answers_the_key() {
        const NAME: &str = "Sec-WebSocket-Accept";
        assert_eq!(judge(NAME, &[]), Err(HandshakeError::Missing(NAME)));
        let other = "Sec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        assert_eq!(judge(NAME, &[other]), Err(HandshakeError::Accept));
        assert_eq!(judge("", &[other]), Err(HandshakeError::Repeated(NAME)));
        let lower = GOOD[3].to_lowercase();
        assert_eq!(judge(NAME, &[&lower]), Err(HandshakeError::Accept));
    }

    #[test]
    fn extensions_were_offered() {
        let line = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover";
        let agreed = judge("", &[line]).unwrap();
        assert_eq!(
            agreed.extensions,
            b"permessage-deflate; server_no_context_takeover"
        );
        let line = "Sec-WebSocket-Extensions: permessage-deflate, x-other; a=b";
        let foreign =
            HandshakeError::Extension(NegotiationError::ExtensionNotOffered("x-other".into()));
        assert_eq!(judge("", &[line]), Err(foreign));
        let silent = UpgradeRequest::new("a", "/", Key::new(*b"the sample nonce"));
        let head = format!("{}\r\n{line}\r\n\r\n", GOOD.join("\r\n"));
        let response = Response::parse(head.as_bytes()).unwrap();
        let foreign = HandshakeError::Extension(NegotiationError::ExtensionNotOffered(
            "permessage-deflate".into(),
        ));
        assert_eq!(silent.check(&response), Err(foreign));
    }

    #[test]
    fn others_than_deflate_are_for_whoever_offered_them() {
        let mut client = client();
        client.extensions("permessage-deflate, x-other; a=1");
        let config = DeflateConfig::available();
        for (answer, agreed) in [
            ("x-other", false),
            ("permessage-deflate", true),
            ("x-other; a=1, permessage-deflate", true),
        ] {
            let head = GOOD.join("\r\n") + "\r\nSec-WebSocket-Extensions: " + answer + "\r\n\r\n";
            let response = Response::parse(head.as_bytes()).unwrap();
            let checked = client.check(&response).unwrap();
            // Where there is no compression here, nothing was offered of it.
            if let Some(config) = config {
                assert_eq!(
                    checked.deflate(&config).unwrap().is_some(),
                    agreed,
                    "{answer}"
                );
            }
        }
    }

    #[test]
    fn extensions_follow_their_grammar() {
        for wrong in ["", ";", "permessage-deflate; =1", "permessage-deflate x"] {
            let line = format!("Sec-WebSocket-Extensions: {wrong}");
            let malformed = judge("", &[&line]).unwrap_err();
            assert!(
                matches!(malformed, HandshakeError::ExtensionList(_)),
                "{malformed:?}"
            );
        }
    }

    #[test]
    #[cfg(feature = "deflate")]
    fn the_parameters_of_deflate_were_offered() {
        let config = DeflateConfig::default();
        let agreed = |line: &str| {
            judge("", &[&format!("Sec-WebSocket-Extensions: {line}")])?.deflate(&config)
        };
        assert_eq!(judge("", &[]).unwrap().deflate(&config), Ok(None));
        let good = agreed("permessage-deflate; server_no_context_takeover");
        assert!(good.unwrap().is_some());
        for wrong in [
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_no_context_takeover; unknown",
            "permessage-deflate; server_no_context_takeover, permessage-deflate",
        ] {
            assert!(
                matches!(agreed(wrong), Err(HandshakeError::Extension(_))),
                "{wrong}"
            );
        }
    }

    #[test]
    fn the_subprotocol_was_offered_and_is_one() {
        let agreed = judge("", &["Sec-WebSocket-Protocol: chat"]).unwrap();
        assert_eq!(agreed.subprotocol.as_deref(), Some("chat"));
        for wrong in ["other", "chat, other", "Chat", ""] {
            let line = format!("Sec-WebSocket-Protocol: {wrong}");
            let foreign = HandshakeError::SubprotocolNotOffered(wrong.into());
            assert_eq!(judge("", &[&line]), Err(foreign));
        }
        let twice = ["Sec-WebSocket-Protocol: chat"; 2];
        let repeated = HandshakeError::Repeated("Sec-WebSocket-Protocol");
        assert_eq!(judge("", &twice), Err(repeated));
    }

    #[test]
    fn heads_are_whole_and_http() {
        assert!(matches!(
            judge("", &["Name : value"]),
            Err(HandshakeError::Malformed(_))
        ));
        assert_eq!(
            Response::parse(b"HTTP/2 101 x\r\n\r\n"),
            Err(HandshakeError::HttpVersion)
        );
        // Which proxies still answer a CONNECT with.
        let head = b"HTTP/1.0 200 Connection established\r\n\r\n";
        assert_eq!(Response::parse(head).unwrap().status(), 200);
    }

    /// RFC 9110 §7.8 and §15.2. The client was told what a WebSocket is opened on, as a server tells it, and not what had come.
    #[test]
    fn nothing_is_upgraded_in_http_1_0() {
        let head = GOOD.join("\r\n").replace("HTTP/1.1", "HTTP/1.0") + "\r\n\r\n";
        let error = client().check(&Response::parse(head.as_bytes()).unwrap());
        assert_eq!(error, Err(HandshakeError::Http10));
        let told = HandshakeError::Http10.to_string();
        assert!(told.starts_with("the server answered 101 in HTTP/1.0"));
    }
}

mod section_4_2_2_the_servers_answer {
    use super::*;
    use crate::handshake::Request;

    fn offer() -> Offer {
        let bytes = client().to_bytes().unwrap();
        Request::parse(&bytes).unwrap().check().unwrap()
    }

    #[test]
    fn is_what_the_standard_shows() {
        let mut answer = Acceptance::new(&offer());
        answer.subprotocol("chat").extensions("permessage-deflate");
        answer.header("Set-Cookie", "a=b").unwrap();
        let expected = "HTTP/1.1 101 Switching Protocols\r\n\
            Upgrade: websocket\r\n\
            Connection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\
            Sec-WebSocket-Protocol: chat\r\n\
            Sec-WebSocket-Extensions: permessage-deflate\r\n\
            Set-Cookie: a=b\r\n\r\n";
        let bytes = answer.to_bytes();
        assert_eq!(core::str::from_utf8(&bytes), Ok(expected));
        let agreed = client().check(&Response::parse(&bytes).unwrap()).unwrap();
        assert_eq!(agreed.subprotocol.as_deref(), Some("chat"));
        assert_eq!(agreed.extensions, b"permessage-deflate");
    }

    #[test]
    fn no_header_displaces_the_handshakes_own() {
        let mut answer = Acceptance::new(&offer());
        for name in ["Sec-WebSocket-Accept", "Connection", "Content-Length"] {
            let refused = answer.header(name, "x").map(|_| ()).unwrap_err();
            assert_eq!(refused, HandshakeError::ReservedHeader(name.into()));
        }
        let injected = answer.header("X", "a\nb").map(|_| ()).unwrap_err();
        assert_eq!(injected, HandshakeError::InvalidHeader("X".into()));
    }
}

mod refusals {
    use super::*;

    #[test]
    fn are_whole_responses() {
        let bytes = Refusal::from(HandshakeError::Key).to_bytes();
        let expected = "HTTP/1.1 400 Bad Request\r\n\
            Content-Type: text/plain; charset=utf-8\r\n\
            Content-Length: 72\r\n\
            Connection: close\r\n\r\n\
            the header Sec-WebSocket-Key does not decode to 16 bytes of base64\n";
        let body = expected.split_once("\r\n\r\n").unwrap().1;
        let expected = expected.replace("72", &body.len().to_string());
        assert_eq!(core::str::from_utf8(&bytes), Ok(expected.as_str()));
    }

    #[test]
    fn of_the_user_travel_as_they_are() {
        let own = Refusal::new(302, "").header("Location", "/other").unwrap();
        let own = own.header("Content-Type", "text/html").unwrap();
        let error = HandshakeError::Refused(own.clone().into());
        assert_eq!(Refusal::from(&error), own);
        let bytes = own.to_bytes();
        let response = Response::parse(&bytes).unwrap();
        assert_eq!(response.status(), 302);
        let one_type = response.headers().exactly_one("Content-Type");
        assert_eq!(one_type, Ok(&b"text/html"[..]));
        assert_eq!(response.headers().first("Content-Length"), Some(&b"0"[..]));
    }

    /// RFC 9110 §15.5.22 and §7.8: a 426 says what is needed, and that this is for the connection.
    #[test]
    fn of_426_name_the_protocol() {
        let version = HandshakeError::WebSocketVersion("8".into());
        let own = Refusal::new(426, "not like this");
        for refusal in [HandshakeError::Upgrade.into(), version.into(), own] {
            let response = Response::parse(head(&refusal.to_bytes())).unwrap();
            let headers = response.headers();
            assert_eq!(headers.exactly_one("Upgrade"), Ok(&b"websocket"[..]));
            assert!(headers.contains_token("Connection", "upgrade"));
            assert!(headers.contains_token("Connection", "close"));
        }
        let other = Refusal::from(HandshakeError::Key).to_bytes();
        let other = Response::parse(head(&other)).unwrap();
        assert_eq!(other.headers().first("Upgrade"), None);
        assert!(!other.headers().contains_token("Connection", "upgrade"));
    }

    fn head(response: &[u8]) -> &[u8] {
        let mut scanner = HeadScanner::response(HeadLimits::default());
        &response[..scanner.scan(response).unwrap().unwrap()]
    }

    #[test]
    fn always_end_the_exchange() {
        assert_eq!(Refusal::new(101, "").status(), 500);
        assert_eq!(Refusal::new(99, "").status(), 500);
        assert_eq!(Refusal::new(600, "").status(), 500);
        for status in [204, 205, 304] {
            let bytes = Refusal::new(status, "text").to_bytes();
            let head = Response::parse(&bytes).unwrap();
            assert_eq!(head.headers().first("Content-Length"), None);
            assert!(bytes.ends_with(b"\r\n\r\n"), "{status}");
        }
    }
}

#[test]
fn bodies_are_kept_up_to_the_limit() {
    let head = b"HTTP/1.1 500 x\r\n\r\n";
    let mut response = Response::parse(head).unwrap();
    assert!(response.set_body(&[b'a'; Response::MAX_BODY - 1]));
    assert!(!response.set_body(&[b'a'; Response::MAX_BODY + 1]));
    assert_eq!(response.body().len(), Response::MAX_BODY);
}

#[test]
fn a_body_ends_with_its_length() {
    let head = b"HTTP/1.1 500 x\r\nContent-Length: 3\r\n\r\n";
    let mut response = Response::parse(head).unwrap();
    assert!(response.set_body(b"no"));
    assert!(!response.set_body(b"no!"));
}

#[test]
fn chunked_bodies_are_joined() {
    let head = b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut response = Response::parse(head).unwrap();
    for (bytes, body, more) in [
        (&b""[..], &b""[..], true),
        (b"3", b"", true),
        (b"3\r\nab", b"ab", true),
        (b"3\r\nabc\r\n2;x=y\r\nde", b"abcde", true),
        (b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", b"abcde", false),
        (b"ffffffffffffffff\r\nab", b"ab", true),
        (b"zz\r\nab", b"", false),
    ] {
        assert_eq!(response.set_body(bytes), more);
        assert_eq!(response.body(), body);
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(0_u8.., 0..200)) {
        let _ = Response::parse(&bytes);
        let chunked = b"HTTP/1.1 500 x\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut response = Response::parse(chunked).unwrap();
        response.set_body(&bytes);
        proptest::prop_assert!(response.body().len() <= bytes.len());
    }
}

/// §4.1, 6: a client fails over it.
#[test]
fn a_subprotocol_that_is_no_token_is_left_out() {
    for (chosen, is_named) in [("chat", true), ("a b", false), ("", false), ("a,b", false)] {
        let request = client().to_bytes().unwrap();
        let offer = crate::handshake::Request::parse(&request).unwrap().check();
        let mut answer = Acceptance::new(&offer.unwrap());
        let answer = answer.subprotocol(chosen).to_bytes();
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(
            answer.contains("Sec-WebSocket-Protocol"),
            is_named,
            "{chosen:?}"
        );
    }
}
