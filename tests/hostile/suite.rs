//! Runs cases one after another, and looks at the server after each.

use std::{
    fmt::Display,
    io,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sockeye::{Client, CloseCode, Ended, client::ClientTls};
use sockeye_tests::Server;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
    time::{sleep, timeout},
};

use crate::{
    wire::{NO_CONTEXT, Peer},
    wrongs::HELLO,
};

/// How long a case may take.
const CASE: Duration = Duration::from_secs(90);

/// How long a healthy client may wait for all that it wants, on a machine that does other things too.
const SERVED: Duration = Duration::from_secs(20);

/// The same while the server has seconds of work from others before it.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long an ended server may take to close every connection: its close timeout, and a second.
const ENDING: Duration = Duration::from_secs(20);

const MIB: u64 = 1 << 20;

pub(crate) struct Suite {
    only: Option<String>,
    /// How many cases were run.
    ran: usize,
    passed: usize,
    /// What is said of each server's memory in the end.
    memory: Vec<String>,
    /// Said once more in the end.
    failures: Vec<String>,
}

/// A server under attack.
pub(crate) struct Attacked {
    name: &'static str,
    server: Arc<Server>,
    bound: Bound,
    /// What it held and had open before anybody came.
    before: (u64, usize),
    /// The most that it held, and in which case.
    worst: (u64, String),
    bystander: Option<Bystander>,
    /// Whether it speaks TLS.
    secure: bool,
}

/// How much more memory than at its start a server may hold, and why that much.
#[derive(Clone, Copy)]
pub(crate) struct Bound {
    pub(crate) mib: u64,
    pub(crate) why: &'static str,
}

/// Where a server is to be found.
#[derive(Clone)]
pub(crate) struct At {
    pub(crate) server: Arc<Server>,
    pub(crate) address: SocketAddr,
    secure: bool,
    note: Arc<Mutex<String>>,
}

impl Suite {
    pub(crate) fn new(only: Option<String>) -> Self {
        Self {
            only,
            ran: 0,
            passed: 0,
            memory: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Has a server attacked, with a bystander who talks to it all the while.
    pub(crate) async fn attack(
        &self,
        name: &'static str,
        server: Server,
        bound: Bound,
    ) -> io::Result<Attacked> {
        let mut attacked = self.attack_alone(name, server, bound).await?;
        attacked.bystander = Some(Bystander::begin(attacked.at(0)));
        Ok(attacked)
    }

    /// Has a server attacked that nobody else talks to.
    pub(crate) async fn attack_alone(
        &self,
        name: &'static str,
        server: Server,
        bound: Bound,
    ) -> io::Result<Attacked> {
        let attacked = Attacked {
            name,
            before: (server.memory()?, server.descriptors()?),
            worst: (server.memory()?, "its start".into()),
            server: Arc::new(server),
            bound,
            bystander: None,
            secure: false,
        };
        Ok(attacked)
    }

    /// Has a server attacked that speaks TLS, and nobody else talks to.
    pub(crate) async fn attack_secure(
        &self,
        name: &'static str,
        server: Server,
        bound: Bound,
    ) -> io::Result<Attacked> {
        let mut attacked = self.attack_alone(name, server, bound).await?;
        attacked.secure = true;
        Ok(attacked)
    }

    /// Runs a case against the first address of a server.
    pub(crate) async fn case<F, Fut>(&mut self, on: &mut Attacked, name: impl Display, work: F)
    where
        F: FnOnce(At) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.case_at(on, 0, name, work).await;
    }

    /// Runs a case against an address of a server; then serves a healthy client there, and looks at
    /// the server's memory.
    pub(crate) async fn case_at<F, Fut>(
        &mut self,
        on: &mut Attacked,
        address: usize,
        name: impl Display,
        work: F,
    ) where
        F: FnOnce(At) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let name = name.to_string();
        if matches!(&self.only, Some(only) if !name.contains(only)) {
            return;
        }
        self.ran += 1;
        let at = on.at(address);
        let began = Instant::now();
        let result = async {
            at.server.forget_peak()?;
            finished(tokio::spawn(work(at.clone())), CASE).await?;
            let took = began.elapsed();
            let served = finished(tokio::spawn(healthy(at.clone())), SERVED).await?;
            let (peak, now) = (at.server.peak()?, at.server.memory()?);
            io::Result::Ok((took, served, peak, now))
        };
        let (took, served, peak, now) = match result.await {
            Ok(figures) => figures,
            Err(error) => return self.failed(on.name, &name, &error.to_string()),
        };
        if peak > on.worst.0 {
            on.worst = (peak, name.clone());
        }
        if peak > on.most() {
            let why = format!("it held {}, and may hold {}", Mib(peak), Mib(on.most()));
            return self.failed(on.name, &name, &why);
        }
        self.passed += 1;
        println!(
            "ok     {:<16} {name:<66} {:6.2} s  healthy {:4} ms  peak {}  then {}  {}",
            on.name,
            took.as_secs_f32(),
            served.as_millis(),
            Mib(peak),
            Mib(now),
            at.note.lock().unwrap(),
        );
    }

    fn failed(&mut self, on: &str, name: &str, why: &str) {
        let failure = format!("FAILED {on:<16} {name}: {why}");
        println!("{failure}");
        self.failures.push(failure);
    }

    /// Ends a server: the bystander was served to the last, everything that was opened is closed, and
    /// the server ends well when it is asked to.
    pub(crate) async fn end(&mut self, mut on: Attacked) -> io::Result<()> {
        let mut talked = String::new();
        if let Some(bystander) = on.bystander.take() {
            match bystander.end().await {
                Ok((rounds, longest)) => {
                    talked = format!(
                        "; a bystander had {rounds} answers, the latest after {} ms",
                        longest.as_millis()
                    );
                    self.passed += 1;
                }
                Err(error) => {
                    self.failed(on.name, "a bystander notices nothing", &error.to_string())
                }
            }
        }
        match eventually(|| Ok(on.server.descriptors()? <= on.before.1)).await {
            Ok(()) => self.passed += 1,
            Err(error) => self.failed(on.name, "all that it opened is closed", &error.to_string()),
        }
        let ((start, _), now) = (on.before, on.server.memory()?);
        let (worst, when) = &on.worst;
        self.memory.push(format!(
            "{:<16} start {}  most {}  end {}  bound start + {:3} MiB: {}{talked}; most in {when:?}",
            on.name,
            Mib(start),
            Mib(*worst),
            Mib(now),
            on.bound.mib,
            on.bound.why,
        ));
        let name = "it ends when it is asked to";
        match Arc::try_unwrap(on.server) {
            Ok(server) => match server.end(ENDING).await {
                Ok(status) if status.success() => self.passed += 1,
                Ok(status) => self.failed(on.name, name, &status.to_string()),
                Err(error) => self.failed(on.name, name, &error.to_string()),
            },
            // It is killed with this program.
            Err(_) => self.failed(on.name, name, "a case that was stopped still holds it"),
        }
        Ok(())
    }

    /// Prints what there was.
    pub(crate) fn verdict(mut self) -> ExitCode {
        if self.ran == 0 {
            // What is seen of each server without one passes too.
            let only = self.only.as_deref().unwrap_or_default();
            self.failures
                .push(format!("FAILED no case has {only:?} in its name"));
        }
        println!("\nmemory of each server");
        self.memory.iter().for_each(|line| println!("  {line}"));
        println!();
        self.failures.iter().for_each(|line| println!("{line}"));
        println!("{} passed, {} failed", self.passed, self.failures.len());
        if self.failures.is_empty() && self.passed > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

impl Attacked {
    fn at(&self, address: usize) -> At {
        At {
            address: self.server.addresses[address],
            server: self.server.clone(),
            secure: self.secure,
            note: Arc::default(),
        }
    }

    fn most(&self) -> u64 {
        self.before.0 + self.bound.mib * MIB
    }
}

impl At {
    /// Adds to what is printed of the case.
    pub(crate) fn note(&self, note: impl Into<String>) {
        *self.note.lock().unwrap() = note.into();
    }

    pub(crate) async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A stream from another address of this machine: the `number`th of 127.66.0.0/16.
    pub(crate) async fn stream_from(&self, number: usize) -> io::Result<TcpStream> {
        let [high, low] = u16::try_from(number)
            .map_err(io::Error::other)?
            .to_be_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 66, high, low), 0).into())?;
        socket.connect(self.address).await
    }

    pub(crate) async fn peer(&self, extensions: &str) -> Peer<TcpStream> {
        Peer::client(self.stream().await, extensions, &[]).await
    }

    pub(crate) async fn peer_from(&self, number: usize, extensions: &str) -> Peer<TcpStream> {
        let stream = self.stream_from(number).await.unwrap();
        Peer::client(stream, extensions, &[]).await
    }
}

/// A client as there should be: it sends text, compressed text and a ping, gets what it is owed, and
/// closes. Gives how long all that took.
pub(crate) async fn healthy(at: At) -> Duration {
    let began = Instant::now();
    if at.secure {
        healthy_in_tls(&at).await.unwrap();
        return began.elapsed();
    }
    let mut peer = at.peer(NO_CONTEXT).await;
    peer.expect_echo("Привет").await;
    peer.send_frame(0xC1, HELLO).await;
    peer.expect_text("Hello").await;
    peer.send_frame(0x89, "are you there?").await;
    assert_eq!(peer.expect(0x8A).await, b"are you there?");
    peer.send_close(1000, "").await;
    assert_eq!(peer.expect_close().await.0, 1000);
    peer.expect_end().await;
    began.elapsed()
}

async fn healthy_in_tls(at: &At) -> sockeye::Result<()> {
    let tls = ClientTls::new().dangerous_accept_any_certificate();
    let client = Client::new(format!("wss://{}/", at.address)).no_proxy();
    let mut socket = client.tls(tls).connect().await?;
    for text in ["Привет", "Hello"] {
        socket.send(text).await?;
        assert_eq!(socket.recv().await?, Some(text.into()));
    }
    socket.close(CloseCode::NORMAL, "").await?;
    while socket.recv().await?.is_some() {}
    assert!(matches!(socket.ended(), Some(Ended::ByUs(_))));
    Ok(())
}

/// Somebody who talks to the server from before the first case until after the last.
struct Bystander {
    done: Arc<AtomicBool>,
    task: JoinHandle<(usize, Duration)>,
}

impl Bystander {
    fn begin(at: At) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let until = done.clone();
        let task = tokio::spawn(async move {
            let (mut rounds, mut longest) = (0, Duration::ZERO);
            let mut peer = at.peer("").await;
            while !until.load(Ordering::Relaxed) {
                let began = Instant::now();
                peer.send_frame(0x81, format!("round {rounds}")).await;
                patiently(peer.stream.readable()).await.unwrap();
                let mut frame = peer.next().await.expect("the connection has ended");
                if frame.first == 0x89 {
                    // One of the pings that keep the connection.
                    peer.send_frame(0x8A, frame.payload).await;
                    frame = peer.next().await.expect("the connection has ended");
                }
                assert_eq!(frame.text(), format!("round {rounds}"));
                longest = longest.max(began.elapsed());
                rounds += 1;
                sleep(Duration::from_millis(50)).await;
            }
            peer.send_close(1000, "").await;
            assert_eq!(peer.expect_close().await.0, 1000);
            (rounds, longest)
        });
        Self { done, task }
    }

    async fn end(self) -> io::Result<(usize, Duration)> {
        self.done.store(true, Ordering::Relaxed);
        finished(self.task, SERVED).await
    }
}

/// What a task came to; an error where it panicked, or took too long.
async fn finished<T>(mut task: JoinHandle<T>, patience: Duration) -> io::Result<T> {
    match timeout(patience, &mut task).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(io::Error::other(error.to_string())),
        Err(_) => {
            task.abort();
            Err(io::Error::other(format!("not done after {patience:?}")))
        }
    }
}

/// What a future comes to, however busy the server is.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("the server does not get to it")
}

/// Waits until something holds, with a deadline.
pub(crate) async fn eventually(mut holds: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > SERVED {
            return Err(io::Error::other(format!("not after {SERVED:?}")));
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

struct Mib(u64);

impl Display for Mib {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        #[allow(clippy::cast_precision_loss, reason = "a tenth is enough")]
        let mib = self.0 as f64 / MIB as f64;
        write!(f, "{mib:6.1} MiB")
    }
}
