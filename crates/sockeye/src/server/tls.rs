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
pub struct ServerTls {
    config: Arc<ServerConfig>,
    /// Whether the configuration is a user's own, which is used as it is.
    #[cfg_attr(
        not(feature = "http2"),
        allow(dead_code, reason = "nothing is changed in it")
    )]
    given: bool,
}

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

    /// A configuration of rustls as it is. Its ALPN list should name `http/1.1`, or nothing; `h2`
    /// too where the server answers requests over HTTP/2.
    pub fn from_config(config: Arc<ServerConfig>) -> Self {
        Self {
            config,
            given: true,
        }
    }

    /// Prefers HTTP/2 with clients that speak it: those that come for a WebSocket do not offer it
    /// (RFC 6455 is opened on HTTP/1.1).
    #[cfg(feature = "http2")]
    pub(super) fn offer_http2(&mut self) {
        if !self.given {
            let config = Arc::make_mut(&mut self.config);
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
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
        Ok(Self {
            config: Arc::new(config),
            given: false,
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
