//! TLS as a client: whom to trust, and who we are (RFC 6455 §4.1, 5; RFC 8446).

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::WebPkiServerVerifier,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime},
};
use tokio_rustls::TlsConnector;

use crate::{Error, Result, pem, stream::Io};

/// How a client speaks TLS. By default it trusts whom the platform trusts.
///
/// Sessions are resumed among the connections of a value and its clones, and the platform's roots are read once for it:
/// make one, and keep it. What is left as it is by default, all in a program share.
///
/// The cryptography is always that of aws-lc-rs, whatever other providers the program contains.
///
/// ```
/// use sockeye::client::{Client, ClientTls};
/// # fn f(ca: &[u8], certificate: &[u8], key: &[u8]) -> sockeye::Result<()> {
/// let tls = ClientTls::new()
///     .ca_pem(ca)?
///     .certificate_pem(certificate, key)?;
/// let client = Client::new("wss://example.com").tls(tls);
/// # Ok(()) }
/// ```
#[derive(Clone, Default)]
pub struct ClientTls {
    given: Option<Arc<ClientConfig>>,
    roots: Option<Arc<RootCertStore>>,
    extra_roots: Vec<CertificateDer<'static>>,
    identity: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
    accept_any_certificate: bool,
    built: Built,
    /// The same without our certificate, with sessions of its own: one that is resumed says who we are too.
    built_without_certificate: Built,
}

/// What the settings come to, made once and shared by clones until they change: so sessions are resumed, and the
/// platform's roots not read again, which takes milliseconds.
type Built = Arc<OnceLock<Arc<ClientConfig>>>;

/// The name of HTTP/2 with TLS (RFC 9113 §3.2).
const HTTP2: &[u8] = b"h2";

/// What an error is about that a certificate of an authority causes.
const AUTHORITY: &str = "the authority given";

/// # Errors
/// [`Error::Tls`] for one that cannot be an authority's.
fn trust(roots: &mut RootCertStore, certificate: CertificateDer<'static>) -> Result<()> {
    let added = roots.add(certificate);
    added.map_err(|error| Error::tls(AUTHORITY, error))
}

impl ClientTls {
    /// The platform's roots, no certificate of our own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A configuration of rustls as it is. What the other methods set is not looked at.
    pub fn from_config(config: Arc<ClientConfig>) -> Self {
        Self {
            given: Some(config),
            ..Self::default()
        }
    }

    /// Trusts these authorities instead of the platform's: one or more certificates in PEM.
    /// Further calls add to them.
    ///
    /// # Errors
    /// [`Error::Tls`] where there is no certificate in it, or one that cannot be an authority's.
    pub fn ca_pem(mut self, pem: &[u8]) -> Result<Self> {
        let mut roots = self
            .roots
            .take()
            .map(Arc::unwrap_or_clone)
            .unwrap_or_else(RootCertStore::empty);
        for certificate in pem::certificates(AUTHORITY, pem)? {
            trust(&mut roots, certificate)?;
        }
        self.roots = Some(Arc::new(roots));
        Ok(self.changed())
    }

    /// Trusts these authorities besides the platform's, or besides those of [`ca_pem`](Self::ca_pem):
    /// one or more certificates in PEM. Further calls add to them.
    ///
    /// # Errors
    /// As [`ca_pem`](Self::ca_pem).
    pub fn extra_ca_pem(mut self, pem: &[u8]) -> Result<Self> {
        for certificate in pem::certificates(AUTHORITY, pem)? {
            // Tried here, where what is wrong with it is blamed on no other.
            trust(&mut RootCertStore::empty(), certificate.clone())?;
            self.extra_roots.push(certificate);
        }
        Ok(self.changed())
    }

    /// Shows a certificate where the server asks for one: the chain, our own first, and its key,
    /// both in PEM.
    ///
    /// # Errors
    /// [`Error::Tls`] where either is not there. Whether they fit each other is seen at connect.
    pub fn certificate_pem(mut self, chain: &[u8], key: &[u8]) -> Result<Self> {
        const SUBJECT: &str = "the client's certificate";
        let chain = pem::certificates(SUBJECT, chain)?;
        let key = pem::key(SUBJECT, key)?;
        self.identity = Some(Arc::new((chain, key)));
        Ok(self.changed())
    }

    /// Trusts whoever answers. **Dangerous**: anyone on the way can read and change everything.
    /// For trying things out only.
    #[must_use]
    pub fn dangerous_accept_any_certificate(mut self) -> Self {
        self.accept_any_certificate = true;
        self.changed()
    }

    /// What was built of the settings before is of no use any more.
    fn changed(self) -> Self {
        Self {
            built: Built::default(),
            built_without_certificate: Built::default(),
            ..self
        }
    }

    /// The same for a server that may not learn who we are.
    pub(super) fn without_certificate(&self) -> Self {
        let mut stranger = self.clone();
        if stranger.identity.take().is_some() {
            stranger.built = self.built_without_certificate.clone();
        }
        stranger
    }

    /// Speaks TLS on a connection, as the client of that host. For HTTP/2 that alone is offered, and fails where the
    /// server does not choose it.
    ///
    /// # Errors
    /// [`Error::Tls`].
    pub(super) async fn connect<S: Io>(
        &self,
        host: &str,
        http2: bool,
        stream: S,
    ) -> Result<tokio_rustls::client::TlsStream<S>> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| Error::tls(host, error))?;
        let mut config = self.config().await?;
        if http2 {
            // The clone has the same sessions.
            Arc::make_mut(&mut config).alpn_protocols = vec![HTTP2.to_vec()];
        }
        let connecting = TlsConnector::from(config).connect(name, stream);
        let stream = connecting.await.map_err(|error| Error::tls(host, error))?;
        // A server that knows nothing of ALPN chooses nothing.
        if http2 && stream.get_ref().1.alpn_protocol() != Some(HTTP2) {
            return Err(Error::tls(host, "it has not chosen HTTP/2 (h2 by ALPN)"));
        }
        Ok(stream)
    }

    /// For HTTP/3 with that host, which alone is offered.
    ///
    /// # Errors
    /// [`Error::Tls`] where a configuration that is given has no TLS 1.3.
    #[cfg(feature = "http3")]
    pub(super) async fn quic(&self, host: &str) -> Result<quinn::ClientConfig> {
        use quinn::crypto::rustls::QuicClientConfig;
        use rustls::quic::{ClientConnection, Version};

        use crate::http3::{ALPN, Side, transport};

        let error = |error: rustls::Error| Error::tls(host, error);
        let name = ServerName::try_from(host.to_owned()).map_err(|bad| Error::tls(host, bad))?;
        let mut config = self.config().await?;
        // The clone has the same sessions.
        Arc::make_mut(&mut config).alpn_protocols = vec![ALPN.to_vec()];
        if self.given.is_some() {
            // quinn takes for granted that it can be. Not tried where that is known, as it would take a session's ticket.
            ClientConnection::new(config.clone(), Version::V1, name, Vec::new()).map_err(error)?;
        }
        let config = QuicClientConfig::try_from(config).map_err(|bad| Error::tls(host, bad))?;
        let mut config = quinn::ClientConfig::new(Arc::new(config));
        config.transport_config(Arc::new(transport(Side::Client)));
        Ok(config)
    }

    async fn config(&self) -> Result<Arc<ClientConfig>> {
        if let Some(known) = self.given.as_ref().or_else(|| self.built.get()) {
            return Ok(known.clone());
        }
        let verifier: Arc<dyn ServerCertVerifier> = if self.accept_any_certificate {
            Arc::new(AcceptAny(provider()))
        } else if let Some(roots) = &self.roots {
            const SUBJECT: &str = "the authority given";
            let mut roots = roots.clone();
            for certificate in &self.extra_roots {
                Arc::make_mut(&mut roots)
                    .add(certificate.clone())
                    .map_err(|error| Error::tls(SUBJECT, error))?;
            }
            WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| Error::tls(SUBJECT, error))?
        } else if self.identity.is_some() || !self.extra_roots.is_empty() {
            platform_verifier(self.extra_roots.clone()).await?
        } else {
            return default_config().await;
        };
        let config = self.build(verifier)?;
        Ok(self.built.get_or_init(|| config).clone())
    }

    fn build(&self, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::tls("any server", error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match self.identity.as_deref() {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain.clone(), key.clone_key())
                .map_err(|error| Error::tls("the client's certificate", error))?,
        };
        // An Upgrade exists on HTTP/1.1 alone; a server that also speaks HTTP/2 must not choose it.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// What ended the opening handshake, where that is TLS: a server may refuse this client, or its certificate, only
/// once TLS is set up at this end (RFC 8446 §4.4.2.4 and §4.4.3).
pub(super) fn as_tls(host: &str, error: Error) -> Error {
    match error {
        Error::Lost(source)
            if source
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            let subject = host.into();
            Error::Tls { subject, source }
        }
        error => error,
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("from_config", &self.given.is_some())
            .field("own_roots", &self.roots.is_some())
            .field("extra_roots", &self.extra_roots.len())
            .field("own_certificate", &self.identity.is_some())
            .field("accept_any_certificate", &self.accept_any_certificate)
            .finish()
    }
}

/// The configuration of everyone who asks for nothing special, made once: reading the platform's
/// roots takes milliseconds, and a shared one lets sessions be resumed.
async fn default_config() -> Result<Arc<ClientConfig>> {
    static DEFAULT: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    if let Some(config) = DEFAULT.get() {
        return Ok(config.clone());
    }
    let config = ClientTls::new().build(platform_verifier(Vec::new()).await?)?;
    Ok(DEFAULT.get_or_init(|| config).clone())
}

/// Reads files, so it happens where that may take time.
async fn platform_verifier(
    extra: Vec<CertificateDer<'static>>,
) -> Result<Arc<dyn ServerCertVerifier>> {
    const SUBJECT: &str = "any server (the platform's roots cannot be read)";
    let verifier = tokio::task::spawn_blocking(|| {
        rustls_platform_verifier::Verifier::new_with_extra_roots(extra, provider())
    });
    match verifier.await {
        Ok(Ok(verifier)) => Ok(Arc::new(verifier)),
        Ok(Err(error)) => Err(Error::tls(SUBJECT, error)),
        Err(error) => Err(Error::tls(SUBJECT, error)),
    }
}

/// Named here and nowhere looked up: a program with two providers has no default one, and asking
/// for it would panic.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER
        .get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
        .clone()
}

/// Believes any certificate, but wants proof that the peer has its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signed,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
