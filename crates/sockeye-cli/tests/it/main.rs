//! The tests of the `sockeye` command, in one program: it is built and linked once.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::unwrap_used
)]

mod program;

#[cfg(unix)]
mod connect;
#[cfg(unix)]
mod examples;
#[cfg(unix)]
mod leaving;
#[cfg(target_os = "linux")]
mod network_cut;
#[cfg(unix)]
mod reconnect;
#[cfg(unix)]
mod serve;
#[cfg(unix)]
mod stream;
#[cfg(unix)]
mod terminal;
#[cfg(unix)]
mod way;
