//! `wss` with a certificate authority of one's own, in both roles.
//!
//! `tests/make-certificates.sh tls && cargo run --example wss -- tls/server.pem tls/server.key tls/ca.pem`

use sockeye::{Acceptor, Client, CloseCode, Error, Server, client::ClientTls, server::ServerTls};

#[tokio::main(flavor = "current_thread")]
async fn main() -> sockeye::Result<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    let [chain, key, ca] = &files[..] else {
        return Err(Error::other(
            "needs three PEM files: chain, key and the authority",
        ));
    };
    let acceptor = Acceptor::new().tls(ServerTls::from_pem_files(chain, key)?);
    let server = Server::bind("127.0.0.1:0").await?.acceptor(acceptor);
    let port = server.local_addr()?.port();
    tokio::spawn(server.serve(|mut socket| async move {
        socket.send("Добро пожаловать на сервер!").await
    }));

    let ca = std::fs::read(ca).map_err(Error::other)?;
    let client = Client::new(format!("wss://localhost:{port}/")).tls(ClientTls::new().ca_pem(&ca)?);
    let mut socket = client.connect().await?;
    while let Some(message) = socket.recv().await? {
        println!("{message}");
    }
    assert_eq!(
        socket.ended().map(|ended| ended.code()),
        Some(CloseCode::NORMAL.into())
    );
    Ok(())
}
