//! What the targets share: choices and cuts taken off the front of the input, and how a head is judged.

pub mod allocations;
pub mod ends;
pub mod reference;

use sockeye_proto::{
    deflate::{DeflateConfig, WindowBits},
    handshake::{HandshakeError, HeadLimits, HeadScanner, HeaderFields, Refusal, Response},
};

/// The front of the input, which says what is done with the rest of it. Past its end are zeroes.
#[derive(Clone, Debug)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((&byte, rest)) => {
                self.0 = rest;
                byte
            }
            None => 0,
        }
    }

    pub fn number(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    /// At most so many of the bytes that are left.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where to cut what is read: one byte says how often, each further one how far apart.
    pub fn cuts(&mut self) -> Cuts {
        match self.byte() {
            255 => Cuts::Everywhere,
            count => Cuts::After((0..count % 16).map(|_| usize::from(self.byte())).collect()),
        }
    }

    pub fn window(&mut self) -> WindowBits {
        WindowBits::new(8 + self.byte() % 8).expect("8 to 15")
    }

    pub fn deflate_config(&mut self) -> DeflateConfig {
        let flags = self.byte();
        DeflateConfig {
            own_no_context_takeover: flags & 1 != 0,
            peer_no_context_takeover: flags & 2 != 0,
            own_max_window_bits: self.window(),
            peer_max_window_bits: self.window(),
            threshold: usize::from(flags >> 2),
            ..DeflateConfig::default()
        }
    }

    pub fn head_limits(&mut self) -> HeadLimits {
        let mut limits = HeadLimits::default();
        match self.byte() {
            0 => {}
            choice => {
                limits.bytes = usize::from(choice) * 8;
                limits.headers = usize::from(self.byte() % 32);
            }
        }
        limits
    }

    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// How an input is cut.
#[derive(Clone, Debug)]
pub enum Cuts {
    Everywhere,
    After(Vec<usize>),
}

impl Cuts {
    /// The pieces' lengths. The last piece is whatever is left.
    pub fn lengths(&self, mut left: usize) -> Vec<usize> {
        let mut lengths = match self {
            Self::Everywhere => vec![1; left],
            Self::After(lengths) => lengths.clone(),
        };
        for length in &mut lengths {
            *length = left.min(*length);
            left -= *length;
        }
        lengths.push(left);
        lengths
    }
}

/// Finds a head in bytes that arrive in pieces.
pub fn scan(
    mut scanner: HeadScanner,
    bytes: &[u8],
    cuts: &Cuts,
) -> Result<Option<usize>, HandshakeError> {
    let mut arrived = 0;
    for length in cuts.lengths(bytes.len()) {
        arrived += length;
        match scanner.scan(&bytes[..arrived]) {
            Ok(None) => {}
            found => return found,
        }
    }
    Ok(None)
}

/// Finds a head and checks that neither the cuts nor the limits were missed.
pub fn head(
    scanner: &HeadScanner,
    limits: HeadLimits,
    bytes: &[u8],
    cuts: &Cuts,
) -> Result<Option<usize>, HandshakeError> {
    let found = scan(scanner.clone(), bytes, &Cuts::After(Vec::new()));
    assert_eq!(found, scan(scanner.clone(), bytes, cuts));
    match found {
        Ok(Some(end)) => {
            let head = &bytes[..end];
            let lines = head.split_inclusive(|byte| *byte == b'\n');
            assert!(lines.clone().all(|line| line.ends_with(b"\r\n")));
            let filled = lines.filter(|line| line.len() > 2).count();
            assert!((1..=limits.headers + 1).contains(&filled));
            assert!(head.ends_with(b"\r\n\r\n") && end <= limits.bytes);
        }
        Ok(None) => assert!(bytes.len() < limits.bytes),
        Err(_) => {}
    }
    found
}

/// Checks that a refusal is an HTTP response that a client reads as it was meant.
pub fn check_refusal(refusal: &Refusal) -> Response {
    let bytes = refusal.to_bytes();
    let limits = HeadLimits::default().bytes(usize::MAX);
    let scanner = HeadScanner::response(limits);
    let end = head(&scanner, limits, &bytes, &Cuts::After(Vec::new()))
        .expect("a head")
        .expect("a whole head");
    let (head, body) = bytes.split_at(end);
    let mut response = Response::parse(head).expect("a response");
    assert_eq!(response.status(), refusal.status());
    assert!(response.headers().contains_token("Connection", "close"));
    if matches!(refusal.status(), 204 | 205 | 304) {
        assert_eq!(body, b"");
        return response;
    }
    let length = response.headers().exactly_one("Content-Length");
    assert_eq!(length, Ok(body.len().to_string().as_bytes()));
    assert_eq!(body, refusal.body().as_bytes());
    assert!(!response.set_body(body), "nothing is left to wait for");
    assert_eq!(response.body(), &body[..body.len().min(Response::MAX_BODY)]);
    response
}

/// The same fields as the `http` crate has them; nothing where it cannot.
pub fn http_fields(headers: &sockeye_proto::handshake::Headers) -> Option<http::HeaderMap> {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers.iter() {
        let name = http::HeaderName::from_bytes(name.as_bytes()).ok()?;
        map.append(name, http::HeaderValue::from_bytes(value).ok()?);
    }
    Some(map)
}
