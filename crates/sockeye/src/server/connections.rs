//! The connections of a server that are open, and how they leave when it ends.

use std::{
    collections::VecDeque,
    future::Future,
    hash::{BuildHasher, RandomState},
    io, mem,
    net::SocketAddr,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    thread,
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};

#[cfg(feature = "axum")]
use super::Shutdown;
use super::{
    Departed, Farewell,
    shutdown::{Begun, Schedule},
};
use crate::{Ended, WebSocket, shared::Shared};

/// How long tasks that were aborted are waited for: one that blocks its thread is not ended by that.
const BLOCKED: Duration = Duration::from_secs(1);

/// The connections of a server, so that they can be closed together. Clones are of the same server.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Registry>);

/// Those of a server that is running: dropped, it drops them.
#[derive(Default)]
pub(super) struct Running(Connections);

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
    connections: Seats,
    /// How many were cut off and have not ended.
    cut: usize,
    /// The longest time that any peer has to answer a Close, as far as that was said.
    #[cfg(feature = "axum")]
    close_timeout: Duration,
    /// When they began to leave.
    leaving: Option<Instant>,
    /// Whose turn to leave has not come.
    waiting: VecDeque<Weak<Shared>>,
    farewell: Farewell,
}

/// Connections by the number of their seat, which the next may have once one has ended.
#[derive(Default)]
struct Seats {
    all: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// How many were given, which tells whoever has a seat from whoever had it before.
    given: u32,
}

/// A connection: in the opening handshake, where nobody has been promised anything yet, unless it says
/// otherwise.
#[derive(Default)]
struct Connection {
    task: Option<AbortHandle>,
    /// The WebSocket, once it is open: to ask it to leave, and to see in the end how it went.
    open: Option<Arc<Shared>>,
    /// Whether it answers HTTP, and ends by itself when the server does.
    http: bool,
    /// Whether it was cut off.
    cut: bool,
    given: u32,
}

/// A connection's seat in the registry.
#[derive(Clone)]
pub(super) struct Seat {
    registry: Arc<Registry>,
    number: usize,
}

/// Holds the seat for as long as the connection's task runs.
pub(crate) struct Entry {
    pub(super) seat: Seat,
    /// Unless somebody else gives it back.
    holds: bool,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connections {
    /// Runs a task for a connection.
    pub(crate) fn spawn<Fut>(&self, task: impl FnOnce(Entry) -> Fut) -> AbortHandle
    where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (number, given) = self.0.lock().connections.take();
        let seat = Seat {
            registry: self.0.clone(),
            number,
        };
        let handle = tokio::spawn(task(Entry { seat, holds: true })).abort_handle();
        // Where it has ended already, another may have its seat.
        let mut open = self.0.lock();
        let connection = open.connections.at(number);
        if let Some(connection) = connection.filter(|it| it.given == given) {
            if connection.cut {
                handle.abort();
            }
            connection.task = Some(handle.clone());
        }
        drop(open);
        handle
    }

    /// Whose connection it is that has a seat, once it is open.
    pub(super) fn peer(&self, number: usize) -> Option<SocketAddr> {
        let mut open = self.0.lock();
        open.connections.at(number)?.open.as_ref()?.info.peer_addr()
    }

    /// Gives a seat back.
    pub(super) fn give_back(&self, number: usize) {
        self.0.leave(number);
    }

    /// Asks every connection to leave, each in its turn, waits until all have ended, and cuts off what
    /// has not by the deadline.
    pub(super) async fn leave(&self, begun: &Begun, schedule: Schedule) -> Farewell {
        self.begin(begun.at);
        let deadline = begun.at + schedule.deadline;
        let told = self.tell(begun, schedule);
        if timeout_at(deadline, told).await.is_err() {
            self.cut(|_| true);
            // Aborted tasks end as soon as the runtime comes to them. Who comes after that is not waited for.
            let ended = async {
                while self.0.lock().cut > 0 {
                    self.0.changed.notified().await;
                }
            };
            let _ = timeout(BLOCKED, ended).await;
        }
        let farewell = {
            let mut open = self.0.lock();
            open.note_blocked(begun.at.elapsed());
            mem::take(&mut open.farewell)
        };
        Farewell {
            took: begun.at.elapsed(),
            ..farewell
        }
    }

    /// Says how long the peer of a connection has to answer a Close.
    #[cfg(feature = "axum")]
    pub(crate) fn close_in(&self, timeout: Duration) {
        let mut open = self.0.lock();
        open.close_timeout = open.close_timeout.max(timeout);
    }

    /// As [`leave`](Self::leave), for a server that is not this crate's. Peers have at least so long to
    /// answer a Close.
    #[cfg(feature = "axum")]
    pub(crate) async fn shutdown(&self, how: Shutdown, close_timeout: Duration) -> Farewell {
        /// Such a server may go on, and nothing may pile up in it: not where this is dropped either.
        struct Over<'a>(&'a Registry);

        impl Drop for Over<'_> {
            fn drop(&mut self) {
                let mut open = self.0.lock();
                (open.leaving, open.farewell) = Default::default();
                open.waiting.clear();
            }
        }

        let close_timeout = close_timeout.max(self.0.lock().close_timeout);
        let schedule = how.schedule(close_timeout);
        let _over = Over(&self.0);
        self.leave(&Begun::now(how), schedule).await
    }

    /// Says that they are to end, and lines up those that are open, in any order: no client, and no service
    /// behind many of them, is always the first.
    fn begin(&self, now: Instant) {
        {
            let mut open = self.0.lock();
            open.leaving = Some(now);
            let mut waiting = open.connections.open();
            let random = RandomState::new();
            waiting.sort_by_cached_key(|shared| random.hash_one(shared.as_ptr()));
            open.waiting = waiting.into();
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
                self.cut(Connection::is_opening);
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

    /// Cuts off the connections that are `such`.
    fn cut(&self, such: impl Fn(&Connection) -> bool) {
        let open = &mut *self.0.lock();
        for connection in open.connections.all.iter_mut().flatten() {
            if such(connection) {
                open.cut += usize::from(!mem::replace(&mut connection.cut, true));
                connection.task.iter().for_each(AbortHandle::abort);
            }
        }
    }
}

impl Deref for Running {
    type Target = Connections;

    fn deref(&self) -> &Connections {
        &self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cut(|_| true);
    }
}

impl Seats {
    /// Takes a seat for a connection: its number, and which of those this is who have had it.
    fn take(&mut self) -> (usize, u32) {
        let number = self.free.pop().unwrap_or(self.all.len());
        if number == self.all.len() {
            self.all.push(None);
        }
        self.given = self.given.wrapping_add(1);
        self.all[number] = Some(Connection {
            given: self.given,
            ..Connection::default()
        });
        (number, self.given)
    }

    fn leave(&mut self, number: usize) -> Option<Connection> {
        let connection = self.all.get_mut(number)?.take()?;
        self.free.push(number);
        Some(connection)
    }

    fn at(&mut self, number: usize) -> Option<&mut Connection> {
        self.all.get_mut(number)?.as_mut()
    }

    fn is_empty(&self) -> bool {
        self.free.len() == self.all.len()
    }

    /// Those that are open WebSockets.
    fn open(&self) -> Vec<Weak<Shared>> {
        let open = self.all.iter().flatten().filter_map(|c| c.open.as_ref());
        open.map(Arc::downgrade).collect()
    }
}

impl Connection {
    fn is_opening(&self) -> bool {
        self.open.is_none() && !self.http
    }
}

impl Seat {
    /// Tells that the connection answers HTTP; the server's end is told to whoever asked.
    #[cfg(feature = "hyper")]
    pub(super) fn serving(&self) -> watch::Receiver<bool> {
        if let Some(connection) = self.registry.lock().connections.at(self.number) {
            connection.http = true;
        }
        self.registry.ending.subscribe()
    }

    /// The connection's task, where that is known by now.
    #[cfg(feature = "hyper")]
    pub(super) fn task(&self) -> Option<AbortHandle> {
        let mut open = self.registry.lock();
        open.connections.at(self.number)?.task.clone()
    }

    #[cfg(all(test, feature = "hyper"))]
    pub(super) fn of_nobody() -> Self {
        Self {
            registry: Arc::default(),
            number: 0,
        }
    }
}

impl Entry {
    /// Tells that the connection is open.
    pub(crate) fn opened(&mut self, socket: &WebSocket) {
        let shared = socket.shared();
        let Seat { registry, number } = &self.seat;
        let mut open = registry.lock();
        if let Some(connection) = open.connections.at(*number) {
            connection.open = Some(shared.clone());
            connection.http = false;
        }
        if open.leaving.is_some() {
            open.waiting.push_back(Arc::downgrade(shared));
            registry.changed.notify_one();
        }
    }
}

impl Entry {
    /// The number of the seat, for whoever [gives it back](Connections::give_back) from here on.
    pub(super) fn into_number(mut self) -> usize {
        self.holds = false;
        self.seat.number
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if self.holds {
            self.seat.registry.leave(self.seat.number);
        }
    }
}

impl Registry {
    fn leave(&self, number: usize) {
        let mut open = self.lock();
        let connection = open.connections.leave(number);
        if let (Some(began), Some(connection)) = (open.leaving, &connection) {
            note(&mut open.farewell, connection, began.elapsed());
        }
        let was_cut = connection.as_ref().is_some_and(|it| it.cut);
        open.cut -= usize::from(was_cut);
        if open.connections.is_empty() || was_cut && open.cut == 0 {
            self.changed.notify_one();
        }
        // Before the connection, which says goodbye where nobody else has it.
        drop(open);
    }
}

impl Open {
    /// Notes those that were cut off and have not ended.
    fn note_blocked(&mut self, after: Duration) {
        let all = self.connections.all.iter().flatten();
        for connection in all.filter(|connection| connection.cut) {
            note(&mut self.farewell, connection, after);
        }
    }
}

/// Notes how a connection ended that did so while all were to.
fn note(farewell: &mut Farewell, connection: &Connection, after: Duration) {
    match &connection.open {
        Some(shared) => {
            let ended = shared
                .ended()
                .filter(|ended| !connection.cut || ended.was_clean());
            let ended = match ended {
                None if thread::panicking() => Some(panicked()),
                // Its handler has moved it to another task, where it goes on.
                None if !connection.cut => return,
                ended => ended,
            };
            let peer = shared.info.peer_addr();
            farewell.connections.push(Departed { peer, after, ended });
        }
        None if connection.http => farewell.http_cut += usize::from(connection.cut),
        None => farewell.handshakes_cut += usize::from(connection.cut),
    }
}

fn panicked() -> Ended {
    Ended::Lost(Arc::new(io::Error::other("its handler panicked")))
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// A connection that does not end by itself, and takes what it is given along.
    fn stay<T: Send + 'static>(connections: &Connections, along: T) {
        connections.spawn(|entry| {
            entry
                .seat
                .registry
                .lock()
                .connections
                .at(entry.seat.number)
                .unwrap()
                .http = true;
            async move {
                let _held = (along, entry);
                pending().await
            }
        });
    }

    async fn all_end(connections: &Connections) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !connections.0.lock().connections.is_empty() {
            let ended = timeout_at(deadline, connections.0.changed.notified());
            ended.await.expect("it goes on");
        }
    }

    /// A task may have ended before its handle is noted, and its seat be another's.
    #[tokio::test]
    async fn whoever_has_a_seat_after_another_can_be_cut_off() {
        let connections = Connections::default();
        let again = connections.clone();
        connections.spawn(|entry| {
            drop(entry);
            stay(&again, ());
            async {}
        });
        connections.cut(|_| true);
        all_end(&connections).await;
    }

    #[tokio::test]
    async fn whoever_is_cut_off_before_the_handle_is_noted_ends() {
        let connections = Connections::default();
        let others = connections.clone();
        connections.spawn(|entry| {
            others.cut(|_| true);
            async move {
                let _entry = entry;
                pending().await
            }
        });
        all_end(&connections).await;
    }

    /// An application may go on after its sockets were closed: whoever comes then is not among them.
    #[cfg(feature = "axum")]
    #[tokio::test(start_paused = true)]
    async fn whoever_comes_after_the_deadline_is_not_waited_for() {
        struct ComesBack(Connections);
        impl Drop for ComesBack {
            fn drop(&mut self) {
                stay(&self.0, ());
            }
        }

        let connections = Connections::default();
        stay(&connections, ComesBack(connections.clone()));
        let how = Shutdown::new().deadline(Duration::from_secs(9));
        let ending = connections.shutdown(how, Duration::from_secs(5));
        let hour = Duration::from_secs(3600);
        let farewell = timeout_at(Instant::now() + hour, ending).await;
        let farewell = farewell.expect("the deadline has passed");
        assert_eq!((farewell.took.as_secs(), farewell.http_cut), (9, 1));
        assert!(!connections.0.lock().connections.is_empty());
        assert_eq!(connections.0.lock().cut, 0);
    }
}
