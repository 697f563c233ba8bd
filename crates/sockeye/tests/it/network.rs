//! Servers and proxies on loopback that remember what they were asked.

use std::{
    future::ready,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use sockeye::{
    Acceptor, Client, CloseCode, Server,
    client::ClientTls,
    server::{Answer, Refusal, Request, ServerTls},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::wire::within;

/// What was asked, in the order in which it came.
#[derive(Clone)]
pub struct Seen<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone> Seen<T> {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn push(&self, item: T) {
        self.0.lock().unwrap().push(item);
    }

    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

/// An echo on a free port that answers as `look` says.
pub async fn server(
    acceptor: Acceptor,
    look: impl Fn(&Request) -> Result<Answer, Refusal> + Send + Sync + 'static,
) -> (SocketAddr, Seen<Request>) {
    let seen = Seen::new();
    let requests = seen.clone();
    let acceptor = acceptor.on_request(move |request| {
        requests.push(Request::clone(&request));
        ready(look(&request))
    });
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.acceptor(acceptor).serve(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));
    (address, seen)
}

/// An echo that answers everyone.
pub async fn echo() -> (SocketAddr, Seen<Request>) {
    server(Acceptor::new(), |_| Ok(Answer::new())).await
}

/// A client that no variable of the environment leads elsewhere.
pub fn client(url: impl Into<String>) -> Client {
    Client::new(url).no_proxy()
}

/// Whether messages come back.
pub async fn echoes(client: &Client) -> sockeye::Result<()> {
    within(async {
        let mut socket = client.connect().await?;
        socket.send("туда и обратно").await?;
        assert_eq!(socket.recv().await?.unwrap().to_string(), "туда и обратно");
        socket.close(CloseCode::NORMAL, "").await
    })
    .await
}

/// The error of a connection that is not to come about.
pub async fn failure(client: &Client) -> sockeye::Error {
    within(client.connect()).await.unwrap_err()
}

/// An HTTP proxy that does as it is told, with TLS or without; given credentials, for whoever has
/// them. It remembers the requests for tunnels.
pub async fn proxy(
    tls: Option<&Pki>,
    credentials: Option<&'static str>,
) -> (SocketAddr, Seen<String>) {
    let seen = Seen::new();
    let requests = seen.clone();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = tls.map(|pki| tokio_rustls::TlsAcceptor::from(pki.server_config(None)));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (requests, tls) = (requests.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => tunnel(tcp, requests, credentials).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(tcp).await {
                            tunnel(stream, requests, credentials).await;
                        }
                    }
                }
            });
        }
    });
    (address, seen)
}

async fn tunnel(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    requests: Seen<String>,
    credentials: Option<&str>,
) {
    let Some(request) = read_head(&mut stream).await else {
        return;
    };
    requests.push(request.clone());
    let target = request.split(' ').nth(1).unwrap().to_owned();
    let is_known = credentials.is_none_or(|basic| {
        request.contains(&format!("\r\nProxy-Authorization: Basic {basic}\r\n"))
    });
    let answer = match (is_known, TcpStream::connect(target).await) {
        (false, _) => "HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n",
        (true, Err(_)) => "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        (true, Ok(mut server)) => {
            let answer = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n";
            stream.write_all(answer).await.unwrap();
            // However it ends, it ends.
            let _ = copy_bidirectional(&mut stream, &mut server).await;
            return;
        }
    };
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// A server that reads a request's head, answers with these bytes, and stays.
pub async fn scripted(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            if read_head(&mut stream).await.is_some() {
                let _ = stream.write_all(answer).await;
            }
            kept.push(stream);
        }
    });
    address
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = socket.local_addr().unwrap();
    // The address stays taken, or another test might listen there.
    std::mem::forget(socket);
    address
}

/// An authority, and a certificate for localhost that it signed.
pub struct Pki {
    pub ca: String,
    pub certificate: String,
    pub key: String,
}

impl Pki {
    pub fn new() -> Self {
        let mut authority = CertificateParams::new([]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let ca = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let names = ["localhost".into(), "127.0.0.1".into()];
        let certificate = CertificateParams::new(names).unwrap();
        Self {
            ca: ca.pem(),
            certificate: certificate.signed_by(&key, &issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }

    pub fn server(&self) -> ServerTls {
        ServerTls::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }

    /// A server that lets in only who has a certificate of the same authority.
    pub fn strict_server(&self) -> ServerTls {
        ServerTls::from_config(self.strict_config())
    }

    /// The same, for others than this crate.
    pub fn strict_config(&self) -> Arc<rustls::ServerConfig> {
        self.server_config(Some(self.client_verifier().build().unwrap()))
    }

    /// A server that asks for a certificate, and lets in who has none too.
    pub fn asking_config(&self) -> Arc<rustls::ServerConfig> {
        let verifier = self.client_verifier().allow_unauthenticated();
        self.server_config(Some(verifier.build().unwrap()))
    }

    fn client_verifier(&self) -> rustls::server::ClientCertVerifierBuilder {
        use rustls::{
            RootCertStore,
            pki_types::{CertificateDer, pem::PemObject},
            server::WebPkiClientVerifier,
        };
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
    }

    /// How many bytes the certificate has on the wire.
    pub fn certificate_len(&self) -> usize {
        use rustls::pki_types::{CertificateDer, pem::PemObject};
        let der = CertificateDer::from_pem_slice(self.certificate.as_bytes());
        der.unwrap().len()
    }

    /// Speaks TLS as a client with the certificate, for a test that writes HTTP by itself.
    pub async fn speak_tls(&self, stream: TcpStream) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.speak_tls_as(stream, true).await
    }

    /// The same as one who has none.
    pub async fn speak_tls_unknown(
        &self,
        stream: TcpStream,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        self.speak_tls_as(stream, false).await
    }

    async fn speak_tls_as(
        &self,
        stream: TcpStream,
        known: bool,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        use rustls::{
            ClientConfig, RootCertStore,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
        };
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(self.ca.as_bytes()).unwrap();
        roots.add(ca).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match known {
            true => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap(),
                )
                .unwrap(),
            false => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("localhost").unwrap();
        let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
        within(tls.connect(name, stream)).await.unwrap()
    }

    /// Trusts the authority, and has a certificate of it.
    pub fn known(&self) -> ClientTls {
        self.trusted()
            .certificate_pem(self.certificate.as_bytes(), self.key.as_bytes())
            .unwrap()
    }

    pub fn trusted(&self) -> ClientTls {
        ClientTls::new().ca_pem(self.ca.as_bytes()).unwrap()
    }

    fn server_config(
        &self,
        clients: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
    ) -> Arc<rustls::ServerConfig> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let builder = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(verifier),
        }
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(self.certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap(),
        );
        Arc::new(config.unwrap())
    }
}
