//! tokio-tungstenite.

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{
    accept_async,
    tungstenite::{Error, Message},
};

mod serve;

fn main() {
    let (form, address) = serve::arguments();
    serve::serve(&address, |stream| {
        let form = form.clone();
        async move {
            let mut socket = accept_async(stream).await?;
            echo!(socket, form, |message: &Message| message.is_text()
                || message.is_binary());
            Ok::<(), Error>(())
        }
    });
}
