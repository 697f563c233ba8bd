//! Who is let in: each limit at its edge, what those who are not are told, and that nobody else
//! notices.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::Duration,
};

use sockeye::{
    Acceptor, Client, Error, PerCore, Server, WebSocket,
    server::{Answer, Limit, Rate, Shutdown},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::wire::*;

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

struct Running {
    address: SocketAddr,
    errors: mpsc::UnboundedReceiver<(Option<SocketAddr>, Error)>,
    _serving: JoinHandle<sockeye::Result<()>>,
}

impl Running {
    async fn start(set: impl FnOnce(Server) -> Server) -> Self {
        let (tell, errors) = mpsc::unbounded_channel();
        let server = set(Server::bind("127.0.0.1:0").await.unwrap());
        let server = server.on_error(move |peer, error| {
            let _ = tell.send((peer, error.clone()));
        });
        Self {
            address: server.local_addr().unwrap(),
            errors,
            _serving: tokio::spawn(server.serve(echo_loop)),
        }
    }

    async fn connect(&self) -> sockeye::Result<WebSocket> {
        Client::new(format!("ws://{}/", self.address))
            .connect()
            .await
    }

    /// A connection that is in use.
    async fn open(&self) -> WebSocket {
        let mut socket = within(self.connect()).await.unwrap();
        healthy(&mut socket).await;
        socket
    }

    /// The next of the errors that is about a limit.
    async fn limit(&mut self) -> Limit {
        loop {
            let (peer, error) = within(self.errors.recv()).await.unwrap();
            if let Error::Limit { limit, address } = error {
                assert!(error.is_limit());
                if limit != Limit::Connections {
                    assert_eq!(address, peer.map(|peer| peer.ip()));
                }
                return limit;
            }
        }
    }

    /// What a client is told that is not let in.
    async fn refusal(&self) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer)
    }

    /// Opens a connection as soon as there is a place.
    async fn open_when_there_is_room(&self) -> WebSocket {
        within(async {
            loop {
                match self.connect().await {
                    Ok(socket) => return socket,
                    Err(error) => {
                        assert!(error.response().is_some(), "{error}");
                        tokio::task::yield_now().await;
                    }
                }
            }
        })
        .await
    }
}

async fn echo_loop(mut socket: WebSocket) -> sockeye::Result<()> {
    while let Some(message) = socket.recv().await? {
        if message.as_text() == Some("panic") {
            panic!("a handler of the test");
        }
        socket.send(message).await?;
    }
    Ok(())
}

async fn healthy(socket: &mut WebSocket) {
    socket.send("still there?").await.unwrap();
    let echo = within(socket.recv()).await.unwrap().unwrap();
    assert_eq!(echo.as_text(), Some("still there?"));
}

fn retry_after(answer: &str) -> u64 {
    let (_, after) = answer.split_once("Retry-After: ").unwrap();
    after.split_once("\r\n").unwrap().0.parse().unwrap()
}

#[tokio::test]
async fn connections_in_all() {
    let mut server = Running::start(|server| server.max_connections(3)).await;
    let mut sockets = vec![
        server.open().await,
        server.open().await,
        server.open().await,
    ];
    for _ in 0..3 {
        let (status, answer) = server.refusal().await;
        assert_eq!(status, 503);
        assert_eq!(retry_after(&answer), 10);
        assert!(
            answer.ends_with("this server has as many connections as it may have\n"),
            "{answer}"
        );
        assert_eq!(server.limit().await, Limit::Connections);
    }
    for socket in &mut sockets {
        healthy(socket).await;
    }
    // Each that leaves makes room for one, and one that panics too.
    sockets
        .pop()
        .unwrap()
        .close(sockeye::CloseCode::NORMAL, "")
        .await
        .unwrap();
    let mut another = server.open_when_there_is_room().await;
    assert_eq!(server.refusal().await.0, 503);
    another.send("panic").await.unwrap();
    while within(another.recv())
        .await
        .is_ok_and(|message| message.is_some())
    {}
    let mut again = server.open_when_there_is_room().await;
    healthy(&mut again).await;
    healthy(&mut sockets[0]).await;
}

/// As `eprintln!` does where nobody reads that any more.
#[tokio::test]
async fn a_panic_while_it_is_told_who_is_not_let_in_harms_nobody_else() {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let server = server
        .max_connections(1)
        .on_error(|_, error| panic!("{error}"));
    let (_tell, errors) = mpsc::unbounded_channel();
    let server = Running {
        address,
        errors,
        _serving: tokio::spawn(server.serve(echo_loop)),
    };
    let mut first = server.open().await;
    for _ in 0..3 {
        assert_eq!(server.refusal().await.0, 503);
        healthy(&mut first).await;
    }
    first.close(sockeye::CloseCode::NORMAL, "").await.unwrap();
    server.open_when_there_is_room().await;
}

#[tokio::test]
async fn connections_of_an_address() {
    let mut server = Running::start(|server| server.max_connections_per_address(2)).await;
    let first = server.open().await;
    let mut second = server.open().await;
    let (status, answer) = server.refusal().await;
    assert_eq!(status, 429);
    assert_eq!(retry_after(&answer), 10);
    let words = "there are as many connections from this address as there may be\n";
    assert!(answer.ends_with(words), "{answer}");
    assert_eq!(server.limit().await, Limit::ConnectionsPerAddress);
    // Another address of this machine is another client.
    let other = Client::new(format!("ws://{}/", server.address))
        .local_address("127.0.0.2".parse::<IpAddr>().unwrap());
    let mut other = within(other.connect()).await.unwrap();
    healthy(&mut other).await;
    healthy(&mut second).await;
    drop(first);
    let mut again = server.open_when_there_is_room().await;
    healthy(&mut again).await;
}

#[tokio::test]
async fn handshakes_a_second() {
    let mut server =
        Running::start(|server| server.handshake_rate(Rate::per_second(1).burst(3))).await;
    let begin = std::time::Instant::now();
    let mut sockets = [
        server.open().await,
        server.open().await,
        server.open().await,
    ];
    // Where that took long there is soon room for another.
    if begin.elapsed() < Duration::from_millis(500) {
        let (status, answer) = server.refusal().await;
        assert_eq!(status, 429);
        assert_eq!(retry_after(&answer), 1);
        assert!(
            answer.ends_with("this address opens connections too fast\n"),
            "{answer}"
        );
        assert_eq!(server.limit().await, Limit::HandshakeRate);
    }
    let mut fourth = server.open_when_there_is_room().await;
    assert!(begin.elapsed() >= Duration::from_secs(1));
    healthy(&mut fourth).await;
    healthy(&mut sockets[0]).await;
}

/// Thousands come from one address in a test, a benchmark, or from a proxy on this machine.
#[tokio::test]
async fn by_default_this_machine_is_not_limited_by_address() {
    let server = Running::start(|server| server).await;
    let mut sockets = Vec::new();
    for _ in 0..300 {
        sockets.push(within(server.connect()).await.unwrap());
    }
    healthy(&mut sockets[299]).await;
}

#[tokio::test]
async fn a_connection_counts_once_whatever_it_is_used_for() {
    let server = Running::start(|server| server.max_connections(1)).await;
    for _ in 0..20 {
        // Refused by the rules, given up, and open: nothing of it stays.
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 ") || answer.starts_with("HTTP/1.1 503 "));
        drop(stream);
        drop(TcpStream::connect(server.address).await.unwrap());
        let mut socket = server.open_when_there_is_room().await;
        healthy(&mut socket).await;
    }
}

/// Those who connect and say nothing keep nobody out for longer than a second.
#[tokio::test]
async fn half_open_heads() {
    const MOST: usize = 50;
    let mut server = Running::start(|server| {
        let acceptor = Acceptor::new().handshake_timeout(Duration::from_secs(600));
        server.acceptor(acceptor).max_handshakes(MOST)
    })
    .await;
    let mut open = server.open().await;
    let mut silent = Vec::new();
    for _ in 0..2 * MOST {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&REQUEST.as_bytes()[..100]).await.unwrap();
        silent.push(stream);
    }
    let begin = std::time::Instant::now();
    let mut healthy_one = within(server.connect()).await.unwrap();
    healthy(&mut healthy_one).await;
    healthy(&mut open).await;
    println!(
        "{} half-open heads: served after {:?}",
        silent.len(),
        begin.elapsed()
    );
    for _ in 0..=MOST {
        assert_eq!(server.limit().await, Limit::Handshakes);
    }
    // The oldest were given up, the newest were not.
    let mut byte = [0];
    for stream in &mut silent[..MOST] {
        let read = within(stream.read(&mut byte)).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    let newest = silent.last_mut().unwrap();
    newest.write_all(&REQUEST.as_bytes()[100..]).await.unwrap();
    within(newest.read_exact(&mut byte)).await.unwrap();
}

/// However long it takes, it takes nobody's place.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn a_handshake_is_not_given_up_for_a_client_that_is_not_there() {
    let path = std::env::temp_dir().join(format!("sockeye-admission-{}", std::process::id()));
    let acceptor = Acceptor::new().on_request(|_| async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        Ok(Answer::new())
    });
    let server = Server::bind_unix(&path).unwrap().acceptor(acceptor);
    tokio::spawn(server.max_handshakes(1).serve(echo_loop));
    let client = Client::new("ws://peer/").unix_socket(&path);
    let mut socket = within(client.connect()).await.unwrap();
    healthy(&mut socket).await;
}

/// It was accepted as those are that wait with the system.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn whoever_waits_for_room_when_the_server_ends_is_opened_too() {
    let path = std::env::temp_dir().join(format!("sockeye-room-{}", std::process::id()));
    let server = Server::bind_unix(&path).unwrap().max_handshakes(1);
    let handle = server.shutdown_handle();
    tokio::spawn(server.serve(echo_loop));
    let _silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    let connecting = async { Client::new("ws://peer/").unix_socket(&path).connect().await };
    let leaving = async {
        // Both are accepted, and the first has some of its time left.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let window = Duration::from_secs(10);
        handle.shutdown(Shutdown::new().spread(window)).await
    };
    let (connected, _) = within(async { tokio::join!(connecting, leaving) }).await;
    assert_eq!(
        connected.map(drop).map_err(|error| error.to_string()),
        Ok(())
    );
}

/// A handshake that is young is never given up for another: they are accepted one after another.
#[tokio::test]
async fn many_at_once_are_served_one_after_another() {
    let mut server = Running::start(|server| server.max_handshakes(2)).await;
    let clients: Vec<_> = (0..100)
        .map(|_| {
            let client = Client::new(format!("ws://{}/", server.address));
            tokio::spawn(async move { client.connect().await })
        })
        .collect();
    for client in clients {
        let mut socket = within(client).await.unwrap().unwrap();
        healthy(&mut socket).await;
    }
    assert!(server.errors.try_recv().is_err());
}

/// What a flood costs is bounded: a refusal is written to some, others are just closed, and whoever is
/// in notices nothing.
#[tokio::test]
async fn a_flood_from_one_address() {
    let mut server = Running::start(|server| server.max_connections_per_address(1)).await;
    let mut open = server.open().await;
    let mut flood = Vec::new();
    for round in 0..600 {
        flood.push(TcpStream::connect(server.address).await.unwrap());
        if round % 100 == 0 {
            healthy(&mut open).await;
        }
    }
    let (mut told, mut closed) = (0, 0);
    for mut stream in flood {
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
        match answer.starts_with(b"HTTP/1.1 429 ") {
            true => told += 1,
            false => closed += 1,
        }
    }
    println!("of 600, {told} were told why, and {closed} closed");
    assert!(told >= 256, "{told}");
    healthy(&mut open).await;
    for _ in 0..600 {
        assert_eq!(server.limit().await, Limit::ConnectionsPerAddress);
    }
    // They hold no place: when the one leaves there is room.
    drop(open);
    let mut again = server.open_when_there_is_room().await;
    healthy(&mut again).await;
}

/// No handshake of TLS is spent on a client that is not let in.
#[cfg(feature = "tls")]
#[tokio::test]
async fn within_tls_it_is_just_closed() {
    use sockeye::server::ServerTls;

    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = certified.signing_key.serialize_pem();
    let tls = ServerTls::from_pem(certified.cert.pem().as_bytes(), key.as_bytes()).unwrap();
    let mut server =
        Running::start(|server| server.acceptor(Acceptor::new().tls(tls)).max_connections(1)).await;
    let _first = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    assert_eq!(server.limit().await, Limit::Connections);
    let mut answer = Vec::new();
    let _ = within(second.read_to_end(&mut answer)).await;
    assert_eq!(answer, b"");
}

/// The limits are the machine's, not each thread's.
#[test]
fn threads_count_together() {
    let per_core = PerCore::bind("127.0.0.1:0").unwrap().threads(3);
    let address = per_core.local_addr();
    let (stop, stopped) = oneshot::channel::<()>();
    let stopped = Mutex::new(Some(stopped));
    let client = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = Client::new(format!("ws://{address}/"));
            let mut sockets = Vec::new();
            let mut statuses = HashMap::new();
            for _ in 0..30 {
                match within(client.connect()).await {
                    Ok(socket) => sockets.push(socket),
                    Err(error) => {
                        let status = error.response().unwrap().status();
                        *statuses.entry(status).or_insert(0) += 1;
                    }
                }
            }
            assert_eq!(sockets.len(), 10);
            assert_eq!(statuses, HashMap::from([(503, 20)]));
        });
        drop(stop);
    });
    per_core
        .serve(|server| {
            let stopped = stopped.lock().unwrap().take();
            server
                .max_connections(10)
                .shutdown_on(async move {
                    match stopped {
                        Some(stopped) => drop(stopped.await),
                        None => std::future::pending().await,
                    }
                })
                .serve(echo_loop)
        })
        .unwrap();
    client.join().unwrap();
}
