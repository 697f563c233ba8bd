//! A binary message as what a browser calls a Blob: read while it arrives, and never whole in memory
//! unless that is asked for.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    sync::mpsc,
};

use crate::Error;

/// A binary message of any size, which arrives while it is read: its event comes when it begins.
///
/// What has not been read holds the server back, and not the memory: at most 192 KiB are taken ahead.
/// The messages behind it, and pings behind what is not taken, wait as long. So read it to its end
/// or drop it, which discards the rest as it comes.
///
/// A callback cannot wait, so it gives the blob to a task, as one in a page calls an `async` function:
///
/// ```no_run
/// # use sockeye::browser::{Data, WebSocket};
/// # fn example(socket: &WebSocket) {
/// socket.on_message(|event| {
///     if let Data::Blob(blob) = event.data {
///         tokio::spawn(async move {
///             let mut file = tokio::fs::File::create("received").await?;
///             tokio::io::copy(&mut blob.stream(), &mut file).await
///         });
///     }
/// });
/// # }
/// ```
///
/// # Errors
/// Where the connection ends within the message, reading says why, and never that the message was
/// short. [`close`](super::WebSocket::close) is such an end: as in a browser, what has not arrived by
/// then is discarded.
pub struct Blob {
    pieces: mpsc::Receiver<Piece>,
    /// What is left of the last piece.
    piece: Bytes,
    /// Whether all of it has come.
    whole: bool,
    /// How many bytes may be held at once.
    limit: usize,
}

/// Something of a blob.
enum Piece {
    Bytes(Bytes),
    /// With which it is whole.
    Last(Bytes),
    Failed(Error),
}

impl Blob {
    /// All bytes (`arrayBuffer()`), once they are there.
    ///
    /// # Errors
    /// As reading; [`io::ErrorKind::FileTooLarge`] where there are more than the client's
    /// [`Limits::message`](crate::Limits::message), 16 MiB by default. The rest is then discarded.
    ///
    /// # Cancel safety
    /// Dropped before its end, the message is discarded.
    pub async fn array_buffer(mut self) -> io::Result<Bytes> {
        let mut bytes = Vec::new();
        let most = u64::try_from(self.limit).unwrap_or(u64::MAX);
        (&mut self).take(most).read_to_end(&mut bytes).await?;
        // Whether that is all.
        if bytes.len() == self.limit && self.read(&mut [0]).await? > 0 {
            let words = format!(
                "the message has more than {} bytes, which is as much as may be held: read it as a stream",
                self.limit
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, words));
        }
        Ok(bytes.into())
    }

    /// All bytes as text (`text()`), once they are there, without a byte order mark; what is not UTF-8 becomes U+FFFD.
    ///
    /// # Errors
    /// As [`array_buffer`](Self::array_buffer).
    ///
    /// # Cancel safety
    /// As [`array_buffer`](Self::array_buffer).
    pub async fn text(self) -> io::Result<String> {
        let bytes = self.array_buffer().await?;
        // "UTF-8 decode" (Encoding §6).
        let text = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    /// The bytes as they come (`stream()`): a blob is that stream itself.
    pub fn stream(self) -> impl AsyncRead + fmt::Debug + Send + Sync + Unpin + 'static {
        self
    }
}

impl AsyncRead for Blob {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.piece.is_empty() && !self.whole && buffer.remaining() > 0 {
            match ready!(self.pieces.poll_recv(cx)) {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::Last(bytes)) => (self.piece, self.whole) = (bytes, true),
                Some(Piece::Failed(error)) => return Poll::Ready(Err(error.into())),
                None => {
                    let words = "the connection has ended before the message was whole";
                    let error = io::Error::new(io::ErrorKind::ConnectionAborted, words);
                    return Poll::Ready(Err(error));
                }
            }
        }
        let count = self.piece.len().min(buffer.remaining());
        buffer.put_slice(&self.piece[..count]);
        self.piece.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("whole", &self.whole)
            .finish_non_exhaustive()
    }
}

/// The end of a blob that is filled.
pub(super) struct Pour(mpsc::Sender<Piece>);

/// A blob, and what it is filled by.
pub(super) fn blob(limit: usize) -> (Pour, Blob) {
    let (pour, pieces) = mpsc::channel(1);
    let blob = Blob {
        pieces,
        piece: Bytes::new(),
        whole: false,
        limit,
    };
    (Pour(pour), blob)
}

impl Pour {
    /// Waits until there is room for something. `None` where nobody will read it.
    pub(super) async fn room(&self) -> Option<Room<'_>> {
        self.0.reserve().await.ok().map(Room)
    }

    /// Pours a message that is there whole, and waits until it is read. Stopping early, when it is poured, takes nothing of it
    /// away.
    pub(super) async fn whole(&self, bytes: Bytes) {
        let is_read = bytes.is_empty();
        if let Some(room) = self.room().await {
            room.last(bytes);
        }
        if !is_read {
            let _ = self.room().await;
        }
    }
}

/// Room for one thing.
pub(super) struct Room<'a>(mpsc::Permit<'a, Piece>);

impl Room<'_> {
    pub(super) fn bytes(self, bytes: Bytes) {
        self.0.send(Piece::Bytes(bytes));
    }

    /// The last of it, which may be nothing.
    pub(super) fn last(self, bytes: Bytes) {
        self.0.send(Piece::Last(bytes));
    }

    pub(super) fn failed(self, error: Error) {
        self.0.send(Piece::Failed(error));
    }
}
