//! Leaving well: who is told when that the server ends, and how each connection ended.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sockeye_proto::{CloseCode, CloseFrame};
use tokio::{sync::watch, time::Instant};

use crate::Ended;

/// How long a handler may go on with the message that it has, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a server ends: with which close code, over how long a time, and by when it is over.
///
/// ```
/// use std::time::Duration;
/// use sockeye::server::Shutdown;
///
/// let how = Shutdown::restart()
///     .spread(Duration::from_secs(30))
///     .deadline(Duration::from_secs(60))
///     .reason("version 2 is being installed");
/// # let _ = how;
/// ```
#[derive(Clone, Debug)]
#[must_use = "it ends a server only once it is given to one"]
pub struct Shutdown {
    close: CloseFrame,
    spread: Duration,
    patience: Duration,
    deadline: Option<Duration>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

impl Shutdown {
    /// Every connection is closed at once, with 1001 (going away).
    pub fn new() -> Self {
        Self::with(CloseCode::GOING_AWAY)
    }

    /// Every connection is closed with 1012 (service restart): clients are to come back. Say with
    /// [`spread`](Self::spread) over how long a time, so that they do not all come at once.
    pub fn restart() -> Self {
        Self::with(CloseCode::SERVICE_RESTART)
    }

    fn with(code: CloseCode) -> Self {
        Self {
            close: CloseFrame::new(code, ""),
            spread: Duration::ZERO,
            patience: PATIENCE,
            deadline: None,
        }
    }

    /// Sets the reason in the Close frames. What is beyond 123 bytes does not fit into one, and is
    /// left out. Default none.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        while reason.len() > CloseFrame::MAX_REASON {
            reason.pop();
        }
        self.close.reason = reason;
        self
    }

    /// Sets the window over which the closes are spread: evenly, the first at once, in an order that
    /// nobody can foresee. Until its turn comes a connection goes on as before. Default 0: all at once.
    pub fn spread(mut self, window: Duration) -> Self {
        self.spread = window;
        self
    }

    /// Sets how long a handler may go on with a message that it has received, when its connection's turn
    /// has come. It is closed when the handler next waits for a message, or else after this. Default 1 s.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets by when it is over, from its beginning: whatever connection has not ended by then is cut off. A handler that
    /// blocks its thread cannot be: where the runtime has other threads to go on with, it is given a second more, and then
    /// told as cut off. Default the window, the patience and the close timeout together.
    ///
    /// For the last part of it, as long as the close timeout but not more than half, nobody is told any
    /// more, so that all have their time to answer: a longer window is shortened to that.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    pub(super) fn close(&self) -> &CloseFrame {
        &self.close
    }

    /// What happens when, where peers have so long to answer a Close.
    pub(super) fn schedule(&self, close_timeout: Duration) -> Schedule {
        let deadline = self.deadline.unwrap_or_else(|| {
            let told = self.spread.saturating_add(self.patience);
            told.saturating_add(close_timeout)
        });
        // As far as any clock can tell.
        let deadline = deadline.min(Duration::from_secs(365 * 24 * 3600));
        let last_call = deadline - close_timeout.min(deadline / 2);
        Schedule {
            window: self.spread.min(last_call),
            patience: self.patience.min(deadline),
            last_call,
            deadline,
        }
    }
}

/// What a signal gives that says no more than that it is time.
impl From<()> for Shutdown {
    fn from((): ()) -> Self {
        Self::new()
    }
}

/// What happens when, from the beginning of the shutdown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// By then everyone has been asked to leave.
    pub(super) window: Duration,
    pub(super) patience: Duration,
    /// By then everyone has been sent a Close.
    pub(super) last_call: Duration,
    /// By then it is over.
    pub(super) deadline: Duration,
}

impl Schedule {
    /// When the connection is asked that comes after `told` others, of `total`.
    pub(super) fn turn(&self, told: usize, total: usize) -> Duration {
        let window = self.window.as_nanos();
        let turn = window * told as u128 / total.max(1) as u128;
        Duration::from_nanos(u64::try_from(turn).unwrap_or(u64::MAX))
    }
}

/// Ends a server, and tells how that went. Cloning is cheap, and the clones are of the same server.
///
/// ```no_run
/// # async fn example() -> sockeye::Result<()> {
/// use std::time::Duration;
/// use sockeye::{Server, server::Shutdown};
///
/// let server = Server::bind("0.0.0.0:8080").await?;
/// let handle = server.shutdown_handle();
/// tokio::spawn(server.serve(|mut socket| async move { socket.send("Привет").await }));
/// // … and when it is time:
/// let how = Shutdown::restart().spread(Duration::from_secs(30));
/// let farewell = handle.shutdown(how).await;
/// println!("{farewell}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ShutdownHandle(Arc<Control>);

struct Control {
    begun: watch::Sender<Option<Begun>>,
    /// How many servers have not ended: several share a handle where each core has one.
    serving: watch::Sender<usize>,
    farewell: Mutex<Farewell>,
}

/// A shutdown that goes on.
#[derive(Clone)]
pub(super) struct Begun {
    pub(super) how: Arc<Shutdown>,
    pub(super) at: Instant,
}

impl Begun {
    pub(super) fn now(how: Shutdown) -> Self {
        Self {
            how: Arc::new(how),
            at: Instant::now(),
        }
    }
}

impl ShutdownHandle {
    pub(super) fn new() -> Self {
        Self(Arc::new(Control {
            begun: watch::Sender::new(None),
            serving: watch::Sender::new(0),
            farewell: Mutex::default(),
        }))
    }

    /// Begins to end the server, and gives how each connection ended once it has. No more connections
    /// are accepted, requests over HTTP that are being answered still are, and WebSockets are closed as
    /// `how` says.
    ///
    /// # Cancel safety
    /// It begins with the call, and goes on whether or not the future is waited for. Where an end has
    /// begun before, that goes on as it is. A server that has not been served ends as it is dropped, and not before:
    /// whoever still has it would wait for itself.
    pub fn shutdown(&self, how: Shutdown) -> impl Future<Output = Farewell> + Send + use<> {
        self.begin(how);
        let this = self.clone();
        async move { this.ended().await }
    }

    /// Begins to end the servers, unless that has begun.
    pub(super) fn begin(&self, how: Shutdown) {
        self.0.begun.send_if_modified(|begun| {
            let first = begun.is_none();
            if first {
                *begun = Some(Begun::now(how));
            }
            first
        });
    }

    /// Waits until the server has begun to end. A handler that is to say goodbye, or to take nothing more
    /// on, looks at this before its messages: its connection may be the first to have its turn.
    ///
    /// ```no_run
    /// # use sockeye::{Result, WebSocket, server::ShutdownHandle};
    /// async fn chat(mut socket: WebSocket, ending: ShutdownHandle) -> Result<()> {
    ///     loop {
    ///         tokio::select! {
    ///             biased;
    ///             () = ending.begun() => break socket.send("we are about to restart").await?,
    ///             message = socket.recv() => match message? {
    ///                 Some(message) => socket.send(message).await?,
    ///                 None => return Ok(()),
    ///             },
    ///         }
    ///     }
    ///     // Until its turn it goes on.
    ///     while let Some(message) = socket.recv().await? {
    ///         socket.send(message).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn begun(&self) {
        self.beginning().await;
    }

    /// Whether the server has begun to end.
    pub fn has_begun(&self) -> bool {
        self.0.begun.borrow().is_some()
    }

    /// Waits until the server has ended, whoever ended it.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn ended(&self) -> Farewell {
        let mut serving = self.0.serving.subscribe();
        // Refused only where nobody is left who could say so: but the sender is here.
        let _ = serving.wait_for(|serving| *serving == 0).await;
        self.farewell().clone()
    }

    pub(super) fn beginning(&self) -> impl Future<Output = Option<Begun>> + Send + use<> {
        let mut begun = self.0.begun.subscribe();
        async move { begun.wait_for(Option::is_some).await.ok()?.clone() }
    }

    fn farewell(&self) -> MutexGuard<'_, Farewell> {
        // What a panic left behind is still what is known.
        let farewell = self.0.farewell.lock();
        farewell.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for ShutdownHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShutdownHandle")
            .field("has_begun", &self.has_begun())
            .finish_non_exhaustive()
    }
}

/// A server that has not ended.
pub(super) struct Running(pub(super) ShutdownHandle);

impl Running {
    pub(super) fn new(handle: ShutdownHandle) -> Self {
        handle.0.serving.send_modify(|serving| *serving += 1);
        Self(handle)
    }

    /// Tells how its connections ended.
    pub(super) fn add(&self, part: Farewell) {
        let mut farewell = self.0.farewell();
        farewell.took = farewell.took.max(part.took);
        farewell.connections.extend(part.connections);
        // Each thread of several has told its own.
        farewell.connections.sort_by_key(|departed| departed.after);
        farewell.http_cut += part.http_cut;
        farewell.handshakes_cut += part.handshakes_cut;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.serving.send_modify(|serving| *serving -= 1);
    }
}

/// How the connections of a server ended, from when it began to end.
///
/// Displayed, it is one line: `10,000 connections in 30.1 s: 9,998 closed with 1012, 2 lost`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Farewell {
    /// How long it took, until the last had ended.
    pub took: Duration,
    /// Every WebSocket that was open when it began, or opened after, in the order of their ends.
    pub connections: Vec<Departed>,
    /// How many connections were cut off at the deadline while they served HTTP.
    pub http_cut: usize,
    /// How many connections were cut off in the opening handshake, at the end of the window.
    pub handshakes_cut: usize,
}

/// A connection that has ended while its server did.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Departed {
    /// The address of the peer: as [`WebSocket::peer_addr`](crate::WebSocket::peer_addr).
    pub peer: Option<SocketAddr>,
    /// When its handler was done with it, from the beginning of the shutdown.
    pub after: Duration,
    /// How it ended; `None` where it was cut off at the deadline.
    pub ended: Option<Ended>,
}

impl Farewell {
    /// How many connections were closed cleanly: with a Close from both sides.
    pub fn closed(&self) -> usize {
        let ended = self.connections.iter().filter_map(|c| c.ended.as_ref());
        ended.filter(|ended| ended.was_clean()).count()
    }

    /// How many connections were cut off at the deadline.
    pub fn cut(&self) -> usize {
        self.connections
            .iter()
            .filter(|c| c.ended.is_none())
            .count()
    }

    /// How many connections ended in which way, in words: `closed with 1001`, `lost`.
    fn ways(&self) -> BTreeMap<String, usize> {
        let mut ways = BTreeMap::new();
        for connection in &self.connections {
            let way = match &connection.ended {
                None => "cut off at the deadline".into(),
                Some(ended) => match ended {
                    Ended::ByUs(_) => format!("closed with {}", ended.code()),
                    Ended::ByPeer(_) => format!("left by themselves with {}", ended.code()),
                    Ended::Lost(_) => "lost".into(),
                    Ended::Protocol(error) if error.is_limit() => "went over a limit".into(),
                    Ended::Protocol(_) => "broke the protocol".into(),
                    Ended::TimedOut => "did not answer the Close".into(),
                    Ended::Silent => "silent".into(),
                    Ended::Overflow { .. } => "did not read".into(),
                },
            };
            *ways.entry(way).or_insert(0) += 1;
        }
        if self.http_cut > 0 {
            ways.insert("cut off in HTTP".into(), self.http_cut);
        }
        if self.handshakes_cut > 0 {
            ways.insert("cut off in the handshake".into(), self.handshakes_cut);
        }
        ways
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.connections.len();
        let s = if count == 1 { "" } else { "s" };
        let took = self.took.as_secs_f64();
        write!(f, "{} connection{s} in {took:.1} s", Grouped(count))?;
        for (place, (way, count)) in self.ways().into_iter().enumerate() {
            let before = if place == 0 { ": " } else { ", " };
            write!(f, "{before}{} {way}", Grouped(count))?;
        }
        Ok(())
    }
}

/// A number with its digits in groups of three.
struct Grouped(usize);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (place, digit) in digits.char_indices() {
            if place > 0 && (digits.len() - place).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn by_default_all_are_closed_at_once_and_have_their_time_to_answer() {
        let Schedule {
            window,
            patience,
            last_call,
            deadline,
        } = Shutdown::new().schedule(seconds(5));
        assert_eq!((window, patience), (Duration::ZERO, seconds(1)));
        assert_eq!((last_call, deadline), (seconds(3), seconds(6)));
        let long = Shutdown::restart().spread(seconds(30)).schedule(seconds(5));
        assert_eq!((long.window, long.last_call), (seconds(30), seconds(31)));
        assert_eq!(long.deadline, seconds(36));
    }

    #[test]
    fn connections_are_in_the_order_of_their_ends_whatever_thread_they_were_of() {
        let handle = ShutdownHandle::new();
        let running = Running::new(handle.clone());
        for part in [[2, 5], [1, 4]] {
            let departed = part.map(|after| Departed {
                peer: None,
                after: seconds(after),
                ended: None,
            });
            running.add(Farewell {
                connections: departed.into(),
                ..Farewell::default()
            });
        }
        let after = handle
            .farewell()
            .connections
            .iter()
            .map(|it| it.after.as_secs())
            .collect::<Vec<_>>();
        assert_eq!(after, [1, 2, 4, 5]);
    }

    #[test]
    fn the_deadline_shortens_the_window() {
        let how = Shutdown::new().spread(seconds(60));
        let hurried = how.clone().deadline(seconds(20)).schedule(seconds(5));
        assert_eq!(
            (hurried.window, hurried.deadline),
            (seconds(15), seconds(20))
        );
        let at_once = how.clone().deadline(seconds(2)).schedule(seconds(5));
        assert_eq!((at_once.window, at_once.deadline), (seconds(1), seconds(2)));
        let never = how.deadline(Duration::MAX).schedule(Duration::MAX);
        assert_eq!(never.window, seconds(60));
        let patient = Shutdown::new().patience(Duration::MAX);
        let patient = patient.deadline(seconds(20)).schedule(seconds(5));
        assert!(patient.patience <= patient.deadline, "{patient:?}");
        let now = Shutdown::new()
            .deadline(Duration::ZERO)
            .schedule(seconds(5));
        assert_eq!((now.last_call, now.deadline), Default::default());
    }

    #[test]
    fn turns_are_even() {
        let schedule = Shutdown::new().spread(seconds(30)).schedule(seconds(5));
        assert_eq!(schedule.turn(0, 10), Duration::ZERO);
        assert_eq!(schedule.turn(5, 10), seconds(15));
        assert_eq!(schedule.turn(9_999, 10_000), Duration::from_millis(29_997));
        assert_eq!(schedule.turn(0, 0), Duration::ZERO);
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_characters() {
        let how = Shutdown::new().reason("щ".repeat(100));
        assert_eq!(how.close().reason, "щ".repeat(61));
    }

    #[test]
    fn a_farewell_is_a_line() {
        let peer = None;
        let after = seconds(1);
        let close = |code| CloseFrame::new(code, "why");
        let ends = [
            None,
            Some(Ended::TimedOut),
            Some(Ended::ByUs(close(CloseCode::SERVICE_RESTART))),
            Some(Ended::ByPeer(Some(close(CloseCode::NORMAL)))),
        ];
        let connections = ends.into_iter().flat_map(|ended| {
            let many = if ended.is_none() { 1 } else { 1_200 };
            std::iter::repeat_n(Departed { peer, after, ended }, many)
        });
        let farewell = Farewell {
            took: Duration::from_millis(30_120),
            connections: connections.collect(),
            http_cut: 2,
            handshakes_cut: 0,
        };
        assert_eq!((farewell.closed(), farewell.cut()), (2_400, 1));
        assert_eq!(
            farewell.to_string(),
            "3,601 connections in 30.1 s: 1,200 closed with 1012, 1 cut off at the deadline, \
             2 cut off in HTTP, 1,200 did not answer the Close, 1,200 left by themselves with 1000"
        );
        assert_eq!(Farewell::default().to_string(), "0 connections in 0.0 s");
    }

    #[test]
    fn a_server_that_is_dropped_has_ended() {
        use std::{future::Future, pin::pin, task::Context, task::Waker};
        let handle = ShutdownHandle::new();
        let first = Running::new(handle.clone());
        let second = Running::new(handle.clone());
        assert!(!handle.has_begun());
        let mut ended = pin!(handle.shutdown(Shutdown::new()));
        assert!(handle.has_begun());
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(ended.as_mut().poll(cx).is_pending());
        drop(first);
        assert!(ended.as_mut().poll(cx).is_pending());
        drop(second);
        assert!(ended.as_mut().poll(cx).is_ready());
    }
}
