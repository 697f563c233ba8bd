//! Through proxies, and every way in which they fail.

use std::{net::SocketAddr, time::Duration};

use sockeye::{
    Acceptor, Client, Error, HandshakeError,
    client::{Cause, Proxy, ProxyError, Reconnecting, Update},
    server::Answer,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::network::*;

/// "user:secret", as `Basic` has it.
const BASIC: &str = "dXNlcjpzZWNyZXQ=";

/// To a server, which need not be there, by a proxy.
fn via(proxy: &str, url: &str) -> Client {
    Client::new(url).proxy(proxy.parse().unwrap())
}

/// The proxy's error. It names the proxy, and no secret.
async fn refusal(client: &Client, proxy: SocketAddr) -> (ProxyError, String) {
    let error = failure(client).await;
    let shown = format!("{error} {error:?} {client:?}");
    assert!(
        !shown.contains("secret") && !shown.contains(BASIC),
        "{shown}"
    );
    let message = error.to_string();
    assert!(message.contains(&proxy.to_string()), "{message}");
    assert!(error.is_connect(), "{error:?}");
    match error.cause() {
        Error::Proxy { source, .. } => (ProxyError::clone(source), message),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn a_tunnel_is_asked_for_by_name_for_ws_too() {
    let (server, _) = echo().await;
    let (proxy, asked) = proxy(None, None).await;
    let url = format!("ws://localhost:{}/", server.port());
    echoes(&via(&format!("http://{proxy}"), &url))
        .await
        .unwrap();
    let target = format!("localhost:{}", server.port());
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n");
    assert_eq!(asked.all(), [request]);
}

#[tokio::test]
async fn tls_with_the_server_runs_inside_the_tunnel() {
    let pki = Pki::new();
    let (server, _) = server(Acceptor::new().tls(pki.server()), |_| Ok(Answer::new())).await;
    let (proxy, asked) = proxy(None, None).await;
    let client = via(&format!("{proxy}"), &format!("wss://{server}/")).tls(pki.trusted());
    echoes(&client).await.unwrap();
    assert_eq!(asked.all().len(), 1);
}

#[tokio::test]
async fn tls_with_the_proxy_has_tls_with_the_server_inside() {
    let (ours, theirs) = (Pki::new(), Pki::new());
    let acceptor = Acceptor::new().tls(ours.server());
    let (server, _) = server(acceptor, |_| Ok(Answer::new())).await;
    let (plain, _) = echo().await;
    let (proxy, asked) = proxy(Some(&theirs), Some(BASIC)).await;
    let url = format!("https://user:secret@localhost:{}", proxy.port());
    let trusted: Proxy = url.parse().unwrap();
    for url in [format!("wss://{server}/"), format!("ws://{plain}/")] {
        let client = Client::new(&url).proxy(trusted.clone().tls(theirs.trusted()));
        let client = client.tls(ours.trusted());
        echoes(&client).await.unwrap();
        let socket = client.connect().await.unwrap();
        assert_eq!(socket.peer_addr(), Some(proxy), "{url}");
    }
    assert_eq!(asked.all().len(), 4);

    // Whom to trust as the server says nothing about the proxy.
    let client = Client::new(format!("wss://{server}/")).tls(theirs.trusted());
    let error = failure(&client.proxy(trusted)).await;
    assert!(matches!(error.cause(), Error::Proxy { .. }), "{error:?}");
    assert!(
        error.to_string().contains("TLS with localhost failed"),
        "{error}"
    );
}

#[tokio::test]
async fn credentials_are_sent_at_once_and_those_set_replace_those_of_the_url() {
    let (server, seen) = echo().await;
    let (proxy, asked) = proxy(None, Some(BASIC)).await;
    let url = format!("ws://{server}/");
    echoes(&via(&format!("http://us%65r:secret@{proxy}"), &url))
        .await
        .unwrap();
    let other: Proxy = format!("http://a:b@{proxy}").parse().unwrap();
    let client = Client::new(url).proxy(other.credentials("user", "secret"));
    echoes(&client).await.unwrap();
    assert_eq!(asked.all().len(), 2);
    for request in seen.all() {
        assert_eq!(request.headers().first("Proxy-Authorization"), None);
        assert_eq!(request.headers().first("Authorization"), None);
    }
}

#[tokio::test]
async fn a_proxy_that_wants_credentials_says_so() {
    let (address, _) = proxy(None, Some(BASIC)).await;
    for (url, words) in [
        (
            format!("http://{address}"),
            "it wants a user name and a password",
        ),
        (
            format!("http://user:secret2@{address}"),
            "it does not take the user name and password given",
        ),
    ] {
        let (error, message) = refusal(&via(&url, "ws://a.invalid/"), address).await;
        assert!(matches!(error, ProxyError::Status { .. }), "{error:?}");
        assert!(message.contains("407 Who are you"), "{message}");
        assert!(message.ends_with(words), "{message}");
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_reach_the_server_is_named_with_its_status() {
    let (address, _) = proxy(None, None).await;
    let server = format!("ws://{}/", nobody().await);
    let (error, message) = refusal(&via(&address.to_string(), &server), address).await;
    let ProxyError::Status { response, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(response.status(), 502);
    assert!(message.contains("502 Bad Gateway"), "{message}");
}

#[tokio::test]
async fn what_a_proxy_says_that_refuses_is_kept() {
    // It promises more than it says.
    let address = scripted(b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nnot here").await;
    let client = via(&address.to_string(), "ws://a.invalid/");
    // It is not waited for until the deadline would be told of.
    for timeout in [Duration::from_secs(10), Duration::from_millis(500)] {
        let (error, _) = refusal(&client.clone().connect_timeout(timeout), address).await;
        let ProxyError::Status { response, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(response.body(), b"not here");
    }
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let address = nobody().await;
    for scheme in ["http", "https", "socks5", "socks5h"] {
        let url = format!("{scheme}://user:secret@{address}");
        let (error, _) = refusal(&via(&url, "ws://127.0.0.1:1/"), address).await;
        assert!(
            matches!(error, ProxyError::Unreachable(Error::Connect { .. })),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_is_left_at_the_connect_timeout() {
    let address = scripted(b"HTTP/1.1 200 ").await;
    for scheme in ["http", "https", "socks5", "socks5h"] {
        let client = via(
            &format!("{scheme}://user:secret@{address}"),
            "ws://127.0.0.1:1/",
        );
        let client = client.connect_timeout(Duration::from_millis(50));
        let (error, _) = refusal(&client, address).await;
        assert!(matches!(error, ProxyError::TimedOut), "{error:?}");
        let error = failure(&client).await;
        assert!(error.is_timeout());
        assert!(Cause::Attempt(error).is_transient());
    }
}

/// Of the other addresses it was told that there was no time left to reach the proxy.
#[tokio::test]
async fn a_proxy_that_was_reached_is_told_so_for_any_number_of_addresses() {
    let address = scripted(b"").await;
    let addresses = (1..=20).map(|last| SocketAddr::from(([192, 0, 2, last], 0)));
    let client = via(&format!("socks5://{address}"), "ws://many.invalid/")
        .resolve("many.invalid", addresses)
        .connect_timeout(Duration::from_millis(200));
    let (error, _) = refusal(&client, address).await;
    assert!(matches!(error, ProxyError::TimedOut), "{error:?}");
}

/// A bug: what this end has to do with the proxy was asked of the server's addresses.
#[tokio::test]
async fn a_local_address_is_of_the_proxys_family_and_not_of_the_servers() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut hello, mut request) = ([0; 3], [0; 22]);
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&[5, 0]).await.unwrap();
        stream.read_exact(&mut request).await.unwrap();
        // Refused.
        stream.write_all(&[5, 5, 0, 1]).await.unwrap();
        request
    });
    let client = via(&format!("socks5://{address}"), "ws://six.invalid:7/")
        .resolve("six.invalid", ["[2001:db8::6]:0".parse().unwrap()])
        .local_address([127, 0, 0, 1].into());
    let (error, _) = refusal(&client, address).await;
    assert!(
        matches!(error, ProxyError::Socks { reply: 5, .. }),
        "{error:?}"
    );
    assert_eq!(asked.await.unwrap()[..6], [5, 1, 0, 4, 0x20, 0x01]);
}

/// A bug: a password that is wrong was sent once for each address of the server, and accounts are locked for that.
#[tokio::test]
async fn a_proxy_that_refuses_a_password_is_given_it_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Seen::new();
    tokio::spawn({
        let asked = asked.clone();
        async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 100];
                for answer in [[5, 2], [1, 1]] {
                    let read = stream.read(&mut request).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                    asked.push(request[..read].to_vec());
                }
            }
        }
    });
    let addresses = (1..=20).map(|last| SocketAddr::from(([192, 0, 2, last], 0)));
    let client = via(
        &format!("socks5://user:secret@{address}"),
        "ws://many.invalid/",
    )
    .resolve("many.invalid", addresses.collect::<Vec<_>>());
    let (error, message) = refusal(&client, address).await;
    assert!(
        matches!(error, ProxyError::Credentials { given: true }),
        "{message}"
    );
    let greeting_and_password = 2;
    assert_eq!(asked.all().len(), greeting_and_password);
}

/// A bug: only a server's `Retry-After` was obeyed.
#[tokio::test]
async fn a_proxy_that_asks_to_be_left_alone_is() {
    let address = scripted(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\n\r\n").await;
    let client = via(&format!("http://{address}"), "ws://a.invalid/");
    let mut socket = Reconnecting::new(client).base_delay(Duration::from_secs(1));
    loop {
        if let Some(Update::Waiting { delay, .. }) = socket.recv_update().await.unwrap() {
            assert!((7..=8).contains(&delay.as_secs()), "{delay:?}");
            break;
        }
    }
}

/// A bug: a server without an address was said to be what is wrong with the proxy.
#[tokio::test]
async fn a_server_without_an_address_is_no_fault_of_the_proxy() {
    let proxy = format!("socks5://{}", nobody().await);
    let error = failure(&via(&proxy, "ws://a.invalid/")).await;
    assert!(
        matches!(error.cause(), Error::Resolve { host, .. } if &host[..] == "a.invalid"),
        "{error:?}"
    );
}

/// A bug: TLS 1.3 tells so with the first bytes that are read, and that was an [`Error::Lost`].
#[tokio::test]
async fn a_proxy_that_wants_a_certificate_is_not_asked_again() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let tls = tokio_rustls::TlsAcceptor::from(pki.strict_config());
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        // Kept: what was not read of it would reset the connection.
        let refused = tls.accept(tcp).into_fallible().await;
        assert!(refused.is_err());
        std::future::pending::<()>().await;
    });
    let proxy: Proxy = url.parse().unwrap();
    let client = Client::new("ws://a.invalid/").proxy(proxy.tls(pki.trusted()));
    let error = failure(&client).await;
    let Error::Proxy { source, .. } = error.cause() else {
        panic!("{error:?}");
    };
    assert!(
        matches!(**source, ProxyError::Unreachable(Error::Tls { .. })),
        "{error:?}"
    );
    assert!(!Cause::Attempt(error).is_transient());
}

#[tokio::test]
async fn an_answer_of_a_proxy_is_bounded_and_strict() {
    let endless: &'static [u8] = [&b"HTTP/1.1 200 x\r\nA: "[..], &[b'A'; 20_000]]
        .concat()
        .leak();
    type Check = fn(&ProxyError) -> bool;
    let many: &'static [u8] = b"HTTP/1.1 103 x\r\n\r\n".repeat(9).leak();
    let cases: [(&'static [u8], Check); 6] = [
        (endless, |error| {
            matches!(error, ProxyError::Http(HandshakeError::HeadTooLarge { .. }))
        }),
        (b"SSH-2.0\r\n", |error| {
            matches!(error, ProxyError::Http(HandshakeError::Malformed(_)))
        }),
        (b"HTTP/1.1 200 x\r\n\r\nHTTP/1.1 101", |error| {
            matches!(error, ProxyError::Malformed("something follows its answer"))
        }),
        // Answers that say that another is to come (RFC 9110 §15.2), and too many of them.
        (
            b"HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 x\r\n\r\nHTTP/1.1 101",
            |error| matches!(error, ProxyError::Malformed("something follows its answer")),
        ),
        (
            many,
            |error| matches!(error, ProxyError::Status { response, .. } if response.status() == 103),
        ),
        (b"HTTP/1.1 302 x\r\nLocation: http://a/\r\n\r\n", |error| {
            matches!(error, ProxyError::Status { .. })
        }),
    ];
    for (answer, is_right) in cases {
        let address = scripted(answer).await;
        // Not even a redirect of a proxy's is followed.
        let client = via(&address.to_string(), "ws://a.invalid/").redirects(5);
        let (error, _) = refusal(&client, address).await;
        assert!(is_right(&error), "{error:?}");
    }
}

#[tokio::test]
async fn who_is_excepted_is_reached_directly() {
    let (server, _) = echo().await;
    let (proxy, asked) = proxy(None, None).await;
    let client = via(&proxy.to_string(), &format!("ws://{server}/"));
    echoes(&client.clone().no_proxy_for("127.0.0.0/8"))
        .await
        .unwrap();
    echoes(&client.clone().no_proxy()).await.unwrap();
    assert_eq!(asked.all().len(), 0);
    echoes(&client.no_proxy_for("10.0.0.0/8")).await.unwrap();
    assert_eq!(asked.all().len(), 1);
}

#[test]
fn urls_of_proxies_are_read_as_curl_reads_them() {
    for (text, shown) in [
        ("a", "http://a:1080"),
        ("a:80", "http://a:80"),
        ("http://a:80/path", "http://a:80"),
        ("HTTP://user:secret@A", "http://a:1080"),
        ("user:secret@a:1", "http://a:1"),
        ("https://a", "https://a:443"),
        ("https://a:443", "https://a:443"),
        ("https://a:80", "https://a:80"),
        ("socks5://[::1]:9", "socks5://[::1]:9"),
        ("socks5h://127.1", "socks5h://127.0.0.1:1080"),
    ] {
        let proxy: Proxy = text.parse().unwrap();
        assert_eq!(proxy.to_string(), shown, "{text}");
        assert!(!format!("{proxy:?}").contains("secret"));
    }
    for (text, words) in [
        ("socks4://user:secret@a", "socks5h://"),
        ("ftp://a", "socks5h://"),
        ("http://", "empty host"),
        ("", "empty host"),
        ("user:secret@a:99999", "port"),
    ] {
        let error = text.parse::<Proxy>().unwrap_err();
        assert!(
            error.is_user() && error.to_string().contains(words),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("secret"), "{error}");
    }
}
