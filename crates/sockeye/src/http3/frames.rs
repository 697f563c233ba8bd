//! Frames, and the integers that they begin with (RFC 9114 §7, RFC 9000 §16).

use std::{
    future::{Future, poll_fn},
    mem,
    pin::pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use quinn::{ReadError, RecvStream};

use super::{Code, Fault};

/// How many bytes a frame of a control stream may have that is to be understood. Settings are some ten.
const CONTROL: u64 = 4096;

/// What one call may pass over of frames that nobody knows, before others have a turn.
const TURN: u64 = 64 * 1024;

/// Takes an integer off the beginning of bytes, unless it is not whole.
pub(crate) fn take_integer(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let (own, rest) = bytes.split_at_checked(1 << (first >> 6))?;
    let value = own
        .iter()
        .fold(0, |value, byte| value << 8 | u64::from(*byte));
    *bytes = rest;
    // Without the two bits that say how long it is.
    Some(value & (u64::MAX >> (66 - 8 * own.len())))
}

/// Writes an integer in as few bytes as it takes: below 2^62.
pub(crate) fn put_integer(out: &mut Vec<u8>, value: u64) {
    match value {
        0..=0x3F => out.push(value as u8),
        0x40..=0x3FFF => out.extend((value as u16 | 0x4000).to_be_bytes()),
        0x4000..=0x3FFF_FFFF => out.extend((value as u32 | 0x8000_0000).to_be_bytes()),
        _ => out.extend((value | 0xC000_0000_0000_0000).to_be_bytes()),
    }
}

/// Writes a frame.
pub(crate) fn put_frame(out: &mut Vec<u8>, frame: Frame, payload: &[u8]) {
    put_frame_head(out, frame, payload.len());
    out.extend_from_slice(payload);
}

/// Writes what stands before a payload of so many bytes.
pub(crate) fn put_frame_head(out: &mut Vec<u8>, frame: Frame, len: usize) {
    put_integer(out, frame as u64);
    put_integer(out, len as u64);
}

/// A frame that has a meaning here, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Data = 0x00,
    Headers = 0x01,
    CancelPush = 0x03,
    Settings = 0x04,
    PushPromise = 0x05,
    GoAway = 0x07,
    MaxPushId = 0x0D,
}

impl Frame {
    const ALL: [Self; 7] = [
        Self::Data,
        Self::Headers,
        Self::CancelPush,
        Self::Settings,
        Self::PushPromise,
        Self::GoAway,
        Self::MaxPushId,
    ];

    /// Nothing for one of an extension.
    ///
    /// # Errors
    /// Those of HTTP/2 that have none here (§7.2.8).
    fn of(kind: u64) -> Result<Option<Self>, Fault> {
        if matches!(kind, 0x02 | 0x06 | 0x08 | 0x09) {
            let why = "a frame of a type that is HTTP/2's";
            return Err(Fault::new(Code::FrameUnexpected, why));
        }
        Ok(Self::ALL.into_iter().find(|frame| *frame as u64 == kind))
    }
}

/// What ends the reading of a stream.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The stream, or its connection.
    Ended(ReadError),
    /// The peer has broken a rule.
    Fault(Fault),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A stream that is read as frames. What has come of one is in here, and in no future.
pub(crate) struct Frames {
    /// Nothing once it is taken out.
    receive: Option<RecvStream>,
    /// What has come and was not looked at.
    unread: Bytes,
    /// What has come of an integer, or of the two that a frame begins with.
    head: [u8; 16],
    head_len: usize,
    /// How much of the frame is to come.
    left: u64,
    /// Whether that is passed over, as nobody knows the frame.
    is_passed: bool,
}

impl Frames {
    pub(crate) fn new(receive: RecvStream) -> Self {
        Self {
            receive: Some(receive),
            unread: Bytes::new(),
            head: [0; 16],
            head_len: 0,
            left: 0,
            is_passed: false,
        }
    }

    /// Has the peer send no more of it.
    pub(crate) fn stop(&mut self, code: Code) {
        if let Some(receive) = &mut self.receive {
            // Refused where it has ended.
            let _ = receive.stop(code.into());
        }
    }

    /// What the peer still says, for whoever wants to know no more than its end.
    pub(crate) fn take_out(&mut self) -> Option<RecvStream> {
        self.receive.take()
    }

    /// Waits until something is unread, or tells that nothing will be.
    fn poll_some(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Trouble>> {
        while self.unread.is_empty() {
            let Some(receive) = &mut self.receive else {
                return Poll::Ready(Ok(false));
            };
            let chunk = pin!(receive.read_chunk(usize::MAX, true));
            match ready!(chunk.poll(cx)).map_err(Trouble::Ended)? {
                Some(chunk) => self.unread = chunk.bytes,
                None => return Poll::Ready(Ok(false)),
            }
        }
        Poll::Ready(Ok(true))
    }

    /// So many integers one after another; nothing at the end of the stream, where none has begun.
    fn poll_integers<const N: usize>(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<[u64; N]>, Trouble>> {
        loop {
            let mut head = &self.head[..self.head_len];
            let mut taken = [0; N];
            let is_whole = taken.iter_mut().all(|integer| {
                let next = take_integer(&mut head);
                *integer = next.unwrap_or(0);
                next.is_some()
            });
            if is_whole {
                self.head_len = 0;
                return Poll::Ready(Ok(Some(taken)));
            }
            if !ready!(self.poll_some(cx))? {
                return Poll::Ready(match self.head_len {
                    0 => Ok(None),
                    _ => Err(CUT_SHORT.into()),
                });
            }
            // Two integers have 16 bytes at most.
            self.head[self.head_len] = self.unread.get_u8();
            self.head_len += 1;
        }
    }

    /// The integer that a stream of one direction begins with (§6.2).
    pub(crate) async fn kind(&mut self) -> Result<Option<u64>, Trouble> {
        let kind = poll_fn(|cx| self.poll_integers(cx)).await?;
        Ok(kind.map(|[kind]| kind))
    }

    /// One byte of a stream that has no frames.
    pub(crate) async fn byte(&mut self) -> Result<Option<u8>, Trouble> {
        let some = poll_fn(|cx| self.poll_some(cx)).await?;
        Ok(some.then(|| self.unread.get_u8()))
    }

    /// The next frame that is known, whose payload is then to be read; nothing at the end of the stream. Others are passed
    /// over (§9).
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame>, Trouble>> {
        let mut passed = 0;
        loop {
            while self.left > 0 {
                if passed >= TURN {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                passed += ready!(self.poll_payload(cx, usize::MAX))?.len() as u64;
            }
            let Some([kind, len]) = ready!(self.poll_integers(cx))? else {
                return Poll::Ready(Ok(None));
            };
            passed += 2;
            let frame = Frame::of(kind)?;
            (self.left, self.is_passed) = (len, frame.is_none());
            if frame.is_some() {
                return Poll::Ready(Ok(frame));
            }
        }
    }

    /// The frame that a stream begins with, where that is one that is known.
    pub(crate) async fn first_frame(&mut self) -> Result<Option<Frame>, Trouble> {
        let Some([kind, len]) = poll_fn(|cx| self.poll_integers(cx)).await? else {
            return Ok(None);
        };
        self.left = len;
        Ok(Frame::of(kind)?)
    }

    pub(crate) async fn frame(&mut self) -> Result<Option<Frame>, Trouble> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    /// Whether all of the frame has been read.
    pub(crate) fn is_at_end_of_frame(&self) -> bool {
        self.left == 0 || self.is_passed
    }

    /// How much of the frame is to be read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// Some more of the frame, up to so much. Nothing at its end.
    pub(crate) fn poll_payload(
        &mut self,
        cx: &mut Context<'_>,
        most: usize,
    ) -> Poll<Result<Bytes, Trouble>> {
        if self.left == 0 {
            return Poll::Ready(Ok(Bytes::new()));
        }
        if !ready!(self.poll_some(cx))? {
            return Poll::Ready(Err(CUT_SHORT.into()));
        }
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let count = self.unread.len().min(left).min(most);
        self.left -= count as u64;
        Poll::Ready(Ok(match count == self.unread.len() {
            true => mem::take(&mut self.unread),
            false => self.unread.split_to(count),
        }))
    }

    /// The whole payload, which the caller has found to be short enough. Dropping the future loses it.
    pub(crate) async fn payload(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut payload = Vec::new();
        while self.left > 0 {
            payload.extend(poll_fn(|cx| self.poll_payload(cx, usize::MAX)).await?);
        }
        Ok(payload)
    }

    /// The whole payload of a frame of a control stream.
    pub(crate) async fn control(&mut self) -> Result<Vec<u8>, Trouble> {
        if self.left > CONTROL {
            let why = "a frame of a control stream with more than 4,096 bytes";
            return Err(Fault::new(Code::ExcessiveLoad, why).into());
        }
        self.payload().await
    }
}

/// §7.1.
const CUT_SHORT: Fault = Fault::new(Code::FrameError, "a stream ended in the middle of a frame");

/// What an end says of itself (§7.2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// How large a section of fields may be (§4.2.2).
    pub(crate) field_section: Option<u64>,
    /// Whether it opens WebSockets (RFC 9220 §3).
    pub(crate) extended_connect: bool,
}

impl Settings {
    const FIELD_SECTION: u64 = 0x06;
    const EXTENDED_CONNECT: u64 = 0x08;

    /// The payload of the frame.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(most) = self.field_section {
            put_integer(&mut bytes, Self::FIELD_SECTION);
            put_integer(&mut bytes, most);
        }
        if self.extended_connect {
            put_integer(&mut bytes, Self::EXTENDED_CONNECT);
            put_integer(&mut bytes, 1);
        }
        bytes
    }

    /// Reads the payload of the frame.
    ///
    /// # Errors
    /// What is no setting, one of HTTP/2's, one that is given twice, and one that has no such value.
    pub(crate) fn read(mut payload: &[u8]) -> Result<Self, Fault> {
        let mut settings = Self::default();
        let mut seen = Vec::new();
        while !payload.is_empty() {
            let setting = take_integer(&mut payload).zip(take_integer(&mut payload));
            let Some((name, value)) = setting else {
                return Err(Fault::new(Code::FrameError, "a setting is cut short"));
            };
            if seen.contains(&name) {
                return Err(Fault::new(Code::SettingsError, "a setting is given twice"));
            }
            seen.push(name);
            match (name, value) {
                (0x00 | 0x02..=0x05, _) => {
                    return Err(Fault::new(
                        Code::SettingsError,
                        "a setting that is HTTP/2's",
                    ));
                }
                (Self::FIELD_SECTION, most) => settings.field_section = Some(most),
                (Self::EXTENDED_CONNECT, 0 | 1) => settings.extended_connect = value == 1,
                (Self::EXTENDED_CONNECT, _) => {
                    let why = "SETTINGS_ENABLE_CONNECT_PROTOCOL is neither 0 nor 1";
                    return Err(Fault::new(Code::SettingsError, why));
                }
                // QPACK's have no use here, as there is no dynamic table, and no one else's are known.
                _ => {}
            }
        }
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000 §A.1.
    #[test]
    fn integers_are_read_and_written() {
        for (bytes, value) in [
            (
                &b"\xc2\x19\x7c\x5e\xff\x14\xe8\x8c"[..],
                151_288_809_941_952_652,
            ),
            (b"\x9d\x7f\x3e\x7d", 494_878_333),
            (b"\x7b\xbd", 15_293),
            (b"\x25", 37),
        ] {
            let mut rest = bytes;
            assert_eq!(take_integer(&mut rest), Some(value));
            assert!(rest.is_empty());
            let mut written = Vec::new();
            put_integer(&mut written, value);
            assert_eq!(written, bytes);
            for cut in 0..bytes.len() {
                let mut short = &bytes[..cut];
                assert_eq!(take_integer(&mut short), None, "{cut} of {bytes:?}");
                assert_eq!(short.len(), cut);
            }
        }
        // Longer than it has to be.
        assert_eq!(take_integer(&mut &b"\x40\x25"[..]), Some(37));
        for edge in [
            0,
            0x3F,
            0x40,
            0x3FFF,
            0x4000,
            0x3FFF_FFFF,
            0x4000_0000,
            (1 << 62) - 1,
        ] {
            let mut written = Vec::new();
            put_integer(&mut written, edge);
            assert_eq!(take_integer(&mut &written[..]), Some(edge));
        }
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        for extended_connect in [false, true] {
            for field_section in [None, Some(0), Some(1 << 20)] {
                let settings = Settings {
                    field_section,
                    extended_connect,
                };
                assert_eq!(Settings::read(&settings.to_bytes()), Ok(settings));
            }
        }
    }

    /// §7.2.4 and §7.2.4.1.
    #[test]
    fn settings_that_may_not_be_are_refused() {
        let code = |payload: &[u8]| Settings::read(payload).map_err(|fault| fault.code);
        // QPACK's, and one that only greases.
        let others = b"\x01\x00\x07\x00\x61\x02\x05";
        assert!(code(others).is_ok());
        for (payload, refused) in [
            (&b"\x08"[..], Code::FrameError),
            (b"\x08\x40", Code::FrameError),
            (b"\x08\x01\x08\x01", Code::SettingsError),
            (b"\x08\x02", Code::SettingsError),
            (b"\x00\x01", Code::SettingsError),
            (b"\x02\x01", Code::SettingsError),
            (b"\x03\x01", Code::SettingsError),
            (b"\x04\x01", Code::SettingsError),
            (b"\x05\x01", Code::SettingsError),
        ] {
            assert_eq!(code(payload), Err(refused), "{payload:?}");
        }
    }
}
