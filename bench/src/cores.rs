//! A server on several cores, under load from two processes that may run on any.

use std::{
    error::Error,
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    thread,
};

use crate::{
    load::Load,
    points::{POINTS, Point},
    server::Server,
    wire::{Kind as Wire, Traffic},
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// So many processes make the load.
const LOADS: usize = 2;

pub struct Measured {
    /// CPU of the server in microseconds a message.
    pub cost: f64,
    pub throughput: f64,
    /// How many cores the server filled.
    pub cores: f64,
}

/// Runs a server's load at a point, a half of the connections from each process.
pub fn run(server: &Server, point: &Point, seconds: f64) -> Result<Measured> {
    let mut loads = Vec::new();
    for _ in 0..LOADS {
        loads.push(
            Command::new("taskset")
                .args(["-c", &all_cores()])
                .arg(std::env::current_exe()?)
                .arg("--load")
                .args([
                    server.attachment(),
                    point.id.to_string(),
                    seconds.to_string(),
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()?,
        );
    }
    // Both are connected before either begins.
    let mut outputs = Vec::new();
    for load in &mut loads {
        let mut output = BufReader::new(load.stdout.take().ok_or("no output")?);
        output.read_line(&mut String::new())?;
        outputs.push(output);
    }
    for load in &mut loads {
        load.stdin.take().ok_or("no input")?.write_all(b"go\n")?;
    }
    let (mut throughput, mut cores) = (0.0, 0.0);
    for (load, mut output) in loads.iter_mut().zip(outputs) {
        let mut text = String::new();
        output.read_to_string(&mut text)?;
        ended_well(load)?;
        let numbers: Vec<f64> = text.split_whitespace().flat_map(str::parse).collect();
        let [messages, time, cpu] = numbers[..] else {
            return Err(format!("a load said {text:?}").into());
        };
        throughput += messages / time;
        cores += cpu / time / LOADS as f64;
    }
    Ok(Measured {
        cost: cores / throughput * 1e6,
        throughput,
        cores,
    })
}

fn ended_well(load: &mut Child) -> Result<()> {
    match load.wait()? {
        status if status.success() => Ok(()),
        status => Err(format!("a load ended with {status}").into()),
    }
}

/// What each of the processes does: the arguments are those that [`run`] gives it.
pub fn load(arguments: &[String]) -> Result<()> {
    let [attachment, point, seconds] = arguments else {
        return Err("--load SERVER POINT SECONDS".into());
    };
    let server = Server::attach(attachment)?;
    let point = POINTS.iter().find(|known| known.id.to_string() == *point);
    let point = point.ok_or("there is no such point")?;
    let traffic = Traffic::new(Wire::Plain, point.size, point.text);
    let load = Load {
        traffic: &traffic,
        connections: (point.connections / LOADS).max(1),
        in_flight: point.in_flight,
        turns: None,
        seconds: seconds.parse()?,
    };
    let measured = load.run_when(&server, || {
        println!("connected");
        std::io::stdin().read_line(&mut String::new()).map(drop)
    })?;
    println!(
        "{} {} {}",
        measured.messages,
        measured.time.as_secs_f64(),
        measured.server_cpu.as_secs_f64()
    );
    Ok(())
}

/// All cores of the machine, as `taskset` is told.
pub fn all_cores() -> String {
    // The count of the machine's own, not of those that this process is pinned to.
    let cpus = std::fs::read_to_string("/sys/devices/system/cpu/online");
    cpus.map_or_else(
        |_| {
            format!(
                "0-{}",
                thread::available_parallelism().map_or(1, usize::from) - 1
            )
        },
        |cpus| cpus.trim().to_owned(),
    )
}
