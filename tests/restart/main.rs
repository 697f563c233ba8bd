//! A rolling restart, with many clients connected: an old server leaves while a new one listens beside
//! it on the same port. Every client is closed in its turn, nothing that a handler has accepted is lost,
//! and all come back to the new server.
//!
//! `restart [CLIENTS [SECONDS]]`: how many clients there are, and over how long the closes are spread.
//! The servers are this program too, each in a process of its own.

mod clients;
mod server;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use clients::{Clients, Moved};

/// No wait takes longer than this, beside the window.
const DEADLINE: Duration = Duration::from_secs(120);

/// From so many clients on, each tenth of the window has to have its share of the closes.
const MANY: usize = 5_000;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let result = match &args[..] {
        [role, name, address] if role == "serve" => server::run(name, address),
        _ => restart(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("restart: {error}");
            ExitCode::FAILURE
        }
    }
}

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

fn restart(args: &[String]) -> Result<()> {
    let count: usize = args.first().map_or(Ok(10_000), |count| count.parse())?;
    let seconds: f64 = args.get(1).map_or(Ok(20.0), |seconds| seconds.parse())?;
    let window = Duration::try_from_secs_f64(seconds)?;
    permit_connections(count)?;

    let mut old = Server::start("old", "127.0.0.1:0".parse()?)?;
    let idle = old.sockets()?;
    let mut clients = Clients::start(old.address, count, window)?;
    clients.wait_until_in_use()?;
    let busy = old.sockets()?;
    let mut new = Server::start("new", old.address)?;

    let began = Instant::now();
    old.tell(&format!("leave {}", window.as_millis()))?;
    let moved = clients.moved(window + DEADLINE)?;
    let left = old.hear(window + DEADLINE)?;
    let rest = old.sockets()?;
    let took = began.elapsed();

    new.tell("leave 0")?;
    let left_new = new.hear(DEADLINE)?;
    let ends = clients.end()?;
    let report = Report {
        count,
        window,
        began,
        moved: &moved,
        left: &left,
    };
    println!(
        "{count} clients moved in {:.1} s, over a window of {seconds} s",
        took.as_secs_f64()
    );
    println!("the old server said: {}", left.said);
    let mut checks = report.checks();
    checks.push(Check::new(
        format!("sockets of the old server: {idle} before, {busy} with the clients, {rest} after"),
        // One was the listener's.
        busy >= idle + count && rest + 1 == idle,
    ));
    let echoes = moved.iter().map(|client| client.echoes_of_new).sum::<u64>();
    checks.push(Check::new(
        format!(
            "every client was served by the new server; {echoes} echoes, {} accepted",
            left_new.accepted
        ),
        moved.iter().all(|client| client.echoes_of_new > 0) && echoes == left_new.accepted,
    ));
    checks.push(Check::new(
        format!("the new server then closed its own: {ends:?}"),
        ends == BTreeMap::from([(1001, count)]),
    ));
    let failed = checks.iter().filter(|check| !check.holds).count();
    for check in &checks {
        println!(
            "{} {}",
            if check.holds { "ok    " } else { "FAILED" },
            check.what
        );
    }
    println!("{} passed, {failed} failed", checks.len() - failed);
    if failed > 0 {
        return Err("a check has failed".into());
    }
    Ok(())
}

struct Check {
    what: String,
    holds: bool,
}

impl Check {
    fn new(what: String, holds: bool) -> Self {
        Self { what, holds }
    }
}

struct Report<'a> {
    count: usize,
    window: Duration,
    began: Instant,
    moved: &'a [Moved],
    left: &'a Left,
}

impl Report<'_> {
    fn checks(&self) -> Vec<Check> {
        let mut checks = vec![self.codes(), self.nothing_lost(), self.farewell()];
        checks.extend(self.spread());
        checks
    }

    fn codes(&self) -> Check {
        let mut codes = BTreeMap::new();
        for client in self.moved {
            *codes.entry(client.close.clone()).or_insert(0) += 1;
        }
        let expected = format!("1012 {}", server::REASON);
        Check::new(
            format!("closes: {codes:?}"),
            codes == BTreeMap::from([(expected, self.count)]),
        )
    }

    /// What the handlers of the old server have accepted, its clients have had answered before the Close.
    fn nothing_lost(&self) -> Check {
        let echoes: u64 = self.moved.iter().map(|client| client.echoes_of_old).sum();
        let again: u64 = self.moved.iter().map(|client| client.sent_again).sum();
        let accepted = self.left.accepted;
        Check::new(
            format!(
                "{accepted} messages accepted by the old server, {echoes} echoes received from it; \
                 {again} met the Close, were not accepted, and were sent again to the new"
            ),
            accepted == echoes && accepted > 0,
        )
    }

    fn farewell(&self) -> Check {
        let Left {
            connections,
            closed,
            cut,
            ..
        } = *self.left;
        Check::new(
            format!(
                "of {connections} connections the old server closed {closed} and cut off {cut}"
            ),
            (connections, closed, cut) == (self.count, self.count, 0),
        )
    }

    fn spread(&self) -> Vec<Check> {
        let mut after: Vec<_> = self
            .moved
            .iter()
            .map(|client| client.closed_at - self.began)
            .collect();
        after.sort_unstable();
        let share = |time: Duration| time.as_secs_f64() / self.window.as_secs_f64();
        // Whatever this machine does, a Close can only be late.
        let early = after
            .iter()
            .enumerate()
            .filter(|(place, time)| (*place as f64) > share(**time) * self.count as f64 + 1.0)
            .count();
        let last = after.last().copied().unwrap_or_default();
        let mut checks = vec![Check::new(
            format!(
                "closes before their turn: {early}; the last after {:.1} s",
                last.as_secs_f64()
            ),
            early == 0 && last < self.window + DEADLINE / 4,
        )];
        let mut tenths = [0; 10];
        for time in after {
            tenths[((share(time) * 10.0) as usize).min(9)] += 1;
        }
        let percent = tenths.map(|tenth| tenth as f64 * 100.0 / self.count as f64);
        let shown = percent.map(|percent| format!("{percent:.1}")).join(" ");
        let even = percent.iter().all(|percent| (7.0..=13.0).contains(percent));
        checks.push(Check::new(
            format!("closes in each tenth of the window, in percent: {shown}"),
            even || self.count < MANY,
        ));
        checks
    }
}

/// A server in a process of its own.
struct Server {
    child: Child,
    orders: ChildStdin,
    lines: mpsc::Receiver<String>,
    address: SocketAddr,
}

/// How a server has left.
struct Left {
    accepted: u64,
    connections: usize,
    closed: usize,
    cut: usize,
    said: String,
}

impl Server {
    fn start(name: &str, address: SocketAddr) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["serve", name, &address.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = child.stdin.take().ok_or("no pipe")?;
        let output = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(std::io::Result::ok) {
                // Refused where nobody waits any more.
                let _ = tell.send(line);
            }
        });
        let mut server = Self {
            child,
            orders,
            lines,
            address,
        };
        let line = server.line(DEADLINE)?;
        let listening = line
            .strip_prefix("listening ")
            .ok_or_else(|| format!("it said {line}"))?;
        server.address = listening.parse()?;
        Ok(server)
    }

    fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}")?;
        Ok(())
    }

    fn line(&self, wait: Duration) -> Result<String> {
        self.lines.recv_timeout(wait).map_err(|error| match error {
            RecvTimeoutError::Timeout => "a server said nothing in time".into(),
            RecvTimeoutError::Disconnected => "a server has ended too early".into(),
        })
    }

    /// Waits until it has left.
    fn hear(&self, wait: Duration) -> Result<Left> {
        let line = self.line(wait)?;
        let words: Vec<_> = line.splitn(6, ' ').collect();
        let ["left", accepted, connections, closed, cut, said] = words[..] else {
            return Err(format!("a server said {line}").into());
        };
        Ok(Left {
            accepted: accepted.parse()?,
            connections: connections.parse()?,
            closed: closed.parse()?,
            cut: cut.parse()?,
            said: said.into(),
        })
    }

    /// How many of its descriptors are sockets.
    fn sockets(&self) -> Result<usize> {
        let mut count = 0;
        for entry in fs::read_dir(format!("/proc/{}/fd", self.child.id()))? {
            // One that is closed meanwhile is none.
            let target = fs::read_link(entry?.path()).unwrap_or_default();
            count += usize::from(target.to_string_lossy().starts_with("socket:"));
        }
        Ok(count)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A descriptor for each connection, and some.
fn permit_connections(count: usize) -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let needed = count as u64 + 200;
    if hard < needed {
        return Err(
            format!("{needed} descriptors are needed, and {hard} permitted (ulimit -Hn)").into(),
        );
    }
    Ok(())
}
