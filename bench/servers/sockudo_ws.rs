//! sockudo-ws.

use futures_util::{SinkExt, StreamExt};
use sockudo_ws::{
    CompressedWebSocketStream, Config, Error, Message, WebSocketStream, deflate::DeflateConfig,
    handshake::server_handshake,
};

mod serve;

const EXTENSIONS: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn main() {
    let (form, address) = serve::arguments();
    let deflate = std::env::var("ECHO_LEVEL").ok().map(|level| {
        &*Box::leak(Box::new(DeflateConfig {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            compression_level: level.parse().expect("ECHO_LEVEL is a number"),
            ..DeflateConfig::default()
        }))
    });
    // No timers of its own: nothing is to be said on a connection that is only open.
    let config = || Config {
        idle_timeout: 0,
        auto_ping: false,
        ..Config::default()
    };
    let data = |message: &Message| matches!(message, Message::Text(_) | Message::Binary(_));
    serve!(address, mut stream => async move {
            match deflate {
                None => {
                    server_handshake(&mut stream).await?;
                    let mut socket = WebSocketStream::server(stream, config());
                    echo!(socket, form, data);
                }
                Some(deflate) => {
                    serve::upgrade(&mut stream, Some(EXTENSIONS)).await?;
                    let mut socket =
                        CompressedWebSocketStream::server(stream, config(), deflate.clone());
                    echo!(socket, form, data);
                }
            }
            Ok::<(), Error>(())
    });
}
