//! A server reads a request (RFC 6455 §4.2): any bytes, however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{Choices, check_refusal, head, http_fields};
use sockeye_proto::{
    deflate::{DeflateConfig, parse_extensions},
    handshake::*,
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let limits = choices.head_limits();
    let config = choices.deflate_config();
    let cuts = choices.cuts();
    let bytes = choices.rest();
    let _ = Request::parse(bytes);

    let scanner = HeadScanner::request(limits);
    let refused = match head(&scanner, limits, bytes, &cuts) {
        Ok(None) => return,
        Ok(Some(end)) => match Request::parse(&bytes[..end]) {
            Ok(request) => {
                same_rules_on_http_types(&request);
                assert!(!request.path().is_empty() && !request.path().contains('?'));
                let _ = request.query();
                match request.check() {
                    Ok(offer) => return accept(&request, &offer, &config),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    let response = check_refusal(&Refusal::from(&refused));
    let fields = response.headers();
    match response.status() {
        400 | 417 | 431 => {}
        405 => assert_eq!(fields.first_str("Allow"), Some("GET")),
        426 => assert!(
            fields.first_str("Sec-WebSocket-Version") == Some("13")
                || fields.first_str("Upgrade") == Some("websocket")
        ),
        status => panic!("{status} for {refused}"),
    }
});

/// A request that is accepted is one that a client of ours could have made, and the client agrees
/// with the answer.
fn accept(request: &Request, offer: &Offer, config: &DeflateConfig) {
    let key = request.headers().first("Sec-WebSocket-Key");
    let key = Key::parse(key.expect("checked")).expect("checked");
    let host = request.headers().first("Host").expect("checked");
    let host = String::from_utf8_lossy(host);
    let mut client = UpgradeRequest::new(host, request.target(), key);
    client.subprotocols(offer.subprotocols.clone());
    if !offer.extensions.is_empty() {
        let extensions = std::str::from_utf8(&offer.extensions);
        client.extensions(extensions.expect("tokens are ASCII"));
    }
    match client.to_bytes() {
        Ok(bytes) => {
            let again = Request::parse(&bytes).expect("our own request");
            assert_eq!(again.target(), request.target());
            assert_eq!(again.check().as_ref(), Ok(offer));
        }
        // Servers are lenient: hosts and targets that we would not send.
        Err(error) => assert!(matches!(error, HandshakeError::InvalidTarget(_)), "{error}"),
    }

    let mut acceptance = Acceptance::new(offer);
    let chosen = offer.subprotocols.iter().last();
    if let Some(chosen) = chosen {
        acceptance.subprotocol(chosen);
    }
    let deflate = offer.deflate(config);
    if let Some((agreed, answer)) = &deflate {
        assert!(agreed.server_max_window_bits <= config.own_max_window_bits);
        assert!(agreed.client_max_window_bits <= config.peer_max_window_bits);
        assert_eq!(
            parse_extensions([answer.as_bytes()]).map(|list| list.len()),
            Ok(1)
        );
        acceptance.extensions(answer.as_str());
    }
    let response = Response::parse(&acceptance.to_bytes()).expect("our own response");
    let agreed = client.check(&response).expect("an answer within the offer");
    assert_eq!(agreed.subprotocol.as_deref(), chosen);
    let answer = deflate.map(|(_, answer)| answer).unwrap_or_default();
    assert_eq!(agreed.extensions, answer.as_bytes());
    assert_eq!(client.check_http(&acceptance.to_http()), Ok(agreed));
}

/// The rules see only header fields: those of the `http` crate give the same verdict. What is asked for is looked at
/// before there is such a request.
fn same_rules_on_http_types(request: &Request) {
    let verdict = request.check();
    if matches!(verdict, Err(HandshakeError::Malformed(_))) {
        return;
    }
    let (Ok(method), Some(fields)) = (
        http::Method::from_bytes(request.method().as_bytes()),
        http_fields(request.headers()),
    ) else {
        return;
    };
    let mut other = http::Request::new(());
    *other.method_mut() = method;
    *other.headers_mut() = fields;
    if request.version() == Version::Http10 {
        *other.version_mut() = http::Version::HTTP_10;
    }
    assert_eq!(Offer::check_http(&other), verdict);
}
