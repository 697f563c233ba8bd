//! The connections of a server that are open, so that they can be closed together.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use sockeye_proto::{CloseCode, CloseFrame};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::timeout,
};

use crate::{WebSocket, link::Command, shared::Shared};

/// The connections of a server, so that they can be closed together.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Registry>);

#[derive(Default)]
struct Registry {
    open: Mutex<Open>,
    /// Whether the connections are to end.
    ending: watch::Sender<bool>,
    /// Told when the last connection has ended.
    emptied: Notify,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Connection>,
}

#[derive(Default)]
struct Connection {
    task: Option<AbortHandle>,
    stage: Stage,
}

/// How far a connection has come.
#[derive(Default)]
enum Stage {
    /// In the opening handshake: nobody has been promised anything yet.
    #[default]
    Opening,
    /// Answers HTTP, and ends by itself when the server does.
    #[cfg(feature = "hyper")]
    Http,
    Open(Weak<Shared>),
}

/// A connection's place in the registry.
#[derive(Clone)]
pub(super) struct Place {
    registry: Arc<Registry>,
    id: u64,
}

/// Holds the place for as long as the connection's task runs.
pub(super) struct Entry {
    pub(super) place: Place,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// Runs a task for a connection.
    pub(super) fn spawn<Fut>(&self, task: impl FnOnce(Entry) -> Fut)
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let id = {
            let mut open = self.0.lock();
            let id = open.next;
            open.next += 1;
            open.connections.insert(id, Connection::default());
            id
        };
        let place = Place {
            registry: self.0.clone(),
            id,
        };
        let handle = tokio::spawn(task(Entry { place }));
        if let Some(connection) = self.0.lock().connections.get_mut(&id) {
            connection.task = Some(handle.abort_handle());
        }
    }

    /// Closes every connection with 1001, and waits until all have ended.
    pub(super) async fn close(&self, patience: Duration) {
        // First, so that a connection that opens meanwhile closes itself.
        self.0.ending.send_replace(true);
        let mut open = Vec::new();
        for connection in self.0.lock().connections.values() {
            match &connection.stage {
                Stage::Opening => connection.task.iter().for_each(AbortHandle::abort),
                #[cfg(feature = "hyper")]
                Stage::Http => {}
                Stage::Open(shared) => open.extend(shared.upgrade()),
            }
        }
        for shared in open {
            go_away(&shared);
        }
        if timeout(patience + Duration::from_secs(1), self.emptied())
            .await
            .is_err()
        {
            self.abort();
            // Aborted tasks end as soon as the runtime comes to them.
            self.emptied().await;
        }
    }

    fn abort(&self) {
        let open = self.0.lock();
        open.connections
            .values()
            .flat_map(|c| &c.task)
            .for_each(AbortHandle::abort);
    }

    async fn emptied(&self) {
        let mut emptied = std::pin::pin!(self.0.emptied.notified());
        emptied.as_mut().enable();
        if !self.0.lock().connections.is_empty() {
            emptied.await;
        }
    }
}

impl Drop for Connections {
    /// A server that is dropped drops its connections.
    fn drop(&mut self) {
        self.abort();
    }
}

/// Closes a connection with 1001.
fn go_away(shared: &Shared) {
    let close = CloseFrame {
        code: CloseCode::GOING_AWAY,
        reason: String::new(),
    };
    // Refused where it is closing already.
    let _ = shared.apply(Command::Close(close));
    shared.wake_reading();
}

impl Place {
    fn reached(&self, stage: Stage) {
        if let Some(connection) = self.registry.lock().connections.get_mut(&self.id) {
            connection.stage = stage;
        }
    }

    /// Tells that the connection answers HTTP; the server's end is told to whoever asked.
    #[cfg(feature = "hyper")]
    pub(super) fn serving(&self) -> watch::Receiver<bool> {
        self.reached(Stage::Http);
        self.registry.ending.subscribe()
    }
}

impl Entry {
    /// Tells that the connection is open.
    pub(super) fn opened(&self, socket: &WebSocket) {
        let shared = socket.shared();
        self.place.reached(Stage::Open(Arc::downgrade(shared)));
        if *self.place.registry.ending.borrow() {
            go_away(shared);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Place { registry, id } = &self.place;
        let mut open = registry.lock();
        open.connections.remove(id);
        if open.connections.is_empty() {
            registry.emptied.notify_waiters();
        }
    }
}
