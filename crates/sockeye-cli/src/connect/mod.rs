//! `sockeye connect`: opens a connection, and hands it to a terminal or to a pipe.

mod again;
mod command;
mod editor;
mod history;
mod opening;
mod pipe;
mod screen;
mod session;
mod stream;

use std::{
    io::{IsTerminal, Write, stdin, stdout},
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use sockeye::{
    Client, CloseCode, Ended, HeadLimits, Limits, WebSocket,
    client::{ClientTls, Proxy},
};
use tokio::sync::mpsc;

use opening::{Opening, Over};

use crate::{
    args::{Connect, Interface, Resolve, User},
    failure::{Failure, end_advice, is_secure, tell, tell_within, without_secrets},
    quantity::{Took, Traffic},
    shown::one_line,
    signals::{Signal, Signals},
};

/// The exit status where the peer closed with another code than 1000.
const CLOSED_OTHERWISE: u8 = 3;
/// The exit status where nobody closed.
const LOST: u8 = 4;

/// How long the last line may take to be taken off standard error, where a signal wants an end.
const LAST_LINE: Duration = Duration::from_secs(1);

/// How long the line editor has to give the terminal back, where two signals want an end; one that takes nothing
/// cannot be given back.
const TERMINAL_BACK: Duration = Duration::from_secs(4);

pub(crate) async fn run(args: Connect) -> Result<ExitCode, Failure> {
    let over = Over::of(&args);
    let status = run_over(over.clone(), args).await;
    over.end().await;
    status
}

async fn run_over(over: Over, args: Connect) -> Result<ExitCode, Failure> {
    let client = client(&args)?;
    let is_bytes = args.binary || args.one_message;
    let is_terminal = !is_bytes && stdin().is_terminal() && stdout().is_terminal();
    let began = Instant::now();
    let signals = || {
        let patience = match is_terminal {
            true => TERMINAL_BACK,
            false => Duration::ZERO,
        };
        Signals::new(patience).map_err(Failure::no_signals)
    };
    if args.reconnect {
        let outcome = if is_terminal {
            // The terminal is the line editor's.
            let (show, shown) = mpsc::unbounded_channel();
            let opening = Opening::new(client, &args, over, move |line| drop(show.send(line)));
            session::run_again(opening, shown, &args, signals()?).await?
        } else {
            again::run(Opening::new(client, &args, over, tell), &args, signals()?).await
        };
        return outcome.tell(&args, began);
    }
    let opened = Opening::new(client, &args, over, tell).open().await;
    let socket = opened.map_err(|error| Failure::opening(&args, error))?;
    let agreed = agreed(&args, &socket, began);
    let opened = Instant::now();
    let signals = signals()?;

    let outcome = if is_terminal {
        if !args.quiet {
            print(&format!("{}\n", agreed.join("\n")))?;
        }
        session::run(socket, &args, signals).await?
    } else {
        if !args.quiet {
            tell(agreed.join("; "));
        }
        if is_bytes {
            stream::run(socket, &args, signals).await?
        } else {
            pipe::run(socket, &args, signals).await?
        }
    };
    outcome.tell(&args, opened)
}

/// On the terminal.
fn print(text: &str) -> Result<(), Failure> {
    write!(anstream::stdout(), "{text}")
        .map_err(|error| Failure::new(format!("standard output: {error}")))
}

fn client(args: &Connect) -> Result<Client, Failure> {
    let mut client = Client::new(&args.url)
        .tls(tls(args)?)
        .limits(Limits::default().message(args.max_message))
        // What is strange is to be seen, so that more is taken than a program needs.
        .head_limits(HeadLimits::default().bytes(256 * 1024).headers(1000))
        .connect_timeout(args.connect_timeout)
        .tls_timeout(args.connect_timeout)
        .handshake_timeout(args.handshake_timeout)
        .close_timeout(args.close_timeout)
        .keepalive(args.pings.ping_interval)
        .keepalive_timeout(args.pings.ping_timeout)
        .idle_timeout(args.idle_timeout)
        .nodelay(!args.no_tcp_nodelay);
    for name in &args.subprotocol {
        client = client.subprotocol(name);
    }
    for (name, value) in args.headers() {
        client = client.header(name, value);
    }
    for cookie in &args.cookie {
        client = client.header("Cookie", cookie);
    }
    if let Some(User { name, password }) = &args.user {
        client = client.credentials(name, password);
    }
    if let Some(origin) = &args.origin {
        client = client.origin(origin);
    }
    if args.no_compress {
        client = client.deflate(None);
    }
    if args.location {
        client = client.redirects(args.max_redirs);
    }
    the_way(client, args)
}

/// Whom to trust, and who we are.
fn tls(args: &Connect) -> Result<ClientTls, Failure> {
    let mut tls = ClientTls::new();
    if let Some(path) = &args.cacert {
        tls = trusting(tls, path)?;
    }
    if let Some(path) = &args.cert {
        let chain = read(path)?;
        let key_path = args.key.as_ref().unwrap_or(path);
        tls = tls
            .certificate_pem(&chain, &read(key_path)?)
            .map_err(|error| {
                let files = match &args.key {
                    Some(key) => format!("{} and {}", path.display(), key.display()),
                    None => path.display().to_string(),
                };
                Failure::new(format!("{files}: {}", Failure::from(error)))
            })?;
    }
    if args.insecure {
        tls = tls.dangerous_accept_any_certificate();
    }
    Ok(tls)
}

fn trusting(tls: ClientTls, path: &Path) -> Result<ClientTls, Failure> {
    tls.ca_pem(&read(path)?)
        .map_err(|error| Failure::file(path, error))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::file(path, error))
}

/// How the server is reached.
fn the_way(mut client: Client, args: &Connect) -> Result<Client, Failure> {
    for Resolve { host, addresses } in &args.resolve {
        client = client.resolve(host, addresses.iter().copied());
    }
    #[cfg(unix)]
    if let Some(path) = &args.unix_socket {
        client = client.unix_socket(path);
    }
    // An address that says no more than its family.
    if args.ipv4 {
        client = client.local_address(Ipv4Addr::UNSPECIFIED.into());
    } else if args.ipv6 {
        client = client.local_address(Ipv6Addr::UNSPECIFIED.into());
    }
    match &args.interface {
        None => {}
        Some(Interface::Address(address)) => client = client.local_address(*address),
        #[cfg(target_os = "linux")]
        Some(Interface::Name(name)) => client = client.interface(name),
    }
    if let Some(idle) = args.keepalive_time {
        client = client.tcp_keepalive(idle);
    }
    if let Some(list) = &args.noproxy {
        client = client.no_proxy_for(list);
    }
    match args.proxy.as_deref() {
        None => {}
        Some("") => client = client.no_proxy(),
        Some(url) => {
            let mut proxy: Proxy = url.parse()?;
            if let Some(User { name, password }) = &args.proxy_user {
                proxy = proxy.credentials(name, password);
            }
            if let Some(path) = &args.proxy_cacert {
                proxy = proxy.tls(trusting(ClientTls::new(), path)?);
            }
            client = client.proxy(proxy);
            // As with curl, the environment still says who is reached without; a variable that is empty is not there.
            let listed = ["no_proxy", "NO_PROXY"].into_iter();
            let listed = listed
                .filter_map(std::env::var_os)
                .find(|list| !list.is_empty());
            if let (None, Some(list)) = (&args.noproxy, listed) {
                client = client.no_proxy_for(list.to_string_lossy());
            }
        }
    }
    Ok(client)
}

/// What the connection is like.
fn agreed(args: &Connect, socket: &WebSocket, began: Instant) -> [String; 2] {
    let address = socket
        .peer_addr()
        .map_or_else(String::new, |address| format!(" ({address})"));
    let is_secure = is_secure(&args.url);
    let tls = match (is_secure, args.insecure, &args.cacert) {
        // From TLS to none leads no redirect.
        (false, ..) if args.location => "no TLS, unless a redirect led to it".into(),
        (false, ..) => "no TLS".into(),
        (_, true, _) => "TLS, with a certificate that was NOT checked".into(),
        (.., Some(ca)) => format!("TLS, with a certificate by {}", ca.display()),
        (.., None) => "TLS, with a certificate that the system trusts".into(),
    };
    let over = match (args.http2, args.http3) {
        (true, _) => "over HTTP/2; ",
        (_, true) => "over HTTP/3; ",
        _ => "",
    };
    let subprotocol = match socket.subprotocol() {
        Some(name) => format!("subprotocol {name}"),
        None => "no subprotocol".into(),
    };
    let extensions = match socket.extensions() {
        none if none.is_empty() => "no extensions".into(),
        extensions => format!("extensions {extensions}"),
    };
    [
        format!(
            "connected to {}{address} in {}",
            one_line(&without_secrets(&args.url)),
            Took(began.elapsed())
        ),
        format!("{tls}; {over}{subprotocol}; {extensions}"),
    ]
}

/// How a connection went.
#[derive(Default)]
struct Outcome {
    /// None where the user did not wait for that.
    ended: Option<Ended>,
    /// No connection was ever open.
    unopened: bool,
    received: Traffic,
    sent: Traffic,
    /// A signal that ended it.
    signal: Option<Signal>,
    /// Whoever read the output had enough.
    enough: bool,
    /// Whether something of the input was read, and not sent.
    unsent: bool,
    /// Whether something that came was not taken off standard output, as it was ended by a signal.
    untaken: bool,
    /// What went wrong at this end.
    failure: Option<Failure>,
}

impl Outcome {
    /// Says how it went, and makes the exit status of it.
    fn tell(self, args: &Connect, opened: Instant) -> Result<ExitCode, Failure> {
        let status = self.status();
        // Where none was ever open, and why is told below, that is all.
        let is_enough = self.unopened && self.failure.is_some();
        if !is_enough && (!args.quiet || status == LOST || status == CLOSED_OTHERWISE) {
            let (ended, advice) = match &self.ended {
                Some(ended) => (one_line(&ended.to_string()), end_advice(ended)),
                None if self.unopened => ("there was no connection".into(), None),
                None => ("left without waiting for the peer".into(), None),
            };
            let after = Took(opened.elapsed());
            let Self { received, sent, .. } = &self;
            let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
            let untaken = match self.untaken {
                true => "; the last of it was not taken off standard output",
                false => "",
            };
            // It may be the only line, and in a log.
            let whom = match args.quiet {
                true => format!("sockeye: {}: ", one_line(&without_secrets(&args.url))),
                false => String::new(),
            };
            let line = format!(
                "{whom}{ended}, after {after}: {received} received, {sent} sent{untaken}{advice}"
            );
            match self.signal {
                Some(_) => tell_within(LAST_LINE, line),
                None => tell(line),
            }
        }
        match self.failure {
            Some(failure) if self.signal.is_some() => {
                tell_within(LAST_LINE, failure.told());
                Ok(status.into())
            }
            Some(failure) => Err(failure),
            None if status == 0 && self.unsent && !self.enough => Err(Failure::new(
                "the peer closed the connection before all of the input was sent",
            )),
            None => Ok(status.into()),
        }
    }

    fn status(&self) -> u8 {
        match (&self.signal, &self.ended) {
            (Some(signal), _) => signal.status(),
            (None, _) if self.enough => 0,
            (None, Some(Ended::ByUs(_) | Ended::ByPeer(None))) => 0,
            (None, Some(Ended::ByPeer(Some(frame)))) if frame.code == CloseCode::NORMAL => 0,
            (None, Some(Ended::ByPeer(Some(_)))) => CLOSED_OTHERWISE,
            // The user has left, and nothing was lost.
            (None, None) if self.unopened && !self.unsent => 0,
            (None, _) => LOST,
        }
    }
}
