//! As many connections as it takes, and the pipe over them: `--reconnect`.

use std::{
    fmt::Display,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sockeye::{
    CloseCode, Sender,
    client::{Cause, Reconnecting, Update},
};
use tokio::time::{Instant as Time, sleep_until};

use super::{
    Outcome, agreed,
    opening::Opening,
    pipe::{Arriving, Lines, is_enough, output_failed, read_lines, unreadable},
};
use crate::{
    args::Connect,
    failure::{Failure, behind_url, tell, without_secrets},
    quantity::Took,
    shown::one_line,
    signals::{Leaving, Signals},
};

/// A line on its way, given back with what became of it.
type Sending = Pin<Box<dyn Future<Output = (String, sockeye::Result<()>)> + Send>>;

/// One connection after another.
pub(super) struct Again {
    pub(super) socket: Reconnecting,
    /// Whether none is to follow.
    closing: Arc<AtomicBool>,
}

impl Again {
    pub(super) fn new(opening: Opening, args: &Connect) -> Self {
        let closing = Arc::new(AtomicBool::new(false));
        let is_closing = closing.clone();
        let opening = Arc::new(opening);
        let open = move || {
            let opening = opening.clone();
            async move { opening.open().await }
        };
        let mut socket = Reconnecting::with(open)
            // Each part of an attempt has its own, on the command line.
            .attempt_timeout(Duration::MAX)
            .retry_if(move |cause| !is_closing.load(Ordering::Relaxed) && cause.is_transient());
        if let Some(attempts) = args.max_attempts {
            socket = socket.max_attempts(attempts);
        }
        Self { socket, closing }
    }

    /// No connection is to follow.
    pub(super) fn no_more(&self) {
        self.closing.store(true, Ordering::Relaxed);
    }

    fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Relaxed)
    }

    /// Closes now, or as soon as it is open; what still comes is received.
    pub(super) async fn close(&mut self, code: CloseCode) {
        self.no_more();
        // Refused where it is closing already.
        let _ = match self.socket.socket().map(|open| open.sender()) {
            Some(sender) => sender.close(code, "").await,
            None => self.socket.close(code, "").await,
        };
    }
}

/// Why there is no connection, and when there will be another attempt.
pub(super) fn waiting(args: &Connect, cause: &Cause, delay: Duration, attempt: u32) -> String {
    let cause: &dyn Display = match cause {
        Cause::Attempt(error) => behind_url(error),
        cause => cause,
    };
    let cause = one_line(&format!("{}: {cause}", without_secrets(&args.url)));
    format!("{cause}; attempt {attempt} in {}", Took(delay))
}

pub(super) async fn run(opening: Opening, args: &Connect, signals: Signals) -> Outcome {
    let mut again = Again::new(opening, args);
    let mut outcome = Outcome {
        unopened: true,
        ..Outcome::default()
    };
    let mut leaving = Leaving::new(signals, args.close_timeout, &mut outcome.signal);
    let mut arriving = Arriving::default();
    let mut is_open = false;
    let mut lines = read_lines();
    let mut output = Lines::new();
    let mut unflushed = false;
    let mut began = Instant::now();
    // Who sends now; the line that waits for that, and the one that is being sent.
    let mut sender: Option<Sender> = None;
    let mut held: Option<String> = None;
    let mut sending: Option<Sending> = None;
    let mut has_input = true;
    let mut last_heard = Time::now();
    let unwritten = loop {
        if let (Some(to), None) = (&sender, &sending)
            && let Some(line) = held.take()
        {
            let to = to.clone();
            sending = Some(Box::pin(async move {
                let result = to.send(&line[..]).await;
                (line, result)
            }));
        }
        let is_quiet = sender.is_some() && !has_input && held.is_none() && sending.is_none();
        tokio::select! {
            biased;
            code = leaving.asked() => again.close(code).await,
            update = again.socket.recv_update() => match update {
                Ok(Some(Update::Message(message))) => {
                    last_heard = Time::now();
                    if let Some(open) = again.socket.socket() {
                        arriving.has_moved(&open.counters());
                    }
                    outcome.received.add(message.len());
                    let closing = async |code| again.close(code).await;
                    match leaving.meanwhile(output.write(&message), closing).await {
                        Some(Ok(())) => unflushed = true,
                        Some(Err(error)) => break Some(error),
                        None => {
                            outcome.untaken = true;
                            break None;
                        }
                    }
                }
                Ok(Some(Update::Connecting { .. })) => began = Instant::now(),
                Ok(Some(Update::Open)) => {
                    last_heard = Time::now();
                    arriving = Arriving::default();
                    is_open = true;
                    outcome.unopened = false;
                    if let Some(open) = again.socket.socket() {
                        sender = Some(open.sender());
                        if !args.quiet {
                            tell(agreed(args, open, began).join("; "));
                        }
                    }
                }
                Ok(Some(Update::Waiting { cause, delay, attempt })) => {
                    sender = None;
                    is_open = false;
                    if !args.quiet {
                        tell(waiting(args, &cause, delay, attempt));
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(error) => {
                    // How an open one ended is asked later.
                    if !is_open {
                        outcome.failure = Some(Failure::opening(args, error));
                    }
                    break None;
                }
            },
            // Only while nothing more is there to be written.
            flushed = output.flush(), if unflushed => {
                unflushed = false;
                if let Err(error) = flushed {
                    break Some(error);
                }
            }
            (line, result) = progress(&mut sending) => {
                sending = None;
                match result {
                    Ok(()) => {
                        last_heard = last_heard.max(Time::now());
                        outcome.sent.add(line.len());
                    }
                    // It goes out again, whole, on the next connection.
                    Err(_) => {
                        held = Some(line);
                        sender = None;
                    }
                }
            }
            line = lines.next(), if has_input && held.is_none() && sending.is_none() => match line {
                Some(Ok(line)) => held = Some(line),
                Some(Err(error)) => {
                    has_input = false;
                    outcome.failure = Some(unreadable(&error, outcome.sent.messages));
                    again.close(CloseCode::NORMAL).await;
                }
                None => {
                    has_input = false;
                    last_heard = last_heard.max(Time::now());
                }
            },
            () = sleep_until(last_heard + args.linger),
                if is_quiet && !again.is_closing() =>
            {
                let open = again.socket.socket();
                if open.is_some_and(|open| arriving.has_moved(&open.counters())) {
                    last_heard = Time::now();
                } else {
                    again.close(CloseCode::NORMAL).await;
                }
            }
        }
    };
    // As without --reconnect.
    if let Some(error) = unwritten {
        outcome.enough = is_enough(output_failed(&error), &mut outcome.failure);
        again.close(CloseCode::GOING_AWAY).await;
        while let Ok(Some(_)) = again.socket.recv_update().await {}
    } else if !outcome.untaken {
        outcome.unsent = held.is_some() || sending.is_some() || lines.has_more().await;
        match leaving.last(output.flush()).await {
            Some(Err(error)) => {
                outcome.enough = is_enough(output_failed(&error), &mut outcome.failure)
            }
            Some(Ok(())) => {}
            None => outcome.untaken = true,
        }
    }
    outcome.ended = again.socket.ended();
    outcome
}

async fn progress(sending: &mut Option<Sending>) -> (String, sockeye::Result<()>) {
    match sending {
        Some(sending) => sending.await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::{super::opening::Over, *};
    use crate::args::{Args, Command};

    /// The library's own 60 s are for whoever sets no others.
    #[tokio::test(start_paused = true)]
    async fn an_attempt_takes_as_long_as_its_parts_may() {
        // It never answers.
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let line = ["sockeye", "connect", "--handshake-timeout", "100", &url];
        let Command::Connect(args) = Args::parse_from(line).command else {
            unreachable!();
        };
        let client = super::super::client(&args).unwrap();
        let mut again = Again::new(Opening::new(client, &args, Over::Http1, drop), &args);
        let began = Time::now();
        loop {
            if let Some(Update::Waiting { cause, .. }) = again.socket.recv_update().await.unwrap() {
                assert!(cause.to_string().contains("handshake"), "{cause}");
                break;
            }
        }
        assert!(began.elapsed() >= Duration::from_secs(100));
    }
}
