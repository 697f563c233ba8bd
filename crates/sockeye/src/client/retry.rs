//! Whether another attempt is worth it, and when to make it: exponential backoff with full jitter,
//! and what a server asks for in `Retry-After` (RFC 9110 §10.2.3).

use std::{
    fmt, io,
    time::{Duration, SystemTime},
};

use sockeye_proto::handshake::{HandshakeError, Response};

use super::ProxyError;
use crate::{Ended, Error, entropy};

/// Why there is no connection.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// An attempt to open one failed.
    Attempt(Error),
    /// The one that was open has ended.
    Connection(Ended),
}

impl Cause {
    /// Whether the same may go better another time. What does not need someone to change something
    /// first:
    ///
    /// - the name, the address, the network or the way of a proxy to the server failed; a deadline
    ///   passed; the connection broke off or was closed within a message, the server fell silent, or more
    ///   waited for it than the [output limit](super::Client::output_limit)
    /// - the server, or the proxy, answered 408, 425, 429 or 5xx
    /// - the server closed with 1001, 1011, 1012, 1013, 1014 or 3008
    ///
    /// All else does: any other answer than 101 (401, 403, 404 ...), a broken rule, a certificate that is
    /// not trusted, a URL or a header that cannot be used, an error of the user's own, and any other
    /// close code. So does a Close of this end, answered or not. 1000 and none at all say that the server is
    /// done; 1002, 1003, 1007, 1008, 1009 and 1010 that it would refuse the same again; what an application
    /// means by 3000 to 4999 only the application knows.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Attempt(error) => is_transient(error),
            Self::Connection(ended) => match ended {
                Ended::ByPeer(Some(frame)) => {
                    matches!(frame.code.as_u16(), 1001 | 1011..=1014 | 3008)
                }
                Ended::Lost(_) | Ended::Silent | Ended::Overflow { .. } => true,
                Ended::ByPeer(None) | Ended::ByUs(_) | Ended::Protocol(_) | Ended::TimedOut => {
                    false
                }
            },
        }
    }

    /// The error that this is; none where a connection was closed cleanly.
    pub(super) fn into_error(self) -> Option<Error> {
        match self {
            Self::Attempt(error) => Some(error),
            Self::Connection(ended) => ended.error(),
        }
    }

    /// How long the server, or the proxy on the way, asks to be left alone.
    fn retry_after(&self) -> Option<Duration> {
        let Self::Attempt(error) = self else {
            return None;
        };
        let response = match error.cause() {
            Error::Proxy { source, .. } => match &**source {
                ProxyError::Status { response, .. } => Some(&**response),
                _ => None,
            },
            error => error.response(),
        };
        retry_after(response?, SystemTime::now())
    }
}

/// One line, as of the error or the end that it is.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt(error) => error.fmt(f),
            Self::Connection(ended) => ended.fmt(f),
        }
    }
}

fn is_transient(error: &Error) -> bool {
    let passes = |status| matches!(status, 408 | 425 | 429 | 500..=599);
    match error {
        Error::Resolve { .. } | Error::Connect { .. } | Error::Timeout(_) | Error::Lost(_) => true,
        // A name may get such an address, and this machine another.
        Error::Family { .. } | Error::Local { .. } => true,
        Error::Overflow { .. } | Error::Incomplete => true,
        // What rustls refuses it will refuse again; it comes as invalid data.
        Error::Tls { source, .. } => {
            source
                .downcast_ref::<io::Error>()
                .is_some_and(|error| match error.kind() {
                    io::ErrorKind::InvalidData => is_internal_error(error),
                    _ => true,
                })
        }
        Error::Handshake(HandshakeError::Status(response)) => passes(response.status()),
        Error::Handshake(error) => matches!(error, HandshakeError::UnexpectedEnd),
        Error::Proxy { source, .. } => match &**source {
            ProxyError::Unreachable(error) => is_transient(error),
            ProxyError::TimedOut => true,
            ProxyError::Status { response, .. } => passes(response.status()),
            ProxyError::Http(error) => matches!(error, HandshakeError::UnexpectedEnd),
            // A failure, an unreachable network or host, a refusal, too long a way (RFC 1928 §6).
            ProxyError::Socks { reply, .. } => matches!(reply, 1 | 3..=6),
            ProxyError::Credentials { .. } | ProxyError::Malformed(_) => false,
        },
        Error::Open { source, .. } => is_transient(source),
        Error::Unreadable { .. } | Error::Answer { .. } | Error::Redirect { .. } => false,
        // The connection was closed under what the user did first on it.
        Error::Send(_) => error.is_closed(),
        Error::Url(_) | Error::Listen { .. } | Error::Protocol(_) | Error::Random(_) => false,
        Error::Full { .. } | Error::Join(_) | Error::Setup(_) => false,
        // A stream of the user's own says so when it does not open.
        Error::Other(source) => source
            .downcast_ref::<io::Error>()
            .is_some_and(|error| is_of_networks(error.kind())),
        // A server's own.
        #[cfg(feature = "server")]
        Error::Limit { .. } | Error::ProxyHeader(_) | Error::Accept(_) => false,
    }
}

/// Whether it is what a connection fails with, and no file.
fn is_of_networks(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset,
        HostUnreachable, NetworkDown, NetworkUnreachable, NotConnected, TimedOut, UnexpectedEof,
        WriteZero,
    };
    matches!(
        kind,
        AddrNotAvailable
            | BrokenPipe
            | ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | NotConnected
            | TimedOut
            | UnexpectedEof
            | WriteZero
    )
}

/// Whether the server says that something has failed in it which has to do with nobody else (RFC 8446 §6.2).
#[cfg(feature = "tls")]
fn is_internal_error(error: &io::Error) -> bool {
    let received = rustls::Error::AlertReceived(rustls::AlertDescription::InternalError);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner == Some(&received)
}

#[cfg(not(feature = "tls"))]
fn is_internal_error(_: &io::Error) -> bool {
    false
}

/// A number of seconds, or a date in any of the three forms of HTTP.
fn retry_after(response: &Response, now: SystemTime) -> Option<Duration> {
    let value = response.headers().first_str("Retry-After")?.trim();
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// When attempts follow each other, and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    pub(super) base_delay: Duration,
    pub(super) max_delay: Duration,
    pub(super) max_attempts: Option<u32>,
    pub(super) max_retry_after: Duration,
    pub(super) settled_after: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(30),
            max_attempts: None,
            max_retry_after: Duration::from_secs(300),
            settled_after: Duration::from_secs(10),
        }
    }
}

impl Schedule {
    /// The longest delay after so many attempts in a row: the base, doubled with each after the
    /// first.
    fn ceiling(&self, attempts: u32) -> Duration {
        let factor = 2_u32.saturating_pow(attempts.saturating_sub(1));
        self.base_delay.saturating_mul(factor).min(self.max_delay)
    }

    /// How long to wait after so many attempts in a row.
    ///
    /// Full jitter: anything from nothing to the ceiling, so that all who lost the same server do
    /// not come back together. What the server asks for is waited for first, and the jitter added,
    /// since it asks everyone for the same.
    pub(super) fn delay(&self, attempts: u32, cause: &Cause) -> Duration {
        let asked = cause
            .retry_after()
            .unwrap_or_default()
            .min(self.max_retry_after);
        let jitter = self.ceiling(attempts).mul_f64(entropy::fraction());
        asked.saturating_add(jitter)
    }
}

#[cfg(test)]
mod tests {
    use sockeye_proto::{CloseCode, CloseFrame, ProtocolError};

    use super::*;
    use crate::Deadline;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(base_delay: Duration, max_delay: Duration) -> Schedule {
        Schedule {
            base_delay,
            max_delay,
            ..Schedule::default()
        }
    }

    fn answer(status: u16, headers: &str) -> Cause {
        let head = format!("HTTP/1.1 {status} Words\r\n{headers}\r\n");
        let response = Response::parse(head.as_bytes()).unwrap();
        Cause::Attempt(HandshakeError::Status(Box::new(response)).into())
    }

    fn closed(code: u16) -> Cause {
        Cause::Connection(Ended::ByPeer(Some(CloseFrame::new(
            CloseCode::new(code).unwrap(),
            "",
        ))))
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let schedule = schedule(SECOND, 20 * SECOND);
        let ceilings: Vec<u64> = (0..8).map(|n| schedule.ceiling(n).as_secs()).collect();
        assert_eq!(ceilings, [1, 1, 2, 4, 8, 16, 20, 20]);
        assert_eq!(schedule.ceiling(u32::MAX), 20 * SECOND);
        let huge = self::schedule(Duration::MAX, Duration::MAX);
        assert_eq!(huge.ceiling(9), Duration::MAX);
    }

    #[test]
    fn jitter_is_full() {
        let schedule = schedule(SECOND, 8 * SECOND);
        let lost = Cause::Connection(Ended::gone());
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let delay = schedule.delay(9, &lost);
            assert!(delay < 8 * SECOND);
            tenths[(delay.as_secs_f64() / 0.8) as usize] += 1;
        }
        // A hundred each; forty is six deviations off.
        assert!(tenths.iter().all(|&count| count > 40), "{tenths:?}");
    }

    #[test]
    fn what_is_tried_again() {
        for status in [408, 425, 429, 500, 502, 503, 504, 599] {
            assert!(answer(status, "").is_transient(), "{status}");
        }
        for status in [200, 301, 400, 401, 403, 404, 407, 410, 426] {
            assert!(!answer(status, "").is_transient(), "{status}");
        }
        for code in [1001, 1011, 1012, 1013, 1014, 3008] {
            assert!(closed(code).is_transient(), "{code}");
        }
        for code in [
            1000, 1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003, 4000, 4999,
        ] {
            assert!(!closed(code).is_transient(), "{code}");
        }
        let transient: [Error; 6] = [
            Error::lost(io::ErrorKind::ConnectionReset.into()),
            io::Error::from(io::ErrorKind::ConnectionRefused).into(),
            Error::other(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Error::Timeout(Deadline::Handshake),
            HandshakeError::UnexpectedEnd.into(),
            Error::Send(crate::SendError::Closed),
        ];
        for error in transient {
            assert!(Cause::Attempt(error.clone()).is_transient(), "{error}");
        }
        let lasting: [Error; 8] = [
            Error::Url("no URL".into()),
            HandshakeError::Accept.into(),
            ProtocolError::Masked.into(),
            crate::SendError::ControlTooLong { len: 126 }.into(),
            Error::other("the user's own"),
            io::Error::from(io::ErrorKind::NotFound).into(),
            io::Error::from(io::ErrorKind::PermissionDenied).into(),
            io::Error::other("the user's own").into(),
        ];
        for error in lasting {
            assert!(!Cause::Attempt(error.clone()).is_transient(), "{error}");
        }
        assert!(Cause::Connection(Ended::gone()).is_transient());
        assert!(!Cause::Connection(Ended::ByPeer(None)).is_transient());
        assert!(!Cause::Connection(Ended::Protocol(ProtocolError::Masked)).is_transient());
    }

    #[cfg(feature = "tls")]
    #[test]
    fn a_certificate_is_not_asked_for_twice() {
        let untrusted = rustls::Error::InvalidCertificate(rustls::CertificateError::Expired);
        let refused = io::Error::new(io::ErrorKind::InvalidData, untrusted);
        assert!(!Cause::Attempt(Error::tls("peer", refused)).is_transient());
        for (alert, again) in [
            (rustls::AlertDescription::InternalError, true),
            (rustls::AlertDescription::CertificateRequired, false),
            (rustls::AlertDescription::HandshakeFailure, false),
        ] {
            let received = rustls::Error::AlertReceived(alert);
            let received = io::Error::new(io::ErrorKind::InvalidData, received);
            let cause = Cause::Attempt(Error::tls("peer", received));
            assert_eq!(cause.is_transient(), again, "{cause}");
        }
        let cut = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert!(Cause::Attempt(Error::tls("peer", cut)).is_transient());
    }

    mod rfc9110_section_10_2_3 {
        use super::*;

        fn asked(value: &str) -> Option<Duration> {
            let now = httpdate::parse_http_date("Fri, 31 Dec 1999 23:59:00 GMT").unwrap();
            let Cause::Attempt(Error::Handshake(HandshakeError::Status(response))) =
                answer(503, &format!("Retry-After: {value}\r\n"))
            else {
                unreachable!("made so");
            };
            retry_after(&response, now)
        }

        #[test]
        fn seconds() {
            assert_eq!(asked("120"), Some(120 * SECOND));
            assert_eq!(asked("0"), Some(Duration::ZERO));
            assert_eq!(
                asked("99999999999999999999"),
                Some(Duration::from_secs(u64::MAX))
            );
        }

        #[test]
        fn dates_in_all_three_forms() {
            for date in [
                "Fri, 31 Dec 1999 23:59:59 GMT",
                "Friday, 31-Dec-99 23:59:59 GMT",
                "Fri Dec 31 23:59:59 1999",
            ] {
                assert_eq!(asked(date), Some(59 * SECOND), "{date}");
            }
            // One that has passed asks for nothing.
            assert_eq!(asked("Fri, 31 Dec 1999 00:00:00 GMT"), Some(Duration::ZERO));
        }

        #[test]
        fn nonsense_is_no_wish() {
            for value in ["", "soon", "-1", "1.5", "1 2"] {
                assert_eq!(asked(value), None, "{value}");
            }
        }

        #[test]
        fn it_is_waited_for_and_jitter_added() {
            let schedule = schedule(SECOND, SECOND);
            let cause = answer(429, "Retry-After: 7\r\n");
            for _ in 0..100 {
                let delay = schedule.delay(1, &cause);
                assert!((7 * SECOND..8 * SECOND).contains(&delay), "{delay:?}");
            }
        }

        #[test]
        fn nobody_is_parked_for_ever() {
            let cause = answer(503, "Retry-After: 99999999999999999999\r\n");
            let delay = schedule(SECOND, SECOND).delay(1, &cause);
            assert!((300 * SECOND..301 * SECOND).contains(&delay), "{delay:?}");
        }
    }
}
