//! Both ends on a stream of one's own: here a pipe in memory; it could be a tunnel or a serial line.
//!
//! `cargo run --example own_stream`

use sockeye::{Client, CloseCode};

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let server = tokio::spawn(async move {
        let mut socket = sockeye::accept(far).await?;
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok::<_, sockeye::Error>(())
    });

    let mut socket = Client::new("ws://pipe/").connect_over(near).await?;
    socket.send("through the pipe").await?;
    if let Some(message) = socket.recv().await? {
        println!("{message}");
    }
    socket.close(CloseCode::NORMAL, "").await?;
    server.await.map_err(sockeye::Error::other)?
}
