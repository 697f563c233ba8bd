//! Whom a trusted proxy says a request is from: `Forwarded` (RFC 7239), or `X-Forwarded-For` and its
//! like.
//!
//! Each proxy adds whom it has heard from on the right. So they are read from there: as long as the
//! one that is named is trusted too, what it has added is looked at; the first that is not is the
//! client. What stands further left, anyone could have written.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    slice, str,
};

use sockeye_proto::handshake::{HandshakeError, HeaderFields, Refusal, is_token};

use super::{Networks, networks::Source};

/// Who is trusted to say where a request comes from, and how they say it.
#[derive(Clone, Debug)]
pub(super) struct Forwarding {
    pub(super) trusted: Networks,
    pub(super) header: Header,
}

/// The way in which proxies say it. Only one is looked at: the other may be the client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    Forwarded,
    XForwardedFor,
}

/// What a trusted proxy says of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    /// None where the proxy does not say.
    pub(crate) addr: Option<SocketAddr>,
    /// The host that the client has asked for.
    pub(crate) host: Option<Box<[u8]>>,
    /// Whether the client speaks TLS with the proxy.
    pub(crate) secure: Option<bool>,
}

impl Forwarding {
    /// Whom a request is from that came from there; none where that is not trusted to say, or does not.
    ///
    /// # Errors
    /// 400 where it cannot be understood: it may hide who it is from.
    pub(super) fn client(
        &self,
        headers: &impl HeaderFields,
        from: Source,
    ) -> Result<Option<Hop>, HandshakeError> {
        if !self.trusted.contain(from) {
            return Ok(None);
        }
        let client = match self.header {
            Header::Forwarded => {
                forwarded(headers).and_then(|hops| self.furthest(hops.into_iter().rev().map(Ok)))
            }
            Header::XForwardedFor => self.furthest(x_forwarded_for(headers)),
        };
        let mut client = client.map_err(|why| self.malformed(why))?;
        if self.header == Header::XForwardedFor
            && let Some(client) = &mut client
        {
            client.host = last(headers, "X-Forwarded-Host").map(Into::into);
            client.secure = last(headers, "X-Forwarded-Proto").map(is_secure);
        }
        Ok(client)
    }

    /// The first of those, from the right, who is not trusted to say more.
    fn furthest(&self, hops: impl Iterator<Item = Result<Hop, Why>>) -> Result<Option<Hop>, Why> {
        let mut client = None;
        for hop in hops {
            let hop = hop?;
            let trusted = hop
                .addr
                .is_some_and(|addr| self.trusted.contain(Source::Ip(addr.ip())));
            client = Some(hop);
            if !trusted {
                break;
            }
        }
        Ok(client)
    }

    fn malformed(&self, why: &'static str) -> HandshakeError {
        let name = match self.header {
            Header::Forwarded => "Forwarded",
            Header::XForwardedFor => "X-Forwarded-For",
        };
        let why = format!("the header {name} cannot be understood: {why}\n");
        HandshakeError::Refused(Box::new(Refusal::new(400, why)))
    }
}

/// What is wrong with a header.
type Why = &'static str;

fn forwarded(headers: &impl HeaderFields) -> Result<Vec<Hop>, Why> {
    let mut hops = Vec::new();
    for line in headers.values("Forwarded") {
        let mut rest = Line(line);
        loop {
            rest.skip_white();
            match rest.next() {
                None => break,
                // An element of a list may be empty (RFC 9110 §5.6.1).
                Some(b',') => rest.bump(),
                Some(_) => hops.push(rest.element()?),
            }
        }
    }
    Ok(hops)
}

/// What is left of a line.
struct Line<'a>(&'a [u8]);

impl<'a> Line<'a> {
    fn next(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn bump(&mut self) {
        self.0 = &self.0[1..];
    }

    fn skip_white(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    fn token(&mut self) -> &'a [u8] {
        let bytes = self.0.iter().map(slice::from_ref);
        let (token, rest) = self
            .0
            .split_at(bytes.take_while(|byte| is_token(byte)).count());
        self.0 = rest;
        token
    }

    /// Pairs up to a comma or the end, with semicolons between (RFC 7239 §4).
    fn element(&mut self) -> Result<Hop, Why> {
        let mut hop = Hop::default();
        let mut seen = HashSet::new();
        loop {
            self.skip_white();
            match self.next() {
                None | Some(b',') => return Ok(hop),
                Some(b';') => {
                    self.bump();
                    continue;
                }
                Some(_) => {}
            }
            let name = self.token().to_ascii_lowercase();
            if name.is_empty() || self.next() != Some(b'=') {
                return Err("a parameter is a name, an equals sign and a value");
            }
            self.bump();
            let value = self.value()?;
            match &name[..] {
                b"for" => hop.addr = node(&value)?,
                b"host" => hop.host = Some(value.into()),
                b"proto" => hop.secure = Some(is_secure(&value)),
                _ => {}
            }
            if !seen.insert(name) {
                return Err("a parameter is given twice");
            }
            self.skip_white();
            if !matches!(self.next(), None | Some(b';' | b',')) {
                return Err("a value with other characters than those of a token is to be quoted");
            }
        }
    }

    /// A token, or a string in quotes (RFC 9110 §5.6.4).
    fn value(&mut self) -> Result<Vec<u8>, Why> {
        if self.next() != Some(b'"') {
            return match self.token() {
                [] => Err("a parameter has no value"),
                token => Ok(token.to_vec()),
            };
        }
        self.bump();
        let mut value = Vec::new();
        loop {
            match (self.0.first(), self.0.get(1)) {
                (None, _) | (Some(b'\\'), None) => return Err("a quoted string does not end"),
                (Some(b'"'), _) => {
                    self.bump();
                    return Ok(value);
                }
                (Some(b'\\'), Some(&byte)) => {
                    value.push(byte);
                    self.bump();
                }
                (Some(&byte), _) => value.push(byte),
            }
            self.bump();
        }
    }
}

/// From the right. Each is looked at when its turn comes: what is further left is a client's.
fn x_forwarded_for(headers: &impl HeaderFields) -> impl Iterator<Item = Result<Hop, Why>> {
    let lines: Vec<_> = headers.values("X-Forwarded-For").collect();
    let entries = lines.into_iter().rev();
    let entries = entries.flat_map(|line| line.rsplit(|b| *b == b','));
    let entries = entries.map(<[u8]>::trim_ascii);
    entries.filter(|entry| !entry.is_empty()).map(|entry| {
        // Without a port, IPv6 is written without brackets too.
        let bare = str::from_utf8(entry)
            .ok()
            .and_then(|text| text.parse().ok());
        let addr = match bare {
            Some(IpAddr::V6(v6)) => Some(SocketAddr::new(IpAddr::V6(v6).to_canonical(), 0)),
            _ => node(entry)?,
        };
        Ok(Hop {
            addr,
            ..Hop::default()
        })
    })
}

/// The last entry of a list, in its last line.
fn last<'a>(headers: &'a impl HeaderFields, name: &str) -> Option<&'a [u8]> {
    let value = headers.values(name).last()?;
    let entry = value.rsplit(|b| *b == b',').next()?.trim_ascii();
    (!entry.is_empty()).then_some(entry)
}

fn is_secure(proto: &[u8]) -> bool {
    proto.eq_ignore_ascii_case(b"https") || proto.eq_ignore_ascii_case(b"wss")
}

/// A node (RFC 7239 §6): an address, perhaps with a port, which is 0 without one; or a name that hides
/// it.
fn node(value: &[u8]) -> Result<Option<SocketAddr>, Why> {
    const WHY: Why = "a node is an IPv4 address, an IPv6 address in brackets, unknown, or a name that \
                      begins with an underscore; a port may follow";
    let text = str::from_utf8(value).map_err(|_| WHY)?;
    let (name, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((v6, rest)) => {
            let v6: std::net::Ipv6Addr = v6.parse().map_err(|_| WHY)?;
            let port = match rest {
                "" => None,
                rest => Some(rest.strip_prefix(':').ok_or(WHY)?),
            };
            return Ok(Some(SocketAddr::new(
                IpAddr::V6(v6).to_canonical(),
                number(port)?,
            )));
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let port = number(port)?;
    if name.eq_ignore_ascii_case("unknown") {
        return Ok(None);
    }
    if let Some(hidden) = name.strip_prefix('_') {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        return match !hidden.is_empty() && hidden.bytes().all(plain) {
            true => Ok(None),
            false => Err(WHY),
        };
    }
    let v4: std::net::Ipv4Addr = name.parse().map_err(|_| WHY)?;
    Ok(Some(SocketAddr::new(v4.into(), port)))
}

/// A port, which is 0 where there is none or it is hidden.
fn number(port: Option<&str>) -> Result<u16, Why> {
    const WHY: Why = "a port is a number of up to 65535, or a name that begins with an underscore";
    let Some(port) = port else { return Ok(0) };
    if port.len() > 1 && port.starts_with('_') {
        return Ok(0);
    }
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(WHY);
    }
    port.parse().map_err(|_| WHY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sockeye_proto::handshake::Headers;

    fn client(header: Header, lines: &[(&str, &str)], from: &str) -> Result<Option<Hop>, String> {
        let forwarding = Forwarding {
            trusted: "10.0.0.0/8, 127.0.0.1, fd00::/8".parse().unwrap(),
            header,
        };
        let mut headers = Headers::new();
        for (name, value) in lines {
            headers.push(name, value).unwrap();
        }
        let client = forwarding.client(&headers, Source::Ip(from.parse().unwrap()));
        client.map_err(|error| error.to_string())
    }

    /// The address of the client, or `-` where it is not known.
    fn by(header: Header, name: &str, lines: &[&str]) -> String {
        let lines: Vec<_> = lines.iter().map(|line| (name, *line)).collect();
        match client(header, &lines, "10.0.0.1") {
            Ok(Some(Hop {
                addr: Some(addr), ..
            })) => addr.to_string(),
            Ok(Some(_)) => "-".to_owned(),
            Ok(None) => "nothing is said".to_owned(),
            Err(error) => error,
        }
    }

    #[test]
    fn section_4_the_rightmost_that_is_not_trusted() {
        for (lines, expected) in [
            (&["for=192.0.2.60"][..], "192.0.2.60:0"),
            (
                &["For=\"[2001:db8:cafe::17]:4711\""],
                "[2001:db8:cafe::17]:4711",
            ),
            (
                &["for=192.0.2.60;proto=http;by=203.0.113.43"],
                "192.0.2.60:0",
            ),
            (&["for=192.0.2.43, for=198.51.100.17"], "198.51.100.17:0"),
            (&["for=192.0.2.43", "for=198.51.100.17"], "198.51.100.17:0"),
            (
                &["for=192.0.2.43, for=198.51.100.17, for=10.0.0.7"],
                "198.51.100.17:0",
            ),
            (
                &[
                    "for=192.0.2.43",
                    "for=198.51.100.17",
                    "for=\"10.0.0.7:99\" , for=127.0.0.1",
                ],
                "198.51.100.17:0",
            ),
            // All trusted: the one that is furthest.
            (&["for=10.0.0.9, for=10.0.0.8"], "10.0.0.9:0"),
            // Nobody knows who is behind one that is hidden.
            (&["for=192.0.2.43, for=_hidden"], "-"),
            (&["for=192.0.2.43, for=unknown"], "-"),
            (&["for=192.0.2.43, for=\"_mdn:_port\", for=10.0.0.8"], "-"),
            (&["for=192.0.2.43, proto=https"], "-"),
            (&["for=\"192.0.2.43:_http\""], "192.0.2.43:0"),
            (
                &["for=\"\\1\\92.0.2.43\";ext=\"a, for=1.2.3.4\""],
                "192.0.2.43:0",
            ),
            (&[" , for=192.0.2.43 ;; by=_x , ,"], "192.0.2.43:0"),
            (&["for=\"[::ffff:192.0.2.43]\""], "192.0.2.43:0"),
            (&[], "nothing is said"),
            (&[""], "nothing is said"),
        ] {
            assert_eq!(
                by(Header::Forwarded, "Forwarded", lines),
                expected,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for line in [
            "for",
            "for=",
            "=192.0.2.1",
            "for=192.0.2.1;for=192.0.2.2",
            "for=[::1]",
            "for=\"::1\"",
            "for=\"[::1\"",
            "for=\"192.0.2.1",
            "for=\"192.0.2.1\\",
            "for=192.0.2.1:80",
            "for=\"192.0.2.1:\"",
            "for=\"192.0.2.1:99999\"",
            "for=\"192.0.2.1:+8\"",
            "for=_",
            "for=example.com",
            "for=192.0.2.1 by=x",
            // What a client has left open to swallow what the proxy adds.
            "for=\"x, for=192.0.2.1",
            "for=\"_, for=192.0.2.1;host=\"a\"",
        ] {
            let error = by(Header::Forwarded, "Forwarded", &[line]);
            assert!(
                error.contains("the header Forwarded cannot be understood"),
                "{line}: {error}"
            );
            assert!(error.contains("400"), "{line}: {error}");
        }
        for line in [
            "example.com",
            "192.0.2.1:",
            "1.2.3",
            "[::1",
            "\"192.0.2.1\"",
            "192.0.2.1 10.0.0.1",
            "x, 10.0.0.1",
        ] {
            let error = by(Header::XForwardedFor, "X-Forwarded-For", &[line]);
            assert!(
                error.contains("the header X-Forwarded-For cannot be understood"),
                "{line}: {error}"
            );
        }
    }

    #[test]
    fn x_forwarded_for() {
        for (lines, expected) in [
            (&["192.0.2.1"][..], "192.0.2.1:0"),
            (&["192.0.2.1:443"], "192.0.2.1:443"),
            (&["2001:db8::1"], "[2001:db8::1]:0"),
            (&["[2001:db8::1]:443"], "[2001:db8::1]:443"),
            (&["203.0.113.1, 192.0.2.1, 10.1.1.1"], "192.0.2.1:0"),
            (
                &["203.0.113.1", "192.0.2.1", "fd00::1,10.1.1.1"],
                "192.0.2.1:0",
            ),
            (&["192.0.2.1, unknown"], "-"),
            (&["::ffff:192.0.2.1"], "192.0.2.1:0"),
            (&["10.0.0.9"], "10.0.0.9:0"),
            // What a client had written was looked at, and could not be understood.
            (&["x, 192.0.2.1"], "192.0.2.1:0"),
            (&["x", "\"", "192.0.2.1, 10.1.1.1"], "192.0.2.1:0"),
        ] {
            assert_eq!(
                by(Header::XForwardedFor, "X-Forwarded-For", lines),
                expected,
                "{lines:?}"
            );
        }
    }

    #[test]
    fn nobody_else_is_believed_and_no_other_header() {
        let lines = [
            ("Forwarded", "for=192.0.2.1"),
            ("X-Forwarded-For", "192.0.2.2"),
        ];
        for from in ["192.0.2.9", "11.0.0.1", "::1"] {
            assert_eq!(client(Header::Forwarded, &lines, from), Ok(None));
            assert_eq!(client(Header::XForwardedFor, &lines, from), Ok(None));
        }
        let addr = |header| client(header, &lines, "127.0.0.1").unwrap().unwrap().addr;
        assert_eq!(
            addr(Header::Forwarded),
            Some("192.0.2.1:0".parse().unwrap())
        );
        assert_eq!(
            addr(Header::XForwardedFor),
            Some("192.0.2.2:0".parse().unwrap())
        );
        let spoofed = [("Forwarded", "for=192.0.2.1;host=a")];
        assert_eq!(
            client(Header::XForwardedFor, &spoofed, "10.0.0.1"),
            Ok(None)
        );
    }

    #[test]
    fn the_host_and_the_scheme_are_those_of_the_same_hop() {
        let lines = [(
            "Forwarded",
            "for=203.0.113.1;host=spoofed;proto=http, for=192.0.2.1;host=\"a.example:8443\";proto=https, for=10.0.0.2;host=b",
        )];
        let hop = client(Header::Forwarded, &lines, "10.0.0.1")
            .unwrap()
            .unwrap();
        assert_eq!(hop.host.as_deref(), Some(&b"a.example:8443"[..]));
        assert_eq!(hop.secure, Some(true));
        let lines = [
            ("X-Forwarded-For", "192.0.2.1"),
            ("X-Forwarded-Host", "spoofed, a.example"),
            ("X-Forwarded-Proto", "HTTPS"),
        ];
        let hop = client(Header::XForwardedFor, &lines, "10.0.0.1")
            .unwrap()
            .unwrap();
        assert_eq!(hop.host.as_deref(), Some(&b"a.example"[..]));
        assert_eq!(hop.secure, Some(true));
        let hop = client(Header::XForwardedFor, &lines[..1], "10.0.0.1")
            .unwrap()
            .unwrap();
        assert_eq!((hop.host, hop.secure), (None, None));
    }
}
