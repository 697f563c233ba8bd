//! A server that runs as a program: started, asked for what it holds, ended.

use std::{
    ffi::OsStr,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    time::timeout,
};

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(20);

/// How many of the lines that a server wrote are kept, to be shown where it fails.
const KEPT: usize = 100;

/// A server as a process; killed when it is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    pid: u32,
    /// Where it listens, in the order in which it said so.
    pub addresses: Vec<SocketAddr>,
    said: Said,
}

/// What a program has written so far, in both of its streams.
#[derive(Clone, Debug, Default)]
struct Said(Arc<Mutex<Vec<String>>>);

impl Said {
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads a stream to its end, so that its writer never waits, and tells of every line.
    async fn collect(self, from: impl AsyncRead + Unpin, mut tell: impl FnMut(&str)) {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            tell(&line);
            let mut said = self.lock();
            if said.len() == KEPT {
                said.remove(0);
            }
            said.push(line);
        }
    }
}

impl Server {
    /// Starts `sockeye serve` on a free port: `SOCKEYE_BIN`, or the one beside this program.
    ///
    /// # Errors
    /// Where it does not come up; with what it said.
    pub async fn sockeye(args: &[&str]) -> io::Result<Self> {
        let program = std::env::var_os("SOCKEYE_BIN").map_or_else(|| beside("sockeye"), Into::into);
        let args = [&["serve", "--listen", "127.0.0.1:0", "--quiet"], args].concat();
        Self::start(Command::new(program).args(args), 1, |_| {}).await
    }

    /// Starts `sockeye serve` with no more than so many file descriptors.
    ///
    /// # Errors
    /// As [`sockeye`](Self::sockeye).
    pub async fn sockeye_with_descriptors(count: u32) -> io::Result<Self> {
        let program = std::env::var_os("SOCKEYE_BIN").map_or_else(|| beside("sockeye"), Into::into);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {count} && exec \"$0\" \"$@\"")]);
        shell.arg(program);
        shell.args(["serve", "--listen", "127.0.0.1:0", "--quiet"]);
        Self::start(&mut shell, 1, |_| {}).await
    }

    /// Starts `test-server`, which listens at `listens` addresses; `tell` hears each line of its
    /// standard output.
    ///
    /// # Errors
    /// As [`sockeye`](Self::sockeye).
    pub async fn test_server(
        args: &[&str],
        listens: usize,
        tell: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<Self> {
        Self::start(
            Command::new(beside("test-server")).args(args),
            listens,
            tell,
        )
        .await
    }

    async fn start(
        command: &mut Command,
        listens: usize,
        mut tell: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let program = PathBuf::from(command.as_std().get_program());
        let mut child = command
            // To print one, the symbols of the whole program are read into memory.
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        let said = Said::default();
        let (found, mut addresses) = watch::channel(Vec::new());
        if let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) {
            tokio::spawn(said.clone().collect(stderr, |_| {}));
            tokio::spawn(said.clone().collect(stdout, move |line| {
                found.send_if_modified(|found| match address(line) {
                    Some(address) if found.len() < listens => {
                        found.push(address);
                        true
                    }
                    _ => false,
                });
                tell(line);
            }));
        }
        let all = addresses.wait_for(|addresses| addresses.len() == listens);
        let addresses = match timeout(START, all).await {
            Ok(Ok(addresses)) => addresses.clone(),
            _ => {
                let said = said.lock().join("\n");
                let why = format!("{} did not come up: {said}", program.display());
                return Err(io::Error::other(why));
            }
        };
        let pid = child.id().ok_or_else(|| io::Error::other("it has ended"))?;
        Ok(Self {
            child,
            pid,
            addresses,
            said,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// What it holds of the machine's memory now (its resident set), in bytes.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn memory(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most that it has held since the last [`forget_peak`](Self::forget_peak), in bytes.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    /// Has the system measure the peak from now on.
    ///
    /// # Errors
    /// Where the system does not.
    pub fn forget_peak(&self) -> io::Result<()> {
        fs::write(self.proc("clear_refs"), "5")
    }

    /// How long it has kept a processor busy.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn processor_time(&self) -> io::Result<Duration> {
        let stat = fs::read_to_string(self.proc("stat"))?;
        // The name, in parentheses, may have spaces; the 14th and 15th field are hundredths.
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }

    /// How many file descriptors it has open, besides the one timer of all its connections, which it has
    /// from the first of them on.
    ///
    /// # Errors
    /// Where it has ended.
    pub fn descriptors(&self) -> io::Result<usize> {
        let (mut count, mut timers) = (0, 0);
        for entry in fs::read_dir(self.proc("fd"))? {
            // One that is closed meanwhile is none.
            let target = fs::read_link(entry?.path()).unwrap_or_default();
            timers += usize::from(target.to_string_lossy().ends_with("[timerfd]"));
            count += 1;
        }
        Ok(count - timers.min(1))
    }

    fn status(&self, field: &str) -> io::Result<u64> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        // A process that has ended and was not waited for has no memory.
        kib.map(|kib| kib * 1024)
            .ok_or_else(|| io::Error::other(format!("the server has ended: {}", self.said())))
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    /// The last lines that it has written.
    pub fn said(&self) -> String {
        self.said.lock().join("\n")
    }

    /// Interrupts it, as Ctrl-C does, and waits for its end.
    ///
    /// # Errors
    /// Where it has not ended within `patience`; it is then killed.
    pub async fn end(mut self, patience: Duration) -> io::Result<ExitStatus> {
        kill(Pid::from_raw(self.pid.cast_signed()), Signal::SIGINT)?;
        match timeout(patience, self.child.wait()).await {
            Ok(status) => status,
            Err(_) => Err(io::Error::other(format!(
                "the server did not end: {}",
                self.said()
            ))),
        }
    }
}

/// A program in this program's own directory.
fn beside(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.parent()
        .unwrap_or(Path::new(""))
        .join(OsStr::new(name))
}

/// The address in a line such as `Echoing on ws://127.0.0.1:8080/`.
fn address(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("://")?;
    rest.split('/').next()?.parse().ok()
}
