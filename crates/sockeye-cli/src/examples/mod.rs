//! `sockeye serve --example NAME`: programs to open, to read and to copy. Each is a server in one file and a page
//! in another, on the public interface of the library alone.

mod chat;
mod game;
mod monitor;
mod ticker;

use clap::ValueEnum;
use sockeye::{Result, Server};

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Example {
    /// A chat with rooms and names
    Chat,
    /// Prices that change ten times a second; a slow client gets the newest and never a backlog
    Ticker,
    /// A pond of fish that are all steered by somebody, at 30 updates a second
    Game,
    /// CPU, memory and network of this machine, drawn as they are (Linux)
    Monitor,
}

impl Example {
    /// What is served at `/`.
    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::Chat => chat::PAGE,
            Self::Ticker => ticker::PAGE,
            Self::Game => game::PAGE,
            Self::Monitor => monitor::PAGE,
        }
    }

    /// What somebody finds there.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Chat => "A chat",
            Self::Ticker => "A price ticker",
            Self::Game => "A game",
            Self::Monitor => "A monitor of this machine",
        }
    }

    /// The longest message that a page of them sends is a tenth of this, in bytes.
    pub(crate) const LONGEST_MESSAGE: usize = 64 * 1024;

    pub(crate) async fn serve(self, server: Server) -> Result<()> {
        match self {
            Self::Chat => chat::serve(server).await,
            Self::Ticker => ticker::serve(server).await,
            Self::Game => game::serve(server).await,
            Self::Monitor => monitor::serve(server).await,
        }
    }
}
