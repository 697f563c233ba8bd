//! What the parts of a connection share, and where its sending side is: free, with a driver, or
//! being driven on this thread.
//!
//! A connection that a driver runs (a server's handler, or the event form) sends what was gathered
//! in one write when the task yields: the driver holds the [`Link`]. While it polls the user's
//! future, the link stands in a slot of the thread, where `send` finds it without a lock. Whoever
//! sends from elsewhere puts a command into the inbox and wakes the driver. A connection that
//! nobody drives keeps its link in [`Shared`], and `send` writes for itself.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    mem,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use sockeye_proto::{
    CloseCode, CloseFrame, MessageRef, Meter, Outgoing, OwnedEvent, SendError,
    deflate::DeflateParams,
};
use tokio::{
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, sleep_until},
};

#[cfg(test)]
use crate::transport::WriteHalf;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::watch::Watch;
use crate::{
    Ended, Error, Result,
    established::{Admitted, OutputLimits, PeerHead},
    keepalive::{Alarm, Pulse, Staying, Step},
    latest::Latest,
    link::{Command, Link, Lost},
    reader::Reader,
    waiting::Waiting,
};

/// What a connection is, once it is established. None of it changes.
#[derive(Debug)]
pub(crate) struct Info {
    pub(crate) client: bool,
    pub(crate) deflate: Option<DeflateParams>,
    pub(crate) peer_addr: Option<SocketAddr>,
    pub(crate) output: Arc<OutputLimits>,
    pub(crate) peer_head: PeerHead,
    /// Whom a client has connected to, without what is nobody's business.
    #[cfg(feature = "tracing")]
    pub(crate) url: Option<Box<str>>,
    pub(crate) admitted: Option<Box<Admitted>>,
}

impl Info {
    /// The extensions that were agreed, as in the header of the handshake.
    pub(crate) fn extensions(&self) -> String {
        self.deflate
            .map_or_else(String::new, |agreed| agreed.to_string())
    }

    /// The subprotocol that was agreed.
    pub(crate) fn subprotocol(&self) -> Option<&str> {
        self.admitted.as_ref()?.subprotocol.as_deref()
    }

    /// The value of that type that a server's user has the connection remember.
    #[cfg(feature = "server")]
    pub(crate) fn state<T: std::any::Any>(&self) -> Option<&T> {
        self.admitted.as_ref()?.state()
    }

    /// The proxy that has said who the client is.
    #[cfg(feature = "server")]
    pub(crate) fn proxy(&self) -> Option<SocketAddr> {
        self.admitted.as_ref()?.proxy
    }

    /// The route, at a server that has any.
    #[cfg(feature = "server")]
    pub(crate) fn matched(&self) -> Option<&crate::server::Matched> {
        self.admitted.as_ref()?.matched.as_deref()
    }

    /// What TLS said of the client, at the server.
    #[cfg(all(feature = "server", feature = "tls"))]
    pub(crate) fn tls(&self) -> Option<&crate::server::TlsIdentity> {
        self.admitted.as_ref()?.tls.as_ref()
    }
}

/// What the parts of a connection share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) info: Info,
    pub(crate) pulse: Pulse,
    pub(crate) meter: Arc<Meter>,
    #[cfg(any(feature = "metrics", feature = "tracing"))]
    pub(crate) watch: Watch,
    state: Mutex<State>,
    /// Tasks that wait until less output waits; there once one has.
    waiting: OnceLock<Arc<Waiting>>,
    /// Whether something is in the inbox, or another driver wants the link.
    posted: AtomicBool,
    /// Whether anyone reads, or has something to read.
    attended: AtomicBool,
    /// Whether it is to close as soon as whoever receives waits for an event.
    leaving: AtomicBool,
    /// Whether it has closed so. What still comes is discarded: nobody could answer it.
    left: AtomicBool,
    /// Whether a message is being sent in parts: others wait for their turn.
    pub(crate) writing: AtomicBool,
    /// How much output waits with the driver.
    driver_buffered: AtomicUsize,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The sending side, unless a driver holds it.
    link: Option<Box<Link>>,
    /// There once something was sent while a driver held the link.
    inbox: Option<Box<Inbox>>,
    /// The task of the driver that holds the link.
    driver: Option<Waker>,
    /// The task that waits for an event, where it must know of more than the transport says.
    reading: Option<Waker>,
    /// In a box, as all that few connections have, or only at their end.
    seldom: Option<Box<Seldom>>,
}

/// What was sent while a driver held the link.
#[derive(Debug, Default)]
struct Inbox {
    commands: Vec<Command<'static>>,
    /// The size of all of them.
    size: usize,
    /// What is replaced while it waits.
    latest: Option<Box<Latest>>,
}

/// What few connections have, or only at their end.
#[derive(Debug, Default)]
struct Seldom {
    /// The receiving side, once its owner has let go of it.
    reader: Option<Box<Reader>>,
    /// The task of another driver that is to have the link.
    wanted: Option<Waker>,
    /// Why the driver can write no more.
    broken: Option<Lost>,
    /// The Close that this end sent first.
    our_close: Option<CloseFrame>,
    /// The Close that is to be sent once all that has come is handled.
    leaving: Option<CloseFrame>,
    ended: Option<Ended>,
    /// Runs once a Close was sent, for who receives on a connection that nobody drives.
    closing: Option<Pin<Box<Sleep>>>,
}

/// Where the link is, as seen by whoever wants to send.
pub(crate) enum Access<'a> {
    /// On this thread, in the poll of its driver: it is written when the poll ends.
    Driven(&'a mut Link),
    /// With nobody: the caller writes.
    Free(&'a mut Link, &'a mut State),
    /// With a driver elsewhere: it takes what is in the inbox.
    Remote(&'a mut State),
}

/// The link that the driver on this thread is polling its user's future with.
struct Driving {
    id: usize,
    link: Box<Link>,
}

/// A command on its way.
///
/// Written out: an async function keeps room for what it is given beside what it waits with, and there
/// is one of these in the future of nearly everyone who has a connection. That took four times as much.
#[derive(Debug)]
#[must_use = "nothing is sent before it is polled"]
pub(crate) struct Sending<'s, 'a> {
    shared: &'s Shared,
    /// There until it is queued.
    command: Option<Command<'a>>,
}

impl Future for Sending<'_, '_> {
    type Output = Result<()>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { shared, command } = &mut *self;
        if let Some(Command::Message(message)) = command
            && shared.send_quick(message.as_ref())
        {
            *command = None;
            return Poll::Ready(Ok(()));
        }
        if command.is_some() {
            ready!(shared.poll_apply(cx, command)).map_err(|error| shared.noted(error))?;
        }
        let flushed = ready!(shared.poll_flush(cx, false));
        Poll::Ready(flushed.map_err(|lost| shared.noted(Error::Lost(lost))))
    }
}

thread_local! {
    static DRIVING: RefCell<Option<Driving>> = const { RefCell::new(None) };
}

impl Shared {
    /// `io` says that the runtime has descriptors.
    pub(crate) fn new(info: Info, mut link: Link, staying: Arc<Staying>, io: bool) -> Arc<Self> {
        let opened = Instant::now();
        Arc::new_cyclic(|this| {
            link.alarm = Alarm::new(staying, opened, io, this);
            Self::with_link(info, link, opened)
        })
    }

    fn with_link(info: Info, link: Link, opened: Instant) -> Self {
        Self {
            #[cfg(any(feature = "metrics", feature = "tracing"))]
            watch: Watch::new(&info),
            info,
            pulse: Pulse::new(opened),
            meter: link.sender.meter().clone(),
            state: Mutex::new(State {
                link: Some(Box::new(link)),
                ..State::default()
            }),
            waiting: OnceLock::new(),
            posted: AtomicBool::new(false),
            attended: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            left: AtomicBool::new(false),
            writing: AtomicBool::new(false),
            driver_buffered: AtomicUsize::new(0),
        }
    }

    fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The state, even where a thread has panicked with it: no change to it is left half done.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        self.waiting.get_or_init(Arc::default)
    }

    /// Whether a task waits for output to be written: also one that has looked at how much waits just
    /// before that was written.
    #[inline]
    pub(crate) fn is_awaited(&self) -> bool {
        matches!(self.waiting.get(), Some(waiting) if waiting.any())
    }

    fn wake_waiting(&self) {
        if let Some(waiting) = self.waiting.get() {
            waiting.wake_all();
        }
    }

    /// Works on the link, wherever it is.
    #[inline]
    pub(crate) fn access<R>(&self, work: impl FnOnce(Access<'_>) -> R) -> R {
        // Taken out of the slot while it is at work, so that nothing can find it there twice.
        if let Some(mut driving) = self.take_driving() {
            // What was sent before from elsewhere, such as within another driver, comes first.
            if self.posted.load(Ordering::Acquire) {
                self.take_posted(&mut driving.link);
            }
            let result = work(Access::Driven(&mut driving.link));
            DRIVING.with(|slot| slot.replace(Some(driving)));
            return result;
        }
        let mut state = self.lock();
        match state.link.take() {
            Some(mut link) => {
                let result = work(Access::Free(&mut link, &mut state));
                state.link = Some(link);
                result
            }
            None => work(Access::Remote(&mut state)),
        }
    }

    #[inline]
    fn take_driving(&self) -> Option<Driving> {
        DRIVING
            .try_with(|slot| {
                let slot = &mut *slot.try_borrow_mut().ok()?;
                if slot.as_ref()?.id == self.id() {
                    slot.take()
                } else {
                    None
                }
            })
            .ok()
            .flatten()
    }

    /// Queues a short message at once where that needs no waiting and no writing: in the poll of its
    /// driver, with room. Says whether it did; where not, nothing has happened.
    ///
    /// The way of most messages, and so without a future or a command: 12 ns less than
    /// [`send`](Self::send) for 16 bytes.
    #[inline]
    pub(crate) fn send_quick(&self, message: MessageRef<'_>) -> bool {
        if self.posted.load(Ordering::Acquire) || self.writing.load(Ordering::Relaxed) {
            return false;
        }
        let sent = DRIVING.try_with(|slot| {
            let Ok(mut slot) = slot.try_borrow_mut() else {
                return false;
            };
            let Some(driving) = slot.as_mut().filter(|driving| driving.id == self.id()) else {
                return false;
            };
            let link = &mut *driving.link;
            if link.broken().is_some() || link.sender.buffered() >= self.info.output.high_water {
                return false;
            }
            link.lend_buffer();
            link.sender.send_quick(message)
        });
        sent.unwrap_or(false)
    }

    /// Queues a command at once, whatever waits.
    pub(crate) fn apply(&self, command: Command<'_>) -> Result<()> {
        match &command {
            Command::Close(frame) => self.note_close(frame)?,
            Command::CloseWithoutCode => self.note_close(&CloseFrame {
                code: CloseCode::NORMAL,
                reason: String::new(),
            })?,
            _ => {}
        }
        let applied = self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.apply(command),
            Access::Remote(state) => self.post(state, command),
        });
        applied.map_err(|error| self.noted(error))
    }

    /// Notes the end that an error is, where nobody receives who would, and lets go of the connection.
    #[cold]
    fn noted(&self, error: Error) -> Error {
        if let Error::Lost(lost) = &error
            && self.has_reader()
        {
            self.end(Ended::Lost(lost.clone()));
            if self.let_go() {
                drop(self.take_reader());
            }
        }
        error
    }

    /// Notes the Close that this end is about to send first.
    pub(crate) fn note_close(&self, frame: &CloseFrame) -> Result<(), SendError> {
        check_close(frame, self.info.client)?;
        let mut state = self.lock();
        if state.has_close() {
            return Err(SendError::Closed);
        }
        state.close(frame.clone());
        Ok(())
    }

    /// Waits until less output waits than the high-water mark, then queues the command.
    #[inline]
    pub(crate) fn poll_apply(
        &self,
        cx: &mut Context<'_>,
        command: &mut Option<Command<'_>>,
    ) -> Poll<Result<()>> {
        if self.writing.load(Ordering::Acquire)
            && matches!(command, None | Some(Command::Message(_)))
        {
            ready!(self.poll_others_turn(cx))?;
        }
        let high_water = self.info.output.high_water;
        self.access(|access| {
            match &access {
                Access::Driven(link)
                    if link.sender.buffered() >= high_water && link.sender.is_open() =>
                {
                    self.waiting().room.add(cx.waker());
                    return Poll::Pending;
                }
                Access::Remote(state)
                    if self.buffered_remote(state) >= high_water && state.is_open() =>
                {
                    self.waiting().room.add(cx.waker());
                    state.wake_driver();
                    return Poll::Pending;
                }
                _ => {}
            }
            match access {
                Access::Driven(link) => {
                    Poll::Ready(command.take().map_or(Ok(()), |c| link.apply(c)))
                }
                Access::Free(link, state) => {
                    if link.sender.buffered() >= high_water && link.sender.is_open() {
                        ready!(self.poll_flush_sent(cx, link, state)).map_err(Error::Lost)?;
                    }
                    Poll::Ready(command.take().map_or(Ok(()), |c| link.apply(c)))
                }
                Access::Remote(state) => {
                    Poll::Ready(command.take().map_or(Ok(()), |c| self.post(state, c)))
                }
            }
        })
    }

    /// Queues a command as soon as there is room, and writes it unless a driver will.
    ///
    /// Dropped while it waits for room, it has queued nothing; dropped later, the command is queued
    /// whole and is written by whatever uses the connection next.
    #[inline]
    pub(crate) fn send<'a>(&self, command: Command<'a>) -> Sending<'_, 'a> {
        Sending {
            shared: self,
            command: Some(command),
        }
    }

    /// Queues a message where less output waits than the high-water mark, and writes what goes out
    /// without waiting unless a driver will. What is left goes out with whatever is sent or received
    /// next.
    pub(crate) fn try_send(&self, message: Outgoing<'_>) -> Result<()> {
        if self.send_quick(message.as_ref()) {
            return Ok(());
        }
        self.send_below(message, self.info.output.high_water)
    }

    /// As [`try_send`](Self::try_send), with another mark than the connection's.
    pub(crate) fn send_below(&self, message: Outgoing<'_>, high_water: usize) -> Result<()> {
        let message = Command::Message(message);
        let full = |buffered: usize| match buffered >= high_water {
            true => Err(Error::Full { high_water }),
            false => Ok(()),
        };
        let sent = self.access(|access| match access {
            Access::Driven(link) => {
                if link.sender.is_open() {
                    full(link.waiting())?;
                }
                link.apply(message)
            }
            Access::Free(link, state) => {
                let cx = &mut Context::from_waker(Waker::noop());
                if link.sender.buffered() >= high_water {
                    let _ = self.poll_flush_sent(cx, link, state);
                }
                if link.sender.is_open() {
                    full(link.waiting())?;
                }
                link.apply(message)?;
                match self.poll_flush_sent(cx, link, state) {
                    Poll::Ready(written) => written.map_err(Error::Lost),
                    Poll::Pending => Ok(()),
                }
            }
            Access::Remote(state) => {
                if state.is_open() {
                    full(self.buffered_remote(state) + self.held_remote())?;
                }
                self.post(state, message)
            }
        });
        sent.map_err(|error| self.noted(error))
    }

    /// Sends a Close, which goes out with what waits before it.
    pub(crate) fn close_without_waiting(&self, close: CloseFrame) -> Result<()> {
        self.apply(Command::Close(close))?;
        self.wake_reading();
        // Nobody is there to be told of a transport that fails.
        let _ = self.poll_flush(&mut Context::from_waker(Waker::noop()), false);
        Ok(())
    }

    /// Queues a message where nothing waits, and writes it as [`try_send`](Self::try_send) does; else
    /// puts it in place of the one that waits for the same key.
    pub(crate) fn send_latest(&self, key: u64, message: Outgoing<'_>) -> Result<()> {
        let sent = self.access(|access| match access {
            Access::Driven(link) => link.send_latest(key, message),
            Access::Free(link, state) => {
                link.send_latest(key, message)?;
                let cx = &mut Context::from_waker(Waker::noop());
                match self.poll_flush_sent(cx, link, state) {
                    Poll::Ready(written) => written.map_err(Error::Lost),
                    Poll::Pending => Ok(()),
                }
            }
            Access::Remote(state) => {
                state.check_open()?;
                if !state.has_latest() {
                    self.posted.store(true, Ordering::Release);
                    state.wake_driver();
                }
                let inbox = state.inbox.get_or_insert_default();
                inbox.latest.get_or_insert_default().put(key, message);
                Ok(())
            }
        });
        sent.map_err(|error| self.noted(error))
    }

    /// Waits until all that was queued is written.
    pub(crate) async fn flush(&self) -> Result<()> {
        let flushed = poll_fn(|cx| self.poll_flush(cx, true)).await;
        flushed.map_err(|lost| self.noted(Error::Lost(lost)))
    }

    /// Waits until what was queued is written. Where a driver writes when the task yields, there is
    /// nothing to wait for unless `fully` asks for it.
    #[inline]
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>, fully: bool) -> Poll<Result<(), Lost>> {
        self.access(|access| match access {
            Access::Free(link, state) => self.poll_flush_sent(cx, link, state),
            Access::Driven(_) | Access::Remote(_) if !fully => Poll::Ready(Ok(())),
            Access::Driven(link) => match link.broken() {
                Some(lost) => Poll::Ready(Err(lost.clone())),
                None if link.is_drained() => Poll::Ready(Ok(())),
                None => {
                    self.waiting().drained.add(cx.waker());
                    Poll::Pending
                }
            },
            Access::Remote(state) => {
                if let Some(lost) = state.broken() {
                    return Poll::Ready(Err(lost.clone()));
                }
                let drained = self.buffered_remote(state) == 0 && !state.has_latest();
                if drained || state.ended().is_some() {
                    return Poll::Ready(Ok(()));
                }
                self.waiting().drained.add(cx.waker());
                state.wake_driver();
                Poll::Pending
            }
        })
    }

    /// Writes a free link. Several tasks may wait for the same transport, which remembers one
    /// waker: it is given one that wakes them all.
    fn poll_flush_free(&self, cx: &mut Context<'_>, link: &mut Link) -> Poll<Result<(), Lost>> {
        let waker = Waker::from(self.waiting().clone());
        let all = &mut Context::from_waker(&waker);
        let mut result = link.poll_flush(all, self.info.client);
        if result.is_pending() {
            // Added before the transport is asked again, so that no wake-up falls between.
            self.waiting().drained.add(cx.waker());
            result = link.poll_flush(all, self.info.client);
        }
        if result.is_ready() {
            self.wake_waiting();
        }
        result
    }

    /// Writes a free link for a task that has sent something and may be dropped at any time: the
    /// task that waits for an event goes on with it then.
    pub(crate) fn poll_flush_sent(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
        state: &mut State,
    ) -> Poll<Result<(), Lost>> {
        let mut result = self.poll_flush_free(cx, link);
        if result.is_pending() {
            self.mind(link, state);
            // Its Close, or what it was given up with, if there is one.
            result = self.poll_flush_free(cx, link);
        }
        if !matches!(result, Poll::Ready(Ok(())))
            && let Some(reading) = state.reading.take()
        {
            reading.wake();
        }
        result
    }

    /// Takes the link for a driver.
    pub(crate) fn take_link(&self) -> Option<Box<Link>> {
        self.lock().link.take()
    }

    /// Takes the link for a driver as soon as the one that holds it has given it up.
    pub(crate) fn poll_take_link(&self, cx: &mut Context<'_>) -> Poll<Box<Link>> {
        let mut state = self.lock();
        if let Some(link) = state.link.take() {
            return Poll::Ready(link);
        }
        state.seldom.get_or_insert_default().wanted = Some(cx.waker().clone());
        self.posted.store(true, Ordering::Release);
        state.wake_driver();
        Poll::Pending
    }

    /// Gives the link back: nobody drives the connection any more.
    pub(crate) fn free_link(&self, mut link: Box<Link>) {
        link.reading = None;
        let mut state = self.lock();
        let wanted = state.seldom.as_mut().and_then(|s| s.wanted.take());
        self.take_latest(&mut state, &mut link);
        for command in self.take_inbox(&mut state) {
            let _ = link.apply(command);
        }
        self.driver_buffered.store(0, Ordering::Relaxed);
        state.driver = None;
        state.link = Some(link);
        // Whoever waits for an event now writes what is left, and minds the deadline.
        let wakers = [wanted, state.reading.take()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.wake_waiting();
    }

    /// Says which task is to be woken for what is sent while the driver is not looking.
    pub(crate) fn register_driver(&self, waker: &Waker) {
        self.lock().driver = Some(waker.clone());
    }

    /// Whether there is something to [`collect`](Self::collect).
    #[inline]
    pub(crate) fn is_posted(&self) -> bool {
        self.posted.load(Ordering::Acquire)
    }

    /// Takes what was sent while the driver was not looking. Tells whether another driver wants the
    /// link.
    pub(crate) fn collect(&self, link: &mut Link) -> bool {
        let mut state = self.lock();
        let wanted = state.is_wanted();
        self.take_latest(&mut state, link);
        let inbox = self.take_inbox(&mut state);
        drop(state);
        for command in inbox {
            // Refused only once the connection is closing: then nothing can be sent, and whoever
            // sent it learns how the connection ended.
            let _ = link.apply(command);
        }
        wanted
    }

    /// Takes what was sent while the driver was not looking, without a promise to look again.
    pub(crate) fn take_posted(&self, link: &mut Link) {
        let mut state = self.lock();
        self.take_latest(&mut state, link);
        let inbox = self.take_inbox(&mut state);
        drop(state);
        for command in inbox {
            let _ = link.apply(command);
        }
    }

    fn take_inbox(&self, state: &mut State) -> Vec<Command<'static>> {
        // Where another driver wants the link, the one that has it learns of that when it can give it up: this
        // may be in the middle of its poll.
        self.posted.store(state.is_wanted(), Ordering::Relaxed);
        let Some(inbox) = &mut state.inbox else {
            return Vec::new();
        };
        if !inbox.commands.is_empty() {
            // Counted until the driver has said how much of it was written.
            self.driver_buffered
                .fetch_add(mem::take(&mut inbox.size), Ordering::Relaxed);
        }
        mem::take(&mut inbox.commands)
    }

    /// First, so that what is sent before a Close still comes before it.
    fn take_latest(&self, state: &mut State, link: &mut Link) {
        if let Some(latest) = state.inbox.as_mut().and_then(|i| i.latest.take()) {
            self.driver_buffered
                .fetch_add(latest.size(), Ordering::Relaxed);
            link.absorb_latest(latest);
        }
    }

    /// Leaves a command to the driver.
    pub(crate) fn post(&self, state: &mut State, command: Command<'_>) -> Result<()> {
        // Before the driver is woken: it looks at this without the lock.
        self.posted.store(true, Ordering::Release);
        state.post(command)
    }

    /// How many bytes wait, as far as is known without the link.
    pub(crate) fn buffered_remote(&self, state: &State) -> usize {
        state.posted() + self.driver_buffered.load(Ordering::Relaxed)
    }

    /// How many bytes of messages a driver holds behind one that is sent in parts. Nobody can wait for them to
    /// be written, but they take room.
    fn held_remote(&self) -> usize {
        let waiting = self.waiting.get();
        waiting.map_or(0, |waiting| waiting.held.load(Ordering::Relaxed))
    }

    /// Writes for a driver, where that takes one call and nobody waits for it. Says whether nothing is left to
    /// do; else it is for [`poll_drive`](Self::poll_drive).
    #[inline]
    pub(crate) fn drive_quick(&self, link: &mut Link) -> bool {
        if self.waiting.get().is_some() {
            return false;
        }
        match link.write_quick() {
            Ok(all) => {
                if all {
                    self.driver_buffered.store(0, Ordering::Relaxed);
                }
                all
            }
            Err(error) => {
                self.note_lost(link.break_off(error));
                false
            }
        }
    }

    /// Notes that the driver can write no more, and tells whoever waits.
    #[cold]
    fn note_lost(&self, lost: Lost) {
        let mut state = self.lock();
        state.seldom.get_or_insert_default().broken = Some(lost);
        let reading = state.reading.take();
        drop(state);
        reading.into_iter().for_each(Waker::wake);
        // Those who wait for their turn too, which may not come.
        self.wake_waiting();
    }

    /// Writes for a driver, and tells those who wait for it.
    #[inline]
    pub(crate) fn poll_drive(
        &self,
        cx: &mut Context<'_>,
        link: &mut Link,
    ) -> Poll<Result<(), Lost>> {
        let broken = link.broken().is_some();
        let result = link.poll_flush(cx, self.info.client);
        let buffered = link.sender.buffered();
        self.driver_buffered.store(buffered, Ordering::Relaxed);
        if let Poll::Ready(Err(lost)) = &result
            && !broken
        {
            self.note_lost(lost.clone());
        }
        let Some(waiting) = self.waiting.get() else {
            return result;
        };
        waiting.held.store(link.sender.held(), Ordering::Relaxed);
        let room = waiting.room.any() && buffered < self.info.output.high_water;
        let drained = waiting.drained.any() && (buffered == 0 || result.is_ready());
        if room {
            waiting.room.wake();
        }
        if drained {
            waiting.drained.wake();
        }
        result
    }

    /// Polls a user's future with the link at hand on this thread.
    pub(crate) fn drive<R>(&self, link: &mut Option<Box<Link>>, poll: impl FnOnce() -> R) -> R {
        /// Puts everything back, also where the user's future panics.
        struct Guard<'a> {
            link: &'a mut Option<Box<Link>>,
            outer: Option<Driving>,
        }
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                let driving = DRIVING.with(|driving| driving.replace(self.outer.take()));
                *self.link = driving.map(|driving| driving.link);
            }
        }
        let driving = link.take().map(|link| Driving {
            id: self.id(),
            link,
        });
        let _guard = Guard {
            link,
            outer: DRIVING.with(|slot| slot.replace(driving)),
        };
        poll()
    }

    /// How many bytes wait to be written.
    pub(crate) fn buffered(&self) -> usize {
        self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.waiting(),
            Access::Remote(state) => self.buffered_remote(state) + self.held_remote(),
        })
    }

    /// How many bytes wait to be written, for whoever does not want to wait for that.
    #[cfg(feature = "metrics")]
    pub(crate) fn waiting_about(&self) -> usize {
        let driver = self.driver_buffered.load(Ordering::Relaxed);
        let Ok(state) = self.state.try_lock() else {
            return driver;
        };
        match &state.link {
            Some(link) => link.waiting(),
            None => driver + state.posted() + self.held_remote(),
        }
    }

    /// Whether messages can still be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.access(|access| match access {
            Access::Driven(link) | Access::Free(link, _) => link.sender.is_open(),
            Access::Remote(state) => state.is_open(),
        })
    }

    /// Says why the connection ended, unless that is known already, and wakes whoever waits.
    pub(crate) fn end(&self, ended: Ended) {
        let mut state = self.lock();
        state.end(ended);
        let wakers = [state.reading.take(), state.driver.clone()];
        drop(state);
        wakers.into_iter().flatten().for_each(Waker::wake);
        self.wake_waiting();
        self.wake_ended();
    }

    pub(crate) fn wake_ended(&self) {
        if let Some(waiting) = self.waiting.get() {
            waiting.ended.wake();
        }
    }

    /// The end that a Close from the peer means: an answer to ours, or its own.
    pub(crate) fn end_by_close(&self, frame: Option<CloseFrame>) {
        let ours = self.lock().our_close().cloned();
        self.end(ours.map_or(Ended::ByPeer(frame), Ended::ByUs));
    }

    /// Why the connection ended, once it has.
    pub(crate) fn ended(&self) -> Option<Ended> {
        self.lock().ended().cloned()
    }

    /// For a task whose connection nobody drives: writes what is left once the connection has
    /// ended, and gives the time by which that must be done. `None` where a driver does it.
    pub(crate) fn poll_last_words(&self, cx: &mut Context<'_>) -> Option<(Poll<()>, Instant)> {
        self.access(|access| match access {
            Access::Free(link, _) => {
                let deadline = link.deadline()?;
                let mut written = self.poll_flush_free(cx, link).map(drop);
                if written.is_ready() && !self.info.client {
                    written = link.poll_shutdown(cx);
                }
                Some((written, deadline))
            }
            Access::Driven(_) | Access::Remote(_) => None,
        })
    }

    /// For a task that receives where nobody drives: waits until a Close must have been answered.
    pub(crate) fn poll_until(&self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        // As for the driver: not by the timer alone.
        if deadline <= Instant::now() {
            return Poll::Ready(());
        }
        let mut state = self.lock();
        let closing = &mut state.seldom.get_or_insert_default().closing;
        let closing = closing.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        closing.as_mut().poll(cx)
    }

    /// [`park`](Self::park) where there is nothing to do or to tell: in the poll of its driver, on an open
    /// connection that has been waited for by this task before. Says whether that was so.
    ///
    /// The way of most waits: a quarter of the instructions.
    #[inline]
    pub(crate) fn park_quick(&self, cx: &Context<'_>) -> bool {
        if self.posted.load(Ordering::Acquire) || self.is_leaving() || self.is_silent() {
            return false;
        }
        let parked = DRIVING.try_with(|slot| {
            let Ok(slot) = slot.try_borrow() else {
                return false;
            };
            let Some(driving) = slot.as_ref().filter(|driving| driving.id == self.id()) else {
                return false;
            };
            let link = &*driving.link;
            link.broken().is_none()
                && link.sender.is_open()
                && matches!(&link.reading, Some(waker) if waker.will_wake(cx.waker()))
        });
        parked.unwrap_or(false)
    }

    /// For a task that waits for an event: keeps what was queued going out, and says by when the
    /// peer must have closed; `Err` where the connection has ended already. While the peer is `held_back`
    /// nothing is read, and nobody can say that nothing has come.
    pub(crate) fn park(
        &self,
        cx: &mut Context<'_>,
        held_back: bool,
    ) -> Result<Option<Instant>, ()> {
        self.attend();
        if self.is_leaving() && has_budget_remaining() {
            self.close_now();
        }
        let mut due = None;
        let parked = self.access(|access| match access {
            // Without a lock: no other thread has the link.
            Access::Driven(link) => {
                if let Some(lost) = link.broken() {
                    self.end(Ended::Lost(lost.clone()));
                }
                if !link.sender.is_open() && self.lock().ended().is_some() {
                    return Err(());
                }
                match &mut link.reading {
                    Some(waker) => waker.clone_from(cx.waker()),
                    None => link.reading = Some(cx.waker().clone()),
                }
                Ok(None)
            }
            Access::Free(link, state) => {
                due = self.tick_free(cx, link);
                if !link.is_written() {
                    let _ = self.poll_flush_free(cx, link);
                }
                if let Some(lost) = link.broken() {
                    state.seldom.get_or_insert_default().broken = Some(lost.clone());
                }
                state.wait_for_event(cx).map(|()| link.deadline())
            }
            Access::Remote(state) => state.wait_for_event(cx).map(|()| None),
        });
        if parked.is_err() {
            // It may have been found out right there that the transport has failed.
            self.wake_ended();
        }
        let parked = parked?;
        if let Some(Step::Close { reason }) = due {
            let _ = self.apply(Command::Close(leaving(reason)));
            return self.park(cx, held_back);
        }
        if held_back {
            self.pulse.excuse();
        }
        if due == Some(Step::GiveUp) || !held_back && self.is_silent() {
            // First, so that the transport is not said to be at fault.
            self.end(Ended::Silent);
            let _ = self.apply(Command::GiveUp);
            return Err(());
        }
        // Asked to before there was anyone to wake.
        if self.is_leaving() && has_budget_remaining() {
            return self.park(cx, held_back);
        }
        Ok(parked)
    }

    /// Says that someone reads, or has something to read.
    #[inline]
    pub(crate) fn attend(&self) {
        self.attended.store(true, Ordering::Relaxed);
    }

    /// Whether the peer is gone, told by whoever has just found nothing to read. A task that has done so much
    /// that it is to yield was not let look: it comes again at once.
    #[inline]
    pub(crate) fn is_silent(&self) -> bool {
        self.pulse.is_silent(&self.meter) && has_budget_remaining()
    }

    /// Asks for a Close: it is sent as soon as whoever receives has handled all that has come, and waits
    /// for more. At once where nobody has received anything yet.
    #[cfg(feature = "server")]
    pub(crate) fn leave(&self, close: &CloseFrame) {
        {
            let mut state = self.lock();
            if state.has_close() {
                return;
            }
            state.seldom.get_or_insert_default().leaving = Some(close.clone());
            self.leaving.store(true, Ordering::Release);
        }
        if self.attended.load(Ordering::Relaxed) || self.meter.read() > 0 {
            let _ = self.apply(Command::Look);
        } else {
            self.close_now();
        }
        self.wake_reading();
    }

    /// Whether this end is to close as soon as whoever receives has nothing to do.
    #[inline]
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// The Close that was asked for and has not been sent.
    pub(crate) fn take_leave(&self) -> Option<CloseFrame> {
        self.leaving.store(false, Ordering::Relaxed);
        self.lock().seldom.as_mut()?.leaving.take()
    }

    /// Sends the Close that was asked for.
    #[cold]
    pub(crate) fn close_now(&self) {
        if let Some(close) = self.take_leave() {
            self.go_away(close);
        }
    }

    /// Closes because this end leaves, whatever its handler does.
    pub(crate) fn go_away(&self, close: CloseFrame) {
        // Refused where it is closing already, as its user has said.
        if self.apply(Command::Close(close)).is_ok() {
            self.left.store(true, Ordering::Release);
        }
    }

    /// Whether this end has closed because it leaves.
    #[inline]
    pub(crate) fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// Takes the receiving side, where its owner has let go of it.
    pub(crate) fn take_reader(&self) -> Option<Box<Reader>> {
        self.lock().seldom.as_mut()?.reader.take()
    }

    /// Leaves the receiving side to whoever completes the closing handshake.
    pub(crate) fn put_reader(&self, reader: Box<Reader>) {
        self.lock().seldom.get_or_insert_default().reader = Some(reader);
    }

    /// Whether its owner has let go of the receiving side.
    pub(crate) fn has_reader(&self) -> bool {
        matches!(&self.lock().seldom, Some(seldom) if seldom.reader.is_some())
    }

    /// Whether a pong answers a ping that keeps the connection: then it is no event. Counts pings and
    /// pongs.
    pub(crate) fn is_own(&self, payload: &[u8], pong: bool) -> bool {
        self.pulse.control(payload.len(), self.info.client);
        let own = pong && self.pulse.pong(payload);
        if own {
            self.timed();
        }
        own
    }

    /// Wakes whoever looks after the connection, since its timer has run out: the driver; where there is none,
    /// who receives, and who waits until something is written.
    #[cfg(target_os = "linux")]
    pub(crate) fn ring(&self) {
        let mut state = self.lock();
        let driver = state.driver.clone();
        let is_free = driver.is_none();
        let waker = driver.or_else(|| state.reading.take());
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        if is_free {
            self.wake_waiting();
        }
    }

    /// Ends the transport of a connection that has ended, unless a driver will. Tells whether it
    /// did.
    pub(crate) fn let_go(&self) -> bool {
        let done = self.access(|access| match access {
            Access::Free(link, _) => {
                link.let_go();
                true
            }
            Access::Driven(_) | Access::Remote(_) => false,
        });
        if let Some(seldom) = &mut self.lock().seldom {
            seldom.closing = None;
        }
        if done {
            self.closed();
        }
        done
    }

    /// Wakes the task that waits for an event, so that it sees that a Close was sent.
    pub(crate) fn wake_reading(&self) {
        let waker = self.lock().reading.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    /// Says why the connection ended, unless that is known already.
    pub(crate) fn end(&mut self, ended: Ended) {
        let seldom = self.seldom.get_or_insert_default();
        seldom.ended.get_or_insert(ended);
    }

    /// Notes the Close that this end sends first.
    pub(crate) fn close(&mut self, frame: CloseFrame) {
        self.seldom.get_or_insert_default().our_close = Some(frame);
    }

    fn our_close(&self) -> Option<&CloseFrame> {
        self.seldom.as_ref()?.our_close.as_ref()
    }

    fn ended(&self) -> Option<&Ended> {
        self.seldom.as_ref()?.ended.as_ref()
    }

    fn broken(&self) -> Option<&Lost> {
        self.seldom.as_ref()?.broken.as_ref()
    }

    /// Whether this end has sent a Close, or the connection has ended.
    pub(crate) fn has_close(&self) -> bool {
        self.our_close().is_some() || self.ended().is_some()
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.has_close() && self.broken().is_none()
    }

    /// Whether another driver wants the link.
    fn is_wanted(&self) -> bool {
        matches!(&self.seldom, Some(seldom) if seldom.wanted.is_some())
    }

    fn has_latest(&self) -> bool {
        matches!(&self.inbox, Some(inbox) if inbox.latest.is_some())
    }

    /// How many bytes wait in the inbox.
    fn posted(&self) -> usize {
        self.inbox.as_ref().map_or(0, |inbox| inbox.size)
    }

    /// Whether a user can still send.
    fn check_open(&self) -> Result<()> {
        match self.broken() {
            Some(lost) => Err(Error::Lost(lost.clone())),
            None if self.is_open() => Ok(()),
            None => Err(SendError::Closed.into()),
        }
    }

    /// Leaves a command to the driver.
    fn post(&mut self, command: Command<'_>) -> Result<()> {
        let of_user = matches!(
            command,
            Command::Message(_)
                | Command::Begin(_)
                | Command::Part(_)
                | Command::FlushParts
                | Command::Finish
                | Command::Ping(_)
                | Command::Pong(_)
        );
        if of_user {
            self.check_open()?;
        }
        if let Command::Ping(payload) | Command::Pong(payload) = &command
            && payload.len() > 125
        {
            return Err(SendError::ControlTooLong { len: payload.len() }.into());
        }
        let inbox = self.inbox.get_or_insert_default();
        if let Command::Answer(OwnedEvent::Ping(newer)) = &command
            && let Some(Command::Answer(OwnedEvent::Ping(latest))) = inbox.commands.last_mut()
        {
            // The pong for the latest will do (RFC 6455 §5.5.3): a peer must not make this grow with pings while
            // the driver is not polled.
            latest.clone_from(newer);
            return Ok(());
        }
        inbox.size += command.size();
        inbox.commands.push(command.into_owned());
        self.wake_driver();
        Ok(())
    }

    pub(crate) fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Remembers the task that waits for an event; `Err` where none will come.
    fn wait_for_event(&mut self, cx: &mut Context<'_>) -> Result<(), ()> {
        if let Some(lost) = self.broken().cloned() {
            self.end(Ended::Lost(lost));
        }
        if self.ended().is_some() {
            return Err(());
        }
        match &mut self.reading {
            Some(waker) => waker.clone_from(cx.waker()),
            None => self.reading = Some(cx.waker().clone()),
        }
        Ok(())
    }
}

impl Drop for Shared {
    /// A connection that everyone has let go of without closing it says goodbye as far as that can
    /// be done without waiting.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = &mut state.link {
            link.leave();
        }
        self.closed();
    }
}

/// The Close of a connection that this end leaves by itself.
pub(crate) fn leaving(reason: &str) -> CloseFrame {
    CloseFrame {
        code: CloseCode::GOING_AWAY,
        reason: reason.into(),
    }
}

/// What [`Sender::close`] would refuse, before the Close is anyone's.
fn check_close(frame: &CloseFrame, client: bool) -> Result<(), SendError> {
    if frame.reason.len() > CloseFrame::MAX_REASON {
        return Err(SendError::ReasonTooLong {
            len: frame.reason.len(),
        });
    }
    if frame.code == CloseCode::MANDATORY_EXTENSION && !client {
        return Err(SendError::CodeNotForRole(frame.code));
    }
    Ok(())
}

#[cfg(test)]
impl Shared {
    /// A connection without a peer, a transport and a keepalive.
    pub(crate) fn of_nobody() -> Arc<Self> {
        use sockeye_proto::{Config, Role, handshake::Request};
        let info = Info {
            client: false,
            deflate: None,
            peer_addr: None,
            output: Arc::default(),
            peer_head: PeerHead::Request(Request::parse(b"GET / HTTP/1.1\r\n\r\n").unwrap()),
            #[cfg(feature = "tracing")]
            url: None,
            admitted: None,
        };
        let (_, sender) = Config::new(Role::Server).halves();
        let link = Link::new(sender, WriteHalf::Gone);
        Arc::new(Self::with_link(info, link, Instant::now()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose link a driver has taken, and is not polled.
    fn driven_elsewhere() -> Arc<Shared> {
        let shared = Shared::of_nobody();
        drop(shared.take_link());
        shared
    }

    #[test]
    fn pings_do_not_pile_up_while_the_driver_is_not_polled() {
        let shared = driven_elsewhere();
        for number in 0..1000_u32 {
            let ping = OwnedEvent::Ping(number.to_be_bytes().to_vec().into());
            shared.apply(Command::Answer(ping)).unwrap();
        }
        let posted = shared.take_inbox(&mut shared.lock());
        let [Command::Answer(OwnedEvent::Ping(latest))] = &posted[..] else {
            panic!("{posted:?}");
        };
        assert_eq!(**latest, 999_u32.to_be_bytes());
    }

    #[test]
    fn what_is_empty_is_not_queued_for_ever_while_the_driver_is_not_polled() {
        let shared = driven_elsewhere();
        let queued = (0..).take_while(|_| shared.try_send("".into()).is_ok());
        assert!(queued.take(1 << 20).count() < 1 << 20);
    }

    /// Where the receiving half is in another task than its driver.
    #[cfg(feature = "server")]
    #[test]
    fn whoever_is_asked_to_leave_while_they_begin_to_wait_learns_of_it() {
        use std::{task::Wake, thread};

        #[derive(Default)]
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Release);
            }
        }

        let all: Vec<_> = (0..10_000).map(|_| driven_elsewhere()).collect();
        let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let until = |count: &AtomicUsize, round| {
            while count.load(Ordering::Acquire) <= round {
                thread::yield_now();
            }
        };
        let mut missed = 0;
        thread::scope(|scope| {
            scope.spawn(|| {
                for (round, shared) in all.iter().enumerate() {
                    until(&begun, round);
                    shared.leave(&leaving("restart"));
                    done.store(round + 1, Ordering::Release);
                }
            });
            for (round, shared) in all.iter().enumerate() {
                shared.attend();
                let woken = Arc::new(Woken::default());
                let waker = woken.clone().into();
                begun.store(round + 1, Ordering::Release);
                let _ = shared.park(&mut Context::from_waker(&waker), false);
                until(&done, round);
                let posted = shared.take_inbox(&mut shared.lock());
                let closes = posted.iter().any(|it| matches!(it, Command::Close(_)));
                missed += usize::from(!closes && !woken.0.load(Ordering::Acquire));
            }
        });
        assert_eq!(missed, 0);
    }

    /// A megabyte, and who has it.
    fn payload() -> (Arc<[u8]>, bytes::Bytes) {
        struct Payload(Arc<[u8]>);
        impl AsRef<[u8]> for Payload {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let memory: Arc<[u8]> = vec![0; 1 << 20].into();
        let payload = bytes::Bytes::from_owner(Payload(memory.clone()));
        (memory, payload)
    }

    /// A payload that is not copied is the user's memory: neither the thread's buffers must keep it, nor what waits
    /// behind a message in parts.
    #[test]
    fn what_was_not_written_is_let_go_of_with_the_connection() {
        for behind_parts in [false, true] {
            let shared = Shared::of_nobody();
            if behind_parts {
                let kind = sockeye_proto::MessageKind::Binary;
                shared.apply(Command::Begin(kind)).unwrap();
            }
            let (memory, payload) = payload();
            shared.apply(Command::Message(payload.into())).unwrap();
            assert_eq!(Arc::strong_count(&memory), 2);
            shared.end(Ended::gone());
            shared.let_go();
            assert_eq!(Arc::strong_count(&memory), 1);
        }
    }

    #[test]
    fn what_is_refused_leaves_no_buffer_with_a_connection_that_has_ended() {
        let shared = Shared::of_nobody();
        shared.end(Ended::gone());
        shared.let_go();
        assert!(shared.try_send("late".into()).is_err());
        let owns = shared.access(|access| match access {
            Access::Free(link, _) => link.sender.output().has_buffer(),
            Access::Driven(_) | Access::Remote(_) => unreachable!("nobody drives it"),
        });
        assert!(!owns);
    }
}
