//! Opens a connection: the way to the server, TLS and the opening handshake, each under its own
//! deadline (RFC 6455 §4.1).

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use sockeye_proto::{
    CloseCode, Limits,
    deflate::DeflateConfig,
    handshake::{HandshakeError, HeadLimits},
};

#[cfg(feature = "tls")]
use super::tls::ClientTls;
use super::{
    credentials::{Credentials, redacted},
    dial::Dial,
    proxy::Proxy,
    proxy_env::{ProxyChoice, Source},
    redirect::Trail,
    url::Endpoint,
};
use crate::{
    Error, Result, WebSocket,
    established::{Established, Settings},
    keepalive::{after, some_time},
    stream::{Io, Stream},
};

/// Opens a WebSocket at a `ws` or `wss` URL, with the defaults of [`Client`].
///
/// # Errors
/// As [`Client::connect`].
///
/// # Panics
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
///
/// A server is reached at whichever of its addresses answers first (RFC 8305), through the proxy that
/// the environment names, if it names one ([`proxy`](Self::proxy)). Redirects are not followed unless
/// [`redirects`](Self::redirects) says so. The page [`guide`](super::guide) has all of that at length.
#[derive(Clone)]
#[must_use = "nothing is opened before `connect`"]
pub struct Client {
    url: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) cookies: Vec<(String, String)>,
    pub(super) credentials: Option<Credentials>,
    pub(super) origin: Option<String>,
    pub(super) subprotocols: Vec<String>,
    pub(super) deflate: Option<DeflateConfig>,
    pub(super) limits: Arc<Limits>,
    pub(super) head_limits: HeadLimits,
    connect_timeout: Duration,
    #[cfg(feature = "tls")]
    tls_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    pub(super) settings: Arc<Settings>,
    redirects: usize,
    proxy: ProxyChoice,
    dial: Dial,
    #[cfg(unix)]
    unix_socket: Option<std::path::PathBuf>,
    #[cfg(feature = "tls")]
    tls: ClientTls,
    pub(super) inspect: Option<Inspect>,
}

/// Who is shown each request.
pub(super) type Inspect = Arc<dyn Fn(&[u8]) + Send + Sync>;

impl Client {
    /// A client of the server at a `ws` or `wss` URL.
    ///
    /// The URL is read at `connect`, as browsers read it: names may have letters
    /// of any script, `http` and `https` stand for `ws` and `wss`. A user name and a password are sent
    /// as `Authorization: Basic`. A fragment is refused (§3). `ws+unix:/path/to.sock:/request/path`
    /// leads to a Unix socket.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            headers: Vec::new(),
            cookies: Vec::new(),
            credentials: None,
            origin: None,
            subprotocols: Vec::new(),
            deflate: DeflateConfig::available(),
            limits: Arc::default(),
            head_limits: HeadLimits::default(),
            connect_timeout: Duration::from_secs(10),
            #[cfg(feature = "tls")]
            tls_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            settings: Arc::default(),
            redirects: 0,
            proxy: ProxyChoice::default(),
            dial: Dial::default(),
            #[cfg(unix)]
            unix_socket: None,
            #[cfg(feature = "tls")]
            tls: ClientTls::new(),
            inspect: None,
        }
    }

    /// Adds a header to the request. Those of the handshake itself, `Host` among them, cannot be
    /// set; what cannot be sent is refused at `connect`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a cookie to the request. A `Cookie` header given with [`header`](Self::header) joins it.
    pub fn cookie(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.cookies.push((name.into(), value.into()));
        self
    }

    /// Sends a user name and a password as `Authorization: Basic`, in place of those in the URL. An
    /// `Authorization` header given with [`header`](Self::header) is sent in place of both.
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::new(user, password));
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

    /// Shows each request to `look` as it goes out, whoever answers it then: its line and its headers,
    /// each ended by CR LF, and the empty line after them. Redirects that are followed and further
    /// connections of this client are shown too, what is said to a proxy is not.
    ///
    /// Passwords and cookies are in it. `look` runs while the connection is being opened, and should not take long.
    ///
    /// ```
    /// let client = sockeye::Client::new("wss://example.com/socket")
    ///     .inspect_request(|head| eprint!("{}", String::from_utf8_lossy(head)));
    /// ```
    pub fn inspect_request(mut self, look: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        self.inspect = Some(Arc::new(look));
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
        self.limits = Arc::new(limits);
        self
    }

    /// Sets how large the head of the server's answer may be. Default 16 KiB and 100 headers.
    pub fn head_limits(mut self, limits: HeadLimits) -> Self {
        self.head_limits = limits;
        self
    }

    /// Sets how long it may take to reach the server: its name, TCP, and all that a proxy does until
    /// it has connected us. Default 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets how long TLS with the server may take, once it is reached. Default 10 s.
    #[cfg(feature = "tls")]
    pub fn tls_timeout(mut self, timeout: Duration) -> Self {
        self.tls_timeout = timeout;
        self
    }

    /// Sets how long the server may take from there on to answer the request. Default 10 s.
    ///
    /// Whoever wants one deadline for all puts [`connect`](Self::connect) under it, which may be
    /// dropped at any time.
    pub fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// Sets how long the server may take to answer a Close, and then to end the transport, which is for it to do
    /// (RFC 6455 §7.1.1): from when it has last taken something of what was sent, and sixty times as long in all. Default 5 s.
    pub fn close_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.settings).close_timeout = timeout;
        self
    }

    /// Sets how often the server is sent a ping that keeps the connection, or with `None` that it never
    /// is, and so with zero. Default 30 s; held to between 1 ms and a year.
    ///
    /// Each keeps what is on the way from forgetting the connection, measures the
    /// [round trip](WebSocket::rtt), and finds out whether the server is still there: see
    /// [`keepalive_timeout`](Self::keepalive_timeout). Its pong is no event. Pings are sent while the
    /// connection is driven (in a server's handler, with callbacks, within [`WebSocket::drive`]), its
    /// [`recv`](WebSocket::recv) is polled, or a task waits for what it has sent to be written, and at no
    /// other time.
    pub fn keepalive(mut self, interval: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.settings).staying.interval = some_time(interval);
        self
    }

    /// Sets how long the server may be silent after such a ping. Default 20 s. Zero gives up every server at the first
    /// ping; for no pings, see [`keepalive`](Self::keepalive).
    ///
    /// Anything that comes will do, not only the pong, and where much waits to be sent, so will that the
    /// server takes of it. Else the connection is given up: [`Ended::Silent`](crate::Ended::Silent).
    /// That takes someone who receives, or drives, since only they can tell that nothing has come.
    pub fn keepalive_timeout(mut self, timeout: Duration) -> Self {
        Arc::make_mut(&mut self.settings).staying.timeout = timeout;
        self
    }

    /// Sets after how long without a message in either direction the connection is closed, with 1001
    /// and the reason `idle`; pings and pongs are none. It may be up to a quarter longer. Default, and
    /// with zero, never.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        Arc::make_mut(&mut self.settings).staying.idle = some_time(timeout);
        self
    }

    /// Sets how many bytes may wait to be written before sending waits too. Default 1 MiB; 0 is as 1: each message
    /// waits for those before it.
    pub fn high_water(mut self, bytes: usize) -> Self {
        // Nothing is ever below nothing.
        Arc::make_mut(&mut self.settings).output.high_water = bytes.max(1);
        self
    }

    /// Sets how many bytes may wait to be written at all, where a callback sends and cannot wait:
    /// more ends the connection. And how many messages may take that only wait to be replaced
    /// ([`Sender::send_latest`](crate::Sender::send_latest)): more are refused. Default 32 MiB. It has to be more than
    /// [`high_water`](Self::high_water), so that who can wait does before.
    pub fn output_limit(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.settings).output.limit = bytes;
        self
    }

    /// Has the connection closed with this code where that much output waits, in place of cutting it
    /// off: 1008 to one that reads too slowly ([`CloseCode::POLICY_VIOLATION`]), or 1013 to one that may
    /// come back ([`CloseCode::TRY_AGAIN_LATER`]). What waits is written before it, as far as the close
    /// timeout permits; a code that this end may not send cuts off too. Default: it is cut off, with
    /// [`Ended::Overflow`](crate::Ended::Overflow), which frees what waits at once.
    pub fn close_on_overflow(mut self, code: CloseCode) -> Self {
        Arc::make_mut(&mut self.settings).output.overflow = Some(code);
        self
    }

    /// Sets whom to trust with TLS, and who we are.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// Follows up to `limit` redirects (301, 302, 303, 307 and 308). Default 0: an answer that
    /// redirects is an error that holds the answer, as it is in browsers.
    ///
    /// Another origin (scheme, host and port) gets no `Authorization`, `Cookie` or
    /// `Proxy-Authorization` header, no user name and password and no client's certificate set with
    /// [`ClientTls::certificate_pem`]; other headers it gets. From `wss` to `ws` is not followed.
    pub fn redirects(mut self, limit: usize) -> Self {
        self.redirects = limit;
        self
    }

    /// Connects through a proxy, whatever the environment says: [`no_proxy_for`](Self::no_proxy_for) alone makes exceptions.
    ///
    /// By default the environment is read as curl reads it: `wss_proxy`, `https_proxy`, `all_proxy`
    /// for `wss`, `ws_proxy`, `http_proxy`, `all_proxy` for `ws`; in capitals too, but for
    /// `HTTP_PROXY`, which is not read. `no_proxy` and `NO_PROXY` name who is reached without.
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy.source = Source::Given(Box::new(proxy));
        self
    }

    /// Connects without a proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.proxy.source = Source::Nobody;
        self
    }

    /// Says who is reached without the proxy, in place of `NO_PROXY` and written as it is: names,
    /// which stand for those below them too, addresses, networks as `10.0.0.0/8`, each with a port or
    /// without, or `*` for everyone; apart by commas. A name may be in its own script, as in `внутри.рф`.
    pub fn no_proxy_for(mut self, list: impl Into<String>) -> Self {
        self.proxy.except = Some(list.into());
        self
    }

    /// Says at which addresses a host is reached, in place of asking the system. With a port, as
    /// `example.com:443`, it counts for that port alone; the port 0 of an address is the URL's. The host is written as in
    /// a URL: in letters of any script, and an IPv6 address in brackets or, without a port, bare.
    pub fn resolve(
        mut self,
        host: impl Into<String>,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let addresses = addresses.into_iter().collect();
        self.dial.resolved.push((host.into(), addresses));
        self
    }

    /// Connects to a Unix socket in place of the URL's host, which is then only asked for. There is
    /// no proxy on that way.
    #[cfg(unix)]
    pub fn unix_socket(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.unix_socket = Some(path.into());
        self
    }

    /// Connects from an address of this machine. Only addresses of its family are tried; one that is
    /// unspecified, as `0.0.0.0`, chooses the family and nothing else.
    pub fn local_address(mut self, address: IpAddr) -> Self {
        self.dial.local_address = Some(address);
        self
    }

    /// Connects through a network interface, such as `eth1`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.dial.interface = Some(name.into());
        self
    }

    /// Sets whether small writes go out at once (`TCP_NODELAY`). Default true: messages are written
    /// whole, and waiting to join them to others only delays them.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.dial.nodelay = nodelay;
        self
    }

    /// Has the system ask the other end whether it is still there after that long without a byte
    /// (`SO_KEEPALIVE`), or with `None` or zero never. The system counts whole seconds, from 1 to 32,767: what is
    /// between two is rounded up. Default never.
    pub fn tcp_keepalive(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.dial.keepalive = some_time(idle);
        self
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn subprotocols(&self) -> &[String] {
        &self.subprotocols
    }

    pub(crate) fn most_message(&self) -> usize {
        self.limits.message
    }

    pub(crate) fn most_output(&self) -> usize {
        self.settings.output.limit
    }

    /// Opens the connection.
    ///
    /// # Errors
    /// [`Error::Open`], which names the server, and has what kept it from opening ([`Error::cause`]):
    /// [`Error::is_connect`], [`Error::is_handshake`] (with the response, where there was one), [`Error::is_timeout`],
    /// [`Error::is_lost`], [`Error::Redirect`]. Without that, as nobody was asked: [`Error::is_user`], where the URL or the
    /// request cannot be, and [`Error::Random`], where the system gives no random numbers.
    ///
    /// # Panics
    /// As tokio does, outside a runtime, and in one without I/O or time: build it with `enable_all`.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up.
    pub async fn connect(&self) -> Result<WebSocket> {
        self.establish().await.map(WebSocket::new)
    }

    /// Opens the connection on a stream of the user's own, in place of TCP. For a `wss` URL, TLS is
    /// spoken on it. A stream that panics is one that fails: the connection is lost, with what it panicked with in the
    /// error.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    ///
    /// # Panics
    /// As tokio does, in a runtime without time, and for a `TcpStream` in one without I/O, also where the stream
    /// is of another runtime: build it with `enable_all`.
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub async fn connect_over<S>(&self, stream: S) -> Result<WebSocket>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.establish_over(stream).await.map(WebSocket::new)
    }

    /// Opens the connection, following redirects.
    ///
    /// The story comes in a box of its own, so that its buffers do not stay in the future of whoever
    /// holds the connection for hours.
    ///
    /// # Errors
    /// [`Error::Url`], and [`Error::Handshake`] for what cannot be sent, before anything is; [`Error::Open`] with
    /// [`Error::Resolve`], [`Error::Family`], [`Error::Local`], [`Error::Connect`], [`Error::Proxy`],
    /// [`Error::Tls`], [`Error::Lost`];
    /// [`Error::Handshake`], [`Error::Unreadable`] and [`Error::Answer`] for an answer that declines or breaks a rule;
    /// [`Error::Redirect`]; [`Error::Timeout`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection; nothing is left behind.
    pub(crate) async fn establish(&self) -> Result<Established> {
        Box::pin(async {
            let mut endpoint = self.endpoint()?;
            let mut trail = Trail::new(self.redirects);
            loop {
                let error = match self.establish_at(&endpoint, trail.is_abroad).await {
                    Ok(established) => return Ok(established),
                    Err(error) => error,
                };
                let next = match &error {
                    Error::Handshake(HandshakeError::Status(response)) => {
                        trail.follow(&endpoint, response)
                    }
                    _ => Ok(None),
                };
                let why = match next {
                    Ok(Some(next)) => {
                        endpoint = next;
                        continue;
                    }
                    Ok(None) => error,
                    Err(not_followed) => not_followed,
                };
                return Err(trail.tell(&endpoint, why));
            }
        })
        .await
    }

    /// Opens the connection at one server; strangers are not told who we are.
    async fn establish_at(&self, endpoint: &Endpoint, is_abroad: bool) -> Result<Established> {
        let asked = self.ask(endpoint, is_abroad)?;
        let (stream, is_proxys_tls) = self.reach(endpoint).await?;
        // TLS within the proxy's does not tell.
        let peer = stream.peer_addr();
        let stream = self.secure(endpoint, stream, is_abroad).await?;
        let tls_is_servers = endpoint.secure || !is_proxys_tls;
        let opened = self
            .upgrade(endpoint, stream, asked, tls_is_servers)
            .await?;
        Ok(Established {
            peer_addr: opened.peer_addr.or(peer),
            ..opened
        })
    }

    /// Opens the connection on a user's own stream; with TLS on it first for a `wss` URL.
    ///
    /// # Errors
    /// As [`establish`](Self::establish), without those of the way to the server.
    ///
    /// # Cancel safety
    /// Dropping the future drops the stream.
    pub(crate) async fn establish_over<S: Io + 'static>(&self, stream: S) -> Result<Established> {
        Box::pin(async {
            let endpoint = self.endpoint()?;
            let established = async {
                let asked = self.ask(&endpoint, false)?;
                let stream = self.secure(&endpoint, Stream::new(stream), false).await?;
                self.upgrade(&endpoint, stream, asked, true).await
            };
            let established = established.await;
            established.map_err(|error| Trail::new(0).tell(&endpoint, error))
        })
        .await
    }

    pub(super) fn endpoint(&self) -> Result<Endpoint> {
        #[cfg_attr(not(unix), expect(unused_mut, reason = "there are no Unix sockets"))]
        let mut endpoint = Endpoint::parse(&self.url)?;
        #[cfg(unix)]
        if self.unix_socket.is_some() {
            endpoint.unix_socket.clone_from(&self.unix_socket);
        }
        Ok(endpoint)
    }

    /// Connects to the server, by whichever way leads to it. Tells whether that begins with TLS to a proxy.
    pub(super) async fn reach(&self, endpoint: &Endpoint) -> Result<(Stream, bool)> {
        let deadline = after(self.connect_timeout);
        #[cfg(unix)]
        if let Some(path) = &endpoint.unix_socket {
            let unix = super::dial::connect_unix(path, deadline);
            return Ok((Stream::new(unix.await?), false));
        }
        match self.proxy.proxy(endpoint, |name| std::env::var_os(name))? {
            None => {
                let tcp = self.dial.connect(&endpoint.host, endpoint.port, deadline);
                Ok((Stream::Tcp(tcp.await?), false))
            }
            Some(proxy) => {
                let (dial, limits) = (&self.dial, self.head_limits);
                let targets = proxy.targets(dial, endpoint, deadline).await?;
                proxy
                    .tunnel(dial, endpoint, targets, limits, deadline)
                    .await
                    .map(|stream| (stream, proxy.speaks_tls()))
                    .map_err(|error| proxy.error(error))
            }
        }
    }

    /// Whether a server may be reached over HTTP/3, which is on UDP and within TLS.
    ///
    /// # Errors
    /// [`Error::Setup`].
    #[cfg(feature = "http3")]
    pub(super) fn check_http3(&self, endpoint: &Endpoint) -> Result<()> {
        let refuse = |why: &str| Err(Error::Setup(format!("HTTP/3 {why}").into()));
        #[cfg(unix)]
        if endpoint.unix_socket.is_some() {
            return refuse("is on UDP, and not on a Unix socket");
        }
        if !endpoint.secure {
            return refuse("is always within TLS: its URL begins with wss://");
        }
        match self.proxy.proxy(endpoint, |name| std::env::var_os(name))? {
            Some(_) => {
                refuse("is on UDP, which no proxy carries, and this server is reached through one")
            }
            None => Ok(()),
        }
    }

    /// Connects to the server over QUIC.
    #[cfg(feature = "http3")]
    pub(super) async fn reach_http3(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(quinn::Endpoint, quinn::Connection)> {
        let (host, deadline) = (&endpoint.host, after(self.connect_timeout));
        let config = tokio::time::timeout_at(deadline, self.tls.quic(host));
        let config = config
            .await
            .unwrap_or(Err(Error::Timeout(crate::Deadline::Tls)))?;
        let dialled = self
            .dial
            .connect_quic(host, endpoint.port, deadline, config);
        dialled.await
    }

    /// Sets up TLS for a `wss` URL. Strangers are not told who we are.
    #[cfg(feature = "tls")]
    async fn secure(&self, endpoint: &Endpoint, stream: Stream, is_abroad: bool) -> Result<Stream> {
        let anonymous = is_abroad.then(|| self.tls.without_certificate());
        let tls = anonymous.as_ref().unwrap_or(&self.tls);
        self.secure_by(tls, false, endpoint, stream).await
    }

    /// The same for HTTP/2.
    #[cfg(all(feature = "tls", feature = "http2"))]
    pub(super) async fn secure_http2(&self, endpoint: &Endpoint, stream: Stream) -> Result<Stream> {
        self.secure_by(&self.tls, true, endpoint, stream).await
    }

    #[cfg(feature = "tls")]
    async fn secure_by(
        &self,
        tls: &ClientTls,
        http2: bool,
        endpoint: &Endpoint,
        stream: Stream,
    ) -> Result<Stream> {
        if !endpoint.secure {
            return Ok(stream);
        }
        let host = &endpoint.host;
        let secured = tokio::time::timeout(self.tls_timeout, async {
            Ok(match stream {
                Stream::Tcp(tcp) => {
                    Stream::ClientTls(Box::new(tls.connect(host, http2, tcp).await?))
                }
                other => Stream::new(tls.connect(host, http2, other).await?),
            })
        });
        secured
            .await
            .unwrap_or(Err(Error::Timeout(crate::Deadline::Tls)))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(&self, endpoint: &Endpoint, stream: Stream, _: bool) -> Result<Stream> {
        if endpoint.secure {
            let problem = "wss needs the feature `tls` of sockeye, which this program lacks";
            return Err(Error::Url(problem.into()));
        }
        Ok(stream)
    }

    #[cfg(all(not(feature = "tls"), feature = "http2"))]
    pub(super) async fn secure_http2(&self, endpoint: &Endpoint, stream: Stream) -> Result<Stream> {
        self.secure(endpoint, stream, false).await
    }
}

/// Without what a log must not hold: passwords, cookies, the values of headers, and queries and subprotocols, in which
/// tokens are.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.headers.iter().map(|(name, _)| name).collect();
        f.debug_struct("Client")
            .field("url", &redacted(&self.url))
            .field("headers", &names)
            .field("subprotocols", &self.subprotocols.len())
            .field("deflate", &self.deflate)
            .field("redirects", &self.redirects)
            .field("proxy", &self.proxy)
            .field("dial", &self.dial)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "connect_tests.rs"]
mod tests;
