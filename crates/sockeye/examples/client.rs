//! A client: says hello, prints what comes back, and closes.
//!
//! `cargo run --example client -- ws://127.0.0.1:8080/`

use sockeye::CloseCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("ws://127.0.0.1:8080/".into());
    let mut socket = sockeye::connect(url).await?;
    socket.send("Привет").await?;
    if let Some(message) = socket.recv().await? {
        println!("Получено сообщение: {message}");
    }
    socket
        .close(CloseCode::NORMAL, "Завершаю соединение")
        .await?;
    if let Some(ended) = socket.ended() {
        println!("{ended}");
    }
    Ok(())
}
