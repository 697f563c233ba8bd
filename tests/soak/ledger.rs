//! What both ends say about each connection, compared.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use sockeye_tests::{Record, Tally};
use tokio::{sync::mpsc, time::sleep};

/// How many failures are told one by one.
const TOLD: usize = 20;

/// One connection, as its client saw it.
#[derive(Debug)]
pub(crate) struct Account {
    /// All that was given to the connection to be sent.
    pub(crate) sent: Tally,
    /// What came back, and was what had been sent.
    pub(crate) echoed: Tally,
    /// What the server may have received: all that was echoed, and as much more as was on its way.
    pub(crate) may_have_arrived: Vec<Tally>,
    pub(crate) end: End,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All was echoed, then it was closed.
    Clean,
    /// It was closed while echoes were on their way.
    Early,
    /// It was cut, as this test wanted it.
    Cut,
}

#[derive(Default)]
pub(crate) struct Ledger {
    open: AtomicUsize,
    next: AtomicU64,
    sides: Mutex<Sides>,
}

#[derive(Default)]
struct Sides {
    clients: HashMap<u64, Account>,
    server: HashMap<u64, Record>,
    compared: u64,
    ends: [u64; 3],
    sent: Sum,
    received: Sum,
    sent_back: Sum,
    echoed: Sum,
    cut_there: Sum,
    cut_back: Sum,
    pings: u64,
    pongs: u64,
    failures: Vec<String>,
    failed: usize,
}

/// Messages and bytes of many connections.
#[derive(Clone, Copy, Default)]
struct Sum {
    messages: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, tally: Tally) {
        self.messages += tally.messages;
        self.bytes += tally.bytes;
    }

    fn add_difference(&mut self, more: Tally, less: Tally) {
        self.messages += more.messages - less.messages;
        self.bytes += more.bytes - less.bytes;
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} messages, {} bytes", self.messages, self.bytes)
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Sides> {
        self.sides.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a connection, which is counted as open from then on.
    pub(crate) fn opened(&self) -> u64 {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// How many are open, as the clients see it.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// One has not come to be: nobody will tell of it.
    pub(crate) fn never_opened(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A client tells of a connection that has ended.
    pub(crate) fn closed(&self, number: u64, account: Account) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        let mut sides = self.lock();
        sides.clients.insert(number, account);
        sides.compare(number);
    }

    /// Something went wrong that nobody had caused.
    pub(crate) fn failed(&self, failure: String) {
        self.lock().fail(failure);
    }

    pub(crate) fn pinged(&self) {
        self.lock().pings += 1;
    }

    pub(crate) fn ponged(&self) {
        self.lock().pongs += 1;
    }

    /// Takes what the server tells, as long as it does.
    pub(crate) async fn compare(self: Arc<Self>, mut records: mpsc::UnboundedReceiver<Record>) {
        while let Some(record) = records.recv().await {
            let mut sides = self.lock();
            sides.server.insert(record.number, record);
            sides.compare(record.number);
        }
    }

    /// Waits until both sides have told of every connection.
    pub(crate) async fn complete(&self) {
        loop {
            {
                let sides = self.lock();
                if sides.clients.is_empty() && sides.server.is_empty() && self.open() == 0 {
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// How far it is, in a line.
    pub(crate) fn line(&self) -> String {
        let sides = self.lock();
        format!(
            "{} open, {} ended, {} echoed, {} failed",
            self.open(),
            sides.compared,
            sides.echoed,
            sides.failed
        )
    }

    /// Prints the sums, and gives what is wrong.
    pub(crate) fn report(&self) -> Vec<String> {
        let mut sides = self.lock();
        let [clean, early, cut] = sides.ends;
        println!(
            "{} connections: {clean} closed after the last echo, {early} before, {cut} cut; {} pings, {} pongs",
            sides.compared, sides.pings, sides.pongs
        );
        println!("clients sent          {}", sides.sent);
        println!("  cut on their way    {}", sides.cut_there);
        println!("server received       {}", sides.received);
        println!("server sent back      {}", sides.sent_back);
        println!("  cut on their way    {}", sides.cut_back);
        println!("clients received      {}", sides.echoed);
        if clean == 0 || early == 0 || cut == 0 || sides.pongs == 0 {
            sides.fail("something that was to be tried has not happened".into());
        }
        for (left, side) in [
            (sides.clients.len(), "server"),
            (sides.server.len(), "clients"),
        ] {
            if left > 0 {
                sides.fail(format!("the {side} never told of {left} connections"));
            }
        }
        let untold = sides.failed - sides.failures.len();
        if untold > 0 {
            sides.failures.push(format!("and {untold} more"));
        }
        std::mem::take(&mut sides.failures)
    }
}

impl Sides {
    fn fail(&mut self, failure: String) {
        self.failed += 1;
        if self.failures.len() < TOLD {
            self.failures.push(failure);
        }
    }

    /// Compares what both have told of a connection, once they have.
    fn compare(&mut self, number: u64) {
        if !self.clients.contains_key(&number) || !self.server.contains_key(&number) {
            return;
        }
        let (Some(client), Some(server)) =
            (self.clients.remove(&number), self.server.remove(&number))
        else {
            return;
        };
        self.compared += 1;
        self.ends[client.end as usize] += 1;
        let agreed = match client.end {
            End::Clean => {
                server.clean && server.received == client.sent && client.echoed == client.sent
            }
            End::Early => server.clean && server.received == client.sent,
            End::Cut => client.may_have_arrived.contains(&server.received),
        };
        if !agreed || server.sent.messages < client.echoed.messages {
            self.fail(format!("the ends do not agree: {client:?}, {server:?}"));
            return;
        }
        self.sent.add(client.sent);
        self.received.add(server.received);
        self.sent_back.add(server.sent);
        self.echoed.add(client.echoed);
        self.cut_there.add_difference(client.sent, server.received);
        self.cut_back.add_difference(server.sent, client.echoed);
    }
}
