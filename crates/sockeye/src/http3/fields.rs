//! Sections of fields: what is asked and what is answered (RFC 9114 §4.2 and §4.3), in QPACK without a dynamic table (RFC 9204).
//!
//! That table is never offered, so that what a peer says can hold up no stream, and nothing is kept for it.

use std::str;

use hyper::{
    HeaderMap, StatusCode,
    header::{HOST, HeaderName, HeaderValue},
    http::Uri,
};
use sockeye_proto::handshake::{HandshakeError, HeadLimits};

use super::{Code, Fault, huffman, static_table::STATIC};

/// What each field counts besides its bytes (RFC 9114 §4.2.2).
const FIELD: usize = 32;

/// What may stand before the other fields (RFC 9114 §4.3, RFC 9220 §3).
const PSEUDO: [&str; 6] = [
    ":method",
    ":scheme",
    ":authority",
    ":path",
    ":protocol",
    ":status",
];

/// What is about a connection, and so can be in no stream (RFC 9114 §4.2).
const OF_CONNECTION: [&str; 5] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// What is never to be compressed by whoever hands it on (RFC 9204 §7.1.3).
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Fields, as they are sent.
pub(crate) struct Encoded {
    pub(crate) bytes: Vec<u8>,
    /// How large they count (RFC 9114 §4.2.2).
    pub(crate) size: u64,
}

/// Encodes a section: what comes first, and the headers.
pub(crate) fn encode(pseudo: &[(&str, &str)], headers: &HeaderMap) -> Encoded {
    // There is no dynamic table: neither an insert count nor a base (RFC 9204 §4.5.1).
    let (mut bytes, mut size) = (vec![0, 0], 0);
    let pseudo = pseudo.iter().map(|(name, value)| (*name, value.as_bytes()));
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| (name.as_str(), value.as_bytes()));
    for (name, value) in pseudo.chain(headers) {
        put_field(&mut bytes, name, value);
        size += (name.len() + value.len() + FIELD) as u64;
    }
    Encoded { bytes, size }
}

/// RFC 9204 §4.5.2, §4.5.4 and §4.5.6.
fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let is_named = |field: &&(&str, &str)| field.0 == name;
    let all = || (0..).zip(&STATIC);
    if let Some((at, _)) = all().find(|(_, field)| is_named(field) && field.1.as_bytes() == value) {
        return put_integer(out, 0b1100_0000, 6, at);
    }
    let secret = u8::from(SECRET.contains(&name));
    match all().find(|(_, field)| is_named(field)) {
        Some((at, _)) => put_integer(out, 0b0101_0000 | secret << 5, 4, at),
        None => {
            put_integer(out, 0b0010_0000 | secret << 4, 3, name.len() as u64);
            out.extend_from_slice(name.as_bytes());
        }
    }
    put_integer(out, 0, 7, value.len() as u64);
    out.extend_from_slice(value);
}

/// An integer in what is left of a byte, and as many more as it takes (RFC 7541 §5.1).
fn put_integer(out: &mut Vec<u8>, first: u8, bits: u32, value: u64) {
    let most = (1 << bits) - 1;
    if value < most {
        return out.push(first | value as u8);
    }
    out.push(first | most as u8);
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// What is wrong with a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It cannot be read, which ends the connection (RFC 9204 §2.2).
    Unreadable(Fault),
    /// It may not be so, which ends the stream (RFC 9114 §4.1.2).
    Malformed(&'static str),
    TooLarge,
    TooMany,
}

const UNREADABLE: Wrong = Wrong::Unreadable(Fault::new(
    Code::DecompressionFailed,
    "fields that cannot be decoded",
));

/// A section that has come.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// In the order of [`PSEUDO`].
    pseudo: [Option<String>; PSEUDO.len()],
    pub(crate) headers: HeaderMap,
}

/// Decodes a section.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn decode(mut bytes: &[u8], limits: HeadLimits) -> Result<Section, Wrong> {
    let bytes = &mut bytes;
    let (inserted, base) = (take_integer(bytes, 8), take_integer(bytes, 7));
    // Whoever refers to the dynamic table says first how much of it is to be known.
    let is_without = inserted
        .zip(base)
        .is_some_and(|((_, inserted), (base, _))| {
            // A base below what was inserted there cannot be (§4.5.1.2).
            inserted == 0 && base & 0x80 == 0
        });
    if !is_without {
        return Err(UNREADABLE);
    }
    let (mut section, mut size) = (Section::default(), 0);
    let mut count = 0;
    while !bytes.is_empty() {
        let (name, value) = take_field(bytes).ok_or(UNREADABLE)?;
        size += name.len() + value.len() + FIELD;
        if size > limits.bytes {
            return Err(Wrong::TooLarge);
        }
        if !name.starts_with(b":") {
            count += 1;
        }
        if count > limits.headers {
            return Err(Wrong::TooMany);
        }
        section.push(&name, &value)?;
    }
    Ok(section)
}

/// A field of any of the three shapes that need no dynamic table (RFC 9204 §4.5).
fn take_field(bytes: &mut &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let of_static = |at: u64| STATIC.get(usize::try_from(at).ok()?);
    let first = *bytes.first()?;
    if first & 0b1000_0000 != 0 {
        let (_, at) = take_integer(bytes, 6)?;
        let (name, value) = of_static(at).filter(|_| first & 0b0100_0000 != 0)?;
        return Some(((*name).into(), (*value).into()));
    }
    let name = if first & 0b0100_0000 != 0 {
        let (_, at) = take_integer(bytes, 4)?;
        let (name, _) = of_static(at).filter(|_| first & 0b0001_0000 != 0)?;
        (*name).into()
    } else if first & 0b0010_0000 != 0 {
        take_string(bytes, 3)?
    } else {
        return None;
    };
    Some((name, take_string(bytes, 7)?))
}

/// A string, whose length is in so many bits of its first byte, behind the one that says whether it is in Huffman's code
/// (RFC 9204 §4.1.2).
fn take_string(bytes: &mut &[u8], bits: u32) -> Option<Vec<u8>> {
    let (first, len) = take_integer(bytes, bits)?;
    let (string, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    match first >> bits & 1 {
        0 => Some(string.into()),
        _ => huffman::decode(string),
    }
}

/// An integer in the last bits of a byte and in those behind it (RFC 7541 §5.1); and that byte.
fn take_integer(bytes: &mut &[u8], bits: u32) -> Option<(u8, u64)> {
    let (first, mut rest) = bytes.split_first()?;
    let most = u8::MAX >> (8 - bits);
    let mut value = u64::from(first & most);
    if first & most == most {
        let mut shift = 0;
        loop {
            let (byte, behind) = rest.split_first()?;
            rest = behind;
            // Nothing is as long, and no more is read of what says so.
            if shift > 49 {
                return None;
            }
            value += u64::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *bytes = rest;
    Some((*first, value))
}

impl Section {
    /// RFC 9114 §4.2 and §4.3.
    fn push(&mut self, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
        if name.starts_with(b":") {
            let Some(at) = PSEUDO.iter().position(|known| known.as_bytes() == name) else {
                return Err(Wrong::Malformed("a pseudo-header that nobody knows"));
            };
            if !self.headers.is_empty() {
                return Err(Wrong::Malformed("a pseudo-header behind other fields"));
            }
            let value = str::from_utf8(value)
                .map_err(|_| Wrong::Malformed("a pseudo-header that is not text"))?;
            return match self.pseudo[at].replace(value.into()) {
                None => Ok(()),
                Some(_) => Err(Wrong::Malformed("a pseudo-header is given twice")),
            };
        }
        let name = HeaderName::from_lowercase(name).map_err(|_| {
            Wrong::Malformed("a name that cannot be a field's, or is not in lower case")
        })?;
        let value = HeaderValue::from_bytes(value)
            .map_err(|_| Wrong::Malformed("a value that cannot be a field's"))?;
        let is_of_connection = OF_CONNECTION.contains(&name.as_str());
        if is_of_connection || name == "te" && value != "trailers" {
            return Err(Wrong::Malformed("a field that is about a connection"));
        }
        let appended = self.headers.try_append(name, value);
        appended.map(drop).map_err(|_| Wrong::TooMany)
    }

    fn pseudo(&self, name: &str) -> Option<&str> {
        let at = PSEUDO.iter().position(|known| *known == name)?;
        self.pseudo[at].as_deref()
    }

    /// The status of an answer, which has nothing else before its fields (RFC 9114 §4.3.2).
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`].
    pub(crate) fn status(&self) -> Result<StatusCode, HandshakeError> {
        let given = self.pseudo.iter().flatten().count();
        let status = self.pseudo(":status").filter(|_| given == 1);
        status
            .and_then(|status| status.parse().ok())
            .ok_or(HandshakeError::Malformed(
                "an answer without a status, or with more before its fields",
            ))
    }

    /// The method of a request, whose other pseudo-headers are those that it has to have (RFC 9114 §4.3.1, RFC 9220 §3).
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`].
    pub(crate) fn method(&self) -> Result<&str, HandshakeError> {
        let has = |name| self.pseudo(name).is_some();
        if self.pseudo.iter().flatten().any(String::is_empty) {
            return malformed("a pseudo-header without a value");
        }
        let Some(method) = self.pseudo(":method").filter(|_| !has(":status")) else {
            return malformed("a request without a method, or with a status");
        };
        let is_plain_connect = method == "CONNECT" && !has(":protocol");
        let is_whole = match is_plain_connect {
            true => has(":authority") && !has(":scheme") && !has(":path"),
            false => has(":scheme") && has(":path") && (has(":authority") || self.host().is_some()),
        };
        if !is_whole || method != "CONNECT" && has(":protocol") {
            return malformed(
                "a request without a pseudo-header that it needs, or with one too many",
            );
        }
        if let (Some(authority), Some(host)) = (self.pseudo(":authority"), self.host())
            && host != authority
        {
            return malformed("a Host that is not the authority");
        }
        Ok(method)
    }

    /// What a request by extended CONNECT is for.
    pub(crate) fn protocol(&self) -> Option<&str> {
        self.pseudo(":protocol")
    }

    fn host(&self) -> Option<&HeaderValue> {
        self.headers.get(HOST)
    }

    /// The whole URL of a request.
    ///
    /// # Errors
    /// [`HandshakeError::Malformed`].
    pub(crate) fn uri(&self) -> Result<Uri, HandshakeError> {
        let host = || self.host().and_then(|host| host.to_str().ok());
        let authority = self.pseudo(":authority").or_else(host);
        let path = self.pseudo(":path").unwrap_or_default();
        if !path.starts_with('/') {
            return malformed("a request whose path does not begin with a slash");
        }
        let uri = Uri::builder()
            .scheme(self.pseudo(":scheme").unwrap_or_default())
            .authority(authority.unwrap_or_default())
            .path_and_query(path)
            .build();
        uri.or_else(|_| malformed("a request whose URL cannot be"))
    }
}

fn malformed<T>(why: &'static str) -> Result<T, HandshakeError> {
    Err(HandshakeError::Malformed(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn decoded(bytes: &[u8]) -> Result<Section, Wrong> {
        decode(bytes, HeadLimits::default())
    }

    const ASKED: [(&str, &str); 5] = [
        (":method", "CONNECT"),
        (":scheme", "https"),
        (":authority", "example.com"),
        (":path", "/chat"),
        (":protocol", "websocket"),
    ];

    #[test]
    fn what_is_encoded_is_decoded() {
        let long = "x".repeat(5000);
        let headers = headers(&[
            ("sec-websocket-version", "13"),
            ("authorization", "Basic a"),
            ("x-long", &long),
            ("x-long", ""),
        ]);
        let encoded = encode(&ASKED, &headers);
        let section = decoded(&encoded.bytes).unwrap();
        assert_eq!(section.headers, headers);
        assert_eq!(section.method(), Ok("CONNECT"));
        assert_eq!(section.protocol(), Some("websocket"));
        assert_eq!(section.uri().unwrap(), "https://example.com/chat");
        let names = 7 + 7 + 10 + 5 + 9 + 21 + 13 + 6 + 6;
        let values = 7 + 5 + 11 + 5 + 9 + 2 + 7 + 5000;
        assert_eq!(encoded.size, names + values + 9 * 32);
        let answer = encode(&[(":status", "200")], &HeaderMap::new());
        // §4.5.2: of the static table alone.
        assert_eq!(answer.bytes, [0, 0, 0b1100_0000 | 25]);
        assert_eq!(decoded(&answer.bytes).unwrap().status(), Ok(StatusCode::OK));
    }

    /// RFC 9204 §B.1.
    #[test]
    fn a_section_of_the_standard_is_decoded() {
        let section = decoded(b"\x00\x00\x51\x0b/index.html").unwrap();
        assert_eq!(section.pseudo(":path"), Some("/index.html"));
    }

    /// Each field, as another encoder may write it.
    #[test]
    fn huffmans_code_and_long_names_are_decoded() {
        // `custom-key: custom-value` of RFC 7541 §C.4.3, with a literal name.
        let field = b"\x00\x00\x2f\x01\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf";
        let section = decoded(field).unwrap();
        assert_eq!(section.headers["custom-key"], "custom-value");
    }

    /// RFC 9204 §2.2: what cannot be decoded ends the connection.
    #[test]
    fn what_cannot_be_decoded_is_told_from_what_may_not_be() {
        for bytes in [
            &b""[..],
            b"\x00",
            // An insert count, and so the dynamic table; a base below none.
            b"\x01\x00\xd1",
            b"\x00\x80\xd1",
            // An index of that table, one behind its base, and names of either.
            b"\x00\x00\x80",
            b"\x00\x00\x10",
            b"\x00\x00\x41\x01a",
            b"\x00\x00\x01\x01a",
            // No such field in the static one.
            b"\x00\x00\xff\x24",
            b"\x00\x00\x5f\x54\x01a",
            // Cut short: an integer, a name, a value.
            b"\x00\x00\xff",
            b"\x00\x00\x22a",
            b"\x00\x00\x51\x02/",
            // An integer without an end.
            b"\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            // No Huffman's code.
            b"\x00\x00\x51\x81\x00",
        ] {
            assert_eq!(decoded(bytes).unwrap_err(), UNREADABLE, "{bytes:?}");
        }
    }

    /// RFC 9114 §4.2 and §4.3.
    #[test]
    fn what_may_not_be_is_malformed() {
        let literal = |fields: &[(&str, &[u8])]| {
            let mut bytes = vec![0, 0];
            for (name, value) in fields {
                put_integer(&mut bytes, 0b0010_0000, 3, name.len() as u64);
                bytes.extend_from_slice(name.as_bytes());
                put_integer(&mut bytes, 0, 7, value.len() as u64);
                bytes.extend_from_slice(value);
            }
            decoded(&bytes)
        };
        for fields in [
            &[("X-Name", &b"a"[..])][..],
            &[("", b"a")],
            &[("a b", b"a")],
            &[("a", b"a\r\nb: c")],
            &[("a", b"\0")],
            &[("connection", b"a")],
            &[("upgrade", b"websocket")],
            &[("transfer-encoding", b"chunked")],
            &[("te", b"gzip")],
            &[(":status", b"200"), (":status", b"200")],
            &[("a", b"a"), (":status", b"200")],
            &[(":version", b"3")],
            &[(":path", b"/\xff")],
        ] {
            let wrong = literal(fields).unwrap_err();
            assert!(
                matches!(wrong, Wrong::Malformed(_)),
                "{fields:?}: {wrong:?}"
            );
        }
        assert!(literal(&[("te", b"trailers"), ("a", b"\xff")]).is_ok());
    }

    #[test]
    fn an_answer_has_a_status_and_nothing_else() {
        let status = |pseudo: &[(&str, &str)]| {
            let encoded = encode(pseudo, &HeaderMap::new());
            decoded(&encoded.bytes).unwrap().status()
        };
        assert_eq!(status(&[(":status", "404")]), Ok(StatusCode::NOT_FOUND));
        for pseudo in [
            &[][..],
            &[(":status", "20")],
            &[(":status", "+20")],
            &[(":status", "099")],
            &[(":status", "abc")],
            &[(":status", "200"), (":path", "/")],
        ] {
            assert!(
                matches!(status(pseudo), Err(HandshakeError::Malformed(_))),
                "{pseudo:?}"
            );
        }
    }

    /// RFC 9114 §4.3.1 and §4.4, RFC 9220 §3.
    #[test]
    fn a_request_has_what_it_needs() {
        let method = |pseudo: &[(&str, &str)], fields: &[(&'static str, &str)]| {
            let encoded = encode(pseudo, &headers(fields));
            let section = decoded(&encoded.bytes).unwrap();
            section.method().map(str::to_owned)
        };
        let get = [(":method", "GET"), (":scheme", "https"), (":path", "/")];
        let tunnel = [(":method", "CONNECT"), (":authority", "a:1")];
        assert_eq!(method(&ASKED, &[]).unwrap(), "CONNECT");
        assert_eq!(
            method(&ASKED, &[("host", "example.com")]).unwrap(),
            "CONNECT"
        );
        assert_eq!(method(&get, &[("host", "a")]).unwrap(), "GET");
        assert_eq!(method(&tunnel, &[]).unwrap(), "CONNECT");
        for missing in 0..4 {
            let mut pseudo = ASKED.to_vec();
            pseudo.remove(missing);
            let wrong = method(&pseudo, &[]);
            assert!(
                matches!(wrong, Err(HandshakeError::Malformed(_))),
                "{pseudo:?}"
            );
        }
        let with = |mut pseudo: Vec<_>, more| {
            pseudo.push(more);
            pseudo
        };
        for pseudo in [
            get.to_vec(),
            with(ASKED.to_vec(), (":status", "200")),
            with(get.to_vec(), (":protocol", "websocket")),
            with(tunnel.to_vec(), (":path", "/")),
            with(tunnel.to_vec(), (":scheme", "https")),
            with(tunnel.to_vec(), (":path", "")),
            with(ASKED.to_vec(), (":status", "")),
        ] {
            let wrong = method(&pseudo, &[]);
            assert!(
                matches!(wrong, Err(HandshakeError::Malformed(_))),
                "{pseudo:?}"
            );
        }
        let wrong = method(&ASKED, &[("host", "example.org")]);
        assert!(matches!(wrong, Err(HandshakeError::Malformed(_))));
    }

    #[test]
    fn a_section_has_its_limits() {
        let limits = |bytes, headers| {
            let mut limits = HeadLimits::default();
            (limits.bytes, limits.headers) = (bytes, headers);
            limits
        };
        let encoded = encode(&[(":path", "/")], &headers(&[("a", "b"), ("c", "d")]));
        let decoded = |bytes, headers| decode(&encoded.bytes, limits(bytes, headers)).map(drop);
        assert_eq!(decoded(38 + 34 + 34, 2), Ok(()));
        assert_eq!(decoded(38 + 34 + 33, 2), Err(Wrong::TooLarge));
        assert_eq!(decoded(1000, 1), Err(Wrong::TooMany));
    }

    /// Whatever comes, it is told what is wrong with it.
    #[test]
    fn anything_may_come() {
        let mut state = 1_u64;
        let mut random = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize
        };
        let whole = encode(&ASKED, &headers(&[("a", "b"), ("cookie", "c")])).bytes;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..random() % 4 + 1 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            bytes.truncate(random() % (bytes.len() + 1));
            if let Ok(section) = decoded(&bytes) {
                let _ = (section.method(), section.status(), section.uri());
            }
        }
    }
}
