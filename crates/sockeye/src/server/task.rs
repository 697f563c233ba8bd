//! The task of a server's connection: the opening handshake, then its user's work.

use std::{
    future::Future,
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use super::{
    Client, Peer,
    admission::{Handshake, Place},
    connections::Entry,
    listen::{self, Unopened},
};
use crate::{Error, Result, WebSocket, stream::Stream};

/// The task.
///
/// Written out: it is there for as long as its connection, and an async block keeps what it is given
/// beside what becomes of that. A task's memory comes in steps of 128 bytes; this one was 512, and is
/// 256.
pub(super) struct Task<W, Fut> {
    /// First, so that it is dropped first: how the connection ended is known then.
    pub(super) stage: Stage<Fut>,
    pub(super) entry: Entry,
    /// There until the connection has ended.
    pub(super) place: Option<Arc<Place>>,
    pub(super) context: Arc<listen::Context>,
    pub(super) work: Arc<W>,
    /// Whose connection it is, as far as that is known: behind a proxy, the proxy's at first.
    pub(super) peer: Option<SocketAddr>,
}

pub(super) enum Stage<Fut> {
    /// Accepted. What opening it needs is made when that begins: of many that come together, most are
    /// opened at one go, and each then finds the memory that the one before has just given back.
    Accepted(Stream, Handshake),
    /// Boxed, so that what opening a connection needs is not kept while it is open.
    Opening(Pin<Box<dyn Future<Output = Result<Option<WebSocket>, Unopened>> + Send>>),
    Working(Fut),
    Done,
}

impl<W, Fut> Future for Task<W, Fut>
where
    W: Fn(WebSocket) -> Fut,
    Fut: Future<Output = Result<()>> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let task = &mut *self;
        loop {
            match &mut task.stage {
                Stage::Accepted(..) => task.begin(),
                Stage::Opening(opening) => {
                    let opened = ready!(opening.as_mut().poll(cx));
                    task.stage = Stage::Done;
                    match opened {
                        Ok(Some(socket)) => {
                            task.entry.opened(&socket);
                            task.peer = socket.peer_addr();
                            task.stage = Stage::Working((task.work)(socket));
                        }
                        Ok(None) => task.end(Ok(())),
                        Err(Unopened { peer, error }) => {
                            task.peer = peer;
                            let refused = task.place.as_ref().and_then(|place| place.refused());
                            let error = refused.map_or(error, Error::from);
                            task.context.refused(task.peer, &error);
                            task.end(Err(error));
                        }
                    }
                }
                Stage::Working(work) => {
                    let result = ready!(Pin::new(work).poll(cx));
                    task.stage = Stage::Done;
                    task.end(result);
                }
                Stage::Done => return Poll::Ready(()),
            }
        }
    }
}

impl<W, Fut> Task<W, Fut> {
    /// Begins to open the connection.
    fn begin(&mut self) {
        let stage = mem::replace(&mut self.stage, Stage::Done);
        let (Stage::Accepted(stream, handshake), Some(place)) = (stage, &self.place) else {
            return;
        };
        let client = Client::new(stream, Peer::at(self.peer).counted(place));
        let context = self.context.clone();
        let opening = context.open(client, handshake, self.entry.place.clone());
        self.stage = Stage::Opening(Box::pin(opening));
    }

    /// Gives the place back, and tells of what went wrong.
    fn end(&mut self, result: Result<()>) {
        self.place = None;
        if let Err(error) = result {
            self.context.tell(self.peer, &error);
        }
    }
}
