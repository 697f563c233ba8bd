//! The connection as a pipe of bytes: what is read goes out as it is read, and what comes is written as it
//! comes. No message is ever whole in memory.

use std::{
    cell::Cell,
    io::{self, IsTerminal, Read},
    pin::pin,
    time::Duration,
};

use sockeye::{
    CloseCode, Error, MessageKind, MessageWriter, Receiver, SendError, Sender, WebSocket,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    Outcome,
    pipe::{Last, SOON, flush, is_enough, meanwhile_flushed, output_failed},
    screen::Bytes,
};
use crate::{
    args::Connect,
    failure::Failure,
    quantity::Traffic,
    signals::{Leaving, Signals},
};

/// How many bytes are read, and written, at once.
const CHUNK: usize = 64 * 1024;

/// How many chunks are read ahead of the connection.
const READ_AHEAD: usize = 2;

pub(super) async fn run(
    socket: WebSocket,
    args: &Connect,
    signals: Signals,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    outcome.ended = socket
        .drive(async |socket| {
            let (sender, receiver) = socket.split();
            carry(&sender, receiver, args, signals, &mut outcome).await;
            Ok(())
        })
        .await?;
    Ok(outcome)
}

/// Both directions at once, so that neither waits for the other.
async fn carry(
    sender: &Sender,
    receiver: Receiver,
    args: &Connect,
    signals: Signals,
    outcome: &mut Outcome,
) {
    let heard = Heard::new(args.one_message);
    let (sent, received) = (&mut outcome.sent, &mut outcome.received);
    let mut leaving = Leaving::new(signals, args.close_timeout, &mut outcome.signal);
    let last = Cell::new(Last::Sent);
    let mut chunks = read_chunks();
    let mut sending = Box::pin(send(sender, args, &mut chunks, sent, &last));
    let mut receiving = pin!(receive(receiver, &heard, received));
    let (mut is_sending, mut is_closing) = (true, false);
    loop {
        tokio::select! {
            biased;
            code = leaving.asked() => {
                (is_sending, is_closing) = (false, true);
                close(sender, code).await;
            }
            result = &mut receiving => {
                match result {
                    Ok(()) => break,
                    Err(why) => {
                        outcome.enough = is_enough(why, &mut outcome.failure);
                        close(sender, CloseCode::GOING_AWAY).await;
                        return;
                    }
                }
            }
            () = heard.is_not_taken(args.close_timeout), if leaving.is_asked() => {
                outcome.untaken = true;
                return;
            }
            result = &mut sending, if is_sending => {
                is_sending = false;
                match result {
                    Ok(()) => heard.anything(),
                    Err(why) => {
                        is_closing = true;
                        outcome.failure = why;
                        // Refused where a message was begun: that has closed the connection.
                        close(sender, CloseCode::NORMAL).await;
                    }
                }
            }
            () = heard.enough(args.linger), if !is_sending && !is_closing => {
                is_closing = true;
                close(sender, CloseCode::NORMAL).await;
            }
        }
    }
    drop(sending);
    let has_more = matches!(timeout(SOON, chunks.recv()).await, Ok(Some(_)));
    outcome.unsent = has_more || last.get().is_unsent(sender).await;
}

/// Begins to close. What still comes is received.
async fn close(sender: &Sender, code: CloseCode) {
    // Refused where the connection is closing already.
    let _ = sender.close(code, "").await;
}

/// What has come so far.
struct Heard {
    /// Whether one message is all that is wanted.
    one: bool,
    /// Whether it is there.
    has_one: Cell<bool>,
    /// Whether a message is coming.
    within: Cell<bool>,
    last: Cell<Instant>,
    /// Since when something is being written to standard output.
    writing: Cell<Option<Instant>>,
    /// A message has begun, or ended.
    changed: Notify,
}

impl Heard {
    fn new(one: bool) -> Self {
        Self {
            one,
            has_one: Cell::new(false),
            within: Cell::new(false),
            last: Cell::new(Instant::now()),
            writing: Cell::new(None),
            changed: Notify::new(),
        }
    }

    fn anything(&self) {
        self.last.set(Instant::now());
    }

    fn begins(&self) {
        self.within.set(true);
        self.changed.notify_one();
    }

    fn ends(&self) {
        self.anything();
        self.within.set(false);
        self.has_one.set(true);
        self.changed.notify_one();
    }

    /// Waits until what is written to standard output is not taken for so long.
    async fn is_not_taken(&self, patience: Duration) {
        loop {
            let writing = self.writing.get();
            sleep(patience).await;
            if writing.is_some() && writing == self.writing.get() {
                return;
            }
        }
    }

    /// Waits until all has come that is wanted, or nothing has for so long. A message that has begun
    /// may take its time.
    async fn enough(&self, linger: Duration) {
        while self.within.get() || !(self.one && self.has_one.get()) {
            let changed = self.changed.notified();
            if self.within.get() {
                changed.await;
            } else if timeout_at(self.last.get() + linger, changed).await.is_err() {
                return;
            }
        }
    }
}

/// Sends what is read from standard input: as one message, or as one for each chunk; and says how far the last of it is.
/// Fails where that cannot be; the connection's own end is no failure of the input.
async fn send(
    sender: &Sender,
    args: &Connect,
    chunks: &mut mpsc::Receiver<io::Result<Vec<u8>>>,
    sent: &mut Traffic,
    last: &Cell<Last>,
) -> Result<(), Option<Failure>> {
    let kind = match args.binary {
        true => MessageKind::Binary,
        false => MessageKind::Text,
    };
    let mut message = None;
    while let Some(chunk) = meanwhile_flushed(chunks.recv(), sender, last)
        .await
        .map_err(refused)?
    {
        let chunk = chunk.map_err(|error| Failure::new(format!("standard input: {error}")))?;
        last.set(Last::Held);
        if args.one_message {
            let message = match &mut message {
                Some(message) => message,
                none => none.insert(sender.send_stream(kind).await.map_err(refused)?),
            };
            write(message, &chunk).await.map_err(refused)?;
        } else {
            sender.send(&chunk[..]).await.map_err(refused)?;
            last.set(Last::Queued);
            sent.messages += 1;
        }
        sent.bytes += chunk.len() as u64;
    }
    // Without a byte there is no message.
    if let Some(message) = message {
        message.finish().await.map_err(refused)?;
        last.set(Last::Queued);
        sent.messages += 1;
    }
    flush(sender, last).await.map_err(refused)
}

/// Writes a part of a message, so that the peer can read all of it.
async fn write(message: &mut MessageWriter<'_>, chunk: &[u8]) -> sockeye::Result<()> {
    message.write_all(chunk).await?;
    message.flush().await?;
    Ok(())
}

fn refused(error: Error) -> Option<Failure> {
    match error {
        Error::Send(SendError::InvalidUtf8) => Some(Failure::new(
            "the input is not UTF-8, which a text message has to be: send it with --binary",
        )),
        _ => None,
    }
}

/// Writes the payloads of messages to standard output. Fails where that cannot be; how the connection
/// ended is asked later.
async fn receive(
    mut receiver: Receiver,
    heard: &Heard,
    received: &mut Traffic,
) -> Result<(), Option<Failure>> {
    let mut output = tokio::io::stdout();
    // A person sees what comes; that is not to control the terminal.
    let mut shown = io::stdout().is_terminal().then(Bytes::default);
    let mut is_within_line = false;
    let mut buffer = vec![0; CHUNK];
    while let Ok(Some(mut message)) = receiver.recv_stream().await {
        if heard.one && heard.has_one.get() {
            // What follows is discarded as it comes.
            continue;
        }
        heard.begins();
        loop {
            match message.read(&mut buffer).await.map_err(Error::from) {
                Ok(0) => break,
                Ok(count) => {
                    received.bytes += count as u64;
                    let written = async {
                        match &mut shown {
                            Some(shown) => {
                                let text = shown.next(&buffer[..count]);
                                is_within_line = !text.ends_with('\n');
                                output.write_all(text.as_bytes()).await?;
                            }
                            None => output.write_all(&buffer[..count]).await?,
                        }
                        // The system's library holds back what has no line break.
                        output.flush().await
                    };
                    heard.writing.set(Some(Instant::now()));
                    written.await.map_err(|error| output_failed(&error))?;
                    heard.writing.set(None);
                }
                Err(error @ Error::Incomplete) => return Err(Some(error.into())),
                Err(_) => return Ok(()),
            }
        }
        received.messages += 1;
        heard.ends();
    }
    if let Some(mut shown) = shown {
        heard.writing.set(Some(Instant::now()));
        let written = async {
            output.write_all(shown.rest().as_bytes()).await?;
            if is_within_line {
                // What is told now begins a line.
                output.write_all(b"\n").await?;
            }
            output.flush().await
        };
        written.await.map_err(|error| output_failed(&error))?;
    }
    Ok(())
}

/// Reads standard input in a thread of its own, as the lines of a pipe are.
fn read_chunks() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (chunks, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = match input.read(&mut chunk) {
                Ok(0) => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(count) => {
                    chunk.truncate(count);
                    Ok(chunk)
                }
                Err(error) => Err(error),
            };
            let is_last = read.is_err();
            if chunks.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}
