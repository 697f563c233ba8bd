//! Hostile peers against servers that run as programs: bytes that break a rule, and too much of everything.
//!
//! After each case a healthy client is served, on each server somebody talks all the while, and what the
//! server holds of the machine's memory stays below a bound. `hostile WORD` runs the cases whose names have
//! that word.
#![allow(clippy::unwrap_used, reason = "a case fails where it panics")]

mod broken_rules;
#[path = "../../crates/sockeye/tests/it/http.rs"]
mod http;
mod odd_peers;
mod openings;
mod panics;
mod storms;
mod suite;
mod tls;
#[path = "../../crates/sockeye/tests/it/wire.rs"]
mod wire;
#[path = "../../crates/sockeye/tests/it/wrongs.rs"]
mod wrongs;

use std::process::ExitCode;

use suite::Suite;

/// For both ends of what the largest case opens, each in its own process, and some to spare.
const DESCRIPTORS: u64 = storms::HALF_OPEN as u64 + 2000;

#[tokio::main]
async fn main() -> std::io::Result<ExitCode> {
    sockeye_tests::descriptors(DESCRIPTORS)?;
    let mut suite = Suite::new(std::env::args().nth(1));
    openings::run(&mut suite).await?;
    broken_rules::run(&mut suite).await?;
    odd_peers::run(&mut suite).await?;
    panics::run(&mut suite).await?;
    tls::run(&mut suite).await?;
    storms::run(&mut suite).await?;
    Ok(suite.verdict())
}
