//! `sockeye connect`: opens a connection, and hands it to a terminal or to a pipe.

mod command;
mod editor;
mod history;
mod pipe;
mod screen;
mod session;

use std::{
    io::{IsTerminal, stdin, stdout},
    process::ExitCode,
    time::Instant,
};

pub(crate) use screen::one_line;
use sockeye::{Client, CloseCode, Ended, Limits, WebSocket, client::ClientTls};

use crate::{
    args::Connect,
    failure::Failure,
    quantity::{Took, Traffic},
    signals::{Signal, Signals},
};

/// The exit status where the peer closed with another code than 1000.
const CLOSED_OTHERWISE: u8 = 3;
/// The exit status where nobody closed.
const LOST: u8 = 4;

pub(crate) async fn run(args: Connect) -> Result<ExitCode, Failure> {
    let client = client(&args)?;
    let began = Instant::now();
    let socket = client.connect().await?;
    let agreed = agreed(&args, &socket, began);
    let opened = Instant::now();
    let signals = Signals::new()
        .map_err(|error| Failure::new(format!("the system tells of no signals: {error}")))?;

    let outcome = if stdin().is_terminal() && stdout().is_terminal() {
        if !args.quiet {
            anstream::println!("{}", agreed.join("\n"));
        }
        session::run(socket, &args, signals).await?
    } else {
        if !args.quiet {
            eprintln!("{}", agreed.join("; "));
        }
        pipe::run(socket, args.linger, signals).await?
    };
    let status = outcome.status();
    if !args.quiet || status == LOST || status == CLOSED_OTHERWISE {
        let ended = match &outcome.ended {
            Some(ended) => one_line(&ended.to_string()),
            None => "left without waiting for the peer".into(),
        };
        let after = Took(opened.elapsed());
        let Outcome { received, sent, .. } = &outcome;
        eprintln!("{ended}, after {after}: {received} received, {sent} sent");
    }
    match outcome.failure {
        Some(failure) => Err(failure),
        None => Ok(status.into()),
    }
}

fn client(args: &Connect) -> Result<Client, Failure> {
    let mut tls = ClientTls::new();
    if let Some(ca) = &args.ca {
        let pem = std::fs::read(ca).map_err(|error| Failure::file(ca, error))?;
        tls = tls.ca_pem(&pem).map_err(|error| Failure::file(ca, error))?;
    }
    if args.insecure {
        tls = tls.dangerous_accept_any_certificate();
    }
    let mut client = Client::new(&args.url)
        .tls(tls)
        .handshake_timeout(args.handshake_timeout)
        .close_timeout(args.close_timeout);
    for name in &args.subprotocol {
        client = client.subprotocol(name);
    }
    for (name, value) in &args.header {
        client = client.header(name, value);
    }
    if let Some(origin) = &args.origin {
        client = client.origin(origin);
    }
    if let Some(bytes) = args.max_message {
        client = client.limits(Limits::default().message(bytes));
    }
    if args.no_compress {
        client = client.deflate(None);
    }
    Ok(client)
}

/// What the connection is like.
fn agreed(args: &Connect, socket: &WebSocket, began: Instant) -> [String; 2] {
    let address = socket
        .peer_addr()
        .map_or_else(String::new, |address| format!(" ({address})"));
    let is_secure = args
        .url
        .get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("wss"))
        || args
            .url
            .get(..5)
            .is_some_and(|start| start.eq_ignore_ascii_case("https"));
    let tls = match (is_secure, args.insecure, &args.ca) {
        (false, ..) => "no TLS".into(),
        (_, true, _) => "TLS, with a certificate that was NOT checked".into(),
        (.., Some(ca)) => format!("TLS, with a certificate by {}", ca.display()),
        (.., None) => "TLS, with a certificate that the system trusts".into(),
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
            one_line(&args.url),
            Took(began.elapsed())
        ),
        format!("{tls}; {subprotocol}; {extensions}"),
    ]
}

/// How a connection went.
#[derive(Default)]
struct Outcome {
    /// None where the user did not wait for that.
    ended: Option<Ended>,
    received: Traffic,
    sent: Traffic,
    /// A signal that ended it.
    signal: Option<Signal>,
    /// What went wrong at this end.
    failure: Option<Failure>,
}

impl Outcome {
    fn status(&self) -> u8 {
        match (&self.signal, &self.ended) {
            (Some(signal), _) => signal.status(),
            (None, Some(Ended::ByUs(_) | Ended::ByPeer(None))) => 0,
            (None, Some(Ended::ByPeer(Some(frame)))) if frame.code == CloseCode::NORMAL => 0,
            (None, Some(Ended::ByPeer(Some(_)))) => CLOSED_OTHERWISE,
            (None, _) => LOST,
        }
    }
}
