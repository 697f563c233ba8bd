//! A price ticker. Prices change ten times a second, and every client gets as many of them as it can take, always the
//! newest: one that is slow misses prices, and is never behind.
//!
//! The client says when it has dealt with an update, and only then is sent the next: all that has changed since. So at
//! most one update is on its way, and no queue anywhere can grow old: not here, not in a proxy, and not in the buffers
//! of the two systems, which hold hundreds of kilobytes. (Where being so much behind does not matter,
//! `Sender::send_latest` and `Groups::send_latest_to` need no answers: of each key one message waits *here*, and what
//! the systems have taken is still delivered first.)
//!
//! The server sends text in JSON, the newest price of each symbol that has changed, in cents, and its price at the
//! opening:
//!
//! ```json
//! {"tick": 4711, "prices": [["NERKA", 12345, 12000], ["CHUM", 6789, 7000]]}
//! ```
//!
//! and the client sends the text `ready`.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use serde::Serialize;
use sockeye::{CloseCode, Result, Server, WebSocket};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

pub(crate) const PAGE: &str = include_str!("ticker.html");

const SYMBOLS: [&str; 8] = [
    "NERKA", "CHUM", "COHO", "KING", "PINK", "MASU", "TROUT", "CHAR",
];

/// To run it by itself: `Server::bind("127.0.0.1:8080").await?.router(Router::new().route("/", get(|| async {
/// Html(PAGE) })))` is a server, where axum serves the page.
pub(crate) async fn serve(server: Server) -> Result<()> {
    let (market, prices) = watch::channel(Market::open());
    tokio::select! {
        served = server.serve(move |socket| quote(socket, prices.clone())) => served,
        () = trade(market) => Ok(()),
    }
}

/// One client. A `watch` channel keeps one value, the newest: that is all the queue there is.
async fn quote(mut socket: WebSocket, mut prices: watch::Receiver<Market>) -> Result<()> {
    // The tick of what the client knows; all prices are newer than none.
    let mut known = None;
    let mut is_ready = true;
    // The prices of now, however long they have not changed.
    prices.mark_changed();
    loop {
        tokio::select! {
            changed = prices.changed(), if is_ready => {
                if changed.is_err() {
                    return Ok(());
                }
                let update = {
                    let market = prices.borrow_and_update();
                    let update = market.since(known);
                    known = Some(market.tick);
                    update
                };
                socket.send(update).await?;
                is_ready = false;
            }
            message = socket.recv() => match message? {
                None => return Ok(()),
                Some(message) if message.as_text() == Some("ready") => is_ready = true,
                Some(_) => {
                    let sender = socket.sender();
                    let reason = "a client of this ticker says nothing but: ready";
                    sender.close(CloseCode::POLICY_VIOLATION, reason).await?;
                }
            }
        }
    }
}

struct Market {
    /// Counts the changes.
    tick: u64,
    prices: [Price; SYMBOLS.len()],
}

struct Price {
    cents: u32,
    opening: u32,
    changed: u64,
}

#[derive(Serialize)]
struct Update {
    tick: u64,
    prices: Vec<(&'static str, u32, u32)>,
}

impl Market {
    fn open() -> Self {
        Self {
            tick: 0,
            prices: std::array::from_fn(|_| {
                let cents = 2_000 + random(20_000);
                Price {
                    cents,
                    opening: cents,
                    changed: 0,
                }
            }),
        }
    }

    /// Some prices change, by at most half a percent.
    fn trade(&mut self) {
        self.tick += 1;
        for price in &mut self.prices {
            if random(3) == 0 {
                let most = price.cents / 200 + 1;
                price.cents = (price.cents + random(2 * most + 1))
                    .saturating_sub(most)
                    .max(1);
                price.changed = self.tick;
            }
        }
    }

    /// What has changed after a tick.
    fn since(&self, known: Option<u64>) -> String {
        let prices = SYMBOLS.iter().zip(&self.prices);
        let newer = prices.filter(|(_, price)| known.is_none_or(|known| price.changed > known));
        let update = Update {
            tick: self.tick,
            prices: newer
                .map(|(symbol, price)| (*symbol, price.cents, price.opening))
                .collect(),
        };
        serde_json::to_string(&update).expect("strings and numbers can be written")
    }
}

/// Changes the prices ten times a second, for as long as it is polled.
async fn trade(market: watch::Sender<Market>) {
    let mut ticks = interval(Duration::from_millis(100));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        market.send_modify(Market::trade);
    }
}

/// A random number below another. The standard library has no better source; prices need none.
fn random(below: u32) -> u32 {
    let random = RandomState::new().hash_one(0) % u64::from(below);
    random.try_into().unwrap_or(0)
}
