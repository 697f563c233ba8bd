//! TLS of a server: its certificate, replaced while it runs; and who speaks none, or breaks it off.

use std::{
    fs,
    future::{pending, ready},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use rcgen::{CertifiedKey, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use sockeye::{
    Acceptor, Client, Error, Result, Server, WebSocket,
    client::ClientTls,
    server::{Answer, ServerTls, Shutdown, ShutdownHandle},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, duplex},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};

use crate::wire::within;

/// A certificate that is its own authority, and its key, in PEM.
struct Made {
    chain: String,
    key: String,
}

fn make() -> Made {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    Made {
        chain: cert.pem(),
        key: signing_key.serialize_pem(),
    }
}

impl Made {
    /// A client that trusts this alone, and has never been here.
    fn client(&self) -> ClientTls {
        ClientTls::new().ca_pem(self.chain.as_bytes()).unwrap()
    }

    /// One that keeps its sessions.
    fn returning_client(&self) -> ClientTls {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.chain.as_bytes());
        roots.add(certificate.unwrap()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientTls::from_config(config.into())
    }
}

async fn serve(tls: ServerTls) -> (SocketAddr, ShutdownHandle) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let (address, handle) = (server.local_addr().unwrap(), server.shutdown_handle());
    let server = server.acceptor(Acceptor::new().tls(tls));
    tokio::spawn(server.serve(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));
    (address, handle)
}

async fn connect(address: SocketAddr, tls: &ClientTls) -> Result<WebSocket> {
    let client = Client::new(format!("wss://{address}/")).tls(tls.clone());
    within(client.connect()).await
}

async fn expect_echo(socket: &mut WebSocket, text: &str) {
    socket.send(text).await.unwrap();
    assert_eq!(within(socket.recv()).await.unwrap(), Some(text.into()));
}

async fn is_trusted(address: SocketAddr, by: &Made) -> bool {
    match connect(address, &by.client()).await {
        Ok(mut socket) => {
            expect_echo(&mut socket, "hello").await;
            true
        }
        Err(error) => {
            assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
            false
        }
    }
}

/// A client and a server whose decision takes as long as that, over TLS, and what carries bytes between them.
fn over_tls<F>(
    decide: impl Fn() -> F + Send + Sync + 'static,
) -> (
    JoinHandle<Result<WebSocket>>,
    JoinHandle<Result<WebSocket>>,
    JoinHandle<()>,
)
where
    F: Future<Output = ()> + Send + 'static,
{
    let made = make();
    let tls = ServerTls::from_pem(made.chain.as_bytes(), made.key.as_bytes()).unwrap();
    let (near, mut to_near) = duplex(1 << 16);
    let (mut to_far, far) = duplex(1 << 16);
    let acceptor = Acceptor::new().tls(tls).on_request(move |_| {
        let decided = decide();
        async move {
            decided.await;
            Ok(Answer::new())
        }
    });
    let client = Client::new("wss://127.0.0.1/").tls(made.client());
    (
        tokio::spawn(async move { client.connect_over(near).await }),
        tokio::spawn(async move { acceptor.accept(far).await }),
        tokio::spawn(async move {
            let _ = copy_bidirectional(&mut to_near, &mut to_far).await;
        }),
    )
}

/// A bug: it was told in rustls' words, with the address of a page for who writes programs with that.
#[tokio::test]
async fn a_connection_that_breaks_off_within_tls_is_told_as_one_without() {
    let (here, there, between) = over_tls(|| ready(()));
    let here = within(here).await.unwrap().unwrap();
    let there = within(there).await.unwrap().unwrap();
    between.abort();
    for mut socket in [here, there] {
        let error = within(socket.recv()).await.unwrap_err();
        assert!(error.is_lost());
        let told = error.to_string();
        assert!(
            told.ends_with("ended the connection without a Close"),
            "{told}"
        );
    }
}

#[tokio::test]
async fn a_handshake_that_breaks_off_within_tls_is_told_as_one_without() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let (here, _there, between) = over_tls(move || {
        tell.send(()).unwrap();
        pending()
    });
    within(told.recv()).await.unwrap();
    between.abort();
    let error = within(here).await.unwrap().unwrap_err();
    assert!(error.is_handshake());
    assert!(
        error
            .to_string()
            .ends_with("ended before the HTTP head did"),
        "{error}"
    );
}

#[tokio::test]
async fn who_connects_is_shown_the_new_one_and_who_is_connected_goes_on() {
    let (old, new) = (make(), make());
    let tls = ServerTls::from_pem(old.chain.as_bytes(), old.key.as_bytes()).unwrap();
    let (address, handle) = serve(tls.clone()).await;
    let been_here = old.returning_client();
    let mut open = connect(address, &been_here).await.unwrap();
    expect_echo(&mut open, "before").await;
    assert!(!is_trusted(address, &new).await);

    tls.replace_pem(new.chain.as_bytes(), new.key.as_bytes())
        .unwrap();
    expect_echo(&mut open, "after").await;
    assert!(is_trusted(address, &new).await);
    assert!(!is_trusted(address, &old).await);
    // A session that is resumed needs no certificate: it was shown one before.
    let mut resumed = connect(address, &been_here).await.unwrap();
    expect_echo(&mut resumed, "resumed").await;

    let farewell = handle.shutdown(Shutdown::new());
    for socket in [&mut open, &mut resumed] {
        assert_eq!(within(socket.recv()).await.unwrap(), None);
    }
    assert!(within(farewell).await.closed() >= 2);
}

#[tokio::test]
async fn files_are_read_again_and_the_certificate_stays_where_they_are_faulty() {
    let directory = directory();
    let (chain, key) = (directory.join("chain.pem"), directory.join("key.pem"));
    let write = |made: &Made| {
        fs::write(&chain, &made.chain).unwrap();
        fs::write(&key, &made.key).unwrap();
    };
    let (old, new) = (make(), make());
    write(&old);
    let tls = ServerTls::from_pem_files(&chain, &key).unwrap();
    let (address, _handle) = serve(tls.clone()).await;
    assert!(is_trusted(address, &old).await);

    let half = new.chain.len() / 2;
    let faulty: [(&str, &dyn Fn()); 5] = [
        // One file was written, and the other not yet.
        ("chain.pem and ", &|| fs::write(&chain, &new.chain).unwrap()),
        ("chain.pem failed: there is no certificate", &|| {
            fs::write(&chain, "").unwrap()
        }),
        ("chain.pem failed", &|| {
            fs::write(&chain, &new.chain[..half]).unwrap()
        }),
        ("key.pem failed", &|| {
            write(&new);
            fs::write(&key, "no key").unwrap();
        }),
        ("key.pem failed", &|| fs::remove_file(&key).unwrap()),
    ];
    for (said, fault) in faulty {
        fault();
        let error = tls.reload().unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
        assert!(is_trusted(address, &old).await, "{said}");
        assert!(!is_trusted(address, &new).await, "{said}");
    }
    write(&new);
    tls.reload().unwrap();
    assert!(is_trusted(address, &new).await);
    assert!(!is_trusted(address, &old).await);
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (one, other) = (make(), make());
    let tls = ServerTls::from_pem(one.chain.as_bytes(), one.key.as_bytes()).unwrap();
    let error = tls.replace_pem(one.chain.as_bytes(), other.key.as_bytes());
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("the server's certificate")
    );
    let of_nobody = KeyPair::generate().unwrap().serialize_pem();
    assert!(ServerTls::from_pem(one.chain.as_bytes(), of_nobody.as_bytes()).is_err());
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("does not come from files"), "{error}");
}

fn directory() -> PathBuf {
    let path = std::env::temp_dir().join(format!("sockeye-certificates-{}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// In words, and not in those of whoever reads the bytes.
#[test]
fn what_is_wrong_with_a_key_is_said() {
    let (made, other) = (make(), make());
    let encrypted = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
        DEK-Info: AES-128-CBC,00\n\nAAAA\n-----END EC PRIVATE KEY-----\n";
    let labelled =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (key, why) in [
        (&other.key[..], "the key does not belong to the certificate"),
        (&made.chain, "there is no private key in the PEM"),
        ("", "there is no private key in the PEM"),
        (encrypted, "the key is encrypted"),
        (labelled, "the key is encrypted"),
        (
            "-----BEGIN PRIVATE KEY-----\n%\n-----END PRIVATE KEY-----\n",
            "the key is no PEM",
        ),
    ] {
        let error = ServerTls::from_pem(made.chain.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        if key != other.key {
            let client = ClientTls::new().certificate_pem(made.chain.as_bytes(), key.as_bytes());
            assert!(client.unwrap_err().to_string().contains(why), "{error}");
        }
    }
    for (chain, why) in [
        (&made.key[..], "there is no certificate in the PEM"),
        (
            "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n",
            "the certificate is no PEM",
        ),
    ] {
        let error = ServerTls::from_pem(chain.as_bytes(), made.key.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

/// A server over TLS that serves nobody, and what it tells of whom.
async fn telling(
    made: &Made,
    handshake_timeout: Duration,
) -> (
    SocketAddr,
    mpsc::UnboundedReceiver<(Option<SocketAddr>, String)>,
) {
    let tls = ServerTls::from_pem(made.chain.as_bytes(), made.key.as_bytes()).unwrap();
    let acceptor = Acceptor::new()
        .tls(tls)
        .handshake_timeout(handshake_timeout);
    let (tell, told) = mpsc::unbounded_channel();
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let server = server
        .acceptor(acceptor)
        .on_error(move |peer, error| tell.send((peer, error.to_string())).unwrap());
    tokio::spawn(server.serve(async |_| Ok(())));
    (address, told)
}

fn no_tls(from: SocketAddr) -> (Option<SocketAddr>, String) {
    (
        Some(from),
        format!("TLS with {from} failed: the client speaks no TLS"),
    )
}

/// A bug: they were given an alert of TLS, which a browser shows as an empty page.
#[tokio::test]
async fn whoever_speaks_no_tls_is_told_to() {
    let made = make();
    let (address, mut told) = telling(&made, Duration::from_secs(20)).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: here\r\n\r\n",
        "HEAD / HTTP/1.1\r\nHost: here\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "G",
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within(stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let text = match request.starts_with("HEAD") {
            true => "",
            false => "this port speaks TLS: use https:// or wss://\n",
        };
        assert_eq!(body, text);
        let from = stream.local_addr().unwrap();
        assert_eq!(within(told.recv()).await, Some(no_tls(from)));
    }
    let refused = within(sockeye::connect(&format!("ws://{address}/")))
        .await
        .unwrap_err();
    assert_eq!(refused.response().unwrap().status(), 400);
    assert!(
        within(told.recv())
            .await
            .unwrap()
            .1
            .ends_with("speaks no TLS")
    );
    // What is neither is TLS that is broken, and TLS may come by itself.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"ssh or so").await.unwrap();
    within(stream.read_to_end(&mut Vec::new())).await.unwrap();
    let (_, error) = within(told.recv()).await.unwrap();
    assert!(!error.contains("speaks no TLS"), "{error}");
    let _socket = connect(address, &made.client()).await.unwrap();
}

/// It is told of as what it is, though the handshake's time is over by then.
#[tokio::test]
async fn whoever_speaks_no_tls_and_stays_is_let_go_of() {
    let (address, mut told) = telling(&make(), Duration::from_millis(500)).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let from = stream.local_addr().unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert_eq!(within(told.recv()).await, Some(no_tls(from)));
}
