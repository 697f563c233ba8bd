//! Who was here: one line when a connection opens and one when it closes, and the sum at the end.

use std::{
    fmt::Display,
    io::Write,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anstyle::{AnsiColor, Style};
use sockeye::{Ended, Error, Socket, server::Farewell};

use super::{close_query, log::Log};
use crate::{
    clock,
    failure::tell,
    quantity::{Took, Traffic, Whole},
    shown::one_line,
};

const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();

/// How much of a path is shown, in characters, and of why a client is refused, which may quote it, and an origin and a
/// host of 200 each: they are the client's to choose.
const PATH_SHOWN: usize = 100;
const REFUSAL_SHOWN: usize = 700;

/// How long the end waits for what is left to be printed, however it is read.
const PATIENCE: Duration = Duration::from_secs(3);

/// All visits to a server.
pub(super) struct Visits {
    started: Instant,
    quiet: bool,
    /// What a client without an address is called.
    nameless: &'static str,
    next: AtomicU64,
    totals: Mutex<Totals>,
    log: Log,
    complaints: Log,
}

#[derive(Default)]
struct Totals {
    connections: u64,
    open: u64,
    received: Traffic,
    sent: Traffic,
    refusals: Refusals,
}

/// Who was refused, and how much of that was told.
#[derive(Default)]
struct Refusals {
    all: u64,
    /// Since when lines are counted, and how many there were.
    since: Option<Instant>,
    told: u32,
    untold: u64,
}

impl Refusals {
    /// As many lines are told a second: a person reads no more.
    const A_SECOND: u32 = 20;

    /// Counts one. Says whether it is told: then how many before it were not.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        self.all += 1;
        let current = |since: &Instant| now.duration_since(*since) < Duration::from_secs(1);
        if !self.since.as_ref().is_some_and(current) {
            (self.since, self.told) = (Some(now), 0);
        }
        if self.told >= Self::A_SECOND {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

impl Visits {
    pub(super) fn new(quiet: bool, nameless: &'static str) -> Self {
        Self {
            started: Instant::now(),
            quiet,
            nameless,
            next: AtomicU64::new(1),
            totals: Mutex::default(),
            log: Log::new(|text| {
                // The server goes on where nobody reads what it says.
                let _ = writeln!(anstream::stdout().lock(), "{text}");
            }),
            complaints: Log::new(|text| tell(text)),
        }
    }

    pub(super) fn visit(self: &Arc<Self>) -> Visit {
        Visit {
            visits: self.clone(),
            number: self.next.fetch_add(1, Ordering::Relaxed),
            peer: String::new(),
            opened: None,
            received: Traffic::default(),
            sent: Traffic::default(),
        }
    }

    /// A request that did not become a connection.
    ///
    /// Of a flood only so many a second are told, and then how many more there were.
    pub(super) fn refused(&self, peer: Option<SocketAddr>, error: &Error) {
        let Some(untold) = self.lock().refusals.tell(Instant::now()) else {
            return;
        };
        if untold > 0 {
            let untold = Whole(untold);
            self.line(BAD, "refused", format_args!("{untold} more before this"));
        }
        let (peer, error) = (self.named(peer), cut(&error.to_string(), REFUSAL_SHOWN));
        self.line(BAD, "refused", format_args!("{peer}  {error}"));
    }

    /// Connections wait, since the system gives none. It is about all of them, and told though they are not.
    pub(super) fn stalled(&self, error: &Error) {
        let now = clock::now();
        self.say(format!("{DIM}{now}{DIM:#} {BAD}waiting{BAD:#} {error}"));
    }

    /// The server is about to close every connection, within so long.
    pub(super) fn closing(&self, within: Duration) {
        let open = self.lock().open;
        if open > 0 {
            let s = if open == 1 { "" } else { "s" };
            let within = match within.is_zero() {
                true => String::new(),
                false => format!(" within {}", Took(within)),
            };
            self.say(format!(
                "\nClosing {} connection{s}{within}; Ctrl-C again to leave at once",
                Whole(open)
            ));
        }
    }

    /// How they ended, where there were any.
    pub(super) fn farewell(&self, farewell: &Farewell) {
        if !farewell.connections.is_empty() || farewell.http_cut > 0 {
            self.say(format!("Closed {farewell}"));
        }
    }

    pub(super) fn summary(&self) {
        let totals = self.lock();
        let s = if totals.connections == 1 { "" } else { "s" };
        let refused = match totals.refusals.all {
            0 => String::new(),
            refused => format!(", {} refused", Whole(refused)),
        };
        self.say(format!(
            "{} connection{s} in {}: {} received, {} sent{refused}",
            Whole(totals.connections),
            Took(self.started.elapsed()),
            totals.received,
            totals.sent,
        ));
    }

    /// Prints a text.
    pub(super) fn say(&self, text: impl Into<String>) {
        self.log.say(text.into());
    }

    /// Waits until all is printed, but not for long.
    pub(super) fn finish(&self) {
        let until = Instant::now() + PATIENCE;
        self.log.finish(until);
        self.complaints.finish(until);
    }

    /// Says on standard error what is wrong.
    pub(super) fn complain(&self, what: &str) {
        self.complaints.say(format!("sockeye: {}", one_line(what)));
    }

    fn line(&self, style: Style, event: &str, what: impl Display) {
        if !self.quiet {
            let now = clock::now();
            self.say(format!(
                "{DIM}{now}{DIM:#} {style}{event:<7}{style:#} {what}"
            ));
        }
    }

    /// A client, as it is told of.
    fn named(&self, peer: Option<SocketAddr>) -> String {
        peer.map_or_else(|| self.nameless.into(), |peer| peer.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        // A count that a panic left behind is still a count.
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The beginning of what a client has said, on one line.
fn cut(text: &str, most: usize) -> String {
    one_line(text).chars().take(most).collect()
}

/// One connection.
pub(super) struct Visit {
    visits: Arc<Visits>,
    number: u64,
    peer: String,
    /// When it opened, until it has closed.
    opened: Option<Instant>,
    pub(super) received: Traffic,
    pub(super) sent: Traffic,
}

impl Visit {
    /// Notes that the connection is open; and closes it, where the client asks for that.
    pub(super) fn open(&mut self, socket: &mut Socket) {
        self.opened = Some(Instant::now());
        self.peer = self.visits.named(socket.peer_addr());
        {
            let mut totals = self.visits.lock();
            totals.connections += 1;
            totals.open += 1;
        }
        if !self.visits.quiet {
            let path = socket.request().map_or("/", |request| request.path());
            let path = cut(path, PATH_SHOWN);
            let subprotocol = socket.subprotocol().unwrap_or("no subprotocol");
            let extensions = match socket.extensions() {
                none if none.is_empty() => "no extensions".into(),
                extensions => extensions,
            };
            self.line(
                GOOD,
                "open",
                &format!("{path}  {subprotocol}, {extensions}"),
            );
        }
        if let Some(wanted) = socket.request().and_then(close_query::wanted) {
            // It was found possible before the connection opened; only the peer can be quicker.
            let _ = socket.close(wanted.code, &wanted.reason);
        }
    }

    /// Notes that the connection has ended.
    pub(super) fn close(&mut self, ended: &Ended) {
        let Some(opened) = self.opened.take() else {
            return;
        };
        {
            let mut totals = self.visits.lock();
            totals.open -= 1;
            totals.received += self.received;
            totals.sent += self.sent;
        }
        let how = one_line(&ended.to_string());
        let style = if ended.was_clean() { GOOD } else { BAD };
        let (received, sent) = (self.received, self.sent);
        let took = Took(opened.elapsed());
        let what = format!("{how}, after {took}: {received} received, {sent} sent");
        self.line(style, "close", &what);
    }

    fn line(&self, style: Style, event: &str, what: &str) {
        let Self { number, peer, .. } = self;
        self.visits
            .line(style, event, format_args!("#{number} {peer}  {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_a_few_are_told_and_all_are_counted() {
        let (mut refusals, began) = (Refusals::default(), Instant::now());
        let told = (0..100).filter(|_| refusals.tell(began).is_some()).count();
        assert_eq!(told, 20);
        let later = began + Duration::from_secs(1);
        assert_eq!(refusals.tell(later), Some(80));
        assert_eq!(refusals.tell(later), Some(0));
        assert_eq!(refusals.all, 102);
    }
}
