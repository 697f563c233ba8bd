//! A live monitor of the machine that it runs on: CPU, memory and network, once a second. What was measured in the last
//! five minutes is kept, so that a client sees it as soon as it comes.
//!
//! It reads `/proc`, which Linux has; elsewhere it says so. The server sends text in JSON, one of
//!
//! ```json
//! {"type": "history", "every": 1.0, "most": 300, "samples": [...]}
//! {"type": "sample", "at": 1764125000123, "cores": [0.25, 0.5], "memory": [used, of], "swap": [used, of],
//!  "network": [received, sent]}
//! {"type": "trouble", "text": "/proc/stat cannot be read: ..."}
//! ```
//!
//! with milliseconds since 1970, the busy part of each core, bytes, and bytes a second. The client says nothing.

use std::{
    collections::VecDeque,
    fs,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::Serialize;
use sockeye::{
    CloseCode, Groups, Handler, Member, MessageRef, Result, Server, Socket, groups::Slow,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub(crate) const PAGE: &str = include_str!("monitor.html");

const EVERY: Duration = Duration::from_secs(1);
const MOST_SAMPLES: usize = 300;

/// Whoever does not read misses samples, and is given further ones once it does.
const PATIENCE: Slow = Slow::Skip { above: 64 * 1024 };

/// To run it by itself: `Server::bind("127.0.0.1:8080").await?.router(Router::new().route("/", get(|| async {
/// Html(PAGE) })))` is a server, where axum serves the page.
pub(crate) async fn serve(server: Server) -> Result<()> {
    let monitor = Monitor {
        groups: Groups::new().slow(PATIENCE),
        history: Arc::default(),
    };
    let measuring = measure(monitor.clone());
    tokio::select! {
        served = server.serve_handler(move || Viewer::new(&monitor)) => served,
        () = measuring => Ok(()),
    }
}

/// All that is shared. Clones are the same monitor.
#[derive(Clone)]
struct Monitor {
    groups: Groups,
    history: Arc<Mutex<History>>,
}

#[derive(Default)]
struct History {
    samples: VecDeque<Sample>,
    /// Why there is no newer one.
    trouble: Option<String>,
}

#[derive(Clone, Serialize)]
struct Sample {
    at: u64,
    cores: Vec<f32>,
    memory: [u64; 2],
    swap: [u64; 2],
    network: [u64; 2],
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Event<'a> {
    History {
        every: f32,
        most: usize,
        samples: &'a VecDeque<Sample>,
    },
    Sample(&'a Sample),
    Trouble {
        text: &'a str,
    },
}

impl Event<'_> {
    fn json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers can be written")
    }
}

impl Monitor {
    /// Held while somebody comes and while a sample is sent: so nobody misses one, or gets one twice.
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a sample a second and tells everyone, for as long as it is polled.
async fn measure(monitor: Monitor) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before: Option<Counters> = None;
    loop {
        ticks.tick().await;
        // These files are on no disk: reading them does not wait.
        let counters = Counters::read("/proc");
        let history = &mut *monitor.history();
        match counters {
            Ok(now) => {
                // Most of it is what has changed since the time before.
                if let Some(sample) = before.and_then(|before| now.since(&before)) {
                    history.trouble = None;
                    monitor.groups.send_to_all(Event::Sample(&sample).json());
                    history.samples.push_back(sample);
                }
                if history.samples.len() > MOST_SAMPLES {
                    history.samples.pop_front();
                }
                before = Some(now);
            }
            Err(trouble) => {
                let text = history.trouble.insert(trouble);
                monitor.groups.send_to_all(Event::Trouble { text }.json());
                before = None;
            }
        }
    }
}

struct Viewer {
    monitor: Monitor,
    member: Option<Member>,
}

impl Viewer {
    fn new(monitor: &Monitor) -> Self {
        Self {
            monitor: monitor.clone(),
            member: None,
        }
    }
}

impl Handler for Viewer {
    fn on_open(&mut self, socket: &mut Socket) {
        let history = self.monitor.history();
        let event = Event::History {
            every: EVERY.as_secs_f32(),
            most: MOST_SAMPLES,
            samples: &history.samples,
        };
        socket.send(event.json());
        if let Some(text) = &history.trouble {
            socket.send(Event::Trouble { text }.json());
        }
        self.member = Some(self.monitor.groups.member(socket.sender()));
    }

    fn on_message(&mut self, socket: &mut Socket, _: MessageRef<'_>) {
        // Refused only where a Close was sent already.
        let _ = socket.close(
            CloseCode::POLICY_VIOLATION,
            "this monitor is only to be looked at",
        );
    }
}

/// What the system has counted since it started, and what it has now.
struct Counters {
    taken: Instant,
    /// Of each core: the time that it was busy, and all of it.
    cores: Vec<[u64; 2]>,
    memory: [u64; 2],
    swap: [u64; 2],
    network: [u64; 2],
}

impl Counters {
    fn read(directory: &str) -> Result<Self, String> {
        let [stat, meminfo, network] = ["stat", "meminfo", "net/dev"].map(|name| {
            let path = format!("{directory}/{name}");
            fs::read_to_string(&path)
                .map_err(|error| format!("{path} cannot be read, which Linux has: {error}"))
        });
        let meminfo = meminfo?;
        let [total, available, swap, swap_free] =
            ["MemTotal:", "MemAvailable:", "SwapTotal:", "SwapFree:"]
                .map(|name| kibibytes(&meminfo, name));
        Ok(Self {
            taken: Instant::now(),
            cores: stat?.lines().filter_map(core).collect(),
            memory: [total.saturating_sub(available), total],
            swap: [swap.saturating_sub(swap_free), swap],
            network: network?
                .lines()
                .filter_map(interface)
                .fold([0, 0], |[received, sent], one| {
                    [received + one[0], sent + one[1]]
                }),
        })
    }

    /// What happened in between; none where no time has passed.
    fn since(&self, before: &Self) -> Option<Sample> {
        let seconds = (self.taken - before.taken).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let cores = self.cores.iter().zip(&before.cores);
        let rate = |at: usize| {
            // An interface that has gone has taken its counts with it.
            let bytes = self.network[at].saturating_sub(before.network[at]);
            (bytes as f64 / seconds) as u64
        };
        Some(Sample {
            at: now.map_or(0, |now| now.as_millis() as u64),
            cores: cores
                .map(|(now, before)| {
                    let [busy, all] = [0, 1].map(|at| now[at].saturating_sub(before[at]));
                    busy as f32 / all.max(1) as f32
                })
                .collect(),
            memory: self.memory,
            swap: self.swap,
            network: [rate(0), rate(1)],
        })
    }
}

/// A line of `/proc/stat` that is about one core: its name, and times since the start, of which the fourth and the
/// fifth were idle. (The ninth and tenth are guests', and in the first two already.)
fn core(line: &str) -> Option<[u64; 2]> {
    let (name, times) = line.split_once(' ')?;
    name.strip_prefix("cpu")?.parse::<u32>().ok()?;
    let times: Vec<u64> = times
        .split_whitespace()
        .take(8)
        .map_while(|time| time.parse().ok())
        .collect();
    let all: u64 = times.iter().sum();
    let idle: u64 = times.iter().skip(3).take(2).sum();
    Some([all - idle, all])
}

/// A line of `/proc/meminfo`, in bytes; 0 where there is none.
fn kibibytes(meminfo: &str, name: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// The bytes that an interface has received and sent: the first and the ninth number of its line in `/proc/net/dev`.
/// What the machine sends to itself does not count.
fn interface(line: &str) -> Option<[u64; 2]> {
    let (name, numbers) = line.split_once(':')?;
    let numbers: Vec<_> = numbers.split_whitespace().collect();
    let number = |at: usize| numbers.get(at)?.parse().ok();
    match name.trim() {
        "lo" => None,
        _ => Some([number(0)?, number(8)?]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_linux_writes() {
        assert_eq!(core("cpu  10 0 10 80 0 0 0 0 0 0"), None);
        assert_eq!(core("cpu1 10 1 9 70 10 0 0 0 5 0"), Some([20, 100]));
        assert_eq!(core("intr 1 2 3"), None);
        let meminfo = "MemTotal:       2048 kB\nMemFree: 7 kB\nMemAvailable:  1024 kB\n";
        assert_eq!(kibibytes(meminfo, "MemTotal:"), 2 << 20);
        assert_eq!(kibibytes(meminfo, "SwapTotal:"), 0);
        let line = "  eth0: 1000 2 0 0 0 0 0 0 3000 4 0 0 0 0 0 0";
        assert_eq!(interface(line), Some([1000, 3000]));
        assert_eq!(interface("    lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0"), None);
        assert_eq!(interface("Inter-|   Receive  |  Transmit"), None);
    }

    #[test]
    fn says_what_a_system_does_not_have() {
        let trouble = Counters::read("/none").err().unwrap();
        assert!(trouble.starts_with("/none/"), "{trouble}");
        assert!(trouble.contains("which Linux has"), "{trouble}");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn measures_this_machine() {
        let before = Counters::read("/proc").unwrap();
        let mut now = Counters::read("/proc").unwrap();
        now.taken = before.taken + Duration::from_secs(2);
        now.network = before.network.map(|bytes| bytes + 3000);
        let sample = now.since(&before).unwrap();
        assert_eq!(sample.network, [1500, 1500]);
        assert!(!sample.cores.is_empty());
        assert!(sample.cores.iter().all(|busy| (0.0..=1.0).contains(busy)));
        let [used, all] = sample.memory;
        assert!(0 < used && used < all, "{used} of {all}");
    }
}
