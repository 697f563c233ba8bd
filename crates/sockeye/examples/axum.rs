//! A page and a socket from the same port of an axum application.
//!
//! `cargo run --release --features axum --example axum -- 127.0.0.1:8080`

use axum::{
    Router,
    response::{Html, Response},
    routing::get,
};
use sockeye::axum::WebSocketUpgrade;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let app = Router::new()
        .route("/", get(|| async { Html("<h1>Добро пожаловать</h1>") }))
        .route("/socket", get(socket));
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("ws://{}/socket", listener.local_addr()?);
    axum::serve(listener, app).await
}

async fn socket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(|mut socket| async move {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    })
}
