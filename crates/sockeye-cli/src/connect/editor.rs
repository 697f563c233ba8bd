//! The line at the bottom of the terminal, and what is printed above it while it is being typed.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustyline::{
    Config, Context, Editor as LineEditor, ExternalPrinter, Helper,
    completion::{Completer, FilenameCompleter, Pair},
    error::ReadlineError,
    highlight::Highlighter,
    hint::Hinter,
    history::FileHistory,
    validate::Validator,
};
use tokio::sync::mpsc;

use super::command::COMMANDS;
use crate::failure::Failure;

const PROMPT: &str = "> ";

/// How many lines of history are kept.
const HISTORY: usize = 1000;

/// How many texts wait to be printed before whoever prints waits too.
const UNPRINTED: usize = 256;

/// How many bytes are printed before the line that is being typed is drawn again.
const AT_ONCE: usize = 64 * 1024;

/// How often the line editor is told to end, and how long it has each time: a second together.
#[cfg(unix)]
const INTERRUPTS: u32 = 200;
#[cfg(unix)]
const INTERRUPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

const NOT_UTF8: &str = "what was typed is not UTF-8, which a text message has to be: it is not sent, and what follows \
                        is a line of its own";

/// Shows nothing: up a line, and down again.
#[cfg(unix)]
const NOTHING: &str = "\x1b[A\n";

/// Up a line, and that line is gone.
#[cfg(unix)]
const ERASE_LINE_ABOVE: &str = "\x1b[A\r\x1b[K";

/// What the user does.
#[derive(Debug)]
pub(super) enum Input {
    Line(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D. Nothing comes after it.
    End,
    /// The terminal cannot be read. Nothing comes after it.
    Failed(String),
    /// Something is wrong that need not end anything.
    Trouble(String),
}

pub(super) struct Editor {
    /// Without a bound, so that the line editor always runs and can print: it holds what one person
    /// has typed.
    inputs: mpsc::UnboundedReceiver<Input>,
    screen: Screen,
    /// Tells whether a prompt stands there that nothing followed.
    typing: JoinHandle<bool>,
    printing: JoinHandle<()>,
    /// Whether the session is over.
    over: Arc<AtomicBool>,
    /// Whether the terminal can do what a line editor needs. One that cannot keeps its own mode,
    /// and is not to be given back.
    edits: bool,
}

/// Prints above the line that is being typed.
#[derive(Clone)]
pub(super) struct Screen(mpsc::Sender<Print>);

enum Print {
    Text(String),
    End,
}

impl Editor {
    /// Takes the terminal, and shows the prompt.
    ///
    /// # Errors
    /// A terminal that cannot be used.
    pub(super) fn start(history: Option<PathBuf>) -> Result<Self, Failure> {
        let failed = |error: ReadlineError| Failure::new(format!("the terminal: {error}"));
        let config = Config::builder()
            .max_history_size(HISTORY)
            .map_err(failed)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .completion_type(rustyline::CompletionType::List)
            .build();
        let mut editor =
            LineEditor::<Assistant, FileHistory>::with_config(config).map_err(failed)?;
        editor.set_helper(Some(Assistant {
            paths: FilenameCompleter::new(),
        }));
        let printer = editor.create_external_printer().ok();
        let edits = printer.is_some();

        let (inputs_in, inputs) = mpsc::unbounded_channel();
        let (prints_in, prints) = mpsc::channel(UNPRINTED);
        let over = Arc::new(AtomicBool::new(false));
        let printing = thread::spawn(move || print(prints, printer));
        let is_over = over.clone();
        let typing = thread::spawn(move || type_lines(editor, history, &inputs_in, &is_over));
        Ok(Self {
            inputs,
            screen: Screen(prints_in),
            typing,
            printing,
            over,
            edits,
        })
    }

    /// What the user does next; never again once the terminal has ended. Dropping the future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Input {
        match self.inputs.recv().await {
            Some(input) => input,
            None => std::future::pending().await,
        }
    }

    pub(super) fn screen(&self) -> Screen {
        self.screen.clone()
    }

    /// Prints what is left, and gives the terminal back as it was. Blocks for a moment.
    pub(super) fn finish(self) {
        let Self {
            screen,
            typing,
            printing,
            over,
            edits,
            ..
        } = self;
        over.store(true, Ordering::SeqCst);
        // Where it is full, the printing goes on until every `Screen` is gone.
        let _ = screen.0.try_send(Print::End);
        drop(screen);
        // A thread that panicked has said so itself.
        let _ = printing.join();
        if edits {
            interrupt(typing);
        }
    }
}

/// Has the line editor end: it ends at a SIGINT. One that comes between two of its lines is not
/// seen, so that it takes more than one at times.
#[cfg(unix)]
fn interrupt(typing: JoinHandle<bool>) {
    use nix::{sys::signal, unistd::Pid};
    for _ in 0..INTERRUPTS {
        if typing.is_finished() || signal::kill(Pid::this(), signal::Signal::SIGINT).is_err() {
            break;
        }
        thread::sleep(INTERRUPT_PAUSE);
    }
    // A thread that panicked has said so itself; one that goes on has its prompt there.
    let prompts = !typing.is_finished() || typing.join().unwrap_or(false);
    if prompts {
        // What is left of the prompt.
        let mut output = io::stdout().lock();
        let _ = output
            .write_all(ERASE_LINE_ABOVE.as_bytes())
            .and_then(|()| output.flush());
    }
}

#[cfg(not(unix))]
fn interrupt(typing: JoinHandle<bool>) {
    if !typing.is_finished() {
        println!("The connection has ended: press Enter to leave.");
    }
    let _ = typing.join();
}

impl Screen {
    /// Prints a text, which ends with a line break. Waits while much is unprinted.
    pub(super) async fn print(&self, text: String) {
        // The printing ends with the session, and then nobody prints.
        let _ = self.0.send(Print::Text(text)).await;
    }
}

/// Reads lines until the session or the input is over. Tells whether a prompt stands there then, as
/// where the session ended while a line was typed.
fn type_lines(
    mut editor: LineEditor<Assistant, FileHistory>,
    mut history: Option<PathBuf>,
    inputs: &mpsc::UnboundedSender<Input>,
    over: &AtomicBool,
) -> bool {
    if let Some(file) = history.as_ref().filter(|file| file.exists())
        && let Err(error) = editor.load_history(file)
    {
        let trouble = format!("the history in {} cannot be read: {error}", file.display());
        let _ = inputs.send(Input::Trouble(trouble));
    }
    while !over.load(Ordering::SeqCst) {
        let (input, is_last) = match editor.readline(PROMPT) {
            Ok(line) => (Input::Line(line), false),
            Err(ReadlineError::Interrupted) if over.load(Ordering::SeqCst) => return true,
            Err(ReadlineError::Interrupted) => (Input::Interrupt, false),
            Err(ReadlineError::Eof) => (Input::End, true),
            // The editor's line ends there; what it had read ahead has gone with it.
            Err(ReadlineError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                (Input::Trouble(NOT_UTF8.into()), false)
            }
            Err(error) => (Input::Failed(format!("the terminal: {error}")), true),
        };
        // Nobody listens once the session is over.
        let _ = inputs.send(input);
        if let Some(file) = &history
            && let Err(error) = editor.append_history(file)
        {
            let trouble = format!("the history cannot be kept in {}: {error}", file.display());
            let _ = inputs.send(Input::Trouble(trouble));
            history = None;
        }
        if is_last {
            break;
        }
    }
    false
}

/// Prints texts until the end, as many at once as wait.
fn print(mut prints: mpsc::Receiver<Print>, mut printer: Option<impl ExternalPrinter>) {
    let color = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let mut is_last = false;
    while !is_last {
        let mut all = String::new();
        let mut next = prints.blocking_recv();
        loop {
            match next {
                Some(Print::Text(text)) => all += &text,
                Some(Print::End) | None => {
                    is_last = true;
                    break;
                }
            }
            if all.len() >= AT_ONCE {
                break;
            }
            match prints.try_recv() {
                Ok(print) => next = Some(print),
                Err(_) => break,
            }
        }
        if !color {
            all = anstream::adapter::strip_str(&all).to_string();
        }
        if !all.is_empty() {
            put(&mut printer, all);
        }
    }
    #[cfg(unix)]
    if printer.is_some() {
        // The line editor takes one text at a time: when it takes this, it has printed the last.
        put(&mut printer, NOTHING.into());
    }
}

fn put(printer: &mut Option<impl ExternalPrinter>, text: String) {
    let by_editor = match printer {
        Some(printer) => printer.print(text.clone()).is_ok(),
        None => false,
    };
    if !by_editor {
        // The line editor has ended. A terminal that takes nothing any more is not missed.
        let mut output = io::stdout().lock();
        let _ = output
            .write_all(text.as_bytes())
            .and_then(|()| output.flush());
    }
}

/// Completes commands and paths.
struct Assistant {
    paths: FilenameCompleter,
}

impl Helper for Assistant {}
impl Highlighter for Assistant {}
impl Validator for Assistant {}
impl Hinter for Assistant {
    type Hint = String;
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        const FILE: &str = "/file ";
        let typed = &line[..at];
        if typed.starts_with(FILE) {
            let (start, pairs) =
                self.paths
                    .complete(&line[FILE.len()..], at - FILE.len(), context)?;
            return Ok((start + FILE.len(), pairs));
        }
        if !typed.starts_with('/') || typed.contains(' ') {
            return Ok((0, Vec::new()));
        }
        let pairs = COMMANDS
            .iter()
            .filter(|(name, ..)| name.starts_with(typed))
            .map(|(name, arguments, _)| Pair {
                display: (*name).into(),
                replacement: match *arguments {
                    "" => (*name).into(),
                    _ => format!("{name} "),
                },
            })
            .collect();
        Ok((0, pairs))
    }
}
