//! What TLS says of a client: its certificates, and what was agreed (RFC 8446).

use std::{fmt, sync::Arc};

use rustls::{CipherSuite, ProtocolVersion, ServerConnection, pki_types::CertificateDer};

/// What TLS says of a client. Cloning is cheap.
///
/// It is at hand in [`Acceptor::on_request`](super::Acceptor::on_request) and of each socket. A server on
/// hyper that speaks TLS itself makes it [from](From) a connection of rustls, and puts it among the
/// extensions of its requests:
///
/// ```ignore
/// let tls = TlsIdentity::from(stream.get_ref().1);
/// request.extensions_mut().insert(tls);
/// ```
#[derive(Clone)]
pub struct TlsIdentity(Arc<Agreed>);

struct Agreed {
    certificates: Vec<CertificateDer<'static>>,
    server_name: Option<Box<str>>,
    alpn: Option<Box<[u8]>>,
    version: Option<ProtocolVersion>,
    cipher_suite: Option<CipherSuite>,
}

impl TlsIdentity {
    /// The certificates that the client has shown, its own first, in DER. rustls has verified them as its
    /// [configuration](super::ServerTls::from_config) says; there are none unless that asks for them.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.0.certificates
    }

    /// The name of the server that the client has asked for (SNI, RFC 6066 §3).
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The protocol that was agreed by ALPN (RFC 7301), where the client offers any: `http/1.1`, or `h2` for a
    /// request over HTTP/2 and `h3` for one over HTTP/3. With [`ServerTls::from_config`](super::ServerTls::from_config), what that says.
    pub fn alpn_protocol(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// The version of TLS.
    pub fn protocol_version(&self) -> Option<ProtocolVersion> {
        self.0.version
    }

    /// The cipher suite, which is not known of HTTP/3.
    pub fn cipher_suite(&self) -> Option<CipherSuite> {
        self.0.cipher_suite
    }
}

#[cfg(feature = "http3")]
impl TlsIdentity {
    /// Of a connection of QUIC, which has TLS 1.3.
    pub(super) fn of_quic(connection: &quinn::Connection) -> Self {
        use quinn::crypto::rustls::HandshakeData;

        let agreed = connection.handshake_data();
        let agreed = agreed.and_then(|agreed| agreed.downcast::<HandshakeData>().ok());
        let (server_name, alpn) = agreed.map_or((None, None), |agreed| {
            (
                agreed.server_name.map(Into::into),
                agreed.protocol.map(Into::into),
            )
        });
        let shown = connection.peer_identity();
        let shown = shown.and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
        Self(Arc::new(Agreed {
            certificates: shown.map(|shown| *shown).unwrap_or_default(),
            server_name,
            alpn,
            version: Some(ProtocolVersion::TLSv1_3),
            cipher_suite: None,
        }))
    }
}

/// Of a connection whose handshake is done.
impl From<&ServerConnection> for TlsIdentity {
    fn from(connection: &ServerConnection) -> Self {
        let certificates = connection.peer_certificates().unwrap_or_default();
        let owned = certificates.iter().map(|one| one.clone().into_owned());
        Self(Arc::new(Agreed {
            certificates: owned.collect(),
            server_name: connection.server_name().map(Into::into),
            alpn: connection.alpn_protocol().map(Into::into),
            version: connection.protocol_version(),
            cipher_suite: connection
                .negotiated_cipher_suite()
                .map(|agreed| agreed.suite()),
        }))
    }
}

/// The certificates are counted, not shown.
impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity")
            .field("peer_certificates", &self.0.certificates.len())
            .field("server_name", &self.server_name())
            .field(
                "alpn_protocol",
                &self.alpn_protocol().map(String::from_utf8_lossy),
            )
            .field("protocol_version", &self.protocol_version())
            .field("cipher_suite", &self.cipher_suite())
            .finish()
    }
}
