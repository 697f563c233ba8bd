//! An echo server as a process of its own: started, measured, ended.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// A server that can be compared: a program and the form it runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub library: &'static str,
    pub form: &'static str,
    pub deflate: bool,
    /// Whether it has a part in accepting: itself, or behind hyper.
    pub accepts: bool,
}

const fn kind(library: &'static str, form: &'static str, deflate: bool, accepts: bool) -> Kind {
    Kind {
        library,
        form,
        deflate,
        accepts,
    }
}

/// All of them. The floor comes first.
pub const KINDS: &[Kind] = &[
    kind("raw", "tokio", false, false),
    kind("raw", "epoll", false, false),
    kind("sockeye", "events", true, true),
    kind("sockeye", "async", true, true),
    kind("fastwebsockets", "batched", false, true),
    kind("fastwebsockets", "loop", false, false),
    kind("tokio-websockets", "batched", false, true),
    kind("tokio-websockets", "loop", false, true),
    kind("tokio-tungstenite", "batched", false, true),
    kind("tokio-tungstenite", "loop", false, true),
    kind("yawc", "batched", true, true),
    kind("yawc", "loop", true, false),
    kind("sockudo-ws", "batched", true, true),
    kind("sockudo-ws", "loop", true, true),
    kind("uwebsockets", "events", false, true),
    kind("node-ws", "events", true, true),
];

impl Kind {
    pub fn name(&self) -> String {
        match self.library {
            "raw" => format!("raw TCP echo on {}", self.form),
            "node-ws" => "Node `ws`".into(),
            "uwebsockets" => "uWebSockets (C++)".into(),
            library => format!("{library}, {}", self.form),
        }
    }

    /// The form in which it accepts as its documentation says.
    pub fn accepting(self) -> Self {
        match self.library {
            "fastwebsockets" | "yawc" => Self {
                form: "hyper",
                ..self
            },
            _ => self,
        }
    }

    /// Whether its server is built on a stream of any type, and so on TLS.
    pub fn has_tls(&self) -> bool {
        !matches!(self.library, "raw" | "node-ws" | "uwebsockets")
    }

    /// Whether its server is there: what is not in Rust is made only where its tools are.
    pub fn is_there(&self) -> bool {
        match self.library {
            "node-ws" => node_directory().join("node_modules/ws").exists(),
            _ => self.program().exists(),
        }
    }

    /// Whether it knows nothing of WebSocket.
    pub fn is_raw(&self) -> bool {
        self.library == "raw"
    }

    /// Whether the others are given as multiples of it.
    pub fn is_floor(&self) -> bool {
        self.is_raw() && self.form == "tokio"
    }

    pub fn is_sockeye(&self) -> bool {
        self.library == "sockeye"
    }

    fn command(&self) -> Command {
        if self.library == "node-ws" {
            let mut node = Command::new("node");
            node.arg(node_directory().join("echo.mjs"));
            return node;
        }
        Command::new(self.program())
    }

    fn program(&self) -> PathBuf {
        let own = std::env::current_exe().expect("the program has a path");
        own.with_file_name(format!("echo-{}", self.library))
    }
}

fn node_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/node")
}

/// How servers are started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The level of zlib, where messages may be compressed.
    pub level: Option<u8>,
    pub tls: bool,
    /// Whether they do not run before the load has made all of it and waits: the system has them wait for
    /// that, unless the load runs for long.
    pub after_load: bool,
    /// The cores to run on, where they are not the load generator's.
    pub cores: Option<String>,
    /// Further arguments, such as how many threads.
    pub arguments: Vec<String>,
    /// A command to run it under, such as a profiler, which then ends when the server does.
    pub under: Option<String>,
}

pub struct Server {
    /// None where another process has started it.
    child: Option<Child>,
    pid: u32,
    address: SocketAddr,
    /// Whether what it runs under has something to write down at the end.
    gently: bool,
}

impl Server {
    /// Starts a server and waits until it accepts connections.
    pub fn start(kind: &Kind, settings: &Settings) -> io::Result<Self> {
        // Each has an address of its own, so that ports in TIME_WAIT are never in the way, nor the servers
        // of another run.
        static STARTED: AtomicU16 = AtomicU16::new(0);
        let [high, low] = STARTED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let [.., run_high, run_low] = std::process::id().to_be_bytes();
        let last = run_low.clamp(1, 254);
        let address: SocketAddr = ([127, 1 + (high ^ run_high) % 254, low, last], 9001).into();
        let mut prefix = settings.under.clone().unwrap_or_default();
        if let Some(cores) = &settings.cores {
            prefix.insert_str(0, &format!("taskset -c {cores} "));
        }
        if settings.after_load {
            prefix.insert_str(0, "chrt --batch 0 ");
        }
        let program = kind.command();
        let mut words = prefix.split_whitespace();
        let mut command = match words.next() {
            None => program,
            Some(first) => {
                let mut command = Command::new(first);
                command.args(words).arg(program.get_program());
                command.args(program.get_args());
                command
            }
        };
        command.arg(kind.form).arg(address.to_string());
        command.args(&settings.arguments);
        if let Some(level) = settings.level {
            command.env("ECHO_LEVEL", level.to_string());
        }
        if settings.tls {
            command.env("ECHO_TLS", certificate());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let mut server = Self {
            pid: child.id(),
            child: Some(child),
            address,
            gently: settings.under.is_some(),
        };
        let begun = Instant::now();
        while let Err(error) = server.connect() {
            let ended = server
                .child
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten();
            if let Some(status) = ended {
                return Err(io::Error::other(format!("it did not start: {status}")));
            }
            if begun.elapsed() > Duration::from_secs(10) {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }

    /// What another process needs to make load on it.
    pub fn attachment(&self) -> String {
        format!("{}@{}", self.pid, self.address)
    }

    /// A server that another process has started, from its [`attachment`](Self::attachment).
    pub fn attach(attachment: &str) -> io::Result<Self> {
        let parts = attachment
            .split_once('@')
            .and_then(|(pid, address)| Some((pid.parse().ok()?, address.parse().ok()?)));
        let (pid, address) = parts.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            child: None,
            pid,
            address,
            gently: false,
        })
    }

    pub fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// CPU time so far, user and system, of all its threads.
    pub fn cpu(&self) -> Duration {
        cpu(&self.pid.to_string())
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.pid);
        let text = fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Rss:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        let pid = self.pid.to_string();
        let ended = self.gently && Command::new("kill").arg(pid).status().is_ok();
        if !ended {
            let _ = child.kill();
        }
        let _ = child.wait();
    }
}

/// One certificate for all servers, with its key, in PEM: ECDSA on P-256.
fn certificate() -> &'static str {
    static MADE: OnceLock<String> = OnceLock::new();
    MADE.get_or_init(|| {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("a certificate can be made");
        own.cert.pem() + &own.signing_key.serialize_pem()
    })
}

/// CPU time of this process.
pub fn own_cpu() -> Duration {
    cpu("self")
}

/// The scheduler's own account, in nanoseconds: `stat` counts in hundredths of a second.
fn cpu(process: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task"));
    let nanos = tasks.into_iter().flatten().flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}
