//! The connection in a pipe: a line in is a message out, a message in is a line out.

use std::{
    io::{self, BufRead, IsTerminal},
    time::Duration,
};

use sockeye::{CloseCode, Event, Message, Receiver, Sender, WebSocket};
use tokio::{
    io::{AsyncWriteExt, BufWriter},
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{Outcome, screen};
use crate::{
    failure::Failure,
    quantity::Traffic,
    signals::{Leaving, Signals},
};

/// How many lines are read ahead of the connection.
const READ_AHEAD: usize = 1024;

pub(super) async fn run(
    socket: WebSocket,
    linger: Duration,
    signals: Signals,
) -> Result<Outcome, Failure> {
    let mut outcome = Outcome::default();
    outcome.ended = socket
        .drive(async |socket| {
            let (sender, receiver) = socket.split();
            carry(sender, receiver, linger, signals, &mut outcome).await;
            Ok(())
        })
        .await?;
    Ok(outcome)
}

/// Both directions at once, so that neither waits for the other.
async fn carry(
    sender: Sender,
    mut receiver: Receiver,
    linger: Duration,
    signals: Signals,
    outcome: &mut Outcome,
) {
    let mut lines = read_lines();
    let mut output = Lines::new();
    let mut unflushed = false;
    let (sent, failure) = (&mut outcome.sent, &mut outcome.failure);
    let mut leaving = Leaving::new(signals, &mut outcome.signal);
    let mut sending = std::pin::pin!(send_lines(&sender, &mut lines, sent));
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
                    outcome.received.add(message.len());
                    let closing = async |code| close(&sender, code).await;
                    let written = leaving.meanwhile(output.write(&message), closing).await;
                    if let Err(error) = written {
                        *failure = output_failed(&error);
                        close(&sender, CloseCode::GOING_AWAY).await;
                        return;
                    }
                    unflushed = true;
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
                    *failure = output_failed(&error);
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
            () = sleep_until(last_heard + linger), if quiet_until.is_some() => {
                quiet_until = None;
                close(&sender, CloseCode::NORMAL).await;
            }
        }
    }
    // A signal that comes now, with nothing left to close, gives up what is left to write.
    tokio::select! {
        biased;
        _ = leaving.asked() => {}
        flushed = output.flush() => if let Err(error) = flushed && failure.is_none() {
            *failure = output_failed(&error);
        }
    }
}

/// Begins to close. What still comes is received.
async fn close(sender: &Sender, code: CloseCode) {
    // Refused where the connection is closing already.
    let _ = sender.close(code, "").await;
}

/// Sends every line. Fails where one cannot be sent; the connection's own end is no failure of
/// the input.
async fn send_lines(
    sender: &Sender,
    lines: &mut mpsc::Receiver<io::Result<String>>,
    sent: &mut Traffic,
) -> Result<(), Option<Failure>> {
    while let Some(line) = lines.recv().await {
        let line = line.map_err(|error| Some(unreadable(&error, sent.messages)))?;
        let size = line.len();
        sender.send(line).await.map_err(|_| None)?;
        sent.add(size);
    }
    sender.flush().await.map_err(|_| None)
}

/// Why no line can be read after so many.
pub(super) fn unreadable(error: &io::Error, lines: u64) -> Failure {
    Failure::new(match error.kind() {
        io::ErrorKind::InvalidData => format!(
            "line {} of the input is not UTF-8, which a text message has to be",
            lines + 1
        ),
        _ => format!("standard input: {error}"),
    })
}

/// Reads standard input in a thread of its own: the system cannot always read it in another way,
/// and a thread that waits for input must not keep the program from ending.
pub(super) fn read_lines() -> mpsc::Receiver<io::Result<String>> {
    let (lines, receiver) = mpsc::channel(READ_AHEAD);
    std::thread::spawn(move || {
        let mut input = io::stdin().lock();
        loop {
            let mut line = String::new();
            let read = input.read_line(&mut line);
            let is_last = match &read {
                Ok(0) => return,
                Ok(_) => false,
                Err(_) => true,
            };
            if line.ends_with('\n') {
                line.pop();
                if line.ends_with('\r') {
                    line.pop();
                }
            }
            if lines.blocking_send(read.map(|_| line)).is_err() || is_last {
                return;
            }
        }
    });
    receiver
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
            Message::Text(text) if self.is_terminal => screen::lines(text),
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

/// Whoever reads the output may have enough: that is no failure.
pub(super) fn output_failed(error: &io::Error) -> Option<Failure> {
    (error.kind() != io::ErrorKind::BrokenPipe)
        .then(|| Failure::new(format!("standard output: {error}")))
}
