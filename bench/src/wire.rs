//! What goes over the wire: the opening handshake, and masked frames built once (RFC 6455 §5.2).

use std::io::{self, Read, Write};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// One kind of traffic: the messages that a client sends in turn, and what comes back for each.
pub struct Traffic {
    /// Masked frames, as they are sent. All of them have the same length unless compressed.
    pub frames: Vec<Vec<u8>>,
    payload: Vec<Vec<u8>>,
    text: bool,
    pub kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A WebSocket.
    Plain,
    /// A WebSocket with permessage-deflate in both directions, without context takeover.
    Deflate,
    /// No handshake: the bytes of the frames come back as they were sent.
    Raw,
}

/// The level that the client's messages are compressed with, whatever the server does.
const CLIENT_LEVEL: u32 = 6;

impl Traffic {
    pub fn new(kind: Kind, size: usize, text: bool) -> Self {
        let payload = match kind {
            Kind::Deflate => (0..16).map(|n| json(n, size)).collect(),
            _ => vec![ascii(size)],
        };
        let frames = payload
            .iter()
            .map(|payload| match kind {
                Kind::Deflate => frame(text, true, &deflate(payload)),
                _ => frame(text, false, payload),
            })
            .collect();
        Self {
            frames,
            payload,
            text,
            kind,
        }
    }

    /// A message for everyone. The floor is sent what the others send out for it.
    pub fn broadcast(kind: Kind, size: usize, compressed: bool) -> Self {
        let payload = ticks(size);
        let body = match compressed {
            true => deflate(&payload),
            false => payload.clone(),
        };
        let frames = match kind {
            Kind::Raw => vec![[header(true, compressed, body.len(), false), body].concat()],
            _ => vec![frame(true, compressed, &body)],
        };
        Self {
            frames,
            payload: vec![payload],
            text: true,
            kind,
        }
    }

    /// How many bytes come back for a message; of compressed ones only the server knows.
    pub fn echo_len(&self) -> Option<usize> {
        match self.kind {
            Kind::Plain => Some(
                header(self.text, false, self.payload[0].len(), false).len()
                    + self.payload[0].len(),
            ),
            Kind::Raw => Some(self.frames[0].len()),
            Kind::Deflate => None,
        }
    }

    /// Opens a WebSocket, unless the traffic is raw.
    pub fn open(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        if self.kind == Kind::Raw {
            return Ok(());
        }
        self.request(stream)?;
        self.response(stream)
    }

    pub fn request(&self, stream: &mut impl Write) -> io::Result<()> {
        let offer = match self.kind {
            Kind::Deflate => {
                "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
            }
            _ => "",
        };
        // The key is the standard's own (§1.3).
        let request = format!(
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{offer}\r\n"
        );
        stream.write_all(request.as_bytes())
    }

    pub fn response(&self, stream: &mut impl Read) -> io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        // Byte by byte, so that nothing behind the head is taken.
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8_lossy(&head);
        if !head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") {
            return Err(io::Error::other(format!("no WebSocket: {head}")));
        }
        if (self.kind == Kind::Deflate) != head.contains("permessage-deflate") {
            return Err(io::Error::other(format!(
                "not the compression that was asked for: {head}"
            )));
        }
        Ok(())
    }

    /// Sends the first message and compares what comes back with it, byte for byte.
    pub fn check_echo(&self, stream: &mut (impl Read + Write)) -> io::Result<()> {
        stream.write_all(&self.frames[0])?;
        self.check_delivery(stream)
    }

    /// Compares what comes with the first message, byte for byte.
    pub fn check_delivery(&self, stream: &mut impl Read) -> io::Result<()> {
        if let Some(len) = self.echo_len() {
            let mut echo = vec![0; len];
            stream.read_exact(&mut echo)?;
            let expected = match self.kind {
                Kind::Raw => self.frames[0].clone(),
                _ => [
                    header(self.text, false, self.payload[0].len(), false),
                    self.payload[0].clone(),
                ]
                .concat(),
            };
            return same(&echo, &expected);
        }
        let mut start = [0; 2];
        stream.read_exact(&mut start)?;
        let len = match start[1] {
            126 => {
                let mut len = [0; 2];
                stream.read_exact(&mut len)?;
                usize::from(u16::from_be_bytes(len))
            }
            len => usize::from(len),
        };
        let mut body = vec![0; len];
        stream.read_exact(&mut body)?;
        if start[0] != 0xC1 {
            return Err(io::Error::other(format!(
                "{:#x} does not begin a compressed text",
                start[0]
            )));
        }
        same(&inflate(&body), &self.payload[0])
    }
}

fn same(echo: &[u8], expected: &[u8]) -> io::Result<()> {
    match echo == expected {
        true => Ok(()),
        false => Err(io::Error::other("the first echo is not what was sent")),
    }
}

/// Counts the messages in a stream of unmasked frames, cut anywhere, by their headers.
#[derive(Default)]
pub struct Counter {
    header: [u8; 10],
    have: usize,
    skip: u64,
}

impl Counter {
    /// How many messages end within `bytes`.
    pub fn count(&mut self, mut bytes: &[u8]) -> usize {
        let mut messages = 0;
        loop {
            if self.skip > 0 {
                let take = self.skip.min(bytes.len() as u64);
                bytes = &bytes[take as usize..];
                self.skip -= take;
                if self.skip > 0 {
                    return messages;
                }
                messages += 1;
            }
            let need = match (self.have, self.header[1]) {
                (0 | 1, _) => 2,
                (_, 126) => 4,
                (_, 127) => 10,
                _ => 2,
            };
            if self.have < need {
                let Some((&byte, rest)) = bytes.split_first() else {
                    return messages;
                };
                self.header[self.have] = byte;
                self.have += 1;
                bytes = rest;
                continue;
            }
            let header = self.header;
            self.skip = match header[1] {
                126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
                127 => u64::from_be_bytes(header[2..].try_into().expect("eight bytes")),
                len => u64::from(len),
            };
            assert!(self.skip > 0, "an empty message was never sent");
            self.have = 0;
        }
    }
}

fn header(text: bool, rsv1: bool, len: usize, masked: bool) -> Vec<u8> {
    let mut header = vec![0x80 | u8::from(rsv1) << 6 | if text { 1 } else { 2 }];
    let mask = u8::from(masked) << 7;
    match len {
        0..=125 => header.push(mask | len as u8),
        126..=0xFFFF => {
            header.push(mask | 126);
            header.extend((len as u16).to_be_bytes());
        }
        _ => {
            header.push(mask | 127);
            header.extend((len as u64).to_be_bytes());
        }
    }
    header
}

fn frame(text: bool, rsv1: bool, payload: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
    let mut frame = header(text, rsv1, payload.len(), true);
    frame.extend(KEY);
    frame.extend(
        payload
            .iter()
            .zip(KEY.iter().cycle())
            .map(|(byte, key)| byte ^ key),
    );
    frame
}

fn ascii(size: usize) -> Vec<u8> {
    (0..size).map(|n| b'a' + (n * 7 % 26) as u8).collect()
}

/// A message as services send them: an array of records, cut to the size.
fn json(seed: usize, size: usize) -> Vec<u8> {
    let mut text = String::from("[");
    for n in 0.. {
        let id = (seed * 7919 + n * 104_729) % 1_000_003;
        text += &format!(
            "{{\"id\":{id},\"symbol\":\"{}\",\"price\":{}.{:02},\"volume\":{},\"side\":\"{}\",\"time\":17638{:08}}},",
            ["EURUSD", "BTCUSD", "XAUUSD", "USDJPY"][id % 4],
            id % 997,
            id % 100,
            id % 5003,
            ["buy", "sell"][id % 2],
            id * 31 % 100_000_000,
        );
        if text.len() >= size {
            break;
        }
    }
    text.truncate(size);
    text.into_bytes()
}

/// A message as those who publish prices send it: short records that are much alike.
fn ticks(size: usize) -> Vec<u8> {
    let mut text = String::from("[");
    for n in 0..size {
        text += &format!("{{\"pair\":\"EURUSD\",\"bid\":1.08{}}},", n % 10);
    }
    text.truncate(size);
    text.into_bytes()
}

fn deflate(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 64);
    Compress::new(Compression::new(CLIENT_LEVEL), false)
        .compress_vec(payload, &mut out, FlushCompress::Sync)
        .expect("memory suffices");
    assert!(out.ends_with(&[0, 0, 0xFF, 0xFF]));
    out.truncate(out.len() - 4);
    out
}

fn inflate(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    let body = [body, &[0, 0, 0xFF, 0xFF]].concat();
    let _ = Decompress::new(false).decompress_vec(&body, &mut out, FlushDecompress::Sync);
    out
}
