//! One place at the server: a connection after the other, each with traffic of its own and an end of its own.

use std::{
    collections::VecDeque,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sockeye::{
    Client, CloseCode, DeflateConfig, Ended, Error, Event, Message, Receiver, Result, Sender,
    WebSocket,
};
use sockeye_tests::{Random, Tally};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    sync::Notify,
    time::sleep,
};

use crate::ledger::{Account, End, Ledger};

/// The largest message, in bytes.
const LARGEST: u64 = 1 << 20;

/// How many messages may be on their way there and back.
const WINDOW: usize = 8;

pub(crate) struct Visitor {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) random: Random,
    pub(crate) ledger: Arc<Ledger>,
    /// Whether the time has begun. Before that, there are more of the largest messages: the server keeps
    /// buffers for some of those, of the sizes that it has seen.
    pub(crate) begun: Arc<AtomicBool>,
    /// Whether the last connection is to be closed well, and none opened any more.
    pub(crate) over: Arc<AtomicBool>,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    Clean,
    Early,
    /// The system resets it.
    Reset,
    /// The system ends our side of it, in the middle of whatever is being sent.
    HalfClose,
    /// It is dropped, and says 1001 as far as that goes without waiting.
    Drop,
}

impl Visitor {
    /// Comes and goes until it is over.
    pub(crate) async fn visit(mut self) {
        // Not all in the same moment.
        sleep(Duration::from_millis(self.random.below(2000))).await;
        while !self.over.load(Ordering::Relaxed) {
            if self.random.percent(3)
                && let Err(error) = self.half_open().await
            {
                self.ledger.failed(format!("could not connect: {error}"));
            }
            if let Err(error) = self.session().await {
                self.ledger.failed(format!("could not connect: {error}"));
                sleep(Duration::from_secs(1)).await;
            }
            // Half come back at once.
            if self.random.percent(50) {
                sleep(Duration::from_millis(self.random.below(1000))).await;
            }
        }
    }

    async fn stream(&self) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(self.from)?;
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Begins a handshake, and resets the connection.
    async fn half_open(&mut self) -> std::io::Result<()> {
        let mut stream = self.stream().await?;
        stream
            .write_all(b"GET /counted/0 HTTP/1.1\r\nHost: ")
            .await?;
        stream.set_zero_linger()
    }

    /// A connection from its beginning to its end.
    async fn session(&mut self) -> Result<()> {
        let stream = self.stream().await?;
        // The same socket once more, to end it from outside.
        let knife = stream.into_std()?;
        let stream = TcpStream::from_std(knife.try_clone()?)?;
        let number = self.ledger.opened();
        let deflate = self.random.percent(50);
        let client = Client::new(format!("ws://{}/counted/{number}", self.to))
            .deflate(DeflateConfig::available().filter(|_| deflate));
        let socket = match client.connect_over(stream).await {
            Ok(socket) => socket,
            Err(error) => {
                self.ledger.never_opened();
                return Err(error);
            }
        };
        let plan = match self.random.below(100) {
            0..40 => Plan::Clean,
            40..55 => Plan::Early,
            55..70 => Plan::Reset,
            70..85 => Plan::HalfClose,
            _ => Plan::Drop,
        };
        let traffic = Arc::new(Traffic {
            state: Mutex::default(),
            room: Notify::new(),
            ledger: self.ledger.clone(),
        });
        let talk = Talk {
            random: Random::new(self.random.next()),
            // A connection in ten is a long one.
            messages: match self.random.percent(10) {
                true => 1 + self.random.below(300),
                false => 1 + self.random.below(40),
            },
            plan,
            large: !self.begun.load(Ordering::Relaxed) && self.random.percent(12),
            over: self.over.clone(),
        };
        let cut_after = Duration::from_millis(self.random.below(20_000));
        let end = tokio::select! {
            ended = talk.run(socket, traffic.clone()) => Some(ended),
            () = cut(plan, cut_after, &knife) => None,
        };
        self.settle(number, plan, &traffic, end);
        Ok(())
    }

    /// Tells the ledger how it ended.
    fn settle(&self, number: u64, plan: Plan, traffic: &Traffic, end: Option<Result<Ended>>) {
        let failed = |why: &dyn std::fmt::Debug| {
            self.ledger
                .failed(format!("connection {number}, {plan:?}: {why:?}"));
        };
        let end = match (plan, end) {
            (Plan::Clean, Some(Ok(Ended::ByUs(_)))) => End::Clean,
            (Plan::Early, Some(Ok(Ended::ByUs(_)))) => End::Early,
            // All that it had to say was said before it would have been cut.
            (Plan::Reset | Plan::HalfClose | Plan::Drop, Some(Ok(Ended::ByUs(_)))) => End::Clean,
            (Plan::Reset | Plan::HalfClose | Plan::Drop, None) => End::Cut,
            // The knife was there first.
            (Plan::HalfClose, Some(Ok(Ended::Lost(_)) | Err(Error::Lost(_)))) => End::Cut,
            (_, end) => {
                failed(&end);
                End::Cut
            }
        };
        let state = traffic.lock();
        let mut may_have_arrived = vec![state.echoed];
        may_have_arrived.extend(state.on_their_way.iter().map(|sent| sent.after));
        self.ledger.closed(
            number,
            Account {
                sent: state.sent,
                echoed: state.echoed,
                may_have_arrived,
                end,
            },
        );
    }
}

/// Ends a connection from outside when it is time; never, where that is not the plan.
async fn cut(plan: Plan, after: Duration, knife: &std::net::TcpStream) {
    match plan {
        Plan::Clean | Plan::Early => return pending().await,
        Plan::Reset | Plan::HalfClose | Plan::Drop => sleep(after).await,
    }
    match plan {
        // The last of both descriptors is closed with it, and what was not sent is discarded.
        Plan::Reset => {
            let _ = socket2::SockRef::from(knife).set_linger(Some(Duration::ZERO));
        }
        Plan::HalfClose => {
            let _ = knife.shutdown(std::net::Shutdown::Write);
            // The echoes that are on their way still come; then the other end is done too.
            pending().await
        }
        _ => {}
    }
}

/// What is said on a connection.
struct Talk {
    random: Random,
    messages: u64,
    plan: Plan,
    /// Whether the first message is as large as one can be.
    large: bool,
    over: Arc<AtomicBool>,
}

/// What was said, and not answered yet.
struct Traffic {
    state: Mutex<State>,
    /// Told when an echo has come.
    room: Notify,
    ledger: Arc<Ledger>,
}

#[derive(Default)]
struct State {
    sent: Tally,
    echoed: Tally,
    on_their_way: VecDeque<Sent>,
}

/// A message that is on its way; from its seed it is made again, to be compared.
struct Sent {
    seed: u64,
    large: bool,
    /// All that was sent up to it.
    after: Tally,
}

impl Traffic {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no more than so many are on their way.
    async fn at_most(&self, count: usize) {
        loop {
            let room = self.room.notified();
            if self.lock().on_their_way.len() <= count {
                return;
            }
            room.await;
        }
    }
}

impl Talk {
    async fn run(self, socket: WebSocket, traffic: Arc<Traffic>) -> Result<Ended> {
        let (sender, receiver) = socket.split();
        let (written, ended) = tokio::join!(self.write(sender, &traffic), read(receiver, &traffic));
        // Where the connection has ended, reading says how.
        let ended = ended?;
        match written {
            Err(error) if ended.was_clean() => Err(error),
            _ => Ok(ended),
        }
    }

    async fn write(mut self, sender: Sender, traffic: &Traffic) -> Result<()> {
        for number in 0..self.messages {
            if self.over.load(Ordering::Relaxed) {
                break;
            }
            traffic.at_most(WINDOW - 1).await;
            let seed = self.random.next();
            let large = self.large && number == 0;
            let message = message(seed, large);
            {
                let mut state = traffic.lock();
                state.sent.add(message.as_ref());
                let after = state.sent;
                state.on_their_way.push_back(Sent { seed, large, after });
            }
            match self.random.percent(10) {
                true => self.in_parts(&sender, &message).await?,
                false => sender.send(message).await?,
            }
            if self.random.percent(5) {
                sender.ping(&seed.to_be_bytes()).await?;
                traffic.ledger.pinged();
            }
            if self.random.percent(80) {
                sleep(Duration::from_millis(self.random.below(2000))).await;
            }
        }
        if self.plan != Plan::Early {
            traffic.at_most(0).await;
        }
        sender.close(CloseCode::NORMAL, "").await
    }

    /// Sends a message in fragments.
    async fn in_parts(&mut self, sender: &Sender, message: &Message) -> Result<()> {
        let mut writer = sender.send_stream(message.kind()).await?;
        let mut rest = message.as_bytes();
        while !rest.is_empty() {
            let len = 1 + self.random.below(rest.len() as u64) as usize;
            writer.write_all(&rest[..len]).await?;
            writer.flush().await?;
            rest = &rest[len..];
        }
        writer.finish().await
    }
}

/// Compares every echo with what was sent.
async fn read(mut receiver: Receiver, traffic: &Traffic) -> Result<Ended> {
    while let Some(event) = receiver.recv_event().await? {
        match event {
            Event::Message(echo) => {
                let mut state = traffic.lock();
                let sent = state.on_their_way.pop_front();
                match sent {
                    Some(sent) if message(sent.seed, sent.large) == echo => {
                        state.echoed = sent.after
                    }
                    _ => traffic.ledger.failed(format!(
                        "another message of {} bytes came back than was sent",
                        echo.len()
                    )),
                }
                drop(state);
                traffic.room.notify_one();
            }
            Event::Pong(_) => traffic.ledger.ponged(),
            _ => {}
        }
    }
    // No more events: it was closed, one way or the other.
    receiver
        .ended()
        .ok_or(Error::from(std::io::Error::other("it has not ended")))
}

/// The message with a seed: text or binary, mostly short, up to a MiB.
fn message(seed: u64, large: bool) -> Message {
    const WORDS: [&str; 8] = [
        "salmon",
        "нерка",
        "鮭",
        "🐟",
        "river",
        "upstream",
        "икра",
        "sea",
    ];
    let mut random = Random::new(seed);
    let len = match random.below(1000) {
        _ if large => LARGEST,
        0..500 => random.below(126),
        500..850 => random.below(4 << 10),
        850..992 => random.below(64 << 10),
        _ => random.below(LARGEST + 1),
    } as usize;
    if random.percent(50) {
        let mut text = String::with_capacity(len + 16);
        while text.len() < len {
            text.push_str(WORDS[random.below(8) as usize]);
            text.push(' ');
        }
        return Message::from(text);
    }
    let mut bytes = Vec::with_capacity(len + 8);
    // Half of them can be compressed.
    let mask = if random.percent(50) {
        u64::MAX
    } else {
        0x0303_0303_0303_0303
    };
    while bytes.len() < len {
        bytes.extend((random.next() & mask).to_be_bytes());
    }
    bytes.truncate(len);
    Message::from(bytes)
}
