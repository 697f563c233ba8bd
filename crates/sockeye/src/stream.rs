//! The byte streams a WebSocket runs on: TCP, TLS on TCP, or whatever a user brings.

use std::{
    any::Any,
    fmt,
    io::{self, IoSlice},
    mem,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    task::coop::{has_budget_remaining, poll_proceed},
};

use crate::unshared::Unshared;

/// A stream of a user's own.
pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// The common streams without a call through a table, and all others with one.
pub(crate) enum Stream {
    Tcp(TcpStream),
    #[cfg(all(feature = "tls", feature = "client"))]
    ClientTls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    #[cfg(all(feature = "tls", feature = "server"))]
    ServerTls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    Other(Users),
}

impl Stream {
    /// Takes a user's stream; one of the common ones is recognized by its type.
    pub(crate) fn new<S: Io + 'static>(stream: S) -> Self {
        let mut stream = Some(stream);
        if let Some(tcp) = downcast(&mut stream) {
            return Self::Tcp(tcp);
        }
        #[cfg(all(feature = "tls", feature = "client"))]
        if let Some(tls) = downcast(&mut stream) {
            return Self::ClientTls(Box::new(tls));
        }
        #[cfg(all(feature = "tls", feature = "server"))]
        if let Some(tls) = downcast(&mut stream) {
            return Self::ServerTls(Box::new(tls));
        }
        match stream {
            Some(stream) => Self::Other(Users::new(stream)),
            // Nothing took it, so it is there.
            None => Self::empty(),
        }
    }

    fn empty() -> Self {
        Self::Other(Users::new(tokio::io::empty()))
    }

    /// Takes the stream, and leaves one that is at its end.
    #[cfg(feature = "server")]
    pub(crate) fn take_out(&mut self) -> Self {
        mem::replace(self, Self::empty())
    }

    /// Whether it is known to be a socket's, TCP or TLS on that, so that its runtime has descriptors.
    pub(crate) fn has_descriptor(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Has a socket send what is written at once. Messages are written whole: waiting to join them to
    /// others only delays them.
    #[cfg(feature = "server")]
    pub(crate) fn set_nodelay(&self) {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            #[cfg(all(feature = "tls", feature = "client"))]
            Self::ClientTls(tls) => tls.get_ref().0,
            #[cfg(all(feature = "tls", feature = "server"))]
            Self::ServerTls(tls) => tls.get_ref().0,
            Self::Other(_) => return,
        };
        // It only costs time where it fails.
        let _ = tcp.set_nodelay(true);
    }

    /// What TLS says of the client, where it is spoken on this stream as a server.
    #[cfg(all(feature = "tls", feature = "server"))]
    pub(crate) fn tls_identity(&self) -> Option<crate::server::TlsIdentity> {
        match self {
            Self::ServerTls(tls) => Some(tls.get_ref().1.into()),
            _ => None,
        }
    }

    /// The address of the other end, where the stream is a socket's.
    pub(crate) fn peer_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(tcp) => tcp.peer_addr().ok(),
            #[cfg(all(feature = "tls", feature = "client"))]
            Self::ClientTls(tls) => tls.get_ref().0.peer_addr().ok(),
            #[cfg(all(feature = "tls", feature = "server"))]
            Self::ServerTls(tls) => tls.get_ref().0.peer_addr().ok(),
            Self::Other(_) => None,
        }
    }
}

fn downcast<S: 'static, T: 'static>(stream: &mut Option<S>) -> Option<T> {
    let stream: &mut dyn Any = stream;
    stream.downcast_mut::<Option<T>>()?.take()
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Tcp(_) => "Tcp",
            #[cfg(all(feature = "tls", feature = "client"))]
            Self::ClientTls(_) => "ClientTls",
            #[cfg(all(feature = "tls", feature = "server"))]
            Self::ServerTls(_) => "ServerTls",
            Self::Other(_) => "Other",
        };
        f.debug_tuple(kind).field(&self.peer_addr()).finish()
    }
}

/// A stream of a user's own, until it panics.
///
/// A panic becomes an error, which everybody who uses the connection is told of: its parts are in several tasks, of
/// which only one would unwind, and maybe with what the others wait for. The panic hook has told of it too.
pub(crate) enum Users {
    Stream {
        stream: Unshared<Box<dyn Io>>,
        is_vectored: bool,
    },
    /// With what.
    Panicked(String),
}

impl Users {
    fn new(stream: impl Io + 'static) -> Self {
        Self::Stream {
            is_vectored: stream.is_write_vectored(),
            stream: Unshared::new(Box::new(stream)),
        }
    }

    #[inline]
    fn poll<T>(
        &mut self,
        poll: impl FnOnce(&mut Box<dyn Io>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match self {
            // It is not looked at again after a panic but to be dropped.
            Self::Stream { stream, .. } => {
                let stream = stream.get_mut();
                match catch_unwind(AssertUnwindSafe(|| poll(stream))) {
                    Ok(polled) => polled,
                    Err(panic) => Poll::Ready(Err(self.give_up(&*panic))),
                }
            }
            Self::Panicked(message) => Poll::Ready(Err(panicked(message))),
        }
    }

    #[cold]
    fn give_up(&mut self, panic: &(dyn Any + Send)) -> io::Error {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref().copied());
        let message = message.unwrap_or("without a message");
        let error = panicked(message);
        let stream = mem::replace(self, Self::Panicked(message.to_owned()));
        // Another panic here has been told of in the same way.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(stream)));
        error
    }
}

#[cold]
fn panicked(message: &str) -> io::Error {
    io::Error::other(format!("its stream panicked: {message}"))
}

/// Does the same with whichever stream it is.
macro_rules! each {
    ($self:expr, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $do,
            #[cfg(all(feature = "tls", feature = "client"))]
            Stream::ClientTls($stream) => $do,
            #[cfg(all(feature = "tls", feature = "server"))]
            Stream::ServerTls($stream) => $do,
            Stream::Other(users) => users.poll(|$stream| $do),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self::Other(users) = &mut *self else {
            return each!(self, stream => Pin::new(stream).poll_read(cx, buffer));
        };
        // One that always has something would be read for ever, whatever the time: tokio's own have a task yield.
        let turn = ready!(poll_proceed(cx));
        let read = users.poll(|stream| Pin::new(stream).poll_read(cx, buffer));
        if read.is_ready() {
            turn.made_progress();
        } else if !has_budget_remaining() {
            // The last unit is taken here, and where the stream is of tokio's, it was not let look for want of another:
            // nobody is to think that it has.
            turn.made_progress();
            cx.waker().wake_by_ref();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(tcp) => tcp.is_write_vectored(),
            #[cfg(all(feature = "tls", feature = "client"))]
            Self::ClientTls(tls) => tls.is_write_vectored(),
            #[cfg(all(feature = "tls", feature = "server"))]
            Self::ServerTls(tls) => tls.is_write_vectored(),
            Self::Other(Users::Stream { is_vectored, .. }) => *is_vectored,
            Self::Other(Users::Panicked(_)) => false,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_socket_is_recognized_and_knows_its_peer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = Stream::new(TcpStream::connect(address).await.unwrap());
        assert!(matches!(stream, Stream::Tcp(_)), "{stream:?}");
        assert_eq!(stream.peer_addr(), Some(address));
        assert!(stream.is_write_vectored());
    }

    #[tokio::test]
    async fn any_other_stream_will_do() {
        let (stream, _other) = tokio::io::duplex(64);
        let stream = Stream::new(stream);
        assert!(matches!(stream, Stream::Other(_)), "{stream:?}");
        assert_eq!(stream.peer_addr(), None);
    }
}
