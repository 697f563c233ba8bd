//! What a server listens on: TCP, a Unix socket, or what systemd hands over.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};
#[cfg(unix)]
use std::{
    fs::{self, Metadata, Permissions},
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use socket2::{Domain, SockRef, Socket, Type};
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::net::{TcpListener, ToSocketAddrs, lookup_host};

use crate::{Error, Result, stream::Stream};

/// How many connections may wait to be accepted. tokio asks for 128: where more come at once, such as
/// after a restart, the system drops their first packets, and they try again a second later.
const BACKLOG: i32 = 1024;

/// How many that wait are still taken when a server ends: what the system lets wait by default.
const LAST: usize = 4096;

/// A socket that listens.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// use sockeye::{Server, server::Listener};
///
/// Server::bind("127.0.0.1:8080").await?
///     .also(Listener::unix_with_mode("/run/app/app.sock", 0o660)?)
///     .serve(|mut socket| async move { socket.send("Привет").await })
///     .await
/// # }
/// ```
pub struct Listener {
    socket: Listening,
    name: Option<String>,
    /// Whether others have the socket too: what waits on it is then left to them.
    inherited: bool,
    #[cfg(unix)]
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Listening {
    /// Whether what is accepted sends at once without being told.
    Tcp(TcpListener, bool),
    #[cfg(unix)]
    Unix(UnixListener),
}

impl Listening {
    /// On Linux a socket that is accepted has the options of the one that listens, so that `TCP_NODELAY` is
    /// set once and not for each: a system call of eight.
    fn tcp(listener: TcpListener) -> Self {
        let inherits = cfg!(target_os = "linux");
        let set = inherits && SockRef::from(&listener).set_tcp_nodelay(true).is_ok();
        Self::Tcp(listener, set)
    }
}

impl Listener {
    /// Listens on a TCP address; port 0 lets the system choose.
    ///
    /// # Errors
    /// [`Error::Listen`] where the address cannot be had.
    ///
    /// # Cancel safety
    /// Safe: dropped, nothing listens.
    pub async fn tcp(address: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        Self::first_of(address, false).await
    }

    /// Listens on a TCP address that other programs of the same user may listen on too, where they also
    /// say so (`SO_REUSEPORT`): the next version of a server beside this one. On Linux the system spreads
    /// new connections over them.
    ///
    /// When a server ends, it serves what has waited to be accepted, if its [`Shutdown`](super::Shutdown)
    /// has a window. A connection that comes in the moment between that and the end of the socket is
    /// reset by the system, and has to try again; to lose none, have systemd hold the
    /// [socket](Self::systemd).
    ///
    /// # Errors
    /// [`Error::Listen`] where the address cannot be had.
    ///
    /// # Cancel safety
    /// As [`tcp`](Self::tcp).
    #[cfg(unix)]
    pub async fn reuse_port(address: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        Self::first_of(address, true).await
    }

    /// Listens on the first of the addresses that can be had.
    async fn first_of(address: impl ToSocketAddrs + fmt::Debug, shared: bool) -> Result<Self> {
        let name = name_of(&address);
        let bound = async {
            let addresses = lookup_host(address).await.map_err(no_address)?;
            TcpListener::from_std(listen_on_first(addresses, shared)?)
        };
        bound
            .await
            .map(Self::from)
            .map_err(|error| cannot_listen(name, error))
    }

    /// Listens on a Unix socket, which is made at `path` and removed when the server ends. Who may
    /// connect is what the process's umask leaves of 0777: whoever may write to it.
    ///
    /// A socket that is there already is replaced where nobody listens on it any more; where somebody
    /// does, or it is no socket, that is an error. A path is at most 107 bytes long on Linux.
    ///
    /// # Errors
    /// [`Error::Listen`].
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> Result<Self> {
        Self::unix_at(path.as_ref(), None)
    }

    /// As [`unix`](Self::unix), with the permissions of the socket, such as `0o660` for its owner and its
    /// group. They are there before anybody can connect.
    ///
    /// # Errors
    /// [`Error::Listen`].
    #[cfg(unix)]
    pub fn unix_with_mode(path: impl AsRef<Path>, mode: u32) -> Result<Self> {
        Self::unix_at(path.as_ref(), Some(mode))
    }

    #[cfg(unix)]
    fn unix_at(path: &Path, mode: Option<u32>) -> Result<Self> {
        let bound = || {
            remove_stale(path)?;
            let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
            socket.bind(&socket2::SockAddr::unix(path)?)?;
            let file = SocketFile {
                made: fs::symlink_metadata(path)?,
                path: path.into(),
            };
            if let Some(mode) = mode {
                fs::set_permissions(path, Permissions::from_mode(mode))?;
            }
            socket.listen(BACKLOG)?;
            socket.set_nonblocking(true)?;
            let mut listener = Self::from(UnixListener::from_std(socket.into())?);
            listener.file = Some(file);
            Ok(listener)
        };
        bound().map_err(|error| cannot_listen(format!("unix:{}", path.display()), error))
    }

    /// The sockets that systemd has handed over to this process (`LISTEN_FDS`, `LISTEN_PID`), TCP and
    /// Unix, in the order of the `.socket` unit; none where there are none, or they have been taken
    /// before. systemd keeps them when this process ends: what comes meanwhile waits for the next one.
    ///
    /// # Errors
    /// [`Error::Listen`] where the environment cannot be understood, or what was handed over is no
    /// listening stream socket.
    #[cfg(target_os = "linux")]
    pub fn systemd() -> Result<Vec<Self>> {
        use std::sync::atomic::{AtomicBool, Ordering};
        /// A descriptor has one owner.
        static TAKEN: AtomicBool = AtomicBool::new(false);

        if TAKEN.swap(true, Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let given = sd_listen_fds::get()
            .map_err(|error| cannot_listen("the sockets of systemd", io::Error::other(error)))?;
        let listeners = given
            .into_iter()
            .enumerate()
            .map(|(place, (name, socket))| {
                let called = match &name {
                    Some(name) => format!("the socket {name:?} of systemd"),
                    None => format!("socket {place} of systemd"),
                };
                let socket = Socket::from(socket.into_std());
                Self::inherited(socket, name).map_err(|error| cannot_listen(called, error))
            });
        listeners.collect()
    }

    #[cfg(target_os = "linux")]
    fn inherited(socket: Socket, name: Option<String>) -> io::Result<Self> {
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            let message =
                "it does not listen for streams; the unit needs ListenStream=, and Accept=no";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        socket.set_cloexec(true)?;
        socket.set_nonblocking(true)?;
        let domain = socket.domain()?;
        let socket = if domain == Domain::UNIX {
            Listening::Unix(UnixListener::from_std(socket.into())?)
        } else if domain == Domain::IPV4 || domain == Domain::IPV6 {
            Listening::tcp(TcpListener::from_std(socket.into())?)
        } else {
            let message = "it is neither TCP nor a Unix socket";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        };
        Ok(Self {
            name,
            inherited: true,
            ..Self::new(socket)
        })
    }

    fn new(socket: Listening) -> Self {
        Self {
            socket,
            name: None,
            inherited: false,
            #[cfg(unix)]
            file: None,
        }
    }

    /// The name that systemd has for the socket (`FileDescriptorName=`, else that of the unit).
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The address that is listened on; none for a Unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Tcp(tcp, _) => tcp.local_addr().ok(),
            #[cfg(unix)]
            Listening::Unix(_) => None,
        }
    }

    pub(crate) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Stream, Option<SocketAddr>)>> {
        match &self.socket {
            Listening::Tcp(tcp, at_once) => tcp.poll_accept(cx).map_ok(|(stream, peer)| {
                let stream = Stream::Tcp(stream);
                if !at_once {
                    stream.set_nodelay();
                }
                (stream, Some(peer))
            }),
            #[cfg(unix)]
            Listening::Unix(unix) => unix
                .poll_accept(cx)
                .map_ok(|(stream, _)| (Stream::new(stream), None)),
        }
    }

    /// Ends it, and gives what waits to be accepted. Where others have the socket too, it is theirs.
    pub(super) fn last(self) -> Vec<(Stream, Option<SocketAddr>)> {
        let mut last = Vec::new();
        if self.inherited {
            return last;
        }
        // First, so that nobody comes any more while the others are taken.
        #[cfg(unix)]
        drop(self.file);
        // The system is asked directly: tokio may not have heard of what came just now. What fails
        // there has nobody waiting who could be served, but for what is of one connection alone.
        match self.socket {
            Listening::Tcp(tcp, _) => {
                let Ok(tcp) = tcp.into_std() else { return last };
                take_waiting(|| {
                    let (stream, peer) = tcp.accept()?;
                    stream.set_nonblocking(true)?;
                    let stream = Stream::Tcp(tokio::net::TcpStream::from_std(stream)?);
                    stream.set_nodelay();
                    last.push((stream, Some(peer)));
                    Ok(())
                });
            }
            #[cfg(unix)]
            Listening::Unix(unix) => {
                let Ok(unix) = unix.into_std() else {
                    return last;
                };
                take_waiting(|| {
                    let (stream, _) = unix.accept()?;
                    stream.set_nonblocking(true)?;
                    let stream = tokio::net::UnixStream::from_std(stream)?;
                    last.push((Stream::new(stream), None));
                    Ok(())
                });
            }
        }
        last
    }
}

/// Takes what waits to be accepted, one after another, until that fails for them all.
fn take_waiting(mut accept: impl FnMut() -> io::Result<()>) {
    let done = |accepted: io::Result<()>| accepted.is_err_and(|e| !is_of_one_connection(&e));
    let _ = (0..LAST).find(|_| done(accept()));
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::new(Listening::tcp(listener))
    }
}

#[cfg(unix)]
impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::new(Listening::Unix(listener))
    }
}

/// Where it listens: `127.0.0.1:8080`, or `unix:/run/app.sock`.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Listening::Tcp(tcp, _) => match tcp.local_addr() {
                Ok(address) => write!(f, "{address}"),
                Err(_) => f.write_str("an unknown address"),
            },
            #[cfg(unix)]
            Listening::Unix(unix) => {
                let address = unix.local_addr().ok();
                match address.as_ref().and_then(|address| address.as_pathname()) {
                    Some(path) => write!(f, "unix:{}", path.display()),
                    None => f.write_str("a Unix socket without a path"),
                }
            }
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("socket", &self.socket)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Listens on a TCP address, which others may do too where it is shared.
pub(super) fn listen(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // What was there before may still have connections in TIME_WAIT. On Windows this means more.
    #[cfg(not(windows))]
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(shared)?;
    #[cfg(not(unix))]
    let _ = shared;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Listens on the first of the addresses that can be had.
pub(super) fn listen_on_first(
    addresses: impl Iterator<Item = SocketAddr>,
    shared: bool,
) -> io::Result<std::net::TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    for address in addresses {
        match listen(address, shared) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Removes a socket that nobody listens on.
#[cfg(unix)]
fn remove_stale(path: &Path) -> io::Result<()> {
    let there = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there?,
    };
    if !there.file_type().is_socket() {
        let message = "something else than a socket is there";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // One with many waiting would let this wait too.
    client.set_nonblocking(true)?;
    match client.connect(&socket2::SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

/// A socket in the file system. It goes when it is dropped, unless another has taken its place.
#[cfg(unix)]
struct SocketFile {
    path: PathBuf,
    made: Metadata,
}

#[cfg(unix)]
impl Drop for SocketFile {
    fn drop(&mut self) {
        let same =
            |there: Metadata| there.ino() == self.made.ino() && there.dev() == self.made.dev();
        if fs::symlink_metadata(&self.path).is_ok_and(same) {
            // A socket that stays is no harm: nobody listens on it, and the next server removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn name_of(address: &impl fmt::Debug) -> String {
    format!("{address:?}").replace('"', "")
}

/// What is no address at all, and how one is written.
pub(super) fn no_address(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::InvalidInput || error.raw_os_error().is_some() {
        return error;
    }
    let form = "an address is HOST:PORT, such as 127.0.0.1:8080";
    io::Error::new(error.kind(), format!("{error}: {form}"))
}

/// Whether an attempt to accept failed for the connection whose turn it was, which is refused or gone: the next one
/// may well succeed. accept(2) on Linux gives the errors that the network has for such a connection, and EPERM for
/// one that a firewall forbids.
pub(super) fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    #[cfg(target_os = "linux")]
    {
        // The standard library has no kinds of error for them.
        use rustix::io::Errno;
        let unnamed = [
            Errno::PROTO,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::OPNOTSUPP,
        ];
        if matches!(Errno::from_io_error(error), Some(errno) if unnamed.contains(&errno)) {
            return true;
        }
    }
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::PermissionDenied
            | Kind::TimedOut
    )
}

pub(super) fn cannot_listen(address: impl ToString, source: io::Error) -> Error {
    Error::Listen {
        address: address.to_string().into(),
        source: Arc::new(source),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::net::TcpStream;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_befell_one_connection_is_told_from_what_befell_the_system() {
        use rustix::io::Errno;
        // accept(2), "Error handling", and EPERM, EINTR of its list.
        let one = [
            Errno::CONNABORTED,
            Errno::PROTO,
            Errno::NETDOWN,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::HOSTUNREACH,
            Errno::OPNOTSUPP,
            Errno::NETUNREACH,
            Errno::PERM,
            Errno::INTR,
        ];
        let all = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::INVAL,
            Errno::BADF,
        ];
        assert!(one.iter().all(|&errno| is_of_one_connection(&errno.into())));
        assert!(!all.iter().any(|&errno| is_of_one_connection(&errno.into())));
    }

    fn sends_at_once(stream: &Stream) -> bool {
        matches!(stream, Stream::Tcp(tcp) if tcp.nodelay().unwrap())
    }

    #[tokio::test]
    async fn what_is_no_address_is_told_how_one_is_written() {
        for wrong in ["localhost", "127.0.0.1", "localhost:99999"] {
            let error = Listener::tcp(wrong).await.unwrap_err().to_string();
            let of_cores = super::super::PerCore::bind(wrong).unwrap_err().to_string();
            let told = format!("cannot listen on {wrong}: invalid ");
            assert!(error.starts_with(&told), "{error}");
            assert!(
                error.ends_with(": an address is HOST:PORT, such as 127.0.0.1:8080"),
                "{error}"
            );
            assert_eq!(error, of_cores);
        }
    }

    #[tokio::test]
    async fn what_is_accepted_sends_at_once() {
        let ours = Listener::tcp("127.0.0.1:0").await.unwrap();
        let users = Listener::from(TcpListener::bind("127.0.0.1:0").await.unwrap());
        for listener in [ours, users] {
            let address = listener.local_addr().unwrap();
            let _first = TcpStream::connect(address).await.unwrap();
            let (accepted, _) = poll_fn(|cx| listener.poll_accept(cx)).await.unwrap();
            assert!(sends_at_once(&accepted));
            let _second = TcpStream::connect(address).await.unwrap();
            let last = listener.last();
            assert_eq!(last.len(), 1);
            assert!(sends_at_once(&last[0].0));
        }
    }
}
