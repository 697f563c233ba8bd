//! What can be said on the command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ArgGroup, Parser, Subcommand};

use crate::quantity::{parse_seconds, parse_size};

/// WebSocket from the command line: serve it, or connect to it.
#[derive(Debug, Parser)]
#[command(name = "sockeye", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(
    infer_subcommands = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sockeye serve                              a server to try things with, and a page for the browser
  sockeye connect ws://127.0.0.1:8080/       talk to it, or to any other WebSocket server
  echo hello | sockeye connect URL           send a line, print what comes back

`sockeye serve --help` and `sockeye connect --help` say everything.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Serve),
    Connect(Connect),
}

/// Serve WebSockets: echo every message, or broadcast it to everyone
///
/// The same port serves a page at / that shows a browser's side of a WebSocket. WebSockets are accepted at
/// every path. A line is printed for each connection that opens and that closes; Ctrl-C closes every
/// connection with 1001 and prints what there was. A second Ctrl-C ends at once.
#[derive(Debug, ArgGroup)]
#[command(after_long_help = SERVE_HELP)]
pub(crate) struct Serve {
    /// Listen on this address; port 0 lets the system choose one that is free
    #[arg(short, long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub(crate) listen: String,

    /// Send each message to everyone, its sender too, instead of only back
    ///
    /// Nobody waits for anybody: what a member has not read yet waits for it on the server. A member that lets
    /// more than 8 MiB wait is closed with 1008.
    #[arg(short, long)]
    pub(crate) broadcast: bool,

    /// Support a subprotocol; of those that a client offers, the one named first here is chosen
    #[arg(short, long, value_name = "NAME")]
    pub(crate) subprotocol: Vec<String>,

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

    /// Never compress, even where a client offers it (permessage-deflate)
    #[arg(long)]
    pub(crate) no_compress: bool,

    /// Accept messages up to this size, in bytes or with K, M or G [default: 16M]; a larger one is closed with 1009
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_message: Option<usize>,

    /// Print no line for each connection
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

const SERVE_HELP: &str = "\
For testing clients:
  A client that opens the path /?close=CODE&reason=TEXT is closed with that code and reason as soon as the
  connection is open. The reason is percent-decoded. A code that no server may send is answered with 400.

Examples:
  sockeye serve
      Echo on ws://127.0.0.1:8080/, and a page at http://127.0.0.1:8080/
  sockeye serve --broadcast --listen 0.0.0.0:9000
      A room for everyone who can reach port 9000
  sockeye serve --tls-self-signed
      Try wss:// and https:// without a certificate
  sockeye serve --tls-cert chain.pem --tls-key key.pem --subprotocol chat
      With a certificate, and a subprotocol

Exit status:
  0  ended by Ctrl-C or SIGTERM, every connection closed
  1  it could not serve; one line on standard error says why and what to do
  2  the command line was not understood";

/// Connect to a WebSocket server: type messages, see what comes
///
/// In a terminal: a line is sent as a text message, and what comes is shown above the line that is being typed,
/// with times and sizes. /help lists the commands, for pings, binary messages, files and closing.
///
/// In a pipe, where standard input or output is no terminal: a line in is a text message out, without its line
/// break. A text message in is a line out, with any line breaks of its own as they are; a binary message is a
/// line of hexadecimal. What was agreed and how the connection ended is told on standard error. After the end
/// of the input, what is left is sent, the peer is waited for (see --linger), and the connection is closed with
/// 1000.
#[derive(Debug, ArgGroup)]
#[command(after_long_help = CONNECT_HELP)]
pub(crate) struct Connect {
    /// The server: ws://… or wss://… (http:// and https:// stand for the same)
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// Offer a subprotocol; the first is the most wanted
    #[arg(short, long, value_name = "NAME")]
    pub(crate) subprotocol: Vec<String>,

    /// Send a header with the request, as in -H 'Authorization: Bearer abc'
    #[arg(short = 'H', long, value_name = "NAME: VALUE", value_parser = parse_header)]
    pub(crate) header: Vec<(String, String)>,

    /// Say on whose behalf the connection is opened, as browsers do
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) origin: Option<String>,

    /// Offer no compression (permessage-deflate)
    #[arg(long)]
    pub(crate) no_compress: bool,

    /// Trust the authorities in this file (PEM) instead of the system's
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(crate) ca: Option<PathBuf>,

    /// Trust whoever answers. Anyone on the way can then read and change everything
    #[arg(long, conflicts_with = "ca", help_heading = "TLS")]
    pub(crate) insecure: bool,

    /// Give up when the connection is not open after this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "10")]
    pub(crate) handshake_timeout: Duration,

    /// Give up when the peer has not answered a Close after this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5")]
    pub(crate) close_timeout: Duration,

    /// In a pipe, after the end of the input: close once no message has come for this long
    ///
    /// While messages come they are printed; the peer may also close first. 0 closes at once, and prints what
    /// still comes before the peer has closed too.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "2")]
    pub(crate) linger: Duration,

    /// Accept messages up to this size, in bytes or with K, M or G [default: 16M]; a larger one is closed with 1009
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) max_message: Option<usize>,

    /// In a terminal: keep no history of what is typed
    ///
    /// It is kept in $XDG_STATE_HOME/sockeye/history (~/.local/state where that is not set), readable by you
    /// alone. A line that begins with a space is never kept.
    #[arg(long)]
    pub(crate) no_history: bool,

    /// Print messages and failures only, not what was agreed
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

const CONNECT_HELP: &str = "\
Examples:
  sockeye connect ws://127.0.0.1:8080/
      Talk to a server; /help lists what can be typed
  sockeye connect wss://example.com/socket -s chat -H 'Authorization: Bearer abc'
      With TLS, a subprotocol and a header
  echo '{\"subscribe\":\"ticks\"}' | sockeye connect --linger 60 wss://example.com/feed | jq .price
      Send a line, then print what comes until a minute goes by without a message
  sockeye connect --ca authority.pem wss://localhost:8443/
      With an authority of your own
  tail -f log | sockeye connect --quiet ws://127.0.0.1:8080/ > /dev/null
      Send lines as they are written

Exit status:
  0    closed normally: by this end, or by the peer with 1000 or without a code
  1    it could not connect, or a file or stream could not be read or written; standard error says what to do
  2    the command line was not understood
  3    closed by the peer with another code than 1000
  4    not closed but lost: the connection broke, or the peer broke the protocol or did not answer a Close
  130  ended by Ctrl-C in a pipe, 143 by SIGTERM

Colour is used on a terminal, unless NO_COLOR is set.";

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().into(), value.trim().into()))
        }
        _ => Err("a header is a name, a colon and a value, such as 'Accept-Language: fi'".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_header_is_split_at_its_first_colon() {
        let parsed = |text| parse_header(text).unwrap();
        assert_eq!(parsed("A: b:c"), ("A".into(), "b:c".into()));
        assert_eq!(parsed("A:"), ("A".into(), String::new()));
        assert!(parse_header("A b").is_err());
        assert!(parse_header(": b").is_err());
    }
}
