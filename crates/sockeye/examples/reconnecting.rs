//! A client that stays connected: says what happens, and prints three messages over as many
//! connections as that takes.
//!
//! `cargo run --example reconnecting -- ws://127.0.0.1:8080/`

use sockeye::{
    Client, CloseCode,
    client::{Reconnecting, Update},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("ws://127.0.0.1:8080/".into());
    let mut socket = Reconnecting::new(Client::new(url)).on_open(|mut socket| async move {
        socket.send("subscribe").await?;
        Ok(socket)
    });
    let mut received = 0;
    while let Some(update) = socket.recv_update().await? {
        match update {
            Update::Message(message) => {
                println!("{message}");
                received += 1;
                match received {
                    3 => socket.close(CloseCode::NORMAL, "").await?,
                    _ => socket.send(format!("message {received}")).await?,
                }
            }
            Update::Open => println!("open"),
            Update::Waiting { cause, .. } => println!("{cause}"),
            _ => {}
        }
    }
    Ok(())
}
