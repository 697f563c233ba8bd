//! The `sockeye` command: serves WebSockets, and connects to them.
#![forbid(unsafe_code)]

mod args;
mod clock;
mod connect;
mod examples;
mod failure;
mod quantity;
mod serve;
mod signals;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use failure::{Failure, MISUNDERSTOOD};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Serve(args) => match serve::with_file(*args) {
            Ok(settings) => {
                // Everyone is in one room. On one thread, whoever has seen its connection open is in it:
                // nothing is published between the answer to its request and its entry. Other connections
                // are independent of each other: every core can have its share.
                let threads = match settings.args.broadcast {
                    true => Builder::new_current_thread(),
                    false => Builder::new_multi_thread(),
                };
                runtime(threads).and_then(|it| it.block_on(serve::run(settings)))
            }
            Err(faults) => {
                faults.print();
                return ExitCode::from(MISUNDERSTOOD);
            }
        },
        // One connection has nothing to share.
        Command::Connect(args) => runtime(Builder::new_current_thread()).and_then(|it| {
            let status = it.block_on(connect::run(*args));
            // Standard output may be in the middle of a write that nobody reads.
            it.shutdown_background();
            status
        }),
    };
    result.unwrap_or_else(|failure| {
        failure.print();
        failure.status().into()
    })
}

fn runtime(mut builder: Builder) -> Result<Runtime, Failure> {
    builder
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("the system gives no threads or timers: {error}")))
}
