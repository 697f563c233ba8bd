//! The connections of a server that are open, and how they leave when it ends.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    io, mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{
    Departed, Farewell,
    shutdown::{Begun, Schedule},
};
use crate::{Ended, WebSocket, shared::Shared};

/// The connections of a server, so that they can be closed together.
#[derive(Default)]
pub(super) struct Connections(Arc<Registry>);

#[derive(Default)]
struct Registry {
    open: Mutex<Open>,
    /// Whether the connections are to end.
    ending: watch::Sender<bool>,
    /// Told when the last connection has ended, and when one opens while the others leave.
    changed: Notify,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Connection>,
    /// When they began to leave.
    leaving: Option<Instant>,
    /// Whose turn to leave has not come.
    waiting: VecDeque<Weak<Shared>>,
    farewell: Farewell,
}

#[derive(Default)]
struct Connection {
    task: Option<AbortHandle>,
    stage: Stage,
    /// Whether it was cut off.
    cut: bool,
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
    /// The connection once it is open, to see in the end how it went.
    shared: Option<Arc<Shared>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// Runs a task for a connection.
    pub(super) fn spawn<Fut>(&self, task: impl FnOnce(Entry) -> Fut) -> AbortHandle
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
        let shared = None;
        let handle = tokio::spawn(task(Entry { place, shared })).abort_handle();
        if let Some(connection) = self.0.lock().connections.get_mut(&id) {
            connection.task = Some(handle.clone());
        }
        handle
    }

    /// Asks every connection to leave, each in its turn, waits until all have ended, and cuts off what
    /// has not by the deadline.
    pub(super) async fn leave(&self, begun: &Begun, schedule: Schedule) -> Farewell {
        self.begin(begun.at);
        let deadline = begun.at + schedule.deadline;
        let told = self.tell(begun, schedule);
        if timeout_at(deadline, told).await.is_err() {
            self.cut(|_| true);
            // Aborted tasks end as soon as the runtime comes to them.
            while !self.0.lock().connections.is_empty() {
                self.0.changed.notified().await;
            }
        }
        let farewell = mem::take(&mut self.0.lock().farewell);
        Farewell {
            took: begun.at.elapsed(),
            ..farewell
        }
    }

    /// Says that they are to end, and lines up those that are open. The order of a map is random: no
    /// client, and no service behind many of them, is always the first.
    fn begin(&self, now: Instant) {
        {
            let mut open = self.0.lock();
            open.leaving = Some(now);
            let waiting = open.connections.values().filter_map(Connection::open);
            open.waiting = waiting.collect();
        }
        self.0.ending.send_replace(true);
    }

    /// Asks each connection to leave when its turn has come, and closes those that do not in time. One
    /// timer does for all. Returns when all have ended.
    async fn tell(&self, begun: &Begun, schedule: Schedule) {
        let close = begun.how.close();
        let end_of_window = begun.at + schedule.window;
        let last_call = begun.at + schedule.last_call;
        let mut told = 0;
        // Who was asked, and when it is closed unless it has left by itself.
        let mut asked = VecDeque::new();
        loop {
            let now = Instant::now();
            let next_turn = loop {
                match self.next(told, begun.at, schedule, now) {
                    Ok(shared) => {
                        told += 1;
                        if let Some(open) = shared.upgrade() {
                            open.leave(close);
                            asked.push_back(((now + schedule.patience).min(last_call), shared));
                        }
                    }
                    Err(turn) => break turn,
                }
            };
            while asked.front().is_some_and(|(by, _)| *by <= now) {
                let open = asked.pop_front().and_then(|(_, shared)| shared.upgrade());
                if let Some(open) = open {
                    open.go_away(close.clone());
                    open.wake_reading();
                }
            }
            let window_ends = (now < end_of_window).then_some(end_of_window);
            if window_ends.is_none() {
                self.cut(|stage| matches!(stage, Stage::Opening));
            }
            if self.0.lock().connections.is_empty() {
                return;
            }
            let patience_ends = asked.front().map(|(by, _)| *by);
            let changed = self.0.changed.notified();
            match [next_turn, patience_ends, window_ends]
                .into_iter()
                .flatten()
                .min()
            {
                // Elapsed or not, the loop looks at everything.
                Some(next) => drop(timeout_at(next, changed).await),
                None => changed.await,
            }
        }
    }

    /// Whose turn it is now to be asked, after `told` others; or when the next one's comes, where anyone
    /// is left.
    fn next(
        &self,
        told: usize,
        began: Instant,
        schedule: Schedule,
        now: Instant,
    ) -> Result<Weak<Shared>, Option<Instant>> {
        let mut open = self.0.lock();
        let turn = began + schedule.turn(told, told + open.waiting.len());
        match open.waiting.pop_front() {
            Some(shared) if turn <= now => Ok(shared),
            Some(shared) => {
                open.waiting.push_front(shared);
                Err(Some(turn))
            }
            None => Err(None),
        }
    }

    /// Cuts off the connections that have come as far as `stage` says.
    fn cut(&self, stage: impl Fn(&Stage) -> bool) {
        let mut open = self.0.lock();
        for connection in open.connections.values_mut() {
            if stage(&connection.stage) {
                connection.cut = true;
                connection.task.iter().for_each(AbortHandle::abort);
            }
        }
    }
}

impl Drop for Connections {
    /// A server that is dropped drops its connections.
    fn drop(&mut self) {
        self.cut(|_| true);
    }
}

impl Connection {
    /// The WebSocket, where it is one.
    fn open(&self) -> Option<Weak<Shared>> {
        match &self.stage {
            Stage::Open(shared) => Some(shared.clone()),
            #[cfg(feature = "hyper")]
            Stage::Http => None,
            Stage::Opening => None,
        }
    }
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
    pub(super) fn opened(&mut self, socket: &WebSocket) {
        let shared = socket.shared();
        self.shared = Some(shared.clone());
        self.place.reached(Stage::Open(Arc::downgrade(shared)));
        let registry = &self.place.registry;
        let mut open = registry.lock();
        if open.leaving.is_some() {
            open.waiting.push_back(Arc::downgrade(shared));
            registry.changed.notify_one();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let Place { registry, id } = &self.place;
        let mut open = registry.lock();
        let connection = open.connections.remove(id);
        if let (Some(began), Some(connection)) = (open.leaving, connection) {
            open.note(&connection, self.shared.as_deref(), began.elapsed());
        }
        if open.connections.is_empty() {
            registry.changed.notify_one();
        }
    }
}

impl Open {
    /// Notes how a connection ended that did so while all were to.
    fn note(&mut self, connection: &Connection, shared: Option<&Shared>, after: Duration) {
        let farewell = &mut self.farewell;
        match (&connection.stage, shared) {
            (Stage::Open(_), Some(shared)) => {
                let ended = shared
                    .ended()
                    .filter(|ended| !connection.cut || ended.was_clean());
                let ended = match ended {
                    None if thread::panicking() => Some(panicked()),
                    // Its handler has moved it to another task, where it goes on.
                    None if !connection.cut => return,
                    ended => ended,
                };
                let peer = shared.info.peer_addr;
                farewell.connections.push(Departed { peer, after, ended });
            }
            #[cfg(feature = "hyper")]
            (Stage::Http, _) => farewell.http_cut += usize::from(connection.cut),
            _ => farewell.handshakes_cut += usize::from(connection.cut),
        }
    }
}

fn panicked() -> Ended {
    Ended::Lost(Arc::new(io::Error::other("its handler panicked")))
}
