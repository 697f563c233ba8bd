//! The tables: medians of rounds in Markdown, with what they were measured on.

use std::{fmt::Write, fs, process::Command};

use crate::{
    points::Point,
    server::{KINDS, Kind},
};

/// Values of the rounds of one cell.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len().checked_sub(1)? / 2;
        Some(if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle] + sorted[middle + 1]) / 2.0
        })
    }

    /// Half the distance between the lowest and the highest, relative to the median.
    pub fn spread(&self) -> Option<f64> {
        let low = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.0.iter().copied().fold(0.0, f64::max);
        Some((high - low) / 2.0 / self.median()?)
    }
}

/// What was measured of a server at a point.
#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub cost: Samples,
    /// Cost as a multiple of the floor's in the same round.
    pub ratio: Samples,
    pub throughput: Samples,
    pub busy: Samples,
    pub p50: Samples,
    pub p99: Samples,
    /// Bytes that came back for a message.
    pub size: Samples,
}

/// A table of servers in rows.
pub fn table(title: &str, columns: &[String], rows: &[(String, Vec<Option<String>>)]) -> String {
    let mut out = format!("### {title}\n\n| |");
    for column in columns {
        let _ = write!(out, " {column} |");
    }
    out.push_str("\n|---|");
    out.push_str(&"---:|".repeat(columns.len()));
    out.push('\n');
    for (name, cells) in rows {
        let _ = write!(out, "| {name} |");
        for cell in cells {
            let _ = write!(out, " {} |", cell.as_deref().unwrap_or("—"));
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

/// The tables of the echo points.
pub fn points(points: &[Point], kinds: &[Kind], cells: &[Vec<Cell>]) -> String {
    let columns: Vec<_> = points.iter().map(|point| point.id.to_string()).collect();
    let rows = |show: &dyn Fn(&Cell) -> Option<String>| -> Vec<_> {
        let row = |index: usize, kind: &Kind| {
            let cells = cells.iter().map(|point| show(&point[index])).collect();
            (emphasised(kind), cells)
        };
        kinds
            .iter()
            .enumerate()
            .map(|(i, kind)| row(i, kind))
            .collect()
    };
    let mut out = String::from(
        "| point | connections | message | in flight on each |\n|---|---:|---|---:|\n",
    );
    for point in points {
        let _ = writeln!(
            out,
            "| {} | {} | {} {} | {} |",
            point.id,
            point.connections,
            size(point.size),
            if point.text { "text" } else { "binary" },
            point.in_flight,
        );
    }
    out.push('\n');
    out += &table(
        "CPU of the server as a multiple of the floor's",
        &columns,
        &rows(&|cell| cell.ratio.median().map(|ratio| format!("{ratio:.2}"))),
    );
    out += &table(
        "CPU of the server a message, in microseconds",
        &columns,
        &rows(&|cell| cell.cost.median().map(digits)),
    );
    out += &table(
        "Messages a second, in thousands, server and load on one core",
        &columns,
        &rows(&|cell| cell.throughput.median().map(|rate| digits(rate / 1000.0))),
    );
    let timed: Vec<_> = (0..points.len())
        .filter(|&i| points[i].in_flight == 1 && points[i].size < 1024)
        .collect();
    if !timed.is_empty() {
        let columns: Vec<_> = timed
            .iter()
            .flat_map(|&i| {
                [
                    format!("{}: p50", points[i].id),
                    format!("{}: p99", points[i].id),
                ]
            })
            .collect();
        let rows: Vec<_> = kinds
            .iter()
            .enumerate()
            .map(|(k, kind)| {
                let cells = timed.iter().flat_map(|&i| {
                    let cell = &cells[i][k];
                    [cell.p50.median().map(digits), cell.p99.median().map(digits)]
                });
                (emphasised(kind), cells.collect())
            })
            .collect();
        out += &table(
            "Round trip with one message in flight, in microseconds",
            &columns,
            &rows,
        );
    }
    let spread = cells
        .iter()
        .flatten()
        .filter_map(|cell| cell.cost.spread())
        .fold(0.0, f64::max);
    let ratio = cells
        .iter()
        .flatten()
        .filter_map(|cell| cell.ratio.spread())
        .fold(0.0, f64::max);
    let busy = cells
        .iter()
        .flatten()
        .filter_map(|cell| cell.busy.median())
        .fold(1.0, f64::min);
    let _ = writeln!(
        out,
        "Of all these cells, the widest spread about its median was ±{:.0} % in cost and ±{:.0} % as a multiple; \
         the core was busy for at least {:.0} % of the time (median of its rounds).\n",
        spread * 100.0,
        ratio * 100.0,
        busy * 100.0,
    );
    out
}

fn emphasised(kind: &Kind) -> String {
    if kind.is_sockeye() {
        format!("**{}**", kind.name())
    } else {
        kind.name()
    }
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// Three digits that count.
pub fn digits(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        1.0.. => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// What it was measured on, with what, and how.
pub fn circumstances(command: &str) -> String {
    let first_line = |program: &str, arguments: &[&str]| -> String {
        let output = Command::new(program).args(arguments).output();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        text.unwrap_or_default()
            .lines()
            .next()
            .unwrap_or("?")
            .to_owned()
    };
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = cpu
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let lock = include_str!("../Cargo.lock");
    let version = |name: &str| {
        let at = lock.find(&format!("name = \"{name}\"\nversion = \""));
        let version = at.and_then(|at| lock[at..].split('"').nth(3));
        format!("{name} {}", version.unwrap_or("?"))
    };
    let peers = [
        "tokio",
        "fastwebsockets",
        "tokio-websockets",
        "tokio-tungstenite",
        "yawc",
        "sockudo-ws",
    ];
    let mut versions: Vec<_> = peers.iter().map(|name| version(name)).collect();
    let there = |library| {
        KINDS
            .iter()
            .any(|kind| kind.library == library && kind.is_there())
    };
    if there("uwebsockets") {
        let source = version("libuwebsockets-sys");
        versions.push(format!(
            "uWebSockets 20.56 (in {source}) by {}",
            first_line("c++", &["--version"])
        ));
    }
    if there("node-ws") {
        versions.push(format!(
            "ws 8.23.0 with bufferutil on Node {}",
            first_line("node", &["--version"])
        ));
    }
    let manifest = env!("CARGO_MANIFEST_DIR");
    format!(
        "Measured {} with `{command}` on {cores} cores of {} (Linux {}), {}; Sockeye at commit {}; {}.\n\n",
        first_line("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        model.map_or("?", |(_, model)| model),
        read("/proc/sys/kernel/osrelease").trim(),
        first_line("rustc", &["--version"]),
        first_line("git", &["-C", manifest, "rev-parse", "--short", "HEAD"]),
        versions.join(", "),
    )
}
