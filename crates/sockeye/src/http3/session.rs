//! A connection of HTTP/3: its control streams, and what each end has said in them (RFC 9114 §6.2, RFC 9204 §4.2).

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, Waker},
};

use quinn::{
    ApplicationClose, Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt,
    WriteError,
};
use tokio::{sync::watch, task::coop::consume_budget};

use super::{
    Code, Fault, REQUESTS,
    frames::{Frame, Frames, Settings, Trouble, put_frame, put_integer, take_integer},
};

/// The kinds of streams of one direction (RFC 9114 §6.2, RFC 9204 §4.2).
const CONTROL: u64 = 0x00;
const PUSH: u64 = 0x01;
const ENCODER: u64 = 0x02;
const DECODER: u64 = 0x03;

/// Which end this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What the peer has said of the connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Said {
    pub(crate) settings: Option<Settings>,
    /// The first of what it does not take any more (RFC 9114 §5.2): a stream of a client's, a push of a server's.
    pub(crate) goaway: Option<u64>,
}

/// A connection, for as long as anyone has a use for it: it ends once this is dropped.
pub(crate) struct Session {
    connection: Connection,
    side: Side,
    said: watch::Sender<Said>,
    /// Which of the peer's streams there have been that may not be twice.
    seen: AtomicU8,
    /// This end's own. It ends with the connection.
    control: Mutex<SendStream>,
    /// What the peer has broken.
    fault: OnceLock<Fault>,
}

impl Session {
    /// Says what this end takes, and hears from now on what the peer says.
    ///
    /// # Errors
    /// How the connection has ended.
    ///
    /// # Cancel safety
    /// Dropping the future loses what was said: the connection is to be given up then.
    pub(crate) async fn begin(
        connection: Connection,
        side: Side,
        settings: Settings,
    ) -> io::Result<Arc<Self>> {
        let mut control = connection.open_uni().await?;
        let mut begin = Vec::new();
        put_integer(&mut begin, CONTROL);
        put_frame(&mut begin, Frame::Settings, &settings.to_bytes());
        control.write_all(&begin).await?;
        let session = Arc::new(Self {
            connection: connection.clone(),
            side,
            said: watch::Sender::default(),
            seen: AtomicU8::new(0),
            control: Mutex::new(control),
            fault: OnceLock::new(),
        });
        tokio::spawn(take_streams(connection, Arc::downgrade(&session)));
        Ok(session)
    }

    /// What the peer has said that it takes, once it has.
    ///
    /// # Errors
    /// How the connection has ended before.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn settings(&self) -> io::Result<Settings> {
        let mut said = self.said.subscribe();
        let mut told = pin!(said.wait_for(|said| said.settings.is_some()));
        let mut closed = pin!(self.connection.closed());
        poll_fn(|cx| match told.as_mut().poll(cx) {
            Poll::Ready(Ok(said)) => Poll::Ready(Ok(said.settings)),
            _ => closed
                .as_mut()
                .poll(cx)
                .map(|error| Err(self.connection_error(error))),
        })
        .await
        .map(Option::unwrap_or_default)
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Opens a stream for a request, once the peer permits one more.
    ///
    /// # Errors
    /// How the connection has ended; or that the peer takes no more requests, after which none may be begun (RFC 9114 §5.2).
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn open(&self) -> io::Result<(SendStream, RecvStream)> {
        let mut said = self.said.subscribe();
        let mut leaves = pin!(said.wait_for(|said| said.goaway.is_some()));
        let mut opened = pin!(self.connection.open_bi());
        poll_fn(|cx| match leaves.as_mut().poll(cx) {
            Poll::Ready(_) => {
                let why = "the server takes no more requests on this connection (GOAWAY)";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)))
            }
            Poll::Pending => {
                let opened = opened.as_mut().poll(cx);
                opened.map_err(|error| self.connection_error(error))
            }
        })
        .await
    }

    /// Has a client know that it may ask again, as a request has ended: quinn would say so once an eighth of all have.
    pub(crate) fn has_room(&self) {
        if self.side == Side::Server {
            // Of one that is permitted, each counts.
            self.connection.set_max_concurrent_bi_streams(1_u32.into());
            self.connection
                .set_max_concurrent_bi_streams(REQUESTS.into());
        }
    }

    /// What its peer has broken, if that is why it has ended.
    pub(crate) fn broken(&self) -> Option<io::Error> {
        self.fault.get().map(|fault| broken(*fault))
    }

    /// Ends the connection for what its peer has done.
    pub(crate) fn fail(&self, fault: Fault) {
        // The first one counts, as it does for the peer.
        let _ = self.fault.set(fault);
        self.connection
            .close(fault.code.into(), fault.why.as_bytes());
    }

    /// Ends the connection, or lets it end, as whatever stands in the way of a stream calls for.
    pub(crate) fn trouble(&self, trouble: Trouble) -> io::Error {
        match trouble {
            Trouble::Ended(error) => self.read_error(error),
            Trouble::Fault(fault) => {
                self.fail(fault);
                broken(fault)
            }
        }
    }

    /// How a connection has ended, with the reason where it is this end's.
    pub(crate) fn connection_error(&self, error: ConnectionError) -> io::Error {
        match (self.fault.get(), error) {
            (Some(fault), _) => broken(*fault),
            (None, ConnectionError::ApplicationClosed(close)) => ended(&close),
            (None, ConnectionError::LocallyClosed) => {
                let why = "this end has closed the connection, or the runtime that it was made in has ended";
                io::Error::new(io::ErrorKind::ConnectionAborted, why)
            }
            (None, error) => error.into(),
        }
    }

    fn read_error(&self, error: ReadError) -> io::Error {
        match error {
            ReadError::ConnectionLost(error) => self.connection_error(error),
            ReadError::Reset(code) => reset(code),
            error => error.into(),
        }
    }

    pub(crate) fn write_error(&self, error: WriteError) -> io::Error {
        match error {
            WriteError::ConnectionLost(error) => self.connection_error(error),
            WriteError::Stopped(code) => {
                let why = format!("the peer takes no more of the stream ({})", named(code));
                io::Error::new(io::ErrorKind::BrokenPipe, why)
            }
            error => error.into(),
        }
    }

    /// Says as a server that nothing is taken from a stream on (RFC 9114 §5.2).
    pub(crate) fn go_away(&self, from: u64) {
        let (mut id, mut frame) = (Vec::new(), Vec::new());
        put_integer(&mut id, from);
        put_frame(&mut frame, Frame::GoAway, &id);
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        // A client that has left it no room in a stream of some ten bytes is not told.
        let control = Pin::new(&mut *control);
        let _ = control.poll_write(&mut Context::from_waker(Waker::noop()), &frame);
    }

    /// Whether it is the first such stream of the peer's.
    fn is_first(&self, kind: u64) -> bool {
        let bit = 1 << kind;
        self.seen.fetch_or(bit, Ordering::Relaxed) & bit == 0
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(Code::NoError.into(), b"");
    }
}

fn broken(fault: Fault) -> io::Error {
    let why = format!("the peer has broken a rule of HTTP/3: {}", fault.why);
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn ended(close: &ApplicationClose) -> io::Error {
    let code = named(close.error_code);
    let mut why = format!("the peer has ended the connection ({code})");
    if !close.reason.is_empty() {
        why.push_str(": ");
        why.push_str(&String::from_utf8_lossy(&close.reason));
    }
    io::Error::new(io::ErrorKind::ConnectionAborted, why)
}

fn reset(code: VarInt) -> io::Error {
    let why = format!("the peer has reset the stream ({})", named(code));
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

/// A code of HTTP/3, as its standard writes it.
pub(crate) fn named(code: VarInt) -> String {
    let name = match code.into_inner() {
        0x100 => "H3_NO_ERROR",
        0x101 => "H3_GENERAL_PROTOCOL_ERROR",
        0x102 => "H3_INTERNAL_ERROR",
        0x103 => "H3_STREAM_CREATION_ERROR",
        0x104 => "H3_CLOSED_CRITICAL_STREAM",
        0x105 => "H3_FRAME_UNEXPECTED",
        0x106 => "H3_FRAME_ERROR",
        0x107 => "H3_EXCESSIVE_LOAD",
        0x108 => "H3_ID_ERROR",
        0x109 => "H3_SETTINGS_ERROR",
        0x10A => "H3_MISSING_SETTINGS",
        0x10B => "H3_REQUEST_REJECTED",
        0x10C => "H3_REQUEST_CANCELLED",
        0x10D => "H3_REQUEST_INCOMPLETE",
        0x10E => "H3_MESSAGE_ERROR",
        0x10F => "H3_CONNECT_ERROR",
        0x110 => "H3_VERSION_FALLBACK",
        other => return format!("error {other:#x}"),
    };
    name.into()
}

/// Ends a connection when this is dropped, as with its runtime, without which nothing would ever come of it.
struct Runs(Connection);

impl Drop for Runs {
    fn drop(&mut self) {
        // What has ended it would be forgotten.
        if self.0.close_reason().is_none() {
            self.0.close(Code::NoError.into(), b"");
        }
    }
}

/// Takes the peer's streams of one direction. How many there may be at a time is a limit of QUIC's.
async fn take_streams(connection: Connection, session: Weak<Session>) {
    let runs = Runs(connection);
    while let Ok(receive) = runs.0.accept_uni().await {
        tokio::spawn(take(receive, session.clone()));
    }
}

/// Takes one, for as long as it lasts.
async fn take(receive: RecvStream, session: Weak<Session>) {
    let trouble = match listen(Frames::new(receive), &session).await {
        // It has vanished with the connection.
        Err(Trouble::Ended(ReadError::ConnectionLost(_))) => return,
        Err(Trouble::Ended(_)) => Some(CLOSED),
        Err(Trouble::Fault(fault)) => Some(fault),
        Ok(()) => None,
    };
    if let (Some(fault), Some(session)) = (trouble, session.upgrade()) {
        session.fail(fault);
    }
}

/// RFC 9114 §6.2.1, RFC 9204 §4.2.
const CLOSED: Fault = Fault::new(
    Code::ClosedCriticalStream,
    "a stream ended that is there for as long as the connection",
);

/// Listens to a stream, which may end only where nobody knows its kind.
async fn listen(mut frames: Frames, session: &Weak<Session>) -> Result<(), Trouble> {
    let kind = match frames.kind().await {
        Ok(Some(kind)) => kind,
        // It may end before it has said what it is (RFC 9114 §6.2).
        Ok(None) | Err(Trouble::Ended(ReadError::Reset(_)) | Trouble::Fault(_)) => return Ok(()),
        Err(trouble) => return Err(trouble),
    };
    let Some(here) = session.upgrade() else {
        return Ok(());
    };
    if matches!(kind, CONTROL | ENCODER | DECODER) && !here.is_first(kind) {
        let why = "a second stream of a kind of which there is one";
        return Err(Fault::new(Code::StreamCreationError, why).into());
    }
    let side = here.side;
    drop(here);
    match (kind, side) {
        (CONTROL, _) => control(frames, session, side).await,
        (ENCODER, _) => encoder(frames).await,
        (DECODER, _) => decoder(frames).await,
        // §4.6: no push was permitted.
        (PUSH, Side::Client) => {
            Err(Fault::new(Code::IdError, "a push that nobody asked for").into())
        }
        (PUSH, Side::Server) => {
            Err(Fault::new(Code::StreamCreationError, "a push of a client's").into())
        }
        _ => {
            frames.stop(Code::StreamCreationError);
            Ok(())
        }
    }
}

/// The control stream (RFC 9114 §6.2.1, §7.2).
async fn control(mut frames: Frames, session: &Weak<Session>, side: Side) -> Result<(), Trouble> {
    let unexpected = |why| Trouble::from(Fault::new(Code::FrameUnexpected, why));
    let mut most_pushes = 0;
    if frames.first_frame().await? != Some(Frame::Settings) {
        let why = "its control stream does not begin with its settings";
        return Err(Fault::new(Code::MissingSettings, why).into());
    }
    let settings = Settings::read(&frames.control().await?)?;
    say(session, |said| said.settings = Some(settings));
    loop {
        consume_budget().await;
        let Some(frame) = frames.frame().await? else {
            return Err(CLOSED.into());
        };
        match frame {
            Frame::Settings => return Err(unexpected("settings that are given twice")),
            Frame::GoAway => {
                let id = id(&frames.control().await?)?;
                let is_stream = id % 4 == 0;
                if side == Side::Client && !is_stream {
                    let why = "a GOAWAY of what is no request's stream";
                    return Err(Fault::new(Code::IdError, why).into());
                }
                let mut has_grown = false;
                say(session, |said| {
                    has_grown = said.goaway.is_some_and(|before| before < id);
                    said.goaway = Some(id);
                });
                if has_grown {
                    return Err(Fault::new(Code::IdError, "a GOAWAY that takes one back").into());
                }
            }
            Frame::MaxPushId if side == Side::Server => {
                let id = id(&frames.control().await?)?;
                if id < most_pushes {
                    let why = "a MAX_PUSH_ID that takes one back";
                    return Err(Fault::new(Code::IdError, why).into());
                }
                most_pushes = id;
            }
            // None was ever promised, nor asked for.
            Frame::CancelPush => {
                return Err(Fault::new(Code::IdError, "a CANCEL_PUSH of no push").into());
            }
            Frame::MaxPushId => return Err(unexpected("a MAX_PUSH_ID of a server's")),
            Frame::Data | Frame::Headers | Frame::PushPromise => {
                return Err(unexpected("a frame of a request on a control stream"));
            }
        }
    }
}

fn say(session: &Weak<Session>, what: impl FnOnce(&mut Said)) {
    if let Some(session) = session.upgrade() {
        session.said.send_modify(what);
    }
}

/// The one integer of a frame.
fn id(mut payload: &[u8]) -> Result<u64, Fault> {
    take_integer(&mut payload)
        .filter(|_| payload.is_empty())
        .ok_or(Fault::new(
            Code::FrameError,
            "a frame that has not the one number that it is to have",
        ))
}

/// What a peer's encoder says of a dynamic table: there is none, so that it can say only that again (RFC 9204 §4.3.1).
async fn encoder(mut frames: Frames) -> Result<(), Trouble> {
    const NO_TABLE: u8 = 0b0010_0000;
    while let Some(byte) = frames.byte().await? {
        consume_budget().await;
        if byte != NO_TABLE {
            let why = "an entry for a dynamic table, which there is not";
            return Err(Fault::new(Code::EncoderStreamError, why).into());
        }
    }
    Err(CLOSED.into())
}

/// What a peer's decoder says: that it gives a stream up, which it may (RFC 9204 §4.4.2). Anything else is about the
/// dynamic table.
async fn decoder(mut frames: Frames) -> Result<(), Trouble> {
    // Whether more bytes of a number are to come.
    let mut goes_on = false;
    while let Some(byte) = frames.byte().await? {
        consume_budget().await;
        goes_on = match (goes_on, byte) {
            (true, byte) => byte & 0x80 != 0,
            (false, 0x40..=0x7F) => byte & 0x3F == 0x3F,
            (false, _) => {
                let why = "it has decoded what was never sent";
                return Err(Fault::new(Code::DecoderStreamError, why).into());
            }
        };
    }
    Err(CLOSED.into())
}
