//! The `sockeye` binary as a running program, for the tests: every wait has a deadline.

#[cfg(target_os = "linux")]
use std::os::{fd::AsRawFd, unix::fs::OpenOptionsExt};
use std::{
    fs,
    io::{self, PipeReader, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use tokio::net::TcpSocket;

/// How long two signals have to be apart, so that the second is not taken for the first.
pub(crate) const APART: Duration = Duration::from_millis(500);

/// How long any single wait may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
    ended: mpsc::Receiver<()>,
}

/// What a program has written so far.
#[derive(Clone, Default)]
pub(crate) struct Output(Arc<(Mutex<String>, Condvar)>);

impl Output {
    fn collect(&self, mut from: impl Read + Send + 'static, ended: mpsc::Sender<()>) {
        let this = self.clone();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                bytes.extend_from_slice(&buffer[..count]);
                *this.0.0.lock().unwrap() = String::from_utf8_lossy(&bytes).into();
                this.0.1.notify_all();
            }
            drop(ended);
        });
    }

    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits until the output has a text.
    pub(crate) fn expect(&self, text: &str) {
        let found = self.0.0.lock().unwrap();
        let (found, timeout) = self
            .0
            .1
            .wait_timeout_while(found, DEADLINE, |found| !found.contains(text))
            .unwrap();
        assert!(!timeout.timed_out(), "no {text:?} in {:?}", *found);
    }
}

/// A program that has ended by itself.
pub(crate) struct End {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// With these variables about proxies, and no others.
    pub(crate) fn start_with(args: &[&str], proxies: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockeye"));
        Self::run_as(command.args(args).envs(proxies.iter().copied()))
    }

    /// Started by a command that may be another program.
    pub(crate) fn run_as(command: &mut Command) -> Self {
        Self::run_with_input(command, Stdio::piped())
    }

    /// The same, with this as its standard input.
    pub(crate) fn run_with_input(command: &mut Command, input: Stdio) -> Self {
        let given: Vec<_> = command
            .get_envs()
            .map(|(name, _)| name.to_owned())
            .collect();
        for (name, _) in std::env::vars_os() {
            let is_proxy = name
                .to_ascii_lowercase()
                .to_string_lossy()
                .ends_with("_proxy");
            if is_proxy && !given.contains(&name) {
                command.env_remove(name);
            }
        }
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (ends, ended) = mpsc::channel();
        let (stdout, stderr) = (Output::default(), Output::default());
        stdout.collect(child.stdout.take().unwrap(), ends.clone());
        stderr.collect(child.stderr.take().unwrap(), ends);
        Self {
            input: child.stdin.take(),
            child,
            stdout,
            stderr,
            ended,
        }
    }

    /// Writes to its standard input.
    pub(crate) fn write(&mut self, text: impl AsRef<[u8]>) -> &mut Self {
        let input = self.input.as_mut().unwrap();
        input.write_all(text.as_ref()).unwrap();
        input.flush().unwrap();
        self
    }

    /// Ends its standard input, and waits for its end.
    pub(crate) fn finish(mut self) -> End {
        self.input = None;
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> End {
        let over = self.ended.recv_timeout(DEADLINE);
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        assert_eq!(
            over,
            Err(mpsc::RecvTimeoutError::Disconnected),
            "no end of the program, which wrote {stdout:?} and {stderr:?}"
        );
        End {
            status: self.child.wait().unwrap().code(),
            stdout,
            stderr,
        }
    }

    /// Waits until it has read so many bytes of the file that is its standard input.
    #[cfg(target_os = "linux")]
    pub(crate) fn expect_read(&self, size: usize) {
        let input = format!("/proc/{}/fdinfo/0", self.child.id());
        let wanted = format!("pos:\t{size}\n");
        eventually("all of the input is read", || {
            fs::read_to_string(&input).unwrap().starts_with(&wanted)
        });
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(&self.child, signal);
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of whose output and complaints, one pipe, nobody reads more than a test does. It ends with the test.
pub(crate) struct Unread {
    pub(crate) child: Child,
    pub(crate) input: Option<ChildStdin>,
    pub(crate) output: PipeReader,
}

impl Unread {
    pub(crate) fn start(args: &[&str]) -> Self {
        let (output, end) = io::pipe().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sockeye"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(end.try_clone().unwrap())
            .stderr(end)
            .spawn()
            .unwrap();
        Self {
            input: child.stdin.take(),
            child,
            output,
        }
    }

    #[cfg(unix)]
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        kill(&self.child, signal);
    }

    pub(crate) fn end(&mut self) -> Option<i32> {
        status_of(&mut self.child)
    }

    /// The most resident memory that it has had, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pipe that takes nothing, since nobody reads it.
#[cfg(target_os = "linux")]
pub(crate) fn full_pipe() -> (PipeReader, io::PipeWriter) {
    let (reader, writer) = io::pipe().unwrap();
    fill(&format!("/proc/self/fd/{}", writer.as_raw_fd()));
    (reader, writer)
}

/// Writes to a pipe for as long as it takes anything.
#[cfg(target_os = "linux")]
pub(crate) fn fill(pipe: &str) {
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(nix::libc::O_NONBLOCK);
    let mut pipe = options.open(pipe).unwrap();
    while pipe.write(b"x").is_ok() {}
}

#[cfg(unix)]
fn kill(child: &Child, signal: nix::sys::signal::Signal) {
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, signal).unwrap();
    #[cfg(target_os = "linux")]
    if signal == nix::sys::signal::Signal::SIGSTOP {
        eventually("every thread has stopped", || all_stopped(child.id()));
    }
}

/// Whether no thread of the process goes on, or it has ended: one after the other is told of SIGSTOP, and what runs meanwhile
/// still answers.
#[cfg(target_os = "linux")]
fn all_stopped(pid: u32) -> bool {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.all(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything.
        stat.rsplit(')').next().is_some_and(|rest| {
            [" T ", " Z ", " X "]
                .iter()
                .any(|state| rest.starts_with(state))
        })
    })
}

/// Runs the program to its end, with this input.
pub(crate) fn run(args: &[&str], input: &str) -> End {
    run_with(args, input, &[])
}

/// The same, with these variables about proxies.
pub(crate) fn run_with(args: &[&str], input: &str, proxies: &[(&str, &str)]) -> End {
    let mut program = Program::start_with(args, proxies);
    // It may have had enough before.
    let _ = program.input.as_mut().unwrap().write_all(input.as_bytes());
    program.finish()
}

/// A port of 127.0.0.1 that stays a test's own while nobody listens on it: who asks for a free one is not given it.
pub(crate) struct Port(TcpSocket);

impl Port {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // Servers have that too, so that one may listen here.
        socket.set_reuseaddr(true).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        Self(socket)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// `sockeye serve` on it.
    pub(crate) fn serve(&self, args: &[&str]) -> Server {
        serve_at(&self.address().to_string(), args)
    }
}

/// `sockeye serve`.
pub(crate) struct Server {
    pub(crate) program: Program,
    pub(crate) address: SocketAddr,
    /// Where WebSockets are: `ws://127.0.0.1:12345/`.
    pub(crate) url: String,
}

/// `sockeye serve` on a free port.
pub(crate) fn serve(args: &[&str]) -> Server {
    serve_at("127.0.0.1:0", args)
}

fn serve_at(address: &str, args: &[&str]) -> Server {
    let program = Program::start(&[&["serve", "--listen", address], args].concat());
    program.stdout.expect("Ctrl-C closes");
    let said = program.stdout.text();
    let url = said.split_whitespace().find(|word| word.starts_with("ws"));
    let url = url.unwrap().to_owned();
    let address = url.split('/').nth(2).unwrap().parse().unwrap();
    Server {
        program,
        address,
        url,
    }
}

/// Sends a request as it is, and gives all that is answered.
pub(crate) fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// A future, with the deadline.
pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(DEADLINE, future)
        .await
        .expect("it took too long")
}

/// Checks a condition until it holds.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < DEADLINE, "never: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits for a program's end: its status, unless a signal ended it.
pub(crate) fn status_of(child: &mut Child) -> Option<i32> {
    let mut status = None;
    eventually("the end", || {
        status = child.try_wait().unwrap();
        status.is_some()
    });
    status.unwrap().code()
}

/// A directory of a test's own, emptied.
pub(crate) fn directory(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Paths of an authority, of a certificate it gave to 127.0.0.1, and of its key.
pub(crate) fn certificates(name: &str) -> [String; 3] {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".into()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    let directory = directory(name);
    [
        ("ca.pem", ca.pem()),
        ("server.pem", certificate.pem()),
        ("server.key", key.serialize_pem()),
    ]
    .map(|(file, pem)| {
        let path = directory.join(file);
        fs::write(&path, pem).unwrap();
        path.to_str().unwrap().into()
    })
}

/// Something that answers who comes first with these bytes, and ends the connection: its address.
pub(crate) fn something_else(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(answer).unwrap();
        // Else what has come meanwhile would be answered with a reset, and the answer be lost.
        stream.shutdown(Shutdown::Write).unwrap();
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    address.to_string()
}
