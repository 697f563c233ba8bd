//! Who is let in: how many connections there may be, in all and for each address, how many of them
//! in the opening handshake, and how often an address may begin one.
//!
//! A server, or all of a set, count in one [`Gate`]. What is counted is held by guards, so that it is
//! given back however a connection ends.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher, RandomState},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use sockeye_proto::handshake::Refusal;
use tokio::{
    task::AbortHandle,
    time::{Instant, Sleep, sleep_until, timeout},
};

use super::refusal;
use crate::{
    Error,
    rate::{Bucket, Rate},
    stream::Stream,
};

/// A limit of a server that kept a connection out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// [`Server::max_connections`](crate::Server::max_connections).
    Connections,
    /// [`Server::max_connections_per_address`](crate::Server::max_connections_per_address).
    ConnectionsPerAddress,
    /// [`Server::max_handshakes`](crate::Server::max_handshakes): it was given up for one that is newer; or, over
    /// HTTP/2 and behind a page on its connection, refused, as none of the others was a second old.
    Handshakes,
    /// [`Server::handshake_rate`](crate::Server::handshake_rate).
    HandshakeRate,
}

impl Limit {
    /// A short name, such as for a metric's label: `connections`, `connections_per_address`,
    /// `handshakes`, `handshake_rate`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsPerAddress => "connections_per_address",
            Self::Handshakes => "handshakes",
            Self::HandshakeRate => "handshake_rate",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connections => "this server has as many connections as it may have",
            Self::ConnectionsPerAddress => {
                "there are as many connections from this address as there may be"
            }
            Self::Handshakes => {
                "the opening handshake was given up, or refused, as too many were unfinished"
            }
            Self::HandshakeRate => "this address opens connections too fast",
        })
    }
}

/// The limits of a server; none is `None`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// At 1.5 KB each when idle, these are 100 MB; with TLS, 630 MB.
    pub(super) connections: Option<usize>,
    /// An office or a mobile network behind one address has room; one machine is kept from filling a
    /// server.
    pub(super) per_address: Each<usize>,
    /// At worst 290 MB with TLS: 70 KB each, of a ClientHello of 64 KiB; without, 19 KB each, of a head of 16 KiB. A
    /// server on one core finishes about as many a second, with TLS.
    pub(super) handshakes: Option<usize>,
    /// All of an office may come back at once, and then some.
    pub(super) rate: Each<Rate>,
}

impl Limits {
    /// At least one handshake may be unfinished, or nobody could come in.
    fn most_handshakes(&self) -> usize {
        self.handshakes.map_or(usize::MAX, |most| most.max(1))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: Some(65_536),
            per_address: Each::global(256),
            handshakes: Some(4096),
            rate: Each::global(Rate::per_second(32).burst(256)),
        }
    }
}

/// A limit for each address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Each<T> {
    limit: Option<T>,
    /// Whether it holds for addresses too that nobody has on the internet.
    local: bool,
}

impl<T: Copy> Each<T> {
    /// By default, addresses that nobody has on the internet are not limited: they are proxies,
    /// containers, a test.
    const fn global(limit: T) -> Self {
        Self {
            limit: Some(limit),
            local: false,
        }
    }

    /// What a user says holds for all.
    pub(super) fn of(limit: Option<T>) -> Self {
        Self { limit, local: true }
    }

    fn for_address(self, address: IpAddr) -> Option<T> {
        self.limit.filter(|_| self.local || is_global(address))
    }
}

/// Whether an address may be had on the internet: it is not this machine's, nor a private network's
/// (RFC 1918, RFC 4193, RFC 6598), nor of one link alone.
fn is_global(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xC0 == 64;
            !(v4.is_loopback() || v4.is_private() || v4.is_link_local() || shared)
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}

/// Whom the connections of an address are counted for: an IPv4 address; of IPv6 a /64, which is the
/// least that a customer has, and in which anyone can take as many addresses as they want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Client {
    V4([u8; 4]),
    V6([u16; 4]),
}

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

/// Where the connections of a server, or of a set of them, are counted.
#[derive(Debug)]
pub(super) struct Gate {
    begin: Instant,
    open: AtomicUsize,
    /// The addresses that have connections, or have begun one lately; in parts, so that threads seldom
    /// wait for one another.
    addresses: [Mutex<Addresses>; SHARDS],
    hasher: RandomState,
    handshakes: Mutex<Handshakes>,
    /// How many refusals are being written.
    refusing: AtomicUsize,
}

const SHARDS: usize = 16;

/// How many addresses without a connection are remembered in each part, so that their rate holds: 64 K
/// in all, of about 50 bytes. In a flood from more than those, none of them is fast.
const REMEMBERED: usize = 4096;

/// How many refusals are written at a time. A client that comes beyond is closed without a word: it
/// must not cost more than it spends.
const REFUSALS: usize = 256;

/// How long a refused client may take to read why, and how much it may say meanwhile.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 16 * 1024;

/// How long an opening handshake is left alone, however many wait: a client far away needs a few
/// times its way there and back.
const GRACE: Duration = Duration::from_secs(1);

/// When a refused client is asked to come back, where nothing better is known.
const RETRY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Addresses {
    clients: HashMap<Client, AddressCount>,
    /// All of them, in the order in which they are looked at whether they can be forgotten.
    order: VecDeque<Client>,
}

#[derive(Debug, Default)]
struct AddressCount {
    open: usize,
    handshakes: Bucket,
}

impl Addresses {
    /// Looks at two of the clients for each that comes, so that those that can be forgotten are, at a
    /// cost that does not depend on how many there are.
    fn forget(&mut self, now: u64) {
        for _ in 0..2 {
            let Some(client) = self.order.pop_front() else {
                return;
            };
            let many = self.clients.len() > REMEMBERED;
            let needed = self.clients.get(&client).is_some_and(|counted| {
                counted.open > 0 || !(many || counted.handshakes.is_full(now))
            });
            if needed {
                self.order.push_back(client);
            } else {
                self.clients.remove(&client);
            }
        }
    }
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begin: Instant::now(),
            open: AtomicUsize::new(0),
            addresses: Default::default(),
            hasher: RandomState::new(),
            handshakes: Mutex::default(),
            refusing: AtomicUsize::new(0),
        })
    }

    /// Whether another opening handshake may begin, where it cannot wait for [`Room`]; and tells whose was given up
    /// for it.
    #[cfg(feature = "hyper")]
    pub(super) fn begin(
        &self,
        limits: &Limits,
        peer: Option<SocketAddr>,
        given_up: impl FnMut(Option<SocketAddr>, Error),
    ) -> Result<(), Refused> {
        self.make_room(limits.most_handshakes(), given_up)
            .map_err(|_| Refused::new(Limit::Handshakes, peer.map(|peer| peer.ip())))
    }

    /// Whether an address may open a connection more, as far as its own limits go.
    #[cfg(feature = "http3")]
    pub(super) fn has_room_for(&self, limits: &Limits, address: IpAddr) -> bool {
        let (client, now) = (Client::from(address), self.now());
        let most = limits.per_address.for_address(address);
        let rate = limits.rate.for_address(address);
        self.addresses(client)
            .clients
            .get(&client)
            .is_none_or(|counted| {
                let waits = rate.is_some_and(|rate| counted.handshakes.wait(rate, now).is_some());
                counted.open < most.unwrap_or(usize::MAX) && !waits
            })
    }

    /// Whether one handshake of so many that there may be is unfinished.
    #[cfg(feature = "http3")]
    pub(super) fn has_many_handshakes(&self, limits: &Limits, of: usize) -> bool {
        lock(&self.handshakes).unfinished >= limits.most_handshakes().div_ceil(of)
    }

    /// Gives up the oldest handshake where there are as many as there may be and it has had its time.
    ///
    /// # Errors
    /// All of them, and until when the oldest has its time.
    fn make_room(
        &self,
        most: usize,
        mut given_up: impl FnMut(Option<SocketAddr>, Error),
    ) -> Result<(), (MutexGuard<'_, Handshakes>, Instant)> {
        loop {
            let mut handshakes = lock(&self.handshakes);
            if handshakes.unfinished < most {
                return Ok(());
            }
            let Some((id, oldest)) = handshakes.oldest() else {
                return Ok(());
            };
            let until = oldest.since + GRACE;
            if until > Instant::now() {
                return Err((handshakes, until));
            }
            let (peer, task) = (oldest.peer, oldest.task.clone());
            handshakes.end(id);
            drop(handshakes);
            if let Some(task) = task {
                task.abort();
            }
            let refused = Refused::new(Limit::Handshakes, peer.map(|peer| peer.ip()));
            given_up(peer, refused.into());
        }
    }

    /// Takes a place for a connection.
    pub(super) fn enter(self: &Arc<Self>, limits: &Arc<Limits>) -> Result<Place, Refused> {
        let most = limits.connections.unwrap_or(usize::MAX);
        if !add_below(&self.open, most) {
            return Err(Refused::new(Limit::Connections, None));
        }
        Ok(Place {
            limits: limits.clone(),
            counting: Mutex::new(Counting {
                gate: self.clone(),
                counted: Some(Counted::default()),
            }),
            handshake: OnceLock::new(),
            refused: Mutex::new(None),
        })
    }

    /// Counts a connection no more.
    pub(super) fn give_back(&self, counted: Counted) {
        self.leave(counted.client);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts a connection for no address any more.
    fn leave(&self, client: Option<Client>) {
        if let Some(client) = client
            && let Some(counted) = self.addresses(client).clients.get_mut(&client)
        {
            counted.open = counted.open.saturating_sub(1);
        }
    }

    fn addresses(&self, client: Client) -> MutexGuard<'_, Addresses> {
        let part = self.hasher.hash_one(client) as usize % SHARDS;
        lock(&self.addresses[part])
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Counts an opening handshake for as long as what it gives is held.
    pub(super) fn handshake(self: &Arc<Self>, peer: Option<SocketAddr>) -> Handshake {
        let unfinished = Unfinished {
            since: Instant::now(),
            peer,
            task: None,
        };
        Handshake {
            gate: self.clone(),
            id: lock(&self.handshakes).begin(unfinished),
            ended: false,
        }
    }

    /// Says which task an unfinished handshake is in.
    pub(super) fn runs(&self, handshake: u64, task: AbortHandle) {
        if let Some(unfinished) = lock(&self.handshakes).at(handshake) {
            unfinished.task = Some(task);
        }
    }

    /// Writes a refusal and closes, in a task of its own, unless many are being written already.
    fn answer(self: &Arc<Self>, mut stream: Stream, refusal: &Refusal) {
        if !add_below(&self.refusing, REFUSALS) {
            return;
        }
        let (refusing, answer) = (Refusing(self.clone()), refusal::to_bytes(refusal, false));
        tokio::spawn(async move {
            let _refusing = refusing;
            // What goes wrong with it matters to nobody: the connection ends either way.
            let last = refusal::write_last(&mut stream, &answer, LINGER_BYTES);
            let _ = timeout(LINGER, last).await;
        });
    }
}

/// Adds one where there are fewer.
fn add_below(count: &AtomicUsize, most: usize) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < most).then_some(count + 1)
        })
        .is_ok()
}

/// No change is left half done where a thread has panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A refusal that is being written.
struct Refusing(Arc<Gate>);

impl Drop for Refusing {
    fn drop(&mut self) {
        self.0.refusing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a connection that is not open yet.
#[derive(Debug)]
pub(super) struct Place {
    /// The server's, which has them once.
    limits: Arc<Limits>,
    counting: Mutex<Counting>,
    /// The number of its opening handshake.
    handshake: OnceLock<u64>,
    /// Why it was not let in, where that is known only now. In a box: it is seldom there.
    refused: Mutex<Option<Box<Refused>>>,
}

/// Has the connection counted until it is open.
#[derive(Debug)]
struct Counting {
    gate: Arc<Gate>,
    /// Nothing once somebody else [gives it back](Gate::give_back).
    counted: Option<Counted>,
}

/// What is left of it once the connection is open: for whom it is counted, if for anyone.
#[derive(Debug, Default)]
pub(super) struct Counted {
    client: Option<Client>,
}

impl Place {
    /// Begins the opening handshake of the connection.
    pub(super) fn handshake(&self, peer: Option<SocketAddr>) -> Handshake {
        let gate = lock(&self.counting).gate.clone();
        let handshake = gate.handshake(peer);
        self.handshake.get_or_init(|| handshake.id);
        handshake
    }

    /// Begins one that comes behind other requests of the connection, whose task is to be ended where it is given up;
    /// and tells whose was given up for it.
    #[cfg(feature = "hyper")]
    pub(super) fn later_handshake(
        &self,
        peer: Option<SocketAddr>,
        task: Option<AbortHandle>,
        given_up: impl FnMut(Option<SocketAddr>, Error),
    ) -> Result<Handshake, Refused> {
        let gate = lock(&self.counting).gate.clone();
        gate.begin(&self.limits, peer, given_up)?;
        let handshake = gate.handshake(peer);
        if let Some(task) = task {
            gate.runs(handshake.id, task);
        }
        Ok(handshake)
    }

    /// Says whose that is, where it is not who has connected.
    pub(super) fn comes_from(&self, client: Option<SocketAddr>) {
        let gate = lock(&self.counting).gate.clone();
        if let Some(id) = self.handshake.get()
            && let Some(unfinished) = lock(&gate.handshakes).at(*id)
        {
            unfinished.peer = client;
        }
    }

    /// Why the connection was not let in although it has a place. It is told once.
    pub(super) fn refused(&self) -> Option<Refused> {
        lock(&self.refused).take().map(|refused| *refused)
    }

    /// Counts the connection for no address any more.
    #[cfg(feature = "hyper")]
    pub(super) fn forget_address(&self) {
        lock(&self.counting).leave();
    }

    /// What has to be [given back](Gate::give_back) from here on.
    pub(super) fn into_counted(self) -> Option<Counted> {
        lock(&self.counting).counted.take()
    }

    /// Says which address the connection is from, as soon as that is known, and counts it there; what
    /// it was counted for before is given back.
    pub(super) fn count_address(&self, address: IpAddr) -> Result<(), Refused> {
        lock(&self.counting)
            .count_at(address, &self.limits)
            .inspect_err(|refused| *lock(&self.refused) = Some(Box::new(*refused)))
    }
}

impl Counting {
    fn count_at(&mut self, address: IpAddr, limits: &Limits) -> Result<(), Refused> {
        let client = Client::from(address);
        if self.client() == Some(client) {
            return Ok(());
        }
        let most = limits.per_address.for_address(address);
        let rate = limits.rate.for_address(address);
        if most.is_none() && rate.is_none() {
            self.leave();
            return Ok(());
        }
        let now = self.gate.now();
        let mut addresses = self.gate.addresses(client);
        addresses.forget(now);
        let Addresses { clients, order } = &mut *addresses;
        let counted = clients.entry(client).or_insert_with(|| {
            order.push_back(client);
            AddressCount::default()
        });
        if counted.open >= most.unwrap_or(usize::MAX) {
            return Err(Refused::new(Limit::ConnectionsPerAddress, Some(address)));
        }
        if let Some(rate) = rate {
            if let Some(wait) = counted.handshakes.wait(rate, now) {
                let refused = Refused::new(Limit::HandshakeRate, Some(address));
                return Err(refused.until(wait));
            }
            counted.handshakes.take(rate, now, 1);
        }
        counted.open += 1;
        drop(addresses);
        self.leave();
        if let Some(counted) = &mut self.counted {
            counted.client = Some(client);
        }
        Ok(())
    }

    fn client(&self) -> Option<Client> {
        self.counted.as_ref()?.client
    }

    fn leave(&mut self) {
        if let Some(counted) = &mut self.counted {
            self.gate.leave(counted.client.take());
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            self.gate.give_back(counted);
        }
    }
}

/// Why a connection is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    limit: Limit,
    address: Option<IpAddr>,
    wait: Duration,
}

impl Refused {
    fn new(limit: Limit, address: Option<IpAddr>) -> Self {
        Self {
            limit,
            address,
            wait: RETRY,
        }
    }

    /// There are as many connections as there may be.
    #[cfg(feature = "http3")]
    pub(super) fn full() -> Self {
        Self::new(Limit::Connections, None)
    }

    fn until(mut self, wait: Duration) -> Self {
        self.wait = wait;
        self
    }

    /// What the client is told: 503 where the server is full (RFC 9110 §15.6.4), 429 where it is about
    /// the client (RFC 6585 §4).
    pub(super) fn refusal(&self) -> Refusal {
        let status = match self.limit {
            Limit::Connections | Limit::Handshakes => 503,
            Limit::ConnectionsPerAddress | Limit::HandshakeRate => 429,
        };
        let seconds = self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0);
        let refusal = Refusal::new(status, format!("{}\n", self.limit));
        refusal
            .clone()
            .header("Retry-After", &seconds.to_string())
            // Only a name that is reserved would be refused.
            .unwrap_or(refusal)
    }

    /// Answers a client that speaks HTTP in the clear, and closes; within TLS, nothing is spent on it.
    pub(super) fn answer(&self, gate: &Arc<Gate>, stream: Stream, tls: bool) {
        if !tls {
            gate.answer(stream, &self.refusal());
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Limit {
            limit: refused.limit,
            address: refused.address,
        }
    }
}

#[derive(Debug, Default)]
struct Handshakes {
    next: u64,
    /// By their age, the oldest first, each with its number; `None` is left of one that is done while
    /// others before it are not, as most end in the order in which they began.
    begun: VecDeque<(u64, Option<Unfinished>)>,
    unfinished: usize,
    /// Those who wait for room.
    waiting: Vec<Waker>,
}

impl Handshakes {
    /// Begins one: its number.
    fn begin(&mut self, unfinished: Unfinished) -> u64 {
        let id = self.next;
        self.next += 1;
        self.begun.push_back((id, Some(unfinished)));
        self.unfinished += 1;
        id
    }

    /// One that is not done.
    fn at(&mut self, id: u64) -> Option<&mut Unfinished> {
        let at = self.place(id)?;
        self.begun[at].1.as_mut()
    }

    fn place(&self, id: u64) -> Option<usize> {
        self.begun.binary_search_by_key(&id, |(id, _)| *id).ok()
    }

    fn oldest(&self) -> Option<(u64, &Unfinished)> {
        let (id, unfinished) = self.begun.front()?;
        Some((*id, unfinished.as_ref()?))
    }

    /// Ends one, and tells whether it had not ended before: given up, it has before its guard is dropped.
    fn end(&mut self, id: u64) -> bool {
        /// So few that are done are left where they are.
        const FEW: usize = 64;
        let Some(at) = self.place(id) else {
            return false;
        };
        if self.begun[at].1.take().is_none() {
            return false;
        }
        self.unfinished -= 1;
        while let Some((_, None)) = self.begun.front() {
            self.begun.pop_front();
        }
        // One that takes long does not keep the place of all that begin after it.
        if self.begun.len() > 2 * self.unfinished + FEW {
            self.begun.retain(|(_, unfinished)| unfinished.is_some());
        }
        true
    }
}

#[derive(Debug)]
struct Unfinished {
    since: Instant,
    peer: Option<SocketAddr>,
    task: Option<AbortHandle>,
}

/// An opening handshake, until it is done or given up.
#[derive(Debug)]
pub(super) struct Handshake {
    gate: Arc<Gate>,
    id: u64,
    ended: bool,
}

impl Handshake {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Says that it is done, and tells whether that still counts. Where another thread has just given it up for
    /// one that is newer, it has told of that and is about to end the task: nothing may begin here then.
    pub(super) fn finish(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        self.ended = true;
        let mut handshakes = lock(&self.gate.handshakes);
        let counted = handshakes.end(self.id);
        let waiting = std::mem::take(&mut handshakes.waiting);
        drop(handshakes);
        waiting.into_iter().for_each(Waker::wake);
        counted
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        if !self.ended {
            self.end();
        }
    }
}

/// Waits for room for the handshake of a connection that was accepted: the others wait with the system
/// meanwhile.
///
/// Where there are as many as there may be, the oldest is given up if it has had its time, as in a
/// cache of half-open connections: those who open and say nothing keep nobody out. Younger ones are
/// not: many who come at once, as after a restart, are served one after another.
#[derive(Debug)]
pub(super) struct Room {
    gate: Arc<Gate>,
    most: usize,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Room {
    pub(super) fn new(gate: Arc<Gate>, limits: &Limits) -> Self {
        Self {
            gate,
            most: limits.most_handshakes(),
            sleep: None,
        }
    }

    /// Waits for room, and tells whose handshake was given up for it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut given_up: impl FnMut(Option<SocketAddr>, Error),
    ) -> Poll<()> {
        loop {
            let (mut handshakes, until) = match self.gate.make_room(self.most, &mut given_up) {
                Ok(()) => {
                    self.sleep = None;
                    return Poll::Ready(());
                }
                Err(full) => full,
            };
            if !handshakes
                .waiting
                .iter()
                .any(|waker| waker.will_wake(cx.waker()))
            {
                handshakes.waiting.push(cx.waker().clone());
            }
            drop(handshakes);
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            if sleep.deadline() != until {
                sleep.as_mut().reset(until);
            }
            match sleep.as_mut().poll(cx) {
                Poll::Ready(()) => self.sleep = None,
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
