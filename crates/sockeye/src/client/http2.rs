//! A connection of HTTP/2, on which WebSockets are opened as streams (RFC 8441).

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream, client::SendRequest, ext::Protocol};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::Handle,
    sync::oneshot,
    time::{sleep_until, timeout, timeout_at},
};

use sockeye_proto::handshake::{HandshakeError, Response};

use super::{
    Client,
    extended_connect::{Body, Server, judged, shown},
    redirect::Trail,
    url::Endpoint,
};
use crate::{
    Deadline, Error, Result, WebSocket, ended::lost, established::Established, keepalive::after,
    stream::Stream,
};

/// How many bytes of a stream the server may send ahead of who reads it.
const STREAM_WINDOW: u32 = 256 * 1024;

/// And of all streams together: as many as servers permit, so that those which nobody reads do not hold up the others.
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

/// What h2 lets wait unread of frames below 256 bytes, by what they lack of that, before it ends the connection: each small
/// message is one, and takes some hundred bytes of memory. It is a quarter of a million of them.
const SMALL_FRAMES: usize = 64 * 1024 * 1024;

/// How many bytes a frame may have that comes. By the standard's 16 KiB a message of 1 MiB takes three times as long.
const FRAME: u32 = 64 * 1024;

/// The most that is written at once, in bytes: it is copied.
const PIECE: usize = 64 * 1024;

/// How long what was sent may take to go out once nothing uses a connection any more.
const GOODBYE: Duration = Duration::from_secs(5);

/// A connection of HTTP/2 to a server, on which any number of WebSockets are opened, each a stream of its own
/// (RFC 8441). Clones are of the same connection.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// use sockeye::{Client, client::Http2};
///
/// let http2 = Http2::connect(&Client::new("wss://example.com/")).await?;
/// let mut chat = http2.open(&Client::new("wss://example.com/chat")).await?;
/// let mut news = http2.open(&Client::new("wss://example.com/news")).await?;
/// chat.send("Привет").await?;
/// println!("{:?}", news.recv().await?);
/// # Ok(()) }
/// ```
///
/// Connecting and TLS are paid once, and a socket more costs the server a stream and no descriptor; a message costs
/// both ends more than on a connection of its own. What happens to the connection happens to all sockets on it. It
/// ends once this, its clones and all that were opened on it are gone, and what was sent has gone out, within 5 s. For that the
/// runtime has to be there: a socket that is [closed](WebSocket::close) has it behind itself.
///
/// The server has to announce that it opens WebSockets so: [`Server::websockets_over_http2`] here, beside an HTTP service.
///
/// [`Server::websockets_over_http2`]: crate::Server::websockets_over_http2
#[derive(Clone)]
pub struct Http2 {
    ask: SendRequest<Bytes>,
    server: Arc<Server>,
    used: Used,
}

/// There for as long as the connection has a use.
type Used = Arc<oneshot::Sender<()>>;

impl Http2 {
    /// Connects to the server of a client's URL as the client would: by its addresses, proxy and TLS, and within its
    /// timeouts. With TLS, `h2` alone is offered by ALPN; on `ws`, HTTP/2 is spoken as it is (prior knowledge).
    ///
    /// # Errors
    /// As [`Client::connect`]; [`Error::Tls`] where the server does not choose HTTP/2, [`Error::Handshake`] with
    /// [`HandshakeError::ExtendedConnect`] where it opens no WebSockets over it. One that speaks no HTTP/2 on `ws` breaks off:
    /// [`Error::Lost`], which says so.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn connect(client: &Client) -> Result<Self> {
        Box::pin(async {
            let endpoint = client.endpoint()?;
            let connected = Self::reach(client, &endpoint).await;
            connected.map_err(|error| Trail::new(0).tell(&endpoint, error))
        })
        .await
    }

    async fn reach(client: &Client, endpoint: &Endpoint) -> Result<Self> {
        let (stream, _) = client.reach(endpoint).await?;
        let peer_addr = stream.peer_addr();
        let stream = client.secure_http2(endpoint, stream).await?;
        let server = Server {
            peer_addr: stream.peer_addr().or(peer_addr),
            endpoint: endpoint.clone(),
        };
        let begun = Self::begin(client, stream, server);
        timeout(client.handshake_timeout, begun)
            .await
            .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))
    }

    async fn begin(client: &Client, stream: Stream, server: Server) -> Result<Self> {
        let heads = u32::try_from(client.head_limits.bytes).unwrap_or(u32::MAX);
        let opened = h2::client::Builder::new()
            .enable_push(false)
            .max_frame_size(FRAME)
            .max_header_list_size(heads)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(SMALL_FRAMES)
            .handshake(stream);
        let (ask, mut connection) = opened.await.map_err(unspoken)?;
        let ping = connection.ping_pong();
        let (used, unused) = oneshot::channel::<()>();
        tokio::spawn(run(connection, unused));
        // Its settings are the first that a server sends (RFC 9113 §3.4), so that they have come with the answer to this.
        if let Some(mut ping) = ping {
            ping.ping(h2::Ping::opaque()).await.map_err(unspoken)?;
        }
        if !ask.is_extended_connect_protocol_enabled() {
            return Err(HandshakeError::ExtendedConnect.into());
        }
        Ok(Self {
            ask,
            server: Arc::new(server),
            used: Arc::new(used),
        })
    }

    /// Opens a WebSocket on the connection, as a client asks for it: path, headers, subprotocols, compression, limits,
    /// timeouts. How the server is reached is settled, and redirects are not followed. Where the server has as many
    /// streams as it permits, this waits until one has ended, within the handshake timeout.
    ///
    /// # Errors
    /// [`Error::Setup`] for a URL that leads to another server (scheme, host and port), [`Error::Url`] and
    /// [`Error::Handshake`] for what cannot be sent, [`Error::Random`] where the system gives no random numbers; and
    /// [`Error::Open`] with [`Error::Handshake`] and [`Error::Answer`] for an answer that declines or breaks a rule;
    /// [`Error::Lost`], also where the connection has ended; [`Error::Timeout`], also where the network has. Connect anew
    /// after either.
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
        if let Some(look) = &client.inspect {
            look(&shown(&request));
        }
        let protocol = Protocol::from_static("websocket");
        request.extensions_mut().insert(protocol);
        let deadline = after(client.handshake_timeout);
        let answered = timeout_at(deadline, async {
            let mut ask = self.ask.clone().ready().await.map_err(broken)?;
            let (answer, send) = ask.send_request(request, false).map_err(broken)?;
            Ok::<_, Error>((answer.await.map_err(broken)?, send))
        });
        let Ok(answered) = answered.await else {
            return Err(Error::Timeout(Deadline::Handshake));
        };
        let (answer, send) = answered?;
        let response = Response::of_connect(&answer)?;
        let mut receive = answer.into_body();
        let judged = judged(client, &asked, response, &mut receive, deadline).await?;
        let stream = Stream::new(Streamed {
            halves: Some((send, receive)),
            read: Bytes::new(),
            side: Side::Open,
            used: self.used.clone(),
        });
        Ok(client.established(asked, stream, Vec::new(), judged, self.server.peer_addr))
    }

    /// The address of the server, where the connection is a socket of the system; behind a proxy it is the proxy's.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.server.peer_addr
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2")
            .field("peer_addr", &self.server.peer_addr)
            .finish_non_exhaustive()
    }
}

/// Runs a connection until it has ended, of which whoever has a stream is told there, or has no use any more.
async fn run(connection: impl Future, unused: oneshot::Receiver<()>) {
    let (mut connection, mut unused) = (pin!(connection), pin!(unused));
    let ended = poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        Poll::Pending => unused.as_mut().poll(cx).map(|_| false),
    });
    if !ended.await {
        let _ = timeout(GOODBYE, connection).await;
    }
}

impl Body for RecvStream {
    async fn next(&mut self) -> Option<Bytes> {
        let data = self.data().await?.ok()?;
        self.flow_control().release_capacity(data.len()).ok()?;
        Some(data)
    }
}

/// How it ended before the server had said anything in HTTP/2.
fn unspoken(error: h2::Error) -> Error {
    let error = lost(to_io(error));
    let told = format!("the server may not speak HTTP/2: {error}");
    Error::Lost(Arc::new(io::Error::new(error.kind(), told)))
}

/// How HTTP/2 ended, as the end of a connection.
fn broken(error: h2::Error) -> Error {
    Error::lost(to_io(error))
}

fn to_io(error: h2::Error) -> io::Error {
    let kind = match error.get_io() {
        Some(error) => error.kind(),
        None if error.is_reset() => io::ErrorKind::ConnectionReset,
        None => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

/// A stream that is a WebSocket's: what would end TCP ends it (RFC 8441 §5).
struct Streamed {
    /// Both directions; nothing once this has ended.
    halves: Option<(SendStream<Bytes>, RecvStream)>,
    /// What has come and was not read.
    read: Bytes,
    side: Side,
    used: Used,
}

/// This end's side of a stream.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Open,
    Ended,
    /// Ended when h2 had been given more than the server had room for.
    Owed,
}

/// What was sent goes out still, as with TCP: h2 resets a stream that is dropped, and all that it holds of it is lost then,
/// also where the server has ended its side. What the server gives no room for is reset after a while, or it would stay
/// with the connection.
impl Drop for Streamed {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.end();
        let (Some((mut send, mut receive)), Ok(runtime)) =
            (self.halves.take(), Handle::try_current())
        else {
            return;
        };
        let (used, is_owed) = (self.used.clone(), self.side == Side::Owed);
        runtime.spawn(async move {
            let _used = used;
            let deadline = after(GOODBYE);
            let ended = async {
                while let Some(Ok(data)) = receive.data().await {
                    let _ = receive.flow_control().release_capacity(data.len());
                }
            };
            let has_ended = timeout_at(deadline, ended).await.is_ok();
            if is_owed {
                sleep_until(deadline).await;
            }
            if is_owed || !has_ended {
                // Nothing where all was written.
                send.send_reset(Reason::CANCEL);
            }
        });
    }
}

impl AsyncRead for Streamed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some((_, receive)) = &mut this.halves else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        while this.read.is_empty() {
            match ready!(receive.poll_data(cx)) {
                Some(Ok(data)) => this.read = data,
                // It has ended, and nothing more was wanted (RFC 9113 §8.1).
                Some(Err(error)) if error.reason() == Some(Reason::NO_ERROR) => {
                    return Poll::Ready(Ok(()));
                }
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = this.read.len().min(buffer.remaining());
        buffer.put_slice(&this.read[..count]);
        this.read.advance(count);
        // Refused only where the stream has ended, which is heard when there is no more to read.
        let _ = receive.flow_control().release_capacity(count);
        Poll::Ready(Ok(()))
    }
}

impl Streamed {
    fn sending(&mut self) -> io::Result<&mut SendStream<Bytes>> {
        let halves = self.halves.as_mut();
        halves
            .map(|(send, _)| send)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Waits until any bytes have room. h2 takes a whole piece then, and sends of it what there is room for.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let send = self.sending()?;
        // No more than one byte is kept from the other streams by who waits, or has ceased to.
        send.reserve_capacity(1);
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(to_io(error))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this side, behind what was sent.
    fn end(&mut self) -> io::Result<()> {
        if self.side == Side::Open {
            let send = self.sending()?;
            // Given only where all before it has room.
            send.reserve_capacity(1);
            let side = match send.capacity() {
                0 => Side::Owed,
                _ => Side::Ended,
            };
            send.send_data(Bytes::new(), true).map_err(to_io)?;
            self.side = side;
        }
        Ok(())
    }

    fn send(&mut self, data: Bytes) -> Poll<io::Result<usize>> {
        let len = data.len();
        let sent = self.sending()?.send_data(data, false);
        Poll::Ready(sent.map(|()| len).map_err(to_io))
    }
}

impl AsyncWrite for Streamed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        self.send(Bytes::copy_from_slice(&bytes[..bytes.len().min(PIECE)]))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if len == 0 {
            return Poll::Ready(Ok(0));
        }
        ready!(self.poll_room(cx))?;
        let room = len.min(PIECE);
        let mut data = Vec::with_capacity(room);
        for slice in slices {
            let left = room - data.len();
            data.extend_from_slice(&slice[..slice.len().min(left)]);
        }
        self.send(data.into())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// h2 writes by itself.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}
