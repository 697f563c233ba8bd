//! What can be said on the command line.

mod connect;
mod serve;

use std::time::Duration;

use clap::{
    Args as ArgGroup, Error, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::quantity::parse_seconds;
pub(crate) use connect::{Connect, Interface, Resolve, User};
pub(crate) use serve::Serve;

/// WebSocket from the command line: serve it, or connect to it.
#[derive(Debug, Parser)]
#[command(name = "sockeye", version, after_help = EXAMPLES, max_term_width = 100)]
#[command(
    infer_subcommands = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Args {
    /// What this program was started with. Where that is not understood, it is told, and the program ends.
    pub(crate) fn given() -> Self {
        Self::try_parse().unwrap_or_else(|error| hide_secrets(error).exit())
    }
}

/// Whose values may show who the user is.
const SECRETS: [&str; 4] = ["--user ", "--proxy-user ", "--header ", "--cookie "];

/// What was not understood, without its text where that may be secret: a password of which the colon is missing, a token
/// of which the quotes are, a second URL.
fn hide_secrets(mut error: Error) -> Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let argument = text(ContextKind::InvalidArg);
    let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphabetic());
    let kind = match error.kind() {
        ErrorKind::ValueValidation if SECRETS.iter().any(|flag| argument.starts_with(flag)) => {
            ContextKind::InvalidValue
        }
        // A flag without a value, misspelt for one that has some.
        ErrorKind::TooManyValues => ContextKind::InvalidValue,
        ErrorKind::UnknownArgument if !argument.starts_with('-') && is_connect(&error) => {
            let advice = "there is one URL, and what has spaces stands between quotes".into();
            let advice = ContextValue::StyledStrs(vec![advice]);
            error.insert(ContextKind::Suggested, advice);
            ContextKind::InvalidArg
        }
        ErrorKind::InvalidSubcommand if !is_word(text(ContextKind::InvalidSubcommand)) => {
            ContextKind::InvalidSubcommand
        }
        _ => return error,
    };
    error.insert(kind, ContextValue::String("…".into()));
    error
}

/// Whether it is about `sockeye connect`, as far as clap says.
fn is_connect(error: &Error) -> bool {
    let usage = error.get(ContextKind::Usage);
    usage.is_some_and(|usage| usage.to_string().contains("sockeye connect"))
}

const EXAMPLES: &str = "\
Examples:
  sockeye serve                              a server to try things with, and a page for the browser
  sockeye serve --example chat               a chat to open in two browsers, and to learn from
  sockeye connect ws://127.0.0.1:8080/       talk to it, or to any other WebSocket server
  echo hello | sockeye connect URL           send a line, print what comes back

`sockeye serve --help` and `sockeye connect --help` say everything.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<Serve>),
    Connect(Box<Connect>),
}
/// How a connection is kept.
#[derive(Clone, Copy, Debug, ArgGroup)]
pub(crate) struct Pings {
    /// Send a ping that often, or never with 0. It keeps the way open, and shows whether the peer is there
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds, default_value = "30")]
    pub(crate) ping_interval: Duration,

    /// Give the connection up when nothing at all comes for this long after a ping
    #[arg(long, value_name = "SECONDS", value_parser = parse_ping_timeout, default_value = "20")]
    pub(crate) ping_timeout: Duration,
}

/// Reads a number of seconds that leaves a peer time to answer.
fn parse_ping_timeout(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        Duration::ZERO => Err(
            "every peer would be silent after 0 seconds; for no pings at all there is --ping-interval 0"
                .into(),
        ),
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use {connect::CONNECT_HELP, serve::SERVE_HELP};

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    /// Splits as a shell does, as far as the examples need it.
    fn words(command: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for character in command.chars() {
            match (character, words.last_mut()) {
                ('\'', _) => quoted = !quoted,
                (' ', _) if !quoted => words.push(String::new()),
                (other, Some(word)) => word.push(other),
                (_, None) => {}
            }
        }
        words.retain(|word| !word.is_empty());
        words
    }

    #[test]
    fn help_tells_of_every_flag() {
        for command in Args::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{argument}");
                if let Some(long) = argument.get_long() {
                    assert!(help.contains(&format!("--{long}")), "{long}");
                }
            }
            assert!(help.contains("Examples:") && help.contains("Exit status:"));
        }
    }

    #[test]
    fn a_number_that_is_none_is_told_in_words_of_ours() {
        let told = |line: &str| Args::try_parse_from(words(line)).unwrap_err().to_string();
        for flag in ["max-connections", "max-fragments", "max-handshakes"] {
            for wrong in ["-1", "x", "1.5", ""] {
                let told = told(&format!("sockeye serve --{flag}={wrong}"));
                assert!(told.contains("a whole number is needed"), "{told}");
            }
        }
        for flag in ["location --max-redirs", "reconnect --max-attempts"] {
            let told = told(&format!("sockeye connect --{flag}=-1 ws://a"));
            assert!(told.contains("a whole number is needed"), "{told}");
        }
        let told = told("sockeye connect --reconnect --max-attempts=0 ws://a");
        assert!(told.contains("the first attempt counts"), "{told}");
    }

    /// It cut every peer at the first ping.
    #[test]
    fn a_peer_has_time_to_answer_a_ping() {
        for line in ["sockeye serve", "sockeye connect ws://a"] {
            let with = |seconds: &str| words(&format!("{line} --ping-timeout {seconds}"));
            assert!(Args::try_parse_from(with("0.5")).is_ok());
            let told = Args::try_parse_from(with("0")).unwrap_err().to_string();
            assert!(told.contains("every peer would be silent"), "{told}");
        }
    }

    #[test]
    fn every_example_of_the_help_is_understood() {
        let mut count = 0;
        for line in [EXAMPLES, SERVE_HELP, CONNECT_HELP].join("\n").lines() {
            let Some(at) = line.find("sockeye ").filter(|_| line.starts_with("  ")) else {
                continue;
            };
            let command = line[at..].split(" | ").next().unwrap();
            let command = command
                .split(" > ")
                .next()
                .unwrap()
                .split("   ")
                .next()
                .unwrap();
            Args::try_parse_from(words(command)).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
        assert_eq!(count, 24);
    }
}
