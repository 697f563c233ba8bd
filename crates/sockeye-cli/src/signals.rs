//! What ends a program from outside: Ctrl-C and its relatives.

use std::{
    future::pending,
    io,
    pin::pin,
    process, thread,
    time::{Duration, Instant},
};

use sockeye::CloseCode;
use tokio::{runtime::Builder, sync::mpsc, time::timeout};

/// What comes so soon behind a signal is no other: `timeout` and service managers send theirs to the program and to its
/// group, or one kind behind another.
const AT_ONCE: Duration = Duration::from_millis(100);

/// Signals that end the program, from the moment it is made: the first in its own way, a second at once.
///
/// They are heard by a thread of their own, since what else the program does may wait for a reader of its output. But while a
/// line editor has the terminal SIGINT is heard by that alone, as a Ctrl-C that is typed: not where its terminal takes
/// nothing.
pub(crate) struct Signals(mpsc::UnboundedReceiver<Signal>);

/// SIGHUP, where it is to do something else than to end the program.
pub(crate) struct HangUps {
    #[cfg(unix)]
    signal: tokio::signal::unix::Signal,
}

/// What a signal does to a connection in a pipe: it begins to close it.
pub(crate) struct Leaving<'a> {
    signals: Signals,
    patience: Duration,
    signal: &'a mut Option<Signal>,
}

impl Signals {
    /// At a second signal, whoever has taken the terminal has so much time to give it back.
    pub(crate) fn new(patience: Duration) -> io::Result<Self> {
        Self::hear(true, patience)
    }

    /// Leaves SIGHUP out.
    pub(crate) fn but_hang_ups() -> io::Result<(Self, HangUps)> {
        let hang_ups = HangUps::new()?;
        Ok((Self::hear(false, Duration::ZERO)?, hang_ups))
    }

    fn hear(hang_up: bool, patience: Duration) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut kinds = {
            let _within = runtime.enter();
            Kinds::new(hang_up)?
        };
        let (tell, told) = mpsc::unbounded_channel();
        let hear = move || {
            suspending::leave();
            let second = runtime.block_on(async {
                // Nobody is told who is about to end anyway.
                let _ = tell.send(kinds.next().await);
                let first = Instant::now();
                loop {
                    let second = kinds.next().await;
                    if first.elapsed() >= AT_ONCE {
                        let _ = tell.send(second);
                        return second;
                    }
                }
            });
            thread::sleep(patience);
            process::exit(second.status().into());
        };
        thread::Builder::new().name("signals".into()).spawn(hear)?;
        Ok(Self(told))
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => pending().await,
        }
    }
}

/// Ctrl-Z (SIGTSTP), which stops the program in any thread that hears it. Where there is a line editor, that is to be its
/// own, which gives the terminal back before and takes it again behind that; so all others leave it.
pub(crate) mod suspending {
    /// Has this thread, and those that it starts, not be the one.
    pub(crate) fn leave() {
        // Refused by no system; then Ctrl-Z is what it was.
        #[cfg(unix)]
        let _ = signal().thread_block();
    }

    /// Has it be this thread.
    pub(crate) fn hear() {
        #[cfg(unix)]
        let _ = signal().thread_unblock();
    }

    #[cfg(unix)]
    fn signal() -> nix::sys::signal::SigSet {
        nix::sys::signal::Signal::SIGTSTP.into()
    }
}

impl<'a> Leaving<'a> {
    /// Notes the signal there. From then on, whoever reads the output has so much time for each part of it.
    pub(crate) fn new(
        signals: Signals,
        patience: Duration,
        signal: &'a mut Option<Signal>,
    ) -> Self {
        Self {
            signals,
            patience,
            signal,
        }
    }

    /// Whether the end was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.signal.is_some()
    }

    /// Waits for a signal, and gives the code to close with.
    pub(crate) async fn asked(&mut self) -> CloseCode {
        let signal = self.signals.next().await;
        *self.signal = Some(signal);
        match signal {
            Signal::Interrupt => CloseCode::NORMAL,
            Signal::Terminate => CloseCode::GOING_AWAY,
        }
    }

    /// Writes what takes as long as nobody reads the output. Where the end is asked for meanwhile, or was before, this
    /// closes, and gives up what is not taken within the patience for that: then there is nothing to give back.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        close: impl AsyncFnOnce(CloseCode),
    ) -> Option<T> {
        let mut work = pin!(work);
        if !self.is_asked() {
            tokio::select! {
                biased;
                code = self.asked() => close(code).await,
                done = &mut work => return Some(done),
            }
        }
        timeout(self.patience, work).await.ok()
    }

    /// Writes the last, which a signal gives up where there is nothing left to close, and the patience where one was heard
    /// before.
    pub(crate) async fn last<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let patience = match self.is_asked() {
            true => self.patience,
            false => Duration::MAX,
        };
        tokio::select! {
            biased;
            _ = self.asked() => None,
            done = timeout(patience, work) => done.ok(),
        }
    }
}

/// Who wants an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Ctrl-C.
    Interrupt,
    /// The system, or whoever runs this program; or the terminal is gone.
    #[cfg_attr(not(unix), allow(dead_code, reason = "there is only Ctrl-C"))]
    Terminate,
}

impl Signal {
    /// The exit status of a program that a signal ended, as shells count it.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// The kinds of signals that end the program.
#[cfg(unix)]
struct Kinds {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hang_up: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Kinds {
    fn new(hang_up: bool) -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        // Who has said `nohup` wants the program to stay.
        let hang_up = hang_up && !ignores_hang_up();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: hang_up.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    async fn next(&mut self) -> Signal {
        let hang_up = async {
            match &mut self.hang_up {
                Some(signal) => signal.recv().await,
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = hang_up => Signal::Terminate,
        }
    }
}

/// Whether this program was started so that it ignores SIGHUP. Only Linux says so without `unsafe`.
#[cfg(unix)]
fn ignores_hang_up() -> bool {
    const HANG_UP: u64 = 1;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
    ignored.is_some_and(|set| set & HANG_UP != 0)
}

#[cfg(not(unix))]
struct Kinds;

#[cfg(not(unix))]
impl Kinds {
    fn new(_: bool) -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            pending::<()>().await;
        }
        Signal::Interrupt
    }
}

#[cfg(unix)]
impl HangUps {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let signal = signal(SignalKind::hangup())?;
        Ok(Self { signal })
    }

    /// Waits for the next; `false` where none will come.
    pub(crate) async fn next(&mut self) -> bool {
        self.signal.recv().await.is_some()
    }
}

#[cfg(not(unix))]
impl HangUps {
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    pub(crate) async fn next(&mut self) -> bool {
        false
    }
}
