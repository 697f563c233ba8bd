//! The clients of the rolling restart: each sends one message after another, and comes back when it is
//! closed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use sockeye::{Client, Message, WebSocket};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{DEADLINE, Result};

/// How many connect at the same time, in the beginning.
const AT_ONCE: usize = 200;

/// How often a client that is refused tries again.
const TRIES: u32 = 10;

pub(crate) struct Clients {
    runtime: Runtime,
    tasks: JoinSet<Result<u16>>,
    in_use: mpsc::Receiver<()>,
    moved: mpsc::Receiver<Moved>,
    count: usize,
}

/// A client that has been closed by the old server, and served by the new one.
pub(crate) struct Moved {
    /// The code and the reason of the Close, as one text.
    pub(crate) close: String,
    pub(crate) closed_at: Instant,
    pub(crate) echoes_of_old: u64,
    pub(crate) echoes_of_new: u64,
    pub(crate) sent_again: u64,
}

impl Clients {
    pub(crate) fn start(server: SocketAddr, count: usize, window: Duration) -> Result<Self> {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        let (tell_use, in_use) = mpsc::channel(count);
        let (tell_moved, moved) = mpsc::channel(count);
        let mut tasks = JoinSet::new();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        for number in 0..count {
            let client = One {
                url: format!("ws://{server}/"),
                number,
                // Each at its own time, and all of them a few times before they are closed.
                pause: window / 5 + window / 5 * (number as u32 % 100) / 100,
                turns: turns.clone(),
                in_use: tell_use.clone(),
                moved: tell_moved.clone(),
            };
            tasks.spawn_on(client.run(), runtime.handle());
        }
        Ok(Self {
            runtime,
            tasks,
            in_use,
            moved,
            count,
        })
    }

    /// Waits until every client has had an answer.
    pub(crate) fn wait_until_in_use(&mut self) -> Result<()> {
        for _ in 0..self.count {
            if wait(&self.runtime, DEADLINE, self.in_use.recv())?.is_none() {
                return Err(self.failure());
            }
        }
        Ok(())
    }

    /// Waits until every client has moved.
    pub(crate) fn moved(&mut self, wait_for: Duration) -> Result<Vec<Moved>> {
        let mut all = Vec::with_capacity(self.count);
        while all.len() < self.count {
            match wait(&self.runtime, wait_for, self.moved.recv())? {
                Some(moved) => all.push(moved),
                None => return Err(self.failure()),
            }
        }
        Ok(all)
    }

    /// Waits until every client has been closed at last, and gives with which code, and how many.
    pub(crate) fn end(mut self) -> Result<BTreeMap<u16, usize>> {
        let mut codes = BTreeMap::new();
        while let Some(code) = wait(&self.runtime, DEADLINE, self.tasks.join_next())? {
            *codes.entry(code??).or_insert(0) += 1;
        }
        Ok(codes)
    }

    /// Why a client has given up.
    fn failure(&mut self) -> Box<dyn std::error::Error + Send + Sync> {
        while let Ok(Some(result)) = wait(&self.runtime, DEADLINE, self.tasks.join_next()) {
            match result {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return error,
                Err(error) => return error.into(),
            }
        }
        "the clients have ended too early".into()
    }
}

fn wait<T>(runtime: &Runtime, limit: Duration, future: impl Future<Output = T>) -> Result<T> {
    runtime
        .block_on(async { timeout(limit, future).await })
        .map_err(|_| "the clients took too long".into())
}

struct One {
    url: String,
    number: usize,
    pause: Duration,
    turns: Arc<Semaphore>,
    in_use: mpsc::Sender<()>,
    moved: mpsc::Sender<Moved>,
}

/// A connection, and what has gone over it.
struct Talk {
    socket: WebSocket,
    echoes: u64,
    /// Whether the last message has no echo.
    open: bool,
}

impl One {
    async fn run(self) -> Result<u16> {
        let mut next = 0;
        let turn = self.turns.acquire().await?;
        let mut old = Talk::begin(&self.url).await?;
        old.exchange("old", self.number, &mut next).await?;
        drop(turn);
        self.in_use.send(()).await?;
        while !old.is_closed() {
            match timeout(self.pause, old.closed()).await {
                Ok(closed) => closed?,
                Err(_) => old.exchange("old", self.number, &mut next).await?,
            }
        }
        let closed_at = Instant::now();
        let ended = old.socket.ended().ok_or("it has not ended")?;
        let close = format!("{} {}", ended.code(), ended.reason());

        let mut new = Talk::begin(&self.url).await?;
        new.exchange("new", self.number, &mut next).await?;
        let moved = Moved {
            close,
            closed_at,
            echoes_of_old: old.echoes,
            echoes_of_new: new.echoes,
            sent_again: old.open.into(),
        };
        drop(old);
        self.moved.send(moved).await?;
        drop((self.in_use, self.moved));
        new.closed().await?;
        Ok(new.socket.ended().map_or(0, |ended| ended.code()))
    }
}

impl Talk {
    async fn begin(url: &str) -> Result<Self> {
        let mut tries = 0;
        let socket = loop {
            let client = Client::new(url)
                .connect_timeout(DEADLINE)
                .handshake_timeout(DEADLINE);
            match client.connect().await {
                Ok(socket) => break socket,
                // As the documentation says: one that comes as a socket ends may have to try again.
                Err(_) if tries < TRIES => tries += 1,
                Err(error) => return Err(error.into()),
            }
            sleep(Duration::from_millis(100)).await;
        };
        Ok(Self {
            socket,
            echoes: 0,
            open: false,
        })
    }

    fn is_closed(&self) -> bool {
        self.socket.ended().is_some()
    }

    /// Sends the next message and waits for its echo, which has to be the server's of this name. Where the
    /// connection closes meanwhile the message is the next one's.
    async fn exchange(&mut self, name: &str, number: usize, next: &mut u64) -> Result<()> {
        let message = format!("{number} {next}");
        self.open = true;
        if let Err(error) = self.socket.send(&message).await
            && !error.is_closed()
        {
            return Err(error.into());
        }
        let Some(echo) = self.socket.recv().await? else {
            return Ok(());
        };
        if echo.as_text() != Some(&format!("{name} {message}")) {
            return Err(format!("not the echo of {message:?} from {name}: {echo:?}").into());
        }
        self.open = false;
        self.echoes += 1;
        *next += 1;
        Ok(())
    }

    /// Waits for the Close, before which nothing else may come.
    async fn closed(&mut self) -> Result<()> {
        match self.socket.recv().await? {
            None => Ok(()),
            Some(message) => Err(unexpected(&message)),
        }
    }
}

fn unexpected(message: &Message) -> Box<dyn std::error::Error + Send + Sync> {
    format!("a message that nothing was asked for: {message:?}").into()
}
