//! yawc. Batched, with the buffers that its own benchmark is tuned with.

use futures_util::{SinkExt, StreamExt};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use yawc::{
    CompressionLevel, DeflatePool, Frame, OpCode, Options, Role, WebSocket, WebSocketError,
};

mod serve;

const EXTENSIONS: &str =
    "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

fn main() {
    let (form, address) = serve::arguments();
    let options: &'static Options = Box::leak(Box::new(options(form)));
    let deflate = options.compression.is_some();
    serve!(address, mut stream => async move {
            if form == "hyper" {
                return behind_hyper(stream, options).await;
            }
            let agreed = serve::upgrade(&mut stream, deflate.then_some(EXTENSIONS)).await?;
            let mut socket = WebSocket::from_stream_with_extensions(
                stream,
                Role::Server,
                agreed.then_some(EXTENSIONS),
                options.clone(),
            )?;
            echo!(socket, form, is_data);
            Ok::<(), WebSocketError>(())
    });
}

fn is_data(frame: &Frame) -> bool {
    matches!(frame.opcode(), OpCode::Text | OpCode::Binary)
}

/// The opening handshake as its documentation has it.
async fn behind_hyper<S>(stream: S, options: &'static Options) -> Result<(), WebSocketError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| async move {
        let (response, socket) = WebSocket::upgrade_with_options(&mut request, options.clone())?;
        tokio::spawn(async move {
            let mut socket = socket.await?;
            echo!(socket, "loop", is_data);
            Ok::<(), WebSocketError>(())
        });
        Ok::<_, WebSocketError>(response)
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    Ok(())
}

fn options(form: &str) -> Options {
    // What the others do by default: text is validated, 16 MiB are taken.
    let mut options = Options::default()
        .with_utf8()
        .with_limits(16 << 20, 32 << 20);
    if form == "batched" {
        options = options
            .with_read_buffer_capacity(128 * 1024)
            .with_backpressure_boundary(serve::BATCH);
    }
    if let Ok(level) = std::env::var("ECHO_LEVEL") {
        let level = CompressionLevel::new(level.parse().expect("ECHO_LEVEL is a number"));
        options = options
            .with_compression_level(level)
            .with_deflate_pool(DeflatePool::new(4))
            .server_no_context_takeover()
            .client_no_context_takeover();
    }
    options
}

impl serve::IntoResult<WebSocketError> for Frame {
    type Item = Frame;
    fn into_result(self) -> Result<Frame, WebSocketError> {
        Ok(self)
    }
}
