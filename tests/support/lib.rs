//! What the programs in this crate share: a server as a process of its own, looked at from outside, and
//! what both ends of a connection count.

mod random;
mod server;
mod tally;

pub use random::Random;
pub use server::Server;
pub use tally::{Record, Tally};

use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Takes as many file descriptors as the system permits, and says how many that are.
///
/// # Errors
/// Where the system refuses, or has fewer than `needed`.
pub fn descriptors(needed: u64) -> io::Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    if hard < needed {
        let why = format!("{needed} file descriptors are needed, and {hard} permitted: ulimit -Hn");
        return Err(io::Error::other(why));
    }
    Ok(hard)
}
