//! tokio-websockets, as in its own benchmark: no limits, frames of any size, `unconstrained`.
//! `next` writes what was fed, so that batched, all that has arrived is taken before it is fed.

use std::task::Poll;

use futures_util::{SinkExt, StreamExt, poll};
use tokio_websockets::{Config, Error, Limits, Message, ServerBuilder};

mod serve;

fn main() {
    let (form, address) = serve::arguments();
    serve!(address, stream => tokio::task::unconstrained(async move {
            let mut config = Config::default().frame_size(usize::MAX);
            if form == "batched" {
                config = config.flush_threshold(serve::BATCH);
            }
            let (_, mut socket) = ServerBuilder::new()
                .config(config)
                .limits(Limits::unlimited())
                .accept(stream)
                .await?;
            let is_data = |message: &Message| message.is_text() || message.is_binary();
            if form == "loop" {
                echo!(socket, form, is_data);
            } else {
                let mut arrived = Vec::new();
                while let Some(message) = socket.next().await {
                    arrived.push(message?);
                    while let Poll::Ready(Some(message)) = poll!(socket.next()) {
                        arrived.push(message?);
                    }
                    for message in arrived.drain(..).filter(is_data) {
                        socket.feed(message).await?;
                    }
                    socket.flush().await?;
                }
            }
            Ok::<(), Error>(())
    }));
}
