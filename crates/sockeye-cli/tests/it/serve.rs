//! `sockeye serve`, as its clients and whoever runs it see it.

use nix::sys::signal::Signal::{self, SIGINT, SIGTERM};
use sockeye::{Client, CloseCode, Ended, Limits, Message, client::ClientTls};

use crate::program::{self, DEADLINE, Program, Server, certificates, http, run, serve, within};

#[tokio::test]
async fn echoes_text_and_binary() {
    let server = serve(&[]);
    let mut socket = sockeye::connect(&server.url).await.unwrap();
    for message in [Message::from("Привет"), Message::from(vec![0, 255])] {
        socket.send(&message).await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap(), Some(message));
    }
    socket.close(CloseCode::NORMAL, "done").await.unwrap();
    let log = &server.program.stdout;
    log.expect("closed by the peer with 1000 (normal closure): done");
    assert!(
        log.text().contains("open    #1 127.0.0.1:"),
        "{}",
        log.text()
    );
    assert!(
        log.text()
            .contains("2 messages (14 B) received, 2 messages (14 B) sent")
    );
}

#[tokio::test]
async fn tells_the_path_the_subprotocol_and_the_extensions() {
    let server = serve(&["--subprotocol", "b", "--subprotocol", "a"]);
    let url = format!("{}room%20one?query", server.url);
    let client = Client::new(url).subprotocol("a").subprotocol("b");
    let socket = client.connect().await.unwrap();
    assert_eq!(socket.subprotocol(), Some("b"));
    server
        .program
        .stdout
        .expect("/room%20one  b, permessage-deflate");
}

#[tokio::test]
async fn no_compress_agrees_to_none() {
    let server = serve(&["--no-compress"]);
    let socket = sockeye::connect(&server.url).await.unwrap();
    assert_eq!(socket.extensions(), "");
    server
        .program
        .stdout
        .expect("no subprotocol, no extensions");
}

/// Whoever runs it learns why clients wait, also where no line is printed for each.
#[test]
fn running_out_of_descriptors_is_told_and_passes() {
    let few = "ulimit -n 40 && exec \"$0\" serve --quiet --listen 127.0.0.1:0";
    let program = Program::run_as(std::process::Command::new("sh").args([
        "-c",
        few,
        env!("CARGO_BIN_EXE_sockeye"),
    ]));
    program.stdout.expect("Ctrl-C closes");
    let said = program.stdout.text();
    let address = said.split('/').nth(2).unwrap();
    let waiting: Vec<_> = (0..60)
        .map(|_| std::net::TcpStream::connect(address).unwrap())
        .collect();
    let out = &program.stdout;
    out.expect("no connection can be accepted: Too many open files");
    out.expect("(ulimit -n)");
    drop(waiting);
    let end = run(
        &["connect", "--linger", "0", &format!("ws://{address}/")],
        "here\n",
    );
    assert_eq!(end.stdout, "here\n", "{}", end.stderr);
}

#[tokio::test]
async fn broadcasts_to_everyone() {
    let server = serve(&["--broadcast"]);
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(sockeye::connect(&server.url).await.unwrap());
    }
    sockets[1].send("to all").await.unwrap();
    for socket in &mut sockets {
        assert_eq!(within(socket.recv()).await.unwrap(), Some("to all".into()));
    }
    sockets[0].close(CloseCode::NORMAL, "").await.unwrap();
    sockets[2].send("to who is left").await.unwrap();
    let heard = within(sockets[1].recv()).await.unwrap();
    assert_eq!(heard, Some("to who is left".into()));
    sockets[1].close(CloseCode::NORMAL, "").await.unwrap();
    let log = &server.program.stdout;
    log.expect("1 message (6 B) received, 2 messages (20 B) sent");
}

#[tokio::test]
async fn a_member_that_does_not_read_delays_nobody_and_is_closed() {
    let server = serve(&["--broadcast"]);
    let client = Client::new(&server.url).deflate(None);
    let mut slow = client.connect().await.unwrap();
    let mut fast = client.connect().await.unwrap();
    let message = Message::from(vec![7; 1 << 20]);
    for _ in 0..64 {
        fast.send(&message).await.unwrap();
        assert_eq!(within(fast.recv()).await.unwrap().unwrap().len(), 1 << 20);
    }
    // It reads at last: what had been sent before, and why there is no more.
    while let Some(message) = within(slow.recv()).await.unwrap() {
        assert_eq!(message.len(), 1 << 20);
    }
    let ended = slow.ended().unwrap();
    assert_eq!(ended.code(), 1008);
    assert!(ended.reason().contains("does not read"));
}

#[tokio::test]
async fn closes_as_the_query_says() {
    let server = serve(&[]);
    for (code, reason, query) in [
        (1000, "", "close=1000"),
        (1002, "нет", "close=1002&reason=%D0%BD%D0%B5%D1%82"),
        (4999, "so long", "a=b&close=4999&reason=so+long"),
    ] {
        let mut socket = sockeye::connect(format!("{}?{query}", server.url))
            .await
            .unwrap();
        assert_eq!(within(socket.recv()).await.unwrap(), None);
        let ended = socket.ended().unwrap();
        assert!(matches!(ended, Ended::ByPeer(Some(_))), "{ended}");
        assert_eq!((ended.code(), ended.reason()), (code, reason));
    }
    for (query, why) in [
        ("close=1006", "local use"),
        ("close=1010", "server"),
        ("close=x", "number"),
    ] {
        let refused = sockeye::connect(format!("{}?{query}", server.url)).await;
        let error = refused.unwrap_err();
        let response = error.response().unwrap();
        assert_eq!(response.status(), 400);
        assert!(String::from_utf8_lossy(response.body()).contains(why));
        server.program.stdout.expect(why);
    }
}

/// What a client says is in the reason; the log is not the client's to fill.
#[tokio::test]
async fn a_refusal_is_told_in_a_line_of_some_hundred_characters() {
    let server = serve(&[]);
    let url = format!("{}?close={}", server.url, "1".repeat(10_000));
    sockeye::connect(url).await.unwrap_err();
    // Told behind the answer, and in another thread.
    server.program.stdout.expect("close=1111");
    sockeye::connect(format!("{}?close=1006", server.url))
        .await
        .unwrap_err();
    server.program.stdout.expect("local use");
    let log = server.program.stdout.text();
    assert!(log.lines().all(|line| line.len() < 1000), "{log}");
}

#[tokio::test]
async fn ctrl_c_closes_everyone_with_1001_and_sums_up() {
    for signal in [SIGINT, SIGTERM] {
        let server = serve(&[]);
        let mut sockets = Vec::new();
        for _ in 0..3 {
            let mut socket = sockeye::connect(&server.url).await.unwrap();
            socket.send("hello").await.unwrap();
            within(socket.recv()).await.unwrap();
            sockets.push(socket);
        }
        server.program.signal(signal);
        for socket in &mut sockets {
            assert_eq!(within(socket.recv()).await.unwrap(), None);
            assert_eq!(socket.ended().unwrap().code(), 1001);
        }
        let end = server.program.end();
        assert_eq!(end.status, Some(0), "{}", end.stderr);
        let summary = end.stdout.lines().last().unwrap();
        assert!(summary.starts_with("3 connections in "), "{summary}");
        assert!(summary.ends_with("3 messages (15 B) received, 3 messages (15 B) sent"));
    }
}

#[tokio::test]
async fn a_second_ctrl_c_waits_for_nobody() {
    a_second_signal_ends(SIGINT, 130).await;
}

/// As `timeout` and others send it, to the program and to its group.
#[tokio::test]
async fn a_signal_that_comes_twice_is_one() {
    for signals in [[SIGTERM, SIGTERM], [SIGINT, SIGTERM]] {
        let server = serve(&[]);
        let mut socket = sockeye::connect(&server.url).await.unwrap();
        server.program.stdout.expect("open");
        for signal in signals {
            server.program.signal(signal);
        }
        assert_eq!(within(socket.recv()).await.unwrap(), None);
        assert_eq!(socket.ended().unwrap().code(), 1001);
        let end = server.program.end();
        assert_eq!(end.status, Some(0), "{}", end.stderr);
    }
}

#[tokio::test]
async fn the_status_is_that_of_the_second_signal() {
    a_second_signal_ends(SIGTERM, 143).await;
}

async fn a_second_signal_ends(second: Signal, status: i32) {
    let server = serve(&[]);
    // It never answers the Close.
    let silent = sockeye::connect(&server.url).await.unwrap();
    server.program.stdout.expect("open");
    server.program.signal(SIGINT);
    server.program.stdout.expect("Closing 1 connection;");
    tokio::time::sleep(program::APART).await;
    server.program.signal(second);
    assert_eq!(server.program.end().status, Some(status));
    drop(silent);
}

#[tokio::test]
async fn quiet_prints_no_line_a_connection() {
    let server = serve(&["--quiet"]);
    let mut socket = sockeye::connect(&server.url).await.unwrap();
    socket.close(CloseCode::NORMAL, "").await.unwrap();
    server.program.signal(SIGINT);
    let end = server.program.end();
    assert!(!end.stdout.contains('#'), "{}", end.stdout);
    assert!(end.stdout.contains("1 connection in "), "{}", end.stdout);
}

#[tokio::test]
async fn a_message_larger_than_max_message_is_closed_with_1009() {
    let server = serve(&["--max-message", "1K"]);
    let mut socket = sockeye::connect(&server.url).await.unwrap();
    socket.send("x".repeat(1024)).await.unwrap();
    assert_eq!(within(socket.recv()).await.unwrap().unwrap().len(), 1024);
    socket.send("x".repeat(1025)).await.unwrap();
    while let Ok(Some(_)) = within(socket.recv()).await {}
    assert_eq!(socket.ended().unwrap().code(), 1009);
}

/// The echo of it is more than a server lets wait unless told otherwise.
#[tokio::test]
async fn a_message_within_max_message_is_echoed_however_large() {
    for args in [
        ["--max-message", "64M", "--high-water", "1M"],
        ["--max-message", "64M", "--high-water", "64M"],
    ] {
        let server = serve(&args);
        let client = Client::new(&server.url).deflate(None);
        let limits = Limits::default().message(64 << 20);
        let mut socket = client.limits(limits).connect().await.unwrap();
        socket.send(vec![7; 40 << 20]).await.unwrap();
        let echo = within(socket.recv()).await.unwrap();
        assert_eq!(echo.map(|echo| echo.len()), Some(40 << 20));
    }
}

mod config {
    use super::*;

    fn file(name: &str, text: &str) -> String {
        let path = program::directory(name).join("sockeye.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().into()
    }

    #[tokio::test]
    async fn a_file_sets_what_the_command_line_does_not() {
        let file = file(
            "config-serve",
            "listen = \"127.0.0.1:1\"\nsubprotocol = [\"chat\"]\nmax-message = \"1K\"",
        );
        // The helper's own --listen has the last word.
        let server = serve(&["--config", &file]);
        let client = Client::new(&server.url).subprotocol("chat");
        let mut socket = client.connect().await.unwrap();
        assert_eq!(socket.subprotocol(), Some("chat"));
        socket.send(vec![0; 1025]).await.unwrap();
        let _ = within(socket.recv()).await;
        assert_eq!(socket.ended().unwrap().code(), 1009);
    }

    #[test]
    fn faults_are_told_before_it_listens() {
        let file = file(
            "config-faults",
            "lissten = \"127.0.0.1:0\"\n[tls]\ncert = \"no.pem\"\nkey = \"no.key\"\n",
        );
        let ran = run(&["serve", "--config", &file], "");
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr
                .contains(&format!("{file}:1:1: there is no setting lissten")),
            "{}",
            ran.stderr
        );
        assert!(
            ran.stderr.contains(&format!("{file}:3:8: ")) && ran.stderr.contains("no.pem"),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
    }

    /// It was told where the certificate stands.
    #[test]
    fn a_key_that_is_not_there_is_told_where_it_stands() {
        let [_, cert, _] = certificates("config-no-key");
        let text = format!("[tls]\ncert = {cert:?}\nkey = \"no.key\"\n");
        let file = file("config-missing-key", &text);
        let ran = run(&["serve", "--config", &file, "--check"], "");
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(&format!("{file}:3:7: ")),
            "{}",
            ran.stderr
        );
        assert!(ran.stderr.contains("no.key"), "{}", ran.stderr);
    }

    #[test]
    fn check_ends_without_serving() {
        let file = file("config-check", "quiet = true\n");
        let ran = run(&["serve", "--config", &file, "--check"], "");
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stdout, "The settings are sound\n");
    }

    /// It can be had once: a pipe is empty then.
    #[test]
    fn a_key_that_comes_through_a_pipe_is_read_once() {
        let [_, cert, key] = certificates("config-pipe-key");
        let text = format!("[tls]\ncert = {cert:?}\nkey = \"/dev/stdin\"\n");
        let file = file("config-pipe", &text);
        let key = std::fs::read_to_string(key).unwrap();
        let ran = run(&["serve", "--config", &file, "--check"], &key);
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        assert_eq!(ran.stdout, "The settings are sound\n");
    }

    /// What the system says of its length is 0, as of `/dev/zero`.
    #[test]
    fn a_pipe_is_read_no_further_than_a_file_may_be_long() {
        let pipe = program::directory("config-endless").join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let to = pipe.clone();
        std::thread::spawn(move || std::fs::write(to, vec![b'#'; 2 << 20]));
        let args = ["serve", "--check", "--config", pipe.to_str().unwrap()];
        let ran = run(&args, "");
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(ran.stderr.contains("larger than"), "{}", ran.stderr);
    }

    #[test]
    fn an_address_that_is_none_is_told_by_check_and_one_in_use_is_not() {
        let file = file("config-address", "metrics = \"9090\"\n");
        let ran = run(&["serve", "--config", &file, "--check"], "");
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        let told = format!("{file}:1:11: metrics: the host is missing");
        assert!(ran.stderr.contains(&told), "{}", ran.stderr);
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = other.local_addr().unwrap().to_string();
        let args = ["serve", "--listen", "127.0.0.1:0", "--metrics", &taken];
        let ran = run(&[&args[..], &["--check"]].concat(), "");
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        let ran = run(&args, "");
        assert_eq!(ran.status, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("choose another port with --metrics"));
    }
}

mod origins {
    use super::*;

    /// What a page of that origin is refused with, where it is.
    async fn refused(server: &Server, origin: &str) -> Option<String> {
        let connected = Client::new(&server.url).origin(origin).connect().await;
        let error = connected.err()?;
        let response = error.response().unwrap();
        assert_eq!(response.status(), 403);
        Some(String::from_utf8_lossy(response.body()).into_owned())
    }

    #[tokio::test]
    async fn pages_of_other_sites_are_refused_unless_they_are_named() {
        let (good, evil) = ("https://good.example", "https://evil.example");
        for (args, lets_in) in [
            (&[][..], [true, false, false]),
            (&["--origin", "same"], [true, false, false]),
            (&["--origin", good], [false, true, false]),
            (&["--origin", "same", "--origin", good], [true, true, false]),
            (&["--origin", "any"], [true, true, true]),
        ] {
            let server = serve(args);
            let own = format!("http://{}", server.address);
            for (origin, lets_in) in [&own, good, evil].into_iter().zip(lets_in) {
                let refused = refused(&server, origin).await;
                assert_eq!(refused.is_none(), lets_in, "{args:?} {origin} {refused:?}");
                if let Some(why) = refused {
                    assert!(why.contains(origin) && why.contains("--origin"), "{why}");
                    assert!(why.contains("in place of the default, `same`"), "{why}");
                    server.program.stdout.expect("refused");
                }
            }
        }
    }

    /// Whether a page may connect whose name leads to the server: `Host` and `Origin` are both of that name.
    async fn lets_in_as(server: &Server, name: &str) -> bool {
        let place = format!("{name}:{}", server.address.port());
        let client = Client::new(format!("ws://{place}/"));
        let client = client.resolve(&place, [server.address]);
        let connected = client.origin(format!("http://{place}")).connect().await;
        let Err(error) = connected else {
            return true;
        };
        let response = error.response().unwrap();
        assert_eq!(response.status(), 403);
        let why = String::from_utf8_lossy(response.body());
        assert!(why.contains(&format!("http://{place}")), "{why}");
        assert!(why.contains("--origin"), "{why}");
        false
    }

    #[tokio::test]
    async fn a_name_of_somebody_else_that_leads_to_this_machine_is_refused() {
        for args in [&[][..], &["--example", "monitor"]] {
            let server = serve(args);
            for name in ["localhost", "app.LocalHost", "127.0.0.1", "[::1]"] {
                assert!(lets_in_as(&server, name).await, "{args:?} {name}");
            }
            for name in ["evil.example", "localhost.evil.example", "notlocalhost"] {
                assert!(!lets_in_as(&server, name).await, "{args:?} {name}");
            }
        }
        // For whom the default is not enough, has said so; and others know this server by names of its own.
        for args in [
            &["--origin", "same"][..],
            &["--listen", "0.0.0.0:0"],
            &["--x-forwarded-for", "127.0.0.1"],
        ] {
            let server = serve(args);
            assert!(lets_in_as(&server, "evil.example").await, "{args:?}");
        }
    }

    /// Naming origins ends the default, which lets that page in.
    #[test]
    fn a_page_that_is_not_let_in_is_not_offered() {
        let offers = |args: &[&str]| {
            let server = serve(args);
            let said = server.program.stdout.text();
            assert!(said.contains("sockeye connect ws://"), "{said}");
            let offers = said.contains("Open http://");
            let own = format!("--origin http://{}", server.address);
            assert_eq!(!offers, said.contains(&own), "{said}");
            offers
        };
        assert!(offers(&[]));
        assert!(offers(&["--origin", "any"]));
        let good = ["--origin", "https://good.example"];
        assert!(!offers(&good));
        assert!(offers(&[&good[..], &["--origin", "same"]].concat()));
    }

    #[test]
    fn one_that_is_none_is_told_before_it_listens() {
        let ran = run(&["serve", "--origin", "example.com"], "");
        assert_eq!(ran.status, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("\"example.com\" is no origin"),
            "{}",
            ran.stderr
        );
        assert_eq!(ran.stdout, "");
    }
}

mod limits {
    use super::*;

    /// The status with which a client is refused.
    async fn refused(url: &str) -> u16 {
        let error = within(sockeye::connect(url)).await.unwrap_err();
        error.response().unwrap().status()
    }

    #[tokio::test]
    async fn one_connection_too_many_is_refused_and_told() {
        let server = serve(&["--max-connections", "1"]);
        let mut first = sockeye::connect(&server.url).await.unwrap();
        assert_eq!(refused(&server.url).await, 503);
        server.program.stdout.expect("refused 127.0.0.1:");
        server
            .program
            .stdout
            .expect("as many connections as it may");
        first.close(CloseCode::NORMAL, "").await.unwrap();
        server.program.stdout.expect("close ");
        server.program.signal(SIGINT);
        server.program.stdout.expect("1 refused");
    }

    /// As a browser that connects ahead of its requests, or whoever looks whether the port answers.
    #[tokio::test]
    async fn who_asks_for_nothing_is_not_refused() {
        use std::{io::Write, net::TcpStream};
        for (args, beginning) in [
            (&[][..], &b"GET / HT"[..]),
            (&["--tls-self-signed"], b"\x16\x03"),
        ] {
            let server = serve(args);
            for begun in [b"", beginning] {
                let mut stream = TcpStream::connect(server.address).unwrap();
                stream.write_all(begun).unwrap();
            }
            let mut wrong = TcpStream::connect(server.address).unwrap();
            wrong.write_all(b"\0\r\n\r\n").unwrap();
            server.program.stdout.expect("refused 127.0.0.1:");
            server.program.signal(SIGINT);
            server.program.stdout.expect(", 1 refused");
        }
    }

    #[tokio::test]
    async fn addresses_and_their_haste_are_limited() {
        let server = serve(&["--max-connections-per-address", "1"]);
        let _first = sockeye::connect(&server.url).await.unwrap();
        assert_eq!(refused(&server.url).await, 429);
        let server = serve(&["--handshake-rate", "1:2"]);
        // One more for each second that this takes.
        let error = loop {
            if let Err(error) = sockeye::connect(&server.url).await {
                break error;
            }
        };
        assert_eq!(error.response().unwrap().status(), 429);
    }

    #[tokio::test]
    async fn a_client_that_sends_too_fast_is_closed_where_that_is_said() {
        for rate in [["--message-rate", "1:3"], ["--byte-rate", "1:30"]] {
            let server = serve(&[&rate[..], &["--on-excess", "close"]].concat());
            let mut socket = sockeye::connect(&server.url).await.unwrap();
            for _ in 0..10 {
                // Refused once the Close has come.
                let _ = socket.send("ten  bytes").await;
            }
            while within(socket.recv()).await.unwrap().is_some() {}
            assert_eq!(socket.ended().unwrap().code(), 1008, "{rate:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_is_closed_when_idle_or_old() {
        for flag in ["--idle-timeout", "--lifetime"] {
            let server = serve(&[flag, "0.1"]);
            let mut socket = sockeye::connect(&server.url).await.unwrap();
            assert_eq!(within(socket.recv()).await.unwrap(), None, "{flag}");
            assert_eq!(socket.ended().unwrap().code(), 1001, "{flag}");
        }
    }

    #[tokio::test]
    async fn a_frame_that_is_too_large_is_closed_with_1009() {
        let server = serve(&["--max-frame", "10"]);
        let mut socket = Client::new(&server.url)
            .deflate(None)
            .connect()
            .await
            .unwrap();
        socket.send("eleven bytes").await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap(), None);
        assert_eq!(socket.ended().unwrap().code(), 1009);
    }

    #[test]
    fn a_head_that_does_not_come_is_given_up() {
        let server = serve(&["--handshake-timeout", "0.1"]);
        assert_eq!(http(server.address, "GET / HT"), "");
    }
}

mod behind_a_proxy {
    use super::*;

    #[tokio::test]
    async fn the_client_is_who_the_proxy_says() {
        for (flag, name, value) in [
            ("--forwarded", "Forwarded", "for=192.0.2.7"),
            ("--x-forwarded-for", "X-Forwarded-For", "192.0.2.7"),
        ] {
            let server = serve(&[flag, "127.0.0.0/8"]);
            let client = Client::new(&server.url).header(name, value);
            let _socket = client.connect().await.unwrap();
            server.program.stdout.expect("#1 192.0.2.7:0");
            // Of nobody else it is believed.
            let server = serve(&[flag, "192.0.2.0/24"]);
            let client = Client::new(&server.url).header(name, value);
            let _socket = client.connect().await.unwrap();
            server.program.stdout.expect("#1 127.0.0.1:");
        }
    }

    /// It was said to come by a Unix socket.
    #[tokio::test]
    async fn a_client_whom_the_proxy_does_not_know_is_unknown() {
        let server = serve(&["--x-forwarded-for", "127.0.0.1"]);
        let client = Client::new(&server.url).header("X-Forwarded-For", "unknown");
        let _socket = client.connect().await.unwrap();
        server.program.stdout.expect("open    #1 unknown  /");
    }

    #[test]
    fn the_proxy_protocol_comes_first() {
        let server = serve(&["--proxy-protocol", "127.0.0.1"]);
        let request = format!(
            "PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\nGET / HTTP/1.1\r\n{}",
            "Host: localhost\r\nConnection: close\r\n\r\n"
        );
        assert!(http(server.address, &request).starts_with("HTTP/1.1 200 "));
        let mut without = std::net::TcpStream::connect(server.address).unwrap();
        std::io::Write::write_all(&mut without, b"GET / HTTP/1.1\r\n\r\n").unwrap();
        server.program.stdout.expect("refused");
    }
}

mod page {
    use super::*;

    /// The server would wait for a further request.
    const HOST: &str = "Host: localhost\r\nConnection: close\r\n\r\n";

    #[test]
    fn is_served_at_the_root_under_a_policy() {
        let server = serve(&[]);
        let answer = http(server.address, &format!("GET / HTTP/1.1\r\n{HOST}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let head = head.to_lowercase();
        assert!(head.starts_with("http/1.1 200 ok"), "{head}");
        assert!(head.contains("content-type: text/html; charset=utf-8"));
        assert!(head.contains("content-security-policy: default-src 'none';"));
        assert!(head.contains("frame-ancestors 'none'"));
        assert!(head.contains("x-content-type-options: nosniff"));
        assert_eq!(body, include_str!("../../web/index.html"));
    }

    #[test]
    fn head_has_the_length_and_no_body() {
        let server = serve(&[]);
        let answer = http(server.address, &format!("HEAD / HTTP/1.1\r\n{HOST}"));
        let length = format!(
            "content-length: {}",
            include_str!("../../web/index.html").len()
        );
        assert!(answer.to_lowercase().contains(&length), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"));
    }

    #[test]
    fn nothing_else_is_there_and_nothing_else_is_understood() {
        let server = serve(&[]);
        let answer = http(server.address, &format!("GET /other HTTP/1.1\r\n{HOST}"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        let answer = http(server.address, &format!("POST / HTTP/1.1\r\n{HOST}"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        assert!(answer.to_lowercase().contains("allow: get, head"));
    }
}

mod tls {
    use super::*;

    #[tokio::test]
    async fn with_a_certificate_from_files() {
        let [ca, certificate, key] = certificates("serve-tls");
        let server = serve(&["--tls-cert", &certificate, "--tls-key", &key]);
        assert!(server.url.starts_with("wss://"));
        assert!(server.program.stdout.text().contains("Open https://"));
        let tls = ClientTls::new()
            .ca_pem(&std::fs::read(ca).unwrap())
            .unwrap();
        let mut socket = Client::new(&server.url).tls(tls).connect().await.unwrap();
        socket.send("hello").await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap(), Some("hello".into()));
        assert!(
            sockeye::connect(&server.url)
                .await
                .unwrap_err()
                .is_connect()
        );
        server.program.stdout.expect("refused");
    }

    #[tokio::test]
    async fn self_signed_tells_its_fingerprint() {
        let server = serve(&["--tls-self-signed"]);
        let said = server.program.stdout.text();
        let fingerprint = said
            .split_whitespace()
            .find(|word| word.len() == 95)
            .unwrap();
        assert!(
            fingerprint
                .split(':')
                .all(|byte| u8::from_str_radix(byte, 16).is_ok())
        );
        assert!(said.contains("sockeye connect --insecure wss://"), "{said}");
        let tls = ClientTls::new().dangerous_accept_any_certificate();
        let mut socket = Client::new(&server.url).tls(tls).connect().await.unwrap();
        socket.send("hello").await.unwrap();
        assert_eq!(within(socket.recv()).await.unwrap(), Some("hello".into()));
    }
}

/// What cannot be served ends with one line that says what to do.
mod failures {
    use super::*;

    fn one_line(args: &[&str]) -> String {
        line_and_status(1, args)
    }

    fn line_and_status(status: i32, args: &[&str]) -> String {
        let end = run(args, "");
        assert_eq!(end.status, Some(status), "{}", end.stderr);
        assert_eq!(end.stderr.lines().count(), 1, "{}", end.stderr);
        assert!(end.stderr.starts_with("sockeye: "), "{}", end.stderr);
        end.stderr
    }

    #[test]
    fn an_address_that_is_taken() {
        let server = serve(&[]);
        let line = one_line(&["serve", "--listen", &server.address.to_string()]);
        assert!(
            line.contains("in use") && line.contains("--listen"),
            "{line}"
        );
    }

    #[test]
    fn a_certificate_that_is_not_there() {
        let line = one_line(&["serve", "--tls-cert", "/none.pem", "--tls-key", "/none.key"]);
        assert!(
            line.contains("/none.pem") && line.contains("--tls-cert"),
            "{line}"
        );
    }

    #[test]
    fn a_subprotocol_that_cannot_travel() {
        let line = line_and_status(2, &["serve", "--subprotocol", "a b"]);
        assert!(
            line.starts_with("sockeye: the subprotocol \"a b\""),
            "{line}"
        );
    }

    #[test]
    fn a_command_line_that_is_not_understood_is_another_matter() {
        for args in [
            &["serve", "--nonsense"][..],
            &["serve", "--tls-cert", "a"],
            &[
                "serve",
                "--tls-self-signed",
                "--tls-cert",
                "a",
                "--tls-key",
                "b",
            ],
            &["serve", "--max-message", "much"],
            &["connect"],
            &["connect", "--header", "no colon", "ws://localhost/"],
            &["connect", "--insecure", "--ca", "a", "ws://localhost/"],
            &["connect", "--linger", "-1", "ws://localhost/"],
            &[],
        ] {
            assert_eq!(run(args, "").status, Some(2), "{args:?}");
        }
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for args in [
        &["--help"][..],
        &["serve", "--help"],
        &["connect", "-h"],
        &["--version"],
    ] {
        let end = run(args, "");
        assert_eq!(end.status, Some(0));
        assert!(
            end.stdout.contains("sockeye") && end.stderr.is_empty(),
            "{}",
            end.stdout
        );
    }
}

#[test]
fn a_client_that_has_fallen_silent_is_given_up() {
    let server = serve(&["--ping-interval", "0.1", "--ping-timeout", "0.2"]);
    let client = program::Program::start(&["connect", "--ping-interval", "0", &server.url]);
    client.stderr.expect("connected");
    server.program.stdout.expect("open");
    client.signal(nix::sys::signal::Signal::SIGSTOP);
    server.program.stdout.expect("nothing came from the peer");
}

/// Whoever reads the log may leave.
#[tokio::test]
async fn goes_on_where_nobody_reads_what_it_prints() {
    use std::{
        io::BufRead,
        process::{Command, Stdio},
    };
    let mut child = Command::new(env!("CARGO_BIN_EXE_sockeye"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    drop(output);
    let url = line.split_whitespace().last().unwrap();
    for _ in 0..3 {
        let mut socket = tokio::time::timeout(DEADLINE, sockeye::connect(url))
            .await
            .unwrap()
            .unwrap();
        socket.send("still there").await.unwrap();
        assert_eq!(
            within(socket.recv()).await.unwrap(),
            Some("still there".into())
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
