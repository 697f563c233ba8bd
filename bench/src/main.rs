//! Compares servers: CPU a message, throughput, latency, memory of a connection, cost of accepting
//! one, of a message to all of them, and what more cores bring. `bench/run` builds and pins; `docs/performance.md` says what the figures mean.

use std::{
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

mod broadcast;
mod cores;
mod idle;
mod load;
mod plot;
mod points;
mod report;
mod server;
mod wire;

use idle::Client;
use load::{Load, Turns};
use points::{POINTS, Point};
use report::{Cell, Samples, digits};
use server::{KINDS, Kind, Server, Settings};
use wire::{Kind as Wire, Traffic};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "usage: bench/run [OPTION...]

  --quick            the echo points for Sockeye and the floor alone
  --parts LIST       of echo, deflate, broadcast, accept, scale, cores, memory (all)
  --points LIST      of 1 to 7 (all), for the part echo
  --servers LIST     names or parts of names: raw,sockeye,yawc,... (all)
  --rounds N         rounds of every measurement (5); four times as many of accepting without TLS, one of memory
  --seconds S        length of a measurement (0.5)
  --level N          level of compression (1)
  --connections N    connections held for memory and scale, more than 1000 (15000, or what descriptors allow),
                     and for broadcast (10000)
  --core N           core of the load, and of the servers without --server-core (the last)
  --server-core N    the servers have a core of their own
  --under COMMAND    run the servers under a command, such as valgrind --tool=callgrind
  --docs             also put the result into docs/performance.md
";

const PARTS: [&str; 7] = [
    "echo",
    "deflate",
    "broadcast",
    "accept",
    "scale",
    "cores",
    "memory",
];

struct Options {
    parts: Vec<String>,
    points: Vec<Point>,
    kinds: Vec<Kind>,
    rounds: usize,
    seconds: f64,
    level: u8,
    connections: Option<usize>,
    server_core: Option<usize>,
    under: Option<String>,
    docs: bool,
    command: String,
}

impl Options {
    fn parse() -> Result<Self> {
        let all = std::env::args().skip(1).collect::<Vec<_>>();
        let mut options = Self {
            parts: PARTS.map(String::from).into(),
            points: POINTS.to_vec(),
            kinds: KINDS.to_vec(),
            rounds: 5,
            seconds: 0.5,
            level: 1,
            connections: None,
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
                "--parts" => {
                    options.parts = list(value()?);
                    all_known("part", &options.parts, |part| PARTS.contains(&part))?;
                }
                "--points" => {
                    let ids = list(value()?);
                    let is_id = |id: &str| POINTS.iter().any(|point| point.id.to_string() == id);
                    all_known("point", &ids, is_id)?;
                    options
                        .points
                        .retain(|point| ids.contains(&point.id.to_string()));
                }
                "--servers" => {
                    let names = list(value()?);
                    let is_named = |kind: &Kind, part: &str| {
                        format!("{} {}", kind.library, kind.form).contains(part)
                    };
                    let is_any = |part: &str| KINDS.iter().any(|kind| is_named(kind, part));
                    all_known("server", &names, is_any)?;
                    options
                        .kinds
                        .retain(|kind| names.iter().any(|part| is_named(kind, part)));
                }
                "--rounds" => options.rounds = value()?.parse()?,
                "--seconds" => options.seconds = value()?.parse()?,
                "--level" => options.level = value()?.parse()?,
                "--connections" => options.connections = Some(value()?.parse()?),
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
        if !(options.seconds.is_finite() && options.seconds > 0.0) || options.rounds == 0 {
            return Err("nothing is measured in no time: see --seconds and --rounds".into());
        }
        if options.level > 9 || options.connections == Some(0) {
            return Err("--level is of 0 to 9, and --connections at least 1".into());
        }
        options.kinds.retain(|kind| {
            let there = kind.is_there();
            if !there {
                eprintln!("{} is left out: it is not built", kind.name());
            }
            there
        });
        if options.kinds.is_empty() {
            return Err("no server is left to measure".into());
        }
        let held = options.held(15_000);
        if held <= idle::FEW && ["scale", "memory"].iter().any(|part| options.wants(part)) {
            return Err(format!(
                "scale and memory compare {} connections with more, and not with {held}: see --connections and \
                 `ulimit -n`, or leave them out with --parts",
                idle::FEW
            )
            .into());
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.iter().any(|wanted| wanted == part)
    }

    fn settings(&self) -> Settings {
        Settings {
            cores: self.server_core.map(|core| core.to_string()),
            under: self.under.clone(),
            ..Settings::default()
        }
    }
}

impl Options {
    /// How many connections are held: as was asked for, else this many or what descriptors allow.
    fn held(&self, many: usize) -> usize {
        let possible = descriptors().saturating_sub(200);
        self.connections.unwrap_or(many.min(possible))
    }
}

/// Refuses a name that means nothing: what it stood for would be missing from the result.
fn all_known(what: &str, names: &[String], is_known: impl Fn(&str) -> bool) -> Result<()> {
    match names.iter().find(|name| name.is_empty() || !is_known(name)) {
        Some(name) => Err(format!("{name:?} is no {what}\n\n{USAGE}").into()),
        None => Ok(()),
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
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        // As a part of this program starts it again.
        Some((first, rest)) if first == "--load" => cores::load(rest),
        _ => Options::parse().and_then(|options| run(&options)),
    };
    match result {
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
        ("broadcast", broadcast),
        ("accept", accept),
        ("scale", scale),
        ("cores", cores),
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
            turns: None,
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
            let run = |server| load(kind).run(&server);
            let mut measured = match Server::start(kind, settings).and_then(run) {
                Ok(measured) => measured,
                Err(error) => {
                    eprintln!("{}: {error}", kind.name());
                    continue;
                }
            };
            let cost = measured.cost();
            if kind.is_floor() {
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
        turns: None,
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
    const COUNT: usize = 5000;
    let plain = Traffic::new(Wire::Plain, 1024, true);
    let mut rows = Vec::new();
    let kinds: Vec<_> = options
        .kinds
        .iter()
        .copied()
        .filter(|kind| kind.accepts && kind.form != "loop")
        .map(Kind::accepting)
        .collect();
    for tls in [false, true] {
        let kinds: Vec<_> = kinds.iter().filter(|kind| !tls || kind.has_tls()).collect();
        let settings = Settings {
            tls,
            after_load: true,
            ..options.settings()
        };
        let client = Client::new(tls);
        let mut costs = vec![Samples::default(); kinds.len()];
        // One process and the next of the same server are further apart here than two servers are.
        let rounds = options.rounds * if tls { 1 } else { 4 };
        for _ in 0..rounds {
            for (kind, samples) in kinds.iter().zip(&mut costs) {
                let run = |server| idle::accept(&server, &client, &plain, COUNT);
                match Server::start(kind, &settings).and_then(run) {
                    Ok(cost) => samples.0.push(cost),
                    Err(error) => eprintln!("accept {}: {error}", kind.name()),
                }
            }
        }
        for (kind, samples) in kinds.iter().zip(costs) {
            let Some(cost) = samples.median() else {
                continue;
            };
            let name = kind.name() + if tls { ", TLS" } else { "" };
            eprintln!("accept {name}: {cost:.1} us");
            rows.push((
                name,
                vec![Some(digits(cost)), Some(format!("{:.0}", 1e6 / cost))],
            ));
        }
    }
    Ok(report::table(
        "Connections accepted, upgraded and closed (TLS: 1.3, one certificate of ECDSA P-256 for all, nothing resumed)",
        &["CPU each, us", "a CPU-second"].map(String::from),
        &rows,
    ))
}

/// One message for everyone.
fn broadcast(options: &Options) -> Result<String> {
    const SIZE: usize = 128;
    let count = options.held(10_000);
    let kinds: Vec<_> = [
        ("raw writes of the same bytes", "raw", "broadcast"),
        ("sockeye, a group of `Groups`", "sockeye", "groups"),
        (
            "sockeye, `try_send` of one `Prepared`",
            "sockeye",
            "prepared",
        ),
        ("sockeye, `send` of the message to each", "sockeye", "send"),
        ("uWebSockets (C++), `publish`", "uwebsockets", "publish"),
    ]
    .into_iter()
    .filter_map(|(name, library, form)| {
        let kind = options.kinds.iter().find(|kind| kind.library == library)?;
        Some((name, Kind { form, ..*kind }))
    })
    .collect();
    let mut rows: Vec<_> = kinds
        .iter()
        .map(|(name, _)| ((*name).to_owned(), Vec::new()))
        .collect();
    let mut sizes = Vec::new();
    for compressed in [false, true] {
        let wire = if compressed {
            Wire::Deflate
        } else {
            Wire::Plain
        };
        let raw = Traffic::broadcast(Wire::Raw, SIZE, compressed);
        let prepared = Traffic::broadcast(wire, SIZE, compressed);
        sizes.push(raw.frames[0].len());
        let settings = Settings {
            level: compressed.then_some(options.level),
            ..options.settings()
        };
        let mut costs = vec![Samples::default(); kinds.len()];
        let mut ratios = costs.clone();
        for _ in 0..options.rounds {
            let mut floor = None;
            for (at, (name, kind)) in kinds.iter().enumerate() {
                if compressed && !kind.deflate && !kind.is_raw() {
                    continue;
                }
                let traffic = if kind.is_raw() { &raw } else { &prepared };
                let run = |server| broadcast::run(&server, traffic, count, options.seconds);
                match Server::start(kind, &settings).and_then(run) {
                    Ok(cost) => {
                        if kind.is_raw() {
                            floor = Some(cost);
                        }
                        costs[at].0.push(cost);
                        ratios[at].0.extend(floor.map(|floor| cost / floor));
                        eprintln!("broadcast {name}: {cost:.2} us a delivery");
                    }
                    Err(error) => eprintln!("broadcast {name}: {error}"),
                }
            }
        }
        for (at, row) in rows.iter_mut().enumerate() {
            row.1.push(costs[at].median().map(digits));
            row.1
                .push(ratios[at].median().map(|ratio| format!("{ratio:.2}")));
        }
    }
    Ok(report::table(
        &format!(
            "One message of {SIZE} B to {count} connections: CPU of the server a delivery in microseconds, and as a multiple of raw writes; \
             compressed at level {} without context takeover, on the wire {} B instead of {}",
            options.level, sizes[1], sizes[0],
        ),
        &["plain", "×", "compressed", "×"].map(String::from),
        &rows,
    ))
}

/// The same rate of messages with few and with many open connections.
fn scale(options: &Options) -> Result<String> {
    /// So many messages go out together, in turn on each of the connections or always on the same.
    const BURST: usize = 100;
    const EVERY: Duration = Duration::from_millis(5);
    let plain = Traffic::new(Wire::Plain, 128, true);
    let raw = Traffic::new(Wire::Raw, 128, true);
    let kinds: Vec<_> = options
        .kinds
        .iter()
        .copied()
        .filter(|kind| kind.is_raw() || kind.is_sockeye())
        .collect();
    let counts = [BURST, idle::FEW, options.held(15_000)];
    let mut out = String::new();
    for (spread, title) in [
        (true, "spread over all of them"),
        (false, "on the same 100, the others silent"),
    ] {
        let mut rows: Vec<_> = kinds.iter().map(|kind| (kind.name(), Vec::new())).collect();
        let mut first: Vec<Option<f64>> = Vec::new();
        for connections in counts {
            let cells = rounds(options, &kinds, &options.settings(), |kind| Load {
                traffic: if kind.is_raw() { &raw } else { &plain },
                connections,
                in_flight: BURST,
                turns: Some(Turns {
                    among: if spread { connections } else { BURST },
                    every: EVERY,
                }),
                // At this rate each of the many has a turn or two.
                seconds: options.seconds.max(1.0) * 1.5,
            })?;
            if first.is_empty() {
                first = cells.iter().map(|cell| cell.cost.median()).collect();
            }
            for (at, (row, cell)) in rows.iter_mut().zip(&cells).enumerate() {
                progress(&format!("scale {connections} {}", kinds[at].name()), cell);
                let cost = cell.cost.median();
                let ratio = cell.ratio.median();
                let ratio = ratio.map_or(String::new(), |ratio| format!(" (×{ratio:.2})"));
                let shown = cost.map(|cost| digits(cost) + &ratio);
                row.1.push(shown);
                if connections == counts[counts.len() - 1] {
                    let growth = cost.zip(first[at]).map(|(many, few)| many / few);
                    row.1.push(growth.map(|growth| format!("{growth:.2}")));
                }
            }
        }
        let mut columns = counts.map(|count| format!("{count} open")).to_vec();
        columns.push("the last beside the first".into());
        out += &report::table(
            &format!(
                "CPU a message in microseconds (and as a multiple of the floor's): 128 B, {} messages a second {title}",
                BURST as u128 * 1000 / EVERY.as_millis(),
            ),
            &columns,
            &rows,
        );
    }
    Ok(out)
}

/// One thread, several that share their connections, and several that do not.
fn cores(options: &Options) -> Result<String> {
    let threads = "2";
    let ways = [
        ("one thread", vec![]),
        ("a runtime of 2 worker threads", vec!["--workers", threads]),
        ("2 threads, one a core", vec!["--per-core", threads]),
    ];
    let points: Vec<_> = points::POINTS
        .iter()
        .filter(|point| [2, 4, 5].contains(&point.id))
        .collect();
    let mut rows = Vec::new();
    for kind in options.kinds.iter().filter(|kind| kind.is_sockeye()) {
        let mut samples = vec![vec![[const { Samples(Vec::new()) }; 3]; points.len()]; ways.len()];
        for _ in 0..options.rounds {
            for (at, point) in points.iter().enumerate() {
                for ((name, arguments), samples) in ways.iter().zip(&mut samples) {
                    let settings = Settings {
                        cores: Some(cores::all_cores()),
                        arguments: arguments.iter().map(ToString::to_string).collect(),
                        ..options.settings()
                    };
                    let run = |server| cores::run(&server, point, options.seconds);
                    let started = Server::start(kind, &settings).map_err(Into::into);
                    let measured = match started.and_then(run) {
                        Ok(measured) => measured,
                        Err(error) => {
                            eprintln!("cores {} {}, {name}: {error}", point.id, kind.name());
                            continue;
                        }
                    };
                    eprintln!(
                        "cores {} {}, {name}: {:.0} k/s, {:.3} us, {:.2} cores",
                        point.id,
                        kind.name(),
                        measured.throughput / 1000.0,
                        measured.cost,
                        measured.cores
                    );
                    samples[at][0].0.push(measured.throughput / 1000.0);
                    samples[at][1].0.push(measured.cost);
                    samples[at][2].0.push(measured.cores);
                }
            }
        }
        for ((name, _), samples) in ways.iter().zip(samples) {
            let cells = samples.iter().flatten();
            let cells = cells.map(|samples| samples.median().map(digits)).collect();
            rows.push((format!("{}, {name}", kind.name()), cells));
        }
    }
    let columns = points.iter().flat_map(|point| {
        ["thousand a second", "CPU each, us", "cores filled"]
            .map(|column| format!("{}: {column}", point.id))
    });
    Ok(report::table(
        "On several cores: server and two processes of load wherever the system puts them",
        &columns.collect::<Vec<_>>(),
        &rows,
    ))
}

/// Memory of a connection that is idle.
fn memory(options: &Options) -> Result<String> {
    let plain = Traffic::new(Wire::Plain, 1024, true);
    let raw = Traffic::new(Wire::Raw, 1024, true);
    let deflate = Traffic::new(Wire::Deflate, 1024, true);
    let many = options.held(15_000);
    let mut rows = Vec::new();
    for kind in &options.kinds {
        let settings = options.settings();
        let measure = |settings: &Settings, traffic: &Traffic| {
            let what = match (settings.level, settings.tls) {
                (Some(_), _) => ", compression agreed",
                (None, true) => ", TLS",
                (None, false) => "",
            };
            idle::memory(kind, settings, traffic, many)
                .inspect(|memory| eprintln!("memory {}{what}: {:.0}", kind.name(), memory.slope))
                .inspect_err(|error| eprintln!("memory {}{what}: {error}", kind.name()))
                .ok()
        };
        let slope = |memory: &idle::Memory| format!("{:.0}", memory.slope);
        let traffic = if kind.is_raw() { &raw } else { &plain };
        let unadorned = measure(&settings, traffic);
        let level = Settings {
            level: Some(options.level),
            ..settings.clone()
        };
        let agreed = kind.deflate.then(|| measure(&level, &deflate)).flatten();
        let tls = Settings {
            tls: true,
            ..settings
        };
        let secured = kind.has_tls().then(|| measure(&tls, &plain)).flatten();
        let all = agreed.as_ref().and_then(|memory| memory.with_some);
        rows.push((
            kind.name(),
            vec![
                unadorned.as_ref().map(slope),
                agreed.as_ref().map(slope),
                secured.as_ref().map(slope),
                all.map(|bytes| format!("{:.0} MiB", bytes as f64 / 1_048_576.0)),
            ],
        ));
    }
    Ok(report::table(
        &format!(
            "Resident bytes an idle connection: the slope from {} to {many} of them, each after a message of 1 KiB",
            idle::FEW,
        ),
        &[
            "plain".into(),
            "compression agreed".into(),
            "TLS".into(),
            format!("whole server, {} with compression agreed", idle::SOME),
        ],
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
