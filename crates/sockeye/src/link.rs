//! The sending side of a connection: what is to be sent, and the half of the transport that is
//! written.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    io, mem,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    thread,
    time::Duration,
};

use bytes::Bytes;
use sockeye_proto::{
    CloseCode, CloseFrame, Event, MessageKind, Outgoing, ProtocolError, SendError, Sender,
};
use tokio::{
    runtime::Handle,
    task::{coop::has_budget_remaining, unconstrained},
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    Ended, Error, Result, buffers,
    keepalive::{Alarm, Pulse, Seen, Staying, Step},
    latest::Latest,
    reader::Reader,
    transport::WriteHalf,
};

/// Why a transport can no longer be written.
pub(crate) type Lost = Arc<io::Error>;

/// The sending side.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) sender: Sender,
    io: WriteHalf,
    /// Keeps the connection, where it is to be kept.
    pub(crate) alarm: Option<Alarm>,
    /// The receiving side, while its owner does something else than to receive: whoever drives sees to it that pings and a
    /// Close are answered.
    pub(crate) lent: Option<Box<Reader>>,
    /// There while anything of it is, which is not so for most of the time.
    seldom: Option<Box<Seldom>>,
    /// The task that looks after the connection. Its driver's, where one holds this: a copy of what
    /// [`Shared`](crate::shared::Shared) knows, so that most polls need not lock it. Else the one that waits for an event.
    task: Option<Waker>,
    /// Whether that task waits for an event.
    reads: bool,
    /// Whether the driver's own task waits for an event since this poll of it.
    pub(crate) awaited: bool,
}

/// What few have, or only at their end.
#[derive(Debug, Default)]
struct Seldom {
    /// There once it closes, or has broken off.
    ending: Option<Ending>,
    /// Messages that wait until nothing else does, and are replaced meanwhile. There only while some do.
    latest: Option<Box<Latest>>,
    /// The task that waits for an event in the poll of the driver that holds the link, where that is not the
    /// driver's own: as where it polls a set of futures.
    reading: Option<Waker>,
}

/// How far a connection is that ends.
#[derive(Debug)]
struct Ending {
    /// When the core's time begins, which only a Close asks for.
    began: Instant,
    /// When the peer has last taken something of what stands before the Close, or the Close.
    moved: Instant,
    /// Runs until the peer must have closed, where someone waits for that.
    timer: Option<Pin<Box<Sleep>>>,
    /// Whether the driver has seen that it has run out. The timer itself says so before it was polled.
    overdue: bool,
    /// Whether this direction of the transport has ended.
    shut_down: bool,
    /// Why nothing more can be written.
    broken: Option<Lost>,
    /// Whether that is only because the connection has ended before all was written: what is sent later is
    /// refused as where all was.
    unwritten: bool,
}

/// Something to send.
#[derive(Debug)]
pub(crate) enum Command<'a> {
    Message(Outgoing<'a>),
    /// A message in parts: its beginning, one of them, what the compressor keeps, its end.
    Begin(MessageKind),
    Part(Cow<'a, [u8]>),
    FlushParts,
    Finish,
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// None says nothing.
    Close(Option<CloseFrame>),
    /// What a ping, and what the peer's Close is owed.
    AnswerPing(Bytes),
    AnswerClose(Option<CloseFrame>),
    /// What a broken rule is owed.
    Fail(ProtocolError),
    /// Nothing more will come from the peer.
    PeerGone,
    /// The peer is silent: nothing more is to be tried.
    GiveUp,
    /// Nothing is sent: whoever receives is to look at what has changed.
    Look,
}

impl Command<'_> {
    /// Roughly how many bytes it takes while it waits for a driver, which for what is short is more than it will on the
    /// wire.
    pub(crate) fn size(&self) -> usize {
        const HEADER: usize = size_of::<Command<'static>>();
        match self {
            Self::Message(message) => HEADER + message.as_ref().len(),
            Self::Part(part) => HEADER + part.len(),
            Self::Ping(payload) | Self::Pong(payload) => HEADER + payload.len(),
            Self::Begin(_) | Self::Finish => HEADER,
            _ => 0,
        }
    }

    pub(crate) fn into_owned(self) -> Command<'static> {
        match self {
            Self::Message(message) => Command::Message(message.into_static()),
            Self::Begin(kind) => Command::Begin(kind),
            Self::Part(part) => Command::Part(Cow::Owned(part.into_owned())),
            Self::FlushParts => Command::FlushParts,
            Self::Finish => Command::Finish,
            Self::Ping(payload) => Command::Ping(payload),
            Self::Pong(payload) => Command::Pong(payload),
            Self::Close(frame) => Command::Close(frame),
            Self::AnswerPing(payload) => Command::AnswerPing(payload),
            Self::AnswerClose(frame) => Command::AnswerClose(frame),
            Self::Fail(error) => Command::Fail(error),
            Self::PeerGone => Command::PeerGone,
            Self::GiveUp => Command::GiveUp,
            Self::Look => Command::Look,
        }
    }
}

impl Link {
    pub(crate) fn new(sender: Sender, io: WriteHalf) -> Self {
        Self {
            sender,
            io,
            alarm: None,
            lent: None,
            seldom: None,
            task: None,
            reads: false,
            awaited: false,
        }
    }

    fn ending(&self) -> Option<&Ending> {
        self.seldom.as_ref()?.ending.as_ref()
    }

    pub(crate) fn has_latest(&self) -> bool {
        matches!(&self.seldom, Some(seldom) if seldom.latest.is_some())
    }

    /// How much memory what is replaced while it waits takes.
    pub(crate) fn latest_memory(&self) -> usize {
        let latest = self.seldom.as_ref().and_then(|it| it.latest.as_ref());
        latest.map_or(0, |latest| latest.memory())
    }

    /// Lets go of what is replaced while it waits.
    fn drop_latest(&mut self) {
        if let Some(seldom) = &mut self.seldom {
            seldom.latest = None;
            if seldom.ending.is_none() && seldom.reading.is_none() {
                self.seldom = None;
            }
        }
    }

    /// Queues what a command asks for.
    #[inline]
    pub(crate) fn apply(&mut self, command: Command<'_>) -> Result<()> {
        if self.broken().is_some() {
            return Err(self.refusal());
        }
        self.lend_buffer();
        let applied = match command {
            Command::Message(message) => self.send(message),
            other => self.apply_control(other),
        };
        if applied.is_err() {
            self.return_buffer();
        }
        Ok(applied?)
    }

    /// Queues a message.
    #[inline]
    pub(crate) fn send(&mut self, message: Outgoing<'_>) -> Result<(), SendError> {
        if self.sender.compresses(message.as_ref().len()) {
            buffers::with_deflaters(|deflaters| self.sender.send(message, deflaters))
        } else {
            self.sender.send_plain(message)
        }
    }

    /// Lends the output a buffer of the thread's, where it has none.
    #[inline]
    pub(crate) fn lend_buffer(&mut self) {
        if !self.sender.output().has_buffer() {
            self.sender.output().lend_buffer(buffers::take_output());
        }
    }

    /// Gives the buffer back to the thread where nothing came of it: of a connection that has ended, nobody
    /// else would.
    #[cold]
    pub(crate) fn return_buffer(&mut self) {
        if let Some(buffer) = self.sender.output().take_buffer() {
            buffers::put_output(buffer);
        }
    }

    /// Queues a message where nothing waits; else puts it in place of the one that waits for the same
    /// key. Of others, no more than `most` bytes may wait so.
    pub(crate) fn send_latest(
        &mut self,
        key: u64,
        message: Outgoing<'_>,
        most: usize,
    ) -> Result<()> {
        if self.broken().is_some() {
            return Err(self.refusal());
        }
        if !self.sender.is_open() {
            return Err(SendError::Closed.into());
        }
        if !self.has_latest() && self.sender.buffered() == 0 && !self.sender.is_sending_parts() {
            self.lend_buffer();
            return Ok(self.send(message)?);
        }
        let seldom = self.seldom.get_or_insert_default();
        Latest::put_into(&mut seldom.latest, most, key, message)
    }

    /// Takes what was left for the driver by [`send_latest`](Self::send_latest) from elsewhere.
    pub(crate) fn absorb_latest(&mut self, newer: Box<Latest>) {
        match &mut self.seldom.get_or_insert_default().latest {
            Some(latest) => latest.absorb(*newer),
            none => *none = Some(newer),
        }
    }

    /// How many bytes wait to be written, of messages too that are held behind one that is sent in parts.
    pub(crate) fn waiting(&self) -> usize {
        self.sender.buffered() + self.sender.held()
    }

    /// Whether nothing waits to be written, in whichever way it was sent, but for what has to wait for a
    /// message in parts.
    pub(crate) fn is_drained(&self) -> bool {
        self.sender.buffered() == 0 && (!self.has_latest() || self.sender.is_sending_parts())
    }

    /// Queues what is replaced while it waits: as much as makes a write worthwhile, once nothing else
    /// waits; `all` of it before a Close.
    #[cold]
    fn queue_latest(&mut self, all: bool) {
        /// A write of so much costs little more a byte than a larger one, and is soon out.
        const WRITE: usize = 16 * 1024;
        if !all && (self.sender.buffered() > 0 || self.sender.is_sending_parts()) {
            return;
        }
        self.lend_buffer();
        while let Some(seldom) = &mut self.seldom
            && let Some(latest) = &mut seldom.latest
            && (all || self.sender.buffered() < WRITE)
        {
            let message = latest.take();
            if latest.is_empty() {
                self.drop_latest();
            }
            // Refused only where the connection is closing: then nothing of it will be sent.
            if let Some(message) = message
                && self.send(message).is_err()
            {
                self.drop_latest();
            }
        }
    }

    fn apply_control(&mut self, command: Command<'_>) -> Result<(), SendError> {
        let is_close = matches!(command, Command::Close(_) | Command::AnswerClose(_));
        if is_close && self.has_latest() {
            self.queue_latest(true);
        }
        let before = self.sender.buffered();
        let is_control = matches!(
            command,
            Command::Ping(_) | Command::Pong(_) | Command::AnswerPing(_)
        );
        match command {
            Command::Message(message) => self.send(message)?,
            Command::Begin(kind) => self.sender.begin_message(kind)?,
            Command::Part(part) => self.sender.send_part(&part)?,
            Command::FlushParts => self.sender.flush_parts()?,
            Command::Finish => {
                buffers::with_deflaters(|deflaters| self.sender.finish_message(deflaters))?;
            }
            Command::Ping(payload) => self.sender.ping(&payload)?,
            Command::Pong(payload) => self.sender.pong(&payload)?,
            Command::Close(frame) => {
                let now = self.now();
                match frame {
                    Some(frame) => self.sender.close(frame.code, &frame.reason, now)?,
                    None => self.sender.close_without_code(now)?,
                }
                // The answer is read even of a peer that is held back.
                self.wake_reading();
            }
            Command::AnswerPing(payload) => {
                self.sender.respond(&Event::Ping(&payload), Duration::ZERO);
            }
            Command::AnswerClose(frame) => {
                let now = self.now();
                self.sender.respond(&Event::Close(frame), now);
            }
            Command::Fail(error) => {
                let now = self.now();
                self.sender.fail(error, now);
            }
            Command::PeerGone => self.sender.peer_is_gone(),
            Command::Look => self.wake_reading(),
            Command::GiveUp => {
                let silence = "nothing came from the peer, not even an answer to a ping";
                self.break_off(io::Error::new(io::ErrorKind::TimedOut, silence));
            }
        }
        if is_control && let Some(alarm) = &mut self.alarm {
            alarm.count_control(self.sender.buffered().wrapping_sub(before));
        }
        Ok(())
    }

    /// Whether there is nothing to do for an open connection: nothing waits to be written, in here
    /// or in the transport, and no buffer is held.
    #[inline]
    pub(crate) fn is_quiet(&mut self) -> bool {
        self.sender.is_open()
            && self.io.is_flushed()
            && self.broken().is_none()
            && self.sender.buffered() == 0
            && !self.has_latest()
            && !self.sender.output().has_buffer()
    }

    /// Whether nothing waits to be written, in here or in the transport.
    pub(crate) fn is_written(&mut self) -> bool {
        self.sender.output().is_empty() && self.io.is_flushed()
    }

    /// Whether it is time to [`tick`](Self::tick); else the task is woken when it is.
    #[inline]
    pub(crate) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.alarm.as_mut().is_some_and(|alarm| alarm.is_due(cx))
    }

    /// Sends the ping that is due, and gives what else is to be done. Call it for as long as
    /// [`is_due`](Self::is_due) says so.
    #[cold]
    pub(crate) fn tick(&mut self, staying: &Staying, pulse: &Pulse) -> Option<Step> {
        if !self.sender.is_open() {
            // From here on the deadline of the Close counts, or none.
            self.alarm = None;
        }
        let buffered = self.sender.buffered();
        let meter = self.sender.meter();
        let (received, written) = (meter.read(), meter.written());
        let sent = written.wrapping_add(buffered);
        let seen = Seen {
            received,
            written,
            waits: buffered > 0,
            traffic: sent.wrapping_add(pulse.messages(received)),
        };
        let step = self.alarm.as_mut()?.tick(staying, pulse.opened(), seen)?;
        match step {
            Step::Ping => {
                // Refused where the transport has failed, which is noticed without it.
                let _ = self.apply(Command::Ping(pulse.ping().to_vec()));
            }
            Step::Ask { received } => pulse.ask(received),
            Step::GiveUp | Step::Close { .. } => self.alarm = None,
        }
        Some(step)
    }

    /// How far the end is, which begins with this.
    fn end(&mut self) -> &mut Ending {
        let ending = &mut self.seldom.get_or_insert_default().ending;
        ending.get_or_insert_with(|| {
            let began = Instant::now();
            Ending {
                began,
                moved: began,
                timer: None,
                overdue: false,
                shut_down: false,
                broken: None,
                unwritten: false,
            }
        })
    }

    fn is_shut_down(&self) -> bool {
        matches!(self.ending(), Some(ending) if ending.shut_down)
    }

    /// The time as the core has it.
    fn now(&mut self) -> Duration {
        self.end().began.elapsed()
    }

    /// When to give up on the peer, once a Close was sent: the close timeout after it has last taken something, since it
    /// cannot answer before; and at the latest after sixty of them.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        const MOST: u32 = 60;
        let timeout = self.sender.deadline()?;
        let ending = self.ending()?;
        let by = ending.moved + timeout;
        let last = ending.began.checked_add(timeout.saturating_mul(MOST));
        Some(last.map_or(by, |last| by.min(last)))
    }

    /// Notes that the peer has taken something, where its end is waited for.
    fn note_moved(&mut self) {
        if let Some(seldom) = &mut self.seldom
            && let Some(ending) = &mut seldom.ending
        {
            ending.moved = Instant::now();
        }
    }

    /// The new deadline of a peer whose deadline has passed, where it has taken something and the system has not said so:
    /// Linux does once a third of its buffer is free, which may be more than a slow peer takes in that time.
    #[cold]
    pub(crate) fn moved_after_all(&mut self) -> Option<Instant> {
        let output = self.sender.output();
        let count = output.next_chunk().and_then(|chunk| self.io.push(chunk))?;
        output.advance(count);
        self.sender.meter().count_written(count);
        self.note_moved();
        self.deadline().filter(|by| *by > Instant::now())
    }

    /// A timer for that. None yet where this is no task of a runtime, but a thread that has sent something: whoever receives
    /// has one.
    fn closing_timer(&mut self) -> Option<Pin<&mut Sleep>> {
        let deadline = self.deadline()?;
        let timer = &mut self.seldom.as_mut()?.ending.as_mut()?.timer;
        if timer.is_none() && Handle::try_current().is_err() {
            return None;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        Some(timer.as_mut())
    }

    /// Waits until then.
    pub(crate) fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(timer) = self.closing_timer() {
            // Not by the timer alone: a task that has done so much that it is to yield learns nothing of it, and a
            // peer that never stops talking would keep it from that.
            if timer.deadline() > Instant::now() {
                ready!(timer.poll(cx));
            }
            if self.moved_after_all().is_none() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// The same for the driver. Once: then the peer [is late](Self::is_overdue).
    pub(crate) fn poll_overdue(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_overdue() {
            return Poll::Pending;
        }
        ready!(self.poll_late(cx));
        self.end().overdue = true;
        Poll::Ready(())
    }

    /// Whether the driver has seen that the peer has not closed in time.
    pub(crate) fn is_overdue(&self) -> bool {
        matches!(self.ending(), Some(ending) if ending.overdue)
    }

    /// Writes what waits in one call, where it is in one piece and there is nothing else to see to. Says
    /// whether all of it went out; else the rest is for [`poll_flush`](Self::poll_flush).
    ///
    /// The way of most writes: for a message that comes alone, 105 instructions less.
    #[inline]
    pub(crate) fn write_quick(&mut self) -> io::Result<bool> {
        if self.ending().is_some() || self.has_latest() {
            return Ok(false);
        }
        let output = self.sender.output();
        let Some(waiting) = output.only_chunk().filter(|waiting| !waiting.is_empty()) else {
            return Ok(false);
        };
        let Some(count) = self.io.try_write(waiting)? else {
            return Ok(false);
        };
        output.advance(count);
        self.sender.meter().count_written(count);
        let Some(buffer) = self.sender.output().take_buffer() else {
            return Ok(false);
        };
        buffers::put_output(buffer);
        Ok(true)
    }

    /// Writes until nothing waits. Once both sides have closed, ends the transport too (RFC 6455
    /// §7.1.1: the server does so first).
    #[inline]
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        client: bool,
    ) -> Poll<Result<(), Lost>> {
        if let Some(lost) = self.broken() {
            return Poll::Ready(Err(lost.clone()));
        }
        match self.poll_write_all(cx, client) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.break_off(error))),
            Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline]
    fn poll_write_all(&mut self, cx: &mut Context<'_>, client: bool) -> Poll<io::Result<()>> {
        loop {
            if self.has_latest() {
                self.queue_latest(false);
            }
            let output = self.sender.output();
            if output.is_empty() {
                break;
            }
            match self.io.poll_write(cx, output) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    if let Some(payload) = output.advance_taking(count) {
                        buffers::reclaim(payload);
                    }
                    self.sender.meter().count_written(count);
                    self.note_moved();
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if output.spare() > 4 * output.len()
                        && let Some(buffer) = output.trade_buffer()
                    {
                        buffers::put_output(buffer);
                    }
                    return Poll::Pending;
                }
            }
        }
        if let Some(buffer) = self.sender.output().take_buffer() {
            buffers::put_output(buffer);
        }
        if !self.io.is_flushed() {
            ready!(self.io.poll_flush(cx))?;
            self.note_moved();
        }
        if self.sender.is_finished() && !client && !self.is_shut_down() {
            ready!(self.io.poll_shutdown(cx))?;
            self.end().shut_down = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Ends this direction of the transport, whatever waits.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_shut_down() && self.broken().is_none() {
            let _ = ready!(self.io.poll_shutdown(cx));
            self.end().shut_down = true;
        }
        Poll::Ready(())
    }

    /// Nothing more can be written: lets go of what waits.
    #[cold]
    pub(crate) fn break_off(&mut self, error: io::Error) -> Lost {
        let lost = Lost::new(error);
        self.end().broken = Some(lost.clone());
        self.wake_reading();
        self.forget_output();
        lost
    }

    /// The same where the peer has not taken all of it by the deadline of a Close.
    #[cold]
    pub(crate) fn break_off_late(&mut self) -> Lost {
        let late = "the peer did not take the Close within the close timeout";
        self.break_off(io::Error::new(io::ErrorKind::TimedOut, late))
    }

    fn forget_output(&mut self) {
        self.drop_latest();
        self.sender.peer_is_gone();
        let output = self.sender.output();
        // With the buffer, a payload would be kept for as long as nobody uses that.
        output.clear();
        if let Some(buffer) = output.take_buffer() {
            buffers::put_output(buffer);
        }
    }

    /// Says goodbye without waiting: a Close and what else goes out in one attempt.
    pub(crate) fn leave(&mut self) {
        if self.sender.is_open() {
            if self.has_latest() {
                self.queue_latest(true);
            }
            let now = self.now();
            let code = match thread::panicking() {
                true => CloseCode::INTERNAL_ERROR,
                false => CloseCode::GOING_AWAY,
            };
            let _ = self.sender.close(code, "", now);
        }
        self.write_once();
    }

    /// Writes what has not gone out with that, for as long as the peer takes some of it, and lets it end the transport:
    /// what nobody reads would reset it. Says how it has ended, where not well.
    pub(crate) async fn finish_alone(
        mut self: Box<Self>,
        reader: Option<Box<Reader>>,
        client: bool,
    ) -> Option<Ended> {
        let mut reader = reader.or_else(|| self.lent.take());
        poll_fn(|cx| {
            if self.poll_late(cx).is_ready() {
                return Poll::Ready(Some(Ended::TimedOut));
            }
            // Whatever it says: it may wait for that to be taken before it takes anything.
            let has_ended = match &mut reader {
                Some(reader) => reader.poll_discard(cx),
                None => Poll::Ready(()),
            };
            if has_ended.is_ready() {
                reader = None;
            }
            if let Err(lost) = ready!(self.poll_flush(cx, client)) {
                return Poll::Ready(Some(Ended::Lost(lost)));
            }
            ready!(self.poll_shutdown(cx));
            has_ended.map(|()| None)
        })
        .await
    }

    /// Writes what goes out without waiting, also for a task that has done so much that it is to yield: this is the last of
    /// it.
    pub(crate) fn write_once(&mut self) {
        let written = pin!(unconstrained(poll_fn(|cx| self.poll_flush(cx, false))));
        let _ = written.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Ends the transport with the connection, however long handles to it are kept.
    pub(crate) fn let_go(&mut self) {
        self.note_unwritten();
        self.forget_output();
        self.alarm = None;
        if let Some(seldom) = &mut self.seldom
            && let Some(ending) = &mut seldom.ending
        {
            ending.timer = None;
        }
        self.io = WriteHalf::Gone;
    }

    /// As [`let_go`](Self::let_go), where the half that is read goes at the same time.
    pub(crate) fn let_go_with_reader(&mut self) {
        // First: what the transport holds back goes with it.
        self.note_unwritten();
        self.io.leave_to_close();
        self.let_go();
    }

    /// Notes that not all will be written, where that is so: whoever has sent it must not take it for written.
    fn note_unwritten(&mut self) {
        let waits = self.waiting() > 0 || self.has_latest() || !self.io.is_flushed();
        if waits && self.broken().is_none() {
            let unwritten = "the connection has ended before this was written";
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, unwritten);
            let ending = self.end();
            (ending.broken, ending.unwritten) = (Some(Lost::new(error)), true);
        }
    }

    /// Why nothing more can be written.
    #[inline]
    pub(crate) fn broken(&self) -> Option<&Lost> {
        self.ending()?.broken.as_ref()
    }

    /// What is said to whoever sends something where nothing more can be written.
    #[cold]
    fn refusal(&self) -> Error {
        match self.ending() {
            Some(Ending {
                broken: Some(lost),
                unwritten: false,
                ..
            }) => Error::Lost(lost.clone()),
            _ => SendError::Closed.into(),
        }
    }

    /// Takes what is lent by somebody who waits for an event. With a waker of their own, as in a set of futures, they may
    /// not be polled when the driver is, or have been dropped, and without any budget left they have not looked: then the
    /// driver reads, and wakes them.
    #[inline]
    pub(crate) fn lend_awaited(&mut self, reader: &mut Option<Box<Reader>>, task: &Waker) {
        self.awaited = self.is_driven_by(task) && has_budget_remaining();
        if let Some(mut reader) = reader.take() {
            reader.wants_more = true;
            self.lent = Some(reader);
        }
    }

    /// Whether the receiving side is here, and nobody waits for an event.
    #[inline]
    pub(crate) fn is_left_alone(&self) -> bool {
        !self.awaited && self.lent.is_some()
    }

    /// Whether that is the task of the driver that holds this.
    #[inline]
    pub(crate) fn is_driven_by(&self, task: &Waker) -> bool {
        matches!(&self.task, Some(known) if known.will_wake(task))
    }

    pub(crate) fn set_driver(&mut self, task: &Waker) {
        self.task = Some(task.clone());
    }

    /// Whether that task waits for an event, as far as is known.
    #[inline]
    pub(crate) fn is_read_by(&self, task: &Waker) -> bool {
        let reads = match &self.seldom {
            Some(seldom) if !self.reads => seldom.reading.as_ref(),
            _ => self.task.as_ref().filter(|_| self.reads),
        };
        reads.is_some_and(|known| known.will_wake(task))
    }

    /// Has a task woken, in the poll of the driver, that waits for an event.
    pub(crate) fn set_reader(&mut self, task: &Waker) {
        self.reads = self.is_driven_by(task);
        if !self.reads {
            let reading = &mut self.seldom.get_or_insert_default().reading;
            *reading = Some(task.clone());
        }
    }

    /// The same where nobody drives.
    pub(crate) fn set_free_reader(&mut self, task: &Waker) {
        match &mut self.task {
            Some(known) => known.clone_from(task),
            none => *none = Some(task.clone()),
        }
        self.reads = true;
    }

    /// Wakes the task that waits for an event.
    pub(crate) fn wake_reading(&mut self) {
        if mem::take(&mut self.reads)
            && let Some(task) = &self.task
        {
            task.wake_by_ref();
        }
        self.wake_others_reading();
    }

    /// Wakes the task that waits for an event where that is not the driver's own, which is being polled.
    pub(crate) fn wake_others_reading(&mut self) {
        let other = self.seldom.as_mut().and_then(|it| it.reading.take());
        other.into_iter().for_each(Waker::wake);
    }

    /// The task that waits for an event where nobody drives.
    pub(crate) fn take_reading(&mut self) -> Option<Waker> {
        mem::take(&mut self.reads).then(|| self.task.take())?
    }

    /// Forgets whom to wake, as somebody else does it from here on.
    pub(crate) fn forget_tasks(&mut self) {
        (self.task, self.reads) = (None, false);
        if let Some(seldom) = &mut self.seldom {
            seldom.reading = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection has one of each. What is small lies in the gaps that the runtime's own, which are aligned to 128 bytes,
    /// leave: 8 bytes more in this took 55 a connection, as `bench/run --parts memory` measures it.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn what_every_connection_has_is_small() {
        let sizes = [size_of::<Link>(), size_of::<Reader>()];
        assert!(sizes[0] <= 168 && sizes[1] <= 88, "{sizes:?}");
    }
}
