//! The `sockeye` command: serves WebSockets, and connects to them.
#![forbid(unsafe_code)]

mod args;
mod clock;
mod connect;
mod examples;
mod failure;
mod quantity;
mod serve;
mod shown;
mod signals;

use std::process::ExitCode;

use args::{Args, Command};
use failure::{Failure, MISUNDERSTOOD};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let result = match Args::given().command {
        Command::Serve(args) => match serve::with_file(*args) {
            Ok(settings) => {
                // Everyone is in one room. On one thread, whoever has seen its connection open is in it:
                // nothing is published between the answer to its request and its entry. Other connections
                // are independent of each other: every core can have its share.
                let threads = match settings.args.broadcast {
                    true => Builder::new_current_thread(),
                    false => Builder::new_multi_thread(),
                };
                run(threads, serve::run(settings))
            }
            Err(faults) => {
                faults.print();
                return ExitCode::from(MISUNDERSTOOD);
            }
        },
        // One connection has nothing to share.
        Command::Connect(args) => run(Builder::new_current_thread(), connect::run(*args)),
    };
    result.unwrap_or_else(|failure| {
        failure.print();
        failure.status().into()
    })
}

fn run(
    mut threads: Builder,
    work: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let runtime = threads
        .enable_all()
        .on_thread_start(signals::suspending::leave)
        .build()
        .map_err(|error| Failure::new(format!("the system gives no threads or timers: {error}")))?;
    let status = runtime.block_on(work);
    // A thread may be in the middle of a write that nobody reads, or wait for a file or a name.
    runtime.shutdown_background();
    status
}
