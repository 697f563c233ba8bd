//! An echo server in the event form: the callbacks of a browser's `WebSocket`, and the fastest.
//!
//! `cargo run --release --example events -- 127.0.0.1:8080`

use sockeye::{Ended, Error, Handler, MessageRef, Server, Socket};

struct Echo;

impl Handler for Echo {
    fn on_open(&mut self, socket: &mut Socket) {
        println!("open: {:?}", socket.peer_addr());
    }

    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }

    fn on_error(&mut self, _: &mut Socket, error: &Error) {
        println!("error: {error}");
    }

    fn on_close(&mut self, _: &mut Socket, ended: &Ended) {
        println!("close: {ended}");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let server = Server::bind(address).await?;
    println!("ws://{}/", server.local_addr()?);
    server.serve_handler(|| Echo).await
}
