//! What can be said to `sockeye connect`.

use std::{
    fs::File,
    io::Read,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Args;

use super::Pings;
use crate::quantity::{parse_count, parse_seconds, parse_size};

/// Connect to a WebSocket server: type messages, see what comes
///
/// In a terminal: a line is sent as a text message, and what comes is shown above the line that is being typed,
/// with times and sizes: of a long one the beginning. /help lists the commands, for pings, binary messages, files
/// and closing.
///
/// In a pipe, where standard input or output is no terminal: a line in is a text message out, without its line
/// break. A text message in is a line out, with any line breaks of its own as they are; a binary message is a
/// line of hexadecimal. Where the output is a terminal, what would control that is shown as an escape. What was
/// agreed and how the connection ended is told on standard error. After the end of the input, what is left is
/// sent, the peer is waited for (see --linger), and the connection is closed with 1000. Bytes instead of lines:
/// --one-message and --binary.
#[derive(Debug, Args)]
#[command(after_long_help = CONNECT_HELP)]
pub(crate) struct Connect {
    /// The server: ws://… or wss://… (http:// and https:// stand for the same), or ws+unix:SOCKET:PATH
    #[arg(value_name = "URL")]
    pub(crate) url: String,

    /// Offer a subprotocol; the first is the most wanted
    #[arg(short, long, value_name = "NAME")]
    pub(crate) subprotocol: Vec<String>,

    /// Send a header with the request, as in -H 'Accept-Language: fi', or those that a file has, a line each, as
    /// in -H @secrets, which nobody sees in the list of processes
    #[arg(short = 'H', long, value_name = "NAME: VALUE|@FILE", value_parser = parse_headers)]
    header: Vec<Headers>,

    /// Say on whose behalf the connection is opened, as browsers do
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) origin: Option<String>,

    /// Offer no compression (permessage-deflate)
    #[arg(long)]
    pub(crate) no_compress: bool,

    /// Send a user name and a password (Authorization: Basic), in place of those in the URL
    #[arg(short, long, value_name = "USER:PASSWORD", value_parser = parse_user)]
    pub(crate) user: Option<User>,

    /// Send cookies
    #[arg(short = 'b', long, value_name = "NAME=VALUE; …", value_parser = parse_cookie)]
    pub(crate) cookie: Vec<String>,

    /// Follow redirects; passwords and cookies stay with the server they are for
    #[arg(short = 'L', long)]
    pub(crate) location: bool,

    /// Follow at most this many redirects
    #[arg(
        long,
        value_name = "COUNT",
        value_parser = parse_count,
        default_value_t = 50,
        requires = "location"
    )]
    pub(crate) max_redirs: usize,

    /// Open the WebSocket as a stream of HTTP/2 (RFC 8441), where the server permits that
    ///
    /// With wss, TLS offers HTTP/2 alone; with ws it is spoken without being asked for (prior knowledge).
    #[arg(long, conflicts_with = "location")]
    pub(crate) http2: bool,

    /// Open the WebSocket as a stream of HTTP/3 (RFC 9220), which is on UDP, where the server permits that
    ///
    /// With wss alone, and through no proxy. That nobody answers there is known after --connect-timeout.
    #[arg(long, conflicts_with_all = ["http2", "location", "proxy"])]
    pub(crate) http3: bool,

    /// Connect through a proxy: http://…, https://…, socks5://… (names are resolved here) or socks5h://… (by
    /// the proxy)
    ///
    /// By default the environment is read as curl does: https_proxy for wss, http_proxy for ws, all_proxy for
    /// both, and no_proxy. An empty PROXY is none at all.
    #[arg(
        short = 'x',
        long,
        value_name = "PROXY",
        help_heading = "The way there"
    )]
    pub(crate) proxy: Option<String>,

    /// Send the proxy a user name and a password, in place of those in its URL
    #[arg(long, value_name = "USER:PASSWORD", value_parser = parse_user, requires = "proxy", help_heading = "The way there")]
    pub(crate) proxy_user: Option<User>,

    /// Use no proxy for these, in place of NO_PROXY: names, addresses and networks with commas between, or *
    #[arg(long, value_name = "LIST", help_heading = "The way there")]
    pub(crate) noproxy: Option<String>,

    /// Reach a host and port at these addresses, in place of asking the system
    #[arg(long, value_name = "HOST:PORT:ADDRESS[,ADDRESS]", value_parser = parse_resolve, help_heading = "The way there")]
    pub(crate) resolve: Vec<Resolve>,

    /// Connect to a Unix socket in place of the URL's host
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", help_heading = "The way there")]
    pub(crate) unix_socket: Option<PathBuf>,

    /// Connect from this address of the machine, or (on Linux) through this network interface
    #[arg(
        long,
        value_name = "ADDRESS|NAME",
        value_parser = parse_interface,
        conflicts_with_all = ["ipv4", "ipv6"],
        help_heading = "The way there"
    )]
    pub(crate) interface: Option<Interface>,

    /// Have the system hold small writes back to join them to others (Nagle's algorithm)
    #[arg(long, help_heading = "The way there")]
    pub(crate) no_tcp_nodelay: bool,

    /// Have the system ask whether the other end is there after this long without a byte (SO_KEEPALIVE), in whole
    /// seconds; never with 0
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, help_heading = "The way there")]
    pub(crate) keepalive_time: Option<Duration>,

    /// Connect over IPv4 only
    #[arg(
        short = '4',
        long,
        conflicts_with = "ipv6",
        help_heading = "The way there"
    )]
    pub(crate) ipv4: bool,

    /// Connect over IPv6 only
    #[arg(short = '6', long, help_heading = "The way there")]
    pub(crate) ipv6: bool,

    /// Trust the authorities in this file (PEM) instead of the system's
    #[arg(long, visible_alias = "ca", value_name = "FILE", help_heading = "TLS")]
    pub(crate) cacert: Option<PathBuf>,

    /// Show this certificate where the server asks for one: a file in PEM, our own first, then its chain
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(crate) cert: Option<PathBuf>,

    /// The key of --cert: a file in PEM, where it is not in the same file
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    pub(crate) key: Option<PathBuf>,

    /// Trust whoever answers. Anyone on the way can then read and change everything
    #[arg(short = 'k', long, conflicts_with = "cacert", help_heading = "TLS")]
    pub(crate) insecure: bool,

    /// Trust the authorities in this file (PEM) about an https proxy instead of the system's
    #[arg(long, value_name = "FILE", requires = "proxy", help_heading = "TLS")]
    pub(crate) proxy_cacert: Option<PathBuf>,

    /// Give up when the server, or the proxy, is not reached or TLS is not set up after this long each
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "10")]
    pub(crate) connect_timeout: Duration,

    /// Give up when the server has not answered the request after this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "10")]
    pub(crate) handshake_timeout: Duration,

    /// Give up when the peer has not answered a Close after this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5")]
    pub(crate) close_timeout: Duration,

    #[command(flatten)]
    pub(crate) pings: Pings,

    /// Close with 1001 when there was no message in either direction for this long; never with 0
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    pub(crate) idle_timeout: Duration,

    /// In a pipe, after the end of the input: close once no message has come for this long
    ///
    /// While messages come they are printed; the peer may also close first. 0 closes at once, and prints what
    /// still comes before the peer has closed too.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "2")]
    pub(crate) linger: Duration,

    /// Send all of standard input as one message, of any size, and write the first that comes as it comes
    ///
    /// The message is text, or binary with --binary, and neither is ever whole in memory: --max-message does not
    /// apply. The connection is closed once it is sent and one has come; where none begins, see --linger. An
    /// input without a byte is no message.
    #[arg(
        short = '1',
        long,
        conflicts_with = "reconnect",
        help_heading = "Bytes instead of lines"
    )]
    pub(crate) one_message: bool,

    /// Send standard input as binary messages as it is read, and write what comes as it is: a tunnel
    #[arg(
        long,
        conflicts_with = "reconnect",
        help_heading = "Bytes instead of lines"
    )]
    pub(crate) binary: bool,

    /// Connect again when the connection is lost, and carry on
    ///
    /// After longer and longer random waits of at most 30 seconds, and as long as the server asks for, up to
    /// 5 minutes, besides. What the server refuses or closes for good (401, 403, 404, a close with 1000 ...) stays an end.
    /// A line that is being written when the connection breaks is sent again; one that was on its way may be
    /// lost, and so may be what the server sent meanwhile. What is typed or read while there is no connection
    /// waits for one.
    #[arg(long)]
    pub(crate) reconnect: bool,

    /// With --reconnect: give up after this many failed attempts in a row, the first included
    #[arg(long, value_name = "NUMBER", requires = "reconnect", value_parser = parse_attempts)]
    pub(crate) max_attempts: Option<u32>,

    /// Accept messages up to this size, in bytes or with K, M or G; a larger one is closed with 1009
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "16M")]
    pub(crate) max_message: usize,

    /// In a terminal: keep no history of what is typed
    ///
    /// It is kept in $XDG_STATE_HOME/sockeye/history (~/.local/state where that is not set), readable by you
    /// alone. A line that begins with a space is never kept.
    #[arg(long)]
    pub(crate) no_history: bool,

    /// Show on standard error what the server is asked (>) and what it has answered (<): headers, status, and of a
    /// refusal the beginning of its body
    ///
    /// The values of Authorization, Cookie and Proxy-Authorization in the request are not shown. Of a redirect
    /// that is followed, the request is shown and the answer is not, and what is said to a proxy is not either.
    #[arg(short, long)]
    pub(crate) verbose: bool,

    /// Print messages and failures only, not what was agreed
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

impl Connect {
    /// All headers that were given, with their values.
    pub(crate) fn headers(&self) -> impl Iterator<Item = &(String, String)> {
        self.header.iter().flat_map(|Headers(given)| given)
    }
}

pub(super) const CONNECT_HELP: &str = "\
Examples:
  sockeye connect ws://127.0.0.1:8080/
      Talk to a server; /help lists what can be typed
  sockeye connect wss://example.com/socket -s chat -H 'Authorization: Bearer abc'
      With TLS, a subprotocol and a header
  echo '{\"subscribe\":\"ticks\"}' | sockeye connect --linger 60 wss://example.com/feed | jq .price
      Send a line, then print what comes until a minute goes by without a message
  sockeye connect --cacert authority.pem wss://localhost:8443/
      With an authority of your own
  sockeye connect -x socks5h://127.0.0.1:9050 -u me:secret wss://example.com/
      Through a proxy, with a user name and a password for the server
  sockeye connect ws+unix:/run/app.sock:/events
      Over a Unix socket
  tail -f commands | sockeye connect --reconnect wss://example.com/feed
      Stay connected over restarts of the server
  tar c . | sockeye connect -1 --binary wss://example.com/upload
      Send one message of any size, and print the answer
  sockeye connect --quiet --binary wss://example.com/tunnel
      A tunnel for bytes, such as ssh -o ProxyCommand='…' host
  tail -f log | sockeye connect --quiet ws://127.0.0.1:8080/ > /dev/null
      Send lines as they are written

Exit status:
  0    closed normally: by this end, or by the peer with 1000 or without a code; or left
       in a terminal before there was a connection
  1    it could not connect, something could not be read or written, or the peer closed
       before all of the input was sent: one line on standard error says why
  2    the command line was not understood, or asks for what cannot be: a URL, a header
  3    closed by the peer with another code than 1000
  4    lost: the connection broke, or the peer broke the protocol, went over --max-message
       or did not answer a Close; or there was no connection for what was typed
  130  ended by Ctrl-C, in a pipe or before there was a connection, or twice in a
       terminal; 143 by SIGTERM or SIGHUP. In a terminal that takes no output Ctrl-C is
       not heard, and SIGTERM twice is

Colour is used on a terminal, unless NO_COLOR is set.";

/// How often a connection is tried; the first time is one.
fn parse_attempts(text: &str) -> Result<u32, String> {
    match parse_count(text)? {
        0 => Err("the first attempt counts: it is 1 or more".into()),
        // As many take more than a lifetime.
        attempts => Ok(u32::try_from(attempts).unwrap_or(u32::MAX)),
    }
}

/// Headers that are given together.
#[derive(Clone)]
pub(crate) struct Headers(Vec<(String, String)>);

impl std::fmt::Debug for Headers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Headers(..)")
    }
}

fn parse_headers(text: &str) -> Result<Headers, String> {
    let Some(path) = text.strip_prefix('@') else {
        return Ok(Headers(vec![parse_header(text)?]));
    };
    let mut text = String::new();
    // More than any head may have.
    let read = File::open(path).and_then(|file| file.take(1 << 20).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    let lines = text.lines().enumerate();
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let headers = lines.map(|(at, line)| {
        // Not what it says, which may be secret.
        parse_header(line).map_err(|why| format!("line {}: {why}", at + 1))
    });
    headers.collect::<Result<_, _>>().map(Headers)
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().into(), value.trim().into()))
        }
        _ => Err("a header is a name, a colon and a value, such as 'Accept-Language: fi'".into()),
    }
}

/// A user's name and password; never printed.
#[derive(Clone)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("User(..)")
    }
}

fn parse_user(text: &str) -> Result<User, String> {
    let (name, password) = text
        .split_once(':')
        .ok_or("it is a user name, a colon and a password")?;
    Ok(User {
        name: name.into(),
        password: password.into(),
    })
}

fn parse_cookie(text: &str) -> Result<String, String> {
    if text.contains('=') {
        Ok(text.into())
    } else {
        Err("a cookie is a name, = and a value; files of cookies are not read".into())
    }
}

/// Where a host is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolve {
    /// With its port.
    pub(crate) host: String,
    pub(crate) addresses: Vec<SocketAddr>,
}

/// Where a connection comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Interface {
    Address(IpAddr),
    #[cfg(target_os = "linux")]
    Name(String),
}

/// As curl's --interface has it.
fn parse_interface(text: &str) -> Result<Interface, String> {
    match text.trim_matches(['[', ']']).parse() {
        Ok(address) => Ok(Interface::Address(address)),
        #[cfg(target_os = "linux")]
        Err(_) if !text.is_empty() => Ok(Interface::Name(text.into())),
        Err(_) => Err("it is an IP address of this machine, such as 192.0.2.1".into()),
    }
}

/// As curl's --resolve has it; brackets around IPv6 are optional.
fn parse_resolve(text: &str) -> Result<Resolve, String> {
    const FORM: &str = "it is written as HOST:PORT:ADDRESS, as in example.com:443:127.0.0.1";
    // A host in brackets has colons of its own.
    let end = text
        .strip_prefix('[')
        .and_then(|rest| rest.find(']'))
        .map_or(0, |at| at + 1);
    let (host, rest) = text.split_at(end + text[end..].find(':').ok_or(FORM)?);
    let (port, addresses) = rest[1..].split_once(':').ok_or(FORM)?;
    let port: u16 = port.parse().map_err(|_| FORM)?;
    let addresses = addresses.split(',').map(|address| {
        let address = address.trim_matches(['[', ']']);
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{address:?} is no IP address"))?;
        Ok(SocketAddr::new(address, port))
    });
    Ok(Resolve {
        host: format!("{host}:{port}"),
        addresses: addresses.collect::<Result<_, String>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_an_address_or_a_name() {
        let address = |text: &str| Interface::Address(text.parse().unwrap());
        assert_eq!(parse_interface("127.0.0.2"), Ok(address("127.0.0.2")));
        assert_eq!(parse_interface("[::1]"), Ok(address("::1")));
        #[cfg(target_os = "linux")]
        assert_eq!(parse_interface("lo"), Ok(Interface::Name("lo".into())));
        assert!(parse_interface("").is_err());
    }

    #[test]
    fn a_header_is_split_at_its_first_colon() {
        let parsed = |text| parse_header(text).unwrap();
        assert_eq!(parsed("A: b:c"), ("A".into(), "b:c".into()));
        assert_eq!(parsed("A:"), ("A".into(), String::new()));
        assert!(parse_header("A b").is_err());
        assert!(parse_header(": b").is_err());
    }

    #[test]
    fn headers_may_be_in_a_file() {
        let path = std::env::temp_dir().join(format!("sockeye-headers-{}", std::process::id()));
        let given = format!("@{}", path.display());
        std::fs::write(&path, "A: b\r\n\nC: d").unwrap();
        let Headers(headers) = parse_headers(&given).unwrap();
        let names: Vec<_> = headers.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, ["A", "C"]);
        std::fs::write(&path, "A: b\nsecret").unwrap();
        let error = parse_headers(&given).unwrap_err();
        assert!(error.starts_with("line 2: ") && !error.contains("secret"));
        std::fs::remove_file(&path).unwrap();
        assert!(parse_headers(&given).is_err());
    }

    #[test]
    fn resolve_is_written_as_for_curl() {
        let parsed = |text| {
            let Resolve { host, addresses } = parse_resolve(text).unwrap();
            format!("{host} {addresses:?}")
        };
        assert_eq!(parsed("a:1:1.2.3.4"), "a:1 [1.2.3.4:1]");
        assert_eq!(parsed("a:1:::1,1.2.3.4"), "a:1 [[::1]:1, 1.2.3.4:1]");
        assert_eq!(parsed("[::2]:1:[::1]"), "[::2]:1 [[::1]:1]");
        for wrong in ["", "a", "a:1", "a:b:1.2.3.4", "a:1:b", "a:1:"] {
            assert!(parse_resolve(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_password_may_have_a_colon() {
        let User { name, password } = parse_user("a:b:c").unwrap();
        assert_eq!((name.as_str(), password.as_str()), ("a", "b:c"));
        assert!(parse_user("a").is_err());
        assert!(parse_cookie("cookies.txt").is_err());
    }
}
