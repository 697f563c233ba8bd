//! What ends a program from outside: Ctrl-C and its relatives.

use std::io;

/// Waits for signals, from the moment it is made.
pub(crate) struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    /// None once it means something else.
    #[cfg(unix)]
    hang_up: Option<tokio::signal::unix::Signal>,
}

/// SIGHUP, where it is to do something else than to end the program.
pub(crate) struct HangUps {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
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

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: Some(signal(SignalKind::hangup())?),
        })
    }

    /// The next signal. Dropping the future loses none.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = next_of(&mut self.hang_up) => Signal::Terminate,
        }
    }

    /// Takes SIGHUP out of what ends the program.
    pub(crate) fn hang_ups(&mut self) -> HangUps {
        HangUps {
            signal: self.hang_up.take(),
        }
    }
}

#[cfg(unix)]
impl HangUps {
    /// Waits for the next; `false` where none will come.
    pub(crate) async fn next(&mut self) -> bool {
        next_of(&mut self.signal).await.is_some()
    }
}

/// The next of a kind of signal; never, where it is waited for elsewhere.
#[cfg(unix)]
async fn next_of(signal: &mut Option<tokio::signal::unix::Signal>) -> Option<()> {
    match signal {
        Some(signal) => signal.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next Ctrl-C.
    pub(crate) async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Signal::Interrupt
    }

    /// There are none here.
    pub(crate) fn hang_ups(&mut self) -> HangUps {
        HangUps {}
    }
}

#[cfg(not(unix))]
impl HangUps {
    pub(crate) async fn next(&mut self) -> bool {
        false
    }
}
