//! Sockeye: the event form and the async form.

use sockeye::{
    Acceptor, DeflateConfig, Handler, MessageRef, Server, Socket, proto::deflate::Level,
    server::ServerTls,
};

mod serve;

struct Echo;

impl Handler for Echo {
    fn on_message(&mut self, socket: &mut Socket, message: MessageRef<'_>) {
        socket.send(message);
    }
}

fn main() -> sockeye::Result<()> {
    let (form, address) = serve::arguments();
    serve::run(async {
        let server = Server::bind(address).await?.acceptor(acceptor()?);
        if form == "events" {
            return server.serve_handler(|| Echo).await;
        }
        server
            .serve(|mut socket| async move {
                while let Some(message) = socket.recv().await? {
                    socket.send(message).await?;
                }
                Ok(())
            })
            .await
    })
}

/// Compression at `ECHO_LEVEL`, TLS with a certificate of its own where `ECHO_TLS` is set.
fn acceptor() -> sockeye::Result<Acceptor> {
    let mut acceptor = Acceptor::new();
    if let Ok(level) = std::env::var("ECHO_LEVEL") {
        let level = level.parse().ok().and_then(Level::new);
        acceptor = acceptor.deflate(DeflateConfig {
            level: level.expect("ECHO_LEVEL is a level of zlib"),
            ..DeflateConfig::default()
        });
    }
    if std::env::var_os("ECHO_TLS").is_some() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])
            .expect("a certificate can be made");
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        acceptor = acceptor.tls(ServerTls::from_pem(chain.as_bytes(), key.as_bytes())?);
    }
    Ok(acceptor)
}
