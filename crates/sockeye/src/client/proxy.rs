//! Proxies that are told whom to connect to: HTTP CONNECT (RFC 9110 §9.3.6) and SOCKS5.

use std::{error::Error as StdError, fmt, net::SocketAddr, str::FromStr, sync::Arc};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};
use url::Url;

use sockeye_proto::handshake::{HandshakeError, HeadLimits, Response};

#[cfg(feature = "tls")]
use super::{ClientTls, tls::as_tls};
use super::{
    credentials::{Credentials, redacted},
    dial::{Dial, race},
    socks,
    upgrade::BODY_PATIENCE,
    url::{Endpoint, host},
};
use crate::{
    Error, Result,
    head::{read_body, read_response},
    keepalive::after,
    stream::Stream,
};

/// A proxy, and who we are to it.
///
/// Made from a URL as curl takes it: `http://`, `https://` (TLS to the proxy), `socks5://` (names
/// are resolved here) or `socks5h://` (names are resolved by the proxy); without a scheme it is
/// `http://`. The port is 1080 where none is given, 443 for `https://`. A user name and a password
/// are percent-decoded; they are in no message of an error and not printed.
///
/// ```
/// use sockeye::client::{Client, Proxy};
/// let proxy: Proxy = "http://user:password@proxy.example:3128".parse()?;
/// let client = Client::new("wss://example.com/socket").proxy(proxy);
/// # Ok::<(), sockeye::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Proxy {
    scheme: Scheme,
    host: String,
    port: u16,
    credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    tls: ClientTls,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Socks5,
    Socks5h,
}

impl Proxy {
    /// Sets the user's name and password, in place of those in the URL: for `Basic`, or for SOCKS5
    /// (RFC 1929).
    #[must_use]
    pub fn credentials(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials = Some(Credentials::new(user, password));
        self
    }

    /// Sets whom to trust as an `https://` proxy. What [`Client::tls`](super::Client::tls) says is
    /// about the server alone.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: ClientTls) -> Self {
        self.tls = tls;
        self
    }

    /// Whether what is said to it is said within TLS.
    pub(super) fn speaks_tls(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// The addresses of the server, where this end finds them (by the deadline) and not the proxy; else none.
    ///
    /// # Errors
    /// [`Error::Resolve`]: it says nothing about the proxy.
    pub(super) async fn targets(
        &self,
        dial: &Dial,
        endpoint: &Endpoint,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>> {
        match self.scheme {
            Scheme::Socks5 => {
                dial.addresses(&endpoint.host, endpoint.port, deadline)
                    .await
            }
            Scheme::Http | Scheme::Https | Scheme::Socks5h => Ok(Vec::new()),
        }
    }

    /// Has the proxy connect to the server, at one of its [`targets`](Self::targets) where it has any, by the deadline: the
    /// stream is the server's from there on.
    ///
    /// # Errors
    /// [`ProxyError`].
    ///
    /// # Cancel safety
    /// Dropping the future drops the connection.
    pub(super) async fn tunnel(
        &self,
        dial: &Dial,
        endpoint: &Endpoint,
        targets: Vec<SocketAddr>,
        limits: HeadLimits,
        deadline: Instant,
    ) -> Result<Stream, ProxyError> {
        let tunnel = async |target| {
            let tcp = dial.connect(&self.host, self.port, deadline).await?;
            // What it does from there on is not about whether it can be reached.
            timeout_at(
                deadline,
                self.tunnel_on(tcp, endpoint, target, limits, deadline),
            )
            .await
            .unwrap_or(Err(ProxyError::TimedOut))
        };
        match self.scheme {
            Scheme::Http | Scheme::Https | Scheme::Socks5h => tunnel(None).await,
            Scheme::Socks5 => race(targets, async |address| match tunnel(Some(address)).await {
                // So it would be for each of the server's addresses, and accounts are locked for that.
                Err(refused @ ProxyError::Credentials { .. }) => Ok(Err(refused)),
                connected => connected.map(Ok),
            })
            .await
            .map_err(|mut failed: Vec<(_, ProxyError)>| {
                // What had no time left says nothing beside one for which the proxy was reached.
                let is_late = |(_, error): &(_, ProxyError)| matches!(error, ProxyError::TimedOut);
                match (failed.iter().any(is_late), failed.pop()) {
                    (true, _) => ProxyError::TimedOut,
                    (false, Some((_, error))) => error,
                    (false, None) => ProxyError::Malformed("there is no address to ask for"),
                }
            })?,
        }
    }

    /// Makes a connection to the proxy one to the server, at an address where there is one.
    async fn tunnel_on(
        &self,
        tcp: TcpStream,
        endpoint: &Endpoint,
        target: Option<SocketAddr>,
        limits: HeadLimits,
        deadline: Instant,
    ) -> Result<Stream, ProxyError> {
        let mut stream = self.secure(tcp).await?;
        match self.scheme {
            Scheme::Http | Scheme::Https => {
                let asked = self.ask_http(&mut stream, endpoint, limits, deadline).await;
                // It may refuse our certificate only now, as a server may.
                #[cfg(feature = "tls")]
                let asked = asked.map_err(|error| match error {
                    ProxyError::Unreachable(error) => as_tls(&self.host, error).into(),
                    error => error,
                });
                asked?;
            }
            Scheme::Socks5 | Scheme::Socks5h => {
                let (host, port) = match target {
                    Some(address) => (address.ip().to_string(), address.port()),
                    None => (endpoint.host.clone(), endpoint.port),
                };
                socks::connect(&mut stream, self.credentials.as_ref(), &host, port).await?;
            }
        }
        Ok(stream)
    }

    /// Sets up TLS with the proxy itself, where it speaks that.
    async fn secure(&self, tcp: TcpStream) -> Result<Stream> {
        if self.scheme != Scheme::Https {
            return Ok(Stream::Tcp(tcp));
        }
        #[cfg(feature = "tls")]
        {
            let tls = self.tls.connect(&self.host, false, tcp).await?;
            Ok(Stream::ClientTls(Box::new(tls)))
        }
        #[cfg(not(feature = "tls"))]
        {
            let problem =
                "an https proxy needs the feature `tls` of sockeye, which this program lacks";
            Err(Error::Url(problem.into()))
        }
    }

    /// Asks an HTTP proxy for a tunnel.
    async fn ask_http(
        &self,
        stream: &mut Stream,
        endpoint: &Endpoint,
        limits: HeadLimits,
        deadline: Instant,
    ) -> Result<(), ProxyError> {
        let authority = authority(&endpoint.host, endpoint.port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(credentials) = &self.credentials {
            request += &format!("Proxy-Authorization: {}\r\n", credentials.basic()?);
        }
        request += "\r\n";
        stream
            .write_all(request.as_bytes())
            .await
            .map_err(Error::lost)?;
        stream.flush().await.map_err(Error::lost)?;

        let mut buffer = Vec::new();
        let mut response = match read_response(stream, limits, &mut buffer).await {
            Err(Error::Handshake(error)) => return Err(ProxyError::Http(error)),
            response => response?,
        };
        if !(200..=299).contains(&response.status()) {
            // Well before the deadline, or that is what would be told.
            let left = deadline.saturating_duration_since(Instant::now());
            let by = after(BODY_PATIENCE.min(left / 2));
            read_body(stream, &mut response, buffer, by).await;
            return Err(ProxyError::Status {
                response: Arc::new(response),
                credentials: self.credentials.is_some(),
            });
        }
        // The server waits for our request: what comes now would be taken for its answer.
        if !buffer.is_empty() {
            return Err(ProxyError::Malformed("something follows its answer"));
        }
        Ok(())
    }

    pub(super) fn error(&self, source: ProxyError) -> Error {
        Error::Proxy {
            proxy: self.to_string().into(),
            source: Arc::new(source),
        }
    }
}

impl FromStr for Proxy {
    type Err = Error;

    /// # Errors
    /// [`Error::Url`], which says what is wrong with it.
    fn from_str(text: &str) -> Result<Self> {
        let error = |problem: &str| {
            let shown = redacted(text);
            Error::Url(format!("{shown:?} is no proxy's URL: {problem}").into())
        };
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "socks5" => Scheme::Socks5,
            "socks5h" => Scheme::Socks5h,
            _ => {
                return Err(error(
                    "it begins with http://, https://, socks5:// or socks5h://",
                ));
            }
        };
        let parse = |as_scheme: &str| {
            Url::parse(&format!("{as_scheme}://{rest}"))
                .map_err(|problem| error(&problem.to_string()))
        };
        // A URL does not tell whether its scheme's own port was written; another scheme does.
        let (mut url, other) = (parse("http")?, parse("https")?);
        let default = if scheme == Scheme::Https { 443 } else { 1080 };
        let credentials = Credentials::take(&mut url);
        let host = host(&url).ok_or_else(|| error("no host"))?;
        Ok(Self {
            scheme,
            host,
            port: url.port().or(other.port()).unwrap_or(default),
            credentials,
            #[cfg(feature = "tls")]
            tls: ClientTls::new(),
        })
    }
}

/// Its URL, without a user name and a password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Socks5 => "socks5",
            Scheme::Socks5h => "socks5h",
        };
        write!(f, "{scheme}://{}", authority(&self.host, self.port))
    }
}

/// A host and its port, as a URL has them.
pub(super) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Why a proxy did not connect us.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum ProxyError {
    /// The proxy itself: its name, its address, TLS with it, or it was not reached in time.
    Unreachable(Error),
    /// It was reached, and had not connected us to the server when the connect timeout was over.
    TimedOut,
    /// An HTTP proxy answered with another status than 200-299. 407: it wants credentials.
    Status {
        /// Its answer, with what has come of the body within a second.
        response: Arc<Response>,
        /// Whether it was given credentials.
        credentials: bool,
    },
    /// What an HTTP proxy answered is not HTTP, or too large.
    Http(HandshakeError),
    /// A SOCKS proxy wants credentials.
    Credentials {
        /// Whether it was given some: then it does not know them.
        given: bool,
    },
    /// A SOCKS proxy did not connect to the server.
    Socks {
        /// Whom it was asked to connect to.
        target: Box<str>,
        /// Its answer (RFC 1928 §6).
        reply: u8,
    },
    /// It broke a rule of its protocol; the text says how.
    Malformed(&'static str),
}

impl From<Error> for ProxyError {
    fn from(error: Error) -> Self {
        Self::Unreachable(error)
    }
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => error.fmt(f),
            Self::TimedOut => {
                f.write_str("it was reached, and did not connect us in time (the connect timeout)")
            }
            Self::Status {
                response,
                credentials,
            } => {
                write!(f, "it answered {response}")?;
                match (response.status(), credentials) {
                    (407, false) => f.write_str(": it wants a user name and a password"),
                    (407, true) => {
                        f.write_str(": it does not take the user name and password given")
                    }
                    _ => Ok(()),
                }
            }
            Self::Http(error) => error.fmt(f),
            Self::Credentials { given: false } => {
                f.write_str("it wants a user name and a password")
            }
            Self::Credentials { given: true } => {
                f.write_str("it does not take the user name and password given")
            }
            Self::Socks { target, reply } => {
                write!(f, "no connection to {target}: {}", socks::reply(*reply))
            }
            Self::Malformed(how) => write!(f, "it does not speak its protocol: {how}"),
        }
    }
}

impl StdError for ProxyError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unreachable(error) => Some(error),
            Self::Http(error) => Some(error),
            _ => None,
        }
    }
}
