//! The opening handshake: what is asked, and what is made of the answer (RFC 6455 §4.1).

use std::{mem, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{io::AsyncWriteExt, time::timeout_at};

use sockeye_proto::{
    Role,
    deflate::{DeflateConfig, DeflateParams},
    handshake::{
        Agreed, HandshakeError, HeadLimits, Key, Response, Subprotocols, UpgradeRequest, is_token,
    },
};

use super::{Client, url::Endpoint};
use crate::{
    Deadline, Error, Result, entropy,
    established::{Established, PeerHead},
    head::{read_body, read_response},
    keepalive::after,
    stream::Stream,
    throttle::Rates,
};

/// How long the body of a refusal is waited for, within the timeout of what is refused.
pub(super) const BODY_PATIENCE: Duration = Duration::from_secs(1);

/// How many bytes of what is not HTTP are told: enough to see who speaks.
const MAX_BEGINNING: usize = 64;

/// What shows a server who the user is; another origin than the user's gets none of it.
const SECRETS: [&str; 3] = ["Authorization", "Cookie", "Proxy-Authorization"];

/// A request, and its bytes.
pub(super) struct Asked {
    pub(super) request: UpgradeRequest,
    bytes: Vec<u8>,
    #[cfg(feature = "tracing")]
    url: Box<str>,
}

/// What is agreed with a server.
pub(super) struct Judged {
    pub(super) subprotocol: Option<Box<str>>,
    pub(super) deflate: Option<(DeflateConfig, DeflateParams)>,
    pub(super) response: Response,
}

impl Client {
    /// The request: all that the user asked for is checked before anyone is bothered with it.
    ///
    /// # Errors
    /// [`Error::Handshake`], [`Error::Setup`] and [`Error::Url`] for what cannot be sent; [`Error::Random`].
    pub(super) fn ask(&self, endpoint: &Endpoint, is_abroad: bool) -> Result<Asked> {
        entropy::probe()?;
        let key = Key::new(entropy::key());
        let mut request = UpgradeRequest::new(&endpoint.host_header, &endpoint.target, key);
        request.subprotocols(self.offer()?);
        if let Some(origin) = &self.origin {
            request.origin(origin);
        }
        if let Some(deflate) = &self.deflate {
            request.extensions(deflate.offer());
        }
        let is_named =
            |name: &str, names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other));
        let mut cookies = self.cookie_pairs()?;
        let mut has_authorization = false;
        for (name, value) in &self.headers {
            if is_abroad && is_named(name, &SECRETS) {
                continue;
            }
            // A request has one header of cookies (RFC 6265 §5.4).
            if is_named(name, &["Cookie"]) {
                cookies.push(value.clone());
                continue;
            }
            has_authorization |= is_named(name, &["Authorization"]);
            request.header(name, value)?;
        }
        if !is_abroad {
            if !cookies.is_empty() {
                request.header("Cookie", &cookies.join("; "))?;
            }
            let credentials = self.credentials.as_ref().or(endpoint.credentials.as_ref());
            if let Some(credentials) = credentials.filter(|_| !has_authorization) {
                request.header("Authorization", &credentials.basic()?)?;
            }
        }
        let bytes = request.to_bytes()?;
        Ok(Asked {
            request,
            bytes,
            #[cfg(feature = "tracing")]
            url: endpoint.to_tell(),
        })
    }

    /// The subprotocols. One that cannot be offered is told by its place: where browsers connect, tokens are in them.
    pub(crate) fn offer(&self) -> Result<Subprotocols> {
        const TOKEN: &str = "a token is letters, digits and !#$%&'*+-.^_`|~";
        let mut offer = Subprotocols::new();
        let is_of_token = |c: char| is_token(c.encode_utf8(&mut [0; 4]).as_bytes());
        for (at, name) in self.subprotocols.iter().enumerate() {
            if offer.push(name).is_ok() {
                continue;
            }
            let before = &self.subprotocols[..at];
            let why = match before.iter().position(|other| other == name) {
                Some(first) => format!("is offered already, as number {}", first + 1),
                None => match name.chars().find(|c| !is_of_token(*c)) {
                    Some(wrong) => format!("is not a token: {wrong:?} is in it; {TOKEN}"),
                    None => format!("is not a token: it is empty; {TOKEN}"),
                },
            };
            let why = format!("the subprotocol number {} {why}", at + 1);
            return Err(Error::Setup(why.into()));
        }
        Ok(offer)
    }

    /// The cookies, each as `name=value` (RFC 6265 §4.1.1).
    fn cookie_pairs(&self) -> Result<Vec<String>> {
        let is_octet = |byte: u8| byte.is_ascii_graphic() && !b"\",;\\".contains(&byte);
        let mut pairs = Vec::new();
        for (at, (name, value)) in self.cookies.iter().enumerate() {
            let inside = value
                .strip_prefix('"')
                .and_then(|value| value.strip_suffix('"'));
            let is_name = is_token(name.as_bytes());
            if !is_name || !inside.unwrap_or(value).bytes().all(is_octet) {
                let why = "its name is a token, and its value printable ASCII without spaces, quotes, commas, \
                           semicolons and backslashes";
                // What is no name may be a value, or have one in it.
                let which = match is_name {
                    true => format!("{name:?}"),
                    false => format!("number {}", at + 1),
                };
                let problem = format!("the cookie {which} cannot be sent: {why}");
                return Err(Error::Setup(problem.into()));
            }
            pairs.push(format!("{name}={value}"));
        }
        Ok(pairs)
    }

    /// Asks, and judges the answer, within the handshake timeout. Where the stream speaks TLS that is not the
    /// server's, it is that of the proxy on the way.
    ///
    /// # Errors
    /// [`Error::Handshake`], [`Error::Unreadable`] and [`Error::Answer`]; [`Error::Timeout`]; [`Error::Lost`];
    /// [`Error::Tls`] where the server refuses this client after all.
    pub(super) async fn upgrade(
        &self,
        endpoint: &Endpoint,
        mut stream: Stream,
        asked: Asked,
        tls_is_servers: bool,
    ) -> Result<Established> {
        if let Some(look) = &self.inspect {
            look(&asked.bytes);
        }
        let deadline = after(self.handshake_timeout);
        let answer = timeout_at(deadline, async {
            stream.write_all(&asked.bytes).await.map_err(Error::lost)?;
            stream.flush().await.map_err(Error::lost)?;
            read_answer(&mut stream, self.head_limits).await
        });
        let Ok(answer) = answer.await else {
            return Err(Error::Timeout(Deadline::Handshake));
        };
        #[cfg(feature = "tls")]
        let answer = answer.map_err(|error| match tls_is_servers {
            true => super::tls::as_tls(&endpoint.host, error),
            false => error,
        });
        #[cfg(not(feature = "tls"))]
        let _ = (endpoint, tls_is_servers);
        let (mut response, mut early) = answer?;
        if response.status() != 101 {
            // Not worth the whole deadline.
            let by = deadline.min(after(BODY_PATIENCE));
            read_body(&mut stream, &mut response, mem::take(&mut early), by).await;
        }
        let judged = self.judge(asked.request.check(&response), response)?;
        let peer_addr = stream.peer_addr();
        Ok(self.established(asked, stream, early, judged, peer_addr))
    }

    /// The connection that an answer has opened, with what was read behind that.
    pub(super) fn established(
        &self,
        #[cfg_attr(
            not(feature = "tracing"),
            expect(unused, reason = "for `tracing` alone")
        )]
        asked: Asked,
        stream: Stream,
        early: Vec<u8>,
        judged: Judged,
        peer_addr: Option<SocketAddr>,
    ) -> Established {
        Established {
            peer_addr,
            stream,
            early,
            role: Role::Client {
                masks: entropy::mask,
            },
            subprotocol: judged.subprotocol,
            deflate: judged.deflate,
            limits: self.limits.clone(),
            settings: self.settings.clone(),
            rates: Rates::default(),
            peer_head: PeerHead::Response(Box::new(judged.response)),
            admitted: None,
            #[cfg(feature = "tracing")]
            url: Some(asked.url),
            #[cfg(feature = "metrics")]
            metrics: None,
        }
    }

    /// What is agreed by an answer that is found to agree, or why nothing is.
    ///
    /// # Errors
    /// [`Error::Handshake`] where the server declines, [`Error::Answer`] where its answer breaks a rule.
    pub(super) fn judge(
        &self,
        agreed: Result<Agreed, HandshakeError>,
        response: Response,
    ) -> Result<Judged> {
        let agreed = agreed.and_then(|agreed| {
            let deflate = match self.deflate {
                Some(config) => agreed.deflate(&config)?.map(|params| (config, params)),
                // None was offered, so none was agreed to.
                None => None,
            };
            Ok((agreed.subprotocol, deflate))
        });
        match agreed {
            Ok((subprotocol, deflate)) => Ok(Judged {
                subprotocol: subprotocol.map(Into::into),
                deflate,
                response,
            }),
            Err(declined @ HandshakeError::Status(_)) => Err(declined.into()),
            Err(problem) => Err(Error::Answer {
                problem,
                response: Arc::new(response),
            }),
        }
    }
}

/// Reads the answer's head, and gives what was read behind it.
async fn read_answer(stream: &mut Stream, limits: HeadLimits) -> Result<(Response, Vec<u8>)> {
    let mut bytes = Vec::new();
    match read_response(stream, limits, &mut bytes).await {
        Ok(response) => Ok((response, bytes)),
        Err(Error::Handshake(problem)) => Err(unreadable(problem, &bytes)),
        Err(error) => Err(error),
    }
}

/// What is wrong with an answer; where it is not HTTP's, how it begins says whose it may be.
fn unreadable(problem: HandshakeError, bytes: &[u8]) -> Error {
    let HandshakeError::Malformed(problem) = problem else {
        return problem.into();
    };
    let shown = &bytes[..bytes.len().min(MAX_BEGINNING)];
    let line = shown.split(|byte| matches!(byte, b'\r' | b'\n')).next();
    let begins = line.unwrap_or_default().escape_ascii().to_string();
    Error::Unreadable {
        problem,
        // It stands between double quotes.
        begins: begins.replace("\\'", "'").into(),
    }
}
