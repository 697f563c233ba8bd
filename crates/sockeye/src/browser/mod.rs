//! The browser's own WebSocket, after the WHATWG standard (<https://websockets.spec.whatwg.org/>).
#![doc = include_str!("../../docs/browser.md")]

mod blob;
mod connection;
mod event;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use sockeye_proto::{CloseCode, CloseFrame, Message, Outgoing};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::Instant,
};
use url::Url;

pub use blob::Blob;
pub use event::{CloseEvent, Data, ErrorEvent, Event, Exception, MessageEvent};

use crate::Client;

/// For how long after `new` an event waits for a callback that is not set yet, and with it those
/// that follow. Far more than the lines after `new` take, and less than anyone notices who sets
/// none.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a queued message takes up besides its payload, so that empty ones are not for nothing.
const OVERHEAD: usize = size_of::<Command>();

/// A browser's WebSocket. Clones are handles to the same.
pub struct WebSocket {
    inner: Arc<Inner>,
}

struct Inner {
    url: String,
    origin: String,
    /// Handles there are, that of the connection's task among them.
    handles: AtomicUsize,
    state: Mutex<State>,
    commands: mpsc::UnboundedSender<Command>,
    /// A callback was set, a handle dropped, the connection is closing, or the end has come.
    changed: Notify,
    /// The buffer is full.
    full: Notify,
    /// Events wait for callbacks until then.
    patience: Instant,
    /// Bytes that may wait to be written.
    most_output: usize,
    /// Bytes of a message that may be held.
    most_message: usize,
}

struct State {
    ready_state: ReadyState,
    binary_type: BinaryType,
    protocol: String,
    extensions: String,
    buffered_amount: u64,
    /// What is queued now, in bytes, overhead included.
    queued: usize,
    /// The buffer was full: the connection has been dropped for it.
    full: bool,
    callbacks: Callbacks,
    kept: Kept,
    /// The task has told everything that can be told.
    finished: bool,
}

impl State {
    /// The callbacks that hear of nothing any more once the connection has ended. What they hold may be handles to this
    /// socket, which would keep them.
    fn take_spent(&mut self) -> Callbacks {
        let Self {
            callbacks, kept, ..
        } = self;
        Callbacks {
            open: callbacks.open.take_if(|_| !kept.open),
            message: callbacks.message.take(),
            error: callbacks.error.take_if(|_| kept.error.is_none()),
            close: callbacks.close.take_if(|_| kept.close.is_none()),
        }
    }
}

type Callback<E> = Option<Box<E>>;

#[derive(Default)]
struct Callbacks {
    open: Callback<dyn FnMut(Event<'_>) + Send>,
    message: Callback<dyn FnMut(MessageEvent<'_>) + Send>,
    error: Callback<dyn FnMut(ErrorEvent<'_>) + Send>,
    close: Callback<dyn FnMut(CloseEvent<'_>) + Send>,
}

/// Events that have found no callback.
#[derive(Default)]
struct Kept {
    open: bool,
    error: Option<String>,
    close: Option<Closed>,
}

/// What a close event says.
struct Closed {
    code: u16,
    reason: String,
    was_clean: bool,
}

enum Command {
    Message(Message),
    /// Begin the closing handshake, with what is to stand in the Close.
    Close(Option<CloseFrame>),
}

/// Where a connection is ("ready state").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum ReadyState {
    /// It is being opened.
    Connecting = 0,
    /// Messages can be sent.
    Open = 1,
    /// The closing handshake has begun, or `close` was called.
    Closing = 2,
    /// It has ended, or was never open.
    Closed = 3,
}

/// As what binary messages arrive ("binary type").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BinaryType {
    /// As a [`Blob`], which is read while it arrives and need not fit into memory.
    #[default]
    Blob,
    /// In memory: [`Data::ArrayBuffer`].
    ArrayBuffer,
}

impl WebSocket {
    /// Opens a connection ("The constructor").
    ///
    /// # Errors
    /// [`Exception::Syntax`] where the URL is none, has another scheme than `ws`, `wss`, `http` and
    /// `https`, or has a fragment. [`Exception::InvalidState`] outside of a tokio runtime.
    pub fn new(url: &str) -> Result<Self, Exception> {
        Self::with_client(Client::new(url))
    }

    /// Opens a connection and offers subprotocols, the most wanted first. A server that chooses none of
    /// them fails the connection.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Exception::Syntax`] also for a subprotocol that is no token, or that
    /// is given twice.
    pub fn with_protocols<P: Into<String>>(
        url: &str,
        protocols: impl IntoIterator<Item = P>,
    ) -> Result<Self, Exception> {
        let offer = |client: Client, name: P| client.subprotocol(name);
        Self::with_client(protocols.into_iter().fold(Client::new(url), offer))
    }

    /// Opens a connection as this client says, where a browser's own ways are not enough: headers,
    /// TLS, limits.
    ///
    /// # Errors
    /// As [`with_protocols`](Self::with_protocols).
    pub fn with_client(client: Client) -> Result<Self, Exception> {
        // Step 2.
        let url = url_record(client.url())?;
        // Step 4.
        let offer = client.offer();
        offer.map_err(|error| Exception::Syntax(error.to_string()))?;
        let runtime = Handle::try_current()
            .map_err(|_| Exception::InvalidState("there is no tokio runtime here".into()))?;
        let (commands, mail) = mpsc::unbounded_channel();
        // Step 5.
        let inner = Arc::new(Inner {
            origin: url.origin().ascii_serialization(),
            url: url.into(),
            handles: AtomicUsize::new(1),
            state: Mutex::new(State {
                ready_state: ReadyState::Connecting,
                binary_type: BinaryType::default(),
                protocol: String::new(),
                extensions: String::new(),
                buffered_amount: 0,
                queued: 0,
                full: false,
                callbacks: Callbacks::default(),
                kept: Kept::default(),
                finished: false,
            }),
            commands,
            changed: Notify::new(),
            full: Notify::new(),
            patience: Instant::now() + PATIENCE,
            most_output: client.most_output(),
            most_message: client.most_message(),
        });
        let socket = Self { inner };
        // Step 7.
        let task = connection::Task(socket.clone());
        runtime.spawn(connection::run(task, client, mail));
        Ok(socket)
    }

    /// Sends a message; strings as text, bytes as binary ("The send(data) method").
    ///
    /// It never waits: what cannot be written yet is buffered. Once the connection is closing, the
    /// message is discarded and still counted in [`buffered_amount`](Self::buffered_amount).
    ///
    /// # Errors
    /// [`Exception::InvalidState`] while the connection is being opened.
    pub fn send<'a>(&self, data: impl Into<Outgoing<'a>>) -> Result<(), Exception> {
        let message = data.into().into_owned();
        let len = message.len();
        let mut state = self.lock();
        if state.ready_state == ReadyState::Connecting {
            let words = "the connection is not open yet: send from on_open";
            return Err(Exception::InvalidState(words.into()));
        }
        state.buffered_amount += len as u64;
        if state.ready_state != ReadyState::Open {
            return Ok(());
        }
        let size = len + OVERHEAD;
        // Nothing follows a message that was dropped.
        if state.full || state.queued + size > self.inner.most_output {
            // "flag the WebSocket as full and then close the WebSocket connection"
            state.full = true;
            self.inner.full.notify_one();
            return Ok(());
        }
        state.queued += size;
        // Under the lock, so that messages of several threads keep the order of their turns. It
        // fails where the task is gone, and then nothing can be sent.
        let _ = self.inner.commands.send(Command::Message(message));
        Ok(())
    }

    /// Closes the connection, with a code and a reason for the peer ("The close(code, reason)
    /// method"); `None` and `""` for a Close that says nothing, which a peer sees as 1005. A reason
    /// cannot travel without a code: it is given 1000.
    ///
    /// What was sent before is written first. It does not wait for the peer: `on_close` tells.
    ///
    /// # Errors
    /// [`Exception::InvalidAccess`] for a code other than 1000 and 3000 to 4999;
    /// [`Exception::Syntax`] for a reason of more than 123 bytes.
    pub fn close(&self, code: impl Into<Option<u16>>, reason: &str) -> Result<(), Exception> {
        let code = code.into();
        // Step 1.
        let allowed = |code: &u16| matches!(code, 1000 | 3000..=4999);
        if let Some(code) = code.filter(|code| !allowed(code)) {
            let words = format!("the code is 1000 or from 3000 to 4999, not {code}");
            return Err(Exception::InvalidAccess(words));
        }
        // Step 2.
        if reason.len() > CloseFrame::MAX_REASON {
            let words = format!(
                "the reason has at most {} bytes, not {}",
                CloseFrame::MAX_REASON,
                reason.len()
            );
            return Err(Exception::Syntax(words));
        }
        let code = code.or((!reason.is_empty()).then_some(1000));
        // Step 3.
        let frame = code.and_then(|code| CloseCode::new(code).ok());
        self.start_closing(frame.map(|code| CloseFrame::new(code, reason)));
        Ok(())
    }

    /// "Otherwise, if this's ready state ...": nothing where it is closing or closed; else the
    /// connection is failed where it is not open yet, and the closing handshake begun where it is.
    fn start_closing(&self, frame: Option<CloseFrame>) {
        let mut state = self.lock();
        if state.ready_state >= ReadyState::Closing {
            return;
        }
        state.ready_state = ReadyState::Closing;
        // Whoever has closed it is not told any more that it is open.
        state.kept.open = false;
        // Behind the messages that were sent before, unless one was dropped: then there is no clean end.
        if !state.full {
            let _ = self.inner.commands.send(Command::Close(frame));
        }
        drop(state);
        self.inner.changed.notify_waiters();
    }

    /// Waits until the connection has ended and its last event was told, or waits for a callback.
    /// This is Rust's: a browser's script needs not wait for anything.
    ///
    /// # Cancel safety
    /// Safe: it only looks.
    pub async fn closed(&self) {
        self.when(|socket| socket.lock().finished).await;
    }

    /// Sets the callback for the opening of the connection (`onopen`).
    pub fn on_open(&self, callback: impl FnMut(Event<'_>) + Send + 'static) {
        self.set(|callbacks| callbacks.open.replace(Box::new(callback)));
    }

    /// Sets the callback for messages (`onmessage`).
    pub fn on_message(&self, callback: impl FnMut(MessageEvent<'_>) + Send + 'static) {
        self.set(|callbacks| callbacks.message.replace(Box::new(callback)));
    }

    /// Sets the callback for a connection that failed (`onerror`). `close` follows.
    pub fn on_error(&self, callback: impl FnMut(ErrorEvent<'_>) + Send + 'static) {
        self.set(|callbacks| callbacks.error.replace(Box::new(callback)));
    }

    /// Sets the callback for the end of the connection (`onclose`). It is the last event.
    pub fn on_close(&self, callback: impl FnMut(CloseEvent<'_>) + Send + 'static) {
        self.set(|callbacks| callbacks.close.replace(Box::new(callback)));
    }

    /// Sets a callback, and drops the one that this gives without the lock: what that holds may use this socket as
    /// it goes.
    fn set<E>(&self, set: impl FnOnce(&mut Callbacks) -> E) {
        let mut state = self.lock();
        let replaced = set(&mut state.callbacks);
        let spent = state.finished.then(|| state.take_spent());
        drop(state);
        drop((replaced, spent));
        self.inner.changed.notify_waiters();
    }

    /// The URL of the connection, as it was understood.
    pub fn url(&self) -> &str {
        &self.inner.url
    }

    /// Where the connection is.
    pub fn ready_state(&self) -> ReadyState {
        self.lock().ready_state
    }

    /// How many bytes of messages were sent and not yet handed to the system, without what framing
    /// adds. It does not go back to zero when the connection ends.
    pub fn buffered_amount(&self) -> u64 {
        self.lock().buffered_amount
    }

    /// The extensions that were agreed; empty before the connection is open, and where none were.
    pub fn extensions(&self) -> String {
        self.lock().extensions.clone()
    }

    /// The subprotocol that was agreed; empty before the connection is open, and where none was.
    pub fn protocol(&self) -> String {
        self.lock().protocol.clone()
    }

    /// As what binary messages arrive. Default [`BinaryType::Blob`].
    pub fn binary_type(&self) -> BinaryType {
        self.lock().binary_type
    }

    /// Sets as what binary messages arrive from now on.
    pub fn set_binary_type(&self, binary_type: BinaryType) {
        self.lock().binary_type = binary_type;
    }

    /// The state, even where a thread has panicked with it: no change to it is left half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }
}

/// "get a WebSocket URL record", given no base.
fn url_record(text: &str) -> Result<Url, Exception> {
    // Without the URL itself, which may have a password in it.
    let error = |problem: &str| Exception::Syntax(format!("the URL of a WebSocket: {problem}"));
    let mut url = Url::parse(text).map_err(|problem| error(&problem.to_string()))?;
    let scheme = match url.scheme() {
        "http" | "ws" => "ws",
        "https" | "wss" => "wss",
        other => return Err(error(&format!("its scheme is ws or wss, not {other}"))),
    };
    if url.set_scheme(scheme).is_err() {
        return Err(error("its scheme cannot be ws or wss"));
    }
    if url.fragment().is_some() {
        return Err(error("it has no fragment: write '#' as %23"));
    }
    Ok(url)
}

impl Clone for WebSocket {
    fn clone(&self) -> Self {
        self.inner.handles.fetch_add(1, Ordering::Relaxed);
        let inner = self.inner.clone();
        Self { inner }
    }
}

impl Drop for WebSocket {
    fn drop(&mut self) {
        self.inner.handles.fetch_sub(1, Ordering::AcqRel);
        self.inner.changed.notify_waiters();
    }
}

impl fmt::Debug for WebSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebSocket")
            .field("origin", &self.inner.origin)
            .field("ready_state", &self.ready_state())
            .finish_non_exhaustive()
    }
}
