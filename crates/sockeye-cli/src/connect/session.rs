//! The connection in a terminal: what is typed goes out, what comes is shown.

use std::{
    cell::Cell,
    collections::VecDeque,
    fs,
    future::{pending, ready},
    io,
    ops::ControlFlow,
    path::Path,
    time::Instant,
};

use bytes::Bytes;
use sockeye::{
    CloseCode, CloseFrame, Error, Event, Message, Receiver, SendError, Sender, WebSocket,
    client::Update,
};
use tokio::sync::{
    Notify,
    mpsc::{self, UnboundedReceiver},
    watch,
};

use super::{
    Outcome,
    again::{self, Again},
    agreed,
    command::{self, Action},
    editor::{Editor, Input, Screen},
    history,
    opening::Opening,
    screen,
    screen::Direction::{Down, Up},
};
use crate::{
    args::Connect,
    failure::Failure,
    quantity::{Messages, Took, Traffic},
    signals::{Signal, Signals},
};

/// How many pings wait for their pongs; a peer need not answer any but the last.
const PINGS: usize = 64;

/// One connection.
pub(super) async fn run(
    socket: WebSocket,
    args: &Connect,
    signals: Signals,
) -> Result<Outcome, Failure> {
    let mut editor = greet(args).await?;
    let screen = editor.screen();
    let mut outcome = Outcome::default();
    let at_once = Notify::new();
    let result = {
        let talk = socket.drive(async |socket| {
            let (sender, receiver) = socket.split();
            let session = Session::new(&mut editor, &screen, &mut outcome);
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

/// One connection after another, for as long as that makes sense. What is `shown` of opening them comes by itself.
pub(super) async fn run_again(
    opening: Opening,
    shown: UnboundedReceiver<String>,
    args: &Connect,
    signals: Signals,
) -> Result<Outcome, Failure> {
    let mut editor = greet(args).await?;
    let screen = editor.screen();
    let mut outcome = Outcome {
        unopened: true,
        ..Outcome::default()
    };
    let mut again = Again::new(opening, args);
    let session = Session::new(&mut editor, &screen, &mut outcome);
    let flow = session.talk_again(&mut again, shown, args, signals).await;
    outcome.ended = match flow {
        ControlFlow::Continue(()) => again.socket.ended(),
        ControlFlow::Break(()) => None,
    };
    drop((again, screen));
    editor.finish();
    Ok(outcome)
}

/// Takes the terminal, and says what can be typed.
async fn greet(args: &Connect) -> Result<Editor, Failure> {
    let history = match args.no_history {
        true => Ok(None),
        false => history::file(),
    };
    let (history, trouble) = match history {
        Ok(file) => (file, None),
        Err(error) => (
            None,
            Some(format!(
                "there will be no history, as with --no-history: {error}"
            )),
        ),
    };
    if !args.quiet {
        let hint = "A line is sent as a message; /help lists the commands, /quit or Ctrl-D ends.";
        super::print(&screen::note(hint))?;
    }
    let editor = Editor::start(history)?;
    if let Some(trouble) = trouble {
        editor.screen().print(screen::problem(&trouble)).await;
    }
    Ok(editor)
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
    /// Whether that was a Ctrl-C.
    interrupted: bool,
    /// Whether there is a connection, over which a Close can go.
    is_open: bool,
}

/// What the user wants.
enum Wish {
    Nothing,
    Send(Outgoing),
    /// To close with this code; where that goes on already, to wait for nobody.
    Leave(CloseCode),
}

/// What is to be sent, one after another.
#[derive(Debug)]
enum Outgoing {
    Message(Message),
    Ping(Bytes),
    Pong(Bytes),
    Close(CloseFrame),
}

impl<'a> Session<'a> {
    fn new(editor: &'a mut Editor, screen: &'a Screen, outcome: &'a mut Outcome) -> Self {
        Self {
            editor,
            screen,
            outcome,
            pings: VecDeque::new(),
            pinged: 0,
            closing: false,
            interrupted: false,
            is_open: true,
        }
    }

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
            let (leave, waits) = tokio::select! {
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
                input = self.editor.next() => match self.entered(input).await {
                    Wish::Nothing => continue,
                    Wish::Send(outgoing) => {
                        // The sending ends with the connection, and then so does this.
                        let _ = outbox.send(outgoing);
                        continue;
                    }
                    Wish::Leave(code) => (code, true),
                },
                signal = signals.next() => (self.signalled(signal), false),
            };
            if self.closing {
                // The user does not want to wait for that.
                self.outcome.signal.get_or_insert(Signal::Interrupt);
                break ControlFlow::Break(());
            }
            let close = self.leaves(leave).await;
            if waits {
                // Behind what was typed before.
                let _ = outbox.send(Outgoing::Close(close));
            } else {
                // A peer that does not take that does not hold up the end.
                at_once(&mut sending).await;
                at_once(sender.close(close.code, &close.reason)).await;
            }
        };
        drop(sending);
        self.outcome.sent = sent;
        flow
    }

    /// Talks over one connection after another until none follows; or breaks off, where the user does
    /// not want to wait for that. What is typed while there is none waits for the next.
    async fn talk_again(
        mut self,
        again: &mut Again,
        mut shown: UnboundedReceiver<String>,
        args: &Connect,
        mut signals: Signals,
    ) -> ControlFlow<()> {
        let (outbox, mail) = mpsc::unbounded_channel();
        let (connect, connected) = watch::channel(None::<Sender>);
        let mut sent = Traffic::default();
        // Messages that were typed and are not sent yet.
        let unsent = Cell::new(0);
        let sending = send_again(mail, connected, self.screen, &mut sent, &unsent);
        let mut sending = Box::pin(sending);
        let mut began = Instant::now();
        let flow = loop {
            let is_open = connect.borrow().is_some();
            self.is_open = is_open;
            let (close, waits) = tokio::select! {
                Some(line) = shown.recv() => {
                    self.screen.print(screen::note(&line)).await;
                    continue;
                }
                // Goes on for as long as `outbox` is there.
                () = &mut sending => continue,
                update = again.socket.recv_update() => {
                    self.show(&mut shown).await;
                    match update {
                        Ok(Some(Update::Connecting { .. })) => {
                            began = Instant::now();
                            continue;
                        }
                        Ok(Some(Update::Open)) => {
                            self.outcome.unopened = false;
                            if let Some(open) = again.socket.socket() {
                                connect.send_replace(Some(open.sender()));
                                let agreed = agreed(args, open, began);
                                self.say(args, screen::note(&agreed.join("\n"))).await;
                            }
                            continue;
                        }
                        Ok(Some(Update::Waiting { cause, delay, attempt })) => {
                            connect.send_replace(None);
                            self.pings.clear();
                            let lost = again::waiting(args, &cause, delay, attempt);
                            self.say(args, screen::problem(&lost)).await;
                            continue;
                        }
                        Ok(Some(update)) => {
                            self.updated(update).await;
                            continue;
                        }
                        Ok(None) => break ControlFlow::Continue(()),
                        Err(error) => {
                            // How an open one ended is asked later.
                            if !is_open {
                                self.outcome.failure = Some(Failure::opening(args, error));
                            }
                            break ControlFlow::Continue(());
                        }
                    }
                }
                input = self.editor.next() => match self.entered(input).await {
                    Wish::Nothing => continue,
                    Wish::Send(Outgoing::Close(frame)) => (frame, is_open),
                    Wish::Send(outgoing) => {
                        let is_message = matches!(outgoing, Outgoing::Message(_));
                        if is_message {
                            unsent.set(unsent.get() + 1);
                        }
                        if is_open || is_message {
                            let _ = outbox.send(outgoing);
                        }
                        if !is_open {
                            self.screen.print(match is_message {
                                true => screen::note("it is sent when there is a connection"),
                                false => screen::problem("not sent: there is no connection"),
                            }).await;
                        }
                        continue;
                    }
                    Wish::Leave(_) if self.closing => break ControlFlow::Break(()),
                    Wish::Leave(code) => (self.leaves(code).await, is_open),
                },
                signal = signals.next() => {
                    let code = self.signalled(signal);
                    if self.closing {
                        break ControlFlow::Break(());
                    }
                    (self.leaves(code).await, false)
                }
            };
            // As without --reconnect.
            if waits {
                again.no_more();
                let _ = outbox.send(Outgoing::Close(close));
            } else {
                at_once(&mut sending).await;
                at_once(again.close(close.code)).await;
            }
        };
        drop(sending);
        if unsent.get() > 0 {
            self.outcome.unsent = self.outcome.unopened;
            let unsent = format!("not sent: {}", Messages(unsent.get()));
            self.screen.print(screen::problem(&unsent)).await;
        }
        // Without a connection that it has closed, a Ctrl-C is what it is in a pipe.
        let is_interrupt = self.interrupted && self.outcome.unopened && !self.outcome.unsent;
        if flow.is_break() || is_interrupt {
            self.outcome.signal.get_or_insert(Signal::Interrupt);
        }
        self.outcome.sent = sent;
        flow
    }

    /// Shows what there is about opening a connection.
    async fn show(&self, shown: &mut UnboundedReceiver<String>) {
        while let Ok(line) = shown.try_recv() {
            self.screen.print(screen::note(&line)).await;
        }
    }

    /// Shows a change of state, unless only messages are wanted.
    async fn say(&self, args: &Connect, shown: String) {
        if !args.quiet {
            self.screen.print(shown).await;
        }
    }

    async fn updated(&mut self, update: Update) {
        match update {
            Update::Message(message) => self.happened(Event::Message(message)).await,
            Update::Ping(payload) => self.happened(Event::Ping(payload)).await,
            Update::Pong(payload) => self.happened(Event::Pong(payload)).await,
            _ => {}
        }
    }

    /// What the user asks for.
    async fn entered(&mut self, input: Input) -> Wish {
        match input {
            Input::Line(line) => match self.typed(&line).await {
                Some(outgoing) => Wish::Send(outgoing),
                None => Wish::Nothing,
            },
            Input::Trouble(why) => {
                self.screen.print(screen::problem(&why)).await;
                Wish::Nothing
            }
            Input::Interrupt => {
                self.interrupted = true;
                Wish::Leave(CloseCode::NORMAL)
            }
            Input::End => Wish::Leave(CloseCode::NORMAL),
            Input::Failed(why) => {
                self.outcome.failure = Some(Failure::new(why));
                Wish::Leave(CloseCode::GOING_AWAY)
            }
        }
    }

    /// The code that a signal closes with.
    fn signalled(&mut self, signal: Signal) -> CloseCode {
        match signal {
            Signal::Interrupt => {
                self.interrupted = true;
                CloseCode::NORMAL
            }
            Signal::Terminate => {
                self.outcome.signal = Some(signal);
                CloseCode::GOING_AWAY
            }
        }
    }

    /// The Close that ends the session. It is shown where somebody gets it.
    async fn leaves(&mut self, code: CloseCode) -> CloseFrame {
        self.closing = true;
        let frame = CloseFrame::new(code, "");
        if self.is_open {
            self.screen.print(screen::close(Up, Some(&frame))).await;
        }
        frame
    }

    /// Does what a line asks for, and gives what is to be sent for it.
    async fn typed(&mut self, line: &str) -> Option<Outgoing> {
        let outgoing = match command::parse(line) {
            Ok(Action::Nothing) => return None,
            Ok(Action::Help) => {
                self.screen.print(screen::note(&command::help())).await;
                return None;
            }
            Ok(Action::Text(text)) => Outgoing::Message(text.into()),
            Ok(Action::Binary(bytes)) => Outgoing::Message(bytes.into()),
            Ok(Action::File(path)) => match read_file(&path) {
                Ok(bytes) => Outgoing::Message(bytes.into()),
                Err(why) => {
                    self.screen.print(screen::problem(&why)).await;
                    return None;
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
                return None;
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
            Outgoing::Close(frame) => self.is_open.then(|| screen::close(Up, Some(frame))),
        };
        if let Some(shown) = shown {
            self.screen.print(shown).await;
        }
        Some(outgoing)
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

/// Does what can be done without waiting.
async fn at_once(work: impl Future) {
    tokio::select! {
        biased;
        _ = work => {}
        () = ready(()) => {}
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
        if let Err(error) = deliver(&outgoing, sender, sent).await {
            let why = format!("not sent: {error}");
            screen.print(screen::problem(&why)).await;
        }
    }
}

/// Sends one after another, each message on the connection that takes it whole.
async fn send_again(
    mut mail: mpsc::UnboundedReceiver<Outgoing>,
    mut connected: watch::Receiver<Option<Sender>>,
    screen: &Screen,
    sent: &mut Traffic,
    unsent: &Cell<u64>,
) {
    while let Some(outgoing) = mail.recv().await {
        let is_message = matches!(outgoing, Outgoing::Message(_));
        loop {
            let sender = match connected
                .wait_for(|sender| sender.is_some() || !is_message)
                .await
            {
                Ok(sender) => sender.clone(),
                // The session is over.
                Err(_) => return,
            };
            let result = match &sender {
                Some(sender) => deliver(&outgoing, sender, sent).await,
                None => Err(SendError::Closed.into()),
            };
            match result {
                Ok(()) => {}
                // It goes out again, whole, on the next.
                Err(Error::Lost(_) | Error::Send(SendError::Closed)) if is_message => {
                    if connected.changed().await.is_err() {
                        return;
                    }
                    continue;
                }
                Err(error) => {
                    let why = format!("not sent: {error}");
                    screen.print(screen::problem(&why)).await;
                }
            }
            break;
        }
        if is_message {
            unsent.set(unsent.get() - 1);
        }
    }
}

async fn deliver(outgoing: &Outgoing, sender: &Sender, sent: &mut Traffic) -> sockeye::Result<()> {
    match outgoing {
        Outgoing::Message(message) => {
            sender.send(message).await?;
            sent.add(message.len());
            Ok(())
        }
        Outgoing::Ping(payload) => sender.ping(payload).await,
        Outgoing::Pong(payload) => sender.pong(payload).await,
        Outgoing::Close(frame) => sender.close(frame.code, &frame.reason).await,
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
