//! From a URL to an open connection, and every way to fail (RFC 6455 §4.1).

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::TcpListener,
    time::Instant,
};

use sockeye_proto::{
    Role,
    handshake::{Acceptance, HandshakeError, Request},
};

use super::{super::upgrade::BODY_PATIENCE, *};
use crate::Deadline;

/// A server that reads one request and answers with what a script makes of it.
async fn scripted(
    mut stream: DuplexStream,
    script: impl FnOnce(Request) -> Vec<u8>,
) -> DuplexStream {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = script(Request::parse(&head).unwrap());
    stream.write_all(&answer).await.unwrap();
    stream
}

/// The answer that the standard asks for.
fn accepting(request: &Request) -> Acceptance {
    Acceptance::new(&request.check().unwrap())
}

/// What a client makes of an answer; the server's end stays open meanwhile.
async fn answered(client: Client, script: impl FnOnce(Request) -> Vec<u8>) -> Result<Established> {
    let (ours, theirs) = duplex(1024);
    let (established, _server) =
        tokio::join!(client.establish_over(ours), scripted(theirs, script));
    established
}

fn client() -> Client {
    Client::new("ws://example.com:81/chat?a=b")
}

#[tokio::test]
async fn section_4_1_the_request_says_what_was_asked_for() {
    let client = client()
        .origin("http://a")
        .subprotocol("x")
        .subprotocol("y")
        .deflate(None)
        .header("Cookie", "c=d");
    let established = answered(client, |request| {
        assert_eq!(request.target(), "/chat?a=b");
        let header = |name| request.headers().first_str(name);
        assert_eq!(header("Host"), Some("example.com:81"));
        assert_eq!(header("Origin"), Some("http://a"));
        assert_eq!(header("Sec-WebSocket-Protocol"), Some("x, y"));
        assert_eq!(header("Sec-WebSocket-Extensions"), None);
        assert_eq!(header("Cookie"), Some("c=d"));
        let mut answer = accepting(&request);
        answer.subprotocol("y").header("Set-Cookie", "e=f").unwrap();
        answer.to_bytes()
    })
    .await
    .unwrap();
    assert!(matches!(established.role, Role::Client { .. }));
    assert_eq!(established.subprotocol.as_deref(), Some("y"));
    assert_eq!(established.deflate, None);
    assert_eq!(established.early.capacity(), 0);
    let response = established.peer_head.response().unwrap();
    assert_eq!(response.headers().first_str("Set-Cookie"), Some("e=f"));
    assert!(established.peer_head.request().is_none());
}

#[tokio::test]
async fn every_connection_has_a_key_of_its_own() {
    let mut keys = Vec::new();
    let client = client();
    for _ in 0..2 {
        answered(client.clone(), |request| {
            keys.push(
                request
                    .headers()
                    .first("Sec-WebSocket-Key")
                    .unwrap()
                    .to_vec(),
            );
            accepting(&request).to_bytes()
        })
        .await
        .unwrap();
    }
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn bytes_behind_the_head_are_kept() {
    let established = answered(client(), |request| {
        [&accepting(&request).to_bytes()[..], b"\x81\x02hi"].concat()
    })
    .await;
    assert_eq!(established.unwrap().early, b"\x81\x02hi");
}

#[tokio::test]
async fn answers_that_announce_another_are_passed_over() {
    let established = answered(client(), |request| {
        let answer = accepting(&request).to_bytes();
        [
            b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
            &answer[..],
            b"\x81\x02hi",
        ]
        .concat()
    })
    .await
    .unwrap();
    assert_eq!(established.early, b"\x81\x02hi");
    let response = established.peer_head.response().unwrap();
    assert_eq!(response.status(), 101);
}

#[tokio::test]
async fn an_answer_may_come_a_byte_at_a_time() {
    let (ours, theirs) = duplex(1);
    let client = client();
    let server = scripted(theirs, |request| accepting(&request).to_bytes());
    let (established, _server) = tokio::join!(client.establish_over(ours), server);
    assert!(established.is_ok());
}

#[tokio::test]
async fn section_4_1_answers_that_break_a_rule_fail() {
    type Break = fn(String) -> String;
    let breaks: &[(Break, HandshakeError)] = &[
        (
            |s| s.replace("Upgrade: websocket", "Upgrade: h2c"),
            HandshakeError::Upgrade,
        ),
        (
            |s| s.replace("Connection: Upgrade", "Connection: close"),
            HandshakeError::Connection,
        ),
        (
            |s| s.replace("Accept: ", "Accept: A"),
            HandshakeError::Accept,
        ),
        (
            |s| s.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: z\r\n\r\n"),
            HandshakeError::SubprotocolNotOffered("z".into()),
        ),
        (
            |s| s.replace("HTTP/1.1", "SSH/2.0"),
            HandshakeError::Malformed("it is not HTTP"),
        ),
    ];
    for (spoil, expected) in breaks {
        let error = answered(client(), |request| {
            let answer = String::from_utf8(accepting(&request).to_bytes()).unwrap();
            spoil(answer).into_bytes()
        })
        .await
        .unwrap_err();
        let found = match error.cause() {
            Error::Answer { problem, .. } => problem.clone(),
            Error::Unreadable { problem, .. } => HandshakeError::Malformed(problem),
            _ => panic!("{error:?}"),
        };
        assert_eq!(found, *expected);
    }
}

#[tokio::test]
async fn an_extension_that_was_not_offered_fails() {
    let error = answered(client().deflate(None), |request| {
        let mut answer = accepting(&request);
        answer.extensions("permessage-deflate");
        answer.to_bytes()
    })
    .await
    .unwrap_err();
    assert!(
        matches!(
            error.cause(),
            Error::Answer {
                problem: HandshakeError::Extension(_),
                ..
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn another_status_brings_headers_and_the_beginning_of_the_body() {
    for (framing, body) in [
        ("Content-Length: 7", "no room"),
        ("Transfer-Encoding: chunked", "7\r\nno room\r\n0\r\n\r\n"),
    ] {
        let error = answered(client(), |_| {
            format!("HTTP/1.1 503 Full\r\n{framing}\r\nRetry-After: 9\r\n\r\n{body}").into_bytes()
        })
        .await
        .unwrap_err();
        let Error::Handshake(HandshakeError::Status(response)) = error.cause() else {
            panic!("{error:?}");
        };
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().first_str("Retry-After"), Some("9"));
        assert_eq!(response.body(), b"no room");
        assert!(error.to_string().contains("503 Full"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_not_waited_for_long() {
    let begin = Instant::now();
    let error = answered(client(), |_| b"HTTP/1.1 404 x\r\n\r\nsome".to_vec())
        .await
        .unwrap_err();
    let Error::Handshake(HandshakeError::Status(response)) = error.cause() else {
        panic!("{error:?}");
    };
    assert_eq!(response.body(), b"some");
    assert_eq!(begin.elapsed(), BODY_PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_left_at_the_deadline() {
    let three = Duration::from_secs(3);
    #[cfg(feature = "tls")]
    let tls = || Client::new("wss://a").tls(ClientTls::new().dangerous_accept_any_certificate());
    for (client, deadline, seconds) in [
        (client(), Deadline::Handshake, 10),
        (client().handshake_timeout(three), Deadline::Handshake, 3),
        (
            client().handshake_timeout(Duration::ZERO),
            Deadline::Handshake,
            0,
        ),
        #[cfg(feature = "tls")]
        (tls(), Deadline::Tls, 10),
        #[cfg(feature = "tls")]
        (
            tls().tls_timeout(three).handshake_timeout(Duration::ZERO),
            Deadline::Tls,
            3,
        ),
    ] {
        let (ours, _theirs) = duplex(64 * 1024);
        let begin = Instant::now();
        let error = client.establish_over(ours).await.unwrap_err();
        assert!(
            matches!(error.cause(), Error::Timeout(passed) if *passed == deadline),
            "{error:?}"
        );
        assert_eq!(begin.elapsed().as_secs(), seconds);
    }
}

#[tokio::test]
async fn a_server_that_leaves_is_noticed() {
    let (ours, theirs) = duplex(1024);
    let client = client();
    let server = async { drop(scripted(theirs, |_| b"HTTP/1.1 10".to_vec()).await) };
    let (error, ()) = tokio::join!(client.establish_over(ours), server);
    assert!(matches!(
        error.unwrap_err().cause(),
        Error::Handshake(HandshakeError::UnexpectedEnd)
    ));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_before_anyone_is_asked() {
    // Nobody listens on port 1; it would be a `Connect` error.
    let client = || Client::new("ws://127.0.0.1:1");
    for (client, words) in [
        (client().header("X", "a\r\nHost: b"), "\"X\" cannot be sent"),
        (
            client().header("Host", "b"),
            "Host belongs to the handshake",
        ),
        (
            client().header("sec-websocket-key", "b"),
            "belongs to the handshake",
        ),
        (
            client().subprotocol("a").subprotocol("b c"),
            "the subprotocol number 2 is not a token: ' ' is in it",
        ),
        (client().subprotocol("é"), "number 1 is not a token: 'é'"),
        (
            client().subprotocol(""),
            "number 1 is not a token: it is empty",
        ),
        (
            client().subprotocol("a").subprotocol("b").subprotocol("a"),
            "the subprotocol number 3 is offered already, as number 1",
        ),
        (client().origin("a\nb"), "\"Origin\" cannot be sent"),
    ] {
        let error = client.establish().await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.is_user(), "{error:?}");
    }
    let error = Client::new("ws://a/#b").establish().await.unwrap_err();
    assert!(matches!(error.cause(), Error::Url(_)), "{error:?}");
}

#[tokio::test]
async fn what_may_be_a_token_is_in_no_error_and_not_printed() {
    let client = |url: &str| Client::new(url);
    let token = || client("ws://127.0.0.1:1").subprotocol("bearer.secret");
    for client in [
        client("ws://a/?token=secret#b"),
        client("ws://a/#token=secret"),
        client("gopher://a/?token=secret"),
        client("ws://127.0.0.1:1").subprotocol("bearer.secret=="),
        token().subprotocol("bearer.secret"),
        client("ws://127.0.0.1:1").cookie("a=secret", "b"),
        client("ws://127.0.0.1:1").cookie("a", "secret value"),
    ] {
        let error = client.establish().await.unwrap_err();
        assert!(error.is_user(), "{error:?}");
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!format!("{client:?}").contains("secret"), "{client:?}");
    }
    let shown = format!("{:?}", token());
    assert!(shown.contains("subprotocols: 1"), "{shown}");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Client::new(format!("ws://{address}"))
        .establish()
        .await
        .unwrap_err();
    assert!(error.is_connect());
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn the_handshake_leaves_nothing_in_the_callers_future() {
    let client = client();
    let size = size_of_val(&client.establish());
    assert!(size < 1024, "{size} bytes");
}

/// Client and server of this library, over real sockets.
#[cfg(feature = "server")]
mod with_our_server {
    use super::*;
    use crate::server::{Acceptor, Refusal};

    async fn both(
        client: impl FnOnce(SocketAddr) -> Client,
        acceptor: Acceptor,
    ) -> (Result<Established>, Result<Established>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(listener.local_addr().unwrap());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            acceptor.establish(stream).await
        };
        tokio::join!(client.establish(), server)
    }

    #[tokio::test]
    async fn they_agree() {
        let client = |address| Client::new(format!("ws://{address}/a")).subprotocol("chat");
        let (client, server) = both(client, Acceptor::new().subprotocol("chat")).await;
        let (client, server) = (client.unwrap(), server.unwrap());
        assert_eq!(client.subprotocol.as_deref(), Some("chat"));
        assert_eq!(server.subprotocol.as_deref(), Some("chat"));
        let params = |end: &Established| end.deflate.map(|(_, params)| params);
        assert_eq!(params(&client), params(&server));
        assert_eq!(params(&client).is_some(), cfg!(feature = "deflate"));
        let Stream::Tcp(tcp) = &client.stream else {
            panic!("{:?}", client.stream);
        };
        assert!(tcp.nodelay().unwrap());
        assert_eq!(Some(tcp.local_addr().unwrap()), server.peer_addr);
        assert_eq!(Some(tcp.peer_addr().unwrap()), client.peer_addr);
    }

    #[tokio::test]
    async fn a_name_is_resolved() {
        let client =
            |address: SocketAddr| Client::new(format!("ws://localhost:{}", address.port()));
        let (client, server) = both(client, Acceptor::new()).await;
        assert!(client.is_ok() && server.is_ok(), "{client:?}");
    }

    #[tokio::test]
    async fn the_client_learns_why_it_is_refused() {
        let acceptor =
            Acceptor::new().on_request(async |_| Err(Refusal::new(401, "who are you?\n")));
        let (client, _) = both(|address| Client::new(format!("ws://{address}")), acceptor).await;
        let error = client.unwrap_err();
        let response = error.response().unwrap();
        assert_eq!(response.status(), 401);
        assert_eq!(response.body(), b"who are you?\n");
    }

    #[cfg(feature = "tls")]
    mod tls {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

        use super::*;
        use crate::server::ServerTls;

        /// An authority, and a certificate and key it has signed, in PEM.
        struct Pki {
            ca: String,
            certificate: String,
            key: String,
        }

        fn pki(name: &str) -> Pki {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca_key = KeyPair::generate().unwrap();
            let ca = params.self_signed(&ca_key).unwrap();
            let issuer = Issuer::new(params, ca_key);
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.into()]).unwrap();
            let certificate = params.signed_by(&key, &issuer).unwrap();
            Pki {
                ca: ca.pem(),
                certificate: certificate.pem(),
                key: key.serialize_pem(),
            }
        }

        fn server(pki: &Pki) -> Acceptor {
            let tls = ServerTls::from_pem(pki.certificate.as_bytes(), pki.key.as_bytes());
            Acceptor::new().tls(tls.unwrap())
        }

        fn trusting(pki: &Pki) -> ClientTls {
            ClientTls::new().ca_pem(pki.ca.as_bytes()).unwrap()
        }

        fn to_localhost(tls: ClientTls) -> impl FnOnce(SocketAddr) -> Client {
            move |address| Client::new(format!("wss://localhost:{}", address.port())).tls(tls)
        }

        #[tokio::test]
        async fn an_own_authority_is_trusted() {
            let pki = pki("localhost");
            let (client, server) = both(to_localhost(trusting(&pki)), server(&pki)).await;
            let (client, server) = (client.unwrap(), server.unwrap());
            assert!(matches!(client.stream, Stream::ClientTls(_)));
            assert!(matches!(server.stream, Stream::ServerTls(_)));
            assert!(server.peer_addr.is_some());
        }

        #[tokio::test]
        async fn an_unknown_authority_is_not() {
            let pki = pki("localhost");
            for tls in [ClientTls::new(), trusting(&super::tls::pki("localhost"))] {
                let (client, server) = both(to_localhost(tls), server(&pki)).await;
                let error = client.unwrap_err();
                assert!(error.is_connect(), "{error:?}");
                let message = error.to_string();
                assert!(
                    message.contains("/: TLS with localhost failed"),
                    "{message}"
                );
                assert!(message.contains("certificate"), "{message}");
                assert!(matches!(server, Err(Error::Tls { .. })), "{server:?}");
            }
        }

        #[tokio::test]
        async fn a_certificate_of_another_name_is_not() {
            let pki = pki("example.com");
            let (client, _) = both(to_localhost(trusting(&pki)), server(&pki)).await;
            let error = client.unwrap_err();
            assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
        }

        #[tokio::test]
        async fn any_certificate_is_where_the_user_says_so() {
            let tls = ClientTls::new().dangerous_accept_any_certificate();
            let (client, _) = both(to_localhost(tls), server(&pki("example.com"))).await;
            assert!(client.is_ok(), "{client:?}");
        }

        #[tokio::test]
        async fn a_client_shows_its_certificate() {
            let (ours, theirs) = (pki("client"), pki("localhost"));
            let acceptor = || {
                use rustls::{
                    RootCertStore, ServerConfig,
                    crypto::aws_lc_rs,
                    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
                    server::WebPkiClientVerifier,
                };
                let provider = Arc::new(aws_lc_rs::default_provider());
                let certificate =
                    |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
                let mut roots = RootCertStore::empty();
                roots.add(certificate(&ours.ca)).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
                        .build()
                        .unwrap();
                let config = ServerConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(
                        vec![certificate(&theirs.certificate)],
                        PrivateKeyDer::from_pem_slice(theirs.key.as_bytes()).unwrap(),
                    )
                    .unwrap();
                Acceptor::new().tls(ServerTls::from_config(Arc::new(config)))
            };
            let (client, server) = both(to_localhost(trusting(&theirs)), acceptor()).await;
            assert!(client.is_err());
            assert!(matches!(server, Err(Error::Tls { .. })), "{server:?}");
            let tls = trusting(&theirs)
                .certificate_pem(ours.certificate.as_bytes(), ours.key.as_bytes())
                .unwrap();
            let (client, server) = both(to_localhost(tls), acceptor()).await;
            assert!(client.is_ok() && server.is_ok(), "{client:?} {server:?}");
        }

        #[tokio::test]
        async fn it_runs_over_a_stream_of_the_users() {
            let pki = pki("localhost");
            let (ours, theirs) = duplex(4096);
            let client = Client::new("wss://localhost/").tls(trusting(&pki));
            let acceptor = server(&pki);
            let (client, server) =
                tokio::join!(client.establish_over(ours), acceptor.establish(theirs));
            assert!(matches!(client.unwrap().stream, Stream::Other(_)));
            assert!(matches!(server.unwrap().stream, Stream::Other(_)));
        }

        #[tokio::test]
        async fn plain_and_tls_do_not_wait_for_each_other() {
            let pki = pki("localhost");
            let plain = |address| Client::new(format!("ws://{address}"));
            let (client, acceptor) = both(plain, server(&pki)).await;
            assert!(client.is_err());
            assert!(matches!(acceptor, Err(Error::Tls { .. })), "{acceptor:?}");
            let (client, acceptor) = both(to_localhost(trusting(&pki)), Acceptor::new()).await;
            let error = client.unwrap_err();
            assert!(matches!(error.cause(), Error::Tls { .. }), "{error:?}");
            assert!(acceptor.unwrap_err().to_string().contains("TLS"));
        }

        #[test]
        fn bad_pem_says_what_is_missing() {
            let good = pki("a");
            let message = |result: Result<ClientTls>| result.unwrap_err().to_string();
            let nothing = message(ClientTls::new().ca_pem(b"nothing"));
            assert!(nothing.contains("no certificate"), "{nothing}");
            let swapped = ClientTls::new()
                .certificate_pem(good.certificate.as_bytes(), good.certificate.as_bytes());
            assert!(message(swapped).contains("the client's certificate"));
            let foreign = pki("b");
            let error = ServerTls::from_pem(good.certificate.as_bytes(), foreign.key.as_bytes());
            assert!(matches!(error, Err(Error::Tls { .. })));
            let error = ServerTls::from_pem_files("/no/such/file.pem", "/no/such/key.pem");
            let message = error.unwrap_err().to_string();
            assert!(message.contains("/no/such/file.pem"), "{message}");
        }
    }
}
