//! `--tls-self-signed`: a certificate made on the spot, for trying TLS without an authority.

use std::fmt;

use sockeye::server::ServerTls;

use crate::failure::Failure;

const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

pub(super) struct SelfSigned {
    certificate: rcgen::Certificate,
    key: rcgen::KeyPair,
}

impl SelfSigned {
    /// A new key and a certificate for this machine's own names.
    pub(super) fn make() -> Result<Self, Failure> {
        let made = rcgen::generate_simple_self_signed(NAMES.map(String::from))
            .map_err(|error| Failure::new(format!("no certificate could be made: {error}")))?;
        Ok(Self {
            certificate: made.cert,
            key: made.signing_key,
        })
    }

    pub(super) fn server(&self) -> Result<ServerTls, Failure> {
        let (chain, key) = (self.certificate.pem(), self.key.serialize_pem());
        Ok(ServerTls::from_pem(chain.as_bytes(), key.as_bytes())?)
    }
}

/// Whom it is for, and its SHA-256 fingerprint as browsers write it.
impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.certificate.der());
        let hex: Vec<_> = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
        write!(f, "for {}, SHA-256 {}", NAMES.join(", "), hex.join(":"))
    }
}
