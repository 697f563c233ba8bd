//! Subprotocols: what a client offers, what a server chooses (RFC 6455 §1.9, §4.1, §4.2.2).

use alloc::{string::String, vec::Vec};
use core::str;

use super::{
    HandshakeError, HeaderFields,
    headers::{is_token, list_elements},
};

const NAME: &str = "Sec-WebSocket-Protocol";

/// The subprotocols a client offers, the most wanted first: distinct tokens.
///
/// Names are compared with their case, as registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subprotocols(Vec<String>);

impl Subprotocols {
    /// No offer.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Reads a client's offer, over as many fields as it came in (§4.2.1, 8).
    ///
    /// # Errors
    /// [`HandshakeError::SubprotocolList`] for what is no token or repeated, and for an empty
    /// list (§4.1, 10).
    pub fn parse(headers: &impl HeaderFields) -> Result<Self, HandshakeError> {
        let lines = headers.values(NAME);
        let mut names = Vec::new();
        let mut present = false;
        for element in lines.inspect(|_| present = true).flat_map(list_elements) {
            let name = str::from_utf8(element).ok();
            let name = name.filter(|name| is_token(name.as_bytes()));
            names.push(name.ok_or(HandshakeError::SubprotocolList)?);
        }
        if present && names.is_empty() || !are_distinct(&names) {
            return Err(HandshakeError::SubprotocolList);
        }
        let offered = Self(names.into_iter().map(String::from).collect());
        Ok(offered)
    }

    /// Adds one, less wanted than those before it.
    ///
    /// # Errors
    /// [`HandshakeError::InvalidSubprotocol`] for what is no token, or is offered already.
    pub fn push(&mut self, name: &str) -> Result<(), HandshakeError> {
        if !is_token(name.as_bytes()) || self.contains(name) {
            return Err(HandshakeError::InvalidSubprotocol(name.into()));
        }
        self.0.push(name.into());
        Ok(())
    }

    /// Whether one is offered.
    pub fn contains(&self, name: &str) -> bool {
        self.iter().any(|offered| offered == name)
    }

    /// Whether nothing is offered.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, the client's favourite first.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// The first of the server's, in its own order of preference, that the client offers.
    ///
    /// `None` is an answer too: the connection goes on without a subprotocol, and a client that
    /// cannot do without closes it.
    pub fn choose<'s, S: AsRef<str>>(&self, supported: &'s [S]) -> Option<&'s str> {
        supported
            .iter()
            .map(AsRef::as_ref)
            .find(|name| self.contains(name))
    }

    /// Judges a server's choice (§4.1, 6 of the response's rules).
    pub(crate) fn check_choice(
        &self,
        headers: &impl HeaderFields,
    ) -> Result<Option<String>, HandshakeError> {
        let Some(choice) = headers.at_most_one(NAME)? else {
            return Ok(None);
        };
        let choice = String::from_utf8_lossy(choice);
        if self.contains(&choice) {
            Ok(Some(choice.into_owned()))
        } else {
            Err(HandshakeError::SubprotocolNotOffered(choice.into_owned()))
        }
    }

    /// The value of the request's header.
    pub(crate) fn to_value(&self) -> String {
        self.0.join(", ")
    }
}

/// Whether no name is among them twice.
fn are_distinct(names: &[&str]) -> bool {
    /// Of so few, comparing each with each is the least work. Of as many as the largest head has room for it
    /// took 25 ms, and whoever sends such heads has a server do little else.
    const FEW: usize = 16;
    if names.len() <= FEW {
        return (1..names.len()).all(|at| !names[..at].contains(&names[at]));
    }
    let mut sorted = names.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).all(|pair| pair[0] != pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::Headers;
    use alloc::format;

    fn parse(lines: &[&str]) -> Result<Subprotocols, HandshakeError> {
        let mut headers = Headers::new();
        for line in lines {
            headers.push("sec-websocket-protocol", line).unwrap();
        }
        Subprotocols::parse(&headers)
    }

    #[test]
    fn section_4_2_1_lists_are_joined_in_order() {
        let offered = parse(&["mqtt , soap", "v2.chat"]).unwrap();
        assert!(offered.iter().eq(["mqtt", "soap", "v2.chat"]));
        assert!(parse(&[]).unwrap().is_empty());
    }

    #[test]
    fn section_4_1_malformed_lists_are_refused() {
        for lines in [
            &[""][..],
            &[","],
            &["a b"],
            &["a;b"],
            &["\"a\""],
            &["a, a"],
            &["a", "a"],
            &["чат"],
        ] {
            assert_eq!(
                parse(lines),
                Err(HandshakeError::SubprotocolList),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn section_4_1_a_repeated_name_is_found_in_lists_of_any_length() {
        for count in [2, 15, 16, 17, 40] {
            let names: Vec<_> = (0..count).map(|number| format!("name{number}")).collect();
            let offered = parse(&[&names.join(",")]).unwrap();
            assert!(offered.iter().eq(&names), "{count}");
            for at in 1..count {
                let mut twice = names.clone();
                twice[at] = names[0].clone();
                let refused = parse(&[&twice.join(",")]);
                assert_eq!(
                    refused,
                    Err(HandshakeError::SubprotocolList),
                    "{count} {at}"
                );
            }
        }
    }

    #[test]
    fn section_4_2_2_the_servers_preference_decides() {
        let offered = parse(&["a, b"]).unwrap();
        assert_eq!(offered.choose(&["c", "b", "a"]), Some("b"));
        assert_eq!(offered.choose(&["c", "A"]), None);
        assert_eq!(offered.choose::<&str>(&[]), None);
    }

    #[test]
    fn an_offer_is_made_of_distinct_tokens() {
        let mut offer = Subprotocols::new();
        offer.push("a").unwrap();
        for wrong in ["a", "", "b,c", "b c", "b\r\nc"] {
            let refused = offer.push(wrong);
            assert_eq!(
                refused,
                Err(HandshakeError::InvalidSubprotocol(wrong.into()))
            );
        }
        offer.push("b").unwrap();
        assert_eq!(offer.to_value(), "a, b");
    }
}
