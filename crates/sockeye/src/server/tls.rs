//! TLS as a server: the certificate that is shown (RFC 8446).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_rustls::TlsAcceptor;

use crate::{Error, Result, pem, stream::Io};

/// How a server speaks TLS. Cloning is cheap, and the clones show the same certificate: one that is kept
/// can [replace](Self::reload) it while the server runs.
///
/// The cryptography is always that of aws-lc-rs, whatever other providers the program contains.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// None where the configuration is a user's own, which is used as it is.
    shown: Option<Arc<Shown>>,
}

impl ServerTls {
    /// Shows a certificate: the chain, the server's own first, and its key, both in PEM.
    ///
    /// # Errors
    /// [`Error::Tls`] where either is not there or they do not fit each other.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self> {
        Self::showing(Shown {
            files: None,
            certificate: RwLock::new(read(chain, key)?),
        })
    }

    /// Reads the two from files. Blocks while it does.
    ///
    /// # Errors
    /// [`Error::Tls`], which names the file that is at fault where it is one alone.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        let files = Files {
            chain: chain.as_ref().into(),
            key: key.as_ref().into(),
        };
        Self::showing(Shown {
            certificate: RwLock::new(files.read()?),
            files: Some(files),
        })
    }

    /// Reads the files again, such as after the certificate was renewed. Blocks while it does.
    ///
    /// Whoever connects from now on is shown what is in them; open connections and resumed sessions go
    /// on. Where something is wrong with the files, the certificate stays as it is.
    ///
    /// ```no_run
    /// # use sockeye::{Acceptor, Server, server::ServerTls};
    /// # async fn example(server: Server) -> sockeye::Result<()> {
    /// let tls = ServerTls::from_pem_files("chain.pem", "key.pem")?;
    /// let server = server.acceptor(Acceptor::new().tls(tls.clone()));
    /// # drop(server);
    /// // … and when the files have changed:
    /// if let Err(error) = tls.reload() {
    ///     eprintln!("the certificate stays: {error}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`from_pem_files`](Self::from_pem_files); and where it does not come from files.
    pub fn reload(&self) -> Result<()> {
        let Some((shown, files)) = self
            .shown
            .as_ref()
            .and_then(|s| Some((s, s.files.as_ref()?)))
        else {
            return Err(not_ours("the certificate does not come from files"));
        };
        shown.replace(files.read()?);
        Ok(())
    }

    /// Shows another certificate from now on, as [`reload`](Self::reload) does: the chain and its key,
    /// both in PEM.
    ///
    /// # Errors
    /// As [`from_pem`](Self::from_pem); and where the configuration is a user's own, which has a resolver
    /// of its own.
    pub fn replace_pem(&self, chain: &[u8], key: &[u8]) -> Result<()> {
        let Some(shown) = &self.shown else {
            return Err(not_ours("the configuration is one of rustls' own"));
        };
        shown.replace(read(chain, key)?);
        Ok(())
    }

    /// A configuration of rustls as it is. Its ALPN list should name `http/1.1`, or nothing; `h2`
    /// too where the server answers requests over HTTP/2.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            shown: None,
        }
    }

    /// Prefers HTTP/2 with clients that speak it: those that come for a WebSocket do not offer it
    /// (RFC 6455 is opened on HTTP/1.1).
    #[cfg(feature = "http2")]
    pub(super) fn offer_http2(&mut self) {
        if self.shown.is_some() {
            let config = Arc::make_mut(&mut self.config);
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
    }

    /// For HTTP/3, which alone is offered on UDP.
    ///
    /// # Errors
    /// [`Error::Tls`] where a configuration that is given has no TLS 1.3.
    #[cfg(feature = "http3")]
    pub(super) fn quic(&self) -> Result<Arc<quinn::crypto::rustls::QuicServerConfig>> {
        use rustls::quic::{ServerConnection, Version};

        let mut config = self.config.clone();
        Arc::make_mut(&mut config).alpn_protocols = vec![crate::http3::ALPN.to_vec()];
        // quinn takes for granted that it can be.
        ServerConnection::new(config.clone(), Version::V1, Vec::new())
            .map_err(|error| Error::tls(IN_PEM, error))?;
        let config = config.try_into();
        config
            .map(Arc::new)
            .map_err(|error: quinn::crypto::rustls::NoInitialCipherSuite| Error::tls(IN_PEM, error))
    }

    fn showing(shown: Shown) -> Result<Self> {
        let shown = Arc::new(shown);
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::tls(IN_PEM, error))?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            config: Arc::new(config),
            shown: Some(shown),
        })
    }

    /// Speaks TLS on an accepted connection.
    ///
    /// # Errors
    /// [`Error::Tls`].
    pub(super) async fn accept<S: Io>(
        &self,
        peer: &str,
        stream: S,
    ) -> Result<tokio_rustls::server::TlsStream<S>> {
        TlsAcceptor::from(self.config.clone())
            .accept(stream)
            .await
            .map_err(|error| Error::tls(peer, error))
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls(..)")
    }
}

/// What an error is about, where no file is.
const IN_PEM: &str = "the server's certificate";

/// The certificate that is shown. It is replaced whole, and so never half of one and half of the other.
#[derive(Debug)]
struct Shown {
    certificate: RwLock<Arc<CertifiedKey>>,
    /// Where it is from.
    files: Option<Files>,
}

impl Shown {
    fn replace(&self, certificate: Arc<CertifiedKey>) {
        *self
            .certificate
            .write()
            .unwrap_or_else(PoisonError::into_inner) = certificate;
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let certificate = self.certificate.read();
        Some(certificate.unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[derive(Debug)]
struct Files {
    chain: PathBuf,
    key: PathBuf,
}

impl Files {
    fn read(&self) -> Result<Arc<CertifiedKey>> {
        let named = |path: &Path| {
            let name = path.display().to_string();
            match fs::read(path) {
                Ok(text) => Ok((name, text)),
                Err(error) => Err(Error::tls(name, error)),
            }
        };
        let (chain, text) = named(&self.chain)?;
        let certificates = pem::certificates(&chain, &text)?;
        let (key, text) = named(&self.key)?;
        let private = pem::key(&key, &text)?;
        join(&format!("{chain} and {key}"), certificates, private)
    }
}

/// Reads a certificate and its key where no file is known.
fn read(chain: &[u8], key: &[u8]) -> Result<Arc<CertifiedKey>> {
    join(
        IN_PEM,
        pem::certificates(IN_PEM, chain)?,
        pem::key(IN_PEM, key)?,
    )
}

/// A certificate with its key, which have to fit each other.
fn join(
    subject: &str,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>> {
    CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())
        .map(Arc::new)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                Error::tls(subject, "the key does not belong to the certificate")
            }
            error => Error::tls(subject, error),
        })
}

fn not_ours(why: &str) -> Error {
    Error::tls(
        IN_PEM,
        io::Error::new(
            io::ErrorKind::Unsupported,
            format!("it cannot be replaced: {why}"),
        ),
    )
}
