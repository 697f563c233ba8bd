//! What is printed when something fails: one line, with what to do about it.

use std::{
    error::Error as StdError,
    fmt::Display,
    io::{self, ErrorKind, Write},
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::Duration,
};

use sockeye::{
    Attempt, Deadline, Ended, Error, ProtocolError,
    client::{ProxyError, RedirectError},
    proto::{
        Shown,
        handshake::{HandshakeError, Response},
    },
};

use crate::{args::Connect, shown::one_line};

/// What clap ends with too.
pub(crate) const MISUNDERSTOOD: u8 = 2;
const FAILED: u8 = 1;

/// Why the command could not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    line: String,
    /// Whether what was asked for can never be: it is as if the command line had not been understood.
    misunderstood: bool,
}

impl Failure {
    pub(crate) fn new(line: impl Into<String>) -> Self {
        Self {
            line: line.into(),
            misunderstood: false,
        }
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        match self.misunderstood {
            true => MISUNDERSTOOD,
            false => FAILED,
        }
    }

    /// A file that is needed and cannot be read.
    pub(crate) fn file(path: &std::path::Path, error: impl Display) -> Self {
        Self::new(format!("{}: {error}", path.display()))
    }

    /// Without them nothing could end in good order.
    pub(crate) fn no_signals(error: io::Error) -> Self {
        Self::new(format!("the system tells of no signals: {error}"))
    }

    /// Where an address cannot be listened on that is another flag's than `--listen`.
    pub(crate) fn listening(flag: &str, error: Error) -> Self {
        match &error {
            Error::Listen { address, source } => {
                let advice = listen_advice(flag, address, source);
                Self::new(format!("{error}; {advice}"))
            }
            _ => error.into(),
        }
    }

    /// Why the connection that was asked for did not open.
    pub(crate) fn opening(args: &Connect, error: Error) -> Self {
        let advice = advice(&error, Some(args));
        let mut failure = Self::with(advice, behind_url(&error));
        if !error.is_user() {
            failure.line = format!("{}: {}", without_secrets(&args.url), failure.line);
        }
        failure
    }

    fn with(advice: Option<String>, error: &Error) -> Self {
        Self {
            line: match advice {
                Some(advice) => format!("{error}; {advice}"),
                None => error.to_string(),
            },
            misunderstood: error.is_user(),
        }
    }

    /// On standard error.
    pub(crate) fn print(&self) {
        tell(self.told());
    }

    /// As one line whatever it holds: a peer may have had a word in it.
    pub(crate) fn told(&self) -> String {
        format!("sockeye: {}", one_line(&self.line))
    }
}

/// Prints a line on standard error. Where nobody takes it (a full disk, a reader that has gone) there is nobody to
/// be told of that, and it must end no connection, as the panic of `eprintln!` would.
pub(crate) fn tell(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// The same, where somebody may have to take it from a pipe and is not to hold up the end: it is let go of after so long.
pub(crate) fn tell_within(patience: Duration, line: String) {
    let (done, told) = mpsc::channel::<()>();
    let telling = thread::Builder::new().spawn(move || {
        tell(line);
        drop(done);
    });
    if telling.is_ok() {
        let _ = told.recv_timeout(patience);
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.line)
    }
}

/// The library's words, and what helps here.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::with(advice(&error, None), &error)
    }
}

/// An error as it reads behind the URL that was given, which it does not repeat.
pub(crate) fn behind_url(error: &Error) -> &Error {
    match error {
        Error::Open {
            is_redirected: false,
            source,
            ..
        } => source,
        error => error,
    }
}

/// What may help: no flag that was given.
fn advice(error: &Error, args: Option<&Connect>) -> Option<String> {
    Some(match error {
        Error::Family { .. } => {
            "check --interface, -4 and -6, of which each chooses between IPv4 and IPv6".into()
        }
        Error::Local { .. } => {
            "give --interface one that this machine has, as `ip address` lists them".into()
        }
        Error::Resolve { source, .. } if source.kind() == ErrorKind::TimedOut => SLOW.into(),
        Error::Resolve { .. } => "check the spelling of the URL, and the network".into(),
        Error::Connect { attempts } => {
            let refused = ErrorKind::ConnectionRefused;
            let is_refused = |attempt: &Attempt| attempt.source.kind() == refused;
            let is_late = |attempt: &Attempt| attempt.source.kind() == ErrorKind::TimedOut;
            // One may be relative.
            let is_path = |attempt: &Attempt| attempt.address.parse::<SocketAddr>().is_err();
            let is_late = attempts.iter().any(is_late);
            if attempts.iter().all(is_path) && is_late {
                "the server does not accept: look at it, or allow it more with --connect-timeout"
                    .into()
            } else if attempts.iter().all(is_path) {
                "check the path of the socket, or start the server".into()
            } else if attempts.iter().all(is_refused) {
                "nothing listens there: check the port, or start the server".into()
            } else if is_late {
                SLOW.into()
            } else {
                "check the address, and the network".into()
            }
        }
        Error::Listen { address, source } => listen_advice("--listen", address, source),
        Error::Tls { source, .. } => return tls_advice(&**source, args),
        Error::Proxy { source, .. } => return proxy_advice(source, args),
        Error::Redirect {
            problem: RedirectError::TooMany { .. },
            ..
        } => "allow more with --max-redirs".into(),
        Error::Timeout(Deadline::Tls) => {
            "the server may not speak TLS on this port: try ws:// instead of wss://, or allow it more with \
             --connect-timeout"
                .into()
        }
        Error::Timeout(Deadline::Handshake) => {
            format!("{}; a server that is slow is allowed more with --handshake-timeout", check_port(args))
        }
        Error::Answer {
            problem: HandshakeError::SubprotocolNotOffered(name),
            ..
        } => format!("offer it with --subprotocol {}", Shown(name)),
        Error::Answer { .. } => MEND.into(),
        Error::Unreadable { begins, .. } if begins.starts_with("HTTP/") => MEND.into(),
        Error::Unreadable { begins, .. } if is_http2(begins) => {
            let in_place = match args.is_some_and(|args| args.location) {
                true => " in place of --location",
                false => "",
            };
            format!("the server speaks HTTP/2 alone on this port: try with --http2{in_place}")
        }
        Error::Unreadable { .. } => check_port(args),
        Error::Handshake(HandshakeError::Status(response)) => {
            return http_advice(response, args, false);
        }
        Error::Handshake(error) => return handshake_advice(error, args),
        Error::Setup(why) if why.contains("reached through one") => {
            "try without the proxy: --noproxy '*'".into()
        }
        Error::Open {
            source, is_abroad, ..
        } => {
            return match &**source {
                Error::Handshake(HandshakeError::Status(response)) => {
                    http_advice(response, args, *is_abroad)
                }
                source => advice(source, args),
            };
        }
        // How an open connection ends is told elsewhere.
        Error::Lost(source) if version_flag(args).is_some() => {
            let without = without_version(args);
            // Else it has said something in HTTP/2.
            match source.to_string().contains("may not speak HTTP/2") {
                true => format!("{without}, or {CHECK_PORT}"),
                false => without,
            }
        }
        Error::Lost(_) => {
            format!("the server hung up before it answered: {CHECK_PORT}")
        }
        _ => return None,
    })
}

const SLOW: &str = "check the address and the network, or allow it more with --connect-timeout";
const CHECK_PORT: &str = "check the port, and whether it is ws:// or wss://";
const WHO: &str = "give them with --proxy and --proxy-user, or in the proxy's URL";
const CHECK_WHO: &str = "check --proxy-user, or those in the proxy's URL";
const CHECK_PROXY: &str = "check --proxy and the variables *_proxy, or try without: --noproxy '*'";
const NOT_ALLOWED: &str = "its rules may not allow that server";
const MEND: &str = "the server has to be mended, or a proxy or a cache on the way";

/// Where there may be no such server.
fn check_port(args: Option<&Connect>) -> String {
    match args {
        // With it there is no ws://.
        Some(args) if args.http3 => format!("check the port, or {}", without_version(Some(args))),
        _ => CHECK_PORT.into(),
    }
}

/// The flag that asks for a version of HTTP other than the usual one.
fn version_flag(args: Option<&Connect>) -> Option<&'static str> {
    match args? {
        args if args.http2 => Some("--http2"),
        args if args.http3 => Some("--http3"),
        _ => None,
    }
}

fn without_version(args: Option<&Connect>) -> String {
    format!("try without {}", version_flag(args).unwrap_or("--http2"))
}

fn listen_advice(flag: &str, address: &str, source: &io::Error) -> String {
    match source.kind() {
        ErrorKind::AddrInUse if address.starts_with("unix:") => {
            format!("another program listens there: choose another path with {flag}")
        }
        ErrorKind::AddrInUse => {
            format!("choose another port with {flag}, or 0 for any that is free")
        }
        ErrorKind::AddrNotAvailable => {
            format!(
                "this machine does not have that address: give {flag} one of its own, or 0.0.0.0 for all"
            )
        }
        ErrorKind::PermissionDenied if !address.starts_with("unix:") => {
            format!("ports below 1024 are for root: choose another with {flag}")
        }
        _ => format!("choose another address with {flag}"),
    }
}

fn proxy_advice(error: &ProxyError, args: Option<&Connect>) -> Option<String> {
    Some(match error {
        ProxyError::Status {
            response,
            credentials,
        } => {
            let helps = proxy_http_advice(response, *credentials);
            match body_for_people(response) {
                // What is to be given stands right before it.
                Some(says) if response.status() == 407 => format!("{helps}; {says}"),
                Some(says) => format!("{says}; {helps}"),
                None => helps,
            }
        }
        ProxyError::Credentials { given: false } => WHO.into(),
        ProxyError::Credentials { given: true } => CHECK_WHO.into(),
        ProxyError::TimedOut => {
            format!("{CHECK_PROXY}; one that is slow is allowed more with --connect-timeout")
        }
        ProxyError::Unreachable(Error::Tls { source, .. }) => proxy_tls_advice(&**source, args),
        ProxyError::Http(HandshakeError::Tls) => "try https:// in the proxy's URL".into(),
        ProxyError::Unreachable(_) | ProxyError::Http(_) | ProxyError::Malformed(_) => {
            CHECK_PROXY.into()
        }
        ProxyError::Socks { reply, .. } => match reply {
            2 => NOT_ALLOWED.into(),
            3 | 4 => "check the URL, and the network of the proxy".into(),
            5 => "nothing listens there: check the port of the URL".into(),
            _ => return None,
        },
        _ => return None,
    })
}

/// What may help where an HTTP proxy has declined.
fn proxy_http_advice(response: &Response, was_told_who: bool) -> String {
    match response.status() {
        407 => {
            let helps = if was_told_who { CHECK_WHO } else { WHO };
            match response.headers().first_str("Proxy-Authenticate") {
                Some(how) => format!("{helps}: it asks for {}", Shown(how)),
                None => helps.into(),
            }
        }
        403 => NOT_ALLOWED.into(),
        429 => later(response),
        500 | 502..=504 => format!(
            "it may not reach that server: check the URL, or {}",
            later(response)
        ),
        _ => CHECK_PROXY.into(),
    }
}

/// What may help where TLS with the proxy itself has failed.
fn proxy_tls_advice(error: &(dyn StdError + 'static), args: Option<&Connect>) -> String {
    let problem = error.to_string();
    if speaks_no_tls(error) {
        "the proxy may not speak TLS on this port: try http:// in the proxy's URL".into()
    } else if problem.contains("UnknownIssuer") || problem.contains("BadSignature") {
        match args.and_then(|args| args.proxy_cacert.as_ref()) {
            Some(path) => {
                let path = path.display();
                format!("check that {path} has the authority that signed its certificate")
            }
            None => "name its authority with --proxy-cacert FILE, beside --proxy".into(),
        }
    } else {
        CHECK_PROXY.into()
    }
}

/// Whether what came for an answer to TLS was something else, or the end.
fn speaks_no_tls(error: &(dyn StdError + 'static)) -> bool {
    let problem = error.to_string();
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::ConnectionReset)
        || ["InvalidContentType", "corrupt message", "handshake eof"]
            .iter()
            .any(|words| problem.contains(words))
}

fn tls_advice(error: &(dyn StdError + 'static), args: Option<&Connect>) -> Option<String> {
    let problem = error.to_string();
    // What the server says of this client comes as an alert (RFC 8446 §6.2).
    let alert = problem.split("received fatal alert: ").nth(1);
    let without = without_version(args);
    let advice = if version_flag(args).is_some() && problem.contains("NoApplicationProtocol")
        || problem.contains("has not chosen HTTP/")
    {
        &without
    } else if let Some(alert) = alert {
        alert_advice(alert)?
    } else if problem.contains("KeyMismatch") {
        "the key is not that of the certificate: check --cert and --key"
    } else if problem.contains("no private key in the PEM") {
        "name the file of the key with --key"
    } else if problem.contains("extended key usage") {
        "this is no certificate for a server, which needs another; or try with --insecure"
    } else if problem.contains("not valid for name") {
        "connect by a name that the certificate has, or try with --insecure"
    } else if problem.contains("CaUsedAsEndEntity") {
        "this is the certificate of an authority (CA:TRUE), which no server may show: have it sign one for the \
         server, or try with --insecure"
    } else if ["expired", "Expired", "not valid yet", "NotValidYet"]
        .iter()
        .any(|words| problem.contains(words))
    {
        "the server needs another certificate, unless the clock of this machine is wrong; or try with --insecure"
    } else if problem.contains("invalid peer certificate") {
        if let Some(path) = args.and_then(|args| args.cacert.as_ref()) {
            return Some(format!(
                "check that {} has the authority that signed it, or try with --insecure in its place",
                path.display()
            ));
        }
        "name its authority with --cacert FILE, or try with --insecure"
    } else if speaks_no_tls(error) {
        "the server may not speak TLS on this port: try ws:// instead of wss://"
    } else {
        return None;
    };
    // Beside each other they are not understood.
    let in_place = match args.is_some_and(|args| args.cacert.is_some()) {
        true if advice.ends_with("--insecure") => " in place of --cacert",
        _ => "",
    };
    Some(format!("{advice}{in_place}"))
}

/// Whether an answer begins with the SETTINGS that are the first of a server over HTTP/2 (RFC 9113 §3.4): a length of few
/// settings, the type 4, no flag and the stream 0.
fn is_http2(begins: &str) -> bool {
    let frame = begins.strip_prefix(r"\x00\x00").unwrap_or_default();
    // A byte is a letter, or four.
    matches!(frame.find(r"\x04\x00\x00\x00\x00\x00"), Some(1..=4))
}

/// What may help where the server has broken off TLS, by its reason.
fn alert_advice(alert: &str) -> Option<&'static str> {
    Some(match alert {
        "CertificateRequired" => {
            "it wants to know who you are: show it a certificate with --cert and --key"
        }
        "BadCertificate"
        | "UnsupportedCertificate"
        | "CertificateRevoked"
        | "CertificateExpired"
        | "CertificateUnknown"
        | "UnknownCA"
        | "AccessDenied" => "it does not accept the certificate of --cert",
        "ProtocolVersion" => "it speaks neither TLS 1.2 nor 1.3, which are spoken here",
        "HandshakeFailure" | "InsufficientSecurity" => {
            "it has no cipher that is spoken here, or wants to see a certificate (--cert and --key)"
        }
        "UnrecognisedName" => "it knows no host of that name: check the URL",
        "NoApplicationProtocol" => "it does not speak HTTP/1.1, by which WebSockets are opened",
        _ => return None,
    })
}

fn handshake_advice(error: &HandshakeError, args: Option<&Connect>) -> Option<String> {
    match error {
        HandshakeError::Tls => Some("try wss:// instead of ws://".into()),
        HandshakeError::ExtendedConnect => Some(without_version(args)),
        HandshakeError::UnexpectedEnd => Some(check_port(args)),
        HandshakeError::ReservedHeader(name) => reserved_advice(name).map(Into::into),
        _ => None,
    }
}

/// What says the same as a header that cannot be given.
fn reserved_advice(name: &str) -> Option<&'static str> {
    let flags = [
        (
            "Host",
            "it is of the URL: name that host there, and where it is reached with --resolve",
        ),
        ("Sec-WebSocket-Protocol", "offer them with --subprotocol"),
        (
            "Sec-WebSocket-Extensions",
            "--no-compress offers no compression, and there are no others",
        ),
    ];
    let flag = flags.iter().find(|(one, _)| name.eq_ignore_ascii_case(one));
    flag.map(|(_, advice)| *advice)
}

/// What may help where an open connection has ended that way.
pub(crate) fn end_advice(ended: &Ended) -> Option<&'static str> {
    match ended {
        Ended::Protocol(
            ProtocolError::MessageTooLarge { .. } | ProtocolError::FrameTooLarge { .. },
        ) => Some("allow more with --max-message"),
        Ended::Protocol(ProtocolError::ReservedBits) => Some(
            "where no extensions were agreed on, it may compress all the same: a proxy on the way may have dropped them",
        ),
        Ended::Silent => Some("one that is slow is allowed more with --ping-timeout"),
        Ended::TimedOut => Some("one that is slow is allowed more with --close-timeout"),
        _ => None,
    }
}

/// What a server says that declines, where it points to, and what may help: no flag that was given. One to which a redirect
/// has led out of the URL's origin is abroad.
fn http_advice(response: &Response, args: Option<&Connect>, is_abroad: bool) -> Option<String> {
    let header = |name| response.headers().first_str(name);
    if let (301..=303 | 307 | 308, Some(location)) = (response.status(), header("Location")) {
        let to = without_secrets(location);
        let to = Shown(&to);
        if !may_be_websocket(location) {
            return Some(format!(
                "it says to go to {to} instead, which is no WebSocket"
            ));
        }
        let instead = format!("it says to connect to {to} instead");
        return Some(match args {
            // Neither follows.
            Some(args) if version_flag(Some(args)).is_some() || leaves_tls(&args.url, location) => {
                instead
            }
            Some(args) if args.location => format!("{instead}: follow with --max-redirs"),
            _ => format!("{instead}: follow with --location"),
        });
    }
    let says = match body_for_people(response) {
        Some(says) => Some(says),
        None if response.body().trim_ascii().is_empty() => None,
        None if header("Content-Encoding").is_some() => Some("what it says is compressed".into()),
        None if args.is_some_and(|args| args.verbose) => Some("what it says is above".into()),
        None => Some("see what it says with --verbose".into()),
    };
    let withheld = args.filter(|_| is_abroad).and_then(withheld_abroad);
    let helps = match response.status() {
        200..=299 => Some("this is a page, and no WebSocket: check the path".into()),
        400 | 426 if says.is_none() => Some(match header("Sec-WebSocket-Version") {
            Some(versions) => {
                let versions = Shown(versions);
                format!("it speaks WebSocket version {versions}, and this is version 13")
            }
            None => {
                "it may have seen no Upgrade: see whether a proxy on the way passes that on".into()
            }
        }),
        401 | 403 if withheld.is_some() => withheld.map(|given| {
            format!(
                "what {given} says was not sent there: the redirect led to another origin, which has to be connected to \
                 by its own URL for that"
            )
        }),
        401 => {
            let advice = match args.and_then(authorization) {
                Some(given) => format!("it does not take what {given} says"),
                None => "say who you are with --user or --header".into(),
            };
            Some(match header("WWW-Authenticate") {
                Some(how) => format!("{advice}: it asks for {}", Shown(how)),
                None => advice,
            })
        }
        403 => {
            Some("it may want to know who you are (--user, --header), or another --origin".into())
        }
        300..=399 => Some("it does not say where else to connect".into()),
        404 | 405 | 410 => Some("check the path".into()),
        407 => {
            Some("this is a proxy that wants to know who you are: --proxy and --proxy-user".into())
        }
        429 | 503 => Some(later(response)),
        500 => Some("its log may say why".into()),
        502 | 504 => Some("this is a proxy: the server behind it may be down".into()),
        _ => None,
    };
    let advice: Vec<_> = says.into_iter().chain(helps).collect();
    (!advice.is_empty()).then(|| advice.join("; "))
}

/// When to try again.
fn later(response: &Response) -> String {
    match response.headers().first_str("Retry-After") {
        None => "try again later".into(),
        Some(when) => match when.parse::<u64>() {
            Ok(seconds) => format!("try again in {seconds} s"),
            Err(_) => format!("try again after {}", Shown(when)),
        },
    }
}

/// What an answer says that declines, where that is for people.
fn body_for_people(response: &Response) -> Option<String> {
    let mut body = String::from_utf8_lossy(response.body());
    if !cut(response).is_empty() && body.ends_with('\u{fffd}') {
        // Within a character.
        body.to_mut().pop();
    }
    let body = body.trim();
    is_for_people(response.headers().first_str("Content-Type"), body)
        .then(|| format!("it says: {body}{}", cut(response)))
}

/// A mark where more of a body may have come than is kept, or less than was announced (RFC 9112 §6.3).
pub(crate) fn cut(response: &Response) -> &'static str {
    let header = |name| response.headers().first_str(name);
    let came = response.body().len();
    let length = match header("Transfer-Encoding") {
        None => header("Content-Length").and_then(|length| length.parse::<usize>().ok()),
        Some(_) => None,
    };
    let is_short = came > 0 && length.is_some_and(|length| came < length);
    match is_short || came >= Response::MAX_BODY {
        true => " …",
        false => "",
    }
}

/// What `Authorization` was made of, where there was one.
fn authorization(args: &Connect) -> Option<&'static str> {
    if has_header(args, "Authorization") {
        Some("--header")
    } else if args.user.is_some() {
        Some("--user")
    } else {
        (without_password(&args.url) != args.url).then_some("the URL")
    }
}

/// What was given that another origin gets nothing of.
fn withheld_abroad(args: &Connect) -> Option<&'static str> {
    let cookie = || match args.cookie.is_empty() {
        true => has_header(args, "Cookie").then_some("--header"),
        false => Some("--cookie"),
    };
    authorization(args).or_else(cookie)
}

fn has_header(args: &Connect, name: &str) -> bool {
    let mut names = args.headers().map(|(name, _)| name);
    names.any(|other| other.eq_ignore_ascii_case(name))
}

/// Whether a redirect can be followed, as far as the scheme says, where it has one (RFC 3986 §4.1).
fn may_be_websocket(location: &str) -> bool {
    let is_of_scheme = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    match location.split_once(':') {
        Some((scheme, _)) if !scheme.is_empty() && scheme.chars().all(is_of_scheme) => {
            let known = ["ws", "wss", "http", "https"];
            known.iter().any(|one| scheme.eq_ignore_ascii_case(one))
        }
        _ => true,
    }
}

/// Whether a URL asks for TLS. It may have spaces before it, and line breaks anywhere (URL Standard, "basic URL parser").
pub(crate) fn is_secure(url: &str) -> bool {
    let url = url.trim_start_matches(|c: char| c <= ' ');
    let letters = url.chars().filter(|c| !matches!(c, '\t' | '\n' | '\r'));
    let scheme: String = letters.take_while(|c| *c != ':').collect();
    ["wss", "https"]
        .iter()
        .any(|one| scheme.eq_ignore_ascii_case(one))
}

/// Whether a `Location` leads from a URL with TLS to one without.
fn leaves_tls(url: &str, location: &str) -> bool {
    let scheme = location.split_once(':').map(|(scheme, _)| scheme);
    let is_plain = |scheme: &str| {
        ["ws", "http"]
            .iter()
            .any(|it| scheme.eq_ignore_ascii_case(it))
    };
    is_secure(url) && scheme.is_some_and(is_plain)
}

/// A URL without a user name and a password, and without the query and the fragment, in which tokens are.
pub(crate) fn without_secrets(url: &str) -> String {
    let (shown, mark) = match url.find(['?', '#']) {
        Some(end) => (&url[..end], &url[end..=end]),
        None => (url, ""),
    };
    let hidden = if mark.is_empty() { "" } else { "…" };
    format!("{}{mark}{hidden}", without_password(shown))
}

fn without_password(url: &str) -> String {
    // What has an `@` there is a path, and nobody is named in it.
    if url.starts_with("ws+unix:/") && !url.starts_with("ws+unix://") {
        return url.into();
    }
    // A user begins behind any number of slashes, and tabs and line breaks are none of a URL's (WHATWG URL §4.4).
    let scheme = match url.starts_with(['/', '\\']) {
        true => 0,
        false => url.find(':').map_or(0, |at| at + 1),
    };
    let rest = url[scheme..].trim_start_matches(['/', '\\', '\t', '\n', '\r']);
    let start = url.len() - rest.len();
    let end = url[start..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |at| start + at);
    match url[start..end].rfind('@') {
        Some(at) => format!("{}{}", &url[..start], &url[start + at + 1..]),
        None => url.into(),
    }
}

/// Whether a body is worth reading here: text, or the JSON in which most interfaces say what is wrong, and no page.
fn is_for_people(kind: Option<&str>, body: &str) -> bool {
    let kind = kind.unwrap_or("text/plain").to_ascii_lowercase();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_text = kind == "text/plain" || kind == "application/json" || kind.ends_with("+json");
    is_text && !body.is_empty() && !body.starts_with('<') && !body.contains('\u{fffd}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_out_of_tls_is_known() {
        for (from, to, leaves) in [
            ("wss://a/", "ws://a/", true),
            ("https://a/", "HTTP://a/", true),
            (" w\nss://a/", "ws://a/", true),
            ("wss://a/", "wss://b/", false),
            ("wss://a/", "/b", false),
            ("ws://a/", "http://b/", false),
        ] {
            assert_eq!(leaves_tls(from, to), leaves, "{from} {to}");
        }
    }

    /// In rustls' own words, which are not promised to stay.
    #[test]
    fn what_breaks_tls_off_is_told_apart() {
        use rustls::{
            AlertDescription as Alert, CertificateError as Certificate, Error as Tls,
            ExtendedKeyPurpose as Purpose, InconsistentKeys, InvalidMessage,
            pki_types::{ServerName, UnixTime},
        };
        let time = UnixTime::since_unix_epoch(Duration::ZERO);
        for (error, told) in [
            (Tls::AlertReceived(Alert::CertificateRequired), "--cert"),
            (Tls::AlertReceived(Alert::UnknownCA), "does not accept"),
            (Tls::AlertReceived(Alert::ProtocolVersion), "TLS 1.2"),
            (Tls::AlertReceived(Alert::UnrecognisedName), "no host"),
            (Tls::AlertReceived(Alert::HandshakeFailure), "no cipher"),
            (Tls::AlertReceived(Alert::NoApplicationProtocol), "HTTP/1.1"),
            (
                Tls::InconsistentKeys(InconsistentKeys::KeyMismatch),
                "--key",
            ),
            (
                Tls::InvalidCertificate(Certificate::ExpiredContext {
                    time,
                    not_after: time,
                }),
                "the clock",
            ),
            (Tls::InvalidCertificate(Certificate::Expired), "the clock"),
            (
                Tls::InvalidCertificate(Certificate::NotValidYet),
                "the clock",
            ),
            (
                Tls::InvalidCertificate(Certificate::NotValidYetContext {
                    time,
                    not_before: time,
                }),
                "the clock",
            ),
            (
                Tls::InvalidCertificate(Certificate::NotValidForNameContext {
                    expected: ServerName::try_from("a.example").unwrap(),
                    presented: vec!["b.example".into()],
                }),
                "by a name",
            ),
            (
                Tls::InvalidCertificate(Certificate::InvalidPurposeContext {
                    required: Purpose::ServerAuth,
                    presented: vec![Purpose::ClientAuth],
                }),
                "no certificate for a server",
            ),
            (
                Tls::InvalidCertificate(Certificate::UnknownIssuer),
                "--cacert",
            ),
            (
                Tls::InvalidMessage(InvalidMessage::InvalidContentType),
                "try ws://",
            ),
        ] {
            let advice = tls_advice(&error, None).unwrap_or_default();
            assert!(advice.contains(told), "{error}: {advice}");
        }
        let other = Tls::AlertReceived(Alert::InternalError);
        assert_eq!(tls_advice(&other, None), None);
    }

    #[test]
    fn text_and_json_are_shown_and_pages_are_not() {
        for kind in [
            None,
            Some("text/plain"),
            Some("Text/Plain; charset=utf-8"),
            Some("application/json"),
            Some("application/problem+json;charset=utf-8"),
        ] {
            assert!(is_for_people(kind, "the token has expired"), "{kind:?}");
        }
        assert!(!is_for_people(Some("text/html"), "<h1>No</h1>"));
        assert!(!is_for_people(Some("image/png"), "PNG"));
        assert!(!is_for_people(None, "<html>"));
        assert!(!is_for_people(None, "\u{fffd}PNG"));
        assert!(!is_for_people(None, ""));
    }
}
