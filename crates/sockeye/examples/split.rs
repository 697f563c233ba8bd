//! The halves of a socket in two tasks: one sends, one receives.
//!
//! `cargo run --example split -- ws://127.0.0.1:8080/`

use sockeye::CloseCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("ws://127.0.0.1:8080/".into());
    let (sender, mut receiver) = sockeye::connect(url).await?.split();

    let sending = tokio::spawn(async move {
        for number in 1..=3 {
            sender.send(format!("message {number}")).await?;
        }
        // Closing works from the sending half; what still comes is received until the peer closes.
        sender.close(CloseCode::NORMAL, "that was all").await?;
        Ok::<_, sockeye::Error>(sender)
    });
    while let Some(message) = receiver.recv().await? {
        println!("{message}");
    }

    let sender = sending.await.map_err(sockeye::Error::other)??;
    let socket = receiver.reunite(sender).expect("two halves of one socket");
    println!(
        "{}",
        socket.ended().expect("it has been received to its end")
    );
    Ok(())
}
