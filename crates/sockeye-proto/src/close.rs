//! Close codes and the payload of a Close frame (RFC 6455 §7.4 and the IANA registry).

use alloc::{string::String, vec::Vec};
use core::fmt;

use crate::{OpCode, ProtocolError, SendError, Shown};

/// A status code that may travel in a Close frame (RFC 6455 §7.4).
///
/// The codes that only a local endpoint may report (1005 no status received, 1006 abnormal
/// closure, 1015 TLS handshake), the reserved 1004 and everything unassigned cannot be built.
///
/// ```
/// use sockeye_proto::CloseCode;
/// assert_eq!(CloseCode::new(1000), Ok(CloseCode::NORMAL));
/// assert!(CloseCode::new(1006).is_err());
/// assert!(CloseCode::new(4321).is_ok());
/// ```
///
/// The codes 4000 to 4999 are the application's own. Where a function returns this crate's errors, or
/// those of `sockeye`, `CloseCode::new(4001)?` makes one; a constant is made when the program is compiled:
///
/// ```
/// use sockeye_proto::CloseCode;
/// const KICKED: CloseCode = match CloseCode::new(4001) {
///     Ok(code) => code,
///     Err(_) => panic!("not to be sent"),
/// };
/// assert_eq!(KICKED.as_u16(), 4001);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CloseCode(u16);

impl CloseCode {
    /// 1000: the purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// 1001: a server going down, or a browser leaving the page.
    pub const GOING_AWAY: Self = Self(1001);
    /// 1002: the peer broke the protocol.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// 1003: a kind of data the endpoint cannot accept.
    pub const UNSUPPORTED_DATA: Self = Self(1003);
    /// 1007: data inconsistent with the message's kind, such as text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// 1008: a message that violates the endpoint's policy.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// 1009: a message too big to process.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// 1010: the server did not agree to an extension that the client needs. Sent by clients only.
    pub const MANDATORY_EXTENSION: Self = Self(1010);
    /// 1011: an unexpected condition kept the server from fulfilling the request.
    pub const INTERNAL_ERROR: Self = Self(1011);
    /// 1012: the service is restarting.
    pub const SERVICE_RESTART: Self = Self(1012);
    /// 1013: overloaded; try again later.
    pub const TRY_AGAIN_LATER: Self = Self(1013);
    /// 1014: a gateway received an invalid response from upstream.
    pub const BAD_GATEWAY: Self = Self(1014);
    /// 3000: the client is not authorized.
    pub const UNAUTHORIZED: Self = Self(3000);
    /// 3003: the client is known and not permitted.
    pub const FORBIDDEN: Self = Self(3003);
    /// 3008: the peer took too long.
    pub const TIMEOUT: Self = Self(3008);

    /// Makes a code that may travel in a Close frame.
    ///
    /// # Errors
    /// [`InvalidCloseCode`] for anything outside 1000-1003, 1007-1014 and 3000-4999.
    pub const fn new(code: u16) -> Result<Self, InvalidCloseCode> {
        match code {
            1000..=1003 | 1007..=1014 | 3000..=4999 => Ok(Self(code)),
            _ => Err(InvalidCloseCode(code)),
        }
    }

    /// The number on the wire.
    pub const fn as_u16(self) -> u16 {
        self.0
    }

    /// The name in the IANA registry, or the range the code belongs to.
    pub const fn name(self) -> &'static str {
        match self.0 {
            1000 => "normal closure",
            1001 => "going away",
            1002 => "protocol error",
            1003 => "unsupported data",
            1007 => "invalid frame payload data",
            1008 => "policy violation",
            1009 => "message too big",
            1010 => "mandatory extension",
            1011 => "internal error",
            1012 => "service restart",
            1013 => "try again later",
            1014 => "bad gateway",
            3000 => "unauthorized",
            3003 => "forbidden",
            3008 => "timeout",
            3001..=3999 => "registered",
            _ => "private use",
        }
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.name())
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<u16> for CloseCode {
    type Error = InvalidCloseCode;
    fn try_from(code: u16) -> Result<Self, InvalidCloseCode> {
        Self::new(code)
    }
}

impl From<CloseCode> for u16 {
    fn from(code: CloseCode) -> u16 {
        code.0
    }
}

/// A number that may not travel in a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidCloseCode(pub u16);

impl fmt::Display for InvalidCloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match self.0 {
            1004 => "it is reserved",
            1005 | 1006 | 1015 => "it is for local use only",
            0..=999 => "codes start at 1000",
            1016..=2999 => "it is not registered",
            _ => "codes end at 4999",
        };
        write!(f, "close code {} may not be sent: {why}", self.0)
    }
}

impl core::error::Error for InvalidCloseCode {}

/// What a Close frame says: a code and a reason of at most 123 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseFrame {
    /// Why the connection is closed.
    pub code: CloseCode,
    /// For people; empty where none was given. At most [`CloseFrame::MAX_REASON`] bytes travel.
    pub reason: String,
}

impl CloseFrame {
    /// The most bytes a reason may have, 123: of what a control frame carries, the code takes two (§5.5.1).
    pub const MAX_REASON: usize = OpCode::MAX_CONTROL - 2;

    /// What says this code and this reason, which is empty where there is none.
    pub fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.into(),
        }
    }

    /// Whether it may be sent, by a client or by a server.
    ///
    /// # Errors
    /// [`SendError::ReasonTooLong`], and [`SendError::CodeNotForRole`] for 1010 from a server (§7.4.1).
    pub fn check(&self, by_client: bool) -> Result<(), SendError> {
        if self.reason.len() > Self::MAX_REASON {
            return Err(SendError::ReasonTooLong {
                len: self.reason.len(),
            });
        }
        if self.code == CloseCode::MANDATORY_EXTENSION && !by_client {
            return Err(SendError::CodeNotForRole(self.code));
        }
        Ok(())
    }

    /// Reads the payload of a Close frame (§5.5.1); an empty one says nothing.
    ///
    /// # Errors
    /// A payload of one byte, a code that may not be sent, a reason that is not UTF-8.
    pub fn parse(payload: &[u8]) -> Result<Option<Self>, ProtocolError> {
        let (code, reason) = match payload {
            [] => return Ok(None),
            [_] => return Err(ProtocolError::CloseOneByte),
            [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
        };
        let code = CloseCode::new(code).map_err(|_| ProtocolError::CloseCode(code))?;
        let reason =
            simdutf8::basic::from_utf8(reason).map_err(|_| ProtocolError::CloseReasonUtf8)?;
        Ok(Some(Self::new(code, reason)))
    }

    /// The payload of a Close frame that says this.
    pub(crate) fn to_payload(&self) -> Vec<u8> {
        let code = self.code.as_u16().to_be_bytes();
        [&code, self.reason.as_bytes()].concat()
    }
}

impl fmt::Display for CloseFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{}", self.code)
        } else {
            write!(f, "{}: {}", self.code, Shown(&self.reason))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn section_7_4_every_code_is_sorted() {
        for code in 0..=u16::MAX {
            let may_be_sent = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
            assert_eq!(CloseCode::new(code).is_ok(), may_be_sent, "{code}");
        }
    }

    #[test]
    fn section_7_4_1_a_local_code_says_why_it_may_not_be_sent() {
        let why = CloseCode::new(1006).unwrap_err().to_string();
        assert_eq!(
            why,
            "close code 1006 may not be sent: it is for local use only"
        );
    }

    #[test]
    fn section_5_5_1_payloads() {
        assert_eq!(CloseFrame::parse(&[]), Ok(None));
        assert_eq!(CloseFrame::parse(&[3]), Err(ProtocolError::CloseOneByte));
        assert_eq!(
            CloseFrame::parse(&[3, 0xED]),
            Err(ProtocolError::CloseCode(1005))
        );
        assert_eq!(
            CloseFrame::parse(b"\x03\xE8\xFF"),
            Err(ProtocolError::CloseReasonUtf8)
        );
        let frame = CloseFrame::parse(b"\x03\xE8bye").unwrap().unwrap();
        assert_eq!(
            (frame.code, frame.reason.as_str()),
            (CloseCode::NORMAL, "bye")
        );
    }
}
