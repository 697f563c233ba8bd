//! HTTP/3, as much of it as WebSockets need (RFC 9220): the control streams (RFC 9114 §6.2.1), fields without a dynamic
//! table (RFC 9204), and streams as bytes. QUIC is quinn's.
//!
//! A connection is a [`Session`], whose tasks take what the peer says of it; a request is a [`RequestStream`].

mod fields;
mod frames;
mod huffman;
mod request_stream;
mod session;
mod static_table;

use std::time::Duration;

use quinn::{
    ConnectionError::{self, ConnectionClosed, TransportError},
    TransportConfig, VarInt,
};

pub(crate) use fields::encode;
pub(crate) use frames::Settings;
pub(crate) use request_stream::RequestStream;
pub(crate) use session::{Session, Side};

/// The name of HTTP/3 with TLS (RFC 9114 §3.1).
pub(crate) const ALPN: &[u8] = b"h3";

/// How many bytes of a stream a peer may send ahead of who reads it: a server has many clients.
const fn stream_window(side: Side) -> u32 {
    match side {
        Side::Client => 256 * 1024,
        Side::Server => 128 * 1024,
    }
}

/// How many requests a client may have under way (RFC 9114 §6.1 wants 100 at least).
const REQUESTS: u32 = 128;

/// How many bytes of all streams together may be on their way to a peer, or wait for it, besides what waits for its own
/// turn as [`high_water`](crate::Client::high_water) bounds it.
const SENT_AHEAD: u64 = 2 * 1024 * 1024;

/// How many streams of one direction a peer may have: it needs three (RFC 9114 §6.2), and may try others.
const ONE_WAY: u32 = 8;

/// After how long without a word a peer is gone, and how often it is asked before: what is on the way forgets UDP after half a
/// minute (RFC 9308 §3.2).
const IDLE: Duration = Duration::from_secs(60);
const ASKED: Duration = Duration::from_secs(15);

/// How much of what nobody has read a client may have sent that has had so many WebSockets at a time: as much as these can have
/// together, so that one does not hold up another, and what the head of a request takes.
pub(crate) fn window(open: u32) -> VarInt {
    const HEADS: u32 = 64 * 1024;
    announced(HEADS + open.min(REQUESTS) * stream_window(Side::Server))
}

/// A window of which so much can always be used: quinn says that there is room again once that is an eighth of it.
fn announced(usable: u32) -> VarInt {
    (usable + usable / 7 + 1).into()
}

/// What QUIC permits a peer.
pub(crate) fn transport(side: Side) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let requests = match side {
        // No server begins one (RFC 9114 §6.1).
        Side::Client => 0,
        Side::Server => REQUESTS,
    };
    transport
        .max_concurrent_bidi_streams(requests.into())
        .max_concurrent_uni_streams(ONE_WAY.into())
        .stream_receive_window(stream_window(side).into())
        .receive_window(match side {
            // As much as all can have together, so that those which nobody reads do not hold up the others.
            Side::Client => announced(REQUESTS * stream_window(side)),
            Side::Server => window(0),
        })
        .send_window(SENT_AHEAD)
        .max_idle_timeout(IDLE.try_into().ok())
        .keep_alive_interval(Some(ASKED))
        .datagram_receive_buffer_size(None);
    transport
}

/// What ended a connection, where that is TLS: this end's, or the peer's (RFC 9001 §4.8).
pub(crate) fn tls_failure(error: &ConnectionError) -> Option<String> {
    /// The alert `no_application_protocol` (RFC 7301 §3.2).
    const NO_PROTOCOL: u64 = 120;
    let (code, why) = match error {
        TransportError(error) => (error.code, error.reason.clone()),
        ConnectionClosed(close) => {
            let why = String::from_utf8_lossy(&close.reason);
            (
                close.error_code,
                format!("the peer gave it up: {} {why}", close.error_code),
            )
        }
        _ => return None,
    };
    let alert = u64::from(code).checked_sub(0x100);
    match alert.filter(|alert| *alert < 0x100)? {
        NO_PROTOCOL => Some("it has not chosen HTTP/3 (h3 by ALPN)".into()),
        _ => Some(why),
    }
}

/// Why a stream or a connection ends (RFC 9114 §8.1, RFC 9204 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    NoError = 0x100,
    StreamCreationError = 0x103,
    ClosedCriticalStream = 0x104,
    FrameUnexpected = 0x105,
    FrameError = 0x106,
    ExcessiveLoad = 0x107,
    IdError = 0x108,
    SettingsError = 0x109,
    MissingSettings = 0x10A,
    RequestRejected = 0x10B,
    RequestCancelled = 0x10C,
    RequestIncomplete = 0x10D,
    MessageError = 0x10E,
    DecompressionFailed = 0x200,
    EncoderStreamError = 0x201,
    DecoderStreamError = 0x202,
}

impl From<Code> for VarInt {
    fn from(code: Code) -> Self {
        Self::from_u32(code as u32)
    }
}

/// A rule that a peer has broken, for which the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) why: &'static str,
}

impl Fault {
    pub(crate) const fn new(code: Code, why: &'static str) -> Self {
        Self { code, why }
    }
}
