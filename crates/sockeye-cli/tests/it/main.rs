//! The tests of the `sockeye` command, in one program: it is built and linked once.
#![cfg(unix)]
#![allow(missing_docs, clippy::unwrap_used)]

mod program;

mod connect;
mod examples;
mod leaving;
#[cfg(target_os = "linux")]
mod network_cut;
mod reconnect;
mod serve;
mod stream;
mod terminal;
mod way;
