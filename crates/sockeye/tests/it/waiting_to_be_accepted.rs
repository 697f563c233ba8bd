//! A bug: no more than 128 connections could wait to be accepted, as tokio asks for, and where more came at once the
//! system dropped them, so that their clients tried again seconds later.

use std::time::Duration;

use sockeye::Server;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};

#[tokio::test]
async fn many_connect_at_once() {
    let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let count = system.trim().parse::<usize>().unwrap().min(1000);
    // Nothing is accepted: it does not run.
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let mut clients = JoinSet::new();
    for _ in 0..count {
        clients.spawn(TcpStream::connect(address));
    }
    let connected = timeout(Duration::from_secs(20), clients.join_all()).await;
    let connected = connected.expect("the system has dropped some");
    assert!(connected.iter().all(|stream| stream.is_ok()));
}
