//! `Sec-WebSocket-Extensions` (RFC 6455 §9.1, RFC 7692 §7.1): its grammar, offers and answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sockeye_fuzz::Choices;
use sockeye_proto::deflate::{
    DeflateConfig, Extension, NegotiationError, PERMESSAGE_DEFLATE, parse_extensions,
};

fuzz_target!(|data: &[u8]| {
    let mut choices = Choices::new(data);
    let client = choices.deflate_config();
    let server = choices.deflate_config();
    agree(&client, &server);

    let lines: Vec<&[u8]> = choices.rest().split(|byte| *byte == b'\n').collect();
    let joined = lines.join(&b", "[..]);
    let extensions = match parse_extensions(lines.iter().copied()) {
        Ok(extensions) => extensions,
        Err(error) => {
            assert!(lines.iter().any(|line| error.at <= line.len()));
            return assert!(parse_extensions([&joined[..]]).is_err());
        }
    };
    assert_eq!(parse_extensions([&joined[..]]).as_ref(), Ok(&extensions));
    let written = write(&extensions);
    let again = parse_extensions([written.as_bytes()]);
    assert_eq!(again.as_ref(), Ok(&extensions));
    offered(&server, &extensions);
    answered(&client, &extensions);
});

/// What a client offers, a server answers, and both then mean the same.
fn agree(client: &DeflateConfig, server: &DeflateConfig) {
    let offer = client.offer();
    let offers = parse_extensions([offer.as_bytes()]).expect("our own offer");
    let (params, answer) = server.choose(&offers).expect("it can be accepted");
    let answers = parse_extensions([answer.as_bytes()]).expect("our own answer");
    assert_eq!(client.accept_answers(&answers), Ok(Some(params)));
    assert!(params.server_max_window_bits <= client.peer_max_window_bits);
    assert!(params.client_max_window_bits <= server.peer_max_window_bits);
}

/// A server's side: the first offer that it can accept, and an answer that keeps to it.
fn offered(server: &DeflateConfig, offers: &[Extension<'_>]) {
    let first = offers
        .iter()
        .filter(|offer| offer.name == PERMESSAGE_DEFLATE)
        .find_map(|offer| Some((offer, server.answer(offer).ok()?)));
    let Some((offer, (params, answer))) = first else {
        return assert_eq!(server.choose(offers), None);
    };
    assert_eq!(server.choose(offers), Some((params, answer.clone())));
    let answer = &parse_extensions([answer.as_bytes()]).expect("our own answer")[0];
    assert_eq!(answer.name, PERMESSAGE_DEFLATE);
    for parameter in &answer.parameters {
        let asked = offer.parameters.iter().find(|p| p.name == parameter.name);
        match parameter.name {
            "server_no_context_takeover" => assert!(params.server_no_context_takeover),
            "client_no_context_takeover" => assert!(params.client_no_context_takeover),
            "server_max_window_bits" => {
                let bits = params.server_max_window_bits.as_u8();
                assert_eq!(parameter.value.as_deref(), Some(&*bits.to_string()));
                let most = asked.and_then(|p| p.value.as_deref()?.parse::<u8>().ok());
                assert!(bits <= most.unwrap_or(15).min(server.own_max_window_bits.as_u8()));
            }
            "client_max_window_bits" => {
                let bits = params.client_max_window_bits.as_u8();
                assert_eq!(parameter.value.as_deref(), Some(&*bits.to_string()));
                let most = asked
                    .expect("never answered unless offered")
                    .value
                    .as_deref();
                let most = most.map_or(15, |value| value.parse().expect("a number"));
                assert!(bits <= most && bits <= server.peer_max_window_bits.as_u8());
            }
            other => panic!("{other}"),
        }
    }
    for asked in &offer.parameters {
        if matches!(
            asked.name,
            "server_no_context_takeover" | "server_max_window_bits"
        ) {
            let answered = answer.parameters.iter().any(|p| p.name == asked.name);
            assert!(answered, "accepted by including it: {}", asked.name);
        }
    }
}

/// A client's side: an answer within what was offered, or an error.
fn answered(client: &DeflateConfig, answers: &[Extension<'_>]) {
    match client.accept_answers(answers) {
        Ok(params) => {
            let params = params.expect("there is an answer");
            assert!(params.client_max_window_bits <= client.own_max_window_bits);
            assert!(params.server_max_window_bits <= client.peer_max_window_bits);
            assert!(params.client_no_context_takeover || !client.own_no_context_takeover);
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            let other = answers
                .iter()
                .any(|answer| answer.name != PERMESSAGE_DEFLATE);
            let said = matches!(error, NegotiationError::ExtensionNotOffered(_));
            assert_eq!(said, other);
        }
    }
}

/// The plain form of a list.
fn write(extensions: &[Extension<'_>]) -> String {
    let mut list = Vec::new();
    for extension in extensions {
        let mut text = extension.name.to_owned();
        for parameter in &extension.parameters {
            text += "; ";
            text += parameter.name;
            if let Some(value) = &parameter.value {
                text += "=";
                text += value;
            }
        }
        list.push(text);
    }
    list.join(",")
}
