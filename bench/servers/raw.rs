//! The floor: a TCP echo on tokio that knows nothing of WebSocket; and what comes from one given to
//! all, as it came.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex},
    task::ready,
};

use tokio::{
    io::{AsyncRead, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};

mod serve;

/// Large messages go through it in several pieces; more at once costs less.
const BUFFER: usize = 256 * 1024;

thread_local! {
    /// One for all connections: it is in the cache whoever is served.
    static HOT: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

fn main() {
    let (form, address) = serve::arguments();
    if form == "broadcast" {
        serve::serve(address, |stream| broadcast(stream.into()));
    }
    serve::serve(address, |mut stream| async move {
        // How it ends does not matter.
        let _ = echo(&mut stream).await;
        Ok::<(), Infallible>(())
    });
}

/// Everyone who is connected.
static MEMBERS: Mutex<Vec<Arc<TcpStream>>> = Mutex::new(Vec::new());

async fn broadcast(stream: Arc<TcpStream>) -> std::io::Result<()> {
    MEMBERS.lock().expect("nobody panics").push(stream.clone());
    let mut buffer = [0; 4096];
    loop {
        stream.readable().await?;
        match stream.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                for member in &*MEMBERS.lock().expect("nobody panics") {
                    // They read all that they are given.
                    let _ = member.try_write(&buffer[..count]);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    loop {
        // What did not fit into the socket at once.
        let rest = poll_fn(|cx| {
            HOT.with_borrow_mut(|hot| {
                let mut buffer = ReadBuf::new(hot);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                let bytes = buffer.filled();
                if bytes.is_empty() {
                    return std::task::Poll::Ready(Ok(None));
                }
                let written = match stream.try_write(bytes) {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
                    other => other?,
                };
                std::task::Poll::Ready(Ok::<_, std::io::Error>(Some(bytes[written..].to_vec())))
            })
        })
        .await?;
        match rest {
            None => return Ok(()),
            Some(rest) if rest.is_empty() => {}
            Some(rest) => stream.write_all(&rest).await?,
        }
    }
}
