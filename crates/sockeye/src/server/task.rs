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
    Client,
    accept::Unopened,
    admission::{Counted, Handshake, Place},
    connections::Entry,
    opening::{self, accepted},
};
use crate::{Error, Result, WebSocket, stream::Stream};

/// The task.
///
/// A task's memory comes in steps of 128 bytes, most of the first is the runtime's, and it is there for as
/// long as its connection. So what it does is in a box of just the size of that.
pub(super) enum Task<W, Fut> {
    Opening(Box<Opening<W>>),
    Working(Box<Working<Fut>>),
    Done,
}

/// A connection until it is open.
pub(super) struct Opening<W> {
    /// First, so that it is dropped first: how the connection ended is known then.
    pub(super) stage: Stage,
    pub(super) entry: Entry,
    pub(super) place: Arc<Place>,
    pub(super) context: Arc<opening::Context>,
    pub(super) work: Arc<W>,
    /// Whose stream it is.
    pub(super) peer: Option<SocketAddr>,
}

pub(super) enum Stage {
    /// Accepted. What opening it needs is made when that begins: of many that come together, most are
    /// opened at one go, and each then finds the memory that the one before has just given back.
    Accepted(Stream, Handshake),
    Opening(Pin<Box<dyn Future<Output = Result<Option<WebSocket>, Unopened>> + Send>>),
    Done,
}

/// A connection that is open.
pub(super) struct Working<Fut> {
    /// First, so that it is dropped first, as before.
    work: Fut,
    held: Held,
}

/// What a connection holds for as long as it is open: its seat, and that it is counted. As guards of their own
/// these would each know the server.
struct Held {
    context: Arc<opening::Context>,
    number: usize,
    /// Nothing would be only where somebody else had its place, whom there is not.
    counted: Option<Counted>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            self.context.gate.give_back(counted);
        }
        self.context.connections.give_back(self.number);
    }
}

impl<W, Fut> Future for Task<W, Fut>
where
    W: Fn(WebSocket) -> Fut,
    Fut: Future<Output = Result<()>> + Unpin,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::Opening(opening) = &mut *self {
            let opened = ready!(opening.poll(cx));
            if let Self::Opening(opening) = mem::replace(&mut *self, Self::Done)
                && let Some(working) = opening.opened(opened)
            {
                *self = Self::Working(Box::new(working));
            }
        }
        if let Self::Working(working) = &mut *self {
            let result = ready!(Pin::new(&mut working.work).poll(cx));
            if let Self::Working(working) = mem::replace(&mut *self, Self::Done) {
                working.end(result);
            }
        }
        Poll::Ready(())
    }
}

impl<W> Opening<W> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<WebSocket>, Unopened>> {
        self.stage = match mem::replace(&mut self.stage, Stage::Done) {
            Stage::Accepted(stream, handshake) => {
                let client = Client::new(stream, accepted(self.peer).counted(&self.place));
                let context = self.context.clone();
                let opening = context.open(client, handshake, self.entry.seat.clone());
                Stage::Opening(Box::pin(opening))
            }
            stage => stage,
        };
        let Stage::Opening(opening) = &mut self.stage else {
            return Poll::Ready(Ok(None));
        };
        let opened = ready!(opening.as_mut().poll(cx));
        self.stage = Stage::Done;
        Poll::Ready(opened)
    }

    /// The connection once it is open; where it is not, gives the place back, and tells of what went wrong.
    fn opened<Fut>(self, opened: Result<Option<WebSocket>, Unopened>) -> Option<Working<Fut>>
    where
        W: Fn(WebSocket) -> Fut,
    {
        let Self {
            mut entry,
            place,
            context,
            work,
            ..
        } = self;
        match opened {
            Ok(Some(socket)) => {
                entry.opened(&socket);
                let work = work(socket);
                let held = Held {
                    context,
                    number: entry.into_number(),
                    counted: Arc::into_inner(place).and_then(Place::into_counted),
                };
                Some(Working { work, held })
            }
            Ok(None) => None,
            Err(Unopened { peer, error }) => {
                let error = place.refused().map_or(error, Error::from);
                context.refused(peer, &error);
                drop(place);
                context.tell(peer, &error);
                None
            }
        }
    }
}

impl<Fut> Working<Fut> {
    /// Gives the place back, and tells of what went wrong.
    fn end(self, result: Result<()>) {
        let Self { work, held } = self;
        drop(work);
        if let Err(error) = result {
            let peer = held.context.connections.peer(held.number);
            held.context.tell(peer, &error);
        }
    }
}
