//! Gives every message to everyone who is connected: compressed once, and nobody waits for anybody.
//!
//! `cargo run --example broadcast -- 127.0.0.1:8080`

use std::sync::{Arc, Mutex, PoisonError};

use sockeye::{Prepared, Sender, Server};

type Room = Arc<Mutex<Vec<Sender>>>;

fn publish(room: &Room, message: &Prepared) {
    let mut members = room.lock().unwrap_or_else(PoisonError::into_inner);
    // Whoever reads too slowly misses a message; whoever has left is forgotten.
    members.retain(|member| match member.try_send(message) {
        Err(error) => error.is_full(),
        Ok(()) => true,
    });
}

#[tokio::main]
async fn main() -> sockeye::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let server = Server::bind(address).await?;
    println!("ws://{}", server.local_addr()?);
    let room = Room::default();
    let serve = move |mut socket: sockeye::WebSocket| {
        let room = room.clone();
        async move {
            let mut members = room.lock().unwrap_or_else(PoisonError::into_inner);
            members.push(socket.sender());
            drop(members);
            while let Some(message) = socket.recv().await? {
                publish(&room, &Prepared::new(message));
            }
            Ok(())
        }
    };
    server.serve(serve).await
}
