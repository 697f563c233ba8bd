//! What ends a program from outside: Ctrl-C and its relatives.

use std::{future::pending, io, pin::pin, process};

use sockeye::CloseCode;

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

/// What signals do to a connection in a pipe: the first begins to close it, a second ends the program.
pub(crate) struct Leaving<'a> {
    /// None once there was one.
    signals: Option<Signals>,
    signal: &'a mut Option<Signal>,
}

impl<'a> Leaving<'a> {
    /// Notes the signal there.
    pub(crate) fn new(signals: Signals, signal: &'a mut Option<Signal>) -> Self {
        Self {
            signals: Some(signals),
            signal,
        }
    }

    /// Whether the end was asked for.
    pub(crate) fn is_asked(&self) -> bool {
        self.signal.is_some()
    }

    /// Waits for the first signal, and gives the code to close with.
    pub(crate) async fn asked(&mut self) -> CloseCode {
        let Some(signals) = &mut self.signals else {
            return pending().await;
        };
        let signal = signals.next().await;
        *self.signal = Some(signal);
        if let Some(signals) = self.signals.take() {
            signals.end_at_once();
        }
        match signal {
            Signal::Interrupt => CloseCode::NORMAL,
            Signal::Terminate => CloseCode::GOING_AWAY,
        }
    }

    /// Does what takes as long as nobody reads the output, and closes where that is asked for meanwhile.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        work: impl Future<Output = T>,
        close: impl AsyncFnOnce(CloseCode),
    ) -> T {
        let mut work = pin!(work);
        tokio::select! {
            biased;
            code = self.asked() => close(code).await,
            done = &mut work => return done,
        }
        work.await
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

impl Signals {
    /// From now on a signal ends the program, whatever that waits for.
    pub(crate) fn end_at_once(mut self) {
        tokio::spawn(async move {
            process::exit(self.next().await.status().into());
        });
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
        None => pending().await,
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
            pending::<()>().await;
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
