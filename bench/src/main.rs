//! Compares echo servers: CPU a message, throughput, latency, memory of a connection, cost of
//! accepting one. `bench/run` builds and pins; `docs/performance.md` says what the figures mean.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

mod idle;
mod load;
mod plot;
mod points;
mod report;
mod server;
mod wire;

use idle::Client;
use load::Load;
use points::{POINTS, Point};
use report::{Cell, Samples, digits};
use server::{KINDS, Kind, Server, Settings};
use wire::{Kind as Wire, Traffic};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: bench/run [OPTION...]

  --quick            the echo points for Sockeye and the floor alone
  --parts LIST       of echo, deflate, memory, accept, scale (all)
  --points LIST      of 1 to 7 (all)
  --servers LIST     names or parts of names: raw,sockeye,yawc,... (all)
  --rounds N         rounds of every measurement (5)
  --seconds S        length of a measurement (0.5)
  --level N          level of compression (1)
  --connections N    connections held for memory (15000, or what descriptors allow)
  --core N           core of the load, and of the servers unless (the last)
  --server-core N    the servers have a core of their own
  --under COMMAND    run the servers under a command, such as valgrind --tool=callgrind
  --docs             also put the result into docs/performance.md
";

struct Options {
    parts: Vec<String>,
    points: Vec<Point>,
    kinds: Vec<Kind>,
    rounds: usize,
    seconds: f64,
    level: u8,
    connections: usize,
    server_core: Option<usize>,
    under: Option<String>,
    docs: bool,
    command: String,
}

impl Options {
    fn parse() -> Result<Self> {
        let all = std::env::args().skip(1).collect::<Vec<_>>();
        let mut options = Self {
            parts: ["echo", "deflate", "memory", "accept", "scale"]
                .map(String::from)
                .into(),
            points: POINTS.to_vec(),
            kinds: KINDS.to_vec(),
            rounds: 5,
            seconds: 0.5,
            level: 1,
            connections: 15_000.min(descriptors().saturating_sub(200)),
            server_core: None,
            under: None,
            docs: false,
            command: format!("bench/run {}", all.join(" ")).trim().to_owned(),
        };
        let mut arguments = all.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            let list = |value: String| value.split(',').map(String::from).collect::<Vec<_>>();
            match argument.as_str() {
                "--quick" => {
                    options.parts = vec!["echo".into()];
                    options
                        .kinds
                        .retain(|kind| kind.is_raw() || kind.is_sockeye());
                }
                "--parts" => options.parts = list(value()?),
                "--points" => {
                    let ids = list(value()?);
                    options
                        .points
                        .retain(|point| ids.contains(&point.id.to_string()));
                }
                "--servers" => {
                    let names = list(value()?);
                    let named = |kind: &Kind| {
                        let name = format!("{} {}", kind.library, kind.form);
                        names.iter().any(|part| name.contains(part.as_str()))
                    };
                    options.kinds.retain(named);
                }
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--level" => options.level = value()?.parse()?,
                "--connections" => options.connections = value()?.parse()?,
                "--server-core" => options.server_core = Some(value()?.parse()?),
                "--under" => options.under = Some(value()?),
                "--docs" => options.docs = true,
                "--help" | "-h" => {
                    print!("{USAGE}");
                    std::process::exit(0);
                }
                _ => return Err(format!("{argument} is no option\n\n{USAGE}").into()),
            }
        }
        if !server::has_node() {
            options.kinds.retain(|kind| kind.library != "node-ws");
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }

    fn settings(&self) -> Settings {
        Settings {
            core: self.server_core,
            under: self.under.clone(),
            ..Settings::default()
        }
    }
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok())
        .unwrap_or(1024)
}

fn main() -> ExitCode {
    match Options::parse().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let mut text = report::circumstances(&options.command);
    let mut plot = None;
    if options.wants("echo") {
        let cells = echo(options)?;
        plot = Some(plot::plot(&options.points, &options.kinds, &cells));
        text += &report::points(&options.points, &options.kinds, &cells);
    }
    for (part, measure) in [
        ("deflate", deflate as fn(&Options) -> Result<String>),
        ("accept", accept),
        ("scale", scale),
        ("memory", memory),
    ] {
        if options.wants(part) {
            text += &measure(options)?;
        }
    }
    println!("\n{text}");
    write(&text, plot.as_deref(), options)
}

/// Measures every server at every point, in rounds: all servers in turn, then all again.
fn echo(options: &Options) -> Result<Vec<Vec<Cell>>> {
    let mut all = Vec::new();
    for point in &options.points {
        let plain = Traffic::new(Wire::Plain, point.size, point.text);
        let raw = Traffic::new(Wire::Raw, point.size, point.text);
        let cells = rounds(options, &options.kinds, &options.settings(), |kind| Load {
            traffic: if kind.is_raw() { &raw } else { &plain },
            connections: point.connections,
            in_flight: point.in_flight,
            take_turns: false,
            seconds: options.seconds,
        })?;
        for (kind, cell) in options.kinds.iter().zip(&cells) {
            progress(&format!("{} {}", point.id, kind.name()), cell);
        }
        all.push(cells);
    }
    Ok(all)
}

fn progress(name: &str, cell: &Cell) {
    eprintln!(
        "{name:<32} {:>9} us  x{:<6} ±{:.0} %  {:>8} k/s  busy {:.0} %",
        cell.cost.median().map_or("-".into(), digits),
        cell.ratio.median().map_or("-".into(), digits),
        cell.cost.spread().unwrap_or(0.0) * 100.0,
        cell.throughput
            .median()
            .map_or("-".into(), |rate| digits(rate / 1000.0)),
        cell.busy.median().unwrap_or(0.0) * 100.0,
    );
}

/// Runs a load on each server in turn, again and again.
fn rounds<'a>(
    options: &Options,
    kinds: &[Kind],
    settings: &Settings,
    load: impl Fn(&Kind) -> Load<'a>,
) -> Result<Vec<Cell>> {
    let mut cells = vec![Cell::default(); kinds.len()];
    for _ in 0..options.rounds {
        let mut floor = None;
        for (kind, cell) in kinds.iter().zip(&mut cells) {
            let server = Server::start(kind, settings)?;
            let mut measured = match load(kind).run(&server) {
                Ok(measured) => measured,
                Err(error) => {
                    eprintln!("{}: {error}", kind.name());
                    continue;
                }
            };
            let cost = measured.cost();
            if kind.is_raw() {
                floor = Some(cost);
            }
            cell.ratio.0.extend(floor.map(|floor| cost / floor));
            cell.cost.0.push(cost);
            cell.throughput.0.push(measured.throughput());
            cell.busy.0.push(measured.busy());
            cell.p50.0.extend(measured.latency(0.5));
            cell.p99.0.extend(measured.latency(0.99));
            cell.size
                .0
                .push(measured.bytes as f64 / measured.messages as f64);
        }
    }
    Ok(cells)
}

/// Point 5 with compression in both directions.
fn deflate(options: &Options) -> Result<String> {
    let kinds: Vec<_> = options
        .kinds
        .iter()
        .copied()
        .filter(|kind| kind.deflate)
        .collect();
    let traffic = Traffic::new(Wire::Deflate, 1024, true);
    let settings = Settings {
        level: Some(options.level),
        ..options.settings()
    };
    let cells = rounds(options, &kinds, &settings, |_| Load {
        traffic: &traffic,
        connections: 64,
        in_flight: 16,
        take_turns: false,
        seconds: options.seconds,
    })?;
    let rows: Vec<_> = kinds
        .iter()
        .zip(&cells)
        .map(|(kind, cell)| {
            progress(&format!("deflate {}", kind.name()), cell);
            let values = vec![
                cell.cost.median().map(digits),
                cell.throughput.median().map(|rate| digits(rate / 1000.0)),
                cell.size.median().map(|size| format!("{size:.0}")),
            ];
            (kind.name(), values)
        })
        .collect();
    Ok(report::table(
        &format!(
            "Compressed: 1 KiB of JSON both ways at level {}, no context takeover, 64 connections, 16 in flight",
            options.level
        ),
        &[
            "CPU a message, us",
            "thousand a second",
            "bytes sent back a message",
        ]
        .map(String::from),
        &rows,
    ))
}

/// What it costs to accept a connection.
fn accept(options: &Options) -> Result<String> {
    const COUNT: usize = 1000;
    let plain = Traffic::new(Wire::Plain, 1024, true);
    let mut rows = Vec::new();
    let kinds: Vec<_> = options
        .kinds
        .iter()
        .copied()
        .filter(|kind| kind.accepts && kind.form != "loop")
        .collect();
    for tls in [false, true] {
        let kinds: Vec<_> = kinds
            .iter()
            .filter(|kind| !tls || kind.is_sockeye())
            .collect();
        let settings = Settings {
            tls,
            ..options.settings()
        };
        let client = Client::new(tls);
        let mut costs = vec![Samples::default(); kinds.len()];
        for _ in 0..options.rounds {
            for (kind, samples) in kinds.iter().zip(&mut costs) {
                let server = Server::start(kind, &settings)?;
                samples
                    .0
                    .push(idle::accept(&server, &client, &plain, COUNT)?);
            }
        }
        for (kind, samples) in kinds.iter().zip(costs) {
            let Some(cost) = samples.median() else {
                continue;
            };
            let name = if tls {
                format!("{}, TLS", kind.name())
            } else {
                kind.library.to_owned() + ", " + kind.form
            };
            eprintln!("accept {name}: {cost:.1} us");
            rows.push((
                name,
                vec![Some(digits(cost)), Some(format!("{:.0}", 1e6 / cost))],
            ));
        }
    }
    Ok(report::table(
        "Connections accepted, upgraded and closed",
        &["CPU each, us", "a CPU-second"].map(String::from),
        &rows,
    ))
}

/// The same traffic spread over few and over many open connections.
fn scale(options: &Options) -> Result<String> {
    let plain = Traffic::new(Wire::Plain, 128, true);
    let raw = Traffic::new(Wire::Raw, 128, true);
    let kinds: Vec<_> = options
        .kinds
        .iter()
        .copied()
        .filter(|kind| kind.is_raw() || kind.is_sockeye())
        .collect();
    let counts = [100, 1000, options.connections];
    let mut rows: Vec<_> = kinds.iter().map(|kind| (kind.name(), Vec::new())).collect();
    for connections in counts {
        let cells = rounds(options, &kinds, &options.settings(), |kind| Load {
            traffic: if kind.is_raw() { &raw } else { &plain },
            connections,
            in_flight: 64,
            take_turns: true,
            seconds: options.seconds,
        })?;
        for ((row, cell), kind) in rows.iter_mut().zip(&cells).zip(&kinds) {
            progress(&format!("scale {connections} {}", kind.name()), cell);
            let ratio = cell.ratio.median().unwrap_or(f64::NAN);
            row.1.push(
                cell.cost
                    .median()
                    .map(|cost| format!("{} (×{ratio:.2})", digits(cost))),
            );
        }
    }
    Ok(report::table(
        "CPU a message in microseconds (and as a multiple of the floor's): 128 B, 64 on their way at a time, on each open connection in turn",
        &counts.map(|count| format!("{count} open")),
        &rows,
    ))
}

/// Memory of a connection that is idle.
fn memory(options: &Options) -> Result<String> {
    let plain = Traffic::new(Wire::Plain, 1024, true);
    let raw = Traffic::new(Wire::Raw, 1024, true);
    let deflate = Traffic::new(Wire::Deflate, 1024, true);
    let mut rows = Vec::new();
    for kind in options.kinds.iter().filter(|kind| kind.form != "loop") {
        let settings = options.settings();
        let measure = |settings: &Settings, traffic: &Traffic| {
            let bytes = idle::memory(kind, settings, traffic, options.connections);
            bytes
                .inspect(|bytes| eprintln!("memory {}: {bytes:.0}", kind.name()))
                .inspect_err(|error| eprintln!("memory {}: {error}", kind.name()))
                .ok()
                .map(|bytes| format!("{bytes:.0}"))
        };
        let traffic = if kind.is_raw() { &raw } else { &plain };
        let mut cells = vec![measure(&settings, traffic)];
        let level = Settings {
            level: Some(options.level),
            ..settings.clone()
        };
        cells.push(kind.deflate.then(|| measure(&level, &deflate)).flatten());
        let tls = Settings {
            tls: true,
            ..settings
        };
        cells.push(kind.is_sockeye().then(|| measure(&tls, &plain)).flatten());
        rows.push((kind.name(), cells));
    }
    Ok(report::table(
        &format!(
            "Resident bytes an idle connection: the slope from {} to {} of them, each after a message of 1 KiB",
            idle::FEW,
            options.connections
        ),
        &["plain", "compression agreed", "TLS"].map(String::from),
        &rows,
    ))
}

/// Leaves the result beside the program, and in the documentation where that is asked for.
fn write(text: &str, plot: Option<&str>, options: &Options) -> Result<()> {
    let own = std::env::current_exe()?;
    let results = own.with_file_name("results");
    fs::create_dir_all(&results)?;
    fs::write(results.join("results.md"), text)?;
    if let Some(plot) = plot {
        fs::write(results.join("results.svg"), plot)?;
    }
    eprintln!("{}", results.display());
    if !options.docs {
        return Ok(());
    }
    let docs: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    if let Some(plot) = plot {
        fs::write(docs.join("performance.svg"), plot)?;
    }
    let page = docs.join("performance.md");
    let old = fs::read_to_string(&page)?;
    let (begin, end) = ("<!-- results -->\n", "<!-- end of results -->");
    let (Some(from), Some(to)) = (old.find(begin), old.find(end)) else {
        return Err(format!("{} has no place for results", page.display()).into());
    };
    let new = [&old[..from + begin.len()], "\n", text, &old[to..]].concat();
    fs::write(page, new)?;
    Ok(())
}
