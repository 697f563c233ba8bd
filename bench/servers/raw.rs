//! The floor: a TCP echo on tokio that knows nothing of WebSocket.

use std::{cell::RefCell, convert::Infallible, future::poll_fn, pin::Pin, task::ready};

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
    let (_, address) = serve::arguments();
    serve::serve(&address, |mut stream| async move {
        // How it ends does not matter.
        let _ = echo(&mut stream).await;
        Ok::<(), Infallible>(())
    });
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
