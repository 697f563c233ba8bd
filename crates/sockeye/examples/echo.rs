//! An echo server in the async form.
//!
//! `cargo run --release --example echo -- 127.0.0.1:8080`

use sockeye::Server;

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let server = Server::bind(address).await?;
    println!("ws://{}/", server.local_addr()?);
    server
        .serve(|mut socket| async move {
            while let Some(message) = socket.recv().await? {
                socket.send(message).await?;
            }
            Ok(())
        })
        .await
}
