//! The floor: a TCP echo on tokio that knows nothing of WebSocket; the same on epoll alone, to tell what
//! tokio's part in it is; and what comes from one given to all, as it came.

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
    match form {
        "broadcast" => serve::serve(address, |stream| broadcast(stream.into())),
        "epoll" => epoll::serve(address),
        _ => {}
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

/// Without a runtime: a loop that waits for what has become readable or writable.
mod epoll {
    use std::io::{self, ErrorKind::WouldBlock, Read, Write};

    use mio::{
        Events, Interest, Poll, Token,
        net::{TcpListener, TcpStream},
    };

    use super::HOT;

    struct Connection {
        stream: TcpStream,
        /// What did not fit into the socket at once.
        rest: Vec<u8>,
    }

    pub fn serve(address: &str) {
        let mut poll = Poll::new().expect("epoll is there");
        let address = address.parse().expect("an address and a port");
        let mut listener = TcpListener::bind(address).expect("the address is free");
        // Its token is that of no connection.
        let listening = Token(usize::MAX);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registered = (poll.registry()).register(&mut listener, listening, interest);
        registered.expect("it can be waited for");
        let mut connections: Vec<Option<Connection>> = Vec::new();
        let mut free = Vec::new();
        let mut events = Events::with_capacity(1024);
        loop {
            // Nothing else interrupts it than a debugger.
            let _ = poll.poll(&mut events, None);
            for event in &events {
                let at = event.token().0;
                if event.token() == listening {
                    while let Ok((mut stream, _)) = listener.accept() {
                        let _ = stream.set_nodelay(true);
                        let at = free.pop().unwrap_or(connections.len());
                        if at == connections.len() {
                            connections.push(None);
                        }
                        let registered = poll.registry().register(&mut stream, Token(at), interest);
                        registered.expect("it can be waited for");
                        let rest = Vec::new();
                        connections[at] = Some(Connection { stream, rest });
                    }
                } else if let Some(connection) = &mut connections[at]
                    && !matches!(connection.echo(), Err(error) if error.kind() == WouldBlock)
                {
                    connections[at] = None;
                    free.push(at);
                }
            }
        }
    }

    impl Connection {
        /// Echoes until it would have to wait, or is at its end.
        fn echo(&mut self) -> io::Result<()> {
            while !self.rest.is_empty() {
                let written = self.stream.write(&self.rest)?;
                self.rest.drain(..written);
            }
            HOT.with_borrow_mut(|hot| {
                loop {
                    let read = match self.stream.read(hot)? {
                        0 => return Ok(()),
                        read => read,
                    };
                    let written = match self.stream.write(&hot[..read]) {
                        Err(error) if error.kind() == WouldBlock => 0,
                        other => other?,
                    };
                    self.rest = hot[written..read].to_vec();
                    // Less than there was room for is all there is, as tokio has it too.
                    if read < hot.len() || !self.rest.is_empty() {
                        return Err(WouldBlock.into());
                    }
                }
            })
        }
    }
}
