//! Gives every message to everyone who is connected: compressed once, and nobody waits for anybody.
//!
//! `cargo run --example broadcast -- 127.0.0.1:8080`

use std::sync::{Arc, Mutex, PoisonError};

use sockeye::{Prepared, Result, Sender, Server, WebSocket};

#[derive(Clone, Default)]
struct Room(Arc<Mutex<Vec<Sender>>>);

impl Room {
    fn with<R>(&self, work: impl FnOnce(&mut Vec<Sender>) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn visit(mut socket: WebSocket, room: Room) -> Result<()> {
    room.with(|members| members.push(socket.sender()));
    while let Some(message) = socket.recv().await? {
        let message = Prepared::new(message);
        // Whoever reads too slowly misses it; whoever has left is forgotten.
        let stays = |sent: Result<()>| sent.map_or_else(|error| error.is_full(), |()| true);
        room.with(|members| members.retain(|member| stays(member.try_send(&message))));
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let server = Server::bind(address).await?;
    println!("ws://{}", server.local_addr()?);
    let room = Room::default();
    server
        .serve(move |socket| visit(socket, room.clone()))
        .await
}
