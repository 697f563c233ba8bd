//! How much a client may do, by flags: whoever is over a limit harms nobody else.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sockeye::{
    Acceptor, CloseCode, Limits, Server,
    server::{Excess, Rate},
};

use crate::quantity::{parse_count, parse_seconds, parse_size};

/// Limits, those of the library where nothing is said. 0 is none, where there may be none.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Accept messages up to this size, in bytes or with K, M or G; a larger one is closed with 1009
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "16M")]
    pub(crate) max_message: usize,

    /// Accept frames up to this size; by default what a message of --max-message can become on its way
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_frame: Option<usize>,

    /// Accept messages of up to this many frames, empty ones counted
    #[arg(long, value_name = "NUMBER", value_parser = parse_count, default_value_t = Limits::default().fragments)]
    max_fragments: usize,

    /// Have at most this many connections; one more is answered with 503. 0 is any number
    #[arg(long, value_name = "NUMBER", value_parser = parse_count, default_value_t = 65_536)]
    max_connections: usize,

    /// Have at most this many connections from one address, or IPv6 /64; one more is answered with 429. 0 is any
    /// number
    ///
    /// By default 256, but any number from loopback and private networks, where proxies are.
    #[arg(long, value_name = "NUMBER", value_parser = parse_count)]
    max_connections_per_address: Option<usize>,

    /// Have at most this many connections that have not finished their opening handshake. 0 is any number
    ///
    /// Then the oldest is given up, if it is a second old.
    #[arg(long, value_name = "NUMBER", value_parser = parse_count, default_value_t = 4096)]
    max_handshakes: usize,

    /// Let one address, or IPv6 /64, connect so often a second, and so often at once; more is answered with 429.
    /// 0 is any number
    ///
    /// By default 32:256, but any number from loopback and private networks.
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_rate)]
    handshake_rate: Option<MaybeRate>,

    /// Let a client send so many messages a second, and so many at once; pings count too. 0 is any number
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_rate, default_value = "0")]
    message_rate: MaybeRate,

    /// Let a client send so many bytes a second, and so many at once: 1M, 1M:16M. 0 is any number
    #[arg(long, value_name = "RATE[:BURST]", value_parser = parse_rate, default_value = "0")]
    byte_rate: MaybeRate,

    /// What happens to a client that sends faster than that
    #[arg(long, value_name = "WHAT", default_value = "slow")]
    on_excess: OnExcess,

    /// Let this much wait to be sent to a client that does not read. Then what is echoed to it waits with it
    #[arg(long, value_name = "SIZE", value_parser = parse_size, default_value = "1M")]
    high_water: usize,

    /// What happens to a client for which more wait all the same: more than 32 MiB, or than --high-water and
    /// --max-message together where that is more
    #[arg(long, value_name = "WHAT", default_value = "cut")]
    on_overflow: OnOverflow,

    /// Close a connection on which no message has come or gone for this long, with 1001. 0 is never
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    idle_timeout: Duration,

    /// Close a connection that is this old, or up to a tenth younger, with 1001. 0 is never
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "0")]
    lifetime: Duration,

    /// Give up a client that has not finished TLS and its request after this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "10")]
    handshake_timeout: Duration,

    /// Give up a client that has not answered a Close after this long
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "5")]
    close_timeout: Duration,
}

/// What happens to a client that sends faster than it may.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnExcess {
    /// It is not read for a while, so that it has to wait
    Slow,
    /// It is closed with 1008
    Close,
}

/// What happens to a client that does not read.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum OnOverflow {
    /// The connection is cut, and what waits is gone
    Cut,
    /// It is closed with 1008 (policy violation), after what waits
    #[value(name = "1008")]
    PolicyViolation,
    /// It is closed with 1013 (try again later), after what waits
    #[value(name = "1013")]
    TryAgainLater,
}

/// A rate, or any.
type MaybeRate = Option<Rate>;

impl LimitArgs {
    /// Accepts within these limits, and messages of no more than `longest` where that is less.
    pub(super) fn acceptor(&self, longest: Option<usize>) -> Acceptor {
        let longest = longest.unwrap_or(usize::MAX).min(self.max_message);
        let mut limits = Limits::default()
            .message(longest)
            .fragments(self.max_fragments);
        if let Some(frame) = self.max_frame {
            limits = limits.frame(frame);
        }
        let acceptor = Acceptor::new()
            .limits(limits)
            .message_rate(self.message_rate)
            .byte_rate(self.byte_rate)
            .on_excess(match self.on_excess {
                OnExcess::Slow => Excess::SlowDown,
                OnExcess::Close => Excess::Close,
            })
            .high_water(self.high_water)
            .output_limit(self.output_limit())
            .idle_timeout(some(self.idle_timeout))
            .lifetime(some(self.lifetime))
            .handshake_timeout(self.handshake_timeout)
            .close_timeout(self.close_timeout);
        match self.on_overflow {
            OnOverflow::Cut => acceptor,
            OnOverflow::PolicyViolation => acceptor.close_on_overflow(CloseCode::POLICY_VIOLATION),
            OnOverflow::TryAgainLater => acceptor.close_on_overflow(CloseCode::TRY_AGAIN_LATER),
        }
    }

    /// Below the high-water mark a message is still read, and the echo of it has to fit.
    fn output_limit(&self) -> usize {
        self.high_water
            .saturating_add(self.max_message)
            .max(32 << 20)
    }

    pub(super) fn server(&self, mut server: Server) -> Server {
        server = server
            .max_connections(some(self.max_connections))
            .max_handshakes(some(self.max_handshakes));
        if let Some(most) = self.max_connections_per_address {
            server = server.max_connections_per_address(some(most));
        }
        if let Some(rate) = self.handshake_rate {
            server = server.handshake_rate(rate);
        }
        server
    }
}

/// 0 is none.
fn some<T: Default + PartialEq>(limit: T) -> Option<T> {
    (limit != T::default()).then_some(limit)
}

/// Reads a rate a second with what may come at once: `50`, `50:500`, `1M:16M`.
fn parse_rate(text: &str) -> Result<MaybeRate, String> {
    const FORM: &str = "a rate is a number a second, and with a colon how many at once: 50, 50:500, 1M:16M; 0 is any";
    if text == "0" {
        return Ok(None);
    }
    let number = |text: &str| parse_size(text).map_err(|_| FORM).map(|count| count as u64);
    Ok(Some(match text.split_once(':') {
        None => Rate::per_second(number(text)?),
        Some((rate, burst)) => Rate::per_second(number(rate)?).burst(number(burst)?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_has_a_burst_or_is_its_own() {
        assert_eq!(parse_rate("0"), Ok(None));
        assert_eq!(parse_rate("50"), Ok(Some(Rate::per_second(50))));
        let rate = Rate::per_second(1 << 20).burst(16 << 20);
        assert_eq!(parse_rate("1M:16M"), Ok(Some(rate)));
        for wrong in ["", ":", "1:", ":1", "0:5", "1:0", "-1", "1:2:3", "fast"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }
}
