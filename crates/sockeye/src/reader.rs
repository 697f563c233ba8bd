//! The receiving side of a connection: reads, and takes events off what was read.

use std::{
    collections::VecDeque,
    io, mem,
    ops::ControlFlow,
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::task::yield_now;

use sockeye_proto::{
    CloseFrame, Event, Message, MessageRef, OpCode, OwnedEvent, Part, ProtocolError, Receiver,
    deflate::Inflater,
};

use crate::{
    buffers::{self, ReadBuffer},
    given,
    throttle::{Rates, Throttle},
    transport::ReadHalf,
};

/// From this much still to come, a payload is read straight into the message's own buffer.
const DIRECT: usize = buffers::READ;

/// How many bytes are made of compressed messages, with [`TAKEN`] for each that is taken, before the other connections
/// of the thread have their turn. What was read in one go, 128 KiB, can become 128 MiB: without this, one peer would keep a
/// thread for as long as it pleases. Inflating so much takes about a millisecond.
const TURN: u32 = 1 << 20;

/// Stands for a turn that is over while the others have theirs.
const YIELDED: u32 = u32::MAX;

/// What a read counts for that has filled the buffer: there is more where that came from, and after four of them the
/// others have their turn, whatever is made of it.
const FULL: usize = TURN as usize / 4;

/// What a byte of a compressed message counts for. It can be work without anything being made of it: 16 KiB of empty
/// blocks take up to two and a half milliseconds.
const TAKEN: usize = 64;

/// The receiving side. All its state is here and none in a future, so that every read can be
/// dropped at any time.
#[derive(Debug)]
pub(crate) struct Reader {
    io: ReadHalf,
    receiver: Receiver,
    /// How far whoever receives is. Here, since there is room, and not in a future that has it twice.
    pub(crate) phase: Phase,
    /// Whether its owner goes on to receive, as far as is known: it waits for a message, or another stood behind the last that
    /// it was given. If not, it may be at work on that, which is in hand then. Told where it is [taken](Self::take_whole), with
    /// what is left at hand: it is three instructions less for each message than to look for it later.
    pub(crate) wants_more: bool,
    /// There while something was read that was not taken. Else it is the thread's.
    input: Option<Box<ReadBuffer>>,
    /// Whether the last read has left nothing behind, as far as is known: then asking before the
    /// next costs a third of trying.
    drained: bool,
    /// How much was done in this turn: how many bytes were made of compressed messages, what was [taken](TAKEN) for
    /// that, and a [part](FULL) of it for each read that filled the buffer; as far as it matters.
    done: u32,
    /// The [times](given::times) of much that was given as last seen.
    given: u8,
    /// What has come and is yet to be told. In a box, as all that few connections have.
    untold: Option<Box<Untold>>,
    /// Where the peer may only go so fast.
    throttle: Option<Box<Throttle>>,
}

/// What has come and nobody has been told of yet.
#[derive(Debug, Default)]
struct Untold {
    /// Control frames that were [answered](Reader::poll_ahead) while nobody received.
    answered: VecDeque<OwnedEvent>,
    /// Why no more comes: a Close, or another end.
    last: Option<Result<Option<CloseFrame>, Broken>>,
}

/// How many pings and pongs are kept to be told: the newest.
const TOLD: usize = 4;

/// How far whoever receives is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Nothing more will come; last words are written.
    Ending,
    Done,
}

/// Whoever events are delivered to. Each method says whether to go on.
pub(crate) trait Deliver {
    /// A message, lent from the read buffer.
    fn message(&mut self, message: MessageRef<'_>) -> ControlFlow<()>;

    /// Any event, lent.
    fn event(&mut self, event: Event<'_>) -> ControlFlow<()>;

    /// Any event, owned: a message that has a buffer of its own.
    fn owned(&mut self, event: OwnedEvent) -> ControlFlow<()>;
}

/// What came of a read.
#[derive(Debug)]
pub(crate) enum Read {
    /// Something: take the events off it. `full` where the buffer was filled, so that there may be
    /// more.
    Some { full: bool },
    /// The peer has ended its side.
    End,
}

/// Why no more events come.
#[derive(Debug)]
pub(crate) enum Broken {
    Protocol(ProtocolError),
    Io(io::Error),
    End,
}

impl Reader {
    /// A reader that begins with `early`, the bytes that came with the handshake.
    pub(crate) fn new(io: ReadHalf, receiver: Receiver, early: Vec<u8>) -> Self {
        receiver.meter().count_read(early.len());
        Self {
            io,
            receiver: receiver.in_turns(),
            phase: Phase::Open,
            wants_more: true,
            input: (!early.is_empty()).then(|| Box::new(ReadBuffer::full(early))),
            drained: false,
            done: 0,
            given: given::times(),
            untold: None,
            throttle: None,
        }
    }

    /// Holds the peer to rates, where there are any; while it is, whoever receives looks after the connection often enough
    /// for one that may be `idle` for so long.
    pub(crate) fn throttled(mut self, rates: Rates, idle: Option<Duration>) -> Self {
        let early = self.input.as_mut().map_or(0, |input| input.unread().len());
        self.throttle = Throttle::new(rates, early, idle);
        self
    }

    /// The next event, reading as needed.
    #[inline]
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<OwnedEvent, Broken>> {
        match self.throttle {
            None => self.poll_any_event(cx),
            Some(_) => self.poll_counted_event(cx),
        }
    }

    /// The same of a peer that may only go so fast. Once it is [let run](Self::let_run), what it says is not told: that would
    /// be faster than it may.
    #[cold]
    fn poll_counted_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<OwnedEvent, Broken>> {
        loop {
            let event = ready!(self.poll_counted(cx, Self::poll_any_event, |event| {
                !matches!(event, OwnedEvent::Close(_))
            }))?;
            if !(self.runs() && matches!(event, OwnedEvent::Message(_))) {
                return Poll::Ready(Ok(event));
            }
            ready!(self.poll_turn(cx));
        }
    }

    fn poll_any_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<OwnedEvent, Broken>> {
        if let Some(last) = self.take_last() {
            return Poll::Ready(last.map(OwnedEvent::Close));
        }
        if self.has_input()
            && let Some(event) = ready!(self.poll_take(cx))?
        {
            return Poll::Ready(Ok(event));
        }
        loop {
            match ready!(self.poll_read(cx))? {
                Read::Some { .. } => {}
                Read::End => return Poll::Ready(Err(Broken::End)),
            }
            // What was read into a message's own buffer is looked at at once: nothing else would say that it is there.
            if self.input.is_some() {
                ready!(self.poll_turn(cx));
            }
            // Whatever was read: a payload read into the message's own buffer may have completed the message.
            if let Some(event) = ready!(self.poll_take(cx))? {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// Takes the next event off what was read; the others of the thread have their turn while much is discarded or
    /// inflated for it.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<OwnedEvent>, Broken>> {
        while !self.discard_skipped().map_err(Broken::Protocol)? {
            ready!(self.poll_turn(cx));
        }
        loop {
            let event = self.take().map_err(Broken::Protocol)?;
            if event.is_some() || !self.receiver.is_inflating() {
                return Poll::Ready(Ok(event));
            }
            ready!(self.poll_turn(cx));
        }
    }

    /// Takes a message as [`take_whole`](Self::take_whole) does, after a read where nothing is there. `None`
    /// where there is more to it, for [`poll_event`](Self::poll_event).
    #[inline(always)]
    pub(crate) fn poll_whole(&mut self, cx: &mut Context<'_>) -> Option<Poll<Message>> {
        if self.throttle.is_some() {
            return match self.poll_whole_counted(cx) {
                Poll::Ready(whole) => whole.map(Poll::Ready),
                Poll::Pending => Some(Poll::Pending),
            };
        }
        if let Some(message) = self.take_whole() {
            return Some(Poll::Ready(message));
        }
        self.poll_read_whole(cx)
    }

    /// The same, of a peer that may only go so fast. Where it has to wait, or is too fast, that too is left to be found.
    #[cold]
    fn poll_whole_counted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        if self.is_held_back() || self.runs() {
            return Poll::Ready(None);
        }
        let whole = match self.take_whole() {
            Some(message) => Some(message),
            None => match self.poll_read_whole(cx) {
                Some(read) => Some(ready!(read)),
                None => {
                    if let Some(throttle) = &mut self.throttle {
                        throttle.let_pass();
                    }
                    None
                }
            },
        };
        if whole.is_some()
            && let Some(throttle) = &mut self.throttle
            && let Err(error) = throttle.message()
        {
            self.fail(Broken::Protocol(error));
            return Poll::Ready(None);
        }
        Poll::Ready(whole)
    }

    /// Reads where nothing is there, and takes a message off that.
    #[inline(always)]
    fn poll_read_whole(&mut self, cx: &mut Context<'_>) -> Option<Poll<Message>> {
        if self.input.is_some()
            || self.untold.is_some()
            || self.has_had_its_turn()
            || !self.receiver.is_fresh()
        {
            return None;
        }
        match self.poll_read(cx) {
            Poll::Ready(Ok(Read::Some { .. })) => return self.take_whole().map(Poll::Ready),
            Poll::Ready(Ok(Read::End)) => self.fail(Broken::End),
            Poll::Ready(Err(broken)) => self.fail(broken),
            Poll::Pending => return Some(Poll::Pending),
        }
        None
    }

    /// As [`poll_event`](Self::poll_event), with messages in parts, each put into `room`.
    pub(crate) fn poll_part(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<Part, Broken>> {
        match self.throttle {
            None => self.poll_any_part(cx, room),
            Some(_) => self.poll_counted_part(cx, room),
        }
    }

    /// As [`poll_counted_event`](Self::poll_counted_event).
    #[cold]
    fn poll_counted_part(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<Part, Broken>> {
        loop {
            let part = ready!(self.poll_counted(
                cx,
                |reader, cx| reader.poll_any_part(cx, room),
                |part| match part {
                    Part::Begin(_) | Part::Data(_) | Part::Event(OwnedEvent::Close(_)) => false,
                    Part::End | Part::Event(_) => true,
                },
            ))?;
            if let Some(throttle) = &mut self.throttle {
                throttle.has_begun(&part);
            }
            if !(self.runs() && matches!(part, Part::Begin(_))) {
                return Poll::Ready(Ok(part));
            }
            self.skip_message();
            ready!(self.poll_turn(cx));
        }
    }

    /// The next event that is no message, for whoever answers it where nobody will ever receive: messages are discarded as
    /// they come, however large.
    pub(crate) fn poll_discarding(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<OwnedEvent, Broken>> {
        loop {
            ready!(self.poll_turn(cx));
            self.skip_message();
            while !self.discard_skipped().map_err(Broken::Protocol)? {
                ready!(self.poll_turn(cx));
            }
            if let Part::Event(event) = ready!(self.poll_part(cx, &mut []))? {
                return Poll::Ready(Ok(event));
            }
        }
    }

    /// As [`poll_part`](Self::poll_part) between messages, but for one that is there whole: that is an event, by the quick
    /// way of [`poll_whole`](Self::poll_whole).
    #[cfg(feature = "client")]
    pub(crate) fn poll_begin(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Broken>> {
        match self.poll_whole(cx) {
            Some(whole) => whole.map(|message| Ok(Part::Event(OwnedEvent::Message(message)))),
            None => self.poll_part(cx, &mut []),
        }
    }

    fn poll_any_part(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<Part, Broken>> {
        if let Some(last) = self.take_last() {
            return Poll::Ready(last.map(|frame| Part::Event(OwnedEvent::Close(frame))));
        }
        loop {
            let mut input = unread(&mut self.input);
            let before = self.receiver.meter().read_compressed();
            let part = self.receiver.receive_part(&mut input, room);
            let left = input.len();
            self.leave(left);
            if self.receiver.inflates() {
                let made = match part {
                    // A turn's worth came to nothing.
                    Ok(Some(Part::Data(0))) => TURN as usize,
                    Ok(Some(Part::Data(count))) => count,
                    _ => 0,
                };
                self.count_inflated(before, made);
            }
            if let Some(part) = part.map_err(Broken::Protocol)? {
                return Poll::Ready(Ok(part));
            }
            match ready!(self.poll_read(cx))? {
                Read::Some { .. } => {}
                Read::End => return Poll::Ready(Err(Broken::End)),
            }
            ready!(self.poll_turn(cx));
        }
    }

    /// What the peer says that is no message, as far as the next message, for whoever answers it while nobody receives:
    /// `None` where a message is next.
    pub(crate) fn poll_ahead(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<OwnedEvent>, Broken>> {
        loop {
            ready!(self.poll_turn(cx));
            ready!(self.poll_ready(cx));
            if let Some(last) = self.take_last() {
                return Poll::Ready(last.map(|frame| Some(OwnedEvent::Close(frame))));
            }
            if self.is_message_next() {
                // It may be long until somebody takes it.
                if let Some(input) = &mut self.input {
                    buffers::trade_read_of_many(input);
                }
                return Poll::Ready(Ok(None));
            }
            if self.input.is_none() {
                match ready!(self.poll_read(cx))? {
                    Read::Some { .. } => {}
                    Read::End => return Poll::Ready(Err(Broken::End)),
                }
            } else if let Some(event) = self.take().map_err(Broken::Protocol)? {
                if let Some(throttle) = &mut self.throttle
                    && !matches!(event, OwnedEvent::Close(_))
                {
                    throttle.message().map_err(Broken::Protocol)?;
                }
                return Poll::Ready(Ok(Some(event)));
            }
        }
    }

    /// Whether a message is next, or more of one.
    pub(crate) fn is_message_next(&mut self) -> bool {
        let input = unread(&mut self.input);
        self.receiver.is_message_next(input)
    }

    /// Keeps what was answered, to be told to whoever receives next.
    pub(crate) fn tell_later(&mut self, event: OwnedEvent) {
        let answered = &mut self.untold.get_or_insert_default().answered;
        if answered.len() == TOLD && !matches!(event, OwnedEvent::Close(_)) {
            answered.pop_front();
        }
        answered.push_back(event);
    }

    /// The next that was answered and not told.
    pub(crate) fn take_answered(&mut self) -> Option<OwnedEvent> {
        let answered = self.untold.as_mut()?.answered.pop_front();
        self.forget_told();
        answered
    }

    fn fail(&mut self, broken: Broken) {
        self.keep_last(Err(broken));
    }

    /// Keeps why no more comes, for whoever asks next.
    pub(crate) fn keep_last(&mut self, last: Result<Option<CloseFrame>, Broken>) {
        self.untold.get_or_insert_default().last = Some(last);
    }

    /// Whether it is known that no more comes, and nobody has acted on it.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(&self.untold, Some(untold) if untold.last.is_some())
    }

    /// Whether nobody is to act on that before its owner is done with a message.
    pub(crate) fn ends_later(&self) -> bool {
        !self.wants_more && self.has_ended()
    }

    /// That no more comes, for whoever acts on it.
    pub(crate) fn take_last(&mut self) -> Option<Result<Option<CloseFrame>, Broken>> {
        let last = self.untold.as_mut()?.last.take();
        self.forget_told();
        last
    }

    fn forget_told(&mut self) {
        let is_told = |it: &mut Box<Untold>| it.answered.is_empty() && it.last.is_none();
        drop(self.untold.take_if(is_told));
    }

    /// Takes something of a peer that may only go so fast, and counts it where it `is` a message, a ping or
    /// a pong.
    #[cold]
    fn poll_counted<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&mut Self, &mut Context<'_>) -> Poll<Result<T, Broken>>,
        is: impl FnOnce(&T) -> bool,
    ) -> Poll<Result<T, Broken>> {
        let passes = self.throttle.as_mut().is_some_and(|it| it.passes());
        if !passes {
            ready!(self.poll_ready(cx));
        }
        let taken = ready!(take(self, cx))?;
        if let Some(throttle) = &mut self.throttle
            && is(&taken)
        {
            throttle.message().map_err(Broken::Protocol)?;
        }
        Poll::Ready(Ok(taken))
    }

    /// Waits until the peer may go on.
    #[inline]
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.throttle {
            None => Poll::Ready(()),
            Some(throttle) => {
                let ready = throttle.poll_ready(cx);
                if let Some(input) = &mut self.input
                    && ready.is_pending()
                {
                    buffers::trade_read(input);
                }
                ready
            }
        }
    }

    /// Waits for the next turn, where so much was done that the others of the thread come first.
    #[inline]
    pub(crate) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let times = given::times();
        if times != self.given {
            self.given = times;
            // Not twice in a row, whatever others have given meanwhile.
            if given::take_much() && self.done != YIELDED {
                self.done = TURN;
            }
        }
        if !self.has_had_its_turn() {
            return Poll::Ready(());
        }
        if self.done == YIELDED {
            self.done = 0;
            return Poll::Ready(());
        }
        self.done = YIELDED;
        // Unlike a wake, it has the runtime also look at what has come for the others.
        pin!(yield_now()).poll(cx)
    }

    /// Whether it may be that so much was given to other connections for what came.
    #[inline]
    pub(crate) fn may_have_given_much(&self) -> bool {
        given::times() != self.given
    }

    /// Whether so much was done that the others of the thread come first.
    #[inline]
    pub(crate) fn has_had_its_turn(&self) -> bool {
        self.done >= TURN
    }

    /// Whether its turn is over and the next has not begun, for which whoever asked for it is woken.
    #[inline]
    pub(crate) fn is_between_turns(&self) -> bool {
        self.done == YIELDED
    }

    /// Whether the peer is held back: then nothing is read, whatever has come.
    #[inline]
    pub(crate) fn is_held_back(&mut self) -> bool {
        let throttle = self.throttle.as_mut();
        throttle.is_some_and(|throttle| throttle.is_spent())
    }

    /// Holds the peer back no more, as where its Close is waited for.
    pub(crate) fn let_run(&mut self) {
        if let Some(throttle) = &mut self.throttle {
            throttle.let_run();
        }
    }

    /// Whether the peer was held back, and is no more.
    fn runs(&self) -> bool {
        matches!(&self.throttle, Some(throttle) if throttle.runs())
    }

    /// Whether something has come that nobody was told of.
    pub(crate) fn holds_something(&self) -> bool {
        self.has_input() || !self.receiver.is_fresh()
    }

    /// Counts what was read.
    #[inline]
    fn count(&mut self, count: usize) -> Result<(), Broken> {
        self.receiver.meter().count_read(count);
        match &mut self.throttle {
            None => Ok(()),
            Some(throttle) => throttle.read(count).map_err(Broken::Protocol),
        }
    }

    /// Says that nobody wants the rest of a message that is being received in parts.
    pub(crate) fn skip_message(&mut self) {
        if let Some(throttle) = &mut self.throttle {
            throttle.skip();
        }
        self.receiver.skip_message();
    }

    /// Discards what was read of a message that nobody wants the rest of, and no more of it than is inflated in a
    /// turn. Tells whether that was all.
    fn discard_skipped(&mut self) -> Result<bool, ProtocolError> {
        if !self.receiver.inflates() || self.receiver.is_fresh() {
            return Ok(true);
        }
        let mut input = unread(&mut self.input);
        let before = self.receiver.meter().read_compressed();
        let all = self.receiver.discard_part(&mut input);
        let left = input.len();
        self.leave(left);
        self.count_inflated(before, 0);
        if let Ok(false) = all {
            self.done = TURN;
        }
        all
    }

    /// Takes a message off what was read, where it is there whole and needs no codec. What is wrong
    /// with one is left to be found by [`poll_event`](Self::poll_event).
    #[inline(always)]
    fn take_whole(&mut self) -> Option<Message> {
        if self.input.is_none() || self.untold.is_some() {
            return None;
        }
        let mut input = unread(&mut self.input);
        let taken = self.receiver.receive_whole_owned(&mut input)?;
        let (next, left) = (input.first().copied(), input.len());
        // First, so that the message is made where it goes, and not moved there: see `into_owned`, which makes it.
        let message = match taken {
            Ok(message) => Some(message),
            Err(error) => {
                self.fail(Broken::Protocol(error));
                None
            }
        };
        if let Some(next) = next {
            self.wants_more = !OpCode::begins_control(next);
            self.leave(left);
        } else {
            self.wants_more = false;
            self.leave_nothing();
        }
        message
    }

    /// Takes the next event off what was read.
    #[inline]
    fn take(&mut self) -> Result<Option<OwnedEvent>, ProtocolError> {
        let mut input = unread(&mut self.input);
        if !self.receiver.inflates() {
            let event = self
                .receiver
                .receive_owned(&mut input, &mut Inflater::new());
            let left = input.len();
            self.leave(left);
            return event;
        }
        let before = self.receiver.meter().read_compressed();
        let event =
            buffers::with_inflater(|inflater| self.receiver.receive_owned(&mut input, inflater));
        let left = input.len();
        self.leave(left);
        let made = match &event {
            Ok(Some(OwnedEvent::Message(message))) => message.len(),
            _ => 0,
        };
        self.count_inflated(before, made);
        event
    }

    /// Delivers all events off what was read, until one breaks it off.
    #[inline]
    pub(crate) fn deliver(&mut self, to: &mut impl Deliver) -> Result<(), ProtocolError> {
        if self.throttle.is_some() {
            return self.deliver_counted(to);
        }
        self.deliver_all(to)
    }

    /// As [`deliver`](Self::deliver), of a peer that may only go so fast.
    #[cold]
    fn deliver_counted(&mut self, to: &mut impl Deliver) -> Result<(), ProtocolError> {
        let Some(throttle) = self.throttle.take() else {
            return Ok(());
        };
        let mut counted = Counted {
            to,
            throttle,
            exceeded: None,
        };
        let delivered = self.deliver_all(&mut counted);
        self.throttle = Some(counted.throttle);
        counted.exceeded.map_or(delivered, Err)
    }

    #[inline]
    fn deliver_all(&mut self, to: &mut impl Deliver) -> Result<(), ProtocolError> {
        // Most of what is read is whole messages and nothing else, which need no codec.
        let mut input = unread(&mut self.input);
        let flow = self
            .receiver
            .receive_each_whole(&mut input, |message| to.message(message));
        let left = input.len();
        self.leave(left);
        let all = left == 0 && self.receiver.is_fresh();
        if matches!(flow, Ok(ControlFlow::Continue(()))) && !all {
            return self.deliver_any(to);
        }
        flow.map(drop)
    }

    fn deliver_any(&mut self, to: &mut impl Deliver) -> Result<(), ProtocolError> {
        if !self.discard_skipped()? {
            return Ok(());
        }
        if self.receiver.inflates() {
            buffers::with_inflater(|inflater| self.deliver_with(inflater, to))
        } else {
            self.deliver_with(&mut Inflater::new(), to)
        }
    }

    fn deliver_with(
        &mut self,
        inflater: &mut Inflater,
        to: &mut impl Deliver,
    ) -> Result<(), ProtocolError> {
        let mut input = unread(&mut self.input);
        let result = loop {
            match self
                .receiver
                .receive_each_whole(&mut input, |message| to.message(message))
            {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break Ok(()),
                Err(error) => break Err(error),
            }
            let mut count = 0;
            let before = self.receiver.meter().read_compressed();
            let flow = if self.receiver.is_gathering() {
                let event = self.receiver.receive_owned(&mut input, inflater);
                event.map(|event| {
                    event.map(|event| {
                        if let OwnedEvent::Message(message) = &event {
                            count = message.len();
                        }
                        to.owned(event)
                    })
                })
            } else {
                let event = self.receiver.receive(&mut input, inflater);
                event.map(|event| {
                    event.map(|event| {
                        if let Event::Message(message) = &event {
                            count = message.len();
                        }
                        to.event(event)
                    })
                })
            };
            if self.receiver.inflates() {
                let taken = self.receiver.meter().read_compressed().wrapping_sub(before);
                add(&mut self.done, cost(taken, count));
            }
            match flow {
                Ok(Some(ControlFlow::Continue(()))) if self.done >= TURN => break Ok(()),
                Ok(Some(ControlFlow::Continue(()))) => {}
                Ok(Some(ControlFlow::Break(())) | None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        let left = input.len();
        self.leave(left);
        if self.receiver.is_inflating() {
            self.done = TURN;
        }
        result
    }

    /// Counts what was made, and what was taken for it of compressed messages since there had been so many bytes of
    /// them `before`.
    fn count_inflated(&mut self, before: usize, made: usize) {
        let taken = self.receiver.meter().read_compressed().wrapping_sub(before);
        add(&mut self.done, cost(taken, made));
        if self.receiver.is_inflating() {
            self.done = TURN;
        }
    }

    /// Whether there is something to take an event off, without a read.
    #[inline]
    pub(crate) fn has_input(&self) -> bool {
        self.input.is_some() || self.receiver.is_inflating()
    }

    /// Reads once. Call it only where everything read before has been taken.
    #[inline(always)]
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, Broken>> {
        ready!(self.poll_ready(cx));
        // Not within a message: a large one is given its buffer first, or the server of `./test soak` holds
        // half as much again.
        if self.receiver.is_fresh() && mem::take(&mut self.drained) && self.io.is_dry(cx) {
            return Poll::Pending;
        }
        self.poll_read_any(cx)
    }

    // A function of its own, so that finding nothing takes no call.
    #[inline(never)]
    fn poll_read_any(&mut self, cx: &mut Context<'_>) -> Poll<Result<Read, Broken>> {
        if !self.receiver.is_fresh()
            && let Some(read) = self.poll_read_payload(cx)
        {
            return read;
        }
        let mut buffer = buffers::take_read();
        match self.io.poll_read(cx, buffer.room()) {
            Poll::Ready(Ok(count)) if count > 0 => {
                buffer.filled(count);
                let full = count == buffers::READ;
                self.drained = !full;
                self.input = Some(buffer);
                Poll::Ready(self.count(count).map(|()| self.read(full)))
            }
            other => {
                buffers::put_read(buffer);
                Poll::Ready(match ready!(other) {
                    Ok(_) => Ok(Read::End),
                    Err(error) => Err(Broken::Io(error)),
                })
            }
        }
    }

    /// Reads the rest of a large message to where it will stay; `None` where there is none.
    fn poll_read_payload(&mut self, cx: &mut Context<'_>) -> Option<Poll<Result<Read, Broken>>> {
        if let Some(room) = self.receiver.room_wanted()
            && room >= DIRECT
            && let Some(buffer) = buffers::take_large(room)
        {
            self.receiver.adopt(buffer);
        }
        let (payload, limit) = self.receiver.payload_buffer(DIRECT)?;
        let read = self.io.poll_append(cx, payload, limit);
        Some(read.map(|count| {
            let count = count.map_err(Broken::Io)?;
            self.receiver.received(count).map_err(Broken::Protocol)?;
            self.count(count)?;
            Ok(match count {
                0 => Read::End,
                _ => self.read(count == limit),
            })
        }))
    }

    /// What a read is that has found something.
    #[inline]
    fn read(&mut self, full: bool) -> Read {
        if full {
            add(&mut self.done, FULL);
        }
        Read::Some { full }
    }

    /// Reads and discards until the peer has ended its side, or the transport failed.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.leave(0);
        let mut buffer = buffers::take_read();
        let result = loop {
            match self.io.poll_read(cx, buffer.room()) {
                Poll::Ready(Ok(count)) if count > 0 => self.receiver.meter().count_read(count),
                Poll::Ready(_) => break Poll::Ready(()),
                Poll::Pending => break Poll::Pending,
            }
        };
        buffers::put_read(buffer);
        result
    }

    /// Notes how many bytes were not taken. Without any, the buffer goes back to the thread.
    #[inline(always)]
    fn leave(&mut self, left: usize) {
        match &mut self.input {
            Some(input) if left > 0 => {
                input.leave(left);
                buffers::trade_read_of_many(input);
            }
            _ => self.leave_nothing(),
        }
    }

    fn leave_nothing(&mut self) {
        if let Some(input) = self.input.take() {
            buffers::put_read(input);
        }
    }
}

/// What was read and not taken.
#[inline]
fn unread(input: &mut Option<Box<ReadBuffer>>) -> &mut [u8] {
    match input {
        Some(input) => input.unread(),
        None => &mut [],
    }
}

/// What it counts for that so many bytes of a compressed message were taken, and so many made.
fn cost(taken: usize, made: usize) -> usize {
    TAKEN.saturating_mul(taken).saturating_add(made)
}

/// Adds, as far as it matters.
fn add(done: &mut u32, count: usize) {
    *done = done.saturating_add(count.min(TURN as usize) as u32);
}

/// Counts what is delivered, and breaks it off where the peer has to wait.
struct Counted<'a, T> {
    to: &'a mut T,
    throttle: Box<Throttle>,
    exceeded: Option<ProtocolError>,
}

impl<T: Deliver> Counted<'_, T> {
    fn count(&mut self, deliver: impl FnOnce(&mut T) -> ControlFlow<()>) -> ControlFlow<()> {
        if let Err(error) = self.throttle.message() {
            self.exceeded = Some(error);
            return ControlFlow::Break(());
        }
        deliver(self.to)?;
        if self.throttle.is_spent() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl<T: Deliver> Deliver for Counted<'_, T> {
    fn message(&mut self, message: MessageRef<'_>) -> ControlFlow<()> {
        self.count(|to| to.message(message))
    }

    fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
        // Whoever says goodbye asks for nothing more.
        if matches!(event, Event::Close(_)) {
            return self.to.event(event);
        }
        self.count(|to| to.event(event))
    }

    fn owned(&mut self, event: OwnedEvent) -> ControlFlow<()> {
        if matches!(event, OwnedEvent::Close(_)) {
            return self.to.owned(event);
        }
        self.count(|to| to.owned(event))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    #[cfg(feature = "deflate")]
    use sockeye_proto::deflate::{Direction, WindowBits};
    use sockeye_proto::{Limits, Role};
    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::{rate::Rate, stream::Stream, transport};

    /// Of many peers that are held back, each would keep a buffer of 130 KiB with a few bytes in it.
    #[tokio::test(start_paused = true)]
    async fn whoever_is_held_back_keeps_what_it_has_sent_and_no_more() {
        let (ours, mut theirs) = duplex(1024);
        let (io, _) = transport::split(Stream::new(ours));
        let receiver = Receiver::new(Role::Client { masks: || [0; 4] }, Limits::default(), None);
        let rates = Rates {
            messages: Some(Rate::per_second(1)),
            ..Rates::default()
        };
        let mut reader = Reader::new(io, receiver, Vec::new()).throttled(rates, None);
        theirs
            .write_all(b"\x81\x01a\x81\x01b\x81\x01c")
            .await
            .unwrap();
        for left in [6, 3, 0] {
            let message = poll_fn(|cx| reader.poll_event(cx)).await;
            assert!(matches!(message, Ok(OwnedEvent::Message(_))), "{message:?}");
            let again = poll_fn(|cx| Poll::Ready(reader.poll_event(cx))).await;
            assert!(again.is_pending() && reader.has_input() == (left > 0));
            let memory = reader.input.as_ref().map_or(0, |input| input.memory());
            assert!(memory <= 6, "{memory}");
        }
    }

    /// Of very many connections whose tasks do something else for long, each would keep a buffer of 130 KiB for a message.
    #[tokio::test]
    async fn many_that_have_read_ahead_keep_what_they_have_read() {
        const READERS: usize = 1000;
        let mut held = Vec::new();
        for _ in 0..READERS {
            let (ours, mut theirs) = duplex(1024);
            let (io, _) = transport::split(Stream::new(ours));
            let role = Role::Client { masks: || [0; 4] };
            let receiver = Receiver::new(role, Limits::default(), None);
            let mut reader = Reader::new(io, receiver, Vec::new());
            theirs.write_all(b"\x81\x01a").await.unwrap();
            let message = poll_fn(|cx| reader.poll_ahead(cx)).await;
            assert!(matches!(message, Ok(None)), "{message:?}");
            held.push(reader);
        }
        let memory = |reader: &Reader| reader.input.as_ref().map_or(0, |input| input.memory());
        let memory: usize = held.iter().map(memory).sum();
        assert!(memory < READERS * buffers::READ / 4, "{memory}");
    }

    /// What is left may be with the receiver: an empty read buffer does not say that all that has come is handled, for
    /// which a server that ends closes the connection.
    #[cfg(feature = "deflate")]
    #[tokio::test]
    async fn between_two_turns_it_is_known_that_there_is_more() {
        let (ours, mut theirs) = duplex(1 << 20);
        let (io, _) = transport::split(Stream::new(ours));
        let deflate = Direction {
            keeps_context: false,
            window: WindowBits::MAX,
        };
        let role = Role::Client { masks: || [0; 4] };
        let receiver = Receiver::new(role, Limits::default(), Some(deflate));
        let mut reader = Reader::new(io, receiver, Vec::new());
        // Of a frame of a mebibyte, more than is taken in a turn: blocks with nothing in them.
        theirs
            .write_all(&[0x42, 127, 0, 0, 0, 0, 0, 0x10, 0, 0])
            .await
            .unwrap();
        let empty = [0x02, 0x08, 0x20, 0x80, 0x00].repeat(40 << 10);
        theirs.write_all(&empty).await.unwrap();
        let gathered = poll_fn(|cx| Poll::Ready(reader.poll_event(cx))).await;
        assert!(gathered.is_pending());
        let begun = poll_fn(|cx| reader.poll_part(cx, &mut [])).await;
        assert!(matches!(begun, Ok(Part::Begin(_))), "{begun:?}");
        let wasted = poll_fn(|cx| reader.poll_part(cx, &mut [0])).await;
        assert!(matches!(wasted, Ok(Part::Data(0))), "{wasted:?}");
        for over in [true, false] {
            let turn = poll_fn(|cx| Poll::Ready(reader.poll_turn(cx))).await;
            assert_eq!((turn.is_pending(), reader.has_had_its_turn()), (over, over));
            assert!(!reader.has_input());
        }
    }
}
