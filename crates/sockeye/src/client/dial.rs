//! Reaches a host: its addresses, tried side by side (RFC 8305), with the options of TCP; or a Unix
//! socket.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpSocket, TcpStream, lookup_host},
    time::{Instant, sleep, timeout_at},
};

use super::url::ascii_name;
use crate::{Attempt, Error, Result};

/// How long an attempt is alone before the next one begins (RFC 8305 §5).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

const NO_ANSWER: &str = "no answer in time (the connect timeout)";

/// Whether a name, as it is read or as it travels, or an address, in brackets or without, is that host of a URL.
fn is_host(name: &str, host: &str) -> bool {
    let bare = name.trim_matches(['[', ']']);
    if let (Ok(one), Ok(other)) = (bare.parse::<IpAddr>(), host.parse::<IpAddr>()) {
        return one == other;
    }
    name.eq_ignore_ascii_case(host) || ascii_name(name).is_some_and(|name| name == host)
}

/// How hosts are reached.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    pub(super) nodelay: bool,
    /// After how long without a byte the system asks whether the peer is still there.
    pub(super) keepalive: Option<Duration>,
    pub(super) local_address: Option<IpAddr>,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) interface: Option<String>,
    /// Addresses that the user gives for a host, or for a host and port; 0 is the URL's port.
    pub(super) resolved: Vec<(String, Vec<SocketAddr>)>,
}

impl Default for Dial {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
            local_address: None,
            #[cfg(any(target_os = "linux", target_os = "android"))]
            interface: None,
            resolved: Vec::new(),
        }
    }
}

impl Dial {
    /// Connects to the first address of a host that answers by the deadline.
    ///
    /// # Errors
    /// [`Error::Resolve`], [`Error::Family`], [`Error::Local`]; [`Error::Connect`] with every address
    /// that was tried.
    ///
    /// # Cancel safety
    /// Dropping the future gives up all attempts.
    pub(super) async fn connect(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<TcpStream> {
        let addresses = self.addresses(host, port, deadline).await?;
        let addresses = self.of_local_family(host, addresses)?;
        let attempt = async |address| {
            if Instant::now() >= deadline {
                return Err(late("there was no time left to try it").into());
            }
            timeout_at(deadline, self.attempt(address))
                .await
                .unwrap_or_else(|_| Err(late(NO_ANSWER).into()))
        };
        race(addresses, attempt).await.map_err(all_failed)
    }

    /// The addresses of a host, in the order in which they are to be tried, where they are found by the deadline.
    ///
    /// # Errors
    /// [`Error::Resolve`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the name up; the thread that asks the system for it goes on until that answers.
    pub(super) async fn addresses(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>> {
        let resolve_error = |source| Error::Resolve {
            host: host.into(),
            source: Arc::new(source),
        };
        let found = if let Some(given) = self.given(host, port) {
            given
        } else if let Ok(address) = host.parse() {
            vec![SocketAddr::new(address, port)]
        } else {
            if Instant::now() >= deadline {
                return Err(resolve_error(late(NO_ANSWER)));
            }
            timeout_at(deadline, lookup_host((host, port)))
                .await
                .unwrap_or_else(|_| Err(late(NO_ANSWER)))
                .map_err(resolve_error)?
                .collect()
        };
        let addresses = interleaved(found);
        if addresses.is_empty() {
            let none = io::Error::new(io::ErrorKind::NotFound, "it has none");
            return Err(resolve_error(none));
        }
        Ok(addresses)
    }

    /// Those of them that can be connected to from here.
    ///
    /// # Errors
    /// [`Error::Family`].
    fn of_local_family(
        &self,
        host: &str,
        mut addresses: Vec<SocketAddr>,
    ) -> Result<Vec<SocketAddr>> {
        if let Some(local) = self.local_address {
            addresses.retain(|address| address.is_ipv6() == local.is_ipv6());
            if addresses.is_empty() {
                let host = host.into();
                return Err(Error::Family { host, local });
            }
        }
        Ok(addresses)
    }

    /// What the user has said about the addresses of a host; the latest word counts.
    fn given(&self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let is_meant = |name: &str| {
            is_host(name, host)
                || name
                    .rsplit_once(':')
                    .is_some_and(|(name, only)| is_host(name, host) && only.parse() == Ok(port))
        };
        let (_, addresses) = self
            .resolved
            .iter()
            .rev()
            .find(|(name, _)| is_meant(name))?;
        let with_port = |mut address: SocketAddr| {
            if address.port() == 0 {
                // Not made anew: an IPv6 address has a scope too.
                address.set_port(port);
            }
            address
        };
        Some(addresses.iter().copied().map(with_port).collect())
    }

    /// As [`connect`](Self::connect), over QUIC: the server has shown who it is then.
    ///
    /// # Errors
    /// As that; and [`Error::Tls`], as it is said of the server and not of the way.
    ///
    /// # Cancel safety
    /// As that.
    #[cfg(feature = "http3")]
    pub(super) async fn connect_quic(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
        config: quinn::ClientConfig,
    ) -> Result<(quinn::Endpoint, quinn::Connection)> {
        let addresses = self.addresses(host, port, deadline).await?;
        let addresses = self.of_local_family(host, addresses)?;
        let attempt = async |address| {
            if Instant::now() >= deadline {
                return Err(late("there was no time left to try it").into());
            }
            timeout_at(deadline, self.attempt_quic(host, address, config.clone()))
                .await
                .unwrap_or_else(|_| Err(late(NO_ANSWER).into()))
        };
        race(addresses, attempt).await.map_err(all_failed)?
    }

    /// Tries one address. What TLS says against the server ends the whole attempt.
    #[cfg(feature = "http3")]
    async fn attempt_quic(
        &self,
        host: &str,
        address: SocketAddr,
        config: quinn::ClientConfig,
    ) -> Result<Result<(quinn::Endpoint, quinn::Connection)>, Failed> {
        use quinn::{Endpoint, EndpointConfig, TokioRuntime};

        use crate::http3::tls_failure;

        // What the system knows it says of a socket that is connected, and to nobody else.
        self.udp(address)?.connect(address)?;
        let (socket, runtime) = (self.udp(address)?, Arc::new(TokioRuntime));
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime)?;
        let connecting = endpoint
            .connect_with(config, address, host)
            .map_err(io::Error::other)?;
        match connecting.await {
            Ok(connection) => Ok(Ok((endpoint, connection))),
            Err(error) => match tls_failure(&error) {
                Some(why) => Ok(Err(Error::tls(host, why))),
                None => Err(io::Error::from(error).into()),
            },
        }
    }

    /// A UDP socket of this end's for a connection to an address.
    #[cfg(feature = "http3")]
    fn udp(&self, address: SocketAddr) -> Result<std::net::UdpSocket, Failed> {
        use socket2::{Domain, Protocol, Socket, Type};
        use std::net::{Ipv4Addr, Ipv6Addr};

        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(interface) = &self.interface {
            let bound = socket.bind_device(Some(interface.as_bytes()));
            bound.map_err(|error| Failed::here(interface, error))?;
        }
        let any = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = self.local_address.unwrap_or(any);
        let bound = socket.bind(&SocketAddr::new(local, 0).into());
        bound.map_err(|error| Failed::here(local, error))?;
        Ok(socket.into())
    }

    async fn attempt(&self, address: SocketAddr) -> Result<TcpStream, Failed> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // First: an IPv6 address of one link can be bound only where that is known.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(interface) = &self.interface {
            let bound = socket.bind_device(Some(interface.as_bytes()));
            bound.map_err(|error| Failed::here(interface, error))?;
        }
        // What only chooses the family would have a port of its own, for all servers together.
        if let Some(local) = self.local_address.filter(|local| !local.is_unspecified()) {
            let bound = socket.bind(SocketAddr::new(local, 0));
            bound.map_err(|error| Failed::here(local, error))?;
        }
        if let Some(idle) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(whole_seconds(idle));
            SockRef::from(&socket).set_tcp_keepalive(&keepalive)?;
        }
        let tcp = socket.connect(address).await?;
        if is_itself(&tcp) {
            return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
        }
        // Messages are written whole; waiting to join them to others only delays them. A system
        // that cannot do that still has a connection.
        let _ = tcp.set_nodelay(self.nodelay);
        Ok(tcp)
    }
}

/// Whether a socket is connected with itself: where nobody listens on a port of this machine, the system may choose that
/// very port to connect from (RFC 9293 §3.5, simultaneous opening).
fn is_itself(tcp: &TcpStream) -> bool {
    matches!((tcp.local_addr(), tcp.peer_addr()), (Ok(here), Ok(there)) if here == there)
}

/// A time that the system takes: it counts whole seconds, and Linux refuses more of them than this.
fn whole_seconds(time: Duration) -> Duration {
    const MOST: u64 = 32_767;
    let begun = u64::from(time.subsec_nanos() > 0);
    Duration::from_secs(time.as_secs().saturating_add(begun).clamp(1, MOST))
}

fn late(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

/// Why an attempt failed.
struct Failed {
    source: io::Error,
    /// What it is about where that is this end: its address, or its interface.
    here: Option<Box<str>>,
}

impl Failed {
    fn here(from: impl ToString, source: io::Error) -> Self {
        Self {
            source,
            here: Some(from.to_string().into()),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(source: io::Error) -> Self {
        Self { source, here: None }
    }
}

/// The error of attempts of which each has failed. What is wrong at this end is so for all.
fn all_failed(failed: Vec<(SocketAddr, Failed)>) -> Error {
    let mut attempts = Vec::new();
    for (address, Failed { source, here }) in failed {
        let (address, source) = (address.to_string().into(), Arc::new(source));
        if let Some(from) = here {
            return Error::Local { from, source };
        }
        attempts.push(Attempt { address, source });
    }
    let attempts = attempts.into();
    Error::Connect { attempts }
}

/// Connects to a Unix socket. Where its queue is full, waits for a place in it until the deadline, as the system does
/// for TCP.
///
/// # Errors
/// [`Error::Connect`] with the path.
#[cfg(unix)]
pub(super) async fn connect_unix(
    path: &std::path::Path,
    deadline: Instant,
) -> Result<tokio::net::UnixStream> {
    const LONGEST: Duration = Duration::from_millis(100);
    const FULL: &str = "its server has no place left in its queue (the connect timeout)";
    let connecting = async {
        let mut delay = Duration::from_millis(10);
        loop {
            match tokio::net::UnixStream::connect(path).await {
                // The system tells nobody of a place.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(delay).await,
                connected => return connected,
            }
            delay = (2 * delay).min(LONGEST);
        }
    };
    let connected = timeout_at(deadline, connecting).await;
    connected
        .unwrap_or_else(|_| Err(late(FULL)))
        .map_err(|error| Error::Connect {
            attempts: Arc::new([Attempt {
                address: path.display().to_string().into(),
                source: Arc::new(error),
            }]),
        })
}

/// Orders addresses so that families take turns, beginning with the one of the first, and each keeps
/// its order (RFC 8305 §4): the system has sorted them by what is likely to be reached (RFC 6724), and a
/// user by what is wanted.
fn interleaved(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let is_first = |address: &SocketAddr| {
        let first = addresses.first();
        first.is_some_and(|first| first.is_ipv6() == address.is_ipv6())
    };
    let (one, other): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(is_first);
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    let mut ordered = Vec::new();
    loop {
        let pair = [one.next(), other.next()];
        if pair == [None, None] {
            return ordered;
        }
        for address in pair.into_iter().flatten() {
            if !ordered.contains(&address) {
                ordered.push(address);
            }
        }
    }
}

/// Tries addresses side by side (RFC 8305 §5): each begins 250 ms after the one before it, or as
/// soon as one has failed. The first to succeed is what comes out; the others are dropped.
///
/// # Errors
/// Where all have failed: each with its error, in the order in which they failed.
pub(super) async fn race<T, E, F>(
    addresses: Vec<SocketAddr>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<T, Vec<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = addresses.into_iter();
    let mut running: Vec<(SocketAddr, Pin<Box<F>>)> = Vec::new();
    let mut failed = Vec::new();
    let mut alone = pin!(sleep(Duration::ZERO));
    poll_fn(|cx| {
        loop {
            let mut has_failed = false;
            let mut at = 0;
            while at < running.len() {
                match running[at].1.as_mut().poll(cx) {
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Ok(connected)),
                    Poll::Ready(Err(error)) => {
                        failed.push((running.remove(at).0, error));
                        has_failed = true;
                    }
                    Poll::Pending => at += 1,
                }
            }
            let is_due = running.is_empty() || has_failed || alone.as_mut().poll(cx).is_ready();
            match is_due.then(|| waiting.next()).flatten() {
                Some(address) => {
                    running.push((address, Box::pin(attempt(address))));
                    alone.as_mut().reset(Instant::now() + ATTEMPT_DELAY);
                }
                None if running.is_empty() => return Poll::Ready(Err(std::mem::take(&mut failed))),
                None => return Poll::Pending,
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::Mutex};

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn addresses(text: &str) -> Vec<SocketAddr> {
        text.split_whitespace()
            .map(|address| address.parse().unwrap())
            .collect()
    }

    #[test]
    fn a_host_is_named_as_it_is_read_or_as_it_travels() {
        for (name, host) in [
            ("a.example", "a.example"),
            ("A.Example", "a.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::9", "2001:db8::9"),
            ("[2001:DB8:0::9]", "2001:db8::9"),
        ] {
            assert!(is_host(name, host), "{name}");
            assert!(!is_host(name, "b.example"), "{name}");
            assert!(!is_host(name, "2001:db8::8"), "{name}");
        }
    }

    #[test]
    fn an_address_that_is_given_keeps_its_scope_with_the_port_of_the_url() {
        let dial = Dial {
            resolved: vec![("dev.local".into(), addresses("[fe80::1%4]:0 [fe80::1%4]:9"))],
            ..Dial::default()
        };
        let given = dial.given("dev.local", 80);
        assert_eq!(given, Some(addresses("[fe80::1%4]:80 [fe80::1%4]:9")));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_socket_that_is_connected_with_itself_is_known() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let itself = socket.local_addr().unwrap();
        assert!(is_itself(&socket.connect(itself).await.unwrap()));

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        assert!(!is_itself(&TcpStream::connect(there).await.unwrap()));
    }

    /// A server that restarts leaves whoever comes in the queue of its socket; where that is full they wait too.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_unix_socket_whose_queue_is_full_is_waited_for() {
        use socket2::{Domain, SockAddr, Socket, Type};

        let path = std::env::temp_dir().join(format!("sockeye-queue-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        listener.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let _first = connect_unix(&path, soon()).await.unwrap();
        let late = connect_unix(&path, Instant::now()).await.unwrap_err();
        assert!(late.is_timeout() && late.is_connect(), "{late}");
        assert!(late.to_string().contains("no place left"), "{late}");
        let mut second = pin!(connect_unix(&path, soon()));
        let polled = poll_fn(|cx| Poll::Ready(second.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "{polled:?}");
        listener.accept().unwrap();
        second.await.unwrap();
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn rfc_8305_section_4_families_take_turns() {
        assert_eq!(
            interleaved(addresses(
                "1.1.1.1:1 1.1.1.2:1 [::1]:1 [::2]:1 [::3]:1 1.1.1.1:1"
            )),
            addresses("1.1.1.1:1 [::1]:1 1.1.1.2:1 [::2]:1 [::3]:1")
        );
        assert_eq!(
            interleaved(addresses("[::2]:1 [::1]:1 1.1.1.2:1 1.1.1.1:1 [::3]:1")),
            addresses("[::2]:1 1.1.1.2:1 [::1]:1 1.1.1.1:1 [::3]:1")
        );
        assert_eq!(interleaved(Vec::new()), []);
    }

    /// What becomes of an attempt, by the last number of its address: 0 fails at once, 1 succeeds
    /// at once, 2 never ends, 3 fails after 100 ms, 4 succeeds after a second.
    async fn outcome(address: SocketAddr) -> Result<SocketAddr, &'static str> {
        let after = |millis| sleep(Duration::from_millis(millis));
        match address.to_string().split(':').next().unwrap() {
            "1.1.1.0" => Err("refused"),
            "1.1.1.1" => Ok(address),
            "1.1.1.2" => pending().await,
            "1.1.1.3" => {
                after(100).await;
                Err("reset")
            }
            _ => {
                after(1000).await;
                Ok(address)
            }
        }
    }

    /// Who wins, and after how many milliseconds.
    async fn won(tried: &str) -> (String, u128) {
        let begin = Instant::now();
        let winner = race(addresses(tried), outcome).await.unwrap();
        (winner.to_string(), begin.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn rfc_8305_section_5_attempts_begin_250_ms_apart_or_at_a_failure() {
        let is = |address: &str, millis| (address.to_owned(), millis);
        assert_eq!(won("1.1.1.1:1 1.1.1.2:1").await, is("1.1.1.1:1", 0));
        assert_eq!(won("1.1.1.0:1 1.1.1.1:1").await, is("1.1.1.1:1", 0));
        assert_eq!(won("1.1.1.2:1 1.1.1.1:1").await, is("1.1.1.1:1", 250));
        assert_eq!(won("1.1.1.3:1 1.1.1.1:1").await, is("1.1.1.1:1", 100));
        let three = "1.1.1.2:1 1.1.1.2:2 1.1.1.1:1";
        assert_eq!(won(three).await, is("1.1.1.1:1", 500));
        // An early one may still win.
        assert_eq!(won("1.1.1.4:1 1.1.1.2:1").await, is("1.1.1.4:1", 1000));
        assert_eq!(
            won("1.1.1.2:1 1.1.1.0:1 1.1.1.1:1").await,
            is("1.1.1.1:1", 250)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn every_failure_is_told() {
        let failed = race(addresses("1.1.1.3:1 1.1.1.0:1 1.1.1.0:2"), outcome).await;
        let told: Vec<_> = failed
            .unwrap_err()
            .into_iter()
            .map(|(at, why)| format!("{at} {why}"))
            .collect();
        assert_eq!(
            told,
            ["1.1.1.3:1 reset", "1.1.1.0:1 refused", "1.1.1.0:2 refused"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_others_are_dropped_when_one_is_there() {
        struct Dropped<'a>(&'a Mutex<Vec<SocketAddr>>, SocketAddr);
        impl Drop for Dropped<'_> {
            fn drop(&mut self) {
                self.0.lock().unwrap().push(self.1);
            }
        }
        let dropped = Mutex::new(Vec::new());
        race(addresses("1.1.1.2:1 1.1.1.2:2 1.1.1.1:1"), |address| {
            let guard = Dropped(&dropped, address);
            async move {
                let result = outcome(address).await;
                drop(guard);
                result
            }
        })
        .await
        .unwrap();
        assert_eq!(dropped.lock().unwrap().len(), 3);
    }

    #[tokio::test]
    async fn the_users_addresses_take_the_place_of_the_systems() {
        let dial = Dial {
            resolved: vec![
                ("a.example".into(), addresses("1.1.1.1:0 [::1]:9")),
                ("a.example:81".into(), addresses("1.1.1.2:0")),
                ("[::2]:81".into(), addresses("1.1.1.3:0")),
            ],
            ..Dial::default()
        };
        let found = async |host, port| dial.addresses(host, port, soon()).await.unwrap();
        assert_eq!(
            found("A.example", 80).await,
            addresses("1.1.1.1:80 [::1]:9")
        );
        assert_eq!(found("a.example", 81).await, addresses("1.1.1.2:81"));
        assert_eq!(found("::2", 81).await, addresses("1.1.1.3:81"));
        assert_eq!(found("::2", 80).await, addresses("[::2]:80"));
    }

    #[tokio::test]
    async fn a_local_address_chooses_the_family() {
        let dial = |local: &str| Dial {
            resolved: vec![
                ("a".into(), addresses("1.1.1.1:0 [::1]:0")),
                ("b".into(), addresses("1.1.1.1:0")),
            ],
            local_address: Some(local.parse().unwrap()),
            ..Dial::default()
        };
        let found = async |local, host| {
            let dial = dial(local);
            let addresses = dial.addresses(host, 1, soon()).await.unwrap();
            dial.of_local_family(host, addresses)
        };
        assert_eq!(found("0.0.0.0", "a").await.unwrap(), addresses("1.1.1.1:1"));
        assert_eq!(found("::", "a").await.unwrap(), addresses("[::1]:1"));
        for (local, says) in [
            ("::", "b has no IPv6 address, and no other may be used"),
            (
                "::1",
                "b has no IPv6 address, and the local address ::1 is one",
            ),
        ] {
            let error = found(local, "b").await.unwrap_err();
            assert!(matches!(error, Error::Family { .. }) && error.is_connect());
            assert_eq!(error.to_string(), says);
        }
    }

    #[tokio::test]
    async fn the_options_of_tcp_are_set() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let soon = Instant::now() + Duration::from_secs(20);
        let tcp = (Dial::default().connect("127.0.0.1", port, soon).await).unwrap();
        assert!(tcp.nodelay().unwrap() && !SockRef::from(&tcp).keepalive().unwrap());
        let dial = Dial {
            nodelay: false,
            keepalive: Some(Duration::from_secs(77)),
            ..Dial::default()
        };
        let tcp = dial.connect("127.0.0.1", port, soon).await.unwrap();
        assert!(!tcp.nodelay().unwrap() && SockRef::from(&tcp).keepalive().unwrap());
        #[cfg(target_os = "linux")]
        for (asked, set) in [
            (Duration::from_millis(1), 1),
            (Duration::from_millis(1500), 2),
            (Duration::from_secs(77), 77),
            (Duration::MAX, 32_767),
        ] {
            let keepalive = Some(asked);
            let dial = Dial {
                keepalive,
                ..Dial::default()
            };
            let tcp = dial.connect("127.0.0.1", port, soon).await.unwrap();
            let time = SockRef::from(&tcp).tcp_keepalive_time().unwrap();
            assert_eq!(time, Duration::from_secs(set), "{asked:?}");
        }
    }
}
