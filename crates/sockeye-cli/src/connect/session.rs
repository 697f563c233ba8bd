//! The connection in a terminal: what is typed goes out, what comes is shown.

use std::{
    collections::VecDeque, fs, future::pending, io, ops::ControlFlow, path::Path, time::Instant,
};

use bytes::Bytes;
use sockeye::{CloseCode, CloseFrame, Event, Message, Receiver, Sender, WebSocket};
use tokio::sync::{Notify, mpsc};

use super::{
    Outcome,
    command::{self, Action},
    editor::{Editor, Input, Screen},
    history, screen,
    screen::Direction::{Down, Up},
};
use crate::{
    args::Connect,
    failure::Failure,
    quantity::{Took, Traffic},
    signals::{Signal, Signals},
};

/// How many pings wait for their pongs; a peer need not answer any but the last.
const PINGS: usize = 64;

pub(super) async fn run(
    socket: WebSocket,
    args: &Connect,
    signals: Signals,
) -> Result<Outcome, Failure> {
    let (history, trouble) = match (args.no_history, history::file()) {
        (true, _) => (None, None),
        (false, Ok(file)) => (file, None),
        (false, Err(error)) => (None, Some(format!("there will be no history: {error}"))),
    };
    let mut editor = Editor::start(history)?;
    let screen = editor.screen();
    if !args.quiet {
        let hint = "A line is sent as a message; /help lists the commands, /quit or Ctrl-D ends.";
        screen.print(screen::note(hint)).await;
    }
    if let Some(trouble) = trouble {
        screen.print(screen::problem(&trouble)).await;
    }
    let mut outcome = Outcome::default();
    let at_once = Notify::new();
    let result = {
        let talk = socket.drive(async |socket| {
            let (sender, receiver) = socket.split();
            let session = Session {
                editor: &mut editor,
                screen: &screen,
                outcome: &mut outcome,
                pings: VecDeque::new(),
                pinged: 0,
                closing: false,
            };
            if session.talk(&sender, receiver, signals).await.is_break() {
                at_once.notify_one();
                pending::<()>().await;
            }
            Ok(())
        });
        tokio::select! {
            result = talk => result,
            // Dropped: the peer is told, and not waited for.
            () = at_once.notified() => Ok(None),
        }
    };
    drop(screen);
    editor.finish();
    outcome.ended = result?;
    Ok(outcome)
}

struct Session<'a> {
    editor: &'a mut Editor,
    screen: &'a Screen,
    outcome: &'a mut Outcome,
    /// What was sent as pings, and when, the oldest first.
    pings: VecDeque<(Bytes, Instant)>,
    /// How many pings were sent.
    pinged: u64,
    /// Whether the user or a signal wants an end.
    closing: bool,
}

/// What is to be sent, one after another.
#[derive(Debug)]
enum Outgoing {
    Message(Message),
    Ping(Bytes),
    Pong(Bytes),
    Close(CloseFrame),
}

impl Session<'_> {
    /// Talks until the connection has ended; or breaks off, where the user does not want to wait
    /// for that.
    async fn talk(
        mut self,
        sender: &Sender,
        mut receiver: Receiver,
        mut signals: Signals,
    ) -> ControlFlow<()> {
        // Without a bound, as what is typed: a peer that does not read makes the sending wait, and
        // the user can still end it.
        let (outbox, mail) = mpsc::unbounded_channel();
        let mut sent = Traffic::default();
        let mut sending = Box::pin(send(mail, sender, self.screen, &mut sent));
        let flow = loop {
            let leave = tokio::select! {
                // Goes on for as long as `outbox` is there.
                () = &mut sending => continue,
                event = receiver.recv_event() => match event {
                    Ok(Some(event)) => {
                        self.happened(event).await;
                        continue;
                    }
                    // How it ended is asked later.
                    Ok(None) | Err(_) => break ControlFlow::Continue(()),
                },
                input = self.editor.next() => match input {
                    Input::Line(line) => {
                        self.typed(&line, &outbox).await;
                        continue;
                    }
                    Input::Trouble(why) => {
                        self.screen.print(screen::problem(&why)).await;
                        continue;
                    }
                    Input::Interrupt | Input::End => CloseCode::NORMAL,
                    Input::Failed(why) => {
                        self.outcome.failure = Some(Failure::new(why));
                        CloseCode::GOING_AWAY
                    }
                },
                signal = signals.next() => match signal {
                    Signal::Interrupt => CloseCode::NORMAL,
                    Signal::Terminate => {
                        self.outcome.signal = Some(signal);
                        CloseCode::GOING_AWAY
                    }
                },
            };
            if self.leave(&outbox, leave).await {
                self.outcome.signal.get_or_insert(Signal::Interrupt);
                break ControlFlow::Break(());
            }
        };
        drop(sending);
        self.outcome.sent = sent;
        flow
    }

    /// Begins to close, once. Tells whether that was going on already, so that the user does not
    /// want to wait for it.
    async fn leave(&mut self, outbox: &mpsc::UnboundedSender<Outgoing>, code: CloseCode) -> bool {
        if self.closing {
            return true;
        }
        self.closing = true;
        let reason = String::new();
        let frame = CloseFrame { code, reason };
        self.screen.print(screen::close(Up, Some(&frame))).await;
        let _ = outbox.send(Outgoing::Close(frame));
        false
    }

    /// Does what a line asks for.
    async fn typed(&mut self, line: &str, outbox: &mpsc::UnboundedSender<Outgoing>) {
        let outgoing = match command::parse(line) {
            Ok(Action::Nothing) => return,
            Ok(Action::Help) => {
                self.screen.print(screen::note(&command::help())).await;
                return;
            }
            Ok(Action::Text(text)) => Outgoing::Message(text.into()),
            Ok(Action::Binary(bytes)) => Outgoing::Message(bytes.into()),
            Ok(Action::File(path)) => match read_file(&path) {
                Ok(bytes) => Outgoing::Message(bytes.into()),
                Err(why) => {
                    self.screen.print(screen::problem(&why)).await;
                    return;
                }
            },
            Ok(Action::Ping(text)) => {
                self.pinged += 1;
                // Each is different, so that a pong tells which one it answers.
                let payload = text.unwrap_or_else(|| self.pinged.to_string());
                Outgoing::Ping(payload.into())
            }
            Ok(Action::Pong(text)) => Outgoing::Pong(text.into()),
            Ok(Action::Close(frame)) => {
                self.closing = true;
                Outgoing::Close(frame)
            }
            Err(why) => {
                self.screen.print(screen::problem(&why)).await;
                return;
            }
        };
        // What was typed stands on the screen; what a command made of it does not.
        let shown = match &outgoing {
            Outgoing::Message(Message::Text(_)) if !line.starts_with('/') => None,
            Outgoing::Message(message) => Some(screen::message(Up, message.as_ref())),
            Outgoing::Ping(payload) => {
                if self.pings.len() == PINGS {
                    self.pings.pop_front();
                }
                self.pings.push_back((payload.clone(), Instant::now()));
                Some(screen::control(Up, "ping", payload, ""))
            }
            Outgoing::Pong(payload) => Some(screen::control(Up, "pong", payload, "")),
            Outgoing::Close(frame) => Some(screen::close(Up, Some(frame))),
        };
        if let Some(shown) = shown {
            self.screen.print(shown).await;
        }
        // The sending ends with the connection, and then so does this.
        let _ = outbox.send(outgoing);
    }

    /// Shows what came.
    async fn happened(&mut self, event: Event) {
        let shown = match event {
            Event::Message(message) => {
                self.outcome.received.add(message.len());
                screen::message(Down, message.as_ref())
            }
            Event::Ping(payload) => screen::control(Down, "ping", &payload, "answered"),
            Event::Pong(payload) => {
                let note = match self.pings.iter().position(|(sent, _)| *sent == payload) {
                    // The pings before it will not be answered (RFC 6455 §5.5.3).
                    Some(at) => match self.pings.drain(..=at).next_back() {
                        Some((_, sent)) => format!("took {}", Took(sent.elapsed())),
                        None => String::new(),
                    },
                    None => "nobody asked for it".into(),
                };
                screen::control(Down, "pong", &payload, &note)
            }
            Event::Close(frame) => screen::close(Down, frame.as_ref()),
        };
        self.screen.print(shown).await;
    }
}

/// Sends one after another, until the connection takes nothing more.
async fn send(
    mut mail: mpsc::UnboundedReceiver<Outgoing>,
    sender: &Sender,
    screen: &Screen,
    sent: &mut Traffic,
) {
    while let Some(outgoing) = mail.recv().await {
        let (size, result) = match outgoing {
            Outgoing::Message(message) => (Some(message.len()), sender.send(message).await),
            Outgoing::Ping(payload) => (None, sender.ping(&payload).await),
            Outgoing::Pong(payload) => (None, sender.pong(&payload).await),
            Outgoing::Close(frame) => (None, sender.close(frame.code, &frame.reason).await),
        };
        match (result, size) {
            (Ok(()), Some(size)) => sent.add(size),
            (Ok(()), None) => {}
            (Err(error), _) => {
                screen
                    .print(screen::problem(&format!("not sent: {error}")))
                    .await
            }
        }
    }
}

/// The bytes of a file; of a regular one, since others may never end.
fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let why = |error: io::Error| format!("{}: {error}", path.display());
    if !fs::metadata(path).map_err(why)?.is_file() {
        return Err(format!("{} is no regular file", path.display()));
    }
    fs::read(path).map_err(why)
}
