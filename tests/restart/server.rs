//! A server of the rolling restart: it echoes, and leaves when it is told to.

use std::{
    io::{BufRead, stdin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sockeye::{
    Acceptor, Server,
    server::{Listener, Shutdown},
};
use tokio::{runtime, time::sleep};

use crate::Result;

/// The reason in every Close.
pub(crate) const REASON: &str = "the next version is there";

pub(crate) fn run(name: &str, address: &str) -> Result<()> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(name.into(), address.into()))
}

async fn serve(name: Arc<str>, address: String) -> Result<()> {
    let listener = Listener::reuse_port(address.as_str()).await?;
    // Patient with this machine, which may have other things to do.
    let acceptor = Acceptor::new().close_timeout(Duration::from_secs(30));
    let server = Server::from_listener(listener).acceptor(acceptor);
    let handle = server.shutdown_handle();
    println!("listening {}", server.local_addr()?);
    let accepted = Arc::new(AtomicU64::new(0));
    let count = accepted.clone();
    let serving = tokio::spawn(server.serve(move |mut socket| {
        let (name, accepted) = (name.clone(), count.clone());
        async move {
            while let Some(message) = socket.recv().await? {
                let number = accepted.fetch_add(1, Ordering::Relaxed);
                // It has something to do with each, so that many are in hand when their turn comes.
                sleep(Duration::from_millis(number % 50)).await;
                socket.send(format!("{name} {message}")).await?;
            }
            Ok(())
        }
    }));
    let order = tokio::task::spawn_blocking(|| stdin().lock().lines().next()).await?;
    let order = order.ok_or("nobody says when to leave")??;
    let window = order
        .strip_prefix("leave ")
        .ok_or("this order is not understood")?;
    let window = Duration::from_millis(window.parse()?);
    let how = match window.is_zero() {
        true => Shutdown::new(),
        false => Shutdown::restart().spread(window).reason(REASON),
    };
    let farewell = handle.shutdown(how.patience(Duration::from_secs(20))).await;
    serving.await??;
    println!(
        "left {} {} {} {} {farewell}",
        accepted.load(Ordering::Relaxed),
        farewell.connections.len(),
        farewell.closed(),
        farewell.cut(),
    );
    // Until then the other process looks at what is left.
    tokio::task::spawn_blocking(|| stdin().lock().lines().next()).await?;
    Ok(())
}
