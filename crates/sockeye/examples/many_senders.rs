//! Many tasks send on one socket. Each message goes out whole.
//!
//! `cargo run --example many_senders -- ws://127.0.0.1:8080/`

use sockeye::CloseCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("ws://127.0.0.1:8080/".into());
    let mut socket = sockeye::connect(url).await?;
    for task in 0..10 {
        let sender = socket.sender();
        tokio::spawn(async move {
            for number in 0..10 {
                sender
                    .send(format!("task {task}, message {number}"))
                    .await?;
            }
            Ok::<_, sockeye::Error>(())
        });
    }
    let mut received = 0;
    while received < 100 && socket.recv().await?.is_some() {
        received += 1;
    }
    println!("{received} messages came back");
    socket.close(CloseCode::NORMAL, "").await
}
