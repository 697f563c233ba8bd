//! What can be said to `sockeye serve`.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use sockeye::server::Networks;

use super::Pings;
use crate::{examples::Example, quantity::parse_seconds, serve::limits::LimitArgs};

/// Serve WebSockets: echo every message, or broadcast it to everyone
///
/// The same port serves a page at / that shows a browser's side of a WebSocket. WebSockets are accepted at
/// every path. A line is printed for each connection that opens and that closes; Ctrl-C closes every
/// connection with 1001 and prints what there was, and a second Ctrl-C ends at once. SIGTERM does as Ctrl-C; so
/// does SIGHUP, unless there is --tls-cert: then the certificate and its key are read again, and nobody is
/// disconnected.
#[derive(Debug, Args)]
#[command(after_long_help = SERVE_HELP)]
pub(crate) struct Serve {
    /// Read settings from a file, in TOML: these flags by their long names, as in listen = "127.0.0.1:9000"
    ///
    /// A table is the beginning of a name: cert in [tls] is --tls-cert. A flag that can be repeated takes a list,
    /// a switch true or false. Paths are as seen from the file. What is said on the command line has the last
    /// word, also over settings that cannot be used with it, and has to be whole by itself: there --tls-cert needs
    /// --tls-key beside it. Faults are told together, each with its line and column, before anything is listened on;
    /// but where the file is no TOML or a setting needs another, that alone.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Check the settings, and the files they name, and end without serving
    ///
    /// No address is tried: a server that runs with the old settings has them still.
    #[arg(long)]
    pub(crate) check: bool,

    /// Listen on this address, on unix:PATH, or on the sockets that systemd hands over; may be repeated
    ///
    /// Port 0 lets the system choose one that is free. A Unix socket that nobody listens on any more is
    /// replaced, and is removed at the end. With systemd in place of an address, the sockets are those of the
    /// .socket unit (LISTEN_FDS), which outlive a restart.
    #[arg(short, long, value_name = "ADDRESS", value_parser = parse_place, default_value = "127.0.0.1:8080")]
    pub(crate) listen: Vec<String>,

    /// The permissions of Unix sockets, in octal, such as 660; default what the umask leaves
    #[arg(long, value_name = "MODE", value_parser = parse_mode)]
    pub(crate) socket_mode: Option<u32>,

    /// Let other servers of the same user that say so too listen on the same TCP address (SO_REUSEPORT)
    ///
    /// So the next version can start before this one ends.
    #[arg(long)]
    pub(crate) reuse_port: bool,

    /// Send each message to everyone, its sender too, instead of only back
    ///
    /// Nobody waits for anybody: what a member has not read yet waits for it on the server. A member that lets
    /// more than 8 MiB wait is closed with 1008.
    #[arg(short, long)]
    pub(crate) broadcast: bool,

    /// Run an example in place of it, with a page of its own at /
    ///
    /// Their sources are made to be read and copied: a server and a page each, in crates/sockeye-cli/src/examples.
    /// They take messages of at most 64 KiB, and print no connections.
    #[arg(short, long, value_name = "NAME", conflicts_with = "broadcast")]
    pub(crate) example: Option<Example>,

    /// Support a subprotocol; of those that a client offers, the one named first here is chosen
    #[arg(short, long, value_name = "NAME")]
    pub(crate) subprotocol: Vec<String>,

    /// Let pages of this origin connect, as https://example.com or https://*.example.com; `same` for those of this
    /// server, the default, and `any` for all. It can be repeated. Naming one ends the default: name
    /// this server's own too, for its page
    ///
    /// Browsers say whose page asks, and other programs need not: what comes without an origin is let in.
    /// Without this flag, a server on loopback alone, and behind no proxy that it is told of, lets in its pages
    /// only where they were reached as localhost or by an address: any other name that leads there may be
    /// somebody else's.
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) origin: Vec<String>,

    /// Speak TLS (wss, https) with this certificate: a file in PEM, the server's own first, then its chain
    #[arg(long, value_name = "FILE", requires = "tls_key", help_heading = "TLS")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The key of --tls-cert: a file in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert", help_heading = "TLS")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Speak TLS with a certificate made on the spot, for localhost, 127.0.0.1 and ::1
    ///
    /// For trying things out: no client trusts it by itself. Its SHA-256 fingerprint is printed, to compare
    /// with what a browser shows. Connect with `sockeye connect --insecure`.
    #[arg(long, conflicts_with_all = ["tls_cert", "tls_key"], help_heading = "TLS")]
    pub(crate) tls_self_signed: bool,

    /// Open WebSockets as streams of HTTP/2 too (RFC 8441), where a client asks for that
    ///
    /// A browser does once the page has come over HTTP/2, which takes TLS. Each message costs more so.
    #[arg(long)]
    pub(crate) http2: bool,

    /// Open WebSockets over HTTP/3 too (RFC 9220): on the same addresses and ports, on UDP
    ///
    /// It takes a certificate. Connect with `sockeye connect --http3`; no browser comes by itself.
    #[arg(long, conflicts_with = "reuse_port")]
    pub(crate) http3: bool,

    /// Never compress, even where a client offers it (permessage-deflate)
    #[arg(long)]
    pub(crate) no_compress: bool,

    #[command(flatten)]
    pub(crate) pings: Pings,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    /// Have connections from these proxies begin with the PROXY protocol: addresses, networks or unix
    ///
    /// It says whose connection it is, version 1 or 2 (HAProxy send-proxy, nginx proxy_protocol on). Whoever else
    /// sends it is refused.
    #[arg(long, value_name = "NETWORKS", help_heading = "Behind a proxy")]
    pub(crate) proxy_protocol: Option<Networks>,

    /// Believe these proxies what they say of their clients in the header Forwarded (RFC 7239)
    #[arg(long, value_name = "NETWORKS", help_heading = "Behind a proxy")]
    pub(crate) forwarded: Option<Networks>,

    /// Believe these proxies what they say in X-Forwarded-For, X-Forwarded-Host and X-Forwarded-Proto
    ///
    /// Have them set or remove all three.
    #[arg(
        long,
        value_name = "NETWORKS",
        conflicts_with = "forwarded",
        help_heading = "Behind a proxy"
    )]
    pub(crate) x_forwarded_for: Option<Networks>,

    /// Tell metrics for Prometheus at http://ADDRESS/metrics; whoever reaches it can read them
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub(crate) metrics: Option<String>,

    /// At the end, spread the closes evenly over this long, so that clients do not all come back at once
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0", help_heading = "The end")]
    pub(crate) drain: Duration,

    /// Close with 1012 (service restart) in place of 1001: clients are to come back
    #[arg(long, help_heading = "The end")]
    pub(crate) restart: bool,

    /// Cut off what has not ended so long after the signal; default --drain, a second and --close-timeout.
    /// Less than --drain and --close-timeout together shortens --drain
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "The end")]
    pub(crate) shutdown_timeout: Option<Duration>,

    /// Print no line for each connection
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

pub(super) const SERVE_HELP: &str = "\
For testing clients:
  A client that opens the path /?close=CODE&reason=TEXT is closed with that code and
  reason as soon as the connection is open. The reason is percent-decoded. A code that
  no server may send is answered with 400. With --example it means nothing.

Examples:
  sockeye serve
      Echo on ws://127.0.0.1:8080/, and a page at http://127.0.0.1:8080/
  sockeye serve --broadcast --listen 0.0.0.0:9000
      A room for everyone who can reach port 9000
  sockeye serve --tls-self-signed
      Try wss:// and https:// without a certificate
  sockeye serve --tls-cert chain.pem --tls-key key.pem --subprotocol chat
      With a certificate, and a subprotocol
  sockeye serve --example chat
      A chat to open in two browsers; the others are ticker, game and monitor
  sockeye serve --listen 127.0.0.1:8080 --x-forwarded-for 127.0.0.1
      Behind nginx on the same machine, with the addresses of the real clients
  sockeye serve --listen 0.0.0.0:8080 --message-rate 50:500 --idle-timeout 300
      For everyone, but not for those who send without end or say nothing for long
  sockeye serve --config sockeye.toml --check
      Say what is wrong with a file of settings, and serve nothing
  sockeye serve --listen unix:/run/app.sock --socket-mode 660
      On a Unix socket, behind a proxy on the same machine
  sockeye serve --listen 0.0.0.0:80 --reuse-port --restart --drain 30
      Beside the version before; a SIGTERM then sends its clients away within 30 seconds

Exit status:
  0  ended by Ctrl-C, SIGTERM, or SIGHUP without --tls-cert; every connection closed
  1  it could not serve; one line on standard error says why and what to do
  2  the command line, or the file of --config, was not understood
  130  ended at once by a second Ctrl-C; 143 by a second SIGTERM";

/// Where to listen: an address, a Unix socket, or what systemd hands over.
fn parse_place(text: &str) -> Result<String, String> {
    match text.strip_prefix("unix:") {
        Some("") => Err("the path is missing: unix:PATH".into()),
        Some(_) => Ok(text.into()),
        None if text == "systemd" => Ok(text.into()),
        None => parse_address(text),
    }
}

/// A host and a port. Whether there is such a host is seen when it is listened on.
fn parse_address(text: &str) -> Result<String, String> {
    let problem = match text.rsplit_once(':') {
        Some(("", _)) => "the host is missing",
        Some((_, port)) if port.parse::<u16>().is_err() => "the port is a number up to 65535",
        Some(_) => return Ok(text.into()),
        None if text.parse::<u16>().is_ok() => "the host is missing",
        None => "the port is missing",
    };
    Err(format!(
        "{problem}: an address is HOST:PORT, such as 127.0.0.1:8080, or 0.0.0.0:8080 for every address of this machine"
    ))
}

/// The bits of a file's mode that say who may do what.
fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("a mode is up to three octal digits, such as 660".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for good in [
            "127.0.0.1:0",
            "[::1]:8080",
            "localhost:65535",
            "unix:a",
            "systemd",
        ] {
            assert_eq!(parse_place(good).as_deref(), Ok(good));
        }
        for (wrong, why) in [
            ("", "the port is missing"),
            ("8080", "the host is missing"),
            (":8080", "the host is missing"),
            ("localhost", "the port is missing"),
            ("localhost:", "the port is a number"),
            ("127.0.0.1:65536", "the port is a number"),
            ("unix:", "the path is missing"),
        ] {
            let told = parse_place(wrong).unwrap_err();
            assert!(told.starts_with(why), "{wrong}: {told}");
        }
        assert!(parse_address("systemd").is_err());
    }

    #[test]
    fn a_mode_is_octal() {
        assert_eq!(parse_mode("660"), Ok(0o660));
        assert_eq!(parse_mode("0600"), Ok(0o600));
        for wrong in ["", "rw", "680", "1777", "-1"] {
            assert!(parse_mode(wrong).is_err(), "{wrong}");
        }
    }
}
