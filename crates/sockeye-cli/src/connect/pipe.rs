//! The connection in a pipe: a line in is a message out, a message in is a line out.

use std::{
    cell::Cell,
    io::{self, BufRead, IsTerminal, Read},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use sockeye::{CloseCode, Counters, Event, Message, Receiver, Sender, WebSocket};
use tokio::{
    io::{AsyncWriteExt, BufWriter},
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until, timeout},
};

use super::Outcome;
use crate::{
    args::Connect,
    failure::Failure,
    quantity::Traffic,
    shown::lines,
    signals::{Leaving, Signals},
};

/// How many bytes of lines are read ahead of the connection, or one line where that is longer.
const READ_AHEAD: u32 = 1 << 20;

/// What a line takes besides its text.
const A_LINE: usize = 64;

/// How long is waited to see whether there is more of an input that nobody takes.
pub(super) const SOON: Duration = Duration::from_millis(50);

/// The longest line, in bytes: it is held whole.
const LONGEST: u64 = 64 << 20;

pub(super) async fn run(
    socket: WebSocket,
    args: &Connect,
    signals: Signals,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    outcome.ended = socket
        .drive(async |socket| {
            let (sender, receiver) = socket.split();
            carry(sender, receiver, args, signals, &mut outcome).await;
            Ok(())
        })
        .await?;
    Ok(outcome)
}

/// Both directions at once, so that neither waits for the other.
async fn carry(
    sender: Sender,
    mut receiver: Receiver,
    args: &Connect,
    signals: Signals,
    outcome: &mut Outcome,
) {
    let mut lines = read_lines();
    let mut output = Lines::new();
    let mut unflushed = false;
    let (sent, failure) = (&mut outcome.sent, &mut outcome.failure);
    let mut leaving = Leaving::new(signals, args.close_timeout, &mut outcome.signal);
    let last = Cell::new(Last::Sent);
    let mut sending = Box::pin(send_lines(&sender, &mut lines, sent, &last));
    let mut arriving = Arriving::default();
    // When to close, once the input has ended.
    let mut quiet_until = None;
    let mut last_heard = Instant::now();
    let mut is_sending = true;
    loop {
        if leaving.is_asked() {
            is_sending = false;
            quiet_until = None;
        }
        tokio::select! {
            biased;
            code = leaving.asked() => close(&sender, code).await,
            event = receiver.recv_event() => match event {
                Ok(Some(Event::Message(message))) => {
                    last_heard = Instant::now();
                    arriving.has_moved(&receiver.counters());
                    outcome.received.add(message.len());
                    let closing = async |code| close(&sender, code).await;
                    match leaving.meanwhile(output.write(&message), closing).await {
                        Some(Ok(())) => unflushed = true,
                        Some(Err(error)) => {
                            outcome.enough = is_enough(output_failed(&error), failure);
                            close(&sender, CloseCode::GOING_AWAY).await;
                            return;
                        }
                        None => {
                            outcome.untaken = true;
                            return;
                        }
                    }
                }
                // Answered where they need to be.
                Ok(Some(_)) => {}
                // How it ended is asked later.
                Ok(None) | Err(_) => break,
            },
            // Only while nothing more is there to be written.
            flushed = output.flush(), if unflushed => {
                unflushed = false;
                if let Err(error) = flushed {
                    outcome.enough = is_enough(output_failed(&error), failure);
                    close(&sender, CloseCode::GOING_AWAY).await;
                    return;
                }
            }
            result = &mut sending, if is_sending => {
                is_sending = false;
                match result {
                    Ok(()) => {
                        last_heard = last_heard.max(Instant::now());
                        quiet_until = Some(());
                    }
                    Err(why) => {
                        *failure = why;
                        close(&sender, CloseCode::NORMAL).await;
                    }
                }
            }
            () = sleep_until(last_heard + args.linger), if quiet_until.is_some() => {
                if arriving.has_moved(&receiver.counters()) {
                    last_heard = Instant::now();
                } else {
                    quiet_until = None;
                    close(&sender, CloseCode::NORMAL).await;
                }
            }
        }
    }
    drop(sending);
    let has_more = lines.has_more().await;
    // A signal that comes now, with nothing left to close, gives up what is left to write.
    match leaving.last(output.flush()).await {
        Some(Err(error)) => outcome.enough = is_enough(output_failed(&error), failure),
        Some(Ok(())) => {}
        None => outcome.untaken = true,
    }
    outcome.unsent = has_more || last.get().is_unsent(&sender).await;
}

/// Begins to close. What still comes is received.
async fn close(sender: &Sender, code: CloseCode) {
    // Refused where the connection is closing already.
    let _ = sender.close(code, "").await;
}

/// Sends every line, and says how far the last of them is. Fails where one cannot be sent; the connection's own end is no
/// failure of the input.
async fn send_lines(
    sender: &Sender,
    lines: &mut Input,
    sent: &mut Traffic,
    last: &Cell<Last>,
) -> Result<(), Option<Failure>> {
    while let Some(line) = meanwhile_flushed(lines.next(), sender, last)
        .await
        .map_err(|_| None)?
    {
        let line = line.map_err(|error| Some(unreadable(&error, sent.messages)))?;
        let size = line.len();
        last.set(Last::Held);
        sender.send(line).await.map_err(|_| None)?;
        last.set(Last::Queued);
        sent.add(size);
    }
    flush(sender, last).await.map_err(|_| None)
}

/// How far the last is that was read of the input.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    /// It is not sent yet, or only a part of it.
    Held,
    /// It waits to be written.
    Queued,
    /// It has left this program, or there was none.
    Sent,
}

impl Last {
    /// Whether it has not left, once the peer has closed. What is queued still goes out then, for as long as the peer takes
    /// it.
    pub(super) async fn is_unsent(self, sender: &Sender) -> bool {
        match self {
            Self::Held => true,
            Self::Queued => sender.flush().await.is_err(),
            Self::Sent => false,
        }
    }
}

/// Waits for what comes next of the input. Meanwhile what is queued is written.
pub(super) async fn meanwhile_flushed<T>(
    next: impl Future<Output = T>,
    sender: &Sender,
    last: &Cell<Last>,
) -> sockeye::Result<T> {
    let mut next = pin!(next);
    loop {
        tokio::select! {
            biased;
            next = &mut next => return Ok(next),
            flushed = flush(sender, last), if last.get() == Last::Queued => flushed?,
        }
    }
}

/// Waits until the last is sent.
pub(super) async fn flush(sender: &Sender, last: &Cell<Last>) -> sockeye::Result<()> {
    sender.flush().await?;
    last.set(Last::Sent);
    Ok(())
}

/// Why no line can be read after so many.
pub(super) fn unreadable(error: &io::Error, lines: u64) -> Failure {
    Failure::new(match error.kind() {
        io::ErrorKind::InvalidData => format!(
            "line {} of the input is not UTF-8, which a text message has to be",
            lines + 1
        ),
        io::ErrorKind::FileTooLarge => format!(
            "line {} of the input is longer than {} MiB: all of the input is one message of any size with \
             --one-message, without --reconnect",
            lines + 1,
            LONGEST >> 20
        ),
        _ => format!("standard input: {error}"),
    })
}

/// The lines of standard input.
pub(super) struct Input {
    lines: mpsc::UnboundedReceiver<io::Result<String>>,
    /// What may still be read ahead, in bytes.
    room: Arc<Semaphore>,
}

impl Input {
    /// The next line, without its end. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Option<io::Result<String>> {
        let line = self.lines.recv().await?;
        if let Ok(line) = &line {
            self.room.add_permits(room_of(line) as usize);
        }
        Some(line)
    }

    /// Whether there are lines that nobody takes any more.
    pub(super) async fn has_more(mut self) -> bool {
        matches!(timeout(SOON, self.next()).await, Ok(Some(_)))
    }
}

fn room_of(line: &str) -> u32 {
    u32::try_from(line.len() + A_LINE).map_or(READ_AHEAD, |room| room.min(READ_AHEAD))
}

/// Reads standard input in a thread of its own: the system cannot always read it in another way,
/// and a thread that waits for input must not keep the program from ending.
pub(super) fn read_lines() -> Input {
    let (sender, lines) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(READ_AHEAD as usize));
    let (ahead, runtime) = (room.clone(), Handle::current());
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        while let Some(line) = read_line(&mut input).transpose() {
            let is_last = line.is_err();
            if let Ok(line) = &line
                && let Ok(taken) = runtime.block_on(ahead.acquire_many(room_of(line)))
            {
                // Given back by whoever takes the line.
                taken.forget();
            }
            if sender.send(line).is_err() || is_last {
                return;
            }
        }
    });
    Input { lines, room }
}

/// A line without its end; none where the input has ended.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    // With its end, and one byte that is too many.
    if input.take(LONGEST + 3).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.ends_with(b"\n") {
        line.pop();
        if line.ends_with(b"\r") {
            line.pop();
        }
    }
    if line.len() as u64 > LONGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let line = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(line))
}

/// Standard output, a line a message.
pub(super) struct Lines {
    output: BufWriter<tokio::io::Stdout>,
    /// Somebody may see it, though there is no line to type in.
    is_terminal: bool,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            output: BufWriter::with_capacity(64 * 1024, tokio::io::stdout()),
            is_terminal: io::stdout().is_terminal(),
        }
    }

    /// Text as it is, unless that could control a terminal; bytes in hexadecimal.
    pub(super) async fn write(&mut self, message: &Message) -> io::Result<()> {
        let shown = match message {
            Message::Text(text) if self.is_terminal => lines(text),
            Message::Text(text) => return self.line(text.as_bytes()).await,
            Message::Binary(_) => message.to_string(),
        };
        self.line(shown.as_bytes()).await
    }

    async fn line(&mut self, line: &[u8]) -> io::Result<()> {
        self.output.write_all(line).await?;
        self.output.write_all(b"\n").await
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.output.flush().await
    }
}

/// Whether a part of a message is coming, of which nothing is heard before it is whole.
#[derive(Default)]
pub(super) struct Arriving {
    bytes: u64,
    controls: u64,
}

impl Arriving {
    /// Whether more has come since this was last asked than pings and pongs are (RFC 6455 §5.5).
    pub(super) fn has_moved(&mut self, counters: &Counters) -> bool {
        const CONTROL: u64 = 2 + 125;
        let received = &counters.received;
        let now = Self {
            bytes: received.bytes,
            controls: received.pings + received.pongs,
        };
        let controls = now.controls.saturating_sub(self.controls);
        let bytes = now.bytes.saturating_sub(self.bytes);
        *self = now;
        bytes > controls.saturating_mul(CONTROL)
    }
}

/// Whether whoever reads the output had enough, which is no failure, and there was none before. The first is told.
pub(super) fn is_enough(why: Option<Failure>, failure: &mut Option<Failure>) -> bool {
    if failure.is_none() {
        *failure = why;
    }
    failure.is_none()
}

/// Whoever reads the output may have enough: that is no failure.
pub(super) fn output_failed(error: &io::Error) -> Option<Failure> {
    (error.kind() != io::ErrorKind::BrokenPipe)
        .then(|| Failure::new(format!("standard output: {error}")))
}
