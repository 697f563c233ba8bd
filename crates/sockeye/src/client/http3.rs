//! A connection of HTTP/3, on which WebSockets are opened as streams (RFC 9220).

use std::{fmt, mem, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{Request, StatusCode, Version};
use quinn::Connection;
use sockeye_proto::handshake::{HandshakeError, HeadLimits, Response};
use tokio::time::{timeout, timeout_at};

use super::{
    Client,
    extended_connect::{Body, Server, judged, shown},
    redirect::Trail,
    url::Endpoint,
};
use crate::{
    Deadline, Error, Result, WebSocket,
    established::Established,
    http3::{Code, RequestStream, Session, Settings, Side, encode},
    keepalive::after,
    stream::Stream,
};

/// How long what was sent may take to arrive, where a program ends.
const ARRIVED: Duration = Duration::from_secs(1);

/// How long it takes quinn to write that a connection ends.
const WRITTEN: Duration = Duration::from_millis(10);

/// A connection of HTTP/3 to a server, on which any number of WebSockets are opened, each a stream of its own
/// (RFC 9220). Clones are of the same connection.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// use sockeye::{Client, client::Http3};
///
/// let http3 = Http3::connect(&Client::new("wss://example.com/")).await?;
/// let mut chat = http3.open(&Client::new("wss://example.com/chat")).await?;
/// let mut news = http3.open(&Client::new("wss://example.com/news")).await?;
/// chat.send("Привет").await?;
/// println!("{:?}", news.recv().await?);
/// # Ok(()) }
/// ```
///
/// It is on QUIC, which is on UDP: what is lost on the way holds up the one socket that it is of, where over HTTP/2 it holds up
/// all. A message by itself costs both ends more than on TCP, and a large one several times as much. What happens to the connection
/// happens to all sockets on it. It ends once this, its clones and all that were opened on it are gone, and what was sent has
/// arrived, within 5 s. For that the runtime has to be there: a socket that is [closed](WebSocket::close) has it behind itself, and
/// a program that is about to end tells the server so by [`close`](Self::close).
///
/// QUIC asks every 15 s whether the server is still there, and gives it up after 60 s without an answer, or earlier where that one
/// says so, whatever [`Client::keepalive`] says. One that has crashed is found out about by that or by the keepalive, also where
/// another has taken its place: no system answers for it, as it does on TCP.
///
/// The server has to announce that it opens WebSockets so: [`Server::http3`] here. None is found out about that by itself,
/// and none is asked over HTTP/1.1 where it is not reached: [`Client::connect`] is for that.
///
/// [`Server::http3`]: crate::Server::http3
#[derive(Clone)]
pub struct Http3 {
    session: Arc<Session>,
    /// This end's socket.
    endpoint: quinn::Endpoint,
    server: Arc<Server>,
    /// What the server takes of fields.
    field_section: u64,
}

impl Http3 {
    /// Connects to the server of a client's URL, which is `wss`, at whichever of its addresses answers first (RFC 8305), with
    /// the client's TLS (1.3, with `h3` alone offered by ALPN) and its address or interface. Name, QUIC and TLS have the
    /// [connect timeout](Client::connect_timeout) together, and what is said before the first request the
    /// [handshake timeout](Client::handshake_timeout).
    ///
    /// # Errors
    /// [`Error::Setup`] for a `ws` URL, a Unix socket, and where the way is through a proxy, also of the environment: none of
    /// these carries UDP. Else as [`Client::connect`]; [`Error::Tls`] also where the server speaks no HTTP/3,
    /// [`Error::Handshake`] with [`HandshakeError::ExtendedConnect`] where it opens no WebSockets over it. Where nobody
    /// answers on UDP, that is known once the connect timeout has passed.
    ///
    /// # Panics
    /// As tokio does, outside a runtime, and in one without I/O or time: build it with `enable_all`.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn connect(client: &Client) -> Result<Self> {
        Box::pin(async {
            let endpoint = client.endpoint()?;
            client.check_http3(&endpoint)?;
            let connected = Self::reach(client, &endpoint).await;
            connected.map_err(|error| Trail::new(0).tell(&endpoint, error))
        })
        .await
    }

    async fn reach(client: &Client, endpoint: &Endpoint) -> Result<Self> {
        let (socket, connection) = client.reach_http3(endpoint).await?;
        let server = Server {
            peer_addr: Some(connection.remote_address()),
            endpoint: endpoint.clone(),
        };
        let begun = timeout(client.handshake_timeout, Self::begin(client, connection));
        match begun
            .await
            .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))
        {
            Ok((session, field_section)) => Ok(Self {
                session,
                endpoint: socket,
                server: Arc::new(server),
                field_section,
            }),
            Err(error) => {
                told(&socket).await;
                Err(error)
            }
        }
    }

    /// What is said before the first request; and what the server takes of fields.
    async fn begin(client: &Client, connection: Connection) -> Result<(Arc<Session>, u64)> {
        let ours = Settings {
            field_section: Some(client.head_limits.bytes as u64),
            extended_connect: false,
        };
        let begun = Session::begin(connection, Side::Client, ours);
        let session = begun.await.map_err(Error::lost)?;
        let settings = session.settings().await.map_err(Error::lost)?;
        match settings.extended_connect {
            true => Ok((session, settings.field_section.unwrap_or(u64::MAX))),
            false => Err(HandshakeError::ExtendedConnect.into()),
        }
    }

    /// Opens a WebSocket on the connection, as a client asks for it: path, headers, subprotocols, compression, limits,
    /// timeouts. How the server is reached is settled, and redirects are not followed. Where the server has as many
    /// streams as it permits, this waits until one has ended, within the handshake timeout.
    ///
    /// # Errors
    /// [`Error::Setup`] for a URL that leads to another server (scheme, host and port), and where the server takes no heads as
    /// large as the request's, [`Error::Url`] and
    /// [`Error::Handshake`] for what cannot be sent, [`Error::Random`] where the system gives no random numbers; and
    /// [`Error::Open`] with [`Error::Handshake`] and [`Error::Answer`] for an answer that declines or breaks a rule;
    /// [`Error::Lost`], also where the connection has ended, or the server has said that it is about to (GOAWAY);
    /// [`Error::Timeout`], also where the network has. Connect anew after any of these.
    ///
    /// # Cancel safety
    /// Dropping the future gives the stream up, and not the connection.
    pub async fn open(&self, client: &Client) -> Result<WebSocket> {
        Box::pin(async {
            let endpoint = client.endpoint()?;
            self.server.check(&endpoint)?;
            let opened = self.establish(client, &endpoint).await;
            opened.map_err(|error| Trail::new(0).tell(&endpoint, error))
        })
        .await
        .map(WebSocket::new)
    }

    async fn establish(&self, client: &Client, endpoint: &Endpoint) -> Result<Established> {
        let asked = client.ask(endpoint, false)?;
        let mut request = asked.request.to_extended_connect(endpoint.secure)?;
        *request.version_mut() = Version::HTTP_3;
        if let Some(look) = &client.inspect {
            look(&shown(&request));
        }
        let deadline = after(client.handshake_timeout);
        let answered = timeout_at(deadline, self.exchange(&request, client.head_limits));
        let Ok(answered) = answered.await else {
            return Err(Error::Timeout(Deadline::Handshake));
        };
        let (mut stream, response) = answered?;
        let judged = judged(client, &asked, response, &mut stream, deadline).await?;
        stream.open(());
        let (stream, peer) = (Stream::new(stream), self.server.peer_addr);
        Ok(client.established(asked, stream, Vec::new(), judged, peer))
    }

    /// Asks, and reads the answer.
    async fn exchange(
        &self,
        request: &Request<()>,
        limits: HeadLimits,
    ) -> Result<(RequestStream<()>, Response)> {
        let uri = request.uri();
        let pseudo = [
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", uri.scheme_str().unwrap_or_default()),
            (":authority", uri.authority().map_or("", |it| it.as_str())),
            (":path", uri.path_and_query().map_or("/", |it| it.as_str())),
        ];
        let section = encode(&pseudo, request.headers());
        if section.size > self.field_section {
            let why = format!(
                "the request is too large for the server: its fields count {} bytes, and it takes {} (RFC 9114 §4.2.2)",
                section.size, self.field_section
            );
            return Err(Error::Setup(why.into()));
        }
        let (send, receive) = self.session.open().await.map_err(Error::lost)?;
        let mut stream = RequestStream::new(self.session.clone(), send, receive);
        let mut written = stream.write_head(&section).await;
        loop {
            let mut head = stream.read_head(limits).await;
            if head.is_err() {
                // It may have answered before it took all (§4.1); else what kept it from that says more.
                head = mem::replace(&mut written, Ok(())).and(head);
            }
            let answer = head.and_then(|section| Ok((section.status()?, section.headers)));
            let (status, headers) = answer.inspect_err(|error| {
                if error.is_handshake() {
                    stream.reset(Code::MessageError);
                }
            })?;
            // Others are to follow (RFC 9114 §4.1). 101 is none of them, and none at all (§4.5).
            if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
                continue;
            }
            let mut response = hyper::Response::new(());
            (*response.status_mut(), *response.headers_mut()) = (status, headers);
            return Ok((stream, Response::of_connect(&response)?));
        }
    }

    /// Ends the connection once what was sent has arrived and nothing is open on it, or after a second whatever is; and tells the
    /// server. For a program that is about to end: the system does not tell a server of that as it does on TCP, and it would
    /// have to find out, which takes a minute.
    ///
    /// # Cancel safety
    /// Dropping the future waits no longer.
    pub async fn close(self) {
        let connection = self.session.connection().clone();
        // It ends once what was sent has arrived, and nobody has a use for it.
        drop(self.session);
        let _ = timeout(ARRIVED, connection.closed()).await;
        connection.close(Code::NoError.into(), b"");
        told(&self.endpoint).await;
    }

    /// The address of the server.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.server.peer_addr
    }
}

impl fmt::Debug for Http3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http3")
            .field("peer_addr", &self.server.peer_addr)
            .finish_non_exhaustive()
    }
}

/// Waits until it is written that a connection has ended.
async fn told(socket: &quinn::Endpoint) {
    let _ = timeout(WRITTEN, socket.wait_idle()).await;
}

impl Body for RequestStream<()> {
    async fn next(&mut self) -> Option<Bytes> {
        let data = self.read_body().await.ok()?;
        Some(data).filter(|data| !data.is_empty())
    }
}
