//! Certificates and keys as they stand in files: in PEM (RFC 7468).

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::{Error, Result};

/// All certificates in the text, of which there has to be one.
///
/// # Errors
/// [`Error::Tls`] about `subject`.
pub(crate) fn certificates(subject: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| Error::tls(subject, format!("the certificate is no PEM: {error}")))?;
    if found.is_empty() {
        return Err(Error::tls(subject, "there is no certificate in the PEM"));
    }
    Ok(found)
}

/// The first private key in the text.
///
/// # Errors
/// As [`certificates`].
pub(crate) fn key(subject: &str, text: &[u8]) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| {
        // A label of its own (RFC 5958), or a line in the old form.
        let encrypted = text.windows(9).any(|word| word == b"ENCRYPTED");
        let why = match error {
            _ if encrypted => "the key is encrypted: decrypt it, as `openssl pkey` does".into(),
            pem::Error::NoItemsFound => "there is no private key in the PEM".into(),
            error => format!("the key is no PEM: {error}"),
        };
        Error::tls(subject, why)
    })
}
