//! A program with two providers of cryptography, as many have without knowing it: rustls itself panics there
//! when it is to choose, and Sockeye never asks it to.
#![cfg(test)]

use std::{panic::catch_unwind, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, pem::PemObject},
};
use sockeye::{Acceptor, Client, Server, client::ClientTls, server::ServerTls};

/// An authority, a certificate it gave to 127.0.0.1, and the key of that, in PEM.
fn certificates() -> [String; 3] {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".into()]).unwrap();
    let certificate = certificate.signed_by(&key, &issuer).unwrap();
    [ca.pem(), certificate.pem(), key.serialize_pem()]
}

/// Serves TLS, and echoes over `wss` in each way to be a client.
async fn serves_and_connects() {
    let [ca, certificate, key] = certificates();
    let tls = ServerTls::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let server = server.acceptor(Acceptor::new().tls(tls));
    let url = format!("wss://{}/", server.local_addr().unwrap());
    tokio::spawn(server.serve(|mut socket| async move {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));

    let mut roots = RootCertStore::empty();
    let ca_der = CertificateDer::from_pem_slice(ca.as_bytes()).unwrap();
    roots.add(ca_der).unwrap();
    // A configuration of the user's own may be of the other provider.
    let own = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    for tls in [
        ClientTls::new().ca_pem(ca.as_bytes()).unwrap(),
        ClientTls::new().extra_ca_pem(ca.as_bytes()).unwrap(),
        ClientTls::new().dangerous_accept_any_certificate(),
        ClientTls::from_config(Arc::new(own)),
    ] {
        let connecting = Client::new(&url).no_proxy().tls(tls);
        let mut socket = connecting.connect().await.unwrap();
        socket.send("hello").await.unwrap();
        let message = socket.recv().await.unwrap();
        assert_eq!(message, Some("hello".into()));
    }
    // The platform's roots do not know it, which is no panic either.
    let error = Client::new(&url).no_proxy().connect().await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
}

#[tokio::test]
async fn tls_needs_no_default_provider_and_minds_none() {
    // There are two: what leaves the choice to rustls panics.
    assert!(catch_unwind(ClientConfig::builder).is_err());
    assert!(catch_unwind(ServerConfig::builder).is_err());

    let minute = Duration::from_secs(60);
    tokio::time::timeout(minute, serves_and_connects())
        .await
        .unwrap();
    assert!(
        CryptoProvider::get_default().is_none(),
        "none was installed"
    );

    // Nor does it matter that the other one is installed.
    ring::default_provider().install_default().unwrap();
    tokio::time::timeout(minute, serves_and_connects())
        .await
        .unwrap();
}
