//! A page's WebSocket, line by line: says hello, prints what comes back, and closes.
//!
//! `cargo run --example browser -- ws://127.0.0.1:8080/`

use sockeye::browser::{Exception, WebSocket};

#[tokio::main]
async fn main() -> Result<(), Exception> {
    let url = std::env::args()
        .nth(1)
        .unwrap_or("ws://127.0.0.1:8080/".into());
    let socket = WebSocket::new(&url)?;
    socket.on_open(|event| {
        println!("Соединение открыто");
        event.target.send("Привет").expect("it is open");
    });
    socket.on_message(|event| {
        println!("Получено сообщение: {}", event.data);
        let closed = event.target.close(1000, "Завершаю соединение");
        closed.expect("the code and the reason are allowed");
    });
    socket.on_close(|_| println!("Соединение закрыто"));
    socket.on_error(|error| println!("Ошибка: {}", error.message));
    socket.closed().await;
    Ok(())
}
