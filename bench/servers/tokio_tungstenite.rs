//! tokio-tungstenite. Batched, with a read buffer of 16 KiB: it clears the buffer before every
//! read, and the 128 KiB of its default cost more than they save.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{
    accept_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

mod serve;

fn main() {
    let (form, address) = serve::arguments();
    serve!(address, stream => async move {
            let mut config = WebSocketConfig::default();
            if form == "batched" {
                config = config.read_buffer_size(16 * 1024);
            }
            let mut socket = accept_async_with_config(stream, Some(config)).await?;
            echo!(socket, form, |message: &Message| message.is_text()
                || message.is_binary());
            Ok::<(), Error>(())
    });
}
