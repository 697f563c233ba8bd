//! Connections that do nothing: what each costs in memory, and what it costs to accept one.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    server::{Kind, Server, Settings},
    wire::Traffic,
};

/// Where the slope of memory begins: what a server takes once is not counted. There are always more than these.
pub const FEW: usize = 1000;

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// How clients connect.
pub struct Client(Option<Arc<ClientConfig>>);

impl Client {
    pub fn new(tls: bool) -> Self {
        Self(tls.then(trusting))
    }

    fn connect(&self, server: &Server) -> io::Result<Box<dyn Stream>> {
        let tcp = server.connect()?;
        match &self.0 {
            None => Ok(Box::new(tcp)),
            Some(config) => Ok(Box::new(secure(config, tcp)?)),
        }
    }
}

/// What connections take in memory.
pub struct Memory {
    /// Bytes of resident memory a connection: the slope from [`FEW`] to as many as were opened, after
    /// each has exchanged a message and fallen silent.
    pub slope: f64,
    /// All of the server's resident memory with [`SOME`] connections, where there were so many.
    pub with_some: Option<u64>,
}

/// A number of connections that everyone can picture.
pub const SOME: usize = 10_000;

/// Opens `many` connections to a server of its own.
pub fn memory(
    kind: &Kind,
    settings: &Settings,
    traffic: &Traffic,
    many: usize,
) -> io::Result<Memory> {
    let server = Server::start(kind, settings)?;
    let client = Client::new(settings.tls);
    let mut open = Vec::with_capacity(many);
    let mut grow = |count: usize| {
        while open.len() < count {
            let mut stream = client.connect(&server)?;
            traffic.open(&mut stream)?;
            traffic.check_echo(&mut stream)?;
            open.push(stream);
        }
        // Whatever a server puts off until later has its chance.
        thread::sleep(Duration::from_millis(300));
        Ok::<_, io::Error>(server.rss())
    };
    let few = grow(FEW)?;
    let with_some = (many >= SOME).then(|| grow(SOME)).transpose()?;
    let rss = grow(many)?;
    Ok(Memory {
        slope: (rss as f64 - few as f64) / (many - FEW) as f64,
        with_some,
    })
}

/// CPU of the server in microseconds for a connection: accepted, upgraded, and closed.
pub fn accept(
    server: &Server,
    client: &Client,
    traffic: &Traffic,
    count: usize,
) -> io::Result<f64> {
    /// So many wait to be accepted at a time.
    const TOGETHER: usize = 50;
    let round = |count: usize| {
        let mut opening = Vec::with_capacity(count);
        for _ in 0..count {
            let mut stream = client.connect(server)?;
            traffic.request(&mut stream)?;
            opening.push(stream);
        }
        for stream in &mut opening {
            traffic.response(stream)?;
        }
        Ok::<_, io::Error>(())
    };
    round(TOGETHER)?;
    thread::sleep(Duration::from_millis(20));
    let before = server.cpu();
    for _ in 0..count / TOGETHER {
        round(TOGETHER)?;
    }
    // The last ones are still being closed.
    thread::sleep(Duration::from_millis(20));
    let cpu = server.cpu() - before;
    Ok(cpu.as_secs_f64() * 1e6 / (count / TOGETHER * TOGETHER) as f64)
}

fn secure(
    config: &Arc<ClientConfig>,
    tcp: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let name = ServerName::try_from("localhost").expect("a name");
    let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(session, tcp))
}

/// Trusts any certificate, and resumes no session: each connection is a whole handshake.
fn trusting() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting(provider)))
        .with_no_client_auth();
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
