//! A small game: everyone steers a fish through the same pond and eats flies. The server knows where everything is,
//! moves it 30 times a second, and sends what it looks like then to everyone, in a binary message. To a client that
//! does not keep up, only the newest is sent.
//!
//! Numbers have the most significant byte first. The server sends
//!
//! ```text
//! welcome   00 · number of the client's own fish: 2 bytes · width and height of the pond: 2 and 2
//! state     01 · tick: 4 · count of fish: 1 · each fish · each fly, up to the end
//!    fish   number: 2 · x: 2 · y: 2 · heading: 1, in 256ths of a turn from the right · hue: 1, in 256ths · flies eaten: 2
//!    fly    x: 2 · y: 2
//! ```
//!
//! and the client, whenever that changes,
//!
//! ```text
//! steer     00 · to the right: 1 byte · down: 1, both signed, 127 at full speed
//! ```

use std::{
    f32::consts::TAU,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sockeye::{CloseCode, Ended, Groups, Handler, Member, MessageRef, Result, Server, Socket};
use tokio::time::{MissedTickBehavior, interval};

pub(crate) const PAGE: &str = include_str!("game.html");

const TICKS_A_SECOND: u32 = 30;
const WIDTH: u16 = 1600;
const HEIGHT: u16 = 900;
/// Of a fish, in units of the pond a second.
const SPEED: f32 = 320.0;
/// How near a fly has to be to be eaten.
const REACH: f32 = 40.0;
/// How near to the edge of the pond anything can be.
const SHORE: f32 = 40.0;
/// Their count has a byte.
const MOST_FISH: usize = 100;
const FLIES: usize = 24;

/// The group of all who play.
const POND: &str = "pond";

/// To run it by itself: `Server::bind("127.0.0.1:8080").await?.router(Router::new().route("/", get(|| async {
/// Html(PAGE) })))` is a server, where axum serves the page.
pub(crate) async fn serve(server: Server) -> Result<()> {
    let game = Game {
        groups: Groups::new(),
        pond: Arc::new(Mutex::new(Pond::new())),
    };
    let clock = run(game.clone());
    tokio::select! {
        served = server.serve_handler(move || Player::new(&game)) => served,
        () = clock => Ok(()),
    }
}

/// All that is shared. Clones are the same game.
#[derive(Clone)]
struct Game {
    groups: Groups,
    pond: Arc<Mutex<Pond>>,
}

impl Game {
    fn pond(&self) -> MutexGuard<'_, Pond> {
        self.pond.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves everything and tells everyone, for as long as it is polled.
async fn run(game: Game) {
    let mut ticks = interval(Duration::from_secs(1) / TICKS_A_SECOND);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let state = {
            let mut pond = game.pond();
            pond.swim();
            pond.state()
        };
        // Of one key: the state before it is replaced where it still waits.
        game.groups.send_latest_to(POND, 0, state);
    }
}

/// One client, and its fish by its number.
struct Player {
    game: Game,
    member: Option<Member>,
    fish: Option<u16>,
}

impl Player {
    fn new(game: &Game) -> Self {
        Self {
            game: game.clone(),
            member: None,
            fish: None,
        }
    }
}

impl Handler for Player {
    fn on_open(&mut self, socket: &mut Socket) {
        let Some(number) = self.game.pond().add() else {
            let _ = socket.close(CloseCode::TRY_AGAIN_LATER, "the pond is full");
            return;
        };
        self.fish = Some(number);
        let mut welcome = vec![0];
        for value in [number, WIDTH, HEIGHT] {
            welcome.extend(value.to_be_bytes());
        }
        socket.send(welcome);
        let member = self.game.groups.member(socket.sender());
        // Refused only where it is gone already.
        let _ = member.join(POND);
        self.member = Some(member);
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        match (self.fish, message) {
            (Some(number), MessageRef::Binary(&[0, right, down])) => {
                self.game
                    .pond()
                    .steer(number, [right, down].map(u8::cast_signed));
            }
            (_, MessageRef::Binary(_)) => {
                let reason = "steering is three bytes: 0, to the right, down";
                let _ = socket.close(CloseCode::POLICY_VIOLATION, reason);
            }
            (_, MessageRef::Text(_)) => {
                let _ = socket.close(CloseCode::UNSUPPORTED_DATA, "this game is binary");
            }
        }
    }

    /// However it has ended.
    fn on_close(&mut self, _: &mut Socket, _: &Ended) {
        if let Some(number) = self.fish {
            self.game.pond().fish.retain(|fish| fish.number != number);
        }
    }
}

struct Pond {
    tick: u32,
    next: u16,
    fish: Vec<Fish>,
    flies: [Point; FLIES],
}

struct Fish {
    number: u16,
    at: Point,
    /// In units of the pond a second; and what it is to become.
    speed: Point,
    wanted: Point,
    heading: f32,
    hue: u8,
    eaten: u16,
}

#[derive(Clone, Copy, Default)]
struct Point {
    x: f32,
    y: f32,
}

impl Pond {
    fn new() -> Self {
        Self {
            tick: 0,
            next: 1,
            fish: Vec::new(),
            flies: std::array::from_fn(|_| Point::anywhere()),
        }
    }

    /// One fish more, where there is room.
    fn add(&mut self) -> Option<u16> {
        if self.fish.len() >= MOST_FISH {
            return None;
        }
        while self.fish.iter().any(|fish| fish.number == self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.next = number.wrapping_add(1);
        self.fish.push(Fish {
            number,
            at: Point::anywhere(),
            speed: Point::default(),
            wanted: Point::default(),
            heading: random() * TAU,
            // The golden section of the circle: far from those of the fish before it.
            hue: number.wrapping_mul(159).to_be_bytes()[1],
            eaten: 0,
        });
        Some(number)
    }

    fn steer(&mut self, number: u16, [right, down]: [i8; 2]) {
        if let Some(fish) = self.fish.iter_mut().find(|fish| fish.number == number) {
            let wanted = Point {
                x: f32::from(right) / 127.0,
                y: f32::from(down) / 127.0,
            };
            // No faster across than along.
            let scale = SPEED / wanted.length().max(1.0);
            fish.wanted = Point {
                x: wanted.x * scale,
                y: wanted.y * scale,
            };
        }
    }

    /// A tick.
    fn swim(&mut self) {
        /// How much of what it is to be a speed becomes in a tick: water is thick.
        const YIELD: f32 = 0.15;
        let tick = 1.0 / TICKS_A_SECOND as f32;
        self.tick = self.tick.wrapping_add(1);
        for fish in &mut self.fish {
            let (at, speed) = (&mut fish.at, &mut fish.speed);
            speed.x += (fish.wanted.x - speed.x) * YIELD;
            speed.y += (fish.wanted.y - speed.y) * YIELD;
            at.x = (at.x + speed.x * tick).clamp(SHORE, f32::from(WIDTH) - SHORE);
            at.y = (at.y + speed.y * tick).clamp(SHORE, f32::from(HEIGHT) - SHORE);
            if speed.length() > 1.0 {
                fish.heading = speed.y.atan2(speed.x);
            }
            for fly in &mut self.flies {
                let away = Point {
                    x: fly.x - at.x,
                    y: fly.y - at.y,
                };
                if away.length() < REACH {
                    *fly = Point::anywhere();
                    fish.eaten = fish.eaten.saturating_add(1);
                }
            }
        }
    }

    /// What it all looks like now.
    fn state(&self) -> Vec<u8> {
        let mut state = vec![1];
        state.extend(self.tick.to_be_bytes());
        state.push(self.fish.len() as u8);
        for fish in &self.fish {
            state.extend(fish.number.to_be_bytes());
            state.extend(fish.at.to_bytes());
            let turn = (fish.heading / TAU).rem_euclid(1.0);
            state.extend([(turn * 256.0) as u8, fish.hue]);
            state.extend(fish.eaten.to_be_bytes());
        }
        for fly in &self.flies {
            state.extend(fly.to_bytes());
        }
        state
    }
}

impl Point {
    fn anywhere() -> Self {
        Self {
            x: SHORE + random() * (f32::from(WIDTH) - 2.0 * SHORE),
            y: SHORE + random() * (f32::from(HEIGHT) - 2.0 * SHORE),
        }
    }

    fn length(self) -> f32 {
        self.x.hypot(self.y)
    }

    fn to_bytes(self) -> [u8; 4] {
        let [x, y] = [self.x, self.y].map(|value| (value as u16).to_be_bytes());
        [x[0], x[1], y[0], y[1]]
    }
}

/// A random number from 0 to below 1. The standard library has no better source; flies need none.
fn random() -> f32 {
    let random = RandomState::new().hash_one(0) >> 40;
    random as f32 / (1 << 24) as f32
}
