//! Mixed traffic on many connections for long, with random disconnects, between two processes: nothing is lost but
//! what was cut, nothing is changed, nothing fails that was not made to, and the server's memory is flat.
//!
//! `soak --minutes 30`; `soak --seconds 30` is the short form. `--connections N` (2000), `--seed N`.

mod ledger;
mod session;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sockeye_tests::{Random, Record, Server, descriptors};
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use ledger::Ledger;

/// How much of the time is compared with how much: ten minutes, or a third where there is less.
const WINDOW: Duration = Duration::from_secs(600);

/// How long the traffic runs before the time begins, at most: long connections need some minutes until there
/// are as many of them as there will be. Where there is less time, a third of it.
const WARMING: Duration = Duration::from_secs(300);

/// By how much the server's memory may grow from the first window to the last, in percent: in the short form
/// the allocator has not yet seen the worst that can come together: 3 to 15 in four runs, with nothing lost.
const GROWTH: f64 = 5.0;
const GROWTH_SHORT: f64 = 30.0;

/// How long everything that is left may take when the time is over.
const REST: Duration = Duration::from_secs(120);

struct Args {
    time: Duration,
    connections: usize,
    seed: u64,
}

#[tokio::main]
async fn main() -> io::Result<ExitCode> {
    let args = match args() {
        Ok(args) => args,
        Err(wrong) => {
            eprintln!("soak: {wrong}; see the first lines of tests/soak/main.rs");
            return Ok(ExitCode::from(2));
        }
    };
    // Two a connection: one to use it, and one to cut it.
    descriptors(2 * args.connections as u64 + 500)?;
    println!(
        "{} connections for {} s, seed {}",
        args.connections,
        args.time.as_secs(),
        args.seed
    );
    let (tell, records) = mpsc::unbounded_channel();
    let tell_of = move |line: &str| {
        if let Ok(record) = line.parse::<Record>() {
            // Refused only where the test has ended.
            let _ = tell.send(record);
        }
    };
    let server = Server::test_server(&[], 2, tell_of).await?;
    let before = server.descriptors()?;
    let ledger = Arc::new(Ledger::default());
    tokio::spawn(ledger.clone().compare(records));

    let begun = Arc::new(AtomicBool::new(false));
    let over = Arc::new(AtomicBool::new(false));
    let mut visitors = JoinSet::new();
    for place in 0..args.connections {
        let visitor = session::Visitor {
            from: address(place),
            to: server.addresses[place % server.addresses.len()],
            random: Random::new((args.seed << 32) + place as u64),
            ledger: ledger.clone(),
            begun: begun.clone(),
            over: over.clone(),
        };
        visitors.spawn(visitor.visit());
    }
    let memory = watch(&server, &ledger, &begun, &args).await?;
    over.store(true, Ordering::Relaxed);
    println!("the time is over: {} connections are open", ledger.open());
    let mut failures = Vec::new();
    let rest = async {
        visitors.join_all().await;
        ledger.complete().await;
    };
    if tokio::time::timeout(REST, rest).await.is_err() {
        failures.push(format!(
            "not everything had ended {} s later",
            REST.as_secs()
        ));
    }
    failures.extend(ledger.report());
    failures.extend(memory.report());
    failures.extend(ended(server, before).await);
    for failure in &failures {
        println!("FAILED: {failure}");
    }
    let passed = usize::from(failures.is_empty());
    println!("{passed} passed, {} failed", failures.len());
    Ok(if passed == 1 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// An address of this machine's own for each place: a server may limit how many come from one.
fn address(place: usize) -> SocketAddr {
    let [_, _, high, low] = (place as u32).to_be_bytes();
    (Ipv4Addr::new(127, 67, high, low), 0).into()
}

/// Whether the server is as it was, and ends well.
async fn ended(server: Server, before: usize) -> Option<String> {
    let began = Instant::now();
    loop {
        match server.descriptors() {
            Ok(now) if now <= before => break,
            Ok(now) if began.elapsed() > Duration::from_secs(20) => {
                return Some(format!(
                    "the server had {before} descriptors open, and has {now}"
                ));
            }
            Ok(_) => sleep(Duration::from_millis(50)).await,
            Err(error) => return Some(error.to_string()),
        }
    }
    match server.end(Duration::from_secs(20)).await {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("the server ended with {status}")),
        Err(error) => Some(error.to_string()),
    }
}

/// The server's memory, once a second.
struct Memory {
    samples: Vec<u64>,
    window: usize,
    growth: f64,
}

/// Looks at the server until the time is over.
async fn watch(
    server: &Server,
    ledger: &Ledger,
    begun: &AtomicBool,
    args: &Args,
) -> io::Result<Memory> {
    let opening = Instant::now();
    while ledger.open() < args.connections * 9 / 10 {
        if opening.elapsed() > Duration::from_secs(60) {
            return Err(io::Error::other("the connections do not open"));
        }
        sleep(Duration::from_millis(50)).await;
    }
    sleep(WARMING.min(args.time / 3)).await;
    begun.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let mut samples = Vec::new();
    let mut said = Instant::now();
    while began.elapsed() < args.time {
        sleep(Duration::from_secs(1)).await;
        samples.push(server.memory()?);
        if said.elapsed() >= Duration::from_secs(60) || samples.len() == 1 {
            said = Instant::now();
            println!(
                "{:5} s  {}  {}",
                began.elapsed().as_secs(),
                mib(samples[samples.len() - 1]),
                ledger.line()
            );
        }
    }
    let window = WINDOW.min(args.time / 3).as_secs() as usize;
    Ok(Memory {
        // On a machine that is busy with other things there may be fewer samples than seconds.
        window: window.min(samples.len() / 3).max(1),
        samples,
        growth: if args.time >= 3 * WINDOW {
            GROWTH
        } else {
            GROWTH_SHORT
        },
    })
}

impl Memory {
    fn report(&self) -> Option<String> {
        let mean =
            |samples: &[u64]| samples.iter().sum::<u64>() as f64 / samples.len().max(1) as f64;
        let first = mean(&self.samples[..self.window]);
        let last = mean(&self.samples[self.samples.len() - self.window..]);
        let change = (last / first - 1.0) * 100.0;
        let most = self.samples.iter().max().copied().unwrap_or_default();
        println!(
            "memory of the server: {} in the first {} s, {} in the last, {change:+.1} % (at most +{} %); {} at most",
            mib(first as u64),
            self.window,
            mib(last as u64),
            self.growth,
            mib(most),
        );
        (change > self.growth).then(|| format!("the server's memory grew by {change:.1} %"))
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn args() -> Result<Args, String> {
    let mut args = Args {
        time: Duration::from_secs(30),
        connections: 2000,
        seed: 1,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or(format!("{word} needs a number"))?;
            value
                .parse()
                .map_err(|_| format!("{word} {value}: that is no number"))
        };
        match word.as_str() {
            "--minutes" => args.time = Duration::from_secs(60 * number()?),
            "--seconds" => args.time = Duration::from_secs(number()?),
            "--connections" => args.connections = number()? as usize,
            "--seed" => args.seed = number()?,
            other => return Err(format!("{other} is not understood")),
        }
    }
    // What can be told apart by the addresses.
    if args.time < Duration::from_secs(3) || !(1..=60_000).contains(&args.connections) {
        return Err("at least 3 seconds, and 1 to 60,000 connections".into());
    }
    Ok(args)
}
