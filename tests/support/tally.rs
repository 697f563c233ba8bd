//! What went through a connection in one direction: how many messages, how many bytes, and which.

use std::{
    fmt,
    hash::{DefaultHasher, Hasher},
    str::FromStr,
};

use sockeye::MessageRef;

/// Messages that were counted, in their order. Two tallies are equal where the messages are: each
/// message goes into the hash with all that came before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub messages: u64,
    /// Their payloads together, in bytes.
    pub bytes: u64,
    hash: u64,
}

impl Tally {
    /// Counts a message.
    pub fn add(&mut self, message: MessageRef<'_>) {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.hash);
        hasher.write_u8(message.is_text().into());
        hasher.write(message.as_bytes());
        self.hash = hasher.finish();
        self.messages += 1;
        self.bytes += message.len() as u64;
    }
}

/// As it travels from one process to the other: three numbers.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            messages,
            bytes,
            hash,
        } = self;
        write!(f, "{messages} {bytes} {hash}")
    }
}

/// One connection, as the server saw it: what it received and what it sent.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// The number in the path that it was opened with.
    pub number: u64,
    /// What was received whole.
    pub received: Tally,
    /// What was handed to the connection to be sent.
    pub sent: Tally,
    /// Whether the closing handshake was completed.
    pub clean: bool,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            received,
            sent,
            clean,
        } = self;
        write!(f, "ended {number} {received} {sent} {clean}")
    }
}

impl FromStr for Record {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let (numbers, clean) = line
            .strip_prefix("ended ")
            .and_then(|rest| rest.rsplit_once(' '))
            .ok_or(())?;
        let numbers: Vec<u64> = numbers
            .split(' ')
            .map(|word| word.parse().map_err(drop))
            .collect::<Result<_, ()>>()?;
        let [number, received @ .., _, _, _] = &numbers[..] else {
            return Err(());
        };
        let tally = |numbers: &[u64]| match *numbers {
            [messages, bytes, hash] => Ok(Tally {
                messages,
                bytes,
                hash,
            }),
            _ => Err(()),
        };
        Ok(Self {
            number: *number,
            received: tally(received)?,
            sent: tally(&numbers[numbers.len() - 3..])?,
            clean: clean.parse().map_err(drop)?,
        })
    }
}
