//! `sockeye serve`: an echo or broadcast server with a page, until Ctrl-C.

mod broadcast;
mod close_query;
mod config;
mod echo;
mod leaving;
pub(crate) mod limits;
mod listening;
mod log;
mod names;
mod page;
mod self_signed;
mod visits;

use std::{
    future::ready,
    io::{self, Write},
    net::SocketAddr,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use sockeye::{
    Deadline, Error, Groups, Metrics, Server,
    proto::handshake::{HandshakeError, Subprotocols},
    server::{Answer, Listener, Origins, Refusal, Request, ServerTls},
};

use crate::{args::Serve, examples::Example, failure::Failure, signals::Signals};
use broadcast::Visitor;
use config::{Faults, Problem};
use echo::Echo;
use self_signed::SelfSigned;
use visits::Visits;

/// What was said, and what was made of it where that has been done already.
pub(crate) struct Settings {
    pub(crate) args: Serve,
    made: Option<Made>,
}

/// What is made of settings once: a key that comes through a pipe cannot be read again.
struct Made {
    origins: Origins,
    tls: Option<Tls>,
}

/// The settings, with those of the file they name.
pub(crate) fn with_file(args: Serve) -> Result<Settings, Faults> {
    let Some(file) = &args.config else {
        return Ok(Settings { args, made: None });
    };
    let line: Vec<_> = std::env::args_os().collect();
    let (args, made) = config::read(file, &line, Made::of)?;
    let made = Some(made);
    Ok(Settings { args, made })
}

impl Made {
    /// Everything that is wrong with settings that were understood, each with the flag that it is about.
    fn of(args: &Serve) -> Result<Self, Vec<Problem>> {
        let told = |flag| move |failure| (flag, failure);
        let subprotocols = subprotocols(args).map_err(told("subprotocol"));
        let origins = origins(args).map_err(told("origin"));
        let tls = Tls::of(args);
        match (subprotocols, origins, tls) {
            (Ok(()), Ok(origins), Ok(tls)) => Ok(Self { origins, tls }),
            (subprotocols, origins, tls) => {
                let problems = [subprotocols.err(), origins.err(), tls.err()];
                Err(problems.into_iter().flatten().collect())
            }
        }
    }
}

fn subprotocols(args: &Serve) -> Result<(), Failure> {
    let mut known = Subprotocols::new();
    for name in &args.subprotocol {
        known.push(name).map_err(Error::from)?;
    }
    Ok(())
}

/// Whose pages may connect.
fn origins(args: &Serve) -> Result<Origins, Failure> {
    let has = |word| args.origin.iter().any(|origin| origin == word);
    let words = ["same", "any"];
    let listed = args
        .origin
        .iter()
        .filter(|origin| !words.contains(&origin.as_str()));
    let origins = if has("any") {
        Origins::any()
    } else if has("same") || args.origin.is_empty() {
        Origins::same()
    } else {
        Origins::list::<[&str; 0]>([])?
    };
    Ok(origins.and(listed)?)
}

pub(crate) async fn run(Settings { args, made }: Settings) -> Result<ExitCode, Failure> {
    let Made { origins, tls } = match made {
        Some(made) => made,
        None => Made {
            origins: origins(&args)?,
            tls: Tls::of(&args).map_err(|(_, failure)| failure)?,
        },
    };
    let longest = args.example.map(|_| Example::LONGEST_MESSAGE);
    let mut acceptor = args
        .limits
        .acceptor(longest)
        .keepalive(args.pings.ping_interval)
        .keepalive_timeout(args.pings.ping_timeout);
    acceptor = acceptor.origins(origins);
    if let Some(trusted) = &args.forwarded {
        acceptor = acceptor.forwarded(trusted.clone());
    } else if let Some(trusted) = &args.x_forwarded_for {
        acceptor = acceptor.x_forwarded_for(trusted.clone());
    }
    subprotocols(&args)?;
    for name in &args.subprotocol {
        acceptor = acceptor.subprotocol(name);
    }
    if args.no_compress {
        acceptor = acceptor.deflate(None);
    }
    if let Some(tls) = &tls {
        acceptor = acceptor.tls(tls.server()?);
    }

    if args.check {
        // Whoever does not take that still has the exit status.
        let _ = writeln!(io::stdout(), "The settings are sound");
        return Ok(ExitCode::SUCCESS);
    }
    permit_connections();
    let (mut signals, reload) = match &tls {
        Some(Tls::Files(tls)) => {
            let (signals, hang_ups) = Signals::but_hang_ups().map_err(Failure::no_signals)?;
            (signals, Some((tls.clone(), hang_ups)))
        }
        _ => {
            let signals = Signals::new(Duration::ZERO).map_err(Failure::no_signals)?;
            (signals, None)
        }
    };
    let (mut server, endpoint) = tokio::select! {
        // As while a name is looked up.
        signal = signals.next() => return Ok(signal.status().into()),
        listening = listen(&args) => listening?,
    };
    let has_local_names = names::are_local(&args, server.listeners());
    let closes_as_asked = args.example.is_none();
    acceptor = acceptor
        .on_request(move |request| ready(decide(&request, has_local_names, closes_as_asked)));
    if let Some(trusted) = &args.proxy_protocol {
        server = server.proxy_protocol(trusted.clone());
    }
    let visits = Arc::new(Visits::new(args.quiet, nameless(&args, server.listeners())));
    let metrics = Metrics::new();
    visits.say(greeting(server.listeners(), &args, tls.as_ref()));
    if let Some(endpoint) = endpoint {
        if let Some(address) = endpoint.local_addr() {
            visits.say(format!("Metrics at http://{address}/metrics"));
        }
        tokio::spawn(metrics.clone().serve(endpoint));
    }
    if let Some((tls, hang_ups)) = reload {
        tokio::spawn(leaving::reload(tls, hang_ups, visits.clone()));
    }
    let signal = leaving::signalled(signals, leaving::how(&args), args.drain, visits.clone());
    let (handle, refused) = (server.shutdown_handle(), visits.clone());
    let server = args
        .limits
        .server(server)
        .acceptor(acceptor)
        .metrics(&metrics)
        .http(page::service(
            args.example.map_or(page::CLIENT, Example::page),
        ))
        .websockets_over_http2(args.http2)
        .on_error(move |peer, error| match error {
            Error::Accept(_) => refused.stalled(error),
            _ if before_open(error) => refused.refused(peer, error),
            _ => {}
        })
        .shutdown_on(signal);
    leaving::systemd(leaving::State::Ready);
    let log = visits.clone();
    let served = if let Some(example) = args.example {
        example.serve(server).await
    } else if args.broadcast {
        let everyone = Groups::new();
        server
            .serve_handler(move || Visitor::new(log.visit(), everyone.clone()))
            .await
    } else {
        server.serve_handler(move || Echo::new(log.visit())).await
    };
    if served.is_ok() {
        visits.farewell(&handle.ended().await);
        // Whoever comes to an example is not counted.
        if args.example.is_none() {
            visits.summary();
        }
    }
    visits.finish();
    served?;
    Ok(ExitCode::SUCCESS)
}

/// Judges a request of a page that may connect, or of a program.
fn decide(
    request: &Request,
    has_local_names: bool,
    closes_as_asked: bool,
) -> Result<Answer, Refusal> {
    if has_local_names {
        names::check(request)?;
    }
    match closes_as_asked {
        true => close_query::check(request),
        false => Ok(Answer::new()),
    }
}

/// The server, and where its metrics are.
async fn listen(args: &Serve) -> Result<(Server, Option<Listener>), Failure> {
    let server = listening::listen(args).await?;
    let endpoint = match &args.metrics {
        Some(address) => {
            let listener = Listener::tcp(address.as_str()).await;
            Some(listener.map_err(|error| Failure::listening("--metrics", error))?)
        }
        None => None,
    };
    Ok((server, endpoint))
}

/// What a client without an address is called: it comes by a Unix socket, or a proxy does not know it.
fn nameless(args: &Serve, listeners: &[Listener]) -> &'static str {
    let is_told =
        args.proxy_protocol.is_some() || args.forwarded.is_some() || args.x_forwarded_for.is_some();
    let is_tcp = |listener: &Listener| listener.local_addr().is_some();
    match is_told && listeners.iter().any(is_tcp) {
        true => "unknown",
        false => "unix",
    }
}

/// Takes as many file descriptors as the system permits, one for each connection: the soft limit is
/// often 1024, for the sake of programs that cannot count further.
fn permit_connections() {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit, setrlimit};
        // Where that fails, there is room for fewer; accepting waits when it is used up.
        let _ = getrlimit(Resource::RLIMIT_NOFILE)
            .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    }
}

/// Whether an error kept a connection from opening. The end of one that was open is told by its
/// handler, and a peer that leaves before it has asked for anything is no news: browsers connect ahead of their
/// requests, and whoever looks whether a port answers asks for nothing.
fn before_open(error: &Error) -> bool {
    match error {
        Error::Handshake(error) => *error != HandshakeError::UnexpectedEnd,
        Error::Tls { source, .. } => {
            let io = source.downcast_ref::<io::Error>();
            io.is_none_or(|error| error.kind() != io::ErrorKind::UnexpectedEof)
        }
        error => matches!(
            error,
            Error::Limit { .. } | Error::ProxyHeader { .. } | Error::Timeout(Deadline::Handshake)
        ),
    }
}

/// Where the certificate comes from.
enum Tls {
    Files(ServerTls),
    SelfSigned(SelfSigned),
}

impl Tls {
    fn of(args: &Serve) -> Result<Option<Self>, Problem> {
        if args.tls_self_signed {
            let made = SelfSigned::make().map_err(|failure| ("tls-self-signed", failure))?;
            return Ok(Some(Self::SelfSigned(made)));
        }
        let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) else {
            if args.http3 {
                let problem = "HTTP/3 is always within TLS: give --tls-cert and --tls-key, or --tls-self-signed";
                return Err(("http3", Failure::new(problem)));
            }
            return Ok(None);
        };
        let tls = ServerTls::from_pem_files(cert, key).map_err(|error| {
            let file = key.display().to_string();
            let flag = match &error {
                Error::Tls { subject, .. } if **subject == *file => "tls-key",
                _ => "tls-cert",
            };
            let told = format!("{error}; check --tls-cert and --tls-key");
            (flag, Failure::new(told))
        })?;
        Ok(Some(Self::Files(tls)))
    }

    fn server(&self) -> Result<ServerTls, Failure> {
        match self {
            Self::Files(tls) => Ok(tls.clone()),
            Self::SelfSigned(made) => made.server(),
        }
    }
}

/// What is served where, and how to try it.
fn greeting(listeners: &[Listener], args: &Serve, tls: Option<&Tls>) -> String {
    let (s, insecure) = match tls {
        None => ("", ""),
        Some(Tls::Files(_)) => ("s", ""),
        Some(Tls::SelfSigned(_)) => ("s", " --insecure"),
    };
    let places: Vec<_> = listeners.iter().map(|it| place(it, s)).collect();
    let what = match (args.example, args.broadcast) {
        (Some(example), _) => example.title(),
        (None, true) => "Broadcasting",
        (None, false) => "Echoing",
    };
    let mut text = format!("{what} on {}\n", places.join(", and on "));
    if let Some(address) = listeners.iter().find_map(Listener::local_addr) {
        let (reachable, _) = reachable(address);
        let page = format!("http{s}://{reachable}");
        let command = format!("sockeye connect{insecure} ws{s}://{reachable}/");
        text += &match lets_in_its_own_page(args, &page) {
            true => format!("Open {page}/ in a browser, or run: {command}\n"),
            false => format!(
                "Try it with: {command}\nThe page at {page}/ may not connect; --origin {page} lets it in, too\n"
            ),
        };
    }
    if args.http3 {
        text += "WebSockets over HTTP/3 are there too, on UDP: sockeye connect --http3 …\n";
    }
    if let Some(Tls::SelfSigned(made)) = tls {
        text += &format!("Certificate {made}\n");
    }
    text + "Ctrl-C closes every connection and ends."
}

/// Whether the page that is served may connect: once origins are named, the default is gone.
fn lets_in_its_own_page(args: &Serve, page: &str) -> bool {
    // As it is with the port that need not be said.
    let bare = page
        .strip_suffix(":80")
        .filter(|it| it.starts_with("http:"));
    let bare = bare.or_else(|| {
        page.strip_suffix(":443")
            .filter(|it| it.starts_with("https:"))
    });
    let own = ["same", "any", page, bare.unwrap_or(page)];
    let is_in = |origin: &String| own.iter().any(|own| own.eq_ignore_ascii_case(origin));
    args.origin.is_empty() || args.origin.iter().any(is_in)
}

/// Where a socket is reached.
fn place(listener: &Listener, s: &str) -> String {
    match listener.local_addr() {
        Some(address) => {
            let (reachable, everywhere) = reachable(address);
            format!("ws{s}://{reachable}/{everywhere}")
        }
        // TLS there has no URL of its own, and neither has what a URL cannot have in it.
        None if s.is_empty() => {
            let name = listener.to_string();
            let path = name.strip_prefix("unix:").unwrap_or(&name);
            let has_no_url = path.contains(|c: char| c.is_control() || " :?#%".contains(c));
            match std::path::absolute(path) {
                Ok(path) if !has_no_url => format!("ws+unix:{}:/", path.display()),
                _ => name,
            }
        }
        None => listener.to_string(),
    }
}

/// An address that can be connected to, and whether there are others.
fn reachable(mut address: SocketAddr) -> (SocketAddr, &'static str) {
    if !address.ip().is_unspecified() {
        return (address, "");
    }
    address.set_ip(match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    });
    (address, " and every other address of this machine")
}
