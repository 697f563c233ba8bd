//! `sockeye connect` in a pipe.

#[cfg(target_os = "linux")]
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
};
use std::{future::ready, io::Read, net::TcpListener, process::Stdio};

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM};
#[cfg(target_os = "linux")]
use sockeye::proto::handshake::Key;
use sockeye::{CloseCode, Server, server::Request};
use tokio::sync::mpsc;

use crate::program::{
    self, APART, Port, Program, Unread, certificates, eventually, run, serve, something_else,
    status_of, within,
};

#[test]
fn a_line_in_is_a_message_out_and_a_message_in_is_a_line_out() {
    let server = serve(&[]);
    let lines = format!(
        "Hello\nПривет, 鮭 🐟\n\n spaces kept \n{}\nlast",
        "y".repeat(70_000)
    );
    let end = run(&["connect", "--linger", "0.5", &server.url], &lines);
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    assert_eq!(end.stdout, format!("{lines}\n"));
    server.program.stdout.expect("6 messages");
    server.program.stdout.expect("closed by the peer with 1000");
}

#[test]
fn a_line_may_end_as_on_windows() {
    let server = serve(&[]);
    let end = run(&["connect", "--linger", "0", &server.url], "one\r\ntwo\r");
    assert_eq!(end.stdout, "one\ntwo\r\n");
}

#[test]
fn a_great_many_lines_keep_their_order_and_none_is_lost() {
    let server = serve(&["--quiet"]);
    let lines: String = (0..50_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let end = run(&["connect", "--linger", "0", &server.url], &lines);
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    assert!(end.stdout == lines, "{} bytes came back", end.stdout.len());
}

#[test]
fn what_was_agreed_and_how_it_ended_is_told_on_standard_error() {
    let server = serve(&["--subprotocol", "chat"]);
    let end = run(
        &["connect", "-s", "chat", "--linger", "0", &server.url],
        "hello\n",
    );
    let mut lines = end.stderr.lines();
    let agreed = lines.next().unwrap();
    assert!(
        agreed.starts_with(&format!("connected to {}", server.url)),
        "{agreed}"
    );
    assert!(
        agreed.contains("no TLS; subprotocol chat; extensions permessage-deflate"),
        "{agreed}"
    );
    let ended = lines.next().unwrap();
    assert!(
        ended.starts_with("closed by this end with 1000 (normal closure), after"),
        "{ended}"
    );
    assert!(
        ended.ends_with("1 message (5 B) received, 1 message (5 B) sent"),
        "{ended}"
    );
    assert_eq!(lines.next(), None);

    let args = [
        "connect",
        "--quiet",
        "--no-compress",
        "--linger",
        "0",
        &server.url,
    ];
    let end = run(&args, "hello\n");
    assert_eq!((end.stdout.as_str(), end.stderr.as_str()), ("hello\n", ""));
    server
        .program
        .stdout
        .expect("no subprotocol, no extensions");
}

/// RFC 8441.
#[test]
fn a_stream_of_http_2_is_a_connection() {
    let server = serve(&["--http2"]);
    let lines: String = (0..5_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let end = run(
        &["connect", "--http2", "--linger", "0", &server.url],
        &lines,
    );
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    assert!(end.stdout == lines, "{} bytes came back", end.stdout.len());
    assert!(
        end.stderr.contains("no TLS; over HTTP/2; no subprotocol"),
        "{}",
        end.stderr
    );
    server.program.stdout.expect("5,000 messages");
}

/// RFC 9220.
#[test]
fn a_stream_of_http_3_is_a_connection() {
    let server = serve(&["--http3", "--tls-self-signed"]);
    server.program.stdout.expect("HTTP/3");
    let lines: String = (0..5_000)
        .map(|number| format!("line {number}\n"))
        .collect();
    let over = ["connect", "--http3", "--insecure", "--linger", "0"];
    let end = run(&[&over[..], &[&server.url]].concat(), &lines);
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    assert!(end.stdout == lines, "{} bytes came back", end.stdout.len());
    assert!(
        end.stderr
            .contains("NOT checked; over HTTP/3; no subprotocol"),
        "{}",
        end.stderr
    );
    server.program.stdout.expect("5,000 messages");
}

#[test]
fn two_hear_each_other_through_a_broadcast() {
    let server = serve(&["--broadcast"]);
    let mut one = Program::start(&["connect", &server.url]);
    one.stderr.expect("connected");
    let mut two = Program::start(&["connect", &server.url]);
    two.stderr.expect("connected");
    one.write("from one\n");
    two.stdout.expect("from one\n");
    two.write("from two\n");
    one.stdout.expect("from one\nfrom two\n");
    for program in [one, two] {
        assert_eq!(program.finish().status, Some(0));
    }
}

#[tokio::test]
async fn binary_is_a_line_of_hexadecimal_and_line_breaks_stay_as_they_are() {
    let server = serve(&["--broadcast"]);
    let program = Program::start(&["connect", &server.url]);
    program.stderr.expect("connected");
    let mut socket = sockeye::connect(&server.url).await.unwrap();
    socket.send(&[0, 255, 26]).await.unwrap();
    socket.send("two\nlines").await.unwrap();
    program.stdout.expect("00ff1a\ntwo\nlines\n");
    assert_eq!(program.finish().status, Some(0));
}

mod end_of_input {
    use super::*;

    #[tokio::test]
    async fn the_peer_is_waited_for_while_it_talks() {
        let (server, url) = bind().await;
        tokio::spawn(server.serve(|mut socket| async move {
            while let Some(question) = socket.recv().await? {
                // Longer in all than the linger, and never as long in between.
                for part in 0..10 {
                    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
                    socket.send(format!("{question}: {part}")).await?;
                }
            }
            Ok(())
        }));
        let end = piped(&["--linger", "2", &url], "answer\n").await;
        assert_eq!(end.status, Some(0), "{}", end.stderr);
        assert_eq!(end.stdout.lines().count(), 10, "{}", end.stdout);
    }

    /// One message in ten parts: longer in all than a linger of two seconds, and never as long in between.
    async fn answer_slowly(mut socket: sockeye::WebSocket, part: &[u8]) -> sockeye::Result<()> {
        let mut answer = socket.send_stream(sockeye::MessageKind::Text).await?;
        for _ in 0..10 {
            tokio::time::sleep(std::time::Duration::from_millis(250)).await;
            tokio::io::AsyncWriteExt::write_all(&mut answer, part).await?;
            tokio::io::AsyncWriteExt::flush(&mut answer).await?;
        }
        answer.finish().await?;
        while socket.recv().await?.is_some() {}
        Ok(())
    }

    /// Of a message nothing is heard before it is whole.
    #[tokio::test]
    async fn a_message_that_is_coming_may_take_its_time() {
        for way in [&[][..], &["--reconnect"]] {
            let (server, url) = bind().await;
            tokio::spawn(server.serve(|mut socket| async move {
                socket.recv().await?;
                answer_slowly(socket, &[b'x'; 1000]).await
            }));
            let args = [way, &["--no-compress", "--linger", "2", &url]].concat();
            let end = piped(&args, "answer\n").await;
            assert_eq!(end.status, Some(0), "{}", end.stderr);
            assert_eq!(end.stdout.trim_end().len(), 10_000, "{}", end.stderr);
        }
    }

    /// What the connection before has carried is none of this one's.
    #[tokio::test]
    async fn a_message_that_is_coming_may_take_its_time_on_another_connection() {
        let (server, url) = bind().await;
        let is_first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        tokio::spawn(server.serve(move |mut socket| {
            let is_first = is_first.clone();
            async move {
                if is_first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                    socket.recv().await?;
                    for _ in 0..20 {
                        socket.ping(b"").await?;
                    }
                    socket.send("first").await?;
                    return Err(sockeye::Error::other("again"));
                }
                answer_slowly(socket, &[b'x'; 100]).await
            }
        }));
        let args = ["--reconnect", "--no-compress", "--linger", "2", &url];
        let end = piped(&args, "answer\n").await;
        assert_eq!(end.status, Some(0), "{}", end.stderr);
        let lines: Vec<_> = end.stdout.lines().map(str::len).collect();
        assert_eq!(lines, [5, 1000], "{}", end.stderr);
    }

    #[tokio::test]
    async fn that_the_peer_does_not_wait_for_is_a_failure() {
        for way in [&[][..], &["--reconnect"]] {
            let (server, url) = bind().await;
            tokio::spawn(server.serve(|mut socket| async move {
                socket.recv().await?;
                socket.close(CloseCode::NORMAL, "").await
            }));
            let lines = "all of these\n".repeat(1_000_000);
            let end = piped(&[way, &[&url]].concat(), &lines).await;
            assert_eq!(end.status, Some(1), "{}", end.stderr);
            let told = "before all of the input was sent";
            assert!(end.stderr.contains(told), "{}", end.stderr);
        }
    }

    /// A bug: it had failed only where a line was not even queued.
    #[cfg(target_os = "linux")]
    #[test]
    fn that_the_peer_leaves_unread_is_a_failure_though_all_of_it_was_queued() {
        let ways = [
            (&[][..], true),
            (&[], false),
            (&["--binary"], false),
            (&["-1"], false),
        ];
        for (way, is_taken) in ways {
            // How long is waited for what is not taken.
            let patience = if is_taken { "60" } else { "0.1" };
            let args = [way, &["--no-compress", "--close-timeout", patience]].concat();
            let end = closed_at_the_end_of_input(&args, is_taken);
            let status = if is_taken { 0 } else { 1 };
            assert_eq!(end.status, Some(status), "{args:?}: {}", end.stderr);
            let told = "before all of the input was sent";
            assert_eq!(end.stderr.contains(told), !is_taken, "{}", end.stderr);
        }
    }

    /// The peer takes nothing before the program has read all of its input: more than the system holds, and less than the
    /// program queues. Then it closes with 1000, and takes what was sent or does not.
    #[cfg(target_os = "linux")]
    fn closed_at_the_end_of_input(args: &[&str], is_taken: bool) -> program::End {
        let held = fs::read_to_string("/proc/sys/net/core/wmem_default").unwrap();
        let size = held.trim().parse::<usize>().unwrap() + (512 << 10);
        let directory = program::directory("connect-unread");
        let (input, path) = (directory.join("input"), directory.join("a.sock"));
        fs::write(&input, "x".repeat(size)).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sockeye"));
        command.args(["connect", "--unix-socket", path.to_str().unwrap()]);
        command.args(args).arg("ws://localhost/");
        let input = fs::File::open(&input).unwrap().into();
        let program = Program::run_with_input(&mut command, input);
        listener.set_nonblocking(true).unwrap();
        let mut peer = None;
        eventually("it connects", || {
            peer = listener.accept().ok();
            peer.is_some()
        });
        let (peer, _) = peer.unwrap();
        peer.set_read_timeout(Some(program::DEADLINE)).unwrap();
        let mut peer = BufReader::new(peer);
        accept(&mut peer);
        program.expect_read(size);
        // A line is queued whole.
        peer.fill_buf().unwrap();
        peer.get_mut().write_all(b"\x88\x02\x03\xe8").unwrap();
        if is_taken {
            while frame(&mut peer) != 8 {}
            drop(peer);
            return program.end();
        }
        program.end()
    }

    /// Answers the opening handshake of a client.
    #[cfg(target_os = "linux")]
    fn accept(peer: &mut BufReader<UnixStream>) {
        let mut accept = String::new();
        for line in peer
            .lines()
            .map(Result::unwrap)
            .take_while(|line| !line.is_empty())
        {
            if let Some(key) = line.strip_prefix("Sec-WebSocket-Key: ") {
                accept = Key::parse(key.as_bytes()).unwrap().accept().as_str().into();
            }
        }
        let answer = format!(
            "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        peer.get_mut().write_all(answer.as_bytes()).unwrap();
    }

    /// Reads a frame of a client (RFC 6455 §5.2), and gives its opcode.
    #[cfg(target_os = "linux")]
    fn frame(peer: &mut impl Read) -> u8 {
        let mut head = [0; 2];
        peer.read_exact(&mut head).unwrap();
        let mut length = [0; 8];
        let wide = match head[1] & 0x7F {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        peer.read_exact(&mut length[8 - wide..]).unwrap();
        let length = match wide {
            0 => u64::from(head[1] & 0x7F),
            _ => u64::from_be_bytes(length),
        };
        io::copy(&mut peer.take(4 + length), &mut io::sink()).unwrap();
        head[0] & 0x0F
    }

    #[tokio::test]
    async fn the_peer_may_close_first() {
        let (server, url) = bind().await;
        tokio::spawn(server.serve(|mut socket| async move {
            let question = socket.recv().await?.unwrap();
            socket.send(format!("you said {question}")).await?;
            socket.close(CloseCode::NORMAL, "that was all").await
        }));
        let end = piped(&["--linger", "1000", &url], "hello\n").await;
        assert_eq!(
            (end.status, end.stdout.as_str()),
            (Some(0), "you said hello\n")
        );
        assert!(
            end.stderr
                .contains("closed by the peer with 1000 (normal closure): that was all")
        );
    }
}

mod exit_status {
    use super::*;

    #[test]
    fn is_0_where_the_peer_closed_normally() {
        let server = serve(&[]);
        let url = format!("{}?close=1000&reason=done", server.url);
        let program = Program::start(&["connect", &url]);
        assert_eq!(program.end().status, Some(0));
    }

    #[test]
    fn is_3_where_the_peer_closed_otherwise_even_if_quiet() {
        let server = serve(&[]);
        for code in [1001, 1002, 1011, 3000, 4999] {
            let url = format!("{}?close={code}&reason=so%20long", server.url);
            let url = url.replace("ws://", "ws:\n//");
            let end = Program::start(&["connect", "--quiet", &url]).end();
            assert_eq!(end.status, Some(3));
            assert!(
                end.stderr
                    .contains(&format!("closed by the peer with {code} ")),
                "{}",
                end.stderr
            );
            assert!(end.stderr.contains("so long"), "{}", end.stderr);
            // It may stand in a log, among others. A URL may have line breaks in it.
            let whose = format!("sockeye: {}?…: ", server.url.replace("//", "\\n//"));
            assert!(end.stderr.starts_with(&whose), "{}", end.stderr);
        }
    }

    #[test]
    fn is_4_where_the_connection_was_lost() {
        let mut server = serve(&[]);
        let program = Program::start(&["connect", &server.url]);
        program.stderr.expect("connected");
        server.program.stdout.expect("open");
        server.program.kill();
        let end = program.end();
        assert_eq!(end.status, Some(4));
        assert!(end.stderr.contains("connection lost"), "{}", end.stderr);
    }

    #[test]
    fn is_4_where_the_peer_has_fallen_silent() {
        let server = serve(&[]);
        let pings = ["--ping-interval", "0.1", "--ping-timeout", "0.2"];
        let program = Program::start(&[&["connect"], &pings[..], &[&server.url]].concat());
        program.stderr.expect("connected");
        server.program.stdout.expect("open");
        server.program.signal(nix::sys::signal::Signal::SIGSTOP);
        let end = program.end();
        assert_eq!(end.status, Some(4));
        assert!(
            end.stderr.contains("nothing came from the peer"),
            "{}",
            end.stderr
        );
    }

    #[test]
    fn is_4_where_the_peer_does_not_answer_the_close() {
        let server = serve(&[]);
        let program = Program::start(&[
            "connect",
            "--linger",
            "0",
            "--close-timeout",
            "0.2",
            &server.url,
        ]);
        program.stderr.expect("connected");
        server.program.stdout.expect("open");
        server.program.signal(nix::sys::signal::Signal::SIGSTOP);
        let end = program.finish();
        assert_eq!(end.status, Some(4));
        assert!(
            end.stderr.contains("did not answer the Close in time"),
            "{}",
            end.stderr
        );
    }

    #[test]
    fn tells_of_the_signal_that_ended_it() {
        let server = serve(&[]);
        for (signal, status, code) in [(SIGINT, 130, "1000"), (SIGTERM, 143, "1001")] {
            let program = Program::start(&["connect", &server.url]);
            program.stderr.expect("connected");
            server.program.stdout.expect("open");
            program.signal(signal);
            let end = program.end();
            assert_eq!(end.status, Some(status), "{}", end.stderr);
            assert!(
                end.stderr
                    .contains(&format!("closed by this end with {code}")),
                "{}",
                end.stderr
            );
        }
    }

    /// As `timeout` and others do, who send it to the program and to its group.
    #[test]
    fn is_that_of_a_signal_that_comes_twice() {
        let server = serve(&[]);
        for signals in [[SIGTERM, SIGTERM], [SIGTERM, SIGHUP]] {
            let program = Program::start(&["connect", &server.url]);
            program.stderr.expect("connected");
            for signal in signals {
                program.signal(signal);
            }
            let end = program.end();
            assert_eq!(end.status, Some(143), "{}", end.stderr);
            let told = "closed by this end with 1001";
            assert!(end.stderr.contains(told), "{}", end.stderr);
        }
    }

    /// One signal is enough, though it takes as long as a Close may.
    #[tokio::test(flavor = "multi_thread")]
    async fn is_that_of_the_signal_where_nobody_reads_what_comes() {
        for way in [&[][..], &["--reconnect"], &["--binary"], &["--one-message"]] {
            let (server, url) = bind().await;
            let (tell, mut closed) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |mut socket| {
                let tell = tell.clone();
                async move {
                    // More than fits into a pipe.
                    socket.send("x".repeat(8 << 20)).await?;
                    while socket.recv().await?.is_some() {}
                    let _ = tell.send(socket.ended().unwrap().code());
                    Ok(())
                }
            }));
            let args = [way, &["--close-timeout", "0.3", &url]].concat();
            let mut program = tokio::task::block_in_place(|| unread(&args));
            program.signal(SIGTERM);
            assert_eq!(within(closed.recv()).await, Some(1001), "{way:?}");
            assert_eq!(program.end(), Some(143), "{way:?}");
        }
    }

    /// As under a pager: the first begins to close, and there is always a second.
    #[tokio::test(flavor = "multi_thread")]
    async fn is_that_of_the_second_signal_where_nobody_reads_the_output() {
        for way in [&[][..], &["--reconnect"]] {
            let (server, url) = bind().await;
            let (tell, mut closed) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |mut socket| {
                let tell = tell.clone();
                async move {
                    // More than fits into a pipe.
                    socket.send("x".repeat(8 << 20)).await?;
                    while socket.recv().await?.is_some() {}
                    let _ = tell.send(socket.ended().unwrap().code());
                    Ok(())
                }
            }));
            let args = [way, &[&url]].concat();
            let mut program = tokio::task::block_in_place(|| unread(&args));
            program.signal(SIGINT);
            assert_eq!(within(closed.recv()).await, Some(1000));
            tokio::time::sleep(APART).await;
            program.signal(SIGTERM);
            assert_eq!(program.end(), Some(143));
        }
    }

    /// The peer has closed, so that nothing is left to wait for.
    #[tokio::test(flavor = "multi_thread")]
    async fn is_that_of_a_signal_where_nobody_reads_the_last_of_the_output() {
        for way in [&[][..], &["--reconnect"]] {
            let (server, url) = bind().await;
            let (tell, mut closed) = mpsc::unbounded_channel();
            tokio::spawn(server.serve(move |mut socket| {
                let tell = tell.clone();
                async move {
                    // The first fits into the pipe, and the second into the program.
                    for _ in 0..2 {
                        socket.send("x".repeat(50_000)).await?;
                    }
                    socket.close(CloseCode::NORMAL, "").await?;
                    let _ = tell.send(());
                    Ok(())
                }
            }));
            let args = [way, &[&url]].concat();
            let mut program = tokio::task::block_in_place(|| unread(&args));
            within(closed.recv()).await.unwrap();
            let mut status = None;
            // The first may still meet the connection, which it closes.
            eventually("the end", || {
                program.signal(SIGTERM);
                status = program.child.try_wait().unwrap();
                status.is_some()
            });
            assert_eq!(status.unwrap().code(), Some(143));
        }
    }

    /// As with `2>&1 | less`: what was agreed waits there, and with it all else.
    #[cfg(target_os = "linux")]
    #[test]
    fn is_that_of_the_second_signal_where_nobody_reads_standard_error() {
        for way in [&[][..], &["--reconnect"]] {
            let server = serve(&[]);
            let (_unread, full) = program::full_pipe();
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sockeye"))
                .args(["connect", &server.url])
                .args(way)
                .stdin(Stdio::piped())
                .stderr(full)
                .spawn()
                .unwrap();
            server.program.stdout.expect("open");
            let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
            // It begins once every kind is caught: one that comes while its own is being set up is lost.
            eventually("it hears signals", || has_thread(pid, "signals"));
            for signal in [SIGTERM, SIGHUP] {
                nix::sys::signal::kill(pid, signal).unwrap();
                std::thread::sleep(APART);
            }
            assert_eq!(status_of(&mut child), Some(143), "{way:?}");
        }
    }

    #[cfg(target_os = "linux")]
    fn has_thread(pid: nix::unistd::Pid, name: &str) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        threads.flatten().any(|thread| {
            let its = std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
            its.trim_end() == name
        })
    }

    /// `sockeye connect`, of whose output one byte is read.
    fn unread(args: &[&str]) -> Unread {
        let mut program = Unread::start(&[&["connect"], args].concat());
        program.output.read_exact(&mut [0]).unwrap();
        program
    }

    /// A server that sends again after each pause, or without one, and receives nothing.
    async fn talking(pause: std::time::Duration) -> String {
        let (server, url) = bind().await;
        tokio::spawn(server.serve(move |mut socket| async move {
            loop {
                socket.send("again and again").await?;
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
            }
        }));
        url
    }

    /// `sockeye connect` with this input, and an output to be read or not.
    fn connecting(args: &[&str], input: Stdio) -> std::process::Child {
        std::process::Command::new(env!("CARGO_BIN_EXE_sockeye"))
            .arg("connect")
            .args(args)
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// It closes for that, and of what it could not send the peer is not at fault.
    #[tokio::test(flavor = "multi_thread")]
    async fn is_0_where_nobody_reads_the_output_any_more_and_the_peer_reads_nothing() {
        for way in [&[][..], &["--reconnect"], &["--binary"]] {
            let url = talking(std::time::Duration::from_millis(20)).await;
            let mut endless = std::process::Command::new("yes")
                .arg("x".repeat(1000))
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let args = [way, &["--quiet", "--close-timeout", "0.3", &url]].concat();
            let mut child = connecting(&args, endless.stdout.take().unwrap().into());
            let mut output = child.stdout.take().unwrap();
            // Until nothing of the input goes out any more.
            tokio::task::block_in_place(|| output.read_exact(&mut [0; 1000]).unwrap());
            drop(output);
            let status = status_of(&mut child);
            endless.kill().unwrap();
            endless.wait().unwrap();
            assert_eq!(status, Some(0), "{way:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn is_1_for_an_input_that_is_no_text_though_nobody_reads_the_output() {
        for way in [&[][..], &["--reconnect"], &["--one-message"]] {
            let url = talking(std::time::Duration::from_millis(20)).await;
            let args = [way, &["--quiet", "--close-timeout", "0.3", &url]].concat();
            let mut child = connecting(&args, Stdio::piped());
            let mut input = child.stdin.take().unwrap();
            let mut output = child.stdout.take().unwrap();
            tokio::task::block_in_place(|| output.read_exact(&mut [0; 10]).unwrap());
            std::io::Write::write_all(&mut input, b"a\xFF\n").unwrap();
            drop((input, output));
            assert_eq!(status_of(&mut child), Some(1), "{way:?}");
        }
    }

    /// As with `| head -1`, of a peer that has no time for a Close.
    #[tokio::test(flavor = "multi_thread")]
    async fn is_0_where_nobody_reads_the_output_any_more_and_the_peer_does_not_answer() {
        for way in [&[][..], &["--reconnect"], &["--binary"]] {
            let url = talking(std::time::Duration::ZERO).await;
            let args = [way, &["--quiet", "--close-timeout", "0.3", &url]].concat();
            let mut child = connecting(&args, Stdio::piped());
            let mut output = child.stdout.take().unwrap();
            tokio::task::block_in_place(|| output.read_exact(&mut [0]).unwrap());
            drop(output);
            assert_eq!(status_of(&mut child), Some(0), "{way:?}");
        }
    }

    #[test]
    fn is_0_where_nobody_reads_the_output_any_more() {
        for way in [&[][..], &["--reconnect"]] {
            let server = serve(&[]);
            let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_sockeye"))
                .args(["connect", "--quiet", &server.url])
                .args(way)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let mut input = child.stdin.take().unwrap();
            std::io::Write::write_all(&mut input, b"hello\n").unwrap();
            server.program.stdout.expect("closed by the peer with 1001");
            assert_eq!(status_of(&mut child), Some(0), "{way:?}");
        }
    }
}

/// What keeps it from connecting is told in one line that says what to do.
mod failures {
    use super::*;

    fn one_line(args: &[&str], input: impl AsRef<[u8]>) -> String {
        line_and_status(1, args, input)
    }

    /// What cannot be asked for: trying again changes nothing.
    fn misunderstood(args: &[&str]) -> String {
        line_and_status(2, args, "")
    }

    fn line_and_status(status: i32, args: &[&str], input: impl AsRef<[u8]>) -> String {
        let mut program = Program::start(&[&["connect", "--quiet"], args].concat());
        // It may not wait for its input.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            program.write(input.as_ref());
        }));
        let end = program.finish();
        assert_eq!(end.status, Some(status), "{}", end.stderr);
        assert_eq!(end.stderr.lines().count(), 1, "{}", end.stderr);
        assert!(end.stderr.starts_with("sockeye: "), "{}", end.stderr);
        end.stderr
    }

    #[test]
    fn nothing_listens_there() {
        let free = Port::new();
        let line = one_line(&[&format!("ws://{}/", free.address())], "");
        assert!(
            line.contains("refused") && line.contains("start the server"),
            "{line}"
        );
    }

    #[test]
    fn no_websockets_are_opened_over_http_2() {
        let server = serve(&[]);
        let line = one_line(&["--http2", &server.url], "");
        assert!(
            line.contains("opens no WebSockets over this version of HTTP"),
            "{line}"
        );
        assert!(line.contains("try without --http2"), "{line}");
    }

    #[test]
    fn http_3_is_within_tls_and_on_udp() {
        let server = serve(&["--http3", "--tls-self-signed"]);
        let line = one_line(&["--http3", &server.url], "");
        assert!(line.contains("UnknownIssuer; name its authority"), "{line}");
        let line = misunderstood(&["--http3", "ws://127.0.0.1:1/"]);
        assert!(line.contains("begins with wss://"), "{line}");
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let url = format!("wss://{}/", silent.local_addr().unwrap());
        let line = one_line(&["--http3", "--connect-timeout", "0.2", &url], "");
        assert!(line.contains("no answer in time"), "{line}");
    }

    /// The advice for one that does not speak HTTP/2 stood there twice, and for one that does as well.
    #[test]
    fn a_server_that_does_not_speak_http_2_is_told_from_one_that_resets_a_stream() {
        let told = "the server may not speak HTTP/2";
        let other = something_else(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n");
        let line = one_line(&["--http2", &format!("ws://{other}/")], "");
        assert_eq!(line.matches(told).count(), 1, "{line}");
        assert!(
            line.contains("; try without --http2, or check the"),
            "{line}"
        );
        let line = one_line(&["--http2", &format!("ws://{}/", resets_a_stream())], "");
        assert!(
            line.contains("refused stream") && !line.contains(told),
            "{line}"
        );
        assert!(line.ends_with("; try without --http2\n"), "{line}");
    }

    /// A server of HTTP/2 that refuses what is asked for (RFC 9113 §6.4).
    fn resets_a_stream() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 24]).unwrap();
            // That WebSockets are opened over it (RFC 8441 §3).
            stream
                .write_all(b"\0\0\x06\x04\0\0\0\0\0\0\x08\0\0\0\x01")
                .unwrap();
            let mut head = [0; 9];
            while stream.read_exact(&mut head).is_ok() {
                let length = usize::from(head[1]) << 8 | usize::from(head[2]);
                let mut payload = vec![0; length];
                stream.read_exact(&mut payload).unwrap();
                let [.., kind, flags, _, _, _, _] = head;
                match (kind, flags & 1) {
                    // HEADERS: REFUSED_STREAM.
                    (1, _) => stream
                        .write_all(b"\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07")
                        .unwrap(),
                    (4, 0) => stream.write_all(b"\0\0\0\x04\x01\0\0\0\0").unwrap(),
                    // A ping.
                    (6, 0) => {
                        stream.write_all(b"\0\0\x08\x06\x01\0\0\0\0").unwrap();
                        stream.write_all(&payload).unwrap();
                    }
                    _ => {}
                }
            }
        });
        address.to_string()
    }

    #[test]
    fn the_server_speaks_nothing_but_http_2() {
        let settings = [
            &b"\0\0\0\x04\0\0\0\0\0"[..],
            b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64",
            b"\0\0\x24\x04\0\0\0\0\0\0\x03\0\0\0\x64",
        ];
        for settings in settings {
            let url = format!("ws://{}/", something_else(settings));
            let line = one_line(&[&url], "");
            assert!(line.ends_with("try with --http2\n"), "{line}");
            let url = format!("ws://{}/", something_else(settings));
            let line = one_line(&["-L", &url], "");
            assert!(
                line.ends_with("try with --http2 in place of --location\n"),
                "{line}"
            );
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_no_such_interface() {
        let server = serve(&[]);
        for interface in ["nope0", "192.0.2.7"] {
            let line = one_line(&["--interface", interface, &server.url], "");
            let why = format!("cannot connect from {interface}: ");
            assert!(line.contains(&why), "{line}");
            assert!(line.contains("; give --interface one that"), "{line}");
        }
        for no_way in [&["--interface", "::1"][..], &["-6"]] {
            let line = one_line(&[no_way, &[&server.url]].concat(), "");
            assert!(line.contains("127.0.0.1 has no IPv6 address"), "{line}");
            assert!(line.contains("check --interface, -4 and -6"), "{line}");
        }
    }

    #[test]
    fn the_password_is_not_told() {
        // All of them are one URL (WHATWG URL, "special authority ignore slashes state").
        for slashes in ["//", "///", "/", "", "\\\\", "\t//"] {
            let server = something_else(b"no");
            let line = one_line(&[&format!("ws:{slashes}me:secret@{server}/")], "");
            assert!(line.contains(&server), "{line}");
            assert!(!line.contains("secret"), "{line}");
        }
    }

    /// What is misspelt may be a password all the same.
    #[test]
    fn what_was_not_understood_is_not_told_where_it_may_be_secret() {
        for (args, told) in [
            (&["connect", "-u", "s3cret", "ws://a"][..], "a colon"),
            (&["connect", "-us3cret", "ws://a"], "--user"),
            (
                &["connect", "-x", "a", "--proxy-user=s3cret", "ws://a"],
                "--proxy-user",
            ),
            (
                &["connect", "-H", "Authorization Bearer s3cret", "ws://a"],
                "'Accept-Language: fi'",
            ),
            (&["connect", "-b", "s3cret", "ws://a"], "a cookie is"),
            (
                &["connect", "ws://a", "ws://user:s3cret@b/"],
                "unexpected argument",
            ),
            (
                &["connect", "ws://a", "-H", "X-Token:", "s3cret"],
                "between quotes",
            ),
            (&["connect", "--quiet=s3cret", "ws://a"], "unexpected value"),
            (&["ws://user:s3cret@a/"], "unrecognized subcommand"),
        ] {
            let end = run(args, "");
            assert_eq!(end.status, Some(2), "{}", end.stderr);
            assert!(!end.stderr.contains("s3cret"), "{}", end.stderr);
            assert!(end.stderr.contains(told), "{}", end.stderr);
        }
        for (args, told) in [
            (&["connct"][..], "connct"),
            (&["serve", "8080"], "8080"),
            (&["connect", "ws://a", "--usr"], "--usr"),
            (&["connect", "ws://a", "-u"], "a value is required"),
            (
                &["connect", "ws://a", "--linger", "soon"],
                "invalid value 'soon'",
            ),
        ] {
            let end = run(args, "");
            assert_eq!(end.status, Some(2), "{}", end.stderr);
            assert!(end.stderr.contains(told), "{}", end.stderr);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_path_with_an_at_sign_is_told_whole() {
        let line = one_line(&["ws+unix:/a@none.sock:/"], "");
        assert!(line.contains("/a@none.sock"), "{line}");
        let line = one_line(&["--unix-socket", "none.sock", "ws://localhost/"], "");
        assert!(line.contains("check the path of the socket"), "{line}");
    }

    #[test]
    fn the_url_is_none() {
        assert!(misunderstood(&["ftp://localhost/"]).contains("ws://"));
        assert!(misunderstood(&["ws://localhost/#fragment"]).contains("fragment"));
    }

    #[test]
    fn a_header_belongs_to_the_handshake() {
        let line = misunderstood(&["-H", "Sec-WebSocket-Key: x", "ws://localhost/"]);
        assert!(line.contains("Sec-WebSocket-Key"), "{line}");
        for (header, flag) in [
            ("host: x", "--resolve"),
            ("Sec-WebSocket-Protocol: x", "--subprotocol"),
        ] {
            let line = misunderstood(&["-H", header, "ws://localhost/"]);
            assert!(line.contains(flag), "{line}");
        }
    }

    #[test]
    fn the_server_never_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let line = one_line(&["--handshake-timeout", "0.2", &url], "");
        assert!(line.contains("--handshake-timeout"), "{line}");
        let url = url.replace("ws:", "wss:");
        let line = one_line(&["--connect-timeout", "0.2", &url], "");
        assert!(
            line.contains("try ws://") && line.contains("--connect-timeout"),
            "{line}"
        );
    }

    #[test]
    fn the_server_declines_and_says_why() {
        let server = serve(&[]);
        let line = one_line(&[&format!("{}?close=1006", server.url)], "");
        assert!(line.contains("400") && line.contains("local use"), "{line}");
    }

    #[test]
    fn what_is_there_is_no_websocket_server() {
        let answers: [(&[u8], &str); 21] = [
            (
                b"HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p>!",
                "502 Bad instead of 101 Switching Protocols; see what it says with --verbose",
            ),
            (
                b"SSH-2.0-OpenSSH_9.9\r\n",
                "it is not HTTP; the answer begins with \"SSH-2.0-OpenSSH_9.9\"; check the port",
            ),
            (
                b"HTTP/1.1 404 Not Found\r\nno field\r\n\r\n",
                "begins with \"HTTP/1.1 404 Not Found\"; the server has to be mended",
            ),
            (
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n",
                "it does not say where else",
            ),
            (
                b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n",
                "check the path",
            ),
            (
                b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n",
                "--proxy-user",
            ),
            (b"\x15\x03\x01\0\x02\x02\x46", "try wss:// instead of ws://"),
            (b"", "ended before the HTTP head did; check the port"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                "a page, and no WebSocket: check the path",
            ),
            (
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
                "with --user",
            ),
            (
                b"HTTP/1.1 401 No\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n",
                "101 Switching Protocols; say who you are with --user",
            ),
            (
                b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=\"staff\"\r\nContent-Length: 0\r\n\r\n",
                "--header: it asks for Basic realm=\"staff\"",
            ),
            (
                b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n\r\n{\"why\": \"expired\"}",
                "it says: {\"why\": \"expired\"}; say who you are",
            ),
            (
                b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nnone\n",
                "it says: none; check the path",
            ),
            (
                b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
                "try again in 7 s",
            ),
            (
                b"HTTP/1.1 301 Moved\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n",
                "--location",
            ),
            (
                b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
                "another --origin",
            ),
            (
                b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n",
                "whether a proxy on the way passes that on",
            ),
            (
                b"HTTP/1.1 426 No\r\nSec-WebSocket-Version: 8\r\nContent-Length: 0\r\n\r\n",
                "WebSocket version 8",
            ),
            (
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
                "the server behind it may be down",
            ),
            (
                b"HTTP/1.1 101 Yes\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
                "the answer breaks a rule of the opening handshake: the header Upgrade must say websocket; the server",
            ),
        ];
        for (answer, told) in answers {
            let url = format!("ws://{}/", something_else(answer));
            let line = one_line(&[&url], "");
            assert!(line.contains(told), "{line}");
            assert!(line.starts_with(&format!("sockeye: {url}: ")), "{line}");
        }
        // A bug: what a server wants was told whole, however long.
        let long = format!(
            "HTTP/1.1 401 No\r\nWWW-Authenticate: {}\r\nContent-Length: 0\r\n\r\n",
            "Basic ".repeat(1000)
        );
        let url = format!("ws://{}/", something_else(long.leak().as_bytes()));
        let line = one_line(&[&url], "");
        assert!(
            line.contains("asks for Basic") && line.len() < 600,
            "{line}"
        );
        let long = format!(
            "HTTP/1.1 403 No\r\nContent-Type: text/plain\r\n\r\n{}",
            "no ".repeat(700)
        );
        let url = format!("ws://{}/", something_else(long.leak().as_bytes()));
        let line = one_line(&[&url], "");
        assert!(line.contains("no n …; it may want"), "{line}");
        let long = format!(
            "HTTP/1.1 403 No\r\nContent-Type: text/plain\r\n\r\n-{}",
            "ей".repeat(700)
        );
        let url = format!("ws://{}/", something_else(long.leak().as_bytes()));
        let line = one_line(&[&url], "");
        assert!(line.contains("йе …; it may want"), "{line}");
        // A bug: one of which the end did not come looked whole.
        let short = b"HTTP/1.1 403 No\r\nContent-Length: 1000\r\n\r\nyour token has";
        let url = format!("ws://{}/", something_else(short));
        let line = one_line(&[&url], "");
        assert!(
            line.contains("it says: your token has …; it may want"),
            "{line}"
        );
        // A bug: it was to be seen with --verbose.
        let compressed =
            b"HTTP/1.1 403 No\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\0";
        for flag in ["--quiet", "--verbose"] {
            let url = format!("ws://{}/", something_else(compressed));
            let end = run(&["connect", flag, &url], "");
            let told = "; what it says is compressed; it may want";
            assert!(end.stderr.contains(told), "{}", end.stderr);
        }
        let line = one_line(&[&format!("wss://{}/", something_else(b""))], "");
        assert!(line.contains("try ws:// instead of wss://"), "{line}");
        let line = one_line(&["ws+unix:/none.sock:/"], "");
        assert!(
            line.contains("/none.sock") && line.contains("check the path"),
            "{line}"
        );
    }

    #[test]
    fn the_server_resets_the_connection() {
        let line = one_line(&[&format!("ws://{}/", resets())], "");
        assert!(line.contains("hung up before it answered"), "{line}");
    }

    /// A bug: there was no advice, as there is where it ends the connection.
    #[test]
    fn the_server_or_the_proxy_resets_the_connection_during_tls() {
        let line = one_line(&[&format!("wss://{}/", resets())], "");
        assert!(line.contains("reset"), "{line}");
        assert!(line.contains("try ws:// instead of wss://"), "{line}");
        let proxy = format!("https://{}/", resets());
        let line = one_line(&["-x", &proxy, "ws://a.invalid/"], "");
        assert!(line.contains("try http:// in the proxy's URL"), "{line}");
    }

    /// Its socket has unread bytes when it is closed, so that the system resets the connection.
    fn resets() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.peek(&mut [0]).unwrap();
        });
        address.to_string()
    }

    #[test]
    fn verbose_shows_the_answer_of_a_server_that_declines_and_of_one_that_agrees() {
        let page =
            something_else(b"HTTP/1.1 403 Go Away\r\nContent-Length: 12\r\n\r\n<p>\nno\x1b[31m\n");
        let end = run(&["connect", "--verbose", &format!("ws://{page}/")], "");
        assert_eq!(end.status, Some(1), "{}", end.stderr);
        let shown = "\n< 403 go away\n< content-length: 12\n  <p>\n  no\\u{1b}[31m\n";
        assert!(end.stderr.to_lowercase().contains(shown), "{}", end.stderr);

        let server = serve(&[]);
        let end = run(&["connect", "-qv", "--linger", "0", &server.url], "");
        assert!(
            end.stderr.contains("\n< 101 Switching Protocols\n"),
            "{}",
            end.stderr
        );
        assert!(
            end.stderr.contains("< Sec-WebSocket-Accept: "),
            "{}",
            end.stderr
        );
    }

    #[test]
    fn verbose_shows_the_request_without_its_secrets() {
        let page = something_else(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n");
        let url = format!("ws://name:password1@{page}/path?query");
        let secrets = ["-b", "a=password2", "-H", "proxy-authorization: password3"];
        let mut args = vec![
            "connect",
            "--verbose",
            "-s",
            "chat",
            "-H",
            "X-Mine: \u{202e}",
        ];
        args.extend(secrets);
        args.push(&url);
        let end = run(&args, "");
        let (request, answer) = end.stderr.split_once("\n< 403 No\n").unwrap();
        assert!(
            request.starts_with(&format!("> GET /path?query HTTP/1.1\n> Host: {page}\n")),
            "{request}"
        );
        for line in [
            "> Sec-WebSocket-Protocol: chat",
            "> X-Mine: \\u{202e}",
            "> proxy-authorization: <hidden>",
            "> Cookie: <hidden>",
            "> Authorization: <hidden>",
        ] {
            assert!(request.lines().any(|shown| shown == line), "{request}");
        }
        assert!(
            !request.contains("password") && !answer.contains("password"),
            "{}",
            end.stderr
        );
        assert!(!request.contains("bmFtZTpwYXNzd29yZDE"), "{request}");
    }

    #[test]
    fn verbose_shows_the_request_that_nobody_answers() {
        let url = format!("ws://{}/", something_else(b""));
        let end = run(&["connect", "-v", &url], "");
        assert!(
            end.stderr.starts_with("> GET / HTTP/1.1\n"),
            "{}",
            end.stderr
        );
        assert!(!end.stderr.contains("\n< "), "{}", end.stderr);
    }

    #[test]
    fn verbose_does_not_point_to_itself() {
        let page = something_else(
            b"HTTP/1.1 500 No\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<p>!",
        );
        let end = run(&["connect", "--verbose", &format!("ws://{page}/")], "");
        assert!(
            end.stderr.contains("what it says is above") && !end.stderr.contains("--verbose"),
            "{}",
            end.stderr
        );
    }

    #[test]
    fn the_certificate_or_the_key_is_in_neither_file() {
        let [_, certificate, key] = certificates("connect-identity");
        let line = one_line(&["--cert", &certificate, "wss://localhost/"], "");
        assert!(line.contains(&certificate), "{line}");
        assert!(line.contains("with --key"), "{line}");
        let swapped = ["--cert", &key, "--key", &certificate, "wss://localhost/"];
        let line = one_line(&swapped, "");
        assert!(
            line.contains(&format!("{key} and {certificate}: ")),
            "{line}"
        );
    }

    #[test]
    fn a_file_of_authorities_is_not_there() {
        let line = one_line(&["--ca", "/none.pem", "wss://localhost/"], "");
        assert!(line.contains("/none.pem"), "{line}");
    }

    #[test]
    fn a_line_is_not_text() {
        let server = serve(&[]);
        let line = one_line(&["--linger", "0", &server.url], b"fine\nnot \xFF fine\n");
        assert!(line.contains("line 2") && line.contains("UTF-8"), "{line}");
        server.program.stdout.expect("closed by the peer with 1000");
    }

    #[test]
    fn a_line_is_longer_than_a_message_may_be() {
        let server = serve(&["--max-message", "100M"]);
        let line = one_line(&["--linger", "0", &server.url], vec![b'x'; 65 << 20]);
        assert!(
            line.contains("line 1 ") && line.contains("--one-message"),
            "{line}"
        );
    }

    #[test]
    fn the_authority_is_unknown() {
        let [_, certificate, key] = certificates("connect-unknown");
        let server = serve(&["--tls-cert", &certificate, "--tls-key", &key]);
        let line = one_line(&[&server.url], "");
        assert!(line.contains("certificate"), "{line}");
        assert!(
            line.contains("--cacert FILE") && line.contains("--insecure"),
            "{line}"
        );
        let [another, ..] = certificates("connect-another");
        let line = one_line(&["--cacert", &another, &server.url], "");
        assert!(
            line.contains(&another) && line.contains("--insecure"),
            "{line}"
        );
        assert!(!line.contains("--cacert FILE"), "{line}");
    }

    #[test]
    fn the_certificate_is_not_for_that_server_or_not_for_now() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

        type Set = fn(&mut CertificateParams);
        let faults: [(&str, Set, &str); 4] = [
            ("name", |_| {}, "connect by a name that the certificate has"),
            (
                "authority",
                |made| made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
                "the certificate of an authority",
            ),
            (
                "past",
                |made| made.not_after = date_time_ymd(2001, 1, 1),
                "the clock of this machine",
            ),
            (
                "future",
                |made| made.not_before = date_time_ymd(4000, 1, 1),
                "the clock of this machine",
            ),
        ];
        for (name, set, told) in faults {
            let key = KeyPair::generate().unwrap();
            let names = match name {
                "name" => "other.example".into(),
                _ => "127.0.0.1".into(),
            };
            let mut made = CertificateParams::new([names]).unwrap();
            set(&mut made);
            let directory = program::directory(&format!("connect-fault-{name}"));
            let [cert, key] = [
                ("cert.pem", made.self_signed(&key).unwrap().pem()),
                ("key.pem", key.serialize_pem()),
            ]
            .map(|(file, pem)| {
                let path = directory.join(file);
                std::fs::write(&path, pem).unwrap();
                path.to_str().unwrap().to_owned()
            });
            let server = serve(&["--tls-cert", &cert, "--tls-key", &key]);
            let line = one_line(&["--cacert", &cert, &server.url], "");
            assert!(line.contains(told), "{line}");
            assert!(line.contains("--insecure"), "{line}");
        }
    }

    #[test]
    fn the_server_does_not_speak_tls() {
        let server = serve(&[]);
        let line = one_line(&[&server.url.replace("ws:", "wss:")], "");
        assert!(line.contains("ws://"), "{line}");
    }
}

#[test]
fn tls_with_an_authority_of_ones_own_and_without_any() {
    let [ca, certificate, key] = certificates("connect-tls");
    let server = serve(&["--tls-cert", &certificate, "--tls-key", &key]);
    for (args, told) in [
        (&["--ca", &ca][..], "by "),
        (&["--insecure"], "NOT checked"),
    ] {
        // As it may come of a variable or a page.
        let url = &format!(" {}", server.url);
        let args = [&["connect", "--linger", "0"], args, &[url]].concat();
        let end = run(&args, "за закрытой дверью\n");
        assert_eq!(end.status, Some(0), "{}", end.stderr);
        assert_eq!(end.stdout, "за закрытой дверью\n");
        assert!(end.stderr.contains("TLS, with a certificate") && end.stderr.contains(told));
    }
}

/// More than a program takes by default.
#[tokio::test]
async fn an_answer_may_have_a_great_many_headers() {
    let (server, url) = bind().await;
    let acceptor = sockeye::Acceptor::new().on_request(|_| {
        let header = |answer: sockeye::server::Answer, number| {
            answer.header(format!("X-{number}"), "x".repeat(200))
        };
        ready(Ok((0..500).fold(sockeye::server::Answer::new(), header)))
    });
    tokio::spawn(server.acceptor(acceptor).serve(async |_| Ok(())));
    let end = piped(&["--verbose", "--linger", "0", &url], "").await;
    assert_eq!(end.status, Some(0), "{}", end.stderr);
    assert!(end.stderr.contains("< X-499: xxx"), "{}", end.stderr);
}

#[tokio::test]
async fn headers_origin_and_subprotocols_reach_the_server() {
    let (requests, mut seen) = mpsc::unbounded_channel::<Request>();
    let (server, url) = bind().await;
    let acceptor = sockeye::Acceptor::new().origins(sockeye::server::Origins::any());
    let acceptor = acceptor.on_request(move |request| {
        requests.send(Request::clone(&request)).unwrap();
        ready(Ok(sockeye::server::Answer::new()))
    });
    tokio::spawn(server.acceptor(acceptor).serve(async |_| Ok(())));
    let args = [
        "-H",
        "X-Fish: нерка",
        "--header",
        "Authorization:Bearer abc",
        "--origin",
        "https://example.com",
        "-s",
        "a",
        "--subprotocol",
        "b",
        "--no-compress",
        "--linger",
        "0",
        &url,
    ];
    assert_eq!(piped(&args, "").await.status, Some(0));
    let request = within(seen.recv()).await.unwrap();
    let header = |name| request.headers().first_str(name);
    assert_eq!(header("X-Fish"), Some("нерка"));
    assert_eq!(header("Authorization"), Some("Bearer abc"));
    assert_eq!(header("Origin"), Some("https://example.com"));
    assert_eq!(header("Sec-WebSocket-Protocol"), Some("a, b"));
    assert_eq!(header("Sec-WebSocket-Extensions"), None);
}

async fn bind() -> (Server, String) {
    let server = Server::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/", server.local_addr().unwrap());
    (server, url)
}

/// Runs `sockeye connect`, while the server of this test goes on.
async fn piped(args: &[&str], input: &str) -> program::End {
    let args: Vec<String> = ["connect"]
        .iter()
        .chain(args)
        .map(|arg| (*arg).into())
        .collect();
    let input = input.to_owned();
    tokio::task::spawn_blocking(move || {
        run(&args.iter().map(String::as_str).collect::<Vec<_>>(), &input)
    })
    .await
    .unwrap()
}

/// As with `2>&1 | head`, whose end nobody is to notice, and on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn standard_error_that_takes_nothing_ends_no_connection() {
    let server = serve(&[]);
    let mut command = std::process::Command::new("sh");
    let shell = "exec \"$0\" \"$@\" 2>/dev/full";
    command.args(["-c", shell, env!("CARGO_BIN_EXE_sockeye")]);
    command.args(["connect", "--verbose", "--linger", "0", &server.url]);
    let mut program = Program::run_as(&mut command);
    program.write("hello\n");
    let end = program.finish();
    assert_eq!((end.status, &*end.stdout), (Some(0), "hello\n"));
}

#[test]
fn a_message_that_is_too_large_is_told_with_what_permits_it() {
    let server = serve(&[]);
    let args = ["connect", "--max-message", "1K", &server.url];
    let end = run(&args, &"x".repeat(2000));
    assert_eq!(end.status, Some(4), "{}", end.stderr);
    assert!(
        end.stderr.contains("limit of 1024 bytes")
            && end.stderr.contains("; allow more with --max-message"),
        "{}",
        end.stderr
    );
}
