//! The header of the PROXY protocol, with which a proxy says whose connection it hands on, versions 1
//! and 2 (`proxy-protocol.txt` of HAProxy, 2020/03/05).
//!
//! It is read without a byte of what follows, so that TLS or HTTP find the stream as it is.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str,
};

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{Error, Result};

/// The most bytes of a header of version 1, its line break included (§2.1).
const MAX_V1: usize = 107;

/// No header of version 1 is shorter: `PROXY UNKNOWN` and a line break.
const MIN_V1: usize = 15;

/// How version 2 begins (§2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What comes first in version 2: the signature, version and command, family, and a length.
const HEAD_V2: usize = 16;

/// The most bytes behind that: those that every receiver must take (§2.2), which are the addresses
/// and what TLS says in the usual extensions.
const MAX_V2: usize = 536;

/// What is wrong with the header of the PROXY protocol that a trusted proxy has to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyHeaderError {
    /// The connection begins with something else.
    Absent,
    /// The connection ended within it.
    Incomplete,
    /// A line of more than 107 bytes, or more than 536 bytes of addresses and extensions.
    TooLong,
    /// It does not follow the grammar; the text says what is wrong with it.
    Malformed(&'static str),
}

impl fmt::Display for ProxyHeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "a header of the PROXY protocol has to come first from this address",
            Self::Incomplete => "the connection ended within the header of the PROXY protocol",
            Self::TooLong => "the header of the PROXY protocol is too long",
            Self::Malformed(why) => {
                return write!(f, "the header of the PROXY protocol is malformed: {why}");
            }
        })
    }
}

impl std::error::Error for ProxyHeaderError {}

/// Reads the header: the address of the client, or none where the proxy speaks for itself or does not
/// know it.
pub(super) async fn read_header<S>(stream: &mut S) -> Result<Option<SocketAddr>>
where
    S: AsyncRead + Unpin,
{
    let mut header = Vec::with_capacity(MAX_V1);
    loop {
        match parse(&header).map_err(Error::ProxyHeader)? {
            Step::Done(client) => return Ok(client),
            Step::Read(count) => {
                let begin = header.len();
                header.resize(begin + count, 0);
                let read = stream.read(&mut header[begin..]).await;
                let read = read.map_err(Error::lost)?;
                header.truncate(begin + read);
                if read == 0 {
                    let error = match header.is_empty() {
                        true => ProxyHeaderError::Absent,
                        false => ProxyHeaderError::Incomplete,
                    };
                    return Err(Error::ProxyHeader(error));
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// At least so many bytes of the header are still to come.
    Read(usize),
    Done(Option<SocketAddr>),
}

/// Looks at what has come of a header, which is nothing beyond it.
fn parse(header: &[u8]) -> Result<Step, ProxyHeaderError> {
    let begins = |with: &[u8]| header.iter().zip(with).all(|(a, b)| a == b);
    if begins(&SIGNATURE) && header.len() < SIGNATURE.len() {
        // Also where nothing has come: no header of either version is shorter than this.
        return Ok(Step::Read(SIGNATURE.len() - header.len()));
    }
    if begins(&SIGNATURE) {
        return parse_v2(header);
    }
    if begins(b"PROXY ") {
        return parse_v1(header);
    }
    Err(ProxyHeaderError::Absent)
}

fn parse_v1(header: &[u8]) -> Result<Step, ProxyHeaderError> {
    let Some(end) = header.windows(2).position(|two| two == b"\r\n") else {
        // The line break, or what is left of it, is yet to come; nothing beyond it may be read.
        let least = match header.last() {
            Some(b'\r') => 1,
            _ => 2,
        };
        let least = least.max(MIN_V1.saturating_sub(header.len()));
        return match header.len() + least > MAX_V1 {
            true => Err(ProxyHeaderError::TooLong),
            false => Ok(Step::Read(least)),
        };
    };
    let malformed = |why| Err(ProxyHeaderError::Malformed(why));
    let line = &header[..end];
    if line.split(|b| *b == b' ').nth(1) == Some(b"UNKNOWN") {
        // Whatever follows is to be ignored (§2.1).
        return Ok(Step::Done(None));
    }
    let Ok(line) = str::from_utf8(line) else {
        return malformed("it is not ASCII");
    };
    let mut words = line.split(' ').skip(1);
    let family = words.next().unwrap_or_default();
    let parse = |word: Option<&str>| -> Option<IpAddr> {
        let word = word?;
        match family {
            "TCP4" => word.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => word.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    if family != "TCP4" && family != "TCP6" {
        return malformed("the family is none of TCP4, TCP6 and UNKNOWN");
    }
    let (Some(source), Some(_)) = (parse(words.next()), parse(words.next())) else {
        return malformed("there are not two addresses of its family");
    };
    let (Some(port), Some(_)) = (port(words.next()), port(words.next())) else {
        return malformed("there are not two ports");
    };
    if words.next().is_some() {
        return malformed("there is more than two addresses and two ports");
    }
    Ok(Step::Done(Some(SocketAddr::new(
        source.to_canonical(),
        port,
    ))))
}

/// A decimal number without zeros in front.
fn port(word: Option<&str>) -> Option<u16> {
    let word = word?;
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    let plain = digits && (word == "0" || !word.starts_with('0'));
    word.parse().ok().filter(|_| plain)
}

fn parse_v2(header: &[u8]) -> Result<Step, ProxyHeaderError> {
    let malformed = |why| Err(ProxyHeaderError::Malformed(why));
    let Some((head, body)) = header.split_at_checked(HEAD_V2) else {
        return Ok(Step::Read(HEAD_V2 - header.len()));
    };
    let len = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if head[12] >> 4 != 2 {
        return malformed("the version is neither 1 nor 2");
    }
    let local = match head[12] & 0x0F {
        0 => true,
        1 => false,
        _ => return malformed("the command is neither LOCAL nor PROXY"),
    };
    if len > MAX_V2 {
        return Err(ProxyHeaderError::TooLong);
    }
    if body.len() < len {
        return Ok(Step::Read(len - body.len()));
    }
    if local {
        // The proxy's own, such as a check of health: what it says otherwise is to be ignored.
        return Ok(Step::Done(None));
    }
    let short = "the addresses are not all there";
    match head[13] {
        // Unspecified, or from a Unix socket.
        0x00 | 0x31 => Ok(Step::Done(None)),
        0x11 => match body.get(..12) {
            Some(&[a, b, c, d, _, _, _, _, high, low, ..]) => Ok(Step::Done(Some(
                SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low]))),
            ))),
            _ => malformed(short),
        },
        0x21 => match (body.first_chunk::<16>(), body.get(32..36)) {
            (Some(source), Some(&[high, low, ..])) => {
                let source = IpAddr::from(*source).to_canonical();
                let port = u16::from_be_bytes([high, low]);
                Ok(Step::Done(Some(SocketAddr::new(source, port))))
            }
            _ => malformed(short),
        },
        _ => malformed("the family is none that TCP is handed on from"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        header.extend(body);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xDC, 0x04, 0x01, 0xBB];

    fn v6() -> Vec<u8> {
        let mut body = Vec::new();
        for address in ["2001:db8::1", "2001:db8::2"] {
            body.extend(address.parse::<Ipv6Addr>().unwrap().octets());
        }
        body.extend([0xDC, 0x04, 0x01, 0xBB]);
        body
    }

    /// Headers, with whom they are from.
    fn good() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let mut good: Vec<_> = [
            // The examples of §2.1, the longest of each among them.
            (
                "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_owned(),
                addr("255.255.255.255:65535"),
            ),
            (
                format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n"),
                addr(&format!("[{longest}]:65535")),
            ),
            ("PROXY UNKNOWN\r\n".to_owned(), None),
            (
                format!("PROXY UNKNOWN {longest} {longest} 65535 65535\r\n"),
                None,
            ),
            (
                "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".to_owned(),
                addr("192.168.0.1:56324"),
            ),
            ("PROXY TCP6 ::1 ::1 0 0\r\n".to_owned(), addr("[::1]:0")),
            (
                "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n".to_owned(),
                addr("192.0.2.1:1"),
            ),
        ]
        .into_iter()
        .map(|(text, client)| (text.into_bytes(), client))
        .collect();
        let extended = [&V4[..], &[0xAA; 524]].concat();
        good.extend([
            // What follows is ignored, whatever it is.
            (b"PROXY UNKNOWN \xFF\xFE\r\n".to_vec(), None),
            (v2(0x21, 0x11, &V4), addr("192.0.2.1:56324")),
            (v2(0x21, 0x21, &v6()), addr("[2001:db8::1]:56324")),
            (v2(0x21, 0x11, &extended), addr("192.0.2.1:56324")),
            (v2(0x20, 0x00, &[]), None),
            (v2(0x20, 0x11, &V4), None),
            (v2(0x21, 0x00, &[1, 2, 3]), None),
            (v2(0x21, 0x31, &[7; 216]), None),
        ]);
        good
    }

    /// However it is cut, and nothing of what follows is taken.
    #[tokio::test]
    async fn good_headers_cut_anywhere() {
        for (header, client) in good() {
            let bytes = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            for cut in 0..=header.len() {
                let (front, back) = bytes.split_at(cut);
                let mut stream = front.chain(back);
                let read = read_header(&mut stream).await.unwrap();
                assert_eq!(read, client, "{header:?} cut at {cut}");
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.unwrap();
                assert_eq!(rest, b"GET / HTTP/1.1\r\n\r\n", "{header:?} cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn headers_that_end_too_early() {
        for (header, _) in good() {
            for cut in 0..header.len() {
                let error = read_header(&mut &header[..cut]).await.unwrap_err();
                let expected = match cut {
                    0 => ProxyHeaderError::Absent,
                    _ => ProxyHeaderError::Incomplete,
                };
                assert!(
                    matches!(error, Error::ProxyHeader(e) if e == expected),
                    "{error}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_told() {
        use ProxyHeaderError::{Absent, Malformed, TooLong};
        let long = [b"PROXY UNKNOWN ", &[b'a'; 92][..], b"\r\n"].concat();
        type Is = fn(ProxyHeaderError) -> bool;
        let cases: Vec<(&[u8], Is)> = vec![
            (b"GET / HTTP/1.1\r\n\r\n", |e| e == Absent),
            (
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on",
                |e| e == Absent,
            ),
            (b"PROXYTCP4 192.0.2.1 192.0.2.2 1 2\r\n", |e| e == Absent),
            (b"proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n", |e| e == Absent),
            (b"\r\n\r\n\0\r\nQUIX\n and so on, and so on", |e| {
                e == Absent
            }),
            (&long, |e| e == TooLong),
            (&[b'P'; 200], |e| e == Absent),
            (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 65536 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 ::1 ::2 1 2\r\n", |e| matches!(e, Malformed(_))),
            (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", |e| {
                matches!(e, Malformed(_))
            }),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 \xff\r\n", |e| {
                matches!(e, Malformed(_))
            }),
        ];
        for (bytes, expected) in cases {
            let error = read_header(&mut &bytes[..]).await.unwrap_err();
            let Error::ProxyHeader(error) = error else {
                panic!("{error}");
            };
            assert!(
                expected(error),
                "{}: {error}",
                String::from_utf8_lossy(bytes)
            );
        }
        for (header, expected) in [
            (
                v2(0x11, 0x11, &V4),
                Malformed("the version is neither 1 nor 2"),
            ),
            (
                v2(0x22, 0x11, &V4),
                Malformed("the command is neither LOCAL nor PROXY"),
            ),
            (
                v2(0x21, 0x12, &V4),
                Malformed("the family is none that TCP is handed on from"),
            ),
            (
                v2(0x21, 0x11, &V4[..11]),
                Malformed("the addresses are not all there"),
            ),
            (
                v2(0x21, 0x21, &v6()[..35]),
                Malformed("the addresses are not all there"),
            ),
            (v2(0x21, 0x11, &[0; 537]), TooLong),
            (v2(0x20, 0x11, &[0; 60_000]), TooLong),
        ] {
            let error = read_header(&mut &header[..]).await.unwrap_err();
            assert!(
                matches!(error, Error::ProxyHeader(e) if e == expected),
                "{error}"
            );
        }
    }
}
