//! A client that opens its connection again when it is lost.

use std::{
    collections::VecDeque,
    fmt,
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use sockeye_proto::{CloseCode, CloseFrame, Message, OwnedEvent as Event, SendError};
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::{
    Client,
    retry::{Cause, Schedule},
};
use crate::{Deadline, Ended, Error, Outgoing, Result, WebSocket, unshared::Unshared};

/// How many changes of state are kept for whoever does not ask for them, those of four connections; and how many broken
/// connections that have received something.
const NEWS: usize = 16;

/// How many bytes of what a broken connection has received are looked through for the server's Close.
const REMAINS: usize = 1 << 20;

#[doc = include_str!("../../docs/reconnecting.md")]
#[must_use = "nothing happens before it is polled"]
pub struct Reconnecting {
    open: Unshared<Box<dyn FnMut() -> Opening + Send>>,
    greet: Option<Arc<dyn Fn(WebSocket) -> Opening + Send + Sync>>,
    retry_if: Unshared<Decide>,
    schedule: Schedule,
    attempt_timeout: Duration,
    state: State,
    /// Attempts since a connection last proved to be one.
    attempts: u32,
    /// What has not been told yet, in the order in which it happened.
    news: VecDeque<News>,
    /// Whether this end has closed: no connection follows.
    closing: bool,
    ended: Option<Ended>,
}

type Decide = Box<dyn Fn(&Cause) -> bool + Send>;
type Opening = Pin<Box<dyn Future<Output = Result<WebSocket>> + Send>>;
type Attempt = Pin<Box<dyn Future<Output = Result<WebSocket, Cause>> + Send>>;

enum State {
    /// An attempt is due.
    Due,
    Connecting(Unshared<Attempt>),
    Open {
        connection: Connection,
        since: Instant,
    },
    Waiting(Pin<Box<Sleep>>),
    /// For good, and why, until that is told.
    Over(Option<Error>),
}

enum News {
    Update(Update),
    /// A connection that broke while something was sent, with what it has received before.
    Remains(Connection),
}

struct Connection {
    socket: Box<WebSocket>,
    /// What was received to learn how it ended, and has not been told.
    received: VecDeque<Update>,
}

/// What happened, as [`Reconnecting::recv_update`] tells it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Update {
    /// An attempt to open a connection begins.
    Connecting {
        /// Which one, from 1, since a connection last lasted.
        attempt: u32,
    },
    /// A connection is open, for the first time or again.
    Open,
    /// A message has arrived.
    Message(Message),
    /// A ping has arrived, and has been answered.
    Ping(Bytes),
    /// A pong has arrived, other than those that keep the connection.
    Pong(Bytes),
    /// There is no connection, and another attempt will be made.
    Waiting {
        /// Why there is none.
        cause: Cause,
        /// How long it is until the attempt.
        delay: Duration,
        /// Which attempt that will be.
        attempt: u32,
    },
}

impl Update {
    /// Roughly how much memory it takes.
    fn size(&self) -> usize {
        let payload = match self {
            Self::Message(message) => message.len(),
            Self::Ping(payload) | Self::Pong(payload) => payload.len(),
            _ => 0,
        };
        size_of::<Self>() + payload
    }
}

impl Reconnecting {
    /// Opens connections with this client. The name of the host is resolved anew each time.
    pub fn new(client: Client) -> Self {
        let client = Arc::new(client);
        Self::with(move || {
            let client = client.clone();
            async move { client.connect().await }
        })
    }

    /// Opens connections in a way of the user's own: where the address changes, a token has to be
    /// fetched first, or the stream is not TCP.
    ///
    /// ```no_run
    /// # use sockeye::{Client, client::Reconnecting};
    /// # async fn token() -> sockeye::Result<String> { Ok(String::new()) }
    /// let mut urls = ["wss://a.example.com", "wss://b.example.com"].into_iter().cycle();
    /// let socket = Reconnecting::with(move || {
    ///     let client = Client::new(urls.next().unwrap_or_default());
    ///     async move { client.header("Authorization", token().await?).connect().await }
    /// });
    /// ```
    pub fn with<F, Fut>(mut open: F) -> Self
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = Result<WebSocket>> + Send + 'static,
    {
        Self {
            open: Unshared::new(Box::new(move || Box::pin(open()))),
            greet: None,
            retry_if: Unshared::new(Box::new(Cause::is_transient)),
            schedule: Schedule::default(),
            attempt_timeout: Duration::from_secs(60),
            state: State::Due,
            attempts: 0,
            news: VecDeque::new(),
            closing: false,
            ended: None,
        }
    }

    /// Does this first on every connection, such as sending subscriptions and waiting for their
    /// answers. Nothing else goes out before it is done and has given the socket back.
    ///
    /// An error of it is a failed attempt. An [`Error::other`] is not tried again.
    pub fn on_open<F, Fut>(mut self, greet: F) -> Self
    where
        F: Fn(WebSocket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<WebSocket>> + Send + 'static,
    {
        self.greet = Some(Arc::new(move |socket| Box::pin(greet(socket))));
        self
    }

    /// Decides which failures are followed by another attempt, in place of
    /// [`Cause::is_transient`]. It is not asked after [`close`](Self::close).
    pub fn retry_if(mut self, decide: impl Fn(&Cause) -> bool + Send + 'static) -> Self {
        self.retry_if = Unshared::new(Box::new(decide));
        self
    }

    /// Sets the longest first delay. Default 500 ms.
    ///
    /// The longest delay doubles with every attempt in a row; how much of it is waited is random,
    /// from nothing to all of it (full jitter).
    pub fn base_delay(mut self, delay: Duration) -> Self {
        self.schedule.base_delay = delay;
        self
    }

    /// Sets how long the longest delay may become. Default 30 s.
    pub fn max_delay(mut self, delay: Duration) -> Self {
        self.schedule.max_delay = delay;
        self
    }

    /// Sets how many attempts in a row may fail, the first included, before the last failure is
    /// final. 0 is as 1. Default: no limit.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.schedule.max_attempts = Some(attempts.max(1));
        self
    }

    /// Sets how long a connection has to be open to have been a success: then attempts and delays
    /// are counted from the beginning. Default 10 s. So a server that accepts connections and
    /// drops them is not asked every moment.
    pub fn settled_after(mut self, time: Duration) -> Self {
        self.schedule.settled_after = time;
        self
    }

    /// Sets how much of a server's `Retry-After`, or a proxy's, is obeyed at most. Default 5 min. The usual delay
    /// is added to it.
    pub fn max_retry_after(mut self, time: Duration) -> Self {
        self.schedule.max_retry_after = time;
        self
    }

    /// Sets how long one attempt may take with all that [`on_open`](Self::on_open) does. Default
    /// 60 s. The client's own deadlines, 30 s together by default, hold within.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// The next message, over all connections; `None` once a connection was closed cleanly and none
    /// follows. [`ended`](Self::ended) then says how.
    ///
    /// # Errors
    /// The failure after which no further attempt is made. It is told once; then comes `None`.
    ///
    /// # Cancel safety
    /// Safe: attempts, waits and what has arrived are kept, and go on with the next call.
    pub async fn recv(&mut self) -> Result<Option<Message>> {
        loop {
            match self.recv_update().await? {
                Some(Update::Message(message)) => return Ok(Some(message)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// As [`recv`](Self::recv), with every change of state told too.
    ///
    /// What changes while [`send`](Self::send) waits is told by the next calls; of more than 16
    /// changes the last. What had arrived on connections that broke meanwhile is too, of the last 16 of them.
    ///
    /// # Errors
    /// As [`recv`](Self::recv).
    ///
    /// # Cancel safety
    /// Safe, as [`recv`](Self::recv).
    pub async fn recv_update(&mut self) -> Result<Option<Update>> {
        poll_fn(|cx| self.poll_update(cx)).await
    }

    /// Sends a message: waits until a connection is open, and then as
    /// [`WebSocket::send`]. A message whose connection breaks while it is written is sent again on
    /// the next.
    ///
    /// `Ok` means that the system has the whole message, not that the server has it.
    ///
    /// # Errors
    /// The failure after which no further attempt is made; [`Error::is_closed`] after that, and
    /// where the last connection was closed.
    ///
    /// # Cancel safety
    /// Dropped while it waits for a connection or for room, the message has not been sent. Dropped
    /// later, it is queued whole on the connection, and lost with that.
    pub async fn send<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<()> {
        let message = message.into();
        loop {
            poll_fn(|cx| self.poll_open(cx)).await?;
            let State::Open { connection, .. } = &mut self.state else {
                return Err(SendError::Closed.into());
            };
            let error = match connection.socket.send(message.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            if error.is_lost() {
                // The server may have said why, before it stopped reading.
                poll_fn(|cx| connection.poll_remains(cx)).await;
            }
            let ended = match (&error, connection.socket.ended()) {
                (Error::Lost(_) | Error::Send(SendError::Closed), Some(ended)) => ended,
                (Error::Lost(lost), None) => Ended::Lost(lost.clone()),
                // The message's own fault, or a Close of ours is on its way.
                _ => return Err(error),
            };
            if self.closing {
                return Err(error);
            }
            self.over(Cause::Connection(ended));
        }
    }

    /// Closes the connection for good, as [`WebSocket::close`], or gives up the attempt to open one.
    ///
    /// # Errors
    /// As [`WebSocket::close`]. Where the code or the reason cannot be sent, nothing has happened.
    ///
    /// # Cancel safety
    /// The Close is queued at the first poll; dropped after that, [`recv`](Self::recv) completes it.
    pub async fn close(&mut self, code: CloseCode, reason: &str) -> Result<()> {
        // By the rules of a client, where there is no connection yet to ask.
        CloseFrame::new(code, reason).check(true)?;
        let socket = match &mut self.state {
            State::Open { connection, .. } => &mut connection.socket,
            State::Over(_) => return Err(SendError::Closed.into()),
            State::Due | State::Connecting(_) | State::Waiting(_) => {
                self.finish(None);
                return Ok(());
            }
        };
        let were_closing = mem::replace(&mut self.closing, true);
        let result = socket.close(code, reason).await;
        if let Err(Error::Send(error)) = &result
            && *error != SendError::Closed
        {
            self.closing = were_closing;
            return result;
        }
        // The end of one that was closing already.
        while socket.recv().await.is_ok_and(|message| message.is_some()) {}
        self.ended = socket.ended();
        self.finish(None);
        result
    }

    /// The connection that is open now.
    pub fn socket(&self) -> Option<&WebSocket> {
        match &self.state {
            State::Open { connection, .. } => Some(&connection.socket),
            _ => None,
        }
    }

    /// How the last connection that ended did so.
    pub fn ended(&self) -> Option<Ended> {
        self.ended.clone()
    }

    fn poll_update(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Update>>> {
        loop {
            match self.news.front_mut() {
                Some(News::Remains(broken)) => match broken.poll_arrived(cx) {
                    Poll::Ready(Ok(Some(update))) => return Poll::Ready(Ok(Some(update))),
                    // Its turn is over. Where nothing is there it ends, as it can no longer be written.
                    Poll::Pending if broken.socket.is_receiving() => return Poll::Pending,
                    // What is not there will not come.
                    _ => {
                        self.news.pop_front();
                        continue;
                    }
                },
                Some(News::Update(update)) => {
                    let update = update.clone();
                    self.news.pop_front();
                    return Poll::Ready(Ok(Some(update)));
                }
                None => {}
            }
            match &mut self.state {
                State::Open { connection, .. } => match ready!(connection.poll_arrived(cx)) {
                    Ok(Some(update)) => return Poll::Ready(Ok(Some(update))),
                    Ok(None) | Err(_) => {
                        let ended = connection.socket.ended().unwrap_or_else(Ended::gone);
                        self.over(Cause::Connection(ended));
                    }
                },
                State::Over(error) => return Poll::Ready(error.take().map_or(Ok(None), Err)),
                _ => ready!(self.poll_step(cx)),
            }
        }
    }

    /// Waits until a connection is open, or none will be.
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        loop {
            match &mut self.state {
                State::Open { .. } => return Poll::Ready(Ok(())),
                State::Over(error) => return Poll::Ready(error.take().map_or(Ok(()), Err)),
                _ => ready!(self.poll_step(cx)),
            }
        }
    }

    /// Takes one step towards an open connection.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            State::Due => {
                self.attempts = self.attempts.saturating_add(1);
                self.state = State::Connecting(Unshared::new(self.attempt()));
                self.tell(News::Update(Update::Connecting {
                    attempt: self.attempts,
                }));
            }
            State::Connecting(attempt) => match ready!(attempt.get_mut().as_mut().poll(cx)) {
                Ok(socket) => {
                    self.state = State::Open {
                        connection: Connection {
                            socket: Box::new(socket),
                            received: VecDeque::new(),
                        },
                        since: Instant::now(),
                    };
                    self.tell(News::Update(Update::Open));
                }
                Err(cause) => self.over(cause),
            },
            State::Waiting(delay) => {
                ready!(delay.as_mut().poll(cx));
                self.state = State::Due;
            }
            State::Open { .. } | State::Over(_) => {}
        }
        Poll::Ready(())
    }

    /// An attempt with all that belongs to it, as one future with one deadline.
    fn attempt(&mut self) -> Attempt {
        let opening = (self.open.get_mut())();
        let greet = self.greet.clone();
        let limit = self.attempt_timeout;
        Box::pin(async move {
            let attempt = async {
                let socket = opening.await.map_err(Cause::Attempt)?;
                let Some(greet) = greet else {
                    return Ok(socket);
                };
                let opened = socket.sender();
                greet(socket).await.map_err(|error| match opened.ended() {
                    // What the server has closed with says more than that nothing can be sent any more.
                    Some(ended @ Ended::ByPeer(_)) if error.is_closed() => Cause::Connection(ended),
                    _ => Cause::Attempt(error),
                })
            };
            timeout(limit, attempt)
                .await
                .unwrap_or(Err(Cause::Attempt(Error::Timeout(Deadline::Attempt))))
        })
    }

    /// Decides what follows a failure.
    fn over(&mut self, cause: Cause) {
        if let Cause::Connection(ended) = &cause {
            self.ended = Some(ended.clone());
        }
        let was = mem::replace(&mut self.state, State::Due);
        if let State::Open { connection, since } = was {
            if since.elapsed() >= self.schedule.settled_after {
                self.attempts = 0;
            }
            self.tell(News::Remains(connection));
        }
        let may = self
            .schedule
            .max_attempts
            .is_none_or(|max| self.attempts < max);
        if self.closing || !may || !(self.retry_if.get_mut())(&cause) {
            self.finish(cause.into_error());
            return;
        }
        let delay = self.schedule.delay(self.attempts, &cause);
        self.state = State::Waiting(Box::pin(sleep(delay)));
        self.tell(News::Update(Update::Waiting {
            cause,
            delay,
            attempt: self.attempts.saturating_add(1),
        }));
    }

    fn finish(&mut self, error: Option<Error>) {
        self.state = State::Over(error);
    }

    /// Keeps news until they are asked for: of each kind as many as there is room for, so that changes of state take the
    /// place of nothing that was received.
    fn tell(&mut self, news: News) {
        let kind = mem::discriminant(&news);
        let alike = |news: &News| mem::discriminant(news) == kind;
        if self.news.iter().filter(|news| alike(news)).count() == NEWS {
            let oldest = self.news.iter().position(alike);
            oldest.and_then(|at| self.news.remove(at));
        }
        self.news.push_back(news);
    }
}

impl Connection {
    /// What arrives next, and is told. How it ended is asked later.
    fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Update>>> {
        match self.received.pop_front() {
            Some(update) => Poll::Ready(Ok(Some(update))),
            None => self.poll_socket(cx),
        }
    }

    fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Update>>> {
        loop {
            let update = match ready!(self.socket.poll_event(cx))? {
                Some(Event::Message(message)) => Update::Message(message),
                Some(Event::Ping(payload)) => Update::Ping(payload),
                Some(Event::Pong(payload)) => Update::Pong(payload),
                // What follows says so.
                Some(Event::Close(_)) => continue,
                None => return Poll::Ready(Ok(None)),
            };
            return Poll::Ready(Ok(Some(update)));
        }
    }

    /// Receives what has arrived on a connection that can no longer be written, as far as it is kept: then it has
    /// ended as the server has said, if it has.
    fn poll_remains(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes: usize = self.received.iter().map(Update::size).sum();
        while bytes < REMAINS {
            match self.poll_socket(cx) {
                Poll::Ready(Ok(Some(update))) => {
                    bytes += update.size();
                    self.received.push_back(update);
                }
                // Its turn is over.
                Poll::Pending if self.socket.is_receiving() => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl fmt::Debug for Reconnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Due => "due",
            State::Connecting(_) => "connecting",
            State::Open { .. } => "open",
            State::Waiting(_) => "waiting",
            State::Over(_) => "over",
        };
        f.debug_struct("Reconnecting")
            .field("state", &state)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}
