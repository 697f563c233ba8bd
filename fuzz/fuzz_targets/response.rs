//! A client reads a response (RFC 6455 §4.1), and a server writes one: any bytes, however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::{Choices, Cuts, check_refusal, head, http_fields};
use sockeye_proto::{deflate::DeflateConfig, handshake::*};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let flags = choices.byte();
    if flags & 1 != 0 {
        return written_by_a_server(choices);
    }
    let limits = choices.head_limits();
    let config = choices.deflate_config();
    let cuts = choices.cuts();
    let bytes = choices.rest();
    let client = client(flags, &config);
    let _ = Response::parse(bytes);

    let scanner = HeadScanner::response(limits);
    let Ok(Some(end)) = head(&scanner, limits, bytes, &cuts) else {
        return;
    };
    let Ok(mut response) = Response::parse(&bytes[..end]) else {
        return;
    };
    let verdict = client.check(&response);
    if let Some(fields) = http_fields(response.headers()) {
        let same = client.check_headers(response.headers());
        assert_eq!(client.check_headers(&fields), same);
    }
    match verdict {
        Ok(agreed) => {
            assert_eq!(response.status(), 101);
            accepted(&client, &agreed, &config);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            body(&mut response, &bytes[end..], &cuts);
        }
    }
});

/// A client that asks for what the input says.
fn client(flags: u8, config: &DeflateConfig) -> UpgradeRequest {
    let mut client = UpgradeRequest::new("example.com", "/chat", Key::new(*b"the sample nonce"));
    let mut subprotocols = Subprotocols::new();
    for (bit, name) in [(2, "chat"), (4, "superchat")] {
        if flags & bit != 0 {
            subprotocols.push(name).expect("a token");
        }
    }
    client.subprotocols(subprotocols);
    match flags & 24 {
        0 => &mut client,
        8 => client.extensions(config.offer()),
        16 => client.extensions("x-other; a=b"),
        _ => client.extensions(format!("x-other, {}", config.offer())),
    };
    client
}

/// What is agreed was offered, and a server that says the same is understood the same.
fn accepted(client: &UpgradeRequest, agreed: &Agreed, config: &DeflateConfig) {
    let request = Request::parse(&client.to_bytes().expect("it can travel")).expect("our own");
    let offer = request.check().expect("our own request");
    let mut acceptance = Acceptance::new(&offer);
    if let Some(chosen) = &agreed.subprotocol {
        assert!(offer.subprotocols.contains(chosen));
        acceptance.subprotocol(chosen);
    }
    if !agreed.extensions.is_empty() {
        let extensions = std::str::from_utf8(&agreed.extensions);
        acceptance.extensions(extensions.expect("tokens are ASCII"));
    }
    let again = Response::parse(&acceptance.to_bytes()).expect("our own response");
    assert_eq!(client.check(&again).as_ref(), Ok(agreed));

    if let Ok(Some(params)) = agreed.deflate(config) {
        assert!(params.client_max_window_bits <= config.own_max_window_bits);
        assert!(params.server_max_window_bits <= config.peer_max_window_bits);
        assert!(params.client_no_context_takeover || !config.own_no_context_takeover);
    }
}

/// The body of a refusal only grows as more of it arrives, and stays once it is complete.
fn body(response: &mut Response, bytes: &[u8], cuts: &Cuts) {
    let has_body = !matches!(response.status(), 100..=199 | 204 | 304);
    let (mut arrived, mut before, mut complete) = (0, Vec::new(), false);
    for length in cuts.lengths(bytes.len()) {
        arrived += length;
        let more = response.set_body(&bytes[..arrived]);
        let body = response.body();
        assert!(body.len() <= Response::MAX_BODY && body.starts_with(&before));
        assert!(!complete || body == before);
        before = body.to_vec();
        complete |= has_body && !more && arrived < 8 * Response::MAX_BODY;
    }
}

/// Whatever a server's user says in an answer, no field or body becomes another.
fn written_by_a_server(mut choices: Choices<'_>) {
    let status = choices.number();
    let name_len = usize::from(choices.byte());
    let name = String::from_utf8_lossy(choices.take(name_len));
    let value_len = usize::from(choices.byte());
    let value = String::from_utf8_lossy(choices.take(value_len));
    let text = String::from_utf8_lossy(choices.rest());

    let plain = Refusal::new(status as u16, &*text);
    let headed = plain.clone().header(&name, &value);
    let set = headed.is_ok();
    let refusal = headed.unwrap_or(plain);
    let response = check_refusal(&refusal);
    if set {
        let found = response.headers().values(&name).next();
        assert_eq!(found, Some(value.as_bytes().trim_ascii()));
    }
    let own = match refusal.status() {
        204 | 205 | 304 => 1,
        426 => 4,
        _ => 3,
    };
    let replaced = set && own > 1 && name.eq_ignore_ascii_case("Content-Type");
    let fields = own + usize::from(set) - usize::from(replaced);
    assert_eq!(response.headers().len(), fields);

    let client = client(0, &DeflateConfig::default());
    let request = Request::parse(&client.to_bytes().expect("it can travel")).expect("our own");
    let mut acceptance = Acceptance::new(&request.check().expect("our own request"));
    assert_eq!(acceptance.header(&name, &value).is_ok(), set);
    acceptance.subprotocol(&text);
    let response = Response::parse(&acceptance.to_bytes()).expect("our own response");
    assert!(response.headers().len() <= 5);
    match client.check(&response) {
        Ok(agreed) => assert_eq!(agreed.subprotocol, None),
        Err(error) => assert!(matches!(error, HandshakeError::SubprotocolNotOffered(_))),
    }
}
