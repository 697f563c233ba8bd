//! What opening a WebSocket by extended CONNECT is over HTTP/2 and HTTP/3 alike (RFC 8441, RFC 9220).

use std::net::SocketAddr;

use bytes::Bytes;
use hyper::Request;
use sockeye_proto::handshake::{HandshakeError, Response};
use tokio::time::{Instant, timeout_at};

use super::{
    Client,
    upgrade::{Asked, BODY_PATIENCE, Judged},
    url::Endpoint,
};
use crate::{Error, Result, keepalive::after};

/// Whom a connection leads to.
pub(super) struct Server {
    pub(super) endpoint: Endpoint,
    pub(super) peer_addr: Option<SocketAddr>,
}

impl Server {
    /// Whether a URL leads to it.
    ///
    /// # Errors
    /// [`Error::Setup`].
    pub(super) fn check(&self, to: &Endpoint) -> Result<()> {
        let here = &self.endpoint;
        let is_here = (here.secure, &here.host, here.port) == (to.secure, &to.host, to.port);
        #[cfg(unix)]
        let is_here = is_here && here.unix_socket == to.unix_socket;
        if is_here {
            return Ok(());
        }
        let origin = |endpoint: &Endpoint| {
            let scheme = if endpoint.secure { "wss" } else { "ws" };
            format!("{scheme}://{}", endpoint.host_header)
        };
        let (to, here) = (origin(to), origin(here));
        let why = format!("{to} is another server than {here}, to which this connection leads");
        Err(Error::Setup(why.into()))
    }
}

/// A request as somebody reads it, in the shape that it has over HTTP/1.1.
pub(super) fn shown(request: &Request<()>) -> Vec<u8> {
    let (uri, version) = (request.uri(), request.version());
    let version = match version {
        hyper::Version::HTTP_3 => "HTTP/3",
        _ => "HTTP/2",
    };
    let mut shown = format!("CONNECT {uri} {version}\r\n:protocol: websocket\r\n").into_bytes();
    for (name, value) in request.headers() {
        let line = [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"];
        shown.extend_from_slice(&line.concat());
    }
    shown.extend_from_slice(b"\r\n");
    shown
}

/// What a server has to say about its refusal.
pub(super) trait Body {
    /// Some more of it; nothing at its end, however that is.
    fn next(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// What is agreed by an answer, or why nothing is: then with the beginning of what it says, as far as that comes soon.
///
/// # Errors
/// [`Error::Handshake`] and [`Error::Answer`].
pub(super) async fn judged(
    client: &Client,
    asked: &Asked,
    mut response: Response,
    body: &mut impl Body,
    deadline: Instant,
) -> Result<Judged> {
    let mut agreed = asked.request.check_connect(&response);
    if let Err(HandshakeError::Status(_)) = agreed {
        let read = async {
            let mut read = Vec::new();
            while let Some(data) = body.next().await {
                read.extend_from_slice(&data);
                if !response.set_body(&read) {
                    break;
                }
            }
        };
        // What has come by then is kept.
        let _ = timeout_at(deadline.min(after(BODY_PATIENCE)), read).await;
        agreed = asked.request.check_connect(&response);
    }
    client.judge(agreed, response)
}
