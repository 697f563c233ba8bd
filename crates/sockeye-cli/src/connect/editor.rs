//! The line at the bottom of the terminal, and what is printed above it while it is being typed.

use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
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
use tokio::{sync::mpsc, time::timeout};

use super::{command::COMMANDS, screen};
use crate::{failure::Failure, signals::suspending};

const PROMPT: &str = "> ";

/// How many lines of history are kept.
const HISTORY: usize = 1000;

/// How many texts wait to be printed before whoever prints waits too.
const UNPRINTED: usize = 256;

/// How long printing may come to nothing before a text is not shown. The line editor prints nothing in the middle of a key of
/// several, such as Ctrl-V, and while it goes through the history; of a slow terminal the system takes much at once, and
/// then nothing for a while: the peer waits for that.
const HELD: Duration = Duration::from_secs(5);

/// The same at the end, before the line editor is told to end: then it prints the rest or has it printed.
const HELD_AT_THE_END: Duration = Duration::from_secs(1);

/// How long the rest of a key such as an arrow may take: else it was Esc.
const KEY: u16 = 500;

/// How many bytes are printed before the line that is being typed is drawn again.
const AT_ONCE: usize = 1024;

/// How often the line editor is told to end, and how long it has each time: a second together.
#[cfg(unix)]
const INTERRUPTS: u32 = 200;
#[cfg(unix)]
const INTERRUPT_PAUSE: Duration = Duration::from_millis(5);

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
    /// How often something was printed.
    printed: Arc<AtomicUsize>,
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
pub(super) struct Screen {
    prints: mpsc::Sender<Print>,
    /// How many texts were not shown since nothing could be printed.
    unshown: Arc<AtomicUsize>,
}

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
        suspending::leave();
        let failed = |error: ReadlineError| Failure::new(format!("the terminal: {error}"));
        let config = Config::builder()
            .max_history_size(HISTORY)
            .map_err(failed)?
            .history_ignore_space(true)
            .auto_add_history(true)
            .completion_type(rustyline::CompletionType::List)
            .keyseq_timeout(Some(KEY))
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
        let printed = Arc::<AtomicUsize>::default();
        let count = printed.clone();
        let printing = thread::spawn(move || print(prints, printer, &count));
        let is_over = over.clone();
        let typing = thread::spawn(move || type_lines(editor, history, &inputs_in, &is_over));
        Ok(Self {
            inputs,
            screen: Screen {
                prints: prints_in,
                unshown: Arc::default(),
            },
            printed,
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
            Some(input) => {
                if matches!(input, Input::End | Input::Failed(_)) {
                    // The line editor hears nothing any more.
                    suspending::hear();
                }
                input
            }
            None => std::future::pending().await,
        }
    }

    pub(super) fn screen(&self) -> Screen {
        self.screen.clone()
    }

    /// Prints what is left, and gives the terminal back as it was. Blocks for a moment; for some seconds where nothing can
    /// be printed.
    pub(super) fn finish(self) {
        let Self {
            screen,
            printed,
            typing,
            printing,
            over,
            edits,
            ..
        } = self;
        over.store(true, Ordering::SeqCst);
        suspending::hear();
        let unshown = screen.unshown.load(Ordering::Relaxed);
        // Where it is full, the printing goes on until every `Screen` is gone.
        let _ = screen.prints.try_send(Print::End);
        drop(screen);
        let is_held = !ends(&printing, &printed);
        if edits {
            interrupt(typing, is_held);
        }
        if is_held {
            // Now it prints without the line editor. A thread that panicked has said so itself.
            let _ = printing.join();
        }
        if unshown > 0 {
            put_directly(&not_shown(unshown));
        }
    }
}

/// Waits until the printing has ended, for as long as it comes to something. Tells whether it has.
fn ends(printing: &JoinHandle<()>, printed: &AtomicUsize) -> bool {
    let mut seen = (printed.load(Ordering::Relaxed), Instant::now());
    while !printing.is_finished() {
        let now = printed.load(Ordering::Relaxed);
        if now != seen.0 {
            seen = (now, Instant::now());
        } else if seen.1.elapsed() > HELD_AT_THE_END {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    true
}

fn not_shown(count: usize) -> String {
    screen::note(&format!(
        "not shown: {count} events, while nothing could be printed here"
    ))
}

/// Has the line editor end: it ends at a SIGINT, of its own thread also in the middle of a key. One that comes between two
/// of its lines is not seen, so that it takes more than one at times. Where it was in the middle of a key, nothing is left of
/// its prompt; where the terminal took nothing, it is waited for until that takes something, or a second signal comes.
#[cfg(unix)]
fn interrupt(typing: JoinHandle<bool>, is_held: bool) {
    use nix::sys::{pthread::pthread_kill, signal::Signal};
    use std::os::unix::thread::JoinHandleExt;
    for _ in 0..INTERRUPTS {
        if typing.is_finished() || pthread_kill(typing.as_pthread_t(), Signal::SIGINT).is_err() {
            break;
        }
        thread::sleep(INTERRUPT_PAUSE);
    }
    if is_held {
        // A thread that panicked has said so itself.
        let _ = typing.join();
        return;
    }
    // A thread that panicked has said so itself; one that goes on has its prompt there.
    let prompts = !typing.is_finished() || typing.join().unwrap_or(false);
    if prompts {
        put_directly(ERASE_LINE_ABOVE);
    }
}

#[cfg(not(unix))]
fn interrupt(typing: JoinHandle<bool>, _: bool) {
    if !typing.is_finished() {
        println!("The connection has ended: press Enter to leave.");
    }
    let _ = typing.join();
}

impl Screen {
    /// Prints a text, which ends with a line break. Waits while much is unprinted; where that comes to nothing, the text is
    /// not shown, so that the connection goes on.
    pub(super) async fn print(&self, text: String) {
        let unshown = self.unshown.load(Ordering::Relaxed);
        if unshown == 0 {
            match timeout(HELD, self.prints.reserve()).await {
                Ok(Ok(place)) => place.send(Print::Text(text)),
                // The printing ends with the session, and then nobody prints.
                Ok(Err(_)) => {}
                Err(_) => self.unshown.store(1, Ordering::Relaxed),
            }
            return;
        }
        match self.prints.try_reserve_many(2) {
            Ok(places) => {
                let texts = [not_shown(unshown), text];
                for (place, text) in places.zip(texts) {
                    place.send(Print::Text(text));
                }
                self.unshown.store(0, Ordering::Relaxed);
            }
            Err(_) => self.unshown.store(unshown + 1, Ordering::Relaxed),
        }
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
    suspending::hear();
    if let Some(file) = history.as_ref().filter(|file| file.exists())
        && let Err(error) = editor.load_history(file)
    {
        let trouble = format!("the history in {} cannot be read: {error}", file.display());
        let _ = inputs.send(Input::Trouble(trouble));
    }
    while !over.load(Ordering::SeqCst) {
        let (input, is_last) = match editor.readline(PROMPT) {
            Ok(line) => (Input::Line(line), false),
            Err(ReadlineError::Interrupted | ReadlineError::Signal(_))
                if over.load(Ordering::SeqCst) =>
            {
                return true;
            }
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
fn print(
    mut prints: mpsc::Receiver<Print>,
    mut printer: Option<impl ExternalPrinter>,
    printed: &AtomicUsize,
) {
    let color = anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    let mut is_last = false;
    let mut given = String::new();
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
            put(&mut printer, &mut given, all);
            printed.fetch_add(1, Ordering::Relaxed);
        }
    }
    #[cfg(unix)]
    if printer.is_some() {
        // The line editor takes one text at a time: when it takes this, it has printed the last.
        put(&mut printer, &mut given, NOTHING.into());
    }
}

/// Has a text printed by the line editor, which was `given` the one before; directly, where that has ended.
fn put(printer: &mut Option<impl ExternalPrinter>, given: &mut String, text: String) {
    let began = Instant::now();
    let by_editor = match printer {
        Some(printer) => printer.print(text.clone()).is_ok(),
        None => false,
    };
    if by_editor {
        *given = text;
        return;
    }
    // It has ended. Where it had to be waited for, it has not printed the one before either.
    if began.elapsed() > HELD_AT_THE_END / 2 {
        put_directly(given);
    }
    given.clear();
    put_directly(&text);
}

fn put_directly(text: &str) {
    // A terminal that takes nothing any more is not missed.
    let mut output = io::stdout().lock();
    let _ = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
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
