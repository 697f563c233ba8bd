//! A connection whose opening handshake is done, and all that was agreed in it.

#[cfg(feature = "server")]
use std::any::Any;
use std::{net::SocketAddr, sync::Arc, time::Duration};

use sockeye_proto::{
    CloseCode, Limits, Role,
    deflate::{DeflateConfig, DeflateParams},
    handshake::{Request, Response},
};

#[cfg(all(feature = "server", feature = "tls"))]
use crate::server::TlsIdentity;
#[cfg(feature = "server")]
use crate::server::{Matched, State};
use crate::{keepalive::Staying, stream::Stream, throttle::Rates};

/// What a WebSocket is made of.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) stream: Stream,
    /// Bytes that were read past the peer's head: its first frames. Where there are none, no
    /// memory is held.
    pub(crate) early: Vec<u8>,
    pub(crate) role: Role,
    pub(crate) subprotocol: Option<Box<str>>,
    /// permessage-deflate, where both sides agreed to it, and how this side uses it.
    pub(crate) deflate: Option<(DeflateConfig, DeflateParams)>,
    /// What the peer may make this end hold: those of all connections that were set up alike.
    pub(crate) limits: Arc<Limits>,
    pub(crate) settings: Arc<Settings>,
    /// How fast the peer may go.
    pub(crate) rates: Rates,
    /// None for a stream that is no socket's.
    pub(crate) peer_addr: Option<SocketAddr>,
    pub(crate) peer_head: PeerHead,
    /// Whom a client has connected to, without what is nobody's business.
    #[cfg(feature = "tracing")]
    pub(crate) url: Option<Box<str>>,
    /// What counts the connection.
    #[cfg(feature = "metrics")]
    pub(crate) metrics: Option<crate::Metrics>,
    pub(crate) admitted: Option<Box<Admitted>>,
}

/// What the peer said in HTTP.
#[derive(Debug)]
pub(crate) enum PeerHead {
    /// A client's request, at its server.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "made by servers"))]
    Request(Request),
    /// A server's response, at its client.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "made by clients"))]
    Response(Box<Response>),
}

impl PeerHead {
    /// The request that opened the connection, at the server.
    #[cfg_attr(not(feature = "server"), allow(dead_code, reason = "for servers"))]
    pub(crate) fn request(&self) -> Option<&Request> {
        match self {
            Self::Request(request) => Some(request),
            Self::Response(_) => None,
        }
    }

    /// The response that opened the connection, at the client.
    #[cfg_attr(not(feature = "client"), allow(dead_code, reason = "for clients"))]
    pub(crate) fn response(&self) -> Option<&Response> {
        match self {
            Self::Response(response) => Some(response),
            Self::Request(_) => None,
        }
    }
}

/// What a server knows of a client that it has let in, where it knows anything.
#[derive(Debug, Default)]
pub(crate) struct Admitted {
    /// What was agreed, also with a server. Noted here once the connection is open.
    pub(crate) subprotocol: Option<Box<str>>,
    /// What the user has the connection remember.
    #[cfg(feature = "server")]
    pub(crate) state: Option<State>,
    /// The proxy that has said who the client is.
    #[cfg(feature = "server")]
    pub(crate) proxy: Option<SocketAddr>,
    /// The route, where there are any.
    #[cfg(feature = "server")]
    pub(crate) matched: Option<Arc<Matched>>,
    #[cfg(all(feature = "server", feature = "tls"))]
    pub(crate) tls: Option<TlsIdentity>,
}

#[cfg(feature = "server")]
impl Admitted {
    /// The value of that type that the user has the connection remember.
    pub(crate) fn state<T: Any>(&self) -> Option<&T> {
        self.state.as_ref()?.downcast_ref()
    }

    /// Where there is nothing to know, no memory is held.
    pub(crate) fn some(self) -> Option<Box<Self>> {
        let nothing = self.state.is_none() && self.matched.is_none() && self.proxy.is_none();
        #[cfg(feature = "tls")]
        let nothing = nothing && self.tls.is_none();
        (!nothing).then(|| Box::new(self))
    }
}

/// What all connections have in common that were set up alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long the peer may take to answer a Close.
    pub(crate) close_timeout: Duration,
    pub(crate) output: OutputLimits,
    pub(crate) staying: Staying,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            close_timeout: Duration::from_secs(5),
            output: OutputLimits::default(),
            staying: Staying::default(),
        }
    }
}

/// How much may wait to be written on a connection, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutputLimits {
    /// While this much waits, sending waits too.
    pub(crate) high_water: usize,
    /// Where nothing can wait, in callbacks, more than this ends the connection.
    pub(crate) limit: usize,
    /// What it is then closed with; else it is cut off.
    pub(crate) overflow: Option<CloseCode>,
}

impl OutputLimits {
    /// How much memory messages may take that are replaced while they wait: one may wait, however little that is.
    pub(crate) fn latest(&self) -> usize {
        self.limit.max(1)
    }
}

impl Default for OutputLimits {
    fn default() -> Self {
        Self {
            high_water: 1 << 20,
            limit: 32 << 20,
            overflow: None,
        }
    }
}
