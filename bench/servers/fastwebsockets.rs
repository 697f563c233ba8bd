//! fastwebsockets, as in its documentation: `after_handshake`, whole messages, `unconstrained`.
//! It writes every message at once; batched, that goes into a stream that gathers.

use fastwebsockets::{FragmentCollector, OpCode, Role, WebSocket, WebSocketError, upgrade};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

mod serve;

fn main() {
    let (form, address) = serve::arguments();
    serve!(address, mut stream => tokio::task::unconstrained(async move {
        match form {
            "hyper" => behind_hyper(stream).await,
            "batched" => {
                serve::upgrade(&mut stream, None).await?;
                echo(after_handshake(serve::Batch::new(stream))).await
            }
            _ => {
                serve::upgrade(&mut stream, None).await?;
                echo(after_handshake(stream)).await
            }
        }
    }));
}

/// The opening handshake as its documentation has it.
async fn behind_hyper<S>(stream: S) -> Result<(), WebSocketError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|mut request: Request<Incoming>| async move {
        let (response, socket) = upgrade::upgrade(&mut request)?;
        tokio::spawn(tokio::task::unconstrained(async move {
            echo(socket.await?).await
        }));
        Ok::<_, WebSocketError>(response)
    });
    http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await?;
    Ok(())
}

fn after_handshake<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> WebSocket<S> {
    WebSocket::after_handshake(stream, Role::Server)
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocket<S>,
) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
