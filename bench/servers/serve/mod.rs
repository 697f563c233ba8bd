//! What the echo servers share: one thread, one listener, a task for every connection.
#![allow(dead_code)] // No server uses all of it.

use std::{
    fmt::Display,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// The form of the server and the address to listen on, as the arguments give them.
pub fn arguments() -> (&'static str, &'static str) {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("usage: FORM ADDRESS").leak() as &str;
    (next(), next())
}

/// One for all servers, from the certificate and the key that `ECHO_TLS` holds in PEM.
pub fn tls_config() -> Option<Arc<ServerConfig>> {
    let pem = std::env::var("ECHO_TLS").ok()?;
    let chain = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they fit each other");
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Some(Arc::new(config))
}

pub fn tls() -> Option<&'static TlsAcceptor> {
    tls_config().map(|config| &*Box::leak(Box::new(TlsAcceptor::from(config))))
}

/// Serves with or without TLS, each with a stream of its own type: `serve!(address, stream => future)`.
#[macro_export]
macro_rules! serve {
    ($address:expr, $stream:pat => $connection:expr) => {
        match $crate::serve::tls() {
            None => $crate::serve::serve($address, move |$stream| $connection),
            Some(tls) => $crate::serve::serve($address, move |stream| async move {
                // Boxed, so that what the handshake needs is not kept while the connection is open.
                let accepted = Box::pin(tls.accept(stream)).await;
                let $stream = accepted.map_err(|error| error.to_string())?;
                $connection.await.map_err(|error| error.to_string())
            }),
        }
    };
}

/// Runs a future on this thread alone.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built")
        .block_on(future)
}

/// Runs `echo` for every connection. How one ends is the peer's business.
pub fn serve<F, E>(address: &str, echo: impl Fn(TcpStream) -> F)
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    run(async {
        let listener = TcpListener::bind(address)
            .await
            .expect("the address is free");
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            let _ = stream.set_nodelay(true);
            let connection = echo(stream);
            tokio::spawn(async move {
                if let Err(error) = connection.await
                    && std::env::var_os("ECHO_VERBOSE").is_some()
                {
                    eprintln!("{error}");
                }
            });
        }
    });
}

/// Answers the opening handshake, for libraries that leave it to an HTTP server of one's own.
/// `extensions` is what to agree to where the client offers compression.
pub async fn upgrade(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    extensions: Option<&str>,
) -> io::Result<bool> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let value = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let key = value("sec-websocket-key").ok_or(io::ErrorKind::InvalidData)?;
    let accept = sockudo_ws::handshake::generate_accept_key(key);
    let agreed = extensions.filter(|_| value("sec-websocket-extensions").is_some());
    let extensions = agreed.map_or(String::new(), |agreed| {
        format!("Sec-WebSocket-Extensions: {agreed}\r\n")
    });
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{extensions}\r\n"
    );
    stream.write_all(response.as_bytes()).await?;
    Ok(agreed.is_some())
}

/// A stream that gathers what is written and writes it when there is nothing more to read: batching
/// by hand, for a library that writes every message at once.
pub struct Batch<S> {
    stream: S,
    gathered: Vec<u8>,
    written: usize,
}

/// What is gathered at most before it is written.
pub const BATCH: usize = 64 * 1024;

impl<S: AsyncWrite + Unpin> Batch<S> {
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            gathered: Vec::new(),
            written: 0,
        }
    }

    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            let rest = &self.gathered[self.written..];
            self.written += ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        }
        self.gathered.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batch<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() {
            let _ = this.poll_write_out(cx)?;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Batch<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathered.len() + bytes.len() > BATCH {
            ready!(this.poll_write_out(cx))?;
            if bytes.len() > BATCH {
                return Pin::new(&mut this.stream).poll_write(cx, bytes);
            }
        }
        this.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_write_out(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_out(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if this.gathered.len() + len > BATCH {
            ready!(this.poll_write_out(cx))?;
            if len > BATCH {
                return Pin::new(&mut this.stream).poll_write_vectored(cx, pieces);
            }
        }
        for piece in pieces {
            this.gathered.extend_from_slice(piece);
        }
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Echoes in the two forms that a `Stream` and `Sink` of messages allow. `$next` is the stream,
/// `$data` tells messages from what the library has answered itself.
#[macro_export]
macro_rules! echo {
    ($socket:ident, $form:expr, $data:expr) => {
        if $form == "loop" {
            while let Some(message) = $socket.next().await {
                let message = $crate::serve::IntoResult::into_result(message)?;
                if $data(&message) {
                    $socket.send(message).await?;
                }
            }
        } else {
            // Batched by hand: everything that has arrived is fed, then flushed.
            while let Some(message) = $socket.next().await {
                let mut message = $crate::serve::IntoResult::into_result(message)?;
                loop {
                    if $data(&message) {
                        $socket.feed(message).await?;
                    }
                    match futures_util::poll!($socket.next()) {
                        std::task::Poll::Ready(Some(next)) => {
                            message = $crate::serve::IntoResult::into_result(next)?
                        }
                        std::task::Poll::Ready(None) => return $socket.flush().await,
                        std::task::Poll::Pending => break,
                    }
                }
                $socket.flush().await?;
            }
        }
    };
}

/// Streams give messages or results of messages.
pub trait IntoResult<E> {
    type Item;
    fn into_result(self) -> Result<Self::Item, E>;
}

impl<T, E> IntoResult<E> for Result<T, E> {
    type Item = T;
    fn into_result(self) -> Result<T, E> {
        self
    }
}
