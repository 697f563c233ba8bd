//! fastwebsockets, as in its documentation: `after_handshake`, whole messages, `unconstrained`.
//! It writes every message at once; batched, that goes into a stream that gathers.

use fastwebsockets::{FragmentCollector, OpCode, Role, WebSocket, WebSocketError};
use tokio::io::{AsyncRead, AsyncWrite};

mod serve;

fn main() {
    let (form, address) = serve::arguments();
    let batched = form == "batched";
    serve::serve(&address, |mut stream| {
        tokio::task::unconstrained(async move {
            serve::upgrade(&mut stream, None).await?;
            if batched {
                echo(serve::Batch::new(stream)).await
            } else {
                echo(stream).await
            }
        })
    });
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<(), WebSocketError> {
    let mut socket = FragmentCollector::new(WebSocket::after_handshake(stream, Role::Server));
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Close => return Ok(()),
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            _ => {}
        }
    }
}
