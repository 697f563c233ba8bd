//! Offers and answers (RFC 7692 §5 and §7.1).

use alloc::string::{String, ToString};

use crate::deflate::{
    DeflateConfig, DeflateParams, NegotiationError, Parameter, WindowBits, parse_extensions,
};

/// The standard's own defaults: nothing is limited.
fn unlimited() -> DeflateConfig {
    DeflateConfig {
        own_no_context_takeover: false,
        peer_no_context_takeover: false,
        ..DeflateConfig::default()
    }
}

const UNLIMITED: DeflateParams = DeflateParams {
    server_no_context_takeover: false,
    client_no_context_takeover: false,
    server_max_window_bits: WindowBits::MAX,
    client_max_window_bits: WindowBits::MAX,
};

fn bits(bits: u8) -> WindowBits {
    WindowBits::new(bits).unwrap()
}

/// What a server makes of an offer: the parameters, and the answer without the extension's name.
fn choose(server: &DeflateConfig, offers: &str) -> Option<(DeflateParams, String)> {
    let offers = parse_extensions([offers.as_bytes()]).unwrap();
    let (params, answer) = server.choose(&offers)?;
    let rest = answer.strip_prefix("permessage-deflate").unwrap();
    Some((params, rest.trim_start_matches("; ").to_string()))
}

fn offered(server: &DeflateConfig, parameters: &str) -> Option<(DeflateParams, String)> {
    choose(server, &with_name(parameters))
}

fn declined(parameters: &str) -> NegotiationError {
    let offer = with_name(parameters);
    let offers = parse_extensions([offer.as_bytes()]).unwrap();
    unlimited().answer(&offers[0]).unwrap_err()
}

/// What a client makes of an answer.
fn answered(client: &DeflateConfig, parameters: &str) -> Result<DeflateParams, NegotiationError> {
    let answer = with_name(parameters);
    let answers = parse_extensions([answer.as_bytes()]).unwrap();
    client.accept_answers(&answers).map(Option::unwrap)
}

fn with_name(parameters: &str) -> String {
    let separator = if parameters.is_empty() { "" } else { "; " };
    ["permessage-deflate", separator, parameters].concat()
}

fn invalid(parameter: Parameter, value: Option<&str>) -> NegotiationError {
    NegotiationError::InvalidValue {
        parameter,
        value: value.map(String::from),
    }
}

mod section_5_offers_and_answers {
    use super::*;

    #[test]
    fn the_first_acceptable_offer_wins() {
        let offers = "permessage-deflate; server_max_window_bits=10, permessage-deflate";
        let (params, answer) = choose(&unlimited(), offers).unwrap();
        assert_eq!(params.server_max_window_bits, bits(10));
        assert_eq!(answer, "server_max_window_bits=10");
    }

    #[test]
    fn an_offer_with_a_bad_parameter_falls_back_to_the_next() {
        for bad in [
            "server_max_window_bits=16",
            "server_max_window_bits",
            "unknown",
            "client_no_context_takeover=1",
            "client_max_window_bits; client_max_window_bits",
        ] {
            let offers = ["permessage-deflate; ", bad, ", permessage-deflate"].concat();
            let chosen = choose(&unlimited(), &offers);
            assert_eq!(chosen, Some((UNLIMITED, String::new())), "{bad}");
        }
    }

    #[test]
    fn other_extensions_are_passed_over() {
        let offers = "x-webkit-deflate-frame, permessage-deflate, permessage-bzip2";
        assert_eq!(
            choose(&unlimited(), offers),
            Some((UNLIMITED, String::new()))
        );
        assert_eq!(choose(&unlimited(), "permessage-bzip2"), None);
        assert_eq!(choose(&unlimited(), "Permessage-Deflate"), None);
    }

    #[test]
    fn a_client_takes_no_answer_and_one_answer() {
        let accept =
            |line: &str| unlimited().accept_answers(&parse_extensions([line.as_bytes()]).unwrap());
        assert_eq!(unlimited().accept_answers(&[]), Ok(None));
        assert_eq!(accept("permessage-deflate"), Ok(Some(UNLIMITED)));
        assert_eq!(
            accept("permessage-deflate, permessage-deflate"),
            Err(NegotiationError::ExtensionRepeated)
        );
        assert_eq!(
            accept("permessage-deflate, mux"),
            Err(NegotiationError::ExtensionNotOffered("mux".into()))
        );
    }
}

mod section_7_1_parameters {
    use super::*;

    #[test]
    fn unknown() {
        let unknown = NegotiationError::UnknownParameter("foo".into());
        assert_eq!(declined("foo"), unknown);
        assert_eq!(declined("client_max_window_bits; foo=1"), unknown);
        assert_eq!(answered(&unlimited(), "foo=1"), Err(unknown));
        // Names are compared as they are.
        assert!(answered(&unlimited(), "Server_No_Context_Takeover").is_err());
    }

    #[test]
    fn repeated() {
        for parameter in [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "server_max_window_bits=10",
            "client_max_window_bits=10",
        ] {
            let twice = [parameter, "; ", parameter].concat();
            let of_offer = declined(&twice);
            assert!(matches!(of_offer, NegotiationError::RepeatedParameter(p)
                if parameter.starts_with(p.name())));
            assert_eq!(answered(&unlimited(), &twice), Err(of_offer));
        }
        // With another value too, and without one.
        let twice = "client_max_window_bits; client_max_window_bits=10";
        let repeated = NegotiationError::RepeatedParameter(Parameter::ClientMaxWindowBits);
        assert_eq!(declined(twice), repeated);
    }

    #[test]
    fn any_order_is_the_same() {
        let one = "client_max_window_bits=9; server_no_context_takeover";
        let other = "server_no_context_takeover; client_max_window_bits=9";
        assert_eq!(offered(&unlimited(), one), offered(&unlimited(), other));
    }

    #[test]
    fn the_errors_say_what_was_expected() {
        let error = |parameters| answered(&unlimited(), parameters).unwrap_err().to_string();
        assert_eq!(
            error("server_max_window_bits=16"),
            "server_max_window_bits takes a number from 8 to 15, not 16"
        );
        assert_eq!(
            error("client_max_window_bits"),
            "client_max_window_bits takes a number from 8 to 15, and came without a value"
        );
    }
}

mod section_7_1_1_1_server_no_context_takeover {
    use super::*;
    use Parameter::ServerNoContextTakeover as This;

    #[test]
    fn has_no_value() {
        let parameters = "server_no_context_takeover=1";
        assert_eq!(declined(parameters), invalid(This, Some("1")));
        assert_eq!(
            answered(&unlimited(), parameters),
            Err(invalid(This, Some("1")))
        );
    }

    #[test]
    fn a_server_accepts_by_including_it() {
        let (params, answer) = offered(&unlimited(), "server_no_context_takeover").unwrap();
        assert!(params.server_no_context_takeover && !params.client_no_context_takeover);
        assert_eq!(answer, "server_no_context_takeover");
    }

    #[test]
    fn a_server_may_include_it_unasked() {
        let mut server = unlimited();
        server.own_no_context_takeover = true;
        let (params, answer) = offered(&server, "").unwrap();
        assert!(params.server_no_context_takeover);
        assert_eq!(answer, "server_no_context_takeover");
        // And a client takes it.
        assert_eq!(answered(&unlimited(), &answer), Ok(params));
    }

    #[test]
    fn a_client_that_asked_offers_to_do_without_too() {
        let mut client = unlimited();
        client.peer_no_context_takeover = true;
        assert!(client.offer().contains("; server_no_context_takeover;"));
        assert!(!answered(&client, "").unwrap().server_no_context_takeover);
        let params = answered(&client, "server_no_context_takeover").unwrap();
        assert!(params.server_no_context_takeover);
    }
}

mod section_7_1_1_2_client_no_context_takeover {
    use super::*;
    use Parameter::ClientNoContextTakeover as This;

    #[test]
    fn has_no_value() {
        let parameters = "client_no_context_takeover=true";
        assert_eq!(declined(parameters), invalid(This, Some("true")));
        assert_eq!(
            answered(&unlimited(), parameters),
            Err(invalid(This, Some("true")))
        );
    }

    #[test]
    fn a_server_takes_up_the_hint() {
        let (params, answer) = offered(&unlimited(), "client_no_context_takeover").unwrap();
        assert!(params.client_no_context_takeover && !params.server_no_context_takeover);
        assert_eq!(answer, "client_no_context_takeover");
    }

    #[test]
    fn a_server_demands_it_unasked_and_the_client_obeys() {
        let mut server = unlimited();
        server.peer_no_context_takeover = true;
        let (params, answer) = offered(&server, "").unwrap();
        assert!(params.client_no_context_takeover);
        assert_eq!(answer, "client_no_context_takeover");
        assert_eq!(answered(&unlimited(), &answer), Ok(params));
    }

    #[test]
    fn a_client_may_do_without_although_the_server_ignored_the_hint() {
        let mut client = unlimited();
        client.own_no_context_takeover = true;
        assert!(answered(&client, "").unwrap().client_no_context_takeover);
    }
}

mod section_7_1_2_1_server_max_window_bits {
    use super::*;
    use Parameter::ServerMaxWindowBits as This;

    #[test]
    fn values() {
        for ok in 8..=15 {
            let parameters = ["server_max_window_bits=", &ok.to_string()].concat();
            let (params, answer) = offered(&unlimited(), &parameters).unwrap();
            assert_eq!(params.server_max_window_bits, bits(ok));
            assert_eq!(answer, parameters);
            assert_eq!(answered(&unlimited(), &parameters), Ok(params));
        }
        for bad in ["7", "16", "08", "+8", "0", "99999999999999999999", "ten"] {
            let parameters = ["server_max_window_bits=", bad].concat();
            assert_eq!(declined(&parameters), invalid(This, Some(bad)));
            assert_eq!(
                answered(&unlimited(), &parameters),
                Err(invalid(This, Some(bad)))
            );
        }
        assert_eq!(declined("server_max_window_bits"), invalid(This, None));
        let valueless = answered(&unlimited(), "server_max_window_bits");
        assert_eq!(valueless, Err(invalid(This, None)));
    }

    #[test]
    fn quoted_values() {
        let (params, answer) = offered(&unlimited(), r#"server_max_window_bits="10""#).unwrap();
        assert_eq!(params.server_max_window_bits, bits(10));
        assert_eq!(answer, "server_max_window_bits=10");
        for escaped in [r#""1\0""#, r#""\10""#, r#""\1\0""#] {
            let parameters = ["server_max_window_bits=", escaped].concat();
            assert_eq!(answered(&unlimited(), &parameters), Ok(params));
        }
        assert!(answered(&unlimited(), r#"server_max_window_bits="16""#).is_err());
    }

    #[test]
    fn a_server_answers_the_smaller_of_both_wishes() {
        let mut server = unlimited();
        server.own_max_window_bits = bits(11);
        for (offer, expected) in [
            ("", "server_max_window_bits=11"),
            ("server_max_window_bits=15", "server_max_window_bits=11"),
            ("server_max_window_bits=9", "server_max_window_bits=9"),
        ] {
            assert_eq!(offered(&server, offer).unwrap().1, expected);
        }
    }

    #[test]
    fn a_client_takes_only_what_it_offered_or_less() {
        let mut client = unlimited();
        client.peer_max_window_bits = bits(10);
        assert!(client.offer().contains("; server_max_window_bits=10;"));
        for smaller in [8, 10] {
            let answer = ["server_max_window_bits=", &smaller.to_string()].concat();
            let params = answered(&client, &answer).unwrap();
            assert_eq!(params.server_max_window_bits, bits(smaller));
        }
        assert_eq!(
            answered(&client, "server_max_window_bits=11"),
            Err(NegotiationError::WindowLargerThanOffered {
                parameter: This,
                offered: bits(10),
                answered: bits(11),
            })
        );
        assert_eq!(answered(&client, ""), Err(NegotiationError::Missing(This)));
    }
}

mod section_7_1_2_2_client_max_window_bits {
    use super::*;
    use Parameter::ClientMaxWindowBits as This;

    fn server_with(max: u8) -> DeflateConfig {
        DeflateConfig {
            peer_max_window_bits: bits(max),
            ..unlimited()
        }
    }

    #[test]
    fn values() {
        for ok in 8..=15 {
            let parameters = ["client_max_window_bits=", &ok.to_string()].concat();
            let (params, answer) = offered(&unlimited(), &parameters).unwrap();
            assert_eq!(params.client_max_window_bits, bits(ok));
            // The largest window limits nothing.
            assert_eq!(answer, if ok < 15 { parameters.as_str() } else { "" });
            assert_eq!(answered(&unlimited(), &parameters), Ok(params));
        }
        for bad in ["7", "16", "08", "+8"] {
            let parameters = ["client_max_window_bits=", bad].concat();
            assert_eq!(declined(&parameters), invalid(This, Some(bad)));
            assert_eq!(
                answered(&unlimited(), &parameters),
                Err(invalid(This, Some(bad)))
            );
        }
    }

    #[test]
    fn without_a_value_only_in_an_offer() {
        let chosen = offered(&unlimited(), "client_max_window_bits");
        assert_eq!(chosen, Some((UNLIMITED, String::new())));
        let valueless = answered(&unlimited(), "client_max_window_bits");
        assert_eq!(valueless, Err(invalid(This, None)));
    }

    #[test]
    fn a_server_limits_a_client_that_can_be_limited() {
        for offer in ["client_max_window_bits", "client_max_window_bits=15"] {
            let (params, answer) = offered(&server_with(9), offer).unwrap();
            assert_eq!(params.client_max_window_bits, bits(9));
            assert_eq!(answer, "client_max_window_bits=9");
        }
        let (params, answer) = offered(&server_with(12), "client_max_window_bits=10").unwrap();
        assert_eq!(params.client_max_window_bits, bits(10));
        assert_eq!(answer, "client_max_window_bits=10");
    }

    #[test]
    fn a_server_never_answers_it_unoffered() {
        assert_eq!(offered(&unlimited(), ""), Some((UNLIMITED, String::new())));
        assert_eq!(offered(&server_with(9), ""), None);
    }

    #[test]
    fn a_client_offers_its_own_limit_and_keeps_to_it() {
        assert_eq!(
            unlimited().offer(),
            "permessage-deflate; client_max_window_bits"
        );
        let client = DeflateConfig {
            own_max_window_bits: bits(10),
            ..unlimited()
        };
        assert_eq!(
            client.offer(),
            "permessage-deflate; client_max_window_bits=10"
        );
        assert_eq!(
            answered(&client, "").unwrap().client_max_window_bits,
            bits(10)
        );
        let smaller = answered(&client, "client_max_window_bits=8").unwrap();
        assert_eq!(smaller.client_max_window_bits, bits(8));
        assert_eq!(
            answered(&client, "client_max_window_bits=11"),
            Err(NegotiationError::WindowLargerThanOffered {
                parameter: This,
                offered: bits(10),
                answered: bits(11),
            })
        );
    }
}

mod section_7_1_3_both_ends {
    use super::*;

    /// Whatever both ends want, they agree on the same, or on nothing.
    #[test]
    fn every_client_and_every_server_agree() {
        let windows = [8, 9, 12, 15];
        let mut configs = alloc::vec::Vec::new();
        for own in windows {
            for peer in windows {
                for takeover in 0..4 {
                    configs.push(DeflateConfig {
                        own_no_context_takeover: takeover & 1 == 0,
                        peer_no_context_takeover: takeover & 2 == 0,
                        own_max_window_bits: bits(own),
                        peer_max_window_bits: bits(peer),
                        ..DeflateConfig::default()
                    });
                }
            }
        }
        for client in &configs {
            let offer = client.offer();
            let offers = parse_extensions([offer.as_bytes()]).unwrap();
            for server in &configs {
                let (params, answer) = server.choose(&offers).unwrap();
                let answers = parse_extensions([answer.as_bytes()]).unwrap();
                assert_eq!(client.accept_answers(&answers), Ok(Some(params)));
                assert!(params.server_max_window_bits <= client.peer_max_window_bits);
                assert!(params.server_max_window_bits <= server.own_max_window_bits);
                assert!(params.client_max_window_bits <= client.own_max_window_bits);
                assert!(params.client_max_window_bits <= server.peer_max_window_bits);
            }
        }
    }

    #[test]
    fn the_default_offer() {
        assert_eq!(
            DeflateConfig::default().offer(),
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover; \
             client_max_window_bits, \
             permessage-deflate; client_no_context_takeover; client_max_window_bits"
        );
        assert_eq!(DeflateConfig::available(), Some(DeflateConfig::default()));
    }

    #[test]
    fn what_browsers_offer() {
        let offer = "client_max_window_bits";
        let (params, answer) = offered(&DeflateConfig::default(), offer).unwrap();
        assert!(params.server_no_context_takeover && params.client_no_context_takeover);
        assert_eq!(
            answer,
            "server_no_context_takeover; client_no_context_takeover"
        );
    }
}
