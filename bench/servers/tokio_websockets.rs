//! tokio-websockets, as in its own benchmark: no limits, frames of any size, `unconstrained`.

use futures_util::{SinkExt, StreamExt};
use tokio_websockets::{Config, Error, Limits, Message, ServerBuilder};

mod serve;

fn main() {
    let (form, address) = serve::arguments();
    serve::serve(&address, |stream| {
        let form = form.clone();
        tokio::task::unconstrained(async move {
            let mut config = Config::default().frame_size(usize::MAX);
            if form == "batched" {
                config = config.flush_threshold(serve::BATCH);
            }
            let (_, mut socket) = ServerBuilder::new()
                .config(config)
                .limits(Limits::unlimited())
                .accept(stream)
                .await?;
            echo!(socket, form, |message: &Message| message.is_text()
                || message.is_binary());
            Ok::<(), Error>(())
        })
    });
}
