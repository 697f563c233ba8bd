//! A server a core: a listening socket, a thread and a runtime of its own for each.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    num::NonZeroUsize,
    panic,
    sync::Arc,
    thread::{self, Builder},
};

use tokio::runtime;

use super::{
    Server, Shutdown, ShutdownHandle,
    admission::Gate,
    listener::{cannot_listen, listen, listen_on_first, name_of, no_address},
    shutdown::Running,
};
use crate::Result;

/// The same server once a core: each thread has a runtime of its own, and accepts, serves and ends
/// its own connections. Nothing of a connection ever moves to another thread, or waits for one.
///
/// For a machine that is to be filled with many connections which do much the same. A handler that
/// computes for long holds up the connections of its thread, which in a multi-threaded runtime
/// others would take over; `docs/performance.md` says more about the choice.
///
/// On Linux every thread listens on a socket of its own (`SO_REUSEPORT`), and the system spreads the
/// connections evenly by their addresses; another program of the same user can then take the same
/// port too, and a share of the connections. On other systems the threads share one socket, and
/// whoever is idle accepts.
///
/// ```no_run
/// use sockeye::PerCore;
///
/// // Not in a runtime: it blocks, and makes its own.
/// fn main() -> sockeye::Result<()> {
///     PerCore::bind("0.0.0.0:8080")?.serve(|server| {
///         server.serve(|mut socket| async move {
///             while let Some(message) = socket.recv().await? {
///                 socket.send(message).await?;
///             }
///             Ok(())
///         })
///     })
/// }
/// ```
#[must_use = "a server does nothing before `serve`"]
pub struct PerCore {
    listener: TcpListener,
    address: SocketAddr,
    threads: usize,
    running: Running,
}

impl PerCore {
    /// Listens on an address, for as many threads as there are cores that this program may use;
    /// port 0 lets the system choose.
    ///
    /// # Errors
    /// [`Error::Listen`](crate::Error::Listen) where the address cannot be had.
    pub fn bind(address: impl ToSocketAddrs + fmt::Debug) -> Result<Self> {
        let name = name_of(&address);
        let bound = || {
            let addresses = address.to_socket_addrs().map_err(no_address)?;
            let listener = listen_on_first(addresses, cfg!(target_os = "linux"))?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = bound().map_err(|error| cannot_listen(name, error))?;
        Ok(Self {
            listener,
            address,
            threads: thread::available_parallelism().map_or(1, NonZeroUsize::get),
            running: Running::new(ShutdownHandle::new()),
        })
    }

    /// Sets how many threads there are, at least one. Default: one a core.
    pub fn threads(mut self, count: usize) -> Self {
        self.threads = count.max(1);
        self
    }

    /// The address that is listened on.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// A handle that ends the servers of all threads, as each one's own does.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.running.0.clone()
    }

    /// Runs `serve` on every thread, with a server to be set up and run there, and blocks until all
    /// of them have ended. The threads are named `sockeye-0` and so on.
    ///
    /// When one ends, for whatever reason, the others end in the same way as by
    /// [`Server::shutdown_on`]: they accept no more, and close every connection with 1001. So a
    /// signal that one of them waits for ends all.
    ///
    /// ```no_run
    /// # use sockeye::{Acceptor, Handler, PerCore};
    /// # struct Greeter;
    /// # impl Handler for Greeter {}
    /// # async fn signal() {}
    /// # fn example() -> sockeye::Result<()> {
    /// let acceptor = Acceptor::new().subprotocol("chat");
    /// PerCore::bind("0.0.0.0:8080")?.threads(4).serve(|server| {
    ///     let server = server.acceptor(acceptor.clone()).shutdown_on(signal());
    ///     server.serve_handler(|| Greeter)
    /// })
    /// # }
    /// ```
    ///
    /// # Errors
    /// What a thread has returned; [`Error::Listen`](crate::Error::Listen) where the address cannot be had once more, or
    /// the system has no room for a thread and its runtime.
    ///
    /// # Panics
    /// Where `serve` itself panics, once all threads have ended. A handler that panics ends its own
    /// connection alone.
    pub fn serve<F, Fut>(self, serve: F) -> Result<()>
    where
        F: Fn(Server) -> Fut + Sync,
        Fut: Future<Output = Result<()>>,
    {
        let mut listeners = vec![self.listener];
        while listeners.len() < self.threads {
            let another = another(&listeners[0], self.address);
            listeners.push(another.map_err(|error| cannot_listen(self.address, error))?);
        }
        let (handle, address, serve) = (self.running.0.clone(), self.address, &serve);
        let gate = &Gate::new();
        thread::scope(|scope| {
            let threads: Vec<_> = listeners
                .into_iter()
                .enumerate()
                .map(|(number, listener)| {
                    let guard = StopAll(handle.clone());
                    Builder::new()
                        .name(format!("sockeye-{number}"))
                        .spawn_scoped(scope, move || {
                            run(listener, &guard, gate, serve)
                                .unwrap_or_else(|error| Err(cannot_listen(address, error)))
                        })
                })
                .collect();
            let mut result = Ok(());
            let mut panicked = None;
            for thread in threads {
                match thread.map(|thread| thread.join()) {
                    Ok(Ok(ended)) => result = result.and(ended),
                    Ok(Err(panic)) => panicked = Some(panic),
                    Err(error) => result = result.and(Err(cannot_listen(address, error))),
                }
            }
            if let Some(panic) = panicked {
                panic::resume_unwind(panic);
            }
            result
        })
    }
}

impl fmt::Debug for PerCore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerCore")
            .field("address", &self.address)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

/// Ends all threads when one ends, also where that panics or was never started.
struct StopAll(ShutdownHandle);

impl Drop for StopAll {
    fn drop(&mut self) {
        self.0.begin(Shutdown::new());
    }
}

/// What a thread does. The outer error is the system's.
fn run<F, Fut>(
    listener: TcpListener,
    stop: &StopAll,
    gate: &Arc<Gate>,
    serve: &F,
) -> io::Result<Result<()>>
where
    F: Fn(Server) -> Fut,
    Fut: Future<Output = Result<()>>,
{
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let server = Server::from_listener(listener)
            .ending_with(&stop.0)
            .counting_with(gate);
        Ok(serve(server).await)
    })
}

/// A socket for one more thread: elsewhere `SO_REUSEPORT` does not spread connections.
fn another(first: &TcpListener, address: SocketAddr) -> io::Result<TcpListener> {
    if cfg!(target_os = "linux") {
        listen(address, true)
    } else {
        first.try_clone()
    }
}
