//! The way of `sockeye connect` to its server: proxies, redirects, names, sockets, and who we are.

use std::{
    future::ready,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use sockeye::{
    Acceptor, Server,
    server::{Answer, Refusal, Request},
};
use tokio::sync::mpsc;

use crate::program::{self, End, Port, certificates, run, run_with, serve, something_else};

/// Connects, sends a line and gets it back: how that ended.
#[track_caller]
fn echoes(args: &[&str]) -> End {
    echoes_with(args, &[])
}

#[track_caller]
fn echoes_with(args: &[&str], proxies: &[(&str, &str)]) -> End {
    let args = [&["connect", "--linger", "0"], args].concat();
    let end = run_with(&args, "hello\n", proxies);
    assert_eq!(
        (end.status, end.stdout.as_str()),
        (Some(0), "hello\n"),
        "{}",
        end.stderr
    );
    end
}

/// The one line that says why it does not connect.
#[track_caller]
fn failure(args: &[&str]) -> String {
    let end = run(&[&["connect", "--quiet"], args].concat(), "");
    assert_eq!(end.status, Some(1), "{}", end.stderr);
    assert_eq!(end.stderr.lines().count(), 1, "{}", end.stderr);
    end.stderr
}

/// An HTTP proxy for whoever is `user:secret`, or for everyone, and the requests for tunnels.
fn proxy(for_everyone: bool) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = requests.clone();
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, seen) = (client.unwrap(), seen.clone());
            thread::spawn(move || tunnel(client, for_everyone, &seen));
        }
    });
    (address, requests)
}

fn tunnel(mut client: TcpStream, for_everyone: bool, seen: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    let is_known = head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n");
    let target = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head);
    if !(for_everyone || is_known) {
        client.write_all(b"HTTP/1.1 407 Who\r\n\r\n").unwrap();
        return;
    }
    let mut server = TcpStream::connect(target).unwrap();
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let (mut from_client, mut to_server) =
        (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_client, &mut to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Write);
}

mod proxies {
    use super::*;

    #[test]
    fn are_given_with_a_user_and_a_password_in_the_url_or_beside_it() {
        let server = serve(&[]);
        let (address, seen) = proxy(false);
        echoes(&["-x", &format!("http://user:secret@{address}"), &server.url]);
        let with = [
            "--proxy",
            &address.to_string(),
            "--proxy-user",
            "user:secret",
            &server.url,
        ];
        let end = echoes(&with);
        assert!(!end.stderr.contains("secret"), "{}", end.stderr);
        assert_eq!(seen.lock().unwrap().len(), 2);
    }

    #[test]
    fn that_want_a_password_lead_to_the_flag_for_it() {
        let (address, _) = proxy(false);
        let line = failure(&[
            "-x",
            &format!("http://user:wrong@{address}"),
            "ws://a.invalid/",
        ]);
        assert!(
            line.contains(&address.to_string()) && line.contains("407"),
            "{line}"
        );
        assert!(
            line.contains("--proxy-user") && !line.contains("wrong"),
            "{line}"
        );
    }

    #[test]
    fn of_the_environment_that_want_a_password_lead_to_what_gives_it() {
        let (address, _) = proxy(false);
        let proxies = [("http_proxy", &*address.to_string())];
        let end = run_with(&["connect", "--quiet", "ws://a.invalid/"], "", &proxies);
        let told = "give them with --proxy and --proxy-user, or in the proxy's URL";
        assert!(end.stderr.contains(told), "{}", end.stderr);
    }

    #[test]
    fn that_are_not_there_are_named() {
        let free = Port::new();
        for scheme in ["http", "socks5h"] {
            let proxy = format!("{scheme}://{}", free.address());
            let line = failure(&["-x", &proxy, "ws://a.invalid/"]);
            assert!(line.contains(&proxy), "{line}");
            assert!(
                line.contains("refused") && line.contains("--noproxy"),
                "{line}"
            );
        }
        let end = run(&["connect", "-x", "gopher://a", "ws://a.invalid/"], "");
        assert_eq!(end.status, Some(2), "{}", end.stderr);
        assert!(end.stderr.contains("socks5h://"), "{}", end.stderr);
    }

    /// A bug: all were told to be looked for at another address, and what they had said was not shown.
    #[test]
    fn that_refuse_are_told_with_what_they_say_and_what_helps() {
        let answers: [(&str, &[u8], &str); 10] = [
            (
                "http://",
                b"HTTP/1.1 403 No\r\nContent-Length: 9\r\n\r\nnot today",
                "it answered 403 No; it says: not today; its rules may not allow that server",
            ),
            (
                "http://",
                b"HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\n\r\n<p>no",
                "it answered 502 Bad; it may not reach that server: check the URL, or try again later",
            ),
            (
                "http://",
                b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
                "check the URL, or try again in 7 s",
            ),
            (
                "http://",
                b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n",
                "check --proxy and",
            ),
            (
                "http://",
                b"HTTP/1.1 407 Who\r\nProxy-Authenticate: Basic\r\n\r\n",
                "it wants a user name and a password; give them with --proxy and --proxy-user, or in the proxy's \
                 URL: it asks for Basic",
            ),
            (
                "http://me:secret@",
                b"HTTP/1.1 407 Who\r\n\r\n",
                "it does not take the user name and password given; check --proxy-user, or those in",
            ),
            (
                "http://",
                b"\x15\x03\x01\0\x02\x02\x46",
                "try https:// in the proxy's URL",
            ),
            (
                "https://",
                b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n",
                "the proxy may not speak TLS on this port: try http:// in",
            ),
            (
                "socks5h://",
                b"\x05\x00\x05\x05\x00\x01\0\0\0\0\0\0",
                "nothing listens there: check the port of the URL",
            ),
            (
                "socks5h://",
                b"\x05\x00\x05\x04\x00\x01\0\0\0\0\0\0",
                "check the URL, and the network of the proxy",
            ),
        ];
        for (begins, answer, told) in answers {
            let address = something_else(answer);
            let proxy = format!("{begins}{address}");
            let line = failure(&["-x", &proxy, "ws://a.invalid/"]);
            assert!(line.contains(told) && line.contains(&address), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
        let [authority, certificate, key] = certificates("unknown-proxy");
        let server = serve(&["--tls-cert", &certificate, "--tls-key", &key]);
        let proxy = server.url.replace("wss://", "https://");
        let line = failure(&["-x", &proxy, "ws://a.invalid/"]);
        assert!(
            line.contains("name its authority with --proxy-cacert"),
            "{line}"
        );
        let other = certificates("other-proxy")[0].clone();
        let line = failure(&["-x", &proxy, "--proxy-cacert", &other, "ws://a.invalid/"]);
        assert!(
            line.contains("check that /") && line.contains("signed its certificate"),
            "{line}"
        );
        let line = failure(&[
            "-x",
            &proxy,
            "--proxy-cacert",
            &authority,
            "ws://a.invalid/",
        ]);
        assert!(line.contains("failed: it answered 4"), "{line}");
    }

    /// It was said that nobody was reached, while the proxy was.
    #[test]
    fn that_are_there_and_say_nothing_are_told_so() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        for scheme in ["http", "https", "socks5", "socks5h"] {
            let proxy = format!("{scheme}://{address}");
            let line = failure(&[
                "-x",
                &proxy,
                "--connect-timeout",
                "0.2",
                "ws://127.0.0.1:1/",
            ]);
            let told =
                format!("the proxy {proxy} failed: it was reached, and did not connect us in time");
            assert!(line.contains(&told), "{line}");
            assert!(line.contains("check --proxy"), "{line}");
            assert!(line.contains("--connect-timeout"), "{line}");
        }
    }

    #[test]
    fn of_the_environment_are_used_unless_told_otherwise() {
        let server = serve(&[]);
        let (address, seen) = proxy(true);
        let address = address.to_string();
        let count = || seen.lock().unwrap().len();
        let proxies = [("http_proxy", address.as_str())];
        echoes_with(&[&server.url], &proxies);
        assert_eq!(count(), 1);
        for args in [
            ["--noproxy", "127.0.0.1"],
            ["--noproxy", "*"],
            ["--proxy", ""],
        ] {
            echoes_with(&[&args[..], &[&server.url]].concat(), &proxies);
        }
        echoes_with(&[&server.url], &[("HTTP_PROXY", &address)]);
        echoes_with(&[&server.url], &[proxies[0], ("NO_PROXY", "127.0.0.0/8")]);
        // A proxy that is given minds NO_PROXY as well; an empty list takes its place.
        let given = ["-x", &address, &server.url];
        echoes_with(&given, &[("NO_PROXY", "127.0.0.0/8")]);
        echoes_with(&given, &[("no_proxy", ""), ("NO_PROXY", "127.0.0.0/8")]);
        assert_eq!(count(), 1);
        echoes_with(
            &[&["--noproxy", ""], &given[..]].concat(),
            &[("NO_PROXY", "127.0.0.0/8")],
        );
        assert_eq!(count(), 2);
    }
}

/// An echo that answers as it is told, and the requests.
async fn server(
    look: impl Fn(&Request) -> Result<Answer, Refusal> + Send + Sync + 'static,
) -> (SocketAddr, mpsc::UnboundedReceiver<Request>) {
    let (requests, seen) = mpsc::unbounded_channel();
    let acceptor = Acceptor::new().on_request(move |request| {
        requests.send(Request::clone(&request)).unwrap();
        ready(look(&request))
    });
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    tokio::spawn(server.acceptor(acceptor).serve(async |mut socket| {
        while let Some(message) = socket.recv().await? {
            socket.send(message).await?;
        }
        Ok(())
    }));
    (address, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_a_password_and_cookies_are_sent_and_not_shown() {
    let (address, mut seen) = server(|_| Ok(Answer::new())).await;
    let plain = format!("ws://{address}/");
    let with = format!("ws://user:secret@{address}/");
    for args in [
        &["-u", "user:secret", "-b", "a=b", "--cookie", "c=d", &plain][..],
        &["--user", "user:secret", "-H", "Cookie: a=b; c=d", &plain],
        &["-b", "a=b; c=d", &with],
    ] {
        let end = tokio::task::block_in_place(|| echoes(args));
        assert!(!end.stderr.contains("secret"), "{}", end.stderr);
        assert!(end.stderr.contains(&plain), "{}", end.stderr);
        let request = seen.recv().await.unwrap();
        let header = |name| request.headers().first_str(name);
        assert_eq!(header("Authorization"), Some("Basic dXNlcjpzZWNyZXQ="));
        assert_eq!(header("Cookie"), Some("a=b; c=d"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_where_that_is_wanted() {
    let (address, _seen) = server(|request| match request.target() {
        "/there" => Ok(Answer::new()),
        target => {
            let next = if target == "/" { "/next" } else { "/there" };
            Err(Refusal::new(302, "").header("Location", next)?)
        }
    })
    .await;
    let url = format!("ws://{address}/");
    tokio::task::block_in_place(|| {
        for args in [["-L"], ["--location"]] {
            echoes(&[&args[..], &[&url]].concat());
        }
        echoes(&["-L", "--max-redirs", "2", &url]);
        let line = failure(&["-L", "--max-redirs", "1", &url]);
        assert!(
            line.contains("/there") && line.contains("allow more with --max-redirs"),
            "{line}"
        );
        // Nothing was shown of the one that is not followed.
        let shown = run(&["connect", "-vL", "--max-redirs", "1", &url], "").stderr;
        let answers = shown.matches("< 302 Found").count();
        assert!(
            answers == 1 && shown.contains("< Location: /there"),
            "{shown}"
        );
        let line = failure(&[&url]);
        assert!(line.contains("302") && line.contains("/next"), "{line}");
        assert!(line.contains("follow with --location"), "{line}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_what_is_no_websocket_is_not_offered_to_be_followed() {
    let (address, _seen) = server(|request| {
        let to = request.query().unwrap_or_default();
        Err(Refusal::new(302, "").header("Location", to)?)
    })
    .await;
    tokio::task::block_in_place(|| {
        for to in ["ftp://x/", "news:a.b", "FILE:///etc"] {
            let line = failure(&[&format!("ws://{address}/?{to}")]);
            assert!(line.contains(to) && line.contains("no WebSocket"), "{line}");
            assert!(!line.contains("--location"), "{line}");
        }
        for to in ["WSS://x/", "http:x", "//x/a:b", "a/b:c"] {
            let line = failure(&[&format!("ws://{address}/?{to}")]);
            assert!(line.contains("follow with --location"), "{line}");
        }
    });
}

/// The first server was blamed, and `--user` advised to whoever had given it.
#[tokio::test(flavor = "multi_thread")]
async fn the_server_that_fails_behind_a_redirect_is_named() {
    let (second, _seen) = server(|request| match request.target() {
        "/there" => Err(Refusal::new(404, "")),
        _ => Err(Refusal::new(401, "").header("WWW-Authenticate", "Basic")?),
    })
    .await;
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_url = format!("ws://{}/quiet", silent.local_addr().unwrap());
    let to_silent = silent_url.clone();
    let (first, _seen) = server(move |request| {
        let to = match request.target() {
            "/in" => "/who".into(),
            "/who" => return Err(Refusal::new(401, "")),
            "/silent" => to_silent.clone(),
            path => format!("ws://{second}{path}"),
        };
        Err(Refusal::new(302, "").header("Location", &to)?)
    })
    .await;
    let url = |path: &str| format!("ws://{first}/{path}");
    let named = |path: &str| format!("{}: redirected to ws://{second}/{path}: ", url(path));
    tokio::task::block_in_place(|| {
        let line = failure(&["-L", &url("there")]);
        assert!(line.contains(&named("there")), "{line}");
        assert!(line.contains("check the path"), "{line}");
        let line = failure(&["-L", "--handshake-timeout", "0.2", &url("silent")]);
        assert!(line.contains(&silent_url), "{line}");
        assert!(line.contains("--handshake-timeout"), "{line}");

        let line = failure(&["-L", &url("guarded")]);
        assert!(line.contains(&named("guarded")), "{line}");
        assert!(line.contains("say who you are with --user"), "{line}");
        for (flags, given) in [
            (&["-u", "me:pw"][..], "--user"),
            (&["-H", "authorization: Bearer abc"], "--header"),
            (&["-H", "Cookie: a=b"], "--header"),
            (&["-b", "a=b"], "--cookie"),
        ] {
            let line = failure(&[&["-L", &url("guarded")], flags].concat());
            let told =
                format!("what {given} says was not sent there: the redirect led to another origin");
            assert!(line.contains(&told), "{line}");
        }
        for (flags, given) in [
            (&["-u", "me:pw"][..], "--user"),
            (&["-u", "me:pw", "-H", "authorization: a"], "--header"),
        ] {
            for path in ["in", "who"] {
                let line = failure(&[&["-L", &url(path)], flags].concat());
                assert!(
                    line.contains(&format!("it does not take what {given} says")),
                    "{line}"
                );
                assert!(!line.contains("say who you are"), "{line}");
            }
        }
        let line = failure(&[&format!("ws://me:pw@{second}/")]);
        assert!(
            line.contains("it does not take what the URL says"),
            "{line}"
        );
        assert!(line.contains("it asks for Basic"), "{line}");
    });
}

/// It was told whole, as the server had it.
#[tokio::test(flavor = "multi_thread")]
async fn where_a_redirect_leads_is_told_in_part_and_without_secrets() {
    let (address, _seen) = server(|request| {
        let to = match request.target() {
            "/user" => "ws://user:s3cret@x/".to_owned(),
            "/bare" => "//user:s3cret@x/".to_owned(),
            "/query" => "ws://x/?token=s3cret".to_owned(),
            _ => format!("ws://x/{}", "a".repeat(5000)),
        };
        Err(Refusal::new(302, "").header("Location", &to)?)
    })
    .await;
    tokio::task::block_in_place(|| {
        for path in ["user", "bare", "query", "long"] {
            for flags in [&[][..], &["-L", "--max-redirs", "0"]] {
                let url = format!("ws://{address}/{path}");
                let line = failure(&[flags, &[&url]].concat());
                assert!(line.contains("302") && !line.contains("s3cret"), "{line}");
                assert!(line.len() < 600, "{} bytes", line.len());
            }
        }
        let line = failure(&[&format!("ws://{address}/long?token=s3cret")]);
        assert!(!line.contains("s3cret"), "{line}");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_named_by_url_or_by_flag() {
    let path = program::directory("way-unix").join("a.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut socket = sockeye::accept(stream).await?;
                while let Some(message) = socket.recv().await? {
                    socket.send(message).await?;
                }
                Ok::<_, sockeye::Error>(())
            });
        }
    });
    let path = path.to_str().unwrap();
    tokio::task::block_in_place(|| {
        echoes(&[&format!("ws+unix:{path}:/")]);
        echoes(&["--unix-socket", path, "ws://example.com/"]);
        let line = failure(&["--unix-socket", "/none/such.sock", "ws://example.com/"]);
        assert!(line.contains("/none/such.sock"), "{line}");
    });
}

#[test]
fn names_are_reached_where_the_user_says_over_the_family_that_is_asked_for() {
    let server = serve(&[]);
    let port = server.address.port();
    let url = format!("ws://a.invalid:{port}/");
    let both = format!("a.invalid:{port}:[::1],127.0.0.1");
    echoes(&["--resolve", &both, &url]);
    echoes(&["-4", "--resolve", &both, &url]);
    let line = failure(&[
        "-6",
        "--resolve",
        &format!("a.invalid:{port}:127.0.0.1"),
        &url,
    ]);
    assert!(line.contains("IPv6"), "{line}");
    assert!(failure(&["--resolve", "a.invalid:1:127.0.0.1", &url]).contains("a.invalid"));
}

#[test]
fn a_server_that_is_silent_about_tls_is_left_at_the_connect_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://{}/", listener.local_addr().unwrap());
    let line = failure(&["--connect-timeout", "0.2", &url]);
    assert!(
        line.contains("TLS") && line.contains("--connect-timeout"),
        "{line}"
    );
}

#[test]
fn tls_has_curls_flags() {
    let [ca, certificate, key] = certificates("way-tls");
    let server = serve(&["--tls-cert", &certificate, "--tls-key", &key]);
    echoes(&["--cacert", &ca, &server.url]);
    echoes(&["-k", &server.url]);
    // A server that does not ask for a certificate gets none.
    echoes(&[
        "--cacert",
        &ca,
        "--cert",
        &certificate,
        "--key",
        &key,
        &server.url,
    ]);
    let line = failure(&["-k", "--cert", "/none.pem", &server.url]);
    assert!(line.contains("/none.pem"), "{line}");
    let line = failure(&["-k", "--cert", &certificate, &server.url]);
    assert!(line.contains(&certificate), "no key in it: {line}");
    let line = failure(&[
        "-x",
        "https://127.0.0.1:1",
        "--proxy-cacert",
        "/none.pem",
        &server.url,
    ]);
    assert!(line.contains("/none.pem"), "{line}");
}
