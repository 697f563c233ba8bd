//! Raw frames for the tests, and endpoints that are given them: valid or not, byte for byte.

use std::time::Duration;

use sockeye_proto::{
    CloseCode, Codecs, Config, Connection, Limits, Message, OwnedEvent, ProtocolError, Role,
};

pub const NOW: Duration = Duration::from_secs(100);
pub const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

pub fn masks() -> [u8; 4] {
    KEY
}

pub const CLIENT: Role = Role::Client { masks };

/// A frame as it stands on the wire, whatever its bits mean.
pub struct Raw {
    pub first: u8,
    pub payload: Vec<u8>,
    pub mask: bool,
}

pub fn frame(first: u8, payload: impl AsRef<[u8]>) -> Raw {
    Raw {
        first,
        payload: payload.as_ref().to_vec(),
        mask: false,
    }
}

impl Raw {
    /// The bytes as the peer of `role` sends them: masked to a server, plain to a client.
    pub fn to(mut self, role: Role) -> Vec<u8> {
        self.mask = matches!(role, Role::Server);
        self.bytes()
    }

    pub fn bytes(self) -> Vec<u8> {
        let bit = if self.mask { 0x80 } else { 0 };
        let mut bytes = vec![self.first];
        match self.payload.len() {
            len @ 0..=125 => bytes.push(bit | len as u8),
            len @ 126..=0xFFFF => {
                bytes.push(bit | 126);
                bytes.extend((len as u16).to_be_bytes());
            }
            len => {
                bytes.push(bit | 127);
                bytes.extend((len as u64).to_be_bytes());
            }
        }
        if self.mask {
            bytes.extend(KEY);
            bytes.extend(
                self.payload
                    .iter()
                    .enumerate()
                    .map(|(i, byte)| byte ^ KEY[i % 4]),
            );
        } else {
            bytes.extend(self.payload);
        }
        bytes
    }
}

pub fn text(text: &str) -> OwnedEvent {
    OwnedEvent::Message(Message::from(text))
}

pub fn binary(bytes: &[u8]) -> OwnedEvent {
    OwnedEvent::Message(Message::from(bytes))
}

/// One end under test: what it made of its input, and what it wrote.
pub struct End {
    pub connection: Connection,
    pub codecs: Codecs,
    pub events: Vec<OwnedEvent>,
    pub error: Option<ProtocolError>,
    pub written: Vec<u8>,
}

impl End {
    pub fn new(role: Role) -> Self {
        Self::with(&Config::new(role))
    }

    pub fn limited(role: Role, limits: Limits) -> Self {
        Self::with(&Config {
            limits,
            ..Config::new(role)
        })
    }

    pub fn with(config: &Config) -> Self {
        Self {
            connection: Connection::new(config),
            codecs: Codecs::new(),
            events: Vec::new(),
            error: None,
            written: Vec::new(),
        }
    }

    /// Gives the end some bytes, and writes what it answers.
    pub fn read(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let mut bytes = bytes.as_ref().to_vec();
        let mut input = &mut bytes[..];
        loop {
            match self.connection.receive(&mut input, NOW, &mut self.codecs) {
                Ok(Some(event)) => self.events.push(event.into_owned()),
                Ok(None) => break,
                Err(error) => self.error = Some(error),
            }
        }
        assert!(input.is_empty(), "a receiver consumes all of its input");
        self.write();
        self
    }

    /// Gives the end some bytes one at a time.
    pub fn read_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        for byte in bytes.as_ref() {
            self.read([*byte]);
        }
        self
    }

    pub fn write(&mut self) {
        self.write_some(usize::MAX);
    }

    /// Writes so many bytes, or all that wait.
    pub fn write_some(&mut self, mut most: usize) {
        let output = self.connection.output();
        while most > 0
            && let Some(chunk) = output.next_chunk()
        {
            let count = chunk.len().min(most);
            self.written.extend_from_slice(&chunk[..count]);
            output.advance(count);
            most -= count;
        }
    }

    /// The code of the Close that the end has written last.
    pub fn close_code(&self) -> Option<CloseCode> {
        let peer = match self.written.get(1)? & 0x80 {
            0 => CLIENT,
            _ => Role::Server,
        };
        let mut peer = End::new(peer);
        peer.read(&self.written);
        match peer.events.last() {
            Some(OwnedEvent::Close(frame)) => frame.as_ref().map(|frame| frame.code),
            _ => None,
        }
    }
}

/// Both roles, for the rules that hold for both.
pub const BOTH: [Role; 2] = [CLIENT, Role::Server];
