//! TLS as a server: the certificate that is shown (RFC 8446).

use std::{fmt, fs, path::Path, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

use crate::{Error, Result, stream::Io};

/// How a server speaks TLS. Cloning is cheap.
///
/// The cryptography is always that of aws-lc-rs, whatever other providers the program contains.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl ServerTls {
    /// Shows a certificate: the chain, the server's own first, and its key, both in PEM.
    ///
    /// # Errors
    /// [`Error::Tls`] where either is not there or they do not fit each other.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self> {
        Self::from_named_pem("the server's certificate", chain, key)
    }

    /// Reads the two from files. Blocks while it does.
    ///
    /// # Errors
    /// [`Error::Tls`], which names the file that is at fault where it is one alone.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self> {
        let read = |path: &Path| {
            fs::read(path).map_err(|error| Error::tls(path.display().to_string(), error))
        };
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let subject = format!("{} and {}", chain.display(), key.display());
        Self::from_named_pem(&subject, &read(chain)?, &read(key)?)
    }

    /// A configuration of rustls as it is. Its ALPN list should name `http/1.1`, or nothing.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self(config)
    }

    fn from_named_pem(subject: &str, chain: &[u8], key: &[u8]) -> Result<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(|error| Error::tls(subject, error))?;
        if chain.is_empty() {
            return Err(Error::tls(subject, "there is no certificate in the PEM"));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| Error::tls(subject, error))?;
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::tls(subject, error))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|error| Error::tls(subject, error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
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
        TlsAcceptor::from(self.0.clone())
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
