//! What signals do to `sockeye serve`: how it ends, and how its certificate is read again; and what
//! systemd is told of it.

use std::{sync::Arc, time::Duration};

use sockeye::server::{ServerTls, Shutdown};

use super::visits::Visits;
use crate::{
    args::Serve,
    signals::{HangUps, Signals},
};

/// How the end was asked for on the command line.
pub(super) fn how(args: &Serve) -> Shutdown {
    let mut how = match args.restart {
        true => Shutdown::restart(),
        false => Shutdown::new(),
    };
    how = how.spread(args.drain);
    match args.shutdown_timeout {
        Some(timeout) => how.deadline(timeout),
        None => how,
    }
}

/// Waits for the signal to end, and gives how.
pub(super) async fn signalled(
    mut signals: Signals,
    how: Shutdown,
    drain: Duration,
    visits: Arc<Visits>,
) -> Shutdown {
    signals.next().await;
    systemd(State::Stopping);
    visits.closing(drain);
    how
}

/// Reads the certificate again whenever the program is asked to.
pub(super) async fn reload(tls: ServerTls, mut hang_ups: HangUps, visits: Arc<Visits>) {
    while hang_ups.next().await {
        systemd(State::Reloading);
        // Files are read on a thread that may wait for them.
        let reading = tls.clone();
        match tokio::task::spawn_blocking(move || reading.reload()).await {
            Ok(Ok(())) => visits.say("Certificate read again"),
            Ok(Err(error)) => visits.complain(&format!("the certificate stays as it was: {error}")),
            Err(panic) => visits.complain(&format!("the certificate stays as it was: {panic}")),
        }
        systemd(State::Ready);
    }
}

/// What systemd is told, where it wants to know (`Type=notify`).
#[derive(Clone, Copy)]
pub(super) enum State {
    Ready,
    Reloading,
    Stopping,
}

#[cfg(target_os = "linux")]
pub(super) fn systemd(state: State) {
    use sd_notify::{NotifyState, notify};
    // Where nobody hears it, the server works all the same; systemd says what it misses.
    let _ = match state {
        State::Ready => notify(&[NotifyState::Ready]),
        State::Stopping => notify(&[NotifyState::Stopping]),
        State::Reloading => {
            NotifyState::monotonic_usec_now().and_then(|now| notify(&[NotifyState::Reloading, now]))
        }
    };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn systemd(_: State) {}
