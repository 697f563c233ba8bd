//! The task behind a browser's WebSocket: opens the connection, carries messages both ways, and
//! fires the events ("Feedback from the protocol").

use std::{
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use sockeye_proto::{CloseFrame, Message, MessageKind, OwnedEvent, Part, ProtocolError};
use tokio::{sync::mpsc, time::timeout_at};

use super::{
    BinaryType, Callbacks, CloseEvent, Closed, Command, Data, ErrorEvent, Event, Kept,
    MessageEvent, OVERHEAD, ReadyState, WebSocket,
    blob::{Pour, blob},
};
use crate::{
    Client, Ended, Error, Receiver, Sender, link,
    reader::{Broken, Reader},
};

/// How many messages are written at once, and from how many bytes on no more: what is written counts until all of that is.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;

/// How many bytes of a message are received at once, where there are so many.
const ROOM: usize = 64 * 1024;

/// Runs a connection from the constructor to its last event.
pub(super) async fn run(task: Task, client: Client, mut mail: mpsc::UnboundedReceiver<Command>) {
    let mut opened = None;
    first_of([
        // Nothing else than a Close is sent before it is open.
        pin!(async { drop(mail.recv().await) }),
        pin!(task.0.forgotten()),
        pin!(async {
            let answer = client.connect().await;
            if answer.is_ok() {
                // It is open once that can be told: whoever closes before has closed what was not open.
                task.0.wait_for(|callbacks| callbacks.open.is_some()).await;
            }
            opened = Some(answer);
        }),
    ])
    .await;
    let (closed, failed) = match opened {
        // Fetch, "establish a WebSocket connection": where some were offered, one has to be chosen.
        Some(Ok(connection))
            if !client.subprotocols().is_empty() && connection.subprotocol().is_none() =>
        {
            let why = "the server chose none of the subprotocols that were offered";
            (Closed::abnormally(), Some(why.to_owned()))
        }
        Some(Ok(connection)) if task.0.established(&connection) => {
            talk(&task.0, connection, &mut mail).await
        }
        Some(Err(error)) => (Closed::abnormally(), Some(error.to_string())),
        _ => {
            let why = "the connection was closed before it was open";
            (Closed::abnormally(), Some(why.to_owned()))
        }
    };
    task.0.end(closed, failed).await;
}

/// However the task ends, a callback's panic and the runtime's end among it, nobody waits for it. Made before
/// the task, which may end without having been polled.
pub(super) struct Task(pub(super) WebSocket);

impl Drop for Task {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.ready_state = ReadyState::Closed;
        state.finished = true;
        // Nobody is left to tell it.
        state.kept = Kept::default();
        let spent = state.take_spent();
        drop(state);
        self.0.inner.changed.notify_waiters();
        // Last: what callbacks hold may panic as it goes.
        drop(spent);
    }
}

/// Polls futures side by side until the first is done.
async fn first_of<const N: usize>(mut futures: [Pin<&mut (dyn Future<Output = ()> + Send)>; N]) {
    poll_fn(|cx| {
        let mut done = |future: &mut Pin<&mut (dyn Future<Output = ()> + Send)>| {
            future.as_mut().poll(cx).is_ready()
        };
        if futures.iter_mut().any(&mut done) {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

impl Closed {
    /// Without a Close (RFC 6455 §7.1.5).
    fn abnormally() -> Self {
        Self {
            code: 1006,
            reason: String::new(),
            was_clean: false,
        }
    }
}

/// Carries messages until the connection has ended. Gives what the close event will say, and what
/// the error event before it, if there is one.
async fn talk(
    socket: &WebSocket,
    connection: crate::WebSocket,
    mail: &mut mpsc::UnboundedReceiver<Command>,
) -> (Closed, Option<String>) {
    let handle = connection.sender();
    let mut heard = None;
    let driven = connection.drive(async |connection| {
        let (sender, receiver) = connection.split();
        first_of([
            pin!(receive(socket, receiver, &mut heard)),
            pin!(send(socket, &sender, mail)),
            pin!(tell_late(socket)),
            pin!(close_forgotten(socket)),
        ])
        .await;
        Ok(())
    });
    first_of([
        // How it ended is asked below.
        pin!(async { drop(driven.await) }),
        pin!(note_closing(socket, &handle)),
        // The rest is dropped then, and the connection with it.
        pin!(socket.inner.full.notified()),
    ])
    .await;
    // "closed cleanly": the closing handshake was completed (RFC 6455 §7.1.4).
    let ended = handle.ended().unwrap_or_else(Ended::gone);
    let failed = match &ended {
        _ if socket.lock().full => Some("the peer does not read: the buffer is full".to_owned()),
        // Closed by this end, which then waited long enough: nothing has failed.
        Ended::ByPeer(_) | Ended::ByUs(_) | Ended::TimedOut => None,
        Ended::Lost(_) | Ended::Silent | Ended::Protocol(_) | Ended::Overflow { .. } => {
            Some(ended.to_string())
        }
    };
    let closed = match heard {
        Some(frame) if ended.was_clean() => Closed {
            code: frame.as_ref().map_or(1005, |frame| frame.code.as_u16()),
            reason: frame.map(|frame| frame.reason).unwrap_or_default(),
            was_clean: true,
        },
        _ => Closed::abnormally(),
    };
    (closed, failed)
}

/// Receives until the connection has ended; `heard` is the Close of the peer.
async fn receive(
    socket: &WebSocket,
    mut receiver: Receiver,
    heard: &mut Option<Option<CloseFrame>>,
) {
    // How it ended is asked later.
    while let Some((kind, whole)) = begin(socket, &mut receiver, heard).await {
        socket
            .wait_for(|callbacks| callbacks.message.is_some())
            .await;
        if kind == MessageKind::Binary && socket.lock().binary_type == BinaryType::Blob {
            let (pour, blob) = blob(socket.inner.most_message);
            socket.message(Data::Blob(blob));
            fill(socket, pour, whole, &mut receiver, heard).await;
            continue;
        }
        let message = match whole {
            None => gather(socket, kind, &mut receiver, heard).await,
            whole => whole,
        };
        match message {
            Some(Message::Text(text)) => socket.message(Data::Text(text)),
            Some(Message::Binary(bytes)) => socket.message(Data::ArrayBuffer(bytes)),
            None => {}
        }
    }
}

/// Waits for a message: of which kind it is, and all of it where it is there whole. `None` once the connection has ended.
async fn begin(
    socket: &WebSocket,
    receiver: &mut Receiver,
    heard: &mut Option<Option<CloseFrame>>,
) -> Option<(MessageKind, Option<Message>)> {
    loop {
        let part = poll_fn(|cx| receiver.poll_next_with(cx, Reader::poll_begin)).await;
        match part.ok().flatten()? {
            Part::Event(OwnedEvent::Message(message)) => {
                return Some((message.kind(), Some(message)));
            }
            Part::Begin(kind) => return Some((kind, None)),
            Part::Event(event) => socket.event(event, heard),
            Part::Data(_) | Part::End => {}
        }
    }
}

/// The next part of what comes, with bytes put into `room`; `None` once the connection has ended.
async fn next(receiver: &mut Receiver, room: &mut [u8]) -> Option<Part> {
    let part =
        poll_fn(|cx| receiver.poll_next_with(cx, |reader, cx| reader.poll_part(cx, room))).await;
    part.ok().flatten()
}

/// The rest of a message that is told when it is whole; `None` where the connection ends before.
async fn gather(
    socket: &WebSocket,
    kind: MessageKind,
    receiver: &mut Receiver,
    heard: &mut Option<Option<CloseFrame>>,
) -> Option<Message> {
    let limit = socket.inner.most_message;
    let (mut bytes, mut len) = (Vec::new(), 0);
    loop {
        if bytes.len() == len {
            // As much again, and a byte beyond the limit, to see whether there is one. Cleared once, and not for
            // each part: those may be of a byte.
            let room = len.clamp(4 * 1024, ROOM);
            bytes.resize(len + room.min((limit - len).saturating_add(1)), 0);
        }
        let part = poll_fn(|cx| {
            receiver.poll_next_with(cx, |reader, cx| {
                match ready!(reader.poll_part(cx, &mut bytes[len..]))? {
                    Part::Data(count) if len + count > limit => {
                        let error = ProtocolError::MessageTooLarge { limit };
                        Poll::Ready(Err(Broken::Protocol(error)))
                    }
                    part => Poll::Ready(Ok(part)),
                }
            })
        })
        .await;
        match part.ok().flatten()? {
            Part::Data(count) => len += count,
            Part::End => {
                bytes.truncate(len);
                return gathered(kind, bytes);
            }
            Part::Event(event) => socket.event(event, heard),
            Part::Begin(_) => {}
        }
    }
}

/// A message that was gathered. It is copied to memory of its own size, as it may be kept, where what it was gathered
/// in is more than twice as large.
fn gathered(kind: MessageKind, bytes: Vec<u8>) -> Option<Message> {
    let is_roomy = bytes.capacity() / 2 > bytes.len();
    Some(match (kind, is_roomy) {
        (MessageKind::Binary, true) => Message::Binary(Bytes::copy_from_slice(&bytes)),
        (MessageKind::Binary, false) => Message::Binary(bytes.into()),
        // It was found to be text while it came.
        (MessageKind::Text, true) => Message::Text(str::from_utf8(&bytes).ok()?.into()),
        (MessageKind::Text, false) => Message::Text(String::from_utf8(bytes).ok()?.into()),
    })
}

/// Carries a message to its blob, as it comes where it is not there `whole`, until it has ended or nobody wants the rest.
async fn fill(
    socket: &WebSocket,
    pour: Pour,
    whole: Option<Message>,
    receiver: &mut Receiver,
    heard: &mut Option<Option<CloseFrame>>,
) {
    let shared = receiver.shared().clone();
    first_of([
        pin!(async {
            match whole {
                Some(message) => pour.whole(message.into_bytes()).await,
                None => fill_whole(socket, &pour, receiver, heard).await,
            }
        }),
        // As what is told after that: discarded.
        pin!(socket.when(|socket| socket.ready_state() >= ReadyState::Closing)),
        // Where the blob is not read, nobody receives, and so nobody else sees the end. It wakes this
        // task, which then asks.
        pin!(poll_fn(|_| match shared.ended() {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        })),
    ])
    .await;
    receiver.skip_message();
}

async fn fill_whole(
    socket: &WebSocket,
    pour: &Pour,
    receiver: &mut Receiver,
    heard: &mut Option<Option<CloseFrame>>,
) {
    let mut buffer = vec![0; ROOM];
    // First, so that nothing is taken that has no room.
    while let Some(room) = pour.room().await {
        match next(receiver, &mut buffer).await {
            // Of nothing, a blob would have its end.
            Some(Part::Data(0) | Part::Begin(_)) => {}
            Some(Part::Data(count)) => room.bytes(Bytes::copy_from_slice(&buffer[..count])),
            Some(Part::End) => return room.last(Bytes::new()),
            Some(Part::Event(event)) => socket.event(event, heard),
            None => {
                let error = receiver.ended().and_then(|ended| ended.error());
                return room.failed(error.unwrap_or(Error::Incomplete));
            }
        }
    }
}

/// Sends what comes from the handles. Never ends.
async fn send(socket: &WebSocket, sender: &Sender, mail: &mut mpsc::UnboundedReceiver<Command>) {
    let shared = &sender.shared;
    // Once it is closing, nothing that the Close is behind is waited for: its deadline is to begin.
    let mut closing = pin!(socket.when(|socket| socket.ready_state() >= ReadyState::Closing));
    let mut has_begun = false;
    let mut is_closing = |cx: &mut Context<'_>| {
        has_begun = has_begun || closing.as_mut().poll(cx).is_ready();
        has_begun
    };
    // Queued, and not written as far as is known.
    let (mut bytes, mut count) = (0, 0);
    while let Some(command) = mail.recv().await {
        match command {
            Command::Message(message) => {
                let len = message.len();
                let mut message = Some(link::Command::Message(message.into()));
                let queued = poll_fn(|cx| match message.take_if(|_| is_closing(cx)) {
                    Some(message) => Poll::Ready(shared.apply(message)),
                    None => shared.poll_apply(cx, &mut message),
                });
                // Refused once the connection has ended: then it stays counted.
                if queued.await.is_ok() {
                    bytes += len;
                    count += 1;
                }
            }
            // Refused where the peer has closed first.
            Command::Close(Some(frame)) => {
                let _ = sender.close(frame.code, &frame.reason).await;
            }
            Command::Close(None) => {
                let _ = shared.queue_close(None);
            }
        }
        let is_enough = mail.is_empty() || count == BATCH || bytes >= BATCH_BYTES;
        if count == 0 || !is_enough {
            continue;
        }
        let written = poll_fn(|cx| match shared.poll_flush(cx, true) {
            Poll::Pending if is_closing(cx) && !mail.is_empty() => Poll::Ready(false),
            flushed => flushed.map(|flushed| flushed.is_ok()),
        });
        if written.await {
            let mut state = socket.lock();
            state.buffered_amount -= bytes as u64;
            state.queued -= bytes + count * OVERHEAD;
            (bytes, count) = (0, 0);
        }
    }
    pending().await
}

/// Notes that this end has sent a Close by itself, as for a broken rule (RFC 6455 §7.1.3). Whatever does that has
/// been polled before this. Never ends.
async fn note_closing(socket: &WebSocket, sender: &Sender) {
    poll_fn(|_| {
        if sender.shared.lock().has_close() {
            socket.closing();
        }
        Poll::Pending
    })
    .await
}

/// Fires events whose callback comes late, while the connection is open. Never ends.
async fn tell_late(socket: &WebSocket) {
    socket
        .when(|socket| {
            socket.tell_kept();
            false
        })
        .await;
}

/// Closes a connection that nobody can hear of any more. Never ends.
async fn close_forgotten(socket: &WebSocket) {
    socket.forgotten().await;
    // "start the WebSocket closing handshake, with no status code for the Close message", behind
    // the data that is still queued.
    socket.start_closing(None);
    pending().await
}

impl WebSocket {
    /// "When the WebSocket connection is established": fires `open`, or keeps that. False where it was closed meanwhile.
    fn established(&self, connection: &crate::WebSocket) -> bool {
        let mut state = self.lock();
        if state.ready_state != ReadyState::Connecting {
            return false;
        }
        state.ready_state = ReadyState::Open;
        state.extensions = connection.extensions();
        state.protocol = connection.subprotocol().unwrap_or_default().into();
        state.kept.open = true;
        drop(state);
        self.inner.changed.notify_waiters();
        self.tell_kept();
        true
    }

    /// What comes between messages, or within one.
    fn event(&self, event: OwnedEvent, heard: &mut Option<Option<CloseFrame>>) {
        match event {
            OwnedEvent::Close(frame) => {
                self.closing();
                *heard = Some(frame);
            }
            // A message is taken before.
            OwnedEvent::Message(_) | OwnedEvent::Ping(_) | OwnedEvent::Pong(_) => {}
        }
    }

    /// "When the WebSocket closing handshake is started"
    fn closing(&self) {
        let mut state = self.lock();
        if state.ready_state >= ReadyState::Closing {
            return;
        }
        state.ready_state = ReadyState::Closing;
        drop(state);
        self.inner.changed.notify_waiters();
    }

    /// "When a WebSocket message has been received"
    fn message(&self, data: Data) {
        let mut state = self.lock();
        // Step 1.
        if state.ready_state != ReadyState::Open {
            return;
        }
        let Some(mut callback) = state.callbacks.message.take() else {
            return;
        };
        // Step 2 is done.
        drop(state);
        // Step 3.
        callback(MessageEvent {
            target: self,
            data,
            origin: &self.inner.origin,
        });
        self.put_back(callback, |callbacks| &mut callbacks.message);
    }

    /// "When the WebSocket connection is closed, possibly cleanly"
    async fn end(&self, closed: Closed, failed: Option<String>) {
        // Step 1.
        self.lock().ready_state = ReadyState::Closed;
        // Step 2.
        if failed.is_some() {
            self.wait_for(|callbacks| callbacks.error.is_some()).await;
            self.lock().kept.error = failed;
            self.tell_kept();
        }
        // Step 3.
        self.wait_for(|callbacks| callbacks.close.is_some()).await;
        self.lock().kept.close = Some(closed);
        self.tell_kept();
        // First, so that whoever waits for the end finds them gone.
        self.drop_spent();
        self.lock().finished = true;
        self.inner.changed.notify_waiters();
        // For a callback that is set later, while anyone can.
        self.when(|socket| {
            socket.tell_kept();
            socket.drop_spent();
            socket.lock().kept.close.is_none() || socket.is_alone()
        })
        .await;
    }

    /// Lets go of the callbacks that hear of nothing any more, without the lock.
    fn drop_spent(&self) {
        let spent = self.lock().take_spent();
        drop(spent);
    }

    /// Fires the events that wait, where there is a callback now.
    fn tell_kept(&self) {
        let mut state = self.lock();
        if state.kept.open
            && let Some(mut callback) = state.callbacks.open.take()
        {
            state.kept.open = false;
            drop(state);
            callback(Event { target: self });
            self.put_back(callback, |callbacks| &mut callbacks.open);
            state = self.lock();
        }
        if let Some(mut callback) = state.callbacks.error.take() {
            let error = state.kept.error.take();
            drop(state);
            if let Some(message) = &error {
                let target = self;
                callback(ErrorEvent { target, message });
            }
            self.put_back(callback, |callbacks| &mut callbacks.error);
            state = self.lock();
        }
        if let Some(mut callback) = state.callbacks.close.take() {
            let closed = state.kept.close.take();
            drop(state);
            if let Some(closed) = &closed {
                callback(CloseEvent {
                    target: self,
                    was_clean: closed.was_clean,
                    code: closed.code,
                    reason: &closed.reason,
                });
            }
            self.put_back(callback, |callbacks| &mut callbacks.close);
        }
    }

    /// Puts a callback that was called back into its place, unless it has set another.
    fn put_back<C>(&self, callback: C, place: impl FnOnce(&mut Callbacks) -> &mut Option<C>) {
        let mut state = self.lock();
        let place = place(&mut state.callbacks);
        let replaced = match place {
            Some(_) => Some(callback),
            none => none.replace(callback),
        };
        // As in `set`.
        drop(state);
        drop(replaced);
    }

    /// Waits until a callback is set, while patience lasts and someone is there to set it.
    async fn wait_for(&self, is_set: impl Fn(&Callbacks) -> bool) {
        let is_over = |socket: &Self| socket.is_alone() || is_set(&socket.lock().callbacks);
        // For most events it is: a timer and a place among those who wait cost as much as a message does else.
        if is_over(self) {
            return;
        }
        let set = self.when(is_over);
        // Whether it came is seen by whoever takes it.
        let _ = timeout_at(self.inner.patience, set).await;
    }

    /// Waits until there are no handles, and no callback that the present state can lead to
    /// ("Garbage collection").
    async fn forgotten(&self) {
        self.when(|socket| {
            let state = socket.lock();
            let callbacks = &state.callbacks;
            let ends = callbacks.error.is_some() || callbacks.close.is_some();
            let listens = match state.ready_state {
                ReadyState::Connecting => {
                    ends || callbacks.message.is_some() || callbacks.open.is_some()
                }
                ReadyState::Open => ends || callbacks.message.is_some(),
                // It ends by itself.
                ReadyState::Closing | ReadyState::Closed => true,
            };
            !listens && socket.is_alone()
        })
        .await;
    }

    /// Whether only the task is left.
    fn is_alone(&self) -> bool {
        self.inner.handles.load(Ordering::Acquire) == 1
    }

    /// Waits until a condition holds that can become true whenever something changes.
    pub(super) async fn when(&self, holds: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = pin!(self.inner.changed.notified());
            changed.as_mut().enable();
            if holds(self) {
                return;
            }
            changed.await;
        }
    }
}
