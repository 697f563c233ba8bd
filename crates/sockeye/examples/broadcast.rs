//! Gives every message to everyone who is connected: compressed once, and nobody waits for anybody.
//!
//! `cargo run --example broadcast -- 127.0.0.1:8080`

use sockeye::{Groups, Result, Server, WebSocket};

async fn visit(mut socket: WebSocket, groups: Groups) -> Result<()> {
    // Leaves when it is dropped, at the end of this function.
    let _member = groups.member(socket.sender());
    while let Some(message) = socket.recv().await? {
        // Whoever does not read, so that 8 MiB wait for it, is closed.
        groups.send_to_all(message);
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let server = Server::bind(address).await?;
    println!("ws://{}", server.local_addr()?);
    let groups = Groups::new();
    server
        .serve(move |socket| visit(socket, groups.clone()))
        .await
}
