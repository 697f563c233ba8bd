//! Whose pages may connect: the policy for the header `Origin` (RFC 6455 §4.2.2, 4 and §10.2; RFC 6454).

use std::{fmt, net::Ipv6Addr, str, sync::Arc};

use sockeye_proto::{
    Shown,
    handshake::{HandshakeError, HeaderFields, Refusal, Request},
};

use super::Peer;
use crate::{Error, Result};

/// Whose pages may connect. The default is [`same`](Self::same).
///
/// A browser sends cookies along with a request for a WebSocket whichever page asks, and no other
/// rule keeps the pages of one site from those of another: who does not look at `Origin` lets any
/// page that a user visits talk in that user's name. A request without it is not a page's, and is let
/// in by every policy; so is one whose `Origin` is made up, as any program can. It says whose page asks,
/// not who the client is.
///
/// ```
/// # fn example() -> sockeye::Result<()> {
/// use sockeye::{Acceptor, server::Origins};
///
/// // Pages of this server, and those of an application elsewhere.
/// let origins = Origins::same().and(["https://app.example.com", "https://*.preview.example.com"])?;
/// let acceptor = Acceptor::new().origins(origins);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Origins {
    any: bool,
    same: bool,
    listed: Arc<Vec<Listed>>,
}

impl Default for Origins {
    fn default() -> Self {
        Self::same()
    }
}

impl Origins {
    /// Lets in pages of this server itself: their origin has the host and the port that the request's
    /// `Host` names, and the scheme `http` or `https`.
    ///
    /// Where no port is named, it is that of the origin's scheme. Where this server speaks TLS, the scheme
    /// has to be `https`; where it does not, a proxy in front may, so that both will do: to have `https`
    /// alone there, [list](Self::list) the origin. A proxy that does not hand `Host` on as the client sent
    /// it calls for a list too. `null`, the origin of sandboxed pages and of files, is nobody's.
    ///
    /// A name of somebody else's that leads to this server is let in, since both agree (DNS rebinding). Such a page
    /// has none of the cookies of this site; a server without a login, as on loopback, had better list its origins.
    pub fn same() -> Self {
        Self {
            any: false,
            same: true,
            listed: Arc::default(),
        }
    }

    /// Lets in pages of these origins alone, each written as browsers do: `https://example.com`,
    /// `http://localhost:5173`. A host `*.example.com` is any that ends so, however deep, and not
    /// `example.com` itself.
    ///
    /// Scheme, host and port are compared; one that is not named is that of the scheme, and case does not
    /// matter.
    ///
    /// # Errors
    /// [`Error::Setup`] for what is no such origin.
    pub fn list<I>(origins: I) -> Result<Self>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let none = Self {
            any: false,
            same: false,
            listed: Arc::default(),
        };
        none.and(origins)
    }

    /// Lets in any page, of any site. For what needs no secret, or has one that browsers do not send by
    /// themselves; and where [`Acceptor::on_request`](super::Acceptor::on_request) looks at the origin.
    pub fn any() -> Self {
        Self {
            any: true,
            same: true,
            listed: Arc::default(),
        }
    }

    /// Lets in pages of these origins too, written as for [`list`](Self::list).
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub fn and<I>(mut self, origins: I) -> Result<Self>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let listed = Arc::make_mut(&mut self.listed);
        for origin in origins {
            listed.push(Listed::parse(origin.as_ref())?);
        }
        Ok(self)
    }

    /// Whether a request may come in.
    ///
    /// # Errors
    /// [`HandshakeError::Repeated`] for several origins, of which nobody knows which one is meant;
    /// [`HandshakeError::Origin`] with 403.
    pub(super) fn check(&self, request: &Request, peer: &Peer) -> Result<(), HandshakeError> {
        let headers = request.headers();
        let Some(value) = headers.at_most_one("Origin")? else {
            return Ok(());
        };
        let host = peer.host(request);
        if self.any || self.permit(value, host, peer.is_secure()) {
            return Ok(());
        }
        let who = match self.permit(value, host, false) {
            true => {
                "its scheme alone differs, which has to be https where the client speaks TLS".into()
            }
            false => format!("{self} may"),
        };
        let why = format!(
            "a page of {:?} may not connect to {:?} here: {who}. Whoever runs this server permits \
             others by `Acceptor::origins`, or `sockeye serve --origin`, in place of the default, `same`\n",
            Shown(&String::from_utf8_lossy(value)),
            Shown(&String::from_utf8_lossy(host))
        );
        Err(HandshakeError::Origin(Box::new(Refusal::new(403, why))))
    }

    fn permit(&self, origin: &[u8], host: &[u8], secure: bool) -> bool {
        let Some(origin) = str::from_utf8(origin).ok().and_then(Origin::parse) else {
            return false;
        };
        let same = self.same
            && str::from_utf8(host)
                .ok()
                .and_then(Authority::parse)
                .is_some_and(|host| origin.is_of(&host, secure));
        same || self.listed.iter().any(|listed| listed.matches(&origin))
    }
}

/// Who is let in, in words.
impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.any {
            return f.write_str("every page");
        }
        if self.same {
            f.write_str("pages of this host and port")?;
        } else if self.listed.is_empty() {
            return f.write_str("no page");
        } else {
            f.write_str("pages")?;
        }
        for (count, listed) in self.listed.iter().enumerate() {
            f.write_str(match (self.same, count) {
                (true, 0) => ", and of ",
                (false, 0) => " of ",
                _ => ", ",
            })?;
            f.write_str(&listed.text)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origins({self})")
    }
}

/// An origin that may connect.
#[derive(Clone, PartialEq, Eq)]
struct Listed {
    /// As it was given, in lower case.
    text: Box<str>,
    /// Whether it stands for what is below it, and not for itself.
    below: bool,
}

impl Listed {
    fn parse(origin: &str) -> Result<Self> {
        let wrong = |why: &str| {
            let why = format!("{origin:?} is no origin that can be let in: {why}");
            Err(Error::Setup(why.into()))
        };
        if origin == "*" || origin.contains("://*") && !origin.contains("://*.") {
            return wrong("everyone is let in by `any`");
        }
        if origin == "null" {
            return wrong("it is that of every page that has none");
        }
        if !origin.is_ascii() {
            return wrong("browsers write a host in ASCII, as xn--...");
        }
        let text = origin.to_ascii_lowercase();
        let below = text.contains("://*.");
        let listed = Self {
            text: text.into(),
            below,
        };
        match listed.origin() {
            None => wrong("it is a scheme, a host and perhaps a port, as https://example.com:8443"),
            Some(origin) if below && origin.authority.host.ends_in_number() => {
                wrong("nothing is below an address")
            }
            Some(_) => Ok(listed),
        }
    }

    /// What it stands for, without the wildcard.
    fn origin(&self) -> Option<Origin<'_>> {
        let (scheme, authority) = self.text.split_once("://")?;
        let authority = authority.strip_prefix("*.").unwrap_or(authority);
        Origin::new(scheme, authority)
    }

    fn matches(&self, origin: &Origin<'_>) -> bool {
        let Some(ours) = self.origin() else {
            return false;
        };
        if !ours.scheme.eq_ignore_ascii_case(origin.scheme) || ours.port() != origin.port() {
            return false;
        }
        match (self.below, ours.authority.host, origin.authority.host) {
            (false, ours, theirs) => ours == theirs,
            (true, Host::Name(ours), Host::Name(theirs)) => theirs
                .len()
                .checked_sub(ours.len() + 1)
                .filter(|at| *at > 0)
                .and_then(|at| theirs.get(at..)?.strip_prefix('.'))
                .is_some_and(|end| end.eq_ignore_ascii_case(ours)),
            (true, ..) => false,
        }
    }
}

/// An origin as it is written (RFC 6454 §6.2): nothing but these three.
#[derive(Clone, Copy)]
struct Origin<'a> {
    scheme: &'a str,
    authority: Authority<'a>,
}

impl<'a> Origin<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        Self::new(scheme, authority)
    }

    fn new(scheme: &'a str, authority: &'a str) -> Option<Self> {
        let mut letters = scheme.bytes();
        let is_scheme = letters.next()?.is_ascii_alphabetic()
            && letters.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
        // A colon without a port is a URL's, not an origin's.
        if !is_scheme || authority.ends_with(':') {
            return None;
        }
        let authority = Authority::parse(authority)?;
        Some(Self { scheme, authority })
    }

    fn is_scheme(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// The port, or that of the scheme where none is named (RFC 6454 §4, 6).
    fn port(&self) -> Option<u16> {
        self.authority.port.or_else(|| self.default_port())
    }

    fn default_port(&self) -> Option<u16> {
        if self.is_scheme("https") || self.is_scheme("wss") {
            Some(443)
        } else if self.is_scheme("http") || self.is_scheme("ws") {
            Some(80)
        } else {
            None
        }
    }

    /// Whether it is that of a page which was asked for at this host.
    fn is_of(&self, host: &Authority<'_>, secure: bool) -> bool {
        let scheme = self.is_scheme("https") || self.is_scheme("http") && !secure;
        let port = host.port.or_else(|| self.default_port());
        scheme && self.authority.host == host.host && self.port() == port
    }
}

/// A host and a port, of an origin or of `Host` (RFC 9110 §7.2).
#[derive(Clone, Copy)]
struct Authority<'a> {
    host: Host<'a>,
    port: Option<u16>,
}

#[derive(Clone, Copy)]
enum Host<'a> {
    /// A name, or an address of IPv4.
    Name(&'a str),
    V6(Ipv6Addr),
}

impl Host<'_> {
    /// Whether it is an address, or the end of one: no name ends in a number (WHATWG URL §3.5).
    fn ends_in_number(&self) -> bool {
        match self {
            Self::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name);
                let last = name.rsplit('.').next().unwrap_or(name);
                last.bytes().all(|b| b.is_ascii_digit())
            }
            Self::V6(_) => true,
        }
    }
}

impl PartialEq for Host<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Name(one), Self::Name(other)) => one.eq_ignore_ascii_case(other),
            (Self::V6(one), Self::V6(other)) => one == other,
            _ => false,
        }
    }
}

impl<'a> Authority<'a> {
    /// Nothing else may stand in it: no user, no path, no second colon.
    fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']')?;
            (Host::V6(address.parse().ok()?), port)
        } else {
            let end = text.find(':').unwrap_or(text.len());
            let (name, port) = text.split_at(end);
            let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            if name.is_empty() || !name.bytes().all(is_name) {
                return None;
            }
            (Host::Name(name), port)
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                Some(digits.parse().ok()?)
            }
            Some(_) => return None,
        };
        Some(Self { host, port })
    }
}

#[cfg(test)]
#[path = "origins_tests.rs"]
mod tests;
