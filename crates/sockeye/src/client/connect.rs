//! Opens a connection: name, TCP, TLS and the opening handshake, under one deadline
//! (RFC 6455 §4.1).

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};

use sockeye_proto::{
    Limits, Role,
    deflate::DeflateConfig,
    handshake::{HeadLimits, HeadScanner, Key, Response, Subprotocols, UpgradeRequest},
};

#[cfg(feature = "tls")]
use super::tls::ClientTls;
use super::url::Endpoint;
use crate::{
    Deadline, Error, Result, WebSocket, entropy,
    established::{Established, OutputLimits, PeerHead},
    head::{read_head, read_more},
    stream::{Io, Stream},
};

/// How long the body of a refusal is waited for, within the handshake timeout.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// Opens a WebSocket at a `ws` or `wss` URL, with the defaults of [`Client`].
///
/// # Errors
/// As [`Client::connect`].
///
/// # Cancel safety
/// Dropping the future gives the connection up.
pub async fn connect(url: impl Into<String>) -> Result<WebSocket> {
    Client::new(url).connect().await
}

/// Opens WebSocket connections, with everything that can be said about how.
///
/// It can be kept and used again: each call opens a connection of its own.
#[derive(Clone, Debug)]
#[must_use = "nothing is opened before `connect`"]
pub struct Client {
    url: String,
    headers: Vec<(String, String)>,
    origin: Option<String>,
    subprotocols: Vec<String>,
    deflate: Option<DeflateConfig>,
    limits: Limits,
    head_limits: HeadLimits,
    handshake_timeout: Duration,
    close_timeout: Duration,
    output: OutputLimits,
    #[cfg(feature = "tls")]
    tls: ClientTls,
}

impl Client {
    /// A client of the server at a `ws` or `wss` URL.
    ///
    /// The URL is read at `connect`, as browsers read it: names may have letters
    /// of any script, `http` and `https` stand for `ws` and `wss`. A fragment is refused (§3), and
    /// so are a user name and a password: send an `Authorization` header.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            origin: None,
            subprotocols: Vec::new(),
            deflate: DeflateConfig::available(),
            limits: Limits::default(),
            head_limits: HeadLimits::default(),
            handshake_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(5),
            output: OutputLimits::default(),
            #[cfg(feature = "tls")]
            tls: ClientTls::new(),
        }
    }

    /// Adds a header to the request. Those of the handshake itself, `Host` among them, cannot be
    /// set; what cannot be sent is refused at `connect`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Says on whose behalf the connection is opened, as browsers do (§10.2). Unsaid by default.
    pub fn origin(mut self, origin: impl Into<String>) -> Self {
        self.origin = Some(origin.into());
        self
    }

    /// Offers a subprotocol; further calls offer less wanted ones (§1.9).
    ///
    /// A server that supports none opens the connection without.
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Sets what is offered of permessage-deflate, or with `None` that it is not. By default it is
    /// offered where the feature `deflate` is there.
    pub fn deflate(mut self, config: impl Into<Option<DeflateConfig>>) -> Self {
        self.deflate = config.into();
        self
    }

    /// Sets what the server may make this end hold.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how large the head of the server's answer may be. Default 16 KiB and 100 headers.
    pub fn head_limits(mut self, limits: HeadLimits) -> Self {
        self.head_limits = limits;
        self
    }

    /// Sets how long name, TCP, TLS and HTTP may take together. Default 10 s.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how long the server may take to answer a Close. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        self.close_timeout = timeout;
        self
    }

    /// Sets how many bytes may wait to be written before sending waits too. Default 1 MiB.
    pub fn high_water(mut self, bytes: usize) -> Self {
        self.output.high_water = bytes;
        self
    }

    /// Sets how many bytes may wait to be written at all, where a callback sends and cannot wait:
    /// more ends the connection. Default 32 MiB.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        self.output.limit = bytes;
        self
    }

    /// Sets whom to trust with TLS, and who we are.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn subprotocols(&self) -> &[String] {
        &self.subprotocols
    }

    pub(crate) fn most_output(&self) -> usize {
        self.output.limit
    }

    /// Opens the connection.
    ///
    /// # Errors
    /// What kept it from opening: [`Error::is_connect`], [`Error::is_handshake`] (with the response,
    /// where there was one), [`Error::is_timeout`], or a URL that cannot be a WebSocket's.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn connect(&self) -> Result<WebSocket> {
        self.establish().await.map(WebSocket::new)
    }

    /// Opens the connection on a stream of the user's own, in place of TCP. For a `wss` URL, TLS is
    /// spoken on it.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub async fn connect_over<S>(&self, stream: S) -> Result<WebSocket>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.establish_over(stream).await.map(WebSocket::new)
    }

    /// Opens the connection. The addresses of a name are tried in the order the system gives.
    ///
    /// # Errors
    /// [`Error::Url`], and [`Error::Handshake`] for what cannot be sent, before anything is;
    /// [`Error::Resolve`], [`Error::Connect`], [`Error::Tls`], [`Error::Lost`];
    /// [`Error::Handshake`] for an answer that declines or breaks a rule; [`Error::Timeout`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection; nothing is left behind.
    pub(crate) async fn establish(&self) -> Result<Established> {
        let endpoint = Endpoint::parse(&self.url)?;
        self.in_time(Box::pin(async {
            let (request, bytes) = self.request(&endpoint)?;
            let tcp = connect_tcp(&endpoint).await?;
            let stream = self.secure_tcp(&endpoint, tcp).await?;
            self.upgrade(stream, request, bytes).await
        }))
        .await
    }

    /// Opens the connection on a user's own stream; with TLS on it first for a `wss` URL.
    ///
    /// # Errors
    /// As [`establish`](Self::establish), without those of names and addresses.
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub(crate) async fn establish_over<S: Io + 'static>(&self, stream: S) -> Result<Established> {
        let endpoint = Endpoint::parse(&self.url)?;
        self.in_time(Box::pin(async {
            let (request, bytes) = self.request(&endpoint)?;
            let stream = match Stream::new(stream) {
                Stream::Tcp(tcp) => self.secure_tcp(&endpoint, tcp).await?,
                other => self.secure_other(&endpoint, other).await?,
            };
            self.upgrade(stream, request, bytes).await
        }))
        .await
    }

    /// Waits no longer than the handshake may take.
    ///
    /// The handshake comes in a box of its own, so that its buffers do not stay in the future of
    /// whoever holds the connection for hours.
    async fn in_time(
        &self,
        handshake: Pin<Box<impl Future<Output = Result<Established>>>>,
    ) -> Result<Established> {
        timeout(self.handshake_timeout, handshake)
            .await
            .unwrap_or(Err(Error::Timeout(Deadline::Handshake)))
    }

    /// The request and the bytes of it: all that the user asked for is checked before anyone is
    /// bothered with it.
    fn request(&self, endpoint: &Endpoint) -> Result<(UpgradeRequest, Vec<u8>)> {
        entropy::probe()?;
        let key = Key::new(entropy::key());
        let mut request = UpgradeRequest::new(&endpoint.host_header, &endpoint.target, key);
        let mut subprotocols = Subprotocols::new();
        for name in &self.subprotocols {
            subprotocols.push(name)?;
        }
        request.subprotocols(subprotocols);
        if let Some(origin) = &self.origin {
            request.origin(origin);
        }
        if let Some(deflate) = &self.deflate {
            request.extensions(deflate.offer());
        }
        for (name, value) in &self.headers {
            request.header(name, value)?;
        }
        let bytes = request.to_bytes()?;
        Ok((request, bytes))
    }

    #[cfg(feature = "tls")]
    async fn secure_tcp(&self, endpoint: &Endpoint, tcp: TcpStream) -> Result<Stream> {
        if !endpoint.secure {
            return Ok(Stream::Tcp(tcp));
        }
        let tls = self.tls.connect(&endpoint.host, tcp).await?;
        Ok(Stream::ClientTls(Box::new(tls)))
    }

    #[cfg(feature = "tls")]
    async fn secure_other(&self, endpoint: &Endpoint, stream: Stream) -> Result<Stream> {
        if !endpoint.secure {
            return Ok(stream);
        }
        let tls = self.tls.connect(&endpoint.host, stream).await?;
        Ok(Stream::new(tls))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure_tcp(&self, endpoint: &Endpoint, tcp: TcpStream) -> Result<Stream> {
        self.secure_other(endpoint, Stream::Tcp(tcp)).await
    }

    #[cfg(not(feature = "tls"))]
    async fn secure_other(&self, endpoint: &Endpoint, stream: Stream) -> Result<Stream> {
        if endpoint.secure {
            let problem = "wss needs the feature `tls` of sockeye, which this program lacks";
            return Err(Error::Url(problem.into()));
        }
        Ok(stream)
    }

    /// The opening handshake (§4.1).
    async fn upgrade(
        &self,
        mut stream: Stream,
        request: UpgradeRequest,
        bytes: Vec<u8>,
    ) -> Result<Established> {
        stream.write_all(&bytes).await?;
        stream.flush().await?;

        let mut scanner = HeadScanner::response(self.head_limits);
        let mut buffer = Vec::new();
        let end = read_head(&mut stream, &mut scanner, &mut buffer).await?;
        let mut response = Response::parse(&buffer[..end])?;
        let mut early = buffer.split_off(end);
        if response.status() != 101 {
            // What the server has to say about it; not worth the whole deadline.
            let _ = timeout(BODY_PATIENCE, async {
                while response.set_body(&early) {
                    if !read_more(&mut stream, &mut early).await? {
                        break;
                    }
                }
                Ok::<_, Error>(())
            })
            .await;
        }
        let agreed = request.check(&response)?;
        let deflate = match self.deflate {
            Some(config) => agreed.deflate(&config)?.map(|params| (config, params)),
            // None was offered, so none was agreed to.
            None => None,
        };
        Ok(Established {
            peer_addr: stream.peer_addr(),
            stream,
            early,
            role: Role::Client {
                masks: entropy::mask,
            },
            subprotocol: agreed.subprotocol.map(Into::into),
            deflate,
            limits: self.limits,
            close_timeout: self.close_timeout,
            output: self.output,
            peer_head: PeerHead::Response(Box::new(response)),
        })
    }
}

/// Tries the addresses of the host one after another.
async fn connect_tcp(endpoint: &Endpoint) -> Result<TcpStream> {
    let mut failed = None;
    for address in resolve(endpoint).await? {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                // Messages are written whole; waiting to join them to others only delays them.
                // A system that cannot do that still has a connection.
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(error) => {
                failed = Some(Error::Connect {
                    address,
                    source: Arc::new(error),
                });
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::Resolve {
        host: endpoint.host.as_str().into(),
        source: Arc::new(std::io::ErrorKind::NotFound.into()),
    }))
}

async fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>> {
    if let Some(address) = endpoint.address() {
        return Ok(vec![SocketAddr::new(address, endpoint.port)]);
    }
    match lookup_host((endpoint.host.as_str(), endpoint.port)).await {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(Error::Resolve {
            host: endpoint.host.as_str().into(),
            source: Arc::new(error),
        }),
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
