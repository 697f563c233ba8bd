//! Ten thousand idle connections: how much memory each costs, at both ends. An idle connection owns
//! no buffers; with one read buffer each, the bound would be missed tenfold.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use sockeye::{Client, DeflateConfig};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};

const CONNECTIONS: usize = 10_000;

/// Bytes a connection at the server, with every feature: the socket's state, the task it runs in, what the allocator
/// adds. It takes 1,510 to 1,810.
const BOUND: usize = 2 * 1024;

/// The same at the client, whose task is this test's.
const CLIENT_BOUND: usize = 3 * 1024;

/// A server in a process of its own, as this one's descriptors suffice for one end.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    fn start(example: &str) -> Self {
        let mut path = std::env::current_exe().unwrap();
        path.pop();
        path.pop();
        let mut child = Command::new(path.join("examples").join(example))
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut url = String::new();
        stdout.read_line(&mut url).unwrap();
        // It may say more, and must not wait for a reader.
        thread::spawn(move || stdout.lines().for_each(drop));
        Self {
            child,
            url: url.trim().to_owned(),
        }
    }

    fn memory(&self) -> usize {
        memory(&self.child.id().to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The resident memory of a process, in bytes.
fn memory(process: &str) -> usize {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 1024
}

/// How many connections this process may open.
fn connections() -> usize {
    let limits = fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let soft: usize = line
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(usize::MAX);
    CONNECTIONS.min(soft - 200)
}

/// What a connection costs the server: opened, and after a message there and back.
async fn measure(example: &str, deflate: Option<DeflateConfig>) -> [usize; 2] {
    let server = Server::start(example);
    let connections = connections();
    let client = Arc::new(Client::new(&server.url).deflate(deflate));
    let (before, own_before) = (server.memory(), memory("self"));
    let (phase, _) = watch::channel(0);
    let doors = Arc::new(Semaphore::new(64));
    let opened = Arc::new(Semaphore::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (client, doors, opened) = (client.clone(), doors.clone(), opened.clone());
        let mut phase = phase.subscribe();
        tasks.spawn(async move {
            let mut socket = {
                let _door = doors.acquire().await.unwrap();
                client.connect().await.unwrap()
            };
            assert_eq!(socket.extensions().is_empty(), deflate.is_none());
            opened.add_permits(1);
            phase.wait_for(|phase| *phase == 1).await.unwrap();
            {
                let _door = doors.acquire().await.unwrap();
                let message = "1 KiB of text, ".repeat(70);
                socket.send(&message).await.unwrap();
                let echo = socket.recv().await.unwrap().unwrap();
                assert_eq!(echo.as_text(), Some(&message[..]));
            }
            opened.add_permits(1);
            // Idle, as most are: waiting for a message.
            let _ = socket.recv().await;
        });
    }
    let mut costs = [0; 2];
    for (number, cost) in costs.iter_mut().enumerate() {
        phase.send_replace(number);
        let all = opened.acquire_many(connections as u32);
        let all = timeout(Duration::from_secs(60), all).await;
        all.expect("not all connections were served")
            .unwrap()
            .forget();
        *cost = server.memory().saturating_sub(before) / connections;
        let own = memory("self").saturating_sub(own_before) / connections;
        let compressed = if deflate.is_some() { ", deflate" } else { "" };
        let after = ["opened", "after a message of 1 KiB"][number];
        println!(
            "{connections} connections, {example}{compressed}, {after}: \
             {cost} bytes each at the server, {own} at the client"
        );
        assert!(own < CLIENT_BOUND, "{own} bytes a connection at the client");
    }
    costs
}

#[tokio::test]
async fn ten_thousand_idle_connections() {
    for (example, deflate) in [
        ("echo", None),
        ("events", None),
        ("events", DeflateConfig::available()),
    ] {
        for cost in measure(example, deflate).await {
            assert!(cost > 100, "{cost} bytes: measured wrongly");
            assert!(cost < BOUND, "{cost} bytes a connection at the server");
        }
    }
}
