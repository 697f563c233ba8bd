//! A server a core: every thread has its share of the connections, and all end together.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    panic::AssertUnwindSafe,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use sockeye::{Error, Handler, MessageRef, PerCore, Result, Socket, WebSocket, server::Shutdown};
use tokio::sync::watch;

use crate::wire::within;

/// Runs a server in a thread of its own, and clients here; then ends the server by its signal.
fn with_server<T>(threads: usize, clients: impl AsyncFnOnce(SocketAddr) -> T) -> (Result<()>, T) {
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(threads);
    let address = server.local_addr();
    let (stop, stopped) = watch::channel(false);
    let serving = thread::spawn(move || {
        server.serve(|server| {
            let mut stopped = stopped.clone();
            let signal = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
            server.shutdown_on(signal).serve(name_thread)
        })
    });
    let result = block_on(clients(address));
    stop.send_replace(true);
    (serving.join().unwrap(), result)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().unwrap();
    runtime.block_on(within(future))
}

/// Says which thread it runs on, whenever asked.
async fn name_thread(mut socket: WebSocket) -> Result<()> {
    while socket.recv().await?.is_some() {
        socket.send(thread::current().name().unwrap()).await?;
    }
    Ok(())
}

async fn ask(socket: &mut WebSocket) -> String {
    socket.send("who are you?").await.unwrap();
    socket.recv().await.unwrap().unwrap().to_string()
}

#[test]
fn every_thread_has_its_share_and_keeps_it() {
    for threads in [1, 2, 4] {
        let (ended, shares) = with_server(threads, async |address| {
            let mut sockets = Vec::new();
            let mut shares = HashMap::new();
            for _ in 0..100 {
                let mut socket = sockeye::connect(format!("ws://{address}/")).await.unwrap();
                let name = ask(&mut socket).await;
                *shares.entry(name.clone()).or_insert(0) += 1;
                sockets.push((socket, name));
            }
            for (socket, name) in &mut sockets {
                assert_eq!(ask(socket).await, *name);
            }
            shares
        });
        ended.unwrap();
        assert_eq!(shares.len(), threads, "{shares:?}");
        for number in 0..threads {
            // By the system's hash of the ports: none is left out, for all that is likely.
            assert!(shares[&format!("sockeye-{number}")] >= 5, "{shares:?}");
        }
    }
}

#[test]
fn it_listens_from_the_beginning() {
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(2);
    let address = server.local_addr();
    assert_ne!(address.port(), 0);
    // Accepted by the system, and served once the server runs.
    let early = TcpStream::connect(address).unwrap();
    let (stop, stopped) = watch::channel(false);
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            server.serve(|server| {
                let mut stopped = stopped.clone();
                let signal = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
                server.shutdown_on(signal).serve(name_thread)
            })
        });
        block_on(async {
            early.set_nonblocking(true).unwrap();
            let early = tokio::net::TcpStream::from_std(early).unwrap();
            let client = sockeye::Client::new(format!("ws://{address}/"));
            let mut socket = client.connect_over(early).await.unwrap();
            assert!(ask(&mut socket).await.starts_with("sockeye-"));
        });
        stop.send_replace(true);
        serving.join().unwrap().unwrap();
    });
}

#[test]
fn a_signal_that_one_thread_has_ends_all_with_1001() {
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(3);
    let address = server.local_addr();
    let (stop, stopped) = watch::channel(false);
    // The first thread that asks gets the signal, the others none.
    let stopped = Mutex::new(Some(stopped));
    thread::scope(|scope| {
        let serving = scope.spawn(|| {
            server.serve(|server| {
                let server = match stopped.lock().unwrap().take() {
                    None => server,
                    Some(mut stopped) => server.shutdown_on(async move {
                        drop(stopped.wait_for(|stopped| *stopped).await);
                    }),
                };
                server.serve(name_thread)
            })
        });
        block_on(async {
            let mut sockets = Vec::new();
            for _ in 0..60 {
                let mut socket = sockeye::connect(format!("ws://{address}/")).await.unwrap();
                ask(&mut socket).await;
                sockets.push(socket);
            }
            stop.send_replace(true);
            for socket in &mut sockets {
                assert_eq!(socket.recv().await.unwrap(), None);
                let ended = socket.ended().unwrap();
                assert_eq!(ended.code(), 1001, "{ended}");
            }
        });
        serving.join().unwrap().unwrap();
    });
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_handle_ends_all_threads_and_tells_of_every_connection() {
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(3);
    let (address, handle) = (server.local_addr(), server.shutdown_handle());
    let serving = thread::spawn(move || server.serve(|server| server.serve(name_thread)));
    block_on(async {
        let mut sockets = Vec::new();
        for _ in 0..60 {
            let mut socket = sockeye::connect(format!("ws://{address}/")).await.unwrap();
            ask(&mut socket).await;
            sockets.push(socket);
        }
        let how = Shutdown::restart().spread(Duration::from_millis(200));
        let farewell = handle.shutdown(how);
        for socket in &mut sockets {
            assert_eq!(socket.recv().await.unwrap(), None);
            assert_eq!(socket.ended().unwrap().code(), 1012);
        }
        let farewell = farewell.await;
        assert_eq!((farewell.closed(), farewell.connections.len()), (60, 60));
    });
    serving.join().unwrap().unwrap();
}

#[test]
fn an_error_of_one_thread_ends_all_and_is_returned() {
    let number = AtomicUsize::new(0);
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(3);
    let ended = server.serve(|server| {
        let fails = number.fetch_add(1, Ordering::Relaxed) == 1;
        async move {
            if fails {
                return Err(Error::other("no database"));
            }
            server.serve(name_thread).await
        }
    });
    assert_eq!(ended.unwrap_err().to_string(), "no database");
    assert_eq!(number.into_inner(), 3);
}

#[test]
fn a_panic_of_one_thread_ends_all_and_goes_on() {
    let number = AtomicUsize::new(0);
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(3);
    let address = server.local_addr();
    let ended = std::panic::catch_unwind(AssertUnwindSafe(|| {
        server.serve(|server| {
            let panics = number.fetch_add(1, Ordering::Relaxed) == 2;
            async move {
                assert!(!panics, "a bug");
                server.serve(name_thread).await
            }
        })
    }));
    let panic = ended.unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"a bug"));
    assert!(TcpStream::connect(address).is_err());
}

/// Panics at once; the others go on.
struct Fragile;

impl Handler for Fragile {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        assert_ne!(message.as_text(), Some("break"), "it was asked to");
        socket.send(message);
    }
}

#[test]
fn a_handler_that_panics_ends_its_own_connection_alone() {
    let server = PerCore::bind("127.0.0.1:0").unwrap().threads(1);
    let address = server.local_addr();
    let (stop, stopped) = watch::channel(false);
    let serving = thread::spawn(move || {
        server.serve(|server| {
            let mut stopped = stopped.clone();
            let signal = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
            server.shutdown_on(signal).serve_handler(|| Fragile)
        })
    });
    block_on(async {
        let mut breaks = sockeye::connect(format!("ws://{address}/")).await.unwrap();
        let mut stays = sockeye::connect(format!("ws://{address}/")).await.unwrap();
        breaks.send("break").await.unwrap();
        let _ = breaks.recv().await;
        assert_eq!(breaks.ended().unwrap().code(), 1011);
        stays.send("still here?").await.unwrap();
        let echo = stays.recv().await.unwrap().unwrap();
        assert_eq!(echo.as_text(), Some("still here?"));
    });
    stop.send_replace(true);
    serving.join().unwrap().unwrap();
}

#[test]
fn an_address_that_is_taken() {
    // Without SO_REUSEPORT: nobody can share it.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let error = PerCore::bind(taken.local_addr().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }), "{error:?}");
    let address = taken.local_addr().unwrap().to_string();
    assert!(error.to_string().contains(&address), "{error}");
    assert!(PerCore::bind("no address at all").is_err());
}

#[test]
fn within_a_deadline_even_where_a_peer_does_not_close() {
    let began = std::time::Instant::now();
    let (ended, ()) = with_server(2, async |address| {
        // Opens, and then reads no more.
        let mut socket = sockeye::connect(format!("ws://{address}/")).await.unwrap();
        ask(&mut socket).await;
        std::mem::forget(socket);
    });
    ended.unwrap();
    assert!(began.elapsed() < Duration::from_secs(15));
}
